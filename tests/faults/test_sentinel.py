"""A node whose store sentinels watch: a failover under load loses nothing acknowledged."""

from __future__ import annotations

import asyncio

import pytest
from clusters import Sentinels, die_ahead, wait_until
from storing import eventually, new
from streaming import Stream
from waiting import heard, until

from exchange.errors import StoreUnavailableError
from nodes.store.attestations import AttestationStore
from nodes.store.keyspace import connect
from nodes.trial import TrialExchange

SICHUAN, GUANGDONG = PROVINCES = ("510000", "440000")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with Sentinels(tmp_path_factory.mktemp("watched")) as started:
        yield started


async def test_a_primary_that_fails_over_under_load_loses_nothing_acknowledged(
    tmp_path_factory, watched, people, invented, no_traces
):
    exchange = TrialExchange(
        tmp_path_factory.mktemp("nodes"),
        PROVINCES,
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    settings = {"TONGXING_STORE__URL": watched.url, "TONGXING_STORE__REPLICAS": "1"}
    with exchange:
        exchange.start(SICHUAN, environment=settings)
        exchange.start(GUANGDONG)
        async with (
            exchange.client(SICHUAN, "issuer") as issuer,
            exchange.client(GUANGDONG, "app") as app,
        ):
            async with Stream(people, issuer) as stream:
                await stream.some_more()
                await heard(app, next(iter(stream.acknowledged.values())).document)
                killed = watched.primary()
                others = [each for each in watched.servers if each is not killed]
                await asyncio.to_thread(die_ahead, killed, others)
                await asyncio.to_thread(
                    wait_until, "another takes over", lambda: watched.primary() is not killed
                )
                await stream.some_more()
            assert stream.errors
            stream.check_errors()
            await stream.check_each()
            await stream.goes_on(app)
    no_traces(exchange)


async def test_a_primary_that_became_a_replica_is_left_until_it_is_one_again(watched):
    await asyncio.to_thread(watched.settle)
    store = await AttestationStore.open(watched.url)
    await store.publish(record := new())
    watched.primary().ask("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailableError):
        await store.publish(new())
    await until("it is left", lambda: not store.writes._keyspace.up)
    watched.primary().ask("REPLICAOF NO ONE")

    async def back() -> bool:
        await store.publish(record)
        return record.signed in (await store.lookup(record.token)).signed

    await eventually(back)
    await store.close()


async def test_a_primary_that_the_sentinels_know_as_one_no_more_is_left(watched):
    """It answers still, cut off from them, with what it heard before."""
    await asyncio.to_thread(watched.settle)
    connection = await connect(watched.url)
    before = watched.primary()
    watched.watching[0].ask("SENTINEL FAILOVER", "main")
    await asyncio.to_thread(
        wait_until, "another takes over", lambda: watched.primary() is not before
    )
    await until(
        "the new one is found",
        lambda: connection.up and connection.address.port == watched.primary().port,
    )
    await connection.close()


async def test_a_name_that_no_sentinel_knows_is_refused(watched):
    with pytest.raises(StoreUnavailableError, match="name") as refused:
        await connect(watched.url.replace("/main", "/other"))
    assert "store.url" in str(refused.value)


async def test_sentinels_that_are_not_there_are_refused():
    with pytest.raises(StoreUnavailableError, match="cannot connect"):
        await connect("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main")


async def test_one_sentinel_that_does_not_answer_is_no_harm(watched):
    connection = await connect(watched.url.replace("//", "//127.0.0.1:1,"))
    assert connection.address.port == watched.primary().port
    await connection.close()
