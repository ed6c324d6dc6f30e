"""
The middleware for ASGI apps. Its twin for WSGI is `replaylink.wsgi`.

See Also:
    https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from weakref import ref

from msgspec import Struct

from . import _body
from ._identity import SESSION_KEY, USER_KEY, Around, Identity, while_handled
from ._ids import Absent, is_session_id
from ._lifespan import ending, started
from ._options import (
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_SESSION_ID,
    DEFAULT_USER_ID,
    AnySource,
    Kind,
    Options,
    called,
    failed,
)
from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ReplayLinkMiddleware"]


class ReplayLinkMiddleware:
    """
    Link the log lines of each request to the session replay of its browser.

    ::

        app = FastAPI()
        app.add_middleware(ReplayLinkMiddleware)

    Add it last, so that it is the outermost: lines of middleware around it are not its
    request's. Lifespan and unknown scope types pass through untouched.

    Args:
        app: The ASGI app.
        session_id: Where the session ID may stand; the first valid one counts. The body
            is touched only when the sources before it gave nothing. Sources, or
            callables of the scope (async too), one or several.
        user_id: Where the user ID may stand; the first one counts.
        validate_session_id: Tells whether a text is a session ID. By default 1 to 128
            of ``A-Z a-z 0-9 . _ -``; `replaylink.sources.is_uuid7` is strict.
        max_body_bytes: A body longer than this is not read ahead, in bytes; by default
            262,144.
        session_key: The key that the session ID is bound to.
        user_key: The key that the user ID is bound to.
        share: Libraries that get the IDs too, one or several: ``"posthog"``, ``"otel"``.
            See `replaylink.share`.

    Raises:
        ImportError: If a library of *share* is not installed.
        TypeError: If an option is of a wrong type.
        ValueError: If an option has a wrong value.
    """

    def __init__(
        self,
        app: Any,
        *,
        session_id: AnySource | Iterable[AnySource] = DEFAULT_SESSION_ID,
        user_id: AnySource | Iterable[AnySource] = DEFAULT_USER_ID,
        validate_session_id: Callable[[str], bool] = is_session_id,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        session_key: str = SESSION_KEY,
        user_key: str = USER_KEY,
        share: str | Iterable[str] = (),
    ) -> None:
        if share:
            from .share import ASGIShare

            app = ASGIShare(app, share=share)
        self.app: ASGIApp = app
        self._is_started = False
        self._options = Options(
            lambda source, accept: source.in_scope(accept),
            can_await=True,
            session_id=session_id,
            user_id=user_id,
            validate_session_id=validate_session_id,
            max_body_bytes=max_body_bytes,
            session_key=session_key,
            user_key=user_key,
        )

    # Frameworks type these three each in its own way.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            if kind == "lifespan":
                self._is_started = True
                started()
                send = ending(send)
            await self.app(scope, receive, send)
            return

        # Not every server tells of its start.
        if not self._is_started:
            self._is_started = True
            started()
        options = self._options
        identity = options.identity(scope)
        bound = identity.bind()
        server = None
        try:
            if "daphne" in sys.modules or ("uvicorn" in sys.modules and kind == "http"):
                server = _Server(identity, receive, send)
                receive, send = server.receive, server.send
            if not options.is_settled(identity):
                receive = await self._search(identity, scope, receive)
            await self.app(scope, receive, send)
        except Exception:
            # They live as long as the exception, which holds this frame.
            around = Around()
            counts = while_handled(ref(around), elsewhere=True)
            leftover = identity.leave(bound, counts, keys_stay=server is None)  # noqa: F841
            raise
        except BaseException:
            identity.unbind(bound)
            raise
        identity.unbind(bound)

    async def _search(self, identity: Identity, scope: Scope, receive: Receive) -> Receive:
        """
        Find the rest of the identity; return what the app shall call as `receive`.
        """
        ahead = _ReadAhead(scope, receive, self._options.max_body_bytes)
        search = self._options.search(identity, scope)
        try:
            reader = next(search)
            while True:
                if reader.kind is Kind.BODY:
                    reader = search.send(await ahead.body())
                    continue
                try:
                    value = reader.find(scope)
                    if inspect.isawaitable(value):
                        value = await value
                except Exception as exc:
                    reader = search.send(failed(exc))
                else:
                    reader = search.send(called(reader, value))
        except StopIteration:
            return ahead.receive if ahead.messages else receive


class _Server(Struct):
    """
    The server's side of a request, called with the identity out of its way.

    What uvicorn and daphne run in the request's context outlives the request: the rest of
    a body over 64 KiB is read, and a pipelined request is started, in a context that they
    copy as the app receives or as it ends its response. The next requests of the
    connection then start in that context
    (https://github.com/python/cpython/issues/140947). With any message, Twisted may set
    its one timer anew, and daphne writes the tracebacks of all requests from there.
    """

    _identity: Identity
    _receive: Receive
    _send: Send

    async def receive(self) -> Message:
        aside = self._identity.step_aside()
        try:
            return await self._receive()
        finally:
            self._identity.step_back(aside)

    def send(self, message: Message) -> Awaitable[None]:
        # With the start uvicorn logs its access line, which is the request's.
        if "daphne" not in sys.modules and (
            message.get("type") == "http.response.start" or message.get("more_body")
        ):
            return self._send(message)
        return self._send_aside(message)

    async def _send_aside(self, message: Message) -> None:
        aside = self._identity.step_aside()
        try:
            await self._send(message)
        finally:
            self._identity.step_back(aside)


class _ReadAhead:
    """
    A request's body, read before the app asks for it, then given to the app.
    """

    __slots__ = ("_max_body_bytes", "_receive", "_result", "_scope", "messages")

    def __init__(self, scope: Scope, receive: Receive, max_body_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._max_body_bytes = max_body_bytes
        self._result: bytes | Absent | None = None
        self.messages: deque[Message | Exception] = deque()

    async def body(self) -> bytes | Absent:
        """
        Return the body, or why there is none to look at. Reads only once.
        """
        if self._result is None:
            self._result = self._refusal() or await self._read()
        return self._result

    def _refusal(self) -> Absent | None:
        if self._scope["type"] != "http":
            return _body.NO_BODY
        wanted = {
            b"content-type": b"",
            b"content-encoding": b"",
            b"content-length": None,
        }
        found: dict[bytes, Any] = {}
        for name, value in self._scope.get("headers", ()):
            if name in wanted:
                found[name] = value.decode("latin-1")
        return _body.refusal(
            found.get(b"content-type", ""),
            found.get(b"content-encoding", ""),
            found.get(b"content-length"),
            self._max_body_bytes,
        )

    async def _read(self) -> bytes | Absent:
        chunks: list[bytes] = []
        size = 0
        while True:
            try:
                message = await self._receive()
            # A layer around us may refuse the body by an exception meant for the app.
            except Exception as exc:
                self.messages.append(exc)
                return _body.CUT_OFF
            self.messages.append(message)
            if message["type"] != "http.request":
                return _body.CUT_OFF
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_body_bytes:
                return _body.TOO_LONG
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def receive(self) -> Message:
        """
        Return what was read ahead, then what the server has.
        """
        if not self.messages:
            return await self._receive()
        message = self.messages.popleft()
        if isinstance(message, Exception):
            raise message
        return message
