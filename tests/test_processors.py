from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from replaylink import identify, linked, replay_url
from replaylink.processors import ReplayURL, add_identity
from tests.helpers import BOTH, OTHER_SESSION, SESSION, USER, line

if TYPE_CHECKING:
    from tests.conftest import Lines

log = structlog.get_logger()


def configure(*processors: structlog.typing.Processor) -> Lines:
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[*processors, capture], cache_logger_on_first_use=False)
    return capture.entries


@pytest.mark.parametrize(
    "processors",
    [
        pytest.param([structlog.contextvars.merge_contextvars, add_identity], id="after-merge"),
        pytest.param([add_identity, structlog.contextvars.merge_contextvars], id="before-merge"),
        pytest.param([add_identity], id="alone"),
        pytest.param([structlog.contextvars.merge_contextvars], id="only-merge"),
    ],
)
def test_ids_are_added(processors: list[structlog.typing.Processor]) -> None:
    """Both IDs are added once, wherever the processor stands."""
    lines = configure(*processors)
    with linked(session_id=SESSION, user_id=USER):
        log.info("inside")
    log.info("outside")

    assert [line("inside", **BOTH), line("outside")] == lines


def test_nothing_is_added_outside_of_a_request() -> None:
    """A line of no request is returned as it came."""
    event = {"event": "x"}

    assert event is add_identity(None, "info", event)
    assert {"event": "x"} == event


def test_missing_ids_are_missing_keys() -> None:
    """An ID that is not known is no key at all."""
    with linked():
        assert {} == add_identity(None, "info", {})
    with linked(session_id=SESSION):
        assert {"sessionId": SESSION} == add_identity(None, "info", {})
    with linked(user_id=USER):
        assert {"posthogDistinctId": USER} == add_identity(None, "info", {})


@pytest.mark.parametrize("value", ["mine", None, 7, ""])
def test_an_explicit_key_wins(lines: Lines, value: object) -> None:
    """A key given in the log call stays, whatever its value."""
    with linked(session_id=SESSION, user_id=USER):
        log.info("x", posthogDistinctId=value, sessionId=value)

    assert [line("x", sessionId=value, posthogDistinctId=value)] == lines


def test_a_key_bound_to_the_logger_wins(lines: Lines) -> None:
    """A key bound to the logger itself stays."""
    with linked(session_id=SESSION, user_id=USER):
        log.bind(posthogDistinctId="mine").info("x")

    assert [line("x", sessionId=SESSION, posthogDistinctId="mine")] == lines


def test_a_value_that_was_replaced_in_another_context(lines: Lines) -> None:
    """A context that still holds an ID from before gets the new one on its lines."""
    import contextvars

    with linked(session_id=SESSION, user_id="before"):
        contextvars.copy_context().run(identify, "after", session_id=OTHER_SESSION)
        log.info("x")

    assert [line("x", sessionId=OTHER_SESSION, posthogDistinctId="after")] == lines


def test_an_explicit_key_equal_to_a_replaced_value_wins(lines: Lines) -> None:
    """What the log call says stays, also where it says what was known before."""
    before = "bef"
    with linked(user_id=before + "ore"):
        identify("after")
        log.info("x", posthogDistinctId="".join([before, "ore"]))

    assert [line("x", posthogDistinctId="before")] == lines


def replay(url: object) -> tuple[str, float]:
    parts = urlsplit(str(url))
    timestamp = parse_qs(parts.query)["timestamp"][0]
    return parts._replace(query="").geturl(), (int(timestamp) + 5000) / 1000


@pytest.mark.parametrize(
    ("level", "linked_levels"),
    [
        pytest.param(None, ["error", "critical"], id="default"),
        pytest.param("debug", ["debug", "info", "warning", "error", "critical"], id="debug"),
        pytest.param("WARNING", ["warning", "error", "critical"], id="in-any-case"),
        pytest.param("critical", ["critical"], id="critical"),
    ],
)
def test_replay_url_from_a_level_up(level: str | None, linked_levels: list[str]) -> None:
    """Lines of the level and above get the address, others do not."""
    processor = ReplayURL() if level is None else ReplayURL(level=level)
    lines = configure(add_identity, processor)
    with linked(session_id=SESSION):
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(log, name)("x")

    assert linked_levels == [entry["log_level"] for entry in lines if "replayUrl" in entry]


@pytest.mark.parametrize("method", ["error", "exception", "critical", "fatal"])
def test_replay_url_of_each_method(method: str) -> None:
    """Each method that logs an error is known by its level."""
    event = ReplayURL()(None, method, {"sessionId": SESSION})

    assert "replayUrl" in event


@pytest.mark.parametrize("method", ["warn", "msg", "info"])
def test_no_replay_url_below_the_level(method: str) -> None:
    """Methods below the level, and those of no known level, add nothing."""
    event = ReplayURL()(None, method, {"sessionId": SESSION})

    assert {"sessionId": SESSION} == event


def test_replay_url_opens_at_the_moment_of_the_line() -> None:
    """The address is that of `replay_url`, at the time of logging."""
    before = time.time()
    event = ReplayURL(host="https://eu.i.posthog.com", project=5)(
        None, "error", {"sessionId": SESSION}
    )
    address, at = replay(event["replayUrl"])

    assert replay_url(SESSION, host="https://eu.posthog.com", project=5) == address
    assert before - 0.001 <= at <= time.time() + 0.001


def test_replay_url_without_a_session() -> None:
    """A line without a session has no address."""
    assert {"event": "x"} == ReplayURL()(None, "error", {"event": "x"})


def test_replay_url_before_the_ids_are_added() -> None:
    """Its place may be before `add_identity` too."""
    with linked(session_id=SESSION):
        event = ReplayURL()(None, "error", {})

    assert replay_url(SESSION) == replay(event["replayUrl"])[0]


@pytest.mark.parametrize("value", [None, "", 7])
def test_replay_url_of_an_explicit_value_that_is_no_session(value: object) -> None:
    """A value in the log call that cannot be a session's counts as none."""
    assert {"sessionId": value} == ReplayURL()(None, "error", {"sessionId": value})


def test_replay_url_follows_an_explicit_session() -> None:
    """The address is that of the session on the line."""
    with linked(session_id=SESSION):
        event = ReplayURL()(None, "error", {"sessionId": OTHER_SESSION})

    assert replay_url(OTHER_SESSION) == replay(event["replayUrl"])[0]


def test_an_explicit_replay_url_wins() -> None:
    """An address given in the log call stays."""
    event = ReplayURL()(None, "error", {"sessionId": SESSION, "replayUrl": "mine"})

    assert "mine" == event["replayUrl"]


def test_replay_url_under_other_keys() -> None:
    """Both keys can be chosen."""
    processor = ReplayURL(key="replay", session_key="session.id")
    event = processor(None, "error", {"session.id": SESSION})

    assert replay_url(SESSION) == replay(event["replay"])[0]


@pytest.mark.parametrize("level", ["loud", "", None, 40])
def test_unknown_level(level: object) -> None:
    """A level that structlog does not have is refused, and all of its levels are told."""
    with pytest.raises(ValueError, match="must be one of notset, debug, info") as caught:
        ReplayURL(level=level)  # type: ignore[arg-type]

    assert f"level={level!r}" in str(caught.value)


def test_wrong_host() -> None:
    """A host that makes no link is refused as the processor is built."""
    with pytest.raises(ValueError, match=r"host='posthog\.com'"):
        ReplayURL(host="posthog.com")
