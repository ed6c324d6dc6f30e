"""
The command ``replaylink``: how it starts, what it says, and how it ends.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx
import pytest

pytest.importorskip("opentelemetry.proto")

from replaylink.cli import main
from tests.processes import START_S, environment
from tests.viewer.running import Viewer

END_S: Final = 2.5
"""How long an end may take: 2 seconds, and what a busy machine adds."""

LINE: Final = {
    "resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "a line"}}]}]}]
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run the command when it is to end by itself.
    """
    return subprocess.run(
        [sys.executable, "-m", "replaylink", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_version_is_told() -> None:
    """``--version`` tells the version of the package."""
    assert f"replaylink {version('replaylink')}\n" == run("--version").stdout


def test_script_is_installed() -> None:
    """The command is there by its own name, too."""
    script = Path(sys.executable).parent / "replaylink"
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)

    assert run("--version").stdout == result.stdout


def test_banner_tells_how_to_send() -> None:
    """The viewer tells its address, what the backend and the frontend need, and what it keeps."""
    with Viewer() as viewer:
        page = httpx.get(viewer.url, follow_redirects=True)

    assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["Content-Type"])
    assert f"POSTHOG_HOST={viewer.url} POSTHOG_PROJECT_TOKEN=phc_local" in viewer.banner
    assert f"posthog.init('phc_local', {{api_host: '{viewer.url}'}})" in viewer.banner
    assert "until it ends; --database FILE keeps it" in viewer.banner


def test_banner_has_the_token() -> None:
    """The address in the banner of a viewer with a token opens it."""
    with Viewer("--token", "a+b/c") as viewer, httpx.Client(follow_redirects=True) as client:
        address = viewer.banner.split()[1]

        assert 401 == client.get(viewer.url).status_code
        assert 200 == client.get(address).status_code
        assert 200 == client.get(viewer.url).status_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_it_ends_at_once(number: signal.Signals) -> None:
    """A signal ends it cleanly while streams are open and a request has not come whole."""
    with (
        Viewer() as viewer,
        socket.create_connection(("127.0.0.1", httpx.URL(viewer.url).port or 0)) as half,
        httpx.Client(base_url=viewer.url, timeout=START_S) as client,
        client.stream("GET", "/live") as one,
        client.stream("GET", "/live") as other,
    ):
        streams = [one.iter_lines(), other.iter_lines()]
        assert {"retry: 1000"} == {next(lines) for lines in streams}
        half.sendall(b"POST /e/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        begin = time.monotonic()
        ended = viewer.stop(number)
        took_s = time.monotonic() - begin
        # They end as streams should: another end would raise.
        rest = [list(lines) for lines in streams]

    assert [[""], [""]] == rest
    assert (0, "", "\n") == ended
    assert took_s < END_S


def test_requests_leave_no_lines() -> None:
    """Requests that go well, or are for what is not there, are not told on the terminal."""
    with Viewer() as viewer:
        httpx.post(f"{viewer.url}/v1/logs", json=LINE).raise_for_status()
        for path in ("/logs", "/nothing", "/static/array.js"):
            httpx.get(f"{viewer.url}{path}")
        ended = viewer.stop()

    assert (0, "", "\n") == ended


def test_refusals_leave_one_line() -> None:
    """What cannot be taken in is told on the terminal."""
    with Viewer() as viewer:
        refused = httpx.post(f"{viewer.url}/v1/logs", content=b"nonsense")
        status, stdout, stderr = viewer.stop()

    assert 400 == refused.status_code
    assert (0, "") == (status, stdout)
    [line] = stderr.strip().splitlines()
    assert line.startswith("WARNING: /v1/logs: refused with 400")


def test_database_is_kept(tmp_path: Path) -> None:
    """With ``--database`` the next run shows what the last one took in."""
    file = tmp_path / "viewer.db"
    with Viewer("--database", str(file)) as viewer:
        assert str(file) in viewer.banner
        httpx.post(f"{viewer.url}/v1/logs", json=LINE).raise_for_status()
    with Viewer("--database", str(file)) as viewer:
        logs = httpx.get(f"{viewer.url}/logs.json").json()["logs"]

    assert ["a line"] == [log["body"] for log in logs]


def test_temporary_database_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``--database`` nothing is left when the viewer has ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Viewer() as viewer:
        httpx.post(f"{viewer.url}/v1/logs", json=LINE).raise_for_status()
        during = list(tmp_path.iterdir())

    assert during
    assert [] == list(tmp_path.iterdir())


def test_listens_on_loopback_only() -> None:
    """No address of the machine but the loopback's is answered."""
    with Viewer() as viewer, socket.socket() as sock:
        # 127.0.0.2 is on the loopback interface too, and would be served by 0.0.0.0.
        assert sock.connect_ex(("127.0.0.2", httpx.URL(viewer.url).port)) != 0


def test_all_addresses_with_a_token() -> None:
    """With a token it may listen on all addresses, and then answers on each."""
    with Viewer("--host", "0.0.0.0", "--token", "secret") as viewer:
        port = httpx.URL(viewer.url).port
        answer = httpx.get(f"http://127.0.0.2:{port}/logs?token=secret")

    assert 303 == answer.status_code


def test_busy_port_is_told(taken_port: int) -> None:
    """A port that is in use ends the start with one clear line."""
    ended = run("viewer", "--port", str(taken_port))

    assert (1, "") == (ended.returncode, ended.stdout)
    [line] = ended.stderr.splitlines()
    assert f"Port {taken_port} of 127.0.0.1 cannot be used" in line
    assert f"--port {taken_port + 1}" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param([], "COMMAND", id="no-command"),
        pytest.param(["viewer", "--token", ""], "--token", id="empty-token"),
        pytest.param(["viewer", "--token", "geheim\xdf"], "ASCII", id="odd-token"),
        pytest.param(["viewer", "--port", "70000"], "65535", id="port"),
        pytest.param(
            ["viewer", "--port", "eighty"],
            "argument --port: a number from 0 (any free one) to 65535, not 'eighty'",
            id="no-port",
        ),
        pytest.param(["viewer", "--retention-days", "0"], "--retention-days", id="days"),
        pytest.param(["viewer", "--retention-days", "nan"], "--retention-days", id="not-a-number"),
        pytest.param(
            ["viewer", "--retention-days", "x"],
            "argument --retention-days: a number above 0, not 'x'",
            id="no-days",
        ),
        pytest.param(["viewer", "--max-size-mb", "-1"], "--max-size-mb", id="size"),
        pytest.param(
            ["viewer", "--max-size-mb", "1e"],
            "argument --max-size-mb: a number above 0, not '1e'",
            id="no-size",
        ),
        pytest.param(
            ["viewer", "--host", "nowhere.invalid"],
            "argument --host: no such name or address: 'nowhere.invalid'",
            id="no-host",
        ),
        pytest.param(["viewer", "--host", f"{'a' * 64}.example"], "no such name", id="long-host"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no option can have is told in plain words, with how to call the command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err

    assert 2 == ended.value.code
    assert told in error.splitlines()[-1]
    assert error.startswith("usage: replaylink")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--host", "0.0.0.0"], "--token SECRET", id="no-token"),
        pytest.param(["--host", "nowhere.invalid", "--token", "x"], "nowhere", id="no-host"),
        pytest.param(
            ["--allow-origin", "foo"],
            "argument --allow-origin: scheme://host[:port], such as https://app.example.com, "
            "or * for any, not 'foo'",
            id="no-origin",
        ),
        pytest.param(["--max-size-mb", "0.1"], "max_size_mb", id="size"),
        pytest.param(["--database", "/nonexistent/viewer.db"], "/nonexistent/", id="no-folder"),
        pytest.param(
            ["--database", __file__], "test_cli.py is not one of the viewer's", id="no-database"
        ),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], told: str) -> None:
    """What cannot be done ends the start with a message and no traceback."""
    ended = run("viewer", "--port", "0", *arguments)

    assert ended.returncode in (1, 2)
    assert told in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_missing_extra_is_told() -> None:
    """Without the extra the command tells how to install it; its version needs none."""
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from replaylink.cli import main; main(sys.argv[1:])"
    )
    versioned, ended = (
        subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=False
        )
        for argument in ("--version", "viewer")
    )

    assert 0 == versioned.returncode
    assert (1, 'The viewer needs starlette: pip install "replaylink[viewer]"\n') == (
        ended.returncode,
        ended.stderr,
    )
