"""The trust list as files: what it consists of, what somebody lacks, and where it lies on disk.

Nothing here verifies anything; `exchange.trust.refresh` does, whoever the files came from.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from exchange.errors import TrustListError

__all__ = [
    "LARGEST",
    "TIMESTAMP",
    "Bundle",
    "Files",
    "Versions",
    "admit",
    "mirror",
    "newest_root",
    "read",
    "signed",
    "write",
]

Files = Mapping[str, bytes]
"""Metadata files by name, as TUF's consistent snapshots name them: ``3.root.json``."""

TIMESTAMP: Final = "timestamp.json"

LARGEST: Final[Mapping[str, int]] = {
    "root": 256 * 1024,
    "timestamp": 16 * 1024,
    "snapshot": 128 * 1024,
    "targets": 1024 * 1024,
}
"""How many bytes a role's file may have; a province's as many as targets."""

_MOST_FILES: Final = 400
"""In one offer: all the roots that a reader follows, and a whole list."""
_MOST_ROLES: Final = 100
"""In one snapshot, and in one ``TrustVersions`` of the contract."""
_HIGHEST: Final = 10**10 - 1
"""The highest version that a file's name has room for."""
_NAME: Final = re.compile(
    r"[1-9][0-9]{0,9}\.(root|targets|snapshot|p[0-9]{6})\.json|timestamp\.json", re.ASCII
)
_ROLE: Final = re.compile(r"(targets|p[0-9]{6})\.json", re.ASCII)

_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class Versions:
    """Which version of each role's metadata somebody holds; 0 for none.

    :param roles: targets and the provinces' roles, by name: ``targets``, ``p510000``.
    """

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    roles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A trust list's files: every root, and the newest file of each other role."""

    files: Files
    versions: Versions

    @classmethod
    def of(cls, files: Files) -> Bundle:
        """Pick what belongs together, by what timestamp and snapshot name.

        A file that is not the one named is its bringer's fault, not its province's: the files are
        refused whole, or anybody on the way could take a province away.

        :raises TrustListError: a file is missing, is another than is named, or is not TUF metadata.
        """
        timestamp = signed(files, TIMESTAMP, Timestamp)
        head = timestamp.snapshot_meta
        above = f"{head.version}.snapshot.json"
        snapshot = signed(files, above, Snapshot)
        _check_named(files, above, head)
        _check_bounds(timestamp, snapshot)
        names = [name for name in files if name.endswith(".root.json")]
        names += [TIMESTAMP, above]
        for file, meta in snapshot.meta.items():
            name = f"{meta.version}.{file}"
            # A departed province stays in the snapshot; its file may be gone.
            if name in files:
                _check_named(files, name, meta)
                names.append(name)
        _check_whole(files, snapshot)
        return cls(
            files={name: files[name] for name in names},
            versions=Versions(
                root=_number(newest_root(files)),
                timestamp=timestamp.version,
                snapshot=head.version,
                roles={
                    name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()
                },
            ),
        )

    def missing(self, have: Versions) -> dict[str, bytes]:
        """The files that somebody lacks who holds ``have``."""
        held = {f"{version}.{name}.json" for name, version in have.roles.items()}
        held.add(f"{have.snapshot}.snapshot.json")
        if have.timestamp == self.versions.timestamp:
            held.add(TIMESTAMP)
        return {
            name: data
            for name, data in self.files.items()
            if name not in held and not (name.endswith(".root.json") and _number(name) <= have.root)
        }


def _check_named(files: Files, name: str, meta: MetaFile) -> None:
    try:
        meta.verify_length_and_hashes(files[name])
    except LengthOrHashMismatchError as error:
        raise TrustListError(
            f"{name} is not the file that the list names", remedy="fetch the list from another"
        ) from error


def _check_bounds(timestamp: Timestamp, snapshot: Snapshot) -> None:
    """Refuse what could be neither named nor asked for: to hold it would be to hear no more."""
    versions = [timestamp.version, snapshot.version]
    versions += [meta.version for meta in snapshot.meta.values()]
    if (
        max(versions) > _HIGHEST
        or len(snapshot.meta) > _MOST_ROLES
        or not all(_ROLE.fullmatch(name) for name in snapshot.meta)
    ):
        raise TrustListError(
            "the snapshot or timestamp names what no exchange has",
            remedy="the online keys may be in wrong hands: rotate them by a new root",
        )


def _check_whole(files: Files, snapshot: Snapshot) -> None:
    meta = snapshot.meta.get("targets.json")
    if meta is None:
        raise TrustListError("the snapshot names no targets")
    delegations = signed(files, f"{meta.version}.targets.json", Targets).delegations
    for role in (delegations and delegations.roles) or ():
        meta = snapshot.meta.get(f"{role}.json")
        if meta is not None and f"{meta.version}.{role}.json" not in files:
            raise TrustListError(
                f"{meta.version}.{role}.json is missing", remedy="fetch the list whole"
            )


def admit(offered: Files) -> None:
    """Refuse files that no list has, before anything reads them: by number, name and size.

    :raises TrustListError: with the name as its field.
    """
    if len(offered) > _MOST_FILES:
        raise TrustListError(f"more than {_MOST_FILES} files are offered at once")
    for name, data in offered.items():
        largest = LARGEST.get(_role(name), LARGEST["targets"])
        if len(data) > largest:
            raise TrustListError(f"it has more than {largest} bytes", field=name)


def _role(name: str) -> str:
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise TrustListError("no file of a trust list is named so", field=repr(name[:100]))
    return parts[1] or "timestamp"


def newest_root(files: Iterable[str]) -> str:
    """The name of the newest root among files.

    :raises TrustListError: there is none.
    """
    roots = [name for name in files if name.endswith(".root.json")]
    if not roots:
        raise TrustListError("no root is there", remedy="fetch the list whole")
    return max(roots, key=_number)


def _number(name: str) -> int:
    number = name.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def signed(files: Files, name: str, kind: type[_S]) -> _S:
    """The content of a file, unverified.

    :raises TrustListError: it is missing, or is not metadata of that kind.
    """
    data = files.get(name)
    if data is None:
        raise TrustListError(f"{name} is missing", remedy="fetch the list whole")
    try:
        content: Signed = Metadata.from_bytes(data).signed
    except RepositoryError as error:
        raise TrustListError(f"{name} is not TUF metadata") from error
    if not isinstance(content, kind):
        raise TrustListError(f"{name} is not {kind.type} metadata")
    return content


def read(directory: Path) -> dict[str, bytes]:
    """Read a trust list as it stands: every root, and the newest file of each other role.

    The folder may be a mirror that its node brings forward meanwhile.

    :raises TrustListError: there is none, or a file is missing.
    """
    while True:
        head = _file(directory, TIMESTAMP)
        try:
            return _read(directory, head)
        except TrustListError:
            # A mirror's timestamp moves before what it named is taken away.
            if _file(directory, TIMESTAMP) == head:
                raise


def _read(directory: Path, timestamp: bytes) -> dict[str, bytes]:
    files = {TIMESTAMP: timestamp}
    head = signed(files, TIMESTAMP, Timestamp).snapshot_meta.version
    files[f"{head}.snapshot.json"] = _file(directory, f"{head}.snapshot.json")
    for name, meta in signed(files, f"{head}.snapshot.json", Snapshot).meta.items():
        files[f"{meta.version}.{name}"] = _file(directory, f"{meta.version}.{name}")
    for path in directory.glob("[1-9]*.root.json"):
        files[path.name] = _file(directory, path.name)
    return files


def _file(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise TrustListError(
            f"{name} cannot be read", remedy=f"check {directory}, the folder of the list"
        ) from error


def write(directory: Path, files: Files) -> None:
    """Put files down, each whole or not at all, the timestamp last: readers never see half a step.

    :raises TrustListError: a versioned file is there with other content, or a name is none.
    """
    for name, data in files.items():
        _role(name)
        path = directory / name
        if name != TIMESTAMP and path.exists() and path.read_bytes() != data:
            raise TrustListError(
                f"{name} is there already",
                remedy="a version is published once: start from the files as they stand",
            )
    _put(directory, files)


def mirror(directory: Path, files: Files) -> None:
    """Make a folder hold these verified files, and no others of a list.

    Where the online keys were in wrong hands, a version may have been another's before.

    :raises TrustListError: a name is none.
    """
    for name in files:
        _role(name)
    _put(directory, files)
    for path in directory.iterdir():
        # What bears no such name may be a file that another process is about to put here.
        if path.name not in files and _NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _put(directory: Path, files: Files) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in sorted(files.items(), key=lambda item: item[0] == TIMESTAMP):
        path = directory / name
        if path.exists() and path.read_bytes() == data:
            continue
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(file.name).unlink()
                raise
