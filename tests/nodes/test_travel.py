"""Before a journey (出行前查询): decided at home, by the destination's rules, as of the arrival."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from waiting import heard_from_all

from exchange.client import Purpose
from exchange.errors import ExpiredError, InvalidFieldError, UnknownProvinceError
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

SICHUAN, GUANGDONG = "510000", "440000"
PLAN, ACCESS = Purpose.PURPOSE_TRAVEL_PLANNING, Purpose.PURPOSE_HOLDER_ACCESS


def ahead(**span):
    return datetime.now(UTC) + timedelta(**span)


@pytest.fixture
async def app(exchange, people):
    """The app of Sichuan, whose node has heard from the others."""
    async with exchange.client(SICHUAN, "app") as client:
        await heard_from_all(client, people.document())
        yield client


@pytest.fixture
async def tested(exchange, people):
    """A holder's test, taken 40 hours ago."""
    message = people.tested(hours=40)
    async with exchange.client(SICHUAN, "issuer") as issuer:
        await issuer.publish(message)
    return message


async def test_the_destinations_rules_decide(app, tested, exchange):
    decision = await app.recognize(tested.document, PLAN, destination=GUANGDONG)
    assert decision.outcome == pb.OUTCOME_RECOGNIZED
    assert decision.province == GUANGDONG
    assert [rule.rule_id for rule in decision.rules if rule.satisfied] == ["nat-48h"]
    at_home = await app.recognize(tested.document, PLAN)
    assert at_home.province == SICHUAN
    assert at_home.rules_digest != decision.rules_digest
    async with exchange.client(GUANGDONG, "app") as there:
        said = await there.recognize(tested.document, Purpose.PURPOSE_ENTRY_CHECK)
    assert said.rules_digest == decision.rules_digest


async def test_it_is_decided_as_of_the_arrival(app, tested):
    arrival = ahead(hours=12).replace(microsecond=0)
    decision = await app.recognize(tested.document, PLAN, destination=GUANGDONG, arrival=arrival)
    assert decision.outcome == pb.OUTCOME_NOT_RECOGNIZED
    assert "48小时" in decision.reason.zh
    assert decision.decide_time.ToDatetime(UTC) == arrival
    assert pb.REMEDY_ACTION_OBTAIN in {remedy.action for remedy in decision.remedies}
    at_home = await app.recognize(tested.document, ACCESS, arrival=arrival)
    assert at_home.outcome == pb.OUTCOME_RECOGNIZED


async def test_what_will_have_ended_by_the_arrival_does_not_count(app, tested):
    decision = await app.recognize(tested.document, PLAN, arrival=ahead(days=20))
    assert decision.outcome == pb.OUTCOME_NOT_RECOGNIZED
    assert [piece.verdict for piece in decision.evidence] == [pb.VERDICT_EXPIRED]


async def test_a_refusal_says_when_waiting_will_do(app, exchange, people, hours_ago):
    released = people.attested(
        types_pb2.Fact(recovery=types_pb2.Recovery(sample_time=hours_ago(24 * 10)))
    )
    async with exchange.client(SICHUAN, "issuer") as issuer:
        await issuer.publish(released)
    decision = await app.recognize(released.document, Purpose.PURPOSE_ENTRY_CHECK)
    assert decision.outcome == pb.OUTCOME_NOT_RECOGNIZED
    (wait,) = [each for each in decision.remedies if each.action == pb.REMEDY_ACTION_WAIT]
    assert wait.rule_id == "recovery-14d"
    released_at = released.fact.recovery.sample_time.ToDatetime(UTC)
    assert abs(wait.from_time.ToDatetime(UTC) - released_at - timedelta(days=14)) < timedelta(
        minutes=2
    )
    (one,) = await app.recognize_all([released.document], PLAN)
    assert not one.remedies  # not in batches


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("destination", {"destination": GUANGDONG}),
        ("arrival_time", {"arrival": ahead(hours=1)}),
    ],
)
@pytest.mark.parametrize(
    "purpose",
    [
        Purpose.PURPOSE_ENTRY_CHECK,
        Purpose.PURPOSE_CODE_DISPLAY,
        Purpose.PURPOSE_APPEAL,
    ],
)
async def test_a_gate_asks_neither_for_elsewhere_nor_for_later(app, people, purpose, field, asked):
    with pytest.raises(InvalidFieldError) as caught:
        await app.recognize(people.document(), purpose, **asked)
    assert caught.value.field == field


@pytest.mark.parametrize("asked", [{"destination": GUANGDONG}, {"arrival": ahead(hours=1)}])
async def test_there_is_no_receipt_of_a_forecast(app, people, asked):
    with pytest.raises(InvalidFieldError) as caught:
        await app.recognize(people.document(), PLAN, receipt=True, **asked)
    assert caught.value.field == "receipt"


async def test_an_arrival_in_the_past_is_refused(app, people):
    with pytest.raises(ExpiredError) as caught:
        await app.recognize(people.document(), PLAN, arrival=ahead(minutes=-10))
    assert caught.value.field == "arrival_time"


async def test_an_arrival_beyond_30_days_is_refused(app, people):
    with pytest.raises(InvalidFieldError) as caught:
        await app.recognize(people.document(), PLAN, arrival=ahead(days=31))
    assert caught.value.field == "arrival_time"


@pytest.mark.parametrize("code", ["110000", "999999"])
async def test_a_destination_that_takes_no_part_is_refused(app, people, code):
    with pytest.raises(UnknownProvinceError) as caught:
        await app.recognize(people.document(), PLAN, destination=code)
    assert caught.value.field == "destination"


async def test_the_own_province_is_no_other_destination(app, tested):
    decision = await app.recognize(
        tested.document, Purpose.PURPOSE_ENTRY_CHECK, destination=SICHUAN, receipt=True
    )
    assert decision.receipt
