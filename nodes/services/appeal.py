"""AppealService: holders contest, their provinces carry it, and who said it answers (申诉)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import protovalidate

from exchange import appeals, receipts, status
from exchange.appeals import Answer, Appeal, Resolution
from exchange.attestations import AttestationVerifier
from exchange.errors import (
    AppealStateError,
    InternalError,
    InvalidFieldError,
    NotFoundError,
    OverloadedError,
    RevokedError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.publication import read_document
from exchange.trust.trustlist import TrustList
from exchange.v1 import appeal_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.audit.entries import Entry, Recorder, of_receipt
from nodes.call import Call
from nodes.identity import Role
from nodes.ids import made_at
from nodes.services.acts import whole
from nodes.services.limits import Limit
from nodes.services.validation import check
from nodes.store.appeals import AppealStore, Kept, of_holder, of_issuer
from nodes.store.attestations import AttestationStore
from nodes.subjects import SubjectKeys

__all__ = ["AppealService"]

PAGE: Final = 100
"""Appeals in a page, where the caller does not say."""

LARGEST_PAGE: Final = 3 * 1024 * 1024
"""Bytes, about: each appeal may bear a receipt of 64 KiB, and clients bound what they read."""

OPEN_OF_HOLDER: Final = 20
"""Appeals of one holder that wait for their answers at one time."""

OPEN_BY_PEER: Final = 2_000
"""Appeals that one province brought and that wait: a lying one fills 128 MiB of the store at most.
What is beyond stays with the province that filed it until some are answered."""

EXCHANGES: Final = 2
"""Calls of one province that bring appeals at one time."""


class Accesses(Recorder, Protocol):
    """Where accesses are recorded, and what tells whose a receipt is (`nodes.audit.log`)."""

    async def whose(self, target: str, at: datetime, tokens: Sequence[bytes]) -> bool | None:
        """Whether what was recorded with a target was about one holder; None: it does not tell.

        :raises AuditUnavailableError: the log cannot be read.
        """
        ...


class AppealService:
    """Takes, keeps, brings out and answers; what it acknowledges is on disk.

    What was done and could not be recorded answers AuditUnavailableError: doing it again does no
    harm, and records it.

    :param attestations: those that the province holds.
    :param trust: gives the trust list.
    :param filed: called when there is something for the courier (`nodes.peers.appeals`).
    """

    descriptor = pb.DESCRIPTOR.services_by_name["AppealService"]

    def __init__(
        self,
        *,
        province: str,
        store: AppealStore,
        attestations: AttestationStore,
        verifier: AttestationVerifier,
        trust: Callable[[], TrustList],
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
        audit: Accesses,
        filed: Callable[[], None],
    ) -> None:
        self._province = province
        self._store = store
        self._attestations = attestations
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock
        self._audit = audit
        self._filed = filed
        self._exchanges = Limit("exchanges of appeals", each=EXCHANGES)

    # --- filing -----------------------------------------------------------------------------

    @whole
    async def file_appeal(self, request: pb.FileAppealRequest, call: Call) -> pb.FileAppealResponse:
        """Take an appeal; it goes to the province that must answer by itself."""
        now, trust = self._clock(), self._trust()
        tokens = self._tokens(request.document, now)
        appeal = appeals.draft(request, province=self._province, trust=trust, now=now)
        there = await self._store.get(appeal.id.bytes)
        if there is None and await self._store.open_of(tokens) >= OPEN_OF_HOLDER:
            raise OverloadedError(
                f"{OPEN_OF_HOLDER} appeals of this holder wait for their answers",
                remedy="wait until one of them has its answer",
            )
        issuer = ""
        if appeal.answering_province == self._province:
            if there is None:  # what it contests may have ended since
                issuer = await self._contested(appeal, tokens, trust, now, "")
            appeal = _delivered(appeal, now)
        if there is None:
            appeal = await self._of_holder(appeal, tokens, trust, now, "")
        kept = await self._store.file(Kept(appeal, issuer, tokens))
        self._record(call, "FileAppeal", kept.appeal, kept.appeal.state, kept.tokens[0])
        self._filed()
        return pb.FileAppealResponse(appeal=appeals.appeal_to_proto(kept.appeal))

    def _tokens(self, message: types_pb2.IdentityDocument, now: datetime) -> tuple[bytes, ...]:
        document = read_document(message, now, field="document")
        return tuple(document.token(key) for key in self._subjects.in_force(now))

    async def _contested(
        self,
        appeal: Appeal,
        tokens: tuple[bytes, ...],
        trust: TrustList,
        now: datetime,
        field: str,
    ) -> str:
        """See that there is what an appeal contests; the issuer's credit code, "" of a decision.

        :param field: where the receipt stands in the request, with its dot.
        :raises NotFoundError: no attestation of this holder bears the id.
        :raises InvalidFieldError: the receipt does not belong to it.
        """
        issuer, contested = "", b""
        if appeal.attestation_id is not None:
            id_ = appeal.attestation_id.bytes
            record = await self._attestations.record(id_)
            if record is None or record.token not in tokens:
                raise NotFoundError(
                    "no attestation of this holder that is kept bears the id",
                    field="attestation_id",
                )
            issuer = record.issuer
            if appeal.receipt:
                contested = await self._signed(id_, issuer)
        appeals.check_receipt(appeal, trust, now, contested=contested, field=f"{field}receipt")
        return issuer

    async def _of_holder(
        self, appeal: Appeal, tokens: tuple[bytes, ...], trust: TrustList, now: datetime, field: str
    ) -> Appeal:
        """See that a receipt that this node gave is of a decision about the holder.

        :param field: where the receipt stands in the request, with its dot.
        :return: the appeal, with whether the access log does not tell: it is older than what is
            kept, or of a code, whose holder no node but its issuer knows.
        :raises InvalidFieldError: it is of a decision about another.
        """
        if not appeal.receipt:
            return appeal
        receipt = receipts.verify(appeal.receipt, trust, now)
        if receipt.province != self._province:
            return appeal
        told = await self._audit.whose(of_receipt(receipt.id), made_at(receipt.id), tokens)
        if told is False:
            raise InvalidFieldError(
                "was given for another holder",
                field=f"{field}receipt",
                remedy="give the receipt of a decision about this holder",
            )
        # A contested attestation says whose it is.
        return replace(appeal, holder_unchecked=told is None and appeal.attestation_id is None)

    async def _signed(self, id_: bytes, issuer: str) -> bytes:
        """An attestation's bytes, revoked or not; b"" where they have just ended."""
        try:
            return await self._attestations.get(id_, issuer)
        except NotFoundError:
            return b""
        except RevokedError:
            found = await self._attestations.revocation(id_)
            return b"" if found is None else found.signed

    # --- seeing -----------------------------------------------------------------------------

    async def get_appeal(self, request: pb.GetAppealRequest, call: Call) -> pb.GetAppealResponse:
        """Show one that is the caller's business."""
        kept = await self._store.get(UUID(request.appeal_id).bytes)
        if kept is None or not self._concerns(kept, call):
            raise _none()
        token = kept.tokens[0] if kept.tokens else None
        self._record(call, "GetAppeal", kept.appeal, kept.appeal.state, token)
        return pb.GetAppealResponse(appeal=appeals.appeal_to_proto(kept.appeal))

    def _concerns(self, kept: Kept, call: Call) -> bool:
        """Whether an appeal is the caller's business; another's looks as if there were none."""
        caller = call.caller
        if caller.role is Role.ADMIN:
            return True
        if caller.role is Role.APP:
            return kept.appeal.province == self._province
        return caller.role is Role.ISSUER and kept.issuer == caller.name

    async def list_appeals(
        self, request: pb.ListAppealsRequest, call: Call
    ) -> pb.ListAppealsResponse:
        """Show a page of a holder's, an issuer's, or of all."""
        tokens: tuple[bytes, ...] = ()
        names: tuple[bytes, ...] = ()
        role = call.caller.role
        if role is Role.APP:
            if not request.HasField("document"):
                raise InvalidFieldError(
                    "is missing", field="document", remedy="an app names its holder"
                )
            tokens = self._tokens(request.document, self._clock())
            names = of_holder(tokens)
        elif request.HasField("document"):
            raise InvalidFieldError(
                "is for apps alone", field="document", remedy="leave it out: list all"
            )
        elif role is not Role.ADMIN:
            names = of_issuer(call.caller.name)
        kept, after = await self._store.page(
            names,
            unanswered=request.unanswered,
            after=_page_from(request.page_token),
            most=request.page_size or PAGE,
            largest=LARGEST_PAGE,
        )
        answer = pb.ListAppealsResponse(
            appeals=[appeals.appeal_to_proto(each.appeal) for each in kept],
            next_page_token=_page_to(after),
        )
        self._audit.record(
            Entry(
                call.caller.uri,
                "ListAppeals",
                call.request_id,
                "1 appeal" if len(kept) == 1 else f"{len(kept)} appeals",
                tokens[0] if tokens else None,
                types_pb2.PURPOSE_APPEAL,
            )
        )
        return answer

    # --- answering --------------------------------------------------------------------------

    @whole
    async def answer_appeal(
        self, request: pb.AnswerAppealRequest, call: Call
    ) -> pb.AnswerAppealResponse:
        """Answer one, once and for good."""
        now = self._clock()
        id_ = UUID(request.appeal_id).bytes
        kept = await self._store.get(id_)
        if (
            kept is None
            or kept.appeal.answering_province != self._province
            or not self._concerns(kept, call)
        ):
            raise _none()
        answer = appeals.answer_from_proto(kept.appeal, request.answer, answered_at=now, now=now)
        if kept.appeal.answer is None:
            await self._check(kept, answer, now)
        # Also where it stands already: a crash may have left it among those that wait.
        kept = await self._store.settle(id_, answer=answer)
        if kept.appeal.answer is None or not kept.appeal.answer.same(answer):
            raise AppealStateError(
                "the appeal has another answer already",
                field="appeal_id",
                remedy="an answer stays; the holder may appeal anew",
            )
        token = kept.tokens[0] if kept.tokens else None
        self._record(call, "AnswerAppeal", kept.appeal, answer.resolution, token)
        return pb.AnswerAppealResponse(appeal=appeals.appeal_to_proto(kept.appeal))

    async def _check(self, kept: Kept, answer: Answer, now: datetime) -> None:
        """See that what an answer says was done.

        :raises AppealStateError: it was not.
        """
        appeal = kept.appeal
        if answer.superseding is not None:
            field = "answer.superseding_attestation_id"
            try:
                signed = await self._attestations.get(answer.superseding.bytes, kept.issuer)
                correction = self._verifier.verify(signed, self._trust(), now)
            except StoreUnavailableError:
                raise
            except TongxingError as error:
                raise AppealStateError(
                    f"no attestation of the contested one's issuer that counts: {error.message}",
                    field=field,
                    remedy="publish the correction first",
                ) from None
            appeals.check_correction(appeal, correction)
        elif (
            answer.resolution is Resolution.REVOKED
            and appeal.attestation_id is not None
            and await self._attestations.revocation(appeal.attestation_id.bytes) is None
        ):
            raise AppealStateError(
                "the contested attestation is not revoked, or has ended",
                field="answer.resolution",
                remedy="revoke it first; of one that has ended, REJECTED says so",
            )

    # --- between provinces ------------------------------------------------------------------

    async def exchange_appeals(
        self, request: pb.ExchangeAppealsRequest, call: Call
    ) -> pb.ExchangeAppealsResponse:
        """Take what another province brings, and say how it stands; each by itself."""
        answer = pb.ExchangeAppealsResponse()
        with self._exchanges.hold(call.caller.province):
            room = OPEN_BY_PEER - await self._store.open_by(call.caller.province)
            for filed in request.appeals:
                item = answer.items.add()
                try:
                    kept, new = await self._take(filed, call, room)
                except TongxingError as error:
                    item.status.CopyFrom(status.to_status(error, request_id=call.request_id))
                except protovalidate.EvaluationError:
                    fault = InternalError("the contract's rules failed")
                    item.status.CopyFrom(status.to_status(fault))
                else:
                    room -= new
                    item.appeal.CopyFrom(appeals.appeal_to_proto(kept.appeal))
                    # The caller has them.
                    item.appeal.ClearField("receipt")
                    item.appeal.ClearField("statement")
        return answer

    async def _take(self, filed: pb.FiledAppeal, call: Call, room: int) -> tuple[Kept, bool]:
        """Keep an appeal that another province brings; whether it is new here."""
        check(filed)
        now, trust = self._clock(), self._trust()
        appeal = appeals.brought(
            filed.appeal, by=call.caller.province, province=self._province, now=now
        )
        there = await self._store.get(appeal.id.bytes)
        issuer = ""
        if there is None:
            if room <= 0:
                raise OverloadedError(
                    f"{OPEN_BY_PEER} appeals of the province wait for their answers",
                    remedy="bring it again later",
                )
            tokens = tuple(filed.subject_tokens)
            issuer = await self._contested(appeal, tokens, trust, now, "appeal.")
            appeal = await self._of_holder(appeal, tokens, trust, now, "appeal.")
        return await self._store.file(Kept(_delivered(appeal, now), issuer)), there is None

    def _record(
        self, call: Call, method: str, appeal: Appeal, answer: str, token: bytes | None
    ) -> None:
        self._audit.record(
            Entry(
                call.caller.uri,
                method,
                call.request_id,
                answer,
                token,
                types_pb2.PURPOSE_APPEAL,
                str(appeal.id),
            )
        )


def _delivered(appeal: Appeal, now: datetime) -> Appeal:
    return replace(appeal, delivered_at=now.replace(microsecond=0))


def _none() -> NotFoundError:
    return NotFoundError("no appeal that is this caller's bears the id", field="appeal_id")


def _page_to(after: bytes) -> str:
    return base64.urlsafe_b64encode(after).decode()


def _page_from(token: str) -> bytes:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise InvalidFieldError("no page's end", field="page_token") from None
