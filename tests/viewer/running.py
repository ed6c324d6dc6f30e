"""
The viewer in a process of its own, as users start it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.processes import end, start


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
        self.process, self.banner = start(
            [*self._command, "viewer", "--port", "0", *self._arguments],
            folder=self._folder,
            stdout=subprocess.PIPE,
        )
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
            status = end(self.process, number)
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            with self.process.stdout as stdout, self.process.stderr as stderr:
                self._ended = status, stdout.read(), stderr.read()
        return self._ended
