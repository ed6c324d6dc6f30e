from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylink import _ids
from replaylink._ids import (
    Absent,
    accept_user_id,
    as_text,
    clean,
    is_session_id,
    is_uuid7,
    session_id_acceptor,
)
from tests.helpers import SESSION

INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

# Mostly the characters that matter here, which plain text() would hardly ever draw.
TEXTS = st.text() | st.text(st.sampled_from("aZ09._- \t\n\r\x00\x1b\x7f\x85\u200f\u202e\ud800,;é"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("  a b\t", "a b", id="white-space"),
        pytest.param("a\r\nb", "ab", id="newline"),
        pytest.param("\x1b[31mred\x1b[0m", "[31mred[0m", id="ansi"),
        pytest.param("a\x00b\x7fc\x9bd", "abcd", id="c0-and-c1"),
        pytest.param("a\u202eb\u2066c\u061cd\u200ee", "abcde", id="bidirectional"),
        pytest.param("a\u2028b\u2029c", "abc", id="line-separators"),
        pytest.param("a\ud800b", "ab", id="lone-surrogate"),
        pytest.param("\x00 a \x00", "a", id="white-space-within-controls"),
        pytest.param("Jürgen 東京 🦔", "Jürgen 東京 🦔", id="letters-stay"),
        pytest.param("a\u200db", "a\u200db", id="joiner-stays"),
        pytest.param("\t\n", "", id="nothing-left"),
    ],
)
def test_clean(value: str, expected: str) -> None:
    """Control characters, bidirectional marks and outer white space are removed."""
    actual = clean(value)

    assert expected == actual


@given(TEXTS)
def test_clean_always_yields_safe_text(value: str) -> None:
    """Whatever comes in, what comes out fits on one line and can be encoded."""
    cleaned = clean(value)

    assert INVISIBLE.search(cleaned) is None
    assert cleaned.strip() == cleaned
    assert cleaned == clean(cleaned)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(SESSION, True, id="uuid"),
        pytest.param("a", True, id="one-character"),
        pytest.param("A.z_0-9", True, id="each-kind"),
        pytest.param("x" * 128, True, id="longest"),
        pytest.param("x" * 129, False, id="too-long"),
        pytest.param("", False, id="empty"),
        pytest.param("a b", False, id="space"),
        pytest.param("a\n", False, id="trailing-newline"),
        pytest.param("é", False, id="letter-beyond-ascii"),
        pytest.param("\u0661", False, id="digit-beyond-ascii"),
        pytest.param("a/b", False, id="slash"),
    ],
)
def test_is_session_id(value: str, expected: bool) -> None:
    """A session ID is 1 to 128 of a few ASCII characters."""
    actual = is_session_id(value)

    assert expected is actual


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(SESSION, True, id="lower-case"),
        pytest.param(SESSION.upper(), True, id="upper-case"),
        pytest.param("01980c4b-1234-4abc-8def-0123456789ab", False, id="version-4"),
        pytest.param("01980c4b-1234-7abc-cdef-0123456789ab", False, id="variant"),
        pytest.param(SESSION.replace("-", ""), False, id="no-hyphens"),
        pytest.param(SESSION + "\n", False, id="trailing-newline"),
        pytest.param("", False, id="empty"),
    ],
)
def test_is_uuid7(value: str, expected: bool) -> None:
    """Only a UUID of version 7 is one, in its usual form."""
    actual = is_uuid7(value)

    assert expected is actual


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(SESSION, SESSION, id="as-is"),
        pytest.param(f" {SESSION}\r\n", SESSION, id="cleaned"),
        pytest.param("a\x00b", "ab", id="control-removed"),
        pytest.param("a b", None, id="invalid"),
        pytest.param("$posthog_cookieless", None, id="cookieless"),
        pytest.param(" $posthog_cookieless ", None, id="cookieless-with-spaces"),
        pytest.param("", None, id="empty"),
        pytest.param("\x00", None, id="only-controls"),
        pytest.param("x" * 129, None, id="too-long-is-not-cut"),
    ],
)
def test_session_id_acceptor(value: str, expected: str | None) -> None:
    """A session ID is cleaned and then valid, or it is not used."""
    found = session_id_acceptor()(value)
    actual = None if isinstance(found, Absent) else found

    assert expected == actual


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(SESSION, SESSION, id="accepted"),
        pytest.param(f"\t{SESSION}", SESSION, id="asked-after-cleaning"),
        pytest.param("of-the-default-shape", None, id="refused"),
        pytest.param("not even that", None, id="refused-beyond-the-default-shape"),
    ],
)
def test_own_validator(value: str, expected: str | None) -> None:
    """An app's own rule takes the place of the default one."""
    found = session_id_acceptor(is_uuid7)(value)
    actual = None if isinstance(found, Absent) else found

    assert expected == actual


def test_own_validator_may_allow_more() -> None:
    """A rule of the app's own may accept what the default one refuses."""
    accept = session_id_acceptor(lambda value: value.startswith("{"))

    assert "{a b}" == accept(" {a b}\n")


def test_own_validator_is_never_asked_about_the_marker_for_no_cookies() -> None:
    """What posthog-js sends in place of an ID is none, even for a rule that takes all."""
    accept = session_id_acceptor(lambda value: True)

    assert isinstance(accept("$posthog_cookieless"), Absent)


@pytest.mark.parametrize("value", ["plain", "not plain"])
def test_own_validator_may_fail(value: str) -> None:
    """A rule that raises refuses the ID, and nothing more."""

    def fails(value: str) -> bool:
        raise RuntimeError(value)

    assert isinstance(session_id_acceptor(fails)(value), Absent)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("user-7", "user-7", id="as-is"),
        pytest.param(" ann@example.com\n", "ann@example.com", id="cleaned"),
        pytest.param("a b, c", "a b, c", id="inner-space-stays"),
        pytest.param("é" * 300, "é" * 200, id="cut"),
        pytest.param("x" * 199 + "  y", "x" * 199, id="cut-at-a-space"),
        pytest.param("0", "0", id="zero"),
        pytest.param("", None, id="empty"),
        pytest.param(" \x00", None, id="nothing-left"),
        pytest.param("undefined", None, id="undefined"),
        pytest.param("NULL", None, id="null-in-any-case"),
        pytest.param("distinct_id", None, id="distinct_id"),
        pytest.param("distinctId", None, id="distinctId"),
        pytest.param("$posthog_cookieless", None, id="cookieless"),
        pytest.param("undefined2", "undefined2", id="only-the-whole-word"),
    ],
)
def test_accept_user_id(value: str, expected: str | None) -> None:
    """A user ID is cleaned and cut, and the words of broken frontends are refused."""
    found = accept_user_id(value)
    actual = None if isinstance(found, Absent) else found

    assert expected == actual


@given(TEXTS)
def test_what_is_accepted_is_clean(value: str) -> None:
    """No text at all makes an ID that is empty, too long or unsafe, or raises."""
    session_id = session_id_acceptor()(value)
    user_id = accept_user_id(value)

    if isinstance(session_id, str):
        assert is_session_id(session_id)
    if isinstance(user_id, str):
        assert 1 <= len(user_id) <= _ids.MAX_USER_ID_LENGTH
        assert INVISIBLE.search(user_id) is None
        assert user_id == accept_user_id(user_id)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("a", "a", id="str"),
        pytest.param(7, "7", id="int"),
        pytest.param(0, "0", id="zero"),
        pytest.param(UUID(SESSION), SESSION, id="uuid"),
    ],
)
def test_as_text(value: object, expected: str | None) -> None:
    """Integers and UUIDs become text."""
    actual = as_text(value)

    assert expected == actual


@pytest.mark.parametrize(
    "value", [True, 1.5, b"a", ["a"], object()], ids=lambda value: type(value).__name__
)
def test_as_text_refuses_other_types(value: object) -> None:
    """What is no ID is refused with a way out, and its value is not told."""
    with pytest.raises(TypeError, match=rf"not {type(value).__name__}; convert it with str"):
        as_text(value)


def test_a_reason_shows_itself() -> None:
    """A reason against an ID can be read in a debugger."""
    assert "Absent('not there')" == repr(_ids.NOT_THERE)
