"""The metrics of a real node."""

from __future__ import annotations

import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exchange.client import Purpose
from nodes.trial import TrialExchange, free_ports


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
    with urllib.request.urlopen(exchange.metrics, timeout=5) as answer:
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


async def test_a_peer_that_stops_answering_is_seen(exchange, people):
    document = people.document()
    async with exchange.client("440000", "app") as app:
        await app.recognize(document, Purpose.PURPOSE_ENTRY_CHECK)
        assert scraped(exchange)["tongxing_peer_up", "510000"] == 1
        exchange.stop("510000")
        await app.recognize(document, Purpose.PURPOSE_ENTRY_CHECK)
    assert scraped(exchange)["tongxing_peer_up", "510000"] == 0


def test_nothing_of_a_person_is_in_them(exchange, people):
    with urllib.request.urlopen(exchange.metrics, timeout=5) as answer:
        text = answer.read().decode()
    assert not [number for number in people.numbers if len(number) > 10 and number in text]
