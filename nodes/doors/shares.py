"""How many calls each caller may have under way, so that a crowd blocks nobody else.

What is beyond it is refused at once and cheaply: a node that takes all that comes works on calls
that nobody waits for any more, and answers none in time. Each caller has as many places as every
other, so that who floods takes its own alone. How many, follows how long calls take: the shortest
of some time, since where all of them take long they wait for each other (as in CoDel, RFC 8289),
and where some do they wait for another province, which others need not feel.
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
"""Calls that a caller may have at once where none waits."""
LEAST: Final = 32
"""The same, however long they wait."""
TARGET_SECONDS: Final = 0.02
MESSAGE: Final = "the node has as many calls of this caller under way as it takes at once"
REMEDY: Final = "wait until one of them has ended"

_LOOK_SECONDS: Final = 0.1


class Shares:
    """Counts the calls that are under way by caller; streams have limits of their own.

    A province's nodes are one caller, and so is each app and each issuer. Admins are never refused.

    :param target_seconds: what the shortest calls may take.
    :param clock: in seconds, from any time on.
    """

    def __init__(
        self,
        target_seconds: float = TARGET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.each = MOST
        """How many each caller may have now."""
        self.refused: Counter[str] = Counter()
        """Calls by their callers' roles, since the start."""
        self._target = target_seconds
        self._shortest = math.inf
        self._callers: dict[Hashable, _Caller] = {}

    def hold(self, caller: Identity) -> _Place:
        """Hold a place for as long as the context lasts.

        :raises OverloadedError: the caller has all that it may have.
        """
        who: Hashable = caller.province if caller.role is Role.NODE else caller
        holding = self._callers.get(who)
        if holding is None:
            holding = self._callers[who] = _Caller(who)
        if holding.places >= self.each and caller.role is not Role.ADMIN:
            self.refused[caller.role.value] += 1
            raise OverloadedError(MESSAGE, remedy=REMEDY)
        return _Place(self, holding)

    def give_back(self, caller: _Caller, took: float) -> None:
        """Count a call that ended after so many seconds; nothing is kept of who has none."""
        caller.places -= 1
        if not caller.places:
            self._callers.pop(caller.who, None)
        self._shortest = min(self._shortest, took)

    def adapt(self) -> None:
        """Take fewer calls at once if all took long since the last time, and else some more."""
        shortest, self._shortest = self._shortest, math.inf
        if shortest == math.inf:
            if self._callers:  # none of theirs has ended
                return
            shortest = 0.0
        part = max(0.5, self._target / shortest) if shortest > self._target else 1.0
        # Some more than calls need: whether they come is not known before.
        self.each = int(min(MOST, max(LEAST, self.each * part + math.sqrt(self.each))))

    async def watch(self, tell: Callable[[int], Awaitable[None]] | None = None) -> None:
        """Adapt for ever.

        :param tell: told how many places each caller has, whenever that changes.
        """
        told = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.adapt()
            if tell and self.each != told:
                told = self.each
                await tell(told)


class _Caller:
    """Who holds places, and how many."""

    __slots__ = ("places", "who")

    def __init__(self, who: Hashable) -> None:
        self.who = who
        self.places = 0


class _Place:
    """One of a caller's."""

    __slots__ = ("_began", "_caller", "_shares")

    def __init__(self, shares: Shares, caller: _Caller) -> None:
        self._shares = shares
        self._caller = caller

    def __enter__(self) -> None:
        self._began = self._shares.clock()
        self._caller.places += 1

    def __exit__(self, *error: object) -> None:
        self._shares.give_back(self._caller, self._shares.clock() - self._began)
