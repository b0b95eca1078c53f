"""The node as Envoy's application; `tongxing node run` makes Envoy load it (``door = "envoy"``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from nodes import cli, node, telemetry
from nodes import config as configuration
from nodes.cli import output
from nodes.cli.node import log_failure
from nodes.doors.envoy import Hosted

__all__ = ["app"]


async def _run(file: Path, stop: asyncio.Event, listens: Callable[[], Awaitable[None]]) -> int:
    form = "json"
    try:
        config = configuration.load(file)
        form = config.log.form
        telemetry.configure(config.log.level, form)
        await node.serve(config, stop, listens)
    except Exception as error:  # noqa: BLE001 - as on the command line
        return int(log_failure("node", error, form)) or cli.explain(error, output.State().form)
    return 0


app = Hosted(_run)
