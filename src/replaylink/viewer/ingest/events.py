"""
Events of PostHog's SDKs: from the body of a request to events and pieces of recordings.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final

import msgspec

from replaylink.viewer import limits
from replaylink.viewer.records import Batch, Event, JSONObject

from .budget import Budget, check_parts
from .compression import unwrap
from .errors import BadPayload, TooLarge, check_token
from .fields import (
    RawObject,
    as_id,
    as_session_id,
    as_time_us,
    event_uuid,
    properties_of,
    raw_list,
    raw_object,
    sent_uuid,
    value,
)
from .json_text import load, repair
from .recordings import snapshot

SNAPSHOT = "$snapshot"
"""The name of the events that bring a piece of a recording."""

_SDK: Final = re.compile(r"([A-Za-z0-9._-]{1,64})/([A-Za-z0-9.+_-]{1,64})")
"""The name and version of an SDK, as it says them in a header."""


class Captured(msgspec.Struct):
    """
    What a request brought, and what of it could not be used.
    """

    batch: Batch
    left_out: int = 0
    """How many events were left out."""
    reason: str = ""
    """Why the last of these was."""
    refused: dict[str, str] = {}
    """Why events were left out, by their UUID."""


def decode_events(
    body: bytes,
    now_us: int,
    *,
    limit: int = limits.MAX_EVENTS_BYTES,
    sent_at: Any = None,
    sdk: str = "",
) -> Captured:
    """
    Return the events and the pieces of recordings in the body of a request.

    It may hold an object with a ``batch``, an array of events, or one event.

    Args:
        body: What came, as `unwrap` takes it.
        now_us: The time of its arrival, in microseconds since the epoch.
        limit: The most that it may become by decompression, all in all, in bytes.
        sent_at: When it was sent by the sender's clock, if the address or a header says so.
        sdk: The SDK's name and version, with a slash between, if a header says so.

    Raises:
        BadPayload: If nothing in it can be used.
        BadToken: If it was sent with a personal API key.
        TooLarge: If it is too large, or has too many events.
    """
    text = unwrap(body, limit)
    budget = Budget(limit)
    budget.spend_bytes(len(text))
    check_parts(text)
    text = repair(text, budget)
    envelope: RawObject = {}
    if text.startswith(b"["):
        sent = raw_list(text)
    else:
        envelope = raw_object(text)
        sent = raw_list(envelope["batch"]) if "batch" in envelope else [msgspec.Raw(text)]
    if len(sent) > limits.MAX_EVENTS:
        msg = f"more than {limits.MAX_EVENTS} events"
        raise TooLarge(msg)
    _check_tokens(envelope)
    sent_at = value(envelope, "sent_at", "sentAt") or sent_at
    captured = Captured(Batch(events=[], snapshots=[]))
    library = _library(sdk)
    for raw in sent:
        fields: RawObject = {}
        try:
            fields = raw_object(raw)
            _check_tokens(fields)
            if value(fields, "event") == SNAPSHOT:
                captured.batch.snapshots.append(snapshot(fields, budget))
            else:
                budget.spend_values(raw)
                captured.batch.events.append(_event(fields, now_us, sent_at, library))
        except BadPayload as refusal:
            captured.left_out += 1
            captured.reason = str(refusal)
            with contextlib.suppress(BadPayload):
                if uuid := sent_uuid(fields):
                    captured.refused[uuid] = captured.reason
    if captured.left_out and captured.left_out == len(sent):
        raise BadPayload(captured.reason)
    return captured


def _check_tokens(fields: RawObject) -> None:
    for name in ("api_key", "token"):
        if isinstance(token := value(fields, name), str):
            check_token(token)


def _library(sdk: str) -> JSONObject:
    found = _SDK.fullmatch(sdk)
    return {"$lib": found[1], "$lib_version": found[2]} if found else {}


def _event(fields: RawObject, now_us: int, sent_at: Any, library: JSONObject) -> Event:
    name = value(fields, "event")
    name = as_id(name) if isinstance(name, str) else ""
    if not name:
        msg = "an event without a name"
        raise BadPayload(msg)
    properties: JSONObject = {
        **library,
        **{key: load(raw) for key, raw in properties_of(fields).items()},
    }
    # PostHog keeps these two among the properties as well.
    for key in ("$set", "$set_once"):
        if isinstance(person := value(fields, key), dict):
            properties.setdefault(key, person)
    # What is sent to the newer address has these beside the properties.
    for key in ("session_id", "window_id"):
        if isinstance(own := value(fields, key), str):
            properties.setdefault(f"${key}", own)
    options = value(fields, "options")
    if isinstance(options, dict) and options.get("disable_skew_correction") is True:
        properties.setdefault("$ignore_sent_at", True)
    if isinstance(token := properties.get("token"), str):
        check_token(token)
    distinct_id = value(fields, "distinct_id", "$distinct_id")
    return Event(
        uuid=event_uuid(fields),
        name=name,
        time_us=_time_us(fields, properties, now_us, sent_at),
        distinct_id=as_id(distinct_id if distinct_id else properties.get("distinct_id")),
        session_id=as_session_id(properties.get("$session_id")),
        window_id=as_session_id(properties.get("$window_id")),
        properties=properties,
    )


def _time_us(fields: RawObject, properties: JSONObject, now_us: int, sent_at: Any) -> int:
    """
    Return when an event happened, by the viewer's clock.

    If the sender says when it sent the event, the difference is taken off the time of arrival:
    browsers' clocks are wrong more often than the way is long.
    """
    happened_us = as_time_us(value(fields, "timestamp"))
    sent_us = as_time_us(value(fields, "sent_at", "sentAt") or sent_at)
    offset_ms = value(fields, "offset")
    if happened_us is None:
        is_number = isinstance(offset_ms, (int, float)) and not isinstance(offset_ms, bool)
        if is_number and 0 <= offset_ms * 1000 <= now_us:
            return now_us - int(offset_ms * 1000)
        return now_us
    if sent_us is not None and properties.get("$ignore_sent_at") is not True:
        happened_us += now_us - sent_us
    # Nothing happens before the epoch, and nothing a day ahead.
    return happened_us if 0 <= happened_us <= now_us + limits.MAX_CLOCK_SKEW_US else now_us
