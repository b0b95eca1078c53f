"""Several processes of one province on one store: whichever is asked, the province answers.

Sichuan has a node of two processes, A and its worker C, and another node, B, with its own data;
Guangdong has one. All of Sichuan's are on one Valkey.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from uuid import UUID

import pytest
from waiting import heard, heard_from_all, is_recognised, until

from exchange import cose, statuslist
from exchange.client import Client, Purpose, UnreachableError
from exchange.client.admin import Keys
from exchange.client.auditing import Accesses
from exchange.errors import KeyStepError, RevokedError, StoreUnavailableError, TrustListError
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import key_service_pb2 as keys
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import types_pb2 as types
from nodes.audit.verifying import verify_all
from nodes.embedded import EmbeddedValkey
from nodes.trial import TrialExchange, free_ports, wait_until

SICHUAN, GUANGDONG = "510000", "440000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK
ROWS = 1_500
ENOUGH = 400
REASON = "录入错误"
NODE = (sys.executable, "-P", "-m", "nodes.cli", "node", "run")


@contextlib.contextmanager
def shared_store(directory):
    """A Valkey of nobody's own; its URL."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    valkey, ready = EmbeddedValkey(directory), threading.Event()

    async def keep():
        await valkey.start()
        ready.set()
        await stop.wait()
        await valkey.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(keep(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield valkey.url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class Many:
    """The exchange, and Sichuan's further processes."""

    def __init__(self, exchange, store):
        self.exchange, self.home = exchange, exchange.directory / SICHUAN
        b, c = free_ports(2)
        self.at = {
            "A": exchange.addresses[SICHUAN],
            "B": f"127.0.0.1:{b}",
            "C": f"127.0.0.1:{c}",
        }
        self.environment = {
            "A": {"TONGXING_WORKER": "0/2"},
            "B": {"TONGXING_LISTEN": self.at["B"], "TONGXING_DATA": str(self.home / "data-b")},
            "C": {"TONGXING_LISTEN": self.at["C"], "TONGXING_WORKER": "1/2"},
        }
        for each in self.environment.values():
            each |= {"TONGXING_STORE__URL": store, "TONGXING_LOG__LEVEL": "debug"}
        self.processes = {}

    def start(self):
        sichuan = self.exchange.trust().profile(SICHUAN)
        # By name: gRPC itself then knows but the first of them.
        addresses = tuple(self.at[name].replace("127.0.0.1", "localhost") for name in "AB")
        self.exchange.publish(dataclasses.replace(sichuan, addresses=addresses))
        self.exchange.start("registry", GUANGDONG)
        for name in self.at:
            self.launch(name)
        for name in self.at:
            wait_until(f"{name} serves", lambda name=name: self.serves(name), 60)

    def launch(self, name):
        with self.exchange.log(SICHUAN).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*NODE, "--config", str(self.home / "node.toml")],
                env=os.environ | self.environment[name],
                stdout=log,
                stderr=log,
            )

    def serves(self, name):
        assert self.processes[name].poll() is None, self.exchange.log(SICHUAN).read_text()[-2000:]
        host, _, port = self.at[name].rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    def kill(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for each in self.processes.values():
            each.terminate()
        for each in self.processes.values():
            each.wait(30)

    def client(self, name, who):
        """A client of one of Sichuan's processes."""
        return Client.from_files(
            self.at[name],
            province=SICHUAN,
            certificate=self.home / f"{who}.pem",
            key=self.home / f"{who}-key.pem",
            trust=self.trust,
        )


@pytest.fixture(scope="module")
def many(tmp_path_factory, invented, no_traces):
    # Short names: a socket's path has little room.
    exchange = TrialExchange(
        tmp_path_factory.mktemp("many"),
        [SICHUAN, GUANGDONG],
        issuers=dict.fromkeys((SICHUAN, GUANGDONG), (invented.ISSUER_CREDIT_CODE,)),
        registry=True,
    )
    with shared_store(tmp_path_factory.mktemp("shared")) as url, exchange:
        made = Many(exchange, url)
        try:
            made.start()
            made.trust = exchange.live_trust("many")
            yield made
        finally:
            made.stop()
    no_traces(exchange)


@pytest.fixture
async def clients(many):
    """Gives a client of one of Sichuan's processes; all are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        opened = {}

        async def client(name, who):
            if (name, who) not in opened:
                opened[name, who] = await stack.enter_async_context(many.client(name, who))
            return opened[name, who]

        yield client


@pytest.fixture
async def guangdong(many):
    async with many.exchange.client(GUANGDONG, "app", trust=many.trust) as app:
        yield app


def is_refused(decision):
    return decision.outcome == recognition.OUTCOME_NOT_RECOGNIZED


def is_red(decision):
    return decision.colour == types.COLOUR_RED


async def test_what_is_published_at_one_counts_at_all_at_once_and_elsewhere(
    clients, guangdong, people
):
    message = people.tested()
    issuer = await clients("A", "issuer")
    published, already = await issuer.publish(message)
    assert not already
    for name in "ABC":
        app = await clients(name, "app")
        assert is_recognised(await app.recognize(message.document, CHECK)), name
        issuer = await clients(name, "issuer")
        assert await issuer.get(published.id) == published
    assert is_recognised(await heard(guangdong, message.document, is_recognised))


async def test_what_is_revoked_at_one_is_refused_at_all_at_once_and_elsewhere(
    many, clients, guangdong, people
):
    message = people.tested()
    published, _ = await (await clients("A", "issuer")).publish(message)
    codes = {
        name: (await (await clients(name, "app")).issue_health_code(message.document, CHECK))
        for name in "AC"
    }
    await heard(guangdong, message.document, is_recognised)
    for name in "ABC":  # each has signed the list as it was
        await (await clients(name, "app")).status_lists([published.status.uri])
    await (await clients("B", "issuer")).revoke(published.id, REASON)
    for name in "ABC":
        app = await clients(name, "app")
        decision = await app.recognize(message.document, CHECK)
        assert not is_recognised(decision), name
        for code in codes.values():
            judged = await app.verify_health_code(code.health_code.signed, CHECK)
            assert judged.outcome != recognition.OUTCOME_RECOGNIZED, name
        (signed,) = await app.status_lists([published.status.uri])
        found = statuslist.verify(signed, many.trust(), datetime.now(UTC))
        assert found.revoked(published.status.index), name
        with pytest.raises(RevokedError):
            await (await clients(name, "issuer")).get(published.id)
    await heard(guangdong, message.document, lambda it: not is_recognised(it))


async def test_one_id_that_is_published_at_all_at_once_is_one_attestation(clients, people):
    issuers = [await clients(name, "issuer") for name in "ABC"]
    for _ in range(10):
        message = people.tested()
        answers = await asyncio.gather(*(each.publish(message) for each in issuers))
        assert [already for _, already in answers].count(False) == 1
        published = {attestation for attestation, _ in answers}
        assert len(published) == 1
        (one,) = published
        await issuers[0].revoke(one.id, REASON)
        for each in issuers:
            with pytest.raises(RevokedError):
                await each.get(one.id)


async def test_what_a_peer_answered_before_a_change_is_read_by_nobody_who_has_heard_of_it(
    many, clients, people
):
    """All ask for the same traveller as fast as they can, while his own province reports a red."""
    apps = [await clients(name, "app") for name in "ABC"]
    for app in apps:
        await heard_from_all(app, people.document())
    async with many.exchange.client(GUANGDONG, "issuer", trust=many.trust) as issuer:
        for _ in range(4):
            test = people.tested()
            await issuer.publish(test)
            for app in apps:
                await heard(app, test.document, is_recognised)
            seen = set()

            async def ask(app, document=test.document, seen=seen):
                while len(seen) < len(apps):
                    red = is_red(await app.recognize(document, CHECK))
                    assert red or app not in seen
                    if red:
                        seen.add(app)

            red = people.coloured("RED", document=test.document)
            async with asyncio.timeout(60):
                await asyncio.gather(*(ask(each) for each in apps), issuer.publish(red))
            for app in apps:
                for _ in range(5):
                    assert is_red(await app.recognize(test.document, CHECK))


async def test_each_process_of_a_node_shows_the_accesses_through_all(many, clients, people):
    message = people.tested()
    await (await clients("A", "issuer")).publish(message)
    for name in "AC":
        await (await clients(name, "app")).recognize(message.document, CHECK)
    for name in "CA":
        accesses = Accesses(await clients(name, "app"))

        async def both(accesses=accesses):
            page = await accesses.list(message.document)
            return [each.method for each in page.accesses].count("Recognize") == 2

        await until(f"{name} shows both", both)
    found = verify_all(many.home / "data")
    assert sorted(found) == [0, 1]
    assert not any(each.faults for each in found.values())


async def test_a_key_that_one_process_made_signs_in_the_others_once_it_is_active(
    many, clients, guangdong, people
):
    old = {each.kid for each in (await Keys(await clients("A", "admin")).list()).keys}
    _, kid = await Keys(await clients("C", "admin")).prepare()
    admin = Keys(await clients("A", "admin"))

    async def activated():
        with contextlib.suppress(KeyStepError):  # Guangdong has not heard of it yet
            await admin.activate(kid)
        return any(
            each.kid == kid and each.state == keys.KEY_STATE_ACTIVE
            for each in (await admin.list()).keys
        )

    assert kid not in old
    await until("it is active", activated)
    for name in "AC":
        issuer = await clients(name, "issuer")

        async def signed(issuer=issuer):
            message = people.tested()
            await issuer.publish(message)
            return (await raw_kid(issuer, message)) == kid

        await until(f"{name} signs with it", signed)
    # Another machine's is brought it by its operator.
    issuer = await clients("B", "issuer")

    async def lacks():
        try:
            await issuer.publish(people.tested())
        except TrustListError:
            return True
        return False

    await until("B lacks it", lacks)
    shutil.copy2(many.home / "data" / "keys" / f"{kid}.pem", many.home / "data-b" / "keys")
    message = people.tested()
    await issuer.publish(message)
    assert await raw_kid(issuer, message) == kid
    await heard(guangdong, message.document, is_recognised)


async def raw_kid(issuer, message):
    """The kid under which an attestation stands."""
    answer = await issuer.call(
        "AttestationService/GetAttestation",
        pb.GetAttestationRequest(attestation_id=message.attestation_id),
        pb.GetAttestationResponse,
    )
    return cose.parse(answer.attestation.signed, cose.ObjectType.ATTESTATION).kid.hex()


async def test_what_one_acknowledged_before_it_was_killed_is_found_at_another(
    many, clients, guangdong, people
):
    """The last: A is gone."""
    rows, acknowledged = [people.tested() for _ in range(ROWS)], set()

    async def publish():
        async for item in (await clients("A", "issuer")).publish_all(enumerate(rows)):
            if item.error is None:
                acknowledged.add(item.attestation_id)
            else:
                assert isinstance(item.error, StoreUnavailableError)
            if len(acknowledged) == ENOUGH:
                many.kill("A")

    with pytest.raises(UnreachableError):
        await publish()
    assert ENOUGH <= len(acknowledged) < ROWS
    other = await clients("B", "issuer")
    limit = asyncio.Semaphore(64)

    async def read(id_):
        async with limit:
            return await other.get(UUID(id_))

    found = await asyncio.gather(*map(read, acknowledged))
    assert {str(attestation.id) for attestation in found} == acknowledged
    # Guangdong goes on with B where it was with A, and nothing of between is missing.
    later = people.tested()
    await other.publish(later)
    await heard(guangdong, later.document, is_recognised)
    known = [row for row in rows if row.attestation_id in acknowledged][-20:]
    decisions = await guangdong.recognize_all([row.document for row in known], CHECK)
    assert all(map(is_recognised, decisions))
