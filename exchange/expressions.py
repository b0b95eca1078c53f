"""What the expression of a rule (互认规则) may say: a small, safe part of CEL.

Rules come from other provinces and run at every gate, so what one may cost is bounded before it
first runs: its length and nesting; no macros that loop (``all``, ``exists``, ``exists_one``,
``map``, ``filter``), no regular expressions, and no function but those of `FUNCTIONS`. What is
left takes time in proportion to its length. Strings are plain, one line and without backslashes,
and there are no comments and maps: so this reading and the compiler's cannot differ.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from exchange.errors import InvalidFieldError
from exchange.texts import Text

__all__ = [
    "DEEPEST",
    "FUNCTIONS",
    "LONGEST",
    "MOST_SYMBOLS",
    "Comparison",
    "Expression",
    "RuleError",
    "fault_of_syntax",
    "read",
    "shown",
    "too_long",
    "unreadable",
]

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


# After these an operand is a part of a larger one; before those it goes on.
_BOUND_BEFORE: Final = frozenset({*"+-*/%!.", "==", "!=", "<", "<=", ">", ">=", "in"})
_BOUND_AFTER: Final = frozenset("+-*/%.[(")

_NOTHING: Final = Text("", "")


class RuleError(InvalidFieldError):
    """A rule does not compile, costs too much, or asks for what is not there.

    :param said: what is wrong; its English is the error's ``message``.
    :param way: what to do about it; its English is the error's ``remedy``.
    """

    def __init__(self, said: Text, *, field: str, way: Text = _NOTHING) -> None:
        super().__init__(said.en, field=field, remedy=way.en)
        self.said = said
        self.way = way


@dataclass(frozen=True, slots=True)
class Comparison:
    """A value that an expression compares something with, by ``==``, ``!=`` or ``in``.

    :param of: ``origin``, ``fact.result``, ``holder.document_type``.
    :param literal: as it stands there: ``"NEGATIVE"``, ``2``, ``true``.
    """

    of: str
    literal: str

    @property
    def text(self) -> str | None:
        """The string; None where the literal is none."""
        return self.literal[1:-1] if self.literal[0] in "\"'" else None


@dataclass(frozen=True, slots=True)
class Expression:
    """What is known of an expression without running it.

    :param size: its names, values and signs.
    :param fields: the fields of the fact that it asks for.
    :param origin: whether it asks where the fact comes from.
    :param holder: whether it asks for the holder's document.
    :param calls: the functions that it calls, and the signs ``*``, ``/`` and ``%`` in it.
    :param texts: the strings that stand in it.
    :param numbers: the whole numbers that stand in it.
    :param spans: the durations that stand in it.
    :param times: the fixed times that stand in it.
    :param unreadable: the durations and times in it that are none: ``duration("2d")``.
    :param comparisons: the values that it compares with.
    :param steady: whether its answer changes with time only at times of the fact, with or without
        one of ``spans`` added, and at ``times``.
    """

    size: int
    fields: frozenset[str]
    origin: bool
    holder: bool
    calls: frozenset[str]
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    spans: tuple[timedelta, ...]
    times: tuple[datetime, ...]
    unreadable: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    steady: bool


def read(when: str, *, field: str) -> Expression:
    """Check an expression that compiles and tell what it rests on.

    :param field: the field that an error names.
    :raises RuleError: it may cost too much, or says what a rule may not.
    """
    if len(when) > LONGEST:
        raise too_long(field)
    symbols = _symbols(when, field)
    _check_nesting(symbols, field)
    _check_calls(symbols, field)
    values = _values(symbols)
    return Expression(
        size=len(symbols),
        fields=_fields(symbols, field),
        origin="origin" in symbols,
        holder="holder" in symbols,
        calls=frozenset(_calls(symbols)) | {"*", "/", "%"} & set(symbols),
        texts=tuple(symbol[1:-1] for symbol in symbols if symbol[0] in "\"'"),
        numbers=tuple(int(symbol) for symbol in symbols if symbol.isdecimal()),
        spans=tuple(dict.fromkeys(each for each in values.values() if isinstance(each, timedelta))),
        times=_in_calendar(value for value in values.values() if isinstance(value, datetime)),
        unreadable=tuple(call for call, value in values.items() if value is None),
        comparisons=_comparisons(_without_needless_brackets(symbols)),
        steady=_steady(symbols),
    )


def too_long(field: str) -> RuleError:
    """The error of an expression that is longer than may be."""
    return RuleError(
        Text(f"超过{LONGEST}个字符", f"longer than {LONGEST} characters"),
        field=field,
        way=_MAKE_TWO,
    )


_MAKE_TWO: Final = Text("请拆成两条规则", "make two rules of it")
_MEANT: Final = {
    "=": "==",
    "and": "&&",
    "or": "||",
    "not": "!",
    "is": "==",
    "&": "&&",
    "|": "||",
    "＝": "==",
    "！": "!",
    "（": "(",
    "）": ")",
    "，": ",",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""What is written by mistake, and what it should be."""
_FAULT: Final = re.compile(r"<input>:(\d+):(\d+): (.*)")
_WORD: Final = re.compile(r"\w+|\S")


def fault_of_syntax(when: str, said: str, *, field: str) -> RuleError:
    """The error of an expression that does not compile, in plain words.

    :param said: the compiler's words.
    """
    found = _FAULT.search(said)
    lines = when.split("\n")
    line, column = (int(found[1]), int(found[2])) if found else (1, 1)
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    word = _WORD.match(rest.lstrip())
    part = shown(rest.strip())
    if found and "has() macro" in found[3]:
        way = Text("has 里写一个字段：has(fact.result_at)", "name a field: has(fact.result_at)")
    elif word and (meant := _MEANT.get(word[0])):
        way = Text(f"“{word[0]}”应写作 {meant}", f"write {meant} for {word[0]}")
    elif word is None and len(when.strip()) > 0:
        way = Text("末尾缺少值或括号", "a value or a bracket is missing")
    elif word is None:
        way = Text('例如 fact.result == "NEGATIVE"', 'for instance fact.result == "NEGATIVE"')
    elif word[0] in "\"'":
        way = Text(
            "字符串首尾要有引号，前面要有运算符",
            "a string has a quote at both ends, and == or the like before it",
        )
    else:
        way = Text(
            "条件之间用 && 或 || 连接，比较用 == != < <= > >= 或 in",
            "join conditions by && or ||, compare by == != < <= > >= or in",
        )
    return RuleError(
        Text(
            f"表达式第{line}行第{column}个字符起不能编译：{part or '（末尾）'}",
            f"does not compile at line {line}, character {column}: {part or '(its end)'}",
        ),
        field=field,
        way=way,
    )


_HOURS: Final = {
    **dict.fromkeys(("", "h", "hour", "hours", "时", "小时"), 1),
    **dict.fromkeys(("d", "day", "days", "天", "日"), 24),
    **dict.fromkeys(("w", "week", "weeks", "周"), 168),
}
_COUNTED: Final = re.compile(r"(\d{1,5})\s*([a-z]*|[天日周时小]+)", re.IGNORECASE)


def unreadable(call: str, *, field: str) -> RuleError:
    """The error of a duration or a time that is none.

    :param call: of `Expression.unreadable`: ``duration("2d")``.
    """
    if call.startswith("timestamp"):
        return RuleError(
            Text(f"{shown(call)} 不是时间", f"{shown(call)} is no time"),
            field=field,
            way=Text(
                '写作 timestamp("2022-01-10T00:00:00+08:00")',
                'write timestamp("2022-01-10T00:00:00+08:00")',
            ),
        )
    counted = _COUNTED.fullmatch(call[len("duration(") + 1 : -2].strip())
    hours = _HOURS.get(counted[2].lower()) if counted else None
    meant = f'duration("{int(counted[1]) * hours if counted and hours else 48}h")'
    return RuleError(
        Text(f"{shown(call)} 不是时长", f"{shown(call)} is no duration"),
        field=field,
        way=Text(
            f"时长用 h、m、s，没有“天”：{meant}",
            f"it is of hours, minutes and seconds (h, m, s), there are no days: {meant}",
        ),
    )


def shown(text: str) -> str:
    """What somebody wrote, as it may stand in an error: short, and without what cannot be seen."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:40]


def _symbols(when: str, field: str) -> list[str]:
    symbols: list[str] = []
    kind, at = "", 0
    while at < len(when):
        found = _SYMBOL.match(when, at)
        if found is None:
            raise RuleError(
                Text(
                    f"第{at + 1}个字符起不能用于规则：{shown(when[at:])}",
                    f"holds what a rule cannot say, at character {at + 1}",
                ),
                field=field,
                way=Text(
                    "字符串写在一行内、不用反斜杠，不用注释和映射",
                    "write strings on one line without backslashes, no comments and no maps",
                ),
            )
        at = found.end()
        if found.lastgroup is None:
            continue
        if found.lastgroup == "text" and kind in ("text", "name") and symbols[-1] != "in":
            # A prefix or a threefold quote: it would end elsewhere for the compiler than here.
            raise RuleError(
                Text("字符串的写法不对", "holds a string of another form"),
                field=field,
                way=Text("写作 \"…\" 或 '…'", "write it as \"…\" or '…'"),
            )
        kind = found.lastgroup
        symbols.append(found.group())
    if len(symbols) > MOST_SYMBOLS:
        raise RuleError(
            Text(
                f"开销过大：有{len(symbols)}个名称、值和符号，最多{MOST_SYMBOLS}个",
                f"costs too much: {len(symbols)} names, values and signs, "
                f"and {MOST_SYMBOLS} may be",
            ),
            field=field,
            way=_MAKE_TWO,
        )
    return symbols


def _check_nesting(symbols: Sequence[str], field: str) -> None:
    depth = 0
    for symbol in symbols:
        depth += (symbol in "([") - (symbol in ")]") if len(symbol) == 1 else 0
        if depth > DEEPEST:
            raise RuleError(
                Text(
                    f"开销过大：括号嵌套超过{DEEPEST}层",
                    f"costs too much: nests deeper than {DEEPEST}",
                ),
                field=field,
                way=_MAKE_TWO,
            )


def _check_calls(symbols: Sequence[str], field: str) -> None:
    for name in _calls(symbols):
        if name in FUNCTIONS:
            continue
        if name in _LOOPS:
            raise RuleError(
                Text(f"开销过大：{name} 是循环", f"costs too much: {name!r} is a loop"),
                field=field,
                way=Text(
                    "用 || 和 && 逐一写出，或写作 x in [a, b]",
                    "write the cases out with || and &&, or as `x in [a, b]`",
                ),
            )
        if name == "matches":
            raise RuleError(
                Text(
                    "开销过大：matches 是正则表达式",
                    "costs too much: 'matches' is a regular expression",
                ),
                field=field,
                way=Text(
                    "改用 startsWith、endsWith、contains、== 或 x in [a, b]",
                    "use startsWith, endsWith, contains, == or `x in [a, b]`",
                ),
            )
        raise RuleError(
            Text(f"没有函数 {name}", f"unknown function {name!r}"),
            field=field,
            way=Text(f"可用 {'、'.join(sorted(FUNCTIONS))}", f"use {', '.join(sorted(FUNCTIONS))}"),
        )


def _calls(symbols: Sequence[str]) -> list[str]:
    return [
        name
        for name, following in itertools.pairwise(symbols)
        if following == "(" and name.isidentifier() and name != "in"
    ]


def _fields(symbols: Sequence[str], field: str) -> frozenset[str]:
    """The fields of ``fact``; of the holder there is one alone."""
    fields = set()
    for at, symbol in enumerate(symbols):
        if symbol not in ("fact", "holder") or (at and symbols[at - 1] == "."):
            continue
        name = symbols[at + 2] if symbols[at + 1 : at + 2] == ["."] else ""
        if not name.isidentifier():
            known = "result" if symbol == "fact" else "document_type"
            raise RuleError(
                Text(f"不能用整个 {symbol}", f"asks for the whole of {symbol!r}"),
                field=field,
                way=Text(
                    f"写明字段：{symbol}.{known}，或 has({symbol}.{known})",
                    f"name the field: {symbol}.{known}, or has({symbol}.{known})",
                ),
            )
        if symbol == "fact":
            fields.add(name)
        elif name != "document_type":
            raise RuleError(
                Text(f"持码人没有字段 {name}", f"a holder has no field {name!r}"),
                field=field,
                way=Text("用 holder.document_type", "use holder.document_type"),
            )
    return frozenset(fields)


def _values(symbols: Sequence[str]) -> dict[str, Any]:
    """What each ``duration("48h")`` and the like in the expression is; None: it is none."""
    calls = (
        (symbol, symbols[at + 2])
        for at, symbol in enumerate(symbols[:-2])
        if symbol in ("duration", "timestamp")
        and symbols[at + 1] == "("
        and symbols[at + 2][0] in "\"'"
    )
    return {f"{call}({literal})": _value(call, literal) for call, literal in dict.fromkeys(calls)}


def _in_calendar(times: Iterable[datetime]) -> tuple[datetime, ...]:
    found = []
    for time in times:
        with contextlib.suppress(OverflowError):  # too far to be waited for
            found.append(time.astimezone(UTC))
    return tuple(dict.fromkeys(found))


def _value(call: str, literal: str) -> Any:
    import cel  # noqa: PLC0415 - as in `exchange.rules`

    try:
        return cel.evaluate(f"{call}({literal})")
    except Exception:  # noqa: BLE001 - as `rules._outcome`
        return None


def _without_needless_brackets(symbols: Sequence[str]) -> list[str]:
    """The symbols, ``(fact.result)`` and ``("x")`` without their brackets."""
    bare = list(symbols)
    at = 0
    while at < len(bare):
        inner = _operand(bare, at + 1) if bare[at] == "(" else 0
        called = at > 0 and bare[at - 1].isidentifier() and bare[at - 1] != "in"
        if inner and not called and bare[at + 1 + inner : at + 2 + inner] == [")"]:
            del bare[at + 1 + inner], bare[at]
            at = max(0, at - 1)
        else:
            at += 1
    return bare


def _comparisons(symbols: Sequence[str]) -> tuple[Comparison, ...]:
    found: dict[Comparison, None] = {}
    for at in range(len(symbols)):
        if at and symbols[at - 1] in _BOUND_BEFORE:
            continue
        operator = at + _operand(symbols, at)
        if operator == at or operator + 1 >= len(symbols):
            continue
        end = operator + 1 + _operand(symbols, operator + 1)
        if symbols[operator] in ("==", "!=") and end > operator + 1:
            if symbols[end : end + 1] and symbols[end] in _BOUND_AFTER:
                continue
            one, other = symbols[at:operator], symbols[operator + 1 : end]
            if _is_literal(one) != _is_literal(other):
                path, literal = (other, one) if _is_literal(one) else (one, other)
                found[Comparison("".join(path), "".join(literal))] = None
        elif symbols[operator : operator + 2] == ["in", "["]:
            path = symbols[at:operator]
            literals = [] if _is_literal(path) else _listed(symbols, operator + 2)
            found |= dict.fromkeys(Comparison("".join(path), literal) for literal in literals)
    return tuple(found)


def _operand(symbols: Sequence[str], at: int) -> int:
    """How many symbols a literal, ``origin`` or a field takes there; 0 for anything else."""
    first = symbols[at] if at < len(symbols) else ""
    if first in ("fact", "holder"):
        return 3 if at + 2 < len(symbols) else 0
    return int(first == "origin" or _is_literal([first]))


def _is_literal(symbols: Sequence[str]) -> bool:
    first = symbols[0]
    return first in ("true", "false") or (first != "" and first[0] in "\"'0123456789")


def _listed(symbols: Sequence[str], at: int) -> list[str]:
    """The literals of a list that begins there."""
    found = []
    while at + 1 < len(symbols) and symbols[at] != "]":
        whole = symbols[at - 1] in ("[", ",") and symbols[at + 1] in (",", "]")
        if whole and _is_literal(symbols[at : at + 1]):
            found.append(symbols[at])
        at += 1
    return found


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
