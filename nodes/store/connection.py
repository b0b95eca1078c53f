"""One connection to the store, shared by all that run on the loop.

All commands of one loop tick leave in one write, and replies resolve futures in their order: at
some dozens of calls at once, a call costs a few microseconds. A pool of connections would cost a
task switch and a system call each.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
import structlog

from exchange.errors import StoreUnavailableError
from nodes.store.address import StoreAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Connection"]

log = structlog.get_logger(__name__)

Command = tuple[bytes, ...]

CONNECT_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = 2.0

_MORE: Final = object()
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # its stub knows no long tuple

CREDENTIALS = "correct the user and the password in store.url"
REFUSALS: Final = {
    "OOM": "give it more memory; nothing was lost",
    "MISCONF": "its disk is full or failing: read its log",
    "READONLY": "store.url names a replica: name the primary",
    "LOADING": "it is reading its data: try again soon",
    "NOAUTH": CREDENTIALS,
    "WRONGPASS": CREDENTIALS,
    "NOPERM": "its user lacks a permission that the node needs",
}


def _refusal(message: str) -> StoreUnavailableError:
    """Keep only an error reply's code: the rest may quote a key, and so a token."""
    code = message.partition(" ")[0]
    if code == "ERR" and "AUTH" in message:
        code = "WRONGPASS"  # a password where none is set
    if not (code.isascii() and code.isupper()):
        code = "ERR"
    return StoreUnavailableError(
        f"the store refused a command ({code})",
        remedy=REFUSALS.get(code, "see that it is Valkey 9 or Redis 8, or newer"),
    )


class _Batch:
    """The replies of a pipeline; refusals stand among them."""

    __slots__ = ("future", "missing", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], missing: int) -> None:
        self.future = future
        self.missing = missing
        self.replies: list[Any] = []

    def add(self, reply: Any) -> None:
        self.replies.append(reply)
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.replies)


class _Wire(asyncio.Protocol):
    """One socket's life. It never comes back: `Connection` makes a new one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, where: str, reply_seconds: float) -> None:
        self.on_lost: Callable[[], None] | None = None
        self.lost = False
        self._loop = loop
        self._where = where
        self._reply_seconds = reply_seconds
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(
            protocolError=ValueError, replyError=_refusal, notEnoughData=_MORE
        )
        self._out: list[bytes] = []
        self._pending: deque[asyncio.Future[Any] | _Batch] = deque()
        self._asked = 0
        self._answered = 0
        self._due: deque[tuple[float, int]] = deque()
        """For each write that waits: until when, and up to which command."""
        self._watch: asyncio.TimerHandle | None = None

    def execute(self, command: Command) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append(future)
        self._asked += 1
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_pack(command))
        return future

    def pipeline(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not commands:
            future.set_result([])
            return future
        self._pending.extend([_Batch(future, len(commands))] * len(commands))
        self._asked += len(commands)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.extend(map(_pack, commands))
        return future

    def _flush(self) -> None:
        if self.lost or self._transport is None:
            return
        self._transport.write(b"".join(self._out))
        self._out.clear()
        until = self._loop.time() + self._reply_seconds
        self._due.append((until, self._asked))
        if self._watch is None:
            self._watch = self._loop.call_at(until, self._check)

    def _check(self) -> None:
        self._watch = None
        if not self._due:
            return
        until = self._due[0][0]
        if until <= self._loop.time():
            self.end("does not answer in time", "see whether it is overloaded or its disk is slow")
        else:
            self._watch = self._loop.call_at(until, self._check)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        pending, gets = self._pending, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _MORE:
                sink = pending.popleft()
                self._answered += 1
                if isinstance(sink, _Batch):
                    sink.add(reply)
                elif sink.done():  # its caller gave up
                    continue
                elif isinstance(reply, StoreUnavailableError):
                    sink.set_exception(reply)
                else:
                    sink.set_result(reply)
        except (ValueError, IndexError):
            self.end("does not speak the Redis protocol", "correct store.url")
            return
        due = self._due
        while due and due[0][1] <= self._answered:
            due.popleft()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self.end("closed the connection", "")

    def end(self, what: str, remedy: str) -> None:
        """Close the socket; every call that waits fails at once."""
        if self.lost:
            return
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        for sink in self._pending:
            future = sink.future if isinstance(sink, _Batch) else sink
            if not future.done():
                future.set_exception(
                    StoreUnavailableError(f"the store at {self._where} {what}", remedy=remedy)
                )
        self._pending.clear()
        if self.on_lost is not None:
            self.on_lost()


class Connection:
    """A connection that comes back by itself. While it is down, calls fail at once."""

    def __init__(self, address: StoreAddress, reply_seconds: float) -> None:
        self._address = address
        self._reply_seconds = reply_seconds
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._closed = False
        self._returning: asyncio.Task[None] | None = None
        self.lives = 0
        """How often it was made. A server that came back may have lost the last that it heard."""

    @classmethod
    async def open(cls, url: str, *, reply_seconds: float = 2.0) -> Connection:
        """Connect, authenticate, select the database, and wait for a first answer.

        :param url: `StoreAddress.parse` has the forms.
        :param reply_seconds: that a reply may take before its call fails and the connection,
            whose later replies nobody could tell apart, is made anew.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no such server, or it refuses the node.
        """
        connection = cls(StoreAddress.parse(url), reply_seconds)
        await connection._connect()
        return connection

    async def close(self) -> None:
        """Close; calls that wait fail."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait({self._returning})
        if self._wire is not None:
            self._wire.end("is being closed", "")

    def execute(self, *command: bytes) -> asyncio.Future[Any]:
        """Send one command in this tick's write.

        :return: the reply, as hiredis gives it: bytes, int, None or a list.
        :raises StoreUnavailableError: in the future: no answer in time, no connection, a refusal.
        """
        if self._wire is None:
            return self._down()
        return self._wire.execute(command)

    def pipeline(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send many commands; one future for all of their replies.

        :return: a reply for each command. A refused one has its StoreUnavailableError *in the
            list*; without an answer the future itself fails.
        """
        if self._wire is None:
            return self._down()
        return self._wire.pipeline(commands)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Do `pipeline` where all must be done.

        :return: a reply for each command.
        :raises StoreUnavailableError: one was refused, though others may be done; or no answer.
        """
        replies = await self.pipeline(commands)
        for reply in replies:
            if isinstance(reply, StoreUnavailableError):
                raise reply
        return replies

    def _down(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(
            StoreUnavailableError(f"no connection to the store at {self._address}")
        )
        return future

    async def _connect(self) -> None:
        wire = await self._dial()
        if wire.lost:
            raise StoreUnavailableError(f"the store at {self._address} closed the connection")
        wire.on_lost = self._on_lost
        self._wire = wire
        self.lives += 1

    async def _dial(self) -> _Wire:
        address = self._address
        wire = _Wire(self._loop, str(address), self._reply_seconds)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.path:
                    await self._loop.create_unix_connection(lambda: wire, address.path)
                else:
                    await self._loop.create_connection(
                        lambda: wire, address.host, address.port, ssl=address.tls
                    )
                await self._greet(wire)
        except (OSError, UnicodeError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            wire.end("is given up", "")
            why = getattr(error, "strerror", None) or "no answer"
            raise StoreUnavailableError(
                f"cannot connect to the store at {address} ({why})",
                remedy="start it, or correct store.url",
            ) from error
        except BaseException:
            wire.end("is given up", "")
            raise
        return wire

    async def _greet(self, wire: _Wire) -> None:
        commands: list[Command] = [(b"PING",)]
        if self._address.database:
            commands.insert(0, (b"SELECT", b"%d" % self._address.database))
        if self._address.password:
            names = (self._address.username, self._address.password)
            commands.insert(0, (b"AUTH", *(name.encode() for name in names if name)))
        for reply in await wire.pipeline(commands):
            if isinstance(reply, StoreUnavailableError):
                raise reply

    def _on_lost(self) -> None:
        self._wire = None
        if not self._closed:
            log.warning("store.lost", store=str(self._address))
            self._returning = self._loop.create_task(self._return())

    async def _return(self) -> None:
        pause, said = 0.02, ""
        while True:
            try:
                await self._connect()
            except StoreUnavailableError as error:
                if said != (said := str(error)):
                    log.warning("store.unreachable", store=str(self._address), error=said)
            else:
                log.info("store.back", store=str(self._address))
                return
            # Nodes that lost one server must not all come back in one instant.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, LONGEST_PAUSE)
