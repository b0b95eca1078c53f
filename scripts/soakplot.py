"""Draw a soak: what each series was over time (`scripts.soak`).

    python -m scripts.soak --plot soak.png
    .bench/bin/python scripts/soakplot.py soak.png < soak.jsonl

It runs in the benchmarks' own environment (`scripts.bench.peers.VENV`), not in the project's.
"""

from __future__ import annotations

import json
import sys

import matplotlib as mpl
from matplotlib import pyplot as plt

PANELS = {
    "rss": "RSS, MiB",
    "valkey": "Valkey, MiB",
    "fds": "descriptors",
    "cpu": "cores",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "failed": "failed calls",
}


def main() -> None:
    samples = [json.loads(line) for line in sys.stdin]
    if not samples:
        sys.exit("nothing to draw: no sample was taken")
    mpl.use("agg")
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    size = (8, 1.9 * len(PANELS))
    drawing, panels = plt.subplots(len(PANELS), 1, figsize=size, sharex=True, layout="constrained")
    for axes, (kind, label) in zip(panels, PANELS.items(), strict=True):
        for name in (each for each in samples[-1] if each.startswith(f"{kind}.")):
            points = [(each["at"] / 60, each[name]) for each in samples if name in each]
            axes.plot(*zip(*points, strict=True), lw=1.2, label=name.partition(".")[2])
        axes.set_ylabel(label)
        axes.set_ylim(0)
        axes.grid(axis="y", color="#e4e4e4")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    panels[-1].set_xlabel("minutes")
    drawing.savefig(sys.argv[1], dpi=150)


if __name__ == "__main__":
    main()
