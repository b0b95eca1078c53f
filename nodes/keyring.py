"""The private halves of the province's attestation keys (签名私钥) that this node holds.

The key of the configuration (``signing.key``), and those that the node made itself, each in a file
``KID.pem`` of its own: PKCS#8, under the configuration's passphrase where there is one. The node's
processes share them: what one made, the others read when they are to sign with it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import structlog

from exchange.errors import InvalidFieldError, TrustListError
from exchange.keys import Algorithm, PrivateKey, PublicKey, Signer
from exchange.trust.trustlist import TrustList

__all__ = ["Keyring"]

log = structlog.get_logger(__name__)


class Keyring:
    """What the node can sign with; the trust list says which of it signs.

    :param province: the node's own.
    :param directory: of the keys that the node makes; made where it is not there.
    :param configured: the key of the configuration.
    :param passphrase: of the files, those that are there and those to come; None for open ones.
    :raises InvalidFieldError: a file there cannot be read or opened, or others may read it.
    """

    def __init__(
        self, province: str, directory: Path, configured: Signer, passphrase: bytes | None = None
    ) -> None:
        self._province = province
        self._directory = directory
        self._passphrase = passphrase
        self._held: dict[bytes, Signer] = {configured.public.thumbprint: configured}
        self._chosen: tuple[TrustList, Signer] | None = None
        self._read_already: set[tuple[str, int]] = set()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidFieldError(f"{directory}: {error.strerror}", field="data") from None
        self._load()

    def signer(self, trust: TrustList) -> Signer:
        """What signs under a trust list: a held key that is ACTIVE there, the newest of several.

        :raises TrustListError: none is held: nobody would accept what another signs.
        """
        if self._chosen is not None and self._chosen[0] is trust:
            return self._chosen[1]
        active = self._active(trust)
        if active:
            self.holds(active[0])  # else reads what is new
        found = next((self._held[key.thumbprint] for key in active if self._has(key)), None)
        if found is None:
            raise TrustListError(
                f"none of the node's keys is ACTIVE in version {trust.version} of the trust list",
                remedy="the node's operator must bring the key that is (data/keys/KID.pem)",
            )
        self._chosen = trust, found
        return found

    def holds(self, public: PublicKey) -> bool:
        """Whether the node could sign with a key."""
        if not self._has(public):
            # Another process may have made it; or another node, and its operator brought it here.
            try:
                self._load()
            except InvalidFieldError as error:
                log.error("keyring.unusable", why=str(error))  # noqa: TRY400 - no traceback
        return self._has(public)

    async def generate(self, algorithm: Algorithm) -> PublicKey:
        """Make a new key; it is on disk when this returns.

        :raises InvalidFieldError: its file cannot be written.
        """
        key = PrivateKey.generate(algorithm)
        try:
            await asyncio.to_thread(self._write, key)
        except OSError as error:
            raise InvalidFieldError(
                f"{self._directory}: {error.strerror}",
                field="data",
                remedy="see that its disk is not full, and who owns it",
            ) from None
        self._held[key.public.thumbprint] = key
        return key.public

    def _has(self, public: PublicKey) -> bool:
        return public.thumbprint in self._held

    def _active(self, trust: TrustList) -> list[PublicKey]:
        """The province's keys that sign, the newest first."""
        profile = trust.profiles.get(self._province)
        active = [key for key in profile.keys if key.signs] if profile else []
        return [key.public for key in sorted(active, key=lambda each: each.since, reverse=True)]

    def _load(self) -> None:
        """Read the files that are new: opening one again takes long where it has a passphrase."""
        for path in sorted(self._directory.glob("*.pem")):
            seen = path.name, path.stat().st_ctime_ns
            if seen not in self._read_already:
                self._read_already.add(seen)
                key = self._read(path)
                self._held.setdefault(key.public.thumbprint, key)

    def _read(self, path: Path) -> PrivateKey:
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                pem = file.read()
        except OSError as error:
            raise InvalidFieldError(f"{path}: {error.strerror}", field="data") from None
        if stat.S_IMODE(mode) & 0o077:
            raise InvalidFieldError(
                f"others may read {path}",
                field="data",
                remedy="chmod 600, and consider the key stolen",
            )
        try:
            return PrivateKey.from_pem(pem, self._passphrase)
        except InvalidFieldError as error:
            raise InvalidFieldError(
                f"{path}: {error.message}",
                field="signing.passphrase_file",
                remedy=error.remedy or "the keys that the node made have this passphrase",
            ) from None

    def _write(self, key: PrivateKey) -> None:
        path = self._directory / f"{key.public.kid.hex()}.pem"
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.to_pem(self._passphrase))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the name itself must survive a crash
        finally:
            os.close(folder)
