"""
Log records out of OTLP: protobuf, JSON, and lines of JSON.

What becomes of severities, times and values is as in PostHog.

See Also:
    https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from replaylink.viewer import limits
from replaylink.viewer.records import SEVERITIES, JSONObject, LogRecord

from .budget import Budget
from .compression import decompress
from .errors import BadPayload, TooLarge
from .json_text import load, repair

ORIGINAL_TIME: Final = "$originalTimestamp"
"""The attribute that keeps a time which was too far off."""

DROPPED_ATTRIBUTES: Final = "otel.dropped_attributes_count"
"""The attribute that tells how many were left out, by OpenTelemetry's convention."""

# 1 to 4 are trace, 5 to 8 debug, and so on: OpenTelemetry's numbers.
_BY_NUMBER: Final = ("", *(severity for severity in SEVERITIES for _ in range(4)))

_BY_TEXT: Final = {
    **{severity: severity for severity in SEVERITIES},
    "warning": "warn",
    "err": "error",
    "critical": "fatal",
    "crit": "fatal",
    "alert": "fatal",
    "emerg": "fatal",
}
_NUMBER_OF_NAME: Final = {
    "SEVERITY_NUMBER_UNSPECIFIED": 0,
    **{
        f"SEVERITY_NUMBER_{severity.upper()}{step or ''}": 4 * index + (step or 1)
        for index, severity in enumerate(SEVERITIES)
        for step in (0, 2, 3, 4)
    },
}
_DEFAULT_SEVERITY: Final = "info"
_SEVERITY_FIELDS: Final = ("level", "severity", "log.level", "config.log_level")
_MAX_LEVEL_BODY: Final = 64 * 1024
"""Bodies longer than this are not parsed in search of a level, in characters."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8


def decode_logs(body: bytes, now_us: int) -> list[LogRecord]:
    """
    Return the log records of a request.

    Protobuf, JSON and lines of JSON (a request each) are tried in this order, as PostHog does,
    for not every exporter's Content-Type is right.

    Args:
        body: What came, perhaps compressed with gzip.
        now_us: The time of its arrival, in microseconds since the epoch.

    Raises:
        BadPayload: If it is none of these.
        TooLarge: If it is larger than `limits.MAX_LOGS_BYTES` or has more records than
            `limits.MAX_RECORDS`.
    """
    body = decompress(body, limits.MAX_LOGS_BYTES)
    # To protobuf a brace begins a group that it does not know and skips: by chance, a text
    # could pass for an empty request.
    if not body.startswith(b"{"):
        try:
            request = ExportLogsServiceRequest.FromString(body)
        except DecodeError:
            pass
        else:
            if request.resource_logs or not body:
                return _from_protobuf(request, now_us)
    return _from_json(_requests(repair(body, Budget(limits.MAX_LOGS_BYTES))), now_us)


def _check_count(count: int) -> None:
    if count > limits.MAX_RECORDS:
        msg = f"more than {limits.MAX_RECORDS} log records"
        raise TooLarge(msg)


# Protobuf


def _from_protobuf(request: ExportLogsServiceRequest, now_us: int) -> list[LogRecord]:
    # Half of the viewer's work under load: everything that runs once per record is in line.
    for total in accumulate(_counts(request)):
        _check_count(total)
    earliest, latest = now_us - limits.MAX_CLOCK_SKEW_US, now_us + limits.MAX_CLOCK_SKEW_US
    max_attributes = limits.MAX_ATTRIBUTES
    records: list[LogRecord] = []
    for resource_logs in request.resource_logs:
        resource: JSONObject = {}
        for pair in _first(resource_logs.resource.attributes):
            resource[pair.key] = _attribute(pair.value)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope.name
            for record in scope_logs.log_records:
                attributes: JSONObject = {}
                pairs: Sequence[KeyValue] = record.attributes
                dropped = record.dropped_attributes_count
                if len(pairs) > max_attributes:
                    dropped += len(pairs) - max_attributes
                    pairs = pairs[:max_attributes]
                for pair in pairs:
                    value = pair.value
                    attributes[pair.key] = value.string_value or _attribute(value)
                if dropped:
                    attributes[DROPPED_ATTRIBUTES] = dropped
                time_us = record.time_unix_nano // 1000
                if not earliest <= time_us <= latest:
                    _keep_time(attributes, time_us)
                    time_us = now_us
                body = record.body.string_value or _body(_plain(record.body))
                number = record.severity_number
                records.append(
                    LogRecord(
                        time_us,
                        _BY_NUMBER[number]
                        if 0 < number < 25
                        else _severity(record.severity_text, body),
                        body,
                        attributes,
                        resource,
                        scope,
                        record.event_name,
                        _id_text(record.trace_id, _TRACE_ID_BYTES),
                        _id_text(record.span_id, _SPAN_ID_BYTES),
                    )
                )
    return records


def _counts(request: ExportLogsServiceRequest) -> Iterator[int]:
    yield len(request.resource_logs)
    for resource_logs in request.resource_logs:
        yield len(resource_logs.scope_logs)
        for scope_logs in resource_logs.scope_logs:
            yield len(scope_logs.log_records)


def _first(pairs: Sequence[KeyValue]) -> Sequence[KeyValue]:
    return pairs if len(pairs) <= limits.MAX_ATTRIBUTES else pairs[: limits.MAX_ATTRIBUTES]


def _attribute(value: AnyValue) -> Any:
    # PostHog shows a value that is not there as an empty text.
    kind = value.WhichOneof("value")
    if kind is None or kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return value.int_value
    return _plain(value)


def _plain(value: AnyValue) -> Any:
    # Protobuf's own limit of 100 messages within each other bounds the recursion.
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "kvlist_value":
        return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    if kind == "double_value":
        return _number(value.double_value)
    return getattr(value, kind)


def _id_text(value: bytes, length: int) -> str:
    # OpenTelemetry's API calls an ID of zeros invalid: there is none.
    return value.hex() if len(value) == length and any(value) else ""


# JSON


def _requests(body: bytes) -> Iterator[JSONObject]:
    """
    Yield the requests in JSON, or in lines of JSON.
    """
    lines = body.count(b"\n")
    # The lines of one JSON text, printed prettily, are no JSON each.
    if lines:
        try:
            whole = _request(body)
        except BadPayload:
            _check_count(lines)
        else:
            yield whole
            return
    for line in body.split(b"\n"):
        if line and not line.isspace():
            yield _request(line)


def _request(text: bytes) -> JSONObject:
    request = load(text)
    if isinstance(request, dict):
        return request
    msg = "neither OTLP in protobuf nor in JSON"
    raise BadPayload(msg)


def _from_json(requests: Iterable[JSONObject], now_us: int) -> list[LogRecord]:
    records: list[LogRecord] = []
    seen = False
    for request in requests:
        seen = True
        if request and _field(request, "resourceLogs", "resource_logs") is None:
            msg = "JSON without resourceLogs"
            raise BadPayload(msg)
        for resource_logs in _objects(request, "resourceLogs", "resource_logs"):
            resource, _ = _json_attributes(_object(resource_logs.get("resource")))
            for scope_logs in _objects(resource_logs, "scopeLogs", "scope_logs"):
                scope = _text(_object(scope_logs.get("scope")), "name")
                for record in _objects(scope_logs, "logRecords", "log_records"):
                    records.append(_json_record(record, resource, scope, now_us))
                    _check_count(len(records))
    if not seen:
        msg = "neither OTLP in protobuf nor in JSON"
        raise BadPayload(msg)
    return records


def _json_record(record: JSONObject, resource: JSONObject, scope: str, now_us: int) -> LogRecord:
    attributes, dropped = _json_attributes(record)
    dropped += _integer(_field(record, "droppedAttributesCount", "dropped_attributes_count"))
    if dropped > 0:
        attributes[DROPPED_ATTRIBUTES] = dropped
    time_us = _integer(_field(record, "timeUnixNano", "time_unix_nano")) // 1000
    if abs(time_us - now_us) > limits.MAX_CLOCK_SKEW_US:
        _keep_time(attributes, time_us)
        time_us = now_us
    body = _body(_json_value(record.get("body")))
    number = _field(record, "severityNumber", "severity_number")
    if isinstance(number, str) and number in _NUMBER_OF_NAME:
        number = _NUMBER_OF_NAME[number]
    number = _integer(number)
    text = _text(record, "severityText", "severity_text")
    return LogRecord(
        time_us,
        _BY_NUMBER[number] if 0 < number < len(_BY_NUMBER) else _severity(text, body),
        body,
        attributes,
        resource,
        scope,
        _text(record, "eventName", "event_name"),
        _json_id(_text(record, "traceId", "trace_id"), _TRACE_ID_BYTES),
        _json_id(_text(record, "spanId", "span_id"), _SPAN_ID_BYTES),
    )


def _json_attributes(owner: JSONObject) -> tuple[JSONObject, int]:
    """
    Return the attributes of a record or a resource, and how many were left out.
    """
    pairs = list(_objects(owner, "attributes"))
    attributes = {}
    for pair in pairs[: limits.MAX_ATTRIBUTES]:
        value = _json_value(pair.get("value"))
        attributes[_text(pair, "key")] = "" if value is None else value
    return attributes, max(0, len(pairs) - limits.MAX_ATTRIBUTES)


def _json_value(value: Any) -> Any:
    # `load` bounds the depth.
    fields = _object(value)
    for name, inner in fields.items():
        if inner is None:
            continue
        if name in ("stringValue", "string_value", "bytesValue", "bytes_value"):
            return _text(fields, name)
        if name in ("intValue", "int_value"):
            return _integer(inner)
        if name in ("boolValue", "bool_value"):
            if isinstance(inner, bool):
                return inner
        elif name in ("doubleValue", "double_value"):
            return _double(inner)
        elif name in ("arrayValue", "array_value"):
            return [_json_value(item) for item in _objects(_object(inner), "values")]
        elif name in ("kvlistValue", "kvlist_value"):
            return {
                _text(pair, "key"): _json_value(pair.get("value"))
                for pair in _objects(_object(inner), "values")
            }
        msg = "an attribute's value of no known type"
        raise BadPayload(msg)
    return None


def _double(value: Any) -> Any:
    try:
        # What is no number in JSON is written as text: NaN, Infinity and -Infinity.
        return _number(float(value))
    except (TypeError, ValueError, OverflowError):
        msg = "a doubleValue that is no number"
        raise BadPayload(msg) from None


def _json_id(text: str, length: int) -> str:
    """
    Return an ID in hexadecimal, as OTLP has it, out of that or out of base64.
    """
    if len(text) == 2 * length and _HEX.fullmatch(text):
        return text.lower() if text.strip("0") else ""
    if len(text) > 2 * length:
        return ""
    try:
        return _id_text(base64.b64decode(text, validate=True), length)
    except (binascii.Error, ValueError):
        return ""


def _field(owner: JSONObject, *names: str) -> Any:
    for name in names:
        if (value := owner.get(name)) is not None:
            return value
    return None


def _text(owner: JSONObject, *names: str) -> str:
    value = _field(owner, *names)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    msg = f"{names[0]} is no text"
    raise BadPayload(msg)


def _integer(value: Any) -> int:
    # OTLP writes integers of 64 bits as text, for JavaScript has only 53.
    if value is None:
        return 0
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is int and -(2**63) <= value < 2**64:
        return value
    msg = "a number that is no integer of 64 bits"
    raise BadPayload(msg)


def _object(value: Any) -> JSONObject:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    msg = "no object where OTLP has one"
    raise BadPayload(msg)


def _objects(owner: JSONObject, *names: str) -> Iterator[JSONObject]:
    values = _field(owner, *names)
    if values is None:
        return iter(())
    if isinstance(values, list):
        return map(_object, values)
    msg = f"{names[0]} is no array"
    raise BadPayload(msg)


# Both


def _number(value: float) -> float | str:
    # JSON has no word for them, so that they are kept as text, as protobuf's JSON has them.
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _body(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _keep_time(attributes: JSONObject, time_us: int) -> None:
    """
    Keep a time that is too far off as an attribute; 0 says that there is none.
    """
    if not time_us:
        return
    try:
        text = (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        text = f"{time_us} us"
    attributes[ORIGINAL_TIME] = text


def _severity(text: str, body: str) -> str:
    """
    Return the severity of a record that has no number: by its text, or by a body of JSON.
    """
    if severity := _BY_TEXT.get(text.strip().lower()):
        return severity
    if not text and body.startswith("{") and len(body) <= _MAX_LEVEL_BODY:
        try:
            fields = load(repair(body.encode(), Budget(_MAX_LEVEL_BODY)))
        except BadPayload:
            return _DEFAULT_SEVERITY
        for path in _SEVERITY_FIELDS:
            level = _at(fields, path)
            if isinstance(level, str):
                return _BY_TEXT.get(level.strip().lower(), _DEFAULT_SEVERITY)
    return _DEFAULT_SEVERITY


def _at(fields: JSONObject, path: str) -> Any:
    """
    Return a field by its name, which may be dotted, or by the names of objects in objects.
    """
    if path in fields:
        return fields[path]
    outer, _, inner = path.partition(".")
    nested = fields.get(outer)
    return nested.get(inner) if isinstance(nested, dict) else None
