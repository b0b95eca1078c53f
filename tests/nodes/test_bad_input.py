"""What a node refuses to publish: it names the field, and stores nothing."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from datetime import UTC, datetime, timedelta
from uuid import UUID

import cbor2
import grpc
import pytest
import redis

import exchange.v1
from exchange import attestations, cose, publication
from exchange.errors import InvalidFieldError
from exchange.facts import Colour, HealthCodeStatus
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import EpochKey, credit_code_check, mod_11_2
from exchange.v1 import appeal_service_pb2 as appeal_pb
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import audit_service_pb2 as audit_pb
from exchange.v1 import types_pb2 as types
from exchange.v1 import validate_pb2
from nodes.services import validation
from nodes.services.validation import check

SERVICE = "/tongxing.v1.AttestationService/"
CODE = "INVALID_ARGUMENT"
TEST = "attestation.fact.nucleic_acid_test"
STATUS = "attestation.fact.health_code_status"


@dataclasses.dataclass
class Bench:
    """What a case is made from."""

    exchange: object
    people: object
    ago: object
    new_id: object
    epoch: EpochKey

    def key(self, province="510000"):
        path = self.exchange.directory / province / "attestation-key.pem"
        return PrivateKey.from_pem(path.read_bytes(), None)

    def attestation(self, *, message=None, epoch=None, **changes):
        drafted = publication.draft(
            message or self.people.tested(),
            province="510000",
            author=self.people.issuer.credit_code,
            epoch=epoch or self.epoch,
            now=datetime.now(UTC),
        )
        return dataclasses.replace(drafted, **changes)

    def signed(self, key=None, typ=cose.ObjectType.ATTESTATION, **changes):
        payload = attestations.encode(self.attestation(**changes))
        return cose.sign(payload, key or self.key(), typ)


def with_number(bench, number, type_=types.DOCUMENT_TYPE_RESIDENT_ID):
    bench.people.numbers.add(number)
    document = types.IdentityDocument(type=type_, number=number)
    return bench.people.tested(document=document)


def wrong_check_digit(bench):
    number = bench.people.document().number
    return with_number(bench, number[:-1] + ("1" if number[-1] != "1" else "2"))


def unknown_region(bench):
    body = "38" + bench.people.document().number[2:17]
    return with_number(bench, body + mod_11_2(body))


def born_tomorrow(bench):
    tomorrow = datetime.now(UTC) + timedelta(days=2)
    body = f"519901{tomorrow:%Y%m%d}900"
    return with_number(bench, body + mod_11_2(body))


def changed_test(**fields):
    def make(bench):
        message = bench.people.tested()
        for name, value in fields.items():
            time = bench.ago(value) if name.endswith("_time") else value
            test = message.fact.nucleic_acid_test
            if name.endswith("_time"):
                getattr(test, name).CopyFrom(time)
            else:
                setattr(test, name, time)
        return message

    return make


def ending(hours):
    return lambda bench: bench.people.tested(expire_time=bench.ago(-hours))


def red_without(field, value=""):
    def make(bench):
        message = bench.people.coloured("RED")
        setattr(message.fact.health_code_status, field, value)
        return message

    return make


def issued_by(code):
    issuer = types.Issuer(credit_code=code, name="某医院")
    return lambda bench: bench.people.tested(issuer=issuer)


def with_field(**fields):
    return lambda bench: bench.people.tested(**fields)


def at_year_12000(bench):
    message = bench.people.tested()
    message.fact.nucleic_acid_test.sample_time.seconds = 316516204800
    return message


def wrong_credit_code(bench):
    code = bench.people.issuer.credit_code
    return issued_by(code[:-1] + ("1" if code[-1] != "1" else "2"))(bench)


OTHERS_CODE = "12510100MB0X58900"
OTHERS_CODE += credit_code_check(OTHERS_CODE)

FACTS = {
    "a wrong check digit": (
        wrong_check_digit,
        (CODE, "CHECK_DIGIT", "attestation.document.number"),
    ),
    "an unknown region": (
        unknown_region,
        (CODE, "INVALID_FIELD", "attestation.document.number"),
    ),
    "a holder who is not born yet": (
        born_tomorrow,
        (CODE, "INVALID_FIELD", "attestation.document.number"),
    ),
    "a number of another document type": (
        lambda bench: with_number(bench, "H123", types.DOCUMENT_TYPE_HM_TRAVEL_PERMIT),
        (CODE, "DOCUMENT_FORM", "attestation.document.number"),
    ),
    "an unknown document type": (
        lambda bench: with_number(bench, "73218465", 77),
        (CODE, "INVALID_FIELD", "attestation.document.type"),
    ),
    "no document": (
        lambda bench: _without(bench, "document"),
        (CODE, "INVALID_FIELD", "attestation.document"),
    ),
    "no fact": (
        lambda bench: bench.people.attested(types.Fact()),
        (CODE, "INVALID_FIELD", "attestation.fact.kind"),
    ),
    "no issuer": (
        lambda bench: _without(bench, "issuer"),
        (CODE, "INVALID_FIELD", "attestation.issuer"),
    ),
    "no name": (with_field(holder_name=""), (CODE, "INVALID_FIELD", "attestation.holder_name")),
    "a blank name": (
        with_field(holder_name=" \u3000 "),
        (CODE, "INVALID_FIELD", "attestation.holder_name"),
    ),
    "a sample too old": (
        changed_test(sample_time=24 * 15),
        (CODE, "EXPIRED", f"{TEST}.sample_time"),
    ),
    "a sample of the future": (
        changed_test(sample_time=-1),
        (CODE, "IN_FUTURE", f"{TEST}.sample_time"),
    ),
    "a result of the future": (
        changed_test(result_time=-1),
        (CODE, "IN_FUTURE", f"{TEST}.result_time"),
    ),
    "a result before its sample": (
        changed_test(result_time=7),
        (CODE, "INVALID_FIELD", f"{TEST}.result_time"),
    ),
    "a time past the year 9999": (at_year_12000, (CODE, "INVALID_FIELD", f"{TEST}.sample_time")),
    "an unknown result": (changed_test(result=9), (CODE, "INVALID_FIELD", f"{TEST}.result")),
    "an end that is past": (ending(-1), (CODE, "EXPIRED", "attestation.expire_time")),
    "an end beyond its kind": (
        ending(24 * 15),
        (CODE, "INVALID_FIELD", "attestation.expire_time"),
    ),
    "a red without a reason": (
        red_without("reason"),
        (CODE, "UNEXPLAINED_COLOUR", f"{STATUS}.reason"),
    ),
    "a red with a blank reason": (
        red_without("reason", " \u200b—"),
        (CODE, "UNEXPLAINED_COLOUR", f"{STATUS}.reason"),
    ),
    "a red without a legal basis": (
        red_without("legal_basis"),
        (CODE, "UNEXPLAINED_COLOUR", f"{STATUS}.legal_basis"),
    ),
    "a red that nobody assigned": (
        red_without("assigned_by"),
        (CODE, "UNEXPLAINED_COLOUR", f"{STATUS}.assigned_by"),
    ),
    "a red without guidance": (
        red_without("guidance"),
        (CODE, "UNEXPLAINED_COLOUR", f"{STATUS}.guidance"),
    ),
    "a credit code with a wrong check digit": (
        wrong_credit_code,
        (CODE, "CHECK_DIGIT", "attestation.issuer.credit_code"),
    ),
    "another issuer's credit code": (
        issued_by(OTHERS_CODE),
        ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "attestation.issuer.credit_code"),
    ),
    "an id that is no UUIDv7": (
        with_field(attestation_id="6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        (CODE, "INVALID_FIELD", "attestation.attestation_id"),
    ),
    "an id that is no UUID": (
        with_field(attestation_id="510000-1"),
        (CODE, "INVALID_FIELD", "attestation.attestation_id"),
    ),
    "a correction of what is not there": (
        lambda bench: bench.people.tested(supersedes=bench.new_id()),
        (CODE, "INVALID_FIELD", "attestation.supersedes"),
    ),
}


def _without(bench, field):
    message = bench.people.tested()
    message.ClearField(field)
    return message


def reheaded(bench, **changes):
    """A good object whose protected header says something else."""
    tag = cbor2.loads(bench.signed())
    protected, *rest = tag.value
    header = cbor2.loads(protected) | {
        {"alg": 1, "kid": 4, "typ": 16}[k]: v for k, v in changes.items()
    }
    return cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps(header, canonical=True), *rest]))


def flipped(bench):
    signed = bytearray(bench.signed())
    signed[-1] ^= 1
    return bytes(signed)


def another_payload(bench):
    """The signature of one attestation under the claims of another."""
    claims, signature = cbor2.loads(bench.signed()).value, cbor2.loads(bench.signed()).value[3]
    return cbor2.dumps(cbor2.CBORTag(18, [*claims[:3], signature]))


def other_epoch(bench):
    return bench.signed(epoch=EpochKey(bench.epoch.epoch + 1, bench.epoch.key))


def expired(bench):
    hour = timedelta(hours=1)
    good = bench.attestation(message=bench.people.tested(hours=30))
    past = datetime.now(UTC).replace(microsecond=0) - hour
    old = dataclasses.replace(good, issued_at=past - hour, expires_at=past)
    return attestations.sign(old, bench.key())


def red_unexplained(bench):
    now = datetime.now(UTC).replace(microsecond=0)
    return bench.signed(fact=HealthCodeStatus(now, Colour.RED), expires_at=now + timedelta(hours=1))


def of_another_issuer(bench):
    issuer = attestations.Issuer(OTHERS_CODE, "某医院")
    return bench.signed(issuer=issuer)


def oversized(bench):
    good = cbor2.loads(bench.signed()).value
    return cbor2.dumps(cbor2.CBORTag(18, [*good[:2], b"\x00" * 65536, good[3]]))


SIGNED = {
    "an empty object": (lambda _: b"", "MALFORMED_OBJECT", ""),
    "an oversized object": (oversized, "MALFORMED_OBJECT", ""),
    "a truncated object": (lambda b: b.signed()[:-1], "MALFORMED_OBJECT", ""),
    "half an object": (lambda b: b.signed()[: len(b.signed()) // 2], "MALFORMED_OBJECT", ""),
    "an object with trailing bytes": (lambda b: b.signed() + b"\0", "MALFORMED_OBJECT", ""),
    "an object of another typ": (
        lambda b: b.signed(typ=cose.ObjectType.HEALTH_CODE),
        "MALFORMED_OBJECT",
        "",
    ),
    "a swapped alg": (lambda b: reheaded(b, alg=-8), "MALFORMED_OBJECT", ""),
    "an unknown alg": (lambda b: reheaded(b, alg=5), "MALFORMED_OBJECT", ""),
    "a kid that nobody bears": (
        lambda b: reheaded(b, kid=b"\0" * 8),
        "UNKNOWN_ISSUER",
        "",
    ),
    "a flipped bit in the signature": (flipped, "BAD_SIGNATURE", ""),
    "another object's signature": (another_payload, "BAD_SIGNATURE", ""),
    "a key outside the trust list": (
        lambda b: b.signed(PrivateKey.generate(Algorithm.ES256)),
        "UNKNOWN_ISSUER",
        "",
    ),
    "another province's key in this one's name": (
        lambda b: b.signed(b.key("440000")),
        "BAD_SIGNATURE",
        ".iss",
    ),
    "another province's own attestation": (
        lambda b: b.signed(b.key("440000"), province="440000"),
        "INVALID_FIELD",
        ".iss",
    ),
    "a province that is none": (
        lambda b: b.signed(province="999999"),
        "MALFORMED_OBJECT",
        ".iss",
    ),
    "another subject epoch": (other_epoch, "INVALID_FIELD", ".sub"),
    "a subject that is no token": (
        lambda b: b.signed(token=b"\0" * 35),
        "MALFORMED_OBJECT",
        ".sub",
    ),
    "an attestation that has ended": (expired, "EXPIRED", ".exp"),
    "an attestation of the future": (
        lambda b: b.signed(issued_at=datetime.now(UTC) + timedelta(hours=1)),
        "IN_FUTURE",
        ".iat",
    ),
    "a signed red without a reason": (red_unexplained, "UNEXPLAINED_COLOUR", ".health.reason"),
}

CASES = {
    **{name: ("attestation", make, expected) for name, (make, expected) in FACTS.items()},
    **{
        name: ("signed_attestation", make, (CODE, reason, f"signed_attestation{field}"))
        for name, (make, reason, field) in SIGNED.items()
    },
    "a signed attestation of another issuer": (
        "signed_attestation",
        of_another_issuer,
        (
            "PERMISSION_DENIED",
            "CALLER_NOT_ALLOWED",
            "signed_attestation.health.issuer.credit_code",
        ),
    ),
}


@pytest.fixture
def bench(exchange, people, hours_ago, new_id, epoch_key):
    return Bench(exchange, people, hours_ago, new_id, epoch_key(exchange))


@pytest.fixture
def nothing_stored(exchange):
    """Fails where the test has left anything in Sichuan's store."""
    with redis.Redis(unix_socket_path=str(exchange.store("510000"))) as store:

        def everything():
            """Subjects, records and changes; how far the peers are heard moves by itself."""
            subjects = {key: store.hgetall(key) for key in store.scan_iter("s:*", count=10_000)}
            return subjects, set(store.scan_iter("a:*", count=10_000)), store.xlen("c")

        subjects, records, changes = everything()
        yield
        subjects_now, records_now, changes_now = everything()
    assert records_now <= records, "something new stands in the store"
    assert changes_now == changes, "others are told of something"
    for key, fields in subjects_now.items():
        assert fields.items() <= subjects[key].items(), "a subject has more than before"


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("case", CASES)
async def test_is_refused_and_nothing_is_stored(bench, refusal, case):
    content, make, expected = CASES[case]
    made = make(bench)
    request = pb.PublishAttestationRequest(**{content: made})
    item = pb.PublishAttestationsRequest(index=7, **{content: made})
    async with bench.exchange.client("510000", "issuer") as issuer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await issuer._channel.unary_unary(f"{SERVICE}PublishAttestation")(
                request.SerializeToString()
            )
        assert refusal(caught.value) == expected
        stream = issuer._channel.stream_stream(f"{SERVICE}PublishAttestations")
        (answer,) = [
            pb.PublishAttestationsResponse.FromString(data)
            async for data in stream(iter([item.SerializeToString()]))
        ]
    assert (answer.index, answer.attestation_id) == (7, "")
    assert refusal(answer.status) == expected
    for text in (caught.value.details(), str(answer.status)):
        assert not any(number in text for number in bench.people.numbers)


async def test_bad_items_of_a_stream_fail_alone_and_the_good_ones_are_stored(bench, refusal):
    good = [bench.people.tested() for _ in range(3)]
    items = [
        pb.PublishAttestationsRequest(index=1, attestation=good[0]),
        pb.PublishAttestationsRequest(index=2),
        pb.PublishAttestationsRequest(index=3, attestation=good[1]),
        pb.PublishAttestationsRequest(index=4, signed_attestation=b"\xd2\x84"),
        pb.PublishAttestationsRequest(index=5, attestation=wrong_check_digit(bench)),
        pb.PublishAttestationsRequest(index=6, attestation=pb.NewAttestation()),
        pb.PublishAttestationsRequest(index=7, attestation=good[2]),
    ]
    async with bench.exchange.client("510000", "issuer") as issuer:
        stream = publications(issuer)(iter(items))
        answers = {answer.index: answer async for answer in stream}
    assert {index: refusal(answer.status)[0] for index, answer in answers.items()} == {
        1: "OK",
        2: CODE,
        3: "OK",
        4: CODE,
        5: CODE,
        6: CODE,
        7: "OK",
    }
    assert refusal(answers[2].status) == (CODE, "INVALID_FIELD", "content")


def publications(issuer):
    """PublishAttestations as a function of an iterator of requests."""
    return issuer._channel.stream_stream(
        f"{SERVICE}PublishAttestations",
        request_serializer=pb.PublishAttestationsRequest.SerializeToString,
        response_deserializer=pb.PublishAttestationsResponse.FromString,
    )


async def test_items_of_one_message_are_answered_in_their_order_and_bad_ones_fail_alone(
    bench, refusal
):
    good = [bench.people.tested() for _ in range(3)]
    item = pb.PublishAttestationsRequest
    items = [
        item(index=1, attestation=good[0]),
        item(index=2),
        item(index=3, attestation=good[1]),
        item(index=4, signed_attestation=b"\xd2\x84"),
        item(index=5, attestation=wrong_check_digit(bench)),
        item(index=6, attestation=good[1]),
        item(index=7, attestation=bench.people.tested(), items=[item(index=8)]),
        item(attestation=good[2]),
    ]
    alone = item(index=9, attestation=bench.people.tested())
    async with bench.exchange.client("510000", "issuer") as issuer:
        answers = [
            answer async for answer in publications(issuer)(iter([item(items=items), alone]))
        ]
        stored = [await issuer.get(UUID(each.attestation_id)) for each in good]
    (many,) = (answer for answer in answers if answer.items)
    (one,) = (answer for answer in answers if not answer.items)
    assert (one.index, one.attestation_id) == (9, alone.attestation.attestation_id)
    assert many == pb.PublishAttestationsResponse(items=many.items)
    refused = {1: "content", 3: "signed_attestation", 4: "attestation.document.number"}
    refused[6] = "items"
    assert [each.index for each in many.items] == [1, 2, 3, 4, 5, 6, 7, 0]
    for at, each in enumerate(many.items):
        code, _, field = refusal(each.status)
        assert (code, field) == ((CODE, refused[at]) if at in refused else ("OK", "")), at
        accepted = items[at].attestation.attestation_id if at not in refused else ""
        assert each.attestation_id == accepted
    assert [each.already_published for each in many.items] == [False] * 5 + [True, False, False]
    assert [str(each.id) for each in stored] == [each.attestation_id for each in good]


@pytest.mark.parametrize(
    "message",
    [
        pb.PublishAttestationsRequest(items=[pb.PublishAttestationsRequest()] * 101),
        pb.PublishAttestationsRequest(index=1, items=[pb.PublishAttestationsRequest()]),
        pb.PublishAttestationsRequest(
            signed_attestation=b"x", items=[pb.PublishAttestationsRequest()]
        ),
    ],
    ids=["too many", "an index", "a content"],
)
async def test_a_message_with_too_many_items_or_with_more_than_items_is_refused(
    exchange, refusal, message
):
    async with exchange.client("510000", "issuer") as issuer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in publications(issuer)(iter([message])):
                pass
    assert refusal(caught.value) == (CODE, "INVALID_FIELD", "items")


@pytest.mark.parametrize("method", ["RevokeAttestation", "GetAttestation"])
@pytest.mark.parametrize("id_", ["", "nonsense", "018f0000-0000-7000-8000-00000000000"])
async def test_an_id_that_is_no_uuid_is_refused(exchange, refusal, method, id_):
    request = getattr(pb, f"{method}Request")(attestation_id=id_)
    async with exchange.client("510000", "issuer") as issuer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await issuer._channel.unary_unary(SERVICE + method)(request.SerializeToString())
    assert refusal(caught.value) == (CODE, "INVALID_FIELD", "attestation_id")


@pytest.mark.parametrize("length", [0, 1, 35, 37])
async def test_a_subject_token_of_another_length_is_refused(exchange, refusal, length):
    from exchange.v1 import peer_service_pb2

    request = peer_service_pb2.FetchAttestationsRequest(subject_tokens=[b"\0" * length])
    async with exchange.client("510000", "node", of="440000") as node:
        fetch = node._channel.unary_unary("/tongxing.v1.PeerService/FetchAttestations")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch(request.SerializeToString())
    assert refusal(caught.value) == (CODE, "INVALID_FIELD", "subject_tokens[0]")


# --- the words --------------------------------------------------------------------------------

APPEAL_ID = "018f0000-0000-7000-8000-000000000000"
BROKEN = {
    "required": (appeal_pb.AnswerAppealRequest(appeal_id=APPEAL_ID), "answer: 缺失 is missing"),
    "no uuid": (appeal_pb.GetAppealRequest(appeal_id="x"), "appeal_id: 不是 UUID not a UUID"),
    "no id": (appeal_pb.GetAppealRequest(), "appeal_id: 缺失 is missing"),
    "nothing": (
        appeal_pb.AnswerAppealRequest(
            appeal_id=APPEAL_ID, answer=appeal_pb.AppealAnswer(resolution=3)
        ),
        "answer.reason: 为空 is empty",
    ),
    "too long": (
        audit_pb.ListAccessesRequest(page_token="x" * 201),
        "page_token: 超过200个字符 longer than 200 characters",
    ),
    "too much": (
        audit_pb.ListAccessesRequest(page_size=1001),
        "page_size: 大于1000 greater than 1000",
    ),
    "no value": (
        appeal_pb.AnswerAppealRequest(
            appeal_id=APPEAL_ID, answer=appeal_pb.AppealAnswer(resolution=99, reason="x")
        ),
        "answer.resolution: 没有这一取值 no such value",
    ),
    "not said": (
        appeal_pb.AnswerAppealRequest(
            appeal_id=APPEAL_ID, answer=appeal_pb.AppealAnswer(reason="x")
        ),
        "answer.resolution: 未指明 not said",
    ),
    "of another form": (
        appeal_pb.AttestationReference(province="5x"),
        "province: 不是六位行政区划代码 not six digits",
    ),
    "too few": (appeal_pb.ExchangeAppealsRequest(), "appeals: 少于1项 fewer than 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_told_in_plain_words_of_both_languages(case):
    message, words = BROKEN[case]
    with pytest.raises(InvalidFieldError) as refused:
        check(message)
    assert str(refused.value).startswith(f"{words}; ")


def _rules(options):
    """The ids of the rules in a field's options."""
    for field, value in options.ListFields():
        if field.name == "items":
            yield from _rules(value)
        elif field.message_type is None:
            yield field.name
        else:
            for inner, of_items in value.ListFields():
                if inner.name == "items":
                    yield from _rules(of_items)
                else:
                    yield f"{field.name}.{inner.name}"


def test_every_rule_of_the_contract_has_words():
    names = [f"exchange.v1.{each.name}" for each in pkgutil.iter_modules(exchange.v1.__path__)]
    files = [each for each in map(importlib.import_module, names) if each is not validate_pb2]
    named = {
        rule
        for file in files
        for message in file.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        for rule in _rules(field.GetOptions().Extensions[validate_pb2.field])
    }
    assert named - {"ignore"} <= {*validation._WORDS, "string.pattern", "uint32.gte"}
