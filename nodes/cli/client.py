"""How a command calls the node of its client's configuration (`nodes.cli.clientfile`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from exchange.errors import (
    ExpiredError,
    InvalidFieldError,
    TrustListError,
    UnknownProvinceError,
)

if TYPE_CHECKING:
    from exchange.client import Client
    from exchange.trust.files import Files
    from exchange.trust.live import LiveTrust
    from exchange.trust.trustlist import TrustList
    from nodes.cli.clientfile import ClientConfig, TrustFiles

__all__ = ["ClientOption", "call", "load", "trust_list"]

_T = TypeVar("_T")

ClientOption = Annotated[
    Path | None,
    typer.Option(
        "--client", envvar="TONGXING_CLIENT", help="The client's TOML file. 客户端配置文件。"
    ),
]


def load(path: Path | None) -> ClientConfig:
    """Read a client's configuration.

    :raises InvalidFieldError: there is none, it cannot be read, or a field is wrong; names it.
    """
    if path is None:
        raise InvalidFieldError(
            "no client configuration",
            field="--client",
            remedy="give --client FILE, or set TONGXING_CLIENT",
        )
    from nodes import settings
    from nodes.cli.clientfile import ClientConfig

    try:
        return settings.read(path, ClientConfig)
    except InvalidFieldError as error:
        if error.field == str(path):  # it is the file, and none of its fields
            error.message, error.field = f"{path}: {error.message}", "--client"
        raise


def trust_list(config: TrustFiles) -> TrustList:
    """Verify the newest trust list at hand.

    :raises TrustListError: it does not verify, or the pinned root cannot be read.
    """
    return _at_hand(config)()


def _at_hand(config: TrustFiles) -> LiveTrust:
    """The newest of the folder of metadata and what an earlier command brought home."""
    from exchange.trust import files
    from exchange.trust.files import TIMESTAMP, Bundle

    try:
        root = config.root.read_bytes()
    except OSError as error:
        raise TrustListError(
            f"{config.root}: {error.strerror}",
            field="trust.root",
            remedy="name the root that was handed over and pinned",
        ) from None
    found = files.read(config.metadata)
    mirror = _mirror(config)
    if (mirror / TIMESTAMP).exists():
        kept = files.read(mirror)
        if Bundle.of(kept).versions.timestamp > Bundle.of(found).versions.timestamp:
            found = kept
    return _live(found, root, config)


def _live(found: Files, root: bytes, config: TrustFiles) -> LiveTrust:
    from exchange.trust.live import LiveTrust

    return LiveTrust(found, root, config.cache)


def _mirror(config: TrustFiles) -> Path:
    return config.cache / "mirror"


def call(path: Path | None, work: Callable[[Client], Awaitable[_T]]) -> _T:
    """Connect to the node of a client's configuration, and do some work with it.

    The trust list is brought up to date on the way: from the node, or from the registry where one
    is configured and the list at hand is too old to know the node by.

    :raises TongxingError: the configuration, the trust list or the certificate is unusable, or
        what the work raises.
    """
    config = load(path)
    certificate, key = _credentials(config, datetime.now(UTC))
    from exchange.client import Client, WrongNodeError
    from exchange.trust import files

    @contextlib.asynccontextmanager
    async def connected(trust: LiveTrust) -> AsyncIterator[Client]:
        async with Client(
            config.node, province=config.province, certificate=certificate, key=key, trust=trust
        ) as client:
            if await client.refresh_trust():
                files.write(_mirror(config.trust), trust.files)
            yield client

    async def run() -> _T:
        async with contextlib.AsyncExitStack() as stack:
            # The work itself is never done twice.
            try:
                client = await stack.enter_async_context(connected(_at_hand(config.trust)))
            except (TrustListError, UnknownProvinceError, WrongNodeError):
                if config.trust.registry is None:
                    raise
                trust = await _from_registry(config)
                client = await stack.enter_async_context(connected(trust))
            return await work(client)

    return asyncio.run(run())


async def _from_registry(config: ClientConfig) -> LiveTrust:
    from exchange.trust import files
    from nodes.peers.registry import Registry

    assert config.trust.registry is not None  # noqa: S101 - for mypy
    found = await Registry(config.trust.registry, config.certificate, config.key).fetch()
    trust = _live(found, config.trust.root.read_bytes(), config.trust)
    files.mirror(_mirror(config.trust), trust.files)
    return trust


def _credentials(config: ClientConfig, now: datetime) -> tuple[bytes, bytes]:
    """The certificate and its key: gRPC would only say that the handshake failed.

    :raises InvalidFieldError: one cannot be read, they are not a pair, or their time is past.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificate = _read(config.certificate, "certificate")
    key = _read(config.key, "key")
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
        public = leaf.public_key()
    except ValueError:
        raise InvalidFieldError(
            f"{config.certificate} is not a certificate", field="certificate", remedy="give PEM"
        ) from None
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise InvalidFieldError(
            f"{config.key} is not a private key without passphrase",
            field="key",
            remedy="give PKCS #8 in PEM",
        ) from None
    if private.public_key() != public:
        raise InvalidFieldError(
            f"{config.key} is not the key of {config.certificate}",
            field="key",
            remedy="name the two files that were issued together",
        )
    if now > leaf.not_valid_after_utc:
        raise ExpiredError(
            f"{config.certificate} ended at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            field="certificate",
            remedy="have a new one issued",
        )
    return certificate, key


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFieldError(
            f"{path}: {error.strerror}", field=field, remedy="check the path and its mode"
        ) from None
