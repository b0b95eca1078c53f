"""The reference door: grpc.aio over mutual TLS.

Every handler is wrapped once, when it is registered (an aio interceptor costs 15 % a call). What a
wrapped handler does is the same for all: who calls, may they, read, check, serve, answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message

from exchange import status
from exchange.client.pair import Pair
from exchange.errors import CallerNotAllowedError, NoIdentityError
from exchange.trust.trustlist import TrustList
from nodes.call import Call
from nodes.doors.calls import (
    LARGEST_REQUEST,
    Method,
    Reception,
    Service,
    refusal,
    request_id,
)
from nodes.doors.shares import MOST, TARGET_SECONDS, Shares
from nodes.identity import Role
from nodes.listening import copies, hear, hide, not_listenable, over, shut
from nodes.tlsfiles import TlsFiles

__all__ = ["GrpcioDoor"]

_WAITING = 2 * MOST, 5 * MOST // 2
"""Calls that wait until Python takes them: from the first number on, gRPC ends by chance some of
those that come, from the second on all, and says nothing but CANCELLED. It is dear to say more:
grpc.aio's refusal costs as much as a bare answer. By default it is 1,000 and 3,000, which all wait
longer than anybody waits for an answer."""
_RESERVED = "overload.reserved_listen"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HANDS_SECONDS: Final = 0.3
"""That a connection which was asked for before may take until it is there: a round trip, or two."""
_HANDSHAKE_SECONDS: Final = 1.0
_ADMIT_SECONDS: Final = 0.2
"""That a call which has come may take to its handler."""
_DEAF_SECONDS: Final = 2.0
_HEAR_SECONDS: Final = 1.0
_READ_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.05

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    _Running = dict[Context, bool]
    """The calls that run: whether their callers have more to say."""


class GrpcioDoor:
    """Serves a node's services on one address.

    :param province: the node's own; None for a registry.
    :param listen: ``host:port``; port 0 takes a free one.
    :param tls: the node's certificate and key, shown to whoever connects; it follows them.
    :param connection_seconds: how long a connection lives, give or take a tenth: an authority that
        is withdrawn ends no connection by itself.
    :param connection_grace_seconds: how long calls under way then have.
    :param shared: whether other processes of the node listen on the address too.
    :param target_seconds: as of `Shares`.
    :param reserved: a second address, where apps are refused and nobody waits behind them: what
        gRPC ends before Python takes it, it ends without a look at who calls.
    """

    def __init__(
        self,
        *,
        province: str | None,
        listen: str,
        tls: TlsFiles,
        services: Iterable[Service],
        clock: Callable[[], datetime],
        connection_seconds: float = 30 * 60,
        connection_grace_seconds: float = 60,
        shared: bool = False,
        target_seconds: float = TARGET_SECONDS,
        reserved: str | None = None,
    ) -> None:
        self._shared = shared
        self._ports: list[int] = []
        self._running: _Running | None = {} if shared else None
        self._tls = tls
        tls.on_change(self._renew)
        self.shares = Shares(target_seconds)
        self._reception = Reception(province, services, clock, self.shares)
        self._roots = b""
        self._credentials: Any = None
        self._sharing: asyncio.Task[None] | None = None
        options = [
            # Two nodes on one port would each get half of the calls.
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", LARGEST_REQUEST),
            ("grpc.max_connection_age_ms", int(connection_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", int(connection_grace_seconds * 1000)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.server.max_pending_requests", _WAITING[0]),
            ("grpc.server.max_pending_requests_hard_limit", _WAITING[1]),
        ]
        self._servers = {
            field: (address, grpc.aio.server(options=options))
            for field, address in (("listen", listen), (_RESERVED, reserved))
            if address is not None
        }

    def follow(self, trust: TrustList) -> None:
        """Trust the authorities of the provinces in the list, for new connections and calls."""
        self._roots = self._reception.follow(trust)
        self._renew(self._tls.current)

    def _renew(self, pair: Pair) -> None:
        self._credentials = grpc.ssl_server_certificate_configuration(
            [(pair.key, pair.certificate)], root_certificates=self._roots
        )

    def _following(self) -> tuple[Any, Callable[[], Any]]:
        """The credentials that a server begins with, and what tells it of new ones.

        gRPC calls the second for each handshake, one after the other, on threads of its core: it
        must not block, and only hands over what lies ready. None, which spares building it again,
        if nothing is new since the last handshake.
        """
        handed_over = self._credentials

        def changed() -> Any:
            nonlocal handed_over
            credentials = self._credentials
            if credentials is handed_over:
                return None
            handed_over = credentials
            return credentials

        return handed_over, changed

    async def open(self) -> int:
        """Listen and serve.

        :returns: the port.
        :raises InvalidFieldError: the address cannot be listened on.
        """
        self._ports = [self._bind(field, *each) for field, each in self._servers.items()]
        for _, server in self._servers.values():
            await server.start()
        self._sharing = asyncio.create_task(self.shares.watch())
        return self._ports[0]

    def _bind(self, field: str, address: str, server: grpc.aio.Server) -> int:
        handlers: dict[str, dict[str, Handler]] = defaultdict(dict)
        for method in self._reception.methods:
            _, service, name = method.path.split("/")
            wrapped = _Wrapped(self._reception, method, self._running, reserved=field == _RESERVED)
            handlers[service][name] = wrapped.handler()
        for service, named in handlers.items():
            server.add_registered_method_handlers(service, named)
        try:
            port = server.add_secure_port(
                address,
                grpc.dynamic_ssl_server_credentials(
                    *self._following(), require_client_authentication=True
                ),
            )
        except RuntimeError:
            port = 0
        if not port:
            raise not_listenable(address, field)
        return port

    async def refused(self) -> dict[str, int]:
        """How many calls of each role found all places of their caller taken, since the start."""
        return dict(self.shares.refused)

    async def leave(self) -> None:
        """Let others have the new connections; `close` follows.

        Without effect where no other process shares the address.
        """
        if not self._shared:
            return
        hide(self._ports)
        await asyncio.sleep(_HANDS_SECONDS)
        shut(self._ports, socket.SHUT_RDWR, listening=True)
        await asyncio.sleep(_HANDSHAKE_SECONDS)

    async def close(self, grace: float) -> None:
        """Tell health checks, take no new calls, and give the running ones ``grace`` seconds."""
        self._reception.health.drain()
        if self._running is None:
            await self._stop(grace)
        else:
            await self._finish(self._running, grace)
            await self._end()
        if self._sharing:
            self._sharing.cancel()

    async def _stop(self, grace: float | None) -> None:
        await asyncio.gather(*(server.stop(grace) for _, server in self._servers.values()))

    async def _finish(self, running: _Running, seconds: float) -> None:
        """Wait until no call runs and none comes: then the server's end breaks none."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        streams = [each for each, speaks in running.items() if speaks]
        while any(each in running for each in streams) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        while not await self._quiet(running) and loop.time() < until:
            hear(self._ports)
            await asyncio.sleep(_HEAR_SECONDS)

    async def _quiet(self, running: _Running) -> bool:
        """Hear nothing new, and see whether all that runs ends meanwhile.

        What is said to a deaf connection has never come, and gRPC's clients say it to another once
        this one ends.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _DEAF_SECONDS
        hear(self._ports, only=())
        await asyncio.sleep(_ADMIT_SECONDS)
        while running and loop.time() < until:
            speak = {each.peer() for each, speaks in running.items() if speaks}
            hear(self._ports, only={int(peer.rpartition(":")[2]) for peer in speak})
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(_LOOK_SECONDS)  # the last answers leave
        return not running

    async def _end(self) -> None:
        """End the server, and let callers read that it does."""
        loop = asyncio.get_running_loop()
        left = copies(self._ports)
        await self._stop(None)
        until = loop.time() + _READ_SECONDS
        while not all(map(over, left)) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        for each in left:
            each.close()


class _Wrapped:
    """One method as a grpc.aio handler; on a reserved address, none for apps."""

    def __init__(
        self, reception: Reception, method: Method, running: _Running | None, *, reserved: bool
    ) -> None:
        self._reception = reception
        self._method = method
        self._running = running
        self._reserved = reserved

    def handler(self) -> Handler:
        """The handler around a service's method."""
        if self._method.takes_stream:
            each = self._stream(self._read_all)
            return grpc.stream_stream_rpc_method_handler(_counted_all(each, self._running, True))
        if self._method.gives_stream:
            each = self._stream(self._method.read)
            return grpc.unary_stream_rpc_method_handler(_counted_all(each, self._running, False))
        return grpc.unary_unary_rpc_method_handler(_counted(self._unary(), self._running))

    def _admit(self, context: Context, called_as: str) -> Call:
        try:
            # Never `peer_identities()`: the leaf says more than the names that gRPC takes from it.
            leaf = context.auth_context()["x509_pem_cert"][0]  # type: ignore[index]
        except (KeyError, IndexError):
            raise NoIdentityError("no client certificate") from None
        deadline = None
        remaining = context.time_remaining()
        if remaining is not None and remaining < 1e8:  # grpc: a huge number where there is none
            deadline = asyncio.get_running_loop().time() + remaining
        call = self._reception.admit(self._method, leaf, called_as, deadline)
        if self._reserved and call.caller.role is Role.APP:
            raise CallerNotAllowedError(
                "this address is not for apps", remedy="call the node's other one"
            )
        return call

    def _unary(self) -> Callable[[bytes, Context], Awaitable[bytes]]:
        method = self._method
        serve, read, shares = method.serve, method.read, self._reception.shares

        async def handle(data: bytes, context: Context) -> bytes:
            called_as = _request_id(context)
            try:
                call = self._admit(context, called_as)
                with shares.hold(call.caller):
                    answer = await serve(read(data), call)
                return answer if type(answer) is bytes else answer.SerializeToString()
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
                await _refuse(error, method.path, context, called_as)

        return handle

    async def _read_all(self, incoming: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for data in incoming:
            yield self._method.parse(data)

    def _stream(self, read: Callable[[Any], Any]) -> Callable[[Any, Context], AsyncIterator[bytes]]:
        method = self._method

        async def handle(incoming: Any, context: Context) -> AsyncIterator[bytes]:
            called_as = _request_id(context)
            try:
                call = self._admit(context, called_as)
                async for answer in method.serve(read(incoming), call):
                    yield answer if type(answer) is bytes else answer.SerializeToString()
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
                await _refuse(error, method.path, context, called_as)

        return handle


def _counted(
    handle: Callable[[bytes, Context], Awaitable[bytes]], running: _Running | None
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """The same, and each call is known for as long as it runs."""
    if running is None:
        return handle

    async def counted(data: bytes, context: Context) -> bytes:
        running[context] = False
        try:
            return await handle(data, context)
        finally:
            del running[context]

    return counted


def _counted_all(
    handle: Callable[[Any, Context], AsyncIterator[bytes]],
    running: _Running | None,
    speaks: bool,
) -> Callable[[Any, Context], AsyncIterator[bytes]]:
    if running is None:
        return handle

    async def counted(incoming: Any, context: Context) -> AsyncIterator[bytes]:
        running[context] = speaks
        try:
            async for answer in handle(incoming, context):
                yield answer
        finally:
            del running[context]

    return counted


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str):
            return request_id(value)
    return request_id(None)


async def _refuse(error: Exception, path: str, context: Context, called_as: str) -> NoReturn:
    """End the call with the error's status."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    answer = refusal(error, path, called_as)
    await context.abort(
        _CODES[answer.code],
        answer.message,
        trailing_metadata=((status.DETAILS_KEY, answer.SerializeToString()),),
    )
