"""
A control: the tests beside this one would see a leak.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.servers.plan import LARGE, Plan, Steps, ids_of
from tests.servers.running import KINDS, Kind, running


@pytest.mark.parametrize(
    "kind",
    [kind for kind in KINDS if kind.name in ("uvicorn-h11-asyncio", "uvicorn-httptools-asyncio")],
    ids=lambda kind: kind.name,
)
async def test_a_naive_middleware_leaks(kind: Kind, tmp_path: Path) -> None:
    """
    Binding what was found and resetting it at the end is not enough on uvicorn.

    It goes wrong after a body that uvicorn does not read in one go, for as long as
    asyncio has https://github.com/python/cpython/issues/140947.
    """
    small = Plan(number=1)
    large = Plan(number=3, body_bytes=LARGE, steps=Steps(read=True))
    next_ones = {number: Plan(number=number, session="", claims_user=False) for number in (2, 4)}
    with running(
        dataclasses.replace(kind, app="tests.servers.apps:asgi_naive"), tmp_path
    ) as server:
        async with server.client() as client:
            for plan in (small, next_ones[2], large, next_ones[4]):
                await client.send(plan)
        clean = await server.lines_of(next_ones[2])
        leaked = await server.lines_of(next_ones[4])

    assert [] == next_ones[2].faults(clean, "asgi")
    assert [] != next_ones[4].faults(leaked, "asgi")
    foreign = {"sessionId": "session-3", "posthogDistinctId": "claimed-3"}
    assert {"around": foreign, "start": foreign}.items() <= {
        line["event"]: ids_of(line) for line in leaked
    }.items()
