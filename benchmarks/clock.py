"""
How long a thing takes, in the company of what it is compared with.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from replaylink._types import ASGIApp, Message

from .traffic import Request

TURN_SECONDS = 0.004
"""How long a variant runs before the next one has its turn."""

Batch = Callable[[int], float]
"""Runs a thing that many times, and returns how long that took, in seconds."""


def fastest(batches: Mapping[str, Batch], rounds: int) -> dict[str, float]:
    """
    Return what each thing costs once, in microseconds: its fastest turn.
    """
    counts = {}
    for name, batch in batches.items():
        batch(10)  # caches fill, and lazy imports are done
        seconds = min(batch(10) for _ in range(3)) / 10
        counts[name] = max(10, round(TURN_SECONDS / seconds))
    best = dict.fromkeys(batches, float("inf"))
    names = list(batches)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            # Each round starts with another one: nobody always runs after the same peer.
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                seconds = batches[name](counts[name])
                best[name] = min(best[name], seconds / counts[name])
            gc.collect()
    finally:
        gc.enable()
    return {name: seconds * 1e6 for name, seconds in best.items()}


def timed(call: Callable[[], object]) -> Batch:
    def batch(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - started

    return batch


class ASGIClient:
    """
    The server's side of one request.
    """

    __slots__ = ("messages",)

    def __init__(self, messages: Iterable[Message]) -> None:
        self.messages = iter(messages)

    async def receive(self) -> Message:
        return next(self.messages, {"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        pass


def with_uvicorn(batch: Batch) -> Batch:
    """
    Return *batch* as it runs in a process that has imported uvicorn.
    """

    def with_it(count: int) -> float:
        sys.modules["uvicorn"] = ModuleType("uvicorn")
        try:
            return batch(count)
        finally:
            del sys.modules["uvicorn"]

    return with_it


def asgi_batch(app: ASGIApp, request: Request) -> Batch:
    messages = request.messages()

    async def run(count: int) -> float:
        requests = [(request.scope(), ASGIClient(messages)) for _ in range(count)]
        started = time.perf_counter()
        for scope, client in requests:
            await app(scope, client.receive, client.send)
        return time.perf_counter() - started

    loop = asyncio.new_event_loop()

    def batch(count: int) -> float:
        return loop.run_until_complete(run(count))

    return batch


def start_response(*args: Any) -> Callable[[bytes], object]:
    return sys.stderr.buffer.write


def wsgi_batch(app: Any, request: Request) -> Batch:
    def batch(count: int) -> float:
        environs = [request.environ() for _ in range(count)]
        started = time.perf_counter()
        for environ in environs:
            result = app(environ, start_response)
            for _ in result:
                pass
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return time.perf_counter() - started

    return batch
