"""
Runs an example, and the viewer that shows what it sends: ``python -m examples fastapi``.

With the variable ``POSTHOG_PROJECT_TOKEN`` or ``OTEL_EXPORTER_OTLP_ENDPOINT`` it sends to
there, and no viewer is needed.
"""

from __future__ import annotations

import argparse
import atexit
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from typing import IO, Final

from examples.seed import fill

END_S: Final = 5
"""How long the viewer may take to end, in seconds."""


def start_viewer(port: int) -> str:
    """
    Start the viewer in a process of its own, and return its address.

    Raises:
        SystemExit: If it does not start; the message tells why.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "examples.viewer", "--port", str(port)],
        # Held open, and ended by the system if this process is killed.
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the example: it has lines left to send, and the viewer is to take them.
        start_new_session=True,
    )
    assert process.stderr is not None  # noqa: S101
    said = ""
    for line in process.stderr:
        said += line
        if "Ctrl-C" in line:
            rest = threading.Thread(target=pass_on, args=[process.stderr], daemon=True)
            rest.start()
            # What is registered first is called last: after the example has sent what was left.
            atexit.register(stop, process, rest)
            return str(re.findall(r"Open +(\S+)", said)[0])
    process.wait()
    # It suggests an option of its own.
    told, taken, _ = said.partition(" Choose another one")
    sys.exit(f"{told} Try `make demo VIEWER_PORT={port % 65535 + 1}`." if taken else said.rstrip())


def stop(process: subprocess.Popen[str], rest: threading.Thread) -> None:
    """
    End the viewer.
    """
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
    rest.join()


def pass_on(lines: IO[str]) -> None:
    """
    Write to stderr what the viewer has to say after its banner.
    """
    with lines:
        for line in lines:
            if line.strip():
                print(f"viewer: {line}", end="", file=sys.stderr, flush=True)  # noqa: T201


def port_number(text: str) -> int:
    """
    Return the number of a port; 0 is any free one.
    """
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    msg = f"a number from 0 (any free one) to 65535, not {text!r}"
    raise argparse.ArgumentTypeError(msg)


def main() -> None:
    """
    Start the viewer, and then become the example.
    """
    parser = argparse.ArgumentParser(prog="python -m examples")
    parser.add_argument("app", choices=["fastapi", "flask"])
    parser.add_argument("--port", type=port_number, default=8000)
    parser.add_argument("--viewer-port", type=port_number, default=8390)
    parser.add_argument("--seed", action="store_true", help="fill the viewer with a day")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not {"POSTHOG_PROJECT_TOKEN", "OTEL_EXPORTER_OTLP_ENDPOINT"} & os.environ.keys():
        url = start_viewer(options.viewer_port)
        if options.seed:
            fill(url)
        os.environ["VIEWER_URL"] = url
        os.environ["POSTHOG_HOST"] = url.rstrip("/")
        os.environ["POSTHOG_PROJECT_TOKEN"] = "phc_local"
    sys.argv = ["", "--port", str(options.port)]
    runpy.run_module(f"examples.{options.app}_app", run_name="__main__")


if __name__ == "__main__":
    main()
