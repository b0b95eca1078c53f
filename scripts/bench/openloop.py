"""Load that waits for nobody: a call goes out when it is due, whatever has returned (open loop).

Who sends the next call when the last is answered slows down with the server, and never sees the
worst of it (coordinated omission). Here a call's time counts from when it was due. They are due as
people come who know nothing of each other (Poisson).

It speaks as much HTTP/2 as that takes (RFC 9113), and reads no header: of a unary gRPC call's
answers, those that are no refusal have a DATA frame. So a call costs it few microseconds, also at
some times what the server can bear.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import itertools
import random
import selectors
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from scripts.bench.target import Target, tls

__all__ = ["Outcome", "ask", "run"]

_CONNECTIONS = 4
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_CANCEL = (8).to_bytes(4, "big")
_MOST = 2**31 - 1
_OPENING_SECONDS = 10.0


class _Kind(enum.IntEnum):
    """Of frames (RFC 9113 §6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    WINDOW_UPDATE = 8


@dataclass(slots=True)
class Outcome:
    """What became of the calls; times are in seconds."""

    seconds: float
    in_time: list[float] = field(default_factory=list)
    """How long each took that was answered by its deadline."""
    refused: int = 0
    late: int = 0
    behind: list[float] = field(default_factory=list)
    """How late each was sent: the fault of the load, not of the server."""


def run(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, deadline: float
) -> Outcome:
    """Do `ask` in a process that does nothing else."""
    gc.disable()  # its pauses would count as the server's
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(ask(target, requests, rate, seconds, deadline))
    finally:
        gc.enable()


def _loop() -> asyncio.AbstractEventLoop:
    # epoll wakes at whole milliseconds, and uvloop too; select(2) at microseconds.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def ask(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, deadline: float
) -> Outcome:
    """Call with one request after another, so often a second on average.

    :param deadline: seconds that each call has, which the server is told; then it is cancelled.
    :raises RuntimeError: the server ended a connection.
    """
    loop = asyncio.get_running_loop()
    outcome = Outcome(seconds)
    host, _, port = target.address.rpartition(":")
    connections = []
    for _ in range(_CONNECTIONS):
        _, connection = await loop.create_connection(
            lambda: _Connection(target, deadline, outcome),
            *(host, int(port)),
            ssl=tls(target, "h2"),
            server_hostname=target.server_name,
        )
        connections.append(connection)
        async with asyncio.timeout(_OPENING_SECONDS):
            await connection.opened.wait()
    turn = itertools.cycle(connections)
    bodies = itertools.cycle(b"\x00" + len(each).to_bytes(4, "big") + each for each in requests)
    gap = random.Random(1).expovariate  # noqa: S311 - nothing is secret, and each run is alike
    due = loop.time()
    end = due + seconds
    while due < end:
        now = loop.time()
        while due <= min(now, end):
            next(turn).waiting.append((due, next(bodies)))
            outcome.behind.append(now - due)
            due += gap(rate)
        for connection in connections:
            connection.send(now)
        await asyncio.sleep(max(0.0, due - loop.time()))
    while any(connection.busy for connection in connections):
        await asyncio.sleep(0.001)
        for connection in connections:
            connection.send(loop.time())
    for connection in connections:
        connection.close()
    return outcome


class _Connection(asyncio.Protocol):
    def __init__(self, target: Target, deadline: float, outcome: Outcome) -> None:
        self.opened = asyncio.Event()
        self.waiting: deque[tuple[float, bytes]] = deque()
        """When each call was due that is not sent yet, and its body."""
        self._due: dict[int, float] = {}
        """The streams under way, the oldest first."""
        self._answered: set[int] = set()
        self._outcome = outcome
        self._deadline = deadline
        self._time = asyncio.get_running_loop().time
        self._headers = _headers(target, deadline)
        self._buffer = bytearray()
        self._stream = 1
        self._window = 65_535
        self._most = _MOST
        self._lost = False

    @property
    def busy(self) -> bool:
        return bool(self._due or self.waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # No table for headers that are not read (1), no pushes (2), all the room for answers (4).
        settings = {1: 0, 2: 0, 4: _MOST}
        payload = b"".join(
            name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings.items()
        )
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_Kind.SETTINGS, 0, 0, payload)
            + _frame(_Kind.WINDOW_UPDATE, 0, 0, (_MOST - 65_535).to_bytes(4, "big"))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._lost = True

    def close(self) -> None:
        self._transport.abort()

    def send(self, now: float) -> None:
        """Send what is due and may be sent; cancel what has passed its deadline."""
        if self._lost:
            raise RuntimeError("the server ended a connection")
        out: list[bytes] = []
        while self._due and now - self._due[stream := next(iter(self._due))] > self._deadline:
            del self._due[stream]
            self._outcome.late += 1
            out.append(_frame(_Kind.RST_STREAM, 0, stream, _CANCEL))
        while self.waiting and len(self._due) < self._most:
            due, body = self.waiting[0]
            if now - due > self._deadline:
                self._outcome.late += 1
            elif len(body) > self._window:
                break
            else:
                out.append(_frame(_Kind.HEADERS, _END_HEADERS, self._stream, self._headers))
                out.append(_frame(_Kind.DATA, _END_STREAM, self._stream, body))
                self._due[self._stream] = due
                self._stream += 2
                self._window -= len(body)
            self.waiting.popleft()
        if out:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        now = self._time()
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) < end:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._take(kind, flags, stream, bytes(buffer[at + 9 : end]), now)
            at = end
        del buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        match kind:
            case _Kind.DATA:
                self._answered.add(stream)
            case _Kind.HEADERS if flags & _END_STREAM:
                self._end(stream, now)
            case _Kind.RST_STREAM:
                self._answered.discard(stream)
                self._end(stream, now)
            case _Kind.SETTINGS if not flags & _ACK:
                settings = {
                    int.from_bytes(payload[at : at + 2], "big"): payload[at + 2 : at + 6]
                    for at in range(0, len(payload), 6)
                }
                if 3 in settings:  # streams at once
                    self._most = int.from_bytes(settings[3], "big")
                self._transport.write(_frame(_Kind.SETTINGS, _ACK, 0, b""))
                self.opened.set()
            case _Kind.PING if not flags & _ACK:
                self._transport.write(_frame(_Kind.PING, _ACK, 0, payload))
            case _Kind.WINDOW_UPDATE if not stream:
                self._window += int.from_bytes(payload, "big")

    def _end(self, stream: int, now: float) -> None:
        answered = stream in self._answered
        self._answered.discard(stream)
        if (due := self._due.pop(stream, None)) is None:  # it was cancelled
            return
        took = now - due
        if took > self._deadline:
            self._outcome.late += 1
        elif answered:
            self._outcome.in_time.append(took)
        else:
            self._outcome.refused += 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = bytes((kind, flags)) + stream.to_bytes(4, "big")
    return len(payload).to_bytes(3, "big") + head + payload


def _headers(target: Target, deadline: float) -> bytes:
    """The header block of every call: literals that enter no table (HPACK, RFC 7541 §6.2.2)."""
    return b"\x83\x87" + b"".join(  # POST, https
        name + _string(value)
        for name, value in (
            (b"\x04", target.path),
            (b"\x01", target.server_name),  # authority
            (b"\x0f\x10", "application/grpc"),  # content-type
            (b"\x00" + _string("te"), "trailers"),
            (b"\x00" + _string("grpc-timeout"), f"{deadline * 1000:.0f}m"),
        )
    )


def _string(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()
