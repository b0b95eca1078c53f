"""How this node stands with each of the other provinces, as its operators see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from exchange.errors import TongxingError
from exchange.trust.trustlist import TrustList

__all__ = ["Calls", "PeerView", "PeerViews", "Synchronisation"]


class Calls(Protocol):
    """What is known of the calls to a peer (`nodes.peers.links.Peer`)."""

    @property
    def calls(self) -> int:
        """Calls since the node started."""

    @property
    def errors(self) -> int:
        """Of these, how many failed."""

    @property
    def circuit_open(self) -> bool:
        """Whether the breaker keeps calls from it."""

    @property
    def last_error(self) -> str:
        """Of a call, in English, or ""."""


class Synchronisation(Protocol):
    """What is known of the synchronisation with a peer (`nodes.peers.sync.PeerSync`)."""

    @property
    def state(self) -> Enum:
        """Of these names: SYNCHRONISED, RESYNCHRONISING, SILENT."""

    @property
    def as_of(self) -> datetime | None:
        """Since when nothing is known to be missing; None: never yet."""

    @property
    def presence_time(self) -> datetime | None:
        """When its filter was fetched whole; None: never yet."""

    @property
    def subjects(self) -> int:
        """Subjects of whom it holds anything, about."""

    @property
    def generation(self) -> int:
        """Of its filter."""

    @property
    def lag(self) -> timedelta | None:
        """How long its last changes took to arrive; None: there were none."""

    @property
    def resynchronisations(self) -> int:
        """How often its whole state was fetched."""

    @property
    def last_error(self) -> str:
        """The last fault, in English, or ""."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One other province.

    :param state: SYNCHRONISED, RESYNCHRONISING or SILENT.
    :param as_of: since when nothing is known to be missing; None: never yet.
    :param presence_time: when its filter was fetched whole; None: never yet.
    :param lag: how long its last changes took to arrive; None: there were none.
    """

    province: str
    addresses: tuple[str, ...] = ()
    state: str = "SILENT"
    as_of: datetime | None = None
    presence_time: datetime | None = None
    subjects: int = 0
    generation: int = 0
    lag: timedelta | None = None
    circuit_open: bool = False
    calls: int = 0
    errors: int = 0
    resynchronisations: int = 0
    last_error: str = ""

    @property
    def up(self) -> bool:
        """Whether it is heard: a stream of its changes is always open, also where nobody asks."""
        return self.state != "SILENT"


class PeerViews:
    """Gives the other provinces of the trust list, by code, as they are at each look.

    It may be asked from any thread.

    :param province: this node's own.
    :param trust: the list to go by; may raise where there is none.
    :param links: a peer's calls by its province, None where it is not called.
    :param syncs: a peer's synchronisation by its province, None where there is none.
    """

    def __init__(
        self,
        province: str,
        trust: Callable[[], TrustList],
        links: Callable[[str], Calls | None],
        syncs: Callable[[str], Synchronisation | None],
    ) -> None:
        self._province = province
        self._trust = trust
        self._links = links
        self._syncs = syncs

    def __call__(self) -> list[PeerView]:
        """All of them; none where the trust list is unusable."""
        try:
            trust = self._trust()
        except TongxingError:
            return []
        codes = {*trust.profiles, *trust.unusable} - {self._province}
        return [self._view(code, trust) for code in sorted(codes)]

    def _view(self, code: str, trust: TrustList) -> PeerView:
        profile = trust.profiles.get(code)
        link, sync = self._links(code), self._syncs(code)
        return PeerView(
            province=code,
            addresses=tuple(profile.addresses) if profile else (),
            state=sync.state.name if sync else "SILENT",
            as_of=sync.as_of if sync else None,
            presence_time=sync.presence_time if sync else None,
            subjects=sync.subjects if sync else 0,
            generation=sync.generation if sync else 0,
            lag=sync.lag if sync else None,
            circuit_open=link.circuit_open if link else False,
            calls=link.calls if link else 0,
            errors=link.errors if link else 0,
            resynchronisations=sync.resynchronisations if sync else 0,
            last_error=trust.unusable.get(code)
            or (sync.last_error if sync else "")
            or (link.last_error if link else ""),
        )
