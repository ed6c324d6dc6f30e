"""
The way of log records to an OTLP endpoint: where it is, and a queue with a thread.

OpenTelemetry's own exporter gives a batch up once it is refused (401, 413), told to
come back later than in 10 seconds (PostHog's 429), or failed for as long, and its batch
processor takes up to 30 seconds to end. Here a batch stays until it is delivered, and
what comes meanwhile waits in the queue. Only its encoder is used.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import gzip
import math
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakMethod

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.util.re import parse_env_headers

DEFAULT_HOST: Final = "https://us.i.posthog.com"

POSTHOG_PATH: Final = "/i/v1/logs"

OTLP_PATH: Final = "/v1/logs"

DEFAULT_TIMEOUT_S: Final = 10.0
"""How long a request may take, as in OpenTelemetry."""

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024
"""What PostHog takes at once, uncompressed."""

BATCH_RECORDS: Final = 512

SLICE_RECORDS: Final = 16
"""How many records are encoded in one go, some milliseconds in which no request can run."""

SLICE_PAUSE_S: Final = 0.001
"""How long to let requests run after that: a request that is ready takes its turn at once."""

DELAY_S: Final = 0.5
"""How long records may wait for others to go with them: a line is to be seen at once."""

SHUTDOWN_S: Final = 4.0
"""How long the end of a process may be held up."""

MAX_PAUSE_S: Final = 30.0
"""The longest pause between two tries, if the endpoint names none."""

MAX_RETRY_AFTER_S: Final = 900.0
"""The longest pause that an endpoint may ask for: what PostHog asks for over quota."""

MAX_TRIES: Final = 30
"""After this many tries, about a quarter of an hour, a batch must not block all others."""

SAY_AGAIN_S: Final = 60.0
"""How long to keep quiet on stderr about what has been said."""

TEXT_CHARS: Final = (2**19, 2**17, 2**15, 2**13, 2**10)
"""To how many characters each text of a record is cut, in turn, until it is small enough."""

ITEM_CHARS: Final = 16
"""What an item of a list or a mapping counts for, besides its own text."""

SMALL_BYTES: Final = 64 * 1024
"""A single record of this size is not what is too large for an endpoint."""

ADVICE: Final = {
    401: "is it the project token (phc_...)?",
    403: "is it the project token (phc_...)?",
    404: "is it the whole address, with its path?",
}

UNWANTED: Final = frozenset({400, 415, 422})
"""Answers that tell that the very same request will never be taken."""

_here = threading.local()


def is_sending() -> bool:
    """
    Tell whether this thread is sending log records right now.
    """
    return getattr(_here, "sending", False)


@dataclass(frozen=True, kw_only=True)
class Target:
    """
    Where to send to, and how.

    Args:
        url: The whole address.
        headers: Headers of each request.
        timeout_s: How long a request may take, in seconds.
        compress: Whether to send gzip.
        verify: Whether to verify the certificate, or the file with those to trust.
        cert: The client's certificate, if any, and its key.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    compress: bool = False
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None

    @property
    def shown(self) -> str:
        """
        The address without what may be secret in it.
        """
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def find_target(
    endpoint: str | None, token: str | None, host: str | None, environ: Mapping[str, str]
) -> Target | None:
    """
    Return where to send to: by the arguments, or else by the environment, if by any.

    Raises:
        TypeError: If an argument is not a string.
        ValueError: If they do not go together, or one of them has a wrong value.
    """
    for name, value in (("endpoint", endpoint), ("host", host)):
        if value is not None:
            _check_address(name, value)
    if token is not None:
        token = _checked_token("token", token)
    if endpoint is not None and host is not None:
        msg = f"endpoint={endpoint!r}, host={host!r}: give one of them; host is PostHog's"
        raise ValueError(msg)

    if endpoint is not None:
        target = _standard_target(_with_path(endpoint, OTLP_PATH), environ)
        if token is None:
            return target
        return _replace_headers(target, {**target.headers, **_bearer(token)})

    if token is None:
        found = environ.get("POSTHOG_PROJECT_TOKEN", "").strip()
        if found:
            token = _checked_token("POSTHOG_PROJECT_TOKEN", found)
    if token is not None:
        if host is None:
            host = environ.get("POSTHOG_HOST", "").strip() or DEFAULT_HOST
            _check_address("POSTHOG_HOST", host)
        # Nothing of OTEL_EXPORTER_OTLP_*: those headers are another receiver's.
        return Target(url=_posthog_url(host), headers=_bearer(token), compress=True)
    if host is not None:
        msg = f"host={host!r}: PostHog needs token=... or POSTHOG_PROJECT_TOKEN too"
        raise ValueError(msg)
    return _target_of_environment(environ)


def _target_of_environment(environ: Mapping[str, str]) -> Target | None:
    if environ.get("OTEL_LOGS_EXPORTER", "").strip().lower() == "none":
        return None
    url = environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "").strip()
    if url:
        _check_address("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", url)
    else:
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        if not base:
            return None
        _check_address("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        url = base.rstrip("/") + OTLP_PATH
    protocol = _setting(environ, "PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        msg = (
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: logs go out as http/protobuf; set "
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL and OTEL_EXPORTER_OTLP_LOGS_ENDPOINT to that"
        )
        raise ValueError(msg)
    return _standard_target(url, environ)


def _standard_target(url: str, environ: Mapping[str, str]) -> Target:
    timeout = _setting(environ, "TIMEOUT")
    try:
        timeout_s = float(timeout or DEFAULT_TIMEOUT_S)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s < math.inf:
        msg = f"OTEL_EXPORTER_OTLP_TIMEOUT is {timeout!r}: must be a number of seconds above 0"
        raise ValueError(msg)
    certificate = _setting(environ, "CLIENT_CERTIFICATE")
    key = _setting(environ, "CLIENT_KEY")
    return Target(
        url=url,
        headers=parse_env_headers(_setting(environ, "HEADERS"), liberal=True),
        timeout_s=timeout_s,
        compress=_setting(environ, "COMPRESSION").lower() == "gzip",
        verify=_setting(environ, "CERTIFICATE") or True,
        cert=(certificate, key) if certificate and key else certificate or None,
    )


def _setting(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or environ.get(
        f"OTEL_EXPORTER_OTLP_{name}", ""
    )
    return value.strip()


def _check_address(name: str, value: object) -> None:
    example = "https://us.i.posthog.com" if "host" in name.lower() else "http://localhost:4318"
    if not isinstance(value, str):
        msg = f"{name}={value!r}: must be a str such as {example!r}"
        raise TypeError(msg)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        msg = f"{name}={value!r}: must be an http:// or https:// address such as {example!r}"
        raise ValueError(msg)


def _checked_token(name: str, token: object) -> str:
    # No message shows the token.
    if not isinstance(token, str):
        msg = f"{name} is a {type(token).__name__}: must be a str, the project token (phc_...)"
        raise TypeError(msg)
    if not token:
        msg = f"{name} is empty: must be the project token (phc_...), or None"
        raise ValueError(msg)
    if token.startswith("phx_"):
        msg = f"{name} is a personal API key (phx_...): must be the project token (phc_...)"
        raise ValueError(msg)
    if not token.isascii() or not token.isprintable() or " " in token:
        msg = f"{name} has white space or characters in it that no token has"
        raise ValueError(msg)
    return token


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _replace_headers(target: Target, headers: Mapping[str, str]) -> Target:
    return Target(**{**vars(target), "headers": headers})


def _with_path(url: str, path: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=path)) if parts.path in ("", "/") else url


def _posthog_url(host: str) -> str:
    parts = urlsplit(host)
    netloc = parts.netloc
    # The addresses of the pages: what people have at hand.
    if netloc in ("us.posthog.com", "eu.posthog.com"):
        netloc = netloc.replace(".", ".i.", 1)
    elif netloc == "app.posthog.com":
        netloc = "us.i.posthog.com"
    path = parts.path.rstrip("/").removesuffix(POSTHOG_PATH) + POSTHOG_PATH
    return urlunsplit((parts.scheme, netloc, path, "", ""))


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


class Sender(LogRecordProcessor):
    """
    Sends log records in batches, from a thread that starts with the first of them.

    A forked process starts anew: with an empty queue, for what is in it is the parent's
    to send, and with a thread and a connection of its own.

    Args:
        target: Where to send to.
        max_queue_records: How many records may wait. Then the oldest are dropped.
    """

    def __init__(self, target: Target, max_queue_records: int) -> None:
        self._target = target
        self._max_queue_records = max_queue_records
        # By an `auth` of our own, or else ~/.netrc would replace the token.
        self._auth = None if urlsplit(target.url).username else _as_it_is
        self._closed = False
        self._start_over()
        if hasattr(os, "register_at_fork"):
            method = WeakMethod(self._start_over)

            def start_over() -> None:
                here = method()
                if here is not None:
                    here()

            os.register_at_fork(after_in_child=start_over)
        atexit.register(self.shutdown)

    def _start_over(self) -> None:
        self._queue: deque[ReadableLogRecord] = deque(maxlen=self._max_queue_records)
        self._in_hand = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._session: requests.Session | None = None
        self._deadline = math.inf
        self._lost = 0
        self._failing = False
        self._told = False
        self._said: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """
        How many records are not delivered yet.
        """
        return len(self._queue) + self._in_hand

    # --- in the threads that log -----------------------------------------------------

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if self._closed:
            return
        # The context may hold much, and is of no use any more. The record is others' too:
        # this is copy.copy(), at a quarter of its cost.
        record = object.__new__(type(log_record.log_record))
        vars(record).update(vars(log_record.log_record), context=NO_CONTEXT)
        queue = self._queue
        if len(queue) >= self._max_queue_records:
            self._lost += 1
        queue.append(
            ReadableLogRecord(
                log_record=record,
                resource=log_record.resource,  # type: ignore[arg-type] # the SDK sets it
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )
        if self._thread is None:
            self._start()
        if len(queue) >= BATCH_RECORDS and not self._wake.is_set():
            self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closed:
                return
            thread = threading.Thread(target=self._run, name="replaylink-otlp", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending: close() sends then
                return
            self._thread = thread
        # A process that multiprocessing has forked, such as a worker of granian, ends without
        # atexit; before it does, these are called.
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(self, self.shutdown, exitpriority=100)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.flush(timeout_millis / 1000)

    def flush(self, timeout_s: float) -> bool:
        """
        Send what waits; tell whether all of it was dealt with in time.
        """
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        while self.waiting:
            if self._thread is None or time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    def shutdown(self) -> None:
        self.close(SHUTDOWN_S)

    def close(self, timeout_s: float) -> bool:
        """
        Send what waits, and end; tell whether all of it was dealt with in time.
        """
        with self._lock:
            if self._closed:
                return True
            self._closed = True
            thread = self._thread
        atexit.unregister(self.shutdown)
        self._deadline = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        if thread is not None:
            thread.join(timeout_s)
        elif self._queue:
            self._send_all()
        left = self.waiting
        if left:
            self._say("end", f"{_logs(left)} did not reach {self._target.shown} before the end")
        return not left

    # --- in the thread that sends ----------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(DELAY_S)
            self._wake.clear()
            self._hurry.clear()
            if self._closed:
                break
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        queue = self._queue
        # What comes meanwhile waits for others again, or else batches of a few would follow.
        left = len(queue)
        while queue and (left > 0 or len(queue) >= BATCH_RECORDS):
            batch: list[ReadableLogRecord] = []
            while queue and len(batch) < BATCH_RECORDS:
                # Counted before it is taken: it is never nowhere.
                self._in_hand += 1
                try:
                    batch.append(queue.popleft())
                except IndexError:
                    self._in_hand -= 1
            left -= len(batch)
            try:
                delivered = self._deliver(batch)
            except Exception as exc:
                self._leave_out(len(batch), f"{type(exc).__name__} in sending")
                delivered = True
            if not delivered:
                return
            self._in_hand = 0
            if self._lost and not self._failing:
                lost, self._lost = self._lost, 0
                self._say("lost", f"the queue was full: {_logs(lost)} dropped, the oldest ones")

    def _deliver(self, batch: list[ReadableLogRecord]) -> bool:
        """
        Send a batch, in parts if need be; return False if the process ended before.
        """
        parts = [batch]
        tries = 0
        while parts:
            part = parts[0]
            try:
                self._post(part)
            except TooLargeError as exc:
                smaller = self._smaller(part, exc)
                if smaller is not None:
                    parts[:1] = smaller
                    continue
                error = UnavailableError("it answers 413 Content Too Large")
            except UnwantedError as exc:
                # It may be about one record: the others shall not go with it.
                if len(part) > 1:
                    parts[:1] = _halves(part)
                    continue
                self._leave_out(1, str(exc))
                del parts[0]
                continue
            except UnavailableError as exc:
                error = exc
            else:
                del parts[0]
                tries = 0
                self._in_hand -= len(part)
                self._succeeded()
                continue

            tries += 1
            self._failed(error)
            if self._closed:
                return False
            if tries >= MAX_TRIES:
                self._leave_out(len(part), f"tried {tries} times, {error}")
                del parts[0]
                tries = 0
                continue
            self._hurry.wait(self._pause_s(error, tries))
            self._hurry.clear()
        return True

    def _smaller(
        self, part: list[ReadableLogRecord], exc: TooLargeError
    ) -> list[list[ReadableLogRecord]] | None:
        """
        Return what to send in place of a part that is too large; None to wait instead.
        """
        if len(part) > 1:
            return _halves(part)
        if exc.answered and exc.size <= SMALL_BYTES:
            return None
        [record] = part
        short = _cut(record, exc.size // 2 if exc.answered else MAX_REQUEST_BYTES)
        if short is None:
            self._leave_out(1, f"it has {exc.size:,} bytes")
            return []
        return [[short]]

    def _post(self, batch: Sequence[ReadableLogRecord]) -> None:
        """
        Send a batch once.
        """
        try:
            data = self._encoded(batch)
        except Exception as exc:
            msg = f"it cannot be encoded ({type(exc).__name__})"
            raise UnwantedError(msg) from exc
        if len(data) > MAX_REQUEST_BYTES:
            raise TooLargeError(len(data), answered=False)

        target = self._target
        headers = {"content-type": "application/x-protobuf", **target.headers}
        size = len(data)
        if target.compress:
            headers["content-encoding"] = "gzip"
            data = gzip.compress(data, compresslevel=5)
        if self._session is None:
            self._session = requests.Session()
        _here.sending = True
        try:
            response = self._session.post(
                target.url,
                data=data,
                headers=headers,
                timeout=min(target.timeout_s, max(self._deadline - time.monotonic(), 0.1)),
                allow_redirects=False,
                auth=self._auth,
                verify=target.verify,
                cert=target.cert,
            )
        except (requests.RequestException, OSError) as exc:
            raise UnavailableError(_why(exc)) from exc
        finally:
            _here.sending = False

        status = response.status_code
        if 200 <= status < 300:
            return
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLargeError(size, answered=True)
        # Not the server's own words, which may hold anything, the token too.
        answer = f"it answers {status}"
        with contextlib.suppress(ValueError):
            answer += f" {HTTPStatus(status).phrase}"
        if status in UNWANTED:
            raise UnwantedError(answer)
        if status in ADVICE:
            answer += f" ({ADVICE[status]})"
        raise UnavailableError(answer, _retry_after(response.headers.get("retry-after")))

    def _encoded(self, batch: Sequence[ReadableLogRecord]) -> bytes:
        """
        Return a batch as it is sent, and let requests run in between.
        """
        parts = []
        for start in range(0, len(batch), SLICE_RECORDS):
            if start:
                self._hurry.wait(SLICE_PAUSE_S)
            parts.append(encode_logs(batch[start : start + SLICE_RECORDS]).SerializeToString())
        # Messages of one kind, one after the other, are one message with the items of all.
        return b"".join(parts)

    def _pause_s(self, error: UnavailableError, tries: int) -> float:
        if error.pause_s is not None:
            return error.pause_s
        # Many processes lost the same endpoint at the same moment.
        return min(2.0 ** (tries - 2), MAX_PAUSE_S) * random.uniform(0.8, 1.2)  # noqa: S311

    # --- what is said on stderr ------------------------------------------------------

    def _failed(self, error: UnavailableError) -> None:
        self._failing = True
        dropped = f", {_logs(self._lost)} dropped" if self._lost else ""
        self._told |= self._say(
            "failing",
            f"cannot send logs to {self._target.shown}: {error}; "
            f"{_logs(self.waiting)} waiting{dropped}",
        )

    def _succeeded(self) -> None:
        if not self._failing:
            return
        self._failing = False
        if self._told:
            self._told = False
            lost, self._lost = self._lost, 0
            dropped = f"; {_logs(lost)} dropped meanwhile" if lost else ""
            _write(f"sending logs to {self._target.shown} works again{dropped}")

    def _leave_out(self, count: int, reason: str) -> None:
        self._in_hand = max(self._in_hand - count, 0)
        self._say("left out", f"{_logs(count)} left out: {reason}")

    def _say(self, kind: str, message: str) -> bool:
        now = time.monotonic()
        if now - self._said.get(kind, -math.inf) < SAY_AGAIN_S:
            return False
        self._said[kind] = now
        _write(message)
        return True


def _write(message: str) -> None:
    with contextlib.suppress(Exception):  # there may be no stderr
        sys.stderr.write(f"replaylink: {message}\n")
        sys.stderr.flush()


NO_CONTEXT: Final = Context()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _logs(count: int) -> str:
    return f"{count:,} log record{'' if count == 1 else 's'}"


def _halves(part: list[ReadableLogRecord]) -> list[list[ReadableLogRecord]]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


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
    if isinstance(exc, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return type(exc).__name__


def _cut(record: ReadableLogRecord, max_bytes: int) -> ReadableLogRecord | None:
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
