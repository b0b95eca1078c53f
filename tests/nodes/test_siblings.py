"""Who looked at whose data, where each of a province's nodes has a log: each shows all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs
from waiting import SECONDS, freeze, until

from exchange.client import Client, Purpose
from exchange.client.auditing import Accesses
from exchange.errors import StoreUnavailableError
from exchange.v1 import audit_service_pb2 as pb
from nodes.audit.entries import Entry
from nodes.audit.log import AuditLog
from nodes.call import Call
from nodes.cli import run
from nodes.identity import Identity, Role
from nodes.peers.siblings import Siblings
from nodes.services.audit import AuditService
from nodes.store.lognames import LogNames
from nodes.tlsfiles import TlsFiles
from nodes.trial import TrialExchange, free_ports, wait_until

SICHUAN = "510000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK
NOON = datetime(2022, 1, 10, 4, tzinfo=UTC)
DAY = timedelta(days=1)
KEPT = 184
ADMIN = Identity(SICHUAN, Role.ADMIN, "admin-1")
NODE = Identity(SICHUAN, Role.NODE, "node-1")
LIST = Call(ADMIN, "list")
RUN = (sys.executable, "-P", "-m", "nodes.cli", "node", "run")


# --- many nodes in one process ---------------------------------------------------------------


class Province:
    """Its nodes' services, which reach each other without a wire, each at two addresses."""

    def __init__(self):
        self.now = NOON
        self.logs, self.services = [], []
        self.down = set()
        """The names of those that do not answer."""
        self.known = True
        """Whether the store tells which nodes there are."""

    def add(self, directory):
        log = AuditLog.open(directory, lambda: self.now, KEPT, spool_bytes=1 << 16)
        self.logs.append(log)
        self.services.append(
            AuditService(
                audit=log,
                subjects=None,
                clock=lambda: self.now,
                siblings=self,
                names=Others(self, log.name),
            )
        )
        return log

    async def accesses(self, request, request_id, seconds):
        self.seconds = seconds
        call = Call(NODE, request_id)
        return [
            await service.list_node_accesses(request, call)
            for log, service in 2 * list(zip(self.logs, self.services, strict=True))
            if log.name not in self.down
        ]

    async def list(self, at, token="", size=1000, call=LIST):
        """What was recorded before the third day, of one of them."""
        request = pb.ListAccessesRequest(page_size=size, page_token=token, end_time=END)
        return await self.services[at].list_accesses(request, call)


END = Timestamp(seconds=int((NOON + 2 * DAY).timestamp()))


@dataclasses.dataclass
class Others:
    province: Province
    own: str

    async def others(self):
        if not self.province.known:
            raise StoreUnavailableError("no answer")
        return {log.name for log in self.province.logs} - {self.own}


NODES, EACH = 4, 5


@pytest.fixture
async def province(tmp_path):
    """Four nodes; all that they recorded is of two moments of two days."""
    made, chance = Province(), random.Random(6)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(NODES):
            log = made.add(tmp_path / str(number))
            stack.push_async_callback(log.close)
            days = sorted(chance.choices(range(2), k=EACH))
            for at, day in enumerate(days):
                made.now = NOON + day * DAY
                log.record(Entry("spiffe://…", "Recognize", f"{number}.{at}", "…"))
        made.now = NOON + 3 * DAY
        yield made


async def test_pages_lead_through_the_logs_of_all_whichever_node_each_is_asked_of(province):
    whole = await province.list(0)
    ids = [each.request_id for each in whole.accesses]
    times = [each.access_time.ToDatetime() for each in whole.accesses]
    assert sorted(ids) == [f"{node}.{at}" for node in range(NODES) for at in range(EACH)]
    assert times == sorted(times, reverse=True)
    assert (whole.next_page_token, whole.partial, list(whole.missing_nodes)) == ("", False, [])
    for size in (1, 6):
        found, token, places = [], "", itertools.cycle(range(NODES))
        while token or not found:
            page = await province.list(next(places), token, size)
            found += [each.request_id for each in page.accesses]
            token = page.next_page_token
            assert len(token) <= 200
            assert len(found) <= len(ids)
        assert found == ids


async def test_a_node_that_does_not_answer_is_named(province):
    gone = {log.name for log in province.logs[2:4]}
    province.down = gone
    page = await province.list(0)
    assert len(page.accesses) == (NODES - 2) * EACH
    assert (page.partial, list(page.missing_nodes)) == (True, sorted(gone))
    province.down = set()
    assert not (await province.list(0)).partial


async def test_where_nobody_knows_which_nodes_there_are_the_answer_is_partial(province):
    province.known = False
    page = await province.list(0)
    assert len(page.accesses) == NODES * EACH
    assert (page.partial, list(page.missing_nodes)) == (True, [])


async def test_a_look_is_recorded_once_where_it_was_asked_and_without_a_holder_elsewhere(province):
    await province.list(0, size=1)
    for at, log in enumerate(province.logs[:2]):
        last, *_ = (await log.list(None, start=NOON + 3 * DAY)).accesses
        assert (last.method, last.target, last.request_id, last.holders) == (
            "ListNodeAccesses" if at else "ListAccesses",
            "everybody",
            "list",
            (),
        )


# --- whose logs there are --------------------------------------------------------------------


async def test_a_node_is_missed_for_as_long_as_its_log_may_hold_anything(raw):
    now = NOON
    names = [LogNames(raw, each, lambda: now, KEPT * DAY) for each in ("aa", "bb")]
    tasks = [asyncio.create_task(each.run()) for each in names]
    try:
        await until("both are known", lambda: _knows(names[0], {"bb"}))
        assert await names[1].others() == {"aa"}
        now += KEPT * DAY
        assert await names[1].others() == {"aa"}
        now += DAY
        assert await names[1].others() == set()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _knows(names, others):
    return await names.others() == others


# --- two nodes on one store ------------------------------------------------------------------


class Two:
    """Sichuan's nodes A and B, on the store of A."""

    def __init__(self, exchange):
        self.exchange, self.home = exchange, exchange.directory / SICHUAN
        self.at = {"A": exchange.addresses[SICHUAN], "B": f"127.0.0.1:{free_ports(1)[0]}"}
        # B by a name, which stands for two addresses, of which one may be nobody's.
        addresses = (self.at["A"], self.at["B"].replace("127.0.0.1", "localhost"))
        profile = exchange.trust().profile(SICHUAN)
        exchange.publish(dataclasses.replace(profile, addresses=addresses))
        exchange.start()
        self.start_b()

    def start_b(self):
        # B is told where A is; A finds B by the profile.
        environment = {
            "TONGXING_AUDIT__SIBLINGS": json.dumps([self.at["A"]]),
            "TONGXING_LISTEN": self.at["B"],
            "TONGXING_DATA": str(self.home / "data-b"),
            "TONGXING_STORE__URL": f"unix://{self.exchange.store(SICHUAN)}",
        }
        with self.exchange.log(SICHUAN).open("ab") as log:
            self.b = subprocess.Popen(
                [*RUN, "--config", str(self.home / "node.toml")],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )

        wait_until("B serves", self._b_serves, SECONDS)

    def _b_serves(self):
        assert self.b.poll() is None
        host, _, port = self.at["B"].rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    def heads(self):
        """What the nodes logged of their access logs' heads."""
        lines = map(json.loads, self.exchange.log(SICHUAN).read_text().splitlines())
        return [each for each in lines if each["event"] == "audit.head"]

    def kill_b(self):
        self.b.kill()
        self.b.wait()

    def client(self, name):
        """An app's client of one of them."""
        return Client.from_files(
            self.at[name],
            province=SICHUAN,
            certificate=self.home / "app.pem",
            key=self.home / "app-key.pem",
            trust=self.exchange.trust(),
        )


@pytest.fixture(scope="module")
def two(tmp_path_factory, no_traces):
    with TrialExchange(tmp_path_factory.mktemp("two"), [SICHUAN]) as exchange:
        made = Two(exchange)
        try:
            yield made
        finally:
            made.kill_b()
    no_traces(exchange)


def methods(page):
    return [each.method for each in page.accesses]


async def test_each_node_shows_the_accesses_through_both(two, people):
    somebody = people.document()
    async with two.client("A") as a, two.client("B") as b:
        for app in (a, b, a):
            await app.recognize(somebody, CHECK)
        for asked, app in enumerate((a, b, a)):
            page = await Accesses(app).list(somebody)
            assert not page.partial
            assert methods(page) == [*["ListAccesses"] * asked, *["Recognize"] * 3]
        token, found = "", []
        for app in (a, b, a):
            page = await Accesses(app).list(somebody, page_size=2, page_token=token)
            found += page.accesses
            token = page.next_page_token
        assert token == ""
        assert [each.method for each in found] == ["ListAccesses"] * 3 + ["Recognize"] * 3
        assert len({each.request_id for each in found}) == 6


async def test_a_holder_sees_nothing_of_another_through_any_node(two, people):
    somebody, other = people.document(), people.document()
    async with two.client("A") as a, two.client("B") as b:
        await b.recognize(other, CHECK)
        page = await Accesses(a).list(somebody)
        assert (list(page.accesses), page.partial) == ([], False)


async def test_one_that_hangs_is_waited_for_no_longer_than_the_caller_has(two, province):
    tls = TlsFiles(two.home / "node.pem", two.home / "node-key.pem")
    trust = two.exchange.trust()
    request = pb.ListNodeAccessesRequest(everybody=True, page_size=1)
    ways = Siblings(SICHUAN, lambda: trust, tls, [two.at["B"]])
    async with contextlib.aclosing(ways):
        (answer,) = await ways.accesses(request, "before", SECONDS)
        assert answer.node
        freeze(two.b.pid)
        try:
            with capture_logs() as logged:
                for _ in range(2):
                    assert await ways.accesses(request, "meanwhile", 0.2) == []
        finally:
            two.b.send_signal(signal.SIGCONT)
        assert [each["why"] for each in logged] == ["DEADLINE_EXCEEDED"]
        (again,) = await ways.accesses(request, "after", SECONDS)
        assert again.node == answer.node
    now = asyncio.get_running_loop().time()
    await province.list(0, call=Call(ADMIN, "list", now + 5))
    assert 0 < province.seconds <= 4


def test_a_node_that_is_down_makes_the_list_partial_and_that_is_said(
    two, people, capsys, monkeypatch
):
    """B is down, and comes back."""
    number = people.document().number

    def listed(*arguments):
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{number}\n"))
        file = two.home / "app.toml"
        code = run(["audit", "list", "--client", str(file), "--document-number", "-", *arguments])
        said = capsys.readouterr()
        assert (code, number in said.out + said.err) == (0, False)
        return said

    assert listed().err == ""
    two.kill_b()
    first, *later = two.heads()  # A says its own at its start, before B's
    (name,) = {each["node"] for each in later} - {first["node"]}
    said = listed()
    assert f"不完整：1 个节点未答复（{name}）" in said.err
    assert "incomplete: 1 node of the province did not answer" in said.err
    assert said.err.count("\n") == 1
    assert "ListAccesses" in said.out
    found = json.loads(listed("--output", "json").out)
    assert (found["partial"], found["missing_nodes"]) == (True, [name])
    two.start_b()
    end = time.monotonic() + SECONDS
    while json.loads(listed("--output", "json").out)["partial"]:
        assert time.monotonic() < end
