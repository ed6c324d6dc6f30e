"""
What only the middleware for WSGI does.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from wsgiref.util import FileWrapper

import httpx
import pytest
import structlog

from replaylink import _identity, identify, linked
from replaylink._types import Environ
from replaylink.wsgi import ReplayLinkMiddleware
from tests.helpers import (
    BOTH,
    HEADER,
    JSON,
    LINKED,
    OTHER_SESSION,
    SESSION,
    USER,
    Input,
    Raw,
    WSGIDriver,
    call_wsgi,
    http_environ,
    line,
    post,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from tests.conftest import Lines

T = TypeVar("T")

log = structlog.get_logger()

SESSION_HEADER = (HEADER.lower().encode(), SESSION.encode())
BODY = b'{"sessionId":"' + SESSION.encode() + b'"}'


@pytest.fixture(autouse=True)
def _fresh_identity() -> None:
    """These tests run in one context: a failing one shall not make others fail."""
    _identity._current.set(None)


def get(**more: Any) -> Environ:
    return http_environ(Raw([SESSION_HEADER], method="GET", length=0), **more)


def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
    return lambda data: None


def answering(result: Any) -> ReplayLinkMiddleware:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        answer: Iterable[bytes] = result
        return answer

    return ReplayLinkMiddleware(app)


class Response:
    """A response that logs what the server does to it."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at

    def did(self, what: str) -> None:
        self.calls.append(what)
        log.info(what)
        if what == self.fails_at:
            raise ZeroDivisionError

    def __iter__(self) -> Iterator[bytes]:
        self.did("iter")
        return self

    def __next__(self) -> bytes:
        self.did("next")
        if self.calls.count("next") > 2:
            raise StopIteration
        return b"x"

    def close(self) -> None:
        self.did("close")


class TestFiles:
    """A response that the server's own file wrapper made."""

    def test_a_file_is_passed_as_it_is(self, lines: Lines) -> None:
        """A server gets back the very object that its wrapper made, so that it can sendfile."""
        file = io.BytesIO(b"content")
        wrapped = FileWrapper(file)
        environ = get(**{"wsgi.file_wrapper": FileWrapper})
        result = answering(wrapped)(environ, respond)
        log.info("access line")
        content = b"".join(result)
        assert wrapped is result
        wrapped.close()
        log.info("after")

        assert b"content" == content
        assert file.closed
        assert [line("access line", **LINKED), line("after")] == lines

    def test_the_next_request_after_a_file(self, lines: Lines) -> None:
        """A file that nobody closes leaves nothing to the next request."""
        environ = get(**{"wsgi.file_wrapper": FileWrapper})
        answering(FileWrapper(io.BytesIO()))(environ, respond)

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            log.info("view")
            start_response("200 OK", [])
            return [b""]

        call_wsgi(ReplayLinkMiddleware(app), http_environ())
        log.info("after")

        assert [line("view"), line("after")] == lines

    def test_a_file_that_nobody_closes(self, lines: Lines) -> None:
        """A file that the server just drops leaves nothing behind."""
        environ = get(**{"wsgi.file_wrapper": FileWrapper})
        result = answering(FileWrapper(io.BytesIO()))(environ, respond)
        log.info("access line")
        del result, environ
        gc.collect()
        log.info("after")

        assert [line("access line", **LINKED), line("after")] == lines

    def test_a_file_that_is_closed_late(self, lines: Lines) -> None:
        """A file that is closed when the request is forgotten is closed, and no more."""
        file = io.BytesIO(b"x")
        result: Any = answering(FileWrapper(file))(
            get(**{"wsgi.file_wrapper": FileWrapper}), respond
        )
        gc.collect()
        with linked(session_id=OTHER_SESSION):
            result.close()
            log.info("block")

        assert file.closed
        assert [line("block", sessionId=OTHER_SESSION)] == lines

    def test_a_file_closed_in_another_thread(self, lines: Lines) -> None:
        """A server that sends in another thread leaves nothing in the first one."""
        environ = get(**{"wsgi.file_wrapper": FileWrapper})
        result: Any = answering(FileWrapper(io.BytesIO(b"x")))(environ, respond)
        in_thread(lambda: (list(result), result.close()))
        log.info("after")

        assert [line("after")] == lines

    def test_a_file_that_cannot_be_closed(self, lines: Lines) -> None:
        """An error as a file is closed is the server's to see, and leaves nothing."""

        class Failing:
            def read(self, size: int = -1) -> bytes:
                return b""

            def close(self) -> None:
                raise ZeroDivisionError

        file = FileWrapper(Failing())  # type: ignore[arg-type]
        environ = get(**{"wsgi.file_wrapper": FileWrapper})
        answering(file)(environ, respond)
        with pytest.raises(ZeroDivisionError):
            file.close()
        log.info("after")

        assert [line("after")] == lines

    def test_a_file_without_close(self, lines: Lines) -> None:
        """A wrapper over something that has no ``close`` gets through too."""

        class Wrapper:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"x"])

        environ = get(**{"wsgi.file_wrapper": Wrapper})
        result: Any = answering(Wrapper())(environ, respond)
        assert [b"x"] == list(result)
        result.close()
        log.info("after")

        assert [line("after")] == lines

    def test_a_file_of_the_servers_own_type(self, lines: Lines) -> None:
        """A wrapper that takes no attribute is passed as it is, and ends the request."""

        class Sealed:
            __slots__ = ()

            def __iter__(self) -> Iterator[bytes]:
                return iter([b"x"])

        sealed = Sealed()
        environ = get(**{"wsgi.file_wrapper": Sealed})
        result = answering(sealed)(environ, respond)
        log.info("after")

        assert sealed is result
        assert [line("after")] == lines

    def test_a_file_within_a_request(self, lines: Lines) -> None:
        """A file of a request within a request leaves the lines to the one around it."""
        inner = answering(FileWrapper(io.BytesIO(b"x")))

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            environ = get(**{"wsgi.file_wrapper": FileWrapper})
            environ["HTTP_X_POSTHOG_SESSION_ID"] = OTHER_SESSION
            inner(environ, respond)
            log.info("view")
            start_response("200 OK", [])
            return [b""]

        call_wsgi(ReplayLinkMiddleware(app), get())

        assert [line("view", **LINKED)] == lines

    @pytest.mark.parametrize(
        "wrapper",
        [pytest.param(None, id="none"), pytest.param(lambda file: file, id="function")],
    )
    def test_other_responses_are_wrapped(self, lines: Lines, wrapper: Any) -> None:
        """Without a type to know a file by, a response is one like any other."""
        result: Any = answering(FileWrapper(io.BytesIO(b"x")))(
            get(**{"wsgi.file_wrapper": wrapper}), respond
        )

        assert not isinstance(result, FileWrapper)
        assert [b"x"] == list(result)
        result.close()


class TestResponses:
    """What the server gets."""

    @pytest.mark.parametrize("parts", [[], [b"x"], [b"x", b"y"]], ids=len)
    def test_lists_keep_their_length(self, parts: list[bytes]) -> None:
        """Servers take Content-Length from a list of one part."""
        result: Any = answering(parts)(get(), respond)

        assert len(parts) == len(result)
        assert parts == list(result)

    def test_other_responses_have_no_length(self) -> None:
        """A response that is made part by part does not pretend to have a length."""
        result = answering(iter([b"x"]))(get(), respond)

        assert not hasattr(result, "__len__")

    def test_start_response_gets_everything(self) -> None:
        """Status, headers, exc_info and the writer pass through as they are."""
        seen: list[Any] = []

        def write(data: bytes) -> object:
            raise NotImplementedError

        def start_response(*args: Any) -> Callable[[bytes], object]:
            seen.append(args)
            return write

        headers = [("X-A", "b")]

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", headers)
            try:
                raise ZeroDivisionError
            except ZeroDivisionError:
                exc_info = sys.exc_info()
                try:
                    assert write is start_response("500 Sorry", headers, exc_info)
                finally:
                    seen.append(exc_info)
                    del exc_info
            return [b""]

        call = ReplayLinkMiddleware(app)(get(), start_response)
        first, second, exc_info = seen

        assert ("200 OK", headers) == first
        assert "500 Sorry" == second[0]
        assert headers is second[1]
        assert exc_info is second[2]
        assert [b""] == list(call)

    def test_a_user_who_is_gone_when_the_stream_is_made(self, lines: Lines) -> None:
        """A user whom only the view knew is known to the stream as well."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            environ["REMOTE_USER"] = USER
            start_response("200 OK", [])
            del environ["REMOTE_USER"]
            return chunks()

        def chunks() -> Iterator[bytes]:
            log.info("chunk")
            yield b"x"

        call_wsgi(ReplayLinkMiddleware(app), get())

        assert [line("chunk", **BOTH)] == lines

    def test_each_part_is_made_in_the_request(self, lines: Lines) -> None:
        """What an app does as its response is taken is linked, from the first step."""
        response = Response()
        body = call_wsgi(answering(response), get())
        log.info("after")

        assert b"xx" == body
        names = ["iter", "next", "next", "next", "close"]
        assert [*(line(name, **LINKED) for name in names), line("after")] == lines

    def test_lines_of_the_server_meanwhile(self, lines: Lines) -> None:
        """The server's own lines before it closes the response are linked."""
        result: Any = answering([b"x"])(get(), respond)
        list(result)
        log.info("access line")
        result.close()
        log.info("after")

        assert [line("access line", **LINKED), line("after")] == lines

    def test_a_response_that_is_closed_twice(self, lines: Lines) -> None:
        """A second close reaches the app's response, and changes nothing else."""
        response = Response()
        result: Any = answering(response)(get(), respond)
        result.close()
        log.info("between")
        with linked(session_id=OTHER_SESSION):
            result.close()
            log.info("block")

        assert [
            line("close", **LINKED),
            line("between"),
            line("close", **LINKED),
            line("block", sessionId=OTHER_SESSION),
        ] == lines

    def test_a_response_that_is_never_taken(self, lines: Lines) -> None:
        """A response that is closed before its first part leaves nothing."""
        response = Response()
        result: Any = answering(response)(get(), respond)
        result.close()
        log.info("after")

        assert ["close"] == response.calls
        assert [line("close", **LINKED), line("after")] == lines

    def test_a_response_that_is_never_closed(self, lines: Lines) -> None:
        """A response that is just dropped leaves nothing, as test clients do it."""
        result: Any = answering(iter([b"x"]))(get(), respond)
        list(result)
        log.info("before")
        del result
        gc.collect()
        log.info("after")

        assert [line("before", **LINKED), line("after")] == lines

    @pytest.mark.parametrize("fails_at", ["iter", "next", "close"])
    def test_a_response_that_fails(self, lines: Lines, fails_at: str) -> None:
        """An error of a response is linked where it is handled, and leaves nothing."""
        result: Any = answering(Response(fails_at=fails_at))(get(), respond)
        try:
            list(result)
            result.close()
        except ZeroDivisionError:
            log.info("handled")
            if fails_at != "close":
                result.close()
                log.info("closed")
        log.info("after")

        handled = [entry for entry in lines if entry["event"] in ("handled", "closed", "after")]
        expected = [line("handled", **LINKED)]
        if fails_at != "close":
            expected.append(line("closed", **LINKED))
        assert [*expected, line("after")] == handled

    @pytest.mark.parametrize("wraps", [False, True], ids=["itself", "wrapped"])
    @pytest.mark.parametrize("fails", ["call", "part", "close"])
    def test_an_error_that_an_app_keeps(self, lines: Lines, fails: str, wraps: bool) -> None:
        """An exception that is raised once more, in another request, is not the first one's."""
        kept = ZeroDivisionError()

        class Failing:
            def __iter__(self) -> Iterator[bytes]:
                return self

            def __next__(self) -> bytes:
                raise kept if fails == "part" else StopIteration

            def close(self) -> None:
                if fails == "close":
                    raise kept

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            if fails == "call":
                raise kept
            return Failing()

        def layer(app: Any, environ: Environ) -> None:
            result: Any = None
            try:
                try:
                    result = app(environ, respond)
                    list(result)
                finally:
                    if result is not None:
                        result.close()
            except ZeroDivisionError:
                log.info("handled")
            except LookupError:
                log.info("wrapped")

        def other(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            try:
                raise kept
            except ZeroDivisionError as error:
                if wraps:
                    raise LookupError from error
                raise

        layer(ReplayLinkMiddleware(app), get())
        layer(other, http_environ(Raw(method="GET")))

        assert [line("handled", **LINKED), line("wrapped" if wraps else "handled")] == lines

    def test_an_error_handled_by_a_context_manager(self, lines: Lines) -> None:
        """A layer's context manager that handles an error is still within the request."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            raise ZeroDivisionError

        @contextlib.contextmanager
        def told() -> Iterator[None]:
            try:
                yield
            except ZeroDivisionError:
                log.info("handled")

        with told():
            ReplayLinkMiddleware(app)(get(), respond)
        log.info("after")

        assert [line("handled", **LINKED), line("after")] == lines

    def test_a_context_that_a_bridge_gives_back(self, lines: Lines) -> None:
        """
        An event loop that takes over the context of a thread has an error there, not its IDs.
        """

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            raise ZeroDivisionError

        context = contextvars.copy_context()
        errors: list[BaseException] = []

        def serve() -> None:
            try:
                context.run(ReplayLinkMiddleware(app), get(), respond)
            except ZeroDivisionError as error:
                errors.append(error)

        in_thread(serve)
        context.run(log.info, "next request")
        try:
            raise errors[0]
        except ZeroDivisionError:
            context.run(log.info, "handled")

        assert [line("next request"), line("handled", **LINKED)] == lines

    def test_a_base_exception(self, lines: Lines) -> None:
        """A worker that is told to stop leaves nothing."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ReplayLinkMiddleware(app)(get(), respond)
        log.info("after")

        assert [line("after")] == lines


def in_thread(do: Callable[[], T]) -> T:
    """
    Run *do* in another thread, with a context of its own.
    """
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((do(), None))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    result, error = results.get_nowait()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class TestOtherThreads:
    """A server may take the parts and close the response anywhere."""

    def test_each_part_in_a_thread_of_its_own(self, lines: Lines) -> None:
        """Each part is linked, wherever it is made, and no line around it is."""
        response = Response()
        result: Any = answering(response)(get(), respond)

        def step() -> bytes | None:
            log.info("around")
            part: bytes | None = next(result, None)
            log.info("around")
            return part

        def close() -> None:
            log.info("around")
            result.close()
            log.info("around")

        parts = [in_thread(step) for _ in range(3)]
        in_thread(close)

        assert [b"x", b"x", None] == parts
        steps = [["iter", "next"], ["next"], ["next"], ["close"]]
        assert [
            entry
            for names in steps
            for entry in (
                line("around"),
                *(line(name, **LINKED) for name in names),
                line("around"),
            )
        ] == lines

    def test_nothing_is_left_in_the_first_thread(self, lines: Lines) -> None:
        """A response that is closed in another thread leaves nothing in the one of the call."""
        result: Any = answering([b"x"])(get(), respond)
        in_thread(result.close)
        log.info("after")

        assert [line("after")] == lines

    def test_a_user_who_is_known_from_a_part(self, lines: Lines) -> None:
        """What one thread learns is known in the next."""

        def chunks() -> Iterator[bytes]:
            log.info("first")
            identify(USER)
            yield b"x"
            log.info("second")
            yield b"y"

        result: Any = answering(chunks())(get(), respond)
        in_thread(lambda: next(result))
        in_thread(lambda: next(result))
        in_thread(result.close)

        assert [line("first", **LINKED), line("second", **BOTH)] == lines

    def test_an_error_in_another_thread(self, lines: Lines) -> None:
        """An error of a part in another thread reaches the server, and leaves nothing there."""
        result: Any = answering(Response(fails_at="next"))(get(), respond)

        def serve() -> None:
            try:
                next(result)
            except ZeroDivisionError:
                result.close()
            log.info("after")

        in_thread(serve)

        assert [
            line("iter", **LINKED),
            line("next", **LINKED),
            line("close", **LINKED),
            line("after"),
        ] == lines

    def test_a_close_that_fails_in_another_thread(self, lines: Lines) -> None:
        """An error of ``close`` reaches the server, and leaves nothing there."""
        result: Any = answering(Response(fails_at="close"))(get(), respond)

        def serve() -> None:
            with pytest.raises(ZeroDivisionError):
                result.close()
            log.info("after")

        in_thread(serve)

        assert [line("close", **LINKED), line("after")] == lines

    def test_a_thread_that_serves_another_request_meanwhile(self, lines: Lines) -> None:
        """A part of one response taken within another request is linked to its own."""
        first: Any = answering(Response())(get(), respond)
        environ = get(HTTP_X_POSTHOG_SESSION_ID=OTHER_SESSION)
        second: Any = in_thread(lambda: answering(Response())(environ, respond))
        context = contextvars.copy_context()
        next(first)
        context.run(next, second)
        next(second)
        next(first)

        own, other = LINKED, {"sessionId": OTHER_SESSION}
        assert [
            line("iter", **own),
            line("next", **own),
            line("iter", **other),
            line("next", **other),
            line("next", **other),
            line("next", **own),
        ] == lines
        first.close()
        in_thread(second.close)

    def test_threads_that_are_reused(self, lines: Lines) -> None:
        """Requests of one thread keep to their own IDs, also after one that failed."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            log.info("view")
            if "fail" in environ["PATH_INFO"]:
                raise ZeroDivisionError
            start_response("200 OK", [])
            return [b"x"]

        wrapped = ReplayLinkMiddleware(app)

        def worker() -> None:
            for number, path in enumerate(["/", "/fail", "/"]):
                environ = http_environ(PATH_INFO=path)
                if number < 2:
                    environ["HTTP_X_POSTHOG_SESSION_ID"] = f"s-{number}"
                log.info("worker")
                try:
                    call_wsgi(wrapped, environ)
                except ZeroDivisionError:
                    log.info("handled")

        in_thread(worker)

        assert [
            line("worker"),
            line("view", sessionId="s-0"),
            line("worker"),
            line("view", sessionId="s-1"),
            line("handled", sessionId="s-1"),
            line("worker"),
            line("view"),
        ] == lines


def test_a_nested_response_that_stays_open(lines: Lines) -> None:
    """While the response to an in-process request is open, lines are of the one around it."""
    inner = WSGIDriver()
    inner_app = inner.linked(lambda request: log.info("inner"))

    def view(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        transport = httpx.WSGITransport(app=inner_app)
        with httpx.Client(transport=transport, base_url="http://inner") as client:
            with client.stream("GET", "/", headers={HEADER: OTHER_SESSION}) as response:
                log.info("open")
                response.read()
            log.info("closed")
        start_response("200 OK", [])
        return [b""]

    call_wsgi(ReplayLinkMiddleware(view), get())
    log.info("after")

    assert [
        line("inner", sessionId=OTHER_SESSION),
        line("open", **LINKED),
        line("closed", **LINKED),
        line("after"),
    ] == lines


class TestInput:
    """What becomes of ``wsgi.input``."""

    @pytest.mark.parametrize(
        "environ",
        [
            pytest.param(http_environ(post(BODY, SESSION_HEADER)), id="session-known"),
            pytest.param(http_environ(Raw([], [BODY], length=len(BODY))), id="not-json"),
            pytest.param(http_environ(post(BODY, (b"content-encoding", b"gzip"))), id="encoded"),
            pytest.param(http_environ(post(BODY, length=10**6)), id="too-long"),
            pytest.param(http_environ(post(BODY, length="x")), id="length-no-number"),
            pytest.param({**http_environ(post(BODY)), "CONTENT_LENGTH": ""}, id="no-length"),
        ],
    )
    def test_bodies_that_are_not_touched(self, environ: Environ) -> None:
        """A body is not read, and its input not replaced, unless there is something to find."""
        stream: Input = environ["wsgi.input"]

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])
            return [b""]

        list(ReplayLinkMiddleware(app)(environ, respond))

        assert stream is environ["wsgi.input"]
        assert 0 == stream.taken

    def test_a_server_that_does_not_tell_where_a_body_ends(self) -> None:
        """Without a length or the promise of an end nothing is read, for it could hang."""
        environ = http_environ(post(BODY, length=None))
        del environ["wsgi.input_terminated"]
        stream: Input = environ["wsgi.input"]
        list(answering([b""])(environ, respond))

        assert 0 == stream.taken

    @pytest.mark.parametrize("announced", [10, len(BODY), 10**4])
    def test_no_more_is_read_than_announced(self, announced: int, lines: Lines) -> None:
        """What follows the announced end of a body is the next request's."""
        follows = b"GET / HTTP/1.1"
        environ = http_environ(Raw(JSON, [BODY + follows], length=announced))
        stream: Input = environ["wsgi.input"]
        list(answering([b""])(environ, respond))

        assert min(announced, len(BODY + follows)) == stream.taken

    @pytest.mark.parametrize("method", ["read", "readline"])
    @pytest.mark.parametrize("size", [None, -1, 3, len(BODY), 100])
    def test_errors_of_the_input(self, lines: Lines, method: str, size: int | None) -> None:
        """An error of the server's input meets the app after all that came before it, once."""
        environ = http_environ(Raw(JSON, [BODY], hangs_up=True))

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            read = getattr(environ["wsgi.input"], method)
            body = b""
            while body != BODY:
                body += read(size)
            with pytest.raises(ConnectionResetError):
                read(size)
            start_response("200 OK", [])
            log.info("view")
            return [b""]

        list(ReplayLinkMiddleware(app)(environ, respond))

        assert [line("view")] == lines

    def test_the_body_is_read_once_for_all_sources(self, lines: Lines) -> None:
        """Two sources in the body read it once."""
        from replaylink.sources import json_body

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            log.info("view", body=environ["wsgi.input"].read())
            start_response("200 OK", [])
            return [b""]

        body = b'{"s":"s","u":7}'
        middleware = ReplayLinkMiddleware(
            app, session_id=(json_body("x"), json_body("s")), user_id=json_body("u")
        )
        call_wsgi(middleware, http_environ(post(body)))

        assert [line("view", body=body, sessionId="s", posthogDistinctId="7")] == lines
