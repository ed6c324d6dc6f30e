"""
The viewer as one Starlette app: its routes, and what stands around them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from replaylink.viewer import pages
from replaylink.viewer.ingest import endpoints as ingest
from replaylink.viewer.pages.rendering import not_found
from replaylink.viewer.pages.replays import replay
from replaylink.viewer.security import PAGE_HEADERS, SecurityMiddleware
from replaylink.viewer.store import Store

_ERROR_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<h1>{title}</h1>
<p>{detail}</p>
<p><a href="/logs">To the logs</a></p>
</html>
"""


def create_app(
    store: Store,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    allow_origins: Iterable[str] = (),
) -> Starlette:
    """
    Return the viewer as an app.

    Args:
        store: What it shows, and where it keeps what comes. It is the caller's to close.
        host: The name or address that it is served on.
        token: What reading needs, if anything.
        allow_origins: Origins beside this machine's own whose pages may send, or ``*``.
    """
    # The pages come first: their /static/own/ would be posthog-js's /static/<version>/ too.
    routes = [*pages.ROUTES, *ingest.ROUTES]

    def is_ingestion(scope: Scope) -> bool:
        found = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
        return next(found, None) in ingest.ROUTES

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                SecurityMiddleware,
                is_ingestion=is_ingestion,
                player=replay,
                host=host,
                token=token,
                allow_origins=allow_origins,
            ),
        ],
        exception_handlers={HTTPException: error_page, Exception: error_page},
    )
    app.state.store = store
    return app


async def error_page(request: Request, exc: Exception) -> Response:
    """
    Answer with what is wrong, as JSON where JSON was asked for.
    """
    if isinstance(exc, HTTPException):
        status, detail, headers = exc.status_code, exc.detail, exc.headers
    else:
        # It is answered outside of all middleware.
        status, detail, headers = 500, "The terminal of the viewer tells why.", PAGE_HEADERS
    if request.url.path.endswith(".json"):
        return JSONResponse({"error": detail}, status, headers)
    # No route has taken it; those that did, such as an SDK's, are not read by people.
    if status == 404 and "endpoint" not in request.scope:
        return await not_found(request, "There is no page at this address.", once=False)
    title = HTTPStatus(status).phrase
    page = _ERROR_PAGE.format(title=title, detail=html.escape(detail))
    return HTMLResponse(page, status, headers)
