"""
What posthog-js asks for before it does anything: which parts of it are on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replaylink.viewer.records import JSONObject

REMOTE_CONFIG: Final[JSONObject] = {
    "supportedCompression": ["gzip", "gzip-js"],
    "sessionRecording": {"endpoint": "/s/"},
    # The key at the top is what turns the capture of uncaught exceptions on.
    "autocaptureExceptions": True,
    "errorTracking": {"autocaptureExceptions": True, "suppressionRules": []},
    # Clicks become events, as in a new project of PostHog's.
    "autocapture_opt_out": False,
    # There are none, so that posthog-js need not ask for them.
    "hasFeatureFlags": False,
    "surveys": False,
    "heatmaps": False,
    "captureDeadClicks": False,
    "capturePerformance": False,
    "siteApps": [],
    "toolbarParams": {},
    "isAuthenticated": False,
    "defaultIdentifiedOnly": True,
}
"""The remote config: recording and exceptions are on, and what the viewer does not show is off."""

FLAGS: Final[JSONObject] = {
    **REMOTE_CONFIG,
    "flags": {},
    "featureFlags": {},
    "featureFlagPayloads": {},
    "errorsWhileComputingFlags": False,
}
"""The answer to a request for feature flags, in the old and in the new form: there are none."""


def config_script(token: str) -> bytes:
    """
    Return the script that tells posthog-js the remote config.

    Args:
        token: The project's token, as it stands in the script's address.
    """
    entry = msgspec.json.encode({token: {"config": REMOTE_CONFIG, "siteApps": []}})
    name = b"window._POSTHOG_REMOTE_CONFIG"
    return b"%b = Object.assign(%b || {}, %b);\n" % (name, name, entry)
