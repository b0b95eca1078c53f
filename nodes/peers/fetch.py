"""Asking the other provinces: one channel each, all at once, within a budget.

A client sees no peer identity (grpc), so a province's channel trusts that province's CA alone and
asks for that province's name: whoever answers is that province.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair
from exchange.recognition import Reply
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.identity import server_name
from nodes.tlsfiles import TlsFiles

__all__ = ["Peers"]

log = structlog.get_logger(__name__)

MOST_TOKENS = 1000
"""Tokens in one call, by the contract."""

_FETCH = "/tongxing.v1.PeerService/FetchAttestations"
_LARGEST_ANSWER = 16 * 1024 * 1024
_PATIENCE_SECONDS = 5.0
"""How long a peer that moved, or changed its authority, is still called as before."""
_GRACE_SECONDS = 30.0
"""Longer than any call to a peer: what is under way on a replaced channel ends by itself."""


@dataclass(slots=True)
class _Peer:
    province: str
    link: Link
    up: bool = True


class Peers:
    """The other provinces in the trust list.

    :param province: this node's own province.
    :param tls: the node's certificate and key; it follows them.
    :param timeout: seconds that a peer has for an answer, at most.
    """

    def __init__(self, province: str, tls: TlsFiles, timeout: float) -> None:
        self._province = province
        self._tls = tls
        tls.on_change(self._present)
        self._timeout = timeout
        self._peers: dict[str, _Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, trust: TrustList) -> None:
        """Open channels to who is new, move those of who has moved, close those of who has left."""
        wanted = {
            code: profile
            for code, profile in trust.profiles.items()
            if code != self._province and profile.addresses
        }
        for code, peer in list(self._peers.items()):
            if code not in wanted:
                del self._peers[code]
                task = asyncio.get_running_loop().create_task(peer.link.close(_GRACE_SECONDS))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        for code, profile in wanted.items():
            endpoint = self._endpoint(profile)
            if code in self._peers:
                self._peers[code].link.move(endpoint)
            else:
                self._peers[code] = _Peer(code, _link(endpoint))

    def _present(self, pair: Pair) -> None:
        """Go by a new certificate; each peer is called with the old one until it takes the new."""
        for peer in self._peers.values():
            peer.link.move(dataclasses.replace(peer.link.endpoint, pair=pair))

    def _endpoint(self, profile: Profile) -> Endpoint:
        return Endpoint(
            _target(profile.addresses),
            server_name(profile.province),
            profile.tls_ca.encode(),
            self._tls.current,
        )

    async def fetch(
        self, tokens: Sequence[bytes], call: Call, trust: TrustList
    ) -> dict[str, Reply | list[list[bytes]]]:
        """What every other province holds of some subjects.

        :returns: by province, the signed attestations for each token in order; or a `Reply` where
            there is no answer (it did not come in time, or cannot be used).
        """
        time = asyncio.get_running_loop().time
        end = time() + call.budget(time(), self._timeout)
        requests = [
            pb.FetchAttestationsRequest(
                subject_tokens=tokens[at : at + MOST_TOKENS]
            ).SerializeToString()
            for at in range(0, len(tokens), MOST_TOKENS)
        ]
        metadata = (("x-request-id", call.request_id),)

        def ask(peer: _Peer) -> list[Awaitable[bytes]]:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            method = peer.link.channel.unary_unary(_FETCH)
            left = max(0.0, end - time())
            return [method(request, timeout=left, metadata=metadata) for request in requests]

        # A call runs from when it is made: all of them at once, without a task for each.
        asked = [(peer, ask(peer)) for peer in self._peers.values()]
        replies: dict[str, Reply | list[list[bytes]]] = {
            code: Reply(code, None)
            for code in (*trust.profiles, *trust.unusable)
            if code != self._province
        }
        for peer, calls in asked:
            replies[peer.province] = await self._answer(peer, calls, ask, len(tokens))
        return replies

    @staticmethod
    async def _answer(
        peer: _Peer,
        calls: Sequence[Awaitable[bytes]],
        ask: Callable[[_Peer], Sequence[Awaitable[bytes]]],
        expected: int,
    ) -> Reply | list[list[bytes]]:
        code = peer.province
        try:
            try:
                answers = [await call for call in calls]
            except grpc.aio.AioRpcError as error:
                # A connection that ends of age may take calls with it that nobody has served: they
                # are made once more. gRPC's own retries would cost every call a seventh.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not peer.up:
                    raise
                answers = [await call for call in ask(peer)]
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

    def channels(self) -> list[tuple[str, grpc.aio.Channel]]:
        """Each peer's channel as it is now."""
        return [(code, peer.link.channel) for code, peer in self._peers.items()]

    def up(self) -> dict[str, bool]:
        """Whether each peer answered when it was last asked."""
        return {code: peer.up for code, peer in dict(self._peers).items()}

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(peer.link.close() for peer in self._peers.values()))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


def _link(endpoint: Endpoint) -> Link:
    return Link(
        endpoint,
        options=[
            ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.enable_retries", 0),
        ],
        patience=_PATIENCE_SECONDS,
        grace=_GRACE_SECONDS,
    )


def _target(addresses: Sequence[str]) -> str:
    """A gRPC target: all addresses where they are IPv4, else the first, by DNS."""
    hosts = [address.rpartition(":")[0] for address in addresses]
    try:
        for host in hosts:
            ipaddress.IPv4Address(host)
    except ValueError:
        return f"dns:///{addresses[0]}"
    return f"ipv4:{','.join(addresses)}"
