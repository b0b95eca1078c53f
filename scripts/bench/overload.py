"""What becomes of a node that is asked three times what it can bear: does it go on answering?

A crowd (h2load, at a rate) makes the load, and is counted. A few calls beside it (`openloop`) tell
how long answers take: the node cannot tell the two apart.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from scripts.bench import openloop
from scripts.bench.field import Field
from scripts.bench.latency import DEADLINE, percentile, took
from scripts.bench.measure import Figure, compare, cpu_seconds, resident, until_idle
from scripts.bench.openloop import Outcome
from scripts.bench.served import recognitions, run
from scripts.bench.target import NEVER_SHED, Target

__all__ = ["overload"]

LOADS = (0.8, 1.0, 1.5, 3.0)
"""Parts of the capacity, which is measured first."""
_FEW = 400.0
"""Calls a second that are looked at."""
_LONGER = 8
_ADMIN = "/tongxing.v1.KeyService/ListKeys"
_ADMIN_SECONDS = 0.5
_IN_A_ROW = 10
_GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Step:
    asked: float
    """Calls a second."""
    good: float
    """The same, that were answered before their deadline."""
    few: Outcome
    cpu: float
    """The node's, in seconds a second."""
    admin: Sequence[float]
    """How long each call of an admin took, in seconds."""
    unanswered: int
    """Calls of an admin that failed."""
    resident: float
    """At most, MiB."""


def overload(case: str, field: Field, seconds: float) -> Iterator[Figure]:
    """Recognize of evidence at hand by parts of the capacity, and how soon all is well after."""
    target, requests = recognitions(field)
    node = field.pids[0]
    for request in requests:
        field.load.once(target, request)

    def bears(seconds: float) -> float:
        until_idle(node)
        return run(field, target, requests, seconds, (node,), in_flight=NEVER_SHED).rate

    bears(seconds)  # and h2load knows how many calls to make
    capacity = bears(4 * seconds)
    yield compare(f"{case}.capacity", "calls/s", [capacity], load=field.load.name)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as elsewhere:
        elsewhere.submit(int).result()
        steps = []
        for load in LOADS:
            until_idle(node)
            rate, longer = load * capacity, seconds * _LONGER
            steps.append(_ask(field, elsewhere, target, requests, rate, longer))
        ended = time.perf_counter()
    bearable = 4 * took(steps[0].few, 0.99)
    recovered = _recovered(field, target, requests, bearable) - ended
    peak = max(each.good for each in steps)
    for load, step in zip(LOADS, steps, strict=True):
        yield from _figures(f"{case}.{load:.0%}", step, steps[0], peak, beyond=load > 1)
    yield compare(f"{case}.recovered", "s", [recovered])


def _ask(
    field: Field,
    elsewhere: ProcessPoolExecutor,
    target: Target,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
) -> _Step:
    few = min(_FEW, rate / 2)
    node = field.pids[0]
    whole = seconds + 2 * DEADLINE
    over = threading.Event()
    admin: list[float] = []
    failed: list[str] = []
    most = [resident(node)]

    keys = field.target(field.asked, "admin", _ADMIN, field.reserved)
    field.load.once(keys, b"")  # its connection is there

    def ask_as_admin() -> None:
        while not over.wait(_ADMIN_SECONDS):
            began = time.perf_counter()
            try:
                field.load.once(keys, b"")
            except RuntimeError as error:
                failed.append(str(error))
            admin.append(time.perf_counter() - began)
            most.append(resident(node))

    watching = threading.Thread(target=ask_as_admin)
    watching.start()
    try:
        before, began = cpu_seconds(node), time.perf_counter()
        with field.load.crowd(target, requests[0], rate - few, whole, DEADLINE) as crowd:
            outcome = elsewhere.submit(
                openloop.run, target, requests, few, seconds, DEADLINE
            ).result()
        cpu = (cpu_seconds(node) - before) / (time.perf_counter() - began)
    finally:
        over.set()
        watching.join()
    good = crowd.good + len(outcome.in_time) / outcome.seconds
    return _Step(few + crowd.rate, good, outcome, cpu, admin, len(failed), max(most))


def _recovered(field: Field, target: Target, requests: Sequence[bytes], bearable: float) -> float:
    """When the first of so many calls in a row was made that were answered soon."""
    begun = end = time.perf_counter()
    well = 0
    while well < _IN_A_ROW and end - begun < _GIVE_UP_SECONDS:
        began = time.perf_counter()
        answered = False
        with contextlib.suppress(RuntimeError):
            field.load.once(target, requests[0])
            answered = True
        if well == 0:
            end = began
        well = well + 1 if answered and time.perf_counter() - began <= bearable else 0
    return end


def _figures(case: str, step: _Step, easy: _Step, peak: float, *, beyond: bool) -> Iterator[Figure]:
    aim = {"ratio": 0.8} if beyond else None
    yield compare(f"{case}.asked", "calls/s", [step.asked], load="h2load")
    yield compare(f"{case}.good", "calls/s", [step.good], "peak", [peak], aim=aim)
    aim = {"ratio": 0.25} if beyond else None
    took_ = [1000 * took(each.few, 0.99) for each in (step, easy)]
    yield compare(f"{case}.p99", "ms", took_[:1], "80%", took_[1:], aim=aim, less_is_better=True)
    yield compare(f"{case}.p50", "ms", [1000 * took(step.few, 0.5)])
    yield compare(f"{case}.refused", "%", [100 * step.few.refused / max(1, len(step.few.behind))])
    yield compare(f"{case}.late", "%", [100 * step.few.late / max(1, len(step.few.behind))])
    yield compare(f"{case}.cpu", "cores", [step.cpu])
    yield compare(f"{case}.admin.p99", "ms", [1000 * percentile(step.admin, 0.99)])
    yield compare(f"{case}.admin.failed", "calls", [float(step.unanswered)])
    yield compare(f"{case}.resident", "MiB", [step.resident])
