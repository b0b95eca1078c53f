"""Proposals: what several holders sign, what they are told it changes, and what none may sign."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Key, Targets

from exchange.errors import ExpiredError, TongxingError, TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import EpochKey
from exchange.trust import ceremony, epochs, proposals, refresh, roles
from exchange.trust.about import LIFETIME
from exchange.trust.changes import describe
from exchange.trust.drafts import Draft, Holders
from exchange.trust.profile import App, AttestationKey, KeyState, Profile
from exchange.trust.proposals import Proposal
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.signers import Online, Signers, generate
from exchange.trust.standing import Standing

if TYPE_CHECKING:
    from pathlib import Path

    from securesystemslib.signer import Signer

GUANGDONG, SICHUAN, ZHEJIANG = "440000", "510000", "330000"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def _certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CERTIFICATE = _certificate()
SEAL_KEYS = {code: SealPrivateKey.generate() for code in (GUANGDONG, SICHUAN, ZHEJIANG)}


def profile_for(province: str) -> Profile:
    public = PrivateKey.generate(Algorithm.ES256).public
    return Profile(
        province=province,
        keys=(AttestationKey(public, KeyState.ACTIVE, NOW - HOUR),),
        tls_ca=CERTIFICATE,
        addresses=(f"node.{province}.example:8443",),
        seal_keys=(SEAL_KEYS[province].public,),
        apps=(App("yuekangma", "粤康码", "Yuekang Code"),),
    )


@dataclass
class Exchange:
    files: dict[str, bytes]
    signers: Signers

    @property
    def standing(self) -> Standing:
        return Standing.of(self.files, self.files["1.root.json"])

    def draft(self, now: datetime = NOW) -> Draft:
        return Draft(self.standing, "四川省 王", "as agreed on the 3rd", now)

    def admission(self, signer: Signer | None = None, **more: Any) -> Proposal:
        signer = signer or generate()
        profile = ceremony.sign_profile(profile_for(ZHEJIANG), signer, version=1, now=NOW)
        return self.draft().admit(ZHEJIANG, signer.public_key, profile, **more)

    def sign(self, proposal: Proposal, *signers: Signer, now: datetime = NOW) -> Proposal:
        for signer in signers:
            # Each holder has it as a file.
            proposal = Proposal.from_bytes(proposal.to_bytes())
            proposal = proposals.sign(self.standing, proposal, signer, now=now)
        return proposal

    def publish(self, proposal: Proposal, online: Online | None = None) -> None:
        submitted = proposals.to_files(self.standing, proposal, now=NOW)
        online = online or self.signers.online
        self.files |= ceremony.accept(self.files, submitted, online, now=NOW)

    def told(self, proposal: Proposal) -> list[str]:
        texts = describe(self.standing, proposal)
        assert all(text.zh and text.en for text in texts)
        return [text.en for text in texts]


@pytest.fixture(scope="module")
def once() -> Exchange:
    signers = Signers.generate([GUANGDONG, SICHUAN])
    profiles = [profile_for(GUANGDONG), profile_for(SICHUAN)]
    return Exchange(ceremony.initialise(profiles, signers, now=NOW), signers)


@pytest.fixture
def exchange(once: Exchange) -> Exchange:
    return Exchange(dict(once.files), once.signers)


def short(signer: Signer) -> str:
    return signer.public_key.keyid[:16]


# --- what each kind changes, and that it can be signed and published ---------------------------


def test_a_province_is_admitted(exchange: Exchange, tmp_path: Path) -> None:
    signer = generate()
    proposal = exchange.admission(signer)

    told = exchange.told(proposal)
    assert f"admits 330000 Zhejiang 浙江省, role key {short(signer)}" in told
    assert any("node.330000.example:8443" in text for text in told)
    assert any("apps yuekangma" in text for text in told)
    exchange.publish(exchange.sign(proposal, *exchange.signers.targets[:2]))
    trust = refresh.load(exchange.files, exchange.files["1.root.json"], tmp_path)
    assert set(trust.profiles) == {GUANGDONG, SICHUAN, ZHEJIANG}


def test_an_admitted_province_is_given_the_subject_epochs(exchange: Exchange) -> None:
    def opened(province: str) -> EpochKey:
        (epoch,) = epochs.epochs_of(exchange.standing.targets).epochs
        return epochs.unseal(epoch.sealed[province], 1, province, [SEAL_KEYS[province]])

    proposal = exchange.admission(epoch_keys=[opened(SICHUAN)])
    assert "seals epoch 1 of subject tokens anew for 330000" in exchange.told(proposal)
    exchange.publish(exchange.sign(proposal, *exchange.signers.targets[:2]))
    assert opened(ZHEJIANG) == opened(SICHUAN)


def test_a_province_is_removed(exchange: Exchange) -> None:
    proposal = exchange.draft().remove(SICHUAN)

    assert any("removes 510000 Sichuan 四川省" in text for text in exchange.told(proposal))
    exchange.publish(exchange.sign(proposal, *exchange.signers.targets[1:]))
    assert set(exchange.standing.profiles) == {GUANGDONG}


def test_a_provinces_role_key_is_replaced(exchange: Exchange) -> None:
    signer = generate()
    profile = ceremony.sign_profile(profile_for(SICHUAN), signer, version=2, now=NOW)
    proposal = exchange.draft().admit(SICHUAN, signer.public_key, profile)

    before = short(exchange.signers.provinces[SICHUAN])
    told = f"new role key {short(signer)} of 510000 Sichuan 四川省 in place of {before}"
    assert told in exchange.told(proposal)
    exchange.publish(exchange.sign(proposal, *exchange.signers.targets[:2]))


def test_holders_and_threshold_change_by_old_and_new(exchange: Exchange) -> None:
    new = [generate() for _ in range(3)]
    gone, *staying = exchange.signers.root
    change = Holders([signer.public_key for signer in new], [gone.public_key.keyid[:12]], 3)
    proposal = exchange.draft().holders("root", change)

    told = exchange.told(proposal)
    assert "threshold of root: 2 of 3 → 3 of 5" in told
    assert f"removes the root holder key {short(gone)}" in told
    assert sum(text.startswith("adds the root holder key") for text in told) == 3
    proposal = exchange.sign(proposal, *staying)
    assert [tally.missing for tally in proposals.progress(exchange.standing, proposal)] == [0, 1]
    with pytest.raises(TrustListError, match="1 more must sign"):
        exchange.publish(proposal)
    exchange.publish(exchange.sign(proposal, new[0]))
    assert exchange.standing.root.roles["root"].threshold == 3


def test_new_targets_holders_sign_the_targets_with_the_root(exchange: Exchange) -> None:
    new = [generate(), generate()]
    change = Holders(
        [signer.public_key for signer in new],
        [signer.public_key.keyid for signer in exchange.signers.targets[:2]],
    )
    proposal = exchange.draft().holders("targets", change)
    assert proposal.targets is not None

    proposal = exchange.sign(proposal, *exchange.signers.root[:2], new[0])
    assert not proposals.is_complete(exchange.standing, proposal)
    exchange.publish(exchange.sign(proposal, new[1]))


def test_online_keys_are_replaced(exchange: Exchange) -> None:
    online = Online(exchange.signers.online.snapshot, generate())
    proposal = exchange.draft().online(timestamp=online.timestamp.public_key)

    old = short(exchange.signers.online.timestamp)
    told = f"new timestamp key {short(online.timestamp)} in place of {old}"
    assert told in exchange.told(proposal)
    exchange.publish(exchange.sign(proposal, *exchange.signers.root[:2]), online)


def test_a_new_epoch_begins(exchange: Exchange) -> None:
    starts = NOW + epochs.EPOCH_LIFE / 2
    proposal = exchange.draft().epoch(
        EpochKey.generate(2), starts=starts, ends=starts + epochs.EPOCH_LIFE
    )
    assert any("begins epoch 2 of subject tokens" in text for text in exchange.told(proposal))
    exchange.publish(exchange.sign(proposal, *exchange.signers.targets[:2]))


def test_root_and_targets_are_renewed(exchange: Exchange) -> None:
    proposal = exchange.draft(NOW + timedelta(days=1)).renew()

    told = exchange.told(proposal)
    assert [text.partition(",")[0] for text in told] == [
        "root: version 1 → 2",
        "targets: version 1 → 2",
    ]
    signers = (*exchange.signers.root[:2], *exchange.signers.targets[:2])
    signed = exchange.sign(proposal, *signers, now=NOW + timedelta(days=1))
    assert proposals.is_complete(exchange.standing, signed)


def test_copies_signed_apart_come_together(exchange: Exchange) -> None:
    proposal = exchange.admission()
    first, second, _ = (exchange.sign(proposal, each) for each in exchange.signers.targets)
    assert not proposals.is_complete(exchange.standing, first)

    with pytest.raises(TrustListError, match="not copies of one proposal"):
        proposals.merge(first, exchange.admission())
    exchange.publish(proposals.merge(first, second))


def test_a_file_is_the_same_after_it_was_read(exchange: Exchange) -> None:
    data = exchange.sign(exchange.admission(), exchange.signers.targets[0]).to_bytes()
    assert Proposal.from_bytes(data).to_bytes() == data
    document = json.loads(data)
    assert next(iter(document["files"]["2.targets.json"]["signed"])) == "proposal"


# --- who may not sign, and what nobody may -----------------------------------------------------


def refused(exchange: Exchange, proposal: Proposal, signer: Signer, words: str) -> TongxingError:
    with pytest.raises(TongxingError, match=words) as caught:
        exchange.sign(proposal, signer)
    return caught.value


def test_a_key_that_is_no_holders_is_refused(exchange: Exchange) -> None:
    refused(exchange, exchange.admission(), generate(), "not the key of a holder")


def test_a_root_holder_is_none_of_targets(exchange: Exchange) -> None:
    refused(exchange, exchange.admission(), exchange.signers.root[0], "not the key of a holder")


def test_a_holder_who_signs_twice_is_refused(exchange: Exchange) -> None:
    holder = exchange.signers.targets[0]
    refused(exchange, exchange.sign(exchange.admission(), holder), holder, "signed already")


def test_a_revoked_holder_is_refused(exchange: Exchange) -> None:
    gone, *staying = exchange.signers.root
    change = Holders(remove=[gone.public_key.keyid])
    exchange.publish(exchange.sign(exchange.draft().holders("root", change), *staying))

    proposal = exchange.draft().renew(targets=False)
    refused(exchange, proposal, gone, "not the key of a holder")
    assert proposal.root is not None
    proposal.root.sign(gone, append=True)
    refused(exchange, proposal, staying[0], "is signed by .* not the key of a holder")


def test_an_expired_proposal_is_refused(exchange: Exchange) -> None:
    late = NOW + LIFETIME + HOUR
    holders = exchange.signers.targets
    proposal = exchange.sign(exchange.admission(), holders[0])
    with pytest.raises(ExpiredError, match="expired at"):
        exchange.sign(proposal, holders[1], now=late)
    complete = exchange.sign(proposal, holders[1])
    with pytest.raises(ExpiredError, match="expired at"):
        proposals.to_files(exchange.standing, complete, now=late)
    submitted = proposals.to_files(exchange.standing, complete, now=NOW)
    with pytest.raises(ExpiredError, match="expired at"):
        ceremony.accept(exchange.files, submitted, exchange.signers.online, now=late)


def test_a_proposal_that_was_overtaken_is_refused(exchange: Exchange) -> None:
    late = exchange.sign(exchange.admission(), *exchange.signers.targets[:2])
    exchange.publish(exchange.sign(exchange.draft().remove(SICHUAN), *exchange.signers.targets[:2]))

    refused(exchange, late, exchange.signers.targets[2], "but the next one is 3")
    with pytest.raises(TrustListError, match="but the next one is 3"):
        exchange.publish(late)


def test_a_proposal_for_another_exchange_is_refused(exchange: Exchange) -> None:
    other = Exchange(
        ceremony.initialise([profile_for(SICHUAN)], exchange.signers, now=NOW), exchange.signers
    )
    refused(
        exchange, other.draft().renew(root=False), exchange.signers.targets[0], "based on another"
    )


def edited(proposal: Proposal, change: Any) -> Proposal:
    document = json.loads(proposal.to_bytes())
    change(document["files"])
    return Proposal.from_bytes(json.dumps(document).encode())


def set_in(*path: str) -> Any:
    def change(files: Any) -> None:
        *way, last, value = path
        for name in way:
            files = files[name]
        files[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("2.targets.json", "signed", "expires", "2026-12-31T00:00:00Z"),
        set_in("2.targets.json", "signed", "proposal", "note", "something else"),
        set_in("2.targets.json", "signed", "proposal", "by", "somebody else"),
        set_in(
            "2.targets.json",
            "signed",
            "proposal",
            "expires",
            (NOW + LIFETIME - HOUR).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ),
        lambda files: files["2.targets.json"]["signatures"][0].update(sig="00" * 64),
        lambda files: files["2.targets.json"]["signatures"][0].update(sig="zz"),
    ],
)
def test_a_proposal_edited_after_a_signature_is_refused(exchange: Exchange, change: Any) -> None:
    first, second, _ = exchange.signers.targets
    proposal = edited(exchange.sign(exchange.admission(), first), change)
    error = refused(exchange, proposal, second, "changed after this holder signed it")
    assert "sign nothing" in error.remedy


def test_a_profile_edited_after_its_province_signed_is_refused(exchange: Exchange) -> None:
    proposal = edited(
        exchange.admission(), set_in("1.p330000.json", "signed", "expires", "2026-12-01T00:00:00Z")
    )
    refused(exchange, proposal, exchange.signers.targets[0], "330000 did not sign this")


def test_an_admission_without_the_profile_is_refused(exchange: Exchange) -> None:
    proposal = edited(exchange.admission(), lambda files: files.pop("1.p330000.json"))
    refused(exchange, proposal, exchange.signers.targets[0], "330000 is admitted, but")


def test_a_stowaway_is_refused(exchange: Exchange) -> None:
    signer = exchange.signers.provinces[SICHUAN]
    data = ceremony.sign_profile(profile_for(SICHUAN), signer, version=2, now=NOW)
    proposal = edited(
        exchange.admission(), lambda files: files.update({"2.p510000.json": json.loads(data)})
    )
    refused(exchange, proposal, exchange.signers.targets[0], "nothing to do with 510000")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in("2.root.json", "signed", "version", 3), "holds version 3"),
        (lambda files: files.update({"3.root.json": files.pop("2.root.json")}), "holds version 2"),
        (lambda files: files["2.root.json"]["signed"].pop("proposal"), "who proposes"),
        (set_in("2.root.json", "signed", "proposal", "kind", "gift"), "no such proposal"),
        (set_in("2.root.json", "signed", "proposal", "by", ""), "string"),
        (set_in("2.root.json", "signed", "proposal", "by", "x" * 1001), "1000 characters"),
        (lambda files: files.update({"timestamp.json": {}}), "only root, targets"),
        (lambda files: files.clear(), "who proposes"),
    ],
)
def test_a_file_of_another_form_is_refused(exchange: Exchange, change: Any, words: str) -> None:
    with pytest.raises(TrustListError, match=words):
        edited(exchange.draft().renew(targets=False), change)


def test_a_proposal_that_leaves_a_version_out_is_refused(exchange: Exchange) -> None:
    proposal = exchange.draft().renew(targets=False)
    assert proposal.root is not None
    proposal.root.signed.version = 3
    refused(
        exchange, proposal, exchange.signers.root[0], "version 3 of root, but the next one is 2"
    )


def test_a_longer_life_than_14_days_is_refused(exchange: Exchange) -> None:
    later = (NOW + timedelta(days=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    proposal = edited(
        exchange.admission(), set_in("2.targets.json", "signed", "proposal", "expires", later)
    )
    refused(exchange, proposal, exchange.signers.targets[0], "lasts 14 days")


def test_what_cannot_be_told_is_refused(exchange: Exchange) -> None:
    for name, path in (
        ("root", ("2.root.json", "signed", "spare", "x")),
        ("roles.root", ("2.root.json", "signed", "roles", "root", "spare", "x")),
        ("spare", ("2.targets.json", "signed", "spare", "x")),
    ):
        proposal = edited(exchange.draft().renew(), set_in(*path))
        with pytest.raises(TrustListError, match="cannot explain"):
            describe(exchange.standing, proposal)
        assert name


def test_a_key_hidden_under_anothers_id_is_refused(exchange: Exchange) -> None:
    proposal = exchange.draft().renew(targets=False)
    assert proposal.root is not None
    root = proposal.root.signed
    keyid = root.roles["root"].keyids[0]
    root.keys[keyid] = Key.from_dict(keyid, generate().public_key.to_dict())
    refused(exchange, proposal, exchange.signers.root[1], "not the id of the key")


def test_a_threshold_of_one_is_not_proposed(exchange: Exchange) -> None:
    with pytest.raises(TrustListError, match="threshold of root is 1"):
        exchange.draft().holders("root", Holders(threshold=1))


@pytest.mark.parametrize("beginning", ["", "1234567", "0" * 64])
def test_a_holder_to_remove_must_be_named_rightly(exchange: Exchange, beginning: str) -> None:
    with pytest.raises(TrustListError, match="holders' key ids"):
        exchange.draft().holders("root", Holders(remove=[beginning]))


def test_a_change_of_nothing_is_not_proposed(exchange: Exchange) -> None:
    for make in (
        lambda: exchange.draft().holders("root", Holders()),
        lambda: exchange.draft().online(),
        lambda: exchange.draft().remove(ZHEJIANG),
    ):
        with pytest.raises(TrustListError):
            make()


def test_a_list_under_another_root_does_not_stand(exchange: Exchange, once: Exchange) -> None:
    other = ceremony.initialise([profile_for(SICHUAN)], Signers.generate([SICHUAN]), now=NOW)
    with pytest.raises(TrustListError, match="does not verify"):
        Standing.of(exchange.files, other["1.root.json"])
    mixed = {**exchange.files, "1.targets.json": other["1.targets.json"]}
    with pytest.raises(TrustListError, match="does not verify"):
        Standing.of(mixed, exchange.files["1.root.json"])


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"[" * 100_000,
                b'{"format": "tongxing-proposal/1"}',
                b'{"format": "tongxing-proposal/1", "files": []}',
                b'{"format": "tongxing-proposal/1", "files": {"2.root.json": 1}}',
                b'{"format": "tongxing-proposal/1", "files": {}, "files": {}}',
                b'{"format": "tongxing-proposal/1", "files": {"2.root.json": 1.5}}',
                b'{"format": "tongxing-proposal/1", "files": {"2.root.json": NaN}}',
                b" " * 5_000_000,
            ]
        ),
    )
)
def test_what_is_no_proposal_is_refused(data: bytes) -> None:
    with pytest.raises(TrustListError):
        Proposal.from_bytes(data)


def test_a_name_that_stands_twice_is_refused(exchange: Exchange) -> None:
    data = exchange.admission().to_bytes()
    twice = data.replace(b'"note":', b'"note": "harmless", "note":', 1)
    with pytest.raises(TrustListError, match="stands twice"):
        Proposal.from_bytes(twice)


def test_proposing_changes_nothing_that_stands(exchange: Exchange) -> None:
    standing = exchange.standing
    before = (standing.root.to_dict(), standing.targets.to_dict())
    draft = replace(exchange.draft(), standing=standing)
    draft.renew()
    draft.remove(SICHUAN)
    draft.holders("root", Holders(threshold=3))
    assert (standing.root.to_dict(), standing.targets.to_dict()) == before
    assert isinstance(standing.targets, Targets)
    assert roles.EPOCHS_PATH in standing.targets.targets
