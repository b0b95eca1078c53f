"""What a node keeps in memory of a peer: recent changes, and revoked places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.errors import MalformedObjectError
from exchange.statuslist import LIST_SIZE
from nodes.peers.kept import MOST_LISTS, RecentChanges, RevokedPlaces, TooManyListsError
from nodes.peers.memory import Memory

WANG = b"wang...."


def revoked_places():
    return RevokedPlaces(Memory.own(RevokedPlaces.SIZE).view)


@given(st.lists(st.lists(st.binary(min_size=8, max_size=8), max_size=20), max_size=20))
def test_a_change_is_never_missed_since_a_mark(messages):
    recent = RecentChanges(Memory.own(RecentChanges.SIZE).view)
    recent.begin()
    marks = [recent.mark()]
    for subjects in messages:
        recent.next()
        recent.note(b"".join(subjects))
        marks.append(recent.mark())
    for number, mark in enumerate(marks):
        for subjects in messages[number:]:
            assert not any(recent.unchanged(subject, mark) for subject in subjects)
    assert all(recent.unchanged(each, recent.mark()) for some in messages for each in some)


def test_nothing_is_known_from_before_a_beginning():
    recent = RecentChanges(Memory.own(RecentChanges.SIZE).view)
    mark = recent.mark()
    assert not recent.unchanged(WANG, mark)
    recent.begin()
    assert not recent.unchanged(WANG, mark)
    mark = recent.mark()
    assert recent.unchanged(WANG, mark)
    recent.begin()
    assert not recent.unchanged(WANG, mark)
    assert not recent.unchanged(WANG, bytes(16))


places = st.tuples(st.integers(0, 3), st.integers(0, LIST_SIZE - 1) | st.integers(0, 40))


@given(st.lists(places, max_size=30), st.lists(places, max_size=30), st.lists(places, max_size=30))
def test_revoked_places_are_those_that_were_set_in_any_way(one_by_one, merged, others):
    revoked = revoked_places()
    bits = {}
    for number, index in merged:
        bits.setdefault(number, bytearray(LIST_SIZE // 8))[index // 8] |= 1 << index % 8
    for number, index in one_by_one[::2]:
        revoked.add(number, index)
    for number, some in bits.items():
        revoked.merge(number, some)
    for number, index in one_by_one[1::2]:
        revoked.add(number, index)
    expected = {*one_by_one, *merged}
    assert {place for place in {*others, *expected} if place in revoked} == expected
    again = revoked_places()
    for number, some in revoked.lists().items():
        again.merge(number, some)
    assert again.lists() == revoked.lists()


def test_places_of_more_lists_than_a_province_has_are_refused():
    revoked = revoked_places()
    for number in range(MOST_LISTS):
        revoked.add(number, 0)
    with pytest.raises(TooManyListsError):
        revoked.add(MOST_LISTS, 0)
    with pytest.raises(TooManyListsError):
        revoked.merge(MOST_LISTS, b"")
    revoked.add(0, LIST_SIZE - 1)
    assert (0, LIST_SIZE - 1) in revoked


def test_a_whole_state_clears_nothing_unless_there_are_too_many_lists():
    revoked, whole = revoked_places(), revoked_places()
    for number in range(MOST_LISTS):
        revoked.add(number, 5)
    whole.add(7, 1)
    assert not revoked.take(whole)
    assert all((number, 5) in revoked for number in range(MOST_LISTS))
    assert (7, 1) in revoked
    whole.add(MOST_LISTS, 1)
    assert revoked.take(whole)
    assert revoked.lists() == {7: b"\x22", MOST_LISTS: b"\x02"}


def test_bits_longer_than_a_list_are_refused():
    with pytest.raises(MalformedObjectError):
        revoked_places().merge(1, bytes(LIST_SIZE // 8 + 1))
