"""
What a request leaves behind for the next one of its connection or its thread: nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from tests.servers.plan import LARGE, Plan, Steps
from tests.servers.running import Server

READ: Final = Steps(read=True)

FIRST: Final[dict[str, dict[str, Any]]] = {
    "small": {},
    "late-user": {"steps": Steps(identify=True)},
    "large-body-read": {"body_bytes": LARGE, "steps": READ},
    "large-body-not-read": {"body_bytes": LARGE},
    "large-body-in-two-parts-read": {"body_bytes": LARGE, "slow": True, "steps": READ},
    "large-body-in-two-parts-not-read": {"body_bytes": LARGE, "slow": True},
    "large-body-chunked": {"body_bytes": LARGE, "chunked": True, "steps": READ},
    "large-body-late-user": {"body_bytes": LARGE, "steps": Steps(read=True, identify=True)},
    "large-body-streamed": {"body_bytes": LARGE, "steps": Steps(read=True, chunks=3)},
    "body-hit": {"session": "body", "steps": READ},
    "large-body-hit-read": {"session": "body", "body_bytes": LARGE, "steps": READ},
    "large-body-hit-not-read": {"session": "body", "body_bytes": LARGE},
    "large-body-hit-in-two-parts": {
        "session": "body",
        "body_bytes": LARGE,
        "slow": True,
        "steps": READ,
    },
    "large-body-hit-chunked": {"session": "body", "body_bytes": LARGE, "chunked": True},
    "failed-early": {"steps": Steps(fails="early")},
    "failed-early-large-body": {"body_bytes": LARGE, "steps": Steps(read=True, fails="early")},
    "failed-knotted": {"steps": Steps(fails="knotted")},
    "failed-late": {"steps": Steps(chunks=2, fails="late")},
    "hung-up-in-body": {"body_bytes": LARGE, "hangs_up": "body", "steps": READ},
    "hung-up-in-body-hit": {
        "session": "body",
        "body_bytes": LARGE,
        "hangs_up": "body",
        "steps": READ,
    },
    "hung-up-in-response": {
        "hangs_up": "response",
        # More than what fits between a server and a client that does not read.
        "steps": Steps(chunks=40, chunk_bytes=256 * 1024),
    },
}
"""What the first request is like."""

KEEPS_CONNECTION: Final = {"small", "late-user", "large-body-read", "body-hit"}
"""After these, each server that keeps connections alive does keep it."""


def nobody(server: Server) -> Plan:
    """
    Return a request without IDs: whatever its lines have comes from elsewhere.
    """
    return Plan(number=server.next_number(), session="", claims_user=False)


@pytest.mark.parametrize("first", FIRST)
async def test_nothing_is_left_for_the_next_request(server: Server, first: str) -> None:
    """
    Requests after it, on the same connection or thread or not, have their own IDs or none.
    """
    protocol = server.kind.protocol
    if first == "failed-late" and not server.kind.survives_late_errors:
        pytest.skip("the server answers no failing request after this one")
    before = Plan(number=server.next_number(), **FIRST[first])
    after = [nobody(server), nobody(server), Plan(number=server.next_number()), nobody(server)]
    async with server.client() as client:
        await client.send(before)
        if before.hangs_up:
            lines = await server.lines_when_quiet(before)
        else:
            lines = await server.lines_of(before)
        for plan in after:
            assert 200 == (await client.send(plan)).status
        connections = client.connections

    assert [] == before.faults(lines, protocol)
    for plan in after:
        assert [] == plan.faults(await server.lines_of(plan), protocol)
    if server.kind.keeps_alive and first in KEEPS_CONNECTION:
        assert 1 == connections
    if protocol == "wsgi" and server.kind.reuses_threads and lines:
        await _prove_on_thread(server, lines[0]["thread_id"])


async def _prove_on_thread(server: Server, thread_id: int) -> None:
    """
    Send requests until one is served by the thread, and look at all of them.
    """
    for _ in range(50):
        plans = [nobody(server) for _ in range(4)]
        await asyncio.gather(*(_send_alone(server, plan) for plan in plans))
        for plan in plans:
            lines = await server.lines_of(plan)

            assert [] == plan.faults(lines, server.kind.protocol)
            if thread_id in (line["thread_id"] for line in lines):
                return
    pytest.fail("no request came to the thread again")


async def _send_alone(server: Server, plan: Plan) -> None:
    async with server.client() as client:
        await client.send(plan)


async def test_close_is_called_when_the_client_hung_up(server: Server) -> None:
    """
    A streamed WSGI response is closed within its request, also if nobody waits for it.
    """
    if server.kind.protocol == "asgi":
        pytest.skip("only WSGI responses are closed")
    plan = Plan(number=server.next_number(), **FIRST["hung-up-in-response"])
    async with server.client() as client:
        await client.send(plan)
    await server.until(lambda: "after" in [line["event"] for line in server.lines()[plan.number]])
    lines = server.lines()[plan.number]

    assert "after" in [line["event"] for line in lines]
    assert [] == plan.faults(lines, server.kind.protocol)


@pytest.mark.parametrize("body_bytes", [0, LARGE], ids=["small", "large-body"])
async def test_pipelined_requests_have_their_own_ids(server: Server, body_bytes: int) -> None:
    """A request that came while another one was served has its own IDs, and so do later ones."""
    if not server.kind.keeps_alive:
        pytest.skip("the server closes the connection after a request")
    plans = [
        Plan(number=server.next_number(), body_bytes=body_bytes, steps=READ),
        nobody(server),
        Plan(number=server.next_number()),
        nobody(server),
    ]
    async with server.client() as client:
        responses = await client.pipeline(*plans)
        plans += [nobody(server), nobody(server)]
        for plan in plans[-2:]:
            responses.append(await client.send(plan))

        assert [200] * 6 == [response.status for response in responses]
        assert 1 == client.connections
    for plan in plans:
        lines = await server.lines_of(plan)

        assert [] == plan.faults(lines, server.kind.protocol)
