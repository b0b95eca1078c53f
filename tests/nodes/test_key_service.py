"""KeyService and the schedule, on a real store and a real trust list."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from recording import Recorded

from exchange import attestations
from exchange.attestations import LIFE, Attestation, AttestationVerifier, Holder, Issuer
from exchange.errors import (
    AuditUnavailableError,
    ConflictError,
    KeyStepError,
    StoreUnavailableError,
    TrustListError,
    UnknownIssuerError,
)
from exchange.facts import AntigenTest, NucleicAcidTest, Recovery, TestResult
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import DocumentType
from exchange.trust import ceremony, files, keylife
from exchange.trust.files import Bundle, Versions
from exchange.trust.keylife import HANDOVER
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Signers
from exchange.v1 import key_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.config import TrustConfig
from nodes.embedded import EmbeddedValkey
from nodes.identity import Identity, Role, make_authority
from nodes.keyring import Keyring
from nodes.keysteps import KeySteps
from nodes.rotation import Rotation, Schedule
from nodes.services import acts
from nodes.services.key import KeyService
from nodes.store.attestations import AttestationStore
from nodes.store.records import NewRecord
from nodes.trust import TrustKeeper

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
PREPARED, ACTIVE, OLD, TAINTED, REVOKED = KeyState
CALL = Call(Identity(SICHUAN, Role.ADMIN, "chen"), "request-1")
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Registry:
    """Accepts as the real one does, and brings it to the node at once, or after a while."""

    def __init__(self, current, online, keeper, clock):
        self.current = dict(current)
        self.online = online
        self.keeper = keeper
        self.clock = clock
        self.crossed = []
        self.late = False
        self.submitted = 0
        self.asked = asyncio.Event()

    async def submit(self, submitted):
        self.submitted += 1
        self.asked.set()
        if self.crossed:
            await self._put(self.crossed.pop(0)(self.current))
        await self._put(ceremony.accept(self.current, submitted, self.online, now=self.clock()))
        return Bundle.of(self.current).versions

    async def _put(self, new):
        self.current |= new
        if not self.late:
            await self.keeper.offer(new)


class Peers:
    """What the other provinces say that they hold."""

    def __init__(self):
        self.held = {}
        self.follow = None

    async def versions(self, have):
        current = self.follow() if self.follow else have
        return {code: self.held.get(code, current) for code in (GUANGDONG, SHANGHAI)}


@dataclasses.dataclass
class Lab:
    """A node's parts around KeyService; its clock can be put forward."""

    service: KeyService
    recorded: Recorded
    steps: KeySteps
    keeper: TrustKeeper
    keyring: Keyring
    registry: Registry
    peers: Peers
    store: AttestationStore
    signers: Signers
    first: PrivateKey
    ahead: list[timedelta]

    def now(self):
        return datetime.now(UTC) + self.ahead[0]

    def pass_by(self, time):
        self.ahead[0] += time

    @property
    def profile(self):
        return self.keeper.current().profile(SICHUAN)

    def states(self):
        return {key.public.kid.hex(): key.state for key in self.profile.keys}

    def kid(self, state):
        (kid,) = [kid for kid, each in self.states().items() if each is state]
        return kid

    async def publish(self, fact=None, *, of=b"a", signer=None, issued=None):
        """An attestation on the holder ``of``, signed with what signs now."""
        now = issued or self.now()
        fact = fact or NucleicAcidTest(now - HOUR, TestResult.NEGATIVE)
        number = int(time.time_ns() // 1_000_000) << 80 | 7 << 76 | 2 << 62 | time.time_ns() % 2**62
        attestation = Attestation(
            id=UUID(int=number),
            province=SICHUAN,
            token=of * 36,
            fact=fact,
            issuer=Issuer("12510100MB0X58800H", "成都市示例医院"),
            holder=Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21"),
            issued_at=now.replace(microsecond=0),
            expires_at=fact.sampled_at + LIFE[fact.kind],
            data_as_of=fact.sampled_at,
        )
        signer = signer or self.keyring.signer(self.keeper.current())
        signed = attestations.sign(attestation, signer)
        await self.store.publish(
            NewRecord(
                id=attestation.id.bytes,
                token=attestation.token,
                issuer=attestation.issuer.credit_code,
                digest=attestations.digest(attestation),
                expires=int(attestation.expires_at.timestamp()),
                signed=signed,
            )
        )
        return attestation, signed

    def verify(self, signed):
        return AttestationVerifier().verify(signed, self.keeper.current(), datetime.now(UTC))

    # The calls, as an admin makes them.

    async def prepare(self, **fields):
        return await self.service.prepare_key(pb.PrepareKeyRequest(**fields), CALL)

    async def activate(self, kid, **fields):
        request = pb.ActivateKeyRequest(kid=kid, **fields)
        return (await self.service.activate_key(request, CALL)).step

    async def retire(self, kid, **fields):
        return (await self.service.retire_key(pb.RetireKeyRequest(kid=kid, **fields), CALL)).step

    async def taint(self, kid, **fields):
        return (await self.service.taint_key(pb.TaintKeyRequest(kid=kid, **fields), CALL)).step

    async def revoke(self, kid, **fields):
        return (await self.service.revoke_key(pb.RevokeKeyRequest(kid=kid, **fields), CALL)).step

    async def rotated(self):
        """Rotate once; the kids of the OLD key and of the ACTIVE one."""
        old = self.kid(ACTIVE)
        new = (await self.prepare()).kid
        await self.activate(new)
        return old, new


@pytest.fixture(scope="module")
def profiles():
    now = datetime.now(UTC)

    def profile(code, key):
        authority = make_authority(code, now=now, lifetime=DAY).certificate.decode()
        keys = (AttestationKey(key, ACTIVE, now.replace(microsecond=0) - HOUR),)
        return Profile(code, keys, authority, (f"node.{code}.example:1",))

    held = {code: PrivateKey.generate(Algorithm.ES256) for code in (SICHUAN, GUANGDONG, SHANGHAI)}
    return held[SICHUAN], [profile(code, key.public) for code, key in held.items()]


@pytest.fixture
async def store(tmp_path):
    valkey = EmbeddedValkey(tmp_path / "valkey")
    await valkey.start()
    opened = await AttestationStore.open(valkey.url)
    yield opened
    await opened.close()
    await valkey.stop()


@pytest.fixture
def make_lab(tmp_path, store, profiles):
    first, published = profiles

    async def make(**changes):
        ahead = [timedelta(0)]

        def clock():
            return datetime.now(UTC) + ahead[0]

        signers = Signers.generate([profile.province for profile in published])
        trust = tmp_path / "trust"
        files.write(trust, ceremony.initialise(published, signers, now=clock()))
        config = TrustConfig(root=trust / "1.root.json", metadata=trust)
        keeper = TrustKeeper(
            config, SICHUAN, tmp_path / "data" / "trust", lambda: datetime.now(UTC)
        )
        await keeper.start()
        registry = Registry(files.read(trust), signers.online, keeper, clock)
        keyring = Keyring(SICHUAN, tmp_path / "data" / "keys", first)
        peers = Peers()
        parts = {
            "province": SICHUAN,
            "keyring": keyring,
            "keeper": keeper,
            "registry": registry,
            "role_signer": signers.provinces[SICHUAN],
            "peers": peers,
            "store": store,
            "clock": clock,
            "published": timedelta(0),
        }
        steps = KeySteps(**(parts | changes))
        recorded = Recorded()
        return Lab(
            *(KeyService(steps, recorded), recorded),
            *(steps, keeper, keyring, registry, peers, store, signers, first, ahead),
        )

    return make


@pytest.fixture
async def lab(make_lab):
    return await make_lab()


def by_kind(counts):
    return {types_pb2.Kind.Name(each.kind).removeprefix("KIND_"): each.count for each in counts}


def shown(step):
    return {key.kid: pb.KeyState.Name(key.state).removeprefix("KEY_STATE_") for key in step.keys}


# The way through


async def test_a_key_is_led_through_its_whole_life(lab):
    kid = lab.kid(ACTIVE)
    _, signed = await lab.publish()
    prepared = await lab.prepare(algorithm="EDDSA")
    assert shown(prepared.step) == {kid: "ACTIVE", prepared.kid: "PREPARED"}
    assert prepared.step.trust_version == lab.keeper.current().version == 2
    step = await lab.activate(prepared.kid)
    assert shown(step) == {kid: "OLD", prepared.kid: "ACTIVE"}
    assert step.ends == []
    assert lab.keyring.signer(lab.keeper.current()).public.algorithm is Algorithm.EDDSA
    lab.verify(signed)
    step = await lab.taint(kid, from_time=Timestamp(seconds=int(lab.now().timestamp()) - 3600))
    assert by_kind(step.ends) == {"NUCLEIC_ACID_TEST": 1}
    step = await lab.revoke(kid)
    assert shown(step) == {kid: "REVOKED", prepared.kid: "ACTIVE"}
    with pytest.raises(UnknownIssuerError, match="REVOKED"):
        lab.verify(signed)
    with pytest.raises(KeyStepError, match="refused by its name"):
        await lab.retire(kid, force=True)
    assert lab.registry.submitted == 4


async def test_an_old_key_is_retired_once_nothing_lives_that_it_signed(lab):
    old, new = await lab.rotated()
    with pytest.raises(KeyStepError, match="hands over"):
        await lab.retire(old)
    lab.pass_by(HANDOVER + MINUTE)
    step = await lab.retire(old)
    assert shown(step) == {new: "ACTIVE"}


async def test_the_list_of_keys_says_what_each_holds_up(lab):
    first = lab.kid(ACTIVE)
    await lab.publish()
    await lab.publish(of=b"b")
    await lab.publish(AntigenTest(lab.now() - HOUR, TestResult.NEGATIVE, None))
    _, new = await lab.rotated()
    await lab.publish(Recovery(lab.now() - DAY))
    answer = await lab.service.list_keys(pb.ListKeysRequest(), CALL)
    live = {key.kid: by_kind(key.live) for key in answer.keys}
    assert live == {first: {"NUCLEIC_ACID_TEST": 2, "ANTIGEN_TEST": 1}, new: {"RECOVERY": 1}}
    assert all(key.held and key.algorithm == "ES256" for key in answer.keys)
    assert answer.trust.snapshot == 3
    assert answer.trust.roles["p510000"] == 3
    (since,) = [key.since_time for key in answer.keys if key.kid == new]
    assert abs(since.seconds - time.time()) < 60


async def test_a_step_counts_only_what_it_ends(lab):
    """What was issued before the taint counts on, and what the other key signed does too."""
    now = lab.now()
    await lab.publish(issued=now - 3 * HOUR)
    _, stolen = await lab.publish(issued=now - HOUR)
    old, _ = await lab.rotated()
    await lab.publish(issued=now)
    at = Timestamp(seconds=int((now - 2 * HOUR).timestamp()))
    step = await lab.taint(old, from_time=at)
    assert by_kind(step.ends) == {"NUCLEIC_ACID_TEST": 1}
    assert [by_kind(key.live) for key in step.keys] == [{"NUCLEIC_ACID_TEST": 1}] * 2
    with pytest.raises(UnknownIssuerError):
        lab.verify(stolen)


# Trying


@pytest.mark.parametrize(
    ("step", "ends"), [("retire", 2), ("taint", 1), ("revoke", 2), ("activate", 0), ("prepare", 0)]
)
async def test_a_trial_says_what_it_would_end_and_changes_nothing(lab, tmp_path, step, ends):
    now = lab.now()
    await lab.publish(issued=now - 2 * HOUR)
    await lab.publish(issued=now)
    old, _ = await lab.rotated()
    prepared = (await lab.prepare()).kid
    lab.pass_by(HANDOVER + MINUTE)
    before, keys = lab.states(), list((tmp_path / "data" / "keys").iterdir())
    at = Timestamp(seconds=int((now - HOUR).timestamp()))
    tried = {
        "retire": lambda: lab.retire(old, validate_only=True),
        "taint": lambda: lab.taint(old, from_time=at, validate_only=True),
        "revoke": lambda: lab.revoke(old, emergency=True, validate_only=True),
        "activate": lambda: lab.activate(prepared, validate_only=True),
    }
    if step == "prepare":
        answer = await lab.prepare(validate_only=True)
        assert answer.kid == ""
        result = answer.step
        assert shown(result)[""] == "PREPARED"
    else:
        result = await tried[step]()
    assert sum(by_kind(result.ends).values()) == ends
    assert result.trust_version == 0
    assert lab.states() == before
    assert list((tmp_path / "data" / "keys").iterdir()) == keys
    assert lab.registry.submitted == 3


async def test_a_trial_of_an_emergency_names_no_key_that_does_not_exist(lab, tmp_path):
    await lab.publish()
    kid = lab.kid(ACTIVE)
    step = await lab.revoke(kid, emergency=True, validate_only=True)
    assert shown(step) == {kid: "REVOKED", "": "ACTIVE"}
    assert by_kind(step.ends) == {"NUCLEIC_ACID_TEST": 1}
    assert list((tmp_path / "data" / "keys").iterdir()) == []


async def test_every_step_that_is_taken_is_recorded(lab):
    kid = (await lab.prepare()).kid
    lab.peers.held = {GUANGDONG: Versions()}
    await lab.activate(kid, force=True)
    await lab.revoke(kid, emergency=True)
    assert [(each.caller, each.method, each.target) for each in lab.recorded] == [
        ("spiffe://510000.tongxing/admin/chen", method, kid)
        for method in ("PrepareKey", "ActivateKey", "RevokeKey")
    ]
    answers = [each.answer.partition(", ")[2] for each in lab.recorded]
    assert answers == ["", "forced", "emergency"]


async def test_a_step_is_recorded_though_its_caller_hangs_up(lab):
    lab.registry.late = True
    kid = lab.kid(ACTIVE)
    step = asyncio.create_task(lab.revoke(kid, emergency=True))
    await lab.registry.asked.wait()
    step.cancel()
    await asyncio.wait({step})
    await lab.keeper.offer(lab.registry.current)
    async with asyncio.timeout(10):
        await acts.ended()
    assert [(each.method, each.target) for each in lab.recorded] == [("RevokeKey", kid)]


async def test_what_is_only_tried_and_what_is_refused_is_not_recorded(lab):
    await lab.prepare(validate_only=True)
    await lab.revoke(lab.kid(ACTIVE), emergency=True, validate_only=True)
    with pytest.raises(KeyStepError):
        await lab.revoke(lab.kid(ACTIVE))
    assert lab.recorded == []


async def test_a_stolen_key_ends_though_the_step_cannot_be_recorded(lab):
    lab.recorded.failing = True
    stolen = lab.kid(ACTIVE)
    with pytest.raises(AuditUnavailableError):
        await lab.revoke(stolen, emergency=True)
    assert lab.kid(ACTIVE) != stolen


# An admin's mistakes


async def test_activating_a_key_that_peers_do_not_hold_is_refused(lab):
    kid = (await lab.prepare()).kid
    lab.peers.held = {GUANGDONG: Versions(roles={"p510000": 1}), SHANGHAI: None}
    with pytest.raises(KeyStepError, match="440000 does not hold the key") as refused:
        await lab.activate(kid)
    assert "310000" not in str(refused.value)
    assert "--dry-run" in refused.value.remedy
    step = await lab.activate(kid, validate_only=True)
    assert dict(step.behind) == {GUANGDONG: 1, SHANGHAI: 0}
    assert lab.states()[kid] is PREPARED
    lab.peers.held = {SHANGHAI: None}  # it does not answer, and does not block
    step = await lab.activate(kid)
    assert dict(step.behind) == {SHANGHAI: 0}
    assert lab.states()[kid] is ACTIVE


async def test_a_peer_that_has_never_heard_of_the_province_is_behind(lab):
    kid = (await lab.prepare()).kid
    lab.peers.held = {GUANGDONG: Versions()}
    with pytest.raises(KeyStepError, match="440000"):
        await lab.activate(kid)


async def test_forcing_an_activation_goes_through_and_is_recorded(lab):
    kid = (await lab.prepare()).kid
    lab.peers.held = {GUANGDONG: Versions()}
    with structlog.testing.capture_logs() as logs:
        step = await lab.activate(kid, force=True)
    assert shown(step)[kid] == "ACTIVE"
    (forced,) = [each for each in logs if each["event"] == "key.forced"]
    assert forced["log_level"] == "warning"
    assert (forced["by"], forced["behind"]) == ("spiffe://510000.tongxing/admin/chen", [GUANGDONG])


async def test_activating_a_key_that_was_published_just_now_is_refused(make_lab):
    lab = await make_lab(published=DAY)
    kid = (await lab.prepare()).kid
    with pytest.raises(KeyStepError, match="published since"):
        await lab.activate(kid)
    lab.pass_by(DAY + MINUTE)
    await lab.activate(kid)
    other = (await lab.prepare()).kid
    await lab.activate(other, force=True)
    assert lab.kid(ACTIVE) == other


async def test_activating_a_key_that_this_node_does_not_hold_is_refused(lab):
    elsewhere = PrivateKey.generate(Algorithm.ES256).public
    await lab.registry._put(
        ceremony.publish_profile(
            lab.registry.current,
            keylife.prepare(lab.profile, elsewhere, lab.now()),
            lab.signers.provinces[SICHUAN],
            lab.signers.online,
            now=lab.now(),
        )
    )
    with pytest.raises(KeyStepError, match="does not hold the private half"):
        await lab.activate(elsewhere.kid.hex())


async def test_activating_the_active_key_is_refused(lab):
    with pytest.raises(KeyStepError, match="only a PREPARED key"):
        await lab.activate(lab.kid(ACTIVE))


async def test_retiring_the_only_key_is_refused(lab):
    with pytest.raises(KeyStepError, match="ACTIVE"):
        await lab.retire(lab.kid(ACTIVE), force=True)


async def test_retiring_a_key_whose_attestations_live_is_refused(lab):
    _, signed = await lab.publish()
    old, new = await lab.rotated()
    lab.pass_by(HANDOVER + MINUTE)
    with pytest.raises(KeyStepError, match="1 attestation that it signed"):
        await lab.retire(old)
    with structlog.testing.capture_logs() as logs:
        step = await lab.retire(old, force=True)
    assert by_kind(step.ends) == {"NUCLEIC_ACID_TEST": 1}
    assert shown(step) == {new: "ACTIVE"}
    assert "key.forced" in [each["event"] for each in logs]
    with pytest.raises(UnknownIssuerError):
        lab.verify(signed)


async def test_revoking_a_key_that_is_not_tainted_is_refused(lab):
    old, _ = await lab.rotated()
    with pytest.raises(KeyStepError, match="only a TAINTED key"):
        await lab.revoke(old)


async def test_tainting_the_active_key_is_refused(lab):
    with pytest.raises(KeyStepError, match="as an emergency"):
        await lab.taint(lab.kid(ACTIVE))


async def test_an_unknown_kid_is_refused(lab):
    for step in (lab.activate, lab.retire, lab.taint, lab.revoke):
        with pytest.raises(KeyStepError, match="publishes no key") as refused:
            await step("0123456789abcdef")
        assert refused.value.field == "kid"
    assert lab.registry.submitted == 0


@pytest.mark.parametrize("missing", ["role_signer", "registry"])
async def test_a_step_without_what_it_needs_says_what_to_configure(make_lab, missing):
    lab = await make_lab(**{missing: None})
    field = {"role_signer": "trust.role_key", "registry": "trust.registry"}[missing]
    kid = lab.kid(ACTIVE)
    for step in (
        lab.prepare,
        lambda: lab.activate(kid),
        lambda: lab.retire(kid),
        lambda: lab.taint(kid, emergency=True),
        lambda: lab.revoke(kid, emergency=True),
    ):
        with pytest.raises(KeyStepError) as refused:
            await step()
        assert refused.value.field == field
        assert field in refused.value.remedy
    assert (await lab.service.list_keys(pb.ListKeysRequest(), CALL)).keys


async def test_another_provinces_role_key_publishes_nothing(make_lab, profiles):
    other = Signers.generate([SICHUAN]).provinces[SICHUAN]
    lab = await make_lab(role_signer=other)
    with pytest.raises(TrustListError, match="did not sign"):
        await lab.prepare()
    assert len(lab.states()) == 1


# Emergencies


@pytest.mark.parametrize("how", ["taint", "revoke"])
async def test_a_stolen_key_ends_in_one_step_and_a_new_one_signs(lab, how):
    now = lab.now()
    await lab.publish(issued=now)
    stolen = lab.kid(ACTIVE)
    with structlog.testing.capture_logs() as logs:
        step = await getattr(lab, how)(stolen, emergency=True)
    assert lab.registry.submitted == 1
    new = lab.kid(ACTIVE)
    assert new != stolen
    assert shown(step) == {stolen: "TAINTED" if how == "taint" else "REVOKED", new: "ACTIVE"}
    (recorded,) = [each for each in logs if each["event"] == "key.emergency"]
    assert (recorded["log_level"], recorded["kid"], recorded["step"]) == ("warning", stolen, how)
    late, _ = await lab.publish(of=b"b", issued=now)
    signed = attestations.sign(late, lab.first)
    if how == "revoke":
        assert by_kind(step.ends) == {"NUCLEIC_ACID_TEST": 1}
        with pytest.raises(UnknownIssuerError):
            lab.verify(signed)
    assert lab.keyring.signer(lab.keeper.current()).public.kid.hex() == new


async def test_an_emergency_does_not_wait_for_its_numbers(make_lab):
    """The store is down, which may be the thief's doing: the key ends all the same."""

    class Down:
        async def census(self, _):
            raise StoreUnavailableError("down")

    lab = await make_lab(store=Down())
    (listed,) = (await lab.service.list_keys(pb.ListKeysRequest(), CALL)).keys
    stolen = listed.kid
    step = await lab.revoke(stolen, emergency=True)
    assert lab.states()[stolen] is REVOKED
    assert step.trust_version == 2
    with pytest.raises(StoreUnavailableError):  # a trial is its numbers
        await lab.revoke(lab.kid(ACTIVE), emergency=True, validate_only=True)


async def test_the_replacement_is_of_the_same_algorithm(lab):
    new = (await lab.prepare(algorithm="ML_DSA_44")).kid
    await lab.activate(new)
    await lab.revoke(new, emergency=True)
    assert lab.keyring.signer(lab.keeper.current()).public.algorithm is Algorithm.ML_DSA_44


# Others


def crossing(lab, change):
    """Somebody else publishes a version first."""

    def publish(current):
        return ceremony.publish_profile(
            current,
            change(lab.profile),
            lab.signers.provinces[SICHUAN],
            lab.signers.online,
            now=lab.now(),
        )

    return publish


async def test_a_step_that_another_crosses_is_taken_anew_on_what_that_one_left(lab):
    lab.registry.crossed = [
        crossing(lab, lambda p: dataclasses.replace(p, status_lists=("510000/9",))),
        crossing(lab, lambda p: dataclasses.replace(p, status_lists=("510000/10",))),
    ]
    kid = (await lab.prepare()).kid
    assert lab.states()[kid] is PREPARED
    assert lab.profile.status_lists == ("510000/10",)
    assert lab.keeper.bundle.versions.roles["p510000"] == 4


async def test_a_step_that_is_always_crossed_gives_up(lab):
    lab.registry.crossed = [
        crossing(lab, lambda p, at=at: dataclasses.replace(p, status_lists=(f"510000/{at}",)))
        for at in range(10)
    ]
    with pytest.raises(ConflictError):
        await lab.prepare()


async def test_a_crossed_step_that_is_no_longer_right_is_refused(lab):
    """Two admins activate the same key: one does it, the other is told so."""
    kid = (await lab.prepare()).kid
    lab.registry.crossed = [crossing(lab, lambda p: keylife.activate(p, kid, lab.now() + MINUTE))]
    with pytest.raises(KeyStepError, match="is ACTIVE"):
        await lab.activate(kid)
    assert lab.states()[kid] is ACTIVE


async def test_a_step_answers_once_the_node_itself_holds_it(lab):
    lab.registry.late = True
    step = asyncio.create_task(lab.prepare())
    await lab.registry.asked.wait()
    done, _ = await asyncio.wait([step], timeout=0.3)
    assert not done
    await lab.keeper.offer(lab.registry.current)
    kid = (await step).kid
    assert lab.states()[kid] is PREPARED


async def test_two_steps_at_once_are_both_taken(lab):
    first, second = await asyncio.gather(lab.prepare(), lab.prepare())
    assert {lab.states()[first.kid], lab.states()[second.kid]} == {PREPARED}


# Counting


async def test_a_census_counts_every_kid_and_kind(lab):
    """Many more subjects than a step of the scan looks at; what was revoked is not among them."""
    other = PrivateKey.generate(Algorithm.EDDSA)
    for number in range(150):
        token = number.to_bytes(2)[-1:]
        await lab.publish(of=token)
        await lab.publish(Recovery(lab.now() - HOUR), of=token, signer=other)
    ended, _ = await lab.publish(of=b"\xff")
    await lab.store.revoke(ended.id.bytes, ended.issuer.credit_code, int(time.time()))
    found = await lab.store.census(lambda _, issued: issued <= datetime.now(UTC))
    kinds = {(kid, kind.value, counts): number for (kid, kind, counts), number in found.items()}
    assert kinds == {
        (lab.first.public.kid, "NUCLEIC_ACID_TEST", True): 150,
        (other.public.kid, "RECOVERY", True): 150,
    }


async def test_a_census_passes_over_what_cannot_be_read(lab):
    await lab.publish()
    await lab.store.publish(
        NewRecord(b"i" * 16, b"t" * 36, "12510100MB0X58800H", b"d" * 32, 1 << 35, b"no COSE")
    )
    with structlog.testing.capture_logs() as logs:
        found = await lab.store.census(lambda *_: None)
    assert found.total() == 1
    assert [each["event"] for each in logs] == ["store.unreadable"]


async def test_a_census_leaves_room_for_others(lab):
    for number in range(200):
        await lab.publish(of=number.to_bytes(1))
    steps = 0

    async def look():
        nonlocal steps
        while True:
            await lab.store.lookup(b"z" * 36)
            steps += 1

    looking = asyncio.create_task(look())
    await lab.store.census(lambda *_: None)
    looking.cancel()
    assert steps > 2


# The schedule

SCHEDULE = Schedule(rotate=30 * DAY, published=2 * DAY)


def rotation(lab, schedule=SCHEDULE):
    return Rotation(lab.steps, schedule, lab.now)


async def test_the_schedule_rotates_by_itself(lab):
    """Day by day through two months: each key prepared, activated and retired in its time."""
    schedule = rotation(lab)
    _, signed = await lab.publish()
    history = []
    for day in range(63):
        await schedule.look()
        states = sorted(state.value for state in lab.states().values())
        if not history or history[-1][1] != states:
            history.append((day, states))
        lab.pass_by(DAY)
    assert history == [
        (0, ["ACTIVE"]),
        (28, ["ACTIVE", "PREPARED"]),
        (30, ["ACTIVE", "OLD"]),
        (58, ["ACTIVE", "OLD", "PREPARED"]),
        (60, ["ACTIVE", "OLD", "OLD"]),
        (61, ["ACTIVE", "OLD"]),
    ]
    lab.verify(signed)  # it lives by the store's own clock: its key stays, the idle one has gone


async def test_the_schedule_retires_a_key_that_holds_nothing_up(lab):
    old, new = await lab.rotated()
    schedule = rotation(lab)
    await schedule.look()
    assert lab.states() == {old: OLD, new: ACTIVE}  # it hands over
    lab.pass_by(DAY + MINUTE)
    await schedule.look()
    assert lab.states() == {new: ACTIVE}


async def test_the_schedule_waits_for_peers_that_are_behind(lab):
    schedule = rotation(lab)
    lab.pass_by(28 * DAY)
    await schedule.look()
    lab.peers.held = {GUANGDONG: Versions()}
    lab.pass_by(3 * DAY)
    with structlog.testing.capture_logs() as logs:
        await schedule.look()
        await schedule.look()
    assert sorted(lab.states().values()) == [ACTIVE, PREPARED]
    (postponed,) = [each for each in logs if each["event"] == "rotation.postponed"]
    assert (postponed["step"], postponed["log_level"]) == ("activate", "warning")
    assert GUANGDONG in postponed["why"]
    lab.peers.held = {}
    await schedule.look()
    assert sorted(lab.states().values()) == [ACTIVE, OLD]


async def test_the_schedule_survives_a_registry_that_is_down(lab):
    class Down(Registry):
        async def submit(self, _):
            raise StoreUnavailableError("the registry does not answer")

    working = lab.steps._registry
    lab.steps._registry = Down(working.current, working.online, working.keeper, working.clock)
    schedule = rotation(lab)
    lab.pass_by(29 * DAY)
    await schedule.look()
    assert list(lab.states().values()) == [ACTIVE]
    lab.steps._registry = working
    await schedule.look()
    assert sorted(lab.states().values()) == [ACTIVE, PREPARED]


async def test_the_schedule_keeps_the_profile_from_expiring_where_admins_rotate_by_hand(lab):
    schedule = rotation(lab, Schedule(rotate=None, published=DAY))
    expires = lab.steps.expires()
    await schedule.look()
    assert lab.steps.expires() == expires
    lab.pass_by(21 * DAY)
    before = lab.profile
    await schedule.look()
    assert lab.steps.expires() > expires + 20 * DAY
    assert lab.profile == before


async def test_the_schedule_goes_on_looking(lab):
    schedule = Rotation(
        lab.steps, Schedule(rotate=2 * MINUTE, published=MINUTE), lab.now, pause=0.01
    )
    lab.pass_by(HOUR)
    first = lab.kid(ACTIVE)
    running = asyncio.create_task(schedule.run())
    async with asyncio.timeout(20):
        while lab.states()[first] is ACTIVE:
            await asyncio.sleep(0.01)
            lab.pass_by(10 * MINUTE / 60)
    running.cancel()
    assert lab.states()[first] is OLD
