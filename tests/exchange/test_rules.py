from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.attestations import Holder
from exchange.errors import InvalidFieldError
from exchange.facts import AntigenTest, Colour, Fact, Kind, TestResult, Vaccination
from exchange.provinces import PROVINCES
from exchange.rules import MOST_RULES, MOST_SYMBOLS, Rule, RuleBook, RuleError
from exchange.status import from_status, to_status
from exchange.subjects import DocumentType
from exchange.texts import Text

HUBEI, SICHUAN = "420000", "510000"
HOUR = timedelta(hours=1)
SYMBOLS = (
    *("fact", ".", "kind", "result", "bogus", "sampled_at", "now", "origin", "holder", "true"),
    *("(", ")", "[", "]", ",", "&&", "||", "!", "==", "<=", "-", "+", "?", ":", "in", "1"),
    *('"x"', 'duration("1h")', "has", "size", "all", "exists", "map", "getHours", "document_type"),
)


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


def test_a_rule_without_an_id_is_refused_and_its_place_named() -> None:
    error = refused("rules.id", rule(), without("id"))
    assert "rule 2" in error.message
    assert "第2条" in error.said.zh


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
    error = refused("rules[nat-48h].id", rule(), rule(colour="RED"))
    assert "another id" in error.remedy
    assert "version" in error.way.zh


# Trying on load.


@pytest.mark.parametrize(
    "when",
    [
        "",
        "fact.result ==",
        "fact.result = 'NEGATIVE'",
        "has(1)",
        "(" * 900 + "true" + ")" * 900,
        "[" * 900 + "]" * 900 + " == []",
    ],
)
def test_a_rule_that_does_not_compile_is_refused(when: str) -> None:
    error = refused("rules[nat-48h].when", rule(when=when))
    assert "does not compile" in error.message
    for compilers in ("Syntax error", "<input>", "<EOF>", "expecting", "token"):
        assert compilers not in f"{error} {error.said} {error.way}"


@pytest.mark.parametrize(
    ("when", "place", "part", "remedy"),
    [
        ("fact.result = 'NEGATIVE'", "line 1, character 13", ": = 'NEGATIVE'", "write == for ="),
        ("fact.result == “NEGATIVE”", "line 1, character 16", ": “NEGATIVE”", 'write " for “'),
        ("true and false", "line 1, character 6", ": and false", "write && for and"),
        ('true &&\n  fact.result is "x"', "line 2, character 15", ': is "x"', "write == for is"),
        ("fact.result == '阴性' ！", "line 1, character 21", ": ！", "write ! for ！"),
        ("fact.result ==", "line 1, character 15", "(its end)", "a value or a bracket is missing"),
        ("(true", "line 1, character 6", "(its end)", "a value or a bracket is missing"),
        ("", "line 1, character 1", "(its end)", 'fact.result == "NEGATIVE"'),
        ('fact.result == "NEG', "line 1, character 16", ': "NEG', "a quote at both ends"),
        ("has(fact)", "line 1, character 5", ": fact)", "has(fact.result_at)"),
        ("true) || " + "x" * 99, "line 1, character 5", ": ) || " + "x" * 35, "join conditions by"),
    ],
)
def test_a_syntax_error_names_line_character_and_part(
    when: str, place: str, part: str, remedy: str
) -> None:
    error = refused("rules[nat-48h].when", rule(when=when))
    assert place in error.message
    assert error.message.endswith(part)
    assert remedy in error.remedy
    assert not error.said.zh.isascii()
    assert error.way.zh


def test_what_a_refusal_repeats_is_short_and_hides_nothing() -> None:
    """Another province wrote it, and it goes into logs and to apps."""
    for when in (
        "true \u202e!" + "x" * 999,
        'duration("\u202e' + "x" * 999 + '") > duration("1h")',
    ):
        error = refused("rules[nat-48h].when", rule(when=when))
        for words in (*error.said, *error.way):
            assert "\u202e" not in words
            assert len(words) < 200


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("person.name == 'x'", "person"),
        ("result == 'NEGATIVE'", "result"),
        ("fact.result == NEGATIVE", "NEGATIVE"),
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
    assert "has(fact.result_at) &&" in error.remedy
    assert error.message == "gives no yes or no for a NUCLEIC_ACID_TEST without result_at"
    RuleBook([rule(when=f"has(fact.result_at) && {when}")])


@pytest.mark.parametrize(
    ("when", "words", "remedy"),
    [
        ("fact.result", "a value", 'fact.result == "NEGATIVE"'),
        ("fact.sampled_at > 5", "no yes or no", "like with like"),
        ('now - fact.sampled_at < duration("2d")', 'duration("2d") is no', 'duration("48h")'),
        ('now - fact.sampled_at < duration("3 天")', 'duration("3 天") is', 'duration("72h")'),
        ('now - fact.sampled_at < duration("1w")', 'duration("1w") is', 'duration("168h")'),
        ('now - fact.sampled_at < duration("36")', 'duration("36") is', 'duration("36h")'),
        ('now - fact.sampled_at < duration("soon")', 'duration("soon") is', 'duration("48h")'),
        ('now < timestamp("2022-01-10")', "is no time", "2022-01-10T00:00:00+08:00"),
    ],
)
def test_a_refusal_says_why_there_is_no_yes_or_no(when: str, words: str, remedy: str) -> None:
    error = refused("rules[nat-48h].when", rule(when=when))
    assert words in error.message
    assert remedy in error.remedy
    assert not error.said.zh.isascii()
    assert not error.way.zh.isascii()


def test_a_fault_behind_one_result_alone_is_found() -> None:
    for result in TestResult:
        when = f'fact.result == "{result}" && fact.bogus == 1'
        refused("rules[nat-48h].when", rule(when=when))


@pytest.mark.parametrize(
    ("when", "kinds", "message", "has"),
    [
        (
            "fact.bogus == 1",
            ["NUCLEIC_ACID_TEST"],
            "NUCLEIC_ACID_TEST has no field 'bogus'",
            "NUCLEIC_ACID_TEST has kind, result, result_at, sampled_at",
        ),
        (
            'origin == "420000" ? fact.bogus == 1 : true',
            ["RECOVERY", "VACCINATION"],
            "RECOVERY or VACCINATION has no field 'bogus'",
            "RECOVERY has confirmed_at, kind, sampled_at; VACCINATION has dose, ",
        ),
        (
            "has(fact.results)",
            ["NUCLEIC_ACID_TEST"],
            "NUCLEIC_ACID_TEST has no field 'results'",
            "result_at",
        ),
        (
            "fact.dose >= fact.doses",
            ["NUCLEIC_ACID_TEST", "VACCINATION"],
            "NUCLEIC_ACID_TEST has no field 'dose'",
            "result_at",
        ),
        ("holder.name == 'x'", ["RECOVERY"], "a holder has no field 'name'", "document_type"),
        ("fact.__class__ == 1", ["RECOVERY"], "RECOVERY has no field '__class__'", "sampled_at"),
    ],
)
def test_an_unknown_field_is_refused_and_named_with_its_kind(
    when: str, kinds: list[str], message: str, has: str
) -> None:
    error = refused("rules[nat-48h].when", rule(when=when, kinds=kinds))
    assert error.message == message
    assert has in error.remedy


def test_a_rule_of_two_kinds_may_ask_each_for_its_own(world: Any) -> None:
    when = 'fact.kind == "VACCINATION" ? fact.dose > 1 : fact.result == "NEGATIVE"'
    both = ["NUCLEIC_ACID_TEST", "VACCINATION"]
    book = RuleBook([rule(when=when, kinds=both)])
    for fact in (world.test(), Vaccination(world.now, "x", 2, 2)):
        assert [holds for _, holds in book.evaluate(world.attestation(fact), world.now)] == [True]


# What an expression may cost.


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("[1, 2].all(now, now > 0)", "'all' is a loop"),
        ("[1, 2].exists(n, n == 1)", "'exists' is a loop"),
        ("[1, 2].exists(origin, origin > 0)", "'exists' is a loop"),
        ("[1, 2].exists_one(now, now > 0)", "'exists_one' is a loop"),
        ("[1, 2].map(now, now + 1) == [2, 3]", "'map' is a loop"),
        ("[1, 2].filter(fact, fact > 0) == []", "'filter' is a loop"),
        ("[1].all(now, [1].all(origin, [1].all(holder, true)))", "'all' is a loop"),
        ("[1, 2] . all (now, now > 0)", "'all' is a loop"),
        ('origin.matches("((a{1000}){1000}){1000}")', "'matches' is a regular expression"),
        ('matches(origin, "a")', "'matches' is a regular expression"),
        ("(" * 17 + "true" + ")" * 17, "nests deeper than 16"),
        ("[" * 17 + "]" * 17 + " == []", "nests deeper than 16"),
        (" || ".join(["true"] * 201), "401 names, values and signs"),
        ("origin in [" + ", ".join(["1"] * 300) + "]", "603 names, values and signs"),
        (" + ".join(["fact.kind"] * 120) + ' != ""', "481 names, values and signs"),
    ],
)
def test_an_expression_that_may_cost_too_much_is_refused(when: str, why: str) -> None:
    error = refused("rules[nat-48h].when", rule(when=when))
    assert error.message.startswith("costs too much: ")
    assert why in error.message
    assert error.remedy


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("fact == fact", "asks for the whole of 'fact'"),
        ('fact["result"] == "NEGATIVE"', "asks for the whole of 'fact'"),
        ('"result" in fact', "asks for the whole of 'fact'"),
        ("size(holder) > 0", "asks for the whole of 'holder'"),
        ("now.getBogus() == 1", "unknown function 'getBogus'"),
        ("unknown_function(fact.kind)", "unknown function 'unknown_function'"),
        ('origin == r"440000"', "a string of another form"),
        ('origin == """440000"""', "a string of another form"),
        # To the compiler the loop is code, to a hasty reader it stands in a string.
        ('"""x" """ == "" || [1].all(now, true) || "x" == ""', "a string of another form"),
        ('origin == "\\u0034"', "holds what a rule cannot say, at character 11"),
        ("true // whatever", "holds what a rule cannot say, at character 6"),
        ('{"a": true}.a', "holds what a rule cannot say, at character 1"),
        ("origin == '四川'", ""),
    ],
)
def test_an_expression_is_written_plainly_or_refused(when: str, why: str) -> None:
    if why:
        assert refused("rules[nat-48h].when", rule(when=when)).message.endswith(why)
    else:
        RuleBook([rule(when=when)])


def test_an_expression_up_to_the_limit_is_taken() -> None:
    RuleBook([rule(when=" || ".join(["true"] * 200))])
    RuleBook([rule(when="(" * 16 + "true" + ")" * 16)])
    RuleBook([rule(when=f"origin in {[*PROVINCES]}")])


@given(st.lists(st.sampled_from(SYMBOLS), max_size=25))
@settings(max_examples=300)
def test_whatever_loads_names_only_fields_that_are_there_and_holds_no_loop(
    symbols: list[str],
) -> None:
    when = " ".join(symbols)
    try:
        book = RuleBook([rule(when=when)])
    except RuleError as error:
        assert error.field == "rules[nat-48h].when"  # noqa: PT017 - it may also be read
    else:
        program = cel.compile(when)
        assert "@not_strictly_false" not in program.functions()
        read = book.expression(book.rules[0])
        assert read.fields <= {"kind", "result", "result_at", "sampled_at"}
        assert read.size == len(symbols)


def test_two_hundred_rules_are_taken_and_one_more_is_refused() -> None:
    many = [rule(id=f"r{index}", when="true") for index in range(MOST_RULES + 1)]
    assert len(RuleBook(many[:-1]).rules) == MOST_RULES
    assert "201 rules" in refused("rules", *many).message


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_beyond_all_calendars_breaks_nobody_who_reads_the_rules(world: Any, at: str) -> None:
    book = RuleBook([rule(when=f'now < timestamp("{at}")')])
    assert book.expression(book.rules[0]).times == ()
    ((_, holds),) = book.evaluate(world.attestation(), world.now)
    assert holds is at.startswith("9")


def test_a_text_longer_than_may_be_published_is_handed_to_no_rule(world: Any) -> None:
    # CEL copies it as often as a rule names it: ten such rules over 64 facts took 20 s.
    book = RuleBook([rule(kinds=["VACCINATION"], when="size(fact.product + fact.product) > 1")])
    for length, holds in ((300, True), (301, None), (60_000, None)):
        known = world.attestation(Vaccination(world.now, "x" * length, 1, 1))
        assert [said for _, said in book.evaluate(known, world.now)] == [holds]


def test_rules_beyond_what_may_be_asked_are_not_even_compiled() -> None:
    when = " || ".join(["true"] * 200)
    many = [rule(id=f"r{index}", when=when) for index in range(11)]
    assert refused("rules", *many, rule(id="broken", when="(")).message.startswith("cost too much")


def test_rules_that_cost_too_much_together_are_refused() -> None:
    when = " || ".join(["true"] * 200)  # 399
    many = [rule(id=f"r{index}", when=when) for index in range(11)]
    assert RuleBook(many[:-1]).size == 3990 <= MOST_SYMBOLS
    assert refused("rules", *many).message.startswith("cost too much: ")


@pytest.mark.parametrize(
    ("when", "steady"),
    [
        ('fact.result == "NEGATIVE"', True),
        (rule()["when"], True),
        (
            'now - fact.sampled_at >= duration("1h") && now - fact.sampled_at <= duration("2h")',
            True,
        ),
        ('duration("48h") > now - fact.sampled_at', True),
        ('fact.sampled_at + duration("48h") >= now', True),
        (
            'fact.sampled_at >= now - duration("48h") || now < timestamp("2022-01-01T00:00:00Z")',
            True,
        ),
        ("has(fact.result_at) && (fact.result_at <= now || origin == '(now')", True),
        ('(now - fact.sampled_at) - duration("1h") <= duration("48h")', False),
        ('now - fact.sampled_at <= duration("48h") + duration("1h")', False),
        ('(now + duration("8h")).getHours() >= 8', False),
        ("fact.sampled_at.getDate() == now.getDate()", False),
        ('now - fact.sampled_at <= duration("48h") && now.getHours() > 1', False),
    ],
)
def test_it_is_known_whether_an_answer_changes_at_named_times_alone(
    when: str, steady: bool
) -> None:
    book = RuleBook([rule(when=when)])
    assert book.expression(book.rules[0]).steady is steady


def test_durations_and_times_of_an_expression_are_known() -> None:
    when = "now - fact.sampled_at > duration('90m') && now > timestamp('2022-01-01T00:00:00+08:00')"
    book = RuleBook([rule(when=when)])
    read = book.expression(book.rules[0])
    assert read.spans == (timedelta(minutes=90),)
    assert read.times == (datetime(2021, 12, 31, 16, tzinfo=UTC),)


# Validity, origins and the version.


def test_what_a_rule_has_by_default_is_not_written() -> None:
    plain = Rule.from_json(rule())
    assert (plain.version, plain.valid_until, plain.origins) == (1, None, None)
    assert plain.to_json().keys() == rule().keys()
    whole = rule(version=3, valid_until="2022-03-01T00:00:00+08:00", origins=["FR", "510000"])
    read = Rule.from_json(whole)
    assert read.to_json() == {
        **plain.to_json(),
        "version": 3,
        "valid_until": "2022-02-28T16:00:00Z",
        "origins": ["510000", "FR"],
    }
    assert Rule.from_json(read.to_json()) == read != plain


def test_the_digest_is_that_of_the_canonical_json_and_of_every_rule() -> None:
    first, second = rule(), rule(id="second", version=2)
    book = RuleBook([first, second])
    canonical = json.dumps(
        [each.to_json() for each in book.rules],
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    assert book.digest == hashlib.sha256(canonical.encode()).digest()
    assert "核酸" in canonical
    assert RuleBook([rule(valid_from="2020-02-29T16:00:00Z"), second]).digest == book.digest
    others = ([first], [second, first], [rule(version=2), second], [rule(origins=["*"]), second])
    digests = {RuleBook(other).digest for other in others}
    assert len(digests | {book.digest, RuleBook([]).digest}) == 6


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, 1 << 31])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    refused("rules[nat-48h].version", rule(version=version))


@pytest.mark.parametrize(
    "until", ["", 0, None, "2022-01-10", "2020-03-01T00:00:00+08:00", "2020-02-29T16:00:00Z"]
)
def test_an_end_that_is_none_or_not_after_the_beginning_is_refused(until: Any) -> None:
    refused("rules[nat-48h].valid_until", rule(valid_until=until))


@pytest.mark.parametrize(
    "origins", [[], "*", "510000", ["CN"], ["999999"], ["fr"], ["FRA"], [1], [None], None, ["F*"]]
)
def test_an_origin_that_is_neither_province_nor_foreign_country_is_refused(origins: Any) -> None:
    refused("rules[nat-48h].origins", rule(origins=origins))


@pytest.mark.parametrize(
    ("origin", "message", "remedy"),
    [
        ("Germany", '"Germany" is no country\'s code', 'two capital letters, such as "DE"'),
        ("fr", '"fr" is no country\'s code', "two capital letters"),
        ("44000", '"44000" is no province\'s code', 'its six digits, such as "510000"'),
        ("CN", '"CN" is no province\'s code', "its six digits"),
        ("四川", '"四川" is no province\'s code', 'write "510000"'),
        ("Guangdong", '"Guangdong" is no province\'s code', 'write "440000"'),
    ],
)
def test_an_origin_that_is_refused_is_named_as_a_country_or_a_province(
    origin: str, message: str, remedy: str
) -> None:
    error = refused("rules[nat-48h].origins", rule(origins=["DE", origin]))
    assert error.message == message
    assert remedy in error.remedy
    assert f'"{origin}"' in error.said.zh


def test_a_code_that_no_country_has_yet_is_read() -> None:
    RuleBook([rule(origins=["ZZ", "UK"])])


@pytest.mark.parametrize(
    "name", ["", "NAT", "nat_48h", "nat 48h", "核酸", "a" * 41, "a\n", 7, None]
)
def test_an_id_of_another_form_is_refused(name: Any) -> None:
    error = refused(f"rules[{repr(str(name))[1:-1][:40]}].id", rule(), rule(id=name))
    assert "rule 2" in error.message
    assert "a-z, 0-9" in error.remedy


@pytest.mark.parametrize(
    "words", ["", " ", "a" * 201, "two\nlines", "\u202eturned", "\x1b[31m", 7, None]
)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_reason_that_a_gate_cannot_show_is_refused(words: Any, language: str) -> None:
    reason = {**rule()["reason"], language: words}
    refused("rules[nat-48h].reason", rule(reason=reason))


@pytest.mark.parametrize("when", [None, 7, True, ["true"], b"true"])
def test_an_expression_that_is_no_text_is_refused(when: Any) -> None:
    refused("rules[nat-48h].when", rule(when=when))


def test_a_field_that_is_unknown_is_refused_since_it_may_have_been_a_limit() -> None:
    error = refused("rules[nat-48h].valid_untill", rule(valid_untill="2021-01-01T00:00:00Z"))
    assert "valid_until" in error.remedy
    refused("rules[nat-48h].reason", rule(reason={**rule()["reason"], "fr": "parce que"}))


def test_a_rule_that_is_no_object_is_refused() -> None:
    for value in (None, 7, "rule", []):
        refused("rules", value)  # type: ignore[arg-type]


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


def test_a_rule_holds_until_its_end_and_not_at_it(world: Any) -> None:
    book = RuleBook([rule(valid_until="2022-01-10T12:00:00+08:00")])  # world.now
    attestation = world.attestation()
    before = book.evaluate(attestation, world.now - timedelta(microseconds=1))
    assert [holds for _, holds in before] == [True]
    assert book.evaluate(attestation, world.now) == []


@pytest.mark.parametrize(
    ("origins", "asked_of"),
    [
        (None, {SICHUAN, HUBEI}),
        ([SICHUAN], {SICHUAN}),
        (["*"], {"FR", "AT"}),
        (["FR"], {"FR"}),
        (["FR", HUBEI], {"FR", HUBEI}),
        ([*PROVINCES, "*"], {SICHUAN, HUBEI, "FR", "AT"}),
    ],
)
def test_a_foreign_fact_satisfies_a_rule_only_where_its_origins_say_so(
    world: Any, origins: list[str] | None, asked_of: set[str]
) -> None:
    changes = {} if origins is None else {"origins": origins}
    book = RuleBook([rule(**changes)])
    places = [SICHUAN, HUBEI, "FR", "AT", "", "*", "fr", "999999"]
    said = {p: book.evaluate(replace(world.attestation(), province=p), world.now) for p in places}
    assert {place for place in places if said[place]} == asked_of


def test_whatever_has_a_fact_an_origin_and_a_holder_can_be_asked_about(world: Any) -> None:
    @dataclass(frozen=True, slots=True)
    class Shown:
        id: UUID
        fact: Fact
        province: str
        holder: Holder

    holder = Holder("胡*君", DocumentType.PASSPORT, "E*******1")
    shown = Shown(UUID(int=7), world.test(), SICHUAN, holder)
    book = RuleBook([rule(when='holder.document_type == "PASSPORT"')])
    assert [holds for _, holds in book.evaluate(shown, world.now)] == [True]


def test_a_rule_is_asked_of_its_own_kinds_alone(world: Any) -> None:
    book = RuleBook([rule(), rule(id="red", kinds=["HEALTH_CODE_STATUS"], when="true")])
    said = book.evaluate(world.attestation(world.status("RED")), world.now)
    assert [(rule.id, holds) for rule, holds in said] == [("red", True)]
    assert book.evaluate(world.attestation(Vaccination(world.now, "x", 1, 1)), world.now) == []


@pytest.mark.parametrize(
    "when",
    [
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
        rules = tomllib.loads(path.read_text()).get("rules")
        if rules is None:  # the national ones hold
            continue
        book = RuleBook(rules)
        assert RuleBook(rule.to_json() for rule in book.rules).rules == book.rules
        assert {Colour.RED, Colour.GREEN} <= {rule.colour for rule in book.rules}
