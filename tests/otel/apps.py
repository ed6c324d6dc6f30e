"""
The apps that the servers run: each request logs in all the ways that there are.

Lines carry the number of their request. `POSTHOG_HOST` and `POSTHOG_PROJECT_TOKEN` tell
where they go.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Annotated

import structlog
from fastapi import BackgroundTasks, Depends, FastAPI
from flask import Flask, Response

from replaylink import asgi, identify, wsgi
from replaylink.otel import configure_logging

log = structlog.get_logger()
library = logging.getLogger("library")

configure_logging(service_name="shop")
log.info("import", pid=os.getpid())

EVENTS = ("start", "library", "identified", "chunk", "failed")
"""What each request logs, once."""


def work(n: int) -> None:
    log.info("start", n=n, pid=os.getpid())
    library.info("library", extra={"n": n})
    try:
        raise LookupError(n)
    except LookupError:
        log.exception("failed", n=n)


def who(n: int) -> int:
    """A dependency that is not async: FastAPI runs it in a thread."""
    identify(f"user-{n}")
    log.info("identified", n=n)
    return n


fastapi_app = FastAPI()


@fastapi_app.get("/orders/{n}")
async def work_in_fastapi(n: Annotated[int, Depends(who)], later: BackgroundTasks) -> str:
    work(n)
    later.add_task(log.info, "chunk", n=n)
    return "done"


@fastapi_app.get("/fail/{n}")
async def fail_in_fastapi(n: Annotated[int, Depends(who)]) -> None:
    raise RuntimeError(n)


flask_app = Flask(__name__)


@flask_app.get("/orders/<int:n>")
def work_in_flask(n: int) -> Response:
    who(n)
    work(n)

    def chunks() -> Iterator[str]:
        log.info("chunk", n=n)
        yield "done"

    return Response(chunks())


@flask_app.get("/fail/<int:n>")
def fail_in_flask(n: int) -> Response:
    who(n)
    raise RuntimeError(n)


asgi_app = asgi.ReplayLinkMiddleware(fastapi_app)
wsgi_app = wsgi.ReplayLinkMiddleware(flask_app)
