from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from waiting import until

from exchange.errors import StoreUnavailableError
from nodes.embedded import EmbeddedValkey
from nodes.store.connection import Connection

NODE = """
import asyncio, sys
from pathlib import Path
from nodes.embedded import EmbeddedValkey
from nodes.store.connection import Connection

async def main():
    valkey = EmbeddedValkey(Path(sys.argv[1]))
    await valkey.start()
    connection = await Connection.open(valkey.url)
    await connection.execute(b"SET", b"kept", b"yes")
    print("pid", valkey.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    return request.param()


async def ask(valkey: EmbeddedValkey, *command: bytes):
    connection = await Connection.open(valkey.url)
    try:
        return await connection.execute(*command)
    finally:
        await connection.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child whose parent was killed may stay as a zombie where nothing reaps orphans.
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


async def test_data_outlives_an_orderly_stop(tmp_path):
    for reply in (None, b"1"):
        valkey = EmbeddedValkey(tmp_path)
        await valkey.start()
        assert await ask(valkey, b"GET", b"k") == reply
        assert await ask(valkey, b"SET", b"k", b"1") == b"OK"
        await valkey.stop()
        assert valkey.pid is None


async def test_nobody_else_reaches_its_data_or_its_socket(valkey, tmp_path):
    assert mode(tmp_path / "store") == 0o700
    assert mode(Path(valkey.url.removeprefix("unix://"))) == 0o700
    assert await ask(valkey, b"CONFIG", b"GET", b"port") == [b"port", b"0"]


async def test_an_acknowledged_write_is_fsynced_first(valkey):
    assert await ask(valkey, b"CONFIG", b"GET", b"appendonly") == [b"appendonly", b"yes"]
    assert await ask(valkey, b"CONFIG", b"GET", b"appendfsync") == [b"appendfsync", b"always"]
    policy = await ask(valkey, b"CONFIG", b"GET", b"maxmemory-policy")
    assert policy == [b"maxmemory-policy", b"noeviction"]


async def test_a_terminals_interrupt_does_not_reach_it(valkey):
    assert os.getpgid(valkey.pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_nodes_environment_does_not_reach_it(valkey):
    assert environment(valkey.pid) == b""


async def test_a_killed_valkey_comes_back_with_its_data(valkey):
    await ask(valkey, b"SET", b"k", b"1")
    first = valkey.pid
    os.kill(first, signal.SIGKILL)

    await until("another runs", lambda: valkey.pid not in {None, first})

    async def kept() -> bool:
        try:
            return await ask(valkey, b"GET", b"k") == b"1"
        except StoreUnavailableError:
            return False

    await until("it has its data", kept)


async def test_it_can_be_stopped_while_it_is_down(valkey):
    os.kill(valkey.pid, signal.SIGKILL)
    await valkey.stop()
    await valkey.start()
    assert await ask(valkey, b"PING") == b"PONG"


async def test_a_second_start_is_refused(valkey):
    with pytest.raises(RuntimeError):
        await valkey.start()
    assert await ask(valkey, b"PING") == b"PONG"


async def test_a_second_node_on_one_directory_is_refused(valkey, tmp_path):
    second = EmbeddedValkey(tmp_path / "store", lock_seconds=0.1)
    with pytest.raises(StoreUnavailableError, match="another node runs on") as refused:
        await second.start()
    assert refused.value.remedy
    assert await ask(valkey, b"PING") == b"PONG"


async def test_a_second_node_waits_for_a_predecessor_that_ends(valkey, tmp_path):
    second = EmbeddedValkey(tmp_path / "store")
    starting = asyncio.create_task(second.start())
    await valkey.stop()
    await starting
    assert await ask(second, b"PING") == b"PONG"
    await second.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_killed_node_takes_its_valkey_with_it(tmp_path):
    node = subprocess.Popen(  # noqa: ASYNC220  # the child of another node, not of this loop
        [sys.executable, "-c", NODE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    with node, node.stdout:
        said = ""
        while not said.startswith("pid"):
            said = node.stdout.readline()
            assert said
        pid = int(said.split()[1])
        assert running(pid)
        node.kill()
    await until("its Valkey ends too", lambda: not running(pid))
    successor = EmbeddedValkey(tmp_path)
    await successor.start()
    assert await ask(successor, b"GET", b"kept") == b"yes"
    await successor.stop()


async def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path):
    deep = tmp_path / ("长" * 40) / "with space"
    valkey = EmbeddedValkey(deep)
    await valkey.start()
    socket = Path(valkey.url.removeprefix("unix://"))
    assert len(os.fsencode(socket)) <= 100
    assert mode(socket.parent) == 0o700
    assert await ask(valkey, b"PING") == b"PONG"
    assert (deep / "appendonlydir").is_dir()
    await valkey.stop()
    assert not socket.parent.exists()


async def test_a_path_with_odd_characters_works(tmp_path):
    valkey = EmbeddedValkey(tmp_path / "a b%?#'\"")
    await valkey.start()
    assert await ask(valkey, b"PING") == b"PONG"
    await valkey.stop()


async def test_a_damaged_file_is_refused_with_what_valkey_says(tmp_path):
    valkey = EmbeddedValkey(tmp_path)
    await valkey.start()
    await ask(valkey, b"SET", b"k", b"1")
    await valkey.stop()
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    whole = log.read_bytes()
    log.write_bytes(b"rubbish\r\n" + whole)
    with pytest.raises(StoreUnavailableError, match="Bad file format") as refused:
        await valkey.start()
    assert "copy" in refused.value.remedy
    assert "\n" not in str(refused.value)
    log.write_bytes(whole)
    await valkey.start()  # the refused start has left neither lock nor child
    assert await ask(valkey, b"GET", b"k") == b"1"
    await valkey.stop()


async def test_a_write_that_a_crash_cut_off_does_not_stop_the_start(tmp_path):
    valkey = EmbeddedValkey(tmp_path)
    await valkey.start()
    await ask(valkey, b"SET", b"k", b"1")
    await valkey.stop()
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\nha")
    await valkey.start()
    assert await ask(valkey, b"GET", b"k") == b"1"
    await valkey.stop()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_refused_at_the_start(tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "temp-appendonly.aof.manifest").symlink_to("/dev/full")
    with pytest.raises(StoreUnavailableError, match="No space left") as refused:
        await EmbeddedValkey(tmp_path).start()
    assert refused.value.remedy == "make room on its disk"


async def test_a_file_in_the_directorys_place_is_refused(tmp_path):
    (tmp_path / "store").touch()
    with pytest.raises(StoreUnavailableError, match="cannot be used") as refused:
        await EmbeddedValkey(tmp_path / "store").start()
    assert refused.value.remedy
