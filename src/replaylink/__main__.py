"""
``python -m replaylink`` is the command ``replaylink``.
"""

from __future__ import annotations

from replaylink.cli import main

if __name__ == "__main__":
    main()
