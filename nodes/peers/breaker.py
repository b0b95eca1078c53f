"""A circuit breaker (熔断): who fails again and again is left alone for a while.

*Closed*, calls go through. After some failures in a row it is *open*: none does, and whoever asks
knows at once. When its pause is over it is *half open*: one call goes through as a probe, and what
becomes of it closes the circuit or opens it for twice as long.

It reads no clock: it is told the time, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Of one peer.

    Whoever was admitted says afterwards what became of the call, with the turn that `admit` gave:
    what a call from before the circuit opened came to says nothing of the probe.

    :param failures: how many in a row open it.
    :param first: seconds of the first pause; each that follows without a success is twice as long.
    :param longest: seconds.
    :param draw: gives a number from 0 to 1. Nodes that lost one peer must not all probe it in one
        instant, so a pause is three quarters of its length at least, and the rest by lot.
    """

    __slots__ = ("_draw", "_failed", "_failures", "_first", "_longest", "_pause", "_turn", "_until")

    def __init__(
        self,
        *,
        failures: int = 5,
        first: float = 1.0,
        longest: float = 30.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._failures = failures
        self._first = first
        self._longest = longest
        self._draw = draw
        self._failed = 0
        self._pause = first
        self._turn = 0
        self._until: float | None = None
        """The end of the pause; None while closed, infinity while a probe is under way."""

    @property
    def open(self) -> bool:
        """Whether calls are kept from the peer, but for a probe now and then."""
        return self._until is not None

    def admit(self, now: float) -> int | None:
        """Give a call its turn; None: it must not be made."""
        if self._until is not None:
            if now < self._until:
                return None
            self._until = float("inf")
            self._turn += 1
        return self._turn

    def succeeded(self) -> None:
        """Close: the peer answered, whenever it was asked."""
        if self._until is not None:
            self._until = None
            self._turn += 1
        self._failed = 0
        self._pause = self._first

    def failed(self, turn: int, now: float) -> None:
        """Count a failure; the probe's opens the circuit again, and so does one too many."""
        if turn != self._turn:
            return
        self._failed += 1
        if self._until is None and self._failed < self._failures:
            return
        self._until = now + self._pause * (0.75 + 0.25 * self._draw())
        self._pause = min(self._pause * 2, self._longest)
        self._turn += 1

    def dropped(self, turn: int, now: float) -> None:
        """Take back a call that came to nothing by its caller's will: another may be the probe."""
        if turn == self._turn and self._until is not None:
            self._until = now
