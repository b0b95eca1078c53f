"""Protobuf's wire form, spliced: what was serialised once stands in many messages.

Fields that follow each other in the order of their numbers are the bytes that the protobuf library
writes itself. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

__all__ = ["embedded", "varint"]

_LENGTH_DELIMITED = 2
_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def embedded(number: int, data: bytes) -> bytes:
    """A field that holds bytes, a text or a message.

    :param number: of the field, 1 to 15.
    """
    return b"%c%b%b" % (number << 3 | _LENGTH_DELIMITED, varint(len(data)), data)


def varint(value: int) -> bytes:
    """An unsigned varint."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
