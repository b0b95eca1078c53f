"""Peers that are silent, dead, lying or somebody else: a wrong green never comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from uuid import UUID

import pytest
import redis
from waiting import freeze, heard

from exchange import attestations, cose, publication
from exchange.client import Purpose
from exchange.keys import Algorithm, PrivateKey, PublicKey
from exchange.presence import subject_of
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import types_pb2
from nodes.store.changes import journal, note_published
from nodes.trial import TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
GREEN = ("RECOGNIZED", "GREEN", "ACCEPTED")
NOTHING = ("NOT_RECOGNIZED", "UNSPECIFIED", "NO_RECORD")
SILENT = ("INDETERMINATE", "UNSPECIFIED", "UNAVAILABLE")
RED = ("NOT_RECOGNIZED", "RED", "NOT_RECOGNIZED_BY_RULE")


def summary(decision):
    return (
        recognition.Outcome.Name(decision.outcome).removeprefix("OUTCOME_"),
        types_pb2.Colour.Name(decision.colour).removeprefix("COLOUR_"),
        recognition.Verdict.Name(decision.verdict).removeprefix("VERDICT_"),
    )


def states(decision):
    return {
        answer.province: recognition.AnswerState.Name(answer.state).removeprefix("ANSWER_STATE_")
        for answer in decision.answers
    }


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("peers"),
        ("510000", "440000", "310000"),
        issuers=dict.fromkeys(("510000", "310000"), (invented.ISSUER_CREDIT_CODE,)),
    )
    with trial:
        trial.start(environment={"TONGXING_LOG__LEVEL": "debug"})
        yield trial
    no_traces(trial)


@pytest.fixture
async def gate(exchange):
    """Guangdong's app."""
    async with exchange.client("440000", "app") as app:
        yield app


@pytest.fixture
async def published(exchange, gate, heard_of):
    """Publishes, and waits until Guangdong knows that there is something, without asking for it."""
    return functools.partial(heard_of, exchange, gate)


@pytest.fixture
async def in_two_provinces(people, published):
    """Publishes in Sichuan, and in Shanghai a green of the same holder, which nobody asks for."""

    async def publish(message):
        await published(people.tested(document=message.document), "310000")
        return await published(message)

    return publish


@contextlib.contextmanager
def stopped(exchange, province):
    freeze(exchange.pid(province))
    try:
        yield
    finally:
        exchange.signal(province, signal.SIGCONT)


def says(expected):
    """Decides as expected, and meanwhile nothing that might be wrong."""

    def holds(decision):
        assert summary(decision) in (SILENT, NOTHING, expected)
        return summary(decision) == expected

    return holds


def is_heard_of(decision):
    """Sichuan is known to hold something."""
    return states(decision)["510000"] != "NO_RECORD"


async def test_a_silent_peer_that_may_know_makes_a_green_indeterminate_and_never_an_error(
    exchange, people, gate, in_two_provinces
):
    message = await in_two_provinces(people.tested())
    with stopped(exchange, "310000"):
        decision = await gate.recognize(message.document, CHECK)
        assert summary(decision) == SILENT
        assert states(decision) == {
            "510000": "ANSWERED",
            "440000": "NO_RECORD",
            "310000": "UNREACHABLE",
        }
        assert "上海" in decision.reason.zh
        many = await gate.recognize_all([message.document] * 50, CHECK)
        assert {summary(each) for each in many} == {SILENT}
    await heard(gate, message.document, says(GREEN))


async def test_a_silent_peer_that_knows_nothing_of_the_holder_turns_nobody_away(
    exchange, people, gate, published
):
    message = await published(people.tested())
    with stopped(exchange, "310000"):
        decision = await gate.recognize(message.document, CHECK)
    assert summary(decision) == GREEN
    (shanghai,) = (each for each in decision.answers if each.province == "310000")
    assert states(decision)["310000"] == "NO_RECORD"
    assert shanghai.HasField("as_of_time")
    assert shanghai.calls == 0


async def test_a_silent_home_province_is_named(exchange, people, gate, published):
    message = await published(people.tested())
    with stopped(exchange, "510000"):
        decision = await gate.recognize(message.document, CHECK)
        assert summary(decision) == SILENT
        assert states(decision)["510000"] == "UNREACHABLE"
        nobody = await gate.recognize(people.document(), CHECK)
        assert summary(nobody) == NOTHING
        assert states(nobody)["510000"] == "NO_RECORD"
    await heard(gate, message.document, says(GREEN))


async def test_a_red_at_hand_stands_whoever_is_silent(exchange, people, gate, in_two_provinces):
    message = await in_two_provinces(people.coloured("RED"))
    with stopped(exchange, "310000"):
        decision = await gate.recognize(message.document, CHECK)
    assert summary(decision) == RED
    assert states(decision)["310000"] == "UNREACHABLE"
    assert decision.reason.zh == "来源地赋红码"


async def test_a_killed_peer_is_asked_again_when_it_is_back(exchange, people, gate, published):
    """What it answered before counts meanwhile, with its time; what was not asked does not."""
    asked = await published(people.tested())
    await heard(gate, asked.document, says(GREEN))
    message = await published(people.tested())
    asker = exchange.pid("440000")
    exchange.kill("510000")
    try:
        decision = await gate.recognize(message.document, CHECK)
        assert summary(decision) == SILENT
        assert states(decision)["510000"] == "UNREACHABLE"
        before = await gate.recognize(asked.document, CHECK)
        assert summary(before) == GREEN
        assert states(before)["510000"] == "CACHED"
    finally:
        await asyncio.to_thread(exchange.start, "510000")
    await heard(gate, message.document, says(GREEN))
    assert exchange.pid("440000") == asker


async def test_something_else_at_a_peers_address_is_not_believed(
    exchange, people, gate, in_two_provinces, tmp_path
):
    """Junk first, then a real node, of the wrong province."""
    message = await in_two_provinces(people.tested())
    exchange.stop("310000")
    try:
        host, _, port = exchange.addresses["310000"].partition(":")
        with socket.create_server((host, int(port))) as server:

            def talk():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        with connection:
                            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" * 100)

            talking = threading.Thread(target=talk)
            talking.start()
            for _ in range(3):
                decision = await gate.recognize(message.document, CHECK)
                assert summary(decision) == SILENT
                assert states(decision)["310000"] == "UNREACHABLE"
            server.shutdown(socket.SHUT_RDWR)
            talking.join()
        config = exchange.directory / "510000" / "node.toml"
        settings = {"TONGXING_LISTEN": exchange.addresses["310000"], "TONGXING_DATA": str(tmp_path)}
        impostor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nodes.cli", "node", "run", "--config", config),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | settings,
        )
        try:
            said = b""
            while b"node.serving" not in said:
                said = await impostor.stderr.readline()
                assert said, "it did not start"
            for _ in range(3):
                decision = await gate.recognize(message.document, CHECK)
                assert summary(decision) == SILENT
                assert states(decision)["310000"] == "UNREACHABLE"
                await asyncio.sleep(0.5)  # so that Guangdong tries the address again
        finally:
            impostor.terminate()
            await impostor.communicate()
    finally:
        await asyncio.to_thread(exchange.start, "310000")
    await heard(gate, message.document, says(GREEN))


@dataclasses.dataclass
class Liar:
    """Sichuan's node, which serves what is written into its store."""

    exchange: object
    people: object
    epoch: object

    def key(self):
        path = self.exchange.directory / "510000" / "attestation-key.pem"
        return PrivateKey.from_pem(path.read_bytes(), None)

    def attestation(self, message):
        return publication.draft(
            message,
            province="510000",
            author=self.people.issuer.credit_code,
            epoch=self.epoch,
            now=datetime.now(UTC),
        )

    def signed(self, message, key=None, typ=cose.ObjectType.ATTESTATION):
        payload = attestations.encode(self.attestation(message))
        return cose.sign(payload, key or self.key(), typ)

    def serve(self, message, *records):
        """Put records where the holder's are."""
        token = self.attestation(message).token
        with redis.Redis(unix_socket_path=str(self.exchange.store("510000"))) as store:
            for number, record in enumerate(records):
                store.hset(b"s:{%b}" % token, UUID(int=number).bytes, record)
            store.execute_command(*journal([note_published(subject_of(token))]))


@pytest.fixture
def liar(exchange, people, epoch_key):
    return Liar(exchange, people, epoch_key(exchange))


class Pretender:
    """A key that bears another's kid."""

    def __init__(self, pretended: PublicKey) -> None:
        self._key = PrivateKey.generate(Algorithm.ES256)
        self.public = pretended

    def sign(self, data):
        return self._key.sign(data)


def foreign(liar, message):
    """A good attestation of Guangdong's key, in Sichuan's name."""
    path = liar.exchange.directory / "440000" / "attestation-key.pem"
    return liar.signed(message, PrivateKey.from_pem(path.read_bytes(), None))


def relayed(liar, message):
    """A good attestation that Guangdong itself might have published."""
    path = liar.exchange.directory / "440000" / "attestation-key.pem"
    attestation = dataclasses.replace(liar.attestation(message), province="440000")
    return attestations.sign(attestation, PrivateKey.from_pem(path.read_bytes(), None))


LIES = {
    "forged under the right kid": (
        lambda liar, message: liar.signed(message, Pretender(liar.key().public)),
        "BAD_SIGNATURE",
    ),
    "signed by nobody known": (
        lambda liar, message: liar.signed(message, PrivateKey.generate(Algorithm.ES256)),
        "UNKNOWN_ISSUER",
    ),
    "signed by another province": (foreign, "BAD_SIGNATURE"),
    "another province's own": (relayed, "UNKNOWN_ISSUER"),
    "truncated": (lambda liar, message: liar.signed(message)[:-9], "BAD_SIGNATURE"),
    "with a bit flipped": (
        lambda liar, message: liar.signed(message)[:-1] + bytes([liar.signed(message)[-1] ^ 1]),
        "BAD_SIGNATURE",
    ),
    "of another typ": (
        lambda liar, message: liar.signed(message, typ=cose.ObjectType.HEALTH_CODE),
        "BAD_SIGNATURE",
    ),
    "no object at all": (lambda _liar, _message: b"\xff" * 300, "BAD_SIGNATURE"),
    "empty": (lambda _liar, _message: b"", "BAD_SIGNATURE"),
    "larger than any": (lambda _liar, _message: b"\xd2\x84" + bytes(1 << 17), "BAD_SIGNATURE"),
}


@pytest.mark.parametrize("case", LIES)
async def test_a_lie_of_a_peer_is_named_and_harms_no_other_traveller(
    case, people, gate, published, liar
):
    make, verdict = LIES[case]
    message, other = people.tested(), await published(people.tested())
    liar.serve(message, make(liar, message))
    await heard(gate, message.document, is_heard_of)
    decision, others = await gate.recognize_all([message.document, other.document], CHECK)
    assert summary(decision) == ("NOT_RECOGNIZED", "UNSPECIFIED", verdict)
    assert states(decision)["510000"] == "UNTRUSTED"
    (piece,) = decision.evidence
    assert recognition.Verdict.Name(piece.verdict) == f"VERDICT_{verdict}"
    assert not piece.attestation.attestation_id
    assert summary(others) == GREEN
    assert states(others)["510000"] in ("ANSWERED", "CACHED")


async def test_another_persons_good_attestation_is_refused_and_not_passed_on(
    people, gate, published, liar
):
    other = await published(people.tested())
    message = people.tested()
    signed = liar.signed(other)
    liar.serve(message, signed)
    decision = await heard(gate, message.document, is_heard_of)
    assert summary(decision) == ("NOT_RECOGNIZED", "UNSPECIFIED", "BAD_SIGNATURE")
    assert states(decision)["510000"] == "UNTRUSTED"
    assert signed not in decision.SerializeToString()
    assert summary(await gate.recognize(other.document, CHECK)) == GREEN


async def test_a_red_cannot_be_buried_under_many_greens(people, gate, liar):
    red = people.coloured("RED")
    greens = [people.tested(document=red.document) for _ in range(80)]
    liar.serve(red, *(liar.signed(green) for green in greens), liar.signed(red))
    decision = await heard(gate, red.document, is_heard_of)
    assert summary(decision) in (RED, SILENT)
    assert states(decision)["510000"] == "UNTRUSTED"


async def test_a_peer_that_sends_far_too_much_is_no_answer(people, gate, published, liar):
    message, other = people.tested(), await published(people.tested())
    liar.serve(message, *(bytes([200]) + os.urandom(60_000) for _ in range(400)))
    decision = await heard(gate, message.document, is_heard_of)
    assert summary(decision) == SILENT
    assert summary(await gate.recognize(other.document, CHECK)) == GREEN
