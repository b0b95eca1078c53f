"""The trust list as it stands, verified on a machine that is offline.

There nothing can be said of how fresh it is: expiry is left aside, signatures and versions are
not. What comes of it is checked again, against the newest list, by whoever publishes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Targets
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from exchange.errors import TrustListError
from exchange.trust import forms, roles
from exchange.trust.files import TIMESTAMP
from exchange.trust.submission import delegations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuf.api.metadata import Root

    from exchange.trust.files import Files
    from exchange.trust.profile import Profile

__all__ = ["Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Root and targets as they stand, verified from a pinned root on.

    :param files: the files that they were read from.
    :param versions: the version of each province's metadata, by role, departed ones too.
    :param profiles: the provinces' profiles that verify, by code.
    """

    files: Files
    root: Root
    targets: Targets
    versions: Mapping[str, int]
    profiles: Mapping[str, Profile]

    @classmethod
    def of(cls, files: Files, pinned: bytes) -> Self:
        """Verify files.

        :param files: as `exchange.trust.files.read` gives them.
        :param pinned: the root that the reader trusts.
        :raises TrustListError: they do not verify from that root on.
        """
        try:
            reader = TrustedMetadataSet(pinned, EnvelopeType.METADATA)
            reader.reference_time = datetime.min.replace(tzinfo=UTC)
            while (data := files.get(f"{reader.root.version + 1}.root.json")) is not None:
                reader.update_root(data)
            reader.update_timestamp(files[TIMESTAMP])
            reader.update_snapshot(files[f"{reader.timestamp.snapshot_meta.version}.snapshot.json"])
            meta = reader.snapshot.meta
            reader.update_targets(files[f"{meta['targets.json'].version}.targets.json"])
        except (RepositoryError, KeyError) as error:
            raise TrustListError(
                f"the trust list does not verify: {error}",
                remedy="check that the folder is this exchange's, whole, and that of the root",
            ) from error
        profiles: dict[str, Profile] = {}
        for name in delegations(reader.targets):
            with contextlib.suppress(RepositoryError, KeyError, TrustListError):
                data = files[f"{meta[f'{name}.json'].version}.{name}.json"]
                content = reader.update_delegated_targets(data, name, Targets.type)
                code = name[1:]
                forms.check_province(content, code)
                profiles[code] = roles.profile_of(content.targets[roles.target_path(code)], code)
        return cls(
            files=files,
            root=reader.root,
            targets=reader.targets,
            versions={name.removesuffix(".json"): entry.version for name, entry in meta.items()},
            profiles=profiles,
        )
