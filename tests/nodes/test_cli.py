from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import unicodedata
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from exchange.client import Item
from exchange.errors import (
    CallerNotAllowedError,
    CheckDigitError,
    InternalError,
    InvalidFieldError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import credit_code_check, mod_11_2
from exchange.v1 import recognition_service_pb2 as recognition_pb
from exchange.v1 import types_pb2
from nodes.cli import app, client, files, output, publishing, recognize, run
from nodes.cli.files import BadRow
from nodes.cli.output import Form
from nodes.cli.publishing import Outcome, Report
from nodes.cli.rows import Teller
from nodes.identity import Authority, Identity, Role, issue
from nodes.trial import TrialExchange, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

SICHUAN, GUANGDONG = "510000", "440000"
CREDIT_BODY = "12510100MB0X58800"
CREDIT_CODE = CREDIT_BODY + credit_code_check(CREDIT_BODY)
TONGXING = Path(sys.executable).with_name("tongxing")
NOW = datetime.now(UTC)
HEADER = (
    "document_type,document_number,holder_name,kind,sample_time,result,"
    "issuer_credit_code,issuer_name"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TONGXING_CLIENT", "TONGXING_DEBUG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialExchange]:
    directory = tmp_path_factory.mktemp("cli") / "x"
    with TrialExchange(
        directory, (SICHUAN, GUANGDONG), issuers={SICHUAN: (CREDIT_CODE,)}
    ) as running:
        running.start()
        yield running


def resident(sequence: int) -> str:
    """An invented number, of a county that does not exist."""
    body = f"519992{19800101 + sequence // 1000 % 28}{sequence % 1000:03d}"
    return body + mod_11_2(body)


def row(number: str, *, hours: float = 1) -> str:
    sampled = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
    return f"居民身份证,{number},胡小君,核酸检测,{sampled},阴性,{CREDIT_CODE},成都市示例医院"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def options(number: str) -> list[str]:
    names = HEADER.replace("_", "-").split(",")
    return [
        part
        for name, value in zip(names, row(number).split(","), strict=True)
        for part in (f"--{name}", value)
    ]


def run_until(code: int, command: list[str]) -> None:
    """Run a command of another province until it has heard of what was done a moment ago."""
    wait_until(f"{code} from {command[:2]}", lambda: run(command) == code, 30)


def client_file(exchange: TrialExchange, province: str, who: str) -> list[str]:
    return ["--client", str(exchange.directory / province / f"{who}.toml")]


def one_line(captured: str) -> str:
    assert captured.count("\n") == 1, captured
    assert "Traceback" not in captured
    return captured.strip()


# --- the frame ------------------------------------------------------------------------------


def test_help_loads_neither_grpc_nor_tuf() -> None:
    code = (
        "import sys, nodes.cli\n"
        "try: nodes.cli.app(['--help'], prog_name='tongxing')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('grpc', 'tuf', 'cel', 'redis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_console_script_tells_its_version() -> None:
    done = subprocess.run([TONGXING, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tongxing 0.")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ("通行", "recognize", "attestation", "trust", "node")),
        (["attestation"], ("健康证明", "publish-file", "revoke")),
        (["attestation", "publish"], ("--document-number", "证件号码", "TONGXING_CLIENT")),
        (["attestation", "publish-file"], ("--report", "not published twice")),
        (["recognize"], ("互认查询", "NOT_RECOGNIZED", "INDETERMINATE", "entry_check")),
        (["trust"], ("信任列表", "init", "show")),
    ],
)
def test_help_is_bilingual(command: list[str], words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="tongxing")
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    for word in words:
        assert word in text
    assert "install-completion" not in text


SOMEBODYS_ID = "018f0000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recognize --purpose CURIOSITY", "取值无效 Invalid value for '--purpose': "),
        ("recognize --nonsense", "没有这一选项 No such option: --nonsense; "),
        ("appeal show", "缺少参数 Missing argument "),
        ("appeal show 1", "取值无效 Invalid value for "),
        (f"appeal answer {SOMEBODYS_ID} --reason x", "缺少选项 Missing option '--resolution'"),
        ("appeal nonsense", "没有这一命令 No such command 'nonsense'"),
        ("nonsense", "没有这一命令 No such command 'nonsense'"),
        ("audit list --client", "选项缺少取值 Option '--client' requires an argument"),
        ("audit list --most 0", "取值无效 Invalid value for '--most': "),
        ("audit list --output xml", "取值无效 Invalid value for '--output' "),
    ],
)
def test_wrong_usage_is_one_line_in_both_languages_and_exit_code_2(
    command: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command.split()) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    said = one_line(captured.err)
    assert said.startswith(f"error (用法有误): {words}")
    assert "; 见 see tongxing" in said


def test_wrong_usage_repeats_no_number(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["recognize", resident(1)]) == 2
    said = one_line(capfd.readouterr().err)
    assert "参数过多" in said
    assert resident(1) not in said


@pytest.mark.parametrize("command", [[], ["appeal"]])
def test_a_command_without_its_verb_shows_its_help(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 2
    captured = capfd.readouterr()
    assert (captured.err + captured.out).count("Usage: ") == 1


@pytest.mark.parametrize(
    "command",
    ["recognize", "appeal list", "audit list --document-number -", "attestation publish"],
)
def test_a_missing_client_is_told_before_a_number_is_asked_for(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command.split()) == 1
    assert "): --client: no client configuration; " in one_line(capsys.readouterr().err)


def test_a_client_file_that_is_not_there_is_told_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.toml"
    assert run(["appeal", "list", "--client", str(missing)]) == 1
    said = one_line(capsys.readouterr().err)
    assert f"): --client: {missing}: No such file or directory" in said


@pytest.fixture
def broken_command() -> Iterator[list[Exception | KeyboardInterrupt]]:
    raised: list[Exception | KeyboardInterrupt] = []

    def broken(form: output.FormOption = Form.PRETTY) -> None:
        raise raised[0]

    app.command("broken")(broken)
    yield raised
    app.registered_commands.pop()


def test_an_unforeseen_error_is_one_line_without_its_text(
    broken_command: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_command.append(KeyError(resident(1)))
    assert run(["broken"]) == 1
    said = one_line(capsys.readouterr().err)
    assert "KeyError" in said
    assert "report" in said
    assert resident(1) not in said


def test_an_unforeseen_error_has_its_traceback_where_it_is_asked_for(
    broken_command: list[Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TONGXING_DEBUG", "1")
    broken_command.append(KeyError("x"))
    assert run(["broken"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_exit_code_130(broken_command: list[Any]) -> None:
    broken_command.append(KeyboardInterrupt())
    assert run(["broken"]) == 130


def test_an_error_of_the_system_is_one_line(
    broken_command: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_command.append(PermissionError(13, "Permission denied", "/x/y"))
    assert run(["broken"]) == 1
    assert "/x/y: Permission denied" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("variable", "locale", "expected"),
    [
        ("LANG", "zh_CN.UTF-8", "校验码错误: n: wrong; look"),
        ("LC_ALL", "zh_CN.UTF-8", "校验码错误: n: wrong; look"),
        ("LC_ALL", "en_US.UTF-8", "error (校验码错误): n: wrong; look"),
    ],
)
def test_the_title_of_an_error_follows_the_locale(
    variable: str,
    locale: str,
    expected: str,
    broken_command: list[Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    monkeypatch.setenv(variable, locale)
    broken_command.append(CheckDigitError("wrong", field="n", remedy="look"))
    assert run(["broken"]) == 1
    assert one_line(capsys.readouterr().err) == expected


def test_an_error_as_json_is_a_status_on_standard_output(
    broken_command: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_command.append(CheckDigitError("wrong", field="n"))
    assert run(["broken", "--output", "json"]) == 1
    captured = capsys.readouterr()
    one_line(captured.err)
    error = json.loads(captured.out)["error"]
    assert error["code"] == 3
    assert error["details"][0]["reason"] == "CHECK_DIGIT"
    assert "校验码错误" in captured.out  # not \uXXXX


def test_a_message_with_newlines_and_escapes_stays_one_line(
    broken_command: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_command.append(InternalError("a\r\nerror: b\x1b[2J\u202e\u2028c"))
    assert run(["broken"]) == 1
    said = one_line(capsys.readouterr().err)
    assert "\x1b" not in said
    assert "\u202e" not in said


@given(st.text())
def test_nothing_invisible_gets_to_the_terminal(text: str) -> None:
    assert not any(unicodedata.category(c)[0] == "C" and c.isascii() for c in output.clean(text))
    assert len(output.clean(text).splitlines()) <= 1


# --- the client's configuration -------------------------------------------------------------


CONFIG = """
node = "127.0.0.1:1"
province = "510000"
certificate = "issuer.pem"
key = "issuer-key.pem"
[trust]
root = "../trust/1.root.json"
metadata = "../trust"
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("510000", "519999"), "province: no province has this code"),
        (('node = "127.0.0.1:1"', "node = 7443"), "node: "),
        (('node = "127.0.0.1:1"', 'node = "127.0.0.1"'), "node: "),
        (('node = "127.0.0.1:1"', 'node = "127.0.0.1:1,,127.0.0.1:2"'), "node: "),
        (('certificate = "issuer.pem"', ""), "certificate: field required"),
        (("[trust]", 'colour = "red"\n[trust]'), "colour: extra inputs are not permitted"),
        (("metadata", "metadatum"), "trust.metadata: field required"),
        (("[trust]", "[trust"), "client.toml: not TOML"),
    ],
)
def test_a_wrong_field_of_the_configuration_is_named(
    change: tuple[str, str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "client.toml"
    path.write_text(CONFIG.replace(*change), encoding="utf-8")
    assert run(["trust", "show", "--client", str(path)]) == 1
    assert expected in one_line(capsys.readouterr().err)


def test_a_missing_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trust", "show", "--client", str(tmp_path / "none.toml")]) == 1
    assert "none.toml: No such file" in one_line(capsys.readouterr().err)
    assert run(["trust", "show"]) == 1
    assert "set TONGXING_CLIENT" in one_line(capsys.readouterr().err)


def test_paths_of_the_configuration_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(CONFIG, encoding="utf-8")
    config = client.load(path)
    assert config.key == tmp_path / "issuer-key.pem"
    assert config.trust.cache == tmp_path / "trust-cache"


@pytest.fixture
def home(exchange: TrialExchange, tmp_path: Path) -> Path:
    """A copy of Sichuan's client, to be spoilt."""
    copied = tmp_path / "copy" / SICHUAN
    shutil.copytree(
        exchange.directory / SICHUAN, copied, ignore=shutil.ignore_patterns("data", "*cache*")
    )
    shutil.copytree(exchange.directory / "trust", copied.parent / "trust")
    return copied


def failure(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    arguments = ["attestation", "publish", *options(resident(2))]
    assert run([*arguments, "--client", str(home / "issuer.toml")]) == 1
    return one_line(capsys.readouterr().err)


def test_a_key_of_another_certificate_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(home / "app-key.pem", home / "issuer-key.pem")
    assert "issuer-key.pem is not the key of" in failure(home, capsys)


def test_a_missing_key_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "issuer-key.pem").unlink()
    assert "key: " in failure(home, capsys)


def test_a_key_with_a_passphrase_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = PrivateKey.generate(Algorithm.ES256).to_pem(b"secret")
    (home / "issuer-key.pem").write_bytes(pem)
    assert "not a private key without passphrase" in failure(home, capsys)


def test_what_is_no_certificate_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "issuer.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert "issuer.pem is not a certificate" in failure(home, capsys)


def test_an_expired_certificate_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(
        (home / "authority.pem").read_bytes(), (home / "authority-key.pem").read_bytes()
    )
    identity = Identity(SICHUAN, Role.ISSUER, CREDIT_CODE)
    now = datetime.now(UTC)
    certificate, key = issue(authority, identity, now=now, lifetime=timedelta(minutes=-1))
    (home / "issuer.pem").write_bytes(certificate)
    (home / "issuer-key.pem").write_bytes(key)
    assert "have a new one issued" in failure(home, capsys)


def test_another_root_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = home.parent / "trust" / "1.root.json"
    root.write_bytes(root.read_bytes().replace(b'"threshold":2', b'"threshold":1', 1))
    assert "the trust list is refused" in failure(home, capsys)
    root.unlink()
    assert "trust.root: " in failure(home, capsys)


def test_a_province_that_takes_no_part_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (home / "issuer.toml").read_text()
    (home / "issuer.toml").write_text(text.replace(f'"{SICHUAN}"', '"310000"'))
    assert "the trust list holds no such province" in failure(home, capsys)


def test_of_several_nodes_one_that_does_not_answer_is_left_out(
    home: Path, exchange: TrialExchange, capfd: pytest.CaptureFixture[str]
) -> None:
    text, address = (home / "issuer.toml").read_text(), exchange.addresses[SICHUAN]
    (home / "issuer.toml").write_text(text.replace(address, f"127.0.0.1:1, {address}"))
    arguments = ["attestation", "publish", *options(resident(3)), "-o", "json"]
    assert run([*arguments, "--client", str(home / "issuer.toml")]) == 0
    assert json.loads(capfd.readouterr().out)


def test_a_node_that_does_not_answer_is_one_line(
    home: Path, exchange: TrialExchange, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (home / "issuer.toml").read_text()
    (home / "issuer.toml").write_text(text.replace(exchange.addresses[SICHUAN], "127.0.0.1:1"))
    arguments = ["attestation", "publish", *options(resident(2)), "-o", "json"]
    assert run([*arguments, "--client", str(home / "issuer.toml")]) == 1
    captured = capfd.readouterr()
    assert "the node does not answer" in one_line(captured.err)
    assert "give the same id" in captured.err
    assert json.loads(captured.out)["error"]["code"] == 14  # UNAVAILABLE


def test_another_provinces_node_is_refused_without_noise(
    home: Path, exchange: TrialExchange
) -> None:
    text = (home / "issuer.toml").read_text()
    (home / "issuer.toml").write_text(
        text.replace(exchange.addresses[SICHUAN], exchange.addresses[GUANGDONG])
    )
    # A process of its own: gRPC reads what it may log when it is loaded.
    done = subprocess.run(
        [TONGXING, "attestation", "show", "01900000-0000-7000-8000-000000000000"],
        env={**os.environ, "TONGXING_CLIENT": str(home / "issuer.toml")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    address = exchange.addresses[GUANGDONG]
    said = one_line(done.stderr)
    assert f"the node at {address} did not prove to be 510000's (四川省)" in said
    assert "SSL" not in said


# --- what is printed ------------------------------------------------------------------------


def decision(**changes: Any) -> recognition_pb.Decision:
    values: dict[str, Any] = {
        "outcome": "OUTCOME_RECOGNIZED",
        "colour": "COLOUR_GREEN",
        "verdict": "VERDICT_ACCEPTED",
        "reason": types_pb2.LocalText(zh="核酸阴性", en="a negative test"),
        "rules": [
            recognition_pb.RuleVerdict(
                rule_id="nat-48h",
                colour="COLOUR_GREEN",
                satisfied=True,
                reason=types_pb2.LocalText(zh="48小时", en="[red]48 hours[/red]"),
            ),
            recognition_pb.RuleVerdict(rule_id="odd", colour="COLOUR_RED", failed=True),
        ],
        "evidence": [
            recognition_pb.Evidence(
                attestation=types_pb2.Attestation(
                    attestation_id="01900000-0000-7000-8000-000000000000",
                    province=SICHUAN,
                    fact=types_pb2.Fact(
                        nucleic_acid_test=types_pb2.NucleicAcidTest(
                            sample_time={"seconds": 1_583_022_600}, result="TEST_RESULT_NEGATIVE"
                        )
                    ),
                    issuer=types_pb2.Issuer(credit_code=CREDIT_CODE, name="医院\x1b[2J[/]"),
                    holder=types_pb2.MaskedHolder(name="胡*君", document_number="51****21"),
                    expire_time={"seconds": 1_584_232_200},
                ),
                verdict="VERDICT_ACCEPTED",
                sent_by=SICHUAN,
            ),
            recognition_pb.Evidence(verdict="VERDICT_BAD_SIGNATURE", sent_by="310000"),
        ],
        "answers": [
            recognition_pb.ProvinceAnswer(
                province=SICHUAN, state="ANSWER_STATE_ANSWERED", attestations=1
            ),
            recognition_pb.ProvinceAnswer(province="310000", state="ANSWER_STATE_UNREACHABLE"),
        ],
        "province": GUANGDONG,
        "trust_version": 7,
    }
    return recognition_pb.Decision(**(values | changes))


def test_a_decision_is_printed_with_all_that_it_rests_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recognize.print_decision(decision())
    printed = capsys.readouterr().out
    for words in (
        "绿码 green", "RECOGNIZED 认可", "核酸阴性", "a negative test", "nat-48h",
        "无法计算 failed", "核酸检测", "胡*君", "510000 四川省 Sichuan", "310000 上海市 Shanghai",
        "BAD_SIGNATURE", "验签失败", "UNREACHABLE 无应答", "2020-03-01", "trust list 7",
        "1 编号 id 01900000-0000-7000-8000-000000000000",
    ):  # fmt: skip
        assert words in printed


def red_by_status() -> recognition_pb.Decision:
    """A red that a status gave: the contract says of such evidence that no rule accepts it."""
    said = decision(outcome="OUTCOME_NOT_RECOGNIZED", colour="COLOUR_RED")
    piece = said.evidence[0]
    status = types_pb2.HealthCodeStatus(
        sample_time={"seconds": 1_583_022_600},
        colour="COLOUR_RED",
        reason="密切接触者",
        legal_basis="传染病防治法第三十九条",
        assigned_by="成都市示例疾控中心",
        guidance="居家等待联系",
    )
    piece.attestation.fact.health_code_status.CopyFrom(status)
    piece.verdict = recognition_pb.VERDICT_NOT_RECOGNIZED_BY_RULE
    said.rules.add(
        rule_id="status-red",
        colour="COLOUR_RED",
        satisfied=True,
        attestation_ids=[piece.attestation.attestation_id],
    )
    said.answers[0].as_of_time.seconds = 1_583_022_600
    return said


def test_evidence_that_gave_a_red_is_not_said_to_satisfy_no_rule(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=200, highlight=False))
    recognize.print_decision(red_by_status())
    printed = capsys.readouterr().out
    assert "满足规则 satisfies rule status-red: 红码 red" in printed
    assert "no rule accepts it" not in printed


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
def test_no_word_is_broken_however_narrow_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=columns, highlight=False))
    said = red_by_status()
    said.evidence.add(verdict="VERDICT_NOT_RECOGNIZED_BY_RULE", sent_by=SICHUAN)
    recognize.print_decision(said)
    printed = capsys.readouterr().out
    for word in (
        "2020-03-01", "2020-03-15", "08:30:00+08:00", "NOT_RECOGNIZED_BY_RULE", "BAD_SIGNATURE",
        "UNREACHABLE", "ANSWERED", "status-red", "satisfies", "signature", "Shanghai", "51****21",
    ):  # fmt: skip
        assert word in printed
    assert max(map(cell_len, printed.splitlines())) <= columns


def test_markup_and_escapes_of_another_province_have_no_effect(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recognize.print_decision(decision())
    printed = capsys.readouterr().out
    assert "[red]48 hours[/red]" in printed
    assert "\x1b" not in printed
    assert "[/]" in printed


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("OUTCOME_RECOGNIZED", 0),
        ("OUTCOME_NOT_RECOGNIZED", 3),
        ("OUTCOME_INDETERMINATE", 4),
        ("OUTCOME_UNSPECIFIED", 4),
        (99, 4),
    ],
)
def test_only_recognized_is_exit_code_0(
    outcome: Any, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    said = decision(outcome=outcome, colour=99, verdict=99)
    assert recognize.exit_code(said) == code
    recognize.print_decision(said)
    assert "99" in capsys.readouterr().out


def test_json_keeps_the_contracts_names_and_the_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(output.to_json(decision()))
    printed = capsys.readouterr().out
    assert '"trust_version": "7"' in printed
    assert "核酸阴性" in printed


# --- rows of a file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("attestation.document.number", "document_number"),
        ("attestation.document.type", "document_type"),
        ("attestation.fact.nucleic_acid_test.sample_time", "sample_time"),
        ("attestation.fact", "kind"),
        ("attestation.issuer.credit_code", "issuer_credit_code"),
        ("attestation.holder_name", "holder_name"),
        ("documents[17].number", "document_number"),
        ("documents[17]", "documents[17]"),
        ("signing.key", "signing.key"),
        ("", ""),
    ],
)
def test_a_nodes_field_is_named_as_the_column(path: str, column: str) -> None:
    assert files.column_of(path) == column


def settle(report: Report, *outcomes: Outcome) -> None:
    for outcome in outcomes:
        report.expect(outcome.line)
        report.settle(outcome)


def bad_row(line: int) -> Outcome:
    return Outcome.of_bad_row(BadRow(line, "document_number", "is empty", "give, it"))


def test_the_first_20_refusals_are_told_and_every_row_is_in_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = io.StringIO(newline="")
    report = Report(Teller(Path("none.csv")), kept)
    settle(report, *map(bad_row, range(2, 27)), Outcome(27, "a"), Outcome(28, "b", True))
    report.close()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "line 2, document_number: is empty; give, it"
    assert len(told) == 21
    assert told[-1].startswith("… and 5 more rows")
    rows = list(csv.DictReader(io.StringIO(kept.getvalue())))
    assert len(rows) == 27
    empty = dict.fromkeys(("attestation_id", "field", "reason", "message", "remedy"), "")
    assert rows[24] == empty | {
        "line": "26",
        "outcome": "refused",
        "field": "document_number",
        "reason": "INVALID_FIELD",
        "message": "is empty",
        "remedy": "give, it",
    }
    assert rows[25] == empty | {"line": "27", "outcome": "published", "attestation_id": "a"}
    assert rows[26] == empty | {"line": "28", "outcome": "already_published", "attestation_id": "b"}


def test_rows_are_told_in_their_order_whatever_the_order_of_the_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = io.StringIO(newline="")
    report = Report(Teller(Path("none.csv")), kept)
    for line in range(2, 8):
        report.expect(line)
    for line in (6, 3, 4):
        report.settle(bad_row(line))
    assert capsys.readouterr().err == ""
    report.settle(Outcome(2, "a"))
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["line 3", "line 4"]
    report.close()  # the stream broke: 5 and 7 have no answer
    assert "line 6" in one_line(capsys.readouterr().err)
    rows = csv.DictReader(io.StringIO(kept.getvalue()))
    assert [row["line"] for row in rows] == ["2", "3", "4", "6"]


def test_a_row_that_the_store_could_not_take_is_called_retryable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(Teller(Path("none.csv")))
    settle(report, Outcome(3, "id", error=StoreUnavailableError("the store does not answer")))
    assert "可重试" in capsys.readouterr().err
    assert report.document()["retryable"] == 1
    assert "1 may be tried again" in report.summary()


def test_in_a_chinese_locale_a_row_is_told_of_by_the_files_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    path = tmp_path / "rows.csv"
    path.write_bytes("证件种类,document_number,证件号\n".encode("gb18030"))
    teller = Teller(path)
    wrong = CheckDigitError("is wrong", field="document_type", remedy="look")
    assert teller.words(3, wrong) == "校验码错误: 第3行，证件种类: is wrong; look"
    wrong = CheckDigitError("is wrong", field="sample_time")
    assert teller.words(3, wrong) == "校验码错误: 第3行，采样时间: is wrong"
    assert teller.words(3, CheckDigitError("is wrong")) == "校验码错误: 第3行: is wrong"


class WrongNode:
    """Answers as it pleases."""

    def __init__(self, *answers: Item) -> None:
        self._answers = answers

    async def publish_all(self, attestations: Iterable[Any]) -> AsyncIterator[Item]:
        list(attestations)
        for answer in self._answers:
            yield answer


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (Item(2, "00000000-0000-0000-0000-000000000000"),),
        (Item(9, "x"),),
        (Item(2, ""), Item(2, "")),
    ],
)
async def test_a_node_that_answers_wrongly_is_not_believed(
    answers: tuple[Item, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.csv", row(resident(3)))
    rows = files.read(path, tmp_path / "issuer.ids-key")
    sending = publishing._Sending(rows, Report(Teller(path)), lambda: None)
    with pytest.raises(InternalError):
        await sending.run(WrongNode(*answers))  # type: ignore[arg-type]


async def test_a_file_that_breaks_off_is_an_error_though_the_stream_ends_well() -> None:
    def rows() -> Iterator[BadRow]:
        yield BadRow(2, "", "bad", "")
        raise InvalidFieldError("the disk is gone", field="rows.csv")

    sending = publishing._Sending(rows(), Report(Teller(Path("rows.csv"))), lambda: None)
    with pytest.raises(TongxingError, match="the disk is gone"):
        await sending.run(WrongNode())  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [["attestation", "publish-file"], ["recognize", "--file"]])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.csv", "证件类型,colour of eyes\n", "column 2 is none that is known"),
        ("rows.csv", "holder_name\n张三\n", "the column is missing"),
        ("rows.csv", f"{HEADER}\n", "rows.csv: holds no record"),
        ("rows.txt", "x", "rows.txt: "),
        (None, "", "none.csv: "),
    ],
)
def test_a_wrong_file_is_refused_as_a_whole(
    command: list[str],
    name: str | None,
    content: str,
    expected: str,
    exchange: TrialExchange,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / (name or "none.csv")
    if name:
        path.write_text(content, encoding="utf-8")
    assert run([*command, str(path), *client_file(exchange, SICHUAN, "issuer")]) == 1
    assert expected in one_line(capsys.readouterr().err)


def test_the_report_never_overwrites_the_file(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.csv", row(resident(4)))
    before = path.read_bytes()
    arguments = ["attestation", "publish-file", str(path), "--report", str(path)]
    assert run([*arguments, *client_file(exchange, SICHUAN, "issuer")]) == 1
    assert "--report: is the file to be published" in one_line(capsys.readouterr().err)
    assert path.read_bytes() == before


# --- against nodes --------------------------------------------------------------------------


def documents(path: Path, *numbers: str) -> Path:
    rows = (f"居民身份证,{number}" for number in numbers)
    path.write_text("\n".join(("证件类型,证件号码", *rows)) + "\n", encoding="utf-8")
    return path


def test_an_attestation_goes_its_way(
    exchange: TrialExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = client_file(exchange, SICHUAN, "issuer")
    assert run(["attestation", "publish", *options(resident(10)), *issuer, "-o", "json"]) == 0
    published = json.loads(capsys.readouterr().out)["attestation"]
    identifier = published["attestation_id"]
    assert published["holder"]["name"] == "胡*君"

    assert run(["attestation", "show", identifier, *issuer]) == 0
    shown = capsys.readouterr().out
    for words in (identifier, "510000 四川省 Sichuan", "核酸检测", "成都市示例医院", "有效期至"):
        assert words in shown
    assert resident(10) not in shown

    ask = ["recognize", "--document-number", resident(10), *client_file(exchange, GUANGDONG, "app")]
    run_until(0, ask)
    assert "绿码" in capsys.readouterr().out
    assert run([*ask, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"]["outcome"] == "OUTCOME_RECOGNIZED"

    assert run(["attestation", "revoke", identifier, "--reason", "样本污染", *issuer]) == 0
    assert "已撤销" in capsys.readouterr().out
    run_until(3, ask)
    assert run(["attestation", "show", identifier, *issuer]) == 1


def test_status_lists_are_fetched_by_a_codes_text_file_or_picture(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = resident(601)
    assert (
        run(
            ["attestation", "publish", *options(number), *client_file(exchange, "510000", "issuer")]
        )
        == 0
    )
    png, text, document = tmp_path / "code.png", tmp_path / "code.txt", tmp_path / "code.json"
    shows = ["code", "show", "--document-number", number, "--png", str(png), "-o", "json"]
    capsys.readouterr()
    assert run([*shows, *client_file(exchange, "510000", "app")]) == 0
    document.write_text(said := capsys.readouterr().out, encoding="utf-8")
    text.write_text(shown := json.loads(said)["health_code"]["text"], encoding="utf-8")
    for at, source in enumerate((str(png), str(text), str(document), shown)):
        into = tmp_path / f"lists-{at}"
        fetch = ["attestation", "status-lists", source, "--into", str(into)]
        assert run([*fetch, *client_file(exchange, "440000", "app")]) == 0
        assert [path.name[:7] for path in into.iterdir()] == ["510000-"]
    capsys.readouterr()
    cut = ["attestation", "status-lists", shown[:-9], "--into", str(tmp_path / "none")]
    assert run([*cut, *client_file(exchange, "440000", "app")]) == 1
    assert shown[:20] not in one_line(capsys.readouterr().err)


def test_an_attestation_is_published_from_json(
    exchange: TrialExchange,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (read,) = files.read(write(tmp_path / "rows.csv", row(resident(11))), tmp_path / "key")
    assert isinstance(read, files.Row)
    path = tmp_path / "one.json"
    path.write_text(json.dumps(output.to_json(read.attestation)), encoding="utf-8")
    arguments = ["attestation", "publish", "--file", str(path), "--output", "json"]
    issuer = client_file(exchange, SICHUAN, "issuer")
    assert run([*arguments, *issuer]) == 0
    assert json.loads(capsys.readouterr().out)["already_published"] is False
    assert run([*arguments, *issuer]) == 0
    assert json.loads(capsys.readouterr().out)["already_published"] is True
    assert run([*arguments, "--kind", "疫苗接种", *issuer]) == 1
    done = subprocess.run(
        [TONGXING, "attestation", "publish", "--file", "-", *issuer],
        input=path.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert "已经发布过" in done.stdout.decode()


def test_a_wrong_option_is_named_as_it_was_given(
    exchange: TrialExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    number = resident(12)
    wrong = number[:-1] + ("0" if number[-1] != "0" else "1")
    issuer = client_file(exchange, SICHUAN, "issuer")
    assert run(["attestation", "publish", *options(wrong), *issuer]) == 1
    said = one_line(capsys.readouterr().err)
    assert "document_number: " in said
    assert wrong not in said
    assert run(["attestation", "publish", *options(number), "--dose", "2", *issuer]) == 1
    assert "dose: has no meaning" in one_line(capsys.readouterr().err)
    app_ = client_file(exchange, GUANGDONG, "app")
    assert run(["recognize", "--document-number", wrong, *app_]) == 1
    said = one_line(capsys.readouterr().err)
    assert "document_number: " in said
    assert wrong not in said


def test_an_issuer_may_not_ask_for_recognition(
    exchange: TrialExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = client_file(exchange, SICHUAN, "issuer")
    assert run(["recognize", "--document-number", resident(1), *issuer]) == 1
    assert "无权调用" in one_line(capsys.readouterr().err)


def test_a_number_comes_from_standard_input_or_is_missing(exchange: TrialExchange) -> None:
    ask = [str(TONGXING), "recognize", *client_file(exchange, GUANGDONG, "app")]
    done = subprocess.run(
        [*ask, "--document-number", "-"],
        input=f"{resident(13)}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    done = subprocess.run(
        ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "document_number: is missing" in one_line(done.stderr)


def test_a_number_that_is_asked_for_is_not_shown(exchange: TrialExchange) -> None:
    number = resident(14)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [TONGXING, "recognize", *client_file(exchange, GUANGDONG, "app")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as asking:
        os.close(theirs)
        # Only when the echo is off is the prompt ready; what came before that is flushed.
        wait_until("it asks", lambda: not termios.tcgetattr(ours)[3] & termios.ECHO, 30)
        os.write(ours, f"{number}\n".encode())
        shown = b""
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while select.select([ours], [], [], 30)[0]:
                shown += os.read(ours, 65536)
        os.close(ours)
        assert asking.wait(30) == 3
    assert "证件号码" in shown.decode()
    assert number not in shown.decode()


def test_a_bad_row_fails_alone_and_a_second_run_doubles_nothing(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [row(resident(100 + number)) for number in range(5)]
    bad = row(resident(200)[:-1] + "?")
    unreadable = row(resident(201)).replace("阴性", "大概")
    path = write(tmp_path / "rows.csv", good[0], bad, *good[1:], unreadable)
    report = tmp_path / "report.csv"
    arguments = ["attestation", "publish-file", str(path), "--report", str(report)]
    issuer = client_file(exchange, SICHUAN, "issuer")

    assert run([*arguments, *issuer]) == 1
    captured = capsys.readouterr()
    assert "published 5, 原已发布 already there 0, 未通过 refused 2" in captured.out
    told = [line for line in captured.err.splitlines() if not line.startswith("made ")]
    assert [line.split(":")[0] for line in told] == ["line 3, document_number", "line 8, result"]
    with report.open(encoding="utf-8", newline="") as file:
        rows = {row["line"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["2", "3", "4", "5", "6", "7", "8"]
    outcomes = ["published", "refused", *["published"] * 4, "refused"]
    assert [row["outcome"] for row in rows.values()] == outcomes
    assert rows["3"]["attestation_id"]
    assert rows["8"]["reason"] == "INVALID_FIELD"
    assert run(["attestation", "show", rows["2"]["attestation_id"], *issuer]) == 0
    assert rows["2"]["attestation_id"] in capsys.readouterr().out
    assert resident(201) not in report.read_text(encoding="utf-8")

    assert run([*arguments, *issuer, "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["published"], document["already_published"], document["refused"]) == (0, 5, 2)
    assert {refusal["line"] for refusal in document["first_refusals"]} == {3, 8}


def test_the_same_rows_from_a_copy_in_another_encoding_are_published_once(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = client_file(exchange, SICHUAN, "issuer")
    rows = [row(resident(500 + number)) for number in range(3)]
    original = write(tmp_path / "rows.csv", *rows)
    report = tmp_path / "report.csv"
    publish = ["attestation", "publish-file", *issuer, "-o", "json", "--report", str(report)]
    assert run([*publish, str(original)]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == 3
    with report.open(encoding="utf-8", newline="") as file:
        ids = [row["attestation_id"] for row in csv.DictReader(file)]
    assert run(["attestation", "revoke", ids[1], "--reason", "样本污染", *issuer]) == 0
    gate = ["recognize", *client_file(exchange, GUANGDONG, "app"), "--document-number"]
    assert run([*gate, resident(501)]) == 3

    copy = tmp_path / "elsewhere" / "copy.csv"
    copy.parent.mkdir()
    copy.write_bytes(original.read_text(encoding="utf-8").encode("gb18030"))
    capsys.readouterr()
    assert run([*publish, str(copy)]) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["published"], again["already_published"], again["refused"]) == (0, 2, 1)
    assert again["first_refusals"][0]["attestation_id"] == ids[1]
    assert again["first_refusals"][0]["reason"] == "REVOKED"
    assert run([*gate, resident(501)]) == 3
    assert not list(tmp_path.rglob("*.ids*"))


def test_the_making_of_the_key_for_ids_is_told(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "issuer.ids-key").unlink(missing_ok=True)
    path = write(tmp_path / "rows.csv", row(resident(510)))
    publish = ["attestation", "publish-file", str(path), "--client", str(home / "issuer.toml")]
    assert run(publish) == 0
    assert f"made {home / 'issuer.ids-key'}" in one_line(capsys.readouterr().err)
    assert (home / "issuer.ids-key").stat().st_mode & 0o777 == 0o600
    assert run(publish) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "already there 1" in captured.out


def test_a_wrong_role_is_told_as_such_however_much_was_being_sent(
    exchange: TrialExchange, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.csv", *(row(resident(600 + number)) for number in range(300)))
    pairs = [
        (r.line, r.attestation) for r in files.read(path, tmp_path / "key") if type(r) is files.Row
    ]

    async def refused() -> TongxingError:
        async with exchange.client(SICHUAN, "app") as app_:
            with pytest.raises(TongxingError) as caught:
                async for _ in app_.publish_all(pairs):
                    pass
        return caught.value

    for _ in range(20):
        error = asyncio.run(refused())
        assert isinstance(error, CallerNotAllowedError), error


def test_a_wrong_role_is_not_told_to_run_the_command_again(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.csv", row(resident(520)))
    (path.parent / "app.ids-key").unlink(missing_ok=True)
    assert (
        run(["attestation", "publish-file", str(path), *client_file(exchange, SICHUAN, "app")]) == 1
    )
    said = capsys.readouterr().err
    assert "无权调用" in said
    assert "again" not in said.splitlines()[-1]


def test_an_error_of_the_configuration_comes_without_a_summary(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.csv", row(resident(521)))
    (home / "issuer.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n")
    publish = ["attestation", "publish-file", str(path)]
    for arguments in (
        [],
        ["--client", str(home / "none.toml")],
        ["--client", str(home / "issuer.toml")],
    ):
        assert run([*publish, *arguments]) == 1
        assert capsys.readouterr().out == ""


def test_columns_can_be_ignored(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"序号,{HEADER},备注\n1,{row(resident(530))},无\n", encoding="utf-8")
    issuer = client_file(exchange, SICHUAN, "issuer")
    publish = ["attestation", "publish-file", str(path), *issuer]
    assert run(publish) == 1
    assert "--ignore-columns 序号" in one_line(capsys.readouterr().err)
    assert run([*publish, "--ignore-columns", "序号,备注"]) == 0
    capsys.readouterr()
    path = tmp_path / "holders.csv"
    path.write_text(f"序号,证件类型,证件号码\n1,居民身份证,{resident(530)}\n", encoding="utf-8")
    ask = ["recognize", "--file", str(path), *client_file(exchange, GUANGDONG, "app")]
    run_until(0, [*ask, "--ignore-columns", "序号"])


def test_a_file_of_holders_is_asked_about_row_by_row(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = client_file(exchange, SICHUAN, "issuer")
    known = [resident(300 + number) for number in range(3)]
    assert run(
        ["attestation", "publish-file", str(write(tmp_path / "a.csv", *map(row, known))), *issuer]
    ) == 0  # fmt: skip
    capsys.readouterr()
    gate = client_file(exchange, GUANGDONG, "app")

    run_until(0, ["recognize", "--file", str(documents(tmp_path / "b.csv", *known)), *gate])
    assert "RECOGNIZED 3" in capsys.readouterr().out
    some = documents(tmp_path / "c.csv", *known, resident(399))
    assert run(["recognize", "--file", str(some), *gate]) == 3
    assert "line 5: NOT_RECOGNIZED" in capsys.readouterr().out
    many = documents(tmp_path / "d.csv", *(resident(400 + n) for n in range(1200)), "1", known[0])
    assert run(["recognize", "--file", str(many), *gate, "-o", "json"]) == 1
    captured = capsys.readouterr()
    items = json.loads(captured.out)["items"]
    assert len(items) == 1202
    assert items[-2]["status"]["code"] == 3
    assert items[-1]["decision"]["outcome"] == "OUTCOME_RECOGNIZED"
    assert captured.err.startswith("line 1202, document_number: ")


def test_the_trust_list_is_shown(
    exchange: TrialExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trust", "show", *client_file(exchange, SICHUAN, "app")]) == 0
    shown = capsys.readouterr().out
    for words in (
        "version 1",
        "广东省",
        "Sichuan",
        "ES256 ACTIVE",
        exchange.addresses[SICHUAN],
        "Subject epochs",
        "粤康码",
        "tianfujiankangtong",
    ):
        assert words in shown
    trust = exchange.directory / "trust"
    arguments = ["trust", "show", "--trust", str(trust)]
    assert run(arguments) == 1
    assert "--root" in one_line(capsys.readouterr().err)
    assert run([*arguments, "--root", str(trust / "1.root.json"), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [part["province"] for part in document["provinces"]] == [GUANGDONG, SICHUAN]
    assert document["provinces"][1]["zh"] == "四川省"
    (epoch,) = document["epochs"]
    assert (epoch["epoch"], epoch["sealed"]) == (1, [GUANGDONG, SICHUAN])
    assert document["unusable"] == []


def test_a_list_with_a_file_that_it_does_not_name_is_not_shown(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = tmp_path / "trust"
    shutil.copytree(exchange.directory / "trust", trust)
    part = trust / f"1.p{GUANGDONG}.json"
    part.write_bytes(part.read_bytes().replace(b"ACTIVE", b"OLD"))
    show = ["trust", "show", "--trust", str(trust), "--root", str(trust / "1.root.json")]
    assert run(show) == 1
    assert f"1.p{GUANGDONG}.json is not the file that the list names" in capsys.readouterr().err


@contextlib.contextmanager
def begun(command: list[Any], show: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Publishing a file, its first row stored and the last not yet."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        wait_until("the first row stands", lambda: running.poll() is not None or run(show) == 0, 30)
        if running.poll() is not None:
            pytest.fail(f"it ended too early: {running.communicate()}")
        yield running


def test_a_file_broken_off_by_a_killed_node_is_completed_by_a_second_run(tmp_path: Path) -> None:
    count = 3000
    path = write(tmp_path / "rows.csv", *(row(resident(n)) for n in range(count)))
    with TrialExchange(tmp_path / "x", (SICHUAN,), issuers={SICHUAN: (CREDIT_CODE,)}) as exchange:
        first = next(files.read(path, exchange.directory / SICHUAN / "issuer.ids-key"))
        assert isinstance(first, files.Row)
        exchange.start()
        issuer = client_file(exchange, SICHUAN, "issuer")
        publish = [str(TONGXING), "attestation", "publish-file", str(path), *issuer]
        command = [*publish, "--output", "json"]
        show = ["attestation", "show", first.attestation.attestation_id, *issuer]
        with begun(command, show) as running:
            exchange.kill(SICHUAN)
            printed, said = running.communicate(timeout=30)
        assert running.returncode == 1
        assert "run the same command again" in one_line(said)
        broken = json.loads(printed)
        assert 0 < broken["published"] < count
        assert broken["error"]["code"] == 14, broken["error"]  # UNAVAILABLE

        exchange.start()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        whole = json.loads(done.stdout)
        assert whole["published"] + whole["already_published"] == count
        assert whole["already_published"] >= broken["published"]


@contextlib.contextmanager
def drained(home: Path) -> Iterator[str]:
    """A node whose calls outlive its drain: it cancels each after the first message; its address.

    :param home: the province's folder, with the node's certificate.
    """

    class Node(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            del details

            def cancelled(incoming: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
                next(incoming)
                context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
                yield b""

            return grpc.stream_stream_rpc_method_handler(cancelled)

    pair = [(home / name).read_bytes() for name in ("node-key.pem", "node.pem")]
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Node()])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair[0], pair[1])]))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_file_that_outlives_the_nodes_drain_is_to_be_run_again(
    exchange: TrialExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.csv", row(resident(30_001)))
    home = exchange.directory / SICHUAN
    with drained(home) as address:
        settings = (home / "issuer.toml").read_text(encoding="utf-8")
        issuer = home / "issuer-of-drained.toml"
        issuer.write_text(settings.replace(exchange.addresses[SICHUAN], address), encoding="utf-8")
        command = ["attestation", "publish-file", str(path), "--client", str(issuer)]
        assert run(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error (节点没有应答): the node ended the call")
    assert "run the same command again" in said


def test_an_interrupted_file_says_how_far_it_came(exchange: TrialExchange, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", *(row(resident(20_000 + n)) for n in range(3000)))
    first = next(files.read(path, exchange.directory / SICHUAN / "issuer.ids-key"))
    assert isinstance(first, files.Row)
    issuer = client_file(exchange, SICHUAN, "issuer")
    command = [TONGXING, "attestation", "publish-file", path, *issuer]
    show = ["attestation", "show", first.attestation.attestation_id, *issuer]
    with begun(command, show) as running:
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "run the same command again" in one_line(said)


def test_an_exchange_of_wrong_or_doubled_addresses_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = ["trust", "init", str(tmp_path / "a" / "b")]
    one = ["--province", "510000=127.0.0.1:7451"]
    for other, expected in (
        ("440000=127.0.0.1", "not HOST:PORT"),
        ("440000=127.0.0.1:99999", "not HOST:PORT"),
        ("440000=127.0.0.1:7451", "two provinces on 127.0.0.1:7451"),
        ("510000=127.0.0.1:7444", "510000 stands twice"),
    ):
        assert run([*init, *one, "--province", other]) == 1
        assert f"--province: {expected}" in one_line(capsys.readouterr().err).replace(
            "127.0.0.1: not", "not"
        ).replace("127.0.0.1:99999: not", "not")
    assert not (tmp_path / "a").exists()


def test_the_timestamp_is_renewed_where_there_is_an_exchange(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trust", "renew", str(tmp_path)]) == 1
    assert f"no exchange in {tmp_path}" in one_line(capsys.readouterr().err)
    made = tmp_path / "a" / "b"
    assert run(["trust", "init", str(made), "--province", "510000=127.0.0.1:7451"]) == 0
    assert run(["trust", "renew", str(made)]) == 0
    assert "it expires at 2" in capsys.readouterr().out
