"""
Many requests at once, step by step, in every order that Hypothesis can think of.
"""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaylink import identify
from replaylink._types import Environ, Message, Receive, Scope, Send
from replaylink.asgi import ReplayLinkMiddleware as ASGIMiddleware
from replaylink.sources import header
from replaylink.wsgi import ReplayLinkMiddleware as WSGIMiddleware
from tests.helpers import HEADER, Raw, http_environ, http_scope, on_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

log = structlog.get_logger()

CLAIM = header("X-User")


class AppError(Exception):
    """What an app raises here."""


@dataclass
class Plan:
    """
    What one request does: one step each time that it is its turn.
    """

    linked: bool
    known: bool
    hands_on: bool
    steps: list[str]
    fails: bool
    after: int
    """Which context it starts in: its own, or one that an earlier request left behind."""

    number: int = 0
    user_id: str | None = None
    contexts: list[contextvars.Context] = field(default_factory=list)

    @property
    def session_id(self) -> str | None:
        return f"session-{self.number}" if self.linked else None

    def expected(self) -> dict[str, str]:
        keys = {"sessionId": self.session_id, "posthogDistinctId": self.user_id}
        return {key: value for key, value in keys.items() if value is not None}

    def log(self, event: str) -> None:
        log.info(event, number=self.number, expected=self.expected())

    def around(self, event: str) -> None:
        log.info(event, number=self.number, expected={})

    def identify(self) -> None:
        self.user_id = f"user-{self.number}-{self.user_id is not None}"
        identify(self.user_id)

    def do(self, step: str) -> None:
        """
        Do a step that needs no protocol.
        """
        if step == "log":
            self.log("line")
        elif step == "identify":
            self.identify()
        elif step == "thread":
            contextvars.copy_context().run(self.log, "thread")
        elif step == "identify-in-thread":
            contextvars.copy_context().run(self.identify)
        elif step == "keep":
            self.contexts.append(contextvars.copy_context())
        else:
            for context in self.contexts:
                context.run(self.log, "kept thread")

    def start(self, number: int) -> Plan:
        self.number = number
        self.user_id = f"claim-{number}" if self.known else None
        return self

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = []
        if self.linked:
            headers.append((HEADER.lower().encode(), f"session-{self.number}".encode()))
        if self.known:
            headers.append((b"x-user", f"claim-{self.number}".encode()))
        return headers


STEPS = ["log", "identify", "thread", "identify-in-thread", "keep", "kept"]

PLANS = st.lists(
    st.builds(
        Plan,
        linked=st.booleans(),
        known=st.booleans(),
        hands_on=st.booleans(),
        steps=st.lists(st.sampled_from([*STEPS, "receive", "send"]), max_size=6),
        fails=st.booleans(),
        after=st.integers(0, 9),
    ),
    min_size=2,
    max_size=5,
)

TURNS = st.lists(st.integers(0, 9), max_size=60)


@pytest.fixture(params=["stock", "recommended"])
def lines(request: pytest.FixtureRequest) -> Any:
    """The lines in both set-ups."""
    return request.getfixturevalue("stock_lines" if request.param == "stock" else "lines")


def check(lines: list[Any], *, stock: bool) -> None:
    """
    Compare each line with what its request knew as it was written.
    """
    for entry in lines:
        found = {key: entry[key] for key in ("sessionId", "posthogDistinctId") if key in entry}
        if not stock:
            assert entry["expected"] == found, entry
        # A stock set-up knows no late users, and the handlers of errors not at all, but
        # what it has is the request's own.
        for key, value in found.items():
            assert value.split("-")[1] == str(entry["number"]), entry
            assert key in entry["expected"], entry


quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Pause:
    """Gives the turn to another request."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    plan: Plan = scope["plan"]
    for step in plan.steps:
        if step == "receive":
            await receive()
        elif step == "send":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        else:
            plan.do(step)
        plan.log("step")
        await Pause()
    if plan.fails:
        raise AppError
    await send({"type": "http.response.body", "body": b""})
    plan.log("background")


async def asgi_server(plan: Plan, handed_on: list[contextvars.Context]) -> None:
    app = ASGIMiddleware(asgi_app, user_id=CLAIM)

    async def receive() -> Message:
        plan.log("server")
        copied = contextvars.copy_context()
        await Pause()
        if plan.hands_on:
            handed_on.append(copied)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        plan.log("server")
        copied = contextvars.copy_context()
        await Pause()
        # No server starts the next request before this one's response is out.
        if plan.hands_on and not message.get("more_body"):
            handed_on.append(copied)

    plan.around("before")
    scope = http_scope(Raw(plan.headers()), plan=plan)
    try:
        await app(scope, receive, send)
    except AppError:
        plan.log("handled")
        return
    plan.around("after")


def stepped(
    work: Coroutine[Any, Any, None] | Iterator[None], context: contextvars.Context
) -> Iterator[None]:
    """
    Run *work* step by step in *context*, as a task or a thread does.
    """
    step = work.send if isinstance(work, Coroutine) else lambda _: next(work)
    while True:
        try:
            context.run(step, None)
        except StopIteration:
            return
        yield


def run_in_turns(requests: list[Iterator[None]], turns: Iterable[int]) -> None:
    """
    Let each request do a step when it is its turn, and then the rest in a row.
    """
    running = list(requests)
    for turn in turns:
        if running and next(running[turn % len(running)], "done") == "done":
            del running[turn % len(running)]
    for request in running:
        for _ in request:
            pass


@pytest.fixture(params=["any", "uvicorn"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test as on uvicorn, and as on other servers."""
    name: str = request.param
    on_server(name, monkeypatch)
    return name


@quick
@given(plans=PLANS, turns=TURNS)
def test_asgi(
    request: pytest.FixtureRequest,
    lines: Any,
    server: str,
    plans: list[Plan],
    turns: list[int],
) -> None:
    """Each line has exactly its own IDs, in tasks that run at once or in a left context."""
    lines.clear()
    handed_on: list[contextvars.Context] = []

    def serve(plan: Plan) -> Iterator[None]:
        # The next request of a connection starts where an earlier one was, as in uvicorn.
        context = contextvars.Context()
        if server == "uvicorn" and handed_on and plan.after:
            context = handed_on[plan.after % len(handed_on)].copy()
        yield from stepped(asgi_server(plan, handed_on), context)

    run_in_turns([serve(plan.start(number)) for number, plan in enumerate(plans)], turns)

    check(lines, stock="stock" in request.node.name)
    assert [] == [plan for plan in plans if not any(e["number"] == plan.number for e in lines)]


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    plan: Plan = environ["test.plan"]
    plan.log("view")
    if plan.fails and not plan.steps:
        raise AppError
    start_response("200 OK", [])
    return wsgi_parts(plan)


def wsgi_parts(plan: Plan) -> Iterator[bytes]:
    try:
        for step in plan.steps:
            if step in STEPS:
                plan.do(step)
            plan.log("step")
            yield b"x"
        if plan.fails:
            raise AppError
    finally:
        plan.log("end")


def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
    return lambda data: None


def wsgi_server(plan: Plan) -> Iterator[None]:
    plan.around("before")
    yield
    app = WSGIMiddleware(wsgi_app, user_id=CLAIM)
    environ = {**http_environ(Raw(plan.headers(), length=0)), "test.plan": plan}
    try:
        result: Any = app(environ, respond)
        try:
            yield
            plan.log("server")
            for _ in result:
                yield
            plan.log("server")
        finally:
            result.close()
    except AppError:
        plan.log("handled")
    plan.around("after")


@quick
@given(plans=PLANS, turns=TURNS)
def test_wsgi(
    request: pytest.FixtureRequest, lines: Any, plans: list[Plan], turns: list[int]
) -> None:
    """Each line has exactly its own IDs, in threads that are used for one after another."""
    lines.clear()
    # A thread has one context, for all the requests that it serves one after another.
    threads = [contextvars.Context() for _ in range(2)]

    def serve(context: contextvars.Context, mine: list[Plan]) -> Iterator[None]:
        for plan in mine:
            yield from stepped(wsgi_server(plan), context)

    started = [plan.start(number) for number, plan in enumerate(plans)]
    run_in_turns(
        [serve(context, started[first::2]) for first, context in enumerate(threads)], turns
    )

    check(lines, stock="stock" in request.node.name)
    assert [] == [plan for plan in plans if not any(e["number"] == plan.number for e in lines)]


@quick
@given(plans=PLANS, turns=TURNS, threads=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_wsgi_across_threads(
    request: pytest.FixtureRequest,
    lines: Any,
    plans: list[Plan],
    turns: list[int],
    threads: list[int],
) -> None:
    """Each line of an app has exactly its own IDs, whichever thread takes the next part."""
    lines.clear()
    contexts = [contextvars.Context() for _ in range(3)]
    choices = iter(threads * 100)

    def serve(plan: Plan) -> Iterator[None]:
        app = WSGIMiddleware(wsgi_app, user_id=CLAIM)
        environ = {**http_environ(Raw(plan.headers(), length=0)), "test.plan": plan}

        def anywhere(do: Any, *args: Any) -> Any:
            return contexts[next(choices) % len(contexts)].run(do, *args)

        try:
            result = anywhere(app, environ, respond)
            try:
                yield
                while anywhere(next, result, None) is not None:
                    yield
            finally:
                anywhere(result.close)
        except AppError:
            pass

    run_in_turns([serve(plan.start(number)) for number, plan in enumerate(plans)], turns)

    check(lines, stock="stock" in request.node.name)
