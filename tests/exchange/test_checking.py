"""A client believes no node: what it is told of health codes and receipts must verify."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from exchange import receipts, views
from exchange.attestations import CLOCK_SKEW, AttestationVerifier
from exchange.client.checking import Checker
from exchange.codes import base45, hc1, healthcode
from exchange.codes import views as code_views
from exchange.codes.healthcode import HealthCodeVerifier
from exchange.codes.judging import judge
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    TongxingError,
    UnknownIssuerError,
)
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import Decision, Reply, recognize
from exchange.rules import RuleBook
from exchange.statuslist import Status
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
RULES = RuleBook(
    [
        {
            "id": "green",
            "kinds": ["NUCLEIC_ACID_TEST"],
            "colour": "GREEN",
            "when": 'fact.result == "NEGATIVE"',
            "reason": {"zh": "核酸阴性", "en": "a negative test"},
            "valid_from": "2020-03-01T00:00:00Z",
        },
        {
            "id": "red",
            "kinds": ["NUCLEIC_ACID_TEST"],
            "colour": "RED",
            "when": 'fact.result == "POSITIVE"',
            "reason": {"zh": "核酸阳性", "en": "a positive test"},
            "valid_from": "2020-03-01T00:00:00Z",
        },
    ]
)
NONCE = b"gate 7, 12:01"


def checker(world: Any, trust: Any = None) -> Checker:
    return Checker(GUANGDONG, lambda: trust or world.trust(), lambda: world.now)


def decided(world: Any, *signed: bytes) -> Decision:
    return recognize(
        [Reply(SICHUAN, signed)],
        tokens=[world.token],
        province=GUANGDONG,
        rules=RULES,
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=world.now,
    )


def issued(
    world: Any, *, result: str = "NEGATIVE", by: PrivateKey | None = None, **changes: Any
) -> pb.IssueHealthCodeResponse:
    """What an honest node of Guangdong's answers, but for what is changed in the code."""
    decision = decided(world, world.signed(world.test(result=result)))
    code = healthcode.draft(decision, id=world.id(), now=world.now, nonce=NONCE)
    code = dataclasses.replace(code, **changes)
    signed = healthcode.sign(code, by or world.keys[GUANGDONG])
    return pb.IssueHealthCodeResponse(
        health_code=code_views.healthcode_to_proto(signed, code),
        decision=views.decision_to_proto(decision),
    )


def judged(
    world: Any,
    shown: str | bytes,
    *,
    receipt: bool = True,
    by: PrivateKey | None = None,
    **changes: Any,
) -> pb.VerifyHealthCodeResponse:
    """What an honest node of Guangdong's answers, but for what is changed in the receipt."""
    judgement = judge(
        shown,
        province=GUANGDONG,
        rules=RULES,
        trust=world.trust(),
        verifier=HealthCodeVerifier(),
        now=world.now,
        status=lambda _: Status.STALE,
    )
    answer = code_views.judgement_to_proto(judgement, shown)
    if receipt:
        made = receipts.of_judgement(
            judgement,
            judgement.signed,
            id=world.id(),
            province=GUANGDONG,
            now=world.now,
            salt=bytes(16),
        )
        made = dataclasses.replace(made, **changes)
        answer.receipt = receipts.sign(made, by or world.keys[GUANGDONG])
    return answer


# --- issuing --------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["NEGATIVE", "POSITIVE"])
def test_an_honest_code_is_given_on(world: Any, result: str) -> None:
    answer = issued(world, result=result)
    assert checker(world).issued(answer, NONCE) is answer


CODE_LIES: dict[str, Callable[[pb.HealthCode], None]] = {
    "another colour": lambda view: setattr(view, "colour", types_pb2.COLOUR_RED),
    "another rule": lambda view: setattr(view, "rule_id", "x"),
    "another holder": lambda view: setattr(view.holder, "name", "李*"),
    "another province": lambda view: setattr(view, "province", HUBEI),
    "another id": lambda view: setattr(view, "health_code_id", "x"),
    "a later end": lambda view: setattr(view.expire_time, "seconds", 1 << 32),
    "another nonce": lambda view: setattr(view, "nonce", b"12345678"),
    "a reason": lambda view: setattr(view.reason, "zh", "无"),
    "no evidence": lambda view: view.ClearField("evidence"),
    "another fact": lambda view: view.evidence[0].fact.recovery.sample_time.FromSeconds(1),
    "a status": lambda view: setattr(view.evidence[0].status, "index", 1),
    "another text": lambda view: setattr(view, "text", hc1.to_text(b"x")),
    "no text": lambda view: view.ClearField("text"),
    "a text that is none": lambda view: setattr(view, "text", "HC1:"),
    "other bytes": lambda view: setattr(view, "signed", b"x"),
    "no bytes": lambda view: view.ClearField("signed"),
}


@pytest.mark.parametrize("lie", CODE_LIES)
def test_a_view_that_differs_from_its_code_is_refused(world: Any, lie: str) -> None:
    answer = issued(world)
    CODE_LIES[lie](answer.health_code)
    with pytest.raises(TongxingError):
        checker(world).issued(answer, NONCE)


def test_a_code_packed_otherwise_is_the_same_code(world: Any) -> None:
    answer = issued(world)
    packed = zlib.compress(answer.health_code.signed, 1)
    answer.health_code.text = hc1.PREFIX + base45.encode(packed)
    assert checker(world).issued(answer, NONCE) is answer


@pytest.mark.parametrize("nonce", [b"", b"another one"])
def test_a_code_with_another_nonce_than_was_asked_for_is_refused(world: Any, nonce: bytes) -> None:
    with pytest.raises(BadSignatureError):
        checker(world).issued(issued(world), nonce)


def test_a_code_of_another_colour_than_the_decisions_is_refused(world: Any) -> None:
    red = issued(world, result="POSITIVE")
    green = issued(world)
    red.health_code.CopyFrom(green.health_code)
    with pytest.raises(BadSignatureError) as caught:
        checker(world).issued(red, NONCE)
    assert caught.value.field == "health_code.colour"


def test_a_code_signed_by_somebody_else_is_refused(world: Any) -> None:
    stranger = PrivateKey.generate(Algorithm.ES256)
    for by, error in ((stranger, UnknownIssuerError), (world.keys[HUBEI], BadSignatureError)):
        with pytest.raises(error):
            checker(world).issued(issued(world, by=by), NONCE)
    other = issued(world, by=world.keys[HUBEI], province=HUBEI)  # genuine, but not asked for
    with pytest.raises(BadSignatureError):
        checker(world).issued(other, NONCE)


def test_a_code_that_has_ended_is_refused(world: Any) -> None:
    ended = {
        "issued_at": world.now - timedelta(minutes=6),
        "expires_at": world.now - timedelta(minutes=1),
    }
    with pytest.raises(ExpiredError):
        checker(world).issued(issued(world, **ended), NONCE)


# --- decisions ------------------------------------------------------------------------------


def at_its_edge(world: Any) -> dict[str, bytes]:
    """What a province signs so that a node accepts it, and an app one second apart does not."""
    second = timedelta(seconds=1)
    ends = world.attestation(expires_at=world.now + second)
    ahead = world.attestation(
        world.test(hours_ago=-4 / 60), issued_at=world.now + CLOCK_SKEW, data_as_of=world.now
    )
    return {"later": world.sign(ends), "earlier": world.sign(ahead)}


@pytest.mark.parametrize("clock", ["later", "earlier"])
def test_a_province_cannot_break_a_decision_by_what_is_at_the_edge_of_its_time(
    world: Any, clock: str
) -> None:
    at_edge, genuine = at_its_edge(world)[clock], world.signed()
    apart = timedelta(seconds=1 if clock == "later" else -1)
    looks = Checker(GUANGDONG, world.trust, lambda: world.now + apart)
    made = decided(world, genuine, at_edge)
    assert [piece.verdict for piece in made.evidence] == ["ACCEPTED", "ACCEPTED"]
    decision = looks.decision(views.decision_to_proto(made))
    assert decision.outcome == pb.OUTCOME_RECOGNIZED
    kept, bare = (piece.attestation for piece in decision.evidence)
    assert kept.HasField("fact")
    assert bare == types_pb2.Attestation(signed=at_edge)
    # Nothing else speaks for it: no forgery, and no green either.
    with pytest.raises(ExpiredError if clock == "later" else FutureTimeError) as caught:
        looks.decision(views.decision_to_proto(decided(world, at_edge)))
    assert (caught.value.field, bool(caught.value.remedy)) == ("decision.evidence", True)


def test_a_green_without_any_evidence_that_verifies_is_refused(world: Any) -> None:
    made = views.decision_to_proto(decided(world, world.signed()))
    for piece in made.evidence:
        piece.attestation.CopyFrom(types_pb2.Attestation(signed=piece.attestation.signed))
    with pytest.raises(BadSignatureError, match="without verifiable evidence"):
        checker(world).decision(made)


# --- judging --------------------------------------------------------------------------------


def test_an_honest_judgement_is_given_on(world: Any) -> None:
    code = issued(world).health_code
    for shown in (code.text, code.signed):
        answer = judged(world, shown)
        assert answer.outcome == pb.OUTCOME_RECOGNIZED
        assert checker(world).judged(answer, shown, nonce=NONCE, receipt=True) is answer


def test_a_refusal_of_what_does_not_verify_is_given_on(world: Any) -> None:
    signed = issued(world, by=PrivateKey.generate(Algorithm.ES256)).health_code.signed
    answer = judged(world, signed)
    assert answer.verdict == pb.VERDICT_UNKNOWN_ISSUER
    assert checker(world).judged(answer, signed, receipt=True) is answer


def test_a_node_that_honours_what_does_not_verify_is_refused(world: Any) -> None:
    forged = issued(world, by=PrivateKey.generate(Algorithm.ES256)).health_code
    genuine = judged(world, issued(world).health_code.text, receipt=False)
    for view in (forged, pb.HealthCode(signed=forged.signed, text=forged.text)):
        answer = pb.VerifyHealthCodeResponse()
        answer.CopyFrom(genuine)
        answer.health_code.CopyFrom(view)
        with pytest.raises(UnknownIssuerError):
            checker(world).judged(answer, forged.text)


def test_an_answer_about_another_code_is_refused(world: Any) -> None:
    mine, other = issued(world).health_code, issued(world).health_code
    answer = judged(world, other.text)
    with pytest.raises(BadSignatureError):
        checker(world).judged(answer, mine.text)
    answer.health_code.text = mine.text
    with pytest.raises(BadSignatureError):
        checker(world).judged(answer, mine.text)


@pytest.mark.parametrize("lie", [lie for lie in CODE_LIES if "text" not in lie])
def test_a_view_that_differs_from_the_code_that_was_shown_is_refused(world: Any, lie: str) -> None:
    code = issued(world).health_code
    answer = judged(world, code.text)
    CODE_LIES[lie](answer.health_code)
    with pytest.raises(TongxingError):
        checker(world).judged(answer, code.text)


def test_honouring_a_code_without_the_gates_nonce_is_refused(world: Any) -> None:
    code = issued(world).health_code
    with pytest.raises(BadSignatureError) as caught:
        checker(world).judged(judged(world, code.text), code.text, nonce=b"another one")
    assert caught.value.field == "health_code.nonce"


def test_honouring_a_code_that_is_not_green_at_home_is_refused(world: Any) -> None:
    code = issued(world, result="POSITIVE").health_code
    answer = judged(world, code.text, receipt=False)
    answer.outcome = pb.OUTCOME_RECOGNIZED
    with pytest.raises(BadSignatureError) as caught:
        checker(world).judged(answer, code.text)
    assert caught.value.field == "health_code.colour"


def test_honouring_a_foreign_certificate_where_a_nonce_was_asked_for_is_refused(world: Any) -> None:
    text = hc1.to_text(b"\x84\x40\xa0\x40\x40")  # of no type of ours
    answer = pb.VerifyHealthCodeResponse(
        province=GUANGDONG,
        outcome=pb.OUTCOME_RECOGNIZED,
        health_code=pb.HealthCode(signed=b"\x84\x40\xa0\x40\x40", text=text, nonce=NONCE),
    )
    assert checker(world).judged(answer, text) is answer
    with pytest.raises(BadSignatureError) as caught:
        checker(world).judged(answer, text, nonce=NONCE)
    assert caught.value.field == "health_code.nonce"


def test_another_provinces_word_is_refused(world: Any) -> None:
    code = issued(world).health_code
    answer = judged(world, code.text)
    answer.province = HUBEI
    with pytest.raises(BadSignatureError) as caught:
        checker(world).judged(answer, code.text)
    assert caught.value.field == "province"


# --- receipts -------------------------------------------------------------------------------

RECEIPT_LIES: dict[str, dict[str, Any]] = {
    "another outcome": {
        "outcome": receipts.Outcome.NOT_RECOGNIZED,
        "colour": receipts.Colour.RED,
        "verdict": receipts.Verdict.NOT_RECOGNIZED_BY_RULE,
    },
    "other rules": {"rules_digest": bytes(32)},
    "another trust list": {"trust_version": 9},
    "another subject": {"subject": receipts.Subject.RECOGNITION},
    "no evidence": {"evidence": ()},
    "no evidence, as if there were too much": {"evidence": (), "omitted": 1},
    "other verdicts on the rules": {"said": ()},
    "a province that answered": {
        "answers": (receipts.ProvinceSaid(HUBEI, receipts.AnswerState.ANSWERED),)
    },
    "another salt": {"salt": bytes(range(16))},
}


@pytest.mark.parametrize("lie", RECEIPT_LIES)
def test_a_receipt_that_says_something_else_is_refused(world: Any, lie: str) -> None:
    code = issued(world).health_code
    answer = judged(world, code.text, **RECEIPT_LIES[lie])
    with pytest.raises(BadSignatureError) as caught:
        checker(world).judged(answer, code.text, receipt=True)
    assert caught.value.field == "receipt"


def test_a_receipt_of_another_time_is_refused(world: Any) -> None:
    code = issued(world).health_code
    earlier = world.now - timedelta(seconds=1)
    answer = judged(world, code.text, decided_at=earlier)
    with pytest.raises(BadSignatureError):
        checker(world).judged(answer, code.text, receipt=True)


def test_a_receipt_signed_by_somebody_else_is_refused(world: Any) -> None:
    code = issued(world).health_code
    stranger = PrivateKey.generate(Algorithm.ES256)
    for by, error in ((stranger, UnknownIssuerError), (world.keys[HUBEI], BadSignatureError)):
        with pytest.raises(error):
            checker(world).judged(judged(world, code.text, by=by), code.text, receipt=True)


def test_no_receipt_where_one_was_asked_for_is_refused(world: Any) -> None:
    code = issued(world).health_code
    with pytest.raises(TongxingError):
        checker(world).judged(judged(world, code.text, receipt=False), code.text, receipt=True)
    decision = views.decision_to_proto(decided(world, world.signed()))
    with pytest.raises(TongxingError):
        checker(world).decision(decision, receipt=True)


def test_a_receipt_of_a_decision_names_all_that_was_shown(world: Any) -> None:
    signed = world.signed()
    decision = decided(world, signed)
    view = views.decision_to_proto(decision)
    made = receipts.of_decision(
        decision, id=world.id(), province=GUANGDONG, now=world.now, salt=bytes(16)
    )
    view.receipt = receipts.sign(made, world.keys[GUANGDONG])
    assert checker(world).decision(view, receipt=True) is view
    (piece,) = made.evidence
    for evidence in (
        (),
        (dataclasses.replace(piece, verdict=receipts.Verdict.REVOKED),),
        (dataclasses.replace(piece, province=HUBEI),),
        (piece, piece),
    ):
        other = dataclasses.replace(made, evidence=evidence)
        view.receipt = receipts.sign(other, world.keys[GUANGDONG])
        with pytest.raises(BadSignatureError) as caught:
            checker(world).decision(view, receipt=True)
        assert caught.value.field == "receipt"


def test_a_word_of_a_later_version_in_place_of_a_verdict_is_refused(world: Any) -> None:
    decision = decided(world, world.signed())
    view = views.decision_to_proto(decision)
    made = receipts.of_decision(
        decision, id=world.id(), province=GUANGDONG, now=world.now, salt=bytes(16)
    )
    view.receipt = receipts.sign(made, world.keys[GUANGDONG])
    view.evidence[0].verdict = 99  # type: ignore[assignment]  # as the wire allows
    with pytest.raises(BadSignatureError):
        checker(world).decision(view, receipt=True)
