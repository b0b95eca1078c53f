"""Memory that one process writes and others of the same node look at.

It has no name in any file system: others open it through the writer's descriptor, and keep it
when the writer has gone.
"""

from __future__ import annotations

import json
import mmap
import os
import weakref
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

__all__ = ["Handle", "Memory", "Page"]

_head: Final = Struct("<QI")


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
    """Some bytes, all zero at first. Pages that nobody touched take no room.

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
    def of(cls, handle: Handle, *, write: bool = False) -> Memory | None:
        """Open what another process made; None where it is not there any more.

        :param write: whether it may be written, too.
        """
        mode, access = (os.O_RDWR, mmap.ACCESS_WRITE) if write else (os.O_RDONLY, mmap.ACCESS_READ)
        with suppress(OSError):
            descriptor = os.open(f"/proc/{handle.pid}/fd/{handle.descriptor}", mode)
            try:
                status = os.fstat(descriptor)
                if status.st_ino == handle.inode:
                    return cls(memoryview(mmap.mmap(descriptor, 0, access=access)), handle)
            finally:
                os.close(descriptor)
        return None


class Page:
    """A JSON object in shared memory: what is read is what was written at one time.

    :param memory: `SIZE` bytes.
    """

    SIZE: Final = 4096

    __slots__ = ("_memory", "_seen")

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._seen = 0

    def write(self, value: dict[str, Any]) -> None:
        """Put another in its place.

        :raises ValueError: it is longer than the page.
        """
        data = json.dumps(value, separators=(",", ":")).encode()
        if len(data) > len(self._memory) - _head.size:
            raise ValueError("longer than a page")
        memory, (number, _) = self._memory, _head.unpack_from(self._memory)
        number |= 1  # odd: being written; so too where who wrote it before was killed meanwhile
        _head.pack_into(memory, 0, number, len(data))
        memory[_head.size : _head.size + len(data)] = data
        _head.pack_into(memory, 0, number + 1, len(data))

    def read(self) -> dict[str, Any] | None:
        """Give it, where it is another than at the last look, and whole."""
        number, size = _head.unpack_from(self._memory)
        if number == self._seen or number & 1:
            return None
        data = bytes(self._memory[_head.size : _head.size + size])
        if _head.unpack_from(self._memory)[0] != number:
            return None
        self._seen = number
        value: dict[str, Any] = json.loads(data)
        return value
