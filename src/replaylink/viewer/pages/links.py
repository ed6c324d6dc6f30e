"""
The addresses that one page has of another.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

from replaylink.viewer.limits import REPLAY_LEAD_MS, SESSION_WINDOW_US
from replaylink.viewer.pages.state import LogsState
from replaylink.viewer.pages.text import as_text
from replaylink.viewer.query import Filter, LogQuery
from replaylink.viewer.store.results import Log, Occurrence

SESSION_KEY = "sessionId"
USER_KEY = "posthogDistinctId"
"""
The attributes by which lines of a session and of a user are asked for: the store knows which
line belongs to which, whatever the attribute is called on the line itself.
"""

WINDOW_KEYS = ("window.id", "$window_id", "window_id", "windowId")
"""Where a line may tell its browser tab; posthog-js writes the first."""


def replay_moment(time_us: int) -> int:
    """
    Return where the replay of a moment starts, in milliseconds since the epoch.
    """
    return max(time_us // 1000 - REPLAY_LEAD_MS, 0)


def window_of(log: Log) -> str:
    """
    Return the browser tab that a line tells of, or an empty string.
    """
    return next((as_text(log.attributes[key]) for key in WINDOW_KEYS if key in log.attributes), "")


def replay_of(moment: Log | Occurrence) -> str:
    """
    Return the address of the replay of a line or an exception.
    """
    window = window_of(moment) if isinstance(moment, Log) else moment.window_id
    pairs = [("timestamp", str(replay_moment(moment.time_us)))]
    pairs += [("window", window)] if window else []
    return f"/replay/{quote(moment.session_id, safe='')}?{urlencode(pairs)}"


def session_logs(session_id: str, time_us: int | None = None) -> str:
    """
    Return the address of a session's lines: all, or those within half an hour of a moment.
    """
    state = LogsState(LogQuery(filters=(Filter(SESSION_KEY, "is", session_id),)))
    if time_us is not None:
        state = state.between(time_us - SESSION_WINDOW_US, time_us + SESSION_WINDOW_US)
    return state.href


def user_logs(distinct_id: str) -> str:
    """
    Return the address of all lines of a user.
    """
    return LogsState(LogQuery(filters=(Filter(USER_KEY, "is", distinct_id),))).href


def line_in_list(log: Log) -> str:
    """
    Return the address that opens exactly this line, and the list from there on.
    """
    return LogsState(LogQuery(to_us=log.time_us + 1)).opened(log.id).href
