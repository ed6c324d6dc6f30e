"""
What the example apps share, and what has nothing to do with replaylink.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "page"
"""The page, the same for all examples."""

POSTHOG_DIST = Path(__file__).parents[1] / "node_modules/posthog-js/dist"
"""posthog-js as npm brings it."""

BANNER = """
  Open   {url}
  Watch  the lines below: each has the session ID of the browser that caused it,
         and, from sign-in on, the ID of the user (ada or grace, password demo).
  End    with Ctrl-C.
"""


def browser_settings() -> dict[str, str | None]:
    """
    Return what the page tells posthog-js: where to send to, if anywhere.
    """
    return {
        "posthogHost": os.environ.get("POSTHOG_HOST") or None,
        "posthogToken": os.environ.get("POSTHOG_PROJECT_TOKEN") or "phc_demo",
    }


def listen() -> socket.socket:
    """
    Open the port that the command line or ``PORT`` names, and tell what to do there.

    It listens on the loopback interface only. The banner goes to stderr: stdout is for
    log lines.

    Raises:
        SystemExit: If the example cannot start; the message tells why.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))
    port: int = parser.parse_args().port
    if not 0 <= port <= 65535:
        parser.error(f"{port} is no port: they go from 0 (any free one) to 65535")
    if not POSTHOG_DIST.is_dir():
        sys.exit("posthog-js is not installed: run `make demo`, or `npm ci` before this.")
    if os.environ.get("POSTHOG_HOST") and not os.environ.get("POSTHOG_PROJECT_TOKEN"):
        sys.exit("POSTHOG_HOST is set: set POSTHOG_PROJECT_TOKEN too.")

    sock = socket.socket()
    # A port that a former run has just left may be taken again. Windows calls something
    # else by that name.
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as exc:
        sys.exit(f"Port {port} cannot be used: {exc.strerror}. Try `make demo PORT={port + 1}`.")
    sock.listen(128)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    print(BANNER.format(url=url), file=sys.stderr, flush=True)  # noqa: T201
    return sock
