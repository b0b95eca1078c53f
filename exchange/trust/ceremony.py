"""Make and publish the trust list: the ceremony (信任列表签署) and what the publisher does daily.

Each function makes files and writes none: it returns their bytes by name, `write` puts them down.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from exchange.errors import TrustListError
from exchange.trust import roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from securesystemslib.signer import Signer

    from exchange.trust.profile import Profile
    from exchange.trust.signers import Online, Signers

__all__ = [
    "Files",
    "accept_profile",
    "initialise",
    "publish_profile",
    "read",
    "renew",
    "sign_profile",
    "write",
]

Files = dict[str, bytes]
"""Metadata files by name, as TUF's consistent snapshots name them."""

_TIMESTAMP: Final = "timestamp.json"
_COMPACT: Final = JSONSerializer(compact=True)

_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)


def initialise(profiles: Sequence[Profile], signers: Signers, *, now: datetime) -> Files:
    """Make a new exchange's first trust list.

    :param profiles: the profile of each province that takes part.
    :param signers: all key-holders; root and targets are signed by every one of theirs.
    :param now: an aware datetime, UTC; lifetimes count from it.
    :raises TrustListError: if a province has no signer, or root or targets has too few.
    """
    for role, holders in (("root", signers.root), ("targets", signers.targets)):
        if len({holder.public_key.keyid for holder in holders}) < roles.THRESHOLD:
            raise TrustListError(
                f"fewer than {roles.THRESHOLD} different keys are there", field=f"signers.{role}"
            )
    root = Root(expires=now + roles.ROOT_LIFETIME)
    targets = Targets(
        expires=now + roles.TARGETS_LIFETIME, delegations=Delegations(keys={}, roles={})
    )
    for role, holders, threshold in (
        (Root.type, signers.root, roles.THRESHOLD),
        (Targets.type, signers.targets, roles.THRESHOLD),
        (Snapshot.type, (signers.online.snapshot,), 1),
        (Timestamp.type, (signers.online.timestamp,), 1),
    ):
        for holder in holders:
            root.add_key(holder.public_key, role)
        root.roles[role].threshold = threshold

    provinces: Files = {}
    for profile in profiles:
        signer = signers.provinces.get(profile.province)
        if signer is None:
            raise TrustListError(f"{profile.province} has no signer", field="signers.provinces")
        name = roles.role_name(profile.province)
        _delegate(targets, profile.province, signer)
        provinces[name] = sign_profile(profile, signer, version=1, now=now)

    signed_targets = _sign(targets, signers.targets)
    meta = {
        f"{name}.json": MetaFile.from_data(1, data, ["sha256"])
        for name, data in {Targets.type: signed_targets, **provinces}.items()
    }
    snapshot = Snapshot(expires=now + roles.SNAPSHOT_LIFETIME, meta=meta)
    return {
        "1.root.json": _sign(root, signers.root),
        "1.targets.json": signed_targets,
        **{f"1.{name}.json": data for name, data in provinces.items()},
        **_online(snapshot, Timestamp(), signers.online, now),
    }


def renew(current: Mapping[str, bytes], online: Online, *, now: datetime) -> Files:
    """Sign the timestamp anew, and the snapshot if the new timestamp would outlive it.

    :param current: the files as they stand (`read`).
    :param now: an aware datetime, UTC.
    :raises TrustListError: if a file is missing or the online keys are not those of the root.
    """
    timestamp, snapshot = _heads(current)
    if snapshot.expires > now + roles.TIMESTAMP_LIFETIME:
        return _checked(current, _timestamp(timestamp, online, now))
    snapshot.version += 1
    snapshot.expires = now + roles.SNAPSHOT_LIFETIME
    return _checked(current, _online(snapshot, timestamp, online, now, step=1))


def sign_profile(profile: Profile, signer: Signer, *, version: int, now: datetime) -> bytes:
    """Sign a province's own metadata, which takes nothing of the exchange but its last version.

    :param version: the version before it plus one.
    :param now: an aware datetime, UTC.
    """
    target = roles.target_file(profile)
    return _sign(
        Targets(
            version=version, expires=now + roles.PROVINCE_LIFETIME, targets={target.path: target}
        ),
        (signer,),
    )


def accept_profile(
    current: Mapping[str, bytes], province: str, data: bytes, online: Online, *, now: datetime
) -> Files:
    """Publish what a province signed: its file, and snapshot and timestamp with it.

    :param current: the files as they stand (`read`).
    :param data: what `sign_profile` returned on the province's own machine.
    :param now: an aware datetime, UTC.
    :raises TrustListError: if it is not signed by the province, is not its own profile, has
        expired, or its version is not the one before it plus one: were a version left out,
        a mirror could not tell a list with a gap from one put back.
    """
    name = roles.role_name(province)
    timestamp, snapshot = _heads(current)
    targets = _signed(current, f"{snapshot.meta['targets.json'].version}.targets.json", Targets)
    try:
        metadata: Metadata[Targets] = Metadata.from_bytes(data)
        targets.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustListError(
            f"{province} did not sign this: {error}", remedy="sign it with the province's role key"
        ) from error
    published = metadata.signed
    before = snapshot.meta[f"{name}.json"].version
    if not isinstance(published, Targets) or published.version != before + 1:
        raise TrustListError(
            f"the next version of {province} is {before + 1}", remedy="sign that version"
        )
    if published.is_expired(now):
        raise TrustListError(f"the metadata of {province} has expired", remedy="sign it again")
    if set(published.targets) != {roles.target_path(province)} or published.delegations:
        raise TrustListError(f"the metadata of {province} holds more than its profile")
    roles.profile_of(published.targets[roles.target_path(province)], province)

    snapshot.meta[f"{name}.json"] = MetaFile.from_data(published.version, data, ["sha256"])
    snapshot.version += 1
    snapshot.expires = now + roles.SNAPSHOT_LIFETIME
    files = _checked(current, _online(snapshot, timestamp, online, now, step=1))
    return {f"{published.version}.{name}.json": data, **files}


def publish_profile(
    current: Mapping[str, bytes], profile: Profile, signer: Signer, online: Online, *, now: datetime
) -> Files:
    """Sign a province's next profile and publish it, where one machine holds both keys.

    :raises TrustListError: as `accept_profile`.
    """
    _, snapshot = _heads(current)
    before = snapshot.meta.get(f"{roles.role_name(profile.province)}.json")
    if before is None:
        raise TrustListError(f"{profile.province} takes no part", field="province")
    data = sign_profile(profile, signer, version=before.version + 1, now=now)
    return accept_profile(current, profile.province, data, online, now=now)


def read(directory: Path) -> Files:
    """Read a trust list as it stands: the newest file of each role, unverified.

    :raises TrustListError: if there is none, or a file is missing.
    """
    files = {_TIMESTAMP: _file(directory / _TIMESTAMP)}
    head = _signed(files, _TIMESTAMP, Timestamp).snapshot_meta.version
    files[f"{head}.snapshot.json"] = _file(directory / f"{head}.snapshot.json")
    for name, meta in _signed(files, f"{head}.snapshot.json", Snapshot).meta.items():
        files[f"{meta.version}.{name}"] = _file(directory / f"{meta.version}.{name}")
    root = max(
        (int(path.name.partition(".")[0]) for path in directory.glob("[1-9]*.root.json")),
        default=1,
    )
    files[f"{root}.root.json"] = _file(directory / f"{root}.root.json")
    return files


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Put files down, each whole or not at all, the timestamp last: readers never see half a step.

    :raises TrustListError: if a versioned file is there with other content.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in sorted(files.items(), key=lambda item: item[0] == _TIMESTAMP):
        path = directory / name
        if name != _TIMESTAMP and path.exists() and path.read_bytes() != data:
            raise TrustListError(
                f"{name} is there already",
                remedy="a version is published once: start from the files as they stand",
            )
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(file.name).replace(path)


def _delegate(targets: Targets, province: str, signer: Signer) -> None:
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustListError("the targets role names no provinces")
    role = roles.delegated_role(province, [])
    if role.name in targets.delegations.roles:
        raise TrustListError(f"{province} is there twice", field="profiles")
    targets.delegations.roles[role.name] = role
    targets.add_key(signer.public_key, role.name)


def _heads(current: Mapping[str, bytes]) -> tuple[Timestamp, Snapshot]:
    timestamp = _signed(current, _TIMESTAMP, Timestamp)
    name = f"{timestamp.snapshot_meta.version}.snapshot.json"
    return timestamp, _signed(current, name, Snapshot)


def _online(
    snapshot: Snapshot, timestamp: Timestamp, online: Online, now: datetime, step: int = 0
) -> Files:
    data = _sign(snapshot, (online.snapshot,))
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    return {
        f"{snapshot.version}.snapshot.json": data,
        **_timestamp(timestamp, online, now, step=step),
    }


def _timestamp(timestamp: Timestamp, online: Online, now: datetime, step: int = 1) -> Files:
    timestamp.version += step
    timestamp.expires = now + roles.TIMESTAMP_LIFETIME
    return {_TIMESTAMP: _sign(timestamp, (online.timestamp,))}


def _checked(current: Mapping[str, bytes], files: Files) -> Files:
    """Refuse what no reader would accept before it is published."""
    newest = max(
        (name for name in current if name.endswith(".root.json")),
        key=lambda name: int(name.partition(".")[0]),
        default="1.root.json",
    )
    root = _signed(current, newest, Root)
    for data in files.values():
        metadata: Metadata[Snapshot] = Metadata.from_bytes(data)
        try:
            root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise TrustListError(
                f"the online keys are not those of the root: {error}", field="online"
            ) from error
    return files


def _sign(signed: _S, signers: Iterable[Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_COMPACT)


def _signed(files: Mapping[str, bytes], name: str, kind: type[_S]) -> _S:
    data = files.get(name)
    if data is None:
        raise TrustListError(f"{name} is missing")
    try:
        signed: Signed = Metadata.from_bytes(data).signed
    except RepositoryError as error:
        raise TrustListError(f"{name} is not TUF metadata") from error
    if not isinstance(signed, kind):
        raise TrustListError(f"{name} is not {kind.type} metadata")
    return signed


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrustListError(
            f"{path.name} cannot be read", remedy="check the directory of the list"
        ) from error
