"""
Each line that an example writes has the IDs of the browser that caused it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import httpx
import pytest

from tests.browser.visit import Visit
from tests.examples.running import Demo, Line

ADA = "user-1815"
GRACE = "user-1906"

has_websocket = pytest.mark.parametrize("demo", ["fastapi"], indirect=True)
of_the_page = pytest.mark.parametrize("demo", ["flask"], indirect=True)
"""Marks what only the page decides, which is the same for all examples."""


def ids(lines: list[Line]) -> set[tuple[str | None, str | None]]:
    return {(line.get("sessionId"), line.get("posthogDistinctId")) for line in lines}


def events(lines: list[Line]) -> list[str]:
    """
    Return what the app itself logged: uvicorn's access lines begin with an address.
    """
    return [line["event"] for line in lines if not line["event"].startswith("127.0.0.1:")]


def test_first_page_load_has_no_ids(demo: Demo, visit: Visit) -> None:
    """Before posthog-js has run for the first time, lines have neither key, as is told."""
    lines = visit.lines()

    assert ["page opened"] == events(lines)
    assert [] == [line for line in lines if {"sessionId", "posthogDistinctId"} & line.keys()]
    assert "Only the very first page load has none" in demo.banner
    assert visit.page.get_by_text("Only its very first load has none").is_visible()


@of_the_page
def test_message_goes_from_its_field(visit: Visit) -> None:
    """What was sent leaves its field, in a way that a recording has as well: no form is reset."""
    visit.page.evaluate("addEventListener('reset', () => document.body.append('it was reset'))")
    visit.send_message("hello there")

    assert "" == visit.page.get_by_label("Message").input_value()
    assert 0 == visit.page.get_by_text("it was reset").count()


def test_second_page_load_has_the_session(visit: Visit) -> None:
    """From then on the cookie links each load of the page and of its files."""
    visit.lines()
    visit.page.reload()
    lines = visit.lines()

    assert ["page opened"] == events(lines)
    assert {(visit.session_id, None)} == ids(lines)


def test_message_by_fetch_has_the_session(visit: Visit) -> None:
    """The lines of a message sent by fetch have the session ID, before anybody signs in."""
    visit.lines()
    visit.send_message("hello there")
    lines = visit.lines()

    assert ["message received", "message answered"] == events(lines)
    assert {(visit.session_id, None)} == ids(lines)


def test_tracing_headers_are_sent(visit: Visit) -> None:
    """A fetch has the session ID in the header that posthog-js adds, beside the body's."""
    with visit.page.expect_request("**/api/chat") as request:
        visit.send_message("hello")

    assert visit.session_id == request.value.headers["x-posthog-session-id"]
    assert visit.session_id == json.loads(request.value.post_data or "")["sessionId"]


def test_from_sign_in_on_lines_have_the_user(visit: Visit) -> None:
    """The very lines of the sign-in have the user's ID, and all lines after them."""
    visit.lines()
    visit.sign_in()
    visit.send_message("hello")
    lines = visit.lines()

    assert ["signed in", "message received", "message answered"] == events(lines)
    assert {(visit.session_id, ADA)} == ids(lines)


def test_plain_form_has_both_ids(visit: Visit) -> None:
    """A form without script can send no header: the cookies link it and the page after it."""
    visit.sign_in()
    visit.lines()
    with visit.page.expect_request("**/feedback") as request:
        visit.submit_form()
    lines = visit.lines()

    assert "x-posthog-session-id" not in request.value.headers
    assert ["feedback received", "page opened"] == events(lines)
    assert {(visit.session_id, ADA)} == ids(lines)


@has_websocket
def test_websocket_has_both_ids(visit: Visit) -> None:
    """The lines of a WebSocket have the IDs of the cookies that it was opened with."""
    visit.sign_in()
    visit.lines()
    visit.type("hello")
    visit.type("hello there")
    lines = visit.lines()

    assert {"typing"} == set(events(lines))
    assert {(visit.session_id, ADA)} == ids(lines)


@has_websocket
def test_websocket_is_opened_anew_for_another_user(visit: Visit) -> None:
    """What is typed after a sign-in is not on the WebSocket of before it."""
    visit.type("hello")
    anonymous = visit.lines()
    visit.sign_in()
    visit.lines()
    visit.type("hello there")
    lines = visit.lines()

    assert (visit.session_id, None) in ids(anonymous)
    assert {(visit.session_id, ADA)} == ids(lines)


def test_failure_has_both_ids(visit: Visit) -> None:
    """What fails has lines with both IDs, the traceback too."""
    visit.sign_in()
    visit.lines()
    visit.export()
    lines = visit.lines()
    (error,) = (line for line in lines if line["level"] == "error")

    assert "export started" == events(lines)[0]
    assert "there is no room left for the export" in error["exception"]
    assert {(visit.session_id, ADA)} == ids(lines)


def test_sign_out_begins_another_session(visit: Visit) -> None:
    """After a sign-out lines have no user, and the session ID that posthog-js has made anew."""
    visit.sign_in()
    before = visit.session_id
    visit.lines()
    visit.sign_out()
    signed_out = visit.lines()
    visit.send_message("hello")
    lines = visit.lines()

    assert {(before, ADA)} == ids(signed_out)
    assert before != visit.session_id
    assert {(visit.session_id, None)} == ids(lines)


@of_the_page
def test_refused_sign_in_is_told(visit: Visit) -> None:
    """Who cannot sign in reads so on the page, and stays nobody on the lines."""
    visit.lines()
    visit.expected_complaint = "401"
    visit.page.get_by_label("User name").fill("nobody")
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.get_by_text("The server answered with 401.").wait_for()
    lines = visit.lines()

    assert ["sign-in refused"] == events(lines)
    assert {(visit.session_id, None)} == ids(lines)


@of_the_page
def test_cookie_holds_no_more_than_ids(visit: Visit) -> None:
    """What the browser tells posthog-js about the user is the ID, and not the name."""
    visit.sign_in("grace")
    cookie = unquote(visit.page.evaluate("document.cookie"))

    assert f'"distinct_id":"{GRACE}"' in cookie
    assert "grace" not in cookie


@pytest.mark.parametrize("app", ["fastapi", "flask"])
def test_ctrl_c_ends_it_with_a_page_open(app: str, visitor: Callable[[Demo], Visit]) -> None:
    """Ctrl-C ends an example cleanly while a browser, and a WebSocket, are connected."""
    with Demo(app) as demo:
        visit = visitor(demo)
        if app == "fastapi":
            visit.type("hello")
        demo.lines()
        before = len(demo.written)
        ended = demo.stop()

    assert (0, "\n") == ended
    assert [] == demo.written[before:]


def test_two_browsers_at_once_are_kept_apart(demo: Demo, visitor: Callable[[Demo], Visit]) -> None:
    """With two people and a crowd of strangers at once, no line has the ID of another."""
    ada, grace = visitor(demo), visitor(demo)
    ada.sign_in("ada")
    grace.sign_in("grace")
    demo.lines()

    def stranger(number: int) -> None:
        for _ in range(10):
            headers = {"X-PostHog-Session-ID": f"stranger-{number}"}
            httpx.post(f"{demo.url}api/chat", json={"message": "x" * number}, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        strangers = pool.map(stranger, range(1, 5))
        for visit in (ada, grace) * 3:
            visit.send_message("hello")
            visit.submit_form()
        list(strangers)
    lines = demo.lines()

    assert {
        (ada.session_id, ADA),
        (grace.session_id, GRACE),
        *((f"stranger-{number}", None) for number in range(1, 5)),
    } == ids(lines)
    assert [] == [
        line
        for line in lines
        if line["event"] == "message received"
        and str(line["sessionId"]).startswith("stranger-")
        and line["sessionId"] != f"stranger-{line['length']}"
    ]


@of_the_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits(visit: Visit, width: int, scheme: str) -> None:
    """The page is not wider than the window, and all that can be used has a name."""
    visit.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.sign_in()
    wide = visit.page.evaluate("document.documentElement.scrollWidth")
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    names = visit.page.evaluate(
        """[...document.querySelectorAll("input, button")].map((element) =>
             element.labels?.[0]?.textContent.trim() || element.textContent.trim())"""
    )

    assert width == wide
    assert {"dark": "rgb(20, 22, 27)", "light": "rgb(244, 245, 248)"}[scheme] == background
    assert all(names)
