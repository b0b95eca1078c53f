"""What the expression of a rule (互认规则) may say: a small, safe part of CEL.

Rules come from other provinces and run at every gate, so what one may cost is bounded before it
first runs: its length and nesting; no macros that loop (``all``, ``exists``, ``exists_one``,
``map``, ``filter``), no regular expressions, and no function but those of `FUNCTIONS`. What is
left takes time in proportion to its length. Strings are plain, one line and without backslashes,
and there are no comments and maps: so this reading and the compiler's cannot differ.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from exchange.errors import InvalidFieldError

__all__ = ["DEEPEST", "FUNCTIONS", "LONGEST", "MOST_SYMBOLS", "Expression", "RuleError", "read"]

LONGEST: Final = 2000
"""Characters of an expression."""
MOST_SYMBOLS: Final = 400
"""Names, values and signs of an expression: what bounds the time that it takes."""
DEEPEST: Final = 16
"""How deep its brackets may nest."""

FUNCTIONS: Final = frozenset(
    {
        *("has", "size", "duration", "timestamp", "string", "int", "double"),
        *("contains", "startsWith", "endsWith"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
"""The functions that an expression may call."""

_SYMBOL: Final = re.compile(
    r"""\s+
    | (?P<text>"[^"\\\n\r]*"|'[^'\\\n\r]*')
    | (?P<number>0[xX][0-9a-fA-F]+u?|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?u?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||[=!<>]=|/(?!/)|[-<>!?:()\[\],.+*%])
    """,
    re.VERBOSE,
)
_LOOPS: Final = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter", "bind"})
# Where `now` stands in one of these alone, the rule's answer changes only at the times that they
# name: a time of the fact, such a time and a duration, or a fixed time.
_START: Final = r"(?:(?<= \( )|(?<= && )|(?<= \|\| )|(?<= \? )|(?<= : ))"
_END: Final = r"(?= (?:[)?:]|&&|\|\|) )"
_FIELD, _SPAN, _FIXED = r"fact \. \w+", r"duration \( \S+ \)", r"timestamp \( \S+ \)"
_COMPARE: Final = r"(?:<=|<|>=|>|==|!=)"
_SIDES: Final = (
    (rf"now - {_FIELD}", _SPAN),
    (rf"now - {_SPAN}", _FIELD),
    (rf"{_FIELD} \+ {_SPAN}", "now"),
    (_FIELD, "now"),
    (_FIXED, "now"),
)


_Value = TypeVar("_Value")


class RuleError(InvalidFieldError):
    """A rule does not compile, costs too much, or asks for what is not there."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What is known of an expression without running it.

    :param size: its names, values and signs.
    :param fields: the fields of the fact that it asks for.
    :param origin: whether it asks where the fact comes from.
    :param spans: the durations that stand in it.
    :param times: the fixed times that stand in it.
    :param steady: whether its answer changes with time only at times of the fact, with or without
        one of ``spans`` added, and at ``times``.
    """

    size: int
    fields: frozenset[str]
    origin: bool
    spans: tuple[timedelta, ...]
    times: tuple[datetime, ...]
    steady: bool


def read(when: str, *, field: str) -> Expression:
    """Check an expression that compiles and tell what it rests on.

    :param field: the field that an error names.
    :raises RuleError: it may cost too much, or says what a rule may not.
    """
    if len(when) > LONGEST:
        raise RuleError(f"longer than {LONGEST} characters", field=field)
    symbols = _symbols(when, field)
    _check_nesting(symbols, field)
    _check_calls(symbols, field)
    return Expression(
        size=len(symbols),
        fields=_fields(symbols, field),
        origin="origin" in symbols,
        spans=_values("duration", timedelta, symbols),
        times=_values("timestamp", datetime, symbols),
        steady=_steady(symbols),
    )


def _symbols(when: str, field: str) -> list[str]:
    symbols: list[str] = []
    kind, at = "", 0
    while at < len(when):
        found = _SYMBOL.match(when, at)
        if found is None:
            raise RuleError(
                f"holds what a rule cannot say, at character {at + 1}",
                field=field,
                remedy="write strings on one line without backslashes, no comments and no maps",
            )
        at = found.end()
        if found.lastgroup is None:
            continue
        if found.lastgroup == "text" and kind in ("text", "name") and symbols[-1] != "in":
            # A prefix or a threefold quote: it would end elsewhere for the compiler than here.
            raise RuleError(
                "holds a string of another form", field=field, remedy="write it as \"…\" or '…'"
            )
        kind = found.lastgroup
        symbols.append(found.group())
    if len(symbols) > MOST_SYMBOLS:
        raise RuleError(
            f"costs too much: {len(symbols)} names, values and signs, and {MOST_SYMBOLS} may be",
            field=field,
            remedy="make two rules of it",
        )
    return symbols


def _check_nesting(symbols: Sequence[str], field: str) -> None:
    depth = 0
    for symbol in symbols:
        depth += (symbol in "([") - (symbol in ")]") if len(symbol) == 1 else 0
        if depth > DEEPEST:
            raise RuleError(
                f"costs too much: nests deeper than {DEEPEST}",
                field=field,
                remedy="make two rules of it",
            )


def _check_calls(symbols: Sequence[str], field: str) -> None:
    for name, following in itertools.pairwise(symbols):
        if following != "(" or not name.isidentifier() or name in FUNCTIONS or name == "in":
            continue
        if name in _LOOPS:
            raise RuleError(
                f"costs too much: {name!r} is a loop",
                field=field,
                remedy="write the cases out with || and &&, or as `x in [a, b]`",
            )
        if name == "matches":
            raise RuleError(
                "costs too much: 'matches' is a regular expression",
                field=field,
                remedy="use startsWith, endsWith, contains, == or `x in [a, b]`",
            )
        raise RuleError(
            f"unknown function {name!r}", field=field, remedy=f"use {', '.join(sorted(FUNCTIONS))}"
        )


def _fields(symbols: Sequence[str], field: str) -> frozenset[str]:
    """The fields of ``fact``; of the holder there is one alone."""
    fields = set()
    for at, symbol in enumerate(symbols):
        if symbol not in ("fact", "holder") or (at and symbols[at - 1] == "."):
            continue
        name = symbols[at + 2] if symbols[at + 1 : at + 2] == ["."] else ""
        if not name.isidentifier():
            raise RuleError(
                f"asks for the whole of {symbol!r}",
                field=field,
                remedy=f"name the field: {symbol}.name, or has({symbol}.name)",
            )
        if symbol == "fact":
            fields.add(name)
        elif name != "document_type":
            raise RuleError(
                f"a holder has no field {name!r}", field=field, remedy="use holder.document_type"
            )
    return frozenset(fields)


def _values(call: str, type_: type[_Value], symbols: Sequence[str]) -> tuple[_Value, ...]:
    """What ``duration("48h")`` and the like in the expression are."""
    import cel  # noqa: PLC0415 - as in `exchange.rules`

    found: dict[Any, None] = {}
    for at, symbol in enumerate(symbols[:-2]):
        if symbol == call and symbols[at + 1] == "(" and symbols[at + 2][0] in "\"'":
            try:
                value = cel.evaluate(f"{call}({symbols[at + 2]})")
                if isinstance(value, datetime):
                    value = value.astimezone(UTC)
            except Exception:  # noqa: BLE001, S112 - as `rules._run`; or too far to be waited for
                continue
            if isinstance(value, type_):
                found[value] = None
    return tuple(found)


_STEADY: Final = re.compile(
    "|".join(
        f"{_START}{one} {_COMPARE} {other}{_END}"
        for left, right in _SIDES
        for one, other in ((left, right), (right, left))
    )
)


def _steady(symbols: Sequence[str]) -> bool:
    if "now" not in symbols:
        return True
    # A string may hold spaces and signs: for this question it is one word.
    said = " ".join('"x"' if symbol[0] in "\"'" else symbol for symbol in symbols)
    return "now" not in _STEADY.sub("_", f" ( {said} ) ").split()
