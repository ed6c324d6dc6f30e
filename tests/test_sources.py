from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylink import CORS_HEADERS
from replaylink._ids import Absent, accept_user_id, session_id_acceptor
from replaylink.sources import JSONBody, Source, header, json_body, posthog_cookie, query
from tests.helpers import (
    HEADER,
    OTHER_SESSION,
    SESSION,
    USER,
    Raw,
    cookie,
    http_environ,
    http_scope,
    raw_cookie,
)

Look = Callable[[Source, Raw], str | None]

accept_session_id = session_id_acceptor()


def in_scope(source: Source, request: Raw) -> str | None:
    found = source.in_scope(accept_session_id)(http_scope(request))
    return None if isinstance(found, Absent) else found


def in_environ(source: Source, request: Raw) -> str | None:
    found = source.in_environ(accept_session_id)(http_environ(request))
    return None if isinstance(found, Absent) else found


@pytest.fixture(params=[in_scope, in_environ], ids=["asgi", "wsgi"])
def look(request: pytest.FixtureRequest) -> Look:
    """Looks for the session ID in a request of either protocol."""
    function: Look = request.param
    return function


def with_headers(name: str, *values: str) -> Raw:
    raw = name.lower().encode()
    return Raw([(b"host", b"test"), *((raw, value.encode("latin-1")) for value in values)])


def with_cookies(*values: str) -> Raw:
    return with_headers("Cookie", *values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], None, id="missing"),
        pytest.param([SESSION], SESSION, id="there"),
        pytest.param([f"  {SESSION} "], SESSION, id="spaces"),
        pytest.param([""], None, id="empty"),
        pytest.param(["not valid", SESSION], SESSION, id="first-usable-of-several"),
        pytest.param([SESSION, OTHER_SESSION], SESSION, id="first-of-two"),
        pytest.param([f"{SESSION}, {OTHER_SESSION}"], SESSION, id="joined-by-a-proxy"),
        pytest.param([f", ;,{SESSION}"], SESSION, id="first-usable-of-a-list"),
        pytest.param(["a b,c d,"], None, id="list-of-nothing"),
        pytest.param(["a b", "c d"], None, id="several-of-nothing"),
    ],
)
def test_header(look: Look, values: Sequence[str], expected: str | None) -> None:
    """Of repeated headers the first usable value counts, however they come."""
    actual = look(header(), with_headers(HEADER, *values))

    assert expected == actual


@pytest.mark.parametrize("name", ["x-my-session", "X-My-Session", "X-MY-SESSION"])
def test_header_name_in_any_case(look: Look, name: str) -> None:
    """A header is found by its name in any case."""
    actual = look(header(name), with_headers("X-My-Session", SESSION))

    assert SESSION == actual


def test_header_of_another_name(look: Look) -> None:
    """No other header counts."""
    assert look(header(), with_headers("X-PostHog-Window-ID", SESSION)) is None


@pytest.mark.parametrize(
    ("query_string", "expected"),
    [
        pytest.param(f"sid={SESSION}", SESSION, id="alone"),
        pytest.param(f"a=1&sid={SESSION}&b=2", SESSION, id="among-others"),
        pytest.param(f"sid=&sid=%20&sid={SESSION}&sid=x", SESSION, id="first-usable"),
        pytest.param("sid=%61%2Eb", "a.b", id="escaped-value"),
        pytest.param("s%69d=a", "a", id="escaped-name"),
        pytest.param("sid=+a+", "a", id="plus-is-a-space"),
        pytest.param("sid", None, id="no-value"),
        pytest.param("SID=a", None, id="name-has-a-case"),
        pytest.param("asid=a", None, id="another-name"),
        pytest.param("", None, id="empty"),
        pytest.param("&&=&", None, id="empty-fields"),
        pytest.param("sid=%", None, id="broken-escape"),
        pytest.param("sid=%ff%fe", None, id="not-utf-8"),
        pytest.param("sid=a%00b", "ab", id="control-character"),
    ],
)
def test_query(look: Look, query_string: str, expected: str | None) -> None:
    """A query parameter is decoded; of several the first usable counts."""
    actual = look(query("sid"), Raw(query=query_string.encode()))

    assert expected == actual


def test_query_of_a_websocket_without_one() -> None:
    """A WebSocket's scope may do without a query string."""
    find = query("sid").in_scope(accept_session_id)

    assert isinstance(find({"type": "websocket", "headers": []}), Absent)


def test_query_of_an_environ_without_one() -> None:
    """An environ may do without a query string."""
    find = query("sid").in_environ(accept_session_id)

    assert isinstance(find({}), Absent)


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(["sid", "s", "sid ", "é", ""]), st.text(st.characters(codec="utf-8"))
        )
    )
)
def test_query_agrees_with_urlencode(fields: list[tuple[str, str]]) -> None:
    """Whatever a browser encodes is found as it was."""
    request = Raw(query=urlencode(fields).encode())
    accepted = [accept_session_id(value) for name, value in fields if name == "sid"]
    expected = next((found for found in accepted if isinstance(found, str)), None)

    assert expected == in_scope(query("sid"), request)
    assert expected == in_environ(query("sid"), request)


@given(st.binary())
def test_query_takes_any_bytes(query_string: bytes) -> None:
    """No query string raises, and both protocols see the same."""
    request = Raw(query=query_string)

    assert in_scope(query("sid"), request) == in_environ(query("sid"), request)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, SESSION, id="active"),
        pytest.param({"idle_s": 29 * 60, "age_s": 29 * 60}, SESSION, id="almost-idle"),
        pytest.param({"idle_s": 31 * 60, "age_s": 31 * 60}, None, id="idle"),
        pytest.param({"age_s": 24 * 3600 - 60}, SESSION, id="almost-too-old"),
        pytest.param({"age_s": 24 * 3600 + 60}, None, id="too-old"),
        pytest.param({"idle_s": -30, "age_s": -30}, SESSION, id="clock-a-little-ahead"),
        pytest.param({"idle_s": -90}, None, id="active-in-the-future"),
        pytest.param({"age_s": -90}, None, id="started-in-the-future"),
        pytest.param({"session": "a b"}, None, id="invalid"),
        pytest.param({"session": "$posthog_cookieless"}, None, id="cookieless"),
    ],
)
def test_cookie(look: Look, options: dict[str, Any], expected: str | None) -> None:
    """A session that posthog-js itself would not continue is not used."""
    actual = look(posthog_cookie(), with_cookies(cookie(**options)))

    assert expected == actual


NOW = round(time.time() * 1000)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("nonsense", id="not-json"),
        pytest.param('{"distinct_id"', id="cut-off"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="list"),
        pytest.param('"text"', id="text"),
        pytest.param("{}", id="empty-object"),
        pytest.param('{"$sesid":null}', id="session-null"),
        pytest.param('{"$sesid":[]}', id="session-empty"),
        pytest.param('{"$sesid":{}}', id="session-object"),
        pytest.param('{"$sesid":"a"}', id="session-text"),
        pytest.param('{"$sesid":[null,null,null]}', id="session-reset"),
        pytest.param(f'{{"$sesid":[{NOW},"a"]}}', id="session-of-two"),
        pytest.param(f'{{"$sesid":["{NOW}","a","{NOW}"]}}', id="numbers-as-text"),
        pytest.param(f'{{"$sesid":[NaN,"a",{NOW}]}}', id="nan"),
        pytest.param(f'{{"$sesid":[Infinity,"a",{NOW}]}}', id="infinity"),
        pytest.param(f'{{"$sesid":[1e999,"a",{NOW}]}}', id="huge-float"),
        pytest.param(f'{{"$sesid":[{"9" * 400},"a",{NOW}]}}', id="huge-int"),
        pytest.param(f'{{"$sesid":[{"9" * 5000},"a",{NOW}]}}', id="beyond-any-int"),
        pytest.param(f'{{"$sesid":[-{NOW},"a",{NOW}]}}', id="negative"),
        pytest.param(f'{{"$sesid":[{NOW},null,{NOW}]}}', id="session-id-null"),
        pytest.param(f'{{"$sesid":[{NOW},7,{NOW}]}}', id="session-id-number"),
        pytest.param(f'{{"$sesid":[{NOW},"",{NOW}]}}', id="session-id-empty"),
        pytest.param(f'{{"$sesid":[{NOW},"\\ud800",{NOW}]}}', id="session-id-surrogate"),
        pytest.param('{"$sesid":' + "[" * 2000, id="deep"),
        pytest.param('{"a":' * 2000, id="deep-objects"),
        pytest.param("\ufeff{}", id="bom"),
    ],
)
def test_broken_cookie(look: Look, text: str) -> None:
    """A cookie that is not as posthog-js writes it has no session."""
    assert look(posthog_cookie(), with_cookies(raw_cookie(text))) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("%", id="broken-escape"),
        pytest.param("%ff%fe", id="not-utf-8"),
        pytest.param("\xff\xfe", id="latin-1"),
        pytest.param("%00", id="nul"),
        pytest.param(quote('{"$sesid"').replace("%22", "%2"), id="cut-escape"),
    ],
)
def test_cookie_of_broken_bytes(look: Look, value: str) -> None:
    """A cookie of any bytes has no session, and the next one still counts."""
    broken = f"ph_a_posthog={value}"

    assert look(posthog_cookie(), with_cookies(broken)) is None
    assert SESSION == look(posthog_cookie(), with_cookies(f"{broken}; {cookie()}"))


def test_cookie_beyond_latin_1() -> None:
    """Text that no server gives, but a test client may, has no session."""
    find = posthog_cookie().in_environ(accept_session_id)

    assert isinstance(find({"HTTP_COOKIE": "ph_a_posthog=東京"}), Absent)


def test_long_cookies(look: Look) -> None:
    """A cookie longer than any browser stores is not looked into."""
    longest = cookie(distinct_id="x" * 7_000)
    longest = cookie(distinct_id="x" * (7_000 + 8_192 - len(longest.partition("=")[2])))

    assert SESSION == look(posthog_cookie(), with_cookies(longest))
    assert look(posthog_cookie(), with_cookies(longest.replace("xxx", "xxxx", 1))) is None


def test_missing_cookie(look: Look) -> None:
    """Other cookies have no session."""
    assert look(posthog_cookie(), Raw()) is None
    assert look(posthog_cookie(), with_cookies("a=b; sessionid=c")) is None
    assert look(posthog_cookie(), with_cookies("a=b; ph_x=y; x_posthog=z; ;; =; ph")) is None


def test_cookie_among_others(look: Look) -> None:
    """The cookie is found wherever it stands."""
    request = with_cookies(f"a=b;{cookie()} ;c=d")

    assert SESSION == look(posthog_cookie(), request)


@pytest.mark.parametrize("one_header", [True, False], ids=["one-header", "several-headers"])
@pytest.mark.parametrize("swapped", [True, False], ids=["first", "last"])
def test_the_cookie_active_last(look: Look, one_header: bool, swapped: bool) -> None:
    """Of several cookies the one active last counts, and broken ones do not."""
    cookies = [
        cookie(OTHER_SESSION, idle_s=20, token="a"),
        "ph_b_posthog=broken",
        cookie(SESSION, idle_s=10, token="c"),
        cookie("dead", idle_s=3600, age_s=3600, token="d"),
    ]
    if swapped:
        cookies.reverse()
    request = with_cookies("; ".join(cookies)) if one_header else with_cookies(*cookies)

    assert SESSION == look(posthog_cookie(), request)


def test_cookie_of_one_project(look: Look) -> None:
    """With a token only the cookie of that project counts."""
    request = with_cookies(f"{cookie(SESSION, token='phc_a')}; {cookie(OTHER_SESSION)}")

    assert SESSION == look(posthog_cookie("phc_a"), request)
    assert look(posthog_cookie("phc_b"), request) is None


def test_cookie_of_one_user() -> None:
    """As a source of the user ID the cookie gives its distinct ID, however old it is."""
    source = posthog_cookie("phc_test").for_user()
    request = with_cookies(
        f"{cookie(distinct_id='someone', idle_s=9e5, age_s=9e5)}; "
        f"{cookie(distinct_id='another', token='phc_b')}"
    )

    assert "someone" == source.in_scope(accept_user_id)(http_scope(request))
    assert "someone" == source.in_environ(accept_user_id)(http_environ(request))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"distinct_id":"a"}', "a", id="no-session"),
        pytest.param('{"distinct_id":"a","$sesid":[null,null,null]}', "a", id="session-reset"),
        pytest.param('{"distinct_id":"undefined"}', None, id="undefined"),
        pytest.param('{"distinct_id":7}', None, id="number"),
        pytest.param('{"distinct_id":null}', None, id="null"),
        pytest.param("{}", None, id="missing"),
    ],
)
def test_user_in_the_cookie(text: str, expected: str | None) -> None:
    """The distinct ID counts with or without a session."""
    found = (
        posthog_cookie()
        .for_user()
        .in_scope(accept_user_id)(http_scope(with_cookies(raw_cookie(text))))
    )
    actual = None if isinstance(found, Absent) else found

    assert expected == actual


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    session=st.tuples(
        st.integers(-100, 200_000), st.sampled_from([SESSION, "a b"]), st.integers(-100, 200_000)
    )
    | JSON_VALUES,
    others=st.dictionaries(st.text(), JSON_VALUES, max_size=3),
)
def test_cookie_agrees_with_json(session: Any, others: dict[str, Any]) -> None:
    """A cookie that `json.loads` can read has the session that the rules give it."""
    expected = None
    if isinstance(session, tuple):
        idle_s, session_id, age_s = session
        now = round(time.time() * 1000)
        in_time = -50 <= idle_s < 1790 and -50 <= age_s < 86_390
        # Too near to a limit for a test that takes some time itself.
        in_doubt = any(-70 <= value <= -50 for value in (idle_s, age_s)) or (
            1790 <= idle_s <= 1810 or 86_390 <= age_s <= 86_410
        )
        if in_doubt:
            return
        session = [now - idle_s * 1000, session_id, now - age_s * 1000]
        expected = SESSION if in_time and session_id == SESSION else None
    request = with_cookies(raw_cookie(json.dumps({**others, "$sesid": session})))

    assert expected == in_scope(posthog_cookie(), request)
    assert expected == in_environ(posthog_cookie(), request)


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=50)
    | st.text(st.sampled_from('%25Bb7D",:{}[]$'), max_size=20),
    lower=st.booleans(),
)
def test_any_user_in_the_cookie(text: str, lower: bool) -> None:
    """Whatever a distinct ID holds, it is found as it was, escapes of escapes too."""
    written = raw_cookie(json.dumps({"distinct_id": text}, ensure_ascii=False))
    if lower:
        written = re.sub("%..", lambda escape: escape[0].lower(), written)
    found = posthog_cookie().for_user().in_scope(accept_user_id)(http_scope(with_cookies(written)))
    expected = accept_user_id(text)

    assert isinstance(expected, Absent) is isinstance(found, Absent)
    assert isinstance(expected, Absent) or expected == found


@given(st.binary())
def test_cookie_takes_any_bytes(value: bytes) -> None:
    """No cookie raises, and both protocols see the same."""
    request = Raw([(b"cookie", b"ph_a_posthog=" + value), (b"cookie", cookie().encode())])

    assert SESSION == in_scope(posthog_cookie(), request)
    assert SESSION == in_environ(posthog_cookie(), request)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(header(), "header('X-PostHog-Session-ID')", id="header"),
        pytest.param(header("X-A"), "header('X-A')", id="own-header"),
        pytest.param(query("sid"), "query('sid')", id="query"),
        pytest.param(posthog_cookie(), "posthog_cookie()", id="cookie"),
        pytest.param(posthog_cookie("phc_a"), "posthog_cookie('phc_a')", id="one-cookie"),
        pytest.param(json_body("a"), "json_body('a')", id="field"),
        pytest.param(json_body("a", "b"), "json_body('a', 'b')", id="nested-field"),
    ],
)
def test_sources_show_how_they_are_made(source: Source | JSONBody, expected: str) -> None:
    """The debug line and a debugger show a source as it is written."""
    assert expected == repr(source)


MAKERS: list[Any] = [header, query, posthog_cookie, json_body]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_names_must_be_text(make: Callable[[Any], object]) -> None:
    """A name of another type is refused with its value."""
    with pytest.raises(TypeError, match=rf"{make.__name__}\(7\): a name must be a str"):
        make(7)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_names_must_not_be_empty(make: Callable[[Any], object]) -> None:
    """An empty name is refused."""
    with pytest.raises(ValueError, match=rf"{make.__name__}\(''\): a name must not be empty"):
        make("")


def test_nested_names_are_checked() -> None:
    """Each name on the way to a field is checked."""
    with pytest.raises(ValueError, match="must not be empty"):
        json_body("a", "")


def test_header_names_are_ascii() -> None:
    """A header's name that no client can send is refused."""
    with pytest.raises(ValueError, match=r"header\('X-É'\): a header's name is ASCII"):
        header("X-É")


def test_sources_without_a_late_side_are_their_own_user_source() -> None:
    """A header or a query parameter holds a user ID as it holds a session ID."""
    source = header("X-PostHog-Distinct-ID").for_user()
    request = with_headers("X-PostHog-Distinct-ID", USER)

    assert USER == source.in_scope(accept_user_id)(http_scope(request))


def test_cors_headers() -> None:
    """An API on another origin must allow all three headers of posthog-js."""
    assert (
        "X-PostHog-Session-ID",
        "X-PostHog-Window-ID",
        "X-PostHog-Distinct-ID",
    ) == CORS_HEADERS
