"""The access logs of one data directory: each of a node's processes has its own, read as one.

With one chain for all, each would have to wait for the others before every answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from nodes.audit.days import Page, Place, newest
from nodes.folders import folders
from nodes.worker import Worker

__all__ = ["Logs", "logs", "page"]

_LAST: Final = (1 << 63) - 1
"""No line has this number, and none has 0."""


def logs(data: Path) -> dict[int, Path]:
    """Give the folder of each log in a data directory, by its process's number."""
    found = {number: folder / "audit" for number, folder in sorted(folders(data).items())}
    return {number: folder for number, folder in found.items() if folder.is_dir()}


@dataclass(frozen=True, slots=True)
class Logs:
    """A process's log among those of its data directory.

    :param data: the node's.
    """

    data: Path
    worker: Worker

    @property
    def own(self) -> Path:
        """The folder of the process's log."""
        return self.worker.folder(self.data) / "audit"

    @property
    def key(self) -> Path:
        """The file of the key under which holders stand in all of them."""
        return self.data / "audit" / "key"

    def all(self) -> dict[int, Path]:
        """All that there are."""
        return logs(self.data)

    def former(self) -> dict[int, Path]:
        """Those of processes that are no more, for the first to see to; for others, none."""
        if not self.worker.first:
            return {}
        return {number: folder for number, folder in self.all().items() if number >= self.worker.of}


def page(
    among: Mapping[int, Path],
    holders: Sequence[str] | None,
    start: str,
    end: str,
    limit: int,
    after: Place | None,
    target: str = "",
) -> Page:
    """Some of the accesses in some logs, the newest first; `newest` has the parameters.

    :raises sqlite3.Error: or OSError: a file cannot be read.
    """
    each = [
        newest(folder, number, holders, start, end, limit + 1, _within(after, number), target)
        for number, folder in among.items()
    ]
    found = list(islice(heapq.merge(*each, key=lambda one: one[0], reverse=True), limit + 1))
    shown = found[:limit]
    return Page(
        [access for _, access in shown], [place for place, _ in shown], more=len(found) > limit
    )


def _within(after: Place | None, log: int) -> Place | None:
    """Where to go on in one log after a place that may lie in another."""
    if after is None or after.log == log:
        return after
    # Of one time, the log of the larger number comes first.
    return replace(after, log=log, sequence=_LAST if log < after.log else 0)
