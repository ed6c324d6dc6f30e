"""
OpenTelemetry: log records that carry the IDs of their request, and their way out.

::

    configure_logging(service_name="shop", token="phc_...")  # the whole set-up

    # Or in a set-up that is there:
    provider.add_log_record_processor(IdentityLogRecordProcessor())
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))

It needs the extra ``otlp``.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

from ._identity import DEFAULT_KEYS, bound_identity
from ._startup import at_startup
from .processors import add_identity

try:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
    from opentelemetry.sdk.resources import Resource

    from ._otlp import SHUTDOWN_S, Sender, Target, find_target, is_sending
except ImportError as exc:
    msg = 'replaylink.otel needs OpenTelemetry: pip install "replaylink[otlp]"'
    raise ImportError(msg) from exc

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry._logs import Logger

__all__ = ["IdentityLogRecordProcessor", "Logs", "configure_logging"]

DEFAULT_QUEUE_RECORDS: Final = 8192
"""How many records may wait for an endpoint: some 20 MB of usual ones."""

SERVER_LOGGERS: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "gunicorn.error",
    "gunicorn.access",
    "hypercorn.error",
    "hypercorn.access",
    "_granian",
    "granian.access",
)
"""The loggers that servers keep from the root logger, and write to the console by themselves."""

LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}

SEVERITY_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
"""Where OpenTelemetry has other names than Python."""

NOT_EXTRA: Final = frozenset(
    [
        *vars(logging.makeLogRecord({})),
        *("asctime", "message", "taskName"),
        # uvicorn's message once more, with escape sequences.
        "color_message",
    ]
)
"""What a record of the standard library has besides ``extra``."""

_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")

MAX_DEPTH: Final = 8
"""How deep a value may be nested: it may hold itself."""

PLAIN: Final = frozenset({bool, float, bytes})


class IdentityLogRecordProcessor(LogRecordProcessor):
    """
    Puts the IDs of the request at hand on each log record, whichever library emits it.

    ::

        provider.add_log_record_processor(IdentityLogRecordProcessor())
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))

    It stands before the processor that exports. A missing ID is a missing attribute. An
    attribute that is there stays; of the two IDs, an integer or a UUID becomes text.
    """

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        record = log_record.log_record
        attributes = record.attributes
        if not isinstance(attributes, MutableMapping):
            attributes = dict(attributes or {})
            record.attributes = attributes
        add_identity(None, "", attributes)
        identity = bound_identity()
        keys = DEFAULT_KEYS if identity is None else identity.keys
        for key in (keys.session_key, keys.user_key):
            value = attributes.get(key)
            if value is None or value == "":
                attributes.pop(key, None)
            elif isinstance(value, (int, UUID)):
                attributes[key] = str(value)

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class Logs:
    """
    What `configure_logging` has set up: to be flushed or shut down by tests and scripts.

    A process that ends does so by itself. As a context manager it shuts down at the end.

    Args:
        provider: OpenTelemetry's provider, if records are exported: give it to
            ``opentelemetry._logs.set_logger_provider()`` for libraries that emit their
            own.
        sender: What sends them.
    """

    def __init__(self, provider: LoggerProvider | None, sender: Sender | None) -> None:
        self.provider = provider
        self._sender = sender

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """
        Send what waits now.

        Args:
            timeout_s: How long to wait for it, in seconds.

        Returns:
            Whether nothing waits any more.
        """
        return self._sender is None or self._sender.flush(timeout_s)

    def shutdown(self, timeout_s: float = SHUTDOWN_S) -> bool:
        """
        Send what waits, and export nothing any more. Lines are still written to stdout.

        Args:
            timeout_s: How long to wait for it, in seconds.

        Returns:
            Whether nothing was left.
        """
        return self._sender is None or self._sender.close(timeout_s)


def configure_logging(
    *,
    service_name: str,
    service_version: str | None = None,
    environment: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    host: str | None = None,
    level: str | int = "INFO",
    processors: Iterable[Processor] = (),
    console: bool | None = None,
    max_queue_records: int = DEFAULT_QUEUE_RECORDS,
) -> Logs:
    """
    Set up structlog and the standard library's logging, and send all lines to PostHog.

    ::

        configure_logging(service_name="shop", environment="production")

    Each line, with the IDs of its request, goes to stdout (as JSON, or readable on a
    terminal) and, if it is known where to, out over OTLP/HTTP, in batches and in the
    background. Lines go to PostHog with *token* and *host*, or else with
    ``POSTHOG_PROJECT_TOKEN`` and ``POSTHOG_HOST`` of the environment; to any other
    receiver with *endpoint*, or else as the ``OTEL_EXPORTER_OTLP_*`` variables tell.

    Called again, it replaces what it has set up before. The handlers with which servers
    write to the console by themselves are removed; those that write to files stay.

    Args:
        service_name: The name of the service, for ``service.name``.
        service_version: Its version, for ``service.version``.
        environment: Such as ``production``, for ``deployment.environment.name``.
        endpoint: Where an OTLP/HTTP receiver listens: the whole address, or one without
            a path, to which ``/v1/logs`` is added.
        token: The project token of PostHog (``phc_...``). With *endpoint*, what to send
            as a bearer token.
        host: PostHog's address: ``https://us.i.posthog.com`` (the default),
            ``https://eu.i.posthog.com``, or that of an instance of one's own.
        level: The lowest level of lines that count: a name or a number.
        processors: structlog processors that each line passes through, those of the
            standard library too, before it goes anywhere: `ReplayURL`, or one that
            takes secrets out.
        console: Whether to write readable lines in place of JSON; by default if stdout
            is a terminal.
        max_queue_records: How many records may wait for the endpoint, by default 8,192.
            Then the oldest are dropped.

    Returns:
        What tests and scripts can flush or shut down.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option has a wrong value, or options do not go together.
    """
    resource = {"service.name": _text("service_name", service_name)}
    if service_version is not None:
        resource["service.version"] = _text("service_version", service_version)
    if environment is not None:
        resource["deployment.environment.name"] = _text("environment", environment)
    levelno = _level(level)
    own = list(processors)
    for processor in own:
        if not callable(processor):
            msg = f"processors=[{processor!r}]: must be structlog processors, which are callable"
            raise TypeError(msg)
    if isinstance(max_queue_records, bool) or not isinstance(max_queue_records, int):
        msg = f"max_queue_records={max_queue_records!r}: must be an int"
        raise TypeError(msg)
    if max_queue_records < 1:
        msg = f"max_queue_records={max_queue_records!r}: must be at least 1"
        raise ValueError(msg)
    target = find_target(endpoint, token, host, os.environ)
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        target = None

    _replace_former()
    logs = _exporting(target, resource, max_queue_records)
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_identity,
        structlog.processors.StackInfoRenderer(),
        *own,
    ]
    _configure_structlog(chain)
    handler = _Handler(chain, logs, console=console)
    root = logging.getLogger()
    _remove_console_handlers(root)
    root.addHandler(handler)
    root.setLevel(levelno)
    _take_over_from_servers()
    # `fastapi run` imports the app before uvicorn sets up its own logging.
    at_startup("logging", _take_over_from_servers)
    return logs


def _take_over_from_servers() -> None:
    for name in SERVER_LOGGERS:
        logger = logging.getLogger(name)
        if _remove_console_handlers(logger):
            logger.propagate = True


_structlog_processors: Final[list[Processor]] = []
"""One list for all calls: loggers that structlog has cached keep the one they have seen."""


def _configure_structlog(chain: Sequence[Processor]) -> None:
    _structlog_processors[:] = [
        structlog.stdlib.filter_by_level,
        *chain,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    structlog.configure(
        processors=_structlog_processors,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=True,
    )


def _exporting(target: Target | None, resource: dict[str, Any], max_queue_records: int) -> Logs:
    if target is None:
        return Logs(None, None)
    sender = Sender(target, max_queue_records)
    # The sender ends by itself, and sooner.
    provider = LoggerProvider(Resource.create(resource), shutdown_on_exit=False)
    provider.add_log_record_processor(IdentityLogRecordProcessor())
    provider.add_log_record_processor(sender)
    return Logs(provider, sender)


def _replace_former() -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
            handler.logs.shutdown()


def _remove_console_handlers(logger: logging.Logger) -> bool:
    """
    Remove the handlers that write to stdout or stderr; tell whether there were any.
    """
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    found = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and any(handler.stream is stream for stream in streams)
    ]
    for handler in found:
        logger.removeHandler(handler)
    return bool(found)


class _Handler(logging.Handler):
    """
    Makes an event of each record, then a line on stdout and a record of OpenTelemetry.

    OpenTelemetry has bridges of its own, for `logging` and for structlog. The first
    knows no event dict, and leaves out keys such as ``filename`` and ``name``; the
    second tells no place in the code. Of an `OSError` both have its number only, and
    an argument that does not fit its message raises in the app. One that emits from
    within structlog sees none of the levels that loggers have.

    Args:
        chain: The structlog processors that records of others pass through, too.
        logs: Where to export to.
        console: Whether to write readable lines; by default if stdout is a terminal.
    """

    def __init__(self, chain: Sequence[Processor], logs: Logs, *, console: bool | None) -> None:
        super().__init__()
        self.logs = logs
        self._chain = chain
        self._loggers: dict[str, Logger] = {}
        # Has the lock that is held while a line is written.
        self._output = logging.StreamHandler(sys.stdout)
        is_terminal = sys.stdout.isatty()
        self._render: list[Processor] = [structlog.processors.JSONRenderer()]
        if is_terminal if console is None else console:
            # A plain traceback: the fancy ones show local variables, secrets among them.
            plain = structlog.dev.plain_traceback
            self._render = [
                structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)
            ]

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
        try:
            self._export(record, event_dict, exception)
        except Exception:
            self.handleError(record)
        try:
            self._write(record, event_dict)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self._output.flush()

    def _event(self, record: logging.LogRecord) -> tuple[EventDict, BaseException | None]:
        """
        Return a record's event dict, with the text of its exception, and that itself.
        """
        fields = record.__dict__
        if isinstance(record.msg, dict) and "_logger" in fields:
            event_dict: EventDict = record.msg.copy()
        else:
            event_dict = {
                key: value
                for key, value in fields.items()
                if key not in NOT_EXTRA and not key.startswith("_")
            }
            message = record.getMessage()
            # Werkzeug colours its lines, wherever they go.
            event_dict["event"] = _COLOUR.sub("", message) if "\x1b" in message else message
            if record.exc_info:
                event_dict["exc_info"] = record.exc_info
            if record.stack_info:
                event_dict["stack"] = record.stack_info
            method_name = record.levelname.lower()
            for processor in self._chain:
                event_dict = processor(None, method_name, event_dict)  # type: ignore[assignment]
        exception = _exception(event_dict.pop("exc_info", None))
        # A processor may have made its own of it.
        if exception is not None and "exception" not in event_dict:
            event_dict["exception"] = _traceback(exception)
        return event_dict, exception

    def _write(self, record: logging.LogRecord, event_dict: EventDict) -> None:
        line: Any = event_dict
        line["level"] = record.levelname.lower()
        line.setdefault("logger", record.name)
        line.setdefault(
            "timestamp",
            datetime.fromtimestamp(record.created, timezone.utc).isoformat().replace("+00:00", "Z"),
        )
        for processor in self._render:
            line = processor(None, "", line)
        output = self._output
        output.acquire()
        try:
            output.stream.write(f"{line}\n")
            output.stream.flush()
        finally:
            output.release()

    def _export(
        self, record: logging.LogRecord, event_dict: EventDict, exception: BaseException | None
    ) -> None:
        provider = self.logs.provider
        # What OpenTelemetry logs, and what a request with log records does, would never end.
        if provider is None or is_sending() or record.name.partition(".")[0] == "opentelemetry":
            return
        # It opens Werkzeug's debugger, and so is for the developer at the terminal alone.
        if record.name == "werkzeug" and record.msg == " * Debugger PIN: %s":
            return
        logger = self._loggers.get(record.name)
        if logger is None:
            logger = self._loggers[record.name] = provider.get_logger(record.name)
        attributes = dict(event_dict)
        body = attributes.pop("event", "")
        stack = attributes.pop("stack", None)
        if stack is not None:
            attributes["code.stacktrace"] = stack
        attributes["code.file.path"] = record.pathname
        attributes["code.function.name"] = record.funcName
        attributes["code.line.number"] = record.lineno
        traceback = attributes.pop("exception", None)
        if traceback is not None:
            attributes["exception.stacktrace"] = traceback
        if exception is not None:
            attributes["exception.type"] = _qualified_name(type(exception))
            attributes["exception.message"] = _as_text(exception)
        logger.emit(
            LogRecord(
                # In microseconds, as on stdout: more than that a float does not hold.
                timestamp=round(record.created * 1e6) * 1000,
                severity_text=SEVERITY_TEXTS.get(record.levelname, record.levelname),
                severity_number=_severity(record.levelno),
                body=body if type(body) is str and body.isascii() else _as_text(body),
                attributes={
                    str(key): _clean(value)
                    for key, value in attributes.items()
                    if value is not None and key != ""
                },
            )
        )
        # It ends the process by the signal that ended it, with no more ado.
        if record.name == "uvicorn.error" and str(record.msg).startswith("Finished server"):
            self.logs.flush(SHUTDOWN_S)


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


def _traceback(exception: BaseException) -> Any:
    return structlog.processors.format_exc_info(None, "", {"exc_info": exception})["exception"]


def _qualified_name(kind: type[BaseException]) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


@lru_cache
def _severity(levelno: int) -> SeverityNumber:
    """
    Return the number of a level: ten of Python's are four of OpenTelemetry's.
    """
    if levelno < logging.DEBUG:
        return SeverityNumber.TRACE
    band = min(levelno // 10, 5)
    step = min(levelno - band * 10, 3)
    return SeverityNumber(1 + band * 4 + step)


def _clean(value: Any, depth: int = MAX_DEPTH) -> Any:
    """
    Return *value* as OpenTelemetry takes it, which else logs a warning about each.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _as_text(value)
    if kind in PLAIN or value is None:
        return value
    if kind is int:
        # The wire has 64 bits.
        return value if -(2**63) <= value < 2**63 else str(value)
    if depth:
        if isinstance(value, Mapping):
            return {str(key): _clean(item, depth - 1) for key, item in value.items() if key != ""}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_clean(item, depth - 1) for item in value]
    return _as_text(value)


def _as_text(value: object) -> str:
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__} that has no text>"
    # Half a surrogate pair cannot be sent.
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _text(option: str, value: object) -> str:
    if not isinstance(value, str):
        msg = f"{option}={value!r}: must be a str"
        raise TypeError(msg)
    if not value.strip():
        msg = f"{option}={value!r}: must not be empty"
        raise ValueError(msg)
    return value


def _level(level: object) -> int:
    if isinstance(level, str):
        found = LEVELS.get(level.strip().upper())
        if found is None:
            msg = f"level={level!r}: must be one of {', '.join(LEVELS)}, or a number"
            raise ValueError(msg)
        return found
    if isinstance(level, bool) or not isinstance(level, int):
        msg = f"level={level!r}: must be one of {', '.join(LEVELS)}, or a number"
        raise TypeError(msg)
    return level
