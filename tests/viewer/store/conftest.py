"""
A store of its own for each test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from replaylink.viewer.store import Store

OpenStore = Callable[..., Store]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """
    Open stores that are closed after the test.
    """
    with ExitStack() as stack:

        def opened(path: Path | None = tmp_path / "viewer.db", **options: float) -> Store:
            store = Store(path, **options)
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """
    An empty store.
    """
    return open_store()
