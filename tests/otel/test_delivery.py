"""What the way to the endpoint does when that is slow, refuses or is not there."""

from __future__ import annotations

import logging
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import requests
import structlog
from opentelemetry._logs import LogRecord
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from replaylink import linked
from replaylink._otlp.sender import DELAY_S
from replaylink.otel import configure_logging
from tests.otel.receiver import MAX_BODY_BYTES, Receiver

TOKEN = "phc_very_secret"

ROOT = Path(__file__).parents[2]

log = structlog.get_logger("tests.delivery")


def configure(receiver: Receiver, **options: Any) -> Any:
    return configure_logging(service_name="shop", endpoint=receiver.url, token=TOKEN, **options)


def numbers(receiver: Receiver) -> list[Any]:
    return [record.attributes["number"] for record in receiver.records]


@pytest.mark.parametrize("outage", ["401", "413", "429", "429-later", "500", "503", "absent"])
def test_short_outage(receiver: Receiver, outage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was logged while the endpoint failed arrives when it works, once and in order."""
    if outage == "absent":
        receiver.stop()
    else:
        receiver.status = int(outage[:3])
        if outage.endswith("later"):
            receiver.headers = {"Retry-After": "1"}
    with configure(receiver) as logs:
        for number in range(20):
            log.info("line", number=number)
        assert not logs.flush(0.1)
        for number in range(20, 40):
            log.info("line", number=number)
        time.sleep(0.7)
        refused = len(receiver.requests)
        if outage == "absent":
            receiver.start()
        receiver.status, receiver.headers = 200, {}
        receiver.wait_for(40)
        assert logs.flush()

    assert list(range(40)) == numbers(receiver)
    # Endpoints are not hammered at; 413 also makes smaller and smaller batches.
    assert refused <= (1 if outage == "429-later" else 9 if outage == "413" else 3)
    errors = capsys.readouterr().err
    assert 1 == errors.count("cannot send logs to")
    assert 1 == errors.count("works again")
    assert (f"{outage[:3]} " in errors) or ("connection refused" in errors)
    assert TOKEN not in errors


def test_slow_endpoint(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """An endpoint that takes its time makes no line wait, and gets them all."""
    receiver.delay_s = 0.5
    with configure(receiver) as logs:
        slowest = 0.0
        for number in range(1500):
            start = time.perf_counter()
            log.info("line", number=number)
            slowest = max(slowest, time.perf_counter() - start)
        assert logs.flush(8)

    assert list(range(1500)) == numbers(receiver)
    assert slowest < receiver.delay_s
    assert "" == capsys.readouterr().err


def test_steady_lines(receiver: Receiver) -> None:
    """Lines that come while a batch is on its way gather again, and go in few requests."""
    receiver.delay_s = 0.02
    start = time.monotonic()
    with configure(receiver) as logs:
        for number in range(1000):
            log.info("line", number=number)
            time.sleep(0.001)
        assert logs.flush()
    delays = (time.monotonic() - start) / DELAY_S

    assert list(range(1000)) == numbers(receiver)
    assert len(receiver.requests) <= delays + 4


def test_timeout(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request that takes too long is given up, and its batch is not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    receiver.delay_s = 1
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert not logs.flush(0.4)
        receiver.delay_s = 0
        assert logs.flush(5)

    assert 1 in numbers(receiver)
    assert "it takes too long to answer" in capsys.readouterr().err


def test_second_outage(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """An outage soon after another one is not told of again, and loses as little."""
    with configure(receiver) as logs:
        for number in range(2):
            receiver.status = 503
            log.info("line", number=number)
            assert not logs.flush(0.1)
            receiver.status = 200
            assert logs.flush()

    assert [0, 1] == numbers(receiver)
    errors = capsys.readouterr().err
    assert (1, 1) == (errors.count("cannot send"), errors.count("works again"))


def test_long_outage(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After many tries a batch is left out, so that others get their turn."""
    monkeypatch.setattr("replaylink._otlp.sender.MAX_TRIES", 2)
    receiver.status = 503
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush(5)
        receiver.status = 200
        log.info("line", number=2)
        assert logs.flush()

    assert [2] == numbers(receiver)
    assert "1 log record left out: tried 2 times, it answers 503" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(b"garbage\r\n\r\n", "it gives no answer (ConnectionError)", id="no-http"),
        pytest.param(b"", "it gives no answer (ConnectionError)", id="hangs-up"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            "it answers 302 Found (is it the final address?)",
            id="redirects",
        ),
        pytest.param(
            b"HTTP/1.1 799 What\r\ncontent-length: 0\r\n\r\n", "it answers 799;", id="unknown"
        ),
        pytest.param(None, "its certificate cannot be verified", id="no-tls"),
    ],
)
def test_reasons(answer: bytes | None, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told what is wrong with an endpoint."""
    with answering(answer or b"not TLS", reads=answer is not None) as (url, _):
        if answer is None:
            url = url.replace("http", "https")
        with configure_logging(service_name="shop", endpoint=url) as logs:
            log.info("line")
            assert not logs.flush(0.3)
            logs.shutdown(0.2)

    assert message in capsys.readouterr().err


def test_error_in_sending(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody expects costs a batch, and not the thread."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise LookupError

    with configure(receiver) as logs:
        with monkeypatch.context() as patch:
            patch.setattr(requests.Session, "post", fail)
            log.info("line", number=1)
            assert logs.flush()
        log.info("line", number=2)
        assert logs.flush()

    assert [2] == numbers(receiver)
    assert "1 log record left out: LookupError in sending" in capsys.readouterr().err


def test_full_queue_of_a_slow_endpoint(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is dropped while an endpoint takes its time is told, and at the end the rest of it."""
    receiver.delay_s = 0.2
    with configure(receiver, max_queue_records=10) as logs:
        for _ in range(2):
            log.info("first")
            receiver.wait_until(lambda: logs._sender.waiting > 0)
            logs.flush(0.05)
            for number in range(25):
                log.info("line", number=number)
            assert logs.flush()

    errors = capsys.readouterr().err
    told = [int(count) for count in re.findall(r"the queue was full: (\d+) log records", errors)]
    assert 2 == len(told)
    assert 52 == sum(told) + len(receiver.records)


def test_full_queue(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """When the queue is full the oldest lines go, and it is said how many."""
    receiver.stop()
    with configure(receiver, max_queue_records=10) as logs:
        for number in range(25):
            log.info("line", number=number)
        assert not logs.flush(0.1)
        receiver.start()
        receiver.wait_for(10)
        assert logs.flush()

    assert list(range(15, 25)) == numbers(receiver)
    assert "15 log records dropped" in capsys.readouterr().err


def test_large_batches(receiver: Receiver) -> None:
    """A batch over 2 MiB goes in parts, none of which is larger, in order."""
    with configure(receiver) as logs:
        for number in range(50):
            log.info("line", number=number, text="x" * 100_000)
        assert logs.flush()

    assert list(range(50)) == numbers(receiver)
    assert max(receiver.sizes) <= MAX_BODY_BYTES
    assert 3 <= len(receiver.sizes) <= 4


def test_smaller_limit(receiver: Receiver) -> None:
    """An endpoint that takes less than 2 MiB gets smaller parts."""
    receiver.max_body_bytes = 50_000
    with configure(receiver) as logs:
        for number in range(40):
            log.info("line", number=number, text="x" * 10_000)
        assert logs.flush()

    assert list(range(40)) == numbers(receiver)


def test_record_of_many_items(receiver: Receiver) -> None:
    """A record that is over 2 MiB for its many items loses the last of them."""
    with configure(receiver) as logs:
        log.info("line", number=1, data=["x" * 60] * 40_000)
        assert logs.flush()

    [record] = receiver.records
    assert 1000 < len(record.attributes["data"]) < 40_000


def test_large_bytes(receiver: Receiver) -> None:
    """Bytes over 2 MiB are cut in the middle, too."""
    with configure(receiver) as logs:
        log.info("line", number=1, data=b"begin" + b"\xff" * 3_000_000 + b"end")
        assert logs.flush()

    [record] = receiver.records
    assert re.fullmatch(rb"begin\xff+ \[... [\d,]+ cut ...\] \xff+end", record.attributes["data"])


@pytest.mark.parametrize("where", ["body", "attribute", "nested", "two-byte"])
def test_large_record(receiver: Receiver, where: str) -> None:
    """A record over 2 MiB is cut in the middle of its texts, and has its IDs."""
    text = "begin" + ("é" if where == "two-byte" else "x") * 5_000_000 + "end"
    with configure(receiver) as logs, linked(session_id="s-1", user_id=7):
        log.info("before", number=1)
        if where == "body":
            log.info(text, number=2)
        elif where == "nested":
            log.info("line", number=2, data={"list": [text]})
        else:
            log.info("line", number=2, text=text)
        log.info("after", number=3)
        assert logs.flush()

    assert [1, 2, 3] == numbers(receiver)
    record = receiver.records[1]
    got = {
        "body": record.body,
        "nested": record.attributes.get("data", {}).get("list", [""])[0],
    }.get(where, record.attributes.get("text"))
    assert isinstance(got, str)
    assert got.startswith("begin")
    assert got.endswith("end")
    assert " cut ...] " in got
    assert {"sessionId": "s-1", "posthogDistinctId": "7"} == record.ids
    assert max(receiver.sizes) <= MAX_BODY_BYTES


def test_record_that_cannot_be_cut(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that stays too large is left out with a reason; those around it arrive."""
    with configure(receiver) as logs:
        log.info("before", number=1)
        log.info("line", number=2, **{"x" * 3_000_000: 1})
        log.info("after", number=3)
        assert logs.flush()

    assert [1, 3] == numbers(receiver)
    assert "1 log record left out: it has" in capsys.readouterr().err


def test_record_that_cannot_be_encoded(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """What another library emits and nobody can encode takes nothing else with it."""
    with configure(receiver) as logs:
        log.info("before", number=1)
        body: Any = object()
        logs.provider.get_logger("lib").emit(LogRecord(body=body))
        log.info("after", number=2)
        assert logs.flush()

    assert [1, 2] == numbers(receiver)
    assert "1 log record left out: it cannot be encoded" in capsys.readouterr().err


def test_unwanted_batch(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """What the endpoint says it will never take does not stop what comes after it."""
    receiver.status = 400
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush()
        receiver.status = 200
        log.info("line", number=2)
        assert logs.flush()

    assert [2] == numbers(receiver)
    assert "left out: it answers 400 Bad Request" in capsys.readouterr().err


def test_endpoint_that_wants_nothing(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that refuses all there is is not asked about each record, and the loss is counted."""
    receiver.status = 400
    with configure(receiver) as logs:
        for number in range(500):
            log.info("line", number=number)
        assert logs.flush()
        first = len(receiver.requests)
        for number in range(500):
            log.info("line", number=number)
        assert logs.flush()

    assert first <= 20
    assert len(receiver.requests) <= 40
    errors = capsys.readouterr().err
    assert 2 == errors.count("500 log records left out: it answers 400 Bad Request")


def test_few_unwanted_among_many(receiver: Receiver) -> None:
    """A few records that cannot be encoded take none of those around them along."""
    body: Any = object()
    with configure(receiver) as logs:
        assert logs.provider is not None
        for number in range(200):
            if number % 9 == 0:
                logs.provider.get_logger("lib").emit(LogRecord(body=body))
            log.info("line", number=number)
        assert logs.flush()

    assert list(range(200)) == numbers(receiver)


def test_rejected_records(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Records that the endpoint tells it did not take are counted."""
    partial = ExportLogsPartialSuccess(rejected_log_records=2, error_message="the token")
    receiver.body = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
    receiver.headers = {"content-type": "application/x-protobuf"}
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush()

    assert 1 == len(receiver.requests)
    assert "replaylink: 2 log records left out: the endpoint rejected them\n" == (
        capsys.readouterr().err
    )


def test_one_connection(receiver: Receiver) -> None:
    """Requests go over one connection, as long as the endpoint keeps it."""
    with configure(receiver) as logs:
        for number in range(5):
            log.info("line", number=number)
            assert logs.flush()

    assert 5 == len(receiver.requests)
    assert 1 == receiver.connections


@contextmanager
def answering(
    *parts: bytes, pause_s: float = 0, reads: bool = True
) -> Iterator[tuple[str, list[bytes]]]:
    """
    Run a server that answers each request with these bytes; give its address, and what came.
    """
    came: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while reads and (line := self.rfile.readline().strip()):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            came.append(self.rfile.read(length))
            with suppress(OSError):
                for part in parts:
                    self.wfile.write(part)
                    time.sleep(pause_s)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", came
        server.shutdown()


@pytest.mark.parametrize(
    ("parts", "pause_s"),
    [
        pytest.param([b"content-length: 400\r\n\r\n", *[b"x"] * 400], 0.3, id="drips"),
        pytest.param([b"content-length: 99999999\r\n\r\n", *[b"x" * 99999] * 999], 0, id="huge"),
        pytest.param([b"content-length: 400\r\n\r\n", b"xx"], 0, id="hangs-up"),
        pytest.param([b"\r\n"], 0, id="of-no-length"),
        pytest.param([b"content-length: 400\r\n\r\n", b"x", *[b""] * 8], 1.5, id="stalls"),
    ],
)
def test_body_of_an_answer(parts: list[bytes], pause_s: float) -> None:
    """What is answered counts at once and once, whatever becomes of the answer's body."""
    with answering(b"HTTP/1.1 200 OK\r\n", *parts, pause_s=pause_s) as (url, came):
        start = time.monotonic()
        with configure_logging(service_name="shop", endpoint=url) as logs:
            log.info("line", number=1)
            assert logs.flush(10)
        seconds = time.monotonic() - start

    assert 1 == len(came)
    assert seconds < 5


def test_proxy(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not asked about an endpoint on this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush()

    assert [1] == numbers(receiver)


def test_proxy_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy that is in the way is named as what is in the way."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with configure_logging(service_name="shop", endpoint="http://collector.test") as logs:
        log.info("line", number=1)
        assert not logs.flush(1)
        logs.shutdown(0.1)

    assert "the proxy that HTTP_PROXY or HTTPS_PROXY names" in capsys.readouterr().err


def test_instrumented_http_client(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What instruments HTTP clients is told to leave out the requests with log records."""
    suppressed = []
    send = requests.Session.send

    def spy(*args: Any, **kwargs: Any) -> requests.Response:
        suppressed.append(not is_instrumentation_enabled())
        return send(*args, **kwargs)

    monkeypatch.setattr(requests.Session, "send", spy)
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush()

    assert [True] == suppressed


def test_no_loop_by_another_handler(receiver: Receiver) -> None:
    """What sending logs is not sent either when OpenTelemetry's handler hands it over."""
    with configure(receiver, level="DEBUG") as logs:
        assert logs.provider is not None
        handler = LoggingHandler(logger_provider=logs.provider)
        logging.getLogger().addHandler(handler)
        try:
            for number in range(3):
                log.info("line", number=number)
                assert logs.flush()
        finally:
            logging.getLogger().removeHandler(handler)

    # Each once by ours, and once by theirs.
    assert 6 == len(receiver.records)
    assert not any(record.scope.startswith("urllib3") for record in receiver.records)


def test_no_loop(receiver: Receiver) -> None:
    """What sending itself logs is not sent, and what the app's HTTP client logs is."""
    with configure(receiver, level="DEBUG") as logs:
        for number in range(3):
            log.info("line", number=number)
            logging.getLogger("opentelemetry.attributes").warning("theirs")
            assert logs.flush()
        logging.getLogger("urllib3.connectionpool").debug("the app's own")
        assert logs.flush()

    # Else there would be the lines of urllib3 about each of the first three requests.
    assert ["line", "line", "line", "the app's own"] == receiver.bodies()


def test_netrc(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that the machine keeps for the host does not replace the token."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(file))
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.flush()

    assert f"Bearer {TOKEN}" == receiver.requests[0][1]["authorization"]


# --- the thread -------------------------------------------------------------------------


def test_thread_that_is_being_started(receiver: Receiver) -> None:
    """A line that is logged while another one starts the thread waits for nothing."""
    with configure(receiver) as logs:
        sender = logs._sender
        with sender._lock:
            log.info("line", number=1)
            assert sender._thread is None
        real = sender._lock

        class Interrupted:
            """A signal comes, and its handler logs, as the lock is about to be taken."""

            def acquire(self, *, blocking: bool) -> bool:
                sender._lock = real
                log.info("line", number=3)
                return bool(real.acquire(blocking=blocking))

        sender._lock = Interrupted()
        log.info("line", number=2)
        assert logs.flush()

    assert [1, 2, 3] == sorted(numbers(receiver))


def test_no_thread_can_be_started(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits where there can be no thread is sent at the end."""

    def fail(self: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    logs = configure(receiver)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        log.info("line", number=1)
    assert not logs.flush(0.1)
    assert logs.shutdown()

    assert [1] == numbers(receiver)


def test_end_while_the_thread_is_being_started(receiver: Receiver) -> None:
    """The end does not wait for ever for a thread that is interrupted in its start."""
    logs = configure(receiver)
    with logs._sender._lock:
        log.info("line", number=1)
        assert logs.shutdown(1)

    assert [1] == numbers(receiver)


def test_end_of_the_time(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """When the time is over no part of a batch is tried any more."""
    logs = configure(receiver)
    for number in range(60):
        log.info("line", number=number, text="x" * 100_000)

    assert not logs.shutdown(0.001)
    time.sleep(0.3)
    assert [] == receiver.sizes
    assert "60 log records did not reach" in capsys.readouterr().err


def test_nothing_is_said_after_the_end(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that comes when the time is over changes nothing."""
    receiver.delay_s, receiver.status = 0.5, 503
    logs = configure(receiver)
    log.info("line", number=1)
    assert not logs.flush(0.1)
    assert not logs.shutdown(0.1)
    logs._sender._thread.join(5)

    assert ["did not reach"] == re.findall("did not reach|cannot send", capsys.readouterr().err)


def test_providers_flush(receiver: Receiver) -> None:
    """OpenTelemetry's way to flush works."""
    with configure(receiver) as logs:
        log.info("line", number=1)
        assert logs.provider.force_flush()

        assert [1] == numbers(receiver)


def test_finish_in_trouble(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told what could not be sent in time, which counts for the end that follows."""
    monkeypatch.setattr("replaylink._otlp.sender.SHUTDOWN_S", 0.3)
    receiver.delay_s = 5
    logs = configure(receiver)
    log.info("line", number=1)
    start = time.monotonic()
    logs.finish()
    logs.finish()
    assert not logs.shutdown()

    assert time.monotonic() - start < 1
    assert 1 == capsys.readouterr().err.count("1 log record did not reach")


def test_end_after_a_finish(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that comes a while after all was sent has its own time."""
    monkeypatch.setattr("replaylink._otlp.sender.SHUTDOWN_S", 0.2)
    logs = configure(receiver)
    log.info("line", number=1)
    logs.finish()
    time.sleep(0.25)
    receiver.delay_s = 0.3
    log.info("line", number=2)

    assert logs.shutdown(4)
    assert [1, 2] == numbers(receiver)


def test_finish_without_an_endpoint(receiver: Receiver) -> None:
    """An app that ends while there is no endpoint is held up for about a second."""
    receiver.stop()
    with configure(receiver) as logs:
        log.info("line", number=1)
        start = time.monotonic()
        logs.finish()
        seconds = time.monotonic() - start
        receiver.start()
        assert logs.flush()

    assert 0.9 < seconds < 3
    assert [1] == numbers(receiver)


def test_finish(receiver: Receiver) -> None:
    """What waits is sent as uvicorn says goodbye, and lines may follow."""
    with configure(receiver) as logs:
        log.info("line", number=1)
        logging.getLogger("uvicorn.error").info("Finished server process [%d]", 1)
        assert [1] == [receiver.records[0].attributes["number"]]
        log.info("line", number=2)
        logs.finish()
        assert 3 == len(receiver.records)
    configure_logging(service_name="shop").finish()


# --- the end of processes -------------------------------------------------------------


SCRIPT = """
import os, sys, time
import structlog
from replaylink.otel import configure_logging

configure_logging(service_name="shop", endpoint=sys.argv[1], token="phc_very_secret")
log = structlog.get_logger()
for number in range(int(sys.argv[2])):
    log.info("line", number=number)
time.sleep(float(sys.argv[3]))
"""


def run(script: str, *arguments: object) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    result = subprocess.run(
        # Python warns of forks in processes with threads, which ours is meant to be.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("POSTHOG_", "OTEL_"))},
    )
    return result, time.monotonic() - start


def test_end_sends_what_waits(receiver: Receiver) -> None:
    """A script that ends at once has sent all of its lines."""
    result, _ = run(SCRIPT, receiver.url, 1000, 0)

    assert (0, "") == (result.returncode, result.stderr)
    assert list(range(1000)) == numbers(receiver)


@pytest.mark.parametrize("trouble", ["absent", "hangs", "401", "429-later"])
def test_end_in_trouble(receiver: Receiver, trouble: str) -> None:
    """A process ends within 5 seconds whatever the endpoint does, and says what is lost."""
    if trouble == "absent":
        receiver.stop()
    elif trouble == "hangs":
        receiver.delay_s = 8
    else:
        receiver.status = int(trouble[:3])
        receiver.headers = {"Retry-After": "900"}
    # The process is hung up in the middle of things.
    pause_s = 0.3
    result, seconds = run(SCRIPT, receiver.url, 700, pause_s)

    assert 0 == result.returncode
    # Python itself takes a second to start, and more on a busy machine.
    assert seconds < pause_s + 3 + 5
    assert "700 log records did not reach" in result.stderr
    assert TOKEN not in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert 700 == len(result.stdout.splitlines())


LATE_BESIDE_MULTIPROCESSING = """
import atexit, sys
import structlog
from replaylink.otel import configure_logging

configure_logging(service_name="shop", endpoint=sys.argv[1])
log = structlog.get_logger()
atexit.register(log.info, "line", number=2)
import multiprocessing.pool
log.info("line", number=1)
"""


def test_multiprocessing_ends_nothing(receiver: Receiver) -> None:
    """Lines of the very end are sent, also if multiprocessing cleans up before them."""
    result, _ = run(LATE_BESIDE_MULTIPROCESSING, receiver.url)

    assert (0, "") == (result.returncode, result.stderr)
    assert [1, 2] == numbers(receiver)


LATE = """
import atexit, sys
import structlog
from replaylink.otel import configure_logging

configure_logging(service_name="shop", endpoint=sys.argv[1])
atexit.register(structlog.get_logger().info, "line", number=1)
"""


def test_line_of_the_very_end(receiver: Receiver) -> None:
    """A first line that is logged when no thread can start any more is sent, too."""
    result, _ = run(LATE, receiver.url)

    assert (0, "") == (result.returncode, result.stderr)
    assert [1] == numbers(receiver)


FORK = """
import os, sys
import structlog
from replaylink.otel import configure_logging

logs = configure_logging(service_name="shop", endpoint=sys.argv[1])
log = structlog.get_logger()
log.info("line", number=0)
logs.flush()                     # so that the parent has a thread and a connection
log.info("line", number=1)       # waits in the parent's queue
for number in (2, 3):
    if os.fork() == 0:
        log.info("line", number=number)
        sys.exit()
for _ in range(2):
    os.wait()
log.info("line", number=4)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork(receiver: Receiver) -> None:
    """Each process sends its own lines, all of them and only these."""
    result, _ = run(FORK, receiver.url)

    assert (0, "") == (result.returncode, result.stderr)
    assert list(range(5)) == sorted(numbers(receiver))
    instances = {
        record.attributes["number"]: record.resource["service.instance.id"]
        for record in receiver.records
    }
    assert instances[0] == instances[1] == instances[4]
    assert 3 == len(set(instances.values()))
