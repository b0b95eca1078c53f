"""Hearing of new trust metadata: from the registry, and while it is down from any peer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio
import structlog

from exchange import views
from exchange.errors import TongxingError, TrustListError
from exchange.trust.trustlist import TrustList
from exchange.v1 import trust_service_pb2 as pb
from nodes.peers.links import PeerLinks
from nodes.peers.registry import Registry
from nodes.trust import TrustKeeper

__all__ = ["TrustFollower", "fetch_trust"]

log = structlog.get_logger(__name__)

_WATCH = "/tongxing.v1.TrustService/WatchTrust"
_PEER_SECONDS = 10.0
"""How long to stay with a peer before the registry is tried again."""
_PAUSE_SECONDS = 0.5
_NOTHING_NEW_SECONDS = 0.1
"""How long a message that brought nothing new delays the next: nobody keeps a node busy."""
_NOTHING_NEW = 10
"""So many of these in so many seconds are a flood: what is new would wait behind it."""


class _SilentError(TrustListError):
    """Heartbeats are missing, or there are far too many."""


class TrustFollower:
    """Keeps a `TrustKeeper` at the newest list that anybody has; what comes is verified there."""

    def __init__(self, keeper: TrustKeeper, registry: Registry, peers: PeerLinks) -> None:
        self._keeper = keeper
        self._registry = registry
        self._peers = peers
        self._heard = ""

    async def run(self) -> None:
        """Follow, for ever."""
        while True:
            await self._turn(
                "registry", self._registry.channel, self._registry.config.stale_seconds
            )
            peers = self._peers.channels()
            if peers:
                province, channel = random.choice(peers)  # noqa: S311 - spreads the load
                seconds = min(_PEER_SECONDS, self._registry.config.stale_seconds)
                await self._turn(province, lambda: _kept(channel), seconds)  # noqa: B023
            await asyncio.sleep(_PAUSE_SECONDS * (0.5 + random.random()))  # noqa: S311 - jitter

    async def _turn(
        self,
        source: str,
        channel: Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]],
        seconds: float,
    ) -> None:
        """Follow one source until it ends, or brings nothing new for some seconds.

        Whatever happens is survived.
        """
        try:
            async with asyncio.timeout(seconds) as limit, channel() as opened:
                await self._hear(source, opened, limit, seconds)
        except TimeoutError:
            if source == "registry":
                log.warning("trust.source_stale", source=source, seconds=seconds)
            return
        except grpc.aio.AioRpcError as error:
            if source in (self._heard, "registry"):
                log.warning("trust.source_silent", source=source, code=error.code().name)
        except _SilentError as error:
            log.warning("trust.source_silent", source=source, why=str(error))
        except TongxingError as error:
            log.error("trust.refused", source=source, why=str(error))  # noqa: TRY400
        except OSError as error:
            log.error("trust.source_unusable", source=source, why=str(error))  # noqa: TRY400
        except Exception:
            # Whatever a source sends: who stopped listening would never hear of a revocation again.
            log.exception("trust.refused", source=source)
        self._heard = ""

    async def _hear(
        self, source: str, channel: grpc.aio.Channel, limit: asyncio.Timeout, seconds: float
    ) -> None:
        patience = self._registry.config.silence_seconds
        clock = asyncio.get_running_loop().time
        since, nothing_new = clock(), 0
        async with contextlib.aclosing(_watch(self._keeper, channel, patience)) as answers:
            async for answer in answers:
                if self._heard != source:
                    self._heard = source
                    log.info("trust.following", source=source)
                if await self._keeper.offer(views.files_from_proto(answer.files)):
                    limit.reschedule(clock() + seconds)
                    continue
                nothing_new += 1
                if nothing_new > _NOTHING_NEW:
                    if clock() - since < _NOTHING_NEW:
                        raise _SilentError("it floods with what is not new")
                    since, nothing_new = clock(), 0
                await asyncio.sleep(_NOTHING_NEW_SECONDS)


async def fetch_trust(keeper: TrustKeeper, registry: Registry) -> TrustList:
    """Take what the registry has, before anything has been verified.

    :raises TrustListError: it does not verify, or the registry does not answer.
    """
    try:
        async with (
            registry.channel() as channel,
            contextlib.aclosing(
                _watch(keeper, channel, registry.config.silence_seconds)
            ) as answers,
        ):
            async for answer in answers:
                await keeper.offer(views.files_from_proto(answer.files))
                break
    except grpc.aio.AioRpcError as error:
        raise TrustListError(
            f"the registry does not answer: {error.details()}",
            field="trust.registry",
            remedy="is it running, and at this address?",
        ) from None
    return keeper.current()


async def _watch(
    keeper: TrustKeeper, channel: grpc.aio.Channel, patience: float
) -> AsyncGenerator[pb.WatchTrustResponse]:
    """The messages of WatchTrust.

    :param patience: seconds of silence after which the line counts as dead.
    :raises _SilentError: it is.
    """
    try:
        have = views.versions_to_proto(keeper.bundle.versions)
    except TrustListError:
        have = pb.TrustVersions()
    call: Any = channel.unary_stream(
        _WATCH,
        request_serializer=pb.WatchTrustRequest.SerializeToString,
        response_deserializer=pb.WatchTrustResponse.FromString,
    )(pb.WatchTrustRequest(have=have))
    try:
        while True:
            try:
                async with asyncio.timeout(patience):
                    answer = await call.read()
            except TimeoutError:
                raise _SilentError(f"it has said nothing for {patience:g} s") from None
            if answer is grpc.aio.EOF:
                return
            yield answer
    finally:
        call.cancel()


@contextlib.asynccontextmanager
async def _kept(channel: grpc.aio.Channel) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that is somebody else's to close."""
    yield channel
