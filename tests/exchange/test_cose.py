from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import struct
from dataclasses import dataclass
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cwt import COSE, COSEKey
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.cbor import MAX_BYTES, decode_map, encode, encode_items, join
from exchange.cose import ObjectType, Sign1, parse, sign, verify
from exchange.errors import (
    BadSignatureError,
    InvalidFieldError,
    MalformedObjectError,
    UnknownIssuerError,
)
from exchange.keys import Algorithm, PrivateKey, PublicKey

KEYS = {algorithm: PrivateKey.generate(algorithm) for algorithm in Algorithm}
KEY = KEYS[Algorithm.ES256]
TYP = ObjectType.ATTESTATION
CLAIMS: dict[int, Any] = {
    1: "510000",
    2: bytes(range(33)),
    4: 1_790_000_000,
    5: 1_780_000_000,
    6: 1_780_000_000,
    7: bytes(range(16)),
    65535: {"status_list": {"idx": 12_345, "uri": "https://node.example/status/12"}},
    -70001: {"kind": "NUCLEIC_ACID_TEST", "result": "NEGATIVE", "ct": 37.5, "cut": None},
    -70002: {"name": "胡*君", "type": "111", "shown": [True, False]},
}
PAYLOAD = encode(CLAIMS)
SIGNED = sign(PAYLOAD, KEY, TYP)

every_algorithm = pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.name)
classical = pytest.mark.parametrize(
    "algorithm", [Algorithm.ES256, Algorithm.EDDSA], ids=lambda a: a.name
)


def head(major: int, argument: int) -> bytes:
    unsigned = cbor2.dumps(argument)
    return bytes([unsigned[0] | major << 5]) + unsigned[1:]


def bstr(data: bytes) -> bytes:
    return head(2, len(data)) + data


def with_header(
    protected: bytes | dict[Any, Any],
    unprotected: bytes | dict[Any, Any] = b"\xa0",
    key: PrivateKey = KEY,
) -> bytes:
    """An object with any headers at all, rightly signed, so that nothing but they is wrong."""
    raw = protected if isinstance(protected, bytes) else cbor2.dumps(protected)
    outer = unprotected if isinstance(unprotected, bytes) else cbor2.dumps(unprotected)
    signature = key.sign(cbor2.dumps(["Signature1", raw, b"", PAYLOAD]))
    return b"\xd2\x84" + bstr(raw) + outer + bstr(PAYLOAD) + bstr(signature)


def header(**changes: Any) -> dict[Any, Any]:
    names = {"alg": 1, "crit": 2, "kid": 4, "typ": 16}
    whole: dict[Any, Any] = {1: -7, 4: KEY.public.kid, 16: str(TYP)}
    whole.update({names[name]: value for name, value in changes.items()})
    return {label: value for label, value in whole.items() if value is not ...}


def read(data: bytes, typ: ObjectType = TYP, *keys: PublicKey) -> dict[Any, Any]:
    message = parse(data, typ)
    verify(message, keys or (KEY.public,))
    return decode_map(message.payload)


def refused(data: bytes, match: str) -> None:
    with pytest.raises(MalformedObjectError, match=match) as caught:
        parse(data, TYP)
    assert caught.value.field == ""


# Signing and the oracle.


@every_algorithm
@pytest.mark.parametrize("typ", ObjectType)
def test_what_is_signed_is_read_again(algorithm: Algorithm, typ: ObjectType) -> None:
    key = KEYS[algorithm]
    signed = sign(PAYLOAD, key, typ)
    message = parse(signed, typ)
    assert (message.algorithm, message.kid, message.payload) == (algorithm, key.public.kid, PAYLOAD)
    assert verify(message, [key.public]) is key.public
    assert decode_map(message.payload) == CLAIMS


@classical
def test_cwt_verifies_what_we_sign(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    theirs = COSEKey.from_pem(
        key.public.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    protected, unprotected, payload = COSE.new(verify_kid=True).decode_with_headers(
        sign(PAYLOAD, key, TYP), theirs
    )
    assert protected == {1: int(algorithm), 4: key.public.kid, 16: str(TYP)}
    assert unprotected == {}
    assert payload == PAYLOAD


@classical
def test_we_verify_what_cwt_signs(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    theirs = COSEKey.from_pem(
        key.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    signed = COSE.new().encode_and_sign(
        PAYLOAD, theirs, protected={1: int(algorithm), 4: key.public.kid, 16: str(TYP)}
    )
    assert read(signed, TYP, key.public) == CLAIMS


def test_the_object_is_the_deterministic_one() -> None:
    value = cbor2.loads(SIGNED)
    assert value.tag == 18
    assert value.value[0] == cbor2.dumps({1: -7, 4: KEY.public.kid, 16: str(TYP)})
    assert value.value[1] == {}
    assert cbor2.dumps(value) == SIGNED


def test_a_signer_need_not_be_a_key_in_memory() -> None:
    @dataclass(frozen=True)
    class Module:
        public: PublicKey
        handle: PrivateKey

        def sign(self, data: bytes) -> bytes:
            return self.handle.sign(data)

    assert read(sign(PAYLOAD, Module(KEY.public, KEY), TYP)) == CLAIMS


def test_an_untagged_object_is_read() -> None:
    assert read(SIGNED[1:]) == CLAIMS


def test_unknown_parameters_that_are_not_critical_are_ignored() -> None:
    assert read(with_header(header() | {99: [1, {"a": b""}]}, {33: b"cert", "note": 1})) == CLAIMS
    assert read(with_header(header() | {99: bytes(600)})) == CLAIMS


def test_a_payload_too_large_to_be_read_is_not_signed() -> None:
    room = MAX_BYTES - len(sign(bytes(60_000), KEY, TYP)) + 60_000
    parse(sign(bytes(room), KEY, TYP), TYP)
    with pytest.raises(MalformedObjectError, match="larger than 64 KiB"):
        sign(bytes(room + 1), KEY, TYP)


# What the reader refuses.


def test_an_object_larger_than_64_kib_is_refused() -> None:
    big = (
        b"\xd2\x84" + bstr(cbor2.dumps(header())) + b"\xa0" + bstr(bytes(70_000)) + bstr(bytes(64))
    )
    refused(big, "larger than 64 KiB")


def test_a_truncated_object_is_refused_at_every_byte() -> None:
    for start, whole in ((0, SIGNED), (1, SIGNED)):
        for end in range(start, len(whole)):
            with pytest.raises(MalformedObjectError):
                parse(whole[start:end], TYP)


def test_trailing_bytes_are_refused() -> None:
    refused(SIGNED + b"\0", "follow")
    refused(SIGNED + SIGNED, "follow")


@pytest.mark.parametrize(
    "tag", [b"\xd1", b"\xd8\x61", b"\xd8\x62", b"\xd8\x3d", b"\xc0", b"\xd8\x12"]
)
def test_another_tag_than_18_is_refused(tag: bytes) -> None:
    refused(tag + SIGNED[1:], "another tag")


def test_a_tag_twice_is_refused() -> None:
    refused(b"\xd2" + SIGNED, "not a COSE_Sign1")


@pytest.mark.parametrize("item", [b"\xa0", b"\x40", b"\x60", b"\0", b"\xf6", b"\x84", b"\xff", b""])
def test_what_is_no_array_of_four_is_refused(item: bytes) -> None:
    with pytest.raises(MalformedObjectError):
        parse(item, TYP)
    with pytest.raises(MalformedObjectError):
        parse(b"\xd2" + item, TYP)


def test_three_or_five_elements_are_refused() -> None:
    protected, _, payload, signature = cbor2.loads(SIGNED).value
    refused(cbor2.dumps([protected, {}, payload]), "array of four")
    refused(cbor2.dumps([protected, {}, payload, signature, b""]), "array of four")


def test_elements_of_a_wrong_type_are_refused() -> None:
    right = cbor2.loads(SIGNED).value
    wrong: tuple[Any, ...] = ("text", 1, [], None, 1.5, {1: 2}, b"bytes")
    for index, value in itertools.product(range(4), wrong):
        if (index == 1 and isinstance(value, dict)) or (index > 1 and isinstance(value, bytes)):
            continue
        elements = list(right)
        elements[index] = value
        with pytest.raises(MalformedObjectError):
            parse(cbor2.dumps(elements), TYP)


def test_a_detached_payload_is_refused() -> None:
    protected, _, _, signature = cbor2.loads(SIGNED).value
    refused(cbor2.dumps([protected, {}, None, signature]), "detached")


def test_a_missing_typ_is_refused() -> None:
    refused(with_header(header(typ=...)), "typ")


@pytest.mark.parametrize(
    "typ",
    ["application/cwt", "tongxing-attestation+cwt", 61, b"x", [str(TYP)], None, str(TYP) + " "],
)
def test_another_typ_is_refused(typ: Any) -> None:
    refused(with_header(header(typ=typ)), "typ")


@pytest.mark.parametrize(("made", "asked"), list(itertools.permutations(ObjectType, 2)))
def test_an_object_of_one_type_never_reads_as_another(made: ObjectType, asked: ObjectType) -> None:
    with pytest.raises(MalformedObjectError, match="typ"):
        parse(sign(PAYLOAD, KEY, made), asked)


def test_a_typ_outside_the_protected_header_is_refused() -> None:
    refused(with_header(header(typ=...), {16: str(TYP)}), "typ")


def test_a_missing_alg_is_refused() -> None:
    refused(with_header(header(alg=...)), "alg is missing")
    refused(with_header(header(alg=...), {1: -7}), "alg is missing")
    refused(with_header(b""), "cut short")
    refused(with_header({}), "alg is missing")


@pytest.mark.parametrize(
    "alg", [-35, -37, -257, 5, 0, 1, "ES256", -7.0, True, b"", [-7], -9, 1 << 63]
)
def test_an_unknown_alg_is_refused(alg: Any) -> None:
    refused(with_header(header(alg=alg)), "alg is unknown")


def test_a_kid_missing_in_the_protected_header_is_refused() -> None:
    refused(with_header(header(kid=...)), "kid is missing")
    refused(with_header(header(kid=...), {4: KEY.public.kid}), "kid is missing")


@pytest.mark.parametrize(
    "kid",
    [b"", bytes(7), bytes(9), pytest.param(KEY.public.thumbprint, id="whole"), "8 letters", 8, [1]],
)
def test_a_kid_that_is_not_8_bytes_is_refused(kid: Any) -> None:
    refused(with_header(header(kid=kid)), "kid is not 8 bytes")


@pytest.mark.parametrize(
    "crit", [[99], [4, 99], ["x"], [], 16, None, {16: 1}, [True], [16.0], [[16]], [b""], [3], [2]]
)
def test_a_crit_that_is_not_understood_is_refused(crit: Any) -> None:
    refused(with_header(header(crit=crit) | {99: 1, "x": 1}), "crit")


def test_a_crit_of_what_is_understood_is_read() -> None:
    assert read(with_header(header(crit=[16, 4, 1]))) == CLAIMS


def test_a_crit_in_the_unprotected_header_is_refused() -> None:
    refused(with_header(header(), {2: [16]}), "crit")


def test_a_duplicate_key_in_the_protected_header_is_refused() -> None:
    whole = cbor2.dumps(header())
    refused(with_header(b"\xa4" + whole[1:] + b"\x01\x27"), "same key twice")
    refused(with_header(b"\xa4" + whole[1:] + b"\x18\x01\x27"), "same key twice")


def test_a_duplicate_key_in_the_unprotected_header_is_refused() -> None:
    refused(with_header(header(), b"\xa2\x18\x63\x01\x18\x63\x02"), "same key twice")


@pytest.mark.parametrize("label", [1, 4, 16, 99])
def test_the_same_label_in_both_headers_is_refused(label: int) -> None:
    protected = header() | {99: 1}
    refused(with_header(protected, {label: protected[label]}), "both headers")


def test_bytes_after_the_protected_headers_map_are_refused() -> None:
    refused(with_header(cbor2.dumps(header()) + b"\0"), "follow")


def test_a_tag_within_a_header_is_refused() -> None:
    refused(with_header(header() | {99: cbor2.CBORTag(1, 5)}), "tag")
    refused(with_header(header(), {99: cbor2.CBORTag(1, 5)}), "tag")


def test_indefinite_lengths_in_the_envelope_are_refused() -> None:
    refused(b"\xd2\x9f" + SIGNED[2:] + b"\xff", "array of four")
    refused(with_header(b"\xbf" + cbor2.dumps(header())[1:] + b"\xff"), "indefinite")
    refused(with_header(header(), b"\xbf\xff"), "indefinite")
    protected = cbor2.dumps(header())
    refused(b"\xd2\x84\x5f" + bstr(protected) + b"\xff" + SIGNED[len(protected) + 4 :], "definite")


def test_a_length_in_the_envelope_that_is_not_shortest_is_refused() -> None:
    start = SIGNED.index(bstr(PAYLOAD))
    longer = SIGNED[:start] + b"\x5a" + struct.pack(">I", len(PAYLOAD)) + PAYLOAD + bstr(bytes(64))
    refused(longer, "shortest form")


@pytest.mark.parametrize(
    "length", [b"\x5a\xff\xff\xff\xff", b"\x5b" + b"\xff" * 8, b"\x59\xff\xff"]
)
def test_a_huge_length_is_refused(length: bytes) -> None:
    refused(b"\xd2\x84" + length, "cut short")
    refused(b"\xd2\x84" + bstr(cbor2.dumps(header())) + b"\xa0" + length + bytes(64), "cut short")


def test_a_header_nested_too_deep_is_refused() -> None:
    refused(with_header(header(), b"\xa1\x18\x63" + b"\x81" * 40_000 + b"\0"), "levels")
    refused(with_header(b"\xa1\x18\x63" + b"\x81" * 500 + b"\0"), "levels")


def test_a_protected_header_as_large_as_a_payload_is_refused() -> None:
    many = header() | dict.fromkeys(range(100, 10_000), 0)
    refused(with_header(cbor2.dumps(many)), "longer than 1024")


# Verification.


def test_an_unknown_kid_is_refused() -> None:
    message = parse(SIGNED, TYP)
    for keys in ([], [PrivateKey.generate(Algorithm.ES256).public]):
        with pytest.raises(UnknownIssuerError, match="kid"):
            verify(message, keys)


@pytest.mark.parametrize(
    ("alg", "of"), list(itertools.permutations(Algorithm, 2)), ids=lambda a: a.name
)
def test_an_alg_that_is_not_the_keys_is_refused(alg: Algorithm, of: Algorithm) -> None:
    key = KEYS[of]
    signed = with_header(header(alg=int(alg), kid=key.public.kid), key=key)
    with pytest.raises(MalformedObjectError, match="not the key's"):
        verify(parse(signed, TYP), [key.public])


def colliding(key: PublicKey, kid: bytes) -> PublicKey:
    """The key under another's kid, as 2^64 tries would find one."""
    twin = PublicKey(key.native)
    object.__setattr__(twin, "kid", kid)
    return twin


def test_every_key_that_bears_the_kid_is_tried() -> None:
    message = parse(SIGNED, TYP)
    same = colliding(PrivateKey.generate(Algorithm.ES256).public, KEY.public.kid)
    other = colliding(KEYS[Algorithm.EDDSA].public, KEY.public.kid)
    for keys in itertools.permutations([same, other, KEY.public]):
        assert verify(message, iter(keys)) is KEY.public
    with pytest.raises(BadSignatureError):
        verify(message, [same, other])
    with pytest.raises(MalformedObjectError, match="not the key's"):
        verify(message, [other])


@every_algorithm
def test_a_changed_payload_is_refused(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    message = parse(sign(PAYLOAD, key, TYP), TYP)
    changed = dataclasses.replace(message, payload=encode(CLAIMS | {1: "440000"}))
    with pytest.raises(BadSignatureError):
        verify(changed, [key.public])


def test_a_protected_header_encoded_otherwise_is_refused() -> None:
    message = parse(SIGNED, TYP)
    reordered = cbor2.dumps(dict(reversed(header().items())))
    with pytest.raises(BadSignatureError):
        verify(dataclasses.replace(message, protected=reordered), [KEY.public])


def test_a_protected_header_in_another_order_verifies_as_it_came() -> None:
    assert read(with_header(dict(reversed(header().items())))) == CLAIMS


def test_an_es256_signature_in_der_is_refused() -> None:
    protected, _, payload, raw = cbor2.loads(SIGNED).value
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    message = parse(cbor2.dumps([protected, {}, payload, der]), TYP)
    with pytest.raises(BadSignatureError):
        verify(message, [KEY.public])


@classical
def test_every_flipped_bit_is_refused(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    signed = sign(encode({1: "510000", 4: 1_790_000_000, -70002: {"name": "胡*君"}}), key, TYP)
    for bit in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((MalformedObjectError, BadSignatureError, UnknownIssuerError)):
            read(bytes(flipped), TYP, key.public)


# Claims.


def walk_refused(payload: bytes, match: str | None = None) -> None:
    with pytest.raises(MalformedObjectError, match=match):
        decode_map(payload)


def test_claims_that_are_no_map_are_refused() -> None:
    for value in (1, "a", b"a", [1], None, True, 1.5):
        walk_refused(cbor2.dumps(value), "not a CBOR map")
    walk_refused(b"", "cut short")


def test_truncated_claims_are_refused_at_every_byte() -> None:
    for end in range(len(PAYLOAD)):
        walk_refused(PAYLOAD[:end])


def test_bytes_after_the_claims_are_refused() -> None:
    walk_refused(PAYLOAD + b"\0", "follow")


def test_duplicate_keys_are_refused_at_any_depth() -> None:
    twice = b"\xa2\x01\x02\x01\x03"
    walk_refused(twice, "twice")
    walk_refused(b"\xa2\x61a\x02\x61a\x02", "twice")
    walk_refused(b"\xa2\x01\x02\x18\x01\x03", "twice")
    walk_refused(b"\xa1\x01" + twice, "twice")
    walk_refused(b"\xa1\x01\x81\x81\xa1\x02" + twice, "twice")


@pytest.mark.parametrize("key", [b"", 1.0, True, None, (1,)])
def test_a_map_key_that_is_neither_integer_nor_text_is_refused(key: Any) -> None:
    walk_refused(cbor2.dumps({key: 1}), "map key")
    walk_refused(cbor2.dumps({1: [{key: 1}]}), "map key")


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(b"\xc0\x74" + b"2026-01-01T00:00:00Z", id="datetime"),
        pytest.param(b"\xc1\x1a\x6a\0\0\0", id="epoch"),
        pytest.param(b"\xc2\x59\x20\x00" + b"\xff" * 8192, id="bignum"),
        pytest.param(b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01", id="huge decimal"),
        pytest.param(b"\xc5\x82\x1b" + b"\x7f" * 8 + b"\x01", id="huge bigfloat"),
        pytest.param(b"\xd8\x1e\x82\xc2\x41\x01\xc2\x41\x02", id="rational"),
        pytest.param(b"\xd8\x23\x70" + rb"(?i:[\0-\uffff])", id="regular expression"),
        pytest.param(b"\xd8\x24\x60", id="MIME"),
        pytest.param(b"\xd8\x25\x50" + bytes(16), id="UUID"),
        pytest.param(b"\xd8\x1c\x81\xd8\x1d\x00", id="a list that holds itself"),
        pytest.param(b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00", id="string reference"),
        pytest.param(b"\xd9\x01\x02\x81\x01", id="set"),
        pytest.param(b"\xd9\xd9\xf7\x01", id="self-described"),
        pytest.param(b"\xdb" + b"\xff" * 8 + b"\x01", id="unknown"),
    ],
)
def test_a_tag_is_refused_unresolved(item: bytes) -> None:
    walk_refused(b"\xa1\x01" + item, "tag")
    walk_refused(b"\xa1\x01\x82\x01" + item, "tag")
    walk_refused(item, "tag")


def test_shared_references_that_double_are_refused_before_they_grow() -> None:
    # Each list holds the one before twice: 2^60 items, if it were resolved.
    levels = b"".join(
        b"\xd8\x1c\x82\xd8\x1d" + bytes([n]) + b"\xd8\x1d" + bytes([n]) for n in range(20)
    )
    walk_refused(b"\xa1\x01\x94" + levels, "tag")


@pytest.mark.parametrize("item", [b"\xf7", b"\xe0", b"\xf3", b"\xf8\x20", b"\xf8\xff", b"\xf8\x14"])
def test_undefined_and_other_simple_values_are_refused(item: bytes) -> None:
    walk_refused(b"\xa1\x01" + item, "simple value")


@pytest.mark.parametrize(
    "item", [b"\x9f\xff", b"\xbf\xff", b"\x5f\xff", b"\x7f\xff", b"\xff", b"\x1f", b"\xdf\x01"]
)
def test_indefinite_lengths_are_refused(item: bytes) -> None:
    walk_refused(b"\xa1\x01" + item, "indefinite")
    walk_refused(item, "indefinite")


@pytest.mark.parametrize("first", [m << 5 | a for m in range(8) for a in (28, 29, 30)])
def test_reserved_heads_are_refused(first: int) -> None:
    walk_refused(b"\xa1\x01" + bytes([first]), "reserved")


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "length", [b"\x18\xff", b"\x19\xff\xff", b"\x1a" + b"\xff" * 4, b"\x1b" + b"\xff" * 8]
)
def test_a_length_beyond_the_data_is_refused(major: int, length: bytes) -> None:
    item = bytes([length[0] | major << 5]) + length[1:]
    walk_refused(b"\xa1\x01" + item)
    walk_refused(item)
    walk_refused(b"\xa1\x01" + item + b"\0" * 32)


def test_more_than_16_levels_are_refused() -> None:
    assert decode_map(b"\xa1\x01" * 15 + b"\xa0")
    assert decode_map(b"\xa1\x01" + b"\x81" * 14 + b"\x80")
    walk_refused(b"\xa1\x01" * 16 + b"\xa0", "levels")
    walk_refused(b"\xa1\x01" + b"\x81" * 15 + b"\x80", "levels")
    walk_refused(b"\xa1\x01" + b"\x81" * 60_000, "levels")


@pytest.mark.parametrize(
    "small", [b"\x80", b"\xa0", b"\0", b"\x81\0"], ids=["arrays", "maps", "zeros", "nested"]
)
def test_more_elements_than_any_object_has_are_refused(small: bytes) -> None:
    # 62 attestations of one province, 64 KiB each, held every other node up for 3 s a lookup.
    many = 60_000 // len(small)
    junk = head(4, many) + small * many
    walk_refused(b"\xa1\x01" + junk, "too many elements")
    refused(with_header(header(), b"\xa1\x18\x63" + junk), "too many elements")
    walk_refused(b"\xa1\x01\x98\x40" + (head(4, 200) + small * 200) * 64, "too many elements")
    walk_refused(b"\xb9\x04\x01" + small, "too many elements")
    assert decode_map(b"\xa1\x01" + head(4, 500) + small * 500)
    refused(
        with_header(header(), b"\xa1\x18\x63" + head(4, many) + small * many), "too many elements"
    )


def test_text_that_is_not_utf8_is_refused_without_being_shown() -> None:
    for text in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"ok\x80"):
        walk_refused(b"\xa1\x01" + head(3, len(text)) + text, "UTF-8")
    with pytest.raises(MalformedObjectError) as caught:
        decode_map(b"\xa1\x01\x69secret\xff\xff\xff")
    assert "secret" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_claims_larger_than_64_kib_are_refused() -> None:
    walk_refused(cbor2.dumps({1: bytes(MAX_BYTES)}), "64 KiB")


def test_claims_need_not_be_in_their_shortest_form() -> None:
    assert decode_map(b"\xb8\x01\x19\x00\x01\x5b" + bytes(7) + b"\x01x") == {1: b"x"}
    assert decode_map(b"\xa2\x02\x02\x01\x01") == {1: 1, 2: 2}


@pytest.mark.parametrize("layout", ["e", "f", "d"])
def test_floats_of_every_width_are_read(layout: str) -> None:
    first = {"e": b"\xf9", "f": b"\xfa", "d": b"\xfb"}[layout]
    for value in (0.0, -1.5, math.inf, -math.inf):
        assert decode_map(b"\xa1\x01" + first + struct.pack(f">{layout}", value)) == {1: value}
    assert math.isnan(decode_map(b"\xa1\x01" + first + struct.pack(f">{layout}", math.nan))[1])


# Deterministic encoding.


def test_keys_are_in_bytewise_order_and_not_length_first() -> None:
    # RFC 8949 §4.2.1's own example, as far as its keys are ours: 10, 100, -1, "z", "aa".
    value = {"aa": 0, -1: 0, "z": 0, 100: 0, 10: 0}
    assert encode(value).hex() == "a5" + "0a00" + "186400" + "2000" + "617a00" + "62616100"
    assert encode(value) != cbor2.dumps(value, canonical=True)


def test_the_order_is_kept_at_every_depth() -> None:
    assert encode([{-1: {-1: 0, 100: 0}, 100: 0}]).hex() == "81a218640020a21864002000"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-24, "37"),
        (-25, "3818"),
        (-(2**64), "3bffffffffffffffff"),
        (0.0, "f90000"),
        (-0.0, "f98000"),
        (1.5, "f93e00"),
        (65504.0, "f97bff"),
        (65536.0, "fa47800000"),
        (1.1, "fb3ff199999999999a"),
        (1e300, "fb7e37e43c8800759c"),
        (5.960464477539063e-8, "f90001"),
        (math.inf, "f97c00"),
        (-math.inf, "f9fc00"),
        (math.nan, "f97e00"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        ("水", "63e6b0b4"),
        (b"", "40"),
        ((1, [2]), "82018102"),
        ({}, "a0"),
        (Algorithm.ES256, "26"),
        ({1: True}, "a101f5"),
    ],
)
def test_values_are_written_as_in_rfc_8949_appendix_a(value: Any, expected: str) -> None:
    assert encode(value).hex() == expected


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, "\ud800", {"\ud800": 1}])
def test_a_value_that_cbor_cannot_hold_is_not_written(value: Any) -> None:
    with pytest.raises(InvalidFieldError):
        encode(value)


def test_more_than_16_levels_are_not_written() -> None:
    value: list[Any] = []
    for _ in range(15):
        value = [value]
    encode(value)
    with pytest.raises(InvalidFieldError, match="levels"):
        encode([value])
    value.append(value)
    with pytest.raises(InvalidFieldError, match="levels"):
        encode(value)


@pytest.mark.parametrize("value", [object(), {1}, 1j, {True: 1}, {None: 1}, {b"": 1}, {1.0: 1}])
def test_a_foreign_type_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=40)
)
labels = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=30)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(labels, inner, max_size=4),
    max_leaves=12,
)
claim_sets = st.dictionaries(labels, values, max_size=6)


@given(claim_sets)
def test_claims_come_back_and_as_cbor2_reads_them(claims: dict[Any, Any]) -> None:
    written = encode(claims)
    assert decode_map(written) == claims
    assert cbor2.loads(written) == claims
    assert encode(decode_map(written)) == written


@given(claim_sets)
def test_claims_that_are_joined_are_those_that_are_written_at_once(claims: dict[Any, Any]) -> None:
    items = encode_items(claims)
    assert join(list(items.values())) == encode(claims)
    assert items.keys() == claims.keys()


@given(claim_sets)
def test_what_cbor2_writes_is_read(claims: dict[Any, Any]) -> None:
    for canonical in (False, True):
        assert decode_map(cbor2.dumps(claims, canonical=canonical)) == claims


@given(claim_sets)
def test_keys_are_strictly_ascending_bytes(claims: dict[Any, Any]) -> None:
    keys = [encode(key) for key in decode_map(encode(claims))]
    assert keys == sorted(set(keys))


# Nothing but the named errors, whatever comes.


def tried(data: bytes) -> Sign1 | None:
    try:
        return parse(data, TYP)
    except MalformedObjectError:
        return None


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_arbitrary_bytes_raise_only_the_named_error(data: bytes) -> None:
    assert tried(data) is None
    assert tried(b"\xd2\x84" + data) is None
    with contextlib.suppress(MalformedObjectError):
        decode_map(data)


@given(st.binary(max_size=64))
@settings(max_examples=500)
def test_an_arbitrary_protected_header_raises_only_the_named_error(data: bytes) -> None:
    assert tried(with_header_unsigned(data, b"\xa0")) is None
    tried(with_header_unsigned(cbor2.dumps(header()), data))


def with_header_unsigned(protected: bytes, unprotected: bytes) -> bytes:
    return b"\xd2\x84" + bstr(protected) + unprotected + bstr(PAYLOAD) + bstr(bytes(64))


@given(
    st.lists(
        st.tuples(st.integers(0, len(SIGNED) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    st.integers(0, 8),
    st.binary(max_size=8),
    st.integers(0, len(SIGNED)),
)
@settings(max_examples=500)
def test_a_mutated_object_never_verifies_with_other_content(
    edits: list[tuple[int, int]], cut: int, insert: bytes, at: int
) -> None:
    changed = bytearray(SIGNED)
    for index, byte in edits:
        changed[index] = byte
    changed[at : at + cut] = insert
    message = tried(bytes(changed))
    if message is not None:
        try:
            verify(message, [KEY.public])
        except (BadSignatureError, MalformedObjectError, UnknownIssuerError):
            return
        # What verifies may differ in the unprotected header, and nowhere else.
        original = parse(SIGNED, TYP)
        assert (message.protected, message.payload) == (original.protected, original.payload)


@given(st.integers(0, len(PAYLOAD) - 1), st.binary(max_size=12), st.integers(0, 12))
@settings(max_examples=500)
def test_mutated_claims_raise_only_the_named_error(at: int, insert: bytes, cut: int) -> None:
    with contextlib.suppress(MalformedObjectError):
        decode_map(PAYLOAD[:at] + insert + PAYLOAD[at + cut :])


def test_headers_are_remembered_within_bounds() -> None:
    from exchange.cose import _cached_header

    for _ in range(1100):
        tried(with_header_unsigned(cbor2.dumps(header(kid=os.urandom(8))), b"\xa0"))
    large = cbor2.dumps(header() | {99: bytes(900)})
    before = _cached_header.cache_info()
    assert tried(with_header_unsigned(large, b"\xa0")) is not None
    assert before == _cached_header.cache_info()
    assert before.currsize <= 1024
