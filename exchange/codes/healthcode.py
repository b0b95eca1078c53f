"""Health codes (健康码): what a holder shows for some minutes, as a CWT claims set (RFC 8392).

``cose`` signs the claims of this table, `exchange.codes.hc1` makes a text of the signed bytes and
`exchange.codes.qr` a picture of the text.

======  =====  ============================================================================
label   claim  value
======  =====  ============================================================================
1       iss    the province's GB/T 2260 code, text
4 6     exp    whole seconds since 1970; a code lives 15 minutes at most
        iat
7       cti    16 bytes, a UUIDv7: the code's id
10      nonce  8 to 32 bytes that the gate asked for (EAT nonce, RFC 9711 §4.1); else absent
−70002  holder map: masked ``name``, ``document_type``, masked ``document_number``
−70003  code   map: 1 colour, 2 rule, 3 evidence, 4 reason (map: ``zh``, ``en``) where it is
               not green. Evidence is one to four maps of a fact (as in the attestation's
               ``health``) with the attestation's ``id``, its ``iss`` where that is another
               province, and its ``status``, [list, index], where it has one. Why a status is not
               green is cut to 30 characters a text
======  =====  ============================================================================

Labels are numbers where names would make the picture too fine to scan from a telephone. Holder,
rule and reason are one printable line of at most 200 characters each.

There is no subject token in a code, and must be none: whoever reads codes, every gate and shop,
could otherwise follow a holder from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final
from uuid import UUID

from exchange import cbor, cose
from exchange.attestations import Attestation, Holder, check_colour
from exchange.claims import time, typed
from exchange.errors import (
    ExpiredError,
    FutureTimeError,
    IndeterminateError,
    InvalidFieldError,
    MalformedObjectError,
    NoColourError,
    UnexplainedColourError,
)
from exchange.facts import FACTS, Colour, Fact, fact_fields, fact_from_claim, fact_to_claim
from exchange.keys import PublicKey, Signer
from exchange.provinces import PROVINCES
from exchange.recognition import Decision, Outcome, RuleVerdict, Verdict
from exchange.rules import RuleBook
from exchange.statuslist import LIST_SIZE, StatusReference
from exchange.subjects import Document, DocumentType
from exchange.texts import Text
from exchange.trust.trustlist import TrustList
from exchange.vouching import CLOCK_SKEW, check_key

__all__ = [
    "LIFE",
    "LONGEST_LIFE",
    "MOST_EVIDENCE",
    "CodeEvidence",
    "HealthCode",
    "HealthCodeVerifier",
    "decode",
    "draft",
    "encode",
    "sign",
    "wanted",
]

LIFE: Final = timedelta(minutes=5)
"""How long a code lives: long enough to be shown, too short for a picture of it to be passed on."""

LONGEST_LIFE: Final = timedelta(minutes=15)
"""A code that would live longer is refused, whoever signed it."""

MOST_EVIDENCE: Final = 4
"""So many attestations stand in a code: the picture must stay readable from a cracked screen."""

_ISS, _EXP, _IAT, _CTI, _NONCE = 1, 4, 6, 7, 10
_HOLDER, _CODE = -70002, -70003
_COLOUR, _RULE, _EVIDENCE, _REASON = 1, 2, 3, 4
_NONCE_BYTES: Final = range(8, 33)
_LONGEST_LINE: Final = 200
_LONGEST_NAME: Final = 100
"""Characters, by the contract; what masks a name keeps its length."""
_MOST_LISTS: Final = 1 << 32
_LARGEST_REMEMBERED = 8 * 1024
# What rules compare is as long as the contract allows; the rest is cut so that four can be drawn.
_CHARACTERS: Final = {"product": 80, "local_status": 40}
_OTHER_CHARACTERS: Final = 30
_COLOURS: Final = {colour.value: colour for colour in Colour if colour is not Colour.UNSPECIFIED}
_TIMES: Final = {
    fact: tuple(part.name for part in fact_fields(fact) if part.type is datetime)
    for fact in FACTS.values()
}
_TEXTS: Final = {
    fact: {
        part.name: _CHARACTERS.get(part.name, _OTHER_CHARACTERS)
        for part in fact_fields(fact)
        if part.type is str
    }
    for fact in FACTS.values()
}
_GRAVITY: Final = (Colour.GREEN, Colour.YELLOW, Colour.RED)


@dataclass(frozen=True, slots=True)
class CodeEvidence:
    """The essence of one attestation: its id, who issued it, its fact, where its status stands."""

    id: UUID
    province: str
    fact: Fact
    status: StatusReference | None = None


@dataclass(frozen=True, slots=True)
class HealthCode:
    """What one signed health code says. Times are aware and in UTC."""

    id: UUID
    province: str
    colour: Colour
    rule: str
    """The rule of the province that gives the colour."""
    reason: Text | None
    """Why; None where it is green."""
    holder: Holder
    evidence: tuple[CodeEvidence, ...]
    issued_at: datetime
    expires_at: datetime
    nonce: bytes = field(default=b"", repr=False)
    """What the gate asked for, or empty."""


def encode(code: HealthCode) -> bytes:
    """The claims set as deterministic CBOR (RFC 8949 §4.2)."""
    holder = code.holder
    shown: dict[int, Any] = {
        _COLOUR: code.colour.value,
        _RULE: code.rule,
        _EVIDENCE: [_evidence_to_claim(piece, code.province) for piece in code.evidence],
    }
    if code.reason is not None:
        shown[_REASON] = {"zh": code.reason.zh, "en": code.reason.en}
    claims: dict[int, Any] = {
        _ISS: code.province,
        _EXP: int(code.expires_at.timestamp()),
        _IAT: int(code.issued_at.timestamp()),
        _CTI: code.id.bytes,
        _HOLDER: {
            "name": holder.name,
            "document_type": holder.document_type.value,
            "document_number": holder.document_number,
        },
        _CODE: shown,
    }
    if code.nonce:
        claims[_NONCE] = code.nonce
    return cbor.encode(claims)


def _evidence_to_claim(piece: CodeEvidence, province: str) -> dict[str, Any]:
    claim = fact_to_claim(piece.fact)
    claim["id"] = piece.id.bytes
    if piece.province != province:
        claim["iss"] = piece.province
    if piece.status is not None:
        claim["status"] = [piece.status.list, piece.status.index]
    return claim


def sign(code: HealthCode, signer: Signer) -> bytes:
    """The code as COSE_Sign1 bytes."""
    return cose.sign(encode(code), signer, cose.ObjectType.HEALTH_CODE)


def decode(payload: bytes) -> HealthCode:
    """Read a claims set whose signature has been verified.

    Claims and fields that a later version adds are passed over.

    :raises MalformedObjectError: it is not the claims set of a health code, or the code would live
        longer than 15 minutes; names the claim.
    :raises UnexplainedColourError: a colour that is not green does not say why.
    """
    claims = cbor.decode_map(payload)
    shown = typed(claims, _CODE, "code", dict)
    holder = typed(claims, _HOLDER, "holder", dict)
    province = _province(typed(claims, _ISS, "iss", str), "iss")
    issued_at = time(claims, _IAT, "iat")
    expires_at = time(claims, _EXP, "exp")
    # A difference, because a sum may lie past the year 9999 and overflow.
    if not timedelta() < expires_at - issued_at <= LONGEST_LIFE:
        raise MalformedObjectError("lives longer than a code may, or not at all", field="exp")
    colour = _COLOURS.get(typed(shown, _COLOUR, "code.colour", str))
    if colour is None:
        raise MalformedObjectError("no colour of a code", field="code.colour")
    return HealthCode(
        id=_uuid7(typed(claims, _CTI, "cti", bytes), "cti"),
        province=province,
        colour=colour,
        rule=_line(shown, _RULE, "code.rule"),
        reason=None if colour is Colour.GREEN else _reason(shown),
        holder=Holder(
            _line(holder, "name", "holder.name"),
            _document_type(typed(holder, "document_type", "holder.document_type", str)),
            _line(holder, "document_number", "holder.document_number"),
        ),
        evidence=_evidence(typed(shown, _EVIDENCE, "code.evidence", list), province, issued_at),
        issued_at=issued_at,
        expires_at=expires_at,
        nonce=_nonce(typed(claims, _NONCE, "nonce", bytes)) if _NONCE in claims else b"",
    )


def _reason(shown: dict[Any, Any]) -> Text:
    words = shown.get(_REASON)
    if type(words) is not dict:
        raise _unexplained("code.reason")
    for language in ("zh", "en"):
        text = words.get(language)
        # A space that is not seen, or a dash, explains nothing.
        if type(text) is not str or not any(map(str.isalnum, text)):
            raise _unexplained(f"code.reason.{language}")
        _line(words, language, f"code.reason.{language}")
    return Text(words["zh"], words["en"])


def _line(claims: dict[Any, Any], label: int | str, name: str) -> str:
    text = typed(claims, label, name, str)
    # As a rule's reason: a line break or a bidirectional control could say "green" to a gate.
    if len(text) > _LONGEST_LINE or not text.isprintable():
        raise MalformedObjectError(
            f"not one printable line of at most {_LONGEST_LINE} characters", field=name
        )
    return text


def _unexplained(name: str) -> UnexplainedColourError:
    return UnexplainedColourError(
        "a code that is not green must say why", field=name, remedy="show it in both languages"
    )


def _evidence(pieces: list[Any], province: str, issued_at: datetime) -> tuple[CodeEvidence, ...]:
    if not 1 <= len(pieces) <= MOST_EVIDENCE:
        raise MalformedObjectError(f"not 1 to {MOST_EVIDENCE} attestations", field="code.evidence")
    found = []
    for index, claim in enumerate(pieces):
        try:
            found.append(_piece(claim, province, issued_at))
        except (MalformedObjectError, UnexplainedColourError) as error:
            raise error.at(f"code.evidence[{index}]") from None
    return tuple(found)


def _piece(claim: Any, province: str, issued_at: datetime) -> CodeEvidence:
    if type(claim) is not dict:
        raise MalformedObjectError("not dict")
    fact = fact_from_claim(claim)
    if name := _ahead(fact, issued_at):
        raise MalformedObjectError("after the code was issued", field=name)
    check_colour(fact, "health")
    author = _province(typed(claim, "iss", "iss", str), "iss") if "iss" in claim else province
    return CodeEvidence(
        id=_uuid7(typed(claim, "id", "id", bytes), "id"),
        province=author,
        fact=fact,
        status=_status(claim["status"], author) if "status" in claim else None,
    )


def _ahead(fact: Fact, issued_at: datetime) -> str:
    """The time of a fact that lies after its code was issued; empty where none does."""
    values = ((name, getattr(fact, name)) for name in _TIMES[type(fact)])
    return next((name for name, at in values if at and at - issued_at > CLOCK_SKEW), "")


def _status(place: Any, province: str) -> StatusReference:
    if type(place) is list and len(place) == 2:
        number, index = place
        if (
            type(number) is int
            and type(index) is int
            and 0 <= number < _MOST_LISTS
            and 0 <= index < LIST_SIZE
        ):
            return StatusReference(province, number, index)
    raise MalformedObjectError("not a place in a status list", field="status")


def _uuid7(value: bytes, name: str) -> UUID:
    # By hand: `UUID.version` costs as much as making the UUID.
    if len(value) != 16 or value[6] >> 4 != 7 or value[8] >> 6 != 2:
        raise MalformedObjectError("not a UUIDv7", field=name)
    return UUID(bytes=value)


def _province(code: str, name: str) -> str:
    if code not in PROVINCES:
        raise MalformedObjectError("no province of GB/T 2260", field=name)
    return code


def _document_type(name: str) -> DocumentType:
    try:
        return DocumentType[name]
    except KeyError:
        raise MalformedObjectError("unknown", field="holder.document_type") from None


def _nonce(value: bytes) -> bytes:
    if len(value) not in _NONCE_BYTES:
        raise MalformedObjectError("not 8 to 32 bytes", field="nonce")
    return value


def draft(
    decision: Decision,
    *,
    id: UUID,  # noqa: A002 - as the field that it becomes
    now: datetime,
    nonce: bytes = b"",
    life: timedelta = LIFE,
    also: Sequence[UUID] = (),
    document: Document | None = None,
) -> HealthCode:
    """The code that shows a decision, to be signed by the province that decided.

    Its evidence is what satisfied a rule of the decision's colour or a graver one, and what
    ``also`` names, the newest first and four at most. Where there is more, what gave a red or a
    yellow stays before all else; a green keeps the newest that gave it, and then what ``also``
    names first, and none that would end the code early where others do not. A code never outlives
    its evidence.

    :param id: a new UUIDv7.
    :param nonce: what the gate asked for, 8 to 32 bytes, or empty.
    :param life: at most `LONGEST_LIFE`.
    :param also: ids of evidence that another province wants to see, see `wanted`; only evidence
        that was verified and not revoked, expired or replaced is taken.
    :param document: whom it is about; else who that is, is the evidence's word alone.
    :raises IndeterminateError: the decision is open.
    :raises NoColourError: no rule gave a colour; the remedy says what is needed.
    :raises ExpiredError: the decision, or what it rests on, is not of now.
    :raises FutureTimeError: what it rests on lies ahead of this clock.
    :raises InvalidFieldError: the nonce or the life is out of its bounds.
    """
    if decision.outcome is Outcome.INDETERMINATE:
        raise IndeterminateError("there is no code yet", remedy=decision.reason.en)
    giving = [
        said for said in decision.rules if said.rule.colour is decision.colour and said.satisfied_by
    ]
    if not giving:
        raise NoColourError("no rule gives a colour to show", remedy=decision.reason.en)
    if nonce and len(nonce) not in _NONCE_BYTES:
        raise InvalidFieldError("not 8 to 32 bytes", field="nonce")
    if not timedelta() < life <= LONGEST_LIFE:
        raise InvalidFieldError("a code lives 15 minutes at most", field="life")
    if abs(decision.decided_at - now) > CLOCK_SKEW:
        raise ExpiredError("the decision is not of now", remedy="decide anew")
    issued_at = now.replace(microsecond=0)
    sound = _readable(decision, issued_at)
    # A code ends with the first of its evidence; a red or a yellow stays all the same.
    until = issued_at + life if decision.colour is Colour.GREEN else issued_at
    given_by = _given_by(giving, sound, until)
    pieces = _chosen(decision, given_by, also, sound, until)
    expires_at = min(issued_at + life, *(piece.expires_at for piece in pieces))
    if expires_at <= issued_at:
        raise ExpiredError("what the decision rests on has ended", remedy="decide anew")
    return HealthCode(
        id=id,
        province=decision.province,
        colour=decision.colour,
        rule=given_by.rule.id,
        reason=None if decision.colour is Colour.GREEN else given_by.rule.reason,
        holder=_holder(decision, given_by, document),
        evidence=tuple(
            CodeEvidence(piece.id, piece.province, _cut(piece.fact), piece.status)
            for piece in pieces
        ),
        issued_at=issued_at,
        expires_at=expires_at,
        nonce=nonce,
    )


def _cut(fact: Fact) -> Fact:
    """The fact with its longer texts cut, or what one province writes makes no code to be drawn."""
    long: dict[str, Any] = {}
    for name, most in _TEXTS[type(fact)].items():
        text = getattr(fact, name)
        if len(text) > most:
            # From its first word on: dashes before it would explain nothing (`check_colour`).
            start = next((at for at, character in enumerate(text) if character.isalnum()), 0)
            long[name] = f"{text[start : start + most - 1]}…"
    return replace(fact, **long) if long else fact


def _holder(decision: Decision, given_by: RuleVerdict, document: Document | None) -> Holder:
    """Whom the code names: it is signed here, and another province's word on that goes last."""
    sound = sorted(_sound(decision), key=_sampled_at, reverse=True)
    own = (piece for piece in sound if piece.province == decision.province)
    deciding = (piece for piece in sound if piece.id in given_by.satisfied_by)
    holder = next(chain(own, deciding)).holder
    name = _plain(holder.name)
    if document is None:
        return Holder(name, holder.document_type, _plain(holder.document_number))
    return Holder(name, document.type, document.masked)


def _plain(text: str) -> str:
    """The text as `mask_name` leaves one, for what another province signed may be none."""
    return "".join(filter(str.isprintable, text))[:_LONGEST_NAME]


def _readable(decision: Decision, issued_at: datetime) -> list[Attestation]:
    """What may stand in a code, the newest first: what lies ahead would make it unreadable."""
    readable = (piece for piece in _sound(decision) if not _ahead(piece.fact, issued_at))
    return sorted(readable, key=_sampled_at, reverse=True)


def _given_by(
    giving: Sequence[RuleVerdict], sound: list[Attestation], until: datetime
) -> RuleVerdict:
    """The first rule with something that lasts until then; else with something to show; else any.

    What another province sends to end at once, or to begin too late, keeps nobody from a code.
    """
    for pieces in ([piece for piece in sound if piece.expires_at >= until], sound):
        ids = {piece.id for piece in pieces}
        for said in giving:
            if not ids.isdisjoint(said.satisfied_by):
                return said
    return giving[0]


def _chosen(
    decision: Decision,
    given_by: RuleVerdict,
    also: Sequence[UUID],
    sound: list[Attestation],
    until: datetime,
) -> list[Attestation]:
    """The evidence that goes into the code, the newest first."""
    least = _GRAVITY.index(decision.colour)
    decided = {
        id_
        for said in decision.rules
        if _GRAVITY.index(said.rule.colour) >= least
        for id_ in said.satisfied_by
    }
    deciding = [piece for piece in sound if piece.id in decided]
    deciding = [piece for piece in deciding if piece.expires_at >= until] or deciding
    asked_for = [piece for id_ in also for piece in sound if piece.id == id_]
    first = [piece for piece in deciding if piece.id in given_by.satisfied_by][:1]
    if not first:
        raise FutureTimeError(
            "what the decision rests on lies in the future", remedy="wait some minutes"
        )
    rest = asked_for + deciding if decision.colour is Colour.GREEN else deciding + asked_for
    chosen: dict[UUID, Attestation] = {}
    for piece in first + rest:
        chosen.setdefault(piece.id, piece)
    return sorted(list(chosen.values())[:MOST_EVIDENCE], key=_sampled_at, reverse=True)


def wanted(decision: Decision, rules: RuleBook, now: datetime) -> list[UUID]:
    """The evidence of which some rule of another province holds, whatever its colour there.

    The gravest colour there comes first, so that many greens never push a red out of the code; of
    one colour, the newest. A green that ends within minutes is not wanted beside one that lasts.
    """
    found: list[tuple[int, datetime, UUID]] = []
    ending: set[UUID] = set()
    for piece in _sound(decision):
        colours = {rule.colour for rule, holds in rules.evaluate(piece, now) if holds}
        if colours:
            found.append((max(map(_GRAVITY.index, colours)), piece.fact.sampled_at, piece.id))
            if colours == {Colour.GREEN} and piece.expires_at < now + LIFE:
                ending.add(piece.id)
    lasts = any(not gravity and id_ not in ending for gravity, _, id_ in found)
    return [id_ for _, _, id_ in sorted(found, reverse=True) if not (lasts and id_ in ending)]


def _sound(decision: Decision) -> list[Attestation]:
    return [
        piece.attestation
        for piece in decision.evidence
        if piece.attestation is not None
        and piece.verdict in (Verdict.ACCEPTED, Verdict.NOT_RECOGNIZED_BY_RULE)
    ]


def _sampled_at(attestation: Attestation) -> datetime:
    return attestation.fact.sampled_at


class HealthCodeVerifier:
    """Verifies health codes, and remembers by their bytes those whose signature held.

    Only the signature is remembered, as `exchange.attestations.AttestationVerifier` does: key
    states, province and times are judged at every look.

    :param remember: how many codes to remember, about 3 KiB each; the oldest go first. Those larger
        than 8 KiB are not.
    """

    def __init__(self, *, remember: int = 5_000) -> None:
        self._held: dict[bytes, tuple[PublicKey, HealthCode]] = {}
        self._remember = remember

    def verify(self, signed: bytes, trust: TrustList, now: datetime) -> HealthCode:
        """What a signed health code says, if all of it holds now.

        That says nothing of whether its evidence was revoked since, nor of other provinces' rules.

        :param signed: COSE_Sign1 bytes, as `exchange.codes.hc1.from_text` gives them.
        :raises MalformedObjectError: it is not a signed health code.
        :raises UnknownIssuerError: no key in the trust list bears its ``kid``, or that key may no
            longer, or may not yet, vouch for it.
        :raises BadSignatureError: the signature does not hold, or another province's key made it.
        :raises ExpiredError: it has ended.
        :raises FutureTimeError: it was issued in the future.
        :raises UnexplainedColourError: a colour that is not green does not say why.
        """
        known = self._held.get(signed)
        if known is None:
            message = cose.parse(signed, cose.ObjectType.HEALTH_CODE)
            public = cose.verify(message, [key.public for _, key in trust.keys(message.kid)])
            code = decode(message.payload)
            if len(signed) <= _LARGEST_REMEMBERED:
                self._held[signed] = public, code
                if len(self._held) > self._remember:
                    del self._held[next(iter(self._held))]
        else:
            public, code = known
        check_key(public, code.province, code.issued_at, trust)
        if code.expires_at <= now:
            raise ExpiredError(
                "the health code has ended",
                field="exp",
                remedy="show a fresh one: a picture of a code is none",
            )
        if code.issued_at > now + CLOCK_SKEW:
            raise FutureTimeError("issued in the future", field="iat")
        return code
