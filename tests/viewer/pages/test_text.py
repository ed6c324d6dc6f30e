from __future__ import annotations

import pytest

from replaylink.viewer.pages.text import (
    as_text,
    duration,
    iso_time,
    linked_text,
    one_line,
    percent,
    size,
    visible,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("a\x00b", 'a<span class="hidden-character">NUL</span>b'),
        ("\x1b[0m", '<span class="hidden-character">ESC</span>[0m'),
        ("\u202egnp.exe", '<span class="hidden-character">U+202E</span>gnp.exe'),
        ("a\u200bb", 'a<span class="hidden-character">U+200B</span>b'),
        ("tab\tand\nline", "tab\tand\nline"),
        ("👩‍👧 é", "👩‍👧 é"),
    ],
    ids=["markup", "nul", "escape", "bidi", "zero width", "white space", "emoji"],
)
def test_visible(text: str, expected: str) -> None:
    """What cannot be seen is named, and everything is escaped."""
    assert expected == visible(text)


def test_visible_survives_lone_surrogates() -> None:
    """A lone surrogate, which no page could be encoded with, is named too."""
    assert '<span class="hidden-character">U+D800</span>' == visible("\ud800")


@pytest.mark.parametrize(
    ("value", "links"),
    [
        ("https://shop.test/a?b=1&c", True),
        ("http://shop.test", True),
        ("javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)", False),
        ("data:text/html,x", False),
        ("//shop.test", False),
        ("https://", False),
        ("https://[broken", False),
        ("https://shop.test/ two words", False),
        ("https://shop.test/\u202egnp", False),
        ("see https://shop.test", False),
    ],
)
def test_linked_text(value: str, links: bool) -> None:
    """Only a whole address of http or https becomes a link."""
    assert links == linked_text(value).startswith("<a href=")


def test_a_link_cannot_leave_its_attribute() -> None:
    """A quote in an address is escaped."""
    html = linked_text("https://x.test/\"onclick='alert(1)'")

    assert html.startswith('<a href="https://x.test/&#34;onclick=&#39;alert(1)&#39;" target=')


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\n  b\tc", "a b c"), ("x" * 11, "x" * 10 + "…"), (" " * 50 + "x", "…"), ("", "")],
    ids=["white space", "long", "far off", "empty"],
)
def test_one_line(text: str, expected: str) -> None:
    """A message is one line in the list, and says when it goes on."""
    assert expected == one_line(text, 10)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (42, "42"),
        (1.5, "1.5"),
        (True, "true"),
        (None, ""),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_as_text(value: object, expected: str) -> None:
    """Values read as filters compare them."""
    assert expected == as_text(value)


@pytest.mark.parametrize(
    ("time_us", "expected"),
    [
        (1_757_620_804_123_456, "2025-09-11T20:00:04.123456Z"),
        (1_757_620_804_000_000, "2025-09-11T20:00:04.000000Z"),
        (10**30, "9999-12-31T23:59:59.999999Z"),
        (-1, "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_iso_time(time_us: int, expected: str) -> None:
    """A time loses no digit, and none is out of reach."""
    assert expected == iso_time(time_us)


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(0, "0:00"), (65_400, "1:05"), (3_723_000, "1:02:03")]
)
def test_duration(milliseconds: int, expected: str) -> None:
    """A length of time reads like a clock."""
    assert expected == duration(milliseconds)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 0, "-"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 1000, "1 %"),
        (999, 1000, "99 %"),
        (1, 2, "50 %"),
    ],
)
def test_percent(part: int, whole: int, expected: str) -> None:
    """Neither all nor nothing is said of what is nearly so."""
    assert expected == percent(part, whole)


@pytest.mark.parametrize(
    ("size_bytes", "expected"), [(0, "1 kB"), (999_000, "999 kB"), (1_260_000, "1.3 MB")]
)
def test_size(size_bytes: int, expected: str) -> None:
    """A size is told in the unit that fits."""
    assert expected == size(size_bytes)
