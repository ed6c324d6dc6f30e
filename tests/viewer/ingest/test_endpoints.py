from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from replaylink.viewer import limits
from replaylink.viewer.ingest import endpoints
from replaylink.viewer.ingest.refusals import LimitedLog
from replaylink.viewer.records import Batch
from replaylink.viewer.store import StoreError
from tests.viewer.ingest.payloads import (
    FULL,
    META,
    as_json,
    encoded,
    event,
    otlp_json,
    recording,
    snapshot,
)
from tests.viewer.ingest.serving import Viewer, wait_until

LOGS = encoded("hello", {"a": 1}, time_us=time.time_ns() // 1000).SerializeToString()
EVENTS = as_json({"api_key": "phc_test", "batch": [event()]})

SLASHES = pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])


def fresh() -> bytes:
    """An event that the store has not seen."""
    return as_json(event(uuid=str(uuid4())))


@SLASHES
@pytest.mark.parametrize("path", ["/i/v1/logs", "/v1/logs"])
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-protobuf"},
        {"content-type": "text/plain", "authorization": "Bearer phc_test"},
        {"authorization": "Basic phx"},
        {},
    ],
    ids=str,
)
def test_logs(
    client: httpx.Client, viewer: Viewer, path: str, slash: str, headers: dict[str, str]
) -> None:
    """Log records are taken at both addresses, whatever their Content-Type, with any token."""
    answer = client.post(path + slash, content=LOGS, headers=headers, params={"token": "phc"})

    assert (200, {}) == (answer.status_code, answer.json())
    assert "application/json" == answer.headers["content-type"]
    assert ["hello"] == [record.body for record in viewer.store.log_records]


@SLASHES
@pytest.mark.parametrize("path", ["/e", "/i/v0/e", "/batch", "/s"])
def test_events_and_recordings(client: httpx.Client, viewer: Viewer, path: str, slash: str) -> None:
    """Events and recordings are taken at each of PostHog's addresses."""
    for body in (gzip.compress(EVENTS), recording()):
        answer = client.post(path + slash, content=body, headers={"content-type": "text/plain"})

        assert (200, {"status": 1}) == (answer.status_code, answer.json())
    assert ["$pageview"] == [found.name for found in viewer.store.events]
    assert [True] == [piece.has_full_snapshot for piece in viewer.store.pieces]


def test_they_are_in_the_store(client: httpx.Client, viewer: Viewer) -> None:
    """What was taken can be read from the store as soon as the answer is there."""
    session_id = str(uuid4())
    piece = snapshot([META, FULL], uuid=str(uuid4()), properties={"$session_id": session_id})
    client.post("/s/", content=as_json([piece]))
    client.post("/s/", content=as_json([piece]))  # a retry
    found = viewer.store.recording(session_id)

    assert found is not None
    tabs = [(tab.window_id, tab.playable) for tab in found.tabs]
    assert [(piece["properties"]["$window_id"], True)] == tabs
    (events,) = viewer.store.snapshots(session_id, found.tabs[0].window_id)
    assert [META, FULL] == json.loads(events)


def test_answered_once_it_is_stored(client: httpx.Client, viewer: Viewer) -> None:
    """There is no answer before the store has what came."""
    viewer.store.open.clear()
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/e/", content=fresh()).status_code)
    )
    thread.start()
    assert viewer.store.waiting.wait(10)
    time.sleep(0.1)

    assert [] == answers
    viewer.store.open.set()
    thread.join(10)
    assert [200] == answers


def test_the_store_fails(
    client: httpx.Client, viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    """If the store fails the client is told to come again, and the viewer's log says why."""
    viewer.store.failure = OSError("disk full")
    answer = client.post("/e/", content=fresh())

    assert 503 == answer.status_code
    assert int(answer.headers["retry-after"]) > 0
    assert ["/e/: the store failed"] == own_lines(caplog)
    assert "disk full" in caplog.text
    viewer.store.failure = None
    assert 200 == client.post("/e/", content=fresh()).status_code


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["light", "compressed"])
def test_many_lines_do_not_hold_up_others(
    client: httpx.Client,
    viewer: Viewer,
    monkeypatch: pytest.MonkeyPatch,
    compress: Callable[[bytes], bytes],
) -> None:
    """Many lines are prepared by no thread that others wait for, however small their body is."""
    loops: list[object] = []
    prepare = viewer.store.prepare

    def watched(batch: Batch) -> None:
        loops.append(asyncio._get_running_loop())
        prepare(batch)

    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for _ in range(1000):
        records.add()
    monkeypatch.setattr(viewer.store, "prepare", watched)
    answer = client.post("/v1/logs", content=compress(request.SerializeToString()))

    assert 200 == answer.status_code
    assert [None] == loops


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["light", "compressed"])
def test_logs_cannot_be_prepared(
    client: httpx.Client,
    viewer: Viewer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    compress: Callable[[bytes], bytes],
) -> None:
    """If the store fails before anything is written, it is told in the same way."""

    def fail(batch: Batch) -> None:
        msg = "no memory"
        raise StoreError(msg)

    monkeypatch.setattr(viewer.store, "prepare", fail)
    answer = client.post("/v1/logs", content=compress(LOGS))

    assert 503 == answer.status_code
    assert int(answer.headers["retry-after"]) > 0
    assert ["/v1/logs: the store failed"] == own_lines(caplog)
    assert "no memory" in caplog.text


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "replaylink.viewer"]


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        pytest.param("/i/v1/logs", b"SECRET", 400, "/i/v1/logs: refused with 400: ", id="logs"),
        pytest.param("/e/", b"SECRET", 400, "/e/: refused with 400: ", id="events"),
        pytest.param("/s/", b'["SECRET"]', 400, "/s/: refused with 400: ", id="recording"),
        pytest.param(
            "/i/v1/logs?token=phx_SECRET", LOGS, 401, "/i/v1/logs: refused with 401: ", id="token"
        ),
        pytest.param(
            "/batch/",
            as_json({"api_key": "phx_SECRET", "batch": []}),
            401,
            "/batch/: refused with 401: ",
            id="token-in-the-body",
        ),
        pytest.param(
            "/v1/logs",
            b"SECRET" + b" " * limits.MAX_LOGS_BYTES,
            413,
            "/v1/logs: refused with 413: ",
            id="large-logs",
        ),
        pytest.param(
            "/s/",
            gzip.compress(b"SECRET" + b" " * limits.MAX_RECORDING_BYTES),
            413,
            "/s/: refused with 413: ",
            id="bomb",
        ),
        pytest.param(
            "/e/",
            gzip.compress(b" " * (limits.MAX_EVENTS_BYTES + 1)),
            413,
            "/e/: refused with 413: ",
            id="large-events",
        ),
    ],
)
def test_refusals(
    client: httpx.Client,
    viewer: Viewer,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: bytes,
    status: int,
    line: str,
) -> None:
    """What cannot be taken gets its status and one line of the log, which tells nothing of it."""
    answer = client.post(path, content=body)
    lines = own_lines(caplog)

    assert status == answer.status_code
    assert answer.json()["error"]
    assert 1 == len(lines)
    assert lines[0].startswith(line)
    assert "SECRET" not in lines[0] + answer.text
    assert [] == viewer.store.batches


def test_a_personal_key_in_the_header(client: httpx.Client) -> None:
    """A personal API key is refused, as PostHog does."""
    answer = client.post("/v1/logs", content=LOGS, headers={"authorization": "bearer phx_1"})

    assert 401 == answer.status_code


def test_what_was_left_out(
    client: httpx.Client, viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of good and bad events the good ones are kept, and the log counts the others."""
    answer = client.post("/e/", content=as_json([event(), {"SECRET": 1}, {"SECRET": 2}]))

    assert 200 == answer.status_code
    assert 1 == len(viewer.store.events)
    assert ["/e/: 2 events were left out: an event without a name"] == own_lines(caplog)


def test_results(client: httpx.Client, viewer: Viewer) -> None:
    """At the newer address the answer tells what became of each event."""
    kept, nameless = str(uuid4()), str(uuid4())
    batch = [event(uuid=kept), {"uuid": nameless}, {"uuid": [[]]}, 7]
    answer = client.post("/i/v1/analytics/events", content=as_json({"batch": batch}))
    results = answer.json()["results"]

    assert {"result": "ok"} == results.pop(kept)
    assert "drop" == results.pop(nameless)["result"]
    assert {} == results
    assert [kept] == [each.uuid for each in viewer.store.events]


def test_rubbish_does_not_fill_the_log(
    client: httpx.Client, viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends rubbish gets its answers, and the log some lines."""
    statuses = {client.post("/e/", content=b"rubbish").status_code for _ in range(100)}

    assert {400} == statuses
    assert 20 <= len(own_lines(caplog)) <= 30


def test_lines_that_were_not_logged_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """After a silence the next line tells how many there would have been."""
    log = LimitedLog(burst=2, lines_per_s=20)
    for number in range(5):
        log.log(logging.WARNING, "line %d", number)
    time.sleep(0.1)
    log.log(logging.WARNING, "line %d", 5)

    assert ["line 0", "line 1", "line 5 (and 3 more lines before)"] == own_lines(caplog)


def raw(viewer: Viewer, head: str, body: Iterator[bytes]) -> bytes:
    """
    Send a request as long as the server lets us, and return the answer.
    """
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        answer = b""
        for part in body:
            try:
                connection.sendall(part)
            except TimeoutError:
                pass
            except OSError:
                break
            try:
                answer += connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if answer:
                break
        connection.settimeout(10)
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
        return answer


def test_a_long_body_is_not_awaited(viewer: Viewer) -> None:
    """A body that says to be too long is refused before it comes."""
    head = (
        f"POST /s/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {limits.MAX_BODY_BYTES + 1}\r\n"
    )
    answer = raw(viewer, head + "\r\n", iter([b"x"]))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_an_endless_body(viewer: Viewer) -> None:
    """A body that does not tell its length is read up to the limit."""
    head = "POST /v1/logs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += len(chunk)
            yield chunk

    answer = raw(viewer, head, endless())

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 20 * limits.MAX_LOGS_BYTES


def test_a_client_that_goes(viewer: Viewer, caplog: pytest.LogCaptureFixture) -> None:
    """A client that hangs up within its request leaves one line, and nothing in the store."""
    head = "POST /e/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as connection:
        connection.sendall(head.encode())
        time.sleep(0.1)
    wait_until(lambda: own_lines(caplog))

    assert ["/e/: the client went before the end of its request"] == own_lines(caplog)
    assert [] == viewer.store.batches


def test_large_bodies_do_not_hold_up_others(client: httpx.Client, viewer: Viewer) -> None:
    """While a body is decoded that takes its time, others get their answers."""
    line = as_json(otlp_json({})) + b"\n"
    body = gzip.compress(line * 8000 + b"[]")
    statuses: list[int] = []
    sender = httpx.Client(base_url=viewer.url, timeout=30)
    sender.get("/array/phc_test/config")
    thread = threading.Thread(
        target=lambda: statuses.append(sender.post("/v1/logs", content=body).status_code)
    )
    slowest_s = 0.0
    start = time.perf_counter()
    thread.start()
    while thread.is_alive():
        asked = time.perf_counter()
        assert 200 == client.get("/array/phc_test/config").status_code
        slowest_s = max(slowest_s, time.perf_counter() - asked)
    duration_s = time.perf_counter() - start
    sender.close()

    assert [400] == statuses
    assert slowest_s < duration_s / 2


def test_clock_in_the_address(client: httpx.Client, viewer: Viewer) -> None:
    """The time at which posthog-js sent by its own clock, in the address, puts the event right."""
    sent_ms = 1_600_000_000_000
    body = event(uuid=str(uuid4()), timestamp=sent_ms - 60_000)
    client.post("/e/", params={"sent_at": sent_ms}, content=as_json(body))
    (actual,) = viewer.store.events

    assert abs(time.time() - 60 - actual.time_us / 1e6) < 10


@SLASHES
@pytest.mark.parametrize("path", ["/flags", "/decide"])
def test_feature_flags(client: httpx.Client, path: str, slash: str) -> None:
    """There are no feature flags, in the old form and in the new one."""
    answer = client.post(path + slash, params={"v": "2"}, json={"token": "phc_test"})

    assert 200 == answer.status_code
    assert ({}, {}, False) == tuple(
        answer.json()[key] for key in ("flags", "featureFlags", "errorsWhileComputingFlags")
    )


@SLASHES
@pytest.mark.parametrize("path", ["/i/v1/logs", "/e", "/s", "/batch", "/flags"])
def test_options(client: httpx.Client, path: str, slash: str) -> None:
    """OPTIONS is answered also where nothing asks for another origin."""
    assert 204 == client.options(path + slash).status_code


def test_preflight(client: httpx.Client) -> None:
    """A page of another port of this machine may send."""
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = client.options("/i/v1/logs", headers=headers)

    assert "http://localhost:3000" == answer.headers["access-control-allow-origin"]


def test_remote_config(client: httpx.Client) -> None:
    """Recording and the capture of exceptions are on, and there are no feature flags."""
    config = client.get("/array/phc_test/config").json()

    assert {"endpoint": "/s/"} == config["sessionRecording"]
    assert config["autocaptureExceptions"] is True
    assert config["hasFeatureFlags"] is False
    assert ["gzip", "gzip-js"] == config["supportedCompression"]


def test_remote_config_as_a_script(client: httpx.Client) -> None:
    """The script has the same config, under the project's token."""
    answer = client.get("/array/phc_test/config.js")
    entry = re.search(r"\{\"phc_test\".*\}(?=\);)", answer.text)

    assert entry is not None
    config = client.get("/array/phc_test/config").json()
    assert {"phc_test": {"config": config, "siteApps": []}} == json.loads(entry[0])
    assert answer.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("token", ["a%22b", "%3Cscript%3E", "x" * 65, "a.b", "%E2%80%A8"])
def test_a_token_that_is_none(client: httpx.Client, token: str) -> None:
    """No script is made of a token that could be more than one."""
    assert 404 == client.get(f"/array/{token}/config.js").status_code


@pytest.mark.parametrize("name", ["array.js", "lazy-recorder.js", "tracing-headers.js"])
@pytest.mark.parametrize("prefix", ["/static/", "/static/1.449.2/"])
def test_posthog_js(client: httpx.Client, prefix: str, name: str) -> None:
    """Scripts of posthog-js are served by both kinds of address, and again only if changed."""
    answer = client.get(prefix + name, params={"v": "1.449.2"})
    again = client.get(prefix + name, headers={"if-none-match": answer.headers["etag"]})

    assert (endpoints.POSTHOG_JS_DIRECTORY / name).read_bytes() == answer.content
    assert "text/javascript; charset=utf-8" == answer.headers["content-type"]
    assert "no-cache" == answer.headers["cache-control"]
    assert (304, b"") == (again.status_code, again.content)


@pytest.mark.parametrize(
    "path",
    [
        "/static/LICENSE",
        "/static/toolbar.js",
        "/static/array.js.map",
        "/static/1.2.3/LICENSE",
        "/static/x/array.js",
        "/static/..%2fposthog-js%2farray.js",
        "/static/1.2.3/..%2f..%2farray.js",
        "/static/1.2.3/x/array.js",
        "/static/",
        "/static/vendor/posthog-js/array.js",
    ],
)
def test_no_other_file(client: httpx.Client, path: str) -> None:
    """No other file is served."""
    assert 404 == client.get(path).status_code
