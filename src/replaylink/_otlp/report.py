"""
What is said on stderr, once in a while: it cannot be logged where logging is in trouble.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import Final

SAY_AGAIN_S: Final = 60.0
"""How long to keep quiet about what has been said."""


class Report:
    """
    Says each kind of thing at most once in `SAY_AGAIN_S`.
    """

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def say(self, kind: str, message: str, *, again: bool = False) -> bool:
        """
        Write *message*, unless one of its kind was written a short time ago.

        Args:
            kind: What it is about.
            message: The text.
            again: Whether to write it in any case.

        Returns:
            Whether it was written.
        """
        now = time.monotonic()
        if not again and now - self._said.get(kind, -math.inf) < SAY_AGAIN_S:
            return False
        self._said[kind] = now
        write(message)
        return True


def write(message: str) -> None:
    """
    Write *message* to stderr, if there is one.
    """
    with contextlib.suppress(Exception):
        sys.stderr.write(f"replaylink: {message}\n")
        sys.stderr.flush()


def log_records(count: int) -> str:
    """
    Return a number of log records in words.
    """
    return f"{count:,} log record{'' if count == 1 else 's'}"
