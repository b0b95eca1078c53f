from __future__ import annotations

import base64
import contextlib
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

from exchange import attestations, cbor, cose
from exchange.attestations import CLOCK_SKEW, AttestationVerifier, Holder
from exchange.codes import hc1, healthcode, qr
from exchange.codes.healthcode import (
    LIFE,
    LONGEST_LIFE,
    MOST_EVIDENCE,
    CodeEvidence,
    HealthCode,
    HealthCodeVerifier,
)
from exchange.cose import ObjectType
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    IndeterminateError,
    InvalidFieldError,
    MalformedObjectError,
    NoColourError,
    TongxingError,
    UnexplainedColourError,
    UnknownIssuerError,
)
from exchange.facts import (
    AntigenTest,
    Colour,
    Fact,
    Fitness,
    HealthCodeStatus,
    Kind,
    MedicalExamination,
    NucleicAcidTest,
    Recovery,
    TestResult,
    Vaccination,
)
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import Decision, Outcome, Reply, recognize
from exchange.rules import RuleBook
from exchange.statuslist import LIST_SIZE, StatusReference
from exchange.subjects import DocumentType
from exchange.texts import Text
from exchange.trust.profile import KeyState

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
HOLDER = Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21")
WHY = Text("密切接触者，请居家隔离", "a close contact: stay at home")
PLACE = StatusReference(SICHUAN, 70_000, LIST_SIZE - 1)
COLOUR, RULE, EVIDENCE, REASON = 1, 2, 3, 4
CODE, HOLDER_CLAIM = -70003, -70002

every_algorithm = pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.name)
classical = pytest.mark.parametrize(
    "algorithm", [Algorithm.ES256, Algorithm.EDDSA], ids=lambda a: a.name
)


def piece(world: Any, fact: Fact | None = None, **changes: Any) -> CodeEvidence:
    return replace(CodeEvidence(world.id(), SICHUAN, fact or world.test(), PLACE), **changes)


def code(world: Any, *facts: Fact, **changes: Any) -> HealthCode:
    """Sichuan's green code, issued now."""
    whole = HealthCode(
        id=world.id(),
        province=SICHUAN,
        colour=Colour.GREEN,
        rule="nat-48h-reported",
        reason=None,
        holder=HOLDER,
        evidence=tuple(piece(world, fact) for fact in facts or (world.test(),)),
        issued_at=world.now,
        expires_at=world.now + LIFE,
    )
    return replace(whole, **changes)


def red(world: Any, **changes: Any) -> HealthCode:
    return replace(code(world, world.status("RED"), colour=Colour.RED, reason=WHY), **changes)


def signed(world: Any, shown: HealthCode | None = None, by: PrivateKey | None = None) -> bytes:
    shown = shown or code(world)
    return healthcode.sign(shown, by or world.keys[shown.province])


def claims_of(shown: HealthCode) -> dict[Any, Any]:
    return cbor.decode_map(healthcode.encode(shown))


def refused(
    kind: type[TongxingError], field: str, call: Callable[..., object], *args: object
) -> TongxingError:
    """The call raises exactly that error, under the reason of its class, at that field."""
    with pytest.raises(kind) as caught:
        call(*args)
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.field) == (kind.reason, field)
    return caught.value


def unread(claims: dict[Any, Any], field: str) -> TongxingError:
    return refused(MalformedObjectError, field, healthcode.decode, cbor.encode(claims))


# Signing and reading.


@given(st.data())
@settings(max_examples=100)
def test_what_a_province_signs_is_read_again(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject
) -> None:
    places = st.builds(
        StatusReference,
        st.just(GUANGDONG),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, LIST_SIZE - 1),
    )
    evidence = st.builds(
        CodeEvidence, st.builds(world.id), st.just(GUANGDONG), facts, st.none() | places
    ) | st.builds(CodeEvidence, st.builds(world.id), st.just(SICHUAN), facts)
    colour = data.draw(st.sampled_from([Colour.GREEN, Colour.YELLOW, Colour.RED]))
    shown = code(
        world,
        colour=colour,
        reason=None if colour is Colour.GREEN else WHY,
        evidence=tuple(data.draw(st.lists(evidence, min_size=1, max_size=MOST_EVIDENCE))),
        nonce=data.draw(st.just(b"") | st.binary(min_size=8, max_size=32)),
        expires_at=world.now + data.draw(st.sampled_from([SECOND, LIFE, LONGEST_LIFE])),
    )
    assert healthcode.decode(healthcode.encode(shown)) == shown


@every_algorithm
def test_every_algorithm_signs_and_verifies(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    shown = code(world)
    text = hc1.to_text(signed(world, shown, key))
    trust = world.trust((SICHUAN, key.public))
    assert HealthCodeVerifier().verify(hc1.from_text(text), trust, world.now) == shown


@classical
def test_cwt_verifies_our_codes_and_reads_the_same_claims(world: Any, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    now = datetime.now(UTC).replace(microsecond=0)  # cwt looks at its own clock
    test = NucleicAcidTest(now - HOUR, TestResult.NEGATIVE)
    shown = code(world, test, issued_at=now, expires_at=now + LIFE, nonce=bytes(range(16)))
    theirs = COSEKey.from_pem(
        key.public.to_pem(), alg={-7: "ES256", -8: "EdDSA"}[algorithm], kid=key.public.kid
    )
    bytes_ = hc1.from_text(hc1.to_text(signed(world, shown, key)))
    claims: Any = cwt.decode(bytes_, theirs)
    issued = int(now.timestamp())
    (only,) = shown.evidence
    assert claims == {
        1: "510000",
        4: issued + 300,
        6: issued,
        7: shown.id.bytes,
        10: bytes(range(16)),
        -70002: {
            "name": "胡*君",
            "document_type": "RESIDENT_ID",
            "document_number": "51**************21",
        },
        -70003: {
            1: "GREEN",
            2: "nat-48h-reported",
            3: [
                {
                    "kind": "NUCLEIC_ACID_TEST",
                    "sampled_at": issued - 3600,
                    "result": "NEGATIVE",
                    "id": only.id.bytes,
                    "status": [70_000, LIST_SIZE - 1],
                }
            ],
        },
    }
    protected, _, _ = COSE.new(verify_kid=True).decode_with_headers(bytes_, theirs)
    assert protected[16] == "application/tongxing-healthcode+cwt"


def test_we_verify_what_cwt_signs(world: Any) -> None:
    key = world.keys[SICHUAN]
    theirs = COSEKey.from_pem(key.to_pem(), alg="ES256", kid=key.public.kid)
    shown = red(world)
    made = COSE.new().encode_and_sign(
        healthcode.encode(shown),
        theirs,
        protected={1: -7, 4: key.public.kid, 16: str(ObjectType.HEALTH_CODE)},
    )
    assert HealthCodeVerifier().verify(made, world.trust(), world.now) == shown


def test_a_later_version_may_add_claims_and_fields(world: Any) -> None:
    shown = red(world)
    claims = claims_of(shown)
    claims[-70099] = {"new": 1}
    claims[CODE][9] = claims[CODE][EVIDENCE][0]["new"] = claims[HOLDER_CLAIM]["portrait"] = b"x"
    assert healthcode.decode(cbor.encode(claims)) == shown


def test_no_token_number_or_nonce_is_to_be_seen(world: Any) -> None:
    attested = world.attestation()
    decision = decide(world, [attested])
    shown = healthcode.draft(decision, id=world.id(), now=world.now, nonce=b"a gate's nonce")
    made = signed(world, shown)
    for secret in (world.token, base64.urlsafe_b64encode(world.token), world.number.encode()):
        assert secret not in made
    assert set(claims_of(shown)) == {1, 4, 6, 7, 10, HOLDER_CLAIM, CODE}
    assert "nonce" not in repr(shown)


# How large the picture is.


def every_kind(world: Any) -> dict[str, HealthCode]:
    at, later = world.now - 12 * HOUR, world.now - 6 * HOUR
    facts: dict[str, Fact] = {
        "nucleic-acid test": NucleicAcidTest(at, TestResult.NEGATIVE, later),
        "antigen test": AntigenTest(at, TestResult.NEGATIVE, later, self_tested=True),
        "examination": MedicalExamination(at, Fitness.FIT, later),
        "vaccination": Vaccination(at, "新型冠状病毒灭活疫苗（Vero细胞）", 2, 3),
        "recovery": Recovery(at, at - 240 * HOUR),
        "green status": HealthCodeStatus(at, Colour.GREEN, "绿码"),
    }
    codes = {name: code(world, fact) for name, fact in facts.items()}
    why = ("新冠病毒感染者的密切接触者", "新型冠状病毒肺炎防控方案（第八版）", "锦城区疾控中心")
    status = HealthCodeStatus(at, Colour.RED, "红码", *why, "居家隔离并立即联系所在社区")
    codes["red status"] = code(world, status, colour=Colour.RED, reason=WHY)
    codes["four, with a nonce"] = code(world, *list(facts.values())[:4], nonce=bytes(range(32)))
    return codes


def test_the_common_code_is_small_enough_for_a_cracked_screen(world: Any) -> None:
    common = replace(
        every_kind(world)["nucleic-acid test"],
        rule="nat-negative-48h-from-the-report",
        holder=Holder("欧阳*娜", DocumentType.RESIDENT_ID, "51**************2X"),
    )
    text = hc1.to_text(signed(world, common))
    assert len(text) <= 600
    assert qr.version(text) <= 15


def test_a_code_of_any_kind_fits_into_a_picture(world: Any) -> None:
    versions = {
        name: qr.version(hc1.to_text(signed(world, shown)))
        for name, shown in every_kind(world).items()
    }
    large = versions.pop("red status"), versions.pop("four, with a nonce")
    assert max(versions.values()) <= 16, versions
    assert max(large) <= 25, large


def test_a_post_quantum_code_is_a_text_but_no_picture(world: Any) -> None:
    key = PrivateKey.generate(Algorithm.ML_DSA_44)
    text = hc1.to_text(signed(world, code(world), key))
    assert len(text) < 4200
    error = refused(InvalidFieldError, "text", qr.png, text)
    assert "ES256" in error.remedy


# Verification.


def verify(
    world: Any,
    made: bytes,
    trust: Any = None,
    now: datetime | None = None,
    verifier: HealthCodeVerifier | None = None,
) -> HealthCode:
    verifier = verifier or HealthCodeVerifier()
    return verifier.verify(made, trust or world.trust(), now or world.now)


def test_an_expired_code_is_refused(world: Any) -> None:
    made = signed(world)
    end = world.now + LIFE
    verify(world, made, now=end - SECOND)
    error = refused(ExpiredError, "exp", verify, world, made, None, end)
    assert "fresh" in error.remedy


def test_a_screenshot_is_refused_after_its_end_though_it_was_seen_before(world: Any) -> None:
    gate = HealthCodeVerifier()
    picture = qr.png(hc1.to_text(signed(world)))
    verify(world, hc1.from_text(qr.read(picture)), verifier=gate)
    passed_on = hc1.from_text(qr.read(picture))
    refused(ExpiredError, "exp", verify, world, passed_on, None, world.now + LIFE, gate)


def test_a_code_from_the_future_is_refused(world: Any) -> None:
    made = signed(world)
    verify(world, made, now=world.now - CLOCK_SKEW)
    refused(FutureTimeError, "iat", verify, world, made, None, world.now - CLOCK_SKEW - SECOND)


def test_an_attestation_shown_as_a_code_is_refused(world: Any) -> None:
    error = refused(MalformedObjectError, "", verify, world, world.signed())
    assert "typ" in error.message


def test_a_code_sent_as_an_attestation_is_refused(world: Any) -> None:
    call = AttestationVerifier().verify
    refused(MalformedObjectError, "", call, signed(world), world.trust(), world.now)


def test_an_attestation_signed_as_a_code_is_refused(world: Any) -> None:
    payload = attestations.encode(world.attestation())
    made = cose.sign(payload, world.keys[SICHUAN], ObjectType.HEALTH_CODE)
    refused(MalformedObjectError, "code", verify, world, made)


def test_a_key_of_another_province_is_refused(world: Any) -> None:
    made = signed(world, by=world.keys[GUANGDONG])
    error = refused(BadSignatureError, "iss", verify, world, made)
    assert "440000" in error.message


def test_a_key_that_nobody_knows_is_refused(world: Any) -> None:
    made = signed(world, by=PrivateKey.generate(Algorithm.ES256))
    refused(UnknownIssuerError, "", verify, world, made)


def test_a_province_that_left_is_refused(world: Any) -> None:
    refused(UnknownIssuerError, "", verify, world, signed(world), world.trust(without=SICHUAN))


def test_a_revoked_key_is_refused_also_for_a_code_seen_before(world: Any) -> None:
    gate, made = HealthCodeVerifier(), signed(world)
    verify(world, made, verifier=gate)
    trust = world.trust(p510000=KeyState.REVOKED, since=world.now)
    refused(UnknownIssuerError, "kid", verify, world, made, trust, None, gate)
    refused(UnknownIssuerError, "kid", verify, world, made, trust)


def test_a_tainted_key_is_refused_for_what_it_issued_since(world: Any) -> None:
    trust = world.trust(p510000=KeyState.TAINTED, since=world.now - MINUTE)
    refused(UnknownIssuerError, "kid", verify, world, signed(world), trust)


def test_every_changed_byte_is_refused(world: Any) -> None:
    made, trust = signed(world), world.trust()
    for at in range(len(made)):
        changed = bytearray(made)
        changed[at] ^= 0x01
        with pytest.raises(InvalidFieldError):
            HealthCodeVerifier().verify(bytes(changed), trust, world.now)


def test_every_truncated_code_is_refused(world: Any) -> None:
    made, trust = signed(world), world.trust()
    for end in range(len(made)):
        with pytest.raises(MalformedObjectError):
            HealthCodeVerifier().verify(made[:end], trust, world.now)


def test_the_oldest_are_forgotten_first_and_the_large_never_kept(world: Any) -> None:
    gate = HealthCodeVerifier(remember=3)
    made = [signed(world) for _ in range(5)]
    for each in made:
        verify(world, each, verifier=gate)
    assert list(gate._held) == made[2:]
    status = replace(world.status("RED"), guidance="g" * 8192)
    large = signed(world, red(world, evidence=(piece(world, status),)))
    verify(world, large, verifier=gate)
    assert large not in gate._held
    none = HealthCodeVerifier(remember=0)
    verify(world, made[0], verifier=none)
    assert not none._held


def test_what_does_not_verify_is_not_remembered(world: Any) -> None:
    gate = HealthCodeVerifier()
    for made in (
        signed(world, by=PrivateKey.generate(Algorithm.ES256)),
        cose.sign(b"\xa0", world.keys[SICHUAN], ObjectType.HEALTH_CODE),
    ):
        with contextlib.suppress(TongxingError):
            verify(world, made, verifier=gate)
    assert not gate._held


# What no claims set of a code may hold.


@pytest.mark.parametrize("life", [timedelta(0), -MINUTE, LONGEST_LIFE + SECOND, 24 * HOUR])
def test_an_over_long_life_is_refused_whoever_signed_it(world: Any, life: timedelta) -> None:
    made = signed(world, code(world, expires_at=world.now + life))
    refused(MalformedObjectError, "exp", verify, world, made)


@pytest.mark.parametrize("colour", ["RED", "YELLOW"])
@pytest.mark.parametrize(
    ("reason", "field"),
    [
        (None, ""),
        ("密切接触者", ""),
        ({}, ".zh"),
        ({"zh": "密切接触者"}, ".en"),
        ({"en": "a contact"}, ".zh"),
        ({"zh": "\u3000", "en": "a contact"}, ".zh"),
        ({"zh": "密切接触者", "en": "-"}, ".en"),
        ({"zh": 1, "en": "a contact"}, ".zh"),
    ],
)
def test_an_unexplained_red_is_refused(world: Any, colour: str, reason: Any, field: str) -> None:
    claims = claims_of(red(world))
    claims[CODE][COLOUR] = colour
    del claims[CODE][REASON]
    if reason is not None:
        claims[CODE][REASON] = reason
    made = cose.sign(cbor.encode(claims), world.keys[SICHUAN], ObjectType.HEALTH_CODE)
    refused(UnexplainedColourError, f"code.reason{field}", verify, world, made)


@pytest.mark.parametrize("text", ["密" * 201, "a contact\nRECOGNIZED", "a contact \u202eNEERG"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_reason_that_could_disturb_what_a_gate_reads_is_refused(
    world: Any, language: str, text: str
) -> None:
    reason = Text("密切接触者", "a contact")._replace(**{language: text})
    made = signed(world, red(world, reason=reason))
    refused(MalformedObjectError, f"code.reason.{language}", verify, world, made)


@pytest.mark.parametrize("text", ["胡" * 201, "胡*君\nRECOGNIZED", "胡*君 \u202eNEERG"])
@pytest.mark.parametrize("name", ["name", "document_number", "rule"])
def test_a_holder_or_rule_that_could_disturb_what_a_gate_reads_is_refused(
    world: Any, name: str, text: str
) -> None:
    if name == "rule":
        shown, field = code(world, rule=text), "code.rule"
    else:
        shown = code(world, holder=replace(HOLDER, **{name: text}))
        field = f"holder.{name}"
    refused(MalformedObjectError, field, verify, world, signed(world, shown))


@pytest.mark.parametrize("name", ["reason", "legal_basis", "assigned_by", "guidance"])
def test_a_red_in_the_evidence_that_does_not_say_why_is_refused(world: Any, name: str) -> None:
    claims = claims_of(red(world))
    claims[CODE][EVIDENCE][0][name] = "—"
    refused(
        UnexplainedColourError,
        f"code.evidence[0].health.{name}",
        healthcode.decode,
        cbor.encode(claims),
    )


@pytest.mark.parametrize("colour", ["UNSPECIFIED", "", "green", "ORANGE"])
def test_what_is_no_colour_is_refused(world: Any, colour: str) -> None:
    claims = claims_of(code(world))
    claims[CODE][COLOUR] = colour
    unread(claims, "code.colour")


ABSENT = object()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ((1,), ABSENT, "iss"),
        ((1,), 510000, "iss"),
        ((1,), "990000", "iss"),
        ((4,), ABSENT, "exp"),
        ((4,), 1.5, "exp"),
        ((4,), 1 << 63, "exp"),
        ((6,), ABSENT, "iat"),
        ((6,), -1, "iat"),
        ((6,), True, "iat"),
        ((7,), ABSENT, "cti"),
        ((7,), bytes(16), "cti"),
        ((7,), b"short", "cti"),
        ((7,), "x" * 16, "cti"),
        ((10,), b"", "nonce"),
        ((10,), bytes(7), "nonce"),
        ((10,), bytes(33), "nonce"),
        ((10,), "x" * 16, "nonce"),
        ((HOLDER_CLAIM,), ABSENT, "holder"),
        ((HOLDER_CLAIM,), [], "holder"),
        ((HOLDER_CLAIM, "name"), b"x", "holder.name"),
        ((HOLDER_CLAIM, "document_type"), "111", "holder.document_type"),
        ((HOLDER_CLAIM, "document_number"), ABSENT, "holder.document_number"),
        ((CODE,), ABSENT, "code"),
        ((CODE,), [], "code"),
        ((CODE, COLOUR), ABSENT, "code.colour"),
        ((CODE, COLOUR), 1, "code.colour"),
        ((CODE, RULE), ABSENT, "code.rule"),
        ((CODE, RULE), b"x", "code.rule"),
        ((CODE, EVIDENCE), ABSENT, "code.evidence"),
        ((CODE, EVIDENCE), {}, "code.evidence"),
        ((CODE, EVIDENCE), [], "code.evidence"),
        ((CODE, EVIDENCE), [{}] * (MOST_EVIDENCE + 1), "code.evidence"),
        ((CODE, EVIDENCE, 0), b"", "code.evidence[0]"),
        ((CODE, EVIDENCE, 0), {}, "code.evidence[0].health.kind"),
        ((CODE, EVIDENCE, 0, "kind"), "HOROSCOPE", "code.evidence[0].health.kind"),
        ((CODE, EVIDENCE, 0, "kind"), [], "code.evidence[0].health.kind"),
        ((CODE, EVIDENCE, 0, "result"), "GOOD", "code.evidence[0].health.result"),
        ((CODE, EVIDENCE, 0, "id"), ABSENT, "code.evidence[0].id"),
        ((CODE, EVIDENCE, 0, "id"), bytes(16), "code.evidence[0].id"),
        ((CODE, EVIDENCE, 0, "iss"), "999999", "code.evidence[0].iss"),
        ((CODE, EVIDENCE, 0, "iss"), 1, "code.evidence[0].iss"),
        ((CODE, EVIDENCE, 0, "status"), None, "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [1], "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [1, 2, 3], "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [-1, 2], "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [1 << 32, 2], "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [1, LIST_SIZE], "code.evidence[0].status"),
        ((CODE, EVIDENCE, 0, "status"), [True, 2], "code.evidence[0].status"),
    ],
)
def test_a_claim_that_is_missing_or_wrong_is_refused(
    world: Any, path: tuple[Any, ...], value: Any, field: str
) -> None:
    claims = claims_of(code(world))
    inner: Any = claims
    for step in path[:-1]:
        inner = inner[step]
    if value is ABSENT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    unread(claims, field)


@pytest.mark.parametrize("name", ["sampled_at", "result_at"])
def test_a_fact_later_than_its_code_is_refused(world: Any, name: str) -> None:
    claims = claims_of(code(world))
    latest = int((world.now + CLOCK_SKEW).timestamp())
    claims[CODE][EVIDENCE][0][name] = latest
    healthcode.decode(cbor.encode(claims))
    claims[CODE][EVIDENCE][0][name] = latest + 1
    unread(claims, f"code.evidence[0].{name}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80",
        b"\xa1" * 20_000,  # each the value of the one before
        b"\xa1\x01" * 20_000,
        b"\xa1\x01" + b"\x81" * 60_000,
        b"\xbb" + b"\xff" * 8,
        b"\xba\xff\xff\xff\xff",
        b"\xa1\x01\x9b" + b"\xff" * 8,
        b"\xa1\x01\x7b" + b"\xff" * 8,
        b"\xa1\x01\x5b" + b"\x7f" + b"\xff" * 7,
        b"\xbf\x01\x00\xff",
        b"\xa1\x01\xc1\x00",
        b"\xa1\x01\xd8\x1d\x00",
        b"\xa2\x01\x00\x01\x00",
        b"\xa1\x01\xa2\x61a\x00\x61a\x01",
        b"\xa1\xf6\x00",
        b"\xa1\x01\x61\xff",
        b"\xa0\x00",
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_hostile_cbor_is_refused(world: Any, payload: bytes) -> None:
    # Deep, of huge lengths, indefinite, tagged, with the same key twice: though truly signed.
    made = cose.sign(payload, world.keys[SICHUAN], ObjectType.HEALTH_CODE)
    refused(MalformedObjectError, "", verify, world, made)


def test_the_same_claim_twice_is_refused(world: Any) -> None:
    payload = healthcode.encode(code(world))
    assert payload[0] == 0xA6
    twice = b"\xa7" + payload[1:] + b"\x01\x66510000"
    error = refused(MalformedObjectError, "", healthcode.decode, twice)
    assert "twice" in error.message


@given(st.data())
@settings(max_examples=200)
def test_any_claims_are_read_or_refused(world: Any, data: st.DataObject) -> None:
    shown = data.draw(st.sampled_from([code(world), red(world)]))
    claims = claims_of(shown)
    inner: Any = claims
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(inner[key], dict | list) and inner[key]) or data.draw(st.booleans()):
            break
        inner = inner[key]
    scalars = st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.floats()
    words = st.binary(max_size=20) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    inner[key] = data.draw(scalars | words | st.lists(scalars | words, max_size=3))
    payload = cbor.encode(claims)
    with contextlib.suppress(MalformedObjectError, UnexplainedColourError):
        read = healthcode.decode(payload)
        assert healthcode.decode(healthcode.encode(read)) == read


@given(st.data())
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(world: Any, data: st.DataObject) -> None:
    payload = bytearray(healthcode.encode(red(world)))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedObjectError, UnexplainedColourError):
        healthcode.decode(bytes(payload))


# From a decision to a code.


def rule(name: str, kinds: list[str], colour: str, when: str) -> dict[str, Any]:
    return {
        "id": name,
        "kinds": kinds,
        "colour": colour,
        "when": when,
        "reason": {"zh": f"{name}规则", "en": f"rule {name}"},
        "valid_from": "2020-01-01T00:00:00Z",
    }


TEST, EXAM, STATUS = "NUCLEIC_ACID_TEST", "MEDICAL_EXAMINATION", "HEALTH_CODE_STATUS"
RECENT = 'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("%s")'
HOME = RuleBook(
    [
        rule("nat-48h", [TEST], "GREEN", RECENT % "48h"),
        rule("fit", [EXAM], "GREEN", 'fact.conclusion == "FIT"'),
        rule("positive", [TEST], "RED", 'fact.result == "POSITIVE"'),
        rule("unclear", [TEST], "YELLOW", 'fact.result == "INCONCLUSIVE"'),
        rule("assigned", [STATUS], "RED", 'fact.colour == "RED"'),
    ]
)
THERE = RuleBook(
    [
        rule("nat-120h", [TEST], "GREEN", RECENT % "120h"),
        rule("unfit", [EXAM], "RED", 'fact.conclusion == "UNFIT"'),
        rule("follow-up", [EXAM], "YELLOW", 'fact.conclusion == "FOLLOW_UP"'),
    ]
)


def decide(world: Any, attested: list[Any], *, heard: bool = True, **changes: Any) -> Decision:
    """Guangdong decides on what Sichuan holds."""
    replies = [
        Reply(SICHUAN, [world.sign(each) for each in attested]),
        Reply(GUANGDONG, []),
        Reply(HUBEI, [] if heard else None),
    ]
    return recognize(
        replies,
        tokens=[world.token],
        province=GUANGDONG,
        rules=changes.get("rules", HOME),
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=changes.get("now", world.now),
    )


def drafted(world: Any, attested: list[Any], **changes: Any) -> HealthCode:
    decision = decide(world, attested, now=changes.get("decided_at", world.now))
    changes.pop("decided_at", None)
    return healthcode.draft(decision, **{"id": world.id(), "now": world.now, **changes})


def examined(world: Any, conclusion: str, hours_ago: float = 24) -> MedicalExamination:
    return MedicalExamination(world.now - hours_ago * HOUR, Fitness(conclusion))


def test_a_green_decision_becomes_a_green_code(world: Any) -> None:
    place = StatusReference(SICHUAN, 3, 77)
    attested = world.attestation(status=place)
    id_ = world.id()
    now = world.now + timedelta(milliseconds=700)
    shown = drafted(world, [attested], id=id_, now=now, nonce=bytes(8))
    assert shown == HealthCode(
        id=id_,
        province=GUANGDONG,
        colour=Colour.GREEN,
        rule="nat-48h",
        reason=None,
        holder=attested.holder,
        evidence=(CodeEvidence(attested.id, SICHUAN, attested.fact, place),),
        issued_at=world.now,
        expires_at=world.now + timedelta(minutes=5),
        nonce=bytes(8),
    )
    assert verify(world, signed(world, shown)) == shown


@pytest.mark.parametrize("length", [300, 4000])
def test_no_province_writes_so_much_that_a_code_cannot_be_drawn(world: Any, length: int) -> None:
    def words(start: int) -> str:
        return "".join(chr(0x4E00 + (start + 1103 * index) % 20_000) for index in range(length))

    def status(start: int) -> Any:
        names = ("reason", "legal_basis", "assigned_by", "guidance", "local_status")
        texts = {name: words(start + 97 * place) for place, name in enumerate(names)}
        return world.attestation(replace(world.status("RED"), **texts))

    attested = [status(7919 * number) for number in range(MOST_EVIDENCE)]
    shown = drafted(world, attested)
    assert len(shown.evidence) == MOST_EVIDENCE
    made = signed(world, shown)
    assert verify(world, made) == shown
    assert qr.version(hc1.to_text(made)) <= 40
    guidance = attested[0].fact.guidance
    assert guidance[:29] + "…" in {each.fact.guidance for each in shown.evidence}


def test_a_reason_that_is_cut_still_explains(world: Any) -> None:
    late = replace(world.status("RED"), reason="-" * 60 + "密切接触者", guidance=" " * 60 + "隔离")
    made = signed(world, drafted(world, [world.attestation(late)]))
    assert verify(world, made).evidence[0].fact.reason.startswith("密切接触者")


def test_a_fact_ahead_of_this_clock_makes_no_code_unreadable(world: Any) -> None:
    soon = {"issued_at": world.now + 4 * MINUTE, "expires_at": world.now + HOUR}
    ahead = world.attestation(world.test(hours_ago=-8 / 60), **soon)
    tested = world.attestation()
    shown = drafted(world, [ahead, tested])
    assert verify(world, signed(world, shown)) == shown
    assert ids(shown) == [tested.id]
    refused(FutureTimeError, "", lambda: drafted(world, [ahead]))


@pytest.mark.parametrize("kind", ["the same", "another"])
@pytest.mark.parametrize("edge", ["ends at once", "lies ahead"])
def test_a_province_ends_no_code_by_a_green_at_the_edge_of_its_time(
    world: Any, edge: str, kind: str
) -> None:
    sampled = world.now - HOUR if edge == "ends at once" else world.now + 8 * MINUTE
    fact: Fact = NucleicAcidTest(sampled, TestResult.NEGATIVE)
    if kind == "another":  # of which the first rule speaks, and nothing else is known
        fact = Vaccination(sampled, "CoronaVac", 1, 1)
    times = {
        "ends at once": {"expires_at": world.now + SECOND},
        "lies ahead": {"issued_at": world.now + 4 * MINUTE},
    }
    edged, tested = world.attestation(fact, **times[edge]), world.attestation()
    vaccinated = rule("vaccinated", ["VACCINATION"], "GREEN", "fact.dose >= 1")
    rules = RuleBook([vaccinated, *(each.to_json() for each in HOME.rules)])
    decision = decide(world, [edged, tested], rules=rules)
    shown = healthcode.draft(decision, **now(world))
    assert verify(world, signed(world, shown)) == shown
    assert shown.expires_at == world.now + LIFE
    assert ids(shown) == [tested.id]
    if edge == "ends at once":
        assert healthcode.wanted(decision, rules, world.now) == [tested.id]
        alone = healthcode.draft(decide(world, [edged], rules=rules), **now(world))
        assert (ids(alone), alone.expires_at) == ([edged.id], world.now + SECOND)


def test_no_other_province_names_the_holder_of_a_code(world: Any) -> None:
    own = world.attestation(province=GUANGDONG)
    somebody = Holder("李*", DocumentType.PASSPORT, "E1*****23")
    other = world.attestation(world.test(hours_ago=1), holder=somebody)
    decision = recognize(
        [Reply(GUANGDONG, [world.sign(own)]), Reply(SICHUAN, [world.sign(other)])],
        tokens=[world.token],
        province=GUANGDONG,
        rules=HOME,
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=world.now,
    )
    shown = healthcode.draft(decision, **now(world))
    assert set(ids(shown)) == {own.id, other.id}
    assert shown.holder == own.holder
    alone = drafted(world, [other], document=world.document)
    assert alone.holder == Holder("李*", DocumentType.RESIDENT_ID, world.document.masked)


@pytest.mark.parametrize(
    "name",
    [
        "李" + "".join(chr(0x4E00 + at * 7919 % 20_000) for at in range(3_000)),
        "李*\n\u202eGREEN",
        "李\0" * 90,
    ],
    ids=["long", "hidden", "long and hidden"],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_name_by_another_province_makes_no_code_too_large_or_unreadable(
    world: Any, name: str, known: bool
) -> None:
    somebody = Holder(name, DocumentType.RESIDENT_ID, f"51{name}21")
    attested = [world.attestation(holder=somebody)]
    shown = drafted(world, attested, document=world.document if known else None)
    made = signed(world, shown)
    assert verify(world, made) == shown
    assert qr.svg(hc1.to_text(made))
    assert shown.holder.name.startswith("李")


def test_a_red_decision_becomes_a_red_code_that_says_why(world: Any) -> None:
    attested = [world.attestation(), world.attestation(world.status("RED"))]
    shown = drafted(world, attested)
    assert (shown.colour, shown.rule) == (Colour.RED, "assigned")
    assert shown.reason == Text("assigned规则", "rule assigned")
    assert [each.id for each in shown.evidence] == [attested[1].id]
    assert verify(world, signed(world, shown)) == shown


def test_no_code_without_a_colour_and_the_remedy_says_what_is_needed(world: Any) -> None:
    decision = decide(world, [world.attestation(world.test(hours_ago=60))])
    error = refused(NoColourError, "", lambda: healthcode.draft(decision, **now(world)))
    assert "rule nat-48h" in error.remedy


def test_no_code_without_any_record(world: Any) -> None:
    refused(NoColourError, "", lambda: drafted(world, []))


def test_no_code_while_a_province_does_not_answer(world: Any) -> None:
    decision = decide(world, [world.attestation()], heard=False)
    error = refused(IndeterminateError, "", lambda: healthcode.draft(decision, **now(world)))
    assert "Hubei" in error.remedy


def test_a_red_code_also_while_a_province_does_not_answer(world: Any) -> None:
    decision = decide(world, [world.attestation(world.status("RED"))], heard=False)
    assert decision.outcome is Outcome.NOT_RECOGNIZED
    assert healthcode.draft(decision, **now(world)).colour is Colour.RED


def now(world: Any) -> dict[str, Any]:
    return {"id": world.id(), "now": world.now}


def test_a_code_never_outlives_its_evidence(world: Any) -> None:
    soon = world.now + 2 * MINUTE
    assert drafted(world, [world.attestation(expires_at=soon)]).expires_at == soon
    positive = world.attestation(world.test(result="POSITIVE"), expires_at=soon)
    lasting = world.attestation(world.test(2, "POSITIVE"))
    assert drafted(world, [positive, lasting]).expires_at == soon
    assigned = world.attestation(world.status("RED"))
    assert drafted(world, [positive, assigned]).rule == "positive"  # as the decision says
    only = drafted(world, [world.attestation(world.test(hours_ago=2))], life=LONGEST_LIFE)
    assert only.expires_at == world.now + LONGEST_LIFE


def test_no_code_on_evidence_that_has_ended_since(world: Any) -> None:
    attested = [world.attestation(expires_at=world.now + MINUTE)]
    refused(ExpiredError, "", lambda: drafted(world, attested, now=world.now + MINUTE))


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, CLOCK_SKEW + SECOND])
def test_no_code_from_a_decision_for_another_time(world: Any, ahead: timedelta) -> None:
    attested = [world.attestation(world.test(hours_ago=24))]
    refused(ExpiredError, "", lambda: drafted(world, attested, decided_at=world.now + ahead))


@pytest.mark.parametrize("life", [timedelta(0), -MINUTE, LONGEST_LIFE + SECOND])
def test_no_code_is_made_to_live_too_long(world: Any, life: timedelta) -> None:
    refused(InvalidFieldError, "life", lambda: drafted(world, [world.attestation()], life=life))


@pytest.mark.parametrize("size", [1, 7, 33])
def test_a_nonce_of_another_length_is_refused(world: Any, size: int) -> None:
    attested = [world.attestation()]
    refused(InvalidFieldError, "nonce", lambda: drafted(world, attested, nonce=bytes(size)))


def test_of_many_greens_the_four_newest_are_shown(world: Any) -> None:
    tests = [world.attestation(world.test(hours_ago=hours)) for hours in (9, 3, 30, 6, 1, 40)]
    shown = drafted(world, tests)
    assert ids(shown) == [tests[at].id for at in (4, 1, 3, 0)]


def ids(shown: HealthCode) -> list[UUID]:
    return [each.id for each in shown.evidence]


def test_a_red_is_never_left_out_for_newer_greens(world: Any) -> None:
    greens = [world.attestation(world.test(hours_ago=hours)) for hours in (1, 2, 3, 4, 5)]
    reds = [
        world.attestation(world.test(60, "POSITIVE")),
        world.attestation(world.status("RED", 90)),
    ]
    shown = drafted(world, [*greens, *reds], also=[each.id for each in greens])
    assert ids(shown) == [greens[0].id, greens[1].id, reds[0].id, reds[1].id]
    assert (shown.colour, shown.rule) == (Colour.RED, "positive")


def test_what_the_destination_asks_for_is_shown_and_the_home_green_stays(world: Any) -> None:
    tests = [world.attestation(world.test(hours_ago=hours)) for hours in (1, 2, 3, 4, 5)]
    old = world.attestation(world.test(hours_ago=100))
    decision = decide(world, [*tests, old])
    shown = healthcode.draft(decision, **now(world), also=[old.id])
    assert ids(shown) == [tests[0].id, tests[1].id, tests[2].id, old.id]
    assert old.id not in ids(healthcode.draft(decision, **now(world)))


def test_what_is_red_at_the_destination_is_asked_for_first(world: Any) -> None:
    tests = [world.attestation(world.test(hours_ago=hours)) for hours in (1, 2, 3, 4, 5)]
    unfit = world.attestation(examined(world, "UNFIT", 400))
    watched = world.attestation(examined(world, "FOLLOW_UP", 300))
    fit = world.attestation(examined(world, "FIT", 200))
    decision = decide(world, [*tests, fit, watched, unfit])
    asked_for = healthcode.wanted(decision, THERE, world.now)
    assert asked_for == [unfit.id, watched.id, *[each.id for each in tests]]
    shown = healthcode.draft(decision, **now(world), also=asked_for)
    assert ids(shown) == [tests[0].id, tests[1].id, watched.id, unfit.id]


def test_evidence_that_is_revoked_or_ended_is_never_shown(world: Any) -> None:
    good = world.attestation()
    ended = world.attestation(world.test(hours_ago=100), expires_at=world.now - HOUR)
    gone = world.attestation(world.test(hours_ago=3))
    replies = [
        Reply(SICHUAN, [world.sign(good), world.sign(ended)], [world.sign(gone)]),
        Reply(GUANGDONG, []),
        Reply(HUBEI, []),
    ]
    decision = recognize(
        replies,
        tokens=[world.token],
        province=GUANGDONG,
        rules=HOME,
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=world.now,
    )
    shown = healthcode.draft(decision, **now(world), also=[ended.id, gone.id])
    assert ids(shown) == [good.id]
    assert healthcode.wanted(decision, THERE, world.now) == [good.id]


def test_every_kind_can_stand_in_a_code(world: Any) -> None:
    for shown in every_kind(world).values():
        assert verify(world, signed(world, shown)) == shown
    kinds = {each.fact.kind for shown in every_kind(world).values() for each in shown.evidence}
    assert kinds == set(Kind)
