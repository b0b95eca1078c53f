"""Appeals (申诉) as an app files them for its holders, and as issuers and admins answer them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from exchange.appeals import Resolution
from exchange.client import Client, Document
from exchange.errors import InternalError
from exchange.v1 import appeal_service_pb2 as pb

__all__ = ["AppealMessage", "Appeals"]

AppealMessage = pb.Appeal


class Appeals:
    """The appeals that are the caller's business, at its own province's node.

    Each method raises the node's error, or `exchange.client.UnreachableError`.

    :param client: of an app, an issuer or an admin; the contract says who may call what.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def file(
        self,
        appeal_id: UUID,
        document: Document,
        statement: str,
        *,
        attestation: tuple[str, UUID] | None = None,
        receipt: bytes = b"",
    ) -> AppealMessage:
        """File an appeal for a holder; the same once more is no error.

        :param appeal_id: a new UUIDv7.
        :param statement: what the holder says (申诉理由), without identity numbers.
        :param attestation: the issuing province and the id of what is contested; None to contest
            the receipt's decision.
        :param receipt: the signed bytes (回执); required where no attestation is named.
        """
        reference = None
        if attestation is not None:
            province, id_ = attestation
            reference = pb.AttestationReference(province=province, attestation_id=str(id_))
        request = pb.FileAppealRequest(
            appeal_id=str(appeal_id),
            document=document,
            attestation=reference,
            receipt=receipt,
            statement=statement,
        )
        return await self._one("FileAppeal", request, pb.FileAppealResponse, appeal_id)

    async def get(self, appeal_id: UUID) -> AppealMessage:
        """One appeal as it stands."""
        request = pb.GetAppealRequest(appeal_id=str(appeal_id))
        return await self._one("GetAppeal", request, pb.GetAppealResponse, appeal_id)

    async def list(
        self, document: Document | None = None, *, unanswered: bool = False, page_size: int = 0
    ) -> AsyncIterator[AppealMessage]:
        """Appeals, the newest first.

        :param document: the holder: an app must name one, nobody else may.
        :param unanswered: only those without an answer.
        :param page_size: how many the node gives at once, up to 1,000; 0 for its own choice.
        """
        token = ""
        while True:
            answer: pb.ListAppealsResponse = await self._client.call(
                "AppealService/ListAppeals",
                pb.ListAppealsRequest(
                    document=document,
                    unanswered=unanswered,
                    page_size=page_size,
                    page_token=token,
                ),
                pb.ListAppealsResponse,
            )
            for appeal in answer.appeals:
                yield appeal
            if not answer.next_page_token:
                return
            if answer.next_page_token == token:
                raise InternalError("the node gives the same page again and again")
            token = answer.next_page_token

    async def answer(
        self,
        appeal_id: UUID,
        resolution: Resolution,
        reason: str,
        *,
        superseding: UUID | None = None,
    ) -> AppealMessage:
        """Answer an appeal, once and for good; the same once more is no error.

        :param reason: why (答复理由), without a word of who the holder is.
        :param superseding: of CORRECTED, the attestation that supersedes the contested one.
        """
        request = pb.AnswerAppealRequest(
            appeal_id=str(appeal_id),
            answer=pb.AppealAnswer(
                resolution=f"APPEAL_RESOLUTION_{resolution}",
                reason=reason,
                superseding_attestation_id=str(superseding or ""),
            ),
        )
        return await self._one("AnswerAppeal", request, pb.AnswerAppealResponse, appeal_id)

    async def _one(
        self, method: str, request: Any, response: type[Any], appeal_id: UUID
    ) -> AppealMessage:
        answer = await self._client.call(f"AppealService/{method}", request, response)
        found: AppealMessage = answer.appeal
        if found.appeal_id != str(appeal_id):
            raise InternalError("the node answered of another appeal")
        return found
