"""`tongxing trust profile export` and `publish`: a province changes what it publishes of itself.

Between the two it signs, with its role key (`holding.sign_profile`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.errors import TrustListError
from nodes.cli import published
from nodes.cli.client import ClientOption
from nodes.cli.holding import PassphraseOption
from nodes.cli.published import DirectoryOption, OnlineKeysOption, RootOption, TrustOption

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

    from exchange.trust.profile import Profile

__all__ = ["export", "publish"]

_PATH = re.compile(r"(p([0-9]{6}))/profile")


def export(
    province: Annotated[str, typer.Argument(help="Its code. 省级行政区代码。")],
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="With these authorities (PEM) in place of its own. 换用的签发机构证书。"),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With these rules in place of its own: a file as `tongxing rules check` reads it. "
            "换用的互认规则。",
        ),
    ] = None,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
) -> None:
    """Write a province's profile as it stands, to be changed and signed anew. 导出省级资料。

    Its `version` is the one that stands: `tongxing trust profile sign` signs the next.
    """
    from exchange.trust import roles
    from nodes.cli import rulefile

    book = None if rules is None else rulefile.compiled(rulefile.read(rules))
    standing = published.standing(trust, root, client_file)
    profile = standing.profiles.get(province)
    if profile is None:
        raise TrustListError(
            f"{province} has no profile that can be used",
            field="province",
            remedy="`tongxing trust show` tells who takes part",
        )
    if tls_ca is not None:
        profile = dataclasses.replace(profile, tls_ca=tls_ca.read_text(encoding="utf-8"))
    if book is not None:
        changed = tuple(rule.to_json() for rule in book.rules)
        profile = dataclasses.replace(profile, rules=changed)
    document = {"version": standing.versions[roles.role_name(province)], **profile.to_json()}
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def publish(
    file: Annotated[Path, typer.Argument(help="What `profile sign` wrote. 自签资料。")],
    client_file: ClientOption = None,
    directory: DirectoryOption = None,
    online_keys: OnlineKeysOption = None,
    passphrase_fd: PassphraseOption = None,
) -> None:
    """Publish a signed profile: by the registry, or in a folder. 发布省级资料。"""
    from exchange import authoring

    data = file.read_bytes()
    name, profile = _read(data, file)
    # The province's own node would refuse the list for its sake.
    authoring.check(profile.rules)
    where = published.hand_in(
        {name: data},
        client_file=client_file,
        directory=directory,
        online_keys=online_keys,
        passphrase_fd=passphrase_fd,
    )
    typer.echo(f"published in {where}: {name}")


def _read(data: bytes, file: Path) -> tuple[str, Profile]:
    """A province's metadata: the name that it is published by, whatever the file is called.

    :raises TrustListError: it is no province's.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Targets

    from exchange.trust import roles

    try:
        metadata: Metadata[Targets] = Metadata.from_bytes(data)
    except RepositoryError:
        raise _none(file) from None
    signed = metadata.signed
    paths = list(signed.targets) if isinstance(signed, Targets) else []
    parts = _PATH.fullmatch(paths[0]) if len(paths) == 1 else None
    if parts is None:
        raise _none(file)
    profile = roles.profile_of(signed.targets[paths[0]], parts[2])
    return f"{signed.version}.{parts[1]}.json", profile


def _none(file: Path) -> TrustListError:
    return TrustListError(
        "is no profile that a province signed",
        field=str(file),
        remedy="give what `tongxing trust profile sign` wrote",
    )
