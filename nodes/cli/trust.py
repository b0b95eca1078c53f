"""``tongxing trust``: the trust list (信任列表). `nodes.cli.setup` adds ``init`` and ``renew``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError
from exchange.provinces import PROVINCES
from nodes.cli import client, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.trust.trustlist import TrustList

__all__ = ["trust"]

trust = typer.Typer(no_args_is_help=True, help="The trust list (信任列表).")


@trust.command()
def show(
    metadata: Annotated[
        Path | None, typer.Option("--trust", help="The folder of the list. 信任列表文件夹。")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The pinned root. 预置的根文件。")] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Verify the trust list and show what it holds (查看信任列表)."""
    found = _verified(metadata, root, client_file)
    if form is Form.JSON:
        output.print_json(_document(found))
    else:
        _print(found)


def _verified(metadata: Path | None, root: Path | None, client_file: Path | None) -> TrustList:
    if metadata is None and root is None:
        return client.trust_list(client.load(client_file).trust)
    if metadata is None or root is None:
        raise InvalidFieldError(
            "is missing",
            field="--trust" if metadata is None else "--root",
            remedy="give --trust DIR and --root FILE together, or --client FILE",
        )
    # Nothing to compare with: what is shown is verified, but may be older than what others saw.
    with tempfile.TemporaryDirectory(prefix="tongxing-trust-") as cache:
        from nodes.cli.clientfile import TrustFiles

        files = TrustFiles(root=root, metadata=metadata, cache=Path(cache))
        return client.trust_list(files)


def _document(found: TrustList) -> dict[str, Any]:
    return {
        "version": found.version,
        "root_version": found.root_version,
        "expires": f"{found.expires:%Y-%m-%dT%H:%M:%SZ}",
        "provinces": [
            {"zh": PROVINCES[code].zh, "en": PROVINCES[code].en, **profile.to_json()}
            for code, profile in sorted(found.profiles.items())
        ],
        "epochs": [
            {**epoch.to_json(), "sealed": sorted(epoch.sealed)} for epoch in found.epochs.epochs
        ],
        "unusable": [
            {"province": code, "why": why} for code, why in sorted(found.unusable.items())
        ],
    }


def _print(found: TrustList) -> None:
    console = output.console()
    console.print(
        f"信任列表 Trust list: version {found.version}, root {found.root_version}, "
        f"expires {output.moment(found.expires)}"
    )
    console.print(
        output.table(
            "省级行政区 Provinces",
            (
                "code",
                "中文",
                "English",
                "keys: kid algorithm state since",
                "addresses",
                "rules",
                "应用 apps",
            ),
            (
                (
                    code,
                    PROVINCES[code].zh,
                    PROVINCES[code].en,
                    output.lines(
                        f"{key.public.kid.hex()} {key.public.algorithm.name} {key.state} "
                        f"{output.moment(key.since)}"
                        for key in profile.keys
                    ),
                    output.lines(profile.addresses),
                    str(len(profile.rules)),
                    output.lines(f"{app.zh} {app.id}" for app in profile.apps),
                )
                for code, profile in sorted(found.profiles.items())
            ),
        )
    )
    console.print(
        output.table(
            "主体标识密钥 Subject epochs",
            ("epoch", "from", "until", "sealed for"),
            (
                (
                    str(epoch.number),
                    output.moment(epoch.starts),
                    output.moment(epoch.ends),
                    output.lines(output.province_name(code) for code in sorted(epoch.sealed)),
                )
                for epoch in found.epochs.epochs
            ),
        )
    )
    if found.unusable:
        console.print(
            output.table(
                "不可用 Not usable",
                ("province", "why"),
                ((output.province_name(code), why) for code, why in sorted(found.unusable.items())),
            )
        )
