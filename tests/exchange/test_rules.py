from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.errors import InvalidFieldError
from exchange.facts import AntigenTest, Colour, Fact, Kind, TestResult, Vaccination
from exchange.rules import Rule, RuleBook, RuleError
from exchange.status import from_status, to_status
from exchange.texts import Text

HUBEI, SICHUAN = "420000", "510000"
HOUR = timedelta(hours=1)


def rule(**changes: Any) -> dict[str, Any]:
    return {
        "id": "nat-48h",
        "kinds": ["NUCLEIC_ACID_TEST"],
        "colour": "GREEN",
        "when": 'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")',
        "reason": {"zh": "48小时核酸阴性", "en": "a negative test within 48 hours"},
        "valid_from": "2020-03-01T00:00:00+08:00",
        **changes,
    }


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in rule().items() if key != name}


def refused(field: str, *rules: dict[str, Any]) -> RuleError:
    with pytest.raises(RuleError) as caught:
        RuleBook(rules)
    assert caught.value.field == field
    assert caught.value.reason == "INVALID_FIELD"
    return caught.value


# Reading.


def test_a_rule_is_read_and_written_again() -> None:
    read = Rule.from_json(rule())
    assert read == Rule(
        id="nat-48h",
        kinds=frozenset({Kind.NUCLEIC_ACID_TEST}),
        colour=Colour.GREEN,
        when=rule()["when"],
        reason=Text("48小时核酸阴性", "a negative test within 48 hours"),
        valid_from=datetime(2020, 2, 29, 16, tzinfo=UTC),
    )
    assert read.to_json()["valid_from"] == "2020-02-29T16:00:00Z"
    assert Rule.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2022-01-10T00:00:00.5Z"]
)
def test_any_time_is_written_as_it_was_read(moment: str) -> None:
    read = Rule.from_json(rule(valid_from=moment))
    assert Rule.from_json(read.to_json()) == read


def test_a_time_of_toml_is_read_as_the_text_is() -> None:
    moment = datetime(2020, 3, 1, tzinfo=timezone(8 * HOUR))
    assert Rule.from_json(rule(valid_from=moment)) == Rule.from_json(rule())


@pytest.mark.parametrize("missing", ["kinds", "colour", "when", "reason", "valid_from"])
def test_a_missing_field_is_refused(missing: str) -> None:
    refused(f"rules[nat-48h].{missing}", without(missing))


def test_a_rule_without_an_id_is_refused() -> None:
    refused("rules.id", without("id"))


@pytest.mark.parametrize("kinds", [[], "RECOVERY", ["FUTURE_KIND"], [None], None, 7, [[]]])
def test_an_unknown_kind_is_refused(kinds: Any) -> None:
    refused("rules[nat-48h].kinds", rule(kinds=kinds))


@pytest.mark.parametrize("colour", ["", "BLUE", "green", "UNSPECIFIED", None, 1, []])
def test_a_colour_that_is_none_is_refused(colour: Any) -> None:
    refused("rules[nat-48h].colour", rule(colour=colour))


@pytest.mark.parametrize("reason", ["because", None, {"zh": "因"}, {"en": "because"}, []])
def test_a_reason_that_lacks_a_language_is_refused(reason: Any) -> None:
    refused("rules[nat-48h].reason", rule(reason=reason))


@pytest.mark.parametrize(
    "moment", ["", "tomorrow", "2022-13-01T00:00:00Z", None, 0, [], "0001-01-01T00:00:00+08:00"]
)
def test_a_date_that_is_none_is_refused(moment: Any) -> None:
    refused("rules[nat-48h].valid_from", rule(valid_from=moment))


@pytest.mark.parametrize("moment", ["2022-01-10T00:00:00", "2022-01-10", datetime(2022, 1, 10)])  # noqa: DTZ001 - that is what is refused
def test_a_local_time_is_refused_because_it_is_another_moment_elsewhere(moment: Any) -> None:
    refused("rules[nat-48h].valid_from", rule(valid_from=moment))


def test_two_rules_of_one_id_are_refused() -> None:
    refused("rules[nat-48h].id", rule(), rule(colour="RED"))


# Trying on load.


@pytest.mark.parametrize(
    "when",
    [
        "",
        "fact.result ==",
        "fact.result = 'NEGATIVE'",
        "(" * 900 + "true" + ")" * 900,
        "[" * 900 + "]" * 900 + " == []",
    ],
)
def test_a_rule_that_does_not_compile_is_refused(when: str) -> None:
    assert "does not compile" in refused("rules[nat-48h].when", rule(when=when)).message


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("person.name == 'x'", "person"),
        ("result == 'NEGATIVE'", "result"),
        ("fact.result == NEGATIVE", "NEGATIVE"),
        ("[1, 2].exists(n, n == 1)", "n"),
    ],
)
def test_an_unknown_name_is_refused(when: str, name: str) -> None:
    error = refused("rules[nat-48h].when", rule(when=when))
    assert error.message == f"unknown name {name!r}"
    assert "fact, holder, now, origin" in error.remedy


@pytest.mark.parametrize(
    "when",
    [
        "1",
        '"true"',
        "fact.result",
        "fact.sampled_at",
        "now - fact.sampled_at",
        "fact",
        "null",
        "fact.sampled_at > 5",
        "origin + 1 == 2",
        "1 / 0 == 1",
        "unknown_function(fact)",
        "now.getBogus() == 1",
    ],
)
def test_a_rule_that_gives_no_yes_or_no_is_refused(when: str) -> None:
    refused("rules[nat-48h].when", rule(when=when))


@pytest.mark.parametrize(
    "when", ["fact.colour == 'RED'", "holder.name == 'x'", "fact.token == 'x'", "fact.dose > 1"]
)
def test_a_field_that_is_not_there_is_refused(when: str) -> None:
    refused("rules[nat-48h].when", rule(when=when))


def test_a_field_that_one_of_the_kinds_lacks_is_refused() -> None:
    both = ["VACCINATION", "NUCLEIC_ACID_TEST"]
    error = refused("rules[nat-48h].when", rule(kinds=both))
    assert "VACCINATION" in error.message


def test_an_optional_field_without_has_is_refused() -> None:
    when = 'now - fact.result_at <= duration("48h")'
    error = refused("rules[nat-48h].when", rule(when=when))
    assert "has(fact.field)" in error.remedy
    RuleBook([rule(when=f"has(fact.result_at) && {when}")])


def test_a_fault_behind_one_result_alone_is_found() -> None:
    for result in TestResult:
        when = f'fact.result == "{result}" && fact.bogus == 1'
        refused("rules[nat-48h].when", rule(when=when))


def test_a_rule_that_is_too_long_is_refused() -> None:
    longest = "true" + " " * 1996
    RuleBook([rule(when=longest)])
    assert "2000" in refused("rules[nat-48h].when", rule(when=longest + " ")).message


def test_a_rule_error_crosses_the_wire_as_a_wrong_field() -> None:
    error = from_status(to_status(refused("rules[nat-48h].colour", rule(colour="BLUE"))))
    assert type(error) is InvalidFieldError
    assert error.field == "rules[nat-48h].colour"


@given(st.dictionaries(st.sampled_from(list(rule())), st.none() | st.integers() | st.text()))
def test_whatever_a_profile_holds_is_refused_by_name(changes: dict[str, Any]) -> None:
    value = rule(**changes)
    try:
        book = RuleBook([value])
    except RuleError as error:
        assert error.field.startswith("rules[")  # noqa: PT017 - it may also be read
    else:
        assert len(book.rules) == 1


@given(st.text("fact.result==now()[]{}!&|-+<>? 0123456789\"'", max_size=40))
@settings(max_examples=150)
def test_whatever_an_expression_holds_is_refused_by_name(when: str) -> None:
    try:
        RuleBook([rule(when=when)])
    except RuleError as error:
        assert error.field == "rules[nat-48h].when"  # noqa: PT017 - it may also be read


# Asking.


def asked(world: Any, when: str, fact: Fact, at: datetime | None = None, **changes: Any) -> Any:
    book = RuleBook([rule(when=when, kinds=[fact.kind])])
    ((_, holds),) = book.evaluate(world.attestation(fact, **changes), at or world.now)
    return holds


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('fact.kind == "NUCLEIC_ACID_TEST"', True),
        ('fact.result == "NEGATIVE"', True),
        ('fact.result == "POSITIVE"', False),
        ('origin == "510000"', True),
        ('origin in ["440000", "420000"]', False),
        ('holder.document_type == "RESIDENT_ID"', True),
        ('holder.document_type == "PASSPORT"', False),
        ('now - fact.sampled_at == duration("12h")', True),
        ('now - fact.sampled_at < duration("12h")', False),
        ('fact.sampled_at > timestamp("2022-01-09T15:59:59Z")', True),
        ("has(fact.result_at)", False),
        ("!has(fact.result_at) || fact.result_at < now", True),
    ],
)
def test_a_rule_sees_the_fact_its_origin_and_the_time(world: Any, when: str, holds: bool) -> None:
    assert asked(world, when, world.test(12)) is holds


def test_a_rule_sees_every_field_of_its_kind(world: Any) -> None:
    at = world.now - HOUR
    antigen = AntigenTest(at, TestResult.NEGATIVE, at, self_tested=True)
    assert asked(world, "fact.self_tested && has(fact.result_at)", antigen)
    dose = Vaccination(at, "CoronaVac", 2, 3)
    assert asked(world, "fact.dose < fact.doses && fact.product.startsWith('Corona')", dose)
    red = world.status("RED")
    assert asked(world, 'fact.colour == "RED" && fact.reason != ""', red)


def test_a_rule_counts_to_the_second(world: Any) -> None:
    when = rule()["when"]
    fact = world.test(48)
    assert asked(world, when, fact) is True
    assert asked(world, when, fact, world.now + timedelta(seconds=1)) is False


def test_a_rule_holds_from_its_day_and_not_before(world: Any) -> None:
    book = RuleBook([rule(valid_from="2022-01-10T12:00:00+08:00")])  # world.now
    attestation = world.attestation()
    assert book.evaluate(attestation, world.now - timedelta(seconds=1)) == []
    assert [holds for _, holds in book.evaluate(attestation, world.now)] == [True]


def test_a_rule_is_asked_of_its_own_kinds_alone(world: Any) -> None:
    book = RuleBook([rule(), rule(id="red", kinds=["HEALTH_CODE_STATUS"], when="true")])
    said = book.evaluate(world.attestation(world.status("RED")), world.now)
    assert [(rule.id, holds) for rule, holds in said] == [("red", True)]
    assert book.evaluate(world.attestation(Vaccination(world.now, "x", 1, 1)), world.now) == []


@pytest.mark.parametrize(
    "when",
    [
        'origin == "420000" ? fact.bogus == 1 : true',
        'origin == "420000" ? 1 / 0 == 1 : true',
        'origin == "420000" ? "yes" : true',
        'origin == "420000" ? 9223372036854775807 + fact.kind.size() > 0 : true',
        'origin == "420000" ? timestamp("never") < now : true',
    ],
)
def test_a_rule_that_cannot_be_evaluated_at_the_gate_never_passes(world: Any, when: str) -> None:
    assert asked(world, when, world.test(), province=SICHUAN) is True
    assert asked(world, when, world.test(), province=HUBEI) is None


@given(st.data())
def test_every_fact_can_be_asked_about(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    when = 'fact.kind != "" && now >= fact.sampled_at && size(holder.document_type) > 0'
    assert asked(world, when, data.draw(facts)) is True


def test_the_published_rules_of_every_province_load() -> None:
    profiles = sorted((Path(__file__).parents[2] / "nodes" / "provinces").glob("*.toml"))
    assert profiles
    for path in profiles:
        rules = tomllib.loads(path.read_text())["rules"]
        book = RuleBook(rules)
        assert RuleBook(rule.to_json() for rule in book.rules).rules == book.rules
        assert {Colour.RED, Colour.GREEN} <= {rule.colour for rule in book.rules}
