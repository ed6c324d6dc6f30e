from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from replaylink.processors import add_identity

Lines = list[MutableMapping[str, Any]]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that in the end no process is left alone with it."""
    items.sort(key=lambda item: "browser" not in item.nodeid)


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines() -> Lines:
    """All lines logged through structlog, in the set-up that the README recommends."""
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, add_identity, capture],
        cache_logger_on_first_use=False,
    )
    return capture.entries


@pytest.fixture
def stock_lines() -> Lines:
    """All lines logged through a structlog that knows nothing of replaylink."""
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, capture],
        cache_logger_on_first_use=False,
    )
    return capture.entries
