"""
The state of the logs page, all of which is in its address.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import msgspec

from replaylink.viewer.limits import MAX_COLUMNS
from replaylink.viewer.query import Filter, LogQuery, Operator, parse_query

TABS = {"details": "Details", "raw": "Raw", "errors": "Related errors"}
"""The tabs of a line's details, by their name in an address."""


class LogsState(msgspec.Struct, frozen=True):
    """
    What the logs page shows. Every method returns another state, for a link to it.
    """

    query: LogQuery = LogQuery()
    columns: tuple[str, ...] = ()
    """Attributes that have a column."""
    live: bool = False
    """Whether new lines are shown as they come."""
    log: str = ""
    """The line whose details are open."""
    tab: str = "details"
    recording: str = ""
    """The session whose recording is open."""
    timestamp: str = ""
    """Where that recording is to start, in milliseconds since the epoch."""
    window: str = ""
    """The browser tab of that recording; empty if the page is to choose."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """
        The parameters that stand for this state in an address.
        """
        pairs = self.query.to_pairs()
        if self.columns:
            pairs.append(("columns", ",".join(self.columns)))
        if self.live:
            pairs.append(("live", "1"))
        if self.log:
            pairs.append(("log", self.log))
            if self.tab != "details":
                pairs.append(("tab", self.tab))
        if self.recording:
            pairs.append(("recording", self.recording))
            pairs += [("timestamp", self.timestamp)] if self.timestamp else []
            pairs += [("window", self.window)] if self.window else []
        return pairs

    @property
    def href(self) -> str:
        """
        The address of the page in this state.
        """
        return f"/logs?{urlencode(self.pairs)}" if self.pairs else "/logs"

    @property
    def listed(self) -> LogsState:
        """
        The list alone, with nothing open over it.
        """
        return LogsState(self.query, self.columns, self.live)

    @property
    def parameters(self) -> str:
        """
        What follows the question mark in the address of the list.
        """
        return urlencode(self.listed.pairs)

    @property
    def is_filtered(self) -> bool:
        """
        Whether any condition is set.
        """
        return self.query != LogQuery()

    @property
    def cleared(self) -> LogsState:
        """
        The list with no condition.
        """
        return LogsState(LogQuery(), self.columns, self.live)

    def searched(self, **changes: object) -> LogsState:
        """
        Return the list with another query.
        """
        return LogsState(msgspec.structs.replace(self.query, **changes), self.columns, self.live)

    def with_filter(self, key: str, operator: Operator, value: str = "") -> LogsState:
        """
        Return the list with one more filter, in place of the opposite one.
        """
        added = Filter(key, operator, value)
        opposite = {"is": "not", "not": "is", "contains": "without", "without": "contains"}
        kept = [
            each
            for each in self.query.filters
            if each != added and each != Filter(key, opposite.get(operator, operator), value)  # type: ignore[arg-type]
        ]
        return self.searched(filters=(*kept, added))

    def without_filter(self, removed: Filter) -> LogsState:
        """
        Return the list with one filter less.
        """
        return self.searched(filters=tuple(e for e in self.query.filters if e != removed))

    def toggled(self, facet: str, value: str) -> LogsState:
        """
        Return the list with a value of a facet chosen, or no longer chosen.

        Args:
            facet: One of the query's tuples: ``severities``, ``not_services`` and so on.
            value: The value.
        """
        values: tuple[str, ...] = getattr(self.query, facet)
        opposite = facet.removeprefix("not_") if facet.startswith("not_") else f"not_{facet}"
        others: tuple[str, ...] = getattr(self.query, opposite)
        changed = tuple(e for e in values if e != value)
        return self.searched(
            **{
                facet: changed if value in values else (*values, value),
                opposite: tuple(e for e in others if e != value),
            }
        )

    def between(self, from_us: int | None, to_us: int | None) -> LogsState:
        """
        Return the list from one moment to another.
        """
        return self.searched(since="", from_us=from_us, to_us=to_us)

    def with_column(self, key: str) -> LogsState:
        """
        Return the list with one more column.
        """
        columns = tuple(dict.fromkeys((*self.columns, key)))[:MAX_COLUMNS]
        return msgspec.structs.replace(self, columns=columns)

    def without_column(self, key: str) -> LogsState:
        """
        Return the list with one column less.
        """
        return msgspec.structs.replace(self, columns=tuple(e for e in self.columns if e != key))

    def opened(self, log_id: str, tab: str = "details") -> LogsState:
        """
        Return the list with the details of a line open over it.
        """
        return msgspec.structs.replace(self.listed, log=log_id, tab=tab)


def parse_state(pairs: Iterable[tuple[str, str]]) -> LogsState:
    """
    Read the state from the parameters of an address.

    Raises:
        QueryError: If a value is none that the parameter can have.
    """
    pairs = list(pairs)
    one = dict(pairs)
    columns = (name for name in one.get("columns", "").split(",") if name)
    tab = one.get("tab", "")
    return LogsState(
        query=parse_query(pairs),
        columns=tuple(dict.fromkeys(columns))[:MAX_COLUMNS],
        live=one.get("live", "") not in ("", "0"),
        log=one.get("log", ""),
        tab=tab if tab in TABS else "details",
        recording=one.get("recording", ""),
        timestamp=one.get("timestamp", ""),
        window=one.get("window", ""),
    )
