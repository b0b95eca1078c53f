"""A link moves to a new pair when a server has accepted it, and not before."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair
from nodes.identity import Identity, Role, issue, make_authority

NOW = datetime.now(UTC)
AUTHORITY = make_authority("510000", now=NOW, lifetime=timedelta(days=2))
APP = Identity("510000", Role.APP, "app")


def a_pair():
    return Pair(*issue(AUTHORITY, APP, now=NOW, lifetime=timedelta(days=1)))


@pytest.fixture
def nobody():
    """An endpoint where nobody answers, as between two connections or while a node restarts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        yield Endpoint(target, "node.510000.tongxing", AUTHORITY.certificate, a_pair())


async def moved(link, *, within):
    await asyncio.wait([link._moving], timeout=within)
    return link._moving is None


async def test_a_pair_that_no_server_has_accepted_replaces_none(nobody):
    link = Link(nobody, patience=0.05, grace=0)
    used = link.channel
    link.move(dataclasses.replace(nobody, pair=a_pair()))
    assert not await moved(link, within=0.5)
    assert link.channel is used
    await link.close()


async def test_a_server_that_is_no_longer_believed_is_left_after_patience(nobody):
    link = Link(nobody, patience=0.05, grace=0)
    used = link.channel
    link.move(dataclasses.replace(nobody, target="127.0.0.1:1"))
    assert await moved(link, within=10)
    assert link.channel is not used
    await link.close()


class Names(asyncio.DatagramProtocol):
    """A name server that answers every name with two addresses of this machine (RFC 1035)."""

    addresses = ("127.0.0.2", "127.0.0.3")

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, sender):
        question = data[12 : data.index(b"\0", 12) + 5]
        (kind,) = struct.unpack(">H", question[-4:-2])
        found = self.addresses if kind == 1 else ()  # A; of other kinds there is nothing
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        answers = b"".join(
            struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
            for address in found
        )
        self._transport.sendto(head + question + answers, sender)


async def test_calls_to_a_name_are_spread_over_all_that_it_stands_for():
    certificate, key = issue(
        AUTHORITY, Identity("510000", Role.NODE, "n"), now=NOW, lifetime=timedelta(hours=1)
    )
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    calls, servers, port = dict.fromkeys(Names.addresses, 0), [], 0
    for address in Names.addresses:

        async def answer(_, __, address=address):
            calls[address] += 1
            return b""

        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("s", {"m": handler}),)
        )
        port = server.add_secure_port(f"{address}:{port}", credentials)
        await server.start()
        servers.append(server)
    names, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Names, local_addr=("127.0.0.1", 0)
    )
    where = f"127.0.0.1:{names.get_extra_info('sockname')[1]}"
    target = f"dns://{where}/nodes.example:{port}"
    endpoint = Endpoint(target, "node.510000.tongxing", AUTHORITY.certificate, a_pair())
    link = Link(endpoint, patience=1, grace=0)
    async with asyncio.timeout(30):
        while min(calls.values()) < 10:
            await link.channel.unary_unary("/s/m")(b"", timeout=10)
    await link.close()
    names.close()
    for server in servers:
        await server.stop(None)
