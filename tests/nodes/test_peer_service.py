"""What a province answers the others and tells them, on a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from datetime import UTC, datetime

import pytest
import uvloop
from recording import Recorded
from storing import ISSUER, new

from exchange.errors import AuditUnavailableError, CursorExpiredError, OverloadedError
from exchange.presence import PresenceFilter, subject_of
from exchange.provinces import PROVINCES
from exchange.v1 import peer_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.identity import Identity, Role
from nodes.services.peer import PRESENCES, WATCHES, PeerService
from nodes.store import presence
from nodes.store.attestations import AttestationStore
from nodes.store.feed import Feed
from nodes.store.statuses import StatusStore

PROVINCE = "440000"


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


def called_by(province):
    return Call(Identity(province, Role.NODE, "node"), "request-1")


CALL = called_by("310000")


def now():
    return datetime.now(UTC)


@pytest.fixture
async def store(valkey):
    opened = await AttestationStore.open(valkey.url, PROVINCE)
    yield opened
    await opened.close()


@pytest.fixture
async def feed(valkey, store, changes):
    build = functools.partial(presence.build, store, valkey.url)
    made = Feed(changes, build, now, heartbeat=0.2)
    task = asyncio.create_task(made.run())
    yield made
    made.close()
    task.cancel()
    await asyncio.wait({task})


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def service(store, feed, recorded):
    statuses = StatusStore(PROVINCE, store.reads, store.writes)
    return PeerService(store, feed, functools.partial(statuses.each, PROVINCE), recorded)


async def fetched(service, *tokens, **fields):
    request = pb.FetchAttestationsRequest(subject_tokens=tokens, **fields)
    answer = await service.fetch_attestations(request, CALL)
    return pb.FetchAttestationsResponse.FromString(answer).subjects


async def whole(service):
    """The parts of GetPresence: header, filter, revoked places."""
    parts = [each async for each in service.get_presence(pb.GetPresenceRequest(), CALL)]
    kinds = [each.WhichOneof("part") for each in parts]
    assert kinds == sorted(kinds, key=["header", "bits", "revoked"].index)
    assert kinds.count("header") == 1
    header = parts[0].header
    bits = b"".join(each.bits for each in parts)
    assert len(bits) == header.size
    revoked = {each.revoked.list: each.revoked.bits for each in parts if each.HasField("revoked")}
    return header, PresenceFilter.from_bits(bits, header.hashes), revoked


async def watched(service, cursor, enough):
    """The messages until there are enough."""
    messages = []
    async with asyncio.timeout(10):
        async for data in service.watch_changes(pb.WatchChangesRequest(cursor=cursor), CALL):
            messages.append(pb.WatchChangesResponse.FromString(data))
            if enough(messages):
                break
    return messages


# FetchAttestations


async def test_live_and_revoked_attestations_are_told_apart(service, store):
    token = secrets.token_bytes(36)
    live, ended = new(token=token), new(token=token)
    for each in (live, ended):
        await store.publish(each)
    await store.revoke(ended.id, ISSUER, int(time.time()))
    (held,) = await fetched(service, token)
    assert list(held.signed_attestations) == [live.signed]
    assert list(held.revoked_attestations) == [ended.signed]


async def test_many_are_answered_in_their_order_also_those_with_nothing(service, store):
    records = [new(signed=b"\xd2" * length) for length in (1, 127, 128, 20_000)]
    for each in records:
        await store.publish(each)
    await store.revoke(records[1].id, ISSUER, int(time.time()))
    tokens = [secrets.token_bytes(36), *(each.token for each in records)]
    nothing, first, second, third, fourth = await fetched(service, *tokens)
    assert nothing == pb.SubjectAttestations()
    assert list(first.signed_attestations) == [records[0].signed]
    assert not second.signed_attestations
    assert list(second.revoked_attestations) == [records[1].signed]
    assert list(third.signed_attestations) == [records[2].signed]
    assert list(fourth.signed_attestations) == [records[3].signed]


# GetPresence


async def test_what_is_sent_is_recorded_of_each_subject_and_nothing_of_the_others(
    service, store, recorded
):
    first, second, ended = new(), new(), new()
    twice = new(token=second.token)
    for each in (first, second, ended, twice):
        await store.publish(each)
    await store.revoke(ended.id, ISSUER, int(time.time()))
    tokens = (first.token, secrets.token_bytes(36), second.token, ended.token)
    await fetched(service, *tokens, purpose=types_pb2.PURPOSE_ENTRY_CHECK)
    assert [(each.token, each.answer) for each in recorded] == [
        (first.token, "1 attestation"),
        (second.token, "2 attestations"),
        (ended.token, "0 attestations, 1 revoked"),
    ]
    assert {(each.caller, each.method, each.request_id, each.purpose) for each in recorded} == {
        ("spiffe://310000.tongxing/node/node", "FetchAttestations", "request-1", 1)
    }


async def test_nothing_is_sent_that_cannot_be_recorded(service, store, recorded):
    known = new()
    await store.publish(known)
    recorded.failing = True
    with pytest.raises(AuditUnavailableError):
        await fetched(service, known.token)
    assert await fetched(service, secrets.token_bytes(36)) == [pb.SubjectAttestations()]


async def test_an_empty_store_has_a_filter_with_nobody_in_it(service):
    header, made, revoked = await whole(service)
    assert len(header.cursor) == 32
    assert header.subjects == 0
    assert header.size % 8 == 0
    assert header.heartbeat.ToTimedelta().total_seconds() == pytest.approx(0.2)
    assert abs((now() - header.as_of_time.ToDatetime(UTC)).total_seconds()) < 60
    assert revoked == {}
    assert secrets.token_bytes(8) not in made


async def test_the_filter_goes_out_whole_in_pieces(service, store, feed):
    await feed.presence()
    large = PresenceFilter.sized(1_200_000)  # 2.4 MB
    large.add_all(random := secrets.token_bytes(8 * 1000))
    feed._filter = large
    parts = [each async for each in service.get_presence(pb.GetPresenceRequest(), CALL)]
    sizes = [len(each.bits) for each in parts if each.HasField("bits")]
    assert sizes == [1 << 20, 1 << 20, 2_400_000 - (2 << 20)]
    _, made, _ = await whole(service)
    assert all(random[at : at + 8] in made for at in range(0, len(random), 8))


async def test_revoked_places_are_told_with_the_filter(service, store):
    records = [new(place=(3, 0)), new(place=(3, 12)), new(place=(9, (1 << 18) - 1)), new()]
    for each in records:
        await store.publish(each)
    for each in records[1:]:
        await store.revoke(each.id, ISSUER, int(time.time()))
    _, _, revoked = await whole(service)
    found = {
        (number, index)
        for number, bits in revoked.items()
        for index in range(len(bits) * 8)
        if bits[index // 8] >> index % 8 & 1
    }
    assert found == {(3, 12), (9, (1 << 18) - 1)}


async def test_one_reading_of_the_filter_too_many_by_a_province_is_refused(service):
    def reading(call=CALL):
        return service.get_presence(pb.GetPresenceRequest(), call)

    first, *others = readings = [reading() for _ in range(PRESENCES)]
    for each in readings:
        await anext(each)
    with pytest.raises(OverloadedError):
        await anext(reading())
    await anext(another := reading(called_by("120000")))
    await first.aclose()  # its caller is gone
    await anext(later := reading())
    for each in (another, *others, later):
        await each.aclose()


async def test_the_revoked_lists_are_not_all_read_before_the_first_is_sent(store, feed):
    read = []

    async def lists():
        for number in range(3):
            read.append(number)
            yield number, b"\1"

    service = PeerService(store, feed, lists, Recorded())
    async with contextlib.aclosing(service.get_presence(pb.GetPresenceRequest(), CALL)) as parts:
        async for part in parts:
            if part.HasField("revoked"):
                assert read == list(range(part.revoked.list + 1))
    assert read == [0, 1, 2]


# WatchChanges


async def test_what_changes_after_the_filter_is_told(service, store):
    header, _, _ = await whole(service)
    published, ended = new(), new(place=(3, 12))
    for each in (published, ended):
        await store.publish(each)
    await store.revoke(ended.id, ISSUER, int(time.time()))
    messages = await watched(
        service, header.cursor, lambda m: m[-1].revocations and m[-1].HasField("as_of_time")
    )
    told = b"".join(each.subjects for each in messages)
    subjects = {told[at : at + 8] for at in range(0, len(told), 8)}
    assert subjects == {subject_of(each.token) for each in (published, ended)}
    (revoked,) = messages[-1].revocations
    assert (revoked.attestation_id, revoked.subject) == (ended.id, subject_of(ended.token))
    assert (revoked.place.list, revoked.place.index) == (3, 12)
    assert messages[-1].presence_generation == header.generation


async def test_one_without_a_place_is_told_without(service, store):
    record = new()
    header, _, _ = await whole(service)
    await store.publish(record)
    await store.revoke(record.id, ISSUER, int(time.time()))
    messages = await watched(service, header.cursor, lambda m: m[-1].revocations)
    assert not messages[-1].revocations[0].HasField("place")


async def test_a_batch_is_encoded_once_for_all_who_watch(service, store):
    header, _, _ = await whole(service)
    request = pb.WatchChangesRequest(cursor=header.cursor)
    watching = [
        service.watch_changes(request, called_by(province)) for province in list(PROVINCES)[:31]
    ]
    await asyncio.gather(*(anext(each) for each in watching))
    following = [asyncio.ensure_future(_until_change(each)) for each in watching]
    await store.publish(new())
    async with asyncio.timeout(10):
        told = await asyncio.gather(*following)
    assert all(each is told[0] for each in told)


async def _until_change(messages):
    async for data in messages:
        if pb.WatchChangesResponse.FromString(data).subjects:
            return data
    return None


async def test_a_cursor_of_another_store_is_refused(service):
    request = pb.WatchChangesRequest(cursor=bytes(32))
    with pytest.raises(CursorExpiredError):
        await anext(service.watch_changes(request, CALL))


async def told_once(service, cursor, call=CALL):
    """A stream that was told of the live end, and now waits."""
    stream = service.watch_changes(pb.WatchChangesRequest(cursor=cursor), call)
    while not pb.WatchChangesResponse.FromString(await anext(stream)).HasField("as_of_time"):
        pass
    return stream


async def told_each_once(service, cursor, count):
    return await asyncio.gather(*(told_once(service, cursor) for _ in range(count)))


async def test_a_provinces_newest_streams_win(service, store, feed):
    feed._heartbeat = 60  # so that they wait
    cursor = (await feed.presence()).cursor
    other = await told_once(service, cursor, called_by("120000"))
    streams = await told_each_once(service, cursor, WATCHES)
    waiting = [asyncio.ensure_future(_until_change(each)) for each in (other, *streams)]
    await asyncio.sleep(0)
    newest = await told_once(service, cursor)
    waiting.append(asyncio.ensure_future(_until_change(newest)))
    async with asyncio.timeout(10):
        with pytest.raises(OverloadedError, match="newer streams"):
            await waiting.pop(1)
        await store.publish(new())
        assert all(await asyncio.gather(*waiting))
    for each in (other, *streams, newest):
        await each.aclose()


async def test_a_province_that_does_not_read_its_streams_is_refused_more(service, feed):
    cursor = (await feed.presence()).cursor
    streams = await told_each_once(service, cursor, WATCHES)
    streams += await told_each_once(service, cursor, WATCHES)
    with pytest.raises(OverloadedError):
        await told_once(service, cursor)
    # The older half ends as soon as it is read; then there is room again.
    for each in streams[:WATCHES]:
        with pytest.raises(OverloadedError, match="newer streams"):
            await anext(each)
    streams.append(await told_once(service, cursor))
    for each in streams:
        await each.aclose()
    assert not service._watches._held
    assert not any(service._watching.values())
