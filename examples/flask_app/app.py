"""
A chat in Flask, each log line of which leads to the session replay of its browser.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

import structlog
from flask import Flask, Response, abort, redirect, request, send_from_directory, session
from werkzeug import Response as AnyResponse
from werkzeug.exceptions import InternalServerError

from examples.demo import PAGE, POSTHOG_DIST, browser_settings, posthog_client
from replaylink.auth import session_user
from replaylink.wsgi import ReplayLinkMiddleware

log = structlog.get_logger()
posthog = posthog_client()
storage = logging.getLogger("storage")  # as in a library, which knows no structlog

USERS = {"ada": "user-1815", "grace": "user-1906"}
"""User names and stable user IDs. The IDs get into the logs: let them be no e-mail addresses."""

PASSWORD = b"demo"


app = Flask(__name__, static_folder=PAGE, static_url_path="/static")
app.secret_key = os.environ.get("SECRET_KEY", secrets.token_hex())
# Cookies know no ports: the name keeps apart what runs beside it on this host.
app.config.update(SESSION_COOKIE_NAME="flask_session", SESSION_COOKIE_SAMESITE="Lax")
app.wsgi_app = ReplayLinkMiddleware(  # type: ignore[method-assign]
    app.wsgi_app, user_id=session_user("user_id"), share="posthog"
)


@app.get("/")
def page() -> Response:
    log.info("page opened")
    return send_from_directory(PAGE, "index.html")


@app.get("/api/config")
def config() -> dict[str, Any]:
    user_id = session.get("user_id")
    user = user_id and {"id": user_id, "name": session["name"]}
    return {"framework": "Flask", "live": False, "user": user, **browser_settings()}


@app.post("/api/sign-in")
def sign_in() -> dict[str, str]:
    name, password = str(request.json["name"]), str(request.json["password"])
    user_id = USERS.get(name)
    if user_id is None or not secrets.compare_digest(password.encode(), PASSWORD):
        log.warning("sign-in refused")
        abort(401)
    # session_user("user_id") sees it from here on, in this request and in all later ones.
    session.update(user_id=user_id, name=name)
    log.info("signed in")
    return {"id": user_id, "name": name}


@app.post("/api/sign-out")
def sign_out() -> dict[str, str]:
    log.info("signed out")
    session.clear()
    return {}


@app.post("/api/chat")
def chat() -> dict[str, str]:
    # The body has the sessionId as well. replaylink finds it; the app need not.
    message = str(request.json["message"])
    log.info("message received", length=len(message))
    answer = f"You sent {len(message.split())} words."
    log.info("message answered", length=len(answer))
    return {"answer": answer}


@app.post("/feedback")
def feedback() -> AnyResponse:
    log.info("feedback received", length=len(request.form["feedback"]))
    return redirect("/?thanks", 303)


@app.post("/api/export")
def export() -> Response:
    log.info("export started")
    storage.warning("%d bytes left", 0)
    msg = "there is no room left for the export"
    raise RuntimeError(msg)


@app.errorhandler(InternalServerError)
def failed(error: InternalServerError) -> InternalServerError:
    # It has the session ID, so that it stands under "Related errors".
    posthog.capture_exception(error.original_exception)
    return error


@app.get("/posthog/<path:name>")
def posthog_js(name: str) -> Response:
    return send_from_directory(POSTHOG_DIST, name)
