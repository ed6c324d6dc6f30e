from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]


def bench(module: str) -> list[list[str]]:
    """Return the cells of all tables that a benchmark prints."""
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not result.stderr
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_delivery() -> None:
    """Each endpoint that is asked over HTTP gets something, and each goal is judged."""
    rows = bench("delivery")

    sent = {row[0]: row[-1] for row in rows if len(row) == 7}
    assert {"in order", "answers after 5 s", "answers 500", "answers 429", "answers 401"} <= {
        name for name, count in sent.items() if count.isdecimal() and int(count) > 0
    }
    assert int(sent["never answers"]) > 0
    assert 18 == sum(row[-1] in ("met", "**not met**") for row in rows)


def test_line() -> None:
    """A line is measured on each chain, by structlog and by the standard library."""
    pytest.importorskip("opentelemetry.instrumentation.logging.handler")

    rows = bench("line")

    costs = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert {"no export", "OpenTelemetry's `LoggingHandler`", "**replaylink**"} <= costs.keys()
    assert all(float(cost) > 0 for cost in costs["**replaylink**"])
    assert 2 == sum(row[-1] in ("met", "**not met**") for row in rows)
