"""What the example apps send under real servers, while many users are at work."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("fastapi")
pytest.importorskip("flask")

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import TimestampSigner

from tests.otel.receiver import Receiver, Record
from tests.otel.running import CLIENTS, GUNICORN, UVICORN, Request, running, send

REQUESTS = 10 * CLIENTS

SECRET_KEY = "of the examples while they are tested"

FASTAPI_APP, FLASK_APP = "tests.otel.examples:fastapi_app", "tests.otel.examples:flask_app"

COMMANDS = {
    "fastapi-demo": ("-m", "examples.fastapi_app", "--port", "{port}"),
    "fastapi-uvicorn": (*UVICORN, FASTAPI_APP),
    "fastapi-hypercorn": ("-m", "hypercorn", "--bind", "127.0.0.1:{port}", FASTAPI_APP),
    "fastapi-granian": ("-m", "granian", "--interface", "asgi", "--port", "{port}", FASTAPI_APP),
    "flask-demo": ("-m", "examples.flask_app", "--port", "{port}"),
    "flask-gunicorn": (*GUNICORN, "--threads", "8", FLASK_APP),
}

ACCESS_LINES = {"fastapi-demo", "fastapi-uvicorn", "flask-gunicorn"}
"""Where access lines go through the app's set-up of logging."""

LINES = {
    "/": ["page opened"],
    "/api/config": [],
    "/api/chat": ["message received", "message answered"],
    "/feedback": ["feedback received"],
    "/api/export": ["export started", "0 bytes left", "(traceback)"],
}
"""What the app logs at a path."""

JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def session_cookie(name: str, user_id: str) -> str:
    """
    Return the cookie that an example sets for a user who has signed in.
    """
    session = {"user_id": user_id, "name": "ada"}
    if name.startswith("fastapi"):
        data = base64.b64encode(json.dumps(session).encode())
        return f"session={TimestampSigner(SECRET_KEY).sign(data).decode()}"
    app = Flask(name)
    app.secret_key = SECRET_KEY
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return f"flask_session={serializer.dumps(session)!s}"


def ids_of(n: int) -> dict[str, str]:
    """
    Return the IDs of a request: each has a session of its own, each client a user or none.
    """
    client = n % CLIENTS
    user = {"posthogDistinctId": f"user-{client}"} if client % 4 else {}
    return {"sessionId": f"session-{n}", **user}


def request(name: str, n: int) -> Request:
    """
    Return a request, which carries its number wherever it can.
    """
    ids = ids_of(n)
    headers = {"X-PostHog-Session-ID": ids["sessionId"]}
    if "posthogDistinctId" in ids:
        headers["Cookie"] = session_cookie(name, ids["posthogDistinctId"])
    kind = n // CLIENTS
    if kind == 0:
        return Request("GET", f"/?n={n}", headers)
    if kind == 1:
        return Request("GET", f"/api/config?n={n}", headers)
    if kind == 2:
        body, headers["Content-Type"] = f"feedback={'x' * (n % 500)}", FORM
        return Request("POST", f"/feedback?n={n}", headers, body, status=303)
    if kind == 3:
        return Request("POST", f"/api/export?n={n}", headers, status=500)
    body, headers["Content-Type"] = json.dumps({"message": "x" * (n % 500)}), JSON
    return Request("POST", f"/api/chat?n={n}", headers, body)


def line_of(record: Record) -> str:
    if record.scope.endswith(".access"):
        return "(access)"
    # granian has it in the message.
    failed = "exception.type" in record.attributes or "Traceback (most" in str(record.body)
    return "(traceback)" if failed else str(record.body)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_record_of_a_request(name: str, tmp_path: Path, receiver: Receiver) -> None:
    """Under 64 clients all records arrive, each once, with the IDs of its request and no other."""
    requests = [request(name, n) for n in range(REQUESTS)]
    with running(COMMANDS[name], tmp_path, receiver, SECRET_KEY=SECRET_KEY) as server:
        send(server, requests)
        server.stop()
    by_session: defaultdict[str | None, list[Record]] = defaultdict(list)
    for record in receiver.records:
        by_session[record.ids.get("sessionId")].append(record)
    others = by_session.pop(None, [])
    access = ["(access)"] if name in ACCESS_LINES else []

    assert {f"session-{n}" for n in range(REQUESTS) if access or LINES[path_of(requests[n])]} == (
        by_session.keys()
    )
    for n, sent in enumerate(requests):
        records = by_session[f"session-{n}"]
        assert [ids_of(n)] * len(records) == [record.ids for record in records]
        assert Counter(LINES[path_of(sent)] + access) == Counter(map(line_of, records))
        for record in records:
            if line_of(record) == "(access)":
                assert f"{sent.method} {sent.path} HTTP" in str(record.body)
            if record.body in ("message received", "feedback received"):
                assert n % 500 == record.attributes["length"]
    lines = {line for lines in LINES.values() for line in lines}
    assert [] == [record for record in others if line_of(record) in {"(access)", *lines}]


def path_of(request: Request) -> str:
    return request.path.partition("?")[0]
