"""
Runs the chat: ``python -m examples.fastapi_app``.
"""

from __future__ import annotations

import contextlib
import logging

import uvicorn

from examples.demo import listen
from replaylink.otel import configure_logging

from .app import app

if __name__ == "__main__":
    sock = listen()
    configure_logging(service_name="fastapi-chat")
    # Leave out that it starts and stops; its errors and its access lines stay.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(app, log_config=None, log_level=None, timeout_graceful_shutdown=3)
    # uvicorn raises the signal that ended it once more.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[sock])
