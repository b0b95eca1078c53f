from __future__ import annotations

import base64
import contextlib
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import cwt
import pytest
from cwt import COSE, COSEKey
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import cbor, cose, statuslist
from exchange.cose import ObjectType
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    MalformedObjectError,
    TongxingError,
    UnknownIssuerError,
    UnknownProvinceError,
)
from exchange.keys import Algorithm, PrivateKey
from exchange.statuslist import (
    LIST_SIZE,
    LONGEST_TTL,
    Status,
    StatusLists,
    StatusReference,
    expand,
    list_uri,
    parse_uri,
)
from exchange.trust.profile import KeyState
from exchange.vouching import CLOCK_SKEW

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
URI = "spiffe://510000.tongxing/statuslists/12"
EMPTY = bytes(LIST_SIZE // 8)

classical = pytest.mark.parametrize(
    "algorithm", [Algorithm.ES256, Algorithm.EDDSA], ids=lambda a: a.name
)


def refused(
    kind: type[TongxingError], field: str, call: Callable[..., object], *args: object
) -> TongxingError:
    with pytest.raises(kind) as caught:
        call(*args)
    assert type(caught.value) is kind
    assert caught.value.field == field
    return caught.value


def with_bits(*indices: int, size: int = LIST_SIZE) -> bytes:
    bits = bytearray(size // 8)
    for index in indices:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def place(index: int, number: int = 12, province: str = SICHUAN) -> StatusReference:
    return StatusReference(province, number, index)


def signed(world: Any, bits: bytes = EMPTY, by: PrivateKey | None = None, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "province": SICHUAN,
        "number": 12,
        "issued_at": world.now,
        "ttl": HOUR,
    }
    return statuslist.sign(bits, **values | changes, signer=by or world.keys[SICHUAN])


def claims_of(world: Any, bits: bytes = EMPTY, **changes: Any) -> dict[Any, Any]:
    message = cose.parse(signed(world, bits, **changes), ObjectType.STATUS_LIST)
    return cbor.decode_map(message.payload)


def resigned(world: Any, claims: dict[Any, Any], typ: ObjectType = ObjectType.STATUS_LIST) -> bytes:
    return cose.sign(cbor.encode(claims), world.keys[SICHUAN], typ)


def verifying(world: Any, data: bytes, **trust: Any) -> statuslist.StatusList:
    return statuslist.verify(data, world.trust(**trust), world.now)


# The draft's own vectors (draft-ietf-oauth-status-list-21).


@pytest.mark.parametrize(
    ("bits", "lst", "raw", "statuses"),
    [
        (1, "78dadbb918000217015d", "b9a3", [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]),
        (2, "78da3be9f2130003df0207", "c944f9", [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]),
    ],
)
def test_the_lists_of_section_4_1(bits: int, lst: str, raw: str, statuses: list[int]) -> None:
    assert zlib.decompress(bytes.fromhex(lst)).hex() == raw
    expanded = expand(bytes.fromhex(lst), bits)
    read = [expanded[i >> 3] >> (i & 7) & 1 for i in range(len(expanded) * 8)]
    assert read[: len(statuses)] == [int(status != 0) for status in statuses]
    # What fills up the last byte is nobody's, and not valid.
    assert read[len(statuses) :] == [1] * (len(read) - len(statuses))


ONE_BIT = (
    "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAA"
    "AAAAAAAAAAAAAAAAAJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb"
)
TWO_BITS = (
    "eNrt2zENACEQAEEuoaBABP5VIO01fCjIHTMStt9ovGVIAAAAAABAbiEBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAEB5WwIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAID0ugQAAAAAAAAAAAAAAAAAQG12SgAAAAAAAAAAAAAAAAAAAAAAAAAAAOCSIQ"
    "EAAAAAAAAAAAAAAAAAAAAAAAD8ExIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwJEuAQAAAAAAAAAAAAAA"
    "AAAAAAAAAMB9SwIAAAAAAAAAAAAAAAAAAACoYUoAAAAAAAAAAAAAAEBqH81gAQw"
)
FOUR_BITS = (
    "eNrt0EENgDAQADAIHwImkIIEJEwCUpCEBBQRHOy35Li1EjoOQGabAgAAAAAAAAAAAAAAAAAAACC1SQEAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABADrsCAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADoxaEAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAIIoCgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACArpwKAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGhqVkAzlwIAAAAAiGVRAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAABx3AoAgLpVAQAAAAAAAAAAAAAAwM89rwMAAAAAAAAAAAjsA9xMBMA"
)
SPARSE = [0, 1993, 25460, 159495, 495669, 554353, 645645, 723232, 854545, 934534, 1000345]
CROWDED = [
    *(0, 1993, 35460, 459495, 595669, 754353, 845645, 923232),
    *(924445, 934534, 1004534, 1000345, 1030203, 1030204, 1030205),
]


@pytest.mark.parametrize(
    ("bits", "lst", "set_"),
    [(1, ONE_BIT, SPARSE), (2, TWO_BITS, SPARSE), (4, FOUR_BITS, CROWDED)],
)
def test_the_lists_of_appendix_c(bits: int, lst: str, set_: list[int]) -> None:
    packed = base64.urlsafe_b64decode(lst + "=" * (-len(lst) % 4))
    expanded = expand(packed, bits, most=1 << 20)
    assert expanded == with_bits(*set_, size=1 << 20)
    # They have 2^20 places, four times as many as a list of ours may have.
    refused(MalformedObjectError, "status_list.lst", expand, packed, bits)


THEIR_TOKEN = (
    "d2845820a2012610781a6170706c69636174696f6e2f7374617475736c6973742b637774a1044231325850a50278"
    "2168747470733a2f2f6578616d706c652e636f6d2f7374617475736c697374732f31061a648c5bea041a8898dfea"
    "19fffe19a8c019fffda2646269747301636c73744a78dadbb918000217015d584093fa4d01032b18c35e2fe1101b"
    "77fd6cc9440022caa4694450c4e4e9feab4e99d1fa6d9772ce2bf3a12e0323ded7c982c5e101a5e67f0cbc1e2b6f"
    "57ce99c279"
)


def test_the_token_of_section_5_2_has_our_claims_and_our_typ(world: Any) -> None:
    theirs = cbor2.loads(bytes.fromhex(THEIR_TOKEN))
    ours = cbor2.loads(signed(world))
    their_claims, our_claims = cbor2.loads(theirs.value[2]), cbor2.loads(ours.value[2])
    assert theirs.tag == ours.tag == 18
    assert their_claims.keys() == our_claims.keys()
    assert their_claims[65533].keys() == our_claims[65533].keys()
    assert cbor2.loads(theirs.value[0])[16] == cbor2.loads(ours.value[0])[16]
    # Read as it is, but for its URI (no province's) and its ttl and times, which are theirs.
    expanded = expand(their_claims[65533]["lst"], their_claims[65533]["bits"])
    assert expanded == b"\xb9\xa3"
    assert their_claims[65534] == LONGEST_TTL.total_seconds() / 2


@given(st.data())
@settings(max_examples=60)
def test_wider_statuses_are_read_as_the_draft_packs_them(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([1, 2, 4, 8]))
    statuses = data.draw(st.lists(st.sampled_from([0, 0, 1, (1 << bits) - 1]), max_size=70))
    packed = bytearray(-(-len(statuses) * bits // 8))
    for index, status in enumerate(statuses):
        packed[index * bits // 8] |= status << index * bits % 8
    expanded = expand(zlib.compress(packed), bits)
    for index, status in enumerate(statuses):
        assert expanded[index >> 3] >> (index & 7) & 1 == (status != 0)
    assert len(expanded) * 8 < len(packed) * 8 // bits + 8


# Signing and reading, with `cwt` as the oracle.


@given(st.sets(st.integers(0, LIST_SIZE - 1), max_size=50))
@settings(max_examples=25)
def test_what_a_province_signs_is_read_again(world: Any, revoked: set[int]) -> None:
    found = verifying(world, signed(world, with_bits(*revoked)))
    assert found.bits == with_bits(*revoked)
    assert (found.province, found.number, found.uri) == (SICHUAN, 12, URI)
    assert (found.issued_at, found.ttl) == (world.now, HOUR)
    assert found.expires_at == world.now + 2 * HOUR
    assert found.key == world.keys[SICHUAN].public
    assert all(found.revoked(index) for index in revoked)


@pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.name)
def test_a_list_of_any_content_fits_into_one_object(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    noise = world.keys[SICHUAN].sign(b"noise") * (LIST_SIZE // 8 // 64)
    bits = bytes(a ^ b for a, b in zip(noise, bytes(range(256)) * (LIST_SIZE // 2048), strict=True))
    for content in (bits, cbor.encode(list(range(20_000)))[: LIST_SIZE // 8]):
        data = signed(world, content, key)
        assert len(data) < 48 * 1024
        trust = world.trust((SICHUAN, key.public))
        assert statuslist.verify(data, trust, world.now).bits == content


@classical
def test_cwt_verifies_our_lists_and_reads_the_same_claims(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    issued = datetime.now(UTC).replace(microsecond=0)  # cwt looks at its own clock
    data = signed(world, with_bits(7, 4711), key, issued_at=issued)
    theirs = COSEKey.from_pem(
        key.public.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    claims: Any = cwt.decode(data, theirs)
    assert claims[2] == URI
    assert claims[6] == int(issued.timestamp())
    assert claims[4] == claims[6] + 7200
    assert claims[65534] == 3600
    assert claims[65533]["bits"] == 1
    assert zlib.decompress(claims[65533]["lst"]) == with_bits(7, 4711)


@classical
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_we_verify_what_cwt_signs(world: Any, algorithm: Algorithm, bits: int) -> None:
    key = PrivateKey.generate(algorithm)
    theirs = COSEKey.from_pem(
        key.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    statuses = bytearray(LIST_SIZE * bits // 8)
    for index, status in ((0, 1), (4711, (1 << bits) - 1), (LIST_SIZE - 1, 1)):
        statuses[index * bits // 8] |= status << index * bits % 8
    issued = int(world.now.timestamp())
    claims = {
        2: URI,
        6: issued,
        65534: 60,
        65533: {"bits": bits, "lst": zlib.compress(statuses), "aggregation_uri": "x"},
        "more": 1,
    }
    data = COSE.new().encode_and_sign(
        cbor2.dumps(claims),
        theirs,
        protected={1: int(algorithm), 4: key.public.kid, 16: "application/statuslist+cwt"},
    )
    found = statuslist.verify(data, world.trust((SICHUAN, key.public)), world.now)
    assert found.bits == with_bits(0, 4711, LIST_SIZE - 1)
    assert found.ttl == 60 * SECOND


def test_the_repr_shows_no_bits(world: Any) -> None:
    assert "bits" not in repr(verifying(world, signed(world)))


# URIs.


def test_a_uri_is_read_as_it_is_written() -> None:
    assert list_uri(SICHUAN, 12) == URI
    for number in (0, 9, 1 << 18, (1 << 32) - 1):
        uri = list_uri(GUANGDONG, number)
        assert parse_uri(uri) == (GUANGDONG, number)
        assert StatusReference.parse(uri, 5).uri == uri
    with pytest.raises(UnknownProvinceError):
        list_uri("830000", 1)


@given(st.text(max_size=80) | st.from_regex(r"spiffe://.{1,20}/statuslists/.{1,12}"))
def test_any_other_uri_is_refused_and_never_crashes(uri: str) -> None:
    with contextlib.suppress(MalformedObjectError):
        assert list_uri(*parse_uri(uri)) == uri


# Refusals.


def test_a_list_of_another_province_is_refused(world: Any) -> None:
    data = signed(world, by=world.keys[HUBEI])
    error = refused(BadSignatureError, "sub", verifying, world, data)
    assert "signed by 420000 in the name of 510000" in error.message


def test_a_list_that_nobody_known_signed_is_refused(world: Any) -> None:
    stranger = PrivateKey.generate(Algorithm.ES256)
    refused(UnknownIssuerError, "", verifying, world, signed(world, by=stranger))


@pytest.mark.parametrize(
    "sub",
    [None, 12, "", "https://example.com/statuslists/1", URI + "/", URI.replace("12", "012")],
)
def test_a_list_whose_sub_is_no_lists_uri_is_refused(world: Any, sub: Any) -> None:
    data = resigned(world, claims_of(world) | {2: sub})
    refused(MalformedObjectError, "sub", verifying, world, data)


def test_a_list_says_nothing_of_the_places_of_another(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    lists.offer(signed(world, number=13), trust, world.now)
    assert lists.status(place(5, 13), trust, world.now) is Status.VALID
    for other in (place(5, 12), place(5, 13, GUANGDONG)):
        assert lists.status(other, trust, world.now) is Status.STALE


def test_an_issuer_that_contradicts_the_uri_is_refused(world: Any) -> None:
    claims = claims_of(world)
    assert verifying(world, resigned(world, claims | {1: SICHUAN})).province == SICHUAN
    for iss in (GUANGDONG, None, "https://example.com"):
        data = resigned(world, claims | {1: iss})
        refused(MalformedObjectError, "iss", verifying, world, data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_zip_bomb_is_refused_without_being_unpacked(world: Any, bits: int) -> None:
    bomb = zlib.compress(bytes(48 << 20), 9)
    assert len(bomb) < 60_000
    claims = claims_of(world) | {65533: {"bits": bits, "lst": bomb}}
    data = resigned(world, claims)
    tracemalloc.start()
    try:
        refused(MalformedObjectError, "status_list.lst", verifying, world, data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_list_with_one_byte_too_many_is_refused(world: Any) -> None:
    for size, holds in ((LIST_SIZE // 8, True), (LIST_SIZE // 8 + 1, False)):
        claims = claims_of(world)
        claims[65533]["lst"] = zlib.compress(bytes(size))
        data = resigned(world, claims)
        if holds:
            assert verifying(world, data).size == LIST_SIZE
        else:
            refused(MalformedObjectError, "status_list.lst", verifying, world, data)
    refused(MalformedObjectError, "status_list.lst", signed, world, bytes(LIST_SIZE // 8 + 1))


def test_a_truncated_list_is_refused(world: Any) -> None:
    claims = claims_of(world, with_bits(*range(0, LIST_SIZE, 997)))
    whole = claims[65533]["lst"]
    for length in (0, 1, 2, len(whole) // 2, len(whole) - 4, len(whole) - 1):
        claims[65533]["lst"] = whole[:length]
        refused(MalformedObjectError, "status_list.lst", verifying, world, resigned(world, claims))
    data = signed(world)
    for length in range(0, len(data), 5):
        refused(MalformedObjectError, "", verifying, world, data[:length])


@pytest.mark.parametrize("more", [b"\0", zlib.compress(b"more")])
def test_a_list_that_goes_on_after_its_end_is_refused(world: Any, more: bytes) -> None:
    claims = claims_of(world)
    claims[65533]["lst"] += more
    refused(MalformedObjectError, "status_list.lst", verifying, world, resigned(world, claims))


def test_a_list_whose_checksum_is_wrong_is_refused(world: Any) -> None:
    claims = claims_of(world)
    lst = claims[65533]["lst"]
    for broken in (lst[:-1] + bytes([lst[-1] ^ 1]), b"junk", zlib.compress(EMPTY)[2:-4]):
        claims[65533]["lst"] = broken
        refused(MalformedObjectError, "status_list.lst", verifying, world, resigned(world, claims))


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ((65533,), None, "status_list"),
        ((65533,), [], "status_list"),
        ((65533, "lst"), None, "status_list.lst"),
        ((65533, "lst"), "eNrbuRgAAhcBXQ", "status_list.lst"),
        ((65533, "bits"), None, "status_list.bits"),
        ((65533, "bits"), True, "status_list.bits"),
        ((65533, "bits"), 0, "status_list.bits"),
        ((65533, "bits"), 3, "status_list.bits"),
        ((65533, "bits"), -1, "status_list.bits"),
        ((65533, "bits"), 16, "status_list.bits"),
        ((65533, "bits"), 1 << 63, "status_list.bits"),
        ((6,), None, "iat"),
        ((6,), 1.5, "iat"),
        ((4,), None, "exp"),
        ((4,), "x", "exp"),
        ((5,), -1, "nbf"),
    ],
)
def test_a_claim_that_is_missing_or_wrong_is_refused(
    world: Any, path: tuple[Any, ...], value: Any, field: str
) -> None:
    claims = claims_of(world)
    inner = claims
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    refused(MalformedObjectError, field, verifying, world, resigned(world, claims))


@pytest.mark.parametrize("ttl", [None, 0, -1, 86_401, 1 << 63, 60.0, True, "60"])
def test_a_ttl_that_is_missing_zero_negative_or_huge_is_refused(world: Any, ttl: Any) -> None:
    data = resigned(world, claims_of(world) | {65534: ttl})
    refused(MalformedObjectError, "ttl", verifying, world, data)


@pytest.mark.parametrize("ttl", [0 * HOUR, SECOND / 2, -HOUR, LONGEST_TTL + SECOND])
def test_a_ttl_that_nobody_would_accept_is_not_signed(world: Any, ttl: timedelta) -> None:
    with pytest.raises(MalformedObjectError) as caught:
        signed(world, ttl=ttl)
    assert caught.value.field == "ttl"


def test_an_expired_list_is_refused(world: Any) -> None:
    data, trust = signed(world, with_bits(5)), world.trust()
    end = world.now + 2 * HOUR
    assert statuslist.verify(data, trust, end - SECOND).revoked(5)
    refused(ExpiredError, "exp", statuslist.verify, data, trust, end)
    refused(ExpiredError, "exp", StatusLists().offer, data, trust, end)
    claims = claims_of(world)
    del claims[4]  # optional: then it ends when ours would
    data = resigned(world, claims)
    assert statuslist.verify(data, trust, end - SECOND).expires_at == end
    refused(ExpiredError, "exp", statuslist.verify, data, trust, end)


def test_an_exp_before_the_ttl_ends_the_list(world: Any) -> None:
    trust = world.trust()
    data = resigned(world, claims_of(world) | {4: int(world.now.timestamp()) + 60})
    found = statuslist.verify(data, trust, world.now)
    assert found.fresh(world.now + 59 * SECOND)
    assert not found.fresh(world.now + 60 * SECOND)


def test_a_list_from_the_future_is_refused(world: Any) -> None:
    trust, early = world.trust(), world.now - CLOCK_SKEW
    data = signed(world)
    assert statuslist.verify(data, trust, early).fresh(early)
    refused(FutureTimeError, "iat", statuslist.verify, data, trust, early - SECOND)
    last = resigned(world, claims_of(world) | {4: 253402300799, 6: 253402300799})
    refused(FutureTimeError, "iat", verifying, world, last)
    later = int((world.now + CLOCK_SKEW).timestamp())
    assert verifying(world, resigned(world, claims_of(world) | {5: later}))
    data = resigned(world, claims_of(world) | {5: later + 1})
    refused(FutureTimeError, "nbf", verifying, world, data)


def test_a_clock_set_back_makes_no_list_fresh(world: Any) -> None:
    found = verifying(world, signed(world))
    assert not found.fresh(world.now - CLOCK_SKEW - SECOND)


@pytest.mark.parametrize("typ", [t for t in ObjectType if t is not ObjectType.STATUS_LIST])
def test_an_object_of_another_typ_is_refused(world: Any, typ: ObjectType) -> None:
    refused(MalformedObjectError, "", verifying, world, resigned(world, claims_of(world), typ))


def test_a_token_without_its_tag_is_refused(world: Any) -> None:
    data = signed(world)
    refused(MalformedObjectError, "", verifying, world, data[1:])
    refused(MalformedObjectError, "", verifying, world, b"\xd8\x3d" + data)  # the CWT tag, 61


def test_a_changed_list_is_refused(world: Any) -> None:
    data = signed(world)
    changed = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    refused(BadSignatureError, "", verifying, world, changed)


@pytest.mark.parametrize(
    ("state", "since", "holds"),
    [
        (KeyState.PREPARED, -HOUR, True),
        (KeyState.ACTIVE, -HOUR, True),
        (KeyState.OLD, SECOND, True),
        (KeyState.OLD, 0 * HOUR, False),
        (KeyState.TAINTED, SECOND, True),
        (KeyState.TAINTED, 0 * HOUR, False),
        (KeyState.REVOKED, SECOND, False),
    ],
)
def test_a_key_vouches_only_for_what_its_state_lets_it(
    world: Any, state: KeyState, since: timedelta, holds: bool
) -> None:
    trust = world.trust(p510000=state, since=world.now + since)
    lists = StatusLists()
    lists.offer(signed(world), world.trust(), world.now)
    if holds:
        assert statuslist.verify(signed(world), trust, world.now)
        assert lists.status(place(1), trust, world.now) is Status.VALID
    else:
        refused(UnknownIssuerError, "kid", statuslist.verify, signed(world), trust, world.now)
        assert lists.status(place(1), trust, world.now) is Status.STALE


@given(st.data())
@settings(max_examples=200)
def test_mutated_lists_are_refused_by_name_and_never_crash(world: Any, data: st.DataObject) -> None:
    anything = (
        st.none()
        | st.booleans()
        | st.integers(-(1 << 64), (1 << 64) - 1)
        | st.floats()
        | st.binary(max_size=20)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.sampled_from([253402300799, 253402300800, URI, GUANGDONG, zlib.compress(b"x")])
    )
    claims = claims_of(world)
    for _ in range(data.draw(st.integers(1, 3))):
        inner, names = claims, [1, 2, 4, 5, 6, 65533, 65534]
        if isinstance(claims.get(65533), dict) and data.draw(st.booleans()):
            inner, names = claims[65533], ["bits", "lst"]
        inner[data.draw(st.sampled_from(names))] = data.draw(anything)
    with contextlib.suppress(TongxingError):
        verifying(world, resigned(world, claims))


# The lists at hand.


def test_an_index_beyond_the_end_is_not_valid(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    held = lists.offer(signed(world, bytes(10)), trust, world.now)
    assert lists.status(place(79), trust, world.now) is Status.VALID
    assert lists.status(place(80), trust, world.now) is Status.STALE
    assert lists.status(place(LIST_SIZE), trust, world.now) is Status.STALE
    assert lists.status(place(-1), trust, world.now) is Status.STALE
    for index in (-1, 80, LIST_SIZE, 1 << 63):
        refused(MalformedObjectError, "idx", held.revoked, index)
    empty = verifying(world, signed(world, b""))
    refused(MalformedObjectError, "idx", empty.revoked, 0)
    refused(MalformedObjectError, "idx", StatusReference.parse, URI, LIST_SIZE)


def test_no_list_at_hand_is_stale(world: Any) -> None:
    assert StatusLists().status(place(1), world.trust(), world.now) is Status.STALE


def test_a_list_counts_for_its_ttl_and_what_it_revokes_for_good(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    lists.offer(signed(world, with_bits(5)), trust, world.now)
    for later, valid in (
        (0 * HOUR, Status.VALID),
        (HOUR - SECOND, Status.VALID),
        (HOUR, Status.STALE),
        (1000 * HOUR, Status.STALE),
    ):
        assert lists.status(place(4), trust, world.now + later) is valid
        assert lists.status(place(5), trust, world.now + later) is Status.REVOKED


def test_a_list_held_back_gains_nothing(world: Any) -> None:
    lists, trust, late = StatusLists(), world.trust(), world.now + HOUR
    assert not lists.offer(signed(world), trust, late).fresh(late)
    assert lists.status(place(4), trust, late) is Status.STALE


def test_a_list_older_than_the_one_held_takes_nothing_back(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    older = signed(world, with_bits(1), issued_at=world.now - HOUR / 2)
    newer = lists.offer(signed(world, with_bits(2)), trust, world.now)
    held = lists.offer(older, trust, world.now)
    assert (held.issued_at, held.ttl) == (newer.issued_at, newer.ttl)
    assert lists.status(place(2), trust, world.now) is Status.REVOKED
    # What it revoked was revoked, though the newer forgot it.
    assert lists.status(place(1), trust, world.now) is Status.REVOKED
    assert lists.status(place(3), trust, world.now + HOUR - SECOND) is Status.VALID


def test_a_list_that_clears_a_bit_is_not_believed_in_that(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    lists.offer(signed(world, with_bits(5)), trust, world.now)
    for later in (0 * HOUR, SECOND, HOUR):
        at = world.now + later
        held = lists.offer(signed(world, with_bits(6), issued_at=at), trust, at)
        assert held.issued_at == at
        assert lists.status(place(5), trust, at) is Status.REVOKED
        assert lists.status(place(6), trust, at) is Status.REVOKED
        assert lists.status(place(7), trust, at) is Status.VALID


def test_a_list_that_shrinks_is_refused(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    lists.offer(signed(world, with_bits(5)), trust, world.now)
    shorter = signed(world, EMPTY[:-1], issued_at=world.now + SECOND)
    refused(MalformedObjectError, "status_list.lst", lists.offer, shorter, trust, world.now)
    assert lists.status(place(LIST_SIZE - 1), trust, world.now) is Status.VALID


def test_what_a_revoked_key_said_counts_neither_way(world: Any) -> None:
    lists = StatusLists()
    thief = PrivateKey.generate(Algorithm.ES256)
    both, alone = world.trust((SICHUAN, thief.public)), world.trust()
    lists.offer(signed(world, with_bits(8)), both, world.now)
    lists.offer(
        signed(world, with_bits(5), issued_at=world.now + SECOND, by=thief), both, world.now
    )
    assert lists.status(place(5), both, world.now) is Status.REVOKED
    for index in (5, 8, 9):
        assert lists.status(place(index), alone, world.now) is Status.STALE
    lists.offer(signed(world, with_bits(8)), alone, world.now)
    assert lists.status(place(5), alone, world.now) is Status.VALID
    assert lists.status(place(8), alone, world.now) is Status.REVOKED


def test_what_was_refused_leaves_what_is_held(world: Any) -> None:
    lists, trust = StatusLists(), world.trust()
    held = lists.offer(signed(world, with_bits(5)), trust, world.now)
    forged = signed(world, by=PrivateKey.generate(Algorithm.ES256), issued_at=world.now + SECOND)
    for bad in (forged, signed(world)[:-1], b""):
        with pytest.raises(TongxingError):
            lists.offer(bad, trust, world.now)
    assert lists.offer(signed(world, with_bits(5)), trust, world.now) == held


def test_no_province_crowds_out_the_lists_of_another(world: Any) -> None:
    lists, trust = StatusLists(remember=4), world.trust()
    lists.offer(
        signed(world, by=world.keys[GUANGDONG], province=GUANGDONG, number=1), trust, world.now
    )
    for number in (0, 1, 2, 0, 3, 4, 5):
        lists.offer(signed(world, number=number), trust, world.now)
    assert lists.status(place(1, 1, GUANGDONG), trust, world.now) is Status.VALID
    held = [
        number
        for number in range(6)
        if lists.status(place(1, number), trust, world.now) is Status.VALID
    ]
    assert held == [3, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 30), st.sets(st.integers(0, 15))), max_size=8))
@settings(max_examples=50)
def test_whatever_the_order_all_that_was_ever_revoked_stays_so(
    world: Any, offers: list[tuple[int, set[int]]]
) -> None:
    lists, trust = StatusLists(), world.trust()
    revoked: set[int] = set()
    for minutes_ago, bits in offers:
        at = world.now - minutes_ago * HOUR / 60
        lists.offer(signed(world, with_bits(*bits, size=16), issued_at=at), trust, world.now)
        revoked |= bits
        for index in range(16):
            expected = Status.REVOKED if index in revoked else Status.VALID
            assert lists.status(place(index), trust, world.now) is expected


def test_statuses_and_lists_have_words() -> None:
    assert {status.text.zh for status in Status} == {"有效", "撤销", "数据过旧"}
    assert replace(place(1), index=2).uri == URI
