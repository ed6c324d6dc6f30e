"""
One identity for all: a request's IDs in PostHog's own context and on its span.

::

    app.add_middleware(ASGIShare, share=("posthog", "otel"))
    app.add_middleware(ReplayLinkMiddleware)  # last, so that it goes around
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Token, copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ._files import is_file
from ._identity import Identity, bound_identity, linked
from ._types import ASGIApp, Environ, Message

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication
    from opentelemetry.sdk.trace import SpanProcessor

__all__ = ["ASGIShare", "WSGIShare", "span_processor"]


class Sharing(Protocol):
    """
    What one request shares with another library.

    Entered wherever code of the request runs: for an ASGI request once, for a WSGI
    request also for each part of its response, which a server may take in any thread.
    """

    def enter(self) -> None: ...

    def update(self) -> None: ...

    def exit(self, *, failed: bool) -> None: ...


Sink: TypeAlias = Callable[[], Sharing]
"""Another library, asked at the start of each request."""


@functools.cache
def _posthog() -> Sink:
    msg = 'share="posthog" needs posthog 6 or 7: pip install "replaylink[posthog]"'
    try:
        # Nothing public takes a context of another class; these two are as old as 6.0.
        from posthog.contexts import ContextScope, _context_stack, get_context_distinct_id
    except ImportError as exc:
        raise ImportError(msg) from exc

    class Scope(ContextScope):
        """
        PostHog's context of one request, with the IDs that are known when it is asked.

        It may stay where the request has been: after an error, for those who capture it,
        and in what a server copies for the next request. There it knows no IDs but those
        of the identity at hand, and nothing that the app has set, unless that is ours.
        """

        def __init__(self) -> None:
            # Without a parent: what is there may be what another request left behind.
            super().__init__(None, fresh=True, capture_exceptions=False)
            self.is_left = False
            self._identity = bound_identity()

        def _is_ours(self, identity: Identity) -> bool:
            ours = self._identity
            return (
                not self.is_left
                or identity is ours
                # What stands for the identity while an error is handled.
                or (
                    ours is not None
                    and identity.counts is not None
                    and (identity.session_id, identity.user_id) == (ours.session_id, ours.user_id)
                )
            )

        # What the app itself gives to PostHog counts.

        @property
        def session_id(self) -> str | None:
            identity = _live_identity()
            if identity is None:
                return None
            return (self._is_ours(identity) and self._session_id) or identity.session_id

        @session_id.setter
        def session_id(self, value: str | None) -> None:
            self._session_id = value

        @property
        def distinct_id(self) -> str | None:
            identity = _live_identity()
            if identity is None:
                return None
            return (self._is_ours(identity) and self._distinct_id) or identity.user_id

        @distinct_id.setter
        def distinct_id(self, value: str | None) -> None:
            self._distinct_id = value

        def collect_tags(self) -> dict[str, Any]:
            identity = _live_identity()
            if identity is None or not self._is_ours(identity):
                return {}
            return super().collect_tags()

    class InContext:
        __slots__ = ("_scope", "_token")

        def __init__(self) -> None:
            self._scope = Scope()

        def enter(self) -> None:
            self._scope.is_left = False
            self._token: Token[ContextScope | None] = _context_stack.set(self._scope)

        def update(self) -> None:
            pass  # it is asked, and need not be told

        def exit(self, *, failed: bool) -> None:
            self._scope.is_left = True
            # Handlers and the server have yet to see the error, and may capture it.
            before = self._token.old_value
            if failed and (isinstance(before, Scope) or not isinstance(before, ContextScope)):
                return
            try:
                _context_stack.reset(self._token)
            except ValueError:  # in another context, as a coroutine that was never finished
                pass

    def is_asked() -> bool:
        InContext().enter()
        with linked(user_id="42"):
            return get_context_distinct_id() == "42"

    # Better found out as the app starts than by events without IDs.
    if not copy_context().run(is_asked):
        raise ImportError(msg)
    return InContext


def _live_identity() -> Identity | None:
    identity = bound_identity()
    return None if identity is None or identity.ended else identity


@functools.cache
def _otel() -> Sink:
    try:
        from opentelemetry.trace import get_current_span
    except ImportError as exc:
        msg = 'share="otel" needs OpenTelemetry: pip install "replaylink[otlp]"'
        raise ImportError(msg) from exc

    class OnSpan:
        """
        The span that was active when the request came to us; it ends after the request.

        If there was none, the one that is active as the response starts: what instruments
        Flask begins its span within the app.
        """

        __slots__ = ("_attributes",)

        def __init__(self) -> None:
            self._attributes: _Attributes | None = None

        def update(self) -> None:
            if self._attributes is None:
                identity = _live_identity()
                span = get_current_span()
                if identity is None or not span.is_recording():
                    return
                self._attributes = _Attributes(span, identity)
            self._attributes.set()

        enter = update

        def exit(self, *, failed: bool) -> None:
            self.update()

    return OnSpan


class _Attributes:
    """
    The IDs of a request as attributes of one of its spans.
    """

    __slots__ = ("_identity", "_ours", "_span")

    def __init__(self, span: Any, identity: Identity) -> None:
        self._span = span
        self._identity = identity
        self._ours: dict[str, str] = {}

    def set(self) -> None:
        """
        Set what is known by now, and not set by others.
        """
        identity, ours = self._identity, self._ours
        keys = identity.keys
        for key, value in (
            (keys.session_key, identity.session_id),
            (keys.user_key, identity.user_id),
        ):
            if value is None or ours.get(key) == value:
                continue
            # Only a span of the SDK tells what it has.
            there = getattr(self._span, "attributes", None) or {}
            if there.get(key) == ours.get(key) and self._span.is_recording():
                self._span.set_attribute(key, value)
                ours[key] = value


@functools.cache
def _processor() -> type[SpanProcessor]:
    try:
        from opentelemetry.sdk.trace import SpanProcessor
    except ImportError as exc:
        msg = 'span_processor() needs OpenTelemetry\'s SDK: pip install "replaylink[otlp]"'
        raise ImportError(msg) from exc

    class IdentitySpanProcessor(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            identity = _live_identity()
            if identity is not None:
                _Attributes(span, identity).set()

    return IdentitySpanProcessor


def span_processor() -> SpanProcessor:
    """
    Return a processor that puts the IDs on each span that starts within a request.

    ::

        tracer_provider.add_span_processor(span_processor())

    A span gets what is known as it starts, for none can be changed as it ends. The span
    around the whole request started too early: that is what ``share="otel"`` is for. An
    attribute that is there stays.

    Raises:
        ImportError: If OpenTelemetry's SDK is not installed.
    """
    return _processor()()


SINKS: Final[dict[str, Callable[[], Sink]]] = {"posthog": _posthog, "otel": _otel}


def _sinks(share: str | Iterable[str]) -> tuple[Sink, ...]:
    names = (share,) if isinstance(share, str) else tuple(share)
    for name in names:
        if name not in SINKS:
            msg = f"share={share!r}: must be of {', '.join(map(repr, SINKS))}, one or several"
            raise ValueError(msg)
    return tuple(SINKS[name]() for name in dict.fromkeys(names))


class _Shared:
    """
    All that one request shares.
    """

    __slots__ = ("_sharings",)

    def __init__(self, sinks: tuple[Sink, ...]) -> None:
        self._sharings = [sink() for sink in sinks]

    def __enter__(self) -> None:
        for sharing in self._sharings:
            sharing.enter()

    def update(self) -> None:
        """
        Share what became known since.
        """
        for sharing in self._sharings:
            sharing.update()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed = isinstance(exc, Exception) and not isinstance(exc, StopIteration)
        for sharing in self._sharings:
            sharing.exit(failed=failed)


class ASGIShare:
    """
    Share the IDs of each request with other libraries.

    ::

        app.add_middleware(ASGIShare, share=("posthog", "otel"))
        app.add_middleware(ReplayLinkMiddleware)

    It stands inside of `replaylink.asgi.ReplayLinkMiddleware`, and around PostHog's own
    middleware, if that is there for the exceptions that it captures.

    ``"posthog"`` opens a context of PostHog's Python SDK for the request. What is
    captured in it, by any client, has ``$session_id`` and the distinct ID that are known
    by then: a late user too, and also in the handlers of an error that the app let out.
    What the app itself gives to PostHog (``identify_context()``, an explicit
    ``distinct_id``) counts for more.

    ``"otel"`` puts the IDs on the OpenTelemetry span that is active around the request,
    under the keys of the log lines. An attribute that is there stays.

    Args:
        app: The ASGI app.
        share: The names of the libraries, one or several.

    Raises:
        ImportError: If a library is not installed.
        ValueError: If a name is unknown.
    """

    def __init__(self, app: Any, *, share: str | Iterable[str] = tuple(SINKS)) -> None:
        self.app: ASGIApp = app
        self._sinks = _sinks(share)

    # Frameworks type these three each in its own way.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        shared = _Shared(self._sinks)

        def send_updated(message: Message) -> Awaitable[None]:
            # OpenTelemetry ends its span as the last part is out.
            if not message.get("more_body", False):
                shared.update()
            return send(message)  # type: ignore[no-any-return]

        with shared:
            await self.app(scope, receive, send_updated)


class WSGIShare:
    """
    Share the IDs of each request with other libraries.

    ::

        app.wsgi_app = ReplayLinkMiddleware(WSGIShare(app.wsgi_app, share="posthog"))

    It stands inside of `replaylink.wsgi.ReplayLinkMiddleware`. What it shares, and with
    whom, is told at `ASGIShare`. A ``wsgi.file_wrapper`` response goes to the server as
    it is.

    Args:
        app: The WSGI app.
        share: The names of the libraries, one or several.

    Raises:
        ImportError: If a library is not installed.
        ValueError: If a name is unknown.
    """

    def __init__(self, app: WSGIApplication, *, share: str | Iterable[str] = tuple(SINKS)) -> None:
        self.app = app
        self._sinks = _sinks(share)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        shared = _Shared(self._sinks)

        def start(*args: Any) -> Callable[[bytes], object]:
            shared.update()
            return start_response(*args)

        with shared:
            result = self.app(environ, start)
        if is_file(result, environ):
            return result
        response = _SizedResponse if hasattr(result, "__len__") else _Response
        return response(result, shared)


class _Response:
    """
    A response, each part of which is made while the IDs are shared.
    """

    __slots__ = ("_close", "_iterator", "_result", "_shared")

    def __init__(self, result: Iterable[bytes], shared: _Shared) -> None:
        self._result = result
        self._iterator: Iterator[bytes] | None = None
        self._close: Callable[[], object] | None = getattr(result, "close", None)
        self._shared = shared

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._shared:
            if self._iterator is None:
                self._iterator = iter(self._result)
            return next(self._iterator)

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            with self._shared:
                close()


class _SizedResponse(_Response):
    """
    A response with a length: servers take Content-Length from a list of one part.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]
