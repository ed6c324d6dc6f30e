"""
Where a session ID may stand in a request.

Each source knows how to look into an ASGI scope and into a WSGI environ; the
middlewares ask it once, as they are built, for the function that looks. The same sources
may be given for the user ID, where the client's own claim shall count.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_plus, unquote_to_bytes

import msgspec

from ._body import JSON_ERRORS, BodyReader, field_reader
from ._ids import NOT_THERE, Absent, Accept, Found, is_uuid7
from ._types import Environ, Scope

__all__ = [
    "CORS_HEADERS",
    "JSONBody",
    "Source",
    "header",
    "is_uuid7",
    "json_body",
    "posthog_cookie",
    "query",
]

SESSION_ID_HEADER: Final = "X-PostHog-Session-ID"
WINDOW_ID_HEADER: Final = "X-PostHog-Window-ID"
DISTINCT_ID_HEADER: Final = "X-PostHog-Distinct-ID"

CORS_HEADERS: Final = (SESSION_ID_HEADER, WINDOW_ID_HEADER, DISTINCT_ID_HEADER)
"""
The headers that posthog-js adds to requests for the hosts in ``tracing_headers``.

An API on another origin must allow all three, or browsers refuse to call it.
"""

MAX_IDLE_MS: Final = 30 * 60 * 1000
"""posthog-js starts a new session after 30 minutes without activity."""

MAX_AGE_MS: Final = 24 * 60 * 60 * 1000
"""posthog-js starts a new session after 24 hours."""

CLOCK_TOLERANCE_MS: Final = 60 * 1000
"""How far a browser's clock may be ahead. posthog-js allows itself the same."""

MAX_COOKIE_BYTES: Final = 8 * 1024
"""A longer cookie is not decoded. Browsers store 4 KiB (RFC 6265, section 6.1)."""

FindInScope: TypeAlias = Callable[[Scope], Found]
FindInEnviron: TypeAlias = Callable[[Environ], Found]


class Source(ABC):
    """
    One place where an ID may stand.

    For a place of your own, any callable of the scope or environ that returns
    ``str | int | UUID | None`` will do.
    """

    __slots__ = ()

    late = False
    """Whether to look again at each log line until there is an ID."""

    @abstractmethod
    def in_scope(self, accept: Accept) -> FindInScope:
        """
        Return the function that looks into an ASGI scope; it never raises.

        Args:
            accept: Turns a client's text into an ID.
        """

    @abstractmethod
    def in_environ(self, accept: Accept) -> FindInEnviron:
        """
        Return the function that looks into a WSGI environ; it never raises.

        Args:
            accept: Turns a client's text into an ID.
        """

    def for_user(self) -> Source:
        """
        Return the source of the user ID that belongs to this one.
        """
        return self


class header(Source):
    """
    A request header. Of repeated headers the first usable value counts.

    Args:
        name: The header's name, in any case.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If the name is empty or not ASCII.
    """

    __slots__ = ("name",)

    def __init__(self, name: str = SESSION_ID_HEADER) -> None:
        _check_name("header", name)
        if not name.isascii():
            msg = f"header({name!r}): a header's name is ASCII"
            raise ValueError(msg)
        self.name = name

    def __repr__(self) -> str:
        return f"header({self.name!r})"

    def in_scope(self, accept: Accept) -> FindInScope:
        wanted = self.name.lower().encode()

        def find(scope: Scope) -> Found:
            found: Found = NOT_THERE
            for name, value in scope.get("headers", ()):
                if name == wanted:
                    text = value.decode("latin-1")
                    found = accept(text)
                    if isinstance(found, str):
                        return found
                    found = _first_of(text, accept, found)
                    if isinstance(found, str):
                        return found
            return found

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        key = "HTTP_" + self.name.upper().replace("-", "_")

        def find(environ: Environ) -> Found:
            text = environ.get(key)
            if text is None:
                return NOT_THERE
            found = accept(text)
            return found if isinstance(found, str) else _first_of(text, accept, found)

        return find


def _first_of(value: str, accept: Accept, found: Found) -> Found:
    """
    Return the first ID in a list, or *found* if there is none.

    WSGI servers join repeated headers with commas (RFC 9110, section 5.2), and so do
    proxies before any server.
    """
    if "," in value:
        for part in value.split(","):
            candidate = accept(part)
            if isinstance(candidate, str):
                return candidate
    return found


class query(Source):
    """
    A query parameter: for WebSocket and EventSource, which can set no header.

    Args:
        name: The parameter's name.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If the name is empty.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        _check_name("query", name)
        self.name = name

    def __repr__(self) -> str:
        return f"query({self.name!r})"

    def _find(self, query_string: str, accept: Accept) -> Found:
        found: Found = NOT_THERE
        for field in query_string.split("&"):
            name, _, value = field.partition("=")
            if unquote_plus(name) == self.name:
                found = accept(unquote_plus(value))
                if isinstance(found, str):
                    break
        return found

    def in_scope(self, accept: Accept) -> FindInScope:
        def find(scope: Scope) -> Found:
            # The specification lets a WebSocket's scope do without.
            return self._find(scope.get("query_string", b"").decode("latin-1"), accept)

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        def find(environ: Environ) -> Found:
            return self._find(environ.get("QUERY_STRING", ""), accept)

        return find


_Activity = tuple[int | None, str | None, int | None]
"""
``$sesid``: last activity in ms since 1970, session ID, start in ms since 1970.

All three are null after ``posthog.reset()``.
"""


_ESCAPES: Final = tuple((f"%{ord(character):X}", character) for character in '",:{}[]$')
"""
What makes up nearly all escapes in a cookie of posthog-js, and can be replaced at once.

None is a hexadecimal digit or "%", so none becomes part of another escape.
"""


class _PostHogCookie(msgspec.Struct, gc=False):
    session: _Activity | None = msgspec.field(name="$sesid", default=None)
    distinct_id: str | None = None


_decode_cookie: Final = msgspec.json.Decoder(_PostHogCookie).decode

IDLE: Final = Absent("idle for over 30 minutes")
TOO_OLD: Final = Absent("older than 24 hours")
IN_THE_FUTURE: Final = Absent("from the future")
NO_SESSION: Final = Absent("without a session")
NOT_READABLE: Final = Absent("not as posthog-js writes it")


class posthog_cookie(Source):
    """
    The cookie ``ph_<token>_posthog``, in which posthog-js keeps its state.

    It comes with every request to the page's own site, also where no header can be set:
    page loads, forms, WebSockets, EventSource, beacons. A session that posthog-js itself
    would not continue is not used: one idle for over 30 minutes, or older than 24 hours.
    Of several cookies the one active last counts.

    As a source of the user ID, it gives the ``distinct_id`` that it keeps.

    Args:
        token: The project token (``phc_...``), if only its cookie shall count.

    Raises:
        TypeError: If the token is not a string.
        ValueError: If the token is empty.
    """

    __slots__ = ("_name", "_user", "token")

    def __init__(self, token: str | None = None) -> None:
        if token is not None:
            _check_name("posthog_cookie", token)
        self.token = token
        self._name = None if token is None else f"ph_{token}_posthog"
        self._user = False

    def __repr__(self) -> str:
        return f"posthog_cookie({'' if self.token is None else repr(self.token)})"

    def for_user(self) -> Source:
        source = posthog_cookie(self.token)
        source._user = True
        return source

    def _values(self, cookies: str) -> Iterator[str]:
        for cookie in cookies.split(";"):
            name, _, value = cookie.partition("=")
            name = name.strip()
            if name == self._name or (
                self._name is None and name.startswith("ph_") and name.endswith("_posthog")
            ):
                yield value.strip()

    def _find(self, cookies: str, accept: Accept) -> Found:
        if "_posthog" not in cookies:
            return NOT_THERE
        newest = 0
        found: Found = NOT_THERE
        for value in self._values(cookies):
            candidate, active = self._judge(value, accept)
            if isinstance(candidate, str):
                if not isinstance(found, str) or active > newest:
                    found, newest = candidate, active
            elif not isinstance(found, str):
                found = candidate
        return found

    def _judge(self, value: str, accept: Accept) -> tuple[Found, int]:
        if len(value) > MAX_COOKIE_BYTES:
            return NOT_READABLE, 0
        try:
            for escape, character in _ESCAPES:
                value = value.replace(escape, character)
            state = _decode_cookie(unquote_to_bytes(value.encode("latin-1")))
        # UnicodeError is a ValueError: a test client may give any text.
        except JSON_ERRORS:
            return NOT_READABLE, 0
        active, session_id, start = state.session or (None, None, None)
        if self._user:
            distinct_id = state.distinct_id
            return NOT_THERE if distinct_id is None else accept(distinct_id), active or 0
        if active is None or session_id is None or start is None:
            return NO_SESSION, 0
        now = time.time() * 1000
        if max(active, start) > now + CLOCK_TOLERANCE_MS:
            return IN_THE_FUTURE, active
        if active < now - MAX_IDLE_MS:
            return IDLE, active
        if start < now - MAX_AGE_MS:
            return TOO_OLD, active
        return accept(session_id), active

    def in_scope(self, accept: Accept) -> FindInScope:
        def find(scope: Scope) -> Found:
            # HTTP/2 lets a client send one header for each cookie.
            cookies = [value for name, value in scope.get("headers", ()) if name == b"cookie"]
            if not cookies:
                return NOT_THERE
            return self._find(b";".join(cookies).decode("latin-1"), accept)

        return find

    def in_environ(self, accept: Accept) -> FindInEnviron:
        def find(environ: Environ) -> Found:
            cookies = environ.get("HTTP_COOKIE")
            return NOT_THERE if cookies is None else self._find(cookies, accept)

        return find


class JSONBody:
    """
    A field of a JSON body; made by `json_body`.
    """

    __slots__ = ("path", "types")

    def __init__(self, path: tuple[str, ...], types: Any = str) -> None:
        self.path = path
        self.types = types

    def __repr__(self) -> str:
        return f"json_body({', '.join(map(repr, self.path))})"

    def for_user(self) -> JSONBody:
        """
        Return the same field as a user ID, which may be a number.
        """
        return JSONBody(self.path, str | int)

    def in_body(self, accept: Accept) -> BodyReader:
        """
        Return the function that looks into a body; it never raises.

        Args:
            accept: Turns a client's text into an ID.
        """
        return field_reader(self.path, accept, self.types)


def json_body(name: str, *nested: str) -> JSONBody:
    """
    A field of a JSON body: ``json_body("context", "sessionId")`` is ``body.context.sessionId``.

    The body is read ahead of the app, and only when the sources before this one gave
    nothing; the app then receives it unchanged.

    Args:
        name: The name of a field of the outermost object.
        nested: The names that lead further in.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If a name is empty.
    """
    path = (name, *nested)
    for part in path:
        _check_name("json_body", part)
    return JSONBody(path)


def _check_name(source: str, name: object) -> None:
    if not isinstance(name, str):
        msg = f"{source}({name!r}): a name must be a str"
        raise TypeError(msg)
    if not name:
        msg = f"{source}({name!r}): a name must not be empty"
        raise ValueError(msg)
