"""One of a node's processes is killed while issuers publish: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from uuid import UUID

import pytest
from waiting import until

from exchange.client import UnreachableError
from nodes.trial import TrialExchange

ISSUERS = 6
"""A connection each, so that both workers have some."""
EACH = 60
SECONDS = 100.0


@pytest.fixture
def sichuan(tmp_path_factory, invented, no_traces):
    issuers = {"510000": (invented.ISSUER_CREDIT_CODE,)}
    with TrialExchange(tmp_path_factory.mktemp("killed"), ["510000"], issuers=issuers) as exchange:
        exchange.start(environment={"TONGXING_WORKERS": "2"}, seconds=SECONDS)
        yield exchange
    no_traces(exchange)


def serving(exchange):
    """The processes that came to serve, by their places, in their order."""
    found = {0: [], 1: [], "hearing": []}
    for line in exchange.log("510000").read_text(encoding="utf-8").splitlines():
        if '"node.worker_serves"' in line and line.endswith("}"):
            each = json.loads(line)
            found[each["worker"]].append(each["pid"])
    return found


async def test_a_worker_killed_under_load_loses_nothing_that_was_acknowledged(sichuan, people):
    await until("all serve", lambda: all(serving(sichuan).values()), SECONDS)
    victim, other = serving(sichuan)[0][0], serving(sichuan)[1]
    acknowledged, failed = set(), []

    async def publish(rows):
        async with sichuan.client("510000", "issuer") as issuer:
            for row in rows:
                while row.attestation_id not in acknowledged:
                    try:
                        published, _ = await issuer.publish(row)
                    except Exception as error:  # noqa: BLE001 - whatever it is
                        failed.append(error)
                        await asyncio.sleep(0.05)
                    else:
                        assert str(published.id) == row.attestation_id
                        acknowledged.add(row.attestation_id)

    async def kill():
        await until("many are published", lambda: len(acknowledged) >= ISSUERS * 10, SECONDS)
        os.kill(victim, signal.SIGKILL)

    rows = [[people.tested() for _ in range(EACH)] for _ in range(ISSUERS)]
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(kill(), *map(publish, rows))
    assert {type(error) for error in failed} <= {UnreachableError}, "others are not to be repeated"
    async with sichuan.client("510000", "issuer") as issuer:
        found = [await issuer.get(UUID(each)) for each in acknowledged]
    assert {str(each.id) for each in found} == {row.attestation_id for each in rows for row in each}
    await until("it is started again", lambda: len(serving(sichuan)[0]) == 2, SECONDS)
    assert serving(sichuan)[1] == other
