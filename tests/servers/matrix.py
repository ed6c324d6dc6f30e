"""
The truth table: which line of a request is linked, on which server.

::

    python -m tests.servers.matrix [--json] [SERVER ...]

It starts each server with the app of its protocol in `tests.servers.matrix_apps`, lets
several clients at once provoke each kind of line, each time with other IDs or with none,
and reads what was written to the console. The tables are those of the README. The exit
status is 1 if an ID stands on the line of another request, or if the README says
otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from websockets.asyncio.client import connect

from tests.servers.plan import LARGE, NUMBER, Line, Plan, Protocol, Steps, ids_of
from tests.servers.running import KINDS, ROOT, Kind, Server, running

Cell: TypeAlias = Literal["linked", "foreign", "missing", "not written", "n/a"]
Column: TypeAlias = dict[str, Cell]
"""The cells of one server, by their rows."""

WORST_FIRST: Final[tuple[Cell, ...]] = ("foreign", "not written", "missing", "linked")

CLIENTS: Final = 3
"""How many at once, each with a connection of its own."""

AT_ONCE: Final = 3
"""How many servers are measured at a time."""

LATE_S: Final = 1.5
"""How long to wait for a line that may never be written: daphne takes up to a second."""

README: Final = ROOT / "README.md"


class Row(NamedTuple):
    """
    A kind of line.

    Args:
        name: What it is called here and in the README; the event of the app's own lines.
        paths: The requests that write it.
        protocols: Those that have such a thing.
    """

    name: str
    paths: tuple[str, ...]
    protocols: tuple[Protocol, ...] = ("asgi", "wsgi")


TRACEBACK: Final = {
    "failing": "server's traceback",
    "bare": "server's traceback, 500 by the server",
}
"""What the server writes of an error, by the requests that fail."""

HANDLER: Final = "handler for `Exception`"
ACCESS_LOG: Final = "`ASGIAccessLog`, `WSGIAccessLog`"
ACCESS: Final = {
    "sync": "access line, 200",
    "upload": "access line, 200",
    "missing": "access line, 404",
    "handled": "access line, 500",
    "failing": "access line, 500",
    "bare": "access line, 500 by the server",
}
"""The access lines, by the requests that they are about."""

ROWS: Final = (
    Row("endpoint, async", ("async", "upload")),
    Row("endpoint, sync", ("sync",)),
    Row("dependency, async", ("async",)),
    Row("dependency, sync", ("async",)),
    Row("thread by `to_thread`", ("async",)),
    Row("thread by an executor with `carry()`", ("async",)),
    Row("thread by a bare executor", ("async",)),
    Row("task created by the endpoint", ("async",), ("asgi",)),
    Row("streamed chunk", ("async",)),
    Row("server-sent event", ("events",)),
    Row("background task", ("async",)),
    Row("WebSocket message", ("websocket",), ("asgi",)),
    Row("standard-library line", ("async",)),
    Row("exception captured by PostHog", ("handled", "failing")),
    Row("error handler", ("handled",)),
    Row(HANDLER, ("failing",)),
    Row("unhandled error, in middleware around", ("bare",)),
    Row(TRACEBACK["failing"], ("failing",), ("asgi",)),
    Row(TRACEBACK["bare"], ("bare",)),
    *(
        Row(name, tuple(path for path in ACCESS if ACCESS[path] == name))
        for name in dict.fromkeys(ACCESS.values())
    ),
    Row(ACCESS_LOG, tuple(ACCESS)),
    Row("middleware around, before and after", ("async", "sync", "upload")),
)

WEBSOCKET: Final = "websocket"
PATHS: Final = tuple(dict.fromkeys(path for row in ROWS for path in row.paths if path != WEBSOCKET))

_ACCESS_LINE: Final = re.compile(
    # werkzeug paints the line of a failed request; daphne's is the text of a dict.
    r"""(?:"(?:\x1b\[\d+m)*(?:GET|POST) |complete \{'path': ')/(\w+)/"""
)


def measure(kind: Kind, folder: Path) -> Column:
    """
    Start a server, provoke all lines, and return what became of each kind.
    """
    kind = dataclasses.replace(kind, app=f"tests.servers.matrix_apps:{kind.protocol}")
    with running(kind, folder) as server:
        plans = asyncio.run(_provoke(server))
    return column(kind.protocol, plans, server.output())


def measure_all(kinds: Sequence[Kind], folder: Path) -> dict[str, Column]:
    """
    Measure servers, some at a time, and return their columns by their names.
    """
    folders = [folder / kind.name for kind in kinds]
    for each in folders:
        each.mkdir()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        columns = pool.map(measure, kinds, folders)
        return {kind.name: column for kind, column in zip(kinds, columns, strict=True)}


async def _provoke(server: Server) -> list[Plan]:
    plans: list[Plan] = []
    numbers = count(1)

    def plan(path: str, *, has_ids: bool) -> Plan:
        plan = Plan(
            number=next(numbers),
            path=f"/{path}/",
            session="header" if has_ids else "",
            claims_user=has_ids,
            body_bytes=LARGE if path == "upload" else 0,
            steps=Steps(read=path == "upload"),
        )
        plans.append(plan)
        return plan

    async def work(start: int) -> None:
        async with server.client() as client:
            for path in [*PATHS[start:], *PATHS[:start]]:
                for has_ids in (True, True, False):
                    await client.send(plan(path, has_ids=has_ids))
        if server.kind.protocol == "asgi":
            for has_ids in (True, False):
                await _talk(server.port, plan(WEBSOCKET, has_ids=has_ids))

    def is_complete() -> bool:
        return "not written" not in column(server.kind.protocol, plans, server.output()).values()

    await asyncio.gather(*(work(start) for start in range(CLIENTS)))
    await server.until(is_complete, seconds=LATE_S)
    return plans


async def _talk(port: int, plan: Plan) -> None:
    uri = f"ws://127.0.0.1:{port}{plan.target}"
    async with connect(uri, additional_headers=plan.headers, proxy=None) as websocket:
        for _ in range(2):
            await websocket.send("hello")
            await websocket.recv()


def column(protocol: Protocol, plans: Iterable[Plan], output: str) -> Column:
    """
    Return what became of each kind of line: the worst of all requests.

    Args:
        protocol: What the server speaks to the app.
        plans: The requests.
        output: What was written to the console.
    """
    lines = _lines(output)
    seen: defaultdict[str, set[Cell]] = defaultdict(set)
    for plan in plans:
        path = plan.path.strip("/")
        of_plan = [
            (TRACEBACK.get(path, name) if name == "traceback" else name, line)
            for name, line in lines[plan.number]
        ]
        written = {name for name, _ in of_plan}
        for row in ROWS:
            if path in row.paths and row.name not in written:
                seen[row.name].add("not written")
        for name, line in of_plan:
            cell = _cell(plan, line)
            # Without IDs there is nothing to link.
            if cell == "foreign" or plan.session:
                seen[name].add(cell)
    return {
        row.name: min(seen[row.name], key=WORST_FIRST.index, default="not written")
        if protocol in row.protocols
        else "n/a"
        for row in ROWS
    }


def _lines(output: str) -> defaultdict[int, list[tuple[str, Line]]]:
    """
    Return the lines on a console with their rows, by the numbers of their requests.
    """
    lines: defaultdict[int, list[tuple[str, Line]]] = defaultdict(list)
    for text in output.splitlines():
        # What a server writes past `logging` is no JSON, and has no IDs.
        line: Line = json.loads(text) if text.startswith("{") else {"event": text}
        number = line.get("n")
        if number is None:
            said = f"{line['event']} {line.get('path')} {line.get('exception')}"
            found = NUMBER.search(said)
            number = int(found[1]) if found else None
        if number is not None:
            lines[number].append((_row(line), line))
    return lines


def _row(line: Line) -> str:
    """
    Return the name of the row that a line belongs to; the event of others.
    """
    event: str = line["event"]
    if event == "request":
        return ACCESS_LOG
    if found := _ACCESS_LINE.search(event):
        return ACCESS.get(found[1], event)
    if line.get("logger") == "matrix":
        return HANDLER  # Flask's own line, as it is about to call the handler
    if "Traceback" in line.get("exception", event):
        return "traceback"
    return event


def _cell(plan: Plan, line: Line) -> Cell:
    ids = {key: value for key, value in ids_of(line).items() if value is not None}
    own = plan.ids("")
    if not ids.items() <= own.items():
        return "foreign"
    return "linked" if ids == own else "missing"


# --- The README's tables ------------------------------------------------------------


def tables(columns: Mapping[str, Column]) -> str:
    """
    Return the tables, one for each protocol, in which servers that do the same share a
    column.
    """
    return "\n".join(
        _table(protocol, [kind for kind in KINDS if kind.protocol == protocol], columns)
        for protocol in PROTOCOLS
        if any(kind.name in columns for kind in KINDS if kind.protocol == protocol)
    )


PROTOCOLS: Final[tuple[Protocol, ...]] = ("asgi", "wsgi")


def _table(protocol: Protocol, kinds: Iterable[Kind], columns: Mapping[str, Column]) -> str:
    groups: dict[tuple[Cell, ...], list[str]] = {}
    names = [row.name for row in ROWS if protocol in row.protocols]
    for kind in kinds:
        if kind.name in columns:
            cells = tuple(columns[kind.name][name] for name in names)
            labels = groups.setdefault(cells, [])
            if kind.label not in labels:
                labels.append(kind.label)
    rows = [
        (protocol.upper(), *(", ".join(labels) for labels in groups.values())),
        ("---",) * (len(groups) + 1),
        *zip(names, *groups, strict=True),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def readme() -> dict[str, Column]:
    """
    Return what the README says of each server, by the servers' names.
    """
    columns: dict[str, Column] = {}
    text = README.read_text()
    for protocol in PROTOCOLS:
        start = text.index(f"| {protocol.upper()} | ", text.index(HEADING))
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in text[start:].split("\n\n", 1)[0].splitlines()
        )
        told = {name: cells for name, *cells in rows}
        for index, labels in enumerate(head[1:]):
            for kind in KINDS:
                if kind.protocol == protocol and kind.label in labels.split(", "):
                    columns[kind.name] = {
                        row.name: told[row.name][index] if row.name in told else "n/a"  # type: ignore[misc]
                        for row in ROWS
                    }
    return columns


HEADING: Final = "## What is promised, and what is not"


def main() -> int:
    """
    Measure the servers, print their tables, and return the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.matrix",
        description="Which line of a request is linked, on which server.",
    )
    parser.add_argument(
        "servers",
        nargs="*",
        metavar="SERVER",
        help=f"all by default: {', '.join(kind.name for kind in KINDS)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, server by server")
    arguments = parser.parse_args()
    unknown = set(arguments.servers) - {kind.name for kind in KINDS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    kinds = [kind for kind in KINDS if not arguments.servers or kind.name in arguments.servers]
    with tempfile.TemporaryDirectory() as folder:
        columns = measure_all(kinds, Path(folder))
    sys.stdout.write((json.dumps(columns, indent=2) if arguments.json else tables(columns)) + "\n")
    told = readme()
    faults = [
        f"{name}: {row}: {cell}, and the README says {told[name][row]}"
        for name, cells in columns.items()
        for row, cell in cells.items()
        if cell == "foreign" or cell != told[name][row]
    ]
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
