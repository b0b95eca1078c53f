"""RecognitionService: this province's decisions for its own apps, and its holders' health codes.

Every look is recorded before its answer is made: also one of which none can be made, because no
key is held that would sign it. What it decides is `nodes.deciding`'s and `exchange.codes`'; here it
is asked for and put into the contract's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from exchange import receipts, status, views
from exchange.codes import hcert, healthcode
from exchange.codes import views as code_views
from exchange.codes.hcert import ForeignKeys
from exchange.codes.healthcode import HealthCode, HealthCodeVerifier
from exchange.codes.judging import Judgement, judge
from exchange.errors import (
    ExpiredError,
    InvalidFieldError,
    MalformedObjectError,
    TongxingError,
    UnknownProvinceError,
)
from exchange.keys import Signer
from exchange.publication import read_document
from exchange.receipts import Receipt
from exchange.recognition import Decision
from exchange.rules import RuleBook
from exchange.statuslist import Status, StatusReference
from exchange.subjects import Document
from exchange.trust.trustlist import TrustList
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2
from exchange.vouching import CLOCK_SKEW
from exchange.wire import embedded
from nodes.audit.entries import Entry, Recorder, of_receipt
from nodes.call import Call
from nodes.deciding import Decided, Deciding, Terms
from nodes.ids import new_id
from nodes.known_statuses import KnownStatuses
from nodes.published_rules import PublishedRules
from nodes.services.validation import check
from nodes.trust import TrustKeeper

__all__ = ["RecognitionService"]

LONGEST_AHEAD: Final = timedelta(days=30)
"""How far ahead an arrival may lie, by the contract."""
_BREATH: Final = 16
"""Answers of a batch that are made before the event loop gets a turn."""
# Numbers of fields: of a RecognizeResponse, of a BatchRecognizeResponse, of an item of it, and of
# an IssueHealthCodeResponse.
_DECISION: Final = 1
_ITEMS: Final = 1
_ITEM_DECISION: Final = 2
_CODE: Final = 1
_CODE_DECISION: Final = 2
_AHEAD_PURPOSES: Final = frozenset(
    {types_pb2.PURPOSE_TRAVEL_PLANNING, types_pb2.PURPOSE_HOLDER_ACCESS}
)


class RecognitionService:
    """Decides, issues health codes, and judges those that are shown.

    :param province: the node's own.
    :param trust: the trust list, and the province's own rules.
    :param signer: what signs codes and receipts now.
    :param audit: where every look is recorded.
    :param foreign: gives whose foreign certificates are read; nobody's, by default.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["RecognitionService"]

    def __init__(
        self,
        *,
        province: str,
        deciding: Deciding,
        trust: TrustKeeper,
        signer: Callable[[], Signer],
        audit: Recorder,
        statuses: KnownStatuses,
        clock: Callable[[], datetime],
        foreign: Callable[[], ForeignKeys] = ForeignKeys,
    ) -> None:
        self._province = province
        self._deciding = deciding
        self._trust = trust
        self._signer = signer
        self._audit = audit
        self._statuses = statuses
        self._clock = clock
        self._foreign = foreign
        self._codes = HealthCodeVerifier()
        self._rules = PublishedRules()

    # --- decisions --------------------------------------------------------------------------

    async def recognize(self, request: pb.RecognizeRequest, call: Call) -> bytes:
        """Decide for one holder, by the own rules or, before a journey, by another's.

        :returns: a RecognizeResponse in its wire form.
        """
        now = self._clock()
        document = read_document(request.document, now, field="document")
        terms = await self._terms(request, now)
        (decided,) = await self._deciding.decide(
            [document], call, request.purpose, terms=terms, explain=True
        )
        receipt = self._record_with_receipt(call, "Recognize", decided, request)
        return embedded(_DECISION, self._decision(decided, receipt))

    async def batch_recognize(self, request: pb.BatchRecognizeRequest, call: Call) -> bytes:
        """Decide for many; a wrong document fails alone.

        :returns: a BatchRecognizeResponse in its wire form.
        """
        now = self._clock()
        items = [b""] * len(request.documents)
        documents: dict[int, Document] = {}
        for index, message in enumerate(request.documents):
            try:
                documents[index] = self._read(message, f"documents[{index}]", now)
            except TongxingError as error:
                refusal = status.to_status(error, request_id=call.request_id)
                items[index] = pb.BatchRecognizeItem(status=refusal).SerializeToString()
        all_decided = await self._deciding.decide(list(documents.values()), call, request.purpose)
        ids: list[UUID | None] = [None] * len(all_decided)
        if request.receipt:
            ids = [
                self._record_with_receipt(call, "BatchRecognize", decided, request)
                for decided in all_decided
            ]
        else:
            self._audit.record_all(
                _entry(call, "BatchRecognize", request.purpose),
                [(decided.token, _words(decided.decision)) for decided in all_decided],
            )
        for index, decided, receipt in zip(documents, all_decided, ids, strict=True):
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            items[index] = embedded(_ITEM_DECISION, self._decision(decided, receipt))
        return b"".join([embedded(_ITEMS, item) for item in items])

    @staticmethod
    def _read(message: types_pb2.IdentityDocument, field: str, now: datetime) -> Document:
        try:
            check(message)
        except TongxingError as error:
            raise error.at(field) from None
        return read_document(message, now, field=field)

    async def _terms(self, request: pb.RecognizeRequest, now: datetime) -> Terms | None:
        """By whose rules, and as of when; None for the usual: the own ones, as of now."""
        elsewhere = request.destination not in ("", self._province)
        ahead = request.HasField("arrival_time")
        if not (elsewhere or ahead):
            return None
        field = "destination" if elsewhere else "arrival_time"
        if request.purpose not in _AHEAD_PURPOSES:
            raise InvalidFieldError(
                "goes with the purposes TRAVEL_PLANNING and HOLDER_ACCESS alone",
                field=field,
                remedy="a gate decides by its own province's rules, as of now",
            )
        if request.receipt:
            raise InvalidFieldError(
                "there are receipts for decisions by the node's own rules alone, as of now",
                field="receipt",
                remedy=f"leave it out, or {field}",
            )
        at = self._arrival(request, now) if ahead else None
        if not elsewhere:
            return Terms(self._province, self._trust.rules, at)
        rules = await self._rules_of(request.destination, self._trust.current())
        return Terms(request.destination, rules, at)

    @staticmethod
    def _arrival(request: pb.RecognizeRequest, now: datetime) -> datetime:
        at = views.time_from_proto(request.arrival_time, field="arrival_time")
        if at < now - CLOCK_SKEW:
            raise ExpiredError("lies in the past", field="arrival_time", remedy="leave it out")
        if at > now + LONGEST_AHEAD:
            raise InvalidFieldError(
                f"more than {LONGEST_AHEAD.days} days ahead",
                field="arrival_time",
                remedy="ask again nearer to the journey: much may change until then",
            )
        return max(at, now)

    async def _rules_of(self, destination: str, trust: TrustList) -> RuleBook:
        try:
            return await self._rules.of(destination, trust)
        except UnknownProvinceError as error:
            error.field = "destination"
            raise

    def _decision(self, decided: Decided, receipt: UUID | None) -> bytes:
        if receipt is None:
            return views.decision_to_wire(decided.decision)
        made = partial(receipts.of_decision, decided.decision)
        signed = self._receipt(made, receipt, decided.decision.decided_at)
        return views.decision_to_wire(decided.decision, signed)

    # --- health codes -----------------------------------------------------------------------

    async def issue_health_code(self, request: pb.IssueHealthCodeRequest, call: Call) -> bytes:
        """Give a holder a health code by the own rules, with what the destination asks for.

        :returns: an IssueHealthCodeResponse in its wire form.
        """
        document = read_document(request.document, self._clock(), field="document")
        there: RuleBook | None = None
        if request.destination not in ("", self._province):
            there = await self._rules_of(request.destination, self._trust.current())
        (decided,) = await self._deciding.decide([document], call, request.purpose, explain=True)
        decision = decided.decision
        now = self._clock()
        try:
            code = healthcode.draft(
                decision,
                id=new_id(now),
                now=now,
                nonce=request.nonce,
                also=healthcode.wanted(decision, there, now) if there else (),
                document=document,
            )
        except TongxingError as error:
            self._record(call, "IssueHealthCode", decided, request.purpose, error.reason)
            raise
        self._record(call, "IssueHealthCode", decided, request.purpose)
        signed = healthcode.sign(code, self._signer())
        view = code_views.healthcode_to_proto(signed, code).SerializeToString()
        return embedded(_CODE, view) + embedded(_CODE_DECISION, views.decision_to_wire(decision))

    async def verify_health_code(
        self, request: pb.VerifyHealthCodeRequest, call: Call
    ) -> pb.VerifyHealthCodeResponse:
        """Judge what is shown by the own rules."""
        field = request.WhichOneof("code")
        shown: str | bytes = getattr(request, field)
        trust, now, known, present = await self._known(shown)
        try:
            judgement = judge(
                shown,
                province=self._province,
                rules=self._trust.rules,
                trust=trust,
                verifier=self._codes,
                now=now,
                status=known,
                foreign=self._foreign(),
                nonce=request.nonce,
                present=present,
            )
        except MalformedObjectError as error:
            error.field = field
            raise
        answer = code_views.judgement_to_proto(judgement, shown)
        identifier, words = answer.health_code.health_code_id, _words(judgement)
        self._audit.record(
            _entry(call, "VerifyHealthCode", request.purpose, words, target=identifier)
        )
        if request.receipt:
            made = partial(receipts.of_judgement, judgement, answer.health_code.signed)
            at = judgement.judged_at
            answer.receipt = self._receipt(made, new_id(at), at)
        return answer

    async def _known(
        self, shown: str | bytes
    ) -> tuple[TrustList, datetime, Callable[[StatusReference], Status], Decision | None]:
        """What a code is to be judged by, under one trust list.

        What is revoked of its evidence; and of a code of its own, what the province holds now.
        """
        while True:
            trust, now = self._trust.current(), self._clock()
            code = self._code(shown, trust, now)
            evidence = code.evidence if code is not None else ()
            known = await self._statuses.of(each.status for each in evidence if each.status)
            present = None
            if code is not None and code.province == self._province:
                own = (each.id for each in evidence if each.province == self._province)
                present = await self._deciding.present(own)
            # A list that came meanwhile may verify what had no status to be looked up before.
            if self._trust.current() is trust:
                return trust, now, known, present

    def _code(self, shown: str | bytes, trust: TrustList, now: datetime) -> HealthCode | None:
        """A code that verifies; of nothing else is anything looked up."""
        with contextlib.suppress(TongxingError):
            # As `judge` unpacks it: what it reads and this does not would pass though revoked.
            signed = hcert.unpack(shown) if isinstance(shown, str) else shown
            return self._codes.verify(signed, trust, now)
        return None

    # --- receipts and the access log ----------------------------------------------------------

    def _receipt(self, made: Callable[..., Receipt], id_: UUID, now: datetime) -> bytes:
        receipt = made(
            id=id_,
            province=self._province,
            now=now,
            salt=secrets.token_bytes(receipts.SALT_BYTES),
        )
        return receipts.sign(receipt, self._signer())

    def _record_with_receipt(
        self,
        call: Call,
        method: str,
        decided: Decided,
        request: pb.RecognizeRequest | pb.BatchRecognizeRequest,
    ) -> UUID | None:
        """Record a decision; the id of its receipt, if one is wanted.

        The log tells by it whose decision the receipt is of: nothing in the receipt does.
        """
        receipt = new_id(self._clock()) if request.receipt else None
        target = "" if receipt is None else of_receipt(receipt)
        self._record(call, method, decided, request.purpose, target=target)
        return receipt

    def _record(
        self,
        call: Call,
        method: str,
        decided: Decided,
        purpose: int,
        refused: str = "",
        target: str = "",
    ) -> None:
        words = _words(decided.decision)
        answer = f"{words} {refused}" if refused else words
        self._audit.record(_entry(call, method, purpose, answer, decided.token, target))


def _entry(
    call: Call,
    method: str,
    purpose: int,
    answer: str = "",
    token: bytes | None = None,
    target: str = "",
) -> Entry:
    return Entry(call.caller.uri, method, call.request_id, answer, token, purpose, target)


def _words(said: Decision | Judgement) -> str:
    return f"{said.outcome} {said.colour} {said.verdict}"
