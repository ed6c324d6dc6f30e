"""
Other set-ups of logging: what they write to the console is ours, and theirs must not undo it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

NOISY: Final = ("watchfiles",)
"""Loggers of reloaders, which see each file that changes: one with the log in it, say."""

_taken: Final[list[list[logging.Handler]]] = []
"""Lists of handlers that there were console handlers in. Loggers may share one: uvicorn's
worker for gunicorn gives uvicorn's loggers the list of gunicorn's."""

_freed: Final[set[str]] = set()
"""The names of loggers whose lines were let through."""


def take_over_consoles() -> None:
    """
    Remove all handlers that write to the console, and let their lines come to the root.

    A logger that was silenced, with no handler and nothing to pass on, stays so.
    """
    root = logging.getLogger()
    for logger in (root, *_loggers()):
        handlers = logger.handlers
        found = [handler for handler in handlers if _is_console(handler)]
        for handler in found:
            logger.removeHandler(handler)
        if found and not any(handlers is taken for taken in _taken):
            _taken.append(handlers)
        is_new = logger.name not in _freed and any(handlers is taken for taken in _taken)
        if found or is_new:
            # Once: an app may silence it again.
            _freed.add(logger.name)
            logger.propagate = True
    for name in NOISY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _loggers() -> Iterator[logging.Logger]:
    for name, logger in list(logging.root.manager.loggerDict.items()):
        # OpenTelemetry keeps what it says of its own handler from all handlers, for a reason.
        if isinstance(logger, logging.Logger) and name.partition(".")[0] != "opentelemetry":
            yield logger


def _is_console(handler: logging.Handler) -> bool:
    # A handler of rich has a console, which has the stream.
    of_rich = getattr(getattr(handler, "console", None), "file", None)
    stream: Any = getattr(handler, "stream", None) or of_rich
    # None is a file that is not open yet, and also what stands for no stdout.
    if stream is None or isinstance(handler, logging.FileHandler):
        return False
    if any(stream is one for one in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    # Flask's writes to what stands for stderr in each request.
    flask: Any = sys.modules.get("flask.logging")
    return flask is not None and handler is flask.default_handler
