from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from exchange import attestations, cbor, cose, views
from exchange.attestations import AttestationVerifier
from exchange.client import Client
from exchange.errors import BadSignatureError, InvalidFieldError, TongxingError, UnknownIssuerError
from exchange.facts import FACTS, Fact, Kind
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import Decision, Reply, recognize
from exchange.rules import RuleBook
from exchange.trust.profile import KeyState
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
GREEN = {
    "id": "green",
    "kinds": ["NUCLEIC_ACID_TEST"],
    "colour": "GREEN",
    "when": 'fact.result == "NEGATIVE"',
    "reason": {"zh": "核酸阴性", "en": "a negative test"},
    "valid_from": "2020-03-01T00:00:00Z",
}


def decide(world: Any, *replies: Reply) -> Decision:
    return recognize(
        replies,
        tokens=[world.token],
        province=GUANGDONG,
        rules=RuleBook([GREEN]),
        trust=world.trust(version=12),
        verifier=AttestationVerifier(),
        now=world.now,
    )


# Facts and times.


@given(st.data())
def test_every_fact_is_read_back_from_its_message(
    facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    fact = data.draw(facts)
    sent = views.fact_to_proto(fact).SerializeToString()
    message = types_pb2.Fact.FromString(sent)
    assert message.WhichOneof("kind") == fact.kind.value.lower()
    assert views.fact_from_proto(message) == fact


@given(st.data())
def test_claim_and_message_say_the_same(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    fact = data.draw(facts)
    attestation = world.attestation(fact, issued_at=world.now)
    read = attestations.decode(attestations.encode(attestation))
    assert views.attestation_to_proto(b"", read) == views.attestation_to_proto(b"", attestation)


def test_a_missing_fact_is_refused() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        views.fact_from_proto(types_pb2.Fact(), field="attestation.fact")
    assert caught.value.field == "attestation.fact"


@pytest.mark.parametrize("kind", Kind)
def test_a_fact_without_its_sampling_time_is_refused(kind: Kind) -> None:
    message = types_pb2.Fact()
    getattr(message, kind.value.lower()).SetInParent()
    with pytest.raises(InvalidFieldError) as caught:
        views.fact_from_proto(message)
    assert caught.value.field == f"fact.{kind.value.lower()}.sample_time"
    assert FACTS[kind].kind is kind


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - hypothesis wants its bounds so
def test_a_time_is_read_back_in_whole_seconds(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    read = views.time_from_proto(views.time_to_proto(time), field="x")
    assert read == time.replace(microsecond=0)
    assert read.tzinfo is UTC


@pytest.mark.parametrize("seconds", [-1, -(1 << 63), 253402300800, (1 << 63) - 1])
def test_a_time_outside_the_calendar_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        views.time_from_proto(Timestamp(seconds=seconds), field="attestation.expire_time")
    assert caught.value.field == "attestation.expire_time"


# Attestations and decisions.


def test_a_view_says_what_was_signed(world: Any) -> None:
    old = world.id()
    attestation = world.attestation(supersedes=old)
    view = views.attestation_to_proto(b"signed", attestation)
    assert view.signed == b"signed"
    assert (view.attestation_id, view.supersedes) == (str(attestation.id), str(old))
    assert (view.province, view.issuer.credit_code) == (SICHUAN, world.lab.credit_code)
    assert view.issuer.name == world.lab.name
    assert view.fact == views.fact_to_proto(attestation.fact)
    assert view.holder == types_pb2.MaskedHolder(
        name="胡*君",
        document_type="DOCUMENT_TYPE_RESIDENT_ID",
        document_number="51**************21",
    )
    assert view.issue_time.ToDatetime(UTC) == attestation.issued_at
    assert view.expire_time.ToDatetime(UTC) == attestation.expires_at
    assert view.data_as_of_time.ToDatetime(UTC) == attestation.data_as_of
    assert world.token not in view.SerializeToString()


def test_a_view_of_what_did_not_verify_is_the_bytes_alone() -> None:
    assert views.attestation_to_proto(b"x", None) == types_pb2.Attestation(signed=b"x")


def test_a_decision_is_viewed_whole(world: Any) -> None:
    attestation = world.attestation()
    signed = world.sign(attestation)
    decision = decide(world, Reply(SICHUAN, [signed, b"?"]), Reply(HUBEI, []))
    view = views.decision_to_proto(decision)
    text = types_pb2.LocalText(zh="核酸阴性", en="a negative test")
    assert view == pb.Decision(
        outcome=pb.OUTCOME_RECOGNIZED,
        colour=types_pb2.COLOUR_GREEN,
        verdict=pb.VERDICT_ACCEPTED,
        reason=text,
        rules=[
            pb.RuleVerdict(
                rule_id="green",
                colour=types_pb2.COLOUR_GREEN,
                satisfied=True,
                attestation_ids=[str(attestation.id)],
                reason=text,
            )
        ],
        evidence=[
            pb.Evidence(
                attestation=views.attestation_to_proto(signed, attestation),
                verdict=pb.VERDICT_ACCEPTED,
                sent_by=SICHUAN,
            ),
            pb.Evidence(
                attestation=types_pb2.Attestation(),
                verdict=pb.VERDICT_BAD_SIGNATURE,
                sent_by=SICHUAN,
            ),
        ],
        answers=[
            pb.ProvinceAnswer(province=SICHUAN, state=pb.ANSWER_STATE_UNTRUSTED, attestations=2),
            pb.ProvinceAnswer(province=HUBEI, state=pb.ANSWER_STATE_NO_RECORD),
        ],
        province=GUANGDONG,
        trust_version=12,
        rules_digest=decision.rules_digest,
        decide_time=views.time_to_proto(world.now),
    )


# A client never believes a view.


@pytest_asyncio.fixture
async def client(world: Any) -> AsyncIterator[Client]:
    key = PrivateKey.generate(Algorithm.ES256)
    async with Client(
        "127.0.0.1:1",
        province=GUANGDONG,
        certificate=world.certificate.encode(),
        key=key.to_pem(),
        trust=world.trust,
        clock=lambda: world.now,
    ) as made:
        yield made


def recognised(world: Any) -> pb.Decision:
    return views.decision_to_proto(decide(world, Reply(SICHUAN, [world.signed()])))


def test_a_decision_that_verifies_is_given_on(client: Client, world: Any) -> None:
    decision = recognised(world)
    assert client._checked(decision) is decision
    refusal = views.decision_to_proto(
        decide(world, Reply(SICHUAN, [b"?", world.signed(world.test(400))]), Reply(HUBEI, None))
    )
    assert client._checked(refusal) is refusal


VIEW_LIES: dict[str, Any] = {
    "another id": {"attestation_id": "018f0000-0000-7000-8000-000000000000"},
    "no id": {"attestation_id": ""},
    "an id that is none": {"attestation_id": "x"},
    "another province": {"province": HUBEI},
    "no fact": {"fact": types_pb2.Fact()},
    "another holder": {"holder": types_pb2.MaskedHolder(name="李*")},
    "a holder without a type": {"holder": types_pb2.MaskedHolder()},
    "another issuer": {"issuer": types_pb2.Issuer(name="x")},
    "a later end": {"expire_time": Timestamp(seconds=1 << 32)},
    "an impossible time": {"issue_time": Timestamp(seconds=-1)},
    "a fraction of a second": {"data_as_of_time": Timestamp(seconds=1, nanos=1)},
    "a correction": {"supersedes": "018f0000-0000-7000-8000-000000000000"},
}


@pytest.mark.parametrize("lie", VIEW_LIES)
def test_a_view_that_differs_from_its_bytes_is_refused(
    client: Client, world: Any, lie: str
) -> None:
    decision = recognised(world)
    view = decision.evidence[0].attestation
    for name, value in VIEW_LIES[lie].items():
        if isinstance(value, str):
            setattr(view, name, value)
        else:
            view.ClearField(name)
            getattr(view, name).CopyFrom(value)
    for check, message in ((client._verified, view), (client._checked, decision)):
        with pytest.raises(BadSignatureError) as caught:
            check(message)  # type: ignore[arg-type]
        assert caught.value.field == "attestation"


def test_a_result_that_was_turned_around_is_refused(client: Client, world: Any) -> None:
    decision = recognised(world)
    test = decision.evidence[0].attestation.fact.nucleic_acid_test
    for value in (types_pb2.TEST_RESULT_POSITIVE, types_pb2.TEST_RESULT_UNSPECIFIED, 99):
        test.result = value
        with pytest.raises(BadSignatureError):
            client._checked(decision)


def test_a_view_of_forged_bytes_is_refused(client: Client, world: Any) -> None:
    attestation = world.attestation()
    other = PrivateKey.generate(Algorithm.ES256)
    for by, error in ((other, UnknownIssuerError), (world.keys[HUBEI], BadSignatureError)):
        view = views.attestation_to_proto(world.sign(attestation, by), attestation)
        with pytest.raises(error):
            client._verified(view)
    with pytest.raises(TongxingError):
        client._verified(views.attestation_to_proto(b"", attestation))


@pytest.mark.parametrize("colour", [types_pb2.COLOUR_GREEN, types_pb2.COLOUR_UNSPECIFIED])
def test_green_without_evidence_is_refused(client: Client, world: Any, colour: Any) -> None:
    refusal = views.decision_to_proto(
        decide(world, Reply(SICHUAN, [world.signed(world.test(400))]))
    )
    for evidence in ([], list(refusal.evidence)):
        for outcome in (pb.OUTCOME_RECOGNIZED, pb.OUTCOME_NOT_RECOGNIZED):
            decision = pb.Decision(outcome=outcome, colour=colour, evidence=evidence)
            if outcome == pb.OUTCOME_RECOGNIZED or colour == types_pb2.COLOUR_GREEN:
                with pytest.raises(BadSignatureError) as caught:
                    client._checked(decision)
                assert caught.value.field == "decision"
            else:
                client._checked(decision)


def test_accepting_bytes_that_are_not_shown_is_refused(client: Client, world: Any) -> None:
    decision = recognised(world)
    signed = decision.evidence[0].attestation.signed
    decision.evidence[0].attestation.CopyFrom(types_pb2.Attestation(signed=signed))
    with pytest.raises(BadSignatureError):
        client._checked(decision)


def test_evidence_that_was_set_aside_carries_no_green(client: Client, world: Any) -> None:
    decision = recognised(world)
    decision.evidence[0].verdict = pb.VERDICT_STALE
    with pytest.raises(BadSignatureError):
        client._checked(decision)


def test_a_key_that_is_revoked_since_is_refused(world: Any, client: Client) -> None:
    decision = recognised(world)
    client._checked(decision)
    client._trust = lambda: world.trust(p510000=KeyState.REVOKED)
    with pytest.raises(UnknownIssuerError):
        client._checked(decision)


def test_what_a_later_node_adds_is_taken_out_and_the_rest_believed(
    client: Client, world: Any
) -> None:
    later = bytes([0xFA, 0x06, 1, 65])  # field 111
    claims = cbor.decode_map(attestations.encode(world.attestation()))
    claims[-70001]["method"] = "RT-PCR"
    typ = cose.ObjectType.ATTESTATION
    signed = cose.sign(cbor.encode(claims), world.keys[SICHUAN], typ)
    decision = views.decision_to_proto(decide(world, Reply(SICHUAN, [signed])))
    view = decision.evidence[0].attestation
    view.MergeFromString(later)
    view.fact.nucleic_acid_test.MergeFromString(later)
    assert later in decision.SerializeToString()
    assert later not in client._checked(decision).SerializeToString()


@given(st.data())
def test_a_view_of_any_fact_is_believed_as_it_was_signed(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    attestation = world.attestation(data.draw(facts), issued_at=world.now)
    signed = world.sign(attestation)
    view = views.attestation_to_proto(
        signed, attestations.decode(cose.parse(signed, cose.ObjectType.ATTESTATION).payload)
    )
    assert view == views.attestation_to_proto(signed, attestation)
