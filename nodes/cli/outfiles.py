"""Files that a command writes what it was answered into: an answer must have its place.

The place is looked at before anybody is asked, for a call that was made stands in an access log,
and what it gave cannot be had a second time.
"""

from __future__ import annotations

import os
from pathlib import Path

from exchange.errors import InvalidFieldError

__all__ = ["check", "check_folder", "write"]


def check(path: Path | None, option: str, *, replace: bool) -> None:
    """Look whether a file can be written; nothing is written yet.

    :param path: None where the option was not given.
    :param option: what named it: ``--receipt``.
    :param replace: whether a file that is there may go; a picture may, a receipt (回执) may not.
    :raises InvalidFieldError: it is a folder, it is there, or nothing can be written there.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise _refused(path, "is a folder", option, "name a file in it")
        dangling = path.is_symlink() and not path.exists()
        if (path.is_file() or dangling) and not replace:
            raise _taken(path, option)
        if not path.parent.is_dir():
            raise _refused(path, "its folder is not there", option, "make the folder first")
    except OSError as error:  # a name that is too long, for one
        raise _failed(path, error, option) from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise _refused(path, "may not be written", option, "name a file where you may write")


def check_folder(folder: Path, option: str, *, of: str) -> None:
    """Make a folder for files that are not to replace any.

    :param of: a pattern of their names: ``*.cwt``.
    :raises InvalidFieldError: it cannot be made or written into, or holds such files already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob(of)):
            raise _refused(folder, f"holds {of} already", option, "name a new folder")
    except OSError as error:
        raise _failed(folder, error, option) from None
    if not os.access(folder, os.W_OK):
        raise _refused(folder, "may not be written", option, "name a folder where you may write")


def write(path: Path, data: bytes, option: str, *, replace: bool) -> None:
    """Write a file whose place was looked at.

    :raises InvalidFieldError: it cannot be written, or came to be there meanwhile.
    """
    try:
        with path.open("wb" if replace or (path.exists() and not path.is_file()) else "xb") as file:
            file.write(data)
    except FileExistsError:
        raise _taken(path, option) from None
    except OSError as error:
        raise _failed(path, error, option) from None


def _refused(path: Path, what: str, option: str, remedy: str) -> InvalidFieldError:
    return InvalidFieldError(f"{path}: {what}", field=option, remedy=remedy)


def _taken(path: Path, option: str) -> InvalidFieldError:
    return _refused(path, "is there already", option, "name a new file, or move that one away")


def _failed(path: Path, error: OSError, option: str) -> InvalidFieldError:
    return _refused(path, error.strerror or "cannot be written", option, "name another file")
