"""The circuit breaker: when calls go through, and when not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.peers.breaker import CircuitBreaker


def breaker(*, draw: float = 1.0) -> CircuitBreaker:
    return CircuitBreaker(draw=lambda: draw)


def fail(circuit: CircuitBreaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        turn = circuit.admit(now)
        assert turn is not None
        circuit.failed(turn, now)


def test_it_stays_closed_below_five_failures_in_a_row():
    circuit = breaker()
    for _ in range(3):
        fail(circuit, 0, 4)
        assert not circuit.open
        circuit.succeeded()
    assert circuit.admit(0) is not None


def test_the_fifth_failure_in_a_row_opens_it():
    circuit = breaker()
    fail(circuit, 10, 5)
    assert circuit.open
    assert circuit.admit(10) is None
    assert circuit.admit(10.999) is None


def test_one_call_goes_through_as_a_probe_and_no_second_one_beside_it():
    circuit = breaker()
    fail(circuit, 0, 5)
    assert circuit.admit(1) is not None
    assert circuit.open
    assert circuit.admit(1) is None
    assert circuit.admit(1000) is None


def test_a_probe_that_succeeds_closes_it_and_the_count_begins_anew():
    circuit = breaker()
    fail(circuit, 0, 5)
    assert circuit.admit(1) is not None
    circuit.succeeded()
    assert not circuit.open
    fail(circuit, 1, 4)
    assert not circuit.open
    fail(circuit, 1)
    assert circuit.open
    assert circuit.admit(2) is not None  # after one second again, not two


def test_the_pause_doubles_up_to_thirty_seconds():
    circuit, now, pauses = breaker(), 0.0, []
    fail(circuit, now, 5)
    for _ in range(8):
        pause = 0.0
        while (turn := circuit.admit(now + pause)) is None:
            pause += 0.5
        pauses.append(pause)
        now += pause
        circuit.failed(turn, now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 0.75), (0.5, 0.875), (1.0, 1.0)])
def test_a_quarter_of_the_pause_is_by_lot(draw: float, pause: float):
    circuit = breaker(draw=draw)
    fail(circuit, 0, 5)
    assert circuit.admit(pause - 0.001) is None
    assert circuit.admit(pause) is not None


def test_a_failure_from_before_it_opened_says_nothing_of_the_probe():
    circuit = breaker()
    late = circuit.admit(0)
    fail(circuit, 0, 5)
    probe = circuit.admit(1)
    circuit.failed(late, 1.1)
    assert circuit.admit(1.5) is None  # the probe is still under way
    circuit.failed(probe, 1.2)
    assert circuit.admit(3.1) is None
    assert circuit.admit(3.2) is not None


def test_a_late_answer_closes_it_all_the_same():
    circuit = breaker()
    fail(circuit, 0, 5)
    circuit.succeeded()
    assert not circuit.open


def test_a_failure_from_before_it_closed_is_not_counted():
    circuit = breaker()
    late = circuit.admit(0)
    fail(circuit, 0, 5)
    assert circuit.admit(1) is not None
    circuit.succeeded()
    for _ in range(9):
        circuit.failed(late, 1)
    assert not circuit.open


def test_a_probe_that_was_dropped_leaves_its_place_to_the_next():
    circuit = breaker()
    fail(circuit, 0, 5)
    probe = circuit.admit(1)
    circuit.dropped(probe, 1)
    assert circuit.open
    assert circuit.admit(1) is not None
    circuit.dropped(probe, 1)  # again: of a turn that is over
    assert circuit.admit(1) is None


def test_calls_that_were_dropped_count_neither_way():
    circuit = breaker()
    fail(circuit, 0, 4)
    for _ in range(9):
        circuit.dropped(circuit.admit(0), 0)
    assert not circuit.open
    fail(circuit, 0)
    assert circuit.open


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "succeed", "fail", "drop"]), st.floats(0, 5)),
        max_size=60,
    )
)
@settings(deadline=None)
def test_whatever_happens_it_comes_back_by_itself(steps: list[tuple[str, float]]):
    circuit, now, turns = CircuitBreaker(), 0.0, []
    for step, passed in steps:
        now += passed
        if step == "ask" and (turn := circuit.admit(now)) is not None:
            turns.append(turn)
        elif turns and step == "fail":
            circuit.failed(turns.pop(0), now)
        elif turns and step == "drop":
            circuit.dropped(turns.pop(0), now)
        elif turns and step == "succeed":
            turns.pop(0)
            circuit.succeeded()
    for turn in turns:
        circuit.failed(turn, now)
    probe = circuit.admit(now + 30)
    assert probe is not None
    circuit.succeeded()
    assert not circuit.open
