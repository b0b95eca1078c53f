"""Single claims, read strictly from a claims set: of one type, or a time in whole seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from exchange.errors import MalformedObjectError
from exchange.facts import from_seconds

__all__ = ["time", "typed"]

T = TypeVar("T")


def typed(claims: dict[Any, Any], label: int | str, name: str, type_: type[T]) -> T:
    """A claim of exactly one type: True is no int.

    :param name: as errors call the claim.
    :raises MalformedObjectError: it is missing, or of another type.
    """
    value = claims.get(label)
    if type(value) is not type_:
        what = "missing" if value is None else f"not {type_.__name__}"
        raise MalformedObjectError(what, field=name)
    return value


def time(claims: dict[Any, Any], label: int | str, name: str) -> datetime:
    """A claim that is a time, UTC.

    :param name: as errors call the claim.
    :raises MalformedObjectError: it is not whole seconds between 1970 and 9999.
    """
    try:
        return from_seconds(claims.get(label))
    except ValueError as error:
        raise MalformedObjectError(str(error), field=name) from None
