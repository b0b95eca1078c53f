"""``tongxing code``: show a health code (亮码), and judge one that is shown (验码)."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from exchange.errors import (
    InvalidFieldError,
    MalformedObjectError,
    NoColourError,
    TongxingError,
)
from nodes.cli import (
    client,
    files,
    given,
    inspecting,
    offline,
    outfiles,
    output,
    prompts,
    recognize,
)
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption
from nodes.cli.shown import vaccination_words

if TYPE_CHECKING:
    from exchange.client import Client, DecisionMessage, IssuedCode, JudgedCode
    from exchange.codes.hcert import ForeignKeys
    from exchange.rules import RuleBook
    from exchange.statuslist import Status, StatusList, StatusReference
    from exchange.trust.trustlist import TrustList
    from exchange.v1.recognition_service_pb2 import HealthCode
    from nodes.cli.offline import Unchecked

__all__ = ["code"]

_SHOWN: Final = frozenset({"text", "signed"})
"""The request's fields that hold the code."""
_UNCHECKED: Final = "revocation_unchecked"
"""What JSON adds to the contract's answer: by province, what no list at hand tells."""
_LISTS: Final = "status_lists"
"""And from when the lists at hand are that tell something of the code."""
_AS_ISSUED: Final = (
    "健康码只反映签发时的状态，当前状态用 recognize 查询 "
    "a code shows the state at its issue time: recognize asks anew"
)

code = typer.Typer(no_args_is_help=True, help="Health codes (健康码).")

NonceOption = Annotated[
    str,
    typer.Option(
        metavar="HEX", help="What the gate wants to see in the code, 8 to 32 bytes. 随机数。"
    ),
]


# --- show -----------------------------------------------------------------------------------


@code.command(short_help="Issue a health code and draw it (亮码).")
def show(
    document_type: Annotated[
        str, typer.Option(help="RESIDENT_ID, PASSPORT …, or in Chinese. 证件类型。")
    ] = "RESIDENT_ID",
    document_number: Annotated[
        str | None,
        typer.Option(help="Asked for if left out; - for standard input. 证件号码。"),
    ] = None,
    destination: Annotated[
        str,
        typer.Option(help="Where it is to be shown: what satisfies it goes in. 目的地。"),
    ] = "",
    nonce: NonceOption = "",
    png: Annotated[
        Path | None, typer.Option(help="Draw it into this file; one that is there goes. PNG 文件。")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Draw it into this file; one that is there goes. SVG 文件。")
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Issue a health code and draw it (亮码).

    It is good for some minutes: a picture of it that is passed on is soon worth nothing. The exit
    code is 0 for green, 3 for yellow or red, 1 if there is no code.
    """
    from exchange.client import Purpose
    from exchange.v1 import types_pb2

    wanted = _nonce(nonce)
    for path, option in ((png, "--png"), (svg, "--svg")):
        outfiles.check(path, option, replace=True)
    client.load(client_file)  # before anybody types a number
    document = prompts.document(document_type, document_number)
    purpose = Purpose.PURPOSE_CODE_DISPLAY

    async def issue(node: Client) -> IssuedCode | _NoCode:
        try:
            return await node.issue_health_code(
                document, purpose, destination=destination, nonce=wanted
            )
        except NoColourError as error:
            # The refusal says that there is no code; what would help stands in the decision.
            with contextlib.suppress(TongxingError):
                return _NoCode(error, await node.recognize(document, purpose))
            raise

    try:
        issued = client.call(client_file, issue)
    except TongxingError as error:
        error.field = files.column_of(error.field.removeprefix("document."))
        raise
    if isinstance(issued, _NoCode):
        issued.print(form)
        raise typer.Exit(1)
    shown = issued.health_code
    drawn = _draw(shown.text, png, svg)
    if form is Form.JSON:
        output.print_json(output.to_json(issued))
    else:
        _print_issued(issued, drawn)
    raise typer.Exit(0 if shown.colour == types_pb2.COLOUR_GREEN else 3)


@dataclass(frozen=True, slots=True)
class _NoCode:
    """That no rule gives a colour, and the decision that says what would."""

    error: NoColourError
    decision: DecisionMessage

    def print(self, form: Form) -> None:
        """Print the error as any other, and the decision with it."""
        document = output.error_document(self.error)
        self.error.remedy = ""  # the reason, and in English alone
        output.print_error(self.error, Form.PRETTY)
        if form is Form.JSON:
            output.print_json({"error": document, "decision": output.to_json(self.decision)})
        else:
            recognize.print_head(self.decision, self.decision.decide_time)
            recognize.print_remedies(self.decision.remedies)


def _nonce(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b"?"
    if text and not 8 <= len(found) <= 32:
        raise InvalidFieldError("not 8 to 32 bytes in hexadecimal", field="--nonce")
    return found


def _draw(text: str, png: Path | None, svg: Path | None) -> list[Path]:
    from exchange.codes import qr

    if png is not None:
        outfiles.write(png, qr.png(text), "--png", replace=True)
    if svg is not None:
        outfiles.write(svg, qr.svg(text).encode(), "--svg", replace=True)
    return [path for path in (png, svg) if path is not None]


def _print_issued(issued: IssuedCode, drawn: list[Path]) -> None:
    shown = issued.health_code
    recognize.print_head(issued.decision, issued.decision.decide_time)
    recognize.print_statuses(recognize.decided_statuses(issued.decision))
    recognize.print_remedies(issued.decision.remedies)
    _print_blocks(shown.text)
    output.print_fields(_rows(shown))
    print(shown.text)
    for path in drawn:
        print(f"已画 drawn: {path}")


def _print_blocks(text: str) -> None:
    from exchange.codes import qr

    on_terminal = sys.stdout.isatty()
    try:
        needed = qr.columns(text)
        if on_terminal and needed > (columns := shutil.get_terminal_size().columns):
            print(
                "终端太窄，请用 --png the terminal is too narrow for the code, "
                f"{columns} columns of {needed}: draw it with --png FILE"
            )
            return
        drawn = qr.blocks(text, ansi=on_terminal)
    except InvalidFieldError as error:  # a signature too long to be drawn; the text will do
        output.print_line(str(error))
    else:
        print(drawn, end="")


def _rows(shown: HealthCode) -> list[tuple[str, str]]:
    from exchange.facts import Kind

    rows = [
        ("编号 id", shown.health_code_id),
        ("发码地 issued by", output.province_name(shown.province)),
        ("持码人 holder", f"{shown.holder.name} {shown.holder.document_number}"),
        ("签发 issued", output.moment(shown.issue_time)),
        ("有效期至 expires", output.moment(shown.expire_time)),
    ]
    if shown.colour:
        rows.insert(1, ("码色 colour", recognize.colour_words(shown.colour)))
    if shown.HasField("reason"):
        rows.append(("赋码原因 reason", f"{shown.reason.zh} {shown.reason.en}"))
    for piece in shown.evidence:
        which = piece.fact.WhichOneof("kind")
        if which is not None:
            at = output.moment(getattr(piece.fact, which).sample_time)
            kind = Kind(which.upper()).text
            said = (at, output.province_name(piece.province), *vaccination_words(piece.fact))
            rows.append((f"{kind.zh} {kind.en}", " ".join(said)))
    return rows


# --- verify ---------------------------------------------------------------------------------


@code.command(short_help="Judge a code that is shown (验码).")
def verify(
    shown: Annotated[
        str,
        typer.Argument(
            metavar="CODE",
            help="The code's text, a file with it, a picture of it, its signed bytes, or what show "
            "--output json prints; - for standard input. 健康码的文本、文件或图片。",
            show_default=False,
        ),
    ],
    nonce: NonceOption = "",
    receipt: Annotated[
        Path | None,
        typer.Option(help="Ask for a receipt, and keep it in this new file. 回执文件。"),
    ] = None,
    without: Annotated[
        bool,
        typer.Option("--offline", help="Without a node, by what is at hand. 离线核验。"),
    ] = False,
    rules: Annotated[
        str,
        typer.Option(help="Offline: by which province's rules; else the client's. 按哪地规则。"),
    ] = "",
    trust: Annotated[
        Path | None,
        typer.Option(help="Offline: the trust list's folder; else that of --client. 信任列表。"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="The pinned root; else the folder's 1.root.json. 预置的根文件。"),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option("--status-lists", help="Offline: status lists at hand. 状态列表文件夹。"),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(help="Offline: foreign issuers' certificates. 境外签发者证书文件夹。"),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Judge a health code, or a foreign certificate, that is shown (验码).

    A green at home is necessary, and the rules here must hold too. Whether it is the person who
    shows it, is for you to see. The exit code is 0 for RECOGNIZED 认可, 3 for NOT_RECOGNIZED
    不认可, 4 for INDETERMINATE 无法判定, 1 for an error or what is no code at all.

    With --offline a green may stand though the status lists at hand do not tell whether what it
    rests on was revoked, for a code lives some minutes only; it is said, by province (未核对撤销).
    """
    wanted = _nonce(nonce)
    unchecked: Sequence[Unchecked] = ()
    lists_of: Sequence[StatusList] = ()
    if without:
        if receipt is not None:
            raise InvalidFieldError("only a node signs a receipt", field="--receipt")
        verified = offline.trust_list(trust, root, client_file)
        book = _rules(rules, verified, client_file)
        judged, unchecked, lists_of = _judge_offline(
            given.code(shown), wanted, verified, book, lists, certificates
        )
    else:
        _only_offline(
            rules=rules, trust=trust, root=root, status_lists=lists, certificates=certificates
        )
        outfiles.check(receipt, "--receipt", replace=False)
        judged = _judge_online(given.code(shown), wanted, receipt, client_file)
    if form is Form.JSON:
        more = {
            _UNCHECKED: [each.document() for each in unchecked],
            _LISTS: [offline.list_document(each) for each in lists_of],
        }
        output.print_json({**output.to_json(judged), **(more if without else {})})
    else:
        _print_judged(judged, unchecked, lists_of)
        if receipt is not None:
            print(f"回执 receipt: {receipt}")
    raise typer.Exit(recognize.exit_code(judged))


def _only_offline(**options: object) -> None:
    for name, value in options.items():
        if value:
            raise InvalidFieldError(
                "has a meaning only with --offline",
                field=f"--{name.replace('_', '-')}",
                remedy="add --offline, or leave it out: a node judges by what it has itself",
            )


def _judge_online(
    code: str | bytes, nonce: bytes, receipt: Path | None, client_file: Path | None
) -> JudgedCode:
    from exchange.client import Purpose

    def judge(node: Client) -> Awaitable[JudgedCode]:
        purpose = Purpose.PURPOSE_ENTRY_CHECK
        wants = receipt is not None
        return node.verify_health_code(code, purpose, nonce=nonce, receipt=wants)

    try:
        judged = client.call(client_file, judge)
    except MalformedObjectError as error:
        raise (_no_code(error) if error.field in _SHOWN else error) from None
    if receipt is not None:
        outfiles.write(receipt, judged.receipt, "--receipt", replace=False)
    return judged


def _no_code(error: MalformedObjectError) -> MalformedObjectError:
    return MalformedObjectError(
        f"no health code: {error.message}",
        field=given.FIELD,
        remedy="tongxing code inspect shows how far it reads",
    )


def _rules(code: str, trust: TrustList, client_file: Path | None) -> tuple[str, RuleBook]:
    from exchange.rules import RuleBook

    province = code
    if not province and client_file is not None:
        province = client.load(client_file).province
    if not province:
        raise InvalidFieldError(
            "is missing", field="--rules", remedy="give the province's six digits, or --client"
        )
    try:
        return province, RuleBook(trust.profile(province).rules)
    except TongxingError as error:
        raise error.at("--rules") from None


def _judge_offline(
    code: str | bytes,
    nonce: bytes,
    trust: TrustList,
    by: tuple[str, RuleBook],
    lists: Path | None,
    certificates: Path | None,
) -> tuple[JudgedCode, list[Unchecked], list[StatusList]]:
    from exchange.codes import views
    from exchange.codes.healthcode import HealthCodeVerifier
    from exchange.codes.judging import judge

    now = datetime.now(UTC)
    at_hand = offline.lists_at_hand(lists, trust, now)

    def status(place: StatusReference) -> Status:
        return at_hand.status(place, trust, now)

    province, rules = by
    foreign = _foreign(certificates)
    try:
        judgement = judge(
            code,
            province=province,
            rules=rules,
            trust=trust,
            verifier=HealthCodeVerifier(),
            now=now,
            status=status,
            foreign=foreign,
            nonce=nonce,
        )
    except MalformedObjectError as error:
        raise _no_code(error) from None
    judged = views.judgement_to_proto(judgement, code)
    looked_in = offline.looked_in(judgement.code, at_hand)
    return judged, offline.unchecked(judgement.code, status), looked_in


def _foreign(folder: Path | None) -> ForeignKeys:
    from exchange.codes.hcert import ForeignKeys

    if folder is None:
        return ForeignKeys()
    if not folder.is_dir():
        raise InvalidFieldError(f"{folder}: not a folder", field="--certificates")
    return ForeignKeys.load(path.read_bytes() for path in sorted(folder.iterdir()))


def _print_judged(
    judged: JudgedCode, unchecked: Sequence[Unchecked], lists: Sequence[StatusList]
) -> None:
    from exchange.v1 import types_pb2

    recognize.print_head(judged, judged.verify_time)
    if judged.colour == types_pb2.COLOUR_GREEN and judged.health_code.rule_id:
        print(_AS_ISSUED)
    for each in lists:
        where, age = output.province_name(each.province), offline.list_age(each, datetime.now(UTC))
        print(f"状态列表签发于 status list of: {where}, {age}")
    _print_unchecked(unchecked)
    recognize.print_statuses(
        [
            (piece.fact.health_code_status, piece.province)
            for piece in judged.health_code.evidence
            if piece.fact.HasField("health_code_status")
            and piece.fact.health_code_status.colour != types_pb2.COLOUR_GREEN
        ]
    )
    recognize.print_remedies(judged.remedies)
    if judged.health_code.health_code_id:
        output.print_fields(_rows(judged.health_code))
    recognize.print_rules(judged.rules)


def _print_unchecked(unchecked: Sequence[Unchecked]) -> None:
    console = output.console()
    for each in unchecked:
        where, why = output.province_name(each.province), each.reason
        words = f"未核对撤销 revocation not checked: {where}: {why.zh} {why.en}"
        console.print(output.plain(words, "bold yellow"))
        console.print(output.plain(f"  · {each.remedy.zh}"))
        console.print(output.plain(f"    {each.remedy.en}"))


code.command("inspect", short_help="Look into a code, layer by layer (检视).")(inspecting.inspect)
