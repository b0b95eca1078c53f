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
    assert shares.refused == {"app": 1}


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


class Clock:
    """Stands still but when it is moved."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shares(clock):
    return Shares(target_seconds=0.02, clock=clock)


def adapted(shares, took, times=100):
    """How many places there are after calls that all took so long, or as long as a function says.

    :returns: the numbers, one after the other.
    """
    seen = []
    for _ in range(times):
        for more in (0.5, 0.0):  # the shortest counts
            with shares.hold(APP):
                shares.clock.now += (took(shares.each) if callable(took) else took) + more
        shares.adapt()
        seen.append(shares.each)
    return seen


def test_an_admin_is_never_refused(shares):
    assert adapted(shares, 1000.0)[-1] == LEAST
    with contextlib.ExitStack() as held:
        taking(shares, ADMIN, held, MOST + 1)


def test_there_are_fewer_places_while_all_calls_take_long_and_all_again_after(shares):
    assert set(adapted(shares, 0.01)) == {MOST}
    fewer = adapted(shares, 0.04)
    assert fewer == sorted(fewer, reverse=True)
    assert fewer[-1] == LEAST
    assert adapted(shares, 0.01)[-1] == MOST


def test_as_many_places_remain_as_keep_calls_at_the_target(shares):
    each = adapted(shares, lambda each: each * 0.0002)[-1]  # as where they wait for each other
    assert 0.02 <= each * 0.0002 < 0.025


def test_calls_that_have_yet_to_end_change_nothing_and_none_gives_all_places_back(shares):
    fewer = adapted(shares, 0.04)[-1]
    with shares.hold(APP):
        shares.adapt()
        assert shares.each == fewer
    for _ in range(100):
        shares.adapt()
    assert shares.each == MOST
