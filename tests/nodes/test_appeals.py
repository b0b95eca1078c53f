"""Appeals on real nodes: filed in Guangdong, answered in Sichuan, seen in both; and who lies."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import cbor2
import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2
from prometheus_client.parser import text_string_to_metric_families
from recording import Recorded
from storing import ISSUER, new
from waiting import until

from exchange import appeals, receipts, status
from exchange.appeals import Answer, Appeal, Filed, Resolution, State
from exchange.attestations import AttestationVerifier
from exchange.client import Purpose
from exchange.client.appeals import Appeals
from exchange.errors import (
    AppealStateError,
    CallerNotAllowedError,
    IdTakenError,
    InvalidFieldError,
    NotFoundError,
    OverloadedError,
    StoreUnavailableError,
    TongxingError,
    UnknownIssuerError,
)
from exchange.facts import Colour
from exchange.keys import PrivateKey
from exchange.receipts import Receipt, Subject
from exchange.recognition import Outcome, Verdict
from exchange.subjects import Document, DocumentType
from exchange.v1 import appeal_service_pb2 as pb
from exchange.views import time_to_proto
from nodes.call import Call
from nodes.identity import Identity, Role
from nodes.ids import new_id
from nodes.peers import appeals as courier_module
from nodes.peers.appeals import AppealCourier
from nodes.services import acts
from nodes.services import appeal as service_module
from nodes.services.appeal import AppealService
from nodes.store.appeals import AppealStore, Kept, Standing, of_holder, of_issuer
from nodes.trial import TrialExchange, free_ports

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
STATEMENT = "我从未到过该区 I was never there"
ANSWERED, DELIVERED, FILED = (
    pb.APPEAL_STATE_ANSWERED,
    pb.APPEAL_STATE_DELIVERED,
    pb.APPEAL_STATE_FILED,
)


def now():
    return datetime.now(UTC).replace(microsecond=0)


# --- two provinces ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    """Sichuan and Guangdong, and Shanghai's certificates; Guangdong's metrics are served."""
    (port,) = free_ports(1)
    trial = TrialExchange(
        tmp_path_factory.mktemp("appeals"),
        (SICHUAN, GUANGDONG, SHANGHAI),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    trial.metrics = f"http://127.0.0.1:{port}/metrics"
    often = {"TONGXING_APPEALS__POLL_SECONDS": "0.2"}
    trial.log(SHANGHAI).touch()  # it is never started
    with trial:
        trial.start(SICHUAN, environment=often)
        trial.start(
            GUANGDONG,
            environment={**often, "TONGXING_METRICS__LISTEN": f"127.0.0.1:{port}"},
        )
        yield trial
    no_traces(trial)
    for province in (SICHUAN, GUANGDONG):
        log = trial.log(province).read_text(encoding="utf-8")
        assert "Traceback" not in log
        assert STATEMENT[:6] not in log


@pytest.fixture
async def parties(exchange):
    """The app in Guangdong, and Sichuan's issuer and admin."""
    async with (
        exchange.client(GUANGDONG, "app") as app,
        exchange.client(SICHUAN, "issuer") as issuer,
        exchange.client(SICHUAN, "admin") as admin,
    ):
        yield app, issuer, admin


def scraped(exchange):
    with urllib.request.urlopen(exchange.metrics, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def undelivered(exchange):
    return scraped(exchange)["tongxing_appeals", "filed", "FILED"]


def made_id():
    return new_id(datetime.now(UTC))


async def coloured(people, issuer, colour="RED", **fields):
    message = people.coloured(colour, **fields)
    await issuer.publish(message)
    return message


async def filed(app, contested, **fields):
    return await Appeals(app).file(
        made_id(),
        contested.document,
        STATEMENT,
        attestation=(SICHUAN, uuid.UUID(contested.attestation_id)),
        **fields,
    )


async def stands(app, appeal, state):
    """Wait until the app sees a state."""

    async def there():
        found = await Appeals(app).get(uuid.UUID(appeal.appeal_id))
        return found if found.state == state else None

    return await until("it stands so", there)


async def test_an_appeal_is_answered_by_a_correction_and_both_provinces_see_the_same(
    exchange, parties, people
):
    app, issuer, _ = parties
    red = await coloured(people, issuer)
    appeal = await filed(app, red)
    assert (appeal.province, appeal.answering_province) == (GUANGDONG, SICHUAN)
    await stands(app, appeal, DELIVERED)
    (theirs,) = [
        each
        async for each in Appeals(issuer).list(unanswered=True)
        if each.appeal_id == appeal.appeal_id
    ]
    assert theirs.statement == STATEMENT
    assert theirs.attestation_id == red.attestation_id

    green = people.coloured("GREEN", 0.1, document=red.document, supersedes=red.attestation_id)
    await issuer.publish(green)
    answered = await Appeals(issuer).answer(
        uuid.UUID(appeal.appeal_id),
        Resolution.CORRECTED,
        "采样混淆，已更正",
        superseding=uuid.UUID(green.attestation_id),
    )
    seen = await stands(app, appeal, ANSWERED)
    assert seen.answer == answered.answer
    assert seen.answer.superseding_attestation_id == green.attestation_id
    assert (seen.file_time, seen.deliver_time) == (answered.file_time, answered.deliver_time)
    again = await Appeals(issuer).answer(
        uuid.UUID(appeal.appeal_id),
        Resolution.CORRECTED,
        "采样混淆，已更正",
        superseding=uuid.UUID(green.attestation_id),
    )
    assert again == answered
    with pytest.raises(AppealStateError):
        await Appeals(issuer).answer(uuid.UUID(appeal.appeal_id), Resolution.REJECTED, "又不更正了")
    assert not [
        each
        async for each in Appeals(issuer).list(unanswered=True)
        if each.appeal_id == appeal.appeal_id
    ]
    listed = [each async for each in Appeals(app).list(red.document)]
    assert [each.appeal_id for each in listed] == [appeal.appeal_id]


async def test_an_appeal_waits_for_a_province_that_is_down(exchange, parties, people):
    app, issuer, _ = parties
    red = await coloured(people, issuer)
    exchange.stop(SICHUAN)
    try:
        appeal = await filed(app, red)
        assert appeal.state == FILED

        await until("it is counted", lambda: undelivered(exchange) == 1)
        assert "tongxing_appeals_unanswered_age_seconds" in {name for name, *_ in scraped(exchange)}
    finally:
        exchange.start(SICHUAN, environment={"TONGXING_APPEALS__POLL_SECONDS": "0.2"})
    await stands(app, appeal, DELIVERED)
    await issuer.revoke(uuid.UUID(red.attestation_id), "误判")
    await Appeals(issuer).answer(uuid.UUID(appeal.appeal_id), Resolution.REVOKED, "误判，已撤销")
    await stands(app, appeal, ANSWERED)
    await until("it is counted no more", lambda: undelivered(exchange) == 0)


def signed_receipt(exchange, province=SICHUAN):
    at = now()
    receipt = Receipt(
        made_id(),
        province,
        Subject.RECOGNITION,
        Outcome.NOT_RECOGNIZED,
        Colour.RED,
        Verdict.NOT_RECOGNIZED_BY_RULE,
        at,
        bytes(32),
        1,
        (),
        (),
        (),
        uuid.uuid4().bytes,
        at,
    )
    path = exchange.directory / province / "attestation-key.pem"
    return receipts.sign(receipt, PrivateKey.from_pem(path.read_bytes(), None))


async def test_a_decision_is_answered_by_the_province_that_decided(exchange, parties, people):
    app, issuer, admin = parties
    receipt = signed_receipt(exchange)
    document = people.document()
    appeal = await Appeals(app).file(made_id(), document, STATEMENT, receipt=receipt)
    assert appeal.answering_province == SICHUAN
    await stands(app, appeal, DELIVERED)
    id_ = uuid.UUID(appeal.appeal_id)
    with pytest.raises(NotFoundError):
        await Appeals(issuer).get(id_)
    with pytest.raises(AppealStateError):
        await Appeals(admin).answer(id_, Resolution.REVOKED, "撤销")
    assert (await Appeals(admin).get(id_)).receipt == receipt
    await Appeals(admin).answer(id_, Resolution.UPHELD, "规则适用有误，已改正")
    seen = await stands(app, appeal, ANSWERED)
    assert seen.answer.resolution == pb.APPEAL_RESOLUTION_UPHELD


async def given_receipt(app, *documents):
    """What its province decides of somebody now, or of several in one batch: the receipts."""
    purpose = Purpose.PURPOSE_ENTRY_CHECK
    if len(documents) == 1:
        return [(await app.recognize(documents[0], purpose, receipt=True)).receipt]
    return [each.receipt for each in await app.recognize_all(documents, purpose, receipt=True)]


async def test_a_decision_is_contested_by_whom_it_was_about_alone(exchange, parties, people):
    app, _, _ = parties
    mine, theirs = people.document(), people.document()
    async with exchange.client(SICHUAN, "app") as decider:
        receipts_given = [
            (await given_receipt(decider, mine))[0],
            *await given_receipt(decider, theirs, mine),
        ]
        with pytest.raises(InvalidFieldError, match="given for another holder") as refused:
            await Appeals(decider).file(made_id(), theirs, STATEMENT, receipt=receipts_given[0])
        assert refused.value.field == "receipt"
        here = await Appeals(decider).file(made_id(), mine, STATEMENT, receipt=receipts_given[0])
        assert not here.holder_unchecked
    for receipt, holder in zip(receipts_given, (mine, theirs, mine), strict=True):
        other = theirs if holder is mine else mine
        wrong = await Appeals(app).file(made_id(), other, STATEMENT, receipt=receipt)
        assert (await stands(app, wrong, ANSWERED)).answer.resolution == (
            pb.APPEAL_RESOLUTION_REJECTED
        )
    right = await Appeals(app).file(made_id(), mine, STATEMENT, receipt=receipts_given[2])
    await stands(app, right, DELIVERED)


async def test_an_appeal_with_the_receipts_id_does_not_pass_for_the_decision(exchange, people):
    mine, theirs = people.document(), people.document()
    async with exchange.client(SICHUAN, "app") as app:
        (receipt,) = await given_receipt(app, mine)
        id_ = receipts.verify(receipt, exchange.trust(), now()).id
        # Within the second in which the log looks for the decision.
        await Appeals(app).file(id_, theirs, STATEMENT, receipt=signed_receipt(exchange))
        with pytest.raises(InvalidFieldError, match="given for another holder"):
            await Appeals(app).file(made_id(), theirs, STATEMENT, receipt=receipt)


async def test_anothers_receipt_is_refused_beside_an_attestation_too(exchange, parties, people):
    app, issuer, _ = parties
    red = await coloured(people, issuer)
    (receipt,) = await given_receipt(app, people.document())
    with pytest.raises(InvalidFieldError, match="given for another holder"):
        await filed(app, red, receipt=receipt)


async def test_of_a_decision_that_the_log_does_not_know_the_answering_node_says_so(
    exchange, parties, people
):
    app, _, admin = parties
    appeal = await Appeals(app).file(
        made_id(), people.document(), STATEMENT, receipt=signed_receipt(exchange)
    )
    await stands(app, appeal, DELIVERED)
    seen = await Appeals(admin).get(uuid.UUID(appeal.appeal_id))
    assert seen.holder_unchecked
    again = [each async for each in Appeals(admin).list() if each.appeal_id == appeal.appeal_id]
    assert again == [seen]


async def test_an_appeal_against_what_is_not_the_holders_ends_without_telling_whose_it_is(
    exchange, parties, people
):
    app, issuer, _ = parties
    red = await coloured(people, issuer)
    appeal = await Appeals(app).file(
        made_id(),
        people.document(),
        STATEMENT,
        attestation=(SICHUAN, uuid.UUID(red.attestation_id)),
    )
    other = await Appeals(app).file(
        made_id(), people.document(), STATEMENT, attestation=(SICHUAN, made_id())
    )
    ends = [(await stands(app, each, ANSWERED)).answer for each in (appeal, other)]
    assert {each.resolution for each in ends} == {pb.APPEAL_RESOLUTION_REJECTED}
    assert len({each.reason for each in ends}) == 1
    assert "四川" in ends[0].reason


async def test_the_answer_must_be_true(exchange, parties, people):
    app, issuer, admin = parties
    red = await coloured(people, issuer)
    appeal = await filed(app, red)
    await stands(app, appeal, DELIVERED)
    id_ = uuid.UUID(appeal.appeal_id)
    with pytest.raises(AppealStateError):  # it lives
        await Appeals(issuer).answer(id_, Resolution.REVOKED, "已撤销")
    unrelated = await coloured(people, issuer, "GREEN")
    for superseding in (made_id(), uuid.UUID(unrelated.attestation_id)):
        with pytest.raises(AppealStateError) as refused:
            await Appeals(issuer).answer(
                id_, Resolution.CORRECTED, "已更正", superseding=superseding
            )
        assert refused.value.field == "answer.superseding_attestation_id"
    correction = people.coloured("GREEN", 0.1, document=red.document, supersedes=red.attestation_id)
    await issuer.publish(correction)
    await issuer.revoke(uuid.UUID(correction.attestation_id), "又错了")
    with pytest.raises(AppealStateError):  # it lives no more
        await Appeals(issuer).answer(
            id_,
            Resolution.CORRECTED,
            "已更正",
            superseding=uuid.UUID(correction.attestation_id),
        )
    await Appeals(admin).answer(id_, Resolution.REJECTED, "情况属实")
    await stands(app, appeal, ANSWERED)


async def test_an_appeal_is_filed_once_and_about_one_thing_once_at_a_time(
    exchange, parties, people
):
    app, issuer, _ = parties
    red = await coloured(people, issuer)
    reference = (SICHUAN, uuid.UUID(red.attestation_id))
    id_ = made_id()
    once = await Appeals(app).file(id_, red.document, STATEMENT, attestation=reference)
    again = await Appeals(app).file(id_, red.document, STATEMENT, attestation=reference)
    assert again.file_time == once.file_time
    with pytest.raises(IdTakenError):
        await Appeals(app).file(id_, red.document, "另一理由", attestation=reference)
    with pytest.raises(IdTakenError):
        await Appeals(app).file(id_, people.document(), STATEMENT, attestation=reference)
    with pytest.raises(AppealStateError):
        await Appeals(app).file(made_id(), red.document, STATEMENT, attestation=reference)
    await stands(app, once, DELIVERED)
    await Appeals(issuer).answer(id_, Resolution.REJECTED, "情况属实")
    await stands(app, once, ANSWERED)
    anew = await Appeals(app).file(made_id(), red.document, STATEMENT, attestation=reference)
    await stands(app, anew, DELIVERED)
    listed = [each.appeal_id async for each in Appeals(app).list(red.document, page_size=1)]
    assert listed == [anew.appeal_id, once.appeal_id]


async def test_who_may_not_see_is_told_nothing(exchange, parties, people):
    app, issuer, admin = parties
    red = await coloured(people, issuer)
    appeal = await filed(app, red)
    await stands(app, appeal, DELIVERED)
    id_ = uuid.UUID(appeal.appeal_id)
    async with exchange.client(SICHUAN, "app") as stranger:
        with pytest.raises(NotFoundError):  # it was filed elsewhere
            await Appeals(stranger).get(id_)
        with pytest.raises(InvalidFieldError):
            [each async for each in Appeals(stranger).list()]
        with pytest.raises(CallerNotAllowedError):
            await Appeals(stranger).answer(id_, Resolution.REJECTED, "不")
    for caller in (issuer, admin):
        with pytest.raises(InvalidFieldError):
            [each async for each in Appeals(caller).list(red.document)]
    with pytest.raises(CallerNotAllowedError):
        await Appeals(issuer).file(made_id(), red.document, STATEMENT, receipt=b"x")
    async with exchange.client(GUANGDONG, "admin") as admin_of_guangdong:
        assert (await Appeals(admin_of_guangdong).get(id_)).statement == STATEMENT
        with pytest.raises(NotFoundError):  # Sichuan answers it
            await Appeals(admin_of_guangdong).answer(id_, Resolution.REJECTED, "不")


async def test_another_provinces_node_can_bring_only_its_own(exchange, parties, people):
    _, issuer, _ = parties
    red = await coloured(people, issuer)
    key = exchange.epoch_key()
    token = appeals_token(red.document, key)
    honest = pb.Appeal(
        appeal_id=str(made_id()),
        province=SHANGHAI,
        answering_province=SICHUAN,
        attestation_id=red.attestation_id,
        statement=STATEMENT,
        file_time=time_to_proto(now()),
    )

    def lying(**changes):
        message = pb.Appeal()
        message.CopyFrom(honest)
        message.appeal_id = str(made_id())
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    cases = [
        (lying(province=GUANGDONG), [token], "INVALID_FIELD"),
        (lying(answering_province=GUANGDONG), [token], "INVALID_FIELD"),
        (lying(), [bytes(36)], "NOT_FOUND"),
        (lying(), [], "NOT_FOUND"),
        (lying(), [b"short"], "INVALID_FIELD"),
        (lying(attestation_id=str(made_id())), [token], "NOT_FOUND"),
        (lying(attestation_id=""), [token], "INVALID_FIELD"),
        (lying(attestation_id="", receipt=b"rubbish"), [token], "MALFORMED_OBJECT"),
        (lying(receipt=b"rubbish"), [token], "MALFORMED_OBJECT"),
        (lying(statement=people.document().number), [token], "INVALID_FIELD"),
        (
            lying(attestation_id="", receipt=signed_receipt(exchange, SHANGHAI)),
            [token],
            "INVALID_FIELD",
        ),
        (honest, [token], ""),
        (honest, [token], ""),
        (lying(), [token], "APPEAL_STATE"),
    ]
    async with exchange.client(SICHUAN, "node", of=SHANGHAI) as node:
        answer = await node.call(
            "AppealService/ExchangeAppeals",
            pb.ExchangeAppealsRequest(
                appeals=[
                    pb.FiledAppeal(appeal=message, subject_tokens=tokens)
                    for message, tokens, _ in cases
                ]
            ),
            pb.ExchangeAppealsResponse,
        )
    found = [
        "" if item.status.code == code_pb2.OK else status.from_status(item.status).reason
        for item in answer.items
    ]
    assert found == [reason for _, _, reason in cases]
    taken = answer.items[11].appeal
    assert taken.state == DELIVERED
    assert not taken.statement
    assert taken == answer.items[12].appeal


def appeals_token(document, key):
    return Document(DocumentType.RESIDENT_ID, document.number).token(key)


# --- the store --------------------------------------------------------------------------------


@pytest.fixture
def box(store):
    return AppealStore(SICHUAN, store.reads, store.writes)


def kept(answering=SICHUAN, province=SICHUAN, at=None, **changes):
    values = {
        "id": made_id(),
        "province": province,
        "answering_province": answering,
        "attestation_id": made_id(),
        "receipt": b"",
        "statement": STATEMENT,
        "filed_at": at or now(),
        "delivered_at": at or now() if answering == SICHUAN else None,
    }
    appeal = Appeal(**values | changes)
    tokens = (b"t" * 36,) if province == SICHUAN else ()
    return Kept(appeal, ISSUER if answering == SICHUAN else "", tokens)


REJECTED = Answer(Resolution.REJECTED, "属实", None, now())


async def page(box, names=(), *, unanswered=False, after=b"", most=100, largest=1 << 30):
    return await box.page(names, unanswered=unanswered, after=after, most=most, largest=largest)


async def test_what_is_filed_is_found_by_whom_it_concerns(box):
    own, brought, sent = kept(), kept(province=SHANGHAI), kept(answering=GUANGDONG)
    for each in (own, brought, sent):
        assert await box.file(each) == each
    ids = {name: each.appeal.id for name, each in (("o", own), ("b", brought), ("s", sent))}

    async def found(names=(), **how):
        return {each.appeal.id for each in (await page(box, names, **how))[0]}

    assert await found() == set(ids.values())
    assert await found(of_holder([b"t" * 36])) == {ids["o"], ids["s"]}
    assert await found(of_issuer(ISSUER)) == {ids["o"], ids["b"]}
    assert await found(of_issuer("12510000MB2D00001X")) == set()
    assert await box.open_by(SHANGHAI) == 1
    assert await box.open_of([b"t" * 36, b"u" * 36]) == 2
    assert await box.waiting() == [GUANGDONG]
    await box.settle(ids["b"].bytes, answer=REJECTED)
    assert await found(unanswered=True) == {ids["o"], ids["s"]}
    assert await box.open_by(SHANGHAI) == 0


async def test_an_appeal_goes_from_filed_to_delivered_to_answered_and_never_back(box):
    sent = kept(answering=GUANGDONG)
    id_ = sent.appeal.id.bytes
    await box.file(sent)
    states = []

    async def carried(delivered):
        batch, end = await box.batch(GUANGDONG, delivered=delivered, after=b"", most=9)
        assert end == b""
        return batch

    for step in ({}, {"delivered_at": now()}, {"delivered_at": now() + timedelta(1)}):
        if step:
            await box.settle(id_, **step)
        states.append([len(await carried(False)), len(await carried(True))])
    assert states == [[1, 0], [0, 1], [0, 1]]
    first = await box.get(id_)
    await box.settle(id_, answer=REJECTED)
    second = await box.settle(id_, answer=dataclasses.replace(REJECTED, reason="另一"))
    assert second.appeal.answer == REJECTED
    assert second.appeal.delivered_at == first.appeal.delivered_at
    await box.file(sent)
    assert (await carried(False), await carried(True)) == ([], [])
    assert await box.waiting() == []


async def test_of_two_answers_at_once_one_stays_for_good(box):
    own = kept()
    await box.file(own)
    answers = [dataclasses.replace(REJECTED, reason=f"答复{at}") for at in range(20)]
    settled = await asyncio.gather(
        *(box.settle(own.appeal.id.bytes, answer=answer) for answer in answers)
    )
    assert len({each.appeal.answer.reason for each in settled}) == 1


async def test_an_appeal_that_nobody_filed_has_no_answer(box):
    with pytest.raises(NotFoundError):
        await box.settle(made_id().bytes, answer=REJECTED)
    assert await box.get(made_id().bytes) is None


async def test_an_id_is_no_way_into_anothers_list(box):
    mine = kept()
    await box.file(mine)
    theirs = Kept(mine.appeal, mine.issuer, (b"u" * 36,))
    with pytest.raises(IdTakenError):
        await box.file(theirs)
    brought = dataclasses.replace(mine.appeal, province=SHANGHAI)
    with pytest.raises(IdTakenError):
        await box.file(Kept(brought, ISSUER))
    assert (await page(box, of_holder([b"u" * 36])))[0] == []
    assert await box.open_by(SHANGHAI) == 0


async def test_a_crash_between_record_and_lists_is_healed_by_filing_again(box, raw):
    own = kept()
    await box.file(own)
    await raw.execute(b"HDEL", b"q:{%b}" % own.appeal.id.bytes, b"x")
    for name in (b"a", b"f", b"t", b"s" + b"t" * 36, b"i" + ISSUER.encode()):
        await raw.execute(b"DEL", b"ql:" + name, b"qo:" + name)
    assert (await page(box))[0] == []
    again = dataclasses.replace(own.appeal, filed_at=now() + timedelta(seconds=9))
    assert (await box.file(dataclasses.replace(own, appeal=again))).appeal == own.appeal
    for names in ((), of_holder([b"t" * 36]), of_issuer(ISSUER)):
        assert (await page(box, names, unanswered=True))[0] == [own]


async def test_a_crash_between_an_answer_and_its_lists_is_healed_by_the_courier(box, raw):
    sent = kept(answering=GUANGDONG)
    await box.file(sent)
    await box.settle(sent.appeal.id.bytes, delivered_at=now())
    answer = appeals.answer_to_proto(REJECTED).SerializeToString()
    await raw.execute(b"HSET", b"q:{%b}" % sent.appeal.id.bytes, b"r", answer)
    assert await box.open_of(sent.tokens) == 1
    await box.batch(GUANGDONG, delivered=True, after=b"", most=10)
    assert await box.open_of(sent.tokens) == 0
    assert await box.waiting() == []
    assert await page(box, unanswered=True) == ([], b"")


async def test_a_claim_whose_appeal_never_came_holds_nobody_up(box, raw):
    own = kept()
    await box.file(own)
    await raw.execute(b"DEL", b"q:{%b}" % own.appeal.id.bytes)  # as if it had never come
    another = dataclasses.replace(own.appeal, id=made_id())
    assert await box.file(dataclasses.replace(own, appeal=another))


async def test_two_provinces_may_contest_the_same_and_one_of_them_once(box):
    first = kept(province=SHANGHAI)
    await box.file(first)
    contested = first.appeal.attestation_id
    await box.file(kept(province=GUANGDONG, attestation_id=contested))
    with pytest.raises(AppealStateError):
        await box.file(kept(province=SHANGHAI, attestation_id=contested))
    await box.settle(first.appeal.id.bytes, answer=REJECTED)
    await box.file(kept(province=SHANGHAI, attestation_id=contested))


async def test_whoever_contests_anothers_attestation_keeps_nobody_from_an_appeal(box):
    # Its id stands in the codes that its holder shows; only the other province knows whose it is.
    other = kept(GUANGDONG)
    await box.file(dataclasses.replace(other, tokens=(b"u" * 36,)))
    contested = other.appeal.attestation_id
    own = await box.file(kept(GUANGDONG, attestation_id=contested))
    with pytest.raises(AppealStateError):
        await box.file(kept(GUANGDONG, attestation_id=contested))
    await box.settle(own.appeal.id.bytes, answer=REJECTED)
    await box.file(kept(GUANGDONG, attestation_id=contested))


async def test_pages_miss_nobody_while_others_come(box):
    start = now() - timedelta(hours=1)
    old = [kept(at=start + timedelta(seconds=each // 2)) for each in range(7)]
    for each in old:
        await box.file(each)
    seen, after = [], b""
    while True:
        part, after = await page(box, of_holder([b"t" * 36, b"u" * 36]), after=after, most=2)
        seen += part
        await box.file(kept())
        if not after:
            break
    found = [each.appeal.id for each in seen]
    expected = sorted(old, key=lambda each: (each.appeal.filed_at, each.appeal.id), reverse=True)
    assert found == [each.appeal.id for each in expected]


async def test_a_page_of_large_receipts_ends_early_and_goes_on(box):
    for _ in range(4):
        await box.file(kept(receipt=b"r" * 60_000))
    part, after = await page(box, largest=100_000)
    assert len(part) == 2
    rest, end = await page(box, largest=100_000, after=after)
    assert (len(rest), end) == (2, b"")


async def test_a_page_reads_little_more_than_it_gives(box, raw):
    # Of a thousand that a peer brought, each with 64 KiB, a call would take 64 MiB of memory.
    async def reads():
        stats = (await raw.execute(b"INFO", b"commandstats")).decode()
        return int(stats.partition("cmdstat_hmget:calls=")[2].partition(",")[0])

    for _ in range(80):
        await box.file(kept(receipt=b"r" * 1000))
    before = await reads()
    part, after = await page(box, most=1000, largest=1)
    assert len(part) == 1
    assert await reads() - before <= 40
    rest, _ = await page(box, most=1000, after=after)
    assert len(rest) == 79


async def test_a_page_token_of_nobody_is_refused(box):
    with pytest.raises(InvalidFieldError):
        await page(box, after=b"x" * 23)


async def test_all_are_counted_and_the_oldest_is_known(box, raw):
    assert await box.standing() == Standing(
        {State.FILED: 0, State.DELIVERED: 0, State.ANSWERED: 0},
        {State.DELIVERED: 0, State.ANSWERED: 0},
        None,
        None,
    )
    earlier, later = now() - timedelta(days=3), now() - timedelta(days=1)
    oldest, next_ = kept(at=earlier, province=SHANGHAI), kept(at=later, province=SHANGHAI)
    sent, taken = kept(answering=GUANGDONG), kept(answering=GUANGDONG)
    for each in (oldest, next_, sent, taken, kept()):
        await box.file(each)
    await box.settle(taken.appeal.id.bytes, delivered_at=now())
    found = await box.standing()
    assert found.filed == {State.FILED: 1, State.DELIVERED: 2, State.ANSWERED: 0}
    assert found.to_answer == {State.DELIVERED: 3, State.ANSWERED: 0}
    assert found.oldest_to_answer == earlier
    # A record that is gone is no reason for an alarm for ever.
    await raw.execute(b"DEL", b"q:{%b}" % oldest.appeal.id.bytes)
    assert (await box.standing()).oldest_to_answer == later
    await box.settle(next_.appeal.id.bytes, answer=REJECTED)
    found = await box.standing()
    assert found.to_answer == {State.DELIVERED: 1, State.ANSWERED: 1}
    assert found.oldest_to_answer >= later


async def test_an_appeal_is_kept_for_three_years(box, raw):
    own = kept()
    await box.file(own)
    ends = int((own.appeal.filed_at + appeals.KEPT).timestamp())
    for key in (b"q:{%b}" % own.appeal.id.bytes, b"ql:s" + b"t" * 36, b"qo:i" + ISSUER.encode()):
        assert await raw.execute(b"EXPIRETIME", key) == ends
    for key in await raw.execute(b"KEYS", b"qc:*"):
        assert await raw.execute(b"EXPIRETIME", key) == ends
    ancient = kept(at=now() - appeals.KEPT + timedelta(hours=1))
    await box.file(ancient)
    await raw.execute(b"DEL", b"q:{%b}" % ancient.appeal.id.bytes)
    await box.file(kept(at=now() + timedelta(hours=2)))
    assert await raw.execute(b"ZCARD", b"ql:a") == 2  # the ancient one has left


async def test_something_else_in_the_place_of_an_appeal_is_said_to_be_that(box, raw):
    id_ = made_id().bytes
    await raw.execute(b"HSET", b"q:{%b}" % id_, b"f", b"\xff\xff")
    with pytest.raises(StoreUnavailableError):
        await box.get(id_)


# --- the service's bounds ---------------------------------------------------------------------


@pytest.fixture
def service(exchange, store, box):
    """Sichuan's, on a store of its own; what it records, and how often it woke the courier."""
    trust = exchange.trust()
    key = exchange.epoch_key()

    class Subjects:
        def in_force(self, _):
            return [key]

    woken = []
    recorded = Recorded()
    made = AppealService(
        province=SICHUAN,
        store=box,
        attestations=store,
        verifier=AttestationVerifier(),
        trust=lambda: trust,
        subjects=Subjects(),
        clock=lambda: datetime.now(UTC),
        audit=recorded,
        filed=lambda: woken.append(1),
    )
    made.recorded, made.woken = recorded, woken
    return made


def called(role, province=SICHUAN, name="x"):
    return Call(Identity(province, role, name), "request-1")


def filing(document, **fields):
    return pb.FileAppealRequest(
        **{"appeal_id": str(made_id()), "document": document, "statement": STATEMENT} | fields
    )


async def test_every_look_and_act_is_recorded(service, exchange, people):
    document = people.document()
    app, admin = called(Role.APP), called(Role.ADMIN)
    request = filing(document, receipt=signed_receipt(exchange))
    answer = await service.file_appeal(request, app)
    assert answer.appeal.state == DELIVERED  # it is answered where it was filed
    assert service.woken
    await service.get_appeal(pb.GetAppealRequest(appeal_id=request.appeal_id), app)
    await service.list_appeals(pb.ListAppealsRequest(document=document), app)
    await service.answer_appeal(
        pb.AnswerAppealRequest(
            appeal_id=request.appeal_id, answer=pb.AppealAnswer(resolution=3, reason="误判")
        ),
        admin,
    )
    found = [(each.method, each.answer, each.target) for each in service.recorded]
    assert found == [
        ("FileAppeal", "DELIVERED", request.appeal_id),
        ("GetAppeal", "DELIVERED", request.appeal_id),
        ("ListAppeals", "1 appeal", ""),
        ("AnswerAppeal", "UPHELD", request.appeal_id),
    ]
    token = appeals_token(document, exchange.epoch_key())
    assert {each.token for each in service.recorded} == {token}


async def test_an_answer_is_recorded_though_its_caller_hangs_up(service, exchange, people, box):
    app, admin = called(Role.APP), called(Role.ADMIN)
    ids = []
    for ticks in range(1, 12):
        request = filing(people.document(), receipt=signed_receipt(exchange))
        await service.file_appeal(request, app)
        ids.append(request.appeal_id)
        answer = pb.AnswerAppealRequest(
            appeal_id=request.appeal_id, answer=pb.AppealAnswer(resolution=3, reason="误判")
        )
        answering = asyncio.create_task(service.answer_appeal(answer, admin))
        for _ in range(ticks):  # at every moment
            await asyncio.sleep(0)
        answering.cancel()
        await asyncio.wait({answering})
    async with asyncio.timeout(10):
        await acts.ended()
    await box.file(kept())  # what was written before is done
    answered = {id_ for id_ in ids if (await box.get(uuid.UUID(id_).bytes)).appeal.answer}
    assert answered
    recorded = {each.target for each in service.recorded if each.method == "AnswerAppeal"}
    assert recorded == answered


async def test_a_decision_is_contested_once_however_its_receipt_is_spelled(
    service, exchange, people
):
    signed, app = signed_receipt(exchange), called(Role.APP)
    tag, array = signed[:1], cbor2.loads(signed).value
    spelled = tag + cbor2.dumps([array[0], {99: "anything"}, *array[2:]])
    receipts.verify(spelled, exchange.trust(), now())
    holder = people.document()
    first = (await service.file_appeal(filing(holder, receipt=signed), app)).appeal.appeal_id
    with pytest.raises(AppealStateError, match="about the same") as refused:
        await service.file_appeal(filing(holder, receipt=spelled), app)
    assert refused.value.field == "receipt"
    assert first in refused.value.message
    with pytest.raises(AppealStateError, match="about the same") as refused:
        await service.file_appeal(filing(people.document(), receipt=spelled), app)
    assert first not in str(refused.value), "another holder's appeal is named"


async def test_a_holder_files_so_many_at_once_and_no_more(service, exchange, people, monkeypatch):
    monkeypatch.setattr(service_module, "OPEN_OF_HOLDER", 2)
    document, app = people.document(), called(Role.APP)
    for _ in range(2):
        await service.file_appeal(filing(document, receipt=signed_receipt(exchange)), app)
    with pytest.raises(OverloadedError):
        await service.file_appeal(filing(document, receipt=signed_receipt(exchange)), app)
    await service.file_appeal(filing(people.document(), receipt=signed_receipt(exchange)), app)


async def test_what_is_contested_here_must_be_here_and_the_holders(service, store, people):
    document = people.document()
    theirs = new()
    await store.publish(theirs)
    reference = pb.AttestationReference(
        province=SICHUAN, attestation_id=str(uuid.UUID(bytes=theirs.id))
    )
    with pytest.raises(NotFoundError):
        await service.file_appeal(filing(document, attestation=reference), called(Role.APP))
    assert not service.recorded


async def test_a_lying_peer_cannot_fill_the_store(service, exchange, store, monkeypatch):
    monkeypatch.setattr(service_module, "OPEN_BY_PEER", 3)
    records = [new() for _ in range(5)]
    for record in records:
        await store.publish(record)
    items = [
        pb.FiledAppeal(
            appeal=pb.Appeal(
                appeal_id=str(made_id()),
                province=SHANGHAI,
                answering_province=SICHUAN,
                attestation_id=str(uuid.UUID(bytes=record.id)),
                statement=STATEMENT,
                file_time=time_to_proto(now()),
            ),
            subject_tokens=[record.token],
        )
        for record in records
    ]
    request = pb.ExchangeAppealsRequest(appeals=items)
    for _ in range(2):  # those that it took, it knows again
        answer = await service.exchange_appeals(request, called(Role.NODE, SHANGHAI))
        codes = [item.status.code for item in answer.items]
        assert codes == [0, 0, 0, *[code_pb2.RESOURCE_EXHAUSTED] * 2]
    other = items[4]
    other.appeal.province = GUANGDONG
    answer = await service.exchange_appeals(
        pb.ExchangeAppealsRequest(appeals=[other]), called(Role.NODE, GUANGDONG)
    )
    assert answer.items[0].status.code == code_pb2.OK


# --- a province that answers nonsense ---------------------------------------------------------


class Liar:
    """A real gRPC server that answers ExchangeAppeals as it is told."""

    def __init__(self):
        self.say = None
        self.calls = []

    async def __aenter__(self):
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._serve)
        self._server.add_registered_method_handlers(
            "tongxing.v1.AppealService", {"ExchangeAppeals": handler}
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_):
        await self.channel.close()
        await self._server.stop(0)

    async def _serve(self, data, context):
        request = pb.ExchangeAppealsRequest.FromString(data)
        self.calls.append(request)
        answer = self.say(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "胡小君")
        return answer if isinstance(answer, bytes) else answer.SerializeToString()


@pytest.fixture
async def liar():
    async with Liar() as made:
        yield made


@pytest.fixture
async def courier(box, liar):
    """Carries from Sichuan's store to a Guangdong that lies; all other provinces are away."""

    class Link:
        channel = liar.channel

    class Peer:
        link = Link
        circuit_open = False

    class Links:
        def get(self, province, /):
            return Peer if province == GUANGDONG else None

    running = []

    def start(poll_seconds=0.05, **options):
        made = AppealCourier(
            box, Links(), lambda: datetime.now(UTC), poll_seconds=poll_seconds, **options
        )
        running.append(asyncio.create_task(made.run()))
        return made

    yield start
    for task in running:
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})


def honest(request, **fields):
    answer = pb.ExchangeAppealsResponse()
    for each in request.appeals:
        item = answer.items.add()
        item.appeal.appeal_id = each.appeal.appeal_id
        item.appeal.state = pb.APPEAL_STATE_DELIVERED
        item.appeal.deliver_time.CopyFrom(time_to_proto(now()))
        if fields:
            item.appeal.answer.CopyFrom(pb.AppealAnswer(**fields))
    return answer


def refusing(error):
    def say(request):
        answer = pb.ExchangeAppealsResponse()
        for _ in request.appeals:
            answer.items.add().status.CopyFrom(status.to_status(error))
        return answer

    return say


LIES = {
    "no answer": lambda _: None,
    "no message": lambda _: b"\xff\xff\xff",
    "too few": lambda _: pb.ExchangeAppealsResponse(),
    "too many": lambda r: pb.ExchangeAppealsResponse(items=[*honest(r).items] * 2),
    "another appeal": lambda r: pb.ExchangeAppealsResponse(
        items=[pb.ExchangeAppealsItem(appeal=pb.Appeal(appeal_id=str(made_id())))] * len(r.appeals)
    ),
    "no resolution": lambda r: honest(r, resolution=0, reason="好"),
    "not of an attestation": lambda r: honest(r, resolution=3, reason="好"),
    "an endless reason": lambda r: honest(r, resolution=4, reason="长" * 100_000),
    "a correction by nothing": lambda r: honest(r, resolution=1, reason="好"),
    "overloaded": refusing(OverloadedError("胡小君")),
    "an unknown key": refusing(UnknownIssuerError("胡小君")),
    "a reason of its own": refusing(TongxingError("胡小君")),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_province_that_lies_changes_nothing_and_is_believed_again(
    box, liar, courier, lie, capfd
):
    sent = kept(answering=GUANGDONG)
    away = kept(answering=SHANGHAI)
    for each in (sent, away):
        await box.file(each)
    liar.say = LIES[lie]
    courier()

    async def called_twice():
        return len(liar.calls) >= 2

    await until("it is called twice", called_twice)
    there = await box.get(sent.appeal.id.bytes)
    assert there.appeal.answer is None
    assert there.appeal.state is State.FILED
    liar.say = honest

    async def delivered():
        return (await box.get(sent.appeal.id.bytes)).appeal.state is State.DELIVERED

    await until("it is delivered", delivered)
    liar.say = lambda request: honest(request, resolution=4, reason="属实")

    async def has_answer():
        return (await box.get(sent.appeal.id.bytes)).appeal.answer

    answer = await until("it has an answer", has_answer)
    assert (answer.resolution, answer.reason) == (Resolution.REJECTED, "属实")
    assert (await box.get(away.appeal.id.bytes)).appeal.state is State.FILED
    assert "胡小君" not in "".join(capfd.readouterr())


async def test_what_it_will_never_take_ends_and_what_it_has_taken_does_not(box, liar, courier):
    taken, fresh = kept(answering=GUANGDONG), kept(answering=GUANGDONG)
    for each in (taken, fresh):
        await box.file(each)
    await box.settle(taken.appeal.id.bytes, delivered_at=now())
    liar.say = refusing(NotFoundError("胡小君"))
    courier()

    async def ended():
        return (await box.get(fresh.appeal.id.bytes)).appeal.answer

    answer = await until("it has ended", ended)
    assert answer.resolution is Resolution.REJECTED
    assert "胡小君" not in answer.reason
    assert (await box.get(taken.appeal.id.bytes)).appeal.answer is None


async def test_of_several_processes_each_brings_what_was_filed_and_one_asks(box, liar, courier):
    liar.say = honest
    quiet = courier(asks=False)
    sent = await delivered_at_once(box, quiet)
    quiet.wake()
    await asyncio.sleep(0.3)  # six polls' time
    assert len(liar.calls) == 1
    liar.say = lambda request: honest(request, resolution=4, reason="属实")
    courier()

    async def has_answer():
        return (await box.get(sent.appeal.id.bytes)).appeal.answer

    await until("it has an answer", has_answer)


async def test_what_waits_is_asked_about_in_turns(box, liar, courier, monkeypatch):
    monkeypatch.setattr(courier_module, "AT_ONCE", 2)
    waiting = [kept(answering=GUANGDONG) for _ in range(5)]
    for each in waiting:
        await box.file(each)
        await box.settle(each.appeal.id.bytes, delivered_at=now())
    liar.say = honest
    courier()

    async def all_asked():
        return {each.appeal.appeal_id for call in liar.calls for each in call.appeals} >= {
            str(each.appeal.id) for each in waiting
        }

    await until("all were asked about", all_asked)
    assert max(len(call.appeals) for call in liar.calls) == 2


async def delivered_at_once(box, courier):
    """File an appeal, and wait until the courier has delivered it; what was filed."""
    filed = kept(answering=GUANGDONG)
    await box.file(filed)
    courier.wake()

    async def delivered():
        return (await box.get(filed.appeal.id.bytes)).appeal.state is State.DELIVERED

    await until("it is delivered", delivered)
    return filed


async def test_what_is_filed_makes_nobody_be_asked_sooner(box, liar, courier):
    waiting = kept(answering=GUANGDONG)
    await box.file(waiting)
    await box.settle(waiting.appeal.id.bytes, delivered_at=now())
    liar.say = honest
    made = courier(poll_seconds=3600)
    for _ in range(3):
        await delivered_at_once(box, made)
    asked = [each.appeal.appeal_id for call in liar.calls for each in call.appeals]
    assert asked.count(str(waiting.appeal.id)) == 1


async def test_a_province_that_stalls_does_not_hold_the_others_up(box, liar, monkeypatch):
    monkeypatch.setattr(courier_module, "VISIT_SECONDS", 0.5)
    monkeypatch.setattr(courier_module, "AT_ONCE", 1)
    liar.say = honest
    async with Liar() as stalling:
        calls = []

        async def stall(request):
            calls.append(request)
            await asyncio.sleep(0.4)
            return refusing(UnknownIssuerError("not yet"))(request)

        stalling.say = stall
        for _ in range(100):
            await box.file(kept(answering=SHANGHAI))

        class Links:
            def get(self, province, /):
                channel = {SHANGHAI: stalling, GUANGDONG: liar}[province].channel
                return SimpleNamespace(link=SimpleNamespace(channel=channel), circuit_open=False)

        made = AppealCourier(box, Links(), lambda: datetime.now(UTC), poll_seconds=0.1)
        running = asyncio.create_task(made.run())

        async def stalled():
            return calls

        await until("it stalls", stalled)
        filed = kept(answering=GUANGDONG)
        await box.file(filed)
        made.wake()

        async def delivered():
            return (await box.get(filed.appeal.id.bytes)).appeal.state is State.DELIVERED

        await until("it is delivered", delivered)
        assert len(calls) < 50
        running.cancel()
        await asyncio.wait({running})


async def test_what_is_filed_goes_at_once(box, liar, courier):
    liar.say = honest
    made = courier(poll_seconds=3600)
    for _ in range(2):
        await delivered_at_once(box, made)


def test_calls_stay_below_what_a_door_takes():
    batch = [
        Filed(
            dataclasses.replace(kept(answering=GUANGDONG).appeal, receipt=b"r" * 65_536),
            (bytes(36),) * 6,
        )
        for _ in range(100)
    ]
    parts = courier_module._parts(batch)
    assert sum(map(len, parts)) == 100
    for part in parts:
        request = pb.ExchangeAppealsRequest(appeals=part)
        assert request.ByteSize() < 4 * 1024 * 1024
        assert all(len(each.subject_tokens) == 4 for each in part)
