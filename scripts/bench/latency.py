"""How long a Recognize takes by how much the node is asked, below what it can bear and beyond."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from scripts.bench import openloop
from scripts.bench.field import Field
from scripts.bench.measure import Figure, compare, interleave, until_idle
from scripts.bench.openloop import Outcome
from scripts.bench.served import recognitions, run
from scripts.bench.target import NEVER_SHED, Target

__all__ = ["DEADLINE", "latency", "percentile", "took"]

LOADS = (0.5, 0.8, 0.95, 1.5, 2.0, 3.0)
"""Parts of the capacity, which is measured just before each."""
DEADLINE = 1.0
"""Seconds that a gate waits."""
CROWD = 23_000.0
"""Calls a second that broke the health code of Guangdong."""

_LOAD = "open loop"
_ROUNDS = 3
_LONGER = 4
"""Times the seconds of a round: so that its 99th percentile is one of some dozens of calls."""


@dataclass(frozen=True, slots=True)
class _Round:
    capacity: float
    """Calls a second."""
    outcome: Outcome


def latency(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """Recognize of evidence at hand, and the echo, each by parts of its own capacity."""
    target, requests = recognitions(field)
    for request in requests:
        field.load.once(target, request)
    echo, bare = field.echo(field.load.once(target, requests[0]))
    spawn = multiprocessing.get_context("spawn")
    with echo, ProcessPoolExecutor(1, mp_context=spawn) as elsewhere:

        def ask(target: Target, pid: int, load: float) -> _Round:
            until_idle(pid)
            capacity = run(field, target, requests, 2 * seconds, (pid,), in_flight=NEVER_SHED).rate
            until_idle(pid)
            asking = elsewhere.submit(
                openloop.run, target, requests, load * capacity, seconds * _LONGER, DEADLINE
            )
            return _Round(capacity, asking.result())

        sides = ((target, field.pids[0]), (bare, echo.pid))
        ask(*sides[0], LOADS[0])  # its processes begin
        asked = [functools.partial(ask, *side, load) for load in LOADS for side in sides]
        found = interleave(min(rounds, _ROUNDS), *asked)
    ours, theirs = found[::2], found[1::2]
    capacities = [
        [each.capacity for rounds_ in side for each in rounds_] for side in (ours, theirs)
    ]
    yield compare(
        f"{case}.capacity", "calls/s", capacities[0], "echo", capacities[1],
        aim={"value": CROWD}, load=field.load.name,
    )  # fmt: skip
    for load, mine, others in zip(LOADS, ours, theirs, strict=True):
        yield from _figures(f"{case}.{load:.0%}", mine, others)
    behind = [percentile(each.outcome.behind, 0.99) for rounds_ in found for each in rounds_]
    yield compare(f"{case}.behind", "ms", [1000 * each for each in behind], load=_LOAD)


def _figures(case: str, ours: Sequence[_Round], theirs: Sequence[_Round]) -> Iterator[Figure]:
    outcomes = [each.outcome for each in ours]
    good = [len(each.in_time) / each.seconds for each in outcomes]
    asked = [len(each.behind) / each.seconds for each in outcomes]
    bearable = [min(rate, each.capacity) for rate, each in zip(asked, ours, strict=True)]
    yield compare(f"{case}.good", "calls/s", good, "bearable", bearable, load=_LOAD)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        each_took = [[1000 * took(each.outcome, part) for each in side] for side in (ours, theirs)]
        yield compare(
            f"{case}.{name}", "ms", each_took[0], "echo", each_took[1], less_is_better=True,
            load=_LOAD,
        )  # fmt: skip
    refused = [100 * each.refused / len(each.behind) for each in outcomes]
    late = [100 * each.late / len(each.behind) for each in outcomes]
    yield compare(f"{case}.refused", "%", refused, load=_LOAD)
    yield compare(f"{case}.late", "%", late, load=_LOAD)


def took(outcome: Outcome, part: float) -> float:
    """A percentile of what was not refused; who was late has waited until the deadline."""
    return percentile([*outcome.in_time, *[DEADLINE] * outcome.late], part)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which such a part of them lies; 0 of none."""
    ordered = sorted(values) or [0.0]
    return ordered[int(len(ordered) * part)]
