"""The verified trust list (信任列表): which provinces take part, and with which keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exchange.errors import TrustListError, UnknownProvinceError
from exchange.trust.epochs import SubjectEpochs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from exchange.keys import PublicKey
    from exchange.trust.profile import AttestationKey, Profile

__all__ = ["TrustList"]


@dataclass(frozen=True, slots=True)
class TrustList:
    """A trust list that verified; `exchange.trust.refresh.load` makes it.

    :param version: the snapshot's version, which grows with every change.
    :param root_version: the version of the root that it verified under.
    :param expires: when the first of root, targets, snapshot and timestamp expires, UTC.
    :param profiles: each usable province's profile, by code.
    :param unusable: why a province that is delegated to cannot be used, by code.
    :param epochs: the keys of subject tokens (主体标识), sealed for each province.
    """

    version: int
    root_version: int
    expires: datetime
    profiles: Mapping[str, Profile]
    unusable: Mapping[str, str]
    epochs: SubjectEpochs = field(default_factory=SubjectEpochs)
    _by_kid: Mapping[bytes, tuple[tuple[str, AttestationKey], ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        by_kid: dict[bytes, tuple[tuple[str, AttestationKey], ...]] = {}
        for province, profile in self.profiles.items():
            for key in profile.keys:
                kid = key.public.kid
                by_kid[kid] = (*by_kid.get(kid, ()), (province, key))
        object.__setattr__(self, "_by_kid", by_kid)

    def keys(self, kid: bytes) -> tuple[tuple[str, AttestationKey], ...]:
        """Every key that bears a kid, with its province; eight bytes name none for certain.

        :param kid: the 8 bytes of the protected header.
        """
        return self._by_kid.get(kid, ())

    def signs(self, province: str, public: PublicKey) -> bool:
        """Whether a province signs with a key now: whether anybody would accept what it signs."""
        return any(
            owner == province and key.signs and key.public.thumbprint == public.thumbprint
            for owner, key in self.keys(public.kid)
        )

    def profile(self, province: str) -> Profile:
        """Give a province's profile.

        :raises UnknownProvinceError: if the province takes no part.
        :raises TrustListError: if it takes part, but what it published is not usable.
        """
        found = self.profiles.get(province)
        if found is not None:
            return found
        if province in self.unusable:
            raise TrustListError(
                f"{province} is not usable: {self.unusable[province]}",
                remedy="the province must publish its profile anew",
            )
        raise UnknownProvinceError("the trust list holds no such province", field="province")
