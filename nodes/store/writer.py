"""Writes that are on disk when they are answered; many share one fsync.

A write has two steps: a *claim*, then a *change* that is made from the claim's reply. All writes
that wait go together: their claims in one pipeline, their changes in a second one, which
``WAITAOF`` ends. The next batch forms while the disk works, so that nobody waits for a clock.

A change may bear a *note*, for those who follow what changes. The notes of a batch make one entry
of the journal, after all of its changes: nobody hears of what cannot be read yet. A crash between
the two leaves a change that nobody was told of, and that was not acknowledged: its caller makes it
again, and a write that finds its change made bears its note all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from exchange.errors import InternalError, StoreUnavailableError, TongxingError
from nodes.store.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodes.store.connection import Command

__all__ = ["BatchWriter", "Change"]

log = structlog.get_logger(__name__)

BATCH: Final = 512
"""Writes that share one fsync at most: with more, the first would wait for the last."""

FSYNC_MILLISECONDS: Final = 5_000
REPLY_SECONDS: Final = 10.0
"""Longer than the fsync may take: so a slow disk and a dead server are told apart."""

MARK: Final[Command] = (b"SET", b"w", b"")
"""WAITAOF waits for this connection's own writes alone. Where a batch finds what another process
has just written and changes nothing, this one write puts the wait behind the other's."""

CONFIRM: Final[Command] = (b"WAITAOF", b"1", b"0", b"%d" % FSYNC_MILLISECONDS)


@dataclass(frozen=True, slots=True)
class Change:
    """What a write changes.

    :param commands: one or more; the first one's reply is the write's answer.
    :param note: what the journal is to say of it, or b"" for nothing.
    """

    commands: tuple[Command, ...]
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class _Write:
    claim: Command
    change: Callable[[bytes | None], Change]
    done: asyncio.Future[Any]

    def answer(self, reply: Any) -> None:
        if self.done.done():  # its caller gave up
            return
        if isinstance(reply, TongxingError):
            self.done.set_exception(reply)
        else:
            self.done.set_result(reply)


class BatchWriter:
    """The one way to change the store. WAITAOF blocks its connection: reads have another."""

    def __init__(
        self, connection: Connection, journal: Callable[[Sequence[bytes]], Command] | None = None
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Write] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, url: str, journal: Callable[[Sequence[bytes]], Command] | None = None
    ) -> BatchWriter:
        """Connect.

        :param journal: makes the command that writes down a batch's notes, one or more; without
            it nobody is told of changes.
        :raises InvalidFieldError: the URL.
        :raises StoreUnavailableError: no connection.
        """
        return cls(await Connection.open(url, reply_seconds=REPLY_SECONDS), journal)

    async def close(self) -> None:
        """Take no more; finish what waits; disconnect."""
        self._closed = True
        if self._draining is not None:
            await asyncio.wait({self._draining})
        await self._connection.close()

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
                        write.answer(_like(error))
                except Exception:
                    log.exception("store.batch_failed")
                    for write in batch:
                        write.answer(InternalError("the batch failed"))
        finally:
            self._draining = None

    async def _carry_out(self, batch: list[_Write]) -> None:
        """Answer every write of the batch, or raise."""
        claims = await self._connection.pipeline([write.claim for write in batch])
        changing: list[tuple[_Write, Change]] = []
        for write, reply in zip(batch, claims, strict=True):
            try:
                if isinstance(reply, StoreUnavailableError):
                    raise reply  # the same answer as a change that refuses
                changing.append((write, write.change(reply)))
            except TongxingError as error:
                write.answer(error)
        if not changing:
            return
        commands = [command for _, change in changing for command in change.commands]
        notes = [change.note for _, change in changing if change.note]
        noted = (self._journal(notes),) if self._journal is not None and notes else ()
        replies = await self._connection.pipeline([*commands, *noted, MARK, CONFIRM])
        if isinstance(replies[-1], StoreUnavailableError):
            raise replies[-1]
        if replies[-1][0] < 1:
            raise StoreUnavailableError(
                "the store did not confirm in time that the write is on disk",
                remedy="see whether its disk is slow or full",
            )
        untold = _refused(replies[len(commands) : len(commands) + len(noted)])
        at = 0
        for write, change in changing:
            end = at + len(change.commands)
            # Most have one command, and all are on the way of a publish.
            reply = replies[at] if end - at == 1 else _refused(replies[at:end]) or replies[at]
            if untold is not None and change.note:
                reply = untold
            write.answer(_like(reply) if isinstance(reply, StoreUnavailableError) else reply)
            at = end


def _refused(replies: Sequence[Any]) -> StoreUnavailableError | None:
    return next((each for each in replies if isinstance(each, StoreUnavailableError)), None)


def _like(error: StoreUnavailableError) -> StoreUnavailableError:
    """One for each caller: `at` changes an error, and a traceback grows."""
    return StoreUnavailableError(error.message, remedy=error.remedy)
