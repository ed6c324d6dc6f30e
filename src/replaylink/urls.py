"""
Links to a replay, at the moment of a log line.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from urllib.parse import quote, urlsplit

DEFAULT_HOST: Final = "https://us.posthog.com"

LEAD_MS: Final = 5000
"""How long before the moment the replay starts: PostHog's own button does the same."""


def ui_host(host: str) -> str:
    """
    Return the address of PostHog's pages for *host*, which may be the ingestion's.

    Raises:
        TypeError: If *host* is not a string.
        ValueError: If *host* is not an ``http://`` or ``https://`` address.
    """
    if not isinstance(host, str):
        msg = f"host={host!r}: must be a str such as {DEFAULT_HOST!r}"
        raise TypeError(msg)
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        msg = f"host={host!r}: must be an http:// or https:// address such as {DEFAULT_HOST!r}"
        raise ValueError(msg)
    if parts.netloc.endswith(".i.posthog.com"):
        host = host.replace(".i.posthog.com", ".posthog.com", 1)
    return host.rstrip("/")


def replay_url(
    session_id: str,
    *,
    at: datetime | float | None = None,
    host: str = DEFAULT_HOST,
    project: str | int | None = None,
) -> str:
    """
    Return the address of a session's replay.

    Args:
        session_id: The session ID.
        at: The moment to open the replay at, less `LEAD_MS`: a datetime (without a time
            zone it is local time), or seconds since 1970 in UTC. By default the replay
            opens at its start.
        host: Where PostHog's pages are, or the viewer's: ``https://eu.posthog.com``.
        project: The project's ID. Without it PostHog takes the project that its user
            looked at last.

    Raises:
        TypeError: If *host* is not a string.
        ValueError: If *host* is not an ``http://`` or ``https://`` address.
    """
    base = ui_host(host)
    if project is not None:
        base = f"{base}/project/{quote(str(project), safe='')}"
    url = f"{base}/replay/{quote(session_id, safe='')}"
    if at is None:
        return url
    seconds = at.timestamp() if isinstance(at, datetime) else at
    return f"{url}?timestamp={max(round(seconds * 1000) - LEAD_MS, 0)}"
