"""
Reading events, issues and recordings.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from typing import Any

import msgspec

from replaylink.viewer.limits import (
    MAX_OCCURRENCES_BYTES,
    MAX_RELATED_ISSUES,
    MAX_TABS,
    MAX_URL_LENGTH,
    RELATED_WINDOW_US,
)
from replaylink.viewer.records import JSONObject
from replaylink.viewer.store.issues import exceptions
from replaylink.viewer.store.results import Issue, Occurrence, PageView, Recording, Tab

AUTOCAPTURE_EVENT = "$autocapture"

_VERBS = {"click": "clicked", "change": "changed", "submit": "submitted", "touch": "touched"}
"""By the name of the browser's event."""

_MAX_TARGET_LENGTH = 80

_MAX_CHAIN_LENGTH = 5000
"""How much of ``$elements_chain`` is looked at: the element itself comes first."""

_ELEMENT = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*")*', re.DOTALL)
_TAG = re.compile(r"[\w-]+")
_ATTRIBUTE = re.compile(r'(?<![\w-])([\w-]{1,40})="((?:[^"\\]|\\.)*)"', re.DOTALL)

_TAB_COLUMNS = "window_id, min(first_ms), max(last_ms), max(playable)"

_ISSUES = """
SELECT issue.id, issue.name, issue.message, issue.library,
    count(*), count(DISTINCT nullif(event.session_id, '')), min(event.time_us), max(event.time_us),
    count(*)
FROM issue JOIN event ON event.issue = issue.id
"""


def recordings(
    connection: sqlite3.Connection, *, before: tuple[int, str] | None, limit: int
) -> list[Recording]:
    """
    Return the recordings by their end, latest first.
    """
    rows = connection.execute(
        "SELECT * FROM recording WHERE (last_ms, session_id) < (?, ?)"
        " ORDER BY last_ms DESC, session_id DESC LIMIT ?",
        (*(before or ((1 << 63) - 1, "")), limit),
    ).fetchall()
    return [_recording(connection, row) for row in rows]


def recording(connection: sqlite3.Connection, session_id: str) -> Recording | None:
    """
    Return what is recorded of a session, or None if nothing is.
    """
    row = connection.execute(
        "SELECT * FROM recording WHERE session_id = ?", (session_id,)
    ).fetchone()
    return None if row is None else _recording(connection, row)


def _recording(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Recording:
    session_id, distinct_id, first_ms, last_ms, size_bytes = row
    tabs = connection.execute(
        f"SELECT {_TAB_COLUMNS} FROM snapshot WHERE session_id = ?"  # noqa: S608
        " GROUP BY window_id ORDER BY min(first_ms) LIMIT ?",
        (session_id, MAX_TABS),
    )
    (errors,) = connection.execute(
        "SELECT count(*) FROM event WHERE session_id = ? AND session_id <> ''"
        " AND issue IS NOT NULL",
        (session_id,),
    ).fetchone()
    return Recording(
        session_id=session_id,
        distinct_id=distinct_id,
        first_ms=first_ms,
        last_ms=last_ms,
        size_bytes=size_bytes,
        tabs=[
            Tab(window_id=window_id, first_ms=first, last_ms=last, playable=bool(playable))
            for window_id, first, last, playable in tabs
        ],
        errors=errors,
        logs=0,
    )


def recorded(connection: sqlite3.Connection, session_ids: set[str]) -> set[str]:
    """
    Return those of the sessions that have a recording that can be played.
    """
    return {
        session_id
        for session_id in session_ids
        if connection.execute(
            "SELECT 1 FROM snapshot WHERE session_id = ? AND playable LIMIT 1", (session_id,)
        ).fetchone()
    }


def pieces(connection: sqlite3.Connection, session_id: str, window_id: str) -> list[int]:
    """
    Return the numbers of the pieces of one tab's recording, in the order of their first event.
    """
    rows = connection.execute(
        "SELECT id FROM snapshot WHERE session_id = ? AND window_id = ? ORDER BY first_ms, id",
        (session_id, window_id),
    )
    return [piece for (piece,) in rows]


def piece(connection: sqlite3.Connection, number: int) -> bytes | None:
    """
    Return the rrweb events of one piece, a JSON array, or None if it is not there any more.
    """
    row = connection.execute("SELECT events FROM snapshot WHERE id = ?", (number,)).fetchone()
    return None if row is None else zlib.decompress(row[0])


def issues(connection: sqlite3.Connection, *, limit: int) -> list[Issue]:
    """
    Return the issues, the one seen last first.
    """
    rows = connection.execute(
        f"{_ISSUES} WHERE issue.id IN"  # noqa: S608
        " (SELECT id FROM issue ORDER BY last_seen_us DESC LIMIT ?)"
        " GROUP BY issue.id ORDER BY max(event.time_us) DESC",
        (limit,),
    )
    return [Issue(*row) for row in rows]


def issue(connection: sqlite3.Connection, issue_id: str) -> Issue | None:
    """
    Return one issue, or None if it is not there.
    """
    row = connection.execute(
        f"{_ISSUES} WHERE issue.id = ? GROUP BY issue.id", (issue_id,)
    ).fetchone()
    return None if row is None else Issue(*row)


def related_issues(connection: sqlite3.Connection, session_id: str, time_us: int) -> list[Issue]:
    """
    Return the issues of a session within six hours either way, the latest first.
    """
    if not session_id:
        return []
    rows = connection.execute(
        "SELECT issue, count(*) FROM event WHERE session_id = ? AND session_id <> ''"
        " AND time_us BETWEEN ? AND ? AND issue IS NOT NULL"
        " GROUP BY issue ORDER BY max(time_us) DESC LIMIT ?",
        (
            session_id,
            time_us - RELATED_WINDOW_US,
            time_us + RELATED_WINDOW_US,
            MAX_RELATED_ISSUES,
        ),
    ).fetchall()
    found = []
    for issue_id, occurrences in rows:
        if each := issue(connection, issue_id):
            each.occurrences = occurrences
            found.append(each)
    return found


def occurrences(
    connection: sqlite3.Connection, where: str, values: tuple[Any, ...], *, limit: int
) -> list[Occurrence]:
    """
    Return exceptions, the latest first.

    Args:
        connection: The database.
        where: The condition on the table ``event``, in SQL.
        values: The condition's parameters.
        limit: How many at the most.
    """
    rows = connection.execute(
        "SELECT uuid, issue, time_us, session_id, window_id, distinct_id, properties"  # noqa: S608
        f" FROM event WHERE issue IS NOT NULL AND {where} ORDER BY time_us DESC LIMIT ?",
        (*values, limit),
    )
    found = []
    room = MAX_OCCURRENCES_BYTES
    for uuid, issue_id, at_us, session_id, window_id, distinct_id, properties in rows:
        told: JSONObject = msgspec.json.decode(properties)
        url, library = _place(told)
        found.append(
            Occurrence(
                uuid=uuid,
                issue_id=issue_id,
                time_us=at_us,
                session_id=session_id,
                window_id=window_id,
                distinct_id=distinct_id,
                url=url,
                library=library,
                exceptions=exceptions(told),
            )
        )
        room -= len(properties)
        if room < 0:
            break
    return found


def page_views(connection: sqlite3.Connection, session_id: str, *, limit: int) -> list[PageView]:
    """
    Return a session's events that are no exceptions, in order of time.
    """
    rows = connection.execute(
        "SELECT uuid, name, time_us, window_id, properties FROM event"
        " WHERE session_id = ? AND session_id <> '' AND issue IS NULL"
        " ORDER BY time_us LIMIT ?",
        (session_id, limit),
    )
    found = []
    for uuid, name, time_us, tab, properties in rows:
        told: JSONObject = msgspec.json.decode(properties)
        title = _action(told) if name == AUTOCAPTURE_EVENT else ""
        found.append(PageView(uuid, name, time_us, tab, _place(told)[0], title or name))
    return found


def _place(properties: JSONObject) -> tuple[str, str]:
    # Where it happened, without the query, and what reported it.
    url = properties.get("$current_url") or properties.get("$request_path")
    library = properties.get("$lib")
    return (
        url.split("?")[0].split("#")[0][:MAX_URL_LENGTH] if isinstance(url, str) else "",
        library if isinstance(library, str) else "",
    )


def _action(properties: JSONObject) -> str:
    # Such as: clicked “Send”. Empty if it does not tell what was done.
    kind = properties.get("$event_type")
    if not isinstance(kind, str) or not kind:
        return ""
    verb = _VERBS.get(kind, kind[:_MAX_TARGET_LENGTH])
    element = _element(properties)
    text = _words(properties.get("$el_text")) or _words(element.get("$el_text"))
    if text:
        return f"{verb} “{text}”"
    tag = _words(element.get("tag_name"))
    names = (_words(element.get(f"attr__{key}")) for key in ("aria-label", "name", "id"))
    name = next((f"“{each}”" for each in names if each), "")
    return " ".join(part for part in (verb, tag, name) if part)


def _element(properties: JSONObject) -> JSONObject:
    # The element itself, without those around it: SDKs send it in one of two forms.
    elements = properties.get("$elements")
    if isinstance(elements, list) and elements and isinstance(elements[0], dict):
        return elements[0]
    chain = properties.get("$elements_chain")
    match = _ELEMENT.match(chain[:_MAX_CHAIN_LENGTH]) if isinstance(chain, str) else None
    if match is None:
        return {}
    found: JSONObject = {
        key: value.replace('\\"', '"') for key, value in _ATTRIBUTE.findall(match[0])
    }
    found["$el_text"] = found.get("text")
    tag = _TAG.match(match[0])
    found["tag_name"] = tag[0] if tag else ""
    return found


def _words(value: Any) -> str:
    text = " ".join(value[: 2 * _MAX_TARGET_LENGTH].split()) if isinstance(value, str) else ""
    return text if len(text) <= _MAX_TARGET_LENGTH else f"{text[:_MAX_TARGET_LENGTH]}…"
