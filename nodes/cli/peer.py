"""``tongxing peer``: how the province's node stands with the other provinces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from nodes.cli import client, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client.admin import Peer

__all__ = ["peer"]

peer = typer.Typer(no_args_is_help=True, help="The other provinces (对端省份).")

_STATES = {"SYNCHRONISED": "同步", "RESYNCHRONISING": "同步中", "SILENT": "失联"}


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
                "地址 addresses",
                "状态 state",
                "截至 as of",
                "持码人 subjects",
                "过滤器 filter",
                "时延 lag",
                "调用 calls",
                "重同步 resyncs",
                "最近故障 last fault",
            ),
            (_row(each) for each in answer.peers),
        )
    )
    print(
        f"信任列表 trust list: version {answer.trust_version}; "
        f"本省持码人 own subjects: {answer.subjects:,}; "
        f"内存 memory: {answer.memory_bytes / 2**20:,.0f} MiB"
    )


def _row(each: Peer) -> tuple[Any, ...]:
    from exchange.v1 import peering_service_pb2 as pb

    state = output.enum_name(pb.PeerState, each.state)
    known = each.HasField("presence_time")
    return (
        output.province_name(each.province),
        output.lines(each.addresses),
        f"{_STATES.get(state, '')} {state}".strip() + (" 熔断 circuit open" * each.circuit_open),
        output.moment(each.as_of_time) if each.HasField("as_of_time") else "从未 never",
        f"{each.subjects:,}" if known else "",
        f"{each.presence_generation}: {output.moment(each.presence_time)}"
        if known
        else "从未 never",
        f"{each.lag.ToTimedelta().total_seconds() * 1000:,.0f} ms" if each.HasField("lag") else "",
        f"{each.calls:,}, {each.errors:,} 失败 failed",
        f"{each.resynchronisations:,}",
        each.last_error,
    )
