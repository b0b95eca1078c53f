"""The attestations that a province holds, in Valkey (design.md §7).

``s:{token}``
    a hash a subject: field = the attestation's id, value = its signed bytes or its tombstone
    (0x00 and the second of its revocation), each field with its own expiry. One read brings all
    that a holder has, and the server forgets by itself.
``a:{id}``
    one immutable record an id: whose it is. It is claimed before the hash is written, so that an
    id names one fact for ever; a crash between the two is healed by publishing again.

The braces keep the keys of one id, or of one subject, on one server of a cluster.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from exchange import attestations, cose
from exchange.errors import (
    IdTakenError,
    InvalidFieldError,
    NotFoundError,
    RevokedError,
    StoreUnavailableError,
    TongxingError,
)
from nodes.store.connection import Connection
from nodes.store.writer import BatchWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from exchange.facts import Kind
    from nodes.store.connection import Command

__all__ = ["AttestationStore", "NewRecord", "Published", "Record"]

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

SUBJECTS_AT_ONCE: Final = b"50"
"""How many keys a step of a scan looks at: some milliseconds of a thread, then others' turn."""

TOMBSTONE: Final = b"\x00"
"""What a revoked attestation's value begins with; no COSE_Sign1 does (CBOR 0x00 is a number)."""

REVOKE: Final = b"""\
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.byte(held, 1) == 0 then return held end
redis.call('HSETEX', KEYS[1], 'EXAT', ARGV[3], 'FIELDS', 1, ARGV[1], ARGV[2])
return ARGV[2]
"""
"""Read and replace in one step: of two revocations the first stays, also of two processes'."""

REPLACE: Final = b"""\
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held ~= ARGV[2] then return held end
redis.call('HSETEX', KEYS[1], 'EXAT', ARGV[4], 'FIELDS', 1, ARGV[1], ARGV[3])
return ARGV[3]
"""
"""A revocation that came between stays."""


@dataclass(frozen=True, slots=True)
class Record:
    """Whose an attestation id is.

    :param issuer: a unified social credit code (GB 32100), 18 characters.
    :param digest: 32 bytes, of the content: equal for what counts as the same fact.
    :param expires: Unix seconds.
    :param token: the subject token, 36 bytes.
    """

    issuer: str
    digest: bytes
    expires: int
    token: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Give the stored form, 94 bytes: issuer, digest, expiry (8, big-endian), token."""
        return b"".join(
            (self.issuer.encode("ascii"), self.digest, self.expires.to_bytes(8, "big"), self.token)
        )

    @classmethod
    def decode(cls, stored: bytes) -> Record:
        """Read the stored form.

        :raises StoreUnavailableError: something else stands there.
        """
        if len(stored) != 94 or not stored[:18].isascii():
            raise StoreUnavailableError(
                "something else stands where an attestation's record should be",
                remedy="give the node a database of its own",
            )
        expires = int.from_bytes(stored[50:58], "big")
        return cls(stored[:18].decode("ascii"), stored[18:50], expires, stored[58:])


@dataclass(frozen=True, slots=True)
class NewRecord:
    """What is to be published.

    :param id: 16 bytes.
    :param token: the subject token, 36 bytes.
    :param issuer: 18 ASCII characters.
    :param digest: 32 bytes, of the content: equal for what counts as the same fact.
    :param expires: Unix seconds, in the future: what is past, the server forgets at once.
    :param signed: the COSE_Sign1 bytes.
    :raises InvalidFieldError: another shape.
    """

    id: bytes
    token: bytes = field(repr=False)
    issuer: str
    digest: bytes
    expires: int
    signed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        lengths = (len(self.id), len(self.token), len(self.issuer), len(self.digest))
        if lengths != (16, 36, 18, 32) or not self.issuer.isascii():
            raise InvalidFieldError("an id, token, credit code or digest has not its length")
        if not 0 < self.expires < 1 << 40:
            raise InvalidFieldError("no Unix time", field="expires")
        if not self.signed or self.signed.startswith(TOMBSTONE):
            raise InvalidFieldError("no COSE_Sign1", field="signed")


@dataclass(frozen=True, slots=True)
class Published:
    """The signed bytes that stand in the store, and whether they stood there before."""

    signed: bytes = field(repr=False)
    already: bool


class AttestationStore:
    """Reads go over one connection, writes over another; both come back by themselves.

    Every method raises StoreUnavailableError, within seconds, where the store does not answer.
    """

    def __init__(self, reads: Connection, writes: BatchWriter) -> None:
        self._reads = reads
        self._writes = writes

    @classmethod
    async def open(cls, url: str) -> AttestationStore:
        """Connect, and see that the server keeps what it is given.

        :param url: `nodes.store.address.StoreAddress.parse` has the forms.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no answer; no HSETEX; no append-only file; it may evict.
        """
        reads = await Connection.open(url)
        try:
            await _check(reads)
            writes = await BatchWriter.open(url)
        except BaseException:
            await reads.close()
            raise
        return cls(reads, writes)

    async def close(self) -> None:
        """Take no more writes, finish those that wait, disconnect."""
        await self._writes.close()
        await self._reads.close()

    async def publish(self, new: NewRecord) -> Published:
        """Store an attestation; it is on disk when this returns. Publishing again is no error.

        :return: ``already`` with the *stored* bytes, where the same id stood there with the same
            issuer, token and digest.
        :raises IdTakenError: the id stands there with another issuer, token or digest.
        :raises RevokedError: it was revoked.
        :raises StoreUnavailableError: perhaps stored, perhaps not: publish again.
        """
        record = Record(new.issuer, new.digest, new.expires, new.token)
        key = _subject_key(new.token)

        def change(holder: bytes | None) -> Command:
            # The field must not outlive its record, or nobody could revoke it any more.
            expires = new.expires if holder is None else _same(holder, record).expires
            until = b"%d" % expires
            return (b"HSETEX", key, b"FNX", b"EXAT", until, b"FIELDS", b"1", new.id, new.signed)

        claim = (b"SET", _record_key(new.id), record.encode())
        until = b"%d" % new.expires
        if await self._writes.submit((*claim, b"NX", b"GET", b"EXAT", until), change) == 1:
            return Published(new.signed, already=False)
        stored = await self._reads.execute(b"HGET", key, new.id)
        if stored is None:
            raise StoreUnavailableError("the attestation expired as it was stored")
        return Published(_live(stored), already=True)

    async def replace(self, new: NewRecord, old: bytes) -> bytes:
        """Put other signed bytes of the same fact in the place of those that stand there.

        :param old: what `publish` found; where something else stands by now, it stays.
        :return: the signed bytes that stand there, on disk.
        :raises IdTakenError: the id stands there with another issuer, token or digest.
        :raises RevokedError: it was revoked.
        :raises StoreUnavailableError: perhaps replaced, perhaps not; or it expired meanwhile.
        """
        record = Record(new.issuer, new.digest, new.expires, new.token)
        key = _subject_key(new.token)

        def change(holder: bytes | None) -> Command:
            expires = new.expires if holder is None else _same(holder, record).expires
            until = b"%d" % expires
            return (b"EVAL", REPLACE, b"1", key, new.id, old, new.signed, until)

        stored = await self._writes.submit((b"GET", _record_key(new.id)), change)
        if stored is None:
            raise StoreUnavailableError("the attestation expired as it was stored")
        return _live(stored)

    async def revoke(self, id_: bytes, issuer: str, at: int) -> int:
        """End an attestation for good; on disk when this returns.

        :param id_: 16 bytes.
        :param issuer: the caller's credit code; another's attestation looks as if there were none.
        :param at: now, in Unix seconds.
        :return: the Unix second of the first revocation, which a later one never changes.
        :raises NotFoundError: no live attestation of this issuer bears the id.
        """

        def change(holder: bytes | None) -> Command:
            record = _own(holder, issuer)
            tombstone = TOMBSTONE + at.to_bytes(8, "big")
            until = b"%d" % record.expires
            return (b"EVAL", REVOKE, b"1", _subject_key(record.token), id_, tombstone, until)

        stored = await self._writes.submit((b"GET", _record_key(id_)), change)
        return int.from_bytes(stored[1:], "big")

    async def get(self, id_: bytes, issuer: str) -> bytes:
        """Give an attestation's signed bytes.

        :raises NotFoundError: no live attestation of this issuer bears the id.
        :raises RevokedError: it was revoked.
        """
        record = _own(await self._reads.execute(b"GET", _record_key(id_)), issuer)
        stored = await self._reads.execute(b"HGET", _subject_key(record.token), id_)
        if stored is None:
            raise _none()
        return _live(stored)

    async def record(self, id_: bytes) -> Record | None:
        """Whose an id is, revoked or not; None where nobody's."""
        holder = await self._reads.execute(b"GET", _record_key(id_))
        return None if holder is None else Record.decode(holder)

    async def lookup(self, token: bytes) -> list[bytes]:
        """Give the signed bytes of a subject's live attestations, in no order.

        :param token: 36 bytes.
        """
        return _all_live(await self._reads.execute(b"HVALS", _subject_key(token)))

    async def lookup_many(self, tokens: Sequence[bytes]) -> list[list[bytes]]:
        """Do `lookup` for many at once, in their order."""
        replies = await self._reads.pipeline([(b"HVALS", _subject_key(each)) for each in tokens])
        for reply in replies:
            if isinstance(reply, StoreUnavailableError):
                raise reply
        return [_all_live(reply) for reply in replies]

    async def census(
        self, judge: Callable[[bytes, datetime], _T]
    ) -> Counter[tuple[bytes, Kind, _T]]:
        """Count the live attestations.

        Goes through the whole store in small steps, others' calls in between, and remembers none.
        What is published or ends meanwhile may be counted or not; what is there throughout is
        counted at least once, and twice only while the server makes its tables smaller.

        :param judge: says something of a kid (8 bytes) and a time of issue; it runs in a thread.
        :return: a number for each kid, kind and answer of the judge.
        """
        found: Counter[tuple[bytes, Kind, _T]] = Counter()
        cursor = b"0"
        while True:
            cursor, keys = await self._reads.execute(
                *(b"SCAN", cursor, b"MATCH", b"s:{*}", b"COUNT", SUBJECTS_AT_ONCE)
            )
            replies = await self._reads.pipeline([(b"HVALS", key) for key in set(keys)])
            for reply in replies:
                if isinstance(reply, StoreUnavailableError):
                    raise reply
            if signed := [each for reply in replies for each in _all_live(reply)]:
                found.update(await asyncio.to_thread(_tally, signed, judge))
            if cursor == b"0":
                return found


def _tally(
    signed: Iterable[bytes], judge: Callable[[bytes, datetime], _T]
) -> Counter[tuple[bytes, Kind, _T]]:
    found: Counter[tuple[bytes, Kind, _T]] = Counter()
    for each in signed:
        try:
            message = cose.parse(each, cose.ObjectType.ATTESTATION)
            attestation = attestations.decode(message.payload)
        except TongxingError as error:
            log.warning("store.unreadable", why=str(error))  # nobody would accept it
            continue
        kind = attestation.fact.kind
        found[message.kid, kind, judge(message.kid, attestation.issued_at)] += 1
    return found


def _subject_key(token: bytes) -> bytes:
    return b"s:{%b}" % token


def _record_key(id_: bytes) -> bytes:
    return b"a:{%b}" % id_


def _all_live(values: Iterable[bytes]) -> list[bytes]:
    return [value for value in values if not value.startswith(TOMBSTONE)]


def _live(value: bytes) -> bytes:
    if value.startswith(TOMBSTONE):
        raise RevokedError("the attestation was revoked", field="attestation_id")
    return value


def _same(holder: bytes, mine: Record) -> Record:
    there = Record.decode(holder)
    if (there.issuer, there.digest, there.token) != (mine.issuer, mine.digest, mine.token):
        raise IdTakenError(
            "the id is taken by another fact", field="attestation_id", remedy="choose a new UUIDv7"
        )
    return there


def _own(holder: bytes | None, issuer: str) -> Record:
    if holder is None or (record := Record.decode(holder)).issuer != issuer:
        raise _none()
    return record


def _none() -> NotFoundError:
    return NotFoundError("no live attestation of this issuer bears the id", field="attestation_id")


async def _check(reads: Connection) -> None:
    """Refuse a server that would forget what it has acknowledged."""
    known, *sections = await reads.pipeline(
        [(b"COMMAND", b"INFO", b"HSETEX"), (b"INFO", b"persistence"), (b"INFO", b"memory")]
    )
    for reply in (known, *sections):
        if isinstance(reply, StoreUnavailableError):
            raise reply
    info = dict(line.split(b":", 1) for line in b"".join(sections).split(b"\r\n") if b":" in line)
    if not known or not known[0]:
        raise StoreUnavailableError(
            "the store does not know HSETEX", remedy="use Valkey 9 or Redis 8, or newer"
        )
    if info.get(b"aof_enabled") != b"1":
        raise StoreUnavailableError(
            "the store's append-only file is off: a publish would not survive a crash",
            remedy="set `appendonly yes` in its configuration",
        )
    if info.get(b"maxmemory", b"0") != b"0" and info.get(b"maxmemory_policy") != b"noeviction":
        raise StoreUnavailableError(
            "the store may evict attestations and revocations",
            remedy="set `maxmemory-policy noeviction` in its configuration",
        )
