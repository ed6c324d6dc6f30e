"""
A ``wsgi.file_wrapper`` response, which must reach the server as it is.

Servers send a file faster than an iterator, by ``sendfile``, but only what they recognise.

See Also:
    https://peps.python.org/pep-3333/#optional-platform-specific-file-handling
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ._types import Environ


def is_file(result: Iterable[bytes], environ: Environ) -> bool:
    """
    Tell whether an app's response is a file for the server to send.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(result, wrapper)


def call_at_close(file: Iterable[bytes], done: Callable[[], object]) -> bool:
    """
    Have *done* called as the server closes *file*, after its own ``close``.

    The server may do that in any thread.

    Returns:
        Whether that is so: an object of the server's may take no attribute.
    """
    inner: Callable[[], object] | None = getattr(file, "close", None)

    def close() -> None:
        try:
            if inner is not None:
                inner()
        finally:
            done()

    try:
        file.close = close  # type: ignore[attr-defined]
    except AttributeError:
        return False
    return True
