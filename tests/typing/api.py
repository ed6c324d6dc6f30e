"""
Real usage, as type checkers see it. Read by them, and never run.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from typing_extensions import assert_type

from replaylink import CORS_HEADERS, Identity, current_identity, identify, linked, replay_url
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.auth import authenticated_user, bearer_jwt, session_user
from replaylink.processors import ReplayURL, add_identity
from replaylink.sources import header, is_uuid7, json_body, posthog_cookie, query
from replaylink.stdlib import IdentityFilter, install
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


async def asgi_app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None: ...


def wsgi_app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return []


class App:
    """An app that keeps its WSGI callable in an attribute, as Flask does."""

    wsgi_app: WSGIApplication

    def __init__(self) -> None:
        self.wsgi_app = WSGIMiddleware(wsgi_app)


def user_of(connection: Any) -> int | None:
    return None


async def session_of(scope: Any) -> UUID | str | None:
    return None


def middlewares() -> None:
    ASGIMiddleware(asgi_app)
    ASGIMiddleware(ASGIMiddleware(asgi_app))
    ASGIMiddleware(
        asgi_app,
        session_id=(header("X-Session"), query("session"), json_body("a", "b"), session_of),
        user_id=[authenticated_user(), session_user("id"), user_of, posthog_cookie()],
        validate_session_id=is_uuid7,
        max_body_bytes=1024,
        session_key="session.id",
        user_key="user.id",
    )
    WSGIMiddleware(wsgi_app)
    WSGIMiddleware(WSGIMiddleware(wsgi_app))
    WSGIMiddleware(
        wsgi_app,
        session_id=header(),
        user_id=user_of,
        validate_session_id=lambda value: value.startswith("s"),
    )
    WSGIMiddleware(wsgi_app, user_id=bearer_jwt("secret", algorithms=["HS256"], audience="us"))
    WSGIMiddleware(wsgi_app, header())  # type: ignore[call-arg]
    WSGIMiddleware(wsgi_app, max_body_bytes="1")  # type: ignore[arg-type]
    ASGIMiddleware(asgi_app, session_id=None)  # type: ignore[arg-type]
    ASGIMiddleware(asgi_app, validate_session_id="[a-z]+")  # type: ignore[arg-type]


def identities() -> None:
    assert_type(current_identity(), Identity)
    assert_type(current_identity().session_id, "str | None")
    assert_type(current_identity().user_id, "str | None")
    identify("ann")
    identify(7)
    identify(UUID(int=7), session_id="s")
    identify(None)
    identify(b"ann")  # type: ignore[arg-type]
    with linked(session_id="s", user_id=7) as identity:
        assert_type(identity, Identity)


@linked(user_id="report")
def report(pages: int, *, title: str = "") -> bytes:
    return b""


@linked(session_id="s", session_key="session.id", user_key="user.id")
async def job(number: int) -> str:
    return ""


async def decorated() -> None:
    assert_type(report(1, title="x"), bytes)
    assert_type(await job(1), str)
    report("1")  # type: ignore[arg-type]


def processors() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_identity,
            ReplayURL(host="https://eu.posthog.com", project=7, level="warning"),
            structlog.processors.JSONRenderer(),
        ]
    )


def standard_logging() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(IdentityFilter())
    handler.addFilter(IdentityFilter(default="-"))
    assert_type(install(), Callable[[], None])


def urls() -> None:
    assert_type(replay_url("s"), str)
    replay_url("s", at=datetime.now(timezone.utc), project="7")
    replay_url("s", at=1.5, host="https://eu.posthog.com", project=7)
    replay_url("s", at="now")  # type: ignore[arg-type]
    assert_type(CORS_HEADERS, tuple[str, str, str])
