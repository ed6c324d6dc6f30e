"""
The command ``replaylink``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import math
import re
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from replaylink import __version__

__all__ = ["main"]

DEFAULT_PORT: Final = 8390

BANNER: Final = """
  Open      {url}/{secret}
  Backend   POSTHOG_HOST={url} POSTHOG_PROJECT_TOKEN=phc_local
            in its environment, and configure_logging(service_name="...") in its code
  Frontend  posthog.init('phc_local', {{api_host: '{url}'}})
  Data      {kept}
  End       with Ctrl-C.
"""

VENDORED: Final = ("posthog-js/array.js", "rrweb-player/rrweb-player.min.js", "uplot/LICENSE")
"""One file of each browser library, which a source tree has only after its set-up."""


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command.

    Args:
        arguments: What stands after the command's name; by default what it was called with.

    Raises:
        SystemExit: If it cannot do what is asked for; the message tells why.
    """
    parser = argparse.ArgumentParser(
        prog="replaylink", description="From a log line to the recording of its session."
    )
    parser.add_argument("--version", action="version", version=f"replaylink {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_viewer(commands)
    options = parser.parse_args(arguments)
    options.run(options)


def _add_viewer(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "viewer",
        help="show logs, recordings and errors, with no account and no network",
        description="Takes in what posthog-js, PostHog's Python SDK and OpenTelemetry's log "
        "exporters send, and shows it.",
    )
    add = parser.add_argument
    add("--port", type=_port, default=DEFAULT_PORT, help="default: 8390; 0 is any free one")
    add(
        "--host",
        default="127.0.0.1",
        help="name or address to listen on, 0.0.0.0 for all; default: 127.0.0.1",
    )
    add("--database", type=Path, metavar="FILE", help="keep the data; default: until it ends")
    add("--retention-days", type=_positive, default=14, metavar="DAYS", help="default: 14")
    add("--max-size-mb", type=_positive, default=2000, metavar="MB", help="default: 2000")
    add("--token", type=_token, help="what reading needs; a --host that others can reach needs one")
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="pages beside those of this machine that may send, such as https://app.example.com; "
        "* is any",
    )
    add("--open", action="store_true", help="open it in the browser")
    parser.set_defaults(run=_viewer, parser=parser)


def _viewer(options: argparse.Namespace) -> None:
    # An end like that of Ctrl-C: the database is closed, and a temporary one removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        _run_viewer(options)


def _run_viewer(options: argparse.Namespace) -> None:
    try:
        from replaylink.viewer.app import create_app
        from replaylink.viewer.security import is_local, is_origin, is_wildcard
        from replaylink.viewer.server import listen, serve
        from replaylink.viewer.store import Store, StoreError
    except ModuleNotFoundError as exc:
        package = str(exc.name).partition(".")[0]
        if package == "replaylink":
            raise
        sys.exit(f'The viewer needs {package}: pip install "replaylink[viewer]"')
    vendor = Path(__file__).parent / "viewer/static/vendor"
    missing = [name for name in VENDORED if not (vendor / name).is_file()]
    if missing:
        sys.exit(
            f"The viewer's browser libraries are missing ({', '.join(missing)}): "
            "run `make demo`, or `npm ci --ignore-scripts` and then `pip install --editable .`"
        )
    for origin in options.allow_origin:
        if origin != "*" and not is_origin(origin):
            options.parser.error(
                f"argument --allow-origin: scheme://host[:port], such as https://app.example.com, "
                f"or * for any, not {origin!r}"
            )
    # Before it is told to need a token, which a mistyped name does not.
    if not _is_known(options.host):
        options.parser.error(f"argument --host: no such name or address: {options.host!r}")
    if not is_local(options.host) and not options.token:
        options.parser.error(
            f"others can reach --host {options.host}, so that it needs --token SECRET"
        )

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        sock = listen(options.host, options.port)
    except OSError as exc:
        msg = f"Port {options.port} of {options.host} cannot be used: {exc.strerror}."
        if exc.errno in (errno.EADDRINUSE, errno.EACCES):
            msg += f" Choose another one, such as --port {options.port % 65535 + 1}"
        sys.exit(msg)
    with sock:
        try:
            store = Store(
                options.database,
                retention_days=options.retention_days,
                max_size_mb=options.max_size_mb,
            )
        except (StoreError, ValueError) as exc:
            sys.exit(str(exc))
        try:
            name = "127.0.0.1" if is_wildcard(options.host) else options.host
            name = f"[{name}]" if ":" in name else name
            url = f"http://{name}:{sock.getsockname()[1]}"
            secret = f"?token={quote(options.token)}" if options.token else ""
            kept = options.database or "is kept until it ends; --database FILE keeps it"
            banner = BANNER.format(url=url, secret=secret, kept=kept)
            print(banner, file=sys.stderr, flush=True)  # noqa: T201
            if options.open:
                # A browser for terminals would keep the server waiting.
                threading.Thread(
                    target=webbrowser.open, args=[f"{url}/{secret}"], daemon=True
                ).start()
            app = create_app(
                store,
                host=options.host,
                token=options.token,
                allow_origins=options.allow_origin,
            )
            serve(app, sock)
        finally:
            store.close()


def _is_known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= (port := int(text)) <= 65535:
            return port
    msg = f"a number from 0 (any free one) to 65535, not {text!r}"
    raise argparse.ArgumentTypeError(msg)


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    msg = f"a number above 0, not {text!r}"
    raise argparse.ArgumentTypeError(msg)


def _token(text: str) -> str:
    if not re.fullmatch("[!-~]+", text):
        msg = "it has to be of visible ASCII characters; let it be long and hard to guess"
        raise argparse.ArgumentTypeError(msg)
    return text
