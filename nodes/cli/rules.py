"""``tongxing rules``: rules of recognition (互认规则), checked, tested and explained."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError
from exchange.expressions import RuleError
from nodes.cli import client, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.facts import Colour
    from exchange.recognition import RuleVerdict
    from exchange.remedies import Remedy
    from exchange.rules import Rule, RuleBook
    from nodes.cli.cases import Result
    from nodes.cli.described import Described
    from nodes.cli.rulefile import RuleFile

__all__ = ["rules"]

rules = typer.Typer(no_args_is_help=True, help="Rules of recognition (互认规则).")

_REFUSED = 3
_FILE = "TOML, a profile in JSON, or the code of a province: 440000. 规则文件或省级行政区代码。"


# --- check ----------------------------------------------------------------------------------


@rules.command(short_help="Check files of rules (校验规则).")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help=_FILE, show_default=False)],
    form: FormOption = Form.PRETTY,
) -> None:
    """Check files of rules; each that is wrong is named with its fault. 校验规则文件。

    A value that no fact ever has is a fault; that a rule was found to hold for no fact of a kind is
    a warning. The exit code is 0 only if all are in order, 3 if one is not.
    """
    from nodes.cli import rulefile

    documents = []
    for name in files:
        warnings: list[TongxingError] = []
        try:
            file = rulefile.read(name)
            found, path, digest, national = rulefile.faults(file), file.path, "", _national(file)
            if not found:
                book = rulefile.compiled(file)
                digest, warnings = book.digest.hex(), rulefile.warnings(book)
            count = len(file.rules)
        except TongxingError as error:
            found, path, digest, count, national = [error], name, "", 0, ""
        documents.append(_checked(path, count, digest, found, warnings))
        if form is Form.PRETTY:
            for fault in found:
                output.print_line(_in_words(fault, name))
            for warning in warnings:
                output.print_line(_in_words(warning, name, "提醒 warning: "))
            if not found:
                print(f"{name}: {count} 条规则无误 rules are in order, {digest[:16]}{national}")
    if form is Form.JSON:
        output.print_json({"files": documents})
    raise typer.Exit(0 if all(not each["faults"] for each in documents) else _REFUSED)


def _checked(
    path: Path,
    count: int,
    digest: str,
    faults: list[TongxingError],
    warnings: list[TongxingError],
) -> dict[str, Any]:
    return {
        "file": str(path),
        "rules": count,
        "digest": digest,
        "faults": list(map(_fault_document, faults)),
        "warnings": list(map(_fault_document, warnings)),
    }


def _fault_document(fault: TongxingError) -> dict[str, str]:
    document = {"field": fault.field, "message": fault.message, "remedy": fault.remedy}
    if isinstance(fault, RuleError):
        document |= {"message_zh": fault.said.zh, "remedy_zh": fault.way.zh}
    return document


def _in_words(fault: TongxingError, file: Path, title: str = "") -> str:
    """A fault of a file in one line; that of a rule in both languages."""
    if isinstance(fault, RuleError):
        zh = "；".join(filter(None, (fault.said.zh, fault.way.zh)))
        en = "; ".join(filter(None, (fault.said.en, fault.way.en)))
        return f"{file}: {title}{fault.field}: {zh} {en}"
    of_the_file = fault.field.startswith(str(file))
    return str(fault) if of_the_file else f"{file}: {fault}"


def _national(file: RuleFile) -> str:
    """That a province has no rules of its own, where that is so."""
    return (
        "" if file.own else "; 本省没有规则，按全国规则 it has none of its own: the national ones"
    )


# --- test -----------------------------------------------------------------------------------


@rules.command("test", short_help="Test rules by a table of cases (测试规则).")
def try_cases(
    file: Annotated[Path, typer.Argument(help=_FILE, show_default=False)],
    table: Annotated[
        Path | None,
        typer.Option("--cases", help="Else the one beside: 440000.cases.csv. 用例表。"),
    ] = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Test a province's rules by a table of cases; those that fail are printed. 用例测试。

    A table has a line a case, under the header 情形,时间,证明,码色,规则 or
    case,now,facts,colour,rule: 采样48小时整,,核酸检测 阴性 48h,绿,nat-48h. The exit code is 0 only
    if every case comes out as it must, 3 if one does not.
    """
    from nodes.cli import cases, rulefile

    if table is not None and not table.exists():
        raise InvalidFieldError(
            f"{table}: 没有这个文件 no such file", field="--cases", remedy="check its name"
        )
    found = rulefile.read(file)
    book = rulefile.compiled(found)
    table = table or _table_beside(found.path)
    read, faults = cases.read(table, _now(None))
    if faults:
        for fault in faults:
            output.print_error(fault, Form.PRETTY)
        if form is Form.JSON:
            told = list(map(_fault_document, faults))
            output.print_json({"file": str(found.path), "faults": told})
        raise typer.Exit(1)
    results = [cases.run(book, case) for case in read]
    failing = [each for each in results if not each.passes]
    asked = {each.rule for each in results}
    unasked = [rule.id for rule in book.rules if rule.id not in asked]
    if form is Form.JSON:
        output.print_json(
            {
                "file": str(found.path),
                "cases": [_case_document(each) for each in results],
                "rules_without_a_case": unasked,
            }
        )
    else:
        if failing:
            _print_failing(failing)
        tried = f"{len(results)} 例 cases, {len(failing)} 例不符 fail"
        print(f"{table}: {tried}{_national(found)}")
        if unasked:
            output.print_line(f"没有用例的规则 no case is decided by {', '.join(unasked)}")
    raise typer.Exit(_REFUSED if failing else 0)


def _table_beside(rules: Path) -> Path:
    """The table beside a file of rules.

    :raises InvalidFieldError: there is none.
    """
    from nodes.cli import cases

    table = cases.beside(rules)
    if not table.exists():
        raise InvalidFieldError(
            f"没有用例表 there is no table of cases {table.name} beside {rules.name}",
            field="--cases",
            remedy="give --cases FILE, or write one: its header is case,now,facts,colour,rule",
        )
    return table


def _case_document(result: Result) -> dict[str, Any]:
    return {
        "line": result.case.line,
        "case": result.case.name,
        "passes": result.passes,
        "expected": {"colour": result.case.colour, "rule": result.case.rule},
        "got": {"colour": result.colour, "rule": result.rule, "failed": result.failed},
    }


def _print_failing(failing: Sequence[Result]) -> None:
    output.console().print(
        output.table(
            "不符的用例 Cases that fail",
            ("行 line", "情形 case", "应为 expected", "实为 got"),
            (
                (
                    str(each.case.line),
                    each.case.name,
                    _concluded(each.case.colour, each.case.rule),
                    _concluded(each.colour, each.rule)
                    + "".join(f"; {rule} 无法计算 failed" for rule in each.failed),
                )
                for each in failing
            ),
        )
    )


def _concluded(colour: Colour, rule: str) -> str:
    return f"{_both(colour)} {rule}".rstrip()


# --- explain --------------------------------------------------------------------------------


@rules.command(short_help="Say rules in words, and what they make of a fact (解读规则).")
def explain(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help=_FILE, show_default=False)] = None,
    province: Annotated[
        str | None,
        typer.Option(
            help="With --client: whose rules, from the trust list; else one's own. 省级行政区。"
        ),
    ] = None,
    fact: Annotated[
        list[str] | None,
        typer.Option(
            help="What somebody has: '核酸检测 阴性 50h', 'VACCINATION 2/2 20d @440000'; "
            "as often as there are facts. 健康证明。"
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When they are asked, RFC 3339; without offset, China's; else now. 时间。",
        ),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Say a province's rules in words; of facts, which rule says what. 解读规则。

    With --fact, all facts are taken together as one holder's: what every rule says of each, which
    one gives the colour, and what would make it green.
    """
    from nodes.cli import described

    now = _now(at)
    # Not where it is set for the whole session: by TONGXING_CLIENT.
    source = context.get_parameter_source("client_file")
    if file is not None and source is not None and source.name == "COMMANDLINE":
        raise InvalidFieldError(
            "不能与 FILE 同用 goes without FILE",
            field="--client",
            remedy="give FILE or CODE for rules of a file, "
            "or --client FILE --province CODE for those of the trust list",
        )
    book = _book(file, province, client_file)
    known: list[Described] = []
    for text in fact or ():
        try:
            known += described.facts(text, now, first=len(known) + 1)
        except InvalidFieldError as error:
            raise error.at("--fact") from None
    if form is Form.JSON:
        output.print_json(_explained(book, known, now))
        return
    if known:
        _print_said(book, known, now)
    else:
        _print_rules(book, now)


def _book(file: Path | None, province: str | None, client_file: Path | None) -> RuleBook:
    from exchange.provinces import province as known_province
    from exchange.rules import RuleBook
    from nodes.cli import rulefile

    if file is not None:
        if province is not None:
            raise InvalidFieldError(
                "goes without FILE", field="--province", remedy="give FILE, or --client FILE"
            )
        return rulefile.compiled(rulefile.read(file))
    if client_file is None:
        raise InvalidFieldError(
            "没有规则 no rules are named",
            field="FILE",
            remedy="give a file, a province's code (440000), or --client FILE [--province CODE]",
        )
    config = client.load(client_file)
    code = known_province(province or config.province, field="--province").code
    return RuleBook(client.trust_list(config.trust).profile(code).rules)


def _now(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC).replace(microsecond=0)
    from nodes.cli import files

    return files.time_from_text(text, field="--at")


def _said(
    book: RuleBook, known: Sequence[Described], now: datetime
) -> tuple[RuleVerdict | None, tuple[Remedy, ...]]:
    """The rule that gives the colour, and what would make it green.

    As at a gate, no green stands beside a rule that could not be evaluated.
    """
    from exchange.attestations import LIFE
    from exchange.facts import Colour
    from exchange.recognition import ask_rules, failed, settle
    from exchange.remedies import remedies

    said = ask_rules(known, book, now)
    decided = settle(said)
    if decided is not None and decided.rule.colour is Colour.GREEN:
        return (decided if failed(said) is None else None), ()
    ends = {each.id: each.fact.sampled_at + LIFE[each.fact.kind] for each in known}
    return decided, remedies(known, book, now, ends=ends)


def _explained(book: RuleBook, known: Sequence[Described], now: datetime) -> dict[str, Any]:
    document: dict[str, Any] = {
        "digest": book.digest.hex(),
        "rules": [{**rule.to_json(), "in_force": rule.in_force(now)} for rule in book.rules],
    }
    if not known:
        return document
    decided, ways = _said(book, known, now)
    return {
        **document,
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "facts": [
            {
                "kind": each.fact.kind,
                "origin": each.province,
                "said": [
                    {"rule": rule.id, "holds": holds} for rule, holds in book.evaluate(each, now)
                ],
            }
            for each in known
        ],
        "colour": decided.rule.colour if decided else "UNSPECIFIED",
        "rule": decided.rule.id if decided else "",
        "remedies": [
            {
                "action": way.action,
                "rule": way.rule.id,
                "kind": way.kind,
                "from_time": way.from_time and way.from_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "text": {"zh": way.text.zh, "en": way.text.en},
            }
            for way in ways
        ],
    }


def _print_rules(book: RuleBook, now: datetime) -> None:
    output.console().print(
        output.table(
            f"互认规则 Rules, {book.digest.hex()[:16]}",
            ("规则 rule", "码色 colour", "适用 of", "含义 means", "条件 condition"),
            (
                (
                    output.lines((rule.id, *_force(rule, now))),
                    _both(rule.colour),
                    output.lines((*_kinds(rule), *_origins(rule))),
                    output.lines((rule.reason.zh, rule.reason.en)),
                    rule.when,
                )
                for rule in book.rules
            ),
        )
    )


def _force(rule: Rule, now: datetime) -> list[str]:
    """What is to be said of a rule's times: only what differs from one that holds."""
    if now < rule.valid_from:
        return [f"自 from {output.moment(rule.valid_from)}"]
    if rule.valid_until is None:
        return []
    word = "至 until" if rule.in_force(now) else "已失效 ended"
    return [f"{word} {output.moment(rule.valid_until)}"]


def _kinds(rule: Rule) -> list[str]:
    return [f"{kind.text.zh} {kind.text.en}" for kind in sorted(rule.kinds)]


def _origins(rule: Rule) -> list[str]:
    if rule.origins is None:
        return []
    words = ("境外 abroad" if each == "*" else output.province_name(each) for each in rule.origins)
    return [f"来自 of {', '.join(sorted(words))}"]


def _print_said(book: RuleBook, known: Sequence[Described], now: datetime) -> None:
    console = output.console()
    for each in known:
        said = book.evaluate(each, now)
        where = f"{each.fact.kind.text.zh} {each.fact.kind.text.en}"
        when = output.moment(each.fact.sampled_at)
        console.print(
            output.table(
                f"{where}, {when}, {output.province_name(each.province)}",
                ("规则 rule", "码色 colour", "含义 means", "符合 holds"),
                (
                    (
                        rule.id,
                        _both(rule.colour),
                        output.lines((rule.reason.zh, rule.reason.en)),
                        "无法计算 failed" if holds is None else "是 yes" if holds else "否 no",
                    )
                    for rule, holds in said
                ),
            )
            if said
            else output.plain(f"{where}: 没有适用的规则 no rule is about it", "bold")
        )
    decided, ways = _said(book, known, now)
    if decided is None:
        console.print(output.plain("没有规则给出码色 no rule gives a colour", "bold"))
    else:
        rule = decided.rule
        words = f"{_both(rule.colour)}: {rule.id}, {rule.reason.zh} {rule.reason.en}"
        console.print(output.plain(words, "bold"))
    for way in ways:
        console.print(output.lines((f"· {way.text.zh}", f"  {way.text.en}")))


def _both(colour: Colour) -> str:
    return f"{colour.text.zh} {colour.text.en}"
