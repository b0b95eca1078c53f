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

from exchange import attestations, cose, publication
from exchange.attestations import Attestation, AttestationVerifier
from exchange.keys import Algorithm, PrivateKey
from exchange.rules import RuleBook
from exchange.subjects import EpochKey
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList
from nodes.identity import make_authority
from nodes.setup import published_rules
from scripts.bench.field import HOME, ISSUER, attestation, numbers
from scripts.bench.measure import Figure, compare, interleave, per_second

__all__ = ["rules", "verify"]

_COUNT = 256
_RECEIVER = "440000"


def verify(case: str, rounds: int, seconds: float) -> Iterator[Figure]:
    """Signed bytes to an `Attestation`, each seen for the first time."""
    now = datetime.now(UTC)
    key = PrivateKey.generate(Algorithm.ES256)
    since = now - timedelta(days=1)
    authority = make_authority(HOME, now=now, lifetime=timedelta(days=1)).certificate.decode()
    profile = Profile(HOME, (AttestationKey(key.public, KeyState.ACTIVE, since),), authority, ())
    trust = TrustList(1, 1, now + timedelta(days=1), {HOME: profile}, {})
    signed = [attestations.sign(each, key) for each in _drafts(now)]
    native, algorithm = key.native.public_key(), ec.ECDSA(SHA256())
    plain = [_plain(each) for each in signed]
    cwt_key = cwt.COSEKey.from_pem(key.public.to_pem(), kid=key.public.kid)

    def ours() -> int:
        verifier = AttestationVerifier()
        for each in signed:
            verifier.verify(each, trust, now)
        return _COUNT

    def ecdsa() -> int:
        for signature, data in plain:
            native.verify(signature, data, algorithm)
        return _COUNT

    def by_cwt() -> int:
        for each in signed:
            cwt.decode(each, cwt_key)
        return _COUNT

    mine, bare, others = interleave(rounds, *_rates(seconds, ours, ecdsa, by_cwt))
    yield compare(case, "attestations/s", mine, "ECDSA", bare, aim={"ratio": 1 / 1.5})
    yield compare(f"{case}.cwt", "attestations/s", mine, "cwt", others)


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


def _plain(signed: bytes) -> tuple[bytes, bytes]:
    """The signature in DER and the bytes that it is over (RFC 9052 §4.4)."""
    message = cose.parse(signed, cose.ObjectType.ATTESTATION)
    r, s = (int.from_bytes(message.signature[at : at + 32]) for at in (0, 32))
    data = cbor2.dumps(["Signature1", message.protected, b"", message.payload])
    return utils.encode_dss_signature(r, s), data
