"""Appeals (申诉): what a holder may contest, how far that has come, and what answers it.

An appeal is filed at the holder's own province's node and answered by the province that attested
or decided. What both provinces must agree upon is checked here, by each of them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final
from uuid import UUID

from exchange import receipts
from exchange.attestations import CLOCK_SKEW, Attestation
from exchange.errors import (
    AppealStateError,
    FutureTimeError,
    InvalidFieldError,
    MalformedObjectError,
    TongxingError,
    UnknownProvinceError,
)
from exchange.provinces import PROVINCES
from exchange.publication import holds_number
from exchange.receipts import Receipt, Subject
from exchange.texts import Text
from exchange.trust.trustlist import TrustList
from exchange.v1 import appeal_service_pb2 as pb
from exchange.views import time_from_proto, time_to_proto

__all__ = [
    "KEPT",
    "LARGEST_RECEIPT",
    "LONGEST_TEXT",
    "Answer",
    "Appeal",
    "Filed",
    "Resolution",
    "State",
    "answer_from_proto",
    "answer_to_proto",
    "appeal_from_proto",
    "appeal_to_proto",
    "brought",
    "check_correction",
    "check_receipt",
    "draft",
    "heard",
    "not_taken",
]

KEPT: Final = timedelta(days=3 * 365)
"""How long an appeal is kept: as impact records are (PIPL, Article 56)."""

LONGEST_TEXT: Final = 500
"""Characters of a statement, and of a reason, by the contract."""

LARGEST_RECEIPT: Final = 64 * 1024
"""Bytes, by the contract."""


class State(enum.StrEnum):
    """How far an appeal has come (申诉状态)."""

    FILED = "FILED"
    DELIVERED = "DELIVERED"
    ANSWERED = "ANSWERED"

    @property
    def text(self) -> Text:
        """The state in words."""
        return _STATE_TEXTS[self]


_STATE_TEXTS = {
    State.FILED: Text("已提交", "filed"),
    State.DELIVERED: Text("已送达", "delivered"),
    State.ANSWERED: Text("已答复", "answered"),
}


class Resolution(enum.StrEnum):
    """An answer in one word (申诉结果)."""

    CORRECTED = "CORRECTED"
    REVOKED = "REVOKED"
    UPHELD = "UPHELD"
    REJECTED = "REJECTED"

    @property
    def text(self) -> Text:
        """The answer in words."""
        return _RESOLUTION_TEXTS[self]


_RESOLUTION_TEXTS = {
    Resolution.CORRECTED: Text("已更正", "corrected"),
    Resolution.REVOKED: Text("已撤销", "revoked"),
    Resolution.UPHELD: Text("申诉成立", "upheld"),
    Resolution.REJECTED: Text("申诉不成立", "rejected"),
}

_OF_ATTESTATION: Final = (Resolution.CORRECTED, Resolution.REVOKED, Resolution.REJECTED)
_OF_DECISION: Final = (Resolution.UPHELD, Resolution.REJECTED)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an appeal was answered (申诉答复).

    :param superseding: of CORRECTED, the attestation that supersedes the contested one.
    :param answered_at: aware, UTC, in whole seconds.
    """

    resolution: Resolution
    reason: str
    superseding: UUID | None
    answered_at: datetime

    def same(self, other: Answer) -> bool:
        """Whether another says the same, whenever it was said."""
        return replace(self, answered_at=other.answered_at) == other


@dataclass(frozen=True, slots=True)
class Appeal:
    """What is contested, and how far that has come. Times are aware, in UTC, in whole seconds.

    :param id: a UUIDv7.
    :param province: where it was filed.
    :param answering_province: that of the attestation or of the decision.
    :param attestation_id: the contested attestation's; None where a decision is contested.
    :param receipt: the decision's, COSE_Sign1 bytes; b"" where there is none.
    :param statement: what the holder says (申诉理由).
    :param holder_unchecked: of a decision: the log of the node that decided does not tell whose.
    """

    id: UUID
    province: str
    answering_province: str
    attestation_id: UUID | None
    receipt: bytes = field(repr=False)
    statement: str = field(repr=False)
    filed_at: datetime
    delivered_at: datetime | None = None
    answer: Answer | None = None
    holder_unchecked: bool = False

    @property
    def state(self) -> State:
        """How far it has come."""
        if self.answer is not None:
            return State.ANSWERED
        return State.FILED if self.delivered_at is None else State.DELIVERED

    def same_filing(self, other: Appeal) -> bool:
        """Whether the other contests the same in the same words, whenever it was filed."""
        return self._filing(self.filed_at) == other._filing(self.filed_at)

    def _filing(self, at: datetime) -> Appeal:
        return replace(self, filed_at=at, delivered_at=None, answer=None, holder_unchecked=False)


@dataclass(frozen=True, slots=True)
class Filed:
    """An appeal with those whom it may be about.

    :param tokens: the holder's subject tokens, the newest epoch's first; empty where the province
        that answers keeps it, which needs them no more.
    """

    appeal: Appeal
    tokens: tuple[bytes, ...] = field(default=(), repr=False)


# --- filing ---------------------------------------------------------------------------------


def draft(
    request: pb.FileAppealRequest, *, province: str, trust: TrustList, now: datetime
) -> Appeal:
    """The appeal that a province takes for its holder.

    :param request: satisfies the contract's rules already.
    :param province: the node's own.
    :param now: aware.
    :raises InvalidFieldError: (or a subclass) a field is wrong; names it.
    """
    contested, answering = None, ""
    if request.HasField("attestation"):
        contested = UUID(request.attestation.attestation_id)
        answering = request.attestation.province
        if answering != province and answering not in trust.profiles:
            raise UnknownProvinceError(
                "no such province in the trust list", field="attestation.province"
            )
    elif not request.receipt:
        raise InvalidFieldError(
            "is missing",
            field="attestation",
            remedy="name the attestation, or give the receipt of the decision (回执)",
        )
    if request.receipt:
        said_by = _receipt(request.receipt, trust, now, "receipt").province
        answering = answering or said_by
    _check_text(request.statement, now, "statement")
    return Appeal(
        id=_uuid7(request.appeal_id, "appeal_id"),
        province=province,
        answering_province=answering,
        attestation_id=contested,
        receipt=request.receipt,
        statement=request.statement,
        filed_at=now.replace(microsecond=0),
    )


def brought(message: pb.Appeal, *, by: str, province: str, now: datetime) -> Appeal:
    """Read an appeal that another province brings; `check_receipt` is still to be done.

    State, delivery and answer are not read: the other province does not tell them.

    :param message: satisfies the contract's rules already.
    :param by: the province whose node brings it.
    :param province: the node's own, which is to answer.
    :raises InvalidFieldError: (or a subclass) a field is wrong; names it under ``appeal``.
    """
    try:
        appeal = _read_filing(message)
        if appeal.province != by:
            raise InvalidFieldError("is not the caller's own", field="province")
        if appeal.answering_province != province:
            raise InvalidFieldError(f"this node answers for {province}", field="answering_province")
        if appeal.attestation_id is None and not appeal.receipt:
            raise InvalidFieldError("nothing is contested", field="attestation_id")
        _check_text(appeal.statement, now, "statement")
        if appeal.filed_at > now + CLOCK_SKEW:
            raise FutureTimeError("lies in the future", field="file_time")
        if appeal.filed_at <= now - KEPT:
            raise InvalidFieldError(
                f"more than {KEPT.days} days ago: it is kept no more", field="file_time"
            )
    except TongxingError as error:
        raise error.at("appeal") from None
    return appeal


def check_receipt(
    appeal: Appeal, trust: TrustList, now: datetime, *, contested: bytes = b"", field: str
) -> None:
    """Hold an appeal's receipt, if any, against what is contested.

    :param contested: the contested attestation's signed bytes; b"" where they are not at hand.
    :param field: the receipt's, for the error.
    :raises InvalidFieldError: (or a subclass) it does not verify, is another province's, or is of
        a recognition that did not look at the attestation.
    """
    if not appeal.receipt:
        return
    receipt = _receipt(appeal.receipt, trust, now, field)
    if appeal.attestation_id is None:
        if receipt.province != appeal.answering_province:
            raise InvalidFieldError("is not of the province that is to answer", field=field)
        return
    # A code names its evidence by id, and its receipt names only the code.
    looked = receipt.subject is not Subject.RECOGNITION or receipt.omitted
    if contested and not looked and not receipts.names(receipt, contested):
        raise InvalidFieldError(
            "does not name the contested attestation",
            field=field,
            remedy="leave it out, or give the receipt of a decision that looked at it",
        )


def _receipt(signed: bytes, trust: TrustList, now: datetime, field: str) -> Receipt:
    if len(signed) > LARGEST_RECEIPT:
        raise MalformedObjectError("larger than 64 KiB", field=field)
    try:
        return receipts.verify(signed, trust, now)
    except TongxingError as error:
        raise error.at(field) from None


# --- answering ------------------------------------------------------------------------------


def answer_from_proto(
    appeal: Appeal, message: pb.AppealAnswer, *, answered_at: datetime, now: datetime
) -> Answer:
    """Read an answer, and hold it against what it answers.

    :param answered_at: when; the message's own time is not looked at.
    :raises InvalidFieldError: a field is wrong; names it under ``answer``.
    :raises AppealStateError: such an answer does not answer such an appeal.
    """
    try:
        return _answer(appeal, message, answered_at, now)
    except TongxingError as error:
        raise error.at("answer") from None


def _answer(
    appeal: Appeal, message: pb.AppealAnswer, answered_at: datetime, now: datetime
) -> Answer:
    answer = _read_answer(message, answered_at)
    decision = appeal.attestation_id is None
    permitted = _OF_DECISION if decision else _OF_ATTESTATION
    if answer.resolution not in permitted:
        what = "a decision" if decision else "an attestation"
        raise AppealStateError(
            f"{answer.resolution} does not answer an appeal against {what}",
            field="resolution",
            remedy=f"one of {', '.join(permitted)}",
        )
    if (answer.superseding is not None) != (answer.resolution is Resolution.CORRECTED):
        raise InvalidFieldError(
            "goes with CORRECTED, and CORRECTED with it", field="superseding_attestation_id"
        )
    _check_text(answer.reason, now, "reason")
    return answer


def _read_answer(message: pb.AppealAnswer, answered_at: datetime) -> Answer:
    try:
        name = pb.AppealResolution.Name(message.resolution)
        resolution = Resolution(name.removeprefix("APPEAL_RESOLUTION_"))
    except ValueError:
        raise InvalidFieldError("no answer that is known here", field="resolution") from None
    superseding = None
    if message.superseding_attestation_id:
        superseding = _uuid(message.superseding_attestation_id, "superseding_attestation_id")
    return Answer(resolution, message.reason, superseding, answered_at.replace(microsecond=0))


def check_correction(appeal: Appeal, correction: Attestation) -> None:
    """See that an attestation corrects the contested one.

    :param correction: verified, live and held by the province that answers.
    :raises AppealStateError: it is another's correction, or none.
    """
    if correction.supersedes is None or correction.supersedes != appeal.attestation_id:
        raise AppealStateError(
            "it does not supersede the contested attestation",
            field="answer.superseding_attestation_id",
            remedy="publish one whose `supersedes` is the contested attestation's id",
        )


def heard(appeal: Appeal, message: pb.Appeal, *, now: datetime) -> Appeal:
    """An appeal as the province that answers says that it stands.

    Only delivery and answer are taken over. Times that cannot be are this node's: the other clock
    may be wrong, and nobody can say that it had something before it was filed.

    :raises InvalidFieldError: (or a subclass) it speaks of another appeal, or its answer is none.
    :raises AppealStateError: its answer does not answer this appeal.
    """
    if message.appeal_id != str(appeal.id):
        raise MalformedObjectError("it speaks of another appeal", field="appeal_id")
    delivered = appeal.delivered_at or _told(message, "deliver_time", appeal.filed_at, now)
    if not message.HasField("answer"):
        return replace(appeal, delivered_at=delivered)
    answered = _told(message.answer, "answer_time", delivered, now)
    answer = answer_from_proto(appeal, message.answer, answered_at=answered, now=now)
    return replace(appeal, delivered_at=delivered, answer=appeal.answer or answer)


def _told(
    message: pb.Appeal | pb.AppealAnswer, field: str, earliest: datetime, now: datetime
) -> datetime:
    here = now.replace(microsecond=0)
    if not message.HasField(field):
        return here
    try:
        told = time_from_proto(getattr(message, field), field=field)
    except InvalidFieldError:
        return here
    return told if earliest - CLOCK_SKEW <= told <= now + CLOCK_SKEW else here


_NOT_TAKEN: Final[Mapping[str, Text]] = MappingProxyType(
    {
        "NOT_FOUND": Text(
            "该省没有本人的这一健康证明", "it holds no such attestation of this holder"
        ),
        "ID_TAKEN": Text("申诉编号已被占用", "the appeal's id is taken there"),
        "INVALID_FIELD": Text("申诉材料不合规", "it calls the appeal invalid"),
        "MALFORMED_OBJECT": Text("回执格式错误", "it cannot read the receipt"),
        "BAD_SIGNATURE": Text("回执验签失败", "the receipt does not verify there"),
    }
)


def not_taken(appeal: Appeal, error: TongxingError, *, now: datetime) -> Answer | None:
    """The answer of a province that will never take an appeal; None where it may yet.

    In words of our own: what the other said might name a holder.
    """
    why = _NOT_TAKEN.get(error.reason)
    if why is None:
        return None
    place = PROVINCES[appeal.answering_province]
    reason = f"{place.zh}未受理：{why.zh}。Not taken by {place.en}: {why.en}."
    return Answer(Resolution.REJECTED, reason, None, now.replace(microsecond=0))


# --- messages -------------------------------------------------------------------------------


def appeal_to_proto(appeal: Appeal) -> pb.Appeal:
    """The appeal as its message."""
    return pb.Appeal(
        appeal_id=str(appeal.id),
        province=appeal.province,
        answering_province=appeal.answering_province,
        attestation_id=str(appeal.attestation_id or ""),
        receipt=appeal.receipt,
        statement=appeal.statement,
        file_time=time_to_proto(appeal.filed_at),
        deliver_time=None if appeal.delivered_at is None else time_to_proto(appeal.delivered_at),
        state=f"APPEAL_STATE_{appeal.state}",
        answer=None if appeal.answer is None else answer_to_proto(appeal.answer),
        holder_unchecked=appeal.holder_unchecked,
    )


def answer_to_proto(answer: Answer) -> pb.AppealAnswer:
    """The answer as its message."""
    return pb.AppealAnswer(
        resolution=f"APPEAL_RESOLUTION_{answer.resolution}",
        reason=answer.reason,
        superseding_attestation_id=str(answer.superseding or ""),
        answer_time=time_to_proto(answer.answered_at),
    )


def appeal_from_proto(message: pb.Appeal) -> Appeal:
    """Read an appeal as `appeal_to_proto` gave it; its state is what delivery and answer say.

    :raises InvalidFieldError: (or a subclass) a field has another form; names it.
    """
    appeal = replace(_read_filing(message), holder_unchecked=message.holder_unchecked)
    if message.HasField("deliver_time"):
        at = time_from_proto(message.deliver_time, field="deliver_time")
        appeal = replace(appeal, delivered_at=at)
    if message.HasField("answer"):
        at = time_from_proto(message.answer.answer_time, field="answer.answer_time")
        appeal = replace(appeal, answer=_read_answer(message.answer, at))
    return appeal


def _read_filing(message: pb.Appeal) -> Appeal:
    for name in ("province", "answering_province"):
        if getattr(message, name) not in PROVINCES:
            raise UnknownProvinceError("no province of GB/T 2260", field=name)
    contested = message.attestation_id
    return Appeal(
        id=_uuid7(message.appeal_id, "appeal_id"),
        province=message.province,
        answering_province=message.answering_province,
        attestation_id=_uuid(contested, "attestation_id") if contested else None,
        receipt=message.receipt,
        statement=message.statement,
        filed_at=time_from_proto(message.file_time, field="file_time"),
    )


def _check_text(text: str, now: datetime, field: str) -> None:
    if not any(map(str.isalnum, text)):
        raise InvalidFieldError("says nothing", field=field)
    if len(text) > LONGEST_TEXT:
        raise InvalidFieldError(f"longer than {LONGEST_TEXT} characters", field=field)
    if holds_number(text, now):
        raise InvalidFieldError(
            "holds an identity number",
            field=field,
            remedy="leave it out: who answers knows whom the attestation is about",
        )


def _uuid(text: str, field: str) -> UUID:
    try:
        value = UUID(text)
    except ValueError:
        value = None
    # UUID takes more spellings than the contract: braces, a prefix, no hyphens.
    if value is None or str(value) != text.lower():
        raise InvalidFieldError(
            "not a UUID", field=field, remedy="write it with hyphens (RFC 9562)"
        )
    return value


def _uuid7(text: str, field: str) -> UUID:
    value = _uuid(text, field)
    if value.version != 7:
        raise InvalidFieldError("not a UUIDv7 (RFC 9562 §5.7)", field=field)
    return value
