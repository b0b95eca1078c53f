"""The signals that end a process of a node in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

__all__ = ["on_end"]


def on_end(act: Callable[[], object]) -> None:
    """Have something done at SIGTERM, SIGINT and SIGHUP; at the last not under ``nohup``.

    To be called where an event loop runs.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, act)
