from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect

from replaylink.viewer.records import Batch, Snapshot
from tests.viewer.pages.conftest import Visitor
from tests.viewer.pages.data import SESSION, USER, exception, line, page_view
from tests.viewer.pages.recorder import FIRST_TEXT, OTHER_TAB_TEXT, SECOND_TEXT, Recorded, record
from tests.viewer.pages.serving import Viewer, running_viewer


@pytest.fixture(scope="module")
def recorded(chromium: Browser) -> Recorded:
    return record(chromium)


@pytest.fixture(scope="module")
def shop(recorded: Recorded) -> Iterator[Viewer]:
    """A viewer with a recording of two tabs, and lines and errors at its moments."""
    moments = {
        "first text": recorded.first_text_ms,
        "second text": recorded.second_text_ms,
        "other tab": recorded.other_tab_ms + 1000,
    }
    with running_viewer() as viewer:
        viewer.write(
            Batch(
                [
                    # A second later: the replay begins at the moment itself, and a little before.
                    line(f"after the {name}", (ms + 5_500) * 1000, session=SESSION, user=USER)
                    for name, ms in moments.items()
                ],
                [
                    exception("ValueError", "no card", recorded.second_text_ms * 1000),
                    page_view(recorded.start_ms * 1000, window="one"),
                ],
                recorded.snapshots,
            )
        )
        yield viewer


def replayed(page: Page | FrameLocator) -> FrameLocator:
    """The recorded page, within the player."""
    return page.frame_locator(".replayer-wrapper iframe")


def note(page: Page | FrameLocator) -> Locator:
    return replayed(page).locator("#note")


def test_view_recording(shop: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """The player opens over the page at the line's time minus five seconds, and shows it."""
    page = visitor.open(shop, "/logs")
    page.get_by_role("link", name="after the second text").click()
    drawer = page.get_by_role("dialog", name="Log details")
    drawer.get_by_role("button", name="View recording").click()
    dialog = page.get_by_role("dialog", name="Recording")
    player = dialog.frame_locator("iframe[title=Recording]")

    expect(note(player)).to_have_value(SECOND_TEXT)
    start = recorded.second_text_ms + 500
    assert f"recording={SESSION}&timestamp={start}" in page.url
    seconds = (start - recorded.start_ms) // 1000
    expect(player.locator("#clock")).to_contain_text(f"{seconds // 60}:{seconds % 60:02} /")

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(drawer).to_be_visible()
    assert "recording=" not in page.url


def test_the_player_is_in_the_address(shop: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """The address of an open player opens it again, and Back closes it."""
    page = visitor.open(shop, "/logs")
    row = page.get_by_role("row").filter(has_text="after the first text")
    row.get_by_role("link", name="Play the session at this line").click()
    dialog = page.get_by_role("dialog", name="Recording")
    expect(note(dialog.frame_locator("iframe"))).to_have_value(FIRST_TEXT)
    page.reload()
    expect(note(dialog.frame_locator("iframe"))).to_have_value(FIRST_TEXT)
    page.go_back()

    expect(dialog).to_be_hidden()
    expect(page).to_have_url(f"{shop.url}/logs")


def test_the_key_for_the_recording(shop: Viewer, visitor: Visitor) -> None:
    """The key p plays the line that has the focus, and Escape comes back to it."""
    page = visitor.open(shop, "/logs?q=after+the+first")
    page.keyboard.press("j")
    page.keyboard.press("p")
    dialog = page.get_by_role("dialog", name="Recording")
    expect(note(dialog.frame_locator("iframe"))).to_have_value(FIRST_TEXT)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    expect(page.get_by_role("link", name="after the first text")).to_be_focused()


def test_the_right_tab(shop: Viewer, visitor: Visitor) -> None:
    """The tab that was in use is played, and the other one can be chosen."""
    page = visitor.open(shop, "/logs")
    page.get_by_role("link", name="after the other tab").click()
    page.get_by_role("button", name="View recording").click()
    player = page.frame_locator("iframe[title=Recording]")
    expect(note(player)).to_have_value(OTHER_TAB_TEXT)
    tabs = player.get_by_role("navigation", name="Browser tabs")
    expect(tabs.get_by_role("link", name="Tab 2")).to_have_attribute("aria-current", "true")
    tabs.get_by_role("link", name="Tab 1").click()

    expect(note(player)).to_have_value(SECOND_TEXT)


def test_the_timeline_follows_and_seeks(shop: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """Lines and errors beside the player follow its clock, and seek it when clicked."""
    page = visitor.open(shop, f"/replay/{SESSION}")
    items = page.get_by_role("list").get_by_role("listitem")
    current = page.locator("[aria-current=time]")
    expect(note(page)).to_have_value("")
    items.filter(has_text="after the first text").get_by_role("button").click()
    expect(note(page)).to_have_value(FIRST_TEXT)
    expect(current).to_contain_text("after the first text")
    items.filter(has_text="ValueError: no card").get_by_role("button").click()
    expect(current).to_contain_text("ValueError: no card")

    page.get_by_role("slider", name="Position").fill(
        str(recorded.second_text_ms + 6_000 - recorded.start_ms)
    )
    expect(note(page)).to_have_value(SECOND_TEXT)
    expect(current).to_contain_text("after the second text")
    page.get_by_role("slider", name="Position").fill("0")
    expect(current).to_contain_text("$pageview")
    assert 1 == page.locator("#marks i").count()


def test_playing(shop: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """The player plays, faster if asked to, pauses, and seeks by the arrow keys."""
    page = visitor.open(shop, f"/replay/{SESSION}?timestamp={recorded.second_text_ms - 500}")
    expect(note(page)).to_have_value(FIRST_TEXT)
    page.get_by_label("Speed").select_option("8")
    page.get_by_role("button", name="Play").click()
    expect(note(page)).to_have_value(SECOND_TEXT)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    before = int(page.get_by_role("slider", name="Position").input_value())
    page.get_by_role("heading", name="Timeline").click()
    page.keyboard.press("ArrowLeft")

    after = int(page.get_by_role("slider", name="Position").input_value())
    assert abs(before - 5000 - after) <= 200


def test_it_plays_by_itself(shop: Viewer, visitor: Visitor) -> None:
    """The replay starts by itself, unless the person wants no motion."""
    page = visitor.open(shop, f"/replay/{SESSION}", reduced_motion="no-preference")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator("#clock")).to_have_text(re.compile(r"^0:0[1-9]"))


def test_the_embedded_player_leads_out(shop: Viewer, visitor: Visitor) -> None:
    """Links of the player over the logs page open in the whole window."""
    page = visitor.open(shop, f"/logs?recording={SESSION}")
    player = page.frame_locator("iframe[title=Recording]")
    expect(player.get_by_role("navigation", name="Pages")).to_have_count(0)
    player.get_by_role("link", name="Session logs").click()

    expect(page).to_have_url(f"{shop.url}/logs?is.sessionId={SESSION}")


def test_the_end(viewer: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """A moment after the end of a recording shows its last event done."""
    events = [
        event
        for snapshot in recorded.snapshots
        if snapshot.window_id == "one"
        for event in json.loads(snapshot.events)
    ]
    last = next(i for i, event in enumerate(events) if event["data"].get("text") == SECOND_TEXT)
    events = events[: last + 1]
    first_ms, last_ms = events[0]["timestamp"], events[-1]["timestamp"]
    encoded = json.dumps(events).encode()
    viewer.write(
        Batch(snapshots=[Snapshot("1", SESSION, "w", USER, first_ms, last_ms, True, encoded)])
    )
    page = visitor.open(viewer, f"/replay/{SESSION}?timestamp={last_ms + 60_000}")

    expect(note(page)).to_have_value(SECOND_TEXT)


def test_from_an_error_to_its_recording(shop: Viewer, visitor: Visitor, recorded: Recorded) -> None:
    """An exception leads to the recording five seconds before it."""
    page = visitor.open(shop, "/errors")
    page.get_by_role("link", name="ValueError").click()
    page.get_by_role("button", name="View recording").click()

    assert f"timestamp={recorded.second_text_ms - 5000}" in page.url
    expect(note(page)).to_have_value(FIRST_TEXT)


HOSTILE_PAGE = """
<script>window.top.pwned = 1</script>
<script src="http://127.0.0.1:{port}/script.js"></script>
<img src="http://127.0.0.1:{port}/picture.png" onerror="window.top.pwned = 2">
<link rel="preconnect" href="http://127.0.0.1:{port}">
<link rel="dns-prefetch" href="//127.0.0.1:{port}">
<link rel="prefetch" href="http://127.0.0.1:{port}/prefetch">
<link rel="stylesheet preconnect" href="http://127.0.0.1:{port}/sheet.css">
<link rel="stylesheet" href="http://127.0.0.1:{port}/style.css">
<link rel="stylesheet" href="/static/own/viewer.css">
<link id="changed">
<img src="/logs">
<style>@import "http://127.0.0.1:{port}/import.css"; @import "/logs";
body {{ background: url(http://127.0.0.1:{port}/background.png) }}</style>
<meta http-equiv="refresh" content="0; url=http://127.0.0.1:{port}/refresh">
<meta id="changed" content="0; url=http://127.0.0.1:{port}/refreshed">
<base href="http://127.0.0.1:{port}/">
<iframe src="http://127.0.0.1:{port}/frame"></iframe>
<iframe src="/logs"></iframe>
<iframe srcdoc="<script>top.pwned = 3</script>"></iframe>
<iframe id="changed"></iframe>
<object data="http://127.0.0.1:{port}/object"></object>
<object data="/logs"></object>
<object id="changed"></object>
<embed src="http://127.0.0.1:{port}/embed">
<embed src="/logs">
<embed id="changed">
<video src="http://127.0.0.1:{port}/video" autoplay></video>
<svg onload="window.top.pwned = 4"><image href="http://127.0.0.1:{port}/image.svg"></image></svg>
<a href="javascript:window.top.pwned = 5" id="link">link</a>
<form action="http://127.0.0.1:{port}/form"><button>send</button></form>
"""

_ELEMENT = re.compile(r"<(\w+)((?:\s[^>]*)?)>")
_ATTRIBUTE = re.compile(r'([\w-]+)(?:="([^"]*)")?')
_START_MS = 1_757_620_800_000


def mixed(name: str) -> str:
    """A name in letters of both cases."""
    return "".join(each.upper() if place % 2 else each for place, each in enumerate(name))


def hostile_events(port: int, spelled: Callable[[str], str]) -> list[dict[str, Any]]:
    """A recording as a hostile client could send it, which no recorder would make."""
    html = HOSTILE_PAGE.format(port=port)

    def element(number: int, tag: str, inner: list[dict[str, Any]], **others: str) -> Any:
        attributes = {spelled(name): value for name, value in others.items()}
        return {
            "type": 2,
            "id": number,
            "tagName": spelled(tag),
            "attributes": attributes,
            "childNodes": inner,
        }

    children, changed = [], []
    for number, (tag, attributes) in enumerate(_ELEMENT.findall(html), 100):
        found = dict(_ATTRIBUTE.findall(attributes))
        text = re.search(rf"<{tag}{re.escape(attributes)}>([^<]+)</{tag}>", html)
        inside = {"type": 3, "id": 400 + number, "isStyle": tag == "style"}
        inner = [] if text is None else [{**inside, "textContent": text[1]}]
        children.append(element(number, tag, inner, **found))
        if found.get("id") == "changed":
            changed.append(number)
    # In the order in which they would do most: a link asks as soon as it has both.
    asking = {
        "rel": "preconnect",
        "href": f"http://127.0.0.1:{port}/changed",
        "data": "/replays",
        "src": "/replays",
        "http-equiv": "refresh",
    }
    added = [
        element(900, "link", [], rel="preconnect", href=f"http://127.0.0.1:{port}/late"),
        element(901, "iframe", [], src="/errors"),
    ]
    document = {
        "type": 0,
        "id": 1,
        "childNodes": [
            {"type": 1, "id": 2, "name": "html", "publicId": "", "systemId": ""},
            element(3, "html", [element(4, "head", []), element(5, "body", children)]),
        ],
    }

    def mutation(after_ms: int, **parts: list[dict[str, Any]]) -> dict[str, Any]:
        data = {"source": 0, "texts": [], "removes": [], "attributes": [], "adds": [], **parts}
        return {"type": 3, "timestamp": _START_MS + after_ms, "data": data}

    def change(*numbers: int, **attributes: str) -> list[dict[str, Any]]:
        attributes = {spelled(name): value for name, value in attributes.items()}
        return [{"id": number, "attributes": dict(attributes)} for number in numbers]

    page = {"href": f"http://127.0.0.1:{port}/", "width": 800, "height": 600}
    top = {"top": 0, "left": 0}
    return [
        {"type": 4, "timestamp": _START_MS, "data": page},
        # rrweb shows the first picture at once, so that this is of its elements.
        mutation(1, attributes=change(*changed, **asking)),
        {
            "type": 2,
            "timestamp": _START_MS + 100,
            "data": {"node": document, "initialOffset": top},
        },
        mutation(
            300,
            attributes=change(*changed, 900, 901, **asking),
            adds=[{"parentId": 5, "nextId": None, "node": node} for node in added],
        ),
        mutation(500, attributes=change(*changed, 901, srcdoc="<script>top.pwned = 6</script>")),
        mutation(600, attributes=[{"id": 5, "attributes": {"class": "done"}}]),
        {"type": 3, "timestamp": _START_MS + 1000, "data": {"source": 3, "id": 1, "x": 0, "y": 0}},
    ]


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port that nobody is to connect to, and what those have sent who did."""
    connections: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.settimeout(1)
                try:
                    connections.append(connection.recv(200))
                except OSError:
                    connections.append(b"connected")
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], connections
        server.shutdown(socket.SHUT_RDWR)
    thread.join(2)


@pytest.mark.parametrize("spelled", [str.lower, str.upper, mixed], ids=["lower", "upper", "mixed"])
@pytest.mark.parametrize("played", [False, True], ids=["shown", "played"])
def test_a_hostile_recording(
    viewer: Viewer,
    chromium: Browser,
    listener: tuple[int, list[bytes]],
    spelled: Callable[[str], str],
    played: bool,
) -> None:
    """
    A recording runs no script, connects to nobody and loads no page of the viewer's, in whatever
    case its names are, and whether its changes come one by one or all at once.
    """
    port, connections = listener
    events = hostile_events(port, spelled)
    end_ms = events[-1]["timestamp"]
    encoded = json.dumps(events).encode()
    viewer.write(
        Batch(snapshots=[Snapshot("1", SESSION, "w", USER, _START_MS, end_ms, True, encoded)])
    )
    with chromium.new_context(reduced_motion="no-preference" if played else "reduce") as context:
        page = context.new_page()
        loaded: list[str] = []
        page.on(
            "response",
            lambda response: (
                loaded.append(response.url)
                if response.ok and response.frame != page.main_frame
                else None
            ),
        )
        page.goto(f"{viewer.url}/replay/{SESSION}" + ("" if played else f"?timestamp={end_ms}"))
        expect(replayed(page).locator("body.done #link")).to_be_attached()
        # Where a hint would have been taken, it is taken within some milliseconds.
        page.wait_for_timeout(700)
        pwned = page.evaluate("window.pwned")
        framed = {frame.url for frame in page.frames if frame != page.main_frame}
        assert replayed(page).locator("form").count() == 1
        url = page.url

    assert [] == connections
    assert [] == loaded
    assert {"about:blank"} == framed
    assert pwned is None
    assert f"/replay/{SESSION}" in url


def test_a_recorded_frame(viewer: Viewer, visitor: Visitor) -> None:
    """A page that was in a frame is shown in it, though the player loads nothing into frames."""

    def element(number: int, tag: str, *inner: dict[str, Any], **attributes: str) -> Any:
        return {
            "type": 2,
            "id": number,
            "tagName": tag,
            "attributes": attributes,
            "childNodes": list(inner),
        }

    def document(number: int, *inner: dict[str, Any]) -> dict[str, Any]:
        return {"type": 0, "id": number, "childNodes": list(inner)}

    framed = document(20, element(21, "html", element(22, "body", element(23, "p", id="in"))))
    style = element(7, "link", _cssText="#frame { width: 123px }")
    frame = element(6, "iframe", id="frame", src="http://shop.test/card", rr_src="")
    body = element(5, "body", frame)
    node = document(1, element(3, "html", element(4, "head", style), body))
    mutation = {"source": 0, "texts": [], "removes": [], "attributes": [], "isAttachIframe": True}
    events = [
        {
            "type": 4,
            "timestamp": _START_MS,
            "data": {"href": "http://shop.test/", "width": 800, "height": 600},
        },
        {
            "type": 2,
            "timestamp": _START_MS + 1,
            "data": {"node": node, "initialOffset": {"top": 0, "left": 0}},
        },
        {
            "type": 3,
            "timestamp": _START_MS + 2,
            "data": {**mutation, "adds": [{"parentId": 6, "nextId": None, "node": framed}]},
        },
        {
            "type": 3,
            "timestamp": _START_MS + 1000,
            "data": {"source": 3, "id": 1, "x": 0, "y": 0},
        },
    ]
    encoded = json.dumps(events).encode()
    viewer.write(
        Batch(
            snapshots=[
                Snapshot("1", SESSION, "w", USER, _START_MS, _START_MS + 1000, True, encoded)
            ]
        )
    )
    page = visitor.open(viewer, f"/replay/{SESSION}?timestamp={_START_MS + 1000}")

    expect(replayed(page).frame_locator("#frame").locator("#in")).to_be_attached()
    expect(replayed(page).locator("#frame")).to_have_css("width", "123px")
