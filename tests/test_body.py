from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replaylink import _body
from replaylink._body import field_reader, refusal
from replaylink._ids import Absent, accept_user_id, session_id_acceptor

accept = session_id_acceptor()


def read(body: bytes, *path: str) -> str | None:
    found = field_reader(path or ("sessionId",), accept, str)(body)
    return None if isinstance(found, Absent) else found


@pytest.mark.parametrize(
    ("content_type", "encoding", "length", "expected"),
    [
        pytest.param("application/json", "", "10", None, id="json"),
        pytest.param("Application/JSON ; charset=utf-8", "", "10", None, id="parameters"),
        pytest.param("application/problem+json", "", "10", None, id="suffix"),
        pytest.param("application/json", "identity", "10", None, id="identity"),
        pytest.param("application/json", " Identity ", "10", None, id="identity-in-any-case"),
        pytest.param("application/json", "", None, None, id="chunked"),
        pytest.param("application/json", "", "100", None, id="longest"),
        pytest.param("application/json", "", "101", _body.TOO_LONG, id="too-long"),
        pytest.param("application/json", "", "9" * 30, _body.TOO_LONG, id="endless"),
        pytest.param(
            "application/json", "", "0" * 19 + "5" + "0" * 9, _body.TOO_LONG, id="zeros-first"
        ),
        pytest.param("application/json", "", "9" * 5000, _body.TOO_LONG, id="beyond-any-int"),
        pytest.param("application/json", "", "0", _body.NO_BODY, id="empty"),
        pytest.param("application/json", "", "", _body.NO_BODY, id="length-empty"),
        pytest.param("application/json", "", "-5", _body.NO_BODY, id="length-negative"),
        pytest.param("application/json", "", "5, 5", _body.NO_BODY, id="length-twice"),
        pytest.param("application/json", "", "²", _body.NO_BODY, id="length-no-digit"),
        pytest.param("application/json", "gzip", "10", _body.ENCODED, id="gzip"),
        pytest.param("application/json", "identity, br", "10", _body.ENCODED, id="two-encodings"),
        pytest.param("text/json", "", "10", _body.NOT_JSON, id="text"),
        pytest.param("application/jsonl", "", "10", _body.NOT_JSON, id="json-lines"),
        pytest.param("text/plain;application/json", "", "10", _body.NOT_JSON, id="parameter"),
        pytest.param("multipart/form-data; boundary=x", "", "10", _body.NOT_JSON, id="form"),
        pytest.param("", "", "10", _body.NOT_JSON, id="no-type"),
    ],
)
def test_refusal(
    content_type: str, encoding: str, length: str | None, expected: Absent | None
) -> None:
    """Only a JSON body that is not encoded and not too long is read ahead."""
    actual = refusal(content_type, encoding, length, 100)

    assert expected is actual


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"sessionId":"a"}', "a", id="alone"),
        pytest.param(b' {"x":[1,{"y":2}],"sessionId" : "a" ,"z":null} \n', "a", id="among-others"),
        pytest.param(b'\xef\xbb\xbf{"sessionId":"a"}', "a", id="bom"),
        pytest.param(b'{"sessionId":"\\u0061\\n"}', "a", id="escapes-in-the-value"),
        pytest.param(b'{"sessionId":"a","x":1e999}', "a", id="number-beyond-floats"),
        pytest.param(b'{"sessionId":"a","x":' + b"[" * 100 + b"]" * 100 + b"}", "a", id="nested"),
        pytest.param(b'{"sessionId":"a","sessionId":"b"}', "b", id="twice"),
        pytest.param(b'{"sessionId":"a","sessionId":7}', None, id="twice-with-a-number"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"{}", None, id="empty-object"),
        pytest.param(b'{"sessionId":', None, id="cut-off"),
        pytest.param(b'{"sessionId":"a"', None, id="not-closed"),
        pytest.param(b'{"sessionId":"a"} x', None, id="something-after"),
        pytest.param(b'{"sessionId":null}', None, id="null"),
        pytest.param(b'{"sessionId":7}', None, id="number"),
        pytest.param(b'{"sessionId":true}', None, id="bool"),
        pytest.param(b'{"sessionId":{"sessionId":"a"}}', None, id="object"),
        pytest.param(b'{"sessionId":["a"]}', None, id="list"),
        pytest.param(b'{"sessionId":""}', None, id="text-empty"),
        pytest.param(b'{"sessionId":"a b"}', None, id="text-invalid"),
        pytest.param(b'{"x":{"sessionId":"a"}}', None, id="further-in"),
        pytest.param(b'[{"sessionId":"a"}]', None, id="in-a-list"),
        pytest.param(b'"sessionId"', None, id="only-the-name"),
        pytest.param(b'{"x":"\\"sessionId\\":\\"a\\""}', None, id="name-inside-a-string"),
        pytest.param(b'{"session\\u0049d":"a"}', None, id="name-with-escapes"),
        pytest.param(b'{"sessionid":"a"}', None, id="another-case"),
        pytest.param(b'{"sessionId":"\xff"}', None, id="value-not-utf-8"),
        pytest.param(b'{"\xff":1,"sessionId":"a"}', "a", id="elsewhere-not-utf-8"),
        pytest.param(b'{"sessionId":"\\ud800"}', None, id="surrogate"),
        pytest.param('{"sessionId":"a"}'.encode("utf-16"), None, id="utf-16"),
        pytest.param('{"sessionId":"a"}'.encode("utf-32"), None, id="utf-32"),
        pytest.param(b'{"sessionId":"a","x":NaN}', None, id="nan"),
        pytest.param(b"{'sessionId':'a'}", None, id="single-quotes"),
        pytest.param(b"[" * 100_000 + b'"sessionId"', None, id="brackets"),
        pytest.param(b'{"x":' + b"[" * 100_000 + b'],"sessionId":"a"}', None, id="deep-before"),
        pytest.param(
            b'{"sessionId":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, id="deep-after"
        ),
        pytest.param(b'{"sessionId":' * 100_000, None, id="deep-objects"),
    ],
)
def test_field(body: bytes, expected: str | None) -> None:
    """The field of the outermost object is found, and any other body has no ID."""
    actual = read(body)

    assert expected == actual


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"a":{"b":{"c":"x"}}}', "x", id="there"),
        pytest.param(b'{"c":"y","a":{"c":"z","b":{"c":"x","b":1}}}', "x", id="among-others"),
        pytest.param(b'{"a":{"b":null,"c":"x"}}', None, id="null-on-the-way"),
        pytest.param(b'{"a":{"b":7,"c":"x"}}', None, id="number-on-the-way"),
        pytest.param(b'{"a":[{"b":{"c":"x"}}]}', None, id="list-on-the-way"),
        pytest.param(b'{"b":{"c":"x"},"x":"a"}', None, id="not-from-the-start"),
    ],
)
def test_nested_field(body: bytes, expected: str | None) -> None:
    """A field further in is found by the names that lead there."""
    actual = read(body, "a", "b", "c")

    assert expected == actual


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"u":"ann"}', "ann", id="text"),
        pytest.param(b'{"u":7}', "7", id="int"),
        pytest.param(b'{"u":0}', "0", id="zero"),
        pytest.param(b'{"u":' + b"1" * 300 + b"}", "1" * 200, id="long-int"),
        pytest.param(b'{"u":' + b"1" * 5000 + b"}", None, id="int-beyond-text"),
        pytest.param(b'{"u":1.5}', None, id="float"),
        pytest.param(b'{"u":true}', None, id="bool"),
        pytest.param(b'{"u":null}', None, id="null"),
        pytest.param(b'{"u":{}}', None, id="object"),
    ],
)
def test_user_field(body: bytes, expected: str | None) -> None:
    """A user ID may be a number too."""
    found = field_reader(("u",), accept_user_id, str | int)(body)
    actual = None if isinstance(found, Absent) else found

    assert expected == actual


def test_reasons() -> None:
    """It is told whether a field is missing, or there and unusable."""
    reader = field_reader(("a",), accept, str)

    assert "not there" == str(getattr(reader(b"{}"), "reason", None))
    assert "not there" == str(getattr(reader(b'{"a":null}'), "reason", None))
    assert _body.UNUSABLE is reader(b'{"a":1}')
    assert "not a valid ID" == str(getattr(reader(b'{"a":"?"}'), "reason", None))


# Names and values near to the wanted ones, and structures around them.
NAMES = st.sampled_from(["sessionId", "sessionid", "a", "é"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["x", "a b", "", "sessionId", '"sessionId":"x"'])
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


def expected_of(value: Any) -> str | None:
    if not isinstance(value, dict) or not isinstance(value.get("sessionId"), str):
        return None
    found = accept(value["sessionId"])
    return None if isinstance(found, Absent) else found


@given(
    value=VALUES | st.fixed_dictionaries({"sessionId": VALUES}, optional={"x": VALUES}),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    bom=st.booleans(),
)
def test_field_agrees_with_json(
    value: Any, ascii_only: bool, indent: int | None, bom: bool
) -> None:
    """Of any valid JSON, we find what `json.loads` finds."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    body = text.encode("utf-8-sig" if bom else "utf-8")

    assert expected_of(json.loads(text)) == read(body)


@given(
    body=st.lists(
        st.sampled_from(
            [
                *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"1", b"null", b"\xff"),
                *(b'"sessionId"', b'"x"', b"sessionId", b"\\u00", b"\xef\xbb\xbf", b"e", b"-"),
            ]
        ),
        max_size=20,
    ).map(b"".join)
    | st.binary()
)
@example(b'{"sessionId":"x",}')
@example(b'{"sessionId":"x"}{}')
@example(b'\xef\xbb\xbf\xef\xbb\xbf{"sessionId":"x"}')
def test_any_bytes(body: bytes) -> None:
    """No bytes raise, and none that `json.loads` refuses have an ID."""
    found = read(body)

    if found is not None:
        # What stands in other fields is skipped, not checked.
        text = body.decode("utf-8-sig", errors="replace")
        assert expected_of(json.loads(text, strict=False)) == found


@given(st.binary(max_size=20), st.integers(0, 40))
def test_cut_off_bodies(prefix: bytes, keep: int) -> None:
    """A body that was cut off never has an ID."""
    body = b'{"sessionId":"' + b"x" * 20 + b'","y":[1]}'

    assert read(body[: min(keep, len(body) - 1)]) is None
