from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruling import rule

from exchange import attestations, cbor, cose, views
from exchange.attestations import AttestationVerifier
from exchange.facts import Colour, Fact, Recovery, Vaccination
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import (
    MOST_PER_PROVINCE,
    AnswerState,
    Decision,
    Outcome,
    Reply,
    RuleVerdict,
    Verdict,
    ask_rules,
    failed,
    recognize,
    refusal,
    settle,
)
from exchange.rules import RuleBook
from exchange.statuslist import StatusReference
from exchange.trust.profile import KeyState
from exchange.v1 import recognition_service_pb2 as pb

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


NEGATIVE_48H = rule(
    "negative-48h",
    "NUCLEIC_ACID_TEST",
    "GREEN",
    'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")',
)
VACCINATED = rule("vaccinated", "VACCINATION", "GREEN", "fact.dose >= fact.doses")
GREEN_CODE = rule("green", "HEALTH_CODE_STATUS", "GREEN", 'fact.colour == "GREEN"')
RED_CODE = rule("red", "HEALTH_CODE_STATUS", "RED", 'fact.colour == "RED"')
POSITIVE = rule("positive", "NUCLEIC_ACID_TEST", "RED", 'fact.result == "POSITIVE"')
YELLOW_CODE = rule("yellow", "HEALTH_CODE_STATUS", "YELLOW", 'fact.colour == "YELLOW"')
# Sichuan's load, whose samples are Sichuan's; Hubei's evidence breaks it.
BREAKS = rule("breaks", "NUCLEIC_ACID_TEST", "GREEN", 'origin == "420000" ? 1 / 0 == 1 : false')
RULES = (NEGATIVE_48H, VACCINATED, GREEN_CODE, RED_CODE, POSITIVE, YELLOW_CODE)


def decide(world: Any, *replies: Reply, rules: Sequence[Any] = RULES, **changes: Any) -> Decision:
    known: dict[str, Any] = {
        "tokens": [world.token],
        "province": GUANGDONG,
        "rules": RuleBook(rules),
        "trust": world.trust(),
        "verifier": AttestationVerifier(),
        "now": world.now,
    }
    return recognize(replies, **{**known, **changes})


def concluded(decision: Decision) -> str:
    return f"{decision.outcome} {decision.colour} {decision.verdict}"


def verdicts(decision: Decision) -> list[Verdict]:
    return [piece.verdict for piece in decision.evidence]


def states(decision: Decision) -> dict[str, AnswerState]:
    return {answer.province: answer.state for answer in decision.answers}


# Cases to read: what Sichuan and Hubei sent, and what Guangdong concludes.

SILENT, UNREADABLE, NOTHING = "silent", "unreadable", ""
CASES = [
    ("nobody knows the holder", NOTHING, NOTHING, "NOT_RECOGNIZED UNSPECIFIED NO_RECORD"),
    ("a fresh negative test", "negative 12h", NOTHING, "RECOGNIZED GREEN ACCEPTED"),
    ("a test to the last second", "negative 48h", NOTHING, "RECOGNIZED GREEN ACCEPTED"),
    (
        "a test an hour too old",
        "negative 49h",
        NOTHING,
        "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE",
    ),
    ("a test that has ended", "negative 400h", NOTHING, "NOT_RECOGNIZED UNSPECIFIED EXPIRED"),
    (
        "an inconclusive test",
        "inconclusive 2h",
        NOTHING,
        "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE",
    ),
    ("a positive test", "positive 2h", NOTHING, "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"),
    (
        "a positive test here, a negative one there",
        "positive 20h",
        "negative 2h",
        "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE",
    ),
    ("a full vaccination", "dose 2/2", NOTHING, "RECOGNIZED GREEN ACCEPTED"),
    (
        "half a vaccination",
        "dose 1/2",
        NOTHING,
        "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE",
    ),
    ("an old test and a vaccination", "negative 60h, dose 2/2", "", "RECOGNIZED GREEN ACCEPTED"),
    ("a green code", NOTHING, "green 3h", "RECOGNIZED GREEN ACCEPTED"),
    (
        "a yellow code before green",
        "negative 2h",
        "yellow 30h",
        "NOT_RECOGNIZED YELLOW NOT_RECOGNIZED_BY_RULE",
    ),
    (
        "a red code before yellow and green",
        "yellow 3h, negative 2h",
        "red 30h",
        "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE",
    ),
    ("red, and green since", "red 30h, green 2h", NOTHING, "RECOGNIZED GREEN ACCEPTED"),
    (
        "green, and red since",
        "red 2h, green 30h",
        NOTHING,
        "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE",
    ),
    (
        "a code of no national colour",
        "unspecified 2h",
        NOTHING,
        "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE",
    ),
    ("a silent province", "negative 2h", SILENT, "INDETERMINATE UNSPECIFIED UNAVAILABLE"),
    ("all provinces silent", SILENT, SILENT, "INDETERMINATE UNSPECIFIED UNAVAILABLE"),
    ("nothing, and a silent one", NOTHING, SILENT, "INDETERMINATE UNSPECIFIED UNAVAILABLE"),
    (
        "a silent province, but red at hand",
        "positive 2h",
        SILENT,
        "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE",
    ),
    (
        "a silent province, but yellow at hand",
        "yellow 2h",
        SILENT,
        "NOT_RECOGNIZED YELLOW NOT_RECOGNIZED_BY_RULE",
    ),
    (
        "an answer that cannot be read",
        "negative 2h",
        UNREADABLE,
        "INDETERMINATE UNSPECIFIED UNAVAILABLE",
    ),
]


def reply(world: Any, province: str, said: str) -> Reply:
    if said in (SILENT, UNREADABLE):
        return Reply(province, None, readable=said == SILENT)
    return Reply(
        province,
        [
            world.signed(fact(world, words), province=province)
            for words in said.split(", ")
            if words
        ],
    )


def fact(world: Any, words: str) -> Fact:
    what, how = words.split()
    if what == "dose":
        dose, doses = how.split("/")
        return Vaccination(world.now - 500 * HOUR, "CoronaVac", int(dose), int(doses))
    hours = int(how.removesuffix("h"))
    if what in ("negative", "positive", "inconclusive"):
        made: Fact = world.test(hours, what.upper())
    else:
        made = world.status(what.upper(), hours)
    return made


@pytest.mark.parametrize(
    ("sichuan", "hubei", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_what_guangdong_concludes(world: Any, sichuan: str, hubei: str, expected: str) -> None:
    sent = [reply(world, SICHUAN, sichuan), reply(world, HUBEI, hubei)]
    decision = decide(world, Reply(GUANGDONG, []), *sent)
    assert concluded(decision) == expected
    assert concluded(decide(world, *reversed(sent), Reply(GUANGDONG, []))) == expected
    assert decision.reason.zh
    assert decision.reason.en


# Words.


@pytest.mark.parametrize("words", [Outcome, Verdict, AnswerState])
def test_every_member_has_its_words_in_two_languages(words: Any) -> None:
    texts = [member.text for member in words]
    assert all(text.zh and text.en for text in texts)
    assert len(set(texts)) == len(texts)
    assert all(not text.zh.isascii() and text.en.isascii() for text in texts)


@pytest.mark.parametrize(
    ("python", "proto", "prefix"),
    [
        (Outcome, pb.Outcome, "OUTCOME_"),
        (Verdict, pb.Verdict, "VERDICT_"),
        (AnswerState, pb.AnswerState, "ANSWER_STATE_"),
    ],
)
def test_every_word_is_one_of_the_contract(python: Any, proto: Any, prefix: str) -> None:
    assert {name.removeprefix(prefix) for name in proto.keys()} == {"UNSPECIFIED", *python}  # noqa: SIM118 - an enum wrapper is no dict


# What a decision rests on.


def test_a_decision_says_what_it_rests_on(world: Any) -> None:
    attestation = world.attestation()
    signed = world.sign(attestation)
    trust = world.trust(version=7)
    decision = decide(world, Reply(SICHUAN, [signed]), Reply(HUBEI, []), trust=trust)
    (piece,) = decision.evidence
    assert (piece.signed, piece.attestation) == (signed, attestation)
    assert (piece.verdict, piece.sent_by) == (Verdict.ACCEPTED, SICHUAN)
    assert states(decision) == {SICHUAN: AnswerState.ANSWERED, HUBEI: AnswerState.NO_RECORD}
    assert [answer.attestations for answer in decision.answers] == [1, 0]
    assert (decision.province, decision.trust_version) == (GUANGDONG, 7)
    assert decision.decided_at == world.now
    assert decision.reason == ("规则negative-48h", "the rule negative-48h")
    assert {said.rule.id: said.satisfied_by for said in decision.rules} == {
        "negative-48h": (attestation.id,),
        **{other["id"]: () for other in RULES[1:]},
    }


def test_a_silent_province_is_named(world: Any) -> None:
    decision = decide(world, reply(world, SICHUAN, "negative 2h"), Reply(HUBEI, None))
    assert states(decision)[HUBEI] is AnswerState.UNREACHABLE
    assert "湖北省" in decision.reason.zh
    assert "Hubei" in decision.reason.en
    assert "四川省" not in decision.reason.zh


def test_a_green_does_not_stand_where_a_subject_epoch_could_not_be_asked_for(world: Any) -> None:
    negative = reply(world, SICHUAN, "negative 2h")
    red = reply(world, HUBEI, "positive 2h")
    decision = decide(world, negative, complete=False)
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    assert "Guangdong" in decision.reason.en
    assert decide(world, negative, red, complete=False).colour is Colour.RED


def test_a_refusal_says_what_would_be_accepted(world: Any) -> None:
    decision = decide(world, reply(world, SICHUAN, "negative 50h"))
    assert decision.reason.en == "no rule accepts it; needed: the rule negative-48h"
    decision = decide(world, reply(world, SICHUAN, "negative 50h"), rules=[GREEN_CODE])
    assert decision.reason == Verdict.NOT_RECOGNIZED_BY_RULE.text


def test_the_first_rule_of_a_colour_gives_the_reason(world: Any) -> None:
    again = {"id": "again", "reason": {"zh": "规则again", "en": "the rule again"}}
    twice = [NEGATIVE_48H, {**NEGATIVE_48H, **again}]
    for first, second in (twice, twice[::-1]):
        decision = decide(world, reply(world, SICHUAN, "negative 2h"), rules=[first, second])
        assert decision.reason.en == f"the rule {first['id']}"


def test_without_a_rule_nothing_is_green(world: Any) -> None:
    decision = decide(world, reply(world, SICHUAN, "negative 2h, green 2h, dose 2/2"), rules=[])
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"
    assert decision.rules == ()


def test_without_a_reply_nothing_is_green(world: Any) -> None:
    assert concluded(decide(world)) == "NOT_RECOGNIZED UNSPECIFIED NO_RECORD"


def test_a_rule_is_not_asked_before_its_day(world: Any) -> None:
    day = {"valid_from": "2022-01-10T12:00:00+08:00"}  # world.now
    sent, rules = reply(world, SICHUAN, "negative 2h"), [{**NEGATIVE_48H, **day}]
    before = decide(world, sent, rules=rules, now=world.now - SECOND)
    assert concluded(before) == "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"
    assert before.rules == ()
    assert concluded(decide(world, sent, rules=rules)) == "RECOGNIZED GREEN ACCEPTED"


def test_a_rule_that_cannot_be_evaluated_never_passes(world: Any) -> None:
    sent = reply(world, HUBEI, "negative 2h")
    decision = decide(world, sent, rules=[BREAKS])
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    (said,) = decision.rules
    assert said.failed
    assert said.satisfied_by == ()
    assert "breaks" in decision.reason.en
    # Nor does another green carry it: what it would have said is not known.
    decision = decide(world, sent, rules=[BREAKS, NEGATIVE_48H])
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    # Red needs no help.
    red = reply(world, SICHUAN, "red 2h")
    decision = decide(world, sent, red, rules=[BREAKS, RED_CODE])
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"


def test_a_decision_names_the_version_of_its_rules(world: Any) -> None:
    rules = RuleBook(RULES)
    decision = decide(world, reply(world, SICHUAN, "negative 2h"))
    assert decision.rules_digest == rules.digest
    other = decide(world, rules=[NEGATIVE_48H])
    assert other.rules_digest == RuleBook([NEGATIVE_48H]).digest != rules.digest


def test_a_rule_is_not_asked_from_its_end_on(world: Any) -> None:
    end = {"valid_until": "2022-01-10T12:00:00+08:00"}  # world.now
    sent, rules = reply(world, SICHUAN, "negative 2h"), [{**NEGATIVE_48H, **end}]
    before = decide(world, sent, rules=rules, now=world.now - SECOND)
    assert concluded(before) == "RECOGNIZED GREEN ACCEPTED"
    decision = decide(world, sent, rules=rules)
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"
    assert decision.rules == ()


def test_a_rule_of_other_origins_does_not_accept_it(world: Any) -> None:
    hubei_alone = {**NEGATIVE_48H, "origins": [HUBEI]}
    decision = decide(world, reply(world, SICHUAN, "negative 2h"), rules=[hubei_alone])
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"
    assert decision.reason == (
        "规则不认可：没有规则承认来自四川省的核酸检测",
        "no rule accepts it: none counts the nucleic-acid test from Sichuan",
    )
    decision = decide(world, reply(world, HUBEI, "negative 2h"), rules=[hubei_alone])
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"


# Before the traveller leaves: decided as of a time to come.


@pytest.mark.parametrize(
    ("said", "hours_ahead", "expected"),
    [
        ("negative 12h", 36, "RECOGNIZED GREEN ACCEPTED"),
        ("negative 12h", 37, "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"),
        ("negative 12h", 400, "NOT_RECOGNIZED UNSPECIFIED EXPIRED"),
        ("red 12h", 100, "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"),
        ("red 12h", 720, "NOT_RECOGNIZED UNSPECIFIED EXPIRED"),
        ("negative 12h, dose 2/2", 400, "RECOGNIZED GREEN ACCEPTED"),
    ],
)
def test_it_is_decided_as_of_the_arrival(
    world: Any, said: str, hours_ahead: int, expected: str
) -> None:
    arrival = world.now + hours_ahead * HOUR
    decision = decide(world, reply(world, SICHUAN, said), now=arrival)
    assert concluded(decision) == expected
    assert decision.decided_at == arrival


def test_the_rules_are_those_in_force_on_arrival(world: Any) -> None:
    later = {**GREEN_CODE, "valid_from": "2022-01-11T12:00:00+08:00"}
    sent = reply(world, SICHUAN, "green 1h")
    for hours, green in ((0, False), (23, False), (24, True)):
        decision = decide(world, sent, rules=[later], now=world.now + hours * HOUR)
        assert (decision.outcome is Outcome.RECOGNIZED) is green
        assert bool(decision.rules) is green


# Asking alone, as who judges a health code does.


def test_the_gravest_satisfied_rule_settles_it_and_none_settles_nothing(world: Any) -> None:
    book = RuleBook([*RULES, BREAKS])

    def asked(*words: str) -> tuple[RuleVerdict, ...]:
        known = [world.attestation(fact(world, each), province=HUBEI) for each in words]
        return ask_rules(known, book, world.now)

    def settled(*words: str) -> str:
        decides = settle(asked(*words))
        return decides.rule.id if decides else ""

    assert settled() == settled("negative 50h") == ""
    assert settled("green 1h", "dose 2/2") == "vaccinated"
    assert settled("green 1h", "yellow 2h") == "yellow"
    assert settled("yellow 2h", "red 3h", "positive 3h") == "red"
    assert [said.rule.id for said in asked()] == [each["id"] for each in [*RULES, BREAKS]]
    assert failed(asked("dose 2/2")) is None
    broken = failed(asked("negative 2h"))
    assert broken is not None
    assert broken.id == "breaks"


def test_a_refusal_names_what_the_rules_for_these_kinds_ask_for(world: Any) -> None:
    said = ask_rules([], RuleBook(RULES), world.now)

    def known(*words: str) -> list[Any]:
        return [world.attestation(fact(world, each), province=HUBEI) for each in words]

    text = refusal(said, known("negative 50h", "dose 1/2"))
    assert text.en == "no rule accepts it; needed: the rule negative-48h; or the rule vaccinated"
    assert text.zh == "规则不认可，需要：规则negative-48h；或规则vaccinated"
    unruled = [replace(each, fact=Recovery(world.now)) for each in known("negative 50h")]
    assert refusal(said, []) == refusal(said, unruled) == Verdict.NOT_RECOGNIZED_BY_RULE.text


# What a province sends that it should not.


def foreign(world: Any, **changes: Any) -> attestations.Attestation:
    """Another holder's, with words that must not be found in the decision."""
    holder = attestations.Holder("别*人", world.document.type, "42**************99")
    return world.attestation(
        world.test(2), token=world.epoch.epoch.to_bytes(4) + bytes(32), holder=holder, **changes
    )


def leaks(decision: Decision, attestation: attestations.Attestation) -> bool:
    sent = views.decision_to_proto(decision).SerializeToString()
    words = (attestation.holder.name.encode(), attestation.holder.document_number.encode())
    return any(word in sent for word in (*words, attestation.id.bytes, attestation.token))


def test_a_replayed_attestation_of_another_holder_is_refused(world: Any) -> None:
    other = foreign(world)
    decision = decide(world, Reply(SICHUAN, [world.sign(other)]))
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED BAD_SIGNATURE"
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert not leaks(decision, other)
    assert leaks(decide(world, Reply(SICHUAN, [world.sign(other)]), tokens=[other.token]), other)


@pytest.mark.parametrize("why", ["ended", "future", "revoked", "forged", "cut", "unexplained"])
def test_another_holders_data_does_not_leak_when_it_does_not_verify_either(
    world: Any, why: str
) -> None:
    other, trust = foreign(world), world.trust()
    signed = world.sign(other)
    if why == "ended":
        signed = world.sign(replace(other, expires_at=world.now - HOUR))
    elif why == "future":
        signed = world.sign(replace(other, issued_at=world.now + HOUR))
    elif why == "revoked":
        trust = world.trust(p510000=KeyState.REVOKED)
    elif why == "forged":
        signed = world.sign(other, PrivateKey.generate(Algorithm.ES256))
    elif why == "cut":
        signed = signed[:-1]
    else:
        signed = world.sign(replace(other, fact=replace(world.status("RED"), reason="")))
    decision = decide(world, Reply(SICHUAN, [signed]), trust=trust)
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED BAD_SIGNATURE"
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert not leaks(decision, other)
    assert [piece.signed for piece in decision.evidence] == [b""]


def test_a_holders_own_evidence_that_does_not_verify_is_shown_for_an_appeal(world: Any) -> None:
    ended = world.signed(world.test(400))
    forged = world.sign(world.attestation(), PrivateKey.generate(Algorithm.ES256))
    broken = world.signed()
    broken = broken[:-1] + bytes([broken[-1] ^ 1])
    decision = decide(world, Reply(SICHUAN, [ended, forged, broken]))
    assert [(piece.signed, piece.attestation, piece.verdict) for piece in decision.evidence] == [
        (ended, None, Verdict.EXPIRED),
        (forged, None, Verdict.UNKNOWN_ISSUER),
        (broken, None, Verdict.BAD_SIGNATURE),
    ]
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED BAD_SIGNATURE"


def test_a_province_that_sends_anothers_attestation_is_refused(world: Any) -> None:
    signed = world.signed()
    decision = decide(world, Reply(HUBEI, [signed]))
    assert verdicts(decision) == [Verdict.UNKNOWN_ISSUER]
    assert decision.evidence[0].attestation is None
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED UNKNOWN_ISSUER"
    assert states(decision) == {HUBEI: AnswerState.UNTRUSTED}


def test_a_province_that_signs_in_anothers_name_is_refused(world: Any) -> None:
    signed = world.sign(world.attestation(), world.keys[HUBEI])
    for sender in (HUBEI, SICHUAN):
        decision = decide(world, Reply(sender, [signed]))
        assert verdicts(decision) == [Verdict.BAD_SIGNATURE]
        assert states(decision) == {sender: AnswerState.UNTRUSTED}


def test_a_province_outside_the_trust_list_stops_nobody_else(world: Any) -> None:
    trust = world.trust(without=HUBEI)
    sent = reply(world, SICHUAN, "negative 2h")
    decision = decide(world, sent, Reply(HUBEI, None), trust=trust)
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert states(decision)[HUBEI] is AnswerState.UNTRUSTED
    decision = decide(world, sent, Reply(HUBEI, [world.signed(province=HUBEI)]), trust=trust)
    assert [piece.sent_by for piece in decision.evidence] == [SICHUAN]


def test_one_bad_piece_does_not_spoil_the_others(world: Any) -> None:
    sent = [b"", b"\xff", world.signed(), world.sign(foreign(world))]
    decision = decide(world, Reply(SICHUAN, sent))
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}


def test_a_revoked_key_ends_what_was_recognised_before(world: Any) -> None:
    verifier, sent = AttestationVerifier(), reply(world, SICHUAN, "negative 2h")
    assert decide(world, sent, verifier=verifier).outcome is Outcome.RECOGNIZED
    trust = world.trust(p510000=KeyState.REVOKED)
    decision = decide(world, sent, verifier=verifier, trust=trust)
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED UNKNOWN_ISSUER"


def test_more_than_a_province_may_send_is_never_green(world: Any) -> None:
    most = [world.signed(world.test(2 + n / 60)) for n in range(MOST_PER_PROVINCE)]
    decision = decide(world, Reply(SICHUAN, most))
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert states(decision) == {SICHUAN: AnswerState.ANSWERED}
    # The red one is what a green crowd would hide.
    red = world.signed(world.status("RED"))
    decision = decide(world, Reply(SICHUAN, [*most, red]))
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert len(decision.evidence) == MOST_PER_PROVINCE
    decision = decide(world, Reply(SICHUAN, [red, *most]))
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"


def test_duplicates_count_once(world: Any) -> None:
    attestation = world.attestation()
    signed = world.sign(attestation)
    decision = decide(world, Reply(SICHUAN, [signed] * 20))
    assert len(decision.evidence) == 1
    assert decision.answers[0].attestations == 1
    assert decision.rules[0].satisfied_by == (attestation.id,)


# Revocation (撤销).


def decided_on(world: Any, *, live: Sequence[Any] = (), revoked: Sequence[Any] = ()) -> Decision:
    signed = [[world.sign(each) for each in some] for some in (live, revoked)]
    return decide(world, Reply(SICHUAN, signed[0], revoked=signed[1]))


def test_revoked_evidence_is_shown_as_revoked_and_never_recognised(world: Any) -> None:
    attestation = world.attestation()
    decision = decided_on(world, revoked=[attestation])
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED REVOKED"
    assert decision.reason == Verdict.REVOKED.text
    assert states(decision) == {SICHUAN: AnswerState.ANSWERED}
    (piece,) = decision.evidence
    assert (piece.attestation, piece.verdict) == (attestation, Verdict.REVOKED)
    assert not any(said.satisfied_by for said in decision.rules)


def test_a_revoked_red_is_no_red_and_takes_no_green_away(world: Any) -> None:
    red, green = world.attestation(world.status("RED")), world.attestation()
    assert concluded(decided_on(world, revoked=[red])) == "NOT_RECOGNIZED UNSPECIFIED REVOKED"
    decision = decided_on(world, live=[green], revoked=[red])
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert verdicts(decision) == [Verdict.ACCEPTED, Verdict.REVOKED]


def test_of_what_is_sent_as_live_and_as_revoked_revoked_wins(world: Any) -> None:
    attestation = world.attestation()
    signed = world.sign(attestation)
    decision = decide(world, Reply(SICHUAN, [signed], revoked=[signed]))
    assert verdicts(decision) == [Verdict.REVOKED]
    # Signed once more, with other times and another place: its id is what counts.
    place = StatusReference(SICHUAN, 1, 2)
    again = replace(attestation, issued_at=attestation.issued_at + SECOND, status=place)
    decision = decided_on(world, live=[attestation], revoked=[again])
    assert verdicts(decision) == [Verdict.REVOKED, Verdict.REVOKED]
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED REVOKED"


def test_a_set_bit_revokes_what_is_sent_as_live(world: Any) -> None:
    place = StatusReference(SICHUAN, 12, 588)
    first = world.attestation(status=place)
    again = replace(first, status=StatusReference(SICHUAN, 12, 589))
    other = world.attestation(world.test(9), status=StatusReference(SICHUAN, 12, 590))
    sent = Reply(SICHUAN, [world.sign(each) for each in (again, first, other)])
    assert verdicts(decide(world, sent)) == [Verdict.ACCEPTED] * 3
    decision = decide(world, sent, revoked=place.__eq__)
    assert verdicts(decision) == [Verdict.REVOKED, Verdict.REVOKED, Verdict.ACCEPTED]
    assert decision.rules[0].satisfied_by == (other.id,)


def test_a_province_cannot_revoke_anothers_attestation(world: Any) -> None:
    signed = world.signed()
    decision = decide(world, Reply(SICHUAN, [signed]), Reply(HUBEI, [], revoked=[signed]))
    assert verdicts(decision) == [Verdict.ACCEPTED, Verdict.UNKNOWN_ISSUER]
    assert states(decision)[HUBEI] is AnswerState.UNTRUSTED
    # Nor by another attestation of its own that bears the same id.
    attestation = world.attestation()
    theirs = world.sign(replace(attestation, province=HUBEI))
    sent = Reply(SICHUAN, [world.sign(attestation)])
    decision = decide(world, sent, Reply(HUBEI, [], revoked=[theirs]))
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"


def test_what_is_sent_as_revoked_is_verified_like_all_else(world: Any) -> None:
    other, genuine = foreign(world), world.signed()
    forged = world.sign(world.attestation(), PrivateKey.generate(Algorithm.ES256))
    decision = decide(world, Reply(SICHUAN, [genuine], revoked=[forged, world.sign(other)]))
    assert verdicts(decision) == [
        Verdict.ACCEPTED,
        Verdict.UNKNOWN_ISSUER,
        Verdict.BAD_SIGNATURE,
    ]
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert not leaks(decision, other)


def test_what_is_revoked_once_corrected_is_told_as_superseded(world: Any) -> None:
    wrong = world.attestation(world.test(2, "POSITIVE"))
    right = world.attestation(world.test(2), supersedes=wrong.id)
    decision = decided_on(world, live=[right], revoked=[wrong])
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert verdicts(decision) == [Verdict.ACCEPTED, Verdict.STALE]


def test_a_revoked_correction_clears_nobody(world: Any) -> None:
    positive = world.attestation(world.test(2, "POSITIVE"))
    bought = world.attestation(world.test(2), supersedes=positive.id)
    vaccinated = world.attestation(fact(world, "dose 2/2"))
    decision = decided_on(world, live=[positive, vaccinated], revoked=[bought])
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"
    assert Verdict.STALE not in verdicts(decision)


def test_a_chain_of_corrections_holds_where_the_corrected_are_revoked_besides(world: Any) -> None:
    first = world.attestation(world.test(2))
    second = world.attestation(world.test(2, "INCONCLUSIVE"), supersedes=first.id)
    third = world.attestation(world.test(2, "INCONCLUSIVE"), supersedes=second.id)
    decision = decided_on(world, live=[first, third], revoked=[second])
    assert verdicts(decision) == [
        Verdict.STALE,
        Verdict.NOT_RECOGNIZED_BY_RULE,
        Verdict.STALE,
    ]
    assert decision.outcome is Outcome.NOT_RECOGNIZED


def test_a_revoked_status_replaces_no_older_one(world: Any) -> None:
    red, green = world.attestation(world.status("RED", 9)), world.attestation(world.status("GREEN"))
    newer = world.attestation(world.status("GREEN", 2))
    decision = decided_on(world, live=[red], revoked=[newer])
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"
    # But an older one that was revoked is told as replaced.
    assert verdicts(decided_on(world, live=[newer], revoked=[green])) == [
        Verdict.ACCEPTED,
        Verdict.STALE,
    ]


def test_live_and_revoked_together_are_more_than_a_province_may_send(world: Any) -> None:
    half = MOST_PER_PROVINCE // 2
    live = [world.signed(world.test(2 + n / 60)) for n in range(half)]
    revoked = [world.signed(world.test(9 + n / 60)) for n in range(half)]
    decision = decide(world, Reply(SICHUAN, live, revoked=revoked))
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert decision.answers[0].attestations == MOST_PER_PROVINCE
    decision = decide(world, Reply(SICHUAN, live, revoked=[*revoked, world.signed()]))
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert len(decision.evidence) == MOST_PER_PROVINCE


# What was not asked just now.


def test_an_answer_of_before_counts_as_one(world: Any) -> None:
    as_of = world.now - HOUR
    decision = decide(world, replace(reply(world, SICHUAN, "negative 2h"), as_of=as_of))
    assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
    assert states(decision) == {SICHUAN: AnswerState.CACHED}
    assert decision.answers[0].as_of == as_of
    only_revoked = Reply(SICHUAN, [], revoked=[world.signed()], as_of=as_of)
    assert states(decide(world, only_revoked)) == {SICHUAN: AnswerState.CACHED}


def test_no_record_by_a_filter_says_as_of_when(world: Any) -> None:
    as_of = world.now - SECOND
    decision = decide(world, Reply(SICHUAN, [], as_of=as_of), Reply(HUBEI, [], calls=1))
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED NO_RECORD"
    assert set(states(decision).values()) == {AnswerState.NO_RECORD}
    assert [answer.as_of for answer in decision.answers] == [as_of, None]


def test_an_answer_of_before_that_does_not_verify_is_not_trusted(world: Any) -> None:
    forged = world.sign(world.attestation(), PrivateKey.generate(Algorithm.ES256))
    decision = decide(world, Reply(SICHUAN, [forged], as_of=world.now))
    assert states(decision) == {SICHUAN: AnswerState.UNTRUSTED}
    assert decision.outcome is Outcome.NOT_RECOGNIZED


def test_a_province_that_was_not_called_for_its_failures_is_silent(world: Any) -> None:
    shut = Reply(HUBEI, None, circuit_open=True)
    decision = decide(world, reply(world, SICHUAN, "negative 2h"), shut)
    assert concluded(decision) == "INDETERMINATE UNSPECIFIED UNAVAILABLE"
    assert states(decision)[HUBEI] is AnswerState.UNREACHABLE
    red = decide(world, reply(world, SICHUAN, "red 2h"), shut)
    assert concluded(red) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"


def test_the_view_says_how_each_answer_came(world: Any) -> None:
    as_of = world.now.replace(microsecond=999_999)
    sent = [
        Reply(GUANGDONG, []),
        Reply(HUBEI, None, calls=2, circuit_open=True),
        Reply(SICHUAN, [world.signed()], as_of=as_of),
    ]
    own, hubei, sichuan = views.decision_to_proto(decide(world, *sent)).answers
    assert (own.calls, own.circuit_open, own.HasField("as_of_time")) == (0, False, False)
    assert (hubei.calls, hubei.circuit_open, hubei.HasField("as_of_time")) == (2, True, False)
    assert sichuan.state == pb.ANSWER_STATE_CACHED
    assert (sichuan.as_of_time.seconds, sichuan.as_of_time.nanos) == (int(as_of.timestamp()), 0)


# Corrections and newer statuses.


def test_what_its_issuer_corrected_is_set_aside(world: Any) -> None:
    wrong = world.attestation(world.test(2, "POSITIVE"))
    right = world.signed(world.test(2), supersedes=wrong.id)
    for sent in ([world.sign(wrong), right], [right, world.sign(wrong)]):
        decision = decide(world, Reply(SICHUAN, sent))
        assert concluded(decision) == "RECOGNIZED GREEN ACCEPTED"
        assert sorted(verdicts(decision)) == [Verdict.ACCEPTED, Verdict.STALE]


def test_a_chain_of_corrections_leaves_the_last(world: Any) -> None:
    first = world.attestation(world.test(2))
    second = world.attestation(world.test(2, "POSITIVE"), supersedes=first.id)
    third = world.attestation(world.test(2), supersedes=second.id)
    decision = decide(world, Reply(SICHUAN, [world.sign(a) for a in (third, first, second)]))
    assert verdicts(decision) == [Verdict.ACCEPTED, Verdict.STALE, Verdict.STALE]
    assert decision.colour is Colour.GREEN


def test_nobody_else_may_correct_an_attestation(world: Any) -> None:
    positive = world.attestation(world.test(2, "POSITIVE"))
    by_other_lab = world.signed(supersedes=positive.id, issuer=world.other_lab)
    by_other_province = world.signed(supersedes=positive.id, province=HUBEI)
    forged = world.sign(
        world.attestation(supersedes=positive.id), PrivateKey.generate(Algorithm.ES256)
    )
    ended = world.signed(supersedes=positive.id, expires_at=world.now)
    of_another_holder = world.sign(foreign(world, supersedes=positive.id))
    decision = decide(
        world,
        Reply(SICHUAN, [world.sign(positive), by_other_lab, forged, ended, of_another_holder]),
        Reply(HUBEI, [by_other_province]),
    )
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"
    assert Verdict.STALE not in verdicts(decision)


def test_two_that_correct_each_other_are_both_set_aside(world: Any) -> None:
    one, two = world.id(), world.id()
    sent = [world.signed(id=one, supersedes=two), world.signed(id=two, supersedes=one)]
    decision = decide(world, Reply(SICHUAN, sent))
    assert concluded(decision) == "NOT_RECOGNIZED UNSPECIFIED STALE"


def test_the_newest_status_of_an_issuer_replaces_its_older_ones(world: Any) -> None:
    sent = [world.signed(world.status(c, h)) for c, h in (("RED", 9), ("GREEN", 2), ("YELLOW", 5))]
    decision = decide(world, Reply(SICHUAN, sent))
    assert verdicts(decision) == [Verdict.STALE, Verdict.ACCEPTED, Verdict.STALE]
    assert decision.colour is Colour.GREEN


def test_a_newer_status_of_another_issuer_or_province_replaces_nothing(world: Any) -> None:
    red = world.signed(world.status("RED", 9))
    green = {"fact": world.status("GREEN", 2)}
    here = [red, world.signed(**green, issuer=world.other_lab)]
    there = [world.signed(**green, province=HUBEI)]
    decision = decide(world, Reply(SICHUAN, here), Reply(HUBEI, there))
    assert concluded(decision) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"
    assert Verdict.STALE not in verdicts(decision)


def test_of_two_statuses_of_one_moment_both_count(world: Any) -> None:
    sent = [world.signed(world.status(colour, 2)) for colour in ("GREEN", "RED")]
    decision = decide(world, Reply(SICHUAN, sent))
    assert decision.colour is Colour.RED


def test_a_newer_status_that_has_ended_replaces_nothing(world: Any) -> None:
    red = world.signed(world.status("RED", 9))
    green = world.signed(world.status("GREEN", 5), expires_at=world.now - HOUR)
    assert decide(world, Reply(SICHUAN, [red, green])).colour is Colour.RED


def test_a_newer_test_does_not_replace_an_older_one(world: Any) -> None:
    decision = decide(world, reply(world, SICHUAN, "positive 40h, negative 2h"))
    assert decision.colour is Colour.RED


# Anything at all.


EXTREMES = st.sampled_from([-(1 << 64), -1, 0, 1 << 32, 1 << 63, 253402300799, 253402300800])


@given(st.data())
@settings(max_examples=100)
def test_whatever_a_province_signs_there_is_a_decision_and_its_view(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    sent = []
    for _ in range(data.draw(st.integers(1, 3))):
        made = data.draw(facts)
        attestation = world.attestation(made, issued_at=world.now)
        claims = cbor.decode_map(attestations.encode(attestation))
        claims[4] = int(world.now.timestamp()) + 60
        for name in data.draw(
            st.lists(st.sampled_from(["dose", "doses", "sampled_at", "result_at"]))
        ):
            claims[-70001][name] = data.draw(EXTREMES)
        typ = cose.ObjectType.ATTESTATION
        sent.append(cose.sign(cbor.encode(claims), world.keys[SICHUAN], typ))
    decision = decide(world, Reply(SICHUAN, sent))
    assert len(views.decision_to_proto(decision).evidence) == len(decision.evidence)


@given(st.lists(st.binary(max_size=80), max_size=5), st.data())
def test_whatever_a_province_sends_there_is_a_decision(
    world: Any, junk: list[bytes], data: st.DataObject
) -> None:
    signed = bytearray(world.signed())
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] ^= data.draw(st.integers(1, 255))
    decision = decide(world, Reply(SICHUAN, [*junk, bytes(signed)]))
    assert decision.outcome is Outcome.NOT_RECOGNIZED
    assert Verdict.ACCEPTED not in verdicts(decision)


SAYINGS = st.lists(
    st.sampled_from(
        [
            "negative 2h",
            "negative 90h",
            "positive 9h",
            "inconclusive 1h",
            "dose 2/2",
            "dose 1/2",
            "red 5h",
            "yellow 3h",
            "green 1h",
            "green 20h",
            "unspecified 1h",
        ]
    ),
    max_size=4,
).map(", ".join)


@given(SAYINGS, SAYINGS, st.data())
@settings(max_examples=60)
def test_what_is_revoked_never_satisfies_a_rule(
    world: Any, live: str, revoked: str, data: st.DataObject
) -> None:
    sent, ended = reply(world, SICHUAN, live), reply(world, SICHUAN, revoked)
    both = [each for each in ended.signed or () if data.draw(st.booleans())]
    sent = replace(sent, signed=[*(sent.signed or ()), *both], revoked=ended.signed)
    decision = decide(world, sent)
    ids = {
        piece.attestation.id
        for piece in decision.evidence
        if piece.signed in sent.revoked and piece.attestation
    }
    assert not ids & {each for said in decision.rules for each in said.satisfied_by}
    assert all(
        piece.verdict in (Verdict.REVOKED, Verdict.STALE)
        for piece in decision.evidence
        if piece.signed in sent.revoked
    )


@given(*[st.just(SILENT) | SAYINGS] * 2)
@settings(max_examples=60)
def test_green_needs_a_satisfied_rule_and_every_answer_and_nothing_worse(
    world: Any, sichuan: str, hubei: str
) -> None:
    decision = decide(world, reply(world, SICHUAN, sichuan), reply(world, HUBEI, hubei))
    satisfied = {said.rule.colour for said in decision.rules if said.satisfied_by}
    unheard = AnswerState.UNREACHABLE in states(decision).values()
    green = satisfied == {Colour.GREEN} and not unheard
    assert (decision.colour is Colour.GREEN) == green
    assert (decision.outcome is Outcome.RECOGNIZED) == green
    assert (decision.verdict is Verdict.ACCEPTED) == green
    assert (decision.colour is Colour.RED) == (Colour.RED in satisfied)


def test_no_repr_holds_the_signed_bytes_or_the_token(world: Any) -> None:
    sent = reply(world, SICHUAN, "negative 2h")
    decision = decide(world, sent)
    for shown in (repr(sent), repr(decision), repr(decision.evidence[0])):
        assert "signed" not in shown
        assert "token" not in shown
