"""
The way of log records to an OTLP endpoint: where it is, what is sent, and when.

OpenTelemetry's own exporter gives a batch up once it is refused (401, 413), told to
come back later than in 10 seconds (PostHog's 429), or failed for as long, and its batch
processor takes up to 30 seconds to end. Here a batch stays until it is delivered, and
what comes meanwhile waits in the queue. Only its encoder is used.
"""
