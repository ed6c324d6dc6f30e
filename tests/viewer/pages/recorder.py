"""
A recording of a small page, made by the recorder of posthog-js in real Chromium.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec
from playwright.sync_api import Browser, Page, Route

from replaylink.viewer.records import Snapshot
from tests.viewer.pages.data import SESSION, USER

_RECORDER: Final = Path("node_modules/posthog-js/dist/rrweb.js")

_PAGE: Final = """
<!doctype html>
<title>Shop</title>
<style>body { font: 16px sans-serif; background: rgb(255, 250, 240) } input { padding: 6px }</style>
<h1>Cart</h1>
<p>Clock: <span id="clock">0</span></p>
<label>Note <input id="note"></label>
<button onclick="document.title = 'paid'; this.textContent = 'Paid'">Pay</button>
EXTRA
<script type="module">
  import {record} from '/rrweb.js'
  window.events = []
  record({emit: (event) => window.events.push(event), maskAllInputs: false})
  setInterval(() => document.querySelector('#clock').textContent++, 50)
</script>
"""

STRETCH: Final = 20
"""How much slower the recording is than it was made: a second becomes 20."""

FIRST_TEXT: Final = "two apples"
SECOND_TEXT: Final = "three pears"
OTHER_TAB_TEXT: Final = "in the other tab"


class Recorded(msgspec.Struct):
    """
    What the browser did, and when: in milliseconds since the epoch.
    """

    snapshots: list[Snapshot]
    start_ms: int
    first_text_ms: int
    second_text_ms: int
    other_tab_ms: int
    """From here on the other tab is in use."""
    end_ms: int


_made: dict[str, Recorded] = {}


def record(chromium: Browser, extra: str = "") -> Recorded:
    """
    Record two tabs of the page, one after the other in use. It is done once.

    Args:
        chromium: The browser.
        extra: More HTML of the page.
    """
    if extra not in _made:
        _made[extra] = _record(chromium, extra)
    return _made[extra]


def _record(chromium: Browser, extra: str) -> Recorded:
    context = chromium.new_context()

    def answer(route: Route) -> None:
        if route.request.url.endswith("/rrweb.js"):
            route.fulfill(path=_RECORDER, content_type="text/javascript")
        elif route.request.url.endswith("/cart"):
            route.fulfill(body=_PAGE.replace("EXTRA", extra), content_type="text/html")
        else:
            route.abort()

    context.route("**", answer)
    first = _open(context.new_page())
    first.locator("#note").fill(FIRST_TEXT)
    first_text = _now(first)
    first.wait_for_timeout(400)
    first.locator("#note").fill(SECOND_TEXT)
    second_text = _now(first)
    first.wait_for_timeout(400)
    other = _open(context.new_page())
    other.locator("#note").fill(OTHER_TAB_TEXT)
    other_tab = _now(other)
    other.wait_for_timeout(500)
    tabs = {name: page.evaluate("events") for name, page in (("one", first), ("two", other))}
    context.close()

    start = tabs["one"][0]["timestamp"]

    def stretched(moment: int) -> int:
        return int(start + (moment - start) * STRETCH)

    snapshots = []
    for window, events in tabs.items():
        for event in events:
            event["timestamp"] = stretched(event["timestamp"])
        # In pieces, as posthog-js sends them.
        for piece in (events[:5], events[5:]):
            snapshots.append(_snapshot(window, piece))
    end = max(snapshot.last_ms for snapshot in snapshots)
    return Recorded(
        snapshots, start, stretched(first_text), stretched(second_text), stretched(other_tab), end
    )


def _open(page: Page) -> Page:
    page.goto("http://shop.test/cart")
    page.wait_for_function("window.events?.length >= 3")
    return page


def _now(page: Page) -> int:
    moment: int = page.evaluate("Date.now()")
    return moment


def _snapshot(window: str, events: list[dict[str, Any]]) -> Snapshot:
    return Snapshot(
        uuid=str(uuid.uuid4()),
        session_id=SESSION,
        window_id=window,
        distinct_id=USER,
        first_ms=events[0]["timestamp"],
        last_ms=events[-1]["timestamp"],
        has_full_snapshot=any(event["type"] == 2 for event in events),
        events=json.dumps(events).encode(),
    )
