"""`tongxing registry`: running the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodes.cli.node import serve

app = typer.Typer(no_args_is_help=True, help="Run the registry. 运行登记处。")


@app.callback()
def _noun() -> None:
    """Keep the verb, though there is one only."""


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The registry's TOML file. 登记处配置文件。")],
) -> None:
    """Run the registry until SIGTERM (运行登记处)."""
    import uvloop

    from nodes import registry, settings

    serve(
        "registry",
        lambda: settings.read(config, registry.RegistryConfig),
        lambda loaded: uvloop.run(registry.run(loaded)),
    )
