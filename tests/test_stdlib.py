"""Records of the standard library's logging."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replaylink import identify, linked
from replaylink.stdlib import IdentityFilter, install


@pytest.fixture(params=["filter", "factory"])
def logged(request: pytest.FixtureRequest) -> Iterator[list[logging.LogRecord]]:
    """The records that a handler gets, linked by either of the two means."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    undo = None
    if request.param == "filter":
        handler.addFilter(IdentityFilter())
    else:
        undo = install()
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)
    if undo is not None:
        undo()


log = logging.getLogger("tests.stdlib")
log.setLevel(logging.DEBUG)
log.propagate = False


def ids(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(record).items()
        if key in ("sessionId", "posthogDistinctId", "session.id", "user.id")
    }


def test_records_carry_both_ids(logged: list[logging.LogRecord]) -> None:
    """A record within a request has both IDs, one outside has neither key."""
    with linked(session_id="s-1", user_id=42):
        log.info("inside")
    log.info("outside")

    assert [{"sessionId": "s-1", "posthogDistinctId": "42"}, {}] == [ids(r) for r in logged]


def test_late_user_and_other_keys(logged: list[logging.LogRecord]) -> None:
    """What becomes known later is on later records, under the keys of the identity."""
    with linked(session_id="s-1", session_key="session.id", user_key="user.id"):
        log.info("before")
        identify(7)
        log.info("after")

    assert [{"session.id": "s-1"}, {"session.id": "s-1", "user.id": "7"}] == [
        ids(r) for r in logged
    ]


def test_extra_wins(logged: list[logging.LogRecord]) -> None:
    """An ID given by extra stays, and does not fail as logging's own attributes do."""
    with linked(session_id="s-1", user_id=42):
        log.info("mine", extra={"sessionId": "given", "posthogDistinctId": 5})
        with pytest.raises(KeyError):
            log.info("not mine", extra={"name": "x"})

    assert {"sessionId": "given", "posthogDistinctId": 5} == ids(logged[0])


def test_records_can_be_copied_and_sent(logged: list[logging.LogRecord]) -> None:
    """A record survives what QueueHandler and SocketHandler do with it."""
    with linked(session_id="s-1", user_id=42):
        log.info("hello %s", "you")
    [record] = logged
    received = [copy.copy(record), pickle.loads(pickle.dumps(record))]
    received.append(logging.makeLogRecord(dict(vars(record))))

    assert [{"sessionId": "s-1", "posthogDistinctId": "42"}] * 3 == [ids(r) for r in received]


@pytest.mark.parametrize("style", ["%", "{", "$"])
@pytest.mark.parametrize("way", ["filter", "factory"])
def test_default_keeps_format_strings_whole(style: str, way: str) -> None:
    """With a default, a format string with both keys never fails."""
    formats = {
        "%": "%(sessionId)s %(posthogDistinctId)s %(message)s",
        "{": "{sessionId} {posthogDistinctId} {message}",
        "$": "$sessionId $posthogDistinctId $message",
    }
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(formats[style], style=style))  # type: ignore[arg-type]
    undo: Callable[[], None] = lambda: None  # noqa: E731
    if way == "filter":
        handler.addFilter(IdentityFilter(default="-"))
    else:
        undo = install(default="-")
    log.addHandler(handler)
    try:
        log.info("outside")
        with linked(session_id="s-1"):
            log.info("inside")
    finally:
        log.removeHandler(handler)
        undo()

    assert "- - outside\ns-1 - inside\n" == stream.getvalue()


def test_filter_passes_everything() -> None:
    """The filter lets every record through, with an identity or without."""
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "x", (), None)

    assert IdentityFilter().filter(record) is True


@pytest.mark.parametrize("make", [IdentityFilter, install])
def test_default_must_be_text(make: Callable[[Any], object]) -> None:
    """A default that is no text is refused as it is set up."""
    with pytest.raises(TypeError, match="default=0: must be a str or None"):
        make(0)


def test_install_wraps_the_factory_that_is_there() -> None:
    """Another library's record factory goes on working, and is there again afterwards."""
    before = logging.getLogRecordFactory()

    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.theirs = True
        return record

    logging.setLogRecordFactory(theirs)
    try:
        undo = install()
        with linked(session_id="s-1"):
            record = log.makeRecord("x", logging.INFO, __file__, 1, "x", (), None)
        undo()

        assert (True, {"sessionId": "s-1"}) == (vars(record)["theirs"], ids(record))
        assert theirs is logging.getLogRecordFactory()
    finally:
        logging.setLogRecordFactory(before)


def test_undone_below_another_factory() -> None:
    """Undone after another library has wrapped it, it stays in the chain and does nothing."""
    before = logging.getLogRecordFactory()
    undo = install()
    ours = logging.getLogRecordFactory()

    def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return ours(*args, **kwargs)

    logging.setLogRecordFactory(theirs)
    try:
        undo()
        with linked(session_id="s-1"):
            record = log.makeRecord("x", logging.INFO, __file__, 1, "x", (), None)

        assert (theirs, {}) == (logging.getLogRecordFactory(), ids(record))
    finally:
        logging.setLogRecordFactory(before)
