"""
Writing log lines: into the newest shard, and into the counts.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from replaylink.viewer.limits import MAX_ID_LENGTH, MAX_SEARCHED_LENGTH
from replaylink.viewer.records import JSONObject
from replaylink.viewer.store.lines import (
    KIND_MASK,
    MAX_SHIFT_BITS,
    SEQUENCE_MASK,
    TIME_SHIFT,
    Line,
    line_id,
    next_id,
    prepare,
    text_of,
    time_of,
)
from replaylink.viewer.store.schema import INDEX_ARRIVALS, KEEP_ARRIVALS, create_shard

STEPS_S = (1, 10, 600)
"""In which steps of time lines are counted: for histograms of minutes, of hours and of weeks."""

LOGGER_STEP_S = 600
"""In which steps of time the lines of loggers are counted."""

MAX_LOGGERS = 1000
"""Loggers that are counted by name; those that come later are counted under an empty one."""

MAX_RESOURCES = 10_000
"""
Resources that are kept: one for each process that sent any. Of those that come later, only the
name of the service is, among the attributes of their lines.
"""

MAX_RESOURCE_BYTES = 16_384
"""A resource in JSON. Of a larger one only the name of the service is kept, too."""

OTHER_SERVICES = "(other services)"

LINE_BYTES = 30
"""What a line takes beside its text, before any index."""

_LAST_KINDS = 12
"""Kinds kept free for further services, when all others are taken: 6 severities, 2 each."""

_CHUNKS = (500, 50, 10, 1)
"""
Rows of one statement. Python lets go of its lock once for each statement, not for each row, so
that decoding goes on meanwhile.
"""

_STEPS_TO_WALK = 4


class _Arrivals(NamedTuple):
    """
    Lines as they stand in the table of those that arrive, and what is counted of them.
    """

    rows: list[tuple[Any, ...]]
    ids: set[int]
    counts: Counter[tuple[int, int]]
    loggers: Counter[tuple[int, str, str, bool]]
    text_bytes: int


class LogWriter:
    """
    Writes log lines, within transactions that its user opens and ends.

    What it knows of the database stands in memory; `load` reads it anew, which is necessary
    after a rollback, and when shards were dropped.

    Args:
        connection: The database, which nobody else writes to.
        max_shard_lines: How many lines a shard has before the next one is begun.
        max_shard_bytes: How much text, about.
        max_shard_age_us: How long lines are written to it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        max_shard_lines: int,
        max_shard_bytes: int,
        max_shard_age_us: int,
    ) -> None:
        self._connection = connection
        self._max_shard_lines = max_shard_lines
        self._max_shard_bytes = max_shard_bytes
        self._max_shard_age_us = max_shard_age_us
        self._encode = msgspec.json.Encoder().encode
        self.load()

    def load(self) -> None:
        """
        Read what stands in the database.
        """
        execute = self._connection.execute
        self._kinds: dict[tuple[str, str, bool], int] = {
            (service, severity, bool(linked)): kind
            for kind, service, severity, linked in execute("SELECT * FROM kind")
        }
        # (number, the last shard that has lines of it)
        self._resources: dict[bytes, tuple[int, int]] = {
            attributes: (number, shard)
            for number, attributes, shard in execute("SELECT id, attributes, shard FROM resource")
        }
        self._loggers: set[tuple[str, str]] = set(
            execute("SELECT DISTINCT service, logger FROM logger_count")
        )
        # (number, time of the first line, time of the last line)
        shards = execute("SELECT id, first_us, last_us FROM shard ORDER BY id").fetchall()
        self._closed: list[tuple[int, int, int]] = shards[:-1]
        self._shard: int | None = shards[-1][0] if shards else None
        self._lines = self._first_us = self._last_us = self._opened_us = self._text_bytes = 0
        if shards:
            (
                self._first_us,
                self._last_us,
                self._lines,
                self._opened_us,
                self._text_bytes,
            ) = execute(
                "SELECT first_us, last_us, lines, opened_us, text_bytes FROM shard WHERE id = ?",
                (self._shard,),
            ).fetchone()

    def write(self, lines: Sequence[Line], now_us: int) -> None:
        """
        Write lines.

        Args:
            lines: The lines.
            now_us: The time, in microseconds since the epoch.
        """
        shard = self._open_shard(now_us)
        arrivals = self._arrivals(shard, lines, check=False)
        try:
            self._insert(shard, arrivals.rows)
        except sqlite3.IntegrityError:
            # Lines of the same kind and microsecond stand there already, which is rare.
            self._connection.execute("DELETE FROM arriving")
            arrivals = self._arrivals(shard, lines, check=True)
            self._insert(shard, arrivals.rows)
        for statement in INDEX_ARRIVALS:
            self._connection.execute(
                statement.format(shard=shard, max_searched=MAX_SEARCHED_LENGTH)
            )
        self._connection.execute("DELETE FROM arriving")
        self._count(shard, arrivals.counts, arrivals.loggers)

        # By their IDs: those that gave way to others stand some microseconds later.
        first_us, last_us = time_of(min(arrivals.ids)), time_of(max(arrivals.ids))
        self._first_us = min(first_us, self._first_us) if self._lines else first_us
        self._last_us = max(last_us, self._last_us)
        self._lines += len(lines)
        self._text_bytes += arrivals.text_bytes
        self._connection.execute(
            "UPDATE shard SET first_us = ?, last_us = ?, lines = ?, text_bytes = ? WHERE id = ?",
            (self._first_us, self._last_us, self._lines, self._text_bytes, shard),
        )

    def _arrivals(self, shard: int, lines: Sequence[Line], *, check: bool) -> _Arrivals:
        rows: list[tuple[Any, ...]] = []
        counts: Counter[tuple[int, int]] = Counter()
        loggers: Counter[tuple[int, str, str, bool]] = Counter()
        taken: set[int] = set()
        hops: dict[int, int] = {}
        closed_until_us = max((last_us for _, _, last_us in self._closed), default=0)
        text_bytes = 0
        resource: JSONObject | None = None
        for line in lines:
            log = line.log
            if log.resource is not resource:
                resource = log.resource
                resource_id = self._resource(resource, shard)
                service = text_of(resource.get("service.name"))[:MAX_ID_LENGTH]
            if resource_id is None:
                own = {"service.name": service, **log.attributes}
                log = msgspec.structs.replace(log, attributes=own, resource={})
                (line,) = prepare([log])
            kind = self._kind(service, log.severity, line.linked)
            first = line_id(log.time_us, kind)
            number = hops.get(first, first)
            look = check or log.time_us <= closed_until_us
            tries = 0
            while number in taken or (look and self._is_taken(shard, number)):
                tries += 1
                number = _other_id(first, number, tries)
            taken.add(number)
            hops[first] = next_id(number)
            text_bytes += LINE_BYTES + len(line.attributes) + len(line.body)
            second = log.time_us // 1_000_000
            counts[second, kind] += 1
            loggers[second // LOGGER_STEP_S, service, log.scope, line.linked] += 1
            rows.append(
                (
                    number,
                    log.time_us,
                    resource_id or 0,
                    log.scope,
                    line.body,
                    line.attributes,
                    log.event_name or None,
                    log.trace_id or None,
                    log.span_id or None,
                    f"@r={resource_id or 0}\n@k={kind}\n{line.terms}",
                )
            )
        return _Arrivals(rows, taken, counts, loggers, text_bytes)

    def _insert(self, shard: int, rows: list[tuple[Any, ...]]) -> None:
        execute = self._connection.execute
        row = "(" + ",".join("?" * len(rows[0])) + ")"
        at = 0
        for size in _CHUNKS:
            statement = f"INSERT INTO arriving VALUES {','.join([row] * size)}"  # noqa: S608
            while len(rows) - at >= size:
                values = list(itertools.chain.from_iterable(rows[at : at + size]))
                execute(statement, values)
                at += size
        execute(KEEP_ARRIVALS.format(shard=shard))

    def _open_shard(self, now_us: int) -> int:
        if self._shard is not None:
            if (
                self._lines < self._max_shard_lines
                and self._text_bytes < self._max_shard_bytes
                and now_us - self._opened_us < self._max_shard_age_us
            ):
                return self._shard
            self._closed.append((self._shard, self._first_us, self._last_us))
        self._shard = create_shard(self._connection, now_us)
        self._lines = self._first_us = self._last_us = self._text_bytes = 0
        self._opened_us = now_us
        return self._shard

    def _is_taken(self, shard: int, line: int) -> bool:
        time_us = time_of(line)
        shards = [shard]
        shards += [each for each, first, last in self._closed if first <= time_us <= last]
        return any(
            self._connection.execute(f"SELECT 1 FROM log_{each} WHERE id = ?", (line,)).fetchone()  # noqa: S608
            for each in shards
        )

    def _resource(self, resource: JSONObject, shard: int) -> int | None:
        # None if there are too many of them, or if it is too large.
        attributes = self._encode(resource)
        if len(attributes) > MAX_RESOURCE_BYTES:
            return None
        number, last_shard = self._resources.get(attributes, (None, None))
        if number is None and len(self._resources) < MAX_RESOURCES:
            number = self._connection.execute(
                "INSERT INTO resource (attributes, shard) VALUES (?, ?)", (attributes, shard)
            ).lastrowid
            self._text_bytes += len(attributes)
        elif number is not None and last_shard != shard:
            self._connection.execute("UPDATE resource SET shard = ? WHERE id = ?", (shard, number))
        if number is not None:
            self._resources[attributes] = number, shard
        return number

    def _kind(self, service: str, severity: str, linked: bool) -> int:
        found = self._kinds.get((service, severity, linked))
        if found is None:
            free = sorted(set(range(KIND_MASK + 1)).difference(self._kinds.values()))
            if len(free) <= _LAST_KINDS and service != OTHER_SERVICES:
                return self._kind(OTHER_SERVICES, severity, linked)
            found = self._kinds[service, severity, linked] = free[0]
            self._connection.execute(
                "INSERT INTO kind VALUES (?, ?, ?, ?)", (found, service, severity, linked)
            )
        return found

    def _count(
        self,
        shard: int,
        counts: Counter[tuple[int, int]],
        loggers: Counter[tuple[int, str, str, bool]],
    ) -> None:
        steps: Counter[tuple[int, int, int]] = Counter()
        for (second, kind), lines in counts.items():
            for step_s in STEPS_S:
                steps[step_s, second - second % step_s, kind] += lines
        self._connection.executemany(
            "INSERT INTO line_count VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET lines = lines + excluded.lines",
            [(step, start, shard, kind, lines) for (step, start, kind), lines in steps.items()],
        )
        rows = []
        for (start, service, logger, linked), lines in loggers.items():
            if (service, logger) not in self._loggers:
                if len(self._loggers) < MAX_LOGGERS:
                    self._loggers.add((service, logger))
                else:
                    service, logger = OTHER_SERVICES, ""
            rows.append((start * LOGGER_STEP_S, shard, service, logger, lines, lines * linked))
        self._connection.executemany(
            "INSERT INTO logger_count VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " lines = lines + excluded.lines, linked = linked + excluded.linked",
            rows,
        )


def _other_id(first: int, line: int, tries: int) -> int:
    # The next one, in which lines of one moment keep their order; but where many stand already,
    # walking past them all would take for ever, so it is looked for further and further away.
    if tries <= _STEPS_TO_WALK:
        return next_id(line)
    away_us = random.randrange(1 << min(tries + 4, MAX_SHIFT_BITS))  # noqa: S311
    return first + (away_us << TIME_SHIFT) + random.randrange(SEQUENCE_MASK + 1)  # noqa: S311
