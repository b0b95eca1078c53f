"""CSV (RFC 4180): the records of a file and their cells, undecoded."""

from __future__ import annotations

from collections.abc import Iterator

from exchange.errors import InvalidFieldError
from nodes.cli.files.lines import LIMIT, Lines

__all__ = ["records"]


def records(lines: Lines) -> Iterator[tuple[int, list[bytes] | InvalidFieldError]]:
    """Give the records' cells, undecoded, with their first lines; blank records are left out.

    Our own, since the csv module takes a stray quote for an opening one and then the rest of the
    file for one cell. Bytes do: in UTF-8 and GB18030 no part of a character is a quote, a comma
    or a line's end.
    """
    while text := lines.next():
        line = lines.number
        try:
            cells = _record(lines, text)
        except InvalidFieldError as error:
            yield line, error
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _record(lines: Lines, text: bytes) -> list[bytes]:
    line = lines.number
    size = 0
    quotes = 0
    cells = _Cells()
    while text:
        size += len(text)
        quotes += text.count(b'"')
        if size > LIMIT:
            lines.skip(quoted=quotes % 2 == 1)
            raise InvalidFieldError(
                f"longer than {LIMIT} bytes; {_lines_lost(line, lines.number)}",
                remedy="close the cell's quotes",
            )
        try:
            if cells.feed(text):
                return cells.done
        except ValueError as error:
            raise InvalidFieldError(
                f"{error}; {_lines_lost(line, lines.number)}",
                remedy='put the whole cell into quotes and write a quote in it as ""',
            ) from None
        text = lines.next()
    raise InvalidFieldError(
        f"a quoted cell is still open at the file's end; {_lines_lost(line, lines.number)}",
        remedy="close the cell's quotes",
    )


def _lines_lost(first: int, last: int) -> str:
    return "the line is left out" if first == last else f"lines {first} to {last} are left out"


class _Cells:
    """The cells of one record (RFC 4180 §2), which may go over several lines."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self._open: bytes | None = None

    def feed(self, text: bytes) -> bool:
        """Take one line; true where the record ends with it.

        :raises ValueError: quotes stand where none may.
        """
        body = text.rstrip(b"\r\n")
        if self._open is None and b'"' not in body:
            self.done += body.split(b",")
            return True
        position = 0
        while True:
            if self._open is None and not body.startswith(b'"', position):
                end = body.find(b",", position)
                cell = body[position:] if end < 0 else body[position:end]
                if b'"' in cell:
                    raise ValueError("a quote stands inside a cell without quotes")
                self.done.append(cell)
            else:
                end = self._quoted(text, body, position)
                if self._open is not None:
                    return False
            if end < 0:
                return True
            position = end + 1

    def _quoted(self, text: bytes, body: bytes, position: int) -> int:
        """Where the comma after the quoted cell stands, or -1; the cell may stay open."""
        if self._open is None:
            self._open = b""
            position += 1
        end = body.find(b'"', position)
        while end >= 0 and body.startswith(b'"', end + 1):
            self._open += body[position : end + 1]
            position = end + 2
            end = body.find(b'"', position)
        if end < 0:
            self._open += text[position:]
            return -1
        self.done.append(self._open + body[position:end])
        self._open = None
        after = body[end + 1 : end + 2]
        if after not in {b"", b","}:
            raise ValueError("something stands after a cell's closing quote")
        return end + 1 if after else -1
