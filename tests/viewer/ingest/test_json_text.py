from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylink.viewer import limits
from replaylink.viewer.ingest.budget import Budget
from replaylink.viewer.ingest.errors import BadPayload, TooLarge
from replaylink.viewer.ingest.json_text import MAX_DEPTH, decode, is_utf8, load, repair


def repaired(text: bytes) -> bytes:
    return repair(text, Budget(len(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(rb'"a\ud83d\ude00b"', "a😀b", id="pair"),
        pytest.param(rb'"a\ud83db"', "a\ufffdb", id="first-half"),
        pytest.param(rb'"a\uDE00b"', "a\ufffdb", id="second-half"),
        pytest.param(rb'"\ud83d\ud83d\ude00"', "\ufffd😀", id="half-before-pair"),
        pytest.param(rb'"\\ud83d\ud83d"', "\\ud83d\ufffd", id="escaped-backslash"),
        pytest.param(rb'"\\\ud83d\ude00"', "\\😀", id="backslash-before-pair"),
        pytest.param(rb'"\ud83d\\ude00"', "\ufffd\\ude00", id="backslash-for-second-half"),
        pytest.param(rb'"\u00e9\n\ud83d"', "é\n\ufffd", id="other-escapes"),
        pytest.param(rb'"\uD55C\uDFFF"', "한\ufffd", id="hangul-is-no-half"),
        pytest.param(rb'{"\ud83d":1}', {"\ufffd": 1}, id="key"),
    ],
)
def test_halves_of_surrogate_pairs_are_replaced(text: bytes, expected: object) -> None:
    """Half a pair, which nothing could store, becomes the replacement character."""
    assert expected == load(repaired(text))


@given(st.text(st.characters(categories=["Cs"]) | st.sampled_from('\\u"d\n😀é'), max_size=12))
def test_texts_of_javascript(text: str) -> None:
    """Whatever a text in JavaScript has, only halves without their other half are replaced."""
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    assert expected == load(repaired(json.dumps(text).encode()))


def test_a_text_without_halves_is_not_copied() -> None:
    """What needs no repair stays what it is."""
    text = rb'"\u00e9\\\n"'

    assert text is repaired(text)


def test_halves_in_what_is_not_utf8() -> None:
    """Bytes that are no text are not made one."""
    with pytest.raises(BadPayload):
        repaired(b'"\xff\xff\\ud83d"')


def test_too_many_halves() -> None:
    """All texts of a request may have a number of halves together."""
    budget = Budget(100)
    half = rb"\ud83d\uDE00" * (limits.MAX_SURROGATES // 4)
    for _ in range(2):
        assert half == repair(half, budget)

    with pytest.raises(TooLarge, match="surrogates"):
        repair(rb"\ud83d", budget)


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
