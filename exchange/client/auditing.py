"""Who looked at a holder's data (个人信息访问记录): for its app, and for the province's admins."""

from __future__ import annotations

from datetime import datetime

from exchange import views
from exchange.client import Client, Document
from exchange.v1 import audit_service_pb2 as pb

__all__ = ["Access", "Accesses", "AccessesPage"]

Access = pb.Access
AccessesPage = pb.ListAccessesResponse


class Accesses:
    """The access log of the client's own province.

    :param client: of an app, which sees the accesses to a holder's data that it names, or of an
        admin, who sees all. Each look is recorded itself.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(
        self,
        document: Document | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
    ) -> AccessesPage:
        """Some of the accesses through all nodes of the province, the newest first.

        Where ``partial`` is set in the answer, a node did not answer, and they are not all: ask
        anew later, from the first page.

        :param document: the holder; an admin may leave it out.
        :param start: from this time on, aware, in whole seconds.
        :param end: before this time.
        :param page_size: 1 to 1,000; 100 where it is 0.
        :param page_token: what the page before gave as ``next_page_token``.
        :raises InvalidFieldError: a field is wrong, or an app names no holder.
        :raises AuditUnavailableError: the log cannot be read, or the look not be recorded.
        """
        request = pb.ListAccessesRequest(
            document=document,
            start_time=None if start is None else views.time_to_proto(start),
            end_time=None if end is None else views.time_to_proto(end),
            page_size=page_size,
            page_token=page_token,
        )
        answer: AccessesPage = await self._client.call(
            "AuditService/ListAccesses", request, pb.ListAccessesResponse
        )
        return answer
