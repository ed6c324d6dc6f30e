"""
Why a request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

RETRY_AFTER_S: Final = 2
"""When a client may try again if it is not its fault, in seconds."""


class Refusal(ValueError):  # noqa: N818
    """
    What a client sent cannot be taken; the text says why, and holds nothing of what was sent.
    """

    status: ClassVar[int]
    """The HTTP status of the answer."""
    headers: ClassVar[Mapping[str, str]] = {}
    """Headers of the answer."""


class BadPayload(Refusal):
    """
    The payload is not what it should be.
    """

    status = 400


class BadToken(Refusal):
    """
    The token is a secret that does not belong there.
    """

    status = 401


class TooLarge(Refusal):
    """
    The payload is larger than a named limit, before or after its decompression.
    """

    status = 413
    # What may be left of the body is not read: the connection is of no more use.
    headers: ClassVar = {"Connection": "close"}


class TooSlow(Refusal):
    """
    The payload has not come in time.
    """

    status = 408
    headers: ClassVar = {"Connection": "close"}


class TooBusy(Refusal):
    """
    Too much is on its way already.
    """

    status = 503
    headers: ClassVar = {"Connection": "close", "Retry-After": str(RETRY_AFTER_S)}


def check_token(token: str) -> None:
    """
    Let any project's token pass, for it is public, but no personal API key: as in PostHog.

    Raises:
        BadToken: If it is a personal API key.
    """
    if token.startswith("phx_"):
        msg = "a personal API key (phx_...) stands where the project's token belongs"
        raise BadToken(msg)
