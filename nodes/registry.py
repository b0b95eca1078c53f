"""The registry (登记处): publishes the trust list, and signs it fresh every few minutes.

It holds the online snapshot and timestamp keys, so it can withhold what is new until the timestamp
expires, and nothing else: it cannot admit a province, change a key or bring back an old list.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import AfterValidator, Field
from securesystemslib.signer import Signer
from tuf.api.metadata import Role as RootRole
from tuf.api.metadata import Root, Snapshot, Timestamp

from exchange.errors import TongxingError, TrustListError
from exchange.trust.signers import Online, load_signer
from nodes.config import IdentityConfig, LogConfig, TrustConfig, host_and_port
from nodes.doors.grpcio import GrpcioDoor
from nodes.services.registry import RegistryService
from nodes.services.trust import TrustService
from nodes.settings import Section
from nodes.tlsfiles import TlsFiles
from nodes.trust import TrustKeeper

__all__ = ["RegistryConfig", "run", "running"]

log = structlog.get_logger(__name__)


class OnlineConfig(Section):
    """The online keys (PKCS#8 PEM), and the file of the passphrase of those that are encrypted.

    Of several files, the key that the root names is used: a new one lies ready beside the old
    before the root that names it is published.
    """

    snapshot: tuple[Path, ...] = Field(min_length=1)
    timestamp: tuple[Path, ...] = Field(min_length=1)
    passphrase_file: Path | None = None

    def named_by(self, root: Root) -> Online:
        """The keys that a root names.

        :raises TrustListError: none of a role's files is there and named, or one cannot be opened.
        """
        return Online(
            self._key(self.snapshot, root.roles[Snapshot.type]),
            self._key(self.timestamp, root.roles[Timestamp.type]),
        )

    def _key(self, paths: tuple[Path, ...], role: RootRole) -> Signer:
        for path in paths:
            if path.exists():
                signer = load_signer(path, self._passphrase(path))
                if signer.public_key.keyid in role.keyids:
                    return signer
        raise TrustListError(
            f"none of {', '.join(path.name for path in paths)} is the key that the root names",
            field="online",
            remedy="put the key's file there",
        )

    def _passphrase(self, key: Path) -> bytes | None:
        if b"ENCRYPTED" not in key.read_bytes() or self.passphrase_file is None:
            return None
        try:
            return self.passphrase_file.read_bytes().strip()
        except OSError as error:
            raise TrustListError(
                f"{key.name} is encrypted, and its passphrase cannot be read: {error.strerror}",
                field="online.passphrase_file",
                remedy=f"put it into {self.passphrase_file}",
            ) from None


class RegistryConfig(Section):
    """A registry's configuration."""

    listen: Annotated[str, AfterValidator(host_and_port)] = "0.0.0.0:7400"
    data: Path
    identity: IdentityConfig
    trust: TrustConfig
    online: OnlineConfig
    renew_seconds: float = Field(default=300.0, gt=0, le=6 * 3600)
    log: LogConfig = Field(default_factory=LogConfig)


async def run(config: RegistryConfig) -> None:
    """Run a registry until SIGTERM or SIGINT.

    :raises TongxingError: it cannot start: a key, the trust list or a field is unusable.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as port:
        log.info("registry.serving", port=port)
        await stop.wait()
    log.info("registry.stopped")


@contextlib.asynccontextmanager
async def running(config: RegistryConfig) -> AsyncIterator[int]:
    """A serving registry; its port."""

    def clock() -> datetime:
        return datetime.now(UTC)

    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    keeper = TrustKeeper(config.trust, None, config.data / "trust", clock)
    await keeper.start()
    service = RegistryService(keeper, config.online.named_by, clock)
    await service.renew()
    tls = TlsFiles(
        config.identity.certificate,
        config.identity.key,
        poll_seconds=config.identity.poll_seconds,
    )
    door = GrpcioDoor(
        province=None,
        listen=config.listen,
        tls=tls,
        clock=clock,
        services=[TrustService(keeper), service],
    )
    keeper.on_change(door.follow)
    port = await door.open()
    tasks = [
        asyncio.create_task(keeper.watch_folder()),
        asyncio.create_task(tls.watch()),
        asyncio.create_task(_renew(service, config.renew_seconds)),
    ]
    try:
        yield port
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        keeper.release()
        await door.close(2.0)


async def _renew(service: RegistryService, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await service.renew()
        except TongxingError as error:
            log.error("registry.not_renewed", why=str(error))  # noqa: TRY400 - no traceback
        except Exception:
            log.exception("registry.not_renewed")
