from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.errors import MalformedObjectError
from exchange.presence import SUBJECT_BYTES, PresenceFilter, subject_of

subjects = st.binary(min_size=8, max_size=8)


def some(count, seed=1):
    return random.Random(seed).randbytes(count * SUBJECT_BYTES)


def split(packed):
    return [packed[at : at + SUBJECT_BYTES] for at in range(0, len(packed), SUBJECT_BYTES)]


def places(subject, size, hashes):
    """As the contract says it, without any of our code."""
    x = int.from_bytes(subject, "little")
    return [(x + i * (x // 2**33 | 1)) % size for i in range(hashes)]


def test_a_fingerprint_is_bytes_4_to_11_of_a_token():
    assert subject_of(bytes(range(36))) == bytes(range(4, 12))


@given(st.lists(subjects, max_size=60), st.integers(1, 16), st.integers(1, 400))
def test_whoever_was_added_is_perhaps_there_and_the_bits_are_the_contracts(them, hashes, words):
    made = PresenceFilter.from_bits(bytes(words * 8), hashes)
    expected = bytearray(words * 8)
    for subject in them:
        made.add(subject)
        for place in places(subject, words * 64, hashes):
            expected[place // 8] |= 1 << place % 8
    assert made.bits == expected
    assert all(subject in made for subject in them)


@given(st.lists(subjects, max_size=60), st.lists(subjects, max_size=60), st.integers(0, 5000))
def test_many_at_once_are_the_same_as_one_by_one_in_any_order(first, second, capacity):
    one_by_one, at_once = PresenceFilter.sized(capacity), PresenceFilter.sized(capacity)
    for subject in first + second:
        one_by_one.add(subject)
    at_once.add_all(b"".join(second))
    at_once.add_all(memoryview(b"".join(first)))
    assert at_once.bits == one_by_one.bits


@given(st.lists(subjects, max_size=60), st.lists(subjects, max_size=20))
def test_a_copy_that_was_sent_answers_alike_and_takes_more(sent, later):
    here = PresenceFilter.sized(1000)
    here.add_all(b"".join(sent))
    there = PresenceFilter.from_bits(bytes(here.bits), here.hashes, here.count)
    for each in (here, there):
        each.add_all(b"".join(later))
    assert here.bits == there.bits
    assert (here.count, here.capacity) == (there.count, there.capacity)


@given(subjects)
def test_an_empty_filter_says_no_to_everybody(subject):
    assert subject not in PresenceFilter.sized(0)
    assert subject not in PresenceFilter.from_bits(b"")


def test_somebody_can_be_added_to_a_filter_that_came_empty():
    made = PresenceFilter.from_bits(b"", 3)
    made.add(b"somebody")
    assert b"somebody" in made


def test_a_full_filter_denies_all_but_one_in_a_thousand_strangers():
    made = PresenceFilter.sized(50_000)
    made.add_all(some(50_000))
    strangers = split(some(200_000, seed=2))
    assert sum(each in made for each in strangers) / len(strangers) < 0.00115  # 0.00093 ± 3 σ
    assert all(each in made for each in split(some(50_000)))


@pytest.mark.parametrize("seed", range(20))
def test_the_smallest_filter_denies_as_well(seed):
    made = PresenceFilter.sized(0)
    made.add_all(some(made.capacity, seed))
    strangers = split(some(20_000, seed + 100))
    assert sum(each in made for each in strangers) / len(strangers) < 0.002


def test_it_is_full_at_its_capacity_and_counts_nobody_twice():
    made = PresenceFilter.sized(2000)
    packed = some(1900)
    for _ in range(3):
        made.add_all(packed)
    assert 1890 <= made.count <= 1900
    assert not made.full
    made.add_all(some(200, seed=3))
    assert made.full


def test_it_takes_16_bits_a_subject():
    assert len(PresenceFilter.sized(10_000_000).bits) == 20_000_000


def test_subjects_that_are_spread_over_many_reads_are_all_there():
    packed = some(10_001)
    made = PresenceFilter.sized(10_001)
    made.add_all(packed)
    assert all(each in made for each in split(packed))


@pytest.mark.parametrize("size", [1, 7, 9, 12, 2**30 + 8])
def test_a_filter_of_another_size_is_refused(size):
    with pytest.raises(MalformedObjectError) as caught:
        PresenceFilter.from_bits(bytes(size))
    assert caught.value.field == "header.size"


@pytest.mark.parametrize("hashes", [-1, 0, 17, 2**32 - 1])
def test_a_filter_with_no_or_too_many_hashes_is_refused(hashes):
    with pytest.raises(MalformedObjectError) as caught:
        PresenceFilter.from_bits(bytes(64), hashes)
    assert caught.value.field == "header.hashes"


@pytest.mark.parametrize("length", [1, 7, 9, 15])
def test_a_piece_of_a_fingerprint_is_refused_and_nothing_added(length):
    made = PresenceFilter.sized(0)
    with pytest.raises(MalformedObjectError):
        made.add_all(bytes(range(length)))
    assert not any(made.bits)
    with pytest.raises(struct.error):
        bytes(length) in made  # noqa: B015 - asking is what fails
