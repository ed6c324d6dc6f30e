"""
The example apps in processes of their own, as `make demo` starts them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from itertools import count
from types import TracebackType
from typing import Any, Final

import httpx

from tests.processes import ROOT, end, start

LINES_S: Final = 10
"""How long to wait for a line that is still being written, in seconds."""

Line = dict[str, Any]


def command(app: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"examples.{app}_app", *arguments]


class Demo:
    """
    An example on a free port, and the lines that it writes to stdout.

    Args:
        app: ``fastapi`` or ``flask``.
        settings: Environment variables to start it with.
    """

    def __init__(self, app: str, settings: Mapping[str, str] | None = None) -> None:
        self.app = app
        self._settings = settings or {}
        self.written: list[str] = []
        self._taken = 0
        self._markers = count()

    def __enter__(self) -> Demo:
        self._process, self.banner = start(
            command(self.app, "--port", "0"),
            folder=ROOT,
            settings=dict(self._settings),
            stdout=subprocess.PIPE,
        )
        self.url = re.findall(r"Open +(http://127\.0\.0\.1:\d+/)\n", self.banner)[0]
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.written)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._errors)),
        ]
        for reader in self._readers:
            reader.start()
        return self

    def _read(self, stream: Any, into: list[str]) -> None:
        with stream:
            for text in stream:
                into.append(text)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> tuple[int, str]:
        """
        End it as Ctrl-C does; return its exit status and what it wrote to stderr.
        """
        status = end(self._process)
        for reader in self._readers:
            reader.join()
        return status, "".join(self._errors)

    def lines(self) -> list[Line]:
        """
        Return the lines that were written since the last call, each of which is JSON.
        """
        # A request of our own: as its line has come, all lines before it have.
        marker = f"marker-{next(self._markers)}"
        response = httpx.post(
            f"{self.url}feedback",
            data={"feedback": "marker"},
            headers={"X-PostHog-Session-ID": marker},
        )
        assert response.status_code == 303
        deadline = time.monotonic() + LINES_S
        while not any(marker in text for text in self.written[self._taken :]):
            if time.monotonic() > deadline:
                msg = f"no line with {marker} within {LINES_S} s"
                raise TimeoutError(msg)
            time.sleep(0.01)
        written = self.written[self._taken :]
        self._taken += len(written)
        parsed: list[Line] = [json.loads(text) for text in written]
        return [line for line in parsed if not str(line.get("sessionId")).startswith("marker-")]
