"""
What the example apps share, and what has nothing to do with replaylink.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from posthog import Posthog

PAGE = Path(__file__).parent / "page"
"""The page, the same for all examples."""

POSTHOG_DIST = Path(__file__).parents[1] / "node_modules/posthog-js/dist"
"""posthog-js as npm brings it."""

BANNER = """
  Open   {url}
  Watch  the lines below: each has the session ID of the browser that caused it,
         and, from sign-in on, the ID of the user (ada or grace, password demo).
         Only the very first page load has none: posthog-js begins the session after it.
{viewer}  End    with Ctrl-C.
"""

VIEWER = """\
  Then   {url}
         has the same lines. Click one, and press "View recording": it shows what you saw
         and did at that second, and "Related errors" what failed in this session.
"""


def browser_settings() -> dict[str, str | None]:
    """
    Return what the page tells posthog-js: to send to where the log lines go, if anywhere.
    """
    token = os.environ.get("POSTHOG_PROJECT_TOKEN")
    host = os.environ.get("POSTHOG_HOST") or "https://us.i.posthog.com"
    return {
        "posthogHost": host if token else None,
        "posthogToken": token or "phc_demo",
        "viewer": os.environ.get("VIEWER_URL"),
    }


def posthog_client() -> Posthog:
    """
    Return what captures the exceptions of the backend; without a token it sends nothing.
    """
    token = os.environ.get("POSTHOG_PROJECT_TOKEN")
    return Posthog(
        token or "phc_demo",
        host=os.environ.get("POSTHOG_HOST") or "https://us.i.posthog.com",
        disabled=not token,
        # Whoever looks at a demo does not want to wait for 5 seconds.
        flush_interval=0.5,
    )


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

    # An end like that of Ctrl-C: what is left is sent.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
    viewer_url = os.environ.get("VIEWER_URL")
    viewer = VIEWER.format(url=viewer_url) if viewer_url else ""
    print(BANNER.format(url=url, viewer=viewer), file=sys.stderr, flush=True)  # noqa: T201
    return sock
