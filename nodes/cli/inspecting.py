"""`tongxing code inspect`: every layer of a code, one by one (检视); for others' codes too."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import output
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.codes.inspection import Inspection

__all__ = ["inspect", "read_shown"]

_LARGEST: Final = 16 * 1024 * 1024
_LONGEST_LINE: Final = 1024 * 1024
_IMAGES: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_FILE_NAME: Final = re.compile(
    r"[^:]{1,200}\.(png|jpe?g|gif|bmp|webp|tiff?|txt|json)", re.IGNORECASE
)
_NAMES: Final = {
    "prefix": "前缀 prefix",
    "base45": "编码 base45",
    "zlib": "压缩 zlib",
    "cose": "签名对象 COSE",
    "cbor": "声明 CBOR",
    "signature": "签名 signature",
    "valid_at": "有效期 valid at",
    "kid_match": "密钥标识 kid",
}


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|FILE|-",
            help="The text of a code (HC1:…), a file that holds it, or a picture of it; - for "
            'standard input, where JSON Lines {"id","text","certificate","at"} are many. '
            "码文本、文件、图片或标准输入。",
        ),
    ] = "-",
    certificate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|BASE64",
            help="The signer's certificate or public key, PEM or DER. 签发者证书或公钥。",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The time at which it is to be valid (RFC 3339); now by default. 核验时间。",
        ),
    ] = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Show every layer of a code, ours or an EU Digital COVID Certificate's (逐层检视).

    No trust list is asked: the signature is checked under the certificate that is given, so this
    says what a code is, and not whether it is honoured (`tongxing code verify` does). The exit code
    is 0 only if all layers hold, 3 if one does not, 1 for an error.
    """
    time = _time(at) if at is not None else datetime.now(UTC)
    key = _certificate(certificate) if certificate is not None else None
    if source == "-":
        first = _first_line(sys.stdin.buffer)
        if first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            raise typer.Exit(0 if _each_line(first, sys.stdin.buffer, key, time) else 3)
        text = _text(first + sys.stdin.buffer.read(_LARGEST + 1))
    else:
        text = _shown(source)
    found = _inspect(text, key, time)
    if form is Form.JSON:
        output.print_json(found.document())
    else:
        _print(found)
    raise typer.Exit(0 if found.holds else 3)


def _inspect(text: str, certificate: bytes | None, at: datetime) -> Inspection:
    from exchange.codes import inspection

    return inspection.inspect(text, certificate=certificate, at=at)


def _print(found: Inspection) -> None:
    rows = [(_NAMES[name], "✓" if held else "✗") for name, held in found.outcomes.items()]
    if found.error:
        rows.append(("问题 wrong", found.error))
    output.print_fields(rows)
    if found.claims is not None:
        claims = json.dumps(found.claims, ensure_ascii=False, indent=2)
        output.console().print(output.lines(claims.splitlines()))


# --- what is given --------------------------------------------------------------------------


def read_shown(source: str) -> str:
    """The text of a code: of standard input (``-``), of a file or a picture, or as it is given.

    :raises InvalidFieldError: the file is not there, too large, or no picture of one code.
    """
    if source == "-":
        return _text(sys.stdin.buffer.read(_LARGEST + 1))
    return _shown(source)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidFieldError(
            "is no time", field="at", remedy="write RFC 3339: 2021-05-25T12:00:00+02:00"
        ) from None


def _certificate(given: str) -> bytes:
    """A certificate from a file or as it is; whether it reads is told among the layers."""
    path = _path(given)
    return given.encode("utf-8", "replace") if path is None else path.read_bytes()[: _LARGEST + 1]


def _shown(source: str) -> str:
    """The text of a code, of a file that holds it, or of a picture of it."""
    path = None if source.startswith("HC1:") else _path(source)
    if path is not None:
        with path.open("rb") as file:
            return _text(file.read(_LARGEST + 1))
    if _FILE_NAME.fullmatch(source):
        raise InvalidFieldError("no such file", field=source)
    return source


def _path(name: str) -> Path | None:
    try:
        path = Path(name)
        return path if path.is_file() else None
    except (OSError, ValueError):  # too long for a name, or not one
        return None


def _first_line(file: BinaryIO) -> bytes:
    """The first line that is not blank, or its beginning."""
    line = file.readline(_LONGEST_LINE + 1)
    while line.isspace():
        line = file.readline(_LONGEST_LINE + 1)
    return line


def _text(data: bytes) -> str:
    if len(data) > _LARGEST:
        raise InvalidFieldError("larger than 16 MiB", field="FILE")
    if data.startswith(_IMAGES):
        from exchange.codes import qr

        text: str = qr.read(data)
        return text
    return data.decode("utf-8", "replace").strip("\r\n\t\ufeff")


# --- JSON Lines -----------------------------------------------------------------------------


def _each_line(first: bytes, file: BinaryIO, certificate: bytes | None, at: datetime) -> bool:
    """Answer every line with one; whether all held."""
    held = True
    for line in _lines(first, file):
        answer = _answer(line, certificate, at)
        held = held and not answer["error"] and all(map(answer.get, _NAMES))
        # In ASCII, because an id may hold what no terminal and no pipe can write.
        print(json.dumps(answer), flush=True)
    return held


def _lines(line: bytes, file: BinaryIO) -> Iterator[bytes]:
    """Each line that is not blank; of one that is too long the beginning."""
    while line:
        if line.strip():
            yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(_LONGEST_LINE)
        line = file.readline(_LONGEST_LINE + 1)


def _answer(line: bytes, certificate: bytes | None, at: datetime) -> dict[str, Any]:
    """What one line is answered with; one that cannot be read has its error, and nothing holds."""
    id_: Any = None
    try:
        asked = _asked(line)
        id_ = _id(asked)
        if (given := _string(asked, "certificate")) is not None:
            certificate = given.encode("utf-8", "replace")
        if (when := _string(asked, "at")) is not None:
            at = _time(when)
        if (text := _string(asked, "text")) is None:
            raise InvalidFieldError("is missing", field="text")
        found = _inspect(text, certificate, at).document()
    except TongxingError as error:
        found = {**dict.fromkeys(_NAMES, False), "claims": None, "error": str(error)}
    return {"id": id_, **found}


def _asked(line: bytes) -> dict[str, Any]:
    if len(line) > _LONGEST_LINE:
        raise InvalidFieldError("longer than 1 MiB", field="line")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise InvalidFieldError("is not JSON", field="line") from None
    if not isinstance(value, dict):
        raise InvalidFieldError("is not an object", field="line", remedy='write {"text":"HC1:…"}')
    return value


def _id(asked: dict[str, Any]) -> str | int | None:
    value = asked.get("id")
    if value is not None and not isinstance(value, str | int):
        raise InvalidFieldError("is neither text nor a whole number", field="id")
    return value


def _string(asked: dict[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidFieldError("is not text", field=name)
    return value
