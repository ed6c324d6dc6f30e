"""
Single fields of the events of PostHog's SDKs: IDs, texts and times, each of which may be missing.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec

from replaylink._ids import clean, is_session_id
from replaylink.viewer import limits

from .json_text import decode, load

RawObject: TypeAlias = "dict[str, msgspec.Raw]"
"""A JSON object whose values are checked but not built yet."""

RAW_OBJECT: Final[Any] = dict[str, msgspec.Raw]
RAW_LIST: Final[Any] = list[msgspec.Raw]

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
# What differs when the same event is sent again.
_OF_THE_SENDING: Final = frozenset({"sent_at", "offset"})
_LATEST_US: Final = 253_402_300_800 * 1_000_000
"""The end of the year 9999, the last that dates have."""


def raw_object(text: bytes | msgspec.Raw) -> RawObject:
    """
    Return the fields of a JSON object, not built yet.

    Raises:
        BadPayload: If it is something else.
    """
    fields: RawObject = decode(text, RAW_OBJECT)
    return fields


def raw_list(text: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """
    Return the values in a JSON array, not built yet.

    Raises:
        BadPayload: If it is something else.
    """
    values: list[msgspec.Raw] = decode(text, RAW_LIST)
    return values


def begins(raw: msgspec.Raw | None, start: bytes) -> bool:
    """
    Tell how a value begins that may not be there, without a copy.
    """
    return raw is not None and memoryview(raw)[: len(start)] == start


def value(fields: RawObject, *names: str) -> Any:
    """
    Return the first of some fields that is there and not null, or None.

    Raises:
        BadPayload: If it is too deep.
    """
    for name in names:
        raw = fields.get(name)
        if raw is not None and (found := load(raw)) is not None:
            return found
    return None


def as_id(found: Any) -> str:
    """
    Return the ID of a user as clean text, cut at `limits.MAX_ID_LENGTH`; empty if there is none.
    """
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found) if abs(found) < 2**64 else ""
    if not isinstance(found, str):
        return ""
    return clean(found[: 2 * limits.MAX_ID_LENGTH])[: limits.MAX_ID_LENGTH].rstrip()


def as_session_id(found: Any) -> str:
    """
    Return the ID of a session or a window, or an empty text if it is none.
    """
    return found if isinstance(found, str) and is_session_id(found) else ""


def sent_uuid(fields: RawObject) -> str:
    """
    Return the UUID that an event was sent with, or an empty text.

    Raises:
        BadPayload: If what stands there is too deep.
    """
    found = value(fields, "uuid")
    return found.lower() if isinstance(found, str) and _UUID.fullmatch(found) else ""


def event_uuid(fields: RawObject) -> str:
    """
    Return the UUID of an event.

    Without a valid one it is made from what the event holds, so that one which is sent again
    has the same.
    """
    if found := sent_uuid(fields):
        return found
    digest = hashlib.sha256()
    for name, raw in sorted(fields.items()):
        if name not in _OF_THE_SENDING:
            for part in (memoryview(name.encode()), memoryview(raw)):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
    return str(UUID(bytes=digest.digest()[:16], version=5))


def as_time_us(found: Any) -> int | None:
    """
    Return a time in microseconds since the epoch, or None if it is none.

    Args:
        found: A date and time of ISO 8601, in UTC unless it says otherwise; or the number of
            seconds or milliseconds since the epoch, which are told apart by their size.
    """
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        # In seconds, 1e11 is the year 5138; in milliseconds it is 1973.
        scaled = found * (1_000 if found > 1e11 else 1_000_000)
        return int(scaled) if 0 < scaled < _LATEST_US else None
    if not isinstance(found, str):
        return None
    try:
        moment = msgspec.convert(found.strip(), datetime)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        time_us = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None
    return time_us if time_us > 0 else None


def properties_of(fields: RawObject) -> RawObject:
    """
    Return the properties of an event, not built yet.

    Raises:
        BadPayload: If they are no object.
    """
    raw = fields.get("properties")
    return {} if raw is None or begins(raw, b"null") else raw_object(raw)
