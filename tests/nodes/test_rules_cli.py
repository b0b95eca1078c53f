"""``tongxing rules``: what it finds wrong, what fails, what it explains."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.errors import InvalidFieldError
from exchange.facts import (
    AntigenTest,
    Colour,
    Fitness,
    HealthCodeStatus,
    MedicalExamination,
    NucleicAcidTest,
    Recovery,
    TestResult,
    Vaccination,
)
from exchange.subjects import DocumentType
from exchange.vaccines import EU_NAMES
from nodes.cli import cases, described, run
from nodes.profiles import FOLDER
from nodes.setup import Member, initialise

NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = 24 * HOUR
GUANGDONG, SICHUAN = "440000", "510000"
HANDBOOK = FOLDER.parent / "README.md"
RULES = """
[[rules]]
id = "nat-48h"
kinds = ["NUCLEIC_ACID_TEST"]
colour = "GREEN"
when = 'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")'
valid_from = 2020-03-01T00:00:00+08:00
reason.zh = "采样48小时内的核酸检测阴性"
reason.en = "a negative test within 48 hours"

[[rules]]
id = "positive"
kinds = ["NUCLEIC_ACID_TEST"]
colour = "RED"
when = 'fact.result == "POSITIVE"'
valid_from = 2020-03-01T00:00:00+08:00
reason.zh = "检测阳性"
reason.en = "a positive test"
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "440000.toml"
    path.write_text(RULES, encoding="utf-8")
    return path


@pytest.fixture
def tongxing(capsys, monkeypatch):
    """Runs ``tongxing rules …``: exit code, output, what was said."""
    monkeypatch.delenv("TONGXING_CLIENT", raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def command(*arguments):
        capsys.readouterr()
        code = run(["rules", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "fault of tongxing" not in said.err
        return code, said.out, said.err

    return command


@pytest.fixture
def document(tongxing):
    def command(*arguments):
        code, out, _ = tongxing(*arguments, "--output", "json")
        return code, json.loads(out)

    return command


# --- check --------------------------------------------------------------------------------------


def test_what_every_province_publishes_is_in_order(tongxing):
    files = sorted(FOLDER.glob("*.toml"))
    code, out, err = tongxing("check", *files)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(files)


def test_a_province_is_named_by_its_code(document):
    code, found = document("check", GUANGDONG, "130000")
    assert code == 0
    own, national = found["files"]
    assert (own["file"], national["file"]) == (
        str(FOLDER / "440000.toml"),
        str(FOLDER / "national.toml"),
    )
    assert len(own["digest"]) == 64
    assert own["faults"] == []


@pytest.mark.parametrize(
    ("was", "becomes", "field"),
    [
        ('"GREEN"', '"BLUE"', "rules[nat-48h].colour"),
        ('"48h")', '"48h"', "rules[nat-48h].when"),
        ('"48h"', '"2d"', "rules[nat-48h].when"),
        ('== "POSITIVE"', '== "POSITIVE" && fact.dose > 1', "rules[positive].when"),
        ('fact.result == "POSITIVE"', "person.age > 60", "rules[positive].when"),
        ('id = "positive"', 'id = "nat-48h"', "rules[nat-48h].id"),
        ('id = "positive"', 'id = "正"', "id"),
        ('reason.en = "a positive test"', "", "rules[positive].reason"),
        ('id = "positive"', 'id = "positive"\nvalid_til = 1', "rules[positive].valid_til"),
        ('"NEGATIVE"', '"NEGATIV"', "rules[nat-48h].when"),
        ('fact.result == "POSITIVE"', 'origin == "44000"', "rules[positive].when"),
    ],
)
def test_a_rule_that_is_wrong_is_named_with_its_file(tongxing, rules, was, becomes, field):
    rules.write_text(RULES.replace(was, becomes, 1), encoding="utf-8")
    code, out, err = tongxing("check", rules)
    assert (code, out) == (3, "")
    assert str(rules) in err
    assert field in err
    code, _, err = tongxing("explain", rules)
    assert code == 1
    assert rules.name in err


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ('"NEGATIVE"', '"NEGATIV"', ('是否应为 "NEGATIVE"', 'did you mean "NEGATIVE"')),
        ('"48h"', '"2d"', ("不是时长", "is no duration", 'duration("48h")')),
        (
            'fact.result == "POSITIVE"',
            "fact.result",
            ("写成比较", "no yes or no", "but a value", "compare it"),
        ),
        (
            'fact.result == "POSITIVE"',
            "[1].exists(n, n > 0)",
            ("exists 是循环", "'exists' is a loop", "|| and &&"),
        ),
        (
            '== "POSITIVE"',
            '= "POSITIVE"',
            ('第1行第13个字符起不能编译：= "POS', "line 1, character 13", "write == for ="),
        ),
        ('id = "positive"', 'id = "正"', ("rules[正].id", "第2条", "in rule 2", "a-z, 0-9")),
        ('id = "positive"\n', "", ("rules.id", "第2条规则缺少编号", "missing in rule 2")),
        (
            'id = "positive"',
            'id = "nat-48h"',
            ("编号重复", "stands twice", "另起编号", "another id"),
        ),
    ],
)
def test_a_fault_is_told_in_one_line_in_plain_words_of_both_languages(
    tongxing, rules, was, becomes, words
):
    rules.write_text(RULES.replace(was, becomes, 1), encoding="utf-8")
    code, _, err = tongxing("check", rules)
    assert code == 3
    assert len(err.splitlines()) == 1
    for each in (*words, str(rules)):
        assert each in err
    for compilers in ("Syntax error", "<input>", "<EOF>", "\\u"):
        assert compilers not in err


def test_a_fault_is_told_to_programs_in_both_languages(document, rules):
    rules.write_text(RULES.replace('"NEGATIVE"', '"NEGATIV"'), encoding="utf-8")
    ((fault,),) = [each["faults"] for each in document("check", rules)[1]["files"]]
    assert fault["message"] == 'fact.result is never "NEGATIV"'
    assert fault["message_zh"] == 'fact.result 不会是 "NEGATIV"'
    assert fault["remedy"].startswith('did you mean "NEGATIVE"?')
    assert fault["remedy_zh"].startswith('是否应为 "NEGATIVE"？')


def test_a_rule_that_never_holds_is_warned_of_and_in_order(tongxing, document, rules):
    never = RULES.replace('fact.result == "POSITIVE"', 'fact.kind == "VACCINATION"')
    rules.write_text(never, encoding="utf-8")
    code, out, err = tongxing("check", rules)
    assert code == 0
    assert "2 条规则无误" in out
    assert "提醒 warning: rules[positive].when" in err
    assert "for no NUCLEIC_ACID_TEST" in err
    code, found = document("check", rules)
    assert code == 0
    assert [each["field"] for each in found["files"][0]["warnings"]] == ["rules[positive].when"]
    assert document("check", GUANGDONG)[1]["files"][0]["warnings"] == []


VACCINATED = """
[[rules]]
id = "vaccinated"
kinds = ["VACCINATION"]
colour = "GREEN"
when = 'fact.product == "%s"'
valid_from = 2020-03-01T00:00:00+08:00
origins = ["DE"]
reason.zh = "境外接种"
reason.en = "vaccinated abroad"
"""


def test_a_code_that_certificates_are_read_otherwise_is_warned_of(tongxing, rules):
    rules.write_text(VACCINATED % "EU/1/20/1528", encoding="utf-8")
    code, _, err = tongxing("check", rules)
    assert code == 0
    assert '提醒 warning: rules[vaccinated].when: 境外证书的 product 不会是 "EU/1/20/1528"' in err
    assert 'write "Comirnaty"' in err


def test_a_case_from_abroad_has_the_product_as_certificates_are_read(tongxing, rules):
    rules.with_suffix(".cases.csv").write_text(
        "facts,colour\n疫苗接种 2/2 20d @DE product=EU/1/20/1528,GREEN\n", encoding="utf-8"
    )
    for product, code in (("EU/1/20/1528", 3), ("Comirnaty", 0)):
        rules.write_text(VACCINATED % product, encoding="utf-8")
        assert tongxing("test", rules)[0] == code


@pytest.mark.parametrize(
    ("was", "becomes", "line", "mark", "meant"),
    [
        ('["NUCLEIC_ACID_TEST"]', '["NUCLEIC_ACID_TEST"，"ANTIGEN_TEST"]', 4, "，", ","),
        ('"GREEN"', "“GREEN”", 5, "“", '"'),
        ('"GREEN"', '"GREEN”', 5, "”", '"'),
        ('id = "positive"', 'id ＝ "positive"', 12, "＝", "="),
        ('["NUCLEIC_ACID_TEST"]', '【"NUCLEIC_ACID_TEST"】', 4, "【", "["),
    ],
)
def test_chinese_punctuation_in_toml_is_named_with_its_line(
    tongxing, rules, was, becomes, line, mark, meant
):
    text = RULES.replace("48小时内的", "“48小时内”，的")  # in a string it may stand
    rules.write_text(text, encoding="utf-8")
    assert tongxing("check", rules)[0] == 0
    rules.write_text(text.replace(was, becomes, 1), encoding="utf-8")
    code, _, err = tongxing("check", rules)
    assert code == 3
    assert f"第{line}行有中文标点 Chinese punctuation in line {line}: {mark}" in err
    assert f"改用英文标点 write {meant} for {mark}" in err
    assert len(err.splitlines()) == 1


def test_every_rule_that_is_wrong_is_named(document, rules):
    rules.write_text(
        RULES.replace('"GREEN"', '"BLUE"').replace('"POSITIVE"', "POSITIVE"), encoding="utf-8"
    )
    code, found = document("check", rules, GUANGDONG)
    assert code == 3
    assert [each["field"] for each in found["files"][0]["faults"]] == [
        "rules[nat-48h].colour",
        "rules[positive].when",
    ]
    assert found["files"][1]["faults"] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", "[[rules"),
        ("a.toml", "rules = 7"),
        ("a.toml", "rules = ['x']"),
        ("a.toml", "name = 'x'"),
        ("a.json", "{"),
        ("a.json", "[" * 100_000),
        ("a.json", "[]"),
        ("a.json", '{"rules": [null]}'),
        ("a.toml", "[[apps]]\nid = 'a'\n"),
        ("a.toml", RULES + "[[apps]]\nid = 'A'\nzh = '甲'\nen = 'A'\n"),
        ("a.toml", RULES * 2),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(tongxing, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    code, _, err = tongxing("check", path)
    assert code == 3
    assert str(path) in err


def test_a_file_that_is_not_there_or_no_text_is_refused(tongxing, tmp_path):
    assert tongxing("check", tmp_path / "none.toml")[0] == 3
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    assert tongxing("check", tmp_path / "b.toml")[0] == 3
    assert tongxing("check", tmp_path)[0] == 3
    assert tongxing("explain", "999999")[0] == 1


@pytest.mark.parametrize("command", ["check", "test", "explain"])
def test_a_code_of_no_province_is_refused_in_one_line(tongxing, command):
    code, out, err = tongxing(command, "999999")
    assert code == (3 if command == "check" else 1)
    assert out == ""
    assert err.count("999999") == len(err.splitlines()) == 1
    assert "no province has this code" in err


def test_that_the_national_rules_are_meant_is_told(tongxing):
    for command in ("check", "test"):
        assert "按全国规则" in tongxing(command, "130000")[1]
        assert "按全国规则" not in tongxing(command, GUANGDONG)[1]


# --- test ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["440000", "310000", "120000", "130000"])
def test_the_published_rules_pass_their_tables(tongxing, code):
    status, out, err = tongxing("test", code)
    assert (status, err) == (0, "")
    assert "0 例不符" in out


def test_the_table_and_the_facts_of_the_handbook_are_read(tongxing, tmp_path):
    section = HANDBOOK.read_text(encoding="utf-8").split("## Rules ")[1].split("\n## ")[0]
    table = tmp_path / "table.csv"
    table.write_text(section.split("```csv\n")[1].split("```")[0], encoding="utf-8")
    status, out, _ = tongxing("test", GUANGDONG, "--cases", table)
    assert status == 0
    assert "3 例 cases, 0 例不符" in out
    facts = re.findall(r"--fact '([^']+)'", section)
    assert len(facts) == 3
    for fact in facts:
        assert tongxing("explain", GUANGDONG, "--fact", fact)[0] == 0


def test_the_handbook_says_how_certificates_are_read(tongxing, rules):
    text = HANDBOOK.read_text(encoding="utf-8")
    section = text.split("## Foreign certificates ")[1].split("\n## ")[0]
    for code, name in EU_NAMES.items():
        assert re.search(rf"^\|[^|]*`{code}` \| `{name}` \|$", section, re.MULTILINE)
    rules.write_text(section.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    code, out, err = tongxing("check", rules)
    assert (code, err) == (0, "")
    assert "1 条规则无误" in out


def test_a_case_that_fails_is_printed(tongxing, document, rules):
    rules.with_suffix(".cases.csv").write_text(
        "case,facts,colour,rule\n"
        "in time,核酸检测 阴性 48h,GREEN,nat-48h\n"
        "too late,核酸检测 阴性 49h,GREEN,nat-48h\n"
        "by another rule,核酸检测 阴性 2h,绿,nat-72h\n"
        "red before green,核酸检测 阴性 2h; 核酸检测 阳性 2h,GREEN,\n",
        encoding="utf-8",
    )
    code, out, err = tongxing("test", rules)
    assert code == 3
    assert "in time" not in out
    for words in ("too late", "by another rule", "red before green", "红码 red positive", "3 例"):
        assert words in out
    assert err == ""
    code, found = document("test", rules)
    assert code == 3
    assert [each["passes"] for each in found["cases"]] == [True, False, False, False]
    assert found["cases"][1] == {
        "line": 3,
        "case": "too late",
        "passes": False,
        "expected": {"colour": "GREEN", "rule": "nat-48h"},
        "got": {"colour": "UNSPECIFIED", "rule": "", "failed": []},
    }


def test_a_rule_without_a_case_is_told(tongxing, rules, tmp_path):
    table = tmp_path / "elsewhere.csv"
    table.write_text("情形,证明,码色\n阴性,核酸检测 阴性 2h,绿\n", encoding="gb18030")
    code, out, err = tongxing("test", rules, "--cases", table)
    assert code == 0
    assert "1 例" in out
    assert "positive" in err


def test_a_rule_that_cannot_be_evaluated_passes_no_case(tongxing, rules):
    broken = RULES.replace('fact.result == "POSITIVE"', 'origin == "420000" ? 1 / 0 == 1 : false')
    rules.write_text(broken, encoding="utf-8")
    table = rules.with_suffix(".cases.csv")
    table.write_text("facts,colour\n核酸检测 阴性 2h @420000,GREEN\n", encoding="utf-8")
    code, out, _ = tongxing("test", rules)
    assert code == 3
    assert "无法计算" in out
    table.write_text("facts,colour\n核酸检测 阴性 2h @440000,GREEN\n", encoding="utf-8")
    assert tongxing("test", rules)[0] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no case"),
        ("facts,colour\n", "holds no case"),
        ("facts\n核酸检测 阴性 2h\n", "header"),
        ("facts,color\n核酸检测 阴性 2h,GREEN\n", "header"),
        ("facts,facts,colour\n核酸检测 阴性 2h,,GREEN\n", "header"),
        ("facts,colour\n核酸检测 阴性 2h,BLUE\n", "line 2.colour"),
        ("facts,colour\n核酸检测 阴性 2h\n", "line 2.colour"),
        ("facts,colour\n\n核酸 阴性 2h,GREEN\n", "line 3.kind"),
        ("facts,colour\n核酸检测 阴 2h,GREEN\n", "line 2.result"),
        ("facts,colour\n核酸检测 阴性,GREEN\n", "line 2.sample_time"),
        ("facts,colour,now\n核酸检测 阴性 2h,GREEN,tomorrow\n", "line 2.now"),
        ("facts,colour\n核酸检测 阴性 2h,GREEN,x\n", "3 cells"),
        ('facts,colour\n"核酸检测 阴性 2h,GREEN\n', "line"),
    ],
)
def test_a_table_that_does_not_read_is_refused(tongxing, rules, content, words):
    rules.with_suffix(".cases.csv").write_text(content, encoding="utf-8")
    code, _, err = tongxing("test", rules)
    assert code == 1
    assert words in err


def test_every_line_that_does_not_read_is_told(tongxing, document, rules):
    rules.with_suffix(".cases.csv").write_text(
        "facts,colour\n核酸检测 阴性 2h，GREEN\n核酸检测 阴性 2h,GREEN\n"
        "核酸 阴性 2h,GREEN\n核酸检测 阴性 2h,BLUE,,\n",
        encoding="utf-8",
    )
    code, out, err = tongxing("test", rules)
    assert (code, out) == (1, "")
    comma, kind, cells = err.splitlines()
    assert "line 2: 第2行有中文标点 Chinese punctuation in line 2: ，" in comma
    assert "line 4.kind" in kind
    assert "line 5: 有4格，应为2格 4 cells for 2 columns" in cells
    code, found = document("test", rules)
    assert code == 1
    table = rules.with_suffix(".cases.csv").name
    assert [each["field"].removeprefix(f"{table} ") for each in found["faults"]] == [
        "line 2",
        "line 4.kind",
        "line 5",
    ]


def test_a_header_apart_by_chinese_commas_is_named(tongxing, rules):
    table = rules.with_suffix(".cases.csv")
    table.write_text("情形，证明，码色\nx,核酸检测 阴性 2h,绿\n", encoding="utf-8")
    code, _, err = tongxing("test", rules)
    assert code == 1
    assert "Chinese punctuation in line 1: ，; 改用英文标点 write , for ，" in err


def test_a_table_that_is_not_there_is_refused(tongxing, rules):
    code, _, err = tongxing("test", rules)
    assert code == 1
    assert "--cases: 没有用例表 there is no table of cases 440000.cases.csv" in err
    assert "case,now,facts,colour,rule" in err
    code, _, err = tongxing("test", rules, "--cases", rules.with_name("none.csv"))
    assert code == 1
    assert "--cases" in err
    assert "none.csv" in err


# --- explain ------------------------------------------------------------------------------------


def test_rules_are_said_in_words(tongxing):
    code, out, err = tongxing("explain", GUANGDONG)
    assert (code, err) == (0, "")
    for words in ("nat-48h", "绿码 green", "核酸检测 nucleic-acid test", "采样48小时内"):
        assert words in out
    _, out, _ = tongxing("explain", "120000", "--at", "2022-01-07 12:00")
    assert "自 from 2022-01-08" in out
    assert "至 until 2022-01-08" in out
    _, out, _ = tongxing("explain", "120000")
    assert "已失效 ended" in out
    assert "境外 abroad" in tongxing("explain", "460000")[1]


def test_of_a_fact_every_rule_says_what_it_makes_of_it(document, tongxing):
    code, found = document(
        "explain", GUANGDONG, "--fact", "核酸检测 阴性 50h", "--fact", "健康码状态 红 3h @420000"
    )
    assert code == 0
    test, status = found["facts"]
    assert {each["rule"]: each["holds"] for each in test["said"]} == {
        "test-positive": False,
        "nat-48h": False,
    }
    assert status["origin"] == "420000"
    assert (found["colour"], found["rule"]) == ("RED", "status-red")
    code, out, _ = tongxing("explain", GUANGDONG, "--fact", "核酸检测 阴性 20h")
    assert code == 0
    assert "绿码 green: nat-48h" in out
    code, out, _ = tongxing("explain", GUANGDONG, "--fact", "疫苗接种 2/2 20d")
    assert code == 0
    assert "没有适用的规则" in out
    assert "没有规则给出码色" in out


def test_what_would_make_it_green_is_said(document, tongxing):
    ask = ("explain", GUANGDONG, "--fact", "核酸检测 阴性 50h")
    _, found = document(*ask)
    assert found["colour"] == "UNSPECIFIED"
    ways = {(way["action"], way["rule"]) for way in found["remedies"]}
    assert ("OBTAIN", "nat-48h") in ways
    assert found["remedies"][0]["text"]["zh"] in tongxing(*ask)[1]
    _, found = document("explain", GUANGDONG, "--fact", "康复 13d")
    (waited,) = [way for way in found["remedies"] if way["action"] == "WAIT"]
    assert waited["rule"] == "recovery-14d"
    assert waited["from_time"]
    _, found = document("explain", GUANGDONG, "--fact", "核酸检测 阴性 5h")
    assert found["remedies"] == []


def test_the_rules_of_the_trust_list_are_explained(tongxing, document, tmp_path):
    members = {
        code: Member(code, f"127.0.0.1:{port}")
        for port, code in enumerate((GUANGDONG, SICHUAN), 7443)
    }
    initialise(tmp_path / "exchange", members, now=datetime.now(UTC))
    client = ("--client", tmp_path / "exchange" / GUANGDONG / "app.toml")
    assert "nat-48h" in tongxing("explain", *client)[1]
    code, found = document("explain", *client, "--province", SICHUAN, "--fact", "核酸检测 阴性 6d")
    assert (code, found["rule"]) == (0, "nat-168h")
    assert document("explain", SICHUAN)[1]["digest"] == found["digest"]
    assert tongxing("explain", *client, "--province", "310000")[0] == 1
    assert tongxing("explain", *client, "--province", "1")[0] == 1
    assert tongxing("explain", GUANGDONG, "--province", SICHUAN)[0] == 1


def test_an_explanation_of_nothing_is_refused(tongxing):
    code, _, err = tongxing("explain")
    assert code == 1
    assert "FILE: 没有规则 no rules are named" in err
    assert "440000" in err
    assert "--client" in err


def test_a_client_beside_a_file_is_refused_and_one_of_the_session_passed_over(
    tongxing, monkeypatch
):
    code, _, err = tongxing("explain", GUANGDONG, "--client", "app.toml")
    assert code == 1
    assert "--client: 不能与 FILE 同用 goes without FILE" in err
    monkeypatch.setenv("TONGXING_CLIENT", "app.toml")
    assert tongxing("explain", GUANGDONG)[0] == 0


def test_a_fact_without_a_time_is_refused_with_a_remedy(tongxing):
    code, _, err = tongxing("explain", GUANGDONG, "--fact", "核酸检测 阴性")
    assert code == 1
    assert "--fact.sample_time: 没有采样时间 it does not say when" in err
    assert "48h" in err


@pytest.mark.parametrize(
    "at",
    [
        "2022-01-10T12:00:00+08:00",
        "2022-01-10T04:00:00Z",
        "2022-01-10T12:00:00",
        "2022-01-10T12:00",
        "2022-01-10 12:00",
        "2022/1/10 12:00",
    ],
)
def test_a_time_is_taken_in_every_form_and_without_offset_as_chinas(document, at):
    _, found = document(
        "explain", GUANGDONG, "--at", at, "--fact", f"核酸检测 阴性 {at.replace(' ', 'T')}"
    )
    assert found["time"] == "2022-01-10T04:00:00Z"
    assert found["rule"] == "nat-48h"


def test_a_time_that_is_none_is_refused(tongxing):
    code, _, err = tongxing("explain", GUANGDONG, "--at", "tomorrow")
    assert code == 1
    assert "--at: is not a time" in err


# --- a fact in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("核酸检测 阴性 47h", NucleicAcidTest(NOW - 47 * HOUR, TestResult.NEGATIVE)),
        (
            "NUCLEIC_ACID_TEST NEGATIVE 47h59min59s result_time=1d2h",
            NucleicAcidTest(
                NOW - 48 * HOUR + timedelta(seconds=1), TestResult.NEGATIVE, NOW - 26 * HOUR
            ),
        ),
        (
            "nucleic-acid-test 采样时间=2022-01-10T08:00:00 检测结果=阳性",
            NucleicAcidTest(NOW - 4 * HOUR, TestResult.POSITIVE),
        ),
        ("抗原检测 3小时 自测 阴性", AntigenTest(NOW - 3 * HOUR, TestResult.NEGATIVE, None, True)),
        ("健康体检 合格 6天", MedicalExamination(NOW - 6 * DAY, Fitness.FIT)),
        ("疫苗接种 2/3 20d", Vaccination(NOW - 20 * DAY, "疫苗", 2, 3)),
        ("VACCINATION dose=1 doses=2 0s product=x", Vaccination(NOW, "x", 1, 2)),
        ("康复 20d 确诊时间=40d", Recovery(NOW - 20 * DAY, NOW - 40 * DAY)),
        (
            "健康码状态 红 3h 本地码态=红码 赋码原因=密接",
            HealthCodeStatus(NOW - 3 * HOUR, Colour.RED, "红码", "密接"),
        ),
    ],
)
def test_a_fact_is_read_from_its_words(text, fact):
    (found,) = described.facts(text, NOW)
    assert found.fact == fact
    assert found.province == SICHUAN
    assert found.holder.document_type is DocumentType.RESIDENT_ID


def test_a_fact_has_an_origin_and_a_document():
    one, other = described.facts("核酸检测 阴性 1h @DE document_type=护照；康复 20d @420000", NOW)
    assert (one.province, one.holder.document_type) == ("DE", DocumentType.PASSPORT)
    assert other.province == "420000"
    assert one.id != other.id
    assert described.facts(" ； \n", NOW) == ()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("核酸 阴性 1h", "kind"),
        ("核酸检测", "sample_time"),
        ("核酸检测 阴性", "sample_time"),
        ("核酸检测 1h", "result"),
        ("核酸检测 阴性 1h 2h", "sample_time"),
        ("核酸检测 阴性 阳性 1h", "result"),
        ("核酸检测 阴性 1x", "sample_time"),
        ("核酸检测 阴性 999999d999999d", "sample_time"),
        ("核酸检测 阴性 1h 2/2", "dose"),
        ("核酸检测 阴性 1h 自测", "self_tested"),
        ("疫苗接种 阴性 2/2 1d", "facts"),
        ("疫苗接种 1d", "dose"),
        ("核酸检测 阴性 1h @", "origin"),
        ("核酸检测 阴性 1h @CN", "origin"),
        ("核酸检测 阴性 1h @999999", "origin"),
        ("核酸检测 阴性 1h @DE @FR", "origin"),
        ("核酸检测 阴性 1h document_number=519901199001019126", "facts"),
        ("核酸检测 阴性 1h holder_name=x", "facts"),
        ("核酸检测 阴性 1h 天气=晴", "facts"),
        (";".join(["康复 20d"] * 65), "facts"),
    ],
)
def test_words_that_are_no_fact_are_refused(text, field):
    with pytest.raises(InvalidFieldError) as caught:
        described.facts(text, NOW)
    assert caught.value.field == field
    assert "519901199001019126" not in str(caught.value)


KNOWN = "核酸检测 疫苗接种 健康码状态 阴性 红 2h 1d 2/2 @510000 @DE 自测 dose=1 结果=阳性 ; ="
WORDS = st.sampled_from(KNOWN.split()) | st.text(max_size=8)


@given(st.lists(WORDS, max_size=6).map(" ".join))
def test_whatever_is_written_is_a_fact_or_refused_by_name(text):
    try:
        found = described.facts(text, NOW)
    except InvalidFieldError as error:
        assert error.field  # noqa: PT017 - it may also be read
    else:
        assert all(each.fact.sampled_at for each in found)


@given(st.binary(max_size=60) | st.lists(WORDS, max_size=5).map(",".join).map(str.encode))
def test_whatever_a_table_holds_is_read_or_refused_by_name(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.cases.csv"
    path.write_bytes(b"facts,colour\n" + data)
    try:
        cases.read(path, NOW)
    except InvalidFieldError as error:
        assert error.field.startswith(path.name)  # noqa: PT017 - it may also be read
