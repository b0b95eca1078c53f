"""What may be contested, and what answers it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from exchange import appeals, receipts
from exchange.appeals import KEPT, Resolution, State
from exchange.errors import (
    AppealStateError,
    BadSignatureError,
    FutureTimeError,
    InvalidFieldError,
    MalformedObjectError,
    NotFoundError,
    OverloadedError,
    TongxingError,
    UnknownIssuerError,
    UnknownProvinceError,
)
from exchange.facts import Colour
from exchange.receipts import EvidenceDigest, Receipt, Subject
from exchange.recognition import Outcome, Verdict
from exchange.v1 import appeal_service_pb2 as pb
from exchange.v1 import types_pb2
from exchange.views import time_to_proto

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SALT = bytes(range(16))


def decided(world, province=SICHUAN, named=(), **changes):
    values = {
        "id": world.id(),
        "province": province,
        "subject": Subject.RECOGNITION,
        "outcome": Outcome.NOT_RECOGNIZED,
        "colour": Colour.RED,
        "verdict": Verdict.NOT_RECOGNIZED_BY_RULE,
        "decided_at": world.now,
        "rules_digest": bytes(32),
        "trust_version": 1,
        "said": (),
        "evidence": tuple(
            EvidenceDigest(SICHUAN, Verdict.NOT_RECOGNIZED_BY_RULE, receipts._digest(SALT, each))
            for each in named
        ),
        "answers": (),
        "salt": SALT,
        "issued_at": world.now,
    }
    return Receipt(**values | changes)


def signed(world, receipt, by=None):
    return receipts.sign(receipt, world.keys[by or receipt.province])


def request(world, *, attestation=True, **fields):
    values = {
        "appeal_id": str(world.id()),
        "document": types_pb2.IdentityDocument(type=1, number=world.number),
        "statement": "我从未去过该地 I was never there",
    }
    if attestation is True:
        attestation = pb.AttestationReference(province=SICHUAN, attestation_id=str(world.id()))
    if attestation:
        values["attestation"] = attestation
    return pb.FileAppealRequest(**values | fields)


def drafted(world, **fields):
    return appeals.draft(
        request(world, **fields), province=GUANGDONG, trust=world.trust(), now=world.now
    )


def of_decision(world):
    return drafted(world, attestation=False, receipt=signed(world, decided(world)))


# --- filing -----------------------------------------------------------------------------------


def test_an_attestation_is_contested_at_its_province(world):
    appeal = drafted(world)
    assert (appeal.province, appeal.answering_province) == (GUANGDONG, SICHUAN)
    assert appeal.state is State.FILED
    assert appeal.filed_at == world.now


def test_a_decision_is_contested_at_the_province_that_signed_its_receipt(world):
    appeal = of_decision(world)
    assert appeal.answering_province == SICHUAN
    assert appeal.attestation_id is None


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"appeal_id": "00000000-0000-4000-8000-000000000000"}, InvalidFieldError, "appeal_id"),
        ({"statement": " …—— "}, InvalidFieldError, "statement"),
        ({"statement": "长" * 501}, InvalidFieldError, "statement"),
        ({"attestation": False}, InvalidFieldError, "attestation"),
        ({"receipt": b"x" * 70_000}, MalformedObjectError, "receipt"),
        ({"receipt": b"nonsense"}, MalformedObjectError, "receipt"),
    ],
)
def test_a_filing_that_says_nothing_or_names_nothing_is_refused(world, changes, error, field):
    with pytest.raises(error) as refused:
        drafted(world, **changes)
    assert refused.value.field.startswith(field)


@pytest.mark.parametrize("between", ["", " ", "-", "·"])
def test_a_statement_that_holds_an_identity_number_is_refused_and_not_repeated(world, between):
    number = between.join((world.number[:6], world.number[6:14], world.number[14:]))
    with pytest.raises(InvalidFieldError) as refused:
        drafted(world, statement=f"我的号码是{number}，请更正")
    assert refused.value.field == "statement"
    assert world.number[:14] not in str(refused.value)


def test_an_attestation_of_a_province_that_is_not_in_the_list_is_refused(world):
    contested = pb.AttestationReference(province="310000", attestation_id=str(world.id()))
    with pytest.raises(UnknownProvinceError) as refused:
        drafted(world, attestation=contested)
    assert refused.value.field == "attestation.province"


def test_a_receipt_that_another_province_signed_in_its_name_is_refused(world):
    forged = signed(world, decided(world), by=HUBEI)
    with pytest.raises(BadSignatureError):
        drafted(world, attestation=False, receipt=forged)


def test_a_receipt_by_a_key_that_nobody_vouches_for_is_refused(world):
    receipt = signed(world, decided(world))
    with pytest.raises(UnknownIssuerError):
        appeals.draft(
            request(world, attestation=False, receipt=receipt),
            province=GUANGDONG,
            trust=world.trust(without=SICHUAN),
            now=world.now,
        )


def test_an_attestation_in_the_place_of_a_receipt_is_refused(world):
    with pytest.raises(MalformedObjectError):
        drafted(world, attestation=False, receipt=world.signed())


# --- brought by another province --------------------------------------------------------------


def brought(world, appeal, **changes):
    message = appeals.appeal_to_proto(appeal)
    for name, value in changes.items():
        if name.endswith("_time"):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return appeals.brought(message, by=GUANGDONG, province=SICHUAN, now=world.now)


def test_what_is_brought_is_what_was_filed(world):
    appeal = drafted(world)
    assert brought(world, appeal) == appeal


def test_state_delivery_and_answer_that_a_peer_tells_are_not_believed(world):
    appeal = drafted(world)
    answer = appeals.Answer(Resolution.REVOKED, "撤销", None, world.now)
    told = replace(appeal, delivered_at=world.now, answer=answer)
    assert brought(world, told) == appeal


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"province": HUBEI}, "appeal.province"),
        ({"province": "999999"}, "appeal.province"),
        ({"answering_province": HUBEI}, "appeal.answering_province"),
        ({"attestation_id": ""}, "appeal.attestation_id"),
        ({"attestation_id": "{0190}"}, "appeal.attestation_id"),
        ({"appeal_id": "x"}, "appeal.appeal_id"),
        ({"statement": ""}, "appeal.statement"),
        ({"statement": "长" * 501}, "appeal.statement"),
    ],
)
def test_what_a_peer_brings_amiss_is_refused(world, changes, field):
    with pytest.raises(InvalidFieldError) as refused:
        brought(world, drafted(world), **changes)
    assert refused.value.field == field


def test_an_appeal_from_the_future_or_from_before_all_that_is_kept_is_refused(world):
    appeal = drafted(world)
    with pytest.raises(FutureTimeError):
        brought(world, appeal, file_time=time_to_proto(world.now + timedelta(hours=1)))
    with pytest.raises(InvalidFieldError):
        brought(world, appeal, file_time=time_to_proto(world.now - KEPT))


def test_a_peer_that_brings_an_identity_number_is_refused(world):
    with pytest.raises(InvalidFieldError) as refused:
        brought(world, drafted(world), statement=f"号码{world.number}")
    assert world.number not in str(refused.value)


def check(world, appeal, contested=b""):
    appeals.check_receipt(
        appeal, world.trust(), world.now, contested=contested, field="appeal.receipt"
    )


def test_a_decision_of_another_province_is_not_answered_here(world):
    theirs = signed(world, decided(world, HUBEI))
    appeal = replace(of_decision(world), receipt=theirs)
    with pytest.raises(InvalidFieldError) as refused:
        check(world, appeal)
    assert refused.value.field == "appeal.receipt"


def test_a_receipt_must_name_the_contested_attestation(world):
    contested = world.signed()
    names = signed(world, decided(world, HUBEI, named=[contested]))
    other = signed(world, decided(world, HUBEI, named=[world.signed(world.status("RED"))]))
    appeal = drafted(world)
    check(world, replace(appeal, receipt=names), contested)
    check(world, replace(appeal, receipt=other))  # where the bytes are not at hand
    with pytest.raises(InvalidFieldError):
        check(world, replace(appeal, receipt=other), contested)


@pytest.mark.parametrize("changes", [{"subject": Subject.HEALTH_CODE}, {"omitted": 3}])
def test_a_receipt_that_cannot_name_it_may_go_with_the_appeal(world, changes):
    receipt = signed(world, decided(world, HUBEI, **changes))
    check(world, replace(drafted(world), receipt=receipt), world.signed())


# --- answers ----------------------------------------------------------------------------------


def answered(world, appeal, resolution, reason="已核实", **fields):
    message = pb.AppealAnswer(resolution=resolution, reason=reason, **fields)
    return appeals.answer_from_proto(appeal, message, answered_at=world.now, now=world.now)


def test_each_answer_answers_what_it_can(world):
    attestation, decision = drafted(world), of_decision(world)
    new = str(world.id())
    assert answered(world, attestation, 1, superseding_attestation_id=new).superseding
    assert answered(world, attestation, 2).resolution is Resolution.REVOKED
    assert answered(world, attestation, 4).resolution is Resolution.REJECTED
    assert answered(world, decision, 3).resolution is Resolution.UPHELD
    assert answered(world, decision, 4).resolution is Resolution.REJECTED


@pytest.mark.parametrize(("contests", "resolution"), [("decision", 2), ("attestation", 3)])
def test_an_answer_that_does_not_fit_what_is_contested_is_refused(world, contests, resolution):
    appeal = drafted(world) if contests == "attestation" else of_decision(world)
    with pytest.raises(AppealStateError) as refused:
        answered(world, appeal, resolution)
    assert refused.value.field == "answer.resolution"


@pytest.mark.parametrize("resolution", [0, 17, -1])
def test_an_answer_that_nobody_knows_is_refused(world, resolution):
    with pytest.raises(InvalidFieldError):
        answered(world, drafted(world), resolution)


def test_a_correction_without_a_new_attestation_is_refused(world):
    with pytest.raises(InvalidFieldError):
        answered(world, drafted(world), 1)
    with pytest.raises(InvalidFieldError):
        answered(world, drafted(world), 2, superseding_attestation_id=str(world.id()))


def test_a_reason_that_says_nothing_or_holds_a_number_is_refused(world):
    for reason in ("", "——", "长" * 501, f"{world.number}已核实"):
        with pytest.raises(InvalidFieldError) as refused:
            answered(world, drafted(world), 4, reason)
        assert refused.value.field == "answer.reason"


def test_only_what_supersedes_the_contested_attestation_corrects_it(world):
    appeal = drafted(world)
    appeals.check_correction(appeal, world.attestation(supersedes=appeal.attestation_id))
    for other in (None, world.id()):
        with pytest.raises(AppealStateError):
            appeals.check_correction(appeal, world.attestation(supersedes=other))
    with pytest.raises(AppealStateError):
        appeals.check_correction(of_decision(world), world.attestation())


# --- heard of ---------------------------------------------------------------------------------


def heard(world, appeal, told):
    return appeals.heard(appeal, appeals.appeal_to_proto(told), now=world.now)


def filed_before(world):
    return replace(drafted(world), filed_at=world.now - timedelta(hours=5))


def test_delivery_and_answer_are_taken_over_with_their_times(world):
    appeal = filed_before(world)
    hour = timedelta(hours=1)
    answer = appeals.Answer(Resolution.REVOKED, "采样混淆", None, world.now - hour)
    told = replace(appeal, delivered_at=world.now - 2 * hour, answer=answer)
    assert heard(world, appeal, told) == told


@pytest.mark.parametrize("hours", [-24 * 300, 24])
def test_times_that_cannot_be_are_this_nodes(world, hours):
    appeal = filed_before(world)
    at = world.now + timedelta(hours=hours)
    answer = appeals.Answer(Resolution.REJECTED, "属实", None, at)
    found = heard(world, appeal, replace(appeal, delivered_at=at, answer=answer))
    assert found.delivered_at == found.answer.answered_at == world.now


def test_what_was_heard_first_stays(world):
    appeal = filed_before(world)
    first = appeals.Answer(Resolution.REJECTED, "属实", None, world.now)
    second = replace(first, reason="另一答复")
    once = heard(world, appeal, replace(appeal, delivered_at=world.now, answer=first))
    assert heard(world, once, replace(once, answer=second)).answer == first


def test_words_on_another_appeal_are_refused(world):
    appeal = filed_before(world)
    with pytest.raises(MalformedObjectError):
        heard(world, appeal, replace(appeal, id=world.id()))


def test_an_answer_of_a_peer_that_is_none_is_refused(world):
    appeal = filed_before(world)
    for wrong, error in (
        (appeals.Answer(Resolution.UPHELD, "属实", None, world.now), AppealStateError),
        (appeals.Answer(Resolution.CORRECTED, "已更正", None, world.now), InvalidFieldError),
        (appeals.Answer(Resolution.REJECTED, world.number, None, world.now), InvalidFieldError),
        (appeals.Answer(Resolution.REJECTED, "长" * 9999, None, world.now), InvalidFieldError),
    ):
        with pytest.raises(error):
            heard(world, appeal, replace(appeal, answer=wrong))


def test_what_a_province_will_never_take_ends_in_our_words(world):
    appeal = drafted(world)
    ended = appeals.not_taken(appeal, NotFoundError("胡小君 has none"), now=world.now)
    assert ended.resolution is Resolution.REJECTED
    assert "四川" in ended.reason
    assert "胡小君" not in ended.reason
    for passing in (OverloadedError(""), UnknownIssuerError(""), FutureTimeError("")):
        assert appeals.not_taken(appeal, passing, now=world.now) is None


# --- messages ---------------------------------------------------------------------------------


def test_an_appeal_survives_its_message(world):
    appeal = of_decision(world)
    answer = appeals.Answer(Resolution.UPHELD, "误判", None, world.now)
    for each in (
        drafted(world),
        appeal,
        replace(appeal, delivered_at=world.now),
        replace(appeal, delivered_at=world.now, answer=answer),
        replace(drafted(world), answer=replace(answer, superseding=world.id())),
    ):
        message = appeals.appeal_to_proto(each)
        assert pb.AppealState.Name(message.state) == f"APPEAL_STATE_{each.state}"
        assert appeals.appeal_from_proto(message) == each


def test_nothing_that_a_holder_says_is_in_a_representation(world):
    assert "never there" not in repr(drafted(world))


@given(data=st.binary(max_size=300))
def test_whatever_a_peer_sends_is_read_or_refused_in_words(world, data):
    message = pb.Appeal()
    with contextlib.suppress(DecodeError):  # what was read until then stays
        message.ParseFromString(data)
    for read in (
        lambda: appeals.brought(message, by=GUANGDONG, province=SICHUAN, now=world.now),
        lambda: appeals.heard(drafted(world), message, now=world.now),
    ):
        with contextlib.suppress(TongxingError):
            read()
