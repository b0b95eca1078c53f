"""Judging what somebody shows (验码): a health code of any province, or a foreign certificate.

Pure: what was shown, the trust list, this province's rules and the time go in, a `Judgement` comes
out. It fails closed. A green at home is necessary and not sufficient: the rules of the province
where it is shown are asked of the facts in the code, and what a code leaves out nobody judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from exchange import cbor
from exchange.asking import RuleVerdict, ask_rules, failed, refusal, settle
from exchange.attestations import LIFE, Holder
from exchange.codes import hc1, hcert
from exchange.codes.hcert import ForeignCertificate, ForeignKeys
from exchange.codes.healthcode import HealthCode, HealthCodeVerifier
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    MalformedObjectError,
    TongxingError,
    UnexplainedColourError,
    UnknownIssuerError,
)
from exchange.facts import Colour, Fact
from exchange.recognition import Decision, Outcome, Verdict
from exchange.remedies import Remedy, RemedyAction, remedies
from exchange.rules import RuleBook
from exchange.statuslist import Status, StatusReference
from exchange.texts import Text
from exchange.trust.trustlist import TrustList

__all__ = ["Judgement", "is_ours", "judge", "unpack"]

_SIGN1_TAG, _ARRAY_OF_FOUR, _TYP = 0xD2, 0x84, 16
_LONGEST_HEADER: Final = 1024
_NOBODY: Final = ForeignKeys()

_ENDED: Final = Text("码已过期，请重新出示", "the code has ended: ask for a new one")
_IN_FUTURE: Final = Text(
    "码的签发时间在未来，请核对时钟", "the code was issued in the future: check the clocks"
)
_UNEXPLAINED: Final = Text("码没有说明赋码原因", "the code does not say why it is not green")
_OTHER_NONCE: Final = Text(
    "码不是为本次查验出示的，请重新出示", "the code was not made for this check: ask for a new one"
)
_REVOKED: Final = Text(
    "码所依据的证明已被撤销，请重新出示",
    "an attestation that the code rests on is revoked: ask for a new code",
)
_HELD: Final = Text("本省现有记录", "by what this province holds now")
_REFUSALS: Final[Mapping[type[TongxingError], tuple[Verdict, Text]]] = {
    ExpiredError: (Verdict.EXPIRED, _ENDED),
    UnknownIssuerError: (Verdict.UNKNOWN_ISSUER, Verdict.UNKNOWN_ISSUER.text),
    BadSignatureError: (Verdict.BAD_SIGNATURE, Verdict.BAD_SIGNATURE.text),
    FutureTimeError: (Verdict.BAD_SIGNATURE, _IN_FUTURE),
    UnexplainedColourError: (Verdict.BAD_SIGNATURE, _UNEXPLAINED),
}
"""What does not verify, by why: all but what is malformed, which is no code at all."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a province makes of a code that is shown to it.

    :param province: the one that judges, by its own rules.
    :param colour: as what the holder is shown here; GREEN only if the outcome is RECOGNIZED.
    :param code: what was shown; None where it did not verify.
    :param signed: its COSE_Sign1 bytes, as they were shown.
    :param remedies: what would make a refusal a green, where that can be said.
    """

    province: str
    outcome: Outcome
    colour: Colour
    verdict: Verdict
    reason: Text
    rules: tuple[RuleVerdict, ...]
    code: HealthCode | ForeignCertificate | None
    remedies: tuple[Remedy, ...]
    rules_digest: bytes
    trust_version: int
    judged_at: datetime
    signed: bytes = field(default=b"", repr=False)

    @property
    def issuer(self) -> str:
        """The province that issued the code, or the country; empty where it did not verify."""
        if self.code is None:
            return ""
        return self.code.province if isinstance(self.code, HealthCode) else self.code.country


@dataclass(frozen=True, slots=True)
class _Shown:
    """A fact in a code, as the rules see it (`exchange.rules.Known`)."""

    id: UUID
    fact: Fact
    province: str
    holder: Holder


def judge(
    shown: str | bytes,
    *,
    province: str,
    rules: RuleBook,
    trust: TrustList,
    verifier: HealthCodeVerifier,
    now: datetime,
    status: Callable[[StatusReference], Status],
    foreign: ForeignKeys = _NOBODY,
    nonce: bytes = b"",
    present: Decision | None = None,
    explain: bool = True,
) -> Judgement:
    """Judge a code.

    In this order: what does not verify is EXPIRED, UNKNOWN_ISSUER or BAD_SIGNATURE. What bears
    another nonce than was asked for is BAD_SIGNATURE. What rests on a revoked attestation is
    REVOKED, whatever else it says. What is not green at home is never RECOGNIZED, and its own
    reason is shown, unless a rule here gives a graver colour. Then the rules here decide as in
    `exchange.recognition`: red before yellow before green, and a rule that cannot be evaluated
    makes a green INDETERMINATE. The rules' yellow or red of what the province itself holds now
    (``present``) goes before what the code says; its green adds nothing.

    A status of which nothing is known (STALE, or a fact without one) does not refuse: the code was
    issued minutes ago, and its issuer looked then. Facts of another province than the code's give a
    green only where they would as the issuer's own: it is the issuer's word that they are not, and
    a rule's ``origins`` may not trust that. Facts that are said to be of a province which
    the trust list does not vouch for now count for nothing, nor do those that no attestation of
    their kind outlives. A foreign certificate has neither colour, status nor nonce: its facts count
    where a rule's ``origins`` name its country.

    :param shown: the text of the QR code, or COSE_Sign1 bytes.
    :param province: the one that judges, by ``rules``.
    :param status: what is known of the place where an attestation's status stands.
    :param foreign: the foreign keys that are trusted; nobody's, if left out.
    :param nonce: what the gate asked to see in the code; empty: it asked for nothing.
    :param present: what ``province`` decides of the code's holder now, by its ``rules`` and by what
        it holds itself; None where it knows nobody.
    :param explain: whether to say what would make a refusal a green (`exchange.remedies`).
    :raises MalformedObjectError: it is no code at all.
    """
    signed = unpack(shown)
    judging = _Judging(province, rules, trust, now, signed, present, explain=explain)
    code: HealthCode | ForeignCertificate
    try:
        if is_ours(signed):
            code = verifier.verify(signed, trust, now)
        else:
            code = hcert.verify(signed, foreign, now)
    except tuple(_REFUSALS) as error:
        return judging.refuse(
            *next(_REFUSALS[kind] for kind in _REFUSALS if isinstance(error, kind))
        )
    if isinstance(code, ForeignCertificate):
        if nonce:
            return judging.refuse(Verdict.BAD_SIGNATURE, _OTHER_NONCE, code)
        facts = [_Shown(id_, fact, code.country, code.holder) for id_, fact in code.facts]
        return judging.decide(code, facts, {each.id: code.expires_at for each in facts})
    if nonce and code.nonce != nonce:
        return judging.refuse(Verdict.BAD_SIGNATURE, _OTHER_NONCE, code)
    if any(piece.status and status(piece.status) is Status.REVOKED for piece in code.evidence):
        return judging.refuse(Verdict.REVOKED, _REVOKED, code)
    facts = [
        _Shown(piece.id, piece.fact, piece.province, code.holder)
        for piece in code.evidence
        if piece.province in trust.profiles and now < _end(piece.fact)
    ]
    return judging.decide(code, facts, {each.id: _end(each.fact) for each in facts})


def _end(fact: Fact) -> datetime:
    """When its attestation has ended at the latest: a code does not say when it does."""
    return fact.sampled_at + LIFE[fact.kind]


def is_ours(signed: bytes) -> bool:
    """Whether an object has a ``typ`` (RFC 9596), as all of the exchange have and no HCERT has.

    Nothing else of it is looked at, and nothing is verified.
    """
    try:
        at = 1 if signed[0] == _SIGN1_TAG else 0
        if signed[at] != _ARRAY_OF_FOUR:
            return False
        protected, _ = cbor.read_item(signed, at + 1)
        if type(protected) is not bytes or len(protected) > _LONGEST_HEADER:
            return False
        return type(cbor.read_map(protected).get(_TYP)) is str
    except (IndexError, MalformedObjectError):
        return False


def unpack(shown: str | bytes) -> bytes:
    """The COSE_Sign1 bytes of what is shown; nothing of them is verified.

    Ours are read strictly, all others as they are found in the field (`exchange.codes.hcert`).

    :raises MalformedObjectError: a text that holds none.
    """
    if isinstance(shown, bytes):
        return shown
    text = shown.strip("\r\n\t\ufeff")  # readers of QR codes put line ends around what they read
    try:
        return hc1.from_text(text)
    except MalformedObjectError as error:
        signed = hcert.unpack(text)
        if is_ours(signed):
            raise error from None
        return signed


@dataclass(frozen=True, slots=True)
class _Judging:
    """By what a code is judged."""

    province: str
    rules: RuleBook
    trust: TrustList
    now: datetime
    signed: bytes
    present: Decision | None
    explain: bool

    def refuse(
        self,
        verdict: Verdict,
        reason: Text,
        code: HealthCode | ForeignCertificate | None = None,
    ) -> Judgement:
        """Refuse what no rule is asked of."""
        return self._judgement(
            _Said(Outcome.NOT_RECOGNIZED, Colour.UNSPECIFIED, verdict, reason), code
        )

    def decide(
        self,
        code: HealthCode | ForeignCertificate,
        facts: Sequence[_Shown],
        ends: Mapping[UUID, datetime],
    ) -> Judgement:
        """Ask the rules.

        :param ends: when what a fact rests on has ended at the latest, by its id.
        """
        rules = self._ask(facts, code)
        at_home = _at_home(code)
        held = _graver(self.present)
        said = _conclude(rules, held, at_home, facts)
        ways: tuple[Remedy, ...] = ()
        if self.explain and said.outcome is Outcome.NOT_RECOGNIZED:
            ways = remedies(facts, self.rules, self.now, ends=ends)
            if self.present is not None and settle(held) is not None:
                ways = tuple(dict.fromkeys((*ways, *self.present.remedies)))
            if at_home is not None or settle(held) is not None:
                # Nothing that satisfies the rules here changes the colour that home gives.
                ways = tuple(way for way in ways if way.action is RemedyAction.APPEAL)
        return self._judgement(said, code, rules, ways)

    def _ask(
        self, facts: Sequence[_Shown], code: HealthCode | ForeignCertificate
    ) -> tuple[RuleVerdict, ...]:
        """Ask the rules; a green needs both the fact's province and the code's to satisfy them."""
        said = ask_rules(facts, self.rules, self.now)
        if isinstance(code, ForeignCertificate) or all(f.province == code.province for f in facts):
            return said
        as_own = ask_rules(
            [replace(each, province=code.province) for each in facts], self.rules, self.now
        )
        decides = settle(as_own)
        green = decides is not None and decides.rule.colour is Colour.GREEN
        return tuple(
            replace(
                each,
                satisfied_by=each.satisfied_by
                if each.rule.colour is not Colour.GREEN
                else tuple(id_ for id_ in each.satisfied_by if green and id_ in own.satisfied_by),
                failed=each.failed or own.failed,
            )
            for each, own in zip(said, as_own, strict=True)
        )

    def _judgement(
        self,
        said: _Said,
        code: HealthCode | ForeignCertificate | None,
        rules: tuple[RuleVerdict, ...] = (),
        ways: tuple[Remedy, ...] = (),
    ) -> Judgement:
        return Judgement(
            province=self.province,
            outcome=said.outcome,
            colour=said.colour,
            verdict=said.verdict,
            reason=said.reason,
            rules=rules,
            code=code,
            remedies=ways,
            rules_digest=self.rules.digest,
            trust_version=self.trust.version,
            judged_at=self.now,
            signed=self.signed,
        )


class _Said(NamedTuple):
    outcome: Outcome
    colour: Colour
    verdict: Verdict
    reason: Text


def _at_home(code: HealthCode | ForeignCertificate) -> _Said | None:
    """What the issuing province's own colour says, if it is not green."""
    if isinstance(code, ForeignCertificate) or code.colour is Colour.GREEN:
        return None
    verdict = Verdict.NOT_RECOGNIZED_BY_RULE
    return _Said(Outcome.NOT_RECOGNIZED, code.colour, verdict, code.reason or verdict.text)


def _graver(present: Decision | None) -> tuple[RuleVerdict, ...]:
    """What gives no green: a green needs facts in the code, where whoever looks sees them."""
    said = () if present is None else present.rules
    return tuple(each for each in said if each.rule.colour is not Colour.GREEN)


def _conclude(
    rules: tuple[RuleVerdict, ...],
    held: tuple[RuleVerdict, ...],
    at_home: _Said | None,
    facts: Sequence[_Shown],
) -> _Said:
    decides = settle(rules + held)
    if decides is not None and decides.rule.colour is not Colour.GREEN:
        here = decides.rule.colour
        if at_home is None or (here, at_home.colour) == (Colour.RED, Colour.YELLOW):
            verdict, reason = Verdict.NOT_RECOGNIZED_BY_RULE, decides.rule.reason
            if decides not in rules:
                reason = Text(f"{_HELD.zh}：{reason.zh}", f"{_HELD.en}: {reason.en}")
            return _Said(Outcome.NOT_RECOGNIZED, here, verdict, reason)
    if at_home is not None:
        return at_home
    if broken := failed(rules + held):
        reason = Text(f"规则 {broken.id} 无法计算", f"rule {broken.id} could not be evaluated")
        return _Said(Outcome.INDETERMINATE, Colour.UNSPECIFIED, Verdict.UNAVAILABLE, reason)
    if decides is not None:
        return _Said(Outcome.RECOGNIZED, Colour.GREEN, Verdict.ACCEPTED, decides.rule.reason)
    return _Said(
        Outcome.NOT_RECOGNIZED,
        Colour.UNSPECIFIED,
        Verdict.NOT_RECOGNIZED_BY_RULE,
        refusal(rules, facts),
    )
