"""Attestations (健康证明): a health fact about one holder as a CWT claims set (RFC 8392).

The claims are those of the table below; ``cose`` signs them. The signed bytes are what is stored,
sent and shown: an `Attestation` is only what was read from them.

======  ==========  =========================================================================
label   claim       value
======  ==========  =========================================================================
1       iss         the province's GB/T 2260 code, text
2       sub         the subject token, base64url without padding (36 bytes, 48 characters)
4 5 6   exp nbf iat whole seconds since 1970
7       cti         16 bytes, a UUIDv7: the attestation's id
65535   status      map: ``status_list``: map of ``idx``, ``uri`` (`exchange.statuslist`); or none
−70001  health      map: ``kind`` and its fields, ``issuer``, ``data_as_of``, ``supersedes``
−70002  holder      map: masked ``name``, ``document_type``, masked ``document_number``
======  ==========  =========================================================================
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from exchange import cbor, cose
from exchange.claims import time, typed
from exchange.errors import (
    ExpiredError,
    FutureTimeError,
    MalformedObjectError,
    UnexplainedColourError,
)
from exchange.facts import (
    Colour,
    Fact,
    HealthCodeStatus,
    Kind,
    fact_fields,
    fact_from_claim,
    fact_to_claim,
)
from exchange.keys import PublicKey, Signer
from exchange.provinces import PROVINCES
from exchange.statuslist import StatusReference
from exchange.subjects import TOKEN_BYTES, DocumentType
from exchange.trust.trustlist import TrustList
from exchange.vouching import CLOCK_SKEW, check_key

__all__ = [
    "CLOCK_SKEW",
    "LIFE",
    "Attestation",
    "AttestationVerifier",
    "Holder",
    "Issuer",
    "check_colour",
    "decode",
    "digest",
    "encode",
    "sign",
    "sign_and_digest",
]

ISS, SUB, EXP, NBF, IAT, CTI = 1, 2, 4, 5, 6, 7
STATUS = 65535
HEALTH, HOLDER = -70001, -70002
_PROVINCES_OWN = frozenset({IAT, NBF, STATUS})
"""Published twice, a fact has been signed at two times, and has two places in status lists."""

LIFE = {
    Kind.MEDICAL_EXAMINATION: timedelta(days=180),
    Kind.NUCLEIC_ACID_TEST: timedelta(days=14),
    Kind.ANTIGEN_TEST: timedelta(days=7),
    Kind.VACCINATION: timedelta(days=3 * 365),
    Kind.RECOVERY: timedelta(days=180),
    Kind.HEALTH_CODE_STATUS: timedelta(days=30),
}
"""How long after sampling an attestation of a kind may live: its usual and its longest life."""


_LARGEST_REMEMBERED = 8 * 1024


@dataclass(frozen=True, slots=True)
class Issuer:
    """The institution that established a fact (发证机构)."""

    credit_code: str
    name: str


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder, masked: enough to compare with the person at the gate."""

    name: str
    document_type: DocumentType
    document_number: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """What one signed attestation says. Times are aware and in UTC."""

    id: UUID
    province: str
    token: bytes = field(repr=False)
    fact: Fact
    issuer: Issuer
    holder: Holder
    issued_at: datetime
    expires_at: datetime
    data_as_of: datetime
    supersedes: UUID | None = None
    status: StatusReference | None = None
    """Where to look whether it is revoked; None where only its province's node can tell."""
    made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What others made of these values alone, each under its own key: while an attestation is
    remembered (`AttestationVerifier`), that is remembered too, and it ends with it."""


def encode(attestation: Attestation) -> bytes:
    """The claims set as deterministic CBOR (RFC 8949 §4.2)."""
    return cbor.encode(_claims(attestation))


def digest(attestation: Attestation) -> bytes:
    """SHA-256 over all that the issuer said: equal for the same fact signed twice."""
    return _digest(cbor.encode_items(_claims(attestation)))


def _digest(claims: Mapping[int | str, bytes]) -> bytes:
    said = [item for label, item in claims.items() if label not in _PROVINCES_OWN]
    return hashlib.sha256(cbor.join(said)).digest()


def _claims(attestation: Attestation) -> dict[int | str, Any]:
    issuer, holder = attestation.issuer, attestation.holder
    issued = int(attestation.issued_at.timestamp())
    health = fact_to_claim(attestation.fact)
    health["issuer"] = {"credit_code": issuer.credit_code, "name": issuer.name}
    health["data_as_of"] = int(attestation.data_as_of.timestamp())
    if attestation.supersedes:
        health["supersedes"] = attestation.supersedes.bytes
    claims: dict[int | str, Any] = {
        ISS: attestation.province,
        SUB: base64.urlsafe_b64encode(attestation.token).decode(),
        EXP: int(attestation.expires_at.timestamp()),
        NBF: issued,
        IAT: issued,
        CTI: attestation.id.bytes,
        HEALTH: health,
        HOLDER: {
            "name": holder.name,
            "document_type": holder.document_type.value,
            "document_number": holder.document_number,
        },
    }
    if status := attestation.status:
        claims[STATUS] = {"status_list": {"idx": status.index, "uri": status.uri}}
    return claims


def sign(attestation: Attestation, signer: Signer) -> bytes:
    """The attestation as COSE_Sign1 bytes."""
    return cose.sign(encode(attestation), signer, cose.ObjectType.ATTESTATION)


def sign_and_digest(attestation: Attestation, signer: Signer) -> tuple[bytes, bytes]:
    """What `sign` and `digest` give, from claims that are encoded once."""
    claims = cbor.encode_items(_claims(attestation))
    payload = cbor.join(claims.values())
    return cose.sign(payload, signer, cose.ObjectType.ATTESTATION), _digest(claims)


def decode(payload: bytes) -> Attestation:
    """Read a claims set whose signature has been verified.

    Claims and fields that a later version adds are passed over.

    :raises MalformedObjectError: it is not the claims set of an attestation; names the claim.
    :raises UnexplainedColourError: a status that is not green does not say why.
    """
    claims = cbor.decode_map(payload)
    health = typed(claims, HEALTH, "health", dict)
    holder = typed(claims, HOLDER, "holder", dict)
    issuer = typed(health, "issuer", "health.issuer", dict)
    attestation = Attestation(
        id=_uuid7(typed(claims, CTI, "cti", bytes), "cti"),
        province=_province(typed(claims, ISS, "iss", str)),
        token=_token(typed(claims, SUB, "sub", str)),
        fact=fact_from_claim(health),
        issuer=Issuer(
            typed(issuer, "credit_code", "health.issuer.credit_code", str),
            typed(issuer, "name", "health.issuer.name", str),
        ),
        holder=Holder(
            typed(holder, "name", "holder.name", str),
            _document_type(typed(holder, "document_type", "holder.document_type", str)),
            typed(holder, "document_number", "holder.document_number", str),
        ),
        issued_at=time(claims, IAT, "iat"),
        expires_at=time(claims, EXP, "exp"),
        data_as_of=time(health, "data_as_of", "health.data_as_of"),
        supersedes=_uuid7(typed(health, "supersedes", "health.supersedes", bytes), "supersedes")
        if "supersedes" in health
        else None,
        status=_status(claims) if STATUS in claims else None,
    )
    if time(claims, NBF, "nbf") != attestation.issued_at:
        raise MalformedObjectError("nbf is not iat", field="nbf")
    # Differences, because a sum may lie past the year 9999 and overflow.
    fact = attestation.fact
    if attestation.expires_at - fact.sampled_at > LIFE[fact.kind]:
        raise MalformedObjectError("lives longer than its kind may", field="exp")
    for part in fact_fields(type(fact)):
        value = getattr(fact, part.name)
        if isinstance(value, datetime) and value - attestation.issued_at > CLOCK_SKEW:
            raise MalformedObjectError("after it was issued", field=f"health.{part.name}")
    check_colour(fact, "health")
    return attestation


def check_colour(fact: Fact, field: str) -> None:
    """A status that is not green says why, by which rule, by whom and what the holder can do.

    1,317 people were given red codes without a health ground (Zhengzhou, 2022).

    :raises UnexplainedColourError: something of that is missing; names the first.
    """
    if not isinstance(fact, HealthCodeStatus) or fact.colour is Colour.GREEN:
        return
    for name in ("reason", "legal_basis", "assigned_by", "guidance"):
        # A space that is not seen, or a dash, explains nothing.
        if not any(map(str.isalnum, getattr(fact, name))):
            raise UnexplainedColourError(
                "a status that is not green must say why, by which rule, by whom and what to do",
                field=f"{field}.{name}",
                remedy="fill it in (赋码原因, 赋码依据, 赋码机构, 处置建议)",
            )


def _uuid7(value: bytes, name: str) -> UUID:
    if len(value) != 16 or (identifier := UUID(bytes=value)).version != 7:
        raise MalformedObjectError("not a UUIDv7", field=name)
    return identifier


def _province(code: str) -> str:
    if code not in PROVINCES:
        raise MalformedObjectError("no province of GB/T 2260", field="iss")
    return code


def _token(text: str) -> bytes:
    try:
        token = base64.b64decode(text, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        token = b""
    if len(token) != TOKEN_BYTES:
        raise MalformedObjectError(f"not {TOKEN_BYTES} bytes in base64url", field="sub")
    return token


def _status(claims: dict[Any, Any]) -> StatusReference | None:
    """The place in a status list; None where only mechanisms unknown here are named (§6.3)."""
    status = typed(claims, STATUS, "status", dict)
    if "status_list" not in status:
        return None
    inner = typed(status, "status_list", "status.status_list", dict)
    try:
        found = StatusReference.parse(
            typed(inner, "uri", "uri", str), typed(inner, "idx", "idx", int)
        )
    except MalformedObjectError as error:
        raise error.at("status.status_list") from None
    if found.province != claims[ISS]:
        raise MalformedObjectError("another province's list", field="status.status_list.uri")
    return found


def _document_type(name: str) -> DocumentType:
    try:
        return DocumentType[name]
    except KeyError:
        raise MalformedObjectError("unknown", field="holder.document_type") from None


class AttestationVerifier:
    """Verifies attestations, and remembers by their bytes those whose signature held.

    Only the signature is remembered. Key states, province and times are judged at every look, so
    a key that is revoked now ends what was remembered under it.

    :param remember: how many attestations to remember, about 2 KiB each; the oldest go first.
        Those larger than 8 KiB are not, or a hostile peer could fill the memory with few.
    """

    def __init__(self, *, remember: int = 20_000) -> None:
        self._held: dict[bytes, tuple[PublicKey, Attestation]] = {}
        self._remember = remember

    def verify(self, signed: bytes, trust: TrustList, now: datetime) -> Attestation:
        """What a signed attestation says, if all of it holds now.

        :param signed: COSE_Sign1 bytes.
        :raises MalformedObjectError: it is not a signed attestation.
        :raises UnknownIssuerError: no key in the trust list bears its ``kid``, or that key may no
            longer, or may not yet, vouch for it.
        :raises BadSignatureError: the signature does not hold, or another province's key made it.
        :raises ExpiredError: it has ended.
        :raises FutureTimeError: it was issued in the future.
        :raises UnexplainedColourError: a status that is not green does not say why.
        """
        known = self._held.get(signed)
        if known is None:
            message = cose.parse(signed, cose.ObjectType.ATTESTATION)
            public = cose.verify(message, [key.public for _, key in trust.keys(message.kid)])
            attestation = decode(message.payload)
            if len(signed) <= _LARGEST_REMEMBERED:
                self._held[signed] = public, attestation
                if len(self._held) > self._remember:
                    del self._held[next(iter(self._held))]
        else:
            public, attestation = known
        check_key(public, attestation.province, attestation.issued_at, trust)
        if attestation.expires_at <= now:
            raise ExpiredError("the attestation has ended", field="exp")
        if attestation.issued_at > now + CLOCK_SKEW:
            raise FutureTimeError("issued in the future", field="iat")
        return attestation
