"""
A stand-in for PostHog on a loopback port, which gets what the real SDK sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple


class Event(NamedTuple):
    """
    A captured event: its name and whose it is. A made-up distinct ID counts as none.
    """

    name: str
    session_id: str | None = None
    user_id: str | None = None


@dataclass
class Receiver:
    """
    What came in.
    """

    port: int
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def raw_events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in body["batch"]]

    @property
    def events(self) -> list[Event]:
        return [
            Event(
                raw["event"],
                raw["properties"].get("$session_id"),
                None
                if raw["properties"].get("$process_person_profile") is False
                else raw["distinct_id"],
            )
            for raw in self.raw_events
        ]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """
    Run a receiver, and stop it at the end.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # in one packet: the second one would wait for an ACK of the first

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/batch"):
                receiver.bodies.append(json.loads(body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
