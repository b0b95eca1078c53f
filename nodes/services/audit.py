"""AuditService: who looked at whose data (个人信息访问记录), for the holder and for the admins."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from exchange import views
from exchange.errors import InvalidFieldError, StoreUnavailableError
from exchange.publication import read_document
from exchange.v1 import audit_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.audit.chain import Access, stamp
from nodes.audit.days import Page, Place
from nodes.audit.entries import Entry, Recorder
from nodes.audit.spots import Spot
from nodes.call import Call
from nodes.identity import Role
from nodes.subjects import SubjectKeys

__all__ = ["Accesses", "AuditService", "LogNames", "Siblings"]

_PAGE: Final = 100
_SIBLING_SECONDS: Final = 5.0
"""That the province's other nodes have for an answer, where the caller leaves so much."""


class Accesses(Recorder, Protocol):
    """Where accesses are recorded, and read back (`nodes.audit.log.AuditLog`)."""

    @property
    def name(self) -> str:
        """By which a node's logs are told from other nodes'."""

    async def list(
        self,
        tokens: Sequence[bytes] | None,
        start: datetime | None,
        end: datetime | None,
        limit: int,
        after: Place | None,
    ) -> Page:
        """Some of them, the newest first.

        :raises AuditUnavailableError: the log cannot be read.
        """
        ...


class Siblings(Protocol):
    """The province's other nodes (`nodes.peers.siblings.Siblings`)."""

    async def accesses(
        self, request: pb.ListNodeAccessesRequest, request_id: str, seconds: float
    ) -> Sequence[pb.ListNodeAccessesResponse]:
        """What those answer who do so in time; this node and others may be twice among them."""
        ...


class LogNames(Protocol):
    """Whose logs there are (`nodes.store.lognames.LogNames`)."""

    async def others(self) -> set[str]:
        """The names of the other nodes' logs.

        :raises StoreUnavailableError: no answer.
        """
        ...


class AuditService:
    """Shows an app the accesses to its holder's data, and an admin all; and records the look.

    A holder's accesses are found under the tokens that are in force now. Each node has a log of its
    own: whoever is asked asks the others, and says where one does not answer.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["AuditService"]

    def __init__(
        self,
        *,
        audit: Accesses,
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
        siblings: Siblings,
        names: LogNames,
    ) -> None:
        self._audit = audit
        self._subjects = subjects
        self._clock = clock
        self._siblings = siblings
        self._names = names

    async def list_accesses(
        self, request: pb.ListAccessesRequest, call: Call
    ) -> pb.ListAccessesResponse:
        """Some of the accesses, the newest first.

        :raises InvalidFieldError: an app names no holder, or a field is wrong.
        :raises AuditUnavailableError: the log cannot be read, or the look not be recorded.
        """
        tokens = self._tokens(request, call)
        size = request.page_size or _PAGE
        asked = pb.ListNodeAccessesRequest(
            subject_tokens=tokens,
            everybody=tokens is None,
            start_time=request.start_time if request.HasField("start_time") else None,
            end_time=request.end_time if request.HasField("end_time") else None,
            page_size=size + 1,
            page_token=request.page_token,
            asking_node=self._audit.name,
        )
        here = await self._here(asked)
        others, missing = await self._elsewhere(asked, call)
        each = (_placed(answer) for answer in (here, *others))
        found = list(islice(heapq.merge(*each, key=lambda it: it[0], reverse=True), size + 1))
        shown = found[:size]
        self._audit.record(
            Entry(
                call.caller.uri,
                "ListAccesses",
                call.request_id,
                _counted(len(shown)),
                token=tokens[0] if tokens else None,
                purpose=types_pb2.PURPOSE_HOLDER_ACCESS
                if call.caller.role is Role.APP
                else types_pb2.PURPOSE_UNSPECIFIED,
                target="" if tokens else "everybody",
            )
        )
        return pb.ListAccessesResponse(
            accesses=[access for _, access in shown],
            next_page_token=shown[-1][0].token() if len(found) > size else "",
            partial=missing is None or bool(missing),
            missing_nodes=sorted(missing or ()),
        )

    async def list_node_accesses(
        self, request: pb.ListNodeAccessesRequest, call: Call
    ) -> pb.ListNodeAccessesResponse:
        """Some of the accesses through this node, the newest first.

        :raises InvalidFieldError: a field is wrong.
        :raises AuditUnavailableError: the log cannot be read, or the look not be recorded.
        """
        if request.asking_node == self._audit.name:
            return pb.ListNodeAccessesResponse(node=self._audit.name)
        answer = await self._here(request)
        self._audit.record(
            # The holder stands where the app was answered: here the look would only stand twice.
            Entry(
                call.caller.uri,
                "ListNodeAccesses",
                call.request_id,
                _counted(len(answer.accesses)),
                target="everybody" if request.everybody else "one holder",
            )
        )
        return answer

    async def _here(self, request: pb.ListNodeAccessesRequest) -> pb.ListNodeAccessesResponse:
        start, end = (_time(request, name) for name in ("start_time", "end_time"))
        if start and end and end <= start:
            raise InvalidFieldError("not after start_time", field="end_time")
        after = Spot.read(request.page_token)
        page = await self._audit.list(
            None if request.everybody else request.subject_tokens,
            start,
            end,
            request.page_size,
            after and after.within(self._audit.name),
        )
        return pb.ListNodeAccessesResponse(
            node=self._audit.name,
            accesses=[
                pb.NodeAccess(
                    access=_to_proto(access, of_all=request.everybody),
                    day=place.day,
                    process=place.log,
                    sequence=place.sequence,
                )
                for access, place in zip(page.accesses, page.places, strict=True)
            ],
        )

    async def _elsewhere(
        self, request: pb.ListNodeAccessesRequest, call: Call
    ) -> tuple[Iterable[pb.ListNodeAccessesResponse], set[str] | None]:
        """What the other nodes answer, and whose answer is missing; None where nobody knows."""
        now = asyncio.get_running_loop().time
        end = now() + call.budget(now(), _SIBLING_SECONDS)
        names = None
        try:
            async with asyncio.timeout_at(end):
                names = await self._names.others()
        except (StoreUnavailableError, TimeoutError):
            pass
        if names is not None and not names:
            return (), set()
        answers = await self._siblings.accesses(request, call.request_id, end - now())
        # Several addresses may lead to one node, and to this one.
        each = {answer.node: answer for answer in answers if answer.node != self._audit.name}
        return each.values(), None if names is None else names - each.keys()

    def _tokens(self, request: pb.ListAccessesRequest, call: Call) -> Sequence[bytes] | None:
        """The holder's, of each epoch in force; None where an admin asks for everybody."""
        if not request.HasField("document"):
            if call.caller.role is Role.ADMIN:
                return None
            raise InvalidFieldError(
                "an app sees its own holder's accesses alone",
                field="document",
                remedy="name the holder",
            )
        now = self._clock()
        document = read_document(request.document, now, field="document")
        return [document.token(key) for key in self._subjects.in_force(now)]


def _time(request: pb.ListNodeAccessesRequest, name: str) -> datetime | None:
    if not request.HasField(name):
        return None
    return views.time_from_proto(getattr(request, name), field=name)


def _placed(answer: pb.ListNodeAccessesResponse) -> Iterable[tuple[Spot, pb.Access]]:
    """A node's accesses, each with its place among those of all."""
    for each in answer.accesses:
        time = stamp(each.access.access_time.ToDatetime(UTC))
        yield Spot(each.day, time, answer.node, each.process, each.sequence), each.access


def _counted(accesses: int) -> str:
    return "1 access" if accesses == 1 else f"{accesses} accesses"


def _to_proto(access: Access, *, of_all: bool) -> pb.Access:
    """A view of an access; of how many holders it was, only where it is shown for no one's sake."""
    time = Timestamp()
    time.FromDatetime(access.time)
    count = len(access.holders)
    return pb.Access(
        access_time=time,
        caller=access.caller,
        method=access.method,
        purpose=types_pb2.Purpose.Name(access.purpose),
        answer=access.answer,
        request_id=access.request_id,
        target=access.target or (f"{count} holders" if of_all and count > 1 else ""),
    )
