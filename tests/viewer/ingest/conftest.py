from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from replaylink.viewer.ingest import endpoints
from replaylink.viewer.ingest.refusals import LimitedLog
from tests.viewer.ingest.serving import Viewer, running_viewer


@pytest.fixture(scope="module")
def module_viewer() -> Iterator[Viewer]:
    with running_viewer() as viewer:
        yield viewer


@pytest.fixture
def viewer(module_viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> Viewer:
    """A viewer that has not complained yet, and whose store forgets what it watched."""
    monkeypatch.setattr(endpoints, "_log", LimitedLog())
    module_viewer.store.reset()
    return module_viewer


@pytest.fixture
def client(viewer: Viewer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=viewer.url, timeout=20) as client:
        yield client
