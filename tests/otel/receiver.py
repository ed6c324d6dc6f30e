"""
An OTLP/HTTP receiver on loopback, which can be slow, refuse or be absent.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

WAIT_S: Final = 10
"""How long to wait for records that are on their way, in seconds."""

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""PostHog's limit, on the body as it was before its compression."""


@dataclass(frozen=True)
class Record:
    """
    A log record as it arrived.
    """

    body: Any
    attributes: dict[str, Any]
    keys: list[str]
    severity: tuple[int, str]
    time_ns: int
    scope: str
    resource: dict[str, Any]
    trace_id: bytes = b""

    @property
    def ids(self) -> dict[str, Any]:
        """
        The two IDs that it has, none of which may be there twice.
        """
        assert len(self.keys) == len(set(self.keys)), self.keys
        return {
            key: self.attributes[key]
            for key in ("sessionId", "posthogDistinctId")
            if key in self.attributes
        }


@dataclass
class Receiver:
    """
    Takes logs at any path, and answers as it is told.

    Args:
        status: What to answer. Records are kept with 200 only.
        delay_s: How long to take for an answer, in seconds.
        headers: Headers of the answer.
        body: Body of the answer.
        max_body_bytes: The largest body that is taken; larger ones get 413.
    """

    status: int = 200
    delay_s: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    max_body_bytes: int = MAX_BODY_BYTES
    port: int = 0
    records: list[Record] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    connections: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """
        Begin to listen: at the same port as before, if it has stopped.
        """
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients may hang up

        server = Server(("127.0.0.1", self.port), Handler)
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """
        Be absent, until `start`.
        """
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        status = self.status
        time.sleep(self.delay_s)
        # As PostHog does: by the magic bytes, not by the header.
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        if status == 200 and len(body) > self.max_body_bytes:
            status = 413
        self.requests.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        self.sizes.append(len(body))
        if status == 200:
            self.records += read(ExportLogsServiceRequest.FromString(body))
        if self._server is None:
            handler.close_connection = True
        handler.send_response(status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)

    def wait_for(self, count: int, *, seconds: float = WAIT_S) -> list[Record]:
        """
        Return the records, as soon as there are so many.
        """
        self.wait_until(lambda: len(self.records) >= count, seconds=seconds)
        return self.records

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = WAIT_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)

    def bodies(self) -> list[Any]:
        return [record.body for record in self.records]


def read(request: ExportLogsServiceRequest) -> list[Record]:
    """
    Return the records of a request.
    """
    return [
        Record(
            body=value_of(record.body),
            attributes=dict_of(record.attributes),
            keys=[pair.key for pair in record.attributes],
            severity=(record.severity_number, record.severity_text),
            time_ns=record.time_unix_nano,
            scope=scope_logs.scope.name,
            resource=dict_of(resource_logs.resource.attributes),
            trace_id=record.trace_id,
        )
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]


def dict_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return dict_of(value.kvlist_value.values)
    return getattr(value, kind)
