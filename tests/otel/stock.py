"""
An app with a set-up of OpenTelemetry's own parts, to which ours is one processor.
"""

from __future__ import annotations

import asyncio
import logging
import os

import structlog
from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

from replaylink import identify
from replaylink.asgi import ReplayLinkMiddleware
from replaylink.otel import IdentityLogRecordProcessor

provider = LoggerProvider()
provider.add_log_record_processor(IdentityLogRecordProcessor())
exporter = OTLPLogExporter(endpoint=os.environ["POSTHOG_HOST"] + "/i/v1/logs")
provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=200))
logging.getLogger().addHandler(LoggingHandler(logger_provider=provider))
logging.getLogger().setLevel(logging.INFO)

structlog.configure(
    processors=[structlog.stdlib.render_to_log_kwargs],
    logger_factory=structlog.stdlib.LoggerFactory(),
)
log = structlog.get_logger("shop")
library = logging.getLogger("library")

fastapi_app = FastAPI()


@fastapi_app.get("/orders/{n}")
async def order(n: int) -> str:
    identify(f"user-{n}")
    log.info("start", n=n)
    await asyncio.sleep(0)
    library.info("library", extra={"n": n})
    await asyncio.to_thread(log.info, "thread", n=n)
    return "done"


app = ReplayLinkMiddleware(fastapi_app)
