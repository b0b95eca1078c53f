from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cwt import COSEKey

from exchange.errors import BadSignatureError, InvalidFieldError
from exchange.keys import Algorithm, PrivateKey, PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from exchange.keys import Signer

KEYS = {algorithm: PrivateKey.generate(algorithm) for algorithm in Algorithm}
every_algorithm = pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.name)

OTHER_KINDS: dict[str, PrivateKeyTypes] = {
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "ML-DSA-65": MLDSA65PrivateKey.generate(),
}
every_other_kind = pytest.mark.parametrize("native", OTHER_KINDS.values(), ids=OTHER_KINDS.keys())


def pkcs8(native: PrivateKeyTypes) -> bytes:
    return native.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def spki(native: PrivateKeyTypes, encoding: serialization.Encoding) -> bytes:
    return native.public_key().public_bytes(
        encoding, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_the_p256_thumbprint_is_that_of_rfc_9679_section_6() -> None:
    x = int("65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d", 16)
    y = int("1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c", 16)
    key = PublicKey(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    expected = "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"
    assert key.thumbprint.hex() == expected
    assert key.kid.hex() == expected[:16]
    assert key.algorithm is Algorithm.ES256


def test_the_ml_dsa_44_thumbprint_is_that_of_rfc_9964s_all_zeros_key() -> None:
    key = PrivateKey(MLDSA44PrivateKey.from_seed_bytes(bytes(32))).public
    expected = "b8969ab4b37da9f0684e42647eb8a0be8b5b661ebf5d76f0583bf5b8d3a8059a"
    assert key.thumbprint.hex() == expected
    assert key.algorithm is Algorithm.ML_DSA_44


@pytest.mark.parametrize("algorithm", [Algorithm.ES256, Algorithm.EDDSA], ids=lambda a: a.name)
def test_the_thumbprint_covers_the_key_as_cwt_writes_it(algorithm: Algorithm) -> None:
    public = KEYS[algorithm].public
    theirs = COSEKey.from_pem(public.to_pem(), alg=algorithm.name.replace("EDDSA", "EdDSA"))
    covered = {k: v for k, v in theirs.to_dict().items() if k in (1, -1, -2, -3)}
    assert public.thumbprint == hashlib.sha256(cbor2.dumps(covered, canonical=True)).digest()


def test_the_ed25519_key_of_rfc_8032_verifies_its_signature() -> None:
    public = PublicKey(
        Ed25519PublicKey.from_public_bytes(
            bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        )
    )
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    public.verify(signature, b"\x72")


@every_algorithm
def test_a_signature_has_its_algorithms_length_and_verifies(algorithm: Algorithm) -> None:
    signer: Signer = KEYS[algorithm]
    for _ in range(20):
        signature = signer.sign("健康码".encode())
        assert len(signature) == algorithm.signature_bytes
        signer.public.verify(signature, "健康码".encode())


@every_algorithm
def test_a_signature_over_other_data_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(BadSignatureError):
        KEYS[algorithm].public.verify(KEYS[algorithm].sign(b"one"), b"two")


@every_algorithm
def test_a_signature_by_another_key_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(BadSignatureError):
        KEYS[algorithm].public.verify(PrivateKey.generate(algorithm).sign(b"one"), b"one")


@every_algorithm
def test_a_signature_of_any_other_length_is_refused(algorithm: Algorithm) -> None:
    signature = KEYS[algorithm].sign(b"one")
    for wrong in (b"", signature[:-1], signature + b"\0", b"\0" + signature, signature * 2):
        with pytest.raises(BadSignatureError, match="bytes"):
            KEYS[algorithm].public.verify(wrong, b"one")


@every_algorithm
def test_a_signature_of_zeros_is_refused(algorithm: Algorithm) -> None:
    for byte in (b"\0", b"\xff"):
        with pytest.raises(BadSignatureError):
            KEYS[algorithm].public.verify(byte * algorithm.signature_bytes, b"one")


def test_an_es256_signature_in_der_is_refused() -> None:
    key = KEYS[Algorithm.ES256]
    raw = key.sign(b"one")
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    with pytest.raises(BadSignatureError):
        key.public.verify(der, b"one")


def test_small_r_and_s_keep_their_leading_zeros() -> None:
    key = KEYS[Algorithm.ES256]
    # One signature in 128 begins with a zero byte: enough for several.
    signatures = [key.sign(b"one") for _ in range(3000)]
    short = [s for s in signatures if s[0] == 0 or s[32] == 0]
    assert short
    for signature in short:
        key.public.verify(signature, b"one")


@every_algorithm
def test_a_public_key_survives_pem_and_der(algorithm: Algorithm) -> None:
    public = KEYS[algorithm].public
    for again in (PublicKey.from_pem(public.to_pem()), PublicKey.from_der(public.to_der())):
        assert again == public
        assert hash(again) == hash(public)
        assert again.algorithm is algorithm
        again.verify(KEYS[algorithm].sign(b"one"), b"one")


def test_two_keys_are_not_equal() -> None:
    assert KEYS[Algorithm.ES256].public != PrivateKey.generate(Algorithm.ES256).public


@every_other_kind
def test_a_public_key_of_another_kind_is_refused(native: PrivateKeyTypes) -> None:
    with pytest.raises(InvalidFieldError, match="another kind"):
        PublicKey.from_pem(spki(native, serialization.Encoding.PEM))
    with pytest.raises(InvalidFieldError, match="another kind"):
        PublicKey.from_der(spki(native, serialization.Encoding.DER))


def test_an_unreadable_public_key_is_refused() -> None:
    der = KEYS[Algorithm.ES256].public.to_der()
    for bad in (b"", b"nonsense", der[:-1], der + b"\0", b"\xff" * 91):
        with pytest.raises(InvalidFieldError, match="not a readable public key"):
            PublicKey.from_der(bad)
        with pytest.raises(InvalidFieldError, match="not a readable public key"):
            PublicKey.from_pem(bad)


def test_a_private_key_is_no_public_key() -> None:
    with pytest.raises(InvalidFieldError, match="not a readable public key"):
        PublicKey.from_pem(KEYS[Algorithm.ES256].to_pem())


def test_a_point_off_the_curve_is_refused() -> None:
    der = bytearray(KEYS[Algorithm.ES256].public.to_der())
    der[-1] ^= 1
    with pytest.raises(InvalidFieldError):
        PublicKey.from_der(bytes(der))


@every_algorithm
@pytest.mark.parametrize("password", [None, "口令 of some length".encode()], ids=["open", "kept"])
def test_a_private_key_survives_pem(algorithm: Algorithm, password: bytes | None) -> None:
    pem = KEYS[algorithm].to_pem(password)
    assert (b"ENCRYPTED" in pem) is (password is not None)
    again = PrivateKey.from_pem(pem, password)
    assert again.public == KEYS[algorithm].public
    again.public.verify(again.sign(b"one"), b"one")


@every_algorithm
def test_a_wrong_passphrase_is_refused(algorithm: Algorithm) -> None:
    pem = KEYS[algorithm].to_pem(b"right")
    with pytest.raises(InvalidFieldError, match="wrong passphrase") as caught:
        PrivateKey.from_pem(pem, b"wrong-secret")
    assert "wrong-secret" not in str(caught.value)


def test_a_missing_passphrase_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match="is protected by a passphrase"):
        PrivateKey.from_pem(KEYS[Algorithm.ES256].to_pem(b"right"), None)


def test_a_needless_passphrase_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match="is not protected"):
        PrivateKey.from_pem(KEYS[Algorithm.ES256].to_pem(), b"right")


@every_other_kind
def test_a_private_key_of_another_kind_is_refused(native: PrivateKeyTypes) -> None:
    with pytest.raises(InvalidFieldError, match="another kind"):
        PrivateKey.from_pem(pkcs8(native), None)


def test_an_unreadable_private_key_is_refused() -> None:
    pem = KEYS[Algorithm.ES256].to_pem()
    for bad in (b"", b"nonsense", pem[:80], KEYS[Algorithm.ES256].public.to_pem()):
        with pytest.raises(InvalidFieldError, match="not a readable private key"):
            PrivateKey.from_pem(bad, None)


def test_an_empty_passphrase_is_refused_for_writing() -> None:
    with pytest.raises(InvalidFieldError, match="passphrase"):
        KEYS[Algorithm.ES256].to_pem(b"")


@every_algorithm
def test_the_repr_of_a_private_key_shows_nothing_secret(algorithm: Algorithm) -> None:
    text = repr(KEYS[algorithm])
    assert text.startswith("PrivateKey(public=PublicKey(")
    assert "PrivateKey object" not in text
