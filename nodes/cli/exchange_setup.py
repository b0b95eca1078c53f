"""`tongxing trust init` and `renew`, `tongxing identity issue`: an exchange for trials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from exchange.errors import InvalidFieldError

__all__ = ["init", "issue_identity", "renew"]


def init(
    directory: Annotated[Path, typer.Argument(help="A new folder. 新文件夹。")],
    province: Annotated[
        list[str],
        typer.Option(help="CODE=HOST:PORT, once for each province. 省级行政区代码=节点地址。"),
    ],
    issuer: Annotated[
        list[str] | None,
        typer.Option(help="CODE=CREDIT_CODE of an issuer. 发证机构的统一社会信用代码。"),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypts the keys under keys/. 加密密钥的口令文件。")
    ] = None,
) -> None:
    """Make a new exchange: root 2-of-3, targets, provinces, profiles, keys. 建立新的交换体系。"""
    from exchange.provinces import province as known
    from exchange.subjects import check_credit_code
    from nodes.setup import Member, initialise

    addresses = dict(_pair(text, "--province", "CODE=HOST:PORT") for text in province)
    issuers: dict[str, list[str]] = {known(code, field="--province").code: [] for code in addresses}
    for text in issuer or ():
        code, credit_code = _pair(text, "--issuer", "CODE=CREDIT_CODE")
        if code not in issuers:
            raise InvalidFieldError(f"{code} is not among the provinces", field="--issuer")
        issuers[code].append(check_credit_code(credit_code, field="--issuer"))
    initialise(
        directory,
        {code: Member(code, addresses[code], tuple(issuers[code])) for code in addresses},
        now=datetime.now(UTC),
        passphrase=_passphrase(passphrase_file),
    )
    typer.echo(f"made an exchange of {len(addresses)} provinces in {directory}")
    if not passphrase_file:
        typer.echo(
            "the keys under keys/ are not encrypted: for trials only (see --passphrase-file)",
            err=True,
        )
    for code in addresses:
        typer.echo(f"  tongxing node run --config {directory / code / 'node.toml'}")


def renew(
    directory: Annotated[Path, typer.Argument(help="The exchange's folder. 交换体系文件夹。")],
    passphrase_file: Annotated[Path | None, typer.Option(help="Of the keys. 口令文件。")] = None,
) -> None:
    """Sign the timestamp (and the snapshot, when due) anew. 续签时间戳。"""
    from exchange.trust import ceremony
    from exchange.trust.signers import Online, load_signer

    passphrase = _passphrase(passphrase_file)
    keys = directory / "keys"
    online = Online(
        load_signer(keys / "snapshot.pem", passphrase),
        load_signer(keys / "timestamp.pem", passphrase),
    )
    trust = directory / "trust"
    ceremony.write(trust, ceremony.renew(ceremony.read(trust), online, now=datetime.now(UTC)))
    typer.echo(f"renewed {trust / 'timestamp.json'}")


def issue_identity(
    directory: Annotated[Path, typer.Argument(help="The province's folder. 省级文件夹。")],
    role: Annotated[str, typer.Option(help="issuer, app or admin.")],
    name: Annotated[str, typer.Option(help="An issuer's credit code, or an app's name. 名称。")],
    node: Annotated[str, typer.Option(help="HOST:PORT of the province's node. 节点地址。")],
) -> None:
    """Issue a client certificate and its configuration. 签发客户端证书。"""
    from nodes.identity import Identity
    from nodes.setup import issue_client

    if role not in ("issuer", "app", "admin"):
        raise InvalidFieldError("must be issuer, app or admin", field="--role")
    identity = Identity.parse(f"spiffe://{directory.resolve().name}.tongxing/{role}/{name}")
    path = issue_client(directory, identity, f"{role}-{name}", address=node, now=datetime.now(UTC))
    typer.echo(f"issued {identity.uri}\nuse it with --client {path}")


def _pair(text: str, field: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise InvalidFieldError("not a pair", field=field, remedy=f"write {form}")
    return left, right


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise InvalidFieldError(
            error.strerror or "cannot be read", field="--passphrase-file"
        ) from None
