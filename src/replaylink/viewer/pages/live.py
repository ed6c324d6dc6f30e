"""
Telling open pages that something has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from replaylink.viewer.limits import LIVE_INTERVAL_S, LIVE_KEEP_ALIVE_S
from replaylink.viewer.pages.rendering import NO_STORE, store_of
from replaylink.viewer.store import Store


async def live(request: Request) -> StreamingResponse:
    """
    Server-sent events: ``changed``, with the store's state, after something was written.

    The first comes at once, unless the store was never written to: what came between the
    page and this request is not missed.
    """
    return StreamingResponse(
        _events(store_of(request)), media_type="text/event-stream", headers=NO_STORE
    )


async def _events(store: Store) -> AsyncIterator[str]:
    seen = 0
    yield "retry: 1000\n\n"
    while True:
        try:
            seen = await asyncio.wait_for(store.changed(seen), LIVE_KEEP_ALIVE_S)
        except asyncio.TimeoutError:
            yield ":\n\n"
            continue
        yield f"event: changed\ndata: {seen}\n\n"
        await asyncio.sleep(LIVE_INTERVAL_S)


ROUTES = [Route("/live", live)]
