from __future__ import annotations

import msgspec
import pytest

from replaylink.viewer.ingest.errors import BadPayload
from replaylink.viewer.ingest.json_text import MAX_DEPTH, decode, is_utf8, load


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(rb'"a\ud83d\ude00b"', "a😀b", id="pair"),
        pytest.param(rb'"a\ud83db"', "a\ufffdb", id="first-half"),
        pytest.param(rb'"a\uDE00b"', "a\ufffdb", id="second-half"),
        pytest.param(rb'"\ud83d\ud83d\ude00"', "\ufffd😀", id="half-before-pair"),
        pytest.param(rb'"\\ud83d\ud83d"', "\\ud83d\ufffd", id="escaped-backslash"),
        pytest.param(rb'"\u00e9\n\ud83d"', "é\n\ufffd", id="other-escapes"),
        pytest.param(rb'{"\ud83d":1}', {"\ufffd": 1}, id="key"),
    ],
)
def test_halves_of_surrogate_pairs_are_replaced(text: bytes, expected: object) -> None:
    """Half a pair, which nothing could store, becomes the replacement character."""
    assert expected == load(text)
    assert expected == load(msgspec.Raw(text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b"{}{}", id="two"),
        pytest.param(b'"\xff"', id="not-utf-8"),
        pytest.param(b'{"\xff":1}', id="key-not-utf-8"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"1e999", id="beyond-float"),
        pytest.param(rb'"\ud800', id="half-and-cut-off"),
        pytest.param(b"[" * 100_000, id="open-brackets"),
        pytest.param(b"[" * 101 + b"]" * 101, id="too-deep"),
        pytest.param(b'{"a":' * 500 + b"1" + b"}" * 500, id="much-too-deep"),
    ],
)
def test_bad_json(text: bytes) -> None:
    """What is no JSON, or too deep to be encoded again, is refused."""
    with pytest.raises(BadPayload):
        load(text)


def test_as_deep_as_allowed() -> None:
    """Values of just as many levels as are allowed pass."""
    actual = load(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)

    assert b"[" * MAX_DEPTH + b"]" * MAX_DEPTH == msgspec.json.encode(actual)


def test_another_shape() -> None:
    """JSON of another type than asked for is refused."""
    with pytest.raises(BadPayload):
        decode(b"[]", dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"plain", True, id="ascii"),
        pytest.param("é😀".encode(), True, id="utf-8"),
        # Each chunk ends within a character.
        pytest.param("€".encode() * 700_000, True, id="long"),
        pytest.param(b"\xff", False, id="other"),
        pytest.param("é".encode()[:1], False, id="cut-off"),
        pytest.param(b"\xed\xa0\x80", False, id="surrogate"),
    ],
)
def test_is_utf8(text: bytes, expected: bool) -> None:
    """Only UTF-8 is UTF-8, however long it is."""
    assert expected == is_utf8(text)
