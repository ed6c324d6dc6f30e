"""Where logs go, by arguments and by the environment, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import structlog

from replaylink._otlp.target import find_target
from replaylink.otel import configure_logging
from tests.otel.receiver import Receiver

US = "https://us.i.posthog.com/i/v1/logs"

TOKEN = {"authorization": "Bearer phc_x"}

ARGUMENTS: dict[str, Any] = {"endpoint": None, "token": None, "host": None}


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ({}, {}, None),
        ({}, {"POSTHOG_HOST": "https://eu.posthog.com"}, None),
        ({"token": "phc_x"}, {}, (US, TOKEN)),
        ({"token": "phc_x", "host": "https://us.posthog.com"}, {}, (US, TOKEN)),
        ({"token": "phc_x", "host": "https://us.posthog.com/"}, {}, (US, TOKEN)),
        ({"token": "phc_x", "host": "https://app.posthog.com"}, {}, (US, TOKEN)),
        ({"token": "phc_x", "host": US}, {}, (US, TOKEN)),
        (
            {"token": "phc_x", "host": "https://eu.posthog.com"},
            {},
            ("https://eu.i.posthog.com/i/v1/logs", TOKEN),
        ),
        (
            {"token": "phc_x", "host": "http://posthog.example:8000/ingest/"},
            {},
            ("http://posthog.example:8000/ingest/i/v1/logs", TOKEN),
        ),
        ({}, {"POSTHOG_PROJECT_TOKEN": "phc_x\n"}, (US, TOKEN)),
        (
            {},
            {"POSTHOG_PROJECT_TOKEN": "phc_x", "POSTHOG_HOST": "https://eu.i.posthog.com"},
            ("https://eu.i.posthog.com/i/v1/logs", TOKEN),
        ),
        (
            {"host": "https://eu.i.posthog.com"},
            {"POSTHOG_PROJECT_TOKEN": "phc_x"},
            ("https://eu.i.posthog.com/i/v1/logs", TOKEN),
        ),
        (
            {"token": "phc_y"},
            {"POSTHOG_PROJECT_TOKEN": "phc_x", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"},
            (US, {"authorization": "Bearer phc_y"}),
        ),
        ({"endpoint": "http://c:4318"}, {}, ("http://c:4318/v1/logs", {})),
        ({"endpoint": "http://c:4318/"}, {}, ("http://c:4318/v1/logs", {})),
        ({"endpoint": "http://c/x/logs?a=b"}, {}, ("http://c/x/logs?a=b", {})),
        ({"endpoint": "http://c/x", "token": "phc_x"}, {}, ("http://c/x", TOKEN)),
        (
            {"endpoint": "http://c/x"},
            {"POSTHOG_PROJECT_TOKEN": "phc_x", "OTEL_EXPORTER_OTLP_HEADERS": "API-Key=s%20t"},
            ("http://c/x", {"api-key": "s t"}),
        ),
        (
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"},
            ("http://c:4318/v1/logs", {}),
        ),
        (
            {},
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://d/logs",
                "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
                "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2",
            },
            ("http://d/logs", {"b": "2"}),
        ),
        (
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_LOGS_EXPORTER": "none"},
            None,
        ),
        (
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "POSTHOG_PROJECT_TOKEN": "phc_x"},
            (US, TOKEN),
        ),
    ],
)
def test_target(
    arguments: dict[str, Any],
    environ: dict[str, str],
    expected: tuple[str, dict[str, str]] | None,
) -> None:
    """Arguments count first, then PostHog's variables, then OpenTelemetry's."""
    target = find_target(**{**ARGUMENTS, **arguments}, environ=environ)

    assert expected == (None if target is None else (target.url, dict(target.headers)))


def test_other_settings(tmp_path: Path) -> None:
    """The other variables of OpenTelemetry count for its endpoint, and not for PostHog."""
    ca, certificate, key = (str(tmp_path / name) for name in ("ca.pem", "me.pem", "key.pem"))
    for path in (ca, certificate, key):
        Path(path).touch()
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": ca,
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificate,
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": key,
    }
    standard = find_target(**ARGUMENTS, environ=environ)
    posthog = find_target(**{**ARGUMENTS, "token": "phc_x"}, environ=environ)

    assert standard is not None
    assert (2.5, True, ca, (certificate, key)) == (
        standard.timeout_s,
        standard.compress,
        standard.verify,
        standard.cert,
    )
    assert posthog is not None
    assert (10, True, True, None) == (
        posthog.timeout_s,
        posthog.compress,
        posthog.verify,
        posthog.cert,
    )


def test_secrets_are_not_shown() -> None:
    """What is said of an endpoint has neither its password nor its query."""
    target = find_target(None, "phc_x", None, {})
    other = find_target("https://me:secret@c:1/p?token=phc_x", None, None, {})

    assert target is not None
    assert other is not None
    assert "https://c:1/p" == other.shown
    assert "phc_x" not in repr(target)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"service_name": ""}, ValueError, "service_name='': must not be empty"),
        ({"service_name": None}, TypeError, "service_name=None: must be a str"),
        ({"service_version": 1}, TypeError, "service_version=1: must be a str"),
        ({"environment": " "}, ValueError, "environment=' ': must not be empty"),
        ({"level": "LOUD"}, ValueError, "level='LOUD': must be one of DEBUG, "),
        ({"level": 1.5}, TypeError, "level=1.5: must be one of"),
        ({"level": True}, TypeError, "level=True: must be one of"),
        ({"processors": ["x"]}, TypeError, "processors="),
        ({"max_queue_records": 0}, ValueError, "max_queue_records=0: must be at least 1"),
        ({"max_queue_records": "1"}, TypeError, "max_queue_records='1': must be an int"),
        ({"endpoint": "c:4318"}, ValueError, "endpoint='c:4318': must be an http:// or https://"),
        ({"endpoint": "http://"}, ValueError, "endpoint='http://': must be an http://"),
        ({"endpoint": "http://c:port"}, ValueError, "endpoint='http://c:port': must be an"),
        ({"endpoint": b"http://c"}, TypeError, "endpoint=b'http://c': must be a str"),
        ({"host": "us.posthog.com", "token": "phc_x"}, ValueError, "host='us.posthog.com': must"),
        ({"host": "https://c"}, ValueError, "host='https://c': PostHog needs token=... or"),
        (
            {"endpoint": "http://c", "host": "http://d", "token": "phc_x"},
            ValueError,
            "give one of them",
        ),
        ({"token": ""}, ValueError, "token is empty"),
        ({"token": 5}, TypeError, "token is a int"),
        ({"token": "phx_x"}, ValueError, "token is a personal API key"),
        ({"token": "phc_x\r\nX: y"}, ValueError, "token has white space"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """A wrong option is refused with what is wrong, and changes nothing."""
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(error) as caught:
        configure_logging(**{"service_name": "shop", **options})

    assert message in str(caught.value)
    assert "phc_x" not in str(caught.value)
    assert handlers == logging.getLogger().handlers
    assert not structlog.is_configured()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"POSTHOG_PROJECT_TOKEN": "phc_x", "POSTHOG_HOST": "us.posthog.com"},
            "POSTHOG_HOST='us.posthog.com': must be an http://",
        ),
        ({"POSTHOG_PROJECT_TOKEN": "phx_x"}, "POSTHOG_PROJECT_TOKEN is a personal API key"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT='c:4318'"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "'grpc': logs go out as http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
            "OTEL_EXPORTER_OTLP_TIMEOUT is 'soon'",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": "no/ca.pem",
            },
            "OTEL_EXPORTER_OTLP_CERTIFICATE is 'no/ca.pem': there is no such file",
        ),
    ],
)
def test_wrong_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    """A variable that cannot be used is named."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ValueError, match=message):
        configure_logging(service_name="shop")


def test_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PostHog's variables, lines go to PostHog's path with the token, compressed."""
    monkeypatch.setenv("POSTHOG_HOST", receiver.url)
    monkeypatch.setenv("POSTHOG_PROJECT_TOKEN", "phc_x")
    with configure_logging(service_name="shop") as logs:
        logging.getLogger("tests").info("line")
        logs.flush()

    [(path, headers)] = receiver.requests
    assert "/i/v1/logs" == path
    assert {
        "authorization": "Bearer phc_x",
        "content-encoding": "gzip",
        "content-type": "application/x-protobuf",
    }.items() <= headers.items()
    assert ["line"] == receiver.bodies()


def test_sdk_disabled(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that turns OpenTelemetry off does so here."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    assert configure_logging(service_name="shop", endpoint=receiver.url).provider is None


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_missing_extra() -> None:
    """Without OpenTelemetry the error tells how to install it."""
    result = run("import sys\nsys.modules['opentelemetry'] = None\nimport replaylink.otel")

    assert 'ImportError: replaylink.otel needs OpenTelemetry: pip install "replaylink[otlp]"' in (
        result.stderr
    )


def test_import_is_light() -> None:
    """Nothing but replaylink.otel imports OpenTelemetry."""
    result = run(
        "import sys, replaylink, replaylink.asgi, replaylink.wsgi, replaylink.stdlib\n"
        "import replaylink.processors\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests'))])"
    )

    assert "[]\n" == result.stdout


def test_exports() -> None:
    """The module has what it lists."""
    from replaylink import otel

    assert ["IdentityLogRecordProcessor", "Logs", "configure_logging"] == otel.__all__
