"""What a peer sends of its presence and its changes, read with suspicion.

A peer may send anything, at any pace and without end. What is kept of it grows only with what has
really arrived, has its bounds, and is looked at in small steps, between which others have their
turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from exchange.errors import MalformedObjectError
from exchange.presence import SUBJECT_BYTES, PresenceFilter
from exchange.statuslist import LIST_SIZE
from exchange.v1 import peer_service_pb2 as pb

__all__ = [
    "PRESENCE_SECONDS",
    "Header",
    "Heard",
    "SilentError",
    "next_of",
    "read_changes",
    "read_filter",
    "read_header",
    "store_of",
]

S = TypeVar("S", bytes, tuple[tuple[int, int], ...])
T = TypeVar("T")

AT_ONCE: Final = 500
"""Subjects that are seen to before others have their turn: about a millisecond."""

PRESENCE_SECONDS: Final = 600.0
"""That the whole state may take: 2 MiB a second for the largest."""

FIRST_SECONDS: Final = 60.0
"""How long a peer may need until it has a filter to give."""

_ID_BYTES: Final = 16
_STORE_ID_BYTES: Final = 16
_CURSOR_BYTES: Final = 32
_LARGEST_FILTER: Final = 1 << 30
_SMALLEST_CHUNK: Final = 4096
"""But for the filter's last one: a message costs more than the bytes in it."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 60.0
_USUAL: Final = 5.0
"""Seconds between heartbeats: who announces others is taken to mean the nearest of these."""

_TIMES: Final = range(1 << 37)
"""Unix seconds that a datetime can hold."""


class SilentError(Exception):
    """A peer says nothing more, or what amounts to nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message of WatchChanges says.

    :param cursor: where to continue after it.
    :param subjects: fingerprints of all whom it concerns, 8 bytes each, one after another.
    :param places: what was revoked: list numbers and indices.
    :param generation: of the peer's presence filter.
    :param said_at: up to when nothing is missing after it, by the peer's clock; None: more follows,
        or it shows no time that can be.
    """

    cursor: bytes
    subjects: bytes = field(repr=False)
    places: tuple[tuple[int, int], ...] = field(repr=False)
    generation: int
    said_at: datetime | None

    def steps(self) -> list[tuple[bytes, tuple[tuple[int, int], ...]]]:
        """Cut it, subjects and places, into what is seen to before others have their turn."""
        pieces = zip_longest(
            _cut(self.subjects, AT_ONCE * SUBJECT_BYTES), _cut(self.places, AT_ONCE)
        )
        return [(subjects or b"", places or ()) for subjects, places in pieces]


@dataclass(frozen=True, slots=True)
class Header:
    """What GetPresence says first.

    :param cursor: from where the changes continue.
    :param size: of the filter, in bytes.
    :param subjects: that are in it, about.
    :param heartbeat: seconds after which the peer speaks at least.
    """

    cursor: bytes
    generation: int
    size: int
    hashes: int
    subjects: int
    heartbeat: float


def store_of(cursor: bytes) -> bytes:
    """Give the part of a cursor that names the store; the rest grows with its changes."""
    return cursor[:_STORE_ID_BYTES]


async def next_of(messages: AsyncIterator[T], patience: float) -> T | None:
    """Give the next message; None where there is none.

    :param patience: seconds until silence is a fault.
    :raises SilentError: it was silent for so long.
    """
    try:
        async with asyncio.timeout(patience):
            return await anext(messages, None)
    except TimeoutError:
        raise SilentError(f"it said nothing for {patience:g} s") from None


async def read_changes(message: pb.WatchChangesResponse) -> Heard:
    """Read a message of WatchChanges.

    :raises MalformedObjectError: it is not what the contract says.
    """
    subjects = [message.subjects]
    if len(message.subjects) % SUBJECT_BYTES:
        raise _malformed("subjects")
    places: list[tuple[int, int]] = []
    for at, revocation in enumerate(message.revocations, 1):
        if len(revocation.attestation_id) != _ID_BYTES:
            raise _malformed("revocations.attestation_id")
        if len(revocation.subject) != SUBJECT_BYTES:
            raise _malformed("revocations.subject")
        subjects.append(revocation.subject)
        if revocation.HasField("place"):
            place = revocation.place
            if place.index >= LIST_SIZE:
                raise _malformed("revocations.place.index")
            places.append((place.list, place.index))
        if not at % AT_ONCE:
            await asyncio.sleep(0)
    return Heard(
        cursor=_cursor(message.cursor),
        subjects=b"".join(subjects),
        places=tuple(places),
        generation=message.presence_generation,
        said_at=_time(message.as_of_time) if message.HasField("as_of_time") else None,
    )


async def read_header(parts: AsyncIterator[pb.GetPresenceResponse]) -> Header:
    """Read what GetPresence says first.

    :raises MalformedObjectError: it is not what the contract says.
    :raises SilentError: nothing came in a minute.
    """
    first = await next_of(parts, FIRST_SECONDS)
    if first is None or first.WhichOneof("part") != "header":
        raise _malformed("header")
    header = first.header
    if header.size % 8 or header.size > _LARGEST_FILTER:
        raise _malformed("header.size")
    return Header(
        cursor=_cursor(header.cursor),
        generation=header.generation,
        size=header.size,
        hashes=header.hashes,
        subjects=min(header.subjects, header.size * 8),  # no filter holds more
        heartbeat=_heartbeat(header.heartbeat),
    )


async def read_filter(
    header: Header,
    parts: AsyncIterator[pb.GetPresenceResponse],
    bits: memoryview,
    merge: Callable[[int, bytes], None],
    patience: float,
) -> PresenceFilter:
    """Read what GetPresence says after its header.

    :param bits: takes the filter's: as many bytes as the header says, or where it says none
        `exchange.presence.LEAST_BYTES`, zero at first.
    :param merge: is given each status list's number and its revoked places, as they come.
    :param patience: seconds of silence between two messages.
    :raises MalformedObjectError: it is not what the contract says, or too much of it.
    :raises SilentError: it says nothing more, and is not at its end.
    """
    filled = 0
    lists: set[int] = set()
    while (part := await next_of(parts, patience)) is not None:
        kind = part.WhichOneof("part")
        if kind == "bits":
            left, size = header.size - filled, len(part.bits)
            if not left or not min(left, _SMALLEST_CHUNK) <= size <= left:
                raise _malformed("bits")
            bits[filled : filled + size] = part.bits
            filled += size
        elif kind == "revoked":
            if part.revoked.list in lists:
                raise _malformed("revoked.list")
            lists.add(part.revoked.list)
            merge(part.revoked.list, part.revoked.bits)
        else:
            raise _malformed("part")
        await asyncio.sleep(0)
    if filled != header.size:
        raise _malformed("bits")
    return PresenceFilter.from_bits(bits, header.hashes, header.subjects)


def _cursor(cursor: bytes) -> bytes:
    if len(cursor) != _CURSOR_BYTES:
        raise _malformed("cursor")
    return cursor


def _heartbeat(said: Duration) -> float:
    seconds = said.seconds + said.nanos / 1e9
    return min(max(seconds, _SHORTEST), _LONGEST) if seconds else _USUAL


def _time(said: Timestamp) -> datetime | None:
    if said.seconds not in _TIMES:
        return None
    return datetime.fromtimestamp(said.seconds, UTC) + timedelta(microseconds=said.nanos // 1000)


def _cut(whole: S, step: int) -> Iterator[S]:
    return (whole[at : at + step] for at in range(0, len(whole), step))


def _malformed(field: str) -> MalformedObjectError:
    return MalformedObjectError("it sends what the contract does not allow", field=field)
