"""How a province publishes: what its issuers say is signed, given a place, stored and corrected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import structlog

from exchange import attestations, publication
from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import (
    IdTakenError,
    InvalidFieldError,
    NotFoundError,
    UnknownIssuerError,
)
from exchange.statuslist import StatusReference
from exchange.trust.trustlist import TrustList
from exchange.v1 import attestation_service_pb2 as pb
from nodes.identity import Identity
from nodes.keyring import Keyring
from nodes.store.attestations import AttestationStore
from nodes.store.records import NewRecord, Note, Published
from nodes.store.statuses import StatusStore
from nodes.subjects import SubjectKeys

__all__ = ["Publisher", "called"]

log = structlog.get_logger(__name__)

SIGNED = "signed_attestation"

Publication = pb.PublishAttestationRequest | pb.PublishAttestationsRequest
"""What says what to publish, and says it alike."""


class Publisher:
    """Signs with the province's key; what it returns is on disk."""

    def __init__(
        self,
        *,
        province: str,
        store: AttestationStore,
        statuses: StatusStore,
        keyring: Keyring,
        verifier: AttestationVerifier,
        trust: Callable[[], TrustList],
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
    ) -> None:
        self._province = province
        self._store = store
        self._statuses = statuses
        self._keyring = keyring
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock
        self._opened: set[int] = set()

    async def publish(
        self, request: Publication, author: Identity, *, among: bool = False
    ) -> tuple[bytes, Attestation, bool]:
        """Publish one attestation; again, it is the same one.

        What it corrects (纠错) is revoked before this returns. A crash between the two leaves both
        standing, and nobody was told that it is done: whoever publishes again ends the old one.

        :param request: satisfies the contract's rules already.
        :param author: the issuer that calls.
        :param among: many that are published at once: all of them come as far, before any goes on.
            What a step needs then stays in the processor's caches: a sixth of an item's time.
        :returns: the signed bytes that stand in the store, what they say, and whether they stood
            there before.
        :raises TongxingError: as the contract says; names the field.
        """
        if among:
            await asyncio.sleep(0)
        now = self._clock()
        if request.WhichOneof("content") == SIGNED:
            signed = request.signed_attestation
            attestation = await self._accept(signed, author, now)
            old = await self._superseded(
                attestation, (attestation.token,), author, f"{SIGNED}.health.supersedes"
            )
            record = _record(attestation, signed, attestations.digest(attestation))
            stored = await self._store.publish(record)
            if stored.already and not self._counts(stored.signed, now):
                stored = await self._replace(record, stored)
        else:
            attestation, stored, old = await self._publish_new(
                request.attestation, author, now, among=among
            )
        if old is not None:
            await self._retire(old, attestation, author, now)
        if stored.already:
            attestation = self._verifier.verify(stored.signed, self._trust(), now)
        return stored.signed, attestation, stored.already

    async def _publish_new(
        self, message: pb.NewAttestation, author: Identity, now: datetime, *, among: bool
    ) -> tuple[Attestation, Published, UUID | None]:
        key, ends = self._subjects.current(now)
        drafted = publication.draft(
            message, province=self._province, author=author.name, epoch=key, now=now
        )
        _check_outlived(drafted, ends, "attestation.expire_time")
        old = None
        if drafted.supersedes is not None:
            tokens = self._tokens(message, now)
            old = await self._superseded(drafted, tokens, author, "attestation.supersedes")
        placed = await self._placed(drafted)
        if among:
            await asyncio.sleep(0)
        try:
            return *await self._put(placed, now), old
        except IdTakenError:
            # Perhaps by the same fact, first published under the epoch before.
            record = await self._store.record(placed.id.bytes)
            if record is None or record.token not in self._tokens(message, now):
                raise
            return *await self._put(replace(placed, token=record.token), now), old

    def _tokens(self, message: pb.NewAttestation, now: datetime) -> Collection[bytes]:
        """The holder's tokens under every epoch in force."""
        document = publication.read_document(message.document, now, field="attestation.document")
        return [document.token(key) for key in self._subjects.in_force(now)]

    async def _placed(self, attestation: Attestation) -> Attestation:
        """The attestation with a place in a status list; of a fact that stands already, it is lost.

        That is cheaper than a question before every publication: a list has 2^18 places.
        """
        place = await self._statuses.place(attestation.fact.kind)
        return replace(attestation, status=StatusReference(self._province, *place))

    async def _put(self, attestation: Attestation, now: datetime) -> tuple[Attestation, Published]:
        """Sign and store, or find the same fact there; also, what was signed in the end."""
        signed = self._sign(attestation)
        stored = await self._store.publish(signed)
        if not stored.already or self._counts(stored.signed, now):
            return attestation, stored
        # Its key was revoked since, and the issuer says the same again: it counts under the new,
        # at its old place, where all who know of it look.
        record = await self._store.record(attestation.id.bytes)
        if record is not None and record.place is not None:
            status = StatusReference(self._province, *record.place)
            attestation = replace(attestation, status=status)
            signed = self._sign(attestation)
        return attestation, await self._replace(signed, stored)

    async def _replace(self, new: NewRecord, stored: Published) -> Published:
        held = await self._store.replace(new, stored.signed)
        return Published(held, already=held != new.signed)

    def _counts(self, signed: bytes, now: datetime) -> bool:
        """Whether the key of what is stored still vouches for it."""
        try:
            self._verifier.verify(signed, self._trust(), now)
        except UnknownIssuerError:
            return False
        return True

    def _sign(self, attestation: Attestation) -> NewRecord:
        # Chosen anew each time: what was retired or revoked while the node runs signs nothing more.
        signer = self._keyring.signer(self._trust())
        return _record(attestation, *attestations.sign_and_digest(attestation, signer))

    # Signed elsewhere.

    async def _accept(self, signed: bytes, author: Identity, now: datetime) -> Attestation:
        try:
            attestation = self._verifier.verify(signed, self._trust(), now)
        except InvalidFieldError as error:
            raise error.at(SIGNED) from None
        if attestation.province != self._province:
            raise InvalidFieldError(
                f"of {attestation.province}, and this node is of {self._province}",
                field=f"{SIGNED}.iss",
            )
        code = attestation.issuer.credit_code
        publication.check_author(code, author.name, field=f"{SIGNED}.health.issuer.credit_code")
        epoch = int.from_bytes(attestation.token[:4])
        ends = self._subjects.ends(epoch, now)
        if ends is None:
            raise InvalidFieldError(f"epoch {epoch} is not in use", field=f"{SIGNED}.sub")
        _check_outlived(attestation, ends, f"{SIGNED}.exp")
        if attestation.status is not None:
            await self._check_list(attestation.status.list)
        return attestation

    async def _check_list(self, number: int) -> None:
        """Refuse a place in a list that this store has not opened: it could not be revoked there.

        Whether the place is another attestation's already is not asked: that would take an entry
        for every publication. Only who holds the province's key could name one twice, and it does
        no harm but to them: revoking either ends both for verifiers without a connection. None
        that is revoked ever lives.
        """
        if number in self._opened:
            return
        if await self._statuses.bits(self._province, number) is None:
            raise InvalidFieldError(
                "names a status list that this node's store has not opened",
                field=f"{SIGNED}.status",
                remedy="leave the status out: it then counts wherever a node is asked",
            )
        self._opened.add(number)

    # Corrections.

    async def _superseded(
        self, attestation: Attestation, tokens: Collection[bytes], author: Identity, field: str
    ) -> UUID | None:
        """The id that is to be revoked for its correction, if one is.

        :raises InvalidFieldError: there is no such attestation of this issuer and holder.
        """
        if attestation.supersedes is None:
            return None
        old = await self._store.record(attestation.supersedes.bytes)
        if old is None and await self._store.record(attestation.id.bytes) is not None:
            return None  # said again after the old one has ended
        if old is None or old.issuer != author.name or old.token not in tokens:
            raise InvalidFieldError(
                "no live attestation of this issuer and holder bears the id",
                field=field,
                remedy="correct another holder's by revoking it",
            )
        return attestation.supersedes

    async def _retire(
        self, old: UUID, correction: Attestation, author: Identity, now: datetime
    ) -> None:
        note = Note(f"superseded by {correction.id}", by=called(author))
        try:
            at = await self._store.revoke(old.bytes, author.name, int(now.timestamp()), note)
        except NotFoundError:
            return  # it has ended meanwhile
        if at == int(now.timestamp()):
            log.info("attestation.revoked", id=str(old), by=note.by, reason=note.reason)


def called(caller: Identity) -> str:
    """A caller within its own province: ``issuer/91510100MA61RHGX7U``."""
    return f"{caller.role}/{caller.name}"


def _record(attestation: Attestation, signed: bytes, digest: bytes) -> NewRecord:
    status = attestation.status
    return NewRecord(
        id=attestation.id.bytes,
        token=attestation.token,
        issuer=attestation.issuer.credit_code,
        digest=digest,
        expires=int(attestation.expires_at.timestamp()),
        signed=signed,
        place=None if status is None else (status.list, status.index),
    )


def _check_outlived(attestation: Attestation, ends: datetime, field: str) -> None:
    """Refuse what nobody would ask for any more while it still counts: it might be a red."""
    if attestation.expires_at > ends:
        raise InvalidFieldError(
            f"outlives the epoch of its subject token, which ends at {ends:%Y-%m-%dT%H:%M:%SZ}",
            field=field,
            remedy="the exchange's next epoch is due; until then, give an earlier end",
        )
