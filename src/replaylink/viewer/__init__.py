"""
The viewer: a local stand-in for PostHog, from a log line to the recording of its session.

It takes in what posthog-js, PostHog's Python SDK and any OpenTelemetry log exporter send,
and shows it: logs, recordings, errors, and how many of the lines are linked.
"""
