"""Events and access lines on real servers."""

from __future__ import annotations

import asyncio
import http.client
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import HEADER
from tests.servers.running import KINDS, Kind, Server, running
from tests.share.receiver import Event, Receiver

for module in ("posthog.integrations.asgi", "gunicorn", "uvicorn"):
    pytest.importorskip(module)

LARGE = b"{" + b" " * 200_000
"""A body in front of which uvicorn stops reading, and goes on in the request's context."""

BY_NAME = {kind.name: kind for kind in KINDS}


@contextmanager
def serving(kind: Kind, app: str, folder: Path) -> Iterator[Server]:
    """Run one of the apps of this folder."""
    command = tuple(part.replace("{app}", f"tests.share.apps:{app}") for part in kind.command)
    with running(replace(kind, command=command), folder) as server:
        yield server


def call(
    connection: http.client.HTTPConnection, name: str, number: int, body: bytes = b""
) -> tuple[int, bytes]:
    """Send a request of its own session, unless it has number 0."""
    headers = {HEADER: f"session-{number}"} if number else {}
    connection.request("POST" if body else "GET", f"/{name}-{number}?secret=1", body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def written(server: Server, *numbers: int) -> dict[int, list[dict[str, Any]]]:
    """The lines of requests, without the one value that no test can know."""
    asyncio.run(server.until(lambda: all(server.lines()[number] for number in numbers)))
    lines = {number: server.lines()[number] for number in numbers}
    for line in (line for each in lines.values() for line in each):
        duration_ms = line.pop("duration_ms")

        assert 0 <= duration_ms < 20_000
    return lines


def events(receiver: Receiver, path: str) -> list[Event]:
    """The events of one request."""
    return [
        event
        for event, raw in zip(receiver.events, receiver.raw_events, strict=True)
        if raw["properties"].get("path") == path
    ]


@pytest.fixture
def sink(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A stand-in for PostHog that the servers know."""
    monkeypatch.setenv("REPLAYLINK_TEST_POSTHOG", receiver.url)
    return receiver


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("app", "leaks"),
    [
        pytest.param("theirs", True, id="posthogs-own"),
        pytest.param("both", False, id="ours-around-posthogs"),
        pytest.param("asgi", False, id="ours"),
    ],
)
def test_the_request_after_a_large_body(
    sink: Receiver, tmp_path: Path, parser: str, app: str, leaks: bool
) -> None:
    """PostHog's middleware alone shows the session of the request before; ours never does."""
    with serving(BY_NAME[f"uvicorn-{parser}-asyncio"], app, tmp_path) as server:
        connection = http_connection(server)
        responses = [call(connection, "large", 7, LARGE), call(connection, "next", 0)]
        connection.close()
    after = events(sink, "/next-0")

    assert [200, 200] == [status for status, _ in responses]
    assert leaks is any(event.session_id == "session-7" for event in after)
    if not leaks:
        assert [
            Event("around"),
            Event("view", "session-7"),
            Event("late", "session-7", "user7"),
        ] == events(sink, "/large-7")
        assert [Event("around"), Event("view"), Event("late", None, "user0")] == after


def http_connection(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)


LOADED = ["uvicorn-h11-asyncio", "uvicorn-httptools-uvloop", "waitress"]


@pytest.mark.parametrize("name", LOADED)
def test_many_at_once(sink: Receiver, tmp_path: Path, name: str) -> None:
    """Under load, each event and each access line has the IDs of its own request."""
    kind = BY_NAME[name]
    numbers = range(1, 97)

    def work(mine: list[int]) -> None:
        connection = http_connection(server)
        for number in mine:
            call(connection, "load", number, random.choice([b"", b"{}", LARGE]))
        connection.close()

    with serving(kind, kind.protocol, tmp_path) as server:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, [list(numbers[start::16]) for start in range(16)]))
        lines = written(server, *numbers)
    seen = {number: events(sink, f"/load-{number}") for number in numbers}

    assert {
        number: [
            Event("around"),
            Event("view", f"session-{number}"),
            Event("late", f"session-{number}", f"user{number}"),
        ]
        for number in numbers
    } == seen
    assert {number: [(f"session-{number}", f"user{number}")] for number in numbers} == {
        number: [(line["sessionId"], line["posthogDistinctId"]) for line in lines[number]]
        for number in numbers
    }


@pytest.mark.parametrize(
    "name",
    [
        *("uvicorn-h11-asyncio", "uvicorn-httptools-uvloop", "hypercorn", "granian-asgi"),
        *("gunicorn-uvicorn", "gunicorn-asgi", "granian-wsgi", "gunicorn-sync"),
        *("gunicorn-gthread", "waitress", "werkzeug-threaded"),
    ],
)
def test_access_lines(sink: Receiver, tmp_path: Path, name: str) -> None:
    """Each server's requests have one linked line each, also after an error, and files."""
    kind = BY_NAME[name]
    names = ["good-1", "fail-2", "good-0", *["file-3"] * (kind.protocol == "wsgi")]
    with serving(kind, kind.protocol, tmp_path) as server:
        connection = http_connection(server)
        responses = {}
        for each in names:
            responses[each] = call(connection, each[:4], int(each[-1]))
            connection.close()
        lines = written(server, *range(len(names)))
    good = {
        "event": "request",
        "level": "info",
        "method": "GET",
        "path": "/good-1",
        "status": 200,
        "response_bytes": 15,
        "sessionId": "session-1",
        "posthogDistinctId": "user1",
    }
    bad = {
        "level": "error",
        "path": "/fail-2",
        "status": 500,
        "response_bytes": 0,
        "error": "LookupError",
        "sessionId": "session-2",
        "posthogDistinctId": "user2",
    }
    anonymous = {key: value for key, value in good.items() if key != "sessionId"}

    assert [good] == lines[1]
    assert 500 == responses["fail-2"][0]
    assert [{**good, **bad}] == lines[2]
    assert [{**anonymous, "path": "/good-0", "posthogDistinctId": "user0"}] == lines[0]
    assert [
        Event("around"),
        Event("view", "session-2"),
        Event("$exception", "session-2", "user2"),
    ] == events(sink, "/fail-2")
    if "file-3" in responses:
        [line] = lines[3]

        assert Path(__file__).with_name("apps.py").read_bytes() == responses["file-3"][1]
        assert ("/file-3", 200) == (line["path"], line["status"])
        assert ("session-3", "user3") == (line["sessionId"], line["posthogDistinctId"])
