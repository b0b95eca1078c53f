from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from exchange import attestations, receipts
from exchange.attestations import Attestation, AttestationVerifier, Holder, Issuer
from exchange.codes import hc1, qr
from exchange.facts import NucleicAcidTest, TestResult
from exchange.keys import PrivateKey
from exchange.receipts import EvidenceDigest, Subject
from exchange.recognition import Outcome, Reply, Verdict, recognize
from exchange.rules import RuleBook
from exchange.subjects import DocumentType
from nodes.cli import app
from nodes.ids import new_id
from nodes.trial import TrialExchange

SICHUAN, GUANGDONG = "510000", "440000"
HOUR = timedelta(hours=1)
TOKEN = bytes(36)


class Files(NamedTuple):
    """A receipt of Guangdong's and what it is about, as files; nodes need not run for that."""

    trust: Path
    receipt: Path
    evidence: Path
    other: Path
    signed: bytes
    found: receipts.Receipt


def key(exchange: TrialExchange, province: str) -> PrivateKey:
    folder = exchange.directory / province
    return PrivateKey.from_pem((folder / "attestation-key.pem").read_bytes(), None)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> TrialExchange:
    return TrialExchange(tmp_path_factory.mktemp("exchange"), (SICHUAN, GUANGDONG))


def attested(exchange: TrialExchange, now: datetime) -> bytes:
    sampled = now - 100 * HOUR
    attestation = Attestation(
        id=new_id(now),
        province=SICHUAN,
        token=TOKEN,
        fact=NucleicAcidTest(sampled, TestResult.NEGATIVE),
        issuer=Issuer("91510100MA61RHGX7A", "锦城医学检验所"),
        holder=Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21"),
        issued_at=now,
        expires_at=now + HOUR,
        data_as_of=sampled,
    )
    return attestations.sign(attestation, key(exchange, SICHUAN))


@pytest.fixture(scope="module")
def files(trial: TrialExchange, tmp_path_factory: pytest.TempPathFactory) -> Files:
    now = datetime.now(UTC).replace(microsecond=0)
    trust = trial.trust()
    evidence, other = attested(trial, now), attested(trial, now)
    decision = recognize(
        [Reply(SICHUAN, [evidence]), Reply(GUANGDONG, ())],
        tokens=[TOKEN],
        province=GUANGDONG,
        rules=RuleBook(trust.profile(GUANGDONG).rules),
        trust=trust,
        verifier=AttestationVerifier(),
        now=now,
    )
    assert decision.outcome is Outcome.NOT_RECOGNIZED
    found = receipts.of_decision(
        decision, id=new_id(now), province=GUANGDONG, now=now, salt=bytes(range(16))
    )
    signed = receipts.sign(found, key(trial, GUANGDONG))
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{name}.cwt" for name in ("receipt", "evidence", "other")]
    for path, data in zip(paths, (signed, evidence, other), strict=True):
        path.write_bytes(data)
    return Files(trial.directory / "trust", *paths, signed, found)


Verify = Callable[..., tuple[int, Any]]


@pytest.fixture
def verify(files: Files) -> Verify:
    runner = CliRunner()

    def run(*arguments: Any, form: str = "json", trust: Path | None = files.trust) -> Any:
        given = ["receipt", "verify", *map(str, arguments), "--output", form]
        if trust is not None:
            given += ["--trust", str(trust)]
        result = runner.invoke(app, given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if form == "pretty":
            return result.exit_code, result.stdout
        return result.exit_code, json.loads(result.stdout)

    return run


def test_a_receipt_is_verified_without_a_connection(verify: Verify, files: Files) -> None:
    code, document = verify(files.receipt)
    assert code == 0
    (checked,) = document["receipts"]
    assert checked["verified"]
    assert checked["rules_still_published"]
    shown = checked["receipt"]
    assert shown["receipt_id"] == str(files.found.id)
    assert (shown["province"], shown["subject"]) == (GUANGDONG, "recognition")
    assert (shown["outcome"], shown["colour"]) == ("NOT_RECOGNIZED", "UNSPECIFIED")
    assert shown["rules_digest"] == files.found.rules_digest.hex()
    assert [rule["rule_id"] for rule in shown["rules"]] == [each.rule for each in files.found.said]
    assert {answer["province"] for answer in shown["answers"]} == {SICHUAN, GUANGDONG}


def test_a_receipt_proves_which_evidence_was_looked_at(verify: Verify, files: Files) -> None:
    code, document = verify(files.receipt, "--evidence", files.evidence)
    assert code == 0
    assert document["receipts"][0]["evidence"] == [
        {
            "file": str(files.evidence),
            "named": True,
            "verdict": "NOT_RECOGNIZED_BY_RULE",
            "sent_by": SICHUAN,
        }
    ]


def test_evidence_that_a_receipt_does_not_name_is_told(verify: Verify, files: Files) -> None:
    both = ("--evidence", files.evidence, "--evidence", files.other)
    code, document = verify(files.receipt, *both)
    assert code == 3
    named = [each["named"] for each in document["receipts"][0]["evidence"]]
    assert named == [True, False]
    code, words = verify(files.receipt, *both, form="pretty")
    assert code == 3
    assert "回执已列明 the receipt names it" in words
    assert "回执未提及 the receipt does not name it" in words


def test_a_receipt_is_shown_in_both_languages(verify: Verify, files: Files) -> None:
    code, words = verify(files.receipt, form="pretty")
    assert code == 0
    for part in (
        "回执有效 the receipt holds",
        "广东省",
        "不认可 not recognised",
        "规则不认可 no rule accepts it",
        files.found.said[0].rule,
        "四川省",
        str(files.found.id),
    ):
        assert part in words


def test_a_changed_receipt_is_refused(verify: Verify, files: Files, tmp_path: Path) -> None:
    changed = tmp_path / "changed.cwt"
    changed.write_bytes(files.signed[:-1] + bytes([files.signed[-1] ^ 1]))
    code, document = verify(changed, "--evidence", files.evidence)
    assert code == 3
    (checked,) = document["receipts"]
    assert not checked["verified"]
    assert "receipt" not in checked
    assert checked["status"]["details"]
    assert checked["evidence"] == [{"file": str(files.evidence), "named": False}]
    code, words = verify(changed, form="pretty")
    assert code == 3
    assert "回执无效 the receipt does not hold" in words
    assert "验签失败" in words


def test_an_attestation_is_no_receipt(verify: Verify, files: Files) -> None:
    code, document = verify(files.evidence)
    assert code == 3
    assert not document["receipts"][0]["verified"]


def test_a_receipt_of_another_exchange_is_refused(
    verify: Verify, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = TrialExchange(tmp_path_factory.mktemp("other"), (SICHUAN, GUANGDONG))
    code, document = verify(files.receipt, trust=other.directory / "trust")
    assert code == 3
    assert not document["receipts"][0]["verified"]


def test_rules_that_were_changed_since_are_told(
    verify: Verify, files: Files, trial: TrialExchange, tmp_path: Path
) -> None:
    older = receipts.sign(replace(files.found, rules_digest=bytes(32)), key(trial, GUANGDONG))
    path = tmp_path / "older.cwt"
    path.write_bytes(older)
    code, document = verify(path)
    assert (code, document["receipts"][0]["rules_still_published"]) == (0, False)
    assert "规则此后已变更" in verify(path, form="pretty")[1]


def test_a_receipt_is_found_in_what_recognize_prints(
    verify: Verify, files: Files, tmp_path: Path
) -> None:
    evidence = {"attestation": {"signed": base64.b64encode(files.evidence.read_bytes()).decode()}}
    decision = {"receipt": base64.b64encode(files.signed).decode(), "evidence": [evidence]}
    printed = tmp_path / "decision.json"
    printed.write_text(json.dumps({"decision": decision}), encoding="utf-8")
    code, document = verify(printed, "--evidence", printed)
    assert code == 0
    assert document["receipts"][0]["evidence"][0]["named"]
    text = tmp_path / "receipt.txt"
    text.write_text(decision["receipt"], encoding="ascii")
    assert verify(text)[0] == 0


def test_a_code_is_evidence_as_its_text_or_a_picture(
    verify: Verify, files: Files, trial: TrialExchange, tmp_path: Path
) -> None:
    shown = b"\xd2\x84 what was shown, whatever it was"
    digest = hashlib.sha256(files.found.salt + shown).digest()
    found = replace(
        files.found,
        subject=Subject.HEALTH_CODE,
        evidence=(EvidenceDigest("", Verdict.EXPIRED, digest),),
        answers=(),
    )
    receipt, code = tmp_path / "receipt.cwt", tmp_path / "code.txt"
    receipt.write_bytes(receipts.sign(found, key(trial, GUANGDONG)))
    code.write_text(f"{hc1.to_text(shown)}\n", encoding="ascii")
    status, document = verify(receipt, "--evidence", code)
    assert status == 0
    assert document["receipts"][0]["evidence"][0]["verdict"] == "EXPIRED"
    picture = tmp_path / "code.png"
    picture.write_bytes(qr.png(hc1.to_text(shown)))
    status, document = verify(receipt, "--evidence", picture)
    assert status == 0
    assert document["receipts"][0]["evidence"][0]["named"]
    picture.write_bytes(qr.png("NO CODE"))
    with pytest.raises(Exception, match=r"--evidence: .*code\.png: no health code"):
        verify(receipt, "--evidence", picture)
    code.write_text("HC1:no base45", encoding="ascii")
    with pytest.raises(Exception, match=r"code\.txt"):
        verify(receipt, "--evidence", code)


@pytest.mark.parametrize("content", [b"", b"no receipt", b"{}", b'{"receipt": 1}'])
def test_a_file_without_a_receipt_is_an_error(
    verify: Verify, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "nothing"
    path.write_bytes(content)
    with pytest.raises(Exception, match="holds no receipt"):
        verify(path)


def test_without_a_trust_list_nothing_is_verified(verify: Verify, files: Files) -> None:
    with pytest.raises(Exception, match="client"):
        verify(files.receipt, trust=None)
