"""``tongxing exchange``: a whole exchange on one machine, for those who try the software."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, UnknownProvinceError
from exchange.provinces import PROVINCES
from exchange.provinces import province as known
from nodes.cli import output
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from types import FrameType

    from nodes.trial.overview import NodeView, Overview
    from nodes.trial.standing import Standing

__all__ = ["exchange", "interruptible", "raised"]

exchange = typer.Typer(
    no_args_is_help=True, help="A whole exchange on this machine, for trials. 单机试用交换体系。"
)

DEFAULT = 3
SYNCHRONISED_SECONDS = 120.0
_LOOK_SECONDS = 0.5
_REGISTRY = "registry"

DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", help="The exchange's folder. 交换体系文件夹。")
]
_HERE = Path("trial")


@exchange.command(short_help="Start it, and leave it running (启动).")
def up(
    provinces: Annotated[
        str | None,
        typer.Option(
            metavar="N|CODE,CODE…",
            help=f"How many of the {len(PROVINCES)}, or which; {DEFAULT} in a new folder. "
            "省级行政区的数量或代码。",
        ),
    ] = None,
    directory: DirectoryOption = _HERE,
    registry: Annotated[
        bool | None,
        typer.Option(
            "--registry/--no-registry",
            help="Whether a new exchange has a registry, which keeps the trust list fresh; "
            "it has. 是否设登记处。",
        ),
    ] = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Start a node a province, each with its own Valkey, keys and certificates. 启动交换体系。

    A new folder is laid out first. What runs already is left alone; what does not is started. If
    that fails or is interrupted, what was started is stopped again.
    """
    chosen = None if provinces is None else _chosen(provinces)
    with interruptible(), raised(directory, chosen, registry=registry) as (standing, started, seen):
        pass
    if form is Form.JSON:
        output.print_json({"started": started, **_document(seen)})
    else:
        _print(seen)
        _print_calls(standing)
    if seen.faults:
        raise typer.Exit(1)


@exchange.command(short_help="How every node stands (查看状态).")
def status(directory: DirectoryOption = _HERE, form: FormOption = Form.PRETTY) -> None:
    """Ask every node how it stands with the others; exit 1 if anything is wrong. 查看状态。"""
    import asyncio

    from nodes.trial.overview import look
    from nodes.trial.standing import Standing

    seen = asyncio.run(look(Standing(directory)))
    if form is Form.JSON:
        output.print_json(_document(seen))
    else:
        _print(seen)
    if seen.faults:
        raise typer.Exit(1)


@exchange.command(short_help="End all of its processes (停止).")
def down(
    directory: DirectoryOption = _HERE,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove its data and keys, too. 同时删除数据与密钥。")
    ] = False,
    form: FormOption = Form.PRETTY,
) -> None:
    """End every process of the exchange, also those that a killed node left. 停止交换体系。"""
    from nodes.trial.standing import Standing

    standing = Standing(directory)
    ended = standing.down()
    gone = standing.delete() if delete else False
    if form is Form.JSON:
        output.print_json({"ended": ended, "deleted": delete})
        return
    print(f"已停止 stopped: {len(ended)}" if ended else "没有运行中的进程 none was running")
    if delete and not gone:
        print(f"{directory} 仍有其他文件 other files are left in it")
    elif not delete:
        print(f"数据保留 its data stays in {directory}: --delete 删除 removes it")


# --- starting ----------------------------------------------------------------------------------


def _chosen(text: str) -> tuple[str, ...]:
    """The provinces that were asked for.

    :raises InvalidFieldError: there are not so many, one stands twice, or one is none.
    """
    from nodes.trial.standing import choose

    if text.isascii() and text.isdigit() and len(text) < 6:
        return choose(int(text))
    codes = [part.strip() for part in text.split(",")]
    try:
        found = tuple(known(code, field="--provinces").code for code in codes)
    except UnknownProvinceError as error:
        error.remedy += f", or how many: 1 to {len(PROVINCES)}"
        raise
    if len(set(found)) < len(found):
        raise InvalidFieldError("a province stands twice", field="--provinces")
    return found


@contextlib.contextmanager
def raised(
    directory: Path, provinces: tuple[str, ...] | None, *, registry: bool | None, **lay: Any
) -> Iterator[tuple[Standing, tuple[str, ...], Overview]]:
    """Have an exchange up, and say on standard error how it comes up.

    It stays up after the block, unless the block fails.

    :param provinces: who takes part; None: those in the folder, or three where it is new.
    :param registry: of a new exchange; None: one that runs already may be either, a new one has it.
    :param lay: more for `Standing.lay`.
    :returns: it, the names of what was started, and how it stands.
    :raises InvalidFieldError: another exchange lies in the folder.
    """
    from nodes.trial.standing import Standing, choose

    if Standing.lies_in(directory):
        standing = Standing(directory)
        _check_same(standing, provinces, registry)
    else:
        output.print_line(f"建立 making {directory}")
        standing = Standing.lay(
            directory, provinces or choose(DEFAULT), registry=registry is not False, **lay
        )
    try:
        with _told(len(standing.places)) as serves, standing.up(serves=serves) as started:
            yield standing, started, _settled(standing)
    except KeyboardInterrupt:
        output.print_line("已中断 interrupted: what was started is stopped again")
        raise


def _check_same(
    standing: Standing, provinces: tuple[str, ...] | None, registry: bool | None
) -> None:
    other = (
        f"name another folder, or remove this one: "
        f"`tongxing exchange down --delete --directory {standing.directory}`"
    )
    if provinces is not None and set(provinces) != set(standing.provinces):
        count = len(standing.provinces)
        raise InvalidFieldError(
            f"{standing.directory} holds an exchange of {count}: {', '.join(standing.provinces)}",
            field="--provinces",
            remedy=f"leave it out to start that one; {other}",
        )
    if registry not in (None, standing.has_registry):
        has = "has a registry" if standing.has_registry else "has no registry"
        raise InvalidFieldError(
            f"the exchange in {standing.directory} {has}", field="--registry", remedy=other
        )


def _settled(standing: Standing) -> Overview:
    """How it stands once nothing is wrong any more, or after so long."""
    import asyncio

    from nodes.trial.overview import look

    begun = time.monotonic()
    said = -1
    while True:
        seen = asyncio.run(look(standing))
        if not seen.faults or time.monotonic() - begun > SYNCHRONISED_SECONDS:
            return seen
        heard = seen.synchronised
        if heard != said:
            output.print_line(f"同步 synchronised: {heard} of {seen.pairs}")
            said = heard
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _told(count: int) -> Iterator[Callable[[str], None]]:
    """Tell on standard error of each that serves; by a bar, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: output.print_line(f"运行 serves: {_name(name)}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("启动 starting", total=count)
        yield lambda name: bar.update(task, advance=1, description=f"运行 serves: {_name(name)}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does, so that nothing half-started stays."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    for number, handler in before:
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


# --- printing ----------------------------------------------------------------------------------


def _name(name: str) -> str:
    return "登记处 registry" if name == _REGISTRY else output.province_name(name)


def _print(seen: Overview) -> None:
    output.print_words(
        "省级节点 Nodes",
        (
            "省级行政区 province",
            "进程 pid",
            "列表 list",
            "同步 heard",
            "时延 lag",
            "过滤器 filter",
            "错误 failed",
            "MiB",
        ),
        [_row(view, seen) for view in seen.nodes],
    )
    if seen.registry is not None:
        pid, version = seen.registry
        state = f"运行 process {pid}" if pid else "未运行 no process"
        print(f"登记处 registry: {state}, trust list {version or '没有应答 no answer'}")
    heard = seen.synchronised
    print(f"同步 synchronised: {heard} of {seen.pairs}")
    if seen.unheard:
        _print_unheard(seen)
    alike: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in seen.faults:
        alike[each.zh, each.en, each.remedy] += [_name(each.province)] if each.province else []
    for (zh, en, remedy), names in alike.items():
        where = f"{', '.join(names)}: " if names else ""
        output.print_line(f"{where}{zh} {en}; {remedy}")
    if not seen.faults:
        print("一切正常 all is well")


def _row(view: NodeView, seen: Overview) -> tuple[str, ...]:
    answer = view.answer
    name = output.province_name(view.place.name)
    if answer is None:
        runs = f"{view.pid} 无应答 silent" if view.pid else "未运行 down"
        return (name, runs, *[""] * 6)
    return (
        name,
        str(view.pid or "是 yes"),  # who was started otherwise answers, too
        str(answer.trust_version),
        f"{view.synchronised}/{len(seen.nodes) - 1}",
        output.milliseconds(view.lag),
        output.age(view.presence, seen.time) if answer.peers else "",
        f"{view.errors:,}/{view.calls:,}",
        f"{answer.memory_bytes / 2**20:,.0f}",
    )


def _print_unheard(seen: Overview) -> None:
    """Print who is not heard, by whom; one row a cause, for one that is down is unheard by 31."""
    groups: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in seen.unheard:
        groups[each.peer, each.state, each.why].append(each.province)
    asked = sum(view.answer is not None for view in seen.nodes)

    def by(peer: str, provinces: list[str]) -> str:
        answers = any(view.place.name == peer and view.answer for view in seen.nodes)
        everybody = len(provinces) > 1 and len(provinces) == asked - answers
        return "全部 all" if everybody else ", ".join(provinces)

    output.print_words(
        "失联 Not heard",
        ("省级行政区 province", "未收到 by", "状态 state", "原因 why"),
        [
            (output.province_name(peer), by(peer, provinces), state, why)
            for (peer, state, why), provinces in sorted(groups.items())
        ],
    )


def _print_calls(standing: Standing) -> None:
    issuer, gate = (standing.directory / standing.provinces[at] for at in (0, -1))
    rest = "" if standing.directory == _HERE else f" --directory {standing.directory}"
    print("\n试用 try:")
    print(f"  tongxing attestation publish-file FILE.csv --client {issuer / 'issuer.toml'}")
    print(f"  tongxing recognize --client {gate / 'app.toml'}")
    print(f"  tongxing peer list --client {gate / 'admin.toml'}")
    print(f"  tongxing exchange status{rest}")
    print(f"  tongxing exchange down{rest}")


def _document(seen: Overview) -> dict[str, Any]:
    """The whole of it as JSON."""
    return {
        "directory": str(seen.directory),
        "time": _time(seen.time),
        "well": not seen.faults,
        "trust_list_ends": _time(seen.list_ends),
        "registry": None
        if seen.registry is None
        else dict(zip(("pid", "trust_version"), seen.registry, strict=True)),
        "pairs": seen.pairs,
        "synchronised": seen.synchronised,
        "nodes": [_node(view) for view in seen.nodes],
        "unheard": [
            {
                "province": each.province,
                "peer": each.peer,
                "state": each.state,
                "since": _time(each.since),
                "why": each.why,
            }
            for each in seen.unheard
        ],
        "faults": [
            {
                "code": each.code,
                "province": each.province,
                "zh": each.zh,
                "en": each.en,
                "remedy": each.remedy,
            }
            for each in seen.faults
        ],
    }


def _node(view: NodeView) -> dict[str, Any]:
    answer, code = view.answer, view.place.name
    about = {
        "province": code,
        "zh": PROVINCES[code].zh,
        "en": PROVINCES[code].en,
        "address": view.place.address,
        "pid": view.pid,
        "answers": answer is not None,
    }
    if answer is None:
        return {**about, "why": view.why}
    return {
        **about,
        "trust_version": answer.trust_version,
        "subjects": answer.subjects,
        "synchronised": view.synchronised,
        "worst_lag_seconds": None if view.lag is None else view.lag.total_seconds(),
        "oldest_presence_time": _time(view.presence),
        "calls": view.calls,
        "errors": view.errors,
        "memory_bytes": answer.memory_bytes,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
