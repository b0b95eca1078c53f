"""What is given as CODE: a code's text, a file or a picture of it, or signed bytes.

What is none of that is told in one line, and what it is instead: at a gate nobody has the time to
guess.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import InvalidFieldError, MalformedObjectError

if TYPE_CHECKING:
    from exchange.cose import ObjectType

__all__ = [
    "FIELD",
    "IMAGES",
    "LARGEST",
    "code",
    "content",
    "file_named",
    "from_base64",
    "is_signed",
    "object_type",
    "read",
    "refuse_others",
]

FIELD: Final = "CODE"
"""The argument, as errors name it."""

LARGEST: Final = 16 * 1024 * 1024
"""Bytes that are read of a file, or of standard input."""

_BINARY: Final = (0xD2, 0x84)
"""What a COSE_Sign1 begins with: tag 18, or the array in it; neither is text."""
_GIVE: Final = "give the text that begins with HC1:, a file that holds it, or a PNG of it"
IMAGES: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_FILE_NAME: Final = re.compile(
    r"[^:]{1,200}\.(png|jpe?g|gif|bmp|webp|tiff?|svg|pdf|txt|json|csv|cbor|cwt)", re.IGNORECASE
)


def code(source: str) -> str | bytes:
    """What is given where it must be a health code or a foreign certificate; it is not verified.

    :returns: a text that holds signed bytes, or these bytes.
    :raises InvalidFieldError: as `read`.
    :raises MalformedObjectError: it is no code; says what it is, and what to give.
    """
    from exchange.codes import judging

    given = read(source)
    try:
        signed = judging.unpack(given)
    except MalformedObjectError as error:
        assert isinstance(given, str)  # noqa: S101 - for mypy: bytes are as they are
        raise _no_code(given, error) from None
    refuse_others(signed)
    return given


def read(source: str) -> str | bytes:
    """What is given: standard input (``-``), what a file or a picture holds, or the text itself.

    :raises InvalidFieldError: the file is not there, cannot be read or is too large.
    :raises MalformedObjectError: the picture is not one of one code.
    """
    if source == "-":
        return content(sys.stdin.buffer.read(LARGEST + 1))
    path = None if source.startswith("HC1:") else file_named(source, FIELD)
    if path is not None:
        try:
            with path.open("rb") as file:
                return content(file.read(LARGEST + 1))
        except OSError as error:
            raise InvalidFieldError(f"{path}: {error.strerror}", field=FIELD) from None
    if _FILE_NAME.fullmatch(source):
        raise InvalidFieldError(f"{source}: no such file", field=FIELD, remedy="check the path")
    return source


def file_named(name: str, field: str) -> Path | None:
    """The file of a name, if there is one: all else is what it says.

    :raises InvalidFieldError: it is a folder's.
    """
    try:
        path = Path(name)
        if not name or not path.exists():
            return None
        if not path.is_dir():
            return path
    except (OSError, ValueError):  # too long for a name, or not one
        return None
    raise InvalidFieldError(f"{name}: is a folder", field=field, remedy="name a file in it")


def content(data: bytes) -> str | bytes:
    """The text or the signed bytes in a file's content: also of a picture, JSON or base64.

    :raises InvalidFieldError: it is larger than 16 MiB.
    :raises MalformedObjectError: it is a picture, and not of one code.
    """
    if len(data) > LARGEST:
        raise InvalidFieldError("larger than 16 MiB", field=FIELD, remedy=_GIVE)
    if data.startswith(IMAGES):
        return _pictured(data)
    if is_signed(data):
        return data
    text = data.decode("utf-8", "replace").strip("\r\n\t\ufeff")
    if text.startswith("{"):
        return _issued(text) or text
    signed = from_base64(text)
    return signed if is_signed(signed) else text


def is_signed(data: bytes) -> bool:
    """Whether this begins as signed bytes do (COSE_Sign1)."""
    return data[:1] != b"" and data[0] in _BINARY


def from_base64(text: str) -> bytes:
    """The bytes of base64 or base64url, padded or not; empty where it is neither."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def _pictured(data: bytes) -> str:
    from exchange.codes import qr

    try:
        return qr.read(data)
    except MalformedObjectError as error:
        error.field = FIELD
        raise


def _issued(text: str) -> str:
    """The code in what ``code show --output json`` prints; empty for other JSON."""
    try:
        found: Any = json.loads(text)["health_code"]["text"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


# --- what it is instead ---------------------------------------------------------------------


def object_type(signed: bytes) -> ObjectType | None:
    """Which of the exchange's signed objects it says that it is; None for others."""
    from exchange.codes.envelope import Envelope
    from exchange.cose import ObjectType

    try:
        return ObjectType(Envelope.parse(signed).typ)
    except (MalformedObjectError, ValueError):
        return None


def refuse_others(signed: bytes) -> None:
    """Refuse the exchange's other signed objects, and name the command that reads them.

    :raises MalformedObjectError: it is one of them.
    """
    from exchange.cose import ObjectType

    others = {
        ObjectType.ATTESTATION: ("a health attestation (健康证明)", "tongxing attestation verify"),
        ObjectType.RECEIPT: ("a receipt (回执)", "tongxing receipt verify"),
        ObjectType.STATUS_LIST: ("a status list (状态列表)", "--status-lists, with its folder,"),
    }
    found = object_type(signed)
    if found in others:
        what, reader = others[found]
        raise MalformedObjectError(
            f"{what}, and no health code", field=FIELD, remedy=f"{reader} reads it"
        )


def _no_code(text: str, error: MalformedObjectError) -> MalformedObjectError:
    what, remedy = _instead(text, error)
    return MalformedObjectError(what, field=FIELD, remedy=remedy)


def _instead(text: str, error: MalformedObjectError) -> tuple[str, str]:
    """What a text is that is no code, and what to give. The text itself may name a person."""
    lines = text.splitlines()
    cases = (
        (not text.strip(), "is empty", _GIVE),
        (
            text.startswith("HC1:"),
            f"the code's text is cut short or damaged: {error.message}",
            "copy all of it, in one line, or give its picture",
        ),
        (
            any(line.startswith("HC1:") for line in lines),
            "more than a code's text",
            "give the line that begins with HC1: alone",
        ),
        (
            text.startswith(("{", "[")),
            "JSON without a health code",
            "give what code show --output json prints",
        ),
        (
            text.startswith("<") and "<svg" in text,
            "an SVG, which is not read",
            "give a PNG (code show --png FILE), or the text",
        ),
        (
            "\ufffd" in text or "\0" in text,
            "neither a text nor a picture nor signed bytes that can be read",
            _GIVE,
        ),
        (
            len(lines) > 1 or " " in text,
            "a text that is no code",
            _GIVE,
        ),
        (True, "neither a code's text nor the name of a file that is there", _GIVE),
    )
    return next((what, remedy) for holds, what, remedy in cases if holds)
