"""
What the real posthog-js sends from a page in real Chromium arrives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.browser.conftest import chromium as chromium
from tests.viewer.ingest.serving import Viewer, served, wait_until

PAGE: Final = """<!doctype html>
<meta charset="utf-8"><title>Shop</title>
<link rel="icon" href="data:,">
<style>h1 { color: rgb(1, 2, 3) }</style>
<h1>Grüße 😀</h1><p id="target"></p>
<button id="add">Add</button><button id="fail">Fail</button>
<script src="SCRIPT"></script>
<script>
  document.querySelector("#add").onclick = () => {
    const target = document.querySelector("#target");
    target.textContent = "added to the cart";
    target.setAttribute("class", "full");
    document.styleSheets[0].insertRule("p { margin: 0 }");
  };
  document.querySelector("#fail").onclick = () => { throw new TypeError("no such product"); };
  posthog.init("phc_test", {
    api_host: "VIEWER",
    opt_out_useragent_filter: true,
    request_queue_config: { flush_interval_ms: 250 },
    loaded: () => { document.title = "ready" },
  });
</script>
"""

# The one file that holds all, and the one that loads its parts from the viewer.
SCRIPTS: Final = ("/static/array.full.no-external.js", "/static/array.js")


@pytest.fixture(params=SCRIPTS, ids=["one-file", "loads-its-parts"])
def page(request: pytest.FixtureRequest, chromium: Browser, viewer: Viewer) -> Iterator[Page]:
    """A page of another origin than the viewer's, in a new browser profile."""

    async def index(_: Request) -> HTMLResponse:
        script = viewer.url + request.param
        return HTMLResponse(PAGE.replace("SCRIPT", script).replace("VIEWER", viewer.url))

    with served(Starlette(routes=[Route("/", index)])) as url:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(url)
        page.wait_for_function("document.title == 'ready'")
        yield page
        context.close()


def events_of(viewer: Viewer, session_id: str) -> list[dict[str, Any]]:
    """
    All rrweb events that the store has of a session's only tab.
    """
    found = viewer.store.recording(session_id)
    if found is None:
        return []
    (tab,) = found.tabs
    pieces = viewer.store.snapshots(session_id, tab.window_id)
    return [event for piece in pieces for event in json.loads(piece)]


def text_of(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def test_recording_events_and_logs(page: Page, viewer: Viewer) -> None:
    """A visit is recorded, with what happened on the page; exceptions and log lines come too."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.url))
    session_id: str = page.evaluate("posthog.get_session_id()")
    page.wait_for_function("posthog.sessionRecordingStarted()")
    page.click("#add")
    page.click("#fail")
    page.evaluate("posthog.logger.warn('from the page', {cart: 3, nested: {deep: [1.5]}})")
    wait_until(lambda: "added to the cart" in text_of(events_of(viewer, session_id)))
    wait_until(lambda: "$exception" in {event.name for event in viewer.store.events})
    wait_until(lambda: viewer.store.log_records)
    recorded = events_of(viewer, session_id)
    mutations = [one["data"] for one in recorded if one["type"] == 3 and one["data"]["source"] == 0]
    (full,) = [one for one in recorded if one["type"] == 2]
    (line,) = viewer.store.log_records
    pageview, failed = [
        next(event for event in viewer.store.events if event.name == name)
        for name in ("$pageview", "$exception")
    ]
    recording = viewer.store.recording(session_id)

    assert recording is not None
    assert recording.tabs[0].playable
    assert "Grüße 😀" in text_of(full["data"])
    assert not any("cv" in one for one in recorded)
    assert any("added to the cart" in text_of(data["adds"]) for data in mutations)
    assert any("full" in text_of(data["attributes"]) for data in mutations)
    assert any("insert" in text_of(one) or "margin" in text_of(one) for one in recorded)
    assert session_id == pageview.session_id == failed.session_id
    assert recording.tabs[0].window_id == failed.window_id
    assert "no such product" == failed.properties["$exception_list"][0]["value"]
    assert ("from the page", "warn") == (line.body, line.severity)
    assert session_id == line.attributes["sessionId"]
    assert 3 == line.attributes["cart"]
    assert [] == failures
    assert [] == [text for text in complaints if "no such product" not in text]


def test_what_is_left_at_the_end(page: Page, viewer: Viewer) -> None:
    """What is still waiting as the page closes is sent by a beacon, and taken."""
    page.wait_for_function("posthog.sessionRecordingStarted()")
    session_id: str = page.evaluate("posthog.get_session_id()")
    page.click("#add")
    # One turn for the recorder to see it.
    page.evaluate("new Promise(requestAnimationFrame)")
    page.evaluate("posthog.capture('last words')")
    page.goto("about:blank")
    wait_until(lambda: "added to the cart" in text_of(events_of(viewer, session_id)))
    wait_until(lambda: "$pageleave" in {event.name for event in viewer.store.events})

    assert {"last words", "$pageleave"} <= {event.name for event in viewer.store.events}
