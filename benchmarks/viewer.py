"""
How many log lines the viewer takes in, and how soon it finds one among millions.

    python -m benchmarks.viewer                         5,000,000 lines, in about ten minutes
    python -m benchmarks.viewer --quick                 200,000 lines, in about a minute
    python -m benchmarks.viewer --only writing          one part: writing, reading
    python -m benchmarks.viewer --database FILE         the stored lines are kept for next time

The viewer runs as users start it, in a process of its own. It is sent what OpenTelemetry's
exporter makes: protobuf with gzip, encoded beforehand, so that sending costs next to nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import http.client
import itertools
import json
import os
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import structlog
from opentelemetry._logs import LogRecord as APILogRecord
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from replaylink.otel import configure_logging
from replaylink.viewer.ingest.otlp import decode_logs
from replaylink.viewer.records import Batch, LogRecord
from replaylink.viewer.store import Store
from replaylink.viewer.store.lines import line_id, prepare
from replaylink.viewer.store.schema import create_shard, open_for_writing

from .overhead import Goals, print_machine, table
from .servers import Server

PARTS: Final = ("writing", "reading")

LINES: Final = 5_000_000
DAY_US: Final = 24 * 3600 * 1_000_000

BATCH_LINES: Final = 500
"""Lines of one request, about as many as OpenTelemetry's exporter sends at once."""

CONNECTIONS: Final = 8
"""How many requests are under way at once."""

ARRIVING_LINES: Final = 1000
"""How many lines come in each second while others are looked for."""

ARRIVALS_PER_SECOND: Final = 5

MAX_SIZE_MB: Final = 40_000
"""So much that nothing is removed."""

RETENTION_DAYS: Final = 3650

TIMEOUT_S: Final = 60.0

WRITE_GOAL: Final = 20_000
BARE_GOAL: Final = 0.5
READ_GOAL_MS: Final = 200.0
MEMORY_GOAL_MB: Final = 300.0
LIVE_GOAL_S: Final = 1.0


class ViewerGoals(Goals):
    """
    Goals of which some are to be reached from below.
    """

    def at_least(self, what: str, limit: float, measured: float, unit: str) -> None:
        self._add(what, f"at least {limit:,g}{unit}", measured, unit, measured >= limit)


# --- the lines of a shop ---------------------------------------------------------------

SERVICES: Final = ("shop", "payment", "stock", "mail", "search")
LOGGERS: Final = ("shop.cart", "shop.orders", "payment.card", "http.access", "db.pool")
ROUTES: Final = ("/cart", "/cart/items", "/orders", "/orders/{id}", "/search", "/login")
SEVERITIES: Final = ((9, "info", 80), (5, "debug", 8), (13, "warn", 8), (17, "error", 4))
ENDS: Final = ("from the cache", "from the database", "for the newsletter", "at the till")

RARE_ONE_IN: Final = 20_000
"""One line in so many has the rare words and the rare attribute."""


class Line(msgspec.Struct):
    """
    What a line says.
    """

    severity: int
    body: str
    attributes: dict[str, Any]
    service: str
    scope: str


def make_line(rng: random.Random) -> Line:
    """
    Make a line about a request, with eight attributes or nine.
    """
    number = rng.getrandbits(64)
    user = number % 5000
    route = ROUTES[number % 6]
    took = number % 977 / 10
    order = f"{number >> 32:08x}"
    if number % RARE_ONE_IN == 0:
        body = f"Refund of order {order} was refused by the acquiring bank after {took} ms"
    elif number % 3 == 0:
        body = f"Order {order} of user-{user} was placed with {number % 9} items in {took} ms"
    elif number % 3 == 1:
        body = f"GET {route} answered in {took} ms {ENDS[number % 4]}"
    else:
        body = f"Stock of article mug-{number % 700} reserved until {number % 60} minutes from now"
    attributes: dict[str, Any] = {
        "sessionId": f"01a20589-7982-7afd-a6b5-{number % 100_000:012x}",
        "posthogDistinctId": f"user-{user}",
        "http.route": route,
        "http.request.method": ("GET", "GET", "POST")[number % 3],
        "http.response.status_code": (200, 200, 200, 200, 201, 404, 500)[number % 7],
        "duration_ms": took,
        "request_id": f"{rng.getrandbits(64):016x}",
        "code.function.name": ("place", "reserve", "answer")[number % 3],
    }
    if number % 10 == 0:
        # What comes before anybody is known, and from outside of requests.
        del attributes["sessionId"], attributes["posthogDistinctId"]
    if number % RARE_ONE_IN == 0:
        attributes["refund.reason"] = "acquirer"
    severity = rng.choices(SEVERITIES, [share for _, _, share in SEVERITIES])[0][0]
    return Line(severity, body, attributes, SERVICES[number % 5], LOGGERS[number % 5])


class Requests:
    """
    Requests with lines, in OpenTelemetry's own encoding; each call makes new ones.

    Args:
        seed: Of the lines.
        batches: How many different requests there are; those that follow differ in time only.
        lines: How many lines each has.
    """

    def __init__(self, *, seed: int, batches: int, lines: int = BATCH_LINES) -> None:
        rng = random.Random(seed)
        self._batches = itertools.cycle([self._encode(rng, lines) for _ in range(batches)])
        self._last_us = 0

    @staticmethod
    def _encode(rng: random.Random, lines: int) -> ExportLogsServiceRequest:
        made = [make_line(rng) for _ in range(lines)]
        # An exporter is one process, and so one service.
        resource = Resource({"service.name": made[0].service, "service.version": "1.4.2"})
        return encode_logs(
            [
                ReadableLogRecord(
                    APILogRecord(
                        timestamp=1,
                        severity_number=SeverityNumber(line.severity),
                        body=line.body,
                        attributes=line.attributes,
                    ),
                    resource,
                    InstrumentationScope(line.scope),
                )
                for line in made
            ]
        )

    def next(self) -> bytes:
        """
        Return the body of a request whose lines end now, one every 50 microseconds.
        """
        request = next(self._batches)
        records = [
            record
            for resource_logs in request.resource_logs
            for scope_logs in resource_logs.scope_logs
            for record in scope_logs.log_records
        ]
        now_us = time.time_ns() // 1000
        start_us = max(now_us - 50 * len(records), self._last_us)
        for number, record in enumerate(records):
            record.time_unix_nano = (start_us + 50 * number) * 1000
        self._last_us = start_us + 50 * len(records)
        return gzip.compress(request.SerializeToString(), compresslevel=5)


async def fill(store: Store, lines: int) -> None:
    """
    Store lines that came within the last 24 hours, without a viewer.
    """
    rng = random.Random(7)
    severities = {number: name for number, name, _ in SEVERITIES}
    resources = {name: {"service.name": name, "service.version": "1.4.2"} for name in SERVICES}
    start_us = time.time_ns() // 1000 - DAY_US
    batch_lines = 5000
    writing: set[asyncio.Task[None]] = set()
    for first in range(0, lines, batch_lines):
        records = []
        for number in range(first, min(first + batch_lines, lines)):
            line = make_line(rng)
            records.append(
                LogRecord(
                    time_us=start_us + number * DAY_US // lines,
                    severity=severities[line.severity],
                    body=line.body,
                    attributes=line.attributes,
                    resource=resources[line.service],
                    scope=line.scope,
                )
            )
        writing.add(asyncio.create_task(store.write(Batch(logs=records))))
        if len(writing) == 2:
            done, writing = await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*writing)


# --- the viewer ------------------------------------------------------------------------


class ViewerServer(Server):
    """
    The viewer on a free port, and how much memory it takes.

    Args:
        database: Where it keeps its data.
    """

    def __init__(self, database: Path) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the server
        options = [f"--database={database}", f"--max-size-mb={MAX_SIZE_MB}"]
        options += [f"--retention-days={RETENTION_DAYS}", "--port=0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replaylink", "viewer", *options],
            env=plain_environment(),
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )
        self.port = 0
        self.rss_mb = self.pss_mb = 0.0
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._watch_memory, daemon=True)

    def wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            self.errors.seek(0)
            said = self.errors.read()
            if found := re.search(r"Open +http://127\.0\.0\.1:([0-9]+)/", said):
                self.port = int(found[1])
                super().wait()
                self._watch.start()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                sys.exit(f"The viewer did not start:\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopped.set()
        if self._watch.is_alive():
            self._watch.join()
        super().stop()
        self.errors.close()

    def __enter__(self) -> ViewerServer:
        self.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _watch_memory(self) -> None:
        process = Path(f"/proc/{self.process.pid}")
        if not process.exists():
            return  # not Linux
        while not self._stopped.wait(0.2):
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+([0-9]+)", (process / "status").read_text())
                self.rss_mb = int(found[1]) * 1024 / 1e6 if found else 0.0
                found = re.search(r"Pss:\s+([0-9]+)", (process / "smaps_rollup").read_text())
                self.pss_mb = max(self.pss_mb, int(found[1]) * 1024 / 1e6 if found else 0.0)


def plain_environment(**settings: str) -> dict[str, str]:
    """
    Return this process's environment without what tells an exporter what to do.
    """
    ours = ("POSTHOG_", "OTEL_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**others, **settings}


class Connection:
    """
    One connection to the viewer, which stays open.
    """

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def get(self, path: str) -> bytes:
        """
        Return what is at an address.
        """
        return self._ask("GET", path, None, {})

    def send(self, body: bytes) -> None:
        """
        Send log lines, and wait until they are acknowledged.
        """
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        self._ask("POST", "/v1/logs", body, headers)

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        self._http.request(method, path, body, headers)
        response = self._http.getresponse()
        answer = response.read()
        if response.status != 200:
            sys.exit(f"{method} {path}: {response.status} {answer[:500]!r}")
        return answer


# --- writing ---------------------------------------------------------------------------


class Bare:
    """
    What SQLite alone does: `executemany` into the same tables, with the same settings.

    Args:
        path: A database of its own.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_for_writing(path)
        self._connection.execute("BEGIN")
        self._shard = create_shard(self._connection, 0)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def rows(self, bodies: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """
        Return what the viewer would write for some requests, ready to be written.
        """
        rows = []
        for line in prepare(
            itertools.chain.from_iterable(
                decode_logs(body, time.time_ns() // 1000) for body in bodies
            )
        ):
            log = line.log
            number = line_id(log.time_us, 1)
            row = (number, log.time_us, 1, log.scope, line.body, line.attributes, None, None, None)
            rows.append((*row, f"@r=1\n@k=1\n{line.terms}"))
        return rows

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """
        Write rows in one transaction.
        """
        many = self._connection.executemany
        shard = self._shard
        self._connection.execute("BEGIN IMMEDIATE")
        many(f"INSERT INTO log_{shard} VALUES (?,?,?,?,?,?,?,?,?)", [row[:9] for row in rows])
        many(
            f"INSERT INTO text_{shard} (rowid, body) VALUES (?,?)",
            [(row[0], row[4]) for row in rows],
        )
        many(
            f"INSERT INTO terms_{shard} (rowid, terms) VALUES (?,?)",
            [(row[0], row[9]) for row in rows],
        )
        self._connection.execute("COMMIT")


def send_all(port: int, bodies: Sequence[bytes]) -> float:
    """
    Send requests over some connections at once; return how long it took, in seconds.
    """
    waiting = iter(bodies)
    lock = threading.Lock()

    def send(connection: Connection) -> None:
        with contextlib.closing(connection):
            while True:
                with lock:
                    body = next(waiting, None)
                if body is None:
                    return
                connection.send(body)

    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, [Connection(port) for _ in range(CONNECTIONS)]))
    return time.perf_counter() - started


def part_writing(goals: ViewerGoals, *, rounds: int, requests: int) -> None:
    rates: list[float] = []
    bare_rates: list[float] = []
    cpu_us: list[float] = []
    made = Requests(seed=1, batches=min(requests, 40))
    group = CONNECTIONS * BATCH_LINES
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        viewer = stack.enter_context(ViewerServer(Path(folder, "viewer.db")))
        bare = Bare(Path(folder, "bare.db"))
        stack.callback(bare.close)
        for turn in range(rounds + 1):
            bodies = [made.next() for _ in range(requests)]
            rows = bare.rows(bodies)
            cpu = viewer.cpu_seconds()
            seconds = send_all(viewer.port, bodies)
            cpu = viewer.cpu_seconds() - cpu
            started = time.perf_counter()
            for first in range(0, len(rows), group):
                bare.write(rows[first : first + group])
            bare_seconds = time.perf_counter() - started
            if turn:  # the first one warms up
                rates.append(len(rows) / seconds)
                bare_rates.append(len(rows) / bare_seconds)
                cpu_us.append(cpu / len(rows) * 1e6)
        summary = json.loads(Connection(viewer.port).get("/logs/summary.json"))
        sent = (rounds + 1) * requests * BATCH_LINES
        if summary["total"] != sent:
            sys.exit(f"{sent} lines were acknowledged, and {summary['total']} are there")
        ratios = [rate / bare for rate, bare in zip(rates, bare_rates, strict=True)]
        request_bytes = statistics.mean(map(len, bodies))
        table(
            f"Writing: batches of {BATCH_LINES} lines ({request_bytes / 1000:.0f} kB as gzip), "
            f"{CONNECTIONS} connections",
            ["lines a second", "least round", "median", "largest round"],
            [
                [name, *(f"{number:,.0f}" for number in (min(of), statistics.median(of), max(of)))]
                for name, of in (
                    ("acknowledged by the viewer", rates),
                    ("`sqlite3.executemany` alone", bare_rates),
                )
            ],
        )
        print(f"\nThe viewer took {statistics.median(cpu_us):.1f} µs of CPU for a line.")
        goals.at_least("lines acknowledged a second", WRITE_GOAL, statistics.median(rates), "")
        goals.at_least(
            "the same, to `sqlite3.executemany`", BARE_GOAL, statistics.median(ratios), " x"
        )
        goals.at_most("memory while writing, largest RSS", MEMORY_GOAL_MB, viewer.rss_mb, " MB")
        print(f"It took {viewer.rss_mb:.0f} MB of memory at the most (PSS {viewer.pss_mb:.0f} MB).")


# --- reading ---------------------------------------------------------------------------

USERS: Final = tuple(range(13, 4000, 61))


def _cycle(name: str, *values: str) -> Callable[[int], dict[str, str]]:
    return lambda turn: {name: values[turn % len(values)]}


QUERIES: Final[dict[str, tuple[str, Callable[[int], dict[str, str]]]]] = {
    "first page": ("/logs.json", lambda turn: {}),
    "first page, HTML": ("/logs", lambda turn: {}),
    "text, frequent": ("/logs.json", _cycle("q", "order", "answered", "article mug", "items in")),
    "text, rare": ("/logs.json", _cycle("q", "acquiring bank", "refund of order", "was refused")),
    "text, none": ("/logs.json", _cycle("q", "deadlock", "no such table", "placed by nobody")),
    "text, of two letters": ("/logs.json", _cycle("q", "or", "ms", "zz")),
    "attribute, frequent": (
        "/logs.json",
        _cycle("is.http.request.method", "POST", "GET"),
    ),
    "attribute, rare": ("/logs.json", _cycle("is.refund.reason", "acquirer")),
    "attribute, one user": (
        "/logs.json",
        _cycle("is.posthogDistinctId", *(f"user-{number}" for number in USERS)),
    ),
    "attribute, none": ("/logs.json", _cycle("is.refund.reason", "none", "other")),
    "attribute, not and without": (
        "/logs.json",
        lambda turn: {"not.http.request.method": "GET", "without.http.route": "cart"},
    ),
    "severity and service": (
        "/logs.json",
        lambda turn: {"severity": "error", "service": SERVICES[turn % 5]},
    ),
    "counts, all": ("/logs/summary.json", lambda turn: {}),
    "counts, last hour": ("/logs/summary.json", lambda turn: {"since": "1h"}),
    "counts, frequent text": ("/logs/summary.json", _cycle("q", "order", "answered")),
    "counts, rare text": ("/logs/summary.json", _cycle("q", "acquiring bank", "was refused")),
    "counts, frequent attribute": (
        "/logs/summary.json",
        _cycle("is.http.request.method", "POST", "GET"),
    ),
    "counts, one user": (
        "/logs/summary.json",
        _cycle("is.posthogDistinctId", *(f"user-{number}" for number in USERS)),
    ),
    "attribute names": ("/logs/attributes.json", lambda turn: {}),
    "linkage": ("/linkage.json", lambda turn: {}),
}
"""What is asked for: an address, and its parameters in each turn."""


@contextlib.contextmanager
def arriving(port: int) -> Iterator[list[float]]:
    """
    Send lines in the background, at a steady rate; yield how long each request took, in seconds.
    """
    requests = Requests(seed=3, batches=20, lines=ARRIVING_LINES // ARRIVALS_PER_SECOND)
    stopped = threading.Event()
    taken: list[float] = []

    def send() -> None:
        connection = Connection(port)
        next_at = time.perf_counter()
        while not stopped.is_set():
            body = requests.next()
            started = time.perf_counter()
            connection.send(body)
            taken.append(time.perf_counter() - started)
            next_at += 1 / ARRIVALS_PER_SECOND
            stopped.wait(max(next_at - time.perf_counter(), 0))
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield taken
    finally:
        stopped.set()
        thread.join()


@dataclass
class Times:
    """
    How long requests took, in seconds.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def ms(self, share: float) -> float:
        """
        Return how long at most that share of the requests took, in milliseconds.
        """
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3

    @property
    def cells(self) -> list[str]:
        return [f"{self.ms(share):.0f}" for share in (0.5, 0.95, 1)]


def measure_queries(port: int, requests: int) -> dict[str, Times]:
    """
    Ask each query so many times, all of them in turns.
    """
    times = {name: Times() for name in QUERIES}
    connection = Connection(port)
    for turn in range(requests):
        for name, (path, parameters) in QUERIES.items():
            address = f"{path}?{urlencode(parameters(turn))}"
            started = time.perf_counter()
            answer = connection.get(address)
            times[name].seconds.append(time.perf_counter() - started)
            if not turn and "json" in path:
                times[name].answers.append(json.loads(answer))
    connection.close()
    return times


def found_of(answer: Any) -> str:
    """
    Return how much of what there is a query's first answer has.
    """
    if isinstance(answer, dict) and "logs" in answer:
        more = ", out of time" if answer["searched_to_us"] is not None else ""
        return f"{len(answer['logs'])} lines{more}"
    if isinstance(answer, dict) and "buckets" in answer:
        more = ", out of time" if answer["counted_from_us"] is not None else ""
        return f"{answer['total']:,} lines{more}"
    return ""


def log_lines() -> None:
    """
    Log each line of stdin, as an app does.
    """
    configure_logging(service_name="shop")
    log = structlog.get_logger("shop.cart")
    for text in sys.stdin:
        log.info("seen at once", mark=text.strip(), sessionId="s1")


def measure_live(port: int, lines: int) -> Times:
    """
    Return how long it takes from a line's logging until the page that shows it has it.
    """
    url = f"http://127.0.0.1:{port}"
    app = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.viewer", "--log"],
        cwd=Path(__file__).parents[1],
        env=plain_environment(POSTHOG_HOST=url, POSTHOG_PROJECT_TOKEN="phc_local"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    times = Times()
    page, stream = Connection(port), http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        stream.request("GET", "/live")
        events = stream.getresponse()
        assert app.stdin is not None
        for number in range(lines + 1):
            mark = f"mark-{time.time_ns()}"
            started = time.perf_counter()
            app.stdin.write(f"{mark}\n")
            app.stdin.flush()
            while True:
                if time.perf_counter() - started > TIMEOUT_S:
                    sys.exit(f"The line {mark} did not come within {TIMEOUT_S:.0f} s")
                if events.readline().startswith(b"event: changed"):
                    found = json.loads(page.get(f"/logs.json?is.mark={mark}"))
                    if found["logs"]:
                        break
            if number:  # before the first one, the app has to start
                times.seconds.append(time.perf_counter() - started)
            # Not in step with the exporter.
            time.sleep(random.random() * 0.5)
    finally:
        app.terminate()
        app.communicate()
        page.close()
        stream.close()
    return times


def part_reading(
    goals: ViewerGoals, *, database: Path, lines: int, requests: int, live_lines: int
) -> None:
    if database.exists():
        print(f"\nThe lines in {database.name} are used.")
    else:
        started = time.perf_counter()
        store = Store(database, retention_days=RETENTION_DAYS, max_size_mb=MAX_SIZE_MB)
        try:
            asyncio.run(fill(store, lines))
        finally:
            store.close()
        seconds = time.perf_counter() - started
        print(
            f"\n{lines:,} lines were stored in {seconds:.0f} s ({lines / seconds:,.0f} a second)."
        )
    print(f"The database has {database.stat().st_size / 1e6:,.0f} MB.")
    sys.stdout.flush()

    with ViewerServer(database) as viewer:
        started = time.perf_counter()
        with arriving(viewer.port) as arrived:
            times = measure_queries(viewer.port, requests)
            live = measure_live(viewer.port, live_lines)
        rate = len(arrived) * ARRIVING_LINES / ARRIVALS_PER_SECOND
        rate /= time.perf_counter() - started
        total = json.loads(Connection(viewer.port).get("/logs/summary.json"))["total"]
        rss_mb, pss_mb = viewer.rss_mb, viewer.pss_mb
    table(
        f"Reading from {total:,} lines, {requests} requests each, "
        f"while {rate:,.0f} lines a second come in",
        ["milliseconds", "p50", "p95", "max", "the first answer"],
        [
            [name, *of.cells, *(found_of(answer) for answer in of.answers or [None])]
            for name, of in times.items()
        ],
    )
    table(
        "Meanwhile",
        ["milliseconds", "p50", "p95", "max"],
        [
            ["a batch is acknowledged", *Times(arrived).cells],
            ["from a line's logging until it is in the list", *live.cells],
        ],
    )
    print(f"\nThe viewer took {rss_mb:.0f} MB of memory at the most (PSS {pss_mb:.0f} MB).")
    for name, of in times.items():
        goals.at_most(f"{name}, p95", READ_GOAL_MS, of.ms(0.95), " ms")
    goals.at_most("memory while reading, largest RSS", MEMORY_GOAL_MB, rss_mb, " MB")
    goals.at_most("a live line, p95", LIVE_GOAL_S, live.ms(0.95) / 1e3, " s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="200,000 lines, and fewer requests")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="one part")
    add("--lines", type=int, help=f"how many lines are stored; by default {LINES:,}")
    add("--rounds", type=int, help="how often writing is measured; by default 8")
    add("--requests", type=int, help="how often each query is asked; by default 60")
    add("--database", type=Path, help="keep the stored lines there, for the next time")
    add("--log", action="store_true", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.log:
        log_lines()
        return
    quick = arguments.quick
    print_machine()
    print(f"SQLite {sqlite3.sqlite_version}")
    goals = ViewerGoals()
    if "writing" in arguments.only:
        rounds = arguments.rounds or (2 if quick else 8)
        part_writing(goals, rounds=rounds, requests=20 if quick else 80)
    if "reading" in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            part_reading(
                goals,
                database=arguments.database or Path(folder, "viewer.db"),
                lines=arguments.lines or (200_000 if quick else LINES),
                requests=arguments.requests or (10 if quick else 60),
                live_lines=3 if quick else 20,
            )
    table("Goals", ["", "goal", "measured", ""], goals.rows)


if __name__ == "__main__":
    main()
