from __future__ import annotations

import inspect
from typing import Any

import pytest

from replaylink import asgi, wsgi
from replaylink.auth import authenticated_user, session_user
from replaylink.sources import header, is_uuid7, json_body, posthog_cookie, query
from tests.helpers import ASGIDriver, Driver, WSGIDriver, driver_of


@pytest.fixture(params=["asgi", "wsgi"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


def build(driver: Driver, **options: Any) -> Any:
    return driver.middleware(driver.app(lambda request: None), **options)


def test_twins_take_the_same_options() -> None:
    """Both middlewares have the same options, keyword-only, with the same defaults."""
    of_asgi, of_wsgi = (
        inspect.signature(module.ReplayLinkMiddleware).parameters for module in (asgi, wsgi)
    )

    assert [
        "app",
        "session_id",
        "user_id",
        "validate_session_id",
        "max_body_bytes",
        "session_key",
        "user_key",
        "share",
    ] == list(of_asgi)
    assert list(of_asgi) == list(of_wsgi)
    for name, parameter in list(of_asgi.items())[1:]:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default == of_wsgi[name].default


def test_defaults() -> None:
    """The defaults are those that the documentation promises."""
    parameters = inspect.signature(asgi.ReplayLinkMiddleware).parameters
    defaults = {name: parameters[name].default for name in list(parameters)[1:]}

    assert "(header('X-PostHog-Session-ID'), posthog_cookie(), json_body('sessionId'))" == repr(
        defaults["session_id"]
    )
    assert "(authenticated_user(),)" == repr(defaults["user_id"])
    assert 262_144 == defaults["max_body_bytes"]
    assert "sessionId" == defaults["session_key"]
    assert "posthogDistinctId" == defaults["user_key"]


def test_the_app_is_kept(driver: Driver) -> None:
    """The wrapped app can be reached, as other middlewares let it."""
    app = driver.app(lambda request: None)

    assert app is driver.middleware(app).app


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"session_id": header("X-A")}, id="one-source"),
        pytest.param({"session_id": json_body("a")}, id="one-field"),
        pytest.param({"session_id": lambda connection: None}, id="one-callable"),
        pytest.param({"session_id": [header("X-A"), query("a")]}, id="list"),
        pytest.param({"session_id": (source for source in [header()])}, id="generator"),
        pytest.param({"session_id": ()}, id="no-source"),
        pytest.param({"user_id": ()}, id="no-user"),
        pytest.param({"user_id": (session_user("id"), header("X-B"), json_body("u"))}, id="users"),
        pytest.param({"user_id": posthog_cookie()}, id="claim"),
        pytest.param({"validate_session_id": is_uuid7}, id="validator"),
        pytest.param({"max_body_bytes": 0}, id="no-body"),
        pytest.param({"session_key": "session.id", "user_key": "user.id"}, id="keys"),
    ],
)
def test_right_options(driver: Driver, options: dict[str, Any]) -> None:
    """Every kind of a right option is taken."""
    assert build(driver, **options) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"session_id": None}, r"session_id=None: must be sources", id="none"),
        pytest.param({"session_id": 7}, r"session_id=7: must be sources", id="number"),
        pytest.param({"session_id": "X-A"}, r"session_id='X-A': must be sources", id="name"),
        pytest.param({"user_id": "id"}, r"user_id='id': must be sources", id="user-name"),
        pytest.param({"session_id": ["X-A"]}, r"session_id='X-A': must be a source", id="names"),
        pytest.param({"user_id": [None]}, r"user_id=None: must be a source", id="none-in-list"),
        pytest.param({"session_id": b"X"}, r"session_id=88: must be a source", id="bytes"),
        pytest.param(
            {"session_id": posthog_cookie},
            r"session_id=<class .*posthog_cookie'>: must be a source",
            id="not-called",
        ),
        pytest.param(
            {"session_id": [header(), authenticated_user()]},
            r"session_id=authenticated_user\(\): gives a user ID, and belongs in user_id",
            id="user-as-session",
        ),
        pytest.param(
            {"session_id": session_user("id")}, r"belongs in user_id", id="session-user-as-session"
        ),
        pytest.param(
            {"validate_session_id": "[a-z]+"},
            r"validate_session_id='\[a-z\]\+': must be a callable str -> bool",
            id="pattern",
        ),
        pytest.param({"max_body_bytes": "1"}, r"max_body_bytes='1': must be an int", id="text"),
        pytest.param({"max_body_bytes": 1.5}, r"max_body_bytes=1.5: must be an int", id="float"),
        pytest.param({"max_body_bytes": True}, r"max_body_bytes=True: must be an int", id="bool"),
        pytest.param({"max_body_bytes": None}, r"max_body_bytes=None: must be an int", id="no-max"),
        pytest.param({"session_key": 7}, r"session_key=7: a key must be a str", id="key"),
        pytest.param({"user_key": None}, r"user_key=None: a key must be a str", id="user-key"),
    ],
)
def test_options_of_wrong_types(driver: Driver, options: dict[str, Any], message: str) -> None:
    """An option of a wrong type is refused as the app starts, with its name and value."""
    with pytest.raises(TypeError, match=message):
        build(driver, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_body_bytes": -1}, r"max_body_bytes=-1: must be 0 or more", id="size"),
        pytest.param({"session_key": ""}, r"session_key='': a key must not be empty", id="key"),
        pytest.param({"user_key": ""}, r"user_key='': a key must not be empty", id="user-key"),
        pytest.param(
            {"session_key": "id", "user_key": "id"},
            r"session_key and user_key must differ, both are 'id'",
            id="same-keys",
        ),
    ],
)
def test_options_of_wrong_values(driver: Driver, options: dict[str, Any], message: str) -> None:
    """An option of a wrong value is refused as the app starts."""
    with pytest.raises(ValueError, match=message):
        build(driver, **options)


async def async_source(connection: Any) -> str | None:
    return None


class AsyncSource:
    async def __call__(self, connection: Any) -> str | None:
        return None


@pytest.mark.parametrize(
    "source",
    [pytest.param(async_source, id="function"), pytest.param(AsyncSource(), id="object")],
)
@pytest.mark.parametrize("option", ["session_id", "user_id"])
def test_async_callables_need_asgi(option: str, source: Any) -> None:
    """Nothing awaits an async callable in a WSGI app, so it is refused there."""
    assert build(ASGIDriver(), **{option: source}) is not None
    with pytest.raises(TypeError, match=rf"{option}=.*nothing awaits it in a WSGI app"):
        build(WSGIDriver(), **{option: source})


def test_options_are_keyword_only(driver: Driver) -> None:
    """Options cannot be given by position."""
    with pytest.raises(TypeError, match="positional argument"):
        driver.middleware(driver.app(lambda request: None), header())  # type: ignore[call-arg]


def test_building_binds_nothing(driver: Driver) -> None:
    """As a middleware is built nothing is bound in the context at hand."""
    import contextvars

    before = contextvars.copy_context()
    build(driver, session_key="a-new.key", user_key="another.key")

    assert dict(before) == dict(contextvars.copy_context())


@pytest.mark.parametrize("middleware", [asgi.ReplayLinkMiddleware, wsgi.ReplayLinkMiddleware])
def test_share_names_libraries_that_are_known(middleware: Any) -> None:
    """What cannot be shared with is refused as the app starts."""
    with pytest.raises(ValueError, match="share='sentry': must be of 'posthog', 'otel'"):
        middleware(None, share="sentry")
