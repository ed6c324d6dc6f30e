"""
The example apps for servers of the command line; ``python -m examples`` sets up logs itself.
"""

from __future__ import annotations

from examples.fastapi_app.app import app as fastapi_app
from examples.flask_app.app import app as flask_app
from replaylink.otel import configure_logging

__all__ = ["fastapi_app", "flask_app"]

configure_logging(service_name="chat")
