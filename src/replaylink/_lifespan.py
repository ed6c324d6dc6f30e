"""
What is to be done as the server starts the app, and as it ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._types import Message, Send

_at_start: dict[str, Callable[[], object]] = {}
_at_end: dict[str, Callable[[], object]] = {}


def register(
    name: str, *, at_start: Callable[[], object], at_end: Callable[[], object] | None = None
) -> None:
    """
    Take note of what to do; it takes the place of what has that name.

    Args:
        name: Whose it is.
        at_start: Called when a server has set up its own logging and starts the app, or
            at the first request.
        at_end: Called as an ASGI server ends the app, and perhaps the process with it.
    """
    _at_start[name] = at_start
    _at_end.pop(name, None)
    if at_end is not None:
        _at_end[name] = at_end


def started() -> None:
    """
    Do what is to be done as the server starts the app.
    """
    for callback in _at_start.values():
        callback()


async def _in_thread(callback: Callable[[], object]) -> None:
    """
    Call what may take its time; other apps may be at work in this event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio's
        callback()
    else:
        await asyncio.to_thread(callback)


def ending(send: Send) -> Send:
    """
    Return the *send* of a lifespan that does what is to be done as the app has ended.
    """
    if not _at_end:
        return send

    async def send_ending(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            for callback in _at_end.values():
                await _in_thread(callback)
        await send(message)

    return send_ending
