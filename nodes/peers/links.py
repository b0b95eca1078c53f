"""The channels to the other provinces' nodes, and how calls over them have fared of late.

A client sees no peer identity (grpc), so a province's channel trusts that province's CA alone and
asks for that province's name: whoever answers is that province.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from typing import Final, Protocol

import grpc.aio
import structlog

from exchange.client.address import target
from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from nodes.identity import server_name
from nodes.peers.breaker import CircuitBreaker
from nodes.tlsfiles import TlsFiles

__all__ = ["LARGEST_ANSWER", "MOST_IN_FLIGHT", "Links", "Peer", "PeerLinks", "open_link"]

log = structlog.get_logger(__name__)

MOST_IN_FLIGHT: Final = 64
"""Calls to one peer at a time; more wait for their turn, within their own time."""

LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of one answer: a peer that lies in every one fills 256 MiB of memory at most."""

MOST_WAYS: Final = 4
"""Addresses of one province that a process calls in turn, chosen by lot. So all together call all,
and a node need not hold a connection to each process of each other node."""

_REST_SECONDS = 5.0
"""For how long an address is not called whose answer was late."""
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

    :param links: the ways to its nodes, one for each address.
    """

    __slots__ = (
        "_late",
        "_turn",
        "all_links",
        "breaker",
        "calls",
        "errors",
        "last_error",
        "latency",
        "province",
        "slots",
        "up",
    )

    def __init__(self, province: str, links: tuple[Link, ...]) -> None:
        self.province = province
        self.all_links = links
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
        self._turn = 0
        self._late: dict[Link, float] = {}
        """Until when a way is not taken, by the clock of the event loop."""

    @property
    def links(self) -> tuple[Link, ...]:
        """The ways, in the order in which a call tries them: the next one changes with each answer.

        Those that are down, or were late of late, come last.
        """
        if len(self.all_links) == 1:
            return self.all_links
        now = asyncio.get_running_loop().time()
        out = {each for each in self.all_links if each.down or self._late.get(each, now) > now}
        good = [each for each in self.all_links if each not in out]
        used, spare = good[:MOST_WAYS], good[MOST_WAYS:]
        turn = self._turn % max(1, len(used))
        bad = [each for each in self.all_links if each in out]
        return (*used[turn:], *used[:turn], *spare, *bad)

    @property
    def link(self) -> Link:
        """The way that a call takes first."""
        return self.links[0]

    @property
    def circuit_open(self) -> bool:
        """Whether the breaker keeps calls from it."""
        return self.breaker.open

    def replace(self, links: tuple[Link, ...]) -> None:
        """Take these ways in place of those before."""
        self.all_links = links
        self._late = {link: until for link, until in self._late.items() if link in links}

    def late(self, link: Link) -> None:
        """Note that another way answered sooner than this one, which had been asked before."""
        self._late[link] = asyncio.get_running_loop().time() + _REST_SECONDS

    def answered(self, seconds: float) -> None:
        """Note an answer.

        :param seconds: that it took.
        """
        self._turn += 1
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
        self._lot = random.random()  # noqa: S311 - so that all processes together call all addresses

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
            for link in self._peers.pop(code).all_links:
                self._close(link)
        for code, profile in wanted.items():
            self._point(code, self._endpoints(profile))

    def channels(self) -> list[tuple[str, grpc.aio.Channel]]:
        """Each peer's channel as it is now."""
        return [(code, peer.link.channel) for code, peer in self._peers.items()]

    async def close(self) -> None:
        """Close every channel."""
        links = [link for peer in self._peers.values() for link in peer.all_links]
        await asyncio.gather(*(link.close() for link in links))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _point(self, code: str, endpoints: Sequence[Endpoint]) -> None:
        """Make a peer's links lead to its endpoints; those that do already stay as they are."""
        peer = self._peers.get(code)
        if peer is None:
            self._peers[code] = Peer(code, tuple(map(open_link, endpoints)))
            return
        free = {link.endpoint.target: link for link in peer.all_links}
        leading = [free.pop(endpoint.target, None) for endpoint in endpoints]
        spare = list(free.values())
        links = []
        for endpoint, known in zip(endpoints, leading, strict=True):
            link = known or (spare.pop(0) if spare else open_link(endpoint))
            link.move(endpoint)
            links.append(link)
        for link in spare:
            self._close(link)
        peer.replace(tuple(links))

    def _close(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(link.close(_GRACE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _present(self, pair: Pair) -> None:
        """Go by a new certificate; each peer is called with the old one until it takes the new."""
        for peer in self._peers.values():
            for link in peer.all_links:
                link.move(dataclasses.replace(link.endpoint, pair=pair))

    def _endpoints(self, profile: Profile) -> list[Endpoint]:
        name, authorities = server_name(profile.province), profile.tls_ca.encode()
        addresses = list(dict.fromkeys(profile.addresses))
        addresses.sort(key=lambda address: hash((self._lot, address)))
        return [
            Endpoint(target(address), name, authorities, self._tls.current) for address in addresses
        ]


def open_link(endpoint: Endpoint) -> Link:
    """A channel to a node, made as all between nodes are."""
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
