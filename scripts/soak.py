"""A long steady load on a whole exchange, and what grows meanwhile (长稳测试).

    make soak                                    an hour; half a core's work for Guangdong's node
    make soak SECONDS=90 RATE=200 DOOR=envoy     shorter, 200 calls a second, the other door
    make soak OUT=soak.jsonl PLOT=soak.png       every sample as a JSON line, and a picture

Three provinces, each a real node with its Valkey. Calls are due whether the last was answered or
not (`scripts.bench.openloop`): at Guangdong's node 75 % Recognize, of which each fifth is of a
holder of whom it has just heard, so that it fetches from Sichuan, and 10 % VerifyHealthCode of
codes that Sichuan has just issued; at Sichuan's 10 % PublishAttestation, 5 % RevokeAttestation.
What is published ends after some minutes, so that the stores come to rest; until then they rise,
and so do the nodes until they remember as many attestations as they may (20,000, some 60 MiB) and
their access logs' spools are full (32 MiB, mapped): twenty minutes at 300 calls a second.

Each sample is a slice of the load, with connections of its own. At the end a line is fitted to each
series' second half. Exit code: 0 nothing grew and hardly a call failed; 1 something did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

import redis
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from exchange.attestations import LIFE
from exchange.client import Document, NewAttestation, Purpose
from exchange.facts import Kind
from exchange.v1 import attestation_service_pb2, recognition_service_pb2
from scripts.bench import openloop
from scripts.bench.field import HOME, Field, attestation, document, numbers
from scripts.bench.load import Load
from scripts.bench.measure import cpu_seconds
from scripts.bench.openloop import Outcome
from scripts.bench.peers import VENV
from scripts.bench.served import recognitions
from scripts.bench.target import Target

GATE = "440000"
"""Guangdong, where travellers from Sichuan arrive."""
PROVINCES = (GATE, HOME, "310000")
DEADLINE = 1.0
"""Seconds that a gate waits."""
SHARES = {"recognize": 0.75, "verify": 0.10, "publish": 0.10, "revoke": 0.05}
FRESH = 0.2
"""Of those who are recognised, whose attestation is so new that nothing of them is at hand."""
CODES = 32
_PROBE_RATE = 300.0
_SLICE_SECONDS = 10.0
_SAMPLES = 12
"""At least, however short it is."""
_FEWEST = 4
_TOLD_SECONDS = 300.0
"""A second half that is shorter says nothing of growth: caches still fill."""
_FAILED = 0.001
"""A larger share of calls that were refused or late is no good run."""
_SURE = 3.0
"""Times its own standard error must a slope be: else it may be nothing."""

_SERVICE = "/tongxing.v1."
console = Console(width=118 if not sys.stdout.isatty() else None, stderr=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """What may be said of a series: how much it may change over the second half.

    :param part: of its mean.
    :param least: that much in any case, in its unit.
    """

    zh: str
    en: str
    unit: str
    part: float
    least: float

    def allowed(self, mean: float) -> float:
        return max(self.part * mean, self.least)


KINDS = {
    "rss": Kept("常驻内存", "RSS", "MiB", 0.03, 3),
    "anon": Kept("匿名内存", "anonymous", "MiB", 0.03, 3),
    "pss": Kept("分摊内存", "PSS", "MiB", 0.03, 3),
    "fds": Kept("描述符", "descriptors", "", 0, 4),
    "threads": Kept("线程", "threads", "", 0, 2),
    "valkey": Kept("Valkey 内存", "Valkey's memory", "MiB", 0.03, 2),
    "p50": Kept("中位时延", "median", "ms", 0.2, 1),
    "p99": Kept("p99 时延", "99th percentile", "ms", 0.3, 10),
}


def holder_of(item: NewAttestation) -> Document:
    return item.document


class Soak:
    """The load, slice by slice, and what is seen of it."""

    def __init__(
        self, field: Field, rate: float, seconds: float, pool: ProcessPoolExecutor
    ) -> None:
        self._field = field
        self._rate = rate
        self._seconds = seconds
        self._pool = pool
        self._recognize = recognitions(field)
        self._numbers = numbers(10**9, first=10**6)
        self._published: list[NewAttestation] = []
        self._random = random.Random(1)  # noqa: S311 - each run is alike
        self._cpu = {code: sum(map(cpu_seconds, _processes(pid))) for code, pid in self._pids()}
        self._at = time.perf_counter()
        self._next = self._work()

    def _pids(self) -> list[tuple[str, int]]:
        return [(code, self._field.exchange.pid(code)) for code in PROVINCES]

    def slice(self) -> dict[str, float]:
        """Some seconds of load; every series' value, by ``what.which``."""
        asked = {
            kind: self._pool.submit(
                openloop.run, *work, SHARES[kind] * self._rate, self._seconds, DEADLINE
            )
            for kind, work in self._next.items()
        }
        self._next = self._work()  # meanwhile, so that the load has no pauses
        found: dict[str, float] = {}
        for kind, asking in asked.items():
            try:
                found |= _times(kind, asking.result())
            except OSError as error:  # a connection was ended: nothing is known of its calls
                console.print(f"[red]{kind}: {error}")
                lost = SHARES[kind] * self._rate * self._seconds
                found |= {f"asked.{kind}": lost, f"failed.{kind}": lost}
                found |= {f"p50.{kind}": 1000 * DEADLINE, f"p99.{kind}": 1000 * DEADLINE}
        for code, pid in self._pids():
            found |= self._process(code, pid)
        self._at = time.perf_counter()
        return found

    def _work(self) -> dict[str, tuple[Target, list[bytes]]]:
        field = self._field
        known = self._published
        count = self._most("publish")
        self._published = [self._short_lived(next(self._numbers)) for _ in range(count)]
        target, requests = self._recognize
        fresh = [_recognition(holder_of(item)) for item in known]
        many = self._random.choices(requests, k=2000)
        if fresh:
            many += self._random.choices(fresh, k=int(len(many) * FRESH / (1 - FRESH)))
        self._random.shuffle(many)
        issuer = f"{_SERVICE}AttestationService/"
        work = {
            "recognize": (target, many),
            "verify": (
                field.target(GATE, "app", f"{_SERVICE}RecognitionService/VerifyHealthCode"),
                asyncio.run(self._codes()),
            ),
            "publish": (
                field.target(HOME, "issuer", f"{issuer}PublishAttestation"),
                [_publication(item) for item in self._published],
            ),
        }
        if known:
            work["revoke"] = (
                field.target(HOME, "issuer", f"{issuer}RevokeAttestation"),
                [_revocation(item) for item in known[: self._most("revoke")]],
            )
        # Only what has surely been sent is asked for in the next slice.
        sent = SHARES["publish"] * self._rate * self._seconds
        self._published = self._published[: int(sent - 3 * math.sqrt(sent))]
        return work

    def _most(self, kind: str) -> int:
        """More calls of a kind than there will be in a slice."""
        mean = SHARES[kind] * self._rate * (self._seconds + 2 * DEADLINE)
        return int(mean + 6 * math.sqrt(mean)) + 1

    def _short_lived(self, number: str) -> NewAttestation:
        """An attestation that ends after a dozen slices."""
        now = datetime.now(UTC)
        made = attestation(number, now)
        sampled = now - LIFE[Kind.NUCLEIC_ACID_TEST] + timedelta(seconds=12 * self._seconds)
        test = made.fact.nucleic_acid_test
        test.sample_time.CopyFrom(Timestamp(seconds=int(sampled.timestamp())))
        return made

    async def _codes(self) -> list[bytes]:
        """Codes of some travellers, as they show them to Guangdong's gate."""
        async with self._field.exchange.client(HOME, "app") as app:
            issued = [
                await app.issue_health_code(document(number), Purpose.PURPOSE_ENTRY_CHECK)
                for number in self._random.sample(self._field.holders, CODES)
            ]
        return [
            recognition_service_pb2.VerifyHealthCodeRequest(
                text=each.health_code.text, purpose="PURPOSE_ENTRY_CHECK"
            ).SerializeToString()
            for each in issued
        ]

    def _process(self, code: str, pid: int) -> dict[str, float]:
        """What a node and its Valkey hold, and its share of a core since the last slice."""
        pids = _processes(pid)
        cpu = _cpu(pids)
        share = (cpu - self._cpu[code]) / (time.perf_counter() - self._at)
        self._cpu[code] = cpu
        with contextlib.closing(
            redis.Redis(unix_socket_path=str(self._field.exchange.store(code)))
        ) as store:
            used = store.info("memory")["used_memory"]
        return {
            f"rss.{code}": _sum(pids, "status", "VmRSS:") / 1024,
            f"anon.{code}": _sum(pids, "status", "RssAnon:") / 1024,
            f"pss.{code}": _sum(pids, "smaps_rollup", "Pss:") / 1024,
            f"fds.{code}": _descriptors(pids),
            f"threads.{code}": _sum(pids, "status", "Threads:"),
            f"valkey.{code}": used / 2**20,
            f"cpu.{code}": share,
        }


def _processes(node: int) -> list[int]:
    """A node's own: all but its Valkey."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended
            before, _, after = stat.read_text(errors="replace").rpartition(")")
            if not before.endswith("(valkey-server"):
                children[int(after.split()[1])].append(int(stat.parent.name))
    found = [node]
    for pid in found:
        found += children[pid]
    return found


# What builds a filter for a moment may end while it is looked at.


def _sum(pids: Sequence[int], file: str, name: str) -> float:
    """What a field of proc(5) says of processes, all together."""
    found = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
            found += sum(float(line.split()[1]) for line in lines if line.startswith(name))
    return found


def _descriptors(pids: Sequence[int]) -> float:
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return float(found)


def _cpu(pids: Sequence[int]) -> float:
    found = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            found += cpu_seconds(pid)
    return found


def _times(kind: str, outcome: Outcome) -> dict[str, float]:
    took = sorted([*outcome.in_time, *[DEADLINE] * outcome.late]) or [0.0]
    return {
        f"p50.{kind}": 1000 * took[len(took) // 2],
        f"p99.{kind}": 1000 * took[int(len(took) * 0.99)],
        f"asked.{kind}": float(len(outcome.behind)),
        f"failed.{kind}": float(outcome.refused + outcome.late),
    }


def _recognition(document: Document) -> bytes:
    return recognition_service_pb2.RecognizeRequest(
        document=document, purpose="PURPOSE_ENTRY_CHECK"
    ).SerializeToString()


def _publication(item: NewAttestation) -> bytes:
    return attestation_service_pb2.PublishAttestationRequest(attestation=item).SerializeToString()


def _revocation(item: NewAttestation) -> bytes:
    return attestation_service_pb2.RevokeAttestationRequest(
        attestation_id=item.attestation_id, reason="长稳测试"
    ).SerializeToString()


@dataclass(frozen=True, slots=True)
class Trend:
    """A series' second half, and the line that fits it best."""

    mean: float
    an_hour: float
    """By how much it rises in an hour, in its unit."""
    change: float
    """By how much it rose over the half, by that line."""
    sure: bool
    """Whether that can hardly be chance."""

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Trend:
        """:param points: seconds and values."""
        half = points[len(points) // 2 :]
        at, values = zip(*half, strict=True)
        slope, start = statistics.linear_regression(at, values)
        off = sum((y - start - slope * x) ** 2 for x, y in half) / max(1, len(half) - 2)
        middle = statistics.fmean(at)
        error = math.sqrt(off / sum((x - middle) ** 2 for x in at))
        change = slope * (at[-1] - at[0])
        return cls(statistics.fmean(values), 3600 * slope, change, abs(slope) > _SURE * error)


def verdict(samples: Sequence[dict[str, float]]) -> bool:
    """Print what became of each series; whether all is well."""
    half = samples[-1]["at"] - samples[len(samples) // 2]["at"]
    told = half >= _TOLD_SECONDS
    table = Table("", "", "开始 begin", "后半均值 mean, 2nd half", "每小时 an hour", "", box=None)
    grew = 0
    series = [name for name in samples[-1] if name.split(".")[0] in KINDS]
    for name in series:
        kind, _, which = name.partition(".")
        kept = KINDS[kind]
        points = [(sample["at"], sample[name]) for sample in samples if name in sample]
        trend = Trend.of(points)
        grows = trend.sure and trend.change > kept.allowed(trend.mean)
        grew += told and grows
        table.add_row(
            f"{kept.zh} {kept.en}",
            which,
            f"{points[0][1]:,.1f} {kept.unit}",
            f"{trend.mean:,.1f} {kept.unit}",
            f"{trend.an_hour:+,.1f} {kept.unit}" if told else "",
            "" if not told else "[red]增长 grows" if grows else "平稳 steady",
        )
    console.print(table)
    asked, failed = (
        sum(sample.get(f"{what}.{kind}", 0) for sample in samples for kind in SHARES)
        for what in ("asked", "failed")
    )
    served = failed <= _FAILED * asked
    if not told:
        console.print(
            f"后半段仅 {half:.0f} 秒，不足以判断增长 the second half has {half:.0f} s, too few to "
            f"tell growth: {_TOLD_SECONDS:.0f} are needed"
        )
    said = "无增长 nothing grows" if told else "未判断增长 growth not told"
    console.print(
        f"[bold {'green' if served and not grew else 'red'}]{asked:,.0f} 次调用 calls, "
        f"{failed:,.0f} 失败 failed; {f'{grew} 项增长 grow' if grew else said}"
    )
    return served and not grew


def _half(field: Field, pool: ProcessPoolExecutor) -> float:
    """The rate that is half a core's work for the gate's node: most of it is one thread's."""
    probe = Soak(field, _PROBE_RATE, _SLICE_SECONDS, pool)
    probe.slice()
    return _PROBE_RATE * 0.5 / probe.slice()[f"cpu.{GATE}"]


def samples_of(soak: Soak, seconds: float, out: TextIO | None) -> Iterator[dict[str, float]]:
    """Run it; each sample is printed in short, and written down."""
    began = time.monotonic()
    while (at := time.monotonic() - began) < seconds:
        sample = {"at": round(at, 1)} | {k: round(v, 3) for k, v in soak.slice().items()}
        if out:
            print(json.dumps(sample), file=out, flush=True)
        failed = sum(sample.get(f"failed.{kind}", 0) for kind in SHARES)
        console.print(
            f"{at:6,.0f} s: p50 {sample['p50.recognize']:.1f} ms, "
            f"p99 {sample['p99.recognize']:.1f} ms, {failed:.0f} 失败 failed; {GATE}: "
            f"{sample[f'rss.{GATE}']:.0f} MiB, {sample[f'fds.{GATE}']:.0f} 描述符 descriptors, "
            f"{sample[f'cpu.{GATE}']:.0%} CPU",
            highlight=False,
        )
        yield sample


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, help="calls a second; half a core's work otherwise")
    parser.add_argument("--door", choices=["grpcio", "envoy"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="every sample as a JSON line")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    if options.plot and not (VENV / "bin" / "python").exists():
        parser.error("--plot: there is no .bench to draw with; scripts/bench/README.md has how")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no node is left behind
    if options.door:
        os.environ["TONGXING_DOOR"] = options.door
    slices = min(_SLICE_SECONDS, options.seconds / _SAMPLES)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="tongxing-soak-"))
        field = Field(Path(scratch, "x"), stack.enter_context(Load()), PROVINCES, GATE)
        stack.callback(field.stop)
        field.start()
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(len(SHARES), mp_context=spawn))
        rate = options.rate or _half(field, pool)
        console.print(
            f"{len(PROVINCES)} 个节点 nodes, {rate:,.0f} 次/秒 calls/s, {options.seconds:,.0f} s"
        )
        out = stack.enter_context(options.out.open("w")) if options.out else None
        samples: list[dict[str, float]] = []
        with contextlib.suppress(KeyboardInterrupt):  # what was seen until then is told
            samples.extend(samples_of(Soak(field, rate, slices, pool), options.seconds, out))
    if len(samples) < _FEWEST:
        console.print("[red]样本太少 too few samples: nothing is said")
        return 1
    right = verdict(samples)
    if options.plot:
        lines = "\n".join(map(json.dumps, samples))
        command = [VENV / "bin" / "python", Path(__file__).with_name("soakplot.py"), options.plot]
        subprocess.run(command, input=lines, text=True, check=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
