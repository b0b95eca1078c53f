"""The access logs of a node's processes: each its own chain, shown as one, under one key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from exchange.errors import InvalidFieldError
from exchange.v1 import types_pb2
from nodes.audit.entries import Entry
from nodes.audit.log import AuditLog
from nodes.audit.logs import Logs, logs
from nodes.audit.verifying import verify, verify_all
from nodes.cli import run
from nodes.worker import Worker

NOON = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
TOKEN = bytes(4) + secrets.token_bytes(32)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def opened(tmp_path, clock):
    """Opens a process's log among those of the test's data directory; all are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def opening(number=0, of=3, keep=184):
            among = Logs(tmp_path, Worker(number, of))
            log = AuditLog.open(among.own, clock, keep, spool_bytes=1 << 16, among=among)
            stack.push_async_callback(close, log)
            return log

        yield opening


async def close(log):
    if not log._closed:
        await log.close()


def record(log, answer, token=TOKEN, **fields):
    fields = {"purpose": types_pb2.PURPOSE_ENTRY_CHECK} | fields
    log.record(
        Entry("spiffe://440000.tongxing/app/a", "Recognize", "request-1", answer, token, **fields)
    )


async def flushed(*opened):
    for each in opened:
        await each.flush()


def answers(page):
    return [each.answer for each in page.accesses]


def broken(found):
    return {number: [each.text for each in one.faults] for number, one in found.items()}


# --- shown as one ---------------------------------------------------------------------------


async def test_each_process_shows_what_all_have_recorded_the_newest_first(opened, clock):
    three = [opened(number) for number in range(3)]
    for at in range(9):
        record(three[at % 3], str(at))
        clock.now += SECOND
    record(three[1], "another's", token=secrets.token_bytes(36))
    await flushed(*three)
    wanted = [str(at) for at in reversed(range(9))]
    for each in three:
        assert answers(await each.list([TOKEN])) == wanted
        assert answers(await each.list(None)) == ["another's", *wanted]
        assert not answers(await each.list([secrets.token_bytes(36)]))


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_over_several_logs_give_each_access_once_also_those_of_one_instant(
    opened, clock, limit
):
    three = [opened(number) for number in range(3)]
    for day in range(2):
        clock.now = NOON + day * DAY
        for at in range(6):
            for log in three[: 1 + at % 3]:
                record(log, f"{day}.{at}.{log._directory.parent.name}")
            clock.now += SECOND * (at % 2)  # some of them bear the same time
    await flushed(*three)
    (whole,) = [answers(await three[2].list([TOKEN], limit=100))]
    assert len(whole) == len(set(whole)) == 24
    for tokens in ([TOKEN], None):
        found, after = [], None
        while True:
            # Whoever answers: another process may give the next page.
            page = await three[len(found) % 3].list(tokens, limit=limit, after=after)
            found += answers(page)
            record(three[0], "later", token=None)  # moves no page
            await flushed(three[0])
            if (after := page.after) is None:
                break
            assert len(page.accesses) == limit
        assert [each for each in found if each != "later"] == whole


async def test_what_another_process_was_killed_over_is_still_shown(tmp_path, opened):
    """It lies in its files as the kill left them, and no holder's index was written for it."""
    script = (
        "import asyncio, sys, time\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from nodes.audit.entries import Entry\n"
        "from nodes.audit.log import AuditLog\n"
        "from nodes.audit.logs import Logs\n"
        "from nodes.worker import Worker\n"
        "among = Logs(Path(sys.argv[1]), Worker(1, 2))\n"
        "now = datetime(2022, 1, 10, 4, tzinfo=UTC)\n"
        "log = AuditLog.open(among.own, lambda: now, 184, among=among)\n"
        "log.record(Entry('', 'Recognize', '', 'killed', bytes.fromhex(sys.argv[2])))\n"
        "asyncio.run(log.flush())\n"
        "print('written', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = opened(0)
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
        [sys.executable, "-c", script, str(tmp_path), TOKEN.hex()], stdout=subprocess.PIPE
    )
    try:
        while await asyncio.to_thread(process.stdout.readline) != b"written\n":
            assert process.poll() is None
        assert answers(await log.list([TOKEN])) == ["killed"]  # while it runs
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert answers(await log.list([TOKEN])) == ["killed"]
    assert broken(verify_all(tmp_path))[1] == []


async def test_whose_a_receipt_is_is_known_whichever_process_gave_it(opened, clock):
    first, second = opened(0, of=2), opened(1, of=2)
    record(first, "RECOGNIZED", target="receipt 1")
    asking = asyncio.create_task(second.whose("receipt 1", clock.now, [TOKEN]))
    await asyncio.sleep(0)
    await flushed(first)  # it may be asked for before it lies in a file
    assert await asking is True
    assert await second.whose("receipt 1", clock.now, [bytes(36)]) is False
    clock.now += timedelta(minutes=1)
    assert await second.whose("receipt 2", NOON, [TOKEN]) is None


# --- one key --------------------------------------------------------------------------------


def test_processes_that_start_at_once_take_one_key(tmp_path):
    def opening(number):
        log = AuditLog.open(
            *(Logs(tmp_path, Worker(number, 8)).own, lambda: NOON, 184),
            spool_bytes=1 << 16,
            among=Logs(tmp_path, Worker(number, 8)),
        )
        return log._digest.check

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(opening, range(8)))) == 1
    assert [each.name for each in (tmp_path / "audit").glob("key*")] == ["key"]


async def test_a_process_that_finds_anothers_log_and_no_key_is_refused(tmp_path, opened):
    log = opened(1)
    record(log, "one")
    await log.close()
    (tmp_path / "audit" / "key").unlink()
    with pytest.raises(InvalidFieldError, match="missing"):
        opened(2)


# --- processes that are no more -------------------------------------------------------------


async def test_what_a_process_that_is_no_more_left_unwritten_the_first_writes(
    tmp_path, opened, clock
):
    gone = opened(2)
    record(gone, "left")
    gone._spool.close()  # as a kill leaves it: nothing lies in a day's file
    gone._closed = True
    first = opened(0, of=2)
    record(first, "own", token=None)
    await first._remove_days()
    assert answers(await first.list([TOKEN])) == ["left"]
    assert not (tmp_path / "workers" / "2" / "audit" / "spool").exists()
    assert broken(verify_all(tmp_path)) == {0: [], 2: []}


async def test_the_log_of_a_process_that_still_runs_is_let_alone(tmp_path, opened):
    running = opened(2)
    first = opened(0, of=2)
    record(first, "own")
    await first._remove_days()
    record(running, "on")
    await running.flush()
    assert len(answers(await first.list([TOKEN]))) == 2


async def test_the_days_of_a_process_that_is_no_more_end_by_policy_and_verify_knows(
    tmp_path, opened, clock
):
    first, gone = opened(0, of=2), opened(2)
    for day in range(3):
        clock.now = NOON + day * DAY
        for log in (first, gone):
            record(log, str(day))
        await flushed(first, gone)
    await gone.close()
    clock.now = NOON + 190 * DAY
    record(first, "now")
    await first.flush()
    folder = tmp_path / "workers" / "2" / "audit"
    for left in (2, 1, 0):
        await first._remove_days()
        assert len(list(folder.glob("*.db"))) == left
        assert not any(broken(verify_all(tmp_path)).values())
    assert answers(await first.list([TOKEN])) == ["now"]
    again = opened(2)  # there are as many processes as before
    record(again, "again")
    await again.flush()
    assert not any(broken(verify_all(tmp_path)).values())


# --- verify ---------------------------------------------------------------------------------


@pytest.fixture
async def two(tmp_path, opened):
    """The data directory of two processes with three lines each, closed."""
    logs_ = [opened(number, of=2) for number in range(2)]
    for number, log in enumerate(logs_):
        for at in range(3):
            record(log, f"{number}.{at}")
        await log.close()
    return tmp_path


@pytest.fixture
def tongxing(capsys):
    def audit(*arguments):
        capsys.readouterr()
        code = run(["audit", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out

    return audit


def changed(data, number, statement):
    (path,) = logs(data)[number].glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount


async def test_every_chain_is_verified_and_the_broken_one_is_named(two, tongxing):
    assert tongxing("verify", two)[0] == 0
    changed(two, 1, "UPDATE accesses SET line = replace(line, '1.1', '9.9') WHERE sequence = 2")
    code, out = tongxing("verify", two, "-o", "json")
    found = json.loads(out)
    assert (code, found["whole"]) == (3, False)
    assert [(each["log"], each["whole"], each["key_matches"]) for each in found["logs"]] == [
        ("audit", True, True),
        ("workers/1/audit", False, True),
    ]
    code, out = tongxing("verify", two)
    assert code == 3
    assert out.index("日志 log: audit") < out.index("完整 whole") < out.index("workers/1/audit")
    assert tongxing("verify", two / "audit")[0] == 0
    assert tongxing("verify", two / "workers" / "1" / "audit")[0] == 3


async def test_a_head_is_held_against_its_own_process_log(two, tongxing):
    heads = [str(each.head) for each in verify_all(two).values()]
    given = ("--head", heads[0], "--head", f"1/{heads[1]}")
    code, out = tongxing("verify", two, *given, "-o", "json")
    assert code == 0
    assert [each["heads_found"] for each in json.loads(out)["logs"]] == [1, 1]
    assert tongxing("verify", two, "--head", heads[1])[0] == 3


async def test_the_log_of_a_process_that_was_taken_away_whole_is_missed_where_its_head_is_known(
    two, tongxing
):
    head = verify(two / "workers" / "1" / "audit").head
    for path in (two / "workers" / "1" / "audit").iterdir():
        path.unlink()
    assert tongxing("verify", two)[0] == 0
    code, out = tongxing("verify", two, "--head", f"1/{head}")
    assert code == 3
    assert "cut off" in out
