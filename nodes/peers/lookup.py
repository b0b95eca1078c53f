"""What the other provinces hold of somebody: only who can know is asked (design.md §8).

A province whose presence filter says no holds nothing of the holder, as of when it was last heard
from. What it answered before, and has changed nothing of since, is at hand in the node's own store:
with the moment before it was asked, among all changes of the province that were heard.
The rest are called: at once, within what time the caller leaves, and no longer than a peer may
take. A peer that is slow, silent or lying costs the others nothing.

Nothing of this is believed: not the filter of a province that was not heard from for too long, nor
what lies in the store, which is verified anew at each look like a peer's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from exchange import attestations, cose
from exchange.client.link import Link
from exchange.errors import TongxingError
from exchange.presence import subject_of
from exchange.recognition import MOST_PER_PROVINCE
from exchange.trust.trustlist import TrustList
from exchange.v1 import peer_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.peers.kept import MARK_BYTES
from nodes.peers.links import Links, Peer

__all__ = ["Answers", "Found", "Looking", "Lookup", "SyncView", "Syncs"]

MOST_TOKENS: Final = 250
"""Tokens in one call, a quarter of what the contract allows: so the largest answer that is taken
has 16 KiB for each, some twenty attestations; and the largest batch goes in four calls, whose
failure together does not yet open a circuit."""
LARGEST_SUBJECT: Final = 1 << 18
"""Bytes that a peer may send of one holder: no honest one comes near."""
LARGEST_KEPT: Final = 1 << 13
"""Bytes of one answer that are kept: some ten attestations. Who has more is asked for again."""
KEPT_SECONDS: Final = 24 * 3600
"""How long an answer is kept, unless a change of the province ends it before."""
KEPT_BYTES: Final = 1 << 25
"""Of one province's answers that are kept at once, and then again, evenly, in `KEPT_SECONDS`. So
never more than 64 MiB of it lie in the store, which also takes what is published here, and drops
nothing to make room: a peer that answers at length for everybody must not fill it."""
KEPT_COST: Final = 512
"""Bytes that an answer takes in the store beside its own, about: a key, a field, an expiry."""

_FETCH = "/tongxing.v1.PeerService/FetchAttestations"
_BREATH = 64
"""Tokens for which one province's filter is asked before the event loop gets a turn."""
_SOONEST_SECONDS = 0.005
"""Sooner than that, no second call is made for want of an answer to the first."""
_SHORT = 0.5
"""A peer that had less than this share of its usual time is not blamed for its silence."""


class SyncView(Protocol):
    """What is known of a peer by its changes (`nodes.peers.sync.PeerSync`)."""

    @property
    def as_of(self) -> datetime | None:
        """Up to when nothing is missing, by this node's clock; None: never synchronised."""

    def perhaps(self, subject: bytes, /) -> bool:
        """Whether it may hold anything of a fingerprint; True also where that is not known."""

    def mark(self) -> bytes:
        """What moment it is among its changes: 16 bytes."""

    def unchanged(self, subject: bytes, mark: bytes) -> bool:
        """Whether surely no change of the fingerprint was heard since the mark."""


class Syncs(Protocol):
    """The peers' synchronisation, by province (`nodes.peers.sync.Synchroniser`)."""

    def get(self, province: str, /) -> SyncView | None:
        """One peer's; None where there is none."""


class Answers(Protocol):
    """What peers answered before (`nodes.store.answers.PeerAnswers`)."""

    async def get(self, subjects: Sequence[bytes]) -> list[dict[str, bytes]]:
        """For each fingerprint, answers by province."""

    def put(self, province: str, subject: bytes, answer: bytes, expires: int) -> None:
        """Keep an answer until a Unix second; waits for nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one province holds of one subject token.

    :param signed: COSE_Sign1 bytes; None: there is no usable answer.
    :param revoked: the same of attestations that the province says are revoked.
    :param as_of: as of when it stands; None: the province was asked just now.
    :param calls: that were made to it for this.
    :param circuit_open: it was not called, since it failed too often of late.
    :param readable: False where it answered, but not what the contract says.
    """

    signed: Sequence[bytes] | None = field(repr=False)
    revoked: Sequence[bytes] = field(default=(), repr=False)
    as_of: datetime | None = None
    calls: int = 0
    circuit_open: bool = False
    readable: bool = True


_SILENT = Found(None)
_SHUT = Found(None, circuit_open=True)
_FIRST = (0,)
_AT_ONCE = contextlib.nullcontext()


class _Question:
    """What is not known yet of one province: some places among the tokens."""

    __slots__ = ("found", "kept_as_of", "mark", "open", "province", "sync")

    def __init__(
        self,
        province: str,
        found: list[Found | None],
        places: Sequence[int],
        sync: SyncView | None,
        kept_as_of: datetime | None,
    ) -> None:
        self.province = province
        self.found = found
        self.open = places
        self.sync = sync
        self.kept_as_of = kept_as_of
        """As of when what it answered before stands; None: that counts no more."""
        # Before anything is asked: whatever changes from here on is not missed.
        self.mark = None if sync is None or sync.as_of is None else sync.mark()

    def recall(self, kept: bytes, token: bytes) -> Found | None:
        """What was kept of a token; None where it has perhaps changed, or is another's."""
        if (
            len(kept) <= LARGEST_KEPT
            and kept.startswith(token, MARK_BYTES)
            and self.sync is not None
            and self.sync.unchanged(subject_of(token), kept[:MARK_BYTES])
        ):
            with contextlib.suppress(DecodeError):
                subject = pb.SubjectAttestations.FromString(kept[MARK_BYTES + len(token) :])
                return _read(subject, as_of=self.kept_as_of)
        return None


@dataclass(slots=True)
class Looking:
    """How far a lookup has come.

    :param now: when it began.
    :param found: by province, what is known.
    :param questions: what is not known yet.
    :param left: provinces whose filters were not asked yet.
    """

    tokens: Sequence[bytes] = field(repr=False)
    subjects: Sequence[bytes] = field(repr=False)
    now: datetime
    found: dict[str, Sequence[Found]]
    questions: list[_Question] = field(default_factory=list, repr=False)
    left: Sequence[str] = ()

    @property
    def done(self) -> bool:
        """Whether all is known, and nobody need be asked."""
        return not (self.questions or self.left)


class _Allowance:
    """How much of one province's answers may still be kept: a bucket that empties with time.

    :param size: of it, in bytes.
    """

    __slots__ = ("_at", "_level", "_size")

    def __init__(self, size: float) -> None:
        self._size = size
        self._level = self._at = 0.0

    def takes(self, size: int, now: float) -> bool:
        """Take so many bytes at a Unix second, if there is room for them."""
        drained = max(0.0, now - self._at) * self._size / KEPT_SECONDS
        self._level, self._at = max(0.0, self._level - drained), now
        if self._level + size > self._size:
            return False
        self._level += size
        return True


class Lookup:
    """Asks the filters, then the answers at hand, and then the provinces themselves.

    :param province: this node's own.
    :param timeout: seconds that a peer has for an answer, at most.
    :param cached_seconds: how long after a province's last word its answers at hand count.
    :param presence_hours: how long after it "no record" by its filter counts.
    :param clock: gives aware datetimes in UTC.
    :param processes: of the node, that keep answers in its store.
    """

    def __init__(
        self,
        *,
        province: str,
        links: Links,
        syncs: Syncs,
        answers: Answers,
        timeout: float,
        cached_seconds: float,
        presence_hours: float,
        clock: Callable[[], datetime],
        processes: int = 1,
    ) -> None:
        self._province = province
        self._links = links
        self._syncs = syncs
        self._answers = answers
        self._timeout = timeout
        self._cached = timedelta(seconds=cached_seconds)
        self._presence = timedelta(hours=presence_hours)
        self._clock = clock
        self._trust: TrustList | None = None
        self._others: tuple[str, ...] = ()
        self._unusable: tuple[str, ...] = ()
        self._allowances: defaultdict[str, _Allowance] = defaultdict(
            lambda: _Allowance(KEPT_BYTES / processes)
        )
        self._nothing: dict[str, tuple[Found]] = {}
        """By province, "no record" by its filter: the same object until more is heard of it."""

    async def lookup(
        self, tokens: Sequence[bytes], call: Call, trust: TrustList, purpose: int = 0
    ) -> dict[str, Sequence[Found]]:
        """What every other province holds of some subjects: `begin`, and then `finish`."""
        return await self.finish(self.begin(tokens, trust), call, purpose)

    def begin(self, tokens: Sequence[bytes], trust: TrustList) -> Looking:
        """See what the filters rule out; of many tokens, that is left to `finish`.

        :param tokens: subject tokens, 36 bytes each.
        """
        if trust is not self._trust:
            self._follow(trust)
        subjects = [subject_of(token) for token in tokens]
        found: dict[str, Sequence[Found]] = {
            code: [_SILENT] * len(subjects) for code in self._unusable
        }
        looking = Looking(tokens, subjects, self._clock(), found)
        if len(subjects) > _BREATH:
            looking.left = self._others
        else:
            looking.questions = self._rule_out(self._others, subjects, looking.now, found)
        return looking

    async def finish(
        self, looking: Looking, call: Call, purpose: int = 0
    ) -> dict[str, Sequence[Found]]:
        """Ask for what is not known yet.

        What is asked of the node's own store is asked before this first waits.

        :param call: for whom: its deadline bounds how long peers are waited for.
        :param purpose: what for, a ``Purpose`` of the contract: the peers' access logs say it.
        :returns: for each other province of the trust list, one `Found` for each token in order.
        :raises StoreUnavailableError: the node's own store does not answer.
        """
        tokens, subjects, found = looking.tokens, looking.subjects, looking.found
        questions = looking.questions
        for code in looking.left:
            questions += self._rule_out((code,), subjects, looking.now, found)
            await asyncio.sleep(0)
        if questions:
            await self._recall(questions, tokens, subjects)
            await self._ask(questions, tokens, call, purpose)
            for question in questions:
                found[question.province] = [each or _SILENT for each in question.found]
        return found

    def _follow(self, trust: TrustList) -> None:
        self._trust = trust
        self._others = tuple(sorted(trust.profiles.keys() - {self._province}))
        self._unusable = tuple(sorted(trust.unusable.keys() - {self._province}))
        self._nothing.clear()

    def _rule_out(
        self,
        provinces: Iterable[str],
        subjects: Sequence[bytes],
        now: datetime,
        found: dict[str, Sequence[Found]],
    ) -> list[_Question]:
        """Fill in what the filters say no to; the questions that are left."""
        questions: list[_Question] = []
        oldest, count = now - self._presence, len(subjects)
        sync_of, nothings = self._syncs.get, self._nothing
        for code in provinces:
            sync = sync_of(code)
            as_of = None if sync is None else sync.as_of
            if sync is None or as_of is None or as_of < oldest:
                questions.append(_Question(code, [None] * count, range(count), sync, None))
                continue
            nothing = nothings.get(code)
            if nothing is None or nothing[0].as_of is not as_of:
                nothing = nothings[code] = (Found((), as_of=as_of),)
            perhaps = sync.perhaps
            places: Sequence[int]
            if count == 1:
                places = _FIRST if perhaps(subjects[0]) else ()
            else:
                places = [at for at, subject in enumerate(subjects) if perhaps(subject)]
            if not places:
                found[code] = nothing * count
                continue
            known: list[Found | None] = [*nothing * count]
            for at in places:
                known[at] = None
            kept_as_of = as_of if as_of >= now - self._cached else None
            questions.append(_Question(code, known, places, sync, kept_as_of))
        return questions

    async def _recall(
        self, questions: Sequence[_Question], tokens: Sequence[bytes], subjects: Sequence[bytes]
    ) -> None:
        """Answer from what the provinces answered before."""
        asked = [question for question in questions if question.kept_as_of is not None]
        places = sorted({at for question in asked for at in question.open})
        if not places:
            return
        answers = await self._answers.get([subjects[at] for at in places])
        kept = dict(zip(places, answers, strict=True))
        for question in asked:
            for at in question.open:
                answer = kept[at].get(question.province)
                if answer is not None:
                    question.found[at] = question.recall(answer, tokens[at])
            question.open = [at for at in question.open if question.found[at] is None]

    async def _ask(
        self,
        questions: Sequence[_Question],
        tokens: Sequence[bytes],
        call: Call,
        purpose: int,
    ) -> None:
        """Answer by calling the provinces."""
        time = asyncio.get_running_loop().time
        end = time() + call.budget(time(), self._timeout)
        asking = [
            self._fetch(
                *(question, question.open[at : at + MOST_TOKENS], tokens),
                *(call, purpose, end),
            )
            for question in questions
            for at in range(0, len(question.open), MOST_TOKENS)
        ]
        if len(asking) == 1:
            await asking[0]
        elif asking:
            await asyncio.gather(*asking)

    async def _fetch(
        self,
        question: _Question,
        places: Sequence[int],
        tokens: Sequence[bytes],
        call: Call,
        purpose: int,
        end: float,
    ) -> None:
        """Call one province, for some of the places that are open."""
        peer = self._links.get(question.province)
        if peer is None:
            return
        request = pb.FetchAttestationsRequest(
            subject_tokens=[tokens[at] for at in places], purpose=types_pb2.Purpose.Name(purpose)
        )
        asked = await self._answer(peer, request, call, end)
        if isinstance(asked, Found):
            for at in places:
                question.found[at] = asked
            return
        answer, calls = asked
        for at, subject in zip(places, answer.subjects, strict=True):
            question.found[at] = _read(subject, calls=calls)
            if question.mark:
                self._keep(question.province, question.mark, tokens[at], subject)

    def _keep(
        self, province: str, mark: bytes, token: bytes, subject: pb.SubjectAttestations
    ) -> None:
        """Keep an answer, if it can be read, and there is room for more of its province."""
        kept = mark + token + subject.SerializeToString()
        if len(kept) > LARGEST_KEPT:
            return
        now = int(self._clock().timestamp())
        until = _first_end(subject, province, token, now + KEPT_SECONDS)
        if until is None or until <= now:
            return
        if self._allowances[province].takes(len(kept) + KEPT_COST, now):
            self._answers.put(province, subject_of(token), kept, until)

    async def _answer(
        self, peer: Peer, request: pb.FetchAttestationsRequest, call: Call, end: float
    ) -> tuple[pb.FetchAttestationsResponse, int] | Found:
        """What a peer answers, and after how many calls; or why there is nothing to go by."""
        time, count = asyncio.get_running_loop().time, len(request.subject_tokens)
        if peer.slots.locked() and peer.circuit_open:
            return _SHUT
        try:
            async with asyncio.timeout_at(end) if peer.slots.locked() else _AT_ONCE:
                await peer.slots.acquire()
        except TimeoutError:
            return _SILENT
        try:
            started = time()
            turn = peer.breaker.admit(started)
            if turn is None:
                return _SHUT
            asking = _Asking(peer, request.SerializeToString(), call, end)
            try:
                data = await asking.answer()
            except grpc.aio.AioRpcError as error:
                # Whoever has little time may be to blame for that, and not the peer.
                code = error.code()
                if (
                    code is grpc.StatusCode.DEADLINE_EXCEEDED
                    and end - started < _SHORT * self._timeout
                ):
                    peer.breaker.dropped(turn, time())
                else:
                    peer.breaker.failed(turn, time())
                    peer.silent(code.name)
                return Found(None, calls=asking.calls)
            except BaseException:
                peer.breaker.dropped(turn, time())
                raise
            peer.answered(time() - started)
        finally:
            peer.slots.release()
        answer = _parse(data, count)
        if answer is None:
            peer.unusable("an answer that cannot be read")
            return Found(None, calls=asking.calls, readable=False)
        return answer, asking.calls


class _Asking:
    """One request to one peer: two calls at most, since it asks for nothing to be done.

    The second goes out if the first was not served (a connection that ends of age may take calls
    with it), or, where the peer has another address, if the first is later than nearly all others
    were. gRPC's own retries would cost every call a seventh.
    """

    def __init__(self, peer: Peer, request: bytes, call: Call, end: float) -> None:
        self._peer = peer
        self._request = request
        self._metadata = (("x-request-id", call.request_id),)
        self._end = end
        self._time = asyncio.get_running_loop().time
        self.calls = 0

    async def answer(self) -> bytes:
        """The first answer that comes.

        :raises AioRpcError: none does.
        """
        if len(self._peer.links) > 1:
            return await self._either(*self._peer.links[:2])
        link = self._peer.link
        try:
            return await self._call(link)
        except grpc.aio.AioRpcError as error:
            if not (self._peer.up and _was_not_served(error)):
                raise
            return await self._call(link)

    async def _call(self, link: Link) -> bytes:
        self.calls += 1
        self._peer.calls += 1
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        left = max(0.0, self._end - self._time())
        try:
            method = link.channel.unary_unary(_FETCH)
            return await method(self._request, timeout=left, metadata=self._metadata)
        except grpc.aio.UsageError:  # the link is closed: the peer has left
            raise _gone() from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _gone() from None  # it was closed during the call

    async def _either(self, first: Link, second: Link) -> bytes:
        loop = asyncio.get_running_loop()
        early = loop.create_task(self._call(first))
        ways = {early: first}
        try:
            await asyncio.wait(ways, timeout=self._patience())
            if not early.done() or _was_not_served(early.exception()):
                ways[loop.create_task(self._call(second))] = second
            waiting = set(ways)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        if task is not early:
                            self._peer.late(first)
                        return task.result()
            return early.result()
        finally:
            for task in ways:
                task.cancel()

    def _patience(self) -> float:
        """Seconds until the first call is late, by what this peer's answers took before."""
        left = max(0.0, self._end - self._time())
        late = self._peer.latency.late
        return left / 4 if late is None else min(max(late, _SOONEST_SECONDS), left / 2)


def _was_not_served(error: BaseException | None) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


def _gone() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "the peer has left")


def _parse(data: bytes, expected: int) -> pb.FetchAttestationsResponse | None:
    """An answer, if it can be read and speaks of as many subjects as were asked for."""
    if len(data) > LARGEST_SUBJECT * expected:
        return None
    try:
        answer = pb.FetchAttestationsResponse.FromString(data)
    except DecodeError:
        return None
    return answer if len(answer.subjects) == expected else None


def _read(
    subject: pb.SubjectAttestations, *, as_of: datetime | None = None, calls: int = 0
) -> Found:
    most = MOST_PER_PROVINCE + 1  # so that one too many is seen, and no more are carried about
    return Found(
        subject.signed_attestations[:most],
        subject.revoked_attestations[:most],
        as_of=as_of,
        calls=calls,
    )


def _first_end(
    subject: pb.SubjectAttestations, province: str, token: bytes, latest: int
) -> int | None:
    """The Unix second when something in an answer ends; its province forgets it, and so must we.

    :return: None where something in it is no attestation of the province and the token.
    """
    for signed in (*subject.signed_attestations, *subject.revoked_attestations):
        try:
            message = cose.parse(signed, cose.ObjectType.ATTESTATION)
            found = attestations.decode(message.payload)
        except TongxingError:
            return None
        if found.province != province or found.token != token:
            return None
        latest = min(latest, int(found.expires_at.timestamp()))
    return latest
