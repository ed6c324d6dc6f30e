"""
Where the example apps configure structlog, and with it the standard library's logging.
"""

from __future__ import annotations

import logging
import sys

import structlog

from replaylink.processors import add_identity


def configure_logging() -> None:
    """
    Write JSON lines to stdout, or readable ones if it is a terminal.

    The lines of the frameworks and the servers, which know no structlog, get the same keys.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_identity,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    render: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    if sys.stdout.isatty():
        # A plain traceback: the fancy ones show local variables, secrets among them.
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,  # for the lines that do not come from structlog
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
