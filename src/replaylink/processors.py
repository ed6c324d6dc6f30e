"""
structlog processors that link log lines.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

from ._identity import Identity, bound_identity
from .urls import DEFAULT_HOST, replay_url, ui_host

__all__ = ["ReplayURL", "add_identity"]

LEVELS: Final = {
    "notset": logging.NOTSET,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
"""structlog's method names, with the levels that they log at."""


def add_identity(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """
    Add the IDs of the request at hand, as far as they are known by now.

    Sees what `structlog.contextvars.merge_contextvars` cannot: a user who became known
    after the request started, or in another thread or task. Its place is beside
    ``merge_contextvars``, before or after. A key given in the log call stays.
    """
    identity = bound_identity()
    if identity is not None:
        keys = identity.keys
        _add(event_dict, keys.session_key, identity.session_id, identity)
        _add(event_dict, keys.user_key, identity.user_id, identity)
    return event_dict


def _add(event_dict: EventDict, key: str, value: str | None, identity: Identity) -> None:
    if key not in event_dict:
        if value is not None:
            event_dict[key] = value
    # merge_contextvars may have brought an ID from before another took its place.
    elif event_dict[key] is not value and identity.is_superseded(event_dict[key]):
        if value is None:
            del event_dict[key]
        else:
            event_dict[key] = value


class ReplayURL:
    """
    Adds the address of the replay at the moment of the line, from a level up.

    ::

        ReplayURL(host="https://eu.posthog.com", project=12345)

    Args:
        host: Where PostHog's pages are, or the viewer's.
        project: The project's ID, if there are several.
        level: The lowest level of lines that get the address.
        key: The key to put it under.
        session_key: The key of the session ID, as given to the middleware.

    Raises:
        TypeError: If *host* is not a string.
        ValueError: If *host* is not an ``http://`` or ``https://`` address, or *level*
            is none of structlog's.
    """

    __slots__ = ("_host", "_key", "_level", "_project", "_session_key")

    def __init__(
        self,
        *,
        host: str = DEFAULT_HOST,
        project: str | int | None = None,
        level: str = "error",
        key: str = "replayUrl",
        session_key: str = "sessionId",
    ) -> None:
        if not isinstance(level, str) or level.lower() not in LEVELS:
            msg = f"level={level!r}: must be one of {', '.join(LEVELS)}"
            raise ValueError(msg)
        self._host = ui_host(host)
        self._project = project
        self._level = LEVELS[level.lower()]
        self._key = key
        self._session_key = session_key

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        if LEVELS.get(method_name, logging.NOTSET) >= self._level and self._key not in event_dict:
            session_id = self._session_id(event_dict)
            if session_id is not None:
                event_dict[self._key] = replay_url(
                    session_id, at=time.time(), host=self._host, project=self._project
                )
        return event_dict

    def _session_id(self, event_dict: EventDict) -> str | None:
        value: Any = event_dict.get(self._session_key)
        if isinstance(value, str) and value:
            return value
        identity = bound_identity()
        return None if identity is None else identity.session_id
