from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> list[list[str]]:
    """Return the cells of all tables that the benchmark prints."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.viewer", "--quick", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert not result.stderr
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_writing() -> None:
    """Lines are acknowledged, beside what SQLite alone does, and each goal is judged."""
    rows = bench("--only", "writing", "--rounds", "1")

    rates = {row[0]: row[1:] for row in rows if len(row) == 4 and row[-1][0].isdecimal()}
    assert {"acknowledged by the viewer", "`sqlite3.executemany` alone"} == rates.keys()
    assert all(float(rate.replace(",", "")) > 0 for rates in rates.values() for rate in rates)
    assert 3 == sum(row[-1] in ("met", "**not met**") for row in rows)


def test_reading(tmp_path: Path) -> None:
    """Each query is asked, with lines that are stored first and again with those that are kept."""
    database = tmp_path / "viewer.db"
    options = ["--only", "reading", "--lines", "3000", "--requests", "2"]
    first = bench(*options, "--database", str(database))
    second = bench(*options, "--database", str(database))

    for rows in (first, second):
        times = {row[0]: row[1:] for row in rows if len(row) >= 4 and row[1].isdecimal()}
        assert {"first page", "text, rare", "attribute, rare", "counts, all"} <= times.keys()
        assert "from a line's logging until it is in the list" in times
        assert len(times) == sum(row[-1] in ("met", "**not met**") for row in rows)
    assert database.exists()
