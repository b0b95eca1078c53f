"""The files of ``tongxing attestation publish-file``: CSV and JSON Lines, read as a stream.

**CSV** (``.csv``; RFC 4180) is UTF-8 with or without a byte-order mark, or GB18030 where it is not
UTF-8. Its first line names the columns, in English or Chinese (`COLUMNS`). Enum values stand by
their proto name without prefix, in any case, or by the Chinese term: ``NEGATIVE`` or 阴性. Times
are RFC 3339; a time without an offset (``2020-03-01 08:30``, ``2020-03-01T08:30:00``, Excel's
``2020/3/1 8:30``) is **taken as China's, UTC+8**. A cell that the row's kind has no use for must
be empty, so that nothing is dropped unseen.

**JSON Lines** (``.jsonl``, ``.ndjson``) is UTF-8 with one `NewAttestation` in proto JSON a line.

Only the form is judged here: a record that does not read becomes a `BadRow`, and the others still
come. Check digits and times in the future are the node's to judge. No message repeats a cell of a
record. What stands inside quotes is never taken for records, also where the quotes do not close:
a name must not be able to smuggle in a row.

A record without an attestation id is given one by the issuer's key: see `nodes.cli.files.ids`.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exchange.errors import InvalidFieldError
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.cli.files.columns import (
    COLUMNS,
    REQUIRED,
    attestation_from_columns,
    column_of,
    csv_rows,
    document_from_columns,
    encoding_of,
    header_names,
    kind_from_text,
    time_from_text,
)
from nodes.cli.files.ids import Ids, uuid7
from nodes.cli.files.jsonlines import attestation_from_json, json_rows
from nodes.cli.files.lines import Lines, Reading
from nodes.cli.files.records import records

__all__ = [
    "COLUMNS",
    "BadRow",
    "Row",
    "attestation_from_columns",
    "attestation_from_json",
    "column_of",
    "count",
    "document_from_columns",
    "documents",
    "kind_from_text",
    "names_of",
    "read",
    "time_from_text",
    "uuid7",
]


@dataclass(frozen=True, slots=True)
class Row:
    """A record that reads.

    :param line: the physical line on which the record begins, from 1.
    :param attestation: what the record says, always with an id.
    """

    line: int
    attestation: pb.NewAttestation


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that does not read.

    :param line: the physical line on which the record begins, from 1.
    :param field: the column (CSV) or the proto path (JSON), or "" for the record as a whole.
    :param message: what is wrong, without the record's values.
    :param remedy: what to do about it, or "".
    """

    line: int
    field: str
    message: str
    remedy: str


def read(
    path: Path,
    ids_key: Path | None,
    *,
    ignore: Collection[str] = (),
    key_created: Callable[[Path], None] = lambda _: None,
) -> Iterator[Row | BadRow]:
    """Every record of the file, in its order; blank lines are passed over.

    Memory is bounded but for one digest a record that was given an id, about 150 bytes.

    :param path: a regular file that ends in .csv, .jsonl or .ndjson.
    :param ids_key: the file with the issuer's key for ids, made when first needed; without it, a
        record that has no id is a bad one.
    :param ignore: columns to be passed over, by their names in the header.
    :param key_created: told once when the key was made.
    :raises InvalidFieldError: while iterating, for the file as a whole: it cannot be read, its
        ending or its header is wrong, or the key for ids cannot be kept. ``field`` is the
        file's name or the column.
    """
    ids = Ids(ids_key, key_created) if ids_key else None
    with _reading(path) as file:
        rows: Iterator[Reading[pb.NewAttestation]]
        if _is_csv(path):
            rows = csv_rows(path, file, attestation_from_columns, REQUIRED, ignore)
        else:
            rows = json_rows(file)
        for line, content in rows:
            try:
                attestation = content()
            except InvalidFieldError as error:
                yield BadRow(line, error.field, error.message, error.remedy)
                continue
            if not attestation.attestation_id:
                if ids is None:
                    yield BadRow(line, "attestation_id", "is missing", _GIVE_IDS)
                    continue
                attestation.attestation_id = ids.next(attestation)
            yield Row(line, attestation)


_GIVE_IDS = "give the column: without the issuer's key for ids, none can be made"


def count(path: Path) -> int:
    """How many records `read` will give, good and bad: a quick pass, for a progress bar.

    :raises InvalidFieldError: the file cannot be read, or its ending is wrong.
    """
    with _reading(path) as file:
        if not _is_csv(path):
            return sum(1 for _ in json_rows(file))
        encoding_of(path, file)
        return max(0, sum(1 for _ in records(Lines(file))) - 1)


def names_of(path: Path) -> dict[str, str]:
    """How a CSV file's header names its columns, by `COLUMNS`; nothing for another file.

    :raises InvalidFieldError: the file cannot be read.
    """
    if not _is_csv(path):
        return {}
    with _reading(path) as file:
        return header_names(path, file)


def documents(
    path: Path, *, ignore: Collection[str] = ()
) -> Iterator[tuple[int, types_pb2.IdentityDocument] | BadRow]:
    """The identity document of every record of a CSV file, with its line.

    :param path: a CSV file as for `read`; columns but the document's are passed over.
    :param ignore: further columns to be passed over, by their names in the header.
    :raises InvalidFieldError: while iterating, for the file as a whole.
    """
    if not _is_csv(path):
        raise InvalidFieldError("is not CSV", field=path.name, remedy="give a .csv file")
    with _reading(path) as file:
        columns = ("document_type", "document_number")
        for line, content in csv_rows(path, file, document_from_columns, columns, ignore):
            try:
                yield line, content()
            except InvalidFieldError as error:
                yield BadRow(line, error.field, error.message, error.remedy)


def _is_csv(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending not in {".csv", ".jsonl", ".ndjson"}:
        raise InvalidFieldError(
            "the ending does not say what the file holds",
            field=path.name,
            remedy="name it .csv, or .jsonl or .ndjson",
        )
    return ending == ".csv"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        # Opening a pipe would wait for its writer, and it cannot be read twice.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidFieldError("is not a regular file", field=path.name)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidFieldError(
            f"cannot be read: {error.strerror}", field=path.name, remedy="check its name and mode"
        ) from None
