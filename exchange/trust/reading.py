"""Reading the JSON that the trust list carries: each reader names the field that is wrong."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import TrustListError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "read_hex",
    "read_list",
    "read_object",
    "read_text",
    "read_texts",
    "read_time",
    "write_time",
]

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")


def read_object(value: object, field: str) -> Mapping[str, Any]:
    """Read a JSON object.

    :raises TrustListError: it is none.
    """
    if not isinstance(value, dict):
        raise TrustListError("must be an object", field=field)
    return value


def read_list(value: object, field: str) -> list[object]:
    """Read a JSON array.

    :raises TrustListError: it is none.
    """
    if not isinstance(value, list):
        raise TrustListError("must be an array", field=field)
    return value


def read_text(value: object, field: str) -> str:
    """Read a string that is not empty.

    :raises TrustListError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise TrustListError("must be a string that is not empty", field=field)
    return value


def read_texts(value: object, field: str) -> tuple[str, ...]:
    """Read an array of strings that are not empty.

    :raises TrustListError: it is none.
    """
    items = enumerate(read_list(value, field))
    return tuple(read_text(item, f"{field}[{index}]") for index, item in items)


def read_hex(value: object, field: str, length: int) -> bytes:
    """Read bytes written as lower-case hexadecimal digits.

    :param length: how many bytes they must be.
    :raises TrustListError: they are not.
    """
    text = read_text(value, field)
    if len(text) != 2 * length or not _HEX.fullmatch(text):
        raise TrustListError(f"must be {2 * length} hexadecimal digits", field=field)
    return bytes.fromhex(text)


def read_time(value: object, field: str) -> datetime:
    """Read a time as in RFC 3339; in UTC.

    :raises TrustListError: it is none.
    """
    text = read_text(value, field)
    try:
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise TrustListError("must be a time as in RFC 3339", field=field)


def write_time(value: datetime) -> str:
    """Write a time as in RFC 3339, in UTC.

    :param value: an aware datetime.
    """
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
