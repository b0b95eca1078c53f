"""Processes that outlive who started them, and are found again by a file.

The file holds the process's id, and the process a lock on the file for as long as it lives: a
number alone may be another process's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from exchange.errors import StoreUnavailableError

__all__ = ["end", "running", "start", "uninterrupted", "write_pid"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS: Final = 0.05
_CLAIM_SECONDS: Final = 1.0
"""How long a file is looked at anew: who asks whether it is free has it for a moment."""
_KILL_SECONDS: Final = 10.0


def start(
    pid_file: Path, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; who may be interrupted starts it `uninterrupted`.

    :param pid_file: made, or taken over from a process that has ended.
    :param log: what it writes is appended there.
    :raises StoreUnavailableError: the file's process runs.
    """
    with _claimed(pid_file) as lock, log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - the caller's own command
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(lock,),
            env=environment,
        )
        write_pid(lock, process.pid)
    return process


def write_pid(lock: int, pid: int) -> None:
    """Say in a locked file whose it is."""
    os.pwrite(lock, f"{pid:<20}\n".encode(), 0)  # always as long: never two numbers at once


def running(pid_file: Path) -> int | None:
    """The process of a file while it lives.

    :raises StoreUnavailableError: one lives, and the file does not say which.
    """
    until = time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            with pid_file.open("rb") as file:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                text = file.read(64).strip()
        except FileNotFoundError:
            return None
        if text.isdigit():
            return int(text)
        if time.monotonic() > until:
            raise StoreUnavailableError(
                f"a process holds {pid_file}, which does not name it",
                remedy="end it by hand",
            )
        time.sleep(_LOOK_SECONDS)  # it has this moment been started


def end(pid_files: Collection[Path], *, seconds: float) -> list[Path]:
    """End processes, also stopped ones, and wait until they are gone.

    :param seconds: that they have to end in order; then they are killed.
    :returns: the files of those that ran.
    :raises StoreUnavailableError: one cannot even be killed.
    """
    ended = [path for path in pid_files if _signal(path, signal.SIGCONT, signal.SIGTERM)]
    if _left(ended, seconds):
        for path in ended:
            _signal(path, signal.SIGKILL)
        if left := _left(ended, _KILL_SECONDS):
            raise StoreUnavailableError(
                f"these processes do not end: {', '.join(str(running(path)) for path in left)}",
                remedy="look what holds them",
            )
    return ended


def _signal(pid_file: Path, *numbers: signal.Signals) -> bool:
    pid = running(pid_file)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        for number in numbers:
            os.kill(pid, number)
    return True


def _left(pid_files: Sequence[Path], seconds: float) -> list[Path]:
    until = time.monotonic() + seconds
    while (left := [path for path in pid_files if running(path)]) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return left


@contextlib.contextmanager
def _claimed(pid_file: Path) -> Iterator[int]:
    lock = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + _CLAIM_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreUnavailableError(
                        f"the process of {pid_file} runs", remedy="end it first"
                    ) from None
            time.sleep(_LOOK_SECONDS)
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal that asks for the end wait until a step is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs in this one
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in _SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for again in came:
            signal.raise_signal(again)
