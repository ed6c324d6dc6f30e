"""
Any query finds and counts just the lines that it should, whatever index it takes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaylink.viewer.query import OPERATORS, Filter, LogQuery
from replaylink.viewer.records import SEVERITIES, Batch, LogRecord
from replaylink.viewer.store import Store, writer
from replaylink.viewer.store.results import Log
from tests.viewer.store.making import NOW_US, all_logs

TEXTS = (
    "",
    "a",
    "ab",
    "Order",
    "order 7",
    "ÄRGER",
    "ärger",
    '"quoted"',
    "100%",
    "a_b",
    "a b",
    "\0x",
)
KEYS = ("n", "user.id", 'a"b', "k=v", "Path", "sessionId", "posthogDistinctId", "logger")
VALUES = ("1", "7", "Ada", "ada", "a b", "", "x" * 300, "x" * 299 + "y", "line\nbreak", "@k=0")

attributes = st.dictionaries(
    st.sampled_from((*KEYS, "session.id", "http.distinct_id")),
    st.one_of(st.sampled_from(VALUES), st.sampled_from((1, 7, True, None, 1.5, ["a"], {"b": 1}))),
    max_size=4,
)
records = st.builds(
    LogRecord,
    # Often the same microsecond, and over some hours.
    time_us=st.one_of(
        st.integers(0, 3).map(lambda us: NOW_US - us),
        st.integers(0, 10 * 3600 * 10**6).map(lambda us: NOW_US - us),
    ),
    severity=st.sampled_from(SEVERITIES),
    body=st.lists(st.sampled_from(TEXTS), max_size=3).map(" ".join),
    attributes=attributes,
    resource=st.one_of(
        st.sampled_from(({"service.name": "shop"}, {"service.name": "Pay"}, {})), attributes
    ),
    scope=st.sampled_from(("", "shop.cart", "ada")),
    trace_id=st.sampled_from(("", "ab" * 16)),
)
queries = st.builds(
    LogQuery,
    text=st.sampled_from(TEXTS),
    severities=st.sampled_from(((), ("info",), ("error", "fatal"))),
    not_severities=st.sampled_from(((), (), ("debug",))),
    services=st.sampled_from(((), (), ("shop",), ("none", ""))),
    not_services=st.sampled_from(((), (), ("Pay",))),
    linked=st.sampled_from((None, None, True, False)),
    filters=st.lists(
        st.builds(
            Filter,
            st.sampled_from((*KEYS, "trace_id")),
            st.sampled_from(OPERATORS),
            st.sampled_from((*VALUES, "true", '["a"]')),
        ),
        max_size=2,
    ).map(tuple),
    from_us=st.sampled_from((None, None, NOW_US - 3600 * 10**6, NOW_US - 1)),
    to_us=st.sampled_from((None, None, NOW_US - 1800 * 10**6, NOW_US)),
)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    shown = {"None": "", "True": "true", "1": "1", "7": "7", "1.5": "1.5"}
    if isinstance(value, list):
        return '["a"]'
    return '{"b":1}' if isinstance(value, dict) else shown[repr(value)]


def _identity(record: LogRecord, first: str, others: Iterable[str]) -> str:
    # As in PostHog: the configured key, then the conventional ones, then such suffixes.
    if record.attributes.get(first):
        return _text(record.attributes[first])
    for where in (record.attributes, record.resource):
        for key in (first, *others):
            if where.get(key):
                return _text(where[key])
        for key, value in where.items():
            if value and key.endswith(tuple("." + each for each in (first, *others))):
                return _text(value)
    return ""


def _session(record: LogRecord) -> str:
    return _identity(record, "sessionId", ("session.id",))


def _value(record: LogRecord, key: str) -> str | None:
    if key == "sessionId":
        return _session(record) or None
    if key == "posthogDistinctId":
        return _identity(record, "posthogDistinctId", ("distinct_id",)) or None
    fields = {"logger": record.scope, "trace_id": record.trace_id}
    places: tuple[dict[str, Any], ...] = (record.attributes, record.resource)
    for where in places:
        if key in where:
            return _text(where[key])
    return fields.get(key) or None


def _holds(wanted: Filter, record: LogRecord) -> bool:
    value = _value(record, wanted.key)
    has = value is not None and wanted.value.casefold() in value.casefold()
    return {
        "is": value == wanted.value,
        "not": value != wanted.value,
        "contains": has,
        "without": not has,
        "set": value is not None,
        "unset": value is None,
    }[wanted.operator]


def _finds(query: LogQuery, record: LogRecord, *, facet: str = "") -> bool:
    service = _text(record.resource.get("service.name", ""))
    linked = bool(_session(record))
    return (
        query.text.replace("\0", "").casefold() in record.body.casefold()
        and all(_holds(each, record) for each in query.filters)
        and (
            facet == "severity"
            or (
                record.severity in (query.severities or SEVERITIES)
                and record.severity not in query.not_severities
            )
        )
        and (
            facet == "service"
            or (service in (query.services or (service,)) and service not in query.not_services)
        )
        and (facet == "linked" or query.linked in (None, linked))
        and (query.from_us is None or record.time_us >= query.from_us)
        and (query.to_us is None or record.time_us < query.to_us)
    )


def _key(each: LogRecord | Log) -> tuple[int, str, str, str]:
    body = each.body.replace("\0", "\ufffd")
    return each.time_us, each.severity, body, repr(each.attributes)


@pytest.fixture(params=[1000, 4], ids=["one-shard", "many-shards"])
def shard_lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Keep all lines in one shard, or only some in each.
    """
    monkeypatch.setattr(writer, "MAX_SHARD_LINES", request.param)


@pytest.mark.usefixtures("shard_lines")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.lists(records, max_size=12), min_size=1, max_size=4),
    st.lists(queries, min_size=1, max_size=8),
)
def test_finds_what_it_should(batches: list[list[LogRecord]], asked: list[LogQuery]) -> None:
    """
    Pages and counts agree with looking at each line.
    """
    written = [record for batch in batches for record in batch]

    async def write(store: Store) -> None:
        for batch in batches:
            await store.write(Batch(logs=batch))

    store = Store(None)
    try:
        asyncio.run(write(store))
        for query in asked:
            found = all_logs(store, query, limit=5)
            summary = store.summary(query)
            expected = [record for record in written if _finds(query, record)]

            assert Counter(map(_key, expected)) == Counter(map(_key, found))
            assert sorted((int(log.id) for log in found), reverse=True) == [
                int(log.id) for log in found
            ]
            assert len(expected) == summary.total
            assert summary.total == sum(sum(b.counts.values()) for b in summary.buckets)
            assert Counter(
                record.severity for record in written if _finds(query, record, facet="severity")
            ) == {count.value: count.count for count in summary.severities}
            assert Counter(
                _text(record.resource.get("service.name", ""))
                for record in written
                if _finds(query, record, facet="service")
            ) == {count.value: count.count for count in summary.services}
            assert Counter(
                bool(_session(record))
                for record in written
                if _finds(query, record, facet="linked")
            ) == Counter({True: summary.linked, False: summary.unlinked})
    finally:
        store.close()
