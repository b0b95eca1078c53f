"""Recognition (互认): the receiving province's decision on what the provinces sent.

Pure: what was sent, the trust list, the province's rules and the time go in, a `Decision` comes
out. It fails closed. Only verified evidence counts that is not revoked; only a rule gives a colour;
red goes before yellow before green; and a green stands only if every province's answer is there.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from exchange import attestations, cose
from exchange.asking import RuleVerdict, ask, ask_rules, failed, refusal, settle
from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import ExpiredError, TongxingError, UnknownIssuerError
from exchange.facts import Colour, Kind
from exchange.provinces import PROVINCES
from exchange.remedies import Remedy, remedies
from exchange.rules import RuleBook
from exchange.statuslist import StatusReference
from exchange.texts import Text
from exchange.trust.trustlist import TrustList

__all__ = [
    "MOST_PER_PROVINCE",
    "AnswerState",
    "Decision",
    "Evidence",
    "Outcome",
    "ProvinceAnswer",
    "Reply",
    "RuleVerdict",
    "Verdict",
    "ask_rules",
    "failed",
    "never",
    "recognize",
    "refusal",
    "settle",
]

MOST_PER_PROVINCE = 64
"""Attestations of one holder that one province may send; what is beyond is not looked at."""


class Outcome(enum.StrEnum):
    """Whether the province honours what it found."""

    RECOGNIZED = "RECOGNIZED"
    NOT_RECOGNIZED = "NOT_RECOGNIZED"
    INDETERMINATE = "INDETERMINATE"

    @property
    def text(self) -> Text:
        """The outcome in words."""
        return _OUTCOME_TEXTS[self]


_OUTCOME_TEXTS = {
    Outcome.RECOGNIZED: Text("认可", "recognised"),
    Outcome.NOT_RECOGNIZED: Text("不认可", "not recognised"),
    Outcome.INDETERMINATE: Text("无法判定", "indeterminate"),
}


class Verdict(enum.StrEnum):
    """The reason under an outcome (验码结果)."""

    ACCEPTED = "ACCEPTED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"
    STALE = "STALE"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    UNKNOWN_ISSUER = "UNKNOWN_ISSUER"
    NOT_RECOGNIZED_BY_RULE = "NOT_RECOGNIZED_BY_RULE"
    UNAVAILABLE = "UNAVAILABLE"
    NO_RECORD = "NO_RECORD"

    @property
    def text(self) -> Text:
        """The verdict in words."""
        return _VERDICT_TEXTS[self]


_VERDICT_TEXTS = {
    Verdict.ACCEPTED: Text("认可", "accepted"),
    Verdict.EXPIRED: Text("过期", "expired"),
    Verdict.REVOKED: Text("撤销", "revoked"),
    Verdict.STALE: Text("数据过旧", "the data is out of date"),
    Verdict.BAD_SIGNATURE: Text("验签失败", "the signature does not verify"),
    Verdict.UNKNOWN_ISSUER: Text("未知发码方", "no trusted key signed it"),
    Verdict.NOT_RECOGNIZED_BY_RULE: Text("规则不认可", "no rule accepts it"),
    Verdict.UNAVAILABLE: Text("对端不可用", "a province did not answer"),
    Verdict.NO_RECORD: Text("无记录", "no record"),
}
# Of several pieces of evidence that were refused, the gate is told of the gravest.
_GRAVEST_FIRST = (
    Verdict.BAD_SIGNATURE,
    Verdict.UNKNOWN_ISSUER,
    Verdict.REVOKED,
    Verdict.NOT_RECOGNIZED_BY_RULE,
    Verdict.EXPIRED,
    Verdict.STALE,
)


class AnswerState(enum.StrEnum):
    """How a province answered."""

    ANSWERED = "ANSWERED"
    NO_RECORD = "NO_RECORD"
    UNREACHABLE = "UNREACHABLE"
    UNTRUSTED = "UNTRUSTED"
    CACHED = "CACHED"

    @property
    def text(self) -> Text:
        """The state in words."""
        return _STATE_TEXTS[self]


_STATE_TEXTS = {
    AnswerState.ANSWERED: Text("已应答", "answered"),
    AnswerState.NO_RECORD: Text("无记录", "no record"),
    AnswerState.UNREACHABLE: Text("无应答", "did not answer"),
    AnswerState.UNTRUSTED: Text("不可信", "not trusted"),
    AnswerState.CACHED: Text("缓存", "answered before"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What one province sent of one holder: COSE_Sign1 bytes.

    :param signed: None: there is no answer of it.
    :param revoked: the same of what it says is revoked (撤销).
    :param as_of: as of when the answer stands, where the province was not asked just now.
    :param calls: made to it for this answer.
    :param circuit_open: it was not called, since it failed too often of late (熔断).
    :param readable: False where its answer as a whole could not be read.
    """

    province: str
    signed: Sequence[bytes] | None = field(repr=False)
    revoked: Sequence[bytes] = field(default=(), repr=False)
    as_of: datetime | None = None
    calls: int = 0
    circuit_open: bool = False
    readable: bool = True

    @property
    def whole(self) -> bool:
        """Whether all that the province holds is looked at: what is not might be a red."""
        return (
            self.readable
            and self.signed is not None
            and len(self.signed) + len(self.revoked) <= MOST_PER_PROVINCE
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """One attestation that was looked at; ``attestation`` is None where it did not verify.

    ``signed`` is empty where it is not about the holder: nobody else's health data goes further.
    """

    signed: bytes = field(repr=False)
    attestation: Attestation | None
    verdict: Verdict
    sent_by: str


@dataclass(frozen=True, slots=True)
class ProvinceAnswer:
    """How one province answered, and with how many attestations; the rest as in its `Reply`."""

    province: str
    state: AnswerState
    attestations: int
    as_of: datetime | None = None
    calls: int = 0
    circuit_open: bool = False
    made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """As of an `Attestation`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A province's decision on one holder, with all that it rests on.

    :param rules_digest: the version of the rules: `RuleBook.digest`.
    :param decided_at: as of when it stands: now, or when the holder will arrive.
    :param remedies: what would make a refusal a green, where that was asked for.
    """

    province: str
    outcome: Outcome
    colour: Colour
    verdict: Verdict
    reason: Text
    rules: tuple[RuleVerdict, ...]
    evidence: tuple[Evidence, ...]
    answers: tuple[ProvinceAnswer, ...]
    trust_version: int
    rules_digest: bytes
    decided_at: datetime
    remedies: tuple[Remedy, ...] = ()


def never(_: StatusReference) -> bool:
    """Say of no status that it is revoked, where nothing is known of any."""
    return False


def recognize(
    replies: Iterable[Reply],
    *,
    tokens: Sequence[bytes],
    province: str,
    rules: RuleBook,
    trust: TrustList,
    verifier: AttestationVerifier,
    now: datetime,
    complete: bool = True,
    revoked: Callable[[StatusReference], bool] = never,
    explain: bool = False,
) -> Decision:
    """Decide on one holder.

    :param replies: what every province sent, the deciding one included.
    :param tokens: the holder's subject tokens; an attestation of another subject is refused.
    :param province: the province that decides, by ``rules``.
    :param complete: False where ``tokens`` are not all that the holder may be known by, since the
        province cannot open a subject epoch: what was not asked for might be a red.
    :param revoked: whether the place where an attestation's status stands is known as revoked,
        whatever else its province sent; False also where nothing is known of it.
    :param now: as of when to decide. A time to come is allowed: what ends before it is EXPIRED,
        and the rules are those in force then.
    :param explain: whether to say what would make a refusal a green (`exchange.remedies`).
    """
    answers: list[ProvinceAnswer] = []
    evidence: list[Evidence] = []
    unheard: list[str] = []
    profiles = trust.profiles
    for reply in replies:
        empty = not (reply.signed or reply.revoked) and reply.province in profiles
        if empty and (nothing := _no_record(reply)):
            answers.append(nothing)
            continue
        state, looked_at = _look_at(reply, tokens, trust, verifier, now, revoked)
        answers.append(_answered(reply, state, len(looked_at)))
        evidence += looked_at
        if not reply.whole and reply.province in profiles:
            unheard.append(reply.province)
    if not complete and province not in unheard:
        unheard.append(province)
    _set_aside_outdated(evidence)
    said = _ask_rules(evidence, rules, now)
    outcome, colour, verdict, reason = _conclude(said, evidence, unheard)
    refused = outcome is Outcome.NOT_RECOGNIZED
    return Decision(
        province=province,
        outcome=outcome,
        colour=colour,
        verdict=verdict,
        reason=reason,
        rules=said,
        evidence=tuple(evidence),
        answers=tuple(answers),
        trust_version=trust.version,
        rules_digest=rules.digest,
        decided_at=now,
        remedies=_remedies(evidence, rules, now) if explain and refused else (),
    )


def _answered(reply: Reply, state: AnswerState, attestations: int) -> ProvinceAnswer:
    return ProvinceAnswer(
        *(reply.province, state, attestations, reply.as_of, reply.calls, reply.circuit_open)
    )


@functools.lru_cache(maxsize=1024)
def _no_record(reply: Reply) -> ProvinceAnswer | None:
    """The answer of a province that sent nothing; None where it may hold something.

    One reply is that of most provinces to holder after holder, until more is heard of them.
    """
    if reply.signed is None or not reply.readable:
        return None
    return _answered(reply, AnswerState.NO_RECORD, 0)


def _look_at(
    reply: Reply,
    tokens: Sequence[bytes],
    trust: TrustList,
    verifier: AttestationVerifier,
    now: datetime,
    revoked: Callable[[StatusReference], bool],
) -> tuple[AnswerState, list[Evidence]]:
    # A province that the trust list cannot vouch for now (its profile has ended, say) is out of
    # the exchange as a departed one is: its own holders wait, and nobody else does.
    if not reply.readable or reply.province not in trust.profiles:
        return AnswerState.UNTRUSTED, []
    if reply.signed is None:
        return AnswerState.UNREACHABLE, []
    evidence = [
        _judge(signed, reply.province, tokens, trust, verifier, now)
        for signed in dict.fromkeys((*reply.signed, *reply.revoked)[:MOST_PER_PROVINCE])
    ]
    _end_revoked(evidence, reply.revoked, revoked)
    untrusted = not reply.whole or any(
        piece.verdict in (Verdict.BAD_SIGNATURE, Verdict.UNKNOWN_ISSUER) for piece in evidence
    )
    if untrusted:
        return AnswerState.UNTRUSTED, evidence
    return AnswerState.ANSWERED if reply.as_of is None else AnswerState.CACHED, evidence


def _judge(
    signed: bytes,
    sender: str,
    tokens: Sequence[bytes],
    trust: TrustList,
    verifier: AttestationVerifier,
    now: datetime,
) -> Evidence:
    try:
        attestation = verifier.verify(signed, trust, now)
    except TongxingError as error:
        if not _claims_to_be_of(signed, tokens):
            return Evidence(b"", None, Verdict.BAD_SIGNATURE, sender)
        return Evidence(signed, None, _verdict_on(error), sender)
    if attestation.token not in tokens:
        return Evidence(b"", None, Verdict.BAD_SIGNATURE, sender)
    if attestation.province != sender:
        return Evidence(signed, None, Verdict.UNKNOWN_ISSUER, sender)
    return Evidence(signed, attestation, Verdict.ACCEPTED, sender)


def _claims_to_be_of(signed: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether what did not verify at least reads as the holder's."""
    try:
        message = cose.parse(signed, cose.ObjectType.ATTESTATION)
        return attestations.decode(message.payload).token in tokens
    except TongxingError:
        return False


def _verdict_on(error: TongxingError) -> Verdict:
    if isinstance(error, ExpiredError):
        return Verdict.EXPIRED
    if isinstance(error, UnknownIssuerError):
        return Verdict.UNKNOWN_ISSUER
    return Verdict.BAD_SIGNATURE


def _end_revoked(
    evidence: list[Evidence],
    sent_as_revoked: Sequence[bytes],
    revoked: Callable[[StatusReference], bool],
) -> None:
    """Mark REVOKED what one province revoked, also where it sends it as live besides.

    By the attestation's id: the same fact can be signed twice, and a signature be changed so that
    it still verifies.
    """
    ended = {
        piece.attestation.id
        for piece in evidence
        if piece.attestation is not None
        and (
            piece.signed in sent_as_revoked
            or (piece.attestation.status is not None and revoked(piece.attestation.status))
        )
    }
    if not ended:
        return
    for index, piece in enumerate(evidence):
        if piece.attestation is not None and piece.attestation.id in ended:
            evidence[index] = replace(piece, verdict=Verdict.REVOKED)


def _set_aside_outdated(evidence: list[Evidence]) -> None:
    """Mark STALE what its own issuer has corrected or, of a code's status, replaced."""
    if len(evidence) < 2:
        return
    newest: dict[tuple[str, str], datetime] = {}
    corrections: list[tuple[_Id, _Id, bool]] = []
    for piece in evidence:
        attestation = piece.attestation
        if attestation is None:
            continue
        author = attestation.province, attestation.issuer.credit_code
        counts = piece.verdict is not Verdict.REVOKED
        if target := attestation.supersedes:
            corrections.append(((*author, attestation.id), (*author, target), counts))
        if counts and attestation.fact.kind is Kind.HEALTH_CODE_STATUS:
            at = attestation.fact.sampled_at
            newest[author] = max(at, newest.get(author, at))
    corrected = _corrected(corrections)
    for index, piece in enumerate(evidence):
        attestation = piece.attestation
        if attestation is None:
            continue
        author = attestation.province, attestation.issuer.credit_code
        at = attestation.fact.sampled_at
        if (*author, attestation.id) in corrected or (
            attestation.fact.kind is Kind.HEALTH_CODE_STATUS and at < newest.get(author, at)
        ):
            evidence[index] = replace(piece, verdict=Verdict.STALE)


_Id = tuple[str, str, UUID]
"""An attestation, as only its own issuer can name it."""


def _corrected(corrections: Sequence[tuple[_Id, _Id, bool]]) -> set[_Id]:
    """What is corrected.

    A correction that was revoked corrects nothing: a lab that cleared a positive for money must not
    have cleared it for good. But where it was corrected in its turn, what it set aside stays so.

    :param corrections: what corrects, what it corrects, and whether it counts.
    """
    corrected = {target for _, target, counts in corrections if counts}
    more = corrected
    while more:
        more = {target for by, target, _ in corrections if by in corrected} - corrected
        corrected |= more
    return corrected


def _ask_rules(evidence: list[Evidence], rules: RuleBook, now: datetime) -> tuple[RuleVerdict, ...]:
    """Ask every rule; evidence that satisfies no green rule becomes NOT_RECOGNIZED_BY_RULE."""
    asked, known = [], []
    for index, piece in enumerate(evidence):
        if piece.attestation is not None and piece.verdict is Verdict.ACCEPTED:
            asked.append(index)
            known.append(piece.attestation)
    said, greens = ask(known, rules, now)
    for index, green in zip(asked, greens, strict=True):
        if not green:
            evidence[index] = replace(evidence[index], verdict=Verdict.NOT_RECOGNIZED_BY_RULE)
    return said


def _remedies(evidence: list[Evidence], rules: RuleBook, now: datetime) -> tuple[Remedy, ...]:
    known = [
        piece.attestation
        for piece in evidence
        if piece.attestation is not None
        and piece.verdict in (Verdict.ACCEPTED, Verdict.NOT_RECOGNIZED_BY_RULE)
    ]
    return remedies(known, rules, now, ends={each.id: each.expires_at for each in known})


def _conclude(
    said: Sequence[RuleVerdict], evidence: list[Evidence], unheard: list[str]
) -> tuple[Outcome, Colour, Verdict, Text]:
    decides = settle(said)
    if decides is not None and decides.rule.colour is not Colour.GREEN:
        rule = decides.rule
        return Outcome.NOT_RECOGNIZED, rule.colour, Verdict.NOT_RECOGNIZED_BY_RULE, rule.reason
    if unheard:
        zh = "、".join(PROVINCES[code].zh for code in unheard)
        en = ", ".join(PROVINCES[code].en for code in unheard)
        reason = Text(
            f"{zh}没有可用的应答，请稍后再查", f"no usable answer from {en}: ask again later"
        )
        return Outcome.INDETERMINATE, Colour.UNSPECIFIED, Verdict.UNAVAILABLE, reason
    if broken := failed(said):
        reason = Text(f"规则 {broken.id} 无法计算", f"rule {broken.id} could not be evaluated")
        return Outcome.INDETERMINATE, Colour.UNSPECIFIED, Verdict.UNAVAILABLE, reason
    if decides is not None:
        return Outcome.RECOGNIZED, Colour.GREEN, Verdict.ACCEPTED, decides.rule.reason
    verdict = _gravest(evidence)
    return Outcome.NOT_RECOGNIZED, Colour.UNSPECIFIED, verdict, _refusal(verdict, said, evidence)


def _gravest(evidence: list[Evidence]) -> Verdict:
    verdicts = {piece.verdict for piece in evidence}
    return next((verdict for verdict in _GRAVEST_FIRST if verdict in verdicts), Verdict.NO_RECORD)


def _refusal(verdict: Verdict, said: Sequence[RuleVerdict], evidence: list[Evidence]) -> Text:
    """The verdict in words and, where a rule decided, what it asks for."""
    if verdict is not Verdict.NOT_RECOGNIZED_BY_RULE:
        return verdict.text
    return refusal(said, [piece.attestation for piece in evidence if piece.attestation])
