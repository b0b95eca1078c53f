"""Figures and how they are taken: rounds interleaved, medians, CPU time of other processes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Figure",
    "child_of",
    "compare",
    "cpu_seconds",
    "interleave",
    "per_second",
    "resident",
    "until_idle",
]

_IDLE = 0.1
"""The share of a core that a process may need and still count as idle."""
_SETTLED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result.

    :param ratio: the median of the rounds' own ratios, above 1 where ours is the better: value by
        peer_value, or the inverse where less is better.
    :param aim: what design.md §12 wants: ``{"ratio": 0.9}`` or ``{"value": 150000}``, at least.
    :param spread: (largest - smallest) / median of the rounds' ratios, or values without a peer.
    :param load: what made the calls, where there were any.
    """

    case: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    aim: dict[str, float] | None = None
    rounds: int = 1
    spread: float = 0.0
    load: str | None = None

    def __str__(self) -> str:
        return json.dumps(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()},
            ensure_ascii=False,
        )

    @property
    def reached(self) -> bool | None:
        """Whether it reaches its aim; None where it has none."""
        if self.aim is None:
            return None
        return all(getattr(self, name) >= least for name, least in self.aim.items())


def compare(
    case: str,
    unit: str,
    values: Sequence[float],
    peer: str | None = None,
    peer_values: Sequence[float] = (),
    *,
    aim: dict[str, float] | None = None,
    less_is_better: bool = False,
    load: str | None = None,
) -> Figure:
    """A figure from the values of the rounds."""
    if not peer_values:
        value, spread = statistics.median(values), _spread(values)
        return Figure(case, value, unit, aim=aim, rounds=len(values), spread=spread, load=load)
    ratios = [
        theirs / ours if less_is_better else ours / theirs
        for ours, theirs in zip(values, peer_values, strict=True)
    ]
    return Figure(
        case,
        statistics.median(values),
        unit,
        peer,
        statistics.median(peer_values),
        statistics.median(ratios),
        aim,
        len(values),
        _spread(ratios),
        load,
    )


def _spread(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def interleave(rounds: int, *contenders: Callable[[], Any]) -> list[list[Any]]:
    """What each contender gave in each round.

    Every other round runs backwards, so that a machine that slows down or warms up favours nobody.
    """
    results: list[list[Any]] = [[] for _ in contenders]
    for number in range(rounds):
        order = range(len(contenders))
        for index in order if number % 2 == 0 else reversed(order):
            results[index].append(contenders[index]())
    return results


def per_second(work: Callable[[], int], seconds: float) -> float:
    """How many units of work this process does in a second of its CPU time.

    :param work: does some, and tells how many.
    """
    done = 0
    took = 0.0
    began = time.process_time()
    while took < seconds:
        done += work()
        took = time.process_time() - began
    return done / took


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, user and system, all its threads.

    Its CPU clock (clock_getcpuclockid(3), as Linux numbers it) counts nanoseconds, where
    /proc/PID/stat has the same in ticks of 10 ms.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident(pid: int) -> float:
    """Resident memory of a process in MiB (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def until_idle(*pids: int, seconds: float = 0.2) -> None:
    """Wait until processes did nothing for so long, but no longer than two minutes."""
    end = time.monotonic() + _SETTLED_SECONDS
    spent = seconds
    while spent > _IDLE * seconds and time.monotonic() < end:
        before = sum(map(cpu_seconds, pids))
        time.sleep(seconds)
        spent = sum(map(cpu_seconds, pids)) - before


def child_of(pid: int, name: str) -> int:
    """The one child of a process that has this name."""
    (child,) = (
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if _is_child(stat, pid, name)
    )
    return child


def _is_child(stat: Path, parent: int, name: str) -> bool:
    try:
        text = stat.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it ended
        return False
    before, _, after = text.rpartition(")")
    return before.partition("(")[2] == name and int(after.split()[1]) == parent
