"""The app's SDK: a typed, asynchronous client of the caller's own province's node.

It verifies what it is given: every attestation, health code and receipt in an answer is read from
its signed bytes and held against the trust list, whatever the view beside them says. It follows its
certificate's files and the node's authority in the trust list: whoever keeps a client for months
need not make it anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from uuid import UUID

from google.rpc import code_pb2

from exchange import status, statuslist, views
from exchange.attestations import Attestation
from exchange.client.checking import Checker
from exchange.client.connection import Connection, UnreachableError, WrongNodeError
from exchange.errors import BadSignatureError, InternalError, TongxingError
from exchange.facts import Kind
from exchange.trust.trustlist import TrustList
from exchange.v1 import (
    attestation_service_pb2,
    recognition_service_pb2,
    status_list_service_pb2,
    types_pb2,
)

__all__ = [
    "Client",
    "DecisionMessage",
    "Document",
    "IssuedCode",
    "Item",
    "JudgedCode",
    "NewAttestation",
    "Purpose",
    "RevocationProgress",
    "UnreachableError",
    "WrongNodeError",
]

_ITEMS = 64
"""Of one message of a stream: more would spare little, and all are answered with the last."""
_LISTS_AT_ONCE = 64
"""Status lists in one BatchGetStatusLists, by the contract."""
Document = types_pb2.IdentityDocument
Purpose = types_pb2.Purpose
DecisionMessage = recognition_service_pb2.Decision
IssuedCode = recognition_service_pb2.IssueHealthCodeResponse
JudgedCode = recognition_service_pb2.VerifyHealthCodeResponse
NewAttestation = attestation_service_pb2.NewAttestation


@dataclass(frozen=True, slots=True)
class Item:
    """One item's answer in a stream: its index, and the attestation's id or the error."""

    index: int
    attestation_id: str = ""
    already_published: bool = False
    error: TongxingError | None = None


@dataclass(frozen=True, slots=True)
class RevocationProgress:
    """How far `Client.revoke_issuer` has come.

    :param looked_at: attestations looked at so far.
    :param revoked: of these, revoked now, or to be revoked in a dry run.
    :param already_revoked: of these, revoked before.
    :param done: all was looked at.
    """

    looked_at: int
    revoked: int
    already_revoked: int
    done: bool = False


class Client(Connection):
    """A connection to a node, and what an issuer or an app calls there.

    Made as a `Connection` is.
    """

    @cached_property
    def _checker(self) -> Checker:
        def trust() -> TrustList:  # whatever gives it by then
            return self._trust()

        return Checker(self._province, trust, self._clock)

    async def publish(self, attestation: NewAttestation) -> tuple[Attestation, bool]:
        """Publish one attestation.

        :returns: what was signed, verified, and whether it stood there already.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        request = attestation_service_pb2.PublishAttestationRequest(attestation=attestation)
        answer = await self.call(
            "AttestationService/PublishAttestation",
            request,
            attestation_service_pb2.PublishAttestationResponse,
        )
        published = await self._by_newest_trust(
            lambda: self._verified(answer.attestation, attestation.attestation_id)
        )
        return published, answer.already_published

    async def publish_all(
        self, attestations: Iterable[tuple[int, NewAttestation]]
    ) -> AsyncIterator[Item]:
        """Publish many over one stream, some to a message; each answers for itself, in any order.

        :param attestations: an index of the caller's own, and what to publish. It is read from a
            thread, as far ahead as the stream takes.
        :raises TongxingError: the stream broke; items without an answer may be sent again.
        """
        pb = attestation_service_pb2
        source = iter(attestations)

        async def requests() -> AsyncIterator[pb.PublishAttestationsRequest]:
            # Reading may wait for a disk: in a thread, and some at a time, for a thread costs.
            while chunk := await asyncio.to_thread(list, itertools.islice(source, _ITEMS)):
                yield pb.PublishAttestationsRequest(
                    items=[
                        pb.PublishAttestationsRequest(index=index, attestation=attestation)
                        for index, attestation in chunk
                    ]
                )

        answers = self.stream_both(
            "AttestationService/PublishAttestations",
            requests(),
            pb.PublishAttestationsRequest,
            pb.PublishAttestationsResponse,
        )
        async with aclosing(answers):
            async for answer in answers:
                for item in answer.items:
                    failed = item.status.code != code_pb2.OK
                    yield Item(
                        item.index,
                        item.attestation_id,
                        item.already_published,
                        status.from_status(item.status) if failed else None,
                    )

    async def revoke(self, attestation_id: UUID, reason: str, authority: str = "") -> datetime:
        """End an attestation for good.

        :param reason: why (撤销原因); nothing that tells who the holder is.
        :param authority: who ordered it (决定机构), where it is not the caller.
        :returns: when it was revoked, also where that was earlier.
        """
        answer = await self.call(
            "AttestationService/RevokeAttestation",
            attestation_service_pb2.RevokeAttestationRequest(
                attestation_id=str(attestation_id), reason=reason, authority=authority
            ),
            attestation_service_pb2.RevokeAttestationResponse,
        )
        return views.time_from_proto(answer.revoke_time, field="revoke_time")

    async def revoke_all(
        self, attestation_ids: Sequence[UUID], reason: str, authority: str = ""
    ) -> list[datetime | TongxingError]:
        """Do `revoke` for up to 1,000, in their order; one that is not revoked gives its error."""
        answer = await self.call(
            "AttestationService/BatchRevokeAttestations",
            attestation_service_pb2.BatchRevokeAttestationsRequest(
                attestation_ids=[str(id_) for id_ in attestation_ids],
                reason=reason,
                authority=authority,
            ),
            attestation_service_pb2.BatchRevokeAttestationsResponse,
        )
        if len(answer.items) != len(attestation_ids):
            raise InternalError("the node answered for another number of attestations")
        return [
            views.time_from_proto(item.revoke_time, field="revoke_time")
            if item.status.code == code_pb2.OK
            else status.from_status(item.status)
            for item in answer.items
        ]

    async def revoke_issuer(
        self,
        credit_code: str,
        start: datetime,
        end: datetime,
        reason: str,
        authority: str = "",
        *,
        kinds: Collection[Kind] = (),
        dry: bool = False,
    ) -> AsyncIterator[RevocationProgress]:
        """End all that one issuer sampled from ``start`` on and before ``end``.

        It tells how far it has come about twice a second; the last word is ``done``. After a break
        it may be begun again: what is revoked stays so.

        :param start: aware, as ``end``.
        :param kinds: of these; of all where there are none.
        :param dry: only count.
        :raises TongxingError: the node's error, or `UnreachableError`: not all was looked at.
        """
        answers = self.stream(
            "AttestationService/RevokeIssuerAttestations",
            attestation_service_pb2.RevokeIssuerAttestationsRequest(
                credit_code=credit_code,
                sample_start_time=views.time_to_proto(start),
                sample_end_time=views.time_to_proto(end),
                kinds=[f"KIND_{kind.value}" for kind in kinds],
                reason=reason,
                authority=authority,
                validate_only=dry,
            ),
            attestation_service_pb2.RevokeIssuerAttestationsResponse,
        )
        done = False
        async with aclosing(answers):
            async for answer in answers:
                done = answer.done
                yield RevocationProgress(
                    answer.looked_at, answer.revoked, answer.already_revoked, done
                )
        if not done:
            raise UnreachableError("the node broke off", remedy="begin again: nothing is undone")

    async def get(self, attestation_id: UUID) -> Attestation:
        """An attestation that the caller published, verified."""
        answer = await self.call(
            "AttestationService/GetAttestation",
            attestation_service_pb2.GetAttestationRequest(attestation_id=str(attestation_id)),
            attestation_service_pb2.GetAttestationResponse,
        )
        return await self._by_newest_trust(
            lambda: self._verified(answer.attestation, str(attestation_id))
        )

    async def recognize(
        self,
        document: Document,
        purpose: Purpose,
        *,
        destination: str = "",
        arrival: datetime | None = None,
        receipt: bool = False,
    ) -> DecisionMessage:
        """The province's decision on one holder; its accepted evidence is verified here too.

        :param destination: by which other province's rules to decide, and ``arrival`` (aware) as
            of when: for the purposes TRAVEL_PLANNING and HOLDER_ACCESS alone.
        :param receipt: ask for a receipt (回执) too, of a decision by the own rules as of now.
        :raises BadSignatureError: evidence that it accepts, or the receipt, does not verify.
        """
        pb = recognition_service_pb2
        answer = await self.call(
            "RecognitionService/Recognize",
            pb.RecognizeRequest(
                document=document,
                purpose=purpose,
                destination=destination,
                arrival_time=views.time_to_proto(arrival) if arrival else None,
                receipt=receipt,
            ),
            pb.RecognizeResponse,
        )
        return await self._by_newest_trust(
            lambda: self._checker.decision(answer.decision, receipt=receipt)
        )

    async def recognize_all(
        self, documents: Sequence[Document], purpose: Purpose, *, receipt: bool = False
    ) -> list[DecisionMessage | TongxingError]:
        """Decisions on up to 1,000 holders, in their order; a wrong document gives its error."""
        answer = await self.call(
            "RecognitionService/BatchRecognize",
            recognition_service_pb2.BatchRecognizeRequest(
                documents=documents, purpose=purpose, receipt=receipt
            ),
            recognition_service_pb2.BatchRecognizeResponse,
        )
        if len(answer.items) != len(documents):
            raise InternalError("the node answered for another number of documents")
        check = partial(self._checker.decision, receipt=receipt)
        return [
            await self._by_newest_trust(partial(check, item.decision))
            if item.status.code == code_pb2.OK
            else status.from_status(item.status)
            for item in answer.items
        ]

    async def issue_health_code(
        self, document: Document, purpose: Purpose, *, destination: str = "", nonce: bytes = b""
    ) -> IssuedCode:
        """A health code (健康码) to show, good for some minutes, and the decision behind it.

        :param destination: where it will be shown: what satisfies that province goes into it too.
        :param nonce: what the gate asks to see in it, 8 to 32 bytes, or none.
        :raises NoColourError: no rule gives the holder a colour; the remedy says what is needed.
        :raises IndeterminateError: a province that might know of the holder did not answer.
        :raises BadSignatureError: what the node gave does not verify.
        """
        answer = await self.call(
            "RecognitionService/IssueHealthCode",
            recognition_service_pb2.IssueHealthCodeRequest(
                document=document, purpose=purpose, destination=destination, nonce=nonce
            ),
            IssuedCode,
        )
        return await self._by_newest_trust(lambda: self._checker.issued(answer, nonce))

    async def verify_health_code(
        self,
        code: str | bytes,
        purpose: Purpose,
        *,
        nonce: bytes = b"",
        receipt: bool = False,
    ) -> JudgedCode:
        """The province's judgement of a health code or a foreign certificate that is shown.

        What is honoured is verified here too; of foreign certificates the node's word counts,
        for the trust list knows none of their keys.

        :param code: the text of the QR code, or COSE_Sign1 bytes.
        :param nonce: what the code must bear, if the gate asked for something.
        :param receipt: ask for a receipt (回执) too.
        :raises MalformedObjectError: it is no code at all.
        :raises BadSignatureError: the node honours what does not verify, or its receipt does not.
        """
        shown = {"text": code} if isinstance(code, str) else {"signed": code}
        answer = await self.call(
            "RecognitionService/VerifyHealthCode",
            recognition_service_pb2.VerifyHealthCodeRequest(
                **shown, purpose=purpose, nonce=nonce, receipt=receipt
            ),
            JudgedCode,
        )
        return await self._by_newest_trust(
            lambda: self._checker.judged(answer, code, nonce=nonce, receipt=receipt)
        )

    async def status_lists(self, uris: Sequence[str]) -> list[bytes | TongxingError]:
        """Fetch signed status lists, verified, to check attestations by without a connection.

        :param uris: as `exchange.attestations.Attestation.status` names them; any number.
        :returns: COSE_Sign1 bytes in the order of ``uris``, or why there is no such list.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        pb = status_list_service_pb2
        found: list[bytes | TongxingError] = []
        for at in range(0, len(uris), _LISTS_AT_ONCE):
            wanted = uris[at : at + _LISTS_AT_ONCE]
            answer = await self.call(
                "StatusListService/BatchGetStatusLists",
                pb.BatchGetStatusListsRequest(uris=wanted),
                pb.BatchGetStatusListsResponse,
            )
            if len(answer.items) != len(wanted):
                raise InternalError("the node answered for another number of lists")
            for uri, item in zip(wanted, answer.items, strict=True):
                found.append(await self._status_list(uri, item))
        return found

    async def _status_list(
        self, uri: str, item: status_list_service_pb2.StatusListItem
    ) -> bytes | TongxingError:
        if item.status.code != code_pb2.OK:
            return status.from_status(item.status)

        def read() -> statuslist.StatusList:
            return statuslist.verify(item.signed, self._trust(), self._clock())

        try:
            verified = await self._by_newest_trust(read)
        except TongxingError as error:
            return error
        if verified.uri != uri:
            return BadSignatureError("another status list than was asked for", field="uris")
        signed: bytes = item.signed
        return signed

    def _checked(self, decision: DecisionMessage) -> DecisionMessage:
        return self._checker.decision(decision)

    def _verified(self, view: types_pb2.Attestation, asked_for: str = "") -> Attestation:
        return self._checker.attestation(view, asked_for)
