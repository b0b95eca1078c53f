"""The channels to the other provinces' nodes, and how calls over them have fared of late.

A client sees no peer identity (grpc), so a province's channel trusts that province's CA alone and
asks for that province's name: whoever answers is that province.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Sequence
from typing import Final, Protocol

import grpc.aio
import structlog

from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from nodes.identity import server_name
from nodes.peers.breaker import CircuitBreaker
from nodes.tlsfiles import TlsFiles

__all__ = ["LARGEST_ANSWER", "MOST_IN_FLIGHT", "Links", "Peer", "PeerLinks"]

log = structlog.get_logger(__name__)

MOST_IN_FLIGHT: Final = 64
"""Calls to one peer at a time; more wait for their turn, within their own time."""

LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of one answer: a peer that lies in every one fills 256 MiB of memory at most."""

_PATIENCE_SECONDS = 5.0
"""How long a peer that moved, or changed its authority, is still called as before."""
_GRACE_SECONDS = 30.0
"""Longer than any call to a peer: what is under way on a replaced channel ends by itself."""


class Latency:
    """How long answers take, as TCP reckons when to send again (RFC 6298 §2)."""

    __slots__ = ("_deviation", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        """The smoothed mean; None: nothing is known."""
        self._deviation = 0.0

    def took(self, seconds: float) -> None:
        """Learn of an answer."""
        if self.seconds is None:
            self.seconds, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(seconds - self.seconds) - self._deviation) / 4
        self.seconds += (seconds - self.seconds) / 8

    @property
    def late(self) -> float | None:
        """Seconds after which an answer is later than nearly all; None: nothing is known."""
        return None if self.seconds is None else self.seconds + 4 * self._deviation


class Peer:
    """One other province: its channels, its breaker, and what became of the calls to it.

    :param links: the way to its node; where it has several addresses, also another way.
    """

    __slots__ = (
        "breaker",
        "calls",
        "errors",
        "last_error",
        "latency",
        "links",
        "province",
        "slots",
        "up",
    )

    def __init__(self, province: str, links: tuple[Link, ...]) -> None:
        self.province = province
        self.links = links
        self.breaker = CircuitBreaker()
        self.slots = asyncio.Semaphore(MOST_IN_FLIGHT)
        self.latency = Latency()
        self.calls = 0
        """Calls since the node started, also those made again or elsewhere."""
        self.errors = 0
        """Times that no usable answer came of them."""
        self.last_error = ""
        self.up = True
        """Whether it answered when it was last asked."""

    @property
    def link(self) -> Link:
        """The way that a call takes first."""
        return self.links[0]

    @property
    def circuit_open(self) -> bool:
        """Whether the breaker keeps calls from it."""
        return self.breaker.open

    def prefer(self, link: Link) -> None:
        """Take this way first from now on."""
        if link is not self.links[0] and link in self.links:
            self.links = (link, *(each for each in self.links if each is not link))

    def answered(self, seconds: float) -> None:
        """Note an answer.

        :param seconds: that it took.
        """
        self.breaker.succeeded()
        self.latency.took(seconds)
        if not self.up:
            self.up = True
            log.info("peer.answers", province=self.province)

    def unusable(self, why: str) -> None:
        """Note an answer that cannot be used: the peer is there, so its circuit stays closed."""
        self.errors += 1
        self.last_error = why
        log.warning("peer.unreadable", province=self.province, why=why)

    def silent(self, why: str) -> None:
        """Note that no answer came."""
        self.errors += 1
        self.last_error = why
        if self.up:
            self.up = False
            log.warning("peer.silent", province=self.province, code=why)


class Links(Protocol):
    """The ways to the peers, for who calls them (`PeerLinks`)."""

    def get(self, province: str, /) -> Peer | None:
        """One peer; None where there is none."""


class PeerLinks:
    """The peers: the other provinces in the trust list that have an address.

    :param province: this node's own province.
    :param tls: the node's certificate and key; it follows them.
    """

    def __init__(self, province: str, tls: TlsFiles) -> None:
        self._province = province
        self._tls = tls
        tls.on_change(self._present)
        self._peers: dict[str, Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, province: str) -> Peer | None:
        """A province's peer; None where it has no address that anybody vouches for."""
        return self._peers.get(province)

    def follow(self, trust: TrustList) -> None:
        """Open channels to who is new, move those of who has moved, close those of who has left."""
        wanted = {
            code: profile
            for code, profile in trust.profiles.items()
            if code != self._province and profile.addresses
        }
        for code in self._peers.keys() - wanted.keys():
            for link in self._peers.pop(code).links:
                self._close(link)
        for code, profile in wanted.items():
            self._point(code, self._endpoints(profile))

    def channels(self) -> list[tuple[str, grpc.aio.Channel]]:
        """Each peer's channel as it is now."""
        return [(code, peer.link.channel) for code, peer in self._peers.items()]

    async def close(self) -> None:
        """Close every channel."""
        links = [link for peer in self._peers.values() for link in peer.links]
        await asyncio.gather(*(link.close() for link in links))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _point(self, code: str, endpoints: Sequence[Endpoint]) -> None:
        """Make a peer's links lead to its endpoints; those that do already stay as they are."""
        peer = self._peers.get(code)
        if peer is None:
            self._peers[code] = Peer(code, tuple(map(_link, endpoints)))
            return
        free = list(peer.links)
        leading: list[Link | None] = []
        for endpoint in endpoints:
            link = next((each for each in free if each.endpoint.target == endpoint.target), None)
            if link is not None:
                free.remove(link)
            leading.append(link)
        links = []
        for endpoint, known in zip(endpoints, leading, strict=True):
            link = known or (free.pop(0) if free else None)
            if link is None:
                link = _link(endpoint)
            else:
                link.move(endpoint)
            links.append(link)
        for link in free:
            self._close(link)
        # The way that served best last time stays the first.
        links.sort(key=lambda link: peer.links.index(link) if link in peer.links else len(links))
        peer.links = tuple(links)

    def _close(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(link.close(_GRACE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _present(self, pair: Pair) -> None:
        """Go by a new certificate; each peer is called with the old one until it takes the new."""
        for peer in self._peers.values():
            for link in peer.links:
                link.move(dataclasses.replace(link.endpoint, pair=pair))

    def _endpoints(self, profile: Profile) -> list[Endpoint]:
        name, authorities = server_name(profile.province), profile.tls_ca.encode()
        return [
            Endpoint(target, name, authorities, self._tls.current)
            for target in _targets(profile.addresses)
        ]


def _link(endpoint: Endpoint) -> Link:
    return Link(
        endpoint,
        options=[
            ("grpc.max_receive_message_length", LARGEST_ANSWER),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.enable_retries", 0),
        ],
        patience=_PATIENCE_SECONDS,
        grace=_GRACE_SECONDS,
    )


def _targets(addresses: Sequence[str]) -> list[str]:
    """One gRPC target, or two that prefer different addresses where there are several.

    An IPv4 target names all of them, the preferred one first; by DNS, gRPC takes only one.
    """
    others = [*addresses[1:], addresses[0]]
    ways = [addresses, others] if len(set(addresses)) > 1 else [addresses[:1]]
    try:
        for address in addresses:
            ipaddress.IPv4Address(address.rpartition(":")[0])
    except ValueError:
        return [f"dns:///{way[0]}" for way in ways]
    return [f"ipv4:{','.join(way)}" for way in ways]
