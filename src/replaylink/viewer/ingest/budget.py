"""
How much one request may become.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replaylink.viewer import limits

from .errors import TooLarge

_BUILDING: Final = (b",", b"[", b"{")


class Budget:
    """
    What is left of a request's limits; each of its parts takes some of it.

    Args:
        max_bytes: What it may be after all decompression, in bytes.
    """

    __slots__ = ("bytes_left", "max_bytes", "surrogates_left", "values_left")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = self.bytes_left = max_bytes
        self.surrogates_left = limits.MAX_SURROGATES
        self.values_left = limits.MAX_JSON_VALUES

    def spend_bytes(self, count: int) -> None:
        """
        Count bytes that something has after its decompression.

        Raises:
            TooLarge: If that is more than what is left.
        """
        self.bytes_left -= count
        if self.bytes_left < 0:
            msg = f"more than {self.max_bytes} bytes after all decompression"
            raise TooLarge(msg)

    def spend_surrogates(self, count: int) -> None:
        """
        Count escaped halves of surrogate pairs.

        Raises:
            TooLarge: If that is more than what is left.
        """
        self.surrogates_left -= count
        if self.surrogates_left < 0:
            msg = f"JSON of more than {limits.MAX_SURROGATES} escaped surrogates"
            raise TooLarge(msg)

    def spend_values(self, text: msgspec.Raw) -> None:
        """
        Count the values that a JSON text will be built of, by its commas and brackets.

        Those in strings count as well. Some megabytes that are nothing but ``[],[],[]`` would
        take a hundred times the memory of an honest text.

        Raises:
            TooLarge: If that is more than what is left.
        """
        whole = bytes(text)
        self.values_left -= sum(map(whole.count, _BUILDING))
        if self.values_left < 0:
            msg = f"JSON of more than {limits.MAX_JSON_VALUES} values"
            raise TooLarge(msg)


def check_parts(text: bytes) -> None:
    """
    Refuse a JSON text that might be split into too many parts, built or not.

    Raises:
        TooLarge: If it has more than `limits.MAX_JSON_PARTS` commas.
    """
    if text.count(b",") > limits.MAX_JSON_PARTS:
        msg = f"JSON of more than {limits.MAX_JSON_PARTS} parts"
        raise TooLarge(msg)
