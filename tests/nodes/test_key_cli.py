"""``tongxing key`` on real nodes and a real registry: planned rotation, and a stolen key."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from waiting import SECONDS, heard

from exchange import cose
from exchange.client import Purpose
from exchange.errors import TongxingError
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.cli import run
from nodes.config import load
from nodes.given import _role_signer
from nodes.trial import TrialExchange, wait_until

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
CHECK = Purpose.PURPOSE_ENTRY_CHECK


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("keys"),
        (SICHUAN, GUANGDONG, SHANGHAI),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
        registry=True,
    )
    with trial:
        trial.start()
        yield trial
    no_traces(trial)
    assert "Traceback" not in trial.log(SICHUAN).read_text()


@pytest.fixture
def tongxing(exchange, capsys, monkeypatch):
    """Runs ``tongxing key …`` as Sichuan's admin: its exit code and what it said."""
    monkeypatch.setenv("LANG", "C.UTF-8")

    def key(*arguments, who="admin", province=SICHUAN):
        file = exchange.directory / province / f"{who}.toml"
        code = run(["key", *arguments, "--client", str(file)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return key


@pytest.fixture
def done(tongxing):
    """The same, as JSON; it must not fail."""

    def key(*arguments, **who):
        code, out, err = tongxing(*arguments, "--output", "json", **who)
        assert code == 0, err
        return json.loads(out)

    return key


@pytest.fixture(scope="module")
def client(exchange):
    """Makes clients whose trust list follows the node's."""
    trust = exchange.live_trust("keys")
    return lambda province, who: exchange.client(province, who, trust=trust)


@pytest.fixture
def publish(client, people):
    """Publishes at Sichuan; gives the message, and the kid that signed it."""

    async def work():
        message = people.tested()
        async with client(SICHUAN, "issuer") as issuer:
            await issuer.publish(message)
        async with client(SICHUAN, "app") as app:
            decision = await app.recognize(message.document, CHECK)
        (piece,) = decision.evidence
        signed = cose.parse(piece.attestation.signed, cose.ObjectType.ATTESTATION)
        return message, signed.kid.hex()

    return lambda: asyncio.run(work())


@pytest.fixture
def decides(client):
    """Waits until a province decides so on somebody, having heard of what was done elsewhere."""

    async def work(message, province, outcome):
        async with client(province, "app") as app:
            await heard(app, message.document, lambda it: it.outcome == outcome)

    return lambda *given: asyncio.run(work(*given))


def states(answer):
    keys = answer.get("keys") or answer["step"]["keys"]
    return {key["kid"]: key["state"].removeprefix("KEY_STATE_") for key in keys}


def activated(tongxing, *arguments):
    """Activate, as soon as every peer holds the key; until then it is refused in plain words."""
    until = time.monotonic() + SECONDS
    while True:
        code, out, err = tongxing("activate", *arguments, "--output", "json")
        if code == 0:
            return json.loads(out)
        assert "not hold the key" in err
        assert time.monotonic() < until


def test_a_planned_rotation_and_a_stolen_key(tongxing, done, publish, decides):
    ((first, _),) = states(done("list")).items()
    before, kid = publish()
    assert kid == first
    second = done("prepare", "--algorithm", "EDDSA")["kid"]
    answer = activated(tongxing)
    assert states(answer) == {first: "OLD", second: "ACTIVE"}
    assert "behind" not in answer["step"]
    after, kid = publish()
    assert kid == second  # without a restart
    for province in (SICHUAN, GUANGDONG, SHANGHAI):
        decides(before, province, recognition.OUTCOME_RECOGNIZED)
        decides(after, province, recognition.OUTCOME_RECOGNIZED)

    code, out, _ = tongxing("revoke", "--emergency", "--dry-run")
    assert code == 0
    assert "试算" in out
    assert "核酸检测 NUCLEIC_ACID_TEST 1" in out
    decides(after, GUANGDONG, recognition.OUTCOME_RECOGNIZED)

    answer = done("revoke", "--emergency")
    stolen = states(answer)
    assert (stolen[first], stolen[second]) == ("OLD", "REVOKED")
    assert answer["step"]["ends"] == [{"kind": "KIND_NUCLEIC_ACID_TEST", "count": "1"}]
    (third,) = [kid for kid, state in stolen.items() if state == "ACTIVE"]
    for province in (SICHUAN, GUANGDONG, SHANGHAI):
        decides(after, province, recognition.OUTCOME_NOT_RECOGNIZED)
        decides(before, province, recognition.OUTCOME_RECOGNIZED)
    again, kid = publish()
    assert kid == third
    decides(again, GUANGDONG, recognition.OUTCOME_RECOGNIZED)
    code, out, _ = tongxing("list")
    for words in ("在用 ACTIVE", "停用 OLD", "吊销 REVOKED", "是 yes", "核酸检测", third):
        assert words in out


def test_a_node_that_starts_again_signs_with_the_key_that_it_made(exchange, done, publish):
    active = [kid for kid, state in states(done("list")).items() if state == "ACTIVE"]
    assert active != [next(iter(states(done("list"))))]
    exchange.stop(SICHUAN)
    exchange.start(SICHUAN)
    _, kid = publish()
    assert [kid] == active


def test_a_peer_that_does_not_answer_is_named_and_does_not_block(exchange, tongxing):
    exchange.stop(SHANGHAI)
    try:
        assert tongxing("prepare")[0] == 0
        answer = activated(tongxing)
        assert list(answer["step"]["behind"]) == [SHANGHAI]
    finally:
        exchange.start(SHANGHAI)


def test_a_peer_that_is_behind_blocks_until_it_is_forced(exchange, tongxing, done):
    """Shanghai's node answers, and hears of nothing new: its registry address is wrong."""
    exchange.stop(SHANGHAI)
    exchange.start(
        SHANGHAI,
        environment={"TONGXING_TRUST__REGISTRY__ADDRESS": exchange.addresses[SHANGHAI]},
    )
    try:
        kid = done("prepare")["kid"]
        wait_until(
            "peers follow each other without a registry too",
            lambda: "behind" not in done("activate", kid, "--dry-run")["step"],
            30,
        )
    finally:
        exchange.stop(SHANGHAI)
        exchange.start(SHANGHAI)
    assert states(activated(tongxing, kid))[kid] == "ACTIVE"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("activate",), "no key is PREPARED"),
        (("taint",), "keys are OLD"),
        (("revoke",), "no key is TAINTED"),
        (("retire", "0123456789abcdef"), "publishes no key 0123456789abcdef"),
        (("retire", "no kid"), "kid"),
        (("taint", "0123456789abcdef", "--from", "yesterday"), "--from"),
        (("taint", "0123456789abcdef", "--from", "2022-13-10T12:00:00"), "--from"),
    ],
)
def test_a_mistake_is_refused_in_one_line(tongxing, arguments, words):
    code, _, err = tongxing(*arguments)
    assert code == 1
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("who", "province"), [("app", SICHUAN), ("issuer", SICHUAN)])
def test_nobody_but_an_admin_is_let_through(tongxing, who, province):
    code, _, err = tongxing("list", who=who, province=province)
    assert code == 1
    assert "is for admin" in err


def test_another_provinces_admin_leads_its_own_keys_alone(done):
    assert set(states(done("list", province=GUANGDONG))).isdisjoint(states(done("list")))


CONFIGURED = {
    "a schedule without a role key": ({"role_key": None}, 30, "keys.rotate_days"),
    "a schedule without a registry": ({"registry": None}, 30, "keys.rotate_days"),
    "a role key that is missing": ({"role_key": "no.pem"}, None, "trust.role_key"),
    "a passphrase file that is missing": (
        {"role_passphrase_file": "no.txt"},
        None,
        "trust.role_passphrase_file",
    ),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_a_node_does_not_start_with(exchange, case):
    trust, days, field = CONFIGURED[case]
    home = exchange.directory / SICHUAN
    config = load(home / "node.toml")
    paths = {
        name: home / value if isinstance(value, str) else value for name, value in trust.items()
    }
    wrong = config.model_copy(
        update={
            "trust": config.trust.model_copy(update=paths),
            "keys": config.keys.model_copy(update={"rotate_days": days}),
        }
    )
    with pytest.raises(TongxingError) as refused:
        _role_signer(wrong)
    assert refused.value.field == field
    assert _role_signer(config) is not None
