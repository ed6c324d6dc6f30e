from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Litestar sets up the root logger as an app is made; it is as it was for other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        # pytest has others in each phase of a test.
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def garbage_stays() -> Iterator[None]:
    """No garbage is collected: what frameworks leave in reference cycles stays alive."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()
