"""
What is to be done as the server starts the app, when it has set up its own logging.
"""

from __future__ import annotations

from collections.abc import Callable

_callbacks: dict[str, Callable[[], object]] = {}


def at_startup(name: str, callback: Callable[[], object]) -> None:
    """
    Call *callback* as a server starts the app; it takes the place of another of that name.
    """
    _callbacks[name] = callback


def started() -> None:
    """
    Do what is to be done as the server starts the app.
    """
    for callback in _callbacks.values():
        callback()
