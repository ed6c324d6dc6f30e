"""
Exceptions: how an event of PostHog's tells them, and which of them are the same issue.
"""

from __future__ import annotations

import hashlib
from typing import Any

from replaylink.viewer.records import Event, JSONObject
from replaylink.viewer.store.results import ExceptionInfo, Frame

EXCEPTION_EVENT = "$exception"

MAX_EXCEPTIONS = 50
"""Exceptions of one chain that are looked at."""

MAX_FRAMES = 200
"""Frames of one stack trace that are looked at, the innermost ones."""


def fingerprint(event: Event) -> str:
    """
    Return the ID of the issue that an exception belongs to.

    Exceptions are the same issue if they have the same types and come from the same functions
    of the app's own code. Without such code the innermost frame counts, and with no stack
    trace the message. A fingerprint that came with the event counts alone. PostHog's rules
    (``rust/cymbal/src/fingerprinting``) are alike.
    """
    parts: list[str] = []
    given = event.properties.get("$exception_fingerprint")
    if given and isinstance(given, str):
        parts = ["given", given]
    else:
        for exception in exceptions(event.properties):
            parts += ["exception", exception.type]
            frames = [frame for frame in exception.frames if frame.in_app]
            for frame in frames or exception.frames[-1:]:
                parts += ["frame", frame.filename, frame.function]
            if not exception.frames:
                parts += ["message", exception.message]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def exceptions(properties: JSONObject) -> list[ExceptionInfo]:
    """
    Return the chain of exceptions that an event tells; what has no sensible shape is left out.
    """
    listed = properties.get("$exception_list")
    found = [_exception(each) for each in _objects(listed)[:MAX_EXCEPTIONS]]
    if not found:
        # What posthog-js sent before 2024, and what is sent by hand.
        found = [
            ExceptionInfo(
                type=_text(properties.get("$exception_type")) or "Error",
                message=_text(properties.get("$exception_message")),
                handled=True,
                frames=[],
            )
        ]
    return found


def _exception(told: JSONObject) -> ExceptionInfo:
    stack = told.get("stacktrace")
    mechanism = told.get("mechanism")
    frames = _objects(stack.get("frames")) if isinstance(stack, dict) else []
    return ExceptionInfo(
        type=_text(told.get("type")) or "Error",
        message=_text(told.get("value")),
        handled=not isinstance(mechanism, dict) or mechanism.get("handled") is not False,
        frames=[_frame(each) for each in frames[-MAX_FRAMES:]],
    )


def _frame(told: JSONObject) -> Frame:
    line = _number(told.get("lineno"))
    source = []
    if line is not None:
        before = _lines(told.get("pre_context"))
        here = _lines([told["context_line"]]) if "context_line" in told else []
        after = _lines(told.get("post_context"))
        source = list(enumerate([*before, *here, *after], line - len(before)))
    return Frame(
        function=_text(told.get("function")),
        filename=_text(told.get("filename")),
        line=line,
        column=_number(told.get("colno")),
        in_app=told.get("in_app") is True,
        source=source,
    )


def _objects(value: Any) -> list[JSONObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _lines(value: Any) -> list[str]:
    return [_text(each) for each in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 1 << 31 else None
