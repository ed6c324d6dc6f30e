"""
The project's programs in processes of their own, as users start them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

START_S: Final = 30
STOP_S: Final = 10

ROOT: Final = Path(__file__).parents[1]


def environment(**settings: str) -> dict[str, str]:
    """
    Return this process's environment without what the programs look at, plus *settings*.
    """
    ours = ("PORT", "POSTHOG_", "OTEL_", "SECRET_KEY")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**others, **settings}


def start(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    settings: dict[str, str] | None = None,
    **options: Any,
) -> tuple[subprocess.Popen[str], str]:
    """
    Start a program, and return it with its banner: what it says on stderr until it is ready.

    Args:
        command: The program and its arguments.
        folder: Where to start it.
        settings: Environment variables for it.
        **options: For `subprocess.Popen`.

    Raises:
        RuntimeError: If it ends, or is not ready after `START_S`.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**(settings or {})),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    # One that hangs is ended, which ends the reading.
    hangs = threading.Timer(START_S, process.kill)
    hangs.start()
    assert process.stderr is not None
    banner = ""
    while "Ctrl-C" not in banner:
        text = process.stderr.readline()
        if not text:
            hangs.cancel()
            process.communicate()
            msg = f"{command} did not start: {banner}"
            raise RuntimeError(msg)
        banner += text
    hangs.cancel()
    return process, banner


def end(
    process: subprocess.Popen[str],
    number: signal.Signals = signal.SIGINT,
    *,
    kill: Callable[[int, int], None] = os.kill,
) -> int:
    """
    End a program by a signal, or if that does not help by force; return its exit status.

    Args:
        process: The program.
        number: The signal.
        kill: What sends it: ``os.killpg`` sends it to all of its group.
    """
    if process.poll() is None:
        kill(process.pid, number)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
