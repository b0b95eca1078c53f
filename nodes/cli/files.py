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

**Ids.** A record without an attestation id is given one that is the same at the next run of the
same file, so that a run after a broken one completes without doubles, and that reveals nothing of
the record but the sample time, which the attestation holds anyway: an id travels between provinces,
and a bare hash of an identity number could be searched through. So a random key of 32 bytes is
kept beside the file, in ``FILE.ids`` (mode 0600, hexadecimal, on disk before the first id is used),
and the id is a UUIDv7 (RFC 9562 §5.7): the sample time in milliseconds, and for its random bits
HMAC-SHA-256(key, content of the record ‖ how many like it stood before). Only the key is kept.
The content is the attestation's protobuf bytes without id: for a record spelled otherwise that says
the same (encoding, order of columns, words for an enum) the id is the same.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from exchange.errors import InvalidFieldError
from exchange.facts import FACTS, Colour, Fitness, Kind, TestResult, fact_fields
from exchange.subjects import DocumentType
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from google.protobuf.message import Message

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
    "read",
    "uuid7",
]

_T = TypeVar("_T")

_LIMIT = 65536
"""Bytes in one record; the contract's longest attestation needs a sixth of it."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "attestation_id": ("证明编号", "编号"),
    "document_type": ("证件类型", "证件种类"),
    "document_number": ("证件号码", "证件号", "证件编号"),
    "holder_name": ("姓名", "持码人姓名", "持码人"),
    "kind": ("类别", "种类", "证明类别", "证明类型"),
    "sample_time": ("采样时间", "体检时间", "接种时间", "解除隔离时间", "赋码时间"),
    "result_time": ("检测时间", "结果时间", "报告时间"),
    "result": ("检测结果", "结果"),
    "conclusion": ("体检结论", "结论"),
    "self_tested": ("自测", "是否自测"),
    "product": ("疫苗名称", "疫苗", "疫苗产品"),
    "dose": ("剂次", "接种剂次"),
    "doses": ("总剂次", "全程剂次"),
    "confirm_time": ("确诊时间",),
    "colour": ("码色", "颜色", "健康码颜色"),
    "local_status": ("本地码态",),
    "reason": ("赋码原因",),
    "legal_basis": ("赋码依据",),
    "assigned_by": ("赋码机构",),
    "guidance": ("处置建议",),
    "issuer_credit_code": ("统一社会信用代码", "机构信用代码", "发证机构代码"),
    "issuer_name": ("发证机构", "发证机构名称", "机构名称"),
    "expire_time": ("有效期至", "失效时间"),
    "data_as_of_time": ("数据更新时间",),
    "supersedes": ("更正编号", "被更正编号"),
}
"""The columns of a CSV file and the Chinese names that are read for them."""

_REQUIRED = (
    "document_type",
    "document_number",
    "holder_name",
    "kind",
    "sample_time",
    "issuer_credit_code",
    "issuer_name",
)


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


def read(path: Path) -> Iterator[Row | BadRow]:
    """Every record of the file, in its order; blank lines are passed over.

    Memory is bounded but for one digest a record that was given an id, about 150 bytes.

    :param path: a regular file that ends in .csv, .jsonl or .ndjson.
    :raises InvalidFieldError: while iterating, for the file as a whole: it cannot be read, its
        ending or its header is wrong, or the journal of ids cannot be kept. ``field`` is the
        file's name or the column.
    """
    ids = _Ids(path)
    with _reading(path) as file:
        rows: Iterator[_Reading[pb.NewAttestation]]
        if _is_csv(path):
            rows = _csv_rows(path, file, attestation_from_columns, _REQUIRED)
        else:
            rows = _json_rows(file)
        for line, content in rows:
            try:
                attestation = content()
            except InvalidFieldError as error:
                yield BadRow(line, error.field, error.message, error.remedy)
                continue
            if not attestation.attestation_id:
                attestation.attestation_id = ids.next(attestation)
            yield Row(line, attestation)


def count(path: Path) -> int:
    """How many records `read` will give, good and bad: a quick pass, for a progress bar.

    :raises InvalidFieldError: the file cannot be read, or its ending is wrong.
    """
    with _reading(path) as file:
        if not _is_csv(path):
            return sum(1 for _ in _json_rows(file))
        _encoding_of(path, file)
        return max(0, sum(1 for _ in _records(_Lines(file))) - 1)


def documents(path: Path) -> Iterator[tuple[int, types_pb2.IdentityDocument] | BadRow]:
    """The identity document of every record of a CSV file, with its line.

    :param path: a CSV file as for `read`; columns but the document's are passed over.
    :raises InvalidFieldError: while iterating, for the file as a whole.
    """
    if not _is_csv(path):
        raise InvalidFieldError("is not CSV", field=path.name, remedy="give a .csv file")
    with _reading(path) as file:
        columns = ("document_type", "document_number")
        for line, content in _csv_rows(path, file, document_from_columns, columns):
            try:
                yield line, content()
            except InvalidFieldError as error:
                yield BadRow(line, error.field, error.message, error.remedy)


def column_of(path: str) -> str:
    """The column that a field of a request stands in; the path itself where there is none.

    :param path: as a node names it: ``attestation.fact.nucleic_acid_test.sample_time``.
    """
    path = re.sub(r"^(attestation\.|documents\[\d+\]\.)", "", path)
    if path in {"type", "number"}:
        return f"document_{path}"
    if path == "fact":
        return "kind"
    name = re.sub(r"^fact\.[a-z_]+\.", "", path).replace(".", "_")
    return name if name in COLUMNS else path


_Reading = tuple[int, "Callable[[], _T]"]
"""A record's line, and its content once it is asked for: count never asks."""


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


# --- physical lines -------------------------------------------------------------------------


class _Lines:
    """Numbered physical lines; none is held beyond the limit."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._file = file
        self._within = False

    def next(self) -> bytes:
        """Give a line, or the first ``_LIMIT + 1`` bytes of a longer one; empty at the end."""
        text = self._file.readline(_LIMIT + 1)
        self.number += bool(text) and not self._within
        self._within = bool(text) and not text.endswith(b"\n")
        return text

    def skip(self, *, quoted: bool = False) -> None:
        """Pass over the rest of a line, and of further ones as long as quotes stay open."""
        while self._within or quoted:
            text = self.next()
            if not text:
                return
            quoted ^= text.count(b'"') % 2 == 1


# --- CSV: records and cells -----------------------------------------------------------------


def _records(lines: _Lines) -> Iterator[tuple[int, list[bytes] | InvalidFieldError]]:
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


def _record(lines: _Lines, text: bytes) -> list[bytes]:
    line = lines.number
    size = 0
    quotes = 0
    cells = _Cells()
    while text:
        size += len(text)
        quotes += text.count(b'"')
        if size > _LIMIT:
            lines.skip(quoted=quotes % 2 == 1)
            raise InvalidFieldError(
                f"longer than {_LIMIT} bytes; {_lines_lost(line, lines.number)}",
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


# --- CSV: the header ------------------------------------------------------------------------

_HEADER = {name: name for name in COLUMNS} | {zh: en for en, all_ in COLUMNS.items() for zh in all_}


def _csv_rows(
    path: Path,
    file: BinaryIO,
    convert: Callable[[Mapping[str, str]], _T],
    required: Iterable[str],
) -> Iterator[_Reading[_T]]:
    encoding = _encoding_of(path, file)
    records = _records(_Lines(file))
    first = next(records, None)
    if first is None:
        raise InvalidFieldError("is empty", field=path.name, remedy="begin with a header line")
    header = _header(path, first[1], encoding, required)
    for line, cells in records:
        yield line, functools.partial(_converted, convert, header, cells, encoding)


def _converted(
    convert: Callable[[Mapping[str, str]], _T],
    header: list[str],
    cells: list[bytes] | InvalidFieldError,
    encoding: str,
) -> _T:
    if isinstance(cells, InvalidFieldError):
        raise cells
    return convert(_row(header, cells, encoding))


def _encoding_of(path: Path, file: BinaryIO) -> str:
    """Tell the file's encoding; leave the file after its byte-order mark.

    A GB18030 text read as UTF-8 is mostly wrong, a damaged UTF-8 text mostly right.
    """
    start = file.read(3)
    if start == codecs.BOM_UTF8:
        return "utf-8"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidFieldError("is UTF-16", field=path.name, remedy="save it as CSV UTF-8")
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    right = wrong = 0
    while block := file.read(_LIMIT):
        text = decoder.decode(block)
        if not text.isascii():
            bad = text.count("\N{REPLACEMENT CHARACTER}")
            wrong += bad
            right += len(text) - len(text.encode("ascii", "ignore")) - bad
    file.seek(0)
    return "gb18030" if wrong > right else "utf-8"


def _header(
    path: Path,
    cells: list[bytes] | InvalidFieldError,
    encoding: str,
    required: Iterable[str],
) -> list[str]:
    if isinstance(cells, InvalidFieldError):
        raise InvalidFieldError(
            f"the header line: {cells.message}", field=path.name, remedy=cells.remedy
        )
    if any(b"\r" in cell for cell in cells):
        raise InvalidFieldError(
            "its lines end in CR alone", field=path.name, remedy="save it with LF or CR LF"
        )
    names = [_plain(cell.decode(encoding, "replace")) for cell in cells]
    header = [_HEADER.get(name) for name in names]
    if not any(header):
        # Perhaps a record: it must not be repeated in the message.
        raise InvalidFieldError(
            "the first line names no known column",
            field=path.name,
            remedy="begin with a header line, its names apart by commas: " + ", ".join(required),
        )
    known: list[str] = []
    for position, (name, column) in enumerate(zip(names, header, strict=True), 1):
        if column is None:
            _refuse_column(name, position)
        if column in known:
            raise InvalidFieldError("two columns of this name", field=column, remedy="keep one")
        known.append(column)
    for column in required:
        if column not in known:
            raise InvalidFieldError(
                "the column is missing",
                field=column,
                remedy=f"add it to the header, as {column} or {COLUMNS[column][0]}",
            )
    return known


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _refuse_column(name: str, position: int) -> NoReturn:
    shown = "".join(c if c.isprintable() else "?" for c in name[:40]) or f"column {position}"
    nearest = difflib.get_close_matches(name, _HEADER, n=1, cutoff=0.5)
    raise InvalidFieldError(
        f"column {position} is none that is known",
        field=shown,
        remedy=f"did you mean {nearest[0]}?" if nearest else "leave the column out",
    )


# --- CSV: values ----------------------------------------------------------------------------

_DOCUMENTS = {
    DocumentType.RESIDENT_ID: ("身份证",),
    DocumentType.HMT_RESIDENCE_PERMIT: ("港澳居民居住证", "台湾居民居住证"),
    DocumentType.HM_TRAVEL_PERMIT: ("回乡证",),
    DocumentType.TAIWAN_TRAVEL_PERMIT: ("台胞证",),
    DocumentType.FOREIGNER_PERMANENT_RESIDENCE: ("外国人永久居留证",),
    DocumentType.PASSPORT: ("护照",),
    DocumentType.OTHER: (),
}
_TERMS: dict[type[StrEnum], dict[str, tuple[str, ...]]] = {
    DocumentType: {
        document: (document.zh, document.code, *others) for document, others in _DOCUMENTS.items()
    },
    Kind: {kind: (kind.text.zh, *kind.text.zh.split("/")) for kind in Kind},
    Colour: {
        Colour.UNSPECIFIED: (Colour.UNSPECIFIED.text.zh,),
        Colour.GREEN: ("绿", "绿码", "绿色"),
        Colour.YELLOW: ("黄", "黄码", "黄色"),
        Colour.RED: ("红", "红码", "红色"),
    },
    TestResult: {
        TestResult.NEGATIVE: ("阴性",),
        TestResult.POSITIVE: ("阳性",),
        TestResult.INCONCLUSIVE: ("无法判定",),
    },
    Fitness: {
        Fitness.FIT: ("合格",),
        Fitness.UNFIT: ("不合格",),
        Fitness.FOLLOW_UP: ("复查",),
    },
}
_TRUTH = {"true": ("yes", "1", "是", "自测"), "false": ("no", "0", "否")}

_OF_A_KIND = {field.proto for fact in FACTS.values() for field in fact_fields(fact)} - {
    "sample_time"
}
_TIME = re.compile(
    r"(\d{4})([-/])(\d{1,2})\2(\d{1,2})(?:T|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?"
    r"\s*(Z|([+-])([01]\d|2[0-3]):([0-5]\d))?",
    re.ASCII | re.IGNORECASE,
)
_CHINA = timezone(timedelta(hours=8))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def attestation_from_columns(row: Mapping[str, str]) -> pb.NewAttestation:
    """One record's attestation; without an id where it has none.

    :param row: values by the English names in `COLUMNS`; what is empty may be left out.
    :raises InvalidFieldError: the record does not read; ``field`` is the column.
    """
    kind = Kind(_term(row, "kind", _TERMS[Kind]))
    return pb.NewAttestation(
        attestation_id=_id(row, "attestation_id"),
        document=document_from_columns(row),
        holder_name=_text(row, "holder_name"),
        fact=_fact(row, kind),
        issuer=types_pb2.Issuer(
            credit_code=_text(row, "issuer_credit_code").upper(), name=_text(row, "issuer_name")
        ),
        expire_time=_time(row, "expire_time") if row.get("expire_time") else None,
        data_as_of_time=_time(row, "data_as_of_time") if row.get("data_as_of_time") else None,
        supersedes=_id(row, "supersedes"),
    )


def document_from_columns(row: Mapping[str, str]) -> types_pb2.IdentityDocument:
    """The identity document of ``document_type`` and ``document_number``.

    :raises InvalidFieldError: one of them is missing or does not read; ``field`` is the column.
    """
    document_type = _term(row, "document_type", _TERMS[DocumentType])
    return types_pb2.IdentityDocument(type=f"DOCUMENT_TYPE_{document_type}", number=_number(row))


def _row(header: list[str], cells: list[bytes], encoding: str) -> dict[str, str]:
    if len(cells) < len(header):
        raise InvalidFieldError(
            f"{len(cells)} cells for {len(header)} columns: from this column on there are none",
            field=header[len(cells)],
            remedy="give every column a cell, an empty one where there is no value",
        )
    if len(cells) > len(header):
        raise InvalidFieldError(
            f"{len(cells)} cells for {len(header)} columns",
            remedy="put a cell that holds a comma into quotes",
        )
    row = {}
    for column, cell in zip(header, cells, strict=True):
        try:
            row[column] = cell.decode(encoding).strip()
        except UnicodeDecodeError:
            raise InvalidFieldError(
                f"is not {encoding.upper()}, as the rest of the file is",
                field=column,
                remedy="save the file anew as CSV UTF-8",
            ) from None
    return row


def _text(row: Mapping[str, str], column: str) -> str:
    if value := row.get(column):
        return value
    raise InvalidFieldError("is empty", field=column, remedy="give the value")


def _number(row: Mapping[str, str]) -> str:
    number = _text(row, "document_number")
    if re.fullmatch(r"\d(\.\d+)?E\+\d+", number, re.ASCII | re.IGNORECASE):
        raise InvalidFieldError(
            "a spreadsheet rounded the number",
            field="document_number",
            remedy="format the column as text and export the file again",
        )
    return number


def _id(row: Mapping[str, str], column: str) -> str:
    value = row.get(column, "")
    if value and not _UUID.fullmatch(value):
        raise InvalidFieldError(
            "is not a UUID", field=column, remedy="write 8-4-4-4-12 hexadecimal digits"
        )
    return value.lower()


def _term(row: Mapping[str, str], column: str, terms: dict[str, tuple[str, ...]]) -> str:
    value = _text(row, column).casefold()
    for name, others in terms.items():
        if value == name.casefold() or value in others:
            return str(name)
    known = ", ".join(f"{name} ({others[0]})" for name, others in terms.items())
    raise InvalidFieldError("no such value", field=column, remedy=f"one of {known}")


def _time(row: Mapping[str, str], column: str) -> Timestamp:
    match = _TIME.fullmatch(_text(row, column))
    if match is None:
        raise InvalidFieldError(
            "is not a time",
            field=column,
            remedy="write 2020-03-01T08:30:00+08:00, or 2020-03-01 08:30 for China's time",
        )
    year, _, month, day, hour, minute, second, fraction, zone, sign, hours, minutes = match.groups()
    offset = _CHINA if zone is None else UTC
    if sign:
        east = timedelta(hours=int(hours), minutes=int(minutes))
        offset = timezone(east if sign == "+" else -east)
    clock = (int(hour), int(minute), int(second or 0))
    try:
        moment = datetime(int(year), int(month), int(day), *clock, tzinfo=offset)
    except ValueError:
        seconds = -1
    else:
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if not 0 <= seconds < 253402300800:  # google.protobuf.Timestamp ends with the year 9999
        raise InvalidFieldError(
            "is no time of the calendar since 1970", field=column, remedy="correct the time"
        )
    return Timestamp(seconds=seconds, nanos=int((fraction or "").ljust(9, "0")))


def _whole(row: Mapping[str, str], column: str) -> int:
    value = _text(row, column)
    if not re.fullmatch(r"\d{1,6}", value, re.ASCII):
        raise InvalidFieldError("is not a whole number", field=column, remedy="write 1, 2 or 3")
    return int(value)


def _fact(row: Mapping[str, str], kind: Kind) -> types_pb2.Fact:
    fields = fact_fields(FACTS[kind])
    foreign = _OF_A_KIND.difference(field.proto for field in fields)
    for column, value in row.items():
        if value and column in foreign:
            raise InvalidFieldError(
                f"has no meaning for {kind} ({kind.text.zh})",
                field=column,
                remedy="leave the cell empty, or correct kind",
            )
    values: dict[str, Any] = {}
    for field in fields:
        column = field.proto
        if not field.required and not row.get(column):
            continue
        if field.type is datetime:
            values[column] = _time(row, column)
        elif field.type is bool:
            values[column] = _term(row, column, _TRUTH) == "true"
        elif field.type is int:
            values[column] = _whole(row, column)
        elif issubclass(field.type, StrEnum):
            values[column] = _PREFIXES[field.type] + _term(row, column, _TERMS[field.type])
        else:
            values[column] = _text(row, column)
    return types_pb2.Fact(**{kind.lower(): values})


_PREFIXES: dict[type, str] = {
    Colour: "COLOUR_",
    TestResult: "TEST_RESULT_",
    Fitness: "FITNESS_",
}


# --- JSON Lines -----------------------------------------------------------------------------


def _json_rows(file: BinaryIO) -> Iterator[_Reading[pb.NewAttestation]]:
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    lines = _Lines(file)
    while text := lines.next():
        line = lines.number
        lines.skip()
        if text.strip() or len(text) > _LIMIT:
            yield line, functools.partial(attestation_from_json, text)


def attestation_from_json(text: bytes) -> pb.NewAttestation:
    """The attestation of a JSON object (proto JSON); without an id where it has none.

    :raises InvalidFieldError: the text does not read; ``field`` is the proto path.
    """
    if len(text) > _LIMIT:
        raise InvalidFieldError(f"longer than {_LIMIT} bytes", remedy="one attestation a line")
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise InvalidFieldError("is not UTF-8", remedy="save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidFieldError(
            f"is not JSON at character {error.pos + 1}: {error.msg}",
            remedy="write one whole JSON object a line",
        ) from None
    except (ValueError, RecursionError):
        raise InvalidFieldError(
            "a name stands twice in an object, a number is too long or the nesting too deep",
            remedy="write it by the contract: NewAttestation in proto JSON",
        ) from None
    if not isinstance(value, dict):
        raise InvalidFieldError("is not an object", remedy="write {…} with a NewAttestation")
    try:
        return json_format.ParseDict(value, pb.NewAttestation())
    except json_format.ParseError:
        # ParseError repeats values, numbers and names of people among them: look for the place.
        _refuse_json(value, pb.NewAttestation(), "")
        raise InvalidFieldError(
            "more than one kind of fact", field="fact", remedy="one fact an attestation"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _refuse_json(value: dict[str, Any], message: Message, path: str) -> None:
    """Raise for the first wrong field of the message at ``path``."""
    of_message = message.DESCRIPTOR.fields
    fields = {name: field for field in of_message for name in (field.name, field.json_name)}
    for name, part in value.items():
        field = fields.get(name)
        if field is None:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            raise InvalidFieldError(
                "holds a field that the contract does not know",
                field=path,
                remedy=f"did you mean {nearest[0]}?" if nearest else "leave it out",
            )
        place = f"{path}.{field.name}" if path else field.name
        inner = field.message_type
        if isinstance(part, dict) and inner is not None and inner.file is types_pb2.DESCRIPTOR:
            _refuse_json(part, GetMessageClass(inner)(), place)
        try:
            json_format.ParseDict({name: part}, type(message)())
        except json_format.ParseError:
            raise InvalidFieldError(
                "is not a value of this field", field=place, remedy=_remedy(field)
            ) from None


def _remedy(field: Any) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(value.name for value in field.enum_type.values[1:])
    if field.message_type is None:
        return "write a number" if field.type == field.TYPE_UINT32 else "write text in quotes"
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return "write RFC 3339: 2020-03-01T08:30:00+08:00"
    return "write an object: {…}"


# --- ids ------------------------------------------------------------------------------------


class _Ids:
    """Ids for the records that have none: see the module's text."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.ids")
        self._key = b""
        self._seen: dict[bytes, int] = {}

    def next(self, attestation: pb.NewAttestation) -> str:
        """Give the id of the next record.

        :raises InvalidFieldError: the journal cannot be kept.
        """
        self._key = self._key or self._journal()
        content = attestation.SerializeToString(deterministic=True)
        digest = hashlib.sha256(content).digest()[:16]
        before = self._seen.get(digest, 0)
        self._seen[digest] = before + 1
        mac = hmac.digest(self._key, content + before.to_bytes(8, "big"), "sha256")
        kind = attestation.fact.WhichOneof("kind")
        at = getattr(attestation.fact, kind).sample_time if kind else Timestamp()
        return str(uuid7(max(0, at.seconds * 1000 + at.nanos // 1_000_000), mac))

    def _journal(self) -> bytes:
        try:
            try:
                return self._create()
            except FileExistsError:
                return self._load()
        except OSError as error:
            raise InvalidFieldError(
                f"no journal of ids can be kept beside the file: {error.strerror}",
                field=self._path.name,
                remedy="make the directory writable, or give every record an attestation_id",
            ) from None

    def _create(self) -> bytes:
        key = secrets.token_bytes(32)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.hex().encode() + b"\n")
            file.flush()
            os.fsync(handle)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return key

    def _load(self) -> bytes:
        handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise InvalidFieldError(
                    "the journal of ids is open to others",
                    field=self._path.name,
                    remedy="chmod 600",
                )
            text = file.read(65)
        if not re.fullmatch(rb"[0-9a-f]{64}\n?", text):
            raise InvalidFieldError(
                "the journal of ids is damaged, or another run is just writing it",
                field=self._path.name,
                remedy="put the saved copy back; delete it only if nothing was published from it",
            )
        return bytes.fromhex(text.decode())


def uuid7(milliseconds: int, random: bytes) -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562 §5.7) of a time since 1970 and at least ten bytes."""
    bits = int.from_bytes(random[:10], "big")
    high = milliseconds << 16 | 0x7000 | (bits >> 62) & 0xFFF
    return uuid.UUID(int=high << 64 | 1 << 63 | bits & (1 << 62) - 1)
