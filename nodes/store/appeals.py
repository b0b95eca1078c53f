"""The appeals that a province filed or is to answer, in Valkey.

``q:{id}``
    a hash an appeal: ``f`` the filing (a FiledAppeal of the contract, without delivery and
    answer), ``i`` the contested attestation's issuer, ``d`` when it was delivered (8 bytes,
    big-endian), ``r`` the answer (an AppealAnswer), ``x`` that it stands in its lists. It ends by
    itself after `exchange.appeals.KEPT`.
``ql:{name}``, ``qo:{name}``
    lists: of all, and of those without an answer. Members are the second since when the appeal is
    here (8) and its id (16), all of one score, so that they are in the order of time and a page
    continues exactly where the last one ended. Names: ``a`` all; ``f`` filed here; ``t`` to be
    answered here; ``s`` and a token, the holder's; ``i`` and a credit code, the issuer's; ``p``
    and a code, brought by that province. In ``qo`` also, for the courier: ``u`` and a code, not
    yet delivered to that province; ``w`` and a code, delivered and not answered.
``qc:{province, contested}``
    the appeal that waits for its answer, so that there is one at a time from a province. Where it
    was filed, an attestation is contested by its holder's token too: whoever names another's, seen
    in a code, keeps nobody from an appeal.

An appeal is claimed before its lists are written; a crash between is healed by filing it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from exchange import cose
from exchange.appeals import (
    KEPT,
    Answer,
    Appeal,
    Filed,
    State,
    answer_to_proto,
    appeal_from_proto,
    appeal_to_proto,
)
from exchange.errors import (
    AppealStateError,
    IdTakenError,
    InvalidFieldError,
    MalformedObjectError,
    NotFoundError,
    StoreUnavailableError,
)
from exchange.provinces import PROVINCES
from exchange.v1 import appeal_service_pb2 as pb
from nodes.store.writer import BatchWriter, Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nodes.store.connection import Command
    from nodes.store.keyspace import Keyspace

__all__ = ["MEMBER_BYTES", "AppealStore", "Kept", "Standing", "of_holder", "of_issuer"]

MEMBER_BYTES: Final = 24
"""Of a list's member, by which a page continues."""

TEXTS_BYTES: Final = 4096
"""Of an appeal without its receipt, at most: two texts of 500 characters, ids and times."""

READ_AT_ONCE: Final = 32
"""Appeals that are read together where a page may end before its last one."""

ALL: Final = b"a"
FILED: Final = b"f"
TO_ANSWER: Final = b"t"

FILE: Final = b"""\
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HMGET', KEYS[1], 'f', 'i', 'd', 'r', 'x')
end
redis.call('HSET', KEYS[1], 'f', ARGV[1], 'i', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'd', ARGV[3]) end
redis.call('EXPIREAT', KEYS[1], ARGV[4])
return false
"""

SETTLE: Final = b"""\
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if ARGV[1] ~= '' then redis.call('HSETNX', KEYS[1], 'd', ARGV[1]) end
if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[1], 'r', ARGV[2]) end
return redis.call('HMGET', KEYS[1], 'f', 'i', 'd', 'r', 'x')
"""
"""The first answer stays, also of two processes'."""

RELEASE: Final = b"""\
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


def of_holder(tokens: Sequence[bytes]) -> tuple[bytes, ...]:
    """Name the lists of what a holder filed here.

    :param tokens: the holder's, of every epoch in force.
    """
    return tuple(b"s" + token for token in tokens)


def of_issuer(credit_code: str) -> tuple[bytes, ...]:
    """Name the list of what is to be answered about an issuer's attestations."""
    return (b"i" + credit_code.encode(),)


@dataclass(frozen=True, slots=True)
class Kept:
    """An appeal as it is kept here.

    :param issuer: the contested attestation's, 18 characters; "" where another province answers,
        or a decision is contested.
    :param tokens: the holder's; only where it was filed here.
    """

    appeal: Appeal
    issuer: str = ""
    tokens: tuple[bytes, ...] = field(default=(), repr=False)
    listed: bool = field(default=False, compare=False)
    """Whether it stands in its lists."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How many there are, by state, and when the oldest without an answer came.

    :param filed: those that were filed here; ``to_answer``: those that are to be answered here.
    """

    filed: Mapping[State, int]
    to_answer: Mapping[State, int]
    oldest_filed: datetime | None
    oldest_to_answer: datetime | None


class AppealStore:
    """Shares the connections of `nodes.store.attestations.AttestationStore`.

    Every method raises StoreUnavailableError, within seconds, where the store does not answer.

    :param province: the node's own.
    """

    def __init__(self, province: str, reads: Keyspace, writes: BatchWriter) -> None:
        self._province = province
        self._reads = reads
        self._writes = writes

    async def file(self, new: Kept) -> Kept:
        """Keep an appeal; it is on disk when this returns. Filing again is no error.

        :return: as it stands here.
        :raises IdTakenError: the id is another filing's.
        :raises AppealStateError: another about the same waits for its answer.
        :raises StoreUnavailableError: perhaps kept, perhaps not: file again.
        """
        there = await self.get(new.appeal.id.bytes)
        if there is not None and there.listed:
            return _same(there, new)
        await self._contest(new)
        key, stored = _key(new.appeal.id.bytes), new

        def change(held: Any) -> Change:
            nonlocal stored
            if held is not None:
                stored = _same(_decode(held), new)
            return Change(tuple(self._listing(stored)), then=((b"HSET", key, b"x", b"1"),))

        claim = (b"EVAL", FILE, b"1", key, _encode(new), new.issuer.encode())
        delivered, until = _seconds(new.appeal.delivered_at), b"%d" % self._until(new)
        await self._writes.submit((*claim, delivered, until), change)
        return stored

    async def settle(
        self, id_: bytes, *, delivered_at: datetime | None = None, answer: Answer | None = None
    ) -> Kept:
        """Note that an appeal was delivered, or answered; what was noted first stays.

        :param id_: 16 bytes.
        :return: as it stands here, on disk.
        :raises NotFoundError: there is none.
        :raises StoreUnavailableError: perhaps noted, perhaps not: do it again.
        """
        said = b"" if answer is None else answer_to_proto(answer).SerializeToString()
        stored: Kept | None = None

        def change(held: Any) -> Change:
            nonlocal stored
            if held is None:
                raise NotFoundError("no appeal bears the id", field="appeal_id")
            stored = _decode(held)
            return self._moving(stored)

        claim = (b"EVAL", SETTLE, b"1", _key(id_), _seconds(delivered_at), said)
        await self._writes.submit(claim, change)
        assert stored is not None  # noqa: S101 - for mypy: `change` has run
        return stored

    async def get(self, id_: bytes) -> Kept | None:
        """Give one; None where there is none.

        :param id_: 16 bytes.
        """
        (found,) = await self._read([id_])
        return found

    async def page(
        self, names: Sequence[bytes], *, unanswered: bool, after: bytes, most: int, largest: int
    ) -> tuple[list[Kept], bytes]:
        """Give the appeals of some lists, the newest first.

        :param names: `of_holder` or `of_issuer`; none for all.
        :param after: what the last page gave; b"" for the first.
        :param largest: bytes, about, beyond which the page ends earlier.
        :return: at most so many; and where to go on, b"" where nothing is left.
        :raises InvalidFieldError: ``after`` is nothing that was given (field ``page_token``).
        """
        if len(after) not in (0, MEMBER_BYTES):
            raise InvalidFieldError("no page's end", field="page_token")
        newest = b"(" + after if after else b"+"
        kind = b"qo:" if unanswered else b"ql:"
        limit = (b"LIMIT", b"0", b"%d" % (most + 1))
        pages = await self._reads.ask(
            [
                (b"ZRANGE", kind + name, newest, b"-", b"BYLEX", b"REV", *limit)
                for name in names or (ALL,)
            ]
        )
        members = sorted({member for page in pages for member in page}, reverse=True)
        kept: list[Kept] = []
        async for member, each in self._each(members[:most]):
            after = member
            # A crash may have left one that has its answer.
            if each is not None and not (unanswered and each.appeal.answer is not None):
                kept.append(each)
                largest -= len(each.appeal.receipt) + TEXTS_BYTES
            if largest <= 0:
                break
        return kept, after if members and after != members[-1] else b""

    async def open_by(self, province: str) -> int:
        """Count what a province brought and waits for."""
        return int(await self._reads.execute(b"ZCARD", b"qo:p" + province.encode()))

    async def open_of(self, tokens: Sequence[bytes]) -> int:
        """Count what a holder filed here and waits for."""
        counts = await self._reads.ask([(b"ZCARD", b"qo:" + name) for name in of_holder(tokens)])
        return sum(counts)

    # --- for the courier --------------------------------------------------------------------

    async def waiting(self) -> list[str]:
        """Name the provinces that are to have, or to answer, what was filed here."""
        codes = [code for code in PROVINCES if code != self._province]
        counts = await self._reads.ask(
            [(b"ZCARD", b"qo:" + name + code.encode()) for code in codes for name in (b"u", b"w")]
        )
        pairs = zip(codes, counts[::2], counts[1::2], strict=True)
        return [code for code, undelivered, unanswered in pairs if undelivered or unanswered]

    async def batch(
        self, province: str, *, delivered: bool, after: bytes, most: int
    ) -> tuple[list[Filed], bytes]:
        """Give what a province is to have, or what it has and is to answer, the oldest first.

        :param after: what the last call gave; b"" to begin.
        :return: and where to go on, b"" at the end.
        """
        key = b"qo:" + (b"w" if delivered else b"u") + province.encode()
        oldest = b"(" + after if after else b"-"
        page = await self._reads.execute(
            *(b"ZRANGE", key, oldest, b"+", b"BYLEX", b"LIMIT", b"0", b"%d" % most)
        )
        found = await self._read([member[8:] for member in page])
        state = State.DELIVERED if delivered else State.FILED
        batch = [
            Filed(each.appeal, each.tokens)
            for each in found
            if each is not None and each.appeal.state is state
        ]
        for member, each in zip(page, found, strict=True):
            if each is None:  # it has ended
                await self._reads.execute(b"ZREM", key, member)
            elif each.appeal.state is not state:  # a crash left it, in other lists too
                await self.settle(each.appeal.id.bytes)
        return batch, page[-1] if len(page) == most else b""

    async def standing(self) -> Standing:
        """Count all."""
        codes = [code for code in PROVINCES if code != self._province]
        filed, open_filed, to_answer, open_to_answer, *undelivered = await self._reads.ask(
            [
                *((b"ZCARD", kind + name) for name in (FILED, TO_ANSWER) for kind in KINDS),
                *((b"ZCARD", b"qo:u" + code.encode()) for code in codes),
            ]
        )
        waits = sum(undelivered)
        return Standing(
            {
                State.FILED: waits,
                State.DELIVERED: max(0, open_filed - waits),
                State.ANSWERED: max(0, filed - open_filed),
            },
            {
                State.DELIVERED: open_to_answer,
                State.ANSWERED: max(0, to_answer - open_to_answer),
            },
            await self._oldest(FILED),
            await self._oldest(TO_ANSWER),
        )

    async def _oldest(self, name: bytes) -> datetime | None:
        """When the oldest came that has no answer; what does not belong there goes."""
        key = b"qo:" + name
        while page := await self._reads.execute(b"ZRANGE", key, b"0", b"0"):
            (found,) = await self._read([page[0][8:]])
            if found is not None and found.appeal.answer is None:
                return datetime.fromtimestamp(int.from_bytes(page[0][:8], "big"), UTC)
            stale = (b"ql:" + name, key) if found is None else (key,)
            await self._reads.ask([(b"ZREM", each, page[0]) for each in stale])
        return None

    # --- inside -----------------------------------------------------------------------------

    async def _each(self, members: Sequence[bytes]) -> AsyncIterator[tuple[bytes, Kept | None]]:
        """Go through appeals, reading no more than some at once: each may be of 64 KiB."""
        for at in range(0, len(members), READ_AT_ONCE):
            some = members[at : at + READ_AT_ONCE]
            for each in zip(some, await self._read([id_[8:] for id_ in some]), strict=True):
                yield each

    async def _read(self, ids: Sequence[bytes]) -> list[Kept | None]:
        replies = await self._reads.ask(
            [(b"HMGET", _key(id_), b"f", b"i", b"d", b"r", b"x") for id_ in ids]
        )
        return [None if reply[0] is None else _decode(reply) for reply in replies]

    async def _contest(self, new: Kept) -> None:
        """Let nobody else contest the same from the same province until it is answered.

        :raises AppealStateError: somebody does.
        """
        key, id_ = _contested_key(new), new.appeal.id.bytes
        until = b"%d" % self._until(new)
        other: bytes | None = None

        def change(held: bytes | None) -> Change:
            nonlocal other
            other = held
            return Change(((b"EXISTS", key),))

        claim = (b"SET", key, id_, b"NX", b"GET", b"EXAT", until)
        await self._writes.submit(claim, change)
        if other is None or other == id_:
            return
        there = await self.get(other)
        if there is not None and there.appeal.answer is None and _contested_key(there) == key:
            raise _waits(there, new)
        take = (b"SET", key, id_, b"EXAT", until)
        await self._writes.submit((b"EXISTS", key), lambda _: Change((take,)))

    def _since(self, kept: Kept) -> datetime:
        """When it came here."""
        appeal = kept.appeal
        filed_here = appeal.province == self._province
        return appeal.filed_at if filed_here else appeal.delivered_at or appeal.filed_at

    def _until(self, kept: Kept) -> int:
        return int((self._since(kept) + KEPT).timestamp())

    def _member(self, kept: Kept) -> bytes:
        return _seconds(self._since(kept)) + kept.appeal.id.bytes

    def _names(self, kept: Kept) -> list[bytes]:
        appeal = kept.appeal
        names = [ALL]
        if appeal.province == self._province:
            names += [FILED, *of_holder(kept.tokens[:1])]
        if appeal.answering_province == self._province:
            names.append(TO_ANSWER)
            if kept.issuer:
                names += of_issuer(kept.issuer)
            if appeal.province != self._province:
                names.append(b"p" + appeal.province.encode())
        return names

    def _courier(self, kept: Kept) -> tuple[bytes, bytes] | None:
        """The courier's two lists; None where there is nothing to carry."""
        appeal = kept.appeal
        if appeal.province != self._province or appeal.answering_province == self._province:
            return None
        code = appeal.answering_province.encode()
        return b"qo:u" + code, b"qo:w" + code

    def _listing(self, kept: Kept) -> list[Command]:
        """Put it in its lists, by its state; what is older than anything kept leaves them."""
        member, until = self._member(kept), b"%d" % self._until(kept)
        over = b"(" + _seconds(self._since(kept) - KEPT)
        kinds = KINDS if kept.appeal.answer is None else KINDS[:1]
        keys = [kind + name for name in self._names(kept) for kind in kinds]
        commands: list[Command] = []
        for key in keys:
            commands += [
                (b"ZADD", key, b"0", member),
                (b"ZREMRANGEBYLEX", key, b"-", over),
                (b"EXPIREAT", key, until),
            ]
        lists = self._courier(kept)
        if lists is not None and kept.appeal.answer is None:
            delivered = kept.appeal.state is State.DELIVERED
            commands.append((b"ZADD", lists[delivered], b"0", member))
        return commands

    def _moving(self, kept: Kept) -> Change:
        """Move it between its lists, by its state.

        It leaves the courier's last, when all else is done: it would come again.
        """
        member = self._member(kept)
        commands: list[Command] = [(b"EXISTS", _key(kept.appeal.id.bytes))]
        answered = kept.appeal.answer is not None
        if answered:
            commands += [(b"ZREM", b"qo:" + name, member) for name in self._names(kept)]
            contested = _contested_key(kept)
            commands.append((b"EVAL", RELEASE, b"1", contested, kept.appeal.id.bytes))
        then: list[Command] = []
        lists = self._courier(kept)
        if lists is not None and kept.appeal.state is not State.FILED:
            undelivered, unanswered = lists
            if answered:
                then.append((b"ZREM", unanswered, member))
            else:
                commands.append((b"ZADD", unanswered, b"0", member))
            then.append((b"ZREM", undelivered, member))
        return Change(tuple(commands), then=tuple(then))


KINDS: Final = (b"ql:", b"qo:")


def _key(id_: bytes) -> bytes:
    return b"q:{%b}" % id_


def _contested_key(kept: Kept) -> bytes:
    appeal = kept.appeal
    contested = (
        hashlib.sha256(_decided(appeal.receipt)).digest()
        if appeal.attestation_id is None
        else appeal.attestation_id.bytes + b"".join(kept.tokens[:1])
    )
    return b"qc:{%b%b}" % (appeal.province.encode(), contested)


def _decided(receipt: bytes) -> bytes:
    """What its signature covers: around that, anybody may spell the same receipt in other bytes."""
    try:
        return cose.parse(receipt, cose.ObjectType.RECEIPT).payload
    except MalformedObjectError:
        return receipt


def _seconds(time: datetime | None) -> bytes:
    return b"" if time is None else int(time.timestamp()).to_bytes(8, "big")


def _encode(kept: Kept) -> bytes:
    filing = replace(kept.appeal, delivered_at=None, answer=None)
    return pb.FiledAppeal(
        appeal=appeal_to_proto(filing), subject_tokens=kept.tokens
    ).SerializeToString()


def _decode(held: list[bytes | None]) -> Kept:
    """Read a record.

    :raises StoreUnavailableError: something else stands there.
    """
    filed, issuer, delivered, answer, listed = held
    try:
        message = pb.FiledAppeal.FromString(filed or b"")
        if delivered is not None:
            message.appeal.deliver_time.seconds = int.from_bytes(delivered, "big")
        if answer is not None:
            message.appeal.answer.ParseFromString(answer)
        appeal = appeal_from_proto(message.appeal)
        named = (issuer or b"").decode("ascii")
    except (DecodeError, InvalidFieldError, UnicodeDecodeError):
        raise StoreUnavailableError(
            "something else stands where an appeal should be",
            remedy="give the node a database of its own",
        ) from None
    return Kept(appeal, named, tuple(message.subject_tokens), listed is not None)


def _waits(there: Kept, new: Kept) -> AppealStateError:
    """The refusal of a second appeal about the same; only its own holder learns the first's id."""
    ours: Any = set(there.tokens)
    named = not ours or not ours.isdisjoint(new.tokens)
    see = f"see how it stands: `tongxing appeal show {there.appeal.id}`, or "
    return AppealStateError(
        "an appeal about the same waits for its answer" + (f": {there.appeal.id}" if named else ""),
        field="receipt" if new.appeal.attestation_id is None else "attestation_id",
        remedy=f"{see if named else ''}wait for that answer",
    )


def _same(there: Kept, new: Kept) -> Kept:
    """What stands there, where it is the same filing of the same holder."""
    ours: Any = set(there.tokens)
    if not there.appeal.same_filing(new.appeal) or (ours and ours.isdisjoint(new.tokens)):
        raise IdTakenError(
            "the id is taken by another appeal", field="appeal_id", remedy="choose a new UUIDv7"
        )
    return there
