"""What one process of a node hears of its peers, shown to those of it that answer calls.

Each peer's changes are heard once a node, and its presence filter is in memory once: the hearing
process writes, the others look. An index says where each peer's memory is, and a page there how it
stands with that peer. Filters, changes and revoked places are looked at where they lie, and so are
never older than the page, whose ``as_of`` is all that is claimed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

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
        self._listed: dict[str, Any] = {}

    async def run(self) -> None:
        """Show, for ever: at first beside another process that does, until no peer is missing."""
        end = asyncio.get_running_loop().time() + TAKE_OVER_SECONDS
        while not (self._alone() or self._hears_all() or asyncio.get_running_loop().time() > end):
            self._show()
            await asyncio.sleep(SHOW_SECONDS)
        self._show()
        self._list()
        self._shown()
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._show()
            if self._is_owner():
                self._list()

    def _alone(self) -> bool:
        """Whether nobody else shows anything now."""
        self._is_owner()
        return self._owner is None or not _lives(self._owner)

    def _is_owner(self) -> bool:
        if (said := self._index.read()) is not None:
            self._owner = said["pid"]
        return self._owner == os.getpid()

    def _hears_all(self) -> bool:
        return all(each.as_of is not None for each in self._syncs.all.values())

    def _show(self) -> None:
        """Bring each peer's page up to date."""
        for province, sync in self._syncs.all.items():
            page = _page(sync)
            if self._pages.get(province) != (sync, page):
                self._pages[province] = sync, page
                sync.memory.page.write(page)

    def _list(self) -> None:
        """Bring the index up to date."""
        peers = {province: sync.memory.memory.handle for province, sync in self._syncs.all.items()}
        listed = {"pid": os.getpid(), "peers": peers}
        if listed != self._listed:
            self._listed = listed
            self._index.write(listed)


class Shown:
    """What another process hears of all peers: the same to look at as a `Synchroniser`.

    :param index: where that process says where it is.
    """

    def __init__(self, index: Handle) -> None:
        self._index = _opened(index)
        self._peers: dict[str, ShownPeer] = {}
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
            self._follow({code: Handle(*where) for code, where in said["peers"].items()})
        for peer in self._peers.values():
            peer.look()

    def _follow(self, peers: Mapping[str, Handle]) -> None:
        for code in self._peers.keys() - peers.keys():
            del self._peers[code]
        for code, handle in peers.items():
            if code not in self._peers:
                self._peers[code] = ShownPeer(code)
            self._peers[code].open(handle)


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

    def open(self, handle: Handle) -> None:
        """Look at another piece of memory from now on, where it is another one."""
        if self._latest.memory.handle != handle:
            memory = Memory.of(handle)
            if memory is not None:
                self._latest = PeerMemory(memory)

    def look(self) -> None:
        """See how it stands now."""
        said = self._latest.page.read()
        if said is None:
            return
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
            memory = Memory.of(handle)
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


def _microseconds(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _opened(index: Handle, *, write: bool = False) -> Page:
    memory = Memory.of(index, write=write)
    if memory is None:
        raise RuntimeError("whoever started this process has gone")
    return Page(memory.view)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
