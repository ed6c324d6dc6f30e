"""
Servers in processes of their own, and many clients at once.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any, Final

from tests.otel.receiver import Receiver

ROOT: Final = Path(__file__).parents[2]

PYTHONPATH: Final = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]

CLIENTS: Final = 64

TOKEN: Final = "phc_very_secret"

UVICORN: Final = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}")

GUNICORN: Final = (
    *("-m", "gunicorn", "--no-control-socket", "--access-logfile", "-", "--keep-alive", "60"),
    *("--bind", "127.0.0.1:{port}"),
)


class Server:
    """
    A server in a process of its own, and how it ended.

    Args:
        command: What Python is to run. ``{port}`` stands for a free port.
        folder: Where to run it, and to keep what it writes.
        settings: Environment variables to start it with.
    """

    def __init__(self, command: Sequence[str], folder: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POSTHOG_", "OTEL_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=self.port) for part in command)],
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
        msg = f"{' '.join(command)} did not start: {self.errors()}"
        raise RuntimeError(msg)

    def stop(self) -> float:
        """
        End it as an orchestrator does; return how long that took, in seconds.
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
def running(
    command: Sequence[str], folder: Path, receiver: Receiver, **settings: str
) -> Iterator[Server]:
    """
    Run a server whose logs go to the receiver.
    """
    settings = {"POSTHOG_HOST": receiver.url, "POSTHOG_PROJECT_TOKEN": TOKEN, **settings}
    server = Server(command, folder, **settings)
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Request:
    """
    A request, and the status that it is to be answered with.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200


def send(server: Server, requests: Sequence[Request], *, clients: int = CLIENTS) -> list[float]:
    """
    Send requests by several clients at once; return how long each took, in seconds.

    Each client has one connection, and every so manieth request.
    """
    all_here = Barrier(clients)

    def one_client(start: int) -> list[float]:
        seconds = []
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as client:
            client.connect()
            all_here.wait(20)
            for request in requests[start::clients]:
                begin = time.perf_counter()
                client.request(request.method, request.path, request.body, dict(request.headers))
                with client.getresponse() as response:
                    response.read()
                seconds.append(time.perf_counter() - begin)
                assert request.status == response.status
                if response.status == 500:
                    client.close()  # uvicorn does so, and does not say it
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return [second for part in pool.map(one_client, range(clients)) for second in part]
