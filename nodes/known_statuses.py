"""What this node knows of status lists (状态列表): its own province's, and its peers' as heard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from exchange.statuslist import Status, StatusReference

__all__ = ["KnownStatuses"]


class _Peer(Protocol):
    @property
    def as_of(self) -> object | None:
        """Up to when it was heard; None: never."""

    def revoked(self, number: int, index: int) -> bool:
        """Whether a place of one of its lists is revoked, as far as this node knows."""


class KnownStatuses:
    """Says of places in status lists what the node knows, whoever's they are.

    :param province: the node's own.
    :param own: whether each of some places (list, index) of its own lists is revoked.
    :param peer: what is heard of another province; None where nothing is.
    """

    def __init__(
        self,
        province: str,
        own: Callable[[Sequence[tuple[int, int]]], Awaitable[Sequence[bool]]],
        peer: Callable[[str], _Peer | None],
    ) -> None:
        self._province = province
        self._own = own
        self._peer = peer

    async def of(self, places: Iterable[StatusReference]) -> Callable[[StatusReference], Status]:
        """Look some places up; what is given back says STALE of any other of the own province.

        :raises StoreUnavailableError: the node's own store does not answer.
        """
        own = [(each.list, each.index) for each in places if each.province == self._province]
        revoked = dict(zip(own, await self._own(own), strict=True)) if own else {}

        def status(place: StatusReference) -> Status:
            if place.province == self._province:
                known = revoked.get((place.list, place.index))
                if known is None:
                    return Status.STALE
                return Status.REVOKED if known else Status.VALID
            peer = self._peer(place.province)
            if peer is None:
                return Status.STALE
            # What was heard before stays revoked, also while nothing more is heard.
            if peer.revoked(place.list, place.index):
                return Status.REVOKED
            return Status.STALE if peer.as_of is None else Status.VALID

        return status
