"""The store as a cluster: a connection to each primary, each command sent to its key's.

A map says which server has which of the 16,384 slots; it is read again when a server is lost and
when one says that a slot is elsewhere. What a server refused for the moment, unseen by the key (it
has moved, it is moving, the cluster is finding a new primary), is sent again for a second, and is
then told. What was lost on the way is told at once: it may have been carried out.
"""

from __future__ import annotations

import asyncio
import random
from binascii import crc_hqx
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from exchange.errors import StoreUnavailableError
from nodes.store.connection import MARK, Connection, Place, RefusalError, Sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nodes.store.address import ClusterAddress, StoreAddress
    from nodes.store.connection import Command

__all__ = ["ClusterConnection", "slot_of"]

log = structlog.get_logger(__name__)

SLOTS: Final = 16_384

PATIENCE: Final = 1.0
"""Seconds for which a command that was refused for the moment is sent again."""

PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
AT_ONCE: Final = 3
"""How often a command follows a slot without a pause: servers that disagree would toss it about."""

LEAVE_SECONDS: Final = 5.0
"""What a server that has no slots any more has to answer what it was asked."""

PASSING: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"})
ASKING: Final[Command] = (b"ASKING",)
MAP: Final[Command] = (b"CLUSTER", b"SLOTS")
NODES: Final[Command] = (b"CLUSTER", b"NODES")


def slot_of(command: Command) -> int:
    """Which slot a command's first key lies in.

    Source: the cluster specification: CRC16 (XMODEM) of what stands between the first braces.
    """
    name = command[0]
    if name == b"EVAL":
        key = command[3]
    elif name == b"XREAD":
        key = command[command.index(b"STREAMS") + 1]
    else:
        key = command[1]
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return _slot(key)


def _slot(tag: bytes) -> int:
    return crc_hqx(tag, 0) % SLOTS


class _Routed(Sink):
    """A command on its way."""

    __slots__ = ("_cluster", "command", "server", "turns", "until")

    def __init__(self, cluster: ClusterConnection, command: Command, server: Connection) -> None:
        self._cluster = cluster
        self.command = command
        self.server = server
        """Where it was sent last."""
        self.turns = 0
        """How often it was sent again."""
        self.until = 0.0
        """Until when it may be."""

    def add(self, reply: Any) -> None:
        if isinstance(reply, RefusalError) and reply.code in PASSING:
            self._cluster.redirect(self, reply)
        else:
            self.take(reply)

    def fail(self, error: StoreUnavailableError) -> None:
        self.take(error)

    def take(self, reply: Any) -> None:
        """Take the answer, or the error that is one."""
        raise NotImplementedError


class _Call(_Routed):
    __slots__ = ("_future",)

    def __init__(
        self,
        cluster: ClusterConnection,
        command: Command,
        server: Connection,
        future: asyncio.Future[Any],
    ) -> None:
        super().__init__(cluster, command, server)
        self._future = future

    def take(self, reply: Any) -> None:
        if self._future.done():  # its caller gave up
            return
        if isinstance(reply, StoreUnavailableError):
            self._future.set_exception(reply)
        else:
            self._future.set_result(reply)


class _Item(_Routed):
    """A command of a pipeline, and what came of it."""

    __slots__ = ("_pipeline", "place", "reply")

    def __init__(
        self,
        cluster: ClusterConnection,
        command: Command,
        server: Connection,
        pipeline: _Pipeline,
    ) -> None:
        super().__init__(cluster, command, server)
        self._pipeline = pipeline
        self.place = Place(server, server.lives)
        self.reply: Any = None

    def take(self, reply: Any) -> None:
        self.reply = reply
        if self.turns:
            self.place = Place(self.server, self.server.lives)
        self._pipeline.count_down()


class _Pipeline:
    """The commands of a pipeline, whichever servers they are for."""

    __slots__ = ("_missing", "done", "items")

    def __init__(self, done: asyncio.Future[None], missing: int) -> None:
        self.items: list[_Item] = []
        self.done = done
        self._missing = missing

    def count_down(self) -> None:
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


class _Ignored(Sink):
    __slots__ = ()

    def add(self, reply: Any) -> None:
        pass

    def fail(self, error: StoreUnavailableError) -> None:
        pass


_IGNORED: Final = _Ignored()


class ClusterConnection:
    """Connections to the primaries of a cluster: a `nodes.store.keyspace.Keyspace`.

    Every command has a key. While its server is down, a call fails at once.
    """

    ordered: Final = False
    """What is sent to two servers may be carried out, and lost, in any order."""

    def __init__(self, address: ClusterAddress, reply_seconds: float) -> None:
        self._seeds = address.seeds
        self._reply_seconds = reply_seconds
        self._loop = asyncio.get_running_loop()
        self._known: dict[tuple[str, int], Connection] = {}
        self._nobody = Connection(address.seeds[0], reply_seconds)
        """Never connected: what has a slot that no server has."""
        self._owners = [self._nobody] * SLOTS
        self._primaries: set[Connection] = set()
        self._marks: dict[Connection, bytes] = {}
        self._open = False
        self._following: asyncio.Task[None] | None = None
        self._stale = False
        self._leaving: set[asyncio.Task[None]] = set()
        self.lives = 0
        """Grows when a server was connected to, anew or for the first time, and when one took over
        that had no slots: either may have lost the last that was heard."""

    @classmethod
    async def open(cls, address: ClusterAddress, *, reply_seconds: float) -> ClusterConnection:
        """Connect to all primaries.

        :raises StoreUnavailableError: none answers, one refuses the node, or a slot has no server.
        """
        cluster = cls(address, reply_seconds)
        try:
            await cluster._begin()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    async def _begin(self) -> None:
        await self._read_map()
        if self._nobody in self._owners:
            raise _homeless()
        await asyncio.gather(*(server.connect() for server in self._primaries))
        self._open = True

    async def close(self) -> None:
        """Close; calls that wait fail."""
        self._open = False
        tasks = set(self._leaving)
        if self._following is not None:
            tasks.add(self._following)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for server in tuple(self._known.values()):
            await server.close()

    @property
    def servers(self) -> tuple[Connection, ...]:
        """The primaries."""
        return tuple(self._primaries)

    def execute(self, *command: bytes) -> asyncio.Future[Any]:
        """Do as `Connection.execute`, at the key's server."""
        future: asyncio.Future[Any] = self._loop.create_future()
        server = self._owners[slot_of(command)]
        call = _Call(self, command, server, future)
        if not server.send((command,), (call,)):
            call.take(self._away(server))
        return future

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Do as `Connection.pipeline`; an error for want of an answer is in the list as well."""
        return [item.reply for item in await self._carried_out(commands)]

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Do `pipeline` where all must be done.

        :raises StoreUnavailableError: one was not, though others may be.
        """
        replies = [item.reply for item in await self._carried_out(commands)]
        for reply in replies:
            if isinstance(reply, StoreUnavailableError):
                raise reply
        return replies

    async def trace(self, commands: Sequence[Command]) -> tuple[list[Any], list[Place]]:
        """Do `pipeline`, and tell where each command was carried out."""
        items = await self._carried_out(commands)
        return [item.reply for item in items], [item.place for item in items]

    async def durable(
        self, commands: Sequence[Command], replicas: int, behind: Sequence[Place] = ()
    ) -> list[Any]:
        """Do `pipeline`, and wait until all of it is on disk.

        :param replicas: of each server, on whose disks, too.
        :param behind: for each command, where one was carried out that must be on disk as well.
        :return: a reply for each command; in its place a StoreUnavailableError where it was
            refused, or nothing says that it, and what it is behind, is on disk.
        """
        sent = self._dispatch(commands)
        places = {item.place for item in sent.items} | set(behind)
        # It waits behind the commands, in the same turn: one fsync is for both.
        words = await asyncio.gather(*(self._confirm(place, replicas) for place in places))
        said = dict(zip(places, words, strict=True))
        await sent.done
        for place in {item.place for item in sent.items if item.turns}:
            said[place] = await self._confirm(place, replicas)
        replies = [
            item.reply
            if isinstance(item.reply, StoreUnavailableError)
            else said[item.place] or item.reply
            for item in sent.items
        ]
        if behind:
            replies = [said[at] or reply for at, reply in zip(behind, replies, strict=True)]
        return replies

    async def walk(self, pattern: bytes, step: bytes) -> AsyncIterator[Sequence[bytes]]:
        """Do as `Connection.walk`, over all primaries.

        :raises StoreUnavailableError: also where slots are being moved, or were meanwhile: a key
            that went from a server yet to be seen to one that was seen already would be missed.
        """
        lives, standing = self.lives, await self._standing()
        for server in self.servers:
            async for keys in server.walk(pattern, step):
                yield keys
        if self.lives != lives or await self._standing() != standing:
            raise _restless()

    # --- the ways of commands --------------------------------------------------------------------

    async def _carried_out(self, commands: Sequence[Command]) -> list[_Item]:
        sent = self._dispatch(commands)
        await sent.done
        return sent.items

    def _dispatch(self, commands: Sequence[Command]) -> _Pipeline:
        """Send commands, those of one server together."""
        pipeline = _Pipeline(self._loop.create_future(), len(commands))
        if not commands:
            pipeline.done.set_result(None)
        owners, items = self._owners, pipeline.items
        shares: dict[Connection, tuple[list[Command], list[_Item]]] = {}
        for command in commands:
            server = owners[slot_of(command)]
            item = _Item(self, command, server, pipeline)
            items.append(item)
            if (share := shares.get(server)) is None:
                share = shares[server] = ([], [])
            share[0].append(command)
            share[1].append(item)
        for server, (some, sinks) in shares.items():
            if not server.send(some, sinks):
                for item in sinks:
                    item.take(self._away(server))
        return pipeline

    def redirect(self, sent: _Routed, refusal: RefusalError) -> None:
        """Send a command again that a server refused for the moment."""
        now = self._loop.time()
        sent.turns += 1
        if sent.turns == 1:
            sent.until = now + PATIENCE
        elif now >= sent.until:
            sent.take(_unsettled())
            return
        asked = None
        if refusal.code == "ASK":
            asked = self._named(refusal, sent.server)
        elif refusal.code == "MOVED":
            self._take_over(slot_of(sent.command), self._named(refusal, sent.server))
        else:
            self._refresh()
        if sent.turns <= AT_ONCE and refusal.to:
            self._send_again(sent, asked)
        else:
            self._loop.call_later(PAUSE, self._send_again, sent, asked)

    def _send_again(self, sent: _Routed, asked: Connection | None = None) -> None:
        """Send it where the map says, or where a server said that this once it is to be asked."""
        if asked is None:
            server = self._owners[slot_of(sent.command)]
            gone = server.send((sent.command,), (sent,))
        else:
            server = asked
            gone = server.send((ASKING, sent.command), (_IGNORED, sent))
        if gone:
            sent.server = server
        elif self._loop.time() < sent.until:
            self._loop.call_later(PAUSE, self._send_again, sent)
        else:
            sent.take(self._away(server))

    def _named(self, refusal: RefusalError, sender: Connection) -> Connection:
        """The server that MOVED or ASK names: ``SLOT HOST:PORT``."""
        host, _, port = refusal.to.partition(" ")[2].rpartition(":")
        return self._server(host, int(port), sender.address)

    def _away(self, server: Connection) -> StoreUnavailableError:
        if server is self._nobody:
            return _homeless()
        return StoreUnavailableError(
            f"no connection to the store at {server.address}",
            remedy="try again soon: a replica takes over, or it comes back",
        )

    # --- what is on disk -------------------------------------------------------------------------

    async def _confirm(self, place: Place, replicas: int) -> StoreUnavailableError | None:
        """Wait until a server has all on disk that it was told; what stands in the way, else."""
        server, life = place
        refused: set[bytes] = set()
        while (mark := self._mark(server, refused)) is not None:
            if server.lives != life or not server.up:
                return self._away(server)
            try:
                (reply,) = await server.confirm(mark, replicas)
            except StoreUnavailableError as error:
                return error
            if not (isinstance(reply, RefusalError) and reply.code in PASSING):
                return None
            refused.add(mark)  # its slot is on the move
        return _unsettled()

    def _mark(self, server: Connection, refused: set[bytes]) -> bytes | None:
        """A key of a server's for `Connection.confirm`; None where it has no slots any more."""
        mark = self._marks.get(server)
        if mark is not None and mark not in refused and self._owners[_slot(mark)] is server:
            return mark
        if server not in self._primaries:
            return None
        for number in range(8 * SLOTS):
            mark = MARK + b"%d" % number
            if mark not in refused and self._owners[_slot(mark)] is server:
                self._marks[server] = mark
                return mark
        return None

    # --- the map ---------------------------------------------------------------------------------

    def _server(self, host: str, port: int, teller: StoreAddress) -> Connection:
        """The connection to an address that a server told; an unnamed host is its own."""
        host = host if host not in {"", "?"} else teller.host
        server = self._known.get((host, port))
        if server is None:
            address = replace(self._seeds[0], host=host, port=port)
            server = Connection(address, self._reply_seconds, made=self._grew, lost=self._refresh)
            self._known[host, port] = server
            if self._open:
                server.start()
        return server

    def _grew(self) -> None:
        self.lives += 1

    def _take_over(self, slot: int, server: Connection) -> None:
        """Note at once what one server says; the whole map follows."""
        if server not in self._primaries:
            self._primaries.add(server)
            self.lives += 1
        self._owners[slot] = server
        self._refresh()

    def _refresh(self) -> None:
        self._stale = True
        if self._following is None and self._open:
            self._following = self._loop.create_task(self._follow())

    async def _follow(self) -> None:
        """Read the map until it is whole, and all that it names are there."""
        pause = PAUSE
        try:
            while self._stale or not self._whole():
                self._stale = False
                try:
                    await self._read_map()
                except StoreUnavailableError as error:
                    self._stale = True
                    log.warning("store.no_map", error=str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._following = None

    def _whole(self) -> bool:
        return self._nobody not in self._owners and all(each.up for each in self._primaries)

    async def _read_map(self) -> None:
        """Ask any server for the map.

        :raises StoreUnavailableError: none answers, or it is none of a cluster.
        """
        servers = [server for server in self._known.values() if server.up]
        random.shuffle(servers)
        for server in servers:
            try:
                self._learn(await server.execute(*MAP), server.address)
            except StoreUnavailableError:
                continue
            return
        said = StoreUnavailableError("no server of the cluster answers")
        for address in self._seeds:
            seed = Connection(address, self._reply_seconds)
            try:
                await seed.connect()
                self._learn(await seed.execute(*MAP), address)
            except RefusalError as error:
                said = _no_cluster(address) if error.code == "ERR" else error
            except StoreUnavailableError as error:
                said = error
            else:
                return
            finally:
                await seed.close()
        raise said

    def _learn(self, slots: list[Any], teller: StoreAddress) -> None:
        """Take a map over: ``[first slot, last slot, [host, port, …], …]`` each."""
        owners = [self._nobody] * SLOTS
        for first, last, (host, port, *_), *_ in slots:
            server = self._server((host or b"").decode(), port, teller)
            owners[first : last + 1] = [server] * (last + 1 - first)
        primaries = set(owners) - {self._nobody}
        if self._open and primaries - self._primaries:
            self.lives += 1
            log.info("store.primaries", servers=sorted(str(each.address) for each in primaries))
        self._owners, self._primaries = owners, primaries
        self._marks = {server: mark for server, mark in self._marks.items() if server in primaries}
        for where, server in self._known.items():
            if server not in primaries and self._open:
                leaving = self._loop.create_task(self._leave(where, server))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, where: tuple[str, int], server: Connection) -> None:
        """Disconnect from a server that has no slots, once it had time for what it was asked."""
        await asyncio.sleep(LEAVE_SECONDS)
        if server not in self._primaries and self._known.get(where) is server:
            del self._known[where]
            await server.close()

    async def _standing(self) -> set[tuple[bytes, ...]]:
        """What each primary says of itself: its id, its flags, its epoch and its slots.

        :raises StoreUnavailableError: slots are being moved, or are not all theirs.
        """
        standing = set()
        held = 0
        for server in self.servers:
            lines = (await server.execute(*NODES)).split(b"\n")
            id_, _, flags, _, _, _, epoch, _, *slots = next(
                line.split() for line in lines if b"myself" in line
            )
            for each in slots:
                if each.startswith(b"["):  # on its way to or from another
                    raise _restless()
                first, _, last = each.partition(b"-")
                held += int(last or first) - int(first) + 1
            standing.add((id_, flags, epoch, *slots))
        if held != SLOTS:
            raise _restless()
        return standing


def _homeless() -> StoreUnavailableError:
    return StoreUnavailableError(
        "not every slot of the cluster has a primary",
        remedy="wait for its failover; or see `CLUSTER INFO`, and repair it",
    )


def _unsettled() -> StoreUnavailableError:
    return StoreUnavailableError(
        "the cluster is finding a new primary, or moves slots", remedy="try again soon"
    )


def _restless() -> StoreUnavailableError:
    return StoreUnavailableError(
        "slots of the cluster moved amid a walk through it",
        remedy="begin again when they have come to rest",
    )


def _no_cluster(address: StoreAddress) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store at {address} is none of a cluster", remedy="write redis://… as store.url"
    )
