"""
The viewer's server: uvicorn on one socket, which says no more than errors and ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SWITCH_INTERVAL_S = 0.0005

END_S = 1
"""How long answers that are under way may take at the end, in seconds."""


def listen(host: str, port: int) -> socket.socket:
    """
    Open a port; 0 is any free one.

    Raises:
        OSError: If it cannot be opened.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, family=0 if ":" in host else socket.AF_INET, type=socket.SOCK_STREAM
    )[0]
    sock = socket.socket(family)
    # A port that a former run has just left may be taken again. Windows calls something
    # else by that name.
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def serve(app: ASGIApp, sock: socket.socket) -> None:
    """
    Serve until Ctrl-C or SIGTERM.

    Raises:
        KeyboardInterrupt: At the end. uvicorn raises the signal that ended it once more.
    """
    # Neither that it starts nor that somebody tried a WebSocket; errors are told.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    # The thread that writes lets go of Python's lock for each statement. It would wait for 5 ms
    # to get it back each time, whenever something is being decoded.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    streams = EventStreams(app)
    config = uvicorn.Config(
        streams,
        access_log=False,
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=END_S,
        ws="none",
    )
    _Server(config, streams).run(sockets=[sock])


class EventStreams:
    """
    Ends the streams of server-sent events, which would never end by themselves.

    Args:
        app: The app that sends them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._open: set[asyncio.Task[object]] = set()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 # a server calls it

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            ):
                self._open.add(task)
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except asyncio.CancelledError:
            if not self._ended:
                raise
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._open.discard(task)

    def end(self) -> None:
        """
        End all that are open.
        """
        self._ended = True
        for task in self._open:
            task.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, streams: EventStreams) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.end()
        # What is cut off from here on is no error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
