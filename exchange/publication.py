"""Publication: from what an issuer says to an attestation that its province can sign.

What the contract's rules cannot say is checked here: documents, credit codes, times, colours, and
why something is revoked (撤销).
Every error names the request's field.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from datetime import datetime, timedelta, timezone
from uuid import UUID

from exchange import views
from exchange.attestations import CLOCK_SKEW, LIFE, Attestation, Holder, Issuer, check_colour
from exchange.errors import (
    CallerNotAllowedError,
    ExpiredError,
    FutureTimeError,
    InvalidFieldError,
    TongxingError,
)
from exchange.facts import Fact, fact_fields
from exchange.subjects import Document, DocumentType, EpochKey, check_credit_code, mask_name
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2

_CHINA = timezone(timedelta(hours=8))  # a document's dates are China's
_BETWEEN = re.compile(r"[\s\-·]+")
_NUMBER = re.compile("(?=([1-9][0-9]{16}[0-9X]))")  # wherever it begins
_DOCUMENT_TYPES = {
    types_pb2.DocumentType.Value(f"DOCUMENT_TYPE_{each.name}"): each for each in DocumentType
}
_NUMBERED = (
    DocumentType.RESIDENT_ID,
    DocumentType.HMT_RESIDENCE_PERMIT,
    DocumentType.FOREIGNER_PERMANENT_RESIDENCE,
)
"""Documents whose number shows by its check digit that it is one."""

__all__ = [
    "check_author",
    "check_revocation",
    "check_span",
    "draft",
    "holds_number",
    "read_document",
]

LONGEST_SPAN = timedelta(days=400)
"""What one revocation by time may span: a slip of the year is refused."""


def read_document(message: types_pb2.IdentityDocument, now: datetime, *, field: str) -> Document:
    """The identity document of a request, checked.

    :param field: where the document stands in the request, for the error.
    :raises InvalidFieldError: (or a subclass) the number is wrong; it is not in the message.
    """
    today = now.astimezone(_CHINA).date()
    try:
        return Document.parse(_DOCUMENT_TYPES[message.type], message.number, today=today)
    except TongxingError as error:
        raise error.at(field) from None


def draft(
    message: pb.NewAttestation, *, province: str, author: str, epoch: EpochKey, now: datetime
) -> Attestation:
    """The attestation that a province signs for its issuer.

    :param message: satisfies the contract's rules already.
    :param province: the province whose node publishes it.
    :param author: the caller's credit code, from its SPIFFE identity.
    :param epoch: the key of the subject tokens.
    :raises InvalidFieldError: (or a subclass) a field is wrong; names it.
    :raises CallerNotAllowedError: the issuer is not the caller.
    """
    field = "attestation"
    document = read_document(message.document, now, field=f"{field}.document")
    code = _credit_code(message.issuer.credit_code, field=f"{field}.issuer.credit_code")
    check_author(code, author, field=f"{field}.issuer.credit_code")
    fact = views.fact_from_proto(message.fact, field=f"{field}.fact")
    _check_times(fact, now, f"{field}.fact.{fact.kind.value.lower()}")
    check_colour(fact, f"{field}.fact.health_code_status")
    return Attestation(
        id=_uuid7(message.attestation_id, f"{field}.attestation_id"),
        province=province,
        token=document.token(epoch),
        fact=fact,
        issuer=Issuer(code, message.issuer.name),
        holder=Holder(_masked_name(message, field), document.type, document.masked),
        issued_at=now.replace(microsecond=0),
        expires_at=_expiry(message, fact, now, field),
        data_as_of=_data_as_of(message, fact, now, field),
        supersedes=_uuid7(message.supersedes, f"{field}.supersedes")
        if message.supersedes
        else None,
    )


_credit_code = functools.lru_cache(maxsize=1024)(check_credit_code)
"""An issuer publishes much under one code."""


def check_author(code: str, author: str, *, field: str) -> None:
    """An issuer speaks for itself alone.

    :raises CallerNotAllowedError: it does not.
    """
    if code != author:
        raise CallerNotAllowedError(
            "an issuer publishes its own attestations only",
            field=field,
            remedy="call with the certificate of that issuer",
        )


def check_revocation(reason: str, authority: str, now: datetime) -> None:
    """A revocation says why, and not whose: its words are kept, logged and shown.

    :param reason: 撤销原因; ``authority``: 决定机构, or "".
    :raises InvalidFieldError: the reason says nothing, or one of them holds an identity number.
    """
    if not any(map(str.isalnum, reason)):
        raise InvalidFieldError("says nothing", field="reason", remedy="say why (撤销原因)")
    for field, text in (("reason", reason), ("authority", authority)):
        if holds_number(text, now):
            raise InvalidFieldError(
                "holds an identity number",
                field=field,
                remedy="leave it out: the id says which attestation is meant",
            )


def holds_number(text: str, now: datetime) -> bool:
    """Whether free text holds an identity number that shows as one by its check digit."""
    joined = _BETWEEN.sub("", unicodedata.normalize("NFKC", text)).upper()
    today = now.astimezone(_CHINA).date()
    for found in _NUMBER.finditer(joined):
        for kind in _NUMBERED:
            try:
                Document.parse(kind, found[1], today=today)
            except TongxingError:
                continue
            return True
    return False


def check_span(start: datetime, end: datetime, *, field: str) -> None:
    """A range of time that a revocation may cover.

    :param start: aware, as ``end``, which is not in it any more.
    :param field: of the end, for the error.
    :raises InvalidFieldError: it is empty, or longer than 400 days.
    """
    if end <= start:
        raise InvalidFieldError("is not after the start", field=field)
    if end - start > LONGEST_SPAN:
        raise InvalidFieldError(
            f"is more than {LONGEST_SPAN.days} days after the start",
            field=field,
            remedy="check the year; where it is meant, revoke part by part",
        )


def _masked_name(message: pb.NewAttestation, field: str) -> str:
    try:
        return mask_name(message.holder_name)
    except InvalidFieldError as error:
        raise error.at(field) from None


def _uuid7(text: str, field: str) -> UUID:
    value = UUID(text)
    if value.version != 7:
        raise InvalidFieldError("not a UUIDv7 (RFC 9562 §5.7)", field=field)
    return value


def _check_times(fact: Fact, now: datetime, field: str) -> None:
    for part in fact_fields(type(fact)):
        value = getattr(fact, part.name)
        if part.type is datetime and value is not None and value > now + CLOCK_SKEW:
            raise FutureTimeError(
                "lies in the future",
                field=f"{field}.{part.proto}",
                remedy="check the time zone and the clock",
            )
    result = getattr(fact, "result_at", None)
    if result is not None and result < fact.sampled_at:
        raise InvalidFieldError("before the sample", field=f"{field}.result_time")
    confirmed = getattr(fact, "confirmed_at", None)
    if confirmed is not None and confirmed > fact.sampled_at:
        raise InvalidFieldError("after the release", field=f"{field}.confirm_time")
    if getattr(fact, "dose", 0) > getattr(fact, "doses", 0) + 5:
        raise InvalidFieldError("far beyond the series", field=f"{field}.dose")
    if fact.sampled_at + LIFE[fact.kind] <= now:
        raise ExpiredError(
            f"older than a {fact.kind.text.en} counts for ({LIFE[fact.kind].days} days)",
            field=f"{field}.sample_time",
        )


def _expiry(message: pb.NewAttestation, fact: Fact, now: datetime, field: str) -> datetime:
    longest = fact.sampled_at + LIFE[fact.kind]
    if not message.HasField("expire_time"):
        return longest
    field = f"{field}.expire_time"
    wanted = views.time_from_proto(message.expire_time, field=field)
    if wanted <= now:
        raise ExpiredError("is past", field=field)
    if wanted > longest:
        raise InvalidFieldError(
            f"more than {LIFE[fact.kind].days} days after the sample",
            field=field,
            remedy="leave it out for the usual life of the kind",
        )
    return wanted


def _data_as_of(message: pb.NewAttestation, fact: Fact, now: datetime, field: str) -> datetime:
    if not message.HasField("data_as_of_time"):
        return getattr(fact, "result_at", None) or fact.sampled_at
    stood = views.time_from_proto(message.data_as_of_time, field=f"{field}.data_as_of_time")
    if stood > now + CLOCK_SKEW:
        raise FutureTimeError("lies in the future", field=f"{field}.data_as_of_time")
    return stood
