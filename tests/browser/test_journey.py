"""
From a log line to what its user saw: the whole way, with nothing in between replaced.

An example under its server, unmodified posthog-js in Chromium, posthog-python and the exporter
of `configure_logging()` send to ``replaylink viewer``, and a second browser looks there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from tests.browser.visit import Visit
from tests.examples.running import Demo
from tests.viewer.running import Viewer

ARRIVAL_MS: Final = 20_000
"""How long what was sent may take to be seen."""


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    with Viewer() as viewer:
        yield viewer


@pytest.fixture
def desk(chromium: Browser, viewer: Viewer) -> Iterator[Page]:
    """The viewer, open in a browser of its own, which asks nobody else for anything."""
    context = chromium.new_context()
    hosts: set[str] = set()
    complaints: list[str] = []
    context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.goto(viewer.url)
    yield page
    context.close()

    assert {urlsplit(viewer.url).netloc} == hosts - {""}
    assert [] == complaints


@pytest.fixture
def visit_of(viewer: Viewer, visitor: Callable[[Demo], Visit]) -> Iterator[Callable[[str], Visit]]:
    """Opens the page of an example that sends all it has to the viewer."""
    demos: list[Demo] = []

    def visit(app: str) -> Visit:
        settings = {"POSTHOG_HOST": viewer.url, "POSTHOG_PROJECT_TOKEN": "phc_local"}
        demos.append(Demo(app, settings).__enter__())
        found = visitor(demos[-1])
        found.expected_hosts = {urlsplit(viewer.url).netloc}
        return found

    yield visit
    for demo in demos:
        demo.__exit__(None, None, None)


def search(desk: Page, text: str) -> None:
    desk.get_by_role("link", name="Logs", exact=True).click()
    desk.get_by_role("searchbox", name="Search messages").fill(text)
    desk.keyboard.press("Enter")


def open_line(desk: Page, text: str) -> None:
    """Open the drawer of the newest line with that text."""
    desk.get_by_role("table", name="Log lines").get_by_role("link", name=text).first.click()
    expect(desk.get_by_role("dialog", name="Log details")).to_be_visible()


def picture(desk: Page) -> FrameLocator:
    """Return the page in the player: within the player's own page, within the logs page."""
    player = desk.get_by_role("dialog", name="Recording").frame_locator("iframe")
    return player.frame_locator("iframe")


@pytest.mark.parametrize("app", ["fastapi", "flask"])
def test_from_a_line_to_what_the_user_saw(
    app: str, desk: Page, visit_of: Callable[[str], Visit]
) -> None:
    """
    A person signs in, writes and clicks what fails; the line leads to that second's page.
    """
    visit = visit_of(app)
    visit.sign_in("ada" if app == "fastapi" else "grace")
    visit.send_message("the first message")
    # The replay begins 5 seconds before a line: by then the first message has to be there.
    visit.page.wait_for_timeout(5500)
    visit.export()
    visit.send_message("the second message")
    session_id = visit.session_id
    # posthog-js gathers for up to 5 seconds.
    visit.page.wait_for_timeout(5500)

    search(desk, "export started")
    open_line(desk, "export started")
    drawer = desk.get_by_role("dialog", name="Log details")
    expect(drawer).to_contain_text(session_id)
    expect(drawer).to_contain_text("user-1815" if app == "fastapi" else "user-1906")

    drawer.get_by_role("tab", name="Related errors").click()
    errors = drawer.get_by_role("tabpanel")
    # The browser's own, and the backend's.
    expect(errors).to_contain_text("The server answered with 500.", timeout=ARRIVAL_MS)
    expect(errors).to_contain_text("there is no room left for the export")
    expect(errors).to_contain_text("posthog-python")

    drawer.get_by_role("button", name="View recording").click()
    seen = picture(desk)
    expect(seen.get_by_text("the first message")).to_be_visible(timeout=ARRIVAL_MS)
    # What came after that second is not there yet, and comes as it plays.
    assert 0 == seen.get_by_text("The server answered with 500.").count()
    assert 0 == seen.get_by_text("the second message").count()
    expect(seen.get_by_text("The server answered with 500.")).to_be_visible(timeout=ARRIVAL_MS)


def test_a_line_without_a_session(desk: Page, viewer: Viewer) -> None:
    """A line of no request has no way to a recording, and tells how lines are linked."""
    record = {"timeUnixNano": str(time.time_ns()), "body": {"stringValue": "the job began"}}
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    httpx.post(f"{viewer.url}/v1/logs", json=logs).raise_for_status()

    search(desk, "the job began")
    open_line(desk, "the job began")
    drawer = desk.get_by_role("dialog", name="Log details")
    drawer.get_by_role("tab", name="Related errors").click()
    expect(drawer.get_by_role("tabpanel")).to_contain_text("ReplayLinkMiddleware")

    assert 0 == drawer.get_by_role("button", name="View recording").count()
    assert 0 == drawer.get_by_role("button", name="View session logs").count()
