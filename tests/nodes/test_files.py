from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import stat
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchange.errors import InvalidFieldError
from exchange.facts import FACTS, fact_fields
from exchange.subjects import DocumentType
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.cli import files
from nodes.cli.files import COLUMNS, BadRow, Row, count, names_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "travellers.py"
NOW = datetime(2020, 3, 1, 4, 0, tzinfo=UTC)

NUMBER = "519901199001019126"
NAME = "胡小君"
HEADER = [
    "attestation_id",
    "document_type",
    "document_number",
    "holder_name",
    "kind",
    "sample_time",
    "result_time",
    "result",
    "conclusion",
    "dose",
    "product",
    "doses",
    "colour",
    "self_tested",
    "reason",
    "issuer_credit_code",
    "issuer_name",
]
GOOD = {
    "attestation_id": "01709049-bec8-736b-a6c8-5d6f2713abec",
    "document_type": "RESIDENT_ID",
    "document_number": NUMBER,
    "holder_name": NAME,
    "kind": "NUCLEIC_ACID_TEST",
    "sample_time": "2020-02-29T17:31:57+08:00",
    "result": "NEGATIVE",
    "issuer_credit_code": "12510100MB0X58800H",
    "issuer_name": "成都市示例医院",
}
VACCINE = {"kind": "VACCINATION", "result": "", "product": "BBIBP-CorV", "dose": "2", "doses": "2"}
BARE = [column for column in HEADER if column != "attestation_id"]
KEY = "issuer.ids-key"


def read(path: Path, ignore: Collection[str] = ()) -> Iterator[Row | BadRow]:
    """The file, read with a key beside it."""
    return files.read(path, path.with_name(KEY), ignore=ignore)


def cells(*, header: list[str] = HEADER, **changes: str) -> list[str]:
    row = GOOD | changes
    return [row.get(column, "") for column in header]


def table(*rows: list[str], header: list[str] = HEADER) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "travellers.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def only(path: Path) -> pb.NewAttestation:
    (row,) = read(path)
    assert isinstance(row, Row), row
    return row.attestation


# --- what reads -----------------------------------------------------------------------------


def test_the_travellers_file_reads_back_whole(tmp_path):
    spec = importlib.util.spec_from_file_location("travellers", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = list(script.travellers(588, now=NOW, seed=20200301))
    path = tmp_path / "travellers.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    found = list(read(path))
    assert count(path) == len(found) == 588
    for line, (row, given_) in enumerate(zip(found, rows, strict=True), 2):
        assert isinstance(row, Row)
        assert row.line == line
        said = row.attestation
        assert said.attestation_id == given_["attestation_id"]
        assert said.document.number == given_["document_number"]
        document_type = types_pb2.DocumentType.Name(said.document.type)
        assert document_type == f"DOCUMENT_TYPE_{given_['document_type']}"
        assert said.holder_name == given_["holder_name"]
        assert said.issuer.credit_code == script.ISSUER_CREDIT_CODE
        kind = said.fact.WhichOneof("kind")
        assert kind == given_["kind"].lower()
        sampled = getattr(said.fact, kind).sample_time.ToDatetime(UTC)
        assert sampled == datetime.fromisoformat(given_["sample_time"])
    assert not path.with_name(KEY).exists()


def test_every_field_of_every_kind_has_its_column():
    needed = {field.proto for fact in FACTS.values() for field in fact_fields(fact)}
    assert needed <= set(COLUMNS)
    for fact in FACTS.values():
        message = types_pb2.Fact.DESCRIPTOR.fields_by_name[fact.kind.lower()].message_type
        assert set(message.fields_by_name) <= set(COLUMNS)


def test_every_kind_reads(write):
    status = {"kind": "健康码状态", "result": "", "colour": "红", "reason": "密切接触"}
    path = write(
        table(
            cells(kind="medical_examination", result="", conclusion="合格"),
            cells(result="阴性", result_time="2020-03-01 01:00"),
            cells(kind="抗原检测", result="阳性", self_tested="是"),
            cells(**VACCINE),
            cells(kind="解除隔离", result=""),
            cells(**status),
        )
    )
    facts = [row.attestation.fact for row in read(path)]
    assert facts[0].medical_examination.conclusion == types_pb2.FITNESS_FIT
    assert facts[1].nucleic_acid_test.result == types_pb2.TEST_RESULT_NEGATIVE
    assert facts[1].nucleic_acid_test.result_time.seconds == 1582995600
    assert facts[2].antigen_test.self_tested
    assert (facts[3].vaccination.dose, facts[3].vaccination.doses) == (2, 2)
    assert facts[4].recovery.sample_time.seconds == 1582968717
    assert facts[5].health_code_status.colour == types_pb2.COLOUR_RED
    assert facts[5].health_code_status.reason == "密切接触"


@pytest.mark.parametrize("document", DocumentType)
def test_every_document_type_reads_by_name_chinese_term_and_code(write, document):
    terms = (document.value.lower(), document.zh, document.code)
    path = write(table(*(cells(document_type=term) for term in terms)))
    value = types_pb2.DocumentType.Value(f"DOCUMENT_TYPE_{document}")
    assert [row.attestation.document.type for row in read(path)] == [value] * 3


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("2020-03-01T08:30:00+08:00", 1583022600, 0),
        ("2020-03-01t00:30:00z", 1583022600, 0),
        ("2020-02-29T19:00:00.25-05:30", 1583022600, 250_000_000),
        ("2020-03-01 08:30", 1583022600, 0),
        ("2020-03-01T08:30", 1583022600, 0),
        ("2020-03-01 08:30:01", 1583022601, 0),
        ("2020/3/1 8:30", 1583022600, 0),
    ],
)
def test_times_read_and_without_an_offset_are_chinas(write, text, seconds, nanos):
    time = only(write(table(cells(sample_time=text)))).fact.nucleic_acid_test.sample_time
    assert (time.seconds, time.nanos) == (seconds, nanos)


@pytest.mark.parametrize(
    "text",
    [
        "2020-03-01",
        "2020-02-30 08:30",
        "2020-03/01 08:30",
        "2020-03-01T24:00:00Z",
        "2020-03-01T08:30:60Z",
        "2020-03-01T08:30:00+24:00",
        "2020-03-01T08:30:00+08:99",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",
        "0000-01-01 00:00",
        "0001-01-01T00:00:00+01:00",
        "２０２０-03-01 08:30",
        "43891.354",
        "yesterday",
    ],
)
def test_what_is_no_time_is_refused(write, text):
    (row,) = read(write(table(cells(sample_time=text))))
    assert isinstance(row, BadRow)
    assert row.field == "sample_time"


def test_chinese_headers_read(write):
    chinese = {"kind": "证明类型", "sample_time": "采样时间", "result": "检测结果"}
    header = ["证件类型", "证件号码", "姓名", *chinese.values(), "统一社会信用代码", "发证机构"]
    names = ["document_type", "document_number", "holder_name", *chinese]
    names += ["issuer_credit_code", "issuer_name"]
    row = cells(header=names, document_type="居民身份证", kind="核酸检测", result="阴性")
    said = only(write(table(row, header=header)))
    assert said.document.number == NUMBER
    assert said.fact.nucleic_acid_test.result == types_pb2.TEST_RESULT_NEGATIVE


def test_headers_read_in_any_case_and_with_spaces(write):
    header = [column.upper().replace("_", " ") for column in HEADER]
    assert only(write(table(cells(), header=header))).document.number == NUMBER


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_each_encoding_reads(write, encoding):
    path = write(table(cells(holder_name="胡㐂𠀀君", issuer_name="联通")).encode(encoding))
    said = only(path)
    assert (said.holder_name, said.issuer.name) == ("胡㐂𠀀君", "联通")
    assert count(path) == 1


def test_cells_are_stripped_and_quotes_are_undone(write):
    path = write(table(cells(document_number=f"\t{NUMBER} ", issuer_name='示例,"医院"')))
    said = only(path)
    assert said.document.number == NUMBER
    assert said.issuer.name == '示例,"医院"'


def test_blank_lines_are_skipped_and_lines_counted_through(write):
    text = table(cells(), cells(), cells())
    lines = text.splitlines(keepends=True)
    path = write("\n" + lines[0] + " \r\n" + lines[1] + ",,,,\n\n" + lines[2] + lines[3].strip())
    assert [row.line for row in read(path)] == [4, 7, 8]
    assert count(path) == 3


def test_quoted_newlines_keep_the_line_numbers_right(write):
    reason = {"kind": "HEALTH_CODE_STATUS", "result": "", "colour": "RED", "reason": 'a\r\n"b"\nc'}
    path = write(table(cells(), cells(**reason), cells(result="?"), cells()))
    rows = list(read(path))
    assert [row.line for row in rows] == [2, 3, 6, 7]
    assert [type(row) for row in rows] == [Row, Row, BadRow, Row]
    assert rows[1].attestation.fact.health_code_status.reason == 'a\r\n"b"\nc'
    assert count(path) == 4


# --- bad rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attestation_id": "17"}, "attestation_id"),
        ({"document_type": "暂住证"}, "document_type"),
        ({"document_type": ""}, "document_type"),
        ({"document_number": ""}, "document_number"),
        ({"document_number": "5.19901E+17"}, "document_number"),
        ({"holder_name": "  "}, "holder_name"),
        ({"kind": "UNSPECIFIED"}, "kind"),
        ({"kind": "NUCLEIC_ACID_TEST_"}, "kind"),
        ({"sample_time": ""}, "sample_time"),
        ({"result_time": "soon"}, "result_time"),
        ({"result": ""}, "result"),
        ({"result": "-"}, "result"),
        ({"conclusion": "FIT"}, "conclusion"),
        ({"self_tested": "no"}, "self_tested"),
        ({"kind": "ANTIGEN_TEST", "self_tested": "maybe"}, "self_tested"),
        ({"kind": "MEDICAL_EXAMINATION", "result": ""}, "conclusion"),
        (VACCINE | {"dose": "2.0"}, "dose"),
        (VACCINE | {"dose": "-1"}, "dose"),
        (VACCINE | {"doses": "4294967296"}, "doses"),
        (VACCINE | {"product": ""}, "product"),
        ({"kind": "HEALTH_CODE_STATUS", "result": "", "colour": "橙"}, "colour"),
        ({"issuer_credit_code": ""}, "issuer_credit_code"),
        ({"issuer_name": ""}, "issuer_name"),
    ],
)
def test_a_cell_that_does_not_read_is_named_and_the_others_come(write, changes, field):
    path = write(table(cells(), cells(**changes), cells()))
    first, bad, last = read(path)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.field) == (3, field)
    assert bad.message
    assert bad.remedy
    assert NUMBER not in f"{bad}"
    assert NAME not in f"{bad}"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"a,b", "document_number"),
        (",".join(["x"] * (len(HEADER) + 1)).encode(), ""),
        (b'RESIDENT_ID,5" tape,x', ""),
        (b'"RESIDENT_ID"x,y', ""),
        (b"x" * 70_000, ""),
        (b'"' + b"x\n" * 40_000 + b'"', ""),
        (b'x"' + b"x" * 70_000, ""),
    ],
    ids=["few", "many", "inside", "after", "long", "long over lines", "long with a quote"],
)
def test_a_misshapen_record_is_one_bad_row(write, line, field):
    good = table(cells(), cells()).splitlines(keepends=True)
    path = write((good[0] + good[1]).encode() + line + b"\n" + good[2].encode())
    rows = list(read(path))
    # After a line too long to be looked at, an odd quote has to be taken for an opening one.
    lost = line.startswith(b'x"')
    assert [type(row) for row in rows] == [Row, BadRow] + [Row] * (not lost)
    assert (rows[1].line, rows[1].field) == (3, field)
    assert count(path) == len(rows)


def test_malformed_utf8_in_one_line_is_refused_there_alone(write):
    good = table(cells(), cells(), cells()).encode().splitlines(keepends=True)
    broken = good[2].replace("君".encode(), b"\xe5\x90")
    rows = list(read(write(good[0] + good[1] + broken + good[3])))
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert (rows[1].line, rows[1].field) == (3, "holder_name")
    assert "UTF-8" in rows[1].message


def test_quotes_left_open_are_a_bad_row_and_hide_no_record_before_them(write):
    path = write(table(cells(), cells()) + '"RESIDENT_ID,x\n' + ",".join(cells()) + "\n")
    *good, bad = read(path)
    assert [row.line for row in good] == [2, 3]
    assert isinstance(bad, BadRow)
    assert bad.line == 4
    assert "lines 4 to 5" in bad.message
    assert count(path) == 3


@pytest.mark.parametrize("tail", ['"', "x" * 70_000 + '"', "x\n" * 40_000])
def test_a_row_inside_a_quoted_cell_is_never_a_row(write, tail):
    smuggled = ",".join(cells(document_number="519902199001019999"))
    path = write(table(cells()) + f'"RESIDENT_ID\n{smuggled}\n{tail}')
    for row in read(path):
        assert isinstance(row, BadRow) or row.line == 2


# --- the file as a whole --------------------------------------------------------------------


def refusal(path: Path) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        list(read(path))
    assert NUMBER not in str(caught.value)
    assert NAME not in str(caught.value)
    return caught.value


def test_an_unknown_column_is_refused_with_the_nearest_name(write):
    error = refusal(write(table(cells(), header=[*HEADER[:-1], "isuer_name"])))
    assert error.field == "isuer_name"
    assert "issuer_name?" in error.remedy
    error = refusal(write(table(cells(), header=[*HEADER[:-1], "发证机构名"])))
    assert "发证机构名称?" in error.remedy


@pytest.mark.parametrize("name", ["序号", "备注", "row", "id"])
def test_a_column_like_none_has_no_false_friend_for_a_remedy(write, name):
    error = refusal(write(table([*cells(), "1"], header=[*HEADER, name])))
    assert error.field == name
    assert error.remedy == f"leave the column out, or pass it over with --ignore-columns {name}"


def test_a_column_without_a_name_is_refused(write):
    assert refusal(write(table([*cells(), "1"], header=[*HEADER, " "]))).field == "header"


def test_columns_to_be_ignored_are_passed_over_and_no_others(write):
    header = ["序号", *HEADER, "Remarks here"]
    path = write(table(["1", *cells(), "\0"], ["2", *cells(result="?"), ""], header=header))
    good, bad = read(path, ignore=["序号", "remarks HERE", "absent"])
    assert good.attestation.document.number == NUMBER
    assert (bad.line, bad.field) == (3, "result")
    with pytest.raises(InvalidFieldError) as caught:
        list(read(path, ignore=["序号"]))
    assert caught.value.field == "remarks_here"
    with pytest.raises(InvalidFieldError) as caught:
        list(read(path, ignore=["序号", "Remarks here", "kind"]))
    assert (caught.value.field, caught.value.message) == ("kind", "the column is missing")


def test_the_names_in_the_header_are_known(write):
    path = write("证件 号码,x,NAME,姓名\n".encode("gb18030"))
    assert names_of(path) == {"holder_name": "姓名"}
    assert names_of(write("{}", "a.jsonl")) == {}


def test_a_missing_required_column_is_refused(write):
    error = refusal(write(table(cells()[:-1], header=HEADER[:-1])))
    assert error.field == "issuer_name"


def test_a_column_that_stands_twice_is_refused(write):
    error = refusal(write(table([*cells(), ""], header=[*HEADER, "姓名"])))
    assert error.field == "holder_name"


def test_a_file_without_a_header_is_refused_without_repeating_its_first_record(write):
    error = refusal(write(",".join(cells()) + "\n"))
    assert error.field == "travellers.csv"
    assert "header" in error.remedy


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbf",
        table(cells()).encode("utf-16"),
        table(cells()).replace("\r\n", "\r").encode(),
        b'"document_type,document_number\n',
        b"document_type," * 9000,
    ],
    ids=["empty", "BOM alone", "UTF-16", "CR alone", "open header", "long header"],
)
def test_a_file_that_is_no_table_is_refused(write, content):
    assert refusal(write(content)).field == "travellers.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_chinese_commas_are_named_with_their_line(write, encoding):
    whole = table(cells(), cells(), header=HEADER)
    header, first, *_ = whole.splitlines()
    for names in (header.replace(",", "，"), header.replace(",", "，", 1)):
        error = refusal(write(f"{names}\r\n{first}\r\n".encode(encoding)))
        assert error.field == "travellers.csv"
        assert error.message == "第1行有中文标点 Chinese punctuation in line 1: ，"
        assert error.remedy == "改用英文标点 write , for ，"
    (good, bad) = read(
        write("\r\n".join((header, first, first.replace(",", "，"), "")).encode(encoding))
    )
    assert good.line == 2
    assert (bad.line, bad.remedy) == (3, "改用英文标点 write , for ，")
    assert NUMBER not in bad.message


def test_a_header_alone_has_no_rows(write):
    path = write(table())
    assert list(read(path)) == []
    assert count(path) == 0


@pytest.mark.parametrize("act", [count, lambda path: list(read(path))])
def test_files_that_cannot_be_read_are_refused(tmp_path, write, act):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    write("x", "travellers.xlsx")
    for name in ("pipe.csv", "folder.csv", "travellers.xlsx", "absent.csv"):
        with pytest.raises(InvalidFieldError) as caught:
            act(tmp_path / name)
        assert caught.value.field == name


# --- ids ------------------------------------------------------------------------------------


def ids_of(path: Path) -> list[str]:
    return [row.attestation.attestation_id for row in read(path) if isinstance(row, Row)]


def bare(**changes: str) -> list[str]:
    return cells(header=BARE, **changes)


def test_ids_are_the_same_at_the_next_run_and_differ_between_rows(write):
    rows = [bare(), bare(holder_name="李小君"), bare(), bare()]
    path = write(table(*rows, header=BARE))
    first = ids_of(path)
    assert ids_of(path) == first
    assert len(set(first)) == 4
    for id_ in map(uuid.UUID, first):
        assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
        assert id_.int >> 80 == 1582968717 * 1000


def test_an_id_keeps_when_other_rows_are_corrected_or_come_before(write):
    path = write(table(bare(result="?"), bare(), header=BARE))
    (before,) = ids_of(path)
    write(table(bare(result="POSITIVE"), bare(sample_time="2020-02-29 17:31:57"), header=BARE))
    corrected, same = ids_of(path)
    assert same == before
    assert corrected != before


def test_the_issuers_key_gives_the_same_ids_whatever_the_file_and_its_encoding(write, tmp_path):
    key = tmp_path / KEY
    made = []
    for name, encoding in (("a.csv", "utf-8"), ("copy.csv", "gb18030"), ("b.csv", "utf-8-sig")):
        path = write(table(bare(), bare(), header=BARE).encode(encoding), name)
        made.append([row.attestation.attestation_id for row in files.read(path, key)])
    assert made[0] == made[1] == made[2]
    other = files.read(path, tmp_path / "other.ids-key")
    assert made[0] != [row.attestation.attestation_id for row in other]


def test_without_a_key_a_record_without_an_id_is_refused(write):
    good, bad = files.read(write(table(cells(), cells(attestation_id=""))), None)
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.field) == (3, "attestation_id")
    assert "give the column" in bad.remedy


def test_the_key_is_the_owners_and_its_making_is_told_once(write, tmp_path):
    path = write(table(bare(), bare(), header=BARE))
    key = tmp_path / KEY
    told = []
    for _ in range(2):
        list(files.read(path, key, key_created=told.append))
    assert told == [key]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(bytes.fromhex(key.read_text().strip())) == 32


def test_an_empty_id_cell_is_given_an_id_and_a_given_one_stays(write):
    given_, made = ids_of(write(table(cells(), cells(attestation_id=""))))
    assert given_ == GOOD["attestation_id"]
    assert made != given_


@pytest.mark.parametrize("content", ["", "00" * 31, "zz" * 32, "00" * 33])
def test_a_damaged_key_is_refused(write, content):
    path = write(table(bare(), header=BARE))
    write(content, KEY).chmod(0o600)
    assert refusal(path).field == KEY


def test_a_key_open_to_others_is_refused(write):
    path = write(table(bare(), header=BARE))
    write("00" * 32, KEY).chmod(0o644)
    assert refusal(path).remedy == "chmod 600"


def test_a_key_that_is_a_link_or_a_folder_is_refused(write, tmp_path):
    path = write(table(bare(), header=BARE))
    key = tmp_path / KEY
    target = write("00" * 32, "elsewhere")
    target.chmod(0o600)
    key.symlink_to(target)
    assert refusal(path).field == key.name
    key.unlink()
    key.mkdir(mode=0o700)
    assert refusal(path).field == key.name


def test_where_no_key_can_be_written_the_remedy_is_an_id_column(write, tmp_path):
    key = tmp_path / ("x" * 256)  # longer than a name may be, for root too
    with pytest.raises(InvalidFieldError) as caught:
        list(files.read(write(table(bare(), header=BARE)), key))
    assert "attestation_id" in caught.value.remedy
    assert list(files.read(write(table(cells())), key))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_in_a_directory_that_is_not_writable_the_remedy_is_an_id_column(write, tmp_path):
    path = write(table(bare(), header=BARE))
    tmp_path.chmod(0o500)
    try:
        assert "attestation_id" in refusal(path).remedy
    finally:
        tmp_path.chmod(0o700)


# --- JSON Lines -----------------------------------------------------------------------------

JSON = {
    "attestationId": GOOD["attestation_id"],
    "document": {"type": "DOCUMENT_TYPE_RESIDENT_ID", "number": NUMBER},
    "holderName": NAME,
    "fact": {
        "nucleicAcidTest": {
            "sampleTime": "2020-02-29T17:31:57+08:00",
            "result": "TEST_RESULT_NEGATIVE",
        }
    },
    "issuer": {"creditCode": GOOD["issuer_credit_code"], "name": GOOD["issuer_name"]},
}


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "JSONL"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_lines_read_as_the_table_does(write, ending, mark):
    line = json.dumps(JSON, ensure_ascii=False).encode()
    path = write(mark + line + b"\n\n  \r\n" + line, f"travellers.{ending}")
    rows = list(read(path))
    assert [row.line for row in rows] == [1, 4]
    assert rows[0].attestation == rows[1].attestation == only(write(table(cells())))
    assert count(path) == 2


def test_an_empty_json_lines_file_has_no_rows(write):
    path = write("", "a.jsonl")
    assert list(read(path)) == []
    assert count(path) == 0


def test_json_lines_without_ids_are_given_the_ids_of_the_table(write):
    line = json.dumps({key: value for key, value in JSON.items() if key != "attestationId"})
    path = write(f"{line}\n{line}\n", "a.jsonl")
    made = ids_of(path)
    assert len(set(made)) == 2
    assert ids_of(path) == made
    table_ = write(table(bare(), bare(), header=BARE), "a.csv")
    assert ids_of(table_) == made


def changed(**changes: object) -> str:
    return json.dumps(JSON | changes)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", ""),
        ("[]", ""),
        ("null", ""),
        ('"x"', ""),
        ('{"holderName": "x", "holderName": "y"}', ""),
        ("[" * 60_000, ""),
        ("1" * 60_000, ""),
        (" " * 70_000 + "{}", ""),
        (changed(holderNam=NAME), ""),
        (changed(holderName=5), "holder_name"),
        (changed(holderName="\ud800"), "holder_name"),
        (changed(document=NUMBER), "document"),
        (changed(document=[int(NUMBER)]), "document"),
        (changed(document={NUMBER: 1}), "document"),
        (changed(document={"number": int(NUMBER)}), "document.number"),
        (changed(document={"type": NAME}), "document.type"),
        (changed(document={"type": []}), "document.type"),
        (changed(fact={"antigenTest": {}, "recovery": {}}), "fact"),
        (
            changed(fact={"recovery": {"sampleTime": "2020-03-01 08:30"}}),
            "fact.recovery.sample_time",
        ),
        (changed(fact={"vaccination": {"dose": -1}}), "fact.vaccination.dose"),
        (changed(fact={"vaccination": {"dose": 1e999}}), "fact.vaccination.dose"),
        (changed(expireTime="99999-01-01T00:00:00Z"), "expire_time"),
        (changed(supersedes=None, attestationId=17), "attestation_id"),
    ],
)
def test_a_json_line_that_does_not_read_is_named_and_the_others_come(write, line, field):
    path = write(f"{json.dumps(JSON)}\n{line}\n{json.dumps(JSON)}\n", "a.jsonl")
    first, bad, last = read(path)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow), bad
    assert (bad.line, bad.field) == (2, field)
    assert bad.remedy
    assert NUMBER not in f"{bad}"
    assert NAME not in f"{bad}"
    assert count(path) == 3


def test_malformed_utf8_in_a_json_line_is_refused_there_alone(write):
    line = json.dumps(JSON).encode() + b"\n"
    rows = list(read(write(line + b'{"holderName": "\xff"}\n' + line, "a.jsonl")))
    assert [type(row) for row in rows] == [Row, BadRow, Row]


# --- whatever comes -------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff",
        "阴性".encode(),
        "阴性".encode("gb18030"),
        table(cells()).encode(),
        ",".join(BARE).encode() + b"\n",
        ",".join(bare()).encode(),
        b"x" * 66_000,
        b'{"fact":{"recovery":{"sampleTime":',
        json.dumps(JSON).encode(),
        b"}}}",
        b"[" * 2000,
        b"1e999",
    ]
)
ANYTHING = st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=5)).map(b"".join)
WILD = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check_whatever(path: Path) -> None:
    try:
        rows = list(read(path))
    except InvalidFieldError:
        return
    assert count(path) == len(rows)
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    assert all(row.attestation.attestation_id for row in rows if isinstance(row, Row))


@given(content=ANYTHING, header=st.booleans())
@WILD
def test_any_bytes_as_csv_raise_only_the_named_error(write, content, header):
    check_whatever(write(table(header=BARE).encode() * header + content))


@given(content=ANYTHING)
@WILD
def test_any_bytes_as_json_lines_raise_only_the_named_error(write, content):
    check_whatever(write(content, "a.jsonl"))


NAMES = st.sampled_from(
    [field.name for m in (pb.NewAttestation, types_pb2.Fact) for field in m.DESCRIPTOR.fields]
    + ["number", "type", "sampleTime", "dose", "colour", "selfTested", "name", "[x]", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@given(value=st.dictionaries(NAMES, VALUES, max_size=6))
@WILD
def test_any_json_object_is_a_row_or_a_bad_row(write, value):
    (row,) = read(write(json.dumps(value), "a.jsonl"))
    if isinstance(row, BadRow):
        with pytest.raises(json_format.ParseError):
            json_format.ParseDict(value, pb.NewAttestation())


LINES = st.lists(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2)
)


@given(rows=LINES.filter(lambda rows: all(any(c.strip() for c in row) for row in rows)))
@WILD
def test_every_table_that_the_csv_module_writes_has_as_many_rows(write, rows):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([BARE, *rows])
    path = write(b"\xef\xbb\xbf" + out.getvalue().encode())
    assert len(list(read(path))) == len(rows)
