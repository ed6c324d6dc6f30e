"""
The tables, and how a database is opened.

Log lines stand in shards, which follow one another in order of arrival: each has a table of
its lines and two indexes. A shard that is older than what is to be kept is dropped as a whole,
which costs next to nothing, and no index grows so large that writing to it becomes slow.

The indexes are full-text tables that keep no text of their own:

- ``text_N`` has the three-letter sequences of the messages, for search by any part of a word.
- ``terms_N`` has one term for each attribute (``key=value``), one that tells that the
  attribute is there at all (``?key``), and some that begin with ``@``; see `terms`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

APPLICATION_ID = 0x72706C6B  # "rplk"
SCHEMA_VERSION = 1

PAGE_BYTES = 8192

READ_CACHE_KB = 8_000
WRITE_CACHE_KB = 32_000
ARRIVING_CACHE_KB = 16_000

BUSY_TIMEOUT_S = 10.0

SEGMENTS_TO_MERGE = 12
"""
How many segments of a full-text index become one, little by little. With SQLite's 4 all writing
takes half as long again; with more than this a search has more of them to read.
"""

MAX_SEGMENTS = 64
"""
How many segments are merged at once, while everybody waits. Only lines that come one by one
make so many, and such small ones that it takes some tens of milliseconds.
"""

_HEADER_BYTES = 100

_TABLES = """
CREATE TABLE shard (
    id INTEGER PRIMARY KEY,
    first_us INTEGER NOT NULL,   -- of its lines
    last_us INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    opened_us INTEGER NOT NULL,  -- when its first line came
    text_bytes INTEGER NOT NULL  -- of its lines and their resources, before any index
);
CREATE TABLE kind (
    id INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    severity TEXT NOT NULL,
    linked INTEGER NOT NULL
);
CREATE TABLE resource (
    id INTEGER PRIMARY KEY,
    attributes BLOB NOT NULL UNIQUE,
    shard INTEGER NOT NULL       -- the last one that has lines of it
);
-- How many lines of each kind there are in each step of time.
CREATE TABLE line_count (
    step_s INTEGER NOT NULL,
    start_s INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    PRIMARY KEY (step_s, start_s, shard, kind)
) WITHOUT ROWID;
CREATE INDEX line_count_shard ON line_count (shard);
CREATE TABLE logger_count (
    start_s INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    service TEXT NOT NULL,
    logger TEXT NOT NULL,
    lines INTEGER NOT NULL,
    linked INTEGER NOT NULL,
    PRIMARY KEY (start_s, shard, service, logger)
) WITHOUT ROWID;
CREATE INDEX logger_count_shard ON logger_count (shard);

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    time_us INTEGER NOT NULL,
    distinct_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    window_id TEXT NOT NULL,
    issue TEXT,                  -- of an exception
    properties BLOB NOT NULL
);
CREATE INDEX event_time ON event (time_us);
CREATE INDEX event_session ON event (session_id, time_us) WHERE session_id <> '';
CREATE INDEX event_issue ON event (issue, time_us) WHERE issue IS NOT NULL;
CREATE TABLE issue (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    message TEXT NOT NULL,
    library TEXT NOT NULL,
    last_seen_us INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE recording (
    session_id TEXT PRIMARY KEY,
    distinct_id TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX recording_last ON recording (last_ms);
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    window_id TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    playable INTEGER NOT NULL,
    events BLOB NOT NULL         -- zlib
);
CREATE INDEX snapshot_session ON snapshot (session_id, window_id, first_ms);
"""

# All that is printable in ASCII belongs to a term; only control characters separate.
_TERM_CHARACTERS = "".join(map(chr, range(32, 127)))

_SHARD_TABLES = """
CREATE TABLE log_{shard} (
    id INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    resource INTEGER NOT NULL,
    scope TEXT NOT NULL,
    body TEXT NOT NULL,
    attributes BLOB NOT NULL,
    event_name TEXT,
    trace_id TEXT,
    span_id TEXT
);
CREATE VIRTUAL TABLE text_{shard} USING fts5(
    body, content='', columnsize=0, tokenize='trigram'
);
CREATE VIRTUAL TABLE terms_{shard} USING fts5(
    terms, content='', columnsize=0, detail=none, tokenize={tokenizer}
);
"""

# Lines on their way into a shard. From here each of its tables takes them by one statement,
# in the order of their IDs: a full-text table begins a new segment with every statement of
# many rows, and with every row that comes before the last one.
_ARRIVING = """
CREATE TEMP TABLE arriving (
    id INTEGER PRIMARY KEY, time_us, resource, scope, body, attributes, event_name, trace_id,
    span_id, terms
);
"""

KEEP_ARRIVALS = (
    "INSERT INTO log_{shard} SELECT id, time_us, resource, scope, body, attributes,"
    " event_name, trace_id, span_id FROM arriving ORDER BY id"
)
"""Copies the lines of the table ``arriving`` into a shard; fails if one of their IDs is taken."""

INDEX_ARRIVALS = (
    "INSERT INTO text_{shard} (rowid, body) SELECT id, substr(body, 1, {max_searched})"
    " FROM arriving ORDER BY id",
    "INSERT INTO terms_{shard} (rowid, terms) SELECT id, terms FROM arriving ORDER BY id",
)
"""Enter the lines of the table ``arriving`` into the indexes of a shard."""


class StoreError(Exception):
    """
    The database cannot be used; the message tells why.
    """


def check(path: Path) -> None:
    """
    Look whether a file, if there is one, is a database of the viewer, and leave it as it is.

    Raises:
        StoreError: If it is something else, or of another version.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as exc:
        msg = f"The database {path} cannot be opened: {exc.strerror}."
        raise StoreError(msg) from exc
    # https://www.sqlite.org/fileformat.html#the_database_header
    application = int.from_bytes(header[68:72], "big")
    version = int.from_bytes(header[60:64], "big")
    if header and (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
        what = (
            "was made by another version of the viewer: choose another file, or remove it"
            if application == APPLICATION_ID
            else "is not one of the viewer's: choose another file"
        )
        msg = f"The database {path} {what}."
        raise StoreError(msg)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """
    Open the database, and make its tables if it is new.

    Raises:
        StoreError: If it cannot be used.
    """
    if sqlite3.sqlite_version_info < (3, 34):
        msg = f"The viewer needs SQLite 3.34 or newer; Python has {sqlite3.sqlite_version}."
        raise StoreError(msg)
    try:
        # It holds what people saw: SQLite gives its other files the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    except (sqlite3.Error, OSError) as exc:
        msg = f"The database {path} cannot be opened: {exc}."
        raise StoreError(msg) from exc
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            # Before the write-ahead log is there, so that `check` finds it in the file itself.
            connection.executescript(
                f"BEGIN IMMEDIATE; {_TABLES}"
                f"PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        connection.execute("PRAGMA journal_mode = wal")
        # What is acknowledged is on the disk, and survives the machine too.
        connection.execute("PRAGMA synchronous = full")
        connection.execute(f"PRAGMA cache_size = -{WRITE_CACHE_KB}")
        connection.execute(f"PRAGMA temp.cache_size = -{ARRIVING_CACHE_KB}")
        connection.execute(_ARRIVING)
    except sqlite3.Error as exc:
        connection.close()
        msg = f"The database {path} cannot be used: {exc}."
        raise StoreError(msg) from exc
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """
    Open a database that has its tables.
    """
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = 1")
    connection.execute(f"PRAGMA cache_size = -{READ_CACHE_KB}")
    return connection


def lock(path: Path) -> sqlite3.Connection:
    """
    Keep other processes from writing to the database, as long as the connection is open.

    The lock is SQLite's own, on a file beside the database: it works wherever SQLite does, and
    goes with the process however that ends.

    Raises:
        StoreError: If another process has it.
    """
    connection = None
    try:
        connection = sqlite3.connect(
            path.with_name(path.name + "-lock"),
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as exc:
        if connection is None:
            msg = f"The database {path} cannot be opened: {exc}."
        else:
            connection.close()
            msg = f"The database {path} is in use by another viewer ({exc})."
        raise StoreError(msg) from exc
    return connection


def create_shard(connection: sqlite3.Connection, now_us: int) -> int:
    """
    Make an empty shard, within the transaction that is open, and return its number.
    """
    shard = connection.execute(
        "INSERT INTO shard (first_us, last_us, lines, opened_us, text_bytes)"
        " VALUES (0, 0, 0, ?, 0)",
        (now_us,),
    ).lastrowid
    assert shard is not None  # noqa: S101 - an INSERT has one
    characters = _TERM_CHARACTERS.replace("'", "''")
    tokenizer = '"' + f"ascii tokenchars '{characters}'".replace('"', '""') + '"'
    for statement in _SHARD_TABLES.format(shard=shard, tokenizer=tokenizer).split(";\n"):
        if statement.strip():
            connection.execute(statement)
    for table in (f"text_{shard}", f"terms_{shard}"):
        insert = f"INSERT INTO {table} ({table}, rank) VALUES (?, ?)"  # noqa: S608
        connection.execute(insert, ("automerge", SEGMENTS_TO_MERGE))
        connection.execute(insert, ("crisismerge", MAX_SEGMENTS))
    return shard


def drop_shard(connection: sqlite3.Connection, shard: int) -> None:
    """
    Remove a shard with all its lines, within the transaction that is open.
    """
    for table in ("log", "text", "terms"):
        connection.execute(f"DROP TABLE {table}_{shard:d}")
    for table in ("line_count", "logger_count"):
        connection.execute(f"DELETE FROM {table} WHERE shard = ?", (shard,))  # noqa: S608
    connection.execute("DELETE FROM shard WHERE id = ?", (shard,))
    connection.execute(
        # The widest step has the fewest rows, and all lines are counted in each.
        "DELETE FROM kind WHERE id NOT IN (SELECT DISTINCT kind FROM line_count"
        " WHERE step_s = (SELECT max(step_s) FROM line_count))"
    )
    connection.execute(
        "DELETE FROM resource WHERE NOT EXISTS (SELECT 1 FROM shard WHERE id <= resource.shard)"
    )


def used_bytes(connection: sqlite3.Connection) -> int:
    """
    Return how much of the database is in use; free pages are used again.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * PAGE_BYTES


def now_us() -> int:
    """
    Return the time, in microseconds since the epoch.
    """
    return time.time_ns() // 1000
