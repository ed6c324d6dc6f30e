"""
Linkage: what share of the lines is linked to a session, and why the others are not.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replaylink.viewer.pages.logs import RANGES, answers_bad_queries
from replaylink.viewer.pages.rendering import page, read, store_of, twin
from replaylink.viewer.pages.state import LogsState, parse_state
from replaylink.viewer.store.results import Linkage, Share, Unlinked

_JOBS = ("apscheduler", "celery", "dramatiq", "huey", "rq.", "arq", "taskiq", "job", "worker")
_SERVERS = ("uvicorn", "hypercorn", "gunicorn", "granian", "waitress", "werkzeug", "daphne")
_BETWEEN = ("start", "stop", "shut", "ready", "listening", "waiting for", "finished server")


def advice(lines: Unlinked, services: list[Share], loggers: list[Share]) -> str:
    """
    Return what to do about lines that are not linked.

    Args:
        lines: The lines.
        services: How many lines of each service are linked.
        loggers: How many lines of each logger are linked, by ``service: logger``.
    """
    logger = lines.logger.lower()
    message = lines.message.lower()
    share = next((each for each in services if each.name == lines.service), None)
    if logger.startswith(_SERVERS) and any(word in message for word in _BETWEEN):
        return "The server's own line, of no request: nothing is missing."
    if logger.startswith(_SERVERS):
        name = f"{lines.service}: {lines.logger}"
        if any(each.name == name and each.linked for each in loggers):
            return (
                "The server's access line. Others of this logger are linked, so these are most "
                "likely requests before the page has a session, as the first load of a page comes "
                "before posthog-js has one, or requests of clients without the frontend."
            )
        return (
            "The server's access line. Call replaylink.stdlib.install() before the server starts, "
            "or log requests by ASGIAccessLog or WSGIAccessLog, inside of the middleware."
        )
    if share is not None and not share.linked:
        return (
            "No line of this service is linked. Put ReplayLinkMiddleware outermost, "
            "add_identity among structlog's processors, and see that the frontend sends its "
            "session ID: by tracing_headers, the cookie, or sessionId in the JSON body."
        )
    if any(word in logger for word in _JOBS):
        return (
            "A job has no request: hand its IDs over, and run it within "
            "linked(session_id=..., user_id=...)."
        )
    return (
        "If it belongs to a request: a bare thread loses the context, so start it by carry(); a "
        "logger of the standard library needs install(); and a caller that is no browser, such "
        "as a health check or a webhook, has no session."
    )


class _Advised(msgspec.Struct):
    advice: str
    lines: list[Unlinked]


def _advised(found: Linkage) -> list[_Advised]:
    """
    Return the unlinked lines by what to do about them, the commonest first.
    """
    groups: dict[str, list[Unlinked]] = {}
    for each in found.unlinked:
        groups.setdefault(advice(each, found.services, found.loggers), []).append(each)
    return [_Advised(each, lines) for each, lines in groups.items()]


async def _found(request: Request) -> tuple[LogsState, Linkage]:
    state = parse_state(request.query_params.multi_items())
    return state, await read(store_of(request).linkage, state.query)


@answers_bad_queries
async def linkage(request: Request) -> Response:
    """
    The linkage page.
    """
    state, found = await _found(request)
    return await page(
        request,
        "linkage.html",
        state=state,
        found=found,
        ranges=RANGES,
        unlinked=_advised(found),
        bars=_bars(found.over_time),
    )


def _bars(over_time: list[Share]) -> list[dict[str, Any]]:
    """
    Return a bar for each step of time, its heights out of 100.
    """
    highest = max((share.total for share in over_time), default=0) or 1
    return [
        {
            "time_us": int(share.name) * 1000,
            "total": share.total,
            "linked": share.linked,
            "height": round(100 * share.total / highest, 2),
            "linked_height": round(100 * share.linked / highest, 2),
        }
        for share in over_time
    ]


@answers_bad_queries
async def linkage_json(request: Request) -> Response:
    """
    What share of the lines is linked.
    """
    return twin((await _found(request))[1])


ROUTES = [Route("/linkage", linkage), Route("/linkage.json", linkage_json)]
