from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("django")
pytest.importorskip("starlette")

from django.utils.functional import SimpleLazyObject  # type: ignore[import-untyped]
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from replaylink.asgi import ReplayLinkMiddleware
from tests.conftest import Lines
from tests.frameworks.helpers import HEADERS, both, log, session_only, told


class Base(DeclarativeBase): ...


class Member(Base):
    """
    A user as apps with Flask-Login write it: who is active counts as authenticated.
    """

    __tablename__ = "member"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    active: Mapped[bool] = mapped_column(default=True)

    @property
    def is_authenticated(self) -> bool:
        return self.active


class Account(Base):
    """
    A user whose key has another name.
    """

    __tablename__ = "account"

    user_id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(deferred=True)


class Tenant(Base):
    """
    A user whose ID is unique together with that of a tenant only.
    """

    __tablename__ = "tenant"

    tenant: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Database:
    """
    A database that keeps account of the queries it gets.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queries: list[str] = []
        Base.metadata.create_all(engine)
        event.listen(
            engine,
            "before_cursor_execute",
            lambda conn, cursor, statement, *rest: self.queries.append(statement),
        )


@pytest.fixture
def database() -> Iterator[Database]:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    yield Database(engine)
    engine.dispose()


def requests_of(user: Any, before: Callable[[], object] = lambda: None) -> None:
    """
    Make a request of *user*, who is known from between two lines on.
    """

    async def endpoint(request: Request) -> PlainTextResponse:
        log.info("anonymous")
        request.scope["user"] = user
        before()
        log.info("endpoint")
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(ReplayLinkMiddleware)
    with TestClient(app) as client:
        client.get("/", headers=HEADERS)


USERS: dict[str, Callable[[], Any]] = {
    "id": lambda: Member(id=42, email="ada@example.com"),
    "user_id": lambda: Account(user_id=42, email="ada@example.com"),
}

ALL_USERS = pytest.mark.parametrize("make", USERS.values(), ids=USERS)


@ALL_USERS
def test_a_loaded_row_tells_its_key(
    lines: Lines, database: Database, make: Callable[[], Any]
) -> None:
    """A row with its attributes loaded tells its key, without a query."""
    with Session(database.engine, expire_on_commit=False) as session:
        user = make()
        session.add(user)
        session.commit()
        database.queries.clear()
        requests_of(user)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert [] == database.queries


@ALL_USERS
def test_an_expired_row_is_not_loaded(
    lines: Lines, database: Database, make: Callable[[], Any]
) -> None:
    """A row that a commit expired tells its key, without a query."""
    with Session(database.engine) as session:
        user = make()
        session.add(user)
        session.commit()
        database.queries.clear()
        requests_of(user)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert [] == database.queries


@ALL_USERS
def test_a_row_that_the_request_itself_expires_is_not_loaded(
    lines: Lines, database: Database, make: Callable[[], Any]
) -> None:
    """A row that the endpoint's own commit expires tells its key, without a query."""
    with Session(database.engine) as session:
        user = make()
        session.add(user)
        session.flush()
        database.queries.clear()
        requests_of(user, session.commit)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert [] == [query for query in database.queries if query.startswith("SELECT")]


@ALL_USERS
def test_an_expired_and_detached_row_is_no_error(
    lines: Lines, database: Database, make: Callable[[], Any]
) -> None:
    """An expired row whose session was closed tells its key, without an error."""
    with Session(database.engine) as session:
        user = make()
        session.add(user)
        session.commit()
    database.queries.clear()
    requests_of(user)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert [] == database.queries


@pytest.mark.parametrize("expire", [False, True], ids=["loaded", "expired"])
def test_a_tenant_is_not_taken_for_the_user(lines: Lines, database: Database, expire: bool) -> None:
    """Of a key of several columns, the first is never taken for the user's ID."""
    with Session(database.engine, expire_on_commit=expire) as session:
        user = Tenant(tenant=7, id=42, email="ada@example.com")
        session.add(user)
        session.commit()
        database.queries.clear()
        requests_of(user)

    assert "7" not in [user_id for _, _, user_id in told(lines)]
    assert [] == database.queries


def test_a_row_without_a_key_yet_is_nobody(lines: Lines) -> None:
    """A user that was never saved has no ID."""
    requests_of(Member(email="ada@example.com", active=True))

    assert session_only("anonymous", "endpoint") == told(lines)


class Lazy:
    """
    Makes Django's lazy user, and counts how often it is loaded.
    """

    def __init__(self, user: Any) -> None:
        self.loads = 0
        self._user = user
        self.user = SimpleLazyObject(self._load)

    def _load(self) -> Any:
        self.loads += 1
        return self._user


class DjangoLikeUser:
    is_authenticated = True

    def __init__(self, pk: int | None) -> None:
        self.pk = pk


class Anonymous(DjangoLikeUser):
    is_authenticated = False


def test_djangos_lazy_user_is_not_loaded_by_a_line(lines: Lines) -> None:
    """A SimpleLazyObject that nobody touched is left alone."""
    lazy = Lazy(DjangoLikeUser(42))
    requests_of(lazy.user)

    assert session_only("anonymous", "endpoint") == told(lines)
    assert 0 == lazy.loads


def test_djangos_lazy_user_is_found_once_the_app_touched_it(lines: Lines) -> None:
    """A SimpleLazyObject that the app itself touched tells the user it wraps."""
    lazy = Lazy(DjangoLikeUser(42))
    requests_of(lazy.user, lambda: lazy.user.is_authenticated)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert 1 == lazy.loads


@pytest.mark.parametrize(
    "user", [Anonymous(None), Anonymous(42), None], ids=["anonymous", "anonymous-with-key", "None"]
)
def test_djangos_lazy_nobody_is_nobody(lines: Lines, user: Any) -> None:
    """A SimpleLazyObject around an anonymous user, or None, gives no ID."""
    lazy = Lazy(user)
    requests_of(lazy.user, lambda: str(lazy.user))

    assert session_only("anonymous", "endpoint") == told(lines)


def test_a_lazy_row_is_not_loaded(lines: Lines, database: Database) -> None:
    """A SimpleLazyObject around an expired and detached row tells its key, without an error."""
    with Session(database.engine) as session:
        user = Member(id=42, email="ada@example.com")
        session.add(user)
        session.commit()
    lazy = Lazy(user)
    database.queries.clear()
    requests_of(lazy.user, lambda: lazy.user.metadata)

    assert [*session_only("anonymous"), *both("endpoint")] == told(lines)
    assert [] == database.queries


def test_a_user_whose_attributes_fail_is_nobody(lines: Lines) -> None:
    """A user whose attributes raise gets no ID, and the request goes on."""

    class Broken:
        @property
        def id(self) -> int:
            raise RuntimeError

    requests_of(Broken())

    assert session_only("anonymous", "endpoint") == told(lines)
