"""
What the tests of the frameworks share: the IDs, the lines, a client in the same context.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import httpx
import structlog

from tests.conftest import Lines

SESSION_ID = "01995b3e-7c1f-7a53-9b1d-4f8f2f7a6c01"
USER_ID = "42"
SESSION_HEADER = "X-PostHog-Session-ID"
HEADERS = {SESSION_HEADER: SESSION_ID}

Told = list[tuple[str, str, str]]

log = structlog.get_logger()


def told(lines: Lines) -> Told:
    """
    Return the event, the session ID and the user ID of each line, ``-`` for a missing key.
    """
    return [
        (line["event"], line.get("sessionId", "-"), line.get("posthogDistinctId", "-"))
        for line in lines
    ]


def both(*events: str) -> Told:
    """
    Return what `told` gives for lines that carry both IDs.
    """
    return [(event, SESSION_ID, USER_ID) for event in events]


def session_only(*events: str) -> Told:
    """
    Return what `told` gives for lines that carry the session ID alone.
    """
    return [(event, SESSION_ID, "-") for event in events]


def neither(*events: str) -> Told:
    """
    Return what `told` gives for lines that carry no ID.
    """
    return [(event, "-", "-") for event in events]


def posthog_cookies(session_id: str = SESSION_ID) -> dict[str, str]:
    """
    Return the cookies of a browser in which posthog-js is active right now.
    """
    now = round(time.time() * 1000)
    state = {"distinct_id": "visitor", "$sesid": [now, session_id, now - 1000]}
    return {"ph_phc_test_posthog": quote(json.dumps(state))}


def same_context_client(app: Any) -> httpx.AsyncClient:
    """
    Return a client that runs all requests in one context: what one leaves, the next finds.
    """
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app.test")
