"""What is handed in for publication: new versions of root, targets and provinces' metadata.

Nothing may be less signed than the metadata before it demands, and no version is left out: a
mirror could not tell a list with a gap from one put back.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from exchange.errors import ConflictError, TrustListError
from exchange.trust import forms, roles
from exchange.trust.about import About
from exchange.trust.files import TIMESTAMP, Files, newest_root, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuf.api.metadata import VerificationResult

__all__ = [
    "Item",
    "check_accompanied",
    "check_profile",
    "content",
    "delegations",
    "item_of",
    "read_along",
    "sort_out",
    "verify",
]

_NAME: Final = re.compile(r"([1-9][0-9]{0,9})\.(root|targets|p[0-9]{6})\.json")
_LARGEST_ROOT: Final = 256 * 1024
_LARGEST: Final = 1024 * 1024
"""What a reader takes at most, in bytes (`exchange.trust.refresh`)."""
_LIFETIMES: Final = {Root.type: roles.ROOT_LIFETIME, Targets.type: roles.TARGETS_LIFETIME}
_SLACK: Final = timedelta(days=1)
"""How much longer than its lifetime something may be signed for: clocks differ."""

_S = TypeVar("_S", Root, Targets)


@dataclass(frozen=True, slots=True)
class Item:
    """A file that is handed in; its name tells ``role`` and ``version``."""

    name: str
    role: str
    version: int
    data: bytes


def sort_out(current: Files, snapshot: Snapshot, submitted: Files) -> list[Item]:
    """Find what is new: roots in their order, then targets, then provinces.

    :param snapshot: that of ``current``.
    :raises ConflictError: a version is published already, with other content.
    :raises TrustListError: a file may not be handed in, or a version is left out.
    """
    items = [item_of(name, data) for name, data in submitted.items() if current.get(name) != data]
    order = {Root.type: 0, Targets.type: 1}
    items.sort(key=lambda item: (order.get(item.role, 2), item.role, item.version))
    held = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
    held[Root.type] = signed(current, newest_root(current), Root).version
    count = Counter(item.role for item in items if item.role != Root.type)
    for item in items:
        before = held.get(item.role, 0)
        if item.version <= before:
            raise ConflictError(
                f"version {item.version} of {item.role} is published already, with other content",
                field=item.name,
                remedy=f"start from the list as it stands, with version {before}",
            )
        if item.version != before + 1:
            raise TrustListError(
                f"the next version of {item.role} is {before + 1}",
                field=item.name,
                remedy="sign that version",
            )
        if count[item.role] > 1:
            raise TrustListError(
                f"two versions of {item.role} are handed in at once",
                field=item.name,
                remedy="hand in one after the other",
            )
        held[item.role] = item.version
    return items


def item_of(name: str, data: bytes) -> Item:
    """Read a file's name.

    :raises TrustListError: such a file is not handed in, or it is too large.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise TrustListError(
            "only root, targets and provinces' metadata are handed in",
            field=name[:100],
            remedy="snapshot and timestamp are signed by the registry itself",
        )
    largest = _LARGEST_ROOT if parts[2] == Root.type else _LARGEST
    if len(data) > largest:
        raise TrustListError(f"has more than {largest} bytes", field=name)
    return Item(name, parts[2], int(parts[1]), data)


def verify(current: Files, items: Sequence[Item], *, now: datetime) -> None:
    """Check each new file's form, signatures and expiry.

    :param items: as `sort_out` returned them.
    :raises TrustListError: in plain words, with the file as its field.
    """
    root = signed(current, newest_root(current), Root)
    roots = [item for item in items if item.role == Root.type]
    for item in roots:
        root = _root(item, root, current, now)
    if roots:
        # A root that another one follows at once need not last.
        _check_expiry(roots[-1], root.expires, now)
    before = _targets_of(current)
    targets = before.signed
    handed_in = {item.role for item in items}
    if Targets.type not in handed_in and roots:
        _check_still_signed(root, before)
    for item in items:
        if item.role == Targets.type:
            targets = _targets(item, root, current, now)
            check_accompanied(before.signed, targets, handed_in)
        elif item.role != Root.type:
            check_profile(item, targets, now)


def _targets_of(files: Files) -> Metadata[Targets]:
    head = signed(files, TIMESTAMP, Timestamp).snapshot_meta.version
    version = signed(files, f"{head}.snapshot.json", Snapshot).meta["targets.json"].version
    name = f"{version}.targets.json"
    signed(files, name, Targets)
    return Metadata.from_bytes(files[name])


def _root(item: Item, before: Root, current: Files, now: datetime) -> Root:
    metadata = content(item, Root)
    forms.check_root(metadata.signed)
    _check_proposal(metadata.signed, current, now)
    payload, signatures = metadata.signed_bytes, metadata.signatures
    result = metadata.signed.get_root_verification_result(before, payload, signatures)
    _check_signed(item, result.first, f"root version {before.version}")
    _check_signed(item, result.second, "the new root")
    return metadata.signed


def _targets(item: Item, root: Root, current: Files, now: datetime) -> Targets:
    metadata = content(item, Targets)
    forms.check_targets(metadata.signed)
    _check_proposal(metadata.signed, current, now)
    result = root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures)
    _check_signed(item, result, f"root version {root.version}")
    _check_expiry(item, metadata.signed.expires, now)
    return metadata.signed


def _check_still_signed(root: Root, targets: Metadata[Targets]) -> None:
    result = root.get_verification_result(Targets.type, targets.signed_bytes, targets.signatures)
    if not result.verified:
        raise TrustListError(
            f"the targets that stand are not signed as root version {root.version} demands",
            field=f"{root.version}.root.json",
            remedy="hand in the next targets, signed by the new holders, together with the root",
        )


def _check_proposal(signed: Root | Targets, current: Files, now: datetime) -> None:
    about = About.of(signed)
    if about is not None:
        about.check(current, now)


def check_accompanied(before: Targets, targets: Targets, handed_in: set[str]) -> None:
    """Check that each province that is new, or has a new key, comes with what it signed itself.

    :param handed_in: the names of the roles whose metadata comes with targets.
    :raises TrustListError: one does not.
    """
    held = delegations(before)
    for name, keyid in delegations(targets).items():
        if name not in handed_in and held.get(name) != keyid:
            what = "has a new role key" if name in held else "is admitted"
            raise TrustListError(
                f"{name[1:]} {what}, but its own signed profile is not handed in with it",
                field=f"{targets.version}.targets.json",
                remedy=f"hand in the next {name}.json together with targets",
            )


def delegations(targets: Targets) -> dict[str, str]:
    """The id of each province's role key, by the role's name."""
    if targets.delegations is None or targets.delegations.roles is None:
        return {}
    return {name: role.keyids[0] for name, role in targets.delegations.roles.items()}


def check_profile(item: Item, targets: Targets, now: datetime) -> None:
    """Check that a province's metadata is signed by it, is its own profile, and lasts.

    :raises TrustListError: in plain words, with the file as its field.
    """
    code = item.role[1:]
    if item.role not in delegations(targets):
        raise TrustListError(
            f"{code} takes no part", field=item.name, remedy="admit it by a proposal first"
        )
    metadata = content(item, Targets)
    result = targets.get_verification_result(item.role, metadata.signed_bytes, metadata.signatures)
    if not result.verified:
        raise TrustListError(
            f"{code} did not sign this",
            field=item.name,
            remedy="sign it with the province's role key",
        )
    _check_expiry(item, metadata.signed.expires, now)
    forms.check_province(metadata.signed, code)


def content(item: Item, kind: type[_S]) -> Metadata[_S]:
    """Read a file as metadata of a kind.

    :raises TrustListError: it is none, or holds another version than its name says.
    """
    try:
        metadata: Metadata[_S] = Metadata.from_bytes(item.data)
        _ = metadata.signed_bytes
    except (RepositoryError, ValueError) as error:
        raise TrustListError("is not TUF metadata", field=item.name) from error
    if not isinstance(metadata.signed, kind):
        raise TrustListError(f"is not {kind.type} metadata", field=item.name)
    if metadata.signed.version != item.version:
        raise TrustListError(
            f"holds version {metadata.signed.version}", field=item.name, remedy="name it so"
        )
    return metadata


def _check_signed(item: Item, result: VerificationResult, by: str) -> None:
    if not result.verified:
        raise TrustListError(
            f"too few have signed: {len(result.signed)} of the {result.threshold} holders "
            f"that {by} demands",
            field=item.name,
            remedy="have more of these holders sign it",
        )


def _check_expiry(item: Item, expires: datetime, now: datetime) -> None:
    if now >= expires:
        raise TrustListError(
            f"expired at {expires:%Y-%m-%dT%H:%M:%SZ}", field=item.name, remedy="sign it again"
        )
    lifetime = _LIFETIMES.get(item.role, roles.PROVINCE_LIFETIME)
    if expires > now + lifetime + _SLACK:
        raise TrustListError(
            f"is signed for longer than {lifetime.days} days",
            field=item.name,
            remedy="sign it for a shorter time",
        )


def read_along(current: Files, after: Files, items: Sequence[Item]) -> None:
    """Follow the change as a reader who holds ``current`` does (the TUF client's workflow).

    Expiry is left aside: what is new was judged, and what is not is no worse than it was.

    :param after: all files as they will stand.
    :raises TrustListError: such a reader would refuse the list, or a new file in it.
    """
    try:
        reader = TrustedMetadataSet(current[newest_root(current)], EnvelopeType.METADATA)
        reader.reference_time = datetime.min.replace(tzinfo=UTC)
        for item in items:
            if item.role == Root.type:
                reader.update_root(item.data)
        # What a reader holds of old online keys is worth nothing to it, and refused, as here.
        with contextlib.suppress(RepositoryError):
            reader.update_timestamp(current[TIMESTAMP])
        reader.update_timestamp(after[TIMESTAMP])
        with contextlib.suppress(RepositoryError):
            reader.update_snapshot(current[_snapshot(current)], trusted=True)
        reader.update_snapshot(after[_snapshot(after)])
        version = reader.snapshot.meta["targets.json"].version
        reader.update_targets(after[f"{version}.targets.json"])
        for item in items:
            if item.role not in (Root.type, Targets.type):
                reader.update_delegated_targets(item.data, item.role, Targets.type)
    except (RepositoryError, KeyError) as error:
        raise TrustListError(f"a reader would refuse the list: {error}") from error


def _snapshot(files: Files) -> str:
    return f"{signed(files, TIMESTAMP, Timestamp).snapshot_meta.version}.snapshot.json"
