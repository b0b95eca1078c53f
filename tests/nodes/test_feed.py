"""The feed and the presence filter, on a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import secrets
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from storing import ISSUER, new
from waiting import freeze

from exchange.errors import CursorExpiredError, StoreUnavailableError
from exchange.presence import PresenceFilter, subject_of
from nodes.store import feed as module
from nodes.store import presence
from nodes.store.attestations import AttestationStore
from nodes.store.feed import LARGEST, RECENT, Feed

HEARTBEAT = 0.2


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture
async def store(valkey):
    opened = await AttestationStore.open(valkey.url, "440000")
    yield opened
    await opened.close()


def now():
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def running(feed):
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        assert not task.done(), task.exception()
        feed.close()
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def feed(valkey, store, changes):
    made = Feed(
        changes, functools.partial(presence.build, store, valkey.url), now, heartbeat=HEARTBEAT
    )
    async with running(made):
        yield made


async def publish(store, count=1):
    """The fingerprints of those of whom something was published, one batch of writes each 512."""
    records = [new() for _ in range(count)]
    await asyncio.gather(*(store.publish(each) for each in records))
    return {subject_of(each.token) for each in records}


def split(packed):
    return {packed[at : at + 8] for at in range(0, len(packed), 8)}


class Watcher:
    """Takes what the feed gives; `pace` is how long it needs for each batch."""

    def __init__(self, feed, cursor, pace=0.0):
        self.batches, self.cursor, self.pace = [], cursor, pace
        self.given = asyncio.Event()
        self.task = asyncio.create_task(self._run(feed))

    async def _run(self, feed):
        try:
            async for batch in feed.watch(self.cursor):
                self.batches.append(batch)
                self.cursor = batch.cursor
                self.given.set()
                await asyncio.sleep(self.pace)
        finally:
            self.given.set()

    @property
    def subjects(self):
        return set().union(*(split(batch.subjects) for batch in self.batches))

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition(self):
                if self.task.done():
                    await self.task
                self.given.clear()
                await self.given.wait()


@contextlib.asynccontextmanager
async def watching(feed, cursor, **options):
    watcher = Watcher(feed, cursor, **options)
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        await asyncio.wait({watcher.task})


async def eventually(condition):
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                if await condition():
                    return
            await asyncio.sleep(0.005)


def holds(snapshot, subjects):
    made = PresenceFilter.from_bits(snapshot.bits, snapshot.hashes)
    return all(each in made for each in subjects)


# Presence


async def test_a_new_empty_store_is_ready_and_knows_nobody(feed, changes):
    async with asyncio.timeout(20):
        snapshot = await feed.presence()
    assert snapshot.cursor == await changes.end()
    assert snapshot.subjects == feed.subjects == 0
    assert not any(snapshot.bits)
    assert abs((now() - snapshot.as_of).total_seconds()) < 60


async def test_everybody_that_the_store_holds_is_in_the_filter(valkey, store, changes):
    there = await publish(store, 3000)
    built = Feed(changes, functools.partial(presence.build, store, valkey.url), now)
    async with running(built):
        snapshot = await built.presence()
        assert holds(snapshot, there)
        assert 2990 <= snapshot.subjects <= 3000
        later = await publish(store, 50)
        await eventually(lambda: asyncio.sleep(0, built.subjects >= 3045))
        assert holds(await built.presence(), there | later)


async def test_somebody_whose_attestation_is_revoked_is_in_the_filter(store, valkey):
    record = new()
    await store.publish(record)
    await store.revoke(record.id, ISSUER, int(time.time()))
    made = await presence.build(store, valkey.url)
    assert subject_of(record.token) in made


async def test_a_large_store_is_built_by_a_process_of_its_own(valkey, store):
    # Of these none seems to be in a filter of the others: the count depends on no order.
    draw = random.Random(4)
    records = [new(token=draw.randbytes(36)) for _ in range(3000)]
    await asyncio.gather(*(store.publish(each) for each in records))
    there = {subject_of(each.token) for each in records}
    made = await presence.build(store, valkey.url, at_hand=100)
    assert all(each in made for each in there)
    here = await presence.build(store, valkey.url)
    assert (made.bits, made.count, made.hashes) == (here.bits, here.count, here.hashes)
    assert made.capacity >= 3000 * 1.25


async def test_the_loop_is_free_while_a_large_filter_is_built(valkey, store):
    await publish(store, 3000)
    turns = 0
    building = asyncio.create_task(presence.build(store, valkey.url, at_hand=100))
    while not building.done():
        turns += 1
        await asyncio.sleep(0.001)
    await building
    assert turns > 20  # starting Python alone takes as long


async def test_a_build_whose_store_is_gone_says_so(valkey, store):
    await publish(store, 200)
    with pytest.raises(StoreUnavailableError, match="cannot connect"):
        await presence.build(store, "unix:///nowhere/valkey.sock", at_hand=100)


async def test_a_build_whose_process_is_killed_says_so(valkey, store):
    await publish(store, 200)
    building = asyncio.create_task(presence.build(store, valkey.url, at_hand=100))
    os.kill(await _builder(), signal.SIGKILL)
    with pytest.raises(StoreUnavailableError, match="ended early"):
        await building


async def test_a_build_that_is_given_up_leaves_no_process(valkey, store):
    await publish(store, 200)
    building = asyncio.create_task(presence.build(store, valkey.url, at_hand=100))
    await _builder()
    building.cancel()
    await asyncio.wait({building})
    await eventually(lambda: asyncio.sleep(0, not _children(b"nodes.store.presence")))


async def test_a_building_process_ends_when_its_node_dies():
    process = await asyncio.create_subprocess_exec(
        *(os.sys.executable, "-m", "nodes.store.presence"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    with open(f"/proc/{process.pid}/cmdline", "rb") as line:  # noqa: ASYNC230, PTH123 - no disk
        assert b"unix:" not in line.read()
    process.stdin.write(b"unix:///nowhere/valkey.sock\n")
    process.stdin.close()
    async with asyncio.timeout(20):
        await process.communicate()


async def _builder():
    """The id of the process that builds."""
    await eventually(lambda: asyncio.sleep(0, _children(b"nodes.store.presence")))
    return _children(b"nodes.store.presence")[0]


def _children(command):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and command in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


async def test_whoever_is_published_before_the_cursor_is_in_the_filter_while_others_are(
    valkey, store, changes
):
    """Publishing goes on before, during and after builds; each snapshot is held against it."""
    published = {}

    builds = 0

    async def build():
        nonlocal builds
        await asyncio.sleep(0.05)  # while others publish
        made = await presence.build(store, valkey.url)
        await asyncio.sleep(0.05)
        builds += 1
        return made

    async def publishing(stop):
        while not stop.is_set():
            for subject in await publish(store, 20):
                published[subject] = await changes.end()
            await asyncio.sleep(0)

    feed = Feed(changes, build, now, heartbeat=HEARTBEAT, rebuild_hours=0.1 / 3600)
    stop = asyncio.Event()
    async with running(feed), asyncio.TaskGroup() as tasks:
        tasks.create_task(publishing(stop))
        tasks.create_task(publishing(stop))
        generations = set()
        while len(generations) < 6:
            snapshot = await feed.presence()
            generations.add(snapshot.generation)
            made = PresenceFilter.from_bits(snapshot.bits, snapshot.hashes)
            told = [each for each, end in published.items() if end <= snapshot.cursor]
            assert all(each in made for each in told)
            # and whoever watches from the cursor hears of the rest
            rest = {each for each in published if each not in made}
            async with watching(feed, snapshot.cursor) as watcher:
                await watcher.until(lambda w, rest=rest: rest <= w.subjects)
        stop.set()
    assert len(published) > 200
    assert max(generations) - min(generations) < builds  # one more with each


async def test_a_watcher_hears_while_a_large_build_runs(store, changes):
    begun, released = asyncio.Event(), asyncio.Event()

    async def build():
        begun.set()
        await released.wait()
        return PresenceFilter.sized(0)

    feed = Feed(changes, build, now, heartbeat=HEARTBEAT)
    async with running(feed):
        await begun.wait()
        async with watching(feed, await changes.end()) as watcher:
            there = await publish(store, 5)
            await watcher.until(lambda w: w.subjects == there)
            asked = asyncio.create_task(feed.presence())
            await watcher.until(lambda w: len(w.batches) > 3)
            assert not asked.done()
        released.set()
        assert holds(await asked, there)  # though the build saw none of them


async def test_a_full_filter_is_built_anew_with_the_next_generation(valkey, store, changes):
    feed = Feed(changes, functools.partial(_small, store, valkey.url), now, heartbeat=HEARTBEAT)
    async with running(feed):
        first = await feed.presence()
        async with watching(feed, first.cursor) as watcher:
            there = await publish(store, 1500)
            await watcher.until(lambda w: w.batches[-1].generation > first.generation)
        second = await feed.presence()
    assert first.generation < second.generation < first.generation + 5
    assert holds(second, there)
    assert len(second.bits) > len(first.bits)


async def _small(store, url):
    """Room for 1,024, whatever `build` would leave."""
    made = await presence.build(store, url)
    if made.count:
        return made
    return PresenceFilter.sized(0)


def numbered(store, url, changes, **options):
    """The feed of one of several processes on the store."""
    return Feed(
        *(changes, functools.partial(presence.build, store, url), now),
        heartbeat=HEARTBEAT,
        number=functools.partial(presence.number, store.reads),
        **options,
    )


async def test_filters_of_several_processes_bear_one_number_until_one_is_due(
    valkey, store, changes
):
    first, second = (numbered(store, valkey.url, changes) for _ in range(2))
    async with running(first), running(second):
        number = (await first.presence()).generation
        assert (await second.presence()).generation == number
        first._rebuild.set()  # it is full, say
        await eventually(lambda: asyncio.sleep(0, first._generation != number))
        assert first._generation > number
        second._rebuild.set()
        await eventually(lambda: asyncio.sleep(0, second._generation != number))
        assert second._generation == first._generation
    async with running(numbered(store, valkey.url, changes)) as again:  # after a restart
        assert (await again.presence()).generation == first._generation


async def test_a_number_that_is_too_old_is_not_taken_again(store):
    lasts, time = timedelta(hours=24), now()
    number = await presence.number(store.reads, 0, time, lasts)
    assert await presence.number(store.reads, 0, time + lasts, lasts) == number
    newer = await presence.number(store.reads, 0, time + 2 * lasts, lasts)
    assert newer > number
    # A store that came back from an older copy, and a clock that was put back.
    assert await presence.number(store.reads, newer + 5, time, lasts) > newer + 5


async def test_no_generation_is_announced_before_there_is_a_filter(store, changes):
    may = asyncio.Event()

    async def build():
        await may.wait()
        return PresenceFilter.sized(0)

    feed = Feed(changes, build, now, heartbeat=HEARTBEAT)
    async with running(feed), watching(feed, await changes.end()) as watcher:
        await watcher.until(lambda w: w.batches)
        assert not watcher.batches[-1].generation
        may.set()
        await watcher.until(lambda w: w.batches[-1].generation)


async def test_a_build_that_fails_is_tried_again(store, changes):
    tries = []

    async def build():
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailableError("not now")
        return PresenceFilter.sized(0)

    async with running(Feed(changes, build, now)) as feed:
        await feed.presence()
    assert len(tries) == 3


async def test_generations_grow_when_the_node_starts_anew(valkey, store, changes):
    build = functools.partial(presence.build, store, valkey.url)
    async with running(Feed(changes, build, now)) as feed:
        first = await feed.presence()
    async with running(Feed(changes, build, now)) as feed:
        assert (await feed.presence()).generation > first.generation


# Watching


async def test_the_first_batch_comes_at_once_and_says_as_of_when(changes, store, valkey):
    slow = Feed(
        changes, functools.partial(presence.build, store, valkey.url), now, heartbeat=3600.0
    )
    async with running(slow):
        snapshot = await slow.presence()
        for _ in range(3):
            before = now()
            async with watching(slow, snapshot.cursor) as watcher:
                await watcher.until(lambda w: w.batches)
            batch = watcher.batches[0]
            assert batch.cursor == snapshot.cursor
            assert not batch.subjects
            assert before <= batch.as_of <= now()


async def test_heartbeats_come_though_nothing_changes(feed):
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor) as watcher:
        await watcher.until(lambda w: len(w.batches) >= 4)
    times = [batch.as_of for batch in watcher.batches]
    assert times == sorted(times)
    assert times[0] < times[-1]
    assert {batch.cursor for batch in watcher.batches} == {snapshot.cursor}


async def test_all_at_the_live_end_get_the_same_batch(feed, store):
    snapshot = await feed.presence()
    async with contextlib.AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(watching(feed, snapshot.cursor)) for _ in range(31)
        ]
        for watcher in watchers:
            await watcher.until(lambda w: w.batches)
        there = await publish(store, 3)
        for watcher in watchers:
            await watcher.until(lambda w: w.subjects == there)
        told = [[batch for batch in w.batches if batch.subjects] for w in watchers]
        assert all(
            mine is theirs for each in told for mine, theirs in zip(each, told[0], strict=True)
        )


async def test_what_was_revoked_is_told_with_its_place(feed, store):
    record = new(place=(7, 11))
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor) as watcher:
        await store.publish(record)
        await store.revoke(record.id, ISSUER, int(time.time()))
        await watcher.until(lambda w: any(batch.revoked for batch in w.batches))
    (revoked,) = [each for batch in watcher.batches for each in batch.revoked]
    assert (revoked.id, revoked.subject) == (record.id, subject_of(record.token))
    assert revoked.place == (7, 11)
    assert watcher.subjects == {subject_of(record.token)}


async def test_many_changes_make_few_batches(feed, store):
    snapshot = await feed.presence()
    loop = asyncio.get_running_loop()
    async with watching(feed, snapshot.cursor) as watcher:
        await watcher.until(lambda w: w.batches)
        begun = loop.time()
        there = set()
        for _ in range(100):  # each its own entry of the stream
            there |= await publish(store)
        took = loop.time() - begun
        await watcher.until(lambda w: w.subjects == there)
    told = [batch for batch in watcher.batches if batch.subjects]
    assert len(told) <= took / module.PAUSE + 2


async def test_a_watcher_from_long_ago_gets_all_pages_in_order(feed, store, changes):
    cursor = await changes.end()
    there = set()
    for _ in range(40):
        there |= await publish(store, 400)
    async with watching(feed, cursor) as watcher:
        await watcher.until(lambda w: w.subjects == there and w.batches[-1].as_of)
    assert len(there) == 16_000
    cursors = [batch.cursor for batch in watcher.batches]
    assert cursors == sorted(cursors)
    assert watcher.batches[-1].cursor == await changes.end()
    assert all(len(batch.subjects) <= (LARGEST + 512) * 8 for batch in watcher.batches)


async def test_as_of_never_claims_what_the_watcher_was_not_told(feed, store, changes):
    """Whatever was acknowledged before ``as_of`` is in that batch or one before it."""
    cursor = await changes.end()
    acknowledged = []

    async def publishing():
        for _ in range(60):
            subjects = await publish(store, 100)
            acknowledged.append((now(), subjects))

    async with watching(feed, cursor) as live, asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(publishing())
        await live.until(lambda w: len(w.subjects) == 12_000 and w.batches[-1].as_of)
        async with watching(feed, cursor) as late:
            await late.until(lambda w: len(w.subjects) == 12_000 and w.batches[-1].as_of)
    for watcher in (live, late):
        told = set()
        for batch in watcher.batches:
            told |= split(batch.subjects)
            if batch.as_of:
                assert all(them <= told for at, them in acknowledged if at < batch.as_of)


async def test_a_slow_watcher_costs_no_memory_and_misses_nothing(feed, store):
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor, pace=0.2) as slow:
        there, behind = set(), 0
        for _ in range(200):
            there |= await publish(store, 5)
            behind += slow.subjects < there
            await asyncio.sleep(module.PAUSE / 4)
        assert len(feed._recent) <= RECENT
        assert behind
        slow.pace = 0.0
        await slow.until(lambda w: w.subjects == there)
    told = [batch for batch in slow.batches if batch.subjects]
    cursors = [batch.cursor for batch in told]
    assert cursors == sorted(set(cursors))


async def test_a_flood_is_cut_into_batches_that_a_message_can_hold(feed, store, raw):
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor) as watcher:
        await watcher.until(lambda w: w.batches)
        subjects = secrets.token_bytes(8 * 500 * 200)
        # As a store would that another process fills, all at once.
        for at in range(0, len(subjects), 8 * 500):
            raw.execute(b"XADD", b"c", b"*", b"p", subjects[at : at + 8 * 500], b"r", b"")
        await watcher.until(lambda w: w.subjects == split(subjects))
        await watcher.until(lambda w: w.batches[-1].as_of is not None)
    assert all(len(batch.subjects) <= (LARGEST + 512) * 8 for batch in watcher.batches)
    assert feed._recent_subjects <= module.RECENT_SUBJECTS


@pytest.mark.parametrize("cursor", ["foreign", "trimmed", "ahead", "short", "empty"])
async def test_a_cursor_that_nothing_can_be_continued_from_is_refused_at_once(
    feed, store, changes, raw, cursor
):
    first = await changes.end()
    await publish(store)
    await publish(store)
    end = await changes.end()
    if cursor == "trimmed":
        await raw.execute(b"XTRIM", b"c", b"MAXLEN", b"1")
    given = {
        "foreign": bytes(16) + end[16:],
        "trimmed": first,
        "ahead": end[:16] + b"\x7f" + end[17:],
        "short": end[:-1],
        "empty": b"",
    }[cursor]
    await eventually(lambda: asyncio.sleep(0, feed._told == end))
    feed._recent.clear()  # from there it could
    async with asyncio.timeout(20):
        with pytest.raises(CursorExpiredError):
            await anext(feed.watch(given))


async def test_a_watcher_that_sleeps_past_what_is_kept_is_refused(feed, store, raw):
    snapshot = await feed.presence()
    watching = feed.watch(snapshot.cursor)
    assert not (await anext(watching)).subjects
    for _ in range(RECENT + 5):
        await publish(store)
        told = feed._told
        await eventually(
            lambda told=told: asyncio.sleep(0, feed._told > told or not feed._gathered)
        )
    await eventually(lambda: asyncio.sleep(0, len(feed._recent) <= RECENT))
    feed._recent.clear()  # as if there had been more of them
    await raw.execute(b"XTRIM", b"c", b"MAXLEN", b"1")
    with pytest.raises(CursorExpiredError):
        await anext(watching)


async def test_a_draining_node_ends_its_watchers(feed):
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor) as watcher:
        await watcher.until(lambda w: w.batches)
        feed.close()
        async with asyncio.timeout(20):
            await watcher.task
    async for _ in feed.watch(snapshot.cursor):
        pytest.fail("it said something")


# A store that goes away


async def test_nothing_is_said_while_the_store_is_away_and_nothing_is_lost(
    feed, store, valkey, changes
):
    there = await publish(store, 10)
    snapshot = await feed.presence()
    async with watching(feed, snapshot.cursor) as watcher:
        await watcher.until(lambda w: w.batches)
        freeze(valkey.pid)
        stopped = now()
        await asyncio.sleep(HEARTBEAT * 5)  # long enough for several heartbeats
        os.kill(valkey.pid, signal.SIGCONT)
        assert all(batch.as_of <= stopped for batch in watcher.batches)
        os.kill(valkey.pid, signal.SIGKILL)
        await eventually(lambda: _answers(changes))
        later = set()

        async def published():
            later.update(await publish(store, 10))
            return True

        await eventually(published)
        back = now()
        await watcher.until(lambda w: later <= w.subjects)
        await watcher.until(lambda w: w.batches[-1].as_of and w.batches[-1].as_of > back)
    assert holds(await feed.presence(), there | later)
    assert (await feed.presence()).generation == snapshot.generation


async def _answers(changes):
    await changes.end()
    return True


async def test_a_watcher_that_comes_while_the_store_is_away_waits(feed, store, valkey):
    cursor = (await feed.presence()).cursor
    there = await publish(store, 5)
    freeze(valkey.pid)
    try:
        async with watching(feed, cursor) as watcher:
            await asyncio.sleep(HEARTBEAT)
            os.kill(valkey.pid, signal.SIGCONT)
            await watcher.until(lambda w: there <= w.subjects and w.batches[-1].as_of)
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def test_a_store_that_lost_everything_is_another_store(feed, store, raw, changes):
    before = await publish(store, 10)
    first = await feed.presence()
    async with watching(feed, first.cursor) as watcher:
        await watcher.until(lambda w: w.batches)
        await raw.execute(b"FLUSHALL")
        with pytest.raises(CursorExpiredError):
            await watcher.until(lambda _: False)
    there = await publish(store, 10)

    async def knows():
        snapshot = await feed.presence()
        return snapshot.cursor[:16] != first.cursor[:16] and holds(snapshot, there)

    await eventually(knows)
    second = await feed.presence()
    assert second.generation > first.generation
    assert not holds(second, before)
    async with watching(feed, second.cursor) as watcher:
        await watcher.until(lambda w: w.batches)


async def test_a_store_that_lost_its_last_changes_gets_a_new_filter(feed, store, raw, changes):
    there = await publish(store, 10)
    await eventually(lambda: asyncio.sleep(0, feed.subjects >= 9))
    first = await feed.presence()
    # What a crash before the fsync does: the last entry, told already, is no more.
    kept = await changes.end()
    await publish(store)
    await eventually(lambda: asyncio.sleep(0, feed._told > kept))
    ahead = feed._told
    await raw.execute(b"XDEL", b"c", b"%d-%d" % _place(ahead))
    await raw.execute(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes")
    await eventually(lambda: asyncio.sleep(0, feed._told == kept))
    second = await feed.presence()
    assert second.generation > first.generation
    assert holds(second, there)
    with pytest.raises(CursorExpiredError):
        await anext(feed.watch(ahead))


async def replaced(raw, first, *, kept, since):
    """Put an older copy in the store's place, where somebody publishes before anyone is back.

    By its clock that is earlier than what it lost.

    :param kept: of the entries, milliseconds after the first and their subject.
    :param since: the same of what is published in the older copy.
    :return: the fingerprint of who is published there.
    """
    base, number = _place(first)
    token = secrets.token_bytes(36)
    until = b"%d" % (time.time() + 3600)
    entries = [(base, number, b""), *((base + at, 0, subject) for at, subject in kept)]
    entries.append((base + since, 0, subject_of(token)))
    await raw.ask(
        [
            (b"MULTI",),
            (b"DEL", b"c"),
            *(
                (b"XADD", b"c", b"%d-%d" % (at, each), b"p", subject, b"r", b"")
                for at, each, subject in entries
            ),
            (
                *(b"HSETEX", b"s:{%b}" % token, b"EXAT", until),
                *(b"FIELDS", b"1", secrets.token_bytes(16), b"\xd2" + bytes(20)),
            ),
            (b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"),
            (b"EXEC",),
        ]
    )
    return subject_of(token)


async def added(raw, first, at, subject):
    await raw.execute(*(b"XADD", b"c", b"%d-0" % (_place(first)[0] + at), b"p", subject, b"r", b""))


async def test_who_is_published_in_an_older_copy_of_the_store_is_in_the_filter(feed, raw):
    snapshot = await feed.presence()
    early, late = secrets.token_bytes(8), secrets.token_bytes(8)
    await added(raw, snapshot.cursor, 1000, early)
    await added(raw, snapshot.cursor, 9000, late)
    at_late = _place(snapshot.cursor)[0] + 9000
    await eventually(lambda: asyncio.sleep(0, _place(feed._told)[0] == at_late))
    peer = feed._told
    anew = await replaced(raw, snapshot.cursor, kept=[(1000, early)], since=5000)
    await eventually(lambda: asyncio.sleep(0, _place(feed._told)[0] == at_late - 4000))
    second = await feed.presence()
    assert second.generation > snapshot.generation
    assert holds(second, {anew})
    # Also once the end lies beyond its place again.
    await added(raw, snapshot.cursor, 12_000, secrets.token_bytes(8))
    await eventually(lambda: asyncio.sleep(0, _place(feed._told)[0] == at_late + 3000))
    feed._recent.clear()
    with pytest.raises(CursorExpiredError):
        await anext(feed.watch(peer))


async def test_a_filter_that_was_begun_before_the_store_came_back_older_is_not_used(
    valkey, store, changes, raw
):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def build():
        made = await presence.build(store, valkey.url)
        begun.set()
        await go_on.wait()
        return made

    first = await changes.end()
    await added(raw, first, 9000, secrets.token_bytes(8))
    made = Feed(changes, build, now, heartbeat=HEARTBEAT)
    async with running(made):
        await begun.wait()
        anew = await replaced(raw, first, kept=[], since=5000)
        at_anew = _place(first)[0] + 5000
        await eventually(lambda: asyncio.sleep(0, _place(made._told)[0] == at_anew))
        go_on.set()
        async with asyncio.timeout(10):
            assert holds(await made.presence(), {anew})


def _place(cursor):
    return int.from_bytes(cursor[16:24], "big"), int.from_bytes(cursor[24:], "big")
