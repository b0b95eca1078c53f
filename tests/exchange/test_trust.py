from __future__ import annotations

import json
import shutil
import stat
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Targets

from exchange.errors import TongxingError, TrustListError, UnknownProvinceError
from exchange.keys import Algorithm, PrivateKey
from exchange.provinces import PROVINCES
from exchange.trust import ceremony, files, refresh, roles
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Online, Signers, generate, load_signer, save_signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from securesystemslib.signer import Signer

    from exchange.trust.trustlist import TrustList

GUANGDONG, SICHUAN = "440000", "510000"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def _certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CERTIFICATE = _certificate()


def profile_for(province: str, **changes: Any) -> Profile:
    public = PrivateKey.generate(Algorithm.ES256).public
    return replace(
        Profile(
            province=province,
            keys=(AttestationKey(public, KeyState.ACTIVE, NOW - HOUR),),
            tls_ca=CERTIFICATE,
            addresses=(f"node.{province}.example:8443",),
            rules=({"id": "r1", "when": "true", "reason": {"zh": "核酸阴性", "en": "negative"}},),
            status_lists=(f"{province}/1",),
        ),
        **changes,
    )


@dataclass
class Exchange:
    directory: Path
    cache: Path
    signers: Signers
    profiles: dict[str, Profile]

    @classmethod
    def open(
        cls, place: Path, provinces: Iterable[str] = (GUANGDONG, SICHUAN), now: datetime = NOW
    ) -> Exchange:
        codes = list(provinces)
        signers = Signers.generate(codes)
        profiles = {code: profile_for(code) for code in codes}
        files.write(place / "list", ceremony.initialise(list(profiles.values()), signers, now=now))
        return cls(place / "list", place / "cache", signers, profiles)

    @property
    def root(self) -> bytes:
        return (self.directory / "1.root.json").read_bytes()

    def load(self) -> TrustList:
        return refresh.load(self.directory, self.root, self.cache)

    def current(self) -> files.Files:
        return files.read(self.directory)

    def publish(self, profile: Profile, now: datetime = NOW) -> None:
        signer = self.signers.provinces[profile.province]
        files.write(
            self.directory,
            ceremony.publish_profile(self.current(), profile, signer, self.signers.online, now=now),
        )

    def renew(self, now: datetime = NOW) -> None:
        renewed = ceremony.renew(self.current(), self.signers.online, now=now)
        files.write(self.directory, renewed)

    def put(self, name: str, data: bytes) -> None:
        """Publish a file with the online keys, unchecked: what whoever holds them can do."""
        number, _, file = name.partition(".")
        timestamp: Metadata[Any] = Metadata.from_bytes(self.current()["timestamp.json"])
        head = timestamp.signed.snapshot_meta.version
        snapshot: Metadata[Any] = Metadata.from_bytes(self.current()[f"{head}.snapshot.json"])
        snapshot.signed.meta[file] = MetaFile.from_data(int(number), data, ["sha256"])
        self.forge_snapshot(snapshot, timestamp, head + 1)
        (self.directory / name).write_bytes(data)

    def forge_snapshot(
        self, snapshot: Metadata[Any], timestamp: Metadata[Any], version: int
    ) -> None:
        snapshot.signed.version = version
        data = resign(snapshot, self.signers.online.snapshot)
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        (self.directory / f"{version}.snapshot.json").write_bytes(data)
        (self.directory / "timestamp.json").write_bytes(
            resign(timestamp, self.signers.online.timestamp)
        )


def resign(metadata: Metadata[Any], *signers: Signer) -> bytes:
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange.open(tmp_path)


# --- what verifies ---------------------------------------------------------------------------


def test_a_freshly_initialised_list_verifies(exchange: Exchange) -> None:
    trust = exchange.load()

    assert trust.profiles == exchange.profiles
    assert trust.unusable == {}
    assert (trust.version, trust.root_version) == (1, 1)
    assert trust.expires == (NOW + roles.TIMESTAMP_LIFETIME).replace(microsecond=0)
    assert sorted(path.name for path in exchange.directory.iterdir()) == [
        "1.p440000.json",
        "1.p510000.json",
        "1.root.json",
        "1.snapshot.json",
        "1.targets.json",
        "timestamp.json",
    ]


def test_every_province_fits_into_one_list(tmp_path: Path) -> None:
    trust = Exchange.open(tmp_path, PROVINCES).load()

    assert set(trust.profiles) == set(PROVINCES)


def test_a_key_is_found_by_its_kid(exchange: Exchange) -> None:
    (key,) = exchange.profiles[SICHUAN].keys
    trust = exchange.load()

    assert trust.keys(key.public.kid) == ((SICHUAN, key),)
    assert trust.keys(bytes(8)) == ()


def test_a_kid_that_two_provinces_bear_finds_both(exchange: Exchange) -> None:
    keys = exchange.profiles[GUANGDONG].keys
    exchange.publish(replace(exchange.profiles[SICHUAN], keys=keys))

    found = exchange.load().keys(keys[0].public.kid)

    assert {province for province, _ in found} == {GUANGDONG, SICHUAN}


def test_a_province_that_takes_no_part_is_unknown(exchange: Exchange) -> None:
    with pytest.raises(UnknownProvinceError):
        exchange.load().profile("110000")


def test_a_refresh_brings_a_rotated_key(exchange: Exchange) -> None:
    exchange.load()
    new = profile_for(SICHUAN)
    exchange.publish(new)

    trust = exchange.load()

    assert trust.profile(SICHUAN) == new
    assert trust.version == 2


def test_a_list_verifies_without_its_cache_and_with_a_spoilt_one(exchange: Exchange) -> None:
    expected = exchange.load()
    for path in exchange.cache.glob("*.json"):
        path.unlink()
        path.write_bytes(b"{}")

    assert exchange.load() == expected
    shutil.rmtree(exchange.cache)
    assert exchange.load() == expected


def test_threads_may_share_a_cache(exchange: Exchange) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(5):
                exchange.load()
        except BaseException as error:  # noqa: BLE001  the test reports whatever it was
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_mirror_that_is_brought_forward_meanwhile_reads_whole(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "mirror"
    files.mirror(place, exchange.current())
    exchange.publish(replace(exchange.profiles[SICHUAN], addresses=("moved.example:8443",)))
    newer, read_one = exchange.current(), files._file

    def read_late(directory: Path, name: str) -> bytes:
        if name.endswith(".p510000.json"):
            files.mirror(place, newer)
        return read_one(directory, name)

    monkeypatch.setattr(files, "_file", read_late)
    assert files.read(place) == newer


def test_a_new_root_signed_by_the_old_one_is_followed(exchange: Exchange) -> None:
    root: Metadata[Any] = Metadata.from_bytes(exchange.root)
    root.signed.version = 2
    (exchange.directory / "2.root.json").write_bytes(resign(root, *exchange.signers.root[:2]))

    assert exchange.load().root_version == 2


# --- what is refused as a whole --------------------------------------------------------------


def refused(exchange: Exchange, words: str) -> TrustListError:
    with pytest.raises(TrustListError, match=words) as caught:
        exchange.load()
    assert caught.value.remedy
    return caught.value


def test_a_root_signed_below_the_threshold_is_refused(exchange: Exchange) -> None:
    root: Metadata[Any] = Metadata.from_bytes(exchange.root)
    short = resign(root, exchange.signers.root[0])

    with pytest.raises(TrustListError, match="too few"):
        refresh.load(exchange.directory, short, exchange.cache)


def test_a_new_root_signed_below_the_threshold_is_refused(exchange: Exchange) -> None:
    root: Metadata[Any] = Metadata.from_bytes(exchange.root)
    root.signed.version = 2
    (exchange.directory / "2.root.json").write_bytes(resign(root, exchange.signers.root[0]))

    refused(exchange, "too few")


def test_a_new_root_that_leaves_a_version_out_is_refused(exchange: Exchange) -> None:
    root: Metadata[Any] = Metadata.from_bytes(exchange.root)
    root.signed.version = 3
    (exchange.directory / "2.root.json").write_bytes(resign(root, *exchange.signers.root))

    refused(exchange, "version")


def test_targets_signed_below_the_threshold_are_refused(exchange: Exchange) -> None:
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    targets.signed.version = 2
    exchange.put("2.targets.json", resign(targets, exchange.signers.targets[0]))

    refused(exchange, "too few")


def test_targets_signed_twice_by_one_holder_are_refused(exchange: Exchange) -> None:
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    targets.signed.version = 2
    resign(targets, *exchange.signers.targets[:2])
    first, second = exchange.signers.targets[:2]
    twice = targets.signatures[first.public_key.keyid]
    targets.signatures[second.public_key.keyid] = replace_keyid(twice, second)
    exchange.put("2.targets.json", targets.to_bytes())

    refused(exchange, "too few")


def replace_keyid(signature: Any, signer: Signer) -> Any:
    return type(signature)(signer.public_key.keyid, signature.signature)


def test_the_root_holders_cannot_sign_targets(exchange: Exchange) -> None:
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    targets.signed.version = 2
    exchange.put("2.targets.json", resign(targets, *exchange.signers.root))

    refused(exchange, "too few")


def test_a_timestamp_put_back_is_refused(exchange: Exchange) -> None:
    old = exchange.current()["timestamp.json"]
    exchange.renew()
    exchange.load()
    (exchange.directory / "timestamp.json").write_bytes(old)

    refused(exchange, "version")


def test_a_snapshot_put_back_is_refused(exchange: Exchange) -> None:
    old = exchange.current()
    exchange.publish(profile_for(SICHUAN))
    exchange.load()
    timestamp: Metadata[Any] = Metadata.from_bytes(exchange.current()["timestamp.json"])
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile.from_data(1, old["1.snapshot.json"], ["sha256"])
    (exchange.directory / "timestamp.json").write_bytes(
        resign(timestamp, exchange.signers.online.timestamp)
    )

    refused(exchange, "version")


def test_a_province_put_back_is_refused(exchange: Exchange) -> None:
    old = exchange.current()["1.p510000.json"]
    exchange.publish(profile_for(SICHUAN))
    exchange.load()
    exchange.put("1.p510000.json", old)

    refused(exchange, "version")


def test_targets_put_back_are_refused(exchange: Exchange) -> None:
    old = exchange.current()["1.targets.json"]
    targets: Metadata[Any] = Metadata.from_bytes(old)
    targets.signed.version = 2
    exchange.put("2.targets.json", resign(targets, *exchange.signers.targets))
    exchange.load()
    exchange.put("1.targets.json", old)

    refused(exchange, "version")


def test_a_province_left_out_of_the_snapshot_is_refused(exchange: Exchange) -> None:
    exchange.load()
    timestamp: Metadata[Any] = Metadata.from_bytes(exchange.current()["timestamp.json"])
    snapshot: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.snapshot.json"])
    del snapshot.signed.meta["p510000.json"]
    exchange.forge_snapshot(snapshot, timestamp, 2)

    refused(exchange, "contradicts itself")


def test_a_frozen_list_is_refused(tmp_path: Path) -> None:
    ago = NOW - roles.TIMESTAMP_LIFETIME - HOUR

    refused(Exchange.open(tmp_path, now=ago), "expired.*timestamp")


@pytest.mark.parametrize(
    ("lifetime", "role"),
    [
        (roles.SNAPSHOT_LIFETIME, "snapshot"),
        (roles.TARGETS_LIFETIME, "targets"),
        (roles.ROOT_LIFETIME, "root"),
    ],
)
def test_an_expired_role_is_refused(tmp_path: Path, lifetime: timedelta, role: str) -> None:
    exchange = Exchange.open(tmp_path, now=NOW - lifetime - HOUR)
    timestamp: Metadata[Any] = Metadata.from_bytes(exchange.current()["timestamp.json"])
    snapshot: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.snapshot.json"])
    timestamp.signed.expires = NOW + HOUR
    if role != "snapshot":
        snapshot.signed.expires = NOW + HOUR
    exchange.forge_snapshot(snapshot, timestamp, 2)

    refused(exchange, f"expired.*{role}")


def test_another_exchanges_root_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    exchange.load()
    other = Exchange.open(tmp_path / "other")

    with pytest.raises(TrustListError, match="too few"):
        refresh.load(exchange.directory, other.root, exchange.cache)


@pytest.mark.parametrize("root", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"signed": 1}'])
def test_a_root_that_is_none_is_refused(exchange: Exchange, root: bytes) -> None:
    with pytest.raises(TrustListError, match="not TUF metadata"):
        refresh.load(exchange.directory, root, exchange.cache)


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_a_list_that_lacks_a_file_is_refused(exchange: Exchange, name: str) -> None:
    (exchange.directory / name).unlink()

    assert name in refused(exchange, "missing").message


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_a_file_too_large_is_refused(exchange: Exchange, name: str) -> None:
    path = exchange.directory / name
    path.write_bytes(path.read_bytes() + b" " * 2_000_000)

    refused(exchange, "larger")


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_a_file_of_other_content_is_refused(exchange: Exchange, name: str) -> None:
    (exchange.directory / name).write_bytes(b"{}")

    refused(exchange, "not the file|not TUF metadata")


@pytest.mark.parametrize(
    "wider",
    [
        {"paths": ["p440000/*", "p510000/*"]},
        {"paths": ["*/*"]},
        {"terminating": False},
        {"name": "p440000x"},
        {"name": "../p440000"},
    ],
)
def test_a_delegation_that_reaches_further_is_refused(
    exchange: Exchange, wider: dict[str, Any]
) -> None:
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    role = targets.signed.delegations.roles.pop("p440000")
    fields: dict[str, Any] = {"name": role.name, "terminating": True, "paths": role.paths} | wider
    wide = DelegatedRole(keyids=role.keyids, threshold=1, **fields)
    targets.signed.delegations.roles[wide.name] = wide
    targets.signed.version = 2
    exchange.put("2.targets.json", resign(targets, *exchange.signers.targets))

    refused(exchange, "delegates")


def test_a_list_that_names_no_provinces_is_refused(exchange: Exchange) -> None:
    targets = Targets(version=2, expires=NOW + HOUR)
    exchange.put("2.targets.json", resign(Metadata(targets), *exchange.signers.targets))

    refused(exchange, "names no provinces")


# --- what fails one province alone -----------------------------------------------------------


def alone(exchange: Exchange, words: str) -> None:
    trust = exchange.load()
    assert set(trust.profiles) == {GUANGDONG}
    assert set(trust.unusable) == {SICHUAN}
    assert words in trust.unusable[SICHUAN]
    with pytest.raises(TrustListError, match=SICHUAN):
        trust.profile(SICHUAN)
    assert trust.keys(exchange.profiles[SICHUAN].keys[0].public.kid) == ()


def sichuan(exchange: Exchange) -> Metadata[Any]:
    metadata: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.p510000.json"])
    metadata.signed.version = 2
    return metadata


def test_an_expired_province_fails_alone(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    metadata.signed.expires = NOW - HOUR
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[SICHUAN]))

    alone(exchange, "expired")


def test_a_province_once_cached_and_now_expired_fails_alone(exchange: Exchange) -> None:
    exchange.load()
    test_an_expired_province_fails_alone(exchange)


def test_a_missing_province_fails_alone(exchange: Exchange) -> None:
    (exchange.directory / "1.p510000.json").unlink()

    alone(exchange, "missing")


def test_a_province_too_large_fails_alone(exchange: Exchange) -> None:
    exchange.put("2.p510000.json", b" " * 3_000_000)

    alone(exchange, "larger")


def test_a_tampered_profile_is_refused(exchange: Exchange) -> None:
    path = exchange.directory / "1.p510000.json"
    path.write_bytes(path.read_bytes().replace(b"example:8443", b"example:9443"))

    alone(exchange, "not the file")


def test_a_profile_that_the_publisher_tampered_with_is_refused(exchange: Exchange) -> None:
    data = exchange.current()["1.p510000.json"].replace(b"example:8443", b"example:9443")
    exchange.put("1.p510000.json", data)

    alone(exchange, "too few")


def test_a_province_signed_by_another_is_refused(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[GUANGDONG]))

    alone(exchange, "too few")


def test_a_province_signed_by_the_publisher_is_refused(exchange: Exchange) -> None:
    exchange.put("2.p510000.json", resign(sichuan(exchange), exchange.signers.online.snapshot))

    alone(exchange, "too few")


def test_a_province_that_publishes_anothers_profile_is_refused(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    target = roles.target_file(exchange.profiles[GUANGDONG])
    target.path = "p510000/profile"
    metadata.signed.targets = {target.path: target}
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[SICHUAN]))

    alone(exchange, "not that of 510000")


def test_a_province_cannot_speak_for_another(exchange: Exchange) -> None:
    """What Sichuan lists under Guangdong's path is never looked at."""
    metadata = sichuan(exchange)
    forged = roles.target_file(profile_for(GUANGDONG))
    metadata.signed.targets[forged.path] = forged
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[SICHUAN]))

    trust = exchange.load()

    assert trust.profile(GUANGDONG) == exchange.profiles[GUANGDONG]


def test_a_province_that_delegates_further_is_not_followed(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    signer = exchange.signers.provinces[SICHUAN]
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    metadata.signed.targets = {}
    metadata.signed.delegations = targets.signed.delegations
    metadata.signed.delegations.roles["p440000"].paths = ["p510000/*"]
    exchange.put("2.p510000.json", resign(metadata, signer))

    alone(exchange, "no profile")


def test_a_province_without_a_profile_fails_alone(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    metadata.signed.targets = {}
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[SICHUAN]))

    alone(exchange, "no profile")


def test_a_profile_that_its_digest_does_not_name_is_refused(exchange: Exchange) -> None:
    metadata = sichuan(exchange)
    metadata.signed.targets["p510000/profile"].custom["addresses"] = ["elsewhere:1"]
    exchange.put("2.p510000.json", resign(metadata, exchange.signers.provinces[SICHUAN]))

    alone(exchange, "digest")


def test_a_code_that_is_no_province_fails_alone(exchange: Exchange) -> None:
    targets: Metadata[Any] = Metadata.from_bytes(exchange.current()["1.targets.json"])
    targets.signed.delegations.roles["p999999"] = roles.delegated_role("999999", [])
    targets.signed.version = 2
    exchange.put("2.targets.json", resign(targets, *exchange.signers.targets))

    trust = exchange.load()

    assert set(trust.profiles) == {GUANGDONG, SICHUAN}
    assert set(trust.unusable) == {"999999"}


# --- the profile -----------------------------------------------------------------------------


def good() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(profile_for(SICHUAN).to_json()))
    return value


def test_a_profile_survives_json() -> None:
    keys = tuple(
        AttestationKey(PrivateKey.generate(algorithm).public, state, NOW)
        for algorithm, state in zip(list(Algorithm) * 2, KeyState, strict=False)
    )
    profile = profile_for(SICHUAN, keys=keys)

    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_a_field_of_a_later_version_is_left_aside() -> None:
    value = good()
    value["later"] = value["keys"][0]["later"] = {"a": [1]}

    assert "later" not in Profile.from_json(value).to_json()


def test_a_profile_without_status_lists_is_read() -> None:
    value = good()
    del value["status_lists"]

    assert Profile.from_json(value).status_lists == ()


def _twice(value: dict[str, Any]) -> None:
    value["keys"].append(dict(value["keys"][0], state="OLD"))


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = to

    return change


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_twice, "keys[1].kid"),
        (_set("keys", 0, "kid", to="0011223344556677"), "keys[0].kid"),
        (_set("keys", 0, "kid", to=7), "keys[0].kid"),
        (_set("keys", 0, "algorithm", to="EDDSA"), "keys[0].algorithm"),
        (_set("keys", 0, "public", to="-----BEGIN PUBLIC KEY-----"), "keys[0].public"),
        (_set("keys", 0, "public", to="钥"), "keys[0].public"),
        (_set("keys", 0, "state", to="active"), "keys[0].state"),
        (_set("keys", 0, "state", to=None), "keys[0].state"),
        (_set("keys", 0, "since", to=0), "keys[0].since"),
        (_set("keys", 0, "since", to="2026-02-30T00:00:00Z"), "keys[0].since"),
        (_set("keys", 0, "since", to="2026-02-01T00:00:00"), "keys[0].since"),
        (_set("keys", 0, "since", to="0001-01-01T00:00:00+14:00"), "keys[0].since"),
        (_set("keys", 0, "since", to="2026-W01-1T00:00:00Z"), "keys[0].since"),
        (_set("keys", 0, to="key"), "keys[0]"),
        (_set("keys", to={}), "keys"),
        (_set("keys", to=None), "keys"),
        (_set("province", to="999999"), "province"),
        (_set("province", to=510000), "province"),
        (_set("tls_ca", to=""), "tls_ca"),
        (_set("tls_ca", to="certificate"), "tls_ca"),
        (_set("tls_ca", to=CERTIFICATE + "-----BEGIN PRIVATE KEY-----"), "tls_ca"),
        (_set("addresses", to="node:1"), "addresses"),
        (_set("addresses", to=["node:1", ""]), "addresses[1]"),
        (_set("rules", to={}), "rules"),
        (_set("rules", 0, to="true"), "rules[0]"),
        (_set("rules", 0, "weight", to=0.5), "rules[0].weight"),
        (_set("rules", 0, "deep", to=_nested(40)), "rules[0]"),
        (_set("status_lists", to=[1]), "status_lists[0]"),
        (_set("status_lists", to=None), "status_lists"),
    ],
)
def test_a_bad_profile_is_refused_by_its_field(
    change: Callable[[dict[str, Any]], None], field: str
) -> None:
    value = good()
    change(value)

    with pytest.raises(TrustListError) as caught:
        Profile.from_json(value)

    assert caught.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_json_that_is_no_profile_is_refused(value: Any) -> None:
    with pytest.raises(TrustListError):
        Profile.from_json(value)


GOOD = good()


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_in_a_field_is_read_or_refused(field: str, value: Any) -> None:
    try:
        Profile.from_json(GOOD | {field: value})
    except TrustListError as error:
        assert error.field.startswith(field)  # noqa: PT017  either outcome is right


@pytest.mark.parametrize(
    ("state", "before", "at", "after"),
    [
        (KeyState.PREPARED, True, True, True),
        (KeyState.ACTIVE, True, True, True),
        (KeyState.OLD, True, False, False),
        (KeyState.TAINTED, True, False, False),
        (KeyState.REVOKED, False, False, False),
    ],
)
def test_a_key_verifies_as_its_state_says(
    state: KeyState, before: bool, at: bool, after: bool
) -> None:
    key = AttestationKey(PrivateKey.generate(Algorithm.ES256).public, state, NOW)
    second = timedelta(seconds=1)

    assert [key.verifies(time) for time in (NOW - second, NOW, NOW + second)] == [before, at, after]
    assert key.signs is (state is KeyState.ACTIVE)


# --- the ceremony ----------------------------------------------------------------------------


def test_a_renewed_list_lives_on(tmp_path: Path) -> None:
    exchange = Exchange.open(tmp_path, now=NOW - timedelta(days=6, hours=12))
    refused(exchange, "expired")

    exchange.renew()
    trust = exchange.load()

    assert trust.version == 2
    assert trust.expires == (NOW + roles.TIMESTAMP_LIFETIME).replace(microsecond=0)


def test_a_renewal_leaves_a_young_snapshot_alone(exchange: Exchange) -> None:
    renewed = ceremony.renew(exchange.current(), exchange.signers.online, now=NOW)

    assert list(renewed) == ["timestamp.json"]


def test_a_renewal_with_other_keys_is_refused(exchange: Exchange) -> None:
    with pytest.raises(TrustListError, match="not those of the root"):
        ceremony.renew(exchange.current(), Online(generate(), generate()), now=NOW)


def test_too_few_key_holders_are_refused() -> None:
    signers = Signers.generate([SICHUAN])
    one = signers.root[0]

    with pytest.raises(TrustListError, match="fewer than 2") as caught:
        ceremony.initialise([profile_for(SICHUAN)], replace(signers, root=(one, one, one)), now=NOW)

    assert caught.value.field == "signers.root"


def test_a_province_without_a_signer_is_refused() -> None:
    with pytest.raises(TrustListError, match="no signer"):
        ceremony.initialise([profile_for(SICHUAN)], Signers.generate([]), now=NOW)


def test_a_province_that_stands_twice_is_refused() -> None:
    profile = profile_for(SICHUAN)
    with pytest.raises(TrustListError, match="twice"):
        ceremony.initialise([profile, profile], Signers.generate([SICHUAN]), now=NOW)


def test_a_published_version_is_never_written_over(exchange: Exchange) -> None:
    with pytest.raises(TrustListError, match="already"):
        files.write(exchange.directory, {"1.root.json": b"{}"})

    exchange.load()


@pytest.mark.parametrize("passphrase", [None, b"a trial"])
def test_keys_survive_their_files(tmp_path: Path, passphrase: bytes | None) -> None:
    signers = Signers.generate([SICHUAN])
    signers.save(tmp_path / "keys", passphrase)

    paths = sorted((tmp_path / "keys").iterdir())
    read = Signers.load(tmp_path / "keys", [SICHUAN], passphrase)

    assert [path.name for path in paths] == [
        *("p510000.pem", "root-1.pem", "root-2.pem", "root-3.pem", "snapshot.pem"),
        *("targets-1.pem", "targets-2.pem", "targets-3.pem", "timestamp.pem"),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert all((b"ENCRYPTED" in path.read_bytes()) is bool(passphrase) for path in paths)
    assert [key.public_key for key in read.root] == [key.public_key for key in signers.root]
    assert read.online.timestamp.public_key == signers.online.timestamp.public_key


def test_an_ecdsa_key_serves_as_well(tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ecdsa()
    save_signer(tmp_path / "key.pem", signer)

    assert load_signer(tmp_path / "key.pem").public_key == signer.public_key


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    save_signer(tmp_path / "key.pem", generate())
    with pytest.raises(TrustListError, match="already"):
        save_signer(tmp_path / "key.pem", generate())


@pytest.mark.parametrize("passphrase", [None, b"wrong"])
def test_a_key_file_without_its_passphrase_is_refused(
    tmp_path: Path, passphrase: bytes | None
) -> None:
    save_signer(tmp_path / "key.pem", generate(), b"right")
    with pytest.raises(TrustListError, match="cannot be opened") as caught:
        load_signer(tmp_path / "key.pem", passphrase)

    assert "wrong" not in str(caught.value)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    save_signer(path, generate())
    path.chmod(0o644)
    with pytest.raises(TrustListError, match="others may read"):
        load_signer(path)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustListError, match="cannot be read"):
        load_signer(tmp_path / "key.pem")


def test_a_directory_without_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustListError, match="cannot be read"):
        files.read(tmp_path)
    with pytest.raises(TongxingError, match="missing"):
        refresh.load(tmp_path, Exchange.open(tmp_path / "other").root, tmp_path / "cache")
