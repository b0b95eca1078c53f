"""Every look is recorded, also where no answer can be signed; a batch leaves the loop to others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from exchange.attestations import Attestation, AttestationVerifier, Holder, Issuer, sign
from exchange.codes import healthcode
from exchange.codes.healthcode import CodeEvidence, HealthCode
from exchange.errors import TrustListError
from exchange.facts import Colour, NucleicAcidTest, TestResult
from exchange.keys import Algorithm, PrivateKey
from exchange.recognition import Reply, recognize
from exchange.rules import RuleBook
from exchange.subjects import DocumentType, mod_11_2
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.call import Call
from nodes.deciding import Decided
from nodes.identity import Identity, Role
from nodes.ids import new_id
from nodes.known_statuses import KnownStatuses
from nodes.services.recognition import RecognitionService

GUANGDONG = "440000"


def authority():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
TOKEN = bytes(36)
KEY = PrivateKey.generate(Algorithm.ES256)
CALL = Call(Identity(GUANGDONG, Role.APP, "gate"), "request-1")
CHECK = types_pb2.PURPOSE_ENTRY_CHECK
RULES = RuleBook(
    [
        {
            "id": "nat",
            "kinds": ["NUCLEIC_ACID_TEST"],
            "colour": "GREEN",
            "when": 'fact.result == "NEGATIVE"',
            "reason": {"zh": "核酸阴性", "en": "a negative test"},
            "valid_from": "2022-01-01T00:00:00Z",
        }
    ]
)
FACT = NucleicAcidTest(NOW - timedelta(hours=6), TestResult.NEGATIVE)
AUTHORITY = authority()
HOLDER = Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21")


class Province:
    """What a service of Guangdong's stands on: its trust list, one decision, and the access log."""

    rules = RULES

    def __init__(self) -> None:
        self.recorded: list[str] = []
        key = AttestationKey(KEY.public, KeyState.ACTIVE, NOW - timedelta(days=1))
        profile = Profile(GUANGDONG, (key,), AUTHORITY, ("gd.example:1",))
        self.trust = TrustList(1, 1, NOW + timedelta(days=1), {GUANGDONG: profile}, {})

    def current(self):
        return self.trust

    async def decide(self, documents, *_, **__):
        attestation = Attestation(
            id=new_id(NOW),
            province=GUANGDONG,
            token=TOKEN,
            fact=FACT,
            issuer=Issuer("91510100MA61RHGX7", "锦城医学检验所"),
            holder=HOLDER,
            issued_at=FACT.sampled_at,
            expires_at=NOW + timedelta(days=1),
            data_as_of=FACT.sampled_at,
        )
        decision = recognize(
            [Reply(GUANGDONG, [sign(attestation, KEY)])],
            tokens=[TOKEN],
            province=GUANGDONG,
            rules=RULES,
            trust=self.trust,
            verifier=AttestationVerifier(),
            now=NOW,
        )
        return [Decided(TOKEN, decision) for _ in documents]

    async def present(self, ids):
        assert list(ids)  # those of the code's evidence, of whom nothing is held

    def record(self, entry, /):
        self.recorded.append(f"{entry.method} {entry.answer}")

    def record_all(self, entry, holders, /):
        self.recorded += [f"{entry.method} {answer}" for _, answer in holders]


def without_key():
    raise TrustListError("none of the node's keys is ACTIVE")


def service(province, signer=without_key):
    async def own(places):
        return [False for _ in places]

    return RecognitionService(
        province=GUANGDONG,
        deciding=province,
        trust=province,
        signer=signer,
        audit=province,
        statuses=KnownStatuses(GUANGDONG, own, lambda _: None),
        clock=lambda: NOW,
    )


def document():
    first17 = "51010419900307002"
    return types_pb2.IdentityDocument(
        type=types_pb2.DOCUMENT_TYPE_RESIDENT_ID, number=first17 + mod_11_2(first17)
    )


def shown():
    id_ = new_id(NOW)
    evidence = (CodeEvidence(id_, GUANGDONG, FACT),)
    ends = NOW + timedelta(minutes=5)
    code = HealthCode(id_, GUANGDONG, Colour.GREEN, "nat", None, HOLDER, evidence, NOW, ends)
    return healthcode.sign(code, KEY)


GREEN = "RECOGNIZED GREEN ACCEPTED"


@pytest.mark.parametrize(
    ("method", "request_", "recorded"),
    [
        (
            "recognize",
            pb.RecognizeRequest(document=document(), purpose=CHECK, receipt=True),
            [f"Recognize {GREEN}"],
        ),
        (
            "batch_recognize",
            pb.BatchRecognizeRequest(documents=[document()] * 2, purpose=CHECK, receipt=True),
            [f"BatchRecognize {GREEN}"] * 2,
        ),
        (
            "issue_health_code",
            pb.IssueHealthCodeRequest(document=document(), purpose=CHECK),
            [f"IssueHealthCode {GREEN}"],
        ),
        (
            "verify_health_code",
            pb.VerifyHealthCodeRequest(signed=shown(), purpose=CHECK, receipt=True),
            [f"VerifyHealthCode {GREEN}"],
        ),
    ],
)
async def test_a_look_is_recorded_though_no_answer_can_be_signed(method, request_, recorded):
    province = Province()
    with pytest.raises(TrustListError):
        await getattr(service(province), method)(request_, CALL)
    assert province.recorded == recorded


async def test_a_batch_with_receipts_lets_others_have_their_turn():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    many = pb.BatchRecognizeRequest(documents=[document()] * 320, purpose=CHECK, receipt=True)
    sent = await service(Province(), lambda: KEY).batch_recognize(many, CALL)
    answer = pb.BatchRecognizeResponse.FromString(sent)
    other.cancel()
    assert all(item.decision.receipt for item in answer.items)
    assert turns >= 20
