"""
Takes the pictures in the README: ``python -m docs.screenshots``.

The viewer is filled with the day of the demo, and looked at with Chromium.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect, sync_playwright

from examples.seed import fill
from tests.viewer.running import Viewer

IMAGES: Final = Path(__file__).parent / "images"

SIZE: Final = {"width": 1280, "height": 720}

FAILED: Final = "export started"
"""The line that the picture of a recording starts from."""


def take(page: Page, url: str) -> None:
    """
    Take all pictures of the viewer at an address.
    """
    page.goto(f"{url}/logs")
    # The histogram is drawn by a script.
    expect(page.locator("#histogram canvas")).to_be_visible()
    page.screenshot(path=IMAGES / "logs.png")

    page.goto(f"{url}/logs?q={FAILED.replace(' ', '+')}")
    page.get_by_role("table", name="Log lines").get_by_role("link", name=FAILED).first.click()
    page.get_by_role("button", name="View recording").click()
    player = page.get_by_role("dialog", name="Recording").frame_locator("iframe")
    expect(player.frame_locator("iframe").get_by_text("Export the chat")).to_be_visible()
    page.wait_for_timeout(4500)  # the click that failed is about to come
    page.screenshot(path=IMAGES / "recording.png")


def main() -> None:
    """
    Start the viewer, fill it, and take the pictures.
    """
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    if path is None:
        sys.exit("The pictures need Chromium: install it, or set CHROMIUM to its path.")
    # Chromium has no sandbox for root.
    arguments = ["--disable-gpu", *([] if os.geteuid() else ["--no-sandbox"])]
    with Viewer() as viewer, sync_playwright() as playwright:
        fill(viewer.url)
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        take(browser.new_page(viewport=SIZE, timezone_id="Europe/Berlin"), viewer.url)  # type: ignore[arg-type]
        browser.close()


if __name__ == "__main__":
    main()
