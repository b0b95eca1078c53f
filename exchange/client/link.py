"""A client's channel to a node, which outlives its certificates.

gRPC cannot reload a channel's certificates. So a link builds a new channel, waits until it is
ready, puts it in the old one's place, and lets the old one's calls finish: no call fails of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from exchange.client.address import ROUND_ROBIN, several
from exchange.client.pair import Pair

__all__ = ["Endpoint", "Link"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All that a channel rests on.

    :param target: where, as a gRPC target: one server, or several that are alike.
    :param name: the DNS name that each server must prove.
    :param authorities: PEM of the authorities that may vouch for it: two while they change.
    :param pair: the caller's own.
    """

    target: str
    name: str
    authorities: bytes
    pair: Pair


class Link:
    """A channel that can be moved to another endpoint.

    It is made, moved and closed within one event loop.

    :param options: of gRPC, beside the server's name.
    :param patience: seconds that a new channel has to become ready.
    :param grace: seconds that calls under way have once their channel was replaced.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        options: Sequence[tuple[str, Any]] = (),
        patience: float,
        grace: float,
    ) -> None:
        self._options = tuple(options)
        self._patience = patience
        self._grace = grace
        self._endpoint = endpoint
        self._channel = self._open(endpoint)
        self._goal = endpoint
        self._moving: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel for a call that begins now: to be asked for anew for each call."""
        return self._channel

    @property
    def ready(self) -> bool:
        """Whether a call can go out at once; where not, it begins to connect."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    @property
    def down(self) -> bool:
        """Whether nobody could be reached there when it was last tried."""
        try:
            return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        except grpc.aio.UsageError:  # it is closed
            return True

    @property
    def endpoint(self) -> Endpoint:
        """Where it stands, or is moving to."""
        return self._goal

    def move(self, endpoint: Endpoint) -> None:
        """Begin to move; calls go through the old channel until the new one is ready.

        A server that moved, or whose authorities changed, is left after ``patience`` whether the
        new channel is ready or not: who is no longer believed must not be called for ever. Where
        only the caller's own pair changed, the old channel stays in use until the server accepts
        the new one: it may be between two connections at any moment, and work again at the next.
        """
        if endpoint == self._goal:
            return
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        self._goal = endpoint
        if endpoint != self._endpoint:
            self._moving = self._start(self._move(endpoint))

    async def settle(self, seconds: float) -> None:
        """Wait, where the link moves and has no connection, until the old or the new one serves."""
        if self._moving is None or _is_ready(self._channel):
            return
        serves = self._start(self._channel.channel_ready())
        try:
            await asyncio.wait(
                [self._moving, serves], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            serves.cancel()

    async def close(self, grace: float | None = None) -> None:
        """Close all channels; calls under way have ``grace`` seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(grace)

    async def _move(self, endpoint: Endpoint) -> None:
        old, new = self._channel, self._open(endpoint)
        try:
            await self._until_ready(new, endpoint)
        except asyncio.CancelledError:
            await new.close()
            raise
        self._channel, self._endpoint, self._moving = new, endpoint, None
        self._start(self._retire(old))

    async def _until_ready(self, new: grpc.aio.Channel, endpoint: Endpoint) -> None:
        before = self._endpoint
        elsewhere = (before.target, before.name, before.authorities) != (
            endpoint.target,
            endpoint.name,
            endpoint.authorities,
        )
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await new.channel_ready()
                    return
            if elsewhere:
                return

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        try:
            await channel.close(self._grace)
        except asyncio.CancelledError:
            await channel.close()
            raise

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _open(self, endpoint: Endpoint) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            endpoint.target,
            grpc.ssl_channel_credentials(
                root_certificates=endpoint.authorities,
                private_key=endpoint.pair.key,
                certificate_chain=endpoint.pair.certificate,
            ),
            options=[
                ("grpc.ssl_target_name_override", endpoint.name),
                # A channel of its own connection, or a new one would share the old one's.
                ("grpc.use_local_subchannel_pool", 1),
                # One address needs it not, and without it is called at once when it is back.
                *((("grpc.service_config", ROUND_ROBIN),) if several(endpoint.target) else ()),
                *self._options,
            ],
        )


def _is_ready(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.READY
