"""The keys of subject tokens (主体标识密钥) in the trust list, sealed for each province.

The targets role, which 2 of 3 holders sign, holds the target ``subjects/epochs``; its ``custom``::

    {"epochs": [{"epoch": 1, "from": RFC 3339, "until": RFC 3339,
                 "sealed": {"510000": {"kid": hex, "enc": hex, "ct": hex}}}]}

Each is sealed by HPKE (RFC 9180): mode base, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM,
for the X25519 key ``kid`` of the province's profile. Epoch and province are bound into ``info``, as
RFC 9180 §8.1 asks of whoever seals one message only, so nothing sealed passes for another epoch or
province.

Tokens are made under the newest epoch that has begun; lookups ask under every one in force. What is
made under an epoch must not outlive it, so an epoch goes on for as long as an attestation lives
once the next has begun; never are there more than two at a time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from exchange.errors import TrustListError
from exchange.keys import KID_BYTES
from exchange.subjects import EpochKey
from exchange.trust import roles
from exchange.trust.reading import read_hex, read_list, read_object, read_time, write_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from tuf.api.metadata import Targets

    from exchange.trust.profile import Profile
    from exchange.trust.sealkeys import SealKey, SealPrivateKey

__all__ = [
    "EPOCH_LIFE",
    "Sealed",
    "SubjectEpoch",
    "SubjectEpochs",
    "epochs_of",
    "seal",
    "unseal",
    "unseal_all",
    "with_epoch",
    "with_recipient",
]

EPOCH_LIFE: Final = timedelta(days=6 * 365)
"""From an epoch's beginning to its end: as long as the longest attestation lives (`exchange.
attestations.LIFE`, a vaccination) before the next begins, and as long again beside it."""

_INFO: Final = b"tongxing subject epoch"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_ENC_BYTES: Final = 32
_CT_BYTES: Final = 32 + 16


@dataclass(frozen=True, slots=True)
class Sealed:
    """An epoch's key, sealed for one province.

    :param kid: the 8 bytes of the seal key that opens it.
    :param enc: HPKE's encapsulated key, 32 bytes.
    :param ct: the key (32 bytes) encrypted, with its tag (16).
    """

    kid: bytes
    enc: bytes
    ct: bytes

    def to_json(self) -> dict[str, str]:
        """As it stands in the trust list."""
        return {"kid": self.kid.hex(), "enc": self.enc.hex(), "ct": self.ct.hex()}

    @classmethod
    def from_json(cls, value: object, field: str) -> Sealed:
        """Read it.

        :raises TrustListError: a field is missing or wrong; named under ``field``.
        """
        fields = read_object(value, field)
        return cls(
            kid=read_hex(fields.get("kid"), f"{field}.kid", KID_BYTES),
            enc=read_hex(fields.get("enc"), f"{field}.enc", _ENC_BYTES),
            ct=read_hex(fields.get("ct"), f"{field}.ct", _CT_BYTES),
        )


def seal(key: EpochKey, province: str, public: SealKey) -> Sealed:
    """Seal an epoch's key for a province.

    :param public: the province's seal key.
    :raises TrustListError: nothing can be sealed for that key (a point of low order).
    """
    try:
        sealed = _SUITE.encrypt(key.key, public.native, info=_info(key.epoch, province))
    except ValueError as error:
        raise TrustListError(
            f"nothing can be sealed for the key {public.kid.hex()} of {province}",
            field="seal_keys",
            remedy="the province must publish another",
        ) from error
    return Sealed(public.kid, sealed[:_ENC_BYTES], sealed[_ENC_BYTES:])


def unseal(sealed: Sealed, epoch: int, province: str, keys: Iterable[SealPrivateKey]) -> EpochKey:
    """Open what was sealed for a province.

    :param keys: the province's private keys; the one that ``sealed`` names is used.
    :raises TrustListError: none of them is named, or it was sealed for another key, province or
        epoch, or changed.
    """
    kid = sealed.kid.hex()
    key = next((key for key in keys if key.public.kid == sealed.kid), None)
    if key is None:
        raise TrustListError(
            f"epoch {epoch} is sealed for the key {kid}, which is not at hand",
            remedy="put that key beside the others, or have the epoch sealed anew for one of them",
        )
    try:
        opened = _SUITE.decrypt(sealed.enc + sealed.ct, key.native, info=_info(epoch, province))
    except InvalidTag:
        raise TrustListError(
            f"the key {kid} does not open epoch {epoch}: it was sealed for another key, province "
            "or epoch, or changed since",
            remedy="the holders of the targets keys must seal it anew",
        ) from None
    return EpochKey(epoch, opened)


def _info(epoch: int, province: str) -> bytes:
    return b"\0".join((_INFO, epoch.to_bytes(4, "big") + province.encode("ascii")))


@dataclass(frozen=True, slots=True)
class SubjectEpoch:
    """One epoch of subject tokens.

    :param number: its number, which leads its tokens.
    :param starts: from when on tokens are made under it, UTC.
    :param ends: from when on nothing is looked up under it, UTC.
    :param sealed: its key for each province, by code.
    """

    number: int
    starts: datetime
    ends: datetime
    sealed: Mapping[str, Sealed]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the trust list."""
        return {
            "epoch": self.number,
            "from": write_time(self.starts),
            "until": write_time(self.ends),
            "sealed": {code: sealed.to_json() for code, sealed in self.sealed.items()},
        }

    @classmethod
    def from_json(cls, value: object, field: str) -> SubjectEpoch:
        """Read it.

        :raises TrustListError: a field is missing or wrong; named under ``field``.
        """
        fields = read_object(value, field)
        number = fields.get("epoch")
        if type(number) is not int or not 0 <= number < 1 << 32:
            raise TrustListError("must be 0 to 4294967295", field=f"{field}.epoch")
        sealed = read_object(fields.get("sealed"), f"{field}.sealed")
        return cls(
            number=number,
            starts=read_time(fields.get("from"), f"{field}.from"),
            ends=read_time(fields.get("until"), f"{field}.until"),
            sealed={
                code: Sealed.from_json(item, f"{field}.sealed.{code}")
                for code, item in sealed.items()
            },
        )


@dataclass(frozen=True, slots=True)
class SubjectEpochs:
    """All epochs of an exchange, the oldest first.

    :raises TrustListError: they are out of order, or more than two at a time.
    """

    epochs: tuple[SubjectEpoch, ...] = field(default=())

    def __post_init__(self) -> None:
        for index, epoch in enumerate(self.epochs):
            if epoch.ends <= epoch.starts:
                raise TrustListError("ends before it begins", field=f"epochs[{index}].until")
        for index, (before, after) in enumerate(pairwise(self.epochs), 1):
            if after.number <= before.number:
                raise TrustListError(
                    f"must be more than {before.number}", field=f"epochs[{index}].epoch"
                )
            if after.starts <= before.starts:
                raise TrustListError(
                    f"begins before epoch {before.number}", field=f"epochs[{index}].from"
                )
            if after.ends < before.ends:
                raise TrustListError(
                    f"ends before epoch {before.number}", field=f"epochs[{index}].until"
                )
        for index, (before, after) in enumerate(zip(self.epochs, self.epochs[2:], strict=False), 2):
            if after.starts < before.ends:
                raise TrustListError(
                    f"begins while epoch {before.number} and another are in force",
                    field=f"epochs[{index}].from",
                    remedy=f"epoch {before.number} ends at {write_time(before.ends)}",
                )

    def current(self, now: datetime) -> SubjectEpoch:
        """The epoch that tokens are made under.

        :param now: an aware datetime.
        :raises TrustListError: there is none.
        """
        return self.in_force(now)[0]

    def in_force(self, now: datetime, *, skew: timedelta = timedelta(0)) -> Sequence[SubjectEpoch]:
        """The epochs that lookups ask under, one or two, the newest first.

        :param now: an aware datetime.
        :param skew: how far ahead the clocks of others may be, who make tokens already.
        :raises TrustListError: there is none.
        """
        found = [each for each in reversed(self.epochs) if each.starts - skew <= now < each.ends]
        if not found:
            raise TrustListError(
                f"no epoch of subject tokens (主体标识) is in force at {write_time(now)}",
                field=roles.EPOCHS_PATH,
                remedy="the holders of the targets keys must publish one: "
                "`tongxing trust propose epoch`",
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """As they stand in the trust list."""
        return {"epochs": [epoch.to_json() for epoch in self.epochs]}

    @classmethod
    def from_json(cls, value: object) -> SubjectEpochs:
        """Read them.

        :raises TrustListError: a field is missing or wrong; names it.
        """
        items = read_list(read_object(value, "epochs").get("epochs"), "epochs")
        return cls(
            tuple(
                SubjectEpoch.from_json(item, f"epochs[{index}]") for index, item in enumerate(items)
            )
        )


def unseal_all(
    epochs: SubjectEpochs, province: str, keys: Sequence[SealPrivateKey], *, now: datetime
) -> tuple[EpochKey, ...]:
    """Open every epoch that has not ended: what a province that is admitted must be given.

    :param province: the one that ``keys`` are of, which takes part already.
    :param now: an aware datetime.
    :raises TrustListError: one of them cannot be opened.
    """
    opened = []
    for epoch in epochs.epochs:
        if epoch.ends <= now:
            continue
        sealed = epoch.sealed.get(province)
        if sealed is None:
            raise TrustListError(
                f"epoch {epoch.number} is not sealed for {province}",
                field=roles.EPOCHS_PATH,
                remedy="open it with the seal key of a province that it is sealed for",
            )
        opened.append(unseal(sealed, epoch.number, province, keys))
    return tuple(opened)


def epochs_of(targets: Targets) -> SubjectEpochs:
    """Read the epochs that the targets role holds; none where it holds none.

    :param targets: verified.
    :raises TrustListError: they are malformed; names the field under ``subjects/epochs``.
    """
    target = targets.targets.get(roles.EPOCHS_PATH)
    if target is None:
        return SubjectEpochs()
    content = roles.inlined(target)
    try:
        return SubjectEpochs.from_json(content)
    except TrustListError as error:
        error.at(roles.EPOCHS_PATH)
        raise


def with_epoch(
    targets: Targets,
    profiles: Iterable[Profile],
    new: EpochKey,
    starts: datetime,
    ends: datetime,
) -> Targets:
    """Put a new epoch into the targets role, sealed for each province.

    Whoever proposes it makes the key at random and sees it: with it the tokens of known numbers can
    be computed. What is returned, and so the proposal's file, holds only sealed forms.

    :param targets: as it stands; it is not changed.
    :param profiles: the provinces' profiles, verified; each publishes a seal key.
    :param new: its number is higher than the last one's.
    :param starts: from when on tokens are made under it, an aware datetime: late enough that every
        node has this list by then, or tokens are made that others do not yet ask for.
    :param ends: how long it is asked for.
    :returns: a copy, for its version and expiry to be set and for the holders to sign.
    :raises TrustListError: a province takes no part or publishes no seal key; or the epoch does
        not follow those before it.
    """
    sealed = {
        profile.province: seal(new, profile.province, _seal_key(targets, profile))
        for profile in profiles
    }
    epoch = SubjectEpoch(
        new.epoch, starts.replace(microsecond=0), ends.replace(microsecond=0), sealed
    )
    return _holding(targets, SubjectEpochs((*epochs_of(targets).epochs, epoch)))


def with_recipient(targets: Targets, profile: Profile, keys: Iterable[EpochKey]) -> Targets:
    """Seal the epochs that are there for a province that was admitted, or changed its seal key.

    :param targets: as it stands; it is not changed.
    :param profile: the province's, verified; its first seal key is sealed for.
    :param keys: the epochs' keys, as another province's node opens them (`unseal`).
    :returns: as `with_epoch`.
    :raises TrustListError: the province takes no part or publishes no seal key, or a key is of no
        epoch that is there.
    """
    public = _seal_key(targets, profile)
    by_number = {key.epoch: key for key in keys}
    before = epochs_of(targets).epochs
    if unknown := by_number.keys() - {epoch.number for epoch in before}:
        raise TrustListError(f"there is no epoch {min(unknown)}", field=roles.EPOCHS_PATH)
    return _holding(
        targets,
        SubjectEpochs(
            tuple(
                SubjectEpoch(
                    epoch.number,
                    epoch.starts,
                    epoch.ends,
                    {
                        **epoch.sealed,
                        profile.province: seal(by_number[epoch.number], profile.province, public),
                    },
                )
                if epoch.number in by_number
                else epoch
                for epoch in before
            )
        ),
    )


def _seal_key(targets: Targets, profile: Profile) -> SealKey:
    delegated = targets.delegations and targets.delegations.roles
    if not delegated or roles.role_name(profile.province) not in delegated:
        raise TrustListError(f"{profile.province} takes no part", field="province")
    if not profile.seal_keys:
        raise TrustListError(
            f"{profile.province} publishes no key to seal for",
            field="seal_keys",
            remedy="the province must publish one in its profile first",
        )
    return profile.seal_keys[0]


def _holding(targets: Targets, epochs: SubjectEpochs) -> Targets:
    changed = copy.deepcopy(targets)
    changed.targets[roles.EPOCHS_PATH] = roles.inline(roles.EPOCHS_PATH, epochs.to_json())
    return changed
