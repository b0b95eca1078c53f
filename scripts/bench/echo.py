"""The peer of everything that is served: a bare grpc.aio server that does nothing.

Same loop, same TLS, same options as a node's door, in a process of its own; it answers every call
with the same bytes, as many as the node's answer has.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import uvloop

__all__ = ["PATH", "EchoServer"]

PATH = "/bench.Echo/Answer"


class EchoServer:
    """A running echo server.

    :param answer: what it answers.
    :param certificate: PEM, as ``key`` and ``authority``, by which it holds its callers.
    """

    def __init__(self, answer: bytes, certificate: bytes, key: bytes, authority: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, answer, certificate, key, authority), daemon=True
        )
        self._process.start()
        theirs.close()
        self.address = f"127.0.0.1:{self._pipe.recv()}"
        self.pid = self._process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()


def _run(*args: Any) -> None:
    uvloop.run(_serve(*args))


async def _serve(
    pipe: Connection, answer: bytes, certificate: bytes, key: bytes, authority: bytes
) -> None:
    async def handle(request: bytes, context: object) -> bytes:
        del request, context
        return answer

    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 4 * 1024 * 1024),
            ("grpc.max_connection_age_ms", 30 * 60 * 1000),
            ("grpc.max_connection_age_grace_ms", 60_000),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
    )
    service, method = PATH.strip("/").split("/")
    server.add_registered_method_handlers(
        service, {method: grpc.unary_unary_rpc_method_handler(handle)}
    )
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True),
    )
    await server.start()
    pipe.send(port)
    loop = asyncio.get_running_loop()
    while not await loop.run_in_executor(None, pipe.poll, 0.2):
        pass
    await server.stop(1)
