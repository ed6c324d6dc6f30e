"""
The handler that `replaylink.otel.configure_logging` installs: all lines, to stdout and away.

Each record of `logging` becomes an event of structlog (most are one already), then a line
on stdout and a record of OpenTelemetry.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from structlog.typing import EventDict, Processor

from ._identity import DEFAULT_KEYS, bound_identity
from ._otlp.report import Report
from ._otlp.request import is_sending
from ._otlp.values import SEVERITY_TEXTS, as_text, clean, qualified_name, severity

if TYPE_CHECKING:
    from .otel import Logs

NOT_EXTRA: Final = frozenset(
    [
        *vars(logging.makeLogRecord({})),
        *("asctime", "message", "taskName"),
        # uvicorn's message once more, with escape sequences.
        "color_message",
    ]
)
"""What a record of the standard library has besides ``extra``."""

STACK: Final = "Stack (most recent call last)"
"""How structlog begins what it makes of ``stack_info``."""

_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")

report: Final = Report()


def app_processors(processors: Iterable[Processor]) -> list[Processor]:
    """
    Return what to put into a chain for the processors that an app has given.
    """
    guarded: list[Processor] = [
        # structlog's own look for the caller in the frames around them, and do not fail.
        processor if _module(processor).startswith("structlog.") else _Guarded(processor)
        for processor in processors
    ]
    return [_note_exception, *guarded, _keep_exception] if guarded else []


def _module(processor: Processor) -> str:
    return getattr(processor, "__module__", None) or type(processor).__module__


class Event(dict[str, Any]):
    """
    An event of structlog as the message of a record: readable, wherever that is written.
    """

    def __str__(self) -> str:
        fields = [
            f"{key}={repr(value) if type(value) is str else as_text(value)}"
            for key, value in self.items()
            if key != "event"
        ]
        return " ".join([as_text(self.get("event", "")), *fields])


def to_record(
    logger: Any, method_name: str, event_dict: EventDict
) -> tuple[tuple[Event], dict[str, Any]]:
    """
    Hand an event over to `logging`: structlog's last processor.

    The handlers of others, which write to files or belong to a test, get a message and an
    exception as of any record.
    """
    exception = event_dict.pop("exc_info", None)
    # What structlog's own formatter looks for, on a handler of the app's.
    extra = {"_logger": logger, "_name": method_name}
    return (Event(event_dict),), {"exc_info": exception, "extra": extra}


class _Guarded:
    """
    A processor that costs its line when it fails, not the request.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __call__(self, logger: Any, method_name: str, event_dict: EventDict) -> Any:
        try:
            return self._processor(logger, method_name, event_dict)
        except structlog.DropEvent:
            raise
        except Exception:
            why = traceback.format_exc().rstrip()
            report.say("processor", f"a line is lost, for a processor failed:\n{why}")
            raise structlog.DropEvent from None


def _note_exception(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    exception = _exception(event_dict.get("exc_info"))
    if exception is not None:
        event_dict["_exception"] = exception
    return event_dict


def _keep_exception(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """
    Give back an exception that a processor has made a text of: its type is to be known.
    """
    exception = event_dict.pop("_exception", None)
    if exception is not None and "exception" in event_dict:
        event_dict.setdefault("exc_info", exception)
    return event_dict


def settle(event_dict: EventDict) -> EventDict:
    """
    Leave each of the two IDs as a text, or else leave it out.
    """
    identity = bound_identity()
    keys = DEFAULT_KEYS if identity is None else identity.keys
    for key in (keys.session_key, keys.user_key):
        value = event_dict.get(key)
        if type(value) is str and value:
            continue
        if type(value) is int or type(value) is UUID:
            event_dict[key] = str(value)
        elif value is not None and (text := as_text(value)):
            event_dict[key] = text
        else:
            event_dict.pop(key, None)
    return event_dict


class SettledLogRecord(ReadWriteLogRecord):
    """
    A record whose attributes are clean, and whose IDs are settled: the app's processors
    have seen them, and may have taken them out.
    """

    def __post_init__(self) -> None:
        # OpenTelemetry would keep 128 attributes, and log a warning about each one more.
        if self.limits is not NO_LIMITS:
            super().__post_init__()  # type: ignore[no-untyped-call]


NO_LIMITS: Final = LogRecordLimits(
    max_attributes=LogRecordLimits.UNSET,
    max_attribute_length=LogRecordLimits.UNSET,
    max_log_record_attributes=LogRecordLimits.UNSET,
    max_log_record_attribute_length=LogRecordLimits.UNSET,
)


def _limits() -> LogRecordLimits:
    """
    Return the limits that the environment sets, if any.
    """
    for name in os.environ:
        if re.fullmatch("OTEL_(LOGRECORD_)?ATTRIBUTE_(COUNT|VALUE_LENGTH)_LIMIT", name):
            return LogRecordLimits()
    return NO_LIMITS


class LogHandler(logging.Handler):
    """
    Makes an event of each record, then a line on stdout and a record of OpenTelemetry.

    OpenTelemetry has bridges of its own, for `logging` and for structlog. The first
    knows no event dict, and leaves out keys such as ``filename`` and ``name``; the
    second tells no place in the code. Of an `OSError` both have its number only, and
    an argument that does not fit its message raises in the app. One that emits from
    within structlog sees none of the levels that loggers have.

    Args:
        chain: The structlog processors that records of others pass through.
        logs: Where to export to.
        console: Whether to write readable lines; by default if stdout is a terminal.
    """

    def __init__(self, chain: Sequence[Processor], logs: Logs, *, console: bool | None) -> None:
        super().__init__()
        self.logs = logs
        self._chain = chain
        # One for all, and made here: OpenTelemetry makes them under a lock that a line
        # which is logged in the middle of that (by a finalizer, say) would wait for.
        self._logger = None if logs.provider is None else logs.provider.get_logger("replaylink")
        self._scopes: dict[str, InstrumentationScope] = {}
        self._limits = _limits()
        self._writing = threading.local()
        is_terminal = _is_terminal()
        self._render: Processor = structlog.processors.JSONRenderer(
            default=as_text, allow_nan=False
        )
        if is_terminal if console is None else console:
            # A plain traceback: the fancy ones show local variables, secrets among them.
            plain = structlog.dev.plain_traceback
            self._render = structlog.dev.ConsoleRenderer(
                colors=is_terminal, exception_formatter=plain
            )

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the handler's lock: threads need not wait for each other here.
        found: Any = self.filter(record)
        if found:
            # From Python 3.12 on, a filter may put another record in its place.
            self.emit(found if isinstance(found, logging.LogRecord) else record)
        return bool(found)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event_dict, exception = self._event(record)
        except structlog.DropEvent:
            return
        except Exception:
            self.handleError(record)
            return
        for to in (self._export, self._write):
            try:
                to(record, event_dict, exception)
            except Exception:
                self.handleError(record)

    def flush(self) -> None:
        stdout = self._stdout()
        if stdout is not None and not stdout.closed:
            stdout.flush()

    def _event(self, record: logging.LogRecord) -> tuple[EventDict, BaseException | None]:
        """
        Return a record's event dict, with the text of its exception, and that itself.
        """
        if isinstance(record.msg, Event):
            event_dict: EventDict = {**record.msg, "exc_info": record.exc_info}
        elif isinstance(record.msg, dict) and "_logger" in record.__dict__:
            # Of structlog's own formatter, if an app has set it up anew.
            event_dict = self._through_chain(record, dict(record.msg))
        else:
            event_dict = self._through_chain(record, _event_of(record))
        settle(event_dict)
        exception = _exception(event_dict.pop("exc_info", None))
        # A processor may have made its own of it.
        if exception is not None and "exception" not in event_dict:
            event_dict["exception"] = _text_of(exception)
        return event_dict, exception

    def _through_chain(self, record: logging.LogRecord, event_dict: EventDict) -> EventDict:
        # structlog's own processors look at these for a logger's name and the like.
        event_dict["_record"] = record
        logger = logging.getLogger(record.name)
        method_name = _method_name(record.levelno)
        for processor in self._chain:
            event_dict = processor(logger, method_name, event_dict)  # type: ignore[assignment]
        event_dict.pop("_record", None)
        return event_dict

    def _write(
        self, record: logging.LogRecord, event_dict: EventDict, exception: BaseException | None
    ) -> None:
        event_dict["level"] = record.levelname.lower()
        event_dict.setdefault("logger", record.name)
        event_dict.setdefault(
            "timestamp",
            datetime.fromtimestamp(record.created, timezone.utc).isoformat().replace("+00:00", "Z"),
        )
        line = f"{self._rendered(event_dict)}\n"
        stdout = self._stdout()
        if stdout is None:
            return
        self.acquire()
        self._writing.here = True
        try:
            try:
                stdout.write(line)
            except UnicodeEncodeError as exc:
                stdout.write(line.encode(exc.encoding, "backslashreplace").decode(exc.encoding))
            stdout.flush()
        # A pipe that nobody reads, or a file that is closed: so it is for all lines to come.
        except (OSError, ValueError) as exc:
            report.say("stdout", f"cannot write lines to stdout: {exc}")
        finally:
            self._writing.here = False
            self.release()

    def _stdout(self) -> Any:
        """
        Return where lines go to: test runners put another stdout there for each test.

        What logs all that is written to it is no place for what is logged.
        """
        is_text = sys.stdout is None or isinstance(sys.stdout, io.TextIOBase)
        if is_text and not getattr(self._writing, "here", False):
            return sys.stdout
        return sys.__stdout__

    def _rendered(self, event_dict: EventDict) -> Any:
        try:
            # A copy, for it may be half done before it fails.
            return self._render(None, "", dict(event_dict))
        except Exception:
            # Keys that are no text, values that hold themselves or have no text, numbers
            # that are none: no line is lost for that.
            plain = {as_text(key): clean(value) for key, value in event_dict.items()}
            text = json.dumps(plain, default=as_text)
            return self._render(None, "", json.loads(text, parse_constant=str))

    def _export(
        self, record: logging.LogRecord, event_dict: EventDict, exception: BaseException | None
    ) -> None:
        logger = self._logger
        # What OpenTelemetry logs, and what a request with log records does, would never end.
        if logger is None or is_sending() or record.name.partition(".")[0] == "opentelemetry":
            return
        # It opens Werkzeug's debugger, and so is for the developer at the terminal alone.
        if record.name == "werkzeug" and record.msg == " * Debugger PIN: %s":
            return
        scope = self._scopes.get(record.name)
        if scope is None:
            scope = self._scopes[record.name] = InstrumentationScope(record.name)
        body = event_dict.get("event", "")
        log_record = LogRecord(
            # In microseconds, as on stdout: more than that a float does not hold.
            timestamp=round(record.created * 1e6) * 1000,
            severity_text=SEVERITY_TEXTS.get(record.levelname, record.levelname),
            severity_number=severity(record.levelno),
            body=body if type(body) is str and body.isascii() else as_text(body),
            attributes={
                as_text(key): clean(value)
                for key, value in _attributes(record, event_dict, exception).items()
                if value is not None and key != ""
            },
        )
        # The SDK takes its own kind of record as it is, which only the API's is typed for.
        settled: Any = SettledLogRecord(
            log_record=log_record,
            resource=self.logs.provider.resource,  # type: ignore[union-attr] # see __init__
            instrumentation_scope=scope,
            limits=self._limits,
        )
        logger.emit(settled)
        # It ends the process by the signal that ended it, with no more ado.
        if record.name == "uvicorn.error" and str(record.msg).startswith("Finished server"):
            self.logs.finish()


def _event_of(record: logging.LogRecord) -> EventDict:
    """
    Return what the standard library's record tells as an event.
    """
    event_dict: EventDict = {
        key: value
        for key, value in record.__dict__.items()
        if key not in NOT_EXTRA and not key.startswith("_")
    }
    message = record.getMessage().rstrip("\n")
    # Werkzeug colours its lines, wherever they go.
    event_dict["event"] = _COLOUR.sub("", message) if "\x1b" in message else message
    if record.exc_info:
        event_dict["exc_info"] = record.exc_info
    if record.stack_info:
        event_dict["stack"] = record.stack_info
    return event_dict


def _attributes(
    record: logging.LogRecord, event_dict: EventDict, exception: BaseException | None
) -> EventDict:
    """
    Return the attributes of a record, named as OpenTelemetry's conventions have it.

    See Also:
        https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/
    """
    attributes = dict(event_dict)
    attributes.pop("event", None)
    attributes["code.file.path"] = record.pathname
    attributes["code.function.name"] = record.funcName
    attributes["code.line.number"] = record.lineno
    stack = attributes.get("stack")
    if isinstance(stack, str) and stack.startswith(STACK):
        attributes["code.stacktrace"] = attributes.pop("stack")
    if exception is not None:
        text = attributes.pop("exception")
        attributes["exception.stacktrace"] = text if type(text) is str else _text_of(exception)
        attributes["exception.type"] = qualified_name(type(exception))
        attributes["exception.message"] = as_text(exception)
    return attributes


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is none, as of a daemon, or it is closed
        return False


def _method_name(levelno: int) -> str:
    """
    Return structlog's name of a level, which a level of an app's own has none of.
    """
    for level, name in (
        (logging.CRITICAL, "critical"),
        (logging.ERROR, "error"),
        (logging.WARNING, "warning"),
        (logging.INFO, "info"),
    ):
        if levelno >= level:
            return name
    return "debug"


def _exception(exc_info: object) -> BaseException | None:
    """
    Return the exception that ``exc_info`` stands for, in any of its forms.
    """
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        found = exc_info[1] if len(exc_info) == 3 else None
        return found if isinstance(found, BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _text_of(exception: BaseException) -> Any:
    return structlog.processors.format_exc_info(None, "", {"exc_info": exception})["exception"]
