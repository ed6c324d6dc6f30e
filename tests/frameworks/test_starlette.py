from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from replaylink import identify
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.auth import authenticated_user, session_user
from tests.conftest import Lines
from tests.frameworks.helpers import (
    HEADERS,
    USER_ID,
    both,
    log,
    neither,
    posthog_cookies,
    same_context_client,
    session_only,
    told,
)


class Member(BaseUser):
    """
    A user with an ID beside the name that Starlette wants to display.
    """

    def __init__(self, user_id: int) -> None:
        self.id = user_id

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return "Ada Lovelace"


class MemberByIdentity(BaseUser):
    """
    A user whose ID is Starlette's own `identity`.
    """

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return "Ada Lovelace"

    @property
    def identity(self) -> str:
        return USER_ID


class Named(BaseUser):
    """
    A user without an ID, whose `identity` stays as BaseUser has it: not implemented.
    """

    username = email = "ada@example.com"

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return "Ada Lovelace"


class Backend(AuthenticationBackend):
    def __init__(self, user: BaseUser | None) -> None:
        self.user = user

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if self.user is None or "authorization" not in conn.headers:
            return None
        return AuthCredentials(["authenticated"]), self.user


async def log_around(request: Request, call_next: RequestResponseEndpoint) -> Response:
    log.info("before")
    response = await call_next(request)
    log.info("after")
    return response


async def endpoint(request: Request) -> Response:
    log.info("endpoint")
    return PlainTextResponse("done", background=BackgroundTask(log.info, "background"))


def sync_endpoint(request: Request) -> Response:
    log.info("endpoint")
    return PlainTextResponse("done", background=BackgroundTask(log.info, "background"))


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        log.info("endpoint")
        return PlainTextResponse("done", background=BackgroundTask(log.info, "background"))


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        for number in range(2):
            log.info("chunk")
            yield str(number)

    return StreamingResponse(chunks(), background=BackgroundTask(log.info, "background"))


async def file(request: Request) -> Response:
    log.info("endpoint")
    return FileResponse(Path(__file__), background=BackgroundTask(log.info, "background"))


async def late(request: Request) -> Response:
    log.info("anonymous")
    identify(USER_ID)
    log.info("endpoint")
    return PlainTextResponse("done", background=BackgroundTask(log.info, "background"))


async def fail(request: Request) -> Response:
    log.info("endpoint")
    raise LookupError


async def sign_in(request: Request) -> Response:
    log.info("anonymous")
    request.session["user_id"] = 42
    log.info("endpoint")
    return PlainTextResponse("done", background=BackgroundTask(log.info, "background"))


async def sign_out(request: Request) -> Response:
    request.session.clear()
    log.info("endpoint")
    return PlainTextResponse("done")


class Socket(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        log.info("connect")
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        log.info(data)

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        log.info("disconnect")


ROUTES = [
    Route("/async", endpoint),
    Route("/sync", sync_endpoint),
    Route("/class", Endpoint),
    Route("/stream", stream),
    Route("/file", file),
    Route("/late", late),
    Route("/fail", fail),
    Route("/sign-in", sign_in),
    Route("/sign-out", sign_out),
    WebSocketRoute("/ws", Socket),
    Mount("/mounted", routes=[Route("/late", late)]),
]

OURS = Middleware(ReplayLinkMiddleware)
AROUND = Middleware(BaseHTTPMiddleware, dispatch=log_around)
CREDENTIALS = {**HEADERS, "Authorization": "Basic " + b64encode(b"ada:secret").decode()}


def authentication(user: BaseUser | None) -> Middleware:
    return Middleware(AuthenticationMiddleware, backend=Backend(user))


def make_app(*middleware: Middleware, **options: Any) -> Starlette:
    return Starlette(routes=ROUTES, middleware=list(middleware), **options)


USERS = pytest.mark.parametrize(
    "user", [Member(42), MemberByIdentity()], ids=["id", "Starlette's-identity"]
)
ENDPOINTS = pytest.mark.parametrize("path", ["/async", "/sync", "/class", "/file"])


@USERS
@ENDPOINTS
def test_a_user_authenticated_within_ours_is_on_all_lines_from_then_on(
    lines: Lines, user: BaseUser, path: str
) -> None:
    """A user of AuthenticationMiddleware within ours is on the lines around it as well."""
    app = make_app(OURS, AROUND, authentication(user), AROUND)
    with TestClient(app) as client:
        client.get(path, headers=CREDENTIALS)
        linked = told(lines)
        lines.clear()
        client.get(path)

    expected = [
        *session_only("before"),
        *both("before", "endpoint", "after", "after", "background"),
    ]
    assert expected == linked
    assert neither(*(event for event, _, _ in expected)) == told(lines)


@USERS
@ENDPOINTS
def test_a_user_authenticated_around_ours_needs_no_processor(
    stock_lines: Lines, user: BaseUser, path: str
) -> None:
    """A stock set-up has the user of AuthenticationMiddleware around ours on each line."""
    with TestClient(make_app(authentication(user), OURS, AROUND)) as client:
        client.get(path, headers=CREDENTIALS)
        client.get(path)

    events = ("before", "endpoint", "after", "background")
    assert [*both(*events), *neither(*events)] == told(stock_lines)


@pytest.mark.parametrize(
    "user",
    [None, UnauthenticatedUser(), Named()],
    ids=["no-credentials", "unauthenticated", "names-only"],
)
@pytest.mark.parametrize("outside", [False, True], ids=["within-ours", "around-ours"])
def test_nobody_and_a_mere_name_are_no_user_id(
    lines: Lines, user: BaseUser | None, outside: bool
) -> None:
    """An unauthenticated user, a name and an e-mail address never get into the lines."""
    middleware = (authentication(user), OURS) if outside else (OURS, authentication(user))
    with TestClient(make_app(*middleware)) as client:
        client.get("/async", headers=CREDENTIALS)

    assert session_only("endpoint", "background") == told(lines)


@pytest.mark.parametrize(
    "user", [SimpleUser("ada@example.com"), Named()], ids=["SimpleUser", "without-identity"]
)
def test_an_app_may_choose_the_name(lines: Lines, user: BaseUser) -> None:
    """An app that asks for the user's name by its attribute gets it as the ID."""
    ours = Middleware(ReplayLinkMiddleware, user_id=authenticated_user("identity", "username"))
    with TestClient(make_app(ours, authentication(user))) as client:
        client.get("/async", headers=CREDENTIALS)

    assert ["ada@example.com"] * 2 == [user_id for _, _, user_id in told(lines)]


@pytest.mark.parametrize("outside", [False, True], ids=["within-ours", "around-ours"])
def test_the_authenticated_user_is_on_each_chunk_of_a_stream(lines: Lines, outside: bool) -> None:
    """The authenticated user is on each chunk of a stream and on its background task."""
    user = authentication(Member(42))
    middleware = (user, OURS) if outside else (OURS, user)
    with TestClient(make_app(*middleware)) as client:
        client.get("/stream", headers=CREDENTIALS)

    assert both("chunk", "chunk", "background") == told(lines)


@pytest.mark.parametrize("outside", [False, True], ids=["within-ours", "around-ours"])
def test_a_websocket_carries_its_authenticated_user(lines: Lines, outside: bool) -> None:
    """A WebSocket has the cookie's session and the user of AuthenticationMiddleware."""
    user = authentication(Member(42))
    middleware = (user, OURS) if outside else (OURS, user)
    client = TestClient(make_app(*middleware), cookies=posthog_cookies())
    authorization = {"Authorization": CREDENTIALS["Authorization"]}
    with client.websocket_connect("/ws", headers=authorization) as websocket:
        websocket.send_text("hello")
    linked = told(lines)
    lines.clear()
    client.cookies.clear()
    with client.websocket_connect("/ws") as websocket:
        websocket.send_text("hello")

    assert both("connect", "hello", "disconnect") == linked
    assert neither("connect", "hello", "disconnect") == told(lines)


def test_who_calls_identify_counts_for_more_than_the_authenticated_user(lines: Lines) -> None:
    """A user given to identify() replaces the one that authentication found."""
    with TestClient(make_app(OURS, authentication(Member(7)))) as client:
        client.get("/late", headers=CREDENTIALS)

    assert ["7", USER_ID, USER_ID] == [user_id for _, _, user_id in told(lines)]


@pytest.mark.parametrize("debug", [False, True], ids=["handler", "debug-page"])
def test_the_authenticated_user_is_on_the_line_of_the_exception_handler(
    lines: Lines, debug: bool
) -> None:
    """The handler of unhandled exceptions, outside of all middleware, is linked."""

    async def handle(request: Request, exc: Exception) -> Response:
        log.error("handler")
        return PlainTextResponse("handled", status_code=500)

    app = make_app(
        OURS, authentication(Member(42)), exception_handlers={Exception: handle}, debug=debug
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/fail", headers=CREDENTIALS)
        client.get("/fail")

    events = ("endpoint",) if debug else ("endpoint", "handler")
    assert [*both(*events), *neither(*events)] == told(lines)


@pytest.mark.parametrize("path", ["/late", "/mounted/late"], ids=["route", "mount"])
def test_a_late_user_passes_mounts_and_other_middleware(lines: Lines, path: str) -> None:
    """A user identified in a mounted app, behind other middleware, is on all later lines."""
    app = make_app(OURS, AROUND, Middleware(GZipMiddleware), AROUND)
    with TestClient(app) as client:
        client.get(path, headers=HEADERS)

    expected = [
        *session_only("before", "before", "anonymous"),
        *both("endpoint", "after", "after", "background"),
    ]
    assert expected == told(lines)


SECRET = "not-a-secret"
SESSIONS = Middleware(SessionMiddleware, secret_key=SECRET)
OURS_WITH_SESSION = Middleware(ReplayLinkMiddleware, user_id=session_user("user_id"))
ORDERS = pytest.mark.parametrize("outside", [False, True], ids=["within-ours", "around-ours"])


def session_app(outside: bool) -> Starlette:
    if outside:
        return make_app(SESSIONS, OURS_WITH_SESSION, AROUND)
    return make_app(OURS_WITH_SESSION, AROUND, SESSIONS)


@ORDERS
def test_the_session_of_starlette_tells_the_user(lines: Lines, outside: bool) -> None:
    """A user in Starlette's signed session is on the lines from sign-in to sign-out."""
    with TestClient(session_app(outside)) as client:
        client.get("/sign-in", headers=HEADERS)
        signing_in = told(lines)
        lines.clear()
        client.get("/async", headers=HEADERS)
        signed_in = told(lines)
        client.get("/sign-out")
        lines.clear()
        client.get("/async")

    expected = [*session_only("before", "anonymous"), *both("endpoint", "after", "background")]
    assert expected == signing_in
    assert [event[2] for event in signed_in[1:]] == [USER_ID] * 3
    assert (USER_ID if outside else "-") == signed_in[0][2]
    assert neither("before", "endpoint", "after", "background") == told(lines)


@ORDERS
def test_looking_into_the_session_leaves_the_response_alone(lines: Lines, outside: bool) -> None:
    """Our look into the session adds neither ``Vary: Cookie`` nor a new cookie."""
    with TestClient(session_app(outside)) as client:
        client.get("/sign-in")
        response = client.get("/async")

    assert USER_ID == told(lines)[-1][2]
    assert "vary" not in response.headers
    assert "set-cookie" not in response.headers


@ORDERS
def test_a_forged_session_tells_no_user(lines: Lines, outside: bool) -> None:
    """A session cookie with a wrong signature tells no user."""
    forged = b64encode(b'{"user_id": 42}').decode() + ".ZZZZZZ.AAAAAAAAAAAAAAAAAAAAAAAAAAA"
    with TestClient(session_app(outside), cookies={"session": forged}) as client:
        client.get("/async", headers=HEADERS)

    assert session_only("before", "endpoint", "after", "background") == told(lines)


def test_a_session_middleware_that_is_not_there_is_no_error(lines: Lines) -> None:
    """session_user() in an app without sessions finds nobody."""
    with TestClient(make_app(OURS_WITH_SESSION)) as client:
        client.get("/async", headers=HEADERS)

    assert session_only("endpoint", "background") == told(lines)


@pytest.mark.parametrize("path", ["/async", "/sync", "/stream", "/file", "/late", "/fail"])
@pytest.mark.usefixtures("garbage_stays")
async def test_the_next_request_in_the_same_context_has_no_ids(lines: Lines, path: str) -> None:
    """A request without IDs has none, also in the very context that a linked one used."""
    async with same_context_client(make_app(OURS, authentication(Member(42)))) as client:
        await client.get(path, headers=CREDENTIALS)
        assert both("chunk" if path == "/stream" else "endpoint")[0] in told(lines)
        lines.clear()
        for _ in range(2):
            for next_path in ("/async", "/sync", "/stream", "/file", "/fail"):
                await client.get(next_path)
    log.info("outside")

    assert neither(*(entry["event"] for entry in lines)) == told(lines)
