"""``tongxing attestation revoke`` and ``revoke-issuer``: what is wrong ends, for good (撤销)."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import client, files, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client import Client, RevocationProgress

__all__ = ["read_ids", "revoke", "revoke_issuer"]

_AT_ONCE = 1000
"""Attestations in one BatchRevokeAttestations, by the contract."""
_SHOWN = 20
_AGAIN = "run the same command again: revoking again changes nothing"

ReasonOption = Annotated[
    str, typer.Option(help="Why; nothing that tells who the holder is. 撤销原因。")
]
AuthorityOption = Annotated[
    str, typer.Option(help="Who ordered it, where it is not the caller. 决定机构。")
]


# --- by id ----------------------------------------------------------------------------------


@dataclass
class _Outcomes:
    """What became of each id, in their order."""

    revoked: list[tuple[UUID, datetime]] = field(default_factory=list)
    refused: list[tuple[UUID, TongxingError]] = field(default_factory=list)

    def take(self, id_: UUID, result: datetime | TongxingError) -> None:
        if isinstance(result, datetime):
            self.revoked.append((id_, result))
            return
        result.field = ""  # the id says which
        self.refused.append((id_, result))
        if len(self.refused) <= _SHOWN:
            title = result.zh if output.speaks_chinese() else result.reason
            output.print_line(f"{id_}: {title}: {result}")

    def document(self) -> dict[str, Any]:
        done = [{"attestation_id": str(id_), "revoke_time": _utc(at)} for id_, at in self.revoked]
        not_done = [
            {"attestation_id": str(id_), "status": output.error_document(error)}
            for id_, error in self.refused
        ]
        return {"revoked": done, "refused": not_done}

    def print(self) -> None:
        for id_, at in self.revoked[:_SHOWN]:
            print(f"已撤销 revoked at {output.moment(at)}: {id_}")
        if len(self.revoked) + len(self.refused) > 1:
            print(
                f"合计 in all: 已撤销 revoked {len(self.revoked):,}, "
                f"未撤销 not revoked {len(self.refused):,}"
            )


def revoke(
    reason: ReasonOption,
    attestation_ids: Annotated[
        list[UUID] | None,
        typer.Argument(metavar="ID…", help="Attestations. 证明编号。", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Ids, one a line, or the CSV that publish-file --report wrote; "
            "- for standard input. 编号文件。"
        ),
    ] = None,
    authority: AuthorityOption = "",
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """End attestations for good (撤销健康证明).

    They die at once at every node, and at gates without a connection with their next status list.
    An issuer ends its own, an admin any of the province. The exit code is 1 if one was not revoked.
    """
    ids = list(dict.fromkeys([*(attestation_ids or ()), *(read_ids(file) if file else ())]))
    if not ids:
        raise InvalidFieldError("is missing", field="ID", remedy="give ids, or --file IDS")
    outcomes = _Outcomes()

    async def work(node: Client) -> None:
        with _bar(total=len(ids)) as tell:
            for at in range(0, len(ids), _AT_ONCE):
                some = ids[at : at + _AT_ONCE]
                results = await node.revoke_all(some, reason, authority)
                for id_, result in zip(some, results, strict=True):
                    outcomes.take(id_, result)
                tell(at + len(some), "")

    try:
        client.call(client_file, work)
    except TongxingError as error:
        if outcomes.revoked:
            error.message = f"{error.message} ({len(outcomes.revoked):,} were revoked)"
            error.remedy = f"{error.remedy}; {_AGAIN}" if error.remedy else _AGAIN
        raise
    if form is Form.JSON:
        output.print_json(outcomes.document())
    else:
        outcomes.print()
    raise typer.Exit(1 if outcomes.refused else 0)


def read_ids(file: Path) -> list[UUID]:
    """The ids in a file: one a line, or a CSV file's column ``attestation_id``.

    Blank lines, and those that begin with ``#``, are passed over; so are rows that the report of
    ``publish-file`` calls refused.

    :param file: UTF-8; ``-`` is standard input.
    :raises InvalidFieldError: it cannot be read, or a line is no id; nothing was revoked.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidFieldError(f"{file}: {error.strerror}", field="--file") from None
    except UnicodeDecodeError:
        raise InvalidFieldError(f"{file}: not UTF-8", field="--file") from None
    found = []
    for line, word in _words(text.splitlines()):
        try:
            id_ = UUID(word)
        except ValueError:
            raise InvalidFieldError(
                f"line {line} is not an id",
                field="--file",
                remedy="write one UUID a line, or a CSV file with the column attestation_id",
            ) from None
        found.append(id_)
    return found


def _words(lines: list[str]) -> Iterator[tuple[int, str]]:
    header = next(csv.reader(lines[:1]), [])
    if "attestation_id" in header:
        reader = csv.DictReader(lines)
        for row in reader:
            if row.get("outcome") != "refused":
                yield reader.line_num, row["attestation_id"] or ""
        return
    for number, line in enumerate(lines, 1):
        if (word := line.strip()) and not word.startswith("#"):
            yield number, word


# --- by issuer ------------------------------------------------------------------------------


def revoke_issuer(
    credit_code: Annotated[
        str, typer.Argument(help="The issuer's unified social credit code. 统一社会信用代码。")
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Sampled from then on: RFC 3339; without offset, China's. 采样起。",
        ),
    ],
    end: Annotated[
        str,
        typer.Option(
            "--to", metavar="TIME", help="Sampled before then, in the same form. 采样止（不含）。"
        ),
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this kind, such as nucleic-acid-test or 核酸检测; may be repeated. 类别。",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[
        str,
        typer.Option(help="Why; needed but for --dry-run. 撤销原因。", show_default=False),
    ] = "",
    authority: AuthorityOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count. 仅试算，不撤销。")
    ] = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """End all that one issuer sampled in a range of time: a laboratory's bad batch (批量撤销).

    See with --dry-run first how many they are: what is revoked is never valid again. It goes
    through the node's whole store; after an interruption, run it again.
    """
    sampled_from = files.time_from_text(start, field="--from")
    sampled_to = files.time_from_text(end, field="--to")
    kinds = [files.kind_from_text(name, field="--kind") for name in kind or ()]
    if not reason and not dry_run:
        raise InvalidFieldError("is missing", field="--reason", remedy="say why, or --dry-run")

    async def work(node: Client) -> RevocationProgress:
        answers = node.revoke_issuer(
            credit_code.upper(),
            sampled_from,
            sampled_to,
            reason or "dry run 试算",
            authority,
            kinds=kinds,
            dry=dry_run,
        )
        with _bar(total=None) as tell:
            async for progress in answers:
                tell(progress.looked_at, f"撤销 revoked {progress.revoked:,}")
        return progress

    try:
        end_of_it = client.call(client_file, work)
    except TongxingError as error:
        error.field = _OPTIONS.get(error.field, error.field)
        raise
    if form is Form.JSON:
        output.print_json(
            {
                "looked_at": end_of_it.looked_at,
                "revoked": end_of_it.revoked,
                "already_revoked": end_of_it.already_revoked,
                "dry_run": dry_run,
            }
        )
        return
    what = "试算，未撤销 only counted, would be revoked" if dry_run else "已撤销 revoked"
    print(
        f"{what} {end_of_it.revoked:,}, 原已撤销 revoked before {end_of_it.already_revoked:,}, "
        f"查看 looked at {end_of_it.looked_at:,}"
    )
    if not end_of_it.revoked and not end_of_it.already_revoked:
        print(
            "没有符合的证明：请核对机构代码、时间和省份 "
            "nothing met all of it: check the credit code, the times, and whose node was asked"
        )


_OPTIONS = {
    "sample_start_time": "--from",
    "sample_end_time": "--to",
    "kinds": "--kind",
    "reason": "--reason",
    "authority": "--authority",
}


# --- both -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, if that is a terminal; a call says how far it has come."""
    if not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.completed:,} {task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, words: bar.update(task, completed=done, description=words)


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
