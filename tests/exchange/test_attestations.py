from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import cwt
import pytest
from cwt import COSE, COSEKey
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import attestations, cbor, cose, views
from exchange.attestations import CLOCK_SKEW, LIFE, AttestationVerifier, check_colour
from exchange.cose import ObjectType
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    MalformedObjectError,
    TongxingError,
    TrustListError,
    UnexplainedColourError,
    UnknownIssuerError,
    UnknownProvinceError,
)
from exchange.facts import Colour, Fact, HealthCodeStatus, NucleicAcidTest, TestResult, Vaccination
from exchange.keys import Algorithm, PrivateKey
from exchange.statuslist import LIST_SIZE, StatusReference
from exchange.subjects import DocumentType
from exchange.trust.profile import KeyState

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
WHY = ("reason", "legal_basis", "assigned_by", "guidance")

every_algorithm = pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.name)
classical = pytest.mark.parametrize(
    "algorithm", [Algorithm.ES256, Algorithm.EDDSA], ids=lambda a: a.name
)


PLACES = st.builds(
    StatusReference,
    st.just(SICHUAN),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, LIST_SIZE - 1),
)


def refused(
    kind: type[TongxingError], field: str, call: Callable[..., object], *args: object
) -> TongxingError:
    """The call raises exactly that error, under the reason of its class, at that field."""
    with pytest.raises(kind) as caught:
        call(*args)
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.field) == (kind.reason, field)
    return caught.value


def claims_of(world: Any, **changes: Any) -> dict[Any, Any]:
    return cbor.decode_map(attestations.encode(world.attestation(**changes)))


def decode(claims: dict[Any, Any]) -> attestations.Attestation:
    return attestations.decode(cbor.encode(claims))


# Signing and reading.


@given(st.data())
@settings(max_examples=100)
def test_what_a_province_signs_is_read_again(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    fact = data.draw(facts)
    latest = max(
        value for name in type(fact).__slots__ if isinstance(value := getattr(fact, name), datetime)
    )
    attestation = world.attestation(fact, issued_at=latest)
    attestation = replace(
        attestation,
        supersedes=data.draw(st.none() | st.just(world.id())),
        status=data.draw(st.none() | PLACES),
    )
    assert attestations.decode(attestations.encode(attestation)) == attestation


@every_algorithm
def test_every_algorithm_signs_and_verifies(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    attestation = world.attestation()
    trust = world.trust((SICHUAN, key.public))
    signed = world.sign(attestation, key)
    assert AttestationVerifier().verify(signed, trust, world.now) == attestation


@classical
def test_cwt_verifies_our_attestations_and_reads_the_same_claims(
    world: Any, algorithm: Algorithm
) -> None:
    key = PrivateKey.generate(algorithm)
    sampled = datetime.now(UTC).replace(microsecond=0) - HOUR  # cwt looks at its own clock
    attestation = world.attestation(NucleicAcidTest(sampled, TestResult.NEGATIVE))
    theirs = COSEKey.from_pem(
        key.public.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    claims: Any = cwt.decode(world.sign(attestation, key), theirs)
    issued = int(attestation.issued_at.timestamp())
    assert claims[1] == "510000"
    assert (claims[4], claims[5], claims[6]) == (
        int(attestation.expires_at.timestamp()),
        issued,
        issued,
    )
    assert UUID(bytes=claims[7]) == attestation.id
    assert claims[-70001] == {
        "kind": "NUCLEIC_ACID_TEST",
        "result": "NEGATIVE",
        "sampled_at": int(sampled.timestamp()),
        "data_as_of": int(sampled.timestamp()),
        "issuer": {"credit_code": world.lab.credit_code, "name": world.lab.name},
    }
    assert claims[-70002]["name"] == "胡*君"
    assert claims == cbor.decode_map(attestations.encode(attestation))


@classical
def test_we_verify_what_cwt_signs(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    attestation = world.attestation()
    theirs = COSEKey.from_pem(
        key.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    signed = COSE.new().encode_and_sign(
        attestations.encode(attestation),
        theirs,
        protected={1: int(algorithm), 4: key.public.kid, 16: str(ObjectType.ATTESTATION)},
    )
    trust = world.trust((SICHUAN, key.public))
    assert AttestationVerifier().verify(signed, trust, world.now) == attestation


def test_claims_of_a_later_version_are_passed_over(world: Any) -> None:
    claims = claims_of(world)
    claims |= {65535: {"identifier_list": {"id": b"1"}}, "next": None}
    claims[-70001]["lab_method"] = "RT-PCR"
    claims[-70002]["portrait"] = b""
    assert decode(claims).province == SICHUAN
    assert decode(claims).status is None


# The status claim.

PLACE = StatusReference(SICHUAN, 12, 200_000)


def with_status(world: Any, **changes: Any) -> dict[Any, Any]:
    claims = claims_of(world, status=PLACE)
    claims[65535]["status_list"] |= changes
    return claims


def test_the_status_claim_is_written_as_the_draft_has_it_and_read_again(world: Any) -> None:
    attestation = world.attestation(status=PLACE)
    claims = cbor.decode_map(attestations.encode(attestation))
    uri = "spiffe://510000.tongxing/statuslists/12"
    assert claims[65535] == {"status_list": {"idx": 200_000, "uri": uri}}
    assert decode(claims) == attestation
    assert 65535 not in claims_of(world)
    assert decode(claims_of(world)).status is None


def test_members_of_the_status_claim_that_come_later_are_passed_over(world: Any) -> None:
    claims = with_status(world, later=1)
    claims[65535]["identifier_list"] = {}
    assert decode(claims).status == PLACE


def test_a_status_in_another_provinces_list_is_refused(world: Any) -> None:
    claims = with_status(world, uri="spiffe://440000.tongxing/statuslists/12")
    refused(MalformedObjectError, "status.status_list.uri", decode, claims)


@pytest.mark.parametrize(
    "uri",
    [
        None,
        12,
        b"spiffe://510000.tongxing/statuslists/12",
        "",
        "https://510000.tongxing/statuslists/12",
        "spiffe://510000.tongxing/statuslists/",
        "spiffe://510000.tongxing/statuslists/012",
        "spiffe://510000.tongxing/statuslists/-1",
        "spiffe://510000.tongxing/statuslists/12/",
        "spiffe://510000.tongxing/statuslists/12?x",
        "spiffe://510000.tongxing/statuslists/12\n",
        "spiffe://510000.tongxing/statuslists/１２",
        "spiffe://510000.tongxing/statuslists/4294967296",
        "spiffe://510000.tongxing:1/statuslists/12",
        "spiffe://a@510000.tongxing/statuslists/12",
        "spiffe://999999.tongxing/statuslists/12",
        "SPIFFE://510000.tongxing/statuslists/12",
        "spiffe://510000.tongxing/statuslists/12" + "0" * 60_000,
    ],
)
def test_a_status_whose_uri_is_no_lists_is_refused(world: Any, uri: Any) -> None:
    claims = with_status(world, uri=uri)
    refused(MalformedObjectError, "status.status_list.uri", decode, claims)


@pytest.mark.parametrize("index", [None, -1, 1 << 18, 1 << 63, True, 1.0, "1", [1]])
def test_a_status_whose_index_is_no_place_is_refused(world: Any, index: Any) -> None:
    refused(MalformedObjectError, "status.status_list.idx", decode, with_status(world, idx=index))


@pytest.mark.parametrize("value", [None, 1, "x", [], b""])
def test_a_status_that_is_no_map_is_refused(world: Any, value: Any) -> None:
    claims = claims_of(world)
    refused(MalformedObjectError, "status", decode, {**claims, 65535: value})
    inner = {**claims, 65535: {"status_list": value}}
    refused(MalformedObjectError, "status.status_list", decode, inner)


def test_the_digest_leaves_the_status_out(world: Any) -> None:
    once = world.attestation()
    for place in (PLACE, replace(PLACE, index=1)):
        assert attestations.digest(replace(once, status=place)) == attestations.digest(once)


def test_the_view_shows_the_status(world: Any) -> None:
    shown = views.attestation_to_proto(b"", world.attestation(status=PLACE))
    assert (shown.status.uri, shown.status.index) == (PLACE.uri, 200_000)
    assert not views.attestation_to_proto(b"", world.attestation()).HasField("status")


def test_the_digest_is_of_what_was_said_and_not_of_when_it_was_signed(world: Any) -> None:
    once = world.attestation()
    again = replace(once, issued_at=once.issued_at + HOUR)
    assert attestations.digest(once) == attestations.digest(again)
    for change in (
        {"fact": world.test(13)},
        {"token": bytes(36)},
        {"expires_at": once.expires_at - SECOND},
        {"issuer": world.other_lab},
        {"supersedes": world.id()},
        {"holder": replace(once.holder, name="李*")},
    ):
        assert attestations.digest(replace(once, **change)) != attestations.digest(once)


@given(st.data())
def test_what_is_signed_and_digested_at_once_is_as_each_alone(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    places = st.sampled_from([None, PLACE])
    said = world.attestation(
        data.draw(facts), issued_at=world.now, status=data.draw(places), supersedes=world.id()
    )
    key = world.keys[SICHUAN]
    signed, digest = attestations.sign_and_digest(said, key)
    message = cose.parse(signed, ObjectType.ATTESTATION)
    assert cose.verify(message, [key.public]) == key.public
    assert message.payload == attestations.encode(said)
    claims = cbor.decode_map(message.payload)
    for own in (5, 6, 65535):  # nbf, iat, status: the province's, not the issuer's
        claims.pop(own, None)
    assert digest == hashlib.sha256(cbor.encode(claims)).digest() == attestations.digest(said)


def test_the_repr_shows_no_token(world: Any) -> None:
    assert "token" not in repr(world.attestation())


# Claims.


@pytest.mark.parametrize(
    ("label", "field"),
    [
        (1, "iss"),
        (2, "sub"),
        (4, "exp"),
        (5, "nbf"),
        (6, "iat"),
        (7, "cti"),
        (-70001, "health"),
        (-70002, "holder"),
    ],
)
@pytest.mark.parametrize("value", [..., None, 1.5, True, [], -1])
def test_a_claim_that_is_missing_or_of_a_wrong_type_is_refused(
    world: Any, label: int, field: str, value: Any
) -> None:
    claims = claims_of(world)
    if value is ...:
        del claims[label]
    else:
        claims[label] = value
    refused(MalformedObjectError, field, decode, claims)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ((1,), "999999", "iss"),
        ((1,), "510100", "iss"),
        ((2,), "A" * 47, "sub"),
        ((2,), "A" * 52, "sub"),
        ((2,), "=" * 48, "sub"),
        ((2,), "é" * 48, "sub"),
        ((7,), bytes(15), "cti"),
        ((-70001, "supersedes"), bytes(17), "supersedes"),
        ((-70001, "supersedes"), "x", "health.supersedes"),
        ((-70001, "kind"), "UNKNOWN", "health.kind"),
        ((-70001, "data_as_of"), None, "health.data_as_of"),
        ((-70001, "issuer"), "a hospital", "health.issuer"),
        ((-70001, "issuer", "name"), None, "health.issuer.name"),
        ((-70001, "issuer", "credit_code"), 91, "health.issuer.credit_code"),
        ((-70002, "name"), b"x", "holder.name"),
        ((-70002, "document_type"), "111", "holder.document_type"),
        ((-70002, "document_type"), "UNSPECIFIED", "holder.document_type"),
        ((-70002, "document_number"), 51, "holder.document_number"),
    ],
)
def test_a_claim_with_a_wrong_value_is_refused(
    world: Any, path: tuple[Any, ...], value: Any, field: str
) -> None:
    claims = claims_of(world)
    inner = claims
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    refused(MalformedObjectError, field, decode, claims)


def test_an_unknown_province_is_refused(world: Any) -> None:
    refused(MalformedObjectError, "iss", decode, {**claims_of(world), 1: "830000"})
    refused(UnknownProvinceError, "province", world.trust().profile, "830000")
    unusable = replace(world.trust(without=HUBEI), unusable={HUBEI: "expired"})
    refused(TrustListError, "", unusable.profile, HUBEI)


def test_times_that_contradict_each_other_are_refused(world: Any) -> None:
    whole = world.attestation()
    fact, issued = whole.fact, whole.issued_at
    refused(MalformedObjectError, "nbf", decode, {**claims_of(world), 5: 1})
    for changes, field in (
        ({"expires_at": whole.expires_at + SECOND}, "exp"),
        ({"issued_at": fact.sampled_at - CLOCK_SKEW - SECOND}, "health.sampled_at"),
        (
            {"fact": replace(fact, result_at=issued + CLOCK_SKEW + SECOND)},
            "health.result_at",
        ),
    ):
        claims = attestations.encode(replace(whole, **changes))
        refused(MalformedObjectError, field, attestations.decode, claims)


@pytest.mark.parametrize("label", [4, 6])
def test_a_time_at_the_end_of_the_calendar_is_refused_without_a_crash(
    world: Any, label: int
) -> None:
    last = 253402300799
    claims = claims_of(world)
    claims[-70001]["sampled_at"] = last
    claims[4] = last
    claims[5] = claims[6] = last if label == 6 else 0
    if label == 6:
        assert decode(claims).fact.sampled_at.year == 9999
    else:
        refused(MalformedObjectError, "health.sampled_at", decode, claims)


@pytest.mark.parametrize("missing", WHY)
@pytest.mark.parametrize("colour", [Colour.RED, Colour.YELLOW, Colour.UNSPECIFIED])
@pytest.mark.parametrize("empty", ["", "  ", "\u200b", "-", "……"])
def test_a_status_that_is_not_green_without_its_reason_is_refused(
    world: Any, missing: str, colour: Colour, empty: str
) -> None:
    told = world.status("RED")
    fact = replace(told, colour=colour, **{missing: empty})
    refused(UnexplainedColourError, f"health.{missing}", check_colour, fact, "health")
    signed = world.signed(fact)
    verify = AttestationVerifier().verify
    refused(UnexplainedColourError, f"health.{missing}", verify, signed, world.trust(), world.now)
    assert decode(claims_of(world, fact=told)).fact == told


def test_a_green_status_needs_no_reason(world: Any) -> None:
    check_colour(HealthCodeStatus(world.now, Colour.GREEN), "health")


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = [p for key, item in value.items() for p in _paths(item, (*at, key))]
    return [at, *inner] if isinstance(value, dict) else [at]


CBOR = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
    | st.sampled_from(["RED", "RECOVERY", "440000", bytes(16)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(-5, 5) | st.text("kind", max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


EXTREMES = st.sampled_from([-1, 0, 1 << 32, 253402300799, 253402300800, (1 << 64) - 1])


@given(st.data())
@settings(max_examples=400)
def test_mutated_claims_are_refused_by_name_and_never_crash(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    claims = claims_of(world, fact=data.draw(facts))
    for _ in range(data.draw(st.integers(1, 3))):
        inner, names = claims, [1, 2, 4, 5, 6, 7, 65535, -70001, -70002]
        if isinstance(claims.get(-70001), dict) and data.draw(st.booleans()):
            inner = claims[-70001]
            names = [*inner, "supersedes", "result_at"]
        name = data.draw(st.sampled_from(names))
        if data.draw(st.booleans()):
            inner[name] = data.draw(EXTREMES | CBOR)
        else:
            inner.pop(name, None)
    payload = cbor.encode(claims)
    with contextlib.suppress(MalformedObjectError, UnexplainedColourError):
        read = attestations.decode(payload)
        assert attestations.decode(attestations.encode(read)) == read


@given(st.binary(max_size=60), st.data())
def test_mutated_bytes_are_refused_by_name_and_never_crash(
    world: Any, junk: bytes, data: st.DataObject
) -> None:
    payload = bytearray(attestations.encode(world.attestation()))
    at = data.draw(st.integers(0, len(payload)))
    payload[at : at + data.draw(st.integers(0, 8))] = junk[: data.draw(st.integers(0, 8))]
    for candidate in (bytes(payload), junk):
        with contextlib.suppress(MalformedObjectError, UnexplainedColourError):
            attestations.decode(candidate)


# Verification.


def verifying(world: Any, signed: bytes, **trust: Any) -> Any:
    return AttestationVerifier().verify(signed, world.trust(**trust), world.now)


def test_a_truncated_object_is_refused(world: Any) -> None:
    signed = world.signed()
    for length in range(0, len(signed), 7):
        refused(MalformedObjectError, "", verifying, world, signed[:length])


def test_an_oversized_object_is_refused(world: Any) -> None:
    words = "因" * (cbor.MAX_BYTES // 3)
    fact = replace(world.status("RED"), reason=words)
    refused(MalformedObjectError, "", world.signed, fact)
    refused(MalformedObjectError, "", verifying, world, world.signed() + bytes(64 * 1024))


@pytest.mark.parametrize("typ", [t for t in ObjectType if t is not ObjectType.ATTESTATION])
def test_an_object_of_another_typ_is_refused(world: Any, typ: ObjectType) -> None:
    signed = cose.sign(attestations.encode(world.attestation()), world.keys[SICHUAN], typ)
    refused(MalformedObjectError, "", verifying, world, signed)


def test_an_object_whose_alg_was_swapped_is_refused(world: Any) -> None:
    signed = world.signed()
    swapped = signed.replace(b"\xa3\x01\x26\x04", b"\xa3\x01\x27\x04")  # ES256 → EdDSA
    assert swapped != signed
    refused(MalformedObjectError, "", verifying, world, swapped)


def test_a_changed_payload_is_refused(world: Any) -> None:
    signed = world.signed(world.test(result="POSITIVE"))
    refused(BadSignatureError, "", verifying, world, signed.replace(b"POSITIVE", b"NEGATIVE"))


def test_a_key_of_another_province_is_refused(world: Any) -> None:
    signed = world.sign(world.attestation(), world.keys[HUBEI])
    error = refused(BadSignatureError, "iss", verifying, world, signed)
    assert "signed by 420000 in the name of 510000" in error.message


def test_another_province_cannot_lend_a_revoked_key_new_life(world: Any) -> None:
    trust = world.trust((HUBEI, world.keys[SICHUAN].public), p510000=KeyState.REVOKED)
    verify = AttestationVerifier().verify
    refused(UnknownIssuerError, "kid", verify, world.signed(), trust, world.now)


def test_a_key_that_nobody_published_is_refused(world: Any) -> None:
    stranger = PrivateKey.generate(Algorithm.ES256)
    refused(UnknownIssuerError, "", verifying, world, world.sign(world.attestation(), stranger))


def test_an_attestation_that_has_ended_is_refused(world: Any) -> None:
    attestation = world.attestation()
    verifier, trust, signed = AttestationVerifier(), world.trust(), world.sign(attestation)
    end = attestation.expires_at
    assert verifier.verify(signed, trust, end - SECOND) == attestation
    refused(ExpiredError, "exp", verifier.verify, signed, trust, end)
    refused(ExpiredError, "exp", AttestationVerifier().verify, signed, trust, end + 1000 * HOUR)


def test_an_attestation_from_the_future_is_refused(world: Any) -> None:
    attestation = world.attestation()
    verifier, trust, signed = AttestationVerifier(), world.trust(), world.sign(attestation)
    early = attestation.issued_at - CLOCK_SKEW
    refused(FutureTimeError, "iat", verifier.verify, signed, trust, early - SECOND)
    assert verifier.verify(signed, trust, early) == attestation


SINCE = datetime(2022, 1, 9, 16, 30, tzinfo=UTC)


@pytest.mark.parametrize("remembered", [False, True], ids=["new", "remembered"])
@pytest.mark.parametrize(
    ("state", "issued", "holds"),
    [
        (KeyState.PREPARED, -SECOND, True),
        (KeyState.PREPARED, SECOND, True),
        (KeyState.ACTIVE, -SECOND, True),
        (KeyState.ACTIVE, SECOND, True),
        (KeyState.OLD, -SECOND, True),
        (KeyState.OLD, 0 * SECOND, False),
        (KeyState.OLD, SECOND, False),
        (KeyState.TAINTED, -SECOND, True),
        (KeyState.TAINTED, 0 * SECOND, False),
        (KeyState.TAINTED, SECOND, False),
        (KeyState.REVOKED, -1000 * HOUR, False),
        (KeyState.REVOKED, SECOND, False),
    ],
)
def test_a_key_vouches_only_for_what_its_state_lets_it(
    world: Any, state: KeyState, issued: timedelta, holds: bool, remembered: bool
) -> None:
    at = SINCE + issued
    fact = Vaccination(at - HOUR, "CoronaVac", 2, 2)
    attestation = world.attestation(fact, issued_at=at)
    signed = world.sign(attestation)
    verifier = AttestationVerifier()
    if remembered:
        verifier.verify(signed, world.trust(), world.now)
    trust = world.trust(p510000=state, since=SINCE)
    if holds:
        assert verifier.verify(signed, trust, world.now) == attestation
    else:
        error = refused(UnknownIssuerError, "kid", verifier.verify, signed, trust, world.now)
        assert error.message == f"the key is {state.value} since 2022-01-09T16:30:00Z"


# The verifier's memory.


def test_the_memory_does_not_outlive_the_key(world: Any) -> None:
    verifier, signed = AttestationVerifier(), world.signed()
    verifier.verify(signed, world.trust(), world.now)
    revoked = world.trust(p510000=KeyState.REVOKED)
    refused(UnknownIssuerError, "kid", verifier.verify, signed, revoked, world.now)
    gone = world.trust(without=SICHUAN)
    refused(UnknownIssuerError, "kid", verifier.verify, signed, gone, world.now)
    verifier.verify(signed, world.trust(), world.now)


def test_the_memory_is_not_fooled_by_the_same_bytes_under_another_trust_list(world: Any) -> None:
    verifier, signed = AttestationVerifier(), world.signed()
    verifier.verify(signed, world.trust(), world.now)
    elsewhere = world.trust((HUBEI, world.keys[SICHUAN].public), without=SICHUAN)
    refused(BadSignatureError, "iss", verifier.verify, signed, elsewhere, world.now)
    other = type(world)()
    refused(UnknownIssuerError, "kid", verifier.verify, signed, other.trust(), world.now)


def test_what_was_refused_is_not_remembered(world: Any) -> None:
    verifier = AttestationVerifier()
    forged = world.sign(world.attestation(), PrivateKey.generate(Algorithm.ES256))
    unexplained = world.signed(replace(world.status("RED"), reason=""))
    for signed in (forged, unexplained, forged[:-1]):
        for _ in range(2):
            with pytest.raises(TongxingError):
                verifier.verify(signed, world.trust(), world.now)
    assert not verifier._held


def test_a_signature_that_was_changed_is_checked_again(world: Any) -> None:
    verifier, signed = AttestationVerifier(), world.signed()
    verifier.verify(signed, world.trust(), world.now)
    changed = signed[:-1] + bytes([signed[-1] ^ 1])
    refused(BadSignatureError, "", verifier.verify, changed, world.trust(), world.now)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_the_memory_is_bounded_in_number(world: Any, room: int) -> None:
    verifier, trust = AttestationVerifier(remember=room), world.trust()
    all_signed = [world.signed(world.test(hours)) for hours in range(1, 7)]
    for signed in all_signed:
        verifier.verify(signed, trust, world.now)
        assert len(verifier._held) <= room
    assert list(verifier._held) == all_signed[len(all_signed) - room :]


def test_the_memory_holds_nothing_huge(world: Any) -> None:
    verifier = AttestationVerifier()
    huge = world.signed(replace(world.status("RED"), reason="因" * 10_000))
    for _ in range(2):
        assert verifier.verify(huge, world.trust(), world.now).fact.colour is Colour.RED
    assert not verifier._held


def test_the_longest_that_the_contract_allows_is_remembered(world: Any) -> None:
    key = PrivateKey.generate(Algorithm.ML_DSA_44)
    words = {"reason": 300, "legal_basis": 300, "assigned_by": 120, "guidance": 300}
    fact = replace(world.status("RED"), **{name: "因" * size for name, size in words.items()})
    attestation = world.attestation(fact)
    attestation = replace(
        attestation,
        issuer=replace(attestation.issuer, name="院" * 120),
        holder=attestations.Holder("胡" + "*" * 99, DocumentType.OTHER, "5" * 32),
    )
    verifier = AttestationVerifier()
    verifier.verify(world.sign(attestation, key), world.trust((SICHUAN, key.public)), world.now)
    assert len(verifier._held) == 1


def test_no_kind_lives_without_an_end() -> None:
    assert all(timedelta() < life <= timedelta(days=3 * 365) for life in LIFE.values())
