"""Cases that call a real node over mutual TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.message import Message

from exchange.v1 import peer_service_pb2, recognition_service_pb2
from nodes.trial import wait_until
from scripts.bench.field import Field, document, numbers
from scripts.bench.measure import (
    Figure,
    compare,
    cpu_seconds,
    interleave,
    per_second,
    resident,
    until_idle,
)
from scripts.bench.target import IN_FLIGHT, Target

__all__ = [
    "FETCH",
    "Round",
    "batch",
    "fetch",
    "hearing",
    "idle",
    "issue_code",
    "publish",
    "recognitions",
    "recognize",
    "run",
    "verify_code",
]

FETCH = "/tongxing.v1.PeerService/FetchAttestations"
_RECOGNIZE = "/tongxing.v1.RecognitionService/Recognize"
_BATCH_RECOGNIZE = "/tongxing.v1.RecognitionService/BatchRecognize"
_ISSUE = "/tongxing.v1.RecognitionService/IssueHealthCode"
_VERIFY = "/tongxing.v1.RecognitionService/VerifyHealthCode"
_TRAIN = 588
_SHOWN = 256
_STREAM = 2048
_HEARD_SECONDS = 30.0
_ECHO = "echo"


@dataclass(frozen=True, slots=True)
class Round:
    """Items a second, and the CPU time that each process spent on one, in µs."""

    rate: float
    cpu: tuple[float, ...]


def idle(case: str, field: Field, rounds: int) -> Iterator[Figure]:
    """What a node that does nothing holds in memory."""
    node, valkey = ([resident(pid) for _ in range(rounds)] for pid in field.pids)
    aim = {"ratio": 1.0}
    yield compare(case, "MiB", node, "limit", [120.0] * rounds, aim=aim, less_is_better=True)
    yield compare(f"{case}.valkey", "MiB", valkey)


def fetch(
    case: str,
    field: Field,
    rounds: int,
    seconds: float,
    *,
    tokens: int,
    aim: dict[str, float] | None = None,
) -> Iterator[Figure]:
    """FetchAttestations, counted in tokens."""
    all_ = [field.token(number) for number in field.holders]
    requests = [
        peer_service_pb2.FetchAttestationsRequest(
            subject_tokens=all_[at : at + tokens]
        ).SerializeToString()
        for at in range(0, len(all_), tokens)
    ]
    target = field.target(field.asked, "node", FETCH)
    subjects = peer_service_pb2.FetchAttestationsResponse.FromString(
        field.load.once(target, requests[0])
    ).subjects
    _expect(len(subjects) == tokens and all(s.signed_attestations for s in subjects), case)
    yield from _against_echo(case, field, target, requests, rounds, seconds, aim, items=tokens)


def recognize(
    case: str,
    field: Field,
    rounds: int,
    seconds: float,
    *,
    calls: int,
    aim: dict[str, float] | None = None,
) -> Iterator[Figure]:
    """Recognize, one holder a call; the evidence lies where the field has it.

    :param calls: to peers, that each takes once it was asked before.
    """
    target, requests = recognitions(field)

    def as_it_should() -> bool:
        answer = field.load.once(target, requests[-1])
        decision = recognition_service_pb2.RecognizeResponse.FromString(answer).decision
        return (
            decision.outcome == recognition_service_pb2.OUTCOME_RECOGNIZED
            and sum(each.calls for each in decision.answers) == calls
        )

    # The last that was published: it takes a moment until the others have heard of it.
    wait_until(f"{case} is answered as it should be", as_it_should, _HEARD_SECONDS)
    for request in requests:
        field.load.once(target, request)
    yield from _against_echo(case, field, target, requests, rounds, seconds, aim)


def issue_code(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """IssueHealthCode (制码) of holders who are recognised."""
    target, requests = _codes(field)
    answer = recognition_service_pb2.IssueHealthCodeResponse.FromString(
        field.load.once(target, requests[0])
    )
    _expect(bool(answer.health_code.text), case)
    yield from _against_echo(case, field, target, requests, rounds, seconds, None)


def verify_code(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """VerifyHealthCode (验码) of what the same node issued a moment ago."""
    target, requests = _codes(field)
    shown = [
        recognition_service_pb2.IssueHealthCodeResponse.FromString(
            field.load.once(target, request)
        ).health_code.text
        for request in requests[:_SHOWN]
    ]
    requests = [
        recognition_service_pb2.VerifyHealthCodeRequest(
            text=text, purpose="PURPOSE_ENTRY_CHECK"
        ).SerializeToString()
        for text in shown
    ]
    target = field.target(field.asked, "app", _VERIFY)
    answer = recognition_service_pb2.VerifyHealthCodeResponse.FromString(
        field.load.once(target, requests[0])
    )
    _expect(answer.verdict == recognition_service_pb2.VERDICT_ACCEPTED, case)
    yield from _against_echo(case, field, target, requests, rounds, seconds, None)


def batch(case: str, field: Field, rounds: int, seconds: float) -> Iterator[Figure]:
    """BatchRecognize of a trainload, against as many holders asked for one by one."""
    single, one_by_one = recognitions(field)
    many = field.target(field.asked, "app", _BATCH_RECOGNIZE)
    train = recognition_service_pb2.BatchRecognizeRequest(
        documents=[document(number) for number in field.holders[:_TRAIN]],
        purpose="PURPOSE_ENTRY_CHECK",
    ).SerializeToString()
    items = recognition_service_pb2.BatchRecognizeResponse.FromString(
        field.load.once(many, train)
    ).items
    recognized = recognition_service_pb2.OUTCOME_RECOGNIZED
    _expect(all(item.decision.outcome == recognized for item in items), case)
    ours, theirs = interleave(
        rounds,
        lambda: run(field, many, [train], seconds, field.pids, items=_TRAIN, in_flight=1),
        lambda: run(field, single, one_by_one[:_TRAIN], seconds, field.pids),
    )
    yield from _figures(case, "holders/s", ours, theirs, "one by one", None, field.load.name)


def publish(
    case: str, field: Field, rounds: int, seconds: float, *, together: int
) -> Iterator[Figure]:
    """PublishAttestations over one stream, each item durable, against signing alone.

    :param together: items of a message.
    """
    key, data = ec.generate_private_key(ec.SECP256R1()), bytes(450)
    algorithm = ec.ECDSA(SHA256())
    # Other holders than the other cases': theirs have one attestation each.
    streams = iter(
        [
            field.publications(numbers(_STREAM, first=1_000_000 + at * _STREAM), together)
            for at in range(rounds + 1)
        ]
    )
    field.publish(next(streams))

    def published() -> Round:
        before = [cpu_seconds(pid) for pid in field.pids]
        rate = field.publish(next(streams))
        return Round(rate, _spent(before, field.pids, _STREAM))

    def signed() -> int:
        for _ in range(100):
            key.sign(data, algorithm)
        return 100

    ours, signatures = interleave(rounds, published, lambda: per_second(signed, seconds / 2))
    theirs = [Round(rate, (1e6 / rate,)) for rate in signatures]
    yield from _figures(case, "items/s", ours, theirs, "signing", {"ratio": 0.5}, "grpc.aio")


def hearing(case: str, field: Field, rounds: int) -> Iterator[Figure]:
    """What a node spends on each change of another province, of many that come in a stream."""
    spent = []
    for at in range(rounds + 1):  # the first brings connections about
        items = field.publications(numbers(_STREAM, first=2_000_000 + at * _STREAM))
        until_idle(*field.pids)
        before = [cpu_seconds(pid) for pid in field.pids]
        field.publish(items)
        until_idle(*field.pids)
        spent.append(_spent(before, field.pids, _STREAM))
    node, valkey = zip(*spent[1:], strict=True)
    yield compare(case, "µs/change", node)
    yield compare(f"{case}.valkey", "µs/change", valkey)


def recognitions(field: Field) -> tuple[Target, list[bytes]]:
    """Recognize at the asked node, and a request for each holder."""
    return _of_each(field, _RECOGNIZE, recognition_service_pb2.RecognizeRequest)


def _codes(field: Field) -> tuple[Target, list[bytes]]:
    return _of_each(field, _ISSUE, recognition_service_pb2.IssueHealthCodeRequest)


def _of_each(field: Field, path: str, form: Callable[..., Message]) -> tuple[Target, list[bytes]]:
    requests = [
        form(document=document(number), purpose="PURPOSE_ENTRY_CHECK").SerializeToString()
        for number in field.holders
    ]
    return field.target(field.asked, "app", path), requests


def _expect(holds: bool, case: str) -> None:
    if not holds:
        raise RuntimeError(f"{case} is not answered as it should be: nothing is measured")


def _against_echo(
    case: str,
    field: Field,
    target: Target,
    requests: Sequence[bytes],
    rounds: int,
    seconds: float,
    aim: dict[str, float] | None,
    *,
    items: int = 1,
) -> Iterator[Figure]:
    answer = field.load.once(target, requests[0])
    echo, bare = field.echo(answer)
    with echo:
        # Through all holders at least once: what a node remembers is remembered.
        field.load.calls(target, requests, max(seconds, 1.0))
        field.load.calls(bare, requests, seconds)
        ours, theirs = interleave(
            rounds,
            lambda: run(field, target, requests, seconds, field.pids, items=items),
            lambda: run(field, bare, requests, seconds, (echo.pid,), items=items),
        )
    unit = "calls/s" if items == 1 else "tokens/s"
    yield from _figures(case, unit, ours, theirs, _ECHO, aim, field.load.name)


def run(
    field: Field,
    target: Target,
    requests: Sequence[bytes],
    seconds: float,
    pids: Sequence[int],
    *,
    items: int = 1,
    in_flight: int = IN_FLIGHT,
) -> Round:
    """Call a method for some seconds.

    :param pids: the processes whose CPU time is counted.
    :param items: in each call.
    """
    before = [cpu_seconds(pid) for pid in pids]
    ran = field.load.calls(target, requests, seconds, in_flight)
    return Round(ran.rate * items, _spent(before, pids, ran.calls * items))


def _spent(before: Sequence[float], pids: Sequence[int], items: int) -> tuple[float, ...]:
    return tuple(
        (cpu_seconds(pid) - then) / items * 1e6 for then, pid in zip(before, pids, strict=True)
    )


def _figures(
    case: str,
    unit: str,
    ours: Sequence[Round],
    theirs: Sequence[Round],
    peer: str,
    aim: dict[str, float] | None,
    load: str,
) -> Iterator[Figure]:
    """The rate; the CPU time of the server; that of its Valkey."""

    def each(rounds: Sequence[Round], take: Callable[[Round], float]) -> list[float]:
        return [take(one) for one in rounds]

    yield compare(
        case,
        unit,
        each(ours, lambda r: r.rate),
        peer,
        each(theirs, lambda r: r.rate),
        aim=aim,
        load=load,
    )
    unit = f"µs/{unit.removesuffix('s/s')}"
    yield compare(
        f"{case}.cpu",
        unit,
        each(ours, lambda r: r.cpu[0]),
        peer,
        each(theirs, lambda r: r.cpu[0]),
        less_is_better=True,
        load=load,
    )
    yield compare(f"{case}.valkey", unit, each(ours, lambda r: r.cpu[1]), load=load)
