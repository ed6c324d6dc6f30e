from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.otel.receiver import Receiver

VARIABLES = ("POSTHOG_", "OTEL_")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine tells where to send logs."""
    import os

    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before, by another test, may be said again."""
    from replaylink._log_handler import report

    monkeypatch.setattr(report, "_said", {})


@pytest.fixture(autouse=True)
def _former_logging() -> Iterator[None]:
    """What a test sets up is taken down again."""
    from replaylink._log_handler import LogHandler

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if isinstance(handler, LogHandler):
            handler.logs.shutdown(0.1)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that takes everything, until it is told otherwise."""
    from tests.otel.receiver import Receiver

    with Receiver() as receiver:
        yield receiver
