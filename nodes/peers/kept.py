"""What a node keeps in memory of each peer, beside its presence filter: bounded.

It lies in plain bytes, which one process writes and others may look at (`nodes.peers.memory`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from struct import Struct, unpack_from
from typing import Final

from exchange.errors import MalformedObjectError
from exchange.presence import SUBJECT_BYTES
from exchange.statuslist import LIST_SIZE, LISTS_OF_PROVINCE
from nodes.peers.memory import Memory, Page

__all__ = [
    "MARK_BYTES",
    "MOST_LISTS",
    "PeerMemory",
    "RecentChanges",
    "RevokedPlaces",
    "TooManyListsError",
]

MARK_BYTES: Final = 16
MOST_LISTS: Final = LISTS_OF_PROVINCE

_SLOTS: Final = 1 << 20
_SLOT: Final = _SLOTS - 1
_mark: Final = Struct("<QQ")

_LIST_BYTES: Final = LIST_SIZE // 8
_DIRECTORY_BYTES: Final = (2 + 2 * MOST_LISTS) * 8
_USED: Final = 2 + MOST_LISTS
_NO_LIST: Final = (1 << 64) - 1


class TooManyListsError(MalformedObjectError):
    """Places are of one status list more than a province can have."""


class RecentChanges:
    """Tells whether a subject changed since some moment: never wrongly no.

    Each subject has one of 2^20 slots, which holds the number of the last message that named a
    subject of that slot. So 8 MiB are enough, and nothing is forgotten: a wrong yes needs that
    another subject of the slot was named since.

    :param memory: `SIZE` bytes, zero at first.
    """

    SIZE: Final = (2 + _SLOTS) * 8

    __slots__ = ("_words",)

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")  # a number for each beginning, the last message's, the slots

    def mark(self) -> bytes:
        """Give this moment, by which `unchanged` is asked later: 16 bytes.

        Of two words that another process writes, each may be the older one: a mark from before
        says "changed" too often.
        """
        words = self._words
        return _mark.pack(words[0], words[1])

    def unchanged(self, subject: bytes, mark: bytes) -> bool:
        """Whether a subject was surely not named since a mark; False also where nobody listened.

        :param subject: the fingerprint, 8 bytes.
        :param mark: 16 bytes.
        """
        begun: int
        last: int
        begun, last = _mark.unpack(mark)
        words = self._words
        named = words[2 + (int.from_bytes(subject[:4], "little") & _SLOT)]
        return begun != 0 and named <= last and words[0] == begun

    def begin(self) -> None:
        """Begin anew: what changed until now, nobody knows."""
        self._words[0] = secrets.randbits(63) + 1

    def next(self) -> None:
        """Begin another message."""
        self._words[1] += 1

    def note(self, packed: bytes) -> None:
        """Note subjects of the message.

        :param packed: 8 bytes each, one after another.
        """
        words = self._words
        last = words[1]
        for x in unpack_from(f"<{len(packed) // SUBJECT_BYTES}Q", packed):
            words[2 + (x & _SLOT)] = last


class RevokedPlaces:
    """The revoked places (撤销) of a province's status lists. What is set once stays set.

    :param memory: `SIZE` bytes, zero at first, of which those that are used take room.
    """

    SIZE: Final = _DIRECTORY_BYTES + MOST_LISTS * _LIST_BYTES

    __slots__ = ("_bits", "_known", "_places", "_words")

    def __init__(self, memory: memoryview) -> None:
        # How often the lists changed, how many rooms are taken, the list in each of them, and how
        # many of its bytes are used: no more are looked through, or room would be taken for them.
        self._words = memory[:_DIRECTORY_BYTES].cast("Q")
        self._bits = memory[_DIRECTORY_BYTES : self.SIZE]
        self._known = 0
        self._places: dict[int, int] = {}

    def __contains__(self, place: tuple[int, int]) -> bool:
        number, index = place
        start, at = self._starts().get(number), index >> 3
        return (
            start is not None
            and at < self._used(start)
            and self._bits[start + at] >> (index & 7) & 1 > 0
        )

    def add(self, number: int, index: int) -> None:
        """Set one.

        :param index: 0 to 2^18 - 1.
        :raises TooManyListsError: it is of one list too many.
        """
        at = index >> 3
        self._bits[self._start(number, at + 1) + at] |= 1 << (index & 7)

    def merge(self, number: int, bits: bytes | bytearray) -> None:
        """Set all that are set in a list's bits.

        :param bits: least significant first, up to 32 KiB.
        :raises MalformedObjectError: they are too many.
        :raises TooManyListsError: they are of one list too many.
        """
        if len(bits) > _LIST_BYTES:
            raise MalformedObjectError("longer than a status list", field="revoked.bits")
        start = self._start(number, len(bits))
        known = self._bits[start : start + len(bits)]
        both = int.from_bytes(known, "little") | int.from_bytes(bits, "little")
        known[:] = both.to_bytes(len(bits), "little")

    def take(self, whole: RevokedPlaces) -> bool:
        """Set all of a province's whole state.

        Where there would be too many lists, those are forgotten of which it says nothing: they have
        ended, or were never there.

        :return: whether any was forgotten.
        """
        known, named = self._starts().keys(), whole._starts().keys()
        too_many = len(known | named) > MOST_LISTS
        if too_many:
            for number in known - named:
                self._forget(number)
        for number, bits in whole.lists().items():
            self.merge(number, bits)
        return too_many

    def lists(self) -> Mapping[int, bytes]:
        """Give a copy of the bits of each list, up to the last that is set, by its number."""
        return {
            number: bytes(self._bits[start : start + self._used(start)]).rstrip(b"\0")
            for number, start in self._starts().items()
        }

    def _starts(self) -> dict[int, int]:
        """Where each list's bits begin; another process may have changed it."""
        words = self._words
        if words[0] != self._known:
            self._known = words[0]
            rooms = words[2 : 2 + words[1]].tolist()
            self._places = {
                number: room * _LIST_BYTES
                for room, number in enumerate(rooms)
                if number != _NO_LIST
            }
        return self._places

    def _used(self, start: int) -> int:
        used: int = self._words[_USED + start // _LIST_BYTES]
        return used

    def _start(self, number: int, used: int) -> int:
        """Where a list's bits begin; it is given a room where it has none.

        :param used: how many of its bytes will be, at least.
        """
        places, words = self._starts(), self._words
        start = places.get(number)
        if start is None:
            if len(places) >= MOST_LISTS:
                raise TooManyListsError("of too many status lists", field="revoked.list")
            taken = words[1]
            room = taken
            if len(places) < taken:
                room = words[2 : 2 + taken].tolist().index(_NO_LIST)
            words[2 + room], words[1] = number, max(taken, room + 1)
            start = places[number] = room * _LIST_BYTES
            self._known = words[0] = words[0] + 1
        room = _USED + start // _LIST_BYTES
        words[room] = max(words[room], used)
        return start

    def _forget(self, number: int) -> None:
        start = self._starts().pop(number)
        words = self._words
        words[2 + start // _LIST_BYTES] = _NO_LIST
        self._known = words[0] = words[0] + 1
        used = self._used(start)
        self._bits[start : start + used] = bytes(used)


class PeerMemory:
    """All of one peer in one piece, with a page to say how it stands.

    :param memory: `SIZE` bytes, zero at first.
    """

    SIZE: Final = Page.SIZE + RecentChanges.SIZE + RevokedPlaces.SIZE

    __slots__ = ("memory", "page", "recent", "revoked")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        recent = Page.SIZE
        revoked = recent + RecentChanges.SIZE
        self.page = Page(memory.view[:recent])
        self.recent = RecentChanges(memory.view[recent:revoked])
        self.revoked = RevokedPlaces(memory.view[revoked:])
