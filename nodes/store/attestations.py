"""The attestations that a province holds, in Valkey (design.md §7).

``s:{token}``
    a hash a subject: field = the attestation's id, value = its signed bytes, each field with its
    own expiry. One read brings all that a holder has, and the server forgets by itself. What is
    revoked has a tombstone before its signed bytes: 0x00, the second (8, big-endian), a length (2)
    and that many bytes of JSON that say why.
``a:{id}``
    one record an id: whose it is, and which places of status lists it was given. It is claimed
    before the hash is written, so that an id names one fact for ever; a crash between the two is
    healed by publishing again. Only places are ever added, before anything that bears them.

Whoever follows the changes hears of them by `nodes.store.changes`; what is revoked is also set in
the status lists (`nodes.store.statuses`), in the same batch.

The braces keep the keys of one id, or of one subject, on one server of a cluster.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from exchange import attestations, cose
from exchange.errors import (
    IdTakenError,
    InternalError,
    NotFoundError,
    RevokedError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.presence import subject_of
from exchange.vouching import CLOCK_SKEW
from nodes.store import statuses
from nodes.store.changes import journal, note_published, note_revoked
from nodes.store.keyspace import Keyspace, connect
from nodes.store.records import (
    NO_NOTE,
    TOMBSTONE,
    Held,
    NewRecord,
    Note,
    Progress,
    Published,
    Record,
    Revocation,
    packed,
)
from nodes.store.writer import BatchWriter, Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from exchange.attestations import Attestation
    from exchange.facts import Kind
    from nodes.store.connection import Command, Connection

__all__ = ["AttestationStore"]

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

SUBJECTS_AT_ONCE: Final = b"50"
"""How many keys a step of a scan looks at: some milliseconds of a thread, then others' turn."""

SUBJECTS_IN_BULK: Final = b"1000"
"""The same where only the keys are wanted."""

PROGRESS: Final = 1000
"""Attestations looked at between two words of how far it has come."""

KEPT_LONGER: Final = 2 * int(CLOCK_SKEW.total_seconds())
"""Seconds that a status list's bit outlives what it revokes. By a slow gate's clock that is still
in force, by a fast server's clock the bit ends early; a list without it would say VALID."""

REVOKE: Final = b"""\
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.byte(held, 1) == 0 then return held end
local ended = ARGV[2] .. (held or '')
redis.call('HSETEX', KEYS[1], 'EXAT', ARGV[3], 'FIELDS', 1, ARGV[1], ended)
return ended
"""
"""Read and replace in one step: of two revocations the first stays, also of two processes'."""

REPLACE: Final = b"""\
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held ~= ARGV[2] then return held end
redis.call('HSETEX', KEYS[1], 'EXAT', ARGV[4], 'FIELDS', 1, ARGV[1], ARGV[3])
return ARGV[3]
"""
"""A revocation that came between stays."""

ADOPT: Final = b"""\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('APPEND', KEYS[1], ARGV[1])
"""
"""A record that ended meanwhile does not come back without its expiry."""


class AttestationStore:
    """Reads go over one connection, writes over another; both come back by themselves.

    Every method raises StoreUnavailableError, within seconds, where the store does not answer.
    """

    def __init__(self, reads: Keyspace, writes: BatchWriter, province: str = "") -> None:
        self.reads = reads
        """What `nodes.store.answers` and `nodes.store.statuses` share."""
        self.writes = writes
        """What `nodes.store.statuses` shares."""
        self._province = province

    @classmethod
    async def open(cls, url: str, province: str = "", *, replicas: int = 0) -> AttestationStore:
        """Connect, and see that every server keeps what it is given.

        :param url: `nodes.store.address.parse` has the forms.
        :param province: the GB/T 2260 code of the province whose attestations these are; without
            it nothing can be published that has a place in a status list.
        :param replicas: of each server, on whose disks a write is, too, when it is acknowledged.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no answer; no HSETEX; no append-only file; it may evict.
        """
        reads = await connect(url)
        try:
            for server in reads.servers:
                await _check(server, replicas)
            writes = await BatchWriter.open(url, journal, replicas=replicas)
        except BaseException:
            await reads.close()
            raise
        return cls(reads, writes, province)

    async def close(self) -> None:
        """Take no more writes, finish those that wait, disconnect."""
        await self.writes.close()
        await self.reads.close()

    async def publish(self, new: NewRecord) -> Published:
        """Store an attestation; it is on disk when this returns. Publishing again is no error.

        :return: ``already`` with the *stored* bytes, where the same id stood there with the same
            issuer, token and digest.
        :raises IdTakenError: the id stands there with another issuer, token or digest.
        :raises RevokedError: it was revoked.
        :raises StoreUnavailableError: perhaps stored, perhaps not: publish again.
        """
        record = self._placed(new)
        key = _subject_key(new.token)
        note = note_published(subject_of(new.token))
        read = (b"HGET", key, new.id)

        def change(holder: bytes | None) -> Change:
            # The field must not outlive its record, or nobody could revoke it any more.
            expires = new.expires
            if holder is not None:
                there = _same(holder, record)
                if not _bears(there, new):
                    return Change((read,), note)
                expires = there.expires
            until = b"%d" % expires
            write = (b"HSETEX", key, b"FNX", b"EXAT", until, b"FIELDS", b"1", new.id, new.signed)
            return Change((write,), note)

        claim = (b"SET", _record_key(new.id), record.encode())
        until = b"%d" % new.expires
        reply = await self.writes.submit((*claim, b"NX", b"GET", b"EXAT", until), change)
        if reply is None:  # a publication with another place never finished
            await self._adopt(new)
            return await self.publish(new)
        if reply == 1:
            return Published(new.signed, already=False)
        stored = await self.reads.execute(*read) if reply == 0 else reply
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
        record = self._placed(new)
        key = _subject_key(new.token)
        note = note_published(subject_of(new.token))

        def change(holder: bytes | None) -> Change:
            expires = new.expires if holder is None else _same(holder, record).expires
            until = b"%d" % expires
            return Change(((b"EVAL", REPLACE, b"1", key, new.id, old, new.signed, until),), note)

        await self._adopt(new)
        stored = await self.writes.submit((b"GET", _record_key(new.id)), change)
        if stored is None:
            raise StoreUnavailableError("the attestation expired as it was stored")
        return _live(stored)

    async def revoke(self, id_: bytes, issuer: str | None, at: int, note: Note = NO_NOTE) -> int:
        """End an attestation for good, also in its status list; on disk when this returns.

        :param id_: 16 bytes.
        :param issuer: the caller's credit code; another's attestation looks as if there were none.
            None: an admin, who may end any.
        :param at: now, in Unix seconds.
        :return: the Unix second of the first revocation, which a later one never changes.
        :raises NotFoundError: no live attestation of this issuer bears the id.
        :raises InvalidFieldError: the note is longer than 64 KiB.
        :raises StoreUnavailableError: perhaps revoked, perhaps not: revoke again.
        """
        key = _record_key(id_)
        header = Revocation(at, note, b"").header()
        seen: bytes | None = None

        def change(holder: bytes | None) -> Change:
            nonlocal seen
            seen = holder
            record = _own(holder, issuer)
            self._check_lists(record)
            until = b"%d" % record.expires
            end = (b"EVAL", REVOKE, b"1", _subject_key(record.token), id_, header, until)
            marks = statuses.mark(self._province, record.places, record.expires + KEPT_LONGER)
            subject = subject_of(record.token)
            notes = [note_revoked(subject, id_, place) for place in record.places or (None,)]
            return Change((end, *marks), b"".join(notes))

        while True:
            stored = await self.writes.submit((b"GET", key), change)
            # A publication may have added a place since its record was read, but adds none more.
            if await self.reads.execute(b"GET", key) in {seen, None}:
                return int.from_bytes(stored[1:9], "big")

    async def revoke_many(
        self, ids: Sequence[bytes], issuer: str | None, at: int, note: Note = NO_NOTE
    ) -> list[int | TongxingError]:
        """Do `revoke` for many at once.

        :return: for each id, in their order, what `revoke` would have given or raised.
        """
        found = await asyncio.gather(
            *(self.revoke(each, issuer, at, note) for each in ids), return_exceptions=True
        )
        results: list[int | TongxingError] = []
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, TongxingError):
                raise each
            results.append(each)
        return results

    async def revoke_issuer(
        self,
        credit_code: str,
        wanted: Callable[[Attestation], bool],
        at: int,
        note: Note = NO_NOTE,
        *,
        validate_only: bool = False,
    ) -> AsyncIterator[Progress]:
        """End all that one issuer established and that is wanted: a laboratory's bad batch.

        Goes through the whole store in small steps. What is published meanwhile may be met or not.
        Begun again after a break, it also repeats those revocations that it finds, for the break
        may have kept their notes from those who follow the changes.

        :param wanted: says whether an attestation is meant; it runs in a thread.
        :param at: now, in Unix seconds.
        :param validate_only: only count.
        :return: now and then how far it has come, and once at the end.
        :raises StoreUnavailableError: some are revoked: begin again.
        """
        code = credit_code.encode()
        looked_at = revoked = before = said = 0
        async for keys in self._subjects(SUBJECTS_AT_ONCE):
            hits = []
            for fields in await self.reads.ask([(b"HGETALL", key) for key in keys]):
                looked_at += len(fields) // 2
                # Most are other issuers', and decoding costs most.
                pairs = zip(fields[::2], fields[1::2], strict=True)
                hits += [(id_, value) for id_, value in pairs if code in value]
            if hits:
                met = await asyncio.to_thread(_meant, hits, credit_code, wanted)
                if not validate_only:
                    ids = [id_ for id_, _ in met]
                    for result in await self.revoke_many(ids, credit_code, at, note):
                        if isinstance(result, StoreUnavailableError):
                            raise result
                before += sum(ended for _, ended in met)
                revoked += sum(not ended for _, ended in met)
            if looked_at - said >= PROGRESS:
                said = looked_at
                yield Progress(looked_at, revoked, before)
        yield Progress(looked_at, revoked, before)

    async def get(self, id_: bytes, issuer: str) -> bytes:
        """Give an attestation's signed bytes.

        :raises NotFoundError: no live attestation of this issuer bears the id.
        :raises RevokedError: it was revoked.
        """
        record = _own(await self.reads.execute(b"GET", _record_key(id_)), issuer)
        stored = await self.reads.execute(b"HGET", _subject_key(record.token), id_)
        if stored is None:
            raise _none()
        return _live(stored)

    async def record(self, id_: bytes) -> Record | None:
        """Whose an id is, revoked or not; None where nobody's."""
        holder = await self.reads.execute(b"GET", _record_key(id_))
        return None if holder is None else Record.decode(holder)

    async def revocation(self, id_: bytes) -> Revocation | None:
        """Why an attestation was revoked; None where it was not, or has ended."""
        record = await self.record(id_)
        if record is None:
            return None
        stored = await self.reads.execute(b"HGET", _subject_key(record.token), id_)
        if stored is None or not stored.startswith(TOMBSTONE):
            return None
        return Revocation.decode(stored)

    async def lookup(self, token: bytes) -> Held:
        """Give what a subject has.

        :param token: 36 bytes.
        """
        return _held(await self.reads.execute(b"HVALS", _subject_key(token)))

    async def lookup_many(self, tokens: Sequence[bytes]) -> list[Held]:
        """Do `lookup` for many at once, in their order."""
        return [_held(reply) for reply in await self.reads.ask(_asks(tokens))]

    async def scan_subjects(self) -> AsyncIterator[bytes]:
        """Give the fingerprints of all subjects of whom anything is held, also revoked.

        Who is there throughout is given at least once.

        :return: a step at a time, 8 bytes each, one after another.
        """
        async for keys in self._subjects(SUBJECTS_IN_BULK):
            if keys:
                yield b"".join([subject_of(key[3:-1]) for key in keys])

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
        async for keys in self._subjects(SUBJECTS_AT_ONCE):
            replies = await self.reads.ask([(b"HVALS", key) for key in keys])
            if signed := [each for reply in replies for each in _held(reply).signed]:
                found.update(await asyncio.to_thread(_tally, signed, judge))
        return found

    async def _subjects(self, step: bytes) -> AsyncIterator[Collection[bytes]]:
        """Give the keys of all subjects, a step at a time.

        :raises StoreUnavailableError: no answer, or subjects would be missed: begin again.
        """
        async for keys in self.reads.walk(b"s:{*}", step):
            yield set(keys)

    def _placed(self, new: NewRecord) -> Record:
        record = new.record()
        self._check_lists(record)
        return record

    def _check_lists(self, record: Record) -> None:
        if record.places and not self._province:
            raise InternalError("the store was opened for no province, and so for no status list")

    async def _adopt(self, new: NewRecord) -> None:
        """Give a record that is there the place of what is to stand in the hash."""
        record = self._placed(new)
        key = _record_key(new.id)

        def change(holder: bytes | None) -> Change:
            if holder is None:
                raise StoreUnavailableError("the attestation expired as it was stored")
            if _bears(_same(holder, record), new) or new.place is None:
                return Change(((b"EXISTS", key),))
            return Change(((b"EVAL", ADOPT, b"1", key, packed(new.place)),))

        await self.writes.submit((b"GET", key), change)


def _tally(
    signed: Iterable[bytes], judge: Callable[[bytes, datetime], _T]
) -> Counter[tuple[bytes, Kind, _T]]:
    found: Counter[tuple[bytes, Kind, _T]] = Counter()
    for each in signed:
        if (decoded := _decoded(each)) is not None:
            kid, attestation = decoded
            found[kid, attestation.fact.kind, judge(kid, attestation.issued_at)] += 1
    return found


def _subject_key(token: bytes) -> bytes:
    return b"s:{%b}" % token


def _record_key(id_: bytes) -> bytes:
    return b"a:{%b}" % id_


def _bears(record: Record, new: NewRecord) -> bool:
    return new.place is None or new.place in record.places


def _asks(tokens: Iterable[bytes]) -> list[Command]:
    return [(b"HVALS", _subject_key(token)) for token in tokens]


def _held(values: list[bytes]) -> Held:
    for value in values:
        if value.startswith(TOMBSTONE):
            break
    else:
        return Held(values, [])
    ended = [_behind(value) for value in values if value.startswith(TOMBSTONE)]
    live = [value for value in values if not value.startswith(TOMBSTONE)]
    return Held(live, [signed for signed in ended if signed])


def _behind(tombstone: bytes) -> bytes:
    return tombstone[11 + int.from_bytes(tombstone[9:11], "big") :]


def _meant(
    values: Iterable[tuple[bytes, bytes]],
    credit_code: str,
    wanted: Callable[[Attestation], bool],
) -> list[tuple[bytes, bool]]:
    """Those ids that are meant, and whether they are revoked already."""
    met = []
    for id_, value in values:
        ended = value.startswith(TOMBSTONE)
        signed = _behind(value) if ended else value
        if not signed:
            continue
        attestation = _decoded(signed)
        if attestation is None or attestation[1].issuer.credit_code != credit_code:
            continue
        if wanted(attestation[1]):
            met.append((id_, ended))
    return met


def _decoded(signed: bytes) -> tuple[bytes, Attestation] | None:
    """A kid and what was signed with it; None where nobody would accept it."""
    try:
        message = cose.parse(signed, cose.ObjectType.ATTESTATION)
        return message.kid, attestations.decode(message.payload)
    except TongxingError as error:
        log.warning("store.unreadable", why=str(error))
        return None


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


def _own(holder: bytes | None, issuer: str | None) -> Record:
    if holder is None:
        raise _none()
    record = Record.decode(holder)
    if issuer is not None and record.issuer != issuer:
        raise _none()
    return record


def _none() -> NotFoundError:
    return NotFoundError("no live attestation of this issuer bears the id", field="attestation_id")


async def _check(server: Connection, replicas: int) -> None:
    """Refuse a server that would forget what it has acknowledged."""
    known, role, *sections = await server.ask(
        [
            (b"COMMAND", b"INFO", b"HSETEX"),
            (b"ROLE",),
            (b"INFO", b"persistence"),
            (b"INFO", b"memory"),
        ]
    )
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
    if role[0] == b"master" and len(role[2]) < replicas:
        # No refusal: what is there can still be read, and replicas that are away come back.
        log.warning(
            "store.too_few_replicas",
            store=str(server.address),
            replicas=len(role[2]),
            wanted=replicas,
            remedy="start them: until then nothing can be published there",
        )
