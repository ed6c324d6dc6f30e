"""
A chat in FastAPI, each log line of which leads to the session replay of its browser.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Form, HTTPException, Request, WebSocket
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.sessions import SessionMiddleware

from examples.demo import PAGE, POSTHOG_DIST, browser_settings, posthog_client
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.auth import session_user

log = structlog.get_logger()
posthog = posthog_client()
storage = logging.getLogger("storage")  # as in a library, which knows no structlog

USERS = {"ada": "user-1815", "grace": "user-1906"}
"""User names and stable user IDs. The IDs get into the logs: let them be no e-mail addresses."""

PASSWORD = b"demo"


app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SECRET_KEY", secrets.token_hex()))
# Added last, so that it is around all others, and their lines are linked too.
app.add_middleware(ReplayLinkMiddleware, user_id=session_user("user_id"), share="posthog")


class Credentials(BaseModel):
    name: str
    password: str


class Message(BaseModel):
    # The body has the sessionId as well. replaylink finds it; the app need not.
    message: str = Field(max_length=500)


@app.get("/")
async def page() -> FileResponse:
    log.info("page opened")
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@app.get("/api/config")
async def config(request: Request) -> dict[str, Any]:
    user_id = request.session.get("user_id")
    user = user_id and {"id": user_id, "name": request.session["name"]}
    return {"framework": "FastAPI", "live": True, "user": user, **browser_settings()}


@app.post("/api/sign-in")
async def sign_in(credentials: Credentials, request: Request) -> dict[str, str]:
    user_id = USERS.get(credentials.name)
    if user_id is None or not secrets.compare_digest(credentials.password.encode(), PASSWORD):
        log.warning("sign-in refused")
        raise HTTPException(401)
    # session_user("user_id") sees it from here on, in this request and in all later ones.
    request.session.update(user_id=user_id, name=credentials.name)
    log.info("signed in")
    return {"id": user_id, "name": credentials.name}


@app.post("/api/sign-out")
async def sign_out(request: Request) -> dict[str, str]:
    log.info("signed out")
    request.session.clear()
    return {}


@app.post("/api/chat")
def chat(body: Message) -> dict[str, str]:  # not async: it runs in a thread
    log.info("message received", length=len(body.message))
    answer = f"You sent {len(body.message.split())} words."
    log.info("message answered", length=len(answer))
    return {"answer": answer}


@app.post("/feedback")
async def feedback(feedback: Annotated[str, Form(max_length=500)]) -> RedirectResponse:
    log.info("feedback received", length=len(feedback))
    return RedirectResponse("/?thanks", 303)


@app.post("/api/export")
async def export() -> None:
    log.info("export started")
    storage.warning("%d bytes left", 0)
    msg = "there is no room left for the export"
    raise RuntimeError(msg)


@app.exception_handler(Exception)
async def failed(request: Request, exc: Exception) -> PlainTextResponse:
    # It has the session ID, so that it stands under "Related errors".
    posthog.capture_exception(exc)
    return PlainTextResponse("Internal Server Error", 500)


@app.websocket("/ws")
async def typing(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        log.info("typing", length=len(text))
        await websocket.send_text(f"The server sees you typing: {len(text)} characters.")


app.mount("/posthog", StaticFiles(directory=POSTHOG_DIST))
app.mount("/static", StaticFiles(directory=PAGE))
