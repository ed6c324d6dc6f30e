"""What the README shows is run, and its output compared."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from replaylink import _options
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware

pytest.importorskip("fastapi")
pytest.importorskip("flask")

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(block: str) -> dict[str, Any]:
    # A module of its own: FastAPI looks annotations up in sys.modules.
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[-1][:40])
def test_python_blocks_run(block: str) -> None:
    """Each Python block of the README runs as it stands, in a process of its own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("POSTHOG", "OTEL"))
    }
    result = subprocess.run(
        [sys.executable, "-c", block],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (0, "") == (result.returncode, result.stderr)


@pytest.mark.parametrize("framework", ["FastAPI", "Flask"])
def test_set_ups_log_what_the_readme_shows(
    framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both set-ups log the line that the README shows, for the request that it shows."""
    [block] = [block for block in blocks("python") if f"app = {framework}(" in block][:1]
    app = run(block)["app"]
    [body] = re.findall(r"-d '(.*?)'", README)
    if framework == "FastAPI":
        from starlette.testclient import TestClient

        TestClient(app).post("/api/chat", json=json.loads(body)).raise_for_status()
    else:
        assert app.test_client().post("/api/chat", json=json.loads(body)).status_code == 200
    [line] = blocks("json")

    assert line == capsys.readouterr().out


@pytest.mark.parametrize("middleware", [ASGIMiddleware, WSGIMiddleware], ids=["asgi", "wsgi"])
def test_option_table_names_all_options(middleware: type) -> None:
    """The README's table has each option of both middlewares, and none that is not there."""
    table = README.split("| option | default | meaning |")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.strip().splitlines()[1:]]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    parameters = inspect.signature(middleware).parameters

    assert [name for name in parameters if name != "app"] == named


def test_defaults_in_the_table_are_the_defaults() -> None:
    """The defaults that the README's table shows are those of the code."""
    shown = README.split("| `session_id` | `")[1].split("`")[0]
    limit = README.split("| `max_body_bytes` | `")[1].split("`")[0]

    assert (
        repr(_options.DEFAULT_SESSION_ID).replace("'", '"'),
        _options.DEFAULT_MAX_BODY_BYTES,
    ) == (
        shown,
        int(limit),
    )


def test_changelog_tells_of_this_version() -> None:
    """The newest entry of the changelog is for the version of the package."""
    newest = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]

    assert version("replaylink") == newest


def test_readme_names_the_extras() -> None:
    """The README's table of extras has each extra of the package."""
    from importlib.metadata import metadata

    extras = metadata("replaylink").get_all("Provides-Extra")

    assert extras == re.findall(r"^\| `replaylink\[(\w+)\]`", README, re.MULTILINE)
