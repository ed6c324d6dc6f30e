from __future__ import annotations

import pytest

from replaylink.viewer.pages.linkage import advice
from replaylink.viewer.store.results import Share, Unlinked

SERVICES = [Share("shop", 10, 5), Share("worker", 10, 0)]
LOGGERS = [Share("shop: uvicorn.access", 10, 5), Share("shop: gunicorn.access", 10, 0)]


@pytest.mark.parametrize(
    ("service", "logger", "message", "expected"),
    [
        ("shop", "uvicorn.error", "Application startup complete.", "nothing is missing"),
        ("shop", "gunicorn.access", "GET / 200", "install()"),
        ("shop", "hypercorn.access", "GET / 200", "install()"),
        ("shop", "uvicorn.access", "GET / 200", "before the page has a session"),
        ("worker", "uvicorn.access", "GET / 200", "install()"),
        ("worker", "shop.api", "hello", "No line of this service is linked"),
        ("shop", "celery.app.trace", "task done", "linked(session_id="),
        ("shop", "shop.api", "hello", "carry()"),
        ("unknown", "", "hello", "carry()"),
    ],
)
def test_advice(service: str, logger: str, message: str, expected: str) -> None:
    """What to do about unlinked lines depends on who wrote them."""
    assert expected in advice(Unlinked(service, logger, message, 1, "1"), SERVICES, LOGGERS)
