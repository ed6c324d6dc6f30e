"""
Whatever comes, a decoder answers with what can be stored, or refuses it.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaylink.viewer import limits
from replaylink.viewer.ingest.compression import gunzip, unwrap
from replaylink.viewer.ingest.errors import Refusal
from replaylink.viewer.ingest.events import decode_events
from replaylink.viewer.ingest.json_text import load
from replaylink.viewer.ingest.otlp import decode_logs
from replaylink.viewer.records import SEVERITIES, Batch, Event, Snapshot
from tests.viewer.ingest.payloads import (
    NOW_US,
    as_json,
    encoded,
    event,
    otlp_json,
    recording,
    snapshot,
)

fuzz = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SLOW_S: Final = 4.0
"""No payload of these tests may take longer, in seconds."""


def logs(body: bytes) -> Batch:
    return Batch(logs=decode_logs(body, NOW_US))


def events(body: bytes) -> Batch:
    return decode_events(body, NOW_US).batch


def recordings(body: bytes) -> Batch:
    return decode_events(body, NOW_US, limit=limits.MAX_RECORDING_BYTES).batch


def check(decode: Callable[[bytes], Batch], body: bytes) -> None:
    """
    Decode, and look at all that came of it.
    """
    start = time.perf_counter()
    try:
        batch = decode(body)
    except Refusal:
        return
    finally:
        assert time.perf_counter() - start < SLOW_S
    # Lone surrogates, or what JSON cannot hold, would raise here.
    text = msgspec.json.encode(batch)
    assert b"NaN" not in text.replace(b'"NaN"', b"")
    assert load(text) is not None or not text
    for record in batch.logs:
        assert record.severity in SEVERITIES
        assert abs(record.time_us - NOW_US) <= limits.MAX_CLOCK_SKEW_US
        assert len(record.attributes) <= limits.MAX_ATTRIBUTES + 2
        assert len(record.trace_id) in (0, 32)
        assert len(record.span_id) in (0, 16)
    captured: list[Event | Snapshot] = [*batch.events, *batch.snapshots]
    for kept in captured:
        assert len(kept.uuid) == 36
        assert len(kept.session_id) <= limits.MAX_ID_LENGTH
        assert len(kept.distinct_id) <= limits.MAX_ID_LENGTH
    for found in batch.events:
        assert 0 <= found.time_us <= NOW_US + limits.MAX_CLOCK_SKEW_US
        assert 0 < len(found.name) <= limits.MAX_ID_LENGTH
    for piece in batch.snapshots:
        replayed = msgspec.json.decode(piece.events)
        assert replayed
        assert sorted(event["timestamp"] for event in replayed) == [
            event["timestamp"] for event in replayed
        ]
        assert 0 <= piece.first_ms <= piece.last_ms < 2**63


DECODERS = pytest.mark.parametrize("decode", [logs, events, recordings])

ATTRIBUTES: dict[str, Any] = {
    "sessionId": "01980c4b-1234-7abc-8def-0123456789ab",
    "status": 200,
    "nested": {"list": [1, 1.5, None, b"\x00", {"deep": True}]},
}
SEEDS: Final[dict[Callable[[bytes], Batch], list[bytes]]] = {
    logs: [
        encoded("it failed", ATTRIBUTES, count=3).SerializeToString(),
        as_json(
            otlp_json(
                {
                    "body": {"stringValue": "x"},
                    "severityNumber": 9,
                    "attributes": [
                        {"key": "a", "value": {"arrayValue": {"values": [{"intValue": "1"}]}}}
                    ],
                    "traceId": "0af7651916cd43dd8448eb211c80319c",
                }
            )
        ),
        b"\n".join([as_json(otlp_json({}))] * 2),
    ],
    events: [
        as_json({"api_key": "phc", "batch": [event(), event("$exception")], "sent_at": "2027"}),
        as_json([event(timestamp="2027-01-15T07:59:50Z", offset=3)]),
        b"data=eyJldmVudCI6IngifQ%3D%3D&compression=base64",
    ],
    recordings: [gzip.decompress(recording()), as_json([snapshot([]), event()])],
}


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """
    Draw what was valid before something happened to it on its way.
    """
    body = draw(st.sampled_from(seeds))
    packed = draw(st.booleans())
    if packed and draw(st.booleans()):
        body, packed = gzip.compress(body), False
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        end = draw(st.integers(at, min(len(body), at + 40)))
        body = draw(
            st.sampled_from(
                [
                    body[:at],  # cut off
                    body[:at] + body[end:],  # a part is missing
                    body[:end] + body[at:],  # a part is there twice
                    body[:at] + draw(st.binary(max_size=6)) + body[end:],
                    body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :],
                    body[:at] + draw(st.sampled_from(TOKENS)) + body[end:],
                    body + body,
                ]
            )
        )
    return gzip.compress(body) if packed else body


TOKENS: Final = [
    *(rb'\ud800 "\udc00" \u0000 null true -0 1e999 99999999999999999999 [[[[[[ {"a":'.split()),
    *(b'{}, [], "", "2024-10", "$snapshot", \x1f\x8b, \x0a\xff\xff\xff\xff\x0f'.split(b", ")),
]


@DECODERS
@given(data=st.data())
@fuzz
def test_mutated(decode: Callable[[bytes], Batch], data: st.DataObject) -> None:
    """What was damaged on its way is refused, or what comes of it can be stored."""
    check(decode, data.draw(mutated(SEEDS[decode])))


@DECODERS
@given(st.binary(max_size=200))
@fuzz
def test_any_bytes(decode: Callable[[bytes], Batch], body: bytes) -> None:
    """Any bytes at all are refused, or what comes of them can be stored."""
    check(decode, body)


WORDS: Final = (
    "resourceLogs resource_logs scopeLogs logRecords resource scope attributes key value values "
    "stringValue intValue doubleValue boolValue bytesValue arrayValue kvlistValue body name "
    "severityNumber severityText timeUnixNano traceId spanId eventName droppedAttributesCount "
    "event properties batch uuid timestamp sent_at offset distinct_id token $set $session_id "
    "$window_id $snapshot_data type data cv source texts adds"
)
NAMES = st.sampled_from(WORDS.split())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["$snapshot", "2024-10", "NaN", "SEVERITY_NUMBER_WARN", "\x1f\x8b", "s1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=25,
)


@st.composite
def shaped(draw: st.DrawFn) -> bytes:
    """
    Draw JSON of the right outline, with anything in it.
    """
    value = draw(VALUES)
    outlines = [
        value,
        otlp_json(value if isinstance(value, dict) else {"body": value}),
        otlp_json({"attributes": [{"key": "a", "value": value}], "body": value}),
        event(properties={"a": value}, timestamp=value, distinct_id=value, uuid=value),
        [snapshot(value), snapshot([value])],
        snapshot([{"type": 2, "timestamp": 1, "cv": "2024-10", "data": value}]),
        snapshot([{"type": 3, "timestamp": value, "cv": value, "data": {"adds": value}}]),
        {"batch": value, "sent_at": value},
    ]
    text: bytes = msgspec.json.encode(draw(st.sampled_from(outlines)))
    return text


@DECODERS
@given(body=shaped())
@fuzz
def test_any_json(decode: Callable[[bytes], Batch], body: bytes) -> None:
    """Any JSON with the words of the formats is refused, or what comes of it can be stored."""
    check(decode, body)


@given(st.lists(st.binary(max_size=2000), max_size=4), st.integers(1, 9), st.integers(0, 8000))
@fuzz
def test_gzip_of_anything(parts: list[bytes], level: int, limit: int) -> None:
    """What gzip made of any bytes is those bytes, if they are within the limit."""
    whole = b"".join(parts)
    body = b"".join(gzip.compress(part, level) for part in parts) or gzip.compress(b"")
    try:
        actual = gunzip(body, limit)
    except Refusal:
        assert len(whole) > limit
    else:
        assert whole == actual


@given(st.binary(max_size=300))
@fuzz
def test_unwrapping_anything(body: bytes) -> None:
    """Any bytes are refused, or become no more than the limit."""
    try:
        assert len(unwrap(body, 1000)) <= 1000
    except Refusal:
        pass


HUGE: list[Any] = [
    pytest.param(b"[" * 2_000_000, id="open-arrays"),
    pytest.param(b'{"a":' * 1_000_000, id="open-objects"),
    pytest.param(b"{}," * 600_000, id="objects"),
    pytest.param(b"[%b{}]" % (b"{}," * 1_900_000), id="array-of-objects"),
    pytest.param(b'{"batch":[%b0]}' % (b"0," * 1_900_000), id="batch-of-numbers"),
    pytest.param(b'[%b""]' % (rb'"\ud800",' * 800_000), id="halves-of-surrogate-pairs"),
    pytest.param(
        b'{"event":"x","properties":{"a":"%b"}}' % (rb"\ud800" * 3_300_000), id="halves-within"
    ),
    pytest.param(b"\\" * 2_000_000, id="backslashes"),
    pytest.param(b'"' + rb"\ud800" * 1_000_000, id="open-text"),
    pytest.param(b"1" * 5_000_000, id="digits"),
    pytest.param(b'{"event":' + b"1" * 1_000_000 + b"}", id="digits-within"),
    pytest.param(b"\n" * 2_000_000, id="lines"),
    pytest.param(b"{}\n" * 690_000, id="lines-of-empty-requests"),
    pytest.param(b"\x0a\x00" * 1_000_000, id="empty-resources"),
    pytest.param(b"\x0a\x80\x80\x7c" + b"\x12\x00" * 1_015_808, id="empty-scopes"),
    pytest.param(b"data=" + b"%41" * 600_000, id="form"),
    pytest.param(gzip.compress(b"") * 100_000, id="empty-gzip"),
    pytest.param(gzip.compress(gzip.compress(b"[" * 10_000_000)), id="gzip-of-gzip"),
]


@pytest.mark.parametrize("decode", [logs, recordings])
@pytest.mark.parametrize("body", HUGE)
def test_huge(decode: Callable[[bytes], Batch], body: bytes) -> None:
    """Large bodies that are made to cost much are over soon."""
    check(decode, body)
    check(decode, gzip.compress(body, 1))
