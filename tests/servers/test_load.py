from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from tests.servers.plan import LARGE, Plan, Steps, ids_of
from tests.servers.running import Server

CLIENTS = 64

REQUESTS = 1200
"""For each server: over 20,000 in all."""

SEED = 20


async def test_many_clients_at_once(server: Server) -> None:
    """
    Each line of thousands of mixed requests has exactly the IDs of its own request.
    """
    random_ = random.Random(SEED)
    plans = [_plan(random_, server.next_number()) for _ in range(REQUESTS)]
    if not server.kind.survives_late_errors:
        plans = [plan for plan in plans if plan.steps.fails != "late"]
    waiting = iter(plans)
    await asyncio.gather(*(_work(server, waiting) for _ in range(CLIENTS)))

    wanted = sum(plan.events(server.kind.protocol).total() for plan in plans if not plan.hangs_up)
    numbers = [plan.number for plan in plans if not plan.hangs_up]

    def are_all_there() -> bool:
        lines = server.lines()
        return sum(len(lines[number]) for number in numbers) >= wanted

    await server.until(are_all_there)
    lines = server.lines()
    faults = [
        fault for plan in plans for fault in plan.faults(lines[plan.number], server.kind.protocol)
    ]
    # A line of the server's own may not say which request it speaks of. Its two IDs must
    # then be those of one.
    faults += [
        f"{line}: mixed"
        for line in lines[None]
        if len({id_.partition("-")[2] for id_ in ids_of(line).values()}) > 1
    ]

    assert [] == faults[:5]


async def _work(server: Server, waiting: Iterator[Plan]) -> None:
    async with server.client() as client:
        for plan in waiting:
            await client.send(plan)


def _plan(random_: random.Random, number: int) -> Plan:
    def chance(percent: float) -> bool:
        return random_.random() < percent / 100

    hangs_up = random_.choices(["", "body", "response"], [98.5, 1, 0.5])[0]
    body_bytes = random_.choices([0, 100, 10_000, LARGE], [75, 17, 5, 3])[0]
    chunks = random_.choices([0, 1, 2, 5], [70, 10, 10, 10])[0]
    fails = random_.choices(["", "early", "knotted", "late"], [93, 3, 2, 2])[0]
    return Plan(
        number=number,
        session=random_.choices(["", "header", "cookie", "body"], [25, 45, 10, 20])[0],  # type: ignore[arg-type]
        claims_user=chance(60),
        body_bytes=body_bytes if hangs_up != "body" else LARGE,
        chunked=chance(20),
        slow=body_bytes == LARGE and chance(30),
        hangs_up=hangs_up,  # type: ignore[arg-type]
        steps=Steps(
            read=chance(60),
            identify=chance(20),
            thread=chance(10),
            background=chance(15),
            chunks=40 if hangs_up == "response" else max(chunks, fails == "late"),
            chunk_bytes=256 * 1024 if hangs_up == "response" else 10,
            fails="" if hangs_up else fails,  # type: ignore[arg-type]
        ),
    )
