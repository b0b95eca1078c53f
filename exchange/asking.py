"""What a province's rules say of what is known of a holder, and what follows from it.

The same for attestations that provinces sent (`exchange.recognition`), for the facts in a health
code (`exchange.codes.judging`) and for times to come (`exchange.remedies`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from exchange.attestations import Attestation
from exchange.facts import Colour
from exchange.provinces import PROVINCES
from exchange.rules import Known, Rule, RuleBook
from exchange.texts import Text

__all__ = ["RuleVerdict", "ask", "ask_rules", "failed", "refusal", "settle"]

_GRAVEST_FIRST: Final = (Colour.RED, Colour.YELLOW, Colour.GREEN)
_NO_RULE: Final = Text("规则不认可", "no rule accepts it")


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one rule said over all evidence."""

    rule: Rule
    satisfied_by: tuple[UUID, ...]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was said of one attestation, and between which times, both excluded, it stands.

    :param alone: what each rule says where nothing else is known.
    """

    rules: RuleBook
    after: datetime
    before: datetime
    said: Sequence[tuple[Rule, bool | None]]
    alone: tuple[RuleVerdict, ...]
    green: bool


def ask(
    known: Sequence[Attestation], rules: RuleBook, now: datetime
) -> tuple[tuple[RuleVerdict, ...], list[bool]]:
    """Ask every rule that is in force of all that is known.

    What the rules said of an attestation is remembered with it until one of them may say
    something else of it.

    :param known: what counts: verified, live, not revoked.
    :returns: what each rule said, in the rules' order, and of each of ``known`` whether it
        satisfies a green rule.
    """
    asked = [_asked(each, rules, now) for each in known]
    greens = [each.green for each in asked]
    if len(asked) == 1:
        return asked[0].alone, greens
    said = [(each.id, one.said) for each, one in zip(known, asked, strict=True)]
    return _together(said, rules, now), greens


def _asked(known: Attestation, rules: RuleBook, now: datetime) -> _Asked:
    found: _Asked | None = known.made.get(_asked)
    if found is not None and found.rules is rules and found.after < now < found.before:
        return found
    said = rules.evaluate(known, now)
    green = any(holds and rule.colour is Colour.GREEN for rule, holds in said)
    after, before = rules.steady(known.fact, now)
    found = _Asked(rules, after, before, said, _together([(known.id, said)], rules, now), green)
    known.made[_asked] = found
    return found


def _together(
    asked: Iterable[tuple[UUID, Sequence[tuple[Rule, bool | None]]]], rules: RuleBook, now: datetime
) -> tuple[RuleVerdict, ...]:
    """What each rule that is in force says, of what each says of each."""
    held: dict[str, list[UUID]] = {rule.id: [] for rule in rules.rules if rule.in_force(now)}
    failures: set[str] = set()
    for id_, said in asked:
        for rule, holds in said:
            if holds is None:
                failures.add(rule.id)
            elif holds:
                held[rule.id].append(id_)
    return tuple(
        RuleVerdict(rule, tuple(held[rule.id]), rule.id in failures)
        for rule in rules.rules
        if rule.id in held
    )


def ask_rules(known: Sequence[Known], rules: RuleBook, now: datetime) -> tuple[RuleVerdict, ...]:
    """What every rule that is in force says of all that is known, in the rules' order.

    :param known: what counts: verified, live, not revoked. A fact from abroad satisfies a rule
        only where the rule's ``origins`` name its country.
    """
    return _together([(each.id, rules.evaluate(each, now)) for each in known], rules, now)


def settle(said: Sequence[RuleVerdict]) -> RuleVerdict | None:
    """What decides: the first satisfied rule of the gravest colour, red before yellow before green.

    A green stands only where `failed` is None and every answer is there; that is the caller's.

    :returns: None where no rule is satisfied, which is never a pass.
    """
    satisfied = {each.rule.colour: each for each in reversed(said) if each.satisfied_by}
    return next((satisfied[colour] for colour in _GRAVEST_FIRST if colour in satisfied), None)


def failed(said: Sequence[RuleVerdict]) -> Rule | None:
    """The first rule that could not be evaluated on something: no green stands beside it."""
    return next((each.rule for each in said if each.failed), None)


def refusal(said: Sequence[RuleVerdict], known: Collection[Known]) -> Text:
    """Say in words that no rule accepts it, and what the green rules for such facts ask for.

    Where there are such rules, and all are about facts from elsewhere, that is said instead.

    :param known: what the rules were asked of, or would be.
    """
    facts = sorted({(each.fact.kind, each.province) for each in known})
    green = [each.rule for each in said if each.rule.colour is Colour.GREEN]
    wanted = [
        rule.reason
        for rule in green
        if any(kind in rule.kinds and rule.covers(origin) for kind, origin in facts)
    ]
    if wanted:
        return Text(
            f"{_NO_RULE.zh}，需要：{'；或'.join(text.zh for text in wanted)}",
            f"{_NO_RULE.en}; needed: {'; or '.join(text.en for text in wanted)}",
        )
    elsewhere = [fact for fact in facts if any(fact[0] in rule.kinds for rule in green)]
    if not elsewhere:
        return _NO_RULE
    return Text(
        f"{_NO_RULE.zh}：没有规则承认"
        + "、".join(f"来自{_place(origin).zh}的{kind.text.zh}" for kind, origin in elsewhere),
        f"{_NO_RULE.en}: none counts "
        + " or ".join(f"the {kind.text.en} from {_place(origin).en}" for kind, origin in elsewhere),
    )


def _place(origin: str) -> Text:
    """A province by its names, a country by its code."""
    if province := PROVINCES.get(origin):
        return Text(province.zh, province.en)
    return Text(f"境外（{origin}）", f"abroad ({origin})")
