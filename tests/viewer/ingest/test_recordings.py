from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import pytest

from replaylink.viewer import limits
from replaylink.viewer.ingest.errors import BadPayload, TooLarge
from replaylink.viewer.ingest.events import decode_events
from replaylink.viewer.records import Snapshot
from tests.viewer.ingest.payloads import (
    FULL,
    META,
    MUTATION,
    NOW_MS,
    NOW_US,
    SESSION,
    STYLE,
    UUID,
    WINDOW,
    JSONObject,
    as_json,
    compressed,
    packed,
    recording,
    snapshot,
)


def decoded(body: object) -> list[Snapshot]:
    text = body if isinstance(body, bytes) else as_json(body)
    return decode_events(text, NOW_US, limit=limits.MAX_RECORDING_BYTES).batch.snapshots


def one(data: object, **more: Any) -> Snapshot:
    (found,) = decoded([snapshot(data, **more)])
    return found


def test_recording() -> None:
    """What posthog-js has compressed becomes the rrweb events that it recorded."""
    (actual,) = decoded(recording([META, FULL, MUTATION, STYLE]))
    events, actual.events = json.loads(actual.events), b""

    assert [META, FULL, MUTATION, STYLE] == events
    assert (
        Snapshot(
            uuid=UUID,
            session_id=SESSION,
            window_id=WINDOW,
            distinct_id="user-7",
            first_ms=NOW_MS,
            last_ms=NOW_MS + 950,
            has_full_snapshot=True,
            events=b"",
        )
        == actual
    )


@pytest.mark.parametrize("original", [META, FULL, MUTATION, STYLE], ids=str)
def test_plain_events(original: JSONObject) -> None:
    """An event that was not compressed stays what it is, byte for byte."""
    text = json.dumps(original, indent=1)
    body = as_json([snapshot("HERE")]).replace(b'"HERE"', b"[" + text.encode() + b"]")
    (actual,) = decoded(body)

    assert b"[" + text.encode() + b"]" == actual.events
    assert (original["type"] == 2) == actual.has_full_snapshot


def test_other_fields_stay() -> None:
    """Decompression touches what was compressed, and the mark."""
    event = {**compressed(FULL), "delay": 12, "windowId": "w"}

    assert [{**FULL, "delay": 12, "windowId": "w"}] == json.loads(one([event]).events)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"source": 0, "texts": [1], "adds": packed([2])}, id="partly-compressed"),
        pytest.param({"source": 0, "texts": [1], "adds": [2]}, id="not-compressed"),
    ],
)
def test_partly_compressed(data: JSONObject) -> None:
    """A field that the mark promises compressed may be plain."""
    event = {"type": 3, "timestamp": NOW_MS, "cv": "2024-10", "data": data}
    (actual,) = json.loads(one([event]).events)

    assert {"source": 0, "texts": [1], "adds": [2]} == actual["data"]


def test_sorted_by_time() -> None:
    """Events are in the order of their times; those of the same time stay in theirs."""
    events = [
        {**META, "timestamp": NOW_MS + offset, "data": i} for i, offset in enumerate((5, 0, 5))
    ]
    actual = one(events)

    assert [1, 0, 2] == [event["data"] for event in json.loads(actual.events)]
    assert (NOW_MS, NOW_MS + 5) == (actual.first_ms, actual.last_ms)


def test_fractions_of_milliseconds() -> None:
    """A time may have a fraction: it stays in the event, and is cut off outside."""
    actual = one([{**META, "timestamp": NOW_MS + 0.75}])

    assert [NOW_MS + 0.75] == [event["timestamp"] for event in json.loads(actual.events)]
    assert NOW_MS == actual.first_ms


def test_a_single_event_in_place_of_an_array() -> None:
    """Old versions of posthog-js sent one rrweb event for each of theirs."""
    assert [META] == json.loads(one(META).events)


def test_several_sessions_in_one_request() -> None:
    """After a reset a request brings pieces of two sessions."""
    other = snapshot([FULL], uuid=UUID.replace("0", "1"), properties={"$session_id": "other"})
    actual = decoded([snapshot([META]), other])

    assert [SESSION, "other"] == [piece.session_id for piece in actual]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({}, WINDOW, id="there"),
        pytest.param({"$window_id": None}, "", id="none"),
        pytest.param({"$window_id": "a b"}, "", id="not-valid"),
    ],
)
def test_window_ids(properties: JSONObject, expected: str) -> None:
    """A recording without a valid window is kept."""
    assert expected == one([META], properties=properties).window_id


def test_halves_of_surrogate_pairs() -> None:
    """A page with half an emoji in it, compressed or not, can be replayed."""
    half = {"node": {"textContent": "\ud83d"}}
    text = json.dumps(half)
    event = {**FULL, "cv": "2024-10", "data": gzip.compress(text.encode()).decode("latin-1")}
    whole = one([event])
    plain = decoded(json.dumps([snapshot([{**FULL, "data": half}])]).encode())

    for found in (whole, *plain):
        assert "\ufffd" == json.loads(found.events)[0]["data"]["node"]["textContent"]


BAD: list[Any] = [
    pytest.param(None, id="nothing"),
    pytest.param([], id="empty"),
    pytest.param("text", id="text"),
    pytest.param([1], id="no-object"),
    pytest.param([{}], id="no-fields"),
    pytest.param([{"type": 3}], id="no-time"),
    pytest.param([{"timestamp": NOW_MS}], id="no-type"),
    pytest.param([{"type": "3", "timestamp": NOW_MS}], id="type-no-number"),
    pytest.param([{"type": 3, "timestamp": "now"}], id="time-no-number"),
    pytest.param([{"type": 3, "timestamp": -1}], id="time-before-the-epoch"),
    pytest.param([{"type": 3, "timestamp": 1e300}], id="time-beyond-dates"),
    pytest.param([{**compressed(FULL), "cv": "2099-01"}], id="unknown-compression"),
    pytest.param([{**FULL, "cv": "2024-10", "data": "plain"}], id="no-gzip"),
    pytest.param([{**FULL, "cv": "2024-10", "data": "€"}], id="no-bytes"),
    pytest.param([{**FULL, "cv": "2024-10", "data": packed({})[:-9]}], id="cut-off"),
    # Found by no control character: it would be taken for a light body.
    pytest.param(
        [{**FULL, "cv": "2024-10", "data": zlib.compress(b"{}").decode("latin-1")}], id="zlib"
    ),
    pytest.param(
        [{**FULL, "cv": "2024-10", "data": gzip.compress(b"{").decode("latin-1")}], id="no-json"
    ),
    pytest.param(
        [{**FULL, "cv": "2024-10", "data": gzip.compress(b'"\xff"').decode("latin-1")}],
        id="no-utf-8",
    ),
]


@pytest.mark.parametrize("data", BAD)
def test_bad_data(data: Any) -> None:
    """A piece that no player could play is left out; alone, it is refused."""
    captured = decode_events(as_json([snapshot(data), snapshot([META])]), NOW_US)

    assert 1 == captured.left_out
    assert [META] == json.loads(captured.batch.snapshots[0].events)
    with pytest.raises(BadPayload):
        decoded([snapshot(data)])


@pytest.mark.parametrize(
    "session_id",
    [None, "", 7, "a b", "x" * 129, "<script>", ["a"], "$posthog_cookieless"],
    ids=str,
)
def test_bad_session_ids(session_id: object) -> None:
    """A recording of no valid session is refused."""
    with pytest.raises(BadPayload):
        one([META], properties={"$session_id": session_id})


def test_bombs_count_together() -> None:
    """All that one request becomes by decompression counts against one limit."""
    bomb = gzip.compress(b'"' + b"x" * 30_000_000 + b'"').decode("latin-1")
    event = {**FULL, "cv": "2024-10", "data": bomb}

    assert decoded([snapshot([event, event])])
    with pytest.raises(TooLarge):
        decoded([snapshot([event]), snapshot([event, event])])


def test_halves_count_together() -> None:
    """Halves of surrogate pairs count against one limit, wherever in a request they are."""
    half = rb'"%b"' % (rb"\ud800" * (limits.MAX_SURROGATES // 2))
    event = {**FULL, "cv": "2024-10", "data": gzip.compress(half).decode("latin-1")}

    assert decoded([snapshot([event, event])])
    with pytest.raises(TooLarge, match="surrogates"):
        decoded([snapshot([event]), snapshot([event, event])])


def test_too_many_parts() -> None:
    """A request that is nothing but commas is refused before it is split."""
    with pytest.raises(TooLarge, match="parts"):
        decoded(gzip.compress(b"[" + b"0," * (limits.MAX_JSON_PARTS + 1) + b"0]"))


def test_any_bytes_survive() -> None:
    """Whatever the bytes of the compression are, they come through as characters."""
    noise = random.Random(7)
    text = "".join(chr(noise.randrange(32, 0xD000)) for _ in range(20_000))
    event = {**FULL, "data": {"node": text}}

    assert [event] == json.loads(one([compressed(event)]).events)
