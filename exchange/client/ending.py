"""What a stream really ended with.

Where a server ends a call while its client still writes, grpc.aio may report the write that failed
in place of what the server said: it sets both as the call's status, in either order.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio

__all__ = ["Ending"]

_WRITE_FAILED = "Internal error from Core"
"""The words of grpc.aio for a write into a call that has ended."""


class Ending:
    """Notes the status of a call, from before its first message on.

    :param call: has sent nothing yet.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call
        self._found: grpc.aio.AioRpcError | None = None
        self._said = asyncio.Event()
        call.add_done_callback(self._note)

    async def error(
        self, reported: grpc.aio.AioRpcError, *, patience: float
    ) -> grpc.aio.AioRpcError:
        """What the server said; what was reported where it said nothing in ``patience`` seconds."""
        if reported.details() == _WRITE_FAILED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._said.wait()
        return self._found or reported

    def _note(self, _: Any) -> None:
        # A status that is set is awaited without a wait, and the next may overwrite it.
        status = self._status()
        try:
            status.send(None)
        except StopIteration as end:
            found: grpc.aio.AioRpcError = end.value
            if found.details() != _WRITE_FAILED:
                self._said.set()
                if found.code() is not grpc.StatusCode.OK:
                    self._found = found
        finally:
            status.close()

    async def _status(self) -> grpc.aio.AioRpcError:
        call = self._call
        return grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )
