"""Access lines, asked of both protocols."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest
import structlog

from replaylink import identify
from replaylink._types import ASGIApp, Environ, Message, Receive, Scope, Send
from replaylink.access import ASGIAccessLog, WSGIAccessLog
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.helpers import (
    BOTH,
    DRIVERS,
    HEADER,
    LINKED,
    SESSION,
    USER,
    ASGIDriver,
    Driver,
    HungUp,
    Messages,
    Raw,
    Reply,
    Request,
    Sent,
    driver_of,
    http_environ,
    http_scope,
    line,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

    from tests.conftest import Lines

log = structlog.get_logger()

IN_HEADER = {HEADER: SESSION}
RAW_HEADER = ((HEADER.lower().encode(), SESSION.encode()),)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


def logged(driver: Driver, handler: Callable[[Request], Reply | None], **options: Any) -> Any:
    """The handler in an app in the access log in the middleware."""
    access = ASGIAccessLog if isinstance(driver, ASGIDriver) else WSGIAccessLog
    return driver.wrap(access(driver.app(handler), **options))


def told(lines: Lines) -> Lines:
    """Take the one value out of each access line that no test can know."""
    for entry in lines:
        if entry["event"] in ("request", "websocket"):
            duration = entry.pop("duration_ms")

            assert isinstance(duration, float)
            assert 0 <= duration < 60_000
    return lines


def request_line(**fields: Any) -> dict[str, Any]:
    """The line of a good request, but for what is said."""
    whole = {"method": "GET", "path": "/", "status": 200, "response_bytes": 2}
    return line("request", **{**whole, **fields})


class TestLine:
    """What is on a line."""

    async def test_a_request(self, driver: Driver, lines: Lines) -> None:
        """The line comes last, without the query string, with a user who came late."""

        def handler(request: Request) -> Reply:
            log.info("view")
            identify(USER)
            return Reply([b"four", b"five!"])

        app = logged(driver, handler)
        await driver.send(app, "POST", "/a/b?secret=1", headers=IN_HEADER)
        log.info("after")

        assert [
            line("view", **LINKED),
            request_line(method="POST", path="/a/b", response_bytes=9, **BOTH),
            line("after"),
        ] == told(lines)

    async def test_without_the_middleware(self, driver: Driver, lines: Lines) -> None:
        """It needs no middleware around it; its line has no IDs then."""
        access = ASGIAccessLog if isinstance(driver, ASGIDriver) else WSGIAccessLog
        await driver.send(access(driver.app(lambda request: None)), headers=IN_HEADER)

        assert [request_line()] == told(lines)

    async def test_the_duration(self, driver: Driver, lines: Lines) -> None:
        """The duration is in milliseconds, from the call to the last part."""

        def chunks() -> Iterator[bytes]:
            yield b"x"
            threading.Event().wait(0.03)
            yield b"y"

        await driver.send(logged(driver, lambda request: Reply(chunks())))

        assert 25 < lines[0]["duration_ms"] < 10_000

    async def test_background_work_comes_after(self, driver: Driver, lines: Lines) -> None:
        """The line is written as the response has ended, before work that follows it."""
        app = logged(driver, lambda request: Reply(after=lambda: log.info("background")))
        await driver.send(app)

        assert [request_line(), line("background")] == told(lines)

    async def test_head(self, driver: Driver, lines: Lines) -> None:
        """No byte of a body reaches the client of a HEAD request, so none is counted."""
        access = ASGIAccessLog if isinstance(driver, ASGIDriver) else WSGIAccessLog
        app = access(driver.app(lambda request: None))
        await driver.raw(app, Raw(method="HEAD"))

        assert [request_line(method="HEAD", response_bytes=0)] == told(lines)

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            pytest.param("/a%0A%1B[31mb", "/a%0A%1B[31mb", id="newline-and-escape"),
            pytest.param("/a%C2%85%E2%80%AEb", "/a%C2%85%E2%80%AEb", id="c1-and-bidi"),
            pytest.param("/h%C3%A9llo%20%E6%97%A5", "/héllo 日", id="readable"),
            pytest.param("/a%3Fb", "/a?b", id="no-query"),
        ],
    )
    async def test_the_path(self, driver: Driver, lines: Lines, path: str, shown: str) -> None:
        """A path is shown readable, and what could forge a line as it was in the URL."""
        await driver.send(logged(driver, lambda request: None), "GET", path)

        assert [request_line(path=shown)] == told(lines)

    async def test_an_error_before_the_response(self, driver: Driver, lines: Lines) -> None:
        """An error means status 500, at level error, with its type; and it goes on."""

        def handler(request: Request) -> Reply:
            identify(USER)
            raise LookupError

        with pytest.raises(LookupError):
            await driver.send(logged(driver, handler), headers=IN_HEADER)

        wanted = request_line(status=500, response_bytes=0, error="LookupError", **BOTH)

        assert [{**wanted, "log_level": "error"}] == told(lines)

    async def test_an_error_in_the_response(self, driver: Driver, lines: Lines) -> None:
        """After the start, the status is what was sent."""

        def chunks() -> Iterator[bytes]:
            yield b"one"
            raise LookupError

        with pytest.raises(LookupError):
            await driver.send(logged(driver, lambda request: Reply(chunks())), headers=IN_HEADER)

        wanted = request_line(response_bytes=3, error="LookupError", **LINKED)

        assert [{**wanted, "log_level": "error"}] == told(lines)

    async def test_an_error_after_the_response(self, driver: Driver, lines: Lines) -> None:
        """What fails in the background is not the response's; there is one line."""

        def after() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            await driver.send(logged(driver, lambda request: Reply(after=after)))

        assert [request_line()] == told(lines)

    @pytest.mark.parametrize(
        ("status", "level"), [(200, "info"), (404, "info"), (499, "info"), (500, "error")]
    )
    async def test_the_level(self, driver: Driver, lines: Lines, status: int, level: str) -> None:
        """The server's errors are errors; the client's are not."""

        async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": status})
            await send({"type": "http.response.body"})

        def wsgi_app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            start_response(f"{status} Whatever", [])
            return []

        app: Any = (
            ASGIAccessLog(asgi_app) if isinstance(driver, ASGIDriver) else WSGIAccessLog(wsgi_app)
        )
        await driver.raw(app, Raw(method="GET"))

        assert [{**request_line(status=status, response_bytes=0), "log_level": level}] == told(
            lines
        )

    async def test_standard_logging_gets_a_name(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where structlog ends in standard logging, the logger has our name."""
        structlog.configure(
            processors=[structlog.stdlib.render_to_log_kwargs],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=False,
        )
        with caplog.at_level(logging.INFO, "replaylink"):
            await driver.send(logged(driver, lambda request: None))

        assert ["replaylink.access"] == [
            record.name for record in caplog.records if record.message == "request"
        ]


class TestSkip:
    """Requests without a line."""

    @pytest.mark.parametrize(
        "skip",
        [
            pytest.param({"/health", "/häß"}, id="set"),
            pytest.param(["/health", "/häß"], id="list"),
            pytest.param(
                lambda connection: (
                    connection.get("path", connection.get("PATH_INFO")) in ("/health", "/häß")
                ),
                id="callable",
            ),
        ],
    )
    async def test_paths(self, driver: Driver, lines: Lines, skip: Any) -> None:
        """A skipped path has no line, and is served all the same."""
        app = logged(driver, lambda request: None, skip=skip)
        texts = [
            await driver.send(app, "GET", path)
            for path in ("/health?x=1", "/h%C3%A4%C3%9F", "/health/", "/")
        ]

        assert ["ok"] * 4 == texts
        assert [request_line(path="/health/"), request_line()] == told(lines)

    async def test_a_rule_that_fails(
        self, driver: Driver, lines: Lines, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callable that raises skips nothing, breaks nothing, and is told about."""

        def skip(connection: Any) -> bool:
            raise KeyError

        await driver.send(logged(driver, lambda request: None, skip=skip))

        assert [request_line()] == told(lines)
        assert "KeyError" in caplog.text

    @pytest.mark.parametrize("access", [ASGIAccessLog, WSGIAccessLog])
    @pytest.mark.parametrize("skip", ["/health", b"/health", None, 5])
    def test_wrong_options(self, access: Any, skip: Any) -> None:
        """A lone string is refused, for it would be a collection of letters."""
        with pytest.raises(TypeError, match=r"skip=.*must be a collection of paths"):
            access(None, skip=skip)


async def test_a_logger_that_fails(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """A processor that raises does not touch the response, and is told about once."""

    def processor(logger: object, name: str, event_dict: Any) -> Any:
        raise BlockingIOError

    structlog.configure(processors=[processor], cache_logger_on_first_use=False)
    text = await driver.send(logged(driver, lambda request: None))

    assert "ok" == text
    assert ["an access line could not be logged"] == [record.message for record in caplog.records]
    assert "BlockingIOError" in caplog.text


async def run_asgi(app: ASGIApp, scope: Scope, send: Send, *messages: Message) -> None:
    await ASGIMiddleware(ASGIAccessLog(app))(scope, Messages(list(messages)).receive, send)


START: Message = {"type": "http.response.start", "status": 200, "headers": []}
REQUEST: Message = {"type": "http.request"}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"last"}
GONE: Message = {"type": "http.disconnect"}


class TestASGI:
    """What only ASGI has."""

    @pytest.mark.parametrize("kind", ["lifespan", "other"])
    async def test_other_scopes_pass_through(self, kind: str, lines: Lines) -> None:
        """Any other scope reaches the app untouched."""
        seen: list[Any] = []

        async def app(*args: Any) -> None:
            seen.extend(args)

        given: list[Any] = [{"type": kind}, object(), object()]
        await ASGIAccessLog(app)(*given)

        assert [True] * 3 == [a is b for a, b in zip(given, seen, strict=True)]
        assert [] == lines

    async def test_a_disconnect_that_the_app_hears_of(self, lines: Lines) -> None:
        """A client that goes before the end is told so; the status is what was sent."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(START)
            await send(PART)
            await receive()

        await run_asgi(app, http_scope(Raw(RAW_HEADER, method="GET")), Sent().send, REQUEST, GONE)

        assert [request_line(response_bytes=4, disconnected=True, **LINKED)] == told(lines)

    async def test_a_disconnect_in_the_body(self, lines: Lines) -> None:
        """A client that goes before a response gets none: no status, and no error of ours."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            raise HungUp

        with pytest.raises(HungUp):
            await run_asgi(app, http_scope(), Sent().send, GONE)
        wanted = request_line(response_bytes=0, error="HungUp", disconnected=True)
        del wanted["status"]

        assert [wanted] == told(lines)

    async def test_a_disconnect_that_send_raises(self, lines: Lines) -> None:
        """A server that raises OSError from send() says that the client has gone."""

        async def send(message: Message) -> None:
            if message is PART:
                raise ConnectionResetError

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START)
            await send(PART)

        with pytest.raises(ConnectionResetError):
            await run_asgi(app, http_scope(), send)
        wanted = request_line(response_bytes=0, error="ConnectionResetError", disconnected=True)

        assert [wanted] == told(lines)

    async def test_a_disconnect_after_the_end(self, lines: Lines) -> None:
        """What comes after the response is no disconnect."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START)
            await send(PART)
            await send(LAST)
            await receive()

        await run_asgi(app, http_scope(), Sent().send, GONE)

        assert [request_line(response_bytes=8)] == told(lines)

    async def test_a_task_that_is_cancelled(self, lines: Lines) -> None:
        """A cancelled request has a line, at level info and without a status."""
        waiting = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(run_asgi(app, http_scope(), Sent().send))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wanted = request_line(response_bytes=0, error="CancelledError")
        del wanted["status"]

        assert [wanted] == told(lines)

    async def test_no_response_at_all(self, lines: Lines) -> None:
        """An app that returns without a response has a line without a status."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

        await run_asgi(app, http_scope(), Sent().send)
        wanted = request_line(response_bytes=0)
        del wanted["status"]

        assert [wanted] == told(lines)

    async def test_trailers(self, lines: Lines) -> None:
        """Where trailers are announced, the last part of the body is not the end."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**START, "trailers": True})
            await send(LAST)
            log.info("before the trailers")
            await send({"type": "http.response.trailers", "headers": []})

        await run_asgi(app, http_scope(), Sent().send)

        assert [line("before the trailers"), request_line(response_bytes=4)] == told(lines)

    @pytest.mark.parametrize(
        ("headers", "count"),
        [
            pytest.param([(b"x", b"y"), (b"Content-Length", b"1234")], 1234, id="length"),
            pytest.param([(b"content-length", b"many")], 0, id="no-number"),
            pytest.param([], 0, id="no-length"),
        ],
    )
    async def test_a_file_that_the_server_sends(
        self, lines: Lines, headers: list[tuple[bytes, bytes]], count: int
    ) -> None:
        """The bytes of a file that the server sends by itself are those it was told of."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**START, "headers": headers})
            await send({"type": "http.response.pathsend", "path": "/a"})
            log.info("sent")

        await run_asgi(app, http_scope(), Sent().send)

        assert [request_line(response_bytes=count), line("sent")] == told(lines)

    async def test_unknown_messages_pass_through(self, lines: Lines) -> None:
        """What an extension sends reaches the server and counts for nothing."""
        sent = Sent()
        messages: list[Message] = [{"type": "http.response.push"}, START, LAST]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message)

        await run_asgi(app, http_scope(), sent.send)

        assert messages == sent.messages
        assert [request_line(response_bytes=4)] == told(lines)


CONNECT: Message = {"type": "websocket.connect"}
ACCEPT: Message = {"type": "websocket.accept"}


def socket_scope() -> Scope:
    return {"type": "websocket", "path": "/ws", "query_string": b"t=1", "headers": RAW_HEADER}


def socket_line(**fields: Any) -> dict[str, Any]:
    return line("websocket", path="/ws", **{"status": 101, **fields}, **LINKED)


class TestWebSocket:
    """The line of a WebSocket."""

    async def test_closed_by_the_app(self, lines: Lines) -> None:
        """The close code is the app's; what the server says afterwards is not."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await send({"type": "websocket.send", "text": "hello"})
            await send({"type": "websocket.close", "code": 4001})
            await receive()

        gone: Message = {"type": "websocket.disconnect", "code": 1006}
        await run_asgi(app, socket_scope(), Sent().send, gone)

        assert [socket_line(close_code=4001)] == told(lines)

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            pytest.param({"code": 1001}, 1001, id="code"),
            pytest.param({}, 1005, id="no-code"),
        ],
    )
    async def test_closed_by_the_client(
        self, lines: Lines, message: dict[str, int], code: int
    ) -> None:
        """The close code is the client's, and a framework's exception for it no error."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            await receive()
            raise HungUp

        gone: Message = {"type": "websocket.disconnect", **message}
        with pytest.raises(HungUp):
            await run_asgi(app, socket_scope(), Sent().send, CONNECT, gone)

        assert [socket_line(close_code=code, error="HungUp", disconnected=True)] == told(lines)

    async def test_closed_while_the_app_sends(self, lines: Lines) -> None:
        """A server that raises OSError from send() says that the client has gone."""

        async def send(message: Message) -> None:
            if message is not ACCEPT:
                raise ConnectionResetError

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await send({"type": "websocket.send", "text": "hello"})

        with pytest.raises(ConnectionResetError):
            await run_asgi(app, socket_scope(), send)

        assert [socket_line(error="ConnectionResetError", disconnected=True)] == told(lines)

    async def test_refused(self, lines: Lines) -> None:
        """A close before the accept is answered by 403."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.close"})

        await run_asgi(app, socket_scope(), Sent().send)

        assert [socket_line(status=403, close_code=1000)] == told(lines)

    async def test_refused_by_a_response(self, lines: Lines) -> None:
        """An app may refuse by a response of its own."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.http.response.start", "status": 401})
            await send({"type": "websocket.http.response.body"})

        await run_asgi(app, socket_scope(), Sent().send)

        assert [socket_line(status=401)] == told(lines)

    @pytest.mark.parametrize(
        ("accepts", "status"),
        [pytest.param(True, 101, id="open"), pytest.param(False, 500, id="no")],
    )
    async def test_an_error(self, lines: Lines, accepts: bool, status: int) -> None:
        """An error of the app is one, before and after the accept."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if accepts:
                await send(ACCEPT)
            identify(USER)
            raise LookupError

        with pytest.raises(LookupError):
            await run_asgi(app, socket_scope(), Sent().send)
        wanted = socket_line(status=status, error="LookupError", posthogDistinctId=USER)

        assert [{**wanted, "log_level": "error"}] == told(lines)

    async def test_skipped(self, lines: Lines) -> None:
        """A WebSocket may be skipped, too."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

        await ASGIAccessLog(app, skip={"/ws"})(socket_scope(), Messages([]).receive, Sent().send)

        assert [] == lines


def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
    return lambda data: None


class Body:
    """A response that notes how often it is closed."""

    def __init__(self, parts: Iterable[bytes], error: Exception | None = None) -> None:
        self._parts = iter(parts)
        self._error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


def answering(result: Any, *headers: tuple[str, str]) -> WSGIApplication:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", list(headers))
        return result

    return app


def run_wsgi(app: WSGIApplication, **environ: Any) -> Any:
    return WSGIMiddleware(WSGIAccessLog(app))(
        http_environ(Raw(RAW_HEADER)) | environ, start_response
    )


class TestWSGI:
    """What only WSGI has."""

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            pytest.param("/h\xc3\xa9", "/hé", id="utf-8"),
            pytest.param("/h\xe9", "/h\xe9", id="latin-1"),
            pytest.param("/\u20ac", "/\u20ac", id="text-already"),
        ],
    )
    def test_the_mounted_path(self, lines: Lines, path: str, shown: str) -> None:
        """A path has its mount point before it; its bytes are UTF-8, or do no harm."""
        list(run_wsgi(answering([b"ok"]), SCRIPT_NAME="/mount", PATH_INFO=path))

        assert [request_line(method="POST", path=f"/mount{shown}", **LINKED)] == told(lines)

    def test_a_missing_path(self, lines: Lines) -> None:
        """A server may leave an empty path out."""
        environ = http_environ()
        del environ["PATH_INFO"], environ["SCRIPT_NAME"]
        list(WSGIAccessLog(answering([b"ok"]))(environ, start_response))

        assert [request_line(path="")] == told(lines)

    def test_a_list_keeps_its_length(self, lines: Lines) -> None:
        """Servers take Content-Length from a list of one part, and need not ask for a second."""
        result = run_wsgi(answering([b"only"]))
        first = next(iter(result))
        result.close()

        assert (1, b"only") == (len(result), first)
        assert [request_line(method="POST", response_bytes=4, **LINKED)] == told(lines)

    def test_an_empty_list(self, lines: Lines) -> None:
        """A list without a part is whole from the start."""
        run_wsgi(answering([])).close()

        assert [request_line(method="POST", response_bytes=0, **LINKED)] == told(lines)

    def test_a_generator_has_no_length(self) -> None:
        """What has no length gets none."""
        assert not hasattr(run_wsgi(answering(iter([b"x"]))), "__len__")

    def test_never_closed(self, lines: Lines) -> None:
        """A bridge that takes what was announced and drops the rest gets the line, linked."""
        result = run_wsgi(answering(Body([b"one", b"two"])))
        assert [b"one", b"two"] == [next(iter(result)), next(iter(result))]
        assert [] == told(lines)
        del result

        assert [request_line(method="POST", response_bytes=6, **LINKED)] == told(lines)

    def test_closed_before_the_end(self, lines: Lines) -> None:
        """A server that closes a response early says that the client has gone."""
        body = Body([b"one", b"two"])
        result = run_wsgi(answering(body))
        next(iter(result))
        result.close()

        assert 1 == body.closed
        assert [request_line(method="POST", response_bytes=3, disconnected=True, **LINKED)] == told(
            lines
        )

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    def test_no_body_to_ask_for(self, lines: Lines, status: str) -> None:
        """Where there is no body, a server need not ask for one."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response(status, [])
            return iter([b"not sent"])

        run_wsgi(app).close()

        assert [
            request_line(method="POST", status=int(status[:3]), response_bytes=0, **LINKED)
        ] == told(lines)

    @pytest.mark.parametrize("closes", [1, 2])
    def test_closed_once(self, lines: Lines, closes: int) -> None:
        """The app's close() is called once, and there is one line."""
        body = Body([b"ok"])
        result = WSGIAccessLog(answering(body))(http_environ(), start_response)
        list(result)
        for _ in range(closes):
            result.close()  # type: ignore[attr-defined]

        assert 1 == body.closed
        assert [request_line()] == told(lines)

    def test_an_error_in_close(self, lines: Lines) -> None:
        """An error in close() of a response that was not taken is the response's."""
        body = Body([b"ok"], LookupError())
        with pytest.raises(LookupError):
            run_wsgi(answering(body)).close()
        wanted = request_line(method="POST", response_bytes=0, error="LookupError", **LINKED)

        assert 1 == body.closed
        assert [{**wanted, "log_level": "error"}] == told(lines)

    def test_closed_in_another_thread(self, lines: Lines) -> None:
        """The line is linked in whatever thread the server closes the response."""
        result = run_wsgi(answering(Body([b"ok"])))
        thread = threading.Thread(target=result.close)
        thread.start()
        thread.join(5)

        assert [request_line(method="POST", response_bytes=0, disconnected=True, **LINKED)] == told(
            lines
        )

    def test_write(self, lines: Lines) -> None:
        """Bytes given to the old write() callable are counted and passed on."""
        written: list[bytes] = []

        def start(status: str, headers: Any, exc_info: Any = None, /) -> Any:
            return written.append

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])(b"written ")
            return [b"returned"]

        list(WSGIAccessLog(app)(http_environ(), start))

        assert [b"written "] == written
        assert [request_line(response_bytes=16)] == told(lines)

    def test_a_second_start(self, lines: Lines) -> None:
        """An error handler's status takes the place of the first, with its exc_info."""
        seen: list[Any] = []

        def start(status: str, headers: Any, exc_info: Any = None, /) -> Any:
            seen.append(exc_info)

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])
            start_response("503 Sorry", [], (None, None, None))
            return []

        list(WSGIAccessLog(app)(http_environ(), start))

        assert [None, (None, None, None)] == seen
        assert [{**request_line(status=503, response_bytes=0), "log_level": "error"}] == told(lines)

    def test_a_status_that_is_none(self, lines: Lines) -> None:
        """A status without a number is left out, where the server has let it pass."""

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("fine", [])
            return []

        list(WSGIAccessLog(app)(http_environ(), start_response))
        wanted = request_line(response_bytes=0)
        del wanted["status"]

        assert [wanted] == told(lines)

    def test_a_generator_that_fails_at_once(self, lines: Lines) -> None:
        """An app that is a generator fails as its first part is asked for."""

        def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
            raise LookupError
            yield b""

        with pytest.raises(LookupError):
            list(WSGIAccessLog(app)(http_environ(), start_response))
        wanted = request_line(status=500, response_bytes=0, error="LookupError")

        assert [{**wanted, "log_level": "error"}] == told(lines)

    @pytest.mark.parametrize("thread", [False, True], ids=["same-thread", "other-thread"])
    @pytest.mark.parametrize("closes", [True, False], ids=["closes", "no-close"])
    def test_a_file_passes_through(self, lines: Lines, thread: bool, closes: bool) -> None:
        """A file is the server's to send; its line comes with its close, linked."""
        inner = io.BytesIO(b"content")
        file = FileWrapper(inner) if closes else NoClose(inner)
        app = answering(file, ("Content-Type", "text/plain"), ("Content-Length", "7"))
        result = run_wsgi(app, **{"wsgi.file_wrapper": type(file)})
        before = list(lines)
        closing = threading.Thread(target=result.close)
        if thread:
            closing.start()
            closing.join(5)
        else:
            result.close()

        assert file is result
        assert closes is inner.closed
        assert [] == before
        assert [request_line(method="POST", response_bytes=7, **LINKED)] == told(lines)

    def test_a_file_that_takes_no_attribute(self, lines: Lines) -> None:
        """Where the end of a file cannot be seen, the line comes as it is handed over."""

        class Slotted:
            __slots__ = ()

            def close(self) -> None: ...

        file: Any = Slotted()
        result = run_wsgi(answering(file), **{"wsgi.file_wrapper": Slotted})

        assert file is result
        assert [request_line(method="POST", response_bytes=0, **LINKED)] == told(lines)


class NoClose:
    """A file wrapper that has no close(), as a file without one gets."""

    def __init__(self, file: Any) -> None:
        self.file = file
