"""
What a session ID and a user ID may look like.

Pure functions of text: no I/O, no framework.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias
from uuid import UUID

MAX_USER_ID_LENGTH: Final = 200
"""Characters kept of a user ID: PostHog cuts a distinct ID there."""

NOT_A_SESSION_ID: Final = frozenset({"$posthog_cookieless"})
"""What posthog-js puts in place of an ID when it may not keep one."""

NOT_A_USER_ID: Final = frozenset(
    {"undefined", "null", "distinct_id", "distinctid", "$posthog_cookieless"}
)
"""What broken frontends send as a user ID, in lower case. posthog-js rejects the same."""

# C0 and C1 control characters (a newline or an ANSI escape forges log lines), the
# invisible marks that turn the direction of text or break a line (CVE-2021-42574), and
# lone surrogates, which no log could encode.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_SESSION_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

# RFC 9562, section 5.7: version 7 in the 13th digit, variant 10 in the 17th.
_UUID7: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    re.IGNORECASE,
)


class Absent:
    """
    Stands where an ID was looked for and tells why there is none.

    Args:
        reason: A few words for the debug line. Never a value that a client sent.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Absent({self.reason!r})"


Found: TypeAlias = "str | Absent"
Accept: TypeAlias = Callable[[str], Found]
"""Cleans what a client sent, and answers with an ID or with the reason against it."""

NOT_THERE: Final = Absent("not there")
NOT_AN_ID: Final = Absent("not a valid ID")


def clean(value: str) -> str:
    """
    Return *value* without unsafe characters and surrounding white space.
    """
    if not value.isprintable():
        value = _UNSAFE.sub("", value)
    return value.strip()


def is_session_id(value: str) -> bool:
    """
    Tell whether *value* is 1 to 128 of the characters ``A-Z a-z 0-9 . _ -``.
    """
    return _SESSION_ID.fullmatch(value) is not None


def is_uuid7(value: str) -> bool:
    """
    Tell whether *value* is a UUID of version 7, as posthog-js makes them.

    The strict choice for ``validate_session_id``: PostHog leaves a session whose ID is
    anything else out of its session tables.

    See Also:
        https://www.rfc-editor.org/rfc/rfc9562#section-5.7
    """
    return _UUID7.fullmatch(value) is not None


def session_id_acceptor(validate: Callable[[str], bool] = is_session_id) -> Accept:
    """
    Return the function that turns a client's text into a session ID.

    Args:
        validate: Tells whether a cleaned, non-empty text is a session ID.
    """
    # What has the default shape needs no cleaning: the usual case, at a third of the cost.
    is_clean = _SESSION_ID.fullmatch
    by_shape = validate is is_session_id

    def accept(value: str) -> Found:
        if not is_clean(value):
            value = clean(value)
            if not value or value in NOT_A_SESSION_ID:
                return NOT_AN_ID
        elif by_shape:
            return value
        try:
            return value if validate(value) else NOT_AN_ID
        # The app's own rule, asked about any text that a client can think of.
        except Exception:
            return NOT_AN_ID

    return accept


def accept_user_id(value: str) -> Found:
    """
    Return *value* as a user ID: clean, and cut at `MAX_USER_ID_LENGTH` characters.
    """
    value = clean(value)[:MAX_USER_ID_LENGTH].rstrip()
    if value and value.lower() not in NOT_A_USER_ID:
        return value
    return NOT_AN_ID


def as_text(value: object) -> str | None:
    """
    Return a string, an integer or a UUID as text, and None for None.

    Raises:
        TypeError: For anything else; a bool is no ID either.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, UUID)) and not isinstance(value, bool):
        return str(value)
    msg = (
        "an ID must be a str, an int, a UUID or None, "
        f"not {type(value).__name__}; convert it with str() first"
    )
    raise TypeError(msg)
