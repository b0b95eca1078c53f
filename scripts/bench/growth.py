"""What becomes of a node's speed and memory as there is more: attestations, tokens, provinces.

Each step is held against an echo of its own, in the same rounds: compare the ratios of two steps,
never their values. ``SUBJECTS=10000000`` for a larger store, ``PROVINCES=8`` for a smaller country.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from exchange.attestations import decode
from exchange.cose import ObjectType, parse
from exchange.provinces import PROVINCES
from exchange.subjects import TOKEN_BYTES
from exchange.v1 import peer_service_pb2
from nodes.store.connection import Connection
from nodes.store.records import Record
from scripts.bench import served
from scripts.bench.field import HOLDERS, HOME, Field
from scripts.bench.load import Load
from scripts.bench.measure import Figure, resident, until_idle

__all__ = ["batches", "provinces", "stores"]

_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_COUNTRIES = (2, 4, 8, 16, 32)
_AT_ONCE = 5_000
_START_SECONDS = 600.0


def stores(case: str, directory: Path, load: Load, rounds: int, seconds: float) -> Iterator[Figure]:
    """Fetch one token of a store of so many attestations; its restart, and its memory."""
    most = int(os.environ.get("SUBJECTS", "1000000"))
    for size in (each for each in _SIZES if each <= most):
        field = Field(directory / str(size), load, (HOME,), HOME)
        field.start()
        try:
            asyncio.run(_fill(field, size - HOLDERS))
            began = time.perf_counter()
            field.restart(_START_SECONDS)
            took = time.perf_counter() - began
            until_idle(*field.pids, seconds=2.0)  # the filter is built, the keys are counted
            yield from served.fetch(f"{case}.{size}", field, rounds, seconds, tokens=1)
            yield Figure(f"{case}.{size}.restart", took, "s")
            node, valkey = (resident(pid) for pid in field.pids)
            yield Figure(f"{case}.{size}.memory", node, "MiB")
            yield Figure(f"{case}.{size}.valkey-memory", valkey, "MiB")
        finally:
            field.stop()


def batches(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """FetchAttestations with 1 to 64 tokens a call."""
    for size in _BATCHES:
        yield from served.fetch(f"{case}.{size}", field, rounds, seconds, tokens=size)


def provinces(
    case: str, directory: Path, load: Load, rounds: int, seconds: float
) -> Iterator[Figure]:
    """Recognize in exchanges of 2 to 32 provinces, another's answer at hand."""
    most = int(os.environ.get("PROVINCES", len(PROVINCES)))
    others = [code for code in PROVINCES if code != HOME]
    for size in (each for each in _COUNTRIES if each <= most):
        codes = (*others[: size - 1], HOME)
        field = Field(directory / str(size), load, codes, codes[0])
        field.start(_START_SECONDS)
        try:
            yield from served.recognize(f"{case}.{size}", field, rounds, seconds, calls=0)
            yield Figure(f"{case}.{size}.memory", resident(field.pids[0]), "MiB")
        finally:
            field.stop()


async def _fill(field: Field, count: int) -> None:
    """Put copies of a holder's attestation under subjects whom nobody will ask for.

    Past the node, which would take minutes for it.
    """
    token = field.token(field.holders[0])
    request = peer_service_pb2.FetchAttestationsRequest(subject_tokens=[token])
    answer = field.load.once(
        field.target(field.asked, "node", served.FETCH), request.SerializeToString()
    )
    (subject,) = peer_service_pb2.FetchAttestationsResponse.FromString(answer).subjects
    signed = subject.signed_attestations[0]
    original = decode(parse(signed, ObjectType.ATTESTATION).payload)
    expires = int(original.expires_at.timestamp())
    until = b"%d" % expires
    connection = await Connection.open(field.store, reply_seconds=60.0)
    for start in range(0, count, _AT_ONCE):
        commands: list[tuple[bytes, ...]] = []
        for _ in range(min(_AT_ONCE, count - start)):
            id_, token = os.urandom(16), os.urandom(TOKEN_BYTES)
            record = Record(original.issuer.credit_code, bytes(32), expires, token, ((1, 1),))
            key = b"s:{%b}" % token
            commands += [
                (b"HSETEX", key, b"EXAT", until, b"FIELDS", b"1", id_, signed),
                (b"SET", b"a:{%b}" % id_, record.encode(), b"EXAT", until),
            ]
        await connection.pipeline(commands)
    await connection.close()
