"""PeerService: what this province answers the others, and tells them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from exchange.errors import OverloadedError
from exchange.v1 import peer_service_pb2 as pb
from exchange.wire import varint
from nodes.audit.entries import Entry, Recorder
from nodes.call import Call
from nodes.services.limits import Limit
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Revoked
from nodes.store.feed import Batch, Feed
from nodes.store.records import Held

__all__ = ["PeerService"]

_LIVE: Final = b"\x0a"  # field 1, length-delimited: both `subjects` and `signed_attestations`
_REVOKED: Final = b"\x12"  # field 2, length-delimited: `revoked_attestations`
_CHUNK: Final = 1 << 20

WATCHES: Final = 64
"""Streams of changes that a province may have: one for each process of its nodes, all of which may
have come to this one, and some that broke unnoticed."""
PRESENCES: Final = 8
"""Presence filters that a province may read at once: its processes may start together."""


class PeerService:
    """Answers from the store; the records go out as they lie there, never decoded.

    :param feed: its changes and its presence filter.
    :param audit: where it is recorded what was sent of whom, to whom, and what for.
    :param revoked: goes through the own status lists in which anything is revoked: the number and
        the bits of each.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["PeerService"]

    def __init__(
        self,
        store: AttestationStore,
        feed: Feed,
        revoked: Callable[[], AsyncIterator[tuple[int, bytes | bytearray]]],
        audit: Recorder,
    ) -> None:
        self._store = store
        self._audit = audit
        self._feed = feed
        self._revoked = revoked
        self._encoded: tuple[Batch | None, bytes] = (None, b"")
        self._watching: defaultdict[str, deque[_Watch]] = defaultdict(deque)
        # Those that were replaced and have yet to end count too.
        self._watches = Limit("streams of changes", each=2 * WATCHES)
        self._presences = Limit("readings of the presence filter", each=PRESENCES)

    async def fetch_attestations(self, request: pb.FetchAttestationsRequest, call: Call) -> bytes:
        """A FetchAttestationsResponse in its wire form.

        :raises AuditUnavailableError: it cannot be recorded of whom something is sent.
        """
        tokens = request.subject_tokens
        found: Sequence[Held]
        if len(tokens) == 1:
            found = (await self._store.lookup(tokens[0]),)
        else:
            found = await self._store.lookup_many(tokens)
        sent = [
            (token, _sent(held))
            for token, held in zip(tokens, found, strict=True)
            if held.signed or held.revoked
        ]
        if sent:
            self._audit.record_all(
                Entry(
                    call.caller.uri,
                    "FetchAttestations",
                    call.request_id,
                    "",
                    purpose=request.purpose,
                ),
                sent,
            )
        return _spliced(found)

    async def watch_changes(
        self, request: pb.WatchChangesRequest, call: Call
    ) -> AsyncIterator[bytes]:
        """WatchChangesResponses in their wire form.

        A province's newest streams win: who comes back over another line than one that broke is
        not made to wait until the break is noticed here.

        :raises CursorExpiredError: they cannot be continued from the request's cursor.
        :raises OverloadedError: the province has too many streams, or opened newer ones.
        """
        with self._watches.hold(call.caller.province), self._newest(call.caller.province) as watch:
            batches = self._feed.watch(request.cursor)
            while (batch := await watch.next(batches)) is not None:
                yield self._encode(batch)

    @contextlib.contextmanager
    def _newest(self, province: str) -> Iterator[_Watch]:
        """Watch for a province; the oldest that it has beyond its limit ends."""
        watching = self._watching[province]
        watching.append(watch := _Watch())
        try:
            if len(watching) > WATCHES:
                watching.popleft().end()
            yield watch
        finally:
            with contextlib.suppress(ValueError):  # it was ended
                watching.remove(watch)

    async def get_presence(
        self, request: pb.GetPresenceRequest, call: Call
    ) -> AsyncIterator[pb.GetPresenceResponse]:
        """The presence filter, as soon as there is one, and then the revoked places.

        :raises OverloadedError: the caller's province reads enough of them already.
        """
        del request
        with self._presences.hold(call.caller.province):
            async for part in self._presence():
                yield part

    async def _presence(self) -> AsyncIterator[pb.GetPresenceResponse]:
        found = await self._feed.presence()
        header = pb.PresenceHeader(
            cursor=found.cursor,
            generation=found.generation,
            size=len(found.bits),
            hashes=found.hashes,
            subjects=found.subjects,
            as_of_time=found.as_of,
            heartbeat=timedelta(seconds=self._feed.heartbeat),
        )
        yield pb.GetPresenceResponse(header=header)
        for at in range(0, len(found.bits), _CHUNK):
            yield pb.GetPresenceResponse(bits=bytes(found.bits[at : at + _CHUNK]))
        # Read after the cursor was taken: what is revoked later is heard of in the changes.
        async for number, bits in self._revoked():
            yield pb.GetPresenceResponse(revoked=pb.RevokedPlaces(list=number, bits=bytes(bits)))

    def _encode(self, batch: Batch) -> bytes:
        """Encode a batch once for all who watch: they come one right after the other."""
        last, encoded = self._encoded
        if batch is not last:
            encoded = _message(batch).SerializeToString()
            self._encoded = (batch, encoded)
        return encoded


class _Watch:
    """One stream of changes, which others may end while it waits."""

    __slots__ = ("_ended", "_waiting")

    def __init__(self) -> None:
        self._ended = False
        self._waiting: asyncio.Timeout | None = None

    def end(self) -> None:
        """Let `next` raise: the one that waits now, else the next one."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def next(self, batches: AsyncIterator[Batch]) -> Batch | None:
        """Give the next batch; None at their end.

        :raises OverloadedError: the stream was ended.
        """
        if self._ended:
            raise _replaced()
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await anext(batches, None)
        except TimeoutError:
            if self._ended:
                raise _replaced() from None
            raise
        finally:
            self._waiting = None


def _replaced() -> OverloadedError:
    return OverloadedError(
        f"the province has {WATCHES} newer streams of changes", remedy="keep one open, not many"
    )


def _message(batch: Batch) -> pb.WatchChangesResponse:
    return pb.WatchChangesResponse(
        cursor=batch.cursor,
        as_of_time=batch.as_of,
        subjects=batch.subjects,
        revocations=[_revocation(each) for each in batch.revoked],
        presence_generation=batch.generation,
    )


def _revocation(revoked: Revoked) -> pb.Revocation:
    place = None
    if revoked.place is not None:
        place = pb.StatusPlace(list=revoked.place[0], index=revoked.place[1])
    return pb.Revocation(attestation_id=revoked.id, subject=revoked.subject, place=place)


def _sent(held: Held) -> str:
    """What a province was sent of one subject, in words of the access log."""
    live, revoked = len(held.signed), len(held.revoked)
    words = "1 attestation" if live == 1 else f"{live} attestations"
    return f"{words}, {revoked} revoked" if revoked else words


def _spliced(subjects: Sequence[Held]) -> bytes:
    parts: list[bytes] = []
    for held in subjects:
        inner = b"".join([part for r in held.signed for part in (_LIVE, varint(len(r)), r)])
        if held.revoked:
            inner += b"".join(
                [part for r in held.revoked for part in (_REVOKED, varint(len(r)), r)]
            )
        parts += (_LIVE, varint(len(inner)), inner)
    return b"".join(parts)
