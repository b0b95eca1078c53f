"""A node of several processes: the parent, which starts the workers and watches over them.

It holds what they share (the data folder, the port, the embedded Valkey, the metrics' address) and
answers no call. Each worker is a process of its own from the start: gRPC, which the parent never
imports, does not survive a fork. One process more hears the peers for all of them
(`nodes.hearing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exchange.errors import InvalidFieldError
from nodes.config import EMBEDDED, NodeConfig
from nodes.embedded import LONGEST_PAUSE, SHORTEST_PAUSE, EmbeddedValkey, die_with, locked
from nodes.exposition import Sum, asked, served
from nodes.folders import private_directory
from nodes.listening import held
from nodes.peers.memory import Memory, Page
from nodes.signals import on_end
from nodes.worker import HEARD, LINE, VARIABLE

__all__ = ["require", "run"]

log = structlog.get_logger(__name__)

GRACE_SECONDS: Final = 10.0
"""Beyond ``drain_seconds``: then a worker that does not end is killed."""
LOCK_SECONDS: Final = 5.0
METRICS_SECONDS: Final = 4.0
"""That a worker may take to tell them; then those that it told last stand for it."""
SCRAPE_SECONDS: Final = 8.0
FAILED_STARTS: Final = 5
"""In a row, while nobody serves: the node then ends with what the last of them ended with."""
_PAGE_BYTES: Final = 16 * 2**20
# -P: a folder called "exchange" where it is run is not the package.
_COMMAND: Final = (sys.executable, "-P", "-m", "nodes.cli", "node", "run", "--config")


def require(config: NodeConfig) -> None:
    """See that this machine can do what is asked.

    :raises InvalidFieldError: it cannot share a port; field ``workers``.
    """
    if config.workers > 1 and sys.platform != "linux":
        raise InvalidFieldError(
            "several processes share a port on Linux alone", field="workers", remedy="leave it out"
        )


async def run(config: NodeConfig, file: Path) -> int:
    """Run a node's workers until SIGTERM, SIGINT or SIGHUP; SIGUSR2 restarts them one by one.

    :param file: the configuration's; the workers read it.
    :returns: the exit code: 0, or that of a worker that did not start.
    :raises TongxingError: the data folder, the address or the store cannot be had.
    """
    require(config)
    command = [*_COMMAND, str(file)]
    environment = dict(os.environ)
    async with contextlib.AsyncExitStack() as stack:

        async def launch(place: _Place) -> _Process:
            environment[VARIABLE] = place.said
            tells = config.metrics is not None
            return await _Process.start(command, environment, lock, tells=tells)

        workers = _Workers(config, launch)
        on_end(workers.stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, workers.renew)
        lock = await stack.enter_async_context(_alone(config.data))
        heard = Memory.shared(Page.SIZE)
        environment[HEARD] = "/".join(map(str, heard.handle or ()))
        environment["TONGXING_LISTEN"] = stack.enter_context(held(config.listen))
        if reserved := config.overload.reserved_listen:
            environment["TONGXING_OVERLOAD__RESERVED_LISTEN"] = stack.enter_context(
                held(reserved, "overload.reserved_listen")
            )
        if config.store.url == EMBEDDED:
            valkey = EmbeddedValkey(config.data / "valkey")
            await valkey.start()
            stack.push_async_callback(valkey.stop)
            environment["TONGXING_STORE__URL"] = valkey.url
        if config.metrics:
            told = _Told(asked(workers.metrics, SCRAPE_SECONDS))
            stack.enter_context(served(config.metrics.listen, told))
        return await workers.run()


@contextlib.asynccontextmanager
async def _alone(data: Path) -> AsyncIterator[int]:
    """Keep other nodes off the data folder; the workers hold the lock too, and so outlive nobody.

    :raises InvalidFieldError: another node has it, or it cannot be made; field ``data``.
    """
    private_directory(data)
    try:
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidFieldError(f"{data}: {error.strerror}", field="data") from None
    try:
        if not await locked(lock, LOCK_SECONDS):
            raise InvalidFieldError(
                f"another node runs on {data}",
                field="data",
                remedy="stop it, or give this node a folder of its own",
            )
        yield lock
    finally:
        os.close(lock)


class _Process:
    """One worker's process, and the line to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tells: bool,
    ) -> None:
        self.pid = process.pid
        self.ending = False
        self.port = 0
        self.page = ""
        """The metrics that it told last."""
        self._process = process
        self._writer = writer
        self._tells = tells
        self._serves = asyncio.Event()
        self._told = asyncio.Event()
        self._asking = asyncio.Lock()
        self._listening = asyncio.create_task(self._listen(reader))
        self._ended = asyncio.create_task(process.wait())

    @classmethod
    async def start(
        cls, command: list[str], environment: dict[str, str], lock: int, *, tells: bool
    ) -> _Process:
        """Start one; it dies with this process, whatever ends that.

        :param tells: whether it tells metrics.

        :raises OSError: the machine has no room for it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**environment, LINE: str(theirs.fileno())},
                    pass_fds=(lock, theirs.fileno()),
                    start_new_session=True,  # a terminal's Ctrl-C is for the parent
                    preexec_fn=die_with(os.getpid()),
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_PAGE_BYTES)
        return cls(process, reader, writer, tells)

    @property
    def begun_once(self) -> bool:
        """Whether it ever served."""
        return self._serves.is_set()

    @property
    def serves(self) -> bool:
        """Whether it can be called."""
        return self.begun_once and not self.ending and not self._ended.done()

    async def begun(self) -> bool:
        """Wait until it serves; False where it ended before."""
        serves = asyncio.create_task(self._serves.wait())
        await asyncio.wait({serves, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        serves.cancel()
        return self._serves.is_set()

    async def ended(self) -> int:
        """Wait for its end; its exit code, or below 0 the signal that ended it."""
        code = await asyncio.shield(self._ended)
        self._listening.cancel()
        self._writer.close()
        return code

    async def end(self, seconds: float) -> None:
        """Let it finish its calls and end; kill it after so many seconds."""
        await self.ask()
        self.ending = True
        self.signal(signal.SIGTERM)
        await asyncio.wait({self._ended}, timeout=seconds)
        if not self._ended.done():
            log.error("node.worker_killed", pid=self.pid, why="it did not end in time")
            self.signal(signal.SIGKILL)
            await asyncio.wait({self._ended})

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ask(self) -> None:
        """Bring its page up to date; an old one stays where it does not answer in time."""
        if not self.serves or not self._tells:
            return
        async with self._asking:
            self._told.clear()
            with contextlib.suppress(TimeoutError, ConnectionError):
                self._writer.write(b"metrics\n")
                await asyncio.wait_for(self._told.wait(), METRICS_SECONDS)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                said = json.loads(line)
                if "serving" in said:
                    self.port = said["serving"]
                    self._serves.set()
                else:
                    self.page = said["metrics"]
                    self._told.set()


class _Place:
    """What one process after the other has: a number, and so the files under it.

    :param name: by which a log calls it.
    :param said: to the process (`nodes.worker.VARIABLE`).
    :param lasts: whether another process takes it when one has ended.
    """

    def __init__(self, name: int | str, said: str, *, lasts: bool = True) -> None:
        self.name = name
        self.said = said
        self.lasts = lasts
        self.process: _Process | None = None
        self.serves = asyncio.Event()
        self.left = asyncio.Event()
        """Set where nobody is to take it any more."""


class _Workers:
    """All of them: each place has a process, and another one when that has ended.

    There is one place more than workers, and one more than hears. They are taken only while the
    others are restarted: so as many serve as ever, somebody always hears, and no two processes ever
    have the files of one place.
    """

    def __init__(self, config: NodeConfig, launch: Callable[[_Place], Awaitable[_Process]]) -> None:
        self._config = config
        self._launch = launch
        self._patience = config.drain_seconds + GRACE_SECONDS
        of = config.workers
        self._places = [_Place(number, f"{number}/{of}") for number in range(of)]
        self._spare = _Place(of, f"{of}/{of + 1}", lasts=False)
        self._hearing = _Place("hearing", "hearing/0")
        self._next_hearing = _Place("hearing", "hearing/1", lasts=False)
        self._hearing_kept: asyncio.Task[None]
        self._keepers: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._served = False
        self._failures = self._died = self._code = 0
        self._sum = Sum()

    def stop(self) -> None:
        """Have all of them end."""
        self._stop.set()

    def renew(self) -> None:
        """Have all of them restarted, one by one; once more, where that is being done."""
        self._renew.set()

    async def run(self) -> int:
        """Start them and keep them going until `stop`; the exit code."""
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not self._code:
                log.info("node.draining", seconds=self._config.drain_seconds)
        finally:
            self._stop.set()
            for task in (work, stop):
                task.cancel()
            await asyncio.wait({work, stop})
            processes = [*self._processes(), *self._listeners()]
            await asyncio.gather(*(each.end(self._patience) for each in processes))
            await asyncio.gather(*self._keepers)
        if not work.cancelled():
            work.result()  # what it failed with
        if not self._code:
            log.info("node.stopped")
        return self._code

    async def metrics(self) -> list[Metric]:
        """Those of all as one."""
        serving = [each for each in self._processes() if each.serves]
        telling = serving + [each for each in self._listeners() if each.serves]
        await asyncio.gather(*(each.ask() for each in telling))
        return [
            GaugeMetricFamily("tongxing_workers", "Processes that serve.", value=len(serving)),
            CounterMetricFamily(
                "tongxing_worker_restarts", "Workers that died, since the start.", value=self._died
            ),
            *self._sum.of(each.page for each in telling),
        ]

    def _processes(self) -> list[_Process]:
        return [each.process for each in (*self._places, self._spare) if each.process]

    def _listeners(self) -> list[_Process]:
        places = (self._hearing, self._next_hearing)
        return [each.process for each in places if each.process]

    async def _work(self) -> None:
        # The first one alone: what it does not start with, none does, and that is said once.
        first = self._places[:1]
        for places in (first, self._places[1:]):
            for place in places:
                self._keep(place)
            for place in places:
                await place.serves.wait()
            if places is first:
                self._hearing_kept = self._keep(self._hearing)
        process = self._places[0].process
        log.info(
            "node.serving",
            province=self._config.province,
            port=process.port if process else None,
            workers=self._config.workers,
        )
        while True:
            await self._renew.wait()
            self._renew.clear()
            await self._restart()

    async def _restart(self) -> None:
        """Put a new process into each place; where none starts any more, all stays as it was."""
        log.info("node.restarting")
        spare = self._spare
        kept = await self._begin(spare)
        if kept is None:
            return
        for place in self._places:
            if place.process:
                place.serves.clear()
                await place.process.end(self._patience)
            await place.serves.wait()
        if spare.process:
            await spare.process.end(self._patience)
        await kept
        if kept := await self._begin(self._next_hearing):
            former, formerly_kept = self._hearing, self._hearing_kept
            self._hearing, self._next_hearing, self._hearing_kept = self._next_hearing, former, kept
            self._hearing.lasts, former.lasts = True, False
            former.left.set()  # perhaps it is between two processes
            if former.process:
                await former.process.end(self._patience)
            await formerly_kept
            log.info("node.restarted")

    async def _begin(self, place: _Place) -> asyncio.Task[None] | None:
        """Have a place taken that does not last, and wait until its process serves.

        :returns: what ends with the process; None where it does not start.
        """
        place.left.clear()
        place.serves.clear()
        kept = self._keep(place)
        serves = asyncio.create_task(place.serves.wait())
        await asyncio.wait({kept, serves}, return_when=asyncio.FIRST_COMPLETED)
        serves.cancel()
        if place.serves.is_set():
            return kept
        log.error("node.not_restarted", why="a new process does not start; it has said why")
        return None

    def _keep(self, place: _Place) -> asyncio.Task[None]:
        keeper = asyncio.create_task(self._keep_going(place))
        keeper.add_done_callback(self._kept)
        self._keepers = [each for each in self._keepers if not each.done()] + [keeper]
        return keeper

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception() is not None:
            self._keepers.append(keeper)  # `run` raises it
            self._stop.set()

    async def _keep_going(self, place: _Place) -> None:
        """Start a process, and the next one when it has ended, with longer and longer pauses."""
        loop = asyncio.get_running_loop()
        pause = SHORTEST_PAUSE
        while not self._stop.is_set():
            began = loop.time()
            process = place.process = await self._launch(place)
            log.info("node.worker_started", worker=place.name, pid=process.pid)
            if self._stop.is_set() or place.left.is_set():
                process.ending = True
                process.signal(signal.SIGTERM)
            if await process.begun():
                log.info("node.worker_serves", worker=place.name, pid=process.pid)
                self._served, self._failures = True, 0
                place.serves.set()
            code = await process.ended()
            place.serves.clear()
            place.process = None
            self._sum.ended(process.page)
            if self._ended(place, process, code) or not place.lasts or place.left.is_set():
                return
            if process.ending:
                continue
            if loop.time() - began > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            waits = [asyncio.create_task(each.wait()) for each in (self._stop, place.left)]
            await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            if place.left.is_set():
                return
            pause = min(pause * 2, LONGEST_PAUSE)

    def _ended(self, place: _Place, process: _Process, code: int) -> bool:
        """Tell of a worker that has ended; whether the whole node ends with it."""
        if process.ending or code == 0:
            if not self._code:
                log.info("node.worker_drained", worker=place.name, pid=process.pid)
            return False
        self._died += 1
        self._failures += not process.begun_once
        most = FAILED_STARTS if self._served else 1
        hopeless = self._failures >= most and not any(each.serves for each in self._processes())
        if hopeless:
            self._code = max(code, 1)
            self._stop.set()
        if not hopeless or code < 0:  # else its own line says why, and is to be the last
            log.error("node.worker_died", worker=place.name, pid=process.pid, code=code)
        return hopeless


class _Told(Collector):
    """What the event loop tells, for a scrape's thread."""

    def __init__(self, tell: Callable[[], list[Metric] | None]) -> None:
        self._tell = tell

    def collect(self) -> list[Metric]:
        """All of it; nothing where the node ends this moment."""
        return self._tell() or []
