"""PeeringService: how the node stands with the other provinces, for its admins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from exchange.trust.trustlist import TrustList
from exchange.v1 import peering_service_pb2 as pb
from nodes.call import Call
from nodes.memory import resident
from nodes.peers.view import PeerView

__all__ = ["PeeringService"]


class PeeringService:
    """Translates.

    :param province: the node's own.
    :param trust: the list that the node goes by.
    :param peers: gives the other provinces (`nodes.peers.view.PeerViews`).
    :param subjects: how many subjects the node itself holds anything of, about.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["PeeringService"]

    def __init__(
        self,
        *,
        province: str,
        trust: Callable[[], TrustList],
        peers: Callable[[], Sequence[PeerView]],
        subjects: Callable[[], int],
    ) -> None:
        self._province = province
        self._trust = trust
        self._peers = peers
        self._subjects = subjects

    async def list_peers(self, request: pb.ListPeersRequest, call: Call) -> pb.ListPeersResponse:
        """All of them."""
        del request, call
        return pb.ListPeersResponse(
            province=self._province,
            trust_version=self._trust().version,
            subjects=self._subjects(),
            memory_bytes=resident(),
            peers=[_peer(view) for view in self._peers()],
        )


def _peer(view: PeerView) -> pb.Peer:
    return pb.Peer(
        province=view.province,
        addresses=view.addresses,
        state=f"PEER_STATE_{view.state}",
        as_of_time=_time(view.as_of),
        presence_time=_time(view.presence_time),
        subjects=view.subjects,
        presence_generation=view.generation,
        lag=_duration(view.lag),
        circuit_open=view.circuit_open,
        calls=view.calls,
        errors=view.errors,
        resynchronisations=view.resynchronisations,
        last_error=view.last_error,
    )


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _duration(lag: timedelta | None) -> Duration | None:
    if lag is None:
        return None
    duration = Duration()
    duration.FromTimedelta(lag)
    return duration
