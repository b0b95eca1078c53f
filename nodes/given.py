"""What a node is given (configuration, keys, certificates, trust list), read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from securesystemslib.signer import Signer

from exchange.client.pair import Pair
from exchange.errors import (
    InvalidFieldError,
    NoIdentityError,
    TrustListError,
    UnknownProvinceError,
)
from exchange.keys import PrivateKey
from exchange.trust.signers import load_signer
from exchange.trust.trustlist import TrustList
from nodes.config import EMBEDDED, NodeConfig
from nodes.foreign import ForeignFolder
from nodes.identity import IdentityVerifier, Role
from nodes.keyring import Keyring
from nodes.peers.registry import Registry
from nodes.peers.trust import fetch_trust
from nodes.store import address
from nodes.subjects import SubjectKeys, read_seal_keys
from nodes.tlsfiles import TlsFiles
from nodes.trust import TrustKeeper

__all__ = ["Given", "given"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """What a node is given, read and checked."""

    keyring: Keyring
    role_signer: Signer | None
    subjects: SubjectKeys
    keeper: TrustKeeper
    registry: Registry | None
    tls: TlsFiles
    foreign: ForeignFolder


async def given(
    config: NodeConfig, clock: Callable[[], datetime], trust_folder: Path, keys_folder: Path
) -> Given:
    """Read all that a node rests on; a start and a check refuse the same.

    :param trust_folder: the node's own, for the trust list; ``keys_folder`` for the keys it made.
    :raises TongxingError: something of it is unusable.
    """
    certificate, tls_key = config.identity.certificate, config.identity.key
    if config.store.url != EMBEDDED:
        address.parse(config.store.url)
    keyring = _keyring(config, keys_folder)
    role_signer = _role_signer(config)
    subjects = SubjectKeys(config.province, read_seal_keys(config.identity.seal_key))
    foreign = ForeignFolder(config.foreign.certificates, config.foreign.poll_seconds)
    keeper = TrustKeeper(config.trust, config.province, trust_folder, clock)
    registry = None
    if config.trust.registry:
        registry = Registry(config.trust.registry, certificate, tls_key)
    trust = await _first_list(keeper, registry)
    _check_signs(keyring, trust)
    tls = TlsFiles(
        certificate,
        tls_key,
        check=lambda pair: _check_identity(pair, keeper.current(), config.province, clock()),
        poll_seconds=config.identity.poll_seconds,
    )
    keeper.on_change(subjects.follow)
    subjects.check(clock())
    return Given(keyring, role_signer, subjects, keeper, registry, tls, foreign)


async def _first_list(keeper: TrustKeeper, registry: Registry | None) -> TrustList:
    """What lies at hand; else what the registry has."""
    try:
        return await keeper.start()
    except (TrustListError, UnknownProvinceError) as error:
        # Perhaps only too old: this node was off for long, or its province is new.
        if registry is None:
            raise
        log.warning("trust.local_refused", why=str(error))
    return await fetch_trust(keeper, registry)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field=field) from None


def _passphrase(path: Path | None, field: str) -> bytes | None:
    return _read(path, field).strip() if path else None


def _keyring(config: NodeConfig, directory: Path) -> Keyring:
    passphrase = _passphrase(config.signing.passphrase_file, "signing.passphrase_file")
    try:
        configured = PrivateKey.from_pem(_read(config.signing.key, "signing.key"), passphrase)
    except InvalidFieldError as error:
        error.field = "signing.key"
        raise
    return Keyring(config.province, directory, configured, passphrase)


def _role_signer(config: NodeConfig) -> Signer | None:
    trust = config.trust
    if config.keys.rotate_days and not (trust.role_key and trust.registry):
        raise InvalidFieldError(
            "keys rotate by themselves only where their steps can be published",
            field="keys.rotate_days",
            remedy="configure trust.role_key and trust.registry, or leave it out",
        )
    if trust.role_key is None:
        return None
    passphrase = _passphrase(trust.role_passphrase_file, "trust.role_passphrase_file")
    try:
        return load_signer(trust.role_key, passphrase)
    except TrustListError as error:
        error.field = "trust.role_key"
        raise


def _check_signs(keyring: Keyring, trust: TrustList) -> None:
    """Refuse to start without a key whose attestations anybody would accept."""
    try:
        keyring.signer(trust)
    except TrustListError as error:
        raise error.at("signing.key") from None


def _check_identity(pair: Pair, trust: TrustList, province: str, now: datetime) -> None:
    """Refuse a certificate that no peer and no client would accept."""
    authority = trust.profile(province).tls_ca.encode()
    try:
        identity = IdentityVerifier({province: authority}).identify(pair.certificate, now)
    except NoIdentityError as error:
        raise error.at("certificate") from None
    if identity.role is not Role.NODE:
        raise InvalidFieldError(
            f"it is of the {identity.role} {identity.name}, not of a node",
            field="certificate",
        )
