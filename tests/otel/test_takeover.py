"""Other set-ups of logging beside ours: those of servers, frameworks and tests."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import structlog

from replaylink import _lifespan, linked
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.otel import Logs, configure_logging
from tests.otel.receiver import Receiver

log = structlog.get_logger("tests.takeover")
stdlib = logging.getLogger("tests.takeover")


@pytest.fixture
def other() -> Iterator[logging.Logger]:
    """A logger with a set-up of its own."""
    logger = logging.getLogger("tests.takeover.other")
    yield logger
    logger.handlers = []
    logger.propagate = True


def configure(receiver: Receiver, **options: Any) -> Logs:
    return configure_logging(**{"service_name": "shop", "endpoint": receiver.url, **options})


@pytest.mark.parametrize("when", ["before", "while-the-server-starts"])
@pytest.mark.parametrize("propagate", [True, False], ids=["propagates", "keeps"])
def test_console_handlers_of_any_logger(
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    other: logging.Logger,
    propagate: bool,
    when: str,
) -> None:
    """Each line is on stdout once and is sent, whatever wrote its logger's lines before."""

    def set_up() -> None:
        other.handlers = [logging.StreamHandler(sys.stderr)]
        other.propagate = propagate

    if when == "before":
        set_up()
    with configure(receiver) as logs:
        if when != "before":
            set_up()
            _lifespan.started()
        other.warning("line")
        logs.flush()

    assert ["line"] == receiver.bodies()
    out, err = capsys.readouterr()
    assert ("line", "") == (json.loads(out)["event"], err)


def test_a_list_of_handlers_that_loggers_share(receiver: Receiver, other: logging.Logger) -> None:
    """A logger that shares the handlers of another, as in gunicorn, shares what becomes of it."""
    shared: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    another = logging.getLogger("tests.takeover.another")
    for logger in (other, another):
        logger.handlers = shared
        logger.propagate = False
    try:
        with configure(receiver) as logs:
            other.warning("one")
            another.warning("two")
            # A worker that was forked since gives the list to a logger of its own.
            late = logging.getLogger("tests.takeover.late")
            late.handlers, late.propagate = shared, False
            _lifespan.started()
            late.warning("three")
            logs.flush()
    finally:
        for logger in (another, late):
            logger.handlers, logger.propagate = [], True

    assert ["one", "two", "three"] == receiver.bodies()


def test_a_logger_that_was_silenced(receiver: Receiver, other: logging.Logger) -> None:
    """A logger without any handler that keeps its lines goes on doing so."""
    other.handlers, other.propagate = [], False
    with configure(receiver) as logs:
        other.warning("line")
        log.warning("ours")
        logs.flush()

    assert ["ours"] == receiver.bodies()


def test_a_logger_that_is_silenced_afterwards(receiver: Receiver, other: logging.Logger) -> None:
    """What an app silences after our set-up stays silent as a server starts it."""
    other.handlers = [logging.StreamHandler(sys.stderr)]
    with configure(receiver) as logs:
        other.propagate = False
        _lifespan.started()
        other.warning("line")
        log.warning("ours")
        logs.flush()

    assert ["ours"] == receiver.bodies()


class RichHandler(logging.Handler):
    """A handler that writes through a console, as rich has it."""

    console = SimpleNamespace(file=sys.stderr)


def test_other_handlers(
    receiver: Receiver, other: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is not open yet stays, also without a stdout; what has a console does not."""
    monkeypatch.setattr(RichHandler, "console", SimpleNamespace(file=sys.stderr))
    monkeypatch.setattr(sys, "stdout", None)
    file = logging.FileHandler(tmp_path / "app.log", delay=True)
    other.handlers = [file, RichHandler(), logging.NullHandler()]
    with configure(receiver):
        other.warning("line")
    file.close()

    assert [file] == other.handlers[:1]
    assert not any(isinstance(handler, RichHandler) for handler in other.handlers)
    assert "line\n" == (tmp_path / "app.log").read_text()


async def test_an_app_that_is_set_up_as_it_starts(receiver: Receiver) -> None:
    """Its last lines are sent as it ends, in a thread beside the event loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logs = configure(receiver)
        await send({"type": "lifespan.startup.complete"})
        log.info("last")
        await send({"type": "lifespan.shutdown.complete"})
        assert logs.flush(0)

    async def send(message: Any) -> None: ...

    await ReplayLinkMiddleware(app)({"type": "lifespan"}, send, send)

    assert ["last"] == receiver.bodies()


def test_an_app_that_ends_in_no_loop_of_asyncio(receiver: Receiver) -> None:
    """Where trio runs the app, its last lines are sent as well."""

    async def send(message: Any) -> None: ...

    with configure(receiver):
        log.info("last")
        with pytest.raises(StopIteration):
            _lifespan.ending(send)({"type": "lifespan.shutdown.complete"}).send(None)  # type: ignore[attr-defined]

        assert ["last"] == receiver.bodies()


def test_the_handler_of_flask(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """A Flask app that has logged before writes its lines once from then on."""
    flask = pytest.importorskip("flask")
    app = flask.Flask(__name__)
    app.logger.handlers[:] = [sys.modules["flask.logging"].default_handler]
    with configure(receiver) as logs:
        app.logger.warning("line")
        logs.flush()

    assert ["line"] == receiver.bodies()
    out, err = capsys.readouterr()
    assert ("line", "") == (json.loads(out)["event"], err)


def test_reloaders_are_kept_quiet(receiver: Receiver) -> None:
    """What tells of each changed file, the log's own too, does so only if it was told to."""
    watchfiles = logging.getLogger("watchfiles.main")
    with configure(receiver) as logs:
        watchfiles.info("1 change detected")
        watchfiles.warning("line")
        logs.flush()
        logging.getLogger("watchfiles").setLevel(logging.INFO)
        configure(receiver)
        assert watchfiles.isEnabledFor(logging.INFO)
    logging.getLogger("watchfiles").setLevel(logging.NOTSET)

    assert ["line"] == receiver.bodies()


# --- set-ups that undo ours -----------------------------------------------------------


@pytest.fixture
def _as_before() -> Iterator[None]:
    """What a test does to structlog and to logging is undone."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers


def test_without_our_set_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], other: logging.Logger
) -> None:
    """An app that imports this and sets logging up itself is left alone."""
    monkeypatch.setattr("replaylink.otel._structlog_processors", [])
    other.handlers = [logging.StreamHandler(sys.stderr)]
    _lifespan.started()

    assert 1 == len(other.handlers)
    assert "" == capsys.readouterr().err


@pytest.mark.usefixtures("_as_before")
def test_a_set_up_that_removes_our_handler(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told as the app starts, for else it is found out when lines are missed."""
    with configure(receiver):
        config = {"version": 1, "root": {"level": "INFO"}, "disable_existing_loggers": False}
        logging.config.dictConfig(config)
        _lifespan.started()
        _lifespan.started()

    assert 1 == capsys.readouterr().err.count("call configure_logging() after it")


@pytest.mark.usefixtures("_as_before")
def test_a_set_up_of_structlog_after_ours(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told as the app starts."""
    with configure(receiver):
        _lifespan.started()
        assert "" == capsys.readouterr().err
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        _lifespan.started()

    assert "structlog.configure() was called after" in capsys.readouterr().err


@pytest.mark.usefixtures("_as_before")
def test_structlogs_own_formatter(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Events that structlog hands over in its own way are events to us, too."""
    with configure(receiver) as logs:
        structlog.configure(
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        with linked(session_id="s-1"):
            structlog.get_logger("tests.takeover").error("line", n=1)
        logs.flush()

    [record] = receiver.records
    assert ("line", 1, {"sessionId": "s-1"}) == (record.body, record.attributes["n"], record.ids)


# --- handlers that stay ---------------------------------------------------------------


def test_a_file(receiver: Receiver, tmp_path: Path) -> None:
    """Lines in a file read as lines: with the event first, the IDs and the traceback."""
    file = logging.FileHandler(tmp_path / "app.log")
    root = logging.getLogger()
    root.addHandler(file)
    try:
        with configure(receiver), linked(session_id="s-1", user_id=7):
            log.info("café opened", guests=2)
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                log.exception("failed")
    finally:
        root.removeHandler(file)
        file.close()
    first, second, *traceback = (tmp_path / "app.log").read_text(encoding="utf-8").splitlines()

    ids = {"sessionId='s-1'", "posthogDistinctId='7'"}
    assert first.startswith("café opened guests=2 ")
    assert ids == set(first.split()[3:])
    assert ids == set(second.split()[1:])
    assert "Traceback (most recent call last):" == traceback[0]
    assert "ZeroDivisionError: division by zero" == traceback[-1]


def test_structlogs_formatter_on_a_file(receiver: Receiver, tmp_path: Path) -> None:
    """A handler of the app's with structlog's formatter gets the event's fields."""
    file = logging.FileHandler(tmp_path / "app.log")
    renderer = structlog.processors.JSONRenderer()
    file.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer))
    root = logging.getLogger()
    root.addHandler(file)
    try:
        with configure(receiver), linked(session_id="s-1"):
            log.info("line", n=1)
    finally:
        root.removeHandler(file)
        file.close()

    assert {"event": "line", "n": 1, "sessionId": "s-1"} == json.loads(
        (tmp_path / "app.log").read_text()
    )


def test_what_tests_capture(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Pytest's log shows the event and the IDs of a line."""
    with configure(receiver), linked(session_id="s-1"):
        log.info("line", n=1)

    assert ["line n=1 sessionId='s-1'"] == caplog.messages
