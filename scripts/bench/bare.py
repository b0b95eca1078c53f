"""Cases of the library alone, in this process: no node, no network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import cbor2
import cel
import cwt
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from exchange import attestations, cbor, cose, publication
from exchange.attestations import Attestation, AttestationVerifier
from exchange.codes import hc1, healthcode
from exchange.codes.healthcode import CodeEvidence, HealthCode, HealthCodeVerifier
from exchange.facts import Colour
from exchange.keys import Algorithm, PrivateKey
from exchange.rules import RuleBook
from exchange.statuslist import LIST_SIZE, StatusReference
from exchange.subjects import EpochKey
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList
from nodes.identity import make_authority
from nodes.setup import published_rules
from scripts.bench.field import HOME, ISSUER, attestation, numbers
from scripts.bench.measure import Figure, compare, interleave, per_second

__all__ = ["hc1_texts", "rules", "verify"]

_COUNT = 256
_RECEIVER = "440000"


def verify(case: str, rounds: int, seconds: float) -> Iterator[Figure]:
    """Signed bytes to an `Attestation`, each seen for the first time."""
    now = datetime.now(UTC)
    key = PrivateKey.generate(Algorithm.ES256)
    trust = _trust(key, now)
    signed = [attestations.sign(each, key) for each in _drafts(now)]
    cwt_key = cwt.COSEKey.from_pem(key.public.to_pem(), kid=key.public.kid)

    def ours() -> int:
        verifier = AttestationVerifier()
        for each in signed:
            verifier.verify(each, trust, now)
        return _COUNT

    ecdsa = _ecdsa(key, signed, cose.ObjectType.ATTESTATION)

    def by_cwt() -> int:
        for each in signed:
            cwt.decode(each, cwt_key)
        return _COUNT

    mine, bare, others = interleave(rounds, *_rates(seconds, ours, ecdsa, by_cwt))
    yield compare(case, "attestations/s", mine, "ECDSA", bare, aim={"ratio": 1 / 1.5})
    yield compare(f"{case}.cwt", "attestations/s", mine, "cwt", others)


def hc1_texts(case: str, rounds: int, seconds: float) -> Iterator[Figure]:
    """HC1 texts, each seen for the first time, to verified claims and to a `HealthCode`."""
    now = datetime.now(UTC).replace(microsecond=0)
    key = PrivateKey.generate(Algorithm.ES256)
    trust = _trust(key, now)
    signed = [healthcode.sign(each, key) for each in _codes(now)]
    texts = [hc1.to_text(each) for each in signed]
    typ = cose.ObjectType.HEALTH_CODE

    def claims() -> int:
        for text in texts:
            message = cose.parse(hc1.from_text(text), typ)
            cose.verify(message, [held.public for _, held in trust.keys(message.kid)])
            cbor.decode_map(message.payload)
        return _COUNT

    # As at a gate: it has forgotten what it saw before.
    verifier = HealthCodeVerifier(remember=_COUNT // 2)

    def judged() -> int:
        for text in texts:
            verifier.verify(hc1.from_text(text), trust, now)
        return _COUNT

    mine, whole, bare = interleave(
        rounds, *_rates(seconds, claims, judged, _ecdsa(key, signed, typ))
    )
    yield compare(case, "texts/s", mine, "ECDSA", bare, aim={"ratio": 1 / 1.5})
    yield compare(f"{case}.code", "texts/s", whole, "ECDSA", bare)


def rules(case: str, rounds: int, seconds: float) -> Iterator[Figure]:
    """All rules of a province for one attestation, against the same programs alone."""
    now = datetime.now(UTC)
    drafts = list(_drafts(now))
    published = published_rules(_RECEIVER)
    book = RuleBook(published)
    kind = drafts[0].fact.kind.value
    programs = [cel.compile(rule["when"]) for rule in published if kind in rule["kinds"]]
    fact = drafts[0].fact
    values = {"kind": kind, "sampled_at": fact.sampled_at, "result": "NEGATIVE"}
    context = cel.Context({"fact": values, "now": now})

    def ours() -> int:
        for each in drafts:
            book.evaluate(each, now)
        return _COUNT

    def alone() -> int:
        for _ in drafts:
            for program in programs:
                program.execute(context)
        return _COUNT

    mine, bare = interleave(rounds, *_rates(seconds, ours, alone))
    yield compare(case, "attestations/s", mine, "CEL alone", bare)


def _rates(seconds: float, *works: Callable[[], int]) -> list[Callable[[], float]]:
    return [functools.partial(per_second, work, seconds / 2) for work in works]


def _drafts(now: datetime) -> Iterator[Attestation]:
    epoch = EpochKey(1, bytes(32))
    for number in numbers(_COUNT):
        yield publication.draft(
            attestation(number, now),
            province=HOME,
            author=ISSUER.credit_code,
            epoch=epoch,
            now=now,
        )


def _codes(now: datetime) -> Iterator[HealthCode]:
    """The common code, that of one test, of each holder."""
    for draft in _drafts(now):
        place = StatusReference(HOME, 12, draft.id.int % LIST_SIZE)
        yield HealthCode(
            id=draft.id,
            province=HOME,
            colour=Colour.GREEN,
            rule="nat-48h-reported",
            reason=None,
            holder=draft.holder,
            evidence=(CodeEvidence(draft.id, HOME, draft.fact, place),),
            issued_at=now,
            expires_at=now + healthcode.LIFE,
        )


def _trust(key: PrivateKey, now: datetime) -> TrustList:
    since = now - timedelta(days=1)
    authority = make_authority(HOME, now=now, lifetime=timedelta(days=1)).certificate.decode()
    profile = Profile(HOME, (AttestationKey(key.public, KeyState.ACTIVE, since),), authority, ())
    return TrustList(1, 1, now + timedelta(days=1), {HOME: profile}, {})


def _ecdsa(key: PrivateKey, signed: list[bytes], typ: cose.ObjectType) -> Callable[[], int]:
    """The bare verification of as many signatures, everything read beforehand."""
    native, algorithm = key.native.public_key(), ec.ECDSA(SHA256())
    if not isinstance(native, ec.EllipticCurvePublicKey):
        raise TypeError(native)
    plain = [_plain(each, typ) for each in signed]

    def verify() -> int:
        for signature, data in plain:
            native.verify(signature, data, algorithm)
        return _COUNT

    return verify


def _plain(signed: bytes, typ: cose.ObjectType) -> tuple[bytes, bytes]:
    """The signature in DER and the bytes that it is over (RFC 9052 §4.4)."""
    message = cose.parse(signed, typ)
    r, s = (int.from_bytes(message.signature[at : at + 32]) for at in (0, 32))
    data = cbor2.dumps(["Signature1", message.protected, b"", message.payload])
    return utils.encode_dss_signature(r, s), data
