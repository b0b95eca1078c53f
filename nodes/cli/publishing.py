"""``tongxing attestation publish-file``: one file over one stream, and a word on every bad row."""

from __future__ import annotations

import contextlib
import csv
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from exchange.errors import InternalError, InvalidFieldError, StoreUnavailableError, TongxingError
from nodes.cli import client, files, output
from nodes.cli.files import BadRow, Row
from nodes.cli.output import Form

if TYPE_CHECKING:
    from exchange.client import Client, Item
    from exchange.v1.attestation_service_pb2 import NewAttestation

__all__ = ["Refusal", "Report", "publish_file"]

_SHOWN = 20
_COLUMNS = ("line", "field", "reason", "message", "remedy", "attestation_id")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not published."""

    line: int
    field: str
    reason: str
    message: str
    remedy: str
    attestation_id: str = ""
    retryable: bool = False

    @classmethod
    def of_row(cls, row: BadRow) -> Refusal:
        """A row that does not read."""
        return cls(row.line, row.field, InvalidFieldError.reason, row.message, row.remedy)

    @classmethod
    def of_error(cls, line: int, attestation_id: str, error: TongxingError) -> Refusal:
        """A row that the node refused."""
        return cls(
            line,
            files.column_of(error.field),
            error.reason,
            error.message,
            error.remedy,
            attestation_id,
            error.retry_after is not None,
        )

    def __str__(self) -> str:
        where = f", {self.field}" if self.field else ""
        then = f"; {self.remedy}" if self.remedy else ""
        again = " (may be tried again 可重试)" if self.retryable else ""
        return f"line {self.line}{where}: {self.message}{then}{again}"

    def values(self) -> dict[str, Any]:
        """Its columns in the report."""
        return {name: getattr(self, name) for name in _COLUMNS}


@dataclass
class Report:
    """Counts, the first refusals, and all of them in a file.

    Rows are read in a thread and answered in the event loop, so both come here.
    """

    file: TextIO | None = None
    published: int = 0
    already: int = 0
    refused: int = 0
    retryable: int = 0
    first: list[Refusal] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._writer = csv.DictWriter(self.file, _COLUMNS) if self.file else None
        if self._writer:
            self._writer.writeheader()

    @property
    def acknowledged(self) -> int:
        """How many stand in the node's store."""
        return self.published + self.already

    def accept(self, *, already: bool) -> None:
        """Count a row that stands in the store."""
        self.already += already
        self.published += not already

    def refuse(self, refusal: Refusal) -> None:
        """Count a row that was not published, and tell of it."""
        with self._lock:
            self.refused += 1
            self.retryable += refusal.retryable
            if self._writer:
                self._writer.writerow(refusal.values())
            if self.refused <= _SHOWN:
                self.first.append(refusal)
                output.print_line(str(refusal))

    def close(self) -> None:
        """Tell how many refusals were not shown."""
        if self.refused > _SHOWN:
            where = "--report FILE lists them all" if self.file is None else "the report has them"
            output.print_line(f"… and {self.refused - _SHOWN:,} more rows; {where}")

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
            "first_refusals": [refusal.values() for refusal in self.first],
        }


def publish_file(file: Path, report: Path | None, client_file: Path | None, form: Form) -> bool:
    """Publish a file.

    :returns: whether every row stands in the node's store.
    :raises TongxingError: nothing was published: the file, the report or the client's
        configuration is unusable.
    """
    rows = _begun(files.read(file))
    with _report(report, file) as kept, _progress(file) as advance:
        sending = _Sending(rows, kept, advance)
        broken: TongxingError | None = None
        try:
            client.call(client_file, sending.run)
        except TongxingError as error:
            broken = _explained(error, kept)
        except KeyboardInterrupt:
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
    if kept.acknowledged or isinstance(error, StoreUnavailableError):
        error.message = f"{error.message} ({kept.acknowledged:,} were acknowledged)"
        error.remedy = f"{error.remedy}; {_AGAIN}" if error.remedy else _AGAIN
    return error


def _begun(rows: Iterator[Row | BadRow]) -> Iterator[Row | BadRow]:
    """The same, with what is wrong with the file as a whole raised here, before a connection."""
    first = next(rows, None)
    return iter(()) if first is None else itertools.chain((first,), rows)


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
                if isinstance(row, BadRow):
                    self._report.refuse(Refusal.of_row(row))
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
        if item.error:
            self._report.refuse(Refusal.of_error(item.index, attestation_id, item.error))
        else:
            self._report.accept(already=item.already_published)
        self._advance()


@contextlib.contextmanager
def _report(path: Path | None, source: Path) -> Iterator[Report]:
    if path is None:
        yield Report()
        return
    if path.exists() and path.samefile(source):
        raise InvalidFieldError(
            "is the file to be published", field="--report", remedy="name another file"
        )
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="--report") from None
    with file:
        yield Report(file)


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
