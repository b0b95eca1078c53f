"""The metrics of a real node."""

from __future__ import annotations

import contextlib
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import heard

from exchange.client import Purpose
from exchange.errors import AuditUnavailableError
from nodes.doors.shares import MOST
from nodes.trial import TrialExchange, free_ports, wait_until


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented):
    (port,) = free_ports(1)
    trial = TrialExchange(
        tmp_path_factory.mktemp("metrics"),
        ("510000", "440000"),
        issuers={"510000": (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        trial.start("510000")
        trial.start("440000", environment={"TONGXING_METRICS__LISTEN": f"127.0.0.1:{port}"})
        trial.metrics = f"http://127.0.0.1:{port}/metrics"
        yield trial


def scraped(exchange):
    with urllib.request.urlopen(exchange.metrics, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_trust_list_and_the_ends_of_certificates_are_told(exchange):
    found = scraped(exchange)
    assert found["tongxing_trust_usable",] == 1
    assert found["tongxing_trust_version",] == exchange.trust().version
    assert found["tongxing_trust_unusable_provinces",] == 0
    now, day = time.time(), 86400
    assert now + 23 * 3600 < found["tongxing_trust_end_seconds",] < now + day
    assert now + 89 * day < found["tongxing_certificate_end_seconds", "node"] < now + 91 * day
    assert found["tongxing_certificate_end_seconds", "authority"] > now + 365 * day


async def test_what_was_recorded_and_decided_is_told(exchange, people):
    before = scraped(exchange)
    async with exchange.client("440000", "app") as app:
        for _ in range(3):
            await app.recognize(people.document(), Purpose.PURPOSE_ENTRY_CHECK)
    after = scraped(exchange)

    def more(*name):
        return after[name] - before[name]

    assert more("tongxing_audit_recorded_total") == 3
    assert more("tongxing_audit_refused_total") == 0
    assert after["tongxing_audit_waiting",] <= 3
    assert after["tongxing_audit_writable",] == 1
    outcomes = ("RECOGNIZED", "NOT_RECOGNIZED", "INDETERMINATE")
    decided = [more("tongxing_decisions_total", outcome) for outcome in outcomes]
    assert decided[0] == 0
    assert sum(decided) == 3
    wait_until("all lies on disk", lambda: scraped(exchange)["tongxing_audit_waiting",] == 0, 30)


async def test_an_access_log_that_cannot_be_written_is_told(exchange, people):
    (day,) = (exchange.directory / "440000" / "data" / "audit").glob("*.db")
    away = day.with_suffix(".away")
    before = scraped(exchange)["tongxing_audit_refused_total",]
    async with exchange.client("440000", "app") as app:
        day.rename(away)
        day.mkdir()
        with contextlib.suppress(AuditUnavailableError):  # it may know by now
            await app.recognize(people.document(), Purpose.PURPOSE_ENTRY_CHECK)
        wait_until("it knows", lambda: scraped(exchange)["tongxing_audit_writable",] == 0, 30)
        with pytest.raises(AuditUnavailableError):
            await app.recognize(people.document(), Purpose.PURPOSE_ENTRY_CHECK)
        found = scraped(exchange)
        assert found["tongxing_audit_refused_total",] > before
        assert found["tongxing_audit_waiting",] > 0
        day.rmdir()
        away.rename(day)
    wait_until(
        "it is written again", lambda: scraped(exchange)["tongxing_audit_writable",] == 1, 30
    )


async def test_the_synchronisation_with_each_peer_is_told(exchange, people):
    wait_until(
        "it hears it", lambda: scraped(exchange)["tongxing_peer_synchronised", "510000"] == 1, 30
    )
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(people.tested())
    wait_until(
        "the change has come",
        lambda: scraped(exchange)["tongxing_peer_presence_subjects", "510000"] == 1,
        30,
    )
    found = scraped(exchange)
    assert found["tongxing_subjects",] == 0
    assert found["tongxing_resident_bytes",] > 10 * 2**20
    now = time.time()
    assert now - 60 < found["tongxing_peer_presence_seconds", "510000"] <= now
    assert now - 60 < found["tongxing_peer_as_of_seconds", "510000"] <= now
    assert found["tongxing_peer_resynchronisations_total", "510000"] == 1
    assert found["tongxing_peer_circuit_open", "510000"] == 0
    assert ("tongxing_peer_synchronised", "440000") not in found


def test_a_peer_is_up_while_it_is_heard_though_nobody_asks_it(exchange):
    def up():
        return scraped(exchange)["tongxing_peer_up", "510000"]

    wait_until("it is heard", lambda: up() == 1, 30)
    exchange.kill("510000")
    wait_until("it is missed", lambda: up() == 0, 10)
    exchange.start("510000")
    wait_until("it is heard again", lambda: up() == 1, 30)


async def test_a_peer_that_stops_answering_is_seen(exchange, people):
    first, second = people.tested(), people.tested()
    async with exchange.client("510000", "issuer") as issuer:
        for message in (first, second):
            await issuer.publish(message)
    wait_until(
        "the changes have come",
        lambda: scraped(exchange)["tongxing_peer_presence_subjects", "510000"] == 3,
        30,
    )
    async with exchange.client("440000", "app") as app:
        await heard(app, first.document)
        exchange.stop("510000")
        # Of another holder: what was answered of the first is remembered.
        await app.recognize(second.document, Purpose.PURPOSE_ENTRY_CHECK)
    wait_until(
        "it is missed",
        lambda: scraped(exchange)["tongxing_peer_synchronised", "510000"] == 0,
        30,
    )
    found = scraped(exchange)
    assert found["tongxing_peer_calls_total", "510000"] > 0
    assert found["tongxing_peer_errors_total", "510000"] > 0


def test_nothing_of_a_person_is_in_them(exchange, people):
    with urllib.request.urlopen(exchange.metrics, timeout=30) as answer:
        text = answer.read().decode()
    assert not [number for number in people.numbers if len(number) > 10 and number in text]


def test_how_many_calls_each_caller_may_have_is_told(exchange):
    assert scraped(exchange)["tongxing_places",] == MOST
