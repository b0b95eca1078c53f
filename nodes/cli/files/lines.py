"""Physical lines of a file, numbered, and never held beyond a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, TypeVar

__all__ = ["LIMIT", "Lines", "Reading"]

_T = TypeVar("_T")

LIMIT = 65536
"""Bytes in one record; the contract's longest attestation needs a sixth of it."""

Reading = tuple[int, Callable[[], _T]]
"""A record's line, and its content once it is asked for: count never asks."""


class Lines:
    """Numbered physical lines; none is held beyond the limit."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._file = file
        self._within = False

    def next(self) -> bytes:
        """Give a line, or the first ``LIMIT + 1`` bytes of a longer one; empty at the end."""
        text = self._file.readline(LIMIT + 1)
        self.number += bool(text) and not self._within
        self._within = bool(text) and not text.endswith(b"\n")
        return text

    def skip(self, *, quoted: bool = False) -> None:
        """Pass over the rest of a line, and of further ones as long as quotes stay open."""
        while self._within or quoted:
            text = self.next()
            if not text:
                return
            quoted ^= text.count(b'"') % 2 == 1
