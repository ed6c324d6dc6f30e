"""
How what was logged becomes text on a page: escaped, and with nothing hidden in it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import msgspec
from markupsafe import Markup, escape

_HIDDEN = re.compile(
    # Control characters but for the tab and the line feed; then what has no width, what turns
    # the direction of text (CVE-2021-42574), what breaks lines, tags, and lone surrogates. Not
    # the joiners: Persian and emoji need them.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)

_NAMES = {0x00: "NUL", 0x07: "BEL", 0x08: "BS", 0x0D: "CR", 0x1B: "ESC", 0x7F: "DEL"}


def visible(text: str) -> Markup:
    """
    Return text as HTML, with each character that would not be seen named in its place.
    """
    if not _HIDDEN.search(text):  # nearly always
        return escape(text)
    parts = []
    end = 0
    for match in _HIDDEN.finditer(text):
        code = ord(match[0])
        name = _NAMES.get(code, f"U+{code:04X}")
        parts += [
            escape(text[end : match.start()]),
            Markup('<span class="hidden-character">{}</span>').format(name),
        ]
        end = match.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def one_line(text: str, length: int = 400) -> Markup:
    """
    Return the beginning of a text as HTML for one line of a list.
    """
    line = " ".join(text[: 2 * length].split())
    cut = len(text) > 2 * length or len(line) > length
    return visible(line[:length] + "…" if cut else line)


def linked_text(value: str) -> Markup:
    """
    Return text as HTML; an address on the web becomes a link.
    """
    if not value.startswith(("http://", "https://")) or any(map(str.isspace, value)):
        return visible(value)
    try:
        host = urlsplit(value).hostname
    except ValueError:
        host = None
    if not host or _HIDDEN.search(value):
        return visible(value)
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(
        value, value
    )


def as_text(value: object) -> str:
    """
    Return an attribute's value as text, as filters compare it.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return msgspec.json.encode(value).decode()


def pretty_json(value: object) -> str:
    """
    Return a value as JSON with a line for each member.
    """
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST_US = 253_402_300_799_999_999  # the end of the year 9999, after which ISO 8601 has no name


def iso_time(time_us: int) -> str:
    """
    Return a time in microseconds since the epoch as ISO 8601, in UTC, to the microsecond.
    """
    # Not by way of a float: it would lose the last digits.
    moment = _EPOCH + timedelta(microseconds=min(max(time_us, 0), _LAST_US))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def time_element(time_us: int, form: str = "clock") -> Markup:
    """
    Return a time as an HTML element: in UTC, until a script turns it into the local time.

    Args:
        time_us: The time, in microseconds since the epoch.
        form: How the script shows it: ``clock`` (to the millisecond), ``full`` (with the
            date), ``ago`` (how long ago).
    """
    iso = iso_time(time_us)
    short = f"{iso[5:10]} {iso[11:23]}" if form == "clock" else f"{iso[:10]} {iso[11:19]} UTC"
    return Markup('<time datetime="{0}" title="{0}" data-form="{1}">{2}</time>').format(
        iso, form, short
    )


def duration(milliseconds: float) -> str:
    """
    Return a length of time, such as ``4:05`` or ``1:02:03``.
    """
    seconds = max(round(milliseconds / 1000), 0)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def percent(part: int, whole: int) -> str:
    """
    Return a share as text; 100 % and 0 % are said only when they are exact.
    """
    if not whole:
        return "-"
    if part == whole or not part:
        return "100 %" if part else "0 %"
    return f"{min(max(round(100 * part / whole), 1), 99)} %"


def size(size_bytes: int) -> str:
    """
    Return a size, such as ``1.2 MB``.
    """
    if size_bytes >= 1_000_000:
        return f"{size_bytes / 1_000_000:.1f} MB"
    return f"{max(round(size_bytes / 1000), 1)} kB"
