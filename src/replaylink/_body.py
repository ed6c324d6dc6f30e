"""
One field of a JSON body: which bodies are worth reading, and bytes -> ID.

Pure functions of bytes: no I/O, no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from ._ids import NOT_THERE, Absent, Accept, Found

NOT_JSON: Final = Absent("the body is not application/json or +json")
ENCODED: Final = Absent("the body has a content encoding")
NO_BODY: Final = Absent("there is no body")
TOO_LONG: Final = Absent("the body is longer than max_body_bytes")
CUT_OFF: Final = Absent("the body was cut off")
UNUSABLE: Final = Absent("the body is not JSON with an ID in that field")

MAX_LENGTH_DIGITS: Final = 18
"""A Content-Length of more digits is not looked at: nothing is that long."""

_UTF8_BOM: Final = b"\xef\xbb\xbf"

JSON_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises. msgspec's own errors are ValueErrors from 0.19 on."""

BodyReader: TypeAlias = Callable[[bytes], Found]


def refusal(
    content_type: str,
    content_encoding: str,
    content_length: str | None,
    max_body_bytes: int,
) -> Absent | None:
    """
    Return why a body is not read ahead, or None if it is.

    Args:
        content_type: The value of Content-Type, ``""`` if missing.
        content_encoding: The value of Content-Encoding, ``""`` if missing.
        content_length: The value of Content-Length; None for a chunked body.
        max_body_bytes: The longest body to read, in bytes.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return NOT_JSON
    if content_encoding and content_encoding.strip().lower() != "identity":
        return ENCODED
    if content_length is not None:
        # No digit but 0 to 9 is decimal within latin-1. int() refuses 4301 of them.
        if not content_length.isdecimal() or not content_length.strip("0"):
            return NO_BODY
        if len(content_length) > MAX_LENGTH_DIGITS or int(content_length) > max_body_bytes:
            return TOO_LONG
    return None


def field_reader(path: tuple[str, ...], accept: Accept, types: Any) -> BodyReader:
    """
    Return the function that takes one field out of a JSON body.

    The decoder skips all other fields without building them. A body in which the name
    does not stand literally is not parsed at all: one that spells it with JSON escapes,
    or is not in UTF-8, has no ID.

    Args:
        path: The field's name, or the names that lead to it from the outermost object.
        accept: Turns the field's text into an ID.
        types: What the field may be: `str`, or ``str | int``.
    """
    decoder = msgspec.json.Decoder(_shape(path, types))
    names = [name.encode() for name in path]

    def read(body: bytes) -> Found:
        for name in names:
            # Backwards is the faster way to search, and the field is often the last one.
            if body.rfind(name) < 0:
                return NOT_THERE
        try:
            value = decoder.decode(body.removeprefix(_UTF8_BOM))
            for _ in names:
                value = value.value
        # Another type, an object missing on the way, too deep a nesting.
        except (*JSON_ERRORS, AttributeError):
            return UNUSABLE
        return NOT_THERE if value is None else accept(str(value))

    return read


def _shape(path: tuple[str, ...], types: Any) -> Any:
    for name in reversed(path):
        types = msgspec.defstruct(
            "Body", [("value", types | None, None)], rename={"value": name}, gc=False
        )
    return types
