"""``tongxing attestation publish-file``: one file over one stream, and a word on every row."""

from __future__ import annotations

import contextlib
import csv
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from exchange.errors import DeadlineError, InternalError, InvalidFieldError, TongxingError
from nodes.cli import client, files, output
from nodes.cli.files import BadRow, Row
from nodes.cli.output import Form
from nodes.cli.rows import Teller

if TYPE_CHECKING:
    from exchange.client import Client, Item
    from exchange.v1.attestation_service_pb2 import NewAttestation

__all__ = ["Outcome", "Report", "publish_file"]

_SHOWN = 20
_COLUMNS = ("line", "outcome", "attestation_id", "field", "reason", "message", "remedy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row.

    :param error: why it was refused; its field is the column.
    """

    line: int
    attestation_id: str = ""
    already_published: bool = False
    error: TongxingError | None = None

    @classmethod
    def of_bad_row(cls, row: BadRow) -> Outcome:
        """Of a row that does not read."""
        error = InvalidFieldError(row.message, field=row.field, remedy=row.remedy)
        return cls(row.line, error=error)

    @classmethod
    def of_item(cls, item: Item, attestation_id: str) -> Outcome:
        """Of a row that the node answered for; its id is the row's own."""
        if item.error:
            item.error.field = files.column_of(item.error.field)
        return cls(item.index, attestation_id, item.already_published, item.error)

    def values(self) -> dict[str, Any]:
        """Its columns in the report."""
        names = ("published", "already_published")
        values = {
            "line": self.line,
            "outcome": "refused" if self.error else names[self.already_published],
            "attestation_id": self.attestation_id,
        }
        if error := self.error:
            values |= {name: getattr(error, name) for name in _COLUMNS[3:]}
        return values


class Report:
    """Counts, the first refusals, and every row in a file, in the order of the rows.

    Rows are read in a thread and answered in the event loop, so both come here. An outcome is held
    back until those of all rows before it are there: as many as are on their way.

    :param teller: tells of a refused row.
    :param file: where every row's outcome goes, as CSV.
    """

    def __init__(self, teller: Teller, file: TextIO | None = None) -> None:
        self.published = 0
        self.already = 0
        self.refused = 0
        self.retryable = 0
        self.first: list[Outcome] = []
        self._teller = teller
        self._lock = threading.Lock()
        self._expected: deque[int] = deque()
        self._settled: dict[int, Outcome] = {}
        self._writer = csv.DictWriter(file, _COLUMNS) if file else None
        if self._writer:
            self._writer.writeheader()

    @property
    def acknowledged(self) -> int:
        """How many stand in the node's store."""
        return self.published + self.already

    def expect(self, line: int) -> None:
        """Learn that a row was read, before its outcome is known."""
        with self._lock:
            self._expected.append(line)

    def settle(self, outcome: Outcome) -> None:
        """Count the outcome of an expected row, and tell of it once its turn has come."""
        with self._lock:
            if error := outcome.error:
                self.refused += 1
                self.retryable += error.retry_after is not None
            else:
                self.already += outcome.already_published
                self.published += not outcome.already_published
            self._settled[outcome.line] = outcome
            while self._expected and self._expected[0] in self._settled:
                self._tell(self._settled.pop(self._expected.popleft()))

    def close(self) -> None:
        """Tell of what waited for rows that got no answer, and how many refusals were not shown."""
        with self._lock:
            for line in sorted(self._settled):
                self._tell(self._settled.pop(line))
        if self.refused > _SHOWN:
            where = "the report has them" if self._writer else "--report FILE lists them all"
            output.print_line(f"… and {self.refused - _SHOWN:,} more rows; {where}")

    def _tell(self, outcome: Outcome) -> None:
        if self._writer:
            self._writer.writerow(outcome.values())
        if outcome.error and len(self.first) < _SHOWN:
            self.first.append(outcome)
            again = " (may be tried again 可重试)" if outcome.error.retry_after else ""
            output.print_line(self._teller.words(outcome.line, outcome.error) + again)

    def summary(self) -> str:
        """The counts in words."""
        text = (
            f"已发布 published {self.published:,}, 原已发布 already there {self.already:,}, "
            f"未通过 refused {self.refused:,}"
        )
        if self.retryable:
            text += f", of them {self.retryable:,} may be tried again 可重试"
        return text

    def document(self) -> dict[str, Any]:
        """The counts and the first refusals."""
        return {
            "published": self.published,
            "already_published": self.already,
            "refused": self.refused,
            "retryable": self.retryable,
            "first_refusals": [outcome.values() for outcome in self.first],
        }


def publish_file(
    file: Path,
    report: Path | None,
    client_file: Path | None,
    form: Form,
    *,
    ignore: Collection[str] = (),
) -> bool:
    """Publish a file.

    :param ignore: columns to be passed over, by their names in the header.
    :returns: whether every row stands in the node's store.
    :raises TongxingError: nothing was published: the file, the report or the client's
        configuration is unusable.
    """
    client.load(client_file)
    if report and report.exists() and file.exists() and report.samefile(file):
        raise InvalidFieldError(
            "is the file to be published", field="--report", remedy="name another file"
        )
    ids_key = client_file.with_suffix(".ids-key") if client_file else None
    # What is wrong with the file as a whole is told before a connection, or a key, is made.
    if next(files.read(file, None, ignore=ignore), None) is None:
        raise InvalidFieldError("holds no record", field=file.name, remedy="is it the right file?")
    rows = files.read(file, ids_key, ignore=ignore, key_created=_tell_of_key)
    with _report(report, file) as kept, _progress(file) as advance:
        sending = _Sending(rows, kept, advance)
        broken: TongxingError | None = None
        try:
            client.call(client_file, sending.run)
        except TongxingError as error:
            broken = _explained(error, kept)
            if not (kept.acknowledged or kept.refused):
                raise
        except KeyboardInterrupt:
            kept.close()
            output.print_line(f"{kept.summary()}; {_AGAIN}")
            raise
        kept.close()
    if form is Form.JSON:
        end = {"error": output.error_document(broken)} if broken else {}
        output.print_json(kept.document() | end)
    else:
        print(kept.summary())
    if broken:
        output.print_error(broken, Form.PRETTY)
    return broken is None and not kept.refused


_AGAIN = "run the same command again to complete it: nothing is published twice"


def _explained(error: TongxingError, kept: Report) -> TongxingError:
    completes = error.retry_after is not None or isinstance(error, DeadlineError)
    if kept.acknowledged or completes:
        error.message = f"{error.message} ({kept.acknowledged:,} were acknowledged)"
    if completes or (kept.acknowledged and isinstance(error, InternalError)):
        error.remedy = f"{error.remedy}; {_AGAIN}" if error.remedy else _AGAIN
    return error


def _tell_of_key(path: Path) -> None:
    output.print_line(
        f"made {path}, the key for the ids of rows that have none (编号密钥): keep it, it belongs "
        "to the issuer; with another one, the same rows would be published twice"
    )


class _Sending:
    """A file on its way: which rows were sent and have no answer yet."""

    def __init__(
        self, rows: Iterator[Row | BadRow], report: Report, advance: Callable[[], None]
    ) -> None:
        self._rows = rows
        self._report = report
        self._advance = advance
        self._sent: dict[int, str] = {}
        self._failure: Exception | None = None

    async def run(self, node: Client) -> None:
        """Send all rows and take every answer.

        :raises TongxingError: the stream broke, or the rest of the file cannot be read.
        """
        async for item in node.publish_all(self._outgoing()):
            self._take(item)
        if self._failure:
            raise self._failure
        if self._sent:
            raise InternalError(f"the node left {len(self._sent):,} rows without an answer")

    def _outgoing(self) -> Iterator[tuple[int, NewAttestation]]:
        try:
            for row in self._rows:
                self._report.expect(row.line)
                if isinstance(row, BadRow):
                    self._report.settle(Outcome.of_bad_row(row))
                    self._advance()
                else:
                    self._sent[row.line] = row.attestation.attestation_id
                    yield row.line, row.attestation
        except Exception as error:  # noqa: BLE001 - gRPC would cancel the call and hide it
            self._failure = error

    def _take(self, item: Item) -> None:
        attestation_id = self._sent.pop(item.index, None)
        if attestation_id is None or item.attestation_id not in ("", attestation_id):
            raise InternalError("the node answered for what was not sent")
        self._report.settle(Outcome.of_item(item, attestation_id))
        self._advance()


@contextlib.contextmanager
def _report(path: Path | None, source: Path) -> Iterator[Report]:
    if path is None:
        yield Report(Teller(source))
        return
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="--report") from None
    with file:
        yield Report(Teller(source), file)


@contextlib.contextmanager
def _progress(file: Path) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; a call says that one more row is done."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=files.count(file))
        yield lambda: bar.advance(task)
