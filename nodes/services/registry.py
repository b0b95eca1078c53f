"""RegistryService: where signed metadata is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from tuf.api.metadata import Root

from exchange import views
from exchange.errors import CallerNotAllowedError
from exchange.trust import ceremony, roles
from exchange.trust.files import Files, newest_root, signed
from exchange.trust.signers import Online
from exchange.v1 import registry_service_pb2 as pb
from nodes.call import Call
from nodes.identity import Role
from nodes.trust import TrustKeeper

__all__ = ["RegistryService"]

log = structlog.get_logger(__name__)


class RegistryService:
    """Takes what is rightly signed, and signs the snapshot and the timestamp over it."""

    descriptor = pb.DESCRIPTOR.services_by_name["RegistryService"]

    def __init__(
        self, keeper: TrustKeeper, online: Callable[[Root], Online], clock: Callable[[], datetime]
    ) -> None:
        self._keeper = keeper
        self._online = online
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def submit_metadata(
        self, request: pb.SubmitMetadataRequest, call: Call
    ) -> pb.SubmitMetadataResponse:
        """Publish new versions, all or none."""
        submitted = views.files_from_proto(request.files)
        if call.caller.role is Role.NODE:
            own = f".{roles.role_name(call.caller.province)}.json"
            if not all(name.endswith(own) for name in submitted):
                raise CallerNotAllowedError(
                    "a node submits its own province's role alone", field="files"
                )
        async with self._one_at_a_time:
            current = self._keeper.bundle.files
            online = self._online(_root({**current, **submitted}))
            published = await asyncio.to_thread(
                ceremony.accept, current, submitted, online, now=self._clock()
            )
            await self._keeper.offer(published)
        log.info(
            "registry.accepted",
            by=call.caller.uri,
            files=sorted(submitted),
            version=self._keeper.bundle.versions.snapshot,
        )
        return pb.SubmitMetadataResponse(
            holds=views.versions_to_proto(self._keeper.bundle.versions)
        )

    async def renew(self) -> None:
        """Sign the timestamp anew (and the snapshot, when due)."""
        async with self._one_at_a_time:
            current = self._keeper.bundle.files
            online = self._online(_root(current))
            renewed = await asyncio.to_thread(ceremony.renew, current, online, now=self._clock())
            await self._keeper.offer(renewed)


def _root(among: Files) -> Root:
    """The newest root, unverified: it only says which keys to use, and `accept` verifies it."""
    return signed(among, newest_root(among), Root)
