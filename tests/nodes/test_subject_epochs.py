"""The epochs of subject tokens change while nodes run, and no holder is lost."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from tuf.api.metadata import Metadata, Targets
from tuf.api.serialization.json import JSONSerializer
from waiting import heard, is_recognised, until

from exchange import attestations, publication
from exchange.client import Purpose
from exchange.errors import (
    IdTakenError,
    InvalidFieldError,
    RevokedError,
    TrustListError,
)
from exchange.keys import PrivateKey
from exchange.subjects import EpochKey
from exchange.trust import ceremony, files, roles
from exchange.trust.epochs import (
    EPOCH_LIFE,
    SubjectEpochs,
    epochs_of,
    unseal_all,
    with_epoch,
    with_recipient,
)
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.signers import Online, load_signer
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import recognition_service_pb2 as recognition
from nodes import cli
from nodes.trial import TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
RECOGNIZED = recognition.OUTCOME_RECOGNIZED
NOT_RECOGNIZED = recognition.OUTCOME_NOT_RECOGNIZED
INDETERMINATE = recognition.OUTCOME_INDETERMINATE
SICHUAN, GUANGDONG = "510000", "440000"
PUBLISH = "AttestationService/PublishAttestation"


def seconds_hence(seconds):
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


class Epochs(TrialExchange):
    """An exchange whose holders of the targets keys change the epochs, 2 of 3."""

    def change(self, change):
        keys, folder = self.directory / "keys", self.directory / "trust"
        current = files.read(folder)
        newest = max(
            (name for name in current if name.endswith(".targets.json")),
            key=lambda name: int(name.partition(".")[0]),
        )
        targets = change(files.signed(current, newest, Targets))
        targets.version += 1
        metadata = Metadata(targets)
        for number in (1, 3):
            metadata.sign(load_signer(keys / f"targets-{number}.pem"), append=True)
        online = Online(load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"))
        data = metadata.to_bytes(JSONSerializer(compact=True))
        submitted = {f"{targets.version}.targets.json": data}
        now = datetime.now(UTC)
        files.write(folder, ceremony.accept(current, submitted, online, now=now))

    def profiles(self, *codes):
        return [self.trust().profile(code) for code in codes or self.provinces]

    def events(self, province, name):
        lines = self.log(province).read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    async def follows(self, *codes, opened, closed=()):
        """Wait until nodes go by the newest list, and have opened what they should."""
        wanted = self.trust().version, sorted(opened), sorted(closed)

        def state(code):
            version = self.events(code, "trust.verified")[-1]["version"]
            said = self.events(code, "subjects.epochs")[-1]
            return version, said["opened"], said["closed"]

        await until(f"{wanted} is followed", lambda: all(state(code) == wanted for code in codes))


def moved(number, **times):
    """An epoch's beginning or end, moved."""

    def change(targets):
        epochs = SubjectEpochs(
            tuple(
                dataclasses.replace(epoch, **times) if epoch.number == number else epoch
                for epoch in epochs_of(targets).epochs
            )
        )
        targets.targets[roles.EPOCHS_PATH] = roles.inline(roles.EPOCHS_PATH, epochs.to_json())
        return targets

    return change


@pytest.fixture(scope="module")
def running(tmp_path_factory, invented):
    """Sichuan and Guangdong; epoch 1 began yesterday."""
    issuers = {SICHUAN: (invented.ISSUER_CREDIT_CODE,)}
    folder = tmp_path_factory.mktemp("epochs") / "exchange"
    trial = Epochs(folder, (SICHUAN, GUANGDONG), issuers=issuers)
    with trial:
        trial.change(moved(1, starts=seconds_hence(-24 * 3600)))
        trial.start(
            environment={"TONGXING_TRUST__POLL_SECONDS": "0.1", "TONGXING_LOG__LEVEL": "debug"}
        )
        yield trial


@pytest.fixture
async def exchange(running):
    """The same, with epoch 1 alone."""
    data = (running.directory / "trust" / "2.targets.json").read_bytes()
    alone = Metadata[Targets].from_bytes(data).signed
    (first,) = epochs_of(alone).epochs

    def change(targets):
        targets.targets = alone.targets
        return targets

    if running.trust().epochs != SubjectEpochs((first,)):
        running.change(change)
    await running.follows(SICHUAN, GUANGDONG, opened=[1])
    return running


@pytest.fixture
async def clients(exchange):
    async with (
        exchange.client(SICHUAN, "issuer") as issuer,
        exchange.client(GUANGDONG, "app") as app,
    ):
        yield issuer, app


def epoch_of(attestation):
    return int.from_bytes(attestation.token[:4])


def no_key_is_in(exchange, *keys):
    traces = {key.key.hex() for key in keys} | {repr(key.key)[2:-1] for key in keys}
    for province in exchange.provinces:
        text = exchange.log(province).read_text(encoding="utf-8")
        assert not [trace for trace in traces if trace in text]


def second_from(exchange, key, starts):
    """Put epoch 2 beside the first one."""
    ends = starts + EPOCH_LIFE
    exchange.change(lambda t: with_epoch(t, exchange.profiles(), key, starts, ends))


@pytest.fixture
async def overlapping(exchange, clients, people):
    """Epoch 2 has begun beside epoch 1; an attestation of epoch 1 and one of epoch 2."""
    issuer, app = clients
    before, after = people.tested(), people.tested()
    attestation, _ = await issuer.publish(before)
    assert epoch_of(attestation) == 1
    second_from(exchange, EpochKey.generate(2), seconds_hence(-1))
    await exchange.follows(SICHUAN, GUANGDONG, opened=[1, 2])
    attestation, _ = await issuer.publish(after)
    assert epoch_of(attestation) == 2
    await heard(app, after.document, is_recognised)
    return before, after


async def test_an_epoch_that_has_not_begun_changes_nothing_until_it_begins(
    exchange, clients, people
):
    issuer, app = clients
    first, new = exchange.epoch_key(), EpochKey.generate(2)
    second_from(exchange, new, seconds_hence(24 * 3600))
    await exchange.follows(SICHUAN, GUANGDONG, opened=[1, 2])
    message = people.tested()
    attestation, _ = await issuer.publish(message)
    assert epoch_of(attestation) == 1
    exchange.change(moved(2, starts=seconds_hence(2)))
    await exchange.follows(SICHUAN, GUANGDONG, opened=[1, 2])

    async def begun():
        attestation, _ = await issuer.publish(people.tested())
        return epoch_of(attestation) == 2

    await until("epoch 2 has begun", begun)
    await heard(app, message.document, is_recognised)
    no_key_is_in(exchange, first, new)


async def test_lookups_find_under_both_epochs_in_one_call(
    exchange, clients, overlapping, people, heard_of
):
    issuer, app = clients
    before, after = overlapping
    await issuer.publish(people.tested(document=after.document))
    await heard_of(exchange, app, people.tested(document=before.document))
    earlier = fetches(exchange)
    decisions = await app.recognize_all([before.document, after.document], CHECK)
    assert [each.outcome for each in decisions] == [RECOGNIZED, RECOGNIZED]
    assert [len(each.evidence) for each in decisions] == [2, 2]
    assert fetches(exchange) == earlier + 1


def fetches(exchange):
    """How often Sichuan was asked."""
    asked = [event["method"] for event in exchange.events(SICHUAN, "call")]
    return sum(method.endswith("/FetchAttestations") for method in asked)


async def test_what_was_published_before_stays_the_same_fact_and_can_be_corrected(
    clients, overlapping, people
):
    issuer, app = clients
    before, _ = overlapping
    same, already = await issuer.publish(before)
    assert already
    assert epoch_of(same) == 1
    with pytest.raises(IdTakenError):
        await issuer.publish(people.tested(attestation_id=before.attestation_id))
    with pytest.raises(IdTakenError):
        await issuer.publish(
            people.tested(attestation_id=before.attestation_id, document=before.document, hours=3)
        )
    with pytest.raises(InvalidFieldError):
        await issuer.publish(people.tested(supersedes=before.attestation_id))
    correction = people.tested(
        document=before.document, result="POSITIVE", supersedes=before.attestation_id, hours=5
    )
    attestation, _ = await issuer.publish(correction)
    assert epoch_of(attestation) == 2
    await heard(app, before.document, lambda it: it.evidence and it.outcome == NOT_RECOGNIZED)


async def test_a_revoked_id_of_the_epoch_before_is_never_used_again(clients, overlapping):
    issuer, _ = clients
    before, _ = overlapping
    await issuer.revoke(UUID(before.attestation_id), "error")
    with pytest.raises(RevokedError):
        await issuer.publish(before)


async def test_tokens_of_an_epoch_that_has_ended_are_asked_for_no_more(
    exchange, clients, overlapping
):
    _, app = clients
    before, after = overlapping
    pids = [exchange.pid(code) for code in exchange.provinces]
    await heard(app, before.document, is_recognised)
    exchange.change(moved(1, ends=seconds_hence(2)))
    await exchange.follows(SICHUAN, GUANGDONG, opened=[1, 2])
    decision = await heard(app, before.document, lambda it: it.outcome == NOT_RECOGNIZED)
    assert decision.verdict == recognition.VERDICT_NO_RECORD
    assert (await app.recognize(after.document, CHECK)).outcome == RECOGNIZED
    assert [exchange.pid(code) for code in exchange.provinces] == pids


async def test_what_was_signed_elsewhere_under_an_epoch_that_has_ended_is_refused(
    exchange, clients, people
):
    issuer, _ = clients
    drafted = publication.draft(
        people.tested(),
        province=SICHUAN,
        author=people.issuer.credit_code,
        epoch=exchange.epoch_key(),
        now=datetime.now(UTC),
    )
    pem = (exchange.directory / SICHUAN / "attestation-key.pem").read_bytes()
    signed = attestations.sign(drafted, PrivateKey.from_pem(pem, None))
    request = pb.PublishAttestationRequest(signed_attestation=signed)

    async def refused(why):
        with pytest.raises(InvalidFieldError, match=why):
            await issuer.call(PUBLISH, request, pb.PublishAttestationResponse)

    second_from(exchange, EpochKey.generate(2), seconds_hence(-1))
    exchange.change(moved(1, ends=seconds_hence(24 * 3600)))
    await exchange.follows(SICHUAN, opened=[1, 2])
    await refused("outlives the epoch")
    exchange.change(moved(1, ends=seconds_hence(0)))
    await exchange.follows(SICHUAN, opened=[1, 2])
    await refused("epoch 1 is not in use")


async def test_what_would_outlive_its_epoch_is_refused(exchange, clients, people):
    issuer, app = clients
    ends = seconds_hence(3600)
    exchange.change(moved(1, ends=ends))
    await exchange.follows(SICHUAN, GUANGDONG, opened=[1])
    with pytest.raises(InvalidFieldError, match="outlives the epoch") as caught:
        await issuer.publish(people.tested())
    assert caught.value.field == "attestation.expire_time"
    message = people.tested()
    message.expire_time.FromDatetime(ends)
    await issuer.publish(message)
    await heard(app, message.document, is_recognised)


async def test_a_node_that_cannot_open_an_epoch_says_so_and_lets_no_green_pass(
    exchange, clients, people
):
    issuer, app = clients
    green, red = people.tested(), people.coloured("RED")
    for message in (green, red):
        await issuer.publish(message)
        await heard(app, message.document)
    new = EpochKey.generate(2)
    now = seconds_hence(-1)
    ends = now + EPOCH_LIFE
    exchange.change(lambda t: with_epoch(t, exchange.profiles(SICHUAN), new, now, ends))
    # With the epoch before Guangdong goes on, loudly; but what it cannot ask for may be a red.
    await exchange.follows(SICHUAN, opened=[1, 2])
    await exchange.follows(GUANGDONG, opened=[1], closed=[2])
    assert "but not for 440000" in exchange.events(GUANGDONG, "subjects.epoch_closed")[-1]["why"]
    decision = await app.recognize(green.document, CHECK)
    assert decision.outcome == INDETERMINATE
    assert (await app.recognize(red.document, CHECK)).outcome == NOT_RECOGNIZED

    exchange.stop(GUANGDONG)
    with pytest.raises(TrustListError, match=r"identity\.seal_key.*not for 440000"):
        exchange.start(GUANGDONG)

    profile = exchange.trust().profile(GUANGDONG)
    exchange.change(lambda t: with_recipient(t, profile, [new]))
    exchange.start(GUANGDONG)
    async with exchange.client(GUANGDONG, "app") as again:
        await heard(again, green.document, is_recognised)


def test_admins_begin_an_epoch_and_seal_it_anew_by_command(tmp_path, capsys):
    trial = Epochs(tmp_path / "exchange", (SICHUAN, GUANGDONG))
    folder, keys = trial.directory / "trust", trial.directory / "keys"
    number = 0

    def propose(*arguments):
        nonlocal number
        number += 1
        out = tmp_path / f"{number}.json"
        common = ["--trust", str(folder), "--by", "Sichuan", "--out", str(out)]
        return cli.run(["trust", "propose", *arguments, *common]), out

    def publish(out):
        for holder in (1, 2):
            key = str(keys / f"targets-{holder}.pem")
            sign = ["trust", "sign", str(out), "--trust", str(folder), "--yes"]
            assert cli.run([*sign, "--key", key]) == 0
        into = ["--directory", str(folder), "--online-keys", str(keys)]
        assert cli.run(["trust", "publish", str(out), *into]) == 0

    soon = f"{seconds_hence(3600):%Y-%m-%dT%H:%M:%S}"
    assert propose("epoch", "--starts", soon)[0] == 1
    assert "--starts: too soon" in " ".join(capsys.readouterr().err.split())

    starts = seconds_hence(3 * 24 * 3600)
    code, out = propose("epoch", "--starts", f"{starts:%Y-%m-%dT%H:%M:%S}")
    assert code == 0
    publish(out)
    epochs = trial.trust().epochs
    assert [epoch.number for epoch in epochs.epochs] == [1, 2]
    assert epochs.epochs[1].starts == starts

    seal_keys = {code: trial.directory / code / "seal-key.pem" for code in trial.provinces}
    held = {
        code: unseal_all(
            epochs, code, SealPrivateKey.from_pem(path.read_bytes()), now=datetime.now(UTC)
        )
        for code, path in seal_keys.items()
    }
    assert held[SICHUAN] == held[GUANGDONG]
    assert held[SICHUAN][1].key.hex() not in out.read_text()

    # Guangdong changes its seal key; Sichuan's holder opens the epochs for it.
    profile = trial.trust().profile(GUANGDONG)
    new = SealPrivateKey.generate()
    seal_keys_now = (new.public, *profile.seal_keys)
    trial.publish(dataclasses.replace(profile, seal_keys=seal_keys_now))
    code, out = propose("reseal", GUANGDONG, "--seal-key", f"{SICHUAN}={seal_keys[SICHUAN]}")
    assert code == 0
    publish(out)
    epochs = trial.trust().epochs
    assert unseal_all(epochs, GUANGDONG, [new], now=datetime.now(UTC)) == held[SICHUAN]
