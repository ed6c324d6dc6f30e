from __future__ import annotations

import base64
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from replaylink.viewer.ingest import endpoints
from replaylink.viewer.ingest.bodies import INLINE_BYTES, Bodies
from tests.viewer.ingest.payloads import (
    FULL,
    as_json,
    compressed,
    encoded,
    event,
    otlp_json,
    recording,
    snapshot,
)
from tests.viewer.ingest.serving import Viewer

EVENT = as_json(event())
LOGS = encoded("hello").SerializeToString()
BASE64 = base64.b64encode(gzip.compress(EVENT))
RECORDING = as_json([snapshot([compressed(FULL)])])


@contextmanager
def busy_decoders() -> Iterator[None]:
    """
    Keep the threads busy that decode, as large bodies would.
    """
    done = threading.Event()
    decoders = (endpoints._LOGS.decoder, endpoints._EVENTS.decoder)
    tasks = [decoder.submit(done.wait, 10) for decoder in decoders]
    try:
        yield
    finally:
        done.set()
        for task in tasks:
            task.result()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/logs", LOGS, id="protobuf"),
        pytest.param("/v1/logs", as_json(otlp_json({})), id="json"),
        pytest.param("/e/", EVENT, id="event"),
        pytest.param("/batch/", as_json([event()]), id="events"),
        pytest.param("/s/", as_json([snapshot([FULL])]), id="recording"),
    ],
)
def test_light_bodies_do_not_wait(client: httpx.Client, path: str, body: bytes) -> None:
    """What is small and not compressed does not wait for the threads that decode the rest."""
    with busy_decoders():
        answer = client.post(path, content=body)

    assert 200 == answer.status_code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/logs", gzip.compress(LOGS), id="logs"),
        pytest.param("/v1/logs", LOGS * (1 + INLINE_BYTES // len(LOGS)), id="many-logs"),
        pytest.param("/e/", gzip.compress(EVENT), id="gzip"),
        pytest.param("/e/", BASE64, id="base64"),
        pytest.param("/e/", b"data=" + quote(BASE64).encode(), id="form"),
        pytest.param("/e/", b"\ndata=" + BASE64, id="form-like-protobuf"),
        pytest.param("/s/", recording(), id="recording"),
        pytest.param("/s/", RECORDING, id="within-json"),
        pytest.param("/s/", RECORDING.replace(b"u001f", b"u001F"), id="within-json-upper-case"),
        pytest.param("/s/", RECORDING.replace(b'"cv"', rb'"\u0063v"'), id="within-json-hidden"),
        pytest.param("/s/", base64.b64encode(RECORDING), id="within-base64"),
    ],
)
def test_bodies_that_may_be_costly_wait(client: httpx.Client, path: str, body: bytes) -> None:
    """What may become large is never decoded where it would hold up all others."""
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(client.post(path, content=body).status_code)
    )
    with busy_decoders():
        thread.start()
        thread.join(0.2)

        assert [] == answers
    thread.join(10)
    assert [200] == answers


def test_a_recording_does_not_hold_up_logs(client: httpx.Client) -> None:
    """Logs have a thread of their own."""
    done = threading.Event()
    task = endpoints._EVENTS.decoder.submit(done.wait, 10)
    try:
        answer = client.post("/v1/logs", content=gzip.compress(LOGS))
    finally:
        done.set()
        task.result()

    assert 200 == answer.status_code


@contextmanager
def half_sent(viewer: Viewer, size: int) -> Iterator[socket.socket]:
    """
    Send the head and the first half of a request.
    """
    head = f"POST /e/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as connection:
        connection.sendall(head.encode() + b" " * (size // 2))
        yield connection


def test_a_body_that_stalls(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose body does not come is refused after a while, and hung up on."""
    monkeypatch.setattr(endpoints, "_bodies", Bodies(max_s=0.3))
    answer = b""
    with half_sent(viewer, 1000) as connection:
        while part := connection.recv(65536):
            answer += part

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_too_many_bytes_on_their_way(
    client: httpx.Client, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others bring as much as there is room for, a client is told to come again."""
    monkeypatch.setattr(endpoints, "_bodies", Bodies(max_bytes=100_000))
    body = as_json(event(uuid=str(uuid4()), properties={"a": "x" * 60_000}))
    with half_sent(viewer, 100_000):
        time.sleep(0.2)
        refused = client.post("/e/", content=body)
    time.sleep(0.2)
    statuses = [client.post("/e/", content=body).status_code for _ in range(5)]

    assert 503 == refused.status_code
    assert int(refused.headers["retry-after"]) > 0
    assert "close" == refused.headers["connection"]
    assert [200] * 5 == statuses


def test_what_was_refused_takes_no_room(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often bodies are refused, there is as much room as before."""
    monkeypatch.setattr(endpoints, "_bodies", Bodies(max_bytes=100_000))
    rubbish = b"x" * 60_000
    for content in (rubbish, gzip.compress(rubbish), rubbish * 2):
        for _ in range(3):
            assert client.post("/e/", content=content).status_code in (400, 503)

    assert 200 == client.post("/e/", content=EVENT + b" " * 60_000).status_code


def test_a_body_waits_for_the_disk_within_the_bound(
    client: httpx.Client, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk has not taken yet counts, too."""
    monkeypatch.setattr(endpoints, "_bodies", Bodies(max_bytes=100_000))
    viewer.store.open.clear()
    body = EVENT + b" " * 60_000
    thread = threading.Thread(target=lambda: client.post("/e/", content=body))
    thread.start()
    assert viewer.store.waiting.wait(10)
    answer = httpx.post(f"{viewer.url}/e/", content=body)
    viewer.store.open.set()
    thread.join(10)

    assert 503 == answer.status_code
