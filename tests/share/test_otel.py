"""The IDs on OpenTelemetry's spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from replaylink import identify, linked
from replaylink._types import ASGIApp, Environ, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.share import ASGIShare, WSGIShare, span_processor
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.helpers import (
    BOTH,
    DRIVERS,
    HEADER,
    LINKED,
    SESSION,
    USER,
    ASGIDriver,
    Driver,
    Raw,
    Reply,
    Request,
    call_wsgi,
    driver_of,
    http_environ,
)

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

IN_HEADER = {HEADER: SESSION}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


class Ended(SpanProcessor):
    """Keeps the attributes of each span that ended, by its name."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, dict[str, Any]]] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append((span.name, dict(span.attributes or {})))


@pytest.fixture
def ended(provider: TracerProvider) -> list[tuple[str, dict[str, Any]]]:
    """All spans that ended."""
    keep = Ended()
    provider.add_span_processor(keep)
    return keep.spans


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """A provider of the test's own."""
    provider = TracerProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> trace.Tracer:
    """A tracer of that provider."""
    return provider.get_tracer("tests")


def spanned(
    driver: Driver, tracer: trace.Tracer, handler: Callable[[Request], Reply | None], **given: str
) -> Any:
    """The handler in an app that shares its IDs, with a span around the whole."""
    if isinstance(driver, ASGIDriver):
        asgi_app = driver.wrap(ASGIShare(driver.app(handler), share="otel"))
        return asgi_around(asgi_app, tracer, given)
    return wsgi_around(driver.wrap(WSGIShare(driver.app(handler), share="otel")), tracer, given)


def asgi_around(app: ASGIApp, tracer: trace.Tracer, given: dict[str, str]) -> ASGIApp:
    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        with tracer.start_as_current_span("around", attributes=given):
            await app(scope, receive, send)

    return around


class Closing:
    """A response that ends its span as it is closed."""

    def __init__(self, result: Any, span: trace.Span) -> None:
        self._result = result
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        yield from self._result

    def close(self) -> None:
        self._result.close()
        self._span.end()


def wsgi_around(app: Any, tracer: trace.Tracer, given: dict[str, str]) -> WSGIApplication:
    def around(environ: Environ, start_response: StartResponse) -> Any:
        span = tracer.start_span("around", attributes=given)
        try:
            with trace.use_span(span):
                return Closing(app(environ, start_response), span)
        except BaseException:
            span.end()
            raise

    return around


Spans = list[tuple[str, dict[str, Any]]]


async def test_the_span_around(driver: Driver, tracer: trace.Tracer, ended: Spans) -> None:
    """The span around the request has both IDs, also of a user who came in the stream."""

    def chunks() -> Iterator[bytes]:
        identify(USER)
        yield b"x"

    app = spanned(driver, tracer, lambda request: Reply(chunks()))
    await driver.send(app, headers=IN_HEADER)
    await driver.send(app)

    assert [("around", BOTH), ("around", {"posthogDistinctId": USER})] == ended


async def test_an_error(driver: Driver, tracer: trace.Tracer, ended: Spans) -> None:
    """A request that fails has its IDs on its span, too."""

    def handler(request: Request) -> None:
        identify(USER)
        raise LookupError

    with pytest.raises(LookupError):
        await driver.send(spanned(driver, tracer, handler), headers=IN_HEADER)

    assert [("around", BOTH)] == [
        (name, {key: value for key, value in attributes.items() if key in BOTH})
        for name, attributes in ended
    ]


async def test_what_is_there_stays(driver: Driver, tracer: trace.Tracer, ended: Spans) -> None:
    """An attribute that others have set stays; one of ours changes as the user does."""

    def handler(request: Request) -> None:
        identify("first")
        identify(USER)

    app = spanned(driver, tracer, handler, sessionId="given")
    await driver.send(app, headers=IN_HEADER)

    assert [("around", {**BOTH, "sessionId": "given"})] == ended


async def test_a_user_who_changes_in_the_stream(
    driver: Driver, tracer: trace.Tracer, ended: Spans
) -> None:
    """An ID of ours that is on the span already gives way to the one that replaced it."""

    def chunks() -> Iterator[bytes]:
        yield b"x"
        identify(USER)

    def handler(request: Request) -> Reply:
        identify("first")
        return Reply(chunks())

    await driver.send(spanned(driver, tracer, handler), headers=IN_HEADER)

    assert [("around", BOTH)] == ended


@pytest.mark.parametrize("middleware", [True, False], ids=["no-span", "no-middleware"])
async def test_nothing_to_tell(
    driver: Driver, tracer: trace.Tracer, ended: Spans, middleware: bool
) -> None:
    """Without a span there is nothing to set it on, and without the middleware no ID."""
    share = ASGIShare if isinstance(driver, ASGIDriver) else WSGIShare
    app: Any = share(driver.app(lambda request: None))
    if middleware:
        assert "ok" == await driver.send(driver.wrap(app), headers=IN_HEADER)
    else:
        with tracer.start_as_current_span("around"):
            await driver.send(app, headers=IN_HEADER)

    assert [("around", {})] * (not middleware) == ended


async def test_a_span_that_ends_with_the_last_part(
    tracer: trace.Tracer, ended: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry ends its span in send(): what is known by then is on it, and no more."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        identify(USER)
        await send({"type": "http.response.body", "body": b"ok"})
        identify("later")

    linked_app = ReplayLinkMiddleware(ASGIShare(app))

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        span = tracer.start_span("around")

        async def send_ending(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                span.end()

        with trace.use_span(span):
            await linked_app(scope, receive, send_ending)

    await ASGIDriver().send(around, headers=IN_HEADER)

    assert [("around", BOTH)] == ended
    assert "" == "".join(r.message for r in caplog.records if r.name.startswith("opentelemetry"))


async def test_opentelemetrys_own_middleware(provider: TracerProvider, ended: Spans) -> None:
    """The server's span of OpenTelemetry's middleware around ours has both IDs."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.asgi")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        identify(USER)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    traced = instrumentation.OpenTelemetryMiddleware(
        ReplayLinkMiddleware(ASGIShare(app, share="otel")),
        tracer_provider=provider,
        exclude_spans=["receive", "send"],
    )
    await ASGIDriver().send(traced, headers=IN_HEADER)
    [(name, attributes)] = ended

    assert "GET /" == name
    assert {**attributes, **BOTH} == attributes


def test_a_span_that_begins_within_the_app(tracer: trace.Tracer, ended: Spans) -> None:
    """Without a span around us, that of the framework has the IDs, late users too."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        with tracer.start_as_current_span("framework"):
            with tracer.start_as_current_span("query"):
                identify(USER)
            start_response("200 OK", [])
        return [b"ok"]

    session = (HEADER.lower().encode(), SESSION.encode())
    call_wsgi(WSGIMiddleware(app, share="otel"), http_environ(Raw([session], method="GET")))

    assert [("query", {}), ("framework", BOTH)] == ended


class TestProcessor:
    """Spans that start within a request."""

    def test_spans_within(
        self, provider: TracerProvider, tracer: trace.Tracer, ended: Spans
    ) -> None:
        """Spans that start within a request have what is known then; others nothing."""
        provider.add_span_processor(span_processor())
        with tracer.start_as_current_span("before"), linked(session_id=SESSION):
            with tracer.start_as_current_span("first"):
                identify(USER)
            with tracer.start_as_current_span("second"):
                pass

        assert [("first", LINKED), ("second", BOTH), ("before", {})] == ended

    def test_what_is_there_stays(
        self, provider: TracerProvider, tracer: trace.Tracer, ended: Spans
    ) -> None:
        """An attribute that a span starts with stays; other keys are those of the lines."""
        provider.add_span_processor(span_processor())
        with linked(session_id=SESSION, user_id=USER, user_key="user.id"):
            tracer.start_span("one", attributes={"sessionId": "given"}).end()

        assert [("one", {"sessionId": "given", "user.id": USER})] == ended

    def test_a_span_that_ends_elsewhere(
        self, provider: TracerProvider, tracer: trace.Tracer, ended: Spans
    ) -> None:
        """A span that outlives its request keeps the IDs of that one."""
        provider.add_span_processor(span_processor())
        with linked(session_id=SESSION):
            span = tracer.start_span("one")
        with linked(session_id="another", user_id="another"):
            span.end()

        assert [("one", LINKED)] == ended
