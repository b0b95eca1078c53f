"""Asking the other provinces: one channel each, all at once, within a budget.

A client sees no peer identity (grpc), so a province's channel trusts that province's CA alone and
asks for that province's name: whoever answers is that province.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from exchange.recognition import Reply
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.identity import server_name

__all__ = ["Peers"]

log = structlog.get_logger(__name__)

MOST_TOKENS = 1000
"""Tokens in one call, by the contract."""

_FETCH = "/tongxing.v1.PeerService/FetchAttestations"
_LARGEST_ANSWER = 16 * 1024 * 1024


@dataclass(slots=True)
class _Peer:
    profile: Profile
    channel: grpc.aio.Channel
    fetch: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    up: bool = True


class Peers:
    """The other provinces in the trust list.

    :param province: this node's own province.
    :param certificate: PEM file of the node's certificate; ``key`` of its key.
    :param timeout: seconds that a peer has for an answer, at most.
    """

    def __init__(self, province: str, certificate: Path, key: Path, timeout: float) -> None:
        self._province = province
        self._certificate = certificate
        self._key = key
        self._timeout = timeout
        self._peers: dict[str, _Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, trust: TrustList) -> None:
        """Open channels to who is new or has moved, and close those of who has left."""
        wanted = {
            code: profile
            for code, profile in trust.profiles.items()
            if code != self._province and profile.addresses
        }
        for code, peer in list(self._peers.items()):
            new = wanted.get(code)
            if (
                new is None
                or new.addresses != peer.profile.addresses
                or new.tls_ca != peer.profile.tls_ca
            ):
                del self._peers[code]
                task = asyncio.get_running_loop().create_task(peer.channel.close(grace=5))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        for code, profile in wanted.items():
            if code not in self._peers:
                self._peers[code] = self._open(profile)

    def _open(self, profile: Profile) -> _Peer:
        channel = grpc.aio.secure_channel(
            _target(profile.addresses),
            grpc.ssl_channel_credentials(
                root_certificates=profile.tls_ca.encode(),
                private_key=self._key.read_bytes(),
                certificate_chain=self._certificate.read_bytes(),
            ),
            options=[
                ("grpc.ssl_target_name_override", server_name(profile.province)),
                ("grpc.max_receive_message_length", _LARGEST_ANSWER),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.max_reconnect_backoff_ms", 5_000),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
            ],
        )
        return _Peer(profile, channel, channel.unary_unary(_FETCH))

    async def fetch(
        self, tokens: Sequence[bytes], call: Call, trust: TrustList
    ) -> dict[str, Reply | list[list[bytes]]]:
        """What every other province holds of some subjects.

        :returns: by province, the signed attestations for each token in order; or a `Reply` where
            there is no answer (it did not come in time, or cannot be used).
        """
        budget = call.budget(asyncio.get_running_loop().time(), self._timeout)
        requests = [
            pb.FetchAttestationsRequest(
                subject_tokens=tokens[at : at + MOST_TOKENS]
            ).SerializeToString()
            for at in range(0, len(tokens), MOST_TOKENS)
        ]
        metadata = (("x-request-id", call.request_id),)
        # A call runs from when it is made: all of them at once, without a task for each.
        asked = [
            (peer, [peer.fetch(r, timeout=budget, metadata=metadata) for r in requests])
            for peer in self._peers.values()
        ]
        replies: dict[str, Reply | list[list[bytes]]] = {
            code: Reply(code, None)
            for code in (*trust.profiles, *trust.unusable)
            if code != self._province
        }
        for peer, calls in asked:
            replies[peer.profile.province] = await self._answer(peer, calls, len(tokens))
        return replies

    @staticmethod
    async def _answer(
        peer: _Peer, calls: Sequence[Awaitable[bytes]], expected: int
    ) -> Reply | list[list[bytes]]:
        code = peer.profile.province
        try:
            answers = [await call for call in calls]
        except grpc.aio.AioRpcError as error:
            if peer.up:
                peer.up = False
                log.warning("peer.silent", province=code, code=error.code().name)
            return Reply(code, None)
        if not peer.up:
            peer.up = True
            log.info("peer.answers", province=code)
        try:
            subjects = [
                list(subject.signed_attestations)
                for answer in answers
                for subject in pb.FetchAttestationsResponse.FromString(answer).subjects
            ]
        except DecodeError:
            subjects = []
        if len(subjects) != expected:
            log.warning("peer.unreadable", province=code)
            return Reply(code, None, readable=False)
        return subjects

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(peer.channel.close() for peer in self._peers.values()))
        await asyncio.gather(*self._closing)


def _target(addresses: Sequence[str]) -> str:
    """A gRPC target: all addresses where they are IPv4, else the first, by DNS."""
    hosts = [address.rpartition(":")[0] for address in addresses]
    try:
        for host in hosts:
            ipaddress.IPv4Address(host)
    except ValueError:
        return f"dns:///{addresses[0]}"
    return f"ipv4:{','.join(addresses)}"
