"""Make proposals: one function a kind of change. What comes of each is signed by nobody yet."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, Snapshot, Targets, Timestamp

from exchange.errors import TrustListError
from exchange.provinces import province as known
from exchange.trust import forms, proposals, roles, submission
from exchange.trust.about import LIFETIME, About, Kind
from exchange.trust.epochs import with_epoch, with_recipient
from exchange.trust.proposals import Proposal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from securesystemslib.signer import Key

    from exchange.subjects import EpochKey
    from exchange.trust.standing import Standing

__all__ = ["Draft", "Holders"]

_SHORTEST: Final = 8


@dataclass(frozen=True, slots=True)
class Holders:
    """A change of who holds a role, root or targets.

    :param add: the public keys of new holders.
    :param remove: the ids, or their beginnings of 8 digits or more, of the keys that go.
    :param threshold: how many must sign from then on; None leaves it.
    """

    add: Sequence[Key] = ()
    remove: Sequence[str] = ()
    threshold: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """Who proposes, why, when, and what is changed.

    :param standing: the list as it stands.
    :param by: who proposes.
    :param note: why, or "".
    :param now: an aware datetime, UTC.
    """

    standing: Standing
    by: str
    note: str
    now: datetime

    def admit(
        self, province: str, key: Key, profile: bytes, epoch_keys: Iterable[EpochKey] = ()
    ) -> Proposal:
        """Admit a province, or give one that takes part another role key.

        :param key: the province's role key.
        :param profile: the file that the province signed with it (`ceremony.sign_profile`).
        :param epoch_keys: the subject-token keys that it is to get (`epochs.unseal`).
        :raises TrustListError: the profile is not the province's own, or not its next version.
        """
        known(province)
        role = roles.role_name(province)
        targets = copy.deepcopy(self.standing.targets)
        if role in submission.delegations(targets):
            _revoke(targets, role)
        _delegated(targets)[role] = roles.delegated_role(province, [])
        targets.add_key(key, role)
        metadata = _published(profile)
        epoch_keys = tuple(epoch_keys)
        if epoch_keys:
            forms.check_province(metadata.signed, province)
            content = roles.profile_of(
                metadata.signed.targets[roles.target_path(province)], province
            )
            targets = with_recipient(targets, content, epoch_keys)
        return self._proposal(Kind.ADMIT, targets=targets, provinces={role: metadata})

    def remove(self, province: str) -> Proposal:
        """Remove a province.

        :raises TrustListError: it takes no part.
        """
        role = roles.role_name(known(province).code)
        targets = copy.deepcopy(self.standing.targets)
        if role not in submission.delegations(targets):
            raise TrustListError(f"{province} takes no part", field="province")
        _revoke(targets, role)
        return self._proposal(Kind.REMOVE, targets=targets)

    def holders(self, role: str, change: Holders) -> Proposal:
        """Change who holds root or targets, or how many of them must sign.

        Where the targets that stand would no longer be signed by enough, they are proposed anew,
        unchanged, with the root.

        :param role: ``root`` or ``targets``.
        :raises TrustListError: a key that is to go is not there, or nothing changes.
        """
        if role not in forms.OFFLINE:
            raise TrustListError("must be root or targets", field="role")
        root = copy.deepcopy(self.standing.root)
        for beginning in change.remove:
            root.revoke_key(_one_of(root.roles[role].keyids, beginning), role)
        for key in change.add:
            if key.keyid in root.roles[role].keyids:
                raise TrustListError(f"{key.keyid[:16]} is a holder of {role} already", field="add")
            root.add_key(key, role)
        if change.threshold is not None:
            root.roles[role].threshold = change.threshold
        if root == self.standing.root:
            raise TrustListError("nothing would change", field="holders")
        name = f"{self.standing.targets.version}.targets.json"
        stands: Metadata[Targets] = Metadata.from_bytes(self.standing.files[name])
        still = root.get_verification_result(Targets.type, stands.signed_bytes, stands.signatures)
        targets = None if still.verified else copy.deepcopy(self.standing.targets)
        return self._proposal(Kind.HOLDERS, root=root, targets=targets)

    def online(self, *, snapshot: Key | None = None, timestamp: Key | None = None) -> Proposal:
        """Give the registry other keys.

        :raises TrustListError: nothing changes.
        """
        root = copy.deepcopy(self.standing.root)
        for role, key in ((Snapshot.type, snapshot), (Timestamp.type, timestamp)):
            if key is not None:
                for keyid in tuple(root.roles[role].keyids):
                    root.revoke_key(keyid, role)
                root.add_key(key, role)
        if root == self.standing.root:
            raise TrustListError("nothing would change", field="online")
        return self._proposal(Kind.ONLINE, root=root)

    def epoch(self, key: EpochKey, *, starts: datetime, ends: datetime) -> Proposal:
        """Begin a new epoch of subject tokens (`epochs.with_epoch`), sealed for every province.

        :raises TrustListError: a province's profile cannot be used, or it publishes no seal key.
        """
        targets = copy.deepcopy(self.standing.targets)
        for role in submission.delegations(targets):
            if role[1:] not in self.standing.profiles:
                raise TrustListError(
                    f"the profile of {role[1:]} cannot be used, so nothing can be sealed for it",
                    field="province",
                    remedy="the province must publish it anew, or be removed, first",
                )
        targets = with_epoch(targets, self.standing.profiles.values(), key, starts, ends)
        return self._proposal(Kind.EPOCH, targets=targets)

    def reseal(self, province: str, epoch_keys: Iterable[EpochKey]) -> Proposal:
        """Seal epochs for a province that has another seal key (`epochs.with_recipient`).

        :raises TrustListError: the province takes no part, or publishes no seal key.
        """
        profile = self.standing.profiles.get(known(province).code)
        if profile is None:
            raise TrustListError(f"{province} has no profile that can be used", field="province")
        targets = with_recipient(self.standing.targets, profile, epoch_keys)
        return self._proposal(Kind.RESEAL, targets=targets)

    def renew(self, *, root: bool = True, targets: bool = True) -> Proposal:
        """Sign root and targets for another term, unchanged."""
        return self._proposal(
            Kind.RENEW,
            root=copy.deepcopy(self.standing.root) if root else None,
            targets=copy.deepcopy(self.standing.targets) if targets else None,
        )

    def _proposal(
        self,
        kind: Kind,
        *,
        root: Root | None = None,
        targets: Targets | None = None,
        provinces: dict[str, Metadata[Targets]] | None = None,
    ) -> Proposal:
        made = self.now.replace(microsecond=0)
        based_on = {}
        for signed, lifetime in ((root, roles.ROOT_LIFETIME), (targets, roles.TARGETS_LIFETIME)):
            if signed is not None:
                name = f"{signed.version}.{signed.type}.json"
                based_on[name] = hashlib.sha256(self.standing.files[name]).hexdigest()
                signed.version += 1
                signed.expires = made + lifetime
        about = About(kind, self.by, self.note, made, made + LIFETIME, based_on)
        for signed in (root, targets):
            if signed is not None:
                about.put_into(signed)
        proposal = Proposal(
            about,
            None if root is None else Metadata(root),
            None if targets is None else Metadata(targets),
            provinces or {},
        )
        proposals.check(self.standing, proposal, now=self.now)
        return proposal


def _delegated(targets: Targets) -> dict[str, DelegatedRole]:
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustListError("the targets role names no provinces")
    return targets.delegations.roles


def _revoke(targets: Targets, role: str) -> None:
    for keyid in tuple(_delegated(targets)[role].keyids):
        targets.revoke_key(keyid, role)
    del _delegated(targets)[role]


def _published(data: bytes) -> Metadata[Targets]:
    try:
        metadata: Metadata[Targets] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise TrustListError("is not TUF metadata", field="profile") from error
    if not isinstance(metadata.signed, Targets):
        raise TrustListError("is not a province's metadata", field="profile")
    return metadata


def _one_of(keyids: list[str], beginning: str) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(beginning)]
    if len(beginning) < _SHORTEST or len(found) != 1:
        raise TrustListError(
            f"{beginning[:64]} is the beginning of {len(found)} holders' key ids",
            field="remove",
            remedy=f"give {_SHORTEST} digits or more of one; `tongxing trust holders` lists them",
        )
    return found[0]
