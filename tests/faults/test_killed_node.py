"""Two nodes of one province on one store: one dies under load, and no call fails of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import has_evidence, until

from exchange.client import Purpose
from nodes.embedded import EmbeddedValkey
from nodes.trial import TrialExchange, free_ports, wait_until

HOME = "510000"
CALLERS = 8
PURPOSE = Purpose.PURPOSE_ENTRY_CHECK


class Twin:
    """One of the province's nodes, each with a folder, an address and metrics of its own."""

    def __init__(self, exchange, store, number):
        port, metrics = free_ports(2)
        self._home = exchange.directory / HOME
        self.address = f"127.0.0.1:{port}"
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"
        self._log = self._home / f"node-{number}.log"
        self._environment = os.environ | {
            "TONGXING_LISTEN": self.address,
            "TONGXING_DATA": str(self._home / f"data-{number}"),
            "TONGXING_STORE__URL": store,
            "TONGXING_METRICS__LISTEN": f"127.0.0.1:{metrics}",
        }

    def start(self):
        command = ["-P", "-m", "nodes.cli", "node", "run", "--config", self._home / "node.toml"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=log, env=self._environment
            )
        wait_until("the node serves", self._serves, 60)

    def _serves(self):
        assert self._process.poll() is None, self._log.read_text()
        lines = self._log.read_text().splitlines()
        return any(json.loads(line)["event"] == "node.serving" for line in lines if line)

    def kill(self):
        self._process.kill()
        self._process.wait()

    async def recorded(self):
        """How many accesses it recorded: of each call one."""
        with await asyncio.to_thread(urllib.request.urlopen, self._metrics, timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        return samples["tongxing_audit_recorded_total"]


@pytest.fixture
async def twins(tmp_path, invented):
    valkey = EmbeddedValkey(tmp_path / "store")
    await valkey.start()
    exchange = TrialExchange(tmp_path / "x", [HOME], issuers={HOME: (invented.ISSUER_CREDIT_CODE,)})
    made = [Twin(exchange, valkey.url, number) for number in (1, 2)]
    try:
        for twin in made:
            await asyncio.to_thread(twin.start)
        exchange.addresses[HOME] = ",".join(twin.address for twin in made)
        yield exchange, *made
    finally:
        for twin in made:
            twin.kill()
        await valkey.stop()


class Callers:
    """Some who call without a pause."""

    def __init__(self, call):
        self._call = call
        self.answered = 0

    async def __aenter__(self):
        self._over = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_):
        self._over = True
        await asyncio.gather(*self._tasks)  # no call has failed

    async def _run(self):
        while not self._over:
            await self._call()
            self.answered += 1

    async def some_more(self):
        enough = self.answered + 4 * CALLERS
        await until("more calls are answered", lambda: self.answered >= enough or self._failed())
        assert not self._failed()

    def _failed(self):
        return any(task.done() for task in self._tasks)


async def dies_and_comes_back(callers, first, second):
    """Both are called; one dies; the other answers alone; the dead one comes back and is called."""

    async def both():
        await callers.some_more()
        return min(await first.recorded(), await second.recorded()) > 0

    async with callers:
        await until("both are called", both)
        first.kill()
        await callers.some_more()
        await asyncio.to_thread(first.start)
        before = await first.recorded()

        async def again():
            await callers.some_more()
            return await first.recorded() > before

        await until("it is called again", again)


async def test_a_killed_node_fails_no_call_loses_nothing_and_is_called_again_when_it_is_back(
    twins, people
):
    exchange, first, second = twins
    acknowledged = []
    async with exchange.client(HOME, "issuer") as issuer, exchange.client(HOME, "app") as app:

        async def publish_and_read():
            new = people.tested()
            await issuer.publish(new)
            acknowledged.append(new.attestation_id)
            assert has_evidence(await app.recognize(new.document, PURPOSE))

        await dies_and_comes_back(Callers(publish_and_read), first, second)
        found = [await issuer.get(UUID(id_)) for id_ in acknowledged]
    assert [str(each.id) for each in found] == acknowledged
