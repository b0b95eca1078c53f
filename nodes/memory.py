"""How much memory this process has."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

__all__ = ["resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Its resident set, in bytes; on macOS, which does not tell it, the largest that it had."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
