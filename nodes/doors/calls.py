"""What a call is, whatever door it comes through: its method, its caller, its refusal."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, status_pb2

from exchange import status
from exchange.errors import (
    DeadlineError,
    InternalError,
    InvalidFieldError,
    OverloadedError,
    TongxingError,
)
from exchange.trust.trustlist import TrustList
from nodes.authorization import Authorization
from nodes.call import Call
from nodes.doors.shares import MESSAGE, REMEDY, Shares
from nodes.doors.standard import HealthService, ReflectionService
from nodes.identity import IdentityVerifier
from nodes.services.validation import check

__all__ = [
    "LARGEST_REQUEST",
    "Method",
    "Reception",
    "Service",
    "refusal",
    "refusals",
    "request_id",
]

log = structlog.get_logger(__name__)

LARGEST_REQUEST = 4 * 1024 * 1024
"""Bytes of one message."""
_random = random.Random()  # noqa: S311 - a request id is no secret, and os.urandom costs 1 µs
_DELAYS = tuple(0.5 + 0.25 * step for step in range(8))
"""Seconds after which who was refused may come back."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Service(Protocol):
    """What a door carries: its descriptor, and a coroutine a method by its name in snake_case."""

    @property
    def descriptor(self) -> ServiceDescriptor:
        """The proto service."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    :param path: ``/tongxing.v1.PeerService/FetchAttestations``.
    :param serve: the service's coroutine, from a request and a `Call` to an answer; where either
        side is a stream, an asynchronous iterator of answers.
    :param request: the message's class.
    :param takes_stream: the caller sends many messages.
    :param gives_stream: it answers with many.
    :param standard: whoever has an identity in the exchange may call it.
    """

    path: str
    serve: Callable[..., Any]
    request: type[Message]
    takes_stream: bool
    gives_stream: bool
    standard: bool

    def parse(self, data: bytes) -> Message:
        """A message of a stream. The service checks it, so that a bad item fails alone.

        :raises InvalidFieldError: it is none.
        """
        try:
            return self.request.FromString(data)
        except DecodeError:
            raise InvalidFieldError("the request is not the contract's message") from None

    def read(self, data: bytes) -> Message:
        """The one message of a call, held against the contract's rules.

        :raises InvalidFieldError: it is none, or breaks a rule.
        """
        request = self.parse(data)
        check(request)
        return request


class Reception:
    """Receives calls for a door: the methods that there are, who calls, and whether they may.

    :param province: the node's own; None for a registry.
    :param shares: whom a call is held against, before it is served.
    """

    def __init__(
        self,
        province: str | None,
        services: Iterable[Service],
        clock: Callable[[], datetime],
        shares: Shares,
    ) -> None:
        contract = tuple(services)
        self._province = province
        self._clock = clock
        self._log = log.bind()  # once: to find out what is logged costs more than not to log it
        self._authorization = Authorization(province, [each.descriptor for each in contract])
        self._identities = IdentityVerifier({})
        self.shares = shares
        self.health = HealthService()
        standard: list[Service] = [self.health]
        names = [each.descriptor.full_name for each in (*contract, *standard)]
        standard.append(ReflectionService(names))
        self.methods = [
            *(each for service in contract for each in _methods(service, standard=False)),
            *(each for service in standard for each in _methods(service, standard=True)),
        ]

    def follow(self, trust: TrustList) -> bytes:
        """Know the callers of the provinces in the list.

        :returns: their authorities, PEM: who else connects is refused in the handshake.
        """
        authorities = {code: profile.tls_ca.encode() for code, profile in trust.profiles.items()}
        self._identities = IdentityVerifier(authorities)
        return self._identities.pool(first=self._province)

    def admit(
        self, method: Method, leaf: bytes, called_as: str, deadline: float | None = None
    ) -> Call:
        """Let a call in.

        :param leaf: the caller's certificate, PEM, as the handshake verified it. Pooled authorities
            let one province's speak for another, so it is held against its own province's here.
        :param called_as: the request id.
        :param deadline: until when the caller waits, in the event loop's time; None for ever.
        :raises TongxingError: the caller is nobody, or may not.
        """
        caller = self._identities.identify(leaf, self._clock())
        self._log.debug(
            "call", method=method.path, request_id=called_as, of=caller.province, role=caller.role
        )
        if not method.standard:
            self._authorization.check(method.path, caller)
        return Call(caller, called_as, deadline)


def _methods(service: Service, *, standard: bool) -> Iterable[Method]:
    for method in service.descriptor.methods:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
        yield Method(
            f"/{service.descriptor.full_name}/{method.name}",
            getattr(service, name),
            message_factory.GetMessageClass(method.input_type),
            method.client_streaming,
            method.server_streaming,
            standard,
        )


def request_id(given: str | None) -> str:
    """The caller's ``x-request-id`` where it is fit to be logged, or a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_random.getrandbits(64):016x}"


def refusal(error: Exception, path: str, called_as: str) -> status_pb2.Status:
    """The status that an error ends a call with; what an operator should see of it is logged."""
    if isinstance(error, ExceptionGroup):
        return refusal(error.exceptions[0], path, called_as)
    if isinstance(error, TimeoutError):
        error = DeadlineError("the deadline passed")
    if not isinstance(error, TongxingError):
        log.error("call.failed", method=path, request_id=called_as, exc_info=error)
        error = InternalError("a fault of the node", remedy=f"ask its operator about {called_as}")
    if isinstance(error, OverloadedError):
        # Made once, and not logged: to refuse must cost little, or no time is left to answer.
        return _overloaded(error.message, error.remedy, error.field, _random.choice(_DELAYS))
    answer = status.to_status(error, request_id=called_as)
    level = log.error if answer.code == code_pb2.INTERNAL else log.info
    level("call.refused", method=path, request_id=called_as, reason=error.reason, why=str(error))
    return answer


def refusals() -> list[status_pb2.Status]:
    """How who is beyond its share is refused: with one of some delays, or all came back at once."""
    return [_overloaded(MESSAGE, REMEDY, "", delay) for delay in _DELAYS]


@functools.lru_cache(maxsize=256)
def _overloaded(message: str, remedy: str, field: str, delay: float) -> status_pb2.Status:
    error = OverloadedError(message, field=field, remedy=remedy)
    error.retry_after = delay
    return status.to_status(error)
