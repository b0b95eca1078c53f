"""A province's node: here, and only here, its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from exchange.attestations import AttestationVerifier
from exchange.errors import InvalidFieldError, TrustListError
from exchange.keys import PrivateKey
from exchange.subjects import EpochKey
from exchange.trust.trustlist import TrustList
from nodes.config import EMBEDDED, NodeConfig
from nodes.doors.grpcio import GrpcioDoor, TlsFiles
from nodes.embedded import EmbeddedValkey
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
    for field, path in (("identity.certificate", certificate), ("identity.key", tls_key)):
        _read(path, field)
    signer = _signing_key(config)
    epochs = [_epoch_key(path) for path in config.subjects.keys]
    keeper = TrustKeeper(config.trust, config.province, config.data / "trust", clock)
    _check_signs(signer, await keeper.refresh(), config.province)

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


def _epoch_key(path: Path) -> EpochKey:
    """The key of one epoch: TOML with ``epoch`` (a number) and ``key`` (64 hex digits)."""
    try:
        values = tomllib.loads(_read(path, "subjects.keys").decode())
        return EpochKey(values["epoch"], bytes.fromhex(values["key"]))
    except (ValueError, KeyError, TypeError, InvalidFieldError):
        raise InvalidFieldError(
            f"{path} is not an epoch key",
            field="subjects.keys",
            remedy='it must hold `epoch = 1` and `key = "64 hex digits"`',
        ) from None


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
    for owner, key in trust.keys(signer.public.kid):
        if owner == province and key.public.thumbprint == signer.public.thumbprint and key.signs:
            return
    raise TrustListError(
        f"the key {signer.public.kid.hex()} is not an ACTIVE key of {province} in the trust list",
        field="signing.key",
        remedy="publish it in the province's profile, or configure the key that is",
    )
