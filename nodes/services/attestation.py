"""AttestationService: issuers publish, read and revoke at their own province's node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import protovalidate
from google.protobuf.timestamp_pb2 import Timestamp

from exchange import attestations, publication, status, views
from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import (
    IdTakenError,
    InternalError,
    InvalidFieldError,
    TongxingError,
    UnknownIssuerError,
)
from exchange.trust.trustlist import TrustList
from exchange.v1 import attestation_service_pb2 as pb
from nodes.call import Call
from nodes.keyring import Keyring
from nodes.services.validation import check
from nodes.store.attestations import AttestationStore, NewRecord, Published
from nodes.subjects import SubjectKeys

__all__ = ["AttestationService"]

IN_FLIGHT = 512
"""Items of one stream that are being stored at once: enough to share an fsync among."""


class AttestationService:
    """Signs with the province's key; what it acknowledges is on disk."""

    descriptor = pb.DESCRIPTOR.services_by_name["AttestationService"]

    def __init__(
        self,
        *,
        province: str,
        store: AttestationStore,
        keyring: Keyring,
        verifier: AttestationVerifier,
        trust: Callable[[], TrustList],
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
    ) -> None:
        self._province = province
        self._store = store
        self._keyring = keyring
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock

    async def publish_attestation(
        self, request: pb.PublishAttestationRequest, call: Call
    ) -> pb.PublishAttestationResponse:
        """Sign and store one."""
        signed, attestation, already = await self._publish(request, call)
        return pb.PublishAttestationResponse(
            attestation=views.attestation_to_proto(signed, attestation), already_published=already
        )

    async def publish_attestations(
        self, requests: AsyncIterator[pb.PublishAttestationsRequest], call: Call
    ) -> AsyncIterator[pb.PublishAttestationsResponse]:
        """Sign and store many at once; each answers as soon as it is on disk."""
        answers: asyncio.Queue[pb.PublishAttestationsResponse | None] = asyncio.Queue()
        room = asyncio.Semaphore(IN_FLIGHT)

        async def store(request: pb.PublishAttestationsRequest) -> None:
            answers.put_nowait(await self._publish_item(request, call))

        async def pump() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    async for request in requests:
                        await room.acquire()
                        group.create_task(store(request))
            finally:
                answers.put_nowait(None)

        pumping = asyncio.create_task(pump())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
                room.release()  # once it is sent: who does not read is not read from
            await pumping
        finally:
            pumping.cancel()

    async def _publish_item(
        self, request: pb.PublishAttestationsRequest, call: Call
    ) -> pb.PublishAttestationsResponse:
        item = pb.PublishAttestationRequest()
        if request.WhichOneof("content") == "signed_attestation":
            item.signed_attestation = request.signed_attestation
        elif request.HasField("attestation"):
            item.attestation.CopyFrom(request.attestation)
        answer = pb.PublishAttestationsResponse(index=request.index)
        try:
            check(item)
            _, attestation, already = await self._publish(item, call)
        except TongxingError as error:
            answer.status.CopyFrom(status.to_status(error, request_id=call.request_id))
        except protovalidate.EvaluationError:
            answer.status.CopyFrom(status.to_status(InternalError("the contract's rules failed")))
        else:
            answer.attestation_id = str(attestation.id)
            answer.already_published = already
        return answer

    async def _publish(
        self, request: pb.PublishAttestationRequest, call: Call
    ) -> tuple[bytes, Attestation, bool]:
        now = self._clock()
        if request.WhichOneof("content") == "signed_attestation":
            signed = request.signed_attestation
            attestation = self._accept_signed(signed, call, now)
            await self._check_superseded(attestation, (attestation.token,), call)
            stored = await self._stored(attestation, now, signed)
        else:
            attestation, stored = await self._publish_new(request.attestation, call, now)
        if stored.already:
            attestation = self._verifier.verify(stored.signed, self._trust(), now)
        return stored.signed, attestation, stored.already

    async def _publish_new(
        self, message: pb.NewAttestation, call: Call, now: datetime
    ) -> tuple[Attestation, Published]:
        key, ends = self._subjects.current(now)
        drafted = publication.draft(
            message, province=self._province, author=call.caller.name, epoch=key, now=now
        )
        _check_outlived(drafted, ends, "attestation.expire_time")
        if drafted.supersedes is not None:
            await self._check_superseded(drafted, self._tokens(message, now), call)
        try:
            return drafted, await self._stored(drafted, now)
        except IdTakenError:
            # Perhaps by the same fact, first published under the epoch before.
            old = await self._store.record(drafted.id.bytes)
            if old is None or old.token not in self._tokens(message, now):
                raise
            again = replace(drafted, token=old.token)
            return again, await self._stored(again, now)

    def _tokens(self, message: pb.NewAttestation, now: datetime) -> Collection[bytes]:
        """The holder's tokens under every epoch in force."""
        document = publication.read_document(message.document, now, field="attestation.document")
        return [document.token(key) for key in self._subjects.in_force(now)]

    async def _stored(
        self, attestation: Attestation, now: datetime, signed: bytes = b""
    ) -> Published:
        new = NewRecord(
            id=attestation.id.bytes,
            token=attestation.token,
            issuer=attestation.issuer.credit_code,
            digest=attestations.digest(attestation),
            expires=int(attestation.expires_at.timestamp()),
            signed=signed or self._signed(attestation),
        )
        stored = await self._store.publish(new)
        if not stored.already or self._counts(stored.signed, now):
            return stored
        # Its key was revoked since, and the issuer says the same again: it counts under the new.
        held = await self._store.replace(new, stored.signed)
        return Published(held, already=held != new.signed)

    def _counts(self, signed: bytes, now: datetime) -> bool:
        """Whether the key of what is stored still vouches for it."""
        try:
            self._verifier.verify(signed, self._trust(), now)
        except UnknownIssuerError:
            return False
        return True

    def _signed(self, attestation: Attestation) -> bytes:
        # Chosen anew each time: what was retired or revoked while the node runs signs nothing more.
        return attestations.sign(attestation, self._keyring.signer(self._trust()))

    def _accept_signed(self, signed: bytes, call: Call, now: datetime) -> Attestation:
        field = "signed_attestation"
        try:
            attestation = self._verifier.verify(signed, self._trust(), now)
        except InvalidFieldError as error:
            raise error.at(field) from None
        if attestation.province != self._province:
            raise InvalidFieldError(
                f"of {attestation.province}, and this node is of {self._province}",
                field=f"{field}.iss",
            )
        code = attestation.issuer.credit_code
        publication.check_author(code, call.caller.name, field=f"{field}.health.issuer.credit_code")
        epoch = int.from_bytes(attestation.token[:4])
        ends = self._subjects.ends(epoch, now)
        if ends is None:
            raise InvalidFieldError(f"epoch {epoch} is not in use", field=f"{field}.sub")
        _check_outlived(attestation, ends, f"{field}.exp")
        return attestation

    async def _check_superseded(
        self, attestation: Attestation, tokens: Collection[bytes], call: Call
    ) -> None:
        if attestation.supersedes is None:
            return
        old = await self._store.record(attestation.supersedes.bytes)
        if old is None or old.issuer != call.caller.name or old.token not in tokens:
            raise InvalidFieldError(
                "no live attestation of this issuer and holder bears the id",
                field="attestation.supersedes",
                remedy="correct another holder's by revoking it",
            )
        if old.expires > attestation.expires_at.timestamp():
            raise InvalidFieldError(
                "outlives its correction, and would count again after it",
                field="attestation.supersedes",
                remedy="publish the correction with the same expire_time, and revoke the old one",
            )

    async def revoke_attestation(
        self, request: pb.RevokeAttestationRequest, call: Call
    ) -> pb.RevokeAttestationResponse:
        """End one for good."""
        at = await self._store.revoke(
            UUID(request.attestation_id).bytes,
            call.caller.name,
            int(self._clock().astimezone(UTC).timestamp()),
        )
        return pb.RevokeAttestationResponse(revoke_time=Timestamp(seconds=at))

    async def get_attestation(
        self, request: pb.GetAttestationRequest, call: Call
    ) -> pb.GetAttestationResponse:
        """Read one that the caller published."""
        signed = await self._store.get(UUID(request.attestation_id).bytes, call.caller.name)
        attestation = self._verifier.verify(signed, self._trust(), self._clock())
        return pb.GetAttestationResponse(
            attestation=views.attestation_to_proto(signed, attestation)
        )


def _check_outlived(attestation: Attestation, ends: datetime, field: str) -> None:
    """Refuse what nobody would ask for any more while it still counts: it might be a red."""
    if attestation.expires_at > ends:
        raise InvalidFieldError(
            f"outlives the epoch of its subject token, which ends at {ends:%Y-%m-%dT%H:%M:%SZ}",
            field=field,
            remedy="the exchange's next epoch is due; until then, give an earlier end",
        )
