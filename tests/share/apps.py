"""
The apps that real servers run: they capture events, and log their access lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from wsgiref.util import FileWrapper

import structlog
from posthog import Posthog
from posthog.integrations.asgi import PosthogASGIMiddleware

from replaylink import identify
from replaylink._types import ASGIApp, Environ, Receive, Scope, Send
from replaylink.access import ASGIAccessLog, WSGIAccessLog
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.processors import add_identity
from replaylink.share import ASGIShare, WSGIShare
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

POSTHOG: Final = "REPLAYLINK_TEST_POSTHOG"
"""The environment variable with the address to send events to."""

posthog = Posthog("phc_test", host=os.environ[POSTHOG], sync_mode=True)

_file = os.open(os.environ["REPLAYLINK_TEST_LINES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write_line(logger: object, name: str, line: MutableMapping[str, Any]) -> str:
    number = int(line["path"].rpartition("-")[2])
    os.write(_file, json.dumps({**line, "level": name, "n": number}).encode() + b"\n")
    raise structlog.DropEvent


structlog.configure(
    processors=[structlog.contextvars.merge_contextvars, add_identity, write_line],
    cache_logger_on_first_use=True,
)


def capture(event: str, path: str) -> None:
    posthog.capture(event, properties={"path": path})


def say_who(path: str) -> None:
    identify(f"user{path.partition('-')[2]}")


def fail() -> None:
    raise LookupError


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    capture("view", path)
    while (await receive()).get("more_body", False):
        pass
    say_who(path)
    if path.startswith("/fail"):
        fail()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a" * 10, "more_body": True})
    capture("late", path)
    await send({"type": "http.response.body", "body": b"b" * 5})


async def live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def asgi_around(app: ASGIApp) -> ASGIApp:
    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        capture("around", scope["path"])
        try:
            await app(scope, receive, send)
        except LookupError as exc:
            posthog.capture_exception(exc, properties={"path": scope["path"]})
            raise

    return around


def asgi_ours(app: ASGIApp) -> ASGIApp:
    return asgi_around(ASGIMiddleware(ASGIAccessLog(ASGIShare(app, share="posthog"))))


untyped: Any = asgi_app  # PostHog has types of its own for ASGI

asgi: Final = asgi_ours(asgi_app)
both: Final = asgi_ours(
    PosthogASGIMiddleware(untyped, client=posthog, capture_tracing_headers=False)
)
theirs: Final = asgi_around(PosthogASGIMiddleware(untyped, client=posthog))


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    capture("view", path)
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    say_who(path)
    if path.startswith("/fail"):
        fail()
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path.startswith("/file"):
        wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
        return wrapper(open(__file__, "rb"))  # type: ignore[no-any-return]
    return parts(path)


def parts(path: str) -> Iterator[bytes]:
    yield b"a" * 10
    capture("late", path)
    yield b"b" * 5


def wsgi_around(app: WSGIApplication) -> WSGIApplication:
    def around(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        capture("around", path)
        try:
            return app(environ, start_response)
        except LookupError as exc:
            posthog.capture_exception(exc, properties={"path": path})
            raise

    return around


wsgi: Final = wsgi_around(WSGIMiddleware(WSGIAccessLog(WSGIShare(wsgi_app, share="posthog"))))
