"""`tongxing code inspect`: one code or many, from wherever they come."""

import base64
import io
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from exchange import cbor, cose
from exchange.codes import hc1, qr
from exchange.cose import ObjectType
from exchange.keys import Algorithm, PrivateKey
from nodes.cli import app
from nodes.trial import TrialExchange

KEYS = [
    "prefix", "base45", "zlib", "cose", "cbor", "signature", "valid_at", "kid_match",
    "claims", "error",
]  # fmt: skip
KEY = PrivateKey.generate(Algorithm.ES256)
PEM = KEY.public.to_pem()
SET = Path(__file__).parents[3] / "shared" / "testdata" / "hcert"
AT = "2022-01-10T08:00:00+08:00"
SECONDS = int(datetime(2022, 1, 10, tzinfo=UTC).timestamp())


def code_of(**claims):
    found = {1: "440000", 4: SECONDS + 300, 6: SECONDS, -70003: {"colour": "GREEN"}}
    found.update({int(label[1:]): value for label, value in claims.items()})
    return hc1.to_text(cose.sign(cbor.encode(found), KEY, ObjectType.HEALTH_CODE))


CODE = code_of()


@pytest.fixture
def pem(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(PEM)
    return str(path)


def run(*arguments, given=None):
    done = CliRunner().invoke(app, ["code", "inspect", *arguments], input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def inspected(*arguments, given=None):
    code, out = run("--at", AT, "--output", "json", *arguments, given=given)
    document = json.loads(out)
    assert list(document) == KEYS
    return code, document


def lines(*asked):
    given = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in asked)
    code, out = run("-", "--output", "json", given=given)
    return code, [json.loads(line) for line in out.splitlines()]


def test_a_code_of_which_all_holds_exits_zero_and_shows_its_claims(pem):
    code, found = inspected(CODE, "--certificate", pem)
    assert code == 0
    assert all(found[key] for key in KEYS[:8])
    assert found["error"] == ""
    assert found["claims"]["-70003"] == {"colour": "GREEN"}


def test_a_certificate_may_be_given_as_base64():
    der = base64.b64encode(KEY.public.to_der()).decode()
    assert inspected(CODE, "--certificate", der)[0] == 0


def refused(*arguments, given=None):
    done = CliRunner().invoke(app, ["code", "inspect", *arguments], input=given)
    assert done.exit_code == 1
    assert done.stdout == ""
    return str(done.exception)


@pytest.mark.parametrize("certificate", ["nofile", "/no/such/file.pem", "", "\ud800", "."])
def test_a_certificate_that_is_no_file_is_an_error_that_names_the_option(certificate):
    assert refused(CODE, "--certificate", certificate).startswith("--certificate: ")


@pytest.mark.parametrize("certificate", [None, "bm9uc2Vuc2U" * 12], ids=["none", "nonsense"])
def test_without_a_readable_certificate_nothing_is_vouched_for(certificate):
    given = [] if certificate is None else ["--certificate", certificate]
    code, found = inspected(CODE, *given)
    assert code == 3
    assert not found["signature"]
    assert not found["kid_match"]
    assert "certificate" in found["error"]


def test_an_ended_code_is_refused(pem):
    code, found = inspected(code_of(_4=SECONDS - 1), "--certificate", pem)
    assert code == 3
    assert found["signature"]
    assert not found["valid_at"]


def test_a_file_may_hold_the_text_or_a_picture_of_it(pem, tmp_path):
    text, picture = tmp_path / "code.txt", tmp_path / "code"
    text.write_text(CODE + "\r\n", encoding="utf-8")
    picture.write_bytes(qr.png(CODE))
    for path in (text, picture):
        assert inspected(str(path), "--certificate", pem)[0] == 0


def test_standard_input_may_hold_the_text_or_a_picture_of_it(pem):
    for given in (CODE + "\n", b"\n" + CODE.encode(), qr.png(CODE)):
        assert inspected("-", "--certificate", pem, given=given)[0] == 0


def test_a_missing_file_is_not_taken_for_a_code():
    code = CliRunner().invoke(app, ["code", "inspect", "missing.png"])
    assert code.exit_code == 1
    assert "no such file" in str(code.exception)


def test_the_signed_bytes_of_a_code_have_no_outer_layers(pem, tmp_path):
    path = tmp_path / "code.cwt"
    path.write_bytes(hc1.from_text(CODE))
    code, found = inspected(str(path), "--certificate", pem)
    assert code == 3
    assert [key for key in KEYS[:8] if found[key]] == [
        "cose", "cbor", "signature", "valid_at", "kid_match",
    ]  # fmt: skip


def test_a_code_is_found_in_what_show_prints(pem, tmp_path):
    path = tmp_path / "code.json"
    path.write_text(json.dumps({"health_code": {"text": CODE}}, indent=2), encoding="utf-8")
    assert inspected(str(path), "--certificate", pem)[0] == 0


@pytest.mark.parametrize(
    ("typ", "reader"),
    [(ObjectType.ATTESTATION, "attestation verify"), (ObjectType.RECEIPT, "receipt verify")],
    ids=["attestation", "receipt"],
)
def test_what_another_command_reads_is_said_to_be_that(typ, reader, tmp_path):
    path = tmp_path / "signed"
    path.write_bytes(cose.sign(cbor.encode({}), KEY, typ))
    assert f"tongxing {reader} reads it" in refused(str(path))
    assert f"tongxing {reader} reads it" in refused("-", given=path.read_bytes())


class Issuing:
    """Standard input on which a code arrives that is issued while it is waited for."""

    def readline(self, _size):
        began = int(time.time())
        while int(time.time()) == began:
            time.sleep(0.01)
        return code_of(_6=began + 1, _4=began + 300).encode()

    def read(self, _size):
        return b""


def test_a_code_that_is_issued_while_it_is_waited_for_is_valid(monkeypatch, pem, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Issuing()))
    with pytest.raises(SystemExit) as ended:
        app(["code", "inspect", "-", "--certificate", pem, "-o", "json"])
    assert ended.value.code == 0, capsys.readouterr()


@pytest.mark.parametrize("given", [b"", b"\n \n"], ids=["nothing", "blank"])
def test_empty_standard_input_is_an_error(given):
    assert "CODE: standard input is empty" in refused("-", given=given)


@pytest.mark.parametrize(
    "text", ["HL0:" + CODE[4:], CODE + "=", "HC1:", "x", "", "\ud800", "-x" * 9]
)
def test_bad_text_is_told_and_never_raises(text, pem):
    code, found = inspected("--certificate", pem, "--", text)
    assert code == 3
    assert found["error"]


def test_a_time_that_is_none_is_refused():
    done = CliRunner().invoke(app, ["code", "inspect", CODE, "--at", "soon"])
    assert done.exit_code == 1
    assert "RFC 3339" in str(done.exception)


def test_for_people_it_speaks_both_languages(pem):
    code, out = run(CODE, "--certificate", pem, "--at", AT)
    assert code == 0
    assert "有效期 valid at" in out
    assert "GREEN" in out
    for words in (
        "✓ 2022-01-10 08:00:00+08:00 – 2022-01-10 08:05:00+08:00",
        '"1 签发者 iss": "440000"',
        '"4 有效期至 exp": "2022-01-10 08:05:00+08:00"',
        '"-70003 健康码 code"',
    ):
        assert words in out


def shown_to_people(*arguments):
    """The fields that are printed, by the English half of their names."""
    _, out = run("--at", AT, *arguments)
    found = {}
    for line in out.splitlines():
        name, _, value = line.strip().partition("  ")
        found.setdefault(name.rpartition(" ")[2], []).append(value.strip())
    return found


def test_without_a_certificate_a_signature_is_not_checked_and_not_called_wrong():
    fields = shown_to_people(CODE)
    assert fields["signature"] == fields["kid"] == ["未核对 not checked"]
    assert fields["COSE"] == ["✓"]
    assert fields["wrong"] == ["证书 certificate: 未提供 none given"]


def test_layers_behind_one_that_does_not_read_are_not_called_wrong(pem):
    fields = shown_to_people("HC1:=", "--certificate", pem)
    assert fields["prefix"] == ["✓"]
    assert fields["base45"] == ["✗"]
    assert fields["zlib"] == fields["COSE"] == fields["CBOR"] == ["未到达 not reached"]
    (wrong,) = fields["wrong"]
    assert wrong.startswith("编码 base45: 不是有效的 base45 ")


def test_of_a_code_that_has_ended_it_is_told_when(pem):
    fields = shown_to_people(code_of(_4=SECONDS - 60), "--certificate", pem)
    assert "✗ 2022-01-10 08:00:00+08:00 – 2022-01-10 07:59:00+08:00" in fields["at"]
    assert fields["wrong"] == ["有效期 valid at: 已过期 ended"]


def test_a_code_cannot_hide_a_claim_behind_its_name(pem):
    found = {1: "440000", "1 签发者 iss": "510000", 4: SECONDS + 300, 6: SECONDS}
    text = hc1.to_text(cose.sign(cbor.encode(found), KEY, ObjectType.HEALTH_CODE))
    _, out = run(text, "--certificate", pem, "--at", AT)
    assert '"1": "440000"' in out
    assert '"1 签发者 iss": "510000"' in out


def test_what_a_hostile_code_says_cannot_move_the_terminal(pem):
    _, out = run(code_of(_1="\x1b[2J\u202e"), "--certificate", pem, "--at", AT)
    assert "\x1b" not in out
    assert "\u202e" not in out


# --- by a trust list ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return TrialExchange(tmp_path_factory.mktemp("exchange"), ("510000", "440000"))


@pytest.fixture(scope="module")
def of_guangdong(trial):
    key = PrivateKey.from_pem(
        (trial.directory / "440000" / "attestation-key.pem").read_bytes(), None
    )
    claims = {1: "440000", 4: SECONDS + 300, 6: SECONDS}
    return hc1.to_text(cose.sign(cbor.encode(claims), key, ObjectType.HEALTH_CODE))


def test_a_trust_list_stands_in_for_the_certificate_of_a_code_of_ours(trial, of_guangdong):
    trust = ("--trust", str(trial.directory / "trust"))
    client = ("--client", str(trial.directory / "510000" / "app.toml"))
    for at_hand in (trust, client):
        assert inspected(of_guangdong, *at_hand)[0] == 0
    _, out = run(of_guangdong, *trust)
    assert "签发者 signer    440000 广东省 Guangdong, ACTIVE" in out
    code, out = run("-", *trust, given=json.dumps({"text": of_guangdong, "at": AT}))
    assert code == 0
    assert json.loads(out)["kid_match"]


def test_a_key_that_is_not_in_the_trust_list_is_told(trial):
    trust = ("--trust", str(trial.directory / "trust"))
    assert not inspected(CODE, *trust)[1]["signature"]
    assert "信任列表中没有 not in the trust list" in run(CODE, *trust)[1]


def test_a_certificate_and_a_trust_list_together_are_refused(trial, pem):
    assert "--trust" in refused(CODE, "--certificate", pem, "--trust", str(trial.directory))


# --- JSON Lines ---------------------------------------------------------------------------------


def ask(id_, text=CODE, **parts):
    return {"id": id_, "text": text, "certificate": PEM.decode(), "at": AT, **parts}


def test_many_codes_are_answered_line_by_line():
    code, found = lines(ask("a"), "", ask(2), ask(None))
    assert code == 0
    assert [each["id"] for each in found] == ["a", 2, None]
    assert all(list(each) == ["id", *KEYS] for each in found)
    assert all(each["kid_match"] for each in found)


def test_one_code_that_does_not_hold_among_many_exits_three():
    code, found = lines(ask("a"), ask("b", at="2021-01-01T00:00:00Z"))
    assert code == 3
    assert [each["valid_at"] for each in found] == [True, False]


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        ("{", None),
        ("[" * 100_000, None),
        ("[]", None),
        ("nonsense", None),
        ('{"id": 1e999}', None),
        ('{"id": {}}', None),
        ('{"id": 1}', 1),
        ('{"id": 1, "text": 5}', 1),
        ('{"id": 1, "text": "x", "at": "soon"}', 1),
        ('{"id": 1, "text": "x", "at": 5}', 1),
        ('{"id": 1, "text": "x", "certificate": []}', 1),
        ('{"id": 1, "text": "\\ud800", "certificate": "\\ud800"}', 1),
        ('{"id": 1, "text": "' + "0" * 2_000_000 + '"}', None),
    ],
)
def test_a_bad_line_is_answered_with_its_error_and_the_others_go_on(line, id_):
    code, found = lines(ask("a"), line, ask("b"))
    assert code == 3
    assert [each["id"] for each in found] == ["a", id_, "b"]
    assert found[1]["error"]
    assert not any(found[1][key] for key in KEYS[:8])
    assert found[0]["error"] == found[2]["error"] == ""


def test_certificate_and_time_of_the_command_hold_where_a_line_has_none(pem):
    given = json.dumps({"id": 1, "text": CODE})
    code, out = run("-", "--certificate", pem, "--at", AT, given=given)
    assert code == 0
    assert json.loads(out)["signature"]


def test_a_byte_order_mark_does_not_matter():
    code, out = run("-", given=b"\xef\xbb\xbf" + json.dumps(ask("a")).encode())
    assert code == 0
    assert json.loads(out)["id"] == "a"


def test_a_process_answers_the_whole_test_set_in_one_run():
    cases = sorted(SET.glob("**/raw/*.json"))
    if not cases:
        pytest.skip("the EU's test set is not at hand")
    given = io.StringIO()
    for number, path in enumerate(cases):
        raw = json.loads(path.read_text(encoding="utf-8"))
        context = raw["TESTCTX"]
        asked = {"id": number, "text": raw["PREFIX"], "certificate": context["CERTIFICATE"]}
        given.write(json.dumps({**asked, "at": context["VALIDATIONCLOCK"]}) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "nodes.cli", "code", "inspect", "-", "--output", "json"],
        input=given.getvalue(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["id"] for each in found] == list(range(len(cases)))
    assert done.returncode == 3
    assert done.stderr == ""
