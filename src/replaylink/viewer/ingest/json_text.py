"""
JSON from strangers: decoded within bounds, and without what could not be stored.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final, TypeVar

import msgspec

from .budget import Budget
from .errors import BadPayload

T = TypeVar("T")

MAX_DEPTH: Final = 100
"""
Arrays and objects within each other. Protobuf has the same limit; what is this deep can be
encoded again wherever it goes.
"""

# The first half of a pair without the second one, or the other way round.
_HALF: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_ESCAPED_BACKSLASH: Final = rb"\\"
_MARK: Final = b"\xff\xff"
"""Stands for an escaped backslash for a while: no UTF-8 has these bytes."""

_CHUNK_BYTES: Final = 1024 * 1024


def repair(text: bytes, budget: Budget) -> bytes:
    """
    Return JSON in which half a surrogate pair, which nothing could store, is U+FFFD.

    JavaScript makes such a half where it cuts an emoji in two. This is for a whole text as it
    came, once: it costs more than decoding, and its parts need it no more.

    Args:
        text: The JSON.
        budget: How many halves, paired or not, the request may still have.

    Raises:
        BadPayload: If it has halves and is not UTF-8.
        TooLarge: If the budget is spent.
    """
    halves = text.count(rb"\ud") + text.count(rb"\uD")
    if not halves:
        return text
    budget.spend_surrogates(halves)
    if _MARK[:1] in text:
        msg = "JSON that is not UTF-8"
        raise BadPayload(msg)
    # Where no backslash is escaped, each one begins an escape.
    text = _HALF.sub(rb"\\ufffd", text.replace(_ESCAPED_BACKSLASH, _MARK))
    return text.replace(_MARK, _ESCAPED_BACKSLASH)


def decode(text: bytes | msgspec.Raw, kind: type[T]) -> T:
    """
    Decode JSON as a type that msgspec knows.

    Args:
        text: The JSON. A `msgspec.Raw` is read where it stands, without a copy.
        kind: The type. Parts of the type `msgspec.Raw` are checked but not built, so that a
            long list costs no memory; whether they are UTF-8 is for `is_utf8` to tell.

    Raises:
        BadPayload: If it is not JSON, or not of this type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        msg = "not JSON, or not of the expected shape"
        raise BadPayload(msg) from None


def load(text: bytes | msgspec.Raw) -> Any:
    """
    Return the value of a JSON text.

    Raises:
        BadPayload: If it is not JSON, or deeper than `MAX_DEPTH`.
    """
    value: Any = decode(text, object)
    level: list[Any] = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            break
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    if not level:
        return value
    msg = f"JSON of more than {MAX_DEPTH} levels"
    raise BadPayload(msg)


def is_utf8(text: bytes) -> bool:
    """
    Tell whether bytes are UTF-8, without building the text.
    """
    if text.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    try:
        for start in range(0, len(view), _CHUNK_BYTES):
            decoder.decode(view[start : start + _CHUNK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
