"""Memory that one process writes and others of the same node look at.

It has no name in any file system: others open it through the writer's descriptor, and keep it
when the writer has gone.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import weakref
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

__all__ = ["Handle", "Memory", "Page"]

_HEAD_BYTES: Final = 24


class Handle(NamedTuple):
    """Where another process finds some memory.

    :param pid: of the process that made it.
    :param descriptor: that process's.
    :param inode: tells it from what may have the same descriptor later.
    """

    pid: int
    descriptor: int
    inode: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Memory:
    """Some bytes, all zero at first.

    Pages take room once they are written; of what is shared, also once they are read.

    :param handle: None where no other process can open it.
    """

    view: memoryview
    handle: Handle | None = None

    @classmethod
    def own(cls, size: int) -> Memory:
        """Make some for this process alone.

        :param size: bytes, above 0.
        """
        made = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # where each that is touched brings 2 MiB with it
            made.madvise(mmap.MADV_NOHUGEPAGE)
        return cls(memoryview(made))

    @classmethod
    def shared(cls, size: int) -> Memory:
        """Make some that others can open, for as long as this object lives; on Linux alone.

        :param size: bytes, above 0.
        """
        descriptor = os.memfd_create("tongxing")
        os.truncate(descriptor, size)
        handle = Handle(os.getpid(), descriptor, os.fstat(descriptor).st_ino)
        made = cls(memoryview(mmap.mmap(descriptor, size)), handle)
        weakref.finalize(made, os.close, descriptor)
        return made

    @classmethod
    def of(cls, handle: Handle, *, write: bool = False) -> Memory:
        """Open what another process made.

        :param write: whether it may be written, too.
        :raises OSError: it cannot be opened, or is not there any more.
        """
        mode, access = (os.O_RDWR, mmap.ACCESS_WRITE) if write else (os.O_RDONLY, mmap.ACCESS_READ)
        descriptor = os.open(f"/proc/{handle.pid}/fd/{handle.descriptor}", mode)
        try:
            if os.fstat(descriptor).st_ino != handle.inode:
                raise FileNotFoundError(errno.ENOENT, "it is another one by now")
            return cls(memoryview(mmap.mmap(descriptor, 0, access=access)), handle)
        finally:
            os.close(descriptor)

    @classmethod
    def found(cls, handle: Handle) -> Memory | None:
        """Open it to be read; None where that fails."""
        with suppress(OSError, ValueError):
            return cls.of(handle)
        return None


class Page:
    """A JSON object in shared memory: what is read is what was written at one time.

    :param memory: `SIZE` bytes.
    """

    SIZE: Final = 4096

    __slots__ = ("_data", "_head", "_seen")

    def __init__(self, memory: memoryview) -> None:
        # How often it was written, twice, and one more while it is being written; its length and
        # its CRC-32. By words: each is stored at once.
        self._head = memory[:_HEAD_BYTES].cast("Q")
        self._data = memory[_HEAD_BYTES:]
        self._seen = 0

    def write(self, value: dict[str, Any]) -> None:
        """Put another in its place.

        :raises ValueError: it is longer than the page.
        """
        data = json.dumps(value, separators=(",", ":")).encode()
        if len(data) > len(self._data):
            raise ValueError("longer than a page")
        head = self._head
        head[0] = number = head[0] | 1  # so too where who wrote it before was killed meanwhile
        head[1], head[2] = len(data), zlib.crc32(data)
        self._data[: len(data)] = data
        head[0] = number + 1

    def read(self) -> dict[str, Any] | None:
        """Give it, where it is another than at the last look, and whole."""
        head = self._head
        number = head[0]
        if number == self._seen or number & 1:
            return None
        size, checksum = head[1], head[2]
        data = bytes(self._data[:size])
        if head[0] != number or zlib.crc32(data) != checksum:
            return None
        self._seen = number
        value: dict[str, Any] = json.loads(data)
        return value
