"""The load: h2load for unary calls, where it is there, else grpc.aio clients in processes of ours.

Such a client costs about as much CPU a call as a bare server: on two cores it competes with what it
measures. So every figure has its peer under the same load, names the load, and stands beside the
server's own CPU time a call, which the load does not touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import uvloop

from exchange.v1 import attestation_service_pb2
from scripts.bench.h2load import Crowd, H2load
from scripts.bench.target import CONNECTIONS, IN_FLIGHT, Ran, Target, tls

__all__ = ["Load"]

_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Load:
    """Calls servers.

    :param ours: even where h2load is there, the load is ours.
    """

    def __init__(self, *, ours: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        self._h2load: H2load | None = None
        self._turn = itertools.count()
        if missing := H2load.missing():
            print(f"no h2load: the load is grpc.aio's; apt-get install {missing}", file=sys.stderr)
        elif not ours:
            scratch = self._stack.enter_context(tempfile.TemporaryDirectory())
            self._h2load = H2load(Path(scratch))
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection[Any, Any]]] = []
        for _ in range(CONNECTIONS):
            here, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, here))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.join(10)
            process.kill()
        self._stack.close()

    @property
    def name(self) -> str:
        """What makes it."""
        return "h2load" if self._h2load else "grpc.aio"

    def calls(
        self,
        target: Target,
        requests: Sequence[bytes],
        seconds: float,
        in_flight: int = IN_FLIGHT,
    ) -> Ran:
        """Call a method for some seconds.

        Ours goes through all the requests; h2load knows one, so each round takes the next.
        """
        if self._h2load:
            request = requests[next(self._turn) % len(requests)]
            answer = self.once(target, request)
            return self._h2load.calls(target, request, answer, seconds, in_flight)
        for number, (_, pipe) in enumerate(self._workers):
            at = number * len(requests) // len(self._workers)
            pipe.send((_calls, target, (*requests[at:], *requests[:at]), seconds, in_flight))
        ran = [_answer(pipe) for _, pipe in self._workers]
        return Ran(sum(calls for calls, _ in ran), sum(calls / took for calls, took in ran))

    def crowd(
        self, target: Target, request: bytes, rate: float, seconds: float, deadline: float
    ) -> AbstractContextManager[Crowd]:
        """Call with one request so often a second, whatever comes back.

        :raises RuntimeError: there is no h2load: a client of ours would be what limits.
        """
        if self._h2load is None:
            raise RuntimeError("a crowd is h2load's")
        answer = self.once(target, request)
        return self._h2load.crowd(target, request, answer, rate, seconds, deadline)

    def once(self, target: Target, request: bytes) -> bytes:
        """One call, and its answer.

        :raises RuntimeError: it was refused.
        """
        if target.json:
            return _once_json(target, request)
        _, pipe = self._workers[0]
        pipe.send((_once, target, request))
        answer: bytes = _answer(pipe)
        return answer

    def publish(self, target: Target, requests: Sequence[bytes]) -> float:
        """Send all over one stream, from one process; answered items a second.

        :raises RuntimeError: an item was refused.
        """
        _, pipe = self._workers[0]
        pipe.send((_publish, target, requests))
        rate: float = _answer(pipe)
        return rate


def _once_json(target: Target, request: bytes) -> bytes:
    if target.certificate:
        context = tls(target, "http/1.1")
        context.check_hostname = False  # it is called by its address
        made = http.client.HTTPSConnection(target.address, timeout=10, context=context)
    else:
        made = http.client.HTTPConnection(target.address, timeout=10)
    with contextlib.closing(made) as connection:
        connection.request("POST", target.path, request, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"the load failed: HTTP {response.status}")
    return answer


def _answer(pipe: Connection[Any, Any]) -> Any:
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"the load failed: {answer}")  # noqa: TRY004 - a worker's message
    return answer


def _work(pipe: Connection[Any, Any]) -> None:
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection[Any, Any]) -> None:
    loop = asyncio.get_running_loop()
    channels: dict[Target, grpc.aio.Channel] = {}
    while True:
        try:
            work, target, *rest = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            break
        if target not in channels:
            channels[target] = _channel(target)
        try:
            answer = await work(channels[target], target.path, *rest)
        except (grpc.aio.AioRpcError, ValueError) as error:
            answer = str(error)
        pipe.send(answer)
    for channel in channels.values():
        await channel.close()


def _channel(target: Target) -> grpc.aio.Channel:
    if not target.certificate:
        return grpc.aio.insecure_channel(target.address)
    return grpc.aio.secure_channel(
        target.address,
        grpc.ssl_channel_credentials(target.authority, target.key, target.certificate),
        options=[
            ("grpc.ssl_target_name_override", target.server_name),
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
        ],
    )


async def _once(channel: grpc.aio.Channel, path: str, request: bytes) -> bytes:
    method: _Method = channel.unary_unary(path)
    return await method(request, timeout=10)


async def _calls(
    channel: grpc.aio.Channel, path: str, requests: Sequence[bytes], seconds: float, in_flight: int
) -> tuple[int, float]:
    method: _Method = channel.unary_unary(path)
    source = itertools.cycle(requests)
    began = time.perf_counter()
    end = began + seconds
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await method(next(source), timeout=10)
            calls += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return calls, time.perf_counter() - began


async def _publish(channel: grpc.aio.Channel, path: str, requests: Sequence[bytes]) -> float:
    async def source() -> AsyncIterator[bytes]:
        for request in requests:
            yield request

    began = time.perf_counter()
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    answers = [answer async for answer in method(source())]
    took = time.perf_counter() - began
    pb = attestation_service_pb2
    sent = _items(map(pb.PublishAttestationsRequest.FromString, requests))
    answered = _items(map(pb.PublishAttestationsResponse.FromString, answers))
    for item in answered:
        if item.status.code:
            raise ValueError(item.status.message)
    if len(answered) != len(sent):
        raise ValueError(f"{len(sent)} items sent, {len(answered)} answered")
    return len(sent) / took


def _items(messages: Iterable[Any]) -> list[Any]:
    return [item for message in messages for item in message.items or (message,)]
