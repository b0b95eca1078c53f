"""The access log (访问日志): who looked at whose data, when and why, so that it can be shown later.

An access is recorded before it is answered, and nothing waits for the disk: what is recorded lies
in the spool (`nodes.audit.spool`) at once, and in its day's file within 0.2 s or so, on disk. So
what was answered is in the log after a kill of the process; a failure of the machine takes with it
what lay in no day's file yet, and no more.

It holds no token, number or name: of a holder, a digest under the log's own key.

Of a node's processes each has a log of its own (`nodes.audit.logs`), under one key; each shows all.
What another has recorded is read once it lies in its day's file. The first sees to the logs of
those that are no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from exchange.errors import AuditUnavailableError, InvalidFieldError, TongxingError
from nodes.audit import chain
from nodes.audit.chain import Digester, Head
from nodes.audit.days import Days, Line, Page, Place, files
from nodes.audit.entries import Entry
from nodes.audit.logs import Logs, page
from nodes.audit.spool import HALF, Spool
from nodes.worker import Worker

__all__ = ["REMOVED", "AuditLog"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

GATHER_SECONDS: Final = 0.1
"""How long accesses gather that are written together."""
HEAD_SECONDS: Final = 60.0
"""How often the chain's head is logged, where it moved."""
READERS: Final = 2
"""Lists that are read at one time."""
REMOVE_SECONDS: Final = 3600.0
"""How often a day is removed that need not be kept: one at a time, so that a clock that leaps for
a moment takes one day with it, and not all."""
REMOVED: Final = "RemoveDay"
"""The method of the entry that says of a day's removal where the chain begins from then on."""

WRITTEN_SECONDS: Final = 2.0
"""In which a process has written what it recorded, however busy the machine is."""

_KEY_BYTES: Final = 32
_RESTORE: Final = "restore it: under another key, nobody's earlier accesses are found"


class AuditLog:
    """A `nodes.audit.entries.Recorder`. All of it is called in the event loop's thread.

    :param directory: where it lies; see `open`.
    """

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], datetime],
        keep_days: int,
        *,
        province: str,
        digest: Digester,
        days: Days,
        spool: Spool,
        head: Head,
        among: Logs | None = None,
    ) -> None:
        self._directory = directory
        self._among = among
        self._clock = clock
        self._keep = timedelta(days=keep_days)
        self._province = province
        self._digest = digest
        self._days = days
        self._spool = spool
        self._sequence, self._hash = head.sequence, head.hash
        """Of what was recorded last."""
        self._written = head
        self._said: Head | None = None
        self._waiting: list[Line] = []
        """Recorded, and in the half of the spool that is being filled."""
        self._writing: list[Line] = []
        """Taken from there to be written, and in the other half."""
        self._failed = self._closed = False
        self._refused = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        # One thread writes; SQLite, and this, want the lines in their order.
        self._writer = ThreadPoolExecutor(1, "audit")
        # Not the loop's own threads: a crowd of long lists would keep the trust list from them.
        self._readers = ThreadPoolExecutor(READERS, "audit-reader")

    @classmethod
    def open(
        cls,
        directory: Path,
        clock: Callable[[], datetime],
        keep_days: int,
        *,
        province: str = "",
        spool_bytes: int = HALF,
        among: Logs | None = None,
    ) -> AuditLog:
        """Open a node's log, or begin it; take over what a process before recorded last.

        :param directory: ``data/audit``: a file a day, the key, the spool.
        :param clock: gives aware datetimes in UTC.
        :param keep_days: days after which a whole day is removed.
        :param province: whose log it is: the heads that are logged name it.
        :param spool_bytes: half of what may wait to be written.
        :param among: the logs that are read as one with this, and have the key; None where it is
            alone.
        :raises AuditUnavailableError: it cannot be read or written.
        :raises InvalidFieldError: its key is missing, none or another than the log's, or others may
            read it.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool, days = Spool(directory / "spool", spool_bytes), Days(directory)
            try:
                key = directory / "key" if among is None else among.key
                digest = Digester(_key(key, make=not any(map(files, _folders(directory, among)))))
                head = days.head()
                left = _left(spool, head)
                _check(key, digest, chain.read(left[-1].text).key if left else days.key())
                if left:
                    days.write(left, head)
                    head = Head(left[-1].sequence, left[-1].hash)
                    log.warning("audit.taken_over", accesses=len(left))
                dropped = _beyond(spool, head)
                if dropped:
                    log.warning("audit.dropped", accesses=dropped, after=head.sequence)
            except BaseException:
                days.close()
                spool.close()
                raise
        except (sqlite3.Error, OSError, ValueError) as error:
            raise AuditUnavailableError(
                f"the access log in {directory} cannot be opened: {_why(error)}",
                field="data",
                remedy="see whether the disk is full or failing, or another node has the same data",
            ) from error
        opened = cls(
            directory,
            clock,
            keep_days,
            province=province,
            digest=digest,
            days=days,
            spool=spool,
            head=head,
            among=among,
        )
        opened._say_head()
        return opened

    @property
    def name(self) -> str:
        """By which the logs of a node's processes are told from other nodes': of their key."""
        return self._digest.check

    @property
    def recorded(self) -> int:
        """Lines that were recorded since the log was begun, by whichever process."""
        return self._sequence

    @property
    def refused(self) -> int:
        """Lines that could not be recorded, since it was opened."""
        return self._refused

    @property
    def writable(self) -> bool:
        """Whether the last try to write into a day's file went well."""
        return not self._failed

    @property
    def waiting(self) -> int:
        """Lines that are recorded and not yet in a day's file."""
        return len(self._waiting) + len(self._writing)

    def record(self, entry: Entry, /) -> None:
        """Record an access; called before its answer is given. It never waits.

        :raises AuditUnavailableError: it cannot be written, or too many wait: answer nothing.
        """
        time = chain.stamp(self._clock())
        holders = () if entry.token is None else (self._digest(entry.token),)
        form = chain.Form(time, entry, self._digest.check)
        self._record(time[:10], form, entry.answer, holders)

    def record_all(self, entry: Entry, holders: Iterable[tuple[bytes, str]], /) -> None:
        """Record one call about several holders: a line for those who have the same answer.

        :raises AuditUnavailableError: as `record`.
        """
        digest = self._digest
        by_answer: defaultdict[str, list[str]] = defaultdict(list)
        for token, answer in holders:
            by_answer[answer].append(digest(token))
        time = chain.stamp(self._clock())
        form = chain.Form(time, entry, digest.check)
        # A line for each holder would cost more than all else that is done for one of a batch.
        for answer, digests in by_answer.items():
            self._record(time[:10], form, answer, digests)

    def _record(self, day: str, form: chain.Form, answer: str, holders: Sequence[str]) -> None:
        if self._failed or self._closed:
            self._refused += 1
            raise AuditUnavailableError("the access log cannot be written")
        sequence = self._sequence + 1
        text = form.line(sequence, answer, holders)
        encoded = text.encode()
        digest = chain.follow(self._hash, encoded)
        if not self._spool.put(digest, encoded):
            self._refused += 1
            raise AuditUnavailableError("too many accesses wait to be written")
        if not self._waiting:
            self._wake.set()
        self._waiting.append(Line(day, sequence, text, digest, len(holders)))
        self._sequence, self._hash = sequence, digest

    async def run(self) -> None:
        """Write what is recorded, say the head, remove old days: for as long as the node runs."""
        loop = asyncio.get_running_loop()
        say, remove = loop.time() + HEAD_SECONDS, loop.time()
        while True:
            if loop.time() >= remove:
                remove = loop.time() + REMOVE_SECONDS
                await asyncio.shield(self._remove_days())
            if loop.time() >= say:
                say = loop.time() + HEAD_SECONDS
                self._say_head()
            try:
                async with asyncio.timeout_at(min(say, remove)):
                    await self._wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_SECONDS)
            await asyncio.shield(self._write())

    async def flush(self) -> None:
        """Wait until what was recorded before lies in the days' files.

        :raises AuditUnavailableError: it cannot be written.
        """
        wanted = self._sequence
        while self._written.sequence < wanted:
            await asyncio.shield(self._write())
            if self._failed:
                raise AuditUnavailableError("the access log cannot be written")

    async def list(
        self,
        tokens: Sequence[bytes] | None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 100,
        after: Place | None = None,
    ) -> Page:
        """Some of the accesses, the newest first.

        :param tokens: one holder's, of each epoch; None for everybody's accesses.
        :param start: from this time on.
        :param end: before this time.
        :param limit: at most so many.
        :param after: where to go on: what the page before said.
        :raises AuditUnavailableError: the log cannot be read.
        """
        holders = None if tokens is None else [self._digest(token) for token in tokens]
        begins, ends = (chain.stamp(time) if time else "" for time in (start, end))
        return await self._list(holders, begins, ends, limit, after)

    async def whose(self, target: str, at: datetime, tokens: Sequence[bytes]) -> bool | None:
        """Whether what was recorded with a target was about one holder.

        :param at: when it was recorded, or up to a second before.
        :param tokens: the holder's, of each epoch.
        :return: None where the log does not tell: nothing that is kept bears the target, or it
            names no holder.
        :raises AuditUnavailableError: the log cannot be read.
        """
        begins, ends = chain.stamp(at), chain.stamp(at + timedelta(seconds=1))
        while True:
            page = await self._list(None, begins, ends, 1, None, target)
            if page.accesses:
                named = page.accesses[0].holders
                return any(self._digest(token) in named for token in tokens) if named else None
            # Another process may have recorded it just now.
            if len(self._all()) < 2 or self._clock() > at + timedelta(seconds=WRITTEN_SECONDS):
                return None
            await asyncio.sleep(GATHER_SECONDS)

    async def _list(self, holders: Sequence[str] | None, *bounds: Any) -> Page:
        await self.flush()
        try:
            if holders is not None:
                await self._in_writer(self._days.index)
            return await asyncio.get_running_loop().run_in_executor(
                self._readers, self._read, holders, *bounds
            )
        except (sqlite3.Error, OSError, ValueError) as error:
            log.error("audit.unreadable", why=_why(error))  # noqa: TRY400 - no traceback
            raise AuditUnavailableError("the access log cannot be read") from error

    def _read(self, *what: Any) -> Page:
        return page(self._all(), *what)

    def _all(self) -> Mapping[int, Path]:
        return {0: self._directory} if self._among is None else self._among.all()

    async def close(self) -> None:
        """Record no more; write what is recorded; say the head."""
        self._closed = True
        await self._write()
        self._say_head()
        await self._in_writer(self._days.close)
        self._writer.shutdown()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._spool.close()

    async def _write(self) -> None:
        """Write all that is recorded; where that fails, nothing is recorded until it succeeds."""
        async with self._turn:
            self._wake.clear()
            while self._writing or self._waiting:
                if not self._writing:
                    self._writing, self._waiting = self._waiting, []
                    self._spool.turn()
                lines = self._writing
                try:
                    await self._in_writer(lambda: self._days.write(lines, self._written))  # noqa: B023
                except (sqlite3.Error, OSError) as error:
                    if not self._failed:
                        log.error("audit.unwritable", why=_why(error))  # noqa: TRY400
                    self._failed = True
                    self._wake.set()  # try again
                    return
                self._written = Head(lines[-1].sequence, lines[-1].hash)
                self._writing = []
                if self._failed:
                    log.warning("audit.writable_again")
                self._failed = False

    async def _remove_days(self) -> None:
        """Remove the oldest day if it is older than what is kept; never the one that is written.

        A clock that leaps takes nothing: what is old is told by the last day of the log as well.
        Of the logs of processes that are no more, every day ends so.
        """
        former = {} if self._among is None else self._among.former()
        try:
            for number, folder in former.items():
                await self._take_over(number, folder)
            *days, last = [path.stem for path in files(self._directory)] or [""]
            if not last:
                return
            today = self._clock().astimezone(UTC).date()
            today = min(today, date.fromisoformat(last) + timedelta(days=1))
            oldest = (today - self._keep).isoformat()
            if days and days[0] < oldest:
                await self._remove(self._days, days[0], days[0])
            for number, folder in former.items():
                there = [path.stem for path in files(folder)]
                if there and there[0] < oldest:
                    await self._remove(Days(folder), there[0], f"workers/{number} {there[0]}")
        except (sqlite3.Error, OSError, ValueError, TongxingError) as error:
            log.error("audit.day_not_removed", why=_why(error))  # noqa: TRY400

    async def _remove(self, days: Days, day: str, what: str) -> None:
        end = await self._in_writer(lambda: days.end(day))
        # In the chain before it is done: `verify` knows by it that nothing else is missing.
        self.record(Entry("", REMOVED, "", f"up to {end}", target=what))
        await self.flush()
        await self._in_writer(lambda: days.remove(day))
        log.info("audit.day_removed", day=what)

    async def _take_over(self, number: int, folder: Path) -> None:
        """Write what a process that is no more has left in its spool, which then goes."""
        spool = folder / "spool"
        if self._among is None or not spool.exists():
            return
        try:
            left = await asyncio.to_thread(
                AuditLog.open,
                *(folder, self._clock, self._keep.days),
                province=self._province,
                spool_bytes=spool.stat().st_size // 2,
                among=replace(self._among, worker=Worker(number, number + 1)),
            )
        except AuditUnavailableError as error:  # it still runs, for a moment
            log.warning("audit.not_taken_over", folder=str(folder), why=error.message)
            return
        spool.unlink()  # under its lock
        await left.close()

    def _say_head(self) -> None:
        head = self._written
        if head != self._said:
            self._said = head
            log.info(
                "audit.head",
                province=self._province,
                node=self.name,
                worker=0 if self._among is None else self._among.worker.number,
                sequence=head.sequence,
                hash=head.hash.hex(),
            )

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _left(spool: Spool, head: Head) -> list[Line]:
    """What lies in the spool and in no day's file."""
    lines = []
    for digest, encoded in spool.left(head.hash):
        text = encoded.decode()
        access = chain.read(text)
        day, holders = chain.stamp(access.time)[:10], len(access.holders)
        lines.append(Line(day, access.sequence, text, digest, holders))
    return lines


def _beyond(spool: Spool, head: Head) -> int:
    """How many lines lie in the spool that came later than the chain's end and do not follow it.

    The days' files are older than the spool: they were restored. These lines are lost.
    """
    later = 0
    for text in spool.frames():
        with contextlib.suppress(ValueError):
            later += chain.read(text.decode()).sequence > head.sequence
    return later


def _folders(directory: Path, among: Logs | None) -> Iterable[Path]:
    return (directory,) if among is None else among.all().values()


def _key(path: Path, *, make: bool) -> bytes:
    """The key of the digests; made at the first start, by whichever process is the first."""
    if not path.exists():
        if not make:
            raise InvalidFieldError(f"{path} is missing", field="data", remedy=_RESTORE)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, new = tempfile.mkstemp(dir=path.parent, prefix="key.")  # 0600
        try:
            with os.fdopen(file, "wb") as writing:
                writing.write(secrets.token_bytes(_KEY_BYTES))
                writing.flush()
                os.fsync(file)
            with contextlib.suppress(FileExistsError):
                os.link(new, path)  # under its name it is whole, and nobody's takes its place
        finally:
            os.unlink(new)  # noqa: PTH108 - as it was made
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidFieldError(f"others may read {path}", field="data", remedy="chmod 600")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise InvalidFieldError(f"{path} has not {_KEY_BYTES} bytes", field="data", remedy=_RESTORE)
    return key


def _check(path: Path, digest: Digester, known: str) -> None:
    """Refuse another key than that of the last line; a line of before may not name its own."""
    if known not in {"", digest.check}:
        raise InvalidFieldError(
            f"{path} is another key than this log's", field="data", remedy=_RESTORE
        )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
