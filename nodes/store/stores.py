"""All that a node keeps in its store, opened together."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.store.answers import PeerAnswers
from nodes.store.appeals import AppealStore
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.statuses import StatusStore

__all__ = ["Stores"]


@dataclass(frozen=True, slots=True)
class Stores:
    """One server; reads share a connection, and so do writes."""

    attestations: AttestationStore
    statuses: StatusStore
    answers: PeerAnswers
    changes: Changes
    appeals: AppealStore

    @classmethod
    async def open(cls, url: str, province: str, process: bytes = b"") -> Stores:
        """Connect.

        :param url: `nodes.store.address.StoreAddress.parse` has the forms.
        :param province: the node's own.
        :param process: tells this process from the others on the store, also after a restart.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no answer, or the server would forget what it was given.
        """
        attestations = await AttestationStore.open(url, province)
        try:
            changes = await Changes.open(url)
        except BaseException:
            await attestations.close()
            raise
        return cls(
            attestations,
            StatusStore(province, attestations.reads, attestations.writes),
            PeerAnswers(attestations.reads, process),
            changes,
            AppealStore(province, attestations.reads, attestations.writes),
        )

    async def close(self) -> None:
        """Finish the writes that wait, and disconnect."""
        await self.changes.close()
        await self.attestations.close()
