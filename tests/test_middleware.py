"""
What both middlewares promise, asked of both.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import structlog

from replaylink import _lifespan, current_identity, identify, linked
from replaylink.auth import authenticated_user, session_user
from replaylink.sources import header, is_uuid7, json_body, posthog_cookie, query
from tests.helpers import (
    BOTH,
    DRIVERS,
    HEADER,
    JSON,
    LINKED,
    OTHER_SESSION,
    SESSION,
    USER,
    Driver,
    HungUp,
    Raw,
    Reply,
    Request,
    WSGIDriver,
    call_wsgi,
    cookie,
    driver_of,
    http_environ,
    line,
    post,
    raw_cookie,
)

if TYPE_CHECKING:
    from tests.conftest import Lines

log = structlog.get_logger()

IN_HEADER = {HEADER: SESSION}
BODY = b'{"message": "Hello", "sessionId": "' + SESSION.encode() + b'"}'


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Runs the test in both protocols."""
    return driver_of(request)


def view(request: Request) -> None:
    log.info("view")


def typed(content_type: str) -> Raw:
    return Raw([(b"content-type", content_type.encode())], [BODY], length=len(BODY))


async def test_what_waits_for_the_first_request(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no server tells of its start, what waits for that is done at the first request."""
    done: list[str] = []
    monkeypatch.setattr(_lifespan, "_at_start", {})
    monkeypatch.setattr(_lifespan, "_at_end", {})
    _lifespan.register("logging", at_start=lambda: done.append("start"))
    app = driver.linked(lambda request: done.append("view"))
    assert [] == done
    for _ in range(2):
        await driver.send(app)

    assert ["start", "view", "view"] == done


@pytest.mark.parametrize("known", [None, "of-outside"], ids=["nobody", "somebody"])
async def test_a_mounted_app_that_fails(driver: Driver, lines: Lines, known: str | None) -> None:
    """The handler of an app around has the user whom the mounted app has found, or its own."""

    def handler(request: Request) -> None:
        identify(USER)
        raise ZeroDivisionError

    mounted = driver.handled(driver.linked(handler), lambda: log.info("handled"))
    if known is not None:
        mounted = driver.before(mounted, lambda connection: identify(known))
    await driver.send(driver.middleware(mounted), headers=IN_HEADER)

    assert [line("handled", sessionId=SESSION, posthogDistinctId=known or USER)] == lines


class TestEveryLine:
    """Point 1: each line of a request has what is known by then."""

    async def test_from_the_view_to_the_background(self, driver: Driver, lines: Lines) -> None:
        """The view, each streamed chunk and the background work are linked; nothing else is."""

        def chunks() -> Iterator[bytes]:
            for number in range(3):
                log.info(f"chunk {number}")
                yield b"x"
            log.info("end of stream")

        def handler(request: Request) -> Reply:
            log.info("view")
            return Reply(chunks(), after=lambda: log.info("background"))

        app = driver.before(driver.linked(handler), lambda connection: log.info("around"))
        text = await driver.send(app, headers=IN_HEADER)
        log.info("after")

        assert "xxx" == text
        names = ["view", "chunk 0", "chunk 1", "chunk 2", "end of stream", "background"]
        assert [line("around"), *(line(name, **LINKED) for name in names), line("after")] == lines

    async def test_in_the_stock_set_up(self, driver: Driver, stock_lines: Lines) -> None:
        """What is known as the request starts needs no processor of ours."""

        def chunks() -> Iterator[bytes]:
            log.info("chunk")
            yield b"x"

        def handler(request: Request) -> Reply:
            log.info("view")
            return Reply(chunks(), after=lambda: log.info("background"))

        def sign_in(connection: Any) -> None:
            driver.sign_in(connection, USER)

        app = driver.before(driver.linked(handler), sign_in)
        await driver.send(app, headers=IN_HEADER)
        log.info("after")

        names = ["view", "chunk", "background"]
        assert [*(line(name, **BOTH) for name in names), line("after")] == stock_lines

    async def test_in_threads_that_copy_the_context(self, driver: Driver, lines: Lines) -> None:
        """A thread that copied the context is linked, also when the request is over."""
        done = threading.Event()

        def work() -> None:
            log.info("thread")
            done.wait(10)
            log.info("late thread")

        threads: list[threading.Thread] = []

        def handler(request: Request) -> None:
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=context.run, args=(work,)))
            threads[0].start()

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        done.set()
        threads[0].join()
        log.info("after")

        assert [line("thread", **LINKED), line("late thread", **LINKED), line("after")] == lines

    @pytest.mark.parametrize("where", ["view", "stream"])
    async def test_handlers_of_errors_around(
        self, driver: Driver, lines: Lines, where: str
    ) -> None:
        """Layers around that handle an error still have the IDs, and then they are gone."""

        def chunks() -> Iterator[bytes]:
            yield b"x"
            raise ZeroDivisionError

        def handler(request: Request) -> Reply:
            identify(USER)
            if where == "view":
                raise ZeroDivisionError
            return Reply(chunks())

        app = driver.linked(handler)
        try:
            await driver.send(app, headers=IN_HEADER)
        except ZeroDivisionError:
            log.info("handled")
        log.info("after")

        assert [line("handled", **BOTH), line("after")] == lines

    async def test_an_error_in_the_background(self, driver: Driver, lines: Lines) -> None:
        """An error after the response is one of the request too."""

        def fail() -> None:
            raise ZeroDivisionError

        app = driver.linked(lambda request: Reply(after=fail))
        try:
            await driver.send(app, headers=IN_HEADER)
        except ZeroDivisionError:
            log.info("handled")
        log.info("after")

        assert [line("handled", **LINKED), line("after")] == lines

    async def test_lines_of_standard_logging_are_left_alone(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The middleware adds nothing to records of standard logging by itself."""
        app = driver.linked(lambda request: logging.getLogger("app").warning("x"))
        await driver.send(app, headers=IN_HEADER)

        assert not hasattr(caplog.records[0], "sessionId")


class TestNoOtherLine:
    """Point 2: no other line has them."""

    async def test_requests_in_a_row(self, driver: Driver, lines: Lines) -> None:
        """In one thread and context, each request has its own IDs or none."""
        app = driver.linked(view)
        for headers in ({HEADER: "a"}, {}, {HEADER: "b"}, {}):
            await driver.send(app, headers=headers)
            log.info("between")

        assert [
            line("view", sessionId="a"),
            line("between"),
            line("view"),
            line("between"),
            line("view", sessionId="b"),
            line("between"),
            line("view"),
            line("between"),
        ] == lines

    @pytest.mark.parametrize("stock", [True, False], ids=["stock", "recommended"])
    async def test_in_a_context_that_another_left(
        self, driver: Driver, request: pytest.FixtureRequest, stock: bool
    ) -> None:
        """Each request sets both keys, so that none shows through from around it."""
        lines: Lines = request.getfixturevalue("stock_lines" if stock else "lines")
        structlog.contextvars.bind_contextvars(sessionId="foreign", posthogDistinctId="foreign")
        await driver.send(driver.linked(view))

        assert [line("view")] == lines

    async def test_errors_in_a_row(self, driver: Driver, lines: Lines) -> None:
        """Failing requests in one context do not hand on their IDs, whoever keeps the errors."""
        kept: list[BaseException] = []

        def handler(request: Request) -> None:
            log.info("view")
            raise ZeroDivisionError

        app = driver.before(driver.linked(handler), lambda connection: log.info("around"))
        for headers in ({HEADER: "a"}, {HEADER: "b"}, {}):
            try:
                await driver.send(app, headers=headers)
            except ZeroDivisionError as error:
                # Keeps frames, and with them scope or environ, alive.
                kept.append(error)
                log.info("handled")
            log.info("between")

        assert 3 == len(kept)
        expected = []
        for keys in ({"sessionId": "a"}, {"sessionId": "b"}, {}):
            expected += [line("around"), line("view", **keys), line("handled", **keys)]
            expected.append(line("between"))
        assert expected == lines

    async def test_a_request_after_an_error(self, driver: Driver, lines: Lines) -> None:
        """The next request in the context of one that failed has nothing of it."""

        def handler(request: Request) -> None:
            log.info("view")
            if request.body:
                raise ZeroDivisionError

        app = driver.before(driver.linked(handler), lambda connection: log.info("around"))
        with pytest.raises(ZeroDivisionError):
            await driver.send(app, "POST", headers=IN_HEADER, content=b"x")
        await driver.send(app)
        log.info("after")

        assert [
            line("around"),
            line("view", **LINKED),
            line("around"),
            line("view"),
            line("after"),
        ] == lines

    async def test_bindings_of_others(self, driver: Driver, lines: Lines) -> None:
        """What others bind stays bound, before, inside and after."""
        bind = structlog.contextvars.bind_contextvars
        bind(outer="o", sessionId="mine")

        def handler(request: Request) -> None:
            bind(inner="i")
            log.info("view")

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("after")

        assert [
            line("view", outer="o", inner="i", **LINKED),
            line("after", outer="o", inner="i", sessionId="mine"),
        ] == lines

    async def test_cleared_contexts(self, driver: Driver, lines: Lines) -> None:
        """An app that clears structlog's context still has its lines linked."""

        def handler(request: Request) -> None:
            structlog.contextvars.clear_contextvars()
            log.info("view")

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("after")

        assert [line("view", **LINKED), line("after")] == lines


class TestStringsOnly:
    """Point 3: strings only, or nothing."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            pytest.param("a", {"sessionId": "a", "posthogDistinctId": "a"}, id="text"),
            pytest.param(7, {"sessionId": "7", "posthogDistinctId": "7"}, id="int"),
            pytest.param(
                UUID(SESSION), {"sessionId": SESSION, "posthogDistinctId": SESSION}, id="uuid"
            ),
            pytest.param(None, {}, id="none"),
            pytest.param("", {}, id="empty"),
            pytest.param(True, {}, id="bool"),
            pytest.param(1.5, {}, id="float"),
            pytest.param(b"x", {}, id="bytes"),
            pytest.param(["x"], {}, id="list"),
        ],
    )
    async def test_what_callables_return(
        self, driver: Driver, lines: Lines, value: Any, expected: dict[str, str]
    ) -> None:
        """IDs become text, and what is none becomes no key."""
        app = driver.linked(view, session_id=lambda _: value, user_id=lambda _: value)
        await driver.send(app)

        assert [line("view", **expected)] == lines

    @pytest.mark.parametrize("value", ["mine", None, 7])
    async def test_an_explicit_key_wins(self, driver: Driver, lines: Lines, value: Any) -> None:
        """A key given in the log call stays."""
        app = driver.linked(lambda request: log.info("view", sessionId=value))
        await driver.send(app, headers=IN_HEADER)

        assert [line("view", sessionId=value)] == lines


class TestAuthentication:
    """Point 4: authentication beats claims."""

    CLAIM = (authenticated_user(), header("X-PostHog-Distinct-ID"))

    async def test_claims_do_not_count_by_default(self, driver: Driver, lines: Lines) -> None:
        """By default nothing that a client says makes a user."""
        headers = {
            "X-PostHog-Distinct-ID": "forged",
            "Remote-User": "forged",
            "Cookie": cookie(distinct_id="forged"),
        }
        await driver.send(driver.linked(view), "POST", headers=headers, json={"userId": "forged"})

        assert [line("view", **LINKED)] == lines

    async def test_a_claim_counts_where_nobody_is_known(self, driver: Driver, lines: Lines) -> None:
        """With a claim allowed, an anonymous visitor has an ID."""
        app = driver.linked(view, user_id=self.CLAIM)
        await driver.send(app, headers={"X-PostHog-Distinct-ID": "visitor"})

        assert [line("view", posthogDistinctId="visitor")] == lines

    async def test_authentication_counts_for_more(self, driver: Driver, lines: Lines) -> None:
        """A known user takes the place of the claim, as soon as authentication knows."""

        def handler(request: Request) -> None:
            log.info("before")
            driver.sign_in(request.connection, USER)
            log.info("after")

        app = driver.linked(handler, user_id=self.CLAIM)
        await driver.send(app, headers={"X-PostHog-Distinct-ID": "forged"})

        assert [
            line("before", posthogDistinctId="forged"),
            line("after", posthogDistinctId=USER),
        ] == lines

    async def test_identify_counts_for_more(self, driver: Driver, lines: Lines) -> None:
        """What the app tells counts for more than what authentication finds later."""

        def handler(request: Request) -> None:
            identify("told")
            driver.sign_in(request.connection, "found")
            log.info("view")

        await driver.send(driver.linked(handler))

        assert [line("view", posthogDistinctId="told")] == lines

    @pytest.mark.parametrize(
        "claim",
        [
            pytest.param(lambda connection: "claim", id="callable"),
            pytest.param(json_body("user"), id="body"),
        ],
    )
    async def test_authentication_before_and_after_a_claim(
        self, driver: Driver, lines: Lines, claim: Any
    ) -> None:
        """Authentication counts in its place: before a claim it counts, after it no more."""

        def handler(request: Request) -> None:
            driver.sign_in(request.connection, USER)
            log.info("view")

        for user_id in ((authenticated_user(), claim), (claim, authenticated_user())):
            app = driver.linked(handler, user_id=user_id)
            await driver.send(app, "POST", json={"user": "claim"})

        assert [
            line("view", posthogDistinctId=USER),
            line("view", posthogDistinctId="claim"),
        ] == lines

    async def test_authentication_after_a_claim_that_is_none(
        self, driver: Driver, lines: Lines
    ) -> None:
        """A source behind one that has to be asked is still looked at, at each line."""

        def handler(request: Request) -> None:
            log.info("before")
            driver.sign_in(request.connection, USER)
            log.info("after")

        app = driver.linked(handler, user_id=(json_body("user"), authenticated_user()))
        await driver.send(app, "POST", json={"user": None})

        assert [line("before"), line("after", posthogDistinctId=USER)] == lines


class TestCleanValues:
    """Point 5: clean values."""

    async def test_values_are_cleaned(self, driver: Driver, lines: Lines) -> None:
        """Control characters and white space are stripped, and a user ID is cut."""
        app = driver.linked(view, user_id=header("X-User"))
        headers = [
            (HEADER.lower().encode(), b" \x1b" + SESSION.encode() + b"\x9b "),
            (b"x-user", b"\x00ann\x7f" + b"x" * 300),
        ]
        await driver.raw(app, Raw(headers, method="GET"))

        assert [line("view", sessionId=SESSION, posthogDistinctId="ann" + "x" * 197)] == lines

    @pytest.mark.parametrize("value", ["a b", "x" * 129, "$posthog_cookieless", "", "a/b"])
    async def test_invalid_sessions(self, driver: Driver, lines: Lines, value: str) -> None:
        """A session ID that fails validation is dropped."""
        await driver.send(driver.linked(view), headers={HEADER: value})

        assert [line("view")] == lines

    async def test_own_validation(self, driver: Driver, lines: Lines) -> None:
        """A rule of the app's own is asked in place of the default one."""
        app = driver.linked(view, validate_session_id=is_uuid7)
        await driver.send(app, headers={HEADER: "not-a-uuid"})
        await driver.send(app, headers=IN_HEADER)

        assert [line("view"), line("view", **LINKED)] == lines

    async def test_repeated_headers(self, driver: Driver, lines: Lines) -> None:
        """Of repeated headers the first usable value counts."""
        name = HEADER.lower().encode()
        values = [b"", b"not valid", SESSION.encode(), OTHER_SESSION.encode()]
        await driver.raw(
            driver.linked(view), Raw([(name, value) for value in values], method="GET")
        )

        assert [line("view", **LINKED)] == lines


class TestSources:
    """Points 6 and 7: where a session ID may stand, and what counts first."""

    async def test_defaults(self, driver: Driver, lines: Lines) -> None:
        """The header counts first, then the cookie, then the body; a query does not."""
        app = driver.linked(view)
        in_cookie = {"Cookie": cookie("in-cookie")}
        body = {"sessionId": "in-body"}
        in_both = {**IN_HEADER, **in_cookie}
        await driver.send(app, "POST", "/?sessionId=x", headers=in_both, json=body)
        await driver.send(app, "POST", "/?sessionId=x", headers=in_cookie, json=body)
        await driver.send(app, "POST", "/?sessionId=x", json=body)
        await driver.send(app, "POST", "/?sessionId=x")

        assert [
            line("view", sessionId=SESSION),
            line("view", sessionId="in-cookie"),
            line("view", sessionId="in-body"),
            line("view"),
        ] == lines

    async def test_an_idle_cookie_gives_way_to_the_body(self, driver: Driver, lines: Lines) -> None:
        """A source with an ID that cannot be used gives way to the next."""
        headers = {HEADER: "not valid", "Cookie": cookie("idle", idle_s=7200, age_s=7200)}
        await driver.send(driver.linked(view), "POST", headers=headers, json={"sessionId": SESSION})

        assert [line("view", **LINKED)] == lines

    @pytest.mark.parametrize(
        ("sources", "expected"),
        [
            pytest.param(header("X-Mine"), "mine", id="header"),
            pytest.param(query("sid"), "in-query", id="query"),
            pytest.param(posthog_cookie(), "in-cookie", id="cookie"),
            pytest.param(posthog_cookie("phc_other"), None, id="other-cookie"),
            pytest.param(json_body("id"), "in-body", id="body"),
            pytest.param(json_body("a", "id"), "nested", id="nested"),
            pytest.param(lambda connection: "called", "called", id="callable"),
            pytest.param((json_body("id"), header("X-Mine")), "in-body", id="body-first"),
            pytest.param((json_body("no"), header("X-Mine")), "mine", id="body-then-header"),
            pytest.param((json_body("no"), json_body("id")), "in-body", id="two-fields"),
            pytest.param((lambda connection: None, query("sid")), "in-query", id="none-then-query"),
            pytest.param((header("X-No"), lambda connection: "called"), "called", id="call-last"),
            pytest.param((), None, id="none"),
        ],
    )
    async def test_own_sources(
        self, driver: Driver, lines: Lines, sources: Any, expected: str | None
    ) -> None:
        """Sources are asked in the order in which they are given."""
        app = driver.linked(view, session_id=sources)
        await driver.send(
            app,
            "POST",
            "/?sid=in-query",
            headers={"X-Mine": "mine", "Cookie": cookie("in-cookie")},
            json={"id": "in-body", "a": {"id": "nested"}},
        )

        assert [line("view", **({"sessionId": expected} if expected else {}))] == lines

    @pytest.mark.parametrize(
        ("sources", "expected"),
        [
            pytest.param(authenticated_user(), "7", id="user"),
            pytest.param(authenticated_user("email"), "a@b.c", id="attribute"),
            pytest.param(header("X-User"), "in-header", id="header"),
            pytest.param(posthog_cookie(), "in-cookie", id="cookie"),
            pytest.param(json_body("user"), "42", id="body"),
            pytest.param((session_user("id"), header("X-User")), "in-header", id="session"),
            pytest.param(lambda connection: 7, "7", id="callable"),
            pytest.param((header("X-No"), json_body("user")), "42", id="header-then-body"),
            pytest.param((lambda connection: None, json_body("user")), "42", id="call-then-body"),
            pytest.param((), None, id="none"),
        ],
    )
    async def test_own_user_sources(
        self, driver: Driver, lines: Lines, sources: Any, expected: str | None
    ) -> None:
        """Each source may give the user ID too."""
        user = SimpleNamespace(id=7, email="a@b.c")

        def sign_in(connection: Any) -> None:
            # REMOTE_USER is a text: with an attribute asked for, the scope is meant.
            driver.sign_in(connection, "7" if isinstance(driver, WSGIDriver) else user)

        if isinstance(driver, WSGIDriver) and expected == "a@b.c":
            expected = "7"
        app = driver.before(driver.linked(view, user_id=sources), sign_in)
        await driver.send(
            app,
            "POST",
            headers={"X-User": "in-header", "Cookie": cookie("s", distinct_id="in-cookie")},
            json={"user": 42},
        )

        keys = {"sessionId": "s"}
        if expected:
            keys["posthogDistinctId"] = expected
        assert [line("view", **keys)] == lines

    async def test_a_callable_that_fails(self, driver: Driver, lines: Lines) -> None:
        """A callable that raises gives nothing, and the next source counts."""

        def fails(connection: Any) -> str:
            raise RuntimeError

        app = driver.linked(view, session_id=(fails, header()), user_id=(fails, header("X-User")))
        await driver.send(app, headers={**IN_HEADER, "X-User": USER})

        assert [line("view", **BOTH)] == lines

    async def test_why_there_is_no_user(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of each user ID that was there and cannot be used, a line at level DEBUG tells why."""

        def fails(connection: Any) -> str:
            raise RuntimeError

        sources = (header("X-User"), json_body("user"), fails, header("X-Other"))
        app = driver.linked(view, user_id=sources)
        with caplog.at_level(logging.DEBUG, "replaylink"):
            await driver.send(
                app, "POST", headers={**IN_HEADER, "X-User": "undefined"}, json={"user": "null"}
            )
        said = [record.getMessage() for record in caplog.records if record.name == "replaylink"]

        starts = [
            "no user ID from header('X-User'): ",
            "no user ID from json_body('user'): ",
            f"no user ID from {fails!r}: raised RuntimeError",
        ]
        assert len(starts) == len(said)
        assert all(map(str.startswith, said, starts))

    async def test_a_callable_gets_the_connection(self, driver: Driver) -> None:
        """A callable is asked with the very scope or environ that the app gets."""
        seen: list[Any] = []
        app = driver.linked(lambda request: seen.append(request.connection), session_id=seen.append)
        await driver.send(app)

        first, second = seen
        assert first is second

    async def test_a_callable_is_linked_to_its_request_alone(
        self, driver: Driver, lines: Lines
    ) -> None:
        """Lines logged while the session is looked for have nothing of another request."""

        def source(connection: Any) -> str:
            log.info("source")
            return SESSION

        with linked(session_id="foreign", user_id="foreign"):
            await driver.send(driver.linked(view, session_id=source))

        assert [line("source"), line("view", **LINKED)] == lines

    async def test_other_keys(self, driver: Driver, lines: Lines) -> None:
        """The bound keys can be chosen."""

        def handler(request: Request) -> None:
            identify(USER)
            log.info("view")

        app = driver.linked(handler, session_key="session.id", user_key="user.id")
        await driver.send(app, headers=IN_HEADER)
        log.info("after")

        assert [line("view", **{"session.id": SESSION, "user.id": USER}), line("after")] == lines


class TestBody:
    """Point 7: what is read ahead, and what the app receives."""

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            pytest.param(post(BODY), True, id="json"),
            pytest.param(typed("application/vnd.api+json"), True, id="suffix"),
            pytest.param(typed("Application/JSON; charset=utf-8"), True, id="parameters"),
            pytest.param(post(BODY, length=None), True, id="chunked"),
            pytest.param(Raw(JSON, [BODY[:9], BODY[9:]], length=len(BODY)), True, id="two-pieces"),
            pytest.param(Raw(JSON, [BODY[:9], b"", BODY[9:]]), True, id="an-empty-chunk"),
            pytest.param(post(BODY, method="PUT"), True, id="put"),
            pytest.param(post(BODY, method="GET"), True, id="get-with-a-body"),
            pytest.param(post(BODY, (b"content-encoding", b"identity")), True, id="identity"),
            pytest.param(post(BODY, (b"content-encoding", b"gzip")), False, id="encoded"),
            pytest.param(Raw([], [BODY], length=len(BODY)), False, id="no-type"),
            pytest.param(typed("text/plain"), False, id="text"),
            pytest.param(typed("application/x-ndjson"), False, id="json-lines"),
        ],
    )
    async def test_which_bodies_are_read(
        self, driver: Driver, lines: Lines, request_: Raw, expected: bool
    ) -> None:
        """Only JSON that is not encoded is looked into, and the app gets every body whole."""
        bodies: list[bytes] = []

        def handler(request: Request) -> None:
            bodies.append(request.body)
            log.info("view")

        await driver.raw(driver.linked(handler), request_)

        assert [line("view", **(LINKED if expected else {}))] == lines
        assert [BODY] == bodies

    @pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with-length"])
    @pytest.mark.parametrize(
        ("spare", "expected"),
        [
            pytest.param(1, True, id="shorter"),
            pytest.param(0, True, id="as-long"),
            pytest.param(-1, False, id="longer"),
        ],
    )
    async def test_max_body_bytes(
        self, driver: Driver, lines: Lines, chunked: bool, spare: int, expected: bool
    ) -> None:
        """A body longer than the limit is not looked into, and the app gets it all the same."""
        bodies: list[bytes] = []

        def handler(request: Request) -> None:
            bodies.append(request.body)
            log.info("view")

        app = driver.linked(handler, max_body_bytes=len(BODY) + spare)
        length = None if chunked else len(BODY)
        chunks = [BODY[start : start + 7] for start in range(0, len(BODY), 7)]
        await driver.raw(app, Raw(JSON, chunks, length=length))

        assert [line("view", **(LINKED if expected else {}))] == lines
        assert [BODY] == bodies

    async def test_the_default_limit(self, driver: Driver, lines: Lines) -> None:
        """By default a body of 256 KiB is read, and one byte more is not."""
        app = driver.linked(view)
        start = b'{"sessionId":"a","x":"'
        for size in (262_144, 262_145):
            body = start + b"x" * (size - len(start) - 2) + b'"}'
            await driver.raw(app, post(body))

        assert [line("view", sessionId="a"), line("view")] == lines

    async def test_a_client_that_hangs_up(self, driver: Driver, lines: Lines) -> None:
        """The app meets the end of a body that was cut off where it would meet it anyway."""
        app = driver.linked(view)
        request = Raw(JSON, [BODY[:20]], hangs_up=True)
        with pytest.raises(HungUp):
            await driver.raw(app, request)
        log.info("after")

        assert [line("after")] == lines


class TestLateUsers:
    """Point 8: users who become known late."""

    async def test_identify_in_the_view(self, driver: Driver, lines: Lines) -> None:
        """All later lines of the request have the user."""

        def chunks() -> Iterator[bytes]:
            log.info("chunk")
            yield b"x"

        def handler(request: Request) -> Reply:
            log.info("before")
            identify(USER)
            log.info("view")
            return Reply(chunks(), after=lambda: log.info("background"))

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("after")

        assert [
            line("before", **LINKED),
            line("view", **BOTH),
            line("chunk", **BOTH),
            line("background", **BOTH),
            line("after"),
        ] == lines

    async def test_identify_in_a_thread(self, driver: Driver, lines: Lines) -> None:
        """What a thread learns is known everywhere in the request, and gone after it."""

        def handler(request: Request) -> None:
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(identify, USER))
            thread.start()
            thread.join()
            log.info("view")
            context.run(log.info, "thread")

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("after")

        assert [line("view", **BOTH), line("thread", **BOTH), line("after")] == lines

    async def test_identify_in_the_stock_set_up(self, driver: Driver, stock_lines: Lines) -> None:
        """In the context at hand a stock set-up sees it, and nothing is left afterwards."""

        def handler(request: Request) -> Reply:
            identify(USER, session_id=OTHER_SESSION)
            log.info("view")
            return Reply(after=lambda: log.info("background"))

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("after")

        both = {"sessionId": OTHER_SESSION, "posthogDistinctId": USER}
        assert [line("view", **both), line("background", **both), line("after")] == stock_lines

    async def test_identify_a_session(self, driver: Driver, lines: Lines) -> None:
        """A session ID that no source could find can be told, too."""

        def handler(request: Request) -> None:
            identify(session_id=SESSION)
            log.info("view")

        await driver.send(driver.linked(handler))
        log.info("after")

        assert [line("view", **LINKED), line("after")] == lines

    async def test_authentication_inside(self, driver: Driver, lines: Lines) -> None:
        """A user whom a layer inside authenticates is found by the next line."""

        def handler(request: Request) -> Reply:
            log.info("before")
            driver.sign_in(request.connection, USER)
            log.info("view")
            return Reply(after=lambda: log.info("background"))

        await driver.send(driver.linked(handler))
        log.info("after")

        known = {"posthogDistinctId": USER}
        assert [
            line("before"),
            line("view", **known),
            line("background", **known),
            line("after"),
        ] == lines

    async def test_current_identity(self, driver: Driver) -> None:
        """The identity can be read in the request, and taken along to a job."""
        seen: list[tuple[str | None, str | None]] = []

        def handler(request: Request) -> None:
            driver.sign_in(request.connection, USER)
            identity = current_identity()
            seen.append((identity.session_id, identity.user_id))

        await driver.send(driver.linked(handler), headers=IN_HEADER)

        assert [(SESSION, USER)] == seen
        assert current_identity().session_id is None

    async def test_linked_inside(self, driver: Driver, lines: Lines) -> None:
        """A block inside a request has what it is given, and the rest from the request."""

        def handler(request: Request) -> None:
            with linked(user_id="job"):
                log.info("job")
            log.info("view")

        await driver.send(driver.linked(handler), headers=IN_HEADER)

        assert [line("job", posthogDistinctId="job", **LINKED), line("view", **LINKED)] == lines


class TestNesting:
    """Requests within requests, and middlewares within middlewares."""

    async def test_double_wrapping(self, driver: Driver, lines: Lines) -> None:
        """Two of the middleware do what one does."""

        def handler(request: Request) -> Reply:
            identify(USER)
            log.info("view")
            return Reply(after=lambda: log.info("background"))

        app = driver.wrap(driver.linked(handler))
        await driver.send(app, "POST", json={"sessionId": SESSION})
        log.info("after")

        assert [line("view", **BOTH), line("background", **BOTH), line("after")] == lines

    async def test_double_wrapping_with_an_error(self, driver: Driver, lines: Lines) -> None:
        """An error through two of them is still linked where it is handled."""

        def handler(request: Request) -> None:
            raise ZeroDivisionError

        app = driver.wrap(driver.linked(handler))
        try:
            await driver.send(app, headers=IN_HEADER)
        except ZeroDivisionError:
            log.info("handled")
        log.info("after")

        assert [line("handled", **LINKED), line("after")] == lines

    async def test_two_pairs_of_keys(self, driver: Driver, lines: Lines) -> None:
        """Two of them with other keys bind both pairs, as far as structlog sees."""
        app = driver.wrap(driver.linked(view, session_key="inner"), session_key="outer")
        await driver.send(app, headers=IN_HEADER)
        log.info("after")

        assert [line("view", inner=SESSION, outer=SESSION), line("after")] == lines

    @pytest.mark.parametrize("fails", [True, False], ids=["failing", "answering"])
    async def test_requests_within_requests(
        self, driver: Driver, lines: Lines, fails: bool
    ) -> None:
        """A request made in-process has its own IDs, and the one around it keeps its."""

        def inner_handler(request: Request) -> None:
            log.info("inner")
            if fails:
                raise ZeroDivisionError

        inner_app = WSGIDriver().linked(inner_handler)
        inner_request = Raw([(HEADER.lower().encode(), OTHER_SESSION.encode())], method="GET")

        def handler(request: Request) -> None:
            identify(USER)
            log.info("before")
            try:
                call_wsgi(inner_app, http_environ(inner_request))
                log.info("answered")
            except ZeroDivisionError:
                log.info("handled")
            log.info("after")

        await driver.send(driver.linked(handler), headers=IN_HEADER)
        log.info("outside")

        assert [
            line("before", **BOTH),
            line("inner", sessionId=OTHER_SESSION),
            line("handled" if fails else "answered", **BOTH),
            line("after", **BOTH),
            line("outside"),
        ] == lines


class TestSilence:
    """Point 11: nothing but one debug line."""

    SECRET = "value-of-the-client"

    @pytest.mark.parametrize(
        ("options", "raw", "reason"),
        [
            pytest.param(
                {},
                Raw(method="GET"),
                "header('X-PostHog-Session-ID'): not there; posthog_cookie(): not there; "
                "json_body('sessionId'): the body is not application/json or +json",
                id="nothing",
            ),
            pytest.param(
                {"session_id": header()},
                Raw([(HEADER.lower().encode(), b"? " + SECRET.encode())]),
                "header('X-PostHog-Session-ID'): not a valid ID",
                id="invalid",
            ),
            pytest.param(
                {"session_id": header(), "validate_session_id": is_uuid7},
                Raw([(HEADER.lower().encode(), SECRET.encode())]),
                "header('X-PostHog-Session-ID'): not a valid ID",
                id="refused",
            ),
            pytest.param(
                {"session_id": query("s")},
                Raw(query=b"s=?" + SECRET.encode()),
                "query('s'): not a valid ID",
                id="query",
            ),
            pytest.param(
                {"session_id": posthog_cookie()},
                Raw([(b"cookie", cookie(SECRET, idle_s=7200, age_s=7200).encode())]),
                "posthog_cookie(): idle for over 30 minutes",
                id="idle",
            ),
            pytest.param(
                {"session_id": posthog_cookie()},
                Raw([(b"cookie", cookie(SECRET, age_s=90_000).encode())]),
                "posthog_cookie(): older than 24 hours",
                id="old",
            ),
            pytest.param(
                {"session_id": posthog_cookie()},
                Raw([(b"cookie", cookie(SECRET, idle_s=-600).encode())]),
                "posthog_cookie(): from the future",
                id="future",
            ),
            pytest.param(
                {"session_id": posthog_cookie()},
                Raw([(b"cookie", raw_cookie('{"distinct_id":"value-of-the-client"}').encode())]),
                "posthog_cookie(): without a session",
                id="no-session",
            ),
            pytest.param(
                {"session_id": posthog_cookie()},
                Raw([(b"cookie", raw_cookie(SECRET).encode())]),
                "posthog_cookie(): not as posthog-js writes it",
                id="broken-cookie",
            ),
            pytest.param(
                {"session_id": json_body("s")},
                post(b'{"s": ["value-of-the-client"]}'),
                "json_body('s'): the body is not JSON with an ID in that field",
                id="broken-body",
            ),
            pytest.param(
                {"session_id": json_body("s")},
                post(b'{"x": "value-of-the-client"}'),
                "json_body('s'): not there",
                id="no-field",
            ),
            pytest.param(
                {"session_id": json_body("s")},
                post(b'{"s": "value-of-the-client"}', (b"content-encoding", SECRET.encode())),
                "json_body('s'): the body has a content encoding",
                id="encoded",
            ),
            pytest.param(
                {"session_id": json_body("s"), "max_body_bytes": 10},
                post(b'{"s": "value-of-the-client"}'),
                "json_body('s'): the body is longer than max_body_bytes",
                id="too-long",
            ),
            pytest.param(
                {"session_id": json_body("s"), "max_body_bytes": 10},
                post(b'{"s": "value-of-the-client"}', length=None),
                "json_body('s'): the body is longer than max_body_bytes",
                id="too-long-chunked",
            ),
            pytest.param(
                {"session_id": json_body("s")},
                post(b"", length="0"),
                "json_body('s'): there is no body",
                id="no-body",
            ),
            pytest.param(
                {"session_id": lambda connection: "? value-of-the-client"},
                Raw(),
                ": not a valid ID",
                id="callable",
            ),
            pytest.param(
                {"session_id": lambda connection: ["value-of-the-client"]},
                Raw(),
                "an ID must be a str, an int, a UUID or None, not list; convert it with str() "
                "first",
                id="callable-of-another-type",
            ),
            pytest.param(
                {"session_id": lambda connection: int("value-of-the-client")},
                Raw(),
                ": raised ValueError",
                id="callable-that-fails",
            ),
            pytest.param({"session_id": ()}, Raw(), "no source", id="no-source"),
        ],
    )
    async def test_the_reason(
        self,
        driver: Driver,
        caplog: pytest.LogCaptureFixture,
        options: dict[str, Any],
        raw: Raw,
        reason: str,
    ) -> None:
        """One debug line tells why there is no session ID, and nothing of what a client sent."""
        with caplog.at_level(logging.DEBUG):
            await driver.raw(driver.linked(lambda request: None, **options), raw)

        ours = [record for record in caplog.records if record.name == "replaylink"]
        assert 1 == len(ours)
        assert logging.DEBUG == ours[0].levelno
        message = ours[0].getMessage()
        assert message.startswith("no session ID for this request: ")
        assert message.endswith(reason)
        assert self.SECRET not in message

    async def test_no_reason_where_there_is_an_id(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A request with a session ID logs nothing of ours at all."""
        app = driver.linked(lambda request: None)
        with caplog.at_level(logging.DEBUG):
            await driver.send(app, headers=IN_HEADER)
            await driver.send(app, headers={"Cookie": cookie()})
            await driver.send(app, "POST", json={"sessionId": SESSION})

        assert [] == [record for record in caplog.records if record.name == "replaylink"]

    async def test_no_reason_above_debug(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Above the level debug nothing is logged."""
        with caplog.at_level(logging.INFO):
            await driver.send(driver.linked(lambda request: None))

        assert [] == [record for record in caplog.records if record.name == "replaylink"]

    async def test_a_source_that_changes_its_mind(
        self, driver: Driver, caplog: pytest.LogCaptureFixture, lines: Lines
    ) -> None:
        """A rule that answers otherwise the second time breaks nothing."""
        answers = iter([False, True])
        app = driver.linked(
            view,
            session_id=header(),
            validate_session_id=lambda value: next(answers),
        )
        with caplog.at_level(logging.DEBUG):
            await driver.send(app, headers=IN_HEADER)

        assert [line("view")] == lines
        assert ["no session ID for this request: no source"] == [
            record.getMessage() for record in caplog.records if record.name == "replaylink"
        ]

    async def test_nothing_is_printed(
        self, driver: Driver, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing is written to the standard streams."""
        await driver.send(driver.linked(lambda request: None), "POST", json={"sessionId": 7})

        assert ("", "") == capfd.readouterr()


async def test_many_at_once(driver: Driver, lines: Lines) -> None:
    """Requests at the same time keep to their own IDs, in tasks and in threads."""

    def handler(request: Request) -> None:
        number = current_identity().session_id
        log.info("view", expected=number)
        identify(f"user-{number}")
        log.info("known", expected=number)

    app = driver.linked(handler)

    async def client(number: int) -> None:
        for turn in range(5):
            await driver.send(app, headers={HEADER: f"{number}-{turn}"})

    await asyncio.gather(*(client(number) for number in range(20)))

    assert 200 == len(lines)
    for entry in lines:
        assert entry["expected"] == entry["sessionId"]
        user = f"user-{entry['expected']}" if entry["event"] == "known" else None
        assert user == entry.get("posthogDistinctId")
