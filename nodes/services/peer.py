"""PeerService: what this province answers the others."""

from __future__ import annotations

from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.store.attestations import AttestationStore

__all__ = ["PeerService"]

_TAG = b"\x0a"  # field 1, length-delimited: both `subjects` and `signed_attestations`


class PeerService:
    """Answers from the store; the records go out as they lie there, never decoded."""

    descriptor = pb.DESCRIPTOR.services_by_name["PeerService"]

    def __init__(self, store: AttestationStore) -> None:
        self._store = store

    async def fetch_attestations(self, request: pb.FetchAttestationsRequest, call: Call) -> bytes:
        """A FetchAttestationsResponse in its wire form."""
        del call
        tokens = request.subject_tokens
        if len(tokens) == 1:
            return _spliced((await self._store.lookup(tokens[0]),))
        return _spliced(await self._store.lookup_many(tokens))


def _spliced(subjects: list[list[bytes]] | tuple[list[bytes]]) -> bytes:
    parts: list[bytes] = []
    for records in subjects:
        inner = b"".join([part for r in records for part in (_TAG, _varint(len(r)), r)])
        parts += (_TAG, _varint(len(inner)), inner)
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
