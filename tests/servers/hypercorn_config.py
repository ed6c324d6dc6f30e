"""
hypercorn's configuration: loggers in place of files, which the app's set-up then has.
"""

from __future__ import annotations

import logging

accesslog = logging.getLogger("hypercorn.access")
errorlog = logging.getLogger("hypercorn.error")
