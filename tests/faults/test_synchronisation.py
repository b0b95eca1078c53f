"""Nodes that fail in every way: at the end each agrees with what was acknowledged, item by item."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from functools import partial
from uuid import UUID

import pytest
import redis
from waiting import freeze, until

from exchange.client import Purpose
from exchange.client.admin import Peering
from exchange.errors import StoreUnavailableError, TongxingError
from exchange.v1 import peering_service_pb2 as peering
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.trial import TrialExchange, free_ports

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SICHUAN, GUANGDONG, SHANGHAI = PROVINCES = ("510000", "440000", "310000")
SETTLED_SECONDS = 40
EACH = 4
"""Published, and half of them revoked, by each province in each turn."""


class Line:
    """What lies between a node and all that call it: TCP that can be cut, or go silent."""

    def __init__(self, listen, forward):
        self._listen, self._forward = listen, forward
        self._writers = set()
        self._open = True
        self._flows = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._loop.call_soon(lambda: self._loop.create_task(self._serve(ready)))
        self._thread.start()
        assert ready.wait(SETTLED_SECONDS)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _serve(self, ready):
        self._flows = asyncio.Event()
        self._flows.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._listen)
        ready.set()

    async def _connect(self, reader, writer):
        if not self._open:
            writer.transport.abort()
            return
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", self._forward)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, outer}
        await asyncio.gather(self._pump(reader, outer), self._pump(inner, writer))
        self._writers -= {writer, outer}

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _do(self, action):
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (action(), done.set()))
        assert done.wait(SETTLED_SECONDS)

    def cut(self):
        """Connections break, and none is made."""

        def action():
            self._open = False
            for writer in self._writers:
                writer.transport.abort()

        self._do(action)

    def hang(self):
        """Nothing passes, and nobody is told."""
        self._do(self._flows.clear)

    def heal(self):
        def action():
            self._open = True
            self._flows.set()

        self._do(action)

    def close(self):
        self.cut()
        self._do(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


async def insist(ask):
    """Ask until the store is there; what is asked for may be done twice."""
    async with asyncio.timeout(SETTLED_SECONDS):
        while True:
            try:
                return await ask()
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


class Ledger:
    """What was acknowledged, and what every node must therefore say."""

    def __init__(self, exchange, people):
        self._exchange, self._people = exchange, people
        self.live, self.revoked, self.lost = {}, {}, []

    async def turn(self, *provinces):
        """Publish at each province, and revoke half of it."""
        for province in provinces:
            async with self._exchange.client(province, "issuer") as issuer:
                messages = [self._people.tested() for _ in range(EACH)]
                for message in messages:
                    await insist(partial(issuer.publish, message))
                    self.live[message.attestation_id] = (province, message.document)
                for message in messages[::2]:
                    id_ = UUID(message.attestation_id)
                    await insist(partial(issuer.revoke, id_, "laboratory's fault"))
                    self.revoked[message.attestation_id] = self.live.pop(message.attestation_id)

    def lose(self, province):
        """A province's disk is gone, and all that it had with it."""
        for held in (self.live, self.revoked):
            for id_, (code, document) in list(held.items()):
                if code == province:
                    del held[id_]
                    self.lost.append(document)

    async def agree(self):
        """Wait until every node says of every holder what was acknowledged."""
        expected = [
            *(("ACCEPTED", document) for _, document in self.live.values()),
            *(("REVOKED", document) for _, document in self.revoked.values()),
            *(("NO_RECORD", document) for document in self.lost),
        ]
        documents = [document for _, document in expected]
        for province in PROVINCES:
            async with self._exchange.client(province, "app") as app:
                end = time.monotonic() + SETTLED_SECONDS
                while wrong := await self._differs(province, app, documents, expected):
                    assert time.monotonic() < end, wrong
                    await asyncio.sleep(0.1)

    async def _differs(self, province, app, documents, expected):
        try:
            decisions = await app.recognize_all(documents, CHECK)
        except TongxingError as error:
            return [str(error)]
        said = [
            "error"
            if isinstance(decision, TongxingError)
            else recognition.Verdict.Name(decision.verdict).removeprefix("VERDICT_")
            for decision in decisions
        ]
        return [
            (province, "says", word, "for", wanted)
            for word, (wanted, _) in zip(said, expected, strict=True)
            if word != wanted
        ]


@pytest.fixture(scope="module")
def lines():
    """By province, once the exchange is up."""
    return {}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces, lines):
    trial = TrialExchange(
        tmp_path_factory.mktemp("synchronisation"),
        PROVINCES,
        issuers=dict.fromkeys(PROVINCES, (invented.ISSUER_CREDIT_CODE,)),
    )
    with trial:
        for province, port in zip(PROVINCES, free_ports(len(PROVINCES)), strict=True):
            listen = int(trial.addresses[province].rpartition(":")[2])
            lines[province] = Line(listen, port)
            start(trial, province, port)
        yield trial
        for line in lines.values():
            line.close()
    no_traces(trial)


def start(exchange, province, port):
    exchange.start(
        province,
        environment={
            "TONGXING_LISTEN": f"127.0.0.1:{port}",
            "TONGXING_PEERS__HEARTBEAT_SECONDS": "0.5",
        },
    )


def again(exchange, lines, province):
    start(exchange, province, lines[province]._forward)


@pytest.fixture(scope="module")
def ledger(exchange, people):
    return Ledger(exchange, people)


@pytest.fixture(autouse=True)
async def agreed(exchange, ledger):
    """Before each fault, and after it."""
    await ledger.turn(*PROVINCES)
    await ledger.agree()
    yield
    await ledger.turn(*PROVINCES)
    await ledger.agree()


async def until_state(exchange, at, of, state):
    """Wait until a node knows how it stands with a peer."""
    async with exchange.client(at, "admin") as admin:

        async def stands():
            peers = (await Peering(admin).list()).peers
            (peer,) = (each for each in peers if each.province == of)
            return peer if peer.state == state else None

        return await until(f"{of} is {peering.PeerState.Name(state)} at {at}", stands)


async def test_a_peer_that_is_killed(exchange, lines, ledger):
    exchange.kill(SICHUAN)
    try:
        await until_state(exchange, GUANGDONG, SICHUAN, peering.PEER_STATE_SILENT)
        await ledger.turn(GUANGDONG, SHANGHAI)
    finally:
        await asyncio.to_thread(again, exchange, lines, SICHUAN)


async def test_a_peer_that_is_frozen(exchange, ledger):
    freeze(exchange.pid(SICHUAN))
    try:
        await until_state(exchange, GUANGDONG, SICHUAN, peering.PEER_STATE_SILENT)
        await ledger.turn(GUANGDONG, SHANGHAI)
    finally:
        exchange.signal(SICHUAN, signal.SIGCONT)


@pytest.mark.parametrize("fault", ["cut", "hang"])
async def test_a_peer_behind_a_line_that_fails_and_heals(exchange, lines, ledger, fault):
    getattr(lines[SICHUAN], fault)()
    try:
        await until_state(exchange, GUANGDONG, SICHUAN, peering.PEER_STATE_SILENT)
        await ledger.turn(GUANGDONG, SHANGHAI)
    finally:
        lines[SICHUAN].heal()


async def test_changes_continue_where_they_broke_off(exchange, lines, ledger):
    """A short cut needs no whole resynchronisation."""
    synchronised = peering.PEER_STATE_SYNCHRONISED
    before = await until_state(exchange, GUANGDONG, SICHUAN, synchronised)
    lines[SICHUAN].cut()
    try:
        await until_state(exchange, GUANGDONG, SICHUAN, peering.PEER_STATE_SILENT)
    finally:
        lines[SICHUAN].heal()
    after = await until_state(exchange, GUANGDONG, SICHUAN, synchronised)
    assert after.resynchronisations == before.resynchronisations


async def test_a_peer_that_comes_back_with_an_empty_disk(exchange, lines, ledger):
    exchange.stop(SICHUAN)
    shutil.rmtree(exchange.directory / SICHUAN / "data" / "valkey")
    ledger.lose(SICHUAN)
    await asyncio.to_thread(again, exchange, lines, SICHUAN)


async def test_a_receiver_that_comes_back_with_an_empty_disk(exchange, lines, ledger):
    exchange.stop(GUANGDONG)
    shutil.rmtree(exchange.directory / GUANGDONG / "data" / "valkey")
    ledger.lose(GUANGDONG)
    await ledger.turn(SICHUAN)
    await asyncio.to_thread(again, exchange, lines, GUANGDONG)


@pytest.mark.parametrize("province", [SICHUAN, GUANGDONG])
async def test_a_valkey_that_is_killed(exchange, ledger, province):
    with redis.Redis(unix_socket_path=str(exchange.store(province))) as connection:
        os.kill(connection.info("server")["process_id"], signal.SIGKILL)
    await ledger.turn(SHANGHAI)


async def test_a_node_that_was_away_longer_than_the_changes_reach(exchange, lines, ledger):
    """It fetches the whole state by itself."""
    exchange.stop(GUANGDONG)
    await ledger.turn(SICHUAN)
    with redis.Redis(unix_socket_path=str(exchange.store(SICHUAN))) as connection:
        connection.xtrim("c", maxlen=1, approximate=False)
    await asyncio.to_thread(again, exchange, lines, GUANGDONG)
