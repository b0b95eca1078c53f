"""Rotation by a schedule (定期轮换): what an admin would do by hand, each step in its time.

It remembers nothing: what is due follows from the keys in the trust list, so that it goes on after
a restart where it was, and beside an admin who takes a step by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from exchange.errors import KeyStepError, TongxingError
from exchange.keys import Algorithm
from exchange.trust import roles
from exchange.trust.profile import AttestationKey, KeyState
from nodes.keysteps import KeySteps

__all__ = ["Rotation", "Schedule"]

log = structlog.get_logger(__name__)

_BY = "schedule"
_RENEW_BEFORE = roles.PROVINCE_LIFETIME / 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the province's keys change.

    :param rotate: how long a key signs; None where an admin rotates by hand.
    :param published: how long the next one is PREPARED before it signs.
    :param algorithm: of new keys.
    :param retire_every: how often to look whether a key can leave the list: that counts the
        whole store.
    """

    rotate: timedelta | None
    published: timedelta
    algorithm: Algorithm = Algorithm.ES256
    retire_every: timedelta = timedelta(days=1)


class Rotation:
    """Prepares, activates and retires keys when it is time, and keeps the profile from expiring.

    On one node of a province only: what another one prepared, this one cannot sign with.

    :param pause: seconds between two looks.
    """

    def __init__(
        self,
        steps: KeySteps,
        schedule: Schedule,
        clock: Callable[[], datetime],
        *,
        pause: float = 10.0,
    ) -> None:
        self._steps = steps
        self._schedule = schedule
        self._clock = clock
        self._pause = pause
        self._retired: datetime | None = None
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._pause)

    async def look(self) -> None:
        """Take every step that is due; one that fails is tried again at the next look."""
        await self._survive("renew", self._renew)
        rotate = self._schedule.rotate
        if rotate is not None:
            await self._survive("prepare", lambda: self._prepare(rotate))
            await self._survive("activate", lambda: self._activate(rotate))
            await self._survive("retire", self._retire)

    async def _survive(self, step: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TongxingError as error:
            if self._said.get(step) != str(error):  # once, not at every look
                log.warning("rotation.postponed", step=step, why=str(error))
            self._said[step] = str(error)
        except Exception:
            # Whatever it is: a schedule that ended would let the profile expire unseen.
            log.exception("rotation.failed", step=step)
        else:
            self._said.pop(step, None)

    async def _renew(self) -> None:
        if self._steps.expires() - self._clock() < _RENEW_BEFORE:
            await self._steps.renew(by=_BY)

    async def _prepare(self, rotate: timedelta) -> None:
        ends = self._ends(rotate)
        ready = any(self._steps.holds(key) for key in self._in(KeyState.PREPARED))
        if not ready and ends - self._schedule.published <= self._clock():
            await self._steps.prepare(self._schedule.algorithm, by=_BY)

    async def _activate(self, rotate: timedelta) -> None:
        now = self._clock()
        for key in self._in(KeyState.PREPARED):
            due = max(self._ends(rotate), key.since + self._schedule.published)
            if self._steps.holds(key) and due <= now:
                await self._steps.activate(key.public.kid.hex(), by=_BY)
                return

    async def _retire(self) -> None:
        now = self._clock()
        if self._retired is not None and now < self._retired + self._schedule.retire_every:
            return
        kids = [
            key.public.kid.hex()
            for state in (KeyState.OLD, KeyState.REVOKED)
            for key in self._in(state)
            if key.since <= now
        ]
        for kid in kids:
            try:
                await self._steps.retire(kid, by=_BY)
            except KeyStepError as error:
                log.debug("rotation.kept", kid=kid, why=str(error))
        self._retired = now

    def _ends(self, rotate: timedelta) -> datetime:
        """When the key that signs has signed for long enough; now, where none signs."""
        return max((key.since + rotate for key in self._in(KeyState.ACTIVE)), default=self._clock())

    def _in(self, state: KeyState) -> list[AttestationKey]:
        return [key for key in self._steps.profile().keys if key.state is state]
