"""Hearing of every change of the other provinces, each by a task of its own (design.md §8).

A peer's whole state comes first: its presence filter, its revoked places, and the cursor from which
its changes continue. Then come the changes, for as long as the line holds. Of each message the
subjects are added to the filter and noted as changed, so that what the peer answered before counts
no more, and the revoked places are set, here and in the store; only then is the cursor moved, and
only then does this node claim to be as fresh as the message. After any fault the changes are
continued from the cursor, or from that of the filter where that is older: hearing a thing twice
does no harm.

*Fresh* is by this node's clock: since it received the last word that nothing is missing. The peer's
clock can only make that older: by how much longer the word was on its way than the fastest since
this node began to listen, so that nobody who holds the stream up makes old news pass for new. How
far the two clocks are apart does not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final, Protocol

import structlog

from exchange.errors import (
    CursorExpiredError,
    MalformedObjectError,
    TongxingError,
)
from exchange.presence import LEAST_BYTES, PresenceFilter
from exchange.statuslist import StatusReference
from exchange.trust.trustlist import TrustList
from exchange.v1 import peer_service_pb2 as pb
from nodes.peers.kept import PeerMemory, RevokedPlaces, TooManyListsError
from nodes.peers.memory import Memory
from nodes.peers.received import (
    PRESENCE_SECONDS,
    Header,
    Heard,
    SilentError,
    next_of,
    read_changes,
    read_filter,
    read_header,
    store_of,
)

__all__ = ["PeerSync", "Places", "Remote", "SyncState", "Synchroniser"]

log = structlog.get_logger(__name__)

HEARTBEATS: Final = 3
"""Missed in a row, they mean that the line is dead."""

SHORTEST_PATIENCE: Final = 1.0
"""Seconds: a busy machine may miss some in a row that come too fast."""

LEISURE_SECONDS: Final = 5.0
LEISURES: Final = 20
"""A new filter is fetched some seconds after it was announced, for all peers hear of it at once;
and no sooner than after twenty times what the last one took."""

LONGEST_LEISURE: Final = 600.0

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
HEALTHY_SECONDS: Final = 5.0
"""Who was heard from for as long is asked again at once when the line breaks."""

NOTHING_NEW_SECONDS: Final = 0.02
NOTHING_NEW: Final = 100
NOTHING_NEW_WITHIN: Final = 5.0
"""Messages that say nothing new delay the next ones; so many in so few seconds are a flood."""

LONGEST_TURN: Final = 1.0
LONGEST_ERROR: Final = 200

_always: Final = lambda _subject: True  # noqa: E731


class SyncState(Enum):
    """How a peer's changes are heard; the names are those of `tongxing.v1.PeerState`."""

    SYNCHRONISED = auto()
    RESYNCHRONISING = auto()
    SILENT = auto()


class Remote(Protocol):
    """The peer. What its methods give ends with any error where the peer or the line fails."""

    def watch(self, cursor: bytes) -> AsyncGenerator[pb.WatchChangesResponse]:
        """What changes after a cursor.

        :raises CursorExpiredError: it cannot be continued from there.
        """

    def presence(self) -> AsyncGenerator[pb.GetPresenceResponse]:
        """The whole state."""


class Places(Protocol):
    """The revoked places that the store knows (`nodes.store.statuses.StatusStore`)."""

    async def load(self, province: str) -> Mapping[int, bytes | bytearray]:
        """The bits of each list of a province in which anything is revoked."""

    async def mark(self, province: str, places: Iterable[tuple[int, int]]) -> None:
        """Set some of a peer's."""

    async def merge(
        self, province: str, revoked: Mapping[int, bytes], *, only: bool = False
    ) -> None:
        """Set those of a peer's whole state; forget, if ``only``, all lists but these."""


@dataclass(frozen=True, slots=True)
class _Presence:
    """A whole state, but for the revoked places."""

    header: Header
    filter: PresenceFilter = field(repr=False)
    memory: Memory = field(repr=False)


class PeerSync:
    """One peer's synchronisation.

    What is only read is kept in attributes: with 31 peers a lookup, a call costs.

    :param clock: this node's: gives aware datetimes in UTC.
    :param room: gives memory of so many bytes for what is known of the peer.
    :param leisure: seconds, about, from the announcement of a new filter until it is fetched.
    :param pause: seconds, about, until the peer is asked again after a first fault.
    """

    def __init__(
        self,
        province: str,
        remote: Remote,
        places: Places,
        clock: Callable[[], datetime],
        *,
        room: Callable[[int], Memory] = Memory.own,
        leisure: float = LEISURE_SECONDS,
        pause: float = FIRST_PAUSE,
    ) -> None:
        self.province = province
        self.as_of: datetime | None = None
        """Up to when nothing is missing, by this node's clock; None: that is not known."""
        self.perhaps: Callable[[bytes], bool] = _always
        """Whether the peer may hold anything of a fingerprint, 8 bytes; True also where that is not
        known. It is another one whenever the filter is."""
        self.state = SyncState.SILENT
        self.presence_time: datetime | None = None
        """When the filter was fetched whole; None: never yet."""
        self.generation = 0
        """Of the filter that was fetched last."""
        self.lag: timedelta | None = None
        """How long the last changes took to arrive, by the two clocks; None: it is not known."""
        self.resynchronisations = 0
        """How often the whole state was fetched to begin with."""
        self.faults = 0
        """How often anything went wrong."""
        self.last_error = ""

        self._remote = remote
        self._places = places
        self._clock = clock
        self._room = room
        self._first_pause = pause
        self._shortest_leisure = self._leisure = leisure

        self.memory = PeerMemory(room(PeerMemory.SIZE))
        """What is known of the peer, but for its filter."""
        self._presence: _Presence | None = None
        """What `perhaps` asks; nobody whom a message named is missing in it."""
        self._coming: _Presence | None = None
        """Takes the other's place once it has all that was heard since its cursor."""
        self._cursor = b""
        """All up to there is in the filter, noted as changed, and revoked in the store."""
        self._revoked = self.memory.revoked
        self._loaded = False
        self._recent = self.memory.recent

        self._whole = False
        """Whether the whole state must be fetched."""
        self._anew = False
        """Whether it was, and what was known before it counts until now."""
        self._overflowed = False
        """Whether lists were forgotten, of which the peer named too many."""
        self._doubted = False
        self._heartbeat = 5.0
        self._healthy_since: float | None = None
        self._renewal: asyncio.Task[_Presence] | None = None
        self._announced = 0
        """Of the newest filter that was fetched for, though what came may be another process's."""
        self._renewing = 0
        """Of that for which `_renewal` fetches."""

    @property
    def subjects(self) -> int:
        """Subjects of whom it holds anything, about."""
        return 0 if self._presence is None else self._presence.filter.count

    @property
    def filter(self) -> tuple[PresenceFilter, Memory] | None:
        """What `perhaps` asks, and where its bits lie."""
        found = self._presence
        return None if found is None else (found.filter, found.memory)

    def mark(self) -> bytes:
        """Give this moment among its changes: 16 bytes."""
        return self._recent.mark()

    def unchanged(self, subject: bytes, mark: bytes) -> bool:
        """Whether surely no change of a fingerprint was heard since; False where nobody listened.

        :param subject: 8 bytes.
        :param mark: what `mark` gave.
        """
        return self._recent.unchanged(subject, mark)

    def revoked(self, number: int, index: int) -> bool:
        """Whether a place of a status list is revoked, as far as this node knows."""
        return (number, index) in self._revoked

    async def run(self) -> None:
        """Synchronise, until it is cancelled. Whatever the peer and the store do is survived."""
        pause = self._first_pause
        while True:
            fault = await self._until_fault()
            if fault is None:
                continue
            self._note(fault)
            del fault  # and what its frames hold: half a filter, perhaps
            if self._was_healthy():
                pause = self._first_pause
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _until_fault(self) -> BaseException | None:
        """Hear the peer's changes until something ends that; None: go on at once."""
        self._healthy_since = None
        session = asyncio.get_running_loop().create_task(self._hear())
        try:
            await asyncio.wait({session})
        finally:
            await _end(session)
            await _end(self._renewal)
            self._renewal = None
        if session.cancelled():
            return SilentError("it broke off")
        return session.exception()

    def _was_healthy(self) -> bool:
        since = self._healthy_since
        return since is not None and asyncio.get_running_loop().time() - since > HEALTHY_SECONDS

    def _note(self, fault: BaseException) -> None:
        self.faults += 1
        self._whole = self._whole or isinstance(fault, (CursorExpiredError, TooManyListsError))
        self._doubted = self._doubted or isinstance(fault, SilentError)
        why = _in_one_line(fault)
        if self.state is not SyncState.SILENT or why != self.last_error:
            log.warning("sync.broken", province=self.province, why=why)
        self.state, self.last_error = SyncState.SILENT, why

    # --- from the cursor on ----------------------------------------------------------------------

    async def _hear(self) -> None:
        """Continue, and listen; ends in order where a new filter is to be brought up to date."""
        last = await self._begin()
        pace, delay = _Pace(), _Delay()
        async with contextlib.aclosing(self._remote.watch(last)) as messages:
            while (message := await next_of(messages, self._patience)) is not None:
                received = self._clock()
                pace.begin()
                heard = await read_changes(message)
                if store_of(heard.cursor) != store_of(last):
                    raise _another_store()
                if heard.cursor < last:
                    raise MalformedObjectError("its changes go back", field="cursor")
                await self._apply(heard)
                if heard.said_at is not None:
                    late = delay.of(heard.said_at, received)
                    if late.total_seconds() > self._patience:
                        # Held up; or a clock was set. What it says first when asked anew is new.
                        raise SilentError("its words come late")
                    self._claim(heard, heard.said_at, received, late)
                else:
                    self._fall_behind(received)
                if self._has_renewed(heard.generation):
                    return
                await pace.keep(new=heard.cursor != last)
                last = heard.cursor
        raise SilentError("it ended")

    async def _begin(self) -> bytes:
        """Give the cursor from which to continue; fetch the whole state where that is needed."""
        if not self._loaded:
            await self._load()
            self._loaded = True
        if self._whole or not self._at_hand():
            self._announced = 0
            self._take(await self._fetch())
            self.resynchronisations += 1
            self._whole, self._anew = False, True
        elif self._doubted:
            async with contextlib.aclosing(self._remote.presence()) as parts:
                self._heartbeat = (await read_header(parts)).heartbeat
        self._doubted = False
        at_hand = self._at_hand()
        if self._anew or store_of(at_hand) != store_of(self._cursor):
            self._anew = True
            self._recent.begin()
            lists = self._revoked.lists()
            await self._places.merge(self.province, lists, only=self._overflowed)
            self._anew, self._overflowed, self._cursor = False, False, at_hand
        self._cursor = min(self._cursor, at_hand)
        return self._cursor

    async def _load(self) -> None:
        for number, bits in (await self._places.load(self.province)).items():
            try:
                self._revoked.merge(number, bits)
            except TooManyListsError:  # the whole state says which of them count
                self._whole = True
                return
            await asyncio.sleep(0)

    def _at_hand(self) -> bytes:
        """Up to where everything is in the newest filter; nothing where there is none."""
        if self._coming is not None:
            return self._coming.header.cursor
        return b"" if self._presence is None else self._cursor

    async def _apply(self, heard: Heard) -> None:
        """Take in a message; the cursor comes last.

        Who asks meanwhile may already see a part of it: `as_of` is still that from before.
        """
        self._recent.next()
        for subjects, places in heard.steps():
            self._remember(subjects, places)
            if places:
                await self._places.mark(self.province, places)
            else:
                await asyncio.sleep(0)
        self._cursor = heard.cursor

    def _remember(self, subjects: bytes, places: Iterable[tuple[int, int]]) -> None:
        self._recent.note(subjects)
        for presence in (self._presence, self._coming):
            if presence is not None:
                presence.filter.add_all(subjects)
        for number, index in places:
            self._revoked.add(number, index)

    def _claim(self, heard: Heard, said_at: datetime, received: datetime, late: timedelta) -> None:
        """Be as fresh as a message after which nothing is missing."""
        if self._coming is not None:
            self._presence, self._coming = self._coming, None
            self.perhaps = self._presence.filter.__contains__
        if self._healthy_since is None:
            self._healthy_since = _time()
            log.info("sync.synchronised", province=self.province)
        # What was known before stands, unless it is this node's clock that was set back.
        known = received - late
        self.as_of = known if self.as_of is None else min(received, max(self.as_of, known))
        self.state = SyncState.SYNCHRONISED
        if heard.subjects:
            self.lag = received - said_at

    def _fall_behind(self, received: datetime) -> None:
        """See that nobody is taken to be in step who never says up to when nothing is missing."""
        late = timedelta(seconds=self._patience)
        if self.as_of is None or received - self.as_of > late:
            self.state = SyncState.RESYNCHRONISING

    @property
    def _patience(self) -> float:
        return max(SHORTEST_PATIENCE, HEARTBEATS * self._heartbeat)

    # --- the whole state -------------------------------------------------------------------------

    async def _fetch(self) -> _Presence:
        try:
            async with (
                asyncio.timeout(PRESENCE_SECONDS),
                contextlib.aclosing(self._remote.presence()) as parts,
            ):
                header = await read_header(parts)
                if self.state is SyncState.SILENT:
                    self.state = SyncState.RESYNCHRONISING
                memory = self._room(header.size or LEAST_BYTES)
                revoked = RevokedPlaces(Memory.own(RevokedPlaces.SIZE).view)
                made = await read_filter(header, parts, memory.view, revoked.merge, self._patience)
                if self._revoked.take(revoked):
                    self._anew = self._overflowed = True  # so that the store forgets them too
                return _Presence(header, made, memory)
        except TimeoutError:
            raise SilentError(f"its state took longer than {PRESENCE_SECONDS:g} s") from None

    def _take(self, fetched: _Presence) -> None:
        self._coming = fetched
        self._heartbeat = fetched.header.heartbeat
        self.generation = fetched.header.generation
        self._announced = max(self._announced, self.generation)
        self.presence_time = self._clock()

    def _has_renewed(self, announced: int) -> bool:
        """Whether a newer filter than that in use has been fetched; see to it where there is one.

        Meanwhile the one in use goes on taking what is heard: it misses nobody.
        """
        renewal = self._renewal
        if renewal is None:
            if announced > self._announced and self._coming is None:
                self._renewing = announced
                self._renewal = asyncio.get_running_loop().create_task(self._renew())
            return False
        if not renewal.done():
            return False
        self._renewal = None
        if (fault := renewal.exception()) is not None:
            self.faults += 1
            self.last_error = _in_one_line(fault)
            self._leisure = min(self._leisure * 2, LONGEST_LEISURE)
            log.warning("sync.not_renewed", province=self.province, why=self.last_error)
            return False
        self._take(renewal.result())
        self._announced = max(self._announced, self._renewing)
        return True

    async def _renew(self) -> _Presence:
        await asyncio.sleep(self._leisure * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
        began = _time()
        fetched = await self._fetch()
        took = _time() - began
        self._leisure = min(max(LEISURES * took, self._shortest_leisure), LONGEST_LEISURE)
        return fetched


class _Delay:
    """How much longer a peer's words are on their way than the fastest of them."""

    def __init__(self) -> None:
        self._least: timedelta | None = None

    def of(self, said_at: datetime, received: datetime) -> timedelta:
        """Learn of a word.

        :param said_at: when it was said, by the peer's clock.
        :param received: by this node's.
        """
        apart = received - said_at
        self._least = apart if self._least is None else min(self._least, apart)
        return apart - self._least


class _Pace:
    """Keeps one peer's messages from taking all of the node's time."""

    def __init__(self) -> None:
        self._began = self._since = _time()
        self._nothing_new = 0

    def begin(self) -> None:
        """Begin with a message."""
        self._began = _time()

    async def keep(self, *, new: bool) -> None:
        """Give others as long as the message took.

        :raises SilentError: there are far too many that say nothing new.
        """
        if new:
            await asyncio.sleep(min(_time() - self._began, LONGEST_TURN))
            return
        self._nothing_new += 1
        if self._nothing_new > NOTHING_NEW:
            if _time() - self._since < NOTHING_NEW_WITHIN:
                raise SilentError("it floods with what is not new")
            self._nothing_new, self._since = 0, _time()
        await asyncio.sleep(NOTHING_NEW_SECONDS)


class Synchroniser:
    """All peers' synchronisation.

    :param province: this node's own.
    :param remote: gives the peer of a province.
    :param clock: this node's: gives aware datetimes in UTC.
    :param room: gives memory of so many bytes for what is known of a peer.
    """

    def __init__(
        self,
        province: str,
        remote: Callable[[str], Remote],
        places: Places,
        clock: Callable[[], datetime],
        room: Callable[[int], Memory] = Memory.own,
    ) -> None:
        self._province = province
        self._remote = remote
        self._places = places
        self._clock = clock
        self._room = room
        self._syncs: dict[str, PeerSync] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self, trust: TrustList) -> None:
        """Begin with who is new in the trust list, and end with who has left."""
        wanted = {
            code
            for code, profile in trust.profiles.items()
            if code != self._province and profile.addresses
        }
        for code in self._syncs.keys() - wanted:
            del self._syncs[code]
            task = self._tasks.pop(code)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for code in sorted(wanted - self._syncs.keys()):
            sync = PeerSync(code, self._remote(code), self._places, self._clock, room=self._room)
            self._syncs[code] = sync
            self._tasks[code] = asyncio.get_running_loop().create_task(sync.run())

    async def run(self) -> None:
        """Nothing: each has a task of its own."""

    @property
    def all(self) -> Mapping[str, PeerSync]:
        """All of them, by province."""
        return self._syncs

    def get(self, province: str) -> PeerSync | None:
        """One peer's; None where there is none."""
        return self._syncs.get(province)

    def revoked(self, place: StatusReference) -> bool:
        """Whether an attestation of another province is revoked, as far as this node knows."""
        sync = self._syncs.get(place.province)
        return sync is not None and sync.revoked(place.list, place.index)

    async def close(self) -> None:
        """End with all."""
        tasks = [*self._tasks.values(), *self._ending]
        self._syncs.clear()
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _time() -> float:
    return asyncio.get_running_loop().time()


def _another_store() -> CursorExpiredError:
    return CursorExpiredError("the changes are those of another store")


def _in_one_line(fault: BaseException) -> str:
    """What went wrong, for a log. Of an unforeseen error only its kind: it may hold anything."""
    if isinstance(fault, (TongxingError, SilentError)):
        text = str(fault)
    else:
        frames = traceback.extract_tb(fault.__traceback__)
        where = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
        text = type(fault).__name__ + where
    return "".join(each if each.isprintable() else " " for each in text)[:LONGEST_ERROR]


async def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # asked for, or the loop would complain that nobody did
