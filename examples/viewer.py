"""
The viewer of a demo, which ends with the process that started it, however that ends.

``python -m examples.viewer`` takes what ``replaylink viewer`` takes. Its stdin is a pipe that
nobody but the starter holds open, and to which nothing is written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from replaylink.cli import main


def end_with_starter() -> None:
    """
    End this process as SIGTERM does as soon as stdin ends.
    """
    # Not sys.stdin: Python would wait for its lock at the end.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    main(["viewer", *sys.argv[1:]])
