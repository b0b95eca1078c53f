"""Rules of recognition (互认规则): a province's public conditions, written in CEL.

An expression sees ``fact`` (``kind`` and the fields of its kind, times as timestamps, absent ones
missing), ``holder.document_type``, ``origin`` (the issuing province's code, or the country's of a
foreign certificate) and ``now``; for instance
``fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")``.
`exchange.expressions` says what it may cost.

A colour comes from a rule that holds, never from the want of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from uuid import UUID

from exchange import expressions
from exchange.attestations import Holder
from exchange.expressions import Expression, RuleError
from exchange.facts import FACTS, Colour, Fact, Fitness, Kind, TestResult, fact_fields
from exchange.provinces import PROVINCES
from exchange.subjects import DocumentType
from exchange.texts import Text

if TYPE_CHECKING:
    import cel

__all__ = ["MOST_RULES", "MOST_SYMBOLS", "Known", "Rule", "RuleBook", "RuleError"]

MOST_RULES: Final = 200
"""Rules of one province."""
MOST_SYMBOLS: Final = 4000
"""Names, values and signs of all its expressions: asking them all takes less than 2 ms."""

_VARIABLES = frozenset({"fact", "holder", "origin", "now"})
_FIELDS = ("id", "kinds", "colour", "when", "reason", "valid_from")
_OPTIONAL = ("version", "valid_until", "origins")
_ID = re.compile(r"[a-z0-9-]{1,40}")
# ISO 3166-1 alpha-2, by its form: the EU's certificates also bear codes that it leaves to users.
_COUNTRY = re.compile(r"[A-Z]{2}")
_ANY_COUNTRY = "*"
_LONGEST_REASON = 200
_LONGEST_TEXT = 300
"""Characters of a fact's longest text, by the contract."""
_MOST_ORIGINS = 300
_Value = TypeVar("_Value")


class Known(Protocol):
    """What rules are asked about: an attestation, or a fact in a health code."""

    @property
    def id(self) -> UUID:
        """The attestation's id."""

    @property
    def fact(self) -> Fact:
        """The fact."""

    @property
    def province(self) -> str:
        """Where it comes from: a province's code, or a country's."""

    @property
    def holder(self) -> Holder:
        """Whom it is about."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and the colour that it gives.

    :param version: counts up where the province changes the rule under its id.
    :param valid_until: from when on it holds no longer; None: it has no end.
    :param origins: where a fact must come from: codes of provinces, countries (ISO 3166-1 alpha-2)
        and ``*``, any country; None: any province of the exchange, and no country.
    """

    id: str
    kinds: frozenset[Kind]
    colour: Colour
    when: str
    reason: Text
    valid_from: datetime
    version: int = 1
    valid_until: datetime | None = None
    origins: frozenset[str] | None = None

    def __hash__(self) -> int:
        """Hash it by what tells rules apart: views of what a rule said are looked up by it."""
        return hash((self.id, self.version, self.when))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rule:
        """Read a rule of a profile.

        :param value: ``id`` (1 to 40 of a–z, 0–9 and ``-``), ``kinds``, ``colour``, ``when``,
            ``reason`` (``zh``, ``en``; 1 to 200 characters each), ``valid_from`` (RFC 3339) and,
            where they are not as a `Rule` has them by default, ``version``, ``valid_until``,
            ``origins``. Any other field is refused: passed over, it could have been what makes
            the rule narrower.
        :raises RuleError: a field is missing, wrong or unknown; names it.
        """
        name = _id(value)
        unknown = value.keys() - {*_FIELDS, *_OPTIONAL}
        if unknown:
            raise RuleError(
                "unknown field",
                field=f"rules[{name}].{_shown(min(map(str, unknown)))}",
                remedy=f"a rule has {', '.join((*_FIELDS, *_OPTIONAL))}",
            )

        def read(field: str, reader: Callable[[Any], _Value], remedy: str) -> _Value:
            try:
                return reader(value[field])
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                message = "missing" if field not in value else str(error.args[0])
                raise RuleError(message, field=f"rules[{name}].{field}", remedy=remedy) from None

        def may(field: str, reader: Callable[[Any], _Value], remedy: str) -> _Value | None:
            return read(field, reader, remedy) if field in value else None

        times = "a time with its offset, such as 2022-01-10T00:00:00+08:00"
        rule = cls(
            id=name,
            kinds=read("kinds", _kinds, f"a list of one or more of {', '.join(Kind)}"),
            colour=read("colour", _colour, "GREEN, YELLOW or RED"),
            when=read("when", _text, "an expression in CEL"),
            reason=read("reason", _reason, "zh and en, one line of 1 to 200 characters each"),
            valid_from=read("valid_from", _moment, times),
            version=may("version", _version, "a whole number from 1") or 1,
            valid_until=may("valid_until", _moment, times),
            origins=may("origins", _origins, 'provinces\' codes, countries such as "FR", or "*"'),
        )
        if rule.valid_until is not None and rule.valid_until <= rule.valid_from:
            raise RuleError(
                "not after valid_from",
                field=f"rules[{name}].valid_until",
                remedy="leave a rule out that never holds",
            )
        return rule

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in a profile; without what it has by default."""
        value: dict[str, Any] = {
            "id": self.id,
            "kinds": sorted(kind.value for kind in self.kinds),
            "colour": self.colour.value,
            "when": self.when,
            "reason": {"zh": self.reason.zh, "en": self.reason.en},
            "valid_from": _written(self.valid_from),
        }
        if self.version != 1:
            value["version"] = self.version
        if self.valid_until is not None:
            value["valid_until"] = _written(self.valid_until)
        if self.origins is not None:
            value["origins"] = sorted(self.origins)
        return value

    def in_force(self, now: datetime) -> bool:
        """Whether it holds at a time: from ``valid_from`` on and before ``valid_until``."""
        return self.valid_from <= now and (self.valid_until is None or now < self.valid_until)

    def covers(self, origin: str) -> bool:
        """Whether it speaks of facts that come from there; of a foreign one only by ``origins``."""
        if self.origins is None:
            return origin in PROVINCES
        if _COUNTRY.fullmatch(origin):
            return origin in self.origins or _ANY_COUNTRY in self.origins
        return origin in self.origins and origin in PROVINCES


def _shown(text: str) -> str:
    """What somebody wrote, as it may stand in an error: one short line."""
    return ascii(text)[1:-1][:40]


def _id(value: Mapping[str, Any]) -> str:
    if not isinstance(value, Mapping):
        raise RuleError("not an object", field="rules", remedy="a rule is a table of fields")
    if "id" not in value:
        raise RuleError("missing", field="rules.id")
    name = value["id"]
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise RuleError(
            "not an id",
            field=f"rules[{_shown(str(name))}].id",
            remedy="it has 1 to 40 of the characters a-z, 0-9 and -",
        )
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _kinds(value: Any) -> frozenset[Kind]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    if not value:
        raise ValueError("must not be empty")
    for each in value:
        if each not in list(Kind):
            raise ValueError("no kind of fact")
    return frozenset(map(Kind, value))


def _colour(value: Any) -> Colour:
    if value not in list(Colour) or value == Colour.UNSPECIFIED:
        raise ValueError("no colour that a rule can give")
    return Colour(value)


def _reason(value: Any) -> Text:
    if not isinstance(value, Mapping):
        raise TypeError("not a text in two languages")
    if value.keys() != {"zh", "en"}:
        raise ValueError("not in the two languages zh and en")
    text = Text(_text(value["zh"]), _text(value["en"]))
    for words in text:
        # Not printable: a line break or a bidirectional control would disturb what a gate reads.
        if not words.strip() or len(words) > _LONGEST_REASON or not words.isprintable():
            raise ValueError("empty, too long or not one printable line")
    return text


def _moment(value: Any) -> datetime:
    """A time with its offset: a local one would be another moment on another machine."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    return moment.astimezone(UTC)


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _version(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ValueError("not a version")
    return value


def _origins(value: Any) -> frozenset[str]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    if not 1 <= len(value) <= _MOST_ORIGINS:
        raise ValueError(f"not 1 to {_MOST_ORIGINS} origins")
    for each in map(_text, value):
        # CN is no foreign country: whoever means the exchange's provinces gives their codes.
        country = _COUNTRY.fullmatch(each) is not None and each != "CN"
        if each not in PROVINCES and each != _ANY_COUNTRY and not country:
            raise ValueError("neither a province nor a foreign country")
    return frozenset(value)


@dataclass(slots=True)
class _Asked:
    """The rules that speak of one kind, and what they ask for: handing CEL more costs time."""

    programs: list[tuple[Rule, cel.Program]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)

    def add(self, rule: Rule, program: cel.Program, expression: Expression) -> None:
        self.programs.append((rule, program))
        self.names.update(program.variables())
        self.fields |= expression.fields


class RuleBook:
    """A province's rules, compiled and tried.

    Every rule is run on loading over a sample of each kind that it applies to, so that one that
    asks for a field that is not there is refused here and not at a gate.

    :raises RuleError: a rule is wrong; names it.
    """

    def __init__(self, rules: Iterable[Mapping[str, Any]]) -> None:
        self.rules = tuple(Rule.from_json(rule) for rule in _bounded(rules))
        self._asked = {kind: _Asked() for kind in Kind}
        self._expressions: dict[str, Expression] = {}
        self.size = 0
        """How much there is to ask: names, values and signs."""
        for rule in self.rules:
            if rule.id in self._expressions:
                raise RuleError("stands twice", field=f"rules[{rule.id}].id")
            program, expression = _compile(rule)
            self._expressions[rule.id] = expression
            for kind in rule.kinds:
                self._asked[kind].add(rule, program, expression)
            self.size += expression.size
            # At once, because to compile the others takes a second.
            if self.size > MOST_SYMBOLS:
                raise RuleError(
                    f"cost too much: more than {MOST_SYMBOLS} names, values and signs",
                    field="rules",
                    remedy="write fewer or shorter ones",
                )
        canonical = json.dumps(
            [rule.to_json() for rule in self.rules],
            ensure_ascii=False,
            separators=(",", ":"),
            sort_keys=True,
        )
        self.digest = hashlib.sha256(canonical.encode()).digest()
        """The rules' version: SHA-256 of ``Rule.to_json`` of each in their order, as JSON with
        sorted keys and no spaces, in UTF-8."""

    def expression(self, rule: Rule) -> Expression:
        """What is known of the expression of a rule of this book."""
        return self._expressions[rule.id]

    def tells_origins_apart(self, rule: Rule) -> bool:
        """Whether it matters to a rule of this book from which province a fact comes."""
        return rule.origins is not None or self._expressions[rule.id].origin

    def evaluate(self, known: Known, now: datetime) -> list[tuple[Rule, bool | None]]:
        """What each rule that speaks of the fact says of it at a time.

        A rule speaks of its kinds, of facts from its origins, and while it is in force.

        :returns: the rule and whether it holds; None where it could not be evaluated, which must
            never count as a pass.
        """
        asked = self._asked[known.fact.kind]
        if not asked.programs:
            return []
        import cel  # noqa: PLC0415 - as in `_compile`

        origin = known.province
        context = cel.Context(_variables(asked, known.fact, known.holder, origin, now))
        return [
            (rule, _run(program, context))
            for rule, program in asked.programs
            if rule.in_force(now) and rule.covers(origin)
        ]


def _bounded(rules: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    listed = list(rules)
    if len(listed) > MOST_RULES:
        raise RuleError(
            f"{len(listed)} rules, and {MOST_RULES} may be",
            field="rules",
            remedy="join rules of one colour with ||",
        )
    return listed


def _variables(
    asked: _Asked, fact: Fact, holder: Holder, origin: str, now: datetime
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in asked.fields:
        value = getattr(fact, name, None)
        # A text that nobody may publish is not there: CEL copies it as often as a rule names it.
        if value is not None and not (type(value) is str and len(value) > _LONGEST_TEXT):
            values[name] = value
    variables: dict[str, Any] = {"fact": values, "origin": origin}
    if "now" in asked.names:
        variables["now"] = now
    if "holder" in asked.names:
        variables["holder"] = {"document_type": holder.document_type}
    return variables


def _run(program: cel.Program, context: cel.Context) -> bool | None:
    # The binding raises many kinds of exception: KeyError, TypeError, ValueError, RuntimeError.
    try:
        result = program.execute(context)
    except Exception:  # noqa: BLE001
        return None
    return result if isinstance(result, bool) else None


def _compile(rule: Rule) -> tuple[cel.Program, Expression]:
    field = f"rules[{rule.id}].when"
    if len(rule.when) > expressions.LONGEST:
        raise RuleError(f"longer than {expressions.LONGEST} characters", field=field)
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
    expression = expressions.read(rule.when, field=field)
    _check_fields(rule, expression, field)
    _try(rule, program, expression, field)
    return program, expression


def _fields_of(kind: Kind) -> set[str]:
    return {"kind", *(known.name for known in fact_fields(FACTS[kind]))}


def _check_fields(rule: Rule, expression: Expression, field: str) -> None:
    """Refuse a field that a fact of none of the kinds has; of one kind, trying the rule tells."""
    there = set().union(*map(_fields_of, rule.kinds))
    if unknown := expression.fields - there:
        raise _no_field(min(unknown), sorted(rule.kinds), field)


def _no_field(name: str, kinds: list[Kind], field: str) -> RuleError:
    has = "; ".join(f"{kind.value} has {', '.join(sorted(_fields_of(kind)))}" for kind in kinds)
    return RuleError(
        f"{' or '.join(kind.value for kind in kinds)} has no field {_shown(name)!r}",
        field=field,
        remedy=has,
    )


def _try(rule: Rule, program: cel.Program, expression: Expression, field: str) -> None:
    import cel  # noqa: PLC0415 - as in `_compile`

    asked = _Asked()
    asked.add(rule, program, expression)
    holder = Holder("", DocumentType.RESIDENT_ID, "")
    now = datetime(2020, 3, 1, tzinfo=UTC)
    for kind in sorted(rule.kinds):
        for fact in _samples(FACTS[kind], now - timedelta(hours=1)):
            context = cel.Context(_variables(asked, fact, holder, "510000", now))
            if _run(program, context) is not None:
                continue
            if unknown := expression.fields - _fields_of(kind):
                raise _no_field(min(unknown), [kind], field)
            raise RuleError(
                f"gives no yes or no for a {kind.value}",
                field=field,
                remedy="an optional field may be absent: ask `has(fact.field)` first",
            )


def _samples(fact: type[Fact], at: datetime) -> list[Fact]:
    """A fact of the kind for every value of its choice, with and without what is optional."""
    choices = next(
        (f.type for f in fact_fields(fact) if f.type in (TestResult, Fitness, Colour)), None
    )
    samples: list[Fact] = []
    for whole in (True, False):
        for choice in list(choices) if choices else [None]:
            values: dict[str, Any] = {}
            for known in fact_fields(fact):
                if known.required or whole:
                    values[known.name] = _sample_value(known.type, choice, at)
            samples.append(fact(**values))
    return samples


def _sample_value(type_: type, choice: Any, at: datetime) -> Any:
    if type_ is datetime:
        return at
    if type_ is str:
        return "x"
    return {bool: True, int: 1}.get(type_, choice)
