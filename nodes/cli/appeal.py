"""``tongxing appeal``: holders contest through their app, and issuers and admins answer (申诉)."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from exchange.errors import DeadlineError, InvalidFieldError, TongxingError
from nodes.cli import client, files, output, prompts
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client.appeals import AppealMessage

__all__ = ["appeal"]

appeal = typer.Typer(no_args_is_help=True, help="Appeals against what is said (申诉).")

Id = Annotated[UUID, typer.Argument(help="The appeal's id. 申诉编号。")]
TypeOption = Annotated[str, typer.Option(help="RESIDENT_ID, PASSPORT …, or in Chinese. 证件类型。")]
NumberOption = Annotated[
    str | None,
    typer.Option(help="Asked for if left out; - for standard input. 证件号码。"),
]


_UNCHECKED = "未核对 not checked: the access log does not tell whose decision it was"


class _Resolution(StrEnum):
    """The answer in one word."""

    CORRECTED = "CORRECTED"
    REVOKED = "REVOKED"
    UPHELD = "UPHELD"
    REJECTED = "REJECTED"


@appeal.command()
def file(
    statement: Annotated[
        str, typer.Option(help="What the holder says; no identity number. 申诉理由。")
    ],
    attestation: Annotated[
        str,
        typer.Option(
            metavar="PROVINCE/ID",
            help="The contested attestation: 510000/0190… 被申诉的证明。",
            show_default=False,
        ),
    ] = "",
    receipt: Annotated[
        Path | None,
        typer.Option(
            help="The receipt of the decision on this holder, or of one on the attestation. "
            "回执文件。"
        ),
    ] = None,
    document_type: TypeOption = "RESIDENT_ID",
    document_number: NumberOption = None,
    appeal_id: Annotated[
        UUID | None,
        typer.Option("--id", help="A UUIDv7; made if left out. 申诉编号。", show_default=False),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Contest an attestation, or a decision by its receipt, for a holder (提交申诉).

    It goes to the province that attested or decided; `tongxing appeal show` tells how it stands.
    """
    client.load(client_file)  # before somebody is asked for the number
    contested = _contested(attestation)
    if contested is None and receipt is None:
        raise InvalidFieldError(
            "is missing",
            field="--attestation",
            remedy="give --attestation PROVINCE/ID, or --receipt FILE",
        )
    signed = b"" if receipt is None else _read(receipt)
    document = prompts.document(document_type, document_number)
    from nodes.ids import new_id

    id_ = appeal_id or new_id(datetime.now(UTC))

    async def work(node: Any) -> AppealMessage:
        from exchange.client.appeals import Appeals

        return await Appeals(node).file(
            id_, document, statement, attestation=contested, receipt=signed
        )

    try:
        found = client.call(client_file, work)
    except TongxingError as error:
        if error.retry_after is not None or isinstance(error, DeadlineError):
            # It may be filed: only the same id keeps a second try from doubling it.
            again = f"to try again without a double, give --id {id_}"
            error.remedy = f"{error.remedy}; {again}" if error.remedy else again
        if error.field == "appeal_id":
            error.field = "--id"
        raise _as_typed(error) from None
    _print(found, form)


@appeal.command(short_help="Show how an appeal stands (查询申诉).")
def show(appeal_id: Id, client_file: ClientOption = None, form: FormOption = Form.PRETTY) -> None:
    """Show how an appeal stands (查询申诉).

    It is found by its id alone: `tongxing appeal file` gave it, and `tongxing appeal list
    --document-number` finds those of a holder.
    """

    async def work(node: Any) -> AppealMessage:
        from exchange.client.appeals import Appeals

        return await Appeals(node).get(appeal_id)

    _print(client.call(client_file, work), form)


@appeal.command("list", short_help="List appeals (列出申诉).")
def list_(
    document_type: TypeOption = "RESIDENT_ID",
    document_number: Annotated[
        str | None,
        typer.Option(
            help="The holder's, - for standard input: an app must give it, others must not. "
            "证件号码，应用必填。"
        ),
    ] = None,
    unanswered: Annotated[
        bool, typer.Option("--unanswered", help="Only those without an answer. 仅未答复。")
    ] = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """List appeals, the newest first (列出申诉).

    An app names its holder by --document-number; an issuer sees those about its own attestations,
    an admin all.
    """
    client.load(client_file)
    document = None
    if document_number is not None:
        document = prompts.document(document_type, document_number)

    async def work(node: Any) -> list[AppealMessage]:
        from exchange.client.appeals import Appeals

        return [each async for each in Appeals(node).list(document, unanswered=unanswered)]

    try:
        found = client.call(client_file, work)
    except TongxingError as error:
        if error.field == "document":
            error.remedy = "an app names its holder, others none"
        raise _as_typed(error) from None
    if form is Form.JSON:
        output.print_json({"appeals": [output.to_json(each) for each in found]})
        return
    output.print_table(
        "申诉 Appeals",
        ("编号 id", "提交 filed", "受理方 to answer", "状态 state", "结果 answer"),
        (_row(each) for each in found),
        whole=("编号 id",),
        none="没有申诉 no appeals",
    )


@appeal.command()
def answer(
    appeal_id: Id,
    resolution: Annotated[
        _Resolution,
        typer.Option(
            case_sensitive=False,
            help="Of an attestation corrected, revoked or rejected; of a decision upheld or "
            "rejected. 申诉结果。",
        ),
    ],
    reason: Annotated[
        str, typer.Option(help="Why; nothing that tells who the holder is. 答复理由。")
    ],
    superseding: Annotated[
        UUID | None,
        typer.Option(
            help="Of corrected: the attestation that supersedes it. 更正后的证明。",
            show_default=False,
        ),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Answer an appeal, once and for good (答复申诉).

    Publish the correction, or revoke, first. An issuer answers about its own attestations, an
    admin all that the province is to answer.
    """
    corrected = resolution is _Resolution.CORRECTED
    if corrected and superseding is None:
        raise InvalidFieldError(
            "缺失 is missing with --resolution corrected",
            field="--superseding",
            remedy="publish the correction (attestation publish --supersedes), and give its id",
        )
    if superseding is not None and not corrected:
        raise InvalidFieldError(
            f"不与 --resolution {resolution.lower()} 连用 goes with --resolution corrected alone",
            field="--superseding",
            remedy="leave it out, or say corrected",
        )

    async def work(node: Any) -> AppealMessage:
        from exchange.appeals import Resolution
        from exchange.client.appeals import Appeals

        return await Appeals(node).answer(
            appeal_id, Resolution(resolution), reason, superseding=superseding
        )

    try:
        found = client.call(client_file, work)
    except TongxingError as error:
        raise _as_typed(error) from None
    _print(found, form)


_OPTIONS = {
    "document": "--document-number",
    "attestation_id": "--attestation",
    "attestation.province": "--attestation",
    "attestation.attestation_id": "--attestation",
    "receipt": "--receipt",
    "statement": "--statement",
    "answer.resolution": "--resolution",
    "answer.reason": "--reason",
    "answer.superseding_attestation_id": "--superseding",
}
"""The requests' fields, as they are typed."""


def _as_typed(error: TongxingError) -> TongxingError:
    """The error of a node, its field named as the option is."""
    if error.field.startswith("document."):
        error.field = files.column_of(error.field.removeprefix("document."))
    error.field = _OPTIONS.get(error.field, error.field)
    return error


def _contested(text: str) -> tuple[str, UUID] | None:
    if not text:
        return None
    province, _, id_ = text.partition("/")
    try:
        return province, UUID(id_)
    except ValueError:
        raise InvalidFieldError(
            "not PROVINCE/ID", field="--attestation", remedy="such as 510000/0190…: code and id"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="--receipt") from None


def _print(found: AppealMessage, form: Form) -> None:
    if form is Form.JSON:
        output.print_json({"appeal": output.to_json(found)})
        return
    rows = [
        ("编号 id", found.appeal_id),
        ("状态 state", _state(found)),
        ("提交地 filed in", output.province_name(found.province)),
        ("受理方 to answer", output.province_name(found.answering_province)),
        ("被申诉 contested", found.attestation_id or "互认结果 a decision"),
        ("理由 statement", found.statement),
        ("持码人 holder", _UNCHECKED if found.holder_unchecked else ""),
        ("提交 filed", output.moment(found.file_time)),
    ]
    if found.HasField("deliver_time"):
        rows.append(("送达 delivered", output.moment(found.deliver_time)))
    if found.HasField("answer"):
        rows += [
            ("结果 answer", _resolution(found)),
            ("答复 reason", found.answer.reason),
            ("更正后 superseding", found.answer.superseding_attestation_id),
            ("答复时间 answered", output.moment(found.answer.answer_time)),
        ]
    output.print_fields([row for row in rows if row[1]])


def _row(found: AppealMessage) -> tuple[str, ...]:
    return (
        found.appeal_id,
        output.moment(found.file_time),
        output.province_name(found.answering_province),
        _state(found),
        _resolution(found) if found.HasField("answer") else "",
    )


def _state(found: AppealMessage) -> str:
    from exchange.appeals import State
    from exchange.v1 import appeal_service_pb2 as pb

    return _words(State, output.enum_name(pb.AppealState, found.state))


def _resolution(found: AppealMessage) -> str:
    from exchange.appeals import Resolution
    from exchange.v1 import appeal_service_pb2 as pb

    return _words(Resolution, output.enum_name(pb.AppealResolution, found.answer.resolution))


def _words(terms: type[StrEnum], name: str) -> str:
    """A term in both languages; its name where this version does not know it."""
    member: Any = terms.__members__.get(name)
    return f"{member.text.zh} {member.text.en}" if member else name
