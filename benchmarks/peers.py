"""
The bare apps, and what is wrapped around them: replaylink and its peers.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from replaylink import current_identity
from replaylink._types import ASGIApp, Environ, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware as ASGIReplayLink
from replaylink.wsgi import ReplayLinkMiddleware as WSGIReplayLink

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

Session = Callable[[], str | None]
"""What the app asks for the session ID."""


class Tap:
    """
    Keeps what an app learns of the session, if told how.
    """

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self.seen: str | None = None

    def ask(self) -> None:
        if self.session is not None:
            self.seen = self.session()


class ASGITap(Tap):
    """
    The bare app for ASGI.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = scope["method"] == "POST"
        while more:
            more = (await receive()).get("more_body", False)
        self.ask()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
            }
        )
        await send({"type": "http.response.body", "body": b"ok"})


class WSGITap(Tap):
    """
    The bare app for WSGI.
    """

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.ask()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]


def flask_app(tap: WSGITap) -> Any:
    """
    Return a Flask app that answers as *tap* does, and tells it the session.
    """
    flask = peer("flask")
    app = flask.Flask("benchmark")

    @app.route("/api/chat", methods=["GET", "POST"])  # type: ignore[untyped-decorator]
    def answer() -> str:
        flask.request.get_data()
        tap.ask()
        return "ok"

    return app


BARE = "bare app"
BARE_FLASK = "bare Flask"
MINIMUM = "hand-written minimum"
OURS = "**replaylink**"
OURS_UVICORN = "**replaylink**, with uvicorn imported"
POSTHOG = "PostHog's `PosthogASGIMiddleware`"
CORRELATION = "`asgi-correlation-id`"
CONTEXT = "`starlette-context`, raw, no plugin"
CONTEXT_PLUGIN = "`starlette-context`, raw, a plugin for the header"
POSTHOG_FLASK = "PostHog's `PosthogFlaskIntegration`"


@dataclass(frozen=True)
class Variant:
    """
    One way to tell the app about the session.

    Args:
        wrap: Puts it around an app.
        session: How the app learns the session ID from it; None if it does not tell.
        around: The name of the app that it is wrapped around, and measured against.
        uvicorn: Whether uvicorn counts as imported: replaylink keeps out of its way.
    """

    wrap: Callable[[Any], Any]
    session: Session | None
    around: str = BARE
    uvicorn: bool = False

    def put_around(self, tap: WSGITap) -> Any:
        return self.wrap(flask_app(tap) if self.around == BARE_FLASK else tap)


session_var: ContextVar[str | None] = ContextVar("session_id", default=None)
user_var: ContextVar[str | None] = ContextVar("user_id", default=None)


def peer(module: str) -> Any:
    """
    Return a module of a peer, None if that is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def our_session() -> str | None:
    return current_identity().session_id


def minimum_asgi(app: ASGIApp) -> ASGIApp:
    async def minimum(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        session_id = user_id = None
        for name, value in scope["headers"]:
            if name == b"x-posthog-session-id":
                session_id = value.decode("latin-1")
            elif name == b"x-posthog-distinct-id":
                user_id = value.decode("latin-1")
        session = session_var.set(session_id)
        user = user_var.set(user_id)
        try:
            await app(scope, receive, send)
        finally:
            user_var.reset(user)
            session_var.reset(session)

    return minimum


def minimum_wsgi(app: WSGIApplication) -> WSGIApplication:
    def minimum(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        session = session_var.set(environ.get("HTTP_X_POSTHOG_SESSION_ID"))
        user = user_var.set(environ.get("HTTP_X_POSTHOG_DISTINCT_ID"))
        try:
            return app(environ, start_response)
        finally:
            user_var.reset(user)
            session_var.reset(session)

    return minimum


class _Closing:
    """
    The least that keeps both IDs for a streamed response, and for the access line.
    """

    def __init__(self, result: Iterable[bytes], tokens: tuple[Any, Any]) -> None:
        self.result = result
        self.parts = iter(result)
        self.tokens = tokens

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.parts)

    def close(self) -> None:
        try:
            close = getattr(self.result, "close", None)
            if close is not None:
                close()
        finally:
            user_var.reset(self.tokens[1])
            session_var.reset(self.tokens[0])


def minimum_closing(app: WSGIApplication) -> WSGIApplication:
    def minimum(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        session = session_var.set(environ.get("HTTP_X_POSTHOG_SESSION_ID"))
        user = user_var.set(environ.get("HTTP_X_POSTHOG_DISTINCT_ID"))
        try:
            return _Closing(app(environ, start_response), (session, user))
        except BaseException:
            user_var.reset(user)
            session_var.reset(session)
            raise

    return minimum


def silent_posthog() -> Any:
    """
    Return a client of PostHog that sends nothing, and has nowhere to send it.
    """
    return peer("posthog").Posthog(
        "phc_benchmark", host="http://127.0.0.1:9", disabled=True, send=False
    )


def asgi_variants() -> dict[str, Variant]:
    variants = {
        MINIMUM: Variant(minimum_asgi, session_var.get),
        OURS: Variant(ASGIReplayLink, our_session),
        OURS_UVICORN: Variant(ASGIReplayLink, our_session, uvicorn=True),
    }

    correlation = peer("asgi_correlation_id")
    if correlation:
        variants[CORRELATION] = Variant(
            lambda app: correlation.CorrelationIdMiddleware(
                app, header_name="X-PostHog-Session-ID"
            ),
            correlation.correlation_id.get,
        )

    starlette_context = peer("starlette_context")
    if starlette_context:
        raw = peer("starlette_context.middleware").RawContextMiddleware
        plugins = peer("starlette_context.plugins")

        class SessionPlugin(plugins.Plugin):  # type: ignore[name-defined,misc]
            key = "X-PostHog-Session-ID"

        variants[CONTEXT] = Variant(raw, None)
        variants[CONTEXT_PLUGIN] = Variant(
            lambda app: raw(app, plugins=(SessionPlugin(),)),
            lambda: str(starlette_context.context["X-PostHog-Session-ID"]),
        )

    posthog = peer("posthog.integrations.asgi")
    if posthog:
        client = silent_posthog()
        variants[POSTHOG] = Variant(
            lambda app: posthog.PosthogASGIMiddleware(app, client=client),
            peer("posthog.contexts").get_context_session_id,
        )

    starlette = peer("starlette.middleware.base")
    if starlette:

        class Binding(starlette.BaseHTTPMiddleware):  # type: ignore[name-defined,misc]
            async def dispatch(self, request: Any, call_next: Any) -> Any:
                structlog.contextvars.clear_contextvars()
                structlog.contextvars.bind_contextvars(
                    sessionId=request.headers.get("x-posthog-session-id"),
                    posthogDistinctId=request.headers.get("x-posthog-distinct-id"),
                )
                return await call_next(request)

        variants["`BaseHTTPMiddleware` with `bind_contextvars`"] = Variant(
            Binding,
            lambda: str(structlog.contextvars.get_contextvars()["sessionId"]),
        )

    opentelemetry = peer("opentelemetry.instrumentation.asgi")
    if opentelemetry:
        variants["OpenTelemetry's ASGI middleware"] = Variant(
            lambda app: opentelemetry.OpenTelemetryMiddleware(app, tracer_provider=tracing()),
            None,
        )
    return variants


def tracing() -> Any:
    """
    Return OpenTelemetry's own tracer provider, which records spans and exports none.
    """
    return peer("opentelemetry.sdk.trace").TracerProvider()


def wsgi_variants() -> dict[str, Variant]:
    variants = {
        MINIMUM: Variant(minimum_wsgi, session_var.get),
        "minimum that lasts until `close()`": Variant(minimum_closing, session_var.get),
        OURS: Variant(WSGIReplayLink, our_session),
    }
    opentelemetry = peer("opentelemetry.instrumentation.wsgi")
    if opentelemetry:
        variants["OpenTelemetry's WSGI middleware"] = Variant(
            lambda app: opentelemetry.OpenTelemetryMiddleware(app, tracer_provider=tracing()),
            None,
        )
    if peer("flask"):
        variants[f"{OURS} around Flask"] = Variant(WSGIReplayLink, our_session, BARE_FLASK)
        posthog = peer("posthog.integrations.flask")
        if posthog:
            client = silent_posthog()

            def integrated(app: Any) -> Any:
                posthog.PosthogFlaskIntegration(app, client=client)
                return app

            session = peer("posthog.contexts").get_context_session_id
            variants[POSTHOG_FLASK] = Variant(integrated, session, BARE_FLASK)
    return variants
