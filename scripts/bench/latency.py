"""How long a Recognize takes by how much the node is asked, below what it can bear and beyond."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from scripts.bench import openloop
from scripts.bench.field import Field
from scripts.bench.measure import Figure, compare, interleave, until_idle
from scripts.bench.openloop import Outcome
from scripts.bench.served import recognitions, run
from scripts.bench.target import Target

__all__ = ["latency"]

LOADS = (0.5, 0.8, 0.95, 1.5, 2.0, 3.0)
"""Parts of the capacity, which was measured just before."""
DEADLINE = 1.0
"""Seconds that a gate waits."""
CROWD = 23_000.0
"""Calls a second that broke the health code of Guangdong."""

_LOAD = "open loop"
_ROUNDS = 3
_LONGER = 4
"""Times the seconds of a round: so that its 99th percentile is one of some dozens of calls."""


@dataclass(frozen=True, slots=True)
class _Side:
    target: Target
    pid: int
    capacity: float


def latency(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """Recognize of evidence at hand, and the echo, each by parts of its own capacity."""
    target, requests = recognitions(field)
    for request in requests:
        field.load.once(target, request)
    echo, bare = field.echo(field.load.once(target, requests[0]))
    spawn = multiprocessing.get_context("spawn")
    with echo, ProcessPoolExecutor(1, mp_context=spawn) as elsewhere:
        rates = interleave(
            rounds,
            lambda: run(field, target, requests, seconds, field.pids).rate,
            lambda: run(field, bare, requests, seconds, (echo.pid,)).rate,
        )
        yield compare(
            f"{case}.capacity", "calls/s", rates[0], "echo", rates[1], aim={"value": CROWD},
            load=field.load.name,
        )  # fmt: skip
        capacities = [statistics.median(each) for each in rates]
        sides = [
            _Side(target, field.pids[0], capacities[0]),
            _Side(bare, echo.pid, capacities[1]),
        ]

        def ask(side: _Side, load: float) -> Outcome:
            until_idle(side.pid)
            return elsewhere.submit(
                openloop.run,
                side.target, requests, load * side.capacity, seconds * _LONGER, DEADLINE,
            ).result()  # fmt: skip

        asked = [functools.partial(ask, side, load) for load in LOADS for side in sides]
        outcomes = interleave(min(rounds, _ROUNDS), *asked)
    for at, load in enumerate(LOADS):
        ours, theirs = outcomes[2 * at : 2 * at + 2]
        yield from _figures(f"{case}.{load:.0%}", ours, theirs, load, capacities[0])
    behind = [
        1000 * _percentile(outcome.behind, 0.99)
        for round_ in zip(*outcomes, strict=True)
        for outcome in round_
    ]
    yield compare(f"{case}.behind", "ms", behind, load=_LOAD)


def _figures(
    case: str, ours: Sequence[Outcome], theirs: Sequence[Outcome], load: float, capacity: float
) -> Iterator[Figure]:
    good = [len(each.in_time) / each.seconds for each in ours]
    bearable = [min(load, 1.0) * capacity] * len(good)
    peer = "offered" if load <= 1 else "capacity"
    yield compare(f"{case}.good", "calls/s", good, peer, bearable, load=_LOAD)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        took = [[1000 * _took(each, part) for each in side] for side in (ours, theirs)]
        yield compare(
            f"{case}.{name}", "ms", took[0], "echo", took[1], less_is_better=True, load=_LOAD
        )
    refused = [100 * each.refused / len(each.behind) for each in ours]
    late = [100 * each.late / len(each.behind) for each in ours]
    yield compare(f"{case}.refused", "%", refused, load=_LOAD)
    yield compare(f"{case}.late", "%", late, load=_LOAD)


def _took(outcome: Outcome, part: float) -> float:
    """A percentile of what was not refused; who was late has waited until the deadline."""
    return _percentile([*outcome.in_time, *[DEADLINE] * outcome.late], part)


def _percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[int(len(ordered) * part)]
