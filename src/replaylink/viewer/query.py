"""
Which log lines to show: the words of a query, and how they stand in an address.

The whole state of the logs page is in its address, so that an address can be kept, sent, and
asked for as JSON::

    /logs?q=timeout&severity=error&service=shop&is.sessionId=0199...&since=1h
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Literal, get_args

import msgspec

from replaylink.viewer.limits import MAX_CONDITIONS, MAX_QUERY_LENGTH
from replaylink.viewer.records import SEVERITIES

Operator = Literal["is", "not", "contains", "without", "set", "unset"]
"""
How a filter compares: the value equals, differs, has the text in it, has it not; the
attribute is there at all, is not there.
"""

OPERATORS: tuple[Operator, ...] = get_args(Operator)

_SINCE = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class QueryError(ValueError):
    """
    A query in an address that cannot be understood; the message says what it should be.
    """


class Filter(msgspec.Struct, frozen=True):
    """
    What one attribute has to be.

    Values are compared as text: the number 42 equals ``42``, and true equals ``true``.
    """

    key: str
    operator: Operator
    value: str = ""


class LogQuery(msgspec.Struct, frozen=True):
    """
    Which log lines to show. All conditions hold at once; within one they are alternatives.
    """

    text: str = ""
    """What the message contains, whatever the case."""
    severities: tuple[str, ...] = ()
    not_severities: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    not_services: tuple[str, ...] = ()
    linked: bool | None = None
    """Only lines that have a session ID, or only those that have none."""
    filters: tuple[Filter, ...] = ()
    """An attribute of the record counts, or else one of its resource."""
    since: str = ""
    """How far back from now, such as ``15m``, ``1h`` or ``7d``; it excludes the two below."""
    from_us: int | None = None
    """The first moment, in microseconds since the epoch."""
    to_us: int | None = None
    """The moment after the last, in microseconds since the epoch."""

    def time_range(self, now_us: int) -> tuple[int | None, int | None]:
        """
        Return the first moment and the one after the last, in microseconds since the epoch.
        """
        if match := _SINCE.fullmatch(self.since):
            return now_us - int(match[1]) * _SECONDS[match[2]] * 1_000_000, None
        return self.from_us, self.to_us

    def to_pairs(self) -> list[tuple[str, str]]:
        """
        Return the parameters that stand for the query in an address.
        """
        pairs = [("q", self.text)] if self.text else []
        pairs += [("severity", name) for name in self.severities]
        pairs += [("not-severity", name) for name in self.not_severities]
        pairs += [("service", name) for name in self.services]
        pairs += [("not-service", name) for name in self.not_services]
        if self.linked is not None:
            pairs.append(("linked", "yes" if self.linked else "no"))
        pairs += [(f"{each.operator}.{each.key}", each.value) for each in self.filters]
        if self.since:
            pairs.append(("since", self.since))
        if self.from_us is not None:
            pairs.append(("from", _text_of_time(self.from_us)))
        if self.to_us is not None:
            pairs.append(("to", _text_of_time(self.to_us)))
        return pairs


def parse_query(pairs: Iterable[tuple[str, str]]) -> LogQuery:
    """
    Read a query from the parameters of an address; parameters of other names are left alone.

    Raises:
        QueryError: If a value is none that the parameter can have.
    """
    many: dict[str, list[str]] = {}
    filters = []
    for name, given in pairs:
        if len(given) > MAX_QUERY_LENGTH:
            msg = f"{name[:40]!r} is longer than {MAX_QUERY_LENGTH} characters."
            raise QueryError(msg)
        value = given.replace("\0", "")  # no stored text has one
        operator, dot, key = name.partition(".")
        if dot and operator in OPERATORS:
            filters.append(Filter(key, operator, value))
        else:
            many.setdefault(name, []).append(value)
    if max(len(filters), *map(len, many.values()), 0) > MAX_CONDITIONS:
        msg = f"Of one kind there can be {MAX_CONDITIONS} conditions."
        raise QueryError(msg)
    one = {name: values[-1] for name, values in many.items()}

    for name in ("severity", "not-severity"):
        for value in many.get(name, ()):
            if value not in SEVERITIES:
                msg = f"{name}={value!r}: a severity is one of {', '.join(SEVERITIES)}."
                raise QueryError(msg)
    linked = one.get("linked", "")
    if linked not in ("", "yes", "no"):
        msg = f"linked={linked!r}: it is yes or no."
        raise QueryError(msg)
    since = one.get("since", "")
    if since and not _SINCE.fullmatch(since):
        msg = f"since={since!r}: it is a number and one of s, m, h, d, such as 15m."
        raise QueryError(msg)
    return LogQuery(
        text=one.get("q", ""),
        severities=tuple(many.get("severity", ())),
        not_severities=tuple(many.get("not-severity", ())),
        services=tuple(many.get("service", ())),
        not_services=tuple(many.get("not-service", ())),
        linked={"yes": True, "no": False}.get(linked),
        filters=tuple(filters),
        since=since,
        from_us=None if since else _time(one, "from"),
        to_us=None if since else _time(one, "to"),
    )


def _time(parameters: dict[str, str], name: str) -> int | None:
    text = parameters.get(name, "")
    if not text:
        return None
    try:
        if text.isascii() and text.isdigit():
            moment = _EPOCH + timedelta(milliseconds=int(text))
        else:
            # Python 3.10 does not read the Z.
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=timezone.utc)
        # In UTC it has to be a time too, and before the epoch there is nothing.
        return max(moment.astimezone(timezone.utc) - _EPOCH, timedelta(0)) // _MICROSECOND
    except (ValueError, OverflowError):
        msg = f"{name}={text!r}: a time is ISO 8601, or milliseconds since the epoch."
        raise QueryError(msg) from None


def _text_of_time(time_us: int) -> str:
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
