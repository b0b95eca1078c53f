"""HC1 texts: signed bytes as the text of a QR code, as the EU's HCERT has it (HCERT spec §4).

``HC1:``, then base45 (RFC 9285) of zlib (RFC 1950) of the COSE_Sign1 bytes. A text is no
signature: two texts can hold the same signed bytes.
"""

from __future__ import annotations

import zlib
from typing import Final

from exchange import cbor
from exchange.codes import base45
from exchange.errors import MalformedObjectError

__all__ = ["MAX_CHARACTERS", "PREFIX", "from_text", "to_text"]

PREFIX: Final = "HC1:"
"""Context identifier: health certificate, version 1."""

MAX_CHARACTERS: Final = 128 * 1024
"""No text is longer; base45 of 64 KiB that do not compress has 96 Ki."""


def to_text(signed: bytes) -> str:
    """The text of a signed object.

    :param signed: COSE_Sign1 bytes.
    """
    return PREFIX + base45.encode(zlib.compress(signed, 9))


def from_text(text: str) -> bytes:
    """The signed bytes in a text; nothing of them is verified.

    What is unpacked never exceeds 64 KiB, whatever the text claims.

    :raises MalformedObjectError: ``text`` is too long, has another prefix, is not base45 of one
        whole zlib stream, or holds more than an object may have.
    """
    if len(text) > MAX_CHARACTERS:
        raise _malformed(f"longer than {MAX_CHARACTERS // 1024} Ki characters")
    if not text.startswith(PREFIX):
        raise _malformed(f"does not begin with {PREFIX}")
    try:
        packed = base45.decode(text[len(PREFIX) :])
    except MalformedObjectError as error:
        raise error.at("text") from None
    unpacker = zlib.decompressobj()
    try:
        signed = unpacker.decompress(packed, cbor.MAX_BYTES + 1)
    except zlib.error:
        raise _malformed("not a zlib stream") from None
    if len(signed) > cbor.MAX_BYTES:
        raise cbor.too_large().at("text")
    if not unpacker.eof:
        raise _malformed("the zlib stream is cut short")
    if unpacker.unused_data:
        raise _malformed("bytes follow after the zlib stream")
    return signed


def _malformed(what: str) -> MalformedObjectError:
    return MalformedObjectError(what, field="text")
