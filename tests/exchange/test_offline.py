from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from exchange import offline, statuslist
from exchange.attestations import Attestation, AttestationVerifier
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import Verdict
from exchange.statuslist import LIST_SIZE, StatusLists, StatusReference
from exchange.trust.profile import KeyState
from exchange.trust.trustlist import TrustList

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PLACE = StatusReference(SICHUAN, 3, 1000)


class Gate:
    """A gate without a connection: what it fetched while it had one, and its verifier."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.statuses = StatusLists()
        self.verifier = AttestationVerifier()
        self.attestation: Attestation = world.attestation(status=PLACE)
        self.signed: bytes = world.sign(self.attestation)

    def fetch(self, *revoked: int, at: datetime | None = None, number: int = 3) -> None:
        bits = bytearray(LIST_SIZE // 8)
        for index in revoked:
            bits[index >> 3] |= 1 << (index & 7)
        at = at or self.world.now
        signed = statuslist.sign(
            bytes(bits),
            province=SICHUAN,
            number=number,
            issued_at=at,
            ttl=HOUR,
            signer=self.world.keys[SICHUAN],
        )
        self.statuses.offer(signed, self.world.trust(), at)

    def check(
        self,
        signed: bytes | None = None,
        *,
        at: datetime | None = None,
        trust: TrustList | None = None,
    ) -> tuple[Verdict, Attestation | None]:
        return offline.check(
            self.signed if signed is None else signed,
            trust=trust or self.world.trust(),
            statuses=self.statuses,
            verifier=self.verifier,
            now=at or self.world.now,
        )


@pytest.fixture
def gate(world: Any) -> Gate:
    return Gate(world)


def test_an_attestation_that_no_fresh_list_revokes_is_accepted(gate: Gate) -> None:
    gate.fetch(999, 1001)
    assert gate.check() == (Verdict.ACCEPTED, gate.attestation)
    late = gate.world.now + HOUR - SECOND
    assert gate.check(at=late) == (Verdict.ACCEPTED, gate.attestation)


def test_a_revoked_attestation_is_refused_within_the_ttl_and_after(gate: Gate) -> None:
    gate.fetch(1000)
    for later in (0 * HOUR, HOUR - SECOND, HOUR, 24 * HOUR):
        assert gate.check(at=gate.world.now + later) == (Verdict.REVOKED, gate.attestation)


def test_past_the_ttl_an_attestation_is_stale_until_a_new_list_comes(gate: Gate) -> None:
    gate.fetch()
    late = gate.world.now + HOUR
    assert gate.check(at=late) == (Verdict.STALE, gate.attestation)
    gate.fetch(at=late)
    assert gate.check(at=late) == (Verdict.ACCEPTED, gate.attestation)
    gate.fetch(1000, at=late)
    assert gate.check(at=late) == (Verdict.REVOKED, gate.attestation)


def test_an_attestation_whose_list_is_not_at_hand_is_stale(gate: Gate) -> None:
    assert gate.check() == (Verdict.STALE, gate.attestation)
    gate.fetch(number=4)
    assert gate.check() == (Verdict.STALE, gate.attestation)


def test_an_attestation_without_a_status_cannot_be_checked_offline(gate: Gate) -> None:
    gate.fetch()
    attestation = replace(gate.attestation, status=None)
    assert gate.check(gate.world.sign(attestation)) == (Verdict.STALE, attestation)


def test_an_attestation_that_points_to_another_provinces_list_is_refused(gate: Gate) -> None:
    gate.fetch()
    borrowed = replace(gate.attestation, status=StatusReference(GUANGDONG, 3, 1000))
    assert gate.check(gate.world.sign(borrowed)) == (Verdict.BAD_SIGNATURE, None)


def test_what_does_not_verify_has_no_status(gate: Gate) -> None:
    gate.fetch()
    world = gate.world
    stranger = PrivateKey.generate(Algorithm.ES256)
    for signed, verdict in (
        (gate.signed[:-1], Verdict.BAD_SIGNATURE),
        (gate.signed[:-1] + bytes([gate.signed[-1] ^ 1]), Verdict.BAD_SIGNATURE),
        (world.sign(gate.attestation, world.keys[HUBEI]), Verdict.BAD_SIGNATURE),
        (world.sign(gate.attestation, stranger), Verdict.UNKNOWN_ISSUER),
        (b"", Verdict.BAD_SIGNATURE),
    ):
        assert gate.check(signed) == (verdict, None)


def test_what_has_ended_is_expired_and_not_stale(gate: Gate) -> None:
    assert gate.check(at=gate.attestation.expires_at) == (Verdict.EXPIRED, None)


def test_a_revoked_key_ends_its_attestations_and_its_lists(gate: Gate) -> None:
    gate.fetch()
    assert gate.check()[0] is Verdict.ACCEPTED
    revoked = gate.world.trust(p510000=KeyState.REVOKED)
    assert gate.check(trust=revoked) == (Verdict.UNKNOWN_ISSUER, None)
    # Signed anew with another key, it waits for a list that is signed anew, too.
    new = PrivateKey.generate(Algorithm.ES256)
    trust = gate.world.trust((SICHUAN, new.public), p510000=KeyState.REVOKED)
    signed = gate.world.sign(gate.attestation, new)
    assert gate.check(signed, trust=trust) == (Verdict.STALE, gate.attestation)


@pytest.mark.parametrize("status", [None, PLACE])
def test_nothing_is_accepted_with_no_lists_at_all(
    gate: Gate, status: StatusReference | None
) -> None:
    signed = gate.world.sign(replace(gate.attestation, status=status))
    assert gate.check(signed)[0] is Verdict.STALE
