"""`tongxing code inspect`: every layer of a code, one by one (检视); for others' codes too."""

from __future__ import annotations

import codecs
import functools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from exchange.errors import InvalidFieldError, MalformedObjectError, TongxingError
from nodes.cli import given, offline, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.codes.inspection import Inspection
    from exchange.trust.profile import AttestationKey
    from exchange.trust.trustlist import TrustList

__all__ = ["inspect"]

_LONGEST_LINE: Final = 1024 * 1024
_SHORTEST_KEY: Final = 60
"""Characters of base64 that the shortest public key has: an Ed25519 SubjectPublicKeyInfo."""
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
_STAGES: Final = {**_NAMES, "certificate": "证书 certificate"}
_CLAIMS: Final = {
    "1": "签发者 iss",
    "4": "有效期至 exp",
    "6": "签发 iat",
    "7": "编号 cti",
    "10": "随机数 nonce",
    "-260": "健康凭证 hcert",
    "-70002": "持码人 holder",
    "-70003": "健康码 code",
}
"""The claims of an EU certificate and of a code of ours, by their labels."""
_TIMES: Final = ("4", "6")
_BY_KEY: Final = ("signature", "kid_match")


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CODE",
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
    trust: Annotated[
        Path | None,
        typer.Option(
            help="Of a code of ours, in place of --certificate: the trust list's folder, where its "
            "key is found by the kid; else that of --client. 信任列表文件夹。"
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="The pinned root; else the folder's 1.root.json. 预置的根文件。"),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The time at which it is to be valid (RFC 3339; UTC without an offset); "
            "now by default. 核验时间。",
        ),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Show every layer of a code, ours or an EU Digital COVID Certificate's (逐层检视).

    The signature is checked under the certificate that is given, or the key that a trust list names
    for the code: so this says what a code is, and not whether it is honoured (`tongxing code
    verify` does). The exit code is 0 only if all layers hold, 3 if one does not, 1 for an error.
    """
    time = None if at is None else _time(at)
    signers = _signers(certificate, trust, root, client_file)
    if source == "-":
        first = _first_line(sys.stdin.buffer)
        if not first:
            raise InvalidFieldError(
                "standard input is empty", field=given.FIELD, remedy="give a code's text or picture"
            )
        if first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            raise typer.Exit(0 if _each_line(first, sys.stdin.buffer, signers, time) else 3)
        shown = given.content(first + sys.stdin.buffer.read(given.LARGEST + 1))
    else:
        shown = given.read(source)
    if isinstance(shown, bytes):
        given.refuse_others(shown)
    found = _inspect(shown, signers.certificate(shown), time)
    if form is Form.JSON:
        output.print_json(found.document())
    else:
        _print(found, signers.words(shown))
    raise typer.Exit(0 if found.holds else 3)


def _inspect(shown: str | bytes, certificate: bytes | None, at: datetime | None) -> Inspection:
    from exchange.codes import inspection

    # Now, and not when the command began: a code may be issued while its text is waited for.
    return inspection.inspect(shown, certificate=certificate, at=at or datetime.now(UTC))


def _print(found: Inspection, signer: str) -> None:
    rows = [(name, _held(found, layer)) for layer, name in _NAMES.items()]
    if signer:
        rows.append(("签发者 signer", signer))
    rows += [
        ("问题 wrong", f"{_STAGES[fault.stage]}: {fault.text.zh} {fault.text.en}")
        for fault in found.faults
    ]
    output.print_fields(rows)
    if found.claims is not None:
        claims = json.dumps(_named(found.claims), ensure_ascii=False, indent=2)
        output.console().print(output.lines(claims.splitlines()))


def _held(found: Inspection, layer: str) -> str:
    if layer not in found.reached:
        # Without the signer's key these are no fault of the code's.
        return "未核对 not checked" if layer in _BY_KEY else "未到达 not reached"
    held = "✓" if found.outcomes[layer] else "✗"
    return f"{held} {_span(found.claims or {})}" if layer == "valid_at" else held


def _span(claims: dict[str, Any]) -> str:
    issued, ends = _moment(claims.get("6")), _moment(claims.get("4"))
    return f"{issued} – {ends}" if issued and ends else ""


def _moment(value: Any) -> str:
    """A time of a claims set; empty where it is none."""
    from exchange.codes import hcert

    return output.moment(hcert.moment(value))


def _named(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims as people read them: their names beside the labels, times as times."""
    named = {}
    for label, value in claims.items():
        name = f"{label} {_CLAIMS[label]}" if label in _CLAIMS else label
        at = _moment(value) if label in _TIMES else ""
        # A code that names a claim so itself shall not hide what the claim says.
        named[label if name in claims else name] = at or value
    return named


# --- under what the signature is checked ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signers:
    """The certificate that was given; else, of codes of ours, the keys of a trust list."""

    given: bytes | None
    trust: Callable[[], TrustList] | None

    def certificate(self, shown: str | bytes) -> bytes | None:
        """What a code's signature is to be checked under, as `DocumentSigner.read` takes it."""
        found = self._known(_kid(shown)) if self.trust else None
        return found[1].public.to_der() if found else self.given

    def words(self, shown: str | bytes) -> str:
        """Whose key that is, if a trust list was to tell."""
        kid = _kid(shown) if self.trust else b""
        if not kid:
            return ""
        found = self._known(kid)
        if found is None:
            return "信任列表中没有 not in the trust list"
        return f"{output.province_name(found[0])}, {found[1].state}"

    def _known(self, kid: bytes) -> tuple[str, AttestationKey] | None:
        return next(iter(self.trust().keys(kid)), None) if self.trust and kid else None


def _kid(shown: str | bytes) -> bytes:
    """The kid of a code of ours; empty for all else, of which no trust list knows the keys."""
    from exchange.codes import judging
    from exchange.codes.envelope import Envelope

    try:
        signed = judging.unpack(shown)
        return (Envelope.parse(signed).kid or b"") if judging.is_ours(signed) else b""
    except MalformedObjectError:
        return b""


def _signers(
    certificate: str | None, trust: Path | None, root: Path | None, client_file: Path | None
) -> _Signers:
    if certificate is not None:
        if trust is not None or root is not None:
            raise InvalidFieldError(
                "goes without --trust and --root", field="--certificate", remedy="give one of them"
            )
        return _Signers(_certificate(certificate), None)
    if trust is None and root is None and client_file is None:
        return _Signers(None, None)
    return _Signers(None, functools.cache(lambda: offline.trust_list(trust, root, client_file)))


def _certificate(text: str) -> bytes:
    """A certificate from a file or as it is; whether it reads is told among the layers.

    :raises InvalidFieldError: the file is not there, or cannot be read.
    """
    path = given.file_named(text, "--certificate")
    try:
        if path is not None:
            with path.open("rb") as file:
                return file.read(given.LARGEST + 1)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="--certificate") from None
    # Neither PEM nor base64 has a dot, and no key is so short: what is left is a file's name.
    if "-----BEGIN" not in text and ("." in text or len(text) < _SHORTEST_KEY):
        raise InvalidFieldError(
            f"{text[:200]}: no such file" if text else "is empty",
            field="--certificate",
            remedy="give a PEM or DER file or its base64; for a code of ours --trust or --client",
        )
    return text.encode("utf-8", "replace")


# --- what is given --------------------------------------------------------------------------


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidFieldError(
            "is no time", field="at", remedy="write RFC 3339: 2021-05-25T12:00:00+02:00"
        ) from None


def _first_line(file: BinaryIO) -> bytes:
    """The first line that is not blank, or its beginning."""
    line = file.readline(_LONGEST_LINE + 1)
    while line.isspace():
        line = file.readline(_LONGEST_LINE + 1)
    return line


# --- JSON Lines -----------------------------------------------------------------------------


def _each_line(first: bytes, file: BinaryIO, signers: _Signers, at: datetime | None) -> bool:
    """Answer every line with one; whether all held."""
    held = True
    for line in _lines(first, file):
        answer = _answer(line, signers, at)
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


def _answer(line: bytes, signers: _Signers, at: datetime | None) -> dict[str, Any]:
    """What one line is answered with; one that cannot be read has its error, and nothing holds."""
    id_: Any = None
    try:
        asked = _asked(line)
        id_ = _id(asked)
        certificate = _string(asked, "certificate")
        if (when := _string(asked, "at")) is not None:
            at = _time(when)
        if (text := _string(asked, "text")) is None:
            raise InvalidFieldError("is missing", field="text")
        under = (
            signers.certificate(text)
            if certificate is None
            else certificate.encode("utf-8", "replace")
        )
        found = _inspect(text, under, at).document()
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
