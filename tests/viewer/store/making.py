"""
Records to write, with as little said of each as a test needs.
"""

from __future__ import annotations

import itertools
from typing import Any

from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Event, LogRecord, Snapshot
from replaylink.viewer.store import Store
from replaylink.viewer.store.results import Log
from replaylink.viewer.store.schema import now_us

_numbers = itertools.count(1)

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US

NOW_US = now_us()


def line(body: str = "hello", *, ago_us: int = 0, **fields: Any) -> LogRecord:
    """
    Make a log line.
    """
    return LogRecord(
        time_us=fields.pop("time_us", NOW_US - ago_us),
        severity=fields.pop("severity", "info"),
        body=body,
        attributes=fields.pop("attributes", {}),
        resource=fields.pop("resource", {"service.name": fields.pop("service", "shop")}),
        **fields,
    )


def exception(
    session_id: str = "s1", *, ago_us: int = 0, type_: str = "ValueError", **fields: Any
) -> Event:
    """
    Make an exception of PostHog's.
    """
    properties: dict[str, Any] = {
        "$exception_list": [
            {
                "type": type_,
                "value": fields.pop("message", "no"),
                "mechanism": {"handled": False},
                "stacktrace": {
                    "type": "raw",
                    "frames": [
                        {"function": "outer", "filename": "library.py", "lineno": 1},
                        {
                            "function": fields.pop("function", "pay"),
                            "filename": "shop.py",
                            "lineno": 7,
                            "in_app": True,
                            "pre_context": ["def pay():"],
                            "context_line": "    raise ValueError",
                            "post_context": [""],
                        },
                    ],
                },
            }
        ],
        "$lib": "posthog-python",
        **fields.pop("properties", {}),
    }
    return event("$exception", session_id, ago_us=ago_us, properties=properties, **fields)


def event(name: str, session_id: str = "s1", *, ago_us: int = 0, **fields: Any) -> Event:
    """
    Make an event of PostHog's.
    """
    return Event(
        uuid=fields.pop("uuid", f"event-{next(_numbers)}"),
        name=name,
        time_us=NOW_US - ago_us,
        session_id=session_id,
        **fields,
    )


def snapshot(session_id: str = "s1", window_id: str = "w1", **fields: Any) -> Snapshot:
    """
    Make a piece of a recording.
    """
    ago_us = fields.pop("ago_us", 0)
    first_ms = (NOW_US - ago_us) // 1000
    return Snapshot(
        uuid=fields.pop("uuid", f"snapshot-{next(_numbers)}"),
        session_id=session_id,
        window_id=window_id,
        distinct_id=fields.pop("distinct_id", "u1"),
        first_ms=first_ms,
        last_ms=first_ms + 1000,
        has_full_snapshot=fields.pop("has_full_snapshot", True),
        events=fields.pop("events", b"[]"),
    )


def all_logs(store: Store, query: LogQuery, *, limit: int = 250) -> list[Log]:
    """
    Return what all pages of a query have, one after the other.
    """
    found: list[Log] = []
    before: str | None = None
    for _ in range(1000):
        page = store.logs(query, before=before, limit=limit)
        found += page.logs
        if page.next is None:
            return found
        before = page.next
    msg = f"There is no end to the pages of {query}."
    raise AssertionError(msg)
