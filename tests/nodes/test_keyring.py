"""The node's private keys: what signs, how they lie on disk, and what is refused."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from exchange.errors import InvalidFieldError, TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList
from nodes.identity import make_authority
from nodes.keyring import Keyring

PROVINCE = "510000"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority():
    return make_authority(PROVINCE, now=NOW, lifetime=HOUR).certificate.decode()


@pytest.fixture
def trust(authority):
    """Makes a trust list of this province's keys and their states."""

    def make(*keys, province=PROVINCE):
        held = [
            AttestationKey(public, state, NOW - at * HOUR)
            for at, (public, state) in enumerate(keys)
        ]
        profile = Profile(province, tuple(held), authority, ())
        return TrustList(1, 1, NOW + HOUR, {province: profile}, {})

    return make


@pytest.fixture
def configured():
    return PrivateKey.generate(Algorithm.ES256)


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "data" / "keys"


@pytest.fixture
def ring(keys, configured):
    return Keyring(PROVINCE, keys, configured)


@pytest.mark.parametrize("algorithm", Algorithm)
async def test_a_new_key_signs_once_it_is_active(ring, trust, configured, algorithm):
    new = await ring.generate(algorithm)
    before = trust((configured.public, KeyState.ACTIVE), (new, KeyState.PREPARED))
    assert ring.signer(before).public == configured.public
    after = trust((configured.public, KeyState.OLD), (new, KeyState.ACTIVE))
    signer = ring.signer(after)
    assert signer.public == new
    new.verify(signer.sign(b"words"), b"words")
    assert ring.signer(after) is signer
    assert ring.signer(before).public == configured.public


async def test_a_new_key_lies_on_disk_for_its_owner_alone(ring, keys, trust, configured):
    new = await ring.generate(Algorithm.ES256)
    assert [path.name for path in keys.iterdir()] == [f"{new.kid.hex()}.pem"]
    (path,) = keys.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    again = Keyring(PROVINCE, keys, configured)
    assert again.holds(new)
    assert again.signer(trust((new, KeyState.ACTIVE))).public == new


async def test_a_key_that_another_process_made_signs_here_as_soon_as_it_is_active(
    ring, keys, trust, configured
):
    other = Keyring(PROVINCE, keys, configured)
    new, newer = [await other.generate(Algorithm.ES256) for _ in range(2)]
    assert ring.holds(new)
    after = trust((new, KeyState.ACTIVE), (configured.public, KeyState.ACTIVE))
    assert ring.signer(after).public == new
    # The newest of several signs, though an older one is at hand.
    after = trust((newer, KeyState.ACTIVE), (new, KeyState.ACTIVE))
    assert ring.signer(after).public == newer


async def test_a_new_key_is_encrypted_where_the_configured_one_is(keys, configured):
    ring = Keyring(PROVINCE, keys, configured, b"a passphrase")
    new = await ring.generate(Algorithm.ES256)
    (path,) = keys.iterdir()
    assert b"ENCRYPTED" in path.read_bytes()
    assert Keyring(PROVINCE, keys, configured, b"a passphrase").holds(new)
    for wrong in (b"another", None):
        with pytest.raises(InvalidFieldError) as refused:
            Keyring(PROVINCE, keys, configured, wrong)
        assert refused.value.field == "signing.passphrase_file"


async def test_a_key_whose_file_cannot_be_written_does_not_exist(ring, keys):
    keys.rmdir()
    keys.write_bytes(b"")
    with pytest.raises(InvalidFieldError) as refused:
        await ring.generate(Algorithm.ES256)
    assert refused.value.field == "data"


def test_what_broke_off_while_a_key_was_written_is_no_key(keys, configured):
    keys.mkdir(parents=True)
    (keys / "0123456789abcdef.part").write_bytes(configured.to_pem()[:100])
    Keyring(PROVINCE, keys, configured)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, configured):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidFieldError) as refused:
        Keyring(PROVINCE, tmp_path / "file" / "keys", configured)
    assert refused.value.field == "data"


async def test_a_key_that_others_may_read_is_refused(ring, keys, configured):
    await ring.generate(Algorithm.ES256)
    (path,) = keys.iterdir()
    path.chmod(0o640)
    with pytest.raises(InvalidFieldError, match="others may read"):
        Keyring(PROVINCE, keys, configured)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
async def test_a_key_that_the_node_may_not_read_is_refused(ring, keys, configured):
    await ring.generate(Algorithm.ES256)
    (path,) = keys.iterdir()
    path.chmod(0)
    with pytest.raises(InvalidFieldError):
        Keyring(PROVINCE, keys, configured)


def test_a_file_that_is_no_key_is_refused(keys, configured):
    keys.mkdir(parents=True)
    (keys / "0123456789abcdef.pem").touch(0o600)
    with pytest.raises(InvalidFieldError, match="not a readable private key"):
        Keyring(PROVINCE, keys, configured)


@pytest.mark.parametrize("state", [s for s in KeyState if s is not KeyState.ACTIVE])
def test_a_key_that_is_not_active_signs_nothing(ring, trust, configured, state):
    with pytest.raises(TrustListError, match="is ACTIVE"):
        ring.signer(trust((configured.public, state)))


def test_a_key_that_the_list_does_not_hold_signs_nothing(ring, trust):
    other = PrivateKey.generate(Algorithm.ES256).public
    for foreign in (trust((other, KeyState.ACTIVE)), trust()):
        with pytest.raises(TrustListError):
            ring.signer(foreign)


def test_a_key_that_is_another_provinces_signs_nothing(ring, trust, configured):
    with pytest.raises(TrustListError):
        ring.signer(trust((configured.public, KeyState.ACTIVE), province="440000"))


def test_the_newest_of_two_active_keys_signs(ring, trust, keys, configured):
    brought = PrivateKey.generate(Algorithm.ES256)
    both = trust((brought.public, KeyState.ACTIVE), (configured.public, KeyState.ACTIVE))
    assert ring.signer(both).public == configured.public
    _bring(keys, brought)
    assert Keyring(PROVINCE, keys, configured).signer(both).public == brought.public


def test_a_key_that_is_brought_signs_without_a_restart(ring, trust, keys, configured):
    brought = PrivateKey.generate(Algorithm.ES256)
    after = trust((configured.public, KeyState.OLD), (brought.public, KeyState.ACTIVE))
    with pytest.raises(TrustListError):
        ring.signer(after)
    _bring(keys, brought)
    assert ring.signer(after).public == brought.public


def test_a_bad_file_beside_it_does_not_stop_a_running_node(ring, trust, keys, configured):
    (keys / "0000.pem").touch(0o600)
    with pytest.raises(TrustListError):
        ring.signer(trust((configured.public, KeyState.OLD)))
    assert ring.signer(trust((configured.public, KeyState.ACTIVE))).public == configured.public


def test_a_list_that_replaces_another_is_looked_at_anew(ring, trust, configured):
    """The choice is remembered for one list only: what is revoked in the next signs no more."""
    active = trust((configured.public, KeyState.ACTIVE))
    ring.signer(active)
    profile = active.profile(PROVINCE)
    (key,) = profile.keys
    revoked = replace(profile, keys=(replace(key, state=KeyState.REVOKED),))
    with pytest.raises(TrustListError):
        ring.signer(replace(active, profiles={PROVINCE: revoked}))


def test_no_secret_is_in_an_error_or_a_repr(ring, keys, configured):
    keys.joinpath("0000.pem").touch(0o600)
    with pytest.raises(InvalidFieldError) as refused:
        Keyring(PROVINCE, keys, configured, b"a passphrase")
    assert "a passphrase" not in str(refused.value)
    assert "PRIVATE" not in repr(ring)


def _bring(keys, key):
    path = keys / f"{key.public.kid.hex()}.pem"
    path.touch(0o600)
    path.write_bytes(key.to_pem())
