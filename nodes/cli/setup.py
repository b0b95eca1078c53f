"""`tongxing trust init` and `renew`: an exchange for trials; `tongxing node init`: a province."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from exchange.errors import InvalidFieldError
from nodes.cli import output

__all__ = ["init", "init_node", "renew"]


def init(
    directory: Annotated[
        Path, typer.Argument(help="A new folder; its parents are made. 新文件夹。")
    ],
    province: Annotated[
        list[str],
        typer.Option(help="CODE=HOST:PORT, once for each province. 省级行政区代码=节点地址。"),
    ],
    issuer: Annotated[
        list[str] | None,
        typer.Option(help="CODE=CREDIT_CODE of an issuer. 发证机构的统一社会信用代码。"),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="CODE=HOST:PORT of a registry and the province hosting it. 登记处。"),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypts the keys under keys/. 加密密钥的口令文件。")
    ] = None,
) -> None:
    """Make a new exchange: root 2-of-3, targets, provinces, profiles, keys. 建立新的交换体系。"""
    from exchange.provinces import province as known
    from exchange.subjects import check_credit_code
    from nodes.setup import Member, RegistryPlace, initialise

    addresses = _addresses(province)
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
        registry=RegistryPlace(*_pair(registry, "--registry", "CODE=HOST:PORT"))
        if registry
        else None,
    )
    typer.echo(f"made an exchange of {len(addresses)} provinces in {directory}")
    if not passphrase_file:
        typer.echo(
            "the keys under keys/ are not encrypted: for trials only (see --passphrase-file)",
            err=True,
        )
    if registry:
        typer.echo(f"  tongxing registry run --config {directory / 'registry' / 'registry.toml'}")
    for code in addresses:
        typer.echo(f"  tongxing node run --config {directory / code / 'node.toml'}")


def renew(
    directory: Annotated[Path, typer.Argument(help="The exchange's folder. 交换体系文件夹。")],
    passphrase_file: Annotated[Path | None, typer.Option(help="Of the keys. 口令文件。")] = None,
) -> None:
    """Sign the timestamp (and the snapshot, when due) anew. 续签时间戳。"""
    from tuf.api.metadata import Timestamp

    from exchange.trust import ceremony, files
    from exchange.trust.signers import Online, load_signer

    passphrase = _passphrase(passphrase_file)
    keys = directory / "keys"
    trust = directory / "trust"
    if not (keys / "timestamp.pem").exists() or not (trust / "timestamp.json").exists():
        raise InvalidFieldError(
            f"no exchange in {directory}",
            field="directory",
            remedy="name the folder that `tongxing trust init` made",
        )
    online = Online(
        load_signer(keys / "snapshot.pem", passphrase),
        load_signer(keys / "timestamp.pem", passphrase),
    )
    renewed = ceremony.renew(files.read(trust), online, now=datetime.now(UTC))
    files.write(trust, renewed)
    expires = files.signed(renewed, "timestamp.json", Timestamp).expires
    typer.echo(f"renewed {trust / 'timestamp.json'}: it expires at {output.moment(expires)}")


def init_node(
    directory: Annotated[
        Path, typer.Argument(help="A new folder, named by the province's code. 省级文件夹。")
    ],
    address: Annotated[str, typer.Option(help="HOST:PORT of its node. 节点地址。")],
    issuer: Annotated[
        list[str] | None, typer.Option(help="Credit code of an issuer. 发证机构。")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="CODE=HOST:PORT of a registry and the province hosting it. 登记处。"),
    ] = None,
) -> None:
    """Make the folder of a province that is to be admitted, and its profile. 建立省级文件夹。

    The profile is for `tongxing trust profile sign`; nothing of the exchange is needed or changed.
    """
    import json

    from exchange.subjects import check_credit_code
    from nodes.setup import Member, RegistryPlace, lay_province, published_rules

    code = directory.resolve().name
    issuers = tuple(check_credit_code(each, field="--issuer") for each in issuer or ())
    profile = lay_province(
        directory,
        Member(code, address, issuers),
        now=datetime.now(UTC),
        rules=published_rules(code),
        registry=RegistryPlace(*_pair(registry, "--registry", "CODE=HOST:PORT"))
        if registry
        else None,
    )
    path = directory / "profile.json"
    text = json.dumps(profile.to_json(), ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    role_key = directory / "role-key.pem"
    typer.echo(f"made {directory}; next, make the province's role key and sign its profile:")
    typer.echo(f"  tongxing trust key new {role_key}")
    typer.echo(f"  tongxing trust profile sign {path} --key {role_key} --trust DIR --out FILE")
    if registry:
        typer.echo(f"the node reads that key's passphrase from {directory / 'role-passphrase'}")


def _addresses(pairs: list[str]) -> dict[str, str]:
    """Addresses by province.

    :raises InvalidFieldError: a province or an address stands twice, or an address is none.
    """
    from nodes.config import host_and_port

    found: dict[str, str] = {}
    for text in pairs:
        code, address = _pair(text, "--province", "CODE=HOST:PORT")
        try:
            host_and_port(address)
        except ValueError as error:
            raise InvalidFieldError(f"{address}: {error}", field="--province") from None
        if code in found:
            raise InvalidFieldError(f"{code} stands twice", field="--province")
        if address in found.values():
            raise InvalidFieldError(
                f"two provinces on {address}",
                field="--province",
                remedy="give each node a port of its own",
            )
        found[code] = address
    return found


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
