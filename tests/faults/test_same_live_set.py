"""After any interleaving of what can happen, all nodes hold the same attestations to be live.

Three provinces, each with its own store, publish, revoke, lose each other, their places in the
changes, their memory and their disks, and look holders up all the while. Whenever things settle,
what every node would answer of every holder is what the issuing province acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from recording import Recorded

from exchange.client.connection import UnreachableError
from exchange.errors import StoreUnavailableError, TongxingError
from exchange.facts import Kind
from exchange.presence import subject_of
from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.embedded import EmbeddedValkey
from nodes.identity import Identity, Role
from nodes.peers import sync as module
from nodes.peers.kept import MARK_BYTES
from nodes.peers.sync import PeerSync, SyncState
from nodes.services.peer import PeerService
from nodes.store import feed, presence
from nodes.store.answers import PeerAnswers
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.connection import Connection
from nodes.store.feed import Feed
from nodes.store.records import NewRecord
from nodes.store.statuses import StatusStore

SICHUAN, GUANGDONG, SHANGHAI = PROVINCES = ("510000", "440000", "310000")
ISSUER = "12440000MB2D00001X"
HEARTBEAT = 0.05
SILENCE = 0.3
SETTLED_SECONDS = 20
MARGIN = 0.2
"""Seconds about an attestation's end in which the server's clock and the test's may differ."""

HOLDERS = [bytes(4) + random.Random(number).randbytes(32) for number in range(60)]
FEW = HOLDERS[:4]
STRANGER = bytes(8)
CALL = Call(Identity("120000", Role.NODE, "node"), "request-1")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """The URL of a server; it lives in a thread, for each example has a loop of its own."""
    ready, stop = threading.Event(), threading.Event()
    embedded = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))

    async def serve():
        await embedded.start()
        ready.set()
        await asyncio.to_thread(stop.wait)
        await embedded.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    yield embedded.url
    stop.set()
    thread.join(30)


def now():
    return datetime.now(UTC)


@dataclass(frozen=True)
class Attestation:
    id: bytes
    province: str
    token: bytes
    expires: int
    place: tuple[int, int] | None
    signed: bytes

    @property
    def subject(self):
        return subject_of(self.token)


class Line:
    """Between one node and a peer: it can be cut, or be silent and bring all of it late."""

    def __init__(self):
        self.open = True
        self.flows = asyncio.Event()
        self.flows.set()
        self._ends = set()

    def cut(self):
        self.open = False
        self.flows.set()
        for end in self._ends:
            end.set_exception(UnreachableError("cut"))
        self._ends.clear()

    def hang(self):
        if self.open:
            self.flows.clear()

    def heal(self):
        self.open = True
        self.flows.set()

    async def carry(self, source):
        """Bring what a node sends; raises once the line is cut, whatever it waits for."""
        if not self.open:
            raise UnreachableError("cut")
        end = asyncio.get_running_loop().create_future()
        self._ends.add(end)
        try:
            while (message := await self._unless(end, self._next(source))) is not None:
                yield message
        finally:
            self._ends.discard(end)
            end.cancel()

    async def _next(self, source):
        message = await anext(source, None)
        await self.flows.wait()
        return message

    async def _unless(self, end, work):
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            return end.result() if end.done() else task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


class LocalRemote:
    """The peer's PeerService, called in the process."""

    def __init__(self, node, line):
        self._node, self._line = node, line

    def _service(self):
        if self._node.service is None:
            raise UnreachableError("down")
        return self._node.service

    async def watch(self, cursor):
        request = pb.WatchChangesRequest(cursor=cursor)
        async with (
            contextlib.aclosing(self._service().watch_changes(request, CALL)) as found,
            contextlib.aclosing(self._line.carry(found)) as messages,
        ):
            async for message in messages:
                yield pb.WatchChangesResponse.FromString(message)

    async def presence(self):
        request = pb.GetPresenceRequest()
        async with (
            contextlib.aclosing(self._service().get_presence(request, CALL)) as found,
            contextlib.aclosing(self._line.carry(found)) as parts,
        ):
            async for part in parts:
                yield part

    async def fetch(self, token):
        if not (self._line.open and self._line.flows.is_set()):
            raise UnreachableError("cut")
        request = pb.FetchAttestationsRequest(subject_tokens=[token])
        data = await self._service().fetch_attestations(request, CALL)
        (found,) = pb.FetchAttestationsResponse.FromString(data).subjects
        return found.SerializeToString()


class Question:
    """One node asks one peer of one holder; the answer is kept some time after it came."""

    def __init__(self, node, peer, token):
        self._node, self._peer, self._token = node, peer, token
        node.asked += 1
        self._mark = node.syncs[peer].mark()
        self._fetched = None

    async def ask(self):
        self._fetched = await self._node.remotes[self._peer].fetch(self._token)
        return self._fetched

    def keep(self):
        subject = subject_of(self._token)
        if self._fetched is not None:
            expires = int(time.time()) + 600
            self._node.answers.put(self._peer, subject, self._mark + self._fetched, expires)


class Node:
    """One province's store, feed and service, and its synchronisation with the others."""

    def __init__(self, province, url):
        self.province, self.url = province, url
        self.service = None
        self.asked = 0
        self.remotes = {}
        self.syncs = {}

    async def start(self):
        self.store = await AttestationStore.open(self.url, self.province)
        self.changes = await Changes.open(self.url)
        reads, writes = self.store.reads, self.store.writes
        self.statuses = StatusStore(self.province, reads, writes)
        self.answers = PeerAnswers(reads)
        build = functools.partial(presence.build, self.store, self.url)
        self.feed = Feed(self.changes, build, now, heartbeat=HEARTBEAT)
        own = functools.partial(self.statuses.each, self.province)
        self.service = PeerService(self.store, self.feed, own, Recorded())
        self.syncs = {
            peer: PeerSync(peer, remote, self.statuses, now, leisure=0.01, pause=0.005)
            for peer, remote in self.remotes.items()
        }
        work = [self.feed.run(), *(sync.run() for sync in self.syncs.values())]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def stop(self):
        self.service = None
        self.feed.close()
        for task in self._tasks:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.syncs = {}
        await self.changes.close()
        await self.store.close()

    async def answer(self, peer, token):
        """What it would say that the peer holds live, and what revoked; None: nobody knows."""
        sync, subject = self.syncs[peer], subject_of(token)
        if sync.as_of is not None and not sync.perhaps(subject):
            return [], []
        found = None
        if sync.as_of is not None:
            (kept,) = await self.answers.get([subject])
            if peer in kept and sync.unchanged(subject, kept[peer][:MARK_BYTES]):
                found = kept[peer][MARK_BYTES:]
        if found is None:
            question = Question(self, peer, token)
            found = await question.ask()
            question.keep()
        read = pb.SubjectAttestations.FromString(found)
        return list(read.signed_attestations), list(read.revoked_attestations)


class Country(RuleBasedStateMachine):
    url = ""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.run(self.begin())

    def run(self, work):
        return self.runner.run(work)

    async def begin(self):
        self.attestations, self.revoked, self.lost = [], set(), set()
        self.questions, self.earlier = [], {}
        self.by_signed = {}
        self.raw = {}
        self.nodes = {}
        for number, province in enumerate(PROVINCES):
            url = f"{self.url}?db={number}"
            self.nodes[province] = Node(province, url)
            self.raw[province] = await Connection.open(url)
            await self.raw[province].execute(b"FLUSHDB")
        self.lines = {pair: Line() for pair in itertools.permutations(PROVINCES, 2)}
        for (province, peer), line in self.lines.items():
            self.nodes[province].remotes[peer] = LocalRemote(self.nodes[peer], line)
        for node in self.nodes.values():
            await node.start()

    async def end(self):
        for node in self.nodes.values():
            await node.stop()
        for raw in self.raw.values():
            await raw.close()

    def teardown(self):
        try:
            self.run(self.agree())
        finally:
            self.run(self.end())
            self.runner.close()

    # What happens

    provinces = st.sampled_from(PROVINCES)
    holders = st.sampled_from(FEW) | st.sampled_from(HOLDERS)
    pairs = st.sampled_from(list(itertools.permutations(PROVINCES, 2)))
    numbers = st.integers(0, 1000)

    @rule(province=provinces, token=holders, short=st.sampled_from([False, False, False, True]))
    def publish(self, province, token, short):
        self.run(self.do_publish(province, token, 1 if short else 3600))

    async def do_publish(self, province, token, seconds):
        node = self.nodes[province]
        place = await acknowledged(lambda: node.statuses.place(Kind.NUCLEIC_ACID_TEST))
        made = Attestation(
            id=secrets.token_bytes(16),
            province=province,
            token=token,
            expires=int(time.time()) + 1 + seconds,
            place=place,
            signed=b"\xd2" + secrets.token_bytes(40),
        )
        new = NewRecord(
            made.id, token, ISSUER, bytes(32), made.expires, made.signed, place=made.place
        )
        self.by_signed[made.signed] = made
        try:
            await acknowledged(lambda: node.store.publish(new))
        except StoreUnavailableError:
            return  # it ended while the store was away
        self.attestations.append(made)

    @rule(number=numbers)
    def revoke(self, number):
        live = [
            each
            for each in self.attestations
            if each.id not in self.revoked | self.lost and each.expires > time.time() + MARGIN
        ]
        if live:
            self.run(self.do_revoke(live[number % len(live)]))

    async def do_revoke(self, made):
        node = self.nodes[made.province]
        at = int(time.time())
        with contextlib.suppress(TongxingError):  # it ended meanwhile
            await acknowledged(lambda: node.store.revoke(made.id, ISSUER, at))
            self.revoked.add(made.id)

    @rule(pair=pairs, token=holders, later=st.booleans())
    def look_up(self, pair, token, later):
        """The answer is kept at once, or when something else has happened."""
        self.run(self.do_look_up(pair, token, later))

    async def do_look_up(self, pair, token, later):
        province, peer = pair
        with contextlib.suppress(TongxingError):
            if not later:
                await self.nodes[province].answer(peer, token)
                return
            question = Question(self.nodes[province], peer, token)
            await question.ask()
            self.questions.append(question)

    @rule(pair=pairs, token=holders, away=st.booleans(), seconds=st.sampled_from([0.0, 0.03]))
    def look_up_as_it_changes(self, pair, token, away, seconds):
        """The node may be away meanwhile, for longer than the changes reach."""
        self.run(self.do_look_up_as_it_changes(pair, token, away, seconds))

    async def do_look_up_as_it_changes(self, pair, token, away, seconds):
        _, peer = pair
        line = self.lines[pair]
        line.heal()
        await self.do_publish(peer, token, 3600)
        await asyncio.sleep(seconds)
        await self.do_look_up(pair, token, later=False)
        await self.do_look_up(pair, token, later=True)
        if away:
            line.cut()
        await self.do_revoke(self.attestations[-1])
        await self.do_publish(peer, token, 3600)
        if away:
            await self.do_publish(peer, HOLDERS[-1], 3600)
            await self.do_publish(peer, HOLDERS[-2], 3600)
            await self.raw[peer].execute(b"XTRIM", b"c", b"MAXLEN", b"1")
            line.heal()
        await asyncio.sleep(seconds)
        for question in self.questions:
            question.keep()
        self.questions.clear()

    @rule(province=provinces, tokens=st.lists(holders, min_size=2, max_size=6))
    def publish_as_filters_are_made(self, province, tokens):
        async def publish():
            self.nodes[province].feed._rebuild.set()
            for token in tokens:
                await self.do_publish(province, token, 3600)
                await asyncio.sleep(0.005)

        self.run(publish())

    @rule()
    def answers_are_kept(self):
        async def keep():
            for question in self.questions:
                question.keep()
            self.questions.clear()

        self.run(keep())

    @rule(pair=pairs, how=st.sampled_from(["cut", "hang", "heal", "heal"]))
    def line(self, pair, how):
        async def change():
            getattr(self.lines[pair], how)()

        self.run(change())

    @rule(province=provinces)
    def trim(self, province):
        async def cut():
            await self.raw[province].execute(b"XTRIM", b"c", b"MAXLEN", b"1")

        self.run(cut())

    @rule(province=provinces)
    def new_filter(self, province):
        async def build():
            self.nodes[province].feed._rebuild.set()

        self.run(build())

    @rule(province=provinces)
    def restart(self, province):
        async def again():
            await self.nodes[province].stop()
            await self.nodes[province].start()

        self.run(again())

    @rule(province=provinces)
    def remember_store(self, province):
        async def remember():
            self.earlier[province] = await self.of_peers(province)

        self.run(remember())

    async def of_peers(self, province):
        """All in the store that no fsync was waited for."""
        raw = self.raw[province]
        keys: list[bytes] = []
        for pattern in (b"p:*", b"b:*", b"l:*"):
            keys += await raw.execute(b"KEYS", pattern)
        kept = [key for key in keys if province.encode() not in key]
        values = await raw.pipeline([(b"DUMP", key) for key in kept])
        ends = await raw.pipeline([(b"PEXPIRETIME", key) for key in kept])
        return {
            key: (value, max(0, end))
            for key, value, end in zip(kept, values, ends, strict=True)
            if value is not None
        }

    @rule(province=provinces, node_too=st.booleans())
    def store_returns_without_its_last(self, province, node_too):
        if province in self.earlier:
            self.run(self.do_return(province, node_too))

    async def do_return(self, province, node_too):
        node, raw, earlier = self.nodes[province], self.raw[province], self.earlier[province]
        if node_too:
            await node.stop()
        by_now = await self.of_peers(province)
        clients = (await raw.execute(b"CLIENT", b"LIST")).decode().splitlines()
        database = PROVINCES.index(province)
        me = await raw.execute(b"CLIENT", b"ID")
        fields = [dict(part.partition("=")[::2] for part in line.split()) for line in clients]
        others = [
            each["id"].encode()
            for each in fields
            if each["db"] == str(database) and int(each["id"]) != me
        ]
        # In one transaction: no connection sees the store as it was before and after.
        replies = await raw.pipeline(
            [
                (b"MULTI",),
                *((b"CLIENT", b"KILL", b"ID", each) for each in others),
                *((b"DEL", key) for key in by_now),
                *(
                    (b"RESTORE", key, b"%d" % end, value, b"REPLACE", b"ABSTTL")
                    for key, (value, end) in earlier.items()
                ),
                (b"EXEC",),
            ]
        )
        assert not any(isinstance(each, Exception) for each in [*replies, *replies[-1]]), replies
        # What a server lost once, no later server has.
        if node_too:
            await node.start()

    @rule(province=provinces, sure=st.sampled_from([False, False, True]))
    def lose_the_disk(self, province, sure):
        if sure:
            self.run(self.do_lose(province))

    async def do_lose(self, province):
        await self.nodes[province].stop()
        await self.raw[province].execute(b"FLUSHDB")
        self.lost |= {each.id for each in self.attestations if each.province == province}
        self.earlier.pop(province, None)
        await self.nodes[province].start()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.03, 0.4]))
    def time_passes(self, seconds):
        self.run(asyncio.sleep(seconds))

    @rule()
    def settle(self):
        self.run(self.agree())

    # What must be

    async def agree(self):
        for line in self.lines.values():
            line.heal()
        ends = {code: await acknowledged(node.changes.end) for code, node in self.nodes.items()}
        since = now()
        async with asyncio.timeout(SETTLED_SECONDS):
            for node in self.nodes.values():
                for peer, sync in node.syncs.items():
                    while not has_heard(sync, ends[peer], since):  # noqa: ASYNC110 - no event
                        await asyncio.sleep(0.005)
                    assert not sync.perhaps(STRANGER)
        for node in self.nodes.values():
            for peer, token in itertools.product(node.syncs, HOLDERS):
                await self.compare(node, peer, token)

    async def compare(self, node, peer, token):
        sync = node.syncs[peer]
        for again in (False, True):  # as it is known, and as it is kept
            before = node.asked
            signed, revoked = await node.answer(peer, token)
            assert not again or node.asked == before
            moment = time.time()
            found = [self.by_signed[each] for each in signed]
            said = {
                each.id
                for each in found
                if not sync.revoked(*each.place) and each.expires > moment + MARGIN
            }
            held = [
                each
                for each in self.attestations
                if each.province == peer
                and each.token == token
                and each.id not in self.lost
                and each.expires > moment + MARGIN
            ]
            assert said == {each.id for each in held} - self.revoked
            for each in held:
                if each.id in self.revoked:
                    assert sync.revoked(*each.place)
                    assert each.signed in revoked


def has_heard(sync, end, since):
    return (
        sync.state is SyncState.SYNCHRONISED
        and sync._cursor[:16] == end[:16]
        and sync._cursor >= end
        and sync.as_of is not None
        and sync.as_of >= since
    )


async def acknowledged(write):
    """Do it again and again until the store confirms it."""
    async with asyncio.timeout(SETTLED_SECONDS):
        while True:
            try:
                return await write()
            except StoreUnavailableError:
                await asyncio.sleep(0.005)


def test_any_interleaving_leaves_all_nodes_with_the_same_live_set(valkey, monkeypatch):
    monkeypatch.setattr(module, "SHORTEST_PATIENCE", SILENCE)
    monkeypatch.setattr(feed, "RECENT", 2)
    monkeypatch.setattr(Country, "url", valkey)
    run_state_machine_as_test(
        Country,
        settings=settings(
            max_examples=8,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # a shorter example is not worth some minutes
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
