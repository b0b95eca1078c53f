"""What the operator of a standing exchange wants to know, asked of all its nodes, and judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from exchange.errors import TongxingError
from exchange.v1 import peering_service_pb2 as pb
from exchange.v1 import trust_service_pb2
from nodes.identity import registry_name, server_name
from nodes.trial import REGISTRY
from nodes.trial.standing import Place, Standing

__all__ = ["Fault", "NodeView", "Overview", "Unheard", "look"]

_SECONDS: Final = 5.0
"""That one has for its answer."""
_SOON: Final = timedelta(hours=1)
_LARGEST: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node.

    :param pid: its process; None: none that `tongxing exchange up` started runs.
    :param answer: what it says of itself; None: no answer came, and ``why``.
    """

    place: Place
    pid: int | None
    answer: pb.ListPeersResponse | None
    why: str = ""

    @property
    def synchronised(self) -> int:
        """How many peers' changes it hears."""
        return sum(map(_heard, self.answer.peers)) if self.answer else 0

    @property
    def lag(self) -> timedelta | None:
        """The worst of its peers'."""
        peers = self.answer.peers if self.answer else ()
        return max((each.lag.ToTimedelta() for each in peers if each.HasField("lag")), default=None)

    @property
    def presence(self) -> datetime | None:
        """When the oldest of its peers' filters was fetched; None: one never was."""
        peers = self.answer.peers if self.answer else ()
        if not all(each.HasField("presence_time") for each in peers):
            return None
        return min((each.presence_time.ToDatetime(UTC) for each in peers), default=None)

    @property
    def calls(self) -> int:
        """Made to peers."""
        return sum(each.calls for each in self.answer.peers) if self.answer else 0

    @property
    def errors(self) -> int:
        """Of these, how many failed."""
        return sum(each.errors for each in self.answer.peers) if self.answer else 0


@dataclass(frozen=True, slots=True)
class Unheard:
    """A pair: ``province`` does not hear of the changes of ``peer``.

    :param state: as in the contract, or UNKNOWN where it does not even list it.
    :param since: when it last heard; None: never.
    """

    province: str
    peer: str
    state: str
    since: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    :param code: for machines: NOT_RUNNING, NO_ANSWER, BEHIND, NOT_HEARD, CIRCUIT_OPEN, LIST_ENDS.
    :param province: where; ``registry`` for the registry, "" for the exchange.
    """

    code: str
    province: str
    zh: str
    en: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, at one time.

    :param registry: the registry's process id and the list's version there, each None where there
        is none; None: the exchange has no registry.
    :param list_ends: when the list in the folder ends.
    """

    directory: Path
    time: datetime
    nodes: tuple[NodeView, ...]
    registry: tuple[int | None, int | None] | None
    list_ends: datetime | None

    @property
    def pairs(self) -> int:
        """How many pairs should hear each other."""
        return len(self.nodes) * (len(self.nodes) - 1)

    @property
    def synchronised(self) -> int:
        """How many do."""
        return sum(view.synchronised for view in self.nodes)

    @property
    def unheard(self) -> tuple[Unheard, ...]:
        """Which do not, as far as the nodes answer."""
        return tuple(_unheard(self.nodes))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that is wrong."""
        return tuple(_faults(self))


async def look(standing: Standing) -> Overview:
    """Ask all nodes at once how they stand."""
    nodes = [place for place in standing.places if place.name != REGISTRY]
    registries = [place for place in standing.places if place.name == REGISTRY]
    views, versions = await asyncio.gather(
        asyncio.gather(*(_node(place) for place in nodes)),
        asyncio.gather(*(_version_of(place) for place in registries)),
    )
    registry = (registries[0].pid(), versions[0]) if registries else None
    try:
        ends = standing.ends()
    except TongxingError:
        ends = None
    return Overview(standing.directory, datetime.now(UTC), tuple(views), registry, ends)


# --- asking -----------------------------------------------------------------------------------


async def _node(place: Place) -> NodeView:
    pid = place.pid()
    try:
        answer = await _call(
            place, "PeeringService/ListPeers", pb.ListPeersRequest(), pb.ListPeersResponse
        )
    except (grpc.aio.AioRpcError, OSError) as error:
        return NodeView(place, pid, None, _why(error))
    return NodeView(place, pid, answer)


async def _version_of(place: Place) -> int | None:
    """The version of the list at the registry."""
    response = trust_service_pb2.GetTrustMetadataResponse
    request = trust_service_pb2.GetTrustMetadataRequest()
    try:
        answer = await _call(place, "TrustService/GetTrustMetadata", request, response)
    except (grpc.aio.AioRpcError, OSError):
        return None
    version: int = answer.holds.snapshot
    return version


async def _call(place: Place, method: str, request: Any, response: type[Any]) -> Any:
    """As an admin of the province that speaks for the place; no trust list is needed for it."""
    home = place.home.parent / place.host
    credentials = grpc.ssl_channel_credentials(
        *((home / name).read_bytes() for name in ("authority.pem", "admin-key.pem", "admin.pem"))
    )
    name = registry_name(place.host) if place.name == REGISTRY else server_name(place.host)
    options = (
        ("grpc.ssl_target_name_override", name),
        ("grpc.max_receive_message_length", _LARGEST),
    )
    async with grpc.aio.secure_channel(place.address, credentials, options) as channel:
        ask: Any = channel.unary_unary(
            f"/tongxing.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await ask(request, timeout=_SECONDS)


def _why(error: grpc.aio.AioRpcError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return f"{error.code().name}: {error.details()}"


# --- judging ----------------------------------------------------------------------------------


def _heard(peer: pb.Peer) -> bool:
    return peer.state == pb.PEER_STATE_SYNCHRONISED


def _unheard(views: Sequence[NodeView]) -> Iterator[Unheard]:
    for view in views:
        if view.answer is None:
            continue
        listed = {each.province: each for each in view.answer.peers}
        for other in views:
            province, code = view.place.name, other.place.name
            if code == province:
                continue
            peer = listed.get(code)
            if peer is None:
                yield Unheard(province, code, "UNKNOWN", why="it does not list it")
            elif not _heard(peer):
                state = pb.PeerState.Name(peer.state).removeprefix("PEER_STATE_")
                since = peer.as_of_time.ToDatetime(UTC) if peer.HasField("as_of_time") else None
                yield Unheard(province, code, state, since, peer.last_error)


def _faults(overview: Overview) -> Iterator[Fault]:
    up = f"run `tongxing exchange up --directory {overview.directory}`"
    if overview.registry is not None:
        pid, version = overview.registry
        log = overview.directory / REGISTRY / "node.log"
        if pid is None and version is None:
            yield Fault("NOT_RUNNING", REGISTRY, "未运行", "it does not run", up)
        elif version is None:
            yield Fault("NO_ANSWER", REGISTRY, "没有应答", "it does not answer", f"read {log}")
    yield from _list_ends(overview, up)
    newest = max(
        [
            *(view.answer.trust_version for view in overview.nodes if view.answer),
            *(each for each in (overview.registry or ())[1:] if each),
        ],
        default=0,
    )
    unheard = overview.unheard
    answering = {view.place.name for view in overview.nodes if view.answer}
    for view in overview.nodes:
        code, log = view.place.name, view.place.log
        if view.answer is None:
            if view.pid is None:
                yield Fault("NOT_RUNNING", code, "未运行", "it does not run", up)
            else:
                yield Fault(
                    "NO_ANSWER", code, "没有应答", f"process {view.pid} is silent: {view.why}",
                    f"read {log}; if it does not recover, end the process, and {up}",
                )  # fmt: skip
            continue
        if view.answer.trust_version < newest:
            yield Fault(
                "BEHIND", code, "信任列表版本落后",
                f"it holds version {view.answer.trust_version} of the trust list, not {newest}",
                f"look again in a minute; then read {log}",
            )  # fmt: skip
        # Who is down is named already, and nobody can hear it.
        deaf = [each for each in unheard if each.province == code and each.peer in answering]
        if deaf:
            whom = ", ".join(each.peer for each in deaf)
            yield Fault(
                "NOT_HEARD", code, "未同步", f"it does not hear of the changes of {whom}",
                f"look again in a minute; then read {log}",
            )  # fmt: skip
        if cut := [each.province for each in view.answer.peers if each.circuit_open]:
            yield Fault(
                "CIRCUIT_OPEN", code, "熔断", f"it does not call {', '.join(cut)}, which failed",
                "it tries again by itself; read the log of the node that failed",
            )  # fmt: skip


def _list_ends(overview: Overview, up: str) -> Iterator[Fault]:
    ends = overview.list_ends
    if ends is None:
        yield Fault("LIST_ENDS", "", "信任列表不可读", "the trust list cannot be read", up)
    elif ends < overview.time + _SOON:
        yield Fault(
            "LIST_ENDS", "", "信任列表即将失效或已失效",
            f"the list in {overview.directory / 'trust'} ends at {ends:%Y-%m-%dT%H:%M:%SZ}",
            f"{up}: it signs it anew",
        )  # fmt: skip
