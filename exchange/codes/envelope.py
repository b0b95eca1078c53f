"""The layers of a foreign certificate: prefix, zlib, COSE_Sign1, as others write them.

The EU's specification (HCERT, Electronic Health Certificate Specification §2 to §4) leaves room,
and what is out there uses all of it: objects without a tag or with two, kid and alg in either
header, protected headers that are empty. `exchange.cose` reads our own objects and none of these.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any, Final

from exchange import cbor
from exchange.codes import lenientcbor
from exchange.codes.dsc import DocumentSigner
from exchange.codes.hc1 import MAX_CHARACTERS
from exchange.errors import BadSignatureError, MalformedObjectError

__all__ = ["Envelope", "inflate", "unprefix"]

_PREFIX: Final = re.compile(r"H[A-Z][0-9]:?")
_ALG, _CRIT, _CONTENT_TYPE, _KID, _TYP = 1, 2, 3, 4, 16
_UNDERSTOOD: Final = frozenset({_ALG, _CONTENT_TYPE, _KID, _TYP})
_LONGEST_HEADER: Final = 4096
_TAGS: Final = frozenset({18, 61, 55799})
"""COSE_Sign1 (RFC 9052 §2), CWT (RFC 8392 §6), self-described CBOR (RFC 8949 §3.4.6)."""


def unprefix(text: str) -> tuple[str, str]:
    """The context identifier (``HC1:``, ``HC1``, ``HL0:`` …; "" for none) and the rest of a text.

    Line ends around it are no part of it; spaces are, for base45 has them. Base45 of a zlib stream
    or a COSE object never has a digit third, so a prefix is never taken for it.

    :raises MalformedObjectError: it is longer than 128 Ki characters; field ``text``.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedObjectError(
            f"longer than {MAX_CHARACTERS // 1024} Ki characters", field="text"
        )
    text = text.strip("\r\n\t\ufeff")
    found = _PREFIX.match(text)
    prefix = found[0] if found else ""
    return prefix, text[len(prefix) :]


def inflate(packed: bytes) -> bytes:
    """Unpack a zlib stream (RFC 1950); what follows it is passed over.

    :raises MalformedObjectError: it is none, is cut short, or holds more than 64 KiB, of which no
        more is unpacked.
    """
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, cbor.MAX_BYTES + 1)
    except zlib.error:
        raise MalformedObjectError("not a zlib stream, or a damaged one") from None
    if len(unpacked) > cbor.MAX_BYTES:
        raise cbor.too_large()
    if not unpacker.eof:
        raise MalformedObjectError("the zlib stream is cut short")
    return unpacked


@dataclass(frozen=True, slots=True)
class Envelope:
    """A COSE_Sign1 as it was read (RFC 9052 §4.2); nothing of it is verified yet.

    What both headers hold counts as the protected one has it.
    """

    protected: bytes
    algorithm: Any
    """The alg, of whatever type; None where there is none."""
    kid: bytes | None
    typ: Any
    """The protected typ (RFC 9596): what tells our own objects from others."""
    payload: bytes
    signature: bytes
    empty: bool
    """The protected header holds nothing, however that is written."""

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """Read a COSE_Sign1: untagged, or under tags 18, 61 and 55799 in any order.

        :raises MalformedObjectError: it is none, or names a critical header that is not understood.
        """
        tags, bare = lenientcbor.peel(data)
        if not _TAGS.issuperset(tags):
            raise MalformedObjectError("tagged as something else than a COSE_Sign1")
        match lenientcbor.decode(bare):
            case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
                pass
            case _:
                raise MalformedObjectError("not a COSE_Sign1")
        if len(protected) > _LONGEST_HEADER:
            raise MalformedObjectError("the protected header is too long")
        header = lenientcbor.decode(protected) if protected else {}
        if not isinstance(header, dict):
            raise MalformedObjectError("the protected header is not a map")
        _check_critical(header)
        kid = header.get(_KID, unprotected.get(_KID))
        return cls(
            protected,
            header.get(_ALG, unprotected.get(_ALG)),
            kid if isinstance(kid, bytes) else None,
            header.get(_TYP),
            payload,
            signature,
            not header,
        )

    def verify(self, signer: DocumentSigner) -> None:
        """Check the signature, whatever kid stands in the header.

        :raises MalformedObjectError: the alg is not the key's, or the key is of a wrong kind.
        :raises BadSignatureError: the signature does not hold.
        """
        try:
            signer.verify(self.algorithm, self.signature, self._signed(self.protected))
        except BadSignatureError:
            # An empty header is signed as h'' (RFC 9052 §4.4), but some sign the h'a0' they send.
            if not self.empty or not self.protected:
                raise
            signer.verify(self.algorithm, self.signature, self._signed(b""))

    def _signed(self, protected: bytes) -> bytes:
        """The Sig_structure, without external data (RFC 9052 §4.4)."""
        return b"".join(
            (
                b"\x84\x6aSignature1",
                cbor.write_head(cbor.BYTES, len(protected)),
                protected,
                b"\x40",
                cbor.write_head(cbor.BYTES, len(self.payload)),
                self.payload,
            )
        )


def _check_critical(header: dict[Any, Any]) -> None:
    critical = header.get(_CRIT, [])
    if not isinstance(critical, list) or any(
        isinstance(label, bytes | list | dict) or label not in _UNDERSTOOD for label in critical
    ):
        raise MalformedObjectError("crit names a header parameter that is not understood")
