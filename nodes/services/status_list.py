"""StatusListService: signed status lists (状态列表), the province's own and those of the others."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from weakref import WeakValueDictionary

from exchange import status, statuslist
from exchange.errors import (
    CallerNotAllowedError,
    MalformedObjectError,
    NotFoundError,
    TongxingError,
)
from exchange.keys import Signer
from exchange.trust.trustlist import TrustList
from exchange.v1 import status_list_service_pb2 as pb
from nodes.call import Call
from nodes.identity import Role

__all__ = ["PeerStatusLists", "StatusListService"]

_LARGEST_RELAYED = 48 * 1024
"""So that 64 of them fit into one gRPC message of 4 MiB; one of our making has 36 KiB at most."""


class PeerStatusLists(Protocol):
    """Who asks another province's node for its lists."""

    async def status_lists(self, province: str, uris: Sequence[str], call: Call) -> Sequence[bytes]:
        """One for each URI, in their order; empty bytes where the province gave none.

        :raises TongxingError: the province gave no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Signed:
    digest: bytes
    thumbprint: bytes
    at: datetime
    signed: bytes


class StatusListService:
    """Signs its own lists when they are asked for, and brings apps those of other provinces.

    :param own: the bits of one of the province's lists; None if it was never opened.
    :param signer: what signs now.
    :param ttl: for how long a list counts; it is signed anew at a quarter of that.
    :param remember: how many of its own lists it keeps signed.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["StatusListService"]

    def __init__(
        self,
        *,
        province: str,
        own: Callable[[int], Awaitable[bytes | None]],
        signer: Callable[[], Signer],
        peers: PeerStatusLists,
        trust: Callable[[], TrustList],
        ttl: timedelta,
        clock: Callable[[], datetime],
        remember: int = 512,
    ) -> None:
        self._province = province
        self._own = own
        self._signer = signer
        self._peers = peers
        self._trust = trust
        self._ttl = ttl
        self._clock = clock
        self._remember = remember
        self._remembered: OrderedDict[int, _Signed] = OrderedDict()
        self._signing: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        """Of each list that is asked for now; whoever waits for a lock keeps it."""

    async def batch_get_status_lists(
        self, request: pb.BatchGetStatusListsRequest, call: Call
    ) -> pb.BatchGetStatusListsResponse:
        """Some lists; one that cannot be had fails alone."""
        wanted: dict[str, dict[str, int]] = {}
        found: dict[str, bytes | TongxingError] = {}
        for index, uri in enumerate(request.uris):
            field = f"uris[{index}]"
            try:
                province, number = statuslist.parse_uri(uri)
                if province != self._province and call.caller.role is not Role.APP:
                    raise CallerNotAllowedError(
                        f"a list of {province}, and this node gives others those of "
                        f"{self._province} alone",
                        remedy="ask the province itself",
                    )
            except TongxingError as error:
                error.field = field
                found[uri] = error
            else:
                wanted.setdefault(province, {})[uri] = number
        answers = [
            self._own_lists(lists)
            if province == self._province
            else self._peer_lists(province, list(lists), call)
            for province, lists in wanted.items()
        ]
        for answer in await asyncio.gather(*answers):
            found |= answer
        return pb.BatchGetStatusListsResponse(
            items=[_item(found[uri], call.request_id) for uri in request.uris]
        )

    async def _own_lists(self, lists: dict[str, int]) -> dict[str, bytes | TongxingError]:
        found: dict[str, bytes | TongxingError] = {}
        for uri, number in lists.items():
            try:
                found[uri] = await self._own_list(number)
            except TongxingError as error:
                found[uri] = error
        return found

    async def _own_list(self, number: int) -> bytes:
        # One at a time of the same list, and the bits are read within: of two that sign it the
        # later has the later bits.
        async with self._signing.setdefault(number, asyncio.Lock()):
            bits = await self._own(number)
            if bits is None:
                raise NotFoundError("the province has no such list")
            signer, now = self._signer(), self._clock()
            digest, thumbprint = hashlib.sha256(bits).digest(), signer.public.thumbprint
            last = self._remembered.get(number)
            if (
                last is None
                or (last.digest, last.thumbprint) != (digest, thumbprint)
                or not timedelta() <= now - last.at < self._ttl / 4
            ):
                # In a thread: compressing a crowded list takes some milliseconds.
                signed = await asyncio.to_thread(
                    statuslist.sign,
                    bits,
                    province=self._province,
                    number=number,
                    issued_at=now,
                    ttl=self._ttl,
                    signer=signer,
                )
                last = self._remembered[number] = _Signed(digest, thumbprint, now, signed)
            self._remembered.move_to_end(number)
            if len(self._remembered) > self._remember:
                self._remembered.popitem(last=False)
            return last.signed

    async def _peer_lists(
        self, province: str, uris: Sequence[str], call: Call
    ) -> dict[str, bytes | TongxingError]:
        try:
            answers = await self._peers.status_lists(province, uris, call)
            if len(answers) != len(uris):
                raise MalformedObjectError(f"{province} gave another number of lists than asked")
        except TongxingError as error:
            return dict.fromkeys(uris, error)
        # In a thread: a hostile list may take a millisecond to unpack, and here are up to 64.
        return await asyncio.to_thread(_judge, uris, answers, self._trust(), self._clock())


def _judge(
    uris: Sequence[str], answers: Sequence[bytes], trust: TrustList, now: datetime
) -> dict[str, bytes | TongxingError]:
    """What a peer sent, each verified: what does not verify goes no further."""
    judged: dict[str, bytes | TongxingError] = {}
    for uri, signed in zip(uris, answers, strict=True):
        try:
            if not signed:
                raise NotFoundError("the province gave no such list")
            if len(signed) > _LARGEST_RELAYED:
                raise MalformedObjectError("larger than a status list is")
            if statuslist.verify(signed, trust, now).uri != uri:
                raise MalformedObjectError("another list than was asked for", field="sub")
        except TongxingError as error:
            judged[uri] = error
        else:
            judged[uri] = signed
    return judged


def _item(found: bytes | TongxingError, request_id: str) -> pb.StatusListItem:
    if isinstance(found, bytes):
        return pb.StatusListItem(signed=found)
    return pb.StatusListItem(status=status.to_status(found, request_id=request_id))
