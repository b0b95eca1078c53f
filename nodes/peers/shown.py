"""What one process of a node hears of its peers, shown to those of it that answer calls.

Each peer's changes are heard once a node, and its presence filter is in memory once: the hearing
process writes, the others look. An index says where each peer's memory is, and a page there how it
stands with that peer. Filters, changes and revoked places are looked at where they lie, and so are
never older than the page, whose ``as_of`` is all that is claimed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from exchange.errors import InvalidFieldError
from exchange.presence import PresenceFilter
from exchange.statuslist import StatusReference
from exchange.trust.trustlist import TrustList
from nodes.peers.kept import PeerMemory
from nodes.peers.memory import Handle, Memory, Page
from nodes.peers.sync import PeerSync, Synchroniser, SyncState

__all__ = ["Showing", "Shown", "ShownPeer"]

log = structlog.get_logger(__name__)

SHOW_SECONDS: Final = 0.01
LOOK_SECONDS: Final = 0.02
BEAT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0
"""Without a beat, nobody hears."""
NOBODY_HEARS: Final = "the process that hears the provinces has ended, or hangs"
FORM: Final = 1
"""Of all that lies in shared memory; another version's is not looked at."""
TAKE_OVER_SECONDS: Final = 60.0
"""How long another process is left to show what it heard, while some peers cannot be reached."""


class Showing:
    """Shows what a `Synchroniser` hears, whose memory must be `Memory.shared`.

    :param index: where the others look for it.
    :param shown: called once this process is the one that shows.
    """

    def __init__(self, index: Handle, syncs: Synchroniser, shown: Callable[[], None]) -> None:
        self._index = _opened(index, write=True)
        self._syncs = syncs
        self._shown = shown
        self._owner: int | None = None
        self._pages: dict[str, tuple[PeerSync, dict[str, Any]]] = {}
        self._listed: object = None
        self._beat = 0.0

    async def run(self) -> None:
        """Show, for ever: at first beside another process that does, until no peer is missing."""
        end = time.monotonic() + TAKE_OVER_SECONDS
        while not (self._may_list() or self._hears_all() or time.monotonic() > end):
            self._show()
            await asyncio.sleep(SHOW_SECONDS)
        self._show()
        self._list()
        self._shown()
        log.info("hearing.shown", provinces=len(self._syncs.all))
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._show()
            if self._may_list():
                self._list()

    def _may_list(self) -> bool:
        """Whether nobody else shows anything now."""
        if (said := self._index.read()) is not None:
            self._owner = said["pid"]
        return self._owner in (None, os.getpid()) or not _lives(self._owner)

    def _hears_all(self) -> bool:
        return all(each.as_of is not None for each in self._syncs.all.values())

    def _show(self) -> None:
        """Bring each peer's page up to date."""
        for gone in self._pages.keys() - self._syncs.all.keys():
            del self._pages[gone]
        for province, sync in self._syncs.all.items():
            page = _page(sync)
            if self._pages.get(province) != (sync, page):
                self._pages[province] = sync, page
                sync.memory.page.write(page)

    def _list(self) -> None:
        """Bring the index up to date; at least so often that everybody sees that this one lives."""
        peers = {province: sync.memory.memory.handle for province, sync in self._syncs.all.items()}
        now = time.monotonic()  # the same for all processes
        if (peers, self._owner) != self._listed or now > self._beat + BEAT_SECONDS:
            self._beat, self._owner = now, os.getpid()
            self._listed = peers, self._owner
            self._index.write({"form": FORM, "pid": self._owner, "beat": now, "peers": peers})


class Shown:
    """What another process hears of all peers: the same to look at as a `Synchroniser`.

    :param index: where that process says where it is.
    """

    def __init__(self, index: Handle) -> None:
        self._index = _opened(index)
        self._peers: dict[str, ShownPeer] = {}
        self._handles: dict[str, Handle] = {}
        self._beat = 0.0
        self._look()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()

    def follow(self, trust: TrustList) -> None:
        """Nothing: the process that hears follows the trust list."""

    def get(self, province: str) -> ShownPeer | None:
        """One peer's; None where there is none."""
        return self._peers.get(province)

    def revoked(self, place: StatusReference) -> bool:
        """Whether an attestation of another province is revoked, as far as this node knows."""
        peer = self._peers.get(place.province)
        return peer is not None and peer.revoked(place.list, place.index)

    async def close(self) -> None:
        """Nothing: what is in memory goes with the process."""

    def _look(self) -> None:
        if (said := self._index.read()) is not None:
            same = said["form"] == FORM  # else it is another version's, and about to end
            self._beat = said["beat"]
            self._handles = {c: Handle(*at) for c, at in said["peers"].items()} if same else {}
            for code in self._peers.keys() - self._handles.keys():
                del self._peers[code]
        heard = time.monotonic() < self._beat + SILENT_SECONDS
        for code, handle in self._handles.items():
            if code not in self._peers:
                self._peers[code] = ShownPeer(code)
            self._peers[code].look(handle, heard=heard)


class ShownPeer:
    """One peer: the same to look at as a `PeerSync`.

    Where another process begins to hear it, what the one before it heard stands until that has
    heard as much.
    """

    def __init__(self, province: str) -> None:
        self.province = province
        self.as_of: datetime | None = None
        self.perhaps: Callable[[bytes], bool] = _always
        self.state = SyncState.SILENT
        self.presence_time: datetime | None = None
        self.generation = 0
        self.lag: timedelta | None = None
        self.resynchronisations = 0
        self.last_error = ""
        self.subjects = 0
        self._memory = PeerMemory(Memory.own(PeerMemory.SIZE))
        self._latest = self._memory
        self._filter: Handle | None = None
        self._said: dict[str, Any] | None = None
        self._heard = True

    def look(self, handle: Handle, *, heard: bool) -> None:
        """See how it stands now.

        :param handle: where.
        :param heard: whether anybody hears it: else what was heard stands, and no more is known.
        """
        if self._latest.memory.handle != handle and (memory := Memory.found(handle)):
            self._latest = PeerMemory(memory)
        said = self._latest.page.read()
        if said is None and heard is self._heard:
            return
        self._said, self._heard = said or self._said, heard
        if self._said is not None:
            self._take(self._said)
        if not heard:
            self.state, self.last_error = SyncState.SILENT, NOBODY_HEARS

    def _take(self, said: Mapping[str, Any]) -> None:
        self.state = SyncState[said["state"]]
        self.presence_time = _time(said["presence_time"])
        self.generation = said["generation"]
        self.lag = None if said["lag"] is None else timedelta(microseconds=said["lag"])
        self.resynchronisations = said["resynchronisations"]
        self.last_error = said["last_error"]
        self.subjects = said["subjects"]
        as_of = _time(said["as_of"])
        if as_of is not None and self._has(said):
            self._memory, self.as_of = self._latest, as_of

    def mark(self) -> bytes:
        """Give this moment among its changes: 16 bytes."""
        return self._memory.recent.mark()

    def unchanged(self, subject: bytes, mark: bytes) -> bool:
        """Whether surely no change of a fingerprint was heard since; False where nobody listened.

        :param subject: 8 bytes.
        :param mark: what `mark` gave.
        """
        return self._memory.recent.unchanged(subject, mark)

    def revoked(self, number: int, index: int) -> bool:
        """Whether a place of a status list is revoked, as far as this node knows."""
        place = (number, index)
        return place in self._latest.revoked or place in self._memory.revoked

    def _has(self, said: Mapping[str, Any]) -> bool:
        """Whether the filter is at hand that a page names."""
        handle = Handle(*said["filter"])
        if handle != self._filter:
            memory = Memory.found(handle)
            if memory is None:  # there is another one by now, and the next page names it
                return False
            self._filter = handle
            made = PresenceFilter.from_bits(memory.view, said["hashes"])
            self.perhaps = made.__contains__
        return True


def _page(sync: PeerSync) -> dict[str, Any]:
    found = sync.filter
    filter_, memory = (None, None) if found is None else found
    return {
        "state": sync.state.name,
        "as_of": _microseconds(sync.as_of),
        "presence_time": _microseconds(sync.presence_time),
        "generation": sync.generation,
        "lag": None if sync.lag is None else sync.lag // timedelta(microseconds=1),
        "resynchronisations": sync.resynchronisations,
        "last_error": sync.last_error,
        "subjects": sync.subjects,
        "filter": None if memory is None else memory.handle,
        "hashes": 0 if filter_ is None else filter_.hashes,
    }


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_always: Final = lambda _subject: True  # noqa: E731


def _microseconds(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _opened(index: Handle, *, write: bool = False) -> Page:
    try:
        return Page(Memory.of(index, write=write).view)
    except OSError as error:
        raise InvalidFieldError(
            f"what the node's processes share cannot be opened: {error.strerror}",
            field="workers",
            remedy="let them open each other's /proc/PID/fd (Python must have no file"
            " capabilities), or leave it out",
        ) from None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
