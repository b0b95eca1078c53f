"""``tongxing audit``: the log is listed by its node, and verified without one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from exchange.client import Purpose
from nodes.audit.entries import Entry
from nodes.audit.log import AuditLog
from nodes.cli import run
from nodes.cli.audit import _answer

SICHUAN = "510000"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("TONGXING_CLIENT", "TONGXING_DEBUG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture
def tongxing(capsys):
    """Runs ``tongxing audit …``: exit code, output, what was said."""

    def audit(*arguments):
        capsys.readouterr()
        code = run(["audit", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return audit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A log of five lines."""
    directory = tmp_path_factory.mktemp("audit") / "audit"

    async def write():
        log = AuditLog.open(directory, lambda: datetime.now(UTC), 184, spool_bytes=1 << 16)
        for at in range(5):
            log.record(
                Entry("spiffe://510000.tongxing/app/a", "Recognize", str(at), "…", bytes(36))
            )
        await log.close()

    asyncio.run(write())
    return directory


@pytest.fixture
def directory(made, tmp_path):
    return shutil.copytree(made, tmp_path / "audit")


def changed(directory, statement):
    (path,) = directory.glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


# --- verify ---------------------------------------------------------------------------------


def test_a_whole_log_passes_and_its_head_is_said(tongxing, directory):
    code, out, _ = tongxing("verify", directory)
    assert code == 0
    assert "完整 whole" in out
    assert "no head was given" in out
    code, out, _ = tongxing("verify", directory, "--output", "json")
    found = json.loads(out)
    assert (code, found["whole"], found["lines"], found["faults"]) == (0, True, 5, [])
    code, out, _ = tongxing("verify", directory, "--head", found["head"], "-o", "json")
    assert (code, json.loads(out)["heads_found"]) == (0, 1)


def test_a_false_head_is_not_counted_as_found(tongxing, directory):
    code, out, _ = tongxing("verify", directory, "--head", "5:" + "ab" * 32)
    assert code == 3
    assert "0/1" in out
    assert "another log's" in out


def test_a_swapped_key_is_told_and_a_missing_one_is_not_checked(tongxing, directory):
    assert "相符 the log's own" in tongxing("verify", directory)[1]
    (directory / "key").write_bytes(bytes(32))
    code, out, _ = tongxing("verify", directory)
    assert code == 3
    assert "不符 another" in out
    assert "hidden: it is under another key" in out
    (directory / "key").unlink()
    code, out, _ = tongxing("verify", directory)
    assert code == 0
    assert "未核对 not checked" in out
    code, out, _ = tongxing("verify", directory, "-o", "json")
    assert (code, json.loads(out)["key_matches"]) == (0, None)


def test_a_changed_line_is_named_with_exit_code_3(tongxing, directory):
    changed(directory, "UPDATE accesses SET line = replace(line, '…', '!') WHERE sequence = 3")
    code, out, _ = tongxing("verify", directory, "-o", "json")
    ((fault),) = json.loads(out)["faults"]
    assert (code, fault["sequence"]) == (3, 3)
    assert fault["fault"].startswith("changed")
    code, out, _ = tongxing("verify", directory)
    assert code == 3
    assert "changed" in out


def test_a_cut_end_is_named_where_a_head_is_given(tongxing, directory):
    head = json.loads(tongxing("verify", directory, "-o", "json")[1])["head"]
    for table in ("accesses", "seen"):
        changed(directory, f"DELETE FROM {table} WHERE sequence = 5")
    assert tongxing("verify", directory)[0] == 0
    code, out, _ = tongxing("verify", directory, "--head", head, "-o", "json")
    assert (code, json.loads(out)["faults"][0]["sequence"]) == (3, 5)


@pytest.mark.parametrize("head", ["", "5", "5:", "5:zz", "x:" + "00" * 32, "-1:" + "00" * 32])
def test_a_head_that_is_none_is_refused(tongxing, directory, head):
    code, _, err = tongxing("verify", directory, "--head", head)
    assert code == 1
    assert "--head" in err


def test_a_folder_without_a_log_is_refused(tongxing, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, _, err = tongxing("verify", folder)
        assert code == 1
        assert "DIRECTORY" in err


# --- list -----------------------------------------------------------------------------------


@pytest.fixture
def listed(exchange, tongxing, monkeypatch):
    """Runs ``tongxing audit list`` as somebody of Sichuan's."""

    def list_(*arguments, who="app", number=None):
        more = []
        if number is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(f"{number}\n"))
            more = ["--document-number", "-"]
        client = exchange.directory / SICHUAN / f"{who}.toml"
        return tongxing("list", "--client", client, *more, *arguments)

    return list_


@pytest.fixture
def somebody(exchange, people):
    """Somebody whose data was looked at twice."""
    document = people.document()

    async def look():
        async with exchange.client(SICHUAN, "app") as app:
            for purpose in (Purpose.PURPOSE_ENTRY_CHECK, Purpose.PURPOSE_HOLDER_ACCESS):
                await app.recognize(document, purpose)

    asyncio.run(look())
    return document.number


def test_an_app_lists_its_holders_accesses(listed, somebody):
    code, out, _ = listed(number=somebody)
    assert code == 0
    assert "查验" in out
    assert "本人查询" in out
    assert somebody not in out
    code, out, _ = listed("--output", "json", "--most", 2, number=somebody)
    found = json.loads(out)["accesses"]
    assert [each["method"] for each in found] == ["ListAccesses", "Recognize"]
    assert somebody not in out


def test_an_admin_lists_everybodys(listed, somebody):
    code, out, _ = listed("-o", "json", "--most", 3, who="admin")
    found = json.loads(out)["accesses"]
    assert code == 0
    assert [each["method"] for each in found[:2]] == ["Recognize", "Recognize"]


def test_a_node_that_is_alone_shows_all(listed, people):
    code, out, err = listed("-o", "json", number=people.document().number)
    assert (code, err) == (0, "")
    assert json.loads(out) == {"accesses": [], "partial": False, "missing_nodes": []}


def test_an_empty_list_is_one_line(listed, people):
    code, out, _ = listed(number=people.document().number)
    assert (code, out) == (0, "没有访问记录 no accesses\n")


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("RECOGNIZED GREEN ACCEPTED", "认可，绿码"),
        ("NOT_RECOGNIZED UNSPECIFIED EXPIRED", "不认可，无码色，过期"),
        ("NOT_RECOGNIZED UNSPECIFIED NO_RECORD NO_COLOUR", "不认可，无码色，无记录，无可用码色"),
        ("INDETERMINATE UNSPECIFIED UNAVAILABLE INDETERMINATE", "无法判定，无码色，对端不可用"),
        ("DELIVERED", "已送达"),
        ("UPHELD", "申诉成立"),
        ("given", "已提供"),
        ("1 appeal", "1件申诉"),
        ("12 accesses", "12条访问记录"),
        ("2 attestations, 1 revoked", "2份证明，1份已撤销"),
        ("at least 7 revoked, not to the end", "至少撤销7份，未完成"),
        ("trust list 3, emergency", "信任列表第3版，紧急"),
        ("up to 8:" + "ab" * 32, "删至第8条"),
    ],
)
def test_answers_are_told_in_both_languages(recorded, said):
    assert _answer(recorded) == f"{said} {recorded}"


@pytest.mark.parametrize("recorded", ["", "RECOGNIZED PURPLE ACCEPTED", "3 wonders"])
def test_an_answer_of_a_later_version_is_told_as_it_is(recorded):
    assert _answer(recorded) == recorded


def test_the_answers_of_a_node_are_told_in_both_languages(listed, somebody):
    code, out, _ = listed(number=somebody)
    assert code == 0
    assert out.count("不认可，无码色，无记录 NOT_RECOGNIZED UNSPECIFIED NO_RECORD") == 2


def test_times_bound_what_is_listed(listed, somebody):
    before = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    code, out, _ = listed("-o", "json", "--before", before, number=somebody)
    assert (code, json.loads(out)["accesses"]) == (0, [])
    code, out, _ = listed("-o", "json", "--from", before, number=somebody)
    assert len(json.loads(out)["accesses"]) == 3


def test_an_app_that_names_nobody_is_refused(listed):
    code, _, err = listed()
    assert code == 1
    assert "): --document-number: " in err


def test_a_time_without_its_offset_is_chinas(listed, somebody):
    china = datetime.now(UTC) + timedelta(hours=8)
    for hour, found in ((-1, 2), (1, 0)):
        start = f"{china + timedelta(hours=hour):%Y-%m-%d %H:%M}"
        code, out, _ = listed("-o", "json", "--from", start, number=somebody)
        assert (code, len(json.loads(out)["accesses"])) == (0, found)


@pytest.mark.parametrize("option", ["--from", "--before"])
def test_what_is_no_time_is_refused_with_the_form(listed, option):
    code, _, err = listed(option, "yesterday", who="admin")
    assert code == 1
    assert f"): {option}: is not a time; write 2020-03-01T08:30:00+08:00, or " in err


def test_a_span_that_ends_before_it_begins_is_named_by_its_option(listed):
    code, _, err = listed("--from", "2022-01-10", "--before", "2022-01-09", who="admin")
    assert code == 1
    assert "): --before: " in err


@pytest.mark.parametrize("columns", ["60", "250"])
def test_callers_are_never_folded(listed, somebody, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = listed(number=somebody)
    assert code == 0
    caller = f"spiffe://{SICHUAN}.tongxing/app/"
    lines = [line for line in out.splitlines() if caller in line]
    assert len(lines) == 2
    assert all(line.startswith("访问者 caller: ") for line in lines) == (columns == "60")


@pytest.mark.parametrize("columns", [80, 120, 250])
def test_a_pipe_is_as_wide_as_it_is_told(listed, somebody, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = listed(number=somebody)
    assert code == 0
    texts = [line for line in out.splitlines() if "结果 answer: " not in line]
    assert max(cell_len(line.rstrip()) for line in texts) <= columns
    assert out.count(f"spiffe://{SICHUAN}.tongxing/app/") == 2


def test_a_missing_client_is_told_before_the_number_is_read(tongxing):
    code, _, err = tongxing("list", "--document-number", "-")
    assert code == 1
    assert "): --client: " in err
