"""
Servers, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.client import Client
from tests.servers.plan import Line, Plan, Protocol

START_S: Final = 20
STOP_S: Final = 5
LINES_S: Final = 10
"""How long to wait for lines that are still being written, in seconds."""

QUIET_S: Final = 0.15
"""After how long without a line a request is taken to be over, in seconds."""

ROOT: Final = Path(__file__).parents[2]

_PYTHONPATH: Final = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]

WERKZEUG: Final = """
import sys
from werkzeug.serving import run_simple
from werkzeug.utils import import_string

host, port, app, threaded = sys.argv[1:]
run_simple(host, int(port), import_string(app), threaded=threaded == "threaded")
"""


DAPHNE: Final = """
import logging
import sys
from daphne.server import Server
from werkzeug.utils import import_string

port, app = sys.argv[1:]
log = logging.getLogger("daphne.access")
Server(
    import_string(app),
    endpoints=[f"tcp:{port}:interface=127.0.0.1"],
    action_logger=lambda *action: log.info("%s %s %s", *action),
).run()
"""

CHEROOT: Final = """
import logging
import signal
import sys
from cheroot.wsgi import Server
from werkzeug.utils import import_string

port, app, threads = sys.argv[1:]
log = logging.getLogger("cheroot")
server = Server(
    ("127.0.0.1", int(port)),
    import_string(app),
    numthreads=int(threads),
    request_queue_size=128,
)
server.error_log = lambda message="", level=20, traceback=False: log.log(
    level, message, exc_info=traceback
)
server.start()
"""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """
    A server, and what it does to requests.

    Args:
        name: How tests call it.
        label: How the README calls it.
        protocol: Which app it runs.
        command: The arguments of Python that start it.
        keeps_alive: Whether a connection serves more than one request.
        reuses_threads: Whether a thread serves more than one connection.
        drains: Whether it reads the rest of a body that the app did not read.
        survives_late_errors: Whether it still answers after an error in a response.
        half_close: Whether it is faster when told that nothing follows a request.
        app: The app to run; by default the one for its protocol in `tests.servers.apps`.
    """

    name: str
    label: str
    protocol: Protocol
    command: tuple[str, ...]
    keeps_alive: bool = True
    reuses_threads: bool = True
    drains: bool = True
    survives_late_errors: bool = True
    half_close: bool = False
    app: str = ""

    def arguments(self, port: int) -> list[str]:
        app = self.app or f"tests.servers.apps:{self.protocol}"
        return [part.format(app=app, port=port) for part in self.command]


def _uvicorn(http: str, loop: str) -> Kind:
    return Kind(
        name=f"uvicorn-{http}-{loop}",
        label="uvicorn",
        protocol="asgi",
        command=(
            *("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}"),
            *("--http", http, "--loop", loop, "{app}"),
        ),
    )


def _gunicorn(name: str, label: str, protocol: Protocol, *options: str) -> Kind:
    return Kind(
        name=f"gunicorn-{name}",
        label=label,
        protocol=protocol,
        command=(
            *("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket"),
            *("--access-logfile", "-", *options, "{app}"),
        ),
        keeps_alive=name != "sync",
    )


def _granian(protocol: Protocol, *options: str) -> Kind:
    return Kind(
        name=f"granian-{protocol}",
        label="granian",
        protocol=protocol,
        command=(
            *("-m", "granian", "--host", "127.0.0.1", "--port", "{port}"),
            *("--interface", protocol, "--access-log", *options, "{app}"),
        ),
    )


def _werkzeug(name: str, threads: str) -> Kind:
    return Kind(
        name=name,
        label="werkzeug",
        protocol="wsgi",
        command=("-c", WERKZEUG, "127.0.0.1", "{port}", "{app}", threads),
        keeps_alive=False,
        reuses_threads=threads == "alone",
        # After a response it waits 10 ms for what the client may still have to say.
        half_close=True,
    )


THREADS: Final = "4"

KINDS: Final = (
    _uvicorn("h11", "asyncio"),
    _uvicorn("httptools", "asyncio"),
    _uvicorn("h11", "uvloop"),
    _uvicorn("httptools", "uvloop"),
    Kind(
        name="hypercorn",
        label="hypercorn",
        protocol="asgi",
        command=(
            *("-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "0"),
            *("--config", f"file:{Path(__file__).parent / 'hypercorn_config.py'}", "{app}"),
        ),
    ),
    Kind(
        name="daphne",
        label="daphne",
        protocol="asgi",
        command=("-c", DAPHNE, "{port}", "{app}"),
        # Once a second it looks at what has failed, until it finds such an error.
        survives_late_errors=False,
    ),
    _granian("asgi"),
    _gunicorn(
        *("uvicorn", "gunicorn with uvicorn's worker", "asgi"),
        *("--worker-class", "uvicorn_worker.UvicornWorker"),
    ),
    _gunicorn(
        *("uvicorn-h11", "gunicorn with uvicorn's worker", "asgi"),
        *("--worker-class", "uvicorn_worker.UvicornH11Worker"),
    ),
    _gunicorn(
        *("asgi", "gunicorn's ASGI worker", "asgi"),
        *("--worker-class", "asgi", "--asgi-loop", "asyncio"),
    ),
    _gunicorn("sync", "gunicorn", "wsgi"),
    _gunicorn("gthread", "gunicorn", "wsgi", "--worker-class", "gthread", "--threads", THREADS),
    _werkzeug("werkzeug", "alone"),
    _werkzeug("werkzeug-threaded", "threaded"),
    Kind(
        name="waitress",
        label="waitress",
        protocol="wsgi",
        command=("-m", "waitress", "--listen=127.0.0.1:{port}", f"--threads={THREADS}", "{app}"),
    ),
    Kind(
        name="cheroot",
        label="cheroot",
        protocol="wsgi",
        command=("-c", CHEROOT, "{port}", "{app}", THREADS),
        drains=False,
    ),
    _granian("wsgi", "--blocking-threads", THREADS),
)


class Server:
    """
    A server that runs, and the lines that it and its app have logged.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.port = _free_port()
        self._lines = folder / "lines.jsonl"
        self._lines.touch()
        self._output = folder / "output.txt"
        self._offset = 0
        self._by_number: defaultdict[int | None, list[Line]] = defaultdict(list)
        self._number = 0
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *kind.arguments(self.port)],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *_PYTHONPATH]),
                    "REPLAYLINK_TEST_LINES": str(self._lines),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own, so that workers can be ended with it.
                start_new_session=True,
            )

    def client(self) -> Client:
        return Client(self.port, half_close=self.kind.half_close, drains=self.kind.drains)

    def next_number(self) -> int:
        """
        Return the number of a request that was not there before.
        """
        self._number += 1
        return self._number

    def output(self) -> str:
        """
        Return what the server wrote to stdout and stderr.
        """
        return self._output.read_text(errors="replace")

    def wait_for_start(self) -> None:
        """
        Wait until the server takes connections.

        Raises:
            RuntimeError: If it does not within `START_S`.
        """
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        msg = f"{self.kind.name} did not start:\n{self.output()}"
        raise RuntimeError(msg)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def lines(self) -> dict[int | None, list[Line]]:
        """
        Return all lines until now, by the number of the request that they speak of.
        """
        with self._lines.open("rb") as file:
            file.seek(self._offset)
            for text in file:
                # The last one may be half written.
                if not text.endswith(b"\n"):
                    break
                self._offset += len(text)
                line = json.loads(text)
                self._by_number[line.pop("n", None)].append(line)
        return self._by_number

    async def lines_of(self, plan: Plan) -> list[Line]:
        """
        Return the lines of a request, as soon as all of its app are there.
        """
        wanted = plan.events(self.kind.protocol)

        def is_complete() -> bool:
            events = [line["event"] for line in self.lines()[plan.number]]
            return all(events.count(event) >= count for event, count in wanted.items())

        await self.until(is_complete)
        return self.lines()[plan.number]

    async def lines_when_quiet(self, plan: Plan) -> list[Line]:
        """
        Return the lines of a request that was hung up, when no more come.
        """
        count = -1
        while count != len(self.lines()[plan.number]):
            count = len(self.lines()[plan.number])
            await asyncio.sleep(QUIET_S)
        return self.lines()[plan.number]

    async def until(self, condition: Callable[[], bool], *, seconds: float = LINES_S) -> None:
        """
        Wait for a condition, but not for ever.
        """
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
            # Another process writes what is waited for: there is nothing to be woken by.
            await asyncio.sleep(0.005)


@contextmanager
def running(kind: Kind, folder: Path) -> Iterator[Server]:
    """
    Run a server, and stop it at the end.
    """
    server = Server(kind, folder)
    try:
        server.wait_for_start()
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
