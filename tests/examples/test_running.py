"""
The example apps as they are started: what they print, and how they end.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.examples.running import Demo, command
from tests.processes import ROOT, START_S, STOP_S, environment

SESSION_ID = "0192f3a1-7c1e-7a6b-9d52-3f1c2b4a5e6d"
HEADER = {"X-PostHog-Session-ID": SESSION_ID}


@pytest.fixture(params=["fastapi", "flask"])
def app(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """
    Run an example that is to end by itself.
    """
    return subprocess.run(
        command("flask", *arguments),
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=START_S,
    )


def test_ctrl_c_ends_it_cleanly(app: str) -> None:
    """Ctrl-C ends an example with status 0, and with no word more on stderr."""
    with Demo(app) as demo:
        httpx.get(demo.url)
        ended = demo.stop()

    assert (0, "\n") == ended


def test_lines_are_json_where_there_is_no_terminal(app: str) -> None:
    """All that comes on stdout is JSON, the traceback of a failure included."""
    with Demo(app) as demo:
        httpx.post(f"{demo.url}api/export", headers=HEADER)
        lines = [line for line in demo.lines() if line.get("sessionId") == SESSION_ID]

    assert "export started" == lines[0]["event"]
    assert ["RuntimeError: there is no room left for the export"] == [
        line["exception"].splitlines()[-1] for line in lines if "exception" in line
    ]


def test_lines_are_readable_on_a_terminal(app: str) -> None:
    """On a terminal lines are text with both IDs, and tracebacks show no variables."""
    terminal, stdout = pty.openpty()
    process = subprocess.Popen(
        command(app, "--port", "0"),
        cwd=ROOT,
        env=environment(NO_COLOR="1", TERM="dumb"),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(stdout)
    try:
        assert process.stderr is not None
        banner = ""
        while "http" not in banner:
            banner = process.stderr.readline()
            assert banner
        with httpx.Client(base_url=banner.split()[1], headers=HEADER) as client:
            client.post("/api/sign-in", json={"name": "ada", "password": "demo"})
            client.post("/api/export")
        written = ""
        deadline = time.monotonic() + STOP_S
        while not written.endswith("RuntimeError: there is no room left for the export\r\n"):
            assert time.monotonic() < deadline
            written += os.read(terminal, 65536).decode()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_S)
        os.close(terminal)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    line = next(text for text in plain.splitlines() if "signed in" in text)

    assert f"sessionId={SESSION_ID}" in line
    assert "posthogDistinctId=user-1815" in line
    assert "locals" not in plain
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


def test_listens_on_loopback_only(app: str) -> None:
    """No address of the machine but the loopback's is answered."""
    with Demo(app) as demo:
        port = httpx.URL(demo.url).port
        assert port is not None

        # 127.0.0.2 is on the loopback interface too, and would be served by 0.0.0.0.
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.2", port)) != 0


def test_busy_port_is_told(taken_port: int) -> None:
    """A port that is in use ends the start with one clear line."""
    ended = run("--port", str(taken_port))

    assert 1 == ended.returncode
    assert "" == ended.stdout
    assert f"Port {taken_port} cannot be used" in ended.stderr
    assert f"`make demo PORT={taken_port + 1}`" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


def test_port_of_the_environment(taken_port: int) -> None:
    """Without an option the port is the one that PORT names."""
    ended = run(PORT=str(taken_port))

    assert f"Port {taken_port} cannot be used" in ended.stderr


@pytest.mark.parametrize("port", ["eighty", "70000"])
def test_no_port_at_all_is_told(port: str) -> None:
    """What is no port number ends the start with a message and no traceback."""
    ended = run(f"--port={port}")

    assert 0 != ended.returncode
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_posthog_needs_a_token() -> None:
    """A PostHog without a project token ends the start with a message."""
    ended = run("--port", "0", POSTHOG_HOST="http://127.0.0.1:1")

    assert (1, "POSTHOG_HOST is set: set POSTHOG_PROJECT_TOKEN too.\n") == (
        ended.returncode,
        ended.stderr,
    )
