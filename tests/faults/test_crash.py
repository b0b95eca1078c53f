"""Crashes in the middle of publishing: what was acknowledged is there, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from uuid import UUID

import grpc
import pytest
import redis
from waiting import freeze

from exchange.client import UnreachableError
from exchange.errors import RevokedError, StoreUnavailableError
from exchange.subjects import Document, DocumentType
from exchange.v1 import attestation_service_pb2 as pb
from nodes.trial import TrialExchange, wait_until

ROWS = 3_000
ENOUGH = 700
"""Acknowledgements after which the process is killed: more than a stream has at once."""


@pytest.fixture
def sichuan(tmp_path_factory, invented, no_traces):
    # A short name: a socket's path has little room.
    exchange = TrialExchange(
        tmp_path_factory.mktemp("crash"),
        ["510000"],
        issuers={"510000": (invented.ISSUER_CREDIT_CODE,)},
    )
    with exchange:
        exchange.start()
        yield exchange
    no_traces(exchange)


@pytest.fixture
def rows(people):
    return [people.tested() for _ in range(ROWS)]


def store(exchange):
    return redis.Redis(unix_socket_path=str(exchange.store("510000")))


def valkey_pid(exchange):
    with store(exchange) as connection:
        return connection.info("server")["process_id"]


def ended(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


async def publish(exchange, rows, acknowledged, *, kill=None):
    """Publish the rows as a file is; after `ENOUGH` answers, `kill`.

    :param acknowledged: takes the acknowledged ids, also where the stream breaks.
    :returns: the ids of those that stood there already.
    """
    already = set()
    async with exchange.client("510000", "issuer") as issuer:
        async for item in issuer.publish_all(enumerate(rows)):
            if item.error is None:
                acknowledged.add(item.attestation_id)
                if item.already_published:
                    already.add(item.attestation_id)
            else:
                assert isinstance(item.error, StoreUnavailableError)
            if kill and len(acknowledged) == ENOUGH:
                kill()
                kill = None
    return already


async def check_each(exchange, ids):
    """Read every acknowledged attestation by its id, and verify it."""
    async with exchange.client("510000", "issuer") as issuer:
        limit = asyncio.Semaphore(64)

        async def read(id_):
            async with limit:
                return await issuer.get(UUID(id_))

        found = await asyncio.gather(*(read(id_) for id_ in ids))
    assert {str(attestation.id) for attestation in found} == ids


def check_once_each(exchange, rows, key):
    """Every subject holds exactly its one attestation."""
    documents = [Document(DocumentType.RESIDENT_ID, row.document.number) for row in rows]
    with store(exchange) as connection, connection.pipeline(transaction=False) as pipeline:
        for document in documents:
            pipeline.hkeys(b"s:{%b}" % document.token(key))
        held = pipeline.execute()
        assert held == [[UUID(row.attestation_id).bytes] for row in rows]
        assert len(connection.keys(b"s:*")) == len(connection.keys(b"a:*")) == len(rows)


async def test_a_node_killed_in_the_middle_loses_nothing_that_it_acknowledged(
    sichuan, rows, epoch_key
):
    valkey = valkey_pid(sichuan)
    acknowledged = set()
    with pytest.raises(UnreachableError):
        await publish(sichuan, rows, acknowledged, kill=lambda: sichuan.kill("510000"))
    assert ENOUGH <= len(acknowledged) < ROWS
    wait_until("the killed node's Valkey ends too", lambda: ended(valkey), 30)
    await asyncio.to_thread(sichuan.start)
    await check_each(sichuan, acknowledged)
    everything = set()
    already = await publish(sichuan, rows, everything)
    assert len(everything) == ROWS
    assert acknowledged <= already
    check_once_each(sichuan, rows, epoch_key(sichuan))


async def test_a_valkey_killed_in_the_middle_loses_nothing_that_was_acknowledged(
    sichuan, rows, epoch_key
):
    node, valkey = sichuan.pid("510000"), valkey_pid(sichuan)
    acknowledged = set()
    await publish(sichuan, rows, acknowledged, kill=lambda: os.kill(valkey, signal.SIGKILL))
    assert ENOUGH <= len(acknowledged) < ROWS
    async with sichuan.client("510000", "issuer") as issuer:
        async with asyncio.timeout(20):  # the node brings it back by itself
            while True:
                try:
                    await issuer.publish(rows[0])
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.05)
    assert sichuan.pid("510000") == node
    assert valkey_pid(sichuan) != valkey
    await check_each(sichuan, acknowledged)
    everything = set()
    already = await publish(sichuan, rows, everything)
    assert len(everything) == ROWS
    assert acknowledged <= already
    check_once_each(sichuan, rows, epoch_key(sichuan))


async def test_a_store_that_does_not_answer_is_told_and_forgotten_when_it_does(
    sichuan, people, refusal
):
    """The caller is told when to try again; the node serves on without a restart."""
    message = people.tested()
    request = pb.PublishAttestationRequest(attestation=message)
    valkey = valkey_pid(sichuan)
    async with sichuan.client("510000", "issuer") as issuer:
        freeze(valkey)
        try:
            call = issuer._channel.unary_unary("/tongxing.v1.AttestationService/GetAttestation")
            get = pb.GetAttestationRequest(attestation_id=message.attestation_id)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(get.SerializeToString(), timeout=20)
        finally:
            os.kill(valkey, signal.SIGCONT)
        assert refusal(caught.value)[:2] == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        trailers = dict(caught.value.trailing_metadata())
        assert b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]
        publish_one = issuer._channel.unary_unary(
            "/tongxing.v1.AttestationService/PublishAttestation"
        )
        async with asyncio.timeout(20):
            while True:
                try:
                    await publish_one(request.SerializeToString())
                    break
                except grpc.aio.AioRpcError as error:
                    assert refusal(error).reason == "STORE_UNAVAILABLE"  # noqa: PT017
                    await asyncio.sleep(0.05)
    assert valkey_pid(sichuan) == valkey


async def test_what_was_revoked_stays_revoked_through_a_crash(sichuan, people):
    message = people.tested()
    async with sichuan.client("510000", "issuer") as issuer:
        await issuer.publish(message)
        at = await issuer.revoke(UUID(message.attestation_id), "录入错误")
        sichuan.kill("510000")
    await asyncio.to_thread(sichuan.start)
    async with sichuan.client("510000", "issuer") as issuer:
        with pytest.raises(RevokedError):
            await issuer.publish(message)
        assert await issuer.revoke(UUID(message.attestation_id), "再次") == at
