"""Revocation on real nodes: places in status lists, who may revoke what, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.rpc import code_pb2, error_details_pb2
from recording import Recorded
from storing import new

from exchange import attestations, offline, publication, status, statuslist
from exchange.attestations import AttestationVerifier
from exchange.client import RevocationProgress
from exchange.client.admin import Keys
from exchange.errors import (
    CallerNotAllowedError,
    InvalidFieldError,
    MalformedObjectError,
    NotFoundError,
    OverloadedError,
    RevokedError,
)
from exchange.facts import Kind
from exchange.keys import PrivateKey
from exchange.recognition import Verdict
from exchange.statuslist import StatusLists, StatusReference
from exchange.subjects import credit_code_check
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import peer_service_pb2 as peer
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.identity import Identity, Role
from nodes.services import acts
from nodes.services.attestation import AttestationService
from nodes.store.attestations import AttestationStore
from nodes.store.records import NewRecord, Progress
from nodes.trial import TrialExchange

SICHUAN, GUANGDONG = "510000", "440000"
OTHER_BODY = "91510100MA61RHGX8"
OTHER = OTHER_BODY + credit_code_check(OTHER_BODY)
OTHER_ISSUER = types_pb2.Issuer(credit_code=OTHER, name="蓉东医学检验所")
REASON, AUTHORITY = "试剂批次不合格", "成都市示例卫生健康委员会"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("revocation"),
        (SICHUAN, GUANGDONG),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE, OTHER)},
        registry=True,
    )
    with trial:
        trial.start()
        yield trial
    no_traces(trial)
    assert "Traceback" not in trial.log(SICHUAN).read_text()


@pytest.fixture
async def issuer(exchange):
    async with exchange.client(SICHUAN, "issuer") as client:
        yield client


@pytest.fixture
async def other(exchange):
    async with exchange.client(SICHUAN, f"issuer-{OTHER}") as client:
        yield client


@pytest.fixture
async def admin(exchange):
    async with exchange.client(SICHUAN, "admin") as client:
        yield client


@pytest.fixture
async def app(exchange):
    async with exchange.client(SICHUAN, "app") as client:
        yield client


def logged(exchange, event):
    """What Sichuan's log says under an event's name."""
    lines = exchange.log(SICHUAN).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if line.get("event") == event]


async def signed_bytes(client, id_):
    answer = await client.call(
        "AttestationService/GetAttestation",
        pb.GetAttestationRequest(attestation_id=str(id_)),
        pb.GetAttestationResponse,
    )
    return answer.attestation.signed


async def publish_signed(client, signed):
    return await client.call(
        "AttestationService/PublishAttestation",
        pb.PublishAttestationRequest(signed_attestation=signed),
        pb.PublishAttestationResponse,
    )


async def set_in_list(exchange, app, status):
    """Whether a place is set in the list that its province signs now."""
    (signed,) = await app.status_lists([status.uri])
    found = statuslist.verify(signed, exchange.trust(), datetime.now(UTC))
    assert found.uri == status.uri
    return found.revoked(status.index)


async def refused(client, id_):
    with pytest.raises(RevokedError) as caught:
        await client.get(UUID(id_))
    return caught.value


async def ended(answers):
    """Every progress, of which the last says that it is done."""
    found = [each async for each in answers]
    assert [each.done for each in found] == [False] * (len(found) - 1) + [True]
    return found[-1]


# --- places ---------------------------------------------------------------------------------


async def test_each_attestation_has_a_place_of_its_own_and_keeps_it(issuer, people):
    messages = [people.tested() for _ in range(20)]
    published = [(await issuer.publish(message))[0] for message in messages]
    places = {(each.status.list, each.status.index) for each in published}
    assert {each.status.province for each in published} == {SICHUAN}
    assert len(places) == 20
    first = await signed_bytes(issuer, published[0].id)
    again, already = await issuer.publish(messages[0])
    assert already
    assert again == published[0]
    assert await signed_bytes(issuer, published[0].id) == first


async def test_revoking_sets_its_place_in_the_signed_list_and_no_other(
    exchange, issuer, app, people
):
    (one, _), (two, _) = [await issuer.publish(people.tested()) for _ in range(2)]
    assert not await set_in_list(exchange, app, one.status)
    await issuer.revoke(one.id, REASON)
    assert await set_in_list(exchange, app, one.status)
    assert not await set_in_list(exchange, app, two.status)


async def test_a_gate_without_a_connection_refuses_what_was_revoked(exchange, issuer, app, people):
    message = people.tested()
    published, _ = await issuer.publish(message)
    signed = await signed_bytes(issuer, published.id)
    trust, verifier, lists = exchange.trust(), AttestationVerifier(), StatusLists()
    now = datetime.now(UTC)

    def verdict(at):
        return offline.check(signed, trust=trust, statuses=lists, verifier=verifier, now=at)[0]

    assert verdict(now) is Verdict.STALE  # nothing is known of it yet
    (fetched,) = await app.status_lists([published.status.uri])
    held = lists.offer(fetched, trust, now)
    assert verdict(now) is Verdict.ACCEPTED
    assert verdict(held.issued_at + held.ttl) is Verdict.STALE
    await issuer.revoke(published.id, REASON)
    (fetched,) = await app.status_lists([published.status.uri])
    lists.offer(fetched, trust, now)
    assert verdict(now) is Verdict.REVOKED
    assert verdict(held.issued_at + held.ttl + timedelta(minutes=1)) is Verdict.REVOKED


async def test_a_list_that_was_never_opened_is_not_given(app, issuer, people):
    published, _ = await issuer.publish(people.tested())
    unknown = statuslist.list_uri(SICHUAN, (published.status.list + 5000) % (1 << 31))
    good, missing, wrong = await app.status_lists([published.status.uri, unknown, "spiffe://x/y"])
    assert isinstance(good, bytes)
    assert isinstance(missing, NotFoundError)
    assert isinstance(wrong, InvalidFieldError)


# --- one, and who may -----------------------------------------------------------------------


async def test_why_it_was_revoked_is_kept_told_and_logged(exchange, issuer, people):
    message = people.tested()
    await issuer.publish(message)
    id_ = UUID(message.attestation_id)
    at = await issuer.revoke(id_, REASON, AUTHORITY)
    assert await issuer.revoke(id_, "另一原因") == at
    error = await refused(issuer, message.attestation_id)
    assert error.field == "attestation_id"
    assert f"{at:%Y-%m-%dT%H:%M:%SZ}" in error.message
    assert REASON in error.message
    assert AUTHORITY in error.message
    lines = logged(exchange, "attestation.revoked")
    line = next(each for each in lines if each["id"] == str(id_))
    assert line["by"] == f"issuer/{people.issuer.credit_code}"
    assert (line["reason"], line["authority"]) == (REASON, AUTHORITY)
    with pytest.raises(RevokedError):
        await issuer.publish(message)


async def test_an_issuer_ends_its_own_alone_and_an_admin_any(
    exchange, issuer, other, admin, people
):
    mine, theirs = people.tested(), people.tested(issuer=OTHER_ISSUER)
    await issuer.publish(mine)
    await other.publish(theirs)
    for client, message in ((issuer, theirs), (other, mine)):
        with pytest.raises(NotFoundError):
            await client.revoke(UUID(message.attestation_id), REASON)
    await issuer.get(UUID(mine.attestation_id))
    for message in (mine, theirs):
        await admin.revoke(UUID(message.attestation_id), REASON, AUTHORITY)
    assert REASON in (await refused(other, theirs.attestation_id)).message
    assert REASON in (await refused(issuer, mine.attestation_id)).message
    by = {line["by"] for line in logged(exchange, "attestation.revoked")}
    assert "admin/admin" in by


@pytest.mark.parametrize("written", ["{}", " {} ", "见{}号"])
async def test_words_that_hold_an_identity_number_are_refused_and_not_logged(
    issuer, people, written
):
    message = people.tested()
    await issuer.publish(message)
    number = message.document.number
    spaced = f"{number[:6]} {number[6:14]}-{number[14:]}"
    for words in (written.format(number), written.format(spaced)):
        for given, field in ((("x" + words, ""), "reason"), ((REASON, words), "authority")):
            with pytest.raises(InvalidFieldError) as caught:
                await issuer.revoke(UUID(message.attestation_id), *given)
            assert caught.value.field == field
            assert number not in str(caught.value)
    await issuer.get(UUID(message.attestation_id))


async def test_a_reason_that_says_nothing_is_refused(issuer, people):
    message = people.tested()
    await issuer.publish(message)
    for reason in ("", " ", "—"):
        with pytest.raises(InvalidFieldError) as caught:
            await issuer.revoke(UUID(message.attestation_id), reason)
        assert caught.value.field == "reason"


# --- many -----------------------------------------------------------------------------------


async def test_of_many_each_answers_for_itself(exchange, issuer, other, app, people, new_id):
    mine = [people.tested() for _ in range(3)]
    published = [(await issuer.publish(message))[0] for message in mine]
    theirs = people.tested(issuer=OTHER_ISSUER)
    await other.publish(theirs)
    unspelled = mine[2].attestation_id.replace("-", "")
    texts = [
        mine[0].attestation_id,
        theirs.attestation_id,
        mine[1].attestation_id.upper(),
        new_id(),
        unspelled,
        "510000-1",
        mine[0].attestation_id,
    ]
    answer = await issuer.call(
        "AttestationService/BatchRevokeAttestations",
        pb.BatchRevokeAttestationsRequest(
            attestation_ids=texts, reason=REASON, authority=AUTHORITY
        ),
        pb.BatchRevokeAttestationsResponse,
    )
    codes = [item.status.code for item in answer.items]
    assert codes == [0, 5, 0, 5, 3, 3, 0]
    assert answer.items[0].revoke_time == answer.items[6].revoke_time
    assert "attestation_ids[3]" in answer.items[3].status.message
    for attestation, whether in zip(published, (True, True, False), strict=True):
        assert await set_in_list(exchange, app, attestation.status) is whether
    await other.get(UUID(theirs.attestation_id))


async def test_the_client_gives_a_time_or_an_error_for_each(issuer, people, new_id):
    message = people.tested()
    await issuer.publish(message)
    ids = [UUID(message.attestation_id), UUID(new_id())]
    at, error = await issuer.revoke_all(ids, REASON)
    assert at <= datetime.now(UTC)
    assert isinstance(error, NotFoundError)
    assert error.field == "attestation_ids[1]"


async def test_more_than_a_thousand_ids_are_refused(issuer, new_id):
    with pytest.raises(InvalidFieldError) as caught:
        await issuer.revoke_all([UUID(new_id()) for _ in range(1001)], REASON)
    assert caught.value.field == "attestation_ids"


# --- a bad batch ----------------------------------------------------------------------------


@pytest.fixture
async def batch(issuer, other, people):
    """A laboratory's samples of three nights ago, of the night before, and others' of that night;
    and that night's range of time."""
    night = 24 * 3
    bad = [people.tested(hours=night + at / 3600) for at in range(5)]
    before = people.tested(hours=night + 24)
    coloured = people.coloured("GREEN", hours=night)
    theirs = people.tested(hours=night, issuer=OTHER_ISSUER)
    end = datetime.now(UTC) - timedelta(hours=night) + timedelta(minutes=1)
    for message in (*bad, before, coloured):
        await issuer.publish(message)
    await other.publish(theirs)
    return bad, before, coloured, theirs, end - timedelta(minutes=2), end


async def test_all_of_an_issuers_samples_of_a_time_end_and_no_other(
    exchange, issuer, other, admin, people, batch
):
    bad, before, coloured, theirs, start, end = batch
    code = people.issuer.credit_code
    tests = [Kind.NUCLEIC_ACID_TEST]

    def revoke(client, **how):
        return client.revoke_issuer(code, start, end, REASON, AUTHORITY, **how)

    counted = await ended(revoke(issuer, kinds=tests, dry=True))
    assert (counted.revoked, counted.already_revoked) == (5, 0)
    assert counted.looked_at >= 8
    for message in bad:
        await issuer.get(UUID(message.attestation_id))
    await issuer.revoke(UUID(bad[0].attestation_id), "先行撤销")
    done = await ended(revoke(admin, kinds=tests))
    assert (done.revoked, done.already_revoked) == (4, 1)
    assert "先行撤销" in (await refused(issuer, bad[0].attestation_id)).message
    for message in bad[1:]:
        assert AUTHORITY in (await refused(issuer, message.attestation_id)).message
    for client, message in ((issuer, before), (issuer, coloured), (other, theirs)):
        await client.get(UUID(message.attestation_id))
    again = await ended(revoke(issuer))  # of all kinds
    assert (again.revoked, again.already_revoked) == (1, 5)
    await refused(issuer, coloured.attestation_id)
    line = logged(exchange, "attestation.issuer_revoked")[-2]
    assert (line["issuer"], line["by"], line["done"]) == (code, "admin/admin", True)
    assert (line["revoked"], line["already_revoked"]) == (4, 1)
    assert (line["reason"], line["authority"]) == (REASON, AUTHORITY)


async def test_what_was_only_counted_is_not_logged_as_revoked(exchange, issuer, people):
    before = len(logged(exchange, "attestation.issuer_revoked"))
    now = datetime.now(UTC)
    answers = issuer.revoke_issuer(
        people.issuer.credit_code, now - timedelta(days=9), now, REASON, dry=True
    )
    assert isinstance(await ended(answers), RevocationProgress)
    assert len(logged(exchange, "attestation.issuer_revoked")) == before


async def test_an_issuer_may_not_end_anothers_batch(issuer):
    now = datetime.now(UTC)
    with pytest.raises(CallerNotAllowedError) as caught:
        await ended(issuer.revoke_issuer(OTHER, now - timedelta(days=1), now, REASON))
    assert caught.value.field == "credit_code"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"end": timedelta(0)}, "sample_end_time"),
        ({"end": timedelta(seconds=-1)}, "sample_end_time"),
        ({"end": timedelta(days=400, seconds=1)}, "sample_end_time"),
        ({"reason": ""}, "reason"),
        ({"credit_code": OTHER_BODY + ("0" if OTHER[-1] != "0" else "1")}, "credit_code"),
        ({"credit_code": "510000"}, "credit_code"),
    ],
)
async def test_a_batch_that_is_not_well_described_is_refused(admin, wrong, field):
    start = datetime.now(UTC) - timedelta(days=500)
    end = start + wrong.get("end", timedelta(days=400))
    code, reason = wrong.get("credit_code", OTHER), wrong.get("reason", REASON)
    with pytest.raises(InvalidFieldError) as caught:
        await ended(admin.revoke_issuer(code, start, end, reason))
    assert caught.value.field == field


async def test_a_year_before_1970_is_refused(admin):
    request = pb.RevokeIssuerAttestationsRequest(credit_code=OTHER, reason=REASON)
    request.sample_start_time.seconds = -1
    request.sample_end_time.seconds = 1
    with pytest.raises(InvalidFieldError) as caught:
        async for _ in admin.stream(
            "AttestationService/RevokeIssuerAttestations",
            request,
            pb.RevokeIssuerAttestationsResponse,
        ):
            pass
    assert caught.value.field == "sample_start_time"


@pytest.mark.parametrize("who", ["app", "node"])
async def test_an_app_and_a_node_revoke_nothing(exchange, who):
    now = datetime.now(UTC)
    async with exchange.client(SICHUAN, who) as client:
        with pytest.raises(CallerNotAllowedError):
            await ended(client.revoke_issuer(OTHER, now - timedelta(days=1), now, REASON))


class SlowStore:
    """A store so large that going through it takes until the test has seen enough."""

    def __init__(self):
        self.walking = 0
        self.begun = asyncio.Event()
        self.end = asyncio.Event()

    async def revoke_issuer(self, *_, **__):
        self.walking += 1
        self.begun.set()
        try:
            await self.end.wait()
            yield Progress(1, 0, 0)
        finally:
            self.walking -= 1


def service_of(store, audit):
    """A service that only revokes."""
    return AttestationService(
        store=store,
        publisher=None,
        verifier=None,
        trust=None,
        clock=lambda: datetime.now(UTC),
        audit=audit,
    )


async def test_a_walk_that_was_broken_off_is_not_recorded_as_less_than_it_did():
    store, recorded = SlowStore(), Recorded()
    service = service_of(store, recorded)
    request = pb.RevokeIssuerAttestationsRequest(credit_code=OTHER, reason=REASON)
    request.sample_start_time.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    request.sample_end_time.FromDatetime(datetime.now(UTC))
    call = Call(Identity(SICHUAN, Role.ADMIN, "chen"), "request-1")
    walk = asyncio.create_task(anext(service.revoke_issuer_attestations(request, call)))
    await store.begun.wait()
    walk.cancel()  # what is on its way to the store is revoked all the same
    await asyncio.wait({walk})
    assert [each.answer for each in recorded] == ["at least 0 revoked, not to the end"]


@pytest.mark.parametrize("many", [False, True])
async def test_a_revocation_is_recorded_though_its_caller_hangs_up(store, many):
    recorded = Recorded()
    service = service_of(store, recorded)
    call = Call(Identity(SICHUAN, Role.ADMIN, "chen"), "request-1")
    records = [new() for _ in range(12)]
    for record in records:
        await store.publish(record)
    for ticks, record in enumerate(records, 1):
        id_ = str(UUID(bytes=record.id))
        if many:
            request = pb.BatchRevokeAttestationsRequest(attestation_ids=[id_], reason=REASON)
            revoking = asyncio.create_task(service.batch_revoke_attestations(request, call))
        else:
            request = pb.RevokeAttestationRequest(attestation_id=id_, reason=REASON)
            revoking = asyncio.create_task(service.revoke_attestation(request, call))
        for _ in range(ticks):  # at every moment
            await asyncio.sleep(0)
        revoking.cancel()
        await asyncio.wait({revoking})
    async with asyncio.timeout(10):
        await acts.ended()
    await store.publish(new())  # what was written before is done
    revoked = {str(UUID(bytes=each.id)) for each in records if await store.revocation(each.id)}
    assert revoked
    assert {each.target for each in recorded} == revoked


async def test_more_walks_than_the_node_or_a_caller_may_have_are_refused():
    store = SlowStore()
    service = service_of(store, Recorded())
    request = pb.RevokeIssuerAttestationsRequest(
        credit_code=OTHER, reason=REASON, validate_only=True
    )
    request.sample_start_time.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    request.sample_end_time.FromDatetime(datetime.now(UTC))

    async def walk(role, name):
        call = Call(Identity(SICHUAN, role, name), "request-1")
        async with asyncio.timeout(10):
            return [each async for each in service.revoke_issuer_attestations(request, call)]

    async def begun(role, name):
        store.begun.clear()
        task = asyncio.create_task(walk(role, name))
        async with asyncio.timeout(10):
            await store.begun.wait()
        return task

    first = await begun(Role.ISSUER, OTHER)
    with pytest.raises(OverloadedError, match="this caller"):
        await walk(Role.ISSUER, OTHER)
    second = await begun(Role.ADMIN, "admin")
    with pytest.raises(OverloadedError, match="the node has 2") as caught:
        await walk(Role.ADMIN, "another")
    answer = status.to_status(caught.value)
    assert answer.code == code_pb2.RESOURCE_EXHAUSTED
    assert any(each.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for each in answer.details)

    first.cancel()  # its caller is gone: there is room again, also for the same
    await asyncio.wait({first})
    third = await begun(Role.ISSUER, OTHER)
    store.end.set()
    for task in (second, third):
        assert (await task)[-1].done
    assert (await walk(Role.ISSUER, OTHER))[-1].done
    assert not store.walking


async def test_streams_that_their_callers_left_are_not_counted(exchange):
    async with exchange.client(SICHUAN, "node") as node, asyncio.timeout(20):
        left = 10
        while left:
            parts = node.stream(
                "PeerService/GetPresence", peer.GetPresenceRequest(), peer.GetPresenceResponse
            )
            with contextlib.suppress(OverloadedError):  # the last ones are ending
                cursor = (await anext(parts)).header.cursor
                left -= 1
            await parts.aclose()
        for _ in range(20):
            changes = node.stream(
                "PeerService/WatchChanges",
                peer.WatchChangesRequest(cursor=cursor),
                peer.WatchChangesResponse,
            )
            await anext(changes)
            await changes.aclose()


# --- corrections ----------------------------------------------------------------------------


async def test_what_is_corrected_dies_also_for_a_gate_without_a_connection(
    exchange, issuer, app, people
):
    wrong = people.tested(result="POSITIVE")
    right = people.tested(document=wrong.document, supersedes=wrong.attestation_id)
    old, _ = await issuer.publish(wrong)
    await issuer.publish(right)
    assert await set_in_list(exchange, app, old.status)
    error = await refused(issuer, wrong.attestation_id)
    assert f"superseded by {right.attestation_id}" in error.message
    lines = logged(exchange, "attestation.revoked")
    (line,) = [each for each in lines if each["id"] == wrong.attestation_id]
    assert line["by"] == f"issuer/{people.issuer.credit_code}"
    await issuer.get(UUID(right.attestation_id))


async def test_a_correction_may_end_before_what_it_corrects(issuer, people, hours_ago):
    wrong = people.tested(result="POSITIVE")
    right = people.tested(
        document=wrong.document, supersedes=wrong.attestation_id, expire_time=hours_ago(-1)
    )
    await issuer.publish(wrong)
    await issuer.publish(right)
    await refused(issuer, wrong.attestation_id)


def key_of(exchange):
    """The key that Sichuan began with, as a signing service elsewhere has it."""
    path = exchange.directory / SICHUAN / "attestation-key.pem"
    return PrivateKey.from_pem(path.read_bytes(), None)


def drafted(exchange, people, message, **changes):
    found = publication.draft(
        message,
        province=SICHUAN,
        author=people.issuer.credit_code,
        epoch=exchange.epoch_key(),
        now=datetime.now(UTC) - timedelta(minutes=1),
    )
    return dataclasses.replace(found, **changes)


async def test_a_correction_said_again_after_a_crash_ends_the_old_one(exchange, issuer, people):
    wrong = people.tested(result="POSITIVE")
    await issuer.publish(wrong)
    correction = drafted(
        exchange,
        people,
        people.tested(document=wrong.document, supersedes=wrong.attestation_id),
    )
    signed = attestations.sign(correction, key_of(exchange))
    # What a node leaves that dies after it has stored the new one.
    store = await AttestationStore.open(f"unix://{exchange.store(SICHUAN)}", SICHUAN)
    try:
        await store.publish(
            NewRecord(
                correction.id.bytes,
                correction.token,
                correction.issuer.credit_code,
                attestations.digest(correction),
                int(correction.expires_at.timestamp()),
                signed,
            )
        )
    finally:
        await store.close()
    await issuer.get(UUID(wrong.attestation_id))
    assert (await publish_signed(issuer, signed)).already_published
    error = await refused(issuer, wrong.attestation_id)
    assert f"superseded by {correction.id}" in error.message


async def test_a_correction_may_be_said_again_after_the_old_one_has_ended(issuer, people):
    wrong = people.tested(result="POSITIVE")
    wrong.expire_time.FromSeconds(int(datetime.now(UTC).timestamp()) + 2)
    right = people.tested(document=wrong.document, supersedes=wrong.attestation_id)
    await issuer.publish(wrong)
    await issuer.publish(right)
    while datetime.now(UTC).timestamp() < wrong.expire_time.seconds + 0.5:
        _, already = await issuer.publish(right)
        assert already
    with pytest.raises(NotFoundError):
        await issuer.get(UUID(wrong.attestation_id))
    _, already = await issuer.publish(right)
    assert already


async def test_another_issuers_or_holders_attestation_is_not_ended_by_a_correction(
    issuer, other, people
):
    theirs = people.tested(issuer=OTHER_ISSUER)
    await other.publish(theirs)
    mine = people.tested()
    await issuer.publish(mine)
    for correction in (
        people.tested(document=theirs.document, supersedes=theirs.attestation_id),
        people.tested(supersedes=mine.attestation_id),  # of another holder
    ):
        with pytest.raises(InvalidFieldError) as caught:
            await issuer.publish(correction)
        assert caught.value.field == "attestation.supersedes"
    await other.get(UUID(theirs.attestation_id))
    await issuer.get(UUID(mine.attestation_id))


# --- signed elsewhere -----------------------------------------------------------------------


async def test_what_was_signed_elsewhere_without_a_place_is_stored_and_can_be_revoked(
    exchange, issuer, people
):
    attestation = drafted(exchange, people, people.tested())
    signed = attestations.sign(attestation, key_of(exchange))
    assert (await publish_signed(issuer, signed)).attestation.signed == signed
    await issuer.revoke(attestation.id, REASON)
    assert REASON in (await refused(issuer, str(attestation.id))).message


async def test_what_was_signed_elsewhere_with_a_place_in_an_open_list_is_revoked_there(
    exchange, issuer, app, people
):
    known, _ = await issuer.publish(people.tested())
    status = dataclasses.replace(known.status, index=known.status.index ^ 1)
    attestation = drafted(exchange, people, people.tested(), status=status)
    await publish_signed(issuer, attestations.sign(attestation, key_of(exchange)))
    assert not await set_in_list(exchange, app, status)
    await issuer.revoke(attestation.id, REASON)
    assert await set_in_list(exchange, app, status)
    assert not await set_in_list(exchange, app, known.status)


async def test_a_place_in_a_list_that_this_node_has_not_opened_is_refused(exchange, issuer, people):
    known, _ = await issuer.publish(people.tested())
    unopened = dataclasses.replace(known.status, list=(known.status.list + 5000) % (1 << 31))
    attestation = drafted(exchange, people, people.tested(), status=unopened)
    with pytest.raises(InvalidFieldError) as caught:
        await publish_signed(issuer, attestations.sign(attestation, key_of(exchange)))
    assert caught.value.field == "signed_attestation.status"
    with pytest.raises(NotFoundError):
        await issuer.get(attestation.id)


async def test_a_place_in_another_provinces_list_is_refused(exchange, issuer, people):
    status = StatusReference(GUANGDONG, 1, 1)
    attestation = drafted(exchange, people, people.tested(), status=status)
    with pytest.raises(MalformedObjectError) as caught:
        await publish_signed(issuer, attestations.sign(attestation, key_of(exchange)))
    assert caught.value.field.startswith("signed_attestation.status")


# --- under a new key; the last, for it ends what was signed before ---------------------------


async def test_what_is_signed_again_under_a_new_key_keeps_its_place(exchange, admin, app, people):
    message = people.tested()
    trust = exchange.live_trust("revocation")
    async with exchange.client(SICHUAN, "issuer", trust=trust) as issuer:
        first, _ = await issuer.publish(message)
        old = await signed_bytes(issuer, first.id)
        (active,) = [key.kid for key in (await Keys(admin).list()).keys if key.held]
        await Keys(admin).revoke(active, emergency=True)
        second, already = await issuer.publish(message)
        assert not already
        assert second.status == first.status
        assert await signed_bytes(issuer, first.id) != old
        third, already = await issuer.publish(message)
        assert already
        assert third == second
        await issuer.revoke(first.id, REASON)
    async with exchange.client(SICHUAN, "app", trust=trust) as gate:
        (signed,) = await gate.status_lists([first.status.uri])
        found = statuslist.verify(signed, trust(), datetime.now(UTC))
        assert found.revoked(first.status.index)
