"""
Writing events and recordings.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

import msgspec

from replaylink.viewer.limits import MAX_CLOCK_SKEW_US
from replaylink.viewer.records import Event, Snapshot
from replaylink.viewer.store.issues import (
    EXCEPTION_EVENT,
    MAX_BYTES,
    MAX_NAME_LENGTH,
    exceptions,
    fingerprint,
    shown,
)

_COMPRESSION_LEVEL = 1
"""zlib's quickest: it still takes recordings to about a tenth."""


def write_events(connection: sqlite3.Connection, events: Sequence[Event], now_us: int) -> None:
    """
    Write events, within the transaction that is open; known ones are left out.
    """
    for event in events:
        time_us = min(event.time_us, now_us + MAX_CLOCK_SKEW_US)
        issue = fingerprint(event) if event.name == EXCEPTION_EVENT else None
        new = connection.execute(
            "INSERT OR IGNORE INTO event"
            " (uuid, name, time_us, distinct_id, session_id, window_id, issue, properties)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                event.uuid,
                event.name,
                time_us,
                event.distinct_id,
                event.session_id,
                event.window_id,
                issue,
                _properties(event),
            ),
        ).rowcount
        if new and issue is not None:
            seen = exceptions(event.properties)[0]
            library = event.properties.get("$lib")
            connection.execute(
                "INSERT INTO issue VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " message = excluded.message, library = excluded.library,"
                " last_seen_us = excluded.last_seen_us"
                " WHERE excluded.last_seen_us >= last_seen_us",
                (
                    issue,
                    seen.type,
                    seen.message,
                    library[:MAX_NAME_LENGTH] if isinstance(library, str) else "",
                    time_us,
                ),
            )


def _properties(event: Event) -> bytes:
    encoded = msgspec.json.encode(event.properties)
    # A page reads many events, and would read each as a whole.
    return encoded if len(encoded) <= MAX_BYTES else msgspec.json.encode(shown(event))


def write_snapshots(
    connection: sqlite3.Connection, snapshots: Sequence[Snapshot], now_us: int
) -> None:
    """
    Write pieces of recordings, within the transaction that is open; known ones are left out.
    """
    # A browser whose clock is wrong would have its recording listed first, or removed at once.
    earliest_ms = (now_us - MAX_CLOCK_SKEW_US) // 1000
    latest_ms = (now_us + MAX_CLOCK_SKEW_US) // 1000
    for snapshot in snapshots:
        events = zlib.compress(snapshot.events, _COMPRESSION_LEVEL)
        new = connection.execute(
            "INSERT OR IGNORE INTO snapshot"
            " (uuid, session_id, window_id, first_ms, last_ms, playable, events)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                snapshot.uuid,
                snapshot.session_id,
                snapshot.window_id,
                snapshot.first_ms,
                snapshot.last_ms,
                snapshot.has_full_snapshot,
                events,
            ),
        ).rowcount
        if new:
            connection.execute(
                "INSERT INTO recording VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " distinct_id = excluded.distinct_id,"
                " first_ms = min(first_ms, excluded.first_ms),"
                " last_ms = max(last_ms, excluded.last_ms),"
                " size_bytes = size_bytes + excluded.size_bytes",
                (
                    snapshot.session_id,
                    snapshot.distinct_id,
                    min(max(snapshot.first_ms, earliest_ms), latest_ms),
                    min(max(snapshot.last_ms, earliest_ms), latest_ms),
                    len(events),
                ),
            )
