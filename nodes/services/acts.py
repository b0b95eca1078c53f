"""Acts that are carried to their end, their record in the access log too, once they have begun.

A call ends when its caller goes away; what it has given to the store by then does not. Whoever
revokes something and hangs up at once must not thereby keep it out of the log.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["ended", "whole"]

P = ParamSpec("P")
T = TypeVar("T")

_UNDER_WAY: Final[set[asyncio.Task[Any]]] = set()


def whole(act: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let an act go on to its end when the call that began it is cancelled."""

    @functools.wraps(act)
    async def carried_out(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(act(*args, **kwargs))
        _UNDER_WAY.add(task)
        task.add_done_callback(_UNDER_WAY.discard)
        return await asyncio.shield(task)

    return carried_out


async def ended(seconds: float = 20.0) -> None:
    """Wait for the acts that go on after their calls; for the end of a node, before its store's.

    :param seconds: what they have for it; what is not at its end then is cancelled.
    """
    if _UNDER_WAY:
        _, left = await asyncio.wait(_UNDER_WAY, timeout=seconds)
        for act in left:
            act.cancel()
