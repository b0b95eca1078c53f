"""``tongxing identity``: certificates, and the authority that issues them (身份证书)."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError, TrustListError
from nodes.cli import client, output
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.trust.trustlist import TrustList
    from nodes.certificates import Standing

__all__ = ["identity"]

identity = typer.Typer(no_args_is_help=True, help="Certificates (身份证书).")
authority = typer.Typer(no_args_is_help=True, help="The province's TLS authority (省级签发机构).")
identity.add_typer(authority, name="authority")

_UNFIT, _SOON = 1, 3
_ROLES = ("node", "issuer", "app", "admin", "registry")
DirectoryArgument = Annotated[
    Path, typer.Argument(help="The province's folder, named by its code. 省级文件夹。")
]
NodeOption = Annotated[
    Path | None, typer.Option("--config", help="The node's TOML file. 节点配置文件。")
]


@identity.command()
def issue(
    directory: DirectoryArgument,
    role: Annotated[str, typer.Option(help="node, issuer, app, admin or registry. 角色。")],
    name: Annotated[
        str, typer.Option(help="An issuer's credit code, an app's or a node's name. 名称。")
    ] = "",
    node: Annotated[
        str, typer.Option(help="HOST:PORT of the node, for a new client. 节点地址。")
    ] = "",
    days: Annotated[int, typer.Option(min=1, max=825, help="How long it holds. 有效天数。")] = 90,
) -> None:
    """Issue a certificate, or renew one in its place. 签发或续签证书。

    A running node or client takes the new one over by itself.
    """
    from nodes.identity import Identity, Role
    from nodes.issuing import borne_by, issue_into
    from nodes.setup import issue_client

    if role not in _ROLES:
        raise InvalidFieldError(f"must be one of {', '.join(_ROLES)}", field="--role")
    home = directory.resolve()
    serves = role in (Role.NODE, Role.REGISTRY)
    if not name and serves:
        name = _name_of(home / f"{role}.pem")
    if not name:
        raise InvalidFieldError("is missing", field="--name", remedy="give --name NAME")
    who = Identity.parse(f"spiffe://{home.name}.tongxing/{role}/{name}")
    now, lifetime = datetime.now(UTC), timedelta(days=days)
    if serves:
        stem = role
    else:
        stem = borne_by(home, (role, f"{role}-{name}"), who.uri) or f"{role}-{name}"
        if not node and not (home / f"{stem}.toml").exists():
            raise InvalidFieldError(
                "is missing", field="--node", remedy="give the node's HOST:PORT for a new client"
            )
    if node and not serves:
        issue_client(home, who, stem, address=node, now=now, lifetime=lifetime)
    else:
        issue_into(home, stem, who, now=now, lifetime=lifetime)
    typer.echo(f"issued {who.uri}")
    if who.role is Role.REGISTRY:
        typer.echo(f"{directory / stem}.pem and its key: copy them to the registry's folder")
    elif serves:
        typer.echo(f"{directory / stem}.pem: a running node takes it over by itself")
    else:
        typer.echo(f"use it with --client {directory / stem}.toml")


@identity.command()
def renew(
    directory: DirectoryArgument,
    days: Annotated[int, typer.Option(min=1, max=825, help="How long each holds. 有效天数。")] = 90,
) -> None:
    """Issue every certificate in the province's folder anew, in its place. 全部续签。

    What was issued from here but lies elsewhere, such as an app's, is not among them.
    """
    from nodes import issuing

    home = directory.resolve()
    now, lifetime = datetime.now(UTC), timedelta(days=days)
    found = issuing.borne(home)
    if not found:
        raise InvalidFieldError("holds no certificate", field="directory")
    for stem, who in sorted(found.items()):
        issuing.issue_into(home, stem, who, now=now, lifetime=lifetime)
        typer.echo(f"issued {who.uri}: {directory / stem}.pem")


@authority.command()
def rotate(
    directory: DirectoryArgument,
    days: Annotated[
        int, typer.Option(min=30, max=3660, help="How long it holds. 有效天数。")
    ] = 1825,
) -> None:
    """Make the authority's successor; it issues nothing yet. 生成新的签发机构。"""
    from nodes import issuing

    both = issuing.rotate(directory.resolve(), now=datetime.now(UTC), lifetime=timedelta(days=days))
    typer.echo(
        f"made {directory / 'authority-next.pem'}\n"
        f"1. publish {directory / both.name} as tls_ca in the province's profile\n"
        f"2. once every node follows it: tongxing identity authority adopt {directory}\n"
        f"3. issue every certificate of the province anew: tongxing identity renew {directory}\n"
        f"4. publish {directory / 'authority-next.pem'} alone as tls_ca"
    )


@authority.command()
def adopt(
    directory: DirectoryArgument,
    config: NodeOption = None,
) -> None:
    """Issue with the successor from now on, once it is in the trust list. 启用新的签发机构。"""
    from nodes import issuing

    home = directory.resolve()
    subject = _node(config or directory / "node.toml")
    issuing.adopt(home, subject.trust().profile(subject.province).tls_ca.encode())
    typer.echo(f"{directory / 'authority.pem'} issues from now on: issue every certificate anew")


@identity.command()
def status(
    config: NodeOption = None,
    client_file: Annotated[
        Path | None,
        typer.Option(
            "--client", envvar="TONGXING_CLIENT", help="The client's TOML file. 客户端配置文件。"
        ),
    ] = None,
    warn_days: Annotated[
        int, typer.Option(min=0, help="Exit code 3 this many days before an end. 提前告警天数。")
    ] = 14,
    form: FormOption = Form.PRETTY,
) -> None:
    """Show how long certificate and authority hold, and whether they fit (查看证书状态).

    Exit code: 0 all is well; 1 something has expired or does not fit; 3 something ends soon.
    """
    subject = _node(config) if config else _client(client_file)
    now = datetime.now(UTC)
    rows = _rows(subject, now)
    if form is Form.JSON:
        output.print_json({"certificates": [row.document(now) for row in rows]})
    else:
        _print(rows, now, timedelta(days=warn_days))
    codes = {row.code(now, timedelta(days=warn_days)) for row in rows}
    raise typer.Exit(_UNFIT if _UNFIT in codes else max(codes))


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whose certificates: where they lie, and the folders that the trust list may be in."""

    province: str
    certificate: Path
    key: Path
    root: Path
    folders: tuple[Path, ...]

    def trust(self) -> TrustList:
        """The newest trust list that verifies.

        :raises TrustListError: none does.
        """
        from nodes.cli.clientfile import TrustFiles

        found: list[TrustList] = []
        error = TrustListError("there is none")
        for folder in self.folders:
            # A running node's own cache is not to be disturbed.
            with tempfile.TemporaryDirectory(prefix="tongxing-trust-") as cache:
                files = TrustFiles(root=self.root, metadata=folder, cache=Path(cache))
                try:
                    found.append(client.trust_list(files))
                except TrustListError as refused:
                    error = refused
        if not found:
            raise error
        return max(found, key=lambda each: each.version)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table; ``key_unfit`` is None where there is no key."""

    file: str
    standing: Standing
    key_unfit: str | None = None

    def code(self, now: datetime, warn: timedelta) -> int:
        if self.standing.unfit or self.key_unfit or self.standing.ends <= now:
            return _UNFIT
        return _SOON if self.standing.ends_within(warn, now) else 0

    def document(self, now: datetime) -> dict[str, Any]:
        return {
            "file": self.file,
            "subject": self.standing.subject,
            "issuer": self.standing.issuer,
            "valid_until": f"{self.standing.ends:%Y-%m-%dT%H:%M:%SZ}",
            "days_left": self.standing.days_left(now),
            "fits_trust_list": not self.standing.unfit,
            "key_fits": None if self.key_unfit is None else not self.key_unfit,
            "why": self.standing.unfit or self.key_unfit or "",
        }


def _rows(subject: _Subject, now: datetime) -> list[_Row]:
    from exchange.client.pair import Pair
    from nodes import certificates

    pair = Pair(subject.certificate.read_bytes(), subject.key.read_bytes())
    refused = ""
    authorities = b""
    try:
        authorities = subject.trust().profile(subject.province).tls_ca.encode()
    except TongxingError as error:
        refused = str(error)
    key_unfit = ""
    standing = certificates.leaf(pair, subject.province, authorities, now)
    if refused:
        standing = dataclasses.replace(standing, unfit=refused)
    try:
        pair.check()
    except TongxingError as error:
        key_unfit = str(error)
    listed = certificates.authorities(authorities, now) if authorities else []
    where = f"tls_ca of {subject.province}"
    return [
        _Row(str(subject.certificate), standing, key_unfit),
        *(_Row(where, each) for each in listed),
    ]


_WORDS = {
    0: ("有效", "valid", "green"),
    _SOON: ("即将到期", "ends soon", "yellow"),
    _UNFIT: ("不可用", "unusable", "red"),
}


def _print(rows: list[_Row], now: datetime, warn: timedelta) -> None:
    def words(row: _Row) -> Any:
        zh, en, style = _WORDS[row.code(now, warn)]
        return output.plain(f"{zh} {en}", style)

    def fits(unfit: str | None) -> str:
        return "" if unfit is None else "否 no" if unfit else "是 yes"

    console = output.console()
    console.print(
        output.table(
            "身份证书 Certificates",
            (
                "文件\nfile",
                "身份\nSPIFFE ID",
                "签发机构\nissuer",
                "有效期至\nvalid until",
                "剩余天数\ndays",
                "合信任列表\nfits list",
                "密钥相符\nkey fits",
                "结论\nstanding",
            ),
            (
                (
                    row.file.rpartition("/")[2],
                    row.standing.subject,
                    row.standing.issuer,
                    output.moment(row.standing.ends)[:16],
                    str(row.standing.days_left(now)),
                    fits(row.standing.unfit),
                    fits(row.key_unfit),
                    words(row),
                )
                for row in rows
            ),
        )
    )
    for row in rows:
        for why in (row.standing.unfit, row.key_unfit):
            if why:
                output.print_line(f"{row.file}: {why}")


def _name_of(certificate: Path) -> str:
    """The name that a certificate bears; "" where there is none."""
    from cryptography import x509

    from nodes.identity import Identity, uris

    if not certificate.exists():
        return ""
    found = uris(x509.load_pem_x509_certificate(certificate.read_bytes()))
    return Identity.parse(found[0]).name if found else ""


def _node(path: Path) -> _Subject:
    from nodes import config as configuration

    loaded = configuration.load(path)
    # What it heard from the registry lies in its own folder, perhaps newer than the other.
    mirror = loaded.data / "trust" / "mirror"
    folders = (mirror, loaded.trust.metadata) if mirror.exists() else (loaded.trust.metadata,)
    return _Subject(
        loaded.province,
        loaded.identity.certificate,
        loaded.identity.key,
        loaded.trust.root,
        folders,
    )


def _client(path: Path | None) -> _Subject:
    loaded = client.load(path)
    return _Subject(
        loaded.province,
        loaded.certificate,
        loaded.key,
        loaded.trust.root,
        (loaded.trust.metadata,),
    )
