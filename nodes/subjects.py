"""The keys of subject tokens (主体标识密钥) that this node can open, as the trust list changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog

from exchange.attestations import CLOCK_SKEW
from exchange.errors import InvalidFieldError, TrustListError
from exchange.subjects import EpochKey
from exchange.trust.epochs import Sealed, SubjectEpoch, SubjectEpochs, unseal
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.trustlist import TrustList

__all__ = ["SubjectKeys", "read_seal_keys"]

log = structlog.get_logger(__name__)

_FIELD = "identity.seal_key"


class SubjectKeys:
    """Opens what each trust list seals for this province, once, and says what is in force.

    An epoch that cannot be opened is logged and left aside: `follow` raises nothing, since the
    node serves on with what it could open.

    :param province: this node's.
    :param keys: its private seal keys.
    """

    def __init__(self, province: str, keys: Sequence[SealPrivateKey]) -> None:
        self._province = province
        self._keys = keys
        self._epochs = SubjectEpochs()
        self._opened: dict[int, tuple[Sealed, EpochKey]] = {}
        self._closed: dict[int, TrustListError] = {}

    def follow(self, trust: TrustList) -> None:
        """Take over a new trust list."""
        if trust.epochs == self._epochs:
            return
        opened: dict[int, tuple[Sealed, EpochKey]] = {}
        closed: dict[int, TrustListError] = {}
        for epoch in trust.epochs.epochs:
            try:
                opened[epoch.number] = self._open(epoch)
            except TrustListError as error:
                closed[epoch.number] = error
                log.error("subjects.epoch_closed", epoch=epoch.number, why=str(error))  # noqa: TRY400 - no traceback
        self._epochs, self._opened, self._closed = trust.epochs, opened, closed
        log.info("subjects.epochs", opened=sorted(opened), closed=sorted(closed))

    def _open(self, epoch: SubjectEpoch) -> tuple[Sealed, EpochKey]:
        sealed = epoch.sealed.get(self._province)
        if sealed is None:
            raise TrustListError(
                f"the trust list holds epoch {epoch.number} of subject tokens, but not for "
                f"{self._province}",
                field=_FIELD,
                remedy="the holders of the targets keys must seal it for this province: "
                "`tongxing trust propose reseal`",
            )
        before = self._opened.get(epoch.number)
        if before is not None and before[0] == sealed:
            return before
        try:
            return sealed, unseal(sealed, epoch.number, self._province, self._keys)
        except TrustListError as error:
            error.field = _FIELD
            raise

    def check(self, now: datetime) -> None:
        """Refuse to start where the node could not ask for all that is published.

        :raises TrustListError: no epoch is in force, or one in force cannot be opened.
        """
        for epoch in self._epochs.in_force(now, skew=CLOCK_SKEW):
            if epoch.number in self._closed:
                raise self._closed[epoch.number]

    def current(self, now: datetime) -> tuple[EpochKey, datetime]:
        """The key that tokens are made with now, and when what is made with it must have ended.

        :raises TrustListError: there is none, or none that could be opened.
        """
        in_force = self._epochs.in_force(now)
        for epoch in in_force:
            if epoch.number in self._opened:
                return self._opened[epoch.number][1], epoch.ends
        raise self._closed[in_force[0].number]

    def in_force(self, now: datetime) -> Sequence[EpochKey]:
        """The keys that lookups ask with, the newest first; those that could be opened.

        An epoch is asked for a little before it begins: another node's clock may be ahead.

        :raises TrustListError: there is none.
        """
        in_force = self._epochs.in_force(now, skew=CLOCK_SKEW)
        found = [self._opened[each.number][1] for each in in_force if each.number in self._opened]
        if not found:
            raise self._closed[in_force[0].number]
        return found

    def complete(self, now: datetime) -> bool:
        """Whether every epoch that is in force could be opened.

        :raises TrustListError: there is none.
        """
        return not self._closed or not any(
            each.number in self._closed for each in self._epochs.in_force(now, skew=CLOCK_SKEW)
        )

    def ends(self, epoch: int, now: datetime) -> datetime | None:
        """When an epoch ends; None where it is not in force.

        :raises TrustListError: no epoch is.
        """
        in_force = self._epochs.in_force(now, skew=CLOCK_SKEW)
        return next((each.ends for each in in_force if each.number == epoch), None)


def read_seal_keys(path: Path) -> Sequence[SealPrivateKey]:
    """Read the node's private seal keys: X25519, PKCS#8 PEM, several during a change.

    :raises InvalidFieldError: the file cannot be read, others may read it, or it holds none.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read()
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field=_FIELD) from None
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidFieldError(
            f"others may read {path}", field=_FIELD, remedy="chmod 600, and consider it shown"
        )
    try:
        return SealPrivateKey.from_pem(pem)
    except InvalidFieldError as error:
        error.field = _FIELD
        raise
