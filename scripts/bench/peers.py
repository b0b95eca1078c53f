"""Peers of what is served: bare grpc.aio servers, the same lookup as a team would write it, etcd.

All are held by the same mutual TLS as a node, or by none where no `Pair` is given, each in a
process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import redis.asyncio
import uvloop

from exchange.v1 import peer_service_pb2 as pb
from nodes.trial import free_ports

__all__ = ["PATH", "VENV", "BareServer", "Pair", "echo", "etcd", "plain", "web"]

PATH = "/bench.Peer/Answer"
VENV = Path(__file__).parents[2] / ".bench"
"""Where the peers' own dependencies are, which the project has no use for."""

_START_SECONDS = 20.0

_Handler = Callable[[bytes, object], Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """By what a server is held, and by what it holds its callers: PEM files."""

    certificate: Path
    key: Path
    authority: Path


def echo(answer: bytes) -> _Handler:
    """Answer every call with the same bytes, as many as the node's answer has; read nothing."""

    async def handle(request: bytes, context: object) -> bytes:
        del request, context
        return answer

    return handle


def plain(url: str) -> _Handler:
    """FetchAttestations written plainly: a pool of connections, the messages read and built.

    It checks nobody, and records nothing.
    """
    store: Any = redis.asyncio.Redis.from_url(url)

    async def handle(request: bytes, context: object) -> bytes:
        del context
        tokens = pb.FetchAttestationsRequest.FromString(request).subject_tokens
        found = [await store.hvals(b"s:{%b}" % token) for token in tokens]
        return pb.FetchAttestationsResponse(
            subjects=[pb.SubjectAttestations(signed_attestations=signed) for signed in found]
        ).SerializeToString()

    return handle


class BareServer:
    """A running grpc.aio server with one method: same loop, TLS and options as a node's door.

    :param make: makes the method's handler of ``argument``, in the server's process.
    """

    def __init__(self, pair: Pair | None, make: Callable[[Any], _Handler], argument: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, pair, make, argument), daemon=True
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
    pipe: Connection[Any, Any], pair: Pair | None, make: Callable[[Any], _Handler], argument: Any
) -> None:
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
        service, {method: grpc.unary_unary_rpc_method_handler(make(argument))}
    )
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.certificate.read_bytes())],
            pair.authority.read_bytes(),
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    pipe.send(port)
    loop = asyncio.get_running_loop()
    while not await loop.run_in_executor(None, pipe.poll, 0.2):
        pass
    await server.stop(1)


@contextlib.contextmanager
def web(pair: Pair | None, url: str) -> Iterator[tuple[str, int]]:
    """FastAPI on uvicorn (`web.py`), on the same store.

    :return: its address and its process.
    """
    (port,) = free_ports(1)
    options: dict[str, object] = {
        "app-dir": Path(__file__).parent,
        "port": port,
        "log-level": "warning",
    }
    if pair:
        options |= {
            "ssl-certfile": pair.certificate,
            "ssl-keyfile": pair.key,
            "ssl-ca-certs": pair.authority,
            "ssl-cert-reqs": 2,  # ssl.CERT_REQUIRED
        }
    command = [VENV / "bin" / "python", "-m", "uvicorn", "web:app", "--no-access-log"]
    with _running([*map(str, command), *_flags(options)], {"VALKEY_URL": url}) as pid:
        yield f"127.0.0.1:{port}", pid


@contextlib.contextmanager
def etcd(pair: Pair | None) -> Iterator[tuple[str, int]]:
    """An etcd of one member, with nothing in it.

    :return: its address and its process.
    """
    with tempfile.TemporaryDirectory() as data:
        port, for_peers = free_ports(2)
        here = f"{'https' if pair else 'http'}://127.0.0.1:{port}"
        peers = f"http://127.0.0.1:{for_peers}"
        options: dict[str, object] = {
            "data-dir": data,
            "listen-client-urls": here,
            "advertise-client-urls": here,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "enable-grpc-gateway": "false",
            "logger": "zap",
            "log-level": "error",
        }
        if pair:
            options |= {
                "cert-file": pair.certificate,
                "key-file": pair.key,
                "trusted-ca-file": pair.authority,
                "client-cert-auth": "true",
            }
        with _running(["etcd", *_flags(options)], {}) as pid:
            yield f"127.0.0.1:{port}", pid


def _flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


@contextlib.contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[int]:
    # What it says goes where the table goes: standard output has the figures alone.
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=sys.stderr
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
