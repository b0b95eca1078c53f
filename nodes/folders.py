"""What lies where in a node's data folder, of which each of its processes has a part."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from exchange.errors import InvalidFieldError

__all__ = ["folders", "name", "private_directory"]

NAME_BYTES: Final = 8


def folders(data: Path) -> dict[int, Path]:
    """Give what `Worker.folder` gave to each process that there is or ever was, by number."""
    others = (data / "workers").glob("[0-9]*")
    return {0: data, **{int(each.name): each for each in others if each.name.isdecimal()}}


def name(data: Path) -> bytes:
    """Give the name by which a store tells this node from others: the same after a restart.

    :param data: the node's; never a copy of another's, nor the name with it.
    :return: 8 random bytes.
    :raises InvalidFieldError: it can be neither read nor written.
    """
    path = data / "name"
    try:
        if path.exists() and len(known := path.read_bytes()) == NAME_BYTES:
            return known
        new = path.with_suffix(".new")
        new.write_bytes(made := secrets.token_bytes(NAME_BYTES))
        new.rename(path)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="data") from None
    return made


def private_directory(path: Path) -> None:
    """Make a folder of the node's own, closed to all other users.

    :raises InvalidFieldError: it cannot be made; field ``data``.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="data") from None
