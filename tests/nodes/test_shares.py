"""Places for calls: who has taken all of its own is refused, and nobody else for its sake."""

from __future__ import annotations

import contextlib

import pytest

from exchange.errors import OverloadedError
from nodes.doors.shares import LEAST, MOST, Shares
from nodes.identity import Identity, Role

APP = Identity("510000", Role.APP, "app-1")
OTHER_APP = Identity("510000", Role.APP, "app-2")
ISSUER = Identity("510000", Role.ISSUER, "hospital")
ADMIN = Identity("510000", Role.ADMIN, "admin-1")
NODES = [Identity(code, Role.NODE, "node-1") for code in ("440000", "310000")]


def taking(shares, caller, stack, count):
    for _ in range(count):
        stack.enter_context(shares.hold(caller))


def test_who_is_beyond_its_places_is_refused_until_one_is_free():
    shares = Shares()
    with contextlib.ExitStack() as held:
        taking(shares, APP, held, MOST - 1)
        with shares.hold(APP), pytest.raises(OverloadedError, match="of this caller"):
            held.enter_context(shares.hold(APP))
        held.enter_context(shares.hold(APP))
    assert shares.refused == {Role.APP: 1}


def test_a_call_that_fails_gives_its_place_back():
    shares = Shares()
    for _ in range(MOST + 1):
        with pytest.raises(ZeroDivisionError), shares.hold(APP):
            raise ZeroDivisionError


def test_who_floods_takes_nobody_elses_places():
    shares = Shares()
    with contextlib.ExitStack() as held:
        for flooding in (APP, NODES[0]):
            taking(shares, flooding, held, MOST)
            with pytest.raises(OverloadedError):
                held.enter_context(shares.hold(flooding))
        for other in (OTHER_APP, NODES[1], ISSUER):
            taking(shares, other, held, MOST)


def test_the_nodes_of_a_province_are_one_caller():
    shares = Shares()
    with contextlib.ExitStack() as held:
        taking(shares, NODES[0], held, MOST)
        with pytest.raises(OverloadedError):
            held.enter_context(shares.hold(Identity("440000", Role.NODE, "node-2")))


def test_an_admin_is_never_refused():
    shares = Shares()
    for _ in range(100):
        shares.follow(1000.0)
    with contextlib.ExitStack() as held:
        taking(shares, ADMIN, held, MOST + 1)


def test_there_are_fewer_places_while_calls_wait_and_all_again_after():
    shares = Shares(target_seconds=0.02)
    for _ in range(100):
        shares.follow(0.01)
    assert shares.each == MOST
    seen = []
    for _ in range(100):
        shares.follow(0.04)
        seen.append(shares.each)
    assert seen == sorted(seen, reverse=True)
    assert LEAST <= seen[-1] < MOST / 8
    for _ in range(100):
        shares.follow(60.0)
    assert shares.each == LEAST
    for _ in range(100):
        shares.follow(0.01)
    assert shares.each == MOST


def test_as_many_places_remain_as_keep_the_wait_at_its_target():
    shares = Shares(target_seconds=0.02)
    for _ in range(1000):
        shares.follow(shares.each * 0.0002)  # each waits for all that are under way
    assert 0.02 <= shares.each * 0.0002 < 0.025
