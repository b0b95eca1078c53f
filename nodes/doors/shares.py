"""How many calls each caller may have under way, so that a crowd blocks nobody else.

What is beyond it is refused at once and cheaply: a node that takes all that comes works on calls
that nobody waits for any more, and answers none in time. Each caller has as many places as every
other, so that who floods takes its own alone; how many, follows how long calls wait for their turn.
That is measured in the event loop and not by how long calls take: where another province answers
slowly they take long too, and there is room for more of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from exchange.errors import OverloadedError
from nodes.identity import Identity, Role

__all__ = ["LEAST", "MESSAGE", "MOST", "REMEDY", "TARGET_SECONDS", "Shares"]

MOST: Final = 256
"""Calls that a caller may have at once where nothing waits."""
LEAST: Final = 4
"""The same, however long calls wait."""
TARGET_SECONDS: Final = 0.02
MESSAGE: Final = "the node has as many calls of this caller under way as it takes at once"
REMEDY: Final = "wait until one of them has ended"

_LOOK_SECONDS: Final = 0.05
_TURNS: Final = 4
"""Of the event loop: as many as a call takes that waits for nobody else."""


class Shares:
    """Counts the calls that are under way by caller; streams have limits of their own.

    A province's nodes are one caller, and so is each app and each issuer. Admins are never refused.

    :param target_seconds: what a call may take that waits for nobody else.
    """

    def __init__(self, target_seconds: float = TARGET_SECONDS) -> None:
        self.each = MOST
        """How many each caller may have now."""
        self.refused: Counter[Role] = Counter()
        """Calls, since the start."""
        self._target = target_seconds
        self._held: dict[Hashable, _Places] = {}

    def hold(self, caller: Identity) -> _Places:
        """Hold a place for as long as the context lasts.

        :raises OverloadedError: the caller has all that it may have.
        """
        who: Hashable = caller.province if caller.role is Role.NODE else caller
        places = self._held.get(who)
        if places is None:
            places = self._held[who] = _Places(self._held, who)
        if places.taken >= self.each and caller.role is not Role.ADMIN:
            self.refused[caller.role] += 1
            raise OverloadedError(MESSAGE, remedy=REMEDY)
        return places

    def follow(self, took: float) -> None:
        """Adapt how many places there are, a little more at once than calls need.

        :param took: seconds that a call takes now that waits for nobody else.
        """
        part = min(1.0, max(0.5, self._target / max(took, 1e-6)))
        self.each = int(min(MOST, max(LEAST, self.each * part + math.sqrt(self.each))))

    async def watch(self, tell: Callable[[int], Awaitable[None]] | None = None) -> None:
        """Adapt for ever.

        :param tell: told how many places each has, whenever that changes.
        """
        told = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            began = time.monotonic()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self.follow(time.monotonic() - began)
            if tell and self.each != told:
                told = self.each
                await tell(told)


class _Places:
    """Those that a caller has taken; nothing is kept of who has none."""

    __slots__ = ("_all", "_who", "taken")

    def __init__(self, all_: dict[Hashable, _Places], who: Hashable) -> None:
        self._all = all_
        self._who = who
        self.taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *error: object) -> None:
        self.taken -= 1
        if not self.taken:
            self._all.pop(self._who, None)
