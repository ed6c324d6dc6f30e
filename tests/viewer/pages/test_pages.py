from __future__ import annotations

import json
import re
import uuid
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from starlette.testclient import TestClient

from replaylink.viewer.limits import MAX_EXPORT_LINES, PAGE_SIZE, SHOWN_LENGTH
from replaylink.viewer.pages import ROUTES
from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Snapshot
from replaylink.viewer.security import CSP, PLAYER_CSP
from replaylink.viewer.store import Store
from replaylink.viewer.store.results import Log
from tests.viewer.pages.conftest import Write
from tests.viewer.pages.data import HOSTILE, SESSION, UNRECORDED, USER, exception, line, page_view
from tests.viewer.pages.reading import Document


def snapshot(
    first_ms: int, *events: object, window: str = "one", session: str = SESSION
) -> Snapshot:
    encoded = msgspec.json.encode(events)
    return Snapshot(
        str(uuid.uuid4()), session, window, USER, first_ms, first_ms + 9_000, True, encoded
    )


def touch(ms: int) -> dict[str, object]:
    return {"type": 3, "timestamp": ms, "data": {"source": 5, "text": "x"}}


@pytest.fixture
def full(write: Write, now_us: int) -> None:
    """A viewer with something on each page."""
    ms = now_us // 1000
    write(
        logs=[
            line("payment declined", now_us, severity="error", session=SESSION, user=USER),
            line("signed in", now_us - 1, session=UNRECORDED, user=USER, **{"http.route": "/in"}),
            line("job done", now_us - 2, service="worker", scope="apscheduler"),
        ],
        events=[exception("ValueError", "no card", now_us), page_view(now_us - 3_000_000)],
        snapshots=[
            snapshot(ms - 9_000, {"type": 4, "timestamp": ms - 9_000}, touch(ms - 500)),
        ],
    )


def read(client: TestClient, address: str, status: int = 200) -> Document:
    response = client.get(address)
    assert status == response.status_code, response.text
    return Document(response.text)


def only(store: Store, text: str) -> Log:
    (log,) = store.logs(LogQuery(text=text)).logs
    return log


PAGES = ["/logs", "/replays", f"/replay/{SESSION}", "/errors", "/linkage", "/setup"]


# The whole


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "not empty"])
def test_the_start(client: TestClient, write: Write, now_us: int, empty: bool) -> None:
    """A visit begins with the set-up while there is nothing, and else with the logs."""
    if not empty:
        write(logs=[line("first", now_us)])
    response = client.get("/", follow_redirects=False)

    assert ("/setup" if empty else "/logs") == response.headers["Location"]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("path", [*PAGES, "/errors/{issue}", "/logs/{log}", "/logs?log={log}"])
def test_nothing_is_inline(client: TestClient, store: Store, path: str) -> None:
    """No page has a script, a style or a handler of its own text."""
    path = path.format(issue=store.issues()[0].id, log=only(store, "declined").id)
    page = read(client, path)

    inline = [
        element
        for element in page.elements
        if element.name == "style"
        or "style" in element.attributes
        or any(name.startswith("on") for name in element.attributes)
        or (
            element.name == "script"
            and "src" not in element.attributes
            and element.attributes.get("type") != "application/json"
        )
    ]
    assert [] == inline


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("path", PAGES)
def test_only_the_player_allows_styles(client: TestClient, path: str) -> None:
    """The page of the player has its own policy, and all others have the strict one."""
    expected = PLAYER_CSP if path.startswith("/replay/") else CSP

    assert expected == client.get(path).headers["Content-Security-Policy"]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("path", PAGES)
def test_each_page_has_a_twin(client: TestClient, path: str) -> None:
    """The same address with .json answers with JSON."""
    response = client.get(f"{path}.json")

    assert (200, "application/json") == (response.status_code, response.headers["Content-Type"])
    assert response.json() is not None


def test_every_page_route_has_a_twin() -> None:
    """No page was added without its twin."""
    paths = {getattr(route, "path", "") for route in ROUTES}
    no_data = {"/", "/live", "/static/own", "/project/{project}/replay/{session_id}"}
    pages = {path for path in paths - no_data if "." not in path}

    assert set() == {page for page in pages if f"{page}.json" not in paths}


@pytest.mark.parametrize(
    "path",
    [
        *("/logs/1", "/logs/nothing", f"/logs/{'9' * 30}", "/errors/nothing", f"/replay/{SESSION}"),
        *("/logs/1.json", "/errors/nothing.json", f"/replay/{SESSION}.json", "/logs/1/errors.json"),
    ],
)
def test_what_is_not_there(client: TestClient, path: str) -> None:
    """What is not there, or no longer, is answered 404 in the form that was asked for."""
    response = client.get(path)

    assert 404 == response.status_code
    assert path.endswith(".json") == response.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/logs", "/logs.json", "/logs/summary.json", "/linkage"])
@pytest.mark.parametrize("query", ["severity=loud", "since=long", "from=never", "linked=maybe"])
def test_bad_queries(client: TestClient, path: str, query: str) -> None:
    """A query that cannot be understood is answered 400, and says what is wrong."""
    response = client.get(f"{path}?{query}")

    assert 400 == response.status_code
    assert query.partition("=")[2] in response.text


# The list


@pytest.mark.usefixtures("full")
def test_the_list(client: TestClient) -> None:
    """Lines stand newest first, with their time in UTC, severity, service and user."""
    page = read(client, "/logs")

    assert ["payment declined", "signed in", "job done"] == page.messages()
    rows = [row for row in page.find("div", role="row") if "data-id" in row.attributes]
    assert "error" in rows[0].attributes["class"]
    assert re.fullmatch(r"error \d\d-\d\d [\d:.]{12} shop payment declined user-1815", rows[0].text)


@pytest.mark.usefixtures("full")
def test_the_replay_of_a_line(client: TestClient, now_us: int) -> None:
    """Only a line with a recording has a link to it, five seconds earlier."""
    (link,) = read(client, "/logs").find("a", aria_label="Play the session at this line")

    assert f"/replay/{SESSION}?timestamp={now_us // 1000 - 5000}" == link.attributes["href"]


@pytest.mark.usefixtures("full")
def test_facets(client: TestClient) -> None:
    """Severities and services have counts, and are fields of the page's form."""
    page = read(client, "/logs?severity=error&not-service=worker")
    boxes = {
        (box.attributes["name"], box.attributes["value"]): "checked" in box.attributes
        for box in page.find("input", type="checkbox")
    }
    labels = [label.text for label in page.find("label")]

    assert boxes[("severity", "error")]
    assert not boxes[("severity", "info")]
    assert "error 1" in labels
    assert "info 1" in labels
    assert "worker 1" in labels or "worker 0" in labels
    assert {"Severity", "Service"} < {legend.text for legend in page.find("legend")}
    include = page.one("a", aria_label="Include worker")
    assert "/logs?severity=error" == include.attributes["href"]


def test_pages_without_script(client: TestClient, write: Write, now_us: int) -> None:
    """The link to older lines leads through all of them, each once."""
    count = 2 * PAGE_SIZE + 7
    write(logs=[line(f"line {i}", now_us - i) for i in range(count)])
    seen: list[str] = []
    address = "/logs?q=line"
    while address:
        page = read(client, address)
        seen += page.messages()
        older = page.find("a", "Older", rel="next")
        address = older[0].attributes["href"] if older else ""

    assert [f"line {i}" for i in range(count)] == seen


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=DECLINED", ["payment declined"]),
        ("severity=error", ["payment declined"]),
        ("not-severity=error", ["signed in", "job done"]),
        ("service=worker", ["job done"]),
        ("linked=no", ["job done"]),
        ("is.http.route=/in", ["signed in"]),
        ("not.http.route=/in", ["payment declined", "job done"]),
        ("contains.http.route=n", ["signed in"]),
        ("without.http.route=n", ["payment declined", "job done"]),
        ("set.http.route=", ["signed in"]),
        ("unset.http.route=", ["payment declined", "job done"]),
        (f"is.posthogDistinctId={USER}", ["payment declined", "signed in"]),
        ("to=1999-01-01", []),
        ("since=5m", ["payment declined", "signed in", "job done"]),
    ],
)
def test_queries(client: TestClient, query: str, expected: list[str]) -> None:
    """Page and twin show what the address asks for, and the page's form keeps it."""
    page = read(client, f"/logs?{query}")

    assert expected == page.messages()
    assert expected == [log["body"] for log in client.get(f"/logs.json?{query}").json()["logs"]]
    name, _, value = query.partition("=")
    fields = [
        field.attributes.get("value")
        for field in page.elements
        if field.attributes.get("name") == name
        and (field.name == "input")
        and (
            "checked" in field.attributes
            or field.attributes.get("type") not in ("checkbox", "radio")
        )
    ]
    if name not in ("since", "to"):
        assert value in fields


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("add-key=k&add-is=contains&add-value=a%26b", "/logs?q=x&contains.k=a%26b"),
        ("add-key=k&add-is=set&add-value=ignored", "/logs?q=x&set.k="),
        ("add-key=k&add-is=nonsense&add-value=v", "/logs?q=x&is.k=v"),
        ("add-column=http.route", "/logs?q=x&columns=http.route"),
    ],
)
def test_small_forms(client: TestClient, asked: str, expected: str) -> None:
    """The forms for a filter and a column work without script: they lead to the new state."""
    response = client.get(f"/logs?q=x&{asked}", follow_redirects=False)

    assert (303, expected) == (response.status_code, response.headers["Location"])


@pytest.mark.usefixtures("full")
def test_columns(client: TestClient) -> None:
    """A column shows an attribute of each line, or of its resource."""
    page = read(client, "/logs?columns=http.route,host.name")
    cells = [cell.text for cell in page.find("span", role="cell", class_="extra")]
    heads = [head.text for head in page.find("span", role="columnheader", class_="extra")]

    assert ["", "box", "/in", "box", "", "box"] == cells
    assert ["http.route", "host.name"] == [head.split()[0] for head in heads]


@pytest.mark.usefixtures("full")
def test_the_histogram(client: TestClient) -> None:
    """The histogram counts each line once, by severity."""
    data = json.loads(read(client, "/logs").one("script", id="histogram-data").text)

    assert {"error": 1, "info": 2} == {k: sum(v) for k, v in data["counts"].items() if sum(v)}
    assert data["from"] < data["to"]


def test_export(client: TestClient, write: Write, now_us: int) -> None:
    """The export is what the query finds, a line of JSON each, newest first."""
    count = PAGE_SIZE + 5
    write(logs=[line(f"line {i}", now_us - i, n=i) for i in range(count)] + [line("x", now_us)])
    response = client.get("/logs/export.jsonl?q=line")
    lines = [json.loads(text) for text in response.text.splitlines()]

    assert [f"line {i}" for i in range(count)] == [each["body"] for each in lines]
    assert 'attachment; filename="logs.jsonl"' == response.headers["Content-Disposition"]


def test_export_is_bounded(client: TestClient, write: Write, now_us: int) -> None:
    """An export ends at its limit."""
    write(logs=[line("x", now_us - i) for i in range(MAX_EXPORT_LINES + 1)])

    assert MAX_EXPORT_LINES == client.get("/logs/export.jsonl").text.count("\n")


def test_an_empty_list(client: TestClient, write: Write, now_us: int) -> None:
    """A query that finds nothing says so, and how to see all again."""
    write(logs=[line("x", now_us)])
    page = read(client, "/logs?q=nothing&columns=a")

    assert "/logs?columns=a" == page.one("a", "Show all").attributes["href"]


@pytest.mark.usefixtures("full")
def test_suggestions(client: TestClient) -> None:
    """Names of attributes and their values can be asked for."""
    names = [each["key"] for each in client.get("/logs/attributes.json").json()]
    values = client.get("/logs/values.json?key=http.route").json()

    assert {"http.route", "sessionId"} <= set(names)
    assert [{"value": "/in", "count": 1}] == values


# One line


@pytest.mark.usefixtures("full")
def test_details(client: TestClient, store: Store) -> None:
    """A line's page has its attributes, each of which can be filtered on and made a column."""
    log = only(store, "signed in")
    page = read(client, f"/logs/{log.id}")

    assert ["Details", "Raw", "Related errors"] == [tab.text for tab in page.find("a", role="tab")]
    link = page.one("a", aria_label="Filter on http.route")
    assert "/logs?is.http.route=%2Fin" == link.attributes["href"]
    link = page.one("a", aria_label="Exclude this http.route")
    assert "/logs?not.http.route=%2Fin" == link.attributes["href"]
    link = page.one("a", aria_label="Add http.route as a column")
    assert "/logs?columns=http.route" == link.attributes["href"]
    assert "/in" == page.one("button", aria_label="Copy http.route").attributes["data-copy"]


@pytest.mark.usefixtures("full")
def test_the_raw_tab(client: TestClient, store: Store) -> None:
    """The tab "Raw" is the line's twin."""
    log = only(store, "signed in")
    page = read(client, f"/logs/{log.id}?tab=raw")
    twin = client.get(f"/logs/{log.id}.json").json()

    assert twin == json.loads("".join(page.one("pre", class_="raw").texts))
    assert "signed in" == twin["body"]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("text", "enabled", "disabled"),
    [("declined", 1, 0), ("signed in", 0, 1), ("job done", 0, 0)],
    ids=["recorded", "not recorded", "not linked"],
)
def test_view_recording(
    client: TestClient, store: Store, text: str, enabled: int, disabled: int
) -> None:
    """The button is there with a session ID only, and disabled without a recording."""
    page = read(client, f"/logs/{only(store, text).id}")
    buttons = page.find("button", "View recording")

    assert enabled == sum("disabled" not in button.attributes for button in buttons)
    assert disabled == sum("disabled" in button.attributes for button in buttons)
    notice = page.find("small", "No recording has come for this session")
    assert disabled == len(notice)


@pytest.mark.usefixtures("full")
def test_view_session_logs(client: TestClient, store: Store, now_us: int) -> None:
    """A line leads to its session's lines half an hour either way, and to its user's."""
    page = read(client, f"/logs/{only(store, 'declined').id}")
    query = parse_qs(urlsplit(page.one("a", "View session logs").attributes["href"]).query)

    assert {"is.sessionId", "from", "to"} == query.keys()
    assert [SESSION] == query["is.sessionId"]
    href = page.one("a", f"All lines of {USER}").attributes["href"]
    assert f"/logs?is.posthogDistinctId={USER}" == href
    assert ["payment declined", "signed in"] == read(client, href).messages()


def test_sessions_by_another_name(
    client: TestClient, write: Write, store: Store, now_us: int
) -> None:
    """Lines that call the session or the user otherwise are found beside the others."""
    log = line("other words", now_us, **{"session.id": SESSION, "distinct_id": USER})
    write(logs=[log, line("our words", now_us - 1, session=SESSION, user=USER)])
    page = read(client, f"/logs/{only(store, 'other words').id}")

    for name in ("View session logs", f"All lines of {USER}"):
        found = read(client, page.one("a", name).attributes["href"])
        assert ["other words", "our words"] == found.messages()


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("declined", "1 error found in this session."),
        ("signed in", "No errors of this session were found within 6 hours of this line."),
        ("job done", "This line is not linked to a session"),
    ],
)
def test_related_errors(client: TestClient, store: Store, text: str, expected: str) -> None:
    """The tab shows the session's issues, that there are none, or how to link the line."""
    log = only(store, text)
    panel = read(client, f"/logs/{log.id}?tab=errors").one("div", role="tabpanel")

    assert expected in panel.text
    assert ("ValueError" in panel.text) == (text == "declined")
    assert ("ReplayLinkMiddleware" in panel.text) == (text == "job done")
    assert (text == "declined") == bool(client.get(f"/logs/{log.id}/errors.json").json())


@pytest.mark.usefixtures("full")
def test_related_errors_of_all_sessions(
    client: TestClient, write: Write, store: Store, now_us: int
) -> None:
    """A related issue tells apart how often it was seen in the session, and in all."""
    write(events=[exception("ValueError", "no card", now_us, session=f"s{n}") for n in range(3)])
    log = only(store, "declined")
    page = read(client, f"/logs/{log.id}?tab=errors")
    facts = [fact.text for fact in page.find("dd")]

    assert ["1", "4, in 4 sessions"] == facts[1:3]
    names = ["In this session", "In all", "First seen in all", "Last seen in all"]
    assert names == [name.text for name in page.find("dt")][1:]
    (twin,) = client.get(f"/logs/{log.id}/errors.json").json()
    assert (1, 4, 4) == (twin["occurrences"], twin["total_occurrences"], twin["sessions"])


@pytest.mark.usefixtures("full")
def test_a_link_to_one_line(client: TestClient, store: Store) -> None:
    """The copied link opens the line's details, and the list from that line on."""
    log = only(store, "signed in")
    address = read(client, f"/logs/{log.id}").one("button", "Copy link")
    page = read(client, address.attributes["data-copy-link"])

    assert "open" in page.one("dialog", id="drawer").attributes
    assert "signed in" in page.one("dialog", id="drawer").text
    assert ["signed in", "job done"] == page.messages()


def test_long_messages(client: TestClient, write: Write, store: Store, now_us: int) -> None:
    """A very long message is cut in the list, and all of it is in its details."""
    body = "x" * (3 * SHOWN_LENGTH)
    write(logs=[line(body, now_us)])
    log = only(store, "xxx")

    assert len(client.get("/logs").text) < 2 * SHOWN_LENGTH
    page = read(client, f"/logs/{log.id}")
    assert f"Show all {3 * SHOWN_LENGTH:,} characters" == page.one("summary").text
    assert 3 * SHOWN_LENGTH == page.one("p", class_="message").text.count("x")


@pytest.mark.parametrize(
    "where", ["/logs?columns=evil", "line", "raw", "replay", "issue", "linkage"]
)
def test_hostile_text(
    client: TestClient, write: Write, store: Store, now_us: int, where: str
) -> None:
    """Whatever is logged adds no element and no attribute to a page, and no link to a script."""

    def shape(text: str, time_us: int) -> list[tuple[str, tuple[str, ...]]]:
        ms = time_us // 1000
        write(
            logs=[line(text, time_us, session=SESSION, user=text, service=text, evil=text)],
            events=[exception(text, text, time_us, user=text)],
            snapshots=[snapshot(ms, {"type": 4, "timestamp": ms})],
        )
        log = store.logs(LogQuery(), limit=1).logs[0]
        path = {
            "line": f"/logs/{log.id}",
            "raw": f"/logs/{log.id}?tab=raw",
            "replay": f"/replay/{SESSION}",
            "issue": f"/errors/{store.issues(limit=1)[0].id}",
            "linkage": "/linkage",
        }.get(where, where)
        page = read(client, path)
        for element in page.elements:
            for name in ("href", "src", "action", "formaction"):
                address = element.attributes.get(name, "/")
                assert address.startswith(("/", "https://example.com/", "#")), address
        return [
            (element.name, tuple(element.attributes))
            for element in page.elements
            if element.name
            in ("script", "img", "iframe", "style", "base", "link", "meta", "textarea")
            or any(name.startswith("on") for name in element.attributes)
        ]

    expected = shape("harmless", now_us)
    for later, text in enumerate(HOSTILE, 1):
        assert expected == shape(text, now_us + later), text


# Replays


@pytest.mark.usefixtures("full")
def test_replays(client: TestClient) -> None:
    """The list of recordings leads to each."""
    page = read(client, "/replays")

    assert [f"/replay/{SESSION}"] == [a.attributes["href"] for a in page.find("a", class_="play")]


def test_older_recordings(client: TestClient, write: Write, now_us: int) -> None:
    """From page to page all recordings are listed once, though all end at once."""
    sessions = {f"s{number}/&" for number in range(120)}
    write(snapshots=[snapshot(now_us // 1000, session=session) for session in sessions])

    listed: list[str] = []
    address = "/replays"
    for pages in (2, 1, 0):
        page = read(client, address)
        listed += [a.attributes["href"] for a in page.find("a", class_="play")]
        older = page.find("a", rel="next")
        assert bool(pages) == bool(older)
        address = older[0].attributes["href"] if older else ""
    assert sorted(f"/replay/{quote(session, safe='')}" for session in sessions) == sorted(listed)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("prefix", ["", "/project/phc_local"])
def test_the_timeline(client: TestClient, prefix: str) -> None:
    """Beside the player stand the session's lines, errors and events in order of time."""
    page = read(client, f"{prefix}/replay/{SESSION}")
    kinds = [
        item.attributes["class"].split()[1]
        for item in page.find("li")
        if "data-ms" in item.attributes
    ]

    assert "event" == kinds[0]
    assert ["error", "log"] == sorted(kinds[1:])
    twin = client.get(f"/replay/{SESSION}/timeline.json").json()
    assert (1, 1, 1) == (len(twin["logs"]), len(twin["errors"]), len(twin["events"]))


@pytest.mark.usefixtures("full")
def test_captured_clicks_in_the_timeline(client: TestClient, write: Write, now_us: int) -> None:
    """An event that posthog-js captured by itself tells what was done."""
    click = page_view(now_us)
    click.name = "$autocapture"
    click.properties |= {"$event_type": "click", "$el_text": "Send"}
    write(events=[click])
    page = read(client, f"/replay/{SESSION}")

    assert 1 == len(page.find("span", "clicked “Send”", class_="what"))


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("user", [USER, "anonymous", ""])
def test_lines_of_the_user(client: TestClient, write: Write, now_us: int, user: str) -> None:
    """A replay leads to its user's lines, if there are any."""
    piece = snapshot(now_us // 1000, session="s1")
    piece.distinct_id = user
    write(snapshots=[piece])
    found = read(client, "/replay/s1").find("a", "All lines of the user")

    expected = [f"/logs?is.posthogDistinctId={USER}"] if user == USER else []
    assert expected == [link.attributes["href"] for link in found]


def test_events_of_one_tab(client: TestClient, write: Write, now_us: int) -> None:
    """The player gets the events of one tab, as one array."""
    ms = now_us // 1000
    write(
        snapshots=[
            snapshot(ms, {"type": 4, "timestamp": ms}),
            snapshot(ms + 5),
            snapshot(ms + 10, touch(ms + 10), touch(ms + 11)),
            snapshot(ms, {"type": 4, "timestamp": 0}, window="two"),
        ]
    )

    events = client.get(f"/replay/{SESSION}/events.json?window=one").json()
    assert [ms, ms + 10, ms + 11] == [event["timestamp"] for event in events]
    assert [] == client.get(f"/replay/{SESSION}/events.json?window=none").json()


def chosen_tab(page: Document) -> str:
    events = page.one("div", id="player").attributes["data-events"]
    return parse_qs(urlsplit(events).query)["window"][0]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "one"),
        ("?timestamp={0}", "one"),
        ("?timestamp={1}", "two"),
        ("?timestamp={2}", "one"),
        ("?timestamp={1}&window=one", "one"),
        ("?timestamp={1}&window=gone", "two"),
    ],
    ids=["no moment", "first in use", "second in use", "back in the first", "named", "unknown"],
)
def test_the_right_tab(
    client: TestClient, write: Write, now_us: int, query: str, expected: str
) -> None:
    """Of the tabs that were open then, the one that somebody used last is played."""
    ms = now_us // 1000 - 100_000
    start = {"type": 4, "timestamp": ms}
    write(
        snapshots=[
            snapshot(ms, start, touch(ms + 1_000), touch(ms + 8_000)),
            snapshot(ms + 100, start, touch(ms + 4_000), window="two"),
        ]
    )
    # The moments of lines, which the replay precedes by five seconds.
    moments = [ms + 2_000 - 5_000, ms + 6_000 - 5_000, ms + 8_500 - 5_000]

    assert expected == chosen_tab(read(client, f"/replay/{SESSION}{query.format(*moments)}"))


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("moment", ["x", "-1", "1.5", "9" * 5000, "\u0661", ""])
@pytest.mark.parametrize("path", [f"/replay/{SESSION}?timestamp=", "/replays?before="])
def test_moments_that_are_none(client: TestClient, path: str, moment: str) -> None:
    """A moment in an address that cannot be understood does not count."""
    assert 200 == client.get(f"{path}{moment}").status_code


def test_a_tab_that_cannot_be_played(client: TestClient, write: Write, now_us: int) -> None:
    """Without the picture that a recording begins with, the page says so and has no player."""
    ms = now_us // 1000
    piece = snapshot(ms, touch(ms))
    piece.has_full_snapshot = False
    write(snapshots=[piece])
    page = read(client, f"/replay/{SESSION}")

    assert "cannot be played" in page.one("section", aria_label="Player").text
    assert [] == page.find("div", id="player")


# Errors


@pytest.mark.usefixtures("full")
def test_an_issue(client: TestClient, store: Store, now_us: int) -> None:
    """An issue shows its stack trace with the source, and leads to the recording."""
    (issue,) = store.issues()
    page = read(client, f"/errors/{issue.id}")

    assert "ValueError" == page.one("h1").text
    frames = [item.text for item in page.find("li") if item.attributes.get("class")]
    assert frames[0].startswith("pay shop/cart.py:12")
    assert "12 charge(card, total)" == page.one("span", class_="current").text
    form = page.one("form", class_="view-recording")
    assert f"/replay/{SESSION}" == form.attributes["action"]
    moments = [field.attributes["value"] for field in page.find("input", name="timestamp")]
    assert [str(now_us // 1000 - 5000)] == moments
    assert "card=4111" not in client.get(f"/errors/{issue.id}").text


@pytest.mark.usefixtures("full")
def test_an_issue_in_one_session(
    client: TestClient, write: Write, store: Store, now_us: int
) -> None:
    """An issue can be narrowed to a session, in page and twin."""
    write(events=[exception("ValueError", "no card", now_us, session=UNRECORDED)])
    (issue,) = store.issues()
    every = client.get(f"/errors/{issue.id}.json").json()
    one = client.get(f"/errors/{issue.id}.json?session={UNRECORDED}").json()

    assert 2 == len(every["occurrences"])
    assert [UNRECORDED] == [each["session_id"] for each in one["occurrences"]]
    page = read(client, f"/errors/{issue.id}?session={UNRECORDED}")
    assert 1 == len(page.find("details", class_="occurrence"))


# Linkage and set-up


@pytest.mark.usefixtures("full")
def test_linkage(client: TestClient) -> None:
    """The page tells the share of linked lines, and what to do about the others."""
    page = read(client, "/linkage")

    assert "67 %" == page.find("strong")[0].text
    (advice,) = page.find("p", class_="advice")
    assert "No line of this service is linked" in advice.text


def test_advice_stands_once(client: TestClient, write: Write, now_us: int) -> None:
    """Unlinked lines with the same advice stand below it together."""
    loggers = ["a", "b", "celery", "c"]
    write(
        logs=[line("linked", now_us, session=SESSION)]
        + [line("no", now_us - n, scope=name) for n, name in enumerate(loggers, 1)]
    )
    page = read(client, "/linkage")

    assert 2 == len(page.find("p", class_="advice"))
    assert [3, 1] == [each.text.count("shop · ") for each in page.find("ul", class_="unlinked")]


def test_linkage_of_a_time(client: TestClient, write: Write, now_us: int) -> None:
    """The page tells of a time range."""
    hour_us = 3_600_000_000
    write(logs=[line("late", now_us, session=SESSION), line("early", now_us - 5 * hour_us)])
    shares = [
        read(client, f"/linkage?since={since}").find("strong")[0].text for since in ("1h", "6h")
    ]

    assert ["100 %", "50 %"] == shares


def test_setup(client: TestClient) -> None:
    """The set-up has the viewer's own address, ready to copy."""
    page = read(client, "/setup")
    copied = [button.attributes["data-copy"] for button in page.find("button", "Copy")]

    assert 2 == sum('host="http://127.0.0.1:8390"' in text for text in copied)
    assert 1 == sum("api_host: 'http://127.0.0.1:8390'" in text for text in copied)
    assert {"empty": True, "host": "http://127.0.0.1:8390", "token": "phc_local"} == client.get(
        "/setup.json"
    ).json()


def test_the_setup_of_the_sdk(client: TestClient) -> None:
    """PostHog's SDK is installed, and the middleware is added again by neither framework."""
    page = read(client, "/setup")
    copied = [button.attributes["data-copy"] for button in page.find("button", "Copy")]

    assert 'pip install "replaylink[otlp,posthog]"' in copied
    assert 'app.add_middleware(ReplayLinkMiddleware, share="posthog")' in copied
    assert 'app.wsgi_app = ReplayLinkMiddleware(app.wsgi_app, share="posthog")' in copied
    assert 1 == len([each for each in page.find("p") if "replace the last line" in each.text])
    assert 1 == len([each for each in page.find("p") if "before posthog-js has" in each.text])


def test_the_code_of_the_setup_compiles(client: TestClient) -> None:
    """The lines of Python that the set-up shows are Python."""
    for button in read(client, "/setup").find("button", "Copy"):
        text = button.attributes["data-copy"]
        if "import " in text and "posthog-js" not in text:
            compile(text, "setup", "exec")
