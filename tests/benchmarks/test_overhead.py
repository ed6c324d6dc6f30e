from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--quick", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not result.stderr
    assert result.returncode == 0
    return result.stdout.splitlines()


def first_cells(lines: list[str], title: str) -> list[str]:
    """Return the first column of the table with that title, without its head."""
    start = next(number for number, line in enumerate(lines) if line.startswith(f"### {title}"))
    cells = []
    for line in lines[start + 4 :]:
        if not line.startswith("|"):
            break
        cells.append(line.split("|")[1].strip())
    return cells


@pytest.mark.parametrize(
    ("part", "title", "rows"),
    [
        pytest.param(
            "asgi",
            "ASGI: the session ID in a header",
            ["hand-written minimum", "**replaylink**"],
            id="asgi",
        ),
        pytest.param(
            "body",
            "ASGI: the session ID in the body",
            ["chat", "chat", "chat", "long strings", "long strings"],
            id="body",
        ),
        pytest.param(
            "wsgi",
            "WSGI: the session ID in a header",
            ["hand-written minimum", "**replaylink**"],
            id="wsgi",
        ),
        pytest.param(
            "lines",
            "A structlog line",
            ["session known, nobody signed in", "both known", "user told late by `identify()`"],
            id="lines",
        ),
    ],
)
def test_each_part_prints_its_table(part: str, title: str, rows: list[str]) -> None:
    """Each part of the benchmark runs, without any peer installed, and prints its table."""
    cells = first_cells(bench("--only", part), title)

    assert rows == [cell for cell in cells if cell in rows]


def test_servers_answer_under_load() -> None:
    """Whole servers start, answer with and without replaylink, and are stopped."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("gunicorn")

    lines = bench("--only", "servers")

    assert ["uvicorn", "gunicorn (gthread)"] == first_cells(lines, "Whole servers")


def test_goals_are_judged() -> None:
    """Each goal stands in the last table, with what was measured and whether it is met."""
    lines = bench("--only", "lines")

    cells = [line.split("|")[4].strip() for line in lines[lines.index("### Goals") + 4 :]]

    assert len(cells) == 3
    assert {"met", "**not met**"}.issuperset(cells)
