"""The main path: Sichuan attests, Guangdong and Shanghai decide, each by its own rules."""

from __future__ import annotations

import asyncio
import csv
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import cbor2
import cwt
import grpc
import pytest
import redis
from waiting import heard, is_recognised, until

from exchange import attestations, publication
from exchange.client import Purpose
from exchange.errors import CheckDigitError, IdTakenError, NotFoundError, RevokedError
from exchange.keys import PrivateKey
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import types_pb2
from nodes.cli import files

CHECK = Purpose.PURPOSE_ENTRY_CHECK
PUBLISH = "/tongxing.v1.AttestationService/PublishAttestation"


def state_of(decision, province):
    """What a decision says of one province's answer."""
    (answer,) = [each for each in decision.answers if each.province == province]
    return recognition.AnswerState.Name(answer.state).removeprefix("ANSWER_STATE_")


def summary(decision):
    return (
        recognition.Outcome.Name(decision.outcome).removeprefix("OUTCOME_"),
        types_pb2.Colour.Name(decision.colour).removeprefix("COLOUR_"),
        recognition.Verdict.Name(decision.verdict).removeprefix("VERDICT_"),
    )


GREEN = ("RECOGNIZED", "GREEN", "ACCEPTED")


def oracle(exchange, province):
    """A province's key as another's COSE library holds it."""
    (key,) = exchange.trust().profile(province).keys
    pem = key.public.to_pem().decode()
    return cwt.COSEKey.from_pem(pem, alg="ES256", kid=key.public.kid)


@pytest.fixture(scope="module")
def train(exchange, people, invented, tmp_path_factory):
    """588 travellers of one train, published from a file in Sichuan."""
    path = tmp_path_factory.mktemp("train") / "travellers.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, files.COLUMNS)
        writer.writeheader()
        writer.writerows(invented.travellers(588, now=datetime.now(UTC), seed=588))
    rows = list(files.read(path, None))
    people.numbers |= {row.attestation.document.number for row in rows}

    async def publish():
        async with exchange.client("510000", "issuer") as issuer:
            pairs = [(row.line, row.attestation) for row in rows]
            return rows, [item async for item in issuer.publish_all(pairs)]

    return asyncio.run(publish())


async def test_588_travellers_of_sichuan_are_green_in_guangdong(exchange, train, heard_of):
    rows, items = train
    assert {(item.index, item.error) for item in items} == {(row.line, None) for row in rows}
    async with exchange.client("440000", "app") as app:
        await heard_of(exchange, app)  # who is published after them: their own order is any
        decisions = await app.recognize_all([row.attestation.document for row in rows], CHECK)
    assert len(decisions) == 588
    assert {summary(decision) for decision in decisions} == {GREEN}
    key = oracle(exchange, "510000")
    for row, decision in zip(rows, decisions, strict=True):
        (piece,) = decision.evidence
        assert piece.attestation.attestation_id == row.attestation.attestation_id
        assert piece.sent_by == "510000"
        assert state_of(decision, "510000") in {"ANSWERED", "CACHED"}
        assert state_of(decision, "310000") == state_of(decision, "440000") == "NO_RECORD"
        claims = cwt.decode(piece.attestation.signed, key)
        assert claims[1] == "510000"
        assert claims[7] == UUID(row.attestation.attestation_id).bytes
        assert row.attestation.document.number.encode() not in piece.attestation.signed
        assert row.attestation.holder_name.encode() not in piece.attestation.signed


async def test_publishing_the_train_again_changes_nothing(exchange, train):
    rows, _ = train
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        pairs = [(row.line, row.attestation) for row in rows[:100]]
        again = [item async for item in issuer.publish_all(pairs)]
        assert all(item.already_published for item in again)
        decision = await heard(app, rows[0].attestation.document)
    assert len(decision.evidence) == 1


async def test_each_of_the_six_kinds_is_published_read_and_decided_by_each_province(
    exchange, people
):
    said = people.each_kind()
    green = {"510000": set(said), "440000": set(said), "310000": set(said)}
    green["440000"] -= {"antigen_test", "vaccination"}
    green["310000"] -= {"vaccination"}
    async with exchange.client("510000", "issuer") as issuer:
        for kind, message in said.items():
            published, already = await issuer.publish(message)
            assert not already
            assert published == await issuer.get(UUID(message.attestation_id))
            assert published.fact.kind.value.lower() == kind
    for province, kinds in green.items():
        async with exchange.client(province, "app") as app:
            for kind, message in said.items():
                decision = await heard(app, message.document)
                assert decision.province == province
                if kind in kinds:
                    assert summary(decision) == GREEN, (province, kind)
                else:
                    expected = ("NOT_RECOGNIZED", "UNSPECIFIED", "NOT_RECOGNIZED_BY_RULE")
                    assert summary(decision) == expected, (province, kind)


async def test_a_test_of_60_hours_is_refused_by_guangdong_and_honoured_by_shanghai(
    exchange, people
):
    tested = people.tested(hours=60)
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
    async with exchange.client("440000", "app") as app:
        decision = await heard(app, tested.document)
        assert summary(decision) == ("NOT_RECOGNIZED", "UNSPECIFIED", "NOT_RECOGNIZED_BY_RULE")
        assert "48小时" in decision.reason.zh
        assert not any(rule.satisfied for rule in decision.rules)
    async with exchange.client("310000", "app") as app:
        decision = await heard(app, tested.document)
        assert summary(decision) == GREEN
        (satisfied,) = [rule for rule in decision.rules if rule.satisfied]
        assert satisfied.rule_id == "nat-72h"
        assert satisfied.attestation_ids == [tested.attestation_id]


async def test_a_red_code_and_a_positive_test_go_before_a_green(exchange, people):
    for bad in (people.coloured("RED"), people.tested(hours=30, result="POSITIVE")):
        good = people.tested(document=bad.document)
        async with exchange.client("510000", "issuer") as issuer:
            await issuer.publish(good)
            await issuer.publish(bad)
        async with exchange.client("440000", "app") as app:
            decision = await heard(app, bad.document, lambda found: len(found.evidence) == 2)
        assert summary(decision) == ("NOT_RECOGNIZED", "RED", "NOT_RECOGNIZED_BY_RULE")


async def test_a_wrong_document_in_a_batch_fails_alone(exchange, people, refusal):
    good = [people.tested() for _ in range(3)]
    async with exchange.client("510000", "issuer") as issuer:
        for message in good:
            await issuer.publish(message)
    number = people.document().number
    wrong = number[:-1] + ("0" if number[-1] != "0" else "1")
    people.numbers.add(wrong)
    documents = [message.document for message in good]
    documents.insert(1, types_pb2.IdentityDocument(type=1, number=wrong))
    documents.insert(3, types_pb2.IdentityDocument(type=1, number=""))
    documents.append(types_pb2.IdentityDocument(type=99, number=number))
    async with exchange.client("440000", "app") as app:
        await heard(app, good[-1].document)
        answers = await app.recognize_all(documents, CHECK)
        raw = await app._channel.unary_unary(
            "/tongxing.v1.RecognitionService/BatchRecognize",
            request_serializer=recognition.BatchRecognizeRequest.SerializeToString,
            response_deserializer=recognition.BatchRecognizeResponse.FromString,
        )(recognition.BatchRecognizeRequest(documents=documents, purpose=CHECK))
    assert [summary(answers[at]) for at in (0, 2, 4)] == [GREEN] * 3
    assert isinstance(answers[1], CheckDigitError)
    assert [refusal(raw.items[at].status) for at in (1, 3, 5)] == [
        ("INVALID_ARGUMENT", "CHECK_DIGIT", "documents[1].number"),
        ("INVALID_ARGUMENT", "INVALID_FIELD", "documents[3].number"),
        ("INVALID_ARGUMENT", "INVALID_FIELD", "documents[5].type"),
    ]
    assert wrong not in str(raw)


async def test_the_same_holder_is_found_however_the_number_is_written(exchange, people):
    tested = people.tested()
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
    number = tested.document.number
    wide = number.translate({ord(c): ord(c) + 0xFEE0 for c in number}).lower()
    spaced = f" {number[:6]} {number[6:14]}-{number[14:]} "
    async with exchange.client("440000", "app") as app:
        for written in (wide, spaced):
            document = types_pb2.IdentityDocument(type=1, number=written)
            assert summary(await heard(app, document)) == GREEN


async def test_a_revoked_attestation_is_honoured_nowhere_and_its_id_is_never_used_again(
    exchange, people
):
    tested = people.tested()
    id_ = UUID(tested.attestation_id)
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        await issuer.publish(tested)
        assert summary(await heard(app, tested.document, is_recognised)) == GREEN
        at = await issuer.revoke(id_, "录入错误")
        assert await issuer.revoke(id_, "录入错误") == at
        decision = await heard(app, tested.document, lambda found: summary(found) != GREEN)
        assert summary(decision) == ("NOT_RECOGNIZED", "UNSPECIFIED", "REVOKED")
        with pytest.raises(RevokedError):
            await issuer.publish(tested)
        with pytest.raises(RevokedError):
            await issuer.get(id_)


async def test_an_id_is_not_taken_over_by_another_fact(exchange, people, new_id):
    tested = people.tested()
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
        with pytest.raises(IdTakenError):
            await issuer.publish(people.tested(attestation_id=tested.attestation_id))
        for read in (issuer.get, lambda id_: issuer.revoke(id_, "无")):
            with pytest.raises(NotFoundError):
                await read(UUID(new_id()))


async def test_a_correction_sets_the_corrected_one_aside(exchange, people):
    wrong = people.tested(result="POSITIVE")
    right = people.tested(document=wrong.document, supersedes=wrong.attestation_id)
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        await issuer.publish(wrong)
        await heard(app, wrong.document, lambda found: summary(found)[1] == "RED")
        await issuer.publish(right)
        decision = await heard(app, wrong.document, lambda found: summary(found) == GREEN)
    verdicts = {piece.attestation.attestation_id: piece.verdict for piece in decision.evidence}
    assert verdicts[wrong.attestation_id] == recognition.VERDICT_STALE


async def test_an_attestation_leaves_every_lookup_when_it_expires(exchange, people):
    tested = people.tested()
    tested.expire_time.FromSeconds(int(datetime.now(UTC).timestamp()) + 6)
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        await issuer.publish(tested)
        assert summary(await heard(app, tested.document, is_recognised)) == GREEN
        # An answer from just before its end would be checked here after it, and refused.
        ends = tested.expire_time.seconds
        await until("its end", lambda: time.time() > ends + 0.1)
        decision = await heard(app, tested.document, lambda found: not found.evidence)
        assert summary(decision) == ("NOT_RECOGNIZED", "UNSPECIFIED", "NO_RECORD")
        with pytest.raises(NotFoundError):
            await issuer.get(UUID(tested.attestation_id))


async def test_what_the_provinces_key_signed_elsewhere_is_stored_as_it_is(
    exchange, people, epoch_key
):
    message = people.tested()
    key = PrivateKey.from_pem(
        (exchange.directory / "510000" / "attestation-key.pem").read_bytes(), None
    )
    attestation = publication.draft(
        message,
        province="510000",
        author=people.issuer.credit_code,
        epoch=epoch_key(exchange),
        now=datetime.now(UTC) - timedelta(minutes=1),
    )
    signed = attestations.sign(attestation, key)
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        publish = issuer._channel.unary_unary(
            PUBLISH,
            request_serializer=pb.PublishAttestationRequest.SerializeToString,
            response_deserializer=pb.PublishAttestationResponse.FromString,
        )
        request = pb.PublishAttestationRequest(signed_attestation=signed)
        answer = await publish(request)
        assert answer.attestation.signed == signed
        assert (await publish(request)).already_published
        decision = await heard(app, message.document)
    assert summary(decision) == GREEN
    assert [piece.attestation.signed for piece in decision.evidence] == [signed]
    with redis.Redis(unix_socket_path=str(exchange.store("510000"))) as store:
        assert store.hvals(b"s:{%b}" % attestation.token) == [signed]


async def test_signed_bytes_hold_nothing_but_the_claims_of_the_contract(exchange, people):
    tested = people.tested()
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
    async with exchange.client("440000", "app") as app:
        (piece,) = (await heard(app, tested.document)).evidence
    protected, unprotected, payload, signature = cbor2.loads(piece.attestation.signed).value
    assert set(cbor2.loads(protected)) == {1, 4, 16}
    assert unprotected == {}
    assert len(signature) == 64
    claims = cbor2.loads(payload)
    assert set(claims) == {1, 2, 4, 5, 6, 7, 65535, -70001, -70002}
    assert cbor2.dumps(claims, canonical=True) == payload


async def test_a_purpose_is_required(exchange, people, refusal):
    request = recognition.RecognizeRequest(document=people.document())
    async with exchange.client("440000", "app") as app:
        call = app._channel.unary_unary("/tongxing.v1.RecognitionService/Recognize")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request.SerializeToString())
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "INVALID_FIELD", "purpose")


async def test_more_than_a_thousand_documents_are_refused(exchange, people, refusal):
    request = recognition.BatchRecognizeRequest(documents=[people.document()] * 1001, purpose=CHECK)
    async with exchange.client("440000", "app") as app:
        call = app._channel.unary_unary("/tongxing.v1.RecognitionService/BatchRecognize")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request.SerializeToString())
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "INVALID_FIELD", "documents")
