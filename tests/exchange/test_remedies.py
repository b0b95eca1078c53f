"""Remedies (怎样才能变绿码): cases to read, and that what is promised is so when asked again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruling import rule

from exchange import views
from exchange.asking import ask_rules, settle
from exchange.attestations import AttestationVerifier, Holder
from exchange.facts import (
    AntigenTest,
    Colour,
    Fact,
    Fitness,
    HealthCodeStatus,
    Kind,
    MedicalExamination,
    NucleicAcidTest,
    Recovery,
    TestResult,
    Vaccination,
)
from exchange.recognition import Decision, Outcome, Reply, Verdict, recognize
from exchange.remedies import (
    LONGEST_WAIT,
    MOST_REMEDIES,
    Remedy,
    RemedyAction,
    _obtainable,
    remedies,
)
from exchange.rules import RuleBook
from exchange.subjects import DocumentType
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
DAY = 24 * HOUR


NEGATIVE = rule(
    "negative-48h",
    "NUCLEIC_ACID_TEST ANTIGEN_TEST",
    "GREEN",
    'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")',
)
POSITIVE = rule(
    "positive-14d",
    "NUCLEIC_ACID_TEST ANTIGEN_TEST",
    "RED",
    'fact.result == "POSITIVE" && now - fact.sampled_at <= duration("336h")',
)
RECOVERED = rule(
    "recovery-14d",
    "RECOVERY",
    "GREEN",
    'now - fact.sampled_at >= duration("336h") && now - fact.sampled_at <= duration("4320h")',
)
FIT = rule(
    "fit-7d",
    "MEDICAL_EXAMINATION",
    "GREEN",
    'fact.conclusion == "FIT" && now - fact.sampled_at <= duration("168h")',
)
UNFIT = rule(
    "unfit-14d",
    "MEDICAL_EXAMINATION",
    "YELLOW",
    'fact.conclusion == "UNFIT" && now - fact.sampled_at <= duration("336h")',
)
VACCINATED = rule(
    "dose-14d",
    "VACCINATION",
    "GREEN",
    'fact.dose >= fact.doses && now - fact.sampled_at >= duration("336h")',
)
GREEN_CODE = rule("green", "HEALTH_CODE_STATUS", "GREEN", 'fact.colour == "GREEN"')
RED_CODE = rule("red", "HEALTH_CODE_STATUS", "RED", 'fact.colour == "RED"')
YELLOW_CODE = rule("yellow", "HEALTH_CODE_STATUS", "YELLOW", 'fact.colour == "YELLOW"')
RULES = [
    NEGATIVE,
    POSITIVE,
    RECOVERED,
    FIT,
    UNFIT,
    VACCINATED,
    GREEN_CODE,
    RED_CODE,
    YELLOW_CODE,
]
BOOK = RuleBook(RULES)


@dataclass(frozen=True, slots=True)
class Shown:
    """A fact as a health code has it: no attestation."""

    id: UUID
    fact: Fact
    province: str = SICHUAN
    holder: Holder = Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21")  # noqa: RUF009 - frozen


def shown(*facts: Fact) -> list[Shown]:
    return [Shown(UUID(int=at), fact) for at, fact in enumerate(facts)]


def in_words(now: datetime, *found: Remedy) -> list[str]:
    """``WAIT recovery-14d 96h``, ``OBTAIN negative-48h ANTIGEN_TEST``, ``APPEAL red``."""
    said = []
    for each in found:
        words = [each.action, each.rule.id, each.kind or ""]
        if each.from_time:
            hours, rest = divmod(each.from_time - now, HOUR)
            words.append(f"{hours}h" + (f"{rest.seconds}s" if rest else ""))
        said.append(" ".join(filter(None, words)))
    return said


def found(world: Any, *facts: Fact, rules: RuleBook = BOOK, **changes: Any) -> list[str]:
    return in_words(world.now, *remedies(shown(*facts), rules, world.now, **changes))


def made(world: Any, words: str) -> Fact:
    """``positive 20h``, ``unfit 3h``, ``released 240h``, ``dose 2/2 20h``, ``red 5h``."""
    what, *more, age = words.split()
    at = world.now - int(age.removesuffix("h")) * HOUR
    if what in ("negative", "positive", "inconclusive"):
        return NucleicAcidTest(at, TestResult(what.upper()))
    if what == "antigen":
        return AntigenTest(at, TestResult(more[0].upper()))
    if what in ("fit", "unfit", "follow_up"):
        return MedicalExamination(at, Fitness(what.upper()))
    if what == "released":
        return Recovery(at)
    if what == "dose":
        dose, doses = more[0].split("/")
        return Vaccination(at, "CoronaVac", int(dose), int(doses))
    return HealthCodeStatus(at, Colour(what.upper()), *(["因"] * 5 if what != "green" else []))


ANY_FRESH = [
    "OBTAIN negative-48h NUCLEIC_ACID_TEST",
    "OBTAIN negative-48h ANTIGEN_TEST",
    "OBTAIN fit-7d MEDICAL_EXAMINATION",
    "OBTAIN green HEALTH_CODE_STATUS",
]
CASES = [
    ("nothing is known", "", ANY_FRESH),
    ("a test too old", "negative 50h", ANY_FRESH),
    ("a test of today is green", "negative 3h", []),
    ("released ten days ago", "released 240h", ["WAIT recovery-14d 96h", *ANY_FRESH]),
    ("released today", "released 0h", ["WAIT recovery-14d 336h", *ANY_FRESH]),
    ("the first dose of two", "dose 1/2 20h", ANY_FRESH),
    ("the last dose a day ago", "dose 2/2 24h", ["WAIT dose-14d 312h", *ANY_FRESH]),
    (
        "the soonest of two waits alone",
        "dose 2/2 24h, released 240h",
        ["WAIT recovery-14d 96h", *ANY_FRESH],
    ),
    ("a positive test", "positive 20h", ["WAIT positive-14d 316h1s"]),
    (
        "a positive test, and a release that counts later",
        "positive 20h, released 10h",
        ["WAIT positive-14d 316h1s", "WAIT recovery-14d 326h"],
    ),
    (
        "a positive test, and a green that counts as soon as it ends",
        "positive 20h, dose 2/2 500h",
        ["WAIT dose-14d 316h1s"],
    ),
    ("not fit ten days ago", "unfit 240h", ["WAIT unfit-14d 96h1s"]),
    ("a red code", "red 5h", ["APPEAL red"]),
    ("a yellow code before a fresh test", "yellow 5h, negative 2h", ["APPEAL yellow"]),
    (
        "a red code and a positive test: no wait helps",
        "red 5h, positive 20h",
        ["APPEAL red"],
    ),
    ("a colour that no rule names", "unspecified 2h", ANY_FRESH),
    ("a green code", "green 3h", []),
]


@pytest.mark.parametrize(
    ("known", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_makes_it_green(world: Any, known: str, expected: list[str]) -> None:
    facts = [made(world, words) for words in known.split(", ") if words]
    assert found(world, *facts) == expected
    assert sorted(found(world, *reversed(facts))) == sorted(expected)


# Waiting.


def test_a_wait_is_told_to_the_second(world: Any) -> None:
    now = world.now
    (wait,) = remedies(shown(made(world, "unfit 240h")), BOOK, now)
    at = now + 96 * HOUR + SECOND
    assert wait.from_time == at
    for time, holds in ((at - SECOND, True), (at, False)):
        (said,) = [
            each
            for each in ask_rules(shown(made(world, "unfit 240h")), BOOK, time)
            if each.rule.id == "unfit-14d"
        ]
        assert bool(said.satisfied_by) is holds
    assert wait.text == (
        "等到2022-01-14 12:00:01，这条规则即不再适用：规则unfit-14d",
        "wait until 2022-01-14 12:00:01, when this holds no longer: the rule unfit-14d",
    )


@pytest.mark.parametrize("microseconds", [0, 1, 999_999])
def test_a_wait_is_a_whole_second_that_lies_ahead(world: Any, microseconds: int) -> None:
    now = world.now + timedelta(microseconds=microseconds)
    (wait, *_) = remedies(shown(made(world, "released 336h")), RuleBook([RECOVERED]), now) or [None]
    assert wait is None  # it is green at the very second
    now -= SECOND
    (wait,) = remedies(shown(made(world, "released 336h")), RuleBook([RECOVERED]), now)
    assert wait.from_time == world.now > now


def test_thirty_days_are_looked_ahead_and_no_further(world: Any) -> None:
    assert LONGEST_WAIT == 30 * DAY
    for days, expected in ((30, ["WAIT later 720h"]), (31, [])):
        later = rule(
            "later", "RECOVERY", "GREEN", f'now - fact.sampled_at >= duration("{days * 24}h")'
        )
        assert found(world, made(world, "released 0h"), rules=RuleBook([later])) == expected


def test_a_wait_does_not_rest_on_evidence_that_has_ended_by_then(world: Any) -> None:
    known = shown(made(world, "released 240h"))
    end = world.now + 96 * HOUR
    book = RuleBook([RECOVERED])
    for ends, expected in (
        (end, []),
        (end + SECOND, ["WAIT recovery-14d 96h"]),
    ):
        said = remedies(known, book, world.now, ends={known[0].id: ends})
        assert in_words(world.now, *said) == expected


def test_that_a_red_attestation_ends_is_no_remedy(world: Any) -> None:
    known = shown(made(world, "red 5h"))
    said = remedies(known, BOOK, world.now, ends={known[0].id: world.now + HOUR})
    assert in_words(world.now, *said) == ["APPEAL red"]


def test_a_rule_that_begins_or_ends_is_waited_for(world: Any) -> None:
    begins = {**FIT, "id": "begins", "valid_from": "2022-01-11T12:00:00+08:00"}
    fit = made(world, "fit 2h")
    assert found(world, fit, rules=RuleBook([begins])) == ["WAIT begins 24h"]
    ends = {**RED_CODE, "valid_until": "2022-01-12T12:00:00+08:00"}
    red = made(world, "red 5h")
    assert found(world, red, rules=RuleBook([ends])) == ["WAIT red 48h", "APPEAL red"]
    both = RuleBook([ends, begins])
    assert found(world, red, fit, rules=both) == ["WAIT begins 48h", "APPEAL red"]


def test_a_fixed_time_in_a_rule_is_waited_for(world: Any) -> None:
    when = 'now >= timestamp("2022-01-20T00:00:00+08:00") && fact.conclusion == "FIT"'
    book = RuleBook([rule("spring", "MEDICAL_EXAMINATION", "GREEN", when)])
    assert found(world, made(world, "fit 2h"), rules=book) == ["WAIT spring 228h"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        # 12:00 in China is hour 4 in UTC.
        ("now.getHours() >= 15", "WAIT odd 11h"),
        ('(now - fact.sampled_at) - duration("1h") >= duration("29h30m")', "WAIT odd 28h1800s"),
        ('now - fact.sampled_at >= duration("20h") + duration("30m15s")', "WAIT odd 18h1815s"),
        ("now.getDate() == 20 && now.getHours() >= 6", "WAIT odd 242h"),
    ],
)
def test_a_rule_that_counts_in_its_own_way_is_tried_step_by_step(
    world: Any, when: str, expected: str
) -> None:
    book = RuleBook([rule("odd", "MEDICAL_EXAMINATION", "GREEN", when)])
    assert found(world, made(world, "fit 2h"), rules=book)[:1] == [expected]


def test_a_rule_that_cannot_be_evaluated_then_is_waited_for_by_nobody(world: Any) -> None:
    breaks = rule(
        "breaks",
        "RECOVERY",
        "GREEN",
        'now - fact.sampled_at >= duration("300h") ? 1 / 0 == 1 : false',
    )
    assert found(world, made(world, "released 240h"), rules=RuleBook([RECOVERED, breaks])) == []


def test_what_takes_too_long_to_find_is_not_said(world: Any) -> None:
    when = "(now - fact.sampled_at) - duration('1h') >= duration('30h')"
    book = RuleBook([rule("odd", "MEDICAL_EXAMINATION", "GREEN", when)])
    one = made(world, "fit 2h")
    assert found(world, one, rules=book)[0].startswith("WAIT")
    assert not [each for each in found(world, *[one] * 200, rules=book) if each.startswith("WAIT")]


# Obtaining.


def test_nothing_is_to_be_obtained_that_would_not_be_green_at_once(world: Any) -> None:
    # A fresh test is green by one rule and yellow by another: of no use.
    all_yellow = rule("all-yellow", "NUCLEIC_ACID_TEST", "YELLOW", 'fact.result != "POSITIVE"')
    book = RuleBook([NEGATIVE, all_yellow])
    assert found(world, rules=book) == ["OBTAIN negative-48h ANTIGEN_TEST"]


def test_nobody_is_told_to_fall_ill_for_a_green(world: Any) -> None:
    at_once = rule("released", "RECOVERY", "GREEN", "fact.sampled_at <= now")
    assert found(world, rules=RuleBook([at_once])) == []


def test_a_rule_that_is_not_in_force_is_not_to_be_satisfied(world: Any) -> None:
    later = {**NEGATIVE, "valid_from": "2022-01-10T12:00:00.5+08:00"}
    over = {**FIT, "valid_until": "2022-01-10T12:00:00+08:00"}
    assert found(world, rules=RuleBook([later, over])) == []


def test_what_a_rule_asks_of_origin_and_document_is_tried(world: Any) -> None:
    only_hubei = {**FIT, "origins": [HUBEI]}
    only_abroad = {**FIT, "id": "abroad", "origins": ["*"]}
    by_name = rule("by-name", "ANTIGEN_TEST", "GREEN", f'origin == "{HUBEI}"')
    passports = rule(
        "passports", "NUCLEIC_ACID_TEST", "GREEN", 'holder.document_type == "PASSPORT"'
    )
    book = RuleBook([passports, only_hubei, only_abroad, by_name])
    assert found(world, rules=book) == [
        "OBTAIN fit-7d MEDICAL_EXAMINATION",
        "OBTAIN by-name ANTIGEN_TEST",
    ]
    traveller = Holder("S*** M***", DocumentType.PASSPORT, "E*******1")
    known = [Shown(UUID(int=1), made(world, "follow_up 2h"), SICHUAN, traveller)]
    assert in_words(world.now, *remedies(known, book, world.now))[0] == (
        "OBTAIN passports NUCLEIC_ACID_TEST"
    )


def test_what_can_be_obtained_is_found_once_a_minute(world: Any) -> None:
    book = RuleBook(RULES)
    _obtainable.cache_clear()
    for seconds in range(30):
        remedies([], book, world.now + seconds * SECOND)
    assert _obtainable.cache_info().misses == 1


def test_whoever_is_from_abroad_holds_up_nobody(world: Any) -> None:
    class Counted(RuleBook):
        looks = 0

        def evaluate(self, *asked: Any) -> Any:
            self.looks += 1
            return super().evaluate(*asked)

    book = Counted(
        [
            rule(f"of-{at}", "VACCINATION", "GREEN", "fact.dose > 1", origins=["*"])
            for at in range(99)
        ]
    )
    traveller = Holder("S*** M***", DocumentType.OTHER, "")
    known = [Shown(UUID(int=1), made(world, "dose 1/2 20h"), "DE", traveller)]
    assert remedies(known, book, world.now)
    assert book.looks * (45 + book.size) < 300_000


def test_a_province_with_few_costly_words_holds_up_nobody(world: Any) -> None:
    class Counted(RuleBook):
        looks = 0

        def evaluate(self, *asked: Any) -> Any:
            self.looks += 1
            return super().evaluate(*asked)

    book = Counted([rule("hours", "NUCLEIC_ACID_TEST", "GREEN", "now.getHours() > 24")])
    known = [world.attestation(world.test(1 + number / 60)) for number in range(64)]
    remedies(known, book, world.now)
    assert book.looks < 1000  # 7,744: asked of 64 facts every six hours for 30 days


def test_at_most_six_are_said(world: Any) -> None:
    many = [{**FIT, "id": f"fit-{index}"} for index in range(9)]
    book = RuleBook([RECOVERED, *many])
    said = found(world, made(world, "released 240h"), rules=book)
    assert len(said) == MOST_REMEDIES
    assert said[:2] == ["WAIT recovery-14d 96h", "OBTAIN fit-0 MEDICAL_EXAMINATION"]


# In words and on the wire.


def test_every_remedy_is_said_in_two_languages_and_has_its_view(world: Any) -> None:
    said = remedies(shown(made(world, "released 240h")), BOOK, world.now)
    said += remedies(shown(made(world, "red 5h")), BOOK, world.now)
    assert {each.action for each in said} == set(RemedyAction)
    for each in said:
        assert each.rule.reason.zh in each.text.zh
        assert each.rule.reason.en in each.text.en
        view = views.remedy_to_proto(each)
        assert pb.RemedyAction.Name(view.action) == f"REMEDY_ACTION_{each.action}"
        assert view.rule_id == each.rule.id
        assert view.text == types_pb2.LocalText(zh=each.text.zh, en=each.text.en)
        kind = f"KIND_{each.kind}" if each.kind else "KIND_UNSPECIFIED"
        assert types_pb2.Kind.Name(view.kind) == kind
        if each.from_time:
            assert views.time_from_proto(view.from_time, field="x") == each.from_time
        else:
            assert not view.HasField("from_time")


def test_every_action_is_one_of_the_contract_and_has_its_words() -> None:
    names = {name.removeprefix("REMEDY_ACTION_") for name in pb.RemedyAction.keys()}  # noqa: SIM118 - an enum wrapper is no dict
    assert names == {"UNSPECIFIED", *RemedyAction}
    texts = [action.text for action in RemedyAction]
    assert all(not text.zh.isascii() and text.en.isascii() for text in texts)


# What is promised is so.


def decide(world: Any, replies: list[Reply], now: datetime, *, explain: bool) -> Decision:
    return recognize(
        replies,
        tokens=[world.token],
        province=GUANGDONG,
        rules=BOOK,
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=now,
        explain=explain,
    )


SAYINGS = st.lists(
    st.builds(
        lambda what, hours: f"{what} {hours}h",
        st.sampled_from(
            [
                *("negative", "positive", "inconclusive", "antigen negative", "antigen positive"),
                *("fit", "unfit", "follow_up", "released", "dose 1/2", "dose 2/2"),
                *("green", "yellow", "red"),
            ]
        ),
        st.integers(1, 160),
    ),
    max_size=3,
)


def a_fresh(world: Any, remedy: Remedy) -> Fact:
    kinds = {
        Kind.NUCLEIC_ACID_TEST: "negative 0h",
        Kind.ANTIGEN_TEST: "antigen negative 0h",
        Kind.MEDICAL_EXAMINATION: "fit 0h",
        Kind.HEALTH_CODE_STATUS: "green 0h",
    }
    assert remedy.kind
    return made(world, kinds[remedy.kind])


@given(SAYINGS)
@settings(max_examples=80)
def test_who_does_what_a_remedy_says_is_green(world: Any, sayings: list[str]) -> None:
    known = [world.attestation(made(world, words)) for words in sayings]
    signed = [world.sign(each) for each in known]
    replies = [Reply(SICHUAN, signed)]
    decision = decide(world, replies, world.now, explain=True)
    assert len(decision.remedies) <= MOST_REMEDIES
    if decision.outcome is not Outcome.NOT_RECOGNIZED:
        assert decision.remedies == ()
    for remedy in decision.remedies:
        match remedy.action:
            case RemedyAction.WAIT:
                assert remedy.from_time
                assert world.now < remedy.from_time <= world.now + LONGEST_WAIT
                then = decide(world, replies, remedy.from_time, explain=False)
                assert (then.colour is remedy.rule.colour) == (then.colour is Colour.GREEN)
            case RemedyAction.OBTAIN:
                fresh = world.sign(
                    world.attestation(
                        a_fresh(world, remedy), issuer=world.other_lab, issued_at=world.now
                    )
                )
                more = [Reply(SICHUAN, [*signed, fresh])]
                then = decide(world, more, world.now, explain=False)
                assert then.colour is Colour.GREEN
            case RemedyAction.APPEAL:
                assigned = {a.id for a in known if a.fact.kind is Kind.HEALTH_CODE_STATUS}
                kept = [s for s, a in zip(signed, known, strict=True) if a.id not in assigned]
                then = decide(world, [Reply(SICHUAN, kept)], world.now, explain=False)
                assert remedy.rule.id not in {
                    said.rule.id for said in then.rules if said.satisfied_by
                }


@given(SAYINGS)
@settings(max_examples=60)
def test_no_earlier_hour_is_green_than_the_wait_says(world: Any, sayings: list[str]) -> None:
    known = shown(*[made(world, words) for words in sayings])
    said = remedies(known, BOOK, world.now)
    if (now := settle(ask_rules(known, BOOK, world.now))) and now.rule.colour is Colour.GREEN:
        assert said == ()
        return
    waits = [each for each in said if each.action is RemedyAction.WAIT]
    green = [each.from_time for each in waits if each.rule.colour is Colour.GREEN]
    first = next(
        (
            world.now + hours * HOUR
            for hours in range(1, 30 * 24)
            if (then := settle(ask_rules(known, BOOK, world.now + hours * HOUR)))
            and then.rule.colour is Colour.GREEN
        ),
        None,
    )
    if first is None:
        assert green == [] or green[0] > world.now + 29 * DAY
    else:
        assert first - HOUR < green[0] <= first


def test_remedies_are_said_of_a_refusal_alone_and_where_they_are_asked_for(world: Any) -> None:
    old = [Reply(SICHUAN, [world.signed(world.test(60))])]
    assert decide(world, old, world.now, explain=False).remedies == ()
    assert decide(world, old, world.now, explain=True).remedies
    green = [Reply(SICHUAN, [world.signed(world.test(2))])]
    assert decide(world, green, world.now, explain=True).remedies == ()
    unheard = [*old, Reply(HUBEI, None)]
    decision = decide(world, unheard, world.now, explain=True)
    assert (decision.outcome, decision.remedies) == (Outcome.INDETERMINATE, ())


def test_a_remedy_rests_on_nothing_that_is_forged_revoked_or_outdated(world: Any) -> None:
    released = world.signed(Recovery(world.now - 240 * HOUR))
    whole = decide(world, [Reply(SICHUAN, [released])], world.now, explain=True)
    assert whole.remedies[0].action is RemedyAction.WAIT
    forged = released[:-1] + bytes([released[-1] ^ 1])
    for reply in (Reply(SICHUAN, [forged]), Reply(SICHUAN, [], [released])):
        decision = decide(world, [reply], world.now, explain=True)
        assert decision.verdict in (Verdict.BAD_SIGNATURE, Verdict.REVOKED)
        assert {each.action for each in decision.remedies} == {RemedyAction.OBTAIN}
