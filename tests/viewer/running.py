"""
The viewer in a process of its own, as users start it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

START_S: Final = 30
STOP_S: Final = 10


def environment(**settings: str) -> dict[str, str]:
    """
    Return this process's environment without what the examples look at, plus *settings*.
    """
    ours = ("PORT", "POSTHOG_", "OTEL_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**others, **settings}


class Viewer:
    """
    ``replaylink viewer`` on a free port, until the end of the block.

    Args:
        arguments: More of its arguments.
        command: The command, if it is not this environment's.
        folder: Where to start it.
    """

    def __init__(
        self, *arguments: str, command: str | None = None, folder: Path | None = None
    ) -> None:
        self._command = [command] if command else [sys.executable, "-m", "replaylink"]
        self._arguments = arguments
        self._folder = folder
        self._ended: tuple[int, str, str] | None = None

    def __enter__(self) -> Viewer:
        self.process = subprocess.Popen(
            [*self._command, "viewer", "--port", "0", *self._arguments],
            cwd=self._folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        hangs = threading.Timer(START_S, self.process.kill)
        hangs.start()
        assert self.process.stderr is not None
        self.banner = ""
        while "Ctrl-C" not in self.banner:
            text = self.process.stderr.readline()
            if not text:
                self.process.communicate()
                msg = f"the viewer did not start: {self.banner}"
                raise RuntimeError(msg)
            self.banner += text
        hangs.cancel()
        self.url = re.findall(r"Open +(http://[^/]+)/", self.banner)[0]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """
        End it by a signal; return its status, and what it wrote to stdout and then to stderr.
        """
        if self._ended is None:
            self.process.send_signal(number)
            try:
                status = self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                status = self.process.wait()
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            with self.process.stdout as stdout, self.process.stderr as stderr:
                self._ended = status, stdout.read(), stderr.read()
        return self._ended
