"""The presence filter of a large store: how long its build takes, what it needs, how often it errs.

``SUBJECTS=10000000 python -m scripts.bench presence`` for more than a million.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from exchange.presence import SUBJECT_BYTES, PresenceFilter
from nodes.embedded import EmbeddedValkey
from nodes.store import presence as store_presence
from nodes.store.attestations import AttestationStore
from nodes.store.connection import Connection
from nodes.telemetry import configure
from scripts.bench.measure import Figure, compare, resident

__all__ = ["presence"]

_AT_ONCE = 10_000
_STRANGERS = 1_000_000
_ROUNDS = 5
_TURN_SECONDS = 0.005
_LOOK_SECONDS = 0.02


def presence(case: str, directory: Path) -> Iterator[Figure]:
    """Build it as a node does, and ask it for those whom the store never held."""
    configure("error", "console")
    count = int(os.environ.get("SUBJECTS", "1000000"))
    made, figures = asyncio.run(_build(case, directory, count))
    yield from figures
    made.add_all(os.urandom(SUBJECT_BYTES * max(0, made.capacity - made.count)))
    asked = [_asked(made) for _ in range(_ROUNDS)]
    yield compare(
        f"{case}.wrong-when-full", "%", [wrong for wrong, _ in asked], "limit", [0.1] * _ROUNDS,
        aim={"ratio": 1.0}, less_is_better=True,
    )  # fmt: skip
    yield compare(f"{case}.ask", "µs/stranger", [took for _, took in asked])
    yield compare(f"{case}.add", "µs/subject", [_added(count) for _ in range(_ROUNDS)])


async def _build(case: str, directory: Path, count: int) -> tuple[PresenceFilter, list[Figure]]:
    valkey = EmbeddedValkey(directory)
    await valkey.start()
    try:
        await _fill(valkey.url, count)
        store = await AttestationStore.open(valkey.url)
        before = resident(os.getpid())
        async with _watching() as seen:
            begun = time.perf_counter()
            made = await store_presence.build(store, valkey.url)
            took = time.perf_counter() - begun
        await store.close()
    finally:
        await valkey.stop()
    bits = len(made.bits) * 8
    return made, [
        Figure(f"{case}.build", took, "s"),
        Figure(f"{case}.builder", seen["builder"], "MiB"),
        Figure(f"{case}.node", max(0.0, seen["node"] - before), "MiB more"),
        Figure(f"{case}.held", seen["held"] * 1000, "ms"),
        Figure(f"{case}.size", bits / 8 / (1 << 20), "MiB"),
        Figure(f"{case}.bits", bits / count, "bits/subject"),
    ]


async def _fill(url: str, count: int) -> None:
    """Hashes of one small field: a build reads their keys alone."""
    connection = await Connection.open(url, reply_seconds=60.0)
    for start in range(0, count, _AT_ONCE):
        tokens = os.urandom(36 * min(_AT_ONCE, count - start))
        await connection.pipeline(
            [
                (b"HSET", b"s:{%b}" % tokens[at : at + 36], b"i", b"v")
                for at in range(0, len(tokens), 36)
            ]
        )
    await connection.close()


@contextlib.asynccontextmanager
async def _watching() -> AsyncIterator[dict[str, float]]:
    """Most memory of this process and of the one that builds, and the longest hold of the loop."""
    seen = {"builder": 0.0, "node": 0.0, "held": 0.0}
    done = asyncio.Event()

    async def turn() -> None:
        while not done.is_set():
            begun = time.perf_counter()
            await asyncio.sleep(_TURN_SECONDS)
            seen["held"] = max(seen["held"], time.perf_counter() - begun - _TURN_SECONDS)

    async def look() -> None:
        while not done.is_set():
            await asyncio.to_thread(_look, seen)
            await asyncio.sleep(_LOOK_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(turn())
        tasks.create_task(look())
        yield seen
        done.set()


def _look(seen: dict[str, float]) -> None:
    seen["node"] = max(seen["node"], resident(os.getpid()))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it ended
            if b"nodes.store.presence" in (process / "cmdline").read_bytes():
                seen["builder"] = max(seen["builder"], resident(int(process.name)))


def _asked(made: PresenceFilter) -> tuple[float, float]:
    """Of strangers: per cent that are said to be there perhaps, and µs for each."""
    packed = os.urandom(SUBJECT_BYTES * _STRANGERS)
    strangers = [packed[at : at + SUBJECT_BYTES] for at in range(0, len(packed), SUBJECT_BYTES)]
    begun = time.process_time()
    wrong = sum([each in made for each in strangers])
    took = time.process_time() - begun
    return 100 * wrong / _STRANGERS, 1e6 * took / _STRANGERS


def _added(count: int) -> float:
    """Add to an empty filter: µs for each."""
    made = PresenceFilter.sized(count)
    packed = os.urandom(SUBJECT_BYTES * min(count, _STRANGERS))
    begun = time.process_time()
    made.add_all(packed)
    return 1e6 * (time.process_time() - begun) / (len(packed) // SUBJECT_BYTES)
