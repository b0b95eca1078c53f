"""What a node does besides answering calls: work that goes on for as long as the node runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Works"]

log = structlog.get_logger(__name__)


class Works:
    """Tasks of which none may fail: a node that runs without one of them is worse than none.

    :param failed: called when one failed, as soon as it has.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *works: Coroutine[Any, Any, None]) -> None:
        """Begin some; one may end by itself where there is nothing left to do."""
        for work in works:
            task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def close(self) -> None:
        """End all, the last begun first.

        :raises Exception: what the first of them failed with, if any did.
        """
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.wait({task})
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("node.task_failed", task=task.get_name(), exc_info=error)
            self._failed()
