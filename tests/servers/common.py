"""
What the apps have in common.
"""

from __future__ import annotations

from typing import Final, NoReturn

from replaylink._types import Receive, Send
from tests.servers.plan import NUMBER

BACKGROUND_S: Final = 0.01
"""How long background work takes: long enough for the response to be over."""


def number_in(path: str) -> int:
    found = NUMBER.search(path)
    return int(found[1]) if found else -1


def fail(number: int, *, knotted: bool = False) -> NoReturn:
    msg = f"request-{number} failed"
    error = RuntimeError(msg)
    try:
        raise error
    finally:
        # A name for the error makes a cycle: error, traceback, frame, error. What the
        # frames of the traceback hold then stays until the garbage collector comes.
        if not knotted:
            del error


async def live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
