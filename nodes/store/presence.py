"""The presence filter of a store, built from the subjects that it holds.

A small store's is built where the node runs. A large one's takes seconds of CPU time, which the
node has not: ``python -m nodes.store.presence`` builds it, with a connection of its own, 12 bytes
of memory a subject at most, and the least priority. The store's address, which may hold a
password, comes by its standard input, and where that closes (the node died) it ends.

``g``
    the number of the newest filter that any process on the store has built, by which peers know
    that there is a better one than theirs.
"""

from __future__ import annotations

import asyncio
import io
import os
import struct
import sys
import threading
from typing import TYPE_CHECKING, Final, Protocol

from exchange.errors import StoreUnavailableError, TongxingError
from exchange.presence import SUBJECT_BYTES, PresenceFilter
from nodes.store.attestations import AttestationStore
from nodes.telemetry import configure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime, timedelta

    from nodes.store.keyspace import Keyspace

__all__ = ["Subjects", "build", "number"]

AT_HAND: Final = 20_000
"""Subjects that this process sees to itself: some hundredths of a second, in small steps."""

STEP: Final = 1_000
BUILD_SECONDS: Final = 1_800.0
GROWTH: Final = 1.25
"""Room for a quarter more, before another is built."""

CHUNK: Final = 1 << 18
HEADER: Final = struct.Struct(">QQ")
"""The length in bytes and the number of subjects; a length of 0: that many bytes of an error."""


NUMBER: Final = b"""\
local there, mine = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])
if there > mine and there >= tonumber(ARGV[3]) then return there end
local new = math.max(tonumber(ARGV[2]), there + 1, mine + 1)
redis.call('SET', KEYS[1], string.format('%.0f', new))
return new
"""


class Subjects(Protocol):
    """What holds subjects: an AttestationStore."""

    def scan_subjects(self) -> AsyncIterator[bytes]:
        """Give the fingerprints of all that are held, 8 bytes each, some at a time."""


async def build(store: Subjects, url: str, *, at_hand: int = AT_HAND) -> PresenceFilter:
    """Build the filter of all subjects of whom the store holds anything.

    Whoever is there throughout is in it. It has room for a quarter more.

    :param store: read by this process, until it proves large.
    :param url: the same store's, for the process that reads a large one.
    :param at_hand: more subjects make it a large one.
    :raises StoreUnavailableError: the store does not answer, or the build took too long.
    """
    packed = await _collect(store, at_hand)
    if packed is None:
        return await _build_apart(url)
    made = _sized(packed)
    for at in range(0, len(packed), STEP * SUBJECT_BYTES):
        made.add_all(packed[at : at + STEP * SUBJECT_BYTES])
        await asyncio.sleep(0)
    return made


async def number(connection: Keyspace, before: int, now: datetime, lasts: timedelta) -> int:
    """Number a filter that was built just now: as others on the store, where theirs are as good.

    Any filter misses nobody; a newer one only has fewer in it who have left. So a peer that comes
    to another process, or to one that has started anew, need not fetch all again.

    :param before: of the process's last one; 0 for none.
    :param now: the time, which the numbers follow (microseconds): they also grow where the store
        came back from an older copy.
    :param lasts: how long a filter is good.
    :raises StoreUnavailableError: no answer.
    """
    time, oldest = (int(each.timestamp() * 1_000_000) for each in (now, now - lasts))
    given = [b"%d" % each for each in (before, time, oldest)]
    return int(await connection.execute(b"EVAL", NUMBER, b"1", b"g", *given))


async def _collect(store: Subjects, most: int) -> bytearray | None:
    """Give the fingerprints of a store, 8 bytes each; None where there are more than ``most``."""
    packed = bytearray()
    async for some in store.scan_subjects():
        packed += some
        if len(packed) > most * SUBJECT_BYTES:
            return None
    return packed


def _sized(packed: bytearray) -> PresenceFilter:
    return PresenceFilter.sized(int(len(packed) // SUBJECT_BYTES * GROWTH))


async def _build_apart(url: str) -> PresenceFilter:
    given, giving = os.pipe()  # room enough for an address, which need not be waited for
    try:
        os.write(giving, url.encode() + b"\n")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nodes.store.presence"),
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            limit=CHUNK,
        )
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                return await _received(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    except (EOFError, OSError) as error:  # TimeoutError is one
        why = "took too long" if isinstance(error, TimeoutError) else "ended early"
        raise StoreUnavailableError(
            f"the process that builds the presence filter {why}",
            remedy="see whether the machine lacks memory or the store is slow",
        ) from error
    finally:
        os.close(given)
        os.close(giving)


async def _received(process: asyncio.subprocess.Process) -> PresenceFilter:
    taken = process.stdout
    if taken is None:
        raise RuntimeError("it was started with a pipe")
    size, count = HEADER.unpack(await taken.readexactly(HEADER.size))
    if not size:
        raise StoreUnavailableError((await taken.readexactly(count)).decode())
    bits = bytearray(size)
    at = 0
    while at < size:
        if not (chunk := await taken.read(CHUNK)):
            raise EOFError
        bits[at : at + len(chunk)] = chunk
        at += len(chunk)
    return PresenceFilter.from_bits(bits, count=count)


# --- the process that builds a large one ---------------------------------------------------------


def _main() -> None:
    given, taken = io.FileIO(0, closefd=False), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not pass for a filter
    os.nice(19)
    configure("warning", "json")
    url = given.readline().decode().rstrip("\n")
    threading.Thread(target=_end_with_parent, args=(given,), daemon=True).start()
    with taken:
        try:
            made = asyncio.run(_build_here(url))
        except TongxingError as error:
            said = str(error).encode()
            taken.write(HEADER.pack(0, len(said)) + said)
        else:
            taken.write(HEADER.pack(len(made.bits), made.count))
            taken.write(made.bits)


def _end_with_parent(given: io.FileIO) -> None:
    given.read(1)
    os._exit(1)


async def _build_here(url: str) -> PresenceFilter:
    store = await AttestationStore.open(url)
    try:
        packed = bytearray()
        async for some in store.scan_subjects():
            packed += some
    finally:
        await store.close()
    made = _sized(packed)
    made.add_all(packed)
    return made


if __name__ == "__main__":
    _main()
