"""
The way of a request's context into a thread that does not take it by itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import copy_context
from typing import ParamSpec, TypeVar

__all__ = ["carry"]

P = ParamSpec("P")
R = TypeVar("R")


def carry(func: Callable[P, R]) -> Callable[P, R]:
    """
    Return *func* with the context of the caller: its IDs, and all other context variables.

    A bare ``submit()`` or ``run_in_executor()`` copies no context::

        pool.submit(carry(work), 1)
        await loop.run_in_executor(None, carry(work), 1)

    The context is taken as `carry` is called, so call it where the work is handed over.
    Each call of what it returns runs in a copy of its own: one carried function may run
    many times, and in many threads at once. A user who becomes known later, in the
    request or in the thread, is known in both.

    Args:
        func: A plain function, or any other callable. Async functions and generators are
            refused, for their bodies run outside of the call.

    Raises:
        TypeError: If *func* is not callable, is async or is a generator.
    """
    if not callable(func):
        msg = f"func={func!r}: must be a callable; carry(work) and its arguments go to submit()"
        raise TypeError(msg)
    for kind, is_kind in _REFUSED.items():
        if is_kind(func) or is_kind(type(func).__call__):
            msg = (
                f"carry() cannot take the {kind} {_name(func)}: its body runs outside of the "
                "call; carry the plain function that runs it"
            )
            raise TypeError(msg)
    context = copy_context()

    @functools.wraps(func)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context cannot be entered twice at a time.
        return context.copy().run(func, *args, **kwargs)

    return carried


_REFUSED: dict[str, Callable[[object], bool]] = {
    "async function": inspect.iscoroutinefunction,
    "generator function": inspect.isgeneratorfunction,
    "async generator function": inspect.isasyncgenfunction,
}


def _name(func: object) -> str:
    return repr(getattr(func, "__qualname__", func))
