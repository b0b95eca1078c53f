"""Signed objects (签名对象): COSE_Sign1 (RFC 9052), written and strictly read."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from exchange import cbor
from exchange.errors import BadSignatureError, MalformedObjectError, UnknownIssuerError
from exchange.keys import KID_BYTES, Algorithm, PublicKey, Signer

__all__ = ["ObjectType", "Sign1", "parse", "sign", "verify"]

_SIGN1_TAG: Final = 0xD2
_ARRAY_OF_FOUR: Final = 0x84
_EMPTY_MAP: Final = 0xA0
_NIL: Final = 0xF6
_ALG, _CRIT, _KID, _TYP = 1, 2, 4, 16
_ALGORITHMS: Final = {int(algorithm): algorithm for algorithm in Algorithm}
_UNDERSTOOD: Final = frozenset({_ALG, _KID, _TYP})
_SIGNATURE1: Final = b"\x84\x6aSignature1"
_NO_EXTERNAL_AAD: Final = b"\x40"
_CACHED_HEADER_BYTES: Final = 256
_LONGEST_HEADER: Final = 1024
"""A map of small items costs a hundred times what a payload of its size does."""


class ObjectType(enum.StrEnum):
    """The ``typ`` of each signed object (RFC 9596), so that none passes as another."""

    ATTESTATION = "application/tongxing-attestation+cwt"
    HEALTH_CODE = "application/tongxing-healthcode+cwt"
    RECEIPT = "application/tongxing-receipt+cwt"
    STATUS_LIST = "application/statuslist+cwt"


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1 as it was read (RFC 9052 §4.2); nothing of it is verified yet."""

    protected: bytes
    """The protected header's bytes, as they came."""
    algorithm: Algorithm
    kid: bytes
    payload: bytes
    signature: bytes


def sign(payload: bytes, signer: Signer, typ: ObjectType) -> bytes:
    """Sign a payload: a COSE_Sign1 with tag 18 and the protected header {alg, kid, typ}.

    :param payload: the claims' CBOR, see `cbor.encode`.
    :returns: the object's bytes, which are never encoded again.
    :raises MalformedObjectError: the object would exceed 64 KiB, and nobody would read it.
    """
    key = signer.public
    protected = _protected(key.algorithm, key.kid, typ)
    signature = signer.sign(_to_be_signed(protected, payload))
    signed = b"".join(
        (
            b"\xd2\x84",
            cbor.write_head(cbor.BYTES, len(protected)),
            protected,
            b"\xa0",
            cbor.write_head(cbor.BYTES, len(payload)),
            payload,
            cbor.write_head(cbor.BYTES, len(signature)),
            signature,
        )
    )
    if len(signed) > cbor.MAX_BYTES:
        raise cbor.too_large()
    return signed


def parse(data: bytes, typ: ObjectType) -> Sign1:
    """Read a COSE_Sign1 strictly, without verifying it.

    :param data: the whole object: tag 18 or none, at most 64 KiB, of definite lengths.
    :param typ: what it must be.
    :raises MalformedObjectError: it is anything else, saying what is wrong.
    """
    if len(data) > cbor.MAX_BYTES:
        raise cbor.too_large()
    try:
        header, message, end = _read_sign1(data)
    except IndexError:
        raise cbor.truncated() from None
    if end != len(data):
        raise cbor.truncated() if end > len(data) else cbor.trailing()
    if header.typ != typ:
        raise MalformedObjectError(f"typ is not {typ}")
    return message


def verify(message: Sign1, keys: Iterable[PublicKey]) -> PublicKey:
    """Check the signature over the bytes as they came.

    :param keys: the keys of the object's issuer; each that bears the kid is tried.
    :returns: the key under which the signature holds.
    :raises UnknownIssuerError: no key bears the kid.
    :raises MalformedObjectError: the header's alg is not the key's.
    :raises BadSignatureError: the signature holds under none of them.
    """
    bearers = [key for key in keys if key.kid == message.kid]
    if not bearers:
        raise UnknownIssuerError(
            f"no trusted key bears the kid {message.kid.hex()}", remedy="refresh the trust list"
        )
    signed = _to_be_signed(message.protected, message.payload)
    agrees = False
    for key in bearers:
        if key.algorithm is message.algorithm:
            agrees = True
            try:
                key.verify(message.signature, signed)
            except BadSignatureError:
                continue
            return key
    if not agrees:
        raise MalformedObjectError(f"alg {message.algorithm.name} is not the key's")
    raise BadSignatureError("the signature does not hold under any key that bears the kid")


@dataclass(frozen=True, slots=True)
class _Header:
    algorithm: Algorithm
    kid: bytes
    typ: Any
    labels: frozenset[int | str]


def _read_sign1(data: bytes) -> tuple[_Header, Sign1, int]:
    """Read the envelope; the end that is given back may lie past the data."""
    at = 0
    if data[0] >> 5 == 6:
        if data[0] != _SIGN1_TAG:
            raise MalformedObjectError("another tag than 18, COSE_Sign1")
        at = 1
    if data[at] != _ARRAY_OF_FOUR:
        raise MalformedObjectError("not a COSE_Sign1: no array of four elements")
    protected, at = _read_bytes(data, at + 1, "the protected header")
    if len(protected) > _LONGEST_HEADER:
        raise MalformedObjectError(f"the protected header is longer than {_LONGEST_HEADER} bytes")
    header = (
        _cached_header(protected)
        if len(protected) <= _CACHED_HEADER_BYTES
        else _read_header(protected)
    )
    if data[at] == _EMPTY_MAP:
        at += 1
    else:
        at = _read_unprotected(data, at, header)
    if data[at] == _NIL:
        raise MalformedObjectError("the payload is detached")
    payload, at = _read_bytes(data, at, "the payload")
    signature, at = _read_bytes(data, at, "the signature")
    return header, Sign1(protected, header.algorithm, header.kid, payload, signature), at


def _read_bytes(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    head = data[at]
    if not 0x40 <= head <= 0x5B:
        raise MalformedObjectError(f"{what} is not a byte string of definite length")
    start = at + 1
    length = head - 0x40
    least = 0
    if length > 23:
        width = 1 << (length - 24)
        start += width
        length = int.from_bytes(data[at + 1 : start], "big")
        least = 24 if width == 1 else 1 << 4 * width
    end = start + length
    if end > len(data):
        raise cbor.truncated()
    if length < least:
        raise MalformedObjectError(f"the length of {what} is not in its shortest form")
    return data[start:end], end


def _read_header(protected: bytes) -> _Header:
    """Read a protected header (RFC 9052 §3)."""
    header = cbor.read_map(protected)
    # Types are looked at by name: True and -7.0 would pass as 1 and -7.
    alg, kid = header.get(_ALG), header.get(_KID)
    if alg is None:
        raise MalformedObjectError("alg is missing in the protected header")
    if type(alg) is not int or alg not in _ALGORITHMS:
        raise MalformedObjectError("alg is unknown")
    if kid is None:
        raise MalformedObjectError("kid is missing in the protected header")
    if type(kid) is not bytes or len(kid) != KID_BYTES:
        raise MalformedObjectError(f"kid is not {KID_BYTES} bytes")
    if _CRIT in header:
        _check_critical(header)
    return _Header(_ALGORITHMS[alg], kid, header.get(_TYP), frozenset(header))


_cached_header = lru_cache(maxsize=1024)(_read_header)


def _check_critical(header: dict[Any, Any]) -> None:
    critical = header[_CRIT]
    if type(critical) is not list or not critical:
        raise MalformedObjectError("crit is not a list of labels")
    for label in critical:
        if type(label) is not int or label not in _UNDERSTOOD or label not in header:
            raise MalformedObjectError("crit names a header parameter that is not understood")


def _read_unprotected(data: bytes, at: int, header: _Header) -> int:
    unprotected, at = cbor.read_item(data, at)
    if type(unprotected) is not dict:
        raise MalformedObjectError("the unprotected header is not a map")
    if not header.labels.isdisjoint(unprotected):
        raise MalformedObjectError("both headers hold the same label")
    if _CRIT in unprotected:
        raise MalformedObjectError("crit is not protected")
    return at


@lru_cache(maxsize=256)
def _protected(algorithm: Algorithm, kid: bytes, typ: ObjectType) -> bytes:
    return cbor.encode({_ALG: algorithm, _KID: kid, _TYP: typ})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Assemble the Sig_structure, without external data (RFC 9052 §4.4)."""
    return b"".join(
        (
            _SIGNATURE1,
            cbor.write_head(cbor.BYTES, len(protected)),
            protected,
            _NO_EXTERNAL_AAD,
            cbor.write_head(cbor.BYTES, len(payload)),
            payload,
        )
    )
