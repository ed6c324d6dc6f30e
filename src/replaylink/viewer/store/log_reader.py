"""
Reading log lines: pages, counts, and how many of them are linked.

Every query takes a bounded time. Lines are looked for from the newest on, in spans of time
that grow as long as none are found; when the time is over, what has been found is the answer,
together with how far back that is.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from replaylink.viewer.query import Filter, LogQuery
from replaylink.viewer.records import SEVERITIES
from replaylink.viewer.store.catalogue import COLUMNS, Catalogue
from replaylink.viewer.store.lines import (
    SESSION_KEYS,
    TIME_SHIFT,
    id_from,
    own_term,
    text_of,
    time_of,
)
from replaylink.viewer.store.log_writer import LOGGER_STEP_S, STEPS_S
from replaylink.viewer.store.results import (
    Attribute,
    Bucket,
    Count,
    Linkage,
    Log,
    Page,
    Share,
    Summary,
    Unlinked,
)
from replaylink.viewer.store.search import Search, quoted, value_of

BUDGET_S = 0.1
"""How long one query looks for lines, so that with all else it takes less than 200 ms."""

LATEST = 2000
"""How many of the latest lines are looked at for names and values of attributes."""

LATEST_UNLINKED = 20_000
"""How many of the latest lines are looked at for routes, and for unlinked lines."""

MAX_SHARES = 100
"""Services, loggers or routes on the page about linkage."""

ROUTE_KEYS = ("http.route", "route", "url.path", "http.target", "path")
"""Attributes that tell the route of a request, the preferred first."""

BAR_WIDTHS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
    *(60, 120, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400),
    *(172_800, 604_800, 2_592_000),
)
"""How wide a bar of a histogram can be, in seconds."""

_FIRST_SPAN_US = 1_000_000

_INSTRUCTIONS = 2000
"""SQLite looks at the clock once in so many of its instructions: about every 0.1 ms."""

_IPV4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"

_NAMES = re.compile(
    rf"""
    (?= [0-9a-fh:\["'{{,] )  # what any of these begins with: it is quicker so
    (?:
    (?P<kept>
        \b HTTP/[0-9](?:\.[0-9])? (?![0-9])
        | [{{,] [ ]? (?P<mark>["']) [a-z_.$-]{{1,40}} (?P=mark) [ ]? :  # a key of JSON
    )
    | (?P<address>
        (?<![0-9a-z.:]) {_IPV4} (?! \.? [0-9])
        | \[ (?=[0-9a-f.]*:[0-9a-f.]*:) [0-9a-f:.]{{2,45}} (?:%[0-9a-z]+)? \]
        # Unlike times and names of C++, it has two colons together, or seven, and a digit.
        | (?<![0-9a-z.:]) (?=[0-9a-f:]*:: | (?:[0-9a-f]{{1,4}}:){{7}}) (?=[a-f:]*[0-9])
            (?:[0-9a-f]{{0,4}}:){{2,8}} (?:{_IPV4} | [0-9a-f]{{1,5}}) (?![0-9a-z])
    ) (?: : [0-9]{{1,5}} (?![0-9]))?
    # A value in quotes, but no apostrophe, and no request, which is worth to be seen.
    | (?<![^\s(\[{{=:,]) (?P<quote>["'])
        (?! \s | (?-i:[A-Z]){{3,10}}[ ](?:/ | \* | https?:))
        [^"'\n]{{0,60}} (?P=quote) (?!\w)
    | [0-9a-f]{{8}}-(?:[0-9a-f]{{4}}-){{3}}[0-9a-f]{{12}}  # UUIDs
    | (?<![0-9a-z]) (?=[a-f]*[0-9]) [0-9a-f]{{6,}} (?![0-9a-z])  # hashes, and other long IDs
    | [0-9]+
    )
    """,
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)


class OutOfTimeError(Exception):
    """
    A query has taken as long as it may.
    """


class _LimitedTime:
    # Within it, SQLite's work ends with OutOfTimeError when the time is over.

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> _LimitedTime:
        self._end = time.perf_counter() + BUDGET_S
        self._is_over = False
        self._connection.set_progress_handler(self._look, _INSTRUCTIONS)
        return self

    def spans(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        # Spans of IDs, the newest first, each twice as long as the one before it. A full-text
        # index looks at no clock as long as it finds nothing: a span that may take as long as
        # all before it is not begun when half of the time is over.
        span = _FIRST_SPAN_US << TIME_SHIFT
        while end > first:
            if self._end - time.perf_counter() < BUDGET_S / 2:
                raise OutOfTimeError
            low = max(end - span, first)
            yield low, end
            end = low
            span *= 2

    def _look(self) -> bool:
        self._is_over = time.perf_counter() > self._end
        return self._is_over

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self._connection.set_progress_handler(None, 0)
        # It is called "interrupted", or whatever could not be done for that reason.
        if isinstance(exc, sqlite3.OperationalError) and self._is_over:
            raise OutOfTimeError from None


class LogReader:
    """
    Reads log lines, in a transaction that its user has opened.

    Args:
        connection: The database.
        now_us: The time, in microseconds since the epoch.
    """

    def __init__(self, connection: sqlite3.Connection, now_us: int) -> None:
        self._connection = connection
        self._now_us = now_us
        self._catalogue = Catalogue(connection)

    @property
    def is_empty(self) -> bool:
        """
        Whether there is no line.
        """
        return not self._catalogue.shards

    def log(self, line: int) -> Log | None:
        """
        Return one line, or None if it is not there.
        """
        for shard in self._catalogue.shards_between(line, line + 1):
            row = self._connection.execute(
                f"SELECT {COLUMNS} FROM log_{shard.id} WHERE id = ?",  # noqa: S608
                (line,),
            ).fetchone()
            if row is not None:
                return self._catalogue.log(row)
        return None

    def page(self, query: LogQuery, *, before: int | None, limit: int) -> Page:
        """
        Return the newest lines that the query finds, or those before a line.
        """
        first, end = self._ids(query)
        if before is not None:
            end = min(end, before)
        if end <= first:
            return Page([], None, None)
        search = Search(self._catalogue, query)
        found: list[Log] = []
        searched_to = end
        try:
            with _LimitedTime(self._connection) as limited:
                for low, high in limited.spans(first, end):
                    logs, complete = search.logs(low, high, limit + 1 - len(found))
                    found += logs
                    if len(found) > limit:
                        return Page(found[:limit], found[limit - 1].id, None)
                    if not complete:
                        return Page(found, found[-1].id, None)
                    searched_to = low
        except OutOfTimeError:
            if searched_to == end:
                # Not even one second's lines: without any limit then, or there is no end.
                low = max(first, end - (_FIRST_SPAN_US << TIME_SHIFT))
                found, complete = search.logs(low, end, limit)
                if found and (len(found) == limit or not complete):
                    low = int(found[-1].id)
                searched_to = low
            # Where there are no lines, there is nothing to go on with.
            searched_to = max(first, self._catalogue.end_before(searched_to))
        if searched_to > first:
            return Page(found, str(searched_to), time_of(searched_to))
        return Page(found, None, None)

    def count_session_logs(self, session_id: str, limit: int) -> int:
        """
        Count the lines of a session, up to a limit.
        """
        found = 0
        for shard in self._catalogue.shards:
            (lines,) = self._connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM terms_{shard.id}"  # noqa: S608
                f" WHERE terms_{shard.id} MATCH ? LIMIT ?)",
                (quoted(own_term("@s", session_id)), limit - found),
            ).fetchone()
            found += lines
            if found >= limit:
                break
        return found

    def session_logs(self, session_id: str, limit: int) -> list[Log]:
        """
        Return the latest lines of a session, oldest first.
        """
        query = LogQuery(filters=(Filter(SESSION_KEYS[0], "is", session_id),))
        return list(self._latest(query, limit))[::-1]

    def summary(self, query: LogQuery, *, bars: int) -> Summary:
        """
        Count the lines that the query finds: over time, by severity and by service.
        """
        from_us, to_us = self._times(query)
        step_us = _bar_width_us(to_us - from_us, bars)
        search = Search(self._catalogue, query)
        counts: Counter[tuple[int, int]] = Counter()
        counted_from_us = None
        if search.finds_all:
            self._count_all(search, counts, from_us, to_us, step_us, STEPS_S)
        else:
            counted_from_us = self._count_found(search, counts, from_us, to_us, step_us)

        buckets: dict[int, Counter[str]] = {}
        severities: Counter[str] = Counter()
        services: Counter[str] = Counter()
        linkage: Counter[bool] = Counter()
        total = 0
        for (start, number), lines in counts.items():
            kind = self._catalogue.kinds[number]
            severe, serves, links = search.matches(kind)
            if severe and serves and links:
                buckets.setdefault(start, Counter())[kind.severity] += lines
                total += lines
            if severe and serves:
                linkage[kind.linked] += lines
            if serves and links:
                severities[kind.severity] += lines
            if severe and links:
                services[kind.service] += lines
        return Summary(
            total=total,
            linked=linkage[True],
            unlinked=linkage[False],
            severities=[
                Count(name, severities[name]) for name in reversed(SEVERITIES) if severities[name]
            ],
            services=[Count(name, lines) for name, lines in services.most_common()],
            from_us=from_us,
            to_us=to_us,
            step_us=step_us,
            buckets=[Bucket(start, dict(buckets[start])) for start in sorted(buckets)],
            counted_from_us=counted_from_us,
        )

    def attributes(self, query: LogQuery) -> list[Attribute]:
        """
        Return which attributes the latest lines have that the query finds, commonest first.
        """
        counts: Counter[str] = Counter()
        for log in self._latest(query, LATEST):
            counts.update(log.attributes.keys() | log.resource.keys())
        return [Attribute(key, lines) for key, lines in counts.most_common()]

    def attribute_values(self, query: LogQuery, key: str, *, limit: int = 50) -> list[Count]:
        """
        Return the commonest values of an attribute among the latest lines.
        """
        counts: Counter[str] = Counter()
        for log in self._latest(query, LATEST):
            value = value_of(log, key)
            if value is not None:
                counts[value] += 1
        return [Count(value, lines) for value, lines in counts.most_common(limit)]

    def linkage(self, query: LogQuery, *, bars: int) -> Linkage:
        """
        Return what share of the lines is linked, and which are not.
        """
        from_us, to_us = self._times(query)
        step_us = max(_bar_width_us(to_us - from_us, bars), LOGGER_STEP_S * 1_000_000)
        services = self._shares("service", query, from_us, to_us)
        loggers = self._shares("service || ': ' || logger", query, from_us, to_us)
        # In milliseconds, as its name tells them.
        start = f"(start_s - start_s % {step_us // 1_000_000:d}) * 1000"
        steps = self._shares(start, query, from_us, to_us)

        routes: dict[str, Share] = {}
        alike: dict[tuple[str, str, str], Unlinked] = {}
        looked_at = 0
        for log in self._latest(query, LATEST_UNLINKED):
            looked_at += 1
            route = next((log.attributes[key] for key in ROUTE_KEYS if key in log.attributes), "")
            if route:
                name = text_of(route).split("?")[0][:200]
                share = routes.setdefault(name, Share(name, 0, 0))
                share.total += 1
                share.linked += bool(log.session_id)
            if not log.session_id:
                pattern = message_pattern(log.body)
                group = (log.service, log.scope, pattern)
                if group not in alike:
                    alike[group] = Unlinked(*group, count=0, example_id=log.id)
                alike[group].count += 1
        return Linkage(
            total=sum(share.total for share in services),
            linked=sum(share.linked for share in services),
            services=_commonest(services),
            loggers=_commonest(loggers),
            routes=_commonest(routes.values()),
            over_time=sorted(steps, key=lambda each: int(each.name)),
            unlinked=sorted(alike.values(), key=lambda each: -each.count)[:MAX_SHARES],
            looked_at=looked_at,
        )

    def _shares(self, name: str, query: LogQuery, from_us: int, to_us: int) -> list[Share]:
        # By an expression in SQL.
        condition = ""
        parameters: list[str] = []
        for operator, chosen in (("IN", query.services), ("NOT IN", query.not_services)):
            if chosen:
                condition += f" AND service {operator} ({','.join('?' * len(chosen))})"
                parameters += chosen
        rows = self._connection.execute(
            f"SELECT CAST({name} AS TEXT), sum(lines), sum(linked) FROM logger_count"  # noqa: S608
            f" WHERE start_s > ? AND start_s < ?{condition} GROUP BY 1",
            (from_us // 1_000_000 - LOGGER_STEP_S, -(-to_us // 1_000_000), *parameters),
        )
        return [Share(*row) for row in rows]

    def _latest(self, query: LogQuery, limit: int) -> Iterator[Log]:
        # The latest lines that the query finds, as many as the time allows.
        search = Search(self._catalogue, query)
        found = 0
        try:
            with _LimitedTime(self._connection) as limited:
                for low, high in limited.spans(*self._ids(query)):
                    logs, complete = search.logs(low, high, limit - found)
                    found += len(logs)
                    yield from logs
                    if found == limit or not complete:
                        return
        except OutOfTimeError:
            return

    def _times(self, query: LogQuery) -> tuple[int, int]:
        # The range that is shown: with no limits of its own, from the first line to the last.
        from_us, to_us = query.time_range(self._now_us)
        if to_us is None:
            last_us = self._catalogue.last_us + 1
            to_us = max(last_us, self._now_us) if query.since else last_us
        if from_us is None:
            from_us = min(self._catalogue.first_us, to_us)
        return from_us, max(to_us, from_us)

    def _ids(self, query: LogQuery) -> tuple[int, int]:
        from_us, to_us = query.time_range(self._now_us)
        first = id_from(max(self._catalogue.first_us, from_us or 0))
        end = self._catalogue.end
        return first, end if to_us is None else min(end, id_from(to_us))

    def _count_all(
        self,
        search: Search,
        counts: Counter[tuple[int, int]],
        from_us: int,
        to_us: int,
        step_us: int,
        steps_s: tuple[int, ...],
    ) -> None:
        # Whole steps were counted as lines came; at both ends, smaller steps or the lines tell.
        if from_us >= to_us:
            return
        if not steps_s:
            counts.update(search.count(id_from(from_us), id_from(to_us), step_us))
            return
        *smaller, step_s = steps_s
        unit = step_s * 1_000_000
        low, high = -(-from_us // unit) * unit, to_us // unit * unit
        if step_us % unit or low >= high:
            self._count_all(search, counts, from_us, to_us, step_us, tuple(smaller))
            return
        rows = self._connection.execute(
            "SELECT start_s * 1000000, kind, sum(lines) FROM line_count"
            " WHERE step_s = ? AND start_s >= ? AND start_s < ? GROUP BY start_s, kind",
            (step_s, low // 1_000_000, high // 1_000_000),
        )
        for start, kind, lines in rows:
            counts[start - start % step_us, kind] += lines
        self._count_all(search, counts, from_us, low, step_us, tuple(smaller))
        self._count_all(search, counts, high, to_us, step_us, tuple(smaller))

    def _count_found(
        self,
        search: Search,
        counts: Counter[tuple[int, int]],
        from_us: int,
        to_us: int,
        step_us: int,
    ) -> int | None:
        # Returns how far back it came, if it did not come to the end.
        counted_from = end = min(id_from(to_us), self._catalogue.end)
        try:
            with _LimitedTime(self._connection) as limited:
                for low, high in limited.spans(id_from(from_us), end):
                    counts.update(search.count(low, high, step_us))
                    counted_from = low
        except OutOfTimeError:
            return time_of(counted_from)
        return None


def message_pattern(message: str) -> str:
    """
    Return a message with numbers, IDs and such taken out, so that like ones are the same.
    """
    return _NAMES.sub(_placeholder, message[:500])[:200]


def _placeholder(match: re.Match[str]) -> str:
    if match["kept"]:
        return match[0]
    if match["address"]:
        return "<address>"
    quote: str = match["quote"] or ""
    return f"{quote}…{quote}"


def _bar_width_us(range_us: int, bars: int) -> int:
    for width_s in BAR_WIDTHS_S:
        if width_s * 1_000_000 * bars >= range_us:
            return round(width_s * 1_000_000)
    # A multiple, so that whole steps can be counted.
    widest_us = BAR_WIDTHS_S[-1] * 1_000_000
    return round(widest_us * -(-range_us // (widest_us * bars)))


def _commonest(shares: Iterable[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: -share.total)[:MAX_SHARES]
