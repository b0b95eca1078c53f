"""A node whose store is a cluster: all functions, and what a publish's acknowledgement is worth."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from clusters import SLOTS, Cluster, die_ahead, wait_until
from streaming import Stream
from waiting import heard, until

from exchange.client import Purpose
from exchange.errors import RevokedError
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.store.cluster import slot_of
from nodes.store.keyspace import connect
from nodes.trial import TrialExchange

SICHUAN, GUANGDONG = PROVINCES = ("510000", "440000")
CHECK = Purpose.PURPOSE_ENTRY_CHECK
JOURNAL = slot_of((b"GET", b"c"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=1) as started:
        yield started


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, cluster, invented, no_traces):
    """Sichuan's store is the cluster, Guangdong's its own."""
    trial = TrialExchange(
        tmp_path_factory.mktemp("nodes"),
        PROVINCES,
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        settings = {"TONGXING_STORE__URL": cluster.url, "TONGXING_STORE__REPLICAS": "1"}
        trial.start(SICHUAN, environment=settings)
        trial.start(GUANGDONG)
        yield trial
    no_traces(trial)


@pytest.fixture
async def issuer(exchange):
    async with exchange.client(SICHUAN, "issuer") as client:
        yield client


@pytest.fixture
async def app(exchange):
    async with exchange.client(GUANGDONG, "app") as client:
        yield client


def is_revoked(decision):
    return [each.verdict for each in decision.evidence] == [recognition.VERDICT_REVOKED]


async def test_all_functions_of_a_node_work_on_a_cluster(exchange, issuer, app, people):
    messages = [people.tested() for _ in range(30)]
    published = [item async for item in issuer.publish_all(enumerate(messages))]
    assert [item.error for item in published] == [None] * 30
    for message in messages[:3]:
        await heard(app, message.document)
    first = UUID(messages[0].attestation_id)
    at = await issuer.revoke(first, "录入错误")
    assert await issuer.revoke(first, "再次") == at
    with pytest.raises(RevokedError):
        await issuer.publish(messages[0])
    await heard(app, messages[0].document, is_revoked)
    attestation = await issuer.get(UUID(messages[1].attestation_id))
    async with exchange.client(SICHUAN, "app") as own:
        (signed,) = await own.status_lists([attestation.status.uri])
        assert isinstance(signed, bytes)
        decision = await own.recognize(messages[1].document, CHECK)
        assert decision.evidence


async def test_slots_that_move_under_load_lose_nothing_acknowledged(
    exchange, cluster, issuer, app, people
):
    """Key by key, as resharding does, the journal's slot among them; and back in one step."""
    async with Stream(people, issuer) as stream:
        await stream.some_more()
        home = cluster.owner(JOURNAL)
        target = next(each for each in cluster.servers[:3] if each is not home)
        slots = {JOURNAL, *(slot_of((b"GET", b"w%d" % number)) for number in range(4))}
        slots |= {JOURNAL + step for step in range(-30, 30)}
        slots |= set(range(0, SLOTS, 160))
        await asyncio.to_thread(cluster.move, slots, target)
        await stream.some_more()
        assert cluster.owner(JOURNAL) is target
        if cluster.moves_at_once:
            await asyncio.to_thread(cluster.move_at_once, JOURNAL, home)
            await stream.some_more()
            assert cluster.owner(JOURNAL) is home
    stream.check_errors()
    await stream.check_each()
    await stream.goes_on(app)


async def test_a_failover_by_hand_under_load_loses_nothing_acknowledged(cluster, issuer, people):
    """As before a server is taken down for repair."""
    await asyncio.to_thread(cluster.settle)
    async with Stream(people, issuer) as stream:
        await stream.some_more()
        await asyncio.to_thread(cluster.fail_over, JOURNAL)
        await stream.some_more()
    stream.check_errors()
    await stream.check_each()


async def test_a_primary_that_is_killed_under_load_loses_nothing_acknowledged(
    exchange, cluster, issuer, app, people
):
    await asyncio.to_thread(cluster.settle)
    node = exchange.pid(SICHUAN)
    idle = await connect(cluster.url)
    lives = idle.lives
    async with Stream(people, issuer) as stream:
        await stream.some_more()
        killed = cluster.owner(JOURNAL)
        await asyncio.to_thread(die_ahead, killed, cluster.replicas(killed))
        await asyncio.to_thread(
            wait_until, "another takes over", lambda: cluster.owner(JOURNAL) is not killed
        )
        await asyncio.to_thread(killed.start)  # as its new primary's replica
        await stream.some_more()
    assert stream.errors
    stream.check_errors()
    await stream.check_each()
    await stream.goes_on(app)
    assert exchange.pid(SICHUAN) == node
    await until("who asks nothing learns of it too", lambda: idle.lives > lives)
    await idle.close()
