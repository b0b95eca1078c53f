"""Verify the trust list's files by TUF's client workflow (python-tuf's ``Updater``).

Whoever the files come from, by whatever way, is not trusted. python-tuf
reads the system's clock itself when it judges what is expired; nothing else here does.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from exchange.errors import TongxingError, TrustListError
from exchange.trust import forms, roles
from exchange.trust.epochs import epochs_of
from exchange.trust.files import LARGEST, TIMESTAMP, Bundle
from exchange.trust.trustlist import TrustList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuf.api.metadata import DelegatedRole
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

    from exchange.trust.files import Files
    from exchange.trust.profile import Profile

__all__ = ["load", "verify"]

_CONFIG: Final = UpdaterConfig(
    # Counted a look-up, not a refresh: the targets role and one province. A province that
    # delegates further is not followed.
    max_delegations=1,
    root_max_length=LARGEST["root"],
    timestamp_max_length=LARGEST["timestamp"],
    snapshot_max_length=LARGEST["snapshot"],
    targets_max_length=LARGEST["targets"],
)
_LARGEST: Final = max(LARGEST.values())

_REFUSALS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (
        ExpiredMetadataError,
        "it has expired",
        "fetch the list anew; if it is the newest, its publisher must sign it again",
    ),
    (
        UnsignedMetadataError,
        "too few of the keys entitled to sign it have signed it",
        "fetch the list from another mirror, and check the pinned root",
    ),
    (
        BadVersionNumberError,
        "its version is not the one expected, or older than one already seen",
        "fetch the list from another mirror: this one is stale or was put back",
    ),
    (
        LengthOrHashMismatchError,
        "it is not the file that the snapshot or timestamp names",
        "fetch the list from another mirror",
    ),
    (DeserializationError, "it is not TUF metadata", "fetch the list from another mirror"),
    (DownloadLengthMismatchError, "it is larger than it may be", "fetch it from another mirror"),
    (DownloadHTTPError, "a file is missing", "fetch the list whole"),
    (DownloadError, "a file cannot be read", "check the directory of the list"),
    (RepositoryError, "it contradicts itself", "fetch the list from another mirror"),
    (OSError, "a file cannot be read or kept", "check the directories of the list and its cache"),
)


def load(metadata: Path | Files, root: bytes, cache: Path) -> TrustList:
    """Verify the files of a trust list and read it.

    Blocks on files and, while another caller refreshes with the same cache, on its lock. What is
    cached is verified again each time; it serves only to notice a list older than one seen before,
    so whoever empties the cache loses that protection until the timestamp expires.

    :param metadata: the files as published, or their directory, which is only read.
    :param root: the bytes of the root that the operator pinned.
    :param cache: a directory of this exchange's; processes may share it.
    :raises TrustListError: if the list as a whole does not verify. A province whose own part does
        not is in `TrustList.unusable` instead.
    """
    with _refreshed(metadata, root, cache) as refreshed:
        return refreshed.trust_list()


def verify(files: Files, root: bytes, cache: Path) -> tuple[TrustList, Bundle]:
    """Verify files as `load` does, and give back those that the list rests on, and no others.

    Among them are the roots from the pinned one on; those before it nobody here can judge.

    :raises TrustListError: as `load`.
    """
    with _refreshed(files, root, cache) as refreshed:
        return refreshed.trust_list(), Bundle.of(refreshed.verified(files))


class _Fetcher(FetcherInterface):
    """Where python-tuf would download, it is given files at hand, or a directory's."""

    def __init__(self, metadata: Path | Files) -> None:
        self._metadata = metadata

    def _fetch(self, url: str) -> Iterator[bytes]:
        # python-tuf percent-encodes role names, so what follows the last slash is one file name.
        name = url.rpartition("/")[2]
        data = self._read(name)
        if data is None:
            raise DownloadHTTPError(f"{name} is missing", 404)
        # A length in snapshot or timestamp overrides the configured limits, so one holds here.
        if len(data) > _LARGEST:
            raise DownloadLengthMismatchError(f"{name} has more than {_LARGEST} bytes")
        return iter((data,))

    def _read(self, name: str) -> bytes | None:
        if not isinstance(self._metadata, Path):
            return self._metadata.get(name)
        path = self._metadata / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(_LARGEST + 1)


class _Refresh(Updater):
    """One refresh; an Updater can do no more than one."""

    _trusted_set: TrustedMetadataSet

    def refresh(self) -> None:
        self._pinned = self._trusted_set.root.version
        super().refresh()

    def verified(self, offered: Files) -> Files:
        # Root, timestamp, snapshot and targets may differ from what was offered: python-tuf keeps
        # what it has seen, and the cache holds just what it went by.
        trusted, cache = self._trusted_set, Path(self._dir)
        kept = {
            TIMESTAMP: cache / TIMESTAMP,
            f"{trusted.snapshot.version}.snapshot.json": cache / "snapshot.json",
            f"{trusted.targets.version}.targets.json": cache / "targets.json",
        }
        for number in range(self._pinned, trusted.root.version + 1):
            name = f"{number}.root.json"
            kept[name] = cache / "root_history" / name
        provinces = {
            name: data for name, data in offered.items() if not name.endswith(".root.json")
        }
        return provinces | {name: path.read_bytes() for name, path in kept.items()}

    def trust_list(self) -> TrustList:
        # The Updater publishes nothing but targets; to read the rest back from the cache's files
        # would be to believe them unverified.
        trusted = self._trusted_set
        forms.check_holders(trusted.root)
        profiles: dict[str, Profile] = {}
        unusable: dict[str, str] = {}
        for role in self._delegations():
            province = roles.delegated_to(role)
            try:
                profiles[province] = self._profile(province)
            except (RepositoryError, DownloadError) as error:
                unusable[province] = _words(error)[0]
            except TongxingError as error:
                unusable[province] = str(error)
        return TrustList(
            version=trusted.snapshot.version,
            root_version=trusted.root.version,
            expires=min(
                signed.expires
                for signed in (trusted.root, trusted.targets, trusted.snapshot, trusted.timestamp)
            ),
            profiles=profiles,
            unusable=unusable,
            epochs=epochs_of(trusted.targets),
        )

    def _delegations(self) -> list[DelegatedRole]:
        delegations = self._trusted_set.targets.delegations
        if delegations is None or delegations.roles is None:
            raise TrustListError(
                "the targets role names no provinces",
                remedy="check that the list is this exchange's",
            )
        return list(delegations.roles.values())

    def _profile(self, province: str) -> Profile:
        target = self.get_targetinfo(roles.target_path(province))
        if target is None:
            raise TrustListError("its metadata holds no profile")
        return roles.profile_of(target, province)


@contextmanager
def _refreshed(metadata: Path | Files, root: bytes, cache: Path) -> Iterator[_Refresh]:
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(cache):
            refresh = _Refresh(
                metadata_dir=str(cache),
                metadata_base_url="trust:",
                fetcher=_Fetcher(metadata),
                config=_CONFIG,
                bootstrap=root,
            )
            refresh.refresh()
            yield refresh
    except (RepositoryError, DownloadError, OSError) as error:
        raise _refusal(error) from error


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    # An Updater replaces root.json by unlinking it: two in one directory would trip each other.
    with (cache / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _words(error: Exception) -> tuple[str, str]:
    for kind, sentence, remedy in _REFUSALS:
        if isinstance(error, kind):
            return f"{sentence} ({error})", remedy
    raise error


def _refusal(error: Exception) -> TrustListError:
    sentence, remedy = _words(error)
    return TrustListError(f"the trust list is refused: {sentence}", remedy=remedy)
