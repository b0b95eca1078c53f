"""Rules of recognition (互认规则): a province's public conditions, written in CEL.

An expression sees ``fact`` (``kind`` and the fields of its kind, times as timestamps, absent ones
missing), ``holder.document_type``, ``origin`` (the issuing province's code) and ``now``; for
instance ``fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")``.

A colour comes from a rule that holds, never from the want of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from exchange.attestations import Attestation
from exchange.errors import InvalidFieldError
from exchange.facts import FACTS, Colour, Fact, Fitness, Kind, TestResult, fact_fields
from exchange.texts import Text

if TYPE_CHECKING:
    import cel

__all__ = ["Rule", "RuleBook", "RuleError"]

_VARIABLES = frozenset({"fact", "holder", "origin", "now"})
_LONGEST = 2000


class RuleError(InvalidFieldError):
    """A rule does not compile, or asks for what is not there."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and the colour that it gives."""

    id: str
    kinds: frozenset[Kind]
    colour: Colour
    when: str
    reason: Text
    valid_from: datetime

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rule:
        """Read a rule of a profile.

        :param value: ``id``, ``kinds``, ``colour``, ``when``, ``reason`` (``zh``, ``en``) and
            ``valid_from`` (RFC 3339).
        :raises RuleError: a field is missing or wrong; names it.
        """
        try:
            name = str(value["id"])
        except KeyError:
            raise RuleError("missing", field="rules.id") from None
        field = "?"
        try:
            field = "kinds"
            kinds = frozenset(Kind(kind) for kind in value["kinds"])
            field = "colour"
            colour = Colour(value["colour"])
            field = "when"
            when = str(value["when"])
            field = "reason"
            reason = Text(str(value["reason"]["zh"]), str(value["reason"]["en"]))
            field = "valid_from"
            valid_from = _moment(value["valid_from"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise RuleError("missing or wrong", field=f"rules[{name}].{field}") from None
        if not kinds or colour is Colour.UNSPECIFIED:
            field = "colour" if kinds else "kinds"
            raise RuleError("must not be empty", field=f"rules[{name}].{field}")
        return cls(name, kinds, colour, when, reason, valid_from)

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in a profile."""
        return {
            "id": self.id,
            "kinds": sorted(kind.value for kind in self.kinds),
            "colour": self.colour.value,
            "when": self.when,
            "reason": {"zh": self.reason.zh, "en": self.reason.en},
            "valid_from": self.valid_from.isoformat().replace("+00:00", "Z"),
        }


def _moment(value: Any) -> datetime:
    """A time with its offset: a local one would be another moment on another machine."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    return moment.astimezone(UTC)


class RuleBook:
    """A province's rules, compiled and tried.

    Every rule is run on loading over a sample of each kind that it applies to, so that one that
    asks for a field that is not there is refused here and not at a gate.

    :raises RuleError: a rule is wrong; names it.
    """

    def __init__(self, rules: Iterable[Mapping[str, Any]]) -> None:
        self.rules = tuple(Rule.from_json(rule) for rule in rules)
        self._programs: dict[Kind, list[tuple[Rule, cel.Program]]] = {kind: [] for kind in Kind}
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise RuleError("stands twice", field=f"rules[{rule.id}].id")
            seen.add(rule.id)
            program = _compile(rule)
            for kind in rule.kinds:
                self._programs[kind].append((rule, program))

    def evaluate(self, attestation: Attestation, now: datetime) -> list[tuple[Rule, bool | None]]:
        """What each rule for the attestation's kind says of it at a time.

        :returns: the rule and whether it holds; None where it could not be evaluated, which must
            never count as a pass.
        """
        programs = self._programs[attestation.fact.kind]
        if not programs:
            return []
        import cel  # noqa: PLC0415 - as in `_compile`

        context = cel.Context(
            _variables(
                attestation.fact,
                attestation.holder.document_type.value,
                attestation.province,
                now,
            )
        )
        return [
            (rule, _run(program, context)) for rule, program in programs if rule.valid_from <= now
        ]


def _variables(fact: Fact, document_type: str, origin: str, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": fact.kind.value}
    for field in fact_fields(type(fact)):
        value = getattr(fact, field.name)
        if value is not None:
            values[field.name] = str(value) if isinstance(value, str) else value
    return {
        "fact": values,
        "holder": {"document_type": document_type},
        "origin": origin,
        "now": now,
    }


def _run(program: cel.Program, context: cel.Context) -> bool | None:
    # The binding raises many kinds of exception: KeyError, TypeError, ValueError, RuntimeError.
    try:
        result = program.execute(context)
    except Exception:  # noqa: BLE001
        return None
    return result if isinstance(result, bool) else None


def _compile(rule: Rule) -> cel.Program:
    field = f"rules[{rule.id}].when"
    if len(rule.when) > _LONGEST:
        raise RuleError(f"longer than {_LONGEST} characters", field=field)
    # It brings a command line of its own, 0.1 s that who compiles no rule need not wait for.
    import cel  # noqa: PLC0415

    try:
        program = cel.compile(rule.when)
    except ValueError as error:
        raise RuleError(f"does not compile: {str(error).splitlines()[0]}", field=field) from None
    unknown = set(program.variables()) - _VARIABLES
    if unknown:
        raise RuleError(
            f"unknown name {min(unknown)!r}",
            field=field,
            remedy=f"use {', '.join(sorted(_VARIABLES))}",
        )
    now = datetime(2020, 3, 1, tzinfo=UTC)
    for kind in sorted(rule.kinds):
        for fact in _samples(FACTS[kind], now - timedelta(hours=1)):
            result = _run(program, cel.Context(_variables(fact, "RESIDENT_ID", "510000", now)))
            if result is None:
                raise RuleError(
                    f"gives no yes or no for a {kind.value}",
                    field=field,
                    remedy="an optional field may be absent: ask `has(fact.field)` first",
                )
    return program


def _samples(fact: type[Fact], at: datetime) -> list[Fact]:
    """A fact of the kind for every value of its choice, with and without what is optional."""
    choices = next(
        (f.type for f in fact_fields(fact) if f.type in (TestResult, Fitness, Colour)), None
    )
    samples: list[Fact] = []
    for whole in (True, False):
        for choice in list(choices) if choices else [None]:
            values: dict[str, Any] = {}
            for field in fact_fields(fact):
                if field.required or whole:
                    values[field.name] = _sample_value(field.type, choice, at)
            samples.append(fact(**values))
    return samples


def _sample_value(type_: type, choice: Any, at: datetime) -> Any:
    if type_ is datetime:
        return at
    if type_ is str:
        return "x"
    return {bool: True, int: 1}.get(type_, choice)
