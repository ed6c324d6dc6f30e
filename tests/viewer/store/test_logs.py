"""
Log lines: pages, counts, attributes and linkage, also where there are too many of something.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from replaylink.viewer.query import Filter, LogQuery, QueryError
from replaylink.viewer.records import Batch, LogRecord
from replaylink.viewer.store import Store, log_reader, log_writer, search, writer
from replaylink.viewer.store.log_writer import OTHER_SERVICES
from replaylink.viewer.store.results import Count, Share
from tests.viewer.store.making import HOUR_US, NOW_US, SECOND_US, all_logs, line

EVERYTHING = LogQuery()


def is_(key: str, value: str) -> LogQuery:
    return LogQuery(filters=(Filter(key, "is", value),))


async def test_empty_store(store: Store) -> None:
    """A store without a line answers everything, with nothing."""
    page = store.logs(EVERYTHING)

    assert store.is_empty()
    assert ([], None, None) == (page.logs, page.next, page.searched_to_us)
    assert 0 == store.summary(EVERYTHING).total
    assert [] == store.attributes(EVERYTHING)
    assert [] == store.attribute_values(EVERYTHING, "a")
    assert 0 == store.linkage(EVERYTHING).total
    assert store.log("0") is None


async def test_line_comes_back_as_it_was(store: Store) -> None:
    """All that a record has is shown, by the page and by the line's own ID."""
    record = LogRecord(
        time_us=NOW_US,
        severity="warn",
        body="Grüße 😀\nnext",
        attributes={"sessionId": "s1", "n": 7, "list": [1, None], "posthogDistinctId": "u1"},
        resource={"service.name": "shop", "host": "a"},
        scope="shop.cart",
        event_name="greeted",
        trace_id="ab" * 16,
        span_id="cd" * 8,
    )
    await store.write(Batch(logs=[record]))

    (found,) = store.logs(EVERYTHING).logs

    assert found == store.log(found.id)
    assert ("shop", "s1", "u1") == (found.service, found.session_id, found.distinct_id)
    assert record == LogRecord(
        **{name: getattr(found, name) for name in LogRecord.__struct_fields__}
    )


@pytest.mark.parametrize("log_id", ["", "x", "-1", "1.5", "\u0661", "9" * 19, "9" * 30, "17"])
async def test_no_such_line(store: Store, log_id: str) -> None:
    """What is no ID, or one of no line, finds none."""
    await store.write(Batch(logs=[line()]))

    assert store.log(log_id) is None


async def test_before_has_to_be_an_id(store: Store) -> None:
    """A page before something that is no line is refused."""
    with pytest.raises(QueryError, match="before='x'"):
        store.logs(EVERYTHING, before="x")


async def test_pages_follow_one_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that came late stand where their time puts them, on one page only."""
    monkeypatch.setattr(writer, "MAX_SHARD_LINES", 20)
    for start in range(0, 60, 10):
        # Each batch is from before the one that came before it, and overlaps it.
        await store.write(
            Batch(
                logs=[line(str(start + n), ago_us=(start + 3 * n) * SECOND_US) for n in range(10)]
            )
        )

    found = all_logs(store, EVERYTHING, limit=7)

    assert {str(n) for n in range(60)} == {log.body for log in found}
    assert 60 == len(found)
    assert all(one.time_us >= other.time_us for one, other in pairwise(found))


async def test_line_that_comes_between_pages(store: Store) -> None:
    """A new line is on the first page; the pages that follow an older one do not move."""
    await store.write(Batch(logs=[line(str(n), ago_us=n * SECOND_US) for n in range(1, 11)]))
    first = store.logs(EVERYTHING, limit=5)
    await store.write(Batch(logs=[line("new")]))

    second = store.logs(EVERYTHING, before=first.next, limit=5)

    assert ["6", "7", "8", "9", "10"] == [log.body for log in second.logs]
    assert second.next is None
    assert "new" == store.logs(EVERYTHING, limit=5).logs[0].body


@pytest.mark.parametrize("shard_lines", [100_000, 300], ids=["one-shard", "many-shards"])
async def test_thousands_in_one_microsecond(
    store: Store, monkeypatch: pytest.MonkeyPatch, shard_lines: int
) -> None:
    """Any number of lines of the same kind may have the same time, in one request or many."""
    monkeypatch.setattr(writer, "MAX_SHARD_LINES", shard_lines)
    for start in range(0, 3000, 500):
        await store.write(Batch(logs=[line(str(start + n)) for n in range(500)]))

    found = all_logs(store, EVERYTHING)

    assert sorted(map(str, range(3000))) == sorted(log.body for log in found)
    assert 3000 == len({log.id for log in found})
    assert {NOW_US} == {log.time_us for log in found}
    assert 3000 == store.summary(EVERYTHING).total


async def test_more_services_than_kinds(store: Store) -> None:
    """Beyond 512 kinds services are counted together, and nothing is lost or mixed up."""
    services = [f"service-{n}" for n in range(600)]
    for severity in ("info", "error"):
        await store.write(
            Batch(logs=[line(name, service=name, severity=severity) for name in services])
        )

    summary = store.summary(EVERYTHING)
    counts = {count.value: count.count for count in summary.services}

    assert 1200 == summary.total == sum(counts.values())
    assert [Count("error", 600), Count("info", 600)] == summary.severities
    assert 1 == counts["service-0"] or 2 == counts["service-0"]
    assert counts[OTHER_SERVICES] > 600
    found = all_logs(store, EVERYTHING)
    assert Counter(services * 2) == Counter(log.service for log in found)
    assert all(log.body == log.service for log in found)
    others = all_logs(store, LogQuery(services=(OTHER_SERVICES,)))
    assert counts[OTHER_SERVICES] == len(others)
    assert {"info", "error"} == {
        log.severity for log in all_logs(store, is_("service.name", "service-599"))
    }
    named = LogQuery(filters=(Filter("service.name", "contains", "service-59"),))
    assert 22 == len(all_logs(store, named))


async def test_forty_services_have_counts_of_their_own(store: Store) -> None:
    """With all severities, linked and not, forty services are told apart."""
    logs = [
        line(service=f"service-{n}", severity=severity, attributes=attributes)
        for n in range(40)
        for severity in ("trace", "debug", "info", "warn", "error", "fatal")
        for attributes in ({}, {"sessionId": "s"})
    ]
    await store.write(Batch(logs=logs))

    assert {12} == {count.count for count in store.summary(EVERYTHING).services}
    assert 40 == len(store.summary(EVERYTHING).services)


async def test_more_resources_than_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of further resources the service alone is kept, and every query sees them so."""
    monkeypatch.setattr(log_writer, "MAX_RESOURCES", 3)
    resources = [{"service.name": "shop", "host": f"h{n}", "sessionId": "s"} for n in range(6)]
    await store.write(
        Batch(logs=[line(str(n), resource=resource) for n, resource in enumerate(resources)])
    )

    found = {log.body: log for log in all_logs(store, EVERYTHING)}

    assert resources[:3] == [found[str(n)].resource for n in range(3)]
    for n in range(3, 6):
        log = found[str(n)]
        assert ("shop", "", {}) == (log.service, log.session_id, log.resource)
        assert {"service.name": "shop"} == log.attributes
    assert 3 == len(all_logs(store, LogQuery(linked=True))) == store.summary(EVERYTHING).linked
    assert 3 == len(all_logs(store, is_("sessionId", "s")))
    assert 3 == store.summary(is_("sessionId", "s")).total
    assert 6 == store.summary(is_("service.name", "shop")).total


async def test_more_resources_than_are_asked_for_by_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter on an attribute that very many resources have finds the same lines."""
    monkeypatch.setattr(search, "_MAX_RESOURCES", 3)
    await store.write(Batch(logs=[line(str(n), resource={"host": f"h{n}"}) for n in range(6)]))
    query = LogQuery(filters=(Filter("host", "set"),))

    assert 6 == len(all_logs(store, query))
    assert 6 == store.summary(query).total


async def test_more_loggers_than_are_counted_by_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loggers beyond the limit are counted together; the total stays right."""
    monkeypatch.setattr(log_writer, "MAX_LOGGERS", 3)
    await store.write(Batch(logs=[line(scope=f"logger-{n}") for n in range(6)]))

    linkage = store.linkage(EVERYTHING)

    assert 6 == linkage.total
    assert Share(f"{OTHER_SERVICES}: ", 3, 0) in linkage.loggers


@pytest.mark.parametrize(
    ("range_us", "step_us"),
    [
        pytest.param(1, 1000, id="microsecond"),
        pytest.param(SECOND_US, 20_000, id="second"),
        pytest.param(60 * SECOND_US, SECOND_US, id="minute"),
        pytest.param(3600 * SECOND_US, 60 * SECOND_US, id="hour"),
        pytest.param(24 * HOUR_US, 1800 * SECOND_US, id="day"),
        pytest.param(14 * 24 * HOUR_US, 6 * HOUR_US, id="two-weeks"),
    ],
)
async def test_histogram_steps(store: Store, range_us: int, step_us: int) -> None:
    """The bars are of a round width, at most 60, and cover the whole range."""
    await store.write(Batch(logs=[line(ago_us=(range_us - 1) * n // 10) for n in range(11)]))

    summary = store.summary(LogQuery(from_us=NOW_US - range_us + 1, to_us=NOW_US + 1))

    assert step_us == summary.step_us
    assert 11 == summary.total == sum(sum(bar.counts.values()) for bar in summary.buckets)
    assert all(bar.start_us % step_us == 0 for bar in summary.buckets)


@pytest.mark.parametrize("bars", [1, 7, 60, 1000])
@pytest.mark.parametrize(
    ("from_ago_us", "to_ago_us"),
    [
        pytest.param(5 * HOUR_US, 0, id="to-now"),
        pytest.param(4 * HOUR_US + 17, 2 * HOUR_US + 13, id="odd-edges"),
        pytest.param(700_001, 3, id="within-a-second"),
        pytest.param(1000, 2000, id="turned-round"),
        pytest.param(60 * 365 * 24 * HOUR_US // 2, -HOUR_US, id="decades"),
    ],
)
async def test_histogram_edges(store: Store, bars: int, from_ago_us: int, to_ago_us: int) -> None:
    """Counted are just the lines from the first moment to the last, each in its bar."""
    times_us = [NOW_US - n * 37 * SECOND_US - n for n in range(500)]
    times_us += [NOW_US - n * 1009 for n in range(1000)]
    for start in range(0, 1500, 500):
        await store.write(Batch(logs=[line(time_us=at) for at in times_us[start : start + 500]]))
    from_us, to_us = NOW_US - from_ago_us, NOW_US - to_ago_us

    summary = store.summary(LogQuery(from_us=from_us, to_us=to_us), bars=bars)

    step_us = summary.step_us
    expected = Counter(at - at % step_us for at in times_us if from_us <= at < to_us)
    assert expected == {bar.start_us: bar.counts["info"] for bar in summary.buckets}
    assert step_us * bars >= to_us - from_us


class TestOutOfTime:
    """When the time is over, what has been found is the answer, and one can go on from there."""

    @pytest.fixture(params=[0.0, 0.001], ids=["at-once", "on-the-way"])
    def budget(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_reader, "BUDGET_S", request.param)
        monkeypatch.setattr(log_reader, "_INSTRUCTIONS", 1)

    @pytest.mark.usefixtures("budget")
    @pytest.mark.parametrize(
        "query",
        [
            pytest.param(EVERYTHING, id="all"),
            pytest.param(LogQuery(text="needle"), id="text"),
            pytest.param(LogQuery(text="e"), id="short-text"),
            pytest.param(is_("n", "needle"), id="attribute"),
            pytest.param(LogQuery(filters=(Filter("n", "not", "needle"),)), id="not-attribute"),
        ],
    )
    async def test_pages_find_everything(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, query: LogQuery
    ) -> None:
        """All pages together have each line once; each tells how far back it came."""
        monkeypatch.setattr(writer, "MAX_SHARD_LINES", 300)
        words = ["needle" if n % 7 == 0 else "hay" for n in range(1000)]
        await store.write(
            Batch(
                logs=[
                    line(word, ago_us=n * 60_000, attributes={"n": word})
                    for n, word in enumerate(words)
                ]
            )
        )
        ids: list[str] = []
        before: str | None = None
        for _ in range(1000):
            page = store.logs(query, before=before, limit=10)
            ids += [log.id for log in page.logs]
            if page.searched_to_us is not None:
                assert page.next is not None
                assert all(log.time_us >= page.searched_to_us for log in page.logs)
            if page.next is None:
                break
            assert before is None or int(page.next) < int(before)
            before = page.next

        assert page.next is None
        monkeypatch.undo()
        assert [log.id for log in all_logs(store, query)] == ids

    async def test_counts_tell_from_when(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Counts that are not complete tell from when on they are."""
        await store.write(Batch(logs=[line("needle", ago_us=n * 10_000) for n in range(3000)]))
        query = LogQuery(text="needle")
        monkeypatch.setattr(log_reader, "_INSTRUCTIONS", 1)
        monkeypatch.setattr(log_reader, "BUDGET_S", 0.008)

        summary = store.summary(query)

        assert summary.counted_from_us is not None
        monkeypatch.undo()
        exact = store.summary(
            LogQuery(text="needle", from_us=summary.counted_from_us, to_us=NOW_US + 1)
        )
        assert exact.total == summary.total
        assert exact.counted_from_us is None

    async def test_what_was_looked_at_is_shown(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Names of attributes, and linkage, come from the lines that there was time for."""
        await store.write(
            Batch(logs=[line(ago_us=n * SECOND_US, attributes={"a": 1}) for n in range(1000)])
        )
        monkeypatch.setattr(log_reader, "BUDGET_S", 0.0)
        monkeypatch.setattr(log_reader, "_INSTRUCTIONS", 1)

        linkage = store.linkage(EVERYTHING)

        assert (1000, 0) == (linkage.total, linkage.looked_at)
        assert [] == store.attributes(EVERYTHING)

    async def test_other_queries_are_not_cut(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A query that was cut leaves nothing behind on its connection."""
        await store.write(Batch(logs=[line(str(n), ago_us=n * SECOND_US) for n in range(500)]))
        with monkeypatch.context() as patch:
            patch.setattr(log_reader, "BUDGET_S", 0.0)
            patch.setattr(log_reader, "_INSTRUCTIONS", 1)
            for _ in range(8):
                store.logs(LogQuery(text="7"))

        assert 500 == store.summary(LogQuery(text="")).total
        assert 500 == len(all_logs(store, EVERYTHING))


async def test_attributes(store: Store) -> None:
    """Names and values of attributes are listed from the commonest on, a resource's too."""
    await store.write(
        Batch(
            logs=[
                *(line("a", attributes={"n": n % 2, "always": "x"}) for n in range(5)),
                line("b", attributes={"always": True, "rare": None}),
            ]
        )
    )

    names = {each.key: each.count for each in store.attributes(EVERYTHING)}

    assert {"always": 6, "service.name": 6, "n": 5, "rare": 1} == names
    assert [6, 6, 5, 1] == list(names.values())
    assert [Count("0", 3), Count("1", 2)] == store.attribute_values(EVERYTHING, "n")
    assert [Count("x", 5), Count("true", 1)] == store.attribute_values(EVERYTHING, "always")
    assert [Count("shop", 6)] == store.attribute_values(EVERYTHING, "service.name")
    assert [Count("", 1)] == store.attribute_values(EVERYTHING, "rare")
    assert [] == store.attribute_values(EVERYTHING, "none")
    assert ["always", "rare", "service.name"] == sorted(
        each.key for each in store.attributes(LogQuery(text="b"))
    )


async def test_linkage(store: Store) -> None:
    """What is linked is told by service, logger, route and time, with the commonest of the rest."""
    linked = {"sessionId": "s1", "http.route": "/cart"}
    await store.write(
        Batch(
            logs=[
                *(line("in", scope="cart", attributes=linked) for _ in range(3)),
                line("in", scope="cart", attributes={"path": "/cart?x=1"}),
                *(line(f"job {n} ran", service="jobs", scope="cron") for n in range(5)),
                line("started", service="jobs", ago_us=2 * HOUR_US),
            ]
        )
    )

    linkage = store.linkage(EVERYTHING)

    assert (10, 3, 10) == (linkage.total, linkage.linked, linkage.looked_at)
    assert [Share("jobs", 6, 0), Share("shop", 4, 3)] == linkage.services
    assert [Share("jobs: cron", 5, 0), Share("shop: cart", 4, 3), Share("jobs: ", 1, 0)] == (
        linkage.loggers
    )
    assert [Share("/cart", 4, 3)] == linkage.routes
    assert 10 == sum(step.total for step in linkage.over_time)
    assert 2 == len(linkage.over_time)
    assert [int(step.name) for step in linkage.over_time] == sorted(
        int(step.name) for step in linkage.over_time
    )
    assert [("job … ran", 5), ("in", 1), ("started", 1)] == [
        (each.message, each.count) for each in linkage.unlinked
    ]
    example = store.log(linkage.unlinked[0].example_id)
    assert example is not None
    assert example.body.startswith("job ")


async def test_linkage_of_some_services(store: Store) -> None:
    """A query's services and its range of time count for the figures, too."""
    await store.write(
        Batch(
            logs=[
                line(service="shop", attributes={"sessionId": "s1"}),
                line(service="jobs"),
                line(service="shop", ago_us=5 * HOUR_US),
            ]
        )
    )

    only = store.linkage(LogQuery(services=("shop",)))
    without = store.linkage(LogQuery(not_services=("shop",)))
    recent = store.linkage(LogQuery(from_us=NOW_US - HOUR_US))

    assert [(2, 1), (1, 0), (2, 1)] == [
        (each.total, each.linked) for each in (only, without, recent)
    ]


async def test_own_attribute_goes_before_that_of_the_resource(store: Store) -> None:
    """Pages and counts go by the same value where a line and its resource both have one."""
    resource = {"host": "a", "sessionId": "s1", "logger": "l1"}
    await store.write(
        Batch(
            logs=[
                line("own", attributes={"host": "b", "session.id": "s2"}, resource=resource),
                line("its", resource=resource, scope="l2"),
                line("none", attributes={"sessionId": None}, resource={}),
            ]
        )
    )

    for query, expected in (
        (is_("host", "a"), ["its"]),
        (is_("host", "b"), ["own"]),
        (is_("sessionId", "s1"), ["its"]),
        (is_("sessionId", "s2"), ["own"]),
        (is_("logger", "l1"), ["its", "own"]),
        (is_("logger", "l2"), []),
        (LogQuery(filters=(Filter("sessionId", "set"),)), ["its", "own"]),
        (LogQuery(filters=(Filter("host", "set"),)), ["its", "own"]),
    ):
        assert expected == sorted(log.body for log in all_logs(store, query))
        assert len(expected) == store.summary(query).total


async def test_long_lines_make_short_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends when its lines have become long, and the next ones have the rest."""
    monkeypatch.setattr(search, "MAX_PAGE_LENGTH", 1000)
    await store.write(Batch(logs=[line("x" * 400 + f" {n}", ago_us=n) for n in range(20)]))
    page = store.logs(LogQuery())

    assert 3 == len(page.logs)
    assert [f"x {n}" for n in range(20)] == [log.body[399:] for log in all_logs(store, LogQuery())]


async def test_long_searches(store: Store) -> None:
    """A text longer than what the index is asked for is found as a whole."""
    text = "the quick brown fox jumps over the lazy dog"
    await store.write(Batch(logs=[line(text + " one"), line(text + " two")]))

    assert [text + " one"] == [log.body for log in all_logs(store, LogQuery(text=text + " ON"))]
    assert 1 == store.summary(LogQuery(text=text + " one")).total
