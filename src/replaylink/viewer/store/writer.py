"""
The one thread that writes: whatever waits goes into one transaction.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from replaylink.viewer.records import Batch
from replaylink.viewer.store.event_writer import write_events, write_snapshots
from replaylink.viewer.store.lines import Line
from replaylink.viewer.store.log_writer import LogWriter
from replaylink.viewer.store.schema import (
    StoreError,
    drop_shard,
    now_us,
    open_for_writing,
    used_bytes,
)

MAX_SHARD_LINES = 500_000
"""Lines of one shard: its index is quick to write to, and a day has few shards."""

SHARDS_TO_KEEP = 8
"""In how many shards the space and the time that are allowed are divided, at the least."""

GROUP_LINES = 10_000
"""Lines of one transaction, about; a batch is never divided."""

HOUSEKEEPING_S = 5.0
"""How often old data is looked for."""

INDEX_FACTOR = 3
"""How much space a line takes, index included, for each byte of its text; it was 2 to 3."""

_FREE_SHARE = 0.02
"""What share of the allowed space is freed at once, when too much is used."""

_log = logging.getLogger("replaylink.viewer")


class _Job(NamedTuple):
    batch: Batch
    future: Future[None]


class Writer:
    """
    Writes batches, in the order in which they come.

    Args:
        path: The database.
        retention_us: How long anything is kept, in microseconds.
        max_bytes: How large the database may become.

    Raises:
        StoreError: If the database cannot be used.
    """

    def __init__(self, path: Path, *, retention_us: int, max_bytes: int) -> None:
        self._retention_us = retention_us
        self._max_bytes = max_bytes
        self._connection = open_for_writing(path)
        try:
            self._logs = LogWriter(
                self._connection,
                max_shard_lines=MAX_SHARD_LINES,
                max_shard_bytes=max_bytes // INDEX_FACTOR // SHARDS_TO_KEEP,
                max_shard_age_us=retention_us // SHARDS_TO_KEEP,
            )
        except BaseException:
            self._connection.close()
            raise
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._state = 0
        self._is_closed = False
        self._is_stale = False
        self._state_lock = threading.Lock()
        self._watchers: list[Future[int]] = []
        self._thread = threading.Thread(target=self._run, name="replaylink-store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """
        Write what is waiting, and close the database.
        """
        with self._state_lock:
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join()
        self._connection.close()

    def write(self, batch: Batch) -> Future[None]:
        """
        Keep a batch, the logs of which are prepared.

        The future is done when it is on the disk.
        """
        future: Future[None] = Future()
        with self._state_lock:
            if self._is_closed:
                future.set_exception(StoreError("The store is closed."))
            else:
                self._waiting.put(_Job(batch, future))
        return future

    def changed(self, seen: int) -> Future[int]:
        """
        Return a future of the state after ``seen``: the number of transactions so far.
        """
        future: Future[int] = Future()
        with self._state_lock:
            if self._state > seen:
                future.set_result(self._state)
            elif self._is_closed:
                future.cancel()
            else:
                self._watchers = [each for each in self._watchers if not each.done()]
                self._watchers.append(future)
        return future

    def _run(self) -> None:
        next_look = time.monotonic() + HOUSEKEEPING_S
        stop = False
        while not stop:
            group, stop = self._next_group()
            if group:
                self._write_group(group)
            # Who waited for it lets go of it last, and so takes the time that this takes.
            del group
            try:
                self._keep_within_size()
                if time.monotonic() >= next_look:
                    self._remove_older_than(now_us() - self._retention_us)
                    next_look = time.monotonic() + HOUSEKEEPING_S
            except Exception:
                _log.exception("Old data could not be removed")
                self._roll_back()
        with self._state_lock:
            for watcher in self._watchers:
                watcher.cancel()

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        lines = 0
        try:
            job = self._waiting.get(timeout=HOUSEKEEPING_S)
            while job is not None:
                # One whose sender is gone already was never acknowledged.
                if job.future.set_running_or_notify_cancel():
                    group.append(job)
                    lines += len(job.batch.prepared)
                if lines >= GROUP_LINES:
                    return group, False
                job = self._waiting.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _write_group(self, group: list[_Job]) -> None:
        try:
            self._write(group)
        except Exception as exc:
            self._roll_back()
            if len(group) > 1:
                # Only the batch at fault is refused.
                for job in group:
                    self._write_group([job])
                return
            if not isinstance(exc, sqlite3.Error):
                _log.exception("A batch could not be written")
            error = StoreError(f"It could not be written: {exc}.")
            error.__cause__ = exc
            group[0].future.set_exception(error)
            return
        for job in group:
            job.future.set_result(None)
        with self._state_lock:
            self._state += 1
            watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if watcher.set_running_or_notify_cancel():
                watcher.set_result(self._state)

    def _write(self, group: list[_Job]) -> None:
        if self._is_stale:
            self._logs.load()
            self._is_stale = False
        self._connection.execute("BEGIN IMMEDIATE")
        lines: list[Line] = list(itertools.chain.from_iterable(job.batch.prepared for job in group))
        if lines:
            self._logs.write(lines, now_us())
        for job in group:
            write_events(self._connection, job.batch.events, now_us())
            write_snapshots(self._connection, job.batch.snapshots, now_us())
        self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        # What fails here fails again in the next writing, which tells its senders.
        self._is_stale = True
        with contextlib.suppress(sqlite3.Error):
            self._connection.rollback()

    def _keep_within_size(self) -> None:
        used = used_bytes(self._connection)
        if used <= self._max_bytes:
            return
        enough = self._max_bytes * (1 - _FREE_SHARE)
        self._connection.execute("BEGIN IMMEDIATE")
        while used > enough and self._remove_oldest():
            used = used_bytes(self._connection)
        self._connection.execute("COMMIT")

    def _remove_oldest(self) -> bool:
        # A shard, or some recordings, or some events: which are the oldest. Where there are few,
        # only some of these are: the newest are not to go with the oldest.
        execute = self._connection.execute
        shards = execute(
            "SELECT last_us FROM shard WHERE id < (SELECT max(id) FROM shard)"
            " ORDER BY last_us LIMIT 1"
        ).fetchall()
        recordings = execute(
            "SELECT last_ms * 1000 FROM recording ORDER BY last_ms LIMIT 10"
        ).fetchall()
        events = execute("SELECT time_us FROM event ORDER BY time_us LIMIT 1000").fetchall()
        ends = [rows[(len(rows) - 1) // 2][0] for rows in (shards, recordings, events) if rows]
        if not ends:
            return False
        oldest = min(ends)
        if shards and shards[0][0] == oldest:
            self._drop_shards("last_us <= ? AND id < (SELECT max(id) FROM shard)", oldest)
        if recordings and recordings[0][0] <= oldest:
            self._remove_recordings(oldest + 1)
        if events and events[0][0] <= oldest:
            self._remove_events(oldest + 1)
        return True

    def _remove_older_than(self, time_us: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._drop_shards("last_us < ?", time_us)
        self._remove_recordings(time_us)
        self._remove_events(time_us)
        self._connection.execute("COMMIT")

    def _drop_shards(self, where: str, time_us: int) -> None:
        rows = self._connection.execute(
            f"SELECT id FROM shard WHERE {where}",  # noqa: S608
            (time_us,),
        ).fetchall()
        for (shard,) in rows:
            drop_shard(self._connection, shard)
        if rows:
            self._logs.load()

    def _remove_recordings(self, before_us: int) -> None:
        for statement in (
            "DELETE FROM snapshot WHERE session_id IN"
            " (SELECT session_id FROM recording WHERE last_ms < ?)",
            "DELETE FROM recording WHERE last_ms < ?",
        ):
            self._connection.execute(statement, (-(-before_us // 1000),))

    def _remove_events(self, before_us: int) -> None:
        removed = self._connection.execute(
            "DELETE FROM event WHERE time_us < ?", (before_us,)
        ).rowcount
        if removed:
            self._connection.execute(
                "DELETE FROM issue WHERE NOT EXISTS"
                " (SELECT 1 FROM event WHERE event.issue = issue.id)"
            )
