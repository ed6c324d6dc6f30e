"""
The apps of the matrix: FastAPI and Flask, set up as the README tells, log each row.

A line's event is the row that it stands for, and `n` the number of its request. Lines go
to stdout, as `configure_logging` writes them; the servers' own lines do too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import flask
import structlog
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from posthog import Posthog
from starlette.background import BackgroundTask

from replaylink import carry
from replaylink._types import ASGIApp, Environ, Receive, Scope, Send
from replaylink.access import ASGIAccessLog, WSGIAccessLog
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.otel import configure_logging
from replaylink.sources import header
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.servers.common import BACKGROUND_S, fail, live, number_in

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

USER_ID: Final = header("X-User")

configure_logging(service_name="matrix")
log = structlog.get_logger()
library = logging.getLogger("library")
pool = ThreadPoolExecutor(2)


def tell(event: dict[str, Any]) -> None:
    """
    Write what PostHog's SDK would send, and let it send nothing.
    """
    properties = event["properties"]
    line = {
        "event": "exception captured by PostHog",
        "n": properties["n"],
        "sessionId": properties.get("$session_id"),
        # Without a user the SDK makes an ID up.
        "posthogDistinctId": None
        if properties.get("$process_person_profile") is False
        else event["distinct_id"],
    }
    # In one write, and past the handler, which would add what it knows.
    os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


posthog = Posthog("phc_test", before_send=tell, sync_mode=True)


def capture(error: Exception, number: int) -> None:
    posthog.capture_exception(error, properties={"n": number})


# --- ASGI ---------------------------------------------------------------------------


async def async_dependency(n: int) -> None:
    log.info("dependency, async", n=n)


def sync_dependency(n: int) -> None:
    log.info("dependency, sync", n=n)


app = FastAPI()


@app.get("/async/request-{n}", dependencies=[Depends(async_dependency), Depends(sync_dependency)])
async def async_endpoint(n: int) -> StreamingResponse:
    log.info("endpoint, async", n=n)
    library.info("standard-library line", extra={"n": n})
    run_in_executor = asyncio.get_running_loop().run_in_executor
    await asyncio.to_thread(log.info, "thread by `to_thread`", n=n)
    await run_in_executor(pool, say, "thread by a bare executor", n)
    await run_in_executor(pool, carry(say), "thread by an executor with `carry()`", n)
    task = asyncio.create_task(later(n))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return StreamingResponse(
        chunks("streamed chunk", n), background=BackgroundTask(say, "background task", n)
    )


tasks: set[asyncio.Task[None]] = set()


def say(event: str, n: int) -> None:
    log.info(event, n=n)


async def later(n: int) -> None:
    await asyncio.sleep(BACKGROUND_S)
    log.info("task created by the endpoint", n=n)


async def chunks(event: str, n: int) -> AsyncIterator[str]:
    for _ in range(2):
        log.info(event, n=n)
        yield "data: x\n\n"
        await asyncio.sleep(0)


@app.post("/upload/request-{n}")
async def upload(request: Request, n: int) -> dict[str, int]:
    size = len(await request.body())
    log.info("endpoint, async", n=n)
    return {"size": size}


@app.get("/sync/request-{n}")
def sync_endpoint(n: int) -> dict[str, bool]:
    log.info("endpoint, sync", n=n)
    return {"ok": True}


@app.get("/events/request-{n}")
async def events(n: int) -> StreamingResponse:
    return StreamingResponse(chunks("server-sent event", n), media_type="text/event-stream")


@app.websocket("/websocket/request-{n}")
async def websocket(connection: WebSocket, n: int) -> None:
    await connection.accept()
    for _ in range(2):
        await connection.receive_text()
        log.info("WebSocket message", n=n)
        await connection.send_text("ok")
    await connection.close()


@app.get("/handled/request-{n}")
async def handled(n: int) -> None:
    raise KeyError(n)


@app.exception_handler(KeyError)
async def handle(request: Request, error: KeyError) -> JSONResponse:
    log.info("error handler", n=error.args[0])
    capture(error, error.args[0])
    return JSONResponse({"ok": False}, 500)


@app.get("/failing/request-{n}")
async def failing(n: int) -> None:
    fail(n)


@app.exception_handler(Exception)
async def handle_all(request: Request, error: Exception) -> JSONResponse:
    number = number_in(request.url.path)
    log.info("handler for `Exception`", n=number)
    capture(error, number)
    return JSONResponse({"ok": False}, 500)


class Around:
    """
    Middleware around ours.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        number = number_in(scope["path"])
        log.info("middleware around, before and after", n=number)
        try:
            await self.app(scope, receive, send)
        except Exception:
            log.info("unhandled error, in middleware around", n=number)
            raise
        log.info("middleware around, before and after", n=number)


app.add_middleware(ASGIAccessLog)
app.add_middleware(ASGIMiddleware, user_id=USER_ID, share="posthog")
app.add_middleware(Around)


async def bare_app(scope: Scope, receive: Receive, send: Send) -> None:
    fail(number_in(scope["path"]))


bare = Around(ASGIMiddleware(ASGIAccessLog(bare_app), user_id=USER_ID))


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    else:
        await (bare if scope["path"].startswith("/bare/") else app)(scope, receive, send)


# --- WSGI ---------------------------------------------------------------------------

flask_app = flask.Flask("matrix")


@flask_app.before_request
async def async_before() -> None:
    if flask.request.endpoint == "async_view":
        log.info("dependency, async", n=number_in(flask.request.path))


@flask_app.before_request
def sync_before() -> None:
    if flask.request.endpoint == "async_view":
        log.info("dependency, sync", n=number_in(flask.request.path))


@flask_app.get("/async/request-<int:n>")
async def async_view(n: int) -> flask.Response:
    log.info("endpoint, async", n=n)
    library.info("standard-library line", extra={"n": n})
    await asyncio.to_thread(log.info, "thread by `to_thread`", n=n)
    pool.submit(say, "thread by a bare executor", n).result()
    pool.submit(carry(say), "thread by an executor with `carry()`", n).result()
    response = flask.Response(parts("streamed chunk", n))
    response.call_on_close(lambda: say("background task", n))
    return response


def parts(event: str, n: int) -> Iterator[str]:
    for _ in range(2):
        log.info(event, n=n)
        yield "data: x\n\n"


@flask_app.post("/upload/request-<int:n>")
async def upload_view(n: int) -> dict[str, int]:
    size = len(flask.request.get_data())
    log.info("endpoint, async", n=n)
    return {"size": size}


@flask_app.get("/sync/request-<int:n>")
def sync_view(n: int) -> dict[str, bool]:
    log.info("endpoint, sync", n=n)
    return {"ok": True}


@flask_app.get("/events/request-<int:n>")
def events_view(n: int) -> flask.Response:
    return flask.Response(parts("server-sent event", n), mimetype="text/event-stream")


@flask_app.get("/handled/request-<int:n>")
def handled_view(n: int) -> str:
    raise KeyError(n)


@flask_app.errorhandler(KeyError)
def handle_in_flask(error: KeyError) -> tuple[str, int]:
    log.info("error handler", n=error.args[0])
    capture(error, error.args[0])
    return "failed", 500


@flask_app.get("/failing/request-<int:n>")
def failing_view(n: int) -> str:
    fail(n)


@flask_app.errorhandler(500)
def handle_all_in_flask(error: Any) -> tuple[str, int]:
    number = number_in(flask.request.path)
    log.info("handler for `Exception`", n=number)
    capture(error.original_exception, number)
    return "failed", 500


def around(app: WSGIApplication) -> WSGIApplication:
    """
    Middleware around ours.
    """

    def call(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        number = number_in(environ["PATH_INFO"])
        log.info("middleware around, before and after", n=number)
        try:
            return app(environ, start_response)
        except Exception:
            log.info("unhandled error, in middleware around", n=number)
            raise

    return call


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"].startswith("/bare/"):
        fail(number_in(environ["PATH_INFO"]))
    return flask_app(environ, start_response)


wsgi = around(WSGIMiddleware(WSGIAccessLog(wsgi_app), user_id=USER_ID, share="posthog"))
