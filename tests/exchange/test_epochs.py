from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey
from tuf.api.metadata import Metadata, MetaFile, Targets
from tuf.api.serialization.json import JSONSerializer

from exchange.attestations import LIFE
from exchange.errors import InvalidFieldError, TrustListError
from exchange.keys import Algorithm, PrivateKey
from exchange.subjects import EpochKey
from exchange.trust import ceremony, files, refresh, roles
from exchange.trust.epochs import (
    EPOCH_LIFE,
    Sealed,
    SubjectEpoch,
    SubjectEpochs,
    epochs_of,
    seal,
    unseal,
    unseal_all,
    with_epoch,
    with_recipient,
)
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.sealkeys import SealKey, SealPrivateKey
from exchange.trust.signers import Signers

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
KEY = EpochKey(7, bytes(range(32)))
MINE = SealPrivateKey.generate()
SEALED = seal(KEY, SICHUAN, MINE.public)


def _certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + DAY)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CERTIFICATE = _certificate()


def profile_of(province, *seal_keys):
    public = PrivateKey.generate(Algorithm.ES256).public
    return Profile(
        province=province,
        keys=(AttestationKey(public, KeyState.ACTIVE, NOW - DAY),),
        tls_ca=CERTIFICATE,
        addresses=("node.example:8443",),
        seal_keys=seal_keys,
    )


def epoch(number, starts, ends, **changes):
    values = {"number": number, "starts": NOW + starts * DAY, "ends": NOW + ends * DAY}
    return SubjectEpoch(**values | {"sealed": {}} | changes)


# --- seal and open ---------------------------------------------------------------------------


def test_what_was_sealed_opens():
    assert unseal(SEALED, 7, SICHUAN, [SealPrivateKey.generate(), MINE]) == KEY


def test_the_same_key_sealed_twice_looks_different():
    again = seal(KEY, SICHUAN, MINE.public)
    assert (again.enc, again.ct) != (SEALED.enc, SEALED.ct)
    assert again.kid == SEALED.kid


def test_no_repr_shows_a_key():
    assert KEY.key.hex() not in repr(KEY)
    assert "native" not in repr(MINE)


@pytest.mark.parametrize(
    ("number", "province"), [(7, GUANGDONG), (6, SICHUAN), (8, SICHUAN), (7, "51000")]
)
def test_what_was_sealed_for_another_province_or_epoch_is_refused(number, province):
    with pytest.raises(TrustListError, match="does not open"):
        unseal(SEALED, number, province, [MINE])


def test_a_ciphertext_of_another_epoch_is_refused():
    other = seal(EpochKey(8, KEY.key), SICHUAN, MINE.public)
    for swapped in (
        dataclasses.replace(SEALED, ct=other.ct),
        dataclasses.replace(SEALED, enc=other.enc),
    ):
        with pytest.raises(TrustListError, match="does not open"):
            unseal(swapped, 7, SICHUAN, [MINE])


@given(st.sampled_from(["enc", "ct"]), st.data())
def test_any_change_of_a_bit_is_refused(part, data):
    raw = bytearray(getattr(SEALED, part))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TrustListError, match="does not open"):
        unseal(dataclasses.replace(SEALED, **{part: bytes(raw)}), 7, SICHUAN, [MINE])


def test_another_key_is_refused_also_where_it_is_called_the_same():
    stranger = SealPrivateKey.generate()
    with pytest.raises(TrustListError, match="not at hand"):
        unseal(SEALED, 7, SICHUAN, [stranger])
    with pytest.raises(TrustListError, match="not at hand"):
        unseal(SEALED, 7, SICHUAN, [])
    renamed = dataclasses.replace(SEALED, kid=stranger.public.kid)
    with pytest.raises(TrustListError, match="does not open"):
        unseal(renamed, 7, SICHUAN, [stranger])


@pytest.mark.parametrize("raw", [bytes(32), bytes([1]) + bytes(31)])
def test_nothing_is_sealed_for_a_point_of_low_order(raw):
    with pytest.raises(TrustListError, match="nothing can be sealed") as caught:
        seal(KEY, SICHUAN, SealKey(raw))
    assert caught.value.field == "seal_keys"


def info(number, province):
    return b"tongxing subject epoch\0" + number.to_bytes(4, "big") + province.encode()


SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def test_another_implementation_opens_what_we_seal():
    native = KEMKey.from_pyca_cryptography_key(MINE.native)
    opener = SUITE.create_recipient_context(SEALED.enc, native, info=info(7, SICHUAN))
    assert opener.open(SEALED.ct) == KEY.key


def test_we_open_what_another_implementation_seals():
    public = KEMKey.from_pyca_cryptography_key(MINE.public.native)
    enc, sealer = SUITE.create_sender_context(public, info=info(9, GUANGDONG))
    sealed = Sealed(MINE.public.kid, enc, sealer.seal(KEY.key))
    assert unseal(sealed, 9, GUANGDONG, [MINE]) == EpochKey(9, KEY.key)


# --- the keys --------------------------------------------------------------------------------


def test_seal_keys_are_read_back_several_in_one_file():
    keys = [MINE, SealPrivateKey.generate()]
    pem = b"\n".join(key.to_pem() for key in keys)
    assert [key.public for key in SealPrivateKey.from_pem(pem)] == [key.public for key in keys]


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        pytest.param(MINE.to_pem()[:60], id="cut off"),
        PrivateKey.generate(Algorithm.EDDSA).to_pem(),
        MINE.to_pem() + PrivateKey.generate(Algorithm.ES256).to_pem(),
    ],
)
def test_a_file_that_holds_anything_else_is_refused(pem):
    with pytest.raises(InvalidFieldError, match="no X25519 private key"):
        SealPrivateKey.from_pem(pem)


def test_a_kid_is_the_thumbprint_of_rfc_9679():
    cose_key = cbor2.dumps({1: 1, -1: 4, -2: MINE.public.raw}, canonical=True)
    assert MINE.public.kid == hashlib.sha256(cose_key).digest()[:8]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kid": "00" * 8}, "seal_keys[0].kid"),
        ({"kid": None}, "seal_keys[0].kid"),
        ({"public": "00" * 31}, "seal_keys[0].public"),
        ({"public": "zz" * 32}, "seal_keys[0].public"),
    ],
)
def test_a_profile_with_a_wrong_seal_key_is_refused(change, field):
    value = profile_of(SICHUAN, MINE.public).to_json()
    value["seal_keys"][0] |= change
    with pytest.raises(TrustListError) as caught:
        Profile.from_json(value)
    assert caught.value.field == field


def test_a_profile_of_before_has_no_seal_keys():
    value = profile_of(SICHUAN).to_json()
    del value["seal_keys"]
    assert Profile.from_json(value).seal_keys == ()


# --- which epoch, when -----------------------------------------------------------------------

TWO = SubjectEpochs((epoch(1, 0, 10), epoch(2, 6, 20)))
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("at", "in_force"),
    [
        (NOW, [1]),
        (NOW + 6 * DAY - SECOND, [1]),
        (NOW + 6 * DAY, [2, 1]),
        (NOW + 10 * DAY - SECOND, [2, 1]),
        (NOW + 10 * DAY, [2]),
        (NOW + 20 * DAY - SECOND, [2]),
    ],
)
def test_the_newest_that_has_begun_is_current_and_all_that_live_are_in_force(at, in_force):
    assert [each.number for each in TWO.in_force(at)] == in_force
    assert TWO.current(at).number == in_force[0]


@pytest.mark.parametrize("at", [NOW - SECOND, NOW + 20 * DAY])
def test_outside_every_epoch_there_is_none(at):
    for ask in (TWO.current, TWO.in_force, SubjectEpochs().current):
        with pytest.raises(TrustListError, match="no epoch") as caught:
            ask(at)
        assert caught.value.field == roles.EPOCHS_PATH


def test_who_allows_for_clocks_asks_early_and_never_late():
    skew = timedelta(minutes=5)
    early = NOW + 6 * DAY - skew
    assert [each.number for each in TWO.in_force(early, skew=skew)] == [2, 1]
    assert [each.number for each in TWO.in_force(early - SECOND, skew=skew)] == [1]
    assert [each.number for each in TWO.in_force(NOW + 10 * DAY, skew=skew)] == [2]


@pytest.mark.parametrize(
    ("epochs", "field"),
    [
        ((epoch(1, 0, 0),), "epochs[0].until"),
        ((epoch(1, 5, 4),), "epochs[0].until"),
        ((epoch(2, 0, 9), epoch(2, 1, 10)), "epochs[1].epoch"),
        ((epoch(2, 0, 9), epoch(1, 1, 10)), "epochs[1].epoch"),
        ((epoch(1, 1, 9), epoch(2, 1, 10)), "epochs[1].from"),
        ((epoch(1, 0, 9), epoch(2, 1, 8)), "epochs[1].until"),
        ((epoch(1, 0, 9), epoch(2, 1, 20), epoch(3, 8, 30)), "epochs[2].from"),
    ],
)
def test_epochs_out_of_order_and_a_third_at_a_time_are_refused(epochs, field):
    with pytest.raises(TrustListError) as caught:
        SubjectEpochs(epochs)
    assert caught.value.field == field


def test_an_epoch_outlives_what_is_made_under_it():
    assert 2 * max(LIFE.values()) <= EPOCH_LIFE


def test_a_newcomer_is_given_every_epoch_that_has_not_ended():
    keys = [EpochKey.generate(number) for number in (1, 2, 3)]
    spans = ((0, 5), (3, 9), (6, 20))
    epochs = SubjectEpochs(
        tuple(
            epoch(key.epoch, *span, sealed={SICHUAN: seal(key, SICHUAN, MINE.public)})
            for key, span in zip(keys, spans, strict=True)
        )
    )
    assert unseal_all(epochs, SICHUAN, [MINE], now=NOW + 5 * DAY) == (keys[1], keys[2])
    with pytest.raises(TrustListError, match="not sealed for 440000"):
        unseal_all(epochs, GUANGDONG, [MINE], now=NOW)
    with pytest.raises(TrustListError, match="not at hand"):
        unseal_all(epochs, SICHUAN, [], now=NOW)


# --- in the trust list -----------------------------------------------------------------------


class Exchange:
    def __init__(self, place, provinces=(SICHUAN, GUANGDONG)):
        self.place = place
        self.keys = {code: SealPrivateKey.generate() for code in provinces}
        self.signers = Signers.generate(provinces)
        self.profiles = {code: profile_of(code, key.public) for code, key in self.keys.items()}
        made = ceremony.initialise(list(self.profiles.values()), self.signers, now=NOW)
        files.write(place / "list", made)

    def load(self):
        root = (self.place / "list" / "1.root.json").read_bytes()
        return refresh.load(files.read(self.place / "list"), root, self.place / "cache")

    def targets(self):
        return Metadata.from_bytes((self.place / "list" / "1.targets.json").read_bytes()).signed

    def publish(self, targets, signers=2):
        targets.version += 1
        metadata = Metadata(targets)
        for signer in self.signers.targets[:signers]:
            metadata.sign(signer, append=True)
        name = f"{targets.version}.targets.json"
        data = metadata.to_bytes(JSONSerializer(compact=True))
        current = files.read(self.place / "list")
        accepted = ceremony.accept(current, {name: data}, self.signers.online, now=NOW)
        files.write(self.place / "list", accepted)
        return data

    def opened(self, province, number):
        found = next(each for each in self.load().epochs.epochs if each.number == number)
        return unseal(found.sealed[province], number, province, [self.keys[province]])


@pytest.fixture
def exchange(tmp_path):
    return Exchange(tmp_path)


def test_a_new_exchange_has_its_first_epoch_the_same_for_all(exchange):
    (first,) = exchange.load().epochs.epochs
    assert (first.number, first.starts, first.ends) == (1, NOW, NOW + EPOCH_LIFE)
    assert exchange.opened(SICHUAN, 1) == exchange.opened(GUANGDONG, 1)


def test_no_file_of_the_trust_list_holds_the_key(exchange):
    key = exchange.opened(SICHUAN, 1).key
    for file in (exchange.place / "list").iterdir():
        assert key not in file.read_bytes()
        assert key.hex() not in file.read_text().lower()


def test_an_exchange_without_seal_keys_has_no_epochs(tmp_path):
    profiles = [profile_of(SICHUAN)]
    made = ceremony.initialise(profiles, Signers.generate([SICHUAN]), now=NOW)
    assert refresh.load(made, made["1.root.json"], tmp_path).epochs == SubjectEpochs()


def test_a_province_without_a_seal_key_is_refused(tmp_path):
    profiles = [profile_of(SICHUAN, MINE.public), profile_of(GUANGDONG)]
    with pytest.raises(TrustListError, match=GUANGDONG) as caught:
        ceremony.initialise(profiles, Signers.generate([SICHUAN, GUANGDONG]), now=NOW)
    assert caught.value.field == "seal_keys"


def test_the_next_epoch_goes_through_the_ceremony(exchange):
    new = EpochKey.generate(2)
    before = exchange.targets()
    after = with_epoch(
        before, exchange.load().profiles.values(), new, NOW + 2 * DAY, NOW + EPOCH_LIFE + DAY
    )
    assert before == exchange.targets()
    data = exchange.publish(after)
    assert new.key.hex() not in data.decode()
    trust = exchange.load()
    assert [each.number for each in trust.epochs.in_force(NOW + 2 * DAY)] == [2, 1]
    assert trust.epochs.current(NOW).number == 1
    assert exchange.opened(SICHUAN, 2) == exchange.opened(GUANGDONG, 2) == new


def test_an_epoch_that_one_holder_signed_is_refused(exchange):
    profiles = exchange.load().profiles.values()
    after = with_epoch(
        exchange.targets(), profiles, EpochKey.generate(2), NOW + DAY, NOW + EPOCH_LIFE + DAY
    )
    with pytest.raises(TrustListError):
        exchange.publish(after, signers=1)
    assert len(exchange.load().epochs.epochs) == 1


def test_an_epoch_for_a_province_that_takes_no_part_is_refused(exchange):
    stranger = profile_of(SHANGHAI, MINE.public)
    with pytest.raises(TrustListError, match="takes no part"):
        with_epoch(exchange.targets(), [stranger], EpochKey.generate(2), NOW, NOW + DAY)


@pytest.mark.parametrize("number", [0, 1])
def test_an_epochs_number_is_never_used_again(exchange, number):
    with pytest.raises(TrustListError, match="more than 1"):
        with_epoch(
            exchange.targets(),
            exchange.profiles.values(),
            EpochKey.generate(number),
            NOW + DAY,
            NOW + EPOCH_LIFE + DAY,
        )


def test_an_epoch_is_sealed_anew_for_a_province_that_changed_its_seal_key(exchange):
    new = SealPrivateKey.generate()
    key = exchange.opened(GUANGDONG, 1)
    old = exchange.profiles[SICHUAN]
    profile = dataclasses.replace(old, seal_keys=(new.public, *old.seal_keys))
    before = exchange.load().epochs.epochs[0]
    exchange.publish(with_recipient(exchange.targets(), profile, [key]))
    exchange.keys[SICHUAN] = new
    assert exchange.opened(SICHUAN, 1) == key
    assert exchange.load().epochs.epochs[0].sealed[GUANGDONG] == before.sealed[GUANGDONG]


def test_nothing_is_sealed_under_an_epoch_that_is_not_there(exchange):
    with pytest.raises(TrustListError, match="no epoch 2"):
        with_recipient(exchange.targets(), exchange.profiles[SICHUAN], [EpochKey.generate(2)])


def with_content(exchange, change):
    """The targets role, with its epochs changed as JSON."""
    targets = exchange.targets()
    content = epochs_of(targets).to_json()
    change(content)
    targets.targets[roles.EPOCHS_PATH] = roles.inline(roles.EPOCHS_PATH, content)
    return targets


MALFORMED = {
    "no epochs": (lambda c: c.pop("epochs"), "epochs"),
    "epochs that are no array": (lambda c: c.update(epochs={}), "epochs"),
    "an epoch that is none": (lambda c: c.update(epochs=[1]), "epochs[0]"),
    "a number that is none": (lambda c: c["epochs"][0].update(epoch="1"), "epochs[0].epoch"),
    "a number that is true": (lambda c: c["epochs"][0].update(epoch=True), "epochs[0].epoch"),
    "a number below 0": (lambda c: c["epochs"][0].update(epoch=-1), "epochs[0].epoch"),
    "a number too large": (lambda c: c["epochs"][0].update(epoch=2**32), "epochs[0].epoch"),
    "no beginning": (lambda c: c["epochs"][0].pop("from"), "epochs[0].from"),
    "an end without a zone": (
        lambda c: c["epochs"][0].update(until="2030-01-01T00:00:00"),
        "epochs[0].until",
    ),
    "nothing sealed": (lambda c: c["epochs"][0].pop("sealed"), "epochs[0].sealed"),
    "a short ciphertext": (
        lambda c: c["epochs"][0]["sealed"][SICHUAN].update(ct="00" * 47),
        "epochs[0].sealed.510000.ct",
    ),
    "capital digits": (
        lambda c: c["epochs"][0]["sealed"][SICHUAN].update(enc="AB" * 32),
        "epochs[0].sealed.510000.enc",
    ),
    "no kid": (
        lambda c: c["epochs"][0]["sealed"][SICHUAN].pop("kid"),
        "epochs[0].sealed.510000.kid",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_epochs_are_refused_by_readers_and_by_the_publisher(exchange, case, tmp_path):
    change, field = MALFORMED[case]
    targets = with_content(exchange, change)
    with pytest.raises(TrustListError) as caught:
        epochs_of(targets)
    assert caught.value.field == f"subjects/epochs.{field}"
    with pytest.raises(TrustListError):
        exchange.publish(targets)
    metadata = Metadata(targets)
    for signer in exchange.signers.targets:
        metadata.sign(signer, append=True)
    # Published all the same, by whoever holds the online keys: readers refuse it.
    made = ceremony.initialise(list(exchange.profiles.values()), exchange.signers, now=NOW)
    snapshot = Metadata.from_bytes(made["1.snapshot.json"])
    timestamp = Metadata.from_bytes(made["timestamp.json"])
    data = metadata.to_bytes()
    version = targets.version
    snapshot.signed.meta["targets.json"] = MetaFile.from_data(version, data, ["sha256"])
    snapshot.sign(exchange.signers.online.snapshot)
    head = snapshot.to_bytes()
    timestamp.signed.snapshot_meta = MetaFile.from_data(1, head, ["sha256"])
    timestamp.sign(exchange.signers.online.timestamp)
    offered = {
        **made,
        f"{version}.targets.json": data,
        "1.snapshot.json": head,
        "timestamp.json": timestamp.to_bytes(),
    }
    with pytest.raises(TrustListError) as caught:
        refresh.load(offered, made["1.root.json"], tmp_path / "new")
    assert caught.value.field == f"subjects/epochs.{field}"


def test_a_content_that_is_not_its_digests_is_refused(exchange):
    targets = exchange.targets()
    target = targets.targets[roles.EPOCHS_PATH]
    target.custom["epochs"][0]["epoch"] = 2
    with pytest.raises(TrustListError, match="digest"):
        epochs_of(targets)


def test_a_content_with_a_fraction_is_refused():
    targets = Targets()
    target = roles.inline(roles.EPOCHS_PATH, {})
    target.custom["epochs"] = [1.5]
    targets.targets[roles.EPOCHS_PATH] = target
    with pytest.raises(TrustListError, match="digest"):
        epochs_of(targets)


def test_any_other_target_of_the_targets_role_is_refused(exchange):
    targets = exchange.targets()
    targets.targets["subjects/other"] = roles.inline("subjects/other", {})
    with pytest.raises(TrustListError, match="more than"):
        exchange.publish(targets)


def test_what_is_written_is_read_back(exchange):
    epochs = exchange.load().epochs
    assert SubjectEpochs.from_json(json.loads(json.dumps(epochs.to_json()))) == epochs
    assert epochs_of(Targets()) == SubjectEpochs()
