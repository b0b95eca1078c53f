"""Make and publish the trust list: the ceremony (信任列表签署) and what the publisher does daily.

Each function makes files and writes none: it returns their bytes by name, and
`exchange.trust.files.write` puts them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from exchange.errors import TrustListError
from exchange.subjects import EpochKey
from exchange.trust import roles, submission
from exchange.trust.epochs import EPOCH_LIFE, with_epoch
from exchange.trust.files import TIMESTAMP, Files, newest_root, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from securesystemslib.signer import Signer

    from exchange.trust.profile import Profile
    from exchange.trust.signers import Online, Signers

__all__ = [
    "accept",
    "initialise",
    "publish_profile",
    "renew",
    "sign_profile",
]

_COMPACT: Final = JSONSerializer(compact=True)

_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)


def initialise(profiles: Sequence[Profile], signers: Signers, *, now: datetime) -> dict[str, bytes]:
    """Make a new exchange's first trust list.

    Where the provinces publish seal keys, it holds the first epoch of subject tokens, whose key is
    made here at random, sealed for each of them, and kept by nobody else.

    :param profiles: the profile of each province that takes part.
    :param signers: all key-holders; root and targets are signed by every one of theirs.
    :param now: an aware datetime, UTC; lifetimes count from it.
    :raises TrustListError: if a province has no signer, or root or targets has too few; or some
        provinces publish a seal key, and one does not.
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

    provinces: dict[str, bytes] = {}
    for profile in profiles:
        signer = signers.provinces.get(profile.province)
        if signer is None:
            raise TrustListError(f"{profile.province} has no signer", field="signers.provinces")
        name = roles.role_name(profile.province)
        _delegate(targets, profile.province, signer)
        provinces[name] = sign_profile(profile, signer, version=1, now=now)

    if any(profile.seal_keys for profile in profiles):
        targets = with_epoch(targets, profiles, EpochKey.generate(1), now, now + EPOCH_LIFE)
    by_holders = _sign(targets, signers.targets)
    meta = {
        f"{name}.json": MetaFile.from_data(1, data, ["sha256"])
        for name, data in {Targets.type: by_holders, **provinces}.items()
    }
    snapshot = Snapshot(expires=now + roles.SNAPSHOT_LIFETIME, meta=meta)
    return {
        "1.root.json": _sign(root, signers.root),
        "1.targets.json": by_holders,
        **{f"1.{name}.json": data for name, data in provinces.items()},
        **_online(snapshot, Timestamp(), signers.online, now),
    }


def renew(current: Files, online: Online, *, now: datetime) -> dict[str, bytes]:
    """Sign the timestamp anew, and the snapshot if the new timestamp would outlive it.

    :param current: the files as they stand (`exchange.trust.files.read`).
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


def accept(current: Files, submitted: Files, online: Online, *, now: datetime) -> dict[str, bytes]:
    """Publish what others signed: all of it, or nothing.

    Each file is the next version of its role, signed as the metadata before it demands; a root by
    the holders of the root before it and by its own. A province that targets newly admits, or
    gives a new key, comes with its own profile. A departed province's metadata stays.

    :param current: the files as they stand (`exchange.trust.files.read`).
    :param submitted: root, targets and provinces' metadata, by name. What is published already
        may be among them and changes nothing.
    :param online: the publisher's keys; where a new root changes them, the new ones.
    :param now: an aware datetime, UTC.
    :returns: what is new, with a new snapshot and timestamp; empty where nothing is.
    :raises ConflictError: a version is published already, with other content.
    :raises TrustListError: anything else that no reader may be given.
    """
    timestamp, snapshot = _heads(current)
    items = submission.sort_out(current, snapshot, submitted)
    if not items:
        return {}
    submission.verify(current, items, now=now)
    new = {item.name: item.data for item in items}
    for item in items:
        if item.role != Root.type:
            meta = MetaFile.from_data(item.version, item.data, ["sha256"])
            snapshot.meta[f"{item.role}.json"] = meta
    snapshot.version += 1
    snapshot.expires = now + roles.SNAPSHOT_LIFETIME
    after = {**current, **new}
    new |= _checked(after, _online(snapshot, timestamp, online, now, step=1))
    submission.read_along(current, {**after, **new}, items)
    return new


def publish_profile(
    current: Files, profile: Profile, signer: Signer, online: Online, *, now: datetime
) -> dict[str, bytes]:
    """Sign a province's next profile and publish it, where one machine holds both keys.

    :raises TrustListError: as `accept`.
    """
    _, snapshot = _heads(current)
    before = snapshot.meta.get(f"{roles.role_name(profile.province)}.json")
    if before is None:
        raise TrustListError(f"{profile.province} takes no part", field="province")
    version = before.version + 1
    data = sign_profile(profile, signer, version=version, now=now)
    name = f"{version}.{roles.role_name(profile.province)}.json"
    return accept(current, {name: data}, online, now=now)


def _delegate(targets: Targets, province: str, signer: Signer) -> None:
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustListError("the targets role names no provinces")
    role = roles.delegated_role(province, [])
    if role.name in targets.delegations.roles:
        raise TrustListError(f"{province} is there twice", field="profiles")
    targets.delegations.roles[role.name] = role
    targets.add_key(signer.public_key, role.name)


def _heads(current: Files) -> tuple[Timestamp, Snapshot]:
    timestamp = signed(current, TIMESTAMP, Timestamp)
    name = f"{timestamp.snapshot_meta.version}.snapshot.json"
    return timestamp, signed(current, name, Snapshot)


def _online(
    snapshot: Snapshot, timestamp: Timestamp, online: Online, now: datetime, step: int = 0
) -> dict[str, bytes]:
    data = _sign(snapshot, (online.snapshot,))
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    return {
        f"{snapshot.version}.snapshot.json": data,
        **_timestamp(timestamp, online, now, step=step),
    }


def _timestamp(
    timestamp: Timestamp, online: Online, now: datetime, step: int = 1
) -> dict[str, bytes]:
    timestamp.version += step
    timestamp.expires = now + roles.TIMESTAMP_LIFETIME
    return {TIMESTAMP: _sign(timestamp, (online.timestamp,))}


def _checked(current: Files, files: dict[str, bytes]) -> dict[str, bytes]:
    """Refuse what no reader would accept before it is published."""
    root = signed(current, newest_root(current), Root)
    for data in files.values():
        metadata: Metadata[Snapshot] = Metadata.from_bytes(data)
        try:
            root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise TrustListError(
                f"the online keys at hand are not those of the root: root version {root.version} "
                f"names another {metadata.signed.type} key",
                field="online",
                remedy="give the registry the keys that this root names",
            ) from error
    return files


def _sign(signed: _S, signers: Iterable[Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_COMPACT)
