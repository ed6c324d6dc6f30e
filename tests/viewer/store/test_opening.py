"""
How a database is opened, shared with nobody, and found again.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from replaylink.viewer.query import LogQuery
from replaylink.viewer.records import Batch
from replaylink.viewer.store import MIN_LEFTOVER_S, Store, StoreError
from replaylink.viewer.store.schema import SCHEMA_VERSION
from tests.viewer.store.conftest import OpenStore
from tests.viewer.store.making import all_logs, event, exception, line, snapshot

HOLDER = """
import sys, time
from pathlib import Path
from replaylink.viewer.store import Store
store = Store(Path(sys.argv[1]) if sys.argv[1:] else None)
print("open", flush=True)
time.sleep(60)
"""


def write(store: Store, batch: Batch) -> None:
    asyncio.run(store.write(batch))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"once upon a time\n" * 100, id="text"),
        pytest.param(b"x", id="one-byte"),
        pytest.param(None, id="database-of-something-else"),
    ],
)
def test_foreign_file_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not the viewer's is refused, and nothing is changed in it or beside it."""
    path = tmp_path / "notes.db"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE note (text)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"is not one of the viewer's: choose another file\.$"):
        Store(path)

    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1], ids=["older", "newer"])
def test_other_version_is_refused(tmp_path: Path, version: int) -> None:
    """A database of another version of the viewer is refused, and the message tells so."""
    path = tmp_path / "viewer.db"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()

    with pytest.raises(StoreError, match=r"another version .*, or remove it\.$"):
        Store(path)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """The message names the database that cannot be made."""
    path = tmp_path / "none" / "viewer.db"

    with pytest.raises(StoreError, match=r"none/viewer\.db"):
        Store(path)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    """A folder is no database."""
    with pytest.raises(StoreError, match=re.escape(str(tmp_path))):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"retention_days": 0}, "retention_days=0", id="retention"),
        pytest.param({"retention_days": -1}, "retention_days=-1", id="negative"),
        pytest.param({"max_size_mb": 0}, "max_size_mb=0", id="size"),
        pytest.param({"max_size_mb": 1}, "max_size_mb=1", id="too-small"),
    ],
)
def test_limits_that_make_no_sense(tmp_path: Path, options: dict[str, float], said: str) -> None:
    """A limit that would keep nothing is refused, and no file is made."""
    with pytest.raises(ValueError, match=said):
        Store(tmp_path / "viewer.db", **options)

    assert [] == list(tmp_path.iterdir())


def test_second_store_is_refused(open_store: OpenStore) -> None:
    """A database has one store at a time; it can be opened when the first has ended."""
    first = open_store()

    with pytest.raises(StoreError, match="in use by another viewer"):
        open_store()

    first.close()
    assert open_store().is_empty()


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_second_process_is_refused(tmp_path: Path, open_store: OpenStore, end: str) -> None:
    """Another process has to wait until the first has ended, in whatever way."""
    path = tmp_path / "viewer.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert "open\n" == holder.stdout.readline()
            with pytest.raises(StoreError, match="in use by another viewer"):
                open_store(path)
        finally:
            getattr(holder, end)()

    assert open_store(path).is_empty()


def test_temporary_database_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    """A store without a path leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = open_store(None)
    write(store, Batch(logs=[line()]))
    during = list(tmp_path.iterdir())

    store.close()

    assert 1 == len(during)
    assert [] == list(tmp_path.iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def leftover(temporary: Path) -> Path:
    """What a store without a path leaves when its process is killed, some time later."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "open\n" == holder.stdout.readline()
        holder.kill()
    (folder,) = temporary.iterdir()
    make_old(folder)
    return folder


def make_old(folder: Path) -> None:
    then = time.time() - MIN_LEFTOVER_S - 1
    os.utime(folder, (then, then))


def test_leftovers_are_removed(leftover: Path, open_store: OpenStore) -> None:
    """What a killed process has left goes with the next start of a store without a path."""
    open_store()
    assert leftover.exists()

    open_store(None)

    assert not leftover.exists()


@pytest.mark.parametrize("kind", ["young", "unlocked", "named", "link", "foreign", "file"])
def test_others_folders_are_left_alone(
    leftover: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A folder stays that may be in use, or that is not what a store of this user has left."""
    (lock,) = leftover.glob("*-lock")
    kept = leftover
    if kind == "young":
        os.utime(leftover)
    elif kind == "unlocked":
        lock.unlink()
        make_old(leftover)
    elif kind == "named":
        kept = leftover.rename(leftover.with_name("other"))
    elif kind == "link":
        leftover.rename(kept := leftover.with_name("other"))
        leftover.symlink_to(kept)
    elif kind == "foreign":
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    else:
        lock.unlink()
        lock.mkdir()
        make_old(leftover)
    before = sorted(kept.iterdir())

    open_store(None)

    assert before == sorted(kept.iterdir())


def test_store_in_use_is_left_alone(temporary: Path, open_store: OpenStore) -> None:
    """However old a temporary database is, nobody removes it while its store is open."""
    store = open_store(None)
    (folder,) = temporary.iterdir()
    make_old(folder)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "open\n" == holder.stdout.readline()
        holder.kill()
    open_store(None)
    write(store, Batch(logs=[line()]))

    assert folder.is_dir()
    assert not store.is_empty()


def test_many_may_remove_leftovers(leftover: Path) -> None:
    """Stores that start at the same time do not mind one another."""
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = []
    for holder in holders:
        with holder:
            assert holder.stdout is not None
            said.append(holder.stdout.readline())
            holder.kill()

    assert ["open\n"] * 3 == said
    assert not leftover.exists()


def test_two_temporary_databases(open_store: OpenStore) -> None:
    """Stores without a path have nothing to do with one another."""
    one, other = open_store(None), open_store(None)
    write(one, Batch(logs=[line()]))

    assert (False, True) == (one.is_empty(), other.is_empty())


def test_everything_is_found_again(open_store: OpenStore) -> None:
    """A database that is opened again shows what it showed before, and goes on from there."""
    store = open_store()
    batch = Batch(
        logs=[line(str(n), attributes={"sessionId": "s1", "n": n}) for n in range(10)],
        events=[exception(), event("$pageview")],
        snapshots=[snapshot()],
    )
    write(store, batch)

    def shown(store: Store) -> tuple[object, ...]:
        return (
            all_logs(store, LogQuery()),
            store.summary(LogQuery()),
            store.linkage(LogQuery()),
            store.issues(),
            store.recordings(),
            store.timeline("s1"),
            list(store.snapshots("s1", "w1")),
        )

    before = shown(store)
    store.close()
    store = open_store()

    assert before == shown(store)
    write(store, batch)
    assert 20 == store.summary(LogQuery()).total == len(all_logs(store, LogQuery()))
    assert 1 == len(store.timeline("s1").events)
    assert [1] == [issue.occurrences for issue in store.issues()]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """A new database, which holds what people saw, is its owner's alone."""
    path = tmp_path / "viewer.db"
    Store(path).close()

    assert 0o600 == path.stat().st_mode & 0o777


def test_another_name_for_the_file(tmp_path: Path) -> None:
    """A second viewer is refused by whatever name it knows the database."""
    path = tmp_path / "viewer.db"
    store = Store(path)
    (tmp_path / "other.db").symlink_to(path)
    try:
        with pytest.raises(StoreError, match="in use"):
            Store(tmp_path / "other.db")
    finally:
        store.close()


def test_damaged_database(tmp_path: Path) -> None:
    """A database with a table missing is told of by a StoreError."""
    path = tmp_path / "viewer.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE kind")
    connection.close()

    with pytest.raises(StoreError, match="cannot be used: no such table"):
        Store(path)
