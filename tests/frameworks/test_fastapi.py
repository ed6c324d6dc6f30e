from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
import structlog

pytest.importorskip("fastapi")

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Form,
    HTTPException,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from replaylink import CORS_HEADERS, current_identity, identify
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.sources import header, query
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
from tests.helpers import on_server

USER_HEADER = "X-User"
"""Stands for a user who is known as the request starts."""


def identify_sync() -> None:
    log.info("before identify")
    identify(USER_ID)
    log.info("dependency")


async def identify_async() -> None:
    log.info("before identify")
    identify(USER_ID)
    log.info("dependency")


def identify_with_teardown() -> Iterator[None]:
    log.info("before identify")
    identify(USER_ID)
    log.info("dependency")
    yield
    log.info("teardown")


async def identify_with_async_teardown() -> AsyncIterator[None]:
    log.info("before identify")
    identify(USER_ID)
    log.info("dependency")
    yield
    log.info("teardown")


def line(event: str) -> None:
    log.info(event)


async def line_async(event: str) -> None:
    await asyncio.sleep(0)
    log.info(event)


router = APIRouter()


@router.get("/sync")
def sync_endpoint(background: BackgroundTasks) -> str:
    log.info("endpoint")
    background.add_task(line, "background")
    background.add_task(line_async, "async background")
    return "done"


@router.get("/async")
async def async_endpoint(background: BackgroundTasks) -> str:
    log.info("endpoint")
    background.add_task(line, "background")
    background.add_task(line_async, "async background")
    return "done"


@router.get("/threads")
async def threads() -> str:
    await asyncio.to_thread(line, "to_thread")
    await run_in_threadpool(line, "run_in_threadpool")
    context = contextvars.copy_context()
    await asyncio.get_running_loop().run_in_executor(None, context.run, line, "executor")
    await asyncio.create_task(line_async("task"))
    return "done"


@router.get("/stream")
async def stream() -> StreamingResponse:
    def chunks() -> Iterator[str]:
        for number in range(3):
            log.info("chunk")
            yield f"{number}\n"
        log.info("end of stream")

    return StreamingResponse(chunks())


@router.get("/async-stream")
async def async_stream() -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            log.info("chunk")
            yield f"{number}\n"
        log.info("end of stream")

    return StreamingResponse(chunks())


@router.get("/identify-in-stream")
async def identify_in_stream() -> StreamingResponse:
    def chunks() -> Iterator[str]:
        log.info("anonymous chunk")
        yield "1"
        identify(USER_ID)
        log.info("chunk")
        yield "2"

    return StreamingResponse(chunks())


@router.get("/fail")
async def fail() -> None:
    log.info("endpoint")
    raise LookupError


@router.get("/sync-fail")
def sync_fail() -> None:
    log.info("endpoint")
    raise LookupError


@router.get("/refuse")
async def refuse() -> None:
    raise HTTPException(status_code=403)


@router.websocket("/ws")
async def websocket(websocket: WebSocket) -> None:
    log.info("connect")
    await websocket.accept()
    async for text in websocket.iter_text():
        if text == "sign in":
            identify(USER_ID)
        log.info(text)
    log.info("disconnect")


class Profile(BaseModel):
    tags: list[str] = Field(default_factory=list)


class ChatMessage(BaseModel):
    message: str
    session_id: str | None = Field(default=None, alias="sessionId")
    profile: Profile = Profile()


@router.post("/chat")
async def chat(message: ChatMessage) -> ChatMessage:
    log.info("endpoint")
    return message


@router.post("/chat-sync")
def chat_sync(message: ChatMessage) -> ChatMessage:
    log.info("endpoint")
    return message


@router.post("/raw")
async def raw(request: Request) -> Response:
    log.info("endpoint")
    return Response(await request.body(), media_type="application/json")


@router.post("/raw-stream")
async def raw_stream(request: Request) -> Response:
    log.info("endpoint")
    body = b"".join([chunk async for chunk in request.stream()])
    return Response(body, media_type="application/json")


@router.post("/form")
async def form(name: Annotated[str, Form()]) -> str:
    log.info("endpoint")
    return name


@router.post("/upload")
async def upload(name: Annotated[str, Form()], file: UploadFile) -> str:
    log.info("endpoint")
    return f"{name} {len(await file.read())}"


async def log_around(request: Request, call_next: RequestResponseEndpoint) -> Response:
    log.info("before")
    response = await call_next(request)
    log.info("after")
    return response


def make_app(*dependencies: Callable[..., Any], **options: Any) -> FastAPI:
    app = FastAPI(dependencies=[Depends(dependency) for dependency in dependencies])
    app.include_router(router)
    app.add_middleware(ReplayLinkMiddleware, **options)
    return app


ENDPOINTS = pytest.mark.parametrize("path", ["/sync", "/async"], ids=["sync", "async"])
STREAMS = pytest.mark.parametrize("path", ["/stream", "/async-stream"], ids=["sync", "async"])
DEPENDENCIES = pytest.mark.parametrize(
    "dependency",
    [
        identify_sync,
        identify_async,
        identify_with_teardown,
        identify_with_async_teardown,
    ],
    ids=["sync", "async", "sync-generator", "async-generator"],
)


@ENDPOINTS
@DEPENDENCIES
def test_a_user_identified_in_a_dependency_is_on_all_later_lines(
    lines: Lines, dependency: Callable[..., Any], path: str
) -> None:
    """A user whom a dependency identifies is on every later line of the request."""
    app = FastAPI(dependencies=[Depends(dependency)])
    app.include_router(router)
    app.middleware("http")(log_around)
    app.add_middleware(ReplayLinkMiddleware)
    with TestClient(app) as client:
        client.get(path, headers=HEADERS)
        linked = told(lines)
        lines.clear()
        client.get("/refuse")

    later = [event for event, _, _ in linked[2:]]
    assert [*session_only("before", "before identify"), *both(*later)] == linked
    assert {"dependency", "endpoint", "background", "async background", "after"} <= set(later)
    assert ("teardown" in later) == ("teardown" in dependency.__name__)
    assert ["-"] * len(lines) == [session_id for _, session_id, _ in told(lines)]


@ENDPOINTS
def test_what_is_known_at_the_start_needs_no_processor(stock_lines: Lines, path: str) -> None:
    """A stock structlog set-up has both IDs in endpoints and background tasks."""
    with TestClient(make_app(user_id=header(USER_HEADER))) as client:
        client.get(path, headers={**HEADERS, USER_HEADER: USER_ID})
        client.get(path)

    events = ("endpoint", "background", "async background")
    assert [*both(*events), *neither(*events)] == told(stock_lines)


def test_threads_and_tasks_of_an_endpoint_are_linked(lines: Lines) -> None:
    """Threads and tasks that copy the endpoint's context log with both IDs."""
    with TestClient(make_app(identify_sync)) as client:
        client.get("/threads", headers=HEADERS)

    expected = [
        *session_only("before identify"),
        *both("dependency", "to_thread", "run_in_threadpool", "executor", "task"),
    ]
    assert expected == told(lines)


def test_threads_and_tasks_need_no_processor(stock_lines: Lines) -> None:
    """A stock set-up has both IDs in threads and tasks that copy the endpoint's context."""
    with TestClient(make_app(user_id=header(USER_HEADER))) as client:
        client.get("/threads", headers={**HEADERS, USER_HEADER: USER_ID})

    assert both("to_thread", "run_in_threadpool", "executor", "task") == told(stock_lines)


@STREAMS
@DEPENDENCIES
def test_each_chunk_of_a_stream_is_linked(
    lines: Lines, dependency: Callable[..., Any], path: str
) -> None:
    """Each chunk of a stream is logged with the session and the late user."""
    with TestClient(make_app(dependency)) as client:
        response = client.get(path, headers=HEADERS)

    linked = told(lines)
    later = [event for event, _, _ in linked[1:]]
    assert "0\n1\n2\n" == response.text
    assert [*session_only("before identify"), *both(*later)] == linked
    assert ["dependency", "chunk", "chunk", "chunk", "end of stream"] == later[:5]


@STREAMS
def test_a_stream_needs_no_processor(stock_lines: Lines, path: str) -> None:
    """A stock set-up has both IDs on the lines of each chunk."""
    with TestClient(make_app(user_id=header(USER_HEADER))) as client:
        client.get(path, headers={**HEADERS, USER_HEADER: USER_ID})

    assert both("chunk", "chunk", "chunk", "end of stream") == told(stock_lines)


def test_a_user_identified_by_a_stream_is_on_its_later_chunks(lines: Lines) -> None:
    """A user whom the stream itself identifies is on the lines of its later chunks."""
    with TestClient(make_app()) as client:
        client.get("/identify-in-stream", headers=HEADERS)

    assert [*session_only("anonymous chunk"), *both("chunk")] == told(lines)


def test_a_websocket_is_linked_by_the_cookie_of_its_handshake(lines: Lines) -> None:
    """A WebSocket has the session of the handshake's cookie, and a user from sign-in on."""
    client = TestClient(make_app(), cookies=posthog_cookies())
    with client.websocket_connect("/ws") as websocket:
        websocket.send_text("hello")
        websocket.send_text("sign in")
        websocket.send_text("bye")

    expected = [*session_only("connect", "hello"), *both("sign in", "bye", "disconnect")]
    assert expected == told(lines)


@pytest.mark.parametrize("dependency", [identify_sync, identify_async], ids=["sync", "async"])
def test_a_dependency_of_a_websocket_identifies_its_user(
    lines: Lines, dependency: Callable[..., Any]
) -> None:
    """A dependency of a WebSocket identifies the user for all of its lines."""
    client = TestClient(make_app(dependency, session_id=query("session")))
    with client.websocket_connect(f"/ws?session={SESSION_ID}") as websocket:
        websocket.send_text("hello")

    expected = [
        *session_only("before identify"),
        *both("dependency", "connect", "hello", "disconnect"),
    ]
    assert expected == told(lines)


def test_a_websocket_leaves_nothing_to_the_next_one(lines: Lines) -> None:
    """A WebSocket without IDs after a linked one has none."""
    with TestClient(make_app()) as client:
        with client.websocket_connect("/ws", headers=HEADERS) as websocket:
            websocket.send_text("sign in")
        lines.clear()
        with client.websocket_connect("/ws") as websocket:
            websocket.send_text("hello")

    assert neither("connect", "hello", "disconnect") == told(lines)


def test_lines_of_middleware_around_ours_are_not_linked(lines: Lines) -> None:
    """Middleware around ours logs without IDs, and takes none from what is within."""
    app = make_app(identify_sync)
    app.middleware("http")(log_around)
    with TestClient(app) as client:
        client.get("/async", headers=HEADERS)

    expected = [
        *neither("before"),
        *session_only("before identify"),
        *both("dependency", "endpoint"),
        *neither("after"),
        *both("background", "async background"),
    ]
    assert expected == told(lines)


@STREAMS
def test_streams_through_http_middleware_on_both_sides_are_linked(lines: Lines, path: str) -> None:
    """A stream that passes through BaseHTTPMiddleware within and around ours stays linked."""
    app = FastAPI(dependencies=[Depends(identify_sync)])
    app.include_router(router)
    app.add_middleware(BaseHTTPMiddleware, dispatch=log_around)
    app.add_middleware(ReplayLinkMiddleware)
    app.middleware("http")(log_around)
    with TestClient(app) as client:
        response = client.get(path, headers=HEADERS)

    expected = [
        *neither("before"),
        *session_only("before", "before identify"),
        *both("dependency", "after"),
        *neither("after"),
        *both("chunk", "chunk", "chunk", "end of stream"),
    ]
    assert "0\n1\n2\n" == response.text
    assert sorted(expected) == sorted(told(lines))


async def handle_async(request: Request, exc: Exception) -> Response:
    log.error("handler")
    return PlainTextResponse("handled", status_code=500)


def handle_sync(request: Request, exc: Exception) -> Response:
    log.error("handler")
    return PlainTextResponse("handled", status_code=500)


HANDLERS = pytest.mark.parametrize("handler", [handle_sync, handle_async], ids=["sync", "async"])
FAILURES = pytest.mark.parametrize(
    "path", ["/fail", "/sync-fail"], ids=["async-endpoint", "sync-endpoint"]
)


@HANDLERS
@FAILURES
@pytest.mark.parametrize("wrapped", [False, True], ids=["add_middleware", "around-the-app"])
@pytest.mark.parametrize("http_middleware", [False, True], ids=["alone", "http-middleware"])
def test_the_handler_of_unhandled_exceptions_is_linked(
    lines: Lines,
    handler: Callable[[Request, Exception], Any],
    path: str,
    wrapped: bool,
    http_middleware: bool,
) -> None:
    """An Exception handler, which FastAPI runs outside of all middleware, is linked."""
    app = FastAPI(dependencies=[Depends(identify_sync)])
    app.include_router(router)
    app.add_exception_handler(Exception, handler)
    if http_middleware:
        app.middleware("http")(log_around)
    if not wrapped:
        app.add_middleware(ReplayLinkMiddleware)
    whole: Any = ReplayLinkMiddleware(app) if wrapped else app
    with TestClient(whole, raise_server_exceptions=False) as client:
        response = client.get(path, headers=HEADERS)
        linked = told(lines)
        lines.clear()
        client.get("/refuse")

    assert "handled" == response.text
    assert both("dependency", "endpoint", "handler") == linked[-3:]
    assert ["-"] * len(lines) == [session_id for _, session_id, _ in told(lines)]


@HANDLERS
@FAILURES
@pytest.mark.parametrize("server", ["any", "uvicorn"])
def test_the_handler_of_unhandled_exceptions_needs_no_processor(
    stock_lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    handler: Callable[[Request, Exception], Any],
    path: str,
    server: str,
) -> None:
    """
    A stock set-up has both IDs in an Exception handler, but on uvicorn, which serves the
    next request in what it copies while the handler answers.
    """
    on_server(server, monkeypatch)
    app = make_app(user_id=header(USER_HEADER))
    app.add_exception_handler(Exception, handler)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.get(path, headers={**HEADERS, USER_HEADER: USER_ID})
        client.get(path)

    first = both("endpoint", "handler")
    if server == "uvicorn":
        first[1:] = neither("handler")
    assert [*first, *neither("endpoint", "handler")] == told(stock_lines)


@pytest.mark.parametrize(
    ("error", "path", "status"),
    [
        pytest.param(HTTPException, "/refuse", 403, id="HTTPException"),
        pytest.param(LookupError, "/fail", 500, id="own-error"),
        pytest.param(RequestValidationError, "/chat", 422, id="validation"),
    ],
)
@HANDLERS
def test_handlers_of_particular_errors_are_linked(
    lines: Lines,
    error: type[Exception],
    path: str,
    status: int,
    handler: Callable[[Request, Exception], Any],
) -> None:
    """Handlers of particular errors log with both IDs."""
    app = make_app(identify_sync)
    app.add_exception_handler(error, handler)
    method = "POST" if path == "/chat" else "GET"
    with TestClient(app) as client:
        response = client.request(method, path, headers=HEADERS, json={})

    assert "handled" == response.text
    assert both("handler") == told(lines)[-1:]


PATHS = ["/sync", "/async", "/threads", "/stream", "/async-stream", "/refuse"]
FAILING_PATHS = ["/fail", "/sync-fail"]


@pytest.mark.parametrize("path", [*PATHS, *FAILING_PATHS])
@pytest.mark.parametrize("dependency", [identify_sync, identify_async], ids=["sync", "async"])
@pytest.mark.usefixtures("garbage_stays")
async def test_the_next_request_in_the_same_context_has_no_ids(
    lines: Lines, dependency: Callable[..., Any], path: str
) -> None:
    """A request without IDs has none, also in the very context that a linked one used."""
    async with same_context_client(make_app(dependency)) as client:
        await client.get(path, headers=HEADERS)
    assert both("dependency") == told(lines)[1:2]
    lines.clear()
    async with same_context_client(make_app()) as client:
        for next_path in (*PATHS, *FAILING_PATHS):
            await client.get(next_path)
    log.info("outside")

    assert neither(*(entry["event"] for entry in lines)) == told(lines)


@pytest.mark.parametrize("path", [*PATHS, *FAILING_PATHS])
async def test_a_request_takes_nothing_from_the_context_it_starts_in(
    stock_lines: Lines, path: str
) -> None:
    """IDs that somebody left in the server's context are not those of a request."""
    structlog.contextvars.bind_contextvars(sessionId="left-over", posthogDistinctId="left-over")
    async with same_context_client(make_app()) as client:
        await client.get(path)

    assert neither(*(entry["event"] for entry in stock_lines)) == told(stock_lines)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dependency", [identify_sync, identify_async], ids=["sync", "async"])
async def test_a_request_leaves_nothing_in_its_context(
    lines: Lines, dependency: Callable[..., Any], path: str
) -> None:
    """After a request its context is as before, also for an app without our middleware."""
    bare = FastAPI()
    bare.include_router(router)
    async with same_context_client(make_app(dependency)) as client:
        await client.get(path, headers=HEADERS)
    lines.clear()
    log.info("outside")
    async with same_context_client(bare) as client:
        for next_path in PATHS:
            await client.get(next_path)

    assert neither(*(entry["event"] for entry in lines)) == told(lines)


@pytest.mark.parametrize("path", FAILING_PATHS)
@pytest.mark.usefixtures("garbage_stays")
async def test_failures_in_a_row_keep_to_their_own_ids(lines: Lines, path: str) -> None:
    """Of requests that fail one after another in one context, each handler has its own IDs."""
    app = make_app()
    app.add_exception_handler(Exception, handle_async)
    async with same_context_client(app) as client:
        for number in range(3):
            await client.get(path, headers={SESSION_HEADER: f"session-{number}"})
        await client.get(path)

    expected = [
        (event, session_id, "-")
        for session_id in ("session-0", "session-1", "session-2", "-")
        for event in ("endpoint", "handler")
    ]
    assert expected == told(lines)


@pytest.mark.usefixtures("garbage_stays")
async def test_the_next_request_in_a_stock_set_up_has_no_ids(stock_lines: Lines) -> None:
    """Late users and errors leave nothing to the next request of a stock set-up."""
    async with same_context_client(make_app(identify_async)) as client:
        for path in ("/async", "/fail", "/sync-fail", "/async-stream"):
            await client.get(path, headers=HEADERS)
    stock_lines.clear()
    async with same_context_client(make_app()) as client:
        for path in ("/async", "/fail", "/sync-fail", "/async-stream"):
            await client.get(path)
    log.info("outside")

    assert neither(*(entry["event"] for entry in stock_lines)) == told(stock_lines)


async def test_concurrent_users_do_not_mix(lines: Lines) -> None:
    """Requests that share the pool's threads keep to their own session and user."""

    def identify_from_header(request: Request) -> None:
        identify(request.headers[USER_HEADER])

    app = FastAPI()

    @app.get("/{number}", dependencies=[Depends(identify_from_header)])
    def endpoint(number: int, background: BackgroundTasks) -> None:
        log.info("endpoint", number=number)
        background.add_task(log.info, "background", number=number)

    app.add_middleware(ReplayLinkMiddleware)
    async with same_context_client(app) as client:

        async def ask(number: int) -> None:
            headers = {SESSION_HEADER: f"session-{number}", USER_HEADER: f"user-{number}"}
            await client.get(f"/{number}", headers=headers)

        await asyncio.gather(*(ask(number) for number in range(100)))

    foreign = [
        entry
        for entry in lines
        if (entry["sessionId"], entry["posthogDistinctId"])
        != (f"session-{entry['number']}", f"user-{entry['number']}")
    ]
    assert 200 == len(lines)
    assert [] == foreign


BODIES = pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"message": "hi", "sessionId": "%s"}' % SESSION_ID.encode(), id="usual"),
        pytest.param(
            b'{"sessionId": "%s", "profile": {"tags": ["a"]}, "message": "%s"}'
            % (SESSION_ID.encode(), b"x" * 100_000),
            id="100-kB",
        ),
        pytest.param(
            b'{"message": "\\u00e9\xc3\xa9", "sessionId": "%s"}' % SESSION_ID.encode(),
            id="unicode",
        ),
    ],
)


@BODIES
@pytest.mark.parametrize("path", ["/chat", "/chat-sync", "/raw", "/raw-stream"])
def test_a_json_body_links_and_reaches_the_endpoint(lines: Lines, path: str, body: bytes) -> None:
    """The session ID in a JSON body is found, and the endpoint gets all of the body."""
    json = {"Content-Type": "application/json"}
    bare = FastAPI()
    bare.include_router(router)
    with TestClient(bare) as client:
        expected = client.post(path, content=body, headers=json)
    lines.clear()
    with TestClient(make_app()) as client:
        response = client.post(path, content=body, headers=json)

    assert (200, expected.content) == (response.status_code, response.content)
    assert session_only("endpoint") == told(lines)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"message": 1, "sessionId": "abc"}', id="wrong-type"),
        pytest.param(b'{"message": "hi", "sessionId": ', id="cut-off"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'{"sessionId": {"$ne": 1}, "message": "hi"}', id="object-as-ID"),
    ],
)
def test_a_bad_json_body_gets_the_answer_that_it_got_before(body: bytes) -> None:
    """FastAPI refuses a bad body with the very words that it has without us."""
    json = {"Content-Type": "application/json"}
    bare = FastAPI()
    bare.include_router(router)
    with TestClient(bare) as client:
        expected = client.post("/chat", content=body, headers=json)
    with TestClient(make_app()) as client:
        response = client.post("/chat", content=body, headers=json)

    assert 422 == expected.status_code
    assert (422, expected.content) == (response.status_code, response.content)


def test_a_body_is_readable_behind_http_middleware(lines: Lines) -> None:
    """A body that a BaseHTTPMiddleware reads as well still reaches the model."""

    async def read_body(request: Request, call_next: RequestResponseEndpoint) -> Response:
        await request.body()
        log.info("before")
        return await call_next(request)

    app = FastAPI()
    app.include_router(router)
    app.middleware("http")(read_body)
    app.add_middleware(ReplayLinkMiddleware)
    app.middleware("http")(log_around)
    message = {"message": "hi", "sessionId": SESSION_ID}
    with TestClient(app) as client:
        response = client.post("/chat", json=message)

    expected = [*neither("before"), *session_only("before", "endpoint"), *neither("after")]
    assert "hi" == response.json()["message"]
    assert expected == told(lines)


def test_form_posts_are_linked_by_the_cookie(lines: Lines) -> None:
    """A plain form, which can send no header, is linked by posthog-js's cookie."""
    with TestClient(make_app(), cookies=posthog_cookies()) as client:
        answer = client.post("/form", data={"name": "Ada"})
        upload = client.post(
            "/upload", data={"name": "Ada"}, files={"file": ("a.bin", b"x" * 200_000)}
        )

    assert ("Ada", "Ada 200000") == (answer.json(), upload.json())
    assert session_only("endpoint", "endpoint") == told(lines)


ORIGIN = "https://app.example"


def preflight(allowed: list[str], asked: list[str]) -> Any:
    app = make_app()
    app.add_middleware(
        CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["GET"], allow_headers=allowed
    )
    with TestClient(app) as client:
        return client.options(
            "/async",
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": ", ".join(asked).lower(),
            },
        )


def test_a_preflight_allows_exactly_the_headers_of_posthog_js() -> None:
    """With CORS_HEADERS a preflight allows the three headers of posthog-js and no more."""
    always = preflight([], []).headers["access-control-allow-headers"].split(", ")
    response = preflight(list(CORS_HEADERS), list(CORS_HEADERS))
    allowed = response.headers["access-control-allow-headers"].split(", ")

    assert 200 == response.status_code
    assert {"X-PostHog-Session-ID", "X-PostHog-Window-ID", "X-PostHog-Distinct-ID"} == {
        name for name in allowed if name not in always
    }
    assert 400 == preflight(list(CORS_HEADERS), [*CORS_HEADERS, "X-Other"]).status_code


@pytest.mark.parametrize("missing", CORS_HEADERS)
def test_a_preflight_fails_without_one_of_the_headers(missing: str) -> None:
    """An API that leaves out one of the three headers refuses the browser's preflight."""
    allowed = [name for name in CORS_HEADERS if name != missing]

    assert 400 == preflight(allowed, list(CORS_HEADERS)).status_code


def test_a_preflight_and_the_request_after_it_are_answered_as_before(lines: Lines) -> None:
    """A request from another origin is linked, and its answer carries the CORS header."""
    app = make_app(identify_sync)
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_headers=CORS_HEADERS)
    with TestClient(app) as client:
        response = client.get("/async", headers={**HEADERS, "Origin": ORIGIN})

    assert ORIGIN == response.headers["access-control-allow-origin"]
    assert both("dependency", "endpoint") == told(lines)[1:3]


def test_an_endpoint_can_read_the_identity() -> None:
    """An endpoint hands on the IDs that are known by then: to a job, say."""
    app = FastAPI(dependencies=[Depends(identify_sync)])

    @app.get("/")
    def endpoint() -> list[str | None]:
        identity = current_identity()
        return [identity.session_id, identity.user_id]

    app.add_middleware(ReplayLinkMiddleware)
    with TestClient(app) as client:
        response = client.get("/", headers=HEADERS)

    assert [SESSION_ID, USER_ID] == response.json()


def test_the_lifespan_passes_through(lines: Lines) -> None:
    """FastAPI's lifespan runs as without us, and its lines carry no IDs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        log.info("startup")
        yield {"pool": "ready"}
        log.info("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def endpoint(request: Request) -> str:
        log.info(request.state.pool)
        return "done"

    app.add_middleware(ReplayLinkMiddleware)
    with TestClient(app) as client:
        client.get("/", headers=HEADERS)

    expected = [*neither("startup"), *session_only("ready"), *neither("shutdown")]
    assert expected == told(lines)
