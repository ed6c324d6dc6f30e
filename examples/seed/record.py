"""
Records the visits that the demo is filled with: ``python -m examples.seed.record``.

It drives Chromium through the FastAPI example, with posthog-js as npm brings it, and keeps what
browser and backend send in ``visits.json``. It needs the dependency group ``tests``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import Any, cast

import msgspec
import uvicorn
from playwright.sync_api import BrowserContext, Page, sync_playwright

from examples.seed import VISITS, Visit
from replaylink.viewer.app import create_app
from replaylink.viewer.records import Batch
from replaylink.viewer.server import listen
from replaylink.viewer.store import Store

ADDRESS = re.compile(r"127\.0\.0\.1:\d+")

PROPERTIES = {"$current_url", "$exception_level", "$exception_list", "$lib", "$lib_version"}
"""What is kept of an event; the rest tells of the browser that recorded."""

SETTINGS = {"$posthog_config", "$remote_config_received", "$session_options"}
"""Pieces of a recording that hold posthog-js's settings."""

SOURCES = {"pre_context", "context_line", "post_context"}
"""The lines of source of a frame."""


class Keeper:
    """
    Stands where the viewer has its store, and keeps what comes.
    """

    def __init__(self) -> None:
        self.batch = Batch([], [], [])

    def prepare(self, batch: Batch) -> None:
        """
        Do nothing: that is for the store's tables.
        """

    async def write(self, batch: Batch) -> None:
        """
        Keep a batch.
        """
        self.batch.logs += batch.logs
        self.batch.events += batch.events
        self.batch.snapshots += batch.snapshots


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").click()
    page.get_by_label("Message").press_sequentially(text, delay=40)
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_timeout(900)


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("User name").fill(name)
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_timeout(900)


def export_that_fails(context: BrowserContext, url: str) -> None:
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(1500)
    page.mouse.move(300, 200, steps=8)
    sign_in(page, "ada")
    say(page, "Hello, is anybody there?")
    say(page, "I would like to have a copy of this chat.")
    button = page.get_by_role("button", name="Export the chat")
    button.hover()
    page.wait_for_timeout(600)
    button.click()
    page.wait_for_timeout(1500)
    button.click()
    page.wait_for_timeout(1200)
    say(page, "It says that the server answered with 500.")
    page.get_by_label("Feedback").press_sequentially("The export does not work.", delay=40)
    page.get_by_role("button", name="Send feedback").click()
    page.wait_for_timeout(6000)


def sign_in_that_fails(context: BrowserContext, url: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(url)
    page.wait_for_timeout(1200)
    page.mouse.wheel(0, 300)
    page.wait_for_timeout(600)
    sign_in(page, "grrace")
    page.wait_for_timeout(1000)
    sign_in(page, "grace")
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(600)
    say(page, "Finally!")
    say(page, "It was only one letter.")
    page.wait_for_timeout(6000)


def main() -> None:
    """
    Record all visits, and write them.
    """
    sock = listen("127.0.0.1", 0)
    host = f"http://127.0.0.1:{sock.getsockname()[1]}"
    visits = []
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        keeper = Keeper()
        app = create_app(cast("Store", keeper))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        for visit in (export_that_fails, sign_in_that_fails):
            keeper.batch = Batch([], [], [])
            example = subprocess.Popen(
                [sys.executable, "-m", "examples.fastapi_app", "--port", "0"],
                env={**os.environ, "POSTHOG_HOST": host, "POSTHOG_PROJECT_TOKEN": "phc_local"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            url = next(line.split()[1] for line in example.stderr or () if "Open" in line)
            context = browser.new_context()
            visit(context, url)
            context.close()
            example.terminate()
            example.communicate()
            time.sleep(1)
            visits.append(tidy(keeper.batch))
        browser.close()
        server.should_exit = True
        thread.join()
    text = msgspec.json.encode(visits).decode()
    VISITS.write_text(ADDRESS.sub("127.0.0.1:8000", text))


def tidy(batch: Batch) -> Visit:
    """
    Return what is to be kept of a visit.
    """
    logs = [
        {
            "time_us": log.time_us,
            "severity": log.severity,
            "logger": log.scope,
            "body": log.body,
            "attributes": {
                key: without_machine(value)
                for key, value in log.attributes.items()
                if not key.startswith("code.")
            },
        }
        for log in batch.logs
    ]
    events = [
        {
            "name": event.name,
            "time_us": event.time_us,
            "distinct_id": event.distinct_id,
            "session_id": event.session_id,
            "window_id": event.window_id,
            "properties": {
                key: without_machine(value)
                for key, value in event.properties.items()
                if key in PROPERTIES
            },
        }
        for event in batch.events
        if event.name != "$autocapture"
    ]
    snapshots = [
        {
            "session_id": snapshot.session_id,
            "window_id": snapshot.window_id,
            "distinct_id": snapshot.distinct_id,
            "events": [
                event
                for event in msgspec.json.decode(snapshot.events)
                if event["type"] != 5 or event["data"].get("tag") not in SETTINGS
            ],
        }
        for snapshot in batch.snapshots
    ]
    return {"logs": logs, "events": events, "snapshots": snapshots}


def without_machine(value: Any) -> Any:
    """
    Return a value without the folders of the machine that recorded it, and others' sources.
    """
    if isinstance(value, str):
        value = re.sub(r"/[^\s\"']*/site-packages/", "", value)
        return value.replace(f"{os.getcwd()}/", "")
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if isinstance(value, dict):
        if value.get("in_app") is False:
            # The sources of libraries are not ours to keep.
            value = {key: value[key] for key in value.keys() - SOURCES}
        return {key: without_machine(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    main()
