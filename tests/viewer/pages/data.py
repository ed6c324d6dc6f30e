"""
What the tests put into the viewer: lines, exceptions and page views of a small shop.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from replaylink.viewer.records import Event, LogRecord

SESSION: Final = "01993cb4-6f80-7c1e-9d6a-2f1b8a7c5e90"
UNRECORDED: Final = "01993cb4-6f80-7c1e-9d6a-000000000000"
USER: Final = "user-1815"

HOSTILE: Final = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</textarea></pre></script><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "https://example.com/'\"><script>alert(1)</script>",
    "paid \u202edetacilpud",
    "nothing\x00 \x1b[31mred\r",
    "a\ud7ff\ufeff\u200b<b>bold</b>",
)
"""Texts that would do something, were they not escaped."""


def line(
    body: str,
    time_us: int,
    *,
    severity: str = "info",
    service: str = "shop",
    scope: str = "shop.api",
    session: str = "",
    user: str = "",
    **attributes: Any,
) -> LogRecord:
    """Return a log record."""
    if session:
        attributes["sessionId"] = session
    if user:
        attributes["posthogDistinctId"] = user
    resource = {"service.name": service, "host.name": "box"}
    return LogRecord(time_us, severity, body, attributes, resource, scope)


def exception(
    name: str,
    message: str,
    time_us: int,
    *,
    session: str = SESSION,
    user: str = USER,
    window: str = "",
    library: str = "posthog-python",
) -> Event:
    """Return a captured exception with a stack trace, as posthog-python sends it."""
    return Event(
        uuid=str(uuid.uuid4()),
        name="$exception",
        time_us=time_us,
        distinct_id=user,
        session_id=session,
        window_id=window,
        properties={
            "$lib": library,
            "$session_id": session,
            "$current_url": "http://shop.test/cart?card=4111",
            "$exception_list": [
                {
                    "type": name,
                    "value": message,
                    "mechanism": {"handled": False},
                    "stacktrace": {
                        "type": "raw",
                        "frames": [
                            {
                                "platform": "python",
                                "filename": "starlette/routing.py",
                                "function": "app",
                                "lineno": 73,
                                "in_app": False,
                            },
                            {
                                "platform": "python",
                                "filename": "shop/cart.py",
                                "function": "pay",
                                "lineno": 12,
                                "in_app": True,
                                "pre_context": ["def pay(cart):", "    total = sum(cart)"],
                                "context_line": "    charge(card, total)",
                                "post_context": ["    return total"],
                            },
                        ],
                    },
                }
            ],
        },
    )


def page_view(time_us: int, *, session: str = SESSION, window: str = "") -> Event:
    """Return a page view."""
    return Event(
        uuid=str(uuid.uuid4()),
        name="$pageview",
        time_us=time_us,
        distinct_id=USER,
        session_id=session,
        window_id=window,
        properties={"$lib": "web", "$current_url": "http://shop.test/cart"},
    )
