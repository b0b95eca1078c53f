"""Rules of recognition (互认规则): a province's public conditions, written in CEL.

An expression sees ``fact`` (``kind`` and the fields of its kind, times as timestamps, absent ones
missing), ``holder.document_type``, ``origin`` (the issuing province's code, or the country's of a
foreign certificate) and ``now``; for instance
``fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("48h")``.
`exchange.expressions` says what it may cost.

A colour comes from a rule that holds, never from the want of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from uuid import UUID

from exchange import expressions
from exchange.attestations import Holder
from exchange.expressions import Expression, RuleError, shown
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
# By its form alone: the codes in use change, and what a peer published must go on being read.
_COUNTRY = re.compile(r"[A-Z]{2}")
_ANY_COUNTRY = "*"
_LONGEST_REASON = 200
_LONGEST_TEXT = 300
"""Characters of a fact's longest text, by the contract."""
_MOST_ORIGINS = 300
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
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
    def from_json(cls, value: Mapping[str, Any], *, place: int = 1) -> Rule:
        """Read a rule of a profile.

        :param value: ``id`` (1 to 40 of a–z, 0–9 and ``-``), ``kinds``, ``colour``, ``when``,
            ``reason`` (``zh``, ``en``; 1 to 200 characters each), ``valid_from`` (RFC 3339) and,
            where they are not as a `Rule` has them by default, ``version``, ``valid_until``,
            ``origins``. Any other field is refused: passed over, it could have been what makes
            the rule narrower.
        :param place: which one of its list it is, from 1: names one without an id.
        :raises RuleError: a field is missing, wrong or unknown; names it.
        """
        name = _id(value, place)
        unknown = value.keys() - {*_FIELDS, *_OPTIONAL}
        if unknown:
            raise RuleError(
                Text("没有这个字段", "unknown field"),
                field=f"rules[{name}].{shown(min(map(str, unknown)))}",
                way=Text(
                    f"规则的字段有 {'、'.join((*_FIELDS, *_OPTIONAL))}",
                    f"a rule has {', '.join((*_FIELDS, *_OPTIONAL))}",
                ),
            )

        def read(field: str, reader: Callable[[Any], _Value], way: Text) -> _Value:
            try:
                return reader(value[field])
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                said, *better = error.args if field in value else (Text("缺少", "missing"),)
                if not isinstance(said, Text):
                    said, better = Text("不合规", str(said)), []
                raise RuleError(
                    said, field=f"rules[{name}].{field}", way=better[0] if better else way
                ) from None

        def may(field: str, reader: Callable[[Any], _Value], way: Text) -> _Value | None:
            return read(field, reader, way) if field in value else None

        times = Text(
            "写带时差的时间，如 2022-01-10T00:00:00+08:00",
            "a time with its offset, such as 2022-01-10T00:00:00+08:00",
        )
        rule = cls(
            id=name,
            kinds=read(
                "kinds",
                _kinds,
                Text(
                    f"写一个或几个：{'、'.join(Kind)}",
                    f"a list of one or more of {', '.join(Kind)}",
                ),
            ),
            colour=read("colour", _colour, Text("写 GREEN、YELLOW 或 RED", "GREEN, YELLOW or RED")),
            when=read("when", _text, Text("写一个 CEL 表达式", "an expression in CEL")),
            reason=read(
                "reason",
                _reason,
                Text(
                    "写 zh 和 en，各一行，1至200个字符",
                    "zh and en, one line of 1 to 200 characters each",
                ),
            ),
            valid_from=read("valid_from", _moment, times),
            version=may("version", _version, Text("写从1起的整数", "a whole number from 1")) or 1,
            valid_until=may("valid_until", _moment, times),
            origins=may(
                "origins",
                _origins,
                Text(
                    f'写{_A_PROVINCE.zh}、{_A_COUNTRY.zh}或 "*"（任何国家）',
                    f'{_A_PROVINCE.en}, {_A_COUNTRY.en}, or "*" for any country',
                ),
            ),
        )
        if rule.valid_until is not None and rule.valid_until <= rule.valid_from:
            raise RuleError(
                Text("不晚于 valid_from", "not after valid_from"),
                field=f"rules[{name}].valid_until",
                way=Text("永不生效的规则请删去", "leave a rule out that never holds"),
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


def _id(value: Mapping[str, Any], place: int) -> str:
    if not isinstance(value, Mapping):
        raise RuleError(
            Text(f"第{place}条不是规则", f"rule {place} is not an object"),
            field="rules",
            way=Text("规则写作 [[rules]] 下的字段", "a rule is a table of fields: [[rules]]"),
        )
    way = Text(
        '写1至40个 a-z、0-9 或 -，如 id = "nat-48h"；中文名称写在 reason.zh',
        'write 1 to 40 of the characters a-z, 0-9 and -, such as id = "nat-48h"; '
        "its name in Chinese goes into reason.zh",
    )
    if "id" not in value:
        raise RuleError(
            Text(f"第{place}条规则缺少编号", f"missing in rule {place}, counted from the first"),
            field="rules.id",
            way=way,
        )
    name = value["id"]
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise RuleError(
            Text(f"第{place}条规则的编号不合规", f"not an id, in rule {place}"),
            field=f"rules[{shown(str(name))}].id",
            way=way,
        )
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(Text("不是文本", "not a text"))
    return value


def _kinds(value: Any) -> frozenset[Kind]:
    if not isinstance(value, list | tuple):
        raise TypeError(Text("不是列表", "not a list"))
    if not value:
        raise ValueError(Text("不能为空", "must not be empty"))
    for each in value:
        if each not in list(Kind):
            raise ValueError(Text("没有这种证明", "no kind of fact"))
    return frozenset(map(Kind, value))


def _colour(value: Any) -> Colour:
    if value not in list(Colour) or value == Colour.UNSPECIFIED:
        raise ValueError(Text("规则不能给出这种码色", "no colour that a rule can give"))
    return Colour(value)


def _reason(value: Any) -> Text:
    if not isinstance(value, Mapping):
        raise TypeError(Text("不是中英文两种文本", "not a text in two languages"))
    if value.keys() != {"zh", "en"}:
        raise ValueError(Text("不是 zh 和 en 两种文本", "not in the two languages zh and en"))
    text = Text(_text(value["zh"]), _text(value["en"]))
    for words in text:
        # Not printable: a line break or a bidirectional control would disturb what a gate reads.
        if not words.strip() or len(words) > _LONGEST_REASON or not words.isprintable():
            raise ValueError(
                Text(
                    "为空、过长，或不是一行可显示的文字",
                    "empty, too long or not one printable line",
                )
            )
    return text


def _moment(value: Any) -> datetime:
    """A time with its offset: a local one would be another moment on another machine."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(Text("不是时间", "not a time")) from None
    if moment.tzinfo is None:
        raise ValueError(Text("没有时差", "no offset from UTC"))
    return moment.astimezone(UTC)


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _version(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ValueError(Text("不是版本号", "not a version"))
    return value


def _origins(value: Any) -> frozenset[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(Text("不是列表", "not a list"))
    if not 1 <= len(value) <= _MOST_ORIGINS:
        raise ValueError(Text(f"不是1至{_MOST_ORIGINS}个来源", f"not 1 to {_MOST_ORIGINS} origins"))
    for each in map(_text, value):
        # CN is no foreign country: whoever means the exchange's provinces gives their codes.
        country = _COUNTRY.fullmatch(each) is not None and each != "CN"
        if each in PROVINCES or each == _ANY_COUNTRY or country:
            continue
        quoted = f'"{shown(each)}"'
        named = [of.code for of in PROVINCES.values() if each in (of.zh, of.zh[:-1], of.en)]
        if named or each == "CN" or each.isdigit():
            way = Text(f'六位代码 "{named[0]}"', f'"{named[0]}"') if named else _A_PROVINCE
            raise ValueError(
                Text(f"{quoted} 不是省级行政区代码", f"{quoted} is no province's code"),
                Text(f"写{way.zh}", f"write {way.en}"),
            )
        raise ValueError(
            Text(f"{quoted} 不是国家代码", f"{quoted} is no country's code"),
            Text(
                f"国家写{_A_COUNTRY.zh}，省写{_A_PROVINCE.zh}",
                f"write {_A_COUNTRY.en}; of a province, {_A_PROVINCE.en}",
            ),
        )
    return frozenset(value)


_A_PROVINCE: Final = Text('六位代码，如 "510000"', 'its six digits, such as "510000"')
_A_COUNTRY: Final = Text('两个大写字母，如 "DE"', 'two capital letters, such as "DE"')


@dataclass(slots=True)
class _Asked:
    """The rules that speak of one kind, and what they ask for: handing CEL more costs time."""

    programs: list[tuple[Rule, cel.Program]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    steady: bool = True
    spans: set[timedelta] = field(default_factory=lambda: {timedelta()})
    times: set[datetime] = field(default_factory=set)

    def add(self, rule: Rule, program: cel.Program, expression: Expression) -> None:
        self.programs.append((rule, program))
        self.names.update(program.variables())
        self.fields |= expression.fields
        self.steady = self.steady and expression.steady
        self.spans.update(expression.spans)
        self.times.update(expression.times)


class RuleBook:
    """A province's rules, compiled and tried.

    Every rule is run on loading over a sample of each kind that it applies to, so that one that
    asks for a field that is not there is refused here and not at a gate.

    :raises RuleError: a rule is wrong; names it.
    """

    def __init__(self, rules: Iterable[Mapping[str, Any]]) -> None:
        self.rules = tuple(
            Rule.from_json(rule, place=place) for place, rule in enumerate(_bounded(rules), 1)
        )
        self._asked = {kind: _Asked() for kind in Kind}
        self._expressions: dict[str, Expression] = {}
        self.size = 0
        """How much there is to ask: names, values and signs."""
        for rule in self.rules:
            if rule.id in self._expressions:
                raise RuleError(
                    Text("编号重复", "stands twice"),
                    field=f"rules[{rule.id}].id",
                    way=Text(
                        "给其中一条另起编号，或删去一条；改动规则时编号不变、version 加1",
                        "give one of the two another id, or delete it; "
                        "a rule that changes keeps its id and counts `version` up",
                    ),
                )
            program, expression = _compile(rule)
            self._expressions[rule.id] = expression
            for kind in rule.kinds:
                self._asked[kind].add(rule, program, expression)
            self.size += expression.size
            # At once, because to compile the others takes a second.
            if self.size > MOST_SYMBOLS:
                raise RuleError(
                    Text(
                        f"开销过大：合计超过{MOST_SYMBOLS}个名称、值和符号",
                        f"cost too much: more than {MOST_SYMBOLS} names, values and signs",
                    ),
                    field="rules",
                    way=Text("减少或缩短规则", "write fewer or shorter ones"),
                )
        bounds = ((rule.valid_from, rule.valid_until) for rule in self.rules)
        self._changes = {each for pair in bounds for each in pair if each is not None}
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

    def steady(self, fact: Fact, now: datetime) -> tuple[datetime, datetime]:
        """Between which times nothing changes of what the rules in force say of a fact.

        :returns: the end of the time before and the begin of the time after; at these themselves
            another answer may hold. The same time twice where nothing can be said.
        """
        asked = self._asked[fact.kind]
        if not asked.steady:
            return now, now
        after, before = _FIRST, _LAST
        for change in (*self._changes, *asked.times, *_moments(asked, fact)):
            if change < now:
                after = max(after, change)
            elif change > now:
                before = min(before, change)
            else:
                return now, now
        return after, before

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


def _moments(asked: _Asked, fact: Fact) -> Iterator[datetime]:
    """The times of a fact, with and without each duration that a rule names."""
    for name in asked.fields:
        time = getattr(fact, name, None)
        if isinstance(time, datetime):
            for span in asked.spans:
                with contextlib.suppress(OverflowError):  # nobody lives to see it
                    yield time + span


def _bounded(rules: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    listed = list(rules)
    if len(listed) > MOST_RULES:
        raise RuleError(
            Text(
                f"有{len(listed)}条规则，最多{MOST_RULES}条",
                f"{len(listed)} rules, and {MOST_RULES} may be",
            ),
            field="rules",
            way=Text("码色相同的规则用 || 合并", "join rules of one colour with ||"),
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
    result = _outcome(program, context)
    return result if isinstance(result, bool) else None


def _outcome(program: cel.Program, context: cel.Context) -> object:
    """What it gives, or the exception that it ends with."""
    # The binding raises many kinds of exception: KeyError, TypeError, ValueError, RuntimeError.
    try:
        return program.execute(context)
    except Exception as error:  # noqa: BLE001
        return error


def _compile(rule: Rule) -> tuple[cel.Program, Expression]:
    field = f"rules[{rule.id}].when"
    if len(rule.when) > expressions.LONGEST:
        raise expressions.too_long(field)
    # It brings a command line of its own, 0.1 s that who compiles no rule need not wait for.
    import cel  # noqa: PLC0415

    try:
        program = cel.compile(rule.when)
    except ValueError as error:
        raise expressions.fault_of_syntax(rule.when, str(error), field=field) from None
    expression = expressions.read(rule.when, field=field)
    unknown = set(program.variables()) - _VARIABLES
    if unknown:
        name = min(unknown)
        known = ", ".join(sorted(_VARIABLES))
        raise RuleError(
            Text(f"没有名称 {shown(name)}", f"unknown name {name!r}"),
            field=field,
            way=Text(
                f'可用 {known.replace(", ", "、")}；文字要加引号："{shown(name)}"',
                f'use {known}; or, where a text is meant, put it in quotes: "{shown(name)}"',
            ),
        )
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
    has = [(kind, sorted(_fields_of(kind))) for kind in kinds]
    return RuleError(
        Text(
            f"{'或'.join(kind.text.zh for kind in kinds)}没有字段 {shown(name)}",
            f"{' or '.join(kind.value for kind in kinds)} has no field {shown(name)!r}",
        ),
        field=field,
        way=Text(
            "；".join(f"{kind.text.zh}有 {'、'.join(names)}" for kind, names in has),
            "; ".join(f"{kind.value} has {', '.join(names)}" for kind, names in has),
        ),
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
            outcome = _outcome(program, context)
            if not isinstance(outcome, bool):
                raise _no_answer(outcome, fact, expression, field)


def _no_answer(outcome: object, fact: Fact, expression: Expression, field: str) -> RuleError:
    """Why an expression gives no yes or no for a fact, in the likeliest words."""
    kind = fact.kind
    if unknown := expression.fields - _fields_of(kind):
        return _no_field(min(unknown), [kind], field)
    if expression.unreadable:
        return expressions.unreadable(expression.unreadable[0], field=field)
    if not isinstance(outcome, Exception):
        return RuleError(
            Text(
                f"对{kind.text.zh}得不出“是”或“否”，而是一个值",
                f"gives no yes or no for a {kind.value}, but a value",
            ),
            field=field,
            way=Text(
                '写成比较，如 fact.result == "NEGATIVE"',
                'compare it, for instance fact.result == "NEGATIVE"',
            ),
        )
    absent = [name for name in sorted(expression.fields) if getattr(fact, name) is None]
    if absent:
        return RuleError(
            Text(
                f"{kind.text.zh}可以没有 {absent[0]}，这时得不出“是”或“否”",
                f"gives no yes or no for a {kind.value} without {absent[0]}",
            ),
            field=field,
            way=Text(
                f"先问 has(fact.{absent[0]}) &&",
                f"an optional field may be absent: ask `has(fact.{absent[0]}) && …` first",
            ),
        )
    return RuleError(
        Text(
            f"对{kind.text.zh}得不出“是”或“否”",
            f"gives no yes or no for a {kind.value}",
        ),
        field=field,
        way=Text(
            "同类相比：文字与文字，数与数，时间与时间，now - fact.sampled_at 与 duration",
            "compare like with like: texts, numbers, times; now - fact.sampled_at with a duration",
        ),
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
