"""
The recordings: their list, the player, and what the player asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from replaylink.viewer.limits import REPLAY_LEAD_MS
from replaylink.viewer.pages import links
from replaylink.viewer.pages.rendering import NO_STORE, not_found, page, read, store_of, twin
from replaylink.viewer.query import Filter, LogQuery
from replaylink.viewer.security import PLAYER_CSP
from replaylink.viewer.store import Store
from replaylink.viewer.store.results import Recording, Tab, Timeline

INCREMENTAL = 3
INTERACTIONS = frozenset({1, 2, 3, 5, 6, 12})
"""rrweb's sources that need a person: moves, clicks, scrolling, input, touch, drag."""


async def replays(request: Request) -> Response:
    """
    The recordings, latest first.
    """
    found = await _recordings(request)
    return await page(request, "replays/page.html", recordings=found)


async def replays_json(request: Request) -> Response:
    """
    The recordings, latest first.
    """
    return twin(await _recordings(request))


async def _recordings(request: Request) -> list[Recording]:
    before_ms = _moment(request, "before")
    session_id = request.query_params.get("session", "")
    before = None if before_ms is None else (before_ms, session_id)
    return await read(store_of(request).recordings, before=before)


class Moment(msgspec.Struct):
    """
    What stands beside the player: a line, an error or an event, at its time.
    """

    ms: int
    kind: str
    """``log``, ``error`` or ``event``."""
    severity: str
    text: str
    detail: str
    href: str
    """The address of its own page, or empty."""


def moments(timeline: Timeline) -> list[Moment]:
    """
    Return everything in a timeline in one order of time.
    """
    found = [
        Moment(log.time_us // 1000, "log", log.severity, log.body, log.service, f"/logs/{log.id}")
        for log in timeline.logs
    ]
    for error in timeline.errors:
        seen = error.exceptions[0] if error.exceptions else None
        found.append(
            Moment(
                error.time_us // 1000,
                "error",
                "error",
                f"{seen.type}: {seen.message}" if seen else "Exception",
                error.library,
                f"/errors/{error.issue_id}?session={error.session_id}",
            )
        )
    found += [
        Moment(event.time_us // 1000, "event", "", event.title, event.url, "")
        for event in timeline.events
    ]
    return sorted(found, key=lambda moment: moment.ms)


class _Data(msgspec.Struct):
    source: int = -1


class _Event(msgspec.Struct):
    type: int
    timestamp: float
    data: msgspec.Raw = msgspec.Raw()


_decode_events = msgspec.json.Decoder(list[_Event]).decode
_decode_data = msgspec.json.Decoder(_Data).decode


def _source(data: msgspec.Raw) -> int:
    try:
        return _decode_data(data).source
    except msgspec.MsgspecError:  # any page may send any recording
        return -1


def _last_interaction_ms(pieces: Iterator[bytes], until_ms: int) -> int:
    """
    Return when somebody last did something in a tab, at or before a moment.
    """
    last = 0
    for piece in pieces:
        for event in _decode_events(piece):
            if (
                event.type == INCREMENTAL
                and last < event.timestamp <= until_ms
                and _source(event.data) in INTERACTIONS
            ):
                last = int(event.timestamp)
    return last


def choose_tab(store: Store, recording: Recording, at_ms: int | None) -> Tab | None:
    """
    Return the browser tab to play: the one that was in use at a moment.

    Args:
        store: The store.
        recording: The recording.
        at_ms: The moment, in milliseconds since the epoch; None for the start.
    """
    tabs = [tab for tab in recording.tabs if tab.playable]
    if not tabs or at_ms is None:
        return tabs[0] if tabs else None
    open_then = [tab for tab in tabs if tab.first_ms <= at_ms <= tab.last_ms]
    if len(open_then) > 1:
        return max(
            open_then,
            key=lambda tab: _last_interaction_ms(
                store.snapshots(recording.session_id, tab.window_id), at_ms
            ),
        )
    return min(
        open_then or tabs,
        key=lambda tab: max(tab.first_ms - at_ms, at_ms - tab.last_ms, 0),
    )


def _moment(request: Request, name: str) -> int | None:
    """
    Return the milliseconds since the epoch that a parameter tells, or None.
    """
    text = request.query_params.get(name, "")
    # 15 digits are 30,000 years, and fit into any integer of a database.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


async def replay(request: Request) -> Response:
    """
    The player, with what happened in the session beside it.
    """
    store = store_of(request)
    session_id = request.path_params["session_id"]
    recording, timeline = await asyncio.gather(
        read(store.recording, session_id), read(store.timeline, session_id)
    )
    if recording is None:
        return await not_found(request, "No recording has come for this session.")
    timestamp = _moment(request, "timestamp")
    wanted = request.query_params.get("window", "")
    tab = next((t for t in recording.tabs if t.playable and t.window_id == wanted), None)
    if tab is None:
        # The replay starts before the moment that it is to show.
        at_ms = None if timestamp is None else timestamp + REPLAY_LEAD_MS
        tab = await read(choose_tab, store, recording, at_ms)
    return await page(
        request,
        "replays/player.html",
        csp=PLAYER_CSP,
        recording=recording,
        tab=tab,
        timestamp=timestamp,
        moments=moments(timeline),
        session_logs=links.session_logs(session_id),
        user_logs=await _user_logs(store, recording.distinct_id),
        embedded=request.query_params.get("embed") == "1",
    )


async def _user_logs(store: Store, distinct_id: str) -> str:
    # Empty if there is no line of the user, as in an anonymous session, whose ID is no line's.
    if not distinct_id:
        return ""
    query = LogQuery(filters=(Filter(links.USER_KEY, "is", distinct_id),))
    found = await read(store.logs, query, limit=1)
    # With no line so far but more to look through, there may be one.
    return links.user_logs(distinct_id) if found.logs or found.next else ""


async def replay_json(request: Request) -> Response:
    """
    What is recorded of a session.
    """
    found = await read(store_of(request).recording, request.path_params["session_id"])
    return await not_found(request, "no such recording") if found is None else twin(found)


async def timeline_json(request: Request) -> Response:
    """
    What happened in a session.
    """
    return twin(await read(store_of(request).timeline, request.path_params["session_id"]))


async def events_json(request: Request) -> Response:
    """
    The rrweb events of the tab ``window=``.
    """
    pieces = store_of(request).snapshots(
        request.path_params["session_id"], request.query_params.get("window", "")
    )
    return StreamingResponse(_joined(pieces), media_type="application/json", headers=NO_STORE)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """
    Make one JSON array of several, without reading them.
    """
    separator = b"["
    for piece in pieces:
        inner = piece.strip()[1:-1]
        if inner.strip():
            yield separator + inner
            separator = b","
    yield b"[]" if separator == b"[" else b"]"


ROUTES = [
    Route("/replays", replays),
    Route("/replays.json", replays_json),
    Route("/replay/{session_id}/events.json", events_json),
    Route("/replay/{session_id}/timeline.json", timeline_json),
    Route("/replay/{session_id}.json", replay_json),
    Route("/replay/{session_id}", replay),
    Route("/project/{project}/replay/{session_id}", replay),
]
