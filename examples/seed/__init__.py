"""
Fills the viewer with a day of a chat and a shop, so that the first look is not empty.

The sessions with a recording are visits to the example in this folder's parent, recorded once
by `examples.seed.record` with a real browser, and kept in ``visits.json``: a machine that runs
the demo need not have one that can be driven. They are sent with other times and other IDs.
What is around them is made up. All of it comes as anybody's does: over HTTP.
"""

from __future__ import annotations

import json
import random
import re
import time
import urllib.request
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

VISITS: Final = Path(__file__).parent / "visits.json"

Visit = dict[str, Any]
"""What browser and backend sent during one visit: ``logs``, ``events`` and ``snapshots``."""

HOUR_US: Final = 3_600_000_000

DAY_US: Final = 23 * HOUR_US
"""How far back it goes: the viewer takes lines of the last 24 hours for what they say."""

SESSIONS: Final = 110
VISITED_HOURS_AGO: Final = (0.1, 0.7, 2.5, 5.2, 9.0, 16.0)
"""When the recorded visits were; the two of the file take turns."""

BATCH: Final = 500

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Line(NamedTuple):
    """
    A kind of log line: of which service, how often beside the others, and what it says.
    """

    service: str
    logger: str
    weight: int
    severity: str
    body: str
    route: str = ""


OF_SESSIONS: Final = [
    Line("shop", "shop.catalogue", 30, "info", "product shown", "/products/{id}"),
    Line("shop", "shop.catalogue", 16, "info", "search for {word!r}: {n} found", "/search"),
    Line("shop", "shop.catalogue", 3, "warn", "search took {n} ms", "/search"),
    Line("shop", "shop.basket", 12, "info", "basket has {n} items", "/basket"),
    Line("shop", "shop.basket", 3, "debug", "stock of product {n} looked up", "/basket"),
    Line("shop", "shop.orders", 5, "info", "order {n} placed", "/orders"),
    Line("shop", "shop.payment", 2, "error", "payment of order {n} declined", "/orders"),
    Line("fastapi-chat", "chat", 14, "info", "message received", "/api/chat"),
    Line("fastapi-chat", "chat", 14, "info", "message answered", "/api/chat"),
    Line("fastapi-chat", "chat", 4, "info", "signed in", "/api/sign-in"),
    Line("fastapi-chat", "chat", 2, "warn", "sign-in refused", "/api/sign-in"),
    Line("gateway", "access", 25, "info", "GET /products/{n} 200"),
    Line("gateway", "access", 3, "warn", "GET /pictures/{n}.webp 404"),
]

OF_NOBODY: Final = [
    Line("gateway", "access", 30, "debug", "GET /health 200", "/health"),
    Line("worker", "worker.invoices", 8, "info", "invoice of order {n} sent"),
    Line("worker", "worker.stock", 8, "info", "stock of {n} products read"),
    Line("worker", "worker.stock", 3, "warn", "the supplier took {n} ms to answer"),
    Line("worker", "worker.invoices", 2, "error", "invoice of order {n} not sent: mailbox is full"),
    Line("worker", "worker", 1, "fatal", "no connection to the database"),
]

WORDS: Final = ["kettle", "teapot", "green tea", "café crème", "mug", "filter", "sugar"]


def fill(url: str) -> None:
    """
    Send a day to a viewer.

    Args:
        url: Its address.
    """
    rng = random.Random()  # noqa: S311 # each fill is a day of its own
    now_us = time.time_ns() // 1000
    logs, events = made_up(rng, now_us)
    snapshots: list[dict[str, Any]] = []
    visits: list[Visit] = json.loads(VISITS.read_bytes())
    for number, hours in enumerate(VISITED_HOURS_AGO):
        visit = moved(visits[number % len(visits)], rng, now_us - round(hours * HOUR_US))
        logs += [otlp_record("fastapi-chat", line) for line in visit["logs"]]
        events += [captured(event, rng) for event in visit["events"]]
        snapshots += [snapshot(piece, rng) for piece in visit["snapshots"]]

    send = partial(post, url.rstrip("/"))
    for services in batches(logs):
        send("/v1/logs", services)
    for start in range(0, len(events), BATCH):
        send("/batch/", {"api_key": "phc_local", "batch": events[start : start + BATCH]})
    for piece in snapshots:
        send("/s/", [piece])


def post(url: str, path: str, body: object) -> None:
    """
    Send a body as JSON.
    """
    request = urllib.request.Request(  # noqa: S310 # the viewer's own address
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310


def made_up(
    rng: random.Random, now_us: int
) -> tuple[list[tuple[str, str, dict[str, Any]]], list[dict[str, Any]]]:
    """
    Return log records and events of sessions that nobody recorded, and of no session.
    """
    logs, events = [], []
    for _ in range(SESSIONS):
        at_us = now_us - moment(rng)
        session_id = str(uuid7(rng, at_us))
        user_id = f"user-{rng.randint(1000, 1080)}" if rng.random() < 0.7 else None
        ids = {"sessionId": session_id, **({"posthogDistinctId": user_id} if user_id else {})}
        for _ in range(rng.randint(6, 45)):
            at_us += round(rng.expovariate(1 / 9_000_000))
            if at_us >= now_us:
                break
            kind = one_of(rng, OF_SESSIONS)
            # Some code has lost the context of its request, as in a bare thread.
            lost = kind.logger == "shop.catalogue" and rng.random() < 0.2
            logs.append(otlp_record(kind.service, told(kind, rng, at_us, {} if lost else ids)))
            if kind.severity == "error":
                events.append(exception(PAYMENT, rng, at_us, session_id, user_id))
            elif kind.route == "/basket" and rng.random() < 0.06:
                events.append(exception(BASKET, rng, at_us, session_id, user_id))
    for _ in range(1200):
        kind = one_of(rng, OF_NOBODY)
        logs.append(otlp_record(kind.service, told(kind, rng, now_us - moment(rng), {})))
    return logs, events


def one_of(rng: random.Random, kinds: list[Line]) -> Line:
    return rng.choices(kinds, [kind.weight for kind in kinds])[0]


def moment(rng: random.Random) -> int:
    """
    Return how long ago something was, in microseconds: by day more than by night.
    """
    while True:
        ago_us = rng.randrange(DAY_US)
        hour = time.localtime(time.time() - ago_us / 1_000_000).tm_hour
        if rng.random() < (1.0 if 9 <= hour < 21 else 0.25):
            return ago_us


def told(kind: Line, rng: random.Random, at_us: int, ids: dict[str, str]) -> dict[str, Any]:
    body = kind.body.format(n=rng.randint(2, 9000), word=rng.choice(WORDS))
    attributes: dict[str, Any] = {**ids, "duration_ms": rng.randint(1, 900)}
    if kind.route:
        attributes["http.route"] = kind.route
    return {
        "time_us": at_us,
        "severity": kind.severity,
        "logger": kind.logger,
        "body": body,
        "attributes": attributes,
    }


class Failure(NamedTuple):
    """
    An exception that the shop has now and then.
    """

    library: str
    type: str
    message: str
    frames: list[dict[str, Any]]


PAYMENT: Final = Failure(
    "posthog-python",
    "PaymentDeclined",
    "the card has expired",
    [
        {
            "platform": "python",
            "filename": "shop/payment.py",
            "function": "charge",
            "module": "shop.payment",
            "lineno": 42,
            "in_app": True,
            "pre_context": ["def charge(order):", "    answer = bank.ask(order.card)"],
            "context_line": "    raise PaymentDeclined(answer.reason)",
            "post_context": [],
        }
    ],
)

BASKET: Final = Failure(
    "web",
    "TypeError",
    "Cannot read properties of undefined (reading 'price')",
    [
        {
            "platform": "web:javascript",
            "filename": "http://127.0.0.1:8000/static/basket.js",
            "function": "total",
            "lineno": 17,
            "colno": 31,
            "in_app": True,
        }
    ],
)


def exception(
    failure: Failure, rng: random.Random, at_us: int, session_id: str, user_id: str | None
) -> dict[str, Any]:
    kind = {
        "type": failure.type,
        "value": failure.message,
        "mechanism": {"type": "generic", "handled": failure.library != "web"},
        "stacktrace": {"type": "raw", "frames": failure.frames},
    }
    event = {
        "name": "$exception",
        "time_us": at_us,
        "distinct_id": user_id or str(uuid7(rng, at_us)),
        "session_id": session_id,
        "window_id": "",
        "properties": {"$exception_list": [kind], "$lib": failure.library},
    }
    return captured(event, rng)


def moved(visit: Visit, rng: random.Random, end_us: int) -> Visit:
    """
    Return a visit as if it had been at another time, and somebody else's.

    Args:
        visit: The visit.
        rng: Where new IDs come from.
        end_us: When its last log line was written, in microseconds since the epoch.
    """
    shift_us = end_us - max(line["time_us"] for line in visit["logs"])
    user = rng.randint(1000, 1080)
    ids: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        # Version 7 begins with the milliseconds of its making.
        made_us = (UUID(match[0]).int >> 80) * 1000
        return ids.setdefault(match[0], str(uuid7(rng, made_us + shift_us)))

    text = _UUID.sub(other, json.dumps(visit))
    result: Visit = json.loads(re.sub(r"user-\d{4}", f"user-{user}", text))
    for each in (*result["logs"], *result["events"]):
        each["time_us"] += shift_us
    for piece in result["snapshots"]:
        for event in piece["events"]:
            event["timestamp"] += shift_us // 1000
    return result


def uuid7(rng: random.Random, at_us: int) -> UUID:
    """
    Return a UUID of version 7, as posthog-js makes them.
    """
    value = (at_us // 1000) << 80 | rng.getrandbits(80)
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def otlp_record(service: str, line: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """
    Return a line as a log record in OTLP's JSON, with its service and its logger.
    """
    record = {
        "timeUnixNano": str(line["time_us"] * 1000),
        "severityText": line["severity"].upper(),
        "body": {"stringValue": line["body"]},
        "attributes": [
            {
                "key": key,
                "value": {"intValue": str(value)}
                if isinstance(value, int)
                else {"stringValue": str(value)},
            }
            for key, value in line["attributes"].items()
        ],
    }
    return service, line["logger"], record


def batches(logs: Iterable[tuple[str, str, dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """
    Yield requests in OTLP's JSON, each with some of the records.
    """
    rest = iter(logs)
    while some := list(islice(rest, BATCH)):
        scopes: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for service, logger, record in some:
            scopes.setdefault((service, logger), []).append(record)
        yield {
            "resourceLogs": [
                {
                    "resource": {
                        "attributes": [{"key": "service.name", "value": {"stringValue": service}}]
                    },
                    "scopeLogs": [{"scope": {"name": logger}, "logRecords": records}],
                }
                for (service, logger), records in scopes.items()
            ]
        }


def captured(event: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """
    Return an event as PostHog's SDKs send it.
    """
    window = {"$window_id": event["window_id"]} if event["window_id"] else {}
    return {
        "uuid": str(uuid7(rng, event["time_us"])),
        "event": event["name"],
        "timestamp": iso(event["time_us"]),
        "distinct_id": event["distinct_id"],
        "properties": {**event["properties"], "$session_id": event["session_id"], **window},
    }


def snapshot(piece: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """
    Return a piece of a recording as posthog-js sends it.
    """
    at_us = piece["events"][-1]["timestamp"] * 1000
    return {
        "uuid": str(uuid7(rng, at_us)),
        "event": "$snapshot",
        "timestamp": iso(at_us),
        "properties": {
            "token": "phc_local",
            "distinct_id": piece["distinct_id"],
            "$session_id": piece["session_id"],
            "$window_id": piece["window_id"],
            "$snapshot_data": piece["events"],
        },
    }


def iso(time_us: int) -> str:
    """
    Return a time as JSON has it.
    """
    seconds, rest = divmod(time_us, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:06}Z"
