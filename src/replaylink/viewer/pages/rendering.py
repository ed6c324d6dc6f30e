"""
Pages and their JSON twins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import jinja2
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from replaylink.viewer.limits import SHOWN_LENGTH
from replaylink.viewer.pages import text
from replaylink.viewer.store import Store

_P = ParamSpec("_P")
_T = TypeVar("_T")

NO_STORE = {"Cache-Control": "no-store"}
"""Logs are nobody else's business, and change all the time."""

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    visible=text.visible,
    one_line=text.one_line,
    linked_text=text.linked_text,
    as_text=text.as_text,
    pretty_json=text.pretty_json,
    duration=text.duration,
    size=text.size,
    segment=lambda value: quote(value, safe=""),
    thousands=lambda number: f"{number:,}",
)
_environment.globals.update(
    time=text.time_element,
    iso_time=text.iso_time,
    percent=text.percent,
    address=lambda path, **parameters: (
        f"{path}?{urlencode([(k, v) for k, v in parameters.items() if v not in (None, '')])}"
    ),
    SHOWN_LENGTH=SHOWN_LENGTH,
)
_environment.globals["ui"] = _environment.get_template("macros.html").module


def store_of(request: Request) -> Store:
    """
    Return the app's store.
    """
    store: Store = request.app.state.store
    return store


async def read(method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """
    Call a reading method of the store: they block, so it is done in a thread.
    """
    return await run_in_threadpool(method, *args, **kwargs)


async def page(
    request: Request, template: str, *, status: int = 200, csp: str = "", **context: Any
) -> Response:
    """
    Return a page, or a part of one.

    Args:
        request: The request, which the template has as ``request``.
        template: The name of its template.
        status: The status code.
        csp: The page's Content Security Policy, if it is not that of all pages.
        context: What else the template needs.
    """
    # In a thread, too: a page may be large, and what comes meanwhile is to be taken in.
    html = await run_in_threadpool(
        _environment.get_template(template).render, request=request, **context
    )
    headers = {**NO_STORE, "Content-Security-Policy": csp} if csp else NO_STORE
    return HTMLResponse(html, status, headers)


def twin(value: Any, *, status: int = 200) -> Response:
    """
    Return the JSON twin of a page.
    """
    return Response(msgspec.json.encode(value), status, NO_STORE, media_type="application/json")


async def not_found(request: Request, what: str, *, once: bool = True) -> Response:
    """
    Answer for what is not there, or no longer: a page, or JSON where that was asked for.

    Args:
        request: The request.
        what: What is missing, in a sentence.
        once: Whether it may have been there.
    """
    if request.url.path.endswith(".json"):
        return twin({"error": what}, status=404)
    return await page(request, "missing.html", status=404, what=what, once=once)
