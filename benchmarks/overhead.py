"""
What one request costs with replaylink around the app, beside its peers.

    python -m benchmarks.overhead                     all of it, in about four minutes
    python -m benchmarks.overhead --only asgi lines   some parts of it
    python -m benchmarks.overhead --quick             only to see that it works

All variants run in one process, in short turns, one after the other and round after
round; of each its fastest turn counts, and the bare app's is taken off. So what slows
the machine down for a while slows all of them, and mostly drops out.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from replaylink import current_identity, identify
from replaylink._types import Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.processors import add_identity

from .clock import ASGIClient, Batch, asgi_batch, fastest, timed, with_uvicorn, wsgi_batch
from .peers import (
    BARE,
    BARE_FLASK,
    CONTEXT,
    CONTEXT_PLUGIN,
    CORRELATION,
    MINIMUM,
    OURS,
    OURS_UVICORN,
    POSTHOG,
    ASGITap,
    Tap,
    Variant,
    WSGITap,
    asgi_variants,
    flask_app,
    is_installed,
    our_session,
    wsgi_variants,
)
from .servers import APPS, CLIENTS, SERVERS, measure_server
from .traffic import HIT_GET, HIT_POST, SESSION_ID, Request, chat, other_requests, posted

PARTS = ("asgi", "body", "wsgi", "lines", "servers")


def prove(name: str, request: Request, batch: Batch, tap: Tap) -> None:
    """
    Stop if a variant does not find what it is measured at.
    """
    # Peers know only the header.
    if tap.session is None or not (OURS in name or request.is_traced):
        return
    batch(1)
    if tap.seen != request.session_id:
        sys.exit(f"{name}: {request.name}: found {tap.seen!r}, not {request.session_id!r}")


def measure_asgi(variants: Mapping[str, Variant], request: Request, rounds: int) -> Costs:
    batches = {BARE: asgi_batch(ASGITap(), request)}
    for name, variant in variants.items():
        tap, silent = ASGITap(variant.session), ASGITap()
        trial, batch = (asgi_batch(variant.wrap(app), request) for app in (tap, silent))
        if variant.uvicorn:
            trial, batch = with_uvicorn(trial), with_uvicorn(batch)
        prove(name, request, trial, tap)
        batches[name] = batch
    return Costs.over_bare(fastest(batches, rounds), variants)


@dataclass
class Costs:
    """
    What each variant costs beyond what it is wrapped around, in microseconds.
    """

    bare: dict[str, float] = field(default_factory=dict)
    over: dict[str, float] = field(default_factory=dict)

    @classmethod
    def over_bare(cls, best: Mapping[str, float], variants: Mapping[str, Variant]) -> Costs:
        over = {name: best[name] - best[variant.around] for name, variant in variants.items()}
        return cls({name: best[name] for name in best if name not in variants}, over)

    def ratio(self, name: str, to: str = MINIMUM) -> float:
        return self.over[name] / self.over[to]


def measure_wsgi(variants: Mapping[str, Variant], request: Request, rounds: int) -> Costs:
    batches = {BARE: wsgi_batch(WSGITap(), request)}
    for name, variant in variants.items():
        if variant.around == BARE_FLASK:
            batches[BARE_FLASK] = wsgi_batch(flask_app(WSGITap()), request)
        tap, silent = WSGITap(variant.session), WSGITap()
        prove(name, request, wsgi_batch(variant.put_around(tap), request), tap)
        batches[name] = wsgi_batch(variant.put_around(silent), request)
    return Costs.over_bare(fastest(batches, rounds), variants)


LINE_STATES = ("session known, nobody signed in", "both known", "user told late by `identify()`")


def logger_with(*processors: Any) -> Any:
    return structlog.wrap_logger(
        _Nowhere(),
        processors=[
            *processors,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        context_class=dict,
    ).bind()


class _Nowhere:
    def __init__(self) -> None:
        self.last = ""

    def info(self, line: str) -> None:
        self.last = line


def line_batch(log: Any, state: str) -> Batch:
    """
    Return what logs lines within one request.
    """

    def lines(count: int) -> float:
        return timed(lambda: log.info("message sent", conversation=17))(count)

    async def run(count: int) -> float:
        seconds = 0.0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal seconds
            if state == "both known":
                scope["user"] = {"id": "user-42"}
                current_identity().user_id  # noqa: B018 - looks the user up
            elif state.startswith("user told late"):
                copy_context().run(identify, "user-42")
            seconds = lines(count)

        client = ASGIClient(())
        await ReplayLinkMiddleware(app)(HIT_GET.scope(), client.receive, client.send)
        return seconds

    loop = asyncio.new_event_loop()

    def batch(count: int) -> float:
        return loop.run_until_complete(run(count))

    return batch


def measure_lines(rounds: int) -> dict[str, dict[str, float]]:
    merge = structlog.contextvars.merge_contextvars
    loggers = {
        "neither": logger_with(),
        "merge": logger_with(merge),
        "both": logger_with(merge, add_identity),
    }
    costs = {}
    for state in LINE_STATES:
        line_batch(loggers["both"], state)(1)
        line = json.loads(loggers["both"]._logger.last)
        user = None if state == LINE_STATES[0] else "user-42"
        if (line.get("sessionId"), line.get("posthogDistinctId")) != (SESSION_ID, user):
            sys.exit(f"a line: {state}: {line}")
        batches = {name: line_batch(log, state) for name, log in loggers.items()}
        costs[state] = fastest(batches, rounds)
    return costs


@dataclass
class Goals:
    """
    The goals, as far as they were measured.
    """

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def at_most(self, what: str, limit: float, measured: float, unit: str = "") -> None:
        self._add(what, f"at most {limit:g}{unit}", measured, unit, measured <= limit)

    def below(self, what: str, limit: float, measured: float, unit: str) -> None:
        self._add(what, f"below {limit:.2f}{unit}", measured, unit, measured < limit)

    def _add(self, what: str, goal: str, measured: float, unit: str, met: bool) -> None:
        self.rows.append((what, goal, f"{measured:.3g}{unit}", "met" if met else "**not met**"))


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    head = list(head)
    print(f"\n### {title}\n")
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def print_machine() -> None:
    model = platform.processor() or "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    print(f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}")
    print(f"{platform.python_implementation()} {platform.python_version()}")
    names = ["replaylink", "structlog", "msgspec", "asgi-correlation-id", "starlette-context"]
    names += ["posthog", "starlette", "flask", "opentelemetry-sdk"]
    names += ["opentelemetry-instrumentation-asgi", "uvicorn", "httptools", "uvloop", "gunicorn"]
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    print(", ".join(versions))
    if hasattr(os, "getloadavg"):
        print(f"Load of the machine at the start: {os.getloadavg()[0]:.2f}")


def part_asgi(goals: Goals, rounds: int) -> None:
    variants = asgi_variants()
    get = measure_asgi(variants, HIT_GET, rounds)
    post = measure_asgi(variants, HIT_POST, rounds)
    table(
        f"ASGI: the session ID in a header ({len(HIT_GET.headers)} headers with GET, "
        f"{len(HIT_POST.headers)} with POST)",
        ["beyond the bare app", "GET, µs", "x minimum", "POST, µs", "x minimum"],
        (
            [
                name,
                f"{get.over[name]:.2f}",
                f"{get.ratio(name):.2f}",
                f"{post.over[name]:.2f}",
                f"{post.ratio(name):.2f}",
            ]
            for name in variants
        ),
    )
    print(f"\nThe bare app itself: {get.bare[BARE]:.2f} and {post.bare[BARE]:.2f} µs.")

    few = {name: variants[name] for name in (MINIMUM, OURS, OURS_UVICORN)}
    rows = []
    for request in other_requests():
        costs = measure_asgi(few, request, rounds)
        cells = [f"{costs.over[name]:.2f}" for name in (MINIMUM, OURS, OURS_UVICORN)]
        rows.append([request.name, *cells])
    table(
        "ASGI: other requests",
        ["beyond the bare app, µs", "minimum, which knows the header only", OURS, OURS_UVICORN],
        rows,
    )

    for ours, method in itertools.product((OURS, OURS_UVICORN), ("GET", "POST")):
        costs = get if method == "GET" else post
        hit = f"{ours}: header hit, {method}"
        goals.at_most(f"{hit}, to the minimum", 2.0, costs.ratio(ours), " x")
        if POSTHOG in variants:
            goals.at_most(f"{hit}, to PostHog's", 0.15, costs.ratio(ours, POSTHOG), " x")
        for name in (CORRELATION, CONTEXT, CONTEXT_PLUGIN):
            if name in variants:
                goals.below(f"{hit}, to {name}", costs.over[name], costs.over[ours], " µs")


def part_body(goals: Goals, rounds: int) -> None:
    rows = []
    for kind, words, sizes in (("chat", 12, (1, 64, 256)), ("long strings", 600, (64, 256))):
        for kib in sizes:
            # The largest one stays below max_body_bytes.
            body = chat(min(kib * 1024, 248 * 1024), words)
            request = posted(f"body, {kib} KiB", body)
            tap = ASGITap(our_session)
            prove(OURS, request, asgi_batch(ReplayLinkMiddleware(tap), request), tap)
            ours = asgi_batch(ReplayLinkMiddleware(ASGITap()), request)
            best = fastest(
                {
                    BARE: asgi_batch(ASGITap(), request),
                    OURS: ours,
                    OURS_UVICORN: with_uvicorn(ours),
                    "json.loads": timed(functools.partial(json.loads, body)),
                },
                rounds,
            )
            loads = best["json.loads"]
            row = [kind, f"{len(body):,}", f"{loads:.1f}"]
            for name in (OURS, OURS_UVICORN):
                over = best[name] - best[BARE]
                row += [f"{over:.1f}", f"{over / loads:.2f}"]
                if kib == 64:
                    what = f"{name}: body hit at 64 KiB, {kind}, to one `json.loads`"
                    goals.at_most(what, 0.25, over / loads, " x")
            rows.append(row)
    table(
        "ASGI: the session ID in the body, beyond the bare app",
        ["body", "bytes", "one `json.loads`, µs", OURS, "ratio", OURS_UVICORN, "ratio"],
        rows,
    )


def part_wsgi(rounds: int) -> None:
    variants = wsgi_variants()
    get = measure_wsgi(variants, HIT_GET, rounds)
    post = measure_wsgi(variants, HIT_POST, rounds)
    table(
        "WSGI: the session ID in a header",
        ["beyond the bare app, or bare Flask", "GET, µs", "x minimum", "POST, µs", "x minimum"],
        (
            [
                name,
                f"{get.over[name]:.2f}",
                f"{get.ratio(name):.2f}",
                f"{post.over[name]:.2f}",
                f"{post.ratio(name):.2f}",
            ]
            for name in get.over
        ),
    )
    few = {name: variants[name] for name in (MINIMUM, OURS)}
    rows = []
    for request in [*other_requests(), posted("body, 64 KiB", chat(64 * 1024, 12))]:
        costs = measure_wsgi(few, request, rounds)
        rows.append([request.name, *(f"{costs.over[name]:.2f}" for name in few)])
    table(
        "WSGI: other requests",
        ["beyond the bare app, µs", "minimum, which knows the header only", OURS],
        rows,
    )


def part_lines(goals: Goals, rounds: int) -> None:
    costs = measure_lines(rounds)
    table(
        "A structlog line, rendered as JSON",
        ["in a request", "whole line, µs", "of it `merge_contextvars`", "of it `add_identity`"],
        (
            [
                state,
                f"{best['both']:.2f}",
                f"{best['merge'] - best['neither']:.2f}",
                f"{best['both'] - best['merge']:.2f}",
            ]
            for state, best in costs.items()
        ),
    )
    for state, best in costs.items():
        goals.at_most(f"`add_identity`, {state}", 1.0, best["both"] - best["merge"], " µs")


def part_servers(rounds: int, seconds: float) -> None:
    rows = []
    for name in SERVERS:
        if not is_installed(name.partition(" ")[0]):
            rows.append([name, *["not installed"] * 2 * len(APPS)])
            continue
        found = measure_server(name, rounds, seconds)
        rows.append(
            [name, *(f"{found[app].requests_per_second:,.0f}" for app in APPS)]
            + [f"{found[app].cpu_us_per_request:.1f}" for app in APPS]
        )
    table(
        f"Whole servers, one worker, {CLIENTS} connections, the session ID in a header",
        [
            "best round",
            "bare, requests/s",
            "minimum",
            "replaylink",
            "bare, µs of CPU each",
            "minimum",
            "replaylink",
        ],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else 100

    print_machine()
    goals = Goals()
    if "asgi" in arguments.only:
        part_asgi(goals, rounds)
    if "body" in arguments.only:
        part_body(goals, rounds)
    if "wsgi" in arguments.only:
        part_wsgi(rounds)
    if "lines" in arguments.only:
        part_lines(goals, rounds)
    if "servers" in arguments.only:
        if arguments.quick:
            part_servers(rounds=1, seconds=0.1)
        else:
            part_servers(rounds=12, seconds=0.6)
    if goals.rows:
        table("Goals", ["", "goal", "measured", ""], goals.rows)


if __name__ == "__main__":
    main()
