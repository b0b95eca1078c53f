"""``tongxing``: the command line (命令行). Noun, then verb.

A command imports what is heavy (grpc, tuf) when it runs, so that ``--help`` is there at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from exchange.errors import TongxingError
from nodes.cli import (
    appeal,
    attestation,
    audit,
    ceremony,
    code,
    exchange,
    holding,
    identity,
    key,
    node,
    output,
    peer,
    profile,
    receipt,
    recognize,
    registry,
    rules,
    setup,
    trust,
    usage,
)

__all__ = ["app", "explain", "main", "run"]

INTERRUPTED: Final = 130
"""The exit code, as of a shell: 128 and the signal's number."""

app = typer.Typer(
    name="tongxing",
    help="Tongxing (通行): a health code of one province, honoured in another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(attestation.attestation, name="attestation")
app.add_typer(appeal.appeal, name="appeal")
app.command("recognize")(recognize.recognize)
app.add_typer(code.code, name="code")
app.add_typer(receipt.receipt, name="receipt")
app.add_typer(trust.trust, name="trust")
trust.trust.command("init", short_help="Make a new exchange, for trials (新建交换体系).")(
    setup.init
)
trust.trust.command("renew", short_help="Sign the timestamp anew (续签时间戳).")(setup.renew)
trust.trust.add_typer(ceremony.propose, name="propose", short_help="Propose a change (提案).")
for verb, words in (
    (ceremony.review, "Show what a proposal changes (审阅提案)."),
    (ceremony.sign, "Review a proposal and sign it (签署提案)."),
    (ceremony.publish, "Publish what enough have signed (发布提案)."),
    (ceremony.fetch, "Fetch the list's files (获取信任列表)."),
    (ceremony.holders, "Who holds which keys (查看持有人)."),
):
    trust.trust.command(verb.__name__, short_help=words)(verb)
trust.trust.add_typer(holding.keys, name="key")
holding.profiles.command("export", short_help="Write it as it stands (导出省级资料).")(
    profile.export
)
holding.profiles.command("publish", short_help="Publish it, signed (发布省级资料).")(
    profile.publish
)
trust.trust.add_typer(holding.profiles, name="profile")
app.add_typer(identity.identity, name="identity")
app.add_typer(key.key, name="key")
node.app.command("init", short_help="Make a province's folder (建立省级文件夹).")(setup.init_node)
app.add_typer(node.app, name="node", short_help="A province's node (省级节点).")
app.add_typer(peer.peer, name="peer")
app.add_typer(audit.audit, name="audit")
app.add_typer(rules.rules, name="rules")
app.add_typer(
    exchange.exchange, name="exchange", short_help="A whole exchange on this machine (单机试用)."
)
app.add_typer(registry.app, name="registry", short_help="The registry (登记处).")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"tongxing {metadata.version('tongxing')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version. 版本。")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line of this process; the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without Chinese must not end a command
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; every error becomes one line on standard error.

    :returns: the exit code: 0; what the command says; 1 for an error, 2 for wrong usage, 130 for
        an interruption.
    """
    state = output.State()
    try:
        # Not standalone, or typer would print its own errors; what it returns is an exit code.
        code = app(args=list(arguments), prog_name="tongxing", obj=state, standalone_mode=False)
        return int(code or 0)
    except typer.TyperException as error:
        if usage.is_help(error):
            print(error.format_message(), file=sys.stderr)
        else:
            output.print_error(usage.wrong_usage(error), state.form)
        return error.exit_code
    except typer.Abort:
        output.print_line("已中止 aborted")
    except KeyboardInterrupt:  # in an instant when nobody further in takes it
        output.print_line("已中止 aborted")
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # noqa: BLE001 - the last line: a user is not shown a traceback
        return explain(error, state.form)
    return 1


def explain(error: Exception, form: output.Form) -> int:
    """Print what went wrong as one line on standard error.

    :returns: the exit code.
    """
    foreseen = isinstance(error, (TongxingError, OSError))
    if os.environ.get("TONGXING_DEBUG") == "1" and not foreseen:
        traceback.print_exception(error)
    else:
        output.print_error(output.told(error), form)
    return 1
