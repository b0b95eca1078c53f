"""What a province's rules say of what is known of a holder, and what follows from it.

The same for attestations that provinces sent (`exchange.recognition`), for the facts in a health
code (`exchange.codes.judging`) and for times to come (`exchange.remedies`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

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


def ask(
    known: Sequence[Known], rules: RuleBook, now: datetime
) -> tuple[tuple[RuleVerdict, ...], list[bool]]:
    """Ask every rule that is in force of all that is known.

    :param known: what counts: verified, live, not revoked.
    :returns: what each rule said, in the rules' order, and of each of ``known`` whether it
        satisfies a green rule.
    """
    held: dict[str, list[UUID]] = {rule.id: [] for rule in rules.rules if rule.in_force(now)}
    failures: set[str] = set()
    greens: list[bool] = []
    for each in known:
        green = False
        for rule, holds in rules.evaluate(each, now):
            if holds is None:
                failures.add(rule.id)
            elif holds:
                held[rule.id].append(each.id)
                green |= rule.colour is Colour.GREEN
        greens.append(green)
    said = tuple(
        RuleVerdict(rule, tuple(held[rule.id]), rule.id in failures)
        for rule in rules.rules
        if rule.id in held
    )
    return said, greens


def ask_rules(known: Sequence[Known], rules: RuleBook, now: datetime) -> tuple[RuleVerdict, ...]:
    """What every rule that is in force says of all that is known, in the rules' order.

    :param known: what counts: verified, live, not revoked. A fact from abroad satisfies a rule
        only where the rule's ``origins`` name its country.
    """
    return ask(known, rules, now)[0]


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
