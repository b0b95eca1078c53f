"""A link moves to a new pair when a server has accepted it, and not before."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from datetime import UTC, datetime, timedelta

import pytest

from exchange.client.link import Endpoint, Link
from exchange.client.pair import Pair
from nodes.identity import Identity, Role, issue, make_authority

NOW = datetime.now(UTC)
AUTHORITY = make_authority("510000", now=NOW, lifetime=timedelta(days=2))
APP = Identity("510000", Role.APP, "app")


def a_pair():
    return Pair(*issue(AUTHORITY, APP, now=NOW, lifetime=timedelta(days=1)))


@pytest.fixture
def nobody():
    """An endpoint where nobody answers, as between two connections or while a node restarts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        yield Endpoint(target, "node.510000.tongxing", AUTHORITY.certificate, a_pair())


async def moved(link, *, within):
    await asyncio.wait([link._moving], timeout=within)
    return link._moving is None


async def test_a_pair_that_no_server_has_accepted_replaces_none(nobody):
    link = Link(nobody, patience=0.05, grace=0)
    used = link.channel
    link.move(dataclasses.replace(nobody, pair=a_pair()))
    assert not await moved(link, within=0.5)
    assert link.channel is used
    await link.close()


async def test_a_server_that_is_no_longer_believed_is_left_after_patience(nobody):
    link = Link(nobody, patience=0.05, grace=0)
    used = link.channel
    link.move(dataclasses.replace(nobody, target="127.0.0.1:1"))
    assert await moved(link, within=10)
    assert link.channel is not used
    await link.close()
