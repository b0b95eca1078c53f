"""Attacks on the refresh path: what a mirror, or a thief of some keys, offers to who holds a list.

What is offered comes as files, to `LiveTrust.offer`; after each refusal, what was held before stays
held, and what its publisher rightly signs next is taken. The cases are those of tuf-conformance
(and of the older python-tuf tests that they came from), under our names:

=================================================  ============================================
theirs                                             here
=================================================  ============================================
test_basic_init_and_refresh                        test_a_list_is_taken_over_and_then_its_next
test_invalid_initial_root                          test_a_pinned_root_that_is_none_is_refused
test_unsigned_initial_root                         test_a_pinned_root_signed_by_nobody_is_refused
test_timestamp_content_changes                     test_a_timestamp_of_the_same_version_…
test_timestamp_eq_versions_check                   the same
test_custom_fields                                 test_fields_of_a_later_version_…
test_new_targets_hash_mismatch                     test_a_file_that_its_digest_does_not_name_…
test_new_snapshot_hash_mismatch                    the same
test_new_targets_version_mismatch                  test_a_file_of_another_version_than_named_…
test_new_snapshot_version_mismatch                 the same
test_new_{timestamp,snapshot,targets}_unsigned     test_a_role_signed_by_nobody_is_refused
test_{root,timestamp,snapshot,targets}_expired     test_an_expired_role_is_refused
test_new_snapshot_expired, …_targets_expired       the same
test_expired_metadata                              test_an_expired_list_is_still_held_against_…
test_delegated_targets_expired                     test_a_province_that_expired_fails_alone
test_expired_local_delegated_targets               test_a_province_that_expires_while_held_…
test_expired_local_delegated_targets_updates       the same
test_root_has_keys_but_not_snapshot                test_keys_that_did_not_sign_do_not_count
test_snapshot_threshold                            test_a_threshold_that_nobody_can_reach_…
test_duplicate_keys_root                           test_one_key_under_several_ids_counts_once
test_duplicate_sig_keyids                          test_a_signature_listed_twice_is_refused
test_wrong_keyid_with_correct_key                  test_a_key_under_an_id_of_another_…
test_wrong_hashing_algorithm                       test_fields_of_a_later_version_…
test_unusual_role_name                             test_a_role_of_an_unusual_name_is_refused
test_simple_snapshot_rollback                      test_a_snapshot_put_back_under_the_same_…
test_new_timestamp_version_rollback                test_a_timestamp_put_back_is_refused
test_new_timestamp_snapshot_rollback               test_a_timestamp_that_names_an_older_…
test_snapshot_rollback                             the same
test_new_snapshot_version_rollback                 test_a_snapshot_that_names_an_older_role_…
test_targets_rollback                              the same
test_new_{timestamp,snapshot,targets}_fast_…       test_a_fast_forward_is_recovered_from_by_…
test_root_rotation                                 test_a_root_is_followed_only_if_…
test_non_root_rotations                            test_a_role_is_taken_only_if_its_holders_…
test_max_root_rotations                            test_no_more_roots_than_a_bound_are_followed
test_new_root_{same,nonconsecutive}_version        test_a_root_out_of_turn_is_refused
test_intermediate_root_expired                     test_an_expired_root_on_the_way_is_followed
test_repository_substitutes_target_file            test_a_profile_put_in_anothers_place_is_refused
test_multiple_changes_to_target                    the same
test_graph_traversal, test_targetfile_search       tests/exchange/test_trust.py: provinces delegate
                                                   no further, so there is no graph to walk
test_implicit_refresh                              does not apply: nothing is read unrefreshed
test_client_downloads_expected_file[_in_sub_dir]   does not apply: profiles stand inline
test_static_repo                                   does not apply: other exchanges' repositories
=================================================  ============================================
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Root

from exchange.errors import TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.trust import ceremony, files, refresh, roles
from exchange.trust.files import TIMESTAMP, Bundle
from exchange.trust.live import LiveTrust
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Signers, generate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from securesystemslib.signer import Signer

GUANGDONG, SICHUAN = "440000", "510000"
NOW = datetime.now(UTC).replace(microsecond=0)
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
        rules=({"id": "r1", "when": "true", "reason": {"zh": "阴性", "en": "negative"}},),
    )


@dataclass
class Publisher:
    """Publishes whatever it is told to, by whichever keys."""

    holders: dict[str, Sequence[Signer]]
    made: dict[str, Metadata[Any]]
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def new(cls) -> Publisher:
        signers = Signers.generate((GUANGDONG, SICHUAN))
        profiles = [profile_for(code) for code in (GUANGDONG, SICHUAN)]
        made = ceremony.initialise(profiles, signers, now=NOW)
        holders: dict[str, Sequence[Signer]] = {
            "root": signers.root[:2],
            "targets": signers.targets[:2],
            "snapshot": [signers.online.snapshot],
            "timestamp": [signers.online.timestamp],
            **{f"p{code}": [signer] for code, signer in signers.provinces.items()},
        }
        names = {name.removesuffix(".json").rpartition(".")[2]: name for name in made}
        read = {role: Metadata.from_bytes(made[name]) for role, name in names.items()}
        return cls(holders, read, dict(made))

    def copy(self) -> Publisher:
        return Publisher(dict(self.holders), copy.deepcopy(self.made), dict(self.files))

    @property
    def root(self) -> Root:
        root: Root = self.signed("root")
        return root

    def signed(self, role: str) -> Any:
        return self.made[role].signed

    def sign(self, role: str, by: Sequence[Signer] | None = None) -> bytes:
        """Sign a role as it is, and put its file down."""
        metadata = self.made[role]
        metadata.signatures.clear()
        for signer in self.holders[role] if by is None else by:
            metadata.sign(signer, append=True)
        return self.put(role)

    def put(self, role: str) -> bytes:
        data = self.made[role].to_bytes()
        version = self.signed(role).version
        self.files[f"{version}.{role}.json" if role != "timestamp" else TIMESTAMP] = data
        return data

    def publish(self, *changed: str, by: Sequence[Signer] | None = None) -> dict[str, bytes]:
        """The next version of some roles, then snapshot and timestamp."""
        for role in changed:
            self.signed(role).version += 1
            data = self.sign(role, by)
            if role != "root":
                self.name(role, self.signed(role).version, data)
        return self.seal()

    def name(self, role: str, version: int, data: bytes) -> None:
        """Let the snapshot name a file."""
        meta = MetaFile.from_data(version, data, ["sha256"])
        self.signed("snapshot").meta[f"{role}.json"] = meta

    def seal(self) -> dict[str, bytes]:
        """The next snapshot and timestamp over it all."""
        self.signed("snapshot").version += 1
        self.sign("snapshot")
        return self.stamp()

    def stamp(self) -> dict[str, bytes]:
        """The next timestamp over the snapshot."""
        self.signed("timestamp").version += 1
        data = self.files[f"{self.signed('snapshot').version}.snapshot.json"]
        meta = MetaFile.from_data(self.signed("snapshot").version, data, ["sha256"])
        self.signed("timestamp").snapshot_meta = meta
        self.sign("timestamp")
        return self.files

    def rotate(self, *names: str) -> None:
        """A new root that names new keys for roles."""
        for role in names:
            new = [generate() for _ in self.holders[role]]
            for keyid in list(self.root.roles[role].keyids):
                self.root.revoke_key(keyid, role)
            for signer in new:
                self.root.add_key(signer.public_key, role)
            self.holders[role] = new
        self.root.version += 1
        self.sign("root")


@dataclass
class Reader:
    """Who holds the list, and is offered more."""

    live: LiveTrust

    async def takes(self, offered: files.Files) -> None:
        assert await self.live.offer(offered)

    async def refuses(self, offered: files.Files, words: str) -> None:
        held, versions = self.live(), self.live.versions
        with pytest.raises(TrustListError, match=words):
            await self.live.offer(offered)
        assert self.live() is held
        assert self.live.versions == versions

    async def ignores(self, offered: files.Files) -> None:
        held, versions = self.live(), self.live.versions
        assert not await self.live.offer(offered)
        assert self.live() is held
        assert self.live.versions == versions


@pytest.fixture
def publisher() -> Publisher:
    return Publisher.new()


@pytest.fixture
def reader(publisher: Publisher, tmp_path: Path) -> Reader:
    return Reader(LiveTrust(publisher.files, publisher.files["1.root.json"], tmp_path / "cache"))


# --- what is right ---------------------------------------------------------------------------


async def test_a_list_is_taken_over_and_then_its_next(publisher: Publisher, reader: Reader) -> None:
    await reader.ignores(publisher.files)
    await reader.takes(publisher.publish("targets", "p510000"))

    assert reader.live.versions == files.Versions(
        root=1, timestamp=2, snapshot=2, roles={"targets": 2, "p440000": 1, "p510000": 2}
    )


async def test_fields_of_a_later_version_are_signed_and_left_aside(
    publisher: Publisher, reader: Reader
) -> None:
    publisher.root.unrecognized_fields["later"] = "a"
    keyid = publisher.root.roles["snapshot"].keyids[0]
    publisher.root.keys[keyid].unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    publisher.root.roles["root"].unrecognized_fields["later"] = {"a": [1]}

    await reader.takes(publisher.publish("root"))

    assert reader.live().root_version == 2


async def test_an_expired_root_on_the_way_is_followed(publisher: Publisher, reader: Reader) -> None:
    expires, publisher.root.expires = publisher.root.expires, NOW - HOUR
    publisher.publish("root")
    publisher.root.expires = expires
    await reader.takes(publisher.publish("root"))

    assert reader.live().root_version == 3


# --- thresholds and signatures ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
async def test_a_role_signed_by_nobody_is_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    honest = publisher.copy()
    publisher.holders[role] = []

    await reader.refuses(publisher.publish("targets"), "too few")
    honest.publish("targets")  # whoever has the other online keys has used up these versions
    await reader.takes(honest.publish("p510000"))


@pytest.mark.parametrize("role", ["root", "targets"])
async def test_fewer_signatures_than_the_threshold_are_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    one = publisher.holders[role][:1]

    await reader.refuses(publisher.publish(role, by=one), "too few")


@pytest.mark.parametrize("role", ["root", "targets"])
async def test_a_revoked_admins_signature_does_not_count(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """Two of three sign, one of whom the root before has put out."""
    stays, goes = publisher.holders[role]
    publisher.root.revoke_key(goes.public_key.keyid, role)
    new = generate()
    publisher.root.add_key(new.public_key, role)
    before = publisher.holders["root"]
    signers = [*before, new] if role == "root" else before
    await reader.takes(publisher.publish("root", by=signers))
    publisher.holders["root"] = [before[0], new] if role == "root" else before
    honest = publisher.copy()

    await reader.refuses(publisher.publish(role, by=[stays, goes]), "too few")
    honest.publish(role, by=[stays, new])
    await reader.takes(honest.publish("p510000"))


async def test_a_signature_listed_twice_is_refused(publisher: Publisher, reader: Reader) -> None:
    publisher.publish("targets", by=publisher.holders["targets"][:1])
    (signature,) = publisher.made["targets"].to_dict()["signatures"]
    whole = publisher.made["targets"].to_dict() | {"signatures": [signature, signature]}
    data = json.dumps(whole).encode()
    publisher.files["2.targets.json"] = data
    publisher.name("targets", 2, data)

    await reader.refuses(publisher.seal(), "not TUF metadata")


async def test_one_key_under_several_ids_counts_once(publisher: Publisher, reader: Reader) -> None:
    """One holder who gives the key again under other ids is one holder."""
    one = publisher.holders["targets"][0]
    for number in range(5):
        again = copy.deepcopy(one.public_key)
        again.keyid = f"{number:064x}"
        publisher.root.keys[again.keyid] = again
        publisher.root.roles["targets"].keyids.append(again.keyid)
    publisher.publish("root")
    publisher.publish("targets", by=[one])
    signature = publisher.made["targets"].signatures[one.public_key.keyid]
    for number in range(5):
        twin = copy.deepcopy(signature)
        twin.keyid = f"{number:064x}"
        publisher.made["targets"].signatures[twin.keyid] = twin
    publisher.name("targets", 2, publisher.put("targets"))

    await reader.refuses(publisher.seal(), "not the id of the key|one key stands twice")


async def test_a_key_under_an_id_of_another_signs_nothing_for_it(
    publisher: Publisher, reader: Reader
) -> None:
    """A stranger's signature that bears a holder's key id."""
    publisher.publish("targets", by=[publisher.holders["targets"][0], stranger := generate()])
    metadata = publisher.made["targets"]
    signature = metadata.signatures.pop(stranger.public_key.keyid)
    signature.keyid = publisher.holders["targets"][1].public_key.keyid
    metadata.signatures[signature.keyid] = signature
    publisher.name("targets", 2, publisher.put("targets"))

    await reader.refuses(publisher.seal(), "too few")


async def test_keys_that_did_not_sign_do_not_count(publisher: Publisher, reader: Reader) -> None:
    """The root names five snapshot keys and demands three; one has signed."""
    for _ in range(4):
        publisher.root.add_key(generate().public_key, "snapshot")
    publisher.root.roles["snapshot"].threshold = 3

    await reader.refuses(publisher.publish("root"), "too few")


async def test_a_threshold_that_nobody_can_reach_is_not_reached(
    publisher: Publisher, reader: Reader
) -> None:
    publisher.root.roles["snapshot"].threshold = 6

    await reader.refuses(publisher.publish("root"), "too few")


@pytest.mark.parametrize(
    ("role", "by"),
    [
        ("targets", "root"),
        ("snapshot", "targets"),
        ("timestamp", "snapshot"),
        ("root", "targets"),
        ("snapshot", "timestamp"),
        ("p510000", "p440000"),
    ],
)
async def test_the_holders_of_one_role_cannot_sign_another(
    publisher: Publisher, reader: Reader, role: str, by: str
) -> None:
    publisher.holders[role] = publisher.holders[by]
    offered = publisher.publish("targets", *({role} & {"root", "p510000"}))
    if role == "p510000":
        await reader.takes(offered)
        assert "too few" in reader.live().unusable[SICHUAN]
        assert set(reader.live().profiles) == {GUANGDONG}
    else:
        await reader.refuses(offered, "too few")


# --- the rotation of keys --------------------------------------------------------------------

# Of each version of the root: its keys, its threshold, and who signs it.
ROOTS: dict[str, tuple[bool, list[tuple[list[int], int, list[int]]]]] = {
    "1 of 1, rotated": (True, [([1], 1, [1]), ([2], 1, [2, 1]), ([2], 1, [2])]),
    "1 of 1, rotated, with more signatures": (
        True,
        [([1], 1, [3, 1, 4]), ([2], 1, [3, 2, 1, 4]), ([2], 1, [3, 2, 4])],
    ),
    "3 of 5, by others each time": (
        True,
        [([0, 1, 2, 3, 4], 3, each) for each in ([0, 2, 4], [0, 4, 1], [0, 1, 3], [0, 1, 3])],
    ),
    "3 of 5, one rotated": (
        True,
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 1])],
    ),
    "3 of 5, one rotated in steps": (
        True,
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([0, 1, 3, 4, 5], 3, [0, 2, 4, 5]),
            ([0, 1, 3, 4, 5], 3, [0, 4, 5]),
        ],
    ),
    "3 of 5, all rotated": (
        True,
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]),
            ([5, 6, 7, 8, 9], 3, [5, 6, 7]),
        ],
    ),
    "threshold raised": (True, [([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1, 2])]),
    "threshold lowered": (
        True,
        [([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1, 2]), ([1, 2, 3], 1, [1])],
    ),
    "threshold raised with a new key": (True, [([1], 1, [1]), ([1, 2], 2, [1, 2])]),
    "not signed by the old key": (False, [([1], 1, [1]), ([2], 1, [2, 3, 4])]),
    "not signed by the new key": (False, [([1], 1, [1]), ([2], 1, [1, 3, 4])]),
    "too few of the new keys": (
        False,
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 2, 4])],
    ),
    "too few of the old keys": (
        False,
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 5])],
    ),
    "the raised threshold is not reached": (
        False,
        [([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [2])],
    ),
    "the threshold before is not reached": (
        False,
        [([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1])],
    ),
}


@pytest.mark.parametrize("case", ROOTS)
async def test_a_root_is_followed_only_if_those_before_and_its_own_sign_it(
    publisher: Publisher, tmp_path: Path, case: str
) -> None:
    right, versions = ROOTS[case]
    keys = [generate() for _ in range(10)]
    reader: Reader | None = None
    for number, (named, threshold, by) in enumerate(versions, 1):
        publisher.root.version = number
        publisher.root.roles["root"].keyids = []
        publisher.root.roles["root"].threshold = threshold
        for each in named:
            publisher.root.add_key(keys[each].public_key, "root")
        publisher.sign("root", [keys[each] for each in by])
        if reader is None:
            pinned = publisher.files["1.root.json"]
            reader = Reader(LiveTrust(publisher.files, pinned, tmp_path))
        elif right or number < len(versions):
            await reader.takes(publisher.stamp())
            assert reader.live().root_version == number
        else:
            await reader.refuses(publisher.stamp(), "too few")


# Of a role: its keys, its threshold, and who signs it.
ROLES: dict[str, tuple[bool, list[int], int, list[int]]] = {
    "1 of 1, rotated": (True, [2], 1, [2]),
    "1 of 1, with more signatures": (True, [1], 1, [3, 1, 4]),
    "not signed by the new key": (False, [2], 1, [1, 3, 4]),
    "one of three is a stranger": (False, [0, 1, 3, 4, 5], 3, [0, 2, 4]),
    "two of three": (False, [0, 1, 3, 4, 5], 3, [0, 4]),
    "3 of 5: 0 2 4": (True, [0, 1, 2, 3, 4], 3, [0, 2, 4]),
    "3 of 5: 0 4 1": (True, [0, 1, 2, 3, 4], 3, [0, 4, 1]),
    "3 of 5: 0 1 3": (True, [0, 1, 2, 3, 4], 3, [0, 1, 3]),
    "3 of 5: 1 2 3": (True, [0, 1, 2, 3, 4], 3, [1, 2, 3]),
    "3 of 5: 2 3 4": (True, [0, 1, 2, 3, 4], 3, [2, 3, 4]),
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("case", ROLES)
async def test_a_role_is_taken_only_if_its_holders_sign_it(
    publisher: Publisher, reader: Reader, case: str, role: str
) -> None:
    right, named, threshold, by = ROLES[case]
    keys = [generate() for _ in range(6)]
    for keyid in list(publisher.root.roles[role].keyids):
        publisher.root.revoke_key(keyid, role)
    for each in named:
        publisher.root.add_key(keys[each].public_key, role)
    publisher.root.roles[role].threshold = threshold
    publisher.holders[role] = [keys[each] for each in by]
    publisher.root.version += 1
    publisher.sign("root")
    offered = publisher.publish("targets")
    if right:
        await reader.takes(offered)
    else:
        await reader.refuses(offered, "too few")


@pytest.mark.parametrize("step", [0, 2])
async def test_a_root_out_of_turn_is_refused(
    publisher: Publisher, reader: Reader, step: int
) -> None:
    """Under the name of the next root, one of another version."""
    publisher.root.version += step
    publisher.files["2.root.json"] = publisher.sign("root")
    if step:
        publisher.files.pop("3.root.json")
    publisher.root.version = 1

    await reader.refuses(publisher.stamp(), "version")


async def test_no_more_roots_than_a_bound_are_followed(
    publisher: Publisher, tmp_path: Path
) -> None:
    """An endless chain of roots ends the reading, not the reader."""
    for _ in range(300):
        publisher.root.version += 1
        publisher.sign("root")
    publisher.stamp()

    trust, bundle = refresh.verify(publisher.files, publisher.files["1.root.json"], tmp_path)

    assert trust.root_version == bundle.versions.root == 257
    assert sum(name.endswith(".root.json") for name in bundle.files) == 257


# --- rollback --------------------------------------------------------------------------------


async def test_a_timestamp_put_back_is_refused(publisher: Publisher, reader: Reader) -> None:
    before = dict(publisher.files)
    await reader.takes(publisher.stamp())

    await reader.refuses({TIMESTAMP: before[TIMESTAMP]}, "older than one already seen")
    await reader.takes(publisher.stamp())


async def test_a_whole_list_put_back_is_refused(publisher: Publisher, reader: Reader) -> None:
    """Every file is rightly signed, and was the newest once."""
    before = dict(publisher.files)
    publisher.publish("p510000")
    await reader.takes(publisher.publish("root", "targets"))

    await reader.refuses(before, "older than one already seen")


async def test_a_root_put_back_is_refused(publisher: Publisher, reader: Reader) -> None:
    """Its keys before the rotation are worth nothing any more."""
    before = publisher.copy()
    publisher.rotate("root", "targets", "snapshot", "timestamp")
    publisher.sign("root", [*before.holders["root"], *publisher.holders["root"]])
    await reader.takes(publisher.publish("targets"))
    before.publish("targets")
    await reader.refuses(before.publish("targets"), "too few")

    assert reader.live().root_version == 2


@pytest.mark.parametrize("thief", ["timestamp", "snapshot and timestamp"])
async def test_a_timestamp_that_names_an_older_snapshot_is_refused(
    publisher: Publisher, reader: Reader, thief: str
) -> None:
    before = publisher.copy()
    await reader.takes(publisher.publish("p510000"))
    publisher.made["snapshot"] = before.made["snapshot"]
    if thief != "timestamp":
        publisher.sign("snapshot")

    await reader.refuses(publisher.stamp(), "older than one already seen")


@pytest.mark.parametrize("role", ["targets", "p510000"])
async def test_a_snapshot_that_names_an_older_role_is_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """The online keys are stolen, the role's own are not."""
    before = publisher.files[f"1.{role}.json"]
    await reader.takes(publisher.publish(role))
    publisher.name(role, 1, before)

    await reader.refuses(publisher.seal(), "older than one already seen")


async def test_a_snapshot_put_back_under_the_same_timestamp_is_not_read(
    publisher: Publisher, reader: Reader
) -> None:
    before = publisher.files["1.snapshot.json"]
    await reader.takes(publisher.publish("targets"))

    await reader.ignores({"1.snapshot.json": before})
    await reader.refuses({"2.snapshot.json": before}, "not the file that the list names")


async def test_a_province_left_out_of_the_snapshot_is_refused(
    publisher: Publisher, reader: Reader
) -> None:
    publisher.signed("snapshot").meta.pop("p510000.json")

    await reader.refuses(publisher.seal(), "contradicts itself")


# --- freeze ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
async def test_an_expired_role_is_refused(publisher: Publisher, reader: Reader, role: str) -> None:
    publisher.signed(role).expires = NOW - HOUR
    changed = {role} & {"root", "targets"}

    await reader.refuses(publisher.publish(*changed), f"expired.*{role}")


async def test_who_offers_the_same_list_for_ever_gains_nothing(
    publisher: Publisher, reader: Reader
) -> None:
    """A freeze: nothing new is news, and the list held says when it ends."""
    for _ in range(3):
        await reader.ignores(publisher.files)

    assert reader.live().expires == publisher.signed("timestamp").expires


async def test_an_expired_list_is_still_held_against_one_put_back(
    publisher: Publisher, tmp_path: Path
) -> None:
    """What has expired verifies nothing, and still tells what is older."""
    before = dict(publisher.files)
    publisher.signed("timestamp").expires = datetime.now(UTC) + timedelta(seconds=1)
    publisher.publish("p510000")
    live = LiveTrust(publisher.files, before["1.root.json"], tmp_path)
    await until_past(live().expires)

    await Reader(live).refuses(before, "older than one already seen")
    publisher.signed("timestamp").expires = NOW + HOUR
    await Reader(live).takes(publisher.stamp())


async def until_past(time: datetime) -> None:
    await asyncio.sleep(max(0.0, (time - datetime.now(UTC)).total_seconds()) + 0.1)
    assert datetime.now(UTC) > time


async def test_a_province_that_expired_fails_alone(publisher: Publisher, reader: Reader) -> None:
    publisher.signed("p510000").expires = NOW - HOUR
    await reader.takes(publisher.publish("p510000"))

    assert set(reader.live().profiles) == {GUANGDONG}
    assert "expired" in reader.live().unusable[SICHUAN]


async def test_a_province_that_expires_while_held_fails_alone_until_its_next(
    publisher: Publisher, reader: Reader
) -> None:
    publisher.signed("p510000").expires = expires = datetime.now(UTC).replace(
        microsecond=0
    ) + timedelta(seconds=1)
    await reader.takes(publisher.publish("p510000"))
    await until_past(expires)
    await reader.takes(publisher.stamp())
    assert set(reader.live().unusable) == {SICHUAN}
    publisher.signed("p510000").expires = NOW + HOUR
    await reader.takes(publisher.publish("p510000"))

    assert reader.live().unusable == {}


# --- mix and match ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets", "p510000"])
async def test_files_of_two_versions_are_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """Each is rightly signed; one is of the version before, under the name of the next."""
    before = dict(publisher.files)
    honest = publisher.publish("targets", "p510000")

    await reader.refuses({**honest, f"2.{role}.json": before[f"1.{role}.json"]}, "not the file")
    await reader.takes(honest)


@pytest.mark.parametrize("role", ["snapshot", "targets", "p440000"])
async def test_a_file_that_its_digest_does_not_name_is_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """A mirror without any key spoils one file: it takes no province out of the list."""
    honest = publisher.publish("targets", "p440000")

    await reader.refuses({**honest, f"2.{role}.json": b"{}"}, "not the file|not TUF metadata")
    await reader.takes(honest)
    assert reader.live().unusable == {}


@pytest.mark.parametrize("role", ["snapshot", "targets", "p440000"])
async def test_a_file_left_out_is_refused(publisher: Publisher, reader: Reader, role: str) -> None:
    honest = publisher.publish("targets", "p440000")
    short = {name: data for name, data in honest.items() if name != f"2.{role}.json"}

    await reader.refuses(short, "missing")
    await reader.takes(honest)


@pytest.mark.parametrize("role", ["snapshot", "targets", "p510000"])
async def test_a_file_of_another_version_than_named_is_refused(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """The online keys name version 3 of what says that it is version 2."""
    publisher.publish("targets", "p510000")
    if role == "snapshot":
        data = publisher.files["2.snapshot.json"]
        publisher.files["3.snapshot.json"] = data
        publisher.signed("timestamp").snapshot_meta = MetaFile.from_data(3, data, ["sha256"])
        publisher.signed("timestamp").version += 1
        publisher.sign("timestamp")
    else:
        data = publisher.files[f"2.{role}.json"]
        publisher.files[f"3.{role}.json"] = data
        publisher.name(role, 3, data)
        publisher.seal()
    if role == "p510000":
        await reader.takes(publisher.files)
        assert "version" in reader.live().unusable[SICHUAN]
    else:
        await reader.refuses(publisher.files, "version")


async def test_a_timestamp_of_the_same_version_and_other_content_changes_nothing(
    publisher: Publisher, reader: Reader
) -> None:
    """A thief of the timestamp key names roles of versions far ahead: nobody shall ask for less."""
    thief = publisher.copy()
    data = thief.files["999.p510000.json"] = thief.files["1.p510000.json"]
    thief.name("p510000", 999, data)
    thief.signed("timestamp").version -= 1
    await reader.ignores(thief.seal())

    await reader.takes(publisher.publish("p510000"))


async def test_another_exchanges_list_is_refused(publisher: Publisher, reader: Reader) -> None:
    other = Publisher.new()
    other.publish("targets")

    await reader.refuses(other.publish("targets"), "too few")
    await reader.takes(publisher.publish("targets"))


# --- fast-forward ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "p510000"])
async def test_a_fast_forward_is_recovered_from_by_new_online_keys(
    publisher: Publisher, reader: Reader, role: str
) -> None:
    """A thief of the online keys moves versions far ahead, so that nothing honest is newer."""
    thief = publisher.copy()
    if role in ("timestamp", "snapshot"):
        thief.signed(role).version = 10**9
        thief.seal()
    else:
        data = thief.files[f"1.{role}.json"]
        thief.files[f"{10**9}.{role}.json"] = data
        thief.name(role, 10**9, data)
        thief.seal()
    if role == "targets":
        await reader.refuses(thief.files, "version")
    else:
        await reader.takes(thief.files)
        with suppress(TrustListError):
            assert not await reader.live.offer(publisher.copy().publish(role)), "rolled back"
    publisher.rotate("snapshot", "timestamp")
    await reader.takes(publisher.publish("targets", "p510000"))

    assert set(reader.live().profiles) == {GUANGDONG, SICHUAN}
    assert reader.live.versions == Bundle.of(publisher.files).versions


@pytest.mark.parametrize("version", [10**10, 2**64, 10**300])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "p510000", "p999999"])
async def test_a_version_that_cannot_be_asked_for_is_refused(
    publisher: Publisher, reader: Reader, role: str, version: int
) -> None:
    """It would leave the reader unable to say what it holds, and so to hear of the recovery."""
    honest = publisher.copy()
    if role in ("timestamp", "snapshot"):
        publisher.signed(role).version = version
        publisher.seal()
    else:
        publisher.name(role, version, b"")
        publisher.seal()

    await reader.refuses(publisher.files, "no exchange has|no file of a trust list")
    await reader.takes(honest.publish("targets"))


async def test_a_snapshot_that_names_thousands_of_roles_is_refused(
    publisher: Publisher, reader: Reader
) -> None:
    for number in range(600):
        publisher.signed("snapshot").meta[f"p{number:06}.json"] = MetaFile(1)

    await reader.refuses(publisher.seal(), "no exchange has")


# --- one province, and another ---------------------------------------------------------------


async def test_a_province_cannot_sign_for_another(publisher: Publisher, reader: Reader) -> None:
    publisher.holders["p510000"] = publisher.holders["p440000"]
    await reader.takes(publisher.publish("p510000"))

    assert "too few" in reader.live().unusable[SICHUAN]
    assert set(reader.live().profiles) == {GUANGDONG}


async def test_a_profile_put_in_anothers_place_is_refused(
    publisher: Publisher, reader: Reader
) -> None:
    """Sichuan's file under Guangdong's name, by whoever holds the online keys."""
    data = publisher.files["1.p510000.json"]
    publisher.files["2.p440000.json"] = data
    publisher.name("p440000", 2, data)
    await reader.takes(publisher.seal())

    assert set(reader.live().profiles) == {SICHUAN}
    assert "too few" in reader.live().unusable[GUANGDONG]


async def test_a_profile_that_its_digest_does_not_name_fails_alone(
    publisher: Publisher, reader: Reader
) -> None:
    target = publisher.signed("p510000").targets[roles.target_path(SICHUAN)]
    target.custom["addresses"] = ["elsewhere.example:1"]
    await reader.takes(publisher.publish("p510000"))

    assert "digest" in reader.live().unusable[SICHUAN]
    assert set(reader.live().profiles) == {GUANGDONG}


@pytest.mark.parametrize("name", ["?", "#", "/p440000", "../p440000", "p440000x"])
async def test_a_role_of_an_unusual_name_is_refused(
    publisher: Publisher, reader: Reader, name: str
) -> None:
    honest = publisher.copy()
    delegations = publisher.signed("targets").delegations
    keyids = delegations.roles["p440000"].keyids
    delegations.roles[name] = DelegatedRole(name, keyids, 1, terminating=True, paths=["*"])
    publisher.publish("targets")
    publisher.name(name, 1, publisher.files["1.p440000.json"])

    await reader.refuses(publisher.seal(), "delegates|no exchange has")
    await reader.takes(honest.publish("targets"))


# --- what is too much ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (TIMESTAMP, 16 * 1024),
        ("2.snapshot.json", 128 * 1024),
        ("2.root.json", 256 * 1024),
        ("2.targets.json", 1024 * 1024),
        ("2.p510000.json", 1024 * 1024),
    ],
)
async def test_a_file_too_large_is_refused_unread(
    publisher: Publisher, reader: Reader, name: str, size: int
) -> None:
    honest = publisher.publish("root", "targets", "p510000")

    await reader.refuses({**honest, name: honest[name].ljust(size + 1)}, f"more than {size} bytes")
    await reader.takes(honest)


async def test_too_many_files_are_refused_unread(publisher: Publisher, reader: Reader) -> None:
    many = {f"{number}.root.json": b"{}" for number in range(1, 10_001)}

    await reader.refuses(many, "more than 400 files")
    await reader.takes(publisher.stamp())


HOSTILE = [
    "",
    ".",
    "..",
    "/etc/1.root.json",
    "../../x.root.json",
    "../1.root.json",
    "1.root.json/../../x",
    "0.root.json",
    "01.root.json",
    "-1.root.json",
    "10000000000.root.json",
    "٢.root.json",
    "2.root.json\n",
    "2.root.json\0",
    "2.ROOT.json",
    "2.timestamp.json",
    "root.json",
    "snapshot.json",
    "2.p51000.json",
    "2.p５１００００.json",
    "2.registry.json",
    ".lock",
    "9" * 5000 + ".root.json",
]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_foreign_name_is_refused_and_not_written(
    publisher: Publisher, reader: Reader, tmp_path: Path, name: str
) -> None:
    honest = dict(publisher.stamp())
    before = contents(tmp_path)

    await reader.refuses({**honest, name: b"{}"}, "no file of a trust list is named so")
    for put in (files.write, files.mirror):
        with pytest.raises(TrustListError, match="named so"):
            put(tmp_path / "list", {**honest, name: b"{}"})
    assert contents(tmp_path) == before
    await reader.takes(honest)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


async def test_a_root_that_nobody_signed_is_not_held(publisher: Publisher, reader: Reader) -> None:
    """To hold it would be to ask for no root before it, and to pass it on."""
    junk = {"99.root.json": publisher.files["1.root.json"], "1.root.json": b"{}"}
    await reader.ignores(junk)
    await reader.takes({**publisher.stamp(), **junk})
    assert reader.live.versions.root == 1
    publisher.rotate("timestamp")
    await reader.takes(publisher.stamp())

    assert reader.live.versions.root == reader.live().root_version == 2


async def test_who_starts_anew_goes_on_from_what_was_held(
    publisher: Publisher, reader: Reader, tmp_path: Path
) -> None:
    installed = dict(publisher.files)
    await reader.takes(publisher.publish("p510000"))

    again = LiveTrust(reader.live.files, installed["1.root.json"], tmp_path / "cache")

    assert (again(), again.versions) == (reader.live(), reader.live.versions)
    with pytest.raises(TrustListError, match="older than one already seen"):
        LiveTrust(installed, installed["1.root.json"], tmp_path / "cache")


def test_only_what_verified_is_given_back(publisher: Publisher, tmp_path: Path) -> None:
    publisher.rotate("snapshot", "timestamp")
    good = dict(publisher.publish("p510000"))
    pinned = good["1.root.json"]
    refresh.verify(good, pinned, tmp_path)
    junk = {"2.root.json": b"{}", "7.root.json": b"{}", "9.p510000.json": b"{}"}

    _, bundle = refresh.verify({**good, **junk}, pinned, tmp_path)

    assert bundle.files == Bundle.of(good).files


def test_a_mirror_holds_what_it_is_given_and_nothing_else(
    publisher: Publisher, tmp_path: Path
) -> None:
    """A version that a thief of the online keys has used is written over; what is left is not."""
    first = dict(publisher.files)
    files.mirror(tmp_path, {**first, "2.p510000.json": b"the thief's"})
    second = dict(Bundle.of(publisher.publish("p510000")).files)
    files.mirror(tmp_path, second)

    assert contents(tmp_path) == second
    assert files.read(tmp_path) == second


@pytest.mark.parametrize("root", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_pinned_root_that_is_none_is_refused(
    publisher: Publisher, tmp_path: Path, root: bytes
) -> None:
    with pytest.raises(TrustListError, match="not TUF metadata"):
        LiveTrust(publisher.files, root, tmp_path)


def test_a_pinned_root_signed_by_nobody_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(TrustListError, match="too few"):
        LiveTrust(publisher.files, publisher.sign("root", []), tmp_path)


# --- anything at all -------------------------------------------------------------------------

NAMES = st.sampled_from(
    [TIMESTAMP, *(f"2.{role}.json" for role in ("root", "targets", "snapshot", "p510000"))]
)


def spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly, or not at all, what was signed."""
    places = st.integers(0, len(good) - 1)
    return st.one_of(
        st.binary(max_size=64),
        places.map(lambda at: good[:at]),
        st.tuples(places, st.binary(min_size=1, max_size=3)).map(
            lambda change: good[: change[0]] + change[1] + good[change[0] + 1 :]
        ),
        st.sampled_from([b"[" * 50_000, b'{"a":' * 50_000, b"9" * 10_000, b'"\\ud800"', b"NaN"]),
    )


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_offered_the_list_stays_or_is_the_publishers(
    publisher: Publisher, tmp_path: Path, data: st.DataObject
) -> None:
    ours = publisher.copy()
    live = LiveTrust(ours.files, ours.files["1.root.json"], tmp_path / os.urandom(8).hex())
    held = live()
    good = dict(ours.publish("root", "targets", "p510000"))
    name = data.draw(NAMES)
    offered = {**good, name: data.draw(spoilt(good[name]))}

    with suppress(TrustListError):
        asyncio.run(live.offer(offered))

    assert live() is held or live().version == 2
    assert live().unusable == {}
