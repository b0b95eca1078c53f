"""Pictures of health codes (二维码): HC1 texts drawn as QR codes (ISO/IEC 18004), and read again.

Drawn are alphanumeric mode and error level M, which bears 15 % of damage, as the EU's HCERT asks
for; never a higher level, so that a code's size says how much is in it.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Final

from exchange.codes import base45, hc1
from exchange.errors import InvalidFieldError, MalformedObjectError

if TYPE_CHECKING:
    import segno
    from PIL import Image

__all__ = ["blocks", "columns", "png", "read", "svg", "version"]

_QUIET: Final = 4
"""Modules of white around the code (ISO/IEC 18004 §6.3.8)."""

_MOST_BYTES: Final = 32 * 1024 * 1024
_MOST_PIXELS: Final = 40_000_000
_LONGEST_SIDE: Final = 65_535
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP")
_ON_WHITE, _RESET = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_HALVES: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def png(text: str, *, scale: int = 8) -> bytes:
    """Draw a text as a PNG, black on white.

    :param scale: pixels a module.
    :raises InvalidFieldError: no QR code holds the text.
    """
    drawn = io.BytesIO()
    _make(text).save(drawn, kind="png", scale=scale, border=_QUIET, dark="#000", light="#fff")
    return drawn.getvalue()


def svg(text: str, *, scale: int = 8) -> str:
    """Draw a text as an SVG document, black on white.

    :param scale: pixels a module.
    :raises InvalidFieldError: no QR code holds the text.
    """
    drawn = io.BytesIO()
    _make(text).save(drawn, kind="svg", scale=scale, border=_QUIET, dark="#000", light="#fff")
    return drawn.getvalue().decode()


def blocks(text: str, *, ansi: bool) -> str:
    """Draw a text for a terminal, two modules a character, each line ended.

    :param ansi: with escapes for black on white; without, what is light is drawn and what is dark
        left out, which is right on a dark terminal and inverted on a light one (many readers read
        both).
    :raises InvalidFieldError: no QR code holds the text.
    """
    rows = [[bool(module) is ansi for module in row] for row in _make(text).matrix_iter(border=4)]
    if len(rows) % 2:
        rows.append([not ansi] * len(rows))
    lines = [
        "".join(_HALVES[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
    return "".join(f"{_ON_WHITE}{line}{_RESET}\n" if ansi else f"{line}\n" for line in lines)


def columns(text: str) -> int:
    """How wide a terminal must be for what `blocks` draws.

    :raises InvalidFieldError: no QR code holds the text.
    """
    return 17 + 4 * version(text) + 2 * _QUIET


def version(text: str) -> int:
    """The version of a text's QR code, 1 to 40: its side has 17 + 4 × version modules.

    :raises InvalidFieldError: no QR code holds the text.
    """
    return int(_make(text).version)


def _make(text: str) -> segno.QRCode:
    import segno  # noqa: PLC0415 - who draws nothing need not wait for it

    if not set(text) <= set(base45.ALPHABET):
        raise InvalidFieldError(
            "has characters that the alphanumeric mode has not",
            field="text",
            remedy="give an HC1 text as it was issued: capitals, no line ends",
        )
    try:
        return segno.make(text, error="m", mode="alphanumeric", micro=False, boost_error=False)
    except ValueError:
        raise InvalidFieldError(
            f"{len(text)} characters do not fit into a QR code",
            field="text",
            remedy="sign health codes with ES256 or EdDSA, or pass the text on as a file",
        ) from None


def read(image: bytes) -> str:
    """The HC1 text of the one health code in a picture.

    :param image: a PNG, JPEG, WebP or BMP file, at most 32 MiB and 40 million pixels; a photograph
        or a screenshot, turned or inverted.
    :returns: the text, of which nothing is verified.
    :raises MalformedObjectError: ``image`` is no such file, is too large, or shows no HC1 code or
        several.
    """
    import zxingcpp  # noqa: PLC0415 - who reads no picture need not wait for it

    found = zxingcpp.read_barcodes(
        _grey(image),
        formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode),
        text_mode=zxingcpp.TextMode.Plain,
    )
    texts = {code.text for code in found if code.text.startswith(hc1.PREFIX)}
    if not texts:
        what = "no health code in its QR code" if found else "no QR code to be seen"
        raise _refused(what, "show the whole code, larger and sharper")
    if len(texts) > 1:
        raise _refused(f"{len(texts)} health codes", "show one at a time")
    return texts.pop()


def _grey(data: bytes) -> Image.Image:
    """The picture in shades of grey, on white where it is transparent."""
    from PIL import Image  # noqa: PLC0415 - as zxingcpp

    if len(data) > _MOST_BYTES:
        raise _too_large()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nobody here looks at
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # The formats are named because others start programs. To open is to read the size.
            picture: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if picture.width * picture.height > _MOST_PIXELS or max(picture.size) > _LONGEST_SIDE:
                raise _too_large()
            if not picture.has_transparency_data:
                return picture.convert("L")
            white = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(white, picture.convert("RGBA")).convert("L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large() from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        raise _refused("not a picture that can be read", "give a PNG or JPEG file") from None


def _too_large() -> MalformedObjectError:
    return _refused("the picture is too large", "cut out the code, or scale the picture down")


def _refused(what: str, remedy: str) -> MalformedObjectError:
    return MalformedObjectError(what, field="image", remedy=remedy)
