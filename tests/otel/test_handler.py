"""What becomes of a line between the app and the queue, whatever is in it."""

from __future__ import annotations

import enum
import io
import json
import logging
import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("opentelemetry.sdk")

import structlog
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from replaylink import linked
from replaylink._log_handler import LogHandler
from replaylink._otlp.values import LEFT_OUT, MAX_VALUES, clean
from replaylink.otel import Logs, configure_logging
from replaylink.processors import ReplayURL
from tests.otel.receiver import Receiver

NOBODY = UUID(int=0)

log = structlog.get_logger("tests.handler")
stdlib = logging.getLogger("tests.handler")


class Colour(str, enum.Enum):
    RED = "red"


class Torn(Mapping[str, int]):
    """A mapping of an app's making, which fails."""

    def __getitem__(self, key: str) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "torn"


class Lazy:
    """An object that looks elsewhere for what it is, such as Django's, and finds no database."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError

    def __repr__(self) -> str:
        return "lazy"


class Wordless:
    def __repr__(self) -> str:
        raise RuntimeError


def configure(receiver: Receiver, **options: Any) -> Logs:
    return configure_logging(**{"service_name": "shop", "endpoint": receiver.url, **options})


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines on stdout, each of which is JSON as the standard has it."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    return [
        json.loads(text, parse_constant=refuse) for text in capsys.readouterr().out.splitlines()
    ]


def knot() -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({(1, 2): 3}, {"(1, 2)": 3}, id="keys-of-any-kind"),
        pytest.param(knot(), {"a": 1, "self": LEFT_OUT}, id="holds-itself"),
        pytest.param(Wordless(), "<Wordless that has no text>", id="no-text"),
        pytest.param({"a": [math.nan, math.inf]}, {"a": ["NaN", "Infinity"]}, id="no-number"),
        pytest.param(Torn(), "torn", id="mapping-that-fails"),
        pytest.param(Lazy(), "lazy", id="no-type"),
        pytest.param(2**20_000, hex(2**20_000), id="very-large-number"),
        pytest.param(NOBODY, str(NOBODY), id="uuid"),
        pytest.param(Colour.RED, "red", id="enum-of-text"),
        pytest.param(HTTPStatus.OK, 200, id="enum-of-numbers"),
        pytest.param({"\ud800": "\ud800"}, {"\ud800": "\ud800"}, id="half-a-pair"),
    ],
)
@pytest.mark.parametrize("console", [False, True], ids=["json", "console"])
def test_no_value_costs_a_line(
    capsys: pytest.CaptureFixture[str], value: object, expected: object, console: bool
) -> None:
    """A line with a value of any kind is on stdout, where JSON has none as text."""
    with configure_logging(service_name="shop", console=console):
        log.info("line", value=value)
        stdlib.info("line", extra={"value": value})

    if console:
        assert 2 == capsys.readouterr().out.count("line")
        return
    assert [expected, expected] == [line["value"] for line in written(capsys)]


def test_values_are_sent_as_what_they_are(receiver: Receiver) -> None:
    """Members of an enumeration are what they stand for, on the wire as on stdout."""

    class Ratio(float):
        pass

    with configure(receiver) as logs:
        log.info("line", colour=Colour.RED, status=HTTPStatus.OK, ratio=Ratio(0.5), data=b"\xff")
        log.info("line", mapping=Torn())
        logs.flush()

    record, other = receiver.records
    assert "torn" == other.attributes["mapping"]
    assert {"colour": "red", "status": 200, "ratio": 0.5, "data": b"\xff"} == {
        key: value for key, value in record.attributes.items() if not key.startswith("code.")
    }


def test_a_value_of_very_many_is_cut() -> None:
    """However much refers to however much, the time for it has a bound."""
    parent: dict[str, Any] = {}
    parent["children"] = [{"parent": parent, "n": n} for n in range(300)]
    wide: Any = [1] * 100
    for _ in range(6):
        wide = [wide] * 100

    assert {"parent": LEFT_OUT, "n": 299} == clean(parent)["children"][299]
    assert MAX_VALUES / 2 < str(clean(wide)).count("1") <= MAX_VALUES


@pytest.mark.parametrize("library", ["structlog", "logging"])
def test_ids_are_text_or_absent(
    receiver: Receiver, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    """IDs given in the log call are text on stdout too, and None is no ID."""
    given = {"sessionId": NOBODY, "posthogDistinctId": 7}
    odd = {"sessionId": Lazy(), "posthogDistinctId": Torn()}
    with configure(receiver) as logs, linked(session_id="s-1", user_id=1):
        for ids in (given, {"sessionId": None, "posthogDistinctId": ""}, odd):
            if library == "structlog":
                log.info("line", **ids)
            else:
                stdlib.info("line", extra=ids)
        logs.flush()

    expected = [
        {"sessionId": str(NOBODY), "posthogDistinctId": "7"},
        {},
        {"sessionId": "lazy", "posthogDistinctId": "torn"},
    ]
    assert expected == [record.ids for record in receiver.records]
    assert expected == [
        {key: line[key] for key in given if key in line} for line in written(capsys)
    ]


def test_an_id_that_a_processor_takes_out_stays_out(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a processor of the app takes out of a line leaves the process in no way."""

    def nameless(logger: object, name: str, line: Any) -> Any:
        line.pop("posthogDistinctId")
        return line

    with configure(receiver, processors=[nameless]) as logs, linked(session_id="s", user_id=1):
        log.info("line")
        stdlib.info("line")
        logs.flush()

    assert [{"sessionId": "s"}] * 2 == [record.ids for record in receiver.records]
    assert all("posthogDistinctId" not in line for line in written(capsys))


def test_a_processor_that_fails(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """It costs its line, never the request, and is told once."""

    def fail(logger: object, name: str, line: Any) -> Any:
        if line["event"] == "bad":
            raise KeyError(line["event"])
        return line

    with configure(receiver, processors=[fail]) as logs:
        for library in (log, stdlib):
            library.info("bad")
            library.info("good")
        logs.flush()

    assert ["good", "good"] == receiver.bodies()
    out, err = capsys.readouterr()
    assert 2 == len(out.splitlines())
    assert 1 == err.count("a line is lost, for a processor failed")
    assert "KeyError: 'bad'" in err


@pytest.mark.parametrize(
    "processor",
    [structlog.processors.format_exc_info, structlog.processors.dict_tracebacks],
    ids=["text", "dict"],
)
@pytest.mark.parametrize("library", ["structlog", "logging"])
def test_a_processor_that_renders_exceptions(
    receiver: Receiver, capsys: pytest.CaptureFixture[str], library: str, processor: Any
) -> None:
    """The type and the traceback of an exception are sent, whatever stdout shows of it."""
    with configure(receiver, processors=[processor]) as logs:
        try:
            {}["here"]  # type: ignore[index]
        except KeyError:
            (log if library == "structlog" else stdlib).exception("failed")
        logs.flush()

    [record] = receiver.records
    assert "KeyError" == record.attributes["exception.type"]
    assert record.attributes["exception.stacktrace"].startswith("Traceback (most recent")
    assert "exception" not in record.attributes
    [line] = written(capsys)
    assert isinstance(
        line["exception"], str if processor is structlog.processors.format_exc_info else list
    )


def test_structlogs_own_processors(receiver: Receiver) -> None:
    """Processors of structlog that ask for the logger or the record find them."""
    processors = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=["k"]),
        structlog.processors.CallsiteParameterAdder(
            [structlog.processors.CallsiteParameter.FUNC_NAME]
        ),
    ]
    with configure(receiver, processors=processors) as logs:
        log.info("line", k=1)
        stdlib.info("line", extra={"k": 1})
        logs.flush()

    assert [("tests.handler", 1, "test_structlogs_own_processors")] * 2 == [
        (record.attributes["logger"], record.attributes["k"], record.attributes["func_name"])
        for record in receiver.records
    ]
    assert not any(key.startswith("_") for record in receiver.records for key in record.keys)


def test_keys_of_the_apps_own(receiver: Receiver) -> None:
    """`stack` and `exception` are taken for what structlog makes only where they are that."""
    with configure(receiver) as logs:
        log.info("line", stack="production", exception="boom")
        log.info("line", stack_info=True)
        stdlib.info("line", stack_info=True)
        logs.flush()

    own, *stacks = [record.attributes for record in receiver.records]
    assert ("production", "boom") == (own["stack"], own["exception"])
    assert "exception.stacktrace" not in own
    for attributes in stacks:
        assert "in test_keys_of_the_apps_own" in attributes["code.stacktrace"]
        assert "stack" not in attributes


def test_very_many_keys(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys of a line arrive, also those that OpenTelemetry would leave out, in silence."""
    with configure(receiver) as logs:
        log.info("line", **{f"k{n}": n for n in range(200)})
        logs.flush()

    [record] = receiver.records
    assert {f"k{n}" for n in range(200)} <= record.attributes.keys()
    assert 1 == len(written(capsys))


def test_limits_of_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are set for OpenTelemetry count."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    with configure(receiver) as logs:
        log.info("line", text="abcdef")
        logs.flush()

    assert "abc" == receiver.records[0].attributes["text"]


@pytest.mark.parametrize(("levelno", "name"), [(40, "\x1b[31mERR\x1b[0m"), (45, "ALERT")])
def test_levels_with_other_names(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, levelno: int, name: str
) -> None:
    """What counts of a level is its number, whatever an app calls it."""
    monkeypatch.setitem(logging._levelToName, levelno, name)
    with configure(receiver, processors=[ReplayURL()]) as logs, linked(session_id="s-1"):
        stdlib.log(levelno, "line")
        stdlib.info("line")
        logs.flush()

    assert [True, False] == ["replayUrl" in record.attributes for record in receiver.records]


def test_arguments_of_structlogs_bound_logger(receiver: Receiver) -> None:
    """Arguments stand in the message also where structlog leaves that to a processor."""
    with configure(receiver) as logs:
        structlog.wrap_logger(stdlib, wrapper_class=structlog.stdlib.BoundLogger).info("%d", 5)
        logs.flush()

    assert ["5"] == receiver.bodies()


def test_a_record_that_is_emitted_again(receiver: Receiver) -> None:
    """A record that a library keeps has the IDs of each request, not those of the first."""
    record = LogRecord(body="line", attributes={"k": 1})
    with configure(receiver) as logs:
        assert logs.provider is not None
        logger = logs.provider.get_logger("library")
        for session_id in ("s-1", "s-2"):
            with linked(session_id=session_id):
                logger.emit(record)
        logger.emit(record)
        logs.flush()

    assert [{"sessionId": "s-1"}, {"sessionId": "s-2"}, {}] == [
        record.ids for record in receiver.records
    ]


def test_configured_by_many_threads() -> None:
    """Set up by several threads at once, each line is written once."""
    begin = threading.Barrier(8)

    def configure_one() -> None:
        begin.wait(5)
        configure_logging(service_name="shop")

    threads = [threading.Thread(target=configure_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 == sum(isinstance(handler, LogHandler) for handler in logging.getLogger().handlers)


def test_a_filter_of_the_handler(capsys: pytest.CaptureFixture[str]) -> None:
    """Filters that an app puts on the handler count."""
    with configure_logging(service_name="shop"):
        logging.getLogger().handlers[-1].addFilter(lambda record: record.msg != "no")
        stdlib.info("no")
        stdlib.info("yes")

    assert ["yes"] == [line["event"] for line in written(capsys)]


class FailingProcessor(LogRecordProcessor):
    """One that an app has added, and that fails."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        raise RuntimeError

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        raise NotImplementedError


def test_a_line_that_cannot_be_sent(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes wrong on one way of a line does not keep it from the other one."""
    with configure(receiver) as logs:
        # pytest's own handlers do raise.
        logging.getLogger().handlers[:-1] = []
        assert logs.provider is not None
        logs.provider.add_log_record_processor(FailingProcessor())
        log.info("line")
        out, err = capsys.readouterr()

    assert "line" == json.loads(out)["event"]
    assert "RuntimeError" in err


# --- stdout -------------------------------------------------------------------------


def test_stdout_is_the_one_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines follow stdout to where test runners and notebooks put it."""
    with configure_logging(service_name="shop"):
        for _ in range(2):
            stdout = io.StringIO()
            monkeypatch.setattr(sys, "stdout", stdout)
            log.info("line")

            assert 1 == len(stdout.getvalue().splitlines())
            stdout.close()


class ToLogging:
    """A stdout whose text is logged, as many daemons have it."""

    def write(self, text: str) -> int:
        for line in text.rstrip().splitlines():
            logging.getLogger("stdout").info(line)
        return len(text)

    def flush(self) -> None: ...


class TextToLogging(ToLogging, io.TextIOBase):
    """The same, by the book."""


@pytest.mark.parametrize("kind", [ToLogging, TextToLogging])
def test_a_stdout_that_is_logged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, kind: type[ToLogging]
) -> None:
    """Lines go to the stdout behind one that logs what is written, and make no circle."""
    behind = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", behind)
    with configure(receiver) as logs:
        monkeypatch.setattr(sys, "stdout", kind())
        log.info("line")
        logs.flush()

    # By the book it passes there twice, for it cannot be told from one that writes.
    times = 2 if kind is TextToLogging else 1
    assert "line" in receiver.bodies()
    assert times == len(receiver.records)
    assert 1 == len(behind.getvalue().splitlines())


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stdout_that_nobody_reads(
    receiver: Receiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once that lines cannot be written, and they are sent all the same."""
    with configure(receiver) as logs:
        monkeypatch.setattr(sys, "stdout", Broken())
        for _ in range(5):
            log.info("line")
        logs.flush()

    assert ["line"] * 5 == receiver.bodies()
    assert "replaylink: cannot write lines to stdout: [Errno 32] Broken pipe\n" == (
        capsys.readouterr().err
    )


def test_a_stdout_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a terminal cannot show is written as its code."""
    data = io.BytesIO()
    with configure_logging(service_name="shop", console=True):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, "ascii"))
        log.info("café \ud800")

    assert b"caf\\xe9 \\ud800" in data.getvalue()


NO_STDOUT = """
import logging, os, sys
from replaylink.otel import configure_logging

if sys.argv[1] == "closed":
    sys.stdout.close()
elif sys.argv[1] == "none":
    sys.stdout = None
with configure_logging(service_name="shop"):
    logging.getLogger().warning("line")
    logging.getLogger().handlers[-1].flush()
"""


@pytest.mark.parametrize("stdout", ["closed", "none"])
def test_no_stdout(stdout: str, tmp_path: Path) -> None:
    """A process without stdout, such as a daemon, can be set up and log."""
    result = subprocess.run(
        [sys.executable, "-c", NO_STDOUT, stdout],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert 0 == result.returncode
    assert "Traceback" not in result.stderr


# --- lines in the middle of others --------------------------------------------------


FINALIZERS = """
import gc, logging, sys
from replaylink.otel import configure_logging

configure_logging(service_name="shop", endpoint=sys.argv[1])
count = 0

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        global count
        count += 1
        if count < 1500:
            Cycle()
            logging.getLogger(f"late.{count % 50}").warning("line")

Cycle()
gc.set_threshold(1, 1_000_000, 1_000_000)
for number in range(50):
    logging.getLogger(f"logger.{number}").warning("line")
gc.set_threshold(700, 10, 10)
"""

SIGNALS = """
import logging, signal, sys
from replaylink.otel import configure_logging

signal.signal(signal.SIGALRM, lambda *_: logging.getLogger("signal").warning("line"))
for number in range(150):
    logs = configure_logging(service_name="shop", endpoint=sys.argv[1])
    signal.setitimer(signal.ITIMER_REAL, 0.00002 + 0.000004 * number)
    logging.getLogger(f"logger.{number}").warning("line")
    logs.shutdown(1)
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(FINALIZERS, id="finalizers"),
        pytest.param(
            SIGNALS,
            id="signals",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="no such signals"),
        ),
    ],
)
def test_lines_logged_in_the_middle_of_others(receiver: Receiver, script: str) -> None:
    """A line by a finalizer or a signal handler, in the middle of another, stops nothing."""
    result = subprocess.run(
        [sys.executable, "-c", script, receiver.url],
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )

    assert 0 == result.returncode
    assert 100 < len(receiver.records)
