"""The life of attestation keys: what each step does to a key in each state, and when it counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.attestations import CLOCK_SKEW, AttestationVerifier
from exchange.errors import KeyStepError, UnknownIssuerError
from exchange.keys import Algorithm, PrivateKey
from exchange.trust import keylife
from exchange.trust.keylife import HANDOVER
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList

PREPARED, ACTIVE, OLD, TAINTED, REVOKED = KeyState
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def public():
    return PrivateKey.generate(Algorithm.ES256).public


FIRST, SECOND_KEY, THIRD = public(), public(), public()
KID, OTHER = FIRST.kid.hex(), SECOND_KEY.kid.hex()


@pytest.fixture(scope="module")
def now(world):
    return world.now


@pytest.fixture
def made(world, now):
    """Makes a profile: the key in question in a state, and the ACTIVE one that signs beside it."""

    def make(state, *more, since=None, alone=False):
        since = since or now - HOUR
        beside = [] if alone or state is ACTIVE else [AttestationKey(SECOND_KEY, ACTIVE, since)]
        keys = (AttestationKey(FIRST, state, since), *beside, *more)
        return Profile("510000", keys, world.certificate, ("node.example:1",))

    return make


def states(profile):
    return {key.public.kid.hex(): key.state for key in profile.keys}


def taken(step, profile, now):
    """What a step makes of the key in question: its new state, None where it is gone."""
    steps = {
        "activate": lambda: keylife.activate(profile, KID, now),
        "retire": lambda: keylife.retire(profile, KID, now, live=0),
        "retire with live": lambda: keylife.retire(profile, KID, now, live=3),
        "retire by force": lambda: keylife.retire(profile, KID, now, live=3, force=True),
        "taint": lambda: keylife.taint(profile, KID, now, now),
        "taint emergency": lambda: keylife.taint(
            profile, KID, now, now, emergency=True, replacement=THIRD
        ),
        "revoke": lambda: keylife.revoke(profile, KID, now),
        "revoke emergency": lambda: keylife.revoke(
            profile, KID, now, emergency=True, replacement=THIRD
        ),
    }
    return states(steps[step]()).get(KID)


X = "refused"
TABLE = {
    #                    PREPARED  ACTIVE    OLD       TAINTED   REVOKED
    "activate": (ACTIVE, X, X, X, X),
    "retire": (None, X, None, None, None),
    "retire with live": (None, X, X, X, X),
    "retire by force": (None, X, None, None, X),
    "taint": (X, X, TAINTED, X, X),
    "taint emergency": (TAINTED, TAINTED, TAINTED, X, X),
    "revoke": (X, X, X, REVOKED, X),
    "revoke emergency": (REVOKED, REVOKED, REVOKED, REVOKED, X),
}
ALL = [
    pytest.param(step, state, becomes, id=f"{step} {state}")
    for step, row in TABLE.items()
    for state, becomes in zip(KeyState, row, strict=True)
]


@pytest.mark.parametrize(("step", "state", "becomes"), ALL)
def test_each_step_in_each_state(made, now, step, state, becomes):
    profile = made(state)
    if becomes is X:
        with pytest.raises(KeyStepError) as refused:
            taken(step, profile, now)
        assert refused.value.remedy
        assert refused.value.field
        assert KID in refused.value.message
    else:
        assert taken(step, profile, now) is becomes


@pytest.mark.parametrize("step", TABLE)
def test_an_unknown_kid_is_refused(made, now, step):
    (key,) = made(ACTIVE).keys
    profile = replace(made(ACTIVE), keys=(replace(key, public=THIRD),))
    with pytest.raises(KeyStepError, match="publishes no key"):
        taken(step, profile, now)


@given(st.lists(st.sampled_from([step for step in TABLE if "retire" not in step]), max_size=6))
def test_no_way_leads_back_and_the_province_always_signs(world, steps):
    """Whatever is done, in whatever order: exactly one key is ACTIVE, and no key regains power."""
    now = world.now
    profile = Profile(
        "510000",
        (AttestationKey(FIRST, ACTIVE, now), AttestationKey(SECOND_KEY, PREPARED, now)),
        world.certificate,
        ("node.example:1",),
    )
    order = list(KeyState)
    for step in steps:
        new = public()
        before, now = states(profile), now + HOUR
        try:
            if step == "activate":
                profile = keylife.activate(keylife.prepare(profile, new, now), new.kid.hex(), now)
            elif "taint" in step:
                profile = keylife.taint(
                    profile, KID, now, now, emergency="emergency" in step, replacement=new
                )
            else:
                profile = keylife.revoke(
                    profile, KID, now, emergency="emergency" in step, replacement=new
                )
        except KeyStepError:
            continue
        after = states(profile)
        assert all(order.index(after[kid]) >= order.index(state) for kid, state in before.items())
        assert sum(state is ACTIVE for state in after.values()) == 1


# Preparing


def test_a_prepared_key_verifies_and_does_not_sign(made, now):
    profile = keylife.prepare(made(ACTIVE), THIRD, now + SECOND / 3)
    key = keylife.find(profile, THIRD.kid.hex())
    assert key == AttestationKey(THIRD, PREPARED, now)
    assert key.verifies(now)
    assert not key.signs
    assert Profile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("state", KeyState)
def test_a_key_is_not_prepared_twice(made, now, state):
    with pytest.raises(KeyStepError, match="already"):
        keylife.prepare(made(state), FIRST, now)


# Activating


def test_the_key_before_becomes_old_in_the_same_step(made, now):
    after = keylife.activate(made(PREPARED), KID, now)
    assert states(after) == {KID: ACTIVE, OTHER: OLD}


def test_what_was_old_before_keeps_its_time(made, now):
    since = now - 3 * HOUR
    after = keylife.activate(made(PREPARED, AttestationKey(THIRD, OLD, since)), KID, now)
    assert keylife.find(after, THIRD.kid.hex()).since == since


def test_activating_too_early_is_refused(made, now):
    profile = made(PREPARED, since=now - HOUR)
    with pytest.raises(KeyStepError, match="published since"):
        keylife.activate(profile, KID, now, published=HOUR + SECOND)
    assert states(keylife.activate(profile, KID, now, published=HOUR))[KID] is ACTIVE


@given(
    st.timedeltas(-CLOCK_SKEW, CLOCK_SKEW),
    st.timedeltas(timedelta(0), HANDOVER - CLOCK_SKEW),
    st.timedeltas(timedelta(0), SECOND),
)
def test_what_is_in_flight_at_an_activation_is_never_refused(world, ahead, push, part):
    """A node whose clock is off signs with the old key until the new list reaches it."""
    step = world.now + part
    profile = Profile(
        "510000",
        (AttestationKey(FIRST, ACTIVE, world.now), AttestationKey(SECOND_KEY, PREPARED, world.now)),
        world.certificate,
        (),
    )
    after = keylife.activate(profile, OTHER, step)
    signed_at = step + push + ahead
    issued = signed_at.replace(microsecond=0)  # attestations count in whole seconds
    assert keylife.find(after, KID).verifies(issued)
    assert keylife.find(after, OTHER).verifies(issued)


def test_an_old_key_counts_for_nothing_that_is_issued_after_the_handover(made, now):
    after = keylife.activate(made(PREPARED), KID, now)
    assert not keylife.find(after, OTHER).verifies(now + HANDOVER)
    assert keylife.find(after, OTHER).verifies(now + HANDOVER - SECOND)
    assert timedelta(minutes=5) < HANDOVER <= timedelta(minutes=6)


def test_a_thief_of_the_old_key_gets_no_further_than_the_handover(world, made):
    """On the real path: what he dates later is refused, by its date and by the clock."""
    now, thief = world.now, PrivateKey.generate(Algorithm.ES256)
    profile = replace(
        made(PREPARED),
        keys=(
            AttestationKey(thief.public, ACTIVE, now - HOUR),
            AttestationKey(FIRST, PREPARED, now - HOUR),
        ),
    )
    trust = TrustList(2, 1, now + 24 * HOUR, {"510000": keylife.activate(profile, KID, now)}, {})
    fact = world.test(hours_ago=1)
    verify = AttestationVerifier().verify
    for late in (HANDOVER, HANDOVER + HOUR):
        forged = world.attestation(fact, issued_at=now + late)
        with pytest.raises(UnknownIssuerError, match="OLD since"):
            verify(world.sign(forged, thief), trust, now + late)
    in_flight = world.attestation(fact, issued_at=now + CLOCK_SKEW)
    assert verify(world.sign(in_flight, thief), trust, now + SECOND) == in_flight


# Retiring


def test_the_active_key_is_not_retired(made, now):
    with pytest.raises(KeyStepError, match="province signs with it"):
        keylife.retire(made(ACTIVE), KID, now, live=0, force=True)


@pytest.mark.parametrize("state", [PREPARED, OLD, TAINTED, REVOKED])
def test_the_only_key_is_not_retired(made, now, state):
    with pytest.raises(KeyStepError, match="only one"):
        keylife.retire(made(state, alone=True), KID, now, live=0, force=True)


def test_a_key_that_still_hands_over_is_not_retired(made, now):
    profile = made(OLD, since=now + HANDOVER)
    with pytest.raises(KeyStepError, match="hands over"):
        keylife.retire(profile, KID, now, live=0)
    assert KID not in states(keylife.retire(profile, KID, now, live=0, force=True))
    assert KID not in states(keylife.retire(profile, KID, now + HANDOVER, live=0))


def test_a_key_whose_attestations_live_is_not_retired(made, now):
    with pytest.raises(KeyStepError, match="1 attestation that it signed"):
        keylife.retire(made(OLD), KID, now, live=1)


def test_a_revoked_key_stays_while_anything_bears_its_name(made, now):
    with pytest.raises(KeyStepError, match="refused by its name"):
        keylife.retire(made(REVOKED), KID, now, live=1, force=True)


# Tainting


def test_tainting_counts_from_the_second_that_the_time_falls_into(made, now):
    profile = made(OLD, since=now)
    at = now - HOUR + SECOND / 2
    key = keylife.find(keylife.taint(profile, KID, at, now), KID)
    assert key.since == now - HOUR
    assert not key.verifies(now - HOUR)
    assert key.verifies(now - HOUR - SECOND)


def test_tainting_an_old_key_does_not_bring_back_what_it_signed_since(made, now):
    """Between retirement and taint a thief signed: the taint's later time would let it count."""
    retired = now - HOUR
    key = keylife.find(keylife.taint(made(OLD, since=retired), KID, now, now), KID)
    assert key == AttestationKey(FIRST, TAINTED, retired)
    assert not key.verifies(retired + SECOND)


def test_a_taint_ends_the_handover_too(made, now):
    profile = keylife.activate(made(PREPARED), KID, now)
    key = keylife.find(keylife.taint(profile, OTHER, now + SECOND, now + SECOND), OTHER)
    assert key.since == now + SECOND


def test_a_taint_moves_to_an_earlier_time_alone(made, now):
    profile = made(TAINTED, since=now - HOUR)
    for later in (now, now - HOUR):
        with pytest.raises(KeyStepError, match="already"):
            keylife.taint(profile, KID, later, now, emergency=True)
    earlier = keylife.taint(profile, KID, now - 2 * HOUR, now)
    assert keylife.find(earlier, KID).since == now - 2 * HOUR


def test_a_taint_from_a_time_to_come_is_refused(made, now):
    with pytest.raises(KeyStepError, match="still to come") as refused:
        keylife.taint(made(OLD), KID, now + SECOND, now)
    assert refused.value.field == "from_time"


# Emergencies


def end(how, profile, now, **kind):
    if how == "taint":
        return keylife.taint(profile, KID, now, now, **kind)
    return keylife.revoke(profile, KID, now, **kind)


@pytest.mark.parametrize("how", ["taint", "revoke"])
def test_ending_the_active_key_without_an_emergency_is_refused(made, now, how):
    with pytest.raises(KeyStepError, match="is ACTIVE: only"):
        end(how, made(ACTIVE), now, replacement=THIRD)


@pytest.mark.parametrize("how", ["taint", "revoke"])
def test_ending_the_active_key_without_a_replacement_is_refused(made, now, how):
    with pytest.raises(KeyStepError, match="could sign nothing"):
        end(how, made(ACTIVE), now, emergency=True)


@pytest.mark.parametrize("how", ["taint", "revoke"])
def test_ending_the_active_key_activates_the_replacement_in_the_same_step(made, now, how):
    profile = made(ACTIVE, AttestationKey(SECOND_KEY, PREPARED, now))
    after = end(how, profile, now, emergency=True, replacement=THIRD)
    ended = TAINTED if how == "taint" else REVOKED
    assert states(after) == {KID: ended, THIRD.kid.hex(): ACTIVE, OTHER: PREPARED}
    assert not keylife.find(after, KID).verifies(now)


@pytest.mark.parametrize("how", ["taint", "revoke"])
def test_a_replacement_that_is_published_already_is_refused(made, now, how):
    """It may have been stolen together with the key that it would replace."""
    profile = made(ACTIVE, AttestationKey(SECOND_KEY, PREPARED, now))
    with pytest.raises(KeyStepError, match="stands in the profile already"):
        end(how, profile, now, emergency=True, replacement=SECOND_KEY)


def test_a_revoked_key_verifies_nothing_and_stays_in_the_list(made, now):
    after = keylife.revoke(made(TAINTED), KID, now)
    key = keylife.find(after, KID)
    assert key == AttestationKey(FIRST, REVOKED, now)
    assert not key.verifies(now - 1000 * HOUR)


def test_an_emergency_on_another_key_makes_no_new_one(made, now):
    after = keylife.revoke(made(OLD), KID, now, emergency=True, replacement=THIRD)
    assert states(after) == {KID: REVOKED, OTHER: ACTIVE}
