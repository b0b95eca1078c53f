"""Load that waits for nobody: a call goes out when it is due, whatever has returned (open loop).

Who sends the next call when the last is answered slows down with the server, and never sees the
worst of it (coordinated omission). Here a call's time counts from when it was due. They are due as
people come who know nothing of each other (Poisson).

It speaks as much HTTP/2 as that takes (RFC 9113), and reads no header: of a unary gRPC call's
answers, those that are no refusal have a DATA frame. So a call costs it few microseconds, also at
some times what the server can bear.
"""

from __future__ import annotations

import enum
import gc
import itertools
import random
import select
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct, unpack_from
from time import perf_counter

from scripts.bench.target import Target, tls

__all__ = ["Outcome", "run"]

_CONNECTIONS = 4
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_CANCEL = (8).to_bytes(4, "big")
_STREAMS_AT_ONCE = 3
_MOST = 2**31 - 1
_HEAD = Struct(">BHBBI")
"""Of a frame: its length in two parts, kind, flags, stream (§4.1)."""
_OPENING_SECONDS = 10.0
_LOOK_SECONDS = 0.005
"""How often at least it is looked whether a deadline has passed."""


class _Kind(enum.IntEnum):
    """Of frames (§6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    WINDOW_UPDATE = 8


@dataclass(slots=True)
class Outcome:
    """What became of the calls that were due in some seconds; times are in seconds."""

    begin: float
    seconds: float
    deadline: float
    in_time: list[float] = field(default_factory=list)
    """How long each took that was answered by its deadline."""
    refused: int = 0
    late: int = 0
    behind: list[float] = field(default_factory=list)
    """How late each was sent: the fault of the load, not of the server."""

    def send(self, due: float, now: float) -> None:
        """Note that a call goes out."""
        if self._counts(due):
            self.behind.append(now - due)

    def end(self, due: float, now: float, *, answered: bool) -> None:
        """Note that a call came to its end."""
        took = now - due
        if not self._counts(due):
            return
        if took > self.deadline:
            self.late += 1
        elif answered:
            self.in_time.append(took)
        else:
            self.refused += 1

    def _counts(self, due: float) -> bool:
        return self.begin <= due < self.begin + self.seconds


def run(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, deadline: float
) -> Outcome:
    """Call with one request after another, so often a second on average.

    It needs a process, or at least a core, for itself. It begins before the seconds that count, and
    goes on after them, as long as the deadline is: the first calls meet a queue as long as it will
    be, and the last are not answered the sooner for want of others.

    :param deadline: seconds that each call has, which the server is told; then it is cancelled.
    :raises OSError: the server ended a connection.
    """
    connections = [_Connection(target, deadline) for _ in range(_CONNECTIONS)]
    gc.disable()  # its pauses would count as the server's
    try:
        outcome = Outcome(perf_counter() + deadline, seconds, deadline)
        _send(connections, requests, rate, outcome)
        return outcome
    finally:
        gc.enable()
        for connection in connections:
            connection.close()


def _send(
    connections: Sequence[_Connection], requests: Sequence[bytes], rate: float, outcome: Outcome
) -> None:
    turn = itertools.cycle(connections)
    bodies = itertools.cycle(b"\x00" + len(each).to_bytes(4, "big") + each for each in requests)
    gap = random.Random(1).expovariate  # noqa: S311 - nothing is secret, and each run is alike
    due = perf_counter()
    end = outcome.begin + outcome.seconds + outcome.deadline
    while due < end or any(connection.busy for connection in connections):
        now = perf_counter()
        while due < end and due <= now:
            next(turn).waiting.append((due, next(bodies)))
            outcome.send(due, now)
            due += gap(rate)
        for connection in connections:
            connection.send(now, outcome)
        full = [connection for connection in connections if connection.full]
        pause = _LOOK_SECONDS if due >= end else min(_LOOK_SECONDS, due - perf_counter())
        # It wakes at microseconds, where epoll, and so asyncio, wakes at milliseconds.
        for connection in select.select(connections, full, (), max(0.0, pause))[0]:
            connection.receive(outcome)


class _Connection:
    def __init__(self, target: Target, deadline: float) -> None:
        self.waiting: deque[tuple[float, bytes]] = deque()
        """When each call was due that is not sent yet, and its body."""
        self._due: dict[int, float] = {}
        """The streams under way, the oldest first."""
        self._answered: set[int] = set()
        self._deadline = deadline
        self._headers = _headers(target, deadline)
        self._in = b""
        self._out = bytearray()
        self._stream = 1
        self._window = 65_535
        self._most = 0
        self._ended: list[tuple[float, bool]] = []
        """Of each call that ended: when it was due, and whether it was answered."""
        self._socket = self._open(target)

    def _open(self, target: Target) -> ssl.SSLSocket:
        host, _, port = target.address.rpartition(":")
        plain = socket.create_connection((host, int(port)), _OPENING_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened = tls(target, "h2").wrap_socket(plain, server_hostname=target.server_name)
        # No table for headers that are not read (1), no pushes (2), all the room for answers (4).
        settings = {1: 0, 2: 0, 4: _MOST}
        payload = b"".join(
            name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings.items()
        )
        opened.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_Kind.SETTINGS, 0, 0, payload)
            + _frame(_Kind.WINDOW_UPDATE, 0, 0, (_MOST - 65_535).to_bytes(4, "big"))
        )
        while not self._most:
            self._feed(opened.recv(1 << 14))
        opened.setblocking(False)
        return opened

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    def close(self) -> None:
        """End it at once."""
        self._socket.close()

    @property
    def busy(self) -> bool:
        """Whether calls are under way, or wait."""
        return bool(self._due or self.waiting)

    @property
    def full(self) -> bool:
        """Whether the socket took less than there is to send."""
        return bool(self._out)

    def send(self, now: float, outcome: Outcome) -> None:
        """Send what is due and may be sent; cancel what has passed its deadline."""
        while self._due and now - self._due[stream := next(iter(self._due))] > self._deadline:
            outcome.end(self._due.pop(stream), now, answered=False)
            self._out += _frame(_Kind.RST_STREAM, 0, stream, _CANCEL)
        while self.waiting and len(self._due) < self._most:
            due, body = self.waiting[0]
            if now - due > self._deadline:
                outcome.end(due, now, answered=False)
            elif len(body) > self._window:
                break
            else:
                self._out += _frame(_Kind.HEADERS, _END_HEADERS, self._stream, self._headers)
                self._out += _frame(_Kind.DATA, _END_STREAM, self._stream, body)
                self._due[self._stream] = due
                self._stream += 2
                self._window -= len(body)
            self.waiting.popleft()
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass  # with the next

    def receive(self, outcome: Outcome) -> None:
        """Take what has come."""
        try:
            while True:
                self._feed(self._socket.recv(1 << 16))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # that was all
        now = perf_counter()
        for due, answered in self._ended:
            outcome.end(due, now, answered=answered)
        self._ended.clear()

    def _feed(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server ended a connection")
        data = self._in + data
        at = 0
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            end = begin + (high << 16 | low)
            if len(data) < end:
                break
            self._take(kind, flags, stream, data[begin:end])
            at = end
        self._in = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case _Kind.DATA:
                self._answered.add(stream)
            case _Kind.HEADERS if flags & _END_STREAM:
                self._end(stream, answered=stream in self._answered)
            case _Kind.RST_STREAM:
                self._end(stream, answered=False)
            case _Kind.SETTINGS if not flags & _ACK:
                pairs = [unpack_from(">HI", payload, at) for at in range(0, len(payload), 6)]
                self._most = dict(pairs).get(_STREAMS_AT_ONCE, self._most or _MOST)
                self._out += _frame(_Kind.SETTINGS, _ACK, 0, b"")
            case _Kind.PING if not flags & _ACK:
                self._out += _frame(_Kind.PING, _ACK, 0, payload)
            case _Kind.WINDOW_UPDATE if not stream:
                self._window += int.from_bytes(payload, "big")

    def _end(self, stream: int, *, answered: bool) -> None:
        self._answered.discard(stream)
        if (due := self._due.pop(stream, None)) is not None:  # else it was cancelled
            self._ended.append((due, answered))


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
