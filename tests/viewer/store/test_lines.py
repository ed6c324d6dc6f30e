"""
What a line's ID and its terms tell, and which messages are alike.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylink.viewer.limits import MAX_INDEXED_LENGTH
from replaylink.viewer.records import LogRecord
from replaylink.viewer.store.lines import (
    EPOCH_US,
    KIND_MASK,
    MAX_ID,
    SEQUENCE_BITS,
    id_from,
    key_term,
    line_id,
    next_id,
    own_term,
    prepare,
    session_of,
    term,
    text_of,
    time_of,
    user_of,
)
from replaylink.viewer.store.log_reader import message_pattern

moments = st.integers(EPOCH_US, EPOCH_US + (1 << 50) - 1)
kinds = st.integers(0, KIND_MASK)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(moments, kinds)
def test_id_tells_time_and_kind(time_us: int, kind: int) -> None:
    """An ID fits into what SQLite and JSON's readers can hold, and has the time and the kind."""
    line = line_id(time_us, kind)

    assert 0 <= line <= MAX_ID
    assert (time_us, kind) == (time_of(line), line >> SEQUENCE_BITS & KIND_MASK)


@given(moments, moments, kinds, kinds)
def test_ids_sort_by_time(one_us: int, other_us: int, one_kind: int, other_kind: int) -> None:
    """Of two lines, the later one has the greater ID, whatever their kinds."""
    if one_us < other_us:
        assert line_id(one_us, one_kind) < id_from(other_us) <= line_id(other_us, other_kind)


@given(moments.filter(lambda us: us < EPOCH_US + (1 << 50) - 100), kinds)
def test_next_ids_are_of_the_same_kind(time_us: int, kind: int) -> None:
    """However many lines of a kind a microsecond has, each gets another ID of that kind."""
    line = line_id(time_us, kind)
    found = [line]
    for _ in range(100):
        line = next_id(line)
        found.append(line)

    assert sorted(set(found)) == found
    assert {kind} == {each >> SEQUENCE_BITS & KIND_MASK for each in found}
    assert time_us + 6 == time_of(line)


@pytest.mark.parametrize("time_us", [-1, 0, EPOCH_US - 1, 1 << 62], ids=str)
def test_ids_have_limits(time_us: int) -> None:
    """A time before 2020 or after 2055 has an ID all the same."""
    assert 0 <= line_id(time_us, KIND_MASK) <= MAX_ID


@given(texts, texts, texts, texts)
def test_terms_differ(key: str, value: str, other_key: str, other_value: str) -> None:
    """Two attributes have the same term only if they are the same, and are not cut by the index."""
    same = (key, value) == (other_key, other_value)

    assert same == (term(key, value) == term(other_key, other_value))
    assert not re.search(r"[\x00-\x1f\x7f]", term(key, value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("k", "Ada"), ("k", "ada"), id="case"),
        pytest.param(("k", "STRASSE"), ("k", "strasse"), id="case-of-another-length"),
        pytest.param(("k", "a\nb"), ("k", "a b"), id="line-break"),
        pytest.param(("k", "a\0b"), ("k", "a b"), id="nul"),
        pytest.param(("k", "x" * 300 + "a"), ("k", "x" * 300 + "b"), id="beyond-what-is-indexed"),
        pytest.param(("a=b", "c"), ("a", "b=c"), id="equals-sign-in-the-key"),
        pytest.param(("k", "Ada"), term("k", "Ada").split("=", 1), id="the-form-of-another-value"),
        pytest.param(("@k", "1"), term("@k", "1").split("=", 1), id="the-form-of-another-key"),
    ],
)
def test_terms_tell_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    """What the index would take for the same is told apart."""
    assert term(*one).lower() != term(*other).lower()


@pytest.mark.parametrize("name", ["@s", "@u", "@r", "@k"])
def test_own_terms_are_no_attributes(name: str) -> None:
    """An attribute cannot pass for what the store itself says of a line."""
    assert own_term(name, "1") != term(name, "1")
    assert key_term("a") != term("?", "a")


def test_terms_are_short() -> None:
    """A long value costs the index no more than its beginning."""
    assert len(term("key", "x" * 100_000)) < MAX_INDEXED_LENGTH + 20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("text", "text", id="text"),
        pytest.param(42, "42", id="integer"),
        pytest.param(1.5, "1.5", id="number"),
        pytest.param(True, "true", id="flag"),
        pytest.param(None, "", id="nothing"),
        pytest.param(["a", 1], '["a",1]', id="array"),
        pytest.param({"a": None}, '{"a":null}', id="object"),
    ],
)
def test_values_as_text(value: object, expected: str) -> None:
    """Values are compared and shown as the text that stands for them in JSON."""
    assert expected == text_of(value)


@pytest.mark.parametrize(
    ("attributes", "resource", "expected"),
    [
        pytest.param({"sessionId": "a", "session.id": "b"}, {}, "a", id="preferred-key"),
        pytest.param({"session.id": "b"}, {"sessionId": "a"}, "b", id="own-attribute-first"),
        pytest.param({}, {"session.id": "b"}, "b", id="of-the-resource"),
        pytest.param({"app.session_id": "c"}, {}, "c", id="suffix"),
        pytest.param({"sessionId": ""}, {"sessionId": "a"}, "a", id="empty-is-none"),
        pytest.param({"sessionId": 7}, {}, "7", id="number"),
        pytest.param({"mysessionId": "d"}, {}, "", id="another-word"),
        pytest.param({}, {}, "", id="none"),
    ],
)
def test_session(attributes: dict[str, object], resource: dict[str, object], expected: str) -> None:
    """The session is found under the names that PostHog knows, in PostHog's order."""
    assert expected == session_of(attributes, resource)


def test_user() -> None:
    """The user is found in the same way."""
    assert "u1" == user_of({"sessionId": "s1", "person.distinct_id": "u1"}, {})


def test_terms_of_a_line() -> None:
    """A line has terms for itself, for what links it, and for each attribute."""
    log = LogRecord(
        time_us=EPOCH_US,
        severity="info",
        body="hello",
        attributes={"session.id": "s1", "distinct_id": "u1", "n": 7},
        scope="shop",
        trace_id="ab" * 16,
    )
    (line,) = prepare([log])
    found = line.terms.split("\n")

    assert line.linked
    assert {"@s=s1", "@u=u1", "logger=shop", "n=7", "session.id=s1"} < set(found)
    assert 1 == found.count(f"trace_id={'ab' * 16}")
    assert {key_term("n"), "@s", "@u"} < set(found)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("took 17 ms", "took … ms", id="number"),
        pytest.param("order 01a20589-7982-7afd-a6b5-3e3745e646db", "order …", id="uuid"),
        pytest.param("commit 3ddecee and 0xDEADBEEF1", "commit … and …xDEADBEEF…", id="hash"),
        pytest.param("decade of facade", "decade of facade", id="words-of-such-letters"),
        pytest.param("GET /orders/7/items/12", "GET /orders/…/items/…", id="path"),
        pytest.param(
            '127.0.0.1:52341 - "GET / HTTP/1.1" 200', '<address> - "GET / HTTP/1.1" …', id="access"
        ),
        pytest.param('[::1]:80 "GET /7 HTTP/2" "x"', '<address> "GET /… HTTP/2" "…"', id="ipv6"),
        pytest.param("to 10.0.0.7, and 10.0.0.8.", "to <address>, and <address>.", id="ipv4"),
        pytest.param("peer 2001:db8::7 left", "peer <address> left", id="ipv6-alone"),
        pytest.param("peer ::ffff:10.0.0.7:80", "peer <address>", id="ipv4-in-ipv6"),
        pytest.param("at 12:30:45 in a::b", "at …:…:… in a::b", id="no-addresses"),
        pytest.param("search for 'mug'", "search for '…'", id="quoted"),
        pytest.param('search for "red sugar 7"', 'search for "…"', id="quoted-words"),
        pytest.param("can't get the users' cart 7", "can't get the users' cart …", id="apostrophe"),
        pytest.param(f"got '{'x' * 70}'", f"got '{'x' * 70}'", id="quoted-at-length"),
        pytest.param("""{"event": "paid", "n": 1}""", """{"event": "…", "n": …}""", id="json"),
        pytest.param("no numbers at all", "no numbers at all", id="none"),
        pytest.param("x" * 600, "x" * 200, id="long"),
        pytest.param("", "", id="empty"),
    ],
)
def test_message_pattern(message: str, expected: str) -> None:
    """Numbers, IDs, addresses and quoted values are taken out of a message, and words stay."""
    assert expected == message_pattern(message)
