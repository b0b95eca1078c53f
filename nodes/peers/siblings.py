"""The other nodes of this node's own province: what each of them alone knows is asked of all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from exchange.client.address import several, target
from exchange.client.link import Endpoint, Link
from exchange.trust.trustlist import TrustList
from exchange.v1 import audit_service_pb2 as pb
from nodes.identity import server_name
from nodes.peers.links import open_link
from nodes.tlsfiles import TlsFiles

__all__ = ["Siblings"]

log = structlog.get_logger(__name__)

_LIST = "/tongxing.v1.AuditService/ListNodeAccesses"
_GRACE_SECONDS = 30.0
"""Longer than any call to a sibling: what is under way on a way that is given up ends by itself."""


class Siblings:
    """Asks all at once, at every address that their names stand for; this node may be among them.

    Ways are opened when they are first needed, and stay.

    :param province: this node's own.
    :param tls: the node's certificate and key.
    :param addresses: where they are called; the province's in the trust list where there are none.
    """

    def __init__(
        self,
        province: str,
        trust: Callable[[], TrustList],
        tls: TlsFiles,
        addresses: Sequence[str] = (),
    ) -> None:
        self._province = province
        self._trust = trust
        self._tls = tls
        self._addresses = tuple(addresses)
        self._links: dict[str, Link] = {}
        self._silent: set[str] = set()
        """Addresses that did not answer when they were last asked: each is logged once."""
        self._closing: set[asyncio.Task[None]] = set()

    async def accesses(
        self, request: pb.ListNodeAccessesRequest, request_id: str, seconds: float
    ) -> list[pb.ListNodeAccessesResponse]:
        """What those answer who do so in time.

        :param request_id: of the call for which they are asked.
        :param seconds: that all have together.
        """
        end = asyncio.get_running_loop().time() + seconds
        profile = self._trust().profile(self._province)
        addresses = self._addresses or tuple(dict.fromkeys(profile.addresses))
        found = await asyncio.gather(*(self._targets(each, seconds) for each in addresses))
        targets = dict.fromkeys(each for some in found for each in some)
        for gone in self._links.keys() - targets.keys():
            self._close(self._links.pop(gone))
        for each in targets:
            endpoint = Endpoint(
                each, server_name(self._province), profile.tls_ca.encode(), self._tls.current
            )
            if each in self._links:
                self._links[each].move(endpoint)
            else:
                self._links[each] = open_link(endpoint)
        data = request.SerializeToString()
        left = max(0.0, end - asyncio.get_running_loop().time())
        answers = await asyncio.gather(
            *(self._ask(each, self._links[each], data, request_id, left) for each in targets)
        )
        return [each for each in answers if each is not None]

    async def aclose(self) -> None:
        """Close every way."""
        for link in self._links.values():
            self._close(link, grace=None)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _targets(self, address: str, seconds: float) -> list[str]:
        """One for each server: gRPC would ask but one of those that a name stands for."""
        if not several(target(address)):
            return [target(address)]
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(seconds / 2):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError):
            self._fell_silent(address, "its name is not found")
            return []
        hosts = (str(to[0]) for _, _, _, _, to in found)
        return [target(f"[{to}]:{port}" if ":" in to else f"{to}:{port}") for to in hosts]

    async def _ask(
        self, address: str, link: Link, data: bytes, request_id: str, seconds: float
    ) -> pb.ListNodeAccessesResponse | None:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        try:
            method = link.channel.unary_unary(_LIST)
            answer = await method(data, timeout=seconds, metadata=(("x-request-id", request_id),))
            read = pb.ListNodeAccessesResponse.FromString(answer)
        except grpc.aio.AioRpcError as error:
            self._fell_silent(address, error.code().name)
        except grpc.aio.UsageError:  # it was closed meanwhile
            self._fell_silent(address, "the way is closed")
        except DecodeError:
            self._fell_silent(address, "its answer cannot be read")
        else:
            if address in self._silent:
                self._silent.remove(address)
                log.info("sibling.answers", address=address)
            return read
        return None

    def _fell_silent(self, address: str, why: str) -> None:
        if address not in self._silent:
            self._silent.add(address)
            log.warning("sibling.silent", address=address, why=why)

    def _close(self, link: Link, grace: float | None = _GRACE_SECONDS) -> None:
        task = asyncio.get_running_loop().create_task(link.close(grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
