"""Three provinces with keys, and one holder whom they attest: what the core's tests stand on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import settings
from hypothesis import strategies as st

from exchange import attestations
from exchange.attestations import LIFE, Attestation, Holder, Issuer
from exchange.facts import (
    AntigenTest,
    Colour,
    Fact,
    Fitness,
    HealthCodeStatus,
    MedicalExamination,
    NucleicAcidTest,
    Recovery,
    TestResult,
    Vaccination,
)
from exchange.keys import Algorithm, PrivateKey, PublicKey
from exchange.subjects import Document, DocumentType, EpochKey, credit_code_check, mod_11_2
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList

# A busy machine is no fault of the code.
settings.register_profile("tongxing", deadline=None)
settings.load_profile("tongxing")

GUANGDONG, HUBEI, SICHUAN = "440000", "420000", "510000"
PROVINCES = (GUANGDONG, HUBEI, SICHUAN)
NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def _credit_code(body: str) -> str:
    return body + credit_code_check(body)


def _number(first17: str) -> str:
    return first17 + mod_11_2(first17)


@dataclass
class World:
    """Makes trust lists, attestations and their signatures."""

    now: datetime = NOW
    provinces: tuple[str, ...] = PROVINCES
    keys: dict[str, PrivateKey] = field(
        default_factory=lambda: {code: PrivateKey.generate(Algorithm.ES256) for code in PROVINCES}
    )
    certificate: str = field(default_factory=_certificate)
    epoch: EpochKey = field(default_factory=lambda: EpochKey(1, bytes(32)))
    number: str = _number("51010419900307002")
    _ids: random.Random = field(default_factory=lambda: random.Random(20220110))

    lab = Issuer(_credit_code("91510100MA61RHGX7"), "锦城医学检验所")
    other_lab = Issuer(_credit_code("91510100MA61RHGX8"), "蓉东医学检验所")

    @property
    def document(self) -> Document:
        return Document.parse(DocumentType.RESIDENT_ID, self.number, today=date(2022, 1, 10))

    @property
    def token(self) -> bytes:
        return self.document.token(self.epoch)

    def id(self, at: datetime = NOW) -> UUID:
        """A new UUIDv7 (RFC 9562 §5.7)."""
        value = int(at.timestamp() * 1000) << 80 | self._ids.getrandbits(80)
        value = value & ~(0xF << 76) | 7 << 76
        return UUID(int=value & ~(3 << 62) | 2 << 62)

    def trust(
        self,
        *more: tuple[str, PublicKey],
        version: int = 1,
        without: str = "",
        since: datetime = NOW - 1000 * HOUR,
        **states: KeyState,
    ) -> TrustList:
        """Give a trust list: ``trust(p510000=KeyState.REVOKED, since=…)``, other keys ACTIVE.

        :param more: keys that a province publishes besides its own, ACTIVE.
        """
        profiles = {}
        for code in self.provinces:
            if code == without:
                continue
            state = states.get(f"p{code}", KeyState.ACTIVE)
            keys = [AttestationKey(self.keys[code].public, state, since)]
            keys += [AttestationKey(k, KeyState.ACTIVE, since) for p, k in more if p == code]
            profiles[code] = Profile(code, tuple(keys), self.certificate, (f"{code}.example:1",))
        return TrustList(version, 1, NOW + 24 * HOUR, profiles, {})

    def test(self, hours_ago: float = 12, result: str = "NEGATIVE") -> NucleicAcidTest:
        return NucleicAcidTest(self.now - hours_ago * HOUR, TestResult(result))

    def status(self, colour: str, hours_ago: float = 12) -> HealthCodeStatus:
        why = ("密切接触者", "新冠肺炎防控方案第八版", "锦城区疾控中心", "居家隔离并联系社区")
        words = ("", *why) if colour != "GREEN" else ()
        return HealthCodeStatus(self.now - hours_ago * HOUR, Colour(colour), *words)

    def attestation(self, fact: Fact | None = None, **changes: Any) -> Attestation:
        """One of Sichuan's on the holder, issued half an hour after sampling."""
        fact = fact or self.test()
        issued = fact.sampled_at + HOUR / 2
        whole = Attestation(
            id=self.id(issued),
            province=SICHUAN,
            token=self.token,
            fact=fact,
            issuer=self.lab,
            holder=Holder("胡*君", DocumentType.RESIDENT_ID, "51**************21"),
            issued_at=issued,
            expires_at=fact.sampled_at + LIFE[fact.kind],
            data_as_of=fact.sampled_at,
        )
        return replace(whole, **changes)

    def sign(self, attestation: Attestation, by: PrivateKey | None = None) -> bytes:
        return attestations.sign(attestation, by or self.keys[attestation.province])

    def signed(self, fact: Fact | None = None, **changes: Any) -> bytes:
        return self.sign(self.attestation(fact, **changes))


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def facts() -> st.SearchStrategy[Fact]:
    """Facts of every kind, with any values that the contract allows, sampled before `NOW`."""
    times = st.integers(0, int(NOW.timestamp())).map(lambda s: datetime.fromtimestamp(s, UTC))
    maybe = st.none() | times
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    said = words.map(lambda text: f"因{text}")
    doses = st.integers(1, 20)
    results = st.sampled_from(TestResult)
    return st.one_of(
        st.builds(MedicalExamination, times, st.sampled_from(Fitness), maybe),
        st.builds(NucleicAcidTest, times, results, maybe),
        st.builds(AntigenTest, times, results, maybe, st.booleans()),
        st.builds(Vaccination, times, said, doses, doses),
        st.builds(Recovery, times, maybe),
        st.builds(HealthCodeStatus, times, st.sampled_from(Colour), words, *[said] * 4),
        st.builds(HealthCodeStatus, times, st.just(Colour.GREEN), words),
    )
