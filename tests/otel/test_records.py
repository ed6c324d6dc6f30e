"""What arrives of a line."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import date
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("opentelemetry.sdk")

import structlog
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from replaylink import identify, linked
from replaylink.otel import IdentityLogRecordProcessor, Logs, configure_logging
from replaylink.processors import ReplayURL
from tests.otel.receiver import Receiver

UUID_TEXT = "01980c4b-1234-7abc-8def-0123456789ab"

BOTH = {"sessionId": "s-1", "posthogDistinctId": "7"}

log = structlog.get_logger("tests.structlog")
stdlib = logging.getLogger("tests.records")


def configure(receiver: Receiver, **options: Any) -> Logs:
    return configure_logging(**{"service_name": "shop", "endpoint": receiver.url, **options})


def test_colours_of_werkzeug(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """The colours that Werkzeug writes for a terminal are in no line."""
    with configure(receiver) as logs:
        logging.getLogger("werkzeug").info('"\x1b[31m\x1b[1m%s\x1b[0m" 500', "GET / HTTP/1.1")
        logs.flush()

        assert ['"GET / HTTP/1.1" 500'] == receiver.bodies()
    assert '"GET / HTTP/1.1" 500' == json.loads(capsys.readouterr().out)["event"]


def test_a_message_that_ends_its_line(receiver: Receiver) -> None:
    """A message is the text itself: uvicorn's on an error ends with a newline."""
    with configure(receiver) as logs:
        stdlib.error("Exception in ASGI application\n")
        logs.flush()

    assert ["Exception in ASGI application"] == receiver.bodies()


def test_pin_of_werkzeug(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """What opens Werkzeug's debugger is told to the developer, and to nobody else."""
    with configure(receiver) as logs:
        logging.getLogger("werkzeug").info(" * Debugger PIN: %s", "123-456-789")
        logging.getLogger("werkzeug").info("another line")
        logs.flush()

        assert ["another line"] == receiver.bodies()
    assert "123-456-789" in capsys.readouterr().out


def test_both_libraries(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of structlog and of the standard library arrive once, with both IDs, and clean."""
    before = time.time_ns()
    with configure(receiver) as logs, linked(session_id="s-1", user_id=7):
        log.info("ours", filename="a.pdf", size=3)
        stdlib.warning("%s line", "their", extra={"size": 4, "color_message": "\x1b[1m"})
        logs.flush()

        assert ["ours", "their line"] == sorted(receiver.bodies())
        by_body = {record.body: record for record in receiver.records}
        ours, theirs = by_body["ours"], by_body["their line"]
        assert [BOTH, BOTH] == [ours.ids, theirs.ids]
        assert ["tests.structlog", "tests.records"] == [ours.scope, theirs.scope]
        assert [(9, "INFO"), (13, "WARN")] == [ours.severity, theirs.severity]
        assert before - 1_000_000 <= ours.time_ns <= theirs.time_ns <= time.time_ns()
        assert {
            **BOTH,
            "filename": "a.pdf",
            "size": 3,
            "code.file.path": __file__,
            "code.function.name": "test_both_libraries",
            "code.line.number": test_both_libraries.__code__.co_firstlineno + 4,
        } == ours.attributes
        assert {*BOTH, "size", "code.file.path", "code.function.name", "code.line.number"} == set(
            theirs.attributes
        )
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert [
            {**BOTH, "event": "ours", "filename": "a.pdf", "size": 3, "level": "info"},
            {**BOTH, "event": "their line", "size": 4, "level": "warning"},
        ] == [
            {key: value for key, value in line.items() if key not in ("timestamp", "logger")}
            for line in lines
        ]


def test_outside_of_a_request(receiver: Receiver) -> None:
    """A line of no request has neither attribute, nor one that is empty."""
    with configure(receiver) as logs:
        log.info("ours")
        stdlib.warning("theirs")
        logs.flush()

    assert [{}, {}] == [record.ids for record in receiver.records]


def test_late_user(receiver: Receiver) -> None:
    """A user who becomes known is on all lines from there on."""
    with configure(receiver) as logs, linked(session_id="s-1"):
        log.info("before")
        identify(7)
        log.info("after")
        logs.flush()

    assert [{"sessionId": "s-1"}, BOTH] == [record.ids for record in receiver.records]


@pytest.mark.parametrize("value", [42, UUID(UUID_TEXT), "text"], ids=["int", "uuid", "str"])
@pytest.mark.parametrize("library", ["structlog", "logging"])
def test_explicit_ids(receiver: Receiver, value: object, library: str) -> None:
    """An ID given with the line stays, as text."""
    with configure(receiver) as logs, linked(session_id="s-1", user_id=7):
        if library == "structlog":
            log.info("line", posthogDistinctId=value)
        else:
            stdlib.warning("line", extra={"posthogDistinctId": value})
        logs.flush()

    assert [{"sessionId": "s-1", "posthogDistinctId": str(value)}] == [
        record.ids for record in receiver.records
    ]


def test_other_keys(receiver: Receiver) -> None:
    """The attributes are named as the identity names them."""
    with (
        configure(receiver) as logs,
        linked(session_id="s-1", user_id=7, session_key="session.id", user_key="user.id"),
    ):
        log.info("line")
        logs.flush()

    [record] = receiver.records
    assert ("s-1", "7") == (record.attributes["session.id"], record.attributes["user.id"])
    assert {} == record.ids


@pytest.mark.parametrize("library", ["structlog", "logging"])
def test_exceptions(receiver: Receiver, library: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception has its whole type, its own words and its traceback, in the right place."""
    with configure(receiver) as logs, linked(session_id="s-1", user_id=7):
        try:
            open("/nowhere")  # noqa: SIM115
        except OSError:
            (log if library == "structlog" else stdlib).exception("failed")
        try:
            json.loads("{")
        except ValueError as exc:
            (log if library == "structlog" else stdlib).error("failed too", exc_info=exc)
        logs.flush()

    first, second = receiver.records
    assert ("failed", (17, "ERROR"), BOTH) == (first.body, first.severity, first.ids)
    assert "FileNotFoundError" == first.attributes["exception.type"]
    assert (
        "[Errno 2] No such file or directory: '/nowhere'" == (first.attributes["exception.message"])
    )
    assert first.attributes["exception.stacktrace"].startswith("Traceback (most recent")
    assert "json.decoder.JSONDecodeError" == second.attributes["exception.type"]
    assert not {"exc_info", "exception"} & set(first.attributes)
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert first.attributes["exception.stacktrace"] == lines[0]["exception"]


@pytest.mark.parametrize(
    ("levelno", "expected"),
    [
        (5, (1, "TRACE")),
        (10, (5, "DEBUG")),
        (20, (9, "INFO")),
        (25, (12, "Level 25")),
        (30, (13, "WARN")),
        (40, (17, "ERROR")),
        (50, (21, "FATAL")),
        (99, (24, "Level 99")),
    ],
)
def test_severity(receiver: Receiver, levelno: int, expected: tuple[int, str]) -> None:
    """Each level has the number and the text that OpenTelemetry has for it."""
    with configure(receiver, level=1) as logs:
        logging.addLevelName(5, "TRACE")
        stdlib.log(levelno, "line")
        logs.flush()

    assert [expected] == [record.severity for record in receiver.records]


def test_values(receiver: Receiver) -> None:
    """Values of any kind arrive as what they are, or as text, and never spoil a batch."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    knot: list[Any] = []
    knot.append(knot)
    with configure(receiver) as logs:
        log.info(
            "half a pair \ud800",
            day=date(2026, 1, 2),
            id=UUID(UUID_TEXT),
            none=None,
            nested={"a": [1, {"b": UUID(UUID_TEXT)}], 5: True},
            large=2**70,
            broken=Broken(),
            pair="\ud800é",
            knot=knot,
        )
        log.info("next")
        logs.flush()

    assert ["half a pair ?", "next"] == receiver.bodies()
    attributes = receiver.records[0].attributes
    assert {
        "day": "2026-01-02",
        "id": UUID_TEXT,
        "nested": {"a": [1, {"b": UUID_TEXT}], "5": True},
        "large": str(2**70),
        "broken": "<Broken that has no text>",
        "pair": "?é",
    } == {
        key: value
        for key, value in attributes.items()
        if key != "knot" and not key.startswith("code.")
    }


def test_resource_and_span(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records name their service, and the span that they were logged in."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=blue,service.name=other")
    options = {"service_version": "1.2", "environment": "test"}
    with configure(receiver, **options) as logs:
        with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
            log.info("line")
        logs.flush()

    [record] = receiver.records
    assert {
        "service.name": "shop",
        "service.version": "1.2",
        "deployment.environment.name": "test",
        "team": "blue",
    }.items() <= record.resource.items()
    assert span.get_span_context().trace_id.to_bytes(16, "big") == record.trace_id


def test_processors_see_every_line(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Processors given by the app change all lines, or drop them, wherever they go."""

    def scrub(logger: object, name: str, line: Any) -> Any:
        if "health" in line["event"]:
            raise structlog.DropEvent
        if "password" in line:
            line["password"] = "***"
        return line

    with configure(receiver, processors=[scrub, ReplayURL()]) as logs, linked(session_id="s-1"):
        for library, extra in ((log, {"password": "x"}), (stdlib, {"extra": {"password": "y"}})):
            library.info("health")
            library.info("in", **extra)
            library.error("in", **extra)
        logs.flush()
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    assert ["***"] * 4 == [record.attributes["password"] for record in receiver.records]
    assert ["***"] * 4 == [line["password"] for line in lines]
    assert 2 == sum("replayUrl" in record.attributes for record in receiver.records)


def test_levels(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level, of all or of one logger, is neither written nor sent."""
    chatty = logging.getLogger("tests.chatty")
    try:
        with configure(receiver, level="WARNING") as logs:
            chatty.setLevel(logging.ERROR)
            log.info("no")
            stdlib.info("no")
            structlog.get_logger("tests.chatty").warning("no")
            log.warning("yes")
            logs.flush()
    finally:
        chatty.setLevel(logging.NOTSET)

    assert ["yes"] == receiver.bodies()
    assert ["yes"] == [json.loads(t)["event"] for t in capsys.readouterr().out.splitlines()]


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal lines are readable, and tracebacks show no local variables."""
    with configure_logging(service_name="shop", console=True), linked(session_id="s-1"):
        secret = "hunter2"
        try:
            raise RuntimeError(len(secret))
        except RuntimeError:
            stdlib.exception("failed")
    output = capsys.readouterr().out

    assert "failed" in output
    assert "sessionId=s-1" in output
    assert "RuntimeError: 7" in output
    assert "hunter2" not in output
    assert not output.startswith("{")


def test_called_twice(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call replaces the first, for loggers in use too."""
    with Receiver() as second:
        configure(receiver)
        cached = structlog.get_logger("tests.cached").bind()
        cached.info("one")

        def mark(logger: object, name: str, line: Any) -> Any:
            line["marked"] = True
            return line

        with configure(second, processors=[mark]) as logs:
            cached.info("two")
            stdlib.info("two")
            logs.flush()

        assert ["one"] == receiver.bodies()
        assert [True, True] == [record.attributes["marked"] for record in second.records]
        assert 3 == len(capsys.readouterr().out.splitlines())


def test_after_shutdown(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """After a shutdown lines are written, and not sent."""
    logs = configure(receiver)
    log.info("before")

    assert logs.shutdown()
    assert logs.shutdown()
    log.info("after")
    assert ["before"] == receiver.bodies()
    assert 2 == len(capsys.readouterr().out.splitlines())


def test_nothing_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    """With no receiver lines are written, and no thread is there."""
    before = set(threading.enumerate())
    logs = configure_logging(service_name="shop")
    with linked(session_id="s-1", user_id=7):
        log.info("line")

    # Those of other tests may still be ending.
    threads = set(threading.enumerate()) - before
    assert "replaylink-otlp" not in [thread.name for thread in threads]
    assert logs.provider is None
    assert logs.flush()
    line = json.loads(capsys.readouterr().out)
    assert {**BOTH, "event": "line"}.items() <= line.items()


def test_server_loggers(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Servers' own console handlers give way, and what is written to a file stays."""
    import sys

    logger = logging.getLogger("gunicorn.error")
    kept = logging.NullHandler()
    logger.handlers[:] = [logging.StreamHandler(sys.stderr), kept]
    logger.propagate = False
    try:
        with configure(receiver) as logs:
            logger.warning("line")
            logs.flush()

        assert [kept] == logger.handlers
    finally:
        logger.handlers.clear()
        logger.propagate = True
    assert ["line"] == receiver.bodies()
    out, err = capsys.readouterr()
    assert (1, "") == (len(out.splitlines()), err)


def test_unusable_message(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """An argument that does not fit its message does not raise in the app."""
    with configure(receiver) as logs:
        # pytest's own handlers do raise.
        logging.getLogger().handlers[:-1] = []
        stdlib.info("%d", "x")
        stdlib.info("next")
        logs.flush()

    assert ["next"] == receiver.bodies()
    assert "TypeError" in capsys.readouterr().err


# --- IdentityLogRecordProcessor in a set-up of the app's own --------------------------


@pytest.fixture
def exported() -> tuple[LoggerProvider, InMemoryLogRecordExporter]:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(IdentityLogRecordProcessor())
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    return provider, exporter


def attributes_of(exporter: InMemoryLogRecordExporter) -> list[dict[str, Any]]:
    return [
        {
            key: value
            for key, value in (item.log_record.attributes or {}).items()
            if key in ("sessionId", "posthogDistinctId", "k")
        }
        for item in exporter.get_finished_logs()
    ]


def test_processor_with_opentelemetrys_handler(
    exported: tuple[LoggerProvider, InMemoryLogRecordExporter],
) -> None:
    """Records of OpenTelemetry's own handler for logging are linked, late users too."""
    provider, exporter = exported
    module = pytest.importorskip("opentelemetry.instrumentation.logging.handler")
    handler = module.LoggingHandler(logger_provider=provider)
    stdlib.addHandler(handler)
    try:
        with linked(session_id="s-1"):
            stdlib.warning("before")
            identify(UUID(UUID_TEXT))
            stdlib.warning("after")
            stdlib.warning("given", extra={"posthogDistinctId": 5, "k": 1})
        stdlib.warning("outside")
    finally:
        stdlib.removeHandler(handler)

    assert [
        {"sessionId": "s-1"},
        {"sessionId": "s-1", "posthogDistinctId": UUID_TEXT},
        {"sessionId": "s-1", "posthogDistinctId": "5", "k": 1},
        {},
    ] == attributes_of(exporter)


@pytest.mark.parametrize("attributes", [None, {}, {"k": 1}], ids=["none", "empty", "some"])
def test_processor_with_any_library(
    exported: tuple[LoggerProvider, InMemoryLogRecordExporter], attributes: Any
) -> None:
    """Records that a library emits by itself are linked."""
    provider, exporter = exported
    with linked(session_id="s-1", user_id=7):
        provider.get_logger("lib").emit(
            LogRecord(body="x", severity_number=SeverityNumber.INFO, attributes=attributes)
        )

    assert [{**(attributes or {}), **BOTH}] == attributes_of(exporter)
    assert IdentityLogRecordProcessor().force_flush()
    IdentityLogRecordProcessor().shutdown()


@pytest.mark.parametrize("empty", ["", None], ids=["empty", "none"])
def test_processor_leaves_no_empty_id(
    exported: tuple[LoggerProvider, InMemoryLogRecordExporter], empty: Any
) -> None:
    """An ID that is there and empty is taken out: PostHog would show it."""
    provider, exporter = exported
    provider.get_logger("lib").emit(LogRecord(body="x", attributes={"sessionId": empty}))

    assert [{}] == attributes_of(exporter)
