"""Chinese punctuation (中文标点) where a file wants the other, as an input method leaves it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["Mark", "in_row", "in_toml"]

_MEANT: Final = dict(zip("，、；：“”‘’【】（）＝。", ",,;:\"\"''[]()=.", strict=True))
_MARK: Final = re.compile(f"[{''.join(_MEANT)}]")
# What TOML takes as it stands: comments, strings, and of one that does not close what may be of it.
_QUOTED: Final = re.compile(
    r"""
    \"{3}(?s:.*?)\"{3} | '{3}(?s:.*?)'{3}
    | "(?:\\.|[^"\\\n])*" | '[^'\n]*'
    | \#[^\n]* | ["'][^\n”’]*
    """,
    re.VERBOSE,
)


class Mark(NamedTuple):
    """A Chinese mark, the line that it stands in, from 1, and what is meant."""

    mark: str
    line: int
    meant: str

    @property
    def said(self) -> str:
        """What is wrong, in both languages."""
        return f"第{self.line}行有中文标点 Chinese punctuation in line {self.line}: {self.mark}"

    @property
    def way(self) -> str:
        """What to do about it, in both languages."""
        return f"改用英文标点 write {self.meant} for {self.mark}"


def in_toml(text: str) -> Mark | None:
    """The first one outside strings and comments."""
    # As long as before, and with its line ends, so that the line is right.
    bare = _QUOTED.sub(lambda quoted: re.sub(r"[^\n]", "_", quoted[0]), text)
    found = _MARK.search(bare)
    if found is None:
        return None
    return Mark(found[0], bare.count("\n", 0, found.start()) + 1, _MEANT[found[0]])


def in_row(cells: Iterable[str], line: int) -> Mark | None:
    """The comma in a row of CSV that has fewer cells than it must."""
    return Mark("，", line, ",") if any("，" in cell for cell in cells) else None
