"""Health codes on real nodes: shown in one province, judged in another."""

from __future__ import annotations

import base64
import dataclasses
import signal
from datetime import UTC, datetime, timedelta
from uuid import UUID

import cbor2
import pytest
from waiting import freeze, heard, heard_from_all, is_recognised, until

from exchange import attestations, receipts
from exchange.attestations import Holder
from exchange.client import Purpose
from exchange.client.auditing import Accesses
from exchange.codes import hc1, healthcode
from exchange.codes.healthcode import CodeEvidence, HealthCode
from exchange.errors import (
    IndeterminateError,
    InvalidFieldError,
    MalformedObjectError,
    NoColourError,
    UnknownProvinceError,
)
from exchange.facts import Colour, NucleicAcidTest, TestResult
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import Document, DocumentType
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
CHECK, SHOW = Purpose.PURPOSE_ENTRY_CHECK, Purpose.PURPOSE_CODE_DISPLAY
GREEN = ("RECOGNIZED", "GREEN", "ACCEPTED")


def summary(said):
    return (
        pb.Outcome.Name(said.outcome).removeprefix("OUTCOME_"),
        types_pb2.Colour.Name(said.colour).removeprefix("COLOUR_"),
        pb.Verdict.Name(said.verdict).removeprefix("VERDICT_"),
    )


@pytest.fixture
async def sichuan(exchange, people):
    """The app of Sichuan, where the holders live; its node has heard from the others."""
    async with exchange.client(SICHUAN, "app") as app:
        await heard_from_all(app, people.document())
        yield app


@pytest.fixture
async def issuer(exchange):
    async with exchange.client(SICHUAN, "issuer") as client:
        yield client


@pytest.fixture
async def gate(exchange):
    """The app at a gate of Guangdong's."""
    async with exchange.client(GUANGDONG, "app") as app:
        yield app


async def shown(issuer, app, *facts, **options):
    """Publish some facts of one holder, and give the code that the app then shows."""
    for fact in facts:
        await issuer.publish(fact)
    issued = await app.issue_health_code(facts[0].document, SHOW, **options)
    return issued.health_code


def key_of(exchange, province):
    pem = (exchange.directory / province / "attestation-key.pem").read_bytes()
    return PrivateKey.from_pem(pem, None)


def made(province=SICHUAN, **changes):
    """A code as a province would make it: a fresh negative test, green."""
    now = datetime.now(UTC).replace(microsecond=0)
    fact = NucleicAcidTest(now - timedelta(hours=6), TestResult.NEGATIVE)
    id_ = UUID("01890000-0000-7000-8000-000000000001")
    code = HealthCode(
        id=id_,
        province=province,
        colour=Colour.GREEN,
        rule="nat-168h",
        reason=None,
        holder=Holder("张*", DocumentType.RESIDENT_ID, "51**************21"),
        evidence=(CodeEvidence(id_, province, fact, None),),
        issued_at=now,
        expires_at=now + timedelta(minutes=5),
    )
    return dataclasses.replace(code, **changes)


def text_of(code, key):
    return hc1.to_text(healthcode.sign(code, key))


# --- the path -------------------------------------------------------------------------------


async def test_a_code_of_sichuan_is_green_in_guangdong(issuer, sichuan, gate, people):
    tested = people.tested()
    code = await shown(issuer, sichuan, tested)
    answer = await gate.verify_health_code(code.text, CHECK)
    assert summary(answer) == GREEN
    assert answer.province == GUANGDONG
    assert answer.health_code == code
    assert code.province == SICHUAN
    assert [piece.attestation_id for piece in code.evidence] == [tested.attestation_id]
    assert [rule.rule_id for rule in answer.rules if rule.satisfied] == ["nat-48h"]
    assert code.expire_time.seconds - code.issue_time.seconds == 300


async def test_the_signed_bytes_are_judged_as_the_text_is(issuer, sichuan, gate, people):
    code = await shown(issuer, sichuan, people.tested())
    answer = await gate.verify_health_code(code.signed, CHECK)
    assert summary(answer) == GREEN
    assert answer.health_code.signed == code.signed


async def test_a_code_holds_neither_number_nor_name_nor_token(
    exchange, issuer, sichuan, people, epoch_key
):
    tested = people.tested()
    code = await shown(issuer, sichuan, tested)
    token = Document(DocumentType.RESIDENT_ID, tested.document.number).token(epoch_key(exchange))
    coded = base64.urlsafe_b64encode(token)
    for secret in (token, coded, tested.document.number.encode(), tested.holder_name.encode()):
        assert secret not in code.signed
    claims = cbor2.loads(cbor2.loads(code.signed).value[2])
    assert set(claims) == {1, 4, 6, 7, -70002, -70003}


async def test_a_green_at_home_is_not_sufficient(exchange, issuer, sichuan, gate, people):
    code = await shown(issuer, sichuan, people.tested(hours=60))
    answer = await gate.verify_health_code(code.text, CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "NOT_RECOGNIZED_BY_RULE")
    assert "48小时" in answer.reason.zh
    assert answer.remedies
    async with exchange.client(SHANGHAI, "app") as shanghai:
        assert summary(await shanghai.verify_health_code(code.text, CHECK)) == GREEN


async def test_a_green_at_home_is_necessary(issuer, sichuan, gate, people):
    red = people.coloured("RED")
    code = await shown(issuer, sichuan, red, people.tested(document=red.document))
    assert code.colour == types_pb2.COLOUR_RED
    assert code.reason.zh
    answer = await gate.verify_health_code(code.text, CHECK)
    assert summary(answer)[0] == "NOT_RECOGNIZED"
    assert answer.colour == types_pb2.COLOUR_RED


async def test_what_the_destination_asks_for_goes_into_the_code(
    issuer, sichuan, gate, people, hours_ago
):
    # Enough at home, five times over; Guangdong honours the oldest of all, and nothing else.
    examined = people.attested(
        types_pb2.Fact(
            medical_examination=types_pb2.MedicalExamination(
                sample_time=hours_ago(100), conclusion=types_pb2.FITNESS_FIT
            )
        )
    )
    tests = [people.tested(hours=hours, document=examined.document) for hours in range(60, 65)]
    code = await shown(issuer, sichuan, examined, *tests)
    assert examined.attestation_id not in {piece.attestation_id for piece in code.evidence}
    assert summary(await gate.verify_health_code(code.text, CHECK)) != GREEN
    issued = await sichuan.issue_health_code(examined.document, SHOW, destination=GUANGDONG)
    code = issued.health_code
    assert examined.attestation_id in {piece.attestation_id for piece in code.evidence}
    assert summary(await gate.verify_health_code(code.text, CHECK)) == GREEN


async def test_a_visitor_is_shown_a_code_by_the_province_that_is_visited(
    issuer, sichuan, gate, people
):
    tested = people.tested()
    await issuer.publish(tested)
    await heard(gate, tested.document, is_recognised)
    code = (await gate.issue_health_code(tested.document, SHOW)).health_code
    assert code.province == GUANGDONG
    assert code.evidence[0].province == SICHUAN
    assert summary(await gate.verify_health_code(code.text, CHECK)) == GREEN
    assert summary(await sichuan.verify_health_code(code.text, CHECK)) == GREEN


# --- no code --------------------------------------------------------------------------------


async def test_nobody_of_whom_nothing_is_known_is_given_a_code(sichuan, people):
    with pytest.raises(NoColourError) as caught:
        await sichuan.issue_health_code(people.document(), SHOW)
    assert caught.value.remedy


async def test_no_code_is_given_while_a_province_that_may_know_is_silent(
    exchange, sichuan, people, heard_of
):
    tested = await heard_of(exchange, sichuan, people.tested(), SHANGHAI)
    freeze(exchange.pid(SHANGHAI))
    try:
        with pytest.raises(IndeterminateError) as caught:
            await sichuan.issue_health_code(tested.document, SHOW)
    finally:
        exchange.signal(SHANGHAI, signal.SIGCONT)
    assert caught.value.retry_after
    await heard(sichuan, tested.document, is_recognised)
    await sichuan.issue_health_code(tested.document, SHOW)


async def test_a_destination_that_takes_no_part_is_refused(sichuan, people):
    with pytest.raises(UnknownProvinceError) as caught:
        await sichuan.issue_health_code(people.document(), SHOW, destination="110000")
    assert caught.value.field == "destination"


async def test_a_nonce_that_is_too_short_is_refused(sichuan, people):
    with pytest.raises(InvalidFieldError) as caught:
        await sichuan.issue_health_code(people.document(), SHOW, nonce=b"short")
    assert caught.value.field == "nonce"


# --- refusals -------------------------------------------------------------------------------


async def test_a_code_without_the_gates_nonce_is_refused(issuer, sichuan, gate, people):
    tested = people.tested()
    plain = await shown(issuer, sichuan, tested)
    wanted = b"gate 7, 12:01"
    for code in (plain.text, plain.signed):
        answer = await gate.verify_health_code(code, CHECK, nonce=wanted)
        assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "BAD_SIGNATURE")
    other = await sichuan.issue_health_code(tested.document, SHOW, nonce=b"gate 8, 12:01")
    answer = await gate.verify_health_code(other.health_code.text, CHECK, nonce=wanted)
    assert summary(answer)[2] == "BAD_SIGNATURE"
    made_for_it = await sichuan.issue_health_code(tested.document, SHOW, nonce=wanted)
    answer = await gate.verify_health_code(made_for_it.health_code.text, CHECK, nonce=wanted)
    assert summary(answer) == GREEN


async def test_a_code_whose_evidence_was_revoked_is_refused_everywhere(
    issuer, sichuan, gate, people
):
    tested = people.tested()
    code = await shown(issuer, sichuan, tested)
    assert summary(await gate.verify_health_code(code.text, CHECK)) == GREEN
    await issuer.revoke(UUID(tested.attestation_id), "录入错误")

    async def refused():
        said = await gate.verify_health_code(code.text, CHECK)
        return summary(said) != GREEN and said

    answer = await until("Guangdong has heard of it", refused)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "REVOKED")
    at_home = await sichuan.verify_health_code(code.text, CHECK)
    assert summary(at_home) == ("NOT_RECOGNIZED", "UNSPECIFIED", "REVOKED")


@pytest.mark.parametrize("colour", ["YELLOW", "RED"])
async def test_a_green_code_is_refused_where_it_was_issued_once_its_holder_is_not_green(
    issuer, sichuan, people, colour
):
    tested = people.tested()
    code = await shown(issuer, sichuan, tested)
    assert summary(await sichuan.verify_health_code(code.text, CHECK)) == GREEN
    assigned = people.coloured(colour, document=tested.document)
    await issuer.publish(assigned)
    answer = await sichuan.verify_health_code(code.text, CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", colour, "NOT_RECOGNIZED_BY_RULE")
    assert "本省现有记录" in answer.reason.zh
    assert [remedy.action for remedy in answer.remedies] == [pb.REMEDY_ACTION_APPEAL]
    # The gate learns the colour and the rule's words, and no more of the holder's data.
    status = assigned.fact.health_code_status
    said = str(answer) + answer.reason.zh
    for secret in (status.reason, status.guidance, assigned.attestation_id):
        assert secret not in said
    assert answer.health_code == code
    await issuer.revoke(UUID(assigned.attestation_id), "录入错误")
    assert summary(await sichuan.verify_health_code(code.text, CHECK)) == GREEN


async def test_a_picture_of_a_code_that_has_ended_is_refused(exchange, gate):
    now = datetime.now(UTC).replace(microsecond=0)
    old = made(issued_at=now - timedelta(minutes=6), expires_at=now - timedelta(minutes=1))
    answer = await gate.verify_health_code(text_of(old, key_of(exchange, SICHUAN)), CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "EXPIRED")


async def test_a_code_that_was_tampered_with_is_refused(exchange, gate):
    signed = bytearray(healthcode.sign(made(), key_of(exchange, SICHUAN)))
    signed[-1] ^= 1
    answer = await gate.verify_health_code(hc1.to_text(bytes(signed)), CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "BAD_SIGNATURE")
    assert not answer.health_code.health_code_id
    assert answer.health_code.signed == bytes(signed)


async def test_a_code_of_another_provinces_key_is_refused(exchange, gate):
    answer = await gate.verify_health_code(text_of(made(), key_of(exchange, SHANGHAI)), CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "BAD_SIGNATURE")


async def test_a_code_of_a_key_that_nobody_knows_is_refused(gate):
    stranger = PrivateKey.generate(Algorithm.ES256)
    answer = await gate.verify_health_code(text_of(made(), stranger), CHECK)
    assert summary(answer) == ("NOT_RECOGNIZED", "UNSPECIFIED", "UNKNOWN_ISSUER")


async def test_an_attestation_is_no_code(issuer, sichuan, gate, people):
    tested = people.tested()
    await issuer.publish(tested)
    decision = await sichuan.recognize(tested.document, CHECK)
    signed = decision.evidence[0].attestation.signed
    for shown_ in (signed, hc1.to_text(signed)):
        with pytest.raises(MalformedObjectError):
            await gate.verify_health_code(shown_, CHECK)


@pytest.mark.parametrize("text", ["hello", "HC1:", "HC1:###", "HC1:" + "0" * 2000])
async def test_what_is_no_code_at_all_is_an_error(gate, text):
    with pytest.raises(MalformedObjectError) as caught:
        await gate.verify_health_code(text, CHECK)
    assert caught.value.field == "text"


# --- receipts -------------------------------------------------------------------------------


async def test_a_receipt_of_a_judgement_names_the_code(exchange, issuer, sichuan, gate, people):
    code = await shown(issuer, sichuan, people.tested(hours=60))
    answer = await gate.verify_health_code(code.text, CHECK, receipt=True)
    receipt = receipts.verify(answer.receipt, exchange.trust(), datetime.now(UTC))
    assert receipt.province == GUANGDONG
    assert receipt.subject is receipts.Subject.HEALTH_CODE
    assert receipt.outcome == "NOT_RECOGNIZED"
    assert receipts.names(receipt, code.signed)
    assert not (await gate.verify_health_code(code.text, CHECK)).receipt


async def test_a_receipt_of_a_code_that_was_tampered_with_names_it(exchange, gate):
    signed = bytearray(healthcode.sign(made(), key_of(exchange, SICHUAN)))
    signed[-1] ^= 1
    answer = await gate.verify_health_code(bytes(signed), CHECK, receipt=True)
    receipt = receipts.verify(answer.receipt, exchange.trust(), datetime.now(UTC))
    assert receipts.names(receipt, bytes(signed))


async def test_receipts_of_decisions_name_their_evidence_and_nobody(
    exchange, issuer, sichuan, people, epoch_key
):
    tested = people.tested()
    await issuer.publish(tested)
    one = await sichuan.recognize(tested.document, CHECK, receipt=True)
    (many,) = await sichuan.recognize_all([tested.document], CHECK, receipt=True)
    signed = one.evidence[0].attestation.signed
    token = attestations.decode(cbor2.loads(signed).value[2]).token
    for decision in (one, many):
        receipt = receipts.verify(decision.receipt, exchange.trust(), datetime.now(UTC))
        assert receipts.names(receipt, signed)
        assert receipt.outcome == "RECOGNIZED"
        assert receipt.rules_digest == decision.rules_digest
        for secret in (token, base64.urlsafe_b64encode(token), "张".encode()):
            assert secret not in decision.receipt
    assert not (await sichuan.recognize(tested.document, CHECK)).receipt
    assert one.receipt != many.receipt


# --- the access log -------------------------------------------------------------------------


async def test_every_look_is_recorded_with_its_purpose(issuer, sichuan, people):
    tested = people.tested()
    await issuer.publish(tested)
    await sichuan.recognize(tested.document, CHECK)
    await sichuan.recognize_all([tested.document], Purpose.PURPOSE_TRAVEL_PLANNING)
    await sichuan.issue_health_code(tested.document, SHOW)
    page = await Accesses(sichuan).list(tested.document)
    assert [
        (access.method, access.purpose, access.answer) for access in reversed(page.accesses)
    ] == [
        ("Recognize", CHECK, "RECOGNIZED GREEN ACCEPTED"),
        ("BatchRecognize", Purpose.PURPOSE_TRAVEL_PLANNING, "RECOGNIZED GREEN ACCEPTED"),
        ("IssueHealthCode", SHOW, "RECOGNIZED GREEN ACCEPTED"),
    ]
    for access in page.accesses:
        assert access.caller.startswith("spiffe://510000.tongxing/app/")


async def test_a_code_that_was_refused_is_recorded_as_a_look(sichuan, people):
    stranger = people.document()
    with pytest.raises(NoColourError):
        await sichuan.issue_health_code(stranger, SHOW)
    (access,) = (await Accesses(sichuan).list(stranger)).accesses
    assert access.method == "IssueHealthCode"
    assert access.answer == "NOT_RECOGNIZED UNSPECIFIED NO_RECORD NO_COLOUR"


async def test_a_judgement_is_recorded_by_the_codes_id(exchange, issuer, sichuan, gate, people):
    code = await shown(issuer, sichuan, people.tested())
    await gate.verify_health_code(code.text, CHECK)
    async with exchange.client(GUANGDONG, "admin") as admin:
        page = await Accesses(admin).list()
    (access,) = [each for each in page.accesses if each.target == code.health_code_id]
    assert (access.method, access.purpose) == ("VerifyHealthCode", CHECK)
    assert access.answer == "RECOGNIZED GREEN ACCEPTED"
