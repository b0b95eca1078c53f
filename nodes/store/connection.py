"""One connection to a server of the store, shared by all that run on the loop.

All commands of one loop tick leave in one write, and replies resolve futures in their order: at
some dozens of calls at once, a call costs a few microseconds. A pool of connections would cost a
task switch and a system call each.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

import hiredis
import structlog

from exchange.errors import StoreUnavailableError
from nodes.store.address import StoreAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

__all__ = ["MARK", "Command", "Connection", "Place", "RefusalError", "Sink"]

log = structlog.get_logger(__name__)

Command = tuple[bytes, ...]

CONNECT_SECONDS: Final = 5.0
LONGEST_PAUSE: Final = 2.0

FSYNC_MILLISECONDS: Final = 5_000
"""That the disks of a server and its replicas have for a write."""

HEAR_MILLISECONDS: Final = 1_000
"""That replicas have to hear of a write, before they are asked for their disks. Asked in the same
breath, they answer before they have written, and again only a second later."""

MARK: Final = b"w"
"""WAITAOF waits for this connection's own writes alone. Where a batch finds what another process
has just written and changes nothing, one write to this key puts the wait behind the other's."""

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
    "MOVED": "it is a server of a cluster: write redis+cluster://… as store.url",
}


class RefusalError(StoreUnavailableError):
    """What a server said instead of an answer.

    :param code: its first word, or ERR.
    :param to: of MOVED and ASK: the slot and the address of the server that has it.
    """

    def __init__(self, code: str, to: str) -> None:
        super().__init__(
            f"the store refused a command ({code})",
            remedy=REFUSALS.get(code, "see that it is Valkey 9 or Redis 8, or newer"),
        )
        self.code = code
        self.to = to


def _refusal(message: str) -> RefusalError:
    """Keep only an error reply's code: the rest may quote a key, and so a token."""
    code, _, rest = message.partition(" ")
    if code == "ERR" and "AUTH" in message:
        code = "WRONGPASS"  # a password where none is set
    if not (code.isascii() and code.isupper()):
        code = "ERR"
    return RefusalError(code, rest if code in {"MOVED", "ASK"} else "")


def _few() -> StoreUnavailableError:
    return StoreUnavailableError(
        "too few replicas confirm that the write is on their disks",
        remedy="try again; see whether the replicas run, follow and have an append-only file, and "
        "how many store.replicas wants",
    )


class Place(NamedTuple):
    """Where a command was carried out: of which server, and in which of its connection's lives."""

    server: Connection
    life: int


class Sink:
    """What takes replies that are more than a future's result."""

    __slots__ = ()

    def add(self, reply: Any) -> None:
        """Take a reply, which may be a RefusalError."""
        raise NotImplementedError

    def fail(self, error: StoreUnavailableError) -> None:
        """Take that no reply will come."""
        raise NotImplementedError


class _Batch(Sink):
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

    def fail(self, error: StoreUnavailableError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Wire(asyncio.Protocol):
    """One socket's life. It never comes back: `Connection` makes a new one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        where: str,
        reply_seconds: float,
        refused: Callable[[str], RefusalError],
    ) -> None:
        self.on_lost: Callable[[], None] | None = None
        self.lost = False
        self._loop = loop
        self._where = where
        self._reply_seconds = reply_seconds
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(
            protocolError=ValueError, replyError=refused, notEnoughData=_MORE
        )
        self._out: list[bytes] = []
        self._pending: deque[asyncio.Future[Any] | Sink] = deque()
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
        self.send(commands, [_Batch(future, len(commands))] * len(commands))
        return future

    def send(self, commands: Sequence[Command], sinks: Iterable[Sink]) -> None:
        self._pending.extend(sinks)
        self._asked += len(commands)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.extend(map(_pack, commands))

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
                if isinstance(sink, Sink):
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
        self.end("closed the connection", "try again soon")

    def end(self, what: str, remedy: str) -> None:
        """Close the socket; every call that waits fails at once."""
        if self.lost:
            return
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self.on_lost is not None:
            self.on_lost()
        for sink in self._pending:
            error = StoreUnavailableError(f"the store at {self._where} {what}", remedy=remedy)
            if isinstance(sink, Sink):
                sink.fail(error)
            elif not sink.done():
                sink.set_exception(error)
        self._pending.clear()


class Connection:
    """A connection that comes back by itself. While it is down, calls fail at once.

    :param made: called whenever it was made.
    :param lost: called whenever it was lost, before its calls fail.
    """

    ordered: Final = True
    """What is sent later is carried out later, and lost before what was sent earlier."""

    _PRIMARY_ALONE: ClassVar[bool] = False
    """Whether another server is to be looked for where this one is a replica."""

    def __init__(
        self,
        address: StoreAddress,
        reply_seconds: float,
        *,
        made: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._reply_seconds = reply_seconds
        self._made = made
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._closed = False
        self._returning: asyncio.Task[None] | None = None
        self._doubted = True
        """Whether it may lack replicas: it did when it was last to confirm, or is new."""
        self.lives = 0
        """How often it was made. A server that came back may have lost the last that it heard."""

    @classmethod
    async def open(cls, url: str, *, reply_seconds: float = 2.0) -> Connection:
        """Connect, authenticate, select the database, and wait for a first answer.

        :param url: of one server; `StoreAddress.parse` has the forms.
        :param reply_seconds: that a reply may take before its call fails and the connection,
            whose later replies nobody could tell apart, is made anew.
        :raises InvalidFieldError: the URL (field ``store.url``).
        :raises StoreUnavailableError: no such server, or it refuses the node.
        """
        connection = cls(StoreAddress.parse(url), reply_seconds)
        await connection.connect()
        return connection

    @property
    def up(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._wire is not None

    @property
    def servers(self) -> tuple[Connection, ...]:
        """The servers that hold the keys: itself."""
        return (self,)

    @property
    def address(self) -> StoreAddress:
        """Of the server."""
        return self._address

    def start(self) -> None:
        """Connect in the background, and wait for nothing."""
        self._returning = self._loop.create_task(self._return())

    def leave(self, why: str) -> None:
        """End this life of the connection; calls that wait fail."""
        if self._wire is not None:
            self._wire.end(why, "try again soon")

    async def close(self) -> None:
        """Close; calls that wait fail."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait({self._returning})
        self.leave("is being closed")

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

    def send(self, commands: Sequence[Command], sinks: Iterable[Sink]) -> bool:
        """Send commands, whose replies go to a sink each; False where there is no connection."""
        if self._wire is None:
            return False
        self._wire.send(commands, sinks)
        return True

    async def trace(self, commands: Sequence[Command]) -> tuple[list[Any], list[Place]]:
        """Do `pipeline`, and tell where each command was carried out."""
        place = Place(self, self.lives)
        return await self.pipeline(commands), [place] * len(commands)

    async def durable(
        self, commands: Sequence[Command], replicas: int, behind: Sequence[Place] = ()
    ) -> list[Any]:
        """Do `pipeline`, and wait until all of it is on disk.

        :param replicas: on whose disks, too.
        :param behind: for each command, where one was carried out that must be on disk as well.
        :raises StoreUnavailableError: no answer, or no word that it is on disk.
        """
        if any(life != self.lives for _, life in set(behind)):
            raise self._gone()
        *replies, _ = await self.confirm(MARK, replicas, commands)
        return replies

    async def confirm(
        self, mark: bytes, replicas: int, commands: Sequence[Command] = ()
    ) -> list[Any]:
        """Send commands, and wait until this server has all on disk that it was told before.

        :param mark: a key of its own, which is written.
        :return: the replies to the commands, and to the write of the mark.
        :raises StoreUnavailableError: no answer, or no word that it is on disk.
        """
        if replicas and self._doubted:
            # To wait again and again for replicas that are away would hold everybody up.
            name, _, followers, *_ = await self.execute(b"ROLE")
            if name != b"master" or len(followers) < replicas:
                raise _few()
            self._doubted = False
        waits: list[Command] = [(b"WAITAOF", b"1", b"%d" % replicas, b"%d" % FSYNC_MILLISECONDS)]
        if replicas:
            waits.insert(0, (b"WAIT", b"%d" % replicas, b"%d" % HEAR_MILLISECONDS))
        replies = await self.pipeline([*commands, (b"SET", mark, b""), *waits])
        confirmed = replies.pop()
        if replicas:
            replies.pop()
        if isinstance(confirmed, StoreUnavailableError):
            raise replies[-1] if isinstance(replies[-1], StoreUnavailableError) else confirmed
        if confirmed[0] < 1:
            raise StoreUnavailableError(
                "the store did not confirm in time that the write is on disk",
                remedy="see whether its disk is slow or full",
            )
        if confirmed[1] < replicas:
            self._doubted = True
            raise _few()
        return replies

    async def walk(self, pattern: bytes, step: bytes) -> AsyncIterator[Sequence[bytes]]:
        """Give all keys of a pattern, a step at a time; one that is there throughout at least once.

        :param step: how many keys it looks at in one.
        :raises StoreUnavailableError: no answer, or the server may have started anew: in its new
            tables a cursor of the old ones points elsewhere, and keys would be missed.
        """
        lives = self.lives
        cursor = b"0"
        while True:
            scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", step)
            cursor, keys = await self.execute(*scan)
            if self.lives != lives:
                raise StoreUnavailableError(
                    "the store was away amid a walk through it", remedy="begin again"
                )
            yield keys
            if cursor == b"0":
                return

    async def connect(self) -> None:
        """Connect for the first time.

        :raises StoreUnavailableError: no such server, or it refuses the node.
        """
        self._address = await self._find()
        wire = await self._dial()
        if wire.lost:
            raise StoreUnavailableError(f"the store at {self._address} closed the connection")
        wire.on_lost = self._on_lost
        self._wire = wire
        self._doubted = True
        self.lives += 1
        self._made()

    def _down(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(self._gone())
        return future

    def _gone(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"no connection to the store at {self._address}",
            remedy="try again soon; or see whether it runs",
        )

    async def _find(self) -> StoreAddress:
        return self._address

    def _refused(self, message: str) -> RefusalError:
        refusal = _refusal(message)
        if refusal.code == "READONLY" and self._PRIMARY_ALONE:
            # Not amid the replies that came with it.
            self._loop.call_soon(self.leave, "is not the primary any more")
        return refusal

    async def _dial(self) -> _Wire:
        address = self._address
        wire = _Wire(self._loop, str(address), self._reply_seconds, self._refused)
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
        *replies, role = await wire.pipeline([*commands, (b"ROLE",)])
        for reply in replies:
            if isinstance(reply, StoreUnavailableError):
                raise reply
        if self._PRIMARY_ALONE and (isinstance(role, RefusalError) or role[0] != b"master"):
            raise StoreUnavailableError(
                f"the store at {self._address} is a replica", remedy="wait for its failover"
            )

    def _on_lost(self) -> None:
        self._wire = None
        if not self._closed:
            log.warning("store.lost", store=str(self._address))
            self._lost()
            self.start()

    async def _return(self) -> None:
        pause, said = 0.02, ""
        while True:
            try:
                await self.connect()
            except StoreUnavailableError as error:
                if said != (said := str(error)):
                    log.warning("store.unreachable", store=str(self._address), error=said)
            else:
                log.info("store.back", store=str(self._address))
                return
            # Nodes that lost one server must not all come back in one instant.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, LONGEST_PAUSE)
