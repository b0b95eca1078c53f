"""Write a CSV file of invented travellers from Sichuan, for ``attestation publish-file``.

``python scripts/travellers.py OUT.csv --count 588 --now 2020-03-01T12:00:00+08:00 --seed 20200301``

Nobody here exists. Numbers are valid in form only, check digits included, with counties that do
not exist and sequence digits in the nine hundreds; no document comes twice. The same seed and time
give the same file, byte for byte. Every fact is fresh enough at ``now`` to be honoured as green. A
traveller has one row, so a vaccinated one shows the test: a series alone says nothing of today.
"""

from __future__ import annotations

import argparse
import csv
import random
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from exchange.facts import Colour, Fitness, Kind, TestResult
from exchange.subjects import DocumentType, credit_code_check, mod_11_2
from nodes.cli.files import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ISSUER_CREDIT_CODE", "ISSUER_NAME", "travellers"]

_CREDIT_BODY = "12510100MB0X58800"
ISSUER_CREDIT_CODE = _CREDIT_BODY + credit_code_check(_CREDIT_BODY)
ISSUER_NAME = "成都市示例医院"

_T = TypeVar("_T")
_CHINA = timezone(timedelta(hours=8))

_SURNAMES = "李王张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂英华建文辉力宁永健世广志义兴良海山波君"
_LATIN_SURNAMES = ("ADEYEMI", "GARCIA", "IVANOVA", "KOWALSKI", "MEYER", "NGUYEN", "SATO", "SMITH")
_LATIN_GIVEN = ("ALEX", "DANIEL", "ELENA", "HANA", "MARIA", "NOAH", "OLGA", "THOMAS")

_REGIONS = ("519901", "519902", "519903", "519904", "519905")  # counties that Sichuan has not
_HMT_REGIONS = ("810000", "820000", "830000")

_DOCUMENT_SHARES = {
    DocumentType.RESIDENT_ID: 84,
    DocumentType.HM_TRAVEL_PERMIT: 5,
    DocumentType.TAIWAN_TRAVEL_PERMIT: 3,
    DocumentType.HMT_RESIDENCE_PERMIT: 3,
    DocumentType.PASSPORT: 3,
    DocumentType.FOREIGNER_PERMANENT_RESIDENCE: 2,
}
_KIND_SHARES = {
    Kind.MEDICAL_EXAMINATION: 45,
    Kind.NUCLEIC_ACID_TEST: 40,
    Kind.HEALTH_CODE_STATUS: 10,
    Kind.RECOVERY: 5,
}


def travellers(count: int, *, now: datetime, seed: int) -> Iterator[dict[str, str]]:
    """Give the rows of a file, each with every column of `nodes.cli.files.COLUMNS`.

    :param count: how many travellers.
    :param now: the time, aware, at which the facts are fresh.
    :param seed: which travellers: the same people at any ``now``.
    :raises ValueError: ``now`` is naive.
    """
    if now.tzinfo is None:
        raise ValueError("now must be aware")
    now = now.astimezone(_CHINA).replace(microsecond=0)
    rng = random.Random(seed)  # noqa: S311 - the file is to be the same again; nothing is secret
    known: set[tuple[DocumentType, str]] = set()
    while len(known) < count:
        document = _pick(rng, _DOCUMENT_SHARES)
        number = _number(rng, document)
        if (document, number) in known:
            continue
        known.add((document, number))
        fact = _fact(rng, _pick(rng, _KIND_SHARES), now)
        yield dict.fromkeys(COLUMNS, "") | {
            "attestation_id": _uuid7(rng, datetime.fromisoformat(fact["sample_time"])),
            "document_type": document.value,
            "document_number": number,
            "holder_name": _name(rng, document),
            "issuer_credit_code": ISSUER_CREDIT_CODE,
            "issuer_name": ISSUER_NAME,
            **fact,
        }


def _pick(rng: random.Random, shares: dict[_T, int]) -> _T:
    return rng.choices(list(shares), list(shares.values()))[0]


def _digits(rng: random.Random, length: int) -> str:
    return str(rng.randrange(10**length)).zfill(length)


def _number(rng: random.Random, document: DocumentType) -> str:
    match document:
        case DocumentType.RESIDENT_ID:
            return _citizen(rng, rng.choice(_REGIONS))
        case DocumentType.HMT_RESIDENCE_PERMIT:
            return _citizen(rng, rng.choice(_HMT_REGIONS))
        case DocumentType.HM_TRAVEL_PERMIT:
            return rng.choice("HM") + _digits(rng, 8)
        case DocumentType.TAIWAN_TRAVEL_PERMIT:
            return _digits(rng, 8)
        case DocumentType.PASSPORT:
            return rng.choice("CKLNPRX") + _digits(rng, 8)
        case _:
            return _foreigner(rng)


def _foreigner(rng: random.Random) -> str:
    """Give the form of since 2023 or the one before."""
    if rng.random() < 0.5:
        return _citizen(rng, "951" + rng.choice(("276", "392", "840")))
    return f"{rng.choice(('DEU', 'JPN', 'USA'))}5101{_born(rng):%y%m%d}{_digits(rng, 2)}"


def _citizen(rng: random.Random, region: str) -> str:
    """Give 18 characters by GB 11643."""
    body = f"{region}{_born(rng):%Y%m%d}9{_digits(rng, 2)}"
    return body + mod_11_2(body)


def _born(rng: random.Random) -> date:
    return date(1955, 1, 1) + timedelta(days=rng.randrange(47 * 365))


def _name(rng: random.Random, document: DocumentType) -> str:
    if document in {DocumentType.PASSPORT, DocumentType.FOREIGNER_PERMANENT_RESIDENCE}:
        return f"{rng.choice(_LATIN_SURNAMES)} {rng.choice(_LATIN_GIVEN)}"
    return rng.choice(_SURNAMES) + "".join(rng.choices(_GIVEN, k=rng.choice((1, 2, 2))))


def _fact(rng: random.Random, kind: Kind, now: datetime) -> dict[str, str]:
    def ago(least: float, most: float) -> datetime:
        """Give a time so many hours before now."""
        return now - timedelta(seconds=rng.randrange(int(least * 3600), int(most * 3600)))

    fact = {"kind": kind.value}
    match kind:
        case Kind.MEDICAL_EXAMINATION:
            sampled = ago(24, 6.5 * 24)
            fact |= {
                "conclusion": Fitness.FIT.value,
                "result_time": (sampled + timedelta(hours=20)).isoformat(),
            }
        case Kind.NUCLEIC_ACID_TEST:
            sampled = ago(6, 20)
            fact |= {
                "result": TestResult.NEGATIVE.value,
                "result_time": (sampled + timedelta(hours=5)).isoformat(),
            }
        case Kind.RECOVERY:
            sampled = ago(15 * 24, 60 * 24)
            fact["confirm_time"] = (sampled - timedelta(days=rng.randrange(14, 31))).isoformat()
        case _:
            sampled = ago(1, 12)
            fact |= {"colour": Colour.GREEN.value, "local_status": "绿码"}
    return fact | {"sample_time": sampled.isoformat()}


def _uuid7(rng: random.Random, at: datetime) -> str:
    """Give a UUIDv7 (RFC 9562 §5.7)."""
    high = int(at.timestamp() * 1000) << 16 | 0x7000 | rng.getrandbits(12)
    return str(uuid.UUID(int=high << 64 | 1 << 63 | rng.getrandbits(62)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CSV file of invented travellers.")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--count", type=int, default=588)
    parser.add_argument("--now", type=datetime.fromisoformat, default=datetime.now(UTC))
    parser.add_argument("--seed", type=int, default=20200301)
    given = parser.parse_args()
    if given.now.tzinfo is None:
        parser.error("--now needs an offset: 2020-03-01T12:00:00+08:00")
    with given.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(travellers(given.count, now=given.now, seed=given.seed))


if __name__ == "__main__":
    main()
