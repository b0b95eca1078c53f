"""RecognitionService: this province's decisions for its own apps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from exchange import status, views
from exchange.attestations import AttestationVerifier
from exchange.errors import InternalError, TongxingError
from exchange.publication import read_document
from exchange.recognition import Decision, Reply, never, recognize
from exchange.statuslist import StatusReference
from exchange.subjects import Document
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.peers.lookup import Found, Lookup
from nodes.services.validation import check
from nodes.store.attestations import AttestationStore
from nodes.store.records import Held
from nodes.subjects import SubjectKeys
from nodes.trust import TrustKeeper

__all__ = ["RecognitionService"]

log = structlog.get_logger(__name__)

_BREATH = 16
"""Holders of a batch that are decided before the event loop gets a turn."""


class RecognitionService:
    """Asks its own store and those peers that can know, verifies, applies the rules.

    :param lookup: what the other provinces hold.
    :param revoked: whether the place where an attestation's status stands is known as revoked.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["RecognitionService"]

    def __init__(
        self,
        *,
        province: str,
        store: AttestationStore,
        lookup: Lookup,
        verifier: AttestationVerifier,
        trust: TrustKeeper,
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
        revoked: Callable[[StatusReference], bool] = never,
    ) -> None:
        self._province = province
        self._store = store
        self._lookup = lookup
        self._revoked = revoked
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock
        self._nothing: dict[str, tuple[Found, Reply]] = {}
        """By province what was last made of its "no record": the same for all of its strangers."""

    async def recognize(self, request: pb.RecognizeRequest, call: Call) -> pb.RecognizeResponse:
        """Decide for one holder."""
        document = read_document(request.document, self._clock(), field="document")
        (decision,) = await self._decide([document], call)
        return pb.RecognizeResponse(decision=views.decision_to_proto(decision))

    async def batch_recognize(
        self, request: pb.BatchRecognizeRequest, call: Call
    ) -> pb.BatchRecognizeResponse:
        """Decide for many; a wrong document fails alone."""
        now = self._clock()
        items = [pb.BatchRecognizeItem() for _ in request.documents]
        documents: dict[int, Document] = {}
        for index, message in enumerate(request.documents):
            try:
                documents[index] = self._read(message, f"documents[{index}]", now)
            except TongxingError as error:
                items[index].status.CopyFrom(status.to_status(error, request_id=call.request_id))
        decisions = await self._decide(list(documents.values()), call)
        for index, decision in zip(documents, decisions, strict=True):
            items[index].decision.CopyFrom(views.decision_to_proto(decision))
        return pb.BatchRecognizeResponse(items=items)

    async def issue_health_code(
        self, request: pb.IssueHealthCodeRequest, call: Call
    ) -> pb.IssueHealthCodeResponse:
        """Not there yet."""
        raise InternalError("not there yet")

    async def verify_health_code(
        self, request: pb.VerifyHealthCodeRequest, call: Call
    ) -> pb.VerifyHealthCodeResponse:
        """Not there yet."""
        raise InternalError("not there yet")

    @staticmethod
    def _read(message: types_pb2.IdentityDocument, field: str, now: datetime) -> Document:
        try:
            check(message)
        except TongxingError as error:
            raise error.at(field) from None
        return read_document(message, now, field=field)

    async def _decide(self, documents: Sequence[Document], call: Call) -> list[Decision]:
        if not documents:
            return []
        asked_at = self._clock()
        keys, complete = self._subjects.in_force(asked_at), self._subjects.complete(asked_at)
        tokens = [[document.token(key) for key in keys] for document in documents]
        flat = [token for group in tokens for token in group]
        own, others = await asyncio.gather(
            self._own(flat), self._lookup.lookup(flat, call, self._trust.current())
        )
        # Taken after the waiting: a key revoked meanwhile is revoked.
        trust, now = self._trust.current(), self._clock()
        sent = sorted({self._province: own, **others}.items())
        decisions = []
        for index, group in enumerate(tokens):
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            at = index * len(keys)
            decisions.append(
                recognize(
                    [self._reply(code, found[at : at + len(group)]) for code, found in sent],
                    tokens=group,
                    province=self._province,
                    rules=self._trust.rules,
                    trust=trust,
                    verifier=self._verifier,
                    now=now,
                    complete=complete,
                    revoked=self._revoked,
                )
            )
        return decisions

    async def _own(self, tokens: Sequence[bytes]) -> list[Found]:
        if len(tokens) == 1:
            return [_held(await self._store.lookup(tokens[0]))]
        return [_held(held) for held in await self._store.lookup_many(tokens)]

    def _reply(self, province: str, found: Sequence[Found]) -> Reply:
        """What a province sent of one holder, whom it may know by several tokens."""
        first = found[0]
        says = first.signed or first.revoked or first.as_of is None
        if says or any(each is not first for each in found):
            return _joined(province, found)
        known = self._nothing.get(province)
        if known is None or known[0] is not first:
            known = self._nothing[province] = first, _joined(province, found)
        return known[1]


def _held(held: Held) -> Found:
    return Found(held.signed, held.revoked)


def _joined(province: str, found: Sequence[Found]) -> Reply:
    """One reply of several: whole only if all are, and as old as the oldest that says anything."""
    telling = [each for each in found if each.signed or each.revoked] or found
    signed = [each.signed for each in found if each.signed is not None]
    return Reply(
        province,
        [one for each in signed for one in each] if len(signed) == len(found) else None,
        revoked=[one for each in found for one in each.revoked],
        as_of=min((each.as_of for each in telling if each.as_of is not None), default=None),
        calls=max(each.calls for each in found),
        circuit_open=any(each.circuit_open for each in found),
        readable=all(each.readable for each in found),
    )
