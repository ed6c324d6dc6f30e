"""
Pieces of recordings: ``$snapshot`` events of posthog-js, with what it compressed in them.

posthog-js marks an rrweb event that it compressed with ``cv``. The data of a full snapshot, or
some fields of the data of a mutation, are then gzip of JSON, each byte written as the character
of that number.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from replaylink.viewer.records import Snapshot

from .budget import Budget
from .compression import gunzip
from .errors import BadPayload
from .fields import (
    RawObject,
    as_id,
    as_session_id,
    begins,
    event_uuid,
    properties_of,
    raw_list,
    raw_object,
    value,
)
from .json_text import decode, is_utf8, load, repair

COMPRESSION: Final = "2024-10"
"""The only way of compression that posthog-js has had."""

FULL_SNAPSHOT: Final = 2
"""rrweb's type of an event that holds the whole page."""

_COMPRESSED_FIELDS: Final = ("texts", "attributes", "removes", "adds")
_LATEST_MS: Final = 8_640_000_000_000_000
"""The last moment that a date in JavaScript can be."""


_NOTHING: Final = msgspec.Raw()


class _Head(msgspec.Struct, gc=False):
    """
    What every rrweb event has, and the mark of its compression.
    """

    type: int
    timestamp: float
    cv: msgspec.Raw = _NOTHING


_HEADS: Final[Any] = list[_Head]


def snapshot(fields: RawObject, budget: Budget) -> Snapshot:
    """
    Return what one ``$snapshot`` event brings.

    Args:
        fields: The fields of the event.
        budget: How much may still be decompressed in this request.

    Raises:
        BadPayload: If it has no session ID or nothing that rrweb could replay.
        TooLarge: If the budget is spent.
    """
    properties = properties_of(fields)
    session_id = as_session_id(value(properties, "$session_id"))
    if not session_id:
        msg = "a recording without a valid $session_id"
        raise BadPayload(msg)
    data: bytes | msgspec.Raw = properties.get("$snapshot_data", _NOTHING)
    # One event alone was sent by posthog-js before 2023.
    if begins(properties.get("$snapshot_data"), b"{"):
        data = b"[" + bytes(data) + b"]"
    heads: list[_Head] = decode(data, _HEADS)
    raws = raw_list(data)
    if not heads:
        msg = "a recording without events"
        raise BadPayload(msg)
    if not all(0 <= head.timestamp <= _LATEST_MS for head in heads):
        msg = "a recording at a time that is none"
        raise BadPayload(msg)
    for index, head in enumerate(heads):
        if head.cv is not _NOTHING and not begins(head.cv, b"null"):
            raws[index] = msgspec.Raw(_decompressed(raws[index], head.cv, budget))
    order = sorted(range(len(heads)), key=lambda index: heads[index].timestamp)
    events = msgspec.json.encode([raws[index] for index in order])
    if not is_utf8(events):
        msg = "a recording that is not UTF-8"
        raise BadPayload(msg)
    return Snapshot(
        uuid=event_uuid(fields),
        session_id=session_id,
        window_id=as_session_id(value(properties, "$window_id")),
        distinct_id=as_id(value(properties, "distinct_id") or value(fields, "distinct_id")),
        first_ms=int(heads[order[0]].timestamp),
        last_ms=int(heads[order[-1]].timestamp),
        has_full_snapshot=any(head.type == FULL_SNAPSHOT for head in heads),
        events=events,
    )


def _decompressed(raw: msgspec.Raw, mark: msgspec.Raw, budget: Budget) -> bytes:
    """
    Return an rrweb event as it was before posthog-js compressed it.
    """
    if load(mark) != COMPRESSION:
        msg = "a recording in an unknown compression"
        raise BadPayload(msg)
    event = raw_object(raw)
    del event["cv"]
    data = event.get("data")
    if data is not None and begins(data, b'"'):
        event["data"] = _inflated(data, budget)
    elif data is not None and begins(data, b"{"):
        inner = raw_object(data)
        for name in _COMPRESSED_FIELDS:
            if begins(inner.get(name), b'"'):
                inner[name] = _inflated(inner[name], budget)
        event["data"] = msgspec.Raw(msgspec.json.encode(inner))
    return msgspec.json.encode(event)


def _inflated(text: msgspec.Raw, budget: Budget) -> msgspec.Raw:
    """
    Return the JSON out of a JSON text whose characters stand for the bytes of gzip.
    """
    try:
        packed = decode(text, str).encode("latin-1")
    except UnicodeEncodeError:
        msg = "a compressed part of a recording that is none"
        raise BadPayload(msg) from None
    inflated = gunzip(packed, budget.bytes_left)
    budget.spend_bytes(len(inflated))
    # Checked, and never built.
    return decode(repair(inflated, budget), msgspec.Raw)
