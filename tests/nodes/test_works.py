"""What goes on beside a node's calls: a failure is told at once, and not lost."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from nodes.works import Works


async def waits(ended):
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)


async def fails():
    raise RuntimeError("broken by the test")


async def test_a_failure_is_told_and_logged_at_once_and_raised_at_the_end():
    failed, ended = asyncio.Event(), []
    works = Works(failed.set)
    with capture_logs() as logged:
        works.start(waits(ended), fails())
        async with asyncio.timeout(10):
            await failed.wait()
    (line,) = logged
    assert (line["event"], line["task"], line["log_level"]) == (
        "node.task_failed",
        "fails",
        "error",
    )
    assert isinstance(line["exc_info"], RuntimeError)
    assert not ended
    with pytest.raises(RuntimeError, match="broken by the test"):
        await works.close()
    assert ended


async def test_what_ends_by_itself_or_is_ended_is_no_failure():
    failed, ended = asyncio.Event(), []
    works = Works(failed.set)
    works.start(waits(ended), asyncio.sleep(0))
    await asyncio.sleep(0.01)
    await works.close()
    assert ended
    assert not failed.is_set()
