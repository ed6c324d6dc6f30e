from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.visit import Visit
from tests.examples.running import Demo

CHROMIUM_ARGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Not even a name is looked up for another host.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

# Machines are busy at times; what does not come at all is found out all the same.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    if path is None:
        pytest.fail(
            "The browser tests need Chromium: install it (on Debian: apt-get install chromium), "
            "or set CHROMIUM to its path."
        )
    # Chromium has no sandbox for root.
    sandbox = () if os.geteuid() else ("--no-sandbox",)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_ARGS, *sandbox])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["fastapi", "flask"])
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    with Demo(request.param) as demo:
        yield demo


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Callable[[Demo], Visit]]:
    """Opens a demo's page in a new browser profile, and checks in the end what it asked for."""
    visits: list[Visit] = []

    def visit(demo: Demo) -> Visit:
        demo.lines()  # those of the tests before
        visits.append(Visit(chromium.new_context(), demo))
        return visits[-1]

    yield visit
    for visit_ in visits:
        visit_.close()
    for visit_ in visits:
        assert [] == visit_.complaints
        assert set() == visit_.hosts - {visit_.demo_host} - visit_.expected_hosts


@pytest.fixture
def visit(demo: Demo, visitor: Callable[[Demo], Visit]) -> Visit:
    return visitor(demo)
