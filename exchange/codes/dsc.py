"""Document signers: whose key signed a foreign certificate (EU DCC: Document Signer Certificate).

What is trusted is the certificate as somebody gave it; its own signature is nobody's business here.
So it is not parsed by X.509's rules, which refuse some that signed real certificates (an extended
key usage without purposes, defaults that DER leaves out written down), but walked to the few fields
that matter: RFC 5280 §4.1.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from exchange.errors import BadSignatureError, InvalidFieldError, MalformedObjectError
from exchange.keys import KID_BYTES, PublicKey

__all__ = ["PS256", "DocumentSigner"]

PS256: Final = -37
"""RSASSA-PSS with SHA-256 (RFC 8230 §2)."""

_LARGEST: Final = 64 * 1024
_RSA_BITS: Final = range(2048, 8192 + 1)
_OID, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _VERSION, _EXTENSIONS = 6, 23, 24, 0x30, 0xA0, 0xA3
_COUNTRY: Final = bytes.fromhex("550406")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_ROOTS: Final = tuple(map(bytes.fromhex, ("2b060104018e378f6501", "2b06010401008e378f6501")))
"""1.3.6.1.4.1.1847.2021.1, and with the 0 after 4.1 that many certificates have."""
_PURPOSES: Final = {
    root + bytes((last,)): kind for root in _ROOTS for last, kind in enumerate("tvr", start=1)
}
_PEM: Final = re.compile(
    rb"-----BEGIN (CERTIFICATE|PUBLIC KEY)-----([A-Za-z0-9+/=\s]+)-----END \1-----"
)


@dataclass(frozen=True, slots=True)
class DocumentSigner:
    """A key that signs foreign certificates, and what its certificate says of it."""

    key: PublicKey | rsa.RSAPublicKey | None = field(repr=False)
    """None for one of a kind that signs no certificates: P-384, for instance."""
    kids: frozenset[bytes]
    """The kids, 8 bytes, that name it. A certificate has one, the first bytes of its SHA-256; a
    bare key bears that of its SubjectPublicKeyInfo and that of RFC 9679."""
    country: str = ""
    """The subject's country, ISO 3166-1 alpha-2; "" where it names none."""
    not_before: datetime | None = None
    not_after: datetime | None = None
    purposes: frozenset[str] = frozenset()
    """``t`` test, ``v`` vaccination, ``r`` recovery: what it may sign; none of them is any."""

    @classmethod
    def read(cls, data: bytes) -> DocumentSigner:
        """Read a certificate or a bare public key.

        :param data: a certificate or a SubjectPublicKeyInfo: DER, PEM, or base64 of either.
        :raises InvalidFieldError: it is neither; field ``certificate``.
        """
        try:
            return _read(_der(data, layers=2))
        except (_NotDerError, IndexError, ValueError):
            raise InvalidFieldError(
                "not a readable certificate or public key",
                field="certificate",
                remedy="give an X.509 certificate or a SubjectPublicKeyInfo, in DER, PEM or base64",
            ) from None

    def of(self, country: str) -> DocumentSigner:
        """The same, of a country that whoever trusts it names."""
        return dataclasses.replace(self, country=country)

    def may_sign(self, kind: str) -> bool:
        """Whether it may sign a certificate of this kind: ``t``, ``v`` or ``r``."""
        return not self.purposes or kind in self.purposes

    def verify(self, algorithm: object, signature: bytes, signed: bytes) -> None:
        """Check a signature; the key fixes the algorithm, and the header's must be that one.

        ES256 is on P-256 alone (RFC 9053 §2.1), PS256 with 2048 bits or more (RFC 8230 §6.1); of
        our own keys' algorithms, all.

        :param algorithm: the header's alg, of any type.
        :raises MalformedObjectError: the alg is not the key's, or the key is of another kind.
        :raises BadSignatureError: the signature does not hold.
        """
        if isinstance(self.key, PublicKey):
            _agrees(algorithm, self.key.algorithm)
            self.key.verify(signature, signed)
        elif self.key is None or self.key.key_size not in _RSA_BITS:
            raise MalformedObjectError("the key is neither on P-256 nor RSA of 2048 to 8192 bits")
        else:
            _agrees(algorithm, PS256)
            # Any length of salt: it is the signer's choice, and nothing rests on it.
            pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.AUTO)
            try:
                self.key.verify(signature, signed, pss, SHA256())
            except InvalidSignature:
                raise BadSignatureError("the signature does not hold") from None


def _agrees(algorithm: object, keys: int) -> None:
    if type(algorithm) is not int or algorithm != keys:
        raise MalformedObjectError("alg is missing, or not the key's")


def _der(data: bytes, layers: int) -> bytes:
    """DER out of DER, PEM, or base64 of one of them."""
    if len(data) > 2 * _LARGEST:
        raise ValueError
    if found := _PEM.search(data):
        return base64.b64decode(b"".join(found[2].split()))
    if data[:1] == bytes((_SEQUENCE,)) and _is_binary(data):
        return data
    if not layers:
        raise ValueError
    plain = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        inner = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise ValueError from None
    return _der(inner, layers - 1)


def _is_binary(data: bytes) -> bool:
    """Whether it is DER: both that and base64 can begin with "0", but no text has such bytes."""
    return any(byte > 126 or byte < 9 for byte in data[:64])


# --- the walk -------------------------------------------------------------------------------------


class _NotDerError(Exception):
    """A field is not where RFC 5280 has it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One tag, length and value (X.690 §8.1)."""

    tag: int
    value: bytes
    whole: bytes

    def parts(self) -> list[_Part]:
        """What a sequence, set or explicit tag holds."""
        if not self.tag & 0x20:
            raise _NotDerError
        return list(_parts(self.value))


def _parts(data: bytes) -> Iterator[_Part]:
    at = 0
    while at < len(data):
        part = _part(data, at)
        at += len(part.whole)
        yield part


def _part(data: bytes, start: int) -> _Part:
    if start + 2 > len(data) or data[start] & 31 == 31:
        raise _NotDerError
    length, at = data[start + 1], start + 2
    if length > 127:
        at += length - 128
        length = int.from_bytes(data[start + 2 : at], "big")
        # 128 alone is an indefinite length: that is BER.
        if not 1 <= at - start - 2 <= 4:
            raise _NotDerError
    end = at + length
    if end > len(data):
        raise _NotDerError
    return _Part(data[start], data[at:end], data[start:end])


def _read(der: bytes) -> DocumentSigner:
    if len(der) > _LARGEST:
        raise _NotDerError
    outer = _part(der, 0)
    fields = outer.parts()[0].parts()
    if fields[0].tag == _OID:
        return _bare(outer.whole)
    return _certificate(outer.whole, fields)


def _bare(spki: bytes) -> DocumentSigner:
    key = _key(spki)
    if key is None:
        raise _NotDerError
    kids = {hashlib.sha256(spki).digest()[:KID_BYTES]}
    if isinstance(key, PublicKey):
        kids.add(key.kid)
    return DocumentSigner(key, frozenset(kids))


def _key(spki: bytes) -> PublicKey | rsa.RSAPublicKey | None:
    with contextlib.suppress(InvalidFieldError):
        return PublicKey.from_der(spki)
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        key = serialization.load_der_public_key(spki)
        return key if isinstance(key, rsa.RSAPublicKey) else None
    return None


def _certificate(der: bytes, fields: list[_Part]) -> DocumentSigner:
    """Read a certificate by its TBSCertificate's fields (RFC 5280 §4.1)."""
    if fields[0].tag == _VERSION:
        fields = fields[1:]
    _serial, _algorithm, _issuer, validity, subject, key, *optional = fields
    times = [_time(part) for part in validity.parts()]
    return DocumentSigner(
        _key(key.whole),
        frozenset({hashlib.sha256(der).digest()[:KID_BYTES]}),
        country=_country(subject),
        not_before=times[0],
        not_after=times[1],
        purposes=_purposes(optional),
    )


def _time(part: _Part) -> datetime | None:
    """A time in the one form that RFC 5280 §4.1.2.5 allows, or None."""
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}.get(part.tag, "")
    try:
        return datetime.strptime(part.value.decode("ascii"), form).replace(tzinfo=UTC)
    except ValueError:
        return None


def _country(subject: _Part) -> str:
    for name in subject.parts():
        for attribute in name.parts():
            type_, value = attribute.parts()[:2]
            if type_.value == _COUNTRY and re.fullmatch(rb"[A-Za-z]{2}", value.value):
                return value.value.decode("ascii").upper()
    return ""


def _purposes(optional: list[_Part]) -> frozenset[str]:
    found: set[str] = set()
    for extensions in (part for part in optional if part.tag == _EXTENSIONS):
        for extension in extensions.parts()[0].parts():
            name, *_critical, value = extension.parts()
            if name.value == _EXTENDED_KEY_USAGE:
                usages = _part(value.value, 0).parts()
                found |= {_PURPOSES[usage.value] for usage in usages if usage.value in _PURPOSES}
    return frozenset(found)
