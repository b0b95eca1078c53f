"""How tests wait: for a condition with a deadline, and for what was done in another province."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exchange.client import Client, Purpose
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import types_pb2 as types

SECONDS = 30.0
"""That anything may take on a busy machine; on a quiet one it is there in a twentieth of one."""
_PAUSE = 0.02


async def until(what: str, holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Look until something holds; it may have to be awaited.

    :param what: what is waited for, said where it does not come.
    :returns: what it gave.
    """
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_PAUSE)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def freeze(pid: int) -> None:
    """Stop a process, and all its threads: on a busy machine some of them go on for a moment."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + SECONDS
    while not all(_stopped(task) for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end, "it does not stop"
        time.sleep(_PAUSE)


def _stopped(task: Path) -> bool:
    try:
        stat = (task / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return True
    return stat.rpartition(")")[2].split()[0] in "TtZ"


def has_evidence(decision: recognition.Decision) -> bool:
    """Whether a decision goes by anything at all."""
    return bool(decision.evidence)


def is_recognised(decision: recognition.Decision) -> bool:
    return decision.outcome == recognition.OUTCOME_RECOGNIZED


async def heard(
    app: Client,
    document: types.IdentityDocument,
    holds: Callable[[recognition.Decision], Any] = has_evidence,
    seconds: float = SECONDS,
) -> recognition.Decision:
    """The decision, once the app's province has heard of what was done elsewhere a moment ago.

    Whoever must not ask for the holder meanwhile takes the fixture `heard_of`.
    """
    end = time.monotonic() + seconds
    while not holds(decision := await app.recognize(document, Purpose.PURPOSE_ENTRY_CHECK)):
        assert time.monotonic() < end, decision
        await asyncio.sleep(_PAUSE)
    return decision


async def heard_from_all(app: Client, stranger: types.IdentityDocument) -> None:
    """Wait until the app's province knows who holds nothing of somebody of whom nobody does."""
    await heard(app, stranger, lambda it: it.outcome != recognition.OUTCOME_INDETERMINATE)
