"""The store as all use it: one server, one behind sentinels, or a cluster of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from nodes.store.address import ClusterAddress, SentinelAddress, parse
from nodes.store.cluster import ClusterConnection
from nodes.store.connection import Connection
from nodes.store.sentinel import SentinelConnection

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from nodes.store.connection import Command, Place

__all__ = ["Keyspace", "connect"]


class Keyspace(Protocol):
    """What takes commands on keys; `Connection` explains them."""

    @property
    def ordered(self) -> bool:
        """Whether what is sent later is carried out later, and lost before what was sent earlier.

        In a cluster that holds between keys of one server at best.
        """

    @property
    def servers(self) -> tuple[Connection, ...]:
        """The servers that hold the keys, for commands without one."""

    def execute(self, *command: bytes) -> asyncio.Future[Any]:
        """Send one command."""

    def pipeline(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """Send many; refusals stand among the replies."""

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send many, where all must be done."""

    async def trace(self, commands: Sequence[Command]) -> tuple[list[Any], list[Place]]:
        """Do `pipeline`, and tell where each command was carried out."""

    async def durable(
        self, commands: Sequence[Command], replicas: int, behind: Sequence[Place] = ()
    ) -> list[Any]:
        """Do `pipeline`, and wait until all of it is on disk.

        :param replicas: of each server, on whose disks, too.
        :param behind: where, for each command, one was carried out that must be on disk as well;
            where all is `ordered`, of any number of them.
        """

    def walk(self, pattern: bytes, step: bytes) -> AsyncIterator[Sequence[bytes]]:
        """Give all keys of a pattern, a step at a time."""

    async def close(self) -> None:
        """Disconnect; calls that wait fail."""


async def connect(url: str, *, reply_seconds: float = 2.0) -> Keyspace:
    """Connect to the store.

    :param url: `nodes.store.address.parse` has the forms.
    :param reply_seconds: that a reply may take.
    :raises InvalidFieldError: the URL (field ``store.url``).
    :raises StoreUnavailableError: no such server, or it refuses the node.
    """
    address = parse(url)
    if isinstance(address, ClusterAddress):
        return await ClusterConnection.open(address, reply_seconds=reply_seconds)
    if isinstance(address, SentinelAddress):
        return await SentinelConnection.behind(address, reply_seconds=reply_seconds)
    connection = Connection(address, reply_seconds)
    await connection.connect()
    return connection
