"""``tongxing appeal`` on two real nodes: what a holder's app, an issuer and an admin type."""

from __future__ import annotations

import json
import sys
import uuid

import pytest

from exchange.client.appeals import AppealMessage
from nodes.cli import appeal, run
from nodes.cli.output import Form
from nodes.trial import TrialExchange, wait_until

SICHUAN, GUANGDONG = "510000", "440000"
STATEMENT = "我从未到过该区"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("appeal-cli"),
        (SICHUAN, GUANGDONG),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        trial.start(environment={"TONGXING_APPEALS__POLL_SECONDS": "0.2"})
        yield trial
    no_traces(trial)


@pytest.fixture
def tongxing(exchange, capsys, monkeypatch):
    """Runs ``tongxing appeal …`` as somebody of a province: its exit code and what it said."""
    monkeypatch.setenv("LANG", "C.UTF-8")

    def appeal(*arguments, who="app", of=GUANGDONG):
        file = exchange.directory / of / f"{who}.toml"
        code = run(["appeal", *map(str, arguments), "--client", str(file)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return appeal


@pytest.fixture
def done(tongxing):
    """The same, as JSON; it must not fail."""

    def appeal(*arguments, **who):
        code, out, err = tongxing(*arguments, "--output", "json", **who)
        assert code == 0, err
        return json.loads(out)

    return appeal


@pytest.fixture
async def red(exchange, people):
    message = people.coloured("RED")
    async with exchange.client(SICHUAN, "issuer") as issuer:
        await issuer.publish(message)
    return message


def file(red, **options):
    given = {
        "attestation": f"{SICHUAN}/{red.attestation_id}",
        "document-number": red.document.number,
        "statement": STATEMENT,
    } | options
    return ["file", *(part for name, value in given.items() for part in (f"--{name}", value))]


def test_an_appeal_is_filed_seen_listed_and_answered(tongxing, done, red):
    id_ = done(*file(red))["appeal"]["appeal_id"]

    def stands(state):
        return lambda: done("show", id_)["appeal"]["state"] == f"APPEAL_STATE_{state}"

    wait_until("it is delivered", stands("DELIVERED"), 20)
    issuer = {"who": "issuer", "of": SICHUAN}
    assert id_ in {each["appeal_id"] for each in done("list", "--unanswered", **issuer)["appeals"]}
    code, out, _ = tongxing("list", **issuer)
    assert code == 0
    assert "已送达 delivered" in out

    code, _, err = tongxing("answer", id_, "--resolution", "revoked", "--reason", "误判", **issuer)
    assert code == 1
    assert "not revoked" in err
    code, out, _ = tongxing(
        "answer", id_, "--resolution", "rejected", "--reason", "情况属实", **issuer
    )
    assert code == 0
    assert "申诉不成立 rejected" in out

    wait_until("it is answered", stands("ANSWERED"), 20)
    code, out, _ = tongxing("show", id_)
    assert code == 0
    for words in (STATEMENT, "情况属实", "已答复 answered", "四川省", "+08:00"):
        assert words in out
    listed = done("list", "--document-number", red.document.number)
    assert [each["appeal_id"] for each in listed["appeals"]] == [id_]
    assert done("list", who="admin")["appeals"]


def test_an_empty_list_is_one_line(tongxing, people):
    code, out, _ = tongxing("list", "--document-number", people.document().number)
    assert (code, out) == (0, "没有申诉 no appeals\n")


def test_filing_again_with_the_same_id_is_no_second_appeal(done, red):
    first = done(*file(red))["appeal"]
    again = done(*file(red, id=first["appeal_id"]))["appeal"]
    assert again["file_time"] == first["file_time"]


def test_a_second_appeal_about_the_same_is_refused_and_the_first_named(tongxing, done, red):
    first = done(*file(red))["appeal"]["appeal_id"]
    code, _, err = tongxing(*file(red))
    assert code == 1
    assert f"--attestation: an appeal about the same waits for its answer: {first};" in err
    assert f"tongxing appeal show {first}" in err
    assert "--id" not in err


def test_what_is_typed_amiss_is_refused_in_words(tongxing, red, tmp_path):
    cases = [
        (file(red, attestation="510000"), "--attestation"),
        (file(red, attestation=f"999999/{red.attestation_id}"), "--attestation"),
        (file(red, statement="——"), "--statement"),
        (file(red, statement=f"号码{red.document.number}"), "--statement"),
        (file(red, **{"document-number": "1"}), "document_number"),
        (file(red, id=str(uuid.UUID(int=0))), "--id"),
        (["file", "--statement", STATEMENT, "--document-number", "1"], "--attestation"),
        (file(red, receipt=str(tmp_path / "none")), "--receipt"),
        (["list"], "--document-number"),
    ]
    for arguments, field in cases:
        code, out, err = tongxing(*arguments)
        assert code == 1, arguments
        assert f"{field}: " in err, arguments
        assert red.document.number not in out + err
        assert err.count("\n") == 1


def test_a_file_that_is_no_receipt_is_refused(tongxing, red, tmp_path):
    rubbish = tmp_path / "receipt"
    rubbish.write_bytes(b"rubbish")
    code, _, err = tongxing(*file(red, receipt=str(rubbish)))
    assert code == 1
    assert "--receipt: " in err


def test_another_holders_receipt_is_refused(exchange, tongxing, people, tmp_path):
    mine, theirs = people.document().number, people.document().number
    receipt = tmp_path / "receipt"
    asked = run(
        [
            *("recognize", "--document-number", mine, "--receipt", str(receipt)),
            *("--client", str(exchange.directory / GUANGDONG / "app.toml")),
        ]
    )
    assert asked == 3  # of whom nobody knows anything
    wanted = ("file", "--receipt", receipt, "--statement", STATEMENT, "--document-number")
    code, out, err = tongxing(*wanted, theirs)
    assert code == 1
    assert "--receipt: was given for another holder; " in err
    code, out, err = tongxing(*wanted, mine)
    assert (code, err) == (0, "")
    assert "未核对" not in out


def test_that_nobody_checked_whose_the_decision_was_is_said(capsys):
    appeal._print(AppealMessage(holder_unchecked=True), Form.PRETTY)
    assert "持码人 holder" in (said := capsys.readouterr().out)
    assert "未核对 not checked" in said


ANSWER = ("answer", str(uuid.uuid4()), "--reason", "误判")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resolution", "corrected"), "缺失 is missing with --resolution corrected"),
        (
            ("--resolution", "upheld", "--superseding", str(uuid.uuid4())),
            "不与 --resolution upheld 连用 goes with --resolution corrected alone",
        ),
    ],
    ids=["missing", "too much"],
)
def test_an_answer_that_does_not_fit_is_refused_by_its_options_name(tongxing, arguments, words):
    code, _, err = tongxing(*ANSWER, *arguments, who="admin")
    assert code == 1
    assert f"--superseding: {words}; " in err


def test_what_a_node_refuses_of_an_answer_is_named_as_the_option(tongxing, done, red):
    id_ = done(*file(red))["appeal"]["appeal_id"]

    def delivered():
        return done("show", id_)["appeal"]["state"] == "APPEAL_STATE_DELIVERED"

    wait_until("it is delivered", delivered, 20)
    issuer = {"who": "issuer", "of": SICHUAN}
    for arguments, field in (
        (("upheld", "--reason", "误判"), "--resolution"),
        (("rejected", "--reason", ""), "--reason"),
        (("corrected", "--reason", "误判", "--superseding", id_), "--superseding"),
    ):
        code, _, err = tongxing("answer", id_, "--resolution", *arguments, **issuer)
        assert code == 1
        assert f"): {field}: " in err


@pytest.mark.parametrize("columns", ["60", "200"])
def test_ids_are_never_folded(tongxing, done, red, monkeypatch, columns):
    id_ = done(*file(red))["appeal"]["appeal_id"]
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = tongxing("list", "--document-number", red.document.number)
    assert code == 0
    assert id_ in out
    assert (f"编号 id: {id_}\n" in out) == (columns == "60")


@pytest.mark.parametrize("verb", ["file", "list"])
def test_a_missing_client_is_told_before_the_number_is_asked_for(capsys, monkeypatch, verb):
    monkeypatch.delenv("TONGXING_CLIENT", raising=False)
    more = ("--statement", STATEMENT, "--attestation", f"{SICHUAN}/{uuid.uuid4()}")
    assert run(["appeal", verb, *(more if verb == "file" else ())]) == 1
    assert "): --client: " in capsys.readouterr().err


def test_what_is_nobodys_is_not_found(tongxing):
    code, _, err = tongxing("show", uuid.uuid4())
    assert code == 1
    assert "未找到" in err


@pytest.mark.parametrize("verb", ["file", "show", "list", "answer"])
def test_help_speaks_both_languages(capsys, verb):
    assert run(["appeal", verb, "--help"]) == 0
    assert "申诉" in capsys.readouterr().out
