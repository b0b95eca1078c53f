"""The changes of a province's attestations, in the order in which they were stored.

``c``
    a stream: an entry for each batch of writes, put there after the batch's data. ``p``: the
    fingerprints of the subjects of whom something was published, 8 bytes each; ``r``: what was
    revoked, 32 bytes each (id 16, fingerprint 8, status list 4, index 4).
``{c}i``
    the store's id, 16 random bytes: a store that lost its disk is another one. The braces keep it
    with the stream, also in a cluster: neither is lost without the other.

A *cursor* is 32 bytes: the store's id, then the milliseconds and the number of an entry, which must
still be there. A store that comes back from an older copy writes other entries in the places of
those that it lost; only where the cursor's own entry stands, nothing before it was exchanged and
nothing after it was trimmed. The first entry of a store is an empty one: there is always a cursor.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import CursorExpiredError, StoreUnavailableError
from exchange.presence import SUBJECT_BYTES
from nodes.store.keyspace import Keyspace, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nodes.store.connection import Command

__all__ = [
    "CURSOR_BYTES",
    "Changes",
    "Entry",
    "Revoked",
    "identify",
    "journal",
    "note_published",
    "note_revoked",
    "store_id",
]

ID_BYTES: Final = 16
STORE_ID_BYTES: Final = 16
CURSOR_BYTES: Final = 32
REVOKED_BYTES: Final = ID_BYTES + SUBJECT_BYTES + 8
NO_PLACE: Final = b"\xff" * 8

KEPT: Final = b"20000"
"""Entries that the stream keeps, about. The store evicts nothing, and a full batch's notes are
16 KiB and more: this is some 330 MB at worst. It holds minutes of the heaviest load (a batch every
10 ms), days of a usual one; a peer that was away for longer fetches all anew, by itself."""

AT_ONCE: Final = 200
"""Entries that `Changes.tail` reads at once; each may hold the notes of a whole batch."""

BLOCK_MILLISECONDS: Final = 1000
"""How long a quiet tail waits before it says that nothing changed."""

MORE_SECONDS: Final = 2.0
"""How much longer than that the server may take to answer."""

STREAM: Final = b"c"
IDENTITY: Final = b"{c}i"
OLDEST: Final[Command] = (b"XRANGE", STREAM, b"-", b"+", b"COUNT", b"1")
NEWEST: Final[Command] = (b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1")


@dataclass(frozen=True, slots=True)
class Revoked:
    """One attestation that was revoked.

    :param id: 16 bytes.
    :param subject: the fingerprint of its subject, 8 bytes.
    :param place: its status list's number and its index there; None where it has none.
    """

    id: bytes
    subject: bytes
    place: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What one batch of writes changed.

    :param cursor: 32 bytes: where to continue after it.
    :param subjects: fingerprints of those of whom something was published or revoked, 8 bytes
        each, one after another.
    """

    cursor: bytes
    subjects: bytes
    revoked: tuple[Revoked, ...]


def note_published(subject: bytes) -> bytes:
    """Write down that something of a subject was published.

    :param subject: the fingerprint, 8 bytes.
    """
    return subject


def note_revoked(subject: bytes, id_: bytes, place: tuple[int, int] | None) -> bytes:
    """Write down a revocation: 32 bytes. Several of them, joined, are a note too.

    :param subject: the fingerprint, 8 bytes.
    :param id_: the attestation's, 16 bytes.
    :param place: its status list's number and its index there.
    """
    where = NO_PLACE if place is None else _number(place[0]) + _number(place[1])
    return id_ + subject + where


def journal(notes: Sequence[bytes]) -> Command:
    """Make the command that appends one entry with all notes of a batch."""
    once = dict.fromkeys(notes)
    published = b"".join(note for note in once if len(note) == SUBJECT_BYTES)
    revoked = b"".join(note for note in once if len(note) != SUBJECT_BYTES)
    return (*(b"XADD", STREAM, b"MAXLEN", b"~", KEPT, b"*"), b"p", published, b"r", revoked)


def identify() -> Command:
    """Make the command that gives the store an id where it has none, and gives what it had."""
    return (b"SET", IDENTITY, secrets.token_bytes(STORE_ID_BYTES), b"NX", b"GET")


def store_id(command: Command, reply: bytes | None) -> bytes:
    """Read the store's id from what `identify` made and what the server replied.

    :raises StoreUnavailableError: something else stands there.
    """
    found = command[2] if reply is None else reply
    if len(found) != STORE_ID_BYTES:
        raise _something_else()
    return found


class Changes:
    """Reads what changed. Every method raises StoreUnavailableError where there is no answer."""

    def __init__(self, url: str, keyspace: Keyspace) -> None:
        self._url = url
        self._keyspace = keyspace
        self._id = b""

    @classmethod
    async def open(cls, url: str) -> Changes:
        """Connect; a new store gets its id and its first, empty entry.

        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no connection; something else stands there.
        """
        keyspace = await connect(url)
        changes = cls(url, keyspace)
        try:
            await changes._begin()
        except BaseException:
            await keyspace.close()
            raise
        return changes

    async def close(self) -> None:
        """Disconnect; iterators of `tail` have connections of their own, and end by themselves."""
        await self._keyspace.close()

    @property
    def store_id(self) -> bytes:
        """16 bytes: which store it was when it was last asked."""
        return self._id

    async def end(self) -> bytes:
        """Give the cursor of the newest entry: what was acknowledged before is not after it."""
        for _ in range(2):
            known, newest = await self._keyspace.ask([(b"GET", IDENTITY), NEWEST])
            if known == self._id and newest:
                return self._id + _cut(newest[0][0])
            await self._begin()
        raise StoreUnavailableError("the store is being emptied")

    async def since(self, cursor: bytes, most: int = 1000) -> list[Entry]:
        """Give what changed after a cursor, oldest first; nothing where nothing did.

        :param cursor: 32 bytes.
        :param most: entries at once; where there are as many, ask again from the last one's cursor.
        :raises CursorExpiredError: it cannot be continued from there: its entry is no more, being
            of another store, or trimmed, or among the last ones, which the store lost.
        """
        if len(cursor) != CURSOR_BYTES:
            raise _expired("it is no cursor")
        place = cursor[STORE_ID_BYTES:]
        # From the cursor's own entry on, in one command: nothing is trimmed or lost within it.
        known, found, first = await self._keyspace.ask(
            [
                (b"GET", IDENTITY),
                (b"XRANGE", STREAM, _joined(place), b"+", b"COUNT", b"%d" % (most + 1)),
                OLDEST,
            ]
        )
        if known != self._id or not first:
            await self._begin()
        if known != cursor[:STORE_ID_BYTES]:
            raise _expired("it is of another store")
        _check_there(place, found, first)
        return [_entry(known, each) for each in found[1:]]

    async def tail(self, cursor: bytes) -> AsyncIterator[list[Entry]]:
        """Give what changes after a cursor, within milliseconds, for as long as one listens.

        :return: lists of entries, oldest first; an empty one every second in which nothing changes,
            which says that nothing is missing.
        :raises CursorExpiredError: as `since`; also later, where the listener was too slow.
        :raises StoreUnavailableError: the connection is lost: begin again from the last cursor.
        """
        entries = await self.since(cursor, AT_ONCE)
        keyspace = await connect(self._url, reply_seconds=BLOCK_MILLISECONDS / 1000 + MORE_SECONDS)
        try:
            while True:
                yield entries
                if entries:
                    cursor = entries[-1].cursor
                place = cursor[STORE_ID_BYTES:]
                after = _joined(place)
                read = (b"XREAD", b"COUNT", b"%d" % AT_ONCE, b"BLOCK", b"%d" % BLOCK_MILLISECONDS)
                # The cursor's own entry is read last: what is trimmed between is missed by none.
                # It is read every time: the server may have come back since, as may `keyspace`.
                found, known, first, there = await keyspace.ask(
                    [
                        (*read, b"STREAMS", STREAM, after),
                        (b"GET", IDENTITY),
                        OLDEST,
                        (b"XRANGE", STREAM, after, b"+", b"COUNT", b"1"),
                    ]
                )
                if known != cursor[:STORE_ID_BYTES]:
                    raise _expired("it is of another store")
                _check_there(place, there, first)
                entries = [_entry(known, each) for each in found[0][1]] if found else []
        finally:
            await keyspace.close()

    async def _begin(self) -> None:
        identity = identify()
        reply, there = await self._keyspace.ask([identity, (b"EXISTS", STREAM)])
        self._id = store_id(identity, reply)
        if not there:
            await self._keyspace.ask([journal(())])


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _cut(entry_id: bytes) -> bytes:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds).to_bytes(8, "big") + int(number).to_bytes(8, "big")


def _joined(place: bytes) -> bytes:
    return b"%d-%d" % (int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big"))


def _check_there(place: bytes, found: list[Any], first: list[Any]) -> None:
    """Refuse a cursor whose own entry is not the first of those that were found from it on."""
    if found and _cut(found[0][0]) == place:
        return
    if not first:
        raise _expired("it is of another store")
    if place < _cut(first[0][0]):
        raise _expired("changes after it are kept no more")
    if not found:
        raise _expired("it lies ahead of the newest change")
    raise _expired("the store lost the change that it names")


def _entry(known: bytes, stored: list[Any]) -> Entry:
    entry_id, fields = stored
    if len(fields) != 4 or fields[::2] != [b"p", b"r"] or len(fields[3]) % REVOKED_BYTES:
        raise _something_else()
    published, packed = fields[1::2]
    revoked = tuple(
        _revoked(packed[at : at + REVOKED_BYTES]) for at in range(0, len(packed), REVOKED_BYTES)
    )
    subjects = published + b"".join(each.subject for each in revoked)
    return Entry(known + _cut(entry_id), subjects, revoked)


def _revoked(packed: bytes) -> Revoked:
    place = packed[-8:]
    return Revoked(
        packed[:ID_BYTES],
        packed[ID_BYTES:-8],
        None
        if place == NO_PLACE
        else (int.from_bytes(place[:4], "big"), int.from_bytes(place[4:], "big")),
    )


def _expired(why: str) -> CursorExpiredError:
    return CursorExpiredError(
        f"the changes cannot be continued from the cursor: {why}",
        field="cursor",
        remedy="fetch the state whole (GetPresence), and continue from its cursor",
    )


def _something_else() -> StoreUnavailableError:
    return StoreUnavailableError(
        "something else stands where the changes should be",
        remedy="give the node a database of its own",
    )
