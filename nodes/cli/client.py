"""The client's configuration, and how a command calls its node.

::

    node = "127.0.0.1:7443"        # the caller's own province's node
    province = "510000"
    certificate = "issuer.pem"     # paths are relative to the file
    key = "issuer-key.pem"

    [trust]
    root = "trust/1.root.json"     # the pinned root
    metadata = "trust"             # the folder of the signed files
    cache = "trust-cache"          # may be left out
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import Field

from exchange.errors import ExpiredError, InvalidFieldError, TrustListError
from nodes import settings
from nodes.settings import ProvinceCode, Section

if TYPE_CHECKING:
    from exchange.client import Client
    from exchange.trust.trustlist import TrustList

__all__ = ["ClientConfig", "ClientOption", "TrustFiles", "call", "load", "trust_list"]

_T = TypeVar("_T")

ClientOption = Annotated[
    Path | None,
    typer.Option(
        "--client", envvar="TONGXING_CLIENT", help="The client's TOML file. 客户端配置文件。"
    ),
]


class TrustFiles(Section):
    """The pinned root, the folder of TUF metadata, and a folder for what was seen before."""

    root: Path
    metadata: Path
    cache: Path = Path("trust-cache")


class ClientConfig(Section):
    """All of it."""

    node: Annotated[str, Field(pattern=r"^.+:\d{1,5}$")]
    province: ProvinceCode
    certificate: Path
    key: Path
    trust: TrustFiles


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
    return settings.read(path, ClientConfig)


def trust_list(files: TrustFiles) -> TrustList:
    """Verify the trust list.

    :raises TrustListError: it does not verify, or the pinned root cannot be read.
    """
    from exchange.trust import refresh

    try:
        root = files.root.read_bytes()
    except OSError as error:
        raise TrustListError(
            f"{files.root}: {error.strerror}",
            field="trust.root",
            remedy="name the root that was handed over and pinned",
        ) from None
    return refresh.load(files.metadata, root, files.cache)


def call(path: Path | None, work: Callable[[Client], Awaitable[_T]]) -> _T:
    """Connect to the node of a client's configuration, and do some work with it.

    :raises TongxingError: the configuration, the trust list or the certificate is unusable, or
        what the work raises.
    """
    config = load(path)
    certificate, key = _credentials(config, datetime.now(UTC))
    trust = trust_list(config.trust)
    # What the core logs about a failed handshake comes again in the error's one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from exchange.client import Client

    async def connected() -> _T:
        async with Client(
            config.node,
            province=config.province,
            certificate=certificate,
            key=key,
            trust=lambda: trust,
        ) as client:
            return await work(client)

    return asyncio.run(connected())


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
