"""
Access lines: one structlog line for each request, on any server.

::

    app.add_middleware(ASGIAccessLog)         # FastAPI, Starlette
    app.add_middleware(ReplayLinkMiddleware)  # last, so that it is around it

    app.wsgi_app = ReplayLinkMiddleware(WSGIAccessLog(app.wsgi_app))  # Flask
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import structlog

from ._identity import logger
from ._ids import UNSAFE
from ._types import ASGIApp, Environ, Message

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["ASGIAccessLog", "WSGIAccessLog"]
