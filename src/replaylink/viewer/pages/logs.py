"""
The log lines: the list, the details of one line, and what scripts ask for on the way.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from replaylink.viewer.limits import LIVE_SIZE, MAX_EXPORT_LINES, MAX_INDEXED_LENGTH, PAGE_SIZE
from replaylink.viewer.pages import links
from replaylink.viewer.pages.rendering import NO_STORE, not_found, page, read, store_of, twin
from replaylink.viewer.pages.state import TABS, LogsState, parse_state
from replaylink.viewer.pages.text import as_text
from replaylink.viewer.query import OPERATORS, LogQuery, Operator, QueryError
from replaylink.viewer.records import SEVERITIES
from replaylink.viewer.store import Store
from replaylink.viewer.store.results import Count, Issue, Log, Page, Summary

RANGES = {
    "": "All time",
    "5m": "Last 5 minutes",
    "15m": "Last 15 minutes",
    "1h": "Last hour",
    "6h": "Last 6 hours",
    "1d": "Last 24 hours",
    "7d": "Last 7 days",
}
"""The time ranges that can be chosen, by ``since=``."""

OPERATOR_NAMES: dict[Operator, str] = {
    "is": "is",
    "not": "is not",
    "contains": "contains",
    "without": "does not contain",
    "set": "is set",
    "unset": "is not set",
}

Handler = Callable[[Request], Awaitable[Response]]


def answers_bad_queries(handler: Handler) -> Handler:
    """
    Answer 400, and say why, where a handler meets a query that cannot be understood.
    """

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except QueryError as error:
            if "." in request.url.path:
                return twin({"error": str(error)}, status=400)
            return await page(request, "bad_query.html", status=400, message=str(error))

    return answer


class Row(msgspec.Struct):
    """
    A line in the list.
    """

    log: Log
    replay: str
    """The address of its replay; empty if it has no session."""
    recorded: bool
    """Whether that replay is there: a recording may come later than the line."""
    cells: list[str]
    """The values of the chosen columns."""


def _value(log: Log, key: str) -> str:
    return as_text(log.attributes.get(key, log.resource.get(key)))


def _rows(store: Store, found: Page, columns: tuple[str, ...]) -> list[Row]:
    recorded = store.recorded({log.session_id for log in found.logs if log.session_id})
    return [
        Row(
            log,
            links.replay_of(log) if log.session_id else "",
            log.session_id in recorded,
            [_value(log, key) for key in columns],
        )
        for log in found.logs
    ]


class Facet(msgspec.Struct):
    """
    One value by which lines can be chosen, and how many there are of it.
    """

    value: str
    count: int
    chosen: bool
    excluded: bool
    exclude: str
    """The address with this value excluded, or no longer excluded."""


def _facets(
    state: LogsState, name: str, counts: list[Count], always: tuple[str, ...]
) -> list[Facet]:
    """
    Return the values of a facet: those that are chosen or excluded too, if they have no line.
    """
    chosen: tuple[str, ...] = getattr(state.query, name)
    excluded: tuple[str, ...] = getattr(state.query, f"not_{name}")
    by_value = {each.value: each.count for each in counts}
    values = dict.fromkeys((*always, *by_value, *chosen, *excluded))
    return [
        Facet(
            value,
            by_value.get(value, 0),
            value in chosen,
            value in excluded,
            state.toggled(f"not_{name}", value).href,
        )
        for value in values
    ]


class Field(msgspec.Struct):
    """
    An attribute in a line's details, and what can be done with it.
    """

    key: str
    text: str
    is_url: bool
    filter: str
    exclude: str
    column: str


def _fields(state: LogsState, attributes: dict[str, Any]) -> list[Field]:
    fields = []
    for key, value in attributes.items():
        text = as_text(value)
        # What is longer, or a structure, no filter could find again.
        comparable = len(text) <= MAX_INDEXED_LENGTH and not isinstance(value, (dict, list))
        fields.append(
            Field(
                key,
                text,
                isinstance(value, str),
                state.with_filter(key, "is", text).href if comparable else "",
                state.with_filter(key, "not", text).href if comparable else "",
                state.with_column(key).listed.href if "," not in key else "",
            )
        )
    return fields


async def _details(request: Request, state: LogsState, log: Log) -> dict[str, Any]:
    store = store_of(request)
    recorded = bool(log.session_id) and bool(await read(store.recorded, {log.session_id}))
    issues: list[Issue] = []
    if state.tab == "errors" and log.session_id:
        issues = await read(store.related_issues, log.session_id, log.time_us)
    return {
        "log": log,
        "tabs": TABS,
        "recorded": recorded,
        "replay_moment": links.replay_moment(log.time_us),
        "window": links.window_of(log),
        "issues": issues,
        "attributes": _fields(state, log.attributes),
        "resource": _fields(state, log.resource),
        "session_logs": links.session_logs(log.session_id, log.time_us),
        "user_logs": links.user_logs(log.distinct_id),
        "link": links.line_in_list(log),
    }


def _asks_for_change(request: Request, state: LogsState) -> LogsState | None:
    """
    Return the state that one of the page's small forms asks for, if the request is one's.
    """
    parameters = request.query_params
    if key := parameters.get("add-key", "").strip():
        asked = parameters.get("add-is")
        operator: Operator = next((each for each in OPERATORS if each == asked), "is")
        value = parameters.get("add-value", "") if operator not in ("set", "unset") else ""
        return state.with_filter(key, operator, value)
    if column := parameters.get("add-column", "").strip():
        return state.with_column(column)
    return None


@answers_bad_queries
async def logs(request: Request) -> Response:
    """
    The logs page, or the part of it that a script asks for by ``fragment=``.
    """
    state = parse_state(request.query_params.multi_items())
    if (changed := _asks_for_change(request, state)) is not None:
        return RedirectResponse(changed.href, 303)
    store = store_of(request)
    before = request.query_params.get("before") or None
    fragment = request.query_params.get("fragment", "")
    context: dict[str, Any] = {"state": state, "before": before}
    if fragment == "rows":
        found = await read(store.logs, state.query, before=before, limit=PAGE_SIZE)
        rows = await read(_rows, store, found, state.columns)
        return await page(request, "logs/rows.html", found=found, rows=rows, **context)
    limit = LIVE_SIZE if fragment == "live" else PAGE_SIZE
    found, summary = await asyncio.gather(
        read(store.logs, state.query, before=before, limit=limit),
        read(store.summary, state.query),
    )
    context |= {
        "found": found,
        "summary": summary,
        "rows": await read(_rows, store, found, state.columns),
        "severities": _facets(state, "severities", summary.severities, SEVERITIES[::-1]),
        "services": _facets(state, "services", summary.services, ()),
        "histogram": _histogram(summary),
        "ranges": RANGES,
        "operators": OPERATOR_NAMES,
    }
    if fragment == "live":
        asked = set(request.query_params.getlist("unrecorded"))
        recorded = sorted(await read(store.recorded, asked))
        return await page(request, "logs/live.html", recorded=recorded, **context)
    if fragment == "list":
        return await page(request, "logs/list.html", **context)
    line = await read(store.log, state.log) if state.log else None
    context["details"] = await _details(request, state, line) if line else None
    return await page(request, "logs/page.html", **context)


def _histogram(summary: Summary) -> dict[str, Any]:
    """
    Return what the script draws: for each severity the counts of all bars, also the empty ones.
    """
    bars = -(-(summary.to_us - summary.from_us) // summary.step_us) if summary.buckets else 0
    counts = {name: [0] * bars for name in SEVERITIES}
    for bucket in summary.buckets:
        bar = min(max((bucket.start_us - summary.from_us) // summary.step_us, 0), bars - 1)
        for name, count in bucket.counts.items():
            counts[name][bar] += count
    return {
        "from": summary.from_us / 1e6,
        "to": summary.to_us / 1e6,
        "step": summary.step_us / 1e6,
        "counts": counts,
    }


@answers_bad_queries
async def log(request: Request) -> Response:
    """
    One line: a page of its own, or what stands in the drawer.
    """
    state = parse_state(request.query_params.multi_items())
    found = await read(store_of(request).log, request.path_params["log_id"])
    fragment = request.query_params.get("fragment") == "drawer"
    if found is None:
        what = "This log line is not there, or no longer."
        if fragment:
            return await page(request, "logs/gone.html", status=404, what=what)
        return await not_found(request, what)
    details = await _details(request, state, found)
    template = "logs/details.html" if fragment else "logs/line.html"
    return await page(request, template, state=state, details=details)


async def log_json(request: Request) -> Response:
    """
    One line.
    """
    found = await read(store_of(request).log, request.path_params["log_id"])
    return await not_found(request, "no such line") if found is None else twin(found)


async def log_errors_json(request: Request) -> Response:
    """
    The issues that are related to one line.
    """
    store = store_of(request)
    found = await read(store.log, request.path_params["log_id"])
    if found is None:
        return await not_found(request, "no such line")
    if not found.session_id:
        return twin([])
    return twin(await read(store.related_issues, found.session_id, found.time_us))


def _query(request: Request) -> LogQuery:
    return parse_state(request.query_params.multi_items()).query


@answers_bad_queries
async def logs_json(request: Request) -> Response:
    """
    Some lines, newest first.
    """
    before = request.query_params.get("before") or None
    return twin(await read(store_of(request).logs, _query(request), before=before, limit=PAGE_SIZE))


@answers_bad_queries
async def summary_json(request: Request) -> Response:
    """
    How many lines there are, over time and by facet.
    """
    return twin(await read(store_of(request).summary, _query(request)))


@answers_bad_queries
async def attributes_json(request: Request) -> Response:
    """
    Which attributes the lines have.
    """
    return twin(await read(store_of(request).attributes, _query(request)))


@answers_bad_queries
async def values_json(request: Request) -> Response:
    """
    The commonest values of the attribute ``key=``.
    """
    key = request.query_params.get("key", "")
    return twin(await read(store_of(request).attribute_values, _query(request), key))


@answers_bad_queries
async def export(request: Request) -> Response:
    """
    The lines that the query finds, as JSON lines.
    """
    store = store_of(request)
    query = _query(request)
    # The first page is asked for here, so that a query that is wrong is answered as such.
    before = request.query_params.get("before") or None
    first = await read(store.logs, query, before=before, limit=PAGE_SIZE)
    return StreamingResponse(
        _lines(store, query, first),
        media_type="application/jsonl",
        headers={**NO_STORE, "Content-Disposition": 'attachment; filename="logs.jsonl"'},
    )


def _lines(store: Store, query: LogQuery, found: Page) -> Iterator[bytes]:
    left = MAX_EXPORT_LINES
    while True:
        yield msgspec.json.Encoder().encode_lines(found.logs[:left])
        left -= len(found.logs)
        if left <= 0 or found.next is None:
            return
        found = store.logs(query, before=found.next, limit=min(left, 1000))


ROUTES = [
    Route("/logs", logs),
    Route("/logs.json", logs_json),
    Route("/logs/summary.json", summary_json),
    Route("/logs/attributes.json", attributes_json),
    Route("/logs/values.json", values_json),
    Route("/logs/export.jsonl", export),
    Route("/logs/{log_id}/errors.json", log_errors_json),
    Route("/logs/{log_id}.json", log_json),
    Route("/logs/{log_id}", log),
]
