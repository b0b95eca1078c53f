"""Rules as their own province is held to them before it publishes them (规则编写检查).

A reader of another province's rules keeps to what was published, so `RuleBook` takes whatever can
be evaluated: were it stricter, a newer version of the software would stop honouring what the one
before it honoured. Whoever writes rules is told more: a value that no fact ever has makes a rule
that never holds or, with ``!=``, one that always does; and nobody would notice at a gate.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from exchange.attestations import LIFE, Holder
from exchange.countries import COUNTRIES, MEANT
from exchange.expressions import Comparison, Expression, shown, unreadable
from exchange.facts import FACTS, Colour, Fact, FactField, Kind, fact_fields
from exchange.provinces import PROVINCES
from exchange.rules import Rule, RuleBook, RuleError
from exchange.subjects import DocumentType
from exchange.texts import Text
from exchange.vaccines import EU_NAMES

__all__ = ["check", "check_values", "faults", "warnings"]

_MOST_TRIED: Final = 10_000
"""Facts of a kind that a rule is tried on, at 20 µs each."""
_FORESEEN: Final = frozenset({"has", "duration", "timestamp", "contains", "startsWith", "endsWith"})
"""Functions whose results the facts that are made up for a trial bring about."""


def check(rules: Iterable[Mapping[str, Any]]) -> RuleBook:
    """Compile a province's own rules.

    :raises RuleError: one is wrong for a `RuleBook`, or compares with what no fact ever has.
    """
    book = RuleBook(rules)
    check_values(book)
    return book


def check_values(book: RuleBook) -> None:
    """Look for origins and for comparisons with what no fact ever has.

    :raises RuleError: the first one.
    """
    for rule in book.rules:
        _check_origins(rule)
        _check_values(rule, book.expression(rule))


def faults(rules: Iterable[Mapping[str, Any]]) -> list[RuleError]:
    """The first fault of each rule; where there is none, the first that they have together."""
    listed = list(rules)
    found = []
    for place, value in enumerate(listed, 1):
        try:
            Rule.from_json(value, place=place)
            check([value])
        except RuleError as error:
            found.append(error)
    if not found:
        try:
            RuleBook(listed)
        except RuleError as error:
            found.append(error)
    return found


# --- values that no fact has ----------------------------------------------------------------


def _check_origins(rule: Rule) -> None:
    for code in sorted(rule.origins or ()):
        if code == "*" or code in PROVINCES or code in COUNTRIES:
            continue
        raise RuleError(
            Text(f'"{code}" 不是国家代码', f'"{code}" is no country\'s code'),
            field=f"rules[{rule.id}].origins",
            way=_country_meant(code),
        )


def _country_meant(code: str) -> Text:
    if meant := MEANT.get(code):
        return Text(f'是否应为 "{meant}"？', f'did you mean "{meant}"?')
    return Text(
        '写 ISO 3166-1 的两位字母代码，如 "DE"', 'write one of ISO 3166-1 alpha-2, such as "DE"'
    )


def _check_values(rule: Rule, expression: Expression) -> None:
    field = f"rules[{rule.id}].when"
    if expression.unreadable:
        raise unreadable(expression.unreadable[0], field=field)
    for comparison in expression.comparisons:
        if comparison.of == "origin":
            way = _not_an_origin(rule, comparison)
        else:
            way = _not_a_value(rule, comparison)
        if way is not None:
            raise RuleError(
                Text(
                    f"{comparison.of} 不会是 {shown(comparison.literal)}",
                    f"{comparison.of} is never {shown(comparison.literal)}",
                ),
                field=field,
                way=way,
            )


def _not_an_origin(rule: Rule, comparison: Comparison) -> Text | None:
    """What to write in place of an origin that is none; None where it is one."""
    code = comparison.text or ""
    if code in PROVINCES or (code in COUNTRIES and rule.covers(code)):
        return None
    if code in MEANT:
        return _country_meant(code)
    if code in COUNTRIES:
        return Text(
            f'先在规则中写 origins = ["{code}"]：没有它，规则只适用于各省的证明',
            f'name it in the rule\'s origins, ["{code}"]: without, it is about provinces alone',
        )
    names = {
        name: found.code
        for found in PROVINCES.values()
        for name in (found.code, found.zh, found.zh.rstrip("省市"), found.zh_short, found.en)
    }
    return _near(code, names) or Text(
        "写省级行政区的六位代码，如 510000", "write a province's six digits, such as 510000"
    )


def _not_a_value(rule: Rule, comparison: Comparison) -> Text | None:
    """What to write in place of a value that the field never has; None where it may have it."""
    types = _types(rule, comparison.of)
    if not types or any(_may_be(type_, comparison) for type_ in types):
        return None
    type_ = types[0]
    if issubclass(type_, StrEnum):
        names = {member.value: member.value for member in type_}
        names |= {word: member.value for member in type_ for word in _words(member)}
        near = _near(comparison.text or comparison.literal, names)
        known = [member.value for member in type_]
        listed = Text(f"可为 {'、'.join(known)}", f"it is one of {', '.join(known)}")
        return Text(f"{near.zh}{listed.zh}", f"{near.en} {listed.en}") if near else listed
    return _FORMS[type_]


def _types(rule: Rule, of: str) -> list[type]:
    if of == "holder.document_type":
        return [DocumentType]
    name = of.removeprefix("fact.")
    if name == "kind":
        return [Kind]
    fields = (field for kind in sorted(rule.kinds) for field in fact_fields(FACTS[kind]))
    return list(dict.fromkeys(field.type for field in fields if field.name == name))


def _may_be(type_: type, comparison: Comparison) -> bool:
    text, literal = comparison.text, comparison.literal
    if issubclass(type_, StrEnum):
        return text in list(type_)
    if type_ is str:
        return text is not None
    if type_ is bool:
        return literal in ("true", "false")
    return type_ is int and literal[0].isdigit()


_FORMS: Final = {
    str: Text("写作字符串：加引号", "it is a text: write it in quotes"),
    bool: Text("写 true 或 false，不加引号", "write true or false, without quotes"),
    int: Text("写整数，不加引号", "it is a whole number: write it without quotes"),
    datetime: Text(
        '写作 timestamp("2022-01-10T00:00:00+08:00")',
        'write timestamp("2022-01-10T00:00:00+08:00")',
    ),
}


def _words(member: StrEnum) -> list[str]:
    """A value in Chinese, where it has words: 红码, 红; and as EU certificates have it."""
    if isinstance(member, DocumentType):
        return [member.zh]
    if isinstance(member, Kind | Colour):
        return [member.text.zh, member.text.zh[:1]]
    return list(_RESULTS.get(member.value, ()))


_RESULTS: Final = {
    "NEGATIVE": ("阴性", "阴", "260415000"),
    "POSITIVE": ("阳性", "阳", "260373001"),
    "INCONCLUSIVE": ("无法判定",),
    "FIT": ("合格",),
    "UNFIT": ("不合格",),
    "FOLLOW_UP": ("复查",),
}


def _near(written: str, names: Mapping[str, str]) -> Text | None:
    for each in (written, written.upper(), written.title()):
        if found := difflib.get_close_matches(each.strip(), names, n=1, cutoff=0.6):
            meant = names[found[0]]
            return Text(f'是否应为 "{meant}"？', f'did you mean "{meant}"?')
    return None


# --- rules that never hold ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tried:
    """A fact that a rule is tried on: an `exchange.rules.Known`."""

    fact: Fact
    province: str
    holder: Holder

    @property
    def id(self) -> UUID:
        """An id; no rule sees it."""
        return UUID(int=0)


def warnings(book: RuleBook) -> list[RuleError]:
    """What is to be told of rules that are in order; never raised."""
    never = {rule: _never_holds(book, rule) for rule in book.rules}
    unread = [_read_otherwise(rule, code) for rule in book.rules for code in _codes(book, rule)]
    return [*unread, *(_holds_for_no(kinds, rule) for rule, kinds in never.items() if kinds)]


def _codes(book: RuleBook, rule: Rule) -> list[str]:
    """The EU's codes in a rule about vaccinations abroad that no fact has: they are read as names.

    A warning, for what a province publishes of its own may be called anything.
    """
    abroad = not PROVINCES.keys() >= (rule.origins or set())
    if not abroad or "product" not in book.expression(rule).fields:
        return []
    return [text for text in dict.fromkeys(book.expression(rule).texts) if text in EU_NAMES]


def _read_otherwise(rule: Rule, code: str) -> RuleError:
    return RuleError(
        Text(
            f'境外证书的 product 不会是 "{code}"',
            f'product is never "{code}" where it comes from a foreign certificate',
        ),
        field=f"rules[{rule.id}].when",
        way=Text(f'写 "{EU_NAMES[code]}"', f'write "{EU_NAMES[code]}"'),
    )


def _holds_for_no(kinds: list[Kind], rule: Rule) -> RuleError:
    return RuleError(
        Text(
            f"试不出使它成立的{'、'.join(kind.text.zh for kind in kinds)}",
            f"was found to hold for no {' and no '.join(kinds)}",
        ),
        field=f"rules[{rule.id}].when",
        way=Text(
            "检查条件是否相互矛盾，或从 kinds 中去掉这类证明",
            "look whether its conditions exclude each other, or take the kind out of its kinds",
        ),
    )


def _never_holds(book: RuleBook, rule: Rule) -> list[Kind]:
    """The kinds of a rule of a book for none of whose facts it was found to hold.

    Facts are made of every value that the expression names and of those beside it, as old as an
    attestation of the kind may be. That is no proof: a warning.

    :returns: nothing too where the rule rests on the hour of the day, a length or a product, or
        where there is more to try than would be waited for.
    """
    expression = book.expression(rule)
    if not expression.steady or expression.calls - _FORESEEN:
        return []
    alone = RuleBook([rule.to_json()])
    if not _moments(rule, expression):
        return []
    return [kind for kind in sorted(rule.kinds) if _holds(alone, rule, kind, expression) is False]


def _holds(alone: RuleBook, rule: Rule, kind: Kind, expression: Expression) -> bool | None:
    for count, (known, now) in enumerate(_tried(rule, kind, expression)):
        if count >= _MOST_TRIED:
            return None
        if any(holds for _, holds in alone.evaluate(known, now)):
            return True
    return False


def _tried(rule: Rule, kind: Kind, expression: Expression) -> Iterator[tuple[_Tried, datetime]]:
    asked = [field for field in fact_fields(FACTS[kind]) if field.name in expression.fields]
    given = {field.name: field for field in fact_fields(FACTS[kind]) if field.required}
    given |= {field.name: field for field in asked}
    for now in _moments(rule, expression):
        values = [_values(field, kind, now, expression) for field in given.values()]
        holders = itertools.product(_origins(rule, expression), _documents(expression))
        for (origin, document), *chosen in itertools.product(holders, *values):
            fact = FACTS[kind](
                **{name: each for name, each in zip(given, chosen, strict=True) if each is not None}
            )
            yield _Tried(fact, origin, Holder("", document, "")), now


def _moments(rule: Rule, expression: Expression) -> list[datetime]:
    second = timedelta(seconds=1)
    named = {rule.valid_from, *expression.times}
    if rule.valid_until is not None:
        named.add(rule.valid_until)
    # Facts are made that are older, and the calendar ends.
    sane = [at for at in named if 1970 <= at.year < 9999]
    beside = {at + step for at in sane for step in (-second, timedelta(), second)}
    return sorted(at for at in beside if rule.in_force(at))


def _values(field: FactField, kind: Kind, now: datetime, expression: Expression) -> list[Any]:
    if field.type is datetime:
        absent = [] if field.required else [None]
        return [*absent, *(now - age for age in _ages(kind, now, expression))]
    if field.name not in expression.fields:
        return _any(field.type)[:1]
    if field.type is int:
        beside = {number + step for number in (1, *expression.numbers) for step in (-1, 0, 1)}
        return sorted(number for number in beside if 0 < number < 1 << 32)
    if field.type is str:
        return ["x", "", *expression.texts, "".join(expression.texts)[:300]]
    return _any(field.type)


def _ages(kind: Kind, now: datetime, expression: Expression) -> list[timedelta]:
    second = timedelta(seconds=1)
    named = (*expression.spans, *(now - at for at in expression.times))
    ages = {timedelta(), timedelta(hours=1), LIFE[kind]}
    ages |= {age + step for age in named for step in (-second, timedelta(), second)}
    return sorted(age for age in ages if timedelta() <= age <= LIFE[kind])


def _any(type_: type) -> list[Any]:
    if issubclass(type_, StrEnum):
        return list(type_)
    found: dict[type, list[Any]] = {bool: [True, False], int: [1], str: ["x"]}
    return found[type_]


def _origins(rule: Rule, expression: Expression) -> list[str]:
    named = [each.text or "" for each in expression.comparisons if each.of == "origin"]
    others = PROVINCES if rule.origins is None else [*rule.origins - {"*"}, *PROVINCES, "DE"]
    covered = list(dict.fromkeys(each for each in (*named, *others) if rule.covers(each)))
    return covered if expression.origin else covered[:1]


def _documents(expression: Expression) -> list[DocumentType]:
    return list(DocumentType)[: None if expression.holder else 1]
