"""
What one log line costs on its way into the queue of what exports it.

    python -m benchmarks.line            in about a quarter of a minute
    python -m benchmarks.line --quick    only to see that it works

The chain that `configure_logging()` sets up, beside one that is made of OpenTelemetry's own
parts. Each writes the line as JSON to a stream that drops it, and hands a record with the
same attributes to a processor that gathers batches for an exporter that does nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, Final

import structlog
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)

from replaylink import linked
from replaylink.otel import configure_logging

from .clock import fastest, timed
from .overhead import Goals, print_machine, table
from .traffic import SESSION_ID

IDS: Final = {"sessionId": SESSION_ID, "posthogDistinctId": "user-42"}

CALLS: Final = ("structlog", "standard library")

OTEL, OTEL_STRUCTLOG, OURS, BARE = (
    "OpenTelemetry's `LoggingHandler`",
    "OpenTelemetry's structlog processor",
    "**replaylink**",
    "no export",
)

LIMIT: Final = 1.1
"""The goal: at most so many times what OpenTelemetry's own chain costs."""


class Dropped(io.TextIOBase):
    """
    A stream that drops what is written to it.
    """

    def write(self, text: str) -> int:
        return len(text)


class NoExporter(LogRecordExporter):
    """
    An exporter that does nothing, and keeps the last batch.
    """

    last: Any = None

    def export(self, batch: Any) -> LogRecordExportResult:
        self.last = batch
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


Line = Callable[[], object]


def lines(name: str) -> dict[str, Line]:
    """
    Return what logs a line by structlog and by `logging`, as they are configured now.

    They keep that: another configuration may follow.
    """
    root, library = logging.getLogger(), logging.getLogger(name)
    library.handlers, root.handlers = root.handlers, []
    library.propagate, library.level = False, logging.INFO
    log = structlog.get_logger(name)
    calls: dict[str, Line] = {
        "structlog": lambda: log.info("message sent", conversation=17, model="large-2"),
        "standard library": lambda: library.info(
            "message %d sent", 17, extra={"conversation": 17, "model": "large-2"}
        ),
    }
    for call in calls.values():
        call()  # structlog keeps the configuration with the first line
    return calls


def ours() -> tuple[dict[str, Line], Callable[[], Any]]:
    """
    Return the lines of `configure_logging()`, and what looks at the last batch.
    """
    logs = configure_logging(service_name="shop", endpoint="http://127.0.0.1:1")
    batches: list[Any] = [None]

    def post(batch: Any, deadline: float) -> int:
        batches[0] = batch
        return 0

    sender: Any = logs._sender
    sender._connection.post = post

    def last() -> Any:
        logs.flush()
        return batches[0]

    return lines("shop.replaylink"), last


def otel(processor: Any = None) -> tuple[dict[str, Line], Callable[[], Any]]:
    """
    Return the lines of a usual set-up of OpenTelemetry, and what looks at the last batch.
    """
    exporter = NoExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: Any = structlog.processors.JSONRenderer()
    output = logging.StreamHandler(Dropped())
    if processor is None:
        foreign = [*shared, structlog.stdlib.ExtraAdder()]
        remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        output.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=foreign, processors=[remove, render]
            )
        )
        handler = LoggingHandler(logger_provider=provider, log_code_attributes=True)
        logging.getLogger().handlers = [handler, output]
        # The IDs come from the context; level, name and time are the record's own.
        last_ones = [structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs]
    else:
        logging.getLogger().handlers = [output]
        # Before what only the line on the stream has.
        last_ones = [*shared[:2], processor(provider), *shared[2:], render]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *last_ones],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=True,
    )

    def last() -> Any:
        provider.force_flush()
        return exporter.last

    return lines("shop.opentelemetry" + ("" if processor is None else "-structlog")), last


def bare() -> dict[str, Line]:
    """
    Return the lines of `configure_logging()` that are not exported.
    """
    configure_logging(service_name="shop")
    return lines("shop.bare")


def attributes(batch: Any) -> dict[str, Any]:
    """
    Return the attributes of a batch's last record, without those that tell the place.
    """
    found = dict(batch[-1].log_record.attributes)
    return {key: value for key, value in found.items() if not key.startswith("code.")}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """
    Return what a line costs by each chain, in microseconds, for each way to log it.
    """
    chains = {BARE: bare()}
    lasts = {}
    chains[OTEL], lasts[OTEL] = otel()
    if importlib.util.find_spec("opentelemetry.instrumentation.structlog") is not None:
        module = importlib.import_module("opentelemetry.instrumentation.structlog")
        chains[OTEL_STRUCTLOG], lasts[OTEL_STRUCTLOG] = otel(module.StructlogProcessor)
    chains[OURS], lasts[OURS] = ours()

    costs = {}
    for call in CALLS:
        batches = {}
        for name, calls in chains.items():
            if name == OTEL_STRUCTLOG and call != "structlog":
                continue  # it sees no other lines
            batches[name] = timed(calls[call])
            if name not in lasts:
                continue
            batches[name](1)
            expected = {"conversation": 17, "model": "large-2"}
            # OpenTelemetry's own chain knows no IDs on lines of the standard library.
            expected |= IDS if call == "structlog" or name == OURS else {}
            if (found := attributes(lasts[name]())) != expected:
                sys.exit(f"{name}: {call}: {found}, not {expected}")
        costs[call] = fastest(batches, rounds)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    arguments = parser.parse_args()
    print_machine()
    ids = linked(session_id=SESSION_ID, user_id="user-42")
    with redirect_stdout(Dropped()), ids:
        costs = measure(rounds=2 if arguments.quick else 200)
    table(
        "A log line with two keys and both IDs, on its way into the queue",
        ["µs", *CALLS],
        (
            [name, *(f"{costs[call][name]:.1f}" if name in costs[call] else "" for call in CALLS)]
            for name in costs["structlog"]
        ),
    )
    goals = Goals()
    for call in CALLS:
        ratio = costs[call][OURS] / costs[call][OTEL]
        goals.at_most(f"{call}, to {OTEL}", LIMIT, ratio, " x")
    table("Goals", ["", "goal", "measured", ""], goals.rows)


if __name__ == "__main__":
    main()
