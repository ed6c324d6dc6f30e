"""
The viewer on a free port, with a store that a test can write to.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn

from replaylink.viewer.app import create_app
from replaylink.viewer.records import Batch
from replaylink.viewer.store import Store


class Viewer:
    """
    A viewer that runs, in a thread of its own.
    """

    def __init__(self, url: str, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.store = store
        self._loop = loop

    def write(self, batch: Batch) -> None:
        """Put something into its store."""
        asyncio.run_coroutine_threadsafe(self.store.write(batch), self._loop).result(10)


@contextlib.contextmanager
def running_viewer() -> Iterator[Viewer]:
    """Run a viewer with an empty store."""
    store = Store(None)
    loop = asyncio.new_event_loop()
    app = create_app(store)
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                msg = "the viewer has not started"
                raise RuntimeError(msg)
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Viewer(f"http://127.0.0.1:{port}", store, loop)
    finally:
        server.should_exit = True
        thread.join(10)
        loop.close()
        store.close()
