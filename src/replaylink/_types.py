"""
The ASGI types that this package speaks of, described without a framework.

See Also:
    https://asgi.readthedocs.io/en/latest/specs/main.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
"""What an ASGI server tells of a connection."""

Message: TypeAlias = MutableMapping[str, Any]
"""One ASGI event, received or sent."""

Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
"""What a WSGI server tells of a request."""
