"""A node of several processes: one port, one log, one page of metrics, and no refused call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from doors import need
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families
from waiting import alive, until

from exchange.client import Purpose
from exchange.errors import InvalidFieldError
from nodes import supervisor
from nodes.exposition import GAUGES, Sum
from nodes.identity import server_name
from nodes.listening import held
from nodes.trial import TrialExchange, free_ports, wait_until

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SECONDS = 100.0
"""That starts may take, one after the other, on a busy machine."""
RUN = (sys.executable, "-m", "nodes.cli", "node", "run", "--config")


def events(exchange, *names):
    lines = exchange.log("510000").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [each for each in found if each["event"] in names]


def said(exchange, name, times=1):
    wait_until(name, lambda: len(events(exchange, name)) >= times, SECONDS)


def children(pid):
    """The processes that a node's parent started and that live."""
    return {
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
        if alive(child)
    }


def serving(exchange):
    """The workers' processes, each in its place."""
    found = {}
    for each in events(exchange, "node.worker_serves", "node.worker_died", "node.worker_drained"):
        if each["worker"] == "hearing":
            continue
        if each["event"] == "node.worker_serves":
            found[each["worker"]] = each["pid"]
        elif found.get(each["worker"]) == each["pid"]:
            del found[each["worker"]]
    return found


def scraped(exchange):
    with urllib.request.urlopen(exchange.metrics, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return families, {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@contextlib.contextmanager
def misconfigured(node):
    config = node.directory / "510000" / "node.toml"
    good = config.read_text(encoding="utf-8")
    config.write_text("nonsense = 1\n" + good, encoding="utf-8")
    try:
        yield
    finally:
        config.write_text(good, encoding="utf-8")


@contextlib.contextmanager
def started(directory, invented, **environment):
    (port,) = free_ports(1)
    issuers = {"510000": (invented.ISSUER_CREDIT_CODE,)}
    with TrialExchange(directory, ["510000"], issuers=issuers) as trial:
        trial.metrics = f"http://127.0.0.1:{port}/metrics"
        trial.environment = {
            "TONGXING_WORKERS": "2",
            "TONGXING_METRICS__LISTEN": f"127.0.0.1:{port}",
            **environment,
        }
        trial.start(environment=trial.environment, seconds=SECONDS)
        said(trial, "node.serving")
        yield trial


@pytest.fixture(scope="module")
def node(tmp_path_factory, invented, no_traces):
    """Sichuan with two workers; the tests leave it serving, but the last of them."""
    with started(tmp_path_factory.mktemp("workers"), invented) as trial:
        yield trial
        no_traces(trial)


@pytest.fixture(scope="module")
def intruders(node):
    """Nodes that want the port, or the data, of one that runs; each is refused in its time."""
    config = node.directory / "510000" / "node.toml"
    (port,) = free_ports(1)
    elsewhere = str(node.directory / "elsewhere")
    wanted = {
        "one process on the port": {"TONGXING_DATA": elsewhere},
        "workers on the port": {"TONGXING_DATA": elsewhere + "-2", "TONGXING_WORKERS": "2"},
        "workers on the data": {"TONGXING_LISTEN": f"127.0.0.1:{port}", "TONGXING_WORKERS": "2"},
    }
    processes = {
        name: subprocess.Popen(
            [*RUN, config], stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        for name, environment in wanted.items()
    }
    yield processes
    for each in processes.values():
        each.kill()
        each.communicate()


def test_all_serve_and_it_is_said_once(node, intruders):
    del intruders  # they have begun to wait
    (line,) = events(node, "node.serving")
    assert line["workers"] == 2
    assert "worker" not in line
    assert node.addresses["510000"].endswith(f":{line['port']}")
    places = serving(node)
    assert set(places) == {0, 1}
    assert set(places.values()) < children(node.pid("510000"))
    assert {each["worker"] for each in events(node, "trust.verified")} >= {0, 1}


async def test_their_metrics_are_those_of_one_node(node, people):
    def counted():
        _, found = scraped(node)
        outcomes = ("RECOGNIZED", "NOT_RECOGNIZED", "INDETERMINATE")
        decided = sum(found["tongxing_decisions_total", outcome] for outcome in outcomes)
        return decided, found["tongxing_audit_recorded_total",]

    before, recorded = counted()
    for _ in range(8):
        async with node.client("510000", "app") as app:  # a connection each: they are spread
            await app.recognize(people.document(), CHECK)
    await until("both tell", lambda: counted() == (before + 8, recorded + 8))
    families, found = scraped(node)
    gauges = {family.name for family in families if family.type == "gauge"}
    assert gauges - {"tongxing_workers"} <= set(GAUGES), "what are these of several processes?"
    assert found["tongxing_workers",] == 2
    assert found["tongxing_trust_usable",] == 1
    assert found["tongxing_resident_bytes",] > 2 * 10 * 2**20


async def test_a_worker_that_dies_is_started_again_and_its_counts_stay(node, people):
    async with node.client("510000", "app") as app:
        await app.recognize(people.document(), CHECK)
    _, before = scraped(node)
    victim = serving(node)[1]
    os.kill(victim, signal.SIGKILL)
    await until("it is back", lambda: serving(node).get(1) not in (None, victim), SECONDS)
    (died,) = [each for each in events(node, "node.worker_died") if each["pid"] == victim]
    assert died["code"] == -signal.SIGKILL
    await until("two serve", lambda: scraped(node)[1]["tongxing_workers",] == 2)
    _, after = scraped(node)
    assert after["tongxing_worker_restarts_total",] == 1
    counts = {name for name in before if name[0].endswith("_total")}
    assert all(after[name] >= before[name] for name in counts)


@pytest.mark.parametrize(
    ("who", "field"),
    [
        ("one process on the port", "listen"),
        ("workers on the port", "listen"),
        ("workers on the data", "data"),
    ],
)
def test_another_node_is_refused(intruders, who, field):
    _, err = intruders[who].communicate(timeout=SECONDS)
    assert intruders[who].returncode == 1
    last = json.loads(err.splitlines()[-1])
    assert (last["event"], last["field"]) == ("node.failed", field)


def test_a_new_worker_that_does_not_start_disturbs_nothing(node):
    before = serving(node)
    with misconfigured(node):
        node.signal("510000", signal.SIGUSR2)
        said(node, "node.not_restarted")
    (failed,) = events(node, "node.failed")
    assert failed["field"] == "nonsense"
    assert serving(node) == before
    assert all(map(alive, before.values()))


class Load:
    """Calls that go on until it is left; what failed."""

    def __init__(self, node, people):
        self.node, self.people = node, people
        self.errors, self.done = [], 0
        home = node.directory / "510000"
        files = ("authority.pem", "app-key.pem", "app.pem")
        self.credentials = grpc.ssl_channel_credentials(
            *((home / name).read_bytes() for name in files)
        )

    async def __aenter__(self):
        self.ends = asyncio.Event()
        callers = [self.sdk, self.issue, self.plain, self.plain, self.plain, self.fresh]
        self.tasks = [asyncio.create_task(self.go_on(each)) for each in callers]
        return self

    async def __aexit__(self, *_):
        self.ends.set()
        await asyncio.gather(*self.tasks)

    async def go_on(self, caller):
        async with contextlib.aclosing(caller()) as calls:
            async for call in calls:
                try:
                    await call
                    self.done += 1
                except Exception as error:  # noqa: BLE001 - whatever it is
                    self.errors.append(error)
                if self.ends.is_set():
                    return
                await asyncio.sleep(0.05)

    async def sdk(self):
        async with self.node.client("510000", "app") as app:
            while True:
                yield app.recognize(self.people.document(), CHECK)

    async def issue(self):
        """Streams of some seconds: one that is open is let finish."""
        async with self.node.client("510000", "issuer") as issuer:
            while True:
                yield self.publish(issuer, [self.people.tested() for _ in range(30)])

    @staticmethod
    async def publish(issuer, rows):
        def slowly():
            for row in enumerate(rows):
                time.sleep(0.05)  # in a thread of its own
                yield row

        answers = [item async for item in issuer.publish_all(slowly())]
        assert not [item.error for item in answers if item.error]
        assert {item.attestation_id for item in answers} == {row.attestation_id for row in rows}

    async def plain(self):
        async with self.channel() as channel:
            check = self.check(channel)
            while True:
                yield check(b"")

    async def fresh(self):
        while True:
            async with self.channel() as channel:
                yield self.check(channel)(b"")

    def channel(self):
        name = ("grpc.ssl_target_name_override", server_name("510000"))
        own = ("grpc.use_local_subchannel_pool", 1)
        address = self.node.addresses["510000"]
        return grpc.aio.secure_channel(address, self.credentials, options=[name, own])

    @staticmethod
    def check(channel):
        return channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )


async def restarted(node, people):
    """Restart a node's workers while calls go on; what failed."""
    before, times = serving(node), len(events(node, "node.restarted"))
    async with Load(node, people) as load:
        await until("calls are answered", lambda: load.done > 50, SECONDS)
        node.signal("510000", signal.SIGUSR2)
        await until("it is restarted", lambda: len(events(node, "node.restarted")) > times, SECONDS)
        done = load.done
        await until("calls are answered on", lambda: load.done > done + 50, SECONDS)
    after = serving(node)
    assert set(after) == set(before) == {0, 1}
    assert not set(after.values()) & set(before.values())
    return load.errors


async def test_a_rolling_restart_refuses_no_call(node, people):
    assert await restarted(node, people) == []


async def test_a_rolling_restart_behind_envoy_refuses_no_call(tmp_path_factory, invented, people):
    need("envoy")
    directory = tmp_path_factory.mktemp("hosts")
    with started(directory, invented, TONGXING_DOOR="envoy") as node:
        assert await restarted(node, people) == []
        _, found = scraped(node)
        assert found["tongxing_workers",] == 2
        assert found["tongxing_audit_recorded_total",] > 0
        workers = children(node.pid("510000"))
        node.stop()
        assert not any(map(alive, workers))


def test_where_no_worker_starts_any_more_the_node_ends_with_its_error(node):
    with misconfigured(node):
        for worker in serving(node).values():
            os.kill(worker, signal.SIGKILL)
        assert node.exit_code("510000", SECONDS) == 1
    *_, last = node.log("510000").read_text(encoding="utf-8").splitlines()
    assert json.loads(last)["event"] == "node.failed"
    node.start(environment=node.environment, seconds=SECONDS)
    said(node, "node.serving", 2)


def test_nothing_outlives_a_parent_that_is_killed(node):
    orphans = children(node.pid("510000"))
    assert len(orphans) == 4  # with who hears, and its Valkey
    node.kill("510000")
    wait_until("all of them end", lambda: not any(map(alive, orphans)), SECONDS)
    node.start(environment=node.environment, seconds=SECONDS)
    said(node, "node.serving", 3)


def test_sigterm_ends_all_of_it(node):
    ours = children(node.pid("510000"))
    node.signal("510000", signal.SIGTERM)
    assert node.exit_code("510000", SECONDS) == 0
    assert not any(map(alive, ours))
    assert events(node, "node.stopped")[-1].get("worker") is None
    assert not (node.directory / "510000" / "data" / "valkey" / "valkey.sock").exists()


def test_what_the_first_worker_does_not_start_with_is_the_last_word(tmp_path, invented):
    issuers = {"510000": (invented.ISSUER_CREDIT_CODE,)}
    with TrialExchange(tmp_path / "x", ["510000"], issuers=issuers) as trial:
        environment = {"TONGXING_WORKERS": "3", "TONGXING_SIGNING__KEY": str(tmp_path / "no.pem")}
        with pytest.raises(InvalidFieldError, match=r"signing\.key"):
            trial.start(environment=environment, seconds=SECONDS)
        (failed,) = events(trial, "node.failed")
        assert failed["worker"] == 0
        assert trial.exit_code("510000", SECONDS) == 1


def test_another_system_refuses_several_processes(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    supervisor.require(SimpleNamespace(workers=1))
    with pytest.raises(InvalidFieldError) as refused:
        supervisor.require(SimpleNamespace(workers=2))
    assert refused.value.field == "workers"


def test_an_address_is_held_against_all_but_those_who_share_it():
    with held("127.0.0.1:0") as address:
        host, _, port = address.rpartition(":")
        with pytest.raises(InvalidFieldError), held(address):
            pass
        with socket.socket() as alone, pytest.raises(OSError, match="in use"):
            alone.bind((host, int(port)))
        sharing = socket.create_server((host, int(port)), reuse_port=True)
        with sharing, pytest.raises(InvalidFieldError), held(address):
            pass
    with held(address) as again:
        assert again == address


def page(up, calls, waiting):
    return (
        "# TYPE tongxing_peer_up gauge\n"
        f'tongxing_peer_up{{province="440000"}} {up}\n'
        "# TYPE tongxing_audit_waiting gauge\n"
        f"tongxing_audit_waiting {waiting}\n"
        "# TYPE tongxing_peer_calls_total counter\n"
        f'tongxing_peer_calls_total{{province="440000"}} {calls}\n'
    )


def test_counts_are_added_up_and_never_fall_and_an_alert_hides_behind_nobody():
    def values(pages):
        return {sample.name: sample.value for each in sum_.of(pages) for sample in each.samples}

    sum_ = Sum()
    assert values([page(1, 5, 2), page(0, 7, 3)]) == {
        "tongxing_peer_up": 0,
        "tongxing_audit_waiting": 5,
        "tongxing_peer_calls_total": 12,
    }
    sum_.ended(page(0, 7, 3))
    assert values([page(1, 6, 2), page(1, 0, 0)]) == {
        "tongxing_peer_up": 1,
        "tongxing_audit_waiting": 2,
        "tongxing_peer_calls_total": 13,
    }
