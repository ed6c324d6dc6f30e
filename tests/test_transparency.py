"""
The app receives what it would have received without us.
"""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replaylink._types import ASGIApp, Environ, Message, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.sources import json_body
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.helpers import JSON, Input, Raw, call_wsgi, http_environ, http_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

# Bodies in which an ID is found, and others; none longer than some of the limits below.
BODIES = st.sampled_from(
    [b'{"sessionId":"a","x":"\n\n"}', b'{"sessionId":', b"", b"\n", b"a\nbc\n\nd"]
) | st.binary(max_size=40)
LIMITS = st.sampled_from([0, 5, 20, 2**18])


def cut(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """
    Cut *body* at some places; the same place twice makes an empty piece.
    """
    places = [0, *sorted(min(place, len(body)) for place in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 40), max_size=5)


class TestASGI:
    """Message for message."""

    @staticmethod
    async def receive_all(
        app_of: Callable[[ASGIApp], ASGIApp],
        scope: Scope,
        messages: Sequence[Message | Exception],
        pattern: Sequence[str],
    ) -> list[Any]:
        """
        Return what an app gets that receives by *pattern*.
        """
        server = list(messages)

        async def receive() -> Message:
            await asyncio.sleep(0)
            if not server:
                return {"type": "http.disconnect"}
            message = server.pop(0)
            if isinstance(message, Exception):
                raise message
            return message

        async def send(message: Message) -> None:
            pass

        got: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for how in pattern:
                try:
                    if how == "task":
                        got.append(await asyncio.ensure_future(receive()))
                    else:
                        got.append(await receive())
                except ConnectionResetError as error:
                    got.append(error)
                if how == "send":
                    await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body"})

        await app_of(app)(dict(scope), receive, send)
        return got

    @given(
        body=BODIES,
        cuts=CUTS,
        end=st.sampled_from(["complete", "disconnect", "error"]),
        end_after=st.integers(0, 6),
        announced=st.none() | st.integers(0, 60),
        limit=LIMITS,
        pattern=st.lists(st.sampled_from(["receive", "task", "send"]), max_size=9),
        json=st.booleans(),
    )
    @example(b'{"sessionId":"a"}', [3], "complete", 0, None, 5, ["receive"] * 5, True)
    def test_any_body(
        self,
        body: bytes,
        cuts: list[int],
        end: str,
        end_after: int,
        announced: int | None,
        limit: int,
        pattern: list[str],
        json: bool,
    ) -> None:
        """Any body, cut anywhere, with any end, is received as the very same messages."""
        chunks = cut(body, cuts)
        messages: list[Message | Exception] = [
            {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
            for number, chunk in enumerate(chunks, start=1)
        ]
        if end != "complete":
            messages[end_after:] = [] if end == "disconnect" else [ConnectionResetError()]
        scope = http_scope(Raw(JSON if json else (), length=announced))

        bare = asyncio.run(self.receive_all(lambda app: app, scope, messages, pattern))
        ours = asyncio.run(
            self.receive_all(
                lambda app: ASGIMiddleware(
                    app,
                    session_id=json_body("sessionId"),
                    user_id=json_body("user"),
                    max_body_bytes=limit,
                ),
                scope,
                messages,
                pattern,
            )
        )

        assert bare == ours
        # Not equal ones but the same: whatever a server adds to a message gets through.
        same = [message for message in bare if message in messages]
        assert all(any(message is other for other in messages) for message in same)
        assert [id(message) for message in bare if any(message is m for m in messages)] == [
            id(message) for message in ours if any(message is m for m in messages)
        ]


class ServerInput(io.BytesIO):
    """
    An input that gives as much as is asked for, as those of real servers.
    """


ALL = -99
"""Stands for no argument at all."""

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline"]), st.integers(0, 45) | st.just(-1)),
        st.tuples(st.sampled_from(["read", "readline", "readlines"]), st.sampled_from([None, ALL])),
        st.tuples(st.just("readlines"), st.integers(-1, 45)),
        st.tuples(st.just("next"), st.integers(1, 4)),
        st.tuples(st.just("iterate"), st.none()),
    ),
    max_size=8,
)


def consume(stream: Any, operations: Sequence[tuple[str, int | None]]) -> list[Any]:
    """
    Return what *stream* gives, step by step.
    """
    got: list[Any] = []
    for name, size in operations:
        if name == "iterate":
            got.append(list(stream))
        elif name == "next":
            lines = iter(stream)
            got.append([next(lines, b"") for _ in range(size or 0)])
        elif size == ALL:
            got.append(getattr(stream, name)())
        else:
            got.append(getattr(stream, name)(size))
    got.append(stream.read())
    return got


def environ_of(stream: Any, announced: int | None, *, json: bool) -> Environ:
    return {
        **http_environ(Raw(JSON if json else (), length=announced)),
        "wsgi.input": stream,
    }


def read_by(
    app_of: Callable[[Any], Any],
    environ: Environ,
    operations: Sequence[tuple[str, int | None]],
) -> list[Any]:
    """
    Return what an app gets that reads by *operations*.
    """
    got: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        got.extend(consume(environ["wsgi.input"], operations))
        start_response("200 OK", [])
        return [b""]

    call_wsgi(app_of(app), environ)
    return got


def wsgi_middleware(limit: int) -> Callable[[Any], Any]:
    return lambda app: WSGIMiddleware(
        app,
        session_id=json_body("sessionId"),
        user_id=json_body("user"),
        max_body_bytes=limit,
    )


class TestWSGI:
    """Byte for byte."""

    @given(
        body=BODIES,
        missing=st.integers(0, 10),
        chunked=st.booleans(),
        limit=LIMITS,
        operations=OPERATIONS,
        json=st.booleans(),
    )
    @example(b"a\nb", 5, False, 2**18, [("readline", ALL), ("readline", None)], True)
    def test_any_body(
        self,
        body: bytes,
        missing: int,
        chunked: bool,
        limit: int,
        operations: list[tuple[str, int | None]],
        json: bool,
    ) -> None:
        """Any body, complete or cut off, is read in any manner with the very same results."""
        announced = None if chunked else len(body) + missing

        bare = read_by(
            lambda app: app, environ_of(ServerInput(body), announced, json=json), operations
        )
        ours = read_by(
            wsgi_middleware(limit),
            environ_of(ServerInput(body), announced, json=json),
            operations,
        )

        assert bare == ours

    @given(
        body=BODIES,
        cuts=CUTS,
        chunked=st.booleans(),
        hangs_up=st.booleans(),
        limit=LIMITS,
        size=st.integers(1, 50),
        by_line=st.booleans(),
    )
    def test_servers_that_give_less_than_asked(
        self,
        body: bytes,
        cuts: list[int],
        chunked: bool,
        hangs_up: bool,
        limit: int,
        size: int,
        by_line: bool,
    ) -> None:
        """An input that gives a body piece by piece, or breaks, gives the same bytes."""

        def read(app_of: Callable[[Any], Any]) -> tuple[bytes, bool]:
            data: list[bytes] = []
            broken: list[bool] = []

            def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
                stream = environ["wsgi.input"]
                try:
                    read = stream.readline if by_line else stream.read
                    data.extend(iter(lambda: read(size), b""))
                except ConnectionResetError:
                    broken.append(True)
                start_response("200 OK", [])
                return [b""]

            announced = None if chunked else len(body) + 5
            stream = Input(cut(body, cuts), hangs_up=hangs_up)
            call_wsgi(app_of(app), environ_of(stream, announced, json=True))
            return b"".join(data), bool(broken)

        bare = read(lambda app: app)
        ours = read(wsgi_middleware(limit))

        assert hangs_up is bare[1] is ours[1]
        if by_line:
            # An input that breaks within a line may lose its beginning.
            assert body.startswith(ours[0])
            assert ours[0].startswith(bare[0])
        else:
            assert body == bare[0] == ours[0]

    @pytest.mark.parametrize("size", [None, -1, 0, 3])
    def test_sizes(self, size: int | None) -> None:
        """Each size that an input may be asked for is understood, before and after the end."""
        body = b"ab\ncd"
        for name in ("read", "readline", "readlines"):
            operations = [(name, size)] * 4
            bare = read_by(lambda app: app, environ_of(ServerInput(body), 9, json=True), operations)
            ours = read_by(
                wsgi_middleware(99), environ_of(ServerInput(body), 9, json=True), operations
            )

            assert bare == ours
