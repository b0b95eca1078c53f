"""`tongxing trust key` and `tongxing trust profile sign`: what a holder or province does at home.

Nothing here needs a network: a key never leaves the machine that it was made on.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TrustListError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key, Signer

__all__ = [
    "PassphraseOption",
    "keys",
    "open_signer",
    "open_signers",
    "profiles",
    "public_key",
]

keys = typer.Typer(no_args_is_help=True, help="A holder's own key (持有人密钥).")
profiles = typer.Typer(no_args_is_help=True, help="A province's own profile (省级资料).")

PassphraseOption = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        help="A file descriptor to read the key's passphrase from; else it is asked for. "
        "口令文件描述符。",
    ),
]


@keys.callback()
def _keys_noun() -> None:
    """Keep the verb, though there is one only."""


@keys.command("new")
def new_key(
    file: Annotated[Path, typer.Argument(help="A new file for the private key. 私钥文件。")],
    passphrase_fd: PassphraseOption = None,
) -> None:
    """Make a key-holder's or a province's own key, encrypted, and show its public part. 生成密钥。

    The public part is also written beside it, as FILE.pub: that is what others are given.
    """
    from exchange.trust.signers import generate, public_pem, save_signer

    passphrase = _passphrase(file, passphrase_fd, new=True)
    signer = generate()
    save_signer(file, signer, passphrase)
    pem = public_pem(signer)
    beside = file.with_name(file.name + ".pub")
    beside.write_bytes(pem)
    typer.echo(f"key id {signer.public_key.keyid}\npublic part {beside}:\n{pem.decode()}", nl=False)


@profiles.command("sign")
def sign_profile(
    file: Annotated[Path, typer.Argument(help="The profile, JSON or TOML. 资料文件。")],
    key: Annotated[str, typer.Option(help="The province's role key (PEM). 角色密钥。")],
    out: Annotated[Path | None, typer.Option(help="Where to; N.pCODE.json by default.")] = None,
    number: Annotated[
        int | None, typer.Option("--version", min=1, help="The next version. 版本号。")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="The folder of the list: tells the next version.")
    ] = None,
    passphrase_fd: PassphraseOption = None,
) -> None:
    """Sign a province's own profile with its role key, offline. 签署本省资料。"""
    from exchange import authoring
    from exchange.trust import ceremony, roles
    from exchange.trust.profile import Profile

    document = _document(file)
    if isinstance(document, dict) and "rules" in document and "province" not in document:
        raise InvalidFieldError(
            "只有规则，不是省级资料 holds rules, and no profile",
            field=str(file),
            remedy="sign what `tongxing trust profile export CODE --rules FILE` writes",
        )
    profile = Profile.from_json(document)
    authoring.check(profile.rules)
    role = roles.role_name(profile.province)
    version = number or _next_version(role, trust, document.get("version"))
    signer = open_signer(key, passphrase_fd)
    data = ceremony.sign_profile(profile, signer, version=version, now=datetime.now(UTC))
    path = out or Path(f"{version}.{role}.json")
    with path.open("xb") as made:
        made.write(data)
    typer.echo(f"signed version {version} of {profile.province} by {signer.public_key.keyid[:16]}")
    typer.echo(f"wrote {path}")


def _next_version(role: str, trust: Path | None, before: object) -> int:
    """The version after the one in the folder, or after the one that was exported.

    :raises InvalidFieldError: both are known and differ: what was published since would be undone.
    """
    from exchange.trust import files

    if trust is not None:
        stands = files.Bundle.of(files.read(trust)).versions.roles.get(role, 0)
        if type(before) is int and before != stands:
            raise InvalidFieldError(
                f"导出的是第{before}版，现行的是第{stands}版 "
                f"was exported at version {before}, and {stands} stands",
                field="version",
                remedy="export it anew, with the change; `tongxing trust fetch` brings the folder "
                "up to date",
            )
        return stands + 1
    if type(before) is int:
        return before + 1
    raise InvalidFieldError(
        "is missing", field="--version", remedy="give it, or --trust DIR to read it from"
    )


def _document(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            return json.loads(text)
        return _times_as_text(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(f"cannot be read: {error}", field=str(path)) from None


def _times_as_text(value: Any) -> Any:
    """TOML has times of its own; the profile has them as RFC 3339 text."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: _times_as_text(each) for name, each in value.items()}
    return [_times_as_text(each) for each in value] if isinstance(value, list) else value


def open_signer(where: str, passphrase_fd: int | None) -> Signer:
    """Open a signing key.

    :param where: a PEM file. An HSM's keys would be named here by a URI (``pkcs11:``, RFC 7512) and
        come as another of securesystemslib's signers; none is built in yet.
    :raises InvalidFieldError: it is such a URI, or there is nobody to ask for the passphrase.
    :raises TrustListError: the file cannot be read or opened.
    """
    scheme = where.partition(":")[0].lower()
    if scheme in ("pkcs11", "hsm") or "://" in where:
        raise InvalidFieldError(
            f"no support for {scheme} keys is built in yet", field="--key", remedy="give a PEM file"
        )
    (signer,) = open_signers([Path(where)], passphrase_fd)
    return signer


def open_signers(paths: Sequence[Path], passphrase_fd: int | None) -> list[Signer]:
    """Open key files; those that are encrypted have one passphrase.

    :raises InvalidFieldError: there is nobody to ask for it.
    :raises TrustListError: a file cannot be read or opened.
    """
    from exchange.trust.signers import load_signer

    encrypted = {path for path in paths if b"ENCRYPTED" in path.read_bytes()}
    passphrase = _passphrase(paths[0], passphrase_fd) if encrypted else None
    return [load_signer(path, passphrase if path in encrypted else None) for path in paths]


def public_key(path: Path, field: str) -> Key:
    """Read the public part of a key, as `new_key` wrote it.

    :raises InvalidFieldError: it is none; a private key above all.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    pem = path.read_bytes()
    if b"PRIVATE KEY" in pem:
        raise InvalidFieldError(
            f"{path} is a private key", field=field, remedy=f"give the public part, {path}.pub"
        )
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidFieldError(f"{path} is not a public key in PEM", field=field) from None


def _read(descriptor: int | None) -> bytes | None:
    """Read a passphrase from a file descriptor; None where there is none.

    :raises InvalidFieldError: it cannot be read.
    """
    if descriptor is None:
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read().rstrip(b"\r\n")
    except OSError as error:
        raise InvalidFieldError(
            error.strerror or "cannot be read", field="--passphrase-fd"
        ) from None


def _passphrase(path: Path, descriptor: int | None, *, new: bool = False) -> bytes:
    passphrase = _read(descriptor)
    if passphrase is not None:
        pass
    elif sys.stdin.isatty():
        asked: str = typer.prompt(
            f"Passphrase of {path.name} 口令", hide_input=True, err=True, confirmation_prompt=new
        )
        passphrase = asked.encode()
    else:
        raise InvalidFieldError(
            f"the passphrase of {path.name} is missing",
            field="--passphrase-fd",
            remedy="give a file descriptor, or run it at a terminal",
        )
    if not passphrase:
        raise TrustListError(
            "a holder's key is never kept without a passphrase",
            field="--passphrase-fd",
            remedy="choose one",
        )
    return passphrase
