"""What another province's node tells of itself, over its channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from exchange.client.connection import UnreachableError, as_error
from exchange.client.link import Link
from exchange.errors import CursorExpiredError, MalformedObjectError, TongxingError
from exchange.v1 import peer_service_pb2 as pb
from exchange.v1 import status_list_service_pb2 as lists_pb
from nodes.call import Call
from nodes.peers.links import Links, Peer
from nodes.peers.received import PRESENCE_SECONDS

__all__ = ["ChannelRemote", "Remotes"]

M = TypeVar("M", bound=Message)

LARGEST_MESSAGE: Final = 2 * 1024 * 1024
"""Bytes: a piece of a filter has 1 MiB, and changes are sent in far smaller ones."""

_SERVICE: Final = "/tongxing.v1.PeerService/"
_STATUS_LISTS: Final = "/tongxing.v1.StatusListService/BatchGetStatusLists"


class ChannelRemote:
    """A peer behind its channel, as it is at each call (`nodes.peers.sync.Remote`)."""

    def __init__(self, province: str, links: Links) -> None:
        self._province = province
        self._links = links

    def watch(self, cursor: bytes) -> AsyncGenerator[pb.WatchChangesResponse]:
        """What changes after a cursor.

        :raises CursorExpiredError: it cannot be continued from there.
        :raises TongxingError: the peer, or the line, failed.
        """
        request = pb.WatchChangesRequest(cursor=cursor)
        return self._messages("WatchChanges", request, pb.WatchChangesResponse, None)

    def presence(self) -> AsyncGenerator[pb.GetPresenceResponse]:
        """The whole state.

        :raises TongxingError: the peer, or the line, failed.
        """
        request = pb.GetPresenceRequest()
        return self._messages("GetPresence", request, pb.GetPresenceResponse, PRESENCE_SECONDS)

    async def _messages(
        self, method: str, request: Message, answer: type[M], seconds: float | None
    ) -> AsyncGenerator[M]:
        channel = _peer(self._links, self._province).link.channel
        try:
            # Without a deserializer: gRPC logs a traceback where one fails, and goes on.
            calls: Any = channel.unary_stream(_SERVICE + method)
            call = calls(request.SerializeToString(), timeout=seconds)
        except grpc.aio.UsageError:
            raise _gone() from None
        try:
            while (data := await _read(call)) is not grpc.aio.EOF:
                if len(data) > LARGEST_MESSAGE:
                    raise MalformedObjectError("a message is far too large")
                try:
                    message = answer.FromString(data)
                except DecodeError:
                    raise _unreadable() from None
                yield message
        finally:
            call.cancel()


class Remotes:
    """The peers, by province.

    :param timeout: seconds that one has for its status lists, at most.
    """

    def __init__(self, links: Links, timeout: float) -> None:
        self._links = links
        self._timeout = timeout

    def __call__(self, province: str) -> ChannelRemote:
        """Give one; its channel may come and go."""
        return ChannelRemote(province, self._links)

    async def status_lists(self, province: str, uris: Sequence[str], call: Call) -> list[bytes]:
        """Get a province's own status lists.

        :param uris: 1 to 64.
        :param call: for whom: its deadline bounds how long the peer is waited for.
        :return: what it signed, one for each URI in their order; b"" where it gave none.
        :raises TongxingError: it gave no answer.
        """
        peer = _peer(self._links, province)
        if peer.circuit_open:
            raise UnreachableError("the province is not called: it failed too often of late")
        time = asyncio.get_running_loop().time
        end = time() + call.budget(time(), self._timeout)
        data = lists_pb.BatchGetStatusListsRequest(uris=uris).SerializeToString()
        first, *others = peer.links
        try:
            items = await _lists(first, data, call, end - time())
        except UnreachableError:
            if not others:
                raise
            items = await _lists(others[0], data, call, end - time())
        if len(items) != len(uris):
            raise _unreadable()
        return [item.signed for item in items]


async def _lists(
    link: Link, request: bytes, call: Call, seconds: float
) -> Sequence[lists_pb.StatusListItem]:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    try:
        method = link.channel.unary_unary(_STATUS_LISTS)
        data = await method(
            request, timeout=max(0.0, seconds), metadata=(("x-request-id", call.request_id),)
        )
        return lists_pb.BatchGetStatusListsResponse.FromString(data).items
    except grpc.aio.AioRpcError as error:
        raise _in_our_words(error) from None
    except grpc.aio.UsageError:
        raise _gone() from None
    except DecodeError:
        raise _unreadable() from None


async def _read(call: Any) -> Any:
    try:
        return await call.read()
    except grpc.aio.AioRpcError as error:
        raise _in_our_words(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _gone() from None  # the channel was closed, and not this task cancelled


def _in_our_words(error: grpc.aio.AioRpcError) -> TongxingError:
    """What went wrong. The peer's own text might name a holder, and would stand in our log."""
    theirs = as_error(error)
    if isinstance(theirs, CursorExpiredError):
        return CursorExpiredError("it says that its changes cannot be continued from there")
    return UnreachableError(f"the call ended as {error.code().name} ({theirs.reason})")


def _peer(links: Links, province: str) -> Peer:
    peer = links.get(province)
    if peer is None:
        raise _gone()
    return peer


def _gone() -> UnreachableError:
    return UnreachableError("the way to the province is closed")


def _unreadable() -> MalformedObjectError:
    return MalformedObjectError("what it answers cannot be read")
