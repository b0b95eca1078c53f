"""``tongxing code`` and what ``tongxing recognize`` gained, on real nodes."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from waiting import heard, heard_from_all

from exchange import cbor, cose, receipts
from exchange.codes import hc1, qr
from exchange.cose import ObjectType
from exchange.keys import Algorithm, PrivateKey
from nodes.cli import run

SICHUAN, GUANGDONG = "510000", "440000"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("TONGXING_CLIENT", "TONGXING_DEBUG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture
def holder(exchange, people):
    """Gives the options that name a holder of whom Sichuan has published something."""

    async def publish(message):
        async with exchange.client(SICHUAN, "issuer") as issuer:
            await issuer.publish(message)
        async with exchange.client(SICHUAN, "app") as app:
            await heard_from_all(app, people.document())
        return message

    def make(message=None):
        message = asyncio.run(publish(message or people.tested()))
        return ["--document-number", message.document.number]

    return make


@pytest.fixture
def said(exchange, capsys):
    """Runs a command for a province's app, and gives its exit code and its JSON."""

    def call(province, *arguments, code=0):
        client = exchange.directory / province / "app.toml"
        done = run([*arguments, "--client", str(client), "-o", "json"])
        printed = capsys.readouterr()
        assert done == code, printed.err
        return json.loads(printed.out)

    return call


@pytest.fixture
def told(exchange, capsys):
    """The same, printed for people."""

    def call(province, *arguments, code=0):
        client = exchange.directory / province / "app.toml"
        done = run([*arguments, "--client", str(client)])
        printed = capsys.readouterr()
        assert done == code, printed.err
        return printed.out

    return call


def text_of(said, holder, *more):
    return said(SICHUAN, "code", "show", *holder, *more)["health_code"]["text"]


def test_a_code_is_shown_in_sichuan_and_verified_in_guangdong(holder, said, told, tmp_path):
    png, svg = tmp_path / "code.png", tmp_path / "code.svg"
    shown = told(SICHUAN, "code", "show", *holder(), "--png", str(png), "--svg", str(svg))
    (text,) = [line for line in shown.splitlines() if line.startswith("HC1:")]
    for words in ("绿码 green", "持码人 holder", "有效期至 expires", "核酸检测", "█", str(png)):
        assert words in shown
    assert qr.read(png.read_bytes()) == text
    assert svg.read_text(encoding="utf-8").startswith("<")
    verified = told(GUANGDONG, "code", "verify", text)
    for words in ("RECOGNIZED 认可", "510000 四川省 Sichuan", "nat-48h", "440000 广东省"):
        assert words in verified
    answer = said(GUANGDONG, "code", "verify", str(png))
    assert answer["outcome"] == "OUTCOME_RECOGNIZED"
    file = tmp_path / "code.txt"
    file.write_text(text + "\n", encoding="utf-8")
    assert said(GUANGDONG, "code", "verify", str(file))["health_code"] == answer["health_code"]


def test_a_code_is_read_from_standard_input(holder, said, monkeypatch):
    text = text_of(said, holder())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert said(GUANGDONG, "code", "verify", "-")["colour"] == "COLOUR_GREEN"


def test_a_red_code_is_shown_and_never_passes(holder, people, told, said):
    named = holder(people.coloured("RED"))
    shown = told(SICHUAN, "code", "show", *named, code=3)
    assert "红码 red" in shown
    assert "赋码原因 reason" in shown
    (text,) = [line for line in shown.splitlines() if line.startswith("HC1:")]
    assert said(GUANGDONG, "code", "verify", text, code=3)["colour"] == "COLOUR_RED"


WHY = (
    "赋码原因 reason",
    "密切接触者",
    "赋码依据 legal basis",
    "传染病防治法第三十九条",
    "赋码机构 assigned by",
    "成都市示例疾控中心",
    "处置建议 guidance",
    "居家等待联系",
)


@pytest.mark.parametrize("colour", ["YELLOW", "RED"])
def test_who_is_not_green_is_told_why_by_what_by_whom_and_what_to_do(
    holder, people, told, said, exchange, colour
):
    assigned = people.coloured(colour)
    named = holder(assigned)
    shown = told(SICHUAN, "code", "show", *named, code=3)
    (text,) = [line for line in shown.splitlines() if line.startswith("HC1:")]

    async def guangdong_knows():
        async with exchange.client(GUANGDONG, "app") as app:
            await heard(app, assigned.document)

    asyncio.run(guangdong_knows())
    for printed in (
        shown,
        told(SICHUAN, "recognize", *named, code=3),
        told(GUANGDONG, "recognize", *named, code=3),
        told(GUANGDONG, "code", "verify", text, code=3),
    ):
        for words in WHY:
            assert words in printed
        assert "no rule accepts it" not in printed
    (piece,) = said(GUANGDONG, "recognize", *named, code=3)["decision"]["evidence"]
    assert piece["verdict"] == "VERDICT_NOT_RECOGNIZED_BY_RULE"
    (in_code,) = said(GUANGDONG, "code", "verify", text, code=3)["health_code"]["evidence"]
    for fact in (piece["attestation"]["fact"], in_code["fact"]):
        status = fact["health_code_status"]
        assert (status["legal_basis"], status["assigned_by"]) == (WHY[3], WHY[5])


def test_of_a_vaccination_product_and_doses_are_shown(holder, people, told):
    named = holder(people.each_kind()["vaccination"])
    shown = told(SICHUAN, "code", "show", *named)
    (text,) = [line for line in shown.splitlines() if line.startswith("HC1:")]
    for printed in (
        shown,
        told(SICHUAN, "recognize", *named),
        told(SICHUAN, "code", "verify", text),
    ):
        assert "BBIBP-CorV 2/2" in printed


def test_a_green_code_is_said_to_show_the_state_at_its_issue_time(holder, said, told, people):
    hint = "a code shows the state at its issue time: recognize asks anew"
    text = text_of(said, holder())
    assert hint in told(GUANGDONG, "code", "verify", text)
    assert hint in told(GUANGDONG, "code", "verify", "--offline", text)
    named = holder(people.coloured("RED"))
    red = said(SICHUAN, "code", "show", *named, code=3)["health_code"]["text"]
    assert hint not in told(GUANGDONG, "code", "verify", red, code=3)


def test_who_has_no_colour_is_told_what_is_needed_in_both_languages(
    people, exchange, holder, capsys
):
    holder()  # waits until Sichuan has heard from all: who knows nothing of somebody
    client = exchange.directory / SICHUAN / "app.toml"
    number = people.document().number
    asked = ["code", "show", "--document-number", number, "--client", str(client)]
    assert run(asked) == 1
    printed = capsys.readouterr()
    assert printed.err == "error (无可用码色): no rule gives a colour to show\n"
    for words in (
        "无记录",
        "怎样才能变绿码 What would make it green",
        "核酸检测",
        "nucleic-acid test",
    ):
        assert words in printed.out
    assert number not in printed.err + printed.out
    assert run([*asked, "-o", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert "NO_COLOUR" in json.dumps(answer["error"])
    remedy = answer["decision"]["remedies"][0]["text"]
    assert remedy["zh"]
    assert remedy["en"]


def shown_on_a_terminal(exchange, holder, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    client = exchange.directory / SICHUAN / "app.toml"
    command = [sys.executable, "-m", "nodes.cli", "code", "show", *holder, "--client", str(client)]
    unset = ("COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as showing:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # how a pseudo-terminal ends
                break
        os.close(ours)
        assert showing.wait(30) == 0, shown
    return shown.decode()


def test_a_terminal_that_is_too_narrow_is_told_of_and_not_drawn_on(exchange, holder):
    named = holder()
    narrow = shown_on_a_terminal(exchange, named, 80)
    assert "终端太窄，请用 --png" in narrow
    assert "▀" not in narrow
    assert "HC1:" in narrow
    wide = shown_on_a_terminal(exchange, named, 120)
    assert "终端太窄" not in wide
    (width,) = {len(line) for line in wide.split("\x1b[38;5;16;48;5;231m")[1:-1]}
    code = "".join(wide[wide.index("HC1:") :].splitlines())
    assert width == qr.columns(code) + len("\x1b[0m\r\n")


def test_a_gates_nonce_must_be_in_the_code(holder, said):
    named = holder()
    nonce = "00112233445566778899"
    plain, made = text_of(said, named), text_of(said, named, "--nonce", nonce)
    assert said(GUANGDONG, "code", "verify", made, "--nonce", nonce)["outcome"].endswith(
        "_RECOGNIZED"
    )
    answer = said(GUANGDONG, "code", "verify", plain, "--nonce", nonce, code=3)
    assert answer["verdict"] == "VERDICT_BAD_SIGNATURE"


@pytest.mark.parametrize("nonce", ["xyz", "0011", "00" * 33])
def test_a_nonce_that_is_none_is_refused(nonce, capsys):
    assert run(["code", "verify", "HC1:X", "--nonce", nonce]) == 1
    assert "--nonce" in capsys.readouterr().err


def test_a_receipt_is_kept(holder, said, exchange, people, tmp_path):
    file = tmp_path / "receipt.cwt"
    text = text_of(said, holder(people.tested(hours=60)))
    said(GUANGDONG, "code", "verify", text, "--receipt", str(file), code=3)
    receipt = receipts.verify(file.read_bytes(), exchange.trust(), datetime.now(UTC))
    assert (receipt.province, receipt.outcome) == (GUANGDONG, "NOT_RECOGNIZED")


def test_what_is_no_code_is_an_error(said):
    error = said(GUANGDONG, "code", "verify", "HC1:NOTHING", code=1)["error"]
    assert "MALFORMED_OBJECT" in json.dumps(error)


def test_a_code_is_read_from_what_show_prints_and_from_its_signed_bytes(holder, said, tmp_path):
    issued = said(SICHUAN, "code", "show", *holder())
    signed = issued["health_code"]["signed"]
    held = {
        "code.json": json.dumps(issued, ensure_ascii=False, indent=2).encode(),
        "code.cwt": base64.b64decode(signed),
        "code.b64": signed.encode(),
    }
    for name, data in held.items():
        (tmp_path / name).write_bytes(data)
        answer = said(GUANGDONG, "code", "verify", str(tmp_path / name))
        assert answer["health_code"] == issued["health_code"]


KEY = PrivateKey.generate(Algorithm.ES256)
NOTHING = cbor.encode({})
TEXT = hc1.to_text(cose.sign(NOTHING, KEY, ObjectType.HEALTH_CODE))
NO_CODES = {
    "svg": (qr.svg(TEXT).encode(), "an SVG"),
    "json": (b'{"decision": {}}', "JSON without a health code"),
    "what_show_printed": (f"code green\n{TEXT}\ndrawn".encode(), "begins with HC1: alone"),
    "attestation": (cose.sign(NOTHING, KEY, ObjectType.ATTESTATION), "attestation verify"),
    "attestation_in_base64": (
        base64.b64encode(cose.sign(NOTHING, KEY, ObjectType.ATTESTATION)),
        "attestation verify",
    ),
    "receipt": (cose.sign(NOTHING, KEY, ObjectType.RECEIPT), "receipt verify"),
    "status_list": (cose.sign(NOTHING, KEY, ObjectType.STATUS_LIST), "--status-lists"),
    "csv": ("证件类型,证件号码\n居民身份证,519901199001019120\n".encode(), "no code"),
    "bytes": (bytes(range(128, 256)), "neither a text nor a picture"),
    "empty": (b"\n", "is empty"),
    "cut": (TEXT[:40].encode(), "cut short or damaged"),
    "picture": (b"\x89PNG no picture", "give a PNG"),
}


@pytest.mark.parametrize("name", NO_CODES)
def test_what_is_no_code_is_told_in_one_line_that_names_it(name, tmp_path, capsys):
    data, words = NO_CODES[name]
    file = tmp_path / name
    file.write_bytes(data)
    assert run(["code", "verify", str(file), "--client", "nobody-is-asked"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "CODE: " in told
    assert words in told
    assert ";" in told  # the remedy
    assert "5199" not in told


@pytest.mark.parametrize(
    ("source", "words"),
    [("", "is empty"), (".", "is a folder"), ("missing", "is there"), ("a.png", "no such file")],
    ids=["empty", "folder", "name", "picture"],
)
def test_an_argument_that_is_no_code_is_told_in_one_line(source, words, capsys):
    assert run(["code", "verify", source, "--client", "nobody-is-asked"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "CODE: " in told
    assert words in told


def test_a_code_that_only_the_node_finds_wrong_names_the_argument_too(exchange, capsys):
    client = exchange.directory / GUANGDONG / "app.toml"
    key = PrivateKey.from_pem(
        (exchange.directory / SICHUAN / "attestation-key.pem").read_bytes(), None
    )
    text = hc1.to_text(cose.sign(NOTHING, key, ObjectType.HEALTH_CODE))
    for more in (["--client", str(client)], ["--offline", "--client", str(client)]):
        assert run(["code", "verify", text, *more]) == 1
        assert "CODE: no health code: " in capsys.readouterr().err


# --- where it is written --------------------------------------------------------------------

KEEPING = {
    "png": ["code", "show", "--document-number", "x", "--png"],
    "svg": ["code", "show", "--document-number", "x", "--svg"],
    "receipt": ["code", "verify", TEXT, "--receipt"],
    "recognition": ["recognize", "--document-number", "x", "--receipt"],
}


@pytest.mark.parametrize("command", KEEPING)
@pytest.mark.parametrize(
    "place", ["missing/file", "", "a" * 300], ids=["missing", "folder", "long"]
)
def test_a_place_that_cannot_be_written_is_refused_before_anybody_is_asked(
    command, place, tmp_path, capsys
):
    arguments = KEEPING[command]
    assert run([*arguments, str(tmp_path / place), "--client", "nobody-is-asked"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{arguments[-1]}: " in told


@pytest.mark.parametrize("command", ["receipt", "recognition"])
def test_a_receipt_that_is_there_is_never_replaced(command, tmp_path, capsys):
    kept = tmp_path / "receipt.cwt"
    kept.write_bytes(b"another")
    assert run([*KEEPING[command], str(kept), "--client", "nobody-is-asked"]) == 1
    told = capsys.readouterr().err
    assert "--receipt: " in told
    assert "is there already; name a new file" in told
    assert kept.read_bytes() == b"another"


def test_a_folder_of_receipts_takes_no_second_batch(tmp_path, capsys):
    (tmp_path / "2.cwt").write_bytes(b"another")
    holders = tmp_path / "holders.csv"
    holders.write_text("document_type,document_number\n居民身份证,x\n", encoding="utf-8")
    command = ["recognize", "--file", str(holders), "--receipt", str(tmp_path)]
    assert run([*command, "--client", "nobody-is-asked"]) == 1
    assert "--receipt: " in capsys.readouterr().err
    assert (tmp_path / "2.cwt").read_bytes() == b"another"


def test_a_picture_that_is_there_is_replaced(holder, told, tmp_path):
    png = tmp_path / "code.png"
    png.write_bytes(b"an older one")
    told(SICHUAN, "code", "show", *holder(), "--png", str(png))
    assert qr.read(png.read_bytes()).startswith("HC1:")


@pytest.mark.parametrize("command", [["code", "verify", TEXT], ["code", "show"]])
def test_a_client_file_that_is_not_there_names_its_option(command, capsys):
    number = ["--document-number", "519901199001019120"] if "show" in command else []
    assert run([*command, *number, "--client", "missing.toml"]) == 1
    assert "--client: missing.toml: " in capsys.readouterr().err


# --- offline --------------------------------------------------------------------------------


def offline(exchange, *arguments):
    trust = exchange.directory / "trust"
    return run(["code", "verify", "--offline", "--trust", str(trust), *arguments, "-o", "json"])


def test_a_code_is_verified_without_a_node(holder, said, exchange, people, capsys):
    text = text_of(said, holder(people.tested(hours=60)))
    for province, code in ((SICHUAN, 0), (GUANGDONG, 3), ("310000", 0)):
        assert offline(exchange, text, "--rules", province) == code
        answer = json.loads(capsys.readouterr().out)
        assert answer["province"] == province


def test_a_revoked_one_is_refused_offline_by_a_status_list(
    holder, said, exchange, people, capsys, tmp_path
):
    tested = people.tested()
    answer = said(SICHUAN, "code", "show", *holder(tested))
    text = answer["health_code"]["text"]
    uri = answer["health_code"]["evidence"][0]["status"]["uri"]

    async def revoke():
        async with exchange.client(SICHUAN, "issuer") as issuer:
            await issuer.revoke(UUID(tested.attestation_id), "录入错误")
        async with exchange.client(SICHUAN, "app") as app:
            (signed,) = await app.status_lists([uri])
        (tmp_path / "list.cwt").write_bytes(signed)

    assert offline(exchange, text, "--rules", GUANGDONG) == 0  # nothing is known of it
    assert json.loads(capsys.readouterr().out)["revocation_unchecked"]
    asyncio.run(revoke())
    assert offline(exchange, text, "--rules", GUANGDONG, "--status-lists", str(tmp_path)) == 3
    assert json.loads(capsys.readouterr().out)["verdict"] == "VERDICT_REVOKED"


def test_offline_tells_of_which_province_no_revocation_was_checked_and_how_to(
    holder, said, told, exchange, capsys, tmp_path
):
    png, lists = tmp_path / "code.png", tmp_path / "lists"
    said(SICHUAN, "code", "show", *holder(), "--png", str(png))
    assert offline(exchange, str(png), "--rules", GUANGDONG) == 0
    (unchecked,) = json.loads(capsys.readouterr().out)["revocation_unchecked"]
    assert unchecked["province"] == SICHUAN
    assert "attestation status-lists" in unchecked["remedy"]["en"]
    check = ("code", "verify", "--offline", str(png))
    printed = told(GUANGDONG, *check)
    assert "未核对撤销 revocation not checked: 510000 四川省 Sichuan" in printed
    assert unchecked["remedy"]["zh"] in printed
    # What the remedy says, done as it says it:
    told(GUANGDONG, "attestation", "status-lists", str(png), "--into", str(lists))
    printed = told(GUANGDONG, *check, "--status-lists", str(lists))
    assert "未核对撤销" not in printed
    assert "状态列表签发于 status list of: 510000 四川省 Sichuan, 20" in printed
    answer = said(GUANGDONG, *check, "--status-lists", str(lists))
    assert [each["issue_time"][:2] for each in answer["status_lists"]] == ["20"]
    assert answer["revocation_unchecked"] == []


@pytest.mark.parametrize(
    "option", ["--rules", "--trust", "--root", "--status-lists", "--certificates"]
)
def test_what_has_a_meaning_only_offline_is_refused_without_it(option, capsys):
    assert run(["code", "verify", TEXT, option, GUANGDONG, "--client", "nobody-is-asked"]) == 1
    told = capsys.readouterr().err
    assert f"{option}: " in told
    assert "only with --offline" in told


@pytest.mark.parametrize("option", ["--trust", "--root", "--status-lists", "--certificates"])
def test_offline_a_path_that_is_not_there_names_its_option(option, exchange, capsys):
    given = [option, "missing", "--rules", GUANGDONG]
    if option == "--trust":
        assert run(["code", "verify", "--offline", TEXT, *given]) == 1
    else:
        assert offline(exchange, TEXT, *given) == 1
    assert f"{option}: missing: " in capsys.readouterr().err


def test_offline_needs_to_know_by_whose_rules(exchange, capsys):
    assert offline(exchange, "HC1:X") == 1
    assert "--rules" in capsys.readouterr().err


def test_offline_rules_of_who_takes_no_part_are_refused(exchange, capsys):
    assert offline(exchange, "HC1:X", "--rules", "110000") == 1
    assert "--rules" in capsys.readouterr().err


def test_offline_signs_no_receipt(exchange, capsys, tmp_path):
    assert offline(exchange, "HC1:X", "--receipt", str(tmp_path / "r"), "--rules", SICHUAN) == 1
    assert "--receipt" in capsys.readouterr().err


# --- recognize ------------------------------------------------------------------------------


def test_a_journey_is_planned(holder, said, told, people):
    named = holder(people.tested(hours=40))
    soon = (datetime.now(UTC) + timedelta(hours=12)).isoformat(timespec="seconds")
    to = ("--destination", GUANGDONG)
    decision = said(SICHUAN, "recognize", *named, *to)["decision"]
    assert (decision["province"], decision["outcome"]) == (GUANGDONG, "OUTCOME_RECOGNIZED")
    printed = told(SICHUAN, "recognize", *named, *to, "--arrival", soon, code=3)
    assert "怎样才能变绿码" in printed
    assert "440000 广东省" in printed


def test_a_recognition_gives_its_receipt(holder, said, exchange, tmp_path):
    file = tmp_path / "receipt.cwt"
    said(SICHUAN, "recognize", *holder(), "--receipt", str(file))
    receipt = receipts.verify(file.read_bytes(), exchange.trust(), datetime.now(UTC))
    assert receipt.outcome == "RECOGNIZED"


def test_each_of_many_gives_its_receipt(holder, said, exchange, tmp_path):
    numbers = [holder()[1] for _ in range(2)]
    rows = [f"居民身份证,{number}" for number in numbers]
    file = tmp_path / "train.csv"
    file.write_text("\n".join(["document_type,document_number", *rows]), encoding="utf-8")
    into = tmp_path / "receipts"
    said(SICHUAN, "recognize", "--file", str(file), "--receipt", str(into))
    for path in (into / "2.cwt", into / "3.cwt"):
        assert receipts.verify(path.read_bytes(), exchange.trust(), datetime.now(UTC))


@pytest.mark.parametrize(
    "option", [("--destination", GUANGDONG), ("--arrival", "2022-08-03 12:00")]
)
def test_a_file_goes_without_a_journey(option, tmp_path, capsys):
    assert run(["recognize", "--file", str(tmp_path / "x.csv"), *option]) == 1
    assert option[0] in capsys.readouterr().err


def test_an_arrival_that_is_no_time_is_refused(capsys):
    assert run(["recognize", "--document-number", "x", "--arrival", "soon"]) == 1
    assert "--arrival" in capsys.readouterr().err
