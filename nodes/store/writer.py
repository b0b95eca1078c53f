"""Writes that are on disk when they are answered; many share one fsync.

A write has two steps: a *claim*, then a *change* that is made from the claim's reply. All writes
that wait go together: their claims in one pipeline, their changes in a second one, which
``WAITAOF`` ends. The next batch forms while the disk works, so that nobody waits for a clock.

A change may bear a *note*, for those who follow what changes. The notes of a batch make one entry
of the journal, after all of its changes: nobody hears of what cannot be read yet. A crash between
the two leaves a change that nobody was told of, and that was not acknowledged: its caller makes it
again, and a write that finds its change made bears its note all the same.

One server carries all of a batch out in its order. Of a cluster, each server does so by itself, so
there the journal waits until all of the batch's data is on disk, on each of its servers; one that
fails fails those writes alone that it had a part in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from exchange.errors import InternalError, StoreUnavailableError, TongxingError
from nodes.store.keyspace import Keyspace, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nodes.store.connection import Command, Place

__all__ = ["BatchWriter", "Change"]

log = structlog.get_logger(__name__)

BATCH: Final = 512
"""Writes that share one fsync at most: with more, the first would wait for the last."""

REPLY_SECONDS: Final = 10.0
"""Longer than an fsync may take: so a slow disk and a dead server are told apart."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a write changes.

    :param commands: one or more; the first one's reply is the write's answer.
    :param note: what the journal is to say of it, or b"" for nothing.
    :param then: what says that they were carried out, and so comes after them all.
    """

    commands: tuple[Command, ...]
    note: bytes = b""
    then: tuple[Command, ...] = ()


class _Write:
    """One that waits, or is being carried out."""

    __slots__ = ("change", "claim", "done", "reply", "to_change")

    def __init__(
        self,
        claim: Command,
        to_change: Callable[[bytes | None], Change],
        done: asyncio.Future[Any],
    ) -> None:
        self.claim = claim
        self.to_change = to_change
        self.done = done
        self.change = Change(())
        self.reply: Any = None

    def answer(self, reply: Any) -> None:
        if self.done.done():  # its caller gave up
            return
        if isinstance(reply, StoreUnavailableError):
            # One for each caller: `at` changes an error, and a traceback grows.
            self.done.set_exception(StoreUnavailableError(reply.message, remedy=reply.remedy))
        elif isinstance(reply, TongxingError):
            self.done.set_exception(reply)
        else:
            self.done.set_result(reply)


class BatchWriter:
    """The one way to change the store. WAITAOF blocks its connection: reads have another."""

    def __init__(
        self,
        keyspace: Keyspace,
        journal: Callable[[Sequence[bytes]], Command] | None = None,
        replicas: int = 0,
    ) -> None:
        self._keyspace = keyspace
        self._journal = journal
        self._replicas = replicas
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Write] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        journal: Callable[[Sequence[bytes]], Command] | None = None,
        *,
        replicas: int = 0,
    ) -> BatchWriter:
        """Connect.

        :param journal: makes the command that writes down a batch's notes, one or more; without
            it nobody is told of changes.
        :param replicas: of each server, on whose disks a write is, too, when it is answered.
        :raises InvalidFieldError: the URL.
        :raises StoreUnavailableError: no connection.
        """
        return cls(await connect(url, reply_seconds=REPLY_SECONDS), journal, replicas)

    async def close(self) -> None:
        """Take no more; finish what waits; disconnect."""
        self._closed = True
        if self._draining is not None:
            await asyncio.wait({self._draining})
        await self._keyspace.close()

    def submit(
        self, claim: Command, change: Callable[[bytes | None], Change]
    ) -> asyncio.Future[Any]:
        """Put a write among those that wait.

        :param claim: the first command.
        :param change: makes the change from its reply; a TongxingError that it raises is the
            write's answer, and nothing is changed.
        :return: the reply to the change's first command, once all of it, and its note, is on disk.
        :raises StoreUnavailableError: in the future: a refusal, or no word that it is on disk. It
            may be there all the same, so a write must bear to be made twice.
        """
        done: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            done.set_exception(StoreUnavailableError("the store is being closed"))
            return done
        self._waiting.append(_Write(claim, change, done))
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain())
        return done

    async def _drain(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                taken = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                batch = [write for write in taken if not write.done.done()]
                try:
                    await self._carry_out(batch)
                except StoreUnavailableError as error:
                    for write in batch:
                        write.answer(error)
                except Exception:
                    log.exception("store.batch_failed")
                    for write in batch:
                        write.answer(InternalError("the batch failed"))
        finally:
            self._draining = None

    async def _carry_out(self, batch: list[_Write]) -> None:
        """Answer every write of the batch, or raise."""
        changing, behind = await self._claim(batch)
        commands = [command for write in changing for command in write.change.commands]
        if not commands:
            return
        if self._keyspace.ordered:
            both = [*commands, *self._last(changing)]
            replies = await self._keyspace.durable(both, self._replicas, behind)
            _take(changing, replies)
            _take_last(changing, replies[len(commands) :])
        else:
            _take(changing, await self._keyspace.durable(commands, self._replicas, behind))
            made = [each for each in changing if not isinstance(each.reply, StoreUnavailableError)]
            if last := self._last(made):
                _take_last(made, await self._keyspace.durable(last, self._replicas))
        for write in changing:
            write.answer(write.reply)

    async def _claim(self, batch: list[_Write]) -> tuple[list[_Write], list[Place]]:
        """Send the claims; answer those writes that end with it.

        :return: the others, with their changes, and for each command of these where the claim is.
        """
        claims, places = await self._keyspace.trace([write.claim for write in batch])
        changing: list[_Write] = []
        behind: list[Place] = []
        for write, reply, place in zip(batch, claims, places, strict=True):
            try:
                if isinstance(reply, StoreUnavailableError):
                    raise reply  # the same answer as a change that refuses
                write.change = write.to_change(reply)
            except TongxingError as error:
                write.answer(error)
            else:
                changing.append(write)
                behind += [place] * len(write.change.commands)
        return changing, behind

    def _last(self, writes: list[_Write]) -> list[Command]:
        """What comes after the data of all."""
        last = [command for write in writes for command in write.change.then]
        notes = [write.change.note for write in writes if write.change.note]
        if self._journal is not None and notes:
            last.append(self._journal(notes))
        return last


def _take(writes: Iterable[_Write], replies: Sequence[Any]) -> None:
    """Give each write the reply to its first command, or the first refusal."""
    at = 0
    for write in writes:
        end = at + len(write.change.commands)
        # Most have one command, and all are on the way of a publish.
        write.reply = replies[at] if end - at == 1 else _refused(replies[at:end]) or replies[at]
        at = end


def _take_last(writes: Iterable[_Write], replies: Sequence[Any]) -> None:
    """Put what was refused of `BatchWriter._last` in the place of the writes' replies."""
    rest = iter(replies)
    for write in writes:
        if write.change.then:
            refused = _refused([next(rest) for _ in write.change.then])
            write.reply = refused or write.reply
    untold = _refused(list(rest))
    if untold is not None:
        for write in writes:
            if write.change.note:
                write.reply = untold


def _refused(replies: Sequence[Any]) -> StoreUnavailableError | None:
    return next((each for each in replies if isinstance(each, StoreUnavailableError)), None)
