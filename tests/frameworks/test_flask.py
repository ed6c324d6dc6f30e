from __future__ import annotations

import contextvars
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest

pytest.importorskip("flask")

from flask import (
    Blueprint,
    Flask,
    Response,
    copy_current_request_context,
    g,
    request,
    send_file,
    session,
    stream_with_context,
)
from werkzeug.datastructures import Headers
from werkzeug.exceptions import Forbidden
from werkzeug.test import EnvironBuilder

from replaylink import current_identity, identify
from replaylink.auth import session_user
from replaylink.sources import header
from replaylink.wsgi import ReplayLinkMiddleware
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
    session_only,
    told,
)

USER_HEADER = "X-User"
"""Stands for a user who is known as the request starts."""

LATE = {**HEADERS, "X-Late": "yes"}
"""The view, or what runs before it, identifies the user of such a request."""

views = Blueprint("views", __name__)


@views.before_app_request
def before() -> None:
    log.info("before_request")
    if "X-Late" in request.headers:
        identify(USER_ID)


@views.after_app_request
def after(response: Response) -> Response:
    log.info("after_request")
    return response


@views.teardown_app_request
def teardown(exc: BaseException | None) -> None:
    log.info("teardown")


@views.get("/view")
def view() -> Response:
    log.info("view")
    response = Response("done")
    response.call_on_close(lambda: log.info("call_on_close"))
    return response


@views.get("/identify")
def identify_in_view() -> str:
    log.info("anonymous")
    identify(42)
    log.info("view")
    return "done"


def chunks() -> Iterator[str]:
    for number in range(2):
        log.info("chunk")
        yield str(number)


@views.get("/stream")
def stream() -> Response:
    log.info("view")
    return Response(chunks())


@views.get("/stream-with-context")
def stream_in_context() -> Response:
    log.info("view")
    return Response(stream_with_context(chunks()))


@views.get("/identify-in-stream")
def identify_in_stream() -> Response:
    def parts() -> Iterator[str]:
        log.info("anonymous chunk")
        yield "1"
        identify(USER_ID)
        log.info("chunk")
        yield "2"

    return Response(stream_with_context(parts()))


@views.get("/file")
def file() -> Response:
    log.info("view")
    return send_file(Path(__file__))


@views.get("/fail")
def fail() -> str:
    log.info("view")
    raise LookupError


@views.get("/forbidden")
def forbidden() -> str:
    log.info("view")
    raise Forbidden


@views.get("/threads")
def threads() -> str:
    # A thread starts with an empty context of its own; Flask's own context, which
    # copy_current_request_context() hands on, holds none of structlog's variables.
    context = contextvars.copy_context()
    view = copy_current_request_context(lambda: log.info("thread"))
    thread = threading.Thread(target=context.run, args=(view,))
    thread.start()
    thread.join()
    return "done"


@views.post("/chat")
def chat() -> Any:
    log.info("view")
    return request.get_json()


@views.post("/raw")
def raw() -> bytes:
    log.info("view")
    return request.get_data()


@views.post("/form")
def form() -> str:
    log.info("view")
    return request.form["name"] + str(sum(len(f.read()) for f in request.files.values()))


def make_app(**options: Any) -> Flask:
    app = Flask(__name__)
    app.secret_key = "not-a-secret"
    app.register_blueprint(views)
    app.wsgi_app = ReplayLinkMiddleware(app.wsgi_app, **options)  # type: ignore[method-assign]
    return app


def get(app: Flask, path: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
    """
    Return the response after all of it was read and closed, as a server does.
    """
    return app.test_client().get(path, headers=headers, buffered=True, **options)


AROUND = {
    "/view": ["view", "after_request", "teardown", "call_on_close"],
    "/stream": ["view", "after_request", "teardown", "chunk", "chunk"],
    "/stream-with-context": [
        "view",
        "after_request",
        "teardown",
        "chunk",
        "chunk",
        "teardown",
    ],
    "/file": ["view", "after_request", "teardown"],
    "/fail": ["view", "after_request", "teardown"],
    "/forbidden": ["view", "after_request", "teardown"],
}
"""The lines of each path, from the view on. Flask 3.1 tears a streamed context down twice."""

PATHS = pytest.mark.parametrize("path", AROUND)


@PATHS
def test_a_late_user_is_on_all_later_lines(lines: Lines, path: str) -> None:
    """A user identified before the view is on all later lines, chunks and teardown too."""
    app = make_app()
    get(app, path, LATE)
    linked = told(lines)
    lines.clear()
    get(app, path)

    assert [*session_only("before_request"), *both(*AROUND[path])] == linked
    assert neither("before_request", *AROUND[path]) == told(lines)


@PATHS
def test_what_is_known_at_the_start_needs_no_processor(stock_lines: Lines, path: str) -> None:
    """A stock set-up has both IDs on all lines, chunks and teardown too."""
    app = make_app(user_id=header(USER_HEADER))
    get(app, path, {**HEADERS, USER_HEADER: USER_ID})
    get(app, path)

    events = ["before_request", *AROUND[path]]
    assert [*both(*events), *neither(*events)] == told(stock_lines)


@PATHS
def test_the_user_of_the_server_needs_no_processor(stock_lines: Lines, path: str) -> None:
    """A user whom the server authenticated (REMOTE_USER) is on all lines."""
    get(make_app(), path, HEADERS, environ_overrides={"REMOTE_USER": USER_ID})

    assert both("before_request", *AROUND[path]) == told(stock_lines)


def test_a_view_identifies_the_user(lines: Lines) -> None:
    """A user whom the view identifies is on its later lines, and on those of the teardown."""
    get(make_app(), "/identify", HEADERS)

    expected = [
        *session_only("before_request", "anonymous"),
        *both("view", "after_request", "teardown"),
    ]
    assert expected == told(lines)


def test_a_user_identified_by_a_stream_is_on_its_later_chunks(lines: Lines) -> None:
    """A user whom the stream itself identifies is on the lines of its later chunks."""
    get(make_app(), "/identify-in-stream", HEADERS)

    expected = [
        *session_only("before_request", "after_request", "teardown", "anonymous chunk"),
        *both("chunk", "teardown"),
    ]
    assert expected == told(lines)


def test_threads_that_copy_the_context_are_linked(lines: Lines) -> None:
    """A thread that runs in a copy of the context logs with both IDs."""
    get(make_app(), "/threads", LATE)

    assert both("thread") == told(lines)[1:2]


@pytest.mark.parametrize("error", [LookupError, Exception, 500], ids=["own", "Exception", "500"])
def test_an_error_handler_is_linked(lines: Lines, error: Any) -> None:
    """An error handler logs with both IDs, and leaves nothing to the next request."""
    app = make_app()

    @app.errorhandler(error)
    def handle(exc: Exception) -> tuple[str, int]:
        log.error("handler")
        return "handled", 500

    response = get(app, "/fail", LATE)
    linked = told(lines)
    lines.clear()
    get(app, "/view")

    expected = [
        *session_only("before_request"),
        *both("view", "handler", "after_request", "teardown"),
    ]
    assert "handled" == response.text
    assert expected == linked
    assert neither("before_request", *AROUND["/view"]) == told(lines)


@pytest.mark.usefixtures("garbage_stays")
def test_an_error_that_leaves_the_app_is_linked_and_leaves_nothing(lines: Lines) -> None:
    """The server's own line about an error is linked; the next request has no IDs."""
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True

    def serve(headers: dict[str, str]) -> None:
        environ = make_environ("/fail", headers)
        try:
            read(app, environ)
        except LookupError:
            log.error("server")

    events = ("view", "teardown", "server")
    for number in range(3):
        serve({**LATE, SESSION_HEADER: f"session-{number}"})
    serve({})
    log.info("outside")

    expected = [
        entry
        for number in range(3)
        for entry in (
            ("before_request", f"session-{number}", "-"),
            *((event, f"session-{number}", USER_ID) for event in events),
        )
    ]
    assert [*expected, *neither("before_request", *events, "outside")] == told(lines)


@pytest.mark.usefixtures("garbage_stays")
@PATHS
def test_a_thread_is_left_clean(lines: Lines, path: str) -> None:
    """After a response was closed the thread's lines carry no IDs."""
    app = make_app()
    get(app, path, LATE)
    lines.clear()
    log.info("outside")

    assert neither("outside") == told(lines)


def test_a_response_that_is_never_closed_leaves_nothing_to_the_next(lines: Lines) -> None:
    """A response that is neither read nor closed gives its IDs to no other request."""
    app = make_app()
    client = app.test_client()
    unclosed = client.get("/stream", headers=LATE)
    lines.clear()
    get(app, "/stream")
    unclosed.close()

    assert neither("before_request", *AROUND["/stream"]) == told(lines)


def make_environ(path: str, headers: dict[str, str]) -> dict[str, Any]:
    return EnvironBuilder(path, headers=Headers(headers)).get_environ()


def read(app: Flask, environ: dict[str, Any]) -> tuple[Iterable[bytes], list[str]]:
    statuses: list[str] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda data: None

    return app(environ, start_response), statuses


def test_a_file_reaches_the_server_as_the_server_wrapped_it(lines: Lines) -> None:
    """send_file's wsgi.file_wrapper passes through, so that the server can use sendfile."""
    app = make_app()
    environ = make_environ("/file", LATE)
    environ["wsgi.file_wrapper"] = FileWrapper
    response, statuses = read(app, environ)
    log.info("access line")
    body = b"".join(response)
    response.close()  # type: ignore[attr-defined]
    linked = told(lines)
    lines.clear()
    del environ, response
    log.info("outside")

    assert Path(__file__).read_bytes() == body
    assert ["200 OK"] == statuses
    assert both("access line") == linked[-1:]
    assert neither("outside") == told(lines)


def test_the_file_is_the_servers_own_object() -> None:
    """What the server gets for a file is its own wrapper, not one of ours."""
    environ = make_environ("/file", HEADERS)
    environ["wsgi.file_wrapper"] = FileWrapper
    response, _ = read(make_app(), environ)
    response.close()  # type: ignore[attr-defined]

    assert FileWrapper is type(response)


@pytest.mark.usefixtures("garbage_stays")
def test_files_in_a_row_keep_to_their_own_ids(lines: Lines) -> None:
    """Of files sent one after another in one thread, each has its own IDs."""
    app = make_app()

    def serve(headers: dict[str, str]) -> None:
        environ = make_environ("/file", headers)
        environ["wsgi.file_wrapper"] = FileWrapper
        response, _ = read(app, environ)
        log.info("access line")
        response.close()  # type: ignore[attr-defined]

    for number in range(3):
        serve({SESSION_HEADER: f"session-{number}"})
    serve({})
    log.info("outside")

    events = ("before_request", *AROUND["/file"], "access line")
    expected = [
        (event, session_id, "-")
        for session_id in ("session-0", "session-1", "session-2", "-")
        for event in events
    ]
    assert [*expected, *neither("outside")] == told(lines)


@pytest.mark.parametrize("path", ["/chat", "/raw"])
@pytest.mark.parametrize("size", [10, 40_000], ids=["small", "240-kB"])
def test_a_json_body_links_and_reaches_the_view(lines: Lines, path: str, size: int) -> None:
    """The session ID in a JSON body is found, and the view gets all of the body."""
    message = {"message": "é" * size, "sessionId": SESSION_ID}
    bare = Flask(__name__)
    bare.register_blueprint(views)
    expected = bare.test_client().post(path, json=message)
    lines.clear()
    response = make_app().test_client().post(path, json=message, buffered=True)

    assert (200, expected.data) == (response.status_code, response.data)
    assert session_only("before_request", "view", "after_request", "teardown") == told(lines)


@pytest.mark.parametrize("body", [b"", b"[", b"\xff"], ids=["empty", "cut-off", "not-UTF-8"])
def test_a_bad_json_body_gets_the_answer_that_it_got_before(body: bytes) -> None:
    """Flask refuses a bad body with the very words that it has without us."""
    bare = Flask(__name__)
    bare.register_blueprint(views)
    options: dict[str, Any] = {"data": body, "content_type": "application/json", "buffered": True}
    expected = bare.test_client().post("/chat", **options)
    response = make_app().test_client().post("/chat", **options)

    assert 400 == expected.status_code
    assert (400, expected.data) == (response.status_code, response.data)


@pytest.mark.parametrize("upload", [False, True], ids=["fields", "upload"])
def test_form_posts_are_linked_by_the_cookie(lines: Lines, upload: bool) -> None:
    """A plain form, which can send no header, is linked by posthog-js's cookie."""
    client = make_app().test_client()
    for name, value in posthog_cookies().items():
        client.set_cookie(name, value)
    data: dict[str, Any] = {"name": "Ada"}
    if upload:
        data["file"] = (io.BytesIO(b"x" * 200_000), "a.bin")
    response = client.post("/form", data=data, buffered=True)

    assert ("Ada200000" if upload else "Ada0") == response.text
    assert session_only("before_request", "view", "after_request", "teardown") == told(lines)


def session_app() -> Flask:
    app = make_app(user_id=session_user("user_id"))

    @app.get("/sign-in")
    def sign_in() -> str:
        log.info("anonymous")
        session["user_id"] = 42
        log.info("view")
        return "done"

    @app.get("/sign-out")
    def sign_out() -> str:
        session.clear()
        return "done"

    return app


@pytest.mark.parametrize("path", AROUND)
def test_the_session_of_flask_tells_the_user(lines: Lines, path: str) -> None:
    """A user in Flask's signed session is on the lines from sign-in to sign-out."""
    client = session_app().test_client()
    client.get("/sign-in", headers=HEADERS, buffered=True)
    signing_in = told(lines)
    lines.clear()
    client.get(path, headers=HEADERS, buffered=True)
    signed_in = told(lines)
    client.get("/sign-out", buffered=True)
    lines.clear()
    client.get(path, buffered=True)

    expected = [
        *session_only("before_request", "anonymous"),
        *both("view", "after_request", "teardown"),
    ]
    assert expected == signing_in
    assert both("before_request", *AROUND[path]) == signed_in
    assert neither("before_request", *AROUND[path]) == told(lines)


def test_the_session_is_looked_into_before_its_context_is_gone(lines: Lines) -> None:
    """A stream is linked to the session's user, though no earlier line was logged."""
    app = Flask(__name__)
    app.secret_key = "not-a-secret"

    @app.get("/sign-in")
    def sign_in() -> str:
        session["user_id"] = 42
        return "done"

    @app.get("/stream")
    def stream() -> Response:
        return Response(chunks())

    app.wsgi_app = ReplayLinkMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, user_id=session_user("user_id")
    )
    client = app.test_client()
    client.get("/sign-in", buffered=True)
    client.get("/stream", headers=HEADERS, buffered=True)

    assert both("chunk", "chunk") == told(lines)


def test_looking_into_the_session_leaves_the_response_alone(lines: Lines) -> None:
    """Our look into the session adds neither ``Vary: Cookie`` nor a new cookie."""
    client = session_app().test_client()
    client.get("/sign-in", buffered=True)
    response = client.get("/view", buffered=True)

    assert ("call_on_close", "-", USER_ID) == told(lines)[-1]
    assert "Vary" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_a_session_that_the_app_reads_still_varies() -> None:
    """A response for which the app itself read the session says ``Vary: Cookie``."""
    app = session_app()

    @app.get("/read")
    def read() -> str:
        log.info("view")
        return str(session.get("user_id"))

    assert "Cookie" == get(app, "/read").headers["Vary"]


def test_a_forged_session_tells_no_user(lines: Lines) -> None:
    """A session cookie that was signed with another key tells no user."""
    app, other = session_app(), session_app()
    other.secret_key = "of-another-app"
    serializer: Any = other.session_interface
    forged = serializer.get_signing_serializer(other).dumps({"user_id": 42})
    client = app.test_client()
    client.set_cookie("session", forged)
    client.get("/view", headers=HEADERS, buffered=True)

    assert session_only("before_request", *AROUND["/view"]) == told(lines)


def test_an_app_without_a_secret_key_tells_no_user(lines: Lines) -> None:
    """session_user() in an app that can have no session finds nobody."""
    app = session_app()
    app.secret_key = None
    get(app, "/view", HEADERS)

    assert session_only("before_request", *AROUND["/view"]) == told(lines)


def test_an_async_view_is_linked(lines: Lines) -> None:
    """An async view, which Flask runs on a loop of its own, is linked both ways."""
    pytest.importorskip("asgiref")
    app = make_app()

    @app.get("/async")
    async def view() -> str:
        log.info("anonymous")
        identify(USER_ID)
        log.info("view")
        return "done"

    get(app, "/async", HEADERS)

    expected = [
        *session_only("before_request", "anonymous"),
        *both("view", "after_request", "teardown"),
    ]
    assert expected == told(lines)


def test_a_view_can_read_the_identity() -> None:
    """A view hands on the IDs that are known by then: to a job, say."""
    app = make_app()

    @app.get("/identity")
    def view() -> list[str | None]:
        identity = current_identity()
        return [identity.session_id, identity.user_id]

    assert [SESSION_ID, USER_ID] == get(app, "/identity", LATE).json


def test_concurrent_users_do_not_mix(lines: Lines) -> None:
    """Requests in threads that take turns keep to their own session and user."""
    app = Flask(__name__)

    @app.get("/<int:number>")
    def view(number: int) -> Response:
        g.number = number
        identify(f"user-{number}")

        def parts() -> Iterator[str]:
            for _ in range(5):
                log.info("chunk", number=number)
                yield "x"

        return Response(parts())

    app.wsgi_app = ReplayLinkMiddleware(app.wsgi_app)  # type: ignore[method-assign]

    def work(worker: int) -> None:
        for number in range(worker, 100, 4):
            get(app, f"/{number}", {SESSION_HEADER: f"session-{number}"})

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    foreign = [
        entry
        for entry in lines
        if (entry["sessionId"], entry["posthogDistinctId"])
        != (f"session-{entry['number']}", f"user-{entry['number']}")
    ]
    assert 500 == len(lines)
    assert [] == foreign


def test_interleaved_streams_in_one_thread_do_not_mix(lines: Lines) -> None:
    """Two streams that one thread reads by turns keep to their own IDs."""
    app = make_app()
    streams = []
    for number in range(2):
        environ = make_environ("/stream", {SESSION_HEADER: f"session-{number}"})
        streams.append(read(app, environ)[0])
    lines.clear()
    for parts in zip(*streams, strict=True):
        assert 2 == len(parts)
    for stream in reversed(streams):
        stream.close()  # type: ignore[attr-defined]
    log.info("outside")

    expected = [("chunk", f"session-{number}", "-") for number in (0, 1, 0, 1)]
    assert [*expected, *neither("outside")] == told(lines)
