"""What the exchange's own root, targets and provinces' metadata look like; no other is published.

TUF allows much that this exchange has no use for, and each such freedom would be a way to be less
signed than it seems. Signatures, versions and times are `exchange.trust.ceremony`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from exchange.errors import TrustListError, UnknownProvinceError
from exchange.provinces import province as look_up
from exchange.trust import roles
from exchange.trust.epochs import epochs_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from tuf.api.metadata import Role

__all__ = ["OFFLINE", "ONLINE", "check_holders", "check_province", "check_root", "check_targets"]

OFFLINE: Final = (Root.type, Targets.type)
"""The roles that key-holders sign, each with their own key, offline."""

ONLINE: Final = (Snapshot.type, Timestamp.type)
"""The roles that the registry signs."""


def check_root(root: Root) -> None:
    """Check a root's form.

    :raises TrustListError: root or targets can be signed by fewer than `roles.THRESHOLD` holders,
        a holder counts twice, or an online key can sign what must be signed offline.
    """
    if root.consistent_snapshot is not True:
        raise TrustListError("the root does not ask for consistent snapshots", field="root")
    for name in OFFLINE:
        role = _role(root, name)
        if role.threshold < roles.THRESHOLD:
            raise TrustListError(
                f"the threshold of {name} is {role.threshold}",
                field=f"root.{name}",
                remedy=f"at least {roles.THRESHOLD} holders must sign",
            )
        if len(role.keyids) < role.threshold:
            raise TrustListError(
                f"{name} has {len(role.keyids)} holders, but {role.threshold} must sign",
                field=f"root.{name}",
                remedy="name more holders, or lower the threshold",
            )
    for name in ONLINE:
        role = _role(root, name)
        if len(role.keyids) != 1 or role.threshold != 1:
            raise TrustListError(f"{name} must have exactly one key", field=f"root.{name}")
    offline = {_public(root, keyid) for name in OFFLINE for keyid in root.roles[name].keyids}
    online = {_public(root, keyid) for name in ONLINE for keyid in root.roles[name].keyids}
    if len(root.keys) != len(offline | online):
        raise TrustListError("the root holds keys of no role", field="root")
    if offline & online:
        raise TrustListError(
            "a key-holder's key is an online key too",
            field="root",
            remedy="the registry must hold nothing that could change the root or admit a province",
        )


def check_holders(root: Root) -> None:
    """Check that each key of a root's roles counts once: TUF's readers count ids, not keys.

    :raises TrustListError: one stands there under two ids, or under one that is not its own.
    """
    for name in (*OFFLINE, *ONLINE):
        _role(root, name)


def _role(root: Root, name: str) -> Role:
    role = root.roles[name]
    # The same key under two ids would sign twice.
    if len({_public(root, keyid) for keyid in role.keyids}) != len(role.keyids):
        raise TrustListError(f"one key stands twice in {name}", field=f"root.{name}")
    return role


def check_targets(targets: Targets) -> None:
    """Check the form of the targets role: delegations to provinces, each its own paths and key.

    Beside them it may hold the subject-token keys (`exchange.trust.epochs`).

    :raises TrustListError: it delegates anything else, holds more, or its epochs are malformed.
    """
    if targets.targets.keys() - {roles.EPOCHS_PATH}:
        raise TrustListError(
            "the targets role holds more than delegations and subject epochs", field="targets"
        )
    epochs_of(targets)
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustListError("the targets role names no provinces", field="targets")
    seen: set[bytes] = set()
    for name, role in targets.delegations.roles.items():
        code = roles.delegated_to(role)
        try:
            look_up(code)
        except UnknownProvinceError as error:
            raise TrustListError(f"{name}: {error.message}", field="targets") from error
        if role.to_dict() != roles.delegated_role(code, role.keyids).to_dict():
            raise TrustListError(
                f"{name} is delegated in another form than this exchange's", field="targets"
            )
        if len(role.keyids) != 1 or role.keyids[0] not in targets.delegations.keys:
            raise TrustListError(f"{name} must have exactly one key", field="targets")
        public = _public(targets, role.keyids[0])
        if public in seen:
            raise TrustListError(
                f"{name} has the key of another province",
                field="targets",
                remedy="each province makes a key of its own",
            )
        seen.add(public)
    if len(targets.delegations.keys) != len(seen):
        raise TrustListError("the targets role holds keys of no province", field="targets")


def check_province(metadata: Targets, province: str) -> None:
    """Check that a province's metadata holds its own profile and nothing else.

    :raises TrustListError: it does not.
    """
    path = roles.target_path(province)
    if set(metadata.targets) != {path} or metadata.delegations:
        raise TrustListError(f"the metadata of {province} holds more than its profile")
    roles.profile_of(metadata.targets[path], province)


def _public(delegator: Root | Targets, keyid: str) -> bytes:
    """The key itself: the same one may be written in more than one way, and under other ids."""
    try:
        key = delegator.get_key(keyid)
        text = key.keyval["public"]
        public: PublicKeyTypes
        if key.keytype == "ed25519":
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        else:
            public = load_pem_public_key(text.encode())
        proper = SSlibKey.from_crypto(public, scheme=key.scheme).keyid
        raw = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (KeyError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise TrustListError(f"the key {keyid[:16]} is missing or is none") from error
    if keyid != proper:
        raise TrustListError(f"{keyid[:16]} is not the id of the key that bears it")
    return raw
