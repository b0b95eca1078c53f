"""`tongxing node`: running a province's node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Run a province's node. 运行省级节点。")


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The node's TOML file. 节点配置文件。")],
) -> None:
    """Run a node until SIGTERM, then drain it. 运行节点，收到 SIGTERM 后平稳退出。"""
    import uvloop

    from nodes import config as configuration
    from nodes import node, telemetry

    loaded = configuration.load(config)
    if loaded.door == "envoy":
        from nodes.doors import envoy

        envoy.become("nodes.cli.hosted:app", config, loaded, node.CONTRACT)
    telemetry.configure(loaded.log.level, loaded.log.form)
    uvloop.run(node.run(loaded))


@app.command()
def check(
    config: Annotated[Path, typer.Option(help="The node's TOML file. 节点配置文件。")],
) -> None:
    """Read a configuration and name what is wrong with it. 检查配置文件。"""
    from nodes import config as configuration

    loaded = configuration.load(config)
    typer.echo(f"{config} is in order: the node of {loaded.province} on {loaded.listen}")
