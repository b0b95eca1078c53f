"""Presence filters (存在性过滤器): whom a province may hold anything of.

A Bloom filter of *fingerprints*, bytes 4 to 11 of a subject token: part of an HMAC, and so as good
as 64 random bits. It says "perhaps" of everybody in it, and at 16 bits a subject and six hashes of
0.1 % of all others. New subjects are added as they are heard of, on both sides alike; only those
who left make a new filter worth its while.

What both sides must agree on: x is the fingerprint read little-endian, m the filter's number of
bits. Its bits are at ``(x + i * (x >> 33 | 1)) mod m`` for i = 0 … hashes - 1 (double hashing,
Kirsch and Mitzenmacher 2006); bit p is in byte ``p // 8``, the least significant first.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Final

from exchange.errors import MalformedObjectError

__all__ = ["LEAST_BYTES", "SUBJECT_BYTES", "PresenceFilter", "subject_of"]

SUBJECT_BYTES: Final = 8

_BITS: Final = 16
"""A subject, where the filter is full: 0.09 % say yes wrongly, (1 - exp(-6 / 16)) ** 6."""

_SMALLEST: Final = 1024
"""Subjects: with fewer bits, double hashing would say yes more often."""

LEAST_BYTES: Final = _SMALLEST * _BITS // 8
"""Of a filter with nobody in it."""

_LARGEST_BYTES: Final = 1 << 30
_MOST_HASHES: Final = 16
_AT_ONCE: Final = 4096
"""Fingerprints read in one go: Python's integers take four times their room."""

_number = Struct("<Q").unpack


def subject_of(token: bytes) -> bytes:
    """Give the fingerprint of a subject token.

    :param token: 36 bytes.
    :return: 8 bytes.
    """
    return token[4:12]


class PresenceFilter:
    """Answers "no" or "perhaps"; never "no" of whom was added."""

    HASHES: Final = 6

    __slots__ = ("_capacity", "_count", "_hashes", "_size", "bits")

    bits: bytearray | memoryview
    """The filter itself, to be sent; its length never changes, its bits are only ever set."""

    def __init__(self, bits: bytearray | memoryview, hashes: int, count: int) -> None:
        self.bits = bits
        self._hashes = hashes
        self._size = len(bits) * 8
        self._capacity = self._size // _BITS
        self._count = count

    @classmethod
    def sized(cls, capacity: int) -> PresenceFilter:
        """Make an empty one.

        :param capacity: for how many subjects; it takes more, but then says yes more often.
        """
        words = -(-max(capacity, _SMALLEST) * _BITS // 64)
        return cls(bytearray(min(words * 8, _LARGEST_BYTES)), cls.HASHES, 0)

    @classmethod
    def from_bits(
        cls, bits: bytes | bytearray | memoryview, hashes: int = HASHES, count: int = 0
    ) -> PresenceFilter:
        """Take one that was sent. Bytes are copied; what can be written is taken as it is.

        :param bits: 0 to 2^30 bytes, a multiple of 8; none is a filter with nobody in it.
        :param hashes: 1 to 16.
        :param count: how many subjects it is said to hold.
        :raises MalformedObjectError: another shape.
        """
        if len(bits) % 8 or len(bits) > _LARGEST_BYTES:
            raise MalformedObjectError(
                "a presence filter has 0 to 2^30 bytes, a multiple of 8", field="header.size"
            )
        if not 1 <= hashes <= _MOST_HASHES:
            raise MalformedObjectError(
                f"a presence filter has 1 to {_MOST_HASHES} hashes", field="header.hashes"
            )
        if not bits:
            bits = cls.sized(0).bits
        return cls(bytearray(bits) if isinstance(bits, bytes) else bits, hashes, max(count, 0))

    @property
    def hashes(self) -> int:
        """How many bits a subject sets."""
        return self._hashes

    @property
    def count(self) -> int:
        """How many subjects were added, about: who seems to be in it already does not count."""
        return self._count

    @property
    def capacity(self) -> int:
        """For how many subjects it is made."""
        return self._capacity

    @property
    def full(self) -> bool:
        """Whether it is time for a larger one."""
        return self._count >= self._capacity

    def add(self, subject: bytes) -> None:
        """Add one fingerprint.

        :param subject: 8 bytes.
        """
        self.add_all(subject)

    def add_all(self, packed: bytes | bytearray | memoryview) -> None:
        """Add fingerprints, about a million a second.

        :param packed: 8 bytes each, one after another.
        :raises MalformedObjectError: not a multiple of 8; nothing is added then.
        """
        if len(packed) % SUBJECT_BYTES:
            raise MalformedObjectError("a subject's fingerprint has 8 bytes", field="subjects")
        bits, size, hashes = self.bits, self._size, range(self._hashes)
        fresh = 0
        for start in range(0, len(packed), _AT_ONCE * SUBJECT_BYTES):
            most = min(_AT_ONCE, (len(packed) - start) // SUBJECT_BYTES)
            for x in unpack_from(f"<{most}Q", packed, start):
                place, step, new = x % size, (x >> 33 | 1) % size, False
                for _ in hashes:
                    at, bit = place >> 3, 1 << (place & 7)
                    if not bits[at] & bit:
                        bits[at] |= bit
                        new = True
                    place = (place + step) % size
                fresh += new
        self._count += fresh

    def __contains__(self, subject: bytes) -> bool:
        (x,) = _number(subject)
        bits, size = self.bits, self._size
        place = x % size
        if not bits[place >> 3] >> (place & 7) & 1:  # seven of ten strangers end here
            return False
        step = (x >> 33 | 1) % size
        for _ in range(self._hashes - 1):
            place = (place + step) % size
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
        return True
