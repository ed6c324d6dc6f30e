"""
The example apps, in this process.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from starlette.testclient import TestClient

from replaylink.otel import configure_logging
from tests.examples.running import Line

SESSION_ID = "0192f3a1-7c1e-7a6b-9d52-3f1c2b4a5e6d"
HEADER = {"X-PostHog-Session-ID": SESSION_ID}

LogLines = Callable[[], list[Line]]


@pytest.fixture(params=["fastapi", "flask"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx2.Client]:
    app = importlib.import_module(f"examples.{request.param}_app.app").app
    if request.param == "fastapi":
        with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
            yield client
    else:
        transport = httpx2.WSGITransport(app, raise_app_exceptions=False)
        with httpx2.Client(transport=transport, base_url="http://testserver") as client:
            yield client


@pytest.fixture
def log_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[LogLines]:
    """All lines that the examples' own set-up of logging writes to stdout."""
    for name in os.environ:
        if name.startswith(("POSTHOG_", "OTEL_")):
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    configure_logging(service_name="chat")
    lines: list[Line] = []

    def all_lines() -> list[Line]:
        lines.extend(json.loads(text) for text in capsys.readouterr().out.splitlines())
        return lines

    yield all_lines
    root.handlers[:] = handlers
    root.setLevel(level)


def with_cookie(client: httpx2.Client, session_id: str) -> None:
    """
    Give the client the cookie that posthog-js writes.
    """
    now = round(time.time() * 1000)
    value = json.dumps({"distinct_id": "someone", "$sesid": [now, session_id, now]})
    client.cookies.set("ph_phc_demo_posthog", quote(value))


def sign_in(client: httpx2.Client, name: str = "ada", password: str = "demo") -> httpx2.Response:
    credentials = {"name": name, "password": password}
    return client.post("/api/sign-in", json=credentials, headers=HEADER)


def ids(lines: list[Line]) -> list[tuple[str, Any, Any]]:
    return [
        (line["event"], line.get("sessionId"), line.get("posthogDistinctId"))
        for line in lines
        # The test client's own line, which comes after the response.
        if not line["event"].startswith("HTTP Request:")
    ]


def test_message_has_the_session_of_the_header(client: httpx2.Client, log_lines: LogLines) -> None:
    """All lines about a message have the session ID that came in the header."""
    body = {"message": "hello there", "sessionId": "of-the-body"}
    response = client.post("/api/chat", json=body, headers=HEADER)

    assert {"answer": "You sent 2 words."} == response.json()
    assert [
        ("message received", SESSION_ID, None),
        ("message answered", SESSION_ID, None),
    ] == ids(log_lines())


def test_message_has_the_session_of_the_body(client: httpx2.Client, log_lines: LogLines) -> None:
    """Without header and cookie the session ID comes from the JSON body."""
    client.post("/api/chat", json={"message": "hello", "sessionId": SESSION_ID})

    assert [
        ("message received", SESSION_ID, None),
        ("message answered", SESSION_ID, None),
    ] == ids(log_lines())


def test_form_has_the_session_of_the_cookie(client: httpx2.Client, log_lines: LogLines) -> None:
    """A plain form post has the session ID of posthog-js's cookie, and leads back to the page."""
    with_cookie(client, SESSION_ID)
    response = client.post("/feedback", data={"feedback": "good"})

    assert (303, "/?thanks") == (response.status_code, response.headers["Location"])
    assert [("feedback received", SESSION_ID, None)] == ids(log_lines())


def test_no_ids_are_no_keys(client: httpx2.Client, log_lines: LogLines) -> None:
    """A request that tells nothing about itself has lines with neither key."""
    response = client.get("/")
    (line,) = (line for line in log_lines() if line["event"] == "page opened")

    assert 200 == response.status_code
    assert {"event", "level", "logger", "timestamp"} == line.keys()


def test_signed_in_user_is_on_all_later_lines(client: httpx2.Client, log_lines: LogLines) -> None:
    """From sign-in on the lines have the user's ID, until sign-out."""
    client.post("/feedback", data={"feedback": "before"}, headers=HEADER)
    signed_in = sign_in(client)
    client.post("/feedback", data={"feedback": "after"}, headers=HEADER)
    client.post("/api/sign-out", headers=HEADER)
    client.post("/feedback", data={"feedback": "anonymous"}, headers=HEADER)

    assert {"id": "user-1815", "name": "ada"} == signed_in.json()
    assert [
        ("feedback received", SESSION_ID, None),
        ("signed in", SESSION_ID, "user-1815"),
        ("feedback received", SESSION_ID, "user-1815"),
        ("signed out", SESSION_ID, "user-1815"),
        ("feedback received", SESSION_ID, None),
    ] == ids(log_lines())


@pytest.mark.parametrize(
    ("name", "password"),
    [
        pytest.param("ada", "wrong", id="password"),
        pytest.param("ada", "dèmo", id="non-ascii-password"),
        pytest.param("nobody", "demo", id="name"),
    ],
)
def test_refused_sign_in_is_nobody(
    client: httpx2.Client, log_lines: LogLines, name: str, password: str
) -> None:
    """Who fails to sign in gets a 401, and stays nobody."""
    response = sign_in(client, name, password)

    assert 401 == response.status_code
    assert [("sign-in refused", SESSION_ID, None)] == ids(log_lines())
    assert client.get("/api/config").json()["user"] is None


def test_claimed_user_is_nobody(client: httpx2.Client, log_lines: LogLines) -> None:
    """The header in which posthog-js tells its own distinct ID signs nobody in."""
    headers = {**HEADER, "X-PostHog-Distinct-ID": "user-1815"}
    client.post("/feedback", data={"feedback": "mine"}, headers=headers)

    assert [("feedback received", SESSION_ID, None)] == ids(log_lines())


def test_failure_is_linked(client: httpx2.Client, log_lines: LogLines) -> None:
    """What fails answers with 500, and its lines have both IDs."""
    sign_in(client)
    response = client.post("/api/export", headers=HEADER)
    lines = ids(log_lines())[1:]

    assert 500 == response.status_code
    assert ["export started", "0 bytes left"] == [line[0] for line in lines[:2]]
    assert {(SESSION_ID, "user-1815")} == {line[1:] for line in lines}


def test_flask_writes_the_traceback_as_json(log_lines: LogLines) -> None:
    """Flask's own error line has the traceback, and both IDs."""
    app = importlib.import_module("examples.flask_app.app").app
    transport = httpx2.WSGITransport(app, raise_app_exceptions=False)
    with httpx2.Client(transport=transport, base_url="http://testserver") as client:
        sign_in(client)
        client.post("/api/export", headers=HEADER)
    (line,) = (line for line in log_lines() if line["level"] == "error")

    assert "Exception on /api/export [POST]" == line["event"]
    assert "RuntimeError: there is no room left" in line["exception"]
    assert (SESSION_ID, "user-1815") == (line["sessionId"], line["posthogDistinctId"])


def test_websocket_has_the_ids_of_the_cookies(log_lines: LogLines) -> None:
    """The lines of a WebSocket have the cookie's session ID and the signed-in user's ID."""
    app = importlib.import_module("examples.fastapi_app.app").app
    with TestClient(app) as client:
        sign_in(client)
        with_cookie(client, SESSION_ID)
        with client.websocket_connect("/ws") as websocket:
            websocket.send_text("hello")
            answer = websocket.receive_text()

    assert "The server sees you typing: 5 characters." == answer
    assert ("typing", SESSION_ID, "user-1815") == ids(log_lines())[-1]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        pytest.param("/", "text/html", id="page"),
        pytest.param("/static/chat.js", "text/javascript", id="script"),
        pytest.param("/static/style.css", "text/css", id="style"),
        pytest.param("/posthog/array.full.no-external.js", "text/javascript", id="posthog-js"),
    ],
)
def test_files_are_served(client: httpx2.Client, path: str, content_type: str) -> None:
    """The page and all that it asks for are served with the right type."""
    response = client.get(path)

    assert 200 == response.status_code
    assert response.headers["Content-Type"].startswith(content_type)


@pytest.mark.parametrize(
    ("host", "token", "expected"),
    [
        pytest.param("", "", (None, "phc_demo"), id="offline"),
        pytest.param("", "phc_mine", ("https://us.i.posthog.com", "phc_mine"), id="token"),
        pytest.param("http://here", "phc_mine", ("http://here", "phc_mine"), id="posthog"),
    ],
)
def test_page_is_told_where_posthog_is(
    client: httpx2.Client,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    token: str,
    expected: tuple[str | None, str],
) -> None:
    """The page learns from the environment where to send recordings to: by default nowhere."""
    monkeypatch.setenv("POSTHOG_HOST", host)
    monkeypatch.setenv("POSTHOG_PROJECT_TOKEN", token)
    settings = client.get("/api/config").json()

    assert expected == (settings["posthogHost"], settings["posthogToken"])
