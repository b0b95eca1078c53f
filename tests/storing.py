"""What the tests of the store share: invented records, and patience with a server that is away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from exchange.errors import StoreUnavailableError
from nodes.store.records import NewRecord

ISSUER = "12440000MB2D00001X"


def new(**changes: Any) -> NewRecord:
    values = {
        "id": secrets.token_bytes(16),
        "token": secrets.token_bytes(36),
        "issuer": ISSUER,
        "digest": bytes(32),
        "expires": int(time.time()) + 3600,
        "signed": b"\xd2" + secrets.token_bytes(400),
    }
    return NewRecord(**(values | changes))


def like(record: NewRecord, **changes: Any) -> NewRecord:
    names = ("id", "token", "issuer", "digest", "expires", "signed", "place")
    return NewRecord(**({name: getattr(record, name) for name in names} | changes))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; a store that does not answer may yet."""
    async with asyncio.timeout(15):
        while True:
            try:
                if await condition():
                    return
            except StoreUnavailableError:
                pass
            await asyncio.sleep(0.01)
