"""
Exceptions: how an event of PostHog's tells them, and which of them are the same issue.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from replaylink.viewer.records import Event, JSONObject
from replaylink.viewer.store.results import ExceptionInfo, Frame

EXCEPTION_EVENT = "$exception"

MAX_EXCEPTIONS = 20
"""Exceptions of one chain that are looked at."""

MAX_FRAMES = 100
"""Frames of one stack trace that are looked at, the innermost ones."""

MAX_CONTEXT_LINES = 10
"""Lines of source on each side of a frame's own; SDKs send 5 or 7."""

MAX_SOURCE_LENGTH = 300
"""A line of source, in characters."""

MAX_NAME_LENGTH = 500
"""A type, a function or the name of a file, in characters."""

MAX_MESSAGE_LENGTH = 10_000
"""A message, in characters."""

MAX_BYTES = 256 * 1024
"""
A chain with its stack traces, as JSON: frames beyond it are left out. Pages have many chains;
one of three exceptions with 40 frames each has about 80 KB.
"""

_SHOWN = ("$lib", "$current_url", "$request_path")
"""Properties that are shown, of exceptions and of other events."""

_ADDRESS = re.compile(r"https?://[^/?#]*([^?#]*)", re.IGNORECASE)
"""A script's address, and its path."""


def fingerprint(event: Event) -> str:
    """
    Return the ID of the issue that an exception belongs to.

    Exceptions are the same issue if they have the same types and come from the same functions
    of the app's own code. Without such code the innermost frame counts, and with no stack
    trace the message. A fingerprint that came with the event counts alone. PostHog's rules
    (``rust/cymbal/src/fingerprinting``) are alike. Of a script's address only the path counts,
    so that a page served from two origins has each issue once.
    """
    parts: list[str] = []
    given = event.properties.get("$exception_fingerprint")
    if given and isinstance(given, str):
        parts = ["given", given[:MAX_MESSAGE_LENGTH]]
    else:
        for exception in exceptions(event.properties):
            parts += ["exception", exception.type]
            frames = [frame for frame in exception.frames if frame.in_app]
            for frame in frames or exception.frames[-1:]:
                parts += ["frame", _path(frame.filename), frame.function]
            if not exception.frames:
                parts += ["message", exception.message]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def exceptions(properties: JSONObject) -> list[ExceptionInfo]:
    """
    Return the chain of exceptions that an event tells; what has no sensible shape is left out.

    Whatever the event holds, the chain has little more than `MAX_BYTES` at the most.
    """
    found: list[ExceptionInfo] = []
    room = MAX_BYTES
    for told in _objects(properties.get("$exception_list"))[:MAX_EXCEPTIONS]:
        found.append(_exception(told, room))
        room -= _size(found[-1])
    if not found:
        # What posthog-js sent before 2024, and what is sent by hand.
        found = [
            ExceptionInfo(
                type=_text(properties.get("$exception_type"), MAX_NAME_LENGTH) or "Error",
                message=_text(properties.get("$exception_message"), MAX_MESSAGE_LENGTH),
                handled=True,
                frames=[],
            )
        ]
    return found


def shown(event: Event) -> JSONObject:
    """
    Return what is shown of an event's properties, in the form in which it was sent.
    """
    kept: JSONObject = {
        name: _text(event.properties[name], MAX_MESSAGE_LENGTH)
        for name in _SHOWN
        if name in event.properties
    }
    if event.name == EXCEPTION_EVENT:
        kept["$exception_list"] = [_told(each) for each in exceptions(event.properties)]
    return kept


def _exception(told: JSONObject, room: int) -> ExceptionInfo:
    stack = told.get("stacktrace")
    mechanism = told.get("mechanism")
    found = ExceptionInfo(
        type=_text(told.get("type"), MAX_NAME_LENGTH) or "Error",
        message=_text(told.get("value"), MAX_MESSAGE_LENGTH),
        handled=not isinstance(mechanism, dict) or mechanism.get("handled") is not False,
        frames=[],
    )
    room -= _size(found)
    frames = _objects(stack.get("frames")) if isinstance(stack, dict) else []
    for each in reversed(frames[-MAX_FRAMES:]):
        frame = _frame(each)
        room -= _size(frame)
        if room < 0:
            break
        found.frames.append(frame)
    found.frames.reverse()
    return found


def _frame(told: JSONObject) -> Frame:
    line = _number(told.get("lineno"))
    source = []
    if line is not None:
        before = _list(told.get("pre_context"))[-MAX_CONTEXT_LINES:]
        here = [told["context_line"]] if "context_line" in told else []
        after = _list(told.get("post_context"))[:MAX_CONTEXT_LINES]
        lines = [_text(each, MAX_SOURCE_LENGTH) for each in (*before, *here, *after)]
        source = list(enumerate(lines, line - len(before)))
    return Frame(
        function=_text(told.get("function"), MAX_NAME_LENGTH),
        filename=_text(told.get("filename"), MAX_NAME_LENGTH),
        line=line,
        column=_number(told.get("colno")),
        in_app=told.get("in_app") is True,
        source=source,
    )


def _told(exception: ExceptionInfo) -> JSONObject:
    # The reverse of `_exception`.
    return {
        "type": exception.type,
        "value": exception.message,
        "mechanism": {"handled": exception.handled},
        "stacktrace": {"frames": [_told_frame(frame) for frame in exception.frames]},
    }


def _told_frame(frame: Frame) -> JSONObject:
    told: JSONObject = {
        "function": frame.function,
        "filename": frame.filename,
        "lineno": frame.line,
        "colno": frame.column,
        "in_app": frame.in_app,
    }
    for number, text in frame.source:
        if number == frame.line:
            told["context_line"] = text
        else:
            side = "pre_context" if number < (frame.line or 0) else "post_context"
            told.setdefault(side, []).append(text)
    return told


def _path(filename: str) -> str:
    match = _ADDRESS.match(filename)
    return match[1] or "/" if match else filename


def _size(part: ExceptionInfo | Frame) -> int:
    return len(msgspec.json.encode(part))


def _objects(value: Any) -> list[JSONObject]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, length: int) -> str:
    if isinstance(value, str):
        return value[:length]
    # Not arrays and objects, which may be as large as a request.
    return str(value)[:length] if isinstance(value, (int, float)) else ""


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 1 << 31 else None
