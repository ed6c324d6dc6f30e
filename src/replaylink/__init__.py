"""
Link the log lines of a request to the session replay of the browser that sent it.
"""

from __future__ import annotations

from ._identity import Identity, current_identity, identify, linked
from .sources import CORS_HEADERS
from .threads import carry
from .urls import replay_url

__all__ = [
    "CORS_HEADERS",
    "Identity",
    "carry",
    "current_identity",
    "identify",
    "linked",
    "replay_url",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("replaylink")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
