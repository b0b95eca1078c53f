"""How much memory this process has."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

__all__ = ["resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(*, shared: bool = True) -> int:
    """Its resident set, in bytes; on macOS, which does not tell it, the largest that it had.

    :param shared: whether memory counts, too, that other processes look at (on Linux).
    """
    try:
        if shared:
            return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        fields = dict(line.partition(":")[::2] for line in status.splitlines())
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
