"""What is remembered of attestations and decisions changes nothing: not an answer, not a byte."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruling import rule

from exchange import views, wire
from exchange.attestations import LIFE, AttestationVerifier
from exchange.facts import Fact
from exchange.recognition import Decision, Reply, recognize
from exchange.rules import RuleBook
from exchange.statuslist import StatusReference
from exchange.trust.profile import KeyState
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
GREEN, TOO_OLD = "RECOGNIZED GREEN ACCEPTED", "NOT_RECOGNIZED UNSPECIFIED NOT_RECOGNIZED_BY_RULE"

TESTS = "NUCLEIC_ACID_TEST ANTIGEN_TEST"


NEGATIVE_48H = rule(
    "negative-48h",
    TESTS,
    "GREEN",
    'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")',
)
_DAY = "2022-01-09T00:00:00Z"
CHANGING = (
    NEGATIVE_48H,
    rule("green", "HEALTH_CODE_STATUS", "GREEN", 'fact.colour == "GREEN"'),
    rule("breaks", TESTS, "GREEN", f'1 / (fact.sampled_at > timestamp("{_DAY}") ? 0 : 1) == 2'),
    rule("later", TESTS, "YELLOW", 'now - duration("60h") > fact.sampled_at'),
    rule("result", TESTS, "GREEN", 'has(fact.result_at) && fact.result_at + duration("7h") >= now'),
    rule("fixed", TESTS, "RED", 'now >= timestamp("2022-01-12T00:00:00Z")'),
    rule(
        "one", TESTS, "YELLOW", 'now == fact.sampled_at || now - fact.sampled_at == duration("9h")'
    ),
    rule("begins", TESTS, "GREEN", "true", valid_from="2022-01-11T00:00:00+08:00"),
    rule("ends", TESTS, "GREEN", "true", valid_until="2022-01-10T23:00:00.000001+08:00"),
)
"""Their answers change at times of the fact and at fixed ones, and at nothing else."""
UNSTEADY = rule("by-day", TESTS, "YELLOW", "now.getHours() < 12")
STEADY, RESTLESS = RuleBook(CHANGING), RuleBook((*CHANGING, UNSTEADY))


def plain(decision: Decision, receipt: bytes = b"") -> bytes:
    """A decision's message as the protobuf library makes it of its values."""
    return pb.Decision(
        outcome=f"OUTCOME_{decision.outcome}",
        colour=f"COLOUR_{decision.colour}",
        verdict=f"VERDICT_{decision.verdict}",
        reason=text(decision.reason),
        rules=[
            pb.RuleVerdict(
                rule_id=said.rule.id,
                colour=f"COLOUR_{said.rule.colour}",
                satisfied=bool(said.satisfied_by),
                attestation_ids=map(str, said.satisfied_by),
                reason=text(said.rule.reason),
                failed=said.failed,
            )
            for said in decision.rules
        ],
        evidence=[
            pb.Evidence(
                attestation=views.attestation_to_proto(piece.signed, piece.attestation),
                verdict=f"VERDICT_{piece.verdict}",
                sent_by=piece.sent_by,
            )
            for piece in decision.evidence
        ],
        answers=[
            pb.ProvinceAnswer(
                province=answer.province,
                state=f"ANSWER_STATE_{answer.state}",
                attestations=answer.attestations,
                as_of_time=views.time_to_proto(answer.as_of) if answer.as_of else None,
                calls=answer.calls,
                circuit_open=answer.circuit_open,
            )
            for answer in decision.answers
        ],
        province=decision.province,
        trust_version=decision.trust_version,
        decide_time=views.time_to_proto(decision.decided_at),
        rules_digest=decision.rules_digest,
        remedies=map(views.remedy_to_proto, decision.remedies),
        receipt=receipt,
    ).SerializeToString()


def text(words: Any) -> types_pb2.LocalText:
    return types_pb2.LocalText(zh=words.zh, en=words.en)


def times_of(fact: Fact) -> list[datetime]:
    """The times at which something may change, and a little before and after each."""
    named = [fact.sampled_at, getattr(fact, "result_at", None)]
    changes = [datetime(2022, 1, 10, 15, 0, 0, 1, UTC), datetime(2022, 1, 12, tzinfo=UTC)]
    changes.append(datetime(2022, 1, 10, 16, tzinfo=UTC))
    changes += [at + h * HOUR for at in named if at for h in (0, 7, 9, 12, 48, 60, 336)]
    return [at + step for at in changes for step in (-MICROSECOND, 0 * HOUR, MICROSECOND, HOUR)]


@settings(max_examples=40)
@given(st.data())
def test_what_is_remembered_is_decided_as_if_it_had_just_come(world: Any, data: Any) -> None:
    hours = st.floats(0.5, 80)
    tests = [
        world.test(data.draw(hours), data.draw(st.sampled_from(["NEGATIVE", "POSITIVE"])))
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    facts: list[Fact] = [*tests, *data.draw(st.lists(st.just(world.status("GREEN")), max_size=1))]
    # Its first second: what is signed has whole seconds.
    facts = [type(f)(f.sampled_at.replace(microsecond=0), *rest(f)) for f in facts]
    signed = [world.signed(fact) for fact in facts]
    verifier = AttestationVerifier()
    moments = st.sampled_from([at for fact in facts for at in times_of(fact)])
    revoking = st.booleans()
    hubei = Reply(HUBEI, [], as_of=world.now)  # the same object, while no more is heard of it
    for _ in range(8):
        rules = data.draw(st.sampled_from([STEADY, RESTLESS]))
        sent = Reply(SICHUAN, signed, revoked=signed[:1] if data.draw(revoking) else ())
        known: dict[str, Any] = {
            "tokens": [world.token],
            "province": GUANGDONG,
            "rules": rules,
            "trust": world.trust(
                p510000=data.draw(st.sampled_from([KeyState.ACTIVE, KeyState.REVOKED])),
                without=data.draw(st.sampled_from(["", HUBEI])),
            ),
            "now": data.draw(moments),
            "explain": rules is STEADY,  # of the other it takes long to say
        }
        decided = views_of([sent, hubei], verifier=verifier, **known)
        afresh = [replace(sent), replace(hubei)]
        assert decided == views_of(afresh, verifier=AttestationVerifier(), **known)


def rest(fact: Any) -> list[Any]:
    """What a fact says besides when it was sampled."""
    return [getattr(fact, name) for name in fact.__slots__ if name != "sampled_at"]


def views_of(replies: list[Reply], **known: Any) -> tuple[Decision, bytes]:
    decision = recognize(replies, **known)
    sent = views.decision_to_wire(decision, b"a receipt")
    assert sent == plain(decision, b"a receipt")
    assert views.decision_to_wire(decision) == plain(decision)
    return decision, sent


@given(st.integers(0, 1 << 63), st.integers(1, 15), st.binary(min_size=1))
def test_a_field_is_written_as_the_library_writes_it(value: int, number: int, data: bytes) -> None:
    assert pb.Decision.FromString(b"\x48" + wire.varint(value)).trust_version == value
    assert wire.embedded(1, data) == types_pb2.Attestation(signed=data).SerializeToString()
    assert wire.embedded(number, data)[0] == number << 3 | 2
    long = data * (1 << 14)
    assert wire.embedded(1, long) == types_pb2.Attestation(signed=long).SerializeToString()


# Between two calls, something changes.


class Gate:
    """Decides on one holder, call after call, with one memory."""

    def __init__(self, world: Any, *rules: dict[str, Any]) -> None:
        place = StatusReference(SICHUAN, 12, 588)
        self.known: dict[str, Any] = {
            "tokens": [world.token],
            "province": GUANGDONG,
            "rules": RuleBook(rules or CHANGING[:2]),
            "trust": world.trust(),
            "verifier": AttestationVerifier(),
            "now": world.now,
        }
        self.test = world.test(12)
        self.sent = world.signed(self.test, status=place)

    def concludes(self, **changes: Any) -> str:
        sent = [Reply(SICHUAN, [bytes(bytearray(self.sent))])]  # as each read of a store gives it
        decision = recognize(sent, **{**self.known, **changes})
        assert views.decision_to_wire(decision) == plain(decision)
        return f"{decision.outcome} {decision.colour} {decision.verdict}"


@pytest.fixture
def gate(world: Any) -> Gate:
    gate = Gate(world)
    assert gate.concludes() == GREEN
    assert gate.concludes() == GREEN
    return gate


def test_a_key_that_is_revoked_between_two_calls_is_refused(world: Any, gate: Gate) -> None:
    trust = world.trust(version=2, p510000=KeyState.REVOKED)
    assert gate.concludes(trust=trust) == "NOT_RECOGNIZED UNSPECIFIED UNKNOWN_ISSUER"
    assert gate.concludes() == GREEN


def test_a_key_that_is_tainted_between_two_calls_is_refused(world: Any, gate: Gate) -> None:
    trust = world.trust(version=2, p510000=KeyState.TAINTED, since=world.now - 20 * HOUR)
    assert gate.concludes(trust=trust) == "NOT_RECOGNIZED UNSPECIFIED UNKNOWN_ISSUER"


def test_a_province_that_leaves_between_two_calls_is_refused(world: Any, gate: Gate) -> None:
    trust = world.trust(version=2, without=SICHUAN)
    assert gate.concludes(trust=trust) == "NOT_RECOGNIZED UNSPECIFIED NO_RECORD"


def test_a_province_without_a_record_that_leaves_between_two_calls_is_not_trusted(
    world: Any, gate: Gate
) -> None:
    nothing = Reply(HUBEI, [], as_of=world.now)
    states = []
    for trust in (world.trust(), world.trust(version=2, without=HUBEI), world.trust(version=3)):
        (answer,) = recognize([nothing], **{**gate.known, "trust": trust}).answers
        states.append(answer.state)
    assert states == ["NO_RECORD", "UNTRUSTED", "NO_RECORD"]


def test_a_status_bit_that_is_set_between_two_calls_refuses(gate: Gate) -> None:
    assert gate.concludes(revoked=lambda _: True) == "NOT_RECOGNIZED UNSPECIFIED REVOKED"


def test_an_attestation_that_ends_between_two_calls_is_refused(world: Any) -> None:
    gate = Gate(world, rule("any", TESTS, "GREEN", "true"))
    assert gate.concludes() == GREEN
    ends = gate.test.sampled_at + LIFE[gate.test.kind]
    assert gate.concludes(now=ends - MICROSECOND) == GREEN
    assert gate.concludes(now=ends) == "NOT_RECOGNIZED UNSPECIFIED EXPIRED"


def test_an_attestation_is_refused_before_its_time_though_it_was_taken_later(
    world: Any, gate: Gate
) -> None:
    before = world.now - 12 * HOUR
    assert gate.concludes(now=before) == "NOT_RECOGNIZED UNSPECIFIED BAD_SIGNATURE"


def test_another_holders_attestation_is_refused_though_it_was_taken(gate: Gate) -> None:
    assert gate.concludes(tokens=[bytes(36)]) == "NOT_RECOGNIZED UNSPECIFIED BAD_SIGNATURE"


def test_a_test_that_grows_too_old_between_two_calls_is_refused(gate: Gate) -> None:
    ends = gate.test.sampled_at + 48 * HOUR
    assert gate.concludes(now=ends) == GREEN
    assert gate.concludes(now=ends + MICROSECOND) == TOO_OLD
    assert gate.concludes(now=ends - MICROSECOND) == GREEN


def test_rules_that_change_between_two_calls_count_at_once(gate: Gate) -> None:
    stricter = {**NEGATIVE_48H, "when": NEGATIVE_48H["when"].replace("48h", "11h"), "version": 2}
    assert gate.concludes(rules=RuleBook([stricter])) == TOO_OLD
    assert gate.concludes() == GREEN


def test_a_rule_that_begins_between_two_calls_counts_at_once(world: Any) -> None:
    at = world.now + HOUR
    red = rule("red", TESTS, "RED", "true", valid_from=at.isoformat())
    gate = Gate(world, NEGATIVE_48H, red)
    assert gate.concludes(now=at - MICROSECOND) == GREEN
    assert gate.concludes(now=at) == "NOT_RECOGNIZED RED NOT_RECOGNIZED_BY_RULE"


def test_a_rule_that_ends_between_two_calls_counts_no_more(world: Any) -> None:
    at = world.now + HOUR
    gate = Gate(world, rule("any", TESTS, "GREEN", "true", valid_until=at.isoformat()))
    assert gate.concludes(now=at - MICROSECOND) == GREEN
    assert gate.concludes(now=at) == TOO_OLD


def test_a_rule_that_looks_at_the_clock_is_asked_each_time(world: Any) -> None:
    gate = Gate(world, rule("by-day", TESTS, "GREEN", "now.getHours() < 5"))
    assert gate.concludes() == GREEN
    assert gate.concludes(now=world.now + HOUR) == TOO_OLD


def test_one_that_is_too_large_to_be_remembered_is_decided_anew_each_time(world: Any) -> None:
    status = world.status("GREEN")
    verifier = AttestationVerifier()
    signed = world.signed(replace(status, local_status="绿" * 4000))
    first, second = (verifier.verify(signed, world.trust(), world.now) for _ in range(2))
    assert first == second
    assert first is not second
