"""``tongxing attestation``: issuers publish, read and revoke (发证机构), and gates verify."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from exchange.errors import DeadlineError, InvalidFieldError, TongxingError
from nodes.cli import client, files, offline, output, prompts, publishing, revoking, shown
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption
from nodes.cli.rows import IgnoreColumnsOption, column_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exchange.attestations import Attestation
    from exchange.v1.attestation_service_pb2 import NewAttestation

__all__ = ["attestation"]

attestation = typer.Typer(no_args_is_help=True, help="Attestations (健康证明).")

Id = Annotated[UUID, typer.Argument(help="The attestation's id. 证明编号。")]


def _column(name: str, english: str) -> Any:
    """The option for a column of the CSV file."""
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{english} {files.COLUMNS[name][0]}",
        show_default=False,
        rich_help_panel="The attestation 健康证明",
    )


@attestation.command()
def publish(
    file: Annotated[
        str | None,
        typer.Option(help="NewAttestation in proto JSON, - for standard input. 单个证明的文件。"),
    ] = None,
    document_type: Annotated[
        str | None, _column("document_type", "RESIDENT_ID, PASSPORT …")
    ] = None,
    document_number: Annotated[
        str | None, _column("document_number", "Asked for if left out; - for standard input.")
    ] = None,
    holder_name: Annotated[str | None, _column("holder_name", "Signed masked only.")] = None,
    kind: Annotated[str | None, _column("kind", "NUCLEIC_ACID_TEST, VACCINATION …")] = None,
    sample_time: Annotated[
        str | None, _column("sample_time", "RFC 3339; without offset, China's.")
    ] = None,
    result_time: Annotated[str | None, _column("result_time", "When the result was given.")] = None,
    result: Annotated[str | None, _column("result", "NEGATIVE, POSITIVE, INCONCLUSIVE.")] = None,
    conclusion: Annotated[str | None, _column("conclusion", "FIT, UNFIT, FOLLOW_UP.")] = None,
    self_tested: Annotated[bool, _column("self_tested", "Taken without a witness.")] = False,
    product: Annotated[str | None, _column("product", "CoronaVac, BBIBP-CorV …")] = None,
    dose: Annotated[str | None, _column("dose", "Which dose, from 1.")] = None,
    doses: Annotated[str | None, _column("doses", "Doses of the series.")] = None,
    confirm_time: Annotated[str | None, _column("confirm_time", "Of the infection.")] = None,
    colour: Annotated[str | None, _column("colour", "GREEN, YELLOW, RED.")] = None,
    local_status: Annotated[str | None, _column("local_status", "The place's own word.")] = None,
    reason: Annotated[str | None, _column("reason", "Why the colour.")] = None,
    legal_basis: Annotated[str | None, _column("legal_basis", "By which rule.")] = None,
    assigned_by: Annotated[str | None, _column("assigned_by", "By whom.")] = None,
    guidance: Annotated[str | None, _column("guidance", "What the holder can do.")] = None,
    issuer_credit_code: Annotated[
        str | None, _column("issuer_credit_code", "18 characters, GB 32100.")
    ] = None,
    issuer_name: Annotated[str | None, _column("issuer_name", "The issuer's name.")] = None,
    expire_time: Annotated[
        str | None, _column("expire_time", "If left out, the usual life of the kind.")
    ] = None,
    data_as_of_time: Annotated[
        str | None, _column("data_as_of_time", "As of when the data stood.")
    ] = None,
    attestation_id: Annotated[
        str | None, _column("attestation_id", "A UUIDv7; made if left out.")
    ] = None,
    supersedes: Annotated[str | None, _column("supersedes", "The id that this corrects.")] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Publish one attestation (发布健康证明).

    Give --file, or the same fields as a CSV file has columns; values may be Chinese as there.
    """
    columns = {
        "document_type": document_type,
        "document_number": document_number,
        "holder_name": holder_name,
        "kind": kind,
        "sample_time": sample_time,
        "result_time": result_time,
        "result": result,
        "conclusion": conclusion,
        "self_tested": "true" if self_tested else None,
        "product": product,
        "dose": dose,
        "doses": doses,
        "confirm_time": confirm_time,
        "colour": colour,
        "local_status": local_status,
        "reason": reason,
        "legal_basis": legal_basis,
        "assigned_by": assigned_by,
        "guidance": guidance,
        "issuer_credit_code": issuer_credit_code,
        "issuer_name": issuer_name,
        "expire_time": expire_time,
        "data_as_of_time": data_as_of_time,
        "attestation_id": attestation_id,
        "supersedes": supersedes,
    }
    client.load(client_file)  # before somebody is asked for the number
    given = {name: value for name, value in columns.items() if value is not None}
    new = _from_options(given) if file is None else _from_file(file, given)
    if not new.attestation_id:
        made = files.uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        new.attestation_id = str(made)
    try:
        published, already = client.call(client_file, lambda node: node.publish(new))
    except TongxingError as error:
        if error.retry_after is not None or isinstance(error, DeadlineError):
            # It may stand there: only the same id keeps a second try from doubling it.
            again = f"to try again without a double, give the same id: {new.attestation_id}"
            error.remedy = f"{error.remedy}; {again}" if error.remedy else again
        if file is None:
            error.field = files.column_of(error.field)
        raise
    _show(published, form, already_published=already)


def _from_options(given: Mapping[str, str]) -> NewAttestation:
    # Everything else is checked before somebody is asked for the number.
    files.attestation_from_columns({"document_number": "0", **given})
    number = prompts.document_number(given.get("document_number"))
    return files.attestation_from_columns({**given, "document_number": number})


def _from_file(file: str, given: Mapping[str, str]) -> NewAttestation:
    if given:
        raise InvalidFieldError(
            "goes without the fields as options", field="--file", remedy="give one or the other"
        )
    try:
        return files.attestation_from_json(
            sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        )
    except OSError as error:
        raise InvalidFieldError(f"{file}: {error.strerror}", field="--file") from None


@attestation.command("publish-file")
def publish_file(
    file: Annotated[Path, typer.Argument(help="CSV or JSON Lines. 文件。", show_default=False)],
    report: Annotated[
        Path | None,
        typer.Option(help="A CSV file for every row: its outcome and id. 逐行结果清单。"),
    ] = None,
    ignore_columns: IgnoreColumnsOption = "",
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Publish a file of attestations (批量发布).

    A bad row is named and fails alone. Run it again after an interruption: what stands already is
    not published twice. Exit code 1 if a row was refused or the stream broke.
    """
    ignore = column_names(ignore_columns)
    done = publishing.publish_file(file, report, client_file, form, ignore=ignore)
    raise typer.Exit(0 if done else 1)


@attestation.command()
def show(
    attestation_id: Id, client_file: ClientOption = None, form: FormOption = Form.PRETTY
) -> None:
    """Show an attestation that this issuer published (查询健康证明)."""
    _show(client.call(client_file, lambda node: node.get(attestation_id)), form)


def _show(found: Attestation, form: Form, **more: bool) -> None:
    from exchange import views

    view = views.attestation_to_proto(b"", found)
    if form is Form.JSON:
        output.print_json({"attestation": output.to_json(view), **more})
        return
    rows = shown.attestation_rows(found)
    if more.get("already_published"):
        rows.append(("", "已经发布过 it was published before"))
    output.print_fields(rows)


attestation.command("revoke", short_help="End attestations for good (撤销健康证明).")(
    revoking.revoke
)
attestation.command("revoke-issuer", short_help="End a bad batch (批量撤销).")(
    revoking.revoke_issuer
)
attestation.command("verify", short_help="Check without a connection (离线核验).")(offline.verify)
attestation.command("status-lists", short_help="Fetch what verify needs (下载状态列表).")(
    offline.status_lists
)
