"""Rules as their own province is held to them: values that no fact has, rules that never hold."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import authoring
from exchange.facts import Colour, Fitness, Kind, TestResult
from exchange.provinces import PROVINCES
from exchange.rules import RuleBook, RuleError
from exchange.subjects import DocumentType

PROVINCES_FILES = sorted((Path(__file__).parents[2] / "nodes" / "provinces").glob("*.toml"))
KINDS = {
    "result": "NUCLEIC_ACID_TEST",
    "conclusion": "MEDICAL_EXAMINATION",
    "colour": "HEALTH_CODE_STATUS",
    "dose": "VACCINATION",
    "product": "VACCINATION",
    "self_tested": "ANTIGEN_TEST",
}


def rule(when: str, **changes: Any) -> dict[str, Any]:
    kind = next((kind for field, kind in KINDS.items() if f"fact.{field}" in when), Kind.RECOVERY)
    return {
        "id": "tried",
        "kinds": [kind],
        "colour": "GREEN",
        "when": when,
        "reason": {"zh": "试", "en": "tried"},
        "valid_from": "2020-03-01T00:00:00+08:00",
        **changes,
    }


def refused(when: str, **changes: Any) -> RuleError:
    with pytest.raises(RuleError) as caught:
        authoring.check([rule(when, **changes)])
    assert caught.value.field == "rules[tried].when"
    return caught.value


# --- values that no fact has ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "literal", "meant"),
    [
        ('fact.result == "NEGATIV"', '"NEGATIV"', "NEGATIVE"),
        ('fact.result != "NEGATIV"', '"NEGATIV"', "NEGATIVE"),
        ('"NEGATIV" == fact.result', '"NEGATIV"', "NEGATIVE"),
        ("fact.result == 'negative'", "'negative'", "NEGATIVE"),
        ('fact.result == "阳性" && true', '"阳性"', "POSITIVE"),
        ('fact.result == "260373001"', '"260373001"', "POSITIVE"),
        ('fact.result == "260415000"', '"260415000"', "NEGATIVE"),
        ('fact.result in ["POSITIVE", "NEGATVE"]', '"NEGATVE"', "NEGATIVE"),
        ('!(fact.result in ["POSITIV"])', '"POSITIV"', "POSITIVE"),
        ('(fact.result) == ("NEGATIV")', '"NEGATIV"', "NEGATIVE"),
        ('origin == "440000" ? fact.result == "NEGATIV" : true', '"NEGATIV"', "NEGATIVE"),
        ('fact.conclusion == "FITT"', '"FITT"', "FIT"),
        ('fact.colour == "GREN"', '"GREN"', "GREEN"),
        ('fact.colour == "红码"', '"红码"', "RED"),
        ('fact.kind == "RECOVERED"', '"RECOVERED"', "RECOVERY"),
        ('holder.document_type == "PASPORT"', '"PASPORT"', "PASSPORT"),
        ('holder.document_type in ["居民身份证"]', '"居民身份证"', "RESIDENT_ID"),
        ('origin == "44000"', '"44000"', "440000"),
        ('origin in ["510000", "广东"]', '"广东"', "440000"),
        ('origin != "Guangdong"', '"Guangdong"', "440000"),
    ],
)
def test_a_value_that_no_fact_has_is_refused_and_the_right_one_named(
    when: str, literal: str, meant: str
) -> None:
    RuleBook([rule(when)])  # a reader takes it: what a peer published stands
    error = refused(when)
    assert literal in error.message
    assert literal in error.said.zh
    assert f'did you mean "{meant}"?' in error.remedy
    assert f'是否应为 "{meant}"？' in error.way.zh


@pytest.mark.parametrize(
    ("when", "remedy"),
    [
        ('fact.result == "?"', "it is one of NEGATIVE, POSITIVE, INCONCLUSIVE"),
        ("fact.result == 1", "it is one of NEGATIVE"),
        ('fact.dose == "2"', "without quotes"),
        ('fact.self_tested == "true"', "true or false"),
        ("fact.product == 2", "in quotes"),
        ('fact.sampled_at == "2022-01-10T00:00:00Z"', "timestamp("),
        ('origin == "999999"', "six digits"),
        ('origin == "CN"', "six digits"),
        ('origin == ""', "six digits"),
        ("origin == 510000", "six digits"),
        ('origin == "FR"', 'origins, ["FR"]'),
        ('origin == "UK"', 'did you mean "GB"?'),
        ('origin == "ZZ"', "six digits"),
        ('origin == "420000" ? now > timestamp("never") : true', "timestamp("),
    ],
)
def test_a_value_of_another_form_is_refused_with_a_remedy(when: str, remedy: str) -> None:
    RuleBook([rule(when)])
    assert remedy in refused(when).remedy


@pytest.mark.parametrize("origins", [["*"], ["FR", "510000"]])
def test_a_country_is_an_origin_where_the_rule_names_it(origins: list[str]) -> None:
    authoring.check([rule('origin == "FR"', origins=origins)])
    refused('origin == "FR"', origins=["DE"])


@pytest.mark.parametrize(
    ("code", "remedy"),
    [("UK", '"GB"'), ("EL", '"GR"'), ("ZZ", "ISO 3166-1"), ("EU", "ISO 3166-1")],
)
def test_an_origin_that_is_no_country_is_refused_and_the_right_one_named(
    code: str, remedy: str
) -> None:
    taken = rule("true", origins=["FR", code])
    RuleBook([taken])  # a reader takes it: what a peer published stands
    with pytest.raises(RuleError) as caught:
        authoring.check([taken])
    assert caught.value.field == "rules[tried].origins"
    assert f'"{code}"' in caught.value.message
    assert f'"{code}"' in caught.value.said.zh
    assert remedy in caught.value.remedy
    assert remedy in caught.value.way.zh


@pytest.mark.parametrize("code", ["GB", "GR", "XK", "HK", "510000", "*"])
def test_every_country_and_province_is_an_origin(code: str) -> None:
    authoring.check([rule("true", origins=[code])])


@pytest.mark.parametrize(
    "when",
    [
        *(f'fact.result == "{each}"' for each in TestResult),
        *(f'fact.conclusion != "{each}"' for each in Fitness),
        *(f'fact.colour == "{each}"' for each in Colour),
        *(f'holder.document_type == "{each}"' for each in DocumentType),
        *(f'fact.kind == "{each}"' for each in Kind),
        f"origin in {[*PROVINCES]}",
        'fact.product == "anything" || fact.dose == 3',
        "fact.self_tested == true",
        # Not compared as they stand:
        'fact.result + "x" == "NEGATIVEx"',
        '"x" + fact.result == "xNEGATIVE"',
        'fact.result == "NEG" + "ATIVE"',
        'fact.result in ["NEG" + "ATIVE"]',
        '(fact.result == "POSITIVE") == false',
        'fact.result == (origin == "510000" ? "NEGATIVE" : "POSITIVE")',
        'fact.result.startsWith("NEG")',
        "size(fact.result) == 8",
        'string(fact.result) == "x"',
    ],
)
def test_a_value_that_a_fact_may_have_is_taken(when: str) -> None:
    authoring.check([rule(when)])


def test_the_published_rules_of_every_province_are_in_order_and_may_hold() -> None:
    read = [tomllib.loads(path.read_text(encoding="utf-8")) for path in PROVINCES_FILES]
    books = [authoring.check(each["rules"]) for each in read if "rules" in each]
    assert len(books) > 8
    assert [authoring.warnings(book) for book in books if authoring.warnings(book)] == []


def test_every_fault_is_found_with_its_place() -> None:
    broken = [
        rule('fact.result == "NEGATIV"'),
        {"colour": "GREEN"},
        rule("true", id="well"),
        rule("(", id="syntax"),
    ]
    fields = [fault.field for fault in authoring.faults(broken)]
    assert fields == ["rules[tried].when", "rules.id", "rules[syntax].when"]
    assert "rule 2" in authoring.faults(broken)[1].message
    twice = authoring.faults([rule("true"), rule("true")])
    assert [fault.message for fault in twice] == ["stands twice"]


SYMBOLS = 'fact . result origin ( ) [ ] , == != in && || ! ? : + "NEGATIVE" "x" 1 true'


@given(st.lists(st.sampled_from(SYMBOLS.split()), max_size=14).map(" ".join))
def test_whatever_a_reader_takes_an_author_gets_or_is_told_why(when: str) -> None:
    try:
        book = RuleBook([rule(when, kinds=["NUCLEIC_ACID_TEST"])])
    except RuleError:
        return
    try:
        checked = authoring.check([rule(when, kinds=["NUCLEIC_ACID_TEST"])])
    except RuleError as error:
        assert " is never " in error.message  # noqa: PT017 - it may also be taken
    else:
        assert checked.digest == book.digest


# --- rules that never hold ------------------------------------------------------------------


def warned(when: str, **changes: Any) -> list[str]:
    book = authoring.check([rule(when, **changes)])
    return [fault.message for fault in authoring.warnings(book)]


@pytest.mark.parametrize(
    ("when", "changes"),
    [
        ('fact.result == "NEGATIVE" && fact.result == "POSITIVE"', {}),
        ('fact.kind == "VACCINATION"', {}),
        ("false", {}),
        (
            'now - fact.sampled_at >= duration("72h") && now - fact.sampled_at < duration("48h")',
            {},
        ),
        # No attestation of a test lives for so long.
        ('fact.result == "NEGATIVE" && now - fact.sampled_at >= duration("400h")', {}),
        ('now < timestamp("2019-01-01T00:00:00Z")', {}),
        ('origin == "420000"', {"origins": ["510000"]}),
        ('fact.dose > 2 && fact.dose < 2 && fact.product == "x"', {}),
    ],
)
def test_a_rule_that_never_holds_is_told(when: str, changes: dict[str, Any]) -> None:
    (message,) = warned(when, **changes)
    assert message.startswith("was found to hold for no ")


def test_the_kind_that_a_rule_never_holds_for_is_named() -> None:
    both = ["NUCLEIC_ACID_TEST", "VACCINATION"]
    (message,) = warned("has(fact.dose) && fact.dose > 1", kinds=both)
    assert message == "was found to hold for no NUCLEIC_ACID_TEST"


@pytest.mark.parametrize(
    ("when", "changes"),
    [
        ('origin.startsWith("51")', {}),
        ('fact.product.contains("灭活") && fact.product.endsWith("疫苗")', {}),
        ('has(fact.confirmed_at) && fact.sampled_at - fact.confirmed_at >= duration("6h")', {}),
        ('holder.document_type == "OTHER" && origin == "650000" && fact.doses > fact.dose', {}),
        ('now >= timestamp("2022-01-10T00:00:00Z") && fact.sampled_at < now', {}),
        ('fact.sampled_at > timestamp("2022-01-10T00:00:00Z")', {}),
        ('origin == "DE"', {"origins": ["*"]}),
        # Not foreseen, so nothing is said:
        ("now.getHours() == 25", {}),
        ("fact.sampled_at.getHours() == 25", {}),
        ("size(fact.product) == 7 && fact.dose % 5 == 4", {}),
        ("true", {"valid_from": "0001-01-01T00:00:00Z"}),
        ("true", {"valid_from": "9999-12-31T23:59:59Z"}),
        ('now <= timestamp("9999-12-31T23:59:59Z")', {}),
    ],
)
def test_of_a_rule_that_may_hold_nothing_is_told(when: str, changes: dict[str, Any]) -> None:
    assert warned(when, **changes) == []


# --- what certificates from abroad say ------------------------------------------------------


@pytest.mark.parametrize("origins", [["DE"], ["*"], ["510000", "DE"]])
@pytest.mark.parametrize(
    "when", ['fact.product == "{}"', 'fact.product in ["x", "{}"]', 'fact.product.contains("{}")']
)
def test_a_code_that_certificates_are_not_read_as_is_told_with_its_name(
    when: str, origins: list[str]
) -> None:
    book = authoring.check([rule(when.format("EU/1/20/1528"), origins=origins)])
    (warning,) = authoring.warnings(book)
    assert warning.field == "rules[tried].when"
    assert '"EU/1/20/1528"' in warning.said.zh
    assert '"EU/1/20/1528"' in warning.message
    assert (warning.way.zh, warning.remedy) == ('写 "Comirnaty"', 'write "Comirnaty"')


@pytest.mark.parametrize(
    ("product", "origins"),
    [
        ("Comirnaty", ["DE"]),
        ("EU/1/21/1624", ["DE"]),  # has no name here: it is read as it stands
        ("EU/1/20/1528", ["510000"]),  # a province may publish any
        ("EU/1/20/1528", None),
    ],
)
def test_of_a_product_that_a_fact_may_have_nothing_is_told(
    product: str, origins: list[str] | None
) -> None:
    named = {} if origins is None else {"origins": origins}
    book = authoring.check([rule(f'fact.product == "{product}"', **named)])
    assert authoring.warnings(book) == []
