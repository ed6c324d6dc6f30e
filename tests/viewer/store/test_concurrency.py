"""
Many write and read at once; some are cancelled, some bring what cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch
from replaylink.viewer.store import Store, StoreError
from tests.viewer.store.conftest import OpenStore
from tests.viewer.store.making import SECOND_US, all_logs, event, exception, line, snapshot

EVERYTHING = LogQuery()
WAIT_S = 20


@contextlib.asynccontextmanager
async def held_up(path: Path) -> AsyncIterator[Callable[[], None]]:
    """
    Let nothing be written until the end of the block, or until what this yields is called.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    released = False

    def release() -> None:
        nonlocal released
        if not released:
            released = True
            connection.rollback()
            connection.close()

    try:
        yield release
    finally:
        release()


def bodies(store: Store) -> list[str]:
    return sorted(log.body for log in all_logs(store, EVERYTHING))


async def test_writers_and_readers_at_once(store: Store) -> None:
    """What is acknowledged is seen by whoever asks from then on, whoever else reads and writes."""
    acknowledged: set[str] = set()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def read() -> None:
        try:
            while not stopped.is_set():
                known = set(acknowledged)
                found = [log.body for log in all_logs(store, EVERYTHING, limit=500)]
                assert len(found) == len(set(found))
                assert known <= set(found)
                assert len(known) <= store.summary(EVERYTHING).total
        except BaseException as exc:
            failures.append(exc)

    async def write(writer: int) -> None:
        for number in range(12):
            names = [f"{writer}-{number}-{n}" for n in range(5)]
            await store.write(
                Batch(
                    logs=[line(name, ago_us=number * SECOND_US) for name in names],
                    events=[event("$pageview", f"s{writer}")],
                )
            )
            acknowledged.update(names)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        await asyncio.wait_for(asyncio.gather(*(write(n) for n in range(10))), WAIT_S)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()

    assert [] == failures
    assert sorted(acknowledged) == bodies(store)
    assert [12] * 10 == [len(store.timeline(f"s{n}").events) for n in range(10)]


async def test_batches_that_wait_are_written_together(store: Store, tmp_path: Path) -> None:
    """However many batches wait, they cost one transaction."""
    first = await changed_after(store, store.write(Batch(logs=[line()])), 0)
    async with held_up(tmp_path / "viewer.db"):
        writing = [asyncio.create_task(store.write(Batch(logs=[line(str(n))]))) for n in range(50)]
        await asyncio.sleep(0.1)
    await asyncio.gather(*writing)

    # One batch may have been alone, before the others came.
    assert await store.changed(first) <= first + 2
    assert 51 == len(bodies(store))


async def changed_after(store: Store, writing: object, seen: int) -> int:
    assert asyncio.iscoroutine(writing)
    await writing
    return await asyncio.wait_for(store.changed(seen), WAIT_S)


async def test_changed_wakes_all_that_wait(store: Store) -> None:
    """All that wait get the state after a change; if it is past already, they get it at once."""
    waiting = [asyncio.create_task(store.changed(0)) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in waiting)

    await store.write(Batch(logs=[line()]))
    states = await asyncio.wait_for(asyncio.gather(*waiting), WAIT_S)
    later = await changed_after(store, store.write(Batch(events=[event("x")])), states[0])

    assert 1 == len(set(states))
    assert later > states[0]
    assert later == await asyncio.wait_for(store.changed(0), WAIT_S)


async def test_nobody_waits_for_ever_at_the_end(open_store: OpenStore) -> None:
    """Who waits for a change is told when the store is closed; one that went is forgotten."""
    store = open_store()
    gone, waiting = (asyncio.create_task(store.changed(0)) for _ in range(2))
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.sleep(0.02)

    await asyncio.to_thread(store.close)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, WAIT_S)


async def test_close_writes_what_waits(tmp_path: Path, open_store: OpenStore) -> None:
    """A store that is closed has written, and acknowledged, all that was handed to it."""
    store = open_store()
    async with held_up(tmp_path / "viewer.db") as release:
        writing = [asyncio.create_task(store.write(Batch(logs=[line(str(n))]))) for n in range(20)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(store.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        release()
        await asyncio.wait_for(asyncio.gather(closing, *writing), WAIT_S)

    assert sorted(str(n) for n in range(20)) == bodies(open_store())


async def test_write_after_the_end(open_store: OpenStore) -> None:
    """A closed store refuses what comes; it does not let its sender wait."""
    store = open_store()
    store.close()

    with pytest.raises(StoreError, match="closed"):
        await asyncio.wait_for(store.write(Batch(logs=[line()])), WAIT_S)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(store.changed(0), WAIT_S)


async def test_cancelled_write_is_not_written(store: Store, tmp_path: Path) -> None:
    """What its sender no longer waits for, before its turn, is left out; the others are there."""
    async with held_up(tmp_path / "viewer.db"):
        first = asyncio.create_task(store.write(Batch(logs=[line("first")])))
        await asyncio.sleep(0.1)  # it is on its way by now, and waits for the database
        others = [asyncio.create_task(store.write(Batch(logs=[line(str(n))]))) for n in range(3)]
        await asyncio.sleep(0.02)
        others[1].cancel()
        await asyncio.sleep(0.02)
    await asyncio.gather(first, others[0], others[2])

    assert ["0", "2", "first"] == bodies(store)


async def test_write_cancelled_too_late(store: Store, tmp_path: Path) -> None:
    """A write that is cancelled on its way may be there; nothing else suffers."""
    async with held_up(tmp_path / "viewer.db"):
        late = asyncio.create_task(store.write(Batch(logs=[line("late")])))
        await asyncio.sleep(0.1)
        late.cancel()
        await asyncio.sleep(0.02)
    await store.write(Batch(logs=[line("next")]))

    assert ["late", "next"] == bodies(store)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Batch(logs=[line("good"), line("\ud800")]), id="line"),
        pytest.param(Batch(logs=[line("good"), line(attributes={"a": "\ud800"})]), id="attribute"),
        pytest.param(Batch(logs=[line("good"), line(resource={"a": "\ud800"})]), id="resource"),
        pytest.param(Batch(logs=[line("good")], events=[event("x", uuid="\ud800")]), id="event"),
        pytest.param(
            Batch(logs=[line("good")], snapshots=[snapshot(), snapshot("\ud800")]), id="snapshot"
        ),
    ],
)
async def test_bad_batch_fails_alone(store: Store, tmp_path: Path, bad: Batch) -> None:
    """One that cannot be written is refused as a whole; those beside it are written once."""
    async with held_up(tmp_path / "viewer.db"):
        first = asyncio.create_task(store.write(Batch(logs=[line("first")])))
        await asyncio.sleep(0.1)
        before = asyncio.create_task(
            store.write(Batch(logs=[line("before")], events=[exception(uuid="e1")]))
        )
        failing = asyncio.create_task(store.write(bad))
        after = asyncio.create_task(
            store.write(Batch(logs=[line("after")], snapshots=[snapshot("kept")]))
        )
        await asyncio.sleep(0.05)
    await asyncio.gather(first, before, after)
    with pytest.raises(StoreError, match="could not be written"):
        await failing

    assert ["after", "before", "first"] == bodies(store)
    assert 3 == store.summary(EVERYTHING).total == store.linkage(EVERYTHING).total
    assert [1] == [issue.occurrences for issue in store.issues()]
    assert ["kept"] == [each.session_id for each in store.recordings()]
    await store.write(Batch(logs=[line("again")]))
    assert 4 == len(bodies(store))


def largest(folder: Path) -> int:
    return max(each.stat().st_size for each in folder.iterdir())


@contextlib.contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """
    Let no file grow beyond that size.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_disk_is_full(store: Store, tmp_path: Path) -> None:
    """What finds no room is refused; what was kept is there, and later there is room again."""
    await store.write(Batch(logs=[line("before")], snapshots=[snapshot("before")]))
    size = largest(tmp_path)
    large = Batch(logs=[line("x" * 2000 + str(n)) for n in range(1000)])
    with full_disk(size + 300_000):
        with pytest.raises(StoreError, match="could not be written"):
            await store.write(large)
        during = bodies(store)
        refused = store.summary(EVERYTHING).total

    await store.write(Batch(logs=[line("after")], snapshots=[snapshot("after")]))
    await store.write(large)

    assert (["before"], 1) == (during, refused)
    assert 1002 == store.summary(EVERYTHING).total == len(bodies(store))
    assert {"before", "after"} == {each.session_id for each in store.recordings()}


async def test_writer_outlives_damage(open_store: OpenStore, tmp_path: Path) -> None:
    """What cannot be written is refused each time, and the writer goes on when it can again."""
    store = open_store()
    other = sqlite3.connect(tmp_path / "viewer.db")
    other.execute("ALTER TABLE kind RENAME TO hidden")
    for _ in range(2):
        with pytest.raises(StoreError):
            await store.write(Batch(logs=[line()]))
    other.execute("ALTER TABLE hidden RENAME TO kind")
    other.close()
    await store.write(Batch(logs=[line("again")]))

    assert ["again"] == [log.body for log in all_logs(store, LogQuery())]
