"""
Whether everybody can use the pages: by axe-core, on small screens, in both colour schemes.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch
from tests.viewer.pages.conftest import AXE, Visitor
from tests.viewer.pages.data import HOSTILE, SESSION, UNRECORDED, USER, exception, line, page_view
from tests.viewer.pages.recorder import record
from tests.viewer.pages.serving import Viewer, running_viewer


@pytest.fixture(scope="module")
def shop(chromium: Browser) -> Iterator[Viewer]:
    """A viewer with something on each page, hostile and very long texts among it."""
    recorded = record(chromium)
    now_us = time.time_ns() // 1000
    severities = ("trace", "debug", "info", "warn", "error", "fatal")
    logs = [
        line(f"line {i}", now_us - i, severity=severities[i % 6], session=SESSION, user=USER)
        for i in range(60)
    ]
    logs += [line(text, now_us - 100, service=text, scope=text, evil=text) for text in HOSTILE]
    logs += [
        line("x" * 3000, now_us + 1, session=UNRECORDED, user="u" * 190, long="y" * 2000),
        line("unlinked", now_us + 2, **{"http.route": "/" + "r" * 150}),
        line("linked", now_us + 3, session=SESSION, user=USER, nested={"a": [1, None]}),
    ]
    events = [
        exception("ValueError", "z" * 500, now_us),
        page_view(recorded.start_ms * 1000),
    ]
    with running_viewer() as viewer:
        viewer.write(Batch(logs, events, recorded.snapshots))
        yield viewer


def addresses(shop: Viewer) -> dict[str, str]:
    def line_id(text: str) -> str:
        return shop.store.logs(LogQuery(text=text), limit=1).logs[0].id

    return {
        "logs": "/logs?columns=sessionId,long&is.sessionId=&not-severity=error&q=i",
        "list": "/logs?columns=long",
        "details": f"/logs?log={line_id('linked')}",
        "raw": f"/logs?log={line_id('xxxx')}&tab=raw",
        "related errors": f"/logs?log={line_id('linked')}&tab=errors",
        "not linked": f"/logs?log={line_id('unlinked')}&tab=errors",
        "line": f"/logs/{line_id('xxxx')}",
        "recording": f"/logs?recording={SESSION}",
        "replays": "/replays",
        "replay": f"/replay/{SESSION}",
        "errors": "/errors",
        "issue": f"/errors/{shop.store.issues()[0].id}",
        "linkage": "/linkage",
        "setup": "/setup",
        "missing": "/logs/1",
        "unknown": "/nothing",
        "bad query": "/logs?since=x",
    }


def settled(page: Page, name: str) -> None:
    """Wait until the page shows what its scripts have to add."""
    if name == "recording":
        expect(
            page.frame_locator("iframe[title=Recording]").locator("[data-ready]")
        ).to_be_visible()
    if name == "replay":
        expect(page.locator("[data-ready]")).to_be_visible()
    if name in ("details", "raw", "related errors", "not linked"):
        expect(page.locator("#drawer[open] .tabs")).to_be_visible()


def violations(page: Page, *rules: str) -> list[str]:
    """Return what axe-core finds that is serious, by all rules or by some."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found: dict[str, Any] = page.evaluate("options => axe.run(options)", options)
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:5]
    ]


NAMES = (
    *("logs", "list", "details", "raw", "related errors", "not linked", "line", "recording"),
    *("replays", "replay", "errors", "issue", "linkage", "setup", "missing", "unknown"),
    "bad query",
)


@pytest.fixture(scope="module")
def found(shop: Viewer, chromium: Browser) -> dict[str, dict[str, Any]]:
    """What is wrong with each page; each is opened once, which takes most of the time."""
    visitor = Visitor(chromium)
    page = visitor.open(shop, "/setup")
    found = {}
    for name, address in addresses(shop).items():
        page.goto(address)
        settled(page, name)
        width = "document.documentElement.scrollWidth"
        found[name] = {"1280 px": page.evaluate(width), "light": violations(page)}
        page.emulate_media(color_scheme="dark")
        found[name]["dark"] = violations(page, "color-contrast")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 800})
        found[name]["390 px"] = page.evaluate(width)
        page.set_viewport_size({"width": 1280, "height": 800})
    visitor.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_axe(found: dict[str, dict[str, Any]], name: str) -> None:
    """axe-core finds nothing serious on any page, in either colour scheme."""
    assert ([], []) == (found[name]["light"], found[name]["dark"])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_screen(found: dict[str, dict[str, Any]], name: str) -> None:
    """No page scrolls sideways, on a large screen or a small one."""
    assert (1280, 390) == (found[name]["1280 px"], found[name]["390 px"])


@pytest.mark.parametrize("name", ["list", "recording", "replay"])
def test_a_narrowed_window(shop: Viewer, visitor: Visitor, name: str) -> None:
    """
    No page scrolls sideways before its scripts have drawn what they draw anew in a smaller window.
    """
    page = visitor.open(shop, "/setup")
    page.add_init_script("window.ResizeObserver = class { observe() {} }")
    page.goto(addresses(shop)[name])
    settled(page, name)
    if name == "list":
        expect(page.locator("#histogram canvas")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 800})

    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_axe_on_what_opens(shop: Viewer, visitor: Visitor) -> None:
    """axe-core finds nothing serious in what a button opens."""
    page = visitor.open(shop, "/logs?columns=long&q=nothing")
    found = {}
    for button in ("Add filter", "Columns", "Range", "Keyboard shortcuts"):
        page.get_by_role("button", name=button, exact=True).click()
        found[button] = violations(page)
        page.keyboard.press("Escape")

    assert {} == {name: each for name, each in found.items() if each}


def test_an_unknown_address(shop: Viewer, visitor: Visitor) -> None:
    """It is answered with the page that a missing line has, which leads to all others."""
    page = visitor.open(shop, "/setup")
    texts = []
    for address in ("/nothing", "/logs/1/nothing", "/logs/1"):
        page.goto(address)
        expect(page.get_by_role("heading", name="Not there")).to_have_count(1)
        expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_count(5)
        texts.append(page.locator("main p").first.inner_text())
    answers = [page.request.get(f"{shop.url}/{path}") for path in ("nothing.json", "static/no.js")]
    visitor.complaints.clear()  # the browser's, of each 404

    no_page = "There is no page at this address."
    assert [no_page, no_page, "This log line is not there, or no longer."] == texts
    assert [404, 404] == [answer.status for answer in answers]
    assert {"error": "Not Found"} == answers[0].json()
    assert "Not there" not in answers[1].text()


def test_a_small_screen(shop: Viewer, visitor: Visitor) -> None:
    """At 390 pixels the facets fold away, and the details fill the screen."""
    page = visitor.open(shop, "/logs", width=390)
    expect(page.get_by_label("error 10")).to_be_hidden()
    page.get_by_text("Facets", exact=True).click()
    expect(page.get_by_label("error 10")).to_be_visible()
    page.get_by_text("Facets", exact=True).click()
    page.get_by_role("link", name="linked", exact=True).click()
    drawer = page.get_by_role("dialog", name="Log details")
    expect(drawer).to_be_visible()
    box = drawer.bounding_box()

    assert box is not None
    assert (0, 0, 390, 800) == (box["x"], box["y"], box["width"], box["height"])


def test_facets_on_a_small_screen(shop: Viewer, visitor: Visitor) -> None:
    """At 390 pixels the facets look as if they open; then they are whole, and the page scrolls."""
    page = visitor.open(shop, "/logs", width=390)
    summary = page.get_by_text("Facets", exact=True)
    assert "list-item" == summary.evaluate("element => getComputedStyle(element).display")
    summary.click()
    cut = "element => element.scrollHeight > element.clientHeight + 1"
    assert not page.locator(".facets").evaluate(cut)
    last = page.get_by_label("Not linked")
    last.scroll_into_view_if_needed()
    expect(last).to_be_in_viewport(ratio=1)
    page.locator("#lines").scroll_into_view_if_needed()

    expect(page.locator(".line").first).to_be_in_viewport()
    above, below = summary.bounding_box(), page.get_by_role("group", name="Severity").bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] - above["y"] - above["height"] >= 8


DIFFERS = """async (shot) => {
  const image = new Image()
  image.src = `data:image/png;base64,${shot}`
  await image.decode()
  const { width, height } = image
  const context = Object.assign(document.createElement('canvas'), { width, height })
    .getContext('2d')
  context.drawImage(image, 0, 0)
  // A row of pixels above the text, from one rounded corner to the other.
  const { data } = context.getImageData(8, 4, width - 16, 1)
  const colour = (x) => data.slice(4 * x, 4 * x + 3).join()
  const within = colour(Math.round(width / 2))
  return [0, width - 17].map((x) => colour(x) !== within)
}"""


def test_a_table_shows_that_it_scrolls(shop: Viewer, visitor: Visitor) -> None:
    """At 390 pixels an edge beyond which a table goes on is shaded, and no other one."""
    page = visitor.open(shop, "/replays", width=390)
    box = page.get_by_role("region", name="Recordings")

    def shaded() -> list[bool]:
        shot = base64.b64encode(box.screenshot()).decode()
        left_and_right: list[bool] = page.evaluate(DIFFERS, shot)
        return left_and_right

    assert [False, True] == shaded()
    box.evaluate("element => (element.scrollLeft = 1e9)")
    assert [True, False] == shaded()


def test_severity_is_not_told_by_colour_alone(shop: Viewer, visitor: Visitor) -> None:
    """Each line names its severity."""
    page = visitor.open(shop, "/logs?q=line")
    texts = page.locator(".line .severity").all_inner_texts()

    assert {"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"} == set(texts)
