"""
What only the middleware for ASGI does.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog

from replaylink import _lifespan, identify
from replaylink._types import ASGIApp, Message, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.sources import header, json_body, posthog_cookie, query
from tests.helpers import (
    BOTH,
    HEADER,
    JSON,
    LINKED,
    OTHER_SESSION,
    SESSION,
    USER,
    ASGIDriver,
    Messages,
    Raw,
    Sent,
    cookie,
    http_scope,
    line,
    on_server,
    post,
    request_messages,
)

if TYPE_CHECKING:
    from tests.conftest import Lines

log = structlog.get_logger()
driver = ASGIDriver()

SESSION_HEADER = (HEADER.lower().encode(), SESSION.encode())
BODY = b'{"sessionId":"' + SESSION.encode() + b'"}'


@pytest.fixture(autouse=True, params=["any", "uvicorn"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs each test as on uvicorn, from which some things are kept, and as on others."""
    name: str = request.param
    on_server(name, monkeypatch)
    return name


async def no_receive() -> Message:
    raise NotImplementedError


async def no_send(message: Message) -> None:
    raise NotImplementedError


async def answer(send: Send, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("kind", ["lifespan", "webtransport", ""])
async def test_other_scopes_pass_through(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Lifespan and unknown scopes reach the app as they came, with nothing bound or added."""
    monkeypatch.setattr(_lifespan, "_at_end", {})
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))
        log.info("app")
        identify(USER)
        log.info("app")

    scope: Scope = {"type": kind, "headers": [SESSION_HEADER], "user": USER}
    before = dict(scope)
    await ReplayLinkMiddleware(app)(scope, no_receive, no_send)

    assert scope is seen[0]
    assert no_receive is seen[1]
    assert no_send is seen[2]
    assert before == scope
    assert [line("app"), line("app")] == lines


async def test_errors_of_other_scopes_pass_through() -> None:
    """What a lifespan raises is raised."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ReplayLinkMiddleware(app)({"type": "lifespan"}, no_receive, no_send)


async def test_what_waits_for_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server starts and ends the app, what waits for that is done, and once."""
    done: list[str] = []
    monkeypatch.setattr(_lifespan, "_at_start", {})
    monkeypatch.setattr(_lifespan, "_at_end", {})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            done.append("app")
            await send({"type": "lifespan.shutdown.complete"})

    async def sent(message: Message) -> None:
        done.append(message["type"])

    _lifespan.register("logging", at_start=lambda: done.append("former"), at_end=no_end)
    _lifespan.register("logging", at_start=lambda: done.append("start"))
    _lifespan.register(
        "other", at_start=lambda: done.append("other"), at_end=lambda: done.append("end")
    )
    middleware = ReplayLinkMiddleware(app)
    await middleware({"type": "lifespan"}, no_receive, sent)
    await middleware(http_scope(Raw(method="GET")), no_receive, no_send)

    assert [
        "start",
        "other",
        "lifespan.startup.complete",
        "app",
        "end",
        "lifespan.shutdown.complete",
    ] == done


def test_the_end_in_no_loop_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trio runs the app, what waits for its end is done as well."""
    done: list[str] = []
    monkeypatch.setattr(_lifespan, "_at_start", {})
    monkeypatch.setattr(_lifespan, "_at_end", {})
    _lifespan.register("logging", at_start=no_end, at_end=lambda: done.append("end"))

    async def sent(message: Message) -> None:
        done.append(message["type"])

    running: Any = _lifespan.ending(sent)({"type": "lifespan.shutdown.complete"})
    with pytest.raises(StopIteration):
        running.send(None)

    assert ["end", "lifespan.shutdown.complete"] == done


def no_end() -> None:
    raise NotImplementedError


class TestReceiveAndSend:
    """What the app gets to call."""

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(Raw(method="GET"), id="get"),
            pytest.param(Raw(length=0), id="empty"),
            pytest.param(Raw(length=5), id="small"),
            pytest.param(Raw(length=10**9), id="large"),
            pytest.param(Raw(), id="chunked"),
        ],
    )
    async def test_only_uvicorn_is_kept_at_a_distance(self, server: str, request_: Raw) -> None:
        """On any other server an app gets what the server has, and nothing costs more."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend((receive, send))

        scope = http_scope(request_)
        scope["headers"].append(SESSION_HEADER)
        await ReplayLinkMiddleware(app)(scope, no_receive, no_send)

        assert ("uvicorn" == server) is (no_receive is not seen[0])
        assert ("uvicorn" == server) is (no_send is not seen[1])

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(post(BODY, SESSION_HEADER), id="session-known"),
            pytest.param(Raw([], [BODY], length=len(BODY)), id="not-json"),
            pytest.param(post(BODY, (b"content-encoding", b"gzip")), id="encoded"),
            pytest.param(post(BODY, length=10**6), id="too-long"),
        ],
    )
    async def test_bodies_that_are_not_touched(self, request_: Raw) -> None:
        """A body is not read ahead unless there is something to find."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert 0 == messages.received

        messages = Messages(request_messages(request_))
        await ReplayLinkMiddleware(app)(http_scope(request_), messages.receive, no_send)

        assert 0 == messages.received

    async def test_a_replayed_body_is_not_sent_twice(self) -> None:
        """After the body that was read ahead the app gets what the server has, once more each."""
        received: list[Message] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            received.extend([await receive() for _ in range(4)])

        request = Raw(JSON, [BODY[:10], BODY[10:]], length=len(BODY))
        first, second = sent = request_messages(request)
        first["extra"] = object()
        await ReplayLinkMiddleware(app)(http_scope(request), Messages(sent).receive, no_send)

        assert first is received[0]
        assert second is received[1]
        assert [{"type": "http.disconnect"}] * 2 == received[2:]

    async def test_a_disconnect_is_waited_for_live(self) -> None:
        """A listener for the disconnect waits, and does not spin on the replayed body."""
        hang_up = asyncio.Event()
        calls: list[str] = []
        body = request_messages(post(BODY))

        async def receive() -> Message:
            calls.append("receive")
            if body:
                return body.pop()
            await hang_up.wait()
            return {"type": "http.disconnect"}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert "http.request" == (await receive())["type"]
            listener = asyncio.ensure_future(receive())
            await asyncio.sleep(0.01)
            assert not listener.done()
            hang_up.set()
            assert "http.disconnect" == (await listener)["type"]

        await ReplayLinkMiddleware(app)(http_scope(post(BODY)), receive, no_send)

        assert ["receive", "receive"] == calls

    async def test_errors_of_receive(self, lines: Lines) -> None:
        """An error of a layer around meets the app where it receives, and only once."""
        calls = 0

        async def receive() -> Message:
            nonlocal calls
            calls += 1
            if calls == 1:
                return {"type": "http.request", "body": b"{", "more_body": True}
            if calls == 2:
                raise PermissionError
            return {"type": "http.disconnect"}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert b"{" == (await receive())["body"]
            with pytest.raises(PermissionError):
                await receive()
            assert "http.disconnect" == (await receive())["type"]
            log.info("app")

        await ReplayLinkMiddleware(app)(http_scope(Raw(JSON)), receive, no_send)

        assert [line("app")] == lines

    @pytest.mark.parametrize("length", [None, 5, 10**6], ids=["chunked", "small", "large"])
    async def test_errors_of_send(self, lines: Lines, length: int | None) -> None:
        """An error of the server reaches the app, which goes on as itself."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise BrokenPipeError

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with pytest.raises(BrokenPipeError):
                await answer(send)
            log.info("app")

        scope = http_scope(Raw([SESSION_HEADER], length=length))
        await ReplayLinkMiddleware(app)(scope, no_receive, send)
        log.info("after")

        assert [line("app", **LINKED), line("after")] == lines

    async def test_messages_reach_the_server_as_they_are(self) -> None:
        """The messages that the app sends are not touched."""
        messages: list[Message] = [
            {"type": "http.response.start", "status": 201, "headers": [], "extra": object()},
            {"type": "http.response.body", "body": b"a", "more_body": True},
            {"type": "http.response.body", "body": b"b"},
            {"type": "http.response.trailers", "headers": []},
        ]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message)

        sent = Sent()
        await ReplayLinkMiddleware(app)(http_scope(Raw()), no_receive, sent.send)

        assert len(messages) == len(sent.messages)
        assert all(mine is its for mine, its in zip(messages, sent.messages, strict=True))


class TestWebSockets:
    """WebSockets are bound too."""

    @pytest.mark.parametrize(
        ("headers", "query_string", "options"),
        [
            pytest.param([SESSION_HEADER], b"", {}, id="header"),
            pytest.param([(b"cookie", cookie().encode())], b"", {}, id="cookie"),
            pytest.param([], b"s=" + SESSION.encode(), {"session_id": query("s")}, id="query"),
            pytest.param([], b"", {"session_id": lambda scope: SESSION}, id="callable"),
        ],
    )
    async def test_every_line(
        self,
        lines: Lines,
        headers: list[tuple[bytes, bytes]],
        query_string: bytes,
        options: dict[str, Any],
    ) -> None:
        """All lines of a connection are linked, and the app gets what the server has."""
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend((receive, send))
            log.info("connect")
            await receive()
            await send({"type": "websocket.accept"})
            log.info("message")

        scope: Scope = {"type": "websocket", "headers": headers, "query_string": query_string}
        messages, sent = Messages([{"type": "websocket.connect"}]), Sent()
        receive, send = messages.receive, sent.send
        await ReplayLinkMiddleware(app, **options)(scope, receive, send)
        log.info("after")

        assert [receive, send] == seen
        assert [line("connect", **LINKED), line("message", **LINKED), line("after")] == lines

    async def test_no_body_is_read(self, lines: Lines) -> None:
        """A WebSocket has no body, whatever its headers say."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert no_receive is receive
            log.info("app")

        scope: Scope = {"type": "websocket", "headers": [*JSON], "query_string": b""}
        await ReplayLinkMiddleware(app)(scope, no_receive, no_send)

        assert [line("app")] == lines

    async def test_identify_with_the_first_message(self, lines: Lines) -> None:
        """Both IDs may come with a message of the connection."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("before")
            message = await receive()
            identify(message["user"], session_id=message["session"])
            log.info("known")

        messages = Messages([{"type": "websocket.receive", "user": USER, "session": SESSION}])
        scope: Scope = {"type": "websocket", "headers": []}
        await ReplayLinkMiddleware(app)(scope, messages.receive, no_send)
        log.info("after")

        assert [line("before"), line("known", **BOTH), line("after")] == lines

    async def test_errors(self, lines: Lines) -> None:
        """An error of a connection is linked where it is handled."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        scope: Scope = {"type": "websocket", "headers": [SESSION_HEADER]}
        try:
            await ReplayLinkMiddleware(app)(scope, no_receive, no_send)
        except ZeroDivisionError:
            log.info("handled")
        log.info("after")

        assert [line("handled", **LINKED), line("after")] == lines


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_scopes_that_leave_out_what_they_may(lines: Lines, kind: str) -> None:
    """A scope with no headers, no query and no method raises nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        log.info("app")

    sources = (header(), posthog_cookie(), query("s"), json_body("s"))
    await ReplayLinkMiddleware(app, session_id=sources)({"type": kind}, no_receive, no_send)

    assert [line("app")] == lines


class TestCallables:
    """A callable may be async."""

    async def test_async_callables(self, lines: Lines) -> None:
        """An async callable is awaited, in its turn."""

        async def session(scope: Scope) -> str:
            await asyncio.sleep(0)
            return SESSION

        class User:
            async def __call__(self, scope: Scope) -> int:
                await asyncio.sleep(0)
                return 7

        app = driver.linked(
            lambda request: log.info("view"), session_id=(header(), session), user_id=User()
        )
        await driver.send(app)
        await driver.send(app, headers={HEADER: OTHER_SESSION})

        assert [
            line("view", sessionId=SESSION, posthogDistinctId="7"),
            line("view", sessionId=OTHER_SESSION, posthogDistinctId="7"),
        ] == lines

    async def test_async_callables_that_fail(self, lines: Lines) -> None:
        """An async callable that raises gives nothing."""

        async def fails(scope: Scope) -> str:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        app = driver.linked(
            lambda request: log.info("view"), session_id=(fails, header()), user_id=fails
        )
        await driver.send(app, headers={HEADER: SESSION})

        assert [line("view", **LINKED)] == lines

    async def test_a_request_that_is_cancelled_meanwhile(self, lines: Lines) -> None:
        """A server that gives up during a callable is not stopped from it."""

        async def slow(scope: Scope) -> str:
            await asyncio.sleep(60)
            raise NotImplementedError

        app = driver.linked(lambda request: None, session_id=slow)
        task = asyncio.create_task(driver.send(app))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestLateUsers:
    """Whoever learns who the user is, all later lines know."""

    @pytest.mark.parametrize("how", ["to_thread", "task", "deep-task", "sync"])
    async def test_identify_anywhere(self, lines: Lines, how: str) -> None:
        """A thread or a task that copied the context makes the user known everywhere."""

        async def learn() -> None:
            identify(USER)

        async def deeper() -> None:
            await asyncio.create_task(learn())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("before")
            ways: dict[str, Callable[[], Awaitable[None]]] = {
                "to_thread": lambda: asyncio.to_thread(identify, USER),
                "task": lambda: asyncio.create_task(learn()),
                "deep-task": lambda: asyncio.create_task(deeper()),
                "sync": learn,
            }
            await ways[how]()
            log.info("view")
            await asyncio.to_thread(log.info, "thread")
            await answer(send)
            log.info("background")

        scope = http_scope(Raw([SESSION_HEADER], method="GET"))
        await ReplayLinkMiddleware(app)(scope, no_receive, Sent().send)
        log.info("after")

        assert [
            line("before", **LINKED),
            line("view", **BOTH),
            line("thread", **BOTH),
            line("background", **BOTH),
            line("after"),
        ] == lines

    async def test_identify_in_a_child_task_that_runs_the_app(self, lines: Lines) -> None:
        """A layer that runs the app in another task sees the user too."""

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            identify(USER)
            await answer(send)

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.create_task(inner(scope, receive, send))
            log.info("layer")

        scope = http_scope(Raw([SESSION_HEADER], method="GET"))
        await ReplayLinkMiddleware(layer)(scope, no_receive, Sent().send)

        assert [line("layer", **BOTH)] == lines

    async def test_tasks_that_outlive_the_request(self, lines: Lines) -> None:
        """A task that the request started is linked when the request is over, too."""
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def work() -> None:
            await go_on.wait()
            log.info("task")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            tasks.append(asyncio.create_task(work()))

        scope = http_scope(Raw([SESSION_HEADER], method="GET"))
        await ReplayLinkMiddleware(app)(scope, no_receive, no_send)
        log.info("after")
        go_on.set()
        await tasks[0]

        assert [line("after"), line("task", **LINKED)] == lines


class TestEnds:
    """However a request ends, nothing of it is left."""

    async def test_cancelled(self, lines: Lines) -> None:
        """A cancelled request leaves nothing, and the cancellation passes."""
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("app")
            await asyncio.sleep(60)

        async def server() -> None:
            scope = http_scope(Raw([SESSION_HEADER], method="GET"))
            try:
                await ReplayLinkMiddleware(app)(scope, no_receive, no_send)
            except asyncio.CancelledError:
                seen.append("cancelled")
                log.info("after")
                raise

        task = asyncio.create_task(server())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert ["cancelled"] == seen
        assert [line("app", **LINKED), line("after")] == lines

    @pytest.mark.parametrize("length", [5, 10**6], ids=["small", "large"])
    async def test_never_finished(self, lines: Lines, length: int) -> None:
        """A request that is thrown away in another context raises nothing there."""

        class Pause:
            def __await__(self) -> Any:
                yield

        async def receive() -> Message:
            await Pause()
            raise NotImplementedError

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()

        scope = http_scope(Raw([SESSION_HEADER], length=length))
        request: Any = ReplayLinkMiddleware(app)(scope, receive, no_send)
        contextvars.copy_context().run(request.send, None)
        request.close()
        log.info("here")

        assert [line("here")] == lines

    async def test_errors_handled_in_another_thread(self, lines: Lines) -> None:
        """A handler that runs in a thread with this context writes linked lines."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            identify(USER)
            raise ZeroDivisionError

        scope = http_scope(Raw([SESSION_HEADER], method="GET"))
        try:
            await ReplayLinkMiddleware(app)(scope, no_receive, no_send)
        except ZeroDivisionError:
            await asyncio.to_thread(log.info, "handled")

        assert [line("handled", **BOTH)] == lines

    async def test_errors_in_a_chain(self, lines: Lines) -> None:
        """A layer that raises another error in place of the first is still linked."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await ReplayLinkMiddleware(app)(scope, receive, send)
            except ZeroDivisionError as error:
                raise LookupError from error

        try:
            await layer(http_scope(Raw([SESSION_HEADER], method="GET")), no_receive, no_send)
        except LookupError:
            log.info("handled")
        try:
            raise KeyError
        except KeyError:
            log.info("another error")

        assert [line("handled", **LINKED), line("another error")] == lines

    @pytest.mark.parametrize("wraps", [False, True], ids=["itself", "wrapped"])
    async def test_an_error_that_an_app_keeps(self, lines: Lines, wraps: bool) -> None:
        """An exception that is raised once more, in another request, is not the first one's."""
        kept = ZeroDivisionError()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise kept

        async def layer(app: ASGIApp, scope: Scope) -> None:
            try:
                await app(scope, no_receive, no_send)
            except ZeroDivisionError:
                log.info("handled")
            except LookupError:
                log.info("wrapped")

        async def other(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                raise kept
            except ZeroDivisionError as error:
                if wraps:
                    raise LookupError from error
                raise

        scope = http_scope(Raw([SESSION_HEADER], method="GET"))
        await layer(ReplayLinkMiddleware(app), scope)
        await layer(other, http_scope(Raw(method="GET")))

        assert [line("handled", **LINKED), line("wrapped" if wraps else "handled")] == lines

    async def test_an_error_handled_by_a_context_manager(self, lines: Lines) -> None:
        """A layer's context manager that handles an error is still within the request."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        @asynccontextmanager
        async def told() -> AsyncIterator[None]:
            try:
                yield
            except ZeroDivisionError:
                log.info("handled")

        async with told():
            scope = http_scope(Raw([SESSION_HEADER], method="GET"))
            await ReplayLinkMiddleware(app)(scope, no_receive, no_send)
        log.info("after")

        assert [line("handled", **LINKED), line("after")] == lines

    async def test_a_claim_and_a_known_user(self, lines: Lines) -> None:
        """The handler of an error has the user that was learnt last, in whatever thread."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.to_thread(identify, USER)
            raise ZeroDivisionError

        scope = http_scope(Raw([SESSION_HEADER, (b"x-user", b"claim")], method="GET"))
        try:
            await ReplayLinkMiddleware(app, user_id=header("X-User"))(scope, no_receive, no_send)
        except ZeroDivisionError:
            log.info("handled")

        assert [line("handled", **BOTH)] == lines


async def test_requests_by_httpx_within_a_request(lines: Lines) -> None:
    """An in-process request has its own IDs, and the one around it keeps its."""
    inner = driver.linked(lambda request: log.info("inner"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(identify, USER)
        transport = httpx.ASGITransport(app=inner)
        async with httpx.AsyncClient(transport=transport, base_url="http://inner") as client:
            await client.get("/")
            log.info("between")
            await client.post("/", json={"sessionId": OTHER_SESSION})
        log.info("after")
        await answer(send)

    await driver.send(ReplayLinkMiddleware(app), headers={HEADER: SESSION})

    assert [
        line("inner"),
        line("between", **BOTH),
        line("inner", sessionId=OTHER_SESSION),
        line("after", **BOTH),
    ] == lines


async def test_lines_of_the_server_meanwhile(lines: Lines) -> None:
    """What a server or a layer writes as the app receives and sends is linked."""
    messages = Messages([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        log.info("receiving")
        return await messages.receive()

    async def send(message: Message) -> None:
        log.info(message["type"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(identify, USER)
        await answer(send)
        log.info("background")

    await ReplayLinkMiddleware(app)(http_scope(Raw([SESSION_HEADER], length=5)), receive, send)

    assert [
        line("receiving", **LINKED),
        line("http.response.start", **BOTH),
        line("http.response.body", **BOTH),
        line("background", **BOTH),
    ] == lines


@pytest.mark.parametrize("server", ["uvicorn"], indirect=True)
class TestContextsThatServersHandOn:
    """
    uvicorn hands the context of one request to the next of the connection.

    It copies the context while the app is in `receive` or sends its last message, if it
    had stopped reading a large body (https://github.com/python/cpython/issues/140947) or
    has the next request already.
    """

    CHUNKS = (b'{"sessionId":"' + SESSION.encode() + b'","x":"', *[b"x" * 70_000] * 3, b'"}')

    def request(self, *headers: tuple[bytes, bytes], chunked: bool = False) -> Raw:
        length = None if chunked else sum(map(len, self.CHUNKS))
        return Raw([*JSON, *headers], self.CHUNKS, length=length)

    async def leak(self, app: ASGIApp, request: Raw) -> list[contextvars.Context]:
        """
        Serve *request* as uvicorn does, and return the contexts that it copied.
        """
        contexts: list[contextvars.Context] = []
        messages = Messages(request_messages(request))

        async def receive() -> Message:
            log.info("receiving")
            contexts.append(contextvars.copy_context())
            message = await messages.receive()
            contexts.append(contextvars.copy_context())
            return message

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                log.info("sending")
                contexts.append(contextvars.copy_context())

        await app(http_scope(request), receive, send)
        return contexts

    async def serve(self, app: ASGIApp, context: contextvars.Context, request: Raw) -> None:
        """
        Serve *request* in a copy of *context*, as the next one of the connection.
        """

        async def server() -> None:
            log.info("around")
            messages = Messages(request_messages(request))
            await app(http_scope(request), messages.receive, Sent().send)
            log.info("after")

        await context.run(asyncio.ensure_future, server())

    @pytest.mark.parametrize("stock", [True, False], ids=["stock", "recommended"])
    @pytest.mark.parametrize("reads", [True, False], ids=["reading", "not-reading"])
    @pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with-length"])
    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param([SESSION_HEADER], id="header"),
            pytest.param([(b"cookie", cookie().encode())], id="cookie"),
            pytest.param([], id="body"),
        ],
    )
    async def test_nothing_is_handed_on(
        self,
        request: pytest.FixtureRequest,
        stock: bool,
        reads: bool,
        chunked: bool,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        """No line of the next request has an ID of the first, not even before we are entered."""
        lines: Lines = request.getfixturevalue("stock_lines" if stock else "lines")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("view")
            if "GET" != scope["method"]:
                identify(USER)
                while reads and (await receive()).get("more_body"):
                    pass
            log.info("known")
            await answer(send)
            log.info("background")

        wrapped = ReplayLinkMiddleware(app, max_body_bytes=10**6)
        contexts = await self.leak(wrapped, self.request(*headers, chunked=chunked))
        first = [entry for entry in lines if entry["event"] in ("view", "known", "background")]
        assert [line("view", **LINKED), line("known", **BOTH), line("background", **BOTH)] == first

        assert 1 <= len(contexts)
        for context in contexts:
            lines.clear()
            await self.serve(wrapped, context, Raw(method="GET"))
            await self.serve(wrapped, context, Raw([(SESSION_HEADER[0], b"own")], method="GET"))

            own = {"sessionId": "own"}
            names = ["view", "known", "background"]
            assert [
                line("around"),
                *map(line, names),
                line("after"),
                line("around"),
                *(line(name, **own) for name in names),
                line("after"),
            ] == lines

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(Raw([SESSION_HEADER], method="GET"), id="get"),
            pytest.param(Raw([SESSION_HEADER], [b"x"], length=1), id="small"),
            pytest.param(Raw([SESSION_HEADER], [b"x" * 200_000], length=200_000), id="one-part"),
        ],
    )
    async def test_requests_sent_ahead(self, lines: Lines, request_: Raw) -> None:
        """A request that came before the response to the first one has nothing of it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await answer(send)

        wrapped = ReplayLinkMiddleware(app)
        contexts = await self.leak(wrapped, request_)
        assert 3 == len(contexts)
        for context in contexts:
            lines.clear()
            await self.serve(wrapped, context, Raw(method="GET"))

            assert [line("around"), line("after")] == [
                entry for entry in lines if entry["event"] in ("around", "after")
            ]

    @pytest.mark.parametrize("stock", [True, False], ids=["stock", "recommended"])
    async def test_an_error_that_a_layer_around_answers(
        self, request: pytest.FixtureRequest, stock: bool
    ) -> None:
        """What is copied while a layer answers in our place has nothing of the request."""
        lines: Lines = request.getfixturevalue("stock_lines" if stock else "lines")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await ReplayLinkMiddleware(app)(scope, receive, send)
            except ZeroDivisionError:
                log.info("handled")
                await answer(send)

        async def bare(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("bare")
            await asyncio.to_thread(log.info, "thread")

        contexts = await self.leak(layer, self.request(SESSION_HEADER))
        assert [line("handled", **({} if stock else LINKED))] == [
            entry for entry in lines if entry["event"] == "handled"
        ]
        assert 1 == len(contexts)
        for number in (0, 0):
            lines.clear()
            await self.serve(bare, contexts[number], Raw(method="GET"))

            assert [line("around"), line("bare"), line("thread"), line("after")] == lines

    async def test_identify_in_a_context_that_was_handed_on(self, lines: Lines) -> None:
        """Before the next request reaches us, there is nobody to identify."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await answer(send)

        async def around() -> None:
            identify(USER, session_id=OTHER_SESSION)
            log.info("around")

        contexts = await self.leak(ReplayLinkMiddleware(app), self.request(SESSION_HEADER))
        lines.clear()
        for context in contexts:
            await context.run(asyncio.ensure_future, around())

        assert [line("around")] * len(contexts) == lines

    async def test_a_request_that_failed(self, lines: Lines) -> None:
        """A request that read its body and failed hands on nothing either."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            raise ZeroDivisionError

        contexts: list[contextvars.Context] = []
        messages = Messages(request_messages(self.request(SESSION_HEADER)))

        async def receive() -> Message:
            contexts.append(contextvars.copy_context())
            return await messages.receive()

        wrapped = ReplayLinkMiddleware(app)
        try:
            await wrapped(http_scope(self.request(SESSION_HEADER)), receive, no_send)
        except ZeroDivisionError:
            # The server answers with an error, and goes on with the connection.
            contexts.append(contextvars.copy_context())

        async def ok(scope: Scope, receive: Receive, send: Send) -> None:
            log.info("view")

        assert 2 == len(contexts)
        for context in contexts:
            await self.serve(ReplayLinkMiddleware(ok), context, Raw(method="GET"))
        assert [line("around"), line("view"), line("after")] * 2 == lines


async def test_threads_of_many_requests(lines: Lines) -> None:
    """Threads that work for different requests at once keep to their own."""
    barrier = threading.Barrier(4, timeout=20)

    def work(expected: str) -> None:
        for turn in range(20):
            barrier.wait()
            log.info("work", expected=expected)
            identify(f"{expected}-{turn}")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(work, dict(scope["headers"])[SESSION_HEADER[0]].decode())

    wrapped = ReplayLinkMiddleware(app)
    await asyncio.gather(
        *(
            wrapped(
                http_scope(Raw([(SESSION_HEADER[0], b"s-%d" % number)], method="GET")),
                no_receive,
                no_send,
            )
            for number in range(4)
        )
    )

    assert 80 == len(lines)
    assert {(f"s-{number}", f"s-{number}") for number in range(4)} == {
        (entry["expected"], entry["sessionId"]) for entry in lines
    }
