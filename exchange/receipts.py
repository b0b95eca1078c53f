"""Receipts (回执): what was decided, signed by the node that decided, without personal data.

Whoever holds one can prove a wrong refusal and appeal (申诉) against it, long after. It is a CWT
claims set (RFC 8392) in COSE_Sign1, as an attestation is.

======  =======  =============================================================================
label   claim    value
======  =======  =============================================================================
1       iss      the deciding province's GB/T 2260 code, text
6       iat      whole seconds since 1970
7       cti      16 bytes, a UUIDv7: the receipt's id
−70004  receipt  map, see below
======  =======  =============================================================================

In the map: ``subject`` (what was asked for: ``recognition`` or ``healthcode``), ``outcome``,
``colour``, ``verdict``, ``at`` (as of when, seconds), ``rules`` (the digest of the province's
rules), ``trust`` (the trust list's version), ``said`` (of each rule its id, whether it held and,
only where it could not be evaluated on something, true), ``evidence`` (of each piece who sent it,
the verdict on it and its digest), ``omitted`` (how many pieces are not named, only if any),
``answers`` (of each province how it answered) and ``salt``.

There is no token and no holder in it. A digest is SHA-256(salt ‖ signed bytes), its salt new for
each receipt: so two receipts of one holder have nothing in common, and only who has an attestation
can tell that a receipt names it (`names`).

There is no exp: a wrong refusal stays one. A key that is OLD verifies what it signed before.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from exchange import cbor, cose
from exchange.claims import time, typed
from exchange.errors import FutureTimeError, InvalidFieldError, MalformedObjectError
from exchange.facts import Colour
from exchange.provinces import PROVINCES
from exchange.recognition import AnswerState, Outcome, Verdict
from exchange.texts import Text
from exchange.vouching import CLOCK_SKEW, check_key

if TYPE_CHECKING:
    from exchange.codes.judging import Judgement
    from exchange.keys import Signer
    from exchange.recognition import Decision, RuleVerdict
    from exchange.trust.trustlist import TrustList

__all__ = [
    "MOST_EVIDENCE",
    "SALT_BYTES",
    "EvidenceDigest",
    "ProvinceSaid",
    "Receipt",
    "RuleSaid",
    "Subject",
    "decode",
    "digest_in",
    "encode",
    "named_as",
    "names",
    "of_decision",
    "of_judgement",
    "sign",
    "verify",
]

SALT_BYTES: Final = 16
MOST_EVIDENCE: Final = 512
"""So many pieces does a receipt name: more would outgrow 64 KiB, and a peer could see to that."""

_ISS, _IAT, _CTI = 1, 6, 7
_RECEIPT: Final = -70004
_DIGEST_BYTES: Final = 32
_MOST_ELEMENTS: Final = 4096
"""Of a receipt: 512 pieces of evidence of three each, 200 rules of three, 32 provinces of two."""


class Subject(enum.StrEnum):
    """What was asked for."""

    RECOGNITION = "recognition"
    HEALTH_CODE = "healthcode"

    @property
    def text(self) -> Text:
        """The subject in words."""
        return _SUBJECT_TEXTS[self]


_SUBJECT_TEXTS = {
    Subject.RECOGNITION: Text("互认查询", "recognition of a holder"),
    Subject.HEALTH_CODE: Text("健康码验码", "verification of a code"),
}


@dataclass(frozen=True, slots=True)
class RuleSaid:
    """What one rule said: whether it held, and whether it failed on something."""

    rule: str
    satisfied: bool
    failed: bool = False


@dataclass(frozen=True, slots=True)
class EvidenceDigest:
    """One piece of evidence, to be known only by who has it.

    :param province: who sent it; of a code, who issued it: a foreign country (ISO 3166-1 alpha-2)
        too; empty of a code that did not verify.
    :param verdict: the verdict on it.
    :param digest: 32 bytes; empty where what was sent is not about the holder.
    """

    province: str
    verdict: Verdict
    digest: bytes


@dataclass(frozen=True, slots=True)
class ProvinceSaid:
    """How one province answered."""

    province: str
    state: AnswerState


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one receipt says. Times are aware, in UTC and in whole seconds.

    :param id: a UUIDv7.
    :param province: the one that decided, by its own rules.
    :param decided_at: as of when.
    :param rules_digest: 32 bytes, `exchange.rules.RuleBook.digest`.
    :param trust_version: the trust list's version (its snapshot's).
    :param salt: 16 random bytes of this receipt alone.
    :param omitted: how many pieces of evidence were looked at and are not named.
    """

    id: UUID
    province: str
    subject: Subject
    outcome: Outcome
    colour: Colour
    verdict: Verdict
    decided_at: datetime
    rules_digest: bytes
    trust_version: int
    said: tuple[RuleSaid, ...]
    evidence: tuple[EvidenceDigest, ...]
    answers: tuple[ProvinceSaid, ...]
    salt: bytes
    issued_at: datetime
    omitted: int = 0


# --- making ---------------------------------------------------------------------------------


def of_decision(
    decision: Decision,
    *,
    id: UUID,  # noqa: A002 - as everything signed calls its own
    province: str,
    now: datetime,
    salt: bytes,
) -> Receipt:
    """The receipt of a recognition.

    :param id: a new UUIDv7.
    :param province: the node's own, which signs.
    :param now: aware; cut to the second.
    :param salt: 16 new random bytes.
    :raises InvalidFieldError: the decision is by another province's rules, or as of another time
        than now: nobody is bound by a forecast.
    """
    _check(decision.province, province, decision.decided_at, now, salt)
    # What verified comes first, so that a peer that sends rubbish crowds out nothing.
    pieces = sorted(decision.evidence, key=lambda piece: piece.attestation is None)
    return Receipt(
        id=id,
        province=province,
        subject=Subject.RECOGNITION,
        outcome=decision.outcome,
        colour=decision.colour,
        verdict=decision.verdict,
        decided_at=_second(decision.decided_at),
        rules_digest=decision.rules_digest,
        trust_version=decision.trust_version,
        said=_said(decision.rules),
        evidence=tuple(
            EvidenceDigest(piece.sent_by, piece.verdict, _digest(salt, piece.signed))
            for piece in pieces[:MOST_EVIDENCE]
        ),
        answers=tuple(ProvinceSaid(answer.province, answer.state) for answer in decision.answers),
        salt=salt,
        issued_at=_second(now),
        omitted=max(0, len(pieces) - MOST_EVIDENCE),
    )


def of_judgement(
    judgement: Judgement,
    signed: bytes,
    *,
    id: UUID,  # noqa: A002 - as in `of_decision`
    province: str,
    now: datetime,
    salt: bytes,
) -> Receipt:
    """The receipt of a code's verification; the one piece of evidence is the code.

    :param signed: the code's COSE_Sign1 bytes, as they were shown.
    :raises InvalidFieldError: as `of_decision`.
    """
    _check(judgement.province, province, judgement.judged_at, now, salt)
    return Receipt(
        id=id,
        province=province,
        subject=Subject.HEALTH_CODE,
        outcome=judgement.outcome,
        colour=judgement.colour,
        verdict=judgement.verdict,
        decided_at=_second(judgement.judged_at),
        rules_digest=judgement.rules_digest,
        trust_version=judgement.trust_version,
        said=_said(judgement.rules),
        evidence=(EvidenceDigest(judgement.issuer, judgement.verdict, _digest(salt, signed)),),
        answers=(),
        salt=salt,
        issued_at=_second(now),
    )


def _check(decided_by: str, province: str, at: datetime, now: datetime, salt: bytes) -> None:
    if decided_by != province:
        raise InvalidFieldError(
            "a province gives receipts of decisions by its own rules alone",
            field="receipt",
            remedy="ask without destination",
        )
    if abs(at - now) > CLOCK_SKEW:
        raise InvalidFieldError(
            "a receipt is of what was decided as of now",
            field="receipt",
            remedy="ask without arrival_time",
        )
    if len(salt) != SALT_BYTES:
        raise InvalidFieldError(f"not {SALT_BYTES} bytes", field="salt")


def _said(rules: Iterable[RuleVerdict]) -> tuple[RuleSaid, ...]:
    return tuple(RuleSaid(each.rule.id, bool(each.satisfied_by), each.failed) for each in rules)


def _digest(salt: bytes, signed: bytes) -> bytes:
    return hashlib.sha256(salt + signed).digest() if signed else b""


def _second(time: datetime) -> datetime:
    return datetime.fromtimestamp(int(time.timestamp()), UTC)


def encode(receipt: Receipt) -> bytes:
    """The claims set as deterministic CBOR (RFC 8949 §4.2)."""
    inner: dict[str, Any] = {
        "subject": receipt.subject.value,
        "outcome": receipt.outcome.value,
        "colour": receipt.colour.value,
        "verdict": receipt.verdict.value,
        "at": int(receipt.decided_at.timestamp()),
        "rules": receipt.rules_digest,
        "trust": receipt.trust_version,
        "said": [
            [each.rule, each.satisfied, True] if each.failed else [each.rule, each.satisfied]
            for each in receipt.said
        ],
        "evidence": [
            [piece.province, piece.verdict.value, piece.digest] for piece in receipt.evidence
        ],
        "answers": [[answer.province, answer.state.value] for answer in receipt.answers],
        "salt": receipt.salt,
    }
    if receipt.omitted:
        inner["omitted"] = receipt.omitted
    return cbor.encode(
        {
            _ISS: receipt.province,
            _IAT: int(receipt.issued_at.timestamp()),
            _CTI: receipt.id.bytes,
            _RECEIPT: inner,
        }
    )


def sign(receipt: Receipt, signer: Signer) -> bytes:
    """The receipt as COSE_Sign1 bytes.

    :raises MalformedObjectError: it would exceed 64 KiB.
    """
    return cose.sign(encode(receipt), signer, cose.ObjectType.RECEIPT)


# --- reading --------------------------------------------------------------------------------


def verify(signed: bytes, trust: TrustList, now: datetime) -> Receipt:
    """What a receipt says, if all of it holds; it never expires.

    :param signed: COSE_Sign1 bytes.
    :param now: aware; only a receipt from the future is refused by it.
    :raises MalformedObjectError: it is not a receipt; names the claim.
    :raises UnknownIssuerError: no key in the trust list bears its ``kid``, or that key may no
        longer, or may not yet, vouch for it.
    :raises BadSignatureError: the signature does not hold, or another province's key made it.
    :raises FutureTimeError: it was issued in the future.
    """
    message = cose.parse(signed, cose.ObjectType.RECEIPT)
    public = cose.verify(message, [key.public for _, key in trust.keys(message.kid)])
    receipt = decode(message.payload)
    check_key(public, receipt.province, receipt.issued_at, trust)
    if receipt.issued_at > now + CLOCK_SKEW:
        raise FutureTimeError("issued in the future", field="iat")
    return receipt


def names(receipt: Receipt, signed: bytes) -> bool:
    """Whether a receipt names a piece of evidence: an attestation, or a code that was shown.

    :param signed: its COSE_Sign1 bytes, exactly as they were sent.
    """
    return named_as(receipt, signed) is not None


def named_as(receipt: Receipt, signed: bytes) -> EvidenceDigest | None:
    """What a receipt says of a piece of evidence; None where it does not name it.

    :param signed: its COSE_Sign1 bytes, exactly as they were sent.
    """
    digest = digest_in(receipt, signed)
    return next((each for each in receipt.evidence if digest and each.digest == digest), None)


def digest_in(receipt: Receipt, signed: bytes) -> bytes:
    """What a piece of evidence is named by in a receipt; empty for one that has no bytes."""
    return _digest(receipt.salt, signed)


def decode(payload: bytes) -> Receipt:
    """Read a claims set whose signature has been verified.

    Claims and fields that a later version adds are passed over.

    :raises MalformedObjectError: it is not the claims set of a receipt; names the claim.
    """
    claims = cbor.decode_map(payload, _MOST_ELEMENTS)
    inner = typed(claims, _RECEIPT, "receipt", dict)
    receipt = Receipt(
        id=_uuid7(typed(claims, _CTI, "cti", bytes)),
        province=_province(typed(claims, _ISS, "iss", str), "iss"),
        subject=_word(inner.get("subject"), Subject, "subject"),
        outcome=_word(inner.get("outcome"), Outcome, "outcome"),
        colour=_word(inner.get("colour"), Colour, "colour"),
        verdict=_word(inner.get("verdict"), Verdict, "verdict"),
        decided_at=time(inner, "at", "receipt.at"),
        rules_digest=_bytes(inner.get("rules"), "rules", _DIGEST_BYTES),
        trust_version=_count(inner, "trust"),
        said=tuple(_rule_said(row) for row in _rows(inner, "said", 2, 3)),
        evidence=tuple(_evidence(row) for row in _rows(inner, "evidence", 3, 3)),
        answers=tuple(_answer(row) for row in _rows(inner, "answers", 2, 2)),
        salt=_bytes(inner.get("salt"), "salt", SALT_BYTES),
        issued_at=time(claims, _IAT, "iat"),
        omitted=_count(inner, "omitted") if "omitted" in inner else 0,
    )
    if receipt.decided_at - receipt.issued_at > CLOCK_SKEW:
        raise MalformedObjectError("after it was issued", field="receipt.at")
    recognized = receipt.outcome is Outcome.RECOGNIZED
    if recognized is not (receipt.colour is Colour.GREEN) or recognized is not (
        receipt.verdict is Verdict.ACCEPTED
    ):
        raise MalformedObjectError("contradicts colour or verdict", field="receipt.outcome")
    return receipt


_Word = TypeVar("_Word", bound=enum.StrEnum)


def _word(value: Any, words: type[_Word], name: str) -> _Word:
    if type(value) is not str or value not in words.__members__.values():
        raise MalformedObjectError("not a word that is known here", field=f"receipt.{name}")
    return words(value)


def _bytes(value: Any, name: str, *lengths: int) -> bytes:
    if type(value) is not bytes or len(value) not in lengths:
        what = " or ".join(str(length) for length in lengths)
        raise MalformedObjectError(f"not {what} bytes", field=f"receipt.{name}")
    return value


def _count(inner: dict[Any, Any], name: str) -> int:
    value = typed(inner, name, f"receipt.{name}", int)
    if value < 0:
        raise MalformedObjectError("less than 0", field=f"receipt.{name}")
    return value


def _rows(inner: dict[Any, Any], name: str, least: int, most: int) -> list[Sequence[Any]]:
    rows = typed(inner, name, f"receipt.{name}", list)
    for row in rows:
        if type(row) is not list or not least <= len(row) <= most:
            raise MalformedObjectError(
                f"not lists of {least} elements each", field=f"receipt.{name}"
            )
    return rows


def _rule_said(row: Sequence[Any]) -> RuleSaid:
    rule, satisfied, failed = row if len(row) == 3 else (*row, False)
    if type(rule) is not str or type(satisfied) is not bool or type(failed) is not bool:
        raise MalformedObjectError("not a rule's id, yes or no", field="receipt.said")
    return RuleSaid(rule, satisfied, failed)


def _evidence(row: Sequence[Any]) -> EvidenceDigest:
    sender, verdict, digest = row
    if type(sender) is not str:
        raise MalformedObjectError("not a province or country", field="receipt.evidence")
    return EvidenceDigest(
        sender,
        _word(verdict, Verdict, "evidence"),
        _bytes(digest, "evidence", 0, _DIGEST_BYTES),
    )


def _answer(row: Sequence[Any]) -> ProvinceSaid:
    code, state = row
    return ProvinceSaid(_province(code, "receipt.answers"), _word(state, AnswerState, "answers"))


def _province(code: Any, field: str) -> str:
    if type(code) is not str or code not in PROVINCES:
        raise MalformedObjectError("no province of GB/T 2260", field=field)
    return code


def _uuid7(value: bytes) -> UUID:
    if len(value) != 16 or (identifier := UUID(bytes=value)).version != 7:
        raise MalformedObjectError("not a UUIDv7", field="cti")
    return identifier
