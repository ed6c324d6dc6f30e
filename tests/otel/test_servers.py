"""What arrives of small real apps under real servers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("fastapi")
pytest.importorskip("flask")

from tests.otel.receiver import Receiver, Record
from tests.otel.running import CLIENTS, GUNICORN, TOKEN, UVICORN, Request, running, send

REQUESTS = 10 * CLIENTS

EVENTS = ("start", "library", "identified", "chunk", "failed")

UVICORN_WORKER = ("--worker-class", "uvicorn_worker.UvicornWorker")

SERVERS = {
    "uvicorn": (*UVICORN, "tests.otel.apps:asgi_app"),
    # As `fastapi run` does: the app is there before uvicorn sets up its logging.
    "fastapi-run": (
        "-c",
        "import uvicorn, tests.otel.apps;"
        "uvicorn.run('tests.otel.apps:asgi_app', host='127.0.0.1', port={port})",
    ),
    "gunicorn-uvicorn": (*GUNICORN, *UVICORN_WORKER, "tests.otel.apps:asgi_app"),
    "gunicorn-uvicorn-preload": (
        *(*GUNICORN, *UVICORN_WORKER, "--preload", "--workers", "2"),
        "tests.otel.apps:asgi_app",
    ),
    "gunicorn": (*GUNICORN, "tests.otel.apps:wsgi_app"),
    "gunicorn-preload": (*GUNICORN, "--preload", "--workers", "2", "tests.otel.apps:wsgi_app"),
}


def requests(numbers: range, path: str = "orders") -> list[Request]:
    """
    Return requests, each with its own session.
    """
    status = 200 if path == "orders" else 500
    return [
        Request("GET", f"/{path}/{n}", {"X-PostHog-Session-ID": f"session-{n}"}, status=status)
        for n in numbers
    ]


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
    with running(SERVERS[name], tmp_path, receiver) as server:
        send(server, requests(range(REQUESTS)))
        send(server, requests(range(REQUESTS, REQUESTS + CLIENTS), "fail"))
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
    assert "" == server.errors() or name != "uvicorn"

    lines = [line for line in server.lines() if "n" in line]
    assert all(
        (f"session-{line['n']}", f"user-{line['n']}")
        == (line["sessionId"], line["posthogDistinctId"])
        for line in lines
    )
    assert len(EVENTS) * REQUESTS == sum(
        line["event"] in EVENTS and line["n"] < REQUESTS for line in lines
    )


def test_a_quiet_uvicorn_that_is_ended(tmp_path: Path, receiver: Receiver) -> None:
    """
    Uvicorn ends its process by a signal, also where it is too quiet to say so: the last
    lines are sent before that.
    """
    command = (*UVICORN, "--log-level", "warning", "tests.otel.apps:asgi_app")
    with running(command, tmp_path, receiver) as server:
        send(server, requests(range(8)), clients=1)
        seconds = server.stop()

    assert seconds < 5
    assert dict.fromkeys(EVENTS, 8) == Counter(
        record.body for record in receiver.records if record.body in EVENTS
    )


def test_an_end_is_held_up_once(tmp_path: Path, receiver: Receiver) -> None:
    """With an endpoint that does not answer, what ends an app and its process takes 5 seconds."""
    receiver.delay_s = 20
    with running(SERVERS["gunicorn-uvicorn"], tmp_path, receiver) as server:
        send(server, requests(range(8)), clients=1)
        seconds = server.stop()

    assert seconds < 5
    assert "log records did not reach" in server.errors()


@pytest.mark.parametrize("name", ["gunicorn-preload", "gunicorn-uvicorn-preload"])
def test_workers_export_for_themselves(name: str, tmp_path: Path, receiver: Receiver) -> None:
    """Of an app that is loaded before the fork, each process sends its own records."""
    instances: defaultdict[int, set[str]] = defaultdict(set)
    with running(SERVERS[name], tmp_path, receiver) as server:
        # Which worker takes a connection is for the system to say.
        for rounds in range(1, 30):
            send(server, requests(range(64)))
            receiver.wait_for(rounds * 64 * len(EVENTS))
            for record in receiver.records:
                if "pid" in record.attributes:
                    instances[record.attributes["pid"]].add(record.resource["service.instance.id"])
            if len(instances) == 3:
                break

    assert 3 == len(instances)
    assert 3 == len(set().union(*instances.values()))
    assert 1 == receiver.bodies().count("import")


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_requests_do_not_wait(name: str, tmp_path: Path, receiver: Receiver) -> None:
    """Requests are as fast with an endpoint that is slow, and then is gone."""
    receiver.delay_s = delay_s = 1.0
    with running(SERVERS[name], tmp_path, receiver) as server:
        send(server, requests(range(16)), clients=16)
        slow = send(server, requests(range(16, 80)), clients=16)
        receiver.stop()
        gone = send(server, requests(range(80, 160)), clients=16)
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
    assert TOKEN not in server.errors()


def test_opentelemetrys_own_exporter(tmp_path: Path, receiver: Receiver) -> None:
    """In a set-up of OpenTelemetry's parts, each record has the IDs of its request."""
    with running(
        (*UVICORN, "--no-access-log", "tests.otel.stock:app"), tmp_path, receiver
    ) as server:
        send(server, requests(range(REQUESTS)))
        receiver.wait_for(3 * REQUESTS)
    of_requests = [record for record in receiver.records if "n" in record.attributes]

    assert {(body, n): 1 for body in ("start", "library", "thread") for n in range(REQUESTS)} == (
        Counter((record.body, record.attributes["n"]) for record in of_requests)
    )
    for record in of_requests:
        n = record.attributes["n"]
        assert {"sessionId": f"session-{n}", "posthogDistinctId": f"user-{n}"} == record.ids
    assert all(not record.ids for record in receiver.records if record not in of_requests)
