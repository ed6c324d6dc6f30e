"""carry(): the context of a request in threads that do not take it by themselves."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
import structlog

from replaylink import current_identity, identify, linked
from replaylink.threads import carry
from tests.conftest import Lines
from tests.helpers import line

log = structlog.get_logger()

other: ContextVar[str] = ContextVar("other", default="unset")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that were there before any request."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: barrier.wait(5), range(4)))
        yield pool


def work(number: int, *, name: str = "work") -> int:
    """Log a line."""
    log.info(name, number=number)
    return number * 2


def test_a_thread_of_a_pool_has_the_ids(lines: Lines, pool: ThreadPoolExecutor) -> None:
    """A carried function runs with the IDs of its caller; one that is not carried does not."""
    with linked(session_id="s-1", user_id="u-1"):
        results = [pool.submit(carry(work), 1).result(), pool.submit(work, 2, name="bare").result()]
    pool.submit(work, 3, name="later").result()

    assert [2, 4] == results
    assert [
        line("work", number=1, sessionId="s-1", posthogDistinctId="u-1"),
        line("bare", number=2),
        line("later", number=3),
    ] == lines


async def test_run_in_executor(lines: Lines) -> None:
    """An executor of the event loop gets arguments as usual."""
    with linked(session_id="s-1"):
        result = await asyncio.get_running_loop().run_in_executor(None, carry(work), 21)

    assert 42 == result
    assert [line("work", number=21, sessionId="s-1")] == lines


def test_keyword_arguments_and_errors(lines: Lines, pool: ThreadPoolExecutor) -> None:
    """Keyword arguments go in, and errors come out."""

    def fail(**kwargs: object) -> None:
        raise ValueError(kwargs)

    carried = pool.submit(carry(fail), reason="told")

    with pytest.raises(ValueError, match="told"):
        carried.result()


def test_all_other_variables_come_along(pool: ThreadPoolExecutor) -> None:
    """Variables that are not ours are carried as well, and what a call sets stays in it."""

    def change() -> str:
        before = other.get()
        other.set("changed")
        return before

    token = other.set("mine")
    carried = carry(change)
    other.reset(token)
    seen = [pool.submit(carried).result(), carried(), pool.submit(other.get).result(), other.get()]

    assert ["mine", "mine", "unset", "unset"] == seen


def test_one_function_runs_in_many_threads_at_once(pool: ThreadPoolExecutor) -> None:
    """One carried function may run in several threads at a time, and in itself."""
    barrier = threading.Barrier(4)

    def meet(depth: int) -> str | None:
        barrier.wait(5)
        if depth:
            return nested(depth)
        return current_identity().session_id

    def again(depth: int) -> str | None:
        return current_identity().session_id if depth == 0 else nested(depth - 1)

    with linked(session_id="s-1"):
        carried, nested = carry(meet), carry(again)
        seen = list(pool.map(carried, [0, 1, 2, 3]))

    assert ["s-1"] * 4 == seen


def test_a_late_user_is_known_in_both(pool: ThreadPoolExecutor) -> None:
    """A user told in the thread is known outside, and one told outside in the thread."""
    asked, told = threading.Event(), threading.Event()

    def tell() -> str | None:
        identify("from-thread")
        asked.set()
        told.wait(5)
        return current_identity().user_id

    with linked(session_id="s-1") as identity:
        running = pool.submit(carry(tell))
        asked.wait(5)
        outside = identity.user_id
        identify("from-outside")
        told.set()
        inside = running.result()

    assert ("from-thread", "from-outside") == (outside, inside)


def test_it_looks_like_the_function() -> None:
    """Name and docstring stay, and so does the function itself."""
    carried = carry(work)

    assert ("work", "Log a line.") == (carried.__name__, carried.__doc__)
    assert work is carried.__wrapped__  # type: ignore[attr-defined]


def test_any_callable() -> None:
    """A partial, a bound method and an object that can be called are carried too."""

    class Greeter:
        def __call__(self, name: str) -> str:
            return f"hello {name}"

        def method(self, name: str) -> str:
            return f"bye {name}"

    callables: list[Callable[[str], str]] = [
        functools.partial("{1} {0}".format, "you"),
        Greeter(),
        Greeter().method,
    ]

    assert ["x you", "hello x", "bye x"] == [carry(func)("x") for func in callables]


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Async:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("func", "kind"),
    [
        pytest.param(coroutine, "the async function 'coroutine'", id="async"),
        pytest.param(generator, "the generator function 'generator'", id="generator"),
        pytest.param(async_generator, "the async generator function", id="async-generator"),
        pytest.param(functools.partial(coroutine), "the async function", id="partial"),
        pytest.param(Async(), "the async function", id="object"),
    ],
)
def test_what_cannot_be_carried(func: Callable[[], Any], kind: str) -> None:
    """A body that runs outside of the call is refused at once, with what to do instead."""
    with pytest.raises(TypeError, match=rf"carry\(\) cannot take {kind}.*carry the plain function"):
        carry(func)


def test_what_cannot_be_called() -> None:
    """The result of a call, given by mistake, is refused at once."""
    with pytest.raises(TypeError, match="func=4: must be a callable"):
        carry(work(2))  # type: ignore[arg-type]
