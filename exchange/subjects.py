"""Numbers of holders (持码人) and issuers (发证机构), masked forms, subject tokens (主体标识).

A number is normalised and checked before anything is made of it, because two spellings of one
number would be two holders. Only a holder's own province sees the number; between nodes goes
the token:

    epoch (4 bytes, big-endian) ‖ HMAC-SHA-256(K_epoch, code ‖ 0x00 ‖ number)

where *code* is `DocumentType.code`, three ASCII digits, and *number* the normalised number in
ASCII. No error, repr or log line made here holds a number; what may be shown is masked.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from datetime import date
from operator import mul
from typing import TYPE_CHECKING, Any, Final, Self

from exchange.errors import CheckDigitError, DocumentFormError, InvalidFieldError
from exchange.provinces import PROVINCES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "TOKEN_BYTES",
    "Document",
    "DocumentType",
    "EpochKey",
    "check_credit_code",
    "credit_code_check",
    "mask_name",
    "mod_11_2",
    "token_digest",
]

TOKEN_BYTES: Final = 36
"""Length of a subject token: an epoch (4) and an HMAC-SHA-256 (32)."""

_MAX_TYPED = 64  # the contract's max_len of IdentityDocument.number
_KEY_BYTES = 32
_BLOCK = 64  # of SHA-256
_MIN_DIGEST_KEY_BYTES = 16
_OLDEST_YEAR = 1850


class DocumentType(enum.StrEnum):
    """Type of an identity document (证件类型): ``tongxing.v1.DocumentType`` without its prefix.

    ``code`` is the GA/T 517 code, three digits, and ``zh`` the document's name. GA/T 517 is older
    than 港澳台居民居住证 and gives it no code of its own; here it bears 154, 居住证. Codes are
    hashed into subject tokens: none may ever change, nor may two types share one.
    """

    RESIDENT_ID = "RESIDENT_ID", "111", "居民身份证"
    HMT_RESIDENCE_PERMIT = "HMT_RESIDENCE_PERMIT", "154", "港澳台居民居住证"
    HM_TRAVEL_PERMIT = "HM_TRAVEL_PERMIT", "516", "港澳居民来往内地通行证"
    TAIWAN_TRAVEL_PERMIT = "TAIWAN_TRAVEL_PERMIT", "511", "台湾居民来往大陆通行证"
    FOREIGNER_PERMANENT_RESIDENCE = (
        "FOREIGNER_PERMANENT_RESIDENCE",
        "553",
        "外国人永久居留身份证",
    )
    PASSPORT = "PASSPORT", "414", "普通护照"
    OTHER = "OTHER", "990", "其他"

    code: str
    zh: str

    def __new__(cls, value: str, code: str, zh: str) -> Self:
        """Make the member; its value is its name in the contract."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.code = code
        member.zh = zh
        return member


@dataclass(frozen=True, slots=True)
class EpochKey:
    """The key of one epoch of subject tokens.

    :param epoch: 0 to 2³²−1.
    :param key: 32 random bytes; in no repr.
    :raises InvalidFieldError: the epoch is out of range, or the key not 32 bytes.
    """

    epoch: int
    key: bytes = field(repr=False)
    _inner: Any = field(init=False, repr=False, compare=False)
    _outer: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < 1 << 32:
            raise InvalidFieldError(
                "the epoch is out of range", field="epoch", remedy="it is 0 to 4294967295"
            )
        if len(self.key) != _KEY_BYTES:
            raise InvalidFieldError(
                "the epoch's key has the wrong length", field="key", remedy="it is 32 bytes"
            )
        # Both hashes begun once: `hmac.digest` sets OpenSSL up anew, and takes three times as long.
        for name, pad in (("_inner", 0x36), ("_outer", 0x5C)):
            begun = hashlib.sha256(bytes(byte ^ pad for byte in self.key.ljust(_BLOCK, b"\0")))
            object.__setattr__(self, name, begun)

    def authenticate(self, data: bytes) -> bytes:
        """HMAC-SHA-256 (RFC 2104) of some data: 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        digest: bytes = outer.digest()
        return digest

    @classmethod
    def generate(cls, epoch: int) -> Self:
        """Make the key of a new epoch at random."""
        return cls(epoch, secrets.token_bytes(_KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Document:
    """An identity document (证件) with a checked number. Make it by `parse`, which checks.

    :param type: the document's type.
    :param number: the normalised number, ASCII; the repr shows only its masked form.
    """

    type: DocumentType
    number: str = field(repr=False)

    @classmethod
    def parse(
        cls,
        type: DocumentType,  # noqa: A002 - the contract's own name for it
        number: str,
        *,
        today: date,
    ) -> Self:
        """Normalise and check a number as a person or a card reader gives it.

        Full-width characters (NFKC), case, spaces and hyphens do not matter. Then, by type:

        - RESIDENT_ID: 18 characters by GB 11643, or the 15 digits of before 1999, which become 18
          (century 19); a province of GB/T 2260 that issues them, birth date, check digit.
        - HMT_RESIDENCE_PERMIT: the same 18, beginning 81, 82 or 83.
        - HM_TRAVEL_PERMIT: H or M and 8 digits; two more, the renewal counter, are dropped.
        - TAIWAN_TRAVEL_PERMIT: 8 digits; the renewal counter of older cards (two digits, then
          the issuing office in brackets) is dropped.
        - FOREIGNER_PERMANENT_RESIDENCE: 3 letters and 12 digits (its form and birth date), or,
          since 2023, 18 characters beginning with 9 (birth date and check digit as GB 11643).
        - PASSPORT: 5 to 17 letters and digits. OTHER: 4 to 32.

        :param type: the document's type.
        :param number: the number, up to 64 characters.
        :param today: the date in China (UTC+8), before or on which the holder was born.
        :raises DocumentFormError: the number has not the form of its type.
        :raises CheckDigitError: the check digit is wrong.
        :raises InvalidFieldError: its region or birth date cannot be. Always field ``number``.
        """
        return cls(type, _READERS[type](_plain(number), today))

    @property
    def masked(self) -> str:
        """The number with its middle hidden, as long as before: ``51**************21``.

        The first and last two characters stay, of fewer than eight only the first and last one.
        """
        length = len(self.number)
        kept = 2 if length >= 8 else 1
        return self.number[:kept] + "*" * (length - 2 * kept) + self.number[-kept:]

    def token(self, key: EpochKey) -> bytes:
        """Give the holder's subject token (主体标识) in an epoch: `TOKEN_BYTES` bytes.

        :param key: the epoch's key.
        """
        named = f"{self.type.code}\0{self.number}".encode("ascii")
        return key.epoch.to_bytes(4, "big") + key.authenticate(named)

    def __repr__(self) -> str:
        return f"Document(type={self.type.name}, number={self.masked})"


def token_digest(token: bytes, key: bytes) -> str:
    """Give the short form in which a token may stand in a log: 12 hex digits of an HMAC-SHA-256.

    :param token: the subject token.
    :param key: a key that serves only this, 16 bytes or more: with a known one, whoever holds
        tokens could find them in the log.
    :raises InvalidFieldError: the key is shorter.
    """
    if len(key) < _MIN_DIGEST_KEY_BYTES:
        raise InvalidFieldError(
            "the key for digests in logs is too short", field="key", remedy="give 16 bytes or more"
        )
    return hmac.digest(key, token, "sha256")[:6].hex()


# --- Names ---------------------------------------------------------------------------------------

_HAN = "〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN_GAP = re.compile(f"(?<=[{_HAN}]) (?=[{_HAN}])")
_BETWEEN = re.compile("([ ·]+)")
# Input methods disagree on the separator of names such as 买买提·吐尔逊 (U+00B7 by GB 18030).
_DOTS = str.maketrans(dict.fromkeys("•‧∙⋅・", "·"))


def mask_name(name: str) -> str:
    """Give a name with most of it hidden, its length kept: 胡小君 → 胡*君.

    A name in one piece keeps its first character, and its last if it has three or more: 胡* and
    欧**君. One in several pieces keeps the first character of each: 买**·吐**, ``M**** S****``.
    A piece of one character is hidden whole.

    :param name: the name; spaces around it and inside a Chinese name, and invisible characters,
        do not matter.
    :raises InvalidFieldError: nothing of it is visible (field ``holder_name``).
    """
    text = unicodedata.normalize("NFKC", name)
    if not text.isprintable():
        # A kept bidirectional control or line break would disturb what the gate reads.
        text = "".join(c for c in text if c.isprintable() or c.isspace())
    text = _HAN_GAP.sub("", " ".join(text.split()).translate(_DOTS)).strip(" ·")
    if not text:
        raise InvalidFieldError(
            "the name is empty", field="holder_name", remedy="give the name as on the document"
        )
    pieces = _BETWEEN.split(text)
    if len(pieces) == 1 and len(text) > 2:
        return text[0] + "*" * (len(text) - 2) + text[-1]
    pieces[::2] = map(_hide, pieces[::2])
    return "".join(pieces)


def _hide(piece: str) -> str:
    return piece[0] + "*" * (len(piece) - 1) if len(piece) > 1 else "*"


# --- Check characters ----------------------------------------------------------------------------

_WEIGHTS_11 = tuple(pow(2, 17 - i, 11) for i in range(17))
_ZEROS_11 = sum(_WEIGHTS_11) * ord("0")  # what seventeen ASCII zeros weigh
_CHECKS_11 = "10X98765432"
_ALPHABET_31 = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_VALUES_31 = {character: value for value, character in enumerate(_ALPHABET_31)}
_WEIGHTS_31 = tuple(pow(3, i, 31) for i in range(17))

_SEVENTEEN_DIGITS = re.compile(r"[0-9]{17}")
_CREDIT_BODY = re.compile(f"[{_ALPHABET_31}]{{17}}")
_CREDIT_CODE = re.compile(f"[{_ALPHABET_31}]{{18}}")


def mod_11_2(first17: str) -> str:
    """Give the check character of a citizen's number (公民身份号码): GB 11643, ISO 7064 MOD 11-2.

    :param first17: seventeen ASCII digits.
    :returns: a digit or ``X``.
    :raises DocumentFormError: they are not seventeen digits.
    """
    if not _SEVENTEEN_DIGITS.fullmatch(first17):
        raise _form_error("seventeen digits")
    return _mod_11_2(first17)


def _mod_11_2(digits: str) -> str:
    return _CHECKS_11[(sum(map(mul, _WEIGHTS_11, digits.encode())) - _ZEROS_11) % 11]


def credit_code_check(first17: str) -> str:
    """Give the check character of a unified social credit code (统一社会信用代码): GB 32100.

    :param first17: seventeen of the characters 0–9 and A–Y without I, O, S and V.
    :returns: one such character.
    :raises InvalidFieldError: they are not (field ``credit_code``).
    """
    if not _CREDIT_BODY.fullmatch(first17):
        raise InvalidFieldError(
            "a credit code's body has another form",
            field="credit_code",
            remedy="it is 17 of the characters 0-9 and A-Y without I, O, S and V",
        )
    return _mod_31(first17)


def _mod_31(body: str) -> str:
    return _ALPHABET_31[-sum(map(mul, _WEIGHTS_31, map(_VALUES_31.__getitem__, body))) % 31]


def check_credit_code(code: str, *, field: str = "credit_code") -> str:
    """Normalise and check a unified social credit code (统一社会信用代码, GB 32100).

    :param code: the code; width, case, spaces and hyphens do not matter.
    :param field: the request's field that it stands in.
    :returns: its 18 characters.
    :raises InvalidFieldError: it has another form.
    :raises CheckDigitError: its last character does not fit the others.
    """
    plain = _plain(code)
    if not _CREDIT_CODE.fullmatch(plain):
        raise InvalidFieldError(
            "this is no unified social credit code (统一社会信用代码)",
            field=field,
            remedy="it has 18 characters: 0-9 and A-Y without I, O, S and V",
        )
    if _mod_31(plain[:17]) != plain[17]:
        raise CheckDigitError(
            "the credit code's check character is wrong",
            field=field,
            remedy="compare it with the certificate, character by character",
        )
    return plain


# --- Numbers -------------------------------------------------------------------------------------

_EIGHTEEN = re.compile(r"[1-8][0-9]{16}[0-9X]")
_FIFTEEN = re.compile(r"[1-8][0-9]{14}")
_HM_PERMIT = re.compile(r"([HM][0-9]{8})(?:[0-9]{2})?")
_TAIWAN_PERMIT = re.compile(r"([0-9]{8})(?:[0-9]{2}(?:\([0-9A-Z]\))?)?")
_FOREIGNER = re.compile(r"9[0-9]{16}[0-9X]")
_FOREIGNER_OLD = re.compile(r"[A-Z]{3}[0-9]{12}")
_PASSPORT = re.compile(r"[0-9A-Z]{5,17}")
_OTHER = re.compile(r"[0-9A-Z]{4,32}")

_HMT_REGIONS = frozenset({"81", "82", "83"})
# The Corps' people have Xinjiang's numbers: no citizen's number begins with its 66.
_REGIONS = frozenset(code[:2] for code in PROVINCES if code != "660000")
_HYPHENS = str.maketrans(dict.fromkeys("-‐‒–—―−"))


def _plain(typed: str) -> str:
    """Bring what was typed into ASCII, upper case, without gaps; "" where it is far too long."""
    if len(typed) > _MAX_TYPED:
        return ""
    if typed.isascii():
        return "".join(typed.replace("-", "").split()).upper()
    text = "".join(unicodedata.normalize("NFKC", typed).translate(_HYPHENS).split())
    # upper() would make ASCII of letters that are not: ı becomes I, ß becomes SS.
    return text.upper() if text.isascii() else text


def _form_error(form: str) -> DocumentFormError:
    return DocumentFormError(
        "the number has not the form of its document type",
        field="number",
        remedy=f"it is {form}; check the number and the type",
    )


def _check_last(number: str) -> None:
    if _mod_11_2(number[:17]) != number[17]:
        raise CheckDigitError(
            "the number's check digit is wrong",
            field="number",
            remedy="compare it with the document, digit by digit",
        )


def _is_birth_date(yyyymmdd: str, today: date) -> bool:
    try:
        born = date.fromisoformat(yyyymmdd)
    except ValueError:
        return False
    # Ordinals, because a date and a datetime (which is a date) refuse to be compared.
    return born.year >= _OLDEST_YEAR and born.toordinal() <= today.toordinal()


def _check_birth(yyyymmdd: str, today: date) -> None:
    if not _is_birth_date(yyyymmdd, today):
        raise _birth_error()


def _birth_error() -> InvalidFieldError:
    return InvalidFieldError(
        "the number holds no possible birth date",
        field="number",
        remedy="compare its birth date with the document: a real day, from 1850 to today",
    )


def _read_resident_id(number: str, today: date) -> str:
    if _EIGHTEEN.fullmatch(number):
        _check_last(number)
    elif _FIFTEEN.fullmatch(number):
        number = f"{number[:6]}19{number[6:]}"
        number += _mod_11_2(number)
    else:
        raise _form_error("17 digits and a digit or X, or the 15 digits of before 1999")
    region = number[:2]
    if region in _HMT_REGIONS:
        raise DocumentFormError(
            "the number is of another document type",
            field="number",
            remedy="give it as HMT_RESIDENCE_PERMIT (港澳台居民居住证)",
        )
    if region not in _REGIONS:
        raise InvalidFieldError(
            "the number's region is no province of GB/T 2260",
            field="number",
            remedy="compare its first two digits with the document",
        )
    _check_birth(number[6:14], today)
    return number


def _read_hmt_permit(number: str, today: date) -> str:
    if not _EIGHTEEN.fullmatch(number) or number[:2] not in _HMT_REGIONS:
        raise _form_error("17 digits and a digit or X, beginning 81, 82 or 83")
    _check_last(number)
    _check_birth(number[6:14], today)
    return number


def _read_hm_permit(number: str, _: date) -> str:
    if found := _HM_PERMIT.fullmatch(number):
        return found[1]
    raise _form_error("H or M and 8 digits")


def _read_taiwan_permit(number: str, _: date) -> str:
    if found := _TAIWAN_PERMIT.fullmatch(number):
        return found[1]
    raise _form_error("8 digits")


def _read_foreigner(number: str, today: date) -> str:
    if _FOREIGNER.fullmatch(number):
        _check_last(number)
        _check_birth(number[6:14], today)
    elif _FOREIGNER_OLD.fullmatch(number):
        # Two digits of the year: either century may be meant.
        born = number[7:13]
        if not (_is_birth_date("19" + born, today) or _is_birth_date("20" + born, today)):
            raise _birth_error()
    else:
        raise _form_error("3 letters and 12 digits, or 18 characters beginning with 9")
    return number


def _read_passport(number: str, _: date) -> str:
    if not _PASSPORT.fullmatch(number):
        raise _form_error("5 to 17 letters and digits")
    return number


def _read_other(number: str, _: date) -> str:
    if not _OTHER.fullmatch(number):
        raise _form_error("4 to 32 letters and digits")
    return number


_READERS: dict[DocumentType, Callable[[str, date], str]] = {
    DocumentType.RESIDENT_ID: _read_resident_id,
    DocumentType.HMT_RESIDENCE_PERMIT: _read_hmt_permit,
    DocumentType.HM_TRAVEL_PERMIT: _read_hm_permit,
    DocumentType.TAIWAN_TRAVEL_PERMIT: _read_taiwan_permit,
    DocumentType.FOREIGNER_PERMANENT_RESIDENCE: _read_foreigner,
    DocumentType.PASSPORT: _read_passport,
    DocumentType.OTHER: _read_other,
}
