"""
The store: everything that the viewer has taken in, in one SQLite database.

`Store` is all that the rest of the viewer knows of it, so that another engine could stand
behind the same methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from replaylink.viewer.limits import MAX_RELATED_ISSUES, PAGE_SIZE
from replaylink.viewer.query import LogQuery, QueryError
from replaylink.viewer.records import Batch
from replaylink.viewer.store import event_reader
from replaylink.viewer.store.lines import MAX_ID, prepare
from replaylink.viewer.store.log_reader import LogReader
from replaylink.viewer.store.results import (
    Attribute,
    Count,
    Issue,
    Linkage,
    Log,
    Occurrence,
    Page,
    Recording,
    Summary,
    Timeline,
)
from replaylink.viewer.store.schema import StoreError, check, lock, now_us, open_for_reading
from replaylink.viewer.store.writer import Writer

__all__ = ["Store", "StoreError"]

READERS = 4
"""Connections for reading, and so how many queries run at once."""

MIN_SIZE_MB = 10
"""The smallest limit: there is room for some sessions, and some thousand lines."""

_FEW_LINES = 20
"""Lines that are prepared in less time than it takes to have another thread do it."""

MAX_TIMELINE = 1000
"""Lines, errors and events each beside a replay."""

TEMPORARY_PREFIX = "replaylink-"

TEMPORARY_NAME = "temporary.db"
"""Not what somebody would call one to be kept, in a folder by the same beginning."""

MIN_LEFTOVER_S = 60
"""A younger folder may be that of a store that has yet to lock its database."""


class Store:
    """
    Log records, events and recordings.

    Writing is for the event loop: `write` returns when its batch is on the disk. All else is for
    threads: every other method blocks for some milliseconds, and may be called from any thread.

    Args:
        path: The database; None is for a temporary one, which goes with the store.
        retention_days: How long anything is kept, in days.
        max_size_mb: How large the database may become, in units of 1,000,000 bytes.

    Raises:
        StoreError: If the database cannot be used; the message tells why.
        ValueError: If a limit is not positive.
    """

    def __init__(
        self, path: Path | None, *, retention_days: float = 14, max_size_mb: float = 2000
    ) -> None:
        if retention_days <= 0:
            msg = f"retention_days={retention_days!r}: it must be more than 0."
            raise ValueError(msg)
        if max_size_mb < MIN_SIZE_MB:
            msg = f"max_size_mb={max_size_mb!r}: it must be at least {MIN_SIZE_MB}."
            raise ValueError(msg)
        self._temporary = None
        if path is None:
            _remove_leftovers()
            self._temporary = tempfile.mkdtemp(prefix=TEMPORARY_PREFIX)
            path = Path(self._temporary, TEMPORARY_NAME)
        else:
            # The lock goes by the name, of which a file may have several.
            path = path.resolve()
            check(path)
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        try:
            with contextlib.ExitStack() as stack:
                if self._temporary is not None:
                    stack.callback(shutil.rmtree, self._temporary, ignore_errors=True)
                self._lock = lock(path)
                stack.callback(self._lock.close)
                self._writer = Writer(
                    path,
                    retention_us=round(retention_days * 86_400_000_000),
                    max_bytes=round(max_size_mb * 1_000_000),
                )
                stack.callback(self._writer.close)
                for _ in range(READERS):
                    connection = open_for_reading(path)
                    stack.callback(connection.close)
                    self._readers.put(connection)
                self._closing = stack.pop_all()
        except sqlite3.Error as exc:
            msg = f"The database {path} cannot be used: {exc}."
            raise StoreError(msg) from exc

    def close(self) -> None:
        """
        Write what is waiting, and close the database. Nothing may be reading any more.
        """
        self._closing.close()

    def prepare(self, batch: Batch) -> None:
        """
        Do what can be done without the database, half of the work for logs, before `write` does.

        May be called from any thread.

        Raises:
            StoreError: If it cannot be kept.
        """
        try:
            batch.prepared = prepare(batch.logs)
        except Exception as exc:
            msg = f"It could not be written: {exc}."
            raise StoreError(msg) from exc

    async def write(self, batch: Batch) -> None:
        """
        Keep a batch: as a whole, and on the disk when this returns.

        Events and snapshots whose ``uuid`` is known are left out.

        Raises:
            StoreError: If it cannot be kept, because the disk is full, for example.
        """
        if batch.prepared is None:
            if len(batch.logs) > _FEW_LINES:
                await asyncio.to_thread(self.prepare, batch)
            else:
                self.prepare(batch)
        await asyncio.wrap_future(self._writer.write(batch))

    async def changed(self, seen: int) -> int:
        """
        Wait until something has been written after the state ``seen``, and return the new state.

        The first state is 0; a store that was never written to stays there.
        """
        return await asyncio.wrap_future(self._writer.changed(seen))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._readers.get()
        try:
            # What is read within belongs together, whatever is written meanwhile.
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()
        finally:
            self._readers.put(connection)

    @contextlib.contextmanager
    def _reading_logs(self) -> Iterator[LogReader]:
        with self._reading() as connection:
            yield LogReader(connection, now_us())

    # Logs

    def logs(self, query: LogQuery, *, before: str | None = None, limit: int = PAGE_SIZE) -> Page:
        """
        Return the newest lines that the query finds, or those before the line ``before``.

        It takes a bounded time: see ``Page.searched_to_us``.

        Raises:
            QueryError: If ``before`` is no ID of a line.
        """
        line = None
        if before is not None:
            line = _line(before)
            if line is None:
                msg = f"before={before!r}: it is the ID of a line."
                raise QueryError(msg)
        with self._reading_logs() as reader:
            return reader.page(query, before=line, limit=limit)

    def log(self, log_id: str) -> Log | None:
        """
        Return one line, or None if it is not there (any more).
        """
        line = _line(log_id)
        if line is None:
            return None
        with self._reading_logs() as reader:
            return reader.log(line)

    def summary(self, query: LogQuery, *, bars: int = 60) -> Summary:
        """
        Count the lines that the query finds: over time, by severity and by service.

        Args:
            query: The query.
            bars: How many bars the histogram has at the most.
        """
        with self._reading_logs() as reader:
            return reader.summary(query, bars=bars)

    def attributes(self, query: LogQuery) -> list[Attribute]:
        """
        Return which attributes the latest lines have that the query finds, commonest first.
        """
        with self._reading_logs() as reader:
            return reader.attributes(query)

    def attribute_values(self, query: LogQuery, key: str) -> list[Count]:
        """
        Return the commonest values of an attribute among the latest lines that the query finds.
        """
        with self._reading_logs() as reader:
            return reader.attribute_values(query, key)

    def is_empty(self) -> bool:
        """
        Return whether there is no log line.
        """
        with self._reading_logs() as reader:
            return reader.is_empty

    def linkage(self, query: LogQuery, *, bars: int = 48) -> Linkage:
        """
        Return what share of the lines is linked, and which are not.

        Of the query, its range of time and its services count for all figures; ``routes`` and
        ``unlinked`` come from the latest lines that the whole query finds.
        """
        with self._reading_logs() as reader:
            return reader.linkage(query, bars=bars)

    # Recordings

    def recordings(
        self, *, before: tuple[int, str] | None = None, limit: int = 50
    ) -> list[Recording]:
        """
        Return the recordings by their end, latest first.

        Args:
            before: The end, in milliseconds since the epoch, and the session of the recording
                after which to go on.
            limit: How many to return at the most.
        """
        with self._reading() as connection:
            found = event_reader.recordings(connection, before=before, limit=limit)
            return self._with_log_counts(connection, found)

    def recording(self, session_id: str) -> Recording | None:
        """
        Return what is recorded of a session, or None if nothing is.
        """
        with self._reading() as connection:
            found = event_reader.recording(connection, session_id)
            return self._with_log_counts(connection, [found])[0] if found else None

    def _with_log_counts(
        self, connection: sqlite3.Connection, recordings: list[Recording]
    ) -> list[Recording]:
        reader = LogReader(connection, now_us())
        for each in recordings:
            each.logs = reader.count_session_logs(each.session_id, MAX_TIMELINE)
        return recordings

    def recorded(self, session_ids: set[str]) -> set[str]:
        """
        Return those of the sessions that have a recording that can be played.
        """
        with self._reading() as connection:
            return event_reader.recorded(connection, session_ids)

    def snapshots(self, session_id: str, window_id: str) -> Iterator[bytes]:
        """
        Yield the rrweb events of one tab: JSON arrays, in the order of their first event.

        What the caller takes its time with keeps nobody from reading.
        """
        with self._reading() as connection:
            pieces = event_reader.pieces(connection, session_id, window_id)
        for piece in pieces:
            with self._reading() as connection:
                events = event_reader.piece(connection, piece)
            if events is not None:
                yield events

    def timeline(self, session_id: str) -> Timeline:
        """
        Return what else is known of a session: up to 1,000 lines, errors and events each.
        """
        with self._reading() as connection:
            errors = event_reader.occurrences(
                connection,
                "session_id = ? AND session_id <> ''",
                (session_id,),
                limit=MAX_TIMELINE,
            )
            return Timeline(
                logs=LogReader(connection, now_us()).session_logs(session_id, MAX_TIMELINE),
                errors=errors[::-1],
                events=event_reader.page_views(connection, session_id, limit=MAX_TIMELINE),
            )

    # Errors

    def related_issues(self, session_id: str, time_us: int) -> list[Issue]:
        """
        Return the issues of a session within six hours of the time either way, the latest first.
        """
        with self._reading() as connection:
            return event_reader.related_issues(connection, session_id, time_us)

    def issues(self, *, limit: int = MAX_RELATED_ISSUES) -> list[Issue]:
        """
        Return the issues, the one seen last first.
        """
        with self._reading() as connection:
            return event_reader.issues(connection, limit=limit)

    def issue(self, issue_id: str) -> Issue | None:
        """
        Return one issue, or None if it is not there.
        """
        with self._reading() as connection:
            return event_reader.issue(connection, issue_id)

    def occurrences(
        self, issue_id: str, *, session_id: str | None = None, limit: int = 50
    ) -> list[Occurrence]:
        """
        Return the latest exceptions of an issue, or those of one session.
        """
        where, values = "issue = ?", [issue_id]
        if session_id is not None:
            where += " AND session_id = ?"
            values.append(session_id)
        with self._reading() as connection:
            return event_reader.occurrences(connection, where, tuple(values), limit=limit)


def _remove_leftovers() -> None:
    """
    Remove the temporary databases of those whom nothing but force has ended.
    """
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError, StoreError):
                    _remove_leftover(Path(entry.path))


def _remove_leftover(folder: Path) -> None:
    made = folder.lstat()
    path = folder / TEMPORARY_NAME
    if (
        stat.S_ISDIR(made.st_mode)
        # Anybody may have put it there; Windows has folders for each user.
        and (not hasattr(os, "getuid") or made.st_uid == os.getuid())
        and made.st_mtime < time.time() - MIN_LEFTOVER_S
        # A lock would make the file.
        and stat.S_ISREG(path.with_name(f"{TEMPORARY_NAME}-lock").lstat().st_mode)
    ):
        # It need not be held: a folder that nobody uses is one that nobody will use, and
        # another store that starts can only remove it as well.
        lock(path).close()
        shutil.rmtree(folder, ignore_errors=True)


def _line(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID:
        return int(text)
    return None
