"""CSV: the columns, their names in two languages, and the values under them."""

from __future__ import annotations

import codecs
import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from exchange.errors import InvalidFieldError
from exchange.facts import FACTS, Colour, Fitness, Kind, TestResult, fact_fields
from exchange.subjects import DocumentType
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.cli.files import marks
from nodes.cli.files.lines import LIMIT, Lines, Reading
from nodes.cli.files.records import records

__all__ = [
    "COLUMNS",
    "REQUIRED",
    "attestation_from_columns",
    "column_of",
    "csv_rows",
    "document_from_columns",
    "encoding_of",
    "header_names",
    "kind_from_text",
    "time_from_text",
]

_T = TypeVar("_T")

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

REQUIRED = (
    "document_type",
    "document_number",
    "holder_name",
    "kind",
    "sample_time",
    "issuer_credit_code",
    "issuer_name",
)


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


_HEADER = {name: name for name in COLUMNS} | {zh: en for en, all_ in COLUMNS.items() for zh in all_}


def csv_rows(
    path: Path,
    file: BinaryIO,
    convert: Callable[[Mapping[str, str]], _T],
    required: Iterable[str],
    ignore: Collection[str] = (),
) -> Iterator[Reading[_T]]:
    """Give every record after the header, to be converted when it is asked for.

    :param convert: makes the content from the values by column.
    :param required: the columns that must be there.
    :param ignore: columns to be passed over, by their names in the header.
    :raises InvalidFieldError: the header is wrong.
    """
    encoding = encoding_of(path, file)
    rows = records(Lines(file))
    first = next(rows, None)
    if first is None:
        raise InvalidFieldError("is empty", field=path.name, remedy="begin with a header line")
    header = _header(path, first, encoding, required, {_plain(name) for name in ignore})
    for line, cells in rows:
        yield line, functools.partial(_converted, convert, header, line, cells, encoding)


def header_names(path: Path, file: BinaryIO) -> dict[str, str]:
    """How the header names the columns that are known, by `COLUMNS`."""
    encoding = encoding_of(path, file)
    _, cells = next(records(Lines(file)), (0, []))
    if isinstance(cells, InvalidFieldError):
        return {}
    names = [cell.decode(encoding, "replace").strip() for cell in cells]
    return {_HEADER[plain]: name for name in names if (plain := _plain(name)) in _HEADER}


def _converted(
    convert: Callable[[Mapping[str, str]], _T],
    header: list[str | None],
    line: int,
    cells: list[bytes] | InvalidFieldError,
    encoding: str,
) -> _T:
    if isinstance(cells, InvalidFieldError):
        raise cells
    return convert(_row(header, line, cells, encoding))


def encoding_of(path: Path, file: BinaryIO) -> str:
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
    while block := file.read(LIMIT):
        text = decoder.decode(block)
        if not text.isascii():
            bad = text.count("\N{REPLACEMENT CHARACTER}")
            wrong += bad
            right += len(text) - len(text.encode("ascii", "ignore")) - bad
    file.seek(0)
    return "gb18030" if wrong > right else "utf-8"


def _header(
    path: Path,
    first: tuple[int, list[bytes] | InvalidFieldError],
    encoding: str,
    required: Iterable[str],
    ignore: Collection[str],
) -> list[str | None]:
    names = _names(path, first, encoding)
    header = [_HEADER.get(name) for name in names]
    if not any(header):
        # Perhaps a record: it must not be repeated in the message.
        raise InvalidFieldError(
            "the first line names no known column",
            field=path.name,
            remedy="begin with a header line, its names apart by commas: " + ", ".join(required),
        )
    known: list[str | None] = []
    for position, (name, column) in enumerate(zip(names, header, strict=True), 1):
        if name in ignore:
            known.append(None)
            continue
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


def _names(
    path: Path, first: tuple[int, list[bytes] | InvalidFieldError], encoding: str
) -> list[str]:
    line, cells = first
    if isinstance(cells, InvalidFieldError):
        raise InvalidFieldError(
            f"the header line: {cells.message}", field=path.name, remedy=cells.remedy
        )
    if any(b"\r" in cell for cell in cells):
        raise InvalidFieldError(
            "its lines end in CR alone", field=path.name, remedy="save it with LF or CR LF"
        )
    names = [_plain(cell.decode(encoding, "replace")) for cell in cells]
    if mark := marks.in_row(names, line):
        raise InvalidFieldError(mark.said, field=path.name, remedy=mark.way)
    return names


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _refuse_column(name: str, position: int) -> NoReturn:
    shown = "".join(c if c.isprintable() else "?" for c in name[:40])
    if not shown:
        raise InvalidFieldError(
            f"column {position} has no name", field="header", remedy="name it, or leave it out"
        )
    # More than half alike: 编号 is half of 序号, and means something else.
    nearest = difflib.get_close_matches(name, _HEADER, n=1, cutoff=0.7)
    mean = f"did you mean {nearest[0]}? if not, " if nearest else ""
    raise InvalidFieldError(
        f"column {position} is none that is known",
        field=shown,
        remedy=f"{mean}leave the column out, or pass it over with --ignore-columns {shown}",
    )


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
_DATE = re.compile(r"\d{4}([-/])\d{1,2}\1\d{1,2}", re.ASCII)
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


def time_from_text(text: str, *, field: str) -> datetime:
    """Read a time as a file's cell has it; a date alone is its beginning in China.

    :raises InvalidFieldError: it is none; names ``field``.
    """
    if _DATE.fullmatch(text):
        text = f"{text} 00:00"
    return datetime.fromtimestamp(_time({field: text}, field).seconds, UTC)


def kind_from_text(text: str, *, field: str) -> Kind:
    """Read a kind by its name, in English or Chinese.

    :raises InvalidFieldError: there is none of that name; names ``field``.
    """
    return Kind(_term({field: text.replace("-", "_")}, field, _TERMS[Kind]))


def _row(header: list[str | None], line: int, cells: list[bytes], encoding: str) -> dict[str, str]:
    if len(cells) < len(header):
        if mark := marks.in_row((cell.decode(encoding, "replace") for cell in cells), line):
            raise InvalidFieldError(mark.said, remedy=mark.way)
        raise InvalidFieldError(
            f"{len(cells)} cells for {len(header)} columns: from this column on there are none",
            field=header[len(cells)] or f"column {len(cells) + 1}",
            remedy="give every column a cell, an empty one where there is no value",
        )
    if len(cells) > len(header):
        raise InvalidFieldError(
            f"{len(cells)} cells for {len(header)} columns",
            remedy="put a cell that holds a comma into quotes",
        )
    row = {}
    for column, cell in zip(header, cells, strict=True):
        if column is None:
            continue
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
