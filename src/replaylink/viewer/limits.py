"""
How much the viewer takes at once, and what each number is for.
"""

from __future__ import annotations

MAX_LOGS_BYTES = 2 * 1024 * 1024
"""A request with logs, before and after decompression: PostHog's own limit."""

MAX_EVENTS_BYTES = 20 * 1024 * 1024
"""
A request with events, after decompression: PostHog's limit for a batch. posthog-python sends
up to 100 events at once.
"""

MAX_RECORDING_BYTES = 64 * 1024 * 1024
"""
A request with pieces of a recording, after all decompression. posthog-js sends about 1 MB at
a time, but a first snapshot cannot be split: one of a page of 30,000 nodes has 8 MB.
"""

MAX_BODY_BYTES = 20 * 1024 * 1024
"""Any request, as it comes over the wire."""

MAX_BODIES_BYTES = 128 * 1024 * 1024
"""
All requests that are on their way to the disk at once, as they come over the wire: six of the
largest. Senders beyond it are told to come again.
"""

MAX_BODY_S = 60.0
"""
How long a request may take to come, in seconds: at 3 Mbit/s the largest would. Who stalls must
not hold a part of `MAX_BODIES_BYTES` for longer.
"""

MAX_ID_LENGTH = 200
"""A session, window or distinct ID in characters: the length at which PostHog cuts."""

MAX_RECORDS = 10_000
"""
Log records in one request, and what they are grouped in. An empty one has two bytes, so that
2 MiB could hold a million; exporters send some hundreds.
"""

MAX_JSON_VALUES = 1_000_000
"""
What the JSON of the events in one request may be made of: numbers, texts, arrays and objects.
As Python objects this many take about 100 MB; the largest honest request has a tenth.
"""

MAX_JSON_PARTS = 2_000_000
"""
Commas in the JSON of one request. Recordings are split but not built: the picture of a page
of 30,000 nodes has 200,000 commas, and none where posthog-js has compressed it.
"""

MAX_SURROGATES = 500_000
"""
Escapes like \\ud83d in the JSON of one request: each is looked at for its other half. Logs of
2 MiB that are nothing but emojis have 350,000.
"""

MAX_QUOTED = 500_000
"""
Percent signs in a form. Of the base64 in it one character in thirty is quoted so, and browsers
let a page that closes send 64 KiB.
"""

MAX_EVENTS = 10_000
"""Events in one request; posthog-python sends up to 100."""

MAX_ATTRIBUTES = 256
"""Attributes of a log record; the rest is left out, and counted as dropped."""

MAX_INDEXED_LENGTH = 200
"""
How much of an attribute counts for filters, in characters. Longer ones are stored whole.
PostHog does not index values of 256 characters and more.
"""

MAX_SEARCHED_LENGTH = 32_768
"""How much of a message can be searched, in characters. Longer ones are stored whole."""

MAX_QUERY_LENGTH = 1000
"""The text of a search, and the value of a filter, in characters."""

MAX_CONDITIONS = 20
"""Filters of one query, and services or severities."""

MAX_CLOCK_SKEW_US = 24 * 3600 * 1_000_000
"""A log record further than this from the time of its arrival is given that time, as in PostHog."""

PAGE_SIZE = 250
"""Log lines on one page."""

MAX_PAGE_LENGTH = 4_000_000
"""Messages and attributes on one page of lines, in characters; a longer page ends earlier."""

MAX_EXPORT_LINES = 10_000
"""Log lines in one export."""

MAX_TABS = 100
"""Browser tabs of one session that are shown, the first ones."""

MAX_RELATED_ISSUES = 100
"""Issues under "Related errors"."""

MAX_OCCURRENCES_BYTES = 8 * 1024 * 1024
"""Exceptions that are read at once, the latest ones."""

MAX_URL_LENGTH = 2000
"""The address of an event, in characters."""

RELATED_WINDOW_US = 6 * 3600 * 1_000_000
"""How far an error may be from the line, either way, to be related."""

SESSION_WINDOW_US = 30 * 60 * 1_000_000
"""How far "View session logs" looks, either way."""

REPLAY_LEAD_MS = 5_000
"""How long before a line its replay starts."""

MAX_COLUMNS = 8
"""Columns of attributes beside the message; more would leave it no room."""

SHOWN_LENGTH = 10_000
"""How much of a message or value is shown before one asks for all of it, in characters."""

LIVE_SIZE = 100
"""Log lines that a page asks for as new ones come; if all are new, it begins anew with them."""

LIVE_INTERVAL_S = 0.25
"""How often at the most an open page is told that something has come."""

LIVE_KEEP_ALIVE_S = 15.0
"""How long nothing may be said to an open page before a proxy would think it gone."""
