"""What a node keeps in memory of each peer, beside its presence filter: little, and bounded."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from struct import unpack_from
from typing import Final

from exchange.errors import MalformedObjectError
from exchange.presence import SUBJECT_BYTES
from exchange.statuslist import LIST_SIZE, LISTS_OF_PROVINCE

__all__ = ["MOST_LISTS", "RecentChanges", "RevokedPlaces", "TooManyListsError"]

MOST_LISTS: Final = LISTS_OF_PROVINCE

_LIST_BYTES: Final = LIST_SIZE // 8
_SLOTS: Final = 1 << 10
_SLOT: Final = _SLOTS - 1


class TooManyListsError(MalformedObjectError):
    """Places are of one status list more than a province can have."""


class RecentChanges:
    """Tells whether a subject was among a peer's last changes: never wrongly no.

    Each subject has one of 1,024 slots, which holds the number of the last message that named a
    subject of that slot. So 8 KiB are enough, and nothing is forgotten: a wrong yes needs that
    another subject of the slot was named since the mark.
    """

    __slots__ = ("_floor", "_last", "_slots")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(_SLOTS * 8))
        self._last = 0
        self._floor = 1

    def mark(self) -> int:
        """Give the number of the last message."""
        return self._last

    def since(self, subject: bytes, mark: int) -> bool:
        """Whether a subject was perhaps named after a mark; True also where nobody listened.

        :param subject: the fingerprint, 8 bytes.
        """
        at = int.from_bytes(subject[:2], "little") & _SLOT
        return mark < self._floor or self._slots[at] > mark

    def begin(self) -> None:
        """Begin anew: what changed until now, nobody knows."""
        self._last += 1
        self._floor = self._last

    def next(self) -> None:
        """Begin another message."""
        self._last += 1

    def note(self, packed: bytes) -> None:
        """Note subjects of the message.

        :param packed: 8 bytes each, one after another.
        """
        slots, last = self._slots, self._last
        for x in unpack_from(f"<{len(packed) // SUBJECT_BYTES}Q", packed):
            slots[x & _SLOT] = last


class RevokedPlaces:
    """The revoked places (撤销) of a province's status lists. What is set once stays set."""

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        self._lists: dict[int, bytearray] = {}

    def __contains__(self, place: tuple[int, int]) -> bool:
        number, index = place
        bits = self._lists.get(number)
        return (
            bits is not None and index >> 3 < len(bits) and bits[index >> 3] >> (index & 7) & 1 > 0
        )

    def add(self, number: int, index: int) -> None:
        """Set one.

        :param index: 0 to 2^18 - 1.
        :raises TooManyListsError: it is of one list too many.
        """
        bits = self._list(number)
        if index >> 3 >= len(bits):
            bits.extend(bytes((index >> 3) + 1 - len(bits)))
        bits[index >> 3] |= 1 << (index & 7)

    def merge(self, number: int, bits: bytes | bytearray) -> None:
        """Set all that are set in a list's bits.

        :param bits: least significant first, up to 32 KiB.
        :raises MalformedObjectError: they are too many.
        :raises TooManyListsError: they are of one list too many.
        """
        if len(bits) > _LIST_BYTES:
            raise MalformedObjectError("longer than a status list", field="revoked.bits")
        known = self._list(number)
        both = int.from_bytes(known, "little") | int.from_bytes(bits, "little")
        known[:] = both.to_bytes(max(len(known), len(bits)), "little")

    def take(self, whole: RevokedPlaces) -> bool:
        """Set all of a province's whole state, which is this one's from then on.

        Where there would be too many lists, those are forgotten of which it says nothing: they have
        ended, or were never there.

        :return: whether any was forgotten.
        """
        too_many = len(self._lists.keys() | whole._lists.keys()) > MOST_LISTS
        if too_many:
            for number in self._lists.keys() - whole._lists.keys():
                del self._lists[number]
        for number, bits in whole._lists.items():
            if number in self._lists:
                self.merge(number, bits)
            else:
                self._lists[number] = bits
        return too_many

    def lists(self) -> Mapping[int, bytes]:
        """Give a copy of the bits of each list, by its number."""
        return {number: bytes(bits) for number, bits in self._lists.items()}

    def _list(self, number: int) -> bytearray:
        bits = self._lists.get(number)
        if bits is None:
            if len(self._lists) >= MOST_LISTS:
                raise TooManyListsError("of too many status lists", field="revoked.list")
            bits = self._lists[number] = bytearray()
        return bits
