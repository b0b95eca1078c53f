from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import os
import resource
import secrets
import signal
import ssl
import sys
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import eventually, like
from waiting import freeze

from exchange import attestations
from exchange.attestations import Attestation, Holder, Issuer
from exchange.errors import (
    IdTakenError,
    InvalidFieldError,
    NotFoundError,
    RevokedError,
    StoreUnavailableError,
)
from exchange.facts import NucleicAcidTest, TestResult
from exchange.keys import Algorithm, PrivateKey
from exchange.presence import subject_of
from exchange.subjects import DocumentType
from nodes.embedded import EmbeddedValkey, _binary
from nodes.store import address
from nodes.store.address import ClusterAddress, SentinelAddress, StoreAddress
from nodes.store.attestations import AttestationStore
from nodes.store.connection import Connection
from nodes.store.records import Held, NewRecord, Note, Progress, Published, Record, Revocation
from nodes.store.writer import BatchWriter, Change
from nodes.trial import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

ISSUER = "12440000MB2D00001X"
OTHER = "12510000MB2D00002X"
DIGEST = bytes(range(32))
KEY = PrivateKey.generate(Algorithm.ES256)


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[AttestationStore]:
    opened = await AttestationStore.open(valkey.url)
    yield opened
    await opened.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Starts servers that the node does not configure itself; gives their redis:// address."""
    started = []

    async def start(*options: str) -> str:
        (port,) = free_ports(1)
        directory = tmp_path / f"server{len(started)}"
        directory.mkdir()
        process = await asyncio.create_subprocess_exec(
            *(_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(process)
        while b"Ready to accept" not in (line := await process.stdout.readline()):
            assert line
        return f"127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        await process.communicate()


def new(**changes) -> NewRecord:
    values = {
        "id": secrets.token_bytes(16),
        "token": secrets.token_bytes(36),
        "issuer": ISSUER,
        "digest": DIGEST,
        "expires": int(time.time()) + 3600,
        "signed": b"\xd2" + secrets.token_bytes(300),
    }
    return NewRecord(**(values | changes))


def live(*records: NewRecord) -> Held:
    return Held([record.signed for record in records], [])


def ended(*records: NewRecord) -> Held:
    return Held([], [record.signed for record in records])


async def calls(raw: Connection, command: str) -> int:
    stats = (await raw.execute(b"INFO", b"commandstats")).decode()
    found = [line for line in stats.splitlines() if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].split("calls=")[1].split(",")[0]) if found else 0


# Publishing


async def test_what_is_published_is_found(store):
    first = new()
    second = new(token=first.token)
    assert await store.publish(first) == Published(first.signed, already=False)
    assert await store.publish(second) == Published(second.signed, already=False)
    held = await store.lookup(first.token)
    assert sorted(held.signed) == sorted([first.signed, second.signed])
    assert held.revoked == []
    assert await store.get(first.id, ISSUER) == first.signed
    assert await store.record(first.id) == Record(ISSUER, DIGEST, first.expires, first.token)


async def test_nothing_is_found_of_a_stranger(store):
    assert await store.lookup(secrets.token_bytes(36)) == Held([], [])
    assert await store.record(secrets.token_bytes(16)) is None
    with pytest.raises(NotFoundError):
        await store.get(secrets.token_bytes(16), ISSUER)


async def test_ids_and_tokens_may_hold_any_bytes(store):
    odd = new(id=b"}\r\n{\x00" + b"\xff" * 11, token=b"{}\r\n$5\r\n" + b"\x00" * 28)
    await store.publish(odd)
    assert await store.lookup(odd.token) == live(odd)
    assert await store.get(odd.id, ISSUER) == odd.signed


async def test_lookup_many_answers_in_the_order_of_its_tokens(store):
    records = [new() for _ in range(100)]
    await asyncio.gather(*(store.publish(record) for record in records))
    tokens = [record.token for record in records]
    tokens.insert(50, secrets.token_bytes(36))
    found = await store.lookup_many(tokens)
    assert found[50] == Held([], [])
    assert found[:50] + found[51:] == [live(record) for record in records]
    assert await store.lookup_many([]) == []


async def test_publishing_again_gives_the_bytes_that_were_signed_first(store):
    first = new()
    await store.publish(first)
    again = like(first, signed=b"\xd2another signature", expires=first.expires + 60)
    assert await store.publish(again) == Published(first.signed, already=True)
    assert await store.lookup(first.token) == live(first)


async def test_one_id_many_times_at_once_is_stored_once(store):
    first = new()
    same = [like(first, signed=b"\xd2" + bytes([number])) for number in range(50)]
    published = await asyncio.gather(*(store.publish(each) for each in same))
    assert sum(not each.already for each in published) == 1
    assert {each.signed for each in published} == set((await store.lookup(first.token)).signed)


@pytest.mark.parametrize(
    "change", [{"digest": b"\xff" * 32}, {"token": b"\xff" * 36}, {"issuer": OTHER}]
)
async def test_an_id_of_another_fact_is_refused(store, change):
    first = new()
    await store.publish(first)
    second = like(first, **change)
    with pytest.raises(IdTakenError):
        await store.publish(second)
    assert await store.lookup(first.token) == live(first)
    assert await store.get(first.id, ISSUER) == first.signed
    if second.token != first.token:
        assert await store.lookup(second.token) == Held([], [])


async def test_a_bad_item_fails_alone(store):
    taken = new()
    await store.publish(taken)
    good = [new() for _ in range(20)]
    bad = [like(taken, digest=b"\xff" * 32) for _ in range(20)]
    mixed = [each for pair in zip(good, bad, strict=True) for each in pair]
    results = await asyncio.gather(*(store.publish(each) for each in mixed), return_exceptions=True)
    assert all(isinstance(each, Published) for each in results[::2])
    assert all(isinstance(each, IdTakenError) for each in results[1::2])
    assert len(set(map(id, results[1::2]))) == 20  # `at` changes an error: none is shared


async def test_a_publish_whose_caller_gave_up_harms_no_other(store):
    records = [new() for _ in range(30)]
    tasks = [asyncio.create_task(store.publish(record)) for record in records]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, Published) for each in results[1::2])
    assert (await store.publish(records[0])).signed == records[0].signed


async def test_a_crash_between_the_two_steps_is_healed_by_publishing_again(store, raw):
    lost = new()
    record = Record(lost.issuer, lost.digest, lost.expires, lost.token)
    key = b"a:{" + lost.id + b"}"
    until = str(lost.expires).encode()
    await raw.execute(b"SET", key, record.encode(), b"EXAT", until)
    with pytest.raises(NotFoundError):
        await store.get(lost.id, ISSUER)
    again = like(lost, expires=lost.expires + 60)
    assert await store.publish(again) == Published(again.signed, already=False)
    field = (b"HEXPIRETIME", b"s:{" + lost.token + b"}", b"FIELDS", b"1", lost.id)
    assert await raw.execute(*field) == [lost.expires]  # not longer than it can be revoked


async def test_what_expires_vanishes(store):
    short = new(expires=int(time.time()) + 2)
    long = new(token=short.token)
    await asyncio.gather(store.publish(short), store.publish(long))
    assert len((await store.lookup(short.token)).signed) == 2

    async def gone() -> bool:
        return await store.lookup(short.token) == live(long)

    await eventually(gone)

    async def record_gone() -> bool:
        return await store.record(short.id) is None

    await eventually(record_gone)
    with pytest.raises(NotFoundError):
        await store.get(short.id, ISSUER)
    with pytest.raises(NotFoundError):
        await store.revoke(short.id, ISSUER, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"token": b"\x00" * 35},
        {"issuer": "91"},
        {"issuer": "机" * 18},
        {"digest": b""},
        {"expires": 0},
        {"expires": 1 << 63},
        {"signed": b""},
        {"signed": b"\x00tombstone"},
    ],
)
def test_a_record_of_another_shape_is_refused(change):
    with pytest.raises(InvalidFieldError):
        new(**change)


def test_no_token_stands_in_a_repr():
    record = new(token=b"secret" * 6)
    stored = Record(record.issuer, record.digest, record.expires, record.token)
    assert "secret" not in repr(record) + repr(stored)


async def test_what_is_no_record_is_refused(store, raw):
    await raw.execute(b"SET", b"a:{" + b"x" * 16 + b"}", b"rubbish")
    with pytest.raises(StoreUnavailableError, match="something else"):
        await store.record(b"x" * 16)
    with pytest.raises(StoreUnavailableError, match="something else"):
        await store.publish(new(id=b"x" * 16))


# Revoking


async def test_a_revoked_attestation_is_given_to_nobody(store):
    record, other = new(), new()
    await asyncio.gather(store.publish(record), store.publish(other))
    assert await store.revoke(record.id, ISSUER, 1_700_000_000) == 1_700_000_000
    assert await store.lookup(record.token) == ended(record)
    assert await store.lookup_many([record.token, other.token]) == [ended(record), live(other)]
    with pytest.raises(RevokedError):
        await store.get(record.id, ISSUER)
    assert await store.record(record.id) is not None


async def test_a_revoked_attestation_is_given_as_it_was_signed(store):
    """So that a gate is told 撤销 and not 无记录."""
    kept, first, second = new(), new(), new()
    records = [kept, like(first, token=kept.token), like(second, token=kept.token)]
    await asyncio.gather(*map(store.publish, records))
    notes = [Note("污染 " * 100, "省卫健委", "spiffe://510000.tongxing/admin/a"), Note()]
    for record, note in zip(records[1:], notes, strict=True):
        await store.revoke(record.id, ISSUER, 1_700_000_000, note)
        assert await store.revocation(record.id) == Revocation(1_700_000_000, note, record.signed)
    held = await store.lookup(kept.token)
    assert held.signed == [kept.signed]
    assert sorted(held.revoked) == sorted([first.signed, second.signed])
    assert await store.revocation(kept.id) is None
    assert await store.revocation(secrets.token_bytes(16)) is None


async def test_a_note_that_is_too_long_revokes_nothing(store):
    record = new()
    await store.publish(record)
    with pytest.raises(InvalidFieldError) as refused:
        await store.revoke(record.id, ISSUER, 1_700_000_000, Note("x" * 70_000))
    assert refused.value.field == "reason"
    assert await store.lookup(record.token) == live(record)


async def test_what_is_no_revocation_is_refused(store, raw):
    record = new()
    await store.publish(record)
    await raw.execute(b"HSET", b"s:{" + record.token + b"}", record.id, b"\x00rubbish")
    with pytest.raises(StoreUnavailableError, match="something else"):
        await store.revocation(record.id)
    assert (await store.lookup(record.token)).signed == []


async def test_nothing_brings_a_revoked_attestation_back(valkey, store):
    record = new()
    await store.publish(record)
    await store.revoke(record.id, ISSUER, 1_700_000_000)
    again = like(record, signed=b"\xd2another", expires=record.expires + 1000)
    await valkey.stop()
    await valkey.start()

    async def refused() -> bool:
        with pytest.raises((RevokedError, StoreUnavailableError)) as why:
            await store.publish(again)
        return isinstance(why.value, RevokedError)

    await eventually(refused)
    for old in (record.signed, b"", b"\xd2gone"):
        with pytest.raises(RevokedError):
            await store.replace(again, old)
    second = await AttestationStore.open(valkey.url)
    with pytest.raises(RevokedError):
        await second.publish(record)
    await second.close()
    assert await store.lookup(record.token) == ended(record)


async def test_an_admin_may_end_any_of_the_province(store):
    records = [new(), new(issuer=OTHER)]
    await asyncio.gather(*map(store.publish, records))
    ids = [record.id for record in records]
    assert await store.revoke_many(ids, None, 1_700_000_000) == [1_700_000_000] * 2
    with pytest.raises(NotFoundError):
        await store.revoke(secrets.token_bytes(16), None, 1_700_000_000)


async def test_many_are_revoked_each_by_itself(store):
    mine, foreign, ended_before = new(), new(issuer=OTHER), new()
    await asyncio.gather(*map(store.publish, (mine, foreign, ended_before)))
    await store.revoke(ended_before.id, ISSUER, 1_600_000_000)
    ids = [mine.id, foreign.id, secrets.token_bytes(16), ended_before.id, mine.id]
    first, *refused, before, again = await store.revoke_many(ids, ISSUER, 1_700_000_000)
    assert (first, before, again) == (1_700_000_000, 1_600_000_000, 1_700_000_000)
    assert all(isinstance(each, NotFoundError) for each in refused)
    assert await store.lookup(foreign.token) == live(foreign)
    assert await store.revoke_many([], ISSUER, 1_700_000_000) == []


async def test_revoking_again_changes_nothing(store):
    record = new()
    await store.publish(record)
    assert await store.revoke(record.id, ISSUER, 1_700_000_000) == 1_700_000_000
    assert await store.revoke(record.id, ISSUER, 1_800_000_000) == 1_700_000_000
    assert await store.revoke(record.id, ISSUER, 1_600_000_000) == 1_700_000_000


async def test_a_revoked_attestation_is_not_brought_back_by_publishing(store):
    record = new()
    await store.publish(record)
    await store.revoke(record.id, ISSUER, 1_700_000_000)
    with pytest.raises(RevokedError):
        await store.publish(record)
    with pytest.raises(RevokedError):
        await store.publish(like(record, expires=record.expires + 1000))
    assert await store.lookup(record.token) == ended(record)


async def test_the_same_fact_is_put_in_the_place_of_what_counts_no_more(store, raw):
    record = new()
    await store.publish(record)
    again = like(record, signed=b"\xd2another", expires=record.expires + 1000)
    assert await store.replace(again, record.signed) == again.signed
    assert await store.lookup(record.token) == live(again)
    until = await raw.execute(
        b"HEXPIRETIME", b"s:{" + record.token + b"}", b"FIELDS", b"1", record.id
    )
    assert until == [record.expires]


async def test_a_replacement_yields_to_what_came_first(store):
    record, other = new(), new()
    await store.publish(record)
    await store.publish(other)
    again = like(record, signed=b"\xd2another")
    assert await store.replace(again, b"\xd2gone") == record.signed
    with pytest.raises(IdTakenError):
        await store.replace(like(record, token=other.token), record.signed)
    await store.revoke(record.id, ISSUER, 1_700_000_000)
    with pytest.raises(RevokedError):
        await store.replace(again, record.signed)
    assert await store.lookup(record.token) == ended(record)


async def test_a_publish_that_never_finished_can_be_revoked(store, raw):
    lost = new()
    record = Record(lost.issuer, lost.digest, lost.expires, lost.token)
    await raw.execute(b"SET", b"a:{" + lost.id + b"}", record.encode())
    await store.revoke(lost.id, ISSUER, 1_700_000_000)
    with pytest.raises(RevokedError):
        await store.publish(lost)


async def test_a_tombstone_stays_as_long_as_the_attestation_would(store, raw):
    record = new()
    await store.publish(record)
    await store.revoke(record.id, ISSUER, 1_700_000_000)
    key = b"s:{" + record.token + b"}"
    assert await raw.execute(b"HEXPIRETIME", key, b"FIELDS", b"1", record.id) == [record.expires]


async def test_racing_publishes_never_undo_a_revocation(valkey, store):
    """Two stores are two processes of one node: nothing but the server orders them."""
    second = await AttestationStore.open(valkey.url)
    records = [new() for _ in range(40)]
    await asyncio.gather(*(store.publish(record) for record in records))

    async def race(record: NewRecord) -> set[int]:
        work = [
            *(each.publish(record) for each in (store, second) * 3),
            *(each.revoke(record.id, ISSUER, at) for at, each in enumerate((store, second) * 2)),
            *(each.publish(record) for each in (store, second) * 3),
        ]
        results = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(each, Published | RevokedError | int) for each in results)
        return {each for each in results if isinstance(each, int)}

    seconds = await asyncio.gather(*(race(record) for record in records))
    assert all(len(each) == 1 for each in seconds)  # all were told of the same revocation
    held = await store.lookup_many([record.token for record in records])
    assert held == [ended(record) for record in records]
    await second.close()


async def test_anothers_attestation_looks_as_if_there_were_none(store):
    record = new()
    await store.publish(record)
    with pytest.raises(NotFoundError) as foreign:
        await store.revoke(record.id, OTHER, 1_700_000_000)
    with pytest.raises(NotFoundError) as none:
        await store.revoke(secrets.token_bytes(16), OTHER, 1_700_000_000)
    assert str(foreign.value) == str(none.value)
    with pytest.raises(NotFoundError) as read:
        await store.get(record.id, OTHER)
    assert str(read.value) == str(none.value)
    assert await store.lookup(record.token) == live(record)


# A laboratory's bad batch


def sampled(number: int, issuer: str = ISSUER, note: str = "") -> NewRecord:
    """An attestation that was sampled ``number`` hours ago."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    sampled = now - dt.timedelta(hours=number)
    attestation = Attestation(
        id=UUID(int=secrets.randbits(64) << 64 & ~(0xF << 76) | 7 << 76 | 2 << 62 | number),
        province="510000",
        token=secrets.token_bytes(36),
        fact=NucleicAcidTest(sampled, TestResult.NEGATIVE),
        issuer=Issuer(issuer, f"示例检测机构{note}"),
        holder=Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21"),
        issued_at=now,
        expires_at=sampled + dt.timedelta(days=7),
        data_as_of=sampled,
    )
    return NewRecord(
        id=attestation.id.bytes,
        token=attestation.token,
        issuer=issuer,
        digest=attestations.digest(attestation),
        expires=int(attestation.expires_at.timestamp()),
        signed=attestations.sign(attestation, KEY),
    )


def sampled_hours_ago(least: int, most: int) -> Callable[[Attestation], bool]:
    now = dt.datetime.now(dt.UTC)

    def wanted(attestation: Attestation) -> bool:
        age = now - attestation.fact.sampled_at
        return dt.timedelta(hours=least) <= age < dt.timedelta(hours=most)

    return wanted


async def test_all_that_is_wanted_of_one_issuer_is_revoked_and_nothing_else(store):
    batch = [sampled(10) for _ in range(120)]
    later = [sampled(1) for _ in range(30)]
    others = [sampled(10, OTHER, note=f" (与{ISSUER}合作)") for _ in range(30)]
    await asyncio.gather(*map(store.publish, [*batch, *later, *others, rubbish := new()]))
    lost = Record(ISSUER, DIGEST, rubbish.expires, lost_token := secrets.token_bytes(36))
    await store.reads.execute(b"SET", b"a:{" + b"l" * 16 + b"}", lost.encode())
    await store.revoke(b"l" * 16, ISSUER, 1_600_000_000)  # nothing was ever signed
    await store.revoke(batch[0].id, ISSUER, 1_600_000_000)
    wanted = sampled_hours_ago(9, 11)

    async def walk(**options) -> Progress:
        steps = store.revoke_issuer(ISSUER, wanted, 1_700_000_000, Note("bad"), **options)
        return [step async for step in steps][-1]

    assert await walk(validate_only=True) == Progress(182, 119, 1)
    assert (await store.lookup(batch[1].token)) == live(batch[1])
    assert await walk() == Progress(182, 119, 1)
    assert await walk() == Progress(182, 0, 120)
    held = await store.lookup_many([each.token for each in (*batch, *later, *others, rubbish)])
    assert held[:120] == [ended(each) for each in batch]
    assert held[120:] == [live(each) for each in (*later, *others, rubbish)]
    assert (await store.revocation(batch[0].id)).at == 1_600_000_000
    assert (await store.revocation(batch[1].id)).note == Note("bad")
    assert await store.lookup(lost_token) == Held([], [])


async def test_a_walk_says_how_far_it_has_come_and_leaves_room_for_others(store):
    records = [new() for _ in range(2500)]
    await asyncio.gather(*map(store.publish, records))
    seen = [
        step.looked_at async for step in store.revoke_issuer(ISSUER, lambda _: True, 1_700_000_000)
    ]
    assert len(seen) == 3
    assert seen[-1] >= 2500
    assert seen == sorted(seen)


async def test_a_walk_that_is_left_early_can_be_begun_again(valkey, store):
    batch = [sampled(10) for _ in range(1500)]
    await asyncio.gather(*map(store.publish, batch))
    walk = store.revoke_issuer(ISSUER, lambda _: True, 1_700_000_000)
    first = await anext(walk)
    assert 1000 <= first.revoked < 1500
    await valkey.stop()
    with pytest.raises(StoreUnavailableError):
        await anext(walk)
    await valkey.start()

    async def finished() -> bool:
        steps = store.revoke_issuer(ISSUER, lambda _: True, 1_700_000_000)
        (*_, step) = [step async for step in steps]
        return step.revoked + step.already_revoked == 1500

    await eventually(finished)
    held = await store.lookup_many([each.token for each in batch])
    assert held == [ended(each) for each in batch]


async def test_every_subject_is_given_also_one_whose_attestation_is_revoked(store):
    records = [new(token=b"*?[]\\\r\n{}" + secrets.token_bytes(27)) for _ in range(10)]
    records += [new() for _ in range(3000)]
    await asyncio.gather(*map(store.publish, records))
    await store.revoke(records[0].id, ISSUER, 1_700_000_000)
    packed = [step async for step in store.scan_subjects()]
    assert all(len(step) % 8 == 0 for step in packed)
    found = {step[at : at + 8] for step in packed for at in range(0, len(step), 8)}
    assert found == {subject_of(record.token) for record in records}


@pytest.mark.parametrize("walk", ["subjects", "revoke"])
async def test_a_walk_over_a_server_that_started_anew_is_refused(valkey, store, walk):
    """In its new tables the cursor of the old ones points elsewhere: some would be missed."""
    until = b"%d" % (time.time() + 3600)
    for _ in range(10):
        keys = [b"s:{%b}" % secrets.token_bytes(36) for _ in range(400)]
        fields = (b"FIELDS", b"1", secrets.token_bytes(16), b"\xd2" + bytes(20))
        await store.reads.ask([(b"HSETEX", key, b"EXAT", until, *fields) for key in keys])
    steps = (
        store.scan_subjects()
        if walk == "subjects"
        else store.revoke_issuer(ISSUER, lambda _: True, 1_700_000_000)
    )
    await anext(steps)
    lives = store.reads.lives
    os.kill(valkey.pid, signal.SIGKILL)

    async def back() -> bool:
        return store.reads.lives > lives

    await eventually(back)
    with pytest.raises(StoreUnavailableError, match="amid a walk"):
        async for _ in steps:
            pass


# Writes


async def test_a_change_of_many_commands_fails_where_one_of_them_is_refused(valkey, store, raw):
    await raw.execute(b"SET", b"text", b"text")

    def change(*commands: tuple[bytes, ...]) -> Awaitable[object]:
        return store.writes.submit((b"GET", b"text"), lambda _: Change(commands))

    good, bad, more = await asyncio.gather(
        change((b"INCR", b"one"), (b"SET", b"two", b"2")),
        change((b"INCR", b"one"), (b"LPUSH", b"text", b"x")),
        change((b"GET", b"text"), (b"INCR", b"one")),
        return_exceptions=True,
    )
    assert (good, more) == (1, b"text")
    assert isinstance(bad, StoreUnavailableError)
    assert await raw.execute(b"GET", b"one") == b"3"


async def test_a_writer_without_a_journal_tells_nobody(valkey, raw):
    writer = await BatchWriter.open(valkey.url)
    done = await writer.submit((b"PING",), lambda _: Change(((b"INCR", b"one"),), b"note"))
    assert done == 1
    assert await raw.execute(b"EXISTS", b"c") == 0
    await writer.close()


# Durability


async def test_what_is_acknowledged_outlives_a_crash_and_shares_its_fsyncs(valkey, store, raw):
    records = [new() for _ in range(5000)]
    await asyncio.gather(*(store.publish(record) for record in records))
    await store.revoke(records[0].id, ISSUER, 1_700_000_000)
    assert await calls(raw, "set") >= 5000
    assert await calls(raw, "waitaof") <= 50
    os.kill(valkey.pid, signal.SIGKILL)

    async def back() -> bool:
        return len((await store.lookup(records[1].token)).signed) == 1

    await eventually(back)
    found = await store.lookup_many([record.token for record in records])
    assert found == [ended(records[0]), *map(live, records[1:])]

    async def still_revoked() -> bool:
        with pytest.raises((RevokedError, StoreUnavailableError)) as refused:
            await store.publish(records[0])
        return isinstance(refused.value, RevokedError)

    await eventually(still_revoked)


async def test_a_crash_amid_publishing_loses_nothing_acknowledged(valkey, store):
    records = [new() for _ in range(5000)]
    acknowledged = 0

    async def publish(record: NewRecord) -> bool:
        nonlocal acknowledged
        try:
            await store.publish(record)
        except StoreUnavailableError:
            return False
        acknowledged += 1
        if acknowledged == 1500:
            os.kill(valkey.pid, signal.SIGKILL)
        return True

    done = await asyncio.gather(*(publish(record) for record in records))
    assert 1500 <= sum(done) < 5000

    async def back() -> bool:
        return len((await store.lookup(records[0].token)).signed) == 1

    await eventually(back)
    found = await store.lookup_many([record.token for record in records])
    assert all(each == live(r) for each, r, ok in zip(found, records, done, strict=True) if ok)

    async def writes_back() -> bool:
        await asyncio.gather(*(store.publish(record) for record in records))
        return True

    await eventually(writes_back)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_a_disk_that_takes_no_more_acknowledges_nothing(valkey, store, tmp_path):
    (log,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    full = log.stat().st_size + 1000
    resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, (full, full))
    records = [new() for _ in range(20)]
    results = await asyncio.gather(*map(store.publish, records), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailableError) for each in results)

    async def healed() -> bool:
        return (await store.publish(records[0])).signed == records[0].signed

    await eventually(healed)  # the restarted child has its limit no more


async def test_a_full_memory_refuses_and_evicts_nothing(tmp_path):
    valkey = EmbeddedValkey(tmp_path, memory=8 << 20)
    await valkey.start()
    store = await AttestationStore.open(valkey.url)
    records = [new(signed=b"\xd2" * 60_000) for _ in range(200)]
    results = await asyncio.gather(*map(store.publish, records), return_exceptions=True)
    refused = [each for each in results if not isinstance(each, Published)]
    assert refused
    assert all(isinstance(each, StoreUnavailableError) for each in refused)
    assert "memory" in refused[0].remedy
    found = await store.lookup_many([record.token for record in records])
    kept = [isinstance(each, Published) for each in results]
    assert any(kept)
    assert all(each.signed for each, ok in zip(found, kept, strict=True) if ok)
    await store.close()
    await valkey.stop()


async def test_closing_finishes_what_waits_and_takes_no_more(valkey):
    store = await AttestationStore.open(valkey.url)
    records = [new() for _ in range(1500)]
    tasks = [asyncio.create_task(store.publish(record)) for record in records]
    await asyncio.sleep(0)
    await store.close()
    assert all(not published.already for published in await asyncio.gather(*tasks))
    with pytest.raises(StoreUnavailableError):
        await store.publish(records[0])
    with pytest.raises(StoreUnavailableError):
        await store.lookup(records[0].token)


# The connection


async def test_the_commands_of_one_tick_leave_in_one_write(valkey, store, raw):
    tokens = [secrets.token_bytes(36) for _ in range(500)]

    async def reads() -> int:
        stats = (await raw.execute(b"INFO", b"stats")).decode()
        return int(stats.split("total_reads_processed:")[1].split()[0])

    before = await reads()
    await asyncio.gather(*map(store.lookup, tokens))
    assert await reads() - before <= 10  # 22 KB: some reads of the server's 16 KB, not 500
    assert await calls(raw, "hvals") == 500


async def test_replies_come_in_the_order_of_their_calls(raw):
    async def echo(number: int) -> bool:
        sent = b"%d" % number * (number % 700)
        return await raw.execute(b"ECHO", sent) == sent

    assert all(await asyncio.gather(*map(echo, range(2000))))


async def test_a_refusal_fails_its_own_call_and_names_no_argument(raw):
    token = b"secret-token"
    good, bad, more = raw.execute(b"PING"), raw.execute(b"NOPE", token), raw.execute(b"PING")
    assert await good == await more == b"PONG"
    with pytest.raises(StoreUnavailableError) as refused:
        await bad
    assert "secret" not in str(refused.value)
    replies = await raw.pipeline([(b"PING",), (b"GET",), (b"PING",)])
    assert replies[::2] == [b"PONG", b"PONG"]
    assert isinstance(replies[1], StoreUnavailableError)


async def test_a_call_whose_caller_gave_up_shifts_no_reply(raw):
    first, second = raw.execute(b"ECHO", b"1"), raw.execute(b"ECHO", b"2")
    first.cancel()
    assert await second == b"2"


async def test_calls_that_wait_fail_when_the_server_dies(valkey, raw):
    waiting = raw.execute(b"BLPOP", b"nothing", b"0")
    await asyncio.sleep(0)
    os.kill(valkey.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailableError):
        await waiting


async def test_calls_fail_at_once_while_it_is_down_and_work_when_it_is_back(valkey, store):
    record = new()
    await store.publish(record)
    await valkey.stop()
    async with asyncio.timeout(5):
        for call in (
            lambda: store.lookup(record.token),
            lambda: store.lookup_many([record.token]),
            lambda: store.publish(new()),
            lambda: store.revoke(record.id, ISSUER, 1),
            lambda: store.get(record.id, ISSUER),
            lambda: store.record(record.id),
        ):
            with pytest.raises(StoreUnavailableError):
                await call()
    await valkey.start()

    async def back() -> bool:
        await store.publish(record)
        return await store.lookup(record.token) == live(record)

    await eventually(back)


async def test_a_server_that_hangs_fails_calls_and_is_left(valkey):
    connection = await Connection.open(valkey.url, reply_seconds=0.2)
    freeze(valkey.pid)
    try:
        async with asyncio.timeout(5):
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    await connection.execute(b"PING")
    finally:
        os.kill(valkey.pid, signal.SIGCONT)

    async def back() -> bool:
        return await connection.execute(b"PING") == b"PONG"

    await eventually(back)
    await connection.close()


async def test_what_is_no_store_is_refused(tmp_path):
    async def chat(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(chat, path):
        with pytest.raises(StoreUnavailableError):
            await Connection.open(f"unix://{path}")


# Opening


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis+sentinel://a:1,b:2",
        "redis+sentinel://a:1,b:x/main",
        "redis+sentinel://a:1/main?sentinel_username=u",
        "redis+cluster://a:1/3",
        "redis+cluster://a:1?db=3",
        "redis+cluster://[::1,b:2",
        "unix+cluster:///a",
        "redis+other://a:1",
        "redis://a:1,b:2",
        "unix://",
        "unix:///",
        "unix://relative/path",
        "redis://host:port",
        "redis://host:99999",
        "redis://[::1",
        "redis://host/zero",
        "redis://host/-1",
        "redis://host?db=x",
        "redis://host?ssl_cert_reqs=none",
        "rediss://host?ssl_cert_reqs=none",
        "redis://onlyuser@host",
        "rediss://host?ssl_ca_certs=/nonexistent",
    ],
)
async def test_a_wrong_url_is_refused(url):
    with pytest.raises(InvalidFieldError) as refused:
        await AttestationStore.open(url)
    assert refused.value.field == "store.url"
    assert refused.value.remedy


KINDS = r"(unix|rediss?(\+(cluster|sentinel))?)"


@settings(deadline=None)  # a TLS context reads a hundred certificates
@given(st.text() | st.from_regex(KINDS + r"://[^/]{0,9}[:@/?,].*", fullmatch=True))
def test_any_text_is_an_address_or_a_named_error(url):
    try:
        address.parse(url)
    except InvalidFieldError as refused:
        assert refused.field == "store.url"  # noqa: PT017  # either outcome is right


def test_a_url_is_taken_apart():
    full = StoreAddress.parse("redis://us%40er:p%2Fw@[::1]:7000/3")
    assert (full.host, full.port, full.database) == ("::1", 7000, 3)
    assert (full.username, full.password) == ("us@er", "p/w")
    assert "p/w" not in repr(full) + str(full)
    assert StoreAddress.parse("unix:///a%20b?db=2") == StoreAddress(path="/a b", database=2)
    assert StoreAddress.parse("redis://h") == StoreAddress(host="h", port=6379)


def test_the_url_of_many_servers_is_taken_apart():
    one = StoreAddress(host="a", port=7000, username="u", password="p,@")
    cluster = address.parse("redis+cluster://u:p%2C%40@a:7000,[::1]:7001,b")
    seeds = (one, dataclasses.replace(one, host="::1", port=7001))
    assert cluster == ClusterAddress((*seeds, dataclasses.replace(one, host="b", port=6379)))
    watched = address.parse("redis+sentinel://u:p@a,b:2/main?db=3&sentinel_password=s")
    sentinels = tuple(
        StoreAddress(host=h, port=p, password="s") for h, p in [("a", 26379), ("b", 2)]
    )
    primary = StoreAddress(host="localhost", database=3, username="u", password="p")
    assert watched == SentinelAddress(sentinels, "main", primary)
    with pytest.raises(InvalidFieldError) as refused:
        StoreAddress.parse("redis+cluster://u:secret@a")
    assert "secret" not in str(refused.value)
    assert address.parse("rediss+cluster://a").seeds[0].tls is not None


@pytest.mark.parametrize("url", ["unix:///nonexistent.sock", "redis://127.0.0.1:1"])
async def test_a_server_that_is_not_there_is_refused(url):
    with pytest.raises(StoreUnavailableError, match="cannot connect") as refused:
        await AttestationStore.open(url)
    assert refused.value.remedy


async def test_credentials_and_database_are_used_and_wrong_ones_refused(server):
    address = await server("--appendonly", "yes", "--requirepass", "right")
    for url in (f"redis://default:right@{address}/2", f"redis://:right@{address}?db=2"):
        store = await AttestationStore.open(url)
        await store.publish(record := new())
        assert await store.lookup(record.token) == live(record)
        await store.close()
    keyspace = await Connection.open(f"redis://:right@{address}")
    assert b"db2:" in await keyspace.execute(b"INFO", b"keyspace")
    await keyspace.close()
    for wrong in (f"redis://:wrongsecret@{address}", f"redis://{address}"):
        with pytest.raises(StoreUnavailableError) as refused:
            await AttestationStore.open(wrong)
        assert "password" in refused.value.remedy
        assert "wrongsecret" not in str(refused.value)


async def test_a_password_where_the_server_has_none_is_refused(server):
    address = await server("--appendonly", "yes")
    with pytest.raises(StoreUnavailableError) as refused:
        await AttestationStore.open(f"redis://:secret@{address}")
    assert "password" in refused.value.remedy
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says", "remedy"),
    [
        (("--appendonly", "no"), "append-only file is off", "appendonly yes"),
        (("--appendonly", "yes", "--rename-command", "HSETEX", ""), "HSETEX", "Valkey 9"),
        (
            ("--appendonly", "yes", "--maxmemory", "1gb", "--maxmemory-policy", "volatile-lru"),
            "may evict",
            "noeviction",
        ),
    ],
)
async def test_a_server_that_would_forget_is_refused(server, options, says, remedy):
    address = await server(*options)
    with pytest.raises(StoreUnavailableError, match=says) as refused:
        await AttestationStore.open(f"redis://{address}")
    assert remedy in refused.value.remedy
    assert "\n" not in str(refused.value)


async def test_a_server_that_stops_to_be_durable_acknowledges_nothing(server):
    address = await server("--appendonly", "yes")
    store = await AttestationStore.open(f"redis://{address}")
    admin = await Connection.open(f"redis://{address}")
    await admin.execute(b"CONFIG", b"SET", b"appendonly", b"no")
    with pytest.raises(StoreUnavailableError):
        await store.publish(new())
    await admin.close()
    await store.close()


async def test_tls_is_spoken_and_an_untrusted_certificate_refused(valkey, tmp_path):
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        back, on = await asyncio.open_unix_connection(valkey.url.removeprefix("unix://"))
        relays.add(asyncio.create_task(pump(reader, on)))
        relays.add(asyncio.create_task(pump(back, writer)))

    listener = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    store = await AttestationStore.open(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
    await store.publish(record := new())
    assert await store.lookup(record.token) == live(record)
    await store.close()
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        await AttestationStore.open(f"rediss://localhost:{port}")
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        await AttestationStore.open(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}")
    listener.close()
    await asyncio.wait(relays, timeout=5)


def self_signed(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return directory / "cert.pem", directory / "key.pem"
