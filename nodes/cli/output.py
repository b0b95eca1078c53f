"""What the command line prints: for people (``pretty``) or for programs (``json``).

Texts come from other provinces and go to a terminal: nothing of them is markup, and no control
character gets through (`clean`).
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InternalError, InvalidFieldError, TongxingError
from exchange.provinces import PROVINCES

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "Form",
    "FormOption",
    "State",
    "age",
    "clean",
    "console",
    "enum_name",
    "error_document",
    "lines",
    "milliseconds",
    "moment",
    "plain",
    "print_error",
    "print_fields",
    "print_json",
    "print_line",
    "print_table",
    "print_words",
    "province_name",
    "speaks_chinese",
    "table",
    "to_json",
    "told",
]

_PADDING = 3
"""Columns of the terminal around one of a table."""
_FOLDED = 12
"""So wide at least is a table's column that may be folded."""
_WORD = re.compile("[!-~]+")
"""What is not broken: Chinese may be, anywhere."""
_CHINA = timezone(timedelta(hours=8))
_REPORT = "please report it; TONGXING_DEBUG=1 shows where it happened"


class Form(StrEnum):
    """The form of what is printed."""

    PRETTY = "pretty"
    JSON = "json"


@dataclass
class State:
    """What a run of the command line has been told so far.

    :param form: how to print; an error needs to know it after its command has gone.
    """

    form: Form = Form.PRETTY


def _remember(context: typer.Context, form: Form) -> Form:
    context.ensure_object(State).form = form
    return form


FormOption = Annotated[
    Form, typer.Option("--output", "-o", callback=_remember, help="Form of the output. 输出格式。")
]


# --- errors ---------------------------------------------------------------------------------


def speaks_chinese() -> bool:
    """Whether the locale (POSIX: LC_ALL before LC_MESSAGES before LANG) is a Chinese one."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((value for name in names if (value := os.environ.get(name))), "")
    return locale.startswith("zh")


def print_error(error: TongxingError, form: Form) -> None:
    """Print an error: one line on standard error and, as JSON, a document on standard output."""
    title = error.zh if speaks_chinese() else f"error ({error.zh})"
    print_line(f"{title}: {error}")
    if form is Form.JSON:
        print_json({"error": error_document(error)})


def told(error: Exception) -> TongxingError:
    """The error as users are told of it; the text of one that nobody foresaw may hold anything."""
    if isinstance(error, TongxingError):
        return error
    if isinstance(error, OSError):
        what = error.strerror or type(error).__name__
        return InvalidFieldError(what, field=str(error.filename or ""))
    return InternalError(f"a fault of tongxing, {type(error).__name__}", remedy=_REPORT)


def error_document(error: TongxingError) -> dict[str, Any]:
    """The error as google.rpc.Status in proto JSON."""
    from exchange import status

    return to_json(status.to_status(error))


def print_line(text: str) -> None:
    """Print exactly one line on standard error, above a progress bar if there is one."""
    print(clean(" ".join(text.split())), file=sys.stderr)


# --- JSON -----------------------------------------------------------------------------------


def to_json(message: Message) -> dict[str, Any]:
    """A message in proto JSON, its fields named as in the contract."""
    from google.protobuf import json_format

    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    print(json.dumps(document, ensure_ascii=False, indent=2))


# --- pretty ---------------------------------------------------------------------------------


def clean(text: str) -> str:
    """The text without control, format and other invisible characters, which may lie or hide."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _hidden(c) else c for c in text)


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def plain(text: str, style: str = "") -> Text:
    """A text that holds no markup, for a table."""
    from rich.text import Text

    return Text(clean(text), style)


def lines(texts: Iterable[str]) -> Text:
    """Texts below each other in one cell."""
    from rich.text import Text

    return Text("\n".join(clean(text) for text in texts))


def console() -> Console:
    """Standard output; as wide as the terminal, or COLUMNS, or 120 where there is neither."""
    from rich.console import Console

    return Console(width=None if _bounded() else 120, highlight=False)


def _bounded() -> bool:
    """Whether something says how wide a line may be."""
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> Table:
    """A table whose cells hold no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    return made


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    whole: Collection[str],
    none: str,
) -> None:
    """Print a table of which some columns are neither folded nor cut: ids, which are copied.

    Where a line may not be so wide, each cell stands on one of its own.

    :param whole: these columns' names.
    :param none: what to say where there are no rows.
    """
    from rich.cells import cell_len
    from rich.console import Console

    rows = [tuple(clean(cell) for cell in row) for row in rows]
    if not rows:
        print(none)
        return
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    needed = _PADDING + sum(
        _PADDING + (width if column in whole else min(width, _FOLDED))
        for column, width in zip(columns, widths, strict=True)
    )
    printer = console()
    if not _bounded():
        printer = Console(width=max(printer.width, sum(widths) + _PADDING * (len(widths) + 1)))
    elif needed > printer.width:
        for row in rows:
            for column, cell in zip(columns, row, strict=True):
                if cell:
                    print(f"{column}: {cell}")
            print()
        return
    made = table(title, columns, rows)
    for each in made.columns:
        each.no_wrap = each.header in whole
    printer.print(made)


def print_words(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table in which no time, number or Latin word is broken.

    Where a terminal is too narrow for that, each cell stands on a line of its own.
    """
    from rich.cells import cell_len
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else plain(cell) for cell in row] for row in rows]
    texts = [
        [header, *(cell.plain for cell in below)]
        for header, *below in zip(map(str, columns), *cells, strict=True)
    ]
    least = [max(map(len, _WORD.findall(" ".join(each))), default=1) for each in texts]
    most = [max(cell_len(line) for text in each for line in text.split("\n")) for each in texts]
    printer = console()
    spare = printer.width - sum(least) - _PADDING * len(columns) - 1
    if spare < 0:
        printer.print(plain(title, "bold"))
        for row in cells:
            printer.print()
            for name, cell in zip(columns, row, strict=True):
                if cell:
                    said = Text(" ").join(cell.split("\n"))
                    printer.print(Text.assemble(f"{name}: " if name else "", said))
        return
    made = table(title, columns, cells)
    wants = sorted(
        (wide - narrow, at) for at, (narrow, wide) in enumerate(zip(least, most, strict=True))
    )
    for done, (more, at) in enumerate(wants):
        given = max(0, min(more, spare // (len(wants) - done)))
        made.columns[at].width = least[at] + given
        spare -= given
    printer.print(made)


def print_fields(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(plain(name, "dim"), plain(value))
    console().print(grid)


def moment(time: datetime | Timestamp | None) -> str:
    """A time in China's offset, to the second; empty for none."""
    if time is None:
        return ""
    if not isinstance(time, datetime):
        time = datetime.fromtimestamp(time.seconds, UTC)
    return time.astimezone(_CHINA).isoformat(" ", "seconds")


def age(time: datetime | None, now: datetime) -> str:
    """How long ago something was, in two units."""
    if time is None:
        return "从未 never"
    seconds = max(0, round((now - time).total_seconds()))
    for unit, name, below, of in ((86400, "d", "h", 3600), (3600, "h", "min", 60)):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // of} {below}"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def milliseconds(span: timedelta | None) -> str:
    """A short span; empty for none."""
    return "" if span is None else f"{span.total_seconds() * 1000:,.0f} ms"


def province_name(code: str) -> str:
    """``510000 四川省 Sichuan``; the code alone where it is none."""
    found = PROVINCES.get(code)
    return f"{code} {found.zh} {found.en}" if found else code


def enum_name(wrapper: EnumTypeWrapper, number: int) -> str:
    """The name of an enum's value without prefix; its number where this version knows none."""
    value = wrapper.DESCRIPTOR.values_by_number.get(number)
    prefix = wrapper.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return str(number) if value is None else value.name.removeprefix(prefix)
