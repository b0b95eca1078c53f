"""What a proposal says of itself: who proposes it, why, until when, and what it changes.

It stands inside the metadata that is proposed, so every holder signs it along, nobody can change
it afterwards, and it stays on record with the version that came of it::

    "proposal": {"kind": "admit", "by": "…", "note": "…", "made": RFC 3339, "expires": RFC 3339,
                 "based_on": {"1.targets.json": SHA-256 in hex}}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import ExpiredError, TrustListError
from exchange.trust.reading import read_object, read_text, read_time, write_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuf.api.metadata import Root, Targets

    from exchange.trust.files import Files

__all__ = ["LIFETIME", "About", "Kind"]

LIFETIME: Final = timedelta(days=14)
"""How long a proposal may be signed and published."""

_FIELD: Final = "proposal"
_LONGEST: Final = 1000
_SKEW: Final = timedelta(hours=1)


class Kind(StrEnum):
    """What a proposal is for. What it changes is read from the metadata, never from here."""

    ADMIT = "admit"
    REMOVE = "remove"
    HOLDERS = "holders"
    ONLINE = "online"
    EPOCH = "epoch"
    RESEAL = "reseal"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class About:
    """What a proposal says of itself.

    :param by: who proposes it.
    :param note: why, or "".
    :param made: when, UTC.
    :param expires: from when on it is neither signed nor published, UTC.
    :param based_on: the metadata that it changes: SHA-256 in hex by file name.
    """

    kind: Kind
    by: str
    note: str
    made: datetime
    expires: datetime
    based_on: Mapping[str, str]

    @classmethod
    def of(cls, signed: Root | Targets) -> About | None:
        """Read what stands in metadata; None where it did not come of a proposal.

        :raises TrustListError: it is malformed.
        """
        value = signed.unrecognized_fields.get(_FIELD)
        if value is None:
            return None
        fields = read_object(value, _FIELD)
        kind = read_text(fields.get("kind"), "proposal.kind")
        if kind not in list(Kind):
            raise TrustListError("this version knows no such proposal", field="proposal.kind")
        note = fields.get("note", "")
        if not isinstance(note, str) or len(note) > _LONGEST:
            raise TrustListError(f"must be {_LONGEST} characters at most", field="proposal.note")
        by = read_text(fields.get("by"), "proposal.by")
        if len(by) > _LONGEST:
            raise TrustListError(f"must be {_LONGEST} characters at most", field="proposal.by")
        based_on = read_object(fields.get("based_on"), "proposal.based_on")
        return cls(
            kind=Kind(kind),
            by=by,
            note=note,
            made=read_time(fields.get("made"), "proposal.made"),
            expires=read_time(fields.get("expires"), "proposal.expires"),
            based_on={
                name: read_text(digest, f"proposal.based_on.{name}")
                for name, digest in based_on.items()
            },
        )

    def put_into(self, signed: Root | Targets) -> None:
        """Write it into metadata, in place of what an earlier proposal left there."""
        signed.unrecognized_fields[_FIELD] = self._to_json()

    def _to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "by": self.by,
            "note": self.note,
            "made": write_time(self.made),
            "expires": write_time(self.expires),
            "based_on": dict(self.based_on),
        }

    def check(self, current: Files, now: datetime) -> None:
        """Check that it may still be signed or published.

        :param current: the files as they stand.
        :param now: an aware datetime.
        :raises ExpiredError: it has expired.
        :raises TrustListError: its times are impossible, or it changes other metadata than stands.
        """
        if now >= self.expires:
            raise ExpiredError(
                f"the proposal expired at {write_time(self.expires)}",
                field="proposal.expires",
                remedy="propose it anew",
            )
        if self.made > now + _SKEW or self.expires > self.made + LIFETIME:
            raise TrustListError(
                f"a proposal lasts {LIFETIME.days} days from when it is made",
                field="proposal.expires",
                remedy="check this machine's clock",
            )
        for name, digest in self.based_on.items():
            data = current.get(name)
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                raise TrustListError(
                    f"the proposal is based on another {name[:100]} than the one that stands",
                    field="proposal.based_on",
                    remedy="fetch the trust list as it stands; if it is, propose the change anew",
                )
