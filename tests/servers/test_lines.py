from __future__ import annotations

from typing import Any

import pytest

from tests.servers.plan import Line, Plan, Steps, ids_of
from tests.servers.running import Server

EVERYTHING = Steps(read=True, identify=True, thread=True, background=True, chunks=3)


@pytest.mark.parametrize("session", ["header", "cookie", "body"])
async def test_each_line_of_a_request_has_its_ids(server: Server, session: Any) -> None:
    """
    The endpoint, a user known late, threads, chunks, and work after the response.
    """
    plan = Plan(number=server.next_number(), session=session, body_bytes=100, steps=EVERYTHING)
    async with server.client() as client:
        response = await client.send(plan)
    lines = await server.lines_of(plan)

    assert (200, True) == (response.status, response.complete)
    assert [] == plan.faults(lines, server.kind.protocol)


async def test_a_request_without_ids_has_none(server: Server) -> None:
    """
    The same lines without the keys, but for the user who becomes known.
    """
    plans = [
        Plan(number=server.next_number(), session="", claims_user=False, steps=steps)
        for steps in (Steps(), EVERYTHING)
    ]
    async with server.client() as client:
        for plan in plans:
            await client.send(plan)

            assert [] == plan.faults(await server.lines_of(plan), server.kind.protocol)


@pytest.mark.parametrize("fails", ["early", "knotted", "late"])
async def test_each_line_of_a_failing_request_has_its_ids(server: Server, fails: Any) -> None:
    """
    An error changes nothing, and handlers around the middleware log with the IDs too.
    """
    steps = Steps(identify=True, background=True, chunks=2, fails=fails)
    plan = Plan(number=server.next_number(), steps=steps)
    async with server.client() as client:
        response = await client.send(plan)
    lines = await server.lines_of(plan)

    assert (200 if fails == "late" else 500) == response.status
    assert [] == plan.faults(lines, server.kind.protocol)


async def own_lines(server: Server, plan: Plan, event: str) -> list[Line]:
    """
    Send a request, and return what the server itself says about it.
    """
    async with server.client() as client:
        await client.send(plan)
    lines = await server.lines_of(plan, also=event)
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("chunks", [0, 3], ids=["whole", "streamed"])
async def test_the_access_line_is_linked(server: Server, chunks: int) -> None:
    """
    Where a server logs it while the response is sent it has the IDs, elsewhere none.
    """
    if not server.kind.logs_access:
        pytest.skip("the server has no access line")
    plan = Plan(number=server.next_number(), steps=Steps(identify=True, chunks=chunks))
    lines = await own_lines(server, plan, "access")

    expected = plan.ids("access") if server.kind.links_access else {}
    assert [expected] == [ids_of(line) for line in lines]


async def test_the_access_line_of_a_failed_request_is_linked(server: Server) -> None:
    """
    So has the access line of the 500 that each server answers in the app's place.

    A server that writes it when it is through with the error may write it without IDs.
    """
    if not server.kind.logs_access:
        pytest.skip("the server has no access line")
    plan = Plan(number=server.next_number(), steps=Steps(identify=True, fails="early"))
    lines = await own_lines(server, plan, "access")

    expected = plan.ids("access")
    if not server.kind.links_failed_access and lines and not ids_of(lines[0]):
        expected = {}
    assert [expected] == [ids_of(line) for line in lines]


@pytest.mark.parametrize("fails", ["early", "late"])
async def test_the_traceback_is_linked(server: Server, fails: Any) -> None:
    """
    The server's traceback of an unhandled error has the IDs of the failed request.
    """
    plan = Plan(number=server.next_number(), steps=Steps(identify=True, chunks=2, fails=fails))
    lines = await own_lines(server, plan, "traceback")

    expected = plan.ids("traceback") if fails == "late" or server.kind.links_traceback else {}
    assert [expected] == [ids_of(line) for line in lines]
