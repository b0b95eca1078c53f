"""Cases of the trust list: 32 provinces, verified over a line of 50 ms round trip."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exchange.keys import Algorithm, PrivateKey
from exchange.provinces import PROVINCES
from exchange.trust import ceremony, refresh
from exchange.trust.files import Bundle, Files
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Signers
from nodes.identity import make_authority
from nodes.setup import published_rules
from scripts.bench.measure import Figure, compare, interleave

__all__ = ["refreshes"]

_ROUND_TRIP = 0.05


def refreshes(case: str, rounds: int) -> Iterator[Figure]:
    """Cold: nothing is known but the root. Warm: the timestamp alone is new."""
    now = datetime.now(UTC)
    signers = Signers.generate(PROVINCES)
    published = _exchange(signers, now)
    renewed = {**published, **ceremony.renew(published, signers.online, now=now)}
    root = published["1.root.json"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        numbers = itertools.count()
        warmed = [folder / f"warm-{number}" for number in range(rounds)]
        for cache in warmed:
            refresh.load(published, root, cache)

        def cold() -> float:
            return _timed(published, root, folder / f"cold-{next(numbers)}")

        def warm() -> float:
            return _timed(renewed, root, warmed.pop())

        def one_by_one() -> float:
            begun = time.perf_counter()
            time.sleep(_ROUND_TRIP * len(Bundle.of(published).files))
            refresh.load(published, root, folder / f"slow-{next(numbers)}")
            return (time.perf_counter() - begun) * 1000

        at_once, again, slowly = interleave(rounds, cold, warm, one_by_one)
    limits = {"cold": (at_once, 100.0), "warm": (again, 80.0)}
    for name, (values, aim) in limits.items():
        yield compare(
            f"{case}.{name}", "ms", values, "aim", [aim] * rounds, aim={"ratio": 1.0},
            less_is_better=True,
        )  # fmt: skip
    yield compare(f"{case}.each", "ms", at_once, "file by file", slowly, less_is_better=True)


def _timed(published: Files, root: bytes, cache: Path) -> float:
    begun = time.perf_counter()
    time.sleep(_ROUND_TRIP)  # the one call that brings all
    refresh.load(published, root, cache)
    return (time.perf_counter() - begun) * 1000


def _exchange(signers: Signers, now: datetime) -> Files:
    profiles = []
    for code in PROVINCES:
        authority = make_authority(code, now=now, lifetime=timedelta(days=365))
        key = AttestationKey(PrivateKey.generate(Algorithm.ES256).public, KeyState.ACTIVE, now)
        profiles.append(
            Profile(
                code,
                (key,),
                authority.certificate.decode(),
                ("127.0.0.1:7443",),
                published_rules(code),
            )
        )
    return ceremony.initialise(profiles, signers, now=now)
