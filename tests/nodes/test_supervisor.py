"""The parent of a node's processes; small real ones stand in their places."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace

import pytest
from waiting import alive, until

from nodes.supervisor import _Process, _Workers

CONFIG = SimpleNamespace(workers=2, drain_seconds=1, province="510000")
SERVES = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.write(int(os.environ["TONGXING_WORKER_LINE"]), b'{"serving": 0}\\n')
while True:
    signal.pause()
"""
FAILS = "import sys; sys.exit(1)"


@pytest.fixture
def lock():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


async def test_one_process_hears_also_where_the_former_was_between_two_when_it_was_followed(lock):
    """It had died again and again; a better version is installed, and takes over."""
    broken, heard = True, []

    async def launch(place):
        script = FAILS if broken and place.name == "hearing" else SERVES
        command = [sys.executable, "-S", "-c", script]
        process = await _Process.start(command, dict(os.environ), lock, tells=False)
        if place.name == "hearing":
            heard.append(process.pid)
        return process

    workers = _Workers(CONFIG, launch)
    running = asyncio.create_task(workers.run())
    await until("it has died some times, so that the pauses are long", lambda: len(heard) >= 4)
    broken = False
    for said in ("hearing/1", "hearing/0", "hearing/1"):
        workers.renew()
        await until("another hears", lambda said=said: workers._hearing.said == said)
        await until("it alone", lambda: workers._next_hearing.process is None)
        assert workers._hearing.process is not None
        assert [pid for pid in heard if alive(pid)] == [workers._hearing.process.pid]
    workers.stop()
    async with asyncio.timeout(30):
        assert await running == 0
    assert not any(map(alive, heard))
