"""
What the viewer keeps: log records, events and pieces of recordings, as they were sent.

The decoders under ``ingest/`` make these, and the store keeps them. Times are integers in
microseconds since the Unix epoch, but for the browser's clock in recordings, which is in
milliseconds as rrweb writes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

SEVERITIES = ("trace", "debug", "info", "warn", "error", "fatal")
"""All severities, from the mildest on: the six that PostHog knows."""

JSONObject = dict[str, Any]


class LogRecord(msgspec.Struct, gc=False):
    """
    One log record, as OTLP tells it.
    """

    time_us: int
    """When it was logged."""
    severity: str
    """One of `SEVERITIES`."""
    body: str
    """The message."""
    attributes: JSONObject = {}
    """The record's own attributes; values are what JSON can hold."""
    resource: JSONObject = {}
    """Attributes of the process that logged it, ``service.name`` among them."""
    scope: str = ""
    """The logger: the name of OpenTelemetry's instrumentation scope."""
    event_name: str = ""
    """OpenTelemetry's event name."""
    trace_id: str = ""
    """In lower-case hexadecimal, or empty."""
    span_id: str = ""
    """In lower-case hexadecimal, or empty."""


class Event(msgspec.Struct):
    """
    One event of PostHog's: a page view, an exception, or whatever else was captured.
    """

    uuid: str
    """The sender's ID of the event; one that comes again is not kept twice."""
    name: str
    """The event's name, such as ``$pageview`` or ``$exception``."""
    time_us: int
    """When it happened."""
    distinct_id: str = ""
    session_id: str = ""
    window_id: str = ""
    """The browser tab."""
    properties: JSONObject = {}


class Snapshot(msgspec.Struct):
    """
    A piece of a recording: what one ``$snapshot`` event of posthog-js brought.
    """

    uuid: str
    """The sender's ID of the event; one that comes again is not kept twice."""
    session_id: str
    window_id: str
    distinct_id: str
    first_ms: int
    """The time of the first rrweb event in it, in milliseconds since the epoch."""
    last_ms: int
    """The time of the last rrweb event in it, in milliseconds since the epoch."""
    has_full_snapshot: bool
    """Whether a replay can start with it: it holds a full picture of the page."""
    events: bytes
    """The rrweb events, decoded: a JSON array."""


class Batch(msgspec.Struct):
    """
    What one request brought, to be kept as a whole or not at all.
    """

    logs: list[LogRecord] = []
    events: list[Event] = []
    snapshots: list[Snapshot] = []
    prepared: Any = None
    """What a store has made of the logs beforehand: see `Store.prepare`."""
