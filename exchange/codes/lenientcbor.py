"""CBOR (RFC 8949) as others write it, read leniently and still in bounds.

`exchange.cbor` reads what we write, and refuses what real foreign certificates hold: indefinite
lengths (Austria), tagged times, floats for seconds (Spain). This reader knows them. A tag's content
stands for the tag, so nothing unfolds, compiles or grows: the work is linear in the bytes, and an
item that is said to be long must be there before anything is made of it.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from exchange import cbor
from exchange.errors import MalformedObjectError

__all__ = ["decode", "peel"]

_INTEGER, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_BREAK: Final = 0xFF
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


def decode(data: bytes) -> Any:
    """Read the one item that ``data`` is.

    :param data: at most 64 KiB, items within each other at most 16 deep, 1,024 elements in all.
    :returns: None, bool, int, float, bytes, str, or lists and dicts of these; tags are passed over.
    :raises MalformedObjectError: it is cut short, too large or too deep, has too many elements,
        goes on after its end, holds a key twice, or one that is neither a number, text nor bytes.
    """
    if len(data) > cbor.MAX_BYTES:
        raise cbor.too_large()
    reader = _Reader(data)
    item = reader.item(cbor.MAX_DEPTH)
    if reader.at != len(data):
        raise cbor.trailing()
    return item


def peel(data: bytes) -> tuple[list[int], bytes]:
    """The tags that an item bears, outermost first, and the item without them.

    :raises MalformedObjectError: it is cut short or too large, or bears more than four.
    """
    if len(data) > cbor.MAX_BYTES:
        raise cbor.too_large()
    reader = _Reader(data)
    tags: list[int] = []
    while data[reader.at : reader.at + 1] and data[reader.at] >> 5 == _TAG:
        _, _, number = reader.head()
        if number is None or len(tags) == 4:
            raise MalformedObjectError("tagged too often, or with no number")
        tags.append(number)
    return tags, data[reader.at :]


class _Reader:
    __slots__ = ("at", "data", "left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        # Nothing is signed yet: 64 KiB of zeros fit into the picture of a code.
        self.left = cbor.MAX_ITEMS

    def head(self) -> tuple[int, int, int | None]:
        """Major type, its five bits, and the argument; None for an indefinite length or a break."""
        (first,) = self._take(1)
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short, short
        if short < 28:
            return major, short, int.from_bytes(self._take(1 << (short - 24)), "big")
        if short < 31:
            raise MalformedObjectError("a reserved CBOR head")
        return major, short, None

    def item(self, depth: int) -> Any:
        major, short, argument = self.head()
        while major == _TAG and argument is not None:
            self._count()
            major, short, argument = self.head()
        if major in (_BYTES, _TEXT):
            whole = self._chunks(major) if argument is None else self._take(argument)
            return whole if major == _BYTES else _text(whole)
        if major in (_ARRAY, _MAP):
            if not depth:
                raise MalformedObjectError(f"more than {cbor.MAX_DEPTH} levels")
            read = self._array if major == _ARRAY else self._map
            return read(argument, depth - 1)
        if argument is None:
            raise MalformedObjectError("a break, or an indefinite length, where none may be")
        if major == _INTEGER:
            return argument
        return -1 - argument if major == _NEGATIVE else self._simple(short, argument)

    def _take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise cbor.truncated()
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def _more(self, count: int | None, done: int) -> bool:
        """Whether a container goes on; the break that ends it is passed over."""
        if count is None:
            more = self.data[self.at : self.at + 1] != bytes((_BREAK,))
            self.at += not more
        else:
            more = done < count
        if more:
            self._count()
        return more

    def _count(self) -> None:
        """Count an element of a container, or a tag."""
        self.left -= 1
        if self.left < 0:
            raise cbor.too_many()

    def _chunks(self, major: int) -> bytes:
        chunks: list[bytes] = []
        while self._more(None, 0):
            of, _, length = self.head()
            if of != major or length is None:
                raise MalformedObjectError("a string of indefinite length holds something else")
            chunks.append(self._take(length))
        return b"".join(chunks)

    def _array(self, count: int | None, depth: int) -> list[Any]:
        items: list[Any] = []
        while self._more(count, len(items)):
            items.append(self.item(depth))
        return items

    def _map(self, count: int | None, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while self._more(count, len(found)):
            key = self.item(0)
            # True would pass as 1; None and lists are no labels.
            if isinstance(key, bool) or not isinstance(key, int | float | str | bytes):
                raise MalformedObjectError("a map key is neither a number, text nor bytes")
            if key in found or key != key:  # noqa: PLR0124 - NaN is no key: it equals nothing
                raise MalformedObjectError("a map holds the same key twice")
            found[key] = self.item(depth)
        return found

    def _simple(self, short: int, argument: int) -> float | bool | None:
        if layout := _FLOATS.get(short):
            value: float = layout.unpack(argument.to_bytes(layout.size, "big"))[0]
            return value
        if short not in _SIMPLE:
            raise MalformedObjectError("a CBOR simple value that no claims set has")
        return _SIMPLE[short]


def _text(whole: bytes) -> str:
    try:
        return whole.decode()
    except UnicodeDecodeError:
        # Not chained: the codec's error would carry the bytes, which may be personal.
        raise MalformedObjectError("text is not UTF-8") from None
