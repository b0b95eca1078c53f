"""What another province's node tells of itself, over whichever way leads there."""

from __future__ import annotations

import grpc
import pytest

from exchange.client.connection import UnreachableError
from exchange.client.link import Link
from exchange.v1 import peer_service_pb2 as pb
from nodes.peers.links import Peer
from nodes.peers.remote import ChannelRemote
from nodes.trial import free_ports

SICHUAN = "510000"


class Way(Link):
    """A way without TLS, which is not what is looked at here."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel


@pytest.fixture
async def ways():
    """Two ways to a province: nobody is at the first, a node at the other."""
    server = grpc.aio.server()

    async def watch(_request, _context):
        yield pb.WatchChangesResponse(cursor=bytes(32)).SerializeToString()

    handler = grpc.unary_stream_rpc_method_handler(watch)
    server.add_registered_method_handlers("tongxing.v1.PeerService", {"WatchChanges": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    (nobody,) = free_ports(1)
    made = [Way(grpc.aio.insecure_channel(f"127.0.0.1:{each}")) for each in (nobody, port)]
    yield made
    for each in made:
        await each.channel.close()
    await server.stop(0)


async def test_changes_are_heard_over_the_other_way_where_nobody_is_at_the_first(ways):
    peer = Peer(SICHUAN, tuple(ways))
    remote = ChannelRemote(SICHUAN, {SICHUAN: peer})
    with pytest.raises(UnreachableError):
        await anext(remote.watch(bytes(32)))
    assert (await anext(remote.watch(bytes(32)))).cursor == bytes(32)
    assert peer.link is ways[1]


async def test_a_line_that_broke_off_is_no_reason_to_take_the_other_way(ways):
    first, second = ways
    peer = Peer(SICHUAN, (second, first))
    remote = ChannelRemote(SICHUAN, {SICHUAN: peer})
    assert [each.cursor async for each in remote.watch(bytes(32))] == [bytes(32)]
    assert peer.link is second
