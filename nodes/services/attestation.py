"""AttestationService: issuers publish, read and revoke at their own province's node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID

import protovalidate
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from exchange import publication, status, views
from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import (
    CallerNotAllowedError,
    InternalError,
    InvalidFieldError,
    RevokedError,
    TongxingError,
)
from exchange.facts import Kind
from exchange.subjects import check_credit_code
from exchange.trust.trustlist import TrustList
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.audit.entries import Entry, Recorder
from nodes.call import Call
from nodes.identity import Identity, Role
from nodes.publisher import Publisher, called
from nodes.services.acts import whole
from nodes.services.limits import Limit
from nodes.services.validation import check
from nodes.store.attestations import AttestationStore
from nodes.store.records import Note, Progress

__all__ = ["AttestationService"]

log = structlog.get_logger(__name__)

IN_FLIGHT = 512
"""Items of one stream that are being stored at once: enough to share an fsync among."""

PROGRESS_SECONDS = 0.5
"""How often, at most, a revocation through the whole store says how far it has come."""

WALKS = 2
"""Revocations through the whole store at once: each takes its time from all other reads."""

_Revoking = (
    pb.RevokeAttestationRequest
    | pb.BatchRevokeAttestationsRequest
    | pb.RevokeIssuerAttestationsRequest
)


class AttestationService:
    """Signs with the province's key; what it acknowledges is on disk.

    Who reads or revokes is recorded. A revocation that was made and could not be recorded answers
    AuditUnavailableError: nothing that must end lives on for want of a log, and revoking again does
    no harm.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["AttestationService"]

    def __init__(
        self,
        *,
        store: AttestationStore,
        publisher: Publisher,
        verifier: AttestationVerifier,
        trust: Callable[[], TrustList],
        clock: Callable[[], datetime],
        audit: Recorder,
    ) -> None:
        self._store = store
        self._audit = audit
        self._publisher = publisher
        self._verifier = verifier
        self._trust = trust
        self._clock = clock
        self._walks = Limit("revocations through the whole store", each=1, total=WALKS)

    async def publish_attestation(
        self, request: pb.PublishAttestationRequest, call: Call
    ) -> pb.PublishAttestationResponse:
        """Sign and store one."""
        signed, attestation, already = await self._publisher.publish(request, call.caller)
        return pb.PublishAttestationResponse(
            attestation=views.attestation_to_proto(signed, attestation), already_published=already
        )

    async def publish_attestations(
        self, requests: AsyncIterator[pb.PublishAttestationsRequest], call: Call
    ) -> AsyncIterator[pb.PublishAttestationsResponse]:
        """Sign and store many at once; each message is answered as soon as it is on disk."""
        answers: asyncio.Queue[pb.PublishAttestationsResponse | None] = asyncio.Queue()
        room = asyncio.Semaphore(IN_FLIGHT)

        async def store(request: pb.PublishAttestationsRequest) -> None:
            if request.items:
                each = (self._publish_item(item, call, among=True) for item in request.items)
                answer = pb.PublishAttestationsResponse(items=await asyncio.gather(*each))
            else:
                answer = await self._publish_item(request, call)
            answers.put_nowait(answer)

        async def pump() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    async for request in requests:
                        for _ in range(_items(request)):
                            await room.acquire()
                        group.create_task(store(request))
            finally:
                answers.put_nowait(None)

        pumping = asyncio.create_task(pump())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
                for _ in range(len(answer.items) or 1):
                    room.release()  # once it is sent: who does not read is not read from
            await pumping
        finally:
            pumping.cancel()

    async def _publish_item(
        self, request: pb.PublishAttestationsRequest, call: Call, *, among: bool = False
    ) -> pb.PublishAttestationsResponse:
        answer = pb.PublishAttestationsResponse(index=request.index)
        try:
            _check(request)
            _, attestation, already = await self._publisher.publish(
                request, call.caller, among=among
            )
        except TongxingError as error:
            answer.status.CopyFrom(status.to_status(error, request_id=call.request_id))
        except protovalidate.EvaluationError:
            answer.status.CopyFrom(status.to_status(InternalError("the contract's rules failed")))
        else:
            answer.attestation_id = str(attestation.id)
            answer.already_published = already
        return answer

    @whole
    async def revoke_attestation(
        self, request: pb.RevokeAttestationRequest, call: Call
    ) -> pb.RevokeAttestationResponse:
        """End one for good."""
        note, now = self._note(request, call.caller)
        id_ = UUID(request.attestation_id)
        at = await self._store.revoke(id_.bytes, _whose(call.caller), now, note)
        _log_revoked(id_, at, now, note)
        self._record(call, "RevokeAttestation", str(id_), _word(at, now))
        return pb.RevokeAttestationResponse(revoke_time=Timestamp(seconds=at))

    @whole
    async def batch_revoke_attestations(
        self, request: pb.BatchRevokeAttestationsRequest, call: Call
    ) -> pb.BatchRevokeAttestationsResponse:
        """End many for good; each answers for itself."""
        note, now = self._note(request, call.caller)
        items: list[UUID | TongxingError] = [_read_id(text) for text in request.attestation_ids]
        ids = [item for item in items if isinstance(item, UUID)]
        results = await self._store.revoke_many(
            [id_.bytes for id_ in ids], _whose(call.caller), now, note
        )
        for id_, result in zip(ids, results, strict=True):
            if isinstance(result, int):
                _log_revoked(id_, result, now, note)
                self._record(call, "BatchRevokeAttestations", str(id_), _word(result, now))
        left = iter(results)
        answer = pb.BatchRevokeAttestationsResponse()
        for at, item in enumerate(items):
            result = next(left) if isinstance(item, UUID) else item
            answered = answer.items.add()
            if isinstance(result, TongxingError):
                result.field = f"attestation_ids[{at}]"
                error = status.to_status(result, request_id=call.request_id)
                answered.status.CopyFrom(error)
            else:
                answered.revoke_time.seconds = result
        return answer

    async def revoke_issuer_attestations(
        self, request: pb.RevokeIssuerAttestationsRequest, call: Call
    ) -> AsyncIterator[pb.RevokeIssuerAttestationsResponse]:
        """End all that one issuer sampled in a range of time, or count it.

        :raises OverloadedError: the caller has one under way, or the node has enough of them.
        """
        note, now = self._note(request, call.caller)
        code = check_credit_code(request.credit_code)
        if call.caller.role is Role.ISSUER and code != call.caller.name:
            raise CallerNotAllowedError(
                "an issuer revokes its own attestations only",
                field="credit_code",
                remedy="call with the certificate of that issuer, or have an admin revoke them",
            )
        wanted = _batch(request)
        loop = asyncio.get_running_loop()
        progress, done = Progress(0, 0, 0), False
        said = loop.time()
        with self._walks.hold(call.caller):
            try:
                async for progress in self._store.revoke_issuer(
                    code, wanted, now, note, validate_only=request.validate_only
                ):
                    if loop.time() - said >= PROGRESS_SECONDS:
                        said = loop.time()
                        yield _progress(progress)
                done = True
            finally:  # whoever called, and whether they heard the end: what was done is on record
                if not request.validate_only:
                    log.info(
                        "attestation.issuer_revoked",
                        issuer=code,
                        sampled_from=request.sample_start_time.ToJsonString(),
                        sampled_before=request.sample_end_time.ToJsonString(),
                        kinds=[types_pb2.Kind.Name(kind) for kind in request.kinds],
                        done=done,
                        revoked=progress.revoked,
                        already_revoked=progress.already_revoked,
                        by=note.by,
                        authority=note.authority,
                        reason=note.reason,
                    )
                    words = f"{progress.revoked} revoked"
                    if not done:  # nor heard of what was on its way
                        words = f"at least {words}, not to the end"
                    self._record(call, "RevokeIssuerAttestations", code, words)
        yield _progress(progress, done=True)

    def _note(self, request: _Revoking, caller: Identity) -> tuple[Note, int]:
        """Why, and when: Unix seconds."""
        now = self._clock()
        publication.check_revocation(request.reason, request.authority, now)
        return Note(request.reason, request.authority, called(caller)), int(now.timestamp())

    async def get_attestation(
        self, request: pb.GetAttestationRequest, call: Call
    ) -> pb.GetAttestationResponse:
        """Read one that the caller published."""
        id_ = UUID(request.attestation_id).bytes
        try:
            signed = await self._store.get(id_, call.caller.name)
        except RevokedError as error:
            raise await self._explained(error, id_) from None
        attestation = self._verifier.verify(signed, self._trust(), self._clock())
        self._record(call, "GetAttestation", str(attestation.id), "given", attestation.token)
        return pb.GetAttestationResponse(
            attestation=views.attestation_to_proto(signed, attestation)
        )

    def _record(
        self, call: Call, method: str, target: str, answer: str, token: bytes | None = None
    ) -> None:
        caller, request_id = call.caller.uri, call.request_id
        self._audit.record(Entry(caller, method, request_id, answer, token, target=target))

    async def _explained(self, error: RevokedError, id_: bytes) -> RevokedError:
        """The error with the words that the revocation was given."""
        found = await self._store.revocation(id_)
        if found is None:
            return error
        at = datetime.fromtimestamp(found.at, UTC)
        why = f": {found.note.reason}" if found.note.reason else ""
        ordered = f" (ordered by {found.note.authority})" if found.note.authority else ""
        return RevokedError(f"revoked at {at:%Y-%m-%dT%H:%M:%SZ}{why}{ordered}", field=error.field)


def _items(request: pb.PublishAttestationsRequest) -> int:
    """How many items a message has.

    :raises InvalidFieldError: it has too many, or is one and has some.
    """
    if not request.items:
        return 1
    check(request)
    if request.index or request.WhichOneof("content"):
        raise InvalidFieldError(
            "stand beside an item of the message's own", field="items", remedy="put it among them"
        )
    return len(request.items)


def _check(item: pb.PublishAttestationsRequest) -> None:
    """Hold an item against the rules for `PublishAttestationRequest`, of which the stream has none.

    :raises InvalidFieldError: the first rule that it breaks; names the field.
    """
    content = item.WhichOneof("content")
    if item.items:
        raise InvalidFieldError(
            "within an item", field="items", remedy="put them beside it, into the same message"
        )
    if content is None:
        check(pb.PublishAttestationRequest())
    elif content == "attestation":
        try:
            check(item.attestation)
        except InvalidFieldError as error:
            raise error.at(content) from None


def _whose(caller: Identity) -> str | None:
    """Whose attestations a caller may revoke: its own; an admin any of the province (None)."""
    return None if caller.role is Role.ADMIN else caller.name


def _read_id(text: str) -> UUID | InvalidFieldError:
    try:
        id_ = UUID(text)
    except ValueError:
        id_ = None
    # UUID takes more spellings than the contract: braces, a prefix, no hyphens.
    if id_ is None or str(id_) != text.lower():
        return InvalidFieldError("not a UUID", remedy="write it with hyphens (RFC 9562)")
    return id_


def _batch(request: pb.RevokeIssuerAttestationsRequest) -> Callable[[Attestation], bool]:
    """Whether an attestation of the issuer is one of those that are to be revoked.

    :raises InvalidFieldError: the range of time; names the field.
    """
    end_field = "sample_end_time"
    start = views.time_from_proto(request.sample_start_time, field="sample_start_time")
    end = views.time_from_proto(request.sample_end_time, field=end_field)
    publication.check_span(start, end, field=end_field)
    names = [types_pb2.Kind.Name(kind).removeprefix("KIND_") for kind in request.kinds]
    kinds = frozenset(map(Kind, names) if names else Kind)
    return lambda found: found.fact.kind in kinds and start <= found.fact.sampled_at < end


def _progress(progress: Progress, *, done: bool = False) -> pb.RevokeIssuerAttestationsResponse:
    return pb.RevokeIssuerAttestationsResponse(
        looked_at=progress.looked_at,
        revoked=progress.revoked,
        already_revoked=progress.already_revoked,
        done=done,
    )


def _word(at: int, now: int) -> str:
    return "revoked" if at == now else "already revoked"


def _log_revoked(id_: UUID, at: int, now: int, note: Note) -> None:
    if at == now:  # else it was revoked before, and logged then
        log.info(
            "attestation.revoked",
            id=str(id_),
            by=note.by,
            authority=note.authority,
            reason=note.reason,
        )
