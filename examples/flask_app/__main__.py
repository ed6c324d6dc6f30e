"""
Runs the chat: ``python -m examples.flask_app``.
"""

from __future__ import annotations

import waitress  # type: ignore[import-untyped]

from examples.demo import listen
from replaylink.otel import configure_logging

from .app import app

if __name__ == "__main__":
    sock = listen()
    configure_logging(service_name="flask-chat")
    # A browser opens six connections; with a thread for each, none has to wait.
    waitress.serve(app, sockets=[sock], threads=8, _quiet=True)
