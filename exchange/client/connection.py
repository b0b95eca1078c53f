"""A client's connection to its node: its calls, its errors, and the trust list behind it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from exchange import status, views
from exchange.client import address as addressing
from exchange.client.ending import Ending
from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair, PairFiles
from exchange.client.retries import Retries
from exchange.errors import (
    InternalError,
    StoreUnavailableError,
    TongxingError,
    UnknownIssuerError,
)
from exchange.provinces import PROVINCES, trust_domain
from exchange.trust.live import LiveTrust
from exchange.trust.trustlist import TrustList
from exchange.v1 import trust_service_pb2

__all__ = ["Connection", "UnreachableError", "WrongNodeError", "as_error"]

T = TypeVar("T")

_SERVICE = "/tongxing.v1."
_NOT_PROVEN = ("handshake failed", "hostname verification")
"""How gRPC's details tell that a server's certificate was not the one to expect."""
_ALERT = "_alert_"
"""And how, that it was the server who broke off."""
_PAUSE_SECONDS = 0.5
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    # Also how long what was sent may stay unacknowledged: a machine that is gone says nothing.
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_LOOK_SECONDS = 1.0
"""How often, at most, a call looks whether certificate or authority have changed."""
_GRACE_SECONDS = 30 * 60.0
"""What a stream has to end when its channel was replaced; a node's connections live as long."""


class UnreachableError(StoreUnavailableError):
    """The node does not answer."""

    reason = "UNREACHABLE"
    zh = "节点没有应答"


class WrongNodeError(TongxingError):
    """Who answers does not prove to be the province's node."""

    reason = "UNREACHABLE"
    zh = "节点身份不符"


class Connection:
    """A connection to a node, or to several of one province that are alike.

    Calls go to several in turn. One that is down is left out until it answers again, and what it
    takes with it is asked of the others, where the contract allows (`exchange.client.retries`).

    :param address: ``host:port`` of the node; of several, with commas between or as a list. A name
        stands for all that it resolves to.
    :param province: whose node it is: each must prove to be that province's.
    :param certificate: PEM of the caller's certificate; ``key`` of its key.
    :param trust: gives the verified trust list at each look.
    :param timeout: seconds that an answer may take, however often it is asked for.
    :param clock: gives the time, aware and in UTC.
    :raises InvalidFieldError: an address is none.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        province: str,
        certificate: bytes,
        key: bytes,
        trust: Callable[[], TrustList],
        timeout: float = 10.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._trust = trust
        self._clock = clock
        self._timeout = timeout
        self._province = province
        self._files: PairFiles | None = None
        self._seen: object = None
        self._look_at = -math.inf
        self._retries = Retries()
        self._addresses = addressing.read(address)
        authorities = trust().profile(province).tls_ca.encode()
        self._links = deque(
            Link(
                Endpoint(
                    target,
                    f"node.{trust_domain(province)}",
                    authorities,
                    Pair(certificate, key),
                ),
                options=_OPTIONS,
                patience=timeout,
                grace=_GRACE_SECONDS,
            )
            for target in addressing.targets(self._addresses)
        )

    @classmethod
    def from_files(
        cls,
        address: str | Sequence[str],
        *,
        province: str,
        certificate: Path,
        key: Path,
        trust: TrustList | Callable[[], TrustList],
    ) -> Self:
        """A client whose identity lies in PEM files, and which follows them when they change.

        :raises TongxingError: a file cannot be read, or the key is not the certificate's.
        """
        files = PairFiles(certificate, key)
        seen = files.fingerprint()
        pair = files.read()
        client = cls(
            address,
            province=province,
            certificate=pair.certificate,
            key=pair.key,
            trust=trust if callable(trust) else lambda: trust,
        )
        client._files, client._seen = files, seen
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(link.close() for link in self._links))

    @property
    def _link(self) -> Link:
        return self._links[0]

    @property
    def _channel(self) -> grpc.aio.Channel:
        return self._link.channel

    async def _current_channel(self, seconds: float) -> grpc.aio.Channel:
        """The channel for one call; it begins a change of it, and waits only where it must.

        :param seconds: that it may wait at most.
        """
        now = asyncio.get_running_loop().time()
        if now - self._look_at >= _LOOK_SECONDS:
            self._look_at = now
            self._look()
        link = self._next()
        await link.settle(seconds)
        return link.channel

    def _next(self) -> Link:
        """Each link in its turn; one that has no connection only where none has."""
        if len(self._links) > 1:
            for _ in range(len(self._links) + 1):
                self._links.rotate(-1)
                if self._link.ready:
                    break
        return self._link

    def _look(self) -> None:
        """Rest on what holds now; whatever cannot be used stays as it was."""
        changes: dict[str, Any] = {}
        if self._files is not None and (seen := self._files.fingerprint()) != self._seen:
            # Half of a new pair is looked at again: `_seen` moves on with what is whole.
            with contextlib.suppress(TongxingError):
                changes["pair"] = self._files.read()
                self._seen = seen
        with contextlib.suppress(TongxingError):
            changes["authorities"] = self._trust().profile(self._province).tls_ca.encode()
        for link in self._links:
            link.move(dataclasses.replace(link.endpoint, **changes))

    async def call(
        self, method: str, request: Any, response: type[Any], *, seconds: float | None = None
    ) -> Any:
        """Call a unary method; those of admins are in `exchange.client.admin`.

        :param method: service and method: ``KeyService/ListKeys``.
        :param request: its message; ``response`` is the class of the answer.
        :param seconds: that the answer may take, where not as long as any.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        time = asyncio.get_running_loop().time
        end = time() + (seconds or self._timeout)
        tries = 0
        while True:
            tries += 1
            try:
                answer = await self._try(method, request, response, end)
            except grpc.aio.AioRpcError as error:
                found = self._error(error)
                pause = self._retries.pause(method, found, error.code(), tries)
                if pause is None or time() + pause >= end:
                    if tries > 1:
                        found.message += f" (tried {tries} times 已试{tries}次)"
                    raise found from None
            else:
                self._retries.answered()
                return answer
            await asyncio.sleep(pause)

    async def _try(self, method: str, request: Any, response: type[Any], end: float) -> Any:
        time = asyncio.get_running_loop().time
        channel = await self._current_channel(end - time())
        call = channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await call(request, timeout=max(0.0, end - time()))

    async def stream(
        self, method: str, request: Any, response: type[Any]
    ) -> AsyncGenerator[Any, None]:
        """Call a method that answers with a stream, for as long as it lasts.

        :param method: service and method; ``request`` and ``response`` as for `call`.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        channel = await self._current_channel(self._timeout)
        call = channel.unary_stream(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()  # who reads no further does not let the node go on

    async def stream_both(
        self, method: str, requests: AsyncIterator[Any], request: type[Any], response: type[Any]
    ) -> AsyncGenerator[Any, None]:
        """Call a method that takes a stream and answers with one.

        :param method: service and method; ``request`` is the class of what is sent.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        channel = await self._current_channel(self._timeout)
        call = channel.stream_stream(
            _SERVICE + method,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )(requests)
        ending = Ending(call)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._error(await ending.error(error, patience=self._timeout)) from None

    async def refresh_trust(self) -> bool:
        """Fetch what is new in the trust list from the node, where the list is a `LiveTrust`.

        :returns: whether anything was new.
        :raises TongxingError: the node does not answer, or what it gave does not verify.
        """
        if not isinstance(self._trust, LiveTrust):
            return False
        answer = await self.call(
            "TrustService/GetTrustMetadata",
            trust_service_pb2.GetTrustMetadataRequest(
                have=views.versions_to_proto(self._trust.versions)
            ),
            trust_service_pb2.GetTrustMetadataResponse,
        )
        return await self._trust.offer(views.files_from_proto(answer.files))

    async def follow_trust(self) -> None:
        """Keep a `LiveTrust` fresh, for ever: for a task of the app's own.

        Connections end, nodes restart, and a list may not verify: it asks again, and until then
        what was held serves on. An app that knows an old authority alone finds no way back to its
        node, so this runs for as long as the app does.
        """
        if not isinstance(self._trust, LiveTrust):
            raise TypeError("the client was given a trust list that does not change")
        while True:
            with contextlib.suppress(TongxingError):
                await self._watch_trust(self._trust)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _watch_trust(self, trust: LiveTrust) -> None:
        answers = self.stream(
            "TrustService/WatchTrust",
            trust_service_pb2.WatchTrustRequest(have=views.versions_to_proto(trust.versions)),
            trust_service_pb2.WatchTrustResponse,
        )
        async for answer in answers:
            if answer.files:
                await trust.offer(views.files_from_proto(answer.files))

    async def _by_newest_trust(self, check: Callable[[], T]) -> T:
        """Check; a key that is not known here may have been published a moment ago."""
        trust = self._trust()
        try:
            return check()
        except UnknownIssuerError:
            await self.refresh_trust()
            if self._trust() is trust:  # another call may have brought it meanwhile
                raise
            return check()

    def _error(self, error: grpc.aio.AioRpcError) -> TongxingError:
        details = (error.details() or "").lower()
        if _ALERT not in details and any(sign in details for sign in _NOT_PROVEN):
            zh = PROVINCES[self._province].zh
            return WrongNodeError(
                f"the node at {', '.join(self._addresses)} did not prove to be "
                f"{self._province}'s ({zh})",
                remedy="check the node's address, the province and the trust list",
            )
        return as_error(error)


def as_error(error: grpc.aio.AioRpcError) -> TongxingError:
    """The exchange's error behind a gRPC error."""
    ours = status.from_trailers(error.trailing_metadata())
    if ours is not None:
        return ours
    code = grpc.StatusCode
    # The caller's own cancelling is never an AioRpcError: it was the node that let go of the call,
    # which outlived its drain.
    if error.code() is code.CANCELLED:
        return UnreachableError(
            "the node ended the call, for it is going away",
            remedy="try again when it serves again",
        )
    # A node's own fault carries details; without them INTERNAL is how gRPC's core may report a
    # stream that broke.
    if error.code() in (code.UNAVAILABLE, code.DEADLINE_EXCEEDED, code.INTERNAL):
        return UnreachableError(
            f"the node does not answer: {error.details()}",
            remedy="is it running, and does it trust this certificate?",
        )
    return InternalError(f"{error.code().name}: {error.details()}")
