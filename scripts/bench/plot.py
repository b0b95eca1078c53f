"""Draw the figures of the case ``latency``: what is served, and how soon, by how much is asked.

    python -m scripts.bench latency --plot latency.png
    .bench/bin/python scripts/bench/plot.py latency.png < lines.json

It runs in the benchmarks' own environment (`peers.VENV`), not in the project's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

OURS, ECHO, LIMIT = "#1b6ca8", "#c8722b", "#8a8a8a"


def main() -> None:
    figures = {each["case"]: each for each in map(json.loads, sys.stdin)}
    loads = [
        float(case.split(".")[1].rstrip("%"))
        for case in figures
        if case.startswith("latency.") and case.endswith(".good")
    ]
    if not loads:
        sys.exit("nothing to draw: the case latency did not run")
    mpl.use("agg")
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    drawing, (rate, time) = plt.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    capacity = figures["latency.capacity"]["value"]
    _rates(rate, figures, loads, capacity)
    _times(time, figures, loads)
    for axes in (rate, time):
        axes.axvline(100, color=LIMIT, lw=0.8, ls=":")
        axes.grid(axis="y", color="#e4e4e4")
        axes.set_axisbelow(True)
    rate.set_title(f"Recognize, evidence at hand: capacity {capacity:,.0f} calls/s", loc="left")
    time.set_xlabel("asked, % of the capacity (the echo's: of its own)")
    drawing.savefig(sys.argv[1], dpi=150)


def _rates(axes: Any, figures: dict[str, Any], loads: list[float], capacity: float) -> None:
    """What becomes of all that is asked, one upon the other."""
    asked = [capacity * load / 100 for load in loads]
    refused, late = (
        [share * each / 100 for share, each in zip(_values(figures, loads, of), asked, strict=True)]
        for of in ("refused", "late")
    )
    good = _values(figures, loads, "good")
    colours = [OURS, "#e3b23c", "#c9c9c9"]
    labels = ["answered in time", "late", "refused"]
    axes.stackplot(loads, good, late, refused, colors=colours, labels=labels)
    axes.set_ylabel("calls/s")
    axes.set_ylim(0)
    axes.legend(frameon=False, loc="upper left", reverse=True)


def _times(axes: Any, figures: dict[str, Any], loads: list[float]) -> None:
    for part, style in (("p50", "-"), ("p99", "--")):
        for name, which, color in (("node", "value", OURS), ("echo", "peer_value", ECHO)):
            values = _values(figures, loads, part, which)
            label = f"{name}, {part}"
            axes.plot(loads, values, marker="o", ms=4, color=color, ls=style, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylabel("ms (late: the deadline)")
    axes.legend(frameon=False, loc="lower right")


def _values(
    figures: dict[str, Any], loads: list[float], what: str, which: str = "value"
) -> list[float]:
    return [figures[f"latency.{load:.0f}%.{what}"][which] for load in loads]


if __name__ == "__main__":
    main()
