"""Forty cases of the field: `field_cases.csv`, by the rules that the provinces publish.

What a traveller has stands there as `nodes.cli.described` reads it, each fact with the province
that signed it; it is signed for real, and what the gate decides is held against the row. In
brackets stands what befell it. ``at`` is when the gate is asked, from the moment of the table on.
"""

from __future__ import annotations

import csv
import functools
import re
from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exchange.attestations import LIFE, AttestationVerifier
from exchange.facts import Colour, HealthCodeStatus, Kind
from exchange.keys import Algorithm, PrivateKey
from exchange.provinces import PROVINCES
from exchange.recognition import Decision, Outcome, Reply, Verdict, recognize
from exchange.rules import RuleBook
from nodes.cli import described
from nodes.profiles import published

CASES = [
    dict(row)
    for row in csv.DictReader(
        Path(__file__).with_name("field_cases.csv").read_text(encoding="utf-8").splitlines()
    )
]
MARKS = re.compile(r"\[([a-z]+)\]")
WHY = ("密切接触者", "新冠肺炎防控方案第八版", "区疾控中心", "居家隔离并联系社区")
UNITS = {"h": "hours", "d": "days"}


@functools.cache
def rules(province: str) -> RuleBook:
    return RuleBook(published(province).rules)


@pytest.fixture(scope="module")
def country(world: Any) -> Any:
    """The world of the core's tests, with all provinces in it."""
    keys = {code: PrivateKey.generate(Algorithm.ES256) for code in PROVINCES}
    return replace(world, provinces=tuple(PROVINCES), keys=keys)


def moment(country: Any, at: str) -> datetime:
    if not at:
        return country.now
    sign, count, unit = at[0], at[1:-1], at[-1]
    span = timedelta(**{UNITS[unit]: int(count)})
    return country.now + span if sign == "+" else country.now - span


def signed(country: Any, text: str, mark: str) -> tuple[str, bytes]:
    """One fact as its province signed it, or as somebody else did."""
    (said,) = described.facts(text, country.now)
    fact = said.fact
    if isinstance(fact, HealthCodeStatus) and fact.colour is not Colour.GREEN:
        words = ("", "", "", "") if mark == "unexplained" else WHY
        fact = HealthCodeStatus(fact.sampled_at, fact.colour, fact.local_status, *words)
    known = max(fact.sampled_at, getattr(fact, "result_at", None) or fact.sampled_at)
    attestation = country.attestation(
        fact,
        province=said.province,
        issued_at=known + timedelta(minutes=30),
        expires_at=fact.sampled_at + LIFE[fact.kind],
    )
    stranger = PrivateKey.generate(Algorithm.ES256) if mark == "stranger" else None
    made = bytearray(country.sign(attestation, stranger))
    if mark == "forged":
        made[-1] ^= 1
    return said.province, bytes(made)


def decided(country: Any, case: dict[str, str]) -> Decision:
    live: dict[str, list[bytes]] = defaultdict(list)
    revoked: dict[str, list[bytes]] = defaultdict(list)
    silent = set()
    for part in filter(None, (part.strip() for part in case["evidence"].split(";"))):
        mark = found[1] if (found := MARKS.search(part)) else ""
        text = MARKS.sub("", part).strip()
        if mark == "silent":
            silent.add(text.removeprefix("@"))
            continue
        province, made = signed(country, text, mark)
        (revoked if mark == "revoked" else live)[province].append(made)
    return recognize(
        [
            Reply(code, None if code in silent else live[code], revoked=revoked[code])
            for code in country.provinces
        ],
        tokens=[country.token],
        province=case["gate"],
        rules=rules(case["gate"]),
        trust=country.trust(),
        verifier=AttestationVerifier(),
        now=moment(country, case["at"]),
    )


@pytest.mark.parametrize("case", CASES, ids=[f"{row['no']}-{row['case']}" for row in CASES])
def test_the_gate_decides_as_the_table_says(country: Any, case: dict[str, str]) -> None:
    decision = decided(country, case)
    assert (decision.outcome, decision.colour, decision.verdict) == (
        case["outcome"],
        case["colour"],
        case["verdict"],
    )
    satisfied = {said.rule.id: said.rule for said in decision.rules if said.satisfied_by}
    if case["rule"]:
        assert satisfied[case["rule"]].colour == case["colour"]
        assert satisfied[case["rule"]].reason == decision.reason
    else:
        assert Colour(case["colour"]) is Colour.UNSPECIFIED
    assert decision.reason.zh
    assert decision.reason.en


def test_the_table_is_a_field() -> None:
    assert [int(case["no"]) for case in CASES] == list(range(1, 41))
    assert len({case["case"] for case in CASES}) == len({case["情形"] for case in CASES}) == 40
    words = " ".join(case["evidence"] for case in CASES)
    assert all(any(name in words for name in kind.text.zh.split("/")) for kind in Kind)
    assert {case["outcome"] for case in CASES} == set(Outcome)
    assert {case["colour"] for case in CASES} == set(Colour)
    # STALE is said of one piece, never of the whole where another counts.
    assert {case["verdict"] for case in CASES} == set(Verdict) - {Verdict.STALE}
    assert len({case["gate"] for case in CASES}) >= 8
