"""One process of a node hears the peers for all of it: it is killed, and it is restarted.

Guangdong has two workers, Sichuan one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from uuid import UUID

import pytest
from waiting import freeze, has_evidence, is_recognised, until

from exchange.client import Purpose
from nodes.trial import TrialExchange, wait_until

SICHUAN, GUANGDONG = "510000", "440000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK
SECONDS = 100.0
APPS = 8
"""Connections, so many that both workers have some."""


def events(exchange, *names):
    lines = exchange.log(GUANGDONG).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [each for each in found if each["event"] in names]


def hearing(exchange):
    """The processes that came to hear, in their order."""
    return [
        each["pid"]
        for each in events(exchange, "node.worker_serves")
        if each["worker"] == "hearing"
    ]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    directory = tmp_path_factory.mktemp("hearing")
    issuers = {SICHUAN: (invented.ISSUER_CREDIT_CODE,)}
    with TrialExchange(directory, [SICHUAN, GUANGDONG], issuers=issuers) as trial:
        trial.start(SICHUAN, seconds=SECONDS)
        trial.start(GUANGDONG, environment={"TONGXING_WORKERS": "2"}, seconds=SECONDS)
        wait_until("it hears", lambda: hearing(trial), SECONDS)
        wait_until("both serve", lambda: events(trial, "node.serving"), SECONDS)
        yield trial
    no_traces(trial)


class Gate:
    """Guangdong's app, over many connections, and Sichuan's issuer."""

    def __init__(self, exchange, people, issuer, apps):
        self.exchange, self.people, self.issuer, self.apps = exchange, people, issuer, apps

    async def decisions(self, row):
        asked = [app.recognize(row.document, CHECK) for app in self.apps]
        return await asyncio.gather(*asked)

    async def until_all(self, what, row, holds):
        async def said():
            return all(map(holds, await self.decisions(row)))

        await until(what, said, SECONDS)

    async def arrived(self):
        """Somebody of whom Sichuan has published, when all of Guangdong recognise them."""
        row = self.people.tested()
        await self.issuer.publish(row)
        await self.until_all("all recognise", row, is_recognised)
        return row

    async def revoke(self, row):
        await self.issuer.revoke(UUID(row.attestation_id), "录入错误")
        await self.until_all("none recognises", row, lambda each: not is_recognised(each))


@pytest.fixture
async def gate(exchange, people):
    async with contextlib.AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(exchange.client(SICHUAN, "issuer"))
        apps = [
            await stack.enter_async_context(exchange.client(GUANGDONG, "app")) for _ in range(APPS)
        ]
        yield Gate(exchange, people, issuer, apps)


async def test_all_workers_know_what_one_process_hears(exchange, gate):
    row = await gate.arrived()
    await gate.revoke(row)
    assert {each["worker"] for each in events(exchange, "sync.synchronised")} == {"hearing"}


async def test_while_nobody_hears_what_was_heard_stands_and_then_what_changed_meanwhile(
    exchange, gate
):
    row, other = await gate.arrived(), await gate.arrived()
    *_, pid = before = hearing(exchange)
    freeze(pid)  # so that it is not started again at once
    await gate.issuer.revoke(UUID(row.attestation_id), "录入错误")
    assert all(map(is_recognised, await gate.decisions(other)))
    os.kill(pid, signal.SIGKILL)
    await gate.until_all("none recognises", row, lambda each: not is_recognised(each))
    assert len(hearing(exchange)) == len(before) + 1
    assert all(map(is_recognised, await gate.decisions(other)))
    await gate.revoke(await gate.arrived())


async def test_a_rolling_restart_leaves_no_moment_in_which_nobody_hears(exchange, gate):
    row = await gate.arrived()
    before, ends, missed = hearing(exchange), asyncio.Event(), []

    async def go_on():
        while not ends.is_set():
            missed.extend(each for each in await gate.decisions(row) if not is_recognised(each))
            await asyncio.sleep(0.05)

    going = asyncio.create_task(go_on())
    exchange.signal(GUANGDONG, signal.SIGUSR2)
    await until("it is restarted", lambda: events(exchange, "node.restarted"), SECONDS)
    await gate.revoke(await gate.arrived())
    ends.set()
    await going
    assert missed == []
    assert len(hearing(exchange)) == len(before) + 1
    assert all(has_evidence(each) for each in await gate.decisions(row))
