"""The registry: it publishes what is rightly signed, and nodes hear of it at once."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime

import pytest
from waiting import heard, is_recognised, until

from exchange.client import Purpose
from exchange.errors import CallerNotAllowedError, TongxingError, TrustListError
from exchange.trust import ceremony
from exchange.trust.files import Bundle
from exchange.trust.profile import KeyState
from exchange.trust.roles import role_name
from exchange.trust.signers import load_signer
from exchange.v1 import recognition_service_pb2 as recognition
from nodes.config import RegistryConfig
from nodes.peers.registry import Registry, RegistryUnavailableError
from nodes.trial import REGISTRY, TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented):
    trial = TrialExchange(
        tmp_path_factory.mktemp("registry"),
        (SICHUAN, GUANGDONG, SHANGHAI),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
        registry=True,
    )
    with trial:
        trial.start()
        yield trial
    for name in trial.addresses:
        assert "Traceback" not in trial.log(name).read_text()


def registry(exchange, who, province=SICHUAN):
    """The registry, as somebody of a province sees it."""
    home = exchange.directory / province
    place = RegistryConfig(
        address=exchange.addresses[REGISTRY],
        province=exchange.provinces[0],
        authority=exchange.directory / exchange.provinces[0] / "authority.pem",
    )
    return Registry(place, home / f"{who}.pem", home / f"{who}-key.pem")


def held(exchange, name):
    """What a server's mirror holds."""
    from exchange.trust import files

    return Bundle.of(files.read(exchange.directory / name / "data" / "trust" / "mirror"))


def next_profile(exchange, province=SICHUAN, signer=None, step=1, **changes):
    """A province's next profile, signed."""
    current = held(exchange, REGISTRY)
    version = current.versions.roles[role_name(province)] + step
    profile = dataclasses.replace(exchange.trust().profile(province), **changes)
    signer = signer or load_signer(exchange.directory / "keys" / f"{role_name(province)}.pem")
    data = ceremony.sign_profile(profile, signer, version=version, now=datetime.now(UTC))
    return {f"{version}.{role_name(province)}.json": data}


async def until_all_hold(exchange, version, names=()):
    names = names or exchange.provinces
    await until(
        f"version {version} is everywhere",
        lambda: all(held(exchange, name).versions.snapshot >= version for name in names),
    )


async def test_what_a_province_publishes_reaches_every_node_at_once(exchange):
    holds = await registry(exchange, "node").submit(next_profile(exchange))
    await until_all_hold(exchange, holds.snapshot)


async def test_an_admin_publishes_too(exchange):
    holds = await registry(exchange, "admin").submit(next_profile(exchange))
    await until_all_hold(exchange, holds.snapshot)


@pytest.mark.parametrize("who", ["issuer", "app"])
async def test_who_is_no_admin_publishes_nothing(exchange, who):
    with pytest.raises(CallerNotAllowedError):
        await registry(exchange, who).submit(next_profile(exchange))


async def test_a_node_publishes_for_no_other_province(exchange):
    with pytest.raises(CallerNotAllowedError):
        await registry(exchange, "node", GUANGDONG).submit(next_profile(exchange))


async def test_what_another_key_signed_is_refused(exchange):
    foreign = load_signer(exchange.directory / "keys" / f"{role_name(GUANGDONG)}.pem")
    before = held(exchange, REGISTRY).versions
    with pytest.raises(TrustListError, match="sign"):
        await registry(exchange, "node").submit(next_profile(exchange, signer=foreign))
    assert held(exchange, REGISTRY).versions == before


@pytest.mark.parametrize("step", [0, 2])
async def test_a_version_out_of_turn_is_refused(exchange, step):
    before = held(exchange, REGISTRY).versions
    submitted = next_profile(exchange, step=step, status_lists=("https://example/1",))
    with pytest.raises(TongxingError):
        await registry(exchange, "node").submit(submitted)
    assert held(exchange, REGISTRY).versions == before


async def test_the_registrys_own_roles_are_taken_from_nobody(exchange):
    files = {
        name: data + b"\n"
        for name, data in held(exchange, REGISTRY).files.items()
        if "snapshot" in name or name == "timestamp.json"
    }
    with pytest.raises(TrustListError, match="by the registry itself"):
        await registry(exchange, "admin").submit(files)


async def test_a_revoked_key_is_refused_at_every_node_within_seconds(exchange, people):
    async with (
        exchange.client(SICHUAN, "issuer") as issuer,
        exchange.client(GUANGDONG, "app") as app,
        exchange.client(SHANGHAI, "app") as other,
    ):
        message = people.tested()
        await issuer.publish(message)
        for client in (app, other):
            await heard(client, message.document, is_recognised)
        before = exchange.trust().profile(SICHUAN).keys
        revoked = tuple(
            dataclasses.replace(key, state=KeyState.REVOKED, since=datetime.now(UTC))
            for key in before
        )
        await registry(exchange, "node").submit(next_profile(exchange, keys=revoked))
        try:
            for client in (app, other):
                decision = await heard(
                    client,
                    message.document,
                    lambda it: it.outcome == recognition.OUTCOME_NOT_RECOGNIZED,
                    seconds=10,
                )
                assert decision.verdict == recognition.VERDICT_UNKNOWN_ISSUER
        finally:
            holds = await registry(exchange, "node").submit(next_profile(exchange, keys=before))
        await until_all_hold(exchange, holds.snapshot)


async def test_while_the_registry_is_down_nodes_mirror_for_each_other(exchange):
    exchange.stop(SHANGHAI)
    try:
        holds = await registry(exchange, "node").submit(next_profile(exchange))
        await until_all_hold(exchange, holds.snapshot, (SICHUAN, GUANGDONG))
        exchange.stop(REGISTRY)
        with pytest.raises(RegistryUnavailableError):
            await registry(exchange, "node").submit(next_profile(exchange))
    finally:
        exchange.start(SHANGHAI)
    try:
        await until_all_hold(exchange, holds.snapshot)
    finally:
        exchange.start(REGISTRY)
    again = await registry(exchange, "node").submit(next_profile(exchange))
    await until_all_hold(exchange, again.snapshot)


async def test_a_drain_does_not_wait_for_those_who_watch(exchange):
    begun = time.monotonic()
    exchange.stop(GUANGDONG)
    assert time.monotonic() - begun < 10  # far below drain_seconds, which a watcher would use up
    exchange.start(GUANGDONG)


def test_the_log_says_who_published_what(exchange):
    lines = [json.loads(line) for line in exchange.log(REGISTRY).read_text().splitlines()]
    accepted = [line for line in lines if line["event"] == "registry.accepted"]
    assert {line["by"] for line in accepted} >= {
        "spiffe://510000.tongxing/node/node-1",
        "spiffe://510000.tongxing/admin/admin",
    }
