"""``tongxing peer``: how the province's node stands with the other provinces."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from nodes.cli import client, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client.admin import Peer

__all__ = ["peer"]

peer = typer.Typer(no_args_is_help=True, help="The other provinces (对端省份).")

_STATES = {
    "SYNCHRONISED": "同步 heard",
    "RESYNCHRONISING": "同步中 fetching",
    "SILENT": "失联 silent",
}


@peer.callback()
def _peer() -> None:
    """A noun of one verb is still a noun."""


@peer.command("list", short_help="How it stands with each (列出对端).")
def list_(client_file: ClientOption = None, form: FormOption = Form.PRETTY) -> None:
    """List the other provinces as this node sees them; for its admins. 列出对端省份。"""

    async def work(node: Any) -> Any:
        from exchange.client.admin import Peering

        return await Peering(node).list()

    answer = client.call(client_file, work)
    if form is Form.JSON:
        output.print_json(output.to_json(answer))
        return
    output.console().print(
        output.table(
            f"{output.province_name(answer.province)}: 对端省份 Peers",
            (
                "省级行政区 province",
                "状态 state",
                "截至 as of",
                "过滤器",
                "持码人",
                "时延 lag",
                "失败 failed",
                "故障 fault",
            ),
            (_row(each, datetime.now(UTC)) for each in answer.peers),
        )
    )
    print(
        f"信任列表 trust list: version {answer.trust_version}; "
        f"本省持码人 own subjects: {answer.subjects:,}; "
        f"内存 memory: {answer.memory_bytes / 2**20:,.0f} MiB"
    )


def _row(each: Peer, now: datetime) -> tuple[str, ...]:
    from exchange.v1 import peering_service_pb2 as pb

    state = output.enum_name(pb.PeerState, each.state)
    cut = " 熔断 circuit open" if each.circuit_open else ""
    return (
        output.province_name(each.province),
        f"{_STATES.get(state, state)}{cut}",
        output.age(each.as_of_time.ToDatetime(UTC) if each.HasField("as_of_time") else None, now),
        output.age(
            each.presence_time.ToDatetime(UTC) if each.HasField("presence_time") else None, now
        ),
        f"{each.subjects:,}",
        output.milliseconds(each.lag.ToTimedelta() if each.HasField("lag") else None),
        f"{each.errors:,}/{each.calls:,}",
        each.last_error,
    )
