"""PostHog's Python context: whose the events of a request are."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import httpx
import pytest

from replaylink import current_identity, identify, linked
from replaylink._types import ASGIApp, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.share import ASGIShare, WSGIShare
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.helpers import (
    DRIVERS,
    HEADER,
    OTHER_SESSION,
    SESSION,
    USER,
    ASGIDriver,
    Driver,
    Messages,
    Raw,
    Reply,
    Request,
    Sent,
    driver_of,
    http_environ,
    http_scope,
    on_server,
)
from tests.share.receiver import Event, Receiver

pytest.importorskip("posthog")
sdk = pytest.importorskip("posthog.contexts")

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from posthog import Posthog

IN_HEADER = {HEADER: SESSION}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


def shared(driver: Driver, handler: Callable[[Request], Reply | None]) -> Any:
    """The handler in an app that shares its IDs with PostHog."""
    share = ASGIShare if isinstance(driver, ASGIDriver) else WSGIShare
    app = driver.app(handler)
    return driver.wrap(share(app, share="posthog"))


def ids() -> tuple[str | None, str | None]:
    """What PostHog's own context says."""
    return sdk.get_context_session_id(), sdk.get_context_distinct_id()


async def test_events_of_a_request(driver: Driver, posthog: Posthog, receiver: Receiver) -> None:
    """Events in the view, its stream and its background have both IDs; others have none."""

    def chunks() -> Iterator[bytes]:
        posthog.capture("chunk")
        yield b"x"

    def handler(request: Request) -> Reply:
        posthog.capture("view")
        identify(USER)
        posthog.capture("after identify")
        try:
            raise LookupError
        except LookupError as exc:
            posthog.capture_exception(exc)
        return Reply(chunks(), after=lambda: posthog.capture("background"))

    app = driver.before(shared(driver, handler), lambda _: posthog.capture("around"))
    await driver.send(app, headers=IN_HEADER)
    posthog.capture("after")

    assert [
        Event("around"),
        Event("view", SESSION),
        Event("after identify", SESSION, USER),
        Event("$exception", SESSION, USER),
        Event("chunk", SESSION, USER),
        Event("background", SESSION, USER),
        Event("after"),
    ] == receiver.events


async def test_a_user_who_is_only_looked_at(driver: Driver) -> None:
    """A user whom authentication finds is known as soon as PostHog asks."""
    seen = []

    def handler(request: Request) -> None:
        seen.append(ids())
        driver.sign_in(request.connection, USER)
        seen.append(ids())

    await driver.send(shared(driver, handler), headers=IN_HEADER)

    assert [(SESSION, None), (SESSION, USER)] == seen


async def test_threads_and_tasks(driver: Driver) -> None:
    """Threads that copy the context have the IDs, also of a user who comes later."""
    seen = []

    def handler(request: Request) -> None:
        context = contextvars.copy_context()
        identify(USER)
        thread = threading.Thread(target=lambda: seen.append(context.run(ids)))
        thread.start()
        thread.join(5)

    await driver.send(shared(driver, handler), headers=IN_HEADER)

    assert [(SESSION, USER)] == seen


async def test_what_the_app_says_counts_for_more(
    driver: Driver, posthog: Posthog, receiver: Receiver
) -> None:
    """IDs that the app gives to PostHog itself stay; contexts within the request inherit."""

    def handler(request: Request) -> None:
        identify(USER)
        posthog.capture("given", distinct_id="given", properties={"$session_id": "s"})
        with sdk.new_context(capture_exceptions=False):
            posthog.capture("inherited")
            sdk.identify_context("nested")
            posthog.capture("nested")
        posthog.capture("after")
        sdk.identify_context("said")
        sdk.set_context_session(OTHER_SESSION)
        posthog.capture("said")

    await driver.send(shared(driver, handler), headers=IN_HEADER)

    assert [
        Event("given", "s", "given"),
        Event("inherited", SESSION, USER),
        Event("nested", SESSION, "nested"),
        Event("after", SESSION, USER),
        Event("said", OTHER_SESSION, "said"),
    ] == receiver.events


async def test_tags_are_of_their_request(
    driver: Driver, posthog: Posthog, receiver: Receiver
) -> None:
    """Tags are on the events of their request, and on no later one's."""

    def handler(request: Request) -> None:
        if request.body:
            sdk.tag("colour", request.body.decode())
        posthog.capture("view")

    app = shared(driver, handler)
    await driver.send(app, "POST", content=b"blue")
    await driver.send(app)
    posthog.capture("after")

    assert ["blue", None, None] == [raw["properties"].get("colour") for raw in receiver.raw_events]


async def test_a_context_around_is_not_inherited_and_comes_back(driver: Driver) -> None:
    """What stood there before a request is nothing of its own, and is there after it."""
    seen = []
    app = shared(driver, lambda request: seen.append((ids(), sdk.get_tags())))
    with sdk.new_context(capture_exceptions=False):
        sdk.identify_context("another")
        sdk.set_context_session("another-session")
        sdk.tag("colour", "blue")
        await driver.send(app)
        seen.append((ids(), sdk.get_tags()))

    assert [((None, None), {}), (("another-session", "another"), {"colour": "blue"})] == seen


async def test_an_error_handler_around(
    driver: Driver, posthog: Posthog, receiver: Receiver
) -> None:
    """What handles the error around the middleware captures it with both IDs, and then none."""

    def handler(request: Request) -> None:
        identify(USER)
        sdk.tag("colour", "blue")
        raise LookupError

    async def work() -> None:
        try:
            await driver.send(shared(driver, handler), headers=IN_HEADER)
        except LookupError as exc:
            posthog.capture_exception(exc)
        posthog.capture("after")
        await driver.send(shared(driver, lambda request: None))
        posthog.capture("later")

    # Each request has a task of its own, as on a server.
    await asyncio.create_task(work())

    assert [
        Event("$exception", SESSION, USER),
        Event("after"),
        Event("later"),
    ] == receiver.events
    assert ["blue", None, None] == [raw["properties"].get("colour") for raw in receiver.raw_events]


async def test_nothing_is_left_for_a_job(driver: Driver) -> None:
    """What the app set in a request that failed is on its error, and nowhere later."""
    seen = []

    def handler(request: Request) -> None:
        sdk.tag("body", request.body.decode())
        sdk.identify_context("said")
        sdk.set_context_session(OTHER_SESSION)
        with linked(user_id="inner"):
            seen.append((ids(), sdk.get_tags()))
        raise LookupError

    app = shared(driver, handler)
    for body in ("one", "two"):
        try:
            await driver.send(app, "POST", headers={HEADER: body}, content=body)
        except LookupError:
            seen.append((ids(), sdk.get_tags()))
        with linked(session_id=f"job-{body}", user_id="job"):
            seen.append((ids(), sdk.get_tags()))

    said = (OTHER_SESSION, "said")

    assert [
        *[(said, {"body": "one"})] * 2,
        (("job-one", "job"), {}),
        *[(said, {"body": "two"})] * 2,
        (("job-two", "job"), {}),
    ] == seen


async def test_what_a_server_copies_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that uvicorn takes for the next request shows neither IDs nor tags."""
    on_server("uvicorn", monkeypatch)
    copied: list[contextvars.Context] = []

    async def send_last(message: Any) -> None:
        copied.append(contextvars.copy_context())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sdk.tag("colour", "blue")
        sdk.identify_context("said")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        # Here a pipelined request would start.
        here = (ids(), sdk.get_tags())

        assert ((SESSION, "said"), {"colour": "blue"}) == here
        assert ((None, None), {}) == copied[-1].run(lambda: (ids(), sdk.get_tags()))

    linked_app: ASGIApp = ReplayLinkMiddleware(ASGIShare(app, share="posthog"))
    headers = ((HEADER.lower().encode(), SESSION.encode()),)
    await linked_app(http_scope(Raw(headers)), Messages([]).receive, send_last)

    assert 2 == len(copied)


async def test_what_comes_after_a_failed_request(driver: Driver) -> None:
    """Its tags are on no job of the same user, and on no error that shares nothing."""
    seen = []

    def handler(request: Request) -> None:
        sdk.tag("colour", "blue")
        identify(USER)
        raise LookupError

    with pytest.raises(LookupError):
        await driver.send(shared(driver, handler), headers=IN_HEADER)
    with linked(session_id=SESSION, user_id=USER):
        seen.append((ids(), sdk.get_tags()))

    def fail(request: Request) -> None:
        raise LookupError

    try:
        await driver.send(driver.wrap(driver.app(fail)), headers={HEADER: OTHER_SESSION})
    except LookupError:
        seen.append((ids(), sdk.get_tags()))

    assert [((SESSION, USER), {}), ((OTHER_SESSION, None), {})] == seen


async def test_work_that_outlives_its_request(driver: Driver) -> None:
    """A copy of the context keeps the IDs and the tags, as long as it is used."""
    copies = []

    def handler(request: Request) -> None:
        sdk.tag("colour", "blue")
        copies.append(contextvars.copy_context())
        identify(USER)

    await driver.send(shared(driver, handler), headers=IN_HEADER)

    assert ((SESSION, USER), {"colour": "blue"}) == copies[0].run(lambda: (ids(), sdk.get_tags()))


async def test_an_error_within_another_context(driver: Driver) -> None:
    """A context of somebody else's around the request is back after an error, too."""

    def handler(request: Request) -> None:
        raise LookupError

    with sdk.new_context(fresh=True, capture_exceptions=False):
        sdk.identify_context("another")
        with pytest.raises(LookupError):
            await driver.send(shared(driver, handler), headers=IN_HEADER)

        assert (None, "another") == ids()


async def test_starlettes_handler_for_all_errors(posthog: Posthog, receiver: Receiver) -> None:
    """The handler for Exception, which runs outside of all middleware, captures both IDs."""
    starlette = pytest.importorskip("starlette.applications")
    responses = pytest.importorskip("starlette.responses")

    def fail(request: Any) -> None:
        identify(USER)
        raise LookupError

    def answer(request: Any, exc: Exception) -> Any:
        posthog.capture_exception(exc)
        return responses.PlainTextResponse("sorry", 500)

    app = starlette.Starlette(exception_handlers={Exception: answer})
    app.add_route("/", fail)
    app.add_middleware(ASGIShare, share=["posthog"])
    app.add_middleware(ReplayLinkMiddleware)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/", headers=IN_HEADER)

    assert "sorry" == response.text
    assert [Event("$exception", SESSION, USER)] == receiver.events


async def test_posthogs_own_middleware_inside(posthog: Posthog, receiver: Receiver) -> None:
    """PostHog's middleware captures the error, with its properties and our IDs."""
    integration = pytest.importorskip("posthog.integrations.asgi")

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        identify(USER)
        raise LookupError

    theirs = integration.PosthogASGIMiddleware(
        fail, client=posthog, capture_exceptions=True, capture_tracing_headers=False
    )
    app = ReplayLinkMiddleware(ASGIShare(theirs, share="posthog"))
    with pytest.raises(LookupError):
        await ASGIDriver().send(app, "GET", "/a", headers=IN_HEADER)
    [raw] = receiver.raw_events

    assert [Event("$exception", SESSION, USER)] == receiver.events
    assert "/a" == raw["properties"]["$request_path"]


@pytest.mark.parametrize("kind", ["lifespan", "other"])
async def test_other_scopes_pass_through(kind: str) -> None:
    """Any other scope reaches the app untouched."""
    seen: list[Any] = []

    async def app(*args: Any) -> None:
        seen.extend(args)

    given: list[Any] = [{"type": kind}, object(), object()]
    await ASGIShare(app)(*given)

    assert [True] * 3 == [a is b for a, b in zip(given, seen, strict=True)]


async def test_a_request_that_is_never_finished() -> None:
    """A coroutine that is thrown away elsewhere leaves the context there alone."""
    started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await asyncio.Event().wait()

    linked: ASGIApp = ReplayLinkMiddleware(ASGIShare(app, share="posthog"))
    call = linked(http_scope(), Messages([]).receive, Sent().send)
    contextvars.copy_context().run(call.send, None)  # type: ignore[attr-defined]
    with sdk.new_context(fresh=True, capture_exceptions=False):
        sdk.identify_context("another")
        call.close()  # type: ignore[attr-defined]

        assert (None, "another") == ids()


def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
    return lambda data: None


class TestWSGI:
    """What only WSGI has."""

    def test_parts_in_another_thread(self) -> None:
        """Parts and close() have the IDs in any thread, which keeps nothing of them."""
        seen = []

        class Body:
            def __iter__(self) -> Iterator[bytes]:
                seen.append(ids())
                yield b"x"

            def close(self) -> None:
                seen.append(ids())

        def app(environ: Any, start_response: StartResponse) -> Body:
            start_response("200 OK", [])
            return Body()

        result: Any = WSGIMiddleware(WSGIShare(app))(
            http_environ(HTTP_X_POSTHOG_SESSION_ID=SESSION), start_response
        )
        seen.append(ids())

        def serve() -> None:
            list(result)
            result.close()
            result.close()
            seen.append(ids())

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join(5)

        # PostHog's context is not around the server's own doings.
        assert [(None, None), (SESSION, None), (SESSION, None), (None, None)] == seen

    def test_a_list_keeps_its_length(self) -> None:
        """Servers take Content-Length from a list of one part."""
        result: Any = WSGIShare(lambda environ, start: [b"only"])(http_environ(), start_response)
        result.close()

        assert (1, [b"only"]) == (len(result), list(result))

    def test_a_generator_has_no_length(self) -> None:
        """What has no length gets none."""
        result = WSGIShare(lambda environ, start: iter([b"x"]))(http_environ(), start_response)

        assert not hasattr(result, "__len__")

    def test_a_file_passes_through(self) -> None:
        """A file is the server's to send."""
        file = FileWrapper(open(__file__, "rb"))  # noqa: SIM115
        environ = {**http_environ(), "wsgi.file_wrapper": FileWrapper}
        result = WSGIShare(lambda environ, start: file)(environ, start_response)
        file.close()

        assert file is result


async def test_it_agrees_with_the_lines(driver: Driver) -> None:
    """PostHog and the log lines never differ in whose request it is."""
    seen = []

    def handler(request: Request) -> None:
        identify("first")
        identify("second", session_id=OTHER_SESSION)
        identity = current_identity()
        seen.append((ids(), (identity.session_id, identity.user_id)))

    await driver.send(shared(driver, handler), headers=IN_HEADER)

    assert [((OTHER_SESSION, "second"), (OTHER_SESSION, "second"))] == seen
