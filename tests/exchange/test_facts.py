from __future__ import annotations

import typing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import cbor
from exchange.errors import MalformedObjectError
from exchange.facts import (
    FACTS,
    AntigenTest,
    Colour,
    Fact,
    Fitness,
    Kind,
    TestResult,
    Vaccination,
    fact_fields,
    fact_from_claim,
    fact_to_claim,
    from_seconds,
)
from exchange.v1 import types_pb2

AT = datetime(2022, 1, 9, 16, 0, tzinfo=UTC)
SECONDS = int(AT.timestamp())
YEAR_10000 = 253402300800

CLAIMS: dict[str, dict[str, Any]] = {
    "MEDICAL_EXAMINATION": {"sampled_at": SECONDS, "conclusion": "FIT"},
    "NUCLEIC_ACID_TEST": {"sampled_at": SECONDS, "result": "NEGATIVE"},
    "ANTIGEN_TEST": {"sampled_at": SECONDS, "result": "POSITIVE", "self_tested": True},
    "VACCINATION": {"sampled_at": SECONDS, "product": "CoronaVac", "dose": 2, "doses": 2},
    "RECOVERY": {"sampled_at": SECONDS, "confirmed_at": SECONDS - 86400},
    "HEALTH_CODE_STATUS": {"sampled_at": SECONDS, "colour": "GREEN"},
}
every_kind = pytest.mark.parametrize("kind", CLAIMS)


def refused(claim: dict[Any, Any], field: str) -> None:
    with pytest.raises(MalformedObjectError) as caught:
        fact_from_claim(claim)
    assert caught.value.field == f"health.{field}"
    assert caught.value.reason == "MALFORMED_OBJECT"


@given(st.data())
def test_every_fact_is_read_back_from_its_claim(
    facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    fact = data.draw(facts)
    claim = cbor.decode_map(cbor.encode(fact_to_claim(fact)))
    assert fact_from_claim(claim) == fact


@every_kind
def test_every_kind_has_its_claim(kind: str) -> None:
    claim = {"kind": kind, **CLAIMS[kind]}
    fact = fact_from_claim(claim)
    assert type(fact) is FACTS[Kind(kind)]
    assert fact.kind is Kind(kind)
    assert fact.sampled_at == AT
    assert fact_to_claim(fact) == claim


def test_no_kind_is_forgotten() -> None:
    assert list(FACTS) == list(Kind)
    assert set(FACTS.values()) == set(typing.get_args(Fact))
    assert set(CLAIMS) == set(Kind)


def test_what_is_absent_or_empty_is_left_out_of_the_claim() -> None:
    claim = fact_to_claim(AntigenTest(AT, TestResult.NEGATIVE))
    assert claim == {"kind": "ANTIGEN_TEST", "sampled_at": SECONDS, "result": "NEGATIVE"}


@every_kind
def test_every_field_has_its_name_in_the_contract(kind: str) -> None:
    fact = FACTS[Kind(kind)]
    message = getattr(types_pb2, fact.__name__).DESCRIPTOR
    assert {field.proto for field in fact_fields(fact)} == set(message.fields_by_name)
    assert types_pb2.Fact.DESCRIPTOR.fields_by_name[kind.lower()].message_type is message


@pytest.mark.parametrize("words", [Kind, Colour])
def test_every_member_has_its_words_in_two_languages(words: type[Kind | Colour]) -> None:
    texts = [member.text for member in words]
    assert all(text.zh and text.en for text in texts)
    assert len(set(texts)) == len(texts)
    assert all(not text.zh.isascii() and text.en.isascii() for text in texts)


@pytest.mark.parametrize(
    ("python", "proto"),
    [
        (Kind, types_pb2.Kind),
        (TestResult, types_pb2.TestResult),
        (Fitness, types_pb2.Fitness),
        (Colour, types_pb2.Colour),
    ],
)
def test_every_word_is_one_of_the_contract(python: Any, proto: Any) -> None:
    prefix = proto.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    names = {name.removeprefix(prefix) for name in proto.keys()}  # noqa: SIM118 - an enum wrapper is no dict
    assert names == {"UNSPECIFIED", *python}


@pytest.mark.parametrize("kind", ["", "nucleic_acid_test", "FUTURE_KIND", 2, None, [], {}, b"x"])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    refused({**CLAIMS["NUCLEIC_ACID_TEST"], "kind": kind}, "kind")


@every_kind
def test_a_missing_required_field_is_refused(kind: str) -> None:
    required = [field.name for field in fact_fields(FACTS[Kind(kind)]) if field.required]
    assert "sampled_at" in required
    for name in required:
        rest = {key: value for key, value in CLAIMS[kind].items() if key != name}
        refused({"kind": kind, **rest}, name)


WRONG: dict[type, list[Any]] = {
    datetime: [-1, YEAR_10000, 1.5, True, "2022-01-09T16:00:00Z", [], 1 << 63],
    str: [1, b"x", [], {}, True],
    bool: [0, 1, "true", []],
    int: [1.0, "1", True, [], -1, 1 << 32, (1 << 64) - 1],
}


@every_kind
def test_a_field_of_a_wrong_type_is_refused(kind: str) -> None:
    for field in fact_fields(FACTS[Kind(kind)]):
        for value in WRONG.get(field.type, ["", "negative", "UNKNOWN", 1, b"RED", [], {}]):
            refused({"kind": kind, **CLAIMS[kind], field.name: value}, field.name)


def test_a_dose_that_no_view_could_hold_is_refused() -> None:
    # CBOR has it, uint32 and CEL have not: it would break the gate and not the object.
    for dose in (-1, 1 << 32):
        refused({"kind": "VACCINATION", **CLAIMS["VACCINATION"], "dose": dose}, "dose")


def test_a_field_of_a_later_version_is_passed_over() -> None:
    claim = {"kind": "VACCINATION", **CLAIMS["VACCINATION"], "batch": "20211203", 7: None}
    assert fact_from_claim(claim) == Vaccination(AT, "CoronaVac", 2, 2)


@given(st.integers(0, YEAR_10000 - 1))
def test_whole_seconds_become_a_time_in_utc(seconds: int) -> None:
    time = from_seconds(seconds)
    assert time.tzinfo is UTC
    assert int(time.timestamp()) == seconds


@pytest.mark.parametrize("value", [-1, YEAR_10000, 0.0, True, None, "0", 1 << 64])
def test_what_is_no_whole_second_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        from_seconds(value)
