"""Hearing of a peer's changes: a peer may do anything, and harms only what is known of itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import uvloop
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hearing import FakePeer, at, heartbeat, now, revocation, until

from exchange import status
from exchange.client.connection import UnreachableError
from exchange.errors import (
    CursorExpiredError,
    MalformedObjectError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.statuslist import LIST_SIZE, StatusReference
from exchange.v1 import peer_service_pb2 as pb
from exchange.v1 import status_list_service_pb2 as lists_pb
from nodes.call import Call
from nodes.embedded import EmbeddedValkey
from nodes.memory import resident
from nodes.peers import kept, received, sync
from nodes.peers.kept import RevokedPlaces
from nodes.peers.memory import Memory
from nodes.peers.remote import LARGEST_MESSAGE, ChannelRemote, Remotes
from nodes.peers.sync import PeerSync, Synchroniser, SyncState
from nodes.store.attestations import AttestationStore
from nodes.store.statuses import StatusStore

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
ANOTHER = b"T" * 16
WANG, LI, ZHANG, STRANGER = b"wang....", b"li......", b"zhang...", b"nobody.."


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


class Store:
    """A node's own store, as far as its peers' synchronisation needs it."""

    def __init__(self, url, attestations):
        self.url, self.attestations = url, attestations
        self.statuses = StatusStore(GUANGDONG, attestations.reads, attestations.writes)

    @classmethod
    async def open(cls, url):
        return cls(url, await AttestationStore.open(url, GUANGDONG))

    async def revoked_soon(self, number, index):
        await asyncio.sleep(0.01)
        with contextlib.suppress(StoreUnavailableError):
            return await self.revoked(number, index)

    async def revoked(self, number, index, province=SICHUAN):
        bits = await self.statuses.bits(province, number)
        return bits is not None and bits[index >> 3] >> (index & 7) & 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def valkey(tmp_path_factory):
    embedded = EmbeddedValkey(tmp_path_factory.mktemp("store"))
    await embedded.start()
    yield embedded
    await embedded.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def store(valkey):
    opened = await Store.open(valkey.url)
    await opened.attestations.reads.execute(b"FLUSHALL")
    yield opened
    await opened.attestations.close()


@pytest_asyncio.fixture(loop_scope="module")
async def begin(store):
    """Starts the synchronisation with a peer; all end with the test."""
    tasks = []

    def start(peer, province=SICHUAN, *, places=None, clock=now, **options):
        options = {"leisure": 0.01, "pause": 0.01} | options
        made = PeerSync(province, peer, places or store.statuses, clock, **options)
        tasks.append(asyncio.create_task(made.run()))
        made.task = tasks[-1]
        return made

    yield start
    for task in tasks:
        assert not task.done(), task.exception()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def fresh(made, since):
    """It has heard that nothing was missing then."""
    await until(lambda: made.as_of is not None and made.as_of >= since)


async def synchronised(made):
    await until(lambda: made.state is SyncState.SYNCHRONISED)


def heard(made):
    """How many messages it has taken in."""
    return int.from_bytes(made.mark()[8:], "little")


# From the whole state on


async def test_nothing_is_ruled_out_before_anything_was_heard(begin):
    peer = FakePeer(WANG)
    peer.gate.clear()
    made = begin(peer)
    await until(lambda: made.state is SyncState.RESYNCHRONISING)
    assert made.perhaps(STRANGER)
    assert made.as_of is None
    assert not made.unchanged(STRANGER, made.mark())
    assert not made.revoked(7, 3)


async def test_a_filter_counts_only_once_nothing_is_missing(begin):
    """A page of changes, after which more follow, moves the cursor but no claim."""
    peer = FakePeer(WANG, greets=False)
    made = begin(peer)
    page = heartbeat(2, subjects=LI)
    page.ClearField("as_of_time")
    peer.say(page)
    await until(lambda: heard(made))
    assert made.as_of is None
    assert made.perhaps(STRANGER)
    peer.say(heartbeat(3))
    await synchronised(made)
    assert made.perhaps(WANG)
    assert made.perhaps(LI)
    assert not made.perhaps(STRANGER)


async def test_the_whole_state_comes_first_and_then_the_changes(begin, store):
    peer = FakePeer(WANG, place=5)
    peer.lists[7] = b"\x08"
    made = begin(peer)
    await synchronised(made)
    assert peer.watched == [at(5)]
    assert (made.perhaps(WANG), made.perhaps(LI)) == (True, False)
    assert (made.revoked(7, 3), made.revoked(7, 4), made.revoked(8, 3)) == (True, False, False)
    assert (made.generation, made.resynchronisations, made.subjects) == (1, 1, 1)
    assert made.presence_time is not None
    mark = made.mark()
    peer.change(LI, revocations=[revocation(ZHANG, (9, LIST_SIZE - 1))])
    await until(lambda: made.revoked(9, LIST_SIZE - 1))
    await fresh_after(made, peer)
    assert made.perhaps(LI)
    assert made.perhaps(ZHANG)
    assert not made.unchanged(LI, mark)
    assert not made.unchanged(ZHANG, mark)
    assert made.unchanged(WANG, mark)
    assert made.unchanged(LI, made.mark())
    assert await store.revoked(9, LIST_SIZE - 1)
    assert made.lag is not None
    assert made.last_error == ""


async def fresh_after(made, peer):
    since = now()
    peer.say(heartbeat(peer.place, presence_generation=peer.generation))
    await fresh(made, since)


async def test_a_revocation_without_a_place_still_ends_what_is_kept(begin):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    mark = made.mark()
    peer.change(revocations=[revocation(WANG, None)])
    await fresh_after(made, peer)
    assert not made.unchanged(WANG, mark)


class Unsure:
    """A store that does with what is revoked as a test has it."""

    def __init__(self, store):
        self.load, self.merge = store.statuses.load, store.statuses.merge
        self.store, self.reached = store.statuses, asyncio.Event()
        self.gate, self.fails = asyncio.Event(), False

    async def mark(self, province, places):
        self.reached.set()
        if self.fails:
            raise StoreUnavailableError("gone")
        await self.gate.wait()
        await self.store.mark(province, places)


async def test_no_freshness_is_claimed_before_the_store_knows_what_is_revoked(begin, store):
    peer, places = FakePeer(WANG), Unsure(store)
    made = begin(peer, places=places)
    await synchronised(made)
    before, mark = made.as_of, made.mark()
    peer.change(LI, revocations=[revocation(WANG, (7, 3))])
    await places.reached.wait()
    assert made.revoked(7, 3)
    assert made.perhaps(LI)
    assert not made.unchanged(LI, mark)
    assert not made.unchanged(WANG, mark)
    for _ in range(20):
        await asyncio.sleep(0)
        assert made.as_of is before
    places.gate.set()
    await until(lambda: made.as_of is not before)
    assert await store.revoked(7, 3)


async def test_what_the_store_did_not_take_is_heard_again(begin, store):
    peer, places = FakePeer(WANG), Unsure(store)
    places.fails = True
    made = begin(peer, places=places)
    await synchronised(made)
    before = made.as_of
    peer.greets = False
    peer.change(LI, revocations=[revocation(WANG, (7, 3))])
    await until(lambda: len(peer.watched) == 2)
    assert peer.watched == [at(1), at(1)]
    assert made.as_of is before
    assert made.revoked(7, 3)
    places.fails = False
    places.gate.set()
    peer.say(heartbeat(2, revocations=[revocation(WANG, (7, 3))]))
    await until(lambda: made.as_of is not before)
    assert await store.revoked(7, 3)
    assert peer.fetched == 1


# Where to continue


async def test_changes_continue_where_they_broke_off(begin, store):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    peer.change(LI)
    await until(lambda: made.perhaps(LI))
    peer.say(UnreachableError("gone"))
    await until(lambda: len(peer.watched) == 2)
    await synchronised(made)
    assert peer.watched == [at(1), at(2)]
    assert (peer.fetched, made.resynchronisations, made.faults) == (1, 1, 1)
    assert made.last_error == "gone"


async def test_a_cursor_that_cannot_be_continued_fetches_the_whole_state(begin, store):
    peer = FakePeer(WANG, place=1)
    made = begin(peer)
    await synchronised(made)
    mark = made.mark()
    peer.place = 50
    peer.held.append(LI)
    peer.lists[4] = b"\x01"
    peer.expired.add(at(1))
    peer.say(UnreachableError("gone"))
    await until(lambda: peer.watched == [at(1), at(1), at(50)])
    await synchronised(made)
    assert made.resynchronisations == 2
    assert made.perhaps(LI)
    assert made.revoked(4, 0)
    assert not made.unchanged(STRANGER, mark)
    assert made.unchanged(STRANGER, made.mark())


@pytest.mark.parametrize("told", [True, False])
async def test_a_peer_that_lost_its_disk_is_fetched_whole(begin, store, told):
    """It says so, or it is seen by its cursors; what was revoked stays so."""
    peer = FakePeer(WANG, place=5)
    peer.lists[7] = b"\x08"
    made = begin(peer)
    await synchronised(made)
    mark = made.mark()
    peer.held, peer.lists, peer.store, peer.place = [LI], {}, ANOTHER, 2
    if told:
        peer.expired.add(at(5))
        peer.say(UnreachableError("gone"))
    else:
        peer.say(heartbeat(9, cursor=at(2, ANOTHER)))
    await until(lambda: peer.watched[-1] == at(2, ANOTHER))
    await until(lambda: made.perhaps(LI))
    assert not made.perhaps(WANG)
    assert made.revoked(7, 3)
    assert not made.unchanged(STRANGER, mark)
    peer.say(UnreachableError("gone"))
    await until(lambda: len(peer.watched) == 4 - (not told))
    await synchronised(made)
    assert made.resynchronisations == 2


async def test_what_was_revoked_is_known_after_a_restart(begin, store):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    peer.change(WANG, revocations=[revocation(WANG, (7, 3))])
    await until(lambda: store.revoked(7, 3))
    again = begin(FakePeer(place=peer.place), SICHUAN)
    await synchronised(again)
    assert again.revoked(7, 3)


async def test_a_peer_that_filled_all_lists_begins_anew_with_its_whole_state(begin, store):
    """What it says of no more is forgotten, in the store too, which would fill otherwise."""
    peer = FakePeer(WANG)
    peer.lists = dict.fromkeys(range(kept.MOST_LISTS), b"\1")
    made = begin(peer)
    await synchronised(made)
    assert made.revoked(0, 0)
    peer.lists = {kept.MOST_LISTS: b"\2"}
    since = now()
    peer.change(WANG, revocations=[revocation(WANG, (kept.MOST_LISTS, 1))])
    await until(lambda: made.revoked(kept.MOST_LISTS, 1))
    await fresh(made, since)
    assert not made.revoked(0, 0)
    assert list(await store.statuses.load(SICHUAN)) == [kept.MOST_LISTS]


async def test_a_store_with_too_many_lists_of_a_peer_is_brought_in_order(begin, store):
    lists = dict.fromkeys(range(kept.MOST_LISTS + 8), b"\1")
    await store.statuses.merge(SICHUAN, lists)
    peer = FakePeer(WANG)
    peer.lists = {kept.MOST_LISTS + 8: b"\2"}
    made = begin(peer)
    await synchronised(made)
    assert list(await store.statuses.load(SICHUAN)) == [kept.MOST_LISTS + 8]


async def test_who_only_says_that_more_follows_is_not_in_step(begin):
    peer = FakePeer(WANG, beat=0.1)
    made = begin(peer)
    await synchronised(made)

    async with asyncio.timeout(20):
        while made.state is not SyncState.RESYNCHRONISING:
            peer.say(heartbeat(1, as_of_time=None))
            await asyncio.sleep(0.1)
    assert not made.faults


async def test_another_provinces_answers_and_places_are_left_alone(begin, store):
    shanghai = begin(FakePeer(WANG), SHANGHAI)
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(shanghai)
    await synchronised(made)
    mark = shanghai.mark()
    peer.change(WANG, revocations=[revocation(WANG, (7, 3))])
    await until(lambda: made.revoked(7, 3))
    await fresh_after(made, peer)
    assert not shanghai.revoked(7, 3)
    assert not await store.revoked(7, 3, SHANGHAI)
    assert shanghai.unchanged(WANG, mark)


# The own store


async def test_a_store_that_is_gone_holds_up_only_what_must_be_in_it(begin, store, valkey):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    os.kill(valkey.pid, signal.SIGKILL)
    peer.change(LI)
    await fresh_after(made, peer)
    assert made.perhaps(LI)
    peer.greets = False
    peer.change(revocations=[revocation(WANG, (7, 3))])
    await until(lambda: made.state is SyncState.SILENT)
    assert "store" in made.last_error
    while not await store.revoked_soon(7, 3):
        if peer.messages.empty():
            peer.say(heartbeat(3, revocations=[revocation(WANG, (7, 3))]))
    await synchronised(made)
    assert peer.watched[-1] == at(2)


# Clocks and silence


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_peers_clock_that_is_wrong_decides_nothing(begin, hours):
    peer = FakePeer(WANG)
    peer.ahead = timedelta(hours=hours)
    made = begin(peer)
    await synchronised(made)
    before = now()
    peer.change(LI, as_of_time=now() + peer.ahead)
    await until(lambda: made.as_of >= before)
    assert made.as_of <= now()
    assert abs(made.lag + peer.ahead) < timedelta(minutes=1)
    assert not made.faults


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_peers_clock_that_is_set_during_a_session_costs_one_session(begin, hours):
    """Behind is as late as can be, and is asked anew; ahead, it is only that when it is set back.

    Meanwhile what is known goes neither back nor beyond this node's own time.
    """
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    before = made.as_of
    ahead = peer.ahead = timedelta(hours=hours)
    peer.change(LI, as_of_time=now() + ahead)
    await until(lambda: made.perhaps(LI) and peer.messages.empty())
    if hours > 0:
        peer.ahead = timedelta(0)
        peer.change(ZHANG)
    await until(lambda: made.faults)
    assert made.last_error == "its words come late"
    assert before <= made.as_of <= now()
    since = now()
    await until(lambda: len(peer.watched) == 2)
    await synchronised(made)
    peer.say(heartbeat(peer.place, as_of_time=now() + peer.ahead))
    await fresh(made, since)
    assert (made.as_of <= now(), made.faults, made.resynchronisations) == (True, 1, 1)


async def test_who_lets_a_peers_words_through_one_by_one_makes_nothing_old_look_new(begin):
    """The line never falls silent, and each word on it is older than the one before."""
    said = here = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
    peer = FakePeer(WANG, greets=False, beat=0.1)
    made = begin(peer, clock=lambda: here)
    peer.say(heartbeat(1, as_of_time=said))
    await synchronised(made)
    while here - said < timedelta(seconds=sync.SHORTEST_PATIENCE):
        here += timedelta(seconds=0.28)
        said += timedelta(seconds=0.1)
        peer.say(heartbeat(1, as_of_time=said))
        await until(lambda said=said: made.faults or made.as_of >= said)
        if not made.faults:
            assert made.as_of == said
    await until(lambda: made.faults)
    assert made.last_error == "its words come late"
    assert made.as_of < said
    peer.say(heartbeat(1, as_of_time=here))
    await until(lambda: made.as_of == here)


async def test_this_nodes_own_clock_may_be_set_back(begin):
    behind = [timedelta(0)]
    peer = FakePeer(WANG)
    made = begin(peer, clock=lambda: now() - behind[0])
    await synchronised(made)
    behind[0] = timedelta(hours=1)
    peer.change(LI)
    await until(lambda: made.as_of <= now() - behind[0])
    assert not made.faults


@pytest.mark.parametrize("seconds", [-(1 << 63), -1, 1 << 40, (1 << 63) - 1])
async def test_a_time_that_cannot_be_harms_nothing(begin, seconds):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    before = made.as_of
    peer.change(LI, as_of_time=Timestamp(seconds=seconds, nanos=-(1 << 31)))
    await until(lambda: made.perhaps(LI) and peer.messages.empty())
    assert made.as_of is before
    await fresh_after(made, peer)
    assert made.lag is None
    assert not made.faults


async def test_the_ends_of_time_harm_nothing(begin):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    for seconds in ((1 << 37) - 1, 0):
        peer.change(LI, as_of_time=Timestamp(seconds=seconds))
    await until(lambda: made.faults)
    assert made.last_error == "its words come late"
    assert made.as_of <= now()


async def test_a_peer_that_falls_silent_is_left_and_asked_anew(begin):
    peer = FakePeer(WANG, beat=0.1)
    made = begin(peer)
    await synchronised(made)
    as_of = made.as_of
    await until(lambda: made.state is SyncState.SILENT)
    assert made.as_of is as_of
    assert made.last_error == "it said nothing for 1 s"
    await synchronised(made)
    assert peer.fetched == 2  # its heartbeat, which may be another one now
    assert made.resynchronisations == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (Duration(seconds=3600), 60),
        (Duration(seconds=1 << 62, nanos=-1), 60),
        (Duration(seconds=-5), 0.1),
        (Duration(nanos=1), 0.1),
        (Duration(), 5),
        (Duration(seconds=2), 2),
    ],
)
async def test_nobody_may_be_silent_for_an_hour(said, seconds):
    peer = FakePeer()
    peer.header = {"heartbeat": said}
    assert (await received.read_header(_given(peer.whole()))).heartbeat == seconds


async def _given(parts):
    for part in parts:
        yield part


# A new filter


async def test_a_filter_is_not_fetched_anew_that_another_process_of_the_peer_has_in_no_newer_form(
    begin,
):
    peer = FakePeer(WANG, generation=7)
    made = begin(peer)
    await synchronised(made)
    for said in (6, 0, 7):
        since = now()
        peer.say(heartbeat(1, presence_generation=said))
        await fresh(made, since)
    assert made._renewal is None
    # It is announced by one process, and given by another that has not built it yet.
    peer.say(heartbeat(1, presence_generation=8))
    await until(lambda: nudged(peer, len(peer.watched) == 2))
    await synchronised(made)
    for _ in range(3):
        since = now()
        peer.say(heartbeat(1, presence_generation=8))
        await fresh(made, since)
    assert made._renewal is None
    assert (peer.fetched, made.generation) == (2, 7)


async def test_a_new_filter_is_fetched_and_nothing_said_meanwhile_is_lost(begin):
    peer = FakePeer(WANG, generation=1)
    made = begin(peer)
    await synchronised(made)
    peer.held, peer.generation = [LI], 2  # Wang has left
    peer.gate.clear()
    peer.say(heartbeat(1, presence_generation=2))
    await until(lambda: peer.fetched == 2)
    peer.change(ZHANG, presence_generation=2)
    await until(lambda: made.perhaps(ZHANG))
    peer.replay[at(1)] = heartbeat(2, subjects=ZHANG, presence_generation=2)
    peer.gate.set()
    await until(lambda: nudged(peer, len(peer.watched) == 2))
    assert peer.watched[-1] == at(1)  # where the new filter begins
    assert made.generation == 2
    assert made.perhaps(WANG)  # the old one, while changes are missing in the new
    assert made.perhaps(ZHANG)
    peer.replaying.set()
    await until(lambda: not made.perhaps(WANG))
    assert made.perhaps(LI)
    assert made.perhaps(ZHANG)
    assert (made.faults, made.resynchronisations) == (0, 1)


def nudged(peer, condition):
    """A heartbeat as long as something is not the case."""
    if not condition and peer.messages.empty():
        peer.say(heartbeat(peer.place, presence_generation=peer.generation))
    return condition


async def test_a_new_filter_that_cannot_be_had_leaves_the_old_one(begin):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    peer.parts = [pb.GetPresenceResponse()]
    peer.generation = 2
    for _ in range(50):
        peer.change(LI, presence_generation=2)
        await asyncio.sleep(0.01)
        if made.faults:
            break
    assert made.faults == 1
    assert made.state is SyncState.SYNCHRONISED
    assert made.perhaps(WANG)
    assert made.perhaps(LI)
    assert len(peer.watched) == 1
    peer.parts = None
    while made.generation != 2:
        peer.change(LI, presence_generation=2)
        await asyncio.sleep(0.01)
    await until(lambda: len(peer.watched) == 2)


# Hostile peers


def message(**fields):
    return heartbeat(2, **fields)


MALFORMED = {
    "a short cursor": (message(cursor=at(2)[:-1]), "cursor"),
    "no cursor": (message(cursor=b""), "cursor"),
    "a cursor that goes back": (message(cursor=at(0)), "cursor"),
    "half a subject": (message(subjects=WANG + b"li"), "subjects"),
    "a short id": (message(revocations=[revocation(id_=b"1")]), "revocations.attestation_id"),
    "a long subject": (message(revocations=[revocation(WANG + LI)]), "revocations.subject"),
    "an index out of range": (
        message(revocations=[revocation(place=(1, LIST_SIZE))]),
        "revocations.place.index",
    ),
    "too many lists": (
        message(revocations=[revocation(place=(n, 0)) for n in range(kept.MOST_LISTS + 1)]),
        "revoked.list",
    ),
}


@pytest.mark.parametrize(("said", "field"), MALFORMED.values(), ids=MALFORMED)
async def test_a_message_that_breaks_the_contract_is_refused(begin, store, said, field):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    peer.say(said)
    await until(lambda: made.faults)
    assert made.last_error.startswith(field + ":")
    await synchronised(made)
    assert peer.watched == [at(1), at(1)]


PRESENCES = {
    "nothing": [],
    "no header": [pb.GetPresenceResponse(bits=b"12345678")],
    "an empty part": [pb.GetPresenceResponse()],
    "no cursor": {"cursor": b""},
    "a crooked size": {"size": 2001},
    "a size too large": {"size": (1 << 30) + 8},
    "a size of all that there is": {"size": (1 << 64) - 8},
    "more announced than sent": {"size": 4096},
    "more sent than announced": {"size": 8},
    "no hashes": {"hashes": 0},
    "too many hashes": {"hashes": 1 << 31},
}


@pytest.mark.parametrize("said", PRESENCES.values(), ids=PRESENCES)
async def test_a_presence_that_breaks_the_contract_is_refused(begin, store, said):
    peer = FakePeer(WANG)
    if isinstance(said, dict):
        peer.header = said
    else:
        peer.parts = said or iter(())
    made = begin(peer)
    await until(lambda: made.faults)
    assert made.as_of is None
    assert made.perhaps(STRANGER)
    assert not made.unchanged(STRANGER, made.mark())
    peer.header, peer.parts = {}, None
    await synchronised(made)
    assert not made.perhaps(STRANGER)


@pytest.mark.parametrize(
    "parts",
    [
        itertools.repeat(pb.GetPresenceResponse(bits=b"")),
        itertools.repeat(pb.GetPresenceResponse(bits=b"1")),
        itertools.repeat(pb.GetPresenceResponse(revoked=pb.RevokedPlaces(list=1, bits=b"1"))),
        (
            pb.GetPresenceResponse(revoked=pb.RevokedPlaces(list=n, bits=b"1"))
            for n in itertools.count()
        ),
        [pb.GetPresenceResponse(revoked=pb.RevokedPlaces(bits=bytes(LIST_SIZE // 8 + 1)))],
        itertools.repeat(pb.GetPresenceResponse()),
    ],
    ids=["no bits", "bit by bit", "a list again", "lists", "a long list", "nothing"],
)
async def test_a_presence_without_end_is_refused(parts):
    header = received.Header(at(1), 1, 1 << 30, 6, 1, 5.0)
    with pytest.raises(MalformedObjectError):
        await read_filter(header, _given(parts))


async def read_filter(header, parts):
    bits, places = Memory.own(header.size), RevokedPlaces(Memory.own(RevokedPlaces.SIZE).view)
    return await received.read_filter(header, parts, bits.view, places.merge, 5.0)


async def test_memory_grows_with_what_arrives_and_not_with_what_is_announced():
    header = received.Header(at(1), 1, 1 << 30, 6, 1, 5.0)
    before = resident()
    with pytest.raises(MalformedObjectError):
        await read_filter(header, _given([pb.GetPresenceResponse(bits=bytes(4096))]))
    assert resident() - before < 1 << 23


async def test_more_subjects_are_claimed_than_a_filter_holds(begin):
    peer = FakePeer(WANG)
    peer.header = {"subjects": (1 << 64) - 1}
    made = begin(peer)
    await synchronised(made)
    assert made.subjects < 1 << 40


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("Wang"),
        KeyError(WANG),
        MemoryError(),
        TimeoutError(),
        OSError(5, "broken"),
        asyncio.CancelledError(),
        StoreUnavailableError("two\nlines " + "x" * 1000),
        ExceptionGroup("several", [ValueError()]),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_whatever_goes_wrong_is_survived_and_said_in_one_line(begin, fault):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    peer.say(fault)
    await until(lambda: made.faults == 1)
    await synchronised(made)
    assert 0 < len(made.last_error) <= 200
    assert made.last_error.isprintable()
    assert "wang" not in made.last_error.lower()


async def test_a_flood_of_nothing_new_is_left(begin):
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    for _ in range(sync.NOTHING_NEW + 1):
        peer.say(heartbeat(1, as_of_time=None))
    await until(lambda: made.faults)
    assert made.last_error == "it floods with what is not new"


async def test_a_peer_that_never_pauses_takes_no_time_from_another(begin):
    class Flood(FakePeer):
        async def watch(self, cursor):
            place = int.from_bytes(cursor[16:], "big")
            for number in itertools.count():  # never waits for anything
                place += 1
                subjects = number.to_bytes(8, "little") * 20_000
                yield heartbeat(place, subjects=subjects)

    flood = begin(Flood(), SHANGHAI)
    peer = FakePeer(WANG)
    made = begin(peer)
    await synchronised(made)
    await until(lambda: heard(flood) > 3)
    for _ in range(20):
        peer.change(LI)
        before = heard(made)
        await until(lambda before=before: heard(made) > before)
    assert flood.state is SyncState.SYNCHRONISED


async def test_a_peer_that_is_always_expired_is_asked_less_and_less(begin):
    class Expired(FakePeer):
        async def watch(self, cursor):
            self.watched.append(cursor)
            raise CursorExpiredError("again")
            yield

    peer = Expired(WANG)
    made = begin(peer, pause=0.05)
    await until(lambda: made.faults == 4)
    assert peer.fetched == 4
    assert made.as_of is None
    assert made.state is not SyncState.SYNCHRONISED


# All of them


def trust(*provinces, addresses=("127.0.0.1:1",)):
    profiles = {code: SimpleNamespace(addresses=addresses) for code in provinces}
    return SimpleNamespace(profiles=profiles)


async def test_each_province_of_the_trust_list_is_followed_and_no_other(store):
    peers = {code: FakePeer(WANG) for code in (SICHUAN, SHANGHAI)}
    peers[SICHUAN].lists[7] = b"\x08"
    all_of_them = Synchroniser(GUANGDONG, peers.__getitem__, store.statuses, now)
    all_of_them.follow(trust(GUANGDONG, SICHUAN, SHANGHAI))
    sichuan, shanghai = map(all_of_them.get, (SICHUAN, SHANGHAI))
    assert all_of_them.get(GUANGDONG) is None
    await synchronised(sichuan)
    await synchronised(shanghai)
    assert all_of_them.revoked(StatusReference(SICHUAN, 7, 3))
    assert not all_of_them.revoked(StatusReference(SHANGHAI, 7, 3))
    assert not all_of_them.revoked(StatusReference("110000", 7, 3))
    all_of_them.follow(trust(GUANGDONG, SICHUAN))
    assert all_of_them.get(SHANGHAI) is None
    assert all_of_them.get(SICHUAN) is sichuan
    all_of_them.follow(trust(SICHUAN, addresses=()))
    assert all_of_them.get(SICHUAN) is None
    await all_of_them.close()


# Over gRPC


class Served:
    """A node's answers, byte by byte."""

    def __init__(self):
        self.messages, self.error, self.lists = [], None, b""
        self.asked = []

    async def stream(self, request, context):
        self.asked.append(request)
        for each in self.messages:
            yield each
        if isinstance(self.error, asyncio.Event):
            await self.error.wait()
        elif self.error is not None:
            found = status.to_status(self.error)
            context.set_trailing_metadata(((status.DETAILS_KEY, found.SerializeToString()),))
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no")

    async def unary(self, request, _context):
        self.asked.append(lists_pb.BatchGetStatusListsRequest.FromString(request))
        return self.lists


@pytest_asyncio.fixture(loop_scope="module")
async def served():
    node = Served()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tongxing.v1.PeerService",
                {
                    name: grpc.unary_stream_rpc_method_handler(node.stream)
                    for name in ("WatchChanges", "GetPresence")
                },
            ),
            grpc.method_handlers_generic_handler(
                "tongxing.v1.StatusListService",
                {"BatchGetStatusLists": grpc.unary_unary_rpc_method_handler(node.unary)},
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.max_receive_message_length", 16 << 20)]
    node.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
    link = SimpleNamespace(channel=node.channel)
    peer = SimpleNamespace(link=link, links=(link,), circuit_open=False)
    node.peer = peer
    node.links = SimpleNamespace(get={SICHUAN: peer}.get)
    yield node
    await node.channel.close()
    await server.stop(None)


async def taken(messages, most=3):
    async with contextlib.aclosing(messages) as given_:
        return [message async for message, _ in _zip(given_, range(most))]


async def _zip(messages, numbers):
    for number in numbers:
        try:
            yield await anext(messages), number
        except StopAsyncIteration:
            return


async def test_a_peers_changes_come_over_its_channel(served):
    served.messages = [heartbeat(n).SerializeToString() for n in (1, 2)]
    found = await taken(ChannelRemote(SICHUAN, served.links).watch(at(1)))
    assert [each.cursor for each in found] == [at(1), at(2)]
    assert pb.WatchChangesRequest.FromString(served.asked[0]).cursor == at(1)


async def test_a_peers_state_comes_over_its_channel(served):
    parts = list(FakePeer(WANG).whole())
    served.messages = [each.SerializeToString() for each in parts]
    assert await taken(ChannelRemote(SICHUAN, served.links).presence()) == parts


async def test_an_expired_cursor_is_told_from_other_faults(served):
    remote = ChannelRemote(SICHUAN, served.links)
    served.error = CursorExpiredError("too old", field="cursor")
    with pytest.raises(CursorExpiredError, match="continued"):
        await taken(remote.watch(at(1)))
    served.error = StoreUnavailableError("its store")
    with pytest.raises(UnreachableError, match="STORE_UNAVAILABLE"):
        await taken(remote.watch(at(1)))


async def test_a_peers_own_words_go_no_further(served):
    """They might name a holder."""
    remote = ChannelRemote(SICHUAN, served.links)
    for error in (CursorExpiredError, StoreUnavailableError):
        served.error = error("hu-yijun", field="hu-yijun", remedy="hu-yijun")
        with pytest.raises(TongxingError) as caught:
            await taken(remote.watch(at(1)))
        assert "hu-yijun" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("said", [b"\xff", b"\x0a" + b"\x80" * 20, bytes(LARGEST_MESSAGE + 1)])
async def test_a_message_that_cannot_be_read_is_refused(served, said):
    served.messages = [said]
    with pytest.raises(MalformedObjectError):
        await taken(ChannelRemote(SICHUAN, served.links).watch(at(1)))


async def test_a_channel_that_is_closed_is_no_end_of_the_task(served):
    """gRPC ends the calls of a channel that closes as if their task were cancelled."""
    served.error = asyncio.Event()
    waiting = asyncio.create_task(taken(ChannelRemote(SICHUAN, served.links).watch(at(1))))
    await until(lambda: served.asked)
    await served.channel.close()
    with pytest.raises(UnreachableError):
        await waiting
    with pytest.raises(UnreachableError):
        await taken(ChannelRemote(SICHUAN, served.links).watch(at(1)))


async def test_a_task_that_is_cancelled_ends(served):
    served.error = asyncio.Event()
    waiting = asyncio.create_task(taken(ChannelRemote(SICHUAN, served.links).watch(at(1))))
    await until(lambda: served.asked)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


async def test_a_province_without_a_channel_cannot_be_reached(served):
    with pytest.raises(UnreachableError):
        await taken(ChannelRemote(SHANGHAI, served.links).watch(at(1)))
    with pytest.raises(UnreachableError):
        await Remotes(served.links, 1.0).status_lists(SHANGHAI, ["uri"], Call(None, "r"))


async def test_status_lists_come_in_their_order_and_one_may_fail_alone(served):
    failed = lists_pb.StatusListItem(status=status.to_status(CursorExpiredError("no")))
    items = [lists_pb.StatusListItem(signed=b"one"), failed]
    served.lists = lists_pb.BatchGetStatusListsResponse(items=items).SerializeToString()
    remotes = Remotes(served.links, 5.0)
    assert await remotes.status_lists(SICHUAN, ["a", "b"], Call(None, "r")) == [b"one", b""]
    assert list(served.asked[0].uris) == ["a", "b"]
    with pytest.raises(MalformedObjectError):
        await remotes.status_lists(SICHUAN, ["a"], Call(None, "r"))
    served.lists = b"\xff"
    with pytest.raises(MalformedObjectError):
        await remotes.status_lists(SICHUAN, ["a"], Call(None, "r"))
    served.peer.circuit_open = True
    with pytest.raises(UnreachableError):
        await remotes.status_lists(SICHUAN, ["a"], Call(None, "r"))


async def test_status_lists_are_asked_for_at_the_other_address_where_one_does_not_serve(served):
    item = lists_pb.StatusListItem(signed=b"one")
    served.lists = lists_pb.BatchGetStatusListsResponse(items=[item]).SerializeToString()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with grpc.aio.insecure_channel(address) as dead:
            served.peer.links = (SimpleNamespace(channel=dead), *served.peer.links)
            remotes = Remotes(served.links, 5.0)
            assert await remotes.status_lists(SICHUAN, ["a"], Call(None, "r")) == [b"one"]
            served.peer.links = served.peer.links[:1]
            with pytest.raises(UnreachableError):
                await remotes.status_lists(SICHUAN, ["a"], Call(None, "r"))
