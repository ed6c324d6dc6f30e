"""
What a log record can hold: values of any kind as OTLP has them, and Python's levels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry._logs import SeverityNumber

MAX_DEPTH: Final = 8
"""How deep a value may be nested."""

MAX_VALUES: Final = 10_000
"""How many values one attribute may hold, or else a request would wait for them."""

MAX_DECIMAL_BITS: Final = 2048
"""From where on integers are written in hexadecimal, as Python limits decimal ones."""

LEFT_OUT: Final = "..."
"""What stands for a value that holds itself, or is one too many."""

PLAIN: Final = frozenset({bool, float, bytes})

SEVERITY_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
"""Where OpenTelemetry has other names than Python."""


def clean(value: Any) -> Any:
    """
    Return *value* as OpenTelemetry takes it, which else logs a warning about each.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else as_text(value)
    if kind in PLAIN:
        return value
    return _Cleaning().clean(value, MAX_DEPTH)


class _Cleaning:
    """
    The cleaning of one attribute, which may hold others, and itself.
    """

    __slots__ = ("_around", "_left")

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._around: set[int] = set()

    def clean(self, value: Any, depth: int) -> Any:
        self._left -= 1
        # A value may be of the app's making, or be changed meanwhile by another thread.
        try:
            return self._cleaned(value, depth)
        except Exception:
            return as_text(value)

    def _cleaned(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (bool, bytes)):
            return value
        # Members of an enumeration too, by what they stand for.
        if isinstance(value, str):
            return as_text(str.__str__(value))
        if isinstance(value, int):
            # The wire has 64 bits.
            value = int(value)
            if -(2**63) <= value < 2**63:
                return value
            # The decimal digits of very large ones take too long.
            return str(value) if value.bit_length() < MAX_DECIMAL_BITS else hex(value)
        if isinstance(value, float):
            return float(value)
        if depth and isinstance(value, (Mapping, list, tuple, set, frozenset)):
            return self._clean_items(value, depth)
        return as_text(value)

    def _clean_items(self, value: Any, depth: int) -> Any:
        if id(value) in self._around:
            return LEFT_OUT
        self._around.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {
                    as_text(key): self.clean(item, depth - 1)
                    for key, item in value.items()
                    if key != "" and self._left > 0
                }
            return [self.clean(item, depth - 1) for item in value if self._left > 0]
        finally:
            self._around.discard(id(value))


def as_text(value: object) -> str:
    """
    Return *value* as text that can be sent: half a surrogate pair cannot.
    """
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__} that has no text>"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@lru_cache
def severity(levelno: int) -> SeverityNumber:
    """
    Return the number of a level: ten of Python's are four of OpenTelemetry's.
    """
    if levelno < logging.DEBUG:
        return SeverityNumber.TRACE
    band = min(levelno // 10, 5)
    step = min(levelno - band * 10, 3)
    return SeverityNumber(1 + band * 4 + step)


def qualified_name(kind: type[BaseException]) -> str:
    """
    Return the name of an exception's type, as in ``exception.type``.
    """
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
