"""
One request with log records: how they are encoded and sent, and what the answer means.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord

from .target import Target

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024
"""What PostHog takes at once, uncompressed."""

SLICE_RECORDS: Final = 16
"""How many records are encoded in one go, some milliseconds in which no request can run."""

SLICE_PAUSE_S: Final = 0.001
"""How long to let requests run after that: a request that is ready takes its turn at once."""

MAX_ANSWER_BYTES: Final = 512
"""How much of an answer's body is read: a word, or how many records it did not take."""

ANSWER_S: Final = 1.0
"""How long to read it."""

MAX_RETRY_AFTER_S: Final = 900.0
"""The longest pause that an endpoint may ask for: what PostHog asks for over quota."""

TEXT_CHARS: Final = (2**19, 2**17, 2**15, 2**13, 2**10)
"""To how many characters each text of a record is cut, in turn, until it is small enough."""

ITEM_CHARS: Final = 16
"""What an item of a list or a mapping counts for, besides its own text."""

ADVICE: Final = {
    **dict.fromkeys((301, 302, 307, 308), "is it the final address?"),
    **dict.fromkeys((401, 403), "is the token right? PostHog takes the project token, phc_..."),
    404: "is the path right?",
}

UNWANTED: Final = frozenset({400, 415, 422})
"""Answers that tell that the very same request will never be taken."""

_here = threading.local()


def is_sending() -> bool:
    """
    Tell whether this thread is sending log records right now.
    """
    return getattr(_here, "sending", False)


class TooLargeError(Exception):
    """
    A batch is larger than the endpoint takes.
    """

    def __init__(self, size: int, *, answered: bool) -> None:
        super().__init__(size)
        self.size = size
        self.answered = answered


class UnwantedError(Exception):
    """
    A batch will never be taken.
    """


class UnavailableError(Exception):
    """
    A batch was not taken this time.
    """

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Connection:
    """
    The connection to an endpoint, for one thread to send on.

    Args:
        target: Where to send to.
        pause: Called with a number of seconds, to let other threads run for as long.
    """

    def __init__(self, target: Target, pause: Callable[[float], object]) -> None:
        self._target = target
        self._pause = pause
        self._session: requests.Session | None = None
        parts = urlsplit(target.url)
        # By an `auth` of our own, or else ~/.netrc would replace the token.
        self._auth = None if parts.username else _as_it_is
        # No proxy can reach what listens on this machine alone.
        host = parts.hostname or ""
        self._proxies = {"no_proxy": host} if _is_loopback(host) else None

    def post(self, batch: Sequence[ReadableLogRecord], deadline: float) -> int:
        """
        Send a batch once.

        Args:
            batch: The records.
            deadline: When there must be an answer, by `time.monotonic()`.

        Returns:
            How many of the records the endpoint tells that it did not take.

        Raises:
            TooLargeError: If the batch is larger than the endpoint takes.
            UnwantedError: If the batch will never be taken.
            UnavailableError: If the batch was not taken this time.
        """
        try:
            data = self._encoded(batch)
        except Exception as exc:
            msg = f"it cannot be encoded ({type(exc).__name__})"
            raise UnwantedError(msg) from exc
        if len(data) > MAX_REQUEST_BYTES:
            raise TooLargeError(len(data), answered=False)

        status, headers, body = self._exchange(data, deadline)
        if 200 <= status < 300:
            return _rejected(headers, body)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLargeError(len(data), answered=True)
        # Not the server's own words, which may hold anything, the token too.
        answer = f"it answers {status}"
        with contextlib.suppress(ValueError):
            answer += f" {HTTPStatus(status).phrase}"
        if status in UNWANTED:
            raise UnwantedError(answer)
        if status in ADVICE:
            answer += f" ({ADVICE[status]})"
        raise UnavailableError(answer, _retry_after(headers.get("retry-after")))

    def _encoded(self, batch: Sequence[ReadableLogRecord]) -> bytes:
        """
        Return a batch as it is sent, and let requests run in between.
        """
        parts = []
        for start in range(0, len(batch), SLICE_RECORDS):
            if start:
                self._pause(SLICE_PAUSE_S)
            parts.append(encode_logs(batch[start : start + SLICE_RECORDS]).SerializeToString())
        # Messages of one kind, one after the other, are one message with the items of all.
        return b"".join(parts)

    def _exchange(self, data: bytes, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """
        Send *data*; return the answer's status and headers, and what there is of its body.
        """
        target = self._target
        headers = {"content-type": "application/x-protobuf", **target.headers}
        if target.compress:
            headers["content-encoding"] = "gzip"
            data = gzip.compress(data, compresslevel=5)
        if self._session is None:
            self._session = requests.Session()
        # What instruments HTTP clients is to see none of it, and what they log is not sent.
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        _here.sending = True
        try:
            with self._session.post(
                target.url,
                data=data,
                headers=headers,
                timeout=min(target.timeout_s, max(deadline - time.monotonic(), 0.1)),
                allow_redirects=False,
                stream=True,
                auth=self._auth,
                proxies=self._proxies,
                verify=target.verify,
                cert=target.cert,
            ) as response:
                return response.status_code, response.headers, _body(response)
        except (requests.RequestException, OSError) as exc:
            raise UnavailableError(_why(exc)) from exc
        finally:
            _here.sending = False
            detach(token)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _body(response: requests.Response) -> bytes:
    """
    Return the beginning of an answer's body. A short one is read whole: then the
    connection can be used again.

    What was answered counts, whatever becomes of its body.
    """
    body = b""
    deadline = time.monotonic() + ANSWER_S
    with contextlib.suppress(Exception):
        raw: Any = response.raw
        raw.connection.sock.settimeout(ANSWER_S)
        while len(body) < MAX_ANSWER_BYTES and time.monotonic() < deadline:
            # More at once could take as long as single bytes come.
            byte = response.raw.read(1)
            if not byte:
                break
            body += byte
    return body


def _rejected(headers: Mapping[str, str], body: bytes) -> int:
    """
    Return how many records an endpoint did not take of those that it thanks for.
    """
    if body and headers.get("content-type", "").startswith("application/x-protobuf"):
        with contextlib.suppress(Exception):
            partial = ExportLogsServiceResponse.FromString(body).partial_success
            return max(int(partial.rejected_log_records), 0)
    return 0


def _retry_after(text: str | None) -> float | None:
    if text is None or not text.strip().isdecimal():
        return None
    return min(float(text), MAX_RETRY_AFTER_S)


def _why(exc: BaseException) -> str:
    """
    Return why a request failed, in words that hold nothing of the request.
    """
    if isinstance(exc, requests.Timeout):
        return "it takes too long to answer"
    if isinstance(exc, requests.exceptions.ProxyError):
        return "the proxy that HTTP_PROXY or HTTPS_PROXY names does not let it through"
    if isinstance(exc, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return f"it gives no answer ({type(exc).__name__})"


def shortened(record: ReadableLogRecord, max_bytes: int) -> ReadableLogRecord | None:
    """
    Return a record with its texts cut, so that it has at most *max_bytes*, if that works.
    """
    for chars in TEXT_CHARS:
        short = copy.copy(record.log_record)
        short.body = _shorten(short.body, chars)
        short.attributes = _shorten(dict(short.attributes or {}), chars)
        candidate = ReadableLogRecord(
            log_record=short,
            resource=record.resource,
            instrumentation_scope=record.instrumentation_scope,
            limits=record.limits,
        )
        if len(encode_logs([candidate]).SerializeToString()) <= max_bytes:
            return candidate
    return None


def _shorten(value: Any, chars: int) -> Any:
    if isinstance(value, (str, bytes)):
        if len(value) <= chars:
            return value
        # Both ends: a traceback tells most at its end.
        note = f" [... {len(value) - chars:,} cut ...] "
        head, tail = value[: chars // 2], value[-(chars // 2) :]
        if isinstance(head, bytes):
            return head + note.encode() + tail  # type: ignore[operator]
        return head + note + tail  # type: ignore[operator]
    items = max(chars // ITEM_CHARS, 1)
    if isinstance(value, Mapping):
        return {key: _shorten(value[key], chars) for key in islice(value, items)}
    if isinstance(value, Sequence):
        return [_shorten(item, chars) for item in value[:items]]
    return value
