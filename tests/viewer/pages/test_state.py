from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from replaylink.viewer.limits import MAX_COLUMNS
from replaylink.viewer.pages.state import LogsState, parse_state
from replaylink.viewer.query import Filter, LogQuery


def parsed(address: str) -> LogsState:
    return parse_state(parse_qsl(address.partition("?")[2], keep_blank_values=True))


STATES = [
    LogsState(),
    LogsState(LogQuery(text="a&b=c", severities=("error",), since="1h"), ("a", "b"), True),
    LogsState(LogQuery(filters=(Filter("k.é", "contains", "=&#"), Filter("k", "unset")))),
    LogsState(LogQuery(from_us=1, to_us=1_757_620_804_123_456), log="42", tab="errors"),
    LogsState(recording="s/1", timestamp="17", window="w", log="1"),
]


@pytest.mark.parametrize("state", STATES, ids=["empty", "query", "filters", "line", "recording"])
def test_the_state_is_in_the_address(state: LogsState) -> None:
    """An address brings back the state that it was made of."""
    assert state == parsed(state.href)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (LogsState().toggled("severities", "error"), "/logs?severity=error"),
        (LogsState().toggled("severities", "error").toggled("severities", "error"), "/logs"),
        (
            LogsState().toggled("severities", "error").toggled("not_severities", "error"),
            "/logs?not-severity=error",
        ),
        (
            LogsState().toggled("not_services", "shop").toggled("services", "shop"),
            "/logs?service=shop",
        ),
        (LogsState().with_filter("k", "is", "v").with_filter("k", "is", "v"), "/logs?is.k=v"),
        (LogsState().with_filter("k", "is", "v").with_filter("k", "not", "v"), "/logs?not.k=v"),
        (LogsState().with_filter("k", "set").without_filter(Filter("k", "set")), "/logs"),
        (LogsState().with_column("a").with_column("b").with_column("a"), "/logs?columns=a%2Cb"),
        (LogsState(columns=("a", "b")).without_column("a"), "/logs?columns=b"),
        (
            LogsState(LogQuery(since="1h")).between(0, None),
            "/logs?from=1970-01-01T00%3A00%3A00.000000Z",
        ),
        (LogsState(live=True).opened("7", "raw"), "/logs?live=1&log=7&tab=raw"),
        (LogsState(log="7", recording="s").listed, "/logs"),
        (LogsState(LogQuery(text="x"), ("a",), True).cleared, "/logs?columns=a&live=1"),
    ],
)
def test_links_change_one_thing(changed: LogsState, expected: str) -> None:
    """A link changes one thing, and takes back what contradicts it."""
    assert expected == changed.href


def test_columns_are_bounded() -> None:
    """More columns than fit are left out."""
    state = parsed("/logs?columns=" + ",".join(map(str, range(50))))

    assert MAX_COLUMNS == len(state.columns)


def test_an_unknown_tab_is_the_first() -> None:
    """An address with a tab that is not there shows the details."""
    assert "details" == parsed("/logs?log=1&tab=nothing").tab
