"""
Events, the issues that exceptions belong to, and recordings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from replaylink.viewer.limits import RELATED_WINDOW_US
from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch, Event
from replaylink.viewer.store import Store, event_reader
from replaylink.viewer.store.event_writer import write_events
from replaylink.viewer.store.issues import (
    MAX_BYTES,
    MAX_CONTEXT_LINES,
    MAX_EXCEPTIONS,
    MAX_FRAMES,
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_SOURCE_LENGTH,
    exceptions,
    fingerprint,
)
from replaylink.viewer.store.schema import open_for_writing
from tests.viewer.store.making import (
    HOUR_US,
    NOW_US,
    SECOND_US,
    event,
    exception,
    line,
    snapshot,
)

PYTHON_FRAME: dict[str, Any] = {
    "platform": "python",
    "filename": "shop/cart.py",
    "function": "pay",
    "lineno": 12,
    "in_app": True,
    "pre_context": ["def pay():", "    total = 0"],
    "context_line": "    raise ValueError",
    "post_context": ["", "def other():"],
}
JS_FRAME: dict[str, Any] = {
    "platform": "web:javascript",
    "filename": "http://127.0.0.1:8000/static/chat.js",
    "function": "send",
    "lineno": 3,
    "colno": 17,
    "in_app": True,
}


def of(*told: dict[str, Any], **properties: Any) -> Event:
    return event("$exception", properties={"$exception_list": list(told), **properties})


def error(*frames: dict[str, Any], type_: str = "ValueError", value: str = "no") -> dict[str, Any]:
    return {"type": type_, "value": value, "stacktrace": {"type": "raw", "frames": list(frames)}}


# Which exceptions are the same issue


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(
            of(error(PYTHON_FRAME)),
            of(error(PYTHON_FRAME | {"lineno": 99}, value="another")),
            True,
            id="another-line-and-message",
        ),
        pytest.param(
            of(error(PYTHON_FRAME)),
            of(error(PYTHON_FRAME | {"function": "refund"})),
            False,
            id="another-function",
        ),
        pytest.param(
            of(error(PYTHON_FRAME)), of(error(PYTHON_FRAME, type_="KeyError")), False, id="type"
        ),
        pytest.param(
            of(error(PYTHON_FRAME, {"function": "get", "filename": "lib.py", "in_app": False})),
            of(error(PYTHON_FRAME, {"function": "put", "filename": "lib.py", "in_app": False})),
            True,
            id="frames-of-libraries",
        ),
        pytest.param(
            of(error({"function": "get", "filename": "lib.py"})),
            of(error({"function": "put", "filename": "lib.py"})),
            False,
            id="only-frames-of-libraries",
        ),
        pytest.param(of(error(value="a")), of(error(value="b")), False, id="no-frames"),
        pytest.param(
            of(error(PYTHON_FRAME), error(type_="KeyError", value="k")),
            of(error(PYTHON_FRAME)),
            False,
            id="with-a-cause",
        ),
        pytest.param(
            of(error(JS_FRAME)), of(error(JS_FRAME | {"colno": 5})), True, id="javascript-column"
        ),
        pytest.param(
            of(error(PYTHON_FRAME), **{"$exception_fingerprint": "mine"}),
            of(error(JS_FRAME, type_="TypeError"), **{"$exception_fingerprint": "mine"}),
            True,
            id="given",
        ),
        pytest.param(
            of(error(JS_FRAME)),
            of(error(JS_FRAME | {"filename": "https://shop.test/static/chat.js?v=2#x"})),
            True,
            id="javascript-origin",
        ),
        pytest.param(
            of(error(JS_FRAME)),
            of(error(JS_FRAME | {"filename": "http://127.0.0.1:8000/static/cart.js"})),
            False,
            id="javascript-path",
        ),
        pytest.param(
            of(error(JS_FRAME | {"filename": "http://127.0.0.1:8000"})),
            of(error(JS_FRAME | {"filename": "http://127.0.0.1:8001/?q=1"})),
            True,
            id="javascript-in-the-page",
        ),
        pytest.param(
            of(error(PYTHON_FRAME), **{"$exception_fingerprint": "mine"}),
            of(error(PYTHON_FRAME)),
            False,
            id="given-to-one",
        ),
        pytest.param(
            event("$exception", properties={"$exception_type": "E", "$exception_message": "m"}),
            of({"type": "E", "value": "m"}),
            True,
            id="old-form",
        ),
    ],
)
def test_fingerprint(one: Event, other: Event, same: bool) -> None:
    """Exceptions of the same type from the same functions of the app are the same issue."""
    assert same == (fingerprint(one) == fingerprint(other))


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param(None, id="nothing"),
        pytest.param("text", id="text"),
        pytest.param([None, 7, "x", []], id="no-objects"),
        pytest.param([{}], id="empty-object"),
        pytest.param([{"type": 7, "value": None, "stacktrace": [1]}], id="numbers"),
        pytest.param(
            [{"stacktrace": {"frames": [None, {"lineno": "x", "pre_context": 7}]}}], id="frames"
        ),
        pytest.param(
            [{"stacktrace": {"frames": [{"lineno": -1, "in_app": "yes"}]}, "mechanism": 1}],
            id="mechanism",
        ),
        pytest.param(
            [{"stacktrace": {"frames": [{"lineno": 1 << 70, "context_line": None}]}}], id="huge"
        ),
    ],
)
async def test_exceptions_of_no_sensible_shape(store: Store, listed: object) -> None:
    """Whatever an exception looks like, it is an issue, and can be shown."""
    told = event("$exception", properties={"$exception_list": listed})
    await store.write(Batch(events=[told]))

    (issue,) = store.issues()
    (occurrence,) = store.occurrences(issue.id)

    assert issue.name
    assert [each.type for each in exceptions(told.properties)] == [
        each.type for each in occurrence.exceptions
    ]
    assert msgspec.json.encode(occurrence)


def test_innermost_frames_are_kept() -> None:
    """Of a very deep stack trace the innermost frames are looked at."""
    frames = [PYTHON_FRAME | {"function": f"f{n}"} for n in range(1000)]

    (found,) = exceptions(of(error(*frames)).properties)

    assert (MAX_FRAMES, "f999") == (len(found.frames), found.frames[-1].function)


def test_issues_keep_their_ids() -> None:
    """An exception is the same issue in each version of the viewer."""
    assert "ce287709af95e540" == fingerprint(
        of(error(PYTHON_FRAME), error(JS_FRAME, type_="TypeError"))
    )


# What is kept of large ones

LONG = "x" * 20_000
LARGE_FRAME = PYTHON_FRAME | {
    "filename": LONG,
    "function": LONG,
    "lineno": 500,
    "pre_context": [f"{number} {LONG[:500]}" for number in range(470, 500)],
    "context_line": f"500 {LONG[:500]}",
    "post_context": [f"{number} {LONG[:500]}" for number in range(501, 530)],
}


def test_limits_of_a_frame() -> None:
    """Of a frame the source right around its line is kept, and of each text its beginning."""
    (found,) = exceptions(of(error(LARGE_FRAME, type_=LONG, value=LONG)).properties)
    (frame,) = found.frames

    numbers = range(500 - MAX_CONTEXT_LINES, 501 + MAX_CONTEXT_LINES)
    assert [(number, f"{number} {LONG}"[:MAX_SOURCE_LENGTH]) for number in numbers] == frame.source
    assert [MAX_NAME_LENGTH] * 3 == [*map(len, (found.type, frame.filename, frame.function))]
    assert MAX_MESSAGE_LENGTH == len(found.message)


def test_texts_are_no_objects() -> None:
    """Where a text should be, an object or array, which may be of any size, is none."""
    (found,) = exceptions(of(error(type_=[LONG], value={"a": LONG})).properties)  # type: ignore[arg-type]

    assert ("Error", "") == (found.type, found.message)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(of(error(*[LARGE_FRAME] * 50, value=LONG)), id="large-frames"),
        pytest.param(of(*[error(*[PYTHON_FRAME] * 150, value=LONG)] * 50), id="many-of-all"),
        pytest.param(of(*[error(PYTHON_FRAME, value=LONG)] * 50), id="long-chain"),
        pytest.param(of(error(*[PYTHON_FRAME] * 2000)), id="many-frames"),
        pytest.param(of(error() | {"type": [LONG] * 50, "value": {"": [LONG] * 50}}), id="nested"),
        pytest.param(of(error(PYTHON_FRAME), junk=[LONG] * 50), id="other-properties"),
        pytest.param(
            of(error(PYTHON_FRAME), **{"$current_url": LONG * 50, "$lib": LONG * 50}), id="page"
        ),
        pytest.param(
            event(
                "$exception",
                properties={"$exception_type": LONG * 50, "$exception_message": LONG * 50},
            ),
            id="old-form",
        ),
    ],
)
def test_large_exceptions_are_kept_small(told: Event, tmp_path: Path) -> None:
    """However much an exception brings, what is stored has a limit, and shows the same."""
    connection = open_for_writing(tmp_path / "viewer.db")
    write_events(connection, [told], NOW_US)
    issue, kept = connection.execute("SELECT issue, properties FROM event").fetchone()
    connection.close()

    found = exceptions(told.properties)
    assert len(kept) <= MAX_BYTES + MAX_EXCEPTIONS * (MAX_MESSAGE_LENGTH + MAX_NAME_LENGTH)
    assert len(found) <= MAX_EXCEPTIONS
    assert found == exceptions(msgspec.json.decode(kept))
    assert fingerprint(told) == issue


async def test_large_exceptions_can_be_shown(store: Store) -> None:
    """The page of an issue with many large exceptions stays small."""
    large = of(*[error(*[LARGE_FRAME] * 10, value=LONG)] * 3)
    events = [msgspec.structs.replace(large, uuid=f"large-{number}") for number in range(8)]
    await store.write(Batch(events=events))

    (issue,) = store.issues()
    found = store.occurrences(issue.id)

    assert 8 == len(found) == issue.occurrences
    assert len(msgspec.json.encode([issue, found])) < 8 * 1.2 * MAX_BYTES


async def test_large_events_are_kept_small(tmp_path: Path) -> None:
    """Of other events, too, what is shown is stored if they are large, or else all of it."""
    url = {"$current_url": "http://shop/cart"}
    connection = open_for_writing(tmp_path / "viewer.db")
    write_events(
        connection,
        [event("$pageview", properties={**url, "a": each}) for each in (LONG, LONG * 50)],
        NOW_US,
    )
    rows = connection.execute("SELECT properties FROM event ORDER BY id").fetchall()
    connection.close()

    assert [{**url, "a": LONG}, url] == [msgspec.json.decode(kept) for (kept,) in rows]


# What is told of an issue


async def test_occurrence_is_shown_whole(store: Store) -> None:
    """The chain, its frames with their source, and where it happened come back."""
    told = event(
        "$exception",
        "s1",
        window_id="w1",
        distinct_id="u1",
        properties={
            "$exception_list": [
                error(PYTHON_FRAME) | {"mechanism": {"handled": False}},
                error(JS_FRAME, type_="TypeError", value="cause"),
            ],
            "$current_url": "http://shop/cart?secret=1#top",
            "$lib": "posthog-python",
        },
    )
    await store.write(Batch(events=[told]))

    (issue,) = store.issues()
    (found,) = store.occurrences(issue.id)
    outer, cause = found.exceptions

    assert ("ValueError", "no", "posthog-python", 1, 1) == (
        issue.name,
        issue.message,
        issue.library,
        issue.occurrences,
        issue.sessions,
    )
    assert (NOW_US, NOW_US) == (issue.first_seen_us, issue.last_seen_us)
    assert ("http://shop/cart", "posthog-python") == (found.url, found.library)
    assert ("s1", "w1", "u1", told.uuid) == (
        found.session_id,
        found.window_id,
        found.distinct_id,
        found.uuid,
    )
    assert (False, True) == (outer.handled, cause.handled)
    assert [(10, "def pay():"), (11, "    total = 0"), (12, "    raise ValueError")] == (
        outer.frames[0].source[:3]
    )
    assert (3, 17) == (cause.frames[0].line, cause.frames[0].column)


async def test_backend_error_tells_its_path(store: Store) -> None:
    """An exception of the backend tells the path of the request."""
    await store.write(Batch(events=[exception(properties={"$request_path": "/api/pay?x=1"})]))

    (found,) = store.occurrences(store.issues()[0].id)

    assert "/api/pay" == found.url


async def test_known_events_are_not_kept_twice(store: Store) -> None:
    """An event that comes again, in the same request or later, counts once."""
    twice = exception(uuid="known")
    await store.write(Batch(events=[twice, twice, event("$pageview", uuid="view")]))
    await store.write(Batch(events=[twice, event("$pageview", uuid="view")]))

    assert [1] == [issue.occurrences for issue in store.issues()]
    assert 1 == len(store.timeline("s1").errors)
    assert 1 == len(store.timeline("s1").events)


async def test_issue_counts(store: Store) -> None:
    """An issue tells how often it was seen, in how many sessions, first and last; in any order."""
    await store.write(
        Batch(
            events=[
                exception("s1", ago_us=HOUR_US, message="newer"),
                exception("s2", message="newest"),
                exception("s2", ago_us=2 * HOUR_US, message="oldest"),
                exception("", ago_us=HOUR_US),
                exception("s1", type_="KeyError", ago_us=3 * HOUR_US),
            ]
        )
    )

    issue, other = store.issues()

    assert ("ValueError", "newest", 4, 2) == (
        issue.name,
        issue.message,
        issue.occurrences,
        issue.sessions,
    )
    assert (NOW_US - 2 * HOUR_US, NOW_US) == (issue.first_seen_us, issue.last_seen_us)
    assert ("KeyError", 1) == (other.name, other.occurrences)
    assert issue == store.issue(issue.id)
    assert [issue] == store.issues(limit=1)
    assert store.issue("none") is None


async def test_occurrences(store: Store) -> None:
    """The latest occurrences come first; they can be limited to a session."""
    await store.write(
        Batch(
            events=[
                exception("s1" if n % 2 else "s2", ago_us=n * SECOND_US, uuid=f"e{n}")
                for n in range(6)
            ]
        )
    )
    (issue,) = store.issues()

    assert [f"e{n}" for n in range(6)] == [each.uuid for each in store.occurrences(issue.id)]
    assert ["e1", "e3"] == [
        each.uuid for each in store.occurrences(issue.id, session_id="s1", limit=2)
    ]
    assert [] == store.occurrences("none")


# Related errors


@pytest.mark.parametrize("sign", [-1, 1], ids=["before", "after"])
@pytest.mark.parametrize(
    ("away_us", "found"),
    [
        pytest.param(0, True, id="same-moment"),
        pytest.param(RELATED_WINDOW_US, True, id="six-hours"),
        pytest.param(RELATED_WINDOW_US + 1, False, id="beyond"),
    ],
)
async def test_related_within_six_hours(store: Store, sign: int, away_us: int, found: bool) -> None:
    """Errors of the session are related for six hours either way."""
    await store.write(Batch(events=[exception("s1")]))

    assert found == bool(store.related_issues("s1", NOW_US + sign * away_us))


async def test_related_are_of_the_session(store: Store) -> None:
    """Counted are occurrences in that session at that time; the latest issue comes first."""
    await store.write(
        Batch(
            events=[
                exception("s1", ago_us=2 * SECOND_US),
                exception("s1", ago_us=3 * SECOND_US),
                exception("s1", ago_us=20 * HOUR_US),
                exception("s2"),
                exception("s1", type_="KeyError", ago_us=SECOND_US),
                exception("s2", type_="OSError"),
                event("$pageview", "s1"),
            ]
        )
    )

    found = store.related_issues("s1", NOW_US)

    assert [("KeyError", 1), ("ValueError", 2)] == [
        (issue.name, issue.occurrences) for issue in found
    ]
    assert 2 == found[1].sessions
    assert [1, 4] == [issue.total_occurrences for issue in found]
    assert [] == store.related_issues("s3", NOW_US)


async def test_nothing_is_related_to_no_session(store: Store) -> None:
    """A line without a session has no related errors, though errors may have none either."""
    await store.write(Batch(events=[exception("")]))

    assert [] == store.related_issues("", NOW_US)
    assert [] == store.timeline("").errors


# Recordings


async def test_recording_with_two_tabs(store: Store) -> None:
    """A recording tells its tabs in order, its length, and what else its session has."""
    await store.write(
        Batch(
            snapshots=[
                snapshot("s1", "w2", ago_us=5 * SECOND_US, has_full_snapshot=False),
                snapshot("s1", "w1", ago_us=10 * SECOND_US),
                snapshot("s1", "w1", ago_us=8 * SECOND_US, has_full_snapshot=False),
                snapshot("s1", "w2", ago_us=2 * SECOND_US, has_full_snapshot=False),
            ],
            events=[exception("s1"), event("$pageview", "s1"), exception("s2")],
            logs=[line(attributes={"sessionId": "s1"}), line(attributes={"sessionId": "s2"})],
        )
    )

    found = store.recording("s1")

    assert found is not None
    assert [found] == store.recordings()
    now_ms = NOW_US // 1000
    assert (now_ms - 10_000, now_ms - 1000) == (found.first_ms, found.last_ms)
    assert [("w1", True), ("w2", False)] == [(tab.window_id, tab.playable) for tab in found.tabs]
    assert [(now_ms - 10_000, now_ms - 7000), (now_ms - 5000, now_ms - 1000)] == [
        (tab.first_ms, tab.last_ms) for tab in found.tabs
    ]
    assert (1, 1, "u1") == (found.errors, found.logs, found.distinct_id)
    assert store.recording("s2") is None


async def test_pieces_are_in_order(store: Store) -> None:
    """A tab's pieces come in the order of their first event, however they arrived."""
    await store.write(
        Batch(
            snapshots=[
                snapshot(ago_us=SECOND_US, events=b"[3]"),
                snapshot(ago_us=3 * SECOND_US, events=b"[1]"),
                snapshot(ago_us=2 * SECOND_US, events=b"[2]"),
                snapshot(ago_us=2 * SECOND_US, window_id="w2", events=b"[9]"),
            ]
        )
    )

    assert [b"[1]", b"[2]", b"[3]"] == list(store.snapshots("s1", "w1"))
    assert [b"[9]"] == list(store.snapshots("s1", "w2"))
    assert [] == list(store.snapshots("s1", "w3"))


async def test_known_snapshots_are_not_kept_twice(store: Store) -> None:
    """A piece that is sent again leaves the recording as it was."""
    piece = snapshot(events=b"[" + b"1," * 1000 + b"1]")
    await store.write(Batch(snapshots=[piece]))
    before = store.recording("s1")
    await store.write(Batch(snapshots=[piece, piece]))

    assert before == store.recording("s1")
    assert [piece.events] == list(store.snapshots("s1", "w1"))


async def test_slow_reader_of_a_recording_keeps_nobody_waiting(store: Store) -> None:
    """While recordings are read piece by piece, other queries see what has come since."""
    await store.write(Batch(snapshots=[snapshot(ago_us=n * SECOND_US) for n in range(3)]))
    reading = [store.snapshots("s1", "w1") for _ in range(10)]
    for each in reading:
        next(each)
    await store.write(Batch(logs=[line()], snapshots=[snapshot("s2")]))

    assert [1] * 10 == [store.summary(LogQuery()).total for _ in range(10)]
    assert {"s1", "s2"} == {each.session_id for each in store.recordings()}
    assert [2] * 10 == [len(list(each)) for each in reading]


async def test_recorded(store: Store) -> None:
    """Only sessions with a full picture of the page can be played."""
    await store.write(Batch(snapshots=[snapshot("s1"), snapshot("s2", has_full_snapshot=False)]))

    assert {"s1"} == store.recorded({"s1", "s2", "s3", ""})


async def test_recordings_by_their_end(store: Store) -> None:
    """The latest recordings come first, and one can go on from any, though two end at once."""
    ends = {"s0": 0, "s1": 1, "s2": 2, "s3": 2, "s4": 3}
    await store.write(
        Batch(snapshots=[snapshot(name, ago_us=n * SECOND_US) for name, n in ends.items()])
    )

    pages: list[list[str]] = []
    before: tuple[int, str] | None = None
    while found := store.recordings(before=before, limit=1 if before is None else 2):
        pages.append([each.session_id for each in found])
        before = found[-1].last_ms, found[-1].session_id

    assert [["s0"], ["s1", "s3"], ["s2", "s4"]] == pages


async def test_timeline(store: Store) -> None:
    """Beside a replay stand the session's lines, errors and events, each in order of time."""
    await store.write(
        Batch(
            logs=[
                line(str(n), ago_us=n * SECOND_US, attributes={"session.id": "s1"})
                for n in range(3)
            ]
            + [line("other", attributes={"sessionId": "s2"}), line("none")],
            events=[
                *(exception("s1", ago_us=n * SECOND_US, uuid=f"e{n}") for n in range(3)),
                *(
                    event(
                        "$pageview",
                        ago_us=n * SECOND_US,
                        window_id="w1",
                        properties={"$current_url": f"http://shop/{n}?q"},
                    )
                    for n in range(3)
                ),
                exception("s2"),
            ],
        )
    )

    found = store.timeline("s1")

    assert ["2", "1", "0"] == [log.body for log in found.logs]
    assert ["e2", "e1", "e0"] == [each.uuid for each in found.errors]
    assert ["http://shop/2", "http://shop/1", "http://shop/0"] == [
        each.url for each in found.events
    ]
    assert {("$pageview", "w1")} == {(each.name, each.window_id) for each in found.events}


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        pytest.param(
            "$autocapture",
            {"$event_type": "click", "$el_text": "Send"},
            "clicked “Send”",
            id="text",
        ),
        pytest.param(
            "$autocapture",
            {
                "$event_type": "click",
                "$elements": [{"tag_name": "a", "$el_text": " Next\n page "}, {"$el_text": "All"}],
            },
            "clicked “Next page”",
            id="elements",
        ),
        pytest.param(
            "$autocapture",
            {
                "$event_type": "click",
                "$elements_chain": 'button.hover:x:attr__id="a;b"nth-child="1"'
                'text="Say \\"hi\\"; go";form:text="All"',
            },
            'clicked “Say "hi"; go”',
            id="chain",
        ),
        pytest.param(
            "$autocapture",
            {
                "$event_type": "change",
                "$elements_chain": 'input.wide:attr__id="i"attr__name="q"nth-child="1";form:',
            },
            "changed input “q”",
            id="without-text",
        ),
        pytest.param(
            "$autocapture",
            {"$event_type": "submit", "$elements": [{"tag_name": "form"}]},
            "submitted form",
            id="without-a-name",
        ),
        pytest.param(
            "$autocapture",
            {"$event_type": "drop", "$el_text": "x" * 99},
            f"drop “{'x' * 80}…”",
            id="long",
        ),
        pytest.param("$autocapture", {"$event_type": "click"}, "clicked", id="no-element"),
        pytest.param("$autocapture", {"$el_text": "Send"}, "$autocapture", id="no-kind"),
        pytest.param(
            "$autocapture",
            {"$event_type": ["click"], "$elements": [7], "$elements_chain": {}},
            "$autocapture",
            id="no-sensible-shape",
        ),
        pytest.param(
            "$autocapture",
            {"$event_type": "click", "$elements": [7], "$elements_chain": '"' * 9000},
            "clicked",
            id="no-chain",
        ),
        pytest.param(
            "$pageview", {"$event_type": "click", "$el_text": "Send"}, "$pageview", id="another"
        ),
    ],
)
async def test_titles_of_events(
    store: Store, name: str, properties: dict[str, Any], expected: str
) -> None:
    """Of what posthog-js captures by itself, the timeline tells what was done, and on what."""
    await store.write(Batch(events=[event(name, properties=properties)]))

    (found,) = store.timeline("s1").events

    assert (name, expected) == (found.name, found.title)


async def test_long_exceptions_are_read_in_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of exceptions that are too long to be read at once, the latest ones are."""
    monkeypatch.setattr(event_reader, "MAX_OCCURRENCES_BYTES", 5000)
    events = [exception(ago_us=n, message="x" * 2000, uuid=f"e{n}") for n in range(5)]
    await store.write(Batch(events=events))

    assert ["e2", "e1", "e0"] == [each.uuid for each in store.timeline("s1").errors]
