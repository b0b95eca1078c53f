"""Tables of cases (用例表) that a province's rules are tested by: ``440000.cases.csv``.

::

    case,now,facts,colour,rule
    采样48小时整,,核酸检测 阴性 48h,GREEN,nat-48h
    超过一秒,,核酸检测 阴性 48h1s,NONE,
    红码在身,,核酸检测 阴性 2h; 健康码状态 红 3h,RED,status-red

``facts`` is what a holder has (`nodes.cli.described`), ``colour`` what the rules must make of it,
``rule`` the one that must give the colour (any, where the cell is empty), ``now`` when they are
asked (the time of the test, where it is empty). The header may be Chinese:
情形,时间,证明,码色,规则.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from exchange.errors import InvalidFieldError, TongxingError
from exchange.facts import Colour
from nodes.cli import described, files
from nodes.cli.files import marks

if TYPE_CHECKING:
    from exchange.rules import RuleBook

__all__ = ["Case", "Result", "beside", "read", "run"]

_LARGEST = 1 << 20
_MOST = 10_000
_COLUMNS = {"case": "情形", "now": "时间", "facts": "证明", "colour": "码色", "rule": "规则"}
_HEADER = {name: name for name in _COLUMNS} | {zh: name for name, zh in _COLUMNS.items()}
_COLOURS = {colour.text.zh: colour for colour in Colour}
_COLOURS |= {colour.text.zh[0]: colour for colour in Colour}
_COLOURS |= {colour.value: colour for colour in Colour} | {"NONE": Colour.UNSPECIFIED}


@dataclass(frozen=True, slots=True)
class Case:
    """What a holder has, and what the rules must make of it.

    :param line: of the file.
    :param rule: the id of the rule that must give the colour; "" for any.
    """

    line: int
    name: str
    now: datetime
    facts: tuple[described.Described, ...]
    colour: Colour
    rule: str


@dataclass(frozen=True, slots=True)
class Result:
    """What the rules made of a case.

    :param rule: the id of the rule that gave the colour, or "".
    :param failed: the ids of rules that could not be evaluated.
    """

    case: Case
    colour: Colour
    rule: str
    failed: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether it is what the case asks for; a rule that fails never is."""
        same = self.colour is self.case.colour and self.case.rule in ("", self.rule)
        return same and not self.failed


def beside(rules: Path) -> Path:
    """The table beside a file of rules: ``440000.cases.csv`` of ``440000.toml``."""
    return rules.with_suffix(".cases.csv")


def read(path: Path, now: datetime) -> tuple[list[Case], list[TongxingError]]:
    """Read a table.

    :param now: an aware datetime, for the cases that name no time.
    :returns: the cases, and of each line that does not read what is wrong, naming the column.
    :raises InvalidFieldError: it cannot be read as a whole; names the file or the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidFieldError(error.strerror or "cannot be read", field=str(path)) from None
    if len(data) > _LARGEST:
        raise InvalidFieldError("larger than 1 MiB", field=path.name)
    cases: list[Case] = []
    faults: list[TongxingError] = []
    for line, row in _rows(data, path.name):
        try:
            cases.append(_case(line, row(), now))
        except InvalidFieldError as error:
            faults.append(error.at(f"{path.name} line {line}"))
        if len(cases) + len(faults) > _MOST:
            raise InvalidFieldError(f"more than {_MOST} cases", field=path.name)
    if not cases and not faults:
        raise InvalidFieldError("holds no case", field=path.name, remedy="add a line for each")
    return cases, faults


def run(rules: RuleBook, case: Case) -> Result:
    """Ask the rules about a case, as a node does of a holder's evidence."""
    from exchange.recognition import ask_rules, settle

    said = ask_rules(case.facts, rules, case.now)
    decided = settle(said)
    return Result(
        case,
        decided.rule.colour if decided else Colour.UNSPECIFIED,
        decided.rule.id if decided else "",
        tuple(each.rule.id for each in said if each.failed),
    )


def _rows(data: bytes, name: str) -> Iterator[tuple[int, Callable[[], dict[str, str]]]]:
    """Every record after the header, with its last line, to be read when it is asked for."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise InvalidFieldError("is not UTF-8", field=name, remedy="save it so") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells, name, reader.line_num)
                continue
            yield reader.line_num, functools.partial(_row, header, cells, reader.line_num)
    except csv.Error as error:
        raise InvalidFieldError(str(error), field=f"{name} line {reader.line_num}") from None


def _row(header: list[str], cells: list[str], line: int) -> dict[str, str]:
    if len(cells) > len(header):
        raise InvalidFieldError(
            f"有{len(cells)}格，应为{len(header)}格 {len(cells)} cells for {len(header)} columns",
            remedy="put a cell that holds a comma into quotes",
        )
    row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    mark = None if row.get("colour") else marks.in_row(cells, line)
    if mark is not None:
        raise InvalidFieldError(mark.said, remedy=mark.way)
    return row


def _header(cells: list[str], name: str, line: int) -> list[str]:
    header = [_HEADER.get(cell.strip(), "") for cell in cells]
    missing = {"facts", "colour"} - set(header)
    if "" in header or missing or len(set(header)) < len(header):
        if mark := marks.in_row(cells, line):
            raise InvalidFieldError(mark.said, field=name, remedy=mark.way)
        known = ", ".join(f"{column} ({zh})" for column, zh in _COLUMNS.items())
        raise InvalidFieldError(
            "首行不是用例表的表头 the first line is not the header of a table of cases",
            field=name,
            remedy=f"name facts and colour at least, each once, of {known}",
        )
    return header


def _case(line: int, row: Mapping[str, str], now: datetime) -> Case:
    if text := row.get("now"):
        now = files.time_from_text(text, field="now")
    word = row.get("colour", "")
    colour = _COLOURS.get(word.upper())
    if colour is None:
        raise InvalidFieldError(
            "没有这种码色 no such colour",
            field="colour",
            remedy="GREEN, YELLOW, RED or NONE (绿 黄 红 无)",
        )
    facts = described.facts(row.get("facts", ""), now)
    return Case(line, row.get("case", ""), now, facts, colour, row.get("rule", ""))
