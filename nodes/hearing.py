"""The process of a node that hears the peers for all others of it, and answers no call.

Here its parts are put together, as `nodes.node` does with those of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from nodes.config import NodeConfig
from nodes.exposition import paged
from nodes.folders import private_directory
from nodes.given import given
from nodes.metrics import of_process, of_resynchronisations
from nodes.peers.links import PeerLinks
from nodes.peers.memory import Handle, Memory
from nodes.peers.remote import Remotes
from nodes.peers.shown import Showing
from nodes.peers.sync import Synchroniser
from nodes.peers.trust import TrustFollower
from nodes.signals import on_end
from nodes.store.stores import Stores
from nodes.worker import Worker
from nodes.works import Works

__all__ = ["run"]

log = structlog.get_logger(__name__)


async def run(config: NodeConfig) -> None:
    """Hear the peers until SIGTERM, SIGINT or SIGHUP; the same where a work fails.

    :raises TongxingError: something of what the node is given is unusable.
    :raises Exception: what the work failed with; it is logged as well.
    """
    stop = asyncio.Event()
    on_end(stop.set)
    worker = Worker.here()
    if worker.heard is None:
        raise RuntimeError("nobody looks at what this process would hear")
    own = worker.folder(config.data)
    private_directory(own)
    has = await given(config, _clock, own / "trust", config.data / "keys")
    async with contextlib.AsyncExitStack() as stack:
        stores = await Stores.open(config.store.url, config.province)
        stack.push_async_callback(stores.close)
        peers = PeerLinks(config.province, has.tls)
        stack.push_async_callback(peers.close)
        remotes = Remotes(peers, config.peers.timeout_seconds)
        syncs = Synchroniser(config.province, remotes, stores.statuses, _clock, Memory.shared)
        stack.push_async_callback(syncs.close)
        for follow in (peers.follow, syncs.follow):
            has.keeper.on_change(follow)
        works = Works(stop.set)
        stack.push_async_callback(works.close)
        works.start(
            has.tls.watch(),
            has.keeper.watch_folder(),
            Showing(Handle(*worker.heard), syncs, lambda: worker.serves(0)).run(),
        )
        if has.registry:
            works.start(TrustFollower(has.keeper, has.registry, peers).run())
        if config.metrics:
            works.start(worker.tell_metrics(paged(_Process(syncs))))
        stack.callback(has.keeper.release)
        await stop.wait()


class _Process(Collector):
    """What there is to tell of the process; how the peers stand, those tell that look."""

    def __init__(self, syncs: Synchroniser) -> None:
        self._syncs = syncs

    def collect(self) -> list[Metric]:
        """All of it, as it is now."""
        peers = list(self._syncs.all.values())
        return [of_process(shared=True), of_resynchronisations(peers)]


def _clock() -> datetime:
    return datetime.now(UTC)
