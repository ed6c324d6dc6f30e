"""
The viewer on a free port, whose store tells what was written to it, waits, or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from replaylink.viewer.app import create_app
from replaylink.viewer.records import Batch, Event, LogRecord, Snapshot
from replaylink.viewer.store import Store

WAIT_S: Final = 40
"""How long to wait for what is on its way: posthog-js gathers for up to 5 seconds."""


class WatchedStore(Store):
    """
    A store on the disk that keeps in mind what was written, and can be told to fail.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.batches: list[Batch] = []
        self.failure: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()

    async def write(self, batch: Batch) -> None:
        self.waiting.set()
        if not self.open.is_set():
            await asyncio.to_thread(self.open.wait, WAIT_S)
        if self.failure is not None:
            raise self.failure
        await super().write(batch)
        self.batches.append(batch)

    @property
    def log_records(self) -> list[LogRecord]:
        return [record for batch in list(self.batches) for record in batch.logs]

    @property
    def events(self) -> list[Event]:
        return [event for batch in list(self.batches) for event in batch.events]

    @property
    def pieces(self) -> list[Snapshot]:
        return [piece for batch in list(self.batches) for piece in batch.snapshots]

    def reset(self) -> None:
        self.batches.clear()
        self.failure = None
        self.open.set()
        self.waiting.clear()


class Viewer:
    """
    A viewer that runs.
    """

    def __init__(self, url: str, store: WatchedStore) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.store = store


def wait_until(condition: Callable[[], object]) -> None:
    """
    Wait for something that is about to happen.

    Raises:
        TimeoutError: If it does not.
    """
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            msg = f"it has not happened within {WAIT_S} s"
            raise TimeoutError(msg)
        time.sleep(0.02)


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """
    Serve an app by a real server, at the address that this yields.
    """
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def running_viewer() -> Iterator[Viewer]:
    """
    Run a viewer with an empty store.
    """
    store = WatchedStore()
    try:
        with served(create_app(store)) as url:
            yield Viewer(url, store)
    finally:
        store.close()
