"""A steady stream of publications, as issuers bring them, and what was acknowledged of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from uuid import UUID

from waiting import heard, until

from exchange.errors import StoreUnavailableError

CALLERS = 8


class Stream:
    """Publishes invented people's tests until it is left; each caller waits for its answers.

    :param people: the fixture.
    :param issuer: a client.
    """

    def __init__(self, people, issuer):
        self._people = people
        self._issuer = issuer
        self._running = True
        self.acknowledged = {}
        """The messages, by id."""
        self.errors = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._publish()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_):
        self._running = False
        done, late = await asyncio.wait(self._tasks, timeout=30)
        for task in late:
            task.cancel()
        for task in done:
            task.result()
        assert not late

    async def _publish(self):
        while self._running:
            message = self._people.tested()
            try:
                await self._issuer.publish(message)
            except StoreUnavailableError as error:
                self.errors.append(error)
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[message.attestation_id] = message

    async def some_more(self, count=40):
        """Wait until so many more were acknowledged."""
        enough = len(self.acknowledged) + count
        await until(f"{count} more are published", lambda: len(self.acknowledged) >= enough)

    def check_errors(self):
        """Every refusal was the store's, said what to do, and may be tried again."""
        for error in self.errors:
            assert error.reason == "STORE_UNAVAILABLE", error
            assert error.retry_after
            assert error.remedy, error

    async def check_each(self):
        """Read every acknowledged attestation by its id; the reader verifies it."""
        limit = asyncio.Semaphore(32)

        async def read(id_):
            async with limit:
                return await comes_back(functools.partial(self._issuer.get, UUID(id_)))

        found = await asyncio.gather(*map(read, self.acknowledged), return_exceptions=True)
        lost = [each for each in found if isinstance(each, BaseException)]
        assert not lost, f"{len(lost)} of {len(found)}: {lost[0]!r}"

    async def goes_on(self, app):
        """What is published from now on is recognised in the app's province."""
        last = self._people.tested()
        await comes_back(functools.partial(self._issuer.publish, last))
        await heard(app, last.document)


async def comes_back(call):
    """Try again until the store does not refuse; what it gave."""

    async def tried():
        with contextlib.suppress(StoreUnavailableError):
            return (await call(),)
        return ()

    (given,) = await until("the store is back", tried)
    return given
