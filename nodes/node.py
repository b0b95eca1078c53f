"""A province's node: here, and only here, its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from exchange.attestations import AttestationVerifier
from exchange.errors import InvalidFieldError
from exchange.keys import Algorithm
from nodes.audit.log import AuditLog
from nodes.audit.logs import Logs
from nodes.certificates import warn_daily
from nodes.config import EMBEDDED, NodeConfig
from nodes.deciding import Deciding
from nodes.doors import envoy
from nodes.doors.envoy import EnvoyDoor
from nodes.doors.grpcio import GrpcioDoor
from nodes.embedded import EmbeddedValkey
from nodes.exposition import asked, paged, served
from nodes.folders import name, private_directory
from nodes.given import given
from nodes.keysteps import KeySteps
from nodes.known_statuses import KnownStatuses
from nodes.metrics import NodeMetrics
from nodes.peers.appeals import AppealCourier
from nodes.peers.links import PeerLinks
from nodes.peers.lookup import Lookup
from nodes.peers.memory import Handle
from nodes.peers.remote import Remotes
from nodes.peers.shown import Shown
from nodes.peers.siblings import Siblings
from nodes.peers.sync import Synchroniser
from nodes.peers.trust import TrustFollower
from nodes.peers.versions import PeerVersions
from nodes.peers.view import PeerViews
from nodes.publisher import Publisher
from nodes.rotation import Rotation, Schedule
from nodes.services import acts
from nodes.services.appeal import AppealService
from nodes.services.attestation import AttestationService
from nodes.services.audit import AuditService
from nodes.services.key import KeyService
from nodes.services.peer import PeerService
from nodes.services.peering import PeeringService
from nodes.services.recognition import RecognitionService
from nodes.services.status_list import StatusListService
from nodes.services.trust import TrustService
from nodes.signals import on_end
from nodes.store import presence
from nodes.store.feed import Feed
from nodes.store.lognames import LogNames
from nodes.store.stores import Stores
from nodes.worker import Worker
from nodes.works import Works

__all__ = ["CONTRACT", "check", "run", "running", "serve"]

log = structlog.get_logger(__name__)

CONTRACT = tuple(
    each.descriptor
    for each in (
        AttestationService,
        RecognitionService,
        PeerService,
        StatusListService,
        PeeringService,
        AppealService,
        TrustService,
        KeyService,
        AuditService,
    )
)
"""The services of a node."""

LOOKED_THROUGH = 5_000
"""New objects, by which the garbage collector looks through the newest."""

_DOORS: dict[str, type[GrpcioDoor | EnvoyDoor]] = {"grpcio": GrpcioDoor, "envoy": EnvoyDoor}


async def run(config: NodeConfig) -> None:
    """Run a node until SIGTERM, SIGINT or SIGHUP, then drain it; the same where a work fails.

    :raises TongxingError: the node cannot start: the store, a key, the trust list or a field of
        the configuration is unusable.
    :raises Exception: what the work failed with; it is logged as well.
    """
    stop = asyncio.Event()
    on_end(stop.set)
    await serve(config, stop)


async def serve(
    config: NodeConfig,
    stop: asyncio.Event,
    listens: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run a node until the event is set, as `run` does until a signal.

    :param listens: returns once those outside can call, where an open door is not all of it.
    """
    async with running(config, stop.set) as port:
        # What is here now stays: to look through it again and again would hold calls up.
        gc.collect()
        gc.freeze()
        # Nor is it worth looking again at each 700 objects: a stream has more than that on its way.
        gc.set_threshold(LOOKED_THROUGH)
        if listens:
            await listens()
        worker = Worker.here()
        worker.serves(port)
        if worker.line is None:  # else who started it says it, once for all
            log.info("node.serving", province=config.province, port=port)
        await stop.wait()
        log.info("node.draining", seconds=config.drain_seconds)
    log.info("node.stopped")


async def check(config: NodeConfig) -> None:
    """See that a node would start on what it is given; one that runs there is not disturbed.

    Its store, of which the URL is read alone, its access log and its addresses are left to the
    start, and nothing is written.

    :raises TongxingError: it would not start; names the field, and the file where it is one's.
    """
    if config.door == "envoy":
        envoy.require()
    if config.data.exists():
        private_directory(config.data)
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        trust = config.data / "trust"
        try:
            if trust.is_dir():  # what the node has seen decides what it takes
                shutil.copytree(trust, home / "trust")
        except shutil.Error:
            raise InvalidFieldError(
                f"{trust}: a file in it cannot be read",
                field="data",
                remedy="see whose it is; or, if the node took a list over this moment, check again",
            ) from None
        keys = config.data / "keys"
        await given(config, _clock, home / "trust", keys if keys.is_dir() else home / "keys")


@contextlib.asynccontextmanager
async def running(
    config: NodeConfig, failed: Callable[[], None] = lambda: None
) -> AsyncIterator[int]:
    """A serving node; its port. On leaving, it drains and closes, the last opened first.

    :param failed: called when one of its works failed: leave then. Leaving raises the error.
    """
    clock, worker = _clock, Worker.here()
    private_directory(config.data)
    own = worker.folder(config.data)
    private_directory(own)
    has = await given(config, clock, own / "trust", config.data / "keys")
    keyring, role_signer, registry = has.keyring, has.role_signer, has.registry
    keeper, subjects, tls, foreign = has.keeper, has.subjects, has.tls, has.foreign

    async with contextlib.AsyncExitStack() as stack:
        url = await _store_url(config, stack)
        logs = Logs(config.data, worker)
        audit = AuditLog.open(
            logs.own, clock, config.audit.keep_days, province=config.province, among=logs
        )
        stack.push_async_callback(audit.close)
        stores = await Stores.open(
            url, config.province, name(config.data), replicas=config.store.replicas
        )
        stack.push_async_callback(stores.close)
        store = stores.attestations
        feed = Feed(
            stores.changes,
            lambda: presence.build(store, url),
            clock,
            heartbeat=config.peers.heartbeat_seconds,
            number=functools.partial(presence.number, store.reads),
        )
        peers = PeerLinks(config.province, tls)
        stack.push_async_callback(peers.close)
        siblings = await stack.enter_async_context(
            contextlib.aclosing(
                Siblings(config.province, keeper.current, tls, config.audit.siblings)
            )
        )
        names = LogNames(store.reads, audit.name, clock, timedelta(days=config.audit.keep_days))
        remotes = Remotes(peers, config.peers.timeout_seconds)
        syncs = (
            Shown(Handle(*worker.heard))
            if worker.heard
            else Synchroniser(config.province, remotes, stores.statuses, clock)
        )
        stack.push_async_callback(syncs.close)
        views = PeerViews(config.province, keeper.current, peers.get, syncs.get)
        verifier = AttestationVerifier()
        steps = KeySteps(
            province=config.province,
            keyring=keyring,
            keeper=keeper,
            registry=registry,
            role_signer=role_signer,
            peers=PeerVersions(peers, config.peers.timeout_seconds),
            store=store,
            clock=clock,
            published=timedelta(hours=config.keys.min_published_hours),
        )
        courier = AppealCourier(
            stores.appeals,
            peers,
            clock,
            poll_seconds=config.appeals.poll_seconds,
            asks=worker.first,
        )
        deciding = Deciding(
            province=config.province,
            store=store,
            lookup=Lookup(
                province=config.province,
                links=peers,
                syncs=syncs,
                answers=stores.answers,
                timeout=config.peers.timeout_seconds,
                cached_seconds=config.peers.cached_seconds,
                presence_hours=config.peers.presence_hours,
                clock=clock,
                processes=worker.of,
            ),
            verifier=verifier,
            trust=keeper,
            subjects=subjects,
            clock=clock,
            revoked=syncs.revoked,
        )
        door = _DOORS[config.door](
            province=config.province,
            listen=config.listen,
            tls=tls,
            clock=clock,
            connection_seconds=config.connections.age_seconds,
            connection_grace_seconds=config.connections.grace_seconds,
            shared=not worker.alone,
            target_seconds=config.overload.target_ms / 1000,
            reserved=config.overload.reserved_listen,
            services=[
                AttestationService(
                    store=store,
                    publisher=Publisher(
                        province=config.province,
                        store=store,
                        statuses=stores.statuses,
                        keyring=keyring,
                        verifier=verifier,
                        trust=keeper.current,
                        subjects=subjects,
                        clock=clock,
                    ),
                    verifier=verifier,
                    trust=keeper.current,
                    clock=clock,
                    audit=audit,
                ),
                RecognitionService(
                    province=config.province,
                    deciding=deciding,
                    trust=keeper,
                    signer=lambda: keyring.signer(keeper.current()),
                    audit=audit,
                    statuses=KnownStatuses(config.province, stores.statuses.revoked, syncs.get),
                    clock=clock,
                    foreign=foreign.current,
                ),
                PeerService(store, feed, lambda: stores.statuses.each(config.province), audit),
                StatusListService(
                    province=config.province,
                    own=lambda number: stores.statuses.bits(config.province, number),
                    signer=lambda: keyring.signer(keeper.current()),
                    peers=remotes,
                    trust=keeper.current,
                    ttl=timedelta(seconds=config.status.ttl_seconds),
                    clock=clock,
                ),
                PeeringService(
                    province=config.province,
                    trust=keeper.current,
                    peers=views,
                    subjects=lambda: feed.subjects,
                ),
                AppealService(
                    province=config.province,
                    store=stores.appeals,
                    attestations=store,
                    verifier=verifier,
                    trust=keeper.current,
                    subjects=subjects,
                    clock=clock,
                    audit=audit,
                    filed=courier.wake,
                ),
                TrustService(keeper),
                KeyService(steps, audit),
                AuditService(
                    audit=audit, subjects=subjects, clock=clock, siblings=siblings, names=names
                ),
            ],
        )
        for follow in (peers.follow, syncs.follow, door.follow):
            keeper.on_change(follow)
        works = Works(failed)
        stack.push_async_callback(works.close)
        works.start(
            audit.run(),
            names.run(),
            feed.run(),
            courier.run(),
            tls.watch(),
            foreign.watch(),
            warn_daily(tls, keeper.current, config.province, clock),
            keeper.watch_folder(),
            syncs.run(),
        )
        if registry and role_signer and worker.first:
            works.start(Rotation(steps, _schedule(config), clock).run())
        if registry:
            works.start(TrustFollower(keeper, registry, peers).run())
        if config.metrics:
            collector = NodeMetrics(
                province=config.province,
                keeper=keeper,
                tls=tls,
                views=views,
                subjects=lambda: feed.subjects,
                clock=clock,
                audit=audit,
                decided=deciding.outcomes,
                appeals=asked(stores.appeals.standing),
                places=lambda: door.shares.each,
                refused=asked(door.refused),
                hears=worker.heard is None,
            )
            if worker.line is None:
                stack.enter_context(served(config.metrics.listen, collector))
            else:
                works.start(worker.tell_metrics(paged(collector)))
        stack.push_async_callback(acts.ended)
        stack.push_async_callback(door.close, config.drain_seconds)
        stack.callback(keeper.release)
        stack.callback(feed.close)
        stack.push_async_callback(door.leave)
        yield await door.open()


def _clock() -> datetime:
    return datetime.now(UTC)


async def _store_url(config: NodeConfig, stack: contextlib.AsyncExitStack) -> str:
    """Where the store is; the embedded one is started."""
    if config.store.url != EMBEDDED:
        return config.store.url
    valkey = EmbeddedValkey(config.data / "valkey")
    await valkey.start()
    stack.push_async_callback(valkey.stop)
    return valkey.url


def _schedule(config: NodeConfig) -> Schedule:
    days = config.keys.rotate_days
    return Schedule(
        rotate=None if days is None else timedelta(days=days),
        published=timedelta(hours=config.keys.min_published_hours),
        algorithm=Algorithm[config.keys.algorithm],
    )
