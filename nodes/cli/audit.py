"""``tongxing audit``: who looked at whose data, and whether the log is whole (访问日志)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import client, files, output, prompts
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client.auditing import Access
    from nodes.audit.chain import Head
    from nodes.audit.verifying import Verified

__all__ = ["audit"]

audit = typer.Typer(no_args_is_help=True, help="The access log (访问日志).")

_PAGE = 1000
_FORM = ": RFC 3339; without offset, China's."


@audit.command(short_help="Whether the log is as it was written (核验访问日志).")
def verify(
    directory: Annotated[
        Path,
        typer.Argument(
            help="A node's data folder, or one log's in it: data/audit. 数据文件夹或日志文件夹。"
        ),
    ],
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[WORKER/]SEQUENCE:HASH",
            help="A head that was kept elsewhere, from the node's lines audit.head; several may "
            "be given. 另行保存的链头。",
        ),
    ] = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Say which lines were changed, taken out, put in or moved (核验访问日志).

    Of a data folder, the log of each of the node's processes. It needs no node, and disturbs none.
    Only a head that was kept elsewhere shows that the log was written anew, or that its end is cut
    off. A copy without the key is looked through all the same. The exit code is 0 if all is well, 3
    if not.
    """
    from nodes.audit.verifying import verify as look_through
    from nodes.audit.verifying import verify_all

    heads = _heads(head or ())
    if (directory / "audit").is_dir():
        found = verify_all(directory, heads)
    else:
        found = {0: look_through(directory, [each for some in heads.values() for each in some])}
    if form is Form.JSON:
        output.print_json(_documents(found))
    else:
        for number, each in found.items():
            if len(found) > 1:
                print(f"日志 log: {_folder(number)}")
            _print(each, len(heads.get(number, ())))
    raise typer.Exit(3 if any(each.faults for each in found.values()) else 0)


def _heads(given: Iterable[str]) -> dict[int, list[Head]]:
    """Read heads, by the number of the process whose log they are of.

    :raises InvalidFieldError: one is none.
    """
    from nodes.audit.chain import Head

    heads: dict[int, list[Head]] = {}
    for text in given:
        worker = re.match(r"\d{1,3}/", text, re.ASCII)
        number, rest = (int(worker[0][:-1]), text[worker.end() :]) if worker else (0, text)
        try:
            heads.setdefault(number, []).append(Head.parse(rest))
        except InvalidFieldError as error:
            error.field = "--head"
            raise
    return heads


def _folder(worker: int) -> str:
    """Where a process's log lies in the data folder."""
    return f"workers/{worker}/audit" if worker else "audit"


@audit.command("list", short_help="Who looked at whose data (列出访问记录).")
def list_(
    document_type: Annotated[
        str, typer.Option(help="RESIDENT_ID, PASSPORT, … 证件类型。")
    ] = "RESIDENT_ID",
    document_number: Annotated[
        str | None,
        typer.Option(
            help="The holder's number, - for standard input. An app must give it; an admin who "
            "leaves it out sees everybody's. 证件号码，应用必填。"
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME", help=f"From this time on{_FORM} 起始时间。")
    ] = "",
    end: Annotated[
        str, typer.Option("--before", metavar="TIME", help=f"Before this time{_FORM} 截止时间。")
    ] = "",
    most: Annotated[
        int, typer.Option("--most", min=1, max=1_000_000, help="At most so many. 最多条数。")
    ] = 100,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """List the accesses to a holder's data, the newest first; for its app and for admins.

    Those through all of the province's nodes; where one does not answer, that is said.
    列出全省各节点的访问记录，如有节点未答复则注明；本次查询亦记录在案。
    """
    begins, ends = _time(start, "--from"), _time(end, "--before")
    client.load(client_file)  # before standard input is waited for
    document = None
    if document_number is not None:
        document = prompts.document(document_type, document_number)

    async def work(node: Any) -> tuple[list[Access], set[str] | None]:
        from exchange.client.auditing import Accesses

        accesses, token = Accesses(node), ""
        found: list[Access] = []
        missing: set[str] | None = None
        while len(found) < most:
            page = await accesses.list(
                document,
                start=begins,
                end=ends,
                page_size=min(_PAGE, most - len(found)),
                page_token=token,
            )
            found += page.accesses
            if page.partial:
                missing = (missing or set()).union(page.missing_nodes)
            token = page.next_page_token
            if not token:
                break
        return found, missing

    try:
        found, missing = client.call(client_file, work)
    except TongxingError as error:
        if error.field == "document":
            error.field, error.remedy = "--document-number", "give it, or - for standard input"
        error.field = _OPTIONS.get(error.field, error.field)
        raise
    if missing is not None:
        output.print_line(_partial(missing))
    if form is Form.JSON:
        output.print_json(
            {
                "accesses": [output.to_json(each) for each in found],
                "partial": missing is not None,
                "missing_nodes": sorted(missing or ()),
            }
        )
        return
    output.print_table(
        "访问记录 Accesses",
        ("时间 time", _CALLER, "方法 method", "目的 purpose", "结果 answer", _TARGET),
        (_row(each) for each in found),
        whole=(_CALLER, _TARGET),
        none="没有访问记录 no accesses",
    )


def _partial(missing: set[str]) -> str:
    """Say that these are not all.

    :param missing: the nodes that did not answer; none where nobody knows which there are.
    """
    if not missing:
        return (
            "不完整：暂无法得知有哪些节点，请稍后再查 "
            "incomplete: the store does not tell which nodes there are; ask again later"
        )
    names = ", ".join(sorted(missing))
    return (
        f"不完整：{len(missing)} 个节点未答复（{names}），请稍后再查 incomplete: {len(missing)} "
        f"node{'s' * (len(missing) > 1)} of the province did not answer; ask again later"
    )


_CALLER, _TARGET = "访问者 caller", "对象 target"
_OPTIONS = {"start_time": "--from", "end_time": "--before"}
"""The request's fields, as they are typed."""


def _row(access: Access) -> tuple[str, ...]:
    from exchange.v1 import types_pb2

    purpose = output.enum_name(types_pb2.Purpose, access.purpose)
    return (
        output.moment(access.access_time),
        access.caller or "本节点 this node",
        access.method,
        _PURPOSES.get(purpose, purpose),
        _answer(access.answer),
        access.target,
    )


_PURPOSES = {
    "UNSPECIFIED": "",
    "ENTRY_CHECK": "查验 ENTRY_CHECK",
    "TRAVEL_PLANNING": "出行前查询 TRAVEL_PLANNING",
    "HOLDER_ACCESS": "本人查询 HOLDER_ACCESS",
    "CODE_DISPLAY": "亮码 CODE_DISPLAY",
    "APPEAL": "申诉 APPEAL",
}


_ANSWERS = {
    r"given": "已提供",
    r"revoked": "已撤销",
    r"already revoked": "此前已撤销",
    r"(\d+) access(?:es)?": r"\1条访问记录",
    r"(\d+) attestations?": r"\1份证明",
    r"(\d+) attestations?, (\d+) revoked": r"\1份证明，\2份已撤销",
    r"(\d+) appeals?": r"\1件申诉",
    r"(\d+) revoked": r"撤销\1份",
    r"at least (\d+) revoked, not to the end": r"至少撤销\1份，未完成",
    r"trust list (\d+)": r"信任列表第\1版",
    r"trust list (\d+), forced": r"信任列表第\1版，强制",
    r"trust list (\d+), emergency": r"信任列表第\1版，紧急",
    r"up to (\d+):.*": r"删至第\1条",
}
"""What a service answers, as it is recorded, and in Chinese."""


def _answer(recorded: str) -> str:
    """An answer in both languages; as it was recorded where this version does not know it."""
    for pattern, zh in _ANSWERS.items():
        if found := re.fullmatch(pattern, recorded):
            return f"{found.expand(zh)} {recorded}"
    words = [_term(name) for name in recorded.split()]
    if not words or "" in words:
        return recorded
    return f"{'，'.join(dict.fromkeys(words))} {recorded}"


def _term(name: str) -> str:
    """A term of the contract in Chinese; "" for none."""
    from exchange.appeals import Resolution, State
    from exchange.facts import Colour
    from exchange.recognition import Outcome, Verdict

    for terms in (Outcome, Colour, Verdict, State, Resolution):
        if name in terms.__members__:
            return terms[name].text.zh
    return _REFUSALS.get(name, "")


_REFUSALS = {"NO_COLOUR": "无可用码色"}
"""Why no code was given, where that is no term of a decision."""


def _time(text: str, field: str) -> datetime | None:
    return files.time_from_text(text, field=field) if text else None


def _documents(found: dict[int, Verified]) -> dict[str, Any]:
    """One log's as it is; of several, each with its folder."""
    if len(found) == 1:
        return _document(*found.values())
    logs = [{"log": _folder(number), **_document(each)} for number, each in found.items()]
    return {"whole": all(each["whole"] for each in logs), "logs": logs}


def _document(found: Verified) -> dict[str, Any]:
    return {
        "whole": not found.faults,
        "days": found.days,
        "lines": found.lines,
        "begins_after": str(found.begins),
        "head": str(found.head),
        "heads_found": found.heads,
        "key_matches": found.key,
        "faults": [
            {"day": each.day, "sequence": each.sequence, "fault": each.text}
            for each in found.faults
        ],
    }


_KEY = {True: "相符 the log's own", False: "不符 another", None: "未核对 not checked"}


def _print(found: Verified, heads: int) -> None:
    output.print_fields(
        (
            ("日期 days", f"{found.days:,}"),
            ("记录 lines", f"{found.lines:,}"),
            ("始于 begins after", str(found.begins.sequence)),
            ("链头 head", str(found.head)),
            ("核对的链头 heads found", f"{found.heads}/{heads}"),
            ("密钥 key", _KEY[found.key]),
        )
    )
    if not found.faults:
        print("完整 whole: no line was changed, taken out, put in or moved")
        if not heads:
            print("未核对链头 no head was given: a log written anew as a whole would pass too")
        return
    output.console().print(
        output.table(
            "异常 Faults",
            ("日期 day", "序号 line", "异常 fault"),
            (
                (each.day, str(each.sequence) if each.sequence else "", each.text)
                for each in found.faults
            ),
        )
    )
