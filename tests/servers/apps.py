"""
The apps that the servers run: an ASGI app and a WSGI app that follow a `Plan`.

Each line goes to a file as JSON, with the number of its request. `naive` is what a
middleware looks like that does not know what servers do to contexts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import structlog

from replaylink import asgi as replaylink_asgi
from replaylink import current_identity, identify
from replaylink import wsgi as replaylink_wsgi
from replaylink._types import ASGIApp, Environ, Receive, Scope, Send
from replaylink.auth import authenticated_user
from replaylink.processors import add_identity
from replaylink.sources import header
from tests.servers.common import BACKGROUND_S, fail, live, number_in
from tests.servers.plan import NUMBER, Steps

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

LINES: Final = "REPLAYLINK_TEST_LINES"
"""The environment variable that names the file."""

USER_ID: Final = (authenticated_user(), header("X-User"))

_file = os.open(os.environ[LINES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(line: MutableMapping[str, Any]) -> None:
    # One write for each line: threads and processes share the file.
    os.write(_file, json.dumps({**line, "thread_id": threading.get_ident()}).encode() + b"\n")


def remember_stock(logger: object, name: str, line: MutableMapping[str, Any]) -> Any:
    """
    Note what merge_contextvars alone would show.
    """
    line["stock"] = (line.get("sessionId"), line.get("posthogDistinctId"))
    return line


def write_line(logger: object, name: str, line: MutableMapping[str, Any]) -> str:
    write(line)
    raise structlog.DropEvent


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        remember_stock,
        add_identity,
        write_line,
    ],
    cache_logger_on_first_use=True,
)
logger = structlog.get_logger()


class ServerLine(logging.LogRecord):
    """
    A line of the server's own: notes the identity in whose context it is logged.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        message = self.getMessage()
        error = self.exc_info[1] if self.exc_info else None
        number = NUMBER.search(f"{message} {error!r}")
        identity = current_identity()
        line = {
            "event": "server",
            "logger": self.name,
            "message": message,
            "n": int(number[1]) if number else None,
            "sessionId": identity.session_id,
            "posthogDistinctId": identity.user_id,
        }
        write({key: value for key, value in line.items() if value is not None})


logging.setLogRecordFactory(ServerLine)
logging.getLogger().setLevel(logging.INFO)


def say_who(number: int) -> None:
    identify(f"user-{number}")


# --- ASGI ---------------------------------------------------------------------------


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    number = number_in(scope["path"])
    log = logger.bind(n=number)
    steps = Steps.parse(scope["query_string"].decode())
    log.info("start")
    if steps.read:
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        log.info("read", size=size)
    if steps.identify:
        await asyncio.to_thread(say_who, number)
        log.info("identify")
    if steps.thread:
        await asyncio.to_thread(log.info, "thread")
    if steps.background:
        task = asyncio.create_task(later(log))
        background.add(task)
        task.add_done_callback(background.discard)
    if steps.fails in ("early", "knotted"):
        fail(number, knotted=steps.fails == "knotted")

    log.info("respond")
    content = b"done"
    headers = [(b"content-type", b"text/plain")]
    if not steps.chunks:
        headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(steps.chunks):
        log.info("chunk")
        chunk = b"x" * steps.chunk_bytes
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(0)
    if steps.fails == "late":
        fail(number)
    await send({"type": "http.response.body", "body": content})
    await asyncio.sleep(0)
    log.info("after")


background: set[asyncio.Task[None]] = set()


async def later(log: Any) -> None:
    await asyncio.sleep(BACKGROUND_S)
    log.info("background")


def asgi_around(app: ASGIApp) -> ASGIApp:
    """
    A layer around the middleware, which logs before the request is entered.
    """

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        log = logger.bind(n=number_in(scope["path"]))
        log.info("around")
        try:
            await app(scope, receive, send)
        except Exception:
            log.info("failed, around")
            raise

    return around


def naive(app: ASGIApp) -> ASGIApp:
    """
    A middleware that binds what it found, and resets that in a ``finally``.
    """

    async def bind(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        found = {
            key: value.decode()
            for key, wanted in NAIVE_HEADERS.items()
            for name, value in scope["headers"]
            if name == wanted
        }
        tokens = structlog.contextvars.bind_contextvars(**found)
        try:
            await app(scope, receive, send)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)

    return bind


NAIVE_HEADERS: Final = {"sessionId": b"x-posthog-session-id", "posthogDistinctId": b"x-user"}


# --- WSGI ---------------------------------------------------------------------------


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    number = number_in(environ["PATH_INFO"])
    log = logger.bind(n=number)
    steps = Steps.parse(environ["QUERY_STRING"])
    log.info("start")
    if steps.read:
        length = environ.get("CONTENT_LENGTH")
        if length or environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read(*([int(length)] if length else []))
        else:
            body = b""
        log.info("read", size=len(body))
    if steps.identify:
        in_thread(say_who, number).join()
        log.info("identify")
    if steps.thread:
        in_thread(log.info, "thread").join()
    if steps.background:
        in_thread(much_later, log)
    if steps.fails in ("early", "knotted"):
        fail(number, knotted=steps.fails == "knotted")

    log.info("respond")
    if steps.chunks:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Chunks(number, steps)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"done"]


def in_thread(call: Callable[..., Any], *args: Any) -> threading.Thread:
    """
    Start *call* in a thread, with a copy of the context.
    """
    thread = threading.Thread(target=copy_context().run, args=(call, *args))
    thread.start()
    return thread


def much_later(log: Any) -> None:
    time.sleep(BACKGROUND_S)
    log.info("background")


class Chunks:
    """
    A streamed response.
    """

    def __init__(self, number: int, steps: Steps) -> None:
        self._number = number
        self._steps = steps
        self._log = logger.bind(n=number)

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._steps.chunks):
            self._log.info("chunk")
            yield b"x" * self._steps.chunk_bytes
        if self._steps.fails == "late":
            fail(self._number)

    def close(self) -> None:
        self._log.info("after")


def wsgi_around(app: WSGIApplication) -> WSGIApplication:
    """
    A layer around the middleware, which logs before the request is entered.
    """

    def around(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        log = logger.bind(n=number_in(environ["PATH_INFO"]))
        log.info("around")
        try:
            return app(environ, start_response)
        except Exception:
            log.info("failed, around")
            raise

    return around


asgi = asgi_around(replaylink_asgi.ReplayLinkMiddleware(asgi_app, user_id=USER_ID))
asgi_naive = asgi_around(naive(asgi_app))
wsgi = wsgi_around(replaylink_wsgi.ReplayLinkMiddleware(wsgi_app, user_id=USER_ID))
