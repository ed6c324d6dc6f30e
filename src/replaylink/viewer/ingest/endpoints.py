"""
The addresses that posthog-js, PostHog's SDKs and OTLP exporters send to.

All that is decided about a payload is decided in the other modules. Here it is read, within
bounds, and 200 is answered once the store has it on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from replaylink.viewer import limits
from replaylink.viewer.records import Batch
from replaylink.viewer.store import Store, StoreError

from .bodies import Bodies, is_light
from .errors import RETRY_AFTER_S, BadPayload, Refusal, check_token
from .events import Captured, decode_events
from .otlp import decode_logs
from .refusals import LimitedLog
from .remote_config import FLAGS, REMOTE_CONFIG, config_script

POSTHOG_JS_DIRECTORY: Final = Path(__file__).parent.parent / "static/vendor/posthog-js"
"""Where the scripts of posthog-js lie."""

POSTHOG_JS_FILES: Final = frozenset(
    {
        "array.js",
        "array.full.no-external.js",
        "exception-autocapture.js",
        "lazy-recorder.js",
        "posthog-recorder.js",
        "recorder.js",
        "tracing-headers.js",
    }
)
"""What is served of posthog-js: the script for a page, and what that or an older one loads."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERSION: Final = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")
_bodies: Final = Bodies()
_log: Final = LimitedLog()

Decode = Callable[[bytes, int], Captured]
"""Makes records of a body that came at a time, in microseconds since the epoch."""

_JSON_STARTS: Final = (b"{", b"[")
# The only field of a request in protobuf, or JSON.
_LOGS_STARTS: Final = (b"\x0a", b"{")


class _Intake(NamedTuple):
    """
    How bodies of a kind are taken in.
    """

    max_bytes: int
    """The largest body, as it comes."""
    starts: tuple[bytes, ...]
    """How a body begins that is not compressed."""
    answer: Callable[[Captured], Any]
    """Makes the answer to what was kept, as JSON."""
    decoder: ThreadPoolExecutor
    """
    Decodes what is not light. It is one thread: two would do no more, as Python runs one at a
    time, and keep the store's thread waiting. Logs have their own, which no recording holds up.
    """


def _results(captured: Captured) -> Any:
    """
    Tell what became of each event, as PostHog does at its newer address.
    """
    kept = [each.uuid for each in captured.batch.events]
    kept += [each.uuid for each in captured.batch.snapshots]
    dropped = {
        uuid: {"result": "drop", "details": reason} for uuid, reason in captured.refused.items()
    }
    return {"results": {**dropped, **{uuid: {"result": "ok"} for uuid in kept}}}


_LOGS: Final = _Intake(
    limits.MAX_LOGS_BYTES,
    _LOGS_STARTS,
    lambda captured: {},
    ThreadPoolExecutor(1, "replaylink-logs"),
)
_EVENTS: Final = _Intake(
    limits.MAX_BODY_BYTES,
    _JSON_STARTS,
    lambda captured: {"status": 1},
    ThreadPoolExecutor(1, "replaylink-events"),
)
_ANALYTICS: Final = _EVENTS._replace(answer=_results)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )


def _check_tokens(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        check_token(token.strip())
    for name in ("token", "api_key"):
        check_token(request.query_params.get(name, ""))


async def _take(request: Request, intake: _Intake, decode: Decode) -> Response:
    """
    Read, decode and store what a request brings, and only then say so.
    """
    path = request.url.path
    store: Store = request.app.state.store

    def decode_and_prepare(body: bytes, now_us: int) -> Captured:
        captured = decode(body, now_us)
        store.prepare(captured.batch)
        return captured

    try:
        _check_tokens(request)
        async with _bodies.reading(request, intake.max_bytes) as body:
            now_us = time.time_ns() // 1000
            if is_light(body, intake.starts):
                captured = decode(body, now_us)
            else:
                loop = asyncio.get_running_loop()
                captured = await loop.run_in_executor(
                    intake.decoder, decode_and_prepare, body, now_us
                )
            return await _store(request, captured, intake)
    except ClientDisconnect:
        _log.log(logging.WARNING, "%s: the client went before the end of its request", path)
        return Response(status_code=BadPayload.status)
    except Refusal as refusal:
        _log.log(logging.WARNING, "%s: refused with %d: %s", path, refusal.status, refusal)
        return _json({"error": str(refusal)}, refusal.status, refusal.headers)
    except StoreError as exc:
        return _store_failed(path, exc)


async def _store(request: Request, captured: Captured, intake: _Intake) -> Response:
    path = request.url.path
    if captured.left_out:
        _log.log(
            logging.WARNING,
            "%s: %d events were left out: %s",
            path,
            captured.left_out,
            captured.reason,
        )
    store: Store = request.app.state.store
    try:
        await store.write(captured.batch)
    # Whatever it is, the client must keep what it sent and come again.
    except Exception as exc:
        return _store_failed(path, exc)
    return _json(intake.answer(captured))


def _store_failed(path: str, exc: Exception) -> Response:
    _log.log(logging.ERROR, "%s: the store failed", path, exc_info=exc)
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return _json({"error": "the store failed; try again"}, 503, headers)


async def take_logs(request: Request) -> Response:
    """
    Take log records in OTLP.
    """

    def decode(body: bytes, now_us: int) -> Captured:
        return Captured(Batch(logs=decode_logs(body, now_us)))

    return await _take(request, _LOGS, decode)


async def take_events(request: Request) -> Response:
    """
    Take events.
    """
    return await _take_events(request, limits.MAX_EVENTS_BYTES)


async def take_recordings(request: Request) -> Response:
    """
    Take pieces of recordings.
    """
    return await _take_events(request, limits.MAX_RECORDING_BYTES)


async def take_analytics(request: Request) -> Response:
    """
    Take events at PostHog's newer address, which SDKs use when they are told to.
    """
    decode = partial(
        decode_events,
        sent_at=request.headers.get("posthog-request-timestamp"),
        sdk=request.headers.get("posthog-sdk-info", ""),
    )
    return await _take(request, _ANALYTICS, decode)


async def _take_events(request: Request, limit: int) -> Response:
    sent_at = request.query_params.get("sent_at", "")
    decode = partial(
        decode_events,
        limit=limit,
        # posthog-js writes milliseconds into its addresses.
        sent_at=int(sent_at) if _is_number(sent_at) else sent_at,
    )
    return await _take(request, _EVENTS, decode)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


async def feature_flags(request: Request) -> Response:
    """
    Tell that there are no feature flags.
    """
    return _json(FLAGS)


async def remote_config(request: Request) -> Response:
    """
    Tell posthog-js which parts of it are on.
    """
    return _json(REMOTE_CONFIG, headers={"Cache-Control": "no-store"})


async def remote_config_script(request: Request) -> Response:
    """
    Tell posthog-js which parts of it are on, by a script.
    """
    token = request.path_params["token"]
    if not _TOKEN.fullmatch(token):
        raise HTTPException(404)
    headers = {"Cache-Control": "no-store"}
    return Response(config_script(token), headers=headers, media_type="text/javascript")


async def posthog_js(request: Request) -> Response:
    """
    Serve a script of posthog-js, by its plain address or by the one with a version.
    """
    name = request.path_params["name"]
    version = request.path_params.get("version", "0")
    if name not in POSTHOG_JS_FILES or not _VERSION.fullmatch(version):
        raise HTTPException(404)
    files = StaticFiles(directory=POSTHOG_JS_DIRECTORY, check_dir=False)
    response = await files.get_response(name, request.scope)
    response.headers["Content-Type"] = "text/javascript; charset=utf-8"
    # The file may be of another version than the address: it is asked for each time, and
    # sent only if it is another one.
    response.headers["Cache-Control"] = "no-cache"
    return response


async def _options(request: Request) -> Response:
    return Response(status_code=204, headers={"Allow": "POST, OPTIONS"})


def _post(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    """
    Return the routes of an address, with and without a slash at its end.
    """
    return [
        route
        for spelling in (path, path + "/")
        for route in (
            Route(spelling, endpoint, methods=["POST"]),
            Route(spelling, _options, methods=["OPTIONS"]),
        )
    ]


ROUTES: Final[list[BaseRoute]] = [
    *_post("/i/v1/logs", take_logs),
    *_post("/v1/logs", take_logs),
    *_post("/e", take_events),
    *_post("/i/v0/e", take_events),
    *_post("/batch", take_events),
    *_post("/i/v1/analytics/events", take_analytics),
    *_post("/s", take_recordings),
    *_post("/flags", feature_flags),
    *_post("/decide", feature_flags),
    Route("/array/{token}/config", remote_config),
    Route("/array/{token}/config.js", remote_config_script),
    Route("/static/{name}", posthog_js),
    Route("/static/{version}/{name}", posthog_js),
]
"""
All addresses for SDKs. They stand after those of the viewer's own assets, for ``/static`` is
posthog-js's.
"""
