"""
What is needed to read lines: which shards there are, which kinds of lines, which resources.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from replaylink.viewer.limits import MAX_ID_LENGTH
from replaylink.viewer.records import JSONObject
from replaylink.viewer.store.lines import (
    KIND_MASK,
    SEQUENCE_BITS,
    id_from,
    session_of,
    text_of,
    user_of,
)
from replaylink.viewer.store.results import Log

COLUMNS = "id, time_us, resource, scope, body, attributes, event_name, trace_id, span_id"
"""Of a shard's lines; `Catalogue.log` makes a `Log` of them."""

_decode = msgspec.json.Decoder().decode


class Kind(msgspec.Struct, frozen=True):
    """
    What a line's ID tells of it, besides its time.
    """

    id: int
    service: str
    severity: str
    linked: bool


class Shard(msgspec.Struct, frozen=True):
    """
    Some lines that came one after the other.
    """

    id: int
    first_us: int
    """The time in the ID of its oldest line."""
    last_us: int
    """The time in the ID of its newest line."""


class Catalogue:
    """
    The shards, the kinds and the resources, as they are in the transaction that is open.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.shards = [
            Shard(*row)
            for row in connection.execute(
                "SELECT id, first_us, last_us FROM shard WHERE lines > 0 ORDER BY id DESC"
            )
        ]
        self.kinds = {
            number: Kind(number, service, severity, bool(linked))
            for number, service, severity, linked in connection.execute(
                "SELECT id, service, severity, linked FROM kind"
            )
        }
        self.first_us = min((shard.first_us for shard in self.shards), default=0)
        self.last_us = max((shard.last_us for shard in self.shards), default=0)
        self._resources: dict[int, JSONObject] = {}

    def shards_between(self, low: int, high: int) -> list[Shard]:
        """
        Return the shards that may have lines with IDs from ``low`` to below ``high``.
        """
        return [
            shard
            for shard in self.shards
            if id_from(shard.first_us) < high and id_from(shard.last_us + 1) > low
        ]

    @property
    def end(self) -> int:
        """
        An ID above those of all lines.
        """
        return id_from(self.last_us + 1)

    def end_before(self, high: int) -> int:
        """
        Return the ID after that of the newest line below ``high``, or 0 if there is none.
        """
        newest = (
            self.connection.execute(
                f"SELECT max(id) FROM log_{shard.id} WHERE id < ?",  # noqa: S608
                (high,),
            ).fetchone()[0]
            for shard in self.shards
        )
        return max((line + 1 for line in newest if line is not None), default=0)

    def resource(self, number: int) -> JSONObject:
        """
        Return the attributes of a resource.
        """
        found = self._resources.get(number)
        if found is None:
            row = self.connection.execute(
                "SELECT attributes FROM resource WHERE id = ?", (number,)
            ).fetchone()
            found = self._resources[number] = _decode(row[0]) if row else {}
        return found

    def resources_with(self, key: str) -> list[tuple[int, JSONObject]]:
        """
        Return the resources that have an attribute.
        """
        rows = self.connection.execute(
            "SELECT id, attributes FROM resource WHERE instr(attributes, ?)",
            (msgspec.json.encode(key) + b":",),
        )
        found = [(number, _decode(attributes)) for number, attributes in rows]
        return [(number, attributes) for number, attributes in found if key in attributes]

    def log(self, row: tuple[Any, ...]) -> Log:
        """
        Return the line of a row with `COLUMNS`.
        """
        line, time_us, number, scope, body, encoded, event_name, trace_id, span_id = row
        resource = self.resource(number)
        attributes = _decode(encoded)
        return Log(
            id=str(line),
            time_us=time_us,
            severity=self.kinds[line >> SEQUENCE_BITS & KIND_MASK].severity,
            service=text_of((resource or attributes).get("service.name"))[:MAX_ID_LENGTH],
            body=body,
            attributes=attributes,
            resource=resource,
            scope=scope,
            event_name=event_name or "",
            trace_id=trace_id or "",
            span_id=span_id or "",
            session_id=session_of(attributes, resource),
            distinct_id=user_of(attributes, resource),
        )
