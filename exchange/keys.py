"""Signing keys (签名密钥): algorithms, public and private keys, thumbprints.

A key fixes its algorithm: ES256 is ECDSA on P-256 alone, EdDSA is Ed25519 alone. What signs is a
`Signer`; `PrivateKey` is the one that lives in memory, and a hardware module can be another.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import cbor2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from exchange.errors import BadSignatureError, InvalidFieldError

__all__ = ["KID_BYTES", "Algorithm", "PrivateKey", "PublicKey", "Signer"]

KID_BYTES = 8
"""Length of a kid: so many leading bytes of the thumbprint."""

_COORDINATE = 32
_ES256 = ec.ECDSA(SHA256())
_KINDS = "ECDSA P-256, Ed25519 or ML-DSA-44"

_NativePublic = ec.EllipticCurvePublicKey | Ed25519PublicKey | MLDSA44PublicKey
_NativePrivate = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | MLDSA44PrivateKey


class Algorithm(enum.IntEnum):
    """The COSE algorithms accepted (RFC 9053 §2.1, §2.2; RFC 9964)."""

    ES256 = -7
    EDDSA = -8
    ML_DSA_44 = -48

    @property
    def signature_bytes(self) -> int:
        """Length of every signature, in bytes (RFC 9053 §2; FIPS 204 table 2)."""
        return 2420 if self is Algorithm.ML_DSA_44 else 64


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies. Two are equal when their thumbprints are.

    :param native: the key as ``cryptography`` holds it.
    :raises InvalidFieldError: it is neither P-256, Ed25519 nor ML-DSA-44.
    """

    native: _NativePublic = field(repr=False, compare=False)
    algorithm: Algorithm = field(init=False)
    thumbprint: bytes = field(init=False, repr=False)
    """32 bytes: the SHA-256 COSE Key Thumbprint (RFC 9679; for ML-DSA, RFC 9964)."""
    kid: bytes = field(init=False)
    """The thumbprint's first 8 bytes."""

    def __post_init__(self) -> None:
        algorithm, cose_key = _cose_key(self.native)
        # Written in the order of RFC 8949 §4.2.1 already: 1, 3, -1, -2, -3.
        thumbprint = hashlib.sha256(cbor2.dumps(cose_key)).digest()
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "thumbprint", thumbprint)
        object.__setattr__(self, "kid", thumbprint[:KID_BYTES])

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read a SubjectPublicKeyInfo in PEM.

        :raises InvalidFieldError: unreadable, or another kind of key.
        """
        try:
            native = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _not_a_public_key() from error
        return cls(_accepted_public(native))

    @classmethod
    def from_der(cls, der: bytes) -> PublicKey:
        """Read a SubjectPublicKeyInfo in DER.

        :raises InvalidFieldError: unreadable, or another kind of key.
        """
        try:
            native = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _not_a_public_key() from error
        return cls(_accepted_public(native))

    def to_pem(self) -> bytes:
        """Write the SubjectPublicKeyInfo in PEM."""
        return self.native.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def to_der(self) -> bytes:
        """Write the SubjectPublicKeyInfo in DER."""
        return self.native.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, signature: bytes, data: bytes) -> None:
        """Check a signature over ``data``.

        :param signature: as COSE carries it; for ES256 r ‖ s, 64 bytes (RFC 9053 §2.1).
        :raises BadSignatureError: it does not hold, or has another length.
        """
        if len(signature) != self.algorithm.signature_bytes:
            raise BadSignatureError(
                f"the signature has {len(signature)} bytes, "
                f"{self.algorithm.name} has {self.algorithm.signature_bytes}"
            )
        native = self.native
        try:
            if isinstance(native, ec.EllipticCurvePublicKey):
                native.verify(_to_der_signature(signature), data, _ES256)
            else:
                native.verify(signature, data)
        except InvalidSignature as error:
            raise BadSignatureError("the signature does not hold") from error


class Signer(Protocol):
    """What signs: a key in memory, or a module that holds one."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this signs."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Sign ``data``; the signature is as COSE carries it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PrivateKey:
    """A signing key in memory. Its repr shows the public half only.

    :param native: the key as ``cryptography`` holds it.
    :raises InvalidFieldError: it is neither P-256, Ed25519 nor ML-DSA-44.
    """

    native: _NativePrivate = field(repr=False)
    public: PublicKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", PublicKey(self.native.public_key()))

    @classmethod
    def generate(cls, algorithm: Algorithm) -> PrivateKey:
        """Make a new key from the system's randomness."""
        match algorithm:
            case Algorithm.ES256:
                return cls(ec.generate_private_key(ec.SECP256R1()))
            case Algorithm.EDDSA:
                return cls(Ed25519PrivateKey.generate())
            case Algorithm.ML_DSA_44:
                return cls(MLDSA44PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, password: bytes | None) -> PrivateKey:
        """Read a private key in PEM (PKCS #8).

        :param password: the passphrase (口令), or None for a key that has none.
        :raises InvalidFieldError: wrong, missing or needless passphrase, unreadable, or another
            kind of key.
        """
        try:
            native = serialization.load_pem_private_key(pem, password)
        except TypeError as error:
            if password is None:
                raise InvalidFieldError(
                    "the private key is protected by a passphrase", remedy="give its passphrase"
                ) from error
            raise InvalidFieldError(
                "the private key is not protected by a passphrase", remedy="give none"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            if password is not None and b"ENCRYPTED" in pem:
                raise InvalidFieldError(
                    "the private key does not open: wrong passphrase, or a damaged file"
                ) from error
            raise InvalidFieldError(
                "not a readable private key", remedy=f"give a PKCS #8 key in PEM, {_KINDS}"
            ) from error
        if not isinstance(native, _NativePrivate):
            raise _wrong_kind()
        return cls(native)

    def to_pem(self, password: bytes | None = None) -> bytes:
        """Write the key as PKCS #8 in PEM.

        :param password: protect it with this passphrase; None writes it open.
        :raises InvalidFieldError: the passphrase is empty or too long.
        """
        try:
            protection: serialization.KeySerializationEncryption = (
                serialization.NoEncryption()
                if password is None
                else serialization.BestAvailableEncryption(password)
            )
            return self.native.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
            )
        except ValueError as error:
            raise InvalidFieldError("the passphrase is empty or too long") from error

    def sign(self, data: bytes) -> bytes:
        """Sign ``data``; for ES256 the signature is r ‖ s, 64 bytes (RFC 9053 §2.1)."""
        native = self.native
        if isinstance(native, ec.EllipticCurvePrivateKey):
            r, s = utils.decode_dss_signature(native.sign(data, _ES256))
            return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
        return native.sign(data)


def _to_der_signature(signature: bytes) -> bytes:
    """Write r ‖ s as the DER sequence of two integers (RFC 3279 §2.2.3).

    By hand: through Python's integers it takes twice as long, of every verification.
    """
    r = signature[:_COORDINATE].lstrip(b"\0")
    s = signature[_COORDINATE:].lstrip(b"\0")
    # An integer has one byte at least, and a first bit that is set would make it negative.
    if not r or r[0] & 0x80:
        r = b"\0" + r
    if not s or s[0] & 0x80:
        s = b"\0" + s
    return b"\x30%c\x02%c%b\x02%c%b" % (4 + len(r) + len(s), len(r), r, len(s), s)


def _cose_key(native: _NativePublic) -> tuple[Algorithm, dict[int, int | bytes]]:
    """Give the parameters that the thumbprint covers (RFC 9679 §4, RFC 9964 for kty 7, AKP)."""
    if isinstance(native, MLDSA44PublicKey):
        alg = int(Algorithm.ML_DSA_44)
        return Algorithm.ML_DSA_44, {1: 7, 3: alg, -1: native.public_bytes_raw()}
    if isinstance(native, Ed25519PublicKey):
        return Algorithm.EDDSA, {1: 1, -1: 6, -2: native.public_bytes_raw()}
    if isinstance(native, ec.EllipticCurvePublicKey) and isinstance(native.curve, ec.SECP256R1):
        point = native.public_numbers()
        x, y = (n.to_bytes(_COORDINATE, "big") for n in (point.x, point.y))
        return Algorithm.ES256, {1: 2, -1: 1, -2: x, -3: y}
    raise _wrong_kind()


def _accepted_public(native: object) -> _NativePublic:
    if not isinstance(native, _NativePublic):
        raise _wrong_kind()
    return native


def _wrong_kind() -> InvalidFieldError:
    return InvalidFieldError("the key is of another kind", remedy=f"give {_KINDS}")


def _not_a_public_key() -> InvalidFieldError:
    return InvalidFieldError(
        "not a readable public key", remedy=f"give a SubjectPublicKeyInfo, {_KINDS}"
    )
