"""
What the viewer has acknowledged outlives its sudden death.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.proto")

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from replaylink.viewer.query import Filter, LogQuery
from replaylink.viewer.store import Store
from tests.viewer.running import Viewer
from tests.viewer.store.making import NOW_US, all_logs

ROUNDS = 4
LINES = 40
EVENTS = 3
PIECES = 2

MAX_REQUESTS = 250
"""Of one client in one round: a timeline shows 1,000 events."""


class Client:
    """
    Sends one kind of payload, again and again, and keeps in mind what became of each.

    Args:
        kind: ``logs``, ``events`` or ``snapshots``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.acknowledged: list[str] = []
        self.unanswered: list[str] = []
        self.refused: list[str] = []
        self.sessions: list[str] = []
        self._bodies: dict[str, bytes] = {}

    def run(self, url: str) -> None:
        """
        Send until the viewer is gone. What it did not answer is sent again in the next round,
        as the SDKs do; log lines have no ID by which they would be known, and are not.
        """
        self.sessions.append(str(uuid.uuid4()))
        again = [] if self.kind == "logs" else self.unanswered
        if again:
            self.unanswered = []
        with httpx.Client(base_url=url, timeout=20) as client:
            try:
                for name in again:
                    self._send(client, name)
                for _ in range(MAX_REQUESTS):
                    name = uuid.uuid4().hex
                    self._bodies[name] = getattr(self, f"_{self.kind}")(name)
                    self._send(client, name)
            except httpx.TransportError:
                pass
        self.unanswered += [each for each in again if each not in self.acknowledged]

    def _send(self, client: httpx.Client, name: str) -> None:
        path = {"logs": "/v1/logs", "events": "/batch/", "snapshots": "/s/"}[self.kind]
        try:
            response = client.post(path, content=self._bodies[name])
        except httpx.TransportError:
            self.unanswered.append(name)
            raise
        (self.acknowledged if response.status_code == 200 else self.refused).append(name)

    def _logs(self, name: str) -> bytes:
        request = ExportLogsServiceRequest()
        resource_logs = request.resource_logs.add()
        records = resource_logs.scope_logs.add().log_records
        for number in range(LINES):
            record = records.add(time_unix_nano=(NOW_US + number) * 1000, severity_number=9)
            record.body.string_value = f"{name} {number}"
            pair = record.attributes.add(key="sessionId")
            pair.value.string_value = self.sessions[-1]
        data: bytes = request.SerializeToString()
        return data

    def _events(self, name: str) -> bytes:
        return self._captured(
            {
                "event": "$pageview",
                "uuid": str(uuid.uuid4()),
                "properties": {"$current_url": f"http://shop/{name}/{number}"},
            }
            for number in range(EVENTS)
        )

    def _snapshots(self, name: str) -> bytes:
        at_ms = NOW_US // 1000
        return self._captured(
            {
                "event": "$snapshot",
                "uuid": str(uuid.uuid4()),
                "properties": {
                    "$snapshot_data": [
                        {"type": 4, "timestamp": at_ms, "data": {"name": f"{name}/{number}"}},
                        {"type": 2, "timestamp": at_ms + 1, "data": {"text": "x" * 2000}},
                    ]
                },
            }
            for number in range(PIECES)
        )

    def _captured(self, events: Any) -> bytes:
        batch = list(events)
        for each in batch:
            each["properties"] |= {
                "$session_id": self.sessions[-1],
                "$window_id": "w1",
                "distinct_id": "u1",
            }
        return json.dumps({"api_key": "phc_local", "batch": batch}).encode()


def stored(client: Client, store: Store) -> Counter[str]:
    """
    Return how many parts of each of a client's requests are there.
    """
    if client.kind == "logs":
        bodies = [
            log.body
            for session in client.sessions
            for log in all_logs(
                store, LogQuery(filters=(Filter("sessionId", "is", session),)), limit=1000
            )
        ]
        assert len(bodies) == len(set(bodies))
        return Counter(body.partition(" ")[0] for body in bodies)
    if client.kind == "events":
        urls = [
            event.url for session in client.sessions for event in store.timeline(session).events
        ]
        assert len(urls) == len(set(urls))
        return Counter(url.split("/")[-2] for url in urls)
    pieces = [
        json.loads(piece) for session in client.sessions for piece in store.snapshots(session, "w1")
    ]
    names = [piece[0]["data"]["name"] for piece in pieces]
    assert len(names) == len(set(names))
    return Counter(name.partition("/")[0] for name in names)


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """
    Killed at any moment, the viewer has all that it answered with 200, whole and once.
    """
    database = tmp_path / "viewer.db"
    clients = [Client(kind) for kind in ("logs", "logs", "events", "events", "snapshots")]
    for _ in range(ROUNDS):
        with Viewer("--database", str(database)) as viewer:
            threads = [threading.Thread(target=each.run, args=[viewer.url]) for each in clients]
            for thread in threads:
                thread.start()
            threads[0].join(random.uniform(0.2, 1.2))
            viewer.process.kill()
            for thread in threads:
                thread.join()
            viewer.stop()

    with Viewer("--database", str(database)) as viewer:
        total = httpx.get(f"{viewer.url}/logs/summary.json", timeout=20).json()["total"]
        assert 0 == viewer.stop(signal.SIGTERM)[0]
    store = Store(database)
    try:
        for client in clients:
            parts = {"logs": LINES, "events": EVENTS, "snapshots": PIECES}[client.kind]
            found = stored(client, store)

            assert [] == client.refused
            assert client.acknowledged
            assert dict.fromkeys(client.acknowledged, parts) == {
                name: found[name] for name in client.acknowledged
            }
            # What was not answered is there as a whole or not at all.
            assert {found[name] for name in client.unanswered} <= {0, parts}
            assert set(found) <= {*client.acknowledged, *client.unanswered}
        lines = sum(sum(stored(each, store).values()) for each in clients if each.kind == "logs")
        assert lines == total == store.linkage(LogQuery()).total
    finally:
        store.close()
