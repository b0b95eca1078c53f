"""Views: the proto messages of the contract, from and to the values of `exchange`.

A view stands beside the signed bytes and is never what counts.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from exchange.attestations import Attestation
from exchange.errors import InvalidFieldError
from exchange.facts import FACTS, Colour, Fact, Kind, fact_fields
from exchange.recognition import (
    Decision,
    Evidence,
    Outcome,
    ProvinceAnswer,
    RuleVerdict,
    Verdict,
)
from exchange.remedies import Remedy
from exchange.rules import Rule
from exchange.texts import Text
from exchange.trust.files import Files, Versions
from exchange.v1 import recognition_service_pb2 as recognition_pb
from exchange.v1 import trust_service_pb2 as trust_pb
from exchange.v1 import types_pb2
from exchange.wire import embedded

__all__ = [
    "attestation_to_proto",
    "colour_to_proto",
    "decision_to_proto",
    "decision_to_wire",
    "fact_from_proto",
    "fact_to_proto",
    "files_from_proto",
    "files_to_proto",
    "remedy_to_proto",
    "rule_verdict_to_proto",
    "text_to_proto",
    "time_from_proto",
    "time_to_proto",
    "versions_from_proto",
    "versions_to_proto",
]

# Numbers of fields: of a Decision, of a RuleVerdict, of an Evidence, of an Attestation.
_RULES, _EVIDENCE = 5, 6
_ATTESTATION_IDS = 4
_ATTESTATION = 1
_SIGNED = 1


def time_from_proto(message: Timestamp, *, field: str) -> datetime:
    """A time in whole seconds, UTC.

    :raises InvalidFieldError: not between 1970 and 9999.
    """
    if not 0 <= message.seconds < 253402300800:
        raise InvalidFieldError("not a time between 1970 and 9999", field=field)
    return datetime.fromtimestamp(message.seconds, UTC)


def time_to_proto(time: datetime) -> Timestamp:
    """A time of whole seconds as a Timestamp."""
    # Without its fraction first: a float would round it up where seconds are many.
    return Timestamp(seconds=int(time.replace(microsecond=0).timestamp()))


@functools.cache
def _enum_prefix(message: str, field: str) -> tuple[Any, str]:
    """The proto enum behind a field, and the prefix of its names."""
    descriptor = getattr(types_pb2, message).DESCRIPTOR.fields_by_name[field]
    assert descriptor.enum_type is not None  # noqa: S101 - for mypy: it is an enum's field
    wrapper = getattr(types_pb2, descriptor.enum_type.name)
    prefix = descriptor.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    return wrapper, prefix


def fact_from_proto(message: types_pb2.Fact, *, field: str = "fact") -> Fact:
    """The fact of a request.

    :raises InvalidFieldError: a time is out of range; the contract's rules hold for the rest.
    """
    which = message.WhichOneof("kind")
    if which is None:
        raise InvalidFieldError("missing", field=field)
    part = getattr(message, which)
    fact = FACTS[Kind(which.upper())]
    values: dict[str, Any] = {}
    for known in fact_fields(fact):
        value = getattr(part, known.proto)
        if known.type is datetime:
            if part.HasField(known.proto):
                where = f"{field}.{which}.{known.proto}"
                values[known.name] = time_from_proto(value, field=where)
            elif known.required:
                raise InvalidFieldError("missing", field=f"{field}.{which}.{known.proto}")
        elif issubclass(known.type, enum.Enum):
            wrapper, prefix = _enum_prefix(fact.__name__, known.proto)
            values[known.name] = known.type(wrapper.Name(value).removeprefix(prefix))
        else:
            values[known.name] = value
    return fact(**values)


def fact_to_proto(fact: Fact) -> types_pb2.Fact:
    """The fact as its message."""
    values: dict[str, Any] = {}
    name = type(fact).__name__
    for known in fact_fields(type(fact)):
        value = getattr(fact, known.name)
        if isinstance(value, datetime):
            values[known.proto] = time_to_proto(value)
        elif isinstance(value, enum.Enum):
            _, prefix = _enum_prefix(name, known.proto)
            values[known.proto] = f"{prefix}{value.value}"
        elif value is not None:
            values[known.proto] = value
    part = getattr(types_pb2, name)(**values)
    return types_pb2.Fact(**{fact.kind.value.lower(): part})


def attestation_to_proto(signed: bytes, attestation: Attestation | None) -> types_pb2.Attestation:
    """The view of signed bytes; the bytes alone where they did not verify."""
    if attestation is None:
        return types_pb2.Attestation(signed=signed)
    return types_pb2.Attestation(
        signed=signed,
        attestation_id=str(attestation.id),
        province=attestation.province,
        fact=fact_to_proto(attestation.fact),
        issuer=types_pb2.Issuer(
            credit_code=attestation.issuer.credit_code, name=attestation.issuer.name
        ),
        holder=types_pb2.MaskedHolder(
            name=attestation.holder.name,
            document_type=f"DOCUMENT_TYPE_{attestation.holder.document_type.value}",
            document_number=attestation.holder.document_number,
        ),
        issue_time=time_to_proto(attestation.issued_at),
        expire_time=time_to_proto(attestation.expires_at),
        data_as_of_time=time_to_proto(attestation.data_as_of),
        supersedes=str(attestation.supersedes) if attestation.supersedes else "",
        status=types_pb2.StatusReference(uri=attestation.status.uri, index=attestation.status.index)
        if attestation.status
        else None,
    )


def decision_to_proto(decision: Decision) -> recognition_pb.Decision:
    """A decision as its message."""
    return recognition_pb.Decision.FromString(decision_to_wire(decision))


def decision_to_wire(decision: Decision, receipt: bytes = b"") -> bytes:
    """A decision's message in its wire form.

    Most of it is the same, holder after holder and second after second: each such part is
    serialised once, and the message spliced of them in the order of its fields.

    :param receipt: the signed receipt, where there is one.
    """
    # Without its fraction first: a float would round it up where seconds are many.
    second = int(decision.decided_at.replace(microsecond=0).timestamp())
    parts = [_concluded(decision.outcome, decision.colour, decision.verdict, decision.reason)]
    parts += [_said(said) for said in decision.rules]
    parts += [_evidence(piece) for piece in decision.evidence]
    parts += map(_answer, decision.answers)
    parts.append(_rested(decision.province, decision.trust_version, second, decision.rules_digest))
    parts += map(_remedy, decision.remedies)
    if receipt:
        parts.append(recognition_pb.Decision(receipt=receipt).SerializeToString())
    return b"".join(parts)


@functools.lru_cache(maxsize=1024)
def _concluded(outcome: Outcome, colour: Colour, verdict: Verdict, reason: Text) -> bytes:
    return recognition_pb.Decision(
        outcome=f"OUTCOME_{outcome.value}",
        colour=colour_to_proto(colour),
        verdict=f"VERDICT_{verdict.value}",
        reason=text_to_proto(reason),
    ).SerializeToString()


@functools.lru_cache(maxsize=64)
def _rested(province: str, trust_version: int, second: int, rules_digest: bytes) -> bytes:
    return recognition_pb.Decision(
        province=province,
        trust_version=trust_version,
        decide_time=Timestamp(seconds=second),
        rules_digest=rules_digest,
    ).SerializeToString()


def _said(said: RuleVerdict) -> bytes:
    silent, before, after = _of_rule(said.rule)
    if said.failed:
        message = rule_verdict_to_proto(said)
        return recognition_pb.Decision(rules=[message]).SerializeToString()
    if not said.satisfied_by:
        return silent
    ids = b"".join([embedded(_ATTESTATION_IDS, str(id_).encode()) for id_ in said.satisfied_by])
    return embedded(_RULES, before + ids + after)


@functools.lru_cache(maxsize=1024)
def _of_rule(rule: Rule) -> tuple[bytes, bytes, bytes]:
    """What is said of a rule that is not satisfied; and, where it is, before and after the ids."""
    silent = recognition_pb.Decision(rules=[rule_verdict_to_proto(RuleVerdict(rule, ()))])
    before = recognition_pb.RuleVerdict(
        rule_id=rule.id, colour=colour_to_proto(rule.colour), satisfied=True
    )
    after = recognition_pb.RuleVerdict(reason=text_to_proto(rule.reason))
    return silent.SerializeToString(), before.SerializeToString(), after.SerializeToString()


def _evidence(piece: Evidence) -> bytes:
    attestation = piece.attestation
    signed = embedded(_SIGNED, piece.signed) if piece.signed else b""
    shown = embedded(_ATTESTATION, signed + (_shown(attestation) if attestation else b""))
    return embedded(_EVIDENCE, shown + _judged(piece.verdict, piece.sent_by))


def _shown(attestation: Attestation) -> bytes:
    """The view of an attestation, without its signed bytes; it is made once."""
    shown = attestation.made.get(_shown)
    if shown is None:
        shown = attestation_to_proto(b"", attestation).SerializeToString()
        attestation.made[_shown] = shown
    return shown


@functools.lru_cache(maxsize=1024)
def _remedy(remedy: Remedy) -> bytes:
    return recognition_pb.Decision(remedies=[remedy_to_proto(remedy)]).SerializeToString()


@functools.lru_cache(maxsize=1024)
def _judged(verdict: Verdict, sent_by: str) -> bytes:
    return recognition_pb.Evidence(
        verdict=f"VERDICT_{verdict.value}", sent_by=sent_by
    ).SerializeToString()


def remedy_to_proto(remedy: Remedy) -> recognition_pb.Remedy:
    """One way to a green as its message."""
    return recognition_pb.Remedy(
        action=f"REMEDY_ACTION_{remedy.action.value}",
        rule_id=remedy.rule.id,
        kind=f"KIND_{remedy.kind.value}" if remedy.kind else None,
        from_time=time_to_proto(remedy.from_time) if remedy.from_time else None,
        text=text_to_proto(remedy.text),
    )


@functools.lru_cache(maxsize=1024)
def rule_verdict_to_proto(said: RuleVerdict) -> recognition_pb.RuleVerdict:
    """What one rule said: mostly the same, holder after holder. To be copied, never changed."""
    return recognition_pb.RuleVerdict(
        rule_id=said.rule.id,
        colour=colour_to_proto(said.rule.colour),
        satisfied=bool(said.satisfied_by),
        attestation_ids=[str(id_) for id_ in said.satisfied_by],
        reason=text_to_proto(said.rule.reason),
        failed=said.failed,
    )


@functools.lru_cache(maxsize=1024)
def _answer(answer: ProvinceAnswer) -> bytes:
    """What one province answered: mostly the same too, until it is heard from."""
    message = recognition_pb.ProvinceAnswer(
        province=answer.province,
        state=f"ANSWER_STATE_{answer.state.value}",
        attestations=answer.attestations,
        as_of_time=time_to_proto(answer.as_of) if answer.as_of else None,
        calls=answer.calls,
        circuit_open=answer.circuit_open,
    )
    return recognition_pb.Decision(answers=[message]).SerializeToString()


def colour_to_proto(colour: Colour) -> str:
    """The name of a colour in the contract."""
    return f"COLOUR_{colour.value}"


def text_to_proto(text: Text) -> types_pb2.LocalText:
    """A text in both languages as its message."""
    return types_pb2.LocalText(zh=text.zh, en=text.en)


def versions_to_proto(versions: Versions) -> trust_pb.TrustVersions:
    """Versions of trust metadata as their message."""
    return trust_pb.TrustVersions(
        root=versions.root,
        timestamp=versions.timestamp,
        snapshot=versions.snapshot,
        roles=dict(versions.roles),
    )


def versions_from_proto(message: trust_pb.TrustVersions) -> Versions:
    """Versions of trust metadata from their message."""
    return Versions(message.root, message.timestamp, message.snapshot, dict(message.roles))


def files_to_proto(files: Files) -> list[trust_pb.MetadataFile]:
    """Metadata files as messages."""
    return [trust_pb.MetadataFile(name=name, content=data) for name, data in files.items()]


def files_from_proto(messages: Iterable[trust_pb.MetadataFile]) -> dict[str, bytes]:
    """Metadata files from their messages."""
    return {message.name: message.content for message in messages}
