"""The metrics of a real node."""

from __future__ import annotations

import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import heard

from exchange.client import Purpose
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
        assert scraped(exchange)["tongxing_peer_up", "510000"] == 1
        exchange.stop("510000")
        # Of another holder: what was answered of the first is remembered.
        await app.recognize(second.document, Purpose.PURPOSE_ENTRY_CHECK)
    assert scraped(exchange)["tongxing_peer_up", "510000"] == 0
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
