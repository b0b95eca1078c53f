"""The lookup by token, beside what a team would build instead of a node."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from google.protobuf.any_pb2 import Any

from exchange.v1 import peer_service_pb2
from scripts.bench.field import Field
from scripts.bench.measure import Figure, compare, interleave
from scripts.bench.peers import PATH, VENV, BareServer, Pair, echo, etcd, plain, web
from scripts.bench.served import FETCH, Round, run
from scripts.bench.target import Target

__all__ = ["lookup", "without_tls"]

_START_SECONDS = 20.0
_SERIALIZABLE = b"\x38\x01"
"""Field 7 of a RangeRequest: answer from this member's own store, which is etcd's fastest."""


@dataclass(frozen=True, slots=True)
class _Contender:
    name: str
    target: Target
    requests: Sequence[bytes]
    pids: Sequence[int]


def lookup(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """One token a call; ``.cpu`` is that of all processes of a side, its store's too."""
    tokens = [field.token(number) for number in field.holders]
    requests = [
        peer_service_pb2.FetchAttestationsRequest(subject_tokens=[each]).SerializeToString()
        for each in tokens
    ]
    target = field.target(field.asked, "node", FETCH)
    node = _Contender("node", target, requests, field.pids)
    answer = field.load.once(target, requests[0])
    (subject,) = peer_service_pb2.FetchAttestationsResponse.FromString(answer).subjects
    (signed,) = subject.signed_attestations
    with contextlib.ExitStack() as stack:
        peers = [
            *stack.enter_context(_plain(field, requests, field.pair)),
            *stack.enter_context(_web(field, tokens, field.pair)),
            *stack.enter_context(_etcd(field, tokens, signed, field.pair)),
        ]
        for each in peers:
            _expect(signed, each, field)
        sides = [node, *peers]
        for side in sides:
            run(field, side.target, side.requests, max(seconds, 1.0), side.pids)
        ours, *others = interleave(
            rounds,
            *(
                lambda side=side: run(field, side.target, side.requests, seconds, side.pids)
                for side in sides
            ),
        )
    for peer, theirs in zip(peers, others, strict=True):
        yield from _figures(f"{case}.{peer.name}", ours, theirs, peer.name, field.load.name)


def without_tls(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """What TLS costs the peers of `lookup`, and an echo: a node is never without."""
    tokens = [field.token(number) for number in field.holders]
    requests = [
        peer_service_pb2.FetchAttestationsRequest(subject_tokens=[each]).SerializeToString()
        for each in tokens
    ]
    answer = field.load.once(field.target(field.asked, "node", FETCH), requests[0])
    (subject,) = peer_service_pb2.FetchAttestationsResponse.FromString(answer).subjects
    (signed,) = subject.signed_attestations
    makes: list[Callable[[Pair | None], AbstractContextManager[Sequence[_Contender]]]] = [
        lambda pair: _echo(field, answer, pair),
        lambda pair: _plain(field, requests, pair),
        lambda pair: _web(field, tokens, pair),
        lambda pair: _etcd(field, tokens, signed, pair),
    ]
    for make in makes:
        with make(None) as bare, make(field.pair) as held:
            for side in zip(bare, held, strict=True):
                for each in side:
                    run(field, each.target, each.requests, max(seconds, 1.0), each.pids)
                ours, theirs = interleave(
                    rounds,
                    *(
                        lambda each=each: run(field, each.target, each.requests, seconds, each.pids)
                        for each in side
                    ),
                )
                name = f"{case}.{side[0].name}"
                yield from _figures(name, ours, theirs, "with TLS", field.load.name)


def _figures(
    case: str, ours: Sequence[Round], theirs: Sequence[Round], peer: str, load: str
) -> Iterator[Figure]:
    aim = {"ratio": 1.0} if peer == "etcd" else None
    rates = [[each.rate for each in side] for side in (ours, theirs)]
    yield compare(case, "calls/s", rates[0], peer, rates[1], aim=aim, load=load)
    spent = [[sum(each.cpu) for each in side] for side in (ours, theirs)]
    yield compare(
        f"{case}.cpu", "µs/call", spent[0], peer, spent[1], less_is_better=True, load=load
    )


def _target(
    field: Field, pair: Pair | None, path: str, address: str, *, json: bool = False
) -> Target:
    target = field.target(field.asked, "app", path, address, json=json)
    return target if pair else replace(target, certificate=b"", key=b"", authority=b"")


@contextlib.contextmanager
def _echo(field: Field, answer: bytes, pair: Pair | None) -> Iterator[list[_Contender]]:
    with BareServer(pair, echo, answer) as server:
        target = _target(field, pair, PATH, server.address)
        yield [_Contender("echo", target, [answer], (server.pid,))]


@contextlib.contextmanager
def _plain(
    field: Field, requests: Sequence[bytes], pair: Pair | None
) -> Iterator[list[_Contender]]:
    with BareServer(pair, plain, field.store) as server:
        target = _target(field, pair, PATH, server.address)
        yield [_Contender("redis-pool", target, requests, (server.pid, field.pids[1]))]


@contextlib.contextmanager
def _web(field: Field, tokens: Sequence[bytes], pair: Pair | None) -> Iterator[list[_Contender]]:
    if not (VENV / "bin" / "uvicorn").exists() or field.load.name != "h2load":
        print("no FastAPI: it needs h2load, and .bench (scripts/bench/README.md)", file=sys.stderr)
        yield []
        return
    with web(pair, field.store) as (address, pid):
        requests = [
            json.dumps({"subject_tokens": [base64.b64encode(each).decode()]}).encode()
            for each in tokens
        ]
        target = _target(field, pair, "/attestations", address, json=True)
        _await(field, target, requests[0])
        yield [_Contender("fastapi", target, requests, (pid, field.pids[1]))]


@contextlib.contextmanager
def _etcd(
    field: Field, tokens: Sequence[bytes], signed: bytes, pair: Pair | None
) -> Iterator[list[_Contender]]:
    if not shutil.which("etcd"):
        print("no etcd: apt-get install etcd-server", file=sys.stderr)
        yield []
        return
    with etcd(pair) as (address, pid):
        # PutRequest and RangeRequest have the fields of Any, by number: a key, and a value.
        put, get = (
            _target(field, pair, f"/etcdserverpb.KV/{method}", address)
            for method in ("Put", "Range")
        )
        keys = [each.hex() for each in tokens]
        _await(field, put, Any(type_url="first").SerializeToString())
        for key in keys:
            field.load.once(put, Any(type_url=key, value=signed).SerializeToString())
        requests = [Any(type_url=key).SerializeToString() + _SERIALIZABLE for key in keys]
        yield [_Contender("etcd", get, requests, (pid,))]


def _await(field: Field, target: Target, request: bytes) -> None:
    """Call until it is answered."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            field.load.once(target, request)
        except (OSError, RuntimeError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _expect(signed: bytes, peer: _Contender, field: Field) -> None:
    answer = field.load.once(peer.target, peer.requests[0])
    if not (signed in answer or base64.b64encode(signed) in answer):
        raise RuntimeError(f"{peer.name} does not answer what the node does: nothing is measured")
