from __future__ import annotations

from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylink import replay_url
from replaylink.urls import LEAD_MS
from tests.helpers import SESSION

AT = datetime(2026, 10, 8, 12, 0, 0, 250_000, tzinfo=timezone.utc)
AT_MS = 1_791_460_800_250


def test_replay_url() -> None:
    """A session's replay opens at its start by default."""
    assert f"https://us.posthog.com/replay/{SESSION}" == replay_url(SESSION)


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(AT, id="utc"),
        pytest.param(AT.astimezone(timezone(timedelta(hours=-7))), id="time-zone"),
        pytest.param(AT.astimezone().replace(tzinfo=None), id="local-time"),
        pytest.param(AT_MS / 1000, id="seconds"),
    ],
)
def test_at(at: datetime | float) -> None:
    """It opens a little before the moment that is asked for."""
    actual = replay_url(SESSION, at=at)

    assert f"https://us.posthog.com/replay/{SESSION}?timestamp={AT_MS - LEAD_MS}" == actual


def test_lead() -> None:
    """The lead is that of PostHog's own button."""
    assert 5000 == LEAD_MS


def test_at_the_beginning_of_time() -> None:
    """A moment that has no earlier one is not made negative."""
    assert f"https://us.posthog.com/replay/{SESSION}?timestamp=0" == replay_url(SESSION, at=1)


@pytest.mark.parametrize("project", [12345, "12345"])
def test_project(project: str | int) -> None:
    """A project is named before the replay."""
    actual = replay_url(SESSION, project=project)

    assert f"https://us.posthog.com/project/12345/replay/{SESSION}" == actual


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("https://eu.posthog.com", "https://eu.posthog.com", id="eu"),
        pytest.param("https://eu.posthog.com/", "https://eu.posthog.com", id="slash"),
        pytest.param("https://us.i.posthog.com", "https://us.posthog.com", id="ingestion-us"),
        pytest.param("https://eu.i.posthog.com/", "https://eu.posthog.com", id="ingestion-eu"),
        pytest.param("http://127.0.0.1:8100", "http://127.0.0.1:8100", id="viewer"),
        pytest.param("https://example.com/ph/", "https://example.com/ph", id="path"),
    ],
)
def test_host(host: str, expected: str) -> None:
    """The address of the pages is also found from that of the ingestion."""
    actual = replay_url(SESSION, host=host)

    assert f"{expected}/replay/{SESSION}" == actual


@pytest.mark.parametrize("host", ["us.posthog.com", "ftp://us.posthog.com", "https://", "", "/"])
def test_host_must_be_an_address(host: str) -> None:
    """A host that cannot be opened in a browser is refused with its value."""
    with pytest.raises(ValueError, match="must be an http:// or https:// address") as caught:
        replay_url(SESSION, host=host)

    assert f"host={host!r}" in str(caught.value)


def test_host_must_be_text() -> None:
    """A host of another type is refused."""
    with pytest.raises(TypeError, match=r"host=None: must be a str"):
        replay_url(SESSION, host=None)  # type: ignore[arg-type]


@given(
    session_id=st.text(st.characters(codec="utf-8")), project=st.text(st.characters(codec="utf-8"))
)
def test_no_id_can_change_where_the_link_leads(session_id: str, project: str) -> None:
    """Any ID stays one segment of the path."""
    parts = urlsplit(replay_url(session_id, at=10, project=project))

    assert ("https", "us.posthog.com") == (parts.scheme, parts.netloc)
    assert ["", "project", project, "replay", session_id] == [
        unquote(segment) for segment in parts.path.split("/")
    ]
    assert {"timestamp": ["5000"]} == parse_qs(parts.query)
