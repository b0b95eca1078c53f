"""Rules of other provinces: compiled once, whatever they are and whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exchange import authoring
from exchange.errors import TrustListError, UnknownProvinceError
from exchange.rules import RuleError
from nodes import published_rules
from nodes.published_rules import PublishedRules

HUBEI = "420000"
RULE = {
    "id": "nat",
    "kinds": ["NUCLEIC_ACID_TEST"],
    "colour": "GREEN",
    "when": 'fact.result == "NEGATIVE"',
    "reason": {"zh": "核酸阴性", "en": "a negative test"},
    "valid_from": "2022-01-01T00:00:00Z",
}


class Trust:
    """A trust list in which one province publishes some rules."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        self.rules = rules

    def profile(self, province: str) -> Trust:
        if province != HUBEI:
            raise UnknownProvinceError("takes no part", field="province")
        return self


@pytest.fixture
def compiled(monkeypatch):
    """How often rules were compiled."""
    made = []
    really = published_rules.RuleBook

    def book(rules):
        made.append(rules)
        return really(rules)

    monkeypatch.setattr(published_rules, "RuleBook", book)
    return made


async def test_rules_are_compiled_once_and_anew_when_they_change(compiled):
    published = PublishedRules()
    first = await published.of(HUBEI, Trust(RULE))
    assert await published.of(HUBEI, Trust(dict(RULE))) is first
    changed = await published.of(HUBEI, Trust(RULE | {"version": 2}))
    assert changed.rules[0].version == 2
    assert len(compiled) == 2


async def test_rules_that_do_not_compile_are_refused_each_time_and_tried_once(compiled):
    published = PublishedRules()
    for _ in range(3):
        with pytest.raises(TrustListError):
            await published.of(HUBEI, Trust(RULE | {"when": "("}))
    assert len(compiled) == 1
    assert (await published.of(HUBEI, Trust(RULE))).rules


async def test_what_an_author_is_refused_for_does_not_stop_a_reader():
    """A peer's profile stands as it was published, also by software that was less strict."""
    misspelt = RULE | {"when": 'fact.result == "NEGATIV"'}
    with pytest.raises(RuleError):
        authoring.check([misspelt])
    book = await PublishedRules().of(HUBEI, Trust(misspelt, RULE | {"id": "well"}))
    assert [rule.id for rule in book.rules] == ["nat", "well"]


async def test_whoever_gives_up_starts_nothing_twice(compiled):
    published, trust = PublishedRules(), Trust(RULE)
    gone = [asyncio.create_task(published.of(HUBEI, trust)) for _ in range(3)]
    await asyncio.sleep(0)
    assert all(each.cancel() for each in gone)
    await asyncio.gather(*(published.of(HUBEI, trust) for _ in range(3)))
    assert len(compiled) == 1


async def test_a_province_that_takes_no_part_is_refused():
    with pytest.raises(UnknownProvinceError):
        await PublishedRules().of("990000", Trust(RULE))
