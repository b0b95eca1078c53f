"""Deterministic CBOR (RFC 8949 §4.2), written and strictly read: as much as claims sets need.

The reader is our own, and small on purpose. A general decoder resolves tags, and hostile ones burn
it: cbor2 compiles a regular expression of 39 KB for 15 s, and shared references in 186 bytes
unfold to a million items (measured). This one knows no tags, and its work is linear in the bytes.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final

from exchange.errors import InvalidFieldError, MalformedObjectError

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_ITEMS",
    "decode_map",
    "encode",
    "encode_items",
    "join",
    "read_item",
    "read_map",
    "too_large",
    "too_many",
    "trailing",
    "truncated",
    "write_head",
]

MAX_BYTES: Final = 64 * 1024
"""No object is larger."""
MAX_DEPTH: Final = 16
"""So many maps and arrays may stand within each other."""
MAX_ITEMS: Final = 1024
"""So many elements may all maps and arrays of an object have together, where nothing else is said:
64 KiB of empty arrays would cost as much as three hundred honest objects."""

BYTES, TEXT, ARRAY, MAP = 2, 3, 4, 5
"""Major types (RFC 8949 §3.1)."""


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
        raise _no_utf8(error) from None


def encode_items(value: Mapping[int | str, object]) -> dict[int | str, bytes]:
    """Write each item of a map, its key and its value, as `encode` does, for `join`.

    :raises InvalidFieldError: as `encode`; and TypeError.
    """
    try:
        return {key: _write_key(key) + _write(item, MAX_DEPTH - 1) for key, item in value.items()}
    except UnicodeEncodeError as error:
        raise _no_utf8(error) from None


def join(items: Collection[bytes]) -> bytes:
    """Write the map of some items that `encode_items` has written."""
    # No key's encoding begins another's: the items are in the order of their keys.
    return write_head(MAP, len(items)) + b"".join(sorted(items))


def _no_utf8(error: UnicodeEncodeError) -> InvalidFieldError:
    # The codec's own error would carry the text, which may be a person's name.
    return InvalidFieldError(f"text cannot be written as UTF-8: {error.reason}")


def decode_map(payload: bytes, most: int = MAX_ITEMS) -> dict[Any, Any]:
    """Read a claims set (RFC 8392) strictly.

    Accepted are null, bool, int of 64 bits, float, bytes, str, and lists and maps of these, 16
    levels deep, of ``most`` elements together; map keys are int or str. Refused are tags,
    indefinite lengths, duplicate keys at any depth and trailing bytes. Integers and lengths need
    not be in their shortest form, nor keys in order: the signature is over the bytes as they came.

    :raises MalformedObjectError: it is anything else, saying what is wrong.
    """
    if len(payload) > MAX_BYTES:
        raise too_large()
    return read_map(payload, most)


# Reading. A position only ever grows, so one look at the end of the data finds every string and
# number that was cut short before; what a cut string holds until then is never given out.


def read_map(data: bytes, most: int = MAX_ITEMS) -> dict[Any, Any]:
    """Read the one map that ``data`` is."""
    value, end = read_item(data, 0, most)
    if end != len(data):
        raise truncated() if end > len(data) else trailing()
    if type(value) is not dict:
        raise MalformedObjectError("not a CBOR map")
    return value


def read_item(data: bytes, at: int, most: int = MAX_ITEMS) -> tuple[Any, int]:
    """Read the item at ``at``; its end may lie past the data."""
    try:
        return _read(data, at, MAX_DEPTH, [most])
    except (IndexError, struct.error):
        raise truncated() from None
    except UnicodeDecodeError:
        # Not chained: the codec's error would carry the bytes, which may be personal.
        raise MalformedObjectError("text is not UTF-8, or cut short") from None


def _read(data: bytes, at: int, depth: int, left: list[int]) -> tuple[Any, int]:  # noqa: C901, PLR0911, PLR0912 - one branch a major type, in one function because this loop is the hottest
    """Read the item at ``at``; gives it and its end.

    :param depth: so many more levels are allowed; ``left``: so many more elements.
    """
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
    if major == MAP:
        if not depth:
            raise _too_deep()
        depth -= 1
        _count(left, argument)
        found: dict[int | str, Any] = {}
        for _ in range(argument):
            head = data[at]
            if 0x60 <= head < 0x78:  # the same once more: most items of a claims set are short keys
                end = at + head - 0x5F
                key: int | str = data[at + 1 : end].decode()
                at = end
            elif head >> 5 in _KEYS:
                key, at = _read(data, at, 0, left)
            else:
                raise MalformedObjectError("a map key is neither an integer nor text")
            if key in found:
                raise MalformedObjectError("a map holds the same key twice")
            found[key], at = _read(data, at, depth, left)
        return found, at
    if major == TEXT:
        end = at + argument
        return data[at:end].decode(), end
    if major == BYTES:
        end = at + argument
        return data[at:end], end
    if major == 1:
        return -1 - argument, at
    if major == ARRAY:
        if not depth:
            raise _too_deep()
        _count(left, argument)
        items = []
        for _ in range(argument):
            item, at = _read(data, at, depth - 1, left)
            items.append(item)
        return items, at
    if head in _SIMPLE:
        return _SIMPLE[head], at
    raise MalformedObjectError("a CBOR tag or simple value that no claims set has")


def _count(left: list[int], elements: int) -> None:
    left[0] -= elements
    if left[0] < 0:
        raise too_many()


_KEYS: Final = frozenset({0, 1, TEXT})
_SIMPLE: Final = {0xF4: False, 0xF5: True, 0xF6: None}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


def _read_float(data: bytes, at: int, argument: int) -> tuple[float, int]:
    layout = _FLOATS.get(argument)
    if layout is None:
        raise MalformedObjectError("a CBOR simple value that no claims set has")
    value: float = layout.unpack_from(data, at)[0]
    return value, at + layout.size


def truncated() -> MalformedObjectError:
    """The error of an object that ends too soon."""
    return MalformedObjectError("the object is cut short")


def trailing() -> MalformedObjectError:
    """The error of an object that goes on after its end."""
    return MalformedObjectError("bytes follow after the object's end")


def _too_deep() -> MalformedObjectError:
    return MalformedObjectError(f"more than {MAX_DEPTH} levels")


def too_many() -> MalformedObjectError:
    """The error of an object with more elements than it may have."""
    return MalformedObjectError("too many elements")


def too_large() -> MalformedObjectError:
    """The error of an object beyond `MAX_BYTES`."""
    return MalformedObjectError(f"larger than {MAX_BYTES // 1024} KiB")


# Writing.

_SHORT: Final = tuple(bytes((byte,)) for byte in range(256))
_TEXT_HEAD: Final = TEXT << 5
_pack2, _pack4, _pack8 = (struct.Struct(layout).pack for layout in (">BH", ">BI", ">BQ"))


def write_head(major: int, argument: int) -> bytes:
    """Write a head in its shortest form (RFC 8949 §3)."""
    major <<= 5
    if argument < 24:
        return _SHORT[major | argument]
    if argument < 0x100:
        return b"%c%c" % (major | 24, argument)
    if argument < 0x10000:
        return _pack2(major | 25, argument)
    if argument < 0x1_0000_0000:
        return _pack4(major | 26, argument)
    return _pack8(major | 27, argument)


def _write(value: object, depth: int) -> bytes:  # noqa: PLR0911 - one return a CBOR type
    if isinstance(value, str):
        text = value.encode()
        length = len(text)
        return (_SHORT[_TEXT_HEAD + length] if length < 24 else write_head(TEXT, length)) + text
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int):
        if not -(1 << 64) <= value < 1 << 64:
            raise InvalidFieldError("an integer does not fit into 64 bits")
        return write_head(0, value) if value >= 0 else write_head(1, -1 - value)
    if isinstance(value, bytes):
        return write_head(BYTES, len(value)) + value
    if isinstance(value, float):
        return _write_float(value)
    if not isinstance(value, _CONTAINERS):
        raise TypeError(f"no CBOR for {type(value).__name__}")
    if not depth:
        raise InvalidFieldError(f"more than {MAX_DEPTH} levels")
    depth -= 1
    if isinstance(value, dict):
        return join([_write_key(key) + _write(item, depth) for key, item in value.items()])
    return write_head(ARRAY, len(value)) + b"".join([_write(item, depth) for item in value])


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
