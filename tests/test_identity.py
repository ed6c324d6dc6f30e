from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import ref

import pytest
import structlog

from replaylink import Identity, current_identity, identify, linked
from replaylink._identity import Around, while_handled
from tests.helpers import BOTH, LINKED, OTHER_SESSION, SESSION, USER, line

if TYPE_CHECKING:
    from tests.conftest import Lines

log = structlog.get_logger()


def test_no_identity_outside_of_a_request() -> None:
    """Outside of any request the identity is empty, and never the same object."""
    identity = current_identity()

    assert (None, None) == (identity.session_id, identity.user_id)
    assert current_identity() is not identity


def test_identify_outside_of_a_request(lines: Lines) -> None:
    """Outside of a request there is nobody to identify, and nothing happens."""
    identify(USER, session_id=SESSION)
    log.info("x")

    assert [line("x")] == lines


def test_identify_outside_of_a_request_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """One debug line tells that a call had no effect, without the ID."""
    with caplog.at_level(logging.DEBUG, "replaylink"):
        identify(USER)

    assert [
        (
            "replaylink",
            logging.DEBUG,
            "identify() was called outside of a request and changed nothing",
        )
    ] == caplog.record_tuples


def test_linked(lines: Lines) -> None:
    """The lines of a block are linked, and no others."""
    log.info("before")
    with linked(session_id=SESSION, user_id=USER):
        log.info("inside")
    log.info("after")

    assert [line("before"), line("inside", **BOTH), line("after")] == lines


def test_linked_in_the_stock_set_up(stock_lines: Lines) -> None:
    """What is known from the start needs no processor of ours."""
    log.info("before")
    with linked(session_id=SESSION, user_id=USER):
        log.info("inside")
    log.info("after")

    assert [line("before"), line("inside", **BOTH), line("after")] == stock_lines


def test_linked_after_an_error(lines: Lines) -> None:
    """An error ends the block as its end does."""
    with pytest.raises(ZeroDivisionError), linked(user_id=USER):
        raise ZeroDivisionError
    log.info("after")

    assert [line("after")] == lines


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"user_id": 7}, {"posthogDistinctId": "7"}, id="int"),
        pytest.param({"user_id": UUID(SESSION)}, {"posthogDistinctId": SESSION}, id="uuid"),
        pytest.param({"user_id": " a\n"}, {"posthogDistinctId": "a"}, id="cleaned"),
        pytest.param({"user_id": None}, {}, id="none"),
        pytest.param({"user_id": ""}, {}, id="empty"),
        pytest.param({"user_id": "undefined"}, {}, id="undefined"),
        pytest.param({"session_id": UUID(SESSION)}, LINKED, id="session-uuid"),
        pytest.param({"session_id": "a b"}, {}, id="session-invalid"),
        pytest.param({"session_id": "$posthog_cookieless"}, {}, id="cookieless"),
    ],
)
@pytest.mark.parametrize("how", ["linked", "identify"])
def test_ids_are_text_or_nothing(
    lines: Lines, given: dict[str, Any], expected: dict[str, str], how: str
) -> None:
    """What is given becomes text; what is no ID becomes no key, as from a client."""
    with linked(**given if how == "linked" else {}):
        if how == "identify":
            identify(**given)
        log.info("x")

    assert [line("x", **expected)] == lines


@pytest.mark.parametrize("value", [1.5, b"x", True, ["x"]], ids=repr)
@pytest.mark.parametrize("key", ["session_id", "user_id"])
@pytest.mark.parametrize("function", [identify, linked], ids=["identify", "linked"])
def test_ids_of_wrong_types(function: Any, key: str, value: object) -> None:
    """The app's own mistake is told to it."""
    with pytest.raises(TypeError, match="an ID must be a str, an int, a UUID or None"):
        function(**{key: value})


def test_refused_ids_are_told_without_their_value(caplog: pytest.LogCaptureFixture) -> None:
    """A debug line tells what was left out, and never the value."""
    with caplog.at_level(logging.DEBUG, "replaylink"):
        linked(session_id="not a session", user_id="undefined")

    assert [
        "session ID left out: not a valid ID",
        "user ID left out: not a valid ID",
    ] == sorted(caplog.messages)


def test_linked_inside_linked(lines: Lines) -> None:
    """An ID that is not given is taken from around, and given back afterwards."""
    with linked(session_id=SESSION, user_id=USER):
        with linked(user_id="job"):
            log.info("inner")
        log.info("outer")

    assert [
        line("inner", sessionId=SESSION, posthogDistinctId="job"),
        line("outer", **BOTH),
    ] == lines


def test_identify_inside_linked_stays_inside(lines: Lines) -> None:
    """What an inner block learns is not known around it."""
    with linked(session_id=SESSION):
        with linked():
            identify(USER)
            log.info("inner")
        log.info("outer")

    assert [line("inner", **BOTH), line("outer", **LINKED)] == lines


def test_identify_again(lines: Lines) -> None:
    """A second call counts for more than the first, and None or no ID changes nothing."""
    with linked(user_id="first"):
        identify("second")
        log.info("a")
        identify("third", session_id=SESSION)
        log.info("b")
        identify()
        identify("undefined", session_id="not valid")
        log.info("c")

    third = {"sessionId": SESSION, "posthogDistinctId": "third"}
    assert [
        line("a", posthogDistinctId="second"),
        line("b", **third),
        line("c", **third),
    ] == lines


def test_identify_in_the_stock_set_up(stock_lines: Lines) -> None:
    """In the context at hand a stock set-up sees it too, and nothing is left."""
    with linked():
        identify(USER, session_id=SESSION)
        log.info("inside")
    log.info("after")

    assert [line("inside", **BOTH), line("after")] == stock_lines


def test_identify_from_a_thread(lines: Lines) -> None:
    """A thread that copied the context makes the user known everywhere."""
    with linked(session_id=SESSION):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(identify, USER))
        thread.start()
        thread.join()
        log.info("here")
        context.run(log.info, "there")

    assert [line("here", **BOTH), line("there", **BOTH)] == lines


def test_identify_many_times(lines: Lines) -> None:
    """However often a user changes, lines in all contexts have the last one."""
    with linked(user_id="user-0"):
        context = contextvars.copy_context()
        for number in range(1, 100):
            identify(f"user-{number}")
        log.info("here")
        context.run(identify, "last")
        log.info("here")
        context.run(log.info, "there")

    assert [
        line("here", posthogDistinctId="user-99"),
        line("here", posthogDistinctId="last"),
        line("there", posthogDistinctId="last"),
    ] == lines


def test_an_identity_remembers_a_bounded_number_of_ids() -> None:
    """A connection that identifies for days does not grow."""
    with linked() as identity:
        for number in range(100):
            identify(f"user-{number}", session_id=f"session-{number}")

        assert len(identity.superseded) <= 8


def test_an_identity_that_learns_elsewhere(lines: Lines) -> None:
    """What an identity learns is not bound where another one is, and shows where it is."""
    with linked() as outer:
        with linked(user_id="inner"):
            outer.learn(session_id=SESSION, user_id=USER)
            log.info("inner")
        log.info("outer")

    assert [line("inner", posthogDistinctId="inner"), line("outer", **BOTH)] == lines


def test_current_identity_is_alive() -> None:
    """The identity tells what is known by now."""
    with linked(session_id=SESSION) as identity:
        assert identity is current_identity()
        assert (SESSION, None) == (identity.session_id, identity.user_id)
        identify(USER)
        assert (SESSION, USER) == (identity.session_id, identity.user_id)


def test_identity_shows_itself() -> None:
    """A debugger shows both IDs."""
    assert f"<Identity session_id='{SESSION}' user_id=None>" == repr(Identity(SESSION))


def test_identities_are_not_values() -> None:
    """Two requests of one user are still two."""
    assert Identity(SESSION) != Identity(SESSION)


def test_decorated_function(lines: Lines) -> None:
    """Each call of a decorated function is linked, and keeps its name and result."""

    @linked(user_id="report")
    def report(first: int, *, second: int) -> int:
        """Make the report."""
        log.info("inside")
        return first + second

    assert 3 == report(1, second=2) == report(1, second=2)
    log.info("after")

    assert ("report", "Make the report.") == (report.__name__, report.__doc__)
    inside = line("inside", posthogDistinctId="report")
    assert [inside, inside, line("after")] == lines


def test_decorated_function_that_fails(lines: Lines) -> None:
    """An error leaves a decorated function, and its IDs do not."""

    @linked(user_id="report")
    def report() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        report()
    log.info("after")

    assert [line("after")] == lines


def test_decorated_function_that_calls_itself(lines: Lines) -> None:
    """A decorated function may be on the stack several times."""

    @linked(user_id="report")
    def report(depth: int) -> None:
        if depth:
            report(depth - 1)
        log.info("inside")

    report(2)
    log.info("after")

    assert [*[line("inside", posthogDistinctId="report")] * 3, line("after")] == lines


async def test_decorated_coroutines(lines: Lines) -> None:
    """Calls of an async function that run at once each have the IDs around them."""
    barrier = asyncio.Event()

    @linked(user_id="job")
    async def job(name: str) -> str:
        await barrier.wait()
        log.info(name)
        return name

    async def in_session(session_id: str) -> str:
        with linked(session_id=session_id):
            result = await job(session_id)
            log.info("after")
            return result

    tasks = [asyncio.create_task(in_session(f"s-{number}")) for number in range(5)]
    await asyncio.sleep(0)
    barrier.set()

    assert [f"s-{number}" for number in range(5)] == await asyncio.gather(*tasks)
    assert [
        entry
        for number in range(5)
        for entry in (
            line(f"s-{number}", sessionId=f"s-{number}", posthogDistinctId="job"),
            line("after", sessionId=f"s-{number}"),
        )
    ] == lines


async def test_decorated_coroutine_that_fails(lines: Lines) -> None:
    """An error leaves a decorated coroutine, and its IDs do not."""

    @linked(user_id="job")
    async def job() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await job()
    log.info("after")

    assert [line("after")] == lines


def test_generators_are_refused() -> None:
    """The body of a generator runs outside of the call, so it is refused."""
    with pytest.raises(TypeError, match=r"cannot decorate the generator '.*numbers'; use 'with"):

        @linked(user_id=USER)
        def numbers() -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match=r"cannot decorate the generator '.*later'"):

        @linked(user_id=USER)
        async def later() -> AsyncIterator[int]:
            yield 1


async def test_one_object_entered_by_many_tasks(lines: Lines) -> None:
    """One ``linked`` object may be entered by several tasks at once, in any order."""
    job = linked(user_id="job")
    entered = [asyncio.Event() for _ in range(3)]
    leave = [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> None:
        with linked(session_id=f"s-{number}"):
            with job:
                entered[number].set()
                await leave[number].wait()
                log.info("inside")
            log.info("after")

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    for event in entered:
        await event.wait()
    for number in (0, 2, 1):
        leave[number].set()
        await tasks[number]

    assert [
        entry
        for number in (0, 2, 1)
        for entry in (
            line("inside", sessionId=f"s-{number}", posthogDistinctId="job"),
            line("after", sessionId=f"s-{number}"),
        )
    ] == lines


def test_one_object_entered_twice(lines: Lines) -> None:
    """One ``linked`` object may be entered again inside of itself."""
    job = linked(user_id="job")
    with job:
        with job:
            log.info("inner")
        log.info("outer")
    log.info("after")

    linked_line = {"posthogDistinctId": "job"}
    assert [line("inner", **linked_line), line("outer", **linked_line), line("after")] == lines


def test_left_in_another_context(lines: Lines) -> None:
    """A block that is left in another context raises nothing there."""
    job = linked(user_id="job")
    contextvars.copy_context().run(job.__enter__)
    job.__exit__(None, None, None)
    log.info("here")

    assert [line("here")] == lines


def test_own_keys(lines: Lines) -> None:
    """Other keys can be chosen, one or both, and an inner block keeps to them."""
    with linked(session_id=SESSION, user_id=USER, session_key="session.id", user_key="user.id"):
        log.info("both")
        with linked(user_id="other"):
            log.info("inner")
    with linked(session_id=SESSION, user_id=USER, session_key="session.id"):
        log.info("one")
    with linked(session_id=SESSION, user_id=USER, user_key="user.id"):
        log.info("the-other")

    assert [
        line("both", **{"session.id": SESSION, "user.id": USER}),
        line("inner", **{"session.id": SESSION, "user.id": "other"}),
        line("one", **{"session.id": SESSION, "posthogDistinctId": USER}),
        line("the-other", **{"sessionId": SESSION, "user.id": USER}),
    ] == lines


def test_wrong_keys() -> None:
    """Keys are checked as they are given."""
    with pytest.raises(ValueError, match="session_key='': a key must not be empty"):
        linked(session_key="")
    with pytest.raises(ValueError, match="session_key and user_key must differ"):
        linked(user_key="sessionId")


def test_the_users_own_bindings(lines: Lines) -> None:
    """What others bind is left alone, under our keys too."""
    bind = structlog.contextvars.bind_contextvars
    bind(request="r", sessionId="mine", posthogDistinctId="mine")
    with linked(session_id=OTHER_SESSION, user_id=USER):
        bind(inner="i")
        log.info("inside")
    log.info("after")

    assert [
        line("inside", request="r", inner="i", sessionId=OTHER_SESSION, posthogDistinctId=USER),
        line("after", request="r", inner="i", sessionId="mine", posthogDistinctId="mine"),
    ] == lines


def test_what_is_learnt_while_the_server_is_at_work(lines: Lines) -> None:
    """A user found while an identity steps aside is on that line, and bound to no key."""
    identity = Identity("s-1", late=(lambda connection: "42",))
    bound = identity.bind()
    aside = identity.step_aside()
    log.info("aside")
    copied = contextvars.copy_context()
    identity.step_back(aside)
    log.info("back")
    identity.unbind(bound)

    assert [
        line("aside", sessionId="s-1", posthogDistinctId="42"),
        line("back", sessionId="s-1", posthogDistinctId="42"),
    ] == lines
    assert {} == copied.run(structlog.contextvars.get_contextvars)


def test_exceptions_in_a_circle() -> None:
    """Exceptions that lead to each other make no line hang."""
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    identity = Identity("s-1")
    around = Around()
    leftover = identity.leave(identity.bind(), while_handled(ref(around), elsewhere=True))
    try:
        raise first
    except ValueError:
        first.__context__ = second
        found = current_identity().session_id
    del leftover

    assert found is None
