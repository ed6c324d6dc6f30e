from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page
from starlette.testclient import TestClient

from replaylink.viewer.app import create_app
from replaylink.viewer.records import Batch
from replaylink.viewer.store import Store
from tests.browser.conftest import chromium as chromium
from tests.viewer.pages.serving import Viewer, running_viewer

AXE = Path("node_modules/axe-core/axe.min.js")

Write = Callable[..., None]


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(None)
    yield store
    store.close()


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    """Asks the viewer's app, without a server."""
    with TestClient(create_app(store), base_url="http://127.0.0.1:8390") as client:
        yield client


@pytest.fixture
def write(client: TestClient, store: Store) -> Write:
    """Puts logs, events and snapshots into the store of `client`."""

    def write(**parts: Any) -> None:
        assert client.portal is not None
        client.portal.call(store.write, Batch(**parts))

    return write


@pytest.fixture
def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    """A viewer that runs, and holds nothing."""
    with running_viewer() as viewer:
        yield viewer


class Visitor:
    """
    Opens pages of a viewer, and notes what the browser complains of and whom it asks.
    """

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self.hosts: set[str] = set()

    def open(self, viewer: Viewer, address: str, *, width: int = 1280, **options: Any) -> Page:
        """Open a page in a new profile, in which nothing moves by itself."""
        options = {"reduced_motion": "reduce", "timezone_id": "Asia/Tokyo", **options}
        size = {"width": width, "height": 800}
        context = self._chromium.new_context(viewport=size, base_url=viewer.url, **options)  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        self.hosts.add(urlsplit(viewer.url).netloc)
        context.on("request", lambda request: self.asked.add(urlsplit(request.url).netloc))
        context.on("console", self._on_console)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(address)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Opens pages; in the end no page may have failed, broken its CSP or left its host."""
    visitor = Visitor(chromium)
    yield visitor
    visitor.close()
    assert [] == visitor.complaints
    assert set() == visitor.asked - visitor.hosts
