"""The benchmarks' open loop: what it says of calls that are answered, refused, or late."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from nodes.identity import Identity, Role, issue, make_authority, server_name
from scripts.bench import openloop
from scripts.bench.target import Target

PROVINCE = "510000"
RATE, SECONDS = 100, 0.5


@pytest.fixture(scope="module")
def pairs():
    now, life = datetime.now(UTC), timedelta(hours=1)
    authority = make_authority(PROVINCE, now=now, lifetime=life)
    node, app = (
        issue(authority, Identity(PROVINCE, role, "one"), now=now, lifetime=life)
        for role in (Role.NODE, Role.APP)
    )
    return authority.certificate, node, app


@asynccontextmanager
async def serving(pairs, handle):
    authority, (certificate, key), app = pairs
    server = grpc.aio.server()
    server.add_registered_method_handlers(
        "bench.Peer", {"Answer": grpc.unary_unary_rpc_method_handler(handle)}
    )
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True),
    )
    await server.start()
    yield Target(f"127.0.0.1:{port}", "/bench.Peer/Answer", *app, authority, server_name(PROVINCE))
    await server.stop(0)


async def ask(pairs, handle, deadline=1.0):
    async with serving(pairs, handle) as target:
        requests = [b"one", b"two" * 1000]
        return await asyncio.to_thread(openloop.run, target, requests, RATE, SECONDS, deadline)


async def test_what_is_answered_was_sent_when_it_was_due(pairs):
    asked = []

    async def answer(request, context):
        asked.append((request, context.time_remaining()))
        return request

    outcome = await ask(pairs, answer)

    assert len(outcome.in_time) == len(outcome.behind)
    assert not outcome.refused
    assert not outcome.late
    assert RATE * SECONDS / 2 < len(outcome.in_time) < RATE * SECONDS * 2
    assert len(asked) > len(outcome.in_time)  # also before and after what counts
    assert {request for request, _ in asked} == {b"one", b"two" * 1000}
    assert all(remaining <= 1.0 for _, remaining in asked)


async def test_a_status_without_an_answer_is_a_refusal(pairs):
    async def refuse(request, context):
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    outcome = await ask(pairs, refuse)

    assert outcome.refused == len(outcome.behind) > 0
    assert not outcome.in_time


async def test_who_waits_beyond_the_deadline_is_late_and_others_are_sent_meanwhile(pairs):
    async def stall(request, context):
        await asyncio.sleep(10)

    outcome = await ask(pairs, stall, deadline=0.2)

    assert outcome.late == len(outcome.behind) > RATE * SECONDS / 2
    assert not outcome.in_time
