"""The trust list changes while nodes run: what is revoked ends, what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from waiting import heard, is_recognised, until

from exchange.client import Purpose
from exchange.errors import TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.trust.profile import AttestationKey, KeyState
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.identity import make_authority
from nodes.trial import TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
RECOGNIZED = recognition.OUTCOME_RECOGNIZED
NOT_RECOGNIZED = recognition.OUTCOME_NOT_RECOGNIZED


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("trust"),
        ("510000", "440000"),
        issuers={"510000": (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        trial.start(environment={"TONGXING_TRUST__POLL_SECONDS": "0.1"})
        yield trial
    no_traces(trial)
    assert "Traceback" not in trial.log("440000").read_text()


def verified(exchange, province):
    """The version that a node goes by, and what it has refused, from its log."""
    version, refused = 0, []
    for line in exchange.log(province).read_text(encoding="utf-8").splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "trust.verified":
            version, refused = event["version"], []
        elif event.get("event") == "trust.refused":
            refused.append(event["why"])
    return version, refused


async def until_followed(exchange):
    newest = exchange.trust().version
    await until(
        f"version {newest} is followed",
        lambda: all(verified(exchange, code)[0] == newest for code in exchange.provinces),
    )


async def until_refused(exchange):
    """Wait until Guangdong refuses a list; why it did."""
    return await until("it is refused", lambda: verified(exchange, "440000")[1])


@contextlib.contextmanager
def replaced(path, data):
    """Other bytes in a file's place, and at the end its own again, at one stroke each."""

    def put(data):
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.replace(path)

    before = path.read_bytes()
    put(data)
    try:
        yield
    finally:
        put(before)


@pytest.fixture
async def profiles(exchange):
    """The provinces' profiles, which are published again after the test."""
    before = dict(exchange.trust().profiles)
    await until_followed(exchange)
    yield before
    for code, profile in before.items():
        if exchange.trust().profile(code) != profile or verified(exchange, code)[1]:
            exchange.publish(profile)
    await until_followed(exchange)


@pytest.fixture
async def clients(exchange):
    async with (
        exchange.client("510000", "issuer") as issuer,
        exchange.client("440000", "app") as app,
    ):
        yield issuer, app


def in_state(profile, state):
    """A profile with its one key in another state."""
    (key,) = profile.keys
    return dataclasses.replace(
        profile, keys=(dataclasses.replace(key, state=state, since=datetime.now(UTC)),)
    )


async def test_a_revoked_key_is_refused_everywhere_without_a_restart(
    exchange, people, profiles, clients, refusal
):
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    # Guangdong has verified the signature and remembers it.
    await heard(app, message.document, is_recognised)
    exchange.publish(in_state(profiles["510000"], KeyState.REVOKED))
    decision = await heard(app, message.document, lambda it: it.outcome == NOT_RECOGNIZED)
    assert decision.verdict == recognition.VERDICT_UNKNOWN_ISSUER
    (answer,) = [each for each in decision.answers if each.province == "510000"]
    assert answer.state == recognition.ANSWER_STATE_UNTRUSTED
    assert decision.trust_version == exchange.trust().version
    await until_followed(exchange)
    # Its own node signs no more with it: nobody would accept what it signed.
    with pytest.raises(TrustListError, match="is ACTIVE"):
        await issuer.publish(people.tested())
    (item,) = [item async for item in issuer.publish_all([(1, people.tested())])]
    assert isinstance(item.error, TrustListError)


@pytest.mark.parametrize("state", [KeyState.PREPARED, KeyState.OLD])
async def test_a_key_that_does_not_sign_signs_nothing_and_what_it_signed_stands(
    exchange, people, profiles, clients, state
):
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    await asyncio.sleep(1)  # attestations and key states count in whole seconds
    exchange.publish(in_state(profiles["510000"], state))
    await until_followed(exchange)
    with pytest.raises(TrustListError):
        await issuer.publish(people.tested())
    assert (await app.recognize(message.document, CHECK)).outcome == RECOGNIZED


async def test_a_second_key_is_followed_and_the_first_keeps_its_word(
    exchange, people, profiles, clients
):
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    sichuan = profiles["510000"]
    more = PrivateKey.generate(Algorithm.EDDSA).public
    prepared = AttestationKey(more, KeyState.PREPARED, datetime.now(UTC))
    exchange.publish(dataclasses.replace(sichuan, keys=(*sichuan.keys, prepared)))
    await until_followed(exchange)
    assert (await app.recognize(message.document, CHECK)).outcome == RECOGNIZED
    await issuer.publish(people.tested())


TAMPERED = {
    "with another version": lambda good: good.replace(b'"version":', b'"version":9', 1),
    "cut short": lambda good: good[:-20],
    "of no role": lambda _: b"{}",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("case", TAMPERED)
async def test_tampered_metadata_is_refused_and_the_old_serves_on(
    exchange, people, profiles, clients, case
):
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    version, _ = verified(exchange, "440000")
    timestamp = exchange.directory / "trust" / "timestamp.json"
    with replaced(timestamp, TAMPERED[case](timestamp.read_bytes())):
        why = await until_refused(exchange)
        assert why[-1].startswith("trust.metadata: ")
        decision = await app.recognize(message.document, CHECK)
        assert (decision.outcome, decision.trust_version) == (RECOGNIZED, version)
        await issuer.publish(people.tested())
    exchange.publish(profiles["440000"])  # a good one afterwards is taken again
    await until_followed(exchange)


async def test_a_list_that_was_put_back_is_refused(exchange, people, profiles, clients):
    """A thief who replays the list of before a revocation gets nothing of it."""
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    timestamp = exchange.directory / "trust" / "timestamp.json"
    before = timestamp.read_bytes()
    exchange.publish(in_state(profiles["510000"], KeyState.REVOKED))
    await until_followed(exchange)
    with replaced(timestamp, before):
        (why,) = await until_refused(exchange)
        assert "older" in why
        decision = await app.recognize(message.document, CHECK)
        assert decision.verdict == recognition.VERDICT_UNKNOWN_ISSUER


async def test_a_changed_rule_decides_without_a_restart(exchange, people, profiles, clients):
    issuer, app = clients
    message = people.tested(hours=30)
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    stricter = [
        dict(rule, when=rule["when"].replace('"48h"', '"24h"')) for rule in profiles["440000"].rules
    ]
    exchange.publish(dataclasses.replace(profiles["440000"], rules=tuple(stricter)))
    await until_followed(exchange)
    decision = await app.recognize(message.document, CHECK)
    assert decision.outcome == NOT_RECOGNIZED
    assert decision.verdict == recognition.VERDICT_NOT_RECOGNIZED_BY_RULE
    async with exchange.client("510000", "app") as at_home:  # Sichuan's rules are its own
        assert (await at_home.recognize(message.document, CHECK)).outcome == RECOGNIZED


async def test_a_rule_that_does_not_compile_is_refused_and_the_old_decide_on(
    exchange, people, profiles, clients
):
    issuer, app = clients
    message = people.tested()
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)
    broken = [dict(rule, when="fact.nothing >") for rule in profiles["440000"].rules]
    exchange.publish(dataclasses.replace(profiles["440000"], rules=tuple(broken)))
    (why,) = await until_refused(exchange)
    assert "rules[" in why
    assert (await app.recognize(message.document, CHECK)).outcome == RECOGNIZED


async def test_a_withdrawn_authority_ends_open_connections_too(
    exchange, people, profiles, clients, refusal
):
    """Taking an authority off cuts no live connection by itself (measured): each call is asked."""
    issuer, _ = clients
    await issuer.publish(people.tested())
    new = make_authority(
        "510000",
        now=datetime.now(UTC),
        lifetime=timedelta(days=1),
    )
    exchange.publish(dataclasses.replace(profiles["510000"], tls_ca=new.certificate.decode()))
    call = issuer._channel.unary_unary("/tongxing.v1.AttestationService/GetAttestation")

    async def refused():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=10)
        return refusal(caught.value)[:2] == ("UNAUTHENTICATED", "NO_IDENTITY")

    await until("the issuer is refused", refused)


async def test_a_node_that_moves_is_found_at_its_new_address(exchange, people, profiles, clients):
    issuer, app = clients
    away = dataclasses.replace(profiles["510000"], addresses=("127.0.0.1:1",))
    exchange.publish(away)
    await until_followed(exchange)

    async def left():
        """Of somebody new each time, for what was answered before still counts."""
        nonlocal message
        message = people.tested()
        await issuer.publish(message)
        decision = await heard(
            app, message.document, lambda it: it.verdict != recognition.VERDICT_NO_RECORD
        )
        return decision.outcome == recognition.OUTCOME_INDETERMINATE

    message = None

    await until("its old address is left", left)  # not before a new channel had its time
    exchange.publish(profiles["510000"])
    await until_followed(exchange)
    await heard(app, message.document, is_recognised)


def test_a_profile_by_another_provinces_key_is_not_published(exchange):
    from exchange.trust import ceremony, files
    from exchange.trust.signers import Online, load_signer

    keys = exchange.directory / "keys"
    with pytest.raises(TrustListError, match="did not sign"):
        ceremony.publish_profile(
            files.read(exchange.directory / "trust"),
            exchange.trust().profile("510000"),
            load_signer(keys / "p440000.pem"),
            Online(load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem")),
            now=datetime.now(UTC),
        )
