"""
What the real SDKs send arrives, and they are content with the answers.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from posthog import Posthog

from replaylink.viewer.query import LogQuery
from tests.viewer.ingest.payloads import SESSION, encoded
from tests.viewer.ingest.serving import Viewer, wait_until


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"gzip": True}, id="gzip"),
        pytest.param({"capture_mode": "v1"}, id="newer-address"),
        pytest.param(
            {"capture_mode": "v1", "capture_compression": "gzip"}, id="newer-address-gzip"
        ),
        pytest.param(
            {"capture_mode": "v1", "capture_compression": "deflate"}, id="newer-address-deflate"
        ),
    ],
)
def test_posthog_python(viewer: Viewer, options: dict[str, Any]) -> None:
    """Events and exceptions of posthog-python arrive whole, and nothing fails on its side."""
    errors: list[Any] = []
    sdk = Posthog(
        "phc_test", host=viewer.url, on_error=lambda *args: errors.append(args), **options
    )
    at = datetime.now(timezone.utc) - timedelta(seconds=90)
    properties = {"$session_id": SESSION, "cart": {"items": [1, 2.5, "Ü"]}}
    sdk.capture("ordered", distinct_id="user-7", properties=properties, timestamp=at)
    try:
        int("no stock")
    except ValueError as error:
        sdk.capture_exception(error, distinct_id="user-7", properties={"$session_id": SESSION})
    sdk.shutdown()
    ordered, failed = viewer.store.events

    assert [] == errors
    assert ("ordered", "user-7", SESSION) == (ordered.name, ordered.distinct_id, ordered.session_id)
    assert {"items": [1, 2.5, "Ü"]} == ordered.properties["cart"]
    assert abs(ordered.time_us - at.timestamp() * 1e6) < 5e6
    assert SESSION == ordered.properties["$session_id"]
    assert "posthog-python" == failed.properties["$lib"]
    assert "$exception" == failed.name
    assert "'no stock'" in failed.properties["$exception_list"][0]["value"]
    assert failed.uuid in {error.uuid for error in viewer.store.timeline(SESSION).errors}


def test_posthog_python_tries_again(viewer: Viewer) -> None:
    """An event that the store did not take is sent again, and is there once."""
    errors: list[Any] = []
    sdk = Posthog(
        "phc_test",
        host=viewer.url,
        flush_interval=0.1,
        on_error=lambda *args: errors.append(args),
    )
    viewer.store.failure = OSError("disk full")
    sdk.capture("tried twice", distinct_id="user-8")
    assert viewer.store.waiting.wait(10)
    viewer.store.failure = None
    sdk.shutdown()

    assert [] == errors
    assert ["tried twice"] == [event.name for event in viewer.store.events]


def test_feature_flags(viewer: Viewer) -> None:
    """posthog-python asks for feature flags and gets none."""
    sdk = Posthog("phc_test", host=viewer.url)

    assert {} == sdk.get_all_flags("user-7")
    sdk.shutdown()


APP = """
import logging, sys
import structlog
from replaylink.otel import configure_logging

logs = configure_logging(service_name="shop", host=sys.argv[1], token="phc_test")
structlog.get_logger("shop.orders").warning("order failed", sessionId=sys.argv[2], items=3)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("shop").exception("it %s", "broke")
logs.shutdown()
"""


def test_logs_of_an_app(viewer: Viewer) -> None:
    """Lines that an app sends with one call of set-up are found in the store."""
    session_id = f"{SESSION}-app"
    done = subprocess.run(
        [sys.executable, "-c", APP, viewer.url, session_id], capture_output=True, timeout=60
    )

    assert (0, b"") == (done.returncode, done.stderr)
    first, second = viewer.store.log_records
    assert ("order failed", "warn", "shop") == (
        first.body,
        first.severity,
        first.resource["service.name"],
    )
    assert session_id == first.attributes["sessionId"]
    assert 3 == first.attributes["items"]
    assert "error" == second.severity
    assert "ZeroDivisionError" == second.attributes["exception.type"]
    found = viewer.store.logs(LogQuery(text="order failed")).logs
    assert [session_id] == [log.session_id for log in found]


def test_batches_of_an_exporter(viewer: Viewer) -> None:
    """Batches as large as exporters send them arrive whole and in order."""
    bodies = [f"line {number}" for number in range(512)]
    request = encoded(count=512, time_us=time.time_ns() // 1000)
    records = request.resource_logs[0].scope_logs[0].log_records
    for record, body in zip(records, bodies, strict=True):
        record.body.string_value = body
    answer = requests.post(f"{viewer.url}/v1/logs", data=request.SerializeToString(), timeout=10)

    assert (200, b"{}") == (answer.status_code, answer.content)
    wait_until(lambda: viewer.store.log_records)
    assert bodies == [record.body for record in viewer.store.log_records]
