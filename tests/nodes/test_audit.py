"""The access log: what it holds, what no longer fits in it, and what a change of it shows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exchange.errors import AuditUnavailableError, InvalidFieldError
from exchange.v1 import types_pb2
from nodes.audit.chain import START, Digester, Form, Head, follow, read, stamp
from nodes.audit.days import Days, Line
from nodes.audit.entries import Entry
from nodes.audit.log import AuditLog
from nodes.audit.spool import HALF, Spool
from nodes.audit.verifying import verify

NOON = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
DAY = timedelta(days=1)
TOKEN = bytes(4) + secrets.token_bytes(32)
APP = "spiffe://440000.tongxing/app/yuekangma"

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def entry(answer="RECOGNIZED GREEN ACCEPTED", token=TOKEN, **fields):
    values = {"purpose": types_pb2.PURPOSE_ENTRY_CHECK} | fields
    return Entry(APP, "Recognize", "request-1", answer, token, **values)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Opens the log of the test's directory."""
    return functools.partial(opening, tmp_path / "audit", clock)


@contextlib.asynccontextmanager
async def opening(directory, clock, **options):
    log = AuditLog.open(directory, clock, 184, **{"spool_bytes": 1 << 16} | options)
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture(scope="module")
def three_days(tmp_path_factory):
    directory = tmp_path_factory.mktemp("audit") / "audit"
    clock = Clock()

    async def write():
        async with opening(directory, clock) as log:
            for day in range(3):
                clock.now = NOON + day * DAY
                for at in range(4):
                    log.record(entry(f"answer {day}.{at}"))
                    clock.now += timedelta(seconds=1)
                await log.flush()

    asyncio.run(write())
    return directory


@pytest.fixture
def written(tmp_path, three_days, clock):
    """A log of three days with four lines each."""
    shutil.copytree(three_days, tmp_path / "audit")
    clock.now = NOON + 2 * DAY + timedelta(seconds=4)
    return tmp_path / "audit"


async def all_written(log):
    async with asyncio.timeout(10):
        while log.waiting:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def changed(directory, day, statement, *parameters):
    file = sqlite3.connect(directory / f"2022-01-{day}.db")
    with contextlib.closing(file) as connection, connection:
        assert connection.execute(statement, parameters).rowcount != 0


def faults(directory, *heads):
    return [(each.day, each.sequence, each.text) for each in verify(directory, heads).faults]


async def everything(log, **arguments):
    return [each.answer for each in (await log.list(None, limit=1000, **arguments)).accesses]


# --- what is recorded -----------------------------------------------------------------------


async def test_what_is_recorded_is_listed_the_newest_first(opened, clock):
    async with opened() as log:
        log.record(entry("first", target="7d3f"))
        clock.now += timedelta(seconds=1)
        log.record(entry("second", token=None, purpose=0))
        second, first = (await log.list(None)).accesses
    assert (first.answer, first.time, first.purpose) == ("first", NOON, 1)
    assert (first.caller, first.method, first.target) == (APP, "Recognize", "7d3f")
    assert (second.answer, second.holders, second.purpose) == ("second", (), 0)


async def test_a_holder_is_found_by_any_of_its_tokens_and_nobody_else_is(opened):
    newer, other = secrets.token_bytes(36), secrets.token_bytes(36)
    async with opened() as log:
        log.record_all(entry(), [(TOKEN, "one"), (other, "two"), (newer, "three")])
        page = await log.list([newer, TOKEN])
        assert [each.answer for each in page.accesses] == ["three", "one"]
        assert not (await log.list([secrets.token_bytes(36)])).accesses
        assert not (await log.list([])).accesses


async def test_a_target_tells_whose_decision_it_was(opened, clock):
    other, at = secrets.token_bytes(36), clock()
    async with opened() as log:
        log.record(entry(target="receipt-1"))
        log.record(entry(token=None, target="code-1"))
        assert await log.whose("receipt-1", at, [other, TOKEN])
        assert await log.whose("receipt-1", at, [other]) is False
        assert await log.whose("receipt-1", at, []) is False
        assert await log.whose("receipt-2", at, [TOKEN]) is None
        assert await log.whose("code-1", at, [TOKEN]) is None
        assert await log.whose("receipt-1", at + timedelta(seconds=1), [other]) is None


async def test_a_batch_is_one_line_for_each_answer(opened):
    one, two, three = (secrets.token_bytes(36) for _ in range(3))
    async with opened() as log:
        log.record_all(entry(), [(one, "1 attestation"), (two, "2 attestations")])
        log.record_all(entry(), [(one, "1 attestation"), (three, "1 attestation")])
        log.record_all(entry(), [])
        assert [each.answer for each in (await log.list([one])).accesses] == ["1 attestation"] * 2
        assert [each.answer for each in (await log.list([two])).accesses] == ["2 attestations"]
        # One holder, known by both: one access.
        assert [each.sequence for each in (await log.list([one, three])).accesses] == [3, 1]
        assert (await log.list(None)).accesses[0].sequence == 3


async def test_accesses_are_found_that_waited_to_be_indexed_together(opened, tmp_path, clock):
    mine = secrets.token_bytes(36)
    others = [secrets.token_bytes(36) for _ in range(999)]
    async with opened(spool_bytes=1 << 18) as log:
        for at in range(60):
            log.record_all(entry(), [(each, "1 attestation") for each in (mine, *others)])
            if at % 5 == 4:
                await log.flush()
        assert len((await log.list([mine], limit=1000)).accesses) == 60
        log.record(entry("last", token=mine))
        clock.now += DAY
        log.record(entry("next day", token=mine))
    async with opened() as log:
        assert len((await log.list([mine], limit=1000)).accesses) == 62
    assert not faults(tmp_path / "audit")


async def test_pages_lead_through_all_days_without_a_gap_or_a_repetition(written, opened):
    found, after = [], None
    async with opened() as log:
        while True:
            page = await log.list([TOKEN], limit=3, after=after)
            assert len(page.accesses) <= 3
            found += [each.answer for each in page.accesses]
            after = page.after
            if after is None:
                break
    assert found == [f"answer {day}.{at}" for day in (2, 1, 0) for at in (3, 2, 1, 0)]


async def test_times_bound_the_list_from_and_before(written, opened):
    async with opened() as log:
        start, end = NOON + DAY + timedelta(seconds=1), NOON + 2 * DAY + timedelta(seconds=1)
        found = await everything(log, start=start, end=end)
    assert found == ["answer 2.0", "answer 1.3", "answer 1.2", "answer 1.1"]


async def test_no_token_stands_in_any_file(written):
    for path in written.iterdir():
        data = path.read_bytes()
        assert TOKEN not in data
        assert TOKEN[4:] not in data
        assert TOKEN.hex().encode() not in data


async def test_files_are_for_the_node_alone(written):
    assert written.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in written.iterdir()} == {0}


async def test_a_key_that_others_may_read_is_refused(written, opened):
    (written / "key").chmod(0o640)
    with pytest.raises(InvalidFieldError, match="others may read"):
        async with opened():
            pass


async def test_a_key_that_is_gone_is_not_made_anew(written, opened):
    # Under another key, no holder would find who looked before, and `verify` would find no fault.
    (written / "key").unlink()
    with pytest.raises(InvalidFieldError, match="is missing"):
        async with opened():
            pass
    assert not (written / "key").exists()


async def test_another_key_than_the_logs_is_refused(written, opened):
    # A node under it would show no holder who looked before, and say nothing of it.
    right = (written / "key").read_bytes()
    (written / "key").write_bytes(secrets.token_bytes(32))
    with pytest.raises(
        InvalidFieldError, match=r"audit/key is another key than this log's"
    ) as told:
        async with opened():
            pass
    assert told.value.remedy.startswith("restore it")
    (written / "key").write_bytes(right)
    async with opened() as log:
        assert len((await log.list([TOKEN])).accesses) == 12


async def test_another_key_than_that_of_what_a_killed_node_left_is_refused(opened, tmp_path):
    log = AuditLog.open(tmp_path / "audit", Clock(), 184, spool_bytes=1 << 16)
    log.record(entry())
    log._spool.close()  # as a kill leaves it: nothing lies in a day's file
    (tmp_path / "audit" / "key").write_bytes(secrets.token_bytes(32))
    with pytest.raises(InvalidFieldError, match="another key"):
        async with opened():
            pass


async def test_a_log_that_was_begun_before_lines_named_their_key_is_carried_on(
    written, opened, clock
):
    _without_keys(written)
    found = verify(written)
    assert (found.faults, found.key) == ([], None)
    async with opened() as log:
        log.record(entry())
        assert len((await log.list([TOKEN])).accesses) == 13
    found = verify(written)
    assert (found.faults, found.key) == ([], True)
    (written / "key").write_bytes(secrets.token_bytes(32))
    with pytest.raises(InvalidFieldError, match="another key"):
        async with opened():
            pass


async def test_the_digests_of_two_nodes_cannot_be_joined(written, tmp_path, clock):
    log = AuditLog.open(tmp_path / "other", clock, 184)
    log.record(entry())
    (mine,) = (await log.list([TOKEN])).accesses
    await log.close()
    theirs = read(_lines(written)[0])
    assert set(mine.holders).isdisjoint(theirs.holders)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80))
def test_the_digest_is_hmac_sha_256(key, token):
    assert Digester(key)(token) == hmac.digest(key, token, "sha256")[:8].hex()


@given(
    *(_texts, _texts, _texts, _texts, _texts, st.sampled_from([0, 1, 5, 77])),
    st.lists(st.sampled_from(["ab" * 16, "cd" * 16]), max_size=3),
)
def test_a_line_is_canonical_json_and_reads_back(
    caller, method, request, answer, target, purpose, holders
):
    given_ = Entry(caller, method, request, "", purpose=purpose, target=target)
    line = Form(stamp(NOON), given_, "ef" * 8).line(12, answer, holders)
    document = json.loads(line)
    assert line == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    found = read(line)
    assert (found.caller, found.method, found.request_id) == (caller, method, request)
    assert (found.answer, found.target, found.sequence) == (answer, target, 12)
    assert found.holders == tuple(holders)
    assert found.key == "ef" * 8
    assert found.purpose == (purpose if purpose < 77 else 0)


@given(_texts)
def test_what_is_no_head_is_refused(text):
    with pytest.raises(InvalidFieldError):
        Head.parse(text)


# --- the disk -------------------------------------------------------------------------------


async def test_a_log_whose_file_cannot_be_written_records_nothing_and_recovers(opened, tmp_path):
    async with opened() as log:
        running = asyncio.create_task(log.run())
        log.record(entry("before"))
        await log.flush()
        file = tmp_path / "audit" / "2022-01-10.db"
        file.rename(file.with_suffix(".away"))
        file.mkdir()
        log.record(entry("taken while nobody knew"))
        with pytest.raises(AuditUnavailableError), capture_logs() as logged:
            await log.flush()
        assert [each["event"] for each in logged] == ["audit.unwritable"]
        with pytest.raises(AuditUnavailableError):
            log.record(entry("refused"))
        with pytest.raises(AuditUnavailableError):
            await log.list(None)
        file.rmdir()
        file.with_suffix(".away").rename(file)
        await all_written(log)
        log.record(entry("after"))
        assert await everything(log) == ["after", "taken while nobody knew", "before"]
        running.cancel()
    assert not faults(tmp_path / "audit")


@pytest.mark.parametrize("more", [1, 3])
async def test_lines_that_somebody_puts_in_ahead_of_the_node_swallow_none_of_its_own(
    opened, tmp_path, more
):
    async with opened() as log:
        log.record(entry("before"))
        await log.flush()
        file = sqlite3.connect(tmp_path / "audit" / "2022-01-10.db", isolation_level=None)
        with contextlib.closing(file):
            ((sequence, before),) = file.execute("SELECT sequence, hash FROM accesses").fetchall()
            for at in range(more):  # a chain as good as the node's: there is no secret in it
                text = Form(stamp(NOON), entry(), "").line(sequence + 1 + at, "put in", [])
                before = follow(before, text.encode())
                row = (sequence + 1 + at, text, before)
                file.execute("INSERT INTO accesses VALUES (?, ?, ?)", row)
            log.record(entry("a look that somebody would hide"))
            log.record(entry("another"))
            with pytest.raises(AuditUnavailableError), capture_logs() as logged:
                await log.flush()
            assert logged[0]["why"] == "somebody else wrote into the day's file"
            with pytest.raises(AuditUnavailableError):
                log.record(entry("refused"))
            file.execute("DELETE FROM accesses WHERE sequence > ?", (sequence,))
        await log.flush()
        assert await everything(log) == ["another", "a look that somebody would hide", "before"]


async def test_more_than_may_wait_is_refused_until_it_is_written(opened, tmp_path):
    async with opened(spool_bytes=4096) as log:
        with pytest.raises(AuditUnavailableError, match="too many"):
            log.record_all(entry(), [(TOKEN, f"answer {at}") for at in range(100)])
        taken = log.waiting
        assert 5 < taken < 20
        await log.flush()
        log.record(entry("one more"))
        assert len(await everything(log)) == taken + 1
    assert not faults(tmp_path / "audit")


async def test_what_is_recorded_is_written_by_itself(opened, tmp_path):
    async with opened() as log:
        running = asyncio.create_task(log.run())
        for _ in range(3):
            log.record(entry())
            await all_written(log)
        running.cancel()


async def test_a_closed_log_records_nothing(opened):
    async with opened() as log:
        pass
    with pytest.raises(AuditUnavailableError):
        log.record(entry())


async def test_a_second_process_on_the_same_log_is_refused(opened):
    async with opened():
        with pytest.raises(AuditUnavailableError, match="another process writes it"):
            async with opened():
                pass
    async with opened() as log:
        log.record(entry())


async def test_a_directory_that_cannot_be_made_is_refused(opened, tmp_path):
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(AuditUnavailableError, match="cannot be opened"):
        async with opened():
            pass


def test_a_key_that_a_full_disk_cut_short_is_made_anew(tmp_path):
    # A limit on the size of files stands in for the disk: at its first start, and never again.
    work = (
        "import resource, signal, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from exchange.errors import AuditUnavailableError\n"
        "from nodes.audit.log import AuditLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def start(): AuditLog.open(Path(sys.argv[1]), lambda: datetime.now(UTC), 184)\n"
        "limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))\n"
        "try: start()\n"
        "except AuditUnavailableError as error: print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits)\n"
        "start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", work, str(tmp_path / "audit")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "cannot be opened" in done.stdout


async def test_a_log_that_could_not_be_opened_is_free_for_the_next_try(written, opened):
    (written / "2022-01-13.db").write_bytes(b"no database at all, and long enough to be one" * 9)
    with pytest.raises(AuditUnavailableError, match="not a database"):
        async with opened():
            pass
    (written / "2022-01-13.db").unlink()
    async with opened() as log:
        log.record(entry())


def test_a_spool_with_holes_is_filled_up_before_it_is_used(tmp_path):
    # Copied by a tool that saves space: a full disk would end the node by a signal.
    with (tmp_path / "spool").open("wb") as file:
        file.truncate(1 << 20)
    Spool(tmp_path / "spool", 1 << 19).close()
    assert (tmp_path / "spool").stat().st_blocks * 512 >= 1 << 20


async def test_a_crowd_of_long_lists_keeps_its_threads_from_nobody_else(
    written, opened, monkeypatch
):
    # The trust list is refreshed in the loop's own threads: 40 lists kept it waiting for 23 s.
    end = threading.Event()
    monkeypatch.setattr("nodes.audit.log.page", lambda *_: end.wait(30))
    async with opened() as log:
        lists = [asyncio.create_task(log.list(None)) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.gather(*(asyncio.to_thread(int) for _ in range(100)))
        finally:
            end.set()
            await asyncio.gather(*lists)


def test_lists_that_wait_for_one_another_index_once(written):
    days = Days(written)
    text = Form(stamp(NOON), entry(), "").line(13, "x", ["0" * 16])
    line = Line("2022-01-12", 13, text, b"", 1)
    days.write([line], verify(written).head)
    days.index()
    with contextlib.closing(sqlite3.connect(written / "2022-01-12.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # whoever would write now waits for it
        days.index()
    days.close()


_RECORDS = """
import asyncio, structlog, sys
from datetime import UTC, datetime
from pathlib import Path
from nodes.audit.entries import Entry
from nodes.audit.log import AuditLog

async def main():
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    log = AuditLog.open(Path(sys.argv[1]), lambda: datetime.now(UTC), 184)
    running = asyncio.create_task(log.run())
    for at in range(10**9):
        log.record(Entry("caller", "Recognize", "request", str(at), bytes(36)))
        print(at, flush=True)  # the answer
        if at % 50 == 0:
            await asyncio.sleep(0.002)

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 700, 4000])
def test_a_killed_process_loses_nothing_that_it_had_answered(tmp_path, answers):
    """The machine lives on; one that loses its power takes what is in no day's file yet."""
    directory = tmp_path / "audit"
    with subprocess.Popen(
        [sys.executable, "-c", _RECORDS, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(answers):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = [int(each) for each in process.stdout.read().split("\n")[:-1] if each]
    last = max([last, *told])

    async def look():
        async with opening(directory, lambda: datetime.now(UTC), spool_bytes=HALF) as log:
            (newest,) = (await log.list(None, limit=1)).accesses
            log.record(entry())
        return newest

    newest = asyncio.run(look())
    assert int(newest.answer) >= last
    assert newest.sequence == int(newest.answer) + 1
    assert not faults(directory)
    assert verify(directory).lines == newest.sequence + 1


async def test_what_does_not_follow_a_restored_older_day_is_told_by_its_number(
    written, opened, clock
):
    older = (written / "2022-01-12.db").read_bytes()
    async with opened() as log:
        log.record(entry("in the day's file alone"))
        await log.flush()
    # Another process begins the spool anew.
    async with opened() as log:
        log.record(entry("one"))
        log.record(entry("two"))
    with capture_logs() as logged:
        async with opened():
            pass
    assert "audit.dropped" not in {each["event"] for each in logged}
    (written / "2022-01-12.db").write_bytes(older)
    with capture_logs() as logged:
        async with opened() as log:
            log.record(entry("carried on"))
            assert (await everything(log))[:2] == ["carried on", "answer 2.3"]
    (told,) = (each for each in logged if each["event"] == "audit.dropped")
    assert (told["accesses"], told["after"]) == (2, 12)
    assert not faults(written)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_garbage_in_the_spool_is_nothing_that_was_recorded(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool = Spool(path, 512)
    spool._memory[: len(first)] = first
    spool._memory[512 : 512 + len(second)] = second
    assert not list(spool.left(START.hash))
    spool.close()


async def test_the_head_is_logged_at_the_end_and_taken_up_at_the_start(written, opened):
    with capture_logs() as logged:
        async with opened(province="440000") as log:
            log.record(entry())
    heads = [each for each in logged if each["event"] == "audit.head"]
    assert [each["sequence"] for each in heads] == [12, 13]
    assert {each["province"] for each in heads} == {"440000"}
    known = [Head(each["sequence"], bytes.fromhex(each["hash"])) for each in heads]
    found = verify(written, known)
    assert (found.faults, found.heads, found.head) == ([], 2, known[1])


# --- days -----------------------------------------------------------------------------------


async def test_the_chain_runs_on_over_the_days(written):
    found = verify(written)
    assert (found.days, found.lines, found.begins, found.head.sequence) == (3, 12, START, 12)
    assert not found.faults
    digest = START.hash
    for line in _lines(written):
        digest = hashlib.sha256(digest + line.encode()).digest()
    assert digest == found.head.hash


async def test_a_clock_that_is_put_back_over_midnight_breaks_nothing(written, opened, clock):
    clock.now = NOON
    async with opened() as log:
        log.record(entry("yesterday again"))
        assert len(await everything(log)) == 13
    assert len(list(written.glob("*.db"))) == 3
    assert not faults(written)


async def test_old_days_are_removed_one_by_one_and_verify_knows(written, opened, clock):
    clock.now = NOON + 185 * DAY
    async with opened() as log:
        log.record(entry())
        await log.flush()
        await log._remove_days()
        assert sorted(path.stem for path in written.glob("*.db"))[:2] == [
            "2022-01-11",
            "2022-01-12",
        ]
        await log._remove_days()  # 184 days and some hours old
        clock.now += DAY
        await log._remove_days()
        assert len(await everything(log)) == 4 + 1 + 2
    found = verify(written)
    assert (found.faults, found.begins.sequence) == ([], 8)


async def test_a_clock_that_leaps_removes_nothing(written, opened, clock):
    clock.now = NOON + 2000 * DAY
    async with opened() as log:
        await log._remove_days()
        clock.now = NOON + 2 * DAY
        log.record(entry())
        assert len(await everything(log)) == 13
    assert max(path.stem for path in written.glob("*.db")) == "2022-01-12"


async def test_the_day_that_is_written_is_never_removed(written, opened, clock):
    clock.now = NOON + 2000 * DAY
    async with opened() as log:
        log.record(entry())
        await log.flush()
        for _ in range(5):
            await log._remove_days()
        assert len(await everything(log)) == 4
    assert not faults(written)


async def test_a_day_under_an_older_name_is_not_removed(written, opened, clock):
    (written / "2022-01-10.db").rename(written / "2020-01-01.db")
    async with opened() as log:
        with capture_logs() as logged:
            await log._remove_days()
        assert [each["event"] for each in logged] == ["audit.day_not_removed"]
    assert (written / "2020-01-01.db").exists()


# --- what was done to it --------------------------------------------------------------------


def test_a_changed_line_is_told(written):
    changed(
        written, 11, "UPDATE accesses SET line = replace(line, '1.1', '9.9') WHERE sequence = 6"
    )
    assert faults(written) == [
        ("2022-01-11", 6, "changed: its hash is not of it and the line before")
    ]


def test_a_line_changed_with_its_hash_is_told_at_the_next(written):
    (row,) = _rows(written, 11, 6)
    line = row[1].replace("1.1", "9.9")
    before = _rows(written, 11, 5)[0][2]
    digest = hashlib.sha256(before + line.encode()).digest()
    changed(written, 11, "UPDATE accesses SET line = ?, hash = ? WHERE sequence = 6", line, digest)
    assert faults(written) == [
        ("2022-01-11", 7, "changed: its hash is not of it and the line before")
    ]


def test_a_removed_line_is_told(written):
    changed(written, 11, "DELETE FROM accesses WHERE sequence = 6")
    assert faults(written) == [("2022-01-11", 7, "line 6 before it: taken out")]


def test_a_days_last_lines_are_missed_by_the_next_day(written):
    for table in ("accesses", "seen"):
        changed(written, 11, f"DELETE FROM {table} WHERE sequence >= 7")
    changed(written, 11, "UPDATE indexed SET sequence = 6")
    assert faults(written) == [("2022-01-12", 0, "lines 7 to 8 before it: taken out")]


def test_moved_lines_are_told(written):
    sixth, seventh = _rows(written, 11, 6)[0], _rows(written, 11, 7)[0]
    for sequence, row in ((6, seventh), (7, sixth)):
        statement = "UPDATE accesses SET line = ?, hash = ? WHERE sequence = ?"
        changed(written, 11, statement, row[1], row[2], sequence)
    found = faults(written)
    assert found[:2] == [
        ("2022-01-11", 6, "moved: it says that it is line 7"),
        ("2022-01-11", 7, "moved: it says that it is line 6"),
    ]


def test_a_line_that_was_put_in_is_told(written):
    line = _rows(written, 12, 12)[0][1].replace('"sequence":12', '"sequence":13')
    changed(written, 12, "INSERT INTO accesses VALUES (13, ?, ?)", line, bytes(32))
    assert faults(written) == [
        ("2022-01-12", 13, "changed: its hash is not of it and the line before")
    ]


def test_a_missing_day_is_told(written):
    (written / "2022-01-11.db").unlink()
    assert faults(written) == [("2022-01-12", 0, "lines 5 to 8 before it: taken out")]


def test_a_missing_first_day_is_told(written):
    (written / "2022-01-10.db").unlink()
    assert faults(written) == [("", 0, "lines 1 to 4: missing, and no entry says why")]


def test_a_day_under_another_days_name_is_told(written):
    (written / "2022-01-10.db").rename(written / "2022-01-13.db")
    assert ("2022-01-13", 0) in {each[:2] for each in faults(written)}


def test_a_day_under_an_earlier_days_name_is_told(written):
    # Who asks for times from the 10th on would not be shown what lies in it.
    (written / "2022-01-10.db").rename(written / "2022-01-08.db")
    found = faults(written)
    assert [each[:2] for each in found] == [("2022-01-08", sequence) for sequence in (1, 2, 3, 4)]
    assert found[0][2].startswith("hidden")


def test_a_cut_end_is_told_by_a_head_alone(written):
    head = verify(written).head
    for table in ("accesses", "seen"):
        changed(written, 12, f"DELETE FROM {table} WHERE sequence = 12")
    assert not faults(written)
    ((day, sequence, text),) = faults(written, head)
    assert (day, sequence) == ("", 12)
    assert text.startswith("cut off")


def test_a_log_written_anew_is_told_by_a_head_alone(written):
    head = verify(written).head
    digest = _rows(written, 12, 9)[0][2]
    for sequence in (10, 11, 12):
        line = _rows(written, 12, sequence)[0][1].replace("GREEN", "RED").replace("2.", "8.")
        digest = hashlib.sha256(digest + line.encode()).digest()
        statement = "UPDATE accesses SET line = ?, hash = ? WHERE sequence = ?"
        changed(written, 12, statement, line, digest, sequence)
    assert not faults(written)
    assert faults(written, head) == [
        ("2022-01-12", 12, "written anew, or the head is another log's: its hash is not the head's")
    ]
    assert verify(written, [head]).heads == 0


def test_two_heads_of_one_line_do_not_hide_that_it_was_written_anew(written):
    head = verify(written).head
    before = Head(head.sequence, bytes(32))
    for heads in ((before, head), (head, before)):
        assert [each[:2] for each in faults(written, *heads)] == [("2022-01-12", 12)]
    assert verify(written, [head, head]).heads == 2


def test_a_beginning_that_is_not_the_known_head_is_told(written):
    (written / "2022-01-10.db").unlink()
    begins = verify(written).begins
    assert verify(written, [begins]).heads == 1
    other = Head(begins.sequence, bytes(32))
    assert ("", 4) in {each[:2] for each in faults(written, other)}


def test_a_line_with_a_number_beyond_all_is_told(written):
    line = _rows(written, 11, 6)[0][1].replace('"sequence":6', '"sequence":1e999')
    changed(written, 11, "UPDATE accesses SET line = ? WHERE sequence = 6", line)
    assert [each[:2] for each in faults(written)] == [("2022-01-11", 6)]


def test_a_day_without_its_start_is_told(written):
    changed(written, 11, "DELETE FROM start")
    assert ("2022-01-11", 0) in {each[:2] for each in faults(written)}


@pytest.mark.parametrize("day", [10, 12])
async def test_a_day_without_start_and_lines_is_refused_in_words(written, opened, clock, day):
    for table in ("start", "accesses"):
        changed(written, day, f"DELETE FROM {table}")
    clock.now += 300 * DAY
    if day == 12:
        with pytest.raises(AuditUnavailableError, match="no head"):
            async with opened():
                pass
    else:
        async with opened() as log:
            log.record(entry())
            await log.flush()
            with capture_logs() as logged:
                await log._remove_days()
            assert [each["event"] for each in logged] == ["audit.day_not_removed"]


async def test_a_spool_with_no_line_in_it_is_refused_in_words(written, opened):
    head = verify(written).head
    spool = Spool(written / "spool", 1 << 16)
    spool.put(hashlib.sha256(head.hash + b"{}").digest(), b"{}")
    spool.close()
    with pytest.raises(AuditUnavailableError, match="not a line"):
        async with opened():
            pass


def test_a_damaged_file_is_told_and_the_rest_looked_through(written):
    path = written / "2022-01-11.db"
    data = bytearray(path.read_bytes())
    data[:4096] = os.urandom(4096)
    path.write_bytes(data)
    found = verify(written)
    assert [(each.day, each.sequence) for each in found.faults] == [("2022-01-11", 0)]
    assert found.lines == 8


def test_a_line_that_is_hidden_from_its_holder_is_told(written):
    changed(written, 11, "DELETE FROM seen WHERE sequence = 6")
    assert faults(written) == [("2022-01-11", 6, "hidden: who is named in it does not find it")]


def test_a_line_that_is_shown_to_somebody_else_is_told(written):
    changed(written, 11, "UPDATE seen SET holder = 'somebody' WHERE sequence = 6")
    assert faults(written)[1:] == [("2022-01-11", 6, "found by somebody whom no such line names")]


@pytest.mark.parametrize(
    ("to_the_lines", "told"),
    [
        (
            "UPDATE accesses SET line = replace(line, '1.1', '9.9') WHERE sequence = 6",
            (6, "changed: its hash is not of it and the line before"),
        ),
        (
            "UPDATE accesses SET line = '{}' WHERE sequence = 6",
            (6, "changed: it is no line of an access log"),
        ),
        ("DELETE FROM accesses WHERE sequence = 6", (7, "line 6 before it: taken out")),
    ],
    ids=["changed", "no line", "taken out"],
)
def test_a_hidden_line_is_told_beside_another_that_was_changed(written, to_the_lines, told):
    changed(written, 11, to_the_lines)
    assert faults(written) == [("2022-01-11", *told)]
    changed(written, 11, "DELETE FROM seen WHERE sequence = 8")
    assert faults(written) == [
        ("2022-01-11", *told),
        ("2022-01-11", 8, "hidden: who is named in it does not find it"),
    ]


def test_a_line_that_is_no_json_hides_no_other(written):
    changed(written, 11, "DROP INDEX times")  # it takes JSON alone
    changed(written, 11, "UPDATE accesses SET line = 'no line' WHERE sequence = 6")
    changed(written, 11, "DELETE FROM seen WHERE sequence = 8")
    assert [each[:2] for each in faults(written)] == [("2022-01-11", 6), ("2022-01-11", 8)]


def test_lines_that_are_to_be_found_later_are_told_of_a_day_that_is_over(written):
    changed(written, 11, "DELETE FROM seen WHERE sequence > 6")
    changed(written, 11, "UPDATE indexed SET sequence = 6")
    assert [each[:2] for each in faults(written)] == [("2022-01-11", 7)]


def test_an_index_without_a_line_is_told(written):
    file = sqlite3.connect(written / "2022-01-11.db")
    with contextlib.closing(file) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '$.time', '$.method') WHERE name = 'times'"
        )
    assert [each[:2] for each in faults(written)] == [("2022-01-11", 0)]


def test_a_copy_without_a_node_can_be_verified_where_nothing_can_be_written(written):
    copy = written.with_name("copy")
    shutil.copytree(written, copy)
    for path in (*copy.iterdir(), copy):
        path.chmod(0o500)
    assert not faults(copy)
    assert {path.name for path in copy.iterdir()} == {path.name for path in written.iterdir()}
    copy.chmod(0o700)


async def test_a_log_that_is_being_written_can_be_verified(written, opened):
    async with opened() as log:
        log.record(entry())
        await log.flush()
        found = verify(written)
    assert (found.lines, found.faults) == (13, [])


@pytest.mark.parametrize("key", [bytes(32), b"", bytes(100)], ids=["another", "empty", "long"])
def test_another_key_beside_the_log_is_told_once(written, key):
    (written / "key").write_bytes(key)
    found = verify(written)
    assert [(each.day, each.sequence, each.text) for each in found.faults] == [
        ("2022-01-10", 1, "hidden: it is under another key than the one beside the log")
    ]
    assert (found.lines, found.key) == (12, False)


@pytest.mark.parametrize("copied", [True, False])
def test_a_change_of_the_key_within_the_log_is_told(written, copied):
    digest = _rows(written, 12, 9)[0][2]
    for sequence in (10, 11, 12):
        key = read(_rows(written, 12, sequence)[0][1]).key
        line = _rows(written, 12, sequence)[0][1].replace(key, "ab" * 8)
        digest = hashlib.sha256(digest + line.encode()).digest()
        statement = "UPDATE accesses SET line = ?, hash = ? WHERE sequence = ?"
        changed(written, 12, statement, line, digest, sequence)
    other = "the one beside the log"
    if copied:
        (written / "key").unlink()
        other = "the line before it"
    assert faults(written) == [("2022-01-12", 10, f"hidden: it is under another key than {other}")]


def test_a_copy_without_the_key_is_whole_and_its_key_not_checked(written):
    assert verify(written).key
    (written / "key").unlink()
    found = verify(written)
    assert (found.faults, found.key) == ([], None)


def test_a_folder_without_a_log_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidFieldError):
            verify(folder)


def _rows(directory, day, sequence):
    with contextlib.closing(sqlite3.connect(directory / f"2022-01-{day}.db")) as connection:
        return connection.execute(
            "SELECT * FROM accesses WHERE sequence = ?", (sequence,)
        ).fetchall()


def _without_keys(directory):
    """Make it a log of before: its lines name no key, and its chain is as whole."""
    digest = START.hash
    for path in sorted(directory.glob("*.db")):
        start = digest
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            rows = connection.execute("SELECT sequence, line FROM accesses ORDER BY sequence")
            for sequence, line in rows.fetchall():
                old = line.replace(f',"key":"{read(line).key}"', "")
                assert old != line
                digest = hashlib.sha256(digest + old.encode()).digest()
                statement = "UPDATE accesses SET line = ?, hash = ? WHERE sequence = ?"
                connection.execute(statement, (old, digest, sequence))
            connection.execute("UPDATE start SET hash = ?", (start,))


def _lines(directory):
    found = []
    for path in sorted(directory.glob("*.db")):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT line FROM accesses ORDER BY sequence")
            found += [line for (line,) in rows]
    return found
