"""
One request to an app, without a server: how its answer begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

ANSWER_S = 10


class Answer(NamedTuple):
    """
    The status and headers of an answer, and the first part of its body.
    """

    status: int
    headers: Headers
    body: str


async def ask(
    app: ASGIApp,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | list[tuple[str, str]] = (),  # type: ignore[assignment]
    scheme: str = "http",
) -> Answer:
    """
    Send a request with an empty body; a stream is left after its first part.
    """
    path, _, query = target.partition("?")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.append(("host", "127.0.0.1:8390"))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8390),
    }
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received = False

    async def receive() -> Message:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def run() -> None:
        try:
            await app(scope, receive, sent.put)
        except Exception:
            # What a server would log; the answer to it has been sent before.
            await sent.put({"type": "raised"})

    task = asyncio.ensure_future(run())
    try:
        start = await asyncio.wait_for(sent.get(), ANSWER_S)
        part = await asyncio.wait_for(sent.get(), ANSWER_S)
        answer_headers = Headers(raw=start["headers"])
        if not answer_headers.get("content-type", "").startswith("text/event-stream"):
            await asyncio.wait_for(task, ANSWER_S)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return Answer(start["status"], answer_headers, part["body"].decode("latin-1"))
