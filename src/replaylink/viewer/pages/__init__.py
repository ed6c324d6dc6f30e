"""
The viewer's pages, and their JSON twins.
"""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from replaylink.viewer.pages import errors, linkage, live, logs, replays, setup

_STATIC = Path(__file__).parent.parent / "static"

ROUTES: list[BaseRoute] = [
    *setup.ROUTES,
    *logs.ROUTES,
    *replays.ROUTES,
    *errors.ROUTES,
    *linkage.ROUTES,
    *live.ROUTES,
    Mount("/static/own", StaticFiles(directory=_STATIC)),
]
