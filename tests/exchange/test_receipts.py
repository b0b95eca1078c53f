from __future__ import annotations

import hashlib
import os
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import cbor2
import cwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import cbor, cose, receipts
from exchange.attestations import AttestationVerifier
from exchange.cose import ObjectType
from exchange.errors import (
    BadSignatureError,
    FutureTimeError,
    InvalidFieldError,
    MalformedObjectError,
    TongxingError,
    UnknownIssuerError,
)
from exchange.facts import Colour
from exchange.keys import Algorithm, PrivateKey
from exchange.receipts import (
    MOST_EVIDENCE,
    EvidenceDigest,
    ProvinceSaid,
    Receipt,
    RuleSaid,
    Subject,
)
from exchange.recognition import AnswerState, Decision, Evidence, Outcome, Reply, Verdict, recognize
from exchange.rules import RuleBook
from exchange.trust.profile import KeyState

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
RULE = {
    "id": "nat-48h",
    "kinds": ["NUCLEIC_ACID_TEST"],
    "colour": "GREEN",
    "when": 'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")',
    "reason": {"zh": "48小时内核酸阴性", "en": "a negative test within 48 h"},
    "valid_from": "2022-01-01T00:00:00Z",
}
POSITIVE = {
    **RULE,
    "id": "nat-positive",
    "colour": "RED",
    "when": 'fact.result == "POSITIVE"',
    "reason": {"zh": "核酸阳性", "en": "a positive test"},
}
BOOK = RuleBook([RULE, POSITIVE])


def decide(world: Any, *sent: bytes, **more: Any) -> Decision:
    replies = [
        Reply(SICHUAN, sent),
        Reply(HUBEI, ()),
        Reply(GUANGDONG, (), as_of=world.now),
    ]
    return recognize(
        more.pop("replies", replies),
        tokens=[world.token],
        province=GUANGDONG,
        rules=BOOK,
        trust=world.trust(),
        verifier=AttestationVerifier(),
        now=world.now,
        **more,
    )


def receipt_of(world: Any, decision: Decision, salt: bytes | None = None) -> Receipt:
    return receipts.of_decision(
        decision,
        id=world.id(),
        province=GUANGDONG,
        now=world.now,
        salt=os.urandom(16) if salt is None else salt,
    )


def sign(world: Any, receipt: Receipt) -> bytes:
    return receipts.sign(receipt, world.keys[receipt.province])


# --- what it says ---------------------------------------------------------------------------


def test_a_receipt_says_what_was_decided_and_by_what(world: Any) -> None:
    signed = world.signed(world.test(60))
    receipt = receipt_of(world, decide(world, signed))
    found = receipts.verify(sign(world, receipt), world.trust(), world.now)
    assert found == receipt
    assert (found.outcome, found.colour) == (Outcome.NOT_RECOGNIZED, Colour.UNSPECIFIED)
    assert found.verdict is Verdict.NOT_RECOGNIZED_BY_RULE
    assert found.said == (RuleSaid("nat-48h", False), RuleSaid("nat-positive", False))
    assert found.answers == (
        ProvinceSaid(SICHUAN, AnswerState.ANSWERED),
        ProvinceSaid(HUBEI, AnswerState.NO_RECORD),
        ProvinceSaid(GUANGDONG, AnswerState.NO_RECORD),
    )
    assert (found.rules_digest, found.trust_version) == (BOOK.digest, 1)
    assert (found.subject, found.decided_at) == (Subject.RECOGNITION, world.now)


def test_a_receipt_of_a_green_says_which_rule_held(world: Any) -> None:
    receipt = receipt_of(world, decide(world, world.signed()))
    assert receipt.outcome is Outcome.RECOGNIZED
    assert receipt.said[0] == RuleSaid("nat-48h", True)
    assert receipts.decode(receipts.encode(receipt)) == receipt


def test_a_receipt_names_its_evidence_and_nothing_else(world: Any) -> None:
    mine, other = world.signed(world.test(60)), world.signed(world.test(60))
    receipt = receipt_of(world, decide(world, mine))
    assert receipts.names(receipt, mine)
    assert not receipts.names(receipt, other)
    assert not receipts.names(receipt, mine + b"\0")
    assert not receipts.names(receipt, b"")


def test_a_piece_about_somebody_else_is_named_by_no_digest(world: Any) -> None:
    foreign = world.signed(token=bytes(36))
    receipt = receipt_of(world, decide(world, foreign))
    assert receipt.evidence == (EvidenceDigest(SICHUAN, Verdict.BAD_SIGNATURE, b""),)
    assert not receipts.names(receipt, b"")
    assert not receipts.names(receipt, foreign)


# --- privacy --------------------------------------------------------------------------------


def test_a_receipt_holds_no_personal_data(world: Any) -> None:
    attestation = world.attestation()
    evidence = world.sign(attestation)
    signed = sign(world, receipt_of(world, decide(world, evidence)))
    holder = attestation.holder
    for text in (world.number, holder.name, holder.document_number, attestation.issuer.name):
        assert text.encode() not in signed
    for data in (world.token, world.token[4:], attestation.id.bytes):
        assert data not in signed
        assert data.hex().encode() not in signed
    assert hashlib.sha256(evidence).digest() not in signed


def test_two_receipts_of_one_holder_have_nothing_in_common_but_the_decision(world: Any) -> None:
    decision = decide(world, world.signed(world.test(60)))
    one, two = receipt_of(world, decision), receipt_of(world, decision)
    assert not {each.digest for each in one.evidence} & {each.digest for each in two.evidence}
    own = {"id", "salt", "evidence"}
    for part in fields(Receipt):
        assert (getattr(one, part.name) == getattr(two, part.name)) is (part.name not in own)


# --- what is no receipt ---------------------------------------------------------------------


def test_a_decision_by_another_provinces_rules_gets_no_receipt(world: Any) -> None:
    decision = replace(decide(world), province=HUBEI)
    with pytest.raises(InvalidFieldError, match="its own rules"):
        receipt_of(world, decision)


def test_a_forecast_gets_no_receipt(world: Any) -> None:
    decision = replace(decide(world), decided_at=world.now + HOUR)
    with pytest.raises(InvalidFieldError, match="as of now"):
        receipt_of(world, decision)


def test_a_short_salt_is_refused(world: Any) -> None:
    with pytest.raises(InvalidFieldError, match="16 bytes"):
        receipt_of(world, decide(world), salt=b"short")


def test_a_province_that_sends_rubbish_crowds_no_evidence_out(world: Any) -> None:
    mine = world.signed(world.test(60))
    decision = decide(world, mine)
    rubbish = tuple(
        Evidence(b"%d" % number, None, Verdict.BAD_SIGNATURE, HUBEI) for number in range(2048)
    )
    receipt = receipt_of(world, replace(decision, evidence=(*rubbish, *decision.evidence)))
    assert receipts.names(receipt, mine)
    assert (len(receipt.evidence), receipt.omitted) == (MOST_EVIDENCE, 2049 - MOST_EVIDENCE)
    largest = replace(
        receipt,
        said=(RuleSaid("r" * 40, satisfied=True, failed=True),) * 200,
        answers=(ProvinceSaid(HUBEI, AnswerState.UNREACHABLE),) * 32,
    )
    for each in (receipt, largest):
        assert receipts.verify(sign(world, each), world.trust(), world.now) == each


# --- verifying ------------------------------------------------------------------------------


@pytest.fixture
def receipt(world: Any) -> Receipt:
    return receipt_of(world, decide(world, world.signed(world.test(60))))


def test_a_receipt_outlives_everything(world: Any, receipt: Receipt) -> None:
    signed = sign(world, receipt)
    assert receipts.verify(signed, world.trust(), world.now + 10 * 8766 * HOUR) == receipt


def test_an_old_key_vouches_for_what_it_signed_before_it_retired(
    world: Any, receipt: Receipt
) -> None:
    signed = sign(world, receipt)
    later = world.now + HOUR
    trust = world.trust(p440000=KeyState.OLD, since=world.now + SECOND)
    assert receipts.verify(signed, trust, later) == receipt
    with pytest.raises(UnknownIssuerError):
        receipts.verify(signed, world.trust(p440000=KeyState.OLD, since=world.now), later)


@pytest.mark.parametrize("state", [KeyState.REVOKED, KeyState.TAINTED])
def test_a_receipt_under_a_stolen_key_is_refused(
    world: Any, receipt: Receipt, state: KeyState
) -> None:
    with pytest.raises(UnknownIssuerError):
        receipts.verify(
            sign(world, receipt), world.trust(p440000=state, since=world.now), world.now
        )


def test_a_receipt_under_an_unknown_key_is_refused(world: Any, receipt: Receipt) -> None:
    signed = receipts.sign(receipt, PrivateKey.generate(Algorithm.ES256))
    with pytest.raises(UnknownIssuerError):
        receipts.verify(signed, world.trust(), world.now)


def test_a_receipt_in_another_provinces_name_is_refused(world: Any, receipt: Receipt) -> None:
    with pytest.raises(BadSignatureError):
        receipts.verify(receipts.sign(receipt, world.keys[HUBEI]), world.trust(), world.now)


def test_a_changed_receipt_is_refused(world: Any, receipt: Receipt) -> None:
    signed = sign(world, receipt)
    changed = signed[:-70] + bytes([signed[-70] ^ 1]) + signed[-69:]
    with pytest.raises(TongxingError):
        receipts.verify(changed, world.trust(), world.now)
    with pytest.raises(BadSignatureError):
        receipts.verify(signed[:-1] + bytes([signed[-1] ^ 1]), world.trust(), world.now)


def test_a_receipt_from_the_future_is_refused(world: Any, receipt: Receipt) -> None:
    with pytest.raises(FutureTimeError):
        receipts.verify(sign(world, receipt), world.trust(), world.now - HOUR)


@pytest.mark.parametrize("typ", [ObjectType.ATTESTATION, ObjectType.HEALTH_CODE])
def test_another_object_is_no_receipt(world: Any, receipt: Receipt, typ: ObjectType) -> None:
    signed = cose.sign(receipts.encode(receipt), world.keys[GUANGDONG], typ)
    with pytest.raises(MalformedObjectError, match="typ"):
        receipts.verify(signed, world.trust(), world.now)
    with pytest.raises(MalformedObjectError, match="typ"):
        AttestationVerifier().verify(sign(world, receipt), world.trust(), world.now)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_signs_receipts(world: Any, receipt: Receipt, algorithm: Algorithm) -> None:
    key = PrivateKey.generate(algorithm)
    trust = world.trust((GUANGDONG, key.public))
    assert receipts.verify(receipts.sign(receipt, key), trust, world.now) == receipt


def test_another_implementation_reads_and_verifies_a_receipt(world: Any, receipt: Receipt) -> None:
    key = world.keys[GUANGDONG]
    pem = key.public.to_pem().decode()
    public = cwt.COSEKey.from_pem(pem, kid=key.public.kid, alg="ES256")
    claims = cbor2.loads(cwt.COSE.new().decode(sign(world, receipt), public))
    assert claims[1] == GUANGDONG
    assert claims[7] == receipt.id.bytes
    assert claims[-70004]["outcome"] == "NOT_RECOGNIZED"
    assert claims[-70004]["rules"] == BOOK.digest


# --- reading strictly -----------------------------------------------------------------------


_NAMES = (
    *("subject", "outcome", "colour", "verdict", "at", "rules", "trust"),
    *("said", "evidence", "answers", "salt"),
)


def _payload(receipt: Receipt, **changes: Any) -> bytes:
    claims = cbor.decode_map(receipts.encode(receipt))
    for name, value in changes.items():
        if name in ("iss", "iat", "cti"):
            claims[{"iss": 1, "iat": 6, "cti": 7}[name]] = value
        else:
            claims[-70004][name] = value
    return cbor.encode(claims)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("iss", "999999", "iss"),
        ("iss", 440000, "iss"),
        ("cti", bytes(16), "cti"),
        ("cti", b"\x01\x7e", "cti"),
        ("iat", "now", "iat"),
        ("iat", 1 << 63, "iat"),
        ("subject", "attestation", "receipt.subject"),
        ("outcome", "RECOGNISED", "receipt.outcome"),
        ("outcome", "RECOGNIZED", "receipt.outcome"),
        ("outcome", 1, "receipt.outcome"),
        ("colour", "GREEN", "receipt.outcome"),
        ("colour", "PURPLE", "receipt.colour"),
        ("verdict", "ACCEPTED", "receipt.outcome"),
        ("verdict", None, "receipt.verdict"),
        ("at", True, "receipt.at"),
        ("at", 4_000_000_000, "receipt.at"),
        ("rules", b"", "receipt.rules"),
        ("trust", -1, "receipt.trust"),
        ("trust", True, "receipt.trust"),
        ("omitted", -1, "receipt.omitted"),
        ("salt", bytes(15), "receipt.salt"),
        ("said", {}, "receipt.said"),
        ("said", [["nat-48h"]], "receipt.said"),
        ("said", [["nat-48h", 1]], "receipt.said"),
        ("said", [["nat-48h", True, True, True]], "receipt.said"),
        ("evidence", [[SICHUAN, "ACCEPTED"]], "receipt.evidence"),
        ("evidence", [[SICHUAN, "ACCEPTED", bytes(31)]], "receipt.evidence"),
        ("evidence", [[51, "ACCEPTED", bytes(32)]], "receipt.evidence"),
        ("answers", [["999999", "ANSWERED"]], "receipt.answers"),
        ("answers", [[SICHUAN, "YES"]], "receipt.answers"),
    ],
)
def test_a_wrong_claim_is_refused_and_named(
    receipt: Receipt, name: str, value: Any, field: str
) -> None:
    with pytest.raises(MalformedObjectError) as refused:
        receipts.decode(_payload(receipt, **{name: value}))
    assert refused.value.field == field


@pytest.mark.parametrize(
    "name",
    _NAMES,
)
def test_a_missing_field_is_refused(receipt: Receipt, name: str) -> None:
    claims = cbor.decode_map(receipts.encode(receipt))
    del claims[-70004][name]
    with pytest.raises(MalformedObjectError):
        receipts.decode(cbor.encode(claims))


def test_what_a_later_version_adds_is_passed_over(receipt: Receipt) -> None:
    assert receipts.decode(_payload(receipt, witness=b"cosigned")) == receipt


@given(data=st.binary(max_size=200))
def test_rubbish_is_refused_by_name(world: Any, data: bytes) -> None:
    with pytest.raises(MalformedObjectError):
        receipts.decode(data)
    with pytest.raises(TongxingError):
        receipts.verify(data, world.trust(), world.now)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
_fields = st.sampled_from([*_NAMES, "omitted", "iss", "iat", "cti"])


@given(name=_fields, value=_values)
def test_any_other_value_is_refused_or_read_back(world: Any, name: str, value: Any) -> None:
    receipt = receipt_of(world, decide(world), salt=bytes(16))
    try:
        found = receipts.decode(_payload(receipt, **{name: value}))
    except MalformedObjectError:
        return
    assert receipts.decode(receipts.encode(found)) == found


_times = st.integers(0, 253402300799).map(lambda s: datetime.fromtimestamp(s, UTC))
_ids = st.integers(0, (1 << 128) - 1).map(
    lambda n: UUID(int=n & ~(0xF << 76) | 7 << 76 & ~(3 << 62) | 2 << 62)
)
_provinces = st.sampled_from([GUANGDONG, HUBEI, SICHUAN])
_made = st.builds(
    Receipt,
    id=_ids.filter(lambda id_: id_.version == 7),
    province=_provinces,
    subject=st.sampled_from(Subject),
    outcome=st.sampled_from([Outcome.NOT_RECOGNIZED, Outcome.INDETERMINATE]),
    colour=st.sampled_from([Colour.UNSPECIFIED, Colour.YELLOW, Colour.RED]),
    verdict=st.sampled_from([each for each in Verdict if each is not Verdict.ACCEPTED]),
    decided_at=st.just(datetime(1970, 1, 1, tzinfo=UTC)),
    rules_digest=st.binary(min_size=32, max_size=32),
    trust_version=st.integers(0, (1 << 64) - 1),
    said=st.lists(
        st.builds(RuleSaid, st.text(max_size=40), st.booleans(), st.booleans()), max_size=5
    ).map(tuple),
    evidence=st.lists(
        st.builds(
            EvidenceDigest,
            _provinces | st.just("DE") | st.just(""),
            st.sampled_from(Verdict),
            st.just(b"") | st.binary(min_size=32, max_size=32),
        ),
        max_size=5,
    ).map(tuple),
    answers=st.lists(
        st.builds(ProvinceSaid, _provinces, st.sampled_from(AnswerState)), max_size=5
    ).map(tuple),
    salt=st.binary(min_size=16, max_size=16),
    issued_at=_times,
    omitted=st.integers(0, 2048),
)


@given(receipt=_made)
def test_every_receipt_is_read_as_it_was_written(receipt: Receipt) -> None:
    # What was written holds no surrogates: cbor refuses them by name.
    try:
        payload = receipts.encode(receipt)
    except InvalidFieldError:
        return
    assert receipts.decode(payload) == receipt
