"""TrustService: the trust list as this server holds it, for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from exchange import views
from exchange.v1 import trust_service_pb2 as pb
from nodes.call import Call
from nodes.trust import TrustKeeper

__all__ = ["TrustService"]

HEARTBEAT_SECONDS = 20.0
"""An empty message at least so often tells a watcher that nothing has changed, and not the line."""


class TrustService:
    """Gives out verified files."""

    descriptor = pb.DESCRIPTOR.services_by_name["TrustService"]

    def __init__(self, keeper: TrustKeeper) -> None:
        self._keeper = keeper

    async def get_trust_metadata(
        self, request: pb.GetTrustMetadataRequest, call: Call
    ) -> pb.GetTrustMetadataResponse:
        """What the caller lacks."""
        del call
        bundle = self._keeper.bundle
        return pb.GetTrustMetadataResponse(
            files=views.files_to_proto(bundle.missing(views.versions_from_proto(request.have))),
            holds=views.versions_to_proto(bundle.versions),
        )

    async def watch_trust(
        self, request: pb.WatchTrustRequest, call: Call
    ) -> AsyncIterator[pb.WatchTrustResponse]:
        """What the caller lacks, and then every change."""
        del call
        have = views.versions_from_proto(request.have)
        while not self._keeper.closing:
            bundle = self._keeper.bundle
            yield pb.WatchTrustResponse(files=views.files_to_proto(bundle.missing(have)))
            have = bundle.versions
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._keeper.wait_for_change(have.timestamp)
            except TimeoutError:
                continue
