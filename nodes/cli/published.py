"""The trust list as it stands, for the commands that change it, and where they hand in a change."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import client, holding, output

if TYPE_CHECKING:
    from exchange.trust.files import Files
    from exchange.trust.standing import Standing

__all__ = [
    "DirectoryOption",
    "OnlineKeysOption",
    "RootOption",
    "TrustOption",
    "check_place",
    "hand_in",
    "standing",
]

_ARRIVAL_SECONDS = 10.0
_LOOK_SECONDS = 0.2

TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="The folder of the trust list. 信任列表文件夹。")
]
RootOption = Annotated[
    Path | None,
    typer.Option("--root", help="The pinned root; else the folder's 1.root.json. 预置的根文件。"),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option("--directory", help="Without a registry: the folder to publish in. 发布文件夹。"),
]
OnlineKeysOption = Annotated[
    Path | None,
    typer.Option(
        "--online-keys",
        help="With --directory: of snapshot.pem and timestamp.pem. 在线密钥文件夹。",
    ),
]


def standing(trust: Path | None, root: Path | None, client_file: Path | None) -> Standing:
    """Verify the list in a folder, or that of the client's node.

    :param root: the pinned root; by default that of the client, or the first in the folder.
    :raises TongxingError: it does not verify, or there is none.
    """
    from exchange.trust import files
    from exchange.trust.standing import Standing

    if trust is None:
        if client_file is None:
            raise InvalidFieldError(
                "is missing", field="--trust", remedy="give --trust DIR, or --client FILE"
            )
        pinned = root or client.load(client_file).trust.root
        return Standing.of(_fetched(client_file), pinned.read_bytes())
    return Standing.of(files.read(trust), (root or trust / "1.root.json").read_bytes())


def check_place(directory: Path | None, online_keys: Path | None) -> None:
    """Refuse one of the two without the other, before anything is asked or read.

    :raises InvalidFieldError: names the one that is missing.
    """
    if (directory is None) != (online_keys is None):
        raise InvalidFieldError(
            "is missing",
            field="--directory" if directory is None else "--online-keys",
            remedy="give both, or neither and --client FILE",
        )


def hand_in(
    submitted: Files,
    *,
    client_file: Path | None,
    directory: Path | None,
    online_keys: Path | None,
    passphrase_fd: int | None,
) -> str:
    """Publish by the client's registry, or in a folder with the online keys at hand.

    :param submitted: new versions of root, targets and provinces' metadata, by name.
    :returns: where: an address or a folder.
    :raises TongxingError: they are refused, or the registry does not answer.
    """
    check_place(directory, online_keys)
    if directory is not None and online_keys is not None:
        _publish_in(directory, submitted, online_keys, passphrase_fd)
        return str(directory)
    config = client.load(client_file)
    if config.trust.registry is None:
        raise InvalidFieldError(
            "names no registry",
            field="trust.registry",
            remedy="add it to the client's file, or give --directory and --online-keys",
        )
    from nodes.peers.registry import Registry

    registry = Registry(config.trust.registry, config.certificate, config.key)
    asyncio.run(registry.submit(submitted))
    if not _arrives(client_file, submitted):
        output.print_line("the registry has it, but the node does not show it yet")
    return config.trust.registry.address


def _arrives(client_file: Path | None, submitted: Files) -> bool:
    """Wait until the client's node holds what the registry took; whether it does."""
    end = time.monotonic() + _ARRIVAL_SECONDS
    while time.monotonic() < end:
        try:
            if submitted.keys() <= _fetched(client_file).keys():
                return True
        except TongxingError:
            return False
        time.sleep(_LOOK_SECONDS)
    return False


def _publish_in(
    directory: Path, submitted: Files, online_keys: Path, passphrase_fd: int | None
) -> None:
    from exchange.trust import ceremony, files
    from exchange.trust.signers import Online

    opened = holding.open_signers(
        [online_keys / "snapshot.pem", online_keys / "timestamp.pem"], passphrase_fd
    )
    current = files.read(directory)
    new = ceremony.accept(current, submitted, Online(*opened), now=datetime.now(UTC))
    files.write(directory, new)


def _fetched(client_file: Path | None) -> Files:
    """What the client's node holds now; `Standing` verifies it."""
    from exchange import views
    from exchange.trust import files
    from exchange.v1 import trust_service_pb2 as pb

    answer: pb.GetTrustMetadataResponse = client.call(
        client_file,
        lambda node: node.call(
            "TrustService/GetTrustMetadata",
            pb.GetTrustMetadataRequest(),
            pb.GetTrustMetadataResponse,
        ),
    )
    return files.Bundle.of(views.files_from_proto(answer.files)).files
