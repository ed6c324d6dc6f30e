"""
A client that does what HTTP libraries will not: send half a body, hang up, pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

from tests.servers.plan import Plan

TIME_LIMIT_S = 20
"""How long a request may take, on a machine that is busy with other things."""

BODY_PART_BYTES = 64 * 1024

FIRST_PART_BYTES = 100_000

PAUSE_S = 0.02
"""How long to wait after a part of a body: the app has then begun to read it."""


class Response(NamedTuple):
    """
    What a server answered.

    Args:
        status: The status code; 0 if the server closed the connection without a word.
        body: The body, as far as it came.
        complete: Whether all of it came.
    """

    status: int
    body: bytes = b""
    complete: bool = False


class Client:
    """
    A client with one connection, which it opens again whenever the server has closed it.

    Args:
        port: The server's port on the loopback address.
        half_close: Whether to tell the server that nothing follows a request.
        drains: Whether the server reads the rest of a body that the app did not read, and
            would not take it for the next request.
    """

    def __init__(self, port: int, *, half_close: bool = False, drains: bool = True) -> None:
        self._port = port
        self._half_close = half_close
        self._drains = drains
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, plan: Plan) -> Response:
        """
        Send a request, and hang up as it says.
        """
        return (await self.pipeline(plan))[0]

    async def pipeline(self, *plans: Plan) -> list[Response]:
        """
        Send requests without waiting for the responses in between.

        Raises:
            TimeoutError: If the server does not answer within `TIME_LIMIT_S`.
        """
        return await asyncio.wait_for(self._pipeline(plans), TIME_LIMIT_S)

    async def _pipeline(self, plans: Sequence[Plan]) -> list[Response]:
        is_read = self._drains or plans[-1].body is None or plans[-1].steps.read
        # The end of a response that fails before any of it was sent, or of which the rest
        # of the body was in the way, looks like a connection that was closed before the
        # request, which would be sent again. So does one that ends while a body still comes.
        is_ambiguous = plans[0].steps.fails == "late" or not is_read or plans[-1].slow
        if self._streams is not None and (self._streams[0].at_eof() or is_ambiguous):
            await self.hang_up()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self.connections += 1
            is_fresh = True
        else:
            is_fresh = False
        reader, writer = self._streams
        responses: list[Response] = []
        try:
            data = b"".join(map(_request, plans))
            if plans[-1].slow:
                writer.write(data[:FIRST_PART_BYTES])
                await asyncio.sleep(PAUSE_S)
                data = data[FIRST_PART_BYTES:]
            writer.write(data)
            if plans[-1].hangs_up == "body":
                # The app shall wait for the rest of the body.
                await asyncio.sleep(PAUSE_S)
                await self.hang_up()
                return [Response(0)]
            if self._half_close:
                writer.write_eof()
            for plan in plans:
                responses.append(await self._response(reader, plan))
        except (OSError, asyncio.IncompleteReadError):
            await self.hang_up()
            # Some servers close a connection after a body that the app did not read, and
            # do not say so beforehand.
            if not is_fresh and not responses:
                return await self._pipeline(plans)
            responses += [Response(0)] * (len(plans) - len(responses))
        if self._half_close or not is_read:
            await self.hang_up()
        return responses

    async def _response(self, reader: asyncio.StreamReader, plan: Plan) -> Response:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.lower().rstrip().split("\r\n")
            status = int(status_line.split(" ")[1])
            if status >= 200:
                break
        headers = dict(line.split(": ", 1) for line in lines)
        if plan.hangs_up == "response":
            await reader.read(1)
            await self.hang_up()
            return Response(status)
        parts: list[bytes] = []
        complete = True
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    parts.append((await reader.readexactly(size + 2))[:-2])
                await reader.readexactly(2)
            elif "content-length" in headers:
                parts.append(await reader.readexactly(int(headers["content-length"])))
            else:
                parts.append(await reader.read())
                await self.hang_up()
        except (OSError, asyncio.IncompleteReadError):
            complete = False
        if (
            not complete
            or headers.get("connection") == "close"
            or (status_line.startswith("http/1.0") and headers.get("connection") != "keep-alive")
        ):
            await self.hang_up()
        return Response(status, b"".join(parts), complete)


def _request(plan: Plan) -> bytes:
    body = plan.body
    if body is None and plan.hangs_up == "body":
        body = b"{}"
    headers = {"Host": "127.0.0.1", **plan.headers}
    content = b""
    if body is not None:
        headers["Content-Type"] = "application/json"
        if plan.chunked:
            headers["Transfer-Encoding"] = "chunked"
            for start in range(0, len(body), BODY_PART_BYTES):
                part = body[start : start + BODY_PART_BYTES]
                content += b"%x\r\n%b\r\n" % (len(part), part)
            ending = b"0\r\n\r\n"
        else:
            headers["Content-Length"] = str(len(body))
            content, ending = body[:-1], body[-1:]
        if plan.hangs_up != "body":
            content += ending
        else:
            content = content[: max(len(content) // 2, 1)]
    lines = [f"{'GET' if body is None else 'POST'} {plan.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content
