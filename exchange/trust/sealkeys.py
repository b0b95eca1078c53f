"""The keys that something is sealed for (HPKE, RFC 9180): X25519, one pair or more a province."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from exchange.errors import InvalidFieldError, TrustListError
from exchange.keys import KID_BYTES
from exchange.trust.reading import read_hex, read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SealKey", "SealPrivateKey"]

PUBLIC_BYTES: Final = 32

_COSE_KEY: Final = bytes.fromhex("a301012004215820")
"""{1: OKP, -1: X25519, -2: 32 bytes …}: what RFC 9679 hashes, up to the key itself."""
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SealKey:
    """A public key to seal for.

    :param raw: the 32 bytes of an X25519 public key (RFC 7748 §6.1).
    :raises TrustListError: another length.
    """

    raw: bytes
    kid: bytes = field(init=False)
    """The first 8 bytes of the RFC 9679 thumbprint."""

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_BYTES:
            raise TrustListError(f"must be {PUBLIC_BYTES} bytes", field="public")
        object.__setattr__(self, "kid", hashlib.sha256(_COSE_KEY + self.raw).digest()[:KID_BYTES])

    @property
    def native(self) -> X25519PublicKey:
        """The key as ``cryptography`` holds it."""
        return X25519PublicKey.from_public_bytes(self.raw)

    def to_json(self) -> dict[str, str]:
        """As it stands in a profile."""
        return {"kid": self.kid.hex(), "public": self.raw.hex()}

    @classmethod
    def from_json(cls, value: object, field: str) -> SealKey:
        """Read it.

        :param field: where it stands, for the error.
        :raises TrustListError: a field is missing or wrong, or the kid is not the key's.
        """
        fields = read_object(value, field)
        key = cls(read_hex(fields.get("public"), f"{field}.public", PUBLIC_BYTES))
        if read_hex(fields.get("kid"), f"{field}.kid", KID_BYTES) != key.kid:
            raise TrustListError("the kid is not that of the public key", field=f"{field}.kid")
        return key


@dataclass(frozen=True, slots=True)
class SealPrivateKey:
    """A private key that opens what was sealed for its public one; in no repr."""

    native: X25519PrivateKey = field(repr=False)
    public: SealKey = field(init=False)

    def __post_init__(self) -> None:
        raw = self.native.public_key().public_bytes_raw()
        object.__setattr__(self, "public", SealKey(raw))

    @classmethod
    def generate(cls) -> SealPrivateKey:
        """Make a new one."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Sequence[SealPrivateKey]:
        """Read one or more, one PEM (PKCS#8, RFC 8410) behind the other.

        :raises InvalidFieldError: there is none, or one cannot be read or is of another kind.
        """
        try:
            found = [load_pem_private_key(each, None) for each in _PEM.findall(pem)]
        except (ValueError, TypeError, UnsupportedAlgorithm):
            found = []
        keys = [cls(each) for each in found if isinstance(each, X25519PrivateKey)]
        if not keys or len(keys) != len(found):
            raise InvalidFieldError(
                "no X25519 private key",
                remedy="it is PKCS#8 PEM without a passphrase: `openssl genpkey -algorithm x25519`",
            )
        return keys

    def to_pem(self) -> bytes:
        """Write it as PKCS#8 PEM, unencrypted."""
        return self.native.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
