"""
One driver for each protocol, so that one suite can ask the same of both middlewares.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.validate import validator

import httpx
import pytest

from replaylink import asgi, wsgi
from replaylink._types import ASGIApp, Environ, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

SESSION = "01980c4b-1234-7abc-8def-0123456789ab"
"""A session ID as posthog-js makes them."""

OTHER_SESSION = "01980c4b-ffff-7abc-8def-ba9876543210"

USER = "user-7"

HEADER = "X-PostHog-Session-ID"

LINKED = {"sessionId": SESSION}
"""What is on a line of a request that sent `SESSION` and whose user is not known."""

BOTH = {"sessionId": SESSION, "posthogDistinctId": USER}

RawHeaders = Sequence[tuple[bytes, bytes]]

JSON: RawHeaders = ((b"content-type", b"application/json"),)


def line(event: str, /, **keys: Any) -> dict[str, Any]:
    """
    A line logged with ``log.info(event)``, as `structlog.testing.LogCapture` keeps it.
    """
    return {"event": event, "log_level": "info", **keys}


def cookie(
    session: object = SESSION,
    *,
    idle_s: float = 1,
    age_s: float = 60,
    distinct_id: str = "01980c4b-0000-7000-8000-000000000000",
    token: str = "phc_test",
) -> str:
    """
    The cookie of posthog-js, as it writes it.
    """
    now = time.time()
    active, start = round((now - idle_s) * 1000), round((now - age_s) * 1000)
    return raw_cookie(
        json.dumps({"distinct_id": distinct_id, "$sesid": [active, session, start]}), token
    )


def raw_cookie(text: str, token: str = "phc_test") -> str:
    """
    A cookie of posthog-js that holds any text.
    """
    return f"ph_{token}_posthog={quote(text)}"


@dataclass
class Request:
    """
    What a handler gets to see.
    """

    connection: Any
    body: bytes


@dataclass
class Reply:
    """
    What a handler answers; *after* runs when the response is out.
    """

    chunks: Iterable[bytes] = (b"ok",)
    after: Callable[[], object] = lambda: None


Handler = Callable[[Request], Reply | None]


@dataclass
class Raw:
    """
    A request byte by byte, with what no client library would send.

    A *length* that is None leaves Content-Length out: a chunked body.
    """

    headers: RawHeaders = ()
    chunks: Sequence[bytes] = ()
    method: str = "POST"
    query: bytes = b""
    length: int | str | None = None
    hangs_up: bool = False

    @property
    def all_headers(self) -> list[tuple[bytes, bytes]]:
        headers = list(self.headers)
        if self.length is not None:
            headers.append((b"content-length", str(self.length).encode("latin-1")))
        return headers


def post(body: bytes, *headers: tuple[bytes, bytes], **options: Any) -> Raw:
    """
    A request with a JSON body in one piece and a true length.
    """
    return Raw([*JSON, *headers], [body], **{"length": len(body), **options})


class HungUp(Exception):  # noqa: N818 (it is what the client did)
    """
    What an app makes of a client that hung up in the middle of a body.
    """


class Driver(ABC):
    """
    Builds apps of one protocol from handlers, and calls them.
    """

    middleware: type[asgi.ReplayLinkMiddleware] | type[wsgi.ReplayLinkMiddleware]

    @abstractmethod
    def app(self, handler: Handler) -> Any:
        """
        Return an app that reads the body, asks *handler* and sends its reply.
        """

    @abstractmethod
    def wrap(self, app: Any, **options: Any) -> Any:
        """
        Put the middleware around *app*, and a protocol validator where there is one.
        """

    @abstractmethod
    def before(self, app: Any, do: Callable[[Any], object]) -> Any:
        """
        Put a layer around *app* that does something before each request.
        """

    @abstractmethod
    def handled(self, app: Any, do: Callable[[], object]) -> Any:
        """
        Put a layer around *app* that does something for an error of it, and answers.
        """

    @abstractmethod
    def sign_in(self, connection: Any, user: object) -> None:
        """
        Do as the protocol's authentication does.
        """

    @abstractmethod
    async def send(self, app: Any, method: str = "GET", url: str = "/", **options: Any) -> str:
        """
        Send a request by httpx, and return the text of the response.
        """

    @abstractmethod
    async def raw(self, app: Any, request: Raw) -> bytes:
        """
        Call *app* as a server would that lets everything through.
        """

    def linked(self, handler: Handler, **options: Any) -> Any:
        """
        Return the whole thing: *handler* in an app in the middleware.
        """
        return self.wrap(self.app(handler), **options)


class ASGIDriver(Driver):
    """
    ASGI, in the context of the caller.
    """

    middleware = asgi.ReplayLinkMiddleware

    def app(self, handler: Handler) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body = b""
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                body += message.get("body", b"")
                more = message.get("more_body", False)
            reply = handler(Request(scope, body)) or Reply()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for chunk in reply.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            reply.after()

        return app

    def wrap(self, app: ASGIApp, **options: Any) -> ASGIApp:
        return asgi.ReplayLinkMiddleware(app, **options)

    def before(self, app: ASGIApp, do: Callable[[Any], object]) -> ASGIApp:
        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            do(scope)
            await app(scope, receive, send)

        return layer

    def handled(self, app: ASGIApp, do: Callable[[], object]) -> ASGIApp:
        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except Exception:
                do()
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body", "body": b""})

        return layer

    def sign_in(self, connection: Any, user: object) -> None:
        connection["user"] = user

    async def send(self, app: Any, method: str = "GET", url: str = "/", **options: Any) -> str:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.request(method, url, **options)).text

    async def raw(self, app: ASGIApp, request: Raw) -> bytes:
        sent = Sent()
        await app(http_scope(request), Messages(request_messages(request)).receive, sent.send)
        return sent.body


class WSGIDriver(Driver):
    """
    WSGI, in the thread and the context of the caller.
    """

    middleware = wsgi.ReplayLinkMiddleware

    def app(self, handler: Handler) -> WSGIApplication:
        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            reply = handler(Request(environ, read_body(environ))) or Reply()
            start_response("200 OK", [("Content-Type", "text/plain")])
            return Parts(reply)

        return app

    def wrap(self, app: WSGIApplication, **options: Any) -> WSGIApplication:
        return validator(wsgi.ReplayLinkMiddleware(validator(app), **options))

    def before(self, app: WSGIApplication, do: Callable[[Any], object]) -> WSGIApplication:
        def layer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            do(environ)
            return app(environ, start_response)

        return layer

    def handled(self, app: WSGIApplication, do: Callable[[], object]) -> WSGIApplication:
        def layer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            try:
                return app(environ, start_response)
            except Exception:
                do()
                start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                return []

        return layer

    def sign_in(self, connection: Any, user: object) -> None:
        connection["REMOTE_USER"] = user

    async def send(self, app: Any, method: str = "GET", url: str = "/", **options: Any) -> str:
        transport = httpx.WSGITransport(app=app)
        with httpx.Client(transport=transport, base_url="http://test") as client:
            return client.request(method, url, **options).text  # noqa: ASYNC212 (in this context)

    async def raw(self, app: WSGIApplication, request: Raw) -> bytes:
        return call_wsgi(app, http_environ(request))


def on_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Make the process one of uvicorn's, or of any other ASGI server's.
    """
    if name == "uvicorn":
        monkeypatch.setitem(sys.modules, "uvicorn", ModuleType("uvicorn"))
    else:
        monkeypatch.delitem(sys.modules, "uvicorn", raising=False)


DRIVERS = ("asgi", "asgi-on-uvicorn", "wsgi")


def driver_of(request: pytest.FixtureRequest) -> Driver:
    """
    Return the driver that a fixture's parameter, one of `DRIVERS`, stands for.
    """
    protocol, _, server = request.param.partition("-on-")
    on_server(server, request.getfixturevalue("monkeypatch"))
    return WSGIDriver() if protocol == "wsgi" else ASGIDriver()


class Parts:
    """
    A WSGI response that is made part by part, and does its last work in ``close``.
    """

    def __init__(self, reply: Reply) -> None:
        self._parts = iter(reply.chunks)
        self._after = reply.after

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        self._after()


@dataclass
class Messages:
    """
    The server's side of an ASGI request: some messages, then a disconnect for ever.
    """

    messages: list[Message]
    received: int = 0

    async def receive(self) -> Message:
        self.received += 1
        await asyncio.sleep(0)
        if self.messages:
            return self.messages.pop(0)
        return {"type": "http.disconnect"}


@dataclass
class Sent:
    """
    What an ASGI app sent.
    """

    messages: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def request_messages(request: Raw) -> list[Message]:
    """
    Return the messages in which an ASGI server hands over the body of *request*.
    """
    chunks = list(request.chunks)
    if request.hangs_up:
        return [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    chunks = chunks or [b""]
    return [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]


def http_scope(request: Raw | None = None, **more: Any) -> Scope:
    """
    Return the scope of an HTTP request.
    """
    request = request or Raw(method="GET")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "path": "/",
        "query_string": request.query,
        "headers": request.all_headers,
        **more,
    }


class Input:
    """
    A ``wsgi.input`` that gives no more than one chunk for each call.

    Args:
        chunks: What the client sent.
        hangs_up: Whether the end is an error, as when a connection breaks.
    """

    def __init__(self, chunks: Iterable[bytes], *, hangs_up: bool = False) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self._hangs_up = hangs_up
        self.taken = 0

    def _next(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._hangs_up:
            raise ConnectionResetError
        return b""

    def _give(self, data: bytes, size: int | None) -> bytes:
        if size is not None and 0 <= size < len(data):
            self._chunks.insert(0, data[size:])
            data = data[:size]
        self.taken += len(data)
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(2**20), b""))
        return self._give(self._next(), size) if size else b""

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = -1 if size is None else size
        line = b""
        while limit < 0 or len(line) < limit:
            data = self._next()
            if not data:
                break
            end = data.find(b"\n") + 1 or len(data)
            if limit >= 0:
                end = min(end, limit - len(line))
            line += self._give(data, end)
            if line.endswith(b"\n"):
                break
        return line

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        lines: list[bytes] = []
        for line in self:
            lines.append(line)
            if hint is not None and 0 < hint <= sum(map(len, lines)):
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def http_environ(request: Raw | None = None, **more: Any) -> Environ:
    """
    Return the environ of an HTTP request, as a server makes it that knows chunked bodies.
    """
    request = request or Raw(method="GET")
    environ: Environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": request.query.decode("latin-1"),
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Input(request.chunks, hangs_up=request.hangs_up),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if request.length is None:
        environ["wsgi.input_terminated"] = True
    for name, value in request.all_headers:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{';' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    return {**environ, **more}


def read_body(environ: Environ) -> bytes:
    """
    Return the body in *environ*, as careful frameworks read it.
    """
    stream = environ["wsgi.input"]
    wanted = int(environ.get("CONTENT_LENGTH") or 0)
    if environ.get("wsgi.input_terminated"):
        wanted = 2**30
    body = b""
    while len(body) < wanted:
        try:
            chunk = stream.read(min(wanted - len(body), 2**16))
        except ConnectionResetError:
            raise HungUp from None
        if not chunk:
            break
        body += chunk
    return body


def call_wsgi(app: WSGIApplication, environ: Environ) -> bytes:
    """
    Call *app* as a server does, and return the body of the response.
    """

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        return lambda data: None

    result = app(environ, start_response)
    try:
        return b"".join(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
