from __future__ import annotations

import base64
import gzip
import tracemalloc
import zlib
from urllib.parse import quote

import pytest

from replaylink.viewer import limits
from replaylink.viewer.ingest.compression import decompress, gunzip, unwrap
from replaylink.viewer.ingest.errors import BadPayload, TooLarge

LIMIT = 100_000
TEXT = b'{"a":"\xc3\xa9>>>???"}'
BASE64 = base64.b64encode(TEXT)
GZIP = gzip.compress(TEXT)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(TEXT, id="plain"),
        pytest.param(b"\n " + TEXT + b" \n", id="white-space"),
        pytest.param(GZIP, id="gzip"),
        pytest.param(gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]), id="two-members"),
        *(
            pytest.param(zlib.compress(TEXT, level), id=f"zlib-{level}")
            for level in (0, 1, 5, 6, 9)
        ),
        pytest.param(BASE64, id="base64"),
        pytest.param(base64.b64encode(GZIP), id="base64-of-gzip"),
        pytest.param(b"data=" + quote(BASE64, safe="").encode(), id="form"),
        pytest.param(b"data=" + BASE64, id="form-without-quotes"),
        pytest.param(b"data=" + BASE64.replace(b"+", b"%20"), id="form-plus-as-space"),
        pytest.param(
            b"data=" + quote(BASE64, safe="").encode() + b"&compression=base64",
            id="form-more-fields",
        ),
        pytest.param(b"data=" + quote(TEXT, safe="").encode(), id="form-of-json"),
        pytest.param(gzip.compress(b"data=" + quote(BASE64).encode()), id="gzip-of-form"),
    ],
)
def test_unwrap(body: bytes) -> None:
    """All forms in which SDKs send JSON lead to that JSON."""
    assert b"+" in BASE64

    actual = unwrap(body, LIMIT)

    assert TEXT == actual.strip()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(GZIP[:-1], id="cut-off-at-the-end"),
        pytest.param(GZIP[:12], id="cut-off"),
        pytest.param(zlib.compress(TEXT)[:-1], id="zlib-cut-off"),
        pytest.param(zlib.compress(TEXT)[:-4] + b"none", id="zlib-wrong-checksum"),
        pytest.param(GZIP[:2], id="magic-bytes-only"),
        pytest.param(GZIP[:-8] + b"\0" * 8, id="wrong-checksum"),
        pytest.param(GZIP + b"more", id="something-follows"),
        pytest.param(gzip.compress(b" ") * 100 + GZIP, id="many-members"),
        pytest.param(gzip.compress(GZIP), id="nested"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\x00\xff", id="bytes"),
        pytest.param(b"data=%", id="form-of-nothing"),
    ],
)
def test_bad_payloads(body: bytes) -> None:
    """What is none of these, or damaged, is refused."""
    with pytest.raises(BadPayload):
        unwrap(body, LIMIT)


@pytest.mark.parametrize("size", [0, 1, 255, 256 * 1024, 256 * 1024 + 1, 1_000_000])
def test_up_to_the_limit(size: int) -> None:
    """What has just the size of the limit passes, one byte more does not."""
    text = b"x" * size
    body = gzip.compress(text)

    assert text == gunzip(body, size)
    assert text == decompress(text, size)
    for too_large in (gzip.compress(text + b"x"), text + b"x"):
        with pytest.raises(TooLarge):
            decompress(too_large, size)


def test_a_form_of_quoted_characters() -> None:
    """A form with more quoted characters than base64 has is refused before they are replaced."""
    with pytest.raises(TooLarge):
        unwrap(b"data=" + b"%41" * (limits.MAX_QUOTED + 1), 10 * limits.MAX_QUOTED)


def test_a_bomb_does_not_unfold() -> None:
    """Of a hundred megabytes of zeros no more than the limit ever is in memory."""
    bomb = gzip.compress(b"\0" * 100_000_000)
    tracemalloc.start()

    with pytest.raises(TooLarge):
        gunzip(bomb, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * LIMIT + 1_000_000
