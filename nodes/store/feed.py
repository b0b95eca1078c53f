"""The feed: what this node tells the others of its changes, as they happen.

One task follows the changes, adds their subjects to the presence filter, and makes *batches* of
them: the first change after a pause at once, then one batch every 20 ms at most. A watcher is no
more than a cursor. At the live end it waits for the next batch, the same object for all; a little
behind, it finds it among the last ones; further behind, it reads pages of the store's stream. So
a slow watcher costs nothing, and nothing is kept for it.

Before each batch, and each heartbeat, the store is asked for its newest change, and the batch is
made when that one has arrived: ``as_of`` is the time *before* the question. While the store does
not answer, nothing is said: silence never passes for "nothing happened".
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from exchange.errors import CursorExpiredError, StoreUnavailableError, TongxingError
from exchange.presence import SUBJECT_BYTES, PresenceFilter
from nodes.store.changes import STORE_ID_BYTES, Changes, Entry, Revoked

__all__ = ["Batch", "Feed", "Snapshot"]

log = structlog.get_logger(__name__)

PAUSE: Final = 0.02
"""Seconds between two batches at least."""

LARGEST: Final = 4_096
"""Subjects in a batch, about: some 200 KiB, well below what a message may hold."""

RECENT: Final = 32
RECENT_SUBJECTS: Final = 32_768
"""What is kept of the last batches, for watchers a little behind: of both bounds the first."""

PAGE: Final = 128
"""Entries read at once for a watcher that is behind; each holds up to 512 notes."""

ADDED_AT_ONCE: Final = 2_000
"""Subjects put into the filter before others have their turn: some milliseconds."""

FOLLOW_SECONDS: Final = 2.0
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What changed between one cursor and the next; equal only to itself, so that it can be a key.

    :param cursor: where to continue after it, 32 bytes.
    :param as_of: up to when nothing is missing, by the node's clock; None where more follows.
    :param subjects: fingerprints of those concerned, 8 bytes each, one after another.
    :param generation: of the presence filter; 0 while there is none yet.
    """

    cursor: bytes
    as_of: datetime | None
    subjects: bytes
    revoked: tuple[Revoked, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The presence filter at a cursor.

    :param bits: the living filter: subjects of later changes may come to it while it is read.
    :param subjects: how many it holds, about.
    :param as_of: the node's time at the cursor.
    """

    cursor: bytes
    generation: int
    bits: bytearray | memoryview
    hashes: int
    subjects: int
    as_of: datetime


class _Turn:
    """The next batch at the live end, once it is there."""

    __slots__ = ("batch", "come", "start")

    def __init__(self) -> None:
        self.come = asyncio.Event()
        self.start = b""
        self.batch: Batch | None = None


class Feed:
    """One a node. `run` does the work; all else may be called before it, and then waits.

    :param changes: the store's.
    :param build: makes a presence filter of all whom the store holds (`nodes.store.presence`).
    :param heartbeat: seconds after which it speaks though nothing happened.
    :param rebuild_hours: after which those who left are dropped from the filter.
    :param number: numbers a filter that was built (`nodes.store.presence.number`); None where no
        other process is on the store.
    """

    def __init__(
        self,
        changes: Changes,
        build: Callable[[], Awaitable[PresenceFilter]],
        clock: Callable[[], datetime],
        *,
        heartbeat: float = 5.0,
        rebuild_hours: float = 24.0,
        number: Callable[[int, datetime, timedelta], Awaitable[int]] | None = None,
    ) -> None:
        self._changes = changes
        self._build = build
        self._clock = clock
        self._heartbeat = heartbeat
        self._lasts = timedelta(hours=rebuild_hours)
        self._number = number or _number_alone
        self._generation = 0
        self._beginnings = 0
        """How often the changes did not go on where they were left."""
        self._filter: PresenceFilter | None = None
        self._built = asyncio.Event()
        self._rebuild = asyncio.Event()

        self._arrived = b""
        """Up to where the changes were read."""
        self._heard = b""
        """Up to where their subjects are in the filter."""
        self._told = b""
        """Up to where batches were made of them: the live end."""
        self._as_of: datetime | None = None
        self._begun = asyncio.Event()
        self._moved = asyncio.Event()
        self._speak = asyncio.Event()
        self._room = asyncio.Event()
        self._gathered: list[Entry] = []
        self._recent: OrderedDict[bytes, Batch] = OrderedDict()
        """By the cursor at which each begins."""
        self._recent_subjects = 0
        self._last: Batch | None = None
        self._turn = _Turn()
        self._closed = False

    @property
    def heartbeat(self) -> float:
        """Seconds after which it speaks at the latest."""
        return self._heartbeat

    @property
    def subjects(self) -> int:
        """How many subjects the filter holds, about; 0 while there is none yet."""
        return 0 if self._filter is None else self._filter.count

    async def run(self) -> None:
        """Follow the changes and keep the filter, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep())

    def close(self) -> None:
        """End all watchers, and those to come: a node that drains would wait for them."""
        self._closed = True
        for waited_for in (self._turn.come, self._begun, self._built):
            waited_for.set()

    async def watch(self, cursor: bytes) -> AsyncIterator[Batch]:
        """Give what changed after a cursor, and then what changes, until `close`.

        The first batch comes at once, the next ones when something changed or the heartbeat is
        due; while the store is away, none. Batches may repeat what was in those before.

        :param cursor: 32 bytes: of a batch or a snapshot.
        :raises CursorExpiredError: it cannot be continued from there; also later, where the
            watcher was too slow.
        """
        given: Batch | None = None
        await self._begun.wait()
        while not self._closed:
            batch = self._recent.get(cursor)
            if batch is None and cursor != self._told:
                page = await self._page(cursor)
                for batch in page:
                    yield batch
                    cursor, given = batch.cursor, batch
                if page:
                    continue
            if batch is None:
                turn = self._turn
                if given is not self._last:  # it does not know that nothing is missing
                    self._speak.set()
                await turn.come.wait()
                if turn.start != cursor or turn.batch is None:
                    continue
                batch = turn.batch
            yield batch
            cursor, given = batch.cursor, batch

    async def presence(self) -> Snapshot:
        """Give the filter, as soon as there is one.

        Every subject of whom something was published before its cursor is in it.

        :raises StoreUnavailableError: the node closes.
        """
        while True:
            made, as_of = self._filter, self._as_of
            if made is not None and as_of is not None:
                return Snapshot(
                    self._told, self._generation, made.bits, made.hashes, made.count, as_of
                )
            if self._closed:
                raise StoreUnavailableError("the node closes")
            await (self._built if made is None else self._begun).wait()

    # --- the changes -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Come back, with longer and longer pauses, whenever the store does."""
        pause = SHORTEST_PAUSE
        while True:
            last = self._last
            try:
                await self._continue()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._hear())
                    tasks.create_task(self._tell())
            except* TongxingError as group:  # the store is away, is another one, or holds nonsense
                log.warning("feed.interrupted", why=str(group.exceptions[0]))
            if self._last is not last:
                pause = SHORTEST_PAUSE
            # Nodes that lost one server must not all come back in one instant.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _continue(self) -> None:
        """See that the changes go on where they were left; else begin at their end."""
        if self._heard:
            with contextlib.suppress(CursorExpiredError):
                await self._changes.since(self._heard, 1)
                self._arrived = self._heard  # the rest, if it is not lost, arrives again
                return
        end = await self._changes.end()
        # Also where the end lies behind what was heard: a store that came back from an older copy
        # may have others' changes in the places of those that it lost.
        self._beginnings += 1
        self._filter = None
        self._built.clear()
        self._rebuild.set()
        self._arrived = self._heard = self._told = end
        self._gathered.clear()
        self._recent.clear()
        self._recent_subjects = 0

    async def _hear(self) -> None:
        """Put the subjects of changes into the filter as they come."""
        async for entries in self._changes.tail(self._heard):
            if not entries:
                continue
            self._arrived = entries[-1].cursor
            await _stepwise(b"".join([each.subjects for each in entries]), self._add)
            self._heard = self._arrived
            self._gathered += entries
            self._moved.set()
            self._speak.set()
            while self._crowded():
                self._room.clear()
                await self._room.wait()

    def _add(self, subjects: bytes) -> None:
        if self._filter is not None:
            self._filter.add_all(subjects)
            if self._filter.full:
                self._rebuild.set()

    def _crowded(self) -> bool:
        """Whether enough was gathered, and the rest is better left in the store for now."""
        return sum(len(each.subjects) for each in self._gathered) > LARGEST * SUBJECT_BYTES

    async def _tell(self) -> None:
        """Make batches of what was heard."""
        while True:
            now, heard = self._clock(), self._heard
            end = await self._changes.end()
            if end < heard:
                raise CursorExpiredError("the store lost its last changes")
            await self._until_heard(end)
            self._make(now)
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._heartbeat - PAUSE)):
                    await self._speak.wait()

    async def _until_heard(self, end: bytes) -> None:
        if end[:STORE_ID_BYTES] != self._heard[:STORE_ID_BYTES]:
            raise CursorExpiredError("the store is another one")
        while self._heard < end:
            if self._crowded():
                self._make(None)
            self._moved.clear()
            try:
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                raise StoreUnavailableError("the changes do not arrive") from None

    def _make(self, as_of: datetime | None) -> None:
        """Hand all that was heard to whoever listens; a heartbeat where that is nothing."""
        self._as_of = as_of or self._as_of
        self._speak.clear()
        entries, self._gathered = self._gathered, []
        self._room.set()
        parts = list(_parts(entries))
        for part in parts:
            complete = as_of if part is parts[-1] else None
            batch = self._batch(part, complete)
            self._recent[self._told] = batch
            self._recent_subjects += len(batch.subjects) // SUBJECT_BYTES
            self._hand_over(batch)
        while len(self._recent) > RECENT or self._recent_subjects > RECENT_SUBJECTS:
            _, oldest = self._recent.popitem(last=False)
            self._recent_subjects -= len(oldest.subjects) // SUBJECT_BYTES
        if not parts:
            self._hand_over(Batch(self._told, as_of, b"", (), self._generation))
        if self._as_of is not None:
            self._begun.set()

    def _batch(self, entries: Sequence[Entry], as_of: datetime | None) -> Batch:
        return Batch(
            entries[-1].cursor,
            as_of,
            b"".join([entry.subjects for entry in entries]),
            tuple(each for entry in entries for each in entry.revoked),
            self._generation,
        )

    def _hand_over(self, batch: Batch) -> None:
        turn, self._turn = self._turn, _Turn()
        turn.start, turn.batch = self._told, batch
        self._told, self._last = batch.cursor, batch
        turn.come.set()

    async def _page(self, cursor: bytes) -> list[Batch]:
        """Read what comes after a cursor, up to the live end; wait for a store that is away."""
        pause = SHORTEST_PAUSE
        while not self._closed:
            try:
                found = await self._changes.since(cursor, PAGE)
            except StoreUnavailableError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                # Past the live end it would never meet the others again.
                known = [entry for entry in found if entry.cursor <= self._told]
                return [self._batch(part, None) for part in _parts(known)]
        return []

    # --- the filter ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Build the filter, and build it anew when it is full or many may have left."""
        await self._begun.wait()
        pause = SHORTEST_PAUSE
        while True:
            self._rebuild.clear()
            try:
                await self._renew()
            except (TongxingError, OSError) as error:
                log.warning("feed.presence_not_built", why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = SHORTEST_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lasts.total_seconds()):
                    await self._rebuild.wait()

    async def _renew(self) -> None:
        # Not the store's end: what was heard is seen to be there still before anything follows it.
        beginnings, cursor = self._beginnings, self._heard
        made = await self._build()
        generation = await self._number(self._generation, self._clock(), self._lasts)
        # What came to the old one meanwhile; from here on, what arrives comes to the new one.
        while not _reaches(cursor, self._arrived):
            entries = await self._changes.since(cursor, PAGE)
            for entry in entries:
                await _stepwise(entry.subjects, made.add_all)
                cursor = entry.cursor
            if not entries:  # the store lost its last, as `_follow` is about to learn
                await asyncio.sleep(SHORTEST_PAUSE)
        if self._beginnings != beginnings:
            raise StoreUnavailableError("the store came back otherwise than it was")
        self._generation = generation
        self._filter = made
        self._rebuild.clear()
        self._built.set()


async def _number_alone(before: int, now: datetime, lasts: timedelta) -> int:
    """From the time, so that it also grows where the node starts anew."""
    del lasts
    return before + 1 if before else int(now.timestamp() * 1_000_000)


def _reaches(cursor: bytes, other: bytes) -> bool:
    return cursor[:STORE_ID_BYTES] == other[:STORE_ID_BYTES] and cursor >= other


async def _stepwise(subjects: bytes, add: Callable[[bytes], None]) -> None:
    """Add subjects in steps, between which others have their turn."""
    step = ADDED_AT_ONCE * SUBJECT_BYTES
    for at in range(0, len(subjects), step):
        add(subjects[at : at + step])
        if len(subjects) > step:
            await asyncio.sleep(0)


def _parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut where a batch would become too large."""
    start = size = 0
    for at, entry in enumerate(entries):
        size += len(entry.subjects)
        if at > start and size > LARGEST * SUBJECT_BYTES:
            yield entries[start:at]
            start, size = at, len(entry.subjects)
    if entries[start:]:
        yield entries[start:]
