from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("litestar")

from litestar import Litestar, Request, Response, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.connection import ASGIConnection
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler, websocket_listener
from litestar.middleware import (
    AbstractAuthenticationMiddleware,
    AuthenticationResult,
    DefineMiddleware,
)
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import JSONBody, MultipartBody, URLEncodedBody
from litestar.response import ServerSentEvent, Stream
from litestar.security.jwt import JWTAuth, Token
from litestar.testing import TestClient

from replaylink import identify
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.auth import session_user
from replaylink.sources import header
from tests.conftest import Lines
from tests.frameworks.helpers import (
    HEADERS,
    SESSION_HEADER,
    SESSION_ID,
    USER_ID,
    both,
    log,
    neither,
    posthog_cookies,
    same_context_client,
    session_only,
    told,
)

USER_HEADER = "X-User"
"""Stands for a user who is known as the request starts."""


@dataclass
class Member:
    id: int
    name: str = "Ada Lovelace"


def line(event: str) -> None:
    log.info(event)


async def line_async(event: str) -> None:
    await asyncio.sleep(0)
    log.info(event)


def tasks() -> BackgroundTasks:
    return BackgroundTasks(
        [BackgroundTask(line, "background"), BackgroundTask(line_async, "async background")]
    )


@get("/async")
async def async_handler() -> Response[str]:
    log.info("handler")
    return Response("done", background=tasks())


@get("/sync", sync_to_thread=True)
def sync_handler() -> Response[str]:
    log.info("handler")
    return Response("done", background=tasks())


@get("/sync-on-the-loop", sync_to_thread=False)
def sync_handler_on_the_loop() -> Response[str]:
    log.info("handler")
    return Response("done", background=tasks())


@get("/stream")
async def stream() -> Stream:
    def chunks() -> Iterator[str]:
        for number in range(2):
            log.info("chunk")
            yield str(number)

    log.info("handler")
    return Stream(chunks(), background=tasks())


@get("/async-stream")
async def async_stream() -> Stream:
    async def chunks() -> AsyncIterator[str]:
        for number in range(2):
            await asyncio.sleep(0)
            log.info("chunk")
            yield str(number)

    log.info("handler")
    return Stream(chunks(), background=tasks())


@get("/events")
async def events() -> ServerSentEvent:
    async def chunks() -> AsyncIterator[str]:
        for number in range(2):
            log.info("chunk")
            yield str(number)

    log.info("handler")
    return ServerSentEvent(chunks())


@get("/fail")
async def fail() -> None:
    log.info("handler")
    raise LookupError


@get("/sync-fail", sync_to_thread=True)
def sync_fail() -> None:
    log.info("handler")
    raise LookupError


@dataclass
class ChatMessage:
    message: str
    sessionId: str | None = None  # noqa: N815 - as PostHog's guide spells it


@post("/chat")
async def chat(data: JSONBody[ChatMessage]) -> ChatMessage:
    log.info("handler")
    return data


@post("/chat-sync", sync_to_thread=True)
def chat_sync(data: JSONBody[ChatMessage]) -> ChatMessage:
    log.info("handler")
    return data


@post("/raw")
async def raw(request: Request[Any, Any, Any]) -> bytes:
    log.info("handler")
    return await request.body()


@post("/form")
async def form(data: URLEncodedBody[dict[str, str]]) -> str:
    log.info("handler")
    return data["name"]


@post("/upload")
async def upload(data: MultipartBody[UploadFile]) -> str:
    log.info("handler")
    return str(len(await data.read()))


@websocket("/ws")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    log.info("connect")
    await socket.accept()
    async for text in socket.iter_data("text"):
        if text == "sign in":
            identify(USER_ID)
        log.info(text)
        await socket.send_text(text)


@websocket_listener("/listener")
async def listener(data: str) -> str:
    log.info(data)
    return data


@get("/sign-in")
async def sign_in(request: Request[Any, Any, Any]) -> str:
    log.info("anonymous")
    request.set_session({"user_id": 42})
    log.info("handler")
    return "done"


@get("/sign-out")
async def sign_out(request: Request[Any, Any, Any]) -> str:
    request.clear_session()
    return "done"


HANDLERS: list[Any] = [
    async_handler,
    sync_handler,
    sync_handler_on_the_loop,
    stream,
    async_stream,
    events,
    fail,
    sync_fail,
    chat,
    chat_sync,
    raw,
    form,
    upload,
    socket,
    listener,
    sign_in,
    sign_out,
]


class LogAround:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        log.info("before")
        try:
            await self.app(scope, receive, send)
        finally:
            log.info("after")


class Authentication(AbstractAuthenticationMiddleware):
    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        if connection.headers.get("authorization") != "token of 42":
            return AuthenticationResult(user=None, auth=None)
        return AuthenticationResult(user=Member(42), auth="token")


CREDENTIALS = {**HEADERS, "Authorization": "token of 42"}


OURS: Any = ReplayLinkMiddleware
"""Litestar types an ASGI scope as a TypedDict, which is no mapping to type checkers."""


def make_app(*middleware: Any, **options: Any) -> Litestar:
    return Litestar(HANDLERS, middleware=middleware or [OURS], **options)


PATHS = pytest.mark.parametrize(
    "path",
    ["/async", "/sync", "/sync-on-the-loop", "/stream", "/async-stream", "/events"],
)


def events_of(path: str) -> list[str]:
    background = [] if path == "/events" else ["background", "async background"]
    chunks = ["chunk", "chunk"] if path in ("/stream", "/async-stream", "/events") else []
    return ["handler", *chunks, *background]


@PATHS
def test_a_user_authenticated_within_ours_is_on_all_lines_from_then_on(
    lines: Lines, path: str
) -> None:
    """A user of Litestar's authentication is on handlers, chunks and background tasks."""
    app = make_app(OURS, LogAround, Authentication)
    with TestClient(app) as client:
        client.get(path, headers=CREDENTIALS)
        linked = told(lines)
        lines.clear()
        client.get(path)

    expected = events_of(path)
    assert [*session_only("before"), *both(*expected, "after")] == linked
    assert neither("before", *expected, "after") == told(lines)


@PATHS
def test_a_user_authenticated_around_ours_needs_no_processor(stock_lines: Lines, path: str) -> None:
    """A stock set-up has a user who was authenticated around ours on each line."""
    with TestClient(make_app(Authentication, OURS, LogAround)) as client:
        client.get(path, headers=CREDENTIALS)
        client.get(path)

    expected = ["before", *events_of(path), "after"]
    assert [*both(*expected), *neither(*expected)] == told(stock_lines)


@PATHS
def test_ours_may_be_wrapped_around_the_whole_app(lines: Lines, path: str) -> None:
    """The middleware links as well when the server gets it in place of the app."""
    app = OURS(make_app(LogAround, Authentication))
    with TestClient(app) as client:
        client.get(path, headers=CREDENTIALS)
        linked = told(lines)
        lines.clear()
        client.get(path)

    expected = events_of(path)
    assert [*session_only("before"), *both(*expected, "after")] == linked
    assert neither("before", *expected, "after") == told(lines)


def test_options_are_given_with_define_middleware(stock_lines: Lines) -> None:
    """Litestar's DefineMiddleware hands our options on."""
    ours = DefineMiddleware(OURS, user_id=header(USER_HEADER), user_key="user.id")
    with TestClient(make_app(ours)) as client:
        client.get("/events", headers={USER_HEADER: USER_ID})

    assert [USER_ID] * 3 == [entry["user.id"] for entry in stock_lines]


SECRET = "a secret that is long enough for HS256"


async def retrieve_user(token: Token, connection: ASGIConnection[Any, Any, Any, Any]) -> Member:
    return Member(int(token.sub))


@pytest.mark.parametrize("by_init", [False, True], ids=["within-ours", "around-ours"])
@PATHS
def test_the_user_of_litestars_jwt_is_on_all_lines(lines: Lines, path: str, by_init: bool) -> None:
    """A user whom Litestar's JWTAuth retrieved is on all lines."""
    auth = JWTAuth[Member](retrieve_user_handler=retrieve_user, token_secret=SECRET)
    if by_init:
        app = make_app(OURS, on_app_init=[auth.on_app_init])
    else:
        app = make_app(OURS, auth.middleware)
    token = auth.create_token(identifier=USER_ID)
    with TestClient(app) as client:
        client.get(path, headers={**HEADERS, "Authorization": f"Bearer {token}"})
        linked = told(lines)
        lines.clear()
        refused = client.get(path, headers={**HEADERS, "Authorization": "Bearer x.y.z"})

    assert both(*events_of(path)) == linked
    assert 401 == refused.status_code
    assert [] == told(lines)


def identify_sync() -> None:
    log.info("anonymous")
    identify(USER_ID)
    log.info("dependency")


async def identify_async() -> None:
    log.info("anonymous")
    identify(USER_ID)
    log.info("dependency")


async def identify_with_teardown() -> AsyncGenerator[None, None]:
    log.info("anonymous")
    identify(USER_ID)
    log.info("dependency")
    yield
    log.info("teardown")


def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    log.info("anonymous")
    identify(USER_ID)
    log.info("dependency")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dependencies": {"user": Provide(identify_sync, sync_to_thread=True)}}),
        pytest.param({"dependencies": {"user": Provide(identify_async)}}),
        pytest.param({"dependencies": {"user": Provide(identify_with_teardown)}}),
        pytest.param({"guards": [guard]}),
    ],
    ids=["sync-dependency", "async-dependency", "generator-dependency", "guard"],
)
@pytest.mark.parametrize("in_thread", [False, True], ids=["async-handler", "sync-handler"])
def test_a_user_identified_late_is_on_all_later_lines(
    lines: Lines, options: dict[str, Any], in_thread: bool
) -> None:
    """A user whom a dependency or a guard identifies is on every later line."""

    @get("/plain", sync_to_thread=True)
    def sync_handler(user: NamedDependency[None] = None) -> Response[str]:
        log.info("handler")
        return Response("done", background=tasks())

    @get("/plain")
    async def async_handler(user: NamedDependency[None] = None) -> Response[str]:
        log.info("handler")
        return Response("done", background=tasks())

    app = Litestar(
        [sync_handler if in_thread else async_handler],
        middleware=[OURS, LogAround],
        **options,
    )
    with TestClient(app) as client:
        client.get("/plain", headers=HEADERS)

    linked = told(lines)
    later = [event for event, _, _ in linked[2:] if event != "teardown"]
    assert both(*(event for event, _, _ in linked[2:])) == linked[2:]
    assert session_only("before", "anonymous") == linked[:2]
    assert ["dependency", "handler", "background", "async background", "after"] == later


def test_a_websocket_is_linked_by_the_cookie_of_its_handshake(lines: Lines) -> None:
    """A WebSocket has the session of the handshake's cookie, and a user from sign-in on."""
    texts = ("hello", "sign in", "bye")
    with TestClient(make_app(), cookies=posthog_cookies()) as client:
        with client.websocket_connect("/ws") as connection:
            for text in texts:
                connection.send_text(text)
                connection.receive_text()
        linked = told(lines)
        lines.clear()
        client.cookies.clear()
        with client.websocket_connect("/ws") as connection:
            connection.send_text("hello")
            connection.receive_text()

    assert [*session_only("connect", "hello"), *both("sign in", "bye")] == linked
    assert neither("connect", "hello") == told(lines)


def test_a_websocket_listener_carries_its_authenticated_user(lines: Lines) -> None:
    """A WebSocket listener has the user of Litestar's authentication."""
    app = make_app(OURS, Authentication)
    with (
        TestClient(app) as client,
        client.websocket_connect("/listener", headers=CREDENTIALS) as connection,
    ):
        connection.send_text("hello")
        connection.receive_text()

    assert both("hello") == told(lines)


def handle_error(request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
    log.error("error handler")
    return Response("handled", status_code=500)


@pytest.mark.parametrize("path", ["/fail", "/sync-fail"], ids=["async", "sync"])
@pytest.mark.parametrize("late", [False, True], ids=["authenticated", "late"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["middleware", "around-the-app"])
def test_an_exception_handler_is_linked(lines: Lines, path: str, late: bool, wrapped: bool) -> None:
    """Litestar's exception handlers log with both IDs, and leave nothing behind."""

    async def identify_now() -> None:
        identify(USER_ID)

    @get("/fail")
    async def fail(user: NamedDependency[None]) -> None:
        log.info("handler")
        raise LookupError

    @get("/sync-fail", sync_to_thread=True)
    def sync_fail(user: NamedDependency[None]) -> None:
        log.info("handler")
        raise LookupError

    async def nobody() -> None: ...

    middleware: list[Any] = [] if wrapped else [OURS]
    middleware += [] if late else [Authentication]
    app = Litestar(
        [fail, sync_fail, async_handler],
        middleware=middleware,
        dependencies={"user": Provide(identify_now if late else nobody)},
        exception_handlers={Exception: handle_error},
    )
    whole: Any = OURS(app) if wrapped else app
    with TestClient(whole) as client:
        response = client.get(path, headers=CREDENTIALS)
        linked = told(lines)
        lines.clear()
        client.get("/async")

    assert "handled" == response.text
    assert both("handler", "error handler") == linked
    assert neither("handler", "background", "async background") == told(lines)


@pytest.mark.parametrize("path", ["/chat", "/chat-sync", "/raw"])
@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "100-kB"])
def test_a_json_body_links_and_reaches_the_handler(lines: Lines, path: str, size: int) -> None:
    """The session ID in a JSON body is found, and the handler gets all of the body."""
    message = {"message": "é" * size, "sessionId": SESSION_ID}
    with TestClient(Litestar(HANDLERS)) as client:
        expected = client.post(path, json=message)
    lines.clear()
    with TestClient(make_app()) as client:
        response = client.post(path, json=message)

    assert (201, expected.content) == (response.status_code, response.content)
    assert session_only("handler") == told(lines)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"message": '], ids=["empty", "array", "cut-off"])
def test_a_bad_json_body_gets_the_answer_that_it_got_before(body: bytes) -> None:
    """Litestar refuses a bad body with the very words that it has without us."""
    json = {"Content-Type": "application/json"}
    with TestClient(Litestar(HANDLERS)) as client:
        expected = client.post("/chat", content=body, headers=json)
    with TestClient(make_app()) as client:
        response = client.post("/chat", content=body, headers=json)

    assert 400 == expected.status_code
    assert (400, expected.content) == (response.status_code, response.content)


def test_form_posts_are_linked_by_the_cookie(lines: Lines) -> None:
    """A plain form, which can send no header, is linked by posthog-js's cookie."""
    with TestClient(make_app(), cookies=posthog_cookies()) as client:
        answer = client.post("/form", data={"name": "Ada"})
        uploaded = client.post("/upload", files={"file": ("a.bin", b"x" * 200_000)})

    assert ("Ada", "200000") == (answer.text, uploaded.text)
    assert session_only("handler", "handler") == told(lines)


SESSIONS: dict[str, Callable[[], Any]] = {
    "server-side": ServerSideSessionConfig,
    "cookie": lambda: CookieBackendConfig(secret=b"x" * 16),
}


@pytest.mark.parametrize("make", SESSIONS.values(), ids=SESSIONS)
@pytest.mark.parametrize("outside", [False, True], ids=["within-ours", "around-ours"])
def test_the_session_of_litestar_tells_the_user(
    lines: Lines, make: Callable[[], Any], outside: bool
) -> None:
    """A user in Litestar's session is on the lines from sign-in to sign-out."""
    ours = DefineMiddleware(OURS, user_id=session_user("user_id"))
    sessions = make().middleware
    order = (sessions, ours) if outside else (ours, sessions)
    with TestClient(make_app(*order)) as client:
        client.get("/sign-in", headers=HEADERS)
        signing_in = told(lines)
        lines.clear()
        client.get("/sync", headers=HEADERS)
        signed_in = told(lines)
        client.get("/sign-out", headers=HEADERS)
        lines.clear()
        client.get("/sync")

    assert [*session_only("anonymous"), *both("handler")] == signing_in
    assert both("handler", "background", "async background") == signed_in
    assert neither("handler", "background", "async background") == told(lines)


@pytest.mark.parametrize("path", ["/async", "/sync", "/stream", "/events", "/fail", "/sync-fail"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["middleware", "around-the-app"])
@pytest.mark.usefixtures("garbage_stays")
async def test_the_next_request_in_the_same_context_has_no_ids(
    lines: Lines, path: str, wrapped: bool
) -> None:
    """A request without IDs has none, also in the very context that a linked one used."""
    app: Any = make_app(*([] if wrapped else [OURS]), Authentication)
    if wrapped:
        app = OURS(app)
    async with same_context_client(app) as client:
        await client.get(path, headers=CREDENTIALS)
        assert both("handler") == told(lines)[:1]
        lines.clear()
        for _ in range(2):
            for next_path in ("/async", "/sync", "/async-stream", "/fail", "/sync-fail"):
                await client.get(next_path)
    log.info("outside")

    assert neither(*(entry["event"] for entry in lines)) == told(lines)


@PATHS
@pytest.mark.parametrize("wrapped", [False, True], ids=["middleware", "around-the-app"])
async def test_a_request_leaves_nothing_in_its_context(
    lines: Lines, path: str, wrapped: bool
) -> None:
    """After a request its context is as before."""
    app: Any = OURS(make_app(Authentication)) if wrapped else make_app(OURS, Authentication)
    async with same_context_client(app) as client:
        await client.get(path, headers=CREDENTIALS)
    log.info("outside")

    assert [*both(*events_of(path)), *neither("outside")] == told(lines)


@pytest.mark.parametrize("path", ["/fail", "/sync-fail"], ids=["async", "sync"])
@pytest.mark.usefixtures("garbage_stays")
async def test_failures_in_a_row_keep_to_their_own_ids(lines: Lines, path: str) -> None:
    """Of requests that fail one after another in one context, each handler has its own IDs."""
    app = make_app(exception_handlers={Exception: handle_error})
    async with same_context_client(app) as client:
        for number in range(3):
            await client.get(path, headers={SESSION_HEADER: f"session-{number}"})
        await client.get(path)

    expected = [
        (event, session_id, "-")
        for session_id in ("session-0", "session-1", "session-2", "-")
        for event in ("handler", "error handler")
    ]
    assert expected == told(lines)
