"""
`make demo`: the example and the viewer together, and what the viewer is filled with.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("opentelemetry.proto")

from examples.seed import VISITS, fill
from tests.processes import ROOT, START_S, end, environment, start
from tests.viewer.running import Viewer

ARRIVAL_S: Final = 15
SESSION_ID: Final = "0192f3a1-7c1e-7a6b-9d52-3f1c2b4a5e6d"
HEADER: Final = {"X-PostHog-Session-ID": SESSION_ID}

T = TypeVar("T")


def eventually(ask: Callable[[], T]) -> T:
    """
    Return what is asked for as soon as there is something.
    """
    deadline = time.monotonic() + ARRIVAL_S
    while not (answer := ask()):
        assert time.monotonic() < deadline, "nothing has come"
        time.sleep(0.1)
    return answer


def command(app: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples", app, "--port", "0", "--viewer-port", *arguments]


class Demo:
    """
    The example and the viewer, each on a free port.
    """

    def __init__(self, app: str, **settings: str) -> None:
        self.process, self.banner = start(
            command(app, "0"),
            folder=ROOT,
            settings=settings,
            stdout=subprocess.DEVNULL,
            # As a shell's children: Ctrl-C goes to all of the group.
            start_new_session=True,
        )
        addresses = dict(re.findall(r"(Open|Then) +(http\S+)", self.banner))
        self.url = addresses["Open"]
        self.viewer_url = addresses.get("Then", "")

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> str:
        """
        End it as Ctrl-C in a terminal does; return what it wrote to stderr after its banner.
        """
        assert self.process.stderr is not None
        end(self.process, kill=os.killpg)
        if self.process.stderr.closed:
            return ""
        with self.process.stderr as stderr:
            return stderr.read()

    def shown(self, path: str) -> Any:
        return httpx.get(f"{self.viewer_url}{path}").raise_for_status().json()


@pytest.mark.parametrize("app", ["fastapi", "flask"])
def test_viewer_shows_what_the_example_does(app: str) -> None:
    """The lines and the exception of a request that failed are in the viewer, linked."""
    with Demo(app) as demo:
        assert 500 == httpx.post(f"{demo.url}api/export", headers=HEADER).status_code
        [line] = eventually(
            lambda: demo.shown(f"logs.json?severity=warn&is.sessionId={SESSION_ID}")["logs"]
        )
        [issue] = eventually(lambda: demo.shown("errors.json"))
        [related] = demo.shown(f"logs/{line['id']}/errors.json")

    assert ("0 bytes left", f"{app}-chat") == (line["body"], line["service"])
    assert ("RuntimeError", "posthog-python") == (issue["name"], issue["library"])
    assert issue["id"] == related["id"]


@pytest.mark.parametrize("app", ["fastapi", "flask"])
def test_ctrl_c_ends_both(app: str) -> None:
    """Ctrl-C ends both, and the viewer last: it takes the example's last lines."""
    with Demo(app) as demo:
        config = httpx.get(f"{demo.url}api/config").json()
        httpx.post(f"{demo.url}feedback", data={"feedback": "x"})
        said = demo.stop()

    assert demo.viewer_url == config["viewer"]
    assert (0, "\n") == (demo.process.returncode, said)
    for url in (demo.url, demo.viewer_url):
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", httpx.URL(url).port or 0)) != 0


@pytest.mark.parametrize("name", ["PORT", "VIEWER_PORT"])
def test_busy_port_is_told(name: str) -> None:
    """If a port is in use, the demo tells which variable to set, and leaves nothing behind."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        ports = {"PORT": "0", "VIEWER_PORT": "0", name: str(port)}
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "examples", "flask"),
                *("--port", ports["PORT"], "--viewer-port", ports["VIEWER_PORT"]),
            ],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )

    assert (1, "") == (ended.returncode, ended.stdout)
    [line] = ended.stderr.strip().splitlines()[-1:]
    assert line.startswith(f"Port {port} ")
    assert line.endswith(f"Try `make demo {name}={port + 1}`.")
    assert "--port" not in ended.stderr


@pytest.mark.parametrize("option", ["--port", "--viewer-port"])
@pytest.mark.parametrize("port", ["abc", "70000", "-1"])
def test_no_port_at_all_is_told(option: str, port: str) -> None:
    """What is no port number is told before anything starts."""
    ended = subprocess.run(
        [*command("flask", "0"), f"{option}={port}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    usage, *_, line = ended.stderr.splitlines()

    assert (2, "") == (ended.returncode, ended.stdout)
    assert usage.startswith("usage: python -m examples ")
    assert line == (
        f"python -m examples: error: argument {option}: "
        f"a number from 0 (any free one) to 65535, not '{port}'"
    )


def test_viewer_ends_with_a_killed_demo(tmp_path: Path) -> None:
    """If the demo is killed, the viewer ends by itself, and removes its temporary database."""
    with Demo("flask", TMPDIR=str(tmp_path)) as demo:
        during = list(tmp_path.iterdir())
        demo.process.kill()
        eventually(lambda: not list(tmp_path.iterdir()))

        assert during
        with socket.socket() as sock:
            port = httpx.URL(demo.viewer_url).port or 0
            assert 0 != eventually(lambda: sock.connect_ex(("127.0.0.1", port)))


def test_sigterm_ends_both() -> None:
    """SIGTERM, which the viewer does not get, ends both as Ctrl-C does."""
    with Demo("flask") as demo:
        httpx.get(demo.url)
        status = end(demo.process, signal.SIGTERM)

    assert 0 == status
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", httpx.URL(demo.viewer_url).port or 0)) != 0


def test_own_posthog_needs_no_viewer() -> None:
    """With a PostHog, or another receiver, to send to, there is no viewer."""
    settings = {"POSTHOG_PROJECT_TOKEN": "phc_mine", "POSTHOG_HOST": "http://127.0.0.1:9"}
    with Demo("fastapi", **settings) as demo:
        config = httpx.get(f"{demo.url}api/config").json()

        assert "" == demo.viewer_url
        assert (None, "http://127.0.0.1:9") == (config["viewer"], config["posthogHost"])


@pytest.fixture(scope="module")
def filled() -> Iterator[Callable[[str], Any]]:
    """What the JSON pages of a viewer show that was filled."""
    with Viewer() as viewer:
        fill(viewer.url)
        with httpx.Client(base_url=viewer.url) as client:
            yield lambda path: client.get(path).raise_for_status().json()


def test_day_has_lines_of_all_kinds(filled: Callable[[str], Any]) -> None:
    """A filled viewer has lines of several services and all common severities, some unlinked."""
    summary = filled("/logs/summary.json?since=24h")
    moved = filled("/logs.json?set.$originalTimestamp=")

    assert 3000 < summary["total"] < 6000
    assert 0.5 < summary["linked"] / summary["total"] < 0.8
    assert {"shop", "gateway", "worker", "fastapi-chat"} == {
        each["value"] for each in summary["services"]
    }
    assert {"fatal", "error", "warn", "info", "debug"} == {
        each["value"] for each in summary["severities"]
    }
    assert [] == moved["logs"]


def test_visits_can_be_played(filled: Callable[[str], Any]) -> None:
    """The recorded visits are there, each with a page to play, its lines and its errors."""
    recordings = filled("/replays.json")
    failed = [recording for recording in recordings if recording["errors"]]

    assert 6 == len(recordings)
    assert 3 == len(failed)
    for recording in recordings:
        [tab] = recording["tabs"]
        assert tab["playable"]
        assert 5_000 < recording["last_ms"] - recording["first_ms"] < 60_000
        assert recording["logs"] > 5
        assert recording["distinct_id"].startswith("user-")
    timeline = filled(f"/replay/{failed[0]['session_id']}/timeline.json")
    assert {"posthog-python", "web"} == {error["library"] for error in timeline["errors"]}
    [line] = [log for log in timeline["logs"] if log["severity"] == "error"][:1]
    assert failed[0]["first_ms"] < line["time_us"] / 1000 < failed[0]["last_ms"]


def test_each_fill_is_its_own(filled: Callable[[str], Any]) -> None:
    """No two recorded visits share an ID, though they were recorded once."""
    recordings = filled("/replays.json")
    tabs = [tab["window_id"] for recording in recordings for tab in recording["tabs"]]

    assert len(recordings) == len(set(tabs))


def test_visits_show_that_messages_go() -> None:
    """In a recording the chat's field, the one most typed in, is emptied by each message."""
    for visit in json.loads(VISITS.read_text()):
        texts: dict[int, list[str]] = {}
        for snapshot in visit["snapshots"]:
            for event in snapshot["events"]:
                if event["type"] == 3 and event["data"]["source"] == 5:
                    texts.setdefault(event["data"]["id"], []).append(event["data"]["text"])
        messages = [log for log in visit["logs"] if log["body"] == "message received"]

        assert len(messages) == max(texts.values(), key=len).count("")


def test_visits_hold_nothing_of_others() -> None:
    """What is kept of the recordings is small, and is no code and no place of a machine."""
    text = VISITS.read_text()
    visits = json.loads(text)
    frames = [
        frame
        for visit in visits
        for event in visit["events"]
        for exception in event["properties"].get("$exception_list", [])
        for frame in exception["stacktrace"]["frames"]
    ]

    assert len(text) < 300_000
    assert not re.search(
        r"\bfunction\s*\(\)|=>|sourceMappingURL|/site-packages/|/(?:home|root)/", text
    )
    assert {True, False} == {frame["in_app"] for frame in frames}
    assert not [frame for frame in frames if not frame["in_app"] and "context_line" in frame]
