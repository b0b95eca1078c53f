"""The contract's own rules (protovalidate), as errors of the exchange in plain words."""

from __future__ import annotations

from typing import Any, Final

import protovalidate
from google.protobuf.message import Message

from exchange.errors import InvalidFieldError

__all__ = ["check"]

_validator = protovalidate.Validator()

_WORDS: Final = {
    "required": ("缺失 is missing", "give it"),
    "string.uuid": ("不是 UUID not a UUID", "write it with hyphens (RFC 9562)"),
    "string.uuid_empty": ("缺失 is missing", "give a UUID"),
    "string.min_len": ("不足{0}个字符 shorter than {0} characters", "write more"),
    "string.max_len": ("超过{0}个字符 longer than {0} characters", "shorten it"),
    "string.max_bytes": ("超过{0}字节 longer than {0} bytes", "shorten it"),
    "string.in": ("没有这一取值 no such value", "one of {0}"),
    "bytes.len": ("不是{0}字节 not {0} bytes", "give it whole"),
    "bytes.min_len": ("不足{0}字节 shorter than {0} bytes", "give it whole"),
    "bytes.max_len": ("超过{0}字节 longer than {0} bytes", "give less"),
    "repeated.min_items": ("少于{0}项 fewer than {0}", "name more"),
    "repeated.max_items": ("超过{0}项 more than {0}", "ask in several calls"),
    "uint32.lte": ("大于{0} greater than {0}", "give a smaller number"),
    "uint32.gte_lte": ("数值超出范围 out of its range", "correct the number"),
    "map.max_pairs": ("超过{0}项 more than {0}", "give fewer"),
    "enum.not_in": ("未指明 not said", "choose a value of the contract"),
    "enum.defined_only": ("没有这一取值 no such value", "choose a value of the contract"),
}
"""By the rule's id: what is wrong, and the remedy; ``{0}`` is the rule's own value."""

_PATTERNS: Final = {
    "^[0-9]{6}$": ("不是六位行政区划代码 not six digits", "give a province's code, as 510000"),
    "^[0-9a-f]{16}$": ("不是密钥编号 not a key's id", "give its 16 digits, 0-9 and a-f"),
    "^[0-9A-HJ-NP-RT-UW-Y]{18}$": (
        "不是统一社会信用代码 not a credit code",
        "give its 18 digits and capital letters (GB 32100)",
    ),
}
"""Of a pattern."""


def check(request: Message) -> None:
    """Hold a request against the rules in the proto.

    :raises InvalidFieldError: the first rule that it breaks; names the field.
    """
    violations = _validator.collect_violations(request, fail_fast=True)
    if not violations:
        return
    violation = violations[0].proto
    path = ""
    if violation.field:
        for element in violation.field.elements:
            path += f".{element.field_name}"
            if element.subscript and element.subscript.field == "index":
                path += f"[{element.subscript.value}]"
    message, remedy = _words(violation.rule_id, violations[0].rule_value)
    raise InvalidFieldError(message, field=path.removeprefix("."), remedy=remedy)


def _words(rule: str, value: Any) -> tuple[str, str]:
    """What is wrong and the remedy; never a word of the value that is wrong."""
    if rule in {"string.min_len", "bytes.min_len"} and value == 1:
        return "为空 is empty", "give it"
    if rule == "string.pattern":
        return _PATTERNS.get(value, ("格式不符 not of its form", f"write it as {value}"))
    said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    message, remedy = _WORDS.get(rule, ("不符合约定 breaks a rule of the contract", f"rule {rule}"))
    return message.format(said), remedy.format(said)
