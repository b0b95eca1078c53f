"""What the publisher accepts (`ceremony.accept`), and above all what it does not."""

from __future__ import annotations

from copy import deepcopy
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
from tuf.api.metadata import DelegatedRole, Key, Metadata, Root, Targets

from exchange.errors import ConflictError, TongxingError, TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.trust import ceremony, refresh, roles
from exchange.trust.files import newest_root
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Online, Signers, generate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from securesystemslib.signer import Signer

    from exchange.trust.trustlist import TrustList

GUANGDONG, SICHUAN, ZHEJIANG = "440000", "510000", "330000"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def _certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CERTIFICATE = _certificate()


def profile_for(province: str) -> Profile:
    public = PrivateKey.generate(Algorithm.ES256).public
    return Profile(
        province=province,
        keys=(AttestationKey(public, KeyState.ACTIVE, NOW - HOUR),),
        tls_ca=CERTIFICATE,
        addresses=(f"node.{province}.example:8443",),
    )


def signed_by(signed: Root | Targets, signers: Iterable[Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


@dataclass
class Exchange:
    """An exchange in memory: its files as published, and everybody's keys."""

    files: dict[str, bytes]
    signers: Signers

    @classmethod
    def open(cls, now: datetime = NOW) -> Exchange:
        signers = Signers.generate([GUANGDONG, SICHUAN])
        profiles = [profile_for(GUANGDONG), profile_for(SICHUAN)]
        return cls(ceremony.initialise(profiles, signers, now=now), signers)

    @property
    def root(self) -> Root:
        return self._copy(newest_root(self.files), Root)

    def targets(self, version: int = 1) -> Targets:
        return self._copy(f"{version}.targets.json", Targets)

    def _copy(self, name: str, kind: type[Any]) -> Any:
        signed = Metadata.from_bytes(self.files[name]).signed
        assert isinstance(signed, kind)
        return signed

    def accept(
        self, submitted: dict[str, bytes], online: Online | None = None, now: datetime = NOW
    ) -> dict[str, bytes]:
        before = dict(self.files)
        new = ceremony.accept(self.files, submitted, online or self.signers.online, now=now)
        assert self.files == before
        self.files |= new
        return new

    def refused(
        self, submitted: dict[str, bytes], words: str, online: Online | None = None
    ) -> TongxingError:
        with pytest.raises(TongxingError, match=words) as caught:
            self.accept(submitted, online)
        return caught.value

    def load(self, cache: Path) -> TrustList:
        return refresh.load(self.files, self.files["1.root.json"], cache)

    # What the holders may sign: each returns a submission.

    def new_root(self, change: Any = None, by: Iterable[Signer] | None = None) -> dict[str, bytes]:
        root = self.root
        root.version += 1
        if change is not None:
            change(root)
        name = f"{root.version}.root.json"
        return {name: signed_by(root, self.signers.root[:2] if by is None else by)}

    def new_targets(
        self, change: Any = None, by: Iterable[Signer] | None = None
    ) -> dict[str, bytes]:
        targets = self.targets()
        targets.version += 1
        if change is not None:
            change(targets)
        name = f"{targets.version}.targets.json"
        return {name: signed_by(targets, self.signers.targets[:2] if by is None else by)}

    def profile(self, province: str, version: int, signer: Signer | None = None, **of: str) -> Any:
        data = ceremony.sign_profile(
            profile_for(of.get("of", province)),
            signer or self.signers.provinces[province],
            version=version,
            now=NOW,
        )
        return {f"{version}.p{province}.json": data}


def admit(province: str, key: Key) -> Any:
    def change(targets: Targets) -> None:
        role = roles.delegated_role(province, [])
        targets.delegations.roles[role.name] = role
        targets.add_key(key, role.name)

    return change


def remove(province: str) -> Any:
    def change(targets: Targets) -> None:
        role = targets.delegations.roles.pop(f"p{province}")
        del targets.delegations.keys[role.keyids[0]]

    return change


@pytest.fixture(scope="module")
def once() -> Exchange:
    return Exchange.open()


@pytest.fixture
def exchange(once: Exchange) -> Exchange:
    return Exchange(dict(once.files), once.signers)


# --- what is accepted --------------------------------------------------------------------------


def test_a_provinces_next_profile_is_accepted(exchange: Exchange, tmp_path: Path) -> None:
    new = exchange.accept(exchange.profile(SICHUAN, 2))

    assert set(new) == {"2.p510000.json", "2.snapshot.json", "timestamp.json"}
    assert exchange.load(tmp_path).version == 2


def test_a_province_is_admitted_with_its_profile(exchange: Exchange, tmp_path: Path) -> None:
    exchange.load(tmp_path)
    signer = generate()
    exchange.accept(
        exchange.new_targets(admit(ZHEJIANG, signer.public_key))
        | exchange.profile(ZHEJIANG, 1, signer)
    )

    assert set(exchange.load(tmp_path).profiles) == {GUANGDONG, SICHUAN, ZHEJIANG}


def test_a_removed_province_stays_in_the_snapshot(exchange: Exchange, tmp_path: Path) -> None:
    exchange.load(tmp_path)
    exchange.accept(exchange.new_targets(remove(SICHUAN)))

    assert set(exchange.load(tmp_path).profiles) == {GUANGDONG}
    snapshot: Any = Metadata.from_bytes(exchange.files["2.snapshot.json"]).signed
    assert snapshot.meta["p510000.json"].version == 1


def test_a_province_that_comes_back_goes_on_counting(exchange: Exchange, tmp_path: Path) -> None:
    exchange.accept(exchange.new_targets(remove(SICHUAN)))
    signer = generate()
    targets = exchange.targets(2)
    targets.version = 3
    admit(SICHUAN, signer.public_key)(targets)
    signed = {"3.targets.json": signed_by(targets, exchange.signers.targets[:2])}

    exchange.refused(signed | exchange.profile(SICHUAN, 1, signer), "published already")
    exchange.refused(signed, "is admitted, but")
    exchange.accept(signed | exchange.profile(SICHUAN, 2, signer))
    assert set(exchange.load(tmp_path).profiles) == {GUANGDONG, SICHUAN}


def test_the_same_submission_again_changes_nothing(exchange: Exchange) -> None:
    submitted = exchange.profile(SICHUAN, 2) | exchange.new_root()
    exchange.accept(submitted)

    assert exchange.accept(submitted) == {}


def test_a_root_that_rotates_the_online_keys_is_accepted_with_them(
    exchange: Exchange, tmp_path: Path
) -> None:
    exchange.load(tmp_path)
    online = Online(generate(), generate())

    def change(root: Root) -> None:
        for name, signer in (("snapshot", online.snapshot), ("timestamp", online.timestamp)):
            root.revoke_key(root.roles[name].keyids[0], name)
            root.add_key(signer.public_key, name)

    submitted = exchange.new_root(change)
    error = exchange.refused(submitted, "not those of the root.*version 2 names another snapshot")
    assert "the keys that this root names" in error.remedy
    exchange.accept(submitted, online)

    trust = exchange.load(tmp_path)
    assert (trust.version, trust.root_version) == (2, 2)


def test_several_roots_in_a_row_are_accepted(exchange: Exchange, tmp_path: Path) -> None:
    first = exchange.new_root()
    root = exchange.root
    root.version = 3
    second = {"3.root.json": signed_by(root, exchange.signers.root[1:])}
    exchange.accept(second | first)

    assert exchange.load(tmp_path).root_version == 3


def test_a_lapsed_list_is_mended_one_part_after_the_other(tmp_path: Path) -> None:
    exchange = Exchange.open(NOW - timedelta(days=400))

    def renewed(lifetime: timedelta) -> Any:
        def change(signed: Root | Targets) -> None:
            signed.expires = (NOW + lifetime).replace(microsecond=0)

        return change

    exchange.accept(exchange.new_root(renewed(roles.ROOT_LIFETIME)))
    exchange.accept(exchange.profile(SICHUAN, 2))
    exchange.accept(exchange.new_targets(renewed(roles.TARGETS_LIFETIME)))

    trust = exchange.load(tmp_path)
    assert set(trust.profiles) == {SICHUAN}
    assert "expired" in trust.unusable[GUANGDONG]


# --- signatures --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1])
def test_a_root_signed_by_too_few_is_refused(exchange: Exchange, count: int) -> None:
    words = f"too few have signed: {count} of the 2 holders that root version 1 demands"
    exchange.refused(exchange.new_root(by=exchange.signers.root[:count]), words)


@pytest.mark.parametrize("count", [0, 1])
def test_targets_signed_by_too_few_are_refused(exchange: Exchange, count: int) -> None:
    submitted = exchange.new_targets(by=exchange.signers.targets[:count])
    exchange.refused(submitted, f"too few have signed: {count} of the 2")


def test_targets_signed_by_the_root_holders_are_refused(exchange: Exchange) -> None:
    exchange.refused(exchange.new_targets(by=exchange.signers.root), "too few")


def test_a_root_that_its_own_new_holders_have_not_signed_is_refused(exchange: Exchange) -> None:
    new = [generate(), generate()]

    def change(root: Root) -> None:
        for keyid in tuple(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for signer in new:
            root.add_key(signer.public_key, "root")

    exchange.refused(
        exchange.new_root(change, [*exchange.signers.root, new[0]]), "1 of the 2.*the new root"
    )
    exchange.refused(exchange.new_root(change, new), "0 of the 2.*root version 1")
    exchange.accept(exchange.new_root(change, [*exchange.signers.root[:2], *new]))


def test_a_revoked_holders_signature_counts_for_nothing(exchange: Exchange) -> None:
    gone, *staying = exchange.signers.root
    exchange.accept(
        exchange.new_root(lambda root: root.revoke_key(gone.public_key.keyid, "root"), by=staying)
    )

    exchange.refused(exchange.new_root(by=[gone, staying[0]]), "1 of the 2.*root version 2")
    exchange.accept(exchange.new_root(by=staying))


def test_new_targets_holders_must_sign_the_targets_too(exchange: Exchange, tmp_path: Path) -> None:
    new = [generate(), generate()]

    def change(root: Root) -> None:
        for keyid in tuple(root.roles["targets"].keyids):
            root.revoke_key(keyid, "targets")
        for signer in new:
            root.add_key(signer.public_key, "targets")

    root = exchange.new_root(change)
    exchange.refused(root, "the targets that stand are not signed as root version 2 demands")
    exchange.refused(root | exchange.new_targets(), "too few.*root version 2")
    exchange.accept(root | exchange.new_targets(by=new))
    assert exchange.load(tmp_path).root_version == 2


def test_another_provinces_signature_is_refused(exchange: Exchange) -> None:
    signer = exchange.signers.provinces[GUANGDONG]
    exchange.refused(exchange.profile(SICHUAN, 2, signer), "510000 did not sign")


def test_a_province_that_takes_no_part_is_refused(exchange: Exchange) -> None:
    exchange.refused(exchange.profile(ZHEJIANG, 1, generate()), "330000 takes no part")


def test_a_removed_provinces_profile_is_refused(exchange: Exchange) -> None:
    submitted = exchange.new_targets(remove(SICHUAN)) | exchange.profile(SICHUAN, 2)
    exchange.refused(submitted, "510000 takes no part")


# --- versions, times, names --------------------------------------------------------------------


def test_a_version_left_out_is_refused(exchange: Exchange) -> None:
    exchange.refused(exchange.profile(SICHUAN, 3), "next version of p510000 is 2")
    data = exchange.new_root()["2.root.json"]
    exchange.refused({"3.root.json": data}, "next version of root is 2")


def test_a_version_that_is_taken_is_a_conflict(exchange: Exchange) -> None:
    error = exchange.refused(exchange.profile(SICHUAN, 1), "published already")
    assert isinstance(error, ConflictError)
    exchange.accept(exchange.new_root())
    submitted = {"2.root.json": signed_by(exchange.root, exchange.signers.root)}
    assert isinstance(exchange.refused(submitted, "published already"), ConflictError)


def test_a_file_named_for_another_version_is_refused(exchange: Exchange) -> None:
    data = exchange.profile(SICHUAN, 3)["3.p510000.json"]
    exchange.refused({"2.p510000.json": data}, "holds version 3")


def test_a_file_named_for_another_role_is_refused(exchange: Exchange) -> None:
    exchange.refused({"2.targets.json": exchange.new_root()["2.root.json"]}, "not targets")
    data = exchange.profile(GUANGDONG, 2)["2.p440000.json"]
    exchange.refused({"2.p510000.json": data}, "510000 did not sign")


@pytest.mark.parametrize(
    "name",
    [
        *("timestamp.json", "2.snapshot.json", "root.json", "02.root.json", "0.root.json"),
        *("2.p51000.json", "2.p510000.json\n", "../2.root.json", "2.p510000/x.json", ""),
        "99999999999.root.json",
    ],
)
def test_a_file_that_may_not_be_handed_in_is_refused(exchange: Exchange, name: str) -> None:
    exchange.refused({name: b"{}"}, "only root, targets and provinces")


def test_two_versions_of_one_province_at_once_are_refused(exchange: Exchange) -> None:
    both = exchange.profile(SICHUAN, 2) | exchange.profile(SICHUAN, 3)
    exchange.refused(both, "two versions")


def test_what_has_expired_is_refused(exchange: Exchange) -> None:
    def change(signed: Root | Targets) -> None:
        signed.expires = (NOW - HOUR).replace(microsecond=0)

    exchange.refused(exchange.new_root(change), "expired at")
    exchange.refused(exchange.new_targets(change), "expired at")
    with pytest.raises(TrustListError, match="expired at"):
        exchange.accept(exchange.profile(SICHUAN, 2), now=NOW + roles.PROVINCE_LIFETIME + HOUR)


@pytest.mark.parametrize("kind", ["new_root", "new_targets"])
def test_what_is_signed_for_too_long_is_refused(exchange: Exchange, kind: str) -> None:
    def change(signed: Root | Targets) -> None:
        signed.expires = (NOW + timedelta(days=3650)).replace(microsecond=0)

    exchange.refused(getattr(exchange, kind)(change), "longer than")


def test_one_bad_file_and_nothing_is_accepted(exchange: Exchange) -> None:
    submitted = exchange.new_root() | exchange.new_targets() | exchange.profile(SICHUAN, 3)
    exchange.refused(submitted, "next version")
    assert "2.root.json" not in exchange.files


def test_a_file_too_large_is_refused(exchange: Exchange) -> None:
    exchange.refused({"2.p510000.json": b" " * 1_048_577}, "more than 1048576 bytes")
    exchange.refused({"2.root.json": b" " * 262_145}, "more than 262144 bytes")


# --- forms -------------------------------------------------------------------------------------


def test_an_admitted_province_without_its_profile_is_refused(exchange: Exchange) -> None:
    submitted = exchange.new_targets(admit(ZHEJIANG, generate().public_key))
    exchange.refused(submitted, "330000 is admitted, but its own signed profile")


def test_a_new_role_key_without_a_profile_by_it_is_refused(exchange: Exchange) -> None:
    signer = generate()

    def change(targets: Targets) -> None:
        remove(SICHUAN)(targets)
        admit(SICHUAN, signer.public_key)(targets)

    targets = exchange.new_targets(change)
    exchange.refused(targets, "510000 has a new role key")
    exchange.refused(targets | exchange.profile(SICHUAN, 2), "510000 did not sign")
    exchange.accept(targets | exchange.profile(SICHUAN, 2, signer))


def delegation(**changes: Any) -> Any:
    def change(targets: Targets) -> None:
        role = targets.delegations.roles.pop(f"p{SICHUAN}").to_dict() | changes
        made = DelegatedRole.from_dict(deepcopy(role))
        targets.delegations.roles[made.name] = made

    return change


@pytest.mark.parametrize(
    "change",
    [
        delegation(paths=["*/*"]),
        delegation(paths=["p510000/*", "p440000/*"]),
        delegation(terminating=False),
        delegation(name="p999999", paths=["p999999/*"]),
        delegation(name="x510000"),
        delegation(threshold=2),
        delegation(keyids=[]),
        delegation(keyids=["0" * 64]),
        delegation(more="than we know"),
        lambda targets: targets.targets.update(
            {"p510000/profile": roles.target_file(profile_for(SICHUAN))}
        ),
        lambda targets: setattr(targets, "delegations", None),
    ],
)
def test_targets_of_another_form_are_refused(exchange: Exchange, change: Any) -> None:
    exchange.refused(exchange.new_targets(change), "province|delegat|key")


def test_two_provinces_with_one_key_are_refused(exchange: Exchange) -> None:
    signer = exchange.signers.provinces[SICHUAN]
    submitted = exchange.new_targets(admit(ZHEJIANG, signer.public_key))
    exchange.refused(submitted | exchange.profile(ZHEJIANG, 1, signer), "key of another province")


def test_a_profile_of_another_province_is_refused(exchange: Exchange) -> None:
    exchange.refused(exchange.profile(SICHUAN, 2, of=GUANGDONG), "more than its profile")


def threshold(role: str, count: int) -> Any:
    return lambda root: setattr(root.roles[role], "threshold", count)


def same_key_again(role: str) -> Any:
    def change(root: Root) -> None:
        key = root.keys[root.roles[role].keyids[0]]
        twin = Key.from_dict("f" * 64, key.to_dict())
        root.add_key(twin, role)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (threshold("root", 1), "threshold of root is 1"),
        (threshold("targets", 1), "threshold of targets is 1"),
        (threshold("targets", 4), "has 3 holders, but 4 must sign"),
        (threshold("snapshot", 2), "exactly one key"),
        (same_key_again("root"), "not the id of the key"),
        (same_key_again("targets"), "not the id of the key"),
        (lambda root: root.add_key(generate().public_key, "timestamp"), "exactly one key"),
        (
            lambda root: root.add_key(root.keys[root.roles["timestamp"].keyids[0]], "targets"),
            "online key too",
        ),
        (lambda root: setattr(root, "consistent_snapshot", False), "consistent"),
        (lambda root: root.roles["root"].keyids.append("0" * 64), "missing or is none"),
    ],
)
def test_a_root_of_another_form_is_refused(exchange: Exchange, change: Any, words: str) -> None:
    exchange.refused(exchange.new_root(change, exchange.signers.root), words)


def test_online_keys_that_the_root_does_not_name_are_refused(exchange: Exchange) -> None:
    error = exchange.refused(
        exchange.profile(SICHUAN, 2), "not those of the root", Online(generate(), generate())
    )
    assert error.field == "online"


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["2.root.json", "2.targets.json", "2.p510000.json"]),
    data=st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"[" * 100_000, b'{"signed": 1}', b'{"signed":{"_type":"targets"}}']),
    ),
)
def test_anything_else_is_refused_in_plain_words(once: Exchange, name: str, data: bytes) -> None:
    with pytest.raises(TrustListError, match="not TUF metadata"):
        ceremony.accept(once.files, {name: data}, once.signers.online, now=NOW)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 2**20), byte=st.integers(0, 255))
def test_a_changed_byte_publishes_nothing_other(once: Exchange, at: int, byte: int) -> None:
    (name, data), *_ = once.profile(SICHUAN, 2).items()
    at %= len(data)
    changed = data[:at] + bytes([byte]) + data[at + 1 :]
    try:
        new = ceremony.accept(once.files, {name: changed}, once.signers.online, now=NOW)
    except TongxingError:
        return
    accepted: Any = Metadata.from_bytes(new[name]).signed
    assert accepted == Metadata.from_bytes(data).signed


def test_the_holders_of_another_exchange_are_refused(exchange: Exchange) -> None:
    other = Exchange.open()
    taken = replace(exchange.signers, root=other.signers.root)
    stranger = Exchange(exchange.files, taken)
    exchange.refused(stranger.new_root(by=taken.root), "0 of the 2")
