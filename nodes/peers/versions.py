"""What the other provinces' nodes hold of the trust list, by their own word."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import structlog

from exchange import views
from exchange.trust.files import Versions
from exchange.v1 import trust_service_pb2 as pb
from nodes.peers.links import PeerLinks

__all__ = ["PeerVersions"]

log = structlog.get_logger(__name__)

_GET = "/tongxing.v1.TrustService/GetTrustMetadata"


class PeerVersions:
    """Asks all peers at once.

    :param timeout: seconds that a peer has for an answer.
    """

    def __init__(self, peers: PeerLinks, timeout: float) -> None:
        self._peers = peers
        self._timeout = timeout

    async def versions(self, have: Versions) -> dict[str, Versions | None]:
        """What each peer holds; None where it does not answer.

        :param have: what this node holds, so that nobody sends what it has.
        """
        request = pb.GetTrustMetadataRequest(have=views.versions_to_proto(have))
        channels = self._peers.channels()
        answers = await asyncio.gather(
            *(self._ask(province, channel, request) for province, channel in channels)
        )
        return {province: answer for (province, _), answer in zip(channels, answers, strict=True)}

    async def _ask(
        self, province: str, channel: grpc.aio.Channel, request: pb.GetTrustMetadataRequest
    ) -> Versions | None:
        try:
            method: Any = channel.unary_unary(
                _GET,
                request_serializer=pb.GetTrustMetadataRequest.SerializeToString,
                response_deserializer=pb.GetTrustMetadataResponse.FromString,
            )
            answer = await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            log.info("peer.versions_unknown", province=province, code=error.code().name)
            return None
        except grpc.aio.UsageError:  # the channel was replaced and closed meanwhile
            return None
        return views.versions_from_proto(answer.holds)
