"""
Old data goes, and the newest stays, when a limit of time or space is reached.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replaylink.viewer import store as store_module
from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch
from replaylink.viewer.store import schema, writer
from tests.viewer.store.conftest import OpenStore
from tests.viewer.store.making import HOUR_US, SECOND_US, event, exception, line, snapshot

DAY_US = 24 * HOUR_US
LIMIT_MB = 4
WAIT_S = 20

EVERYTHING = LogQuery()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for old data all the time, and allow small databases."""
    monkeypatch.setattr(writer, "HOUSEKEEPING_S", 0.02)
    monkeypatch.setattr(store_module, "MIN_SIZE_MB", 1)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        await asyncio.sleep(0.02)


def size_mb(path: Path) -> float:
    """How much the database and its log have on the disk."""
    return sum(each.stat().st_size for each in path.parent.iterdir()) / 1e6


# Age


async def test_old_data_goes(open_store: OpenStore) -> None:
    """What is older than the retention goes without anybody's writing; what is newer stays."""
    store = open_store(retention_days=1)
    for ago_us in (2 * DAY_US, HOUR_US):
        await store.write(
            Batch(
                logs=[line(str(ago_us), ago_us=ago_us)],
                events=[
                    exception("s1", ago_us=ago_us, type_=f"Error{ago_us}"),
                    event("$pageview", "s1", ago_us=ago_us),
                ],
                snapshots=[snapshot(f"recorded-{ago_us}", ago_us=ago_us)],
            )
        )
        if ago_us > DAY_US:
            await until(store.is_empty)

    await until(lambda: len(store.recordings()) == 1)
    assert [str(HOUR_US)] == [log.body for log in store.logs(EVERYTHING).logs]
    assert [f"Error{HOUR_US}"] == [issue.name for issue in store.issues()]
    assert [f"recorded-{HOUR_US}"] == [each.session_id for each in store.recordings()]
    assert 1 == len(store.timeline("s1").events)
    assert [] == list(store.snapshots(f"recorded-{2 * DAY_US}", "w1"))
    assert 1 == store.linkage(EVERYTHING).total


async def test_issue_stays_as_long_as_an_occurrence(open_store: OpenStore) -> None:
    """An issue that was seen again is counted from what is left of it."""
    store = open_store(retention_days=1)
    await store.write(Batch(events=[exception(ago_us=2 * DAY_US), exception(ago_us=HOUR_US)]))

    await until(lambda: store.issues()[0].occurrences == 1)

    assert store.issues()[0].first_seen_us == store.issues()[0].last_seen_us


async def test_recording_goes_as_a_whole(open_store: OpenStore) -> None:
    """A recording that is still going on keeps its beginning, without which it cannot be played."""
    store = open_store(retention_days=1)
    await store.write(
        Batch(
            snapshots=[
                snapshot("long", ago_us=25 * HOUR_US, events=b"[1]"),
                snapshot("long", ago_us=HOUR_US, events=b"[2]"),
                snapshot("old", ago_us=30 * HOUR_US),
            ]
        )
    )

    await until(lambda: store.recording("old") is None)

    assert [b"[1]", b"[2]"] == list(store.snapshots("long", "w1"))


async def test_lines_go_on_after_all_have_gone(open_store: OpenStore) -> None:
    """An empty store takes lines again."""
    store = open_store(retention_days=1)
    await store.write(Batch(logs=[line(ago_us=2 * DAY_US)]))
    await until(store.is_empty)
    await store.write(Batch(logs=[line("new")]))

    assert ["new"] == [log.body for log in store.logs(EVERYTHING).logs]
    assert 1 == store.summary(EVERYTHING).total


# Space


def ago_us(number: int) -> int:
    """One batch a second, the last of them now."""
    return (1000 - number) * SECOND_US


def random_text(size: int) -> str:
    return random.randbytes(size // 2).hex()


def lines_batch(number: int) -> Batch:
    """Lines of the usual size."""
    return Batch(
        logs=[
            line(
                random_text(100),
                ago_us=ago_us(number),
                attributes={"number": number, "id": random_text(60), "sessionId": "s1"},
            )
            for _ in range(250)
        ]
    )


def short_lines_batch(number: int) -> Batch:
    """Lines of next to nothing, of which the index is the most."""
    return Batch(
        logs=[line("x", ago_us=ago_us(number), attributes={"number": number}) for _ in range(1000)]
    )


def resources_batch(number: int) -> Batch:
    """Lines of processes that live for a moment."""
    return Batch(
        logs=[
            line(
                "x",
                resource={"service.name": "job", "process": n, "id": random_text(2000)},
                ago_us=ago_us(number),
                attributes={"number": number},
            )
            for n in range(50)
        ]
    )


def recordings_batch(number: int) -> Batch:
    """A recording of some pieces."""
    events = f'["{random_text(60_000)}"]'.encode()
    pieces = [
        snapshot(f"session-{number}", "w1", ago_us=ago_us(number), events=events) for _ in range(3)
    ]
    return Batch(
        snapshots=pieces, logs=[line(ago_us=ago_us(number), attributes={"number": number})]
    )


def events_batch(number: int) -> Batch:
    """Exceptions with much around them."""
    return Batch(
        events=[
            exception(
                f"session-{number}",
                ago_us=ago_us(number),
                properties={"around": random_text(3000)},
            )
            for _ in range(50)
        ],
        logs=[line(ago_us=ago_us(number), attributes={"number": number})],
    )


@pytest.mark.parametrize(
    ("make", "count"),
    [
        pytest.param(lines_batch, 80, id="lines"),
        pytest.param(short_lines_batch, 100, id="short-lines"),
        pytest.param(resources_batch, 120, id="resources"),
        pytest.param(recordings_batch, 100, id="recordings"),
        pytest.param(events_batch, 80, id="events"),
    ],
)
async def test_size_is_kept(
    tmp_path: Path,
    open_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[int], Batch],
    count: int,
) -> None:
    """The database stays within its size however much comes, and has the newest of it."""
    path = tmp_path / "data" / "viewer.db"
    path.parent.mkdir()
    store = open_store(path, max_size_mb=LIMIT_MB)
    sizes = []
    for number in range(count):
        await store.write(make(number))
        sizes.append(path.stat().st_size / 1e6)

    assert max(sizes) < LIMIT_MB * 1.25
    # Beside it lies its log, which SQLite begins anew when it has about 8 MB.
    assert size_mb(path) < LIMIT_MB + 20
    newest = store.logs(LogQuery(), limit=1).logs[0]
    assert count - 1 == newest.attributes["number"]
    if make is recordings_batch:
        kept = [each.session_id for each in store.recordings()]
        assert f"session-{count - 1}" in kept
        assert 3 == len(list(store.snapshots(f"session-{count - 1}", "w1")))
        assert store.recording("session-0") is None
    elif make is events_batch:
        assert 50 == len(store.timeline(f"session-{count - 1}").errors)
        assert [] == store.timeline("session-0").errors
    else:
        each = len(make(0).logs)
        assert 5 * each < store.summary(EVERYTHING).total < count * each
        assert (5 * LIMIT_MB / 8) < max(sizes)


async def test_few_large_recordings(tmp_path: Path, open_store: OpenStore) -> None:
    """Of some large recordings only the oldest ones go."""
    store = open_store(max_size_mb=LIMIT_MB)
    events = f'["{random_text(1_600_000)}"]'.encode()
    for number in range(5):
        await store.write(
            Batch(
                snapshots=[snapshot(f"s{number}", ago_us=(9 - number) * SECOND_US, events=events)],
                events=[exception(f"s{number}", ago_us=(9 - number) * SECOND_US)],
            )
        )
    await until(lambda: len(store.recordings()) < 5)
    await asyncio.sleep(0.1)

    kept = [each.session_id for each in store.recordings()]

    assert ["s4", "s3"] == kept[:2]
    assert len(kept) < 5
    assert [] != store.timeline("s4").errors


async def test_oldest_goes_first(open_store: OpenStore) -> None:
    """Lines, recordings and events are removed by their age, not by their kind."""
    store = open_store(max_size_mb=LIMIT_MB)
    await store.write(Batch(snapshots=[snapshot("old", ago_us=5 * DAY_US)]))
    await store.write(Batch(events=[exception("old", ago_us=5 * DAY_US)]))
    await store.write(Batch(snapshots=[snapshot("new")], events=[exception("new")]))
    for number in range(60):
        await store.write(lines_batch(number))

    assert store.recording("old") is None
    assert [] == store.timeline("old").errors
    assert store.recording("new") is not None
    assert 1 == len(store.timeline("new").errors)


async def test_queries_go_on_meanwhile(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads while old data is removed sees one state of the store, and no error."""
    monkeypatch.setattr(writer, "MAX_SHARD_LINES", 500)
    store = open_store(max_size_mb=LIMIT_MB // 2)
    stopped = threading.Event()
    failures: list[BaseException] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        try:
            while not stopped.is_set():
                page = store.logs(LogQuery(text="a"), limit=20)
                for log in page.logs[:1]:
                    store.log(log.id)
                summary = store.summary(EVERYTHING)
                assert summary.total == sum(count.count for count in summary.severities)
                store.linkage(EVERYTHING)
                store.recordings()
                store.issues()
                reads += 1
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            await store.write(lines_batch(number))
            if number % 5 == 0:
                await store.write(recordings_batch(number))
                await store.write(events_batch(number))
    finally:
        stopped.set()
        for thread in threads:
            thread.join()

    assert [] == failures
    assert reads > 3


async def test_kinds_go_with_their_lines(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind whose last lines are dropped is free again, and that of other lines is not."""
    monkeypatch.setattr(writer, "MAX_SHARD_LINES", 1)
    store = open_store()
    for service in ("gone", "kept"):
        await store.write(Batch(logs=[line(service=service)]))
    store.close()
    connection = schema.open_for_writing(tmp_path / "viewer.db")
    schema.drop_shard(connection, 1)
    kinds = connection.execute("SELECT service FROM kind").fetchall()
    connection.close()

    assert [("kept",)] == kinds
