"""The services that every gRPC server has: health (grpc.health.v1) and reflection (v1alpha)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from exchange.errors import NotFoundError

if TYPE_CHECKING:
    from nodes.call import Call

__all__ = ["HealthService", "ReflectionService"]

_STATES = health_pb2.HealthCheckResponse


class HealthService:
    """Says whether the server takes calls; it knows itself alone, by the empty name."""

    descriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Say from now on that the server takes no more calls."""
        self._draining.set()

    async def check(self, request: Any, call: Call) -> Any:
        """How the server is.

        :raises NotFoundError: another service than the server itself is meant.
        """
        del call
        if request.service:
            raise NotFoundError("health is told of the whole server", field="service")
        return self._answer()

    async def list(self, request: Any, call: Call) -> Any:
        """How all is that there is."""
        del request, call
        return health_pb2.HealthListResponse(statuses={"": self._answer()})

    async def watch(self, request: Any, call: Call) -> AsyncIterator[Any]:
        """How the server is, and every change."""
        del call
        if request.service:
            yield _STATES(status=_STATES.SERVICE_UNKNOWN)
        elif not self._draining.is_set():
            yield self._answer()
        await self._draining.wait()
        if not request.service:
            yield self._answer()

    def _answer(self) -> Any:
        drains = self._draining.is_set()
        return _STATES(status=_STATES.NOT_SERVING if drains else _STATES.SERVING)


class ReflectionService:
    """Gives out the contract.

    :param names: of the services that the server has beside this one.
    """

    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

    def __init__(self, names: Iterable[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME])

    async def server_reflection_info(
        self, requests: AsyncIterator[Any], call: Call
    ) -> AsyncIterator[Any]:
        """What is asked for, one answer a question."""
        del call
        async for answer in self._servicer.ServerReflectionInfo(requests, None):
            yield answer
