"""The private keys of the trust list's roles, as files of their holders."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from exchange.errors import TrustListError
from exchange.trust import roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from securesystemslib.signer import Signer

__all__ = ["HOLDERS", "Online", "Signers", "generate", "load_signer", "public_pem", "save_signer"]

HOLDERS: Final = 3
"""How many hold a root key, and how many others a targets key."""


@dataclass(frozen=True, slots=True)
class Online:
    """The keys that the publisher keeps at hand."""

    snapshot: Signer
    timestamp: Signer


@dataclass(frozen=True, slots=True)
class Signers:
    """The signers of every role, as a ceremony brings them together.

    :param root: the holders of the root keys.
    :param targets: the holders of the targets keys.
    :param provinces: each province's signer, by code.
    :param online: the publisher's.
    """

    root: tuple[Signer, ...]
    targets: tuple[Signer, ...]
    provinces: Mapping[str, Signer]
    online: Online

    @classmethod
    def generate(cls, provinces: Iterable[str]) -> Signers:
        """Make keys for all roles of a trial exchange; in earnest each holder makes their own."""
        return cls(
            root=tuple(generate() for _ in range(HOLDERS)),
            targets=tuple(generate() for _ in range(HOLDERS)),
            provinces={province: generate() for province in provinces},
            online=Online(generate(), generate()),
        )

    def save(self, directory: Path, passphrase: bytes | None = None) -> None:
        """Write each key to a file of its own: ``root-1.pem`` …, ``p510000.pem``, ``snapshot.pem``.

        :raises TrustListError: if a file is there already, or a key cannot leave its holder.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, signer in self._named():
            save_signer(directory / f"{name}.pem", signer, passphrase)

    @classmethod
    def load(
        cls, directory: Path, provinces: Iterable[str], passphrase: bytes | None = None
    ) -> Signers:
        """Read what `save` wrote.

        :raises TrustListError: if a file is missing or cannot be opened.
        """

        def read(name: str) -> CryptoSigner:
            return load_signer(directory / f"{name}.pem", passphrase)

        return cls(
            root=tuple(read(f"root-{number}") for number in range(1, HOLDERS + 1)),
            targets=tuple(read(f"targets-{number}") for number in range(1, HOLDERS + 1)),
            provinces={province: read(roles.role_name(province)) for province in provinces},
            online=Online(read("snapshot"), read("timestamp")),
        )

    def _named(self) -> Iterator[tuple[str, Signer]]:
        for number, signer in enumerate(self.root, 1):
            yield f"root-{number}", signer
        for number, signer in enumerate(self.targets, 1):
            yield f"targets-{number}", signer
        for province, signer in self.provinces.items():
            yield roles.role_name(province), signer
        yield "snapshot", self.online.snapshot
        yield "timestamp", self.online.timestamp


def generate() -> CryptoSigner:
    """Make a new Ed25519 signer (RFC 8032)."""
    return CryptoSigner.generate_ed25519()


def save_signer(path: Path, signer: Signer, passphrase: bytes | None = None) -> None:
    """Write a private key as PKCS#8 PEM (RFC 5958) that only its owner may read.

    :param passphrase: encrypts the file; None leaves it plain.
    :raises TrustListError: if the file is there already, or the key cannot leave its holder.
    """
    if not isinstance(signer, CryptoSigner):
        raise TrustListError("the key is kept where it cannot be copied from", field=path.name)
    key = load_pem_private_key(signer.private_bytes, None)
    pem = key.private_bytes(
        Encoding.PEM,
        PrivateFormat.PKCS8,
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption(),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise TrustListError(
            "a key is there already", field=path.name, remedy="choose an empty directory"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)


def public_pem(signer: CryptoSigner) -> bytes:
    """Give the public part of a key, as others are given it: SubjectPublicKeyInfo in PEM."""
    public = load_pem_private_key(signer.private_bytes, None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_signer(path: Path, passphrase: bytes | None = None) -> CryptoSigner:
    """Read what `save_signer` wrote; Ed25519 and ECDSA keys will do.

    :raises TrustListError: if the file is missing, others may read it, or it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read()
    except OSError as error:
        raise TrustListError("the key cannot be read", field=path.name) from error
    if stat.S_IMODE(mode) & 0o077:
        raise TrustListError(
            "others may read the key", field=path.name, remedy="chmod 600, and consider it shown"
        )
    try:
        return CryptoSigner(load_pem_private_key(pem, passphrase))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause is left out of the chain's words: it may quote the file.
        raise TrustListError(
            "the key cannot be opened", field=path.name, remedy="check the passphrase"
        ) from error
