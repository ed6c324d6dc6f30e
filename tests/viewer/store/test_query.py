"""
A query survives its way through an address, and what makes no sense is refused.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylink.viewer.query import OPERATORS, Filter, LogQuery, QueryError, parse_query
from replaylink.viewer.records import SEVERITIES

EPOCH_2100_US = 4_102_444_800_000_000
NOW_US = 1_800_000_000_000_000

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
severities = st.lists(st.sampled_from(SEVERITIES), max_size=3).map(tuple)
services = st.lists(texts, max_size=3).map(tuple)
times = st.none() | st.integers(0, EPOCH_2100_US)
filters = st.builds(Filter, key=texts, operator=st.sampled_from(OPERATORS), value=texts)
queries = st.builds(
    LogQuery,
    text=texts,
    severities=severities,
    not_severities=severities,
    services=services,
    not_services=services,
    linked=st.sampled_from((None, True, False)),
    filters=st.lists(filters, max_size=4).map(tuple),
    from_us=times,
    to_us=times,
)
relative = st.builds(
    LogQuery,
    text=texts,
    since=st.builds("{}{}".format, st.integers(1, 999_999), st.sampled_from("smhd")),
)


@settings(max_examples=50, deadline=None)
@given(queries | relative)
def test_query_survives_its_address(query: LogQuery) -> None:
    """What a query becomes in an address is read as the same query."""
    address = urlencode(query.to_pairs())

    assert query == parse_query(parse_qsl(address, keep_blank_values=True))


@given(
    st.lists(st.tuples(st.sampled_from(("q", "since", "from", "linked", "is.x")) | texts, texts))
)
def test_any_parameters_are_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    """Whatever stands in an address is a query, which survives its own, or a QueryError."""
    try:
        query = parse_query(pairs)
    except QueryError:
        return

    assert query == parse_query(query.to_pairs())


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        pytest.param("2027-01-15T08:00:00Z", NOW_US, id="utc"),
        pytest.param("2027-01-15T09:00:00+01:00", NOW_US, id="offset"),
        pytest.param("2027-01-15T08:00:00", NOW_US, id="no-offset-is-utc"),
        pytest.param("2027-01-15T08:00:00.000001Z", NOW_US + 1, id="microsecond"),
        pytest.param("1800000000000", NOW_US, id="milliseconds"),
    ],
)
def test_times_are_read(text: str, expected_us: int) -> None:
    """A time is ISO 8601, or milliseconds since the epoch."""
    query = parse_query([("from", text), ("to", text)])

    assert (expected_us, expected_us) == (query.from_us, query.to_us)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param("severity", "loud", "a severity is one of trace", id="severity"),
        pytest.param("not-severity", "", "a severity is one of trace", id="empty-severity"),
        pytest.param("linked", "perhaps", "yes or no", id="linked"),
        pytest.param("since", "1 hour", "such as 15m", id="since"),
        pytest.param("since", "0m", "such as 15m", id="since-zero"),
        pytest.param("since", "1\u0661m", "such as 15m", id="since-other-digits"),
        pytest.param("from", "yesterday", "ISO 8601", id="no-time"),
        pytest.param("to", "99999999999999999", "ISO 8601", id="beyond-all-years"),
        pytest.param("to", "2027-02-30", "ISO 8601", id="no-such-day"),
    ],
)
def test_nonsense_is_refused(name: str, value: str, said: str) -> None:
    """A value that a parameter cannot have is refused, and the message tells what it can be."""
    with pytest.raises(QueryError, match=said) as error:
        parse_query([(name, value)])

    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param({}, (None, None), id="open"),
        pytest.param({"since": "90s"}, (NOW_US - 90_000_000, None), id="seconds"),
        pytest.param({"since": "15m"}, (NOW_US - 900_000_000, None), id="minutes"),
        pytest.param({"since": "2h"}, (NOW_US - 7_200_000_000, None), id="hours"),
        pytest.param({"since": "7d"}, (NOW_US - 604_800_000_000, None), id="days"),
        pytest.param({"from_us": 5, "to_us": 7}, (5, 7), id="absolute"),
    ],
)
def test_time_range(query: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    """``since`` counts back from now and has no end; other limits are as they are given."""
    assert expected == LogQuery(**query).time_range(NOW_US)


def test_since_excludes_other_limits() -> None:
    """With ``since``, a first and a last moment in the same address are left out."""
    query = parse_query([("since", "1h"), ("from", "5"), ("to", "7")])

    assert LogQuery(since="1h") == query


def test_parameters_of_other_names_are_left_alone() -> None:
    """What the page itself keeps in the address is none of the query's business."""
    assert LogQuery() == parse_query([("columns", "a"), ("log", "7"), ("q", ""), ("maybe.x", "1")])
