"""The courier (申诉投递): brings appeals to the provinces that answer them, and fetches answers.

Both are one call, ExchangeAppeals: an appeal is brought again to ask how it stands. What is new
goes at once; what waits for its answer is asked about in turns, so that thousands of them cost a
province one call a round.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from exchange import appeals, status
from exchange.appeals import Answer, Filed
from exchange.client.connection import UnreachableError
from exchange.errors import (
    MalformedObjectError,
    OverloadedError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.v1 import appeal_service_pb2 as pb
from nodes.peers.links import Links

__all__ = ["AppealCourier", "Box"]

log = structlog.get_logger(__name__)

_EXCHANGE: Final = "/tongxing.v1.AppealService/ExchangeAppeals"

AT_ONCE: Final = 100
"""Appeals in one call, by the contract."""

LARGEST_CALL: Final = 3 * 1024 * 1024
"""Bytes: a door takes 4 MiB, and each appeal may bear a receipt of 64 KiB."""

CALL_SECONDS: Final = 10.0
"""The answering node holds each appeal against its store and verifies its receipt."""

VISIT_SECONDS: Final = 20.0
"""What one province may take of a round: the others wait for its end."""

GATHER_SECONDS: Final = 0.1
"""How long filings gather that go together: who files without end makes no round without end."""

LONGEST_PAUSE: Final = 12
"""A province that does not answer is tried again after so many polls' time at most."""


class Box(Protocol):
    """What was filed here (`nodes.store.appeals.AppealStore`)."""

    async def waiting(self) -> list[str]:
        """Name the provinces that are to have, or to answer, something."""
        ...

    async def batch(
        self, province: str, *, delivered: bool, after: bytes, most: int
    ) -> tuple[list[Filed], bytes]:
        """Give some of it, the oldest first, and where to go on."""
        ...

    async def settle(
        self, id_: bytes, *, delivered_at: datetime | None = None, answer: Answer | None = None
    ) -> object:
        """Note that one was delivered, or answered."""
        ...


@dataclass(slots=True)
class _Way:
    """How it stands with one province."""

    asked: bytes = b""
    """Up to where the round of asking has come."""
    ask_from: float = 0.0
    """When to ask again; what is filed meanwhile goes at once, and asks for nothing."""
    pause: float = 0.0
    not_before: float = 0.0
    why: str = ""
    """What went wrong last; empty while it answers."""
    refused: Counter[str] = field(default_factory=Counter)
    """Why, and how many times, it did not take something on the last visit."""


class AppealCourier:
    """Carries what `Box` holds, for as long as the node runs.

    :param links: the ways to the other provinces.
    :param clock: gives the time, aware and in UTC.
    :param poll_seconds: how often to ask for answers; a province that is away is asked less often.
    :param asks: whether it asks for answers, and tries again. Of several processes on one store,
        each brings what was filed with it; one does the rest, lest peers be asked by all of them.
        What two carry at once is taken once.
    """

    def __init__(
        self,
        box: Box,
        links: Links,
        clock: Callable[[], datetime],
        *,
        poll_seconds: float,
        asks: bool = True,
    ) -> None:
        self._box = box
        self._links = links
        self._clock = clock
        self._poll = poll_seconds
        self._asks = asks
        self._ways: dict[str, _Way] = {}
        self._woken = asyncio.Event()
        self._store_fails = False

    def wake(self) -> None:
        """Say that something was filed."""
        self._woken.set()

    async def run(self) -> None:
        """Carry, for ever."""
        while True:
            self._woken.clear()
            try:
                await self._round()
                self._store_fails = False
            except StoreUnavailableError as error:
                if not self._store_fails:
                    log.warning("appeals.store_away", why=str(error))
                self._store_fails = True
                await asyncio.sleep(self._poll)
                continue
            try:
                async with asyncio.timeout(self._poll if self._asks else None):
                    await self._woken.wait()
                    await asyncio.sleep(GATHER_SECONDS)
            except TimeoutError:
                pass

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        waiting = await self._box.waiting()
        ways = [(code, self._ways.setdefault(code, _Way())) for code in waiting]
        due = [(code, way) for code, way in ways if way.not_before <= now]
        results = await asyncio.gather(
            *(self._visit(code, way) for code, way in due), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _visit(self, province: str, way: _Way) -> None:
        """Bring a province what is new, and ask about some of what it has.

        :raises StoreUnavailableError: the own store failed.
        """
        refused: Counter[str] = Counter()
        try:
            async with asyncio.timeout(VISIT_SECONDS):
                await self._call_on(province, way, refused)
        except (UnreachableError, MalformedObjectError, OverloadedError) as error:
            self._failed(province, way, str(error))
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a peer sends, the others are served
            self._failed(province, way, type(error).__name__)
        else:
            if way.why:
                log.info("appeals.carried_again", province=province)
            way.pause, way.not_before, way.why = 0.0, 0.0, ""
        if refused and refused != way.refused:
            log.warning("appeals.not_taken", province=province, reasons=dict(refused))
        way.refused = refused

    async def _call_on(self, province: str, way: _Way, refused: Counter[str]) -> None:
        now = asyncio.get_running_loop().time()
        if self._asks and way.ask_from <= now:
            way.asked = await self._bring(province, way.asked, refused, delivered=True)
            way.ask_from = now + self._poll
        after = await self._bring(province, b"", refused, delivered=False)
        while after:
            after = await self._bring(province, after, refused, delivered=False)

    def _failed(self, province: str, way: _Way, why: str) -> None:
        if way.why != why:
            log.warning("appeals.not_carried", province=province, why=why)
        way.why = why
        way.pause = min(max(way.pause * 2, self._poll), self._poll * LONGEST_PAUSE)
        # Nodes that lost one province must not all come back in one instant.
        pause = way.pause * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        way.not_before = asyncio.get_running_loop().time() + pause

    async def _bring(
        self, province: str, after: bytes, refused: Counter[str], *, delivered: bool
    ) -> bytes:
        """Bring some, and note what became of them; where to go on, b"" at the end.

        :param refused: counts why some were not taken.
        :raises OverloadedError: the province takes no more for now.
        """
        batch, end = await self._box.batch(province, delivered=delivered, after=after, most=AT_ONCE)
        for part in _parts(batch):
            items = await self._call(province, part)
            for sent, item in zip(part, items, strict=True):
                if item.status.code == code_pb2.OK:
                    why = await self._take_over(province, sent, item.appeal)
                else:
                    why = await self._end(sent, status.from_status(item.status))
                if why:
                    refused[why] += 1
        if refused[OverloadedError.reason]:
            raise OverloadedError("it takes no more appeals for now")
        return end

    async def _call(
        self, province: str, batch: Sequence[pb.FiledAppeal]
    ) -> Sequence[pb.ExchangeAppealsItem]:
        """Call the province.

        :raises UnreachableError: it does not answer.
        :raises MalformedObjectError: its answer cannot be read.
        """
        peer = self._links.get(province)
        if peer is None:
            raise UnreachableError("the province is not in the trust list, or has no address")
        if peer.circuit_open:
            raise UnreachableError("the province is not called: it failed too often of late")
        request = pb.ExchangeAppealsRequest(appeals=batch).SerializeToString()
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        try:
            # Without a deserializer: gRPC logs a traceback where one fails.
            method = peer.link.channel.unary_unary(_EXCHANGE)
            metadata = (("x-request-id", secrets.token_hex(8)),)
            data = await method(request, timeout=CALL_SECONDS, metadata=metadata)
            items = pb.ExchangeAppealsResponse.FromString(data).items
        except grpc.aio.AioRpcError as error:
            raise UnreachableError(f"the call ended as {error.code().name}") from None
        except grpc.aio.UsageError:
            raise UnreachableError("the way to the province is closed") from None
        except DecodeError:
            raise MalformedObjectError("what it answers cannot be read") from None
        if len(items) != len(batch):
            raise MalformedObjectError("it answers for another number of appeals")
        return items

    async def _take_over(self, province: str, sent: pb.FiledAppeal, said: pb.Appeal) -> str:
        """Note what a province says of one appeal; why not, where it cannot be."""
        appeal = appeals.appeal_from_proto(sent.appeal)
        try:
            found = appeals.heard(appeal, said, now=self._clock())
        except TongxingError:
            return "UNREADABLE"
        if found != appeal:
            await self._box.settle(
                appeal.id.bytes, delivered_at=found.delivered_at, answer=found.answer
            )
            log.info(
                "appeals.stands", province=province, appeal=str(appeal.id), state=found.state.value
            )
        return ""

    async def _end(self, sent: pb.FiledAppeal, error: TongxingError) -> str:
        """End what a province will never take; what it has taken, it answers itself."""
        appeal = appeals.appeal_from_proto(sent.appeal)
        if appeal.delivered_at is None:
            answer = appeals.not_taken(appeal, error, now=self._clock())
            if answer is not None:
                await self._box.settle(appeal.id.bytes, answer=answer)
                log.info("appeals.ended", appeal=str(appeal.id), reason=error.reason)
        return error.reason


def _parts(batch: Sequence[Filed]) -> list[list[pb.FiledAppeal]]:
    """The messages, in calls that a door takes."""
    parts: list[list[pb.FiledAppeal]] = []
    room = 0
    for filed in batch:
        message = pb.FiledAppeal(
            appeal=appeals.appeal_to_proto(filed.appeal), subject_tokens=filed.tokens[:4]
        )
        size = message.ByteSize()
        if not parts or size > room:
            parts.append([])
            room = LARGEST_CALL
        parts[-1].append(message)
        room -= size
    return parts
