"""PeerService: what this province answers the others, and tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Revoked
from nodes.store.feed import Batch, Feed
from nodes.store.records import Held

__all__ = ["PeerService"]

_LIVE: Final = b"\x0a"  # field 1, length-delimited: both `subjects` and `signed_attestations`
_REVOKED: Final = b"\x12"  # field 2, length-delimited: `revoked_attestations`
_CHUNK: Final = 1 << 20


class PeerService:
    """Answers from the store; the records go out as they lie there, never decoded.

    :param feed: its changes and its presence filter.
    :param revoked: gives the bits of each own status list in which anything is revoked.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["PeerService"]

    def __init__(
        self,
        store: AttestationStore,
        feed: Feed,
        revoked: Callable[[], Awaitable[Mapping[int, bytes | bytearray]]],
    ) -> None:
        self._store = store
        self._feed = feed
        self._revoked = revoked
        self._encoded: tuple[Batch | None, bytes] = (None, b"")

    async def fetch_attestations(self, request: pb.FetchAttestationsRequest, call: Call) -> bytes:
        """A FetchAttestationsResponse in its wire form."""
        del call
        tokens = request.subject_tokens
        if len(tokens) == 1:
            return _spliced((await self._store.lookup(tokens[0]),))
        return _spliced(await self._store.lookup_many(tokens))

    async def watch_changes(
        self, request: pb.WatchChangesRequest, call: Call
    ) -> AsyncIterator[bytes]:
        """WatchChangesResponses in their wire form.

        :raises CursorExpiredError: they cannot be continued from the request's cursor.
        """
        del call
        async for batch in self._feed.watch(request.cursor):
            yield self._encode(batch)

    async def get_presence(
        self, request: pb.GetPresenceRequest, call: Call
    ) -> AsyncIterator[pb.GetPresenceResponse]:
        """The presence filter, as soon as there is one, and then the revoked places."""
        del request, call
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
        for number, bits in (await self._revoked()).items():
            yield pb.GetPresenceResponse(revoked=pb.RevokedPlaces(list=number, bits=bytes(bits)))

    def _encode(self, batch: Batch) -> bytes:
        """Encode a batch once for all who watch: they come one right after the other."""
        last, encoded = self._encoded
        if batch is not last:
            encoded = _message(batch).SerializeToString()
            self._encoded = (batch, encoded)
        return encoded


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


def _spliced(subjects: Sequence[Held]) -> bytes:
    parts: list[bytes] = []
    for held in subjects:
        inner = b"".join([part for r in held.signed for part in (_LIVE, _varint(len(r)), r)])
        if held.revoked:
            inner += b"".join(
                [part for r in held.revoked for part in (_REVOKED, _varint(len(r)), r)]
            )
        parts += (_LIVE, _varint(len(inner)), inner)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """An unsigned varint (protobuf encoding)."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
