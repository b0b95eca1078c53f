"""All that a node keeps in its store, opened together."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from nodes.store.address import StoreAddress, parse
from nodes.store.answers import PeerAnswers
from nodes.store.appeals import AppealStore
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.statuses import StatusStore

__all__ = ["Stores"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """Reads share a connection (of a cluster one to each server), and so do writes."""

    attestations: AttestationStore
    statuses: StatusStore
    answers: PeerAnswers
    changes: Changes
    appeals: AppealStore

    @classmethod
    async def open(cls, url: str, province: str, node: bytes = b"", *, replicas: int = 0) -> Stores:
        """Connect.

        :param url: `nodes.store.address.parse` has the forms.
        :param province: the node's own.
        :param node: tells this node from the others on the store, also after a restart.
        :param replicas: of each server, on whose disks a write is, too, when it is acknowledged.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no answer, or the server would forget what it was given.
        """
        if not replicas and not isinstance(parse(url), StoreAddress):
            log.warning(
                "store.failover_may_lose",
                what="a failover may lose what was acknowledged a moment before",
                remedy="set store.replicas to 1, and give each primary two replicas",
            )
        attestations = await AttestationStore.open(url, province, replicas=replicas)
        try:
            changes = await Changes.open(url)
        except BaseException:
            await attestations.close()
            raise
        return cls(
            attestations,
            StatusStore(province, attestations.reads, attestations.writes),
            PeerAnswers(attestations.reads, node),
            changes,
            AppealStore(province, attestations.reads, attestations.writes),
        )

    async def close(self) -> None:
        """Finish the writes that wait, and disconnect."""
        await self.changes.close()
        await self.attestations.close()
