"""Who looked at whose data: recorded at both nodes, shown to the holder's app and to admins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest
from waiting import heard_from_all

from exchange.client import Purpose
from exchange.client.auditing import Accesses
from exchange.errors import (
    AuditUnavailableError,
    CallerNotAllowedError,
    InvalidFieldError,
    NotFoundError,
)
from exchange.subjects import Document, DocumentType
from exchange.v1 import attestation_service_pb2
from exchange.v1 import audit_service_pb2 as pb
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import types_pb2 as types
from nodes.audit.verifying import verify

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK


@pytest.fixture
async def guangdong(exchange, people):
    """The app of Guangdong, whose node has heard from the others."""
    async with exchange.client(GUANGDONG, "app") as app:
        await heard_from_all(app, people.document())
        yield app


@pytest.fixture
async def sichuan(exchange):
    async with exchange.client(SICHUAN, "app") as app:
        yield app


@pytest.fixture
async def admin(exchange):
    async with exchange.client(SICHUAN, "admin") as client:
        yield client


@pytest.fixture
async def issuer(exchange):
    async with exchange.client(SICHUAN, "issuer") as client:
        yield client


def said(access):
    purpose = types.Purpose.Name(access.purpose).removeprefix("PURPOSE_")
    return access.caller, access.method, purpose, access.answer, access.target


async def of(client, document=None, **arguments):
    return [said(each) for each in (await Accesses(client).list(document, **arguments)).accesses]


def caller(province, kind, directory):
    """The identity that a client of the exchange's bears."""
    from cryptography import x509

    pem = (directory / province / f"{kind}.pem").read_bytes()
    names = x509.load_pem_x509_certificates(pem)[0].extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


async def test_a_look_is_recorded_where_it_is_answered_and_where_the_data_lies(
    exchange, guangdong, sichuan, heard_of
):
    somebody = await heard_of(exchange, guangdong)
    decision = await guangdong.recognize(somebody.document, CHECK)
    assert decision.outcome == recognition.OUTCOME_RECOGNIZED
    here, there = exchange.directory, f"spiffe://{GUANGDONG}.tongxing/node/node-1"
    app = caller(GUANGDONG, "app", here)
    assert await of(guangdong, somebody.document) == [
        (app, "Recognize", "ENTRY_CHECK", "RECOGNIZED GREEN ACCEPTED", "")
    ]
    assert await of(sichuan, somebody.document) == [
        (there, "FetchAttestations", "ENTRY_CHECK", "1 attestation", "")
    ]


async def test_a_look_at_the_log_is_recorded_itself(sichuan, people, exchange):
    somebody = people.document()
    assert await of(sichuan, somebody) == []
    ((who, *rest),) = await of(sichuan, somebody)
    assert who == caller(SICHUAN, "app", exchange.directory)
    assert rest == ["ListAccesses", "HOLDER_ACCESS", "0 accesses", ""]


async def test_a_holder_sees_nothing_of_another(sichuan, people):
    somebody, other = people.document(), people.document()
    await sichuan.recognize(somebody, Purpose.PURPOSE_HOLDER_ACCESS)
    assert len(await of(sichuan, somebody)) == 1
    assert await of(sichuan, other) == []


async def test_a_stranger_of_whom_nothing_is_sent_is_not_recorded_there(
    exchange, guangdong, sichuan, people
):
    nobody = people.document()
    await guangdong.recognize(nobody, CHECK)
    assert await of(sichuan, nobody) == []


async def test_an_app_that_names_no_holder_is_refused(sichuan):
    with pytest.raises(InvalidFieldError) as refused:
        await of(sichuan)
    assert refused.value.field == "document"


async def test_a_wrong_number_is_refused_and_not_repeated(sichuan):
    number = "510107199003072413"
    wrong = types.IdentityDocument(type=types.DOCUMENT_TYPE_RESIDENT_ID, number=number)
    with pytest.raises(InvalidFieldError) as refused:
        await of(sichuan, wrong)
    assert refused.value.field == "document.number"
    assert number not in str(refused.value)


@pytest.mark.parametrize("who", ["issuer", "node"])
async def test_who_is_no_app_and_no_admin_is_refused(exchange, people, who):
    async with exchange.client(SICHUAN, who) as client:
        with pytest.raises(CallerNotAllowedError):
            await of(client, people.document())


async def test_the_app_of_another_province_is_refused(exchange, people):
    async with exchange.client(SICHUAN, "app", of=GUANGDONG) as client:
        with pytest.raises(CallerNotAllowedError):
            await of(client, people.document())


async def test_an_admin_sees_all_and_that_is_recorded(admin, sichuan, people, exchange):
    await sichuan.recognize(people.document(), Purpose.PURPOSE_HOLDER_ACCESS)
    first = await of(admin, page_size=1)
    assert first[0][1] == "Recognize"
    again = await of(admin, page_size=1)
    who = caller(SICHUAN, "admin", exchange.directory)
    assert again == [(who, "ListAccesses", "UNSPECIFIED", "1 access", "everybody")]


async def test_an_admin_may_ask_for_one_holder(admin, sichuan, people):
    somebody = people.document()
    await sichuan.recognize(somebody, Purpose.PURPOSE_HOLDER_ACCESS)
    assert [each[1] for each in await of(admin, somebody)] == ["Recognize"]
    assert [each[1] for each in await of(sichuan, somebody)] == ["ListAccesses", "Recognize"]


async def test_pages_lead_to_the_first_access(sichuan, people):
    somebody = people.document()
    for _ in range(5):
        await sichuan.recognize(somebody, Purpose.PURPOSE_HOLDER_ACCESS)
    accesses, token, found = Accesses(sichuan), "", []
    for _ in range(3):
        page = await accesses.list(somebody, page_size=2, page_token=token)
        found += [each.method for each in page.accesses]
        token = page.next_page_token
    assert token == ""
    assert found == ["Recognize"] * 5


async def test_times_bound_the_list(sichuan, people):
    somebody = people.document()
    await sichuan.recognize(somebody, Purpose.PURPOSE_HOLDER_ACCESS)
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert len(await of(sichuan, somebody, start=now - hour, end=now + hour)) == 1
    assert await of(sichuan, somebody, end=now - hour) == []
    assert await of(sichuan, somebody, start=now + hour) == []
    with pytest.raises(InvalidFieldError) as refused:
        await of(sichuan, somebody, start=now, end=now - hour)
    assert refused.value.field == "end_time"


def token(*parts):
    return urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "page_token",
    [
        "?",
        "AAAA",
        "码",
        token(),
        token("2022-01-10", "2022", "1"),
        token("2022-01-10", 1, 1),
        token("2022-01-10", "\ud800", 1),
        token("\ud800", "2022", 1),
        token("2022-01-10", "2022", 1 << 80),
        urlsafe_b64encode(b"[" * 149).decode(),
    ],
)
async def test_a_page_token_that_is_none_is_refused(sichuan, people, page_token):
    with pytest.raises(InvalidFieldError) as refused:
        await of(sichuan, people.document(), page_token=page_token)
    assert refused.value.field == "page_token"


async def test_a_page_token_shows_nobody_elses_accesses(sichuan, people):
    other, somebody = people.document(), people.document()
    for _ in range(3):
        await sichuan.recognize(other, Purpose.PURPOSE_HOLDER_ACCESS)
    page = await Accesses(sichuan).list(other, page_size=1)
    assert await of(sichuan, somebody, page_token=page.next_page_token) == []


async def test_what_an_issuer_reads_and_revokes_is_recorded(
    issuer, sichuan, admin, people, exchange
):
    somebody = people.tested()
    await issuer.publish(somebody)
    id_ = somebody.attestation_id
    request = attestation_service_pb2.GetAttestationRequest(attestation_id=id_)
    answer = attestation_service_pb2.GetAttestationResponse
    await issuer.call("AttestationService/GetAttestation", request, answer)
    who = caller(SICHUAN, "issuer", exchange.directory)
    seen = (who, "GetAttestation", "UNSPECIFIED", "given", id_)
    assert await of(sichuan, somebody.document) == [seen]
    await issuer.revoke(id_, reason="试剂批次不合格")
    (last,) = await of(admin, page_size=1)
    assert last == (who, "RevokeAttestation", "UNSPECIFIED", "revoked", id_)


async def test_each_of_many_revocations_is_recorded(issuer, admin, people, new_id):
    tests = [people.tested() for _ in range(2)]
    for each in tests:
        await issuer.publish(each)
    ids = [each.attestation_id for each in tests]
    await issuer.revoke_all([*ids, new_id()], reason="试剂批次不合格")
    found = await of(admin, page_size=2)
    assert [(each[1], each[4]) for each in found] == [
        ("BatchRevokeAttestations", id_) for id_ in reversed(ids)
    ]


async def test_a_revocation_of_all_that_an_issuer_sampled_is_recorded_unless_it_only_counts(
    issuer, admin, invented
):
    await of(admin, page_size=1)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    span = (start, start + timedelta(days=1))
    for dry in (True, False):
        revoking = issuer.revoke_issuer(
            invented.ISSUER_CREDIT_CODE, *span, "试剂批次不合格", dry=dry
        )
        assert [each.done async for each in revoking][-1]
        (last,) = await of(admin, page_size=1)
        assert last[1:] == (
            ("ListAccesses", "UNSPECIFIED", "1 access", "everybody")
            if dry
            else (
                *("RevokeIssuerAttestations", "UNSPECIFIED", "0 revoked"),
                invented.ISSUER_CREDIT_CODE,
            )
        )


async def test_what_is_refused_is_not_recorded_as_given(issuer, admin, new_id):
    request = attestation_service_pb2.GetAttestationRequest(attestation_id=new_id())
    answer = attestation_service_pb2.GetAttestationResponse
    with pytest.raises(NotFoundError):
        await issuer.call("AttestationService/GetAttestation", request, answer)
    (last,) = await of(admin, page_size=1)
    assert last[1] != "GetAttestation"


async def test_no_number_and_no_token_stand_in_the_log(exchange, guangdong, sichuan, people):
    message = people.tested()
    async with exchange.client(SICHUAN, "issuer") as client:
        await client.publish(message)
    await sichuan.recognize(message.document, Purpose.PURPOSE_HOLDER_ACCESS)
    await of(sichuan, message.document)
    document = Document(DocumentType.RESIDENT_ID, message.document.number)
    holder = document.token(exchange.epoch_key())
    marks = [message.document.number.encode(), holder[4:], holder[4:].hex().encode()]
    for province in (SICHUAN, GUANGDONG):
        for path in (exchange.directory / province / "data" / "audit").iterdir():
            data = path.read_bytes()
            assert not [mark for mark in marks if mark in data], path.name


async def test_the_logs_of_the_running_nodes_are_whole(exchange):
    for province in (SICHUAN, GUANGDONG):
        found = verify(exchange.directory / province / "data" / "audit")
        assert found.lines
        assert not found.faults


async def test_a_node_that_cannot_write_its_log_shows_nothing_until_it_can(exchange, people):
    somebody = people.document()
    directory = exchange.directory / SHANGHAI / "data" / "audit"
    async with exchange.client(SHANGHAI, "app") as app, asyncio.timeout(30):
        for _ in range(2):  # the second finds the first in its file
            await of(app, somebody)
        (path,) = directory.glob("*.db")
        away = path.with_suffix(".away")
        path.rename(away)
        path.mkdir()
        try:
            while not await unavailable(app.recognize(somebody, CHECK)):  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.05)
            assert await unavailable(of(app, somebody))
        finally:
            path.rmdir()
            away.rename(path)
        while await unavailable(app.recognize(somebody, CHECK)):  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.05)
        methods = [each[1] for each in await of(app, somebody)]
        assert methods[0] == "Recognize"
        assert methods[-2:] == ["ListAccesses", "ListAccesses"]
    assert not verify(directory).faults


async def unavailable(call):
    try:
        await call
    except AuditUnavailableError:
        return True
    return False


def test_the_contracts_message_has_no_field_for_a_holder():
    assert {"document", "holder", "subject"}.isdisjoint(pb.Access.DESCRIPTOR.fields_by_name)


def test_the_file_says_who_looked_and_not_at_whom(exchange):
    (path, *_) = sorted((exchange.directory / SICHUAN / "data" / "audit").glob("*.db"))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (line,) = connection.execute("SELECT line FROM accesses LIMIT 1").fetchone()
    assert set(json.loads(line)) == {
        *("answer", "caller", "holders", "key", "method", "purpose", "request_id"),
        *("sequence", "target", "time"),
    }
