"""
How the lines of a query are found.

An index gives candidates: that of the terms, if an attribute has to be there or to be
something, or else that of the text, or else that of the kinds. Which kind a line is, its ID
tells; what is left is looked up in each line.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from replaylink.viewer.limits import MAX_PAGE_LENGTH, MAX_QUERY_LENGTH, MAX_SEARCHED_LENGTH
from replaylink.viewer.query import Filter, LogQuery
from replaylink.viewer.store.catalogue import COLUMNS, Catalogue, Kind
from replaylink.viewer.store.lines import (
    EPOCH_US,
    FIELDS,
    KIND_MASK,
    SEQUENCE_BITS,
    SESSION_KEYS,
    TIME_SHIFT,
    USER_KEYS,
    key_term,
    own_term,
    term,
    text_of,
)
from replaylink.viewer.store.results import Log

Check = Callable[[Log], bool]

_SHORTEST_INDEXED_TEXT = 3
"""The index of the text knows sequences of three letters."""

_LONGEST_INDEXED_TEXT = 32

_MAX_RESOURCES = 500
"""Resources that are asked for by name; if there are more, lines are looked at one by one."""


class Search:
    """
    Finds and counts the lines of a query.

    Args:
        catalogue: What there is.
        query: What is looked for; its range of time is left to the caller.
    """

    def __init__(self, catalogue: Catalogue, query: LogQuery) -> None:
        self._catalogue = catalogue
        self._query = query
        text = query.text.replace("\0", "")[:MAX_QUERY_LENGTH]
        self.finds_all = not text and not query.filters
        """Whether only the kind of a line matters, and its time."""

        self._kinds = [kind.id for kind in catalogue.kinds.values() if all(self.matches(kind))]
        self._some_kinds = len(self._kinds) < len(catalogue.kinds)
        expressions = [self._expression(each) for each in query.filters]
        known = [each for each in expressions if each]
        self._index, self._match = "", ""
        if known:
            self._index, self._match = "terms", " AND ".join(known)
        elif len(text) >= _SHORTEST_INDEXED_TEXT:
            # A phrase takes time and memory by its length; the lines themselves tell the rest.
            self._index, self._match = "text", quoted(text[:_LONGEST_INDEXED_TEXT])
            if len(text) <= _LONGEST_INDEXED_TEXT:
                text = ""

        self._checks: list[Check] = [_check(each) for each in query.filters]
        if text:
            self._checks.append(_contains(text))
        # Terms tell exactly which attributes are there, and what they are.
        self._index_tells_all = (
            not text
            and len(known) == len(expressions)
            and all(each.operator in ("is", "set") for each in query.filters)
        )

    def matches(self, kind: Kind) -> tuple[bool, bool, bool]:
        """
        Return whether a kind's severity, its service and its linkage are what is looked for.
        """
        query = self._query
        return (
            (not query.severities or kind.severity in query.severities)
            and kind.severity not in query.not_severities,
            (not query.services or kind.service in query.services)
            and kind.service not in query.not_services,
            query.linked is None or query.linked == kind.linked,
        )

    def logs(self, low: int, high: int, limit: int) -> tuple[list[Log], bool]:
        """
        Return the newest lines with IDs from ``low`` to below ``high``, newest first.

        Returns:
            The lines, and whether there are as many as asked for or no more. Otherwise they are
            so long that others have to be asked for apart.
        """
        if not self._kinds:
            return [], True
        shards = self._catalogue.shards_between(low, high)
        lines = heapq.merge(
            *(self._logs(shard.id, low, high) for shard in shards),
            key=lambda line: -int(line[0].id),
        )
        found: list[Log] = []
        characters = 0
        for log, length in itertools.islice(lines, limit):
            found.append(log)
            characters += length
            if characters > MAX_PAGE_LENGTH and len(found) < limit:
                return found, False
        return found, True

    def _logs(self, shard: int, low: int, high: int) -> Iterator[tuple[Log, int]]:
        for row in self._rows(shard, low, high, every_kind=False):
            log = self._catalogue.log(row)
            if all(check(log) for check in self._checks):
                yield log, len(row[4]) + len(row[5])

    def _rows(
        self, shard: int, low: int, high: int, *, every_kind: bool
    ) -> Iterator[tuple[Any, ...]]:
        columns = ", ".join(f"log_{shard}.{column}" for column in COLUMNS.split(", "))
        index, match = self._index, self._match
        if not index and self._some_kinds and not every_kind:
            index = "terms"
            match = " OR ".join(quoted(own_term("@k", str(kind))) for kind in self._kinds)
        if index:
            table, parameters = f"{index}_{shard}", [match]
            # CROSS, so that the index is asked first.
            tables = f"{table} CROSS JOIN log_{shard} ON log_{shard}.id = {table}.rowid"
            conditions = f"{table} MATCH ? AND "
        else:
            table = tables = f"log_{shard}"
            parameters, conditions = [], ""
        conditions += f"{table}.rowid >= ? AND {table}.rowid < ?"
        if self._some_kinds and not every_kind:
            kinds = ",".join(map(str, self._kinds))
            conditions += f" AND {_kind_of(table)} IN ({kinds})"
        return self._catalogue.connection.execute(
            f"SELECT {columns} FROM {tables} WHERE {conditions} ORDER BY {table}.rowid DESC",  # noqa: S608
            (*parameters, low, high),
        )

    def count(self, low: int, high: int, step_us: int) -> Counter[tuple[int, int]]:
        """
        Count the lines with IDs from ``low`` to below ``high``.

        All kinds are counted, whatever the query says of them: a facet shows what else there is.

        Returns:
            How many there are by the start of the step, in microseconds since the epoch, and
            by kind.
        """
        counts: Counter[tuple[int, int]] = Counter()
        for shard in self._catalogue.shards_between(low, high):
            if self.finds_all:
                counts += self._count_index(f"log_{shard.id}", "", low, high, step_us)
            elif self._index_tells_all:
                table = f"{self._index}_{shard.id}"
                counts += self._count_index(table, self._match, low, high, step_us)
            else:
                counts += self._count_lines(shard.id, low, high, step_us)
        return counts

    def _count_index(
        self, table: str, match: str, low: int, high: int, step_us: int
    ) -> Counter[tuple[int, int]]:
        condition, parameters = (f"{table} MATCH ? AND ", [match]) if match else ("", [])
        rows = self._catalogue.connection.execute(
            f"SELECT ((rowid >> {TIME_SHIFT}) + {EPOCH_US}) / {step_us:d}, {_kind_of(table)},"  # noqa: S608
            f" count(*) FROM {table} WHERE {condition}rowid >= ? AND rowid < ? GROUP BY 1, 2",
            (*parameters, low, high),
        )
        return Counter({(start * step_us, kind): lines for start, kind, lines in rows})

    def _count_lines(
        self, shard: int, low: int, high: int, step_us: int
    ) -> Counter[tuple[int, int]]:
        counts: Counter[tuple[int, int]] = Counter()
        for row in self._rows(shard, low, high, every_kind=True):
            log = self._catalogue.log(row)
            if all(check(log) for check in self._checks):
                start = log.time_us - log.time_us % step_us
                counts[start, row[0] >> SEQUENCE_BITS & KIND_MASK] += 1
        return counts

    def _expression(self, wanted: Filter) -> str:
        # What the index of the terms is asked for, or nothing if it does not help.
        key, is_exact = wanted.key, wanted.operator == "is"
        if wanted.operator not in ("is", "set", "contains") or (key in FIELDS and not is_exact):
            return ""
        if key in (SESSION_KEYS[0], USER_KEYS[0]):
            name = "@s" if key == SESSION_KEYS[0] else "@u"
            return quoted(own_term(name, wanted.value) if is_exact else name)
        own = quoted(term(key, wanted.value) if is_exact else key_term(key))
        resources = [
            number
            for number, attributes in self._catalogue.resources_with(key)
            if not is_exact or text_of(attributes[key]) == wanted.value
        ]
        if len(resources) > _MAX_RESOURCES:
            return ""
        if not resources:
            return own
        others = " OR ".join(quoted(own_term("@r", str(number))) for number in resources)
        # A line's own attribute goes before that of its resource.
        return (
            f"({own} OR (({others}) NOT {quoted(key_term(key))}))"
            if is_exact
            else (f"({own} OR {others})")
        )


def quoted(text: str) -> str:
    """
    Return a text as one phrase of the query language of SQLite's full-text search.
    """
    return '"' + text.replace('"', '""') + '"'


def _kind_of(table: str) -> str:
    return f"(({table}.rowid >> {SEQUENCE_BITS}) & {KIND_MASK})"


def value_of(log: Log, key: str) -> str | None:
    """
    Return what a filter on an attribute compares, or None if the line has no such attribute.

    The line's own attribute counts, or else one of its resource, or else what OpenTelemetry
    keeps apart: ``logger``, ``event_name``, ``trace_id`` and ``span_id``. The session and the
    user count under whichever name they came.
    """
    if key == SESSION_KEYS[0]:
        return log.session_id or None
    if key == USER_KEYS[0]:
        return log.distinct_id or None
    for attributes in (log.attributes, log.resource):
        if key in attributes:
            return text_of(attributes[key])
    field = FIELDS.get(key)
    return (getattr(log, field) or None) if field else None


def _check(wanted: Filter) -> Check:
    key, text = wanted.key, wanted.value
    folded = text.casefold()
    if wanted.operator == "is":
        return lambda log: value_of(log, key) == text
    if wanted.operator == "not":
        return lambda log: value_of(log, key) != text
    if wanted.operator == "contains":
        return lambda log: _has(log, key, folded)
    if wanted.operator == "without":
        return lambda log: not _has(log, key, folded)
    if wanted.operator == "set":
        return lambda log: value_of(log, key) is not None
    return lambda log: value_of(log, key) is None


def _has(log: Log, key: str, folded: str) -> bool:
    value = value_of(log, key)
    return value is not None and folded in value.casefold()


def _contains(text: str) -> Check:
    folded = text.casefold()
    return lambda log: folded in log.body[:MAX_SEARCHED_LENGTH].casefold()
