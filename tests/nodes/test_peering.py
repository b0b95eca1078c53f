"""ListPeers: what its operators see of a node and its peers; and ``tongxing peer list``."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

import pytest

from exchange.client.admin import Peering
from exchange.errors import CallerNotAllowedError, TrustListError
from exchange.provinces import PROVINCES
from exchange.v1 import peering_service_pb2 as pb
from nodes.call import Call
from nodes.cli import run
from nodes.identity import Identity, Role
from nodes.memory import resident
from nodes.peers.view import PeerView, PeerViews
from nodes.services.peering import PeeringService
from nodes.trial import TrialExchange

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
NOW = datetime(2022, 1, 10, 4, 0, 1, 250_000, tzinfo=UTC)
CALL = Call(Identity(GUANGDONG, Role.ADMIN, "admin"), "1")


class State(Enum):
    SYNCHRONISED = auto()
    SILENT = auto()


@dataclass
class Link:
    calls: int = 9
    errors: int = 2
    circuit_open: bool = True
    last_error: str = "UNAVAILABLE"


@dataclass
class Sync:
    state: State = State.SYNCHRONISED
    as_of: datetime | None = NOW
    presence_time: datetime | None = NOW - timedelta(hours=1)
    subjects: int = 588
    generation: int = 3
    lag: timedelta | None = timedelta(milliseconds=12)
    resynchronisations: int = 1
    last_error: str = ""


@pytest.fixture(scope="module")
def trust(tmp_path_factory):
    """Three provinces' list; nothing of it runs."""
    codes = (SICHUAN, GUANGDONG, SHANGHAI)
    return TrialExchange(tmp_path_factory.mktemp("peering") / "x", codes).trust()


def views(trust, links=None, syncs=None):
    return PeerViews(GUANGDONG, lambda: trust, (links or {}).get, (syncs or {}).get)


def test_every_other_province_is_listed_by_code(trust):
    found = views(trust, {SICHUAN: Link()}, {SICHUAN: Sync()})()
    assert [view.province for view in found] == [SHANGHAI, SICHUAN]
    assert found[1] == PeerView(
        SICHUAN,
        tuple(trust.profile(SICHUAN).addresses),
        "SYNCHRONISED",
        NOW,
        NOW - timedelta(hours=1),
        588,
        3,
        timedelta(milliseconds=12),
        circuit_open=True,
        calls=9,
        errors=2,
        resynchronisations=1,
        last_error="UNAVAILABLE",
    )


def test_a_province_that_was_never_heard_is_silent(trust):
    (shanghai, _) = views(trust)()
    assert shanghai == PeerView(SHANGHAI, tuple(trust.profile(SHANGHAI).addresses))
    assert shanghai.state == "SILENT"
    assert shanghai.as_of is None


def test_the_fault_of_the_synchronisation_is_told_before_that_of_a_call(trust):
    found = views(trust, {SICHUAN: Link()}, {SICHUAN: Sync(State.SILENT, last_error="it ended")})()
    assert (found[1].state, found[1].last_error) == ("SILENT", "it ended")


def test_without_a_usable_trust_list_nobody_is_listed():
    def none():
        raise TrustListError("it ended")

    assert PeerViews(GUANGDONG, none, {}.get, {}.get)() == []


async def test_the_answer_says_all_of_it(trust):
    service = PeeringService(
        province=GUANGDONG,
        trust=lambda: trust,
        peers=views(trust, {SICHUAN: Link()}, {SICHUAN: Sync()}),
        subjects=lambda: 42,
    )
    answer = await service.list_peers(pb.ListPeersRequest(), CALL)
    assert (answer.province, answer.trust_version, answer.subjects) == (GUANGDONG, 1, 42)
    assert abs(answer.memory_bytes - resident()) < 50 * 2**20
    shanghai, sichuan = answer.peers
    assert sichuan.state == pb.PEER_STATE_SYNCHRONISED
    assert sichuan.as_of_time.ToDatetime(UTC) == NOW
    assert sichuan.presence_time.ToDatetime(UTC) == NOW - timedelta(hours=1)
    assert sichuan.lag.ToTimedelta() == timedelta(milliseconds=12)
    assert (sichuan.subjects, sichuan.presence_generation) == (588, 3)
    assert (sichuan.circuit_open, sichuan.calls, sichuan.errors) == (True, 9, 2)
    assert (sichuan.resynchronisations, sichuan.last_error) == (1, "UNAVAILABLE")
    assert shanghai.state == pb.PEER_STATE_SILENT
    for field in ("as_of_time", "presence_time", "lag"):
        assert not shanghai.HasField(field)


async def test_a_lag_below_zero_is_told(trust):
    """Two clocks differ; to hide it would hide that."""
    sync = Sync(lag=timedelta(seconds=-2.5))
    service = PeeringService(
        province=GUANGDONG,
        trust=lambda: trust,
        peers=views(trust, {}, {SICHUAN: sync}),
        subjects=int,
    )
    answer = await service.list_peers(pb.ListPeersRequest(), CALL)
    assert answer.peers[1].lag.ToTimedelta() == timedelta(seconds=-2.5)


def test_it_may_be_asked_from_another_thread(trust):
    found = []
    thread = threading.Thread(target=lambda: found.extend(views(trust)()))
    thread.start()
    thread.join()
    assert len(found) == 2


# --- on real nodes ----------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["app", "issuer", "node"])
async def test_only_admins_may_ask(exchange, who):
    async with exchange.client(SICHUAN, who) as client:
        with pytest.raises(CallerNotAllowedError):
            await Peering(client).list()


async def test_another_provinces_admin_is_refused(exchange):
    async with exchange.client(SICHUAN, "admin", of=GUANGDONG) as client:
        with pytest.raises(CallerNotAllowedError):
            await Peering(client).list()


async def test_a_node_lists_its_peers(exchange):
    async with exchange.client(SICHUAN, "admin") as admin:
        answer = await Peering(admin).list()
    assert answer.province == SICHUAN
    assert answer.trust_version == exchange.trust().version
    assert 10 * 2**20 < answer.memory_bytes < 2**30
    assert [(peer.province, *peer.addresses) for peer in answer.peers] == [
        (code, exchange.addresses[code]) for code in (SHANGHAI, GUANGDONG)
    ]


def test_the_command_prints_each_peer(exchange, capsys):
    file = exchange.directory / SICHUAN / "admin.toml"
    assert run(["peer", "list", "--client", str(file)]) == 0
    text = capsys.readouterr().out
    for code in (GUANGDONG, SHANGHAI):
        assert all(word in text for word in (code, PROVINCES[code].zh, PROVINCES[code].en))
    assert "trust list: version" in text
    assert run(["peer", "list", "--client", str(file), "-o", "json"]) == 0
    peers = json.loads(capsys.readouterr().out)["peers"]
    assert [peer["province"] for peer in peers] == [SHANGHAI, GUANGDONG]
    assert all(peer["state"].startswith("PEER_STATE_") for peer in peers)
