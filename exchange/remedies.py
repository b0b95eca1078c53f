"""Remedies (怎样才能变绿码): what would make a refusal a green, found by asking the rules.

Nothing is assumed of the holder: what helps is what is at hand at a later time, a fresh fact of a
kind, or an appeal against a colour that somebody assigned.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Final
from uuid import UUID

from exchange.asking import RuleVerdict, ask_rules, failed, settle
from exchange.attestations import Holder
from exchange.expressions import Expression
from exchange.facts import (
    AntigenTest,
    Colour,
    Fact,
    Fitness,
    HealthCodeStatus,
    Kind,
    MedicalExamination,
    NucleicAcidTest,
    TestResult,
    Vaccination,
)
from exchange.provinces import PROVINCES
from exchange.rules import Known, Rule, RuleBook
from exchange.subjects import DocumentType
from exchange.texts import Text
from exchange.vaccines import AT_HOME, EU_NAMES

__all__ = ["LONGEST_WAIT", "MOST_REMEDIES", "Remedy", "RemedyAction", "remedies"]

LONGEST_WAIT: Final = timedelta(days=30)
"""How far ahead a remedy looks, as the contract does for an arrival."""
MOST_REMEDIES: Final = 6
_STEP = timedelta(hours=6)
_SECOND = timedelta(seconds=1)
_LATELY = timedelta(days=30)
# What may be asked for one answer: facts × times × what a look costs, some 30 ms. What is beyond is
# not said, so that no province's rules hold up another's node.
_MOST_ASKED = 250_000
_A_LOOK = 45  # what it costs to ask rules of nothing, in symbols of `RuleBook.size`
_NO_ID = UUID(int=0)
_CHINA = timezone(timedelta(hours=8))
_NO_ENDS: Mapping[UUID, datetime] = MappingProxyType({})


class RemedyAction(enum.StrEnum):
    """What a holder can do."""

    OBTAIN = "OBTAIN"
    WAIT = "WAIT"
    APPEAL = "APPEAL"

    @property
    def text(self) -> Text:
        """The action in words."""
        return _ACTION_TEXTS[self]


_ACTION_TEXTS = {
    RemedyAction.OBTAIN: Text("补充证明", "obtain"),
    RemedyAction.WAIT: Text("等待", "wait"),
    RemedyAction.APPEAL: Text("申诉", "appeal"),
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to a green.

    :param rule: the rule that would give the green, or that stops giving another colour.
    :param kind: of OBTAIN: the kind of the fact that would satisfy it.
    :param from_time: of WAIT: from when on, by what is known now; whole seconds, UTC.
    """

    action: RemedyAction
    rule: Rule
    kind: Kind | None
    from_time: datetime | None
    text: Text


def remedies(
    known: Sequence[Known],
    rules: RuleBook,
    now: datetime,
    *,
    ends: Mapping[UUID, datetime] = _NO_ENDS,
) -> tuple[Remedy, ...]:
    """What would make it green, where it is not: at most 6, the most useful first.

    WAIT: the first time within 30 days from which what is at hand gives a green or, where there is
    none, from which nothing red or yellow holds any more. That a red or yellow fact's attestation
    ends is no such time: its issuer may sign it again. OBTAIN: a green rule that a fact sampled
    now would satisfy and, of who shows a certificate from abroad, one that another such certificate
    would; only where nothing red or yellow holds. APPEAL: a rule that gives red or
    yellow for a colour that somebody assigned.

    :param known: what counts: verified, live, not revoked; empty where nothing is known.
    :param now: as of when it was refused.
    :param ends: when each of ``known`` ends, by its id; a green cannot rest on it from then on.
    :returns: empty where it is green, or where nothing can be said.
    """
    said = ask_rules(known, rules, now)
    graver = [each for each in said if each.satisfied_by and each.rule.colour is not Colour.GREEN]
    if not graver and (settle(said) is not None or failed(said) is not None):
        return ()
    found = _wait(known, rules, now, ends) if known else []
    if graver:
        found += _appeal(known, graver)
    else:
        found += _obtain(known, rules, now)
    return tuple(found[:MOST_REMEDIES])


# --- Waiting -------------------------------------------------------------------------------------


def _wait(
    known: Sequence[Known], rules: RuleBook, now: datetime, ends: Mapping[UUID, datetime]
) -> list[Remedy]:
    times, steady = _times(known, rules, now)
    if len(times) * len(known) * (_A_LOOK + rules.size) > _MOST_ASKED:
        return []
    asked = functools.cache(lambda at: ask_rules(known, rules, at))

    def green(at: datetime) -> Rule | None:
        """The rule by which what is at hand is a green then."""
        said = asked(at)
        if _graver(said) or failed(said):
            return None
        live = {each.id for each in known if each.id not in ends or at < ends[each.id]}
        return next(
            (
                each.rule
                for each in said
                if each.rule.colour is Colour.GREEN and not live.isdisjoint(each.satisfied_by)
            ),
            None,
        )

    deciding = _graver(asked(now))
    found = []
    at = _first(times, now, lambda at: green(at) is not None, steady=steady)
    if at:
        rule = green(at)
        assert rule is not None  # noqa: S101 - for mypy: `_first` asked it just now
        text = Text(
            f"等到{_said(at)}：{rule.reason.zh}", f"wait until {_said(at)}: {rule.reason.en}"
        )
        found.append(Remedy(RemedyAction.WAIT, rule, None, at, text))
    over = deciding and _first(times, now, lambda at: _graver(asked(at)) is None, steady=steady)
    if deciding and over and (at is None or over < at):
        text = Text(
            f"等到{_said(over)}，这条规则即不再适用：{deciding.reason.zh}",
            f"wait until {_said(over)}, when this holds no longer: {deciding.reason.en}",
        )
        found.insert(0, Remedy(RemedyAction.WAIT, deciding, None, over, text))
    return found


def _graver(said: Sequence[RuleVerdict]) -> Rule | None:
    """The rule that decides on red or yellow, if any does."""
    decides = settle(said)
    return decides.rule if decides and decides.rule.colour is not Colour.GREEN else None


def _first(
    times: Sequence[datetime], now: datetime, holds: Callable[[datetime], bool], *, steady: bool
) -> datetime | None:
    """The first of the times at which it holds; to the second where it may change between them."""
    before = now.replace(microsecond=0)
    for time in times:
        if not holds(time):
            before = time
            continue
        while not steady and time - before > _SECOND:
            middle = (before + (time - before) / 2).replace(microsecond=0)
            before, time = (before, middle) if holds(middle) else (middle, time)  # noqa: PLW2901 - the halves of one step
        return time
    return None


def _times(
    known: Sequence[Known], rules: RuleBook, now: datetime
) -> tuple[tuple[datetime, ...], bool]:
    """When answers may change, in whole seconds; and whether they change at no other time."""
    kinds = {each.fact.kind for each in known}
    changes: set[datetime] = set()
    steady = True
    for rule in rules.rules:
        if rule.kinds.isdisjoint(kinds):
            continue
        expression = rules.expression(rule)
        steady = steady and expression.steady
        changes.update((rule.valid_from, *expression.times))
        if rule.valid_until is not None:
            changes.add(rule.valid_until)
        for each in known:
            if each.fact.kind in rule.kinds:
                changes.update(_moments(each.fact, expression))
    last = now + LONGEST_WAIT
    times = {time for change in changes for time in _around(change) if now < time <= last}
    if not steady:
        start = now.replace(microsecond=0)
        times.update(start + _STEP * step for step in range(1, LONGEST_WAIT // _STEP + 1))
    return tuple(sorted(times)), steady


def _moments(fact: Fact, expression: Expression) -> Iterator[datetime]:
    """The times of a fact that its rule asks for, with and without each of its durations."""
    for name in expression.fields:
        time = getattr(fact, name, None)
        if isinstance(time, datetime):
            for span in (timedelta(), *expression.spans):
                # Too far for a datetime is too far to wait for.
                with contextlib.suppress(OverflowError):
                    yield time + span


def _around(change: datetime) -> Iterator[datetime]:
    """The whole seconds from which a change may be seen: that of ``<`` and that of ``<=``."""
    whole = change.replace(microsecond=0)
    if whole == change:
        yield whole
    with contextlib.suppress(OverflowError):
        yield whole + _SECOND


def _said(time: datetime) -> str:
    form = "%Y-%m-%d %H:%M:%S" if time.second else "%Y-%m-%d %H:%M"
    return time.astimezone(_CHINA).strftime(form)


# --- Obtaining -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A fact as it might be established now."""

    fact: Fact
    province: str
    holder: Holder
    id: UUID = _NO_ID


def _obtain(known: Sequence[Known], rules: RuleBook, now: datetime) -> list[Remedy]:
    type_ = known[0].holder.document_type if known else DocumentType.RESIDENT_ID
    country = known[0].province if known and known[0].province not in PROVINCES else ""
    return [
        Remedy(RemedyAction.OBTAIN, rule, kind, None, _to_obtain(rule, kind, origin, country))
        for rule, kind, origin in _obtainable(
            rules, type_, now.replace(second=0, microsecond=0), country
        )
        if rule.in_force(now)
    ]


def _to_obtain(rule: Rule, kind: Kind, origin: str, country: str) -> Text:
    if origin == country:
        return Text(
            f"出示境外（{country}）的{kind.text.zh}证明：{rule.reason.zh}",
            f"show a certificate of {country} ({kind.text.en}): {rule.reason.en}",
        )
    here = Text("在境内", " in China") if country else Text("", "")
    return Text(
        f"{here.zh}补充新的{kind.text.zh}：{rule.reason.zh}",
        f"obtain a new attestation{here.en} ({kind.text.en}): {rule.reason.en}",
    )


@functools.lru_cache(maxsize=64)
def _obtainable(
    rules: RuleBook, type_: DocumentType, now: datetime, country: str
) -> tuple[tuple[Rule, Kind, str], ...]:
    """The green rules that a fact would satisfy, its kind and where it comes from.

    The same for all in a minute who show what is of a country, or of none.
    """
    found: dict[tuple[Rule, Kind], str] = {}
    holder = Holder("", type_, "")
    # Nobody abroad is given a colour by a province that they come from.
    facts = [
        fact
        for fact in _fresh_facts(now)
        if not country or fact.kind is not Kind.HEALTH_CODE_STATUS
    ]
    # Where rules tell origins apart, one that would do is enough: the rule's reason says which.
    apart = any(map(rules.tells_origins_apart, rules.rules))
    abroad = list(_foreign_facts(now)) if country else []
    looks = _MOST_ASKED // (_A_LOOK + rules.size) - len(abroad)
    most = max(1, looks // len(facts)) if apart else 1
    tried = [(fact, origin) for fact in facts for origin in list(PROVINCES)[:most]]
    tried += [(fact, country) for fact in abroad]
    for fact, origin in tried:
        said = rules.evaluate(_Fresh(fact, origin, holder), now)
        if all(holds is False or (holds and rule.colour is Colour.GREEN) for rule, holds in said):
            for rule, holds in said:
                if holds:
                    found.setdefault((rule, fact.kind), origin)
    order = {rule.id: at for at, rule in enumerate(rules.rules)}
    return tuple(
        (rule, kind, found[rule, kind])
        for rule, kind in sorted(found, key=lambda each: order[each[0].id])
    )


def _foreign_facts(now: datetime) -> Iterator[Fact]:
    """What a certificate from abroad may say to somebody's favour.

    A vaccination also of a month ago: whoever has one need not have shown it.
    """
    yield NucleicAcidTest(now, TestResult.NEGATIVE)
    yield AntigenTest(now, TestResult.NEGATIVE)
    for at in (now, now - _LATELY):
        for product in (*EU_NAMES.values(), *AT_HOME):
            for doses in (1, 2):
                yield Vaccination(at, product, doses, doses)


def _fresh_facts(now: datetime) -> Iterator[Fact]:
    """A favourable fact of each kind, established now.

    None of a recovery: nobody is to fall ill for a green.
    """
    yield NucleicAcidTest(now, TestResult.NEGATIVE, now)
    yield AntigenTest(now, TestResult.NEGATIVE, now)
    yield MedicalExamination(now, Fitness.FIT, now)
    yield HealthCodeStatus(now, Colour.GREEN)
    for product in AT_HOME:
        for doses in (1, 2, 3):
            yield Vaccination(now, product, doses, doses)


# --- Appealing -----------------------------------------------------------------------------------


def _appeal(known: Sequence[Known], graver: Sequence[RuleVerdict]) -> list[Remedy]:
    assigned = {each.id for each in known if each.fact.kind is Kind.HEALTH_CODE_STATUS}
    return [
        Remedy(
            RemedyAction.APPEAL,
            said.rule,
            None,
            None,
            Text(
                f"向赋码地申诉：{said.rule.reason.zh}",
                f"appeal to the place that assigned it: {said.rule.reason.en}",
            ),
        )
        for said in graver
        if not assigned.isdisjoint(said.satisfied_by)
    ]
