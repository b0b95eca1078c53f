"""RecognitionService: this province's decisions for its own apps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from exchange import status, views
from exchange.attestations import AttestationVerifier
from exchange.errors import TongxingError
from exchange.publication import read_document
from exchange.recognition import Decision, Reply, recognize
from exchange.subjects import Document
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.peers.fetch import Peers
from nodes.services.validation import check
from nodes.store.attestations import AttestationStore
from nodes.subjects import SubjectKeys
from nodes.trust import TrustKeeper

__all__ = ["RecognitionService"]

log = structlog.get_logger(__name__)

_BREATH = 16
"""Holders of a batch that are decided before the event loop gets a turn."""


class RecognitionService:
    """Asks its own store and all peers at once, verifies, applies the rules."""

    descriptor = pb.DESCRIPTOR.services_by_name["RecognitionService"]

    def __init__(
        self,
        *,
        province: str,
        store: AttestationStore,
        peers: Peers,
        verifier: AttestationVerifier,
        trust: TrustKeeper,
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
    ) -> None:
        self._province = province
        self._store = store
        self._peers = peers
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock

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
            self._own(flat), self._peers.fetch(flat, call, self._trust.current())
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
                    [
                        reply
                        if isinstance(reply, Reply)
                        else Reply(
                            code, [r for records in reply[at : at + len(group)] for r in records]
                        )
                        for code, reply in sent
                    ],
                    tokens=group,
                    province=self._province,
                    rules=self._trust.rules,
                    trust=trust,
                    verifier=self._verifier,
                    now=now,
                    complete=complete,
                )
            )
        return decisions

    async def _own(self, tokens: Sequence[bytes]) -> list[list[bytes]]:
        if len(tokens) == 1:
            return [await self._store.lookup(tokens[0])]
        return await self._store.lookup_many(tokens)
