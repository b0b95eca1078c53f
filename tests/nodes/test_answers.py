from __future__ import annotations

import asyncio
import secrets
import time

import pytest
import uvloop
from storing import eventually

from exchange.errors import StoreUnavailableError
from exchange.presence import subject_of
from nodes.store.answers import PeerAnswers
from nodes.store.attestations import AttestationStore
from nodes.store.records import Held, NewRecord

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture
def answers(store: AttestationStore) -> PeerAnswers:
    return PeerAnswers(store.reads)


def subject() -> bytes:
    return secrets.token_bytes(8)


def soon() -> int:
    return int(time.time()) + 600


async def test_what_peers_answered_is_kept_by_province(answers):
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
    one = subject()
    answers.put(GUANGDONG, one, b"old", soon())
    answers.put(GUANGDONG, one, b"new", soon())
    assert await answers.get([one]) == [{GUANGDONG: b"new"}]


async def test_an_answer_that_expired_is_gone(answers, raw):
    one, other = subject(), subject()
    answers.put(GUANGDONG, one, b"short", int(time.time()) + 1)
    answers.put(GUANGDONG, other, b"past", int(time.time()) - 1)

    async def gone() -> bool:
        return await answers.get([one, other]) == [{}, {}]

    await eventually(gone)

    async def forgotten() -> bool:
        return await raw.execute(b"KEYS", b"p:*") == []

    await eventually(forgotten)


async def test_own_records_and_peers_answers_come_in_one_round_trip(store, answers, raw):
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


async def test_an_answer_that_cannot_be_kept_harms_nobody(valkey, answers):
    await valkey.stop()
    answers.put(GUANGDONG, subject(), b"lost", soon())
    with pytest.raises(StoreUnavailableError):
        await answers.get([subject()])
    await asyncio.sleep(0)


async def test_nodes_on_one_store_keep_their_own_answers(store):
    one, other = PeerAnswers(store.reads, b"Foshan.."), PeerAnswers(store.reads, b"Zhuhai..")
    who = subject()
    one.put(GUANGDONG, who, b"heard in Foshan", soon())
    other.put(GUANGDONG, who, b"heard in Zhuhai", soon())
    assert await one.get([who]) == [{GUANGDONG: b"heard in Foshan"}]
    assert await other.get([who]) == [{GUANGDONG: b"heard in Zhuhai"}]
