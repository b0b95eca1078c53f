"""AuditService: who looked at whose data (个人信息访问记录), for the holder and for the admins."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from exchange import views
from exchange.errors import InvalidFieldError
from exchange.publication import read_document
from exchange.v1 import audit_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.audit.chain import Access
from nodes.audit.days import Page, Place
from nodes.audit.entries import Entry, Recorder
from nodes.call import Call
from nodes.identity import Role
from nodes.subjects import SubjectKeys

__all__ = ["Accesses", "AuditService"]

_PAGE: Final = 100


class Accesses(Recorder, Protocol):
    """Where accesses are recorded, and read back (`nodes.audit.log.AuditLog`)."""

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


class AuditService:
    """Shows an app the accesses to its holder's data, and an admin all; and records the look.

    A holder's accesses are found under the tokens that are in force now.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["AuditService"]

    def __init__(
        self, *, audit: Accesses, subjects: SubjectKeys, clock: Callable[[], datetime]
    ) -> None:
        self._audit = audit
        self._subjects = subjects
        self._clock = clock

    async def list_accesses(
        self, request: pb.ListAccessesRequest, call: Call
    ) -> pb.ListAccessesResponse:
        """Some of the accesses, the newest first.

        :raises InvalidFieldError: an app names no holder, or a field is wrong.
        :raises AuditUnavailableError: the log cannot be read, or the look not be recorded.
        """
        tokens = self._tokens(request, call)
        start, end = (_time(request, name) for name in ("start_time", "end_time"))
        if start and end and end <= start:
            raise InvalidFieldError("not after start_time", field="end_time")
        after = _read_place(request.page_token)
        page = await self._audit.list(tokens, start, end, request.page_size or _PAGE, after)
        self._audit.record(
            Entry(
                call.caller.uri,
                "ListAccesses",
                call.request_id,
                "1 access" if len(page.accesses) == 1 else f"{len(page.accesses)} accesses",
                token=tokens[0] if tokens else None,
                purpose=types_pb2.PURPOSE_HOLDER_ACCESS
                if call.caller.role is Role.APP
                else types_pb2.PURPOSE_UNSPECIFIED,
                target="" if tokens else "everybody",
            )
        )
        return pb.ListAccessesResponse(
            accesses=[_to_proto(each, of_all=tokens is None) for each in page.accesses],
            next_page_token=_write_place(page.after) if page.after else "",
        )

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


def _time(request: pb.ListAccessesRequest, name: str) -> datetime | None:
    if not request.HasField(name):
        return None
    return views.time_from_proto(getattr(request, name), field=name)


def _write_place(place: Place) -> str:
    text = json.dumps([place.day, place.time, place.log, place.sequence])
    return urlsafe_b64encode(text.encode()).decode()


def _read_place(token: str) -> Place | None:
    if not token:
        return None
    try:
        found: Any = json.loads(urlsafe_b64decode(token))
        day, time, log, sequence = found
        if not all(isinstance(each, str) and each.isascii() for each in (day, time)):
            raise TypeError  # noqa: TRY301 - one way out
        if not all(type(each) is int and 0 <= each < 1 << 63 for each in (log, sequence)):
            raise ValueError  # noqa: TRY301 - the same
    except (ValueError, TypeError, RecursionError):
        raise InvalidFieldError(
            "not a next_page_token", field="page_token", remedy="leave it out to begin anew"
        ) from None
    return Place(day, time, log, sequence)


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
