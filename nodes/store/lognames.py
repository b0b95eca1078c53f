"""Whose access logs there are: each node on the store says that it keeps one.

So whoever asks the nodes of a province for what they recorded knows whether all have answered.

``n``
    a hash: by the name of a node's logs (16 hexadecimal digits), when the node was last there
    (seconds since 1970).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from exchange.errors import StoreUnavailableError
from nodes.store.keyspace import Keyspace

__all__ = ["LogNames"]

log = structlog.get_logger(__name__)

_KEY: Final = b"n"
_SAY_SECONDS: Final = 600.0
"""How often a node says it again: a store that was lost may have begun anew."""
_RETRY_SECONDS: Final = 2.0


class LogNames:
    """The names of the logs of all nodes on a store.

    :param own: this node's.
    :param clock: gives aware datetimes in UTC.
    :param kept: for how long an access is kept: a node that was not there for longer has none left.
    """

    def __init__(
        self, store: Keyspace, own: str, clock: Callable[[], datetime], kept: timedelta
    ) -> None:
        self._store = store
        self._own = own
        self._clock = clock
        self._kept = kept

    async def run(self) -> None:
        """Say for ever that this node keeps a log."""
        while True:
            now = b"%d" % self._clock().timestamp()
            try:
                await self._store.execute(b"HSET", _KEY, self._own.encode(), now)
            except StoreUnavailableError as error:
                log.info("audit.name_not_said", why=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_SAY_SECONDS)

    async def others(self) -> set[str]:
        """The names of the other nodes' logs in which there may be accesses.

        :raises StoreUnavailableError: no answer.
        """
        reply = await self._store.execute(b"HGETALL", _KEY)
        pairs = zip(reply[::2], reply[1::2], strict=True)
        oldest = (self._clock() - self._kept).timestamp()
        return {name.decode() for name, last in pairs if int(last) >= oldest} - {self._own}
