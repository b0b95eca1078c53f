"""The soak's verdict: what grows is told from what only varies."""

from __future__ import annotations

import random

import pytest

from scripts import soak

HOUR, EVERY = 3600, 10


def samples(seconds=HOUR, failed=0.0, **growth):
    """An hour of a node's samples: by series, how much it rises in the hour above its noise."""
    noise = random.Random(1)
    levels = {"rss": (120, 0.5), "fds": (40, 3), "threads": (10, 0), "p99": (20, 15)}
    return [
        {
            "at": at,
            "asked.recognize": 1000.0,
            "failed.recognize": failed,
            **{
                f"{kind}.440000": level + spread * noise.random() + growth.get(kind, 0) * at / HOUR
                for kind, (level, spread) in levels.items()
            },
        }
        for at in range(0, seconds, EVERY)
    ]


def test_what_only_varies_is_steady():
    assert soak.verdict(samples())


@pytest.mark.parametrize("growth", [{"rss": 20}, {"fds": 20}, {"threads": 6}, {"p99": 60}])
def test_what_grows_is_told(growth):
    assert not soak.verdict(samples(**growth))


def test_a_rise_that_ends_before_the_second_half_is_none():
    rises = samples()
    for each in rises:
        each["rss.440000"] += min(each["at"], HOUR / 3) / 60
    assert soak.verdict(rises)


def test_of_a_short_run_nothing_is_said(capsys):
    assert soak.verdict(samples(seconds=90, rss=10_000))
    assert "不足以判断增长" in capsys.readouterr().err


def test_calls_that_fail_are_no_good_run():
    assert not soak.verdict(samples(failed=2.0))
