"""
The middleware for WSGI apps. Its twin for ASGI is `replaylink.asgi`.

See Also:
    https://peps.python.org/pep-3333/
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

from . import _body
from ._files import call_at_close, is_file
from ._identity import (
    SESSION_KEY,
    USER_KEY,
    Around,
    Bound,
    Identity,
    bound_identity,
    is_nested,
    while_handled,
)
from ._ids import Absent, is_session_id
from ._lifespan import started
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
from ._types import Environ

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication

__all__ = ["ReplayLinkMiddleware"]

LEFTOVER_KEY = "replaylink.leftover"
"""Where in an environ stands what ends an identity that was left to the server."""

CHUNK_BYTES = 256 * 1024
"""How much of a body is read at once."""


class ReplayLinkMiddleware:
    """
    Link the log lines of each request to the session replay of its browser.

    ::

        app = Flask(__name__)
        app.wsgi_app = ReplayLinkMiddleware(app.wsgi_app)

    Wrap it around all other middleware: lines of middleware around it are not its
    request's. The request ends as the server closes the response.

    Args:
        app: The WSGI app.
        session_id: Where the session ID may stand; the first valid one counts. The body
            is touched only when the sources before it gave nothing. Sources, or
            callables of the environ, one or several.
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
        app: WSGIApplication,
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
            from .share import WSGIShare

            app = WSGIShare(app, share=share)
        self.app = app
        self._is_started = False
        self._options = Options(
            lambda source, accept: source.in_environ(accept),
            can_await=False,
            session_id=session_id,
            user_id=user_id,
            validate_session_id=validate_session_id,
            max_body_bytes=max_body_bytes,
            session_key=session_key,
            user_key=user_key,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # No server tells of its start.
        if not self._is_started:
            self._is_started = True
            started()
        options = self._options
        identity = options.identity(environ)
        bound = identity.bind()
        try:
            if not options.is_settled(identity):
                self._search(identity, environ)
            result = self.app(environ, _looking(identity, start_response))
        except Exception:
            # Lives as long as the exception, which holds this frame.
            around = Around()
            identity.leave(bound, _while_handled(weakref.ref(around)), keys_stay=False)
            raise
        except BaseException:
            identity.unbind(bound)
            raise
        if is_file(result, environ):
            _leave_to_file(result, environ, identity, bound)
            return result
        response = _SizedResponse if hasattr(result, "__len__") else _Response
        if is_nested(bound):
            # What calls this app is within a request too, and goes on with that one.
            identity.unbind(bound)
            return response(result, identity, None)
        return response(result, identity, bound)

    def _search(self, identity: Identity, environ: Environ) -> None:
        """
        Find the rest of the identity; the body in *environ* can be read as before.
        """
        body: bytes | Absent | None = None
        search = self._options.search(identity, environ)
        try:
            reader = next(search)
            while True:
                if reader.kind is Kind.BODY:
                    if body is None:
                        body = _read_ahead(environ, self._options.max_body_bytes)
                    reader = search.send(body)
                    continue
                try:
                    value = reader.find(environ)
                except Exception as exc:
                    reader = search.send(failed(exc))
                else:
                    reader = search.send(called(reader, value))
        except StopIteration:
            pass


def _looking(identity: Identity, start_response: StartResponse) -> StartResponse:
    """
    Return a *start_response* at which the user is looked for.

    A framework's user is gone with its context, before a streamed response is made.
    """

    def start(*args: Any) -> Callable[[bytes], object]:
        identity.look()
        return start_response(*args)

    return start


def _leave_to_file(
    file: Iterable[bytes], environ: Environ, identity: Identity, bound: Bound
) -> None:
    """
    Keep *identity* bound until the server closes *file*, or drops *environ*.

    The server closes it in this thread after it has logged it, or in another one that
    sends it meanwhile.
    """
    leftover = identity.leave(bound, lambda: True)
    if leftover is None:
        return
    environ[LEFTOVER_KEY] = leftover
    forget = weakref.WeakMethod(leftover.end)

    def end() -> None:
        here = forget()
        if here is not None:
            here()

    if not call_at_close(file, end):
        leftover.end()


class _Response:
    """
    An app's response, each part of which is made with the identity bound.

    A server may take the parts and call `close` in any thread or context.
    """

    __slots__ = ("_bound", "_failed", "_identity", "_iterator", "_result", "_thread")

    def __init__(self, result: Iterable[bytes], identity: Identity, bound: Bound | None) -> None:
        self._result = result
        self._iterator: Iterator[bytes] | None = None
        self._identity = identity
        self._bound = bound
        self._failed: weakref.ref[Around] | None = None
        self._thread = get_ident()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        bound = None if bound_identity() is self._identity else self._identity.bind()
        try:
            if self._iterator is None:
                self._iterator = iter(self._result)
            return next(self._iterator)
        except StopIteration:
            raise
        except Exception:
            around = Around()
            self._failed = weakref.ref(around)
            raise
        finally:
            if bound is not None:
                self._identity.unbind(bound)

    def close(self) -> None:
        bound = None if bound_identity() is self._identity else self._identity.bind()
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        except Exception:
            around = Around()
            self._failed = weakref.ref(around)
            raise
        finally:
            if bound is not None:
                self._identity.unbind(bound)
            self._finish()

    def __del__(self) -> None:
        # Test clients leave out close().
        self._finish()

    def _finish(self) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            return
        if bound_identity() is not self._identity:
            # It is still bound in the thread of the call, where only that one can undo
            # it: as its next request starts.
            self._identity.counts = _elsewhere_than(self._thread)
        elif self._failed is not None:
            # The server has yet to write its traceback.
            self._identity.leave(bound, _while_handled(self._failed), keys_stay=False)
        else:
            self._identity.unbind(bound)


def _while_handled(around: weakref.ref[Around]) -> Callable[[], bool]:
    """
    Return what tells whether an exception that left the app is being handled.

    A bridge to ASGI gives the context of its thread back to the event loop's, which may
    serve other requests in it.
    """
    return while_handled(around, elsewhere=False)


def _elsewhere_than(thread: int) -> Callable[[], bool]:
    return lambda: get_ident() != thread


class _SizedResponse(_Response):
    """
    A response with a length: servers take Content-Length from a list of one part.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def _read_ahead(environ: Environ, max_body_bytes: int) -> bytes | Absent:
    """
    Return the body, or why there is none to look at; *environ* gets a new input.
    """
    length: str | None = environ.get("CONTENT_LENGTH") or None
    if length is None and not environ.get("wsgi.input_terminated"):
        # Only a server that promises an end of input can be read without a length.
        return _body.NO_BODY
    refusal = _body.refusal(
        environ.get("CONTENT_TYPE", ""),
        environ.get("HTTP_CONTENT_ENCODING", ""),
        length,
        max_body_bytes,
    )
    if refusal is not None:
        return refusal

    stream: InputStream = environ["wsgi.input"]
    wanted = max_body_bytes + 1 if length is None else int(length)
    chunks: list[bytes] = []
    error: Exception | None = None
    while wanted > 0:
        try:
            chunk = stream.read(min(wanted, CHUNK_BYTES))
        except Exception as exc:
            error = exc
            break
        if not chunk:
            break
        chunks.append(chunk)
        wanted -= len(chunk)
    body = b"".join(chunks)
    if length is not None and wanted <= 0:
        environ["wsgi.input"] = io.BytesIO(body)
        return body
    environ["wsgi.input"] = _Input(body, stream, error)
    if error is not None or length is not None:
        return _body.CUT_OFF
    return body if wanted > 0 else _body.TOO_LONG


class _Input:
    """
    A ``wsgi.input`` that gives what was read ahead, then what the server has.

    Args:
        head: What was read ahead.
        rest: The server's own input.
        error: What reading ahead ended with, raised where the app would have met it.
    """

    __slots__ = ("_error", "_head", "_rest")

    def __init__(self, head: bytes, rest: InputStream, error: Exception | None) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest
        self._error = error

    def _with_rest(self, data: bytes, rest: Callable[[InputStream], bytes]) -> bytes:
        """
        Return *data* and what the server adds; an error of its waits behind *data*.
        """
        if self._error is None:
            try:
                return data + rest(self._rest)
            except Exception as exc:
                self._error = exc
        if data:
            return data
        error, self._error = self._error, None
        raise error

    def read(self, size: int | None = -1) -> bytes:
        data = self._head.read(size)
        if size is None or size < 0:
            return self._with_rest(data, lambda rest: rest.read())
        if len(data) == size:
            return data
        return self._with_rest(data, lambda rest: rest.read(size - len(data)))

    def readline(self, size: int | None = -1) -> bytes:
        line = self._head.readline(size)
        if line.endswith(b"\n"):
            return line
        if size is None or size < 0:
            return self._with_rest(line, lambda rest: rest.readline())
        if len(line) == size:
            return line
        return self._with_rest(line, lambda rest: rest.readline(size - len(line)))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
