"""`tongxing node`: running a province's node."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodes.cli import output

if TYPE_CHECKING:
    from nodes.config import NodeConfig

__all__ = ["app", "log_failure", "serve"]

app = typer.Typer(no_args_is_help=True, help="Run a province's node. 运行省级节点。")


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The node's TOML file. 节点配置文件。")],
) -> None:
    """Run a node until SIGTERM, then drain it. 运行节点，收到 SIGTERM 后平稳退出。"""
    from nodes import config as configuration
    from nodes.worker import Worker

    def start(loaded: NodeConfig) -> int:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # for a parent; who is none would end of it
        worker = Worker.here()
        if loaded.workers > 1 and worker.alone:
            return _supervise(loaded, config)
        import uvloop

        from nodes import hearing, node

        if worker.hears:
            uvloop.run(hearing.run(loaded))
            return 0
        if loaded.door == "envoy":
            from nodes.doors import envoy

            envoy.become("nodes.cli.hosted:app", config, loaded, node.CONTRACT)
        uvloop.run(node.run(loaded))
        return 0

    serve("node", lambda: configuration.load(config), start)


def _supervise(loaded: NodeConfig, config: Path) -> int:
    """Be the parent of workers; gRPC is not imported."""
    import asyncio

    from nodes import supervisor

    return asyncio.run(supervisor.run(loaded, config.resolve()))


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
    from nodes import node, supervisor, telemetry

    loaded = configuration.load(config)
    telemetry.configure("warning", "console")
    supervisor.require(loaded)
    asyncio.run(node.check(loaded))
    workers = f", {loaded.workers} workers" if loaded.workers > 1 else ""
    typer.echo(
        f"可以启动 {config} is in order: the node of {loaded.province} on {loaded.listen}{workers}"
    )


def serve(name: str, load: Callable[[], Any], run: Callable[[Any], int | None]) -> None:
    """Run a node or a registry to its end; what it fails with is a line of its log.

    :param name: in the log: ``node``, ``registry``.
    :param load: gives the configuration.
    :param run: takes it, and gives the exit code if it is not 0.
    """
    from nodes import telemetry

    form = "json"
    try:
        loaded = load()
        form = loaded.log.form
        telemetry.configure(loaded.log.level, form)
        code = run(loaded)
    except Exception as error:
        if not log_failure(name, error, form):
            raise
        raise typer.Exit(1) from None
    if code:
        raise typer.Exit(code)


def log_failure(name: str, error: Exception, form: str) -> bool:
    """Tell an error as a line of the log.

    :param form: of the log.
    :returns: False at a terminal, and where the log is for a person: the command line is to tell it
        as any other.
    """
    import structlog

    from nodes import telemetry

    debugged = os.environ.get("TONGXING_DEBUG") == "1"
    if form != "json" or sys.stderr.isatty() or debugged:
        return False
    telemetry.configure("error", form)
    told = output.told(error)
    structlog.get_logger(__name__).error(
        f"{name}.failed",
        reason=told.reason,
        field=told.field,
        message=told.message,
        remedy=told.remedy,
    )
    return True
