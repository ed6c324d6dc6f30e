"""
Access lines: one structlog line for each request, the same on every server.

::

    app.add_middleware(ASGIAccessLog)  # FastAPI
    app.add_middleware(ReplayLinkMiddleware)  # last, so that it goes around

    app.wsgi_app = ReplayLinkMiddleware(WSGIAccessLog(app.wsgi_app))  # Flask
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import structlog

from ._files import call_at_close, is_file
from ._identity import logger
from ._types import ASGIApp, Environ, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["ASGIAccessLog", "WSGIAccessLog"]

Skip: TypeAlias = Callable[[Any], bool] | Collection[str]
"""Paths, or a callable of the scope or environ."""

SERVER_ERROR: Final = 500

SWITCHING_PROTOCOLS: Final = 101
"""The status of a WebSocket that was accepted."""

FORBIDDEN: Final = 403
"""What a server answers for a WebSocket that is closed before it was accepted."""

NORMAL_CLOSURE: Final = 1000

NO_CLOSE_CODE: Final = 1005
"""What stands for the code of a close that brought none (RFC 6455, section 7.4.1)."""


class _Access:
    """
    What there is to tell of one request, told once.

    Args:
        log: The structlog logger.
        event: The event of the line.
        method: The request's method; None for a WebSocket.
        path: The request's path, without the query string.
    """

    __slots__ = (
        "_event",
        "_is_written",
        "_log",
        "_method",
        "_path",
        "_started",
        "close_code",
        "content_length",
        "is_disconnected",
        "response_bytes",
        "status",
    )

    def __init__(self, log: Any, event: str, method: str | None, path: str) -> None:
        self._started = time.perf_counter()
        self._is_written = False
        self._log = log
        self._event = event
        self._method = method
        self._path = path
        self.status: int | None = None
        self.content_length: str | None = None
        self.response_bytes = 0
        self.close_code: int | None = None
        self.is_disconnected = False

    @property
    def is_bodiless(self) -> bool:
        """
        Tell whether the server sends no body, whatever the app's response is.
        """
        return self._method == "HEAD" or self.status in (204, 304)

    def take(self, part: bytes) -> None:
        """
        Count a part of the body, if it goes to the client.
        """
        if not self.is_bodiless:
            self.response_bytes += len(part)

    def take_file(self) -> None:
        """
        Count a body that the server sends by itself.
        """
        length = self.content_length
        if length is not None and length.isdecimal() and not self.is_bodiless:
            self.response_bytes = int(length)

    def write(self, error: BaseException | None = None) -> None:
        """
        Log the line, unless that is done. Never raises.

        Args:
            error: What the app raised.
        """
        if self._is_written:
            return
        self._is_written = True
        # A server answers an Exception; what else there is (a task that is cancelled, a
        # process that exits) gets no answer, and neither does a client that has gone.
        is_failed = isinstance(error, Exception) and not self.is_disconnected
        if is_failed and self.status is None:
            self.status = SERVER_ERROR
        fields = {
            "method": None if self._method is None else _printable(self._method),
            "path": _printable(self._path),
            "status": self.status,
            "close_code": self.close_code,
            "duration_ms": round((time.perf_counter() - self._started) * 1000, 3),
            "response_bytes": None if self._method is None else self.response_bytes,
            "error": None if error is None else type(error).__name__,
            "disconnected": self.is_disconnected or None,
        }
        fields = {key: value for key, value in fields.items() if value is not None}
        is_error = is_failed or (self.status is not None and self.status >= SERVER_ERROR)
        # The app's own processors run here, and no line is worth a request.
        try:
            if is_error:
                self._log.error(self._event, **fields)
            else:
                self._log.info(self._event, **fields)
        except Exception:
            logger.warning("an access line could not be logged", exc_info=True)


class ASGIAccessLog:
    """
    Log one line for each HTTP request and each WebSocket.

    ::

        app.add_middleware(ASGIAccessLog, skip={"/health"})
        app.add_middleware(ReplayLinkMiddleware)

    It stands inside of `replaylink.asgi.ReplayLinkMiddleware` and around all the rest, so
    that its lines have both IDs.

    The line of a request, ``request``, has ``method``, ``path`` (without the query
    string), ``status``, ``duration_ms`` and ``response_bytes``: those that the app gave to
    the server, which may drop them if the client has gone. It is logged as the last part
    of the response is out, so background work is not in its duration. That of a
    WebSocket, ``websocket``, has ``close_code`` in place of the bytes, and is logged as
    the app returns. ``error`` is the type of what the app raised; ``disconnected`` is
    there where app or server noticed that the client had gone before the end. The level
    is error for an error and from status 500 on, else info.

    Args:
        app: The ASGI app.
        skip: Paths that get no line, or a callable of the scope that tells so.

    Raises:
        TypeError: If *skip* is neither a callable nor a collection of paths.
    """

    def __init__(self, app: Any, *, skip: Skip = ()) -> None:
        self.app: ASGIApp = app
        self._is_skipped = _skipping(skip, lambda scope: scope["path"])
        self._log = structlog.get_logger(__name__)

    # Frameworks type these three each in its own way.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if (kind != "http" and kind != "websocket") or self._is_skipped(scope):
            await self.app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = _Access(self._log, "request", scope["method"], scope["path"])
        has_trailers = False

        async def receive_disconnect() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                access.is_disconnected = True
            return message

        async def send_response(message: Message) -> None:
            nonlocal has_trailers
            try:
                await send(message)
            # What a server raises once the client has gone.
            except OSError:
                access.is_disconnected = True
                raise
            kind = message["type"]
            if kind == "http.response.body":
                access.take(message.get("body", b""))
                if not message.get("more_body", False) and not has_trailers:
                    access.write()
            elif kind == "http.response.start":
                access.status = message["status"]
                access.content_length = _asgi_length(message)
                has_trailers = message.get("trailers", False)
            elif kind == "http.response.pathsend":
                access.take_file()
                access.write()

        await _told(access, self.app(scope, receive_disconnect, send_response))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = _Access(self._log, "websocket", None, scope["path"])

        async def receive_disconnect() -> Message:
            message = await receive()
            # Once the app has closed it, this only tells that it is closed.
            if message["type"] == "websocket.disconnect" and access.close_code is None:
                access.close_code = message.get("code", NO_CLOSE_CODE)
                access.is_disconnected = True
            return message

        async def send_close(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                access.is_disconnected = True
                raise
            kind = message["type"]
            if kind == "websocket.accept":
                access.status = SWITCHING_PROTOCOLS
            elif kind == "websocket.http.response.start":
                access.status = message["status"]
            elif kind == "websocket.close":
                if access.status is None:
                    access.status = FORBIDDEN
                access.close_code = message.get("code", NORMAL_CLOSURE)

        await _told(access, self.app(scope, receive_disconnect, send_close))


async def _told(access: _Access, response: Awaitable[None]) -> None:
    """
    Wait for *response*, and log the line at the latest as it is over.
    """
    try:
        await response
    except BaseException as exc:
        access.write(exc)
        raise
    access.write()


def _asgi_length(message: Message) -> str | None:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-length":
            length: str = value.decode("latin-1")
            return length
    return None


class WSGIAccessLog:
    """
    Log one line for each request.

    ::

        app.wsgi_app = ReplayLinkMiddleware(WSGIAccessLog(app.wsgi_app, skip={"/health"}))

    It stands inside of `replaylink.wsgi.ReplayLinkMiddleware` and around all the rest, so
    that its lines have both IDs.

    The line, ``request``, has ``method``, ``path`` (without the query string),
    ``status``, ``duration_ms`` and ``response_bytes``. It is logged as the last part of
    the response was taken, or as the server closes or drops it. ``error`` is the type of what the
    app raised; ``disconnected`` is there where the server closed the response before its
    end. The level is error for an error and from status 500 on, else info.

    A ``wsgi.file_wrapper`` response goes to the server as it is, so that ``sendfile``
    keeps working; its bytes are those of Content-Length.

    Args:
        app: The WSGI app.
        skip: Paths that get no line, or a callable of the environ that tells so.

    Raises:
        TypeError: If *skip* is neither a callable nor a collection of paths.
    """

    def __init__(self, app: WSGIApplication, *, skip: Skip = ()) -> None:
        self.app = app
        self._is_skipped = _skipping(skip, _wsgi_path)
        self._log = structlog.get_logger(__name__)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._is_skipped(environ):
            return self.app(environ, start_response)
        access = _Access(self._log, "request", environ["REQUEST_METHOD"], _wsgi_path(environ))
        try:
            result = self.app(environ, _starting(access, start_response))
        except BaseException as exc:
            access.write(exc)
            raise
        if is_file(result, environ):
            _tell_at_close(result, access)
            return result
        response = _SizedResponse if hasattr(result, "__len__") else _Response
        return response(result, access)


def _starting(access: _Access, start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: Any, *exc_info: Any) -> Callable[[bytes], object]:
        write = start_response(status, headers, *exc_info)
        code = status[:3]
        access.status = int(code) if code.isdecimal() else None
        for name, value in headers:
            if name.lower() == "content-length":
                access.content_length = value

        def write_part(part: bytes) -> object:
            access.take(part)
            return write(part)

        return write_part

    return start


def _tell_at_close(file: Iterable[bytes], access: _Access) -> None:
    """
    Log the line as the server closes *file*.
    """
    context = copy_context()
    access.take_file()
    if not call_at_close(file, lambda: context.run(access.write)):
        access.write()


class _Response:
    """
    A response whose parts are counted, and whose end is told.
    """

    __slots__ = ("_access", "_close", "_context", "_iterator", "_left", "_result")

    def __init__(self, result: Iterable[bytes], access: _Access) -> None:
        self._access = access
        self._context = copy_context()
        self._result = result
        self._iterator: Iterator[bytes] | None = None
        self._close: Callable[[], object] | None = getattr(result, "close", None)
        self._left = -1

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._result)
            part = next(self._iterator)
        except StopIteration:
            self._access.write()
            raise
        except BaseException as exc:
            self._access.write(exc)
            raise
        self._access.take(part)
        self._left -= 1
        return part

    def close(self) -> None:
        close, self._close = self._close, None
        try:
            if close is not None:
                close()
        except BaseException as exc:
            self._access.write(exc)
            raise
        # A server need not ask for more than the parts of a list, or send any to HEAD.
        if self._left != 0 and not self._access.is_bodiless:
            self._access.is_disconnected = True
        self._access.write()

    def __del__(self) -> None:
        # A bridge to ASGI takes as many bytes as were announced, and leaves out close().
        self._context.run(self._access.write)


class _SizedResponse(_Response):
    """
    A response with a length: servers take Content-Length from a list of one part.
    """

    __slots__ = ()

    def __init__(self, result: Any, access: _Access) -> None:
        super().__init__(result, access)
        self._left = len(result)

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def _wsgi_path(environ: Environ) -> str:
    """
    Return the path of a request, whose bytes stand in *environ* as characters.
    """
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    try:
        return path.encode("latin-1").decode()
    except UnicodeError:  # not UTF-8, or text already, as of some test clients
        return path


def _skipping(skip: Skip, path: Callable[[Any], str]) -> Callable[[Any], bool]:
    """
    Return what tells whether a scope or environ gets no line.
    """
    if callable(skip):

        def is_skipped(connection: Any) -> bool:
            try:
                return bool(skip(connection))
            # The app's own rule, asked about any request that a client can think of.
            except Exception:
                logger.warning("skip=%r failed, the request is logged", skip, exc_info=True)
                return False

        return is_skipped
    if isinstance(skip, (str, bytes)) or not isinstance(skip, Collection):
        msg = (
            f"skip={skip!r}: must be a collection of paths such as {{'/health'}}, or a callable "
            "of the scope or environ"
        )
        raise TypeError(msg)
    paths = frozenset(skip)
    return lambda connection: path(connection) in paths


def _printable(text: str) -> str:
    """
    Return *text* with what could forge a line or confuse a terminal as in a URL: ``%0A``.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else quote(char, errors="surrogatepass") for char in text
    )
