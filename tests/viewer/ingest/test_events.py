from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from replaylink.viewer import limits
from replaylink.viewer.ingest.errors import BadPayload, BadToken, TooLarge
from replaylink.viewer.ingest.events import decode_events
from replaylink.viewer.records import Event
from tests.viewer.ingest.payloads import (
    META,
    NOW_US,
    SESSION,
    UUID,
    WINDOW,
    JSONObject,
    as_json,
    event,
    snapshot,
)


def decoded(body: object, **options: Any) -> list[Event]:
    text = body if isinstance(body, bytes) else as_json(body)
    return decode_events(text, NOW_US, **options).batch.events


def one(**more: Any) -> Event:
    (found,) = decoded(event(**more))
    return found


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"api_key": "phc_test", "batch": [event()], "sent_at": None}, id="batch"),
        pytest.param([event()], id="array"),
        pytest.param(event(), id="bare"),
        pytest.param({**event(), "distinct_id": "user-7", "api_key": "phc_test"}, id="beside"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_forms(body: object, pack: Any) -> None:
    """An event is the same in each form that SDKs use."""
    expected = Event(
        uuid=UUID,
        name="$pageview",
        time_us=NOW_US,
        distinct_id="user-7",
        session_id=SESSION,
        window_id=WINDOW,
        properties=event()["properties"],
    )

    assert [expected] == decoded(pack(as_json(body)))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param({"distinct_id": "a"}, "a", id="beside-the-properties"),
        pytest.param({"$distinct_id": "a"}, "a", id="with-a-dollar"),
        pytest.param({}, "user-7", id="among-the-properties"),
        pytest.param({"distinct_id": 42}, "42", id="integer"),
        pytest.param({"distinct_id": True}, "", id="bool"),
        pytest.param({"distinct_id": " a\x00\n "}, "a", id="controls"),
        pytest.param({"distinct_id": "x" * 300}, "x" * 200, id="long"),
        pytest.param({"properties": {"distinct_id": None}}, "", id="none"),
        pytest.param({"distinct_id": {"a": 1}}, "", id="object"),
    ],
)
def test_distinct_ids(more: JSONObject, expected: str) -> None:
    """Whose an event is may stand in several places, and is cleaned."""
    assert expected == one(**more).distinct_id


@pytest.mark.parametrize("session_id", [None, "", 7, "a b", "x" * 129, "<script>"], ids=str)
def test_bad_session_ids(session_id: object) -> None:
    """An event of no valid session is kept as one of none."""
    actual = one(properties={"$session_id": session_id, "$window_id": session_id})

    assert ("", "") == (actual.session_id, actual.window_id)


def test_person_properties() -> None:
    """What an event tells of its person is kept among its properties, unless it is there."""
    actual = one(**{"$set": {"a": 1}, "$set_once": {"b": 2}, "properties": {"$set_once": {"c": 3}}})

    assert {"a": 1} == actual.properties["$set"]
    assert {"c": 3} == actual.properties["$set_once"]


SECOND = 1_000_000


@pytest.mark.parametrize(
    ("more", "envelope", "expected"),
    [
        pytest.param({}, {}, NOW_US, id="none"),
        pytest.param({"timestamp": "2027-01-15T07:59:50Z"}, {}, NOW_US - 10 * SECOND, id="utc"),
        pytest.param({"timestamp": "2027-01-15T07:59:50"}, {}, NOW_US - 10 * SECOND, id="naive"),
        pytest.param(
            {"timestamp": "2027-01-15T08:59:50.25+01:00"},
            {},
            NOW_US - 9_750_000,
            id="offset-of-the-zone",
        ),
        pytest.param({"timestamp": 1_800_000_000_000 - 1}, {}, NOW_US - 1000, id="milliseconds"),
        pytest.param({"timestamp": 1_799_999_999.5}, {}, NOW_US - 500_000, id="seconds"),
        pytest.param(
            {"timestamp": "2020-01-01T00:00:00Z"},
            {"sent_at": "2020-01-01T00:00:03Z"},
            NOW_US - 3 * SECOND,
            id="clock-of-the-batch",
        ),
        pytest.param(
            {"timestamp": "2020-01-01T00:00:00Z", "sent_at": "2020-01-01T00:00:02Z"},
            {"sent_at": "2020-01-01T00:00:03Z"},
            NOW_US - 2 * SECOND,
            id="clock-of-the-event",
        ),
        pytest.param(
            {
                "timestamp": "2027-01-15T07:59:50Z",
                "sent_at": "2020-01-01T00:00:02Z",
                "properties": {"$ignore_sent_at": True},
            },
            {},
            NOW_US - 10 * SECOND,
            id="clock-to-be-ignored",
        ),
        pytest.param({"offset": 2500}, {}, NOW_US - 2_500_000, id="offset"),
        pytest.param({"offset": -1}, {}, NOW_US, id="negative-offset"),
        pytest.param({"offset": "x"}, {}, NOW_US, id="offset-no-number"),
        pytest.param({"timestamp": "2037-01-15T08:00:00Z"}, {}, NOW_US, id="future"),
        pytest.param({"timestamp": "1960-01-15T08:00:00Z"}, {}, NOW_US, id="before-the-epoch"),
        pytest.param({"timestamp": "yesterday"}, {}, NOW_US, id="no-time"),
        pytest.param({"timestamp": 10**400}, {}, NOW_US, id="huge"),
        pytest.param({"timestamp": ["x"]}, {}, NOW_US, id="array"),
        pytest.param({"timestamp": True}, {}, NOW_US, id="bool"),
        pytest.param({"timestamp": "9999-12-31T23:59:59-23:59"}, {}, NOW_US, id="last-of-all"),
    ],
)
def test_times(more: JSONObject, envelope: JSONObject, expected: int) -> None:
    """An event's time is taken off the sender's clock, if the sender says what it showed."""
    (actual,) = decoded({"batch": [event(**more)], **envelope})

    assert expected == actual.time_us


def test_clock_in_the_address() -> None:
    """posthog-js may tell in the address when it sent."""
    body = event(timestamp="2020-01-01T00:00:00Z")
    (actual,) = decoded(body, sent_at=1_577_836_801_000)

    assert NOW_US - SECOND == actual.time_us


@pytest.mark.parametrize("uuid", [None, "", "7", 7, UUID[:-1], UUID + "0"], ids=str)
def test_uuids_are_made_from_the_content(uuid: object) -> None:
    """Without a valid UUID, an event that is sent again gets the same one, and no other."""
    first = one(uuid=uuid, sent_at="2027-01-15T07:59:50Z", offset=5)
    again = one(offset=9000, uuid=uuid, sent_at="2027-01-15T07:59:59Z")
    other = one(uuid=uuid, properties={"x": 1})

    assert first.uuid == again.uuid
    assert first.uuid != other.uuid
    assert len(UUID) == len(first.uuid)


def test_upper_case_uuid() -> None:
    """A UUID is the same in upper case."""
    assert UUID == one(uuid=UUID.upper()).uuid


def test_recordings_among_events() -> None:
    """A piece of a recording is one wherever it is sent."""
    captured = decode_events(as_json({"batch": [event(), snapshot([META])]}), NOW_US)

    assert (1, 1) == (len(captured.batch.events), len(captured.batch.snapshots))


BAD: list[Any] = [
    pytest.param(b"1", id="number"),
    pytest.param(b"null", id="null"),
    pytest.param(b"{}", id="no-name"),
    pytest.param(as_json(event("")), id="empty-name"),
    pytest.param(as_json(event(" \x00 ")), id="invisible-name"),
    pytest.param(as_json({"event": 7}), id="name-no-text"),
    pytest.param(as_json({"event": "x", "properties": []}), id="properties-no-object"),
    pytest.param(b'{"event":"\xff"}', id="name-not-utf-8"),
    pytest.param(b'{"event":"x","properties":{"a":"\xff"}}', id="property-not-utf-8"),
    pytest.param(
        as_json(event(properties={"a": json.loads("[" * 200 + "]" * 200)})), id="too-deep"
    ),
]


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_event_among_good_ones(bad: bytes) -> None:
    """What cannot be used is left out and counted, and the others are kept."""
    good = as_json(event())
    captured = decode_events(b"[%b,%b,%b]" % (good, bad, good), NOW_US)

    assert (2, 1) == (len(captured.batch.events), captured.left_out)
    assert captured.reason


@pytest.mark.parametrize(
    "body",
    [
        *BAD,
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(as_json({"batch": {}}), id="batch-no-array"),
        pytest.param(as_json([event()])[:-1], id="cut-off"),
    ],
)
def test_nothing_usable(body: bytes) -> None:
    """A request that brings nothing is refused."""
    with pytest.raises(BadPayload):
        decoded(body)


@pytest.mark.parametrize("body", [b"[]", b'{"batch":[]}'], ids=["array", "batch"])
def test_no_events(body: bytes) -> None:
    """An empty batch is taken."""
    assert [] == decoded(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"api_key": "phx_secret", "batch": [event()]}, id="batch"),
        pytest.param({"batch": [event(token="phx_secret")]}, id="beside"),
        pytest.param([event(properties={"token": "phx_secret"})], id="property"),
    ],
)
def test_personal_api_keys(body: object) -> None:
    """A personal API key is refused wherever it stands, and not repeated."""
    with pytest.raises(BadToken) as refusal:
        decoded(body)

    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(gzip.compress(b" " * (limits.MAX_EVENTS_BYTES + 1)), id="bytes"),
        pytest.param(as_json([{"event": "x"}] * (limits.MAX_EVENTS + 1)), id="events"),
        pytest.param(
            b'{"event":"x","properties":{"a":[%b0]}}' % (b"0," * limits.MAX_JSON_VALUES),
            id="values",
        ),
        pytest.param(
            b'{"event":"x","properties":{"a":[%b[]]}}' % (b"[]," * (limits.MAX_JSON_VALUES // 2)),
            id="arrays",
        ),
    ],
)
def test_too_large(body: bytes) -> None:
    """More than the limits allow is refused before it is built."""
    with pytest.raises(TooLarge):
        decoded(body)
