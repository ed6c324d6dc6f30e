"""
What a client may send gets nothing but a missing key.
"""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replaylink.sources import header, json_body, posthog_cookie, query
from tests.helpers import (
    HEADER,
    JSON,
    LINKED,
    SESSION,
    ASGIDriver,
    Driver,
    HungUp,
    Raw,
    RawHeaders,
    Request,
    cookie,
    driver_of,
    line,
    post,
    raw_cookie,
)

if TYPE_CHECKING:
    from tests.conftest import Lines

log = structlog.get_logger()

NAME = HEADER.lower().encode()
SID = SESSION.encode()
NOW = round(time.time() * 1000)


@pytest.fixture(params=["asgi", "wsgi"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


async def bodies_of(driver: Driver, app_of: Any, request: Raw) -> list[bytes | None]:
    """
    Return the body that an app in *app_of* gets; None if the client hung up.
    """
    bodies: list[bytes | None] = []

    def handler(seen: Request) -> None:
        bodies.append(seen.body)
        log.info("view")

    try:
        assert b"ok" == await driver.raw(app_of(driver.app(handler)), request)
    except HungUp:
        bodies.append(None)
    return bodies


async def check(
    driver: Driver,
    lines: Lines,
    caplog: pytest.LogCaptureFixture,
    request: Raw,
    expected: dict[str, str],
    **options: Any,
) -> None:
    """
    Send *request*: the app gets what it got without us, its line the keys that are *expected*.
    """
    bare = await bodies_of(driver, lambda app: app, request)
    lines.clear()
    started = time.perf_counter()
    with caplog.at_level(logging.DEBUG, "replaylink"):
        ours = await bodies_of(driver, lambda app: driver.wrap(app, **options), request)
    log.info("after")

    assert bare == ours
    assert [*[line("view", **expected)] * (None not in ours), line("after")] == lines
    messages = [record.getMessage() for record in caplog.records if record.name == "replaylink"]
    reasons = [message for message in messages if message.startswith("no session ID")]
    assert (0 if expected.get("sessionId") else 1) == len(reasons)
    for message in messages:
        assert message.isprintable()
        assert len(message) < 500
    # Nothing hangs: the slowest of all takes a tenth of this.
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"\x00\x01\x1f\x7f", {}, id="controls-alone"),
        pytest.param(b"\x00" + SID + b"\x1f\x7f", LINKED, id="controls-around"),
        pytest.param(b"\x1b[31m" + SID + b"\x1b[0m", {}, id="ansi"),
        pytest.param(SID + b"\r\nlevel=error msg=forged", {}, id="newline"),
        pytest.param(SID + b"\x9b\x85", LINKED, id="c1"),
        pytest.param("\u202e".encode() + SID, {}, id="bidirectional-utf-8"),
        pytest.param(b"\xff\xfe\xfd", {}, id="non-latin"),
        pytest.param("сессия".encode(), {}, id="cyrillic"),
        pytest.param(b"%00%0a", {}, id="escapes"),
        pytest.param(b"{{7*7}}${jndi:ldap://x}", {}, id="templates"),
        pytest.param(b"../../etc/passwd", {}, id="path"),
        pytest.param(b"x" * 2**20, {}, id="megabyte"),
        pytest.param(b"," * 2**18, {}, id="megabyte-of-commas"),
        pytest.param(b" " * 2**20 + SID, LINKED, id="megabyte-of-spaces"),
        pytest.param(b"\x01" * 2**20 + SID, LINKED, id="megabyte-of-controls"),
        pytest.param(b"a b," * 2**10 + SID, LINKED, id="at-the-end-of-a-list"),
        pytest.param(b"$posthog_cookieless", {}, id="cookieless"),
        pytest.param(b"", {}, id="empty"),
    ],
)
async def test_headers(
    driver: Driver,
    lines: Lines,
    caplog: pytest.LogCaptureFixture,
    value: bytes,
    expected: dict[str, str],
) -> None:
    """A header of any bytes makes an ID that is valid, or none."""
    await check(driver, lines, caplog, Raw([(NAME, value)], method="GET"), expected)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([(NAME, b"not valid")] * 200, {}, id="of-nothing"),
        pytest.param([*[(NAME, b"?")] * 199, (NAME, SID)], LINKED, id="the-last-is-usable"),
        pytest.param([(NAME, SID), *[(NAME, b"other")] * 199], LINKED, id="the-first-is-usable"),
        pytest.param(
            [*[(b"cookie", b"ph_a_posthog=%")] * 199, (b"cookie", cookie().encode())],
            LINKED,
            id="cookies",
        ),
    ],
)
async def test_two_hundred_headers(
    driver: Driver,
    lines: Lines,
    caplog: pytest.LogCaptureFixture,
    headers: RawHeaders,
    expected: dict[str, str],
) -> None:
    """Of 200 repeated headers the first usable one counts."""
    await check(driver, lines, caplog, Raw(headers, method="GET"), expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("a\x00\x1b[31m\r\nb\x85c", "a[31mbc", id="controls"),
        pytest.param("x" * 2**20, "x" * 200, id="megabyte"),
        pytest.param("é" * 500, None, id="latin-1"),
        pytest.param("undefined", None, id="undefined"),
        pytest.param(" , ,", ", ,", id="commas"),
    ],
)
async def test_user_headers(driver: Driver, lines: Lines, value: str, expected: str | None) -> None:
    """Where a claim counts for the user, it is clean and short as well."""
    expected = "é" * 200 if value.startswith("é") else expected
    app = driver.linked(lambda request: log.info("view"), user_id=header("X-User"))
    await driver.raw(app, Raw([(b"x-user", value.encode("latin-1"))], method="GET"))

    assert [line("view", **({"posthogDistinctId": expected} if expected else {}))] == lines


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"%", id="broken-escape"),
        pytest.param(b"%7B%22%24sesid%22", id="cut-off"),
        pytest.param(b"\xff\xfe\x00\x1b", id="any-bytes"),
        pytest.param(b"%ff%fe%00", id="escaped-bytes"),
        pytest.param(raw_cookie("not json").partition("=")[2].encode(), id="not-json"),
        pytest.param(raw_cookie("[1,2]").partition("=")[2].encode(), id="another-shape"),
        pytest.param(raw_cookie(f'{{"$sesid":["{NOW}","a","{NOW}"]}}')[20:].encode(), id="texts"),
        pytest.param(raw_cookie(f'{{"$sesid":[NaN,"a",{NOW}]}}')[20:].encode(), id="nan"),
        pytest.param(raw_cookie(f'{{"$sesid":[{"9" * 99},"a",{NOW}]}}')[20:].encode(), id="huge"),
        pytest.param(cookie(idle_s=-3600, age_s=-3600).partition("=")[2].encode(), id="future"),
        pytest.param(cookie(idle_s=3600, age_s=3600).partition("=")[2].encode(), id="idle"),
        pytest.param(raw_cookie("[" * 100_000).partition("=")[2].encode(), id="deep"),
        pytest.param(b"%7B%22a%22:" * 50_000, id="deep-objects"),
        pytest.param(b"%" * 2**20, id="megabyte"),
        pytest.param(b"x; ph_a_posthog=" * 2**14, id="thousands-of-cookies"),
    ],
)
async def test_cookies(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    """A cookie of any bytes makes no ID, and does not hide a good one."""
    broken = b"ph_broken_posthog=" + value
    await check(driver, lines, caplog, Raw([(b"cookie", broken)], method="GET"), {})
    both = Raw([(b"cookie", broken + b"; " + cookie().encode())], method="GET")
    caplog.clear()
    await check(driver, lines, caplog, both, LINKED)


@pytest.mark.parametrize(
    "query_string",
    [b"s=%", b"s=%00", b"s=\xff", b"s=" + b"x" * 2**20, b"s=&" * 2**16, b"&" * 2**18, b"s=%e2%80"],
    ids=lambda value: value[:8].decode("latin-1"),
)
async def test_queries(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, query_string: bytes
) -> None:
    """A query of any bytes makes no ID."""
    request = Raw(query=query_string, method="GET")
    await check(driver, lines, caplog, request, {}, session_id=query("s"))


GOOD = b'{"message":"Hello","sessionId":"' + SID + b'"}'

BODIES = [
    pytest.param(b"", {}, id="empty"),
    pytest.param(b" ", {}, id="space"),
    pytest.param(GOOD[:-1], {}, id="cut-off-at-the-end"),
    pytest.param(GOOD[:30], {}, id="cut-off-in-the-middle"),
    pytest.param(b"[" * 100_000, {}, id="brackets"),
    pytest.param(b"[" * 50_000 + b'"sessionId"' + b"]" * 50_000, {}, id="brackets-with-the-name"),
    pytest.param(b'{"sessionId":' * 15_000, {}, id="objects"),
    pytest.param(b'{"a":' + b"[" * 100_000 + b'],"sessionId":"x"}', {}, id="brackets-before"),
    pytest.param(b'{"sessionId":"\xff\xfe"}', {}, id="invalid-utf-8"),
    pytest.param(GOOD.decode().encode("utf-16"), {}, id="utf-16"),
    pytest.param(GOOD.decode().encode("utf-32-be"), {}, id="utf-32"),
    pytest.param(b"\xef\xbb\xbf" + GOOD, LINKED, id="bom"),
    pytest.param(b'{"message":"\\"sessionId\\": \\"x\\""}', {}, id="name-inside-a-string"),
    pytest.param(b'{"sessionId":"x","sessionId":"' + SID + b'"}', LINKED, id="two-of-them"),
    pytest.param(b'{"sessionId":"' + SID + b'","sessionId":7}', {}, id="two-of-two-types"),
    pytest.param(b'{"sessionId":7}', {}, id="number"),
    pytest.param(b'{"sessionId":1e999}', {}, id="huge-number"),
    pytest.param(b'{"sessionId":' + b"9" * 5000 + b"}", {}, id="long-number"),
    pytest.param(b'{"sessionId":{"a":["' + SID + b'"]}}', {}, id="object"),
    pytest.param(b'{"sessionId":null}', {}, id="null"),
    pytest.param(b'{"sessionId":"\\u0000\\u001b[31m\\n"}', {}, id="controls"),
    pytest.param(b'{"sessionId":"\\u202e' + SID + b'"}', LINKED, id="bidirectional"),
    pytest.param(b'{"sessionId":"\\ud800"}', {}, id="surrogate"),
    pytest.param(b'{"sessionId":"' + b"x" * 200_000 + b'"}', {}, id="long-text"),
    pytest.param(gzip.compress(GOOD), {}, id="gzip-not-announced"),
    pytest.param(b"sessionId=" + SID, {}, id="a-form"),
    pytest.param(b"\x00" * 1000, {}, id="nul"),
    pytest.param(json.dumps({str(n): n for n in range(20_000)}).encode(), {}, id="many-fields"),
]


@pytest.mark.parametrize("how", ["with-length", "chunked", "byte-by-byte", "byte-by-byte-chunked"])
@pytest.mark.parametrize(("body", "expected"), BODIES)
async def test_bodies(
    driver: Driver,
    lines: Lines,
    caplog: pytest.LogCaptureFixture,
    how: str,
    body: bytes,
    expected: dict[str, str],
) -> None:
    """A body of any bytes, however it comes, reaches the app as it is."""
    bytewise = how.startswith("byte") and len(body) < 2_000
    chunks = [body[at : at + 1] for at in range(len(body))] if bytewise else [body]
    request = Raw(JSON, chunks, length=None if how.endswith("chunked") else len(body))
    await check(driver, lines, caplog, request, expected)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"deflate", b"GZIP, identity", b"x" * 2**16])
async def test_encoded_bodies(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, encoding: bytes
) -> None:
    """An encoded body is not looked into."""
    request = post(gzip.compress(GOOD), (b"content-encoding", encoding))
    await check(driver, lines, caplog, request, {})


@pytest.mark.parametrize(
    "length",
    [
        *("-1", "+5", "0x10", "1e3", " ", "5,5", "\xb2", "9" * 18, "9" * 5000, "0" * 5000),
        "0" * 19 + "5" + "0" * 5000,
    ],
    ids=lambda value: ascii(value[:6]),
)
async def test_lengths_that_are_none(driver: Driver, length: str) -> None:
    """A length that is no number, or a senseless one, is no reason to read or to fail."""
    seen: list[str] = []

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("view")
        assert GOOD == (await receive())["body"]
        await send({"type": "http.response.body", "body": b"ok"})

    def wsgi_app(environ: Any, start_response: Any) -> Any:
        seen.append("view")
        assert 0 == environ["wsgi.input"].taken
        start_response("200 OK", [])
        return [b"ok"]

    # No validator: it knows no such lengths.
    app: Any = asgi_app if isinstance(driver, ASGIDriver) else wsgi_app
    assert b"ok" == await driver.raw(driver.middleware(app), post(GOOD, length=length))

    assert ["view"] == seen


@pytest.mark.parametrize("announced", [1, 20, len(GOOD) - 1])
async def test_bodies_longer_than_announced(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, announced: int
) -> None:
    """A body that goes on after its announced end reaches the app as without us."""
    # An ASGI server hands over what comes, and we take it for what it is.
    expected = LINKED if isinstance(driver, ASGIDriver) else {}
    await check(driver, lines, caplog, post(GOOD, length=announced), expected)


@pytest.mark.parametrize("announced", [len(GOOD) + 1, 10_000, 262_144])
@pytest.mark.parametrize("at", [0, 1, 20, len(GOOD)])
async def test_bodies_shorter_than_announced(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, announced: int, at: int
) -> None:
    """A body that ends before its announced end reaches the app as without us."""
    # The end of an ASGI body is told; in WSGI a short one is not known to be complete.
    whole = isinstance(driver, ASGIDriver) and at == len(GOOD)
    request = Raw(JSON, [GOOD[:at]], length=announced)
    await check(driver, lines, caplog, request, LINKED if whole else {})


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with-length"])
async def test_a_disconnect_at_every_point(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture, chunked: bool
) -> None:
    """A client may hang up after any byte of its body."""
    body = b'{"sessionId":"a"}'
    for at in range(len(body) + 1):
        for pieces in ([body[:at]], [body[i : i + 1] for i in range(at)]):
            length = None if chunked else len(body) + 1
            caplog.clear()
            request = Raw(JSON, pieces, length=length, hangs_up=True)
            await check(driver, lines, caplog, request, {})


async def test_everything_at_once(
    driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """All sources may be broken in one request."""
    request = Raw(
        [*JSON, (NAME, b"\xff"), (b"cookie", b"ph_a_posthog=%ff"), (b"authorization", b"\xff")],
        [b'{"sessionId":', b"\xff"],
        query=b"s=%ff",
    )
    sources = (header(), posthog_cookie(), query("s"), json_body("sessionId"), json_body("a", "b"))
    await check(driver, lines, caplog, request, {}, session_id=sources, user_id=sources[3:])


MEMORY = """
import asyncio, resource, sys

CHUNK = b"x" * 65536
START = b'{"message":"'


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def asgi(chunks, headers):
    from replaylink.asgi import ReplayLinkMiddleware

    async def receive():
        nonlocal left
        left -= 1
        if left == chunks - 1:
            return {"type": "http.request", "body": START, "more_body": True}
        return {"type": "http.request", "body": CHUNK, "more_body": left > 0}

    async def send(message):
        pass

    async def app(scope, receive, send):
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                return sizes.append(size)

    sizes = []
    left = chunks
    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
    await ReplayLinkMiddleware(app)(scope, receive, send)
    return sizes[0]


def wsgi(chunks, headers):
    from replaylink.wsgi import ReplayLinkMiddleware

    class Input:
        left = chunks

        def read(self, size):
            self.left -= 1
            if self.left == chunks - 1:
                return START
            return CHUNK[:size] if self.left >= 0 else b""

    def app(environ, start_response):
        size = 0
        for chunk in iter(lambda: environ["wsgi.input"].read(65536), b""):
            size += len(chunk)
        sizes.append(size)
        start_response("200 OK", [])
        return [b""]

    sizes = []
    environ = {name.decode().replace("-", "_").upper(): v.decode() for name, v in headers}
    environ |= {"REQUEST_METHOD": "POST", "wsgi.input": Input(), "wsgi.input_terminated": True}
    list(ReplayLinkMiddleware(app)(environ, lambda *args: None))
    return sizes[0]


headers = [(b"content-type", b"application/json")]
if sys.argv[2] != "chunked":
    headers.append((b"content-length", sys.argv[2].encode()))


def run(chunks):
    if sys.argv[1] == "asgi":
        return asyncio.run(asgi(chunks, headers))
    return wsgi(chunks, headers)


run(20)
before = peak_mb()
size = run(16 * 1024 + 2)
print(size, peak_mb() - before)
"""


@pytest.mark.parametrize(
    ("protocol", "length"),
    [
        ("asgi", "chunked"),
        ("asgi", "1073741824"),
        ("asgi", "100000"),
        ("wsgi", "chunked"),
        ("wsgi", "1073741824"),
    ],
)
def test_a_gigabyte(protocol: str, length: str) -> None:
    """A body of 1 GB, whatever length it claims, does not make the process grow by 8 MB."""
    pytest.importorskip("resource")
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, protocol, length],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    size, grown_mb = result.stdout.split()

    assert int(size) >= 2**30
    assert float(grown_mb) < 8
