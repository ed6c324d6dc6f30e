"""
Where log records go: by the arguments of `configure_logging`, or by the environment.

PostHog's variables count first; those of OpenTelemetry are as its specification has them.

See Also:
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.util.re import parse_env_headers

from .report import write

DEFAULT_HOST: Final = "https://us.i.posthog.com"

POSTHOG_PATH: Final = "/i/v1/logs"

OTLP_PATH: Final = "/v1/logs"

DEFAULT_TIMEOUT_S: Final = 10.0
"""How long a request may take, as in OpenTelemetry."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """
    Where to send to, and how.

    Args:
        url: The whole address.
        headers: Headers of each request.
        timeout_s: How long a request may take, in seconds.
        compress: Whether to send gzip.
        verify: Whether to verify the certificate, or the file with those to trust.
        cert: The client's certificate, if any, and its key.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    compress: bool = False
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None

    @property
    def shown(self) -> str:
        """
        The address without what may be secret in it.
        """
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def find_target(
    endpoint: str | None, token: str | None, host: str | None, environ: Mapping[str, str]
) -> Target | None:
    """
    Return where to send to: by the arguments, or else by the environment, if by any.

    Raises:
        TypeError: If an argument is not a string.
        ValueError: If they do not go together, or one of them has a wrong value.
    """
    for name, value in (("endpoint", endpoint), ("host", host)):
        if value is not None:
            _check_address(name, value)
    if token is not None:
        token = _checked_token("token", token)
    if endpoint is not None and host is not None:
        msg = f"endpoint={endpoint!r}, host={host!r}: give one of them; host is PostHog's"
        raise ValueError(msg)

    if endpoint is not None:
        target = _standard_target(_with_path(endpoint, OTLP_PATH), environ)
        if token is None:
            return target
        return _replace_headers(target, {**target.headers, **_bearer(token)})

    if token is None:
        found = environ.get("POSTHOG_PROJECT_TOKEN", "").strip()
        if found:
            token = _checked_token("POSTHOG_PROJECT_TOKEN", found)
    if token is not None:
        if host is None:
            host = environ.get("POSTHOG_HOST", "").strip() or DEFAULT_HOST
            _check_address("POSTHOG_HOST", host)
        # Nothing of OTEL_EXPORTER_OTLP_*: those headers are another receiver's.
        return Target(url=_posthog_url(host), headers=_bearer(token), compress=True)
    if host is not None:
        msg = f"host={host!r}: PostHog needs token=... or POSTHOG_PROJECT_TOKEN too"
        raise ValueError(msg)
    standard = _target_of_environment(environ)
    if standard is None and environ.get("POSTHOG_HOST", "").strip():
        write("POSTHOG_HOST is set and POSTHOG_PROJECT_TOKEN is not: nothing is sent")
    return standard


def _target_of_environment(environ: Mapping[str, str]) -> Target | None:
    if environ.get("OTEL_LOGS_EXPORTER", "").strip().lower() == "none":
        return None
    url = environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "").strip()
    if url:
        _check_address("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", url)
    else:
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        if not base:
            return None
        _check_address("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        # The path is to be added, and yet many have it there already.
        url = base.rstrip("/").removesuffix(OTLP_PATH) + OTLP_PATH
    protocol = _setting(environ, "PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        msg = (
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: logs go out as http/protobuf; set "
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL and OTEL_EXPORTER_OTLP_LOGS_ENDPOINT to that"
        )
        raise ValueError(msg)
    return _standard_target(url, environ)


def _standard_target(url: str, environ: Mapping[str, str]) -> Target:
    timeout = _setting(environ, "TIMEOUT")
    try:
        timeout_s = float(timeout or DEFAULT_TIMEOUT_S)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s < math.inf:
        msg = f"OTEL_EXPORTER_OTLP_TIMEOUT is {timeout!r}: must be a number of seconds above 0"
        raise ValueError(msg)
    certificate = _file(environ, "CLIENT_CERTIFICATE")
    key = _file(environ, "CLIENT_KEY")
    return Target(
        url=url,
        headers=parse_env_headers(_setting(environ, "HEADERS"), liberal=True),
        timeout_s=timeout_s,
        compress=_setting(environ, "COMPRESSION").lower() == "gzip",
        verify=_file(environ, "CERTIFICATE") or True,
        cert=(certificate, key) if certificate and key else certificate or None,
    )


def _setting(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(f"OTEL_EXPORTER_OTLP_LOGS_{name}") or environ.get(
        f"OTEL_EXPORTER_OTLP_{name}", ""
    )
    return value.strip()


def _file(environ: Mapping[str, str], name: str) -> str:
    path = _setting(environ, name)
    if path and not os.path.exists(path):
        msg = f"OTEL_EXPORTER_OTLP_{name} is {path!r}: there is no such file"
        raise ValueError(msg)
    return path


def _check_address(name: str, value: object) -> None:
    example = "https://us.i.posthog.com" if "host" in name.lower() else "http://localhost:4318"
    if not isinstance(value, str):
        msg = f"{name}={value!r}: must be a str such as {example!r}"
        raise TypeError(msg)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        msg = f"{name}={value!r}: must be an http:// or https:// address such as {example!r}"
        raise ValueError(msg)


def _checked_token(name: str, token: object) -> str:
    # No message shows the token.
    if not isinstance(token, str):
        msg = f"{name} is a {type(token).__name__}: must be a str, the project token (phc_...)"
        raise TypeError(msg)
    if not token:
        msg = f"{name} is empty: must be the project token (phc_...), or None"
        raise ValueError(msg)
    if token.startswith("phx_"):
        msg = f"{name} is a personal API key (phx_...): must be the project token (phc_...)"
        raise ValueError(msg)
    if not token.isascii() or not token.isprintable() or " " in token:
        msg = f"{name} has white space or characters in it that no token has"
        raise ValueError(msg)
    return token


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _replace_headers(target: Target, headers: Mapping[str, str]) -> Target:
    return Target(**{**vars(target), "headers": headers})


def _with_path(url: str, path: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=path)) if parts.path in ("", "/") else url


def _posthog_url(host: str) -> str:
    parts = urlsplit(host)
    netloc = parts.netloc
    # The addresses of the pages: what people have at hand.
    if netloc in ("us.posthog.com", "eu.posthog.com"):
        netloc = netloc.replace(".", ".i.", 1)
    elif netloc == "app.posthog.com":
        netloc = "us.i.posthog.com"
    path = parts.path.rstrip("/").removesuffix(POSTHOG_PATH) + POSTHOG_PATH
    return urlunsplit((parts.scheme, netloc, path, "", ""))
