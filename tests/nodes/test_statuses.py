from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis
import uvloop
from storing import ISSUER, eventually, like, new

from exchange.errors import InternalError, InvalidFieldError, StoreUnavailableError
from exchange.facts import Kind
from exchange.statuslist import LIST_SIZE, StatusList
from exchange.vouching import CLOCK_SKEW
from nodes.store.attestations import KEPT_LONGER, AttestationStore
from nodes.store.connection import Connection
from nodes.store.records import NewRecord, Record
from nodes.store.statuses import LIST_BYTES, SLICES, StatusStore, _Places
from nodes.store.writer import Change

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
AT = 1_700_000_000


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture
def statuses(store: AttestationStore) -> StatusStore:
    return StatusStore(SICHUAN, store.reads, store.writes)


def indices(bits: bytes | bytearray | None) -> set[int]:
    assert bits is not None
    assert len(bits) == LIST_BYTES
    return {
        at * 8 + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    }


async def calls(raw: Connection, command: str) -> int:
    stats = (await raw.execute(b"INFO", b"commandstats")).decode()
    found = [line for line in stats.splitlines() if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].split("calls=")[1].split(",")[0]) if found else 0


# Places


def test_a_lists_slices_give_every_place_once_and_in_no_order():
    drawn = []
    for slice_ in range(SLICES):
        places = _Places(5, slice_)
        given = [places.draw() for _ in range(LIST_SIZE // SLICES)]
        assert not places
        assert {number for number, _ in given} == {5}
        drawn += [index for _, index in given]
        near = sum(
            abs(one - other) < 100 for one, other in itertools.pairwise(index for _, index in given)
        )
        assert near < len(given) // 300  # 0.08 % would be near by chance
    assert sorted(drawn) == list(range(LIST_SIZE))


async def test_places_are_given_without_a_write_each(statuses, raw):
    at_once = await asyncio.gather(*(statuses.place(Kind.VACCINATION) for _ in range(1000)))
    assert len(set(at_once)) == 1000
    assert len({number for number, _ in at_once}) == 1
    assert await calls(raw, "incr") == 1


async def test_every_kind_has_its_own_list_and_every_process_a_slice_of_it(store, statuses):
    second = StatusStore(SICHUAN, store.reads, store.writes)
    given = {
        kind: [await each.place(kind) for each in (statuses, second) for _ in range(100)]
        for kind in Kind
    }
    lists = [{number for number, _ in places} for places in given.values()]
    assert sum(map(len, lists)) == len(set().union(*lists)) == len(Kind)
    for places in given.values():
        assert len(set(places)) == 200
        first, other = (
            {index % SLICES for _, index in some} for some in (places[:100], places[100:])
        )
        assert first.isdisjoint(other)


async def test_many_starts_of_many_processes_open_few_lists(store, raw):
    """Else a province would soon have more than its peers keep."""
    starts = [StatusStore(SICHUAN, store.reads, store.writes) for _ in range(3 * SLICES)]
    given = [await each.place(Kind.RECOVERY) for each in starts]
    assert len(set(given)) == len(given)
    assert len({number for number, _ in given}) == 3
    # All at once: some open one that another has not told of yet.
    starts = [StatusStore(SICHUAN, store.reads, store.writes) for _ in range(3 * SLICES)]
    given += await asyncio.gather(*(each.place(Kind.RECOVERY) for each in starts))
    assert len({(number, index % SLICES) for number, index in given}) == 6 * SLICES


async def test_a_full_list_is_followed_by_another(statuses):
    numbers = []
    for _ in range(SLICES + 1):
        numbers.append((await statuses.place(Kind.RECOVERY))[0])
        while places := statuses._places[Kind.RECOVERY]:
            places.draw()
    assert numbers == [numbers[0]] * SLICES + [numbers[0] + 1]


async def test_an_opened_list_outlives_a_crash(valkey, store, statuses):
    opened, index = await statuses.place(Kind.RECOVERY)
    os.kill(valkey.pid, signal.SIGKILL)
    again = StatusStore(SICHUAN, store.reads, store.writes)

    async def another() -> bool:
        number, other = await again.place(Kind.RECOVERY)
        return number == opened and other % SLICES == index % SLICES + 1

    await eventually(another)


async def test_a_store_that_lost_its_disk_opens_other_lists(statuses, store, raw):
    """Peers remember what was revoked in the lists of before."""
    before, _ = await statuses.place(Kind.RECOVERY)
    await raw.execute(b"FLUSHALL")
    again = StatusStore(SICHUAN, store.reads, store.writes)
    after, _ = await again.place(Kind.RECOVERY)
    assert abs(after - before) > 10  # one of 2^31
    assert await again.bits(SICHUAN, before) is None


async def test_no_place_is_given_where_the_store_does_not_answer(valkey, statuses):
    await valkey.stop()
    with pytest.raises(StoreUnavailableError):
        await statuses.place(Kind.RECOVERY)
    await valkey.start()

    async def back() -> bool:
        return bool(await statuses.place(Kind.RECOVERY))

    await eventually(back)


# Bits


async def test_the_bits_stand_in_the_order_of_token_status_lists(store, statuses):
    marked = {0, 1, 7, 8, 9, 1000, LIST_SIZE - 1}
    await statuses.mark(GUANGDONG, [(3, index) for index in marked])
    bits = await statuses.bits(GUANGDONG, 3)
    assert indices(bits) == marked
    now = datetime.now(UTC)
    ttl = timedelta(hours=1)
    known = StatusList(GUANGDONG, 3, bits, now, ttl, now + ttl, None)
    assert all(known.revoked(index) for index in marked)
    assert not any(known.revoked(index) for index in (2, 6, 10, 15, 999, 1001, LIST_SIZE - 2))


async def test_a_list_is_known_from_its_opening_on(statuses):
    assert await statuses.bits(SICHUAN, 1) is None
    number, _ = await statuses.place(Kind.RECOVERY)
    assert await statuses.bits(SICHUAN, number) == bytes(LIST_BYTES)
    for other in (number - 1, number + 1):
        assert await statuses.bits(SICHUAN, other) is None
    assert await statuses.bits(GUANGDONG, number) is None


async def test_all_lists_of_one_province_are_loaded_and_no_others(store, statuses):
    assert await statuses.load(GUANGDONG) == {}
    await statuses.mark(GUANGDONG, [(number, number + 1) for number in range(40)])
    await statuses.mark(SICHUAN, [(0, 5)])
    loaded = await statuses.load(GUANGDONG)
    assert {number: indices(bits) for number, bits in loaded.items()} == {
        number: {number + 1} for number in range(40)
    }


async def test_a_list_whose_last_attestation_ended_is_loaded_no_more(store, statuses, raw):
    await statuses.mark(GUANGDONG, [(1, 1), (2, 2)])
    await raw.execute(b"PEXPIRE", b"b:{440000}:1", b"0")
    assert set(await statuses.load(GUANGDONG)) == {2}
    assert await raw.execute(b"SMEMBERS", b"l:{440000}") == [b"2"]


@pytest.mark.parametrize("place", [(0, LIST_SIZE), (0, -1), (0, 1 << 40), (-1, 0), (1 << 32, 0)])
async def test_a_place_that_cannot_be_is_refused(statuses, raw, place):
    with pytest.raises(InvalidFieldError):
        await statuses.mark(GUANGDONG, [(1, 1), place])
    with pytest.raises(InvalidFieldError):
        new(place=place)
    assert await raw.execute(b"KEYS", b"b:*") == []


# Revoking


async def test_revoking_sets_the_bit_in_the_same_batch(store, statuses, raw):
    placed = [new(place=await statuses.place(Kind.RECOVERY)) for _ in range(50)]
    await asyncio.gather(*map(store.publish, [*placed, bare := new()]))
    number = placed[0].place[0]
    assert indices(await statuses.bits(SICHUAN, number)) == set()
    waits = await calls(raw, "waitaof")
    ids = [record.id for record in (*placed[::2], bare)]
    assert await store.revoke_many(ids, ISSUER, AT) == [AT] * 26
    assert await calls(raw, "waitaof") == waits + 1
    expected = {record.place[1] for record in placed[::2]}
    assert indices(await statuses.bits(SICHUAN, number)) == expected
    assert {key: indices(bits) for key, bits in (await statuses.load(SICHUAN)).items()} == {
        number: expected
    }


async def test_revoking_again_sets_the_bit_again(store, statuses, raw):
    record = new(place=(1, 77))
    await store.publish(record)
    await store.revoke(record.id, ISSUER, AT)
    await raw.execute(b"DEL", b"b:{510000}:1")
    assert await store.revoke(record.id, ISSUER, AT + 1) == AT
    assert indices(await statuses.bits(SICHUAN, 1)) == {77}


async def test_the_bits_are_kept_until_the_latest_end(store, raw):
    soon, late = (new(place=(1, at), expires=int(time.time()) + at) for at in (1000, 9000))
    await asyncio.gather(store.publish(soon), store.publish(late))
    for record, until in ((soon, soon), (late, late), (soon, late)):
        await store.revoke(record.id, ISSUER, AT)
        assert await raw.execute(b"EXPIRETIME", b"b:{510000}:1") == until.expires + KEPT_LONGER


async def test_a_bit_outlives_its_attestation_by_what_clocks_may_differ(store, statuses, raw):
    """A gate whose clock is slow takes the attestation still, and must not be told VALID."""
    record = new(place=(1, 77))
    await store.publish(record)
    await store.revoke(record.id, ISSUER, AT)
    until = await raw.execute(b"EXPIRETIME", b"b:{510000}:1")
    assert timedelta(seconds=until - record.expires) >= 2 * CLOCK_SKEW
    await raw.execute(b"DEL", b"s:{%b}" % record.token, b"a:{%b}" % record.id)  # as at its end
    assert indices(await statuses.bits(SICHUAN, 1)) == {77}


async def test_a_revocation_that_is_refused_sets_no_bit(store, statuses):
    record = new(place=(1, 77))
    await store.publish(record)
    (refused,) = await store.revoke_many([record.id], "12510000MB2D00002X", AT)
    assert refused.reason == "NOT_FOUND"
    assert await statuses.load(SICHUAN) == {}


async def test_bits_and_tombstones_outlive_a_crash_together(valkey, store, statuses):
    records = [new(place=(1, index)) for index in range(500)]
    await asyncio.gather(*map(store.publish, records))
    acknowledged: set[int] = set()

    async def revoke(record: NewRecord) -> None:
        await store.revoke(record.id, ISSUER, AT)
        acknowledged.add(record.place[1])
        if len(acknowledged) == 100:
            os.kill(valkey.pid, signal.SIGKILL)

    for at in range(0, 500, 50):
        some = records[at : at + 50]
        await asyncio.gather(*map(revoke, some), return_exceptions=True)

    async def kept() -> bool:
        return acknowledged <= indices(await statuses.bits(SICHUAN, 1))

    await eventually(kept)
    held = await store.lookup_many([record.token for record in records])
    assert all(held[index].revoked for index in acknowledged)


# An attestation that was signed more than once


async def test_the_place_of_a_replacement_is_revoked_too(store, statuses):
    record = new(place=(1, 5))
    await store.publish(record)
    again = like(record, signed=b"\xd2another", place=(2, 6))
    assert await store.replace(again, record.signed) == again.signed
    assert (await store.record(record.id)).places == ((1, 5), (2, 6))
    assert (await store.record(record.id)).place == (2, 6)
    await store.revoke(record.id, ISSUER, AT)
    loaded = await statuses.load(SICHUAN)
    assert {number: indices(bits) for number, bits in loaded.items()} == {1: {5}, 2: {6}}


async def test_publishing_again_adds_no_place(store):
    record = new(place=(1, 5))
    await store.publish(record)
    for index in range(5):
        again = like(record, signed=b"\xd2another", place=(2, index))
        assert (await store.publish(again)).signed == record.signed
    assert (await store.record(record.id)).places == ((1, 5),)


async def test_a_publication_that_never_finished_is_healed_with_another_place(store, statuses, raw):
    lost = new(place=(1, 5))
    until = b"%d" % lost.expires
    await raw.execute(b"SET", b"a:{%b}" % lost.id, lost.record().encode(), b"EXAT", until)
    again = like(lost, signed=b"\xd2another", place=(1, 6))
    published = await store.publish(again)
    assert (published.signed, published.already) == (again.signed, False)
    assert (await store.record(lost.id)).places == ((1, 5), (1, 6))
    assert await raw.execute(b"EXPIRETIME", b"a:{%b}" % lost.id) == lost.expires
    await store.revoke(lost.id, ISSUER, AT)
    assert indices(await statuses.bits(SICHUAN, 1)) == {5, 6}


async def test_a_place_that_is_added_amid_a_revocation_is_revoked_too(valkey, store, statuses, raw):
    lost = new(place=(1, 5))
    await raw.execute(b"SET", b"a:{%b}" % lost.id, lost.record().encode())
    revoking = asyncio.create_task(store.revoke(lost.id, ISSUER, AT))
    await asyncio.sleep(0)

    def between(_: bytes | None) -> Change:
        """Do what another process might once the revocation's record is read."""
        with redis.Redis(unix_socket_path=valkey.url.removeprefix("unix://")) as other:
            other.append(b"a:{%b}" % lost.id, (1).to_bytes(4) + (6).to_bytes(4))
            other.hset(b"s:{%b}" % lost.token, lost.id, b"\xd2another")
        return Change(((b"PING",),))

    await store.writes.submit((b"PING",), between)
    await revoking
    assert (await store.lookup(lost.token)).revoked == [b"\xd2another"]
    assert indices(await statuses.bits(SICHUAN, 1)) == {5, 6}


async def test_whatever_races_a_revocation_its_place_is_revoked(valkey, store, statuses, raw):
    second = await AttestationStore.open(valkey.url, SICHUAN)
    lost = [new(place=(1, index)) for index in range(100)]
    for record in lost:
        await raw.execute(b"SET", b"a:{%b}" % record.id, record.record().encode())

    async def race(index: int, record: NewRecord) -> None:
        again = [
            like(record, signed=b"\xd2%d" % number, place=(number, index)) for number in (2, 3)
        ]
        await asyncio.gather(
            store.publish(again[0]),
            second.revoke(record.id, ISSUER, AT),
            second.publish(again[1]),
            return_exceptions=True,
        )
        (held,) = await store.lookup_many([record.token])
        assert not held.signed
        for signed in held.revoked:
            assert index in indices(await statuses.bits(SICHUAN, int(signed[1:])))

    for index, record in enumerate(lost):
        await race(index, record)
    await second.close()


async def test_a_store_of_no_province_takes_no_place(valkey, store):
    record = new(place=(1, 5))
    bare = await AttestationStore.open(valkey.url)
    with pytest.raises(InternalError):
        await bare.publish(record)
    await store.publish(record)
    with pytest.raises(InternalError):
        await bare.revoke(record.id, ISSUER, AT)
    assert (await store.lookup(record.token)).signed == [record.signed]
    await bare.close()


@pytest.mark.parametrize("places", [(), ((1, 2),), ((1, 2), (2**32 - 1, 2**18 - 1))])
def test_a_record_is_read_as_it_was_written(places):
    record = Record(ISSUER, bytes(32), AT, bytes(36), places)
    assert Record.decode(record.encode()) == record
    for wrong in (record.encode()[:-1], record.encode() + b"x"):
        with pytest.raises(StoreUnavailableError, match="something else"):
            Record.decode(wrong)


# Peers' lists


async def test_a_peers_bits_are_merged_and_never_cleared(statuses):
    await statuses.merge(GUANGDONG, {1: b"\x01\x80", 2: b"\xff" * LIST_BYTES})
    await statuses.mark(GUANGDONG, [(1, 1)])
    await statuses.merge(GUANGDONG, {1: b"\x04", 2: b"", 5: b"\x00\x02"})
    loaded = await statuses.load(GUANGDONG)
    assert loaded[1][:3] == b"\x07\x80\x00"
    assert loaded[2] == b"\xff" * LIST_BYTES
    assert loaded[5][:2] == b"\x00\x02"
    assert {len(bits) for bits in loaded.values()} == {LIST_BYTES}


async def test_lists_that_a_whole_state_does_not_name_are_forgotten_where_there_are_too_many(
    statuses, raw, monkeypatch
):
    """Else whoever names others each time would fill the store."""
    monkeypatch.setattr("nodes.store.statuses.LISTS_OF_PROVINCE", 1201)
    for province in (SHANGHAI, GUANGDONG):
        await statuses.merge(province, dict.fromkeys(range(1200), b"\x01"))
    await statuses.merge(GUANGDONG, {7: b"\x02", 1200: b"\x01"})
    assert len(await statuses.load(GUANGDONG)) == 1201
    await statuses.merge(GUANGDONG, {7: b"\x04", 1201: b"\x01"})
    loaded = await statuses.load(GUANGDONG)
    assert {number: bits[0] for number, bits in loaded.items()} == {7: 7, 1201: 1}
    assert len(await raw.execute(b"KEYS", b"b:{440000}:*")) == 2
    assert len(await statuses.load(SHANGHAI)) == 1200
    await statuses.merge(SHANGHAI, {7: b"\x02"}, only=True)
    assert list(await statuses.load(SHANGHAI)) == [7]


async def test_peers_bits_are_kept_for_as_long_as_anything_may_last(statuses, raw):
    await statuses.merge(GUANGDONG, {1: b"\x01"})
    await statuses.mark(GUANGDONG, [(2, 1)])
    for key in (b"b:{440000}:1", b"b:{440000}:2"):
        assert await raw.execute(b"TTL", key) > 3 * 365 * 86_400
    assert sorted(await raw.execute(b"KEYS", b"b:*")) == [b"b:{440000}:1", b"b:{440000}:2"]


@pytest.mark.parametrize("revoked", [{1: bytes(LIST_BYTES + 1)}, {1 << 32: b"\x01"}])
async def test_a_list_that_cannot_be_changes_nothing(statuses, revoked):
    with pytest.raises(InvalidFieldError):
        await statuses.merge(GUANGDONG, {2: b"\x01"} | revoked)
    assert await statuses.load(GUANGDONG) == {}


async def test_who_cannot_be_told_what_is_revoked_is_not_thought_to_know(statuses, raw):
    await raw.execute(b"LPUSH", b"b:{440000}:1", b"something else")
    with pytest.raises(StoreUnavailableError):
        await statuses.mark(GUANGDONG, [(1, 1)])
    with pytest.raises(StoreUnavailableError):
        await statuses.merge(GUANGDONG, {1: b"\x01"})
