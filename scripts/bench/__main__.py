"""``make bench``, ``make bench CASE=fetch``: see README.md."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.bench import bare, country, growth, latency, lookup, overload, presence, served, trust
from scripts.bench.field import HOME, Field
from scripts.bench.load import Load
from scripts.bench.measure import Figure
from scripts.bench.peers import VENV

_ALONE = (HOME,)
_THREE = ("440000", HOME, "310000")
"""The first is asked, the second has the evidence, the third has none."""
_LONG = {
    "without-tls",
    "latency",
    "overload",
    "growth-store",
    "growth-batch",
    "growth-provinces",
}
"""Run only where they are named."""


class Bench:
    """The cases, by name, in the order in which they run."""

    def __init__(
        self, rounds: int, seconds: float, ours: bool, stack: contextlib.ExitStack
    ) -> None:
        self._stack = stack
        self._load = functools.cache(lambda: stack.enter_context(Load(ours=ours)))
        self._fields: dict[tuple[tuple[str, ...], bool, bool], Field] = {}
        self.cases: dict[str, Callable[[str], Iterator[Figure]]] = {
            "idle": lambda case: served.idle(case, self._field(_ALONE), rounds),
            "fetch": lambda case: served.fetch(
                case, self._field(_ALONE), rounds, seconds, tokens=1, aim={"ratio": 0.9}
            ),
            "fetch-64": lambda case: served.fetch(
                case, self._field(_ALONE), rounds, seconds, tokens=64, aim={"value": 150_000.0}
            ),
            "lookup": lambda case: lookup.lookup(case, self._field(_ALONE), rounds, seconds),
            "without-tls": lambda case: lookup.without_tls(
                case, self._field(_ALONE), rounds, seconds
            ),
            "recognize-local": lambda case: served.recognize(
                case, self._field(_ALONE), rounds, seconds, calls=0, aim={"ratio": 0.6}
            ),
            "issue-code": lambda case: served.issue_code(
                case, self._field(_ALONE), rounds, seconds
            ),
            "verify-code": lambda case: served.verify_code(
                case, self._field(_ALONE), rounds, seconds
            ),
            "publish": lambda case: served.publish(
                case, self._field(_ALONE), rounds, seconds, together=64
            ),
            "publish-1": lambda case: served.publish(
                case, self._field(_ALONE), rounds, seconds, together=1
            ),
            "recognize-cached": lambda case: served.recognize(
                case, self._field(_THREE), rounds, seconds, calls=0
            ),
            "recognize-remote": lambda case: served.recognize(
                case, self._field(_THREE, forgets=True), rounds, seconds, calls=1
            ),
            "batch": lambda case: served.batch(case, self._field(_THREE), rounds, seconds),
            "hearing": lambda case: served.hearing(case, self._field(_THREE), rounds),
            "verify": lambda case: bare.verify(case, rounds, seconds),
            "hc1": lambda case: bare.hc1_texts(case, rounds, seconds),
            "rules": lambda case: bare.rules(case, rounds, seconds),
            "trust": lambda case: trust.refreshes(case, rounds),
            "presence": lambda case: presence.presence(case, self._directory()),
            "exchange": lambda case: country.country(case, self._directory()),
            "latency": lambda case: latency.latency(
                case, self._field(_ALONE, sheds=True), rounds, seconds
            ),
            "overload": lambda case: overload.overload(
                case, self._field(_ALONE, sheds=True), seconds
            ),
            "growth-store": lambda case: growth.stores(
                case, self._directory(), self._load(), rounds, seconds
            ),
            "growth-batch": lambda case: growth.batches(case, self._field(_ALONE), rounds, seconds),
            "growth-provinces": lambda case: growth.provinces(
                case, self._directory(), self._load(), rounds, seconds
            ),
        }

    def _directory(self) -> Path:
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory())
        return Path(scratch) / "exchange"

    def _field(
        self, provinces: tuple[str, ...], *, forgets: bool = False, sheds: bool = False
    ) -> Field:
        """The exchange of some provinces, started when it is first asked for."""
        which = provinces, forgets, sheds
        if which not in self._fields:
            field = Field(
                self._directory(), self._load(), provinces, provinces[0],
                forgets=forgets, sheds=sheds,
            )  # fmt: skip
            self._stack.callback(field.stop)
            field.start()
            self._fields[which] = field
        return self._fields[which]


def main() -> int:
    """Run the cases; one JSON line each on standard output, a table on standard error."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench")
    parser.add_argument("case", nargs="*", help="by name; without any, all but the long ones")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ours", action="store_true", help="the load by grpc.aio, not by h2load")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the case latency")
    options = parser.parse_args()
    if options.plot and not (VENV / "bin" / "python").exists():
        parser.error("--plot: there is no .bench to draw with; scripts/bench/README.md has how")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no node is left behind
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        bench = Bench(options.rounds, options.seconds, options.ours, stack)
        if unknown := set(options.case) - set(bench.cases):
            parser.error(f"no case {min(unknown)}; there are {', '.join(bench.cases)}")
        for name, case in bench.cases.items():
            if name in options.case or not (options.case or name in _LONG):
                for figure in case(name):
                    print(figure, flush=True)
                    figures.append(figure)
    print(_table(figures), file=sys.stderr)
    if options.plot:
        return _plot(figures, options.plot)
    return 0


def _plot(figures: list[Figure], file: Path) -> int:
    lines = "\n".join(map(str, figures))
    script = Path(__file__).with_name("plot.py")
    command = [VENV / "bin" / "python", script, file]
    return subprocess.run(command, input=lines, text=True, check=False).returncode


def _table(figures: list[Figure]) -> str:
    """In Markdown."""
    rows = [("case", "value", "unit", "ratio", "to", "its value", "spread", "aim", "load")]
    for figure in figures:
        aims = [f"{name} ≥ {_number(least)}" for name, least in (figure.aim or {}).items()]
        missed = " (missed)" if figure.reached is False else ""
        rows.append(
            (
                figure.case,
                _number(figure.value),
                figure.unit,
                "" if figure.ratio is None else f"{figure.ratio:.2f}",
                figure.peer or "",
                "" if figure.peer_value is None else _number(figure.peer_value),
                f"{figure.spread:.0%}",
                ", ".join(aims) + missed,
                figure.load or "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
