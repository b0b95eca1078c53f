"""The contract's own rules (protovalidate), as errors of the exchange."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message

from exchange.errors import InvalidFieldError

__all__ = ["check"]

_validator = protovalidate.Validator()


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
    raise InvalidFieldError(
        violation.message, field=path.removeprefix("."), remedy=f"rule {violation.rule_id}"
    )
