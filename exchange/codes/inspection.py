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
from exchange.texts import Text

__all__ = ["Fault", "Inspection", "inspect"]

T = TypeVar("T")
P = TypeVar("P")

_OBJECT_HEADS: Final = frozenset({4, 6})
"""Major types with which a COSE object begins: an array, or a tag."""
_UNREADABLE: Final = {
    "prefix": "没有前缀",
    "base45": "不是有效的 base45",
    "zlib": "不是有效的 zlib 数据",
    "cose": "不是有效的 COSE_Sign1",
    "cbor": "不是健康凭证的声明集",
    "signature": "验签失败",
    "certificate": "证书或公钥无法使用",
}
"""What an error of a stage comes to in Chinese; its message is in English alone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and at which stage: a layer, or ``certificate``."""

    stage: str
    text: Text


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
    faults: tuple[Fault, ...]
    """What is wrong, also with the certificate: that it is for other kinds, say."""
    reached: frozenset[str]
    """The layers that were looked at: of all others it is not known whether they hold."""

    @property
    def error(self) -> str:
        """What is wrong, in one line; "" where nothing is."""
        return "; ".join(f"{fault.stage}: {fault.text.en}" for fault in self.faults)

    @property
    def holds(self) -> bool:
        """Whether all does."""
        return not self.error and all(self.outcomes.values())

    @property
    def outcomes(self) -> dict[str, bool]:
        """The layers by name, outermost first."""
        return {name: getattr(self, name) for name in _LAYERS}

    def document(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**self.outcomes, "claims": self.claims, "error": self.error}


_LAYERS: Final = tuple(
    field.name for field in dataclasses.fields(Inspection) if field.type in (bool, "bool")
)


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
        self.faults: list[Fault] = []
        self.envelope: Envelope | None = None
        self.claims: Any = None

    def result(self) -> Inspection:
        claims = _json(self.claims) if isinstance(self.claims, dict) else None
        return Inspection(
            **{name: self.passed.get(name, False) for name in _LAYERS},
            claims=claims,
            faults=tuple(self.faults),
            reached=frozenset(self.passed),
        )

    def text(self, text: str) -> None:
        found = self._try("prefix", unprefix, text)
        if found is None:
            return
        prefix, rest = found
        self._note("prefix", prefix == PREFIX, Text(f"不是 {PREFIX}", f"is not {PREFIX}"))
        packed = self._try("base45", base45.decode, rest)
        if packed is None:
            return
        signed = self._try("zlib", inflate, packed)
        if signed is None and packed and packed[0] >> 5 in _OBJECT_HEADS:
            signed = packed
        if signed is not None:
            self._signed(signed)

    def bare(self, signed: bytes) -> None:
        words = Text("没有：是签名字节，不是码文本", "none: signed bytes, and not their text")
        self._note("prefix", False, words)
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
            self._fault("certificate", Text("未提供", "none given"))
            return
        signer = self._try("certificate", DocumentSigner.read, certificate)
        if signer is None or self.envelope is None:
            return
        kid = self.envelope.kid
        self._try("signature", self.envelope.verify, signer)
        other = Text("与证书不符", "is another") if kid else Text("缺失", "is missing")
        self._note("kid_match", kid in signer.kids, other)
        if self.passed.get("cbor") and self.envelope.typ != ObjectType.HEALTH_CODE:
            kinds = hcert.kinds(hcert.content(self.claims))
            if not all(map(signer.may_sign, kinds)):
                words = "its key usage is for other kinds of certificates"
                self._fault("certificate", Text("其用途不含此类凭证", words))

    def validity(self, at: datetime) -> None:
        if not isinstance(self.claims, dict):
            return
        issued, ends = (hcert.moment(self.claims.get(label)) for label in (hcert.IAT, hcert.EXP))
        if issued is None or ends is None:
            zh, en = ("签发时间", "6 (iat)") if issued is None else ("有效期", "4 (exp)")
            words = Text(f"{zh}缺失或不是时间", f"claim {en} is missing, or not a time")
            self._note("valid_at", False, words)
        else:
            early = Text("尚未签发", "not issued yet")
            words = early if at < issued else Text("已过期", "ended")
            self._note("valid_at", issued <= at <= ends, words)

    def _try(self, stage: str, function: Callable[[P], T], given: P) -> T | None:
        """Do a stage; what is wrong is noted."""
        try:
            done = function(given)
        except TongxingError as error:
            self._note(stage, False, Text(_UNREADABLE[stage], error.message))
            return None
        self.passed[stage] = True
        return done

    def _note(self, stage: str, passed: bool, fault: Text) -> None:
        self.passed[stage] = passed
        if not passed:
            self._fault(stage, fault)

    def _fault(self, stage: str, fault: Text) -> None:
        self.faults.append(Fault(stage, fault))


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
