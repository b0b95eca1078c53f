"""The store behind sentinels: a connection to whichever server they say is the primary."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from exchange.errors import StoreUnavailableError
from nodes.store.connection import Connection

if TYPE_CHECKING:
    from nodes.store.address import SentinelAddress, StoreAddress

__all__ = ["SentinelConnection"]

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 2.0
"""How often the sentinels are asked whether it still is: one that is cut off from them and from its
replicas would otherwise go on answering with what it last heard."""


class SentinelConnection(Connection):
    """Asks for the primary whenever it connects, and leaves one that is the primary no more."""

    _PRIMARY_ALONE: ClassVar[bool] = True

    def __init__(self, address: SentinelAddress, reply_seconds: float) -> None:
        super().__init__(address.primary, reply_seconds)
        self._sentinels = address.sentinels
        self._name = address.name
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def behind(cls, address: SentinelAddress, *, reply_seconds: float) -> SentinelConnection:
        """Connect to the primary.

        :raises StoreUnavailableError: no sentinel answers, none knows the name, or the primary
            does not answer or refuses the node.
        """
        connection = cls(address, reply_seconds)
        await connection.connect()
        connection._watching = asyncio.create_task(connection._watch())
        return connection

    async def close(self) -> None:
        """Close; calls that wait fail."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await super().close()

    async def _find(self) -> StoreAddress:
        """Ask all sentinels: one that is cut off from the others may know an old primary."""
        found = await asyncio.gather(*map(self._ask, self._sentinels), return_exceptions=True)
        named = Counter(each for each in found if isinstance(each, tuple))
        if named:
            ((host, port), _), *_ = named.most_common(1)
            return replace(self._address, host=host, port=port)
        raise next(each for each in found if isinstance(each, BaseException))

    async def _ask(self, address: StoreAddress) -> tuple[str, int]:
        sentinel = Connection(address, ASK_SECONDS)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await sentinel.connect()
                found = await sentinel.execute(
                    b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._name.encode()
                )
        except TimeoutError:
            raise StoreUnavailableError(
                f"the sentinel at {address} does not answer",
                remedy="start it, or correct store.url",
            ) from None
        finally:
            await sentinel.close()
        if found is None:
            raise StoreUnavailableError(
                f"the sentinel at {address} watches no primary of the name in store.url",
                remedy="correct the name",
            )
        host, port = found
        return host.decode(), int(port)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            try:
                found = await self._find()
            except StoreUnavailableError as error:
                log.warning("store.no_sentinel", error=str(error))
                continue
            if found != self._address:
                self.leave("is not the primary any more")
