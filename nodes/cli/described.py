"""A health fact in a few words, as ``tongxing rules`` takes it.

::

    核酸检测 阴性 47h                                      sampled 47 hours before
    NUCLEIC_ACID_TEST NEGATIVE 50h result_time=30h @440000   reported 30 h before, of Guangdong
    抗原检测 阴性 3h 自测                                    taken by oneself
    疫苗接种 2/2 20d
    健康码状态 红 2022-01-10T08:30:00+08:00
    核酸检测 阴性 20h document_type=护照 @DE                 a foreign one

First the kind; then, in any order: its result, conclusion or colour; when it was sampled, as an
age (``20d``, ``47h``, ``47h59min``, 3小时) or a time; the doses; the province or country that it
is of (``@510000`` where none is named); and ``NAME=VALUE`` for what else a file's column can say
(`nodes.cli.files.COLUMNS`). Names and values stand in English or Chinese, as in such a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from exchange.errors import InvalidFieldError
from exchange.facts import (
    FACTS,
    Colour,
    Fact,
    Fitness,
    Kind,
    TestResult,
    Vaccination,
    fact_fields,
)
from exchange.provinces import PROVINCES
from exchange.subjects import DocumentType
from exchange.vaccines import EU_NAMES
from nodes.cli import files

if TYPE_CHECKING:
    from exchange.attestations import Holder

__all__ = ["Described", "facts"]

HOME = "510000"
_UNITS = {
    "s": "seconds",
    "秒": "seconds",
    "min": "minutes",
    "分钟": "minutes",
    "h": "hours",
    "小时": "hours",
    "d": "days",
    "日": "days",
    "天": "days",
}
_AGE_PART = re.compile(f"([0-9]{{1,6}})({'|'.join(_UNITS)})")
_AGE = re.compile(f"(?:{_AGE_PART.pattern})+")
_DOSES = re.compile("([0-9]{1,3})/([0-9]{1,3})")
_ORIGIN = re.compile("[A-Z]{2}")
_BETWEEN = re.compile("[;；\n]")
_NAMES = {name: column for column, zh in files.COLUMNS.items() for name in (column, *zh)}
_FIELDS = [field for fact in FACTS.values() for field in fact_fields(fact)]
_COLUMNS = {field.proto for field in _FIELDS} | {"document_type"}
_TIMES = {field.proto for field in _FIELDS if field.type is datetime}
_MOST = 64
"""Facts of one holder: as many as one province may send."""


@dataclass(frozen=True, slots=True)
class Described:
    """A fact that a rule can be asked about: an `exchange.rules.Known`."""

    id: UUID
    fact: Fact
    province: str
    holder: Holder


def facts(text: str, now: datetime, *, first: int = 1) -> tuple[Described, ...]:
    """Read the facts of one holder, apart by semicolons; none where the text is blank.

    :param now: an aware datetime; ages count back from it.
    :param first: what their ids count from.
    :raises InvalidFieldError: one does not read; names the column.
    """
    parts = [part.strip() for part in _BETWEEN.split(text)]
    found = [part for part in parts if part]
    if len(found) > _MOST:
        raise InvalidFieldError(f"more than {_MOST} facts", field="facts")
    return tuple(_fact(part, now, UUID(int=at)) for at, part in enumerate(found, first))


def _fact(text: str, now: datetime, identifier: UUID) -> Described:
    from exchange import views
    from exchange.attestations import Holder
    from exchange.v1 import types_pb2

    first, *parts = text.split()
    kind = files.kind_from_text(first, field="kind")
    row: dict[str, str] = {}
    origin = ""
    for part in parts:
        if part.startswith("@"):
            if origin:
                raise InvalidFieldError("two origins", field="origin", remedy="name one")
            origin = _origin(part[1:])
            continue
        for column, value in _values(part, kind, now):
            if column in row:
                raise InvalidFieldError("stands twice", field=column)
            row[column] = value
    if "sample_time" not in row:
        raise InvalidFieldError(
            "没有采样时间 it does not say when",
            field="sample_time",
            remedy="add an age or a time: 48h, 20d, 2022-01-10T08:30",
        )
    if kind is Kind.VACCINATION:
        row.setdefault("product", "疫苗")
    new = files.attestation_from_columns({**_ANYBODY, **row, "kind": kind.value})
    name = types_pb2.DocumentType.Name(new.document.type).removeprefix("DOCUMENT_TYPE_")
    fact = views.fact_from_proto(new.fact)
    if isinstance(fact, Vaccination) and origin and origin not in PROVINCES:
        # As the reader of foreign certificates (`exchange.codes.hcert`) calls it.
        fact = replace(fact, product=EU_NAMES.get(fact.product, fact.product))
    return Described(
        id=identifier,
        fact=fact,
        province=origin or HOME,
        holder=Holder("", DocumentType[name], ""),
    )


_ANYBODY = {
    "document_type": DocumentType.RESIDENT_ID.value,
    "document_number": "0",
    "holder_name": "*",
    "issuer_credit_code": "*",
    "issuer_name": "*",
}


def _values(part: str, kind: Kind, now: datetime) -> list[tuple[str, str]]:
    """The columns that a part of the text fills in."""
    name, equals, value = part.partition("=")
    if equals:
        column = _NAMES.get(name.replace("-", "_"))
        if column not in _COLUMNS:
            raise InvalidFieldError(
                "names nothing of a fact", field="facts", remedy="write KIND RESULT AGE NAME=VALUE"
            )
        return [(column, _time(value, now, column) if column in _TIMES else value)]
    if doses := _DOSES.fullmatch(part):
        return [("dose", doses[1]), ("doses", doses[2])]
    if part[0].isascii() and part[0].isdigit():
        return [("sample_time", _time(part, now, "sample_time"))]
    if _NAMES.get(part.replace("-", "_")) == "self_tested":
        return [("self_tested", "true")]
    for field in fact_fields(FACTS[kind]):
        if field.type in (TestResult, Fitness, Colour):
            return [(field.proto, part)]
    raise InvalidFieldError(
        f"has no meaning for {kind} ({kind.text.zh})",
        field="facts",
        remedy="write KIND RESULT AGE NAME=VALUE",
    )


def _time(text: str, now: datetime, column: str) -> str:
    if not _AGE.fullmatch(text):
        return text
    age = timedelta()
    for count, unit in _AGE_PART.findall(text):
        age += timedelta(**{_UNITS[unit]: int(count)})
    try:
        return (now - age).isoformat()
    except OverflowError:
        raise InvalidFieldError("is too long ago", field=column) from None


def _origin(text: str) -> str:
    if text in PROVINCES or (_ORIGIN.fullmatch(text) and text != "CN"):
        return text
    raise InvalidFieldError(
        "no province and no country",
        field="origin",
        remedy="write @510000, or a country's two letters: @DE",
    )
