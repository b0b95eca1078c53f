from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time

import pytest
import uvloop
from storing import eventually

from exchange.errors import InvalidFieldError, StoreUnavailableError
from exchange.presence import subject_of
from exchange.statuslist import LIST_SIZE
from nodes.embedded import EmbeddedValkey
from nodes.store.answers import PeerAnswers
from nodes.store.attestations import AttestationStore
from nodes.store.records import Held, NewRecord
from nodes.store.statuses import LIST_BYTES, StatusStore

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture
def answers(store: AttestationStore) -> PeerAnswers:
    return PeerAnswers(store.reads)


def cursor(number: int) -> bytes:
    return number.to_bytes(32)


def subject() -> bytes:
    return secrets.token_bytes(8)


def soon() -> int:
    return int(time.time()) + 600


# Answers


async def test_what_peers_answered_is_kept_by_province(answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    await answers.begin(SHANGHAI, cursor(1), {})
    one, other = subject(), subject()
    answers.put(GUANGDONG, one, b"from Guangdong", soon())
    answers.put(SHANGHAI, one, b"", soon())
    answers.put(SHANGHAI, other, b"\x00\xff", soon())
    assert await answers.get([one, subject(), other]) == [
        {GUANGDONG: b"from Guangdong", SHANGHAI: b""},
        {},
        {SHANGHAI: b"\x00\xff"},
    ]
    assert await answers.get([]) == []


async def test_a_newer_answer_takes_the_place_of_an_older(answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"old", soon())
    answers.put(GUANGDONG, one, b"new", soon())
    assert await answers.get([one]) == [{GUANGDONG: b"new"}]


async def test_an_answer_that_expired_is_gone(answers, raw):
    await answers.begin(GUANGDONG, cursor(1), {})
    one, other = subject(), subject()
    answers.put(GUANGDONG, one, b"short", int(time.time()) + 1)
    answers.put(GUANGDONG, other, b"past", int(time.time()) - 1)

    async def gone() -> bool:
        return await answers.get([one, other]) == [{}, {}]

    await eventually(gone)

    async def forgotten() -> bool:
        return await raw.execute(b"KEYS", b"p:*") == []

    await eventually(forgotten)


async def test_nothing_is_kept_of_a_province_with_which_nothing_began(answers, raw):
    one = subject()
    answers.put(GUANGDONG, one, b"early", soon())
    assert await answers.get([one]) == [{}]
    await answers.begin(GUANGDONG, cursor(1), {})
    assert await answers.get([one]) == [{}]
    assert await raw.execute(b"KEYS", b"p:*") == []


async def test_an_answer_from_before_begin_does_not_count(answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    await answers.begin(SHANGHAI, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"old", soon())
    answers.put(SHANGHAI, one, b"old", soon())
    await answers.begin(GUANGDONG, cursor(2), {})
    assert await answers.get([one]) == [{SHANGHAI: b"old"}]
    answers.put(GUANGDONG, one, b"new", soon())
    assert await answers.get([one]) == [{SHANGHAI: b"old", GUANGDONG: b"new"}]


async def test_an_answer_that_comes_amid_begin_does_not_count(answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    beginning = asyncio.create_task(answers.begin(GUANGDONG, cursor(2), {}))
    await asyncio.sleep(0)
    answers.put(GUANGDONG, one, b"between", soon())
    await beginning
    assert await answers.get([one]) == [{}]


async def test_own_records_and_peers_answers_come_in_one_round_trip(store, answers, raw):
    await answers.begin(GUANGDONG, cursor(1), {})
    records = [
        NewRecord(
            secrets.token_bytes(16),
            secrets.token_bytes(36),
            "12440000MB2D00001X",
            bytes(32),
            soon(),
            b"\xd2own",
        )
        for _ in range(3)
    ]
    await store.publish(records[0])
    tokens = [record.token for record in records]
    answers.put(GUANGDONG, subject_of(tokens[1]), b"theirs", soon())

    async def reads() -> int:
        stats = (await raw.execute(b"INFO", b"stats")).decode()
        return int(stats.split("total_reads_processed:")[1].split()[0])

    before = await reads()
    subjects = [subject_of(token) for token in tokens]
    held, kept = await asyncio.gather(store.lookup_many(tokens), answers.get(subjects))
    assert await reads() == before + 2  # this one's own is the other
    assert held == [Held([b"\xd2own"], []), Held([], []), Held([], [])]
    assert kept == [{}, {GUANGDONG: b"theirs"}, {}]
    bare = PeerAnswers(store.reads)  # knows no peer yet
    assert await bare.get(subjects) == [{}, {}, {}]


async def test_an_answer_that_cannot_be_kept_harms_nobody(valkey, answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    await valkey.stop()
    answers.put(GUANGDONG, subject(), b"lost", soon())
    with pytest.raises(StoreUnavailableError):
        await answers.get([subject()])
    await asyncio.sleep(0)


# Changes


async def test_forgetting_deletes_marks_and_moves_the_cursor(store, answers):
    statuses = StatusStore(SICHUAN, store.reads, store.writes)
    await answers.begin(GUANGDONG, cursor(1), {})
    await answers.begin(SHANGHAI, cursor(7), {})
    subjects = [subject() for _ in range(1200)]
    for each in subjects:
        answers.put(GUANGDONG, each, b"old", soon())
        answers.put(SHANGHAI, each, b"stays", soon())
    await answers.forget(GUANGDONG, b"".join(subjects[:-1]), [(3, 4), (3, 12), (9, 0)], cursor(2))
    found = await answers.get(subjects)
    assert found[:-1] == [{SHANGHAI: b"stays"}] * 1199
    assert found[-1] == {SHANGHAI: b"stays", GUANGDONG: b"old"}
    assert await answers.cursor(GUANGDONG) == cursor(2)
    assert await answers.cursor(SHANGHAI) == cursor(7)
    assert (await statuses.bits(GUANGDONG, 3))[:2] == b"\x10\x10"
    assert (await statuses.bits(GUANGDONG, 9))[:2] == b"\x01\x00"
    assert await statuses.load(SHANGHAI) == {}


async def test_hearing_the_same_again_does_no_harm(answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"old", soon())
    for number in (2, 2, 1, 3):
        await answers.forget(GUANGDONG, one * 2, [(1, 1)] * 2, cursor(number))
        assert await answers.get([one]) == [{}]
    assert await answers.cursor(GUANGDONG) == cursor(3)


async def test_bits_are_merged_and_never_cleared(store, answers):
    statuses = StatusStore(SICHUAN, store.reads, store.writes)
    await answers.begin(GUANGDONG, cursor(1), {1: b"\x01\x80", 2: b"\xff" * LIST_BYTES})
    await answers.forget(GUANGDONG, b"", [(1, 1)], cursor(2))
    await answers.begin(GUANGDONG, cursor(3), {1: b"\x04", 2: b"", 5: b"\x00\x02"})
    loaded = await statuses.load(GUANGDONG)
    assert loaded[1][:3] == b"\x07\x80\x00"
    assert loaded[2] == b"\xff" * LIST_BYTES
    assert loaded[5][:2] == b"\x00\x02"
    assert {len(bits) for bits in loaded.values()} == {LIST_BYTES}


async def test_lists_that_a_begin_does_not_name_are_forgotten_where_there_are_too_many(
    store, answers, raw, monkeypatch
):
    """Else whoever names others each time would fill the store."""
    monkeypatch.setattr("nodes.store.answers.LISTS_OF_PROVINCE", 1201)
    for province in (SHANGHAI, GUANGDONG):
        await answers.begin(province, cursor(1), dict.fromkeys(range(1200), b"\x01"))
    statuses = StatusStore(SICHUAN, store.reads, store.writes)
    await answers.begin(GUANGDONG, cursor(2), {7: b"\x02", 1200: b"\x01"})
    assert len(await statuses.load(GUANGDONG)) == 1201
    await answers.begin(GUANGDONG, cursor(3), {7: b"\x04", 1201: b"\x01"})
    loaded = await statuses.load(GUANGDONG)
    assert {number: bits[0] for number, bits in loaded.items()} == {7: 7, 1201: 1}
    assert len(await raw.execute(b"KEYS", b"b:{440000}:*")) == 2
    assert len(await statuses.load(SHANGHAI)) == 1200
    await answers.begin(SHANGHAI, cursor(2), {7: b"\x02"}, only=True)
    assert list(await statuses.load(SHANGHAI)) == [7]


# Several processes on one store


@pytest.fixture
def two(store: AttestationStore) -> tuple[PeerAnswers, PeerAnswers]:
    return PeerAnswers(store.reads, b"process1"), PeerAnswers(store.reads, b"process2")


async def test_what_one_process_puts_after_a_change_that_another_heard_is_not_read_by_that_one(two):
    ahead, behind = two
    one = subject()
    for each in two:
        await each.begin(GUANGDONG, cursor(8), {})
        each.put(GUANGDONG, one, b"before the change", soon())
    await ahead.forget(GUANGDONG, one, [], cursor(9))
    behind.put(GUANGDONG, one, b"before the change", soon())
    assert await behind.get([one]) == [{GUANGDONG: b"before the change"}]
    assert await ahead.get([one]) == [{}]
    assert await ahead.cursor(GUANGDONG) == cursor(9)
    assert await behind.cursor(GUANGDONG) == cursor(8)


async def test_one_process_that_begins_anew_keeps_what_another_has_just_heard(store, two):
    first, second = two
    await first.begin(GUANGDONG, cursor(1), {1: b"\x01"})
    await second.begin(GUANGDONG, cursor(1), {1: b"\x01"})
    await first.forget(GUANGDONG, b"", [(2, 0)], cursor(2))
    await second.begin(GUANGDONG, cursor(1), {1: b"\x01"})  # a state from before list 2
    third = StatusStore(SICHUAN, store.reads, store.writes)
    assert sorted(await third.load(GUANGDONG)) == [1, 2]


async def test_what_a_process_leaves_that_is_gone_for_good_ends(two, raw, monkeypatch):
    first, _ = two
    await first.begin(GUANGDONG, cursor(1), {})
    first.put(GUANGDONG, subject(), b"answer", soon())
    (key,) = await raw.execute(b"KEYS", b"p:*")
    assert key.endswith(b"process1")
    key = b"y:{440000}:process1"
    assert 86_400 < await raw.execute(b"TTL", key) <= 7 * 86_400
    await raw.execute(b"EXPIRE", key, b"60")
    await first.cursor(GUANGDONG)  # as at each heartbeat: it lives
    assert await raw.execute(b"TTL", key) > 86_400
    await raw.execute(b"EXPIRE", key, b"60")
    await first.cursor(GUANGDONG)  # but writes nothing each time
    assert await raw.execute(b"TTL", key) <= 60
    monkeypatch.setattr("nodes.store.answers.TOUCH_SECONDS", 0.0)
    await asyncio.sleep(0.001)
    await first.cursor(GUANGDONG)
    assert await raw.execute(b"TTL", key) > 86_400


async def test_a_store_of_the_time_of_one_process_begins_anew(answers, raw):
    one = subject()
    await raw.execute(b"HSET", b"y", GUANGDONG.encode(), cursor(5) + b"generate")
    await raw.execute(b"HSET", b"p:{%b}" % one, GUANGDONG.encode(), b"generate" + b"old")
    assert await answers.cursor(GUANGDONG) is None
    assert await answers.get([one]) == [{}]
    await answers.begin(GUANGDONG, cursor(6), {})
    assert await answers.get([one]) == [{}]


async def test_where_cursor_and_answers_lie_apart_those_from_before_a_start_or_a_loss_do_not_count(
    valkey, store
):
    def opened() -> PeerAnswers:
        return PeerAnswers(store.reads, b"process1", ordered=False)

    answers, one = opened(), subject()
    await answers.begin(GUANGDONG, cursor(1), {})
    answers.put(GUANGDONG, one, b"kept", soon())
    await answers.forget(GUANGDONG, subject(), [], cursor(2))
    assert await answers.cursor(GUANGDONG) == cursor(2)  # a heartbeat
    assert await answers.get([one]) == [{GUANGDONG: b"kept"}]

    again = opened()
    assert await again.cursor(GUANGDONG) == cursor(2)
    assert await again.get([one]) == [{}]
    again.put(GUANGDONG, one, b"new", soon())
    assert await again.get([one]) == [{GUANGDONG: b"new"}]

    os.kill(valkey.pid, signal.SIGKILL)

    async def back() -> bool:
        return await again.cursor(GUANGDONG) == cursor(2)

    await eventually(back)
    assert await again.get([one]) == [{}]


async def test_what_is_being_put_is_waited_for_before_it_is_forgotten_where_they_may_cross(store):
    answers, one = PeerAnswers(store.reads, ordered=False), subject()
    await answers.begin(GUANGDONG, cursor(1), {})
    answers.put(GUANGDONG, one, b"old", soon())
    assert len(answers._putting) == 1
    await answers.forget(GUANGDONG, one, [], cursor(2))
    assert not answers._putting
    assert await answers.get([one]) == [{}]


async def test_peers_bits_are_kept_for_as_long_as_anything_may_last(answers, raw):
    await answers.begin(GUANGDONG, cursor(1), {1: b"\x01"})
    await answers.forget(GUANGDONG, b"", [(2, 1)], cursor(2))
    for key in (b"b:{440000}:1", b"b:{440000}:2"):
        assert await raw.execute(b"TTL", key) > 3 * 365 * 86_400
    assert sorted(await raw.execute(b"KEYS", b"b:*")) == [b"b:{440000}:1", b"b:{440000}:2"]


@pytest.mark.parametrize(
    ("subjects", "revoked", "at"),
    [
        (b"x" * 7, [], cursor(2)),
        (b"", [(1, LIST_SIZE)], cursor(2)),
        (b"", [(1, 1 << 32)], cursor(2)),
        (b"", [(1 << 32, 1)], cursor(2)),
        (b"", [], b"short"),
    ],
)
async def test_what_has_not_its_shape_changes_nothing(store, answers, subjects, revoked, at):
    await answers.begin(GUANGDONG, cursor(1), {})
    with pytest.raises(InvalidFieldError):
        await answers.forget(GUANGDONG, subjects, [(1, 1), *revoked], at)
    assert await answers.cursor(GUANGDONG) == cursor(1)
    assert await StatusStore(SICHUAN, store.reads, store.writes).load(GUANGDONG) == {}


@pytest.mark.parametrize(
    ("at", "revoked"),
    [(cursor(2), {1: bytes(LIST_BYTES + 1)}), (cursor(2), {1 << 32: b"\x01"}), (b"x", {})],
)
async def test_what_has_not_its_shape_begins_nothing(answers, at, revoked):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"stays", soon())
    with pytest.raises(InvalidFieldError):
        await answers.begin(GUANGDONG, at, revoked)
    assert await answers.get([one]) == [{GUANGDONG: b"stays"}]
    assert await answers.cursor(GUANGDONG) == cursor(1)


async def test_no_cursor_is_moved_where_a_place_could_not_be_marked(answers, raw):
    await answers.begin(GUANGDONG, cursor(1), {})
    await raw.execute(b"LPUSH", b"b:{440000}:1", b"something else")
    with pytest.raises(StoreUnavailableError):
        await answers.forget(GUANGDONG, b"", [(1, 1)], cursor(2))
    assert await answers.cursor(GUANGDONG) == cursor(1)
    with pytest.raises(StoreUnavailableError):
        await answers.begin(GUANGDONG, cursor(2), {1: b"\x01"})
    assert await answers.cursor(GUANGDONG) == cursor(1)


# Cursors


async def test_there_is_no_cursor_before_begin(answers):
    assert await answers.cursor(GUANGDONG) is None
    with pytest.raises(StoreUnavailableError, match="cursor"):
        await answers.forget(GUANGDONG, subject(), [], cursor(2))


async def test_another_process_continues_from_the_stored_cursor(store, answers):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"kept", soon())
    await answers.forget(GUANGDONG, subject(), [], cursor(2))
    again = PeerAnswers(store.reads)
    assert await again.get([one]) == [{}]  # perhaps it ended while nobody listened
    assert await again.cursor(GUANGDONG) == cursor(2)
    assert await again.get([one]) == [{GUANGDONG: b"kept"}]


async def test_what_is_no_cursor_is_refused(answers, raw):
    await raw.execute(b"SET", b"y:{440000}:", b"something else")
    with pytest.raises(StoreUnavailableError, match="something else"):
        await answers.cursor(GUANGDONG)


async def test_what_a_lost_store_holds_counts_only_once_its_cursor_was_read(valkey, answers, raw):
    await answers.begin(GUANGDONG, cursor(1), {})
    one = subject()
    answers.put(GUANGDONG, one, b"kept", soon())
    assert await answers.get([one]) == [{GUANGDONG: b"kept"}]
    os.kill(valkey.pid, signal.SIGKILL)

    async def back() -> bool:
        return await answers.get([one]) == [{}]

    await eventually(back)
    with pytest.raises(StoreUnavailableError, match="cursor"):
        await answers.forget(GUANGDONG, subject(), [], cursor(9))
    answers.put(GUANGDONG, one, b"unheard", soon())
    assert await answers.cursor(GUANGDONG) == cursor(1)
    assert await answers.get([one]) == [{GUANGDONG: b"kept"}]
    await answers.forget(GUANGDONG, one, [], cursor(2))
    assert await answers.get([one]) == [{}]


async def test_a_lost_tail_never_leaves_the_cursor_ahead_of_the_deletions(
    tmp_path, valkey, store, answers
):
    """The server is killed, and its log is cut at many places, as a power failure would."""
    steps = 12
    subjects = [subject() for _ in range(steps)]
    await answers.begin(GUANGDONG, cursor(0), {})
    for each in subjects:
        answers.put(GUANGDONG, each, b"old", soon())
    await answers.get(subjects)
    (log,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    start = log.stat().st_size
    for number, each in enumerate(subjects):
        await answers.forget(GUANGDONG, each, [(1, number)], cursor(number + 1))
    await answers.begin(GUANGDONG, cursor(steps + 1), {1: b"\x00\x00\x01"})
    end = log.stat().st_size
    await valkey.stop()

    reached = set()
    for cut in (end, *range(start, end, (end - start) // 12)):
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(tmp_path / "store", copy, ignore=shutil.ignore_patterns("lock", "*.sock"))
        os.truncate(copy / "appendonlydir" / log.name, cut)
        server = EmbeddedValkey(copy)
        await server.start()
        opened = await AttestationStore.open(server.url, SICHUAN)
        after = PeerAnswers(opened.reads)
        reached.add(at := int.from_bytes(await after.cursor(GUANGDONG)))
        found = await after.get(subjects)
        assert not any(found[:at])
        bits = await StatusStore(SICHUAN, opened.reads, opened.writes).load(GUANGDONG)
        marked = int.from_bytes(bits.get(1, b"")[:3], "little")
        wanted = (1 << min(at, steps)) - 1 | (at > steps) << 16
        assert marked & wanted == wanted
        await opened.close()
        await server.stop()
    assert len(reached) > 3
    assert max(reached) == steps + 1
