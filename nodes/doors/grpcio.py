"""The reference door: grpc.aio over mutual TLS.

Every handler is wrapped once, when it is registered (an aio interceptor costs 15 % a call). What a
wrapped handler does is the same for all: who calls, may they, read, check, serve, answer.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from exchange import status
from exchange.client.pair import Pair
from exchange.errors import (
    DeadlineError,
    InternalError,
    InvalidFieldError,
    NoIdentityError,
    TongxingError,
)
from exchange.trust.trustlist import TrustList
from nodes.authorization import Authorization
from nodes.call import Call
from nodes.identity import Identity, IdentityVerifier
from nodes.services.validation import check
from nodes.tlsfiles import TlsFiles

__all__ = ["GrpcioDoor", "Service"]

log = structlog.get_logger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LARGEST_REQUEST = 4 * 1024 * 1024

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class Service(Protocol):
    """What a door carries: its descriptor, and a coroutine a method by its name in snake_case."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """The proto service."""


class GrpcioDoor:
    """Serves a node's services on one address.

    :param province: the node's own; None for a registry.
    :param listen: ``host:port``; port 0 takes a free one.
    :param tls: the node's certificate and key, shown to whoever connects; it follows them.
    :param connection_seconds: how long a connection lives, give or take a tenth: an authority that
        is withdrawn ends no connection by itself.
    :param connection_grace_seconds: how long calls under way then have.
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
    ) -> None:
        self._listen = listen
        self._tls = tls
        tls.on_change(self._renew)
        self._province = province
        self._services = tuple(services)
        self._clock = clock
        self._authorization = Authorization(province, [s.descriptor for s in self._services])
        self._identities = IdentityVerifier({})
        self._roots = b""
        self._credentials: Any = None
        self._handed_over: Any = None
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                # Two nodes on one port would each get half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _LARGEST_REQUEST),
                ("grpc.max_connection_age_ms", int(connection_seconds * 1000)),
                ("grpc.max_connection_age_grace_ms", int(connection_grace_seconds * 1000)),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ]
        )

    def follow(self, trust: TrustList) -> None:
        """Trust the authorities of the provinces in the list, for new connections and calls."""
        authorities = {code: profile.tls_ca.encode() for code, profile in trust.profiles.items()}
        self._identities = IdentityVerifier(authorities)
        self._roots = self._identities.pool(first=self._province)
        self._renew(self._tls.current)

    def _renew(self, pair: Pair) -> None:
        self._credentials = grpc.ssl_server_certificate_configuration(
            [(pair.key, pair.certificate)], root_certificates=self._roots
        )

    def _changed_credentials(self) -> Any:
        """What is new since the last handshake; None, which spares building it again, if nothing.

        gRPC calls it for each handshake, one after the other, on threads of its core: it must not
        block, and only hands over what lies ready.
        """
        credentials = self._credentials
        if credentials is self._handed_over:
            return None
        self._handed_over = credentials
        return credentials

    async def open(self) -> int:
        """Listen and serve.

        :returns: the port.
        :raises InvalidFieldError: the address cannot be listened on.
        """
        for service in self._services:
            self._register(service)
        self._register_standard()
        self._handed_over = self._credentials
        try:
            port = self._server.add_secure_port(
                self._listen,
                grpc.dynamic_ssl_server_credentials(
                    self._handed_over,
                    self._changed_credentials,
                    require_client_authentication=True,
                ),
            )
        except RuntimeError:
            port = 0
        if not port:
            raise InvalidFieldError(
                f"cannot listen on {self._listen}", field="listen", remedy="is the port in use?"
            )
        await self._server.start()
        return port

    async def close(self, grace: float) -> None:
        """Tell health checks, take no new calls, and give the running ones ``grace`` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _register(self, service: Service) -> None:
        handlers = {}
        for method in service.descriptor.methods:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
            serve = getattr(service, name)
            wrapped = _Wrapped(self, f"/{service.descriptor.full_name}/{method.name}", method)
            handlers[method.name] = wrapped.handler(serve)
        self._server.add_registered_method_handlers(service.descriptor.full_name, handlers)

    def _register_standard(self) -> None:
        """Health and reflection, for whoever has an identity in the exchange."""
        collector = _Collector()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, collector)
        names = [service.descriptor.full_name for service in self._services]
        names += [health.SERVICE_NAME, reflection.SERVICE_NAME]
        # `enable_server_reflection` would take the collector for a server with threads.
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names), collector
        )
        for name, handlers in collector.handlers.items():
            admitted = {
                method: _admitted(handler, self.identify) for method, handler in handlers.items()
            }
            self._server.add_registered_method_handlers(name, admitted)

    def identify(self, context: Context) -> Identity:
        """The caller, by its certificate.

        Never by ``peer_identities()``: pooled roots let one province's authority speak for
        another, so the leaf is held against its own province's authority.
        """
        try:
            leaf = context.auth_context()["x509_pem_cert"][0]  # type: ignore[index]
        except (KeyError, IndexError):
            raise NoIdentityError("no client certificate") from None
        return self._identities.identify(leaf, self._clock())

    def admit(self, path: str, context: Context, request_id: str) -> Call:
        """Who calls, and whether they may."""
        caller = self.identify(context)
        log.debug("call", method=path, request_id=request_id, of=caller.province, role=caller.role)
        self._authorization.check(path, caller)
        remaining = context.time_remaining()
        deadline = None
        if remaining is not None and remaining < 1e8:  # grpc: a huge number where there is none
            deadline = asyncio.get_running_loop().time() + remaining
        return Call(caller, request_id, deadline)


class _Wrapped:
    """One method of the contract as a grpc.aio handler."""

    def __init__(self, door: GrpcioDoor, path: str, method: MethodDescriptor) -> None:
        self._door = door
        self._path = path
        self._method = method
        self._request = message_factory.GetMessageClass(method.input_type)

    def handler(self, serve: Callable[..., Any]) -> Handler:
        """The handler around a service's method."""
        if self._method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(serve, self._read_all))
        if self._method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(serve, self._read))
        return grpc.unary_unary_rpc_method_handler(self._unary(serve))

    def _unary(
        self, serve: Callable[[Any, Call], Awaitable[Message | bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        door, path = self._door, self._path

        async def handle(data: bytes, context: Context) -> bytes:
            request_id = _request_id(context)
            try:
                call = door.admit(path, context, request_id)
                answer = await serve(self._read(data), call)
                return answer if type(answer) is bytes else answer.SerializeToString()  # type: ignore[union-attr]
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
                await _refuse(error, path, context, request_id)

        return handle

    def _read(self, data: bytes) -> Message:
        request = _parsed(self._request, data)
        check(request)
        return request

    async def _read_all(self, incoming: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        # The service checks what it reads, so that a bad item fails alone.
        async for data in incoming:
            yield _parsed(self._request, data)

    def _stream(
        self,
        serve: Callable[[Any, Call], AsyncIterator[Message | bytes]],
        read: Callable[[Any], Any],
    ) -> Callable[[Any, Context], AsyncIterator[bytes]]:
        door, path = self._door, self._path

        async def handle(incoming: Any, context: Context) -> AsyncIterator[bytes]:
            request_id = _request_id(context)
            try:
                call = door.admit(path, context, request_id)
                async for answer in serve(read(incoming), call):
                    yield answer if type(answer) is bytes else answer.SerializeToString()  # type: ignore[union-attr]
            except ExceptionGroup as group:
                await _refuse(group.exceptions[0], path, context, request_id)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
                await _refuse(error, path, context, request_id)

        return handle


def _parsed(request_class: type[Message], data: bytes) -> Message:
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise InvalidFieldError("the request is not the contract's message") from None


def _request_id(context: Context) -> str:
    """The caller's ``x-request-id``, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return os.urandom(8).hex()


async def _refuse(error: Exception, path: str, context: Context, request_id: str) -> NoReturn:
    """End the call with the error's status, and log what an operator should see."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, TimeoutError):
        error = DeadlineError("the deadline passed")
    if not isinstance(error, TongxingError):
        log.error("call.failed", method=path, request_id=request_id, exc_info=error)
        error = InternalError("a fault of the node", remedy=f"ask its operator about {request_id}")
    answer = status.to_status(error, request_id=request_id)
    level = log.error if answer.code == code_pb2.INTERNAL else log.info
    level("call.refused", method=path, request_id=request_id, reason=error.reason, why=str(error))
    await context.abort(
        _CODES[answer.code],
        answer.message,
        trailing_metadata=((status.DETAILS_KEY, answer.SerializeToString()),),
    )


class _Collector:
    """Takes the place of a server when standard services register their handlers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Mapping[str, Handler]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Not needed: the same handlers come by name."""

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, Handler]) -> None:
        """Keep a service's handlers."""
        self.handlers[name] = handlers


def _admitted(handler: Any, identify: Callable[[Context], Identity]) -> Handler:
    """A standard service's handler, for callers with an identity in the exchange."""

    async def admit(context: Context) -> None:
        try:
            identify(context)
        except TongxingError as error:
            await _refuse(error, "standard", context, os.urandom(8).hex())

    if handler.response_streaming:
        serve = handler.stream_stream or handler.unary_stream

        async def stream(request: Any, context: Context) -> None:
            await admit(context)
            answers = serve(request, context)
            if inspect.isawaitable(answers):  # Health.Watch, which writes by itself
                await answers
            else:
                async for answer in answers:
                    await context.write(answer)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)

    async def unary(request: Any, context: Context) -> Any:
        await admit(context)
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(
        unary, handler.request_deserializer, handler.response_serializer
    )
