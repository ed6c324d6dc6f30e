from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from replaylink.viewer.limits import LIVE_SIZE, PAGE_SIZE
from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch, Snapshot
from tests.viewer.pages.conftest import Visitor
from tests.viewer.pages.data import HOSTILE, SESSION, UNRECORDED, USER, exception, line
from tests.viewer.pages.serving import Viewer, running_viewer

MINUTE_US = 60_000_000


def fill(viewer: Viewer, now_us: int) -> Viewer:
    """Write ten lines, of which one is an error."""
    logs = [
        line(
            f"order {i}",
            now_us - i * MINUTE_US,
            service="worker" if i % 2 else "shop",
            session=UNRECORDED if i < 5 else "",
            user=USER if i < 5 else "",
            number=i,
        )
        for i in range(1, 10)
    ]
    failed = line("payment failed", now_us, severity="error", session=SESSION, user="user-2")
    viewer.write(Batch([*logs, failed], [exception("ValueError", "no card", now_us)]))
    return viewer


@pytest.fixture(scope="module")
def shop() -> Iterator[Viewer]:
    """A viewer with ten lines, for tests that add none."""
    with running_viewer() as viewer:
        yield fill(viewer, time.time_ns() // 1000)


@pytest.fixture
def own_shop(viewer: Viewer, now_us: int) -> Viewer:
    """A viewer with ten lines, for one test."""
    return fill(viewer, now_us)


def lines(page: Page) -> Locator:
    return page.locator(".line .open")


def row(page: Page, text: str) -> Locator:
    return page.get_by_role("row").filter(has_text=text)


def query(page: Page) -> str:
    return page.evaluate("decodeURIComponent(location.search)")  # type: ignore[no-any-return]


def test_search(shop: Viewer, visitor: Visitor) -> None:
    """The list follows what is typed, and the address keeps it."""
    page = visitor.open(shop, "/logs")
    page.get_by_role("searchbox", name="Search messages").fill("PAYMENT")

    expect(lines(page)).to_have_text(["payment failed"])
    assert "?q=PAYMENT" == query(page)
    expect(page.get_by_text("1 line, 100 % linked")).to_be_visible()
    page.reload()
    expect(lines(page)).to_have_text(["payment failed"])
    expect(page.get_by_role("searchbox", name="Search messages")).to_have_value("PAYMENT")


def test_facets(shop: Viewer, visitor: Visitor) -> None:
    """A click on a value chooses it, counts stay, and Back takes it back."""
    page = visitor.open(shop, "/logs")
    severities = page.get_by_role("group", name="Severity")
    severities.get_by_role("checkbox", name="error").check()
    expect(lines(page)).to_have_text(["payment failed"])
    expect(severities.get_by_text("9", exact=True)).to_be_visible()
    expect(severities.get_by_role("checkbox", name="error")).to_be_focused()
    assert "?severity=error" == query(page)

    page.go_back()
    expect(lines(page)).to_have_count(10)
    expect(severities.get_by_role("checkbox", name="error")).not_to_be_checked()
    services = page.get_by_role("group", name="Service")
    services.get_by_role("link", name="Exclude worker").click()
    expect(lines(page)).to_have_count(5)
    page.get_by_role("link", name="Remove the filter service is not worker").click()
    expect(lines(page)).to_have_count(10)
    page.get_by_role("group", name="Session").get_by_label("Not linked").check()
    expect(lines(page)).to_have_count(5)


def test_filters(shop: Viewer, visitor: Visitor) -> None:
    """A filter on any attribute is written into a small form, and can be taken away."""
    page = visitor.open(shop, "/logs?columns=number")
    menu = page.get_by_role("dialog", name="Add a filter")
    for operator, value, count in (
        ("is", "3", 1),
        ("is not", "3", 9),
        ("contains", "3", 1),
        ("does not contain", "3", 9),
        ("is set", None, 9),
        ("is not set", None, 1),
    ):
        page.get_by_role("button", name="Add filter").click()
        menu.get_by_label("Attribute").fill("number")
        menu.get_by_label("Comparison").select_option(operator)
        if value is None:
            expect(menu.get_by_label("Value")).to_be_disabled()
        else:
            menu.get_by_label("Value").fill(value)
        menu.get_by_role("button", name="Add").click()
        expect(lines(page)).to_have_count(count)
        expect(menu).to_be_hidden()
        assert "columns=number" in query(page)
        page.get_by_role("link", name=f"Remove the filter number {operator}").click()
        expect(lines(page)).to_have_count(10)


def test_suggestions(shop: Viewer, visitor: Visitor) -> None:
    """The form for a filter knows the attributes of the lines, and their values."""
    page = visitor.open(shop, "/logs?q=order")
    page.get_by_role("button", name="Add filter").click()
    expect(page.locator("#attribute-names option[value=number]")).to_be_attached()
    attribute = page.get_by_role("dialog", name="Add a filter").get_by_label("Attribute")
    attribute.fill("number")
    attribute.press("Tab")

    expect(page.locator("#attribute-values option")).to_have_count(9)


def test_time_ranges(own_shop: Viewer, visitor: Visitor, now_us: int) -> None:
    """A time range is chosen back from now, or between two moments of the local clock."""
    page = visitor.open(own_shop, "/logs")
    page.get_by_label("Time range").select_option("Last 5 minutes")
    expect(lines(page)).to_have_count(5)

    page.get_by_role("button", name="Range", exact=True).click()
    menu = page.get_by_role("dialog", name="Range")
    # The browser is in Tokyo: nine hours ahead, all year.
    moment = time.gmtime(now_us / 1e6 - 150 + 9 * 3600)
    menu.get_by_label("To").fill(time.strftime("%Y-%m-%dT%H:%M:%S", moment))
    menu.get_by_role("button", name="Show").click()
    expect(lines(page)).to_have_count(7)
    assert "to=" in query(page)
    assert "since=" not in query(page)
    expect(page.locator("#since option:checked")).to_have_text("Chosen range")
    page.locator("#since").select_option("Last hour")
    expect(lines(page)).to_have_count(10)
    assert "?since=1h" == query(page)


def drag_mouse(page: Page, start: float, end: float, y: float) -> None:
    page.mouse.move(start, y)
    page.mouse.down()
    page.mouse.move((start + end) / 2, y, steps=4)
    page.mouse.move(end, y, steps=2)
    page.mouse.up()


def drag_finger(page: Page, start: float, end: float, y: float) -> None:
    session = page.context.new_cdp_session(page)
    touch = "Input.dispatchTouchEvent"
    session.send(touch, {"type": "touchStart", "touchPoints": [{"x": start, "y": y}]})
    for x in ((start + end) / 2, end):
        session.send(touch, {"type": "touchMove", "touchPoints": [{"x": x, "y": y}]})
    session.send(touch, {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("drag", [drag_mouse, drag_finger])
@pytest.mark.parametrize("width", [1280, 390])
def test_zoom(
    shop: Viewer, visitor: Visitor, drag: Callable[[Page, float, float, float], None], width: int
) -> None:
    """Dragging over a part of the histogram makes it the time range."""
    page = visitor.open(shop, "/logs?since=15m", width=width, has_touch=drag is drag_finger)
    box = page.locator("#histogram .u-over").bounding_box()
    assert box is not None
    # The last third, which is five minutes.
    start, end = box["x"] + box["width"] * 0.67, box["x"] + box["width"] - 1
    drag(page, start, end, box["y"] + box["height"] / 2)

    expect(page.locator(".chip").filter(has_text="time")).to_be_visible()
    assert "from=" in query(page)
    assert "since=" not in query(page)
    count = lines(page).count()
    assert 4 <= count <= 6
    expect(lines(page).first).to_have_text("payment failed")
    page.get_by_role("link", name="Remove the time range").click()
    expect(lines(page)).to_have_count(10)


def test_a_tap_or_a_scroll_is_no_zoom(shop: Viewer, visitor: Visitor) -> None:
    """A finger that taps the histogram, or scrolls the page from there, chooses nothing."""
    page = visitor.open(shop, "/logs?since=15m", width=390, has_touch=True)
    over = page.locator("#histogram .u-over")
    box = over.bounding_box()
    assert box is not None
    x, y = box["x"] + 100, box["y"] + 40
    over.tap()
    drag_finger(page, x, x + 2, y)
    session = page.context.new_cdp_session(page)
    session.send("Input.synthesizeScrollGesture", {"x": x, "y": y, "yDistance": 30, "speed": 400})

    assert "?since=15m" == query(page)
    assert 0 == page.locator("#histogram .u-select").evaluate("box => box.offsetWidth")


def test_live(own_shop: Viewer, visitor: Visitor, now_us: int) -> None:
    """While it is live, new lines come above the others within a second, and counts follow."""
    page = visitor.open(own_shop, "/logs?severity=error")
    live = page.get_by_role("button", name="Live")
    expect(live).to_have_attribute("aria-pressed", "false")
    live.click()
    expect(live).to_have_attribute("aria-pressed", "true")
    assert "live=1" in query(page)
    first = lines(page).first.element_handle()
    own_shop.write(Batch([line("new", now_us + 5, severity="error"), line("info", now_us + 6)]))

    expect(lines(page)).to_have_text(["new", "payment failed"], timeout=1000)
    expect(page.get_by_text("2 lines, 50 % linked")).to_be_visible()
    # What was there is still the same element: focus and selection stay.
    assert first is not None
    assert page.evaluate("element => element.isConnected", first)
    page.keyboard.press("l")
    expect(live).to_have_attribute("aria-pressed", "false")
    own_shop.write(Batch([line("later", now_us + 9, severity="error")]))
    page.get_by_role("button", name="New lines have come: show them").click()
    expect(lines(page)).to_have_text(["later", "new", "payment failed"])


def piece(session: str, window: str = "one") -> Snapshot:
    return Snapshot(
        uuid=str(uuid.uuid4()),
        session_id=session,
        window_id=window,
        distinct_id=USER,
        first_ms=1,
        last_ms=2,
        has_full_snapshot=True,
        events=b"[]",
    )


def test_a_recording_that_comes_later(own_shop: Viewer, visitor: Visitor) -> None:
    """
    While it is live, a session's lines can be played as soon as its recording has come, and
    nothing else of them is replaced.
    """
    page = visitor.open(own_shop, "/logs?live=1")
    expect(page.locator(".unrecorded")).to_have_count(5)
    lines(page).nth(1).focus()
    element = lines(page).nth(1).element_handle()
    own_shop.write(Batch(snapshots=[piece(UNRECORDED)]))

    expect(row(page, "order").locator(".replay a")).to_have_count(4, timeout=2000)
    expect(row(page, "payment failed").locator(".unrecorded")).to_be_visible()
    expect(lines(page).nth(1)).to_be_focused()
    assert page.evaluate("element => element.isConnected", element)
    cell = "document.querySelectorAll('.line .replay')[2].innerHTML"
    put_in = page.evaluate(cell)
    page.reload()
    assert put_in == page.evaluate(cell)


def test_a_recording_of_lines_far_below(viewer: Viewer, visitor: Visitor, now_us: int) -> None:
    """It also reaches lines that are older than those that are asked for as new ones come."""
    logs = [line(f"line {i}", now_us - i) for i in range(LIVE_SIZE + 10)]
    viewer.write(Batch([*logs, line("old", now_us - 10**6, session=SESSION)]))
    page = visitor.open(viewer, "/logs?live=1")
    expect(row(page, "old").locator(".unrecorded")).to_be_attached()
    viewer.write(Batch(snapshots=[piece(SESSION)]))

    expect(row(page, "old").locator(".replay a")).to_be_attached(timeout=2000)


def test_nothing_to_play(shop: Viewer, visitor: Visitor) -> None:
    """The key p says on a line, and in its details, why there is nothing to play."""
    page = visitor.open(shop, "/logs?q=order")
    status = page.locator("#announcer")
    not_yet, none = "No recording has come for this session yet.", "This line has no session."
    told = []
    for text in ("order 1", "order 7"):
        row(page, text).get_by_role("link", name=text).focus()
        page.keyboard.press("p")
        expect(status).to_be_in_viewport(ratio=1)
        told.append(status.inner_text())
    for text in ("order 1", "order 7"):
        row(page, text).get_by_role("link", name=text).click()
        expect(page.locator("#drawer .message")).to_have_text(text)
        page.keyboard.press("p")
        told.append(status.inner_text())
        page.keyboard.press("Escape")

    assert [not_yet, none, not_yet, none] == told


WRITTEN = """
window.written = []
const { fillText } = CanvasRenderingContext2D.prototype
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  window.written.push(text)
  return fillText.call(this, text, ...rest)
}
"""


@pytest.mark.parametrize(
    ("range_s", "length", "below"),
    [
        (60, r"\d+ seconds?", r"\d\d:\d\d:\d\d"),
        (86400, r"\d+ minutes", r"\d\d:\d\d|[A-Z][a-z]{2} \d+"),
        (3 * 365 * 86400, r"\d+ days", r"[A-Z][a-z]{2} \d+, \d{4}"),
    ],
)
def test_the_times_of_the_histogram(
    viewer: Viewer, visitor: Visitor, now_us: int, range_s: int, length: str, below: str
) -> None:
    """They are in 24 hours, as those of the lines are, and a bar's length is in whole units."""
    times = [now_us - range_s * 1_000_000 * i // 20 for i in range(20)]
    viewer.write(Batch([line(f"line {i}", time_us) for i, time_us in enumerate(times)]))
    page = visitor.open(viewer, "/setup")
    page.add_init_script(WRITTEN)
    page.goto("/logs")
    histogram = page.locator("#histogram")
    clock = r"[A-Z][a-z]{2} \d+, \d{4} \d\d:\d\d:\d\d"
    label = re.compile(rf"from {clock} to {clock}, up to \d+ in {length}, the worst is info$")
    expect(histogram).to_have_attribute("aria-label", label)
    histogram.locator(".u-over").hover(position={"x": 500, "y": 20})
    tip = re.compile(r"^[A-Z][a-z]{2} \d+ \d\d:\d\d:\d\d(  |$)")
    expect(histogram.locator(".tip")).to_have_text(tip)
    written = page.evaluate("written.filter((text) => !/^\\d+$/.test(text))")

    assert written
    assert [] == [text for text in written if not re.fullmatch(below, text)]


def test_a_late_line_stands_in_its_place(own_shop: Viewer, visitor: Visitor, now_us: int) -> None:
    """A line that is older than others and comes later stands between them."""
    page = visitor.open(own_shop, "/logs?live=1&q=order")
    expect(lines(page)).to_have_count(9)
    own_shop.write(Batch([line("order 1.5", now_us - MINUTE_US * 3 // 2)]))

    expect(lines(page)).to_have_count(10)
    assert ["order 1", "order 1.5", "order 2"] == lines(page).all_inner_texts()[:3]


def test_a_burst_while_live(viewer: Viewer, visitor: Visitor, now_us: int) -> None:
    """More lines at once than a page holds leave no gap: the list begins anew."""
    viewer.write(Batch([line("old", now_us)]))
    page = visitor.open(viewer, "/logs?live=1")
    expect(lines(page)).to_have_count(1)
    burst = [line(f"line {i}", now_us + 1 + i) for i in range(PAGE_SIZE + 50)]
    viewer.write(Batch(burst))

    expect(lines(page).first).to_have_text(f"line {PAGE_SIZE + 49}")
    shown = lines(page).all_inner_texts()
    assert [f"line {PAGE_SIZE + 49 - i}" for i in range(len(shown))] == shown


def test_endless_scrolling(viewer: Viewer, visitor: Visitor, now_us: int) -> None:
    """Scrolling down fetches older lines until there are none, each once."""
    count = 4 * PAGE_SIZE + 3
    viewer.write(Batch([line(f"line {i}", now_us - i) for i in range(count)]))
    page = visitor.open(viewer, "/logs")
    expect(lines(page)).to_have_count(PAGE_SIZE)
    for shown in range(2 * PAGE_SIZE, count + PAGE_SIZE, PAGE_SIZE):
        page.evaluate("document.querySelector('#lines').scrollTop = 1e9")
        expect(lines(page)).to_have_count(min(shown, count))

    expect(page.get_by_text("That is all.")).to_be_visible()
    texts = page.eval_on_selector_all(".line .open", "all => all.map(e => e.textContent)")
    assert [f"line {i}" for i in range(count)] == texts


def test_the_keyboard(shop: Viewer, visitor: Visitor) -> None:
    """Lines are walked through, opened and closed by keys, and the search is a key away."""
    page = visitor.open(shop, "/logs")
    drawer = page.get_by_role("dialog", name="Log details")
    page.keyboard.press("j")
    expect(lines(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(lines(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(drawer.get_by_text("order 1", exact=True)).to_be_visible()
    page.keyboard.press("j")
    expect(drawer.get_by_text("order 2", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(lines(page).nth(2)).to_be_focused()
    assert "" == query(page)

    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search messages")).to_be_focused()
    page.keyboard.type("jk?")
    expect(page.get_by_text("No line is found.")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_hidden()


def test_refresh(own_shop: Viewer, visitor: Visitor, now_us: int) -> None:
    """The key r, and the button, fetch the list again."""
    page = visitor.open(own_shop, "/logs")
    own_shop.write(Batch([line("by key", now_us + 1)]))
    page.keyboard.press("r")
    expect(lines(page)).to_have_count(11)
    own_shop.write(Batch([line("by click", now_us + 2)]))
    page.get_by_role("link", name="Refresh").click()
    expect(lines(page)).to_have_count(12)


def test_one_line_is_in_the_tab_order(shop: Viewer, visitor: Visitor) -> None:
    """The Tab key goes past the list in one step, and comes back to the line it left."""
    page = visitor.open(shop, "/logs")
    page.keyboard.press("j")
    page.keyboard.press("j")

    assert 1 == page.locator(".line a[tabindex='0']").count()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(lines(page).nth(1)).to_be_focused()


def test_the_drawer(shop: Viewer, visitor: Visitor) -> None:
    """A click opens a line's details; tabs and the line are in the address."""
    page = visitor.open(shop, "/logs?columns=number")
    row(page, "payment failed").get_by_role("link", name="payment failed").click()
    drawer = page.get_by_role("dialog", name="Log details")
    expect(drawer.get_by_role("tab", name="Details")).to_have_attribute("aria-selected", "true")
    expect(drawer.get_by_text("service.name")).to_be_visible()

    drawer.get_by_role("tab", name="Details").press("ArrowRight")
    expect(drawer.get_by_role("tab", name="Raw")).to_be_focused()
    expect(drawer.get_by_role("tabpanel", name="Raw")).to_contain_text('"body": "payment failed"')
    drawer.get_by_role("tab", name="Related errors").click()
    panel = drawer.get_by_role("tabpanel", name="Related errors")
    expect(panel.get_by_role("heading", name="ValueError")).to_be_visible()
    assert re.fullmatch(r"\?columns=number&log=\d+&tab=errors", query(page))

    page.reload()
    expect(panel.get_by_role("heading", name="ValueError")).to_be_visible()
    panel.get_by_role("link", name="ValueError").click()
    expect(page.get_by_text("charge(card, total)")).to_be_visible()
    page.go_back()
    expect(panel).to_be_visible()
    drawer.get_by_role("button", name="Close").click()
    expect(drawer).to_be_hidden()
    # The browser tells of the close a moment after it.
    expect(page).to_have_url(re.compile(r"\?columns=number$"))


def test_focus_stays_in_the_drawer(shop: Viewer, visitor: Visitor) -> None:
    """While the details are open, the Tab key does not reach what is behind them."""
    page = visitor.open(shop, "/logs")
    lines(page).first.click()
    drawer = page.get_by_role("dialog", name="Log details")
    expect(drawer.get_by_role("button", name="Close")).to_be_focused()
    outside = 0
    for _ in range(40):
        page.keyboard.press("Tab")
        outside += page.evaluate(
            "document.activeElement !== document.body"
            " && !document.querySelector('#drawer').contains(document.activeElement)"
        )

    assert 0 == outside


def test_another_line_beside_the_drawer(shop: Viewer, visitor: Visitor) -> None:
    """A click on a line beside the drawer opens that one, and one elsewhere closes it."""
    page = visitor.open(shop, "/logs")
    lines(page).first.click()
    drawer = page.get_by_role("dialog", name="Log details")
    expect(drawer.get_by_text("payment failed")).to_be_visible()
    box = row(page, "order 3").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 100, box["y"] + 10)
    expect(drawer.get_by_text("order 3")).to_be_visible()
    page.mouse.click(100, 700)

    expect(drawer).to_be_hidden()


def test_the_drawer_has_nothing_of_before(shop: Viewer, visitor: Visitor) -> None:
    """While a line's details are on their way there are none of another to be pressed."""
    page = visitor.open(shop, "/logs")
    drawer = page.get_by_role("dialog", name="Log details")
    row(page, "order 3").get_by_role("link", name="order 3").click()
    expect(drawer.get_by_role("link", name="Filter on number")).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    held: list[Route] = []
    page.route("**/logs/*fragment=drawer*", lambda route: held.append(route))
    row(page, "order 5").get_by_role("link", name="order 5").click()
    page.wait_for_function("document.getElementById('drawer').matches(':modal')")

    assert 0 == drawer.get_by_role("link").count()
    held[0].continue_()
    expect(drawer.get_by_role("link", name="Filter on number")).to_be_visible()


def test_actions_on_an_attribute(shop: Viewer, visitor: Visitor) -> None:
    """An attribute becomes a filter, an exclusion or a column, beside what is shown already."""
    page = visitor.open(shop, "/logs?service=worker")
    drawer = page.get_by_role("dialog", name="Log details")

    def act(name: str) -> None:
        row(page, "order 3").get_by_role("link", name="order 3").click()
        drawer.get_by_role("link", name=name).click()
        expect(drawer).to_be_hidden()

    act("Add number as a column")
    expect(page.get_by_role("columnheader", name="number")).to_be_visible()
    expect(row(page, "order 5").get_by_role("cell", name="5", exact=True)).to_be_visible()
    act("Filter on number")
    expect(lines(page)).to_have_text(["order 3"])
    assert "?service=worker&is.number=3&columns=number" == query(page)
    act("Exclude this number")
    expect(lines(page)).to_have_count(4)
    page.get_by_role("link", name="Remove the column number").first.click()
    expect(page.get_by_role("columnheader", name="number")).to_be_hidden()


def test_columns(shop: Viewer, visitor: Visitor) -> None:
    """A column of any attribute is added by its name."""
    page = visitor.open(shop, "/logs")
    page.get_by_role("button", name="Columns").click()
    menu = page.get_by_role("dialog", name="Columns")
    menu.get_by_label("Attribute").fill("host.name")
    menu.get_by_role("button", name="Add column").click()

    expect(page.get_by_role("columnheader", name="host.name")).to_be_visible()
    expect(page.get_by_role("cell", name="box")).to_have_count(10)
    assert "?columns=host.name" == query(page)


def test_copy(shop: Viewer, visitor: Visitor) -> None:
    """The message, an attribute and the link to the line can be copied; the link opens it."""
    page = visitor.open(shop, "/logs", permissions=["clipboard-read", "clipboard-write"])
    row(page, "order 3").get_by_role("link", name="order 3").click()
    drawer = page.get_by_role("dialog", name="Log details")

    def copied(name: str) -> str:
        drawer.get_by_role("button", name=name).click()
        expect(page.locator("#announcer")).to_have_text("Copied")
        return page.evaluate("navigator.clipboard.readText()")  # type: ignore[no-any-return]

    assert "order 3" == copied("Copy message")
    assert "3" == copied("Copy number")
    link = copied("Copy link")
    page.goto(link)
    expect(drawer.get_by_text("order 3", exact=True)).to_be_visible()
    expect(lines(page).first).to_have_text("order 3")


def test_export(shop: Viewer, visitor: Visitor) -> None:
    """What is exported is what is shown."""
    page = visitor.open(shop, "/logs")
    page.get_by_role("group", name="Severity").get_by_role("checkbox", name="error").check()
    expect(lines(page)).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    text = Path(download.value.path()).read_text()

    assert ["payment failed"] == [json.loads(each)["body"] for each in text.splitlines()]


def test_session_and_user(shop: Viewer, visitor: Visitor) -> None:
    """A line leads to the lines of its session, and to all lines of its user."""
    page = visitor.open(shop, "/logs")
    drawer = page.get_by_role("dialog", name="Log details")
    row(page, "order 3").get_by_role("link", name="order 3").click()
    expect(drawer.get_by_role("button", name="View recording")).to_be_disabled()
    expect(drawer.get_by_text("No recording has come for this session")).to_be_visible()
    drawer.get_by_role("button", name="View session logs").click()
    expect(lines(page)).to_have_count(4)
    lines(page).first.click()
    drawer.get_by_role("link", name=f"All lines of {USER}").click()
    expect(page.locator(".chip")).to_have_count(1)
    expect(lines(page)).to_have_count(4)


def test_a_line_without_a_session(shop: Viewer, visitor: Visitor) -> None:
    """Such a line has no button for a recording, and is told how to be linked."""
    page = visitor.open(shop, "/logs")
    row(page, "order 7").get_by_role("link", name="order 7").click()
    drawer = page.get_by_role("dialog", name="Log details")
    drawer.get_by_role("tab", name="Related errors").click()

    expect(drawer.get_by_text("app.add_middleware(ReplayLinkMiddleware)")).to_be_visible()
    expect(drawer.get_by_role("button", name="View recording")).to_have_count(0)


def test_times_are_local(shop: Viewer, visitor: Visitor) -> None:
    """Times are those of the browser's time zone, with the exact time in UTC beside them."""
    page = visitor.open(shop, "/logs")
    log = shop.store.logs(LogQuery(), limit=1).logs[0]
    local = time.gmtime(log.time_us // 1_000_000 + 9 * 3600)
    element = page.locator(".line time").first

    expect(element).to_contain_text(time.strftime("%H:%M:%S", local))
    exact = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(log.time_us // 1_000_000))
    expect(element).to_have_attribute("title", f"{exact}.{log.time_us % 1_000_000:06}Z")


def test_without_script(shop: Viewer, visitor: Visitor) -> None:
    """Search, facets, filters and details work without JavaScript."""
    page = visitor.open(shop, "/logs", java_script_enabled=False)
    page.get_by_role("searchbox", name="Search messages").fill("order")
    page.get_by_role("checkbox", name="worker").check()
    page.get_by_role("button", name="Search").click()
    expect(lines(page)).to_have_count(5)
    page.get_by_role("button", name="Add filter").click()
    menu = page.get_by_role("dialog", name="Add a filter")
    menu.get_by_label("Attribute").fill("number")
    menu.get_by_label("Value").fill("3")
    menu.get_by_role("button", name="Add").click()
    expect(lines(page)).to_have_text(["order 3"])
    lines(page).click()
    page.get_by_role("tab", name="Raw").click()

    expect(page.get_by_text('"body": "order 3"')).to_be_visible()


def test_hostile_text(viewer: Viewer, visitor: Visitor, now_us: int) -> None:
    """Hostile text in every field is shown as text, and does nothing."""
    viewer.write(
        Batch(
            [
                line(text, now_us, service=text, user=text, evil=text, **{text: text})
                for text in HOSTILE
            ]
        )
    )
    page = visitor.open(viewer, "/logs?columns=evil")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    expect(lines(page)).to_have_count(len(HOSTILE))
    drawer = page.get_by_role("dialog", name="Log details")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    for _ in HOSTILE:
        expect(
            drawer.get_by_text("sessionId").or_(drawer.get_by_text("evil")).first
        ).to_be_visible()
        page.keyboard.press("j")

    assert 0 == page.locator("main img, main b.bold, main iframe, svg[onload]").count()


def test_the_setup_turns_to_the_logs(viewer: Viewer, visitor: Visitor, now_us: int) -> None:
    """The page of an empty viewer turns to the logs by itself as the first line comes."""
    page = visitor.open(viewer, "/")
    expect(page.get_by_role("heading", name="Nothing has come yet")).to_be_visible()
    viewer.write(Batch(events=[exception("ValueError", "x", now_us)]))
    page.wait_for_timeout(300)
    expect(page.get_by_role("heading", name="Nothing has come yet")).to_be_visible()
    viewer.write(Batch([line("first", now_us)]))

    expect(lines(page)).to_have_text(["first"])


def test_a_line_that_is_gone(shop: Viewer, visitor: Visitor) -> None:
    """A link to a line that is not there any more says so, over the list."""
    page = visitor.open(shop, "/logs?log=1")
    drawer = page.get_by_role("dialog", name="Log details")
    expect(drawer).to_contain_text("This log line is not there, or no longer.")
    drawer.get_by_role("button", name="Close").click()

    expect(lines(page)).to_have_count(10)
    expect(page).to_have_url(f"{shop.url}/logs")


def test_the_theme(shop: Viewer, visitor: Visitor) -> None:
    """The theme follows the system until one is chosen, which is kept."""
    page = visitor.open(shop, "/logs", color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert "rgb(17, 21, 20)" == page.evaluate(colour)
    page.get_by_role("button", name="Theme: system").click()
    assert "rgb(246, 247, 246)" == page.evaluate(colour)
    page.goto("/linkage")

    assert "rgb(246, 247, 246)" == page.evaluate(colour)
