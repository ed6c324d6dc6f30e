"""
Whole servers on the loopback interface, and the load that they are put under.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replaylink._types import ASGIApp
from replaylink.asgi import ReplayLinkMiddleware as ASGIReplayLink
from replaylink.wsgi import ReplayLinkMiddleware as WSGIReplayLink

from .peers import ASGITap, WSGITap, minimum_asgi, minimum_closing
from .traffic import HIT_GET


def bare_asgi() -> ASGIApp:
    return ASGITap()


def least_asgi() -> ASGIApp:
    return minimum_asgi(ASGITap())


def ours_asgi() -> Any:
    return ASGIReplayLink(ASGITap())


def bare_wsgi() -> Any:
    return WSGITap()


def least_wsgi() -> Any:
    return minimum_closing(WSGITap())


def ours_wsgi() -> Any:
    return WSGIReplayLink(WSGITap())


SERVERS = {
    "uvicorn": (
        "uvicorn --port {port} --factory --log-level warning --no-access-log "
        "--timeout-keep-alive 60 benchmarks.servers:{app}_asgi"
    ),
    "gunicorn (gthread)": (
        "gunicorn --bind 127.0.0.1:{port} --worker-class gthread --threads 4 --keep-alive 60 "
        "--log-level warning benchmarks.servers:{app}_wsgi()"
    ),
}

APPS = ("bare", "least", "ours")
"""The bare app, with the hand-written minimum around it, and with replaylink."""

CLIENTS = 8
"""How many connections each server has, with one request on its way on each."""

STARTUP_SECONDS = 20


class Server:
    """
    A real server in a process of its own, on a free port of the loopback interface.
    """

    def __init__(self, name: str, app: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        command = SERVERS[name].format(port=self.port, app=app).split()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=Path(__file__).parent.parent
        )

    def wait(self) -> None:
        """
        Return when the server takes connections.
        """
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_seconds(self) -> float:
        """
        Return the processor time that the server and its workers took so far.
        """
        ticks = 0
        pids = [self.process.pid]
        while pids:
            process = Path(f"/proc/{pids.pop()}")
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
            for task in process.glob("task/*/children"):
                pids += map(int, task.read_text().split())
        return ticks / os.sysconf("SC_CLK_TCK")


class Connection(asyncio.Protocol):
    """
    Sends the same request again as soon as its response is complete.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.until = 0.0
        self.count = 0
        self.received = b""
        self.length = 0
        self.done: asyncio.Future[None] | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def run(self, until: float) -> asyncio.Future[None]:
        assert self.transport is not None
        self.until = until
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(self.request)
        return self.done

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        assert self.done is not None
        self.received += data
        if not self.length:
            head, end, _ = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.done.set_exception(RuntimeError(head.decode("latin-1")))
                return
            self.length = len(head) + len(end) + len(b"ok")
        if len(self.received) < self.length:
            return
        self.received = b""
        self.count += 1
        if time.perf_counter() < self.until:
            self.transport.write(self.request)
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


async def load(server: Server, seconds: float) -> tuple[float, float]:
    """
    Return the requests per second, and the server's processor time for each in seconds.
    """
    lines = [f"{HIT_GET.method} /api/chat HTTP/1.1", *map(": ".join, HIT_GET.headers), "", ""]
    request = "\r\n".join(lines).encode()
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(request), "127.0.0.1", server.port))[1]
        for _ in range(CLIENTS)
    ]
    try:
        # Each connection's first request is not counted.
        await asyncio.wait_for(asyncio.gather(*(each.run(0) for each in connections)), 30)
        before = server.cpu_seconds()
        started = time.perf_counter()
        runs = [each.run(started + seconds) for each in connections]
        await asyncio.wait_for(asyncio.gather(*runs), seconds + 30)
        elapsed = time.perf_counter() - started
        count = sum(each.count - 1 for each in connections)
        return count / elapsed, (server.cpu_seconds() - before) / count
    finally:
        for each in connections:
            if each.transport is not None:
                each.transport.close()


@dataclass(frozen=True)
class Throughput:
    """
    What a server did in its best rounds.
    """

    requests_per_second: float
    cpu_us_per_request: float


def measure_server(name: str, rounds: int, seconds: float) -> dict[str, Throughput]:
    """
    Put load on a server with each of `APPS`, in turns.
    """
    servers: dict[str, Server] = {}
    found: dict[str, list[tuple[float, float]]] = {app: [] for app in APPS}
    try:
        for app in found:
            servers[app] = Server(name, app)
            servers[app].wait()
        for turn in range(rounds + 1):
            for app in APPS if turn % 2 else APPS[::-1]:
                result = asyncio.run(load(servers[app], seconds if turn else seconds / 4))
                if turn:  # the first one warms up
                    found[app].append(result)
    finally:
        for server in servers.values():
            server.stop()
    return {
        app: Throughput(
            requests_per_second=max(rate for rate, _ in results),
            cpu_us_per_request=min(cpu for _, cpu in results) * 1e6,
        )
        for app, results in found.items()
    }
