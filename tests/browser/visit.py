"""
A browser at an example's page: what a person can do there, and what the browser did.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, expect

from tests.examples.running import Demo, Line

TIMEOUT_MS: Final = 10_000


class Visit:
    """
    An open page, in a browser profile of its own.

    Args:
        context: The profile.
        demo: The example, running.
    """

    def __init__(self, context: BrowserContext, demo: Demo) -> None:
        self._demo = demo
        self._context = context
        self.demo_host = urlsplit(demo.url).netloc
        self.hosts: set[str] = set()
        self.expected_hosts: set[str] = set()
        self.complaints: list[str] = []
        self.expected_complaint: str | None = None
        context.set_default_timeout(TIMEOUT_MS)
        self.page = context.new_page()
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        context.on("console", self._on_console)
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(demo.url)
        self._wait_until_ready()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if self.expected_complaint is None or self.expected_complaint not in message.text:
            self.complaints.append(message.text)

    def _wait_until_ready(self) -> None:
        expect(self.page.locator("#session-id")).to_have_text(re.compile(r"^[0-9a-f-]{36}$"))
        expect(self.page.locator("#user-id")).not_to_have_text("…")

    @property
    def session_id(self) -> str:
        """
        What posthog-js says; the page shows the same.
        """
        session_id: str = self.page.evaluate("posthog.get_session_id()")
        expect(self.page.locator("#session-id")).to_have_text(session_id)
        return session_id

    def lines(self) -> list[Line]:
        """
        Return the lines that the example has written since the last call.
        """
        return self._demo.lines()

    def sign_in(self, name: str = "ada") -> None:
        self.page.get_by_label("User name").fill(name)
        self.page.get_by_label("Password").fill("demo")
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_text(f"Signed in as {name}.")).to_be_visible()

    def sign_out(self) -> None:
        self.page.get_by_role("button", name="Sign out").click()
        expect(self.page.get_by_role("button", name="Sign in")).to_be_visible()

    def send_message(self, message: str) -> None:
        answers = self.page.get_by_role("log").get_by_text("You sent")
        before = answers.count()
        # Without the event of typing: nothing goes by WebSocket.
        self.page.get_by_label("Message").evaluate("(box, text) => { box.value = text }", message)
        self.page.get_by_role("button", name="Send", exact=True).click()
        expect(answers).to_have_count(before + 1)

    def submit_form(self) -> None:
        self.page.get_by_label("Feedback").fill("It works.")
        self.page.get_by_role("button", name="Send feedback").click()
        expect(self.page.get_by_text("Thank you for the feedback.")).to_be_visible()
        self._wait_until_ready()

    def type(self, text: str) -> None:
        """
        Write into the message box, which tells the server by WebSocket.
        """
        self.page.get_by_label("Message").fill(text)
        expect(
            self.page.get_by_text(f"The server sees you typing: {len(text)} characters.")
        ).to_be_visible()

    def export(self) -> None:
        """
        Click what fails.
        """
        self.expected_complaint = "500"
        self.page.get_by_role("button", name="Export the chat").click()
        expect(self.page.get_by_text("The server answered with 500.")).to_be_visible()
        self.expected_complaint = None

    def close(self) -> None:
        self._context.close()
