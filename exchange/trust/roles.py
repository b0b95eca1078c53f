"""How the exchange uses TUF: the names of its roles, their lifetimes, and where a profile stands.

The top-level targets role delegates to each province one terminating role, ``p510000``, for the
paths ``p510000/*``. That role holds one target, ``p510000/profile``, whose ``custom`` is the
profile itself; there is no target file to fetch. The targets role itself holds one target,
``subjects/epochs``, which carries the subject-token keys (`exchange.trust.epochs`) in the same way.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import DelegatedRole, TargetFile

from exchange.errors import TrustListError
from exchange.trust.profile import Profile

__all__ = [
    "EPOCHS_PATH",
    "PROVINCE_LIFETIME",
    "ROOT_LIFETIME",
    "SNAPSHOT_LIFETIME",
    "TARGETS_LIFETIME",
    "THRESHOLD",
    "TIMESTAMP_LIFETIME",
    "delegated_role",
    "delegated_to",
    "inline",
    "inlined",
    "profile_of",
    "role_name",
    "target_file",
    "target_path",
]

ROOT_LIFETIME: Final = timedelta(days=365)
TARGETS_LIFETIME: Final = timedelta(days=90)
PROVINCE_LIFETIME: Final = timedelta(days=30)
SNAPSHOT_LIFETIME: Final = timedelta(days=7)
TIMESTAMP_LIFETIME: Final = timedelta(hours=24)

THRESHOLD: Final = 2
"""How many key-holders must sign root and targets."""

EPOCHS_PATH: Final = "subjects/epochs"
"""The one target that the targets role itself holds."""

_ROLE: Final = re.compile(r"p([0-9]{6})")


def role_name(province: str) -> str:
    """Name the TUF role of a province: ``p510000``."""
    return f"p{province}"


def target_path(province: str) -> str:
    """Name the TUF target that carries a province's profile: ``p510000/profile``."""
    return f"{role_name(province)}/profile"


def delegated_role(province: str, keyids: list[str]) -> DelegatedRole:
    """Make the delegation to a province, by one key of those named."""
    return DelegatedRole(
        role_name(province), keyids, 1, terminating=True, paths=[f"{role_name(province)}/*"]
    )


def delegated_to(role: DelegatedRole) -> str:
    """Tell which province a delegation is for.

    :raises TrustListError: if the delegation has any other form than this exchange's: one that
        reached further would let a province speak for another.
    """
    name = _ROLE.fullmatch(role.name)
    if name is None or role.terminating is not True or role.paths != [f"{role.name}/*"]:
        raise TrustListError(
            "the targets role delegates to something other than a province's own paths",
            remedy="the holders of the targets keys must publish a corrected list",
        )
    return name[1]


def inline(path: str, content: dict[str, Any]) -> TargetFile:
    """Make a target entry that carries its content inline: there is no file to fetch."""
    target = TargetFile.from_data(path, _canonical(content), ["sha256"])
    target.unrecognized_fields["custom"] = content
    return target


def inlined(target: TargetFile) -> object:
    """Read the content that a verified target entry carries.

    :raises TrustListError: it carries none, or another than its digest names.
    """
    if not isinstance(target.custom, dict):
        raise TrustListError("must be an object", field=target.path)
    try:
        target.verify_length_and_hashes(_canonical(target.custom))
    except (LengthOrHashMismatchError, FormatError) as error:
        raise TrustListError(
            "the content is not the one that its digest names", field=target.path
        ) from error
    return target.custom


def target_file(profile: Profile) -> TargetFile:
    """Make the target entry that carries a profile inline."""
    return inline(target_path(profile.province), profile.to_json())


def profile_of(target: TargetFile, province: str) -> Profile:
    """Read the profile that a verified target entry carries.

    :param province: the province that signed the entry.
    :raises TrustListError: if it is no profile, or another province's.
    """
    content = b""
    if isinstance(target.custom, dict):
        content = _canonical(target.custom)
        try:
            target.verify_length_and_hashes(content)
        except LengthOrHashMismatchError as error:
            raise TrustListError("the profile is not the one that its digest names") from error
    profile = _read.get(content) or Profile.from_json(target.custom)
    if profile.province != province:
        raise TrustListError(f"the profile is not that of {province}", field="province")
    if len(_read) >= _MOST_READ:
        _read.pop(next(iter(_read)), None)
    _read[content] = profile
    return profile


_read: dict[bytes, Profile] = {}
"""Profiles by their canonical bytes: a refresh brings 31 of 32 unchanged."""
_MOST_READ: Final = 256


def _canonical(content: dict[str, Any]) -> bytes:
    return (encode_canonical(content) or "").encode()
