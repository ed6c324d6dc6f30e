"""
What requests feel of the endpoint that the log lines go to.

    python -m benchmarks.delivery            in about two minutes
    python -m benchmarks.delivery --quick    only to see that it works

One app, which logs five lines a request, runs under a uvicorn for each kind of endpoint.
The servers are put under load in turns, round after round, so what slows the machine down
for a while slows all of them. Two servers have an endpoint that is in order: what lies
between these two is noise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from replaylink._types import ASGIApp, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.otel import configure_logging

from .overhead import Goals, print_machine, table
from .servers import Server
from .traffic import HIT_GET

ENDPOINTS: Final = {
    "prompt": "in order",
    "again": "in order, once more",
    "none": "none, nothing is sent",
    "slow": "answers after 5 s",
    "500": "answers 500",
    "429": "answers 429",
    "401": "answers 401",
    "refused": "refuses the connection",
    "silent": "never answers",
}
"""The kinds of endpoints, the undisturbed ones first."""

TROUBLED: Final = ("slow", "500", "429", "401", "refused", "silent")

SLOW_S: Final = 5.0

CLIENTS: Final = 8
"""How many connections a server has at once."""

PAUSE_S: Final = 0.02
"""How long a client pauses between requests, where latency is measured."""

SETTLE_S: Final = 5.0
"""How long an endpoint that is in order may take for what is left after a turn."""


# --- the app, in a process for each server ---------------------------------------------


def app() -> ASGIApp:
    """
    Return an app that logs three lines by structlog, and one by the standard library.
    """
    endpoint = os.environ.get("ENDPOINT")
    logs = configure_logging(service_name="shop", endpoint=endpoint)
    log = structlog.get_logger("shop.cart")
    library = logging.getLogger("library.pool")

    async def cart(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/settle":
            await asyncio.to_thread(logs.flush, SETTLE_S)
        else:
            log.info("cart opened", items=3, currency="EUR")
            library.info("connection %d of %d", 2, 10)
            log.info("price calculated", total=17.5, coupon=None)
            log.warning("stock is low", article="mug-7", left=2)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return ReplayLinkMiddleware(cart)


class ShopServer(Server):
    """
    The app under uvicorn, with an endpoint of its own.
    """

    def __init__(self, endpoint: str | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = f"uvicorn --port {self.port} --factory benchmarks.delivery:app"
        ours = ("POSTHOG_", "OTEL_", "ENDPOINT")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        if endpoint is not None:
            environ["ENDPOINT"] = endpoint
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the server
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command.split(), "--timeout-keep-alive", "600"],
            cwd=Path(__file__).parents[1],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )

    def wait(self) -> None:
        try:
            super().wait()
        except OSError:
            self.errors.seek(0)
            sys.exit(f"uvicorn did not start:\n{self.errors.read()}")


# --- the endpoints, all in one process -------------------------------------------------


@dataclass
class Endpoint:
    """
    An endpoint of one kind, which reads what it gets, and counts it.
    """

    kind: str
    requests: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    await self._answer(writer, 200, str(self.requests))
                    continue
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                self.requests += 1
                if self.kind == "silent":
                    continue
                if self.kind == "slow":
                    await asyncio.sleep(SLOW_S)
                await self._answer(writer, int(self.kind) if self.kind.isdecimal() else 200, "{}")
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, status: int, body: str) -> None:
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        await writer.drain()


async def serve_endpoints(kinds: Sequence[str]) -> None:
    """
    Serve endpoints until stdin ends; write their ports to stdout.
    """
    servers = [
        await asyncio.start_server(Endpoint(kind).serve, "127.0.0.1", 0, limit=2**22)
        for kind in kinds
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def endpoints() -> Iterator[dict[str, str | None]]:
    """
    Yield the address of an endpoint of each kind.
    """
    kinds = [kind for kind in ENDPOINTS if kind not in ("none", "refused")]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.delivery", "--serve", *kinds],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Bound, so that nobody else listens there, and closed to connections.
    with process, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert process.stdout is not None
        ports = dict(zip(kinds, process.stdout.readline().split(), strict=True))
        ports["refused"] = closed.getsockname()[1]
        try:
            yield {
                kind: f"http://127.0.0.1:{ports[kind]}" if kind in ports else None
                for kind in ENDPOINTS
            }
        finally:
            process.terminate()


# --- the load --------------------------------------------------------------------------


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: str = ""
) -> bytes:
    """
    Send a request, and return the body of its answer.
    """
    writer.write(f"GET {path} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(head.decode())
    return await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))


async def ask_once(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(ask(reader, writer, path), SETTLE_S + 5)
    finally:
        writer.close()


async def load(port: int, seconds: float, pause_s: float) -> list[float]:
    """
    Return how long each request took, in seconds.
    """
    headers = "".join(f"{name}: {value}\r\n" for name, value in HIT_GET.headers[1:])
    taken: list[float] = []
    until = time.perf_counter() + seconds

    async def one_client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            # Not all of them at the same moment.
            await asyncio.sleep(pause_s * number / CLIENTS)
            while (start := time.perf_counter()) < until:
                await ask(reader, writer, "/cart", headers)
                taken.append(time.perf_counter() - start)
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            writer.close()

    clients = asyncio.gather(*(one_client(number) for number in range(CLIENTS)))
    await asyncio.wait_for(clients, seconds + 30)
    return taken


@dataclass
class Measured:
    """
    What was measured with one endpoint, a number for each round.
    """

    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    requests_per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    sent: int | None = None

    def turn(self, server: ShopServer, seconds: float) -> None:
        """
        Measure latency at a moderate load, and then how many requests are possible.
        """
        taken = sorted(asyncio.run(load(server.port, seconds * 0.6, PAUSE_S)))
        for percent, numbers in ((50, self.p50_ms), (95, self.p95_ms), (99, self.p99_ms)):
            numbers.append(taken[min(len(taken) * percent // 100, len(taken) - 1)] * 1e3)
        cpu = server.cpu_seconds()
        start = time.perf_counter()
        count = len(asyncio.run(load(server.port, seconds * 0.4, 0)))
        self.requests_per_second.append(count / (time.perf_counter() - start))
        self.cpu_us.append((server.cpu_seconds() - cpu) / count * 1e6)


COLUMNS: Final[dict[str, Callable[[Measured], list[float]]]] = {
    "p50, ms": lambda measured: measured.p50_ms,
    "p95, ms": lambda measured: measured.p95_ms,
    "p99, ms": lambda measured: measured.p99_ms,
    "requests/s": lambda measured: measured.requests_per_second,
    "µs of CPU each": lambda measured: measured.cpu_us,
}


PERCENTILES: Final = ("p50, ms", "p95, ms", "p99, ms")


def measure(rounds: int, seconds: float) -> dict[str, Measured]:
    """
    Put load on a server for each kind of endpoint, in turns of so many seconds.
    """
    measured = {kind: Measured() for kind in ENDPOINTS}
    with contextlib.ExitStack() as stack:
        addresses = stack.enter_context(endpoints())
        servers = {}
        for kind, address in addresses.items():
            servers[kind] = ShopServer(address)
            stack.callback(servers[kind].stop)
        # All of them at once, for each may take its time.
        for server in servers.values():
            server.wait()
            stack.callback(server.process.terminate)
        kinds = list(ENDPOINTS)
        for turn in range(rounds + 1):
            start = turn % len(kinds)
            for kind in kinds[start:] + kinds[:start]:
                # The first round warms up, and brings the endpoints into trouble.
                into = measured[kind] if turn else Measured()
                into.turn(servers[kind], seconds if turn else max(seconds / 2, 0.3))
                if kind in ("prompt", "again"):
                    # What is left is not to be sent while the next one is measured.
                    asyncio.run(ask_once(servers[kind].port, "/settle"))
        for kind, address in addresses.items():
            if address is not None and kind != "refused":
                port = int(address.rpartition(":")[2])
                measured[kind].sent = int(asyncio.run(ask_once(port, "/requests")))
    return measured


def ratios(measured: Measured, to: Measured, column: str) -> list[float]:
    """
    Return one measurement to another one, for each round.
    """
    of = COLUMNS[column]
    return [one / other for one, other in zip(of(measured), of(to), strict=True)]


def report(measured: dict[str, Measured]) -> None:
    """
    Print what was measured, and what of it is more than noise.
    """
    prompt = measured["prompt"]
    rows = []
    for kind, title in ENDPOINTS.items():
        row = [title]
        for column, of in COLUMNS.items():
            median = statistics.median(of(measured[kind]))
            ratio = statistics.median(ratios(measured[kind], prompt, column))
            shown = f"{median:.2f}" if column.endswith("ms") else f"{median:,.0f}"
            row.append(shown if kind == "prompt" else f"{shown} ({ratio:.2f})")
        rows.append([*row, "" if measured[kind].sent is None else f"{measured[kind].sent:,}"])
    table(
        f"uvicorn, five lines a request, {CLIENTS} connections: the median round "
        "(and its ratio to the endpoint in order)",
        ["the endpoint", *COLUMNS, "requests it got"],
        rows,
    )
    noise = {column: ratios(measured["again"], prompt, column) for column in COLUMNS}
    table(
        "Noise: the endpoint in order, once more, to itself",
        ["", "least round", "median", "largest round"],
        (
            [column, *(f"{number:.2f}" for number in (min(of), statistics.median(of), max(of)))]
            for column, of in noise.items()
        ),
    )
    goals = Goals()
    for kind in TROUBLED:
        for column in PERCENTILES:
            ratio = statistics.median(ratios(measured[kind], prompt, column))
            what = f"{ENDPOINTS[kind]}: {column.partition(',')[0]}, to the endpoint in order"
            # The two could as well be the other way round.
            limit = max(*noise[column], *(1 / number for number in noise[column]))
            goals.at_most(what, round(limit, 2), ratio, " x")
    table("Goals: latency within noise", ["", "goal", "measured", ""], goals.rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve_endpoints(arguments.serve))
        return
    print_machine()
    if arguments.quick:
        report(measure(rounds=1, seconds=0.3))
    else:
        report(measure(rounds=8, seconds=1.3))


if __name__ == "__main__":
    main()
