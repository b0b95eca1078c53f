"""``tongxing receipt verify``: what a receipt (回执) proves, without a connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import offline, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.receipts import EvidenceDigest, Receipt
    from exchange.rules import Rule
    from exchange.trust.trustlist import TrustList

__all__ = ["receipt"]

receipt = typer.Typer(no_args_is_help=True, help="Receipts of decisions (回执).")


@receipt.callback()
def _only() -> None:
    """Receipts of decisions (回执)."""  # with one command alone, Typer would make it the noun


@receipt.command(short_help="Check a receipt without a connection (核验回执).")
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="The receipt: CBOR, base64, or the JSON that recognize --output json prints; - "
            "for standard input. 回执文件。",
            show_default=False,
        ),
    ],
    evidence: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="An attestation or a code, in any of these forms, as HC1 text or a picture: is it "
            "named? May be given several times. 健康证明或健康码。",
            show_default=False,
        ),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="The trust list's folder; else that of --client. 信任列表文件夹。"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="The pinned root; else the folder's 1.root.json. 预置的根文件。"),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Check a receipt without a connection, and show what was decided (核验回执).

    A receipt names no holder. Only who has the attestation or the code can show, by --evidence,
    that the decision looked at it. The exit code is 0 only if the receipt holds and names all
    evidence that is given, 3 if not, 1 for an error.
    """
    signed = offline.read_signed(file, "receipt")
    given = [(str(path), each) for path in evidence or () for each in _read_evidence(path)]
    verified = offline.trust_list(trust, root, client_file)
    now = datetime.now(UTC)
    checked = [_check(each, given, verified, now) for each in signed]
    if form is Form.JSON:
        output.print_json({"receipts": [each.document() for each in checked]})
    else:
        for each in checked:
            _print(each)
    holds = all(each.error is None for each in checked)
    pieces = zip(*(each.evidence for each in checked), strict=True)
    named = all(any(found is not None for _, found in piece) for piece in pieces)
    raise typer.Exit(0 if holds and named else 3)


def _read_evidence(path: Path) -> list[bytes]:
    try:
        return offline.read_evidence(path)
    except InvalidFieldError as error:
        error.field = "--evidence"
        raise


# --- checking -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Checked:
    """A receipt, or why it is none; of each piece of evidence given, as what it is named."""

    receipt: Receipt | None
    error: TongxingError | None
    evidence: list[tuple[str, EvidenceDigest | None]]
    rules: dict[str, Rule]
    """The rules of the receipt by id, if they are still those that the province publishes."""

    def document(self) -> dict[str, Any]:
        """It in JSON."""
        view: dict[str, Any] = {"verified": self.error is None}
        if self.error is not None:
            view["status"] = output.error_document(self.error)
        if self.receipt is not None:
            view["receipt"] = _document(self.receipt)
            view["rules_still_published"] = bool(self.rules)
        view["evidence"] = [
            {"file": source, "named": piece is not None}
            | ({} if piece is None else {"verdict": str(piece.verdict), "sent_by": piece.province})
            for source, piece in self.evidence
        ]
        return view


def _check(
    signed: bytes, given: list[tuple[str, bytes]], trust: TrustList, now: datetime
) -> _Checked:
    from exchange import receipts

    try:
        found = receipts.verify(signed, trust, now)
    except TongxingError as error:
        return _Checked(None, error, [(source, None) for source, _ in given], {})
    named = [(source, receipts.named_as(found, each)) for source, each in given]
    return _Checked(found, None, named, _rules(found, trust))


def _rules(found: Receipt, trust: TrustList) -> dict[str, Rule]:
    """The rules by which it was decided, where the trust list at hand still has them."""
    from exchange.rules import RuleBook

    try:
        book = RuleBook(trust.profile(found.province).rules)
    except TongxingError:
        return {}
    return {rule.id: rule for rule in book.rules} if book.digest == found.rules_digest else {}


def _document(found: Receipt) -> dict[str, Any]:
    return {
        "receipt_id": str(found.id),
        "province": found.province,
        "subject": str(found.subject),
        "outcome": str(found.outcome),
        "colour": str(found.colour),
        "verdict": str(found.verdict),
        "decide_time": f"{found.decided_at:%Y-%m-%dT%H:%M:%SZ}",
        "issue_time": f"{found.issued_at:%Y-%m-%dT%H:%M:%SZ}",
        "rules_digest": found.rules_digest.hex(),
        "trust_version": found.trust_version,
        "rules": [
            {"rule_id": each.rule, "satisfied": each.satisfied, "failed": each.failed}
            for each in found.said
        ],
        "evidence": [
            {"sent_by": each.province, "verdict": str(each.verdict), "digest": each.digest.hex()}
            for each in found.evidence
        ],
        "evidence_omitted": found.omitted,
        "answers": [
            {"province": each.province, "state": str(each.state)} for each in found.answers
        ],
        "salt": found.salt.hex(),
    }


# --- showing --------------------------------------------------------------------------------


def _print(checked: _Checked) -> None:
    console = output.console()
    if checked.receipt is None:
        error = checked.error
        console.print(output.plain(" 回执无效 the receipt does not hold ", "bold white on red"))
        console.print(output.plain("" if error is None else f"{error.zh} {error}"))
        return
    found = checked.receipt
    console.print(output.plain(" 回执有效 the receipt holds ", "bold white on green"))
    output.print_fields(_rows(found))
    if found.said:
        _print_rules(checked)
    _print_evidence(found)
    if found.answers:
        rows = (
            (output.province_name(each.province), f"{each.state} {each.state.text.zh}")
            for each in found.answers
        )
        console.print(output.table("各地答复 Answers", ("province", "answer"), rows))
    for source, piece in checked.evidence:
        if piece is None:
            words, style = "回执未提及 the receipt does not name it", "bold red"
        else:
            verdict = f"{piece.verdict} {piece.verdict.text.zh} {piece.verdict.text.en}"
            words, style = f"回执已列明 the receipt names it: {verdict}", "green"
        console.print(output.plain(f"{source}: {words}", style))


def _rows(found: Receipt) -> list[tuple[str, str]]:
    outcome, colour, verdict = found.outcome.text, found.colour.text, found.verdict.text
    return [
        ("编号 id", str(found.id)),
        ("决定地 decided by", output.province_name(found.province)),
        ("事项 of", f"{found.subject.text.zh} {found.subject.text.en}"),
        ("结论 outcome", f"{found.outcome} {outcome.zh} {outcome.en}"),
        ("码色 colour", f"{found.colour} {colour.zh} {colour.en}"),
        ("验码结果 verdict", f"{found.verdict} {verdict.zh} {verdict.en}"),
        ("时间 decided", output.moment(found.decided_at)),
        ("签发 signed", output.moment(found.issued_at)),
        ("信任列表 trust list", str(found.trust_version)),
        ("规则版本 rules", found.rules_digest.hex()),
    ]


def _print_rules(checked: _Checked) -> None:
    if checked.receipt is None:
        return
    rows = (
        (
            each.rule,
            "无法计算 failed" if each.failed else "是 yes" if each.satisfied else "否 no",
            output.lines(checked.rules[each.rule].reason) if each.rule in checked.rules else "",
        )
        for each in checked.receipt.said
    )
    columns = ("rule", "holds", "asks for")
    output.console().print(output.table("互认规则 Rules", columns, rows))
    if not checked.rules:
        words = "规则此后已变更 the province publishes other rules than these now"
        output.console().print(output.plain(words, "dim"))


def _print_evidence(found: Receipt) -> None:
    if not found.evidence:
        return
    rows = [
        (
            output.province_name(each.province),
            f"{each.verdict} {each.verdict.text.zh}",
            each.digest.hex()[:16],
        )
        for each in found.evidence
    ]
    if found.omitted:
        rows.append(("", f"另有 {found.omitted} 项未列 and {found.omitted} more", ""))
    columns = ("from", "verdict", "digest")
    output.console().print(output.table("依据 Evidence", columns, rows))
