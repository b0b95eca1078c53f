"""Inspection (检视): what each layer of a code is, one by one, whoever made it.

Nothing is decided here and nobody is trusted: it is told whether each layer reads, whether the
signature holds under the certificate at hand, and what is said. It goes as far as it can, so that
one look at a code that is refused shows where it went wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from exchange.codes import base45, hcert, lenientcbor
from exchange.codes.dsc import DocumentSigner
from exchange.codes.envelope import Envelope, inflate, unprefix
from exchange.codes.hc1 import PREFIX
from exchange.cose import ObjectType
from exchange.errors import MalformedObjectError, TongxingError

__all__ = ["Inspection", "inspect"]

T = TypeVar("T")
P = TypeVar("P")

_OBJECT_HEADS: Final = frozenset({4, 6})
"""Major types with which a COSE object begins: an array, or a tag."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found, layer by layer."""

    prefix: bool
    """It begins with ``HC1:``."""
    base45: bool
    """What follows any prefix, or the whole, is base45."""
    zlib: bool
    """That is one zlib stream of at most 64 KiB."""
    cose: bool
    """That is a COSE_Sign1; where nothing was packed, what base45 held is."""
    cbor: bool
    """Its payload is a claims set with a health certificate, or one of our own health codes."""
    signature: bool
    """The signature holds under the certificate's key, whatever kid is named."""
    valid_at: bool
    """It was issued by then and has not ended: claims 6 and 4, both inclusive."""
    kid_match: bool
    """The kid is the certificate's."""
    claims: dict[str, Any] | None
    """The claims set as JSON: labels as text (``-260``), bytes in hexadecimal."""
    error: str
    """What is wrong, or that the certificate is for other kinds; "" where nothing is."""

    @property
    def holds(self) -> bool:
        """Whether all does."""
        return not self.error and all(self.outcomes.values())

    @property
    def outcomes(self) -> dict[str, bool]:
        """The layers by name, outermost first."""
        return {name: value for name, value in self.document().items() if type(value) is bool}

    def document(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def inspect(shown: str | bytes, *, certificate: bytes | None, at: datetime) -> Inspection:
    """Look at every layer of an HC1 text.

    :param shown: whatever was shown; bad input is told of and never raises. Of signed bytes, which
        nothing is wrapped around, the outer layers do not hold.
    :param certificate: the signer's certificate or public key (`DocumentSigner.read`), if at hand.
    :param at: the time at which it is to be valid, aware.
    """
    looked = _Look()
    if isinstance(shown, bytes):
        looked.bare(shown)
    else:
        looked.text(shown)
    looked.signer(certificate)
    looked.validity(at)
    return looked.result()


class _Look:
    """One inspection under way: what was found so far, and what was wrong."""

    def __init__(self) -> None:
        self.passed: dict[str, bool] = {}
        self.faults: list[str] = []
        self.envelope: Envelope | None = None
        self.claims: Any = None

    def result(self) -> Inspection:
        claims = _json(self.claims) if isinstance(self.claims, dict) else None
        names = [field.name for field in dataclasses.fields(Inspection)][:-2]
        passed = {name: self.passed.get(name, False) for name in names}
        return Inspection(**passed, claims=claims, error="; ".join(self.faults))

    def text(self, text: str) -> None:
        found = self._try("prefix", unprefix, text)
        if found is None:
            return
        prefix, rest = found
        self._note("prefix", prefix == PREFIX, f"is not {PREFIX}")
        packed = self._try("base45", base45.decode, rest)
        if packed is None:
            return
        signed = self._try("zlib", inflate, packed)
        if signed is None and packed and packed[0] >> 5 in _OBJECT_HEADS:
            signed = packed
        if signed is not None:
            self._signed(signed)

    def bare(self, signed: bytes) -> None:
        self._note("prefix", False, "none: signed bytes, and not their text")
        self._signed(signed)

    def _signed(self, signed: bytes) -> None:
        self.envelope = self._try("cose", Envelope.parse, signed)
        if self.envelope is not None:
            self._payload(self.envelope)

    def _payload(self, envelope: Envelope) -> None:
        self.claims = self._try("cbor", lenientcbor.decode, envelope.payload)
        if self.passed["cbor"]:
            own = envelope.typ == ObjectType.HEALTH_CODE
            self._try("cbor", _claims_set if own else hcert.content, self.claims)

    def signer(self, certificate: bytes | None) -> None:
        if certificate is None:
            self.faults.append("certificate: none given")
            return
        signer = self._try("certificate", DocumentSigner.read, certificate)
        if signer is None or self.envelope is None:
            return
        kid = self.envelope.kid
        self._try("signature", self.envelope.verify, signer)
        self._note("kid_match", kid in signer.kids, "is another" if kid else "is missing")
        if self.passed.get("cbor") and self.envelope.typ != ObjectType.HEALTH_CODE:
            kinds = hcert.kinds(hcert.content(self.claims))
            if not all(map(signer.may_sign, kinds)):
                self.faults.append("certificate: its key usage is for other kinds of certificates")

    def validity(self, at: datetime) -> None:
        if not isinstance(self.claims, dict):
            return
        issued, ends = (hcert.moment(self.claims.get(label)) for label in (hcert.IAT, hcert.EXP))
        if issued is None or ends is None:
            what = "claim 6 (iat)" if issued is None else "claim 4 (exp)"
            self._note("valid_at", False, f"{what} is missing, or not a time")
        else:
            self._note(
                "valid_at", issued <= at <= ends, "not issued yet" if at < issued else "ended"
            )

    def _try(self, stage: str, function: Callable[[P], T], given: P) -> T | None:
        """Do a stage; what is wrong is noted."""
        try:
            done = function(given)
        except TongxingError as error:
            self._note(stage, False, error.message)
            return None
        self.passed[stage] = True
        return done

    def _note(self, stage: str, passed: bool, fault: str) -> None:
        self.passed[stage] = passed
        if not passed:
            self.faults.append(f"{stage}: {fault}")


def _claims_set(claims: Any) -> dict[Any, Any]:
    if not isinstance(claims, dict):
        raise MalformedObjectError("not a claims set")
    return claims


def _json(value: Any) -> Any:
    """A value as JSON has it; a number that JSON lacks becomes text."""
    if isinstance(value, dict):
        return {_label(key): _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _label(key: Any) -> str:
    if isinstance(key, bytes):
        return key.hex()
    return str(int(key) if isinstance(key, float) and key.is_integer() else key)
