"""A province's node: here, and only here, its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from exchange.attestations import AttestationVerifier
from exchange.errors import InvalidFieldError, NoIdentityError, TrustListError
from exchange.keys import PrivateKey
from exchange.trust.trustlist import TrustList
from nodes.config import EMBEDDED, NodeConfig, read_epoch_key
from nodes.doors.grpcio import GrpcioDoor, TlsFiles
from nodes.embedded import EmbeddedValkey
from nodes.identity import IdentityVerifier, Role, check_pair
from nodes.peers.fetch import Peers
from nodes.services.attestation import AttestationService
from nodes.services.peer import PeerService
from nodes.services.recognition import RecognitionService
from nodes.store.attestations import AttestationStore
from nodes.trust import TrustKeeper

__all__ = ["run", "running"]

log = structlog.get_logger(__name__)


async def run(config: NodeConfig) -> None:
    """Run a node until SIGTERM or SIGINT, then drain it.

    :raises TongxingError: the node cannot start: the store, a key, the trust list or a field of
        the configuration is unusable.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as port:
        log.info("node.serving", province=config.province, port=port)
        await stop.wait()
        log.info("node.draining", seconds=config.drain_seconds)
    log.info("node.stopped")


@contextlib.asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[int]:
    """A serving node; its port. On leaving, it drains and closes, the last opened first."""

    def clock() -> datetime:
        return datetime.now(UTC)

    _private_directory(config.data)
    certificate, tls_key = config.identity.certificate, config.identity.key
    signer = _signing_key(config)
    epochs = [read_epoch_key(path) for path in config.subjects.keys]
    keeper = TrustKeeper(config.trust, config.province, config.data / "trust", clock)
    trust = await keeper.refresh()
    _check_signs(signer, trust, config.province)
    _check_identity(config, trust, clock())

    async with contextlib.AsyncExitStack() as stack:
        url = config.store.url
        if url == EMBEDDED:
            valkey = EmbeddedValkey(config.data / "valkey")
            await valkey.start()
            stack.push_async_callback(valkey.stop)
            url = valkey.url
        store = await AttestationStore.open(url)
        stack.push_async_callback(store.close)
        verifier = AttestationVerifier()
        peers = Peers(config.province, certificate, tls_key, config.peers.timeout_seconds)
        stack.push_async_callback(peers.close)
        door = GrpcioDoor(
            province=config.province,
            listen=config.listen,
            tls=TlsFiles(certificate, tls_key),
            clock=clock,
            services=[
                AttestationService(
                    province=config.province,
                    store=store,
                    signer=signer,
                    verifier=verifier,
                    trust=keeper.current,
                    epochs=epochs,
                    clock=clock,
                ),
                RecognitionService(
                    province=config.province,
                    store=store,
                    peers=peers,
                    verifier=verifier,
                    trust=keeper,
                    epochs=epochs,
                    clock=clock,
                ),
                PeerService(store),
            ],
        )
        keeper.on_change(peers.follow)
        keeper.on_change(door.follow)
        stack.push_async_callback(_cancel, asyncio.create_task(keeper.watch()))
        stack.push_async_callback(door.close, config.drain_seconds)
        yield await door.open()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _private_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="data") from None


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field=field) from None


def _signing_key(config: NodeConfig) -> PrivateKey:
    passphrase = None
    if config.signing.passphrase_file:
        passphrase = _read(config.signing.passphrase_file, "signing.passphrase_file").strip()
    try:
        return PrivateKey.from_pem(_read(config.signing.key, "signing.key"), passphrase)
    except InvalidFieldError as error:
        error.field = "signing.key"
        raise


def _check_signs(signer: PrivateKey, trust: TrustList, province: str) -> None:
    """Refuse to start with a key whose attestations nobody would accept."""
    if trust.signs(province, signer.public):
        return
    raise TrustListError(
        f"the key {signer.public.kid.hex()} is not an ACTIVE key of {province} in the trust list",
        field="signing.key",
        remedy="publish it in the province's profile, or configure the key that is",
    )


def _check_identity(config: NodeConfig, trust: TrustList, now: datetime) -> None:
    """Refuse to start with a certificate that no peer and no client would accept."""
    certificate = _read(config.identity.certificate, "identity.certificate")
    key = _read(config.identity.key, "identity.key")
    try:
        check_pair(certificate, key)
    except NoIdentityError as error:
        raise error.at("identity") from None
    authority = trust.profile(config.province).tls_ca.encode()
    try:
        identity = IdentityVerifier({config.province: authority}).identify(certificate, now)
    except NoIdentityError as error:
        raise error.at("identity.certificate") from None
    if identity.role is not Role.NODE:
        raise InvalidFieldError(
            f"it is of the {identity.role} {identity.name}, not of a node",
            field="identity.certificate",
        )
