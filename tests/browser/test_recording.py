"""
With a PostHog to talk to, an example's page and its log lines go there under one session ID.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.browser.visit import Visit
from tests.examples.running import Demo
from tests.otel.receiver import Record, read

TOKEN: Final = "phc_of_the_test"

UPLOAD_S: Final = 20
"""How long to wait for an upload: posthog-js gathers for up to 5 seconds."""


class PostHog(ThreadingHTTPServer):
    """
    Answers a posthog-js that records, and a backend that logs, and keeps what they send.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PostHogRequest)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.records: list[Record] = []
        self.headers: set[str] = set()

    def wait_for(self, event: str) -> dict[str, Any]:
        """
        Return the properties of the first event of that name.
        """
        deadline = time.monotonic() + UPLOAD_S
        while time.monotonic() < deadline:
            for name, properties in list(self.received):
                if name == event:
                    return properties
            time.sleep(0.05)
        msg = f"no {event} within {UPLOAD_S} s, but {[name for name, _ in self.received]}"
        raise TimeoutError(msg)


class PostHogRequest(BaseHTTPRequestHandler):
    server: PostHog

    def do_OPTIONS(self) -> None:
        self._answer({})

    def do_GET(self) -> None:
        # GET /array/<token>/config
        config = {
            "supportedCompression": ["gzip-js"],
            "sessionRecording": {"endpoint": "/s/"},
            "hasFeatureFlags": False,
            "surveys": False,
        }
        self._answer(config)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        if urlsplit(self.path).path in ("/e/", "/s/"):
            sent = json.loads(body)
            for event in sent if isinstance(sent, list) else sent.get("batch", [sent]):
                self.server.received.append((event["event"], event["properties"]))
        if self.path == "/i/v1/logs" and self.headers["Authorization"] == f"Bearer {TOKEN}":
            self.server.records += read(ExportLogsServiceRequest.FromString(body))
        self._answer({"status": 1, "flags": {}})

    def _answer(self, value: object) -> None:
        self.server.headers.update(name.lower() for name in self.headers)
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "*")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any, **keywords: Any) -> None:
        pass


@pytest.fixture
def posthog() -> Iterator[PostHog]:
    with PostHog() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("app", ["fastapi", "flask"])
def test_recording_has_the_session_of_the_lines(
    app: str, posthog: PostHog, visitor: Callable[[Demo], Visit]
) -> None:
    """The recording, the events and the logs have the session and user ID of the lines."""
    settings = {"POSTHOG_HOST": posthog.url, "POSTHOG_PROJECT_TOKEN": TOKEN}
    with Demo(app, settings) as demo:
        visit = visitor(demo)
        visit.expected_hosts = {urlsplit(posthog.url).netloc}
        visit.sign_in()
        visit.send_message("hello")
        snapshot = posthog.wait_for("$snapshot")
        identified = posthog.wait_for("$identify")
        (line,) = (line for line in demo.lines() if line["event"] == "message received")

    assert (line["sessionId"], TOKEN) == (snapshot["$session_id"], snapshot["token"])
    assert (line["sessionId"], line["posthogDistinctId"]) == (
        identified["$session_id"],
        identified["distinct_id"],
    )
    (record,) = (record for record in posthog.records if record.body == "message received")
    assert (line["sessionId"], line["posthogDistinctId"]) == tuple(record.ids.values())
    assert snapshot["$snapshot_data"]
    assert "x-posthog-session-id" not in posthog.headers
