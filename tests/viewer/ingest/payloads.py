"""
What SDKs and exporters send, made as they make it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry._logs import LogRecord as APILogRecord
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

NOW_US: Final = 1_800_000_000_000_000
"""When all payloads of the tests arrive, in microseconds since the epoch."""

NOW_MS: Final = NOW_US // 1000

SESSION: Final = "01980c4b-1234-7abc-8def-0123456789ab"
WINDOW: Final = "01980c4b-5678-7abc-8def-0123456789ab"
UUID: Final = "01980c4b-9abc-7abc-8def-0123456789ab"

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID: Final = "b7ad6b7169203331"

JSONObject = dict[str, Any]


def encoded(
    body: Any = "order placed",
    attributes: Mapping[str, Any] | None = None,
    *,
    time_us: int = NOW_US,
    severity: int = 9,
    severity_text: str = "INFO",
    count: int = 1,
    **more: Any,
) -> ExportLogsServiceRequest:
    """
    An export request, made by the encoder of OpenTelemetry's own exporters.
    """
    records = [
        ReadableLogRecord(
            APILogRecord(
                timestamp=time_us * 1000,
                severity_number=SeverityNumber(severity),
                severity_text=severity_text,
                body=body,
                attributes=attributes or {},
                **more,
            ),
            Resource({"service.name": "shop"}),
            InstrumentationScope("shop.orders"),
        )
        for _ in range(count)
    ]
    return encode_logs(records)


def otlp_json(record: JSONObject) -> JSONObject:
    """
    An export request of one record in JSON, as posthog-js and the JavaScript exporter write it.
    """
    record = {"timeUnixNano": str(NOW_US * 1000), **record}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    scope_logs = [{"scope": {"name": "shop.orders"}, "logRecords": [record]}]
    return {"resourceLogs": [{"resource": resource, "scopeLogs": scope_logs}]}


def event(name: str = "$pageview", **more: Any) -> JSONObject:
    """
    An event as posthog-js sends it.
    """
    properties = {
        "$session_id": SESSION,
        "$window_id": WINDOW,
        "distinct_id": "user-7",
        "token": "phc_test",
        **more.pop("properties", {}),
    }
    return {"uuid": UUID, "event": name, "properties": properties, **more}


def snapshot(data: object, **more: Any) -> JSONObject:
    """
    A piece of a recording as posthog-js sends it.
    """
    properties = {"$snapshot_data": data, **more.pop("properties", {})}
    return event("$snapshot", properties=properties, **more)


def packed(value: object) -> str:
    """
    JSON as posthog-js compresses it within an event: each byte of gzip is a character.
    """
    return gzip.compress(as_json(value), mtime=0).decode("latin-1")


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


META: Final[JSONObject] = {"type": 4, "timestamp": NOW_MS, "data": {"href": "http://shop/"}}
PAGE: Final[JSONObject] = {"node": {"type": 0, "childNodes": [{"textContent": "Grüße 😀"}]}}
FULL: Final[JSONObject] = {"type": 2, "timestamp": NOW_MS + 5, "data": PAGE}
MUTATION: Final[JSONObject] = {
    "type": 3,
    "timestamp": NOW_MS + 900,
    "data": {
        "source": 0,
        "texts": [{"id": 4, "value": "neu"}],
        "attributes": [],
        "removes": [],
        "adds": [{"parentId": 1, "node": {"id": 9}}],
    },
}
STYLE: Final[JSONObject] = {
    "type": 3,
    "timestamp": NOW_MS + 950,
    "data": {"source": 8, "id": 3, "adds": [{"rule": "a{}"}]},
}


def compressed(original: JSONObject) -> JSONObject:
    """
    An rrweb event as posthog-js compresses it.
    """
    data = original["data"]
    if original["type"] == 2:
        return {**original, "data": packed(data), "cv": "2024-10"}
    fields = {name: packed(value) for name, value in data.items() if isinstance(value, list)}
    return {**original, "data": {**data, **fields}, "cv": "2024-10"}


def recording(events: Sequence[JSONObject] = (META, FULL, MUTATION, STYLE)) -> bytes:
    """
    A request of posthog-js to ``/s/``, as it goes over the wire.
    """
    kinds = [compressed(one) if one["type"] in (2, 3) else one for one in events]
    return gzip.compress(as_json([snapshot(kinds)]), mtime=0)
