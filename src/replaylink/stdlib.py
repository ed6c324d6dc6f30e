"""
The standard library's logging: records that carry the IDs of their request.

::

    handler.addFilter(IdentityFilter())  # the records that one handler gets
    install()                            # every record of the process
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ._identity import DEFAULT_KEYS, bound_identity

__all__ = ["IdentityFilter", "install"]


class IdentityFilter(logging.Filter):
    """
    Puts the IDs of the request at hand on each record, and lets every record through.

    Add it to a handler, and all records that reach the handler are linked; added to a
    logger, it sees only those logged on this very logger. An attribute that is there,
    by ``extra``, stays. The handler is to be one that is called within the request: the
    target of one that buffers records is called within another, for all of them.

    Args:
        default: What a missing ID becomes, so that a format string such as
            ``%(sessionId)s`` never fails. By default there is no attribute then.

    Raises:
        TypeError: If *default* is neither a string nor None.
    """

    def __init__(self, default: str | None = None) -> None:
        super().__init__()
        self.default = _checked(default)

    def filter(self, record: logging.LogRecord) -> bool:
        _fill(record.__dict__, self.default)
        return True


def install(default: str | None = None) -> Callable[[], None]:
    """
    Put the IDs of the request at hand on every record of the process.

    Wraps the record factory that is there. An attribute given by ``extra`` stays.

    Args:
        default: What a missing ID becomes; by default there is no attribute then.

    Returns:
        A function that undoes it, also when another library has wrapped the factory
        since.

    Raises:
        TypeError: If *default* is neither a string nor None.
    """
    default = _checked(default)
    inner = logging.getLogRecordFactory()
    installed = True

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        if installed:
            ids = _fill(record.__dict__, default)
            if ids:
                fields = _Fields(record.__dict__)
                fields.ids = ids
                record.__dict__ = fields
        return record

    def undo() -> None:
        nonlocal installed
        installed = False
        if logging.getLogRecordFactory() is factory:
            logging.setLogRecordFactory(inner)

    logging.setLogRecordFactory(factory)
    return undo


class _Fields(dict[str, Any]):
    """
    The attributes of a record, of which the IDs give way to those in ``extra``.

    `logging.Logger.makeRecord` takes nothing from ``extra`` that is there already, but
    raises KeyError. It asks with ``in``.
    """

    ids: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # What takes the record along needs none of this any more.
        return dict, (dict(self),)

    def __contains__(self, key: object) -> bool:
        return key not in self.ids and super().__contains__(key)


def _fill(fields: dict[str, Any], default: str | None) -> tuple[str, ...]:
    """
    Set the IDs that *fields* does not have, and return the keys that were set.
    """
    identity = bound_identity()
    if identity is None:
        keys, session_id, user_id = DEFAULT_KEYS, default, default
    else:
        keys = identity.keys
        session_id = identity.session_id or default
        user_id = identity.user_id or default
    ids = {keys.session_key: session_id, keys.user_key: user_id}
    new = tuple(
        key
        for key, value in ids.items()
        if value is not None and not dict.__contains__(fields, key)
    )
    for key in new:
        fields[key] = ids[key]
    return new


def _checked(default: object) -> str | None:
    if default is not None and not isinstance(default, str):
        msg = f"default={default!r}: must be a str or None"
        raise TypeError(msg)
    return default
