"""
What the store answers with.

Times are integers in microseconds since the Unix epoch; those in recordings are in
milliseconds, as the browser's clock gives them.
"""

from __future__ import annotations

import msgspec

from replaylink.viewer.records import JSONObject


class Log(msgspec.Struct, omit_defaults=False):
    """
    One log line, as it is shown.
    """

    id: str
    """Its place in the log: IDs sort by time, as numbers do."""
    time_us: int
    severity: str
    service: str
    """``service.name`` of the resource, or empty."""
    body: str
    attributes: JSONObject
    resource: JSONObject
    scope: str
    """The logger."""
    event_name: str
    trace_id: str
    span_id: str
    session_id: str
    """The session that the line is linked to, or empty."""
    distinct_id: str
    """The user that the line tells of, or empty."""


class Page(msgspec.Struct):
    """
    Some log lines, newest first, and where to go on.
    """

    logs: list[Log]
    next: str | None
    """``before=`` of the next page; none if there is nothing more."""
    searched_to_us: int | None
    """
    If the search ran out of time before it filled the page: how far back it came. The next
    page goes on from there.
    """


class Count(msgspec.Struct):
    """
    How often a value occurs.
    """

    value: str
    count: int


class Bucket(msgspec.Struct):
    """
    One bar of the histogram.
    """

    start_us: int
    counts: dict[str, int]
    """Lines by severity; severities with no line are left out."""


class Summary(msgspec.Struct):
    """
    How many lines a query finds, over time and by facet.

    The counts of a facet leave out that facet's own condition, so that its other values can be
    chosen too.
    """

    total: int
    linked: int
    """How many have a session ID: a facet, too."""
    unlinked: int
    """How many have none."""
    severities: list[Count]
    """From the worst on; only those that occur."""
    services: list[Count]
    """From the commonest on."""
    from_us: int
    """Where the histogram starts."""
    to_us: int
    """Where the histogram ends."""
    step_us: int
    """How wide a bar is."""
    buckets: list[Bucket]
    """In order of time; bars with no line are left out."""
    counted_from_us: int | None
    """If counting ran out of time: lines before this moment are not counted."""


class Attribute(msgspec.Struct):
    """
    An attribute that some lines have.
    """

    key: str
    count: int
    """Of the latest lines looked at, how many have it."""


class Tab(msgspec.Struct):
    """
    What was recorded of one browser tab; posthog-js calls it a window.
    """

    window_id: str
    first_ms: int
    last_ms: int
    playable: bool
    """Whether a full picture of the page has come, without which nothing can be shown."""


class Recording(msgspec.Struct):
    """
    The recording of one session.
    """

    session_id: str
    distinct_id: str
    first_ms: int
    last_ms: int
    size_bytes: int
    tabs: list[Tab]
    """In order of their start."""
    errors: int
    """How many exceptions the session had."""
    logs: int
    """How many log lines the session has, counted up to 1,000."""


class Issue(msgspec.Struct):
    """
    Exceptions of the same type from the same place.
    """

    id: str
    name: str
    """The type of the exception."""
    message: str
    """The message of its latest occurrence."""
    library: str
    """The SDK that reported it, such as ``web`` or ``posthog-python``."""
    occurrences: int
    """How often it was seen; under "Related errors", in that session."""
    sessions: int
    """In how many sessions it was seen."""
    first_seen_us: int
    last_seen_us: int
    total_occurrences: int
    """How often it was seen in all sessions, under "Related errors" too."""


class Frame(msgspec.Struct):
    """
    One frame of a stack trace.
    """

    function: str
    filename: str
    line: int | None
    column: int | None
    in_app: bool
    source: list[tuple[int, str]]
    """The lines of source around it, numbered, if they came with the exception."""


class ExceptionInfo(msgspec.Struct):
    """
    One exception of a chain.
    """

    type: str
    message: str
    handled: bool
    frames: list[Frame]
    """The innermost frame last, as in Python's tracebacks."""


class Occurrence(msgspec.Struct):
    """
    One exception that was captured.
    """

    uuid: str
    issue_id: str
    time_us: int
    session_id: str
    window_id: str
    distinct_id: str
    url: str
    """The page or path at which it happened, without its query."""
    library: str
    exceptions: list[ExceptionInfo]
    """The chain; the outermost, the one that was seen, first."""


class PageView(msgspec.Struct):
    """
    An event of a session that is no exception: a page view, or what the app captured.
    """

    uuid: str
    name: str
    time_us: int
    window_id: str
    url: str
    title: str
    """What was done and on what, if posthog-js captured that by itself; or else the name."""


class Timeline(msgspec.Struct):
    """
    What happened in a session, beside its replay; everything in order of time.
    """

    logs: list[Log]
    errors: list[Occurrence]
    events: list[PageView]


class Share(msgspec.Struct):
    """
    How many of some lines are linked.
    """

    name: str
    total: int
    linked: int


class Unlinked(msgspec.Struct):
    """
    Lines without a session ID that look alike.
    """

    service: str
    logger: str
    message: str
    """The message, with numbers, IDs, addresses and short texts in quotes taken out."""
    count: int
    example_id: str
    """The latest of these lines."""


class Linkage(msgspec.Struct):
    """
    What share of the lines is linked.
    """

    total: int
    linked: int
    services: list[Share]
    loggers: list[Share]
    """Named ``service: logger``."""
    routes: list[Share]
    """Of the latest lines that tell their route; see ``looked_at``."""
    over_time: list[Share]
    """Named by the start of each step, in milliseconds since the epoch."""
    unlinked: list[Unlinked]
    """The commonest of the latest unlinked lines."""
    looked_at: int
    """How many of the latest lines ``routes`` and ``unlinked`` were counted from."""
