"""Places for calls: a role that has all of its own is refused, and no other for its sake."""

from __future__ import annotations

import contextlib

import pytest

from exchange.errors import OverloadedError
from nodes.doors.shares import MOST, Shares
from nodes.identity import Role


def test_who_is_beyond_the_places_of_its_role_is_refused_until_one_is_free():
    shares = Shares({Role.APP: 2, Role.NODE: 1})
    with contextlib.ExitStack() as held:
        held.enter_context(shares.hold(Role.APP))
        with shares.hold(Role.APP):
            with pytest.raises(OverloadedError, match="2 calls under way"):
                held.enter_context(shares.hold(Role.APP))
            held.enter_context(shares.hold(Role.NODE))
        held.enter_context(shares.hold(Role.APP))


def test_a_call_that_fails_gives_its_place_back():
    shares = Shares({Role.APP: 1})
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), shares.hold(Role.APP):
            raise ZeroDivisionError


def test_an_admin_is_never_refused_for_others():
    assert Role.ADMIN not in MOST
    with contextlib.ExitStack() as held:
        shares = Shares()
        for role, most in MOST.items():
            for _ in range(most):
                held.enter_context(shares.hold(role))
            with pytest.raises(OverloadedError):
                held.enter_context(shares.hold(role))
        for _ in range(1000):
            held.enter_context(shares.hold(Role.ADMIN))
