"""``tongxing recognize``: an app asks its own province's node (健康码应用)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import client, files, outfiles, output, prompts, shown
from nodes.cli.client import ClientOption
from nodes.cli.files import BadRow
from nodes.cli.output import Form, FormOption
from nodes.cli.rows import IgnoreColumnsOption, Teller, column_names

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from exchange.client import Client, DecisionMessage, Document, JudgedCode
    from exchange.v1.recognition_service_pb2 import Evidence, Remedy, RuleVerdict
    from exchange.v1.types_pb2 import HealthCodeStatus

__all__ = [
    "colour_words",
    "decided_statuses",
    "exit_code",
    "print_decision",
    "print_head",
    "print_remedies",
    "print_rules",
    "print_statuses",
    "recognize",
]

_AT_ONCE = 1000
"""Holders in one BatchRecognize, by the contract."""
_EXIT = {"RECOGNIZED": 0, "NOT_RECOGNIZED": 3, "INDETERMINATE": 4}
_STYLES = {
    "GREEN": "bold white on green",
    "YELLOW": "bold black on yellow",
    "RED": "bold white on red",
}
_WHY = ("local_status", "reason", "legal_basis", "assigned_by", "guidance")
"""What a status says of its colour."""
_GOOD = frozenset({"ACCEPTED", "ANSWERED", "CACHED", "NO_RECORD"})


class Purpose(StrEnum):
    """Why the data is asked for."""

    ENTRY_CHECK = "ENTRY_CHECK"
    TRAVEL_PLANNING = "TRAVEL_PLANNING"
    HOLDER_ACCESS = "HOLDER_ACCESS"

    @property
    def number(self) -> Any:
        """As the contract has it."""
        from exchange.v1 import types_pb2

        return types_pb2.Purpose.Value(f"PURPOSE_{self}")


def recognize(
    document_type: Annotated[
        str, typer.Option(help="RESIDENT_ID, PASSPORT …, or in Chinese. 证件类型。")
    ] = "RESIDENT_ID",
    document_number: Annotated[
        str | None,
        typer.Option(help="Asked for if left out; - for standard input. 证件号码。"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="CSV with document_type and document_number: many holders. 批量文件。"),
    ] = None,
    ignore_columns: IgnoreColumnsOption = "",
    purpose: Annotated[
        Purpose | None,
        typer.Option(
            case_sensitive=False,
            help="Why it is asked for; entry_check, or travel_planning for a journey. 查询目的。",
        ),
    ] = None,
    destination: Annotated[
        str,
        typer.Option(help="By which other province's rules: its six digits. 目的地。"),
    ] = "",
    arrival: Annotated[
        str | None,
        typer.Option(help="As of when: RFC 3339; without offset, China's. 到达时间。"),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            help="Ask for a receipt, kept in this new file; with --file, in a folder. 回执文件。"
        ),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Ask whether the province honours a holder (互认查询).

    Before a journey: --destination 440000 --arrival "2022-08-03 12:00" (出行前查询).

    The exit code is 0 for RECOGNIZED 认可, 3 for NOT_RECOGNIZED 不认可, 4 for INDETERMINATE
    无法判定, 1 for an error; with --file the highest of all holders', or 1 if a row was refused.
    """
    if file is not None:
        _goes_without(document_number=document_number, destination=destination, arrival=arrival)
        batch = _Batch(file, purpose or Purpose.ENTRY_CHECK, form, receipt)
        raise typer.Exit(batch.run(client_file, column_names(ignore_columns)))
    at = files.time_from_text(arrival, field="--arrival") if arrival else None
    outfiles.check(receipt, "--receipt", replace=False)
    usual = Purpose.TRAVEL_PLANNING if destination or at else Purpose.ENTRY_CHECK
    number = (purpose or usual).number
    client.load(client_file)  # before somebody is asked for the number
    document = prompts.document(document_type, document_number)

    def ask(node: Client) -> Awaitable[DecisionMessage]:
        return node.recognize(
            document,
            number,
            destination=destination,
            arrival=at,
            receipt=receipt is not None,
        )

    try:
        decision = client.call(client_file, ask)
    except TongxingError as error:
        error.field = files.column_of(error.field.removeprefix("document."))
        raise
    if receipt is not None:
        outfiles.write(receipt, decision.receipt, "--receipt", replace=False)
    if form is Form.JSON:
        output.print_json({"decision": output.to_json(decision)})
    else:
        print_decision(decision)
        if receipt is not None:
            print(f"回执 receipt: {receipt}")
    raise typer.Exit(exit_code(decision))


def _goes_without(**given: str | None) -> None:
    for name, value in given.items():
        if value:
            raise InvalidFieldError(
                f"goes without --{name.replace('_', '-')}",
                field="--file",
                remedy="give one or the other",
            )


def exit_code(decision: DecisionMessage | JudgedCode) -> int:
    """The exit code for a decision; what this version does not know is never 0."""
    return _EXIT.get(_outcome(decision), 4)


def _outcome(decision: DecisionMessage | JudgedCode) -> str:
    from exchange.v1 import recognition_service_pb2 as pb

    return output.enum_name(pb.Outcome, decision.outcome)


# --- many -----------------------------------------------------------------------------------


class _Batch:
    """A file of holders, asked about in chunks; each answer is printed as soon as it is there."""

    def __init__(self, file: Path, purpose: Purpose, form: Form, receipts: Path | None) -> None:
        self._file = file
        self._teller = Teller(file)
        self._purpose = purpose.number
        self._receipts = receipts
        self._form = form
        self._outcomes: Counter[str] = Counter()
        self._worst = 0
        self._refused = 0
        self._items: list[dict[str, Any]] = []

    def run(self, client_file: Path | None, ignore: list[str]) -> int:
        """Ask about all; the exit code.

        :raises TongxingError: the file, the client's configuration or the node is unusable.
        """
        rows = files.documents(self._file, ignore=ignore)
        chunk = list(itertools.islice(rows, _AT_ONCE))
        if not chunk:
            raise InvalidFieldError("holds no record", field=self._file.name)

        if self._receipts is not None:
            outfiles.check_folder(self._receipts, "--receipt", of="*.cwt")

        async def ask(node: Client) -> None:
            nonlocal chunk
            while chunk:
                await self._ask(node, chunk)
                chunk = list(itertools.islice(rows, _AT_ONCE))

        client.call(client_file, ask)
        if self._form is Form.JSON:
            output.print_json({"items": self._items})
        else:
            counts = ", ".join(
                f"{name} {count:,}" for name, count in sorted(self._outcomes.items())
            )
            print(f"合计 in all: {counts or 'none'}; 未通过 refused {self._refused:,}")
        return 1 if self._refused else self._worst

    async def _ask(self, node: Client, chunk: list[tuple[int, Document] | BadRow]) -> None:
        documents = [row[1] for row in chunk if not isinstance(row, BadRow)]
        wants = self._receipts is not None
        answers: Iterator[DecisionMessage | TongxingError] = iter(
            await node.recognize_all(documents, self._purpose, receipt=wants) if documents else ()
        )
        for row in chunk:
            if isinstance(row, BadRow):
                error = InvalidFieldError(row.message, field=row.field, remedy=row.remedy)
                self._refuse(row.line, error)
                continue
            answer = next(answers)
            if isinstance(answer, TongxingError):
                answer.field = files.column_of(answer.field)
                self._refuse(row[0], answer)
            else:
                self._decided(row[0], answer)

    def _refuse(self, line: int, error: TongxingError) -> None:
        self._refused += 1
        output.print_line(self._teller.words(line, error))
        if self._form is Form.JSON:
            self._items.append({"line": line, "status": output.error_document(error)})

    def _decided(self, line: int, decision: DecisionMessage) -> None:
        outcome = _outcome(decision)
        self._outcomes[outcome] += 1
        self._worst = max(self._worst, exit_code(decision))
        if self._receipts is not None:
            kept = self._receipts / f"{line}.cwt"
            outfiles.write(kept, decision.receipt, "--receipt", replace=False)
        if self._form is Form.JSON:
            self._items.append({"line": line, "decision": output.to_json(decision)})
        else:
            answer = f"{outcome} {colour_words(decision.colour)}"
            reason = output.clean(f"{decision.reason.zh} {decision.reason.en}")
            print(f"line {line}: {answer}: {reason}")


# --- one ------------------------------------------------------------------------------------


def print_decision(decision: DecisionMessage) -> None:
    """Print a decision with all that it rests on."""
    from exchange.recognition import AnswerState
    from exchange.v1 import recognition_service_pb2 as pb

    graver = _graver_rules(decision.rules)
    print_head(decision, decision.decide_time)
    print_statuses(decided_statuses(decision))
    print_remedies(decision.remedies)
    print_rules(decision.rules)
    if decision.evidence:
        output.print_words(
            "依据 Evidence",
            ("", "kind", "issuer", "holder", "sampled", "expires", "verdict"),
            [(str(at), *_evidence(piece, graver)) for at, piece in enumerate(decision.evidence, 1)],
        )
        for at, piece in enumerate(decision.evidence, 1):
            if identifier := piece.attestation.attestation_id:
                output.console().print(output.plain(f"  {at} 编号 id {identifier}"))
    output.print_words(
        "各地答复 Answers",
        ("province", "answer", "sent", "as of", "calls"),
        [
            (
                output.province_name(answer.province),
                _judged(AnswerState, output.enum_name(pb.AnswerState, answer.state)),
                str(answer.attestations),
                output.moment(answer.as_of_time) if answer.HasField("as_of_time") else "",
                "熔断 circuit open" if answer.circuit_open else str(answer.calls or ""),
            )
            for answer in decision.answers
        ],
    )


def _graver_rules(rules: Sequence[RuleVerdict]) -> dict[str, RuleVerdict]:
    """By an attestation's id, the first rule by which it gives a yellow or a red."""
    from exchange.v1 import types_pb2

    return {
        identifier: rule
        for rule in reversed(rules)
        if rule.satisfied and rule.colour in (types_pb2.COLOUR_YELLOW, types_pb2.COLOUR_RED)
        for identifier in rule.attestation_ids
    }


def decided_statuses(decision: DecisionMessage) -> list[tuple[HealthCodeStatus, str]]:
    """The colours that somebody assigned and that give a yellow or a red here, and where."""
    graver = _graver_rules(decision.rules)
    return [
        (piece.attestation.fact.health_code_status, piece.attestation.province)
        for piece in decision.evidence
        if piece.attestation.fact.HasField("health_code_status")
        and piece.attestation.attestation_id in graver
    ]


def print_head(said: DecisionMessage | JudgedCode, at: Timestamp) -> None:
    """Print the colour, the outcome and the reason, and by whose rules and when."""
    from exchange.recognition import Outcome
    from exchange.v1 import types_pb2

    console = output.console()
    name = _outcome(said)
    colour = output.enum_name(types_pb2.Colour, said.colour)
    style = _STYLES.get(colour, "bold reverse")
    console.print(output.plain(f" {colour_words(said.colour)} ", style), end=" ")
    console.print(output.plain(f"{name} {_words(Outcome, name)}", "bold"))
    console.print(output.plain(said.reason.zh))
    console.print(output.plain(said.reason.en))
    console.print(
        output.plain(
            f"{output.province_name(said.province)}, {output.moment(at)}, "
            f"trust list {said.trust_version}",
            "dim",
        )
    )


def print_statuses(statuses: Sequence[tuple[HealthCodeStatus, str]]) -> None:
    """Print why a colour was assigned, on what basis, by whom, and what the holder can do.

    :param statuses: each with the province that says so.
    """
    for status, province in statuses:
        where, at = output.province_name(province), output.moment(status.sample_time)
        said = [(name, text) for name in _WHY if (text := getattr(status, name))]
        output.print_fields(
            [
                ("赋码 assigned", f"{colour_words(status.colour)}, {where}, {at}"),
                *((f"{files.COLUMNS[n][0]} {n.replace('_', ' ')}", text) for n, text in said),
            ]
        )


def print_rules(rules: Sequence[RuleVerdict]) -> None:
    """Print what each rule said, if there are any."""
    if not rules:
        return
    rows = [
        (
            rule.rule_id,
            colour_words(rule.colour),
            "无法计算 failed" if rule.failed else "是 yes" if rule.satisfied else "否 no",
            output.lines((rule.reason.zh, rule.reason.en)),
        )
        for rule in rules
    ]
    output.print_words("互认规则 Rules", ("rule", "colour", "holds", "asks for"), rows)


def print_remedies(remedies: Sequence[Remedy]) -> None:
    """Print what would make a refusal a green, if anything is known."""
    if not remedies:
        return
    console = output.console()
    console.print(output.plain("怎样才能变绿码 What would make it green", "bold"))
    for remedy in remedies:
        console.print(output.plain(f"  · {remedy.text.zh}"))
        console.print(output.plain(f"    {remedy.text.en}"))


def _evidence(piece: Evidence, graver: Mapping[str, RuleVerdict]) -> tuple[Any, ...]:
    from exchange.facts import Kind
    from exchange.recognition import Verdict
    from exchange.v1 import recognition_service_pb2 as pb

    verdict = _judged(Verdict, output.enum_name(pb.Verdict, piece.verdict))
    seen = piece.attestation
    if rule := graver.get(seen.attestation_id):
        # Of such a piece the contract's verdict says that no rule accepts it, which reads wrong.
        words = f"满足规则 satisfies rule {rule.rule_id}: {colour_words(rule.colour)}"
        verdict = output.plain(words, "red")
    kind = seen.fact.WhichOneof("kind")
    if kind is None:
        return "", output.province_name(piece.sent_by), "", "", "", verdict
    what = Kind(kind.upper()).text
    return (
        output.lines((what.zh, what.en, *shown.vaccination_words(seen.fact))),
        output.lines((seen.issuer.name, output.province_name(seen.province))),
        output.lines((seen.holder.name, seen.holder.document_number)),
        output.moment(getattr(seen.fact, kind).sample_time),
        output.moment(seen.expire_time),
        verdict,
    )


def colour_words(number: int) -> str:
    """A colour of the contract in both languages."""
    from exchange.facts import Colour
    from exchange.v1 import types_pb2

    name = output.enum_name(types_pb2.Colour, number)
    return _words(Colour, name) or name


def _judged(terms: type[StrEnum], name: str) -> Any:
    return output.plain(f"{name} {_words(terms, name)}", "green" if name in _GOOD else "red")


def _words(terms: type[StrEnum], name: str) -> str:
    """A term in both languages; empty where this version does not know it."""
    member: Any = terms.__members__.get(name)
    return f"{member.text.zh} {member.text.en}" if member else ""
