"""
Undoing what SDKs do to a body: gzip or zlib, and base64 in a form.

What is there is told by the first bytes and by no header: posthog-js sends gzip as
``text/plain``, without a ``Content-Encoding``.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final
from urllib.parse import unquote_to_bytes

from replaylink.viewer import limits

from .errors import BadPayload, TooLarge

GZIP_MAGIC: Final = b"\x1f\x8b"
"""How gzip begins, as in RFC 1952; no JSON and no OTLP in protobuf begins like this."""

ZLIB_MAGIC: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""
How zlib begins, as in RFC 1950, by its four levels: what HTTP calls deflate. PostHog's SDKs can
be told to use it.
"""

MAX_GZIP_MEMBERS: Final = 100
"""SDKs write one member; a request of a million empty ones would take seconds."""

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_ZLIB_WINDOW: Final = zlib.MAX_WBITS
_CHUNK_BYTES: Final = 256 * 1024


def gunzip(data: bytes, limit: int) -> bytes:
    """
    Decompress gzip of one or several members, never keeping more than the limit in memory.

    Args:
        data: The compressed bytes.
        limit: The most that it may become, in bytes.

    Raises:
        BadPayload: If it is not gzip, is damaged or cut off, or if something follows it.
        TooLarge: If it becomes more than the limit.
    """
    return _inflate(data, limit, _GZIP_WINDOW)


def _inflate(data: bytes, limit: int, window: int) -> bytes:
    source = memoryview(data)
    position, room = 0, limit
    parts: list[bytes] = []
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(window)
        piece: bytes | memoryview = b""
        while not member.eof:
            if not piece:
                # Slice by slice, for zlib copies what it has not used yet.
                piece = source[position : position + _CHUNK_BYTES]
                position += len(piece)
            is_last = not piece
            try:
                part = member.decompress(piece, min(room + 1, _CHUNK_BYTES))
            except zlib.error:
                msg = "damaged gzip or zlib"
                raise BadPayload(msg) from None
            if is_last and not part and not member.eof:
                msg = "gzip or zlib that is cut off"
                raise BadPayload(msg)
            piece = member.unconsumed_tail
            parts.append(part)
            room -= len(part)
            if room < 0:
                msg = f"more than {limit} bytes after decompression"
                raise TooLarge(msg)
        position -= len(member.unused_data)
        if position == len(source):
            return b"".join(parts)
    msg = f"gzip of more than {MAX_GZIP_MEMBERS} members"
    raise BadPayload(msg)


def decompress(body: bytes, limit: int) -> bytes:
    """
    Return a body as it was before a possible compression with gzip or zlib.

    Args:
        body: What came.
        limit: The most that it may be, before and after, in bytes.

    Raises:
        BadPayload: If it begins like one of them and is not.
        TooLarge: If it is larger than the limit.
    """
    if body.startswith(GZIP_MAGIC):
        return gunzip(body, limit)
    if body.startswith(ZLIB_MAGIC):
        return _inflate(body, limit, _ZLIB_WINDOW)
    if len(body) > limit:
        msg = f"more than {limit} bytes"
        raise TooLarge(msg)
    return body


def unwrap(body: bytes, limit: int) -> bytes:
    """
    Return the JSON in the body of one of PostHog's SDKs.

    That is plain JSON, gzip or zlib of it, its base64, or a form with such base64 in its field
    ``data``, which posthog-js falls back to while a page closes.

    Args:
        body: What came.
        limit: The most that it may be, before and after, in bytes.

    Raises:
        BadPayload: If it is none of these.
        TooLarge: If it is larger than the limit.
    """
    text = decompress(body, limit).strip()
    if text.startswith(b"data="):
        if text.count(b"%") > limits.MAX_QUOTED:
            msg = f"a form with more than {limits.MAX_QUOTED} quoted characters"
            raise TooLarge(msg)
        # A plus sign stands for itself: posthog-js quotes it, and others do not quote at all.
        text = unquote_to_bytes(text[5:].partition(b"&")[0]).replace(b" ", b"+").strip()
    if text.startswith((b"{", b"[")):
        return text
    try:
        decoded = base64.b64decode(text, validate=True)
        if not decoded:
            msg = "an empty body"
            raise BadPayload(msg)
    except binascii.Error:
        msg = "neither JSON nor gzip or base64 of it"
        raise BadPayload(msg) from None
    return decompress(decoded, limit)
