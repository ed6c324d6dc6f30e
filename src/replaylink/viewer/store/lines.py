"""
How a log line stands in the store: its ID, and its terms in the index.

An ID is a number of 63 bits that tells, from the left, the time in microseconds since 2020, the
line's kind (its service, its severity, and whether it is linked), and a number of its own. So
IDs sort by time, and whatever is counted by time, service, severity and linkage is counted
from the index alone, without looking at a line.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterable

import msgspec

from replaylink.viewer.limits import MAX_INDEXED_LENGTH
from replaylink.viewer.records import JSONObject, LogRecord

KIND_BITS = 9
"""512 kinds: about 40 services. The lines of further ones are counted together."""

SEQUENCE_BITS = 4
"""16 lines of a kind in one microsecond; further ones move to the next."""

MAX_SHIFT_BITS = 32
"""
A line may stand up to 2 to the power of this in microseconds, an hour, after its time, if all
places before are taken: more than there can be lines.
"""

KIND_MASK = (1 << KIND_BITS) - 1
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
TIME_SHIFT = KIND_BITS + SEQUENCE_BITS

EPOCH_US = 1_577_836_800_000_000
"""2020-01-01T00:00:00Z; 50 bits of microseconds from there end in 2055."""

MAX_ID = (1 << 63) - 1

SESSION_KEYS = (
    "sessionId",
    "session.id",
    "session_id",
    "sessionID",
    "$session_id",
    "posthogSessionId",
    "posthogSessionID",
    "posthog_session_id",
    "posthog.session.id",
    "posthog.session_id",
)
"""
Attributes that hold a session ID, the preferred first.

The keys by which PostHog's logs know one (``products/logs/frontend/utils.tsx``).
"""

USER_KEYS = (
    "posthogDistinctId",
    "distinct.id",
    "distinct_id",
    "distinctId",
    "distinctID",
    "posthogDistinctID",
    "posthog_distinct_id",
    "posthog.distinct.id",
    "posthog.distinct_id",
)
"""Attributes that hold a distinct ID, the preferred first; see `SESSION_KEYS`."""

FIELDS = {
    "logger": "scope",
    "event_name": "event_name",
    "trace_id": "trace_id",
    "span_id": "span_id",
}
"""
What can be filtered on like an attribute, though OpenTelemetry keeps it apart: by the name in
a filter, the name in a `LogRecord`.
"""

_MAX_CACHED_KEY = 100
"""Keys of so many characters are worth the memory that a cache takes."""

# Control characters separate terms; the signs have a meaning in the names of terms.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f=@?]")

_encode = msgspec.json.Encoder().encode

_SESSION_SUFFIXES = tuple("." + key for key in SESSION_KEYS)
_USER_SUFFIXES = tuple("." + key for key in USER_KEYS)


def line_id(time_us: int, kind: int) -> int:
    """
    Return the first ID for a line of that time, in microseconds since the epoch, and kind.
    """
    time_us = min(max(time_us - EPOCH_US, 0), MAX_ID >> TIME_SHIFT)
    return time_us << TIME_SHIFT | kind << SEQUENCE_BITS


def next_id(line: int) -> int:
    """
    Return the ID to try when ``line`` is taken: of the same kind.
    """
    if line & SEQUENCE_MASK < SEQUENCE_MASK:
        return line + 1
    return line - SEQUENCE_MASK + (1 << TIME_SHIFT)


def id_from(time_us: int) -> int:
    """
    Return the lowest ID that a line of that time or later has.
    """
    return line_id(time_us, 0)


def time_of(line: int) -> int:
    """
    Return the time in an ID, in microseconds since the epoch.
    """
    return (line >> TIME_SHIFT) + EPOCH_US


def session_of(attributes: JSONObject, resource: JSONObject) -> str:
    """
    Return the session that a line is linked to, or an empty string.
    """
    return _session_in(attributes) or _session_in(resource)


def user_of(attributes: JSONObject, resource: JSONObject) -> str:
    """
    Return the distinct ID of the user that a line tells of, or an empty string.
    """
    return _user_in(attributes) or _user_in(resource)


def _session_in(where: JSONObject) -> str:
    return _find(where, SESSION_KEYS, _SESSION_SUFFIXES)


def _user_in(where: JSONObject) -> str:
    return _find(where, USER_KEYS, _USER_SUFFIXES)


def _find(where: JSONObject, keys: tuple[str, ...], suffixes: tuple[str, ...]) -> str:
    for key in keys:
        if value := where.get(key):
            return text_of(value)
    for key, value in where.items():
        if value and key.endswith(suffixes):
            return text_of(value)
    return ""


def text_of(value: object) -> str:
    """
    Return an attribute's value as filters compare it and pages show it.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return _encode(value).decode()


def term(key: str, value: str) -> str:
    """
    Return the term for an attribute.
    """
    return f"{_name(key)}={_exact(value)}"


def own_term(name: str, value: str) -> str:
    """
    Return the term for what stands for no attribute; its name begins with ``@``.
    """
    return f"{name}={_exact(value)}"


def key_term(key: str) -> str:
    """
    Return the term which tells that the attribute is there.
    """
    return f"?={_name(key)}"


def _exact(text: str) -> str:
    # The index takes no notice of case in ASCII, and control characters end a term: what would
    # be changed, or is long, is told apart by a checksum.
    # So is what looks as if it had one.
    if (
        len(text) <= MAX_INDEXED_LENGTH
        and text.isprintable()
        and text == text.lower()
        and text[-9:-8] != "~"
    ):
        return text
    return _with_checksum(text)


def _name(key: str) -> str:
    # Nor may a key be taken for a part of another attribute, or for one of our own names.
    if "=" in key or key[:1] in ("@", "?"):
        return _with_checksum(key)
    return _exact(key)


def _with_checksum(text: str) -> str:
    return f"{_UNSAFE.sub(' ', text[:MAX_INDEXED_LENGTH])}~{zlib.crc32(text.encode()):08x}"


class Line(msgspec.Struct, gc=False):
    """
    A log record with what can be made of it without the database.
    """

    log: LogRecord
    body: str
    attributes: bytes
    """As JSON."""
    linked: bool
    terms: str
    """All terms but those for its resource and its kind, each on a line of its own."""


def prepare(logs: Iterable[LogRecord]) -> list[Line]:
    """
    Make what can be made of log records without the database: half of the work.
    """
    lines = []
    resource: JSONObject | None = None
    for log in logs:
        # Many lines have the same resource, which may be large.
        if log.resource is not resource:
            resource = log.resource
            its_session, its_user = _session_in(resource), _user_in(resource)
        session = _session_in(log.attributes) or its_session
        lines.append(
            Line(
                log,
                # Where there is a NUL, SQLite's index takes the text to end.
                log.body.replace("\0", "\ufffd") if "\0" in log.body else log.body,
                _encode(log.attributes),
                bool(session),
                _terms(log, session, _user_in(log.attributes) or its_user),
            )
        )
    return lines


def _terms(log: LogRecord, session: str, user: str) -> str:
    attributes = log.attributes
    found: list[str] = []
    if session:
        found += (own_term("@s", session), "@s")
    if user:
        found += (own_term("@u", user), "@u")
    for name, value in (
        ("logger", log.scope),
        ("event_name", log.event_name),
        ("trace_id", log.trace_id),
        ("span_id", log.span_id),
    ):
        if value and name not in attributes and name not in log.resource:
            found.append(term(name, value))
    for key, value in attributes.items():
        start = _cached_start(key) if len(key) <= _MAX_CACHED_KEY else _start(key)
        found.append(start + _exact(value if type(value) is str else text_of(value)))
    return "\n".join(found)


def _start(key: str) -> str:
    return f"{key_term(key)}\n{_name(key)}="


_cached_start = functools.lru_cache(maxsize=4096)(_start)
