from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("flask_login")

from flask import Flask, Response, stream_with_context
from flask_login import (  # type: ignore[import-untyped]
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
)

from replaylink.wsgi import ReplayLinkMiddleware
from tests.conftest import Lines
from tests.frameworks.helpers import (
    HEADERS,
    USER_ID,
    both,
    log,
    neither,
    session_only,
    told,
)


class Member(UserMixin):  # type: ignore[misc]
    def __init__(self, user_id: str) -> None:
        self.id = user_id


class MemberByGetID(UserMixin):  # type: ignore[misc]
    """
    A user whose ID only Flask-Login's own `get_id` tells.
    """

    email = "ada@example.com"

    def get_id(self) -> str:
        return USER_ID


class Site:
    """
    An app with Flask-Login that keeps account of the users it loads.

    A quiet one logs nothing around its views.
    """

    def __init__(self, user: Any, *, quiet: bool = False) -> None:
        self.loaded: list[str] = []
        self.app = app = Flask(__name__)
        app.secret_key = "not-a-secret"
        manager = LoginManager(app)

        @manager.user_loader  # type: ignore[untyped-decorator]
        def load(user_id: str) -> Any:
            self.loaded.append(user_id)
            return user

        def before() -> None:
            log.info("before_request")

        def teardown(exc: BaseException | None) -> None:
            log.info("teardown")

        if not quiet:
            app.before_request(before)
            app.teardown_request(teardown)

        @app.get("/sign-in")
        def sign_in() -> str:
            log.info("anonymous")
            login_user(user)
            log.info("view")
            return "done"

        @app.get("/sign-out")
        def sign_out() -> str:
            logout_user()
            return "done"

        @app.get("/public")
        def public() -> str:
            log.info("view")
            return "done"

        @app.get("/private")
        @login_required  # type: ignore[untyped-decorator]
        def private() -> str:
            log.info("view")
            return "done"

        @app.get("/greeting")
        def greeting() -> str:
            name = "you" if current_user.is_authenticated else "stranger"
            log.info("view")
            return f"Hello, {name}!"

        def chunks() -> Iterator[str]:
            for number in range(2):
                log.info("chunk")
                yield str(number)

        @app.get("/stream")
        @login_required  # type: ignore[untyped-decorator]
        def stream() -> Response:
            return Response(chunks())

        @app.get("/stream-with-context")
        @login_required  # type: ignore[untyped-decorator]
        def stream_in_context() -> Response:
            return Response(stream_with_context(chunks()))

        @app.get("/fail")
        @login_required  # type: ignore[untyped-decorator]
        def fail() -> str:
            raise LookupError

        @app.errorhandler(LookupError)
        def handle(exc: LookupError) -> tuple[str, int]:
            log.error("handler")
            return "handled", 500

        app.wsgi_app = ReplayLinkMiddleware(app.wsgi_app)  # type: ignore[method-assign]
        self.client = app.test_client()

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=HEADERS, buffered=True)


USERS = pytest.mark.parametrize(
    "user", [Member(USER_ID), MemberByGetID()], ids=["id", "get_id-alone"]
)


@USERS
def test_a_login_is_on_all_later_lines_of_its_request(lines: Lines, user: Any) -> None:
    """A user who logs in is on the later lines of the very request."""
    Site(user).get("/sign-in")

    expected = [
        *session_only("before_request", "anonymous"),
        *both("view", "teardown"),
    ]
    assert expected == told(lines)


@USERS
@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("/private", ["view", "teardown"]),
        ("/greeting", ["view", "teardown"]),
        ("/stream", ["teardown", "chunk", "chunk"]),
        ("/stream-with-context", ["teardown", "chunk", "chunk", "teardown"]),
        ("/fail", ["handler", "teardown"]),
    ],
)
def test_a_loaded_user_is_on_all_lines_from_then_on(
    lines: Lines, user: Any, path: str, events: list[str]
) -> None:
    """A user whom the app itself had Flask-Login load is on all lines from then on."""
    site = Site(user)
    site.get("/sign-in")
    lines.clear()
    site.get(path)
    linked = told(lines)
    site.get("/sign-out")
    lines.clear()
    site.get("/greeting")

    assert [*session_only("before_request"), *both(*events)] == linked
    assert session_only("before_request", "view", "teardown") == told(lines)


@pytest.mark.parametrize("path", ["/stream", "/stream-with-context"])
def test_a_loaded_user_is_on_a_stream_without_earlier_lines(lines: Lines, path: str) -> None:
    """A user is looked for before Flask's context is gone, though nothing was logged in it."""
    site = Site(Member(USER_ID), quiet=True)
    site.get("/sign-in")
    lines.clear()
    site.get(path)

    assert both("chunk", "chunk") == told(lines)


def test_no_user_is_loaded_for_a_line(lines: Lines) -> None:
    """A request that asks for no user has none loaded by our looking for it."""
    site = Site(Member(USER_ID))
    site.get("/sign-in")
    site.loaded.clear()
    lines.clear()
    site.get("/public")

    assert [] == site.loaded
    assert session_only("before_request", "view", "teardown") == told(lines)


def test_a_user_is_loaded_no_more_than_without_us() -> None:
    """A request that asks for its user has it loaded once, as without us."""
    site = Site(Member(USER_ID))
    site.get("/sign-in")
    site.loaded.clear()
    site.get("/private")

    assert [USER_ID] == site.loaded


def test_nobody_is_no_user(lines: Lines) -> None:
    """Flask-Login's anonymous user gets no ID."""
    response = Site(Member(USER_ID)).get("/greeting")

    assert "Hello, stranger!" == response.text
    assert session_only("before_request", "view", "teardown") == told(lines)


@pytest.mark.usefixtures("garbage_stays")
@pytest.mark.parametrize("path", ["/private", "/stream", "/stream-with-context", "/fail"])
def test_the_next_request_has_no_ids(lines: Lines, path: str) -> None:
    """A request of nobody after one of a user has no IDs."""
    site = Site(Member(USER_ID))
    site.get("/sign-in")
    site.get(path)
    lines.clear()
    site.app.test_client().get("/greeting", buffered=True)
    log.info("outside")

    assert neither("before_request", "view", "teardown", "outside") == told(lines)
