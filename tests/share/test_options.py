"""What can be shared, and what is said when it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from replaylink import share
from replaylink.share import ASGIShare, WSGIShare, span_processor


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    caches: list[Any] = [share._posthog, share._otel, share._processor]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("middleware", [ASGIShare, WSGIShare])
@pytest.mark.parametrize(
    ("names", "module", "message"),
    [
        pytest.param(
            ["otel", "posthog"],
            "posthog.contexts",
            'share="posthog" needs posthog .*: pip install "replaylink[posthog]"',
            id="posthog",
        ),
        pytest.param(
            "otel",
            "opentelemetry.trace",
            'share="otel" needs OpenTelemetry: pip install "replaylink[otlp]"',
            id="otel",
        ),
    ],
)
def test_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
    middleware: Callable[..., Any],
    names: str | Iterable[str],
    module: str,
    message: str,
) -> None:
    """A library that is missing is named as the app starts, with the command for it."""
    pytest.importorskip("opentelemetry.trace")
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=message.replace("[", r"\[")):
        middleware(None, share=names)


def test_a_missing_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor needs the SDK, and says so."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ImportError, match=r'pip install "replaylink\[otlp\]"'):
        span_processor()


def test_a_posthog_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A posthog that keeps its context elsewhere is refused, not served without IDs."""
    contexts = pytest.importorskip("posthog.contexts")
    monkeypatch.setattr(contexts, "get_context_distinct_id", lambda: None)

    with pytest.raises(ImportError, match="needs posthog 6 or 7"):
        ASGIShare(None, share="posthog")


@pytest.mark.parametrize("middleware", [ASGIShare, WSGIShare])
@pytest.mark.parametrize("names", ["sentry", ["otel", "sentry"]])
def test_an_unknown_name(middleware: Callable[..., Any], names: str | list[str]) -> None:
    """A name that is not known is refused, with those that are."""
    pytest.importorskip("opentelemetry.trace")

    with pytest.raises(ValueError, match="must be of 'posthog', 'otel', one or several"):
        middleware(None, share=names)


def test_nothing_to_share() -> None:
    """An empty list shares nothing, and needs nothing."""
    assert [] == [*ASGIShare(None, share=[])._sinks]
