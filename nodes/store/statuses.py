"""Which places of status lists are revoked, of the own province and of its peers (design.md §8).

``b:{PROVINCE}:LIST``
    a bitmap of 2^18 places at most, in the bit order of Token Status Lists (least significant
    first), which is not the server's: place i is its bit ``i ^ 7``. Bits are set, never cleared;
    the whole is forgotten when the last attestation that it revokes has ended.
``l:{PROVINCE}``
    a set: the lists of which anything is revoked.
``{c}n``
    how many lists this province has opened: where the store's id is, and lost with it alone.
``{c}ns``
    a hash: for each kind the list that it fills, and the next of that one's slices.

List numbers begin at a place that the store's id gives. A store that lost its disk opens other
lists than those in which peers and gates remember revoked places.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from typing import TYPE_CHECKING, Any, Final

from exchange.attestations import LIFE
from exchange.errors import InvalidFieldError
from exchange.statuslist import LIST_SIZE, LISTS_OF_PROVINCE
from nodes.store.changes import IDENTITY, identify, store_id
from nodes.store.writer import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from exchange.facts import Kind
    from nodes.store.connection import Command
    from nodes.store.keyspace import Keyspace
    from nodes.store.writer import BatchWriter

__all__ = ["LIST_BYTES", "StatusStore", "longest", "mark"]

LIST_BYTES: Final = LIST_SIZE // 8
LISTS_AT_ONCE: Final = 16
AT_ONCE: Final = 500
OPENED: Final = b"{c}n"

SLICED: Final = b"{c}ns"
SLICES: Final = 16
"""In which a list is given out: were each process at each start given a whole one, a province of
many processes would soon have more lists than its peers keep (`LISTS_OF_PROVINCE`)."""

TAKE: Final = (
    b"""\
local at = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if at %% %d == 0 then return false end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
return at
"""
    % SLICES
)
"""The next slice of a kind's list: the list, times the slices in one, and its number; false at the
list's end."""

_KEEP: Final = b"""\
redis.call('SADD', KEYS[2], ARGV[2])
if kept < tonumber(ARGV[1]) then kept = ARGV[1] end
redis.call('EXPIREAT', KEYS[1], kept)
return 1
"""

MARK: Final = (
    b"""\
local kept = redis.call('EXPIRETIME', KEYS[1])
for i = 3, #ARGV do redis.call('SETBIT', KEYS[1], ARGV[i], 1) end
"""
    + _KEEP
)

MERGE: Final = (
    b"""\
local kept = redis.call('EXPIRETIME', KEYS[1])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('BITOP', 'OR', KEYS[1], KEYS[1], KEYS[3])
redis.call('DEL', KEYS[3])
"""
    + _KEEP
)


def mark(province: str, places: Iterable[tuple[int, int]], until: int) -> list[Command]:
    """Make the commands that set places as revoked: one for each list.

    :param places: list numbers and indices.
    :param until: Unix seconds: the latest end of what they revoke.
    :raises InvalidFieldError: a list or an index that cannot be.
    """
    lists: dict[int, list[bytes]] = {}
    for number, index in places:
        if not 0 <= index < LIST_SIZE:
            raise InvalidFieldError("no index of a status list", field="place.index")
        lists.setdefault(number, []).append(b"%d" % (index ^ 7))
    return [
        _command(MARK, (_bits_key(province, number), _lists_key(province)), until, number, offsets)
        for number, offsets in lists.items()
    ]


def _merge(province: str, revoked: Mapping[int, bytes], until: int) -> list[Command]:
    """Make the commands that add whole bitmaps to those at hand: one for each list.

    :param revoked: for a list's number its bits, least significant first.
    :param until: Unix seconds: the latest end of what they revoke.
    :raises InvalidFieldError: a list that cannot be, or is too long.
    """
    spare = b"b:{%b}" % province.encode()
    for bits in revoked.values():
        if len(bits) > LIST_BYTES:
            raise InvalidFieldError("longer than a status list", field="revoked.bits")
    return [
        _command(
            MERGE, (_bits_key(province, number), _lists_key(province), spare), until, number, [bits]
        )
        for number, bits in revoked.items()
    ]


def _listed(province: str) -> Command:
    """Make the command that gives the numbers of the lists of which anything is revoked."""
    return (b"SMEMBERS", _lists_key(province))


def _drop(province: str, numbers: Sequence[int]) -> list[Command]:
    """Make the commands that forget some lists.

    :param numbers: some hundreds at most.
    """
    if not numbers:
        return []
    keys = [_bits_key(province, number) for number in numbers]
    return [(b"UNLINK", *keys), (b"SREM", _lists_key(province), *(b"%d" % n for n in numbers))]


def longest() -> int:
    """Give the Unix second by which everything has ended that is in force now."""
    return int(time.time() + max(LIFE.values()).total_seconds()) + 86_400


class StatusStore:
    """The status lists.

    :param province: the own one's GB/T 2260 code.
    :param reads: the connection that `nodes.store.attestations` reads from.
    :param writes: its writer.
    """

    def __init__(self, province: str, reads: Keyspace, writes: BatchWriter) -> None:
        self._province = province
        self._reads = reads
        self._writes = writes
        self._places: dict[Kind, _Places] = {}
        self._opening = asyncio.Lock()

    async def place(self, kind: Kind) -> tuple[int, int]:
        """Give a place that nobody was given before: a list's number and an index.

        Each kind has a list of its own, and each process a slice of it, from which it draws at
        random (Token Status List, §12.5: herd privacy): no write is needed but once in 2^14 times.

        :raises StoreUnavailableError: no list could be opened.
        """
        while not (places := self._places.get(kind)):
            async with self._opening:
                if not self._places.get(kind):
                    self._places[kind] = await self._open(kind)
        return places.draw()

    async def bits(self, province: str, number: int) -> bytes | None:
        """Give a list's bits, least significant first: 32 KiB.

        :return: None where the own province never opened the list, or nothing is known of a peer's.
        """
        stored, known, opened = await self._reads.ask(
            [(b"GET", _bits_key(province, number)), (b"GET", IDENTITY), (b"GET", OPENED)]
        )
        if stored is not None:
            return bytes(_padded(stored))
        if province != self._province or known is None or opened is None:
            return None
        return bytes(LIST_BYTES) if 0 < number - _origin(known) <= int(opened) else None

    async def revoked(self, places: Sequence[tuple[int, int]]) -> list[bool]:
        """Whether each of some places (list, index) of the own province's lists is revoked."""
        asked = [
            (b"GETBIT", _bits_key(self._province, number), b"%d" % (index ^ 7))
            for number, index in places
        ]
        return [bool(bit) for bit in await self._reads.ask(asked)]

    async def load(self, province: str) -> dict[int, bytearray]:
        """Give the bits of every list of a province in which anything is revoked, 32 KiB each."""
        return {number: bits async for number, bits in self.each(province)}

    async def mark(self, province: str, places: Iterable[tuple[int, int]]) -> None:
        """Set places of a peer's lists as revoked: list numbers and indices.

        :raises InvalidFieldError: a list or an index that cannot be; nothing is changed.
        """
        await self._in_turn(mark(province, places, longest()), AT_ONCE)

    async def merge(
        self, province: str, revoked: Mapping[int, bytes], *, only: bool = False
    ) -> None:
        """Add what a peer's whole state says is revoked.

        Other lists stay, of which another node may have heard since; but are forgotten where there
        would be too many.

        :param revoked: for a list's number its bits, least significant first.
        :param only: forget them in any case: the peer named too many before.
        :raises InvalidFieldError: a list that cannot be, or is too long; nothing is changed.
        """
        commands = _merge(province, revoked, longest())
        lists = {int(each) for each in await self._reads.execute(*_listed(province))}
        too_many = only or len(lists | revoked.keys()) > LISTS_OF_PROVINCE
        others = sorted(lists - revoked.keys()) if too_many else []
        for at in range(0, len(others), AT_ONCE):
            await self._reads.ask(_drop(province, others[at : at + AT_ONCE]))
        await self._in_turn(commands, 1)  # 32 KiB each

    async def _in_turn(self, commands: Sequence[Command], at_once: int) -> None:
        for at in range(0, len(commands), at_once):
            await self._reads.ask(commands[at : at + at_once])

    async def each(self, province: str) -> AsyncIterator[tuple[int, bytearray]]:
        """Go through what `load` gives, some lists at a time."""
        key = _lists_key(province)
        numbers = sorted(int(each) for each in await self._reads.execute(*_listed(province)))
        for at in range(0, len(numbers), LISTS_AT_ONCE):
            some = numbers[at : at + LISTS_AT_ONCE]
            stored = await self._reads.ask([(b"GET", _bits_key(province, each)) for each in some])
            found = list(zip(some, stored, strict=True))
            if ended := [b"%d" % number for number, bits in found if bits is None]:
                await self._reads.execute(b"SREM", key, *ended)
            for number, bits in found:
                if bits is not None:
                    yield number, _padded(bits)

    async def _open(self, kind: Kind) -> _Places:
        identity = identify()
        field = kind.name.encode()
        taken: int | None = None

        def take(reply: Any) -> Change:
            nonlocal taken
            taken = reply
            return Change((identity,) if taken else ((b"INCR", OPENED), identity))

        reply = await self._writes.submit((b"EVAL", TAKE, b"1", SLICED, field), take)
        if taken is None:
            # Two that open lists at once leave the rest of one to nobody.
            taken = int(reply) * SLICES
            rest = (b"HSET", SLICED, field, b"%d" % (taken + 1))
            reply = await self._writes.submit(identity, lambda _: Change((identity, rest)))
        opened, slice_ = divmod(taken, SLICES)
        return _Places(_origin(store_id(identity, reply)) + opened, slice_)


class _Places:
    """The places of one list's slice that nobody was given yet."""

    __slots__ = ("_left", "_number")

    def __init__(self, number: int, slice_: int) -> None:
        self._number = number
        self._left = array("I", range(slice_, LIST_SIZE, SLICES))

    def __len__(self) -> int:
        return len(self._left)

    def draw(self) -> tuple[int, int]:
        left = self._left
        at = secrets.randbelow(len(left))
        left[at], left[-1] = left[-1], left[at]
        return self._number, left.pop()


def _command(
    script: bytes, keys: Sequence[bytes], until: int, number: int, rest: Sequence[bytes]
) -> Command:
    if not 0 <= number < 1 << 32:
        raise InvalidFieldError("no number of a status list", field="place.list")
    return (b"EVAL", script, b"%d" % len(keys), *keys, b"%d" % until, b"%d" % number, *rest)


def _origin(known: bytes) -> int:
    """31 bits: what the lists of a store are counted from."""
    return int.from_bytes(known[:4], "big") >> 1


def _bits_key(province: str, number: int) -> bytes:
    return b"b:{%b}:%d" % (province.encode(), number)


def _lists_key(province: str) -> bytes:
    return b"l:{%b}" % province.encode()


def _padded(stored: bytes) -> bytearray:
    bits = bytearray(stored)
    bits.extend(bytes(LIST_BYTES - len(bits)))
    return bits
