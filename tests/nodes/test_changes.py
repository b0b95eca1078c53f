from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from storing import ISSUER, eventually, new

from exchange.errors import CursorExpiredError, RevokedError, StoreUnavailableError
from exchange.presence import subject_of
from nodes.embedded import EmbeddedValkey
from nodes.store.attestations import AttestationStore
from nodes.store.changes import (
    KEPT,
    Changes,
    Revoked,
    _entry,
    journal,
    note_published,
    note_revoked,
)
from nodes.store.records import NewRecord, Record
from nodes.store.statuses import StatusStore
from nodes.store.writer import BATCH

SICHUAN = "510000"
AT = 1_700_000_000


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


def split(subjects: bytes) -> list[bytes]:
    assert len(subjects) % 8 == 0
    return [subjects[at : at + 8] for at in range(0, len(subjects), 8)]


async def last(tail, waiting=None) -> None:
    """Listen until it ends, or for ten seconds."""
    async with asyncio.timeout(10):
        if waiting is not None:
            await waiting
        async for _ in tail:
            pass


# What is written down


async def test_what_is_published_and_revoked_is_heard_of(store, changes):
    begin = await changes.end()
    plain, placed = new(), new(place=(7, 9))
    await store.publish(plain)
    await store.publish(placed)
    await store.revoke(plain.id, ISSUER, AT)
    await store.revoke(placed.id, ISSUER, AT)
    entries = await changes.since(begin)
    subjects = [subject_of(each.token) for each in (plain, placed)] * 2
    assert [each.subjects for each in entries] == subjects
    assert [each.revoked for each in entries] == [
        (),
        (),
        (Revoked(plain.id, subject_of(plain.token), None),),
        (Revoked(placed.id, subject_of(placed.token), (7, 9)),),
    ]
    assert await changes.since(entries[1].cursor) == entries[2:]
    assert await changes.since(begin, 3) == entries[:3]
    assert await changes.end() == entries[-1].cursor
    assert await changes.since(entries[-1].cursor) == []


async def test_the_notes_of_a_batch_make_one_entry(store, changes):
    begin = await changes.end()
    records = [new() for _ in range(300)]
    await asyncio.gather(*map(store.publish, records))
    (entry,) = await changes.since(begin)
    assert split(entry.subjects) == [subject_of(record.token) for record in records]
    await store.revoke_many([record.id for record in records], ISSUER, AT)
    (entry,) = await changes.since(entry.cursor)
    assert {each.id for each in entry.revoked} == {record.id for record in records}


async def test_a_subject_stands_in_an_entry_once(store, changes):
    begin = await changes.end()
    token = secrets.token_bytes(36)
    await asyncio.gather(*(store.publish(new(token=token)) for _ in range(20)))
    (entry,) = await changes.since(begin)
    assert entry.subjects == subject_of(token)


async def test_a_change_never_precedes_its_data(valkey, store, changes):
    """What an entry names is read as soon as it is heard of, from two processes' writes."""
    second = await AttestationStore.open(valkey.url, SICHUAN)
    records = [new() for _ in range(2000)]
    tokens = {subject_of(record.token): record.token for record in records}

    async def write(record: NewRecord, writer: AttestationStore) -> None:
        await writer.publish(record)
        await writer.revoke(record.id, ISSUER, AT)

    async def listen(begin: bytes) -> None:
        revoked: set[bytes] = set()
        async for entries in changes.tail(begin):
            for entry in entries:
                subjects = split(entry.subjects)
                held = await store.lookup_many([tokens[each] for each in subjects])
                assert all(each.signed or each.revoked for each in held)
                ended = {subject_of(tokens[each.subject]) for each in entry.revoked}
                found = dict(zip(subjects, held, strict=True))
                assert all(found[each].revoked and not found[each].signed for each in ended)
                revoked |= {each.id for each in entry.revoked}
            if len(revoked) == len(records):
                return

    listening = asyncio.create_task(listen(await changes.end()))
    pairs = zip(records, [store, second] * 1000, strict=True)
    await asyncio.gather(*(write(record, writer) for record, writer in pairs))
    async with asyncio.timeout(15):
        await listening
    await second.close()


async def test_no_crash_leaves_a_note_without_its_data(tmp_path, valkey, store, changes):
    """The server's log is cut at many places, as a power failure would."""
    begin = await changes.end()
    records = [new(place=(1, index)) for index in range(60)]
    tokens = {subject_of(record.token): record.token for record in records}
    (log,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    start = log.stat().st_size
    for at in range(0, 60, 20):
        some = records[at : at + 20]
        await asyncio.gather(*map(store.publish, some))
        await store.revoke_many([record.id for record in some], ISSUER, AT)
    end = log.stat().st_size
    await valkey.stop()
    heard = 0
    for cut in [start + (end - start) * part // 24 for part in range(1, 25)]:
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(tmp_path / "store", copy, ignore=shutil.ignore_patterns("lock", "*.sock"))
        os.truncate(copy / "appendonlydir" / log.name, cut)
        server = EmbeddedValkey(copy)
        await server.start()
        opened = await AttestationStore.open(server.url, SICHUAN)
        after = await Changes.open(server.url)
        bits = await StatusStore(SICHUAN, opened.reads, opened.writes).load(SICHUAN)
        for entry in await after.since(begin):
            heard += 1
            held = await opened.lookup_many([tokens[each] for each in split(entry.subjects)])
            assert all(each.signed or each.revoked for each in held)
            assert not entry.revoked or all(each.revoked for each in held)
            for each in entry.revoked:
                number, index = each.place
                assert bits[number][index // 8] >> index % 8 & 1
        await after.close()
        await opened.close()
        await server.stop()
    assert heard > 24


async def test_a_repeated_publication_repeats_its_note(store, changes):
    record = new()
    await store.publish(record)
    begin = await changes.end()
    assert (await store.publish(record)).already
    await store.replace(record, record.signed)
    entries = await changes.since(begin)
    assert [each.subjects for each in entries] == [subject_of(record.token)] * 2


async def test_a_repeated_revocation_repeats_its_note(store, changes):
    record = new(place=(1, 2))
    await store.publish(record)
    await store.revoke(record.id, ISSUER, AT)
    begin = await changes.end()
    assert await store.revoke(record.id, ISSUER, AT + 1) == AT
    with pytest.raises(RevokedError):
        await store.publish(record)
    again, published = await changes.since(begin)
    assert again.revoked == (Revoked(record.id, subject_of(record.token), (1, 2)),)
    assert published.subjects == subject_of(record.token)


async def test_a_crash_between_data_and_note_is_healed_by_trying_again(store, changes, raw):
    begin = await changes.end()
    lost = new()
    until = b"%d" % lost.expires
    record = Record(lost.issuer, lost.digest, lost.expires, lost.token)
    await raw.execute(b"SET", b"a:{%b}" % lost.id, record.encode(), b"EXAT", until)
    key = b"s:{%b}" % lost.token
    await raw.execute(b"HSETEX", key, b"EXAT", until, b"FIELDS", b"1", lost.id, lost.signed)
    assert await changes.since(begin) == []
    assert (await store.publish(lost)).already
    (entry,) = await changes.since(begin)
    assert entry.subjects == subject_of(lost.token)


async def test_what_nobody_could_be_told_of_is_not_acknowledged(store, changes, raw):
    record = new()
    stream = await raw.execute(b"DUMP", b"c")
    begin = await changes.end()
    await raw.execute(b"SET", b"c", b"no stream")
    with pytest.raises(StoreUnavailableError):
        await store.publish(record)
    await raw.execute(b"RESTORE", b"c", b"0", stream, b"REPLACE")
    assert await changes.since(begin) == []
    await store.publish(record)
    (entry,) = await changes.since(begin)
    assert entry.subjects == subject_of(record.token)


async def test_a_refused_item_leaves_no_note(store, changes):
    taken = new()
    await store.publish(taken)
    begin = await changes.end()
    other = new(id=taken.id)
    good = new()
    await asyncio.gather(store.publish(other), store.publish(good), return_exceptions=True)
    (entry,) = await changes.since(begin)
    assert entry.subjects == subject_of(good.token)


places = st.none() | st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 1))
subjects = st.binary(min_size=8, max_size=8)
revocations = st.tuples(subjects, st.binary(min_size=16, max_size=16), places)


@given(st.lists(subjects, unique=True), st.lists(revocations, unique=True))
def test_what_is_noted_is_read(published, revoked):
    notes = [*map(note_published, published), *(note_revoked(*each) for each in revoked)]
    entry = _entry(bytes(16), [b"5-7", list(journal(notes)[-4:])])
    assert entry.cursor == bytes(16) + (5).to_bytes(8) + (7).to_bytes(8)
    assert split(entry.subjects) == [*published, *(subject for subject, _, _ in revoked)]
    assert [(each.subject, each.id, each.place) for each in entry.revoked] == revoked


# Cursors


async def test_a_cursor_outlives_a_crash_of_the_store(valkey, store, changes):
    begin = await changes.end()
    record = new()
    await store.publish(record)
    os.kill(valkey.pid, signal.SIGKILL)

    async def heard() -> bool:
        (entry,) = await changes.since(begin)
        return entry.subjects == subject_of(record.token)

    await eventually(heard)


async def test_two_processes_agree_on_the_store(valkey, changes):
    opened = await asyncio.gather(*(Changes.open(valkey.url) for _ in range(5)))
    assert {each.store_id for each in opened} == {changes.store_id}
    for each in opened:
        await each.close()


async def test_a_cursor_from_before_what_is_kept_is_refused(store, changes, raw):
    begin = await changes.end()
    for _ in range(5):
        await store.publish(new())
    entries = await changes.since(begin)
    await raw.execute(b"XTRIM", b"c", b"MAXLEN", b"=", b"2")
    for cursor in (begin, *(each.cursor for each in entries[:3])):
        with pytest.raises(CursorExpiredError, match="kept no more") as refused:
            await changes.since(cursor)
        assert refused.value.remedy
    assert await changes.since(entries[3].cursor) == entries[4:]


async def test_what_is_kept_of_full_batches_leaves_room_in_a_store_that_evicts_nothing(
    changes, raw
):
    await changes.end()
    for _ in range(200):
        notes = [note_revoked(secrets.token_bytes(8), secrets.token_bytes(16), (1, 2))] * BATCH
        full = [secrets.token_bytes(8) + note[8:] for note in notes]
        await raw.execute(*journal(full))
    used = await raw.execute(b"MEMORY", b"USAGE", b"c", b"SAMPLES", b"0")
    assert used / 200 * int(KEPT) < 512 << 20


async def test_no_more_is_kept_than_is_said(changes, raw):
    await changes.end()
    for _ in range(0, int(KEPT) + 2000, 1000):
        await raw.ask([journal([secrets.token_bytes(8)])] * 1000)
    assert int(KEPT) <= await raw.execute(b"XLEN", b"c") < int(KEPT) + 200


async def test_a_cursor_whose_entry_the_store_lost_is_refused(store, changes, raw):
    """A store that came back from an older copy and has other entries about the cursor's place."""
    await store.publish(new())
    kept = await changes.end()
    for _ in range(3):
        await store.publish(new())
    _, lost, last = await changes.since(kept)
    at, number = (
        int.from_bytes(lost.cursor[part], "big") for part in (slice(16, 24), slice(24, 32))
    )
    await raw.execute(b"XDEL", b"c", b"%d-%d" % (at, number))
    for source in (changes.since(lost.cursor), anext(changes.tail(lost.cursor))):
        with pytest.raises(CursorExpiredError, match="lost the change"):
            await source
    assert (await changes.since(kept))[-1:] == [last]


async def test_a_tail_whose_last_entry_the_store_lost_ends(store, changes, raw):
    await store.publish(new())
    end = await changes.end()
    tail = changes.tail(end)
    assert await anext(tail) == []
    at, number = (int.from_bytes(end[part], "big") for part in (slice(16, 24), slice(24, 32)))
    await raw.execute(b"XDEL", b"c", b"%d-%d" % (at, number))
    await store.publish(new())
    with pytest.raises(CursorExpiredError, match="lost the change"):
        await anext(tail)


async def test_a_cursor_of_another_store_is_refused(tmp_path, store, changes):
    other = EmbeddedValkey(tmp_path / "other")
    await other.start()
    foreign = await Changes.open(other.url)
    assert foreign.store_id != changes.store_id
    with pytest.raises(CursorExpiredError, match="another store"):
        await changes.since(await foreign.end())
    await foreign.close()
    await other.stop()


@pytest.mark.parametrize("place", [b"\xff" * 16, b"\xff" * 8 + bytes(8), b"\xff" * 15 + b"\xfe"])
async def test_a_cursor_far_ahead_of_the_end_is_refused(changes, place):
    with pytest.raises(CursorExpiredError, match="ahead"):
        await changes.since(changes.store_id + place)


async def test_a_cursor_just_ahead_of_the_end_is_refused(store, changes):
    await store.publish(new())
    end = await changes.end()
    ahead = end[:-1] + bytes([end[-1] + 1])
    with pytest.raises(CursorExpiredError, match="ahead"):
        await changes.since(ahead)


@pytest.mark.parametrize("cursor", [b"", b"x" * 31, b"x" * 33])
async def test_what_is_no_cursor_is_refused(changes, cursor):
    with pytest.raises(CursorExpiredError):
        await changes.since(cursor)


async def test_a_store_that_was_emptied_is_another_one(store, changes, raw):
    before = await changes.end()
    known = changes.store_id
    await raw.execute(b"FLUSHALL")
    with pytest.raises(CursorExpiredError, match="another store"):
        await changes.since(before)
    end = await changes.end()
    assert changes.store_id != known
    assert end.startswith(changes.store_id)
    record = new()
    await store.publish(record)
    (entry,) = await changes.since(end)
    assert entry.subjects == subject_of(record.token)


async def test_what_is_no_change_is_refused(changes, raw):
    begin = await changes.end()
    await raw.execute(b"XADD", b"c", b"*", b"something", b"else")
    with pytest.raises(StoreUnavailableError, match="something else"):
        await changes.since(begin)


# Following


async def test_a_tail_gives_what_was_and_then_what_comes(store, changes):
    begin = await changes.end()
    early, late = new(), new()
    await store.publish(early)
    tail = changes.tail(begin)
    async with asyncio.timeout(10):
        (entry,) = await anext(tail)
        assert entry.subjects == subject_of(early.token)
        waiting = asyncio.create_task(anext(tail))
        await store.publish(late)
        while not (heard := await waiting):  # a quiet second says that nothing is missing
            waiting = asyncio.create_task(anext(tail))
    assert heard[0].subjects == subject_of(late.token)
    await tail.aclose()


async def test_a_quiet_tail_says_that_nothing_is_missing(changes):
    tail = changes.tail(await changes.end())
    async with asyncio.timeout(10):
        assert await anext(tail) == []
        assert await anext(tail) == []
    await tail.aclose()


async def test_many_tails_hear_everything_once(store, changes):
    begin = await changes.end()
    records = [new() for _ in range(1500)]

    async def listen() -> list[bytes]:
        heard: list[bytes] = []
        async for entries in changes.tail(begin):
            for entry in entries:
                heard += split(entry.subjects)
            if len(heard) >= len(records):
                return heard
        return []

    listening = [asyncio.create_task(listen()) for _ in range(8)]
    for at in range(0, len(records), 50):
        await asyncio.gather(*map(store.publish, records[at : at + 50]))
    async with asyncio.timeout(15):
        heard = await asyncio.gather(*listening)
    assert heard == [[subject_of(record.token) for record in records]] * 8


async def test_a_killed_connection_ends_a_tail_and_another_continues(store, changes, raw):
    cursor = await changes.end()
    tail = changes.tail(cursor)
    assert await anext(tail) == []
    waiting = asyncio.create_task(anext(tail))

    async def blocked() -> bool:
        return b"cmd=xread" in await raw.execute(b"CLIENT", b"LIST")

    await eventually(blocked)
    await raw.execute(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes")
    with pytest.raises(StoreUnavailableError):
        await last(tail, waiting)
    record = new()

    async def published() -> bool:
        return bool(await store.publish(record))

    await eventually(published)

    async def heard() -> bool:
        again = changes.tail(cursor)
        try:
            return (await anext(again))[0].subjects == subject_of(record.token)
        finally:
            await again.aclose()

    await eventually(heard)


async def test_a_killed_server_ends_a_tail(valkey, changes):
    tail = changes.tail(await changes.end())
    assert await anext(tail) == []
    os.kill(valkey.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailableError):
        await last(tail)


async def test_a_listener_that_is_too_slow_is_told(store, changes, raw):
    tail = changes.tail(await changes.end())
    assert await anext(tail) == []
    for _ in range(5):
        await store.publish(new())
    await raw.execute(b"XTRIM", b"c", b"MAXLEN", b"=", b"2")
    with pytest.raises(CursorExpiredError, match="kept no more"):
        await anext(tail)


async def test_a_tail_of_a_store_that_is_emptied_ends(store, changes, raw):
    tail = changes.tail(await changes.end())
    assert await anext(tail) == []
    await raw.execute(b"FLUSHALL")
    await store.publish(new())
    with pytest.raises(CursorExpiredError, match="another store"):
        await last(tail)


async def test_a_tail_from_nowhere_is_refused_at_once(changes):
    with pytest.raises(CursorExpiredError):
        await anext(changes.tail(bytes(32)))


async def test_a_tail_that_is_left_leaves_no_connection(changes, raw):
    async def connections() -> int:
        return (await raw.execute(b"CLIENT", b"LIST")).count(b"\n")

    before = await connections()
    for _ in range(5):
        tail = changes.tail(await changes.end())
        await anext(tail)
        waiting = asyncio.create_task(anext(tail))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await tail.aclose()

    async def gone() -> bool:
        return await connections() == before

    await eventually(gone)
