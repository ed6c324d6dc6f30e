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

import copy
import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import structlog
from structlog.typing import Processor

from . import _lifespan
from ._takeover import take_over_consoles
from .processors import add_identity

try:
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
    from opentelemetry.sdk.resources import Resource

    from ._log_handler import (
        LogHandler,
        SettledLogRecord,
        app_processors,
        report,
        settle,
        to_record,
    )
    from ._otlp.sender import SHUTDOWN_S, Sender
    from ._otlp.target import Target, find_target
except ImportError as exc:
    msg = 'replaylink.otel needs OpenTelemetry: pip install "replaylink[otlp]"'
    raise ImportError(msg) from exc

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["IdentityLogRecordProcessor", "Logs", "configure_logging"]

DEFAULT_QUEUE_RECORDS: Final = 8192
"""How many records may wait for an endpoint: some 20 MB of usual ones."""

LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}


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
        if isinstance(log_record, SettledLogRecord):
            return
        # A library may emit one record again, in another request.
        record = log_record.log_record = copy.copy(log_record.log_record)
        attributes: Any = copy.deepcopy(record.attributes)
        record.attributes = settle(add_identity(None, "", attributes))

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

    def finish(self) -> None:
        """
        Send what waits, for at most 4 seconds: the process may end with no more ado.

        uvicorn ends it by the signal that ended uvicorn.
        """
        if self._sender is not None:
            self._sender.finish()

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

    Called again, it replaces what it has set up before. Handlers of any logger that write
    to the console are removed, those of servers too; those that write to files stay. Call
    it after other set-ups of logging, which else undo this one.

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
    processors = list(processors)
    for processor in processors:
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

    with _configuring:
        _replace_former()
        logs = _exporting(target, resource, max_queue_records)
        own = app_processors(processors)
        _configure_structlog(own)
        take_over_consoles()
        root = logging.getLogger()
        chain: list[Processor] = [
            structlog.contextvars.merge_contextvars,
            add_identity,
            *own,
        ]
        root.addHandler(LogHandler(chain, logs, console=console))
        root.setLevel(levelno)
    return logs


_configuring: Final = threading.RLock()


def _as_the_app_starts() -> None:
    """
    Take over what the server has set up meanwhile, and look whether others have undone it.
    """
    if not _structlog_processors:
        return
    take_over_consoles()
    if not any(isinstance(handler, LogHandler) for handler in logging.getLogger().handlers):
        report.say(
            "undone",
            "another set-up of logging has removed the handler of configure_logging(), and "
            "nothing is sent: call configure_logging() after it",
        )
    elif structlog.get_config()["processors"] is not _structlog_processors:
        report.say(
            "undone",
            "structlog.configure() was called after configure_logging(), and its lines are "
            "text for all others: give their processors to configure_logging(processors=...)",
        )


def _as_the_app_ends() -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.logs.finish()


# `fastapi run` imports the app before uvicorn sets up its own logging; and the app may call
# `configure_logging()` as it starts.
_lifespan.register("logging", at_start=_as_the_app_starts, at_end=_as_the_app_ends)

_structlog_processors: Final[list[Processor]] = []
"""One list for all calls: loggers that structlog has cached keep the one they have seen."""


def _configure_structlog(own: Iterable[Processor]) -> None:
    _structlog_processors[:] = [
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.contextvars.merge_contextvars,
        add_identity,
        structlog.processors.StackInfoRenderer(),
        *own,
        to_record,
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
        if isinstance(handler, LogHandler):
            root.removeHandler(handler)
            handler.logs.shutdown()


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
