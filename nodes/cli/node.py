"""`tongxing node`: running a province's node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from nodes.cli import output

__all__ = ["app", "serve"]

app = typer.Typer(no_args_is_help=True, help="Run a province's node. 运行省级节点。")


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The node's TOML file. 节点配置文件。")],
) -> None:
    """Run a node until SIGTERM, then drain it. 运行节点，收到 SIGTERM 后平稳退出。"""
    from nodes import config as configuration
    from nodes import node

    serve("node", lambda: configuration.load(config), node.run)


@app.command(short_help="See that a node would start. 检查节点能否启动。")
def check(
    config: Annotated[Path, typer.Option(help="The node's TOML file. 节点配置文件。")],
) -> None:
    """See that a node would start, and name what is wrong. 检查节点能否启动。

    Configuration, certificates, keys, trust list and foreign certificates are read as at a start;
    the store, the access log and the addresses are not touched. A node that runs is not disturbed.
    """
    import asyncio

    from nodes import config as configuration
    from nodes import node, telemetry

    loaded = configuration.load(config)
    telemetry.configure("warning", "console")
    asyncio.run(node.check(loaded))
    typer.echo(f"可以启动 {config} is in order: the node of {loaded.province} on {loaded.listen}")


def serve(
    name: str, load: Callable[[], Any], run: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Run a node or a registry to its end; what it fails with is a line of its log.

    At a terminal, and where the log is for a person, the command line tells it as any other error.

    :param name: in the log: ``node``, ``registry``.
    :param load: gives the configuration, which ``run`` takes.
    """
    import structlog
    import uvloop

    from nodes import telemetry

    form = "json"
    try:
        loaded = load()
        form = loaded.log.form
        telemetry.configure(loaded.log.level, form)
        uvloop.run(run(loaded))
    except Exception as error:
        debugged = os.environ.get("TONGXING_DEBUG") == "1"
        if form != "json" or sys.stderr.isatty() or debugged:
            raise
        telemetry.configure("error", form)
        told = output.told(error)
        structlog.get_logger(__name__).error(
            f"{name}.failed",
            reason=told.reason,
            field=told.field,
            message=told.message,
            remedy=told.remedy,
        )
        raise typer.Exit(1) from None
