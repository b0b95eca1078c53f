"""``tongxing code`` and what ``tongxing recognize`` gained, on real nodes."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from exchange import receipts
from exchange.client import Purpose
from exchange.codes import qr
from exchange.v1 import recognition_service_pb2 as pb
from nodes.cli import run

SICHUAN, GUANGDONG = "510000", "440000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK


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
        stranger = people.document()
        async with exchange.client(SICHUAN, "app") as app:
            while (await app.recognize(stranger, CHECK)).outcome == pb.OUTCOME_INDETERMINATE:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.02)
        return message

    def make(message=None):
        message = asyncio.run(asyncio.wait_for(publish(message or people.tested()), 10))
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


def test_who_has_no_colour_is_told_what_is_needed(people, exchange, capsys):
    client = exchange.directory / SICHUAN / "app.toml"
    number = people.document().number
    assert run(["code", "show", "--document-number", number, "--client", str(client)]) == 1
    printed = capsys.readouterr()
    assert "无可用码色" in printed.err
    assert number not in printed.err + printed.out


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
    capsys.readouterr()
    asyncio.run(revoke())
    assert offline(exchange, text, "--rules", GUANGDONG, "--status-lists", str(tmp_path)) == 3
    assert json.loads(capsys.readouterr().out)["verdict"] == "VERDICT_REVOKED"


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
