from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from replaylink.viewer import limits
from replaylink.viewer.ingest.errors import BadPayload, TooLarge
from replaylink.viewer.ingest.otlp import decode_logs
from replaylink.viewer.records import LogRecord
from tests.viewer.ingest.payloads import (
    NOW_US,
    SESSION,
    SPAN_ID,
    TRACE_ID,
    JSONObject,
    as_json,
    encoded,
    otlp_json,
)

ATTRIBUTES = {"sessionId": SESSION, "posthogDistinctId": "user-7", "status": 200, "ok": True}

EXPECTED = LogRecord(
    time_us=NOW_US - 5,
    severity="error",
    body="it failed",
    attributes=ATTRIBUTES,
    resource={"service.name": "shop"},
    scope="shop.orders",
    event_name="order.failed",
    trace_id=TRACE_ID,
    span_id=SPAN_ID,
)


def message() -> ExportLogsServiceRequest:
    request = encoded("it failed", ATTRIBUTES, time_us=NOW_US - 5, severity=17)
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.event_name = "order.failed"
    record.trace_id = bytes.fromhex(TRACE_ID)
    record.span_id = bytes.fromhex(SPAN_ID)
    return request


def as_otlp_json(*, snake_case: bool = False, base64_ids: bool = False) -> bytes:
    # protobuf's own JSON has IDs in base64; OTLP says hexadecimal.
    text: str = MessageToJson(message(), preserving_proto_field_name=snake_case, indent=None)
    if not base64_ids:
        for id_ in (TRACE_ID, SPAN_ID):
            text = text.replace(base64.b64encode(bytes.fromhex(id_)).decode(), id_)
    return text.encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(message().SerializeToString(), id="protobuf"),
        pytest.param(as_otlp_json(), id="json"),
        pytest.param(as_otlp_json(snake_case=True), id="json-snake-case"),
        pytest.param(as_otlp_json(base64_ids=True), id="json-base64-ids"),
        pytest.param(json.dumps(json.loads(as_otlp_json()), indent=2).encode(), id="json-pretty"),
        pytest.param(b"\n  " + as_otlp_json() + b"\n", id="json-white-space"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_formats(body: bytes, pack: Any) -> None:
    """A record is the same in each of OTLP's formats, compressed or not."""
    actual = decode_logs(pack(body), NOW_US)

    assert [EXPECTED] == actual


def test_json_lines() -> None:
    """Of lines of JSON each is a request; empty ones are passed over."""
    actual = decode_logs(b"\n\n".join([as_otlp_json(), b"", as_otlp_json()]), NOW_US)

    assert [EXPECTED, EXPECTED] == actual


@pytest.mark.parametrize("body", [pytest.param(b"", id="protobuf"), pytest.param(b"{}", id="json")])
def test_empty_requests(body: bytes) -> None:
    """A request without records is one."""
    assert [] == decode_logs(body, NOW_US)


def one(body: bytes) -> LogRecord:
    (record,) = decode_logs(body, NOW_US)
    return record


def from_protobuf(**more: Any) -> LogRecord:
    return one(encoded(**more).SerializeToString())


def from_json(**record: Any) -> LogRecord:
    return one(as_json(otlp_json(record)))


@pytest.mark.parametrize(
    ("number", "text", "expected"),
    [
        (1, "", "trace"),
        (4, "", "trace"),
        (5, "DEBUG", "debug"),
        (9, "INFO", "info"),
        (12, "", "info"),
        (13, "WARN", "warn"),
        (16, "", "warn"),
        (17, "ERROR", "error"),
        (21, "CRITICAL", "fatal"),
        (24, "", "fatal"),
        (17, "info", "error"),
        (0, "Warning", "warn"),
        (0, " critical ", "fatal"),
        (0, "crit", "fatal"),
        (0, "ALERT", "fatal"),
        (0, "emerg", "fatal"),
        (0, "err", "error"),
        (0, "verbose", "info"),
        (0, "", "info"),
    ],
)
def test_severities(number: int, text: str, expected: str) -> None:
    """The number decides; without one the text does, and what is unknown is "info"."""
    in_protobuf = from_protobuf(severity=number, severity_text=text)
    in_json = from_json(severityNumber=number, severityText=text)

    assert [expected, expected] == [in_protobuf.severity, in_json.severity]


@pytest.mark.parametrize("number", [25, 99, -1])
def test_severity_of_an_unknown_number(number: int) -> None:
    """A number that OpenTelemetry does not know counts for none."""
    request = encoded(severity_text="fatal")
    request.resource_logs[0].scope_logs[0].log_records[0].severity_number = number

    assert "fatal" == one(request.SerializeToString()).severity
    assert "fatal" == from_json(severityNumber=number, severityText="fatal").severity


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("SEVERITY_NUMBER_WARN", "warn"),
        ("SEVERITY_NUMBER_ERROR3", "error"),
        ("SEVERITY_NUMBER_UNSPECIFIED", "info"),
        ("13", "warn"),
        (13, "warn"),
        (None, "info"),
    ],
)
def test_severity_numbers_in_json(number: object, expected: str) -> None:
    """JSON may have the number, its text, or its name."""
    assert expected == from_json(severityNumber=number).severity


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"level": "warning"}, "warn", id="level"),
        pytest.param({"severity": "ERROR"}, "error", id="severity"),
        pytest.param({"log.level": "fatal"}, "fatal", id="dotted"),
        pytest.param({"log": {"level": "debug"}}, "debug", id="nested"),
        pytest.param({"config": {"log_level": "trace"}}, "trace", id="config"),
        pytest.param({"level": "what"}, "info", id="unknown"),
        pytest.param({"level": 50}, "info", id="no-text"),
        pytest.param({"level": "error", "text": "\ud83d"}, "error", id="half-of-an-emoji"),
        pytest.param({"log": "error"}, "info", id="no-object"),
        pytest.param({"event": "x"}, "info", id="none"),
    ],
)
def test_severity_of_a_json_body(body: JSONObject, expected: str) -> None:
    """With neither number nor text, the level in a body of JSON counts."""
    text = json.dumps(body)

    assert expected == from_protobuf(body=text, severity=0, severity_text="").severity
    assert "error" == from_protobuf(body=text, severity=17, severity_text="").severity
    assert "info" == from_protobuf(body=text + "}", severity=0, severity_text="").severity


HOUR_US = 3600 * 1_000_000


@pytest.mark.parametrize(
    ("time_us", "kept", "original"),
    [
        pytest.param(NOW_US - 23 * HOUR_US, True, None, id="this-day"),
        pytest.param(NOW_US + 23 * HOUR_US, True, None, id="ahead"),
        pytest.param(0, False, None, id="none"),
        pytest.param(NOW_US - 25 * HOUR_US, False, "2027-01-14T07:00:00Z", id="too-old"),
        pytest.param(NOW_US + 25 * HOUR_US, False, "2027-01-16T09:00:00Z", id="too-new"),
        pytest.param(1, False, "1970-01-01T00:00:00.000001Z", id="very-old"),
        pytest.param(2**64 // 1000 - 1, False, "2554-07-21T23:34:33.709550Z", id="largest"),
    ],
)
def test_times(time_us: int, kept: bool, original: str | None) -> None:
    """A time more than a day off is replaced by that of the arrival, and told as an attribute."""
    in_protobuf = from_protobuf(time_us=time_us)
    in_json = from_json(timeUnixNano=str(time_us * 1000), severityNumber=9, severityText="INFO")

    for record in (in_protobuf, in_json):
        assert (time_us if kept else NOW_US) == record.time_us
        assert original == record.attributes.get("$originalTimestamp")


def test_half_of_an_emoji_in_json() -> None:
    """Half an emoji, which JavaScript makes where it cuts one in two, does not refuse a line."""
    body = json.dumps(otlp_json({"body": {"stringValue": "a\ud83d"}})).encode()
    (actual,) = decode_logs(body, NOW_US)

    assert "a\ufffd" == actual.body


def test_time_as_a_number_in_json() -> None:
    """JSON may have the time as a number."""
    assert NOW_US - 1 == from_json(timeUnixNano=(NOW_US - 1) * 1000).time_us


VALUES: list[Any] = [
    pytest.param("text", {"stringValue": "text"}, "text", id="text"),
    pytest.param("", {"stringValue": ""}, "", id="empty"),
    pytest.param(42, {"intValue": "42"}, 42, id="integer"),
    pytest.param(-(2**63), {"intValue": str(-(2**63))}, -(2**63), id="smallest-integer"),
    pytest.param(0, {"intValue": 0}, 0, id="zero"),
    pytest.param(1.5, {"doubleValue": 1.5}, 1.5, id="double"),
    pytest.param(float("nan"), {"doubleValue": "NaN"}, "NaN", id="nan"),
    pytest.param(float("-inf"), {"doubleValue": "-Infinity"}, "-Infinity", id="infinite"),
    pytest.param(False, {"boolValue": False}, False, id="false"),
    pytest.param(b"\x00\xff", {"bytesValue": "AP8="}, "AP8=", id="bytes"),
    pytest.param(
        ["a", 1, None],
        {"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}, {}]}},
        ["a", 1, None],
        id="array",
    ),
    pytest.param([], {"arrayValue": {}}, [], id="empty-array"),
    pytest.param(
        {"a": {"b": [1.5]}},
        {
            "kvlistValue": {
                "values": [
                    {
                        "key": "a",
                        "value": {
                            "kvlistValue": {
                                "values": [
                                    {
                                        "key": "b",
                                        "value": {"arrayValue": {"values": [{"doubleValue": 1.5}]}},
                                    }
                                ]
                            }
                        },
                    }
                ]
            }
        },
        {"a": {"b": [1.5]}},
        id="nested",
    ),
    pytest.param(None, {}, "", id="none"),
]


@pytest.mark.parametrize(("value", "in_json", "expected"), VALUES)
def test_values(value: Any, in_json: JSONObject, expected: Any) -> None:
    """Each type of value becomes what JSON can hold; none at all is an empty text."""
    pair = {"key": "key", "value": in_json}

    assert {"key": expected} == from_protobuf(attributes={"key": value}).attributes
    assert {"key": expected} == from_json(attributes=[pair]).attributes


@pytest.mark.parametrize(("value", "in_json", "expected"), VALUES)
def test_bodies(value: Any, in_json: JSONObject, expected: Any) -> None:
    """A body that is no text becomes JSON; none is an empty text."""
    text = expected if isinstance(expected, str) else json.dumps(expected, separators=(",", ":"))

    assert text == from_protobuf(body=value).body
    assert text == from_json(body=in_json).body


@pytest.mark.parametrize(
    ("trace_id", "expected"),
    [
        pytest.param(TRACE_ID, TRACE_ID, id="hex"),
        pytest.param(TRACE_ID.upper(), TRACE_ID, id="upper-case"),
        pytest.param("0" * 32, "", id="zeros"),
        pytest.param("", "", id="none"),
        pytest.param("A" * 22 + "==", "", id="base64-zeros"),
        pytest.param(TRACE_ID[:-2], "", id="too-short"),
        pytest.param(TRACE_ID * 1000, "", id="too-long"),
        pytest.param("ü" * 32, "", id="other-letters"),
    ],
)
def test_ids_in_json(trace_id: str, expected: str) -> None:
    """A trace ID is hexadecimal and of the right length, or there is none."""
    assert expected == from_json(traceId=trace_id).trace_id


def test_ids_of_zeros_in_protobuf() -> None:
    """A trace ID of zeros is none."""
    request = message()
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.trace_id, record.span_id = bytes(16), b"short"
    actual = one(request.SerializeToString())

    assert ("", "") == (actual.trace_id, actual.span_id)


def test_too_many_attributes() -> None:
    """The first attributes are kept, and the others counted with those that were dropped before."""
    attributes = {f"key-{index}": "x" for index in range(limits.MAX_ATTRIBUTES + 10)}
    request = encoded(attributes=attributes)
    request.resource_logs[0].scope_logs[0].log_records[0].dropped_attributes_count = 3
    pairs = [{"key": key, "value": {"stringValue": "x"}} for key in attributes]
    kept = dict(list(attributes.items())[: limits.MAX_ATTRIBUTES])
    expected = {**kept, "otel.dropped_attributes_count": 13}

    assert expected == one(request.SerializeToString()).attributes
    assert expected == from_json(attributes=pairs, droppedAttributesCount=3).attributes


def test_records_of_a_process_share_its_resource() -> None:
    """The resource is decoded once, for all records that stand under it."""
    first, second = decode_logs(encoded(count=2).SerializeToString(), NOW_US)

    assert first.resource is second.resource


# To protobuf: a group with a field of 33 bytes, another of 10, and a ResourceLogs of 32.
PROTOBUF_AND_JSON = b'{"!":"%b|"\n}%b\n%b' % (b"x" * 30, b" " * 9, b" " * 33)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"hello", id="text"),
        pytest.param(b"\xff\xfe", id="bytes"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"batch":[]}', id="events"),
        pytest.param(b"\n \n", id="white-space"),
        pytest.param(message().SerializeToString()[:-1], id="protobuf-cut-off"),
        pytest.param(as_otlp_json()[:-1], id="json-cut-off"),
        pytest.param(as_otlp_json() + b"\n{", id="second-line-cut-off"),
        pytest.param(as_json({"resourceLogs": {}}), id="no-array"),
        pytest.param(as_json({"resourceLogs": [1]}), id="no-object"),
        pytest.param(as_json(otlp_json({"body": "text"})), id="body-no-value"),
        pytest.param(as_json(otlp_json({"body": {"stringValue": 1}})), id="text-no-text"),
        pytest.param(as_json(otlp_json({"body": {"intValue": "1e3"}})), id="integer-no-integer"),
        pytest.param(as_json(otlp_json({"body": {"intValue": 2**64}})), id="integer-too-large"),
        pytest.param(as_json(otlp_json({"body": {"boolValue": "yes"}})), id="bool-no-bool"),
        pytest.param(as_json(otlp_json({"body": {"doubleValue": []}})), id="double-no-number"),
        pytest.param(as_json(otlp_json({"body": {"foreign": 1}})), id="unknown-type"),
        pytest.param(as_json(otlp_json({"severityNumber": []})), id="severity-no-number"),
        pytest.param(as_json(otlp_json({"timeUnixNano": "x"})), id="time-no-number"),
        # Group tags that match: to protobuf, unknown fields and nothing else.
        pytest.param(b"{|", id="empty-to-protobuf"),
        pytest.param(b"[\\", id="empty-to-protobuf-too"),
        pytest.param(PROTOBUF_AND_JSON, id="protobuf-as-well-as-json"),
    ],
)
def test_bad_payloads(body: bytes) -> None:
    """What is no OTLP, in whole or in part, is refused as a whole."""
    with pytest.raises(BadPayload):
        decode_logs(body, NOW_US)


def nested(depth: int) -> bytes:
    """A request whose body is an array in an array, as deep as no encoder would write it."""

    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 128 else bytes([size % 128 | 128, size // 128])
        return bytes([number << 3 | 2]) + length + content

    value = field(1, b"x")
    for _ in range(depth):
        value = field(5, field(1, value))
    # body, log_records, scope_logs, resource_logs
    return field(1, field(2, field(2, field(5, value))))


def test_deep_values() -> None:
    """Values within values are taken up to the depth that protobuf allows."""
    assert "[" * 40 + '"x"' + "]" * 40 == one(nested(40)).body
    with pytest.raises(BadPayload):
        decode_logs(nested(60), NOW_US)


def empty_records(count: int) -> bytes:
    request = ExportLogsServiceRequest()
    scope_logs = request.resource_logs.add().scope_logs.add()
    for _ in range(count):
        scope_logs.log_records.add()
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b" " * (limits.MAX_LOGS_BYTES + 1), id="plain"),
        pytest.param(gzip.compress(b" " * (limits.MAX_LOGS_BYTES + 1)), id="gzip"),
        pytest.param(empty_records(limits.MAX_RECORDS + 1), id="records-in-protobuf"),
        pytest.param(
            as_json({"resourceLogs": [{"scopeLogs": [{"logRecords": [{}] * 50_001}]}]}),
            id="records-in-json",
        ),
    ],
)
def test_too_large(body: bytes) -> None:
    """More bytes or more records than the limits allow are refused."""
    with pytest.raises(TooLarge):
        decode_logs(body, NOW_US)
