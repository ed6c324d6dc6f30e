"""
The identity of the request at hand, and its way into structlog's context.

Three context variables are set for each request: structlog's own two, which
`structlog.contextvars.merge_contextvars` reads and which hold plain strings, and one
that holds the request's `Identity`. Contexts are copied into threads and tasks; the
identity is one object behind all copies, so what it learns late is known everywhere.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token, copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from uuid import UUID
from weakref import ReferenceType

from msgspec import Struct
from structlog.contextvars import bind_contextvars

from ._ids import Absent, Accept, Found, accept_user_id, as_text, session_id_acceptor

if TYPE_CHECKING:
    from types import FrameType, TracebackType

P = ParamSpec("P")
R = TypeVar("R")

SESSION_KEY: Final = "sessionId"
"""The log attribute by which PostHog finds a line's session."""

USER_KEY: Final = "posthogDistinctId"
"""The log attribute by which PostHog finds a line's person."""

ABSENT: Final = ...
"""What structlog puts into a context variable in place of a missing key."""

MAX_SUPERSEDED: Final = 8
"""Replaced IDs that an identity remembers: a WebSocket may live and identify for days."""

MAX_CONTEXTS: Final = 100
"""How many exceptions are looked at, each raised while the one before was handled."""

logger: Final = logging.getLogger("replaylink")

Bound = tuple["Token[Identity | None]", "Token[Any] | None", "Token[Any] | None"]
"""What was there before an identity was bound; None for a key that stayed absent."""

Aside = tuple["Identity", "Token[Identity | None]", "Token[Any] | None", "Token[Any] | None"]
"""What stands in for an identity that stepped aside, and what it was bound as."""


class Keys:
    """
    The two bound keys, with structlog's context variables for them.

    Args:
        session_key: The key of the session ID.
        user_key: The key of the user ID.

    Raises:
        TypeError: If a key is not a string.
        ValueError: If a key is empty, or both are the same.
    """

    __slots__ = ("session_key", "session_var", "user_key", "user_var")

    def __init__(self, session_key: str = SESSION_KEY, user_key: str = USER_KEY) -> None:
        for option, key in (("session_key", session_key), ("user_key", user_key)):
            if not isinstance(key, str):
                msg = f"{option}={key!r}: a key must be a str"
                raise TypeError(msg)
            if not key:
                msg = f"{option}={key!r}: a key must not be empty"
                raise ValueError(msg)
        if session_key == user_key:
            msg = f"session_key and user_key must differ, both are {session_key!r}"
            raise ValueError(msg)
        self.session_key = session_key
        self.user_key = user_key
        # A token knows its variable: the public way to the one behind a key. Bound in a
        # copy of the context, so that nothing is bound here.
        tokens = copy_context().run(bind_contextvars, **{session_key: ABSENT, user_key: ABSENT})
        self.session_var: ContextVar[Any] = tokens[session_key].var
        self.user_var: ContextVar[Any] = tokens[user_key].var


DEFAULT_KEYS: Final = Keys()


# A Struct, for it is made in C: a fifth of the time of a class with an __init__, once
# for each request.
class Identity(Struct, eq=False):
    """
    Who a request is from: one object from its first line to its last.

    It is alive: an ID that becomes known later shows in every thread and task of the
    request. Read it by ``session_id`` and ``user_id``; tell it something by `identify`.

    Args:
        session_id: The ID of the frontend's replay session, if known: a client's claim.
        known_user_id: The ID of the user, if known without another look.
        keys: The keys that the IDs are bound to.
        late: Looked up in turn, each time that the user ID is asked for, until one finds
            the user. That one counts for more than *known_user_id*.
        connection: The ASGI scope or WSGI environ that *late* looks at.
        superseded: IDs that were bound and then replaced. Their strings may still stand
            in the context of some thread or task, where nobody can reach them.
        ended: Whether the request is over, and this was left behind by it.
        counts: Tells, after the end of the request, whether a line is still about it.
        binds: Whether what it learns is bound to structlog's keys, too.
    """

    session_id: str | None = None
    known_user_id: str | None = None
    keys: Keys = DEFAULT_KEYS
    late: tuple[Callable[[Any], Found], ...] = ()
    connection: Any = None
    superseded: tuple[str, ...] = ()
    ended: bool = False
    counts: Callable[[], bool] | None = None
    binds: bool = True

    def __repr__(self) -> str:
        return f"<Identity session_id={self.session_id!r} user_id={self.known_user_id!r}>"

    @property
    def user_id(self) -> str | None:
        """
        The ID of the user, looked up now if it is not known yet.
        """
        if self.late:
            self.look()
        return self.known_user_id

    def look(self) -> None:
        """
        Look for the user, unless it is settled who it is.
        """
        for find in self.late:
            found = find(self.connection)
            if not isinstance(found, Absent):
                self.learn(user_id=found)
                return

    def learn(self, *, session_id: str | None = None, user_id: str | None = None) -> None:
        """
        Take in IDs that became known, and bind them in the context at hand.
        """
        here = self.binds and _current.get() is self
        if session_id is not None:
            self._supersede(self.session_id, session_id)
            self.session_id = session_id
            if here:
                self.keys.session_var.set(session_id)
        if user_id is not None:
            self._supersede(self.known_user_id, user_id)
            self.known_user_id = user_id
            self.late = ()
            if here:
                self.keys.user_var.set(user_id)

    def claim(self, user_id: str) -> None:
        """
        Take in a user ID that counts until one of *late* finds another.
        """
        late = self.late
        self.learn(user_id=user_id)
        self.late = late

    def look_late(self, find: Callable[[Any], Found]) -> None:
        """
        Look here too, each time that the user ID is asked for and not known.
        """
        self.late = (*self.late, find)

    def _supersede(self, old: str | None, new: str) -> None:
        if old is not None and old != new:
            self.superseded = (*self.superseded, old)[-MAX_SUPERSEDED:]

    def bind(self) -> Bound:
        """
        Make this the current identity. A missing ID becomes a missing key.

        The context may be one that another request left behind: uvicorn hands the
        context of a request with a large body to the next one of the same connection
        (https://github.com/python/cpython/issues/140947).
        """
        before = _current.get()
        if before is not None and before.counts is not None:
            _forget(before)
        session_var, user_var = self.keys.session_var, self.keys.user_var
        session: Token[Any] | None = None
        user: Token[Any] | None = None
        # To see that a key is absent is much cheaper than to set it so.
        if self.session_id is not None:
            session = session_var.set(self.session_id)
        elif session_var.get() is not ABSENT:
            session = session_var.set(ABSENT)
        if self.known_user_id is not None:
            user = user_var.set(self.known_user_id)
        elif user_var.get() is not ABSENT:
            user = user_var.set(ABSENT)
        return _current.set(self), session, user

    def unbind(self, bound: Bound) -> None:
        """
        Give back what `bind` found. In another context there is nothing to give back.
        """
        before, session, user = bound
        keys = self.keys
        try:
            _current.reset(before)
            if session is not None:
                keys.session_var.reset(session)
            elif self.session_id is not None:
                keys.session_var.set(ABSENT)
            if user is not None:
                keys.user_var.reset(user)
            elif self.known_user_id is not None:
                keys.user_var.set(ABSENT)
        except ValueError:
            pass

    def end(self) -> None:
        """
        Forget both IDs; nothing is learnt any more.
        """
        self.session_id = self.known_user_id = None
        self.late = ()
        self.ended = True

    def step_aside(self) -> Aside:
        """
        Unbind both keys while the server runs in our context.

        What it copies there (for the next request of the connection, say) outlives the
        request. The lines that it logs meanwhile are linked by a copy of this identity
        that `step_back` ends.
        """
        keys = self.keys
        session_id, user_id = self.session_id, self.known_user_id
        tail = Identity(session_id, user_id, keys, self.late, self.connection, binds=False)
        return (
            tail,
            _current.set(tail),
            None if session_id is None else keys.session_var.set(ABSENT),
            None if user_id is None else keys.user_var.set(ABSENT),
        )

    def step_back(self, aside: Aside) -> None:
        """
        Undo `step_aside`.
        """
        tail, before, session, user = aside
        tail.end()
        try:
            _current.reset(before)
            if session is not None:
                self.keys.session_var.reset(session)
            if user is not None:
                self.keys.user_var.reset(user)
        except ValueError:  # in another context, as a coroutine that was never finished
            pass

    def leave(
        self, bound: Bound, counts: Callable[[], bool], *, keys_stay: bool = True
    ) -> Leftover | None:
        """
        Stay bound for the lines that others have yet to write about this request.

        After an error these are the layers around us and the server. Nothing tells when
        they are through, so each line asks *counts*. structlog's own keys, which ask
        nobody, stay as long as the returned object is referred to, if *keys_stay*: where
        the server takes this context for nothing else.

        In any case it ends before the next request in this context.
        """
        if is_nested(bound):
            # The lines to come are those of the outer request.
            self.unbind(bound)
            outer = bound[0].old_value
            # The very same request, of an app that is mounted in another one.
            if outer.connection is self.connection and outer.user_id is None:
                outer.learn(user_id=self.user_id)
            return None
        # Holds no connection: its end may depend on nothing else doing so.
        tail = Identity(
            self.session_id,
            self.user_id,
            self.keys,
            superseded=self.superseded,
            counts=counts,
            binds=keys_stay,
        )
        if not keys_stay:
            self.unbind(bound)
        _current.set(tail)
        return Leftover(tail) if keys_stay else None

    def view(self) -> Identity:
        """
        Return this, or once it no longer counts, what it is then: nobody.
        """
        if self.counts is None or self.counts():
            return self
        return Identity(keys=self.keys, superseded=self.all_ids(), ended=True)

    def all_ids(self) -> tuple[str, ...]:
        """
        Return the IDs that are known, and those that were replaced.
        """
        return (*self.superseded, *filter(None, (self.session_id, self.known_user_id)))

    def is_superseded(self, value: object) -> bool:
        """
        Tell whether *value* is a string that this identity bound and then replaced.
        """
        return any(value is old for old in self.superseded)


class Leftover:
    """
    Ends an identity that stayed bound after its request, when told or when forgotten.
    """

    __slots__ = ("__weakref__", "_tail")

    def __init__(self, tail: Identity) -> None:
        self._tail = tail

    def end(self) -> None:
        """
        Let nothing in this context, or in any copy of it, show the IDs any more.
        """
        _forget(self._tail)

    def __del__(self) -> None:
        _forget(self._tail)


def _forget(tail: Identity) -> None:
    if not tail.ended:
        tail.superseded = tail.all_ids()
        tail.end()
    # The garbage collector may call this in any thread: only what is ours is touched.
    if _current.get() is tail:
        _current.set(None)
        tail.keys.session_var.set(ABSENT)
        tail.keys.user_var.set(ABSENT)


_current: Final[ContextVar[Identity | None]] = ContextVar("replaylink_identity", default=None)


def bound_identity() -> Identity | None:
    """
    Return the identity that is bound in this context, if any.
    """
    identity = _current.get()
    return identity if identity is None or identity.counts is None else identity.view()


def current_identity() -> Identity:
    """
    Return the identity of the request at hand; outside of any, an empty one.

    Take its IDs along to a job, and give them to `linked` there::

        identity = current_identity()
        queue.enqueue(job, identity.session_id, identity.user_id)
    """
    return bound_identity() or Identity()


def is_nested(bound: Bound) -> bool:
    """
    Tell whether an identity was bound within another request's: in the same context.
    """
    outer = bound[0].old_value
    return isinstance(outer, Identity) and not outer.ended


class Around:
    """
    The calls around a middleware, in the thread in which an exception passed through it.

    A local variable of the middleware's frame, it lives as long as the exception.
    """

    __slots__ = ("__weakref__", "_frames", "_module", "_thread")

    def __init__(self) -> None:
        frame = sys._getframe(1)
        self._module = frame.f_globals["__name__"]
        self._thread = get_ident()
        self._frames = set(_calls(frame.f_back))

    def has_handler(self, *, elsewhere: bool) -> bool:
        """
        Tell whether the exception is being handled here, by one of the calls.

        One that an app keeps may be raised again, in another request. It still shows
        where it has been before, but what handles it then is none of these calls.

        Args:
            elsewhere: What to tell in another thread, if no exception shows there.
        """
        is_here = get_ident() == self._thread
        if not is_here and elsewhere:
            return True
        running = self._frames.intersection(_calls(sys._getframe(1))) if is_here else set()
        is_handled = not is_here
        exc = sys.exc_info()[1]
        # Apps may link exceptions in a circle.
        for _ in range(MAX_CONTEXTS):
            if exc is None:
                break
            traceback = exc.__traceback__
            while traceback is not None:
                frame = traceback.tb_frame
                if is_handled and frame.f_globals.get("__name__") == self._module:
                    return True
                is_handled = is_handled or frame in running
                traceback = traceback.tb_next
            exc = exc.__context__
        return False


def _calls(frame: FrameType | None) -> Iterator[FrameType]:
    """
    Return a frame and those around it.
    """
    while frame is not None:
        yield frame
        frame = frame.f_back


def while_handled(around: ReferenceType[Around], *, elsewhere: bool) -> Callable[[], bool]:
    """
    Return what tells whether an exception is being handled, once it has left a middleware.

    Args:
        around: The calls around the middleware. Not held, for it holds much.
        elsewhere: Whether it counts in other threads, where no exception shows. It does
            where only a handler that was given this context gets to ask.
    """

    def counts() -> bool:
        here = around()
        return here is not None and here.has_handler(elsewhere=elsewhere)

    return counts


_accept_session_id: Final = session_id_acceptor()


def _given(value: str | int | UUID | None, what: str, accept: Accept) -> str | None:
    text = as_text(value)
    if text is None:
        return None
    found = accept(text)
    if isinstance(found, Absent):
        logger.debug("%s left out: %s", what, found.reason)
        return None
    return found


def identify(
    user_id: str | int | UUID | None = None,
    *,
    session_id: str | int | UUID | None = None,
) -> None:
    """
    Tell whose request this is, from anywhere in it: a dependency, a view, a thread.

    All later lines of the request carry the ID, wherever they are logged, through
    `replaylink.processors.add_identity`. It counts for more than any source, and a
    second call for more than the first. Outside of a request it does nothing; use
    `linked` there.

    Args:
        user_id: The user's ID. None changes nothing, and neither does text that is no
            ID, such as ``""`` or ``"undefined"``.
        session_id: The frontend's session ID, where no source could find it: in the
            first message of a WebSocket, say.

    Raises:
        TypeError: If an ID is not a str, an int, a UUID or None.
    """
    user = _given(user_id, "user ID", accept_user_id)
    session = _given(session_id, "session ID", _accept_session_id)
    identity = bound_identity()
    if identity is None or identity.ended:
        logger.debug("identify() was called outside of a request and changed nothing")
        return
    identity.learn(session_id=session, user_id=user)


class linked:
    """
    Link the lines of a block or a function: in a script, a job or a test.

    ::

        with linked(session_id=job.session_id, user_id=job.user_id):
            log.info("mail sent")

        @linked(user_id="nightly-report")
        def report() -> None: ...

    An ID that is not given is taken from the identity around it. Functions may be async;
    generators are refused, for their body runs outside of the call.

    Args:
        session_id: The frontend's session ID.
        user_id: The user's ID.
        session_key: The key of the session ID; by default as around it.
        user_key: The key of the user ID; by default as around it.

    Raises:
        TypeError: If an ID is not a str, an int, a UUID or None.
        ValueError: If a key is empty, or both are the same.
    """

    def __init__(
        self,
        *,
        session_id: str | int | UUID | None = None,
        user_id: str | int | UUID | None = None,
        session_key: str | None = None,
        user_key: str | None = None,
    ) -> None:
        self._session_id = _given(session_id, "session ID", _accept_session_id)
        self._user_id = _given(user_id, "user ID", accept_user_id)
        self._keys: Keys | None = None
        if session_key is not None or user_key is not None:
            self._keys = Keys(
                SESSION_KEY if session_key is None else session_key,
                USER_KEY if user_key is None else user_key,
            )
        # One object may be entered by several threads and tasks at once.
        self._entered: dict[Identity, Bound] = {}

    def _enter(self) -> tuple[Identity, Bound]:
        outer = current_identity()
        identity = Identity(
            self._session_id or outer.session_id,
            self._user_id or outer.user_id,
            self._keys or outer.keys,
        )
        return identity, identity.bind()

    def __enter__(self) -> Identity:
        identity, bound = self._enter()
        self._entered[identity] = bound
        return identity

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        identity = current_identity()
        if identity in self._entered:
            identity.unbind(self._entered.pop(identity))

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            msg = (
                f"linked() cannot decorate the generator {func.__qualname__!r}; "
                "use 'with linked(...):' inside it"
            )
            raise TypeError(msg)

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def linked_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                identity, bound = self._enter()
                try:
                    return await func(*args, **kwargs)
                finally:
                    identity.unbind(bound)

            return linked_coroutine  # type: ignore[return-value]

        @functools.wraps(func)
        def linked_function(*args: P.args, **kwargs: P.kwargs) -> R:
            identity, bound = self._enter()
            try:
                return func(*args, **kwargs)
            finally:
                identity.unbind(bound)

        return linked_function
