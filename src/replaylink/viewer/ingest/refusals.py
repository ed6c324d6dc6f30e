"""
The viewer's own log of what it did not take.
"""

from __future__ import annotations

import logging
import time
from typing import Final

logger: Final = logging.getLogger("replaylink.viewer")

BURST: Final = 20
"""Lines that may come at once."""

LINES_PER_S: Final = 1.0
"""Lines a second after that: a client that sends rubbish must not fill a disk."""


class LimitedLog:
    """
    Logs up to a number of lines at once, then some a second, and counts those in between.

    Args:
        burst: How many lines may come at once.
        lines_per_s: How many come after that, per second.
    """

    def __init__(self, burst: int = BURST, lines_per_s: float = LINES_PER_S) -> None:
        self._burst = burst
        self._lines_per_s = lines_per_s
        self._allowed: float = burst
        self._at_s = time.monotonic()
        self._untold = 0

    def log(
        self, level: int, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None:
        """
        Log a line, or count it.

        Args:
            level: The level of `logging`.
            message: The message, with the marks of ``%``.
            args: What they stand for; never anything out of a payload.
            exc_info: An exception whose traceback goes with it.
        """
        now_s = time.monotonic()
        self._allowed += (now_s - self._at_s) * self._lines_per_s
        self._allowed = min(self._allowed, self._burst)
        self._at_s = now_s
        if self._allowed < 1:
            self._untold += 1
            return
        self._allowed -= 1
        if self._untold:
            message += " (and %d more lines before)"
            args = (*args, self._untold)
            self._untold = 0
        logger.log(level, message, *args, exc_info=exc_info)
