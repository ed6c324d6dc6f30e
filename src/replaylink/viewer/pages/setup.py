"""
The first run: how to send something here.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from replaylink.viewer.pages.rendering import page, read, store_of, twin

TOKEN = "phc_local"  # noqa: S105
"""Any project token is accepted; this one says whose it is."""


def _address(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def index(request: Request) -> Response:
    """
    Where a visit begins: the logs, or the set-up while there are none.
    """
    empty = await read(store_of(request).is_empty)
    return RedirectResponse("/setup" if empty else "/logs", 307)


async def setup(request: Request) -> Response:
    """
    The set-up, with the viewer's own address.
    """
    empty = await read(store_of(request).is_empty)
    return await page(request, "setup.html", address=_address(request), token=TOKEN, empty=empty)


async def setup_json(request: Request) -> Response:
    """
    Whether something has come, and where to send it.
    """
    empty = await read(store_of(request).is_empty)
    return twin({"empty": empty, "host": _address(request), "token": TOKEN})


ROUTES = [Route("/", index), Route("/setup", setup), Route("/setup.json", setup_json)]
