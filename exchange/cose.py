"""Signed objects (签名对象): COSE_Sign1 over deterministic CBOR, written and strictly read.

The reader is our own, and small on purpose. A general CBOR decoder resolves tags, and hostile ones
burn it: cbor2 compiles a regular expression of 39 KB for 15 s, and shared references in 186 bytes
unfold to a million items (measured). This one knows no tags, and its work is linear in the bytes.
"""

from __future__ import annotations

import contextlib
import enum
import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import (
    BadSignatureError,
    InvalidFieldError,
    MalformedObjectError,
    UnknownIssuerError,
)
from exchange.keys import KID_BYTES, Algorithm, PublicKey, Signer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MAX_DEPTH",
    "MAX_OBJECT_BYTES",
    "ObjectType",
    "Sign1",
    "decode_claims",
    "encode",
    "parse",
    "sign",
    "verify",
]

MAX_OBJECT_BYTES: Final = 64 * 1024
"""No signed object is larger."""
MAX_DEPTH: Final = 16
"""So many maps and arrays may stand within each other."""

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
_BYTES, _TEXT, _ARRAY, _MAP = 2, 3, 4, 5


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

    :param payload: the claims' CBOR, see `encode`.
    :returns: the object's bytes, which are never encoded again.
    :raises MalformedObjectError: the object would exceed 64 KiB, and nobody would read it.
    """
    key = signer.public
    protected = _protected(key.algorithm, key.kid, typ)
    signature = signer.sign(_to_be_signed(protected, payload))
    signed = b"".join(
        (
            b"\xd2\x84",
            _head(_BYTES, len(protected)),
            protected,
            b"\xa0",
            _head(_BYTES, len(payload)),
            payload,
            _head(_BYTES, len(signature)),
            signature,
        )
    )
    if len(signed) > MAX_OBJECT_BYTES:
        raise _too_large()
    return signed


def parse(data: bytes, typ: ObjectType) -> Sign1:
    """Read a COSE_Sign1 strictly, without verifying it.

    :param data: the whole object: tag 18 or none, at most 64 KiB, of definite lengths.
    :param typ: what it must be.
    :raises MalformedObjectError: it is anything else, saying what is wrong.
    """
    if len(data) > MAX_OBJECT_BYTES:
        raise _too_large()
    try:
        header, message, end = _read_sign1(data)
    except IndexError:
        raise _truncated() from None
    if end != len(data):
        raise _truncated() if end > len(data) else _trailing()
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
            with contextlib.suppress(BadSignatureError):
                key.verify(message.signature, signed)
                return key
    if not agrees:
        raise MalformedObjectError(f"alg {message.algorithm.name} is not the key's")
    raise BadSignatureError("the signature does not hold under any key that bears the kid")


def encode(value: object) -> bytes:
    """Write deterministic CBOR (RFC 8949 §4.2.1).

    Keys are in bytewise order of their encoding, numbers in their shortest form.

    :param value: None, bool, int of 64 bits, float, bytes, str, and lists, tuples and dicts of
        these; keys are int or str (RFC 8392 §1.1).
    :raises InvalidFieldError: an integer too large, a string with a lone surrogate, or more than
        16 levels.
    :raises TypeError: a value of any other type, which is the caller's mistake.
    """
    try:
        return _write(value, MAX_DEPTH)
    except UnicodeEncodeError as error:
        # The codec's own error would carry the text, which may be a person's name.
        raise InvalidFieldError(f"text cannot be written as UTF-8: {error.reason}") from None


def decode_claims(payload: bytes) -> dict[Any, Any]:
    """Read a claims set (RFC 8392) strictly.

    Accepted are null, bool, int of 64 bits, float, bytes, str, and lists and maps of these, 16
    levels deep; map keys are int or str. Refused are tags, indefinite lengths, duplicate keys
    at any depth and trailing bytes. Integers and lengths need not be in their shortest form, nor
    keys in order: the signature is over the bytes as they came.

    :raises MalformedObjectError: it is anything else, saying what is wrong.
    """
    if len(payload) > MAX_OBJECT_BYTES:
        raise _too_large()
    return _read_map(payload)


# Reading. A position only ever grows, so one look at the end of the data finds every string and
# number that was cut short before; what a cut string holds until then is never given out.


def _read_map(data: bytes) -> dict[Any, Any]:
    """Read the one map that ``data`` is."""
    value, end = _read_item(data, 0)
    if end != len(data):
        raise _truncated() if end > len(data) else _trailing()
    if type(value) is not dict:
        raise MalformedObjectError("not a CBOR map")
    return value


def _read_item(data: bytes, at: int) -> tuple[Any, int]:
    """Read the item at ``at``; its end may lie past the data."""
    try:
        return _read(data, at, MAX_DEPTH)
    except (IndexError, struct.error):
        raise _truncated() from None
    except UnicodeDecodeError:
        # Not chained: the codec's error would carry the bytes, which may be personal.
        raise MalformedObjectError("text is not UTF-8, or cut short") from None


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:  # noqa: C901, PLR0911, PLR0912 - one branch a major type, in one function because this loop is the hottest
    """Read the item at ``at``; ``depth`` more levels are allowed. Gives it and its end."""
    head = data[at]
    at += 1
    if 0x60 <= head < 0x78:
        end = at + head - 0x60
        return data[at:end].decode(), end
    major = head >> 5
    argument = head & 31
    if argument > 23:
        if argument > 27:
            raise MalformedObjectError("an indefinite length or a reserved CBOR head")
        if major == 7:
            return _read_float(data, at, argument)
        end = at + (1 << (argument - 24))
        argument = int.from_bytes(data[at:end], "big")
        at = end
    if major == 0:
        return argument, at
    if major == _MAP:
        if not depth:
            raise _too_deep()
        depth -= 1
        found: dict[int | str, Any] = {}
        for _ in range(argument):
            if data[at] >> 5 not in _KEYS:
                raise MalformedObjectError("a map key is neither an integer nor text")
            key, at = _read(data, at, 0)
            if key in found:
                raise MalformedObjectError("a map holds the same key twice")
            found[key], at = _read(data, at, depth)
        return found, at
    if major == _TEXT:
        end = at + argument
        return data[at:end].decode(), end
    if major == _BYTES:
        end = at + argument
        return data[at:end], end
    if major == 1:
        return -1 - argument, at
    if major == _ARRAY:
        if not depth:
            raise _too_deep()
        items = []
        for _ in range(argument):
            item, at = _read(data, at, depth - 1)
            items.append(item)
        return items, at
    if head in _SIMPLE:
        return _SIMPLE[head], at
    raise MalformedObjectError("a CBOR tag or simple value that no claims set has")


_KEYS: Final = frozenset({0, 1, _TEXT})
_SIMPLE: Final = {0xF4: False, 0xF5: True, _NIL: None}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


def _read_float(data: bytes, at: int, argument: int) -> tuple[float, int]:
    layout = _FLOATS.get(argument)
    if layout is None:
        raise MalformedObjectError("a CBOR simple value that no claims set has")
    value: float = layout.unpack_from(data, at)[0]
    return value, at + layout.size


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
    if length > 23:
        start += 1 << (length - 24)
        length = int.from_bytes(data[at + 1 : start], "big")
    end = start + length
    if end > len(data):
        raise _truncated()
    if start - at != len(_head(_BYTES, length)):
        raise MalformedObjectError(f"the length of {what} is not in its shortest form")
    return data[start:end], end


def _read_header(protected: bytes) -> _Header:
    """Read a protected header (RFC 9052 §3)."""
    header = _read_map(protected)
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
    unprotected, at = _read_item(data, at)
    if type(unprotected) is not dict:
        raise MalformedObjectError("the unprotected header is not a map")
    if not header.labels.isdisjoint(unprotected):
        raise MalformedObjectError("both headers hold the same label")
    if _CRIT in unprotected:
        raise MalformedObjectError("crit is not protected")
    return at


def _truncated() -> MalformedObjectError:
    return MalformedObjectError("the object is cut short")


def _trailing() -> MalformedObjectError:
    return MalformedObjectError("bytes follow after the object's end")


def _too_deep() -> MalformedObjectError:
    return MalformedObjectError(f"more than {MAX_DEPTH} levels")


def _too_large() -> MalformedObjectError:
    return MalformedObjectError(f"larger than {MAX_OBJECT_BYTES // 1024} KiB")


# Writing.

_SHORT: Final = tuple(bytes((byte,)) for byte in range(256))


def _head(major: int, argument: int) -> bytes:
    """Write a head in its shortest form (RFC 8949 §3)."""
    major <<= 5
    if argument < 24:
        return _SHORT[major | argument]
    if argument < 0x100:
        return bytes((major | 24, argument))
    if argument < 0x10000:
        return struct.pack(">BH", major | 25, argument)
    if argument < 0x1_0000_0000:
        return struct.pack(">BI", major | 26, argument)
    return struct.pack(">BQ", major | 27, argument)


@lru_cache(maxsize=256)
def _protected(algorithm: Algorithm, kid: bytes, typ: ObjectType) -> bytes:
    return encode({_ALG: algorithm, _KID: kid, _TYP: typ})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Assemble the Sig_structure, without external data (RFC 9052 §4.4)."""
    return b"".join(
        (
            _SIGNATURE1,
            _head(_BYTES, len(protected)),
            protected,
            _NO_EXTERNAL_AAD,
            _head(_BYTES, len(payload)),
            payload,
        )
    )


def _write(value: object, depth: int) -> bytes:  # noqa: PLR0911 - one return a CBOR type
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int):
        if not -(1 << 64) <= value < 1 << 64:
            raise InvalidFieldError("an integer does not fit into 64 bits")
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, float):
        return _write_float(value)
    if not isinstance(value, _CONTAINERS):
        raise TypeError(f"no CBOR for {type(value).__name__}")
    if not depth:
        raise InvalidFieldError(f"more than {MAX_DEPTH} levels")
    depth -= 1
    if isinstance(value, dict):
        pairs = [(_write_key(key), _write(item, depth)) for key, item in value.items()]
        # No two keys are equal, so the values are never compared.
        pairs.sort()
        return _head(_MAP, len(pairs)) + b"".join(chain.from_iterable(pairs))
    return _head(_ARRAY, len(value)) + b"".join([_write(item, depth) for item in value])


_WORDS: Final = {False: b"\xf4", True: b"\xf5", None: b"\xf6"}
_CONTAINERS: Final = (dict, list, tuple)


@lru_cache(maxsize=512, typed=True)
def _write_key(key: object) -> bytes:
    if not isinstance(key, int | str) or isinstance(key, bool):
        raise TypeError(f"a map key is int or str, not {type(key).__name__}")
    return _write(key, 0)


def _write_float(value: float) -> bytes:
    """Write the shortest of the three widths that keeps the value (RFC 8949 §4.2.2)."""
    if value != value:  # noqa: PLR0124 - NaN has many forms, and one that is written
        return b"\xf9\x7e\x00"
    for argument, layout in _FLOATS.items():
        with contextlib.suppress(OverflowError):
            packed = layout.pack(value)
            if layout.unpack(packed)[0] == value:
                return _SHORT[7 << 5 | argument] + packed
    raise AssertionError  # pragma: no cover - the widest layout holds every float
