"""
The errors: issues, and one issue with its stack traces.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replaylink.viewer.pages import links
from replaylink.viewer.pages.rendering import not_found, page, read, store_of, twin
from replaylink.viewer.store.results import Issue, Occurrence


async def issues(request: Request) -> Response:
    """
    The issues, the one seen last first.
    """
    return await page(request, "errors/page.html", issues=await read(store_of(request).issues))


async def issues_json(request: Request) -> Response:
    """
    The issues, the one seen last first.
    """
    return twin(await read(store_of(request).issues))


async def _found(request: Request) -> tuple[Issue | None, list[Occurrence]]:
    store = store_of(request)
    issue_id = request.path_params["issue_id"]
    session_id = request.query_params.get("session") or None
    found = await read(store.issue, issue_id)
    if found is None:
        return None, []
    return found, await read(store.occurrences, issue_id, session_id=session_id)


async def issue(request: Request) -> Response:
    """
    One issue and its latest exceptions, or those of the session ``session=``.
    """
    found, occurrences = await _found(request)
    if found is None:
        return await not_found(request, "This issue is not there, or no longer.")
    sessions = {each.session_id for each in occurrences if each.session_id}
    return await page(
        request,
        "errors/issue.html",
        issue=found,
        occurrences=occurrences,
        session_id=request.query_params.get("session", ""),
        recorded=await read(store_of(request).recorded, sessions),
        links=links,
    )


async def issue_json(request: Request) -> Response:
    """
    One issue and its latest exceptions.
    """
    found, occurrences = await _found(request)
    if found is None:
        return await not_found(request, "no such issue")
    return twin({"issue": found, "occurrences": occurrences})


ROUTES = [
    Route("/errors", issues),
    Route("/errors.json", issues_json),
    Route("/errors/{issue_id}.json", issue_json),
    Route("/errors/{issue_id}", issue),
]
