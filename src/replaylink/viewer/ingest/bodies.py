"""
The bodies of requests: read within bounds, all of them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from replaylink.viewer import limits

from .errors import TooBusy, TooLarge, TooSlow

INLINE_BYTES: Final = 64 * 1024
"""Bodies up to this size are decoded on the event loop: in less time than a thread's turn."""

# The first byte of gzip within JSON, where a control character has to be escaped.
_GZIP_IN_JSON: Final = (rb"\u001f", rb"\u001F")


def is_light(body: bytes, starts: tuple[bytes, ...]) -> bool:
    """
    Tell whether a body is small and stays so, for nothing in it is compressed.

    Args:
        body: What came.
        starts: How a body begins that is not compressed as a whole.
    """
    return (
        len(body) <= INLINE_BYTES
        and body.startswith(starts)
        and not any(start in body for start in _GZIP_IN_JSON)
    )


class Bodies:
    """
    All bodies that have begun to come and are not answered yet.

    Args:
        max_bytes: What they may be all together, in bytes.
        max_s: How long one may take to come, in seconds.
    """

    def __init__(
        self, max_bytes: int = limits.MAX_BODIES_BYTES, max_s: float = limits.MAX_BODY_S
    ) -> None:
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._bytes = 0

    @asynccontextmanager
    async def reading(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """
        Read the body of a request, which counts until the context ends.

        Args:
            request: The request.
            limit: The largest body, in bytes.

        Raises:
            TooLarge: As soon as it is known to be larger than the limit; the rest is not read.
            TooSlow: If it has not come in time.
            TooBusy: If there is no more room for it beside the others.
            ClientDisconnect: If the client went before its end.
        """
        body = await self._read(request, limit)
        self._bytes += len(body)
        try:
            yield body
        finally:
            self._bytes -= len(body)

    async def _read(self, request: Request, limit: int) -> bytes:
        body = bytearray()
        try:
            await asyncio.wait_for(self._fill(body, request, limit), self._max_s)
        except asyncio.TimeoutError:
            msg = f"the body has not come within {self._max_s:g} s"
            raise TooSlow(msg) from None
        finally:
            self._bytes -= len(body)
        return bytes(body)

    async def _fill(self, body: bytearray, request: Request, limit: int) -> None:
        too_large = f"more than {limit} bytes"
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise TooLarge(too_large)
        async for chunk in request.stream():
            body += chunk
            self._bytes += len(chunk)
            if len(body) > limit:
                raise TooLarge(too_large)
            if self._bytes > self._max_bytes:
                msg = f"more than {self._max_bytes} bytes of all requests are on their way"
                raise TooBusy(msg)
