"""What one process hears of the peers, as the others of its node see it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import uvloop
from hearing import FakePeer, heartbeat, now, revocation, until
from hypothesis import given
from hypothesis import strategies as st

from exchange.errors import InvalidFieldError, StoreUnavailableError
from exchange.statuslist import StatusReference
from nodes.memory import resident
from nodes.peers import shown
from nodes.peers.memory import Memory, Page
from nodes.peers.shown import Showing, Shown
from nodes.peers.sync import Synchroniser, SyncState

GUANGDONG, SICHUAN, SHANGHAI = "440000", "510000", "310000"
WANG, LI, STRANGER = b"wang....", b"li......", b"nobody.."


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


# Memory


def test_shared_memory_is_seen_by_who_opens_it_and_written_by_who_may():
    made = Memory.shared(4096)
    seen = Memory.of(made.handle)
    made.view[7] = 9
    assert seen.view[7] == 9
    with pytest.raises(TypeError):
        seen.view[7] = 8
    assert Memory.found(made.handle) is not None
    Memory.of(made.handle, write=True).view[7] = 10
    assert made.view[7] == 10


def test_what_is_gone_cannot_be_opened_and_who_has_it_keeps_it():
    made = Memory.shared(4096)
    made.view[0] = 1
    seen, handle = Memory.of(made.handle), made.handle
    del made
    other = Memory.shared(4096)  # has the same descriptor
    assert other.handle.descriptor == handle.descriptor
    for gone in (handle, handle._replace(descriptor=12345), handle._replace(pid=2**22 + 1)):
        assert Memory.found(gone) is None
        with pytest.raises(FileNotFoundError):
            Memory.of(gone)
    assert seen.view[0] == 1


@pytest.mark.parametrize("make", [Memory.own, Memory.shared])
def test_memory_takes_no_room_before_it_is_touched(make):
    before = resident()
    made = make(1 << 28)
    for at in range(0, 1 << 28, 1 << 20):
        made.view[at] = 1
    assert resident() - before < 1 << 24


@given(st.lists(st.dictionaries(st.text(max_size=20), st.integers() | st.text(max_size=9))))
def test_a_page_is_read_as_it_was_written_and_only_once(values):
    memory = Memory.own(Page.SIZE).view
    writes, reads = Page(memory), Page(memory)
    assert reads.read() is None
    for value in values:
        writes.write(value)
        assert reads.read() == value
        assert reads.read() is None


def test_a_page_that_is_too_small_is_left_as_it_was():
    memory = Memory.own(Page.SIZE).view
    Page(memory).write({"a": 1})
    with pytest.raises(ValueError, match="page"):
        Page(memory).write({"a": "x" * Page.SIZE})
    assert Page(memory).read() == {"a": 1}


@pytest.mark.parametrize("at", [8, 16, 30])
def test_a_page_of_which_a_part_is_not_there_yet_is_read_once_it_is(at):
    """As another processor may see it: its length, its sum or its bytes are those from before."""
    memory = Memory.own(Page.SIZE).view
    reads = Page(memory)
    Page(memory).write({"a": 1, "b": "x" * 100})
    there = memory[at]
    memory[at] ^= 1
    assert reads.read() is None
    memory[at] = there
    assert reads.read() == {"a": 1, "b": "x" * 100}


def test_a_page_whose_writer_was_killed_amid_it_is_not_read_and_the_next_one_is():
    memory = Memory.own(Page.SIZE).view
    Page(memory).write({"a": 1})
    memory[0] += 1  # as a writer leaves it that has begun
    reads = Page(memory)
    assert reads.read() is None
    Page(memory).write({"a": 2})
    assert reads.read() == {"a": 2}


def test_no_page_is_ever_read_that_was_not_written():
    memory = Memory.own(Page.SIZE).view
    ends = threading.Event()

    def write():
        page, number = Page(memory), 0
        while not ends.is_set():
            number += 1
            page.write({"a": number, "b": [number] * (number % 50), "c": number})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reads, found = Page(memory), 0
        while found < 500:
            if (value := reads.read()) is not None:
                found += 1
                assert value["a"] == value["c"]
                assert value["b"] == [value["a"]] * (value["a"] % 50)
    finally:
        ends.set()
        writer.join()


# Peers


class Places:
    """A store that knows of nothing, and takes all."""

    async def load(self, _province):
        return {}

    async def mark(self, _province, _places):
        pass

    async def merge(self, _province, _revoked, *, only=False):
        pass


class Hearing:
    """What a hearing process does, in this one."""

    def __init__(self, index, **peers):
        self.shown = asyncio.Event()
        self.peers = {code.removeprefix("p"): peer for code, peer in peers.items()}
        self.syncs = Synchroniser(GUANGDONG, self.peers.__getitem__, Places(), now, Memory.shared)
        self.follow(*self.peers)
        self.showing = asyncio.create_task(Showing(index, self.syncs, self.shown.set).run())

    def follow(self, *codes):
        profiles = {code: SimpleNamespace(addresses=("127.0.0.1:1",)) for code in codes}
        self.syncs.follow(SimpleNamespace(profiles=profiles))

    async def end(self):
        self.showing.cancel()
        await asyncio.wait({self.showing})
        await self.syncs.close()


@pytest.fixture
def index():
    return Memory.shared(Page.SIZE)


@pytest.fixture
async def seen(index):
    made = Shown(index.handle)
    looking = asyncio.create_task(made.run())
    yield made
    assert not looking.done(), looking.exception()
    looking.cancel()


async def fresh(seen, province=SICHUAN):
    def known():
        peer = seen.get(province)
        return peer is not None and peer.as_of is not None

    await until(known)
    return seen.get(province)


async def test_before_anything_is_shown_nothing_is_known(seen):
    assert seen.get(SICHUAN) is None
    assert not seen.revoked(StatusReference(SICHUAN, 7, 3))


async def test_a_peer_that_was_never_heard_rules_nothing_out(index, seen):
    peer = FakePeer(WANG, greets=False)
    hearing = Hearing(index.handle, p510000=peer)
    await until(lambda: seen.get(SICHUAN) is not None)
    assert seen.get(SICHUAN).perhaps(STRANGER)
    assert not seen.get(SICHUAN).unchanged(STRANGER, seen.get(SICHUAN).mark())
    await hearing.end()


async def test_what_is_heard_is_seen_by_others(index, seen):
    peer = FakePeer(WANG)
    peer.lists[7] = b"\x08"
    hearing = Hearing(index.handle, p510000=peer)
    sichuan = await fresh(seen)
    heard = hearing.syncs.get(SICHUAN)
    assert (sichuan.perhaps(WANG), sichuan.perhaps(LI)) == (True, False)
    assert (sichuan.revoked(7, 3), sichuan.revoked(7, 4)) == (True, False)
    assert sichuan.state is SyncState.SYNCHRONISED
    assert sichuan.presence_time == heard.presence_time
    assert (sichuan.generation, sichuan.subjects, sichuan.resynchronisations) == (1, 1, 1)
    mark = sichuan.mark()
    assert sichuan.unchanged(LI, mark)
    before = sichuan.as_of
    peer.change(LI, revocations=[revocation(WANG, (9, 5))])
    await until(lambda: sichuan.as_of > before)
    assert sichuan.perhaps(LI)
    assert not sichuan.unchanged(LI, mark)
    assert not sichuan.unchanged(WANG, mark)
    assert sichuan.unchanged(STRANGER, mark)
    assert sichuan.revoked(9, 5)
    assert seen.revoked(StatusReference(SICHUAN, 9, 5))
    assert not seen.revoked(StatusReference(SHANGHAI, 9, 5))
    assert sichuan.lag == heard.lag
    peer.say(StoreUnavailableError("gone"))
    peer.greets = False
    await until(lambda: sichuan.state is SyncState.SILENT)
    assert "gone" in sichuan.last_error
    assert sichuan.as_of == heard.as_of
    await hearing.end()


async def test_a_new_filter_takes_the_old_ones_place(index, seen, monkeypatch):
    monkeypatch.setattr("nodes.peers.sync.LEISURE_SECONDS", 0.01)
    peer = FakePeer(WANG)
    hearing = Hearing(index.handle, p510000=peer)
    sichuan = await fresh(seen)
    hearing.syncs.get(SICHUAN)._leisure = 0.01
    peer.held, peer.generation = [LI], 2  # Wang has left

    def renewed():
        if peer.messages.empty():
            peer.say(heartbeat(peer.place, presence_generation=2))
        return not sichuan.perhaps(WANG)

    await until(renewed)
    assert sichuan.perhaps(LI)
    assert sichuan.generation == 2
    await hearing.end()


async def test_a_peer_with_nobody_in_its_filter_is_seen_to_add_somebody(index, seen):
    peer = FakePeer()
    peer.header = {"size": 0}
    peer.filter = lambda: SimpleNamespace(bits=b"", hashes=6, count=0)
    hearing = Hearing(index.handle, p510000=peer)
    sichuan = await fresh(seen)
    assert not sichuan.perhaps(WANG)
    peer.change(WANG)
    await until(lambda: sichuan.perhaps(WANG))
    await hearing.end()


async def test_provinces_that_come_and_leave_are_seen_to(index, seen):
    hearing = Hearing(index.handle, p510000=FakePeer(WANG), p310000=FakePeer(LI))
    await fresh(seen)
    await fresh(seen, SHANGHAI)
    hearing.follow(SICHUAN)
    await until(lambda: seen.get(SHANGHAI) is None)
    hearing.follow(SICHUAN, SHANGHAI)
    shanghai = await fresh(seen, SHANGHAI)
    assert shanghai.perhaps(LI)
    await hearing.end()


async def test_what_was_heard_stands_until_another_process_has_heard_as_much(
    index, seen, monkeypatch
):
    hearing = Hearing(index.handle, p510000=FakePeer(WANG, place=4))
    sichuan = await fresh(seen)
    mark, before = sichuan.mark(), sichuan.as_of
    await hearing.end()
    del hearing  # its memory is gone, as when the process was killed
    monkeypatch.setattr(shown, "_lives", lambda _pid: False)
    peer = FakePeer(LI, place=4)
    peer.lists[7] = b"\x08"
    peer.gate.clear()
    again = Hearing(index.handle, p510000=peer)
    await until(lambda: sichuan.state is SyncState.RESYNCHRONISING)
    assert sichuan.as_of == before
    assert (sichuan.perhaps(WANG), sichuan.perhaps(LI)) == (True, False)
    assert sichuan.unchanged(STRANGER, mark)
    peer.gate.set()
    await until(lambda: sichuan.as_of > before)
    assert (sichuan.perhaps(WANG), sichuan.perhaps(LI)) == (False, True)
    assert not sichuan.unchanged(STRANGER, mark), "what changed between, nobody knows"
    assert sichuan.revoked(7, 3)
    await again.end()


async def test_who_takes_over_waits_until_no_peer_is_missing(index, seen):
    first = Hearing(index.handle, p510000=FakePeer(WANG), p310000=FakePeer(WANG))
    sichuan, _ = await fresh(seen), await fresh(seen, SHANGHAI)
    await first.end()
    page = Page(index.view)
    page.write(page.read() | {"pid": 1})  # as if it were another process's, which lives
    late = FakePeer(LI, greets=False)
    second = Hearing(index.handle, p510000=FakePeer(LI), p310000=late)
    await until(lambda: second.syncs.get(SICHUAN).as_of is not None)
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert sichuan.perhaps(WANG)
    assert not second.shown.is_set()
    late.say(heartbeat(late.place))
    await second.shown.wait()
    await until(lambda: sichuan.perhaps(LI) and not sichuan.perhaps(WANG))
    await second.end()


async def test_a_process_that_could_not_open_it_at_first_sees_it_later(index, seen, monkeypatch):
    """It had too many files open at that moment."""
    opened = Memory.found
    monkeypatch.setattr(Memory, "found", lambda _handle: None)
    hearing = Hearing(index.handle, p510000=FakePeer(WANG))
    await until(lambda: seen.get(SICHUAN) is not None)
    await until(lambda: hearing.syncs.get(SICHUAN).as_of is not None)
    assert seen.get(SICHUAN).as_of is None
    assert seen.get(SICHUAN).perhaps(STRANGER)
    monkeypatch.setattr(Memory, "found", opened)
    assert not (await fresh(seen)).perhaps(STRANGER)
    await hearing.end()


async def test_where_nobody_hears_any_more_it_is_said_until_somebody_does(index, seen, monkeypatch):
    monkeypatch.setattr(shown, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(shown, "BEAT_SECONDS", 0.02)
    hearing = Hearing(index.handle, p510000=FakePeer(WANG))
    sichuan = await fresh(seen)
    await hearing.end()
    await until(lambda: sichuan.state is SyncState.SILENT)
    assert sichuan.last_error == shown.NOBODY_HEARS
    assert sichuan.as_of is not None
    assert not sichuan.perhaps(STRANGER)
    again = Hearing(index.handle, p510000=FakePeer(WANG))
    await until(lambda: sichuan.state is SyncState.SYNCHRONISED)
    assert sichuan.last_error == ""
    await again.end()


async def test_what_another_version_shows_is_not_looked_at(index, seen, monkeypatch):
    hearing = Hearing(index.handle, p510000=FakePeer(WANG))
    await fresh(seen)
    monkeypatch.setattr(shown, "FORM", shown.FORM + 1)
    other = Shown(index.handle)
    assert other.get(SICHUAN) is None
    await hearing.end()


def test_where_nothing_can_be_opened_the_remedy_is_named(index):
    with pytest.raises(InvalidFieldError, match="/proc/PID/fd") as refused:
        Shown(index.handle._replace(inode=1))
    assert refused.value.field == "workers"


async def test_what_is_known_of_a_province_that_left_is_let_go(index, seen):
    hearing = Hearing(index.handle, p510000=FakePeer(WANG), p310000=FakePeer(LI))
    await fresh(seen, SHANGHAI)
    gone = weakref.ref(hearing.syncs.get(SHANGHAI))
    hearing.follow(SICHUAN)
    await until(lambda: seen.get(SHANGHAI) is None)
    await until(lambda: gc.collect() >= 0 and gone() is None)
    await hearing.end()
