"""What is recorded and not yet in a day's file: in memory that the file system keeps.

A process that is killed leaves here what it had recorded, and the next one takes it over; only a
machine that fails takes it with it. A frame is the line's hash (32 bytes), its length (4, big
endian) and the line. Nothing is ever erased: what does not follow the chain's end is old, or that
end was put back.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodes.audit.chain import follow

__all__ = ["HALF", "Spool"]

HALF: Final = 16 << 20
"""Bytes of one half, some 40,000 accesses: one fills while the other is being written."""

_PREFIX: Final = 36


class Spool:
    """Two halves, filled in turn.

    :param path: the file; made, whole, if it is not there: a full disk is found out at once, and
        not by a signal in the middle of a call.
    :raises OSError: it cannot be made or opened, or another process has it: two would fork the
        chain.
    """

    def __init__(self, path: Path, half: int = HALF) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._file)
            _allocate(self._file, 2 * half)
            self._memory = mmap.mmap(self._file, 2 * half)
        except BaseException:
            os.close(self._file)
            raise
        self._half = half
        self._at, self._end = 0, half

    def put(self, digest: bytes, text: bytes) -> bool:
        """Add a line; False where this half has no room for it."""
        frame = digest + len(text).to_bytes(4, "big") + text
        end = self._at + len(frame)
        if end > self._end:
            return False
        self._memory[self._at : end] = frame
        self._at = end
        return True

    def turn(self) -> None:
        """Fill the other half from here on; what it held must lie in a day's file."""
        start = self._half if self._end == self._half else 0
        self._at, self._end = start, start + self._half

    def left(self, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through the hashes and lines that continue the chain.

        :param after: the hash at the end of what the days' files hold.
        """
        found = True
        while found:
            found = False
            for start in (0, self._half):
                taken = False
                for digest, text in self._half_frames(start):
                    if follow(after, text) == digest:
                        yield digest, text
                        after, taken = digest, True
                    elif taken:
                        break
                found |= taken

    def frames(self) -> Iterator[bytes]:
        """Go through the lines that lie in it, old ones too; what is no line may be among them."""
        for start in (0, self._half):
            for _, text in self._half_frames(start):
                yield text

    def _half_frames(self, at: int) -> Iterator[tuple[bytes, bytes]]:
        end = at + self._half
        while at + _PREFIX <= end:
            text = at + _PREFIX
            length = int.from_bytes(self._memory[text - 4 : text], "big")
            if not 0 < length <= end - text:
                return
            yield self._memory[at : at + 32], self._memory[text : text + length]
            at = text + length

    def close(self) -> None:
        """Let go of it."""
        self._memory.close()
        os.close(self._file)


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError("another process writes it") from None


def _allocate(file: int, size: int) -> None:
    """Make a file so long, all of it on the disk: also where a copy left holes in it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        there = os.lseek(file, 0, os.SEEK_END)
        while there < size:
            there += os.write(file, bytes(min(size - there, 1 << 20)))
    os.fsync(file)
