"""What arrives of small real apps under real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("fastapi")
pytest.importorskip("flask")

import httpx

from tests.otel.receiver import Receiver, Record

ROOT = Path(__file__).parents[2]

PYTHONPATH = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]

CLIENTS = 16

REQUESTS = 160

EVENTS = ("start", "library", "identified", "chunk", "failed")

GUNICORN = ("-m", "gunicorn", "--no-control-socket", "--access-logfile", "-", "-b", "127.0.0.1:{}")

SERVERS = {
    "uvicorn": (
        *("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{}"),
        "tests.otel.apps:asgi_app",
    ),
    "gunicorn": (*GUNICORN, "tests.otel.apps:wsgi_app"),
    "gunicorn-preload": (*GUNICORN, "--preload", "--workers", "2", "tests.otel.apps:wsgi_app"),
}


class Server:
    """
    A server in a process of its own, and how it ended.
    """

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POSTHOG_", "OTEL_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(self.port) for part in SERVERS[name])],
                cwd=folder,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *PYTHONPATH]),
                    **settings,
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        msg = f"{name} did not start: {self.errors()}"
        raise RuntimeError(msg)

    def stop(self) -> float:
        """
        End it as an orchestrator does; return how long that took.
        """
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return time.monotonic() - start

    def lines(self) -> list[dict[str, Any]]:
        return [
            json.loads(text) for text in self._out.read_text().splitlines() if text.startswith("{")
        ]

    def errors(self) -> str:
        return self._err.read_text()


@contextmanager
def running(name: str, folder: Path, receiver: Receiver) -> Iterator[Server]:
    server = Server(
        name, folder, POSTHOG_HOST=receiver.url, POSTHOG_PROJECT_TOKEN="phc_very_secret"
    )
    try:
        yield server
    finally:
        server.stop()


def send(server: Server, numbers: range, path: str = "orders") -> list[float]:
    """
    Send requests by several clients at once, each with its own session; return how long
    each took.
    """

    def one_client(mine: range) -> list[float]:
        seconds = []
        with httpx.Client(base_url=server.url, timeout=20) as client:
            for n in mine:
                start = time.perf_counter()
                response = client.get(
                    f"/{path}/{n}", headers={"X-PostHog-Session-ID": f"session-{n}"}
                )
                seconds.append(time.perf_counter() - start)
                assert response.status_code == (200 if path == "orders" else 500)
        return seconds

    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = pool.map(one_client, (numbers[start::CLIENTS] for start in range(CLIENTS)))
        return [second for part in parts for second in part]


def number_of(record: Record) -> int | None:
    """
    Return the number of the request that a record is about, if of any.
    """
    if "n" in record.attributes:
        return int(record.attributes["n"])
    found = re.search(r"/(?:orders|fail)/(\d+)", str(record.body))
    return int(found[1]) if found else None


@pytest.mark.parametrize("name", SERVERS)
def test_every_record_of_a_request(name: str, tmp_path: Path, receiver: Receiver) -> None:
    """Each record of each request arrives once, with its IDs and no other, to the last one."""
    with running(name, tmp_path, receiver) as server:
        send(server, range(REQUESTS))
        send(server, range(REQUESTS, REQUESTS + CLIENTS), "fail")
        seconds = server.stop()
    by_number: defaultdict[int | None, list[Record]] = defaultdict(list)
    for record in receiver.records:
        by_number[number_of(record)].append(record)

    assert seconds < 5
    for n in range(REQUESTS):
        both = {"sessionId": f"session-{n}", "posthogDistinctId": f"user-{n}"}
        records = by_number[n]
        events = Counter(record.body for record in records if record.body in EVENTS)
        assert dict.fromkeys(EVENTS, 1) == dict(events)
        # The sixth is the server's access line.
        assert len(EVENTS) + 1 == len(records)
        assert [both] * len(records) == [record.ids for record in records]
    for n in range(REQUESTS, REQUESTS + CLIENTS):
        both = {"sessionId": f"session-{n}", "posthogDistinctId": f"user-{n}"}
        errors = [r for r in by_number[n] if r.attributes.get("exception.type") == "RuntimeError"]
        assert all(both == record.ids for record in by_number[n])
        assert len(errors) <= 1
    tracebacks = [
        record
        for record in receiver.records
        if record.attributes.get("exception.type") == "RuntimeError"
    ]
    assert CLIENTS == len(tracebacks)
    assert {(f"session-{n}", f"user-{n}") for n in range(REQUESTS, REQUESTS + CLIENTS)} == {
        tuple(record.ids.values()) for record in tracebacks
    }
    assert all({} == record.ids for record in by_number[None] if record not in tracebacks)
    assert {"shop"} == {record.resource["service.name"] for record in receiver.records}
    assert [] == [r for r in receiver.records if r.scope.startswith(("urllib3", "opentelemetry"))]
    assert all("_" != key[0] for record in receiver.records for key in record.keys)
    assert all(path == "/i/v1/logs" for path, _ in receiver.requests)
    assert "" == server.errors() or name.startswith("gunicorn")

    lines = [line for line in server.lines() if "n" in line]
    assert all(
        (f"session-{line['n']}", f"user-{line['n']}")
        == (line["sessionId"], line["posthogDistinctId"])
        for line in lines
    )
    assert len(EVENTS) * REQUESTS == sum(
        line["event"] in EVENTS and line["n"] < REQUESTS for line in lines
    )


def test_workers_export_for_themselves(tmp_path: Path, receiver: Receiver) -> None:
    """Of an app that is loaded before the fork, each process sends its own records."""
    with running("gunicorn-preload", tmp_path, receiver) as server:
        send(server, range(64))
    instances = defaultdict(set)
    for record in receiver.records:
        if "pid" in record.attributes:
            instances[record.attributes["pid"]].add(record.resource["service.instance.id"])

    assert 3 == len(instances)
    assert 3 == len(set().union(*instances.values()))
    assert 1 == receiver.bodies().count("import")


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_requests_do_not_wait(name: str, tmp_path: Path, receiver: Receiver) -> None:
    """Requests are as fast with an endpoint that is slow, and then is gone."""
    receiver.delay_s = delay_s = 1.0
    with running(name, tmp_path, receiver) as server:
        send(server, range(16))
        slow = send(server, range(16, 80))
        receiver.stop()
        gone = send(server, range(80, 160))
        receiver.delay_s = 0
        receiver.start()
        receiver.wait_until(
            lambda: receiver.bodies().count("chunk") >= 160 and bool(receiver.records), seconds=15
        )
        seconds = server.stop()

    # A request that waited would take as long as the endpoint.
    assert max(slow + gone) < delay_s
    assert seconds < 5
    counts = Counter((number_of(record), record.body) for record in receiver.records)
    missing = [(n, e) for n in range(160) for e in EVENTS if counts[n, e] < 1]
    assert [] == missing
    assert "phc_very_secret" not in server.errors()
