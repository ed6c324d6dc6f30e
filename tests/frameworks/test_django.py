from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from wsgiref.util import FileWrapper

import httpx
import pytest

pytest.importorskip("django")

from django.contrib.auth import get_user_model  # type: ignore[import-untyped]
from django.contrib.auth.signals import user_logged_in  # type: ignore[import-untyped]
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.core.management import call_command  # type: ignore[import-untyped]
from django.core.signals import request_finished  # type: ignore[import-untyped]
from django.db import connections  # type: ignore[import-untyped]
from django.db.backends.signals import connection_created  # type: ignore[import-untyped]
from django.test import override_settings  # type: ignore[import-untyped]

from replaylink import asgi, identify, wsgi
from replaylink.sources import header
from tests.conftest import Lines
from tests.frameworks import django_project
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

QUERIES: list[str] = []
"""The queries that were sent to the database, of all threads."""


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def method(self) -> str:
        return "POST" if self.options else "GET"


class ASGISite:
    """
    Django's ASGI handler in ours. All requests of a call run in one context.
    """

    def __init__(self, *middleware: str, linked: bool = True, **options: Any) -> None:
        app: Any = make_handler(ASGIHandler, middleware)
        self.app = asgi.ReplayLinkMiddleware(app, **options) if linked else app
        self.cookies = httpx.Cookies()

    def __call__(self, *requests: Request) -> list[httpx.Response]:
        return asyncio.run(self.send(requests))

    async def send(self, requests: tuple[Request, ...]) -> list[httpx.Response]:
        async def server(scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            except LookupError:
                log.error("server")
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body"})

        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://app.test", cookies=self.cookies
        ) as client:
            responses = [
                await client.request(
                    request.method, request.path, headers=request.headers, **request.options
                )
                for request in requests
            ]
            log.info("outside")
            self.cookies = client.cookies
        return responses


class WSGISite:
    """
    Django's WSGI handler in ours. All requests run in one thread.
    """

    def __init__(self, *middleware: str, linked: bool = True, **options: Any) -> None:
        app: Any = make_handler(WSGIHandler, middleware)
        self.app = wsgi.ReplayLinkMiddleware(app, **options) if linked else app
        self.cookies = httpx.Cookies()

    def __call__(self, *requests: Request) -> list[httpx.Response]:
        def server(environ: Any, start_response: Any) -> Any:
            try:
                return self.app(environ, start_response)
            except LookupError:
                log.error("server")
                start_response("500 Internal Server Error", [])
                return [b""]

        transport = httpx.WSGITransport(app=server)
        with httpx.Client(
            transport=transport, base_url="http://app.test", cookies=self.cookies
        ) as client:
            responses = [
                client.request(
                    request.method, request.path, headers=request.headers, **request.options
                )
                for request in requests
            ]
            log.info("outside")
            self.cookies = client.cookies
        return responses


def make_handler(handler: Callable[[], Any], middleware: tuple[str, ...]) -> Any:
    names = [f"{django_project.__name__}.{name}" for name in middleware]
    with override_settings(MIDDLEWARE=[*django_project.BASE_MIDDLEWARE, *names]):
        return handler()


@pytest.fixture(params=[ASGISite, WSGISite], ids=["asgi", "wsgi"])
def make_site(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    database = tmp_path_factory.mktemp("django") / "db.sqlite3"
    connections["default"].settings_dict["NAME"] = str(database)

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        QUERIES.append(sql)
        return execute(sql, params, many, context)

    def watch(connection: Any, **kwargs: Any) -> None:
        if count not in connection.execute_wrappers:
            connection.execute_wrappers.append(count)

    connection_created.connect(watch)
    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("ada", "ada@example.com", "secret", pk=42)
    connections.close_all()
    yield
    connections.close_all()
    connection_created.disconnect(watch)


@pytest.fixture(autouse=True)
def _quiet_django() -> Iterator[None]:
    """Django's own lines about failing views are kept off the console."""
    logger = logging.getLogger("django.request")
    logger.disabled = True
    yield
    logger.disabled = False


def signed_in(make_site: Any, *middleware: str, **options: Any) -> Any:
    """
    Return a site whose next requests are those of the user.
    """
    site = make_site(*middleware, **options)
    site(Request("/sign-in"))
    return site


# Django warns when a stream is not of the server's kind; it serves it nevertheless.
STREAM_WARNINGS = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")

EVENTS = {
    "/sync": ["view", "after"],
    "/async": ["view", "after"],
    "/stream": ["view", "after", "chunk", "chunk"],
    "/async-stream": ["view", "after", "chunk", "chunk"],
    "/file": ["view", "after"],
    "/fail": ["view", "handler", "after"],
    "/async-fail": ["view", "handler", "after"],
}
"""The lines of each path, from the view on."""

PATHS = pytest.mark.parametrize("path", EVENTS)


@STREAM_WARNINGS
@PATHS
def test_a_middleware_of_four_lines_identifies_the_user(
    lines: Lines, make_site: Any, path: str
) -> None:
    """With a middleware that calls identify(request.user.pk) all later lines have the user."""
    site = signed_in(make_site, "identify_user")
    lines.clear()
    site(Request(path, HEADERS))
    linked = told(lines)
    lines.clear()
    site.cookies.clear()
    site(Request(path))

    assert [*session_only("before"), *both(*EVENTS[path]), *neither("outside")] == linked
    assert neither("before", *EVENTS[path], "outside") == told(lines)


@STREAM_WARNINGS
@PATHS
def test_an_async_middleware_identifies_the_user(lines: Lines, path: str) -> None:
    """On ASGI the middleware may be async, and asks for request.auser()."""
    site = signed_in(ASGISite, "identify_user_async")
    lines.clear()
    site(Request(path, HEADERS))

    assert [*session_only("before"), *both(*EVENTS[path]), *neither("outside")] == told(lines)


@STREAM_WARNINGS
@PATHS
def test_what_is_known_at_the_start_needs_no_processor(
    stock_lines: Lines, make_site: Any, path: str
) -> None:
    """A stock set-up has both IDs on all lines of views, streams and handlers."""
    site = make_site(user_id=header(USER_HEADER))
    site(Request(path, {**HEADERS, USER_HEADER: USER_ID}), Request(path))

    events = ["before", *EVENTS[path]]
    assert [*both(*events), *neither(*events, "outside")] == told(stock_lines)


@pytest.mark.parametrize("path", ["/late", "/late-async"], ids=["sync", "async"])
def test_a_view_identifies_the_user(lines: Lines, make_site: Any, path: str) -> None:
    """A user whom the view identifies is on its later lines, and on those around it."""
    make_site()(Request(path, HEADERS))

    expected = [*session_only("before", "anonymous"), *both("view", "after"), *neither("outside")]
    assert expected == told(lines)


def test_the_signal_of_a_login_identifies_the_user(lines: Lines, make_site: Any) -> None:
    """A receiver of user_logged_in identifies the user in the very request of the login."""

    def receive(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
        identify(user.pk)

    user_logged_in.connect(receive)
    try:
        make_site()(Request("/sign-in", HEADERS))
    finally:
        user_logged_in.disconnect(receive)

    expected = [*session_only("before", "anonymous"), *both("view", "after"), *neither("outside")]
    assert expected == told(lines)


def test_the_end_of_the_request_is_linked(lines: Lines, make_site: Any) -> None:
    """A receiver of request_finished, at the close of the response, logs with both IDs."""

    def receive(sender: Any, **kwargs: Any) -> None:
        log.info("request_finished")

    site = signed_in(make_site, "identify_user")
    lines.clear()
    request_finished.connect(receive)
    try:
        site(Request("/sync", HEADERS))
    finally:
        request_finished.disconnect(receive)

    assert both("view", "after", "request_finished") == told(lines)[1:-1]


@pytest.mark.usefixtures("garbage_stays")
@STREAM_WARNINGS
@PATHS
def test_the_next_request_in_the_same_context_has_no_ids(
    lines: Lines, make_site: Any, path: str
) -> None:
    """A request without IDs has none, also in the very context that a linked one used."""
    site = signed_in(make_site, "identify_user", user_id=header(USER_HEADER))
    plain = make_site("identify_user")
    lines.clear()
    site(Request(path, HEADERS))
    assert both("view")[0] in told(lines)
    lines.clear()
    plain(*(Request(other) for other in EVENTS))

    assert neither(*(entry["event"] for entry in lines)) == told(lines)


# Where an error leaves the app, Django's ASGI handler leaves the file of the body open.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporary:ResourceWarning")
@pytest.mark.usefixtures("garbage_stays")
@pytest.mark.parametrize("path", ["/fail", "/async-fail"], ids=["sync", "async"])
@pytest.mark.parametrize("propagate", [False, True], ids=["handled", "propagated"])
def test_failures_in_a_row_keep_to_their_own_ids(
    lines: Lines, make_site: Any, path: str, propagate: bool
) -> None:
    """Of requests that fail one after another in one context, each has its own IDs."""
    site = make_site("identify_user")
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=propagate):
        site(*(Request(path, {SESSION_HEADER: f"session-{n}"}) for n in range(3)), Request(path))

    tail = ("server",) if propagate else ("handler", "after")
    events = ("before", "view", *tail)
    expected = [
        (event, session_id, "-")
        for session_id in ("session-0", "session-1", "session-2", "-")
        for event in events
    ]
    assert expected == told(lines)[:-1]
    assert neither("outside") == told(lines)[-1:]


def test_authenticated_user_never_loads_djangos_lazy_user(lines: Lines) -> None:
    """A lazy user in the scope is not loaded by a line; one that a view loaded is found."""
    site = signed_in(ASGISite, "user_in_scope")
    lines.clear()
    QUERIES.clear()
    django_project.LOADED.clear()
    site(Request("/sync", HEADERS))
    untouched = told(lines), list(QUERIES), list(django_project.LOADED)
    lines.clear()
    site(Request("/greeting", HEADERS))

    expected = session_only("before", "view", "after")
    assert ([*expected, *neither("outside")], [], []) == untouched
    assert [*session_only("before", "anonymous"), *both("view", "after")] == told(lines)[:-1]
    assert ["42"] == [str(user_id) for user_id in django_project.LOADED]
    assert 1 == len(QUERIES)


@STREAM_WARNINGS
@PATHS
def test_a_request_that_needs_no_user_makes_no_query(
    lines: Lines, make_site: Any, path: str
) -> None:
    """With all defaults on, a request of a signed-in user makes no query of ours."""
    site = signed_in(make_site)
    QUERIES.clear()
    django_project.LOADED.clear()
    site(Request(path, HEADERS))

    assert ([], []) == (QUERIES, django_project.LOADED)


def test_the_four_lines_load_the_user_once(lines: Lines, make_site: Any) -> None:
    """The middleware that identifies loads the user once, for the view as well."""
    site = signed_in(make_site, "identify_user")
    QUERIES.clear()
    (response,) = site(Request("/greeting", HEADERS))

    assert "Hello, you!" == response.text
    assert 1 == len(QUERIES)


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "200-kB"])
def test_a_json_body_links_and_reaches_the_view(lines: Lines, make_site: Any, size: int) -> None:
    """The session ID in a JSON body is found, and the view gets all of the body."""
    message = {"message": "é" * size, "sessionId": SESSION_ID}
    (expected,) = make_site(linked=False)(Request("/chat", {}, {"json": message}))
    lines.clear()
    (response,) = make_site()(Request("/chat", {}, {"json": message}))

    assert message == response.json()
    assert (200, expected.content) == (response.status_code, response.content)
    assert [*session_only("before", "view", "after"), *neither("outside")] == told(lines)


@pytest.mark.parametrize("upload", [False, True], ids=["fields", "upload"])
def test_form_posts_are_linked_by_the_cookie(lines: Lines, make_site: Any, upload: bool) -> None:
    """A plain form, which can send no header, is linked by posthog-js's cookie."""
    site = make_site()
    site.cookies.update(posthog_cookies())
    options: dict[str, Any] = {"data": {"name": "Ada"}}
    if upload:
        options["files"] = {"file": ("a.bin", b"x" * 200_000)}
    (response,) = site(Request("/form", {}, options))

    assert ("Ada 200000" if upload else "Ada 0") == response.text
    assert [*session_only("before", "view", "after"), *neither("outside")] == told(lines)


def test_a_file_reaches_the_server_as_the_server_wrapped_it(lines: Lines) -> None:
    """FileResponse's wsgi.file_wrapper passes through, so that the server can use sendfile."""
    site = WSGISite()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/file",
        "SERVER_NAME": "app.test",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.file_wrapper": FileWrapper,
        "HTTP_X_POSTHOG_SESSION_ID": SESSION_ID,
    }
    response: Any = site.app(environ, lambda status, headers, exc_info=None: lambda data: None)
    log.info("access line")
    body = b"".join(response)
    response.close()

    assert FileWrapper is type(response)
    assert Path(django_project.__file__).read_bytes() == body
    assert session_only("before", "view", "after", "access line") == told(lines)


def test_the_user_of_the_server_needs_no_processor(stock_lines: Lines) -> None:
    """A user whom the server authenticated (REMOTE_USER) is on all lines."""
    site = WSGISite()
    inner = site.app

    def authenticate(environ: Any, start_response: Any) -> Any:
        return inner({**environ, "REMOTE_USER": USER_ID}, start_response)

    site.app = authenticate
    site(Request("/sync", HEADERS))

    assert [*both("before", "view", "after"), *neither("outside")] == told(stock_lines)


async def test_concurrent_users_do_not_mix(lines: Lines) -> None:
    """Concurrent requests, sync views in threads among them, keep to their own session."""
    site = ASGISite()
    transport = httpx.ASGITransport(app=site.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test") as client:

        async def ask(number: int) -> None:
            path = ("/sync", "/async", "/async-stream")[number % 3]
            await client.get(path, headers={SESSION_HEADER: f"session-{number}"})

        await asyncio.gather(*(ask(number) for number in range(60)))

    expected = sorted(
        (event, f"session-{number}", "-")
        for number in range(60)
        for event in (
            "before",
            *EVENTS[("/sync", "/async", "/async-stream")[number % 3]],
        )
    )
    assert expected == sorted(told(lines))
