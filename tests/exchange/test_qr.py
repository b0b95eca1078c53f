from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from exchange.codes import base45, hc1, qr
from exchange.errors import InvalidFieldError, MalformedObjectError

SIGNED = bytes(range(256)) + b"a signed object" * 8
TEXT = hc1.to_text(SIGNED)
OTHER = hc1.to_text(b"another object")


def picture(text: str = TEXT, **options: Any) -> Image.Image:
    return Image.open(io.BytesIO(qr.png(text, **options))).convert("RGB")


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def by_zxing(image: Image.Image) -> zxingcpp.Barcode:
    (found,) = zxingcpp.read_barcodes(image)
    return found


def of_rows(rows: list[list[bool]]) -> Image.Image:
    """Dark modules as black pixels, eight a side."""
    image = Image.new("L", (len(rows[0]), len(rows)), 255)
    image.putdata([0 if dark else 255 for row in rows for dark in row])
    return image.resize((image.width * 8, image.height * 8), Image.Resampling.NEAREST)


def refused(data: bytes) -> str:
    with pytest.raises(MalformedObjectError) as caught:
        qr.read(data)
    error = caught.value
    assert (type(error), error.field) == (MalformedObjectError, "image")
    assert error.remedy
    return error.message


# Drawing, held against another's reader.


def test_zxing_reads_the_png_that_we_draw() -> None:
    found = by_zxing(picture())
    assert found.text == TEXT
    assert "QR" in str(found.format)
    assert found.ec_level == "M"


def test_zxing_reads_the_svg_that_we_draw() -> None:
    drawn = qr.svg(TEXT)
    side = 17 + 4 * qr.version(TEXT) + 8
    assert f'width="{side * 8}" height="{side * 8}"' in drawn
    assert 'fill="#fff"' in drawn
    path = re.search(r'stroke="#000" d="([^"]+)"', drawn)
    assert path
    rows = [[False] * side for _ in range(side)]
    x, y = 0, -0.5
    for step, numbers in re.findall(r"([Mmh])([-\d. ]+)", path[1]):
        parts = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if step == "h":
            for column in range(int(x), int(x + parts[0])):
                rows[int(y)][column] = True
            x += parts[0]
        else:
            x, y = (parts[0], parts[1]) if step == "M" else (x + parts[0], y + parts[1])
    assert by_zxing(of_rows(rows)).text == TEXT


@pytest.mark.parametrize("text", [TEXT, OTHER, "HC1:" + "A" * 500])
@pytest.mark.parametrize("ansi", [True, False])
def test_zxing_reads_the_blocks_that_a_terminal_shows(text: str, ansi: bool) -> None:
    drawn = qr.blocks(text, ansi=ansi)
    side = 17 + 4 * qr.version(text) + 8
    assert drawn.endswith("\n")
    lines = drawn.splitlines()
    assert len(lines) == (side + 1) // 2
    if ansi:  # black on white, and no colour runs on into the next line
        assert all(line.startswith("\x1b[38;5;16;48;5;231m") for line in lines)
        assert all(line.endswith("\x1b[0m") for line in lines)
        lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert {len(line) for line in lines} == {side}
    rows = []
    for line in lines:
        rows.append([(character in "▀█") is ansi for character in line])
        rows.append([(character in "▄█") is ansi for character in line])
    assert by_zxing(of_rows(rows)).text == text


def test_without_escapes_a_light_terminal_shows_it_inverted_and_it_is_read() -> None:
    lines = qr.blocks(TEXT, ansi=False).splitlines()
    rows = []
    for line in lines:
        rows.append([character in "▀█" for character in line])
        rows.append([character in "▄█" for character in line])
    assert by_zxing(of_rows(rows)).text == TEXT


@given(st.binary(min_size=1, max_size=1200))
@settings(max_examples=20)
def test_every_text_that_fits_is_drawn_and_read_again(signed: bytes) -> None:
    text = hc1.to_text(signed)
    assert qr.read(qr.png(text, scale=3)) == text


@pytest.mark.parametrize(
    ("length", "version"), [(16, 1), (20, 1), (21, 2), (600, 15), (601, 16), (3391, 40)]
)
def test_the_version_is_that_of_the_standard_at_level_m(length: int, version: int) -> None:
    # ISO/IEC 18004 table 7, alphanumeric
    assert qr.version("HC1:".ljust(length, "Z")) == version


@pytest.mark.parametrize("draw", [qr.png, qr.svg, qr.version, lambda t: qr.blocks(t, ansi=True)])
def test_a_text_too_long_for_any_picture_is_refused_with_its_remedy(
    draw: Callable[[str], object],
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        draw("A" * 3392)
    assert (type(caught.value), caught.value.field) == (InvalidFieldError, "text")
    assert "ES256" in caught.value.remedy


@pytest.mark.parametrize("text", ["hc1:abc", "HC1:ABC\n", "HC1:é", "健康码"])
def test_a_text_that_is_not_alphanumeric_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        qr.png(text)
    assert caught.value.field == "text"


def test_the_alphabet_is_that_of_the_alphanumeric_mode() -> None:
    assert qr.read(qr.png(hc1.PREFIX + base45.ALPHABET)) == hc1.PREFIX + base45.ALPHABET


# Reading what a camera or a screenshot gives.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_each_kind_of_file_is_read(kind: str) -> None:
    assert qr.read(file(picture(), kind)) == TEXT


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_each_depth_of_colour_is_read(mode: str) -> None:
    image = picture().convert("L")
    converted = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    if mode == "I;16":
        converted = converted.point(lambda value: value * 257)
    assert qr.read(file(converted)) == TEXT


def test_a_transparent_picture_is_read_as_on_white() -> None:
    drawn = picture().convert("L")
    clear = Image.new("RGBA", drawn.size, (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), mask=drawn.point(lambda value: 255 - value))
    assert qr.read(file(clear)) == TEXT


def test_a_transparent_palette_is_read_as_on_white() -> None:
    palette = picture().convert("L").convert("P")
    assert qr.read(file(palette, transparency=255)) == TEXT


@pytest.mark.parametrize("angle", [7, 45, 90, 180, 270])
def test_a_turned_picture_is_read(angle: int) -> None:
    turned = picture().rotate(angle, expand=True, fillcolor="white")
    assert qr.read(file(turned)) == TEXT


def test_a_dark_screen_is_read() -> None:
    assert qr.read(file(picture().point(lambda value: 255 - value))) == TEXT


def test_a_photograph_is_read() -> None:
    scene = Image.new("RGB", (1600, 1200), (120, 110, 90))
    code = picture(scale=6).rotate(9, expand=True, fillcolor=(120, 110, 90))
    scene.paste(code, (500, 200))
    blurred = scene.filter(ImageFilter.GaussianBlur(1.2))
    assert qr.read(file(blurred, "JPEG", quality=60)) == TEXT


def test_a_damaged_picture_is_read() -> None:
    image = picture()
    image.paste((255, 255, 255), (300, 300, 380, 360))  # a tenth of the side, in the middle
    assert qr.read(file(image)) == TEXT


def side_by_side(*texts: str) -> bytes:
    drawn = [picture(text) for text in texts]
    scene = Image.new("RGB", (sum(each.width for each in drawn), drawn[0].height), "white")
    left = 0
    for each in drawn:
        scene.paste(each, (left, 0))
        left += each.width
    return file(scene)


def test_the_health_code_is_found_beside_another_qr_code() -> None:
    assert qr.read(side_by_side(TEXT, "HTTPS://EXAMPLE.ORG")) == TEXT


def test_the_same_code_twice_is_one() -> None:
    assert qr.read(side_by_side(TEXT, TEXT)) == TEXT


def test_two_codes_are_refused() -> None:
    assert "2 health codes" in refused(side_by_side(TEXT, OTHER))


def test_another_qr_code_is_refused() -> None:
    assert "no health code" in refused(qr.png("HTTPS://EXAMPLE.ORG"))
    assert "no health code" in refused(qr.png("HC2:ABC"))


def test_a_picture_without_a_code_is_refused() -> None:
    assert "no QR code" in refused(file(Image.new("L", (300, 300), 128)))
    assert "no QR code" in refused(file(Image.new("L", (1, 1))))


def test_half_a_code_is_refused() -> None:
    image = picture()
    refused(file(image.crop((0, 0, image.width, image.height // 2))))


# What is no picture, and what would be too much of one.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HC1:ABC",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        bytes(1000),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert "not a picture" in refused(data)


def test_a_postscript_file_is_never_interpreted() -> None:
    drawn = io.BytesIO()
    picture().save(drawn, "EPS")
    assert "not a picture" in refused(drawn.getvalue())


def test_a_file_that_is_too_large_is_refused_unopened() -> None:
    assert "too large" in refused(qr.png(TEXT) + bytes(32 << 20))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (6400, 6400),
        (10_000, 10_000),
        (20_000, 20_000),
        (1 << 30, 1),
        (65_536, 1),
        (0x7FFFFFFF, 0x7FFFFFFF),
    ],
)
def test_a_picture_of_too_many_pixels_is_refused_unopened(width: int, height: int) -> None:
    assert "too large" in refused(bomb(width, height))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    whole = file(picture(), kind)
    for end in range(0, len(whole) // 2, max(1, len(whole) // 60)):
        refused(whole[:end])


@given(st.data())
@settings(max_examples=60)
def test_a_changed_picture_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"]))
    changed = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, min(len(changed), 4000) - 1))] = data.draw(
            st.integers(0, 255)
        )
    with contextlib.suppress(MalformedObjectError):
        assert qr.read(bytes(changed)).startswith("HC1:")


FILES = {kind: file(picture(OTHER, scale=3), kind) for kind in ["PNG", "JPEG", "WEBP", "BMP"]}
