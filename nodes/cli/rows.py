"""Rows of a file on the command line: which columns count, and how a refused row is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from exchange.errors import TongxingError
from nodes.cli import files, output

__all__ = ["IgnoreColumnsOption", "Teller", "column_names"]

IgnoreColumnsOption = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Columns of the CSV file to pass over, apart by commas. 忽略的列，如 序号,备注。",
        show_default=False,
    ),
]


def column_names(text: str) -> list[str]:
    """The names in a list apart by commas."""
    return [name for part in re.split("[,，]", text) if (name := part.strip())]


class Teller:
    """Tells of refused rows.

    :param file: whose rows they are: in Chinese, a column is called as its header calls it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def words(self, line: int, error: TongxingError) -> str:
        """One line: where, what is wrong, what to do.

        :param error: its field is a column's name.
        """
        then = f"; {error.remedy}" if error.remedy else ""
        if not output.speaks_chinese():
            where = f", {error.field}" if error.field else ""
            return f"line {line}{where}: {error.message}{then}"
        return f"{error.zh}: 第{line}行{self._chinese(error.field)}: {error.message}{then}"

    def _chinese(self, field: str) -> str:
        column = files.column_of(field)
        name = self._names.get(column) or next(iter(files.COLUMNS.get(column, ())), field)
        return f"，{name}" if name else ""

    @cached_property
    def _names(self) -> Mapping[str, str]:
        try:
            return files.names_of(self._file)
        except TongxingError:  # it went away while it was read
            return {}
