"""
The options that both middlewares take: checked, and made ready for requests.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from ._identity import Identity, Keys, logger
from ._ids import (
    NOT_THERE,
    Absent,
    Accept,
    Found,
    accept_user_id,
    as_text,
    session_id_acceptor,
)
from .auth import authenticated_user
from .sources import JSONBody, Source, header, json_body, posthog_cookie

ID: TypeAlias = str | int | UUID | None
AnySource: TypeAlias = Source | JSONBody | Callable[[Any], ID | Awaitable[ID]]
"""A place where an ID may stand, or a callable of the scope or environ."""

DEFAULT_MAX_BODY_BYTES: Final = 256 * 1024

DEFAULT_SESSION_ID: Final[tuple[AnySource, ...]] = (
    header(),
    posthog_cookie(),
    json_body("sessionId"),
)
DEFAULT_USER_ID: Final[tuple[AnySource, ...]] = (authenticated_user(),)


class Kind(Enum):
    """
    What a reader looks at, and when.
    """

    PLAIN = "the scope or environ, as the request starts"
    LATE = "the scope or environ, at each line until there is an ID"
    BODY = "the body"
    CALL = "whatever a callable of the app's looks at"


class Reader(NamedTuple):
    """
    A source, ready to be asked.
    """

    source: AnySource
    kind: Kind
    find: Callable[[Any], Any]
    accept: Accept


class Options:
    """
    The options of a middleware, checked and worked out once.

    Args:
        prepare: Makes the function that looks for a source, for the protocol at hand.
        can_await: Whether a callable may be async.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option has a wrong value.
    """

    __slots__ = (
        "_session_at_start",
        "_session_finds",
        "_session_rest",
        "_user_finds",
        "_user_rest",
        "keys",
        "max_body_bytes",
    )

    def __init__(
        self,
        prepare: Callable[[Source, Accept], Callable[[Any], Found]],
        *,
        can_await: bool,
        session_id: AnySource | Iterable[AnySource],
        user_id: AnySource | Iterable[AnySource],
        validate_session_id: Callable[[str], bool],
        max_body_bytes: int,
        session_key: str,
        user_key: str,
    ) -> None:
        if not callable(validate_session_id):
            msg = f"validate_session_id={validate_session_id!r}: must be a callable str -> bool"
            raise TypeError(msg)
        if not isinstance(max_body_bytes, int) or isinstance(max_body_bytes, bool):
            msg = f"max_body_bytes={max_body_bytes!r}: must be an int, in bytes"
            raise TypeError(msg)
        if max_body_bytes < 0:
            msg = f"max_body_bytes={max_body_bytes!r}: must be 0 or more"
            raise ValueError(msg)
        self.max_body_bytes = max_body_bytes
        self.keys = Keys(session_key, user_key)
        sources = _sources("session_id", session_id, can_await)
        for source in sources:
            if isinstance(source, Source) and source.late:
                msg = f"session_id={source!r}: gives a user ID, and belongs in user_id"
                raise TypeError(msg)
        accept = session_id_acceptor(validate_session_id)
        self._session_at_start, self._session_rest = _split(
            [_reader(source, prepare, accept) for source in sources]
        )
        self._session_finds = tuple(reader.find for reader in self._session_at_start)
        sources = [
            source.for_user() if isinstance(source, (Source, JSONBody)) else source
            for source in _sources("user_id", user_id, can_await)
        ]
        user_at_start, self._user_rest = _split(
            [_reader(source, prepare, accept_user_id) for source in sources]
        )
        self._user_finds = tuple(
            (reader.find, reader.kind is Kind.LATE, reader.source) for reader in user_at_start
        )

    def identity(self, connection: Any) -> Identity:
        """
        Return the identity of a request, as far as it shows at once.
        """
        session_id: str | None = None
        for find in self._session_finds:
            found = find(connection)
            if isinstance(found, str):
                session_id = found
                break
        user_id: str | None = None
        late: tuple[Callable[[Any], Found], ...] = ()
        for find, is_late, source in self._user_finds:
            found = find(connection)
            if isinstance(found, str):
                user_id = found
                break
            if is_late:
                late += (find,)
            elif found is not NOT_THERE:
                logger.debug("no user ID from %r: %s", source, found.reason)
        return Identity(session_id, user_id, self.keys, late, connection)

    def is_settled(self, identity: Identity) -> bool:
        """
        Tell whether there is nothing left to `search` for.
        """
        return identity.session_id is not None and (
            not self._user_rest or identity.known_user_id is not None
        )

    def search(self, identity: Identity, connection: Any) -> Generator[Reader, Any, None]:
        """
        Go on where `identity` stopped, and tell *identity* what is found.

        Yields the readers that need more than the connection, and is sent what they are
        after: for a reader of the body its bytes, or why there are none; for a callable
        the `Found` in what it returned.
        """
        if identity.session_id is None:
            absent: list[Absent] = []
            for reader in self._session_rest:
                found = yield from self._ask(reader, connection)
                if isinstance(found, str):
                    identity.learn(session_id=found)
                    break
                absent.append(found)
            else:
                self._explain(connection, absent)
        if identity.known_user_id is None:
            for reader in self._user_rest:
                found = yield from self._ask(reader, connection)
                if isinstance(found, str):
                    identity.claim(found)
                    break
                if reader.kind is Kind.LATE:
                    identity.look_late(reader.find)
                elif found is not NOT_THERE:
                    logger.debug("no user ID from %r: %s", reader.source, found.reason)

    def _ask(self, reader: Reader, connection: Any) -> Generator[Reader, Any, Found]:
        found: Found
        if reader.kind is Kind.BODY:
            body = yield reader
            found = body if isinstance(body, Absent) else reader.find(body)
        elif reader.kind is Kind.CALL:
            found = yield reader
        else:
            found = reader.find(connection)
        return found

    def _explain(self, connection: Any, rest: Iterable[Absent]) -> None:
        if not logger.isEnabledFor(logging.DEBUG):
            return
        answers = [
            *((reader.source, reader.find(connection)) for reader in self._session_at_start),
            *zip((reader.source for reader in self._session_rest), rest, strict=True),
        ]
        # Asked once more, a cookie may have come of age meanwhile.
        reasons = [
            f"{source!r}: {answer.reason}"
            for source, answer in answers
            if isinstance(answer, Absent)
        ]
        logger.debug("no session ID for this request: %s", "; ".join(reasons) or "no source")


def called(reader: Reader, value: object) -> Found:
    """
    Return as an ID what the callable in *reader* returned.
    """
    try:
        text = as_text(value)
    except TypeError as exc:
        return Absent(str(exc))
    return NOT_THERE if text is None else reader.accept(text)


def failed(exc: Exception) -> Absent:
    """
    Return as a reason that a callable of the app's raised *exc*.
    """
    return Absent(f"raised {type(exc).__name__}")


def _split(readers: list[Reader]) -> tuple[tuple[Reader, ...], tuple[Reader, ...]]:
    """
    Part *readers* before the first that needs more than the scope or environ.
    """
    at_start = tuple(
        itertools.takewhile(lambda reader: reader.kind in (Kind.PLAIN, Kind.LATE), readers)
    )
    return at_start, tuple(readers[len(at_start) :])


def _reader(
    source: AnySource,
    prepare: Callable[[Source, Accept], Callable[[Any], Found]],
    accept: Accept,
) -> Reader:
    if isinstance(source, JSONBody):
        return Reader(source, Kind.BODY, source.in_body(accept), accept)
    if isinstance(source, Source):
        kind = Kind.LATE if source.late else Kind.PLAIN
        return Reader(source, kind, prepare(source, accept), accept)
    return Reader(source, Kind.CALL, source, accept)


def _sources(
    option: str, given: AnySource | Iterable[AnySource], can_await: bool
) -> list[AnySource]:
    if isinstance(given, (Source, JSONBody)) or callable(given):
        given = (given,)
    if isinstance(given, str) or not isinstance(given, Iterable):
        msg = (
            f"{option}={given!r}: must be sources such as header('X-Session-ID') or callables "
            "of the scope or environ, one or several"
        )
        raise TypeError(msg)
    sources = list(given)
    for source in sources:
        if isinstance(source, type) or not (
            isinstance(source, (Source, JSONBody)) or callable(source)
        ):
            msg = (
                f"{option}={source!r}: must be a source such as header('X-Session-ID') or a "
                "callable of the scope or environ"
            )
            raise TypeError(msg)
        if not can_await and _is_async(source):
            msg = f"{option}={source!r}: nothing awaits it in a WSGI app; use a plain function"
            raise TypeError(msg)
    return sources


def _is_async(source: object) -> bool:
    return any(map(inspect.iscoroutinefunction, (source, type(source).__call__)))
