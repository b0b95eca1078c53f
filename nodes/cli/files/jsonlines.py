"""JSON Lines: one `NewAttestation` in proto JSON a line."""

from __future__ import annotations

import codecs
import difflib
import functools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from exchange.errors import InvalidFieldError
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes.cli.files.lines import LIMIT, Lines, Reading

__all__ = ["attestation_from_json", "json_rows"]


def json_rows(file: BinaryIO) -> Iterator[Reading[pb.NewAttestation]]:
    """Give every line that is not blank, to be read when it is asked for."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    lines = Lines(file)
    while text := lines.next():
        line = lines.number
        lines.skip()
        if text.strip() or len(text) > LIMIT:
            yield line, functools.partial(attestation_from_json, text)


def attestation_from_json(text: bytes) -> pb.NewAttestation:
    """The attestation of a JSON object (proto JSON); without an id where it has none.

    :raises InvalidFieldError: the text does not read; ``field`` is the proto path.
    """
    if len(text) > LIMIT:
        raise InvalidFieldError(f"longer than {LIMIT} bytes", remedy="one attestation a line")
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise InvalidFieldError("is not UTF-8", remedy="save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidFieldError(
            f"is not JSON at character {error.pos + 1}: {error.msg}",
            remedy="write one whole JSON object a line",
        ) from None
    except (ValueError, RecursionError):
        raise InvalidFieldError(
            "a name stands twice in an object, a number is too long or the nesting too deep",
            remedy="write it by the contract: NewAttestation in proto JSON",
        ) from None
    if not isinstance(value, dict):
        raise InvalidFieldError("is not an object", remedy="write {…} with a NewAttestation")
    try:
        return json_format.ParseDict(value, pb.NewAttestation())
    except json_format.ParseError:
        # ParseError repeats values, numbers and names of people among them: look for the place.
        _refuse_json(value, pb.NewAttestation(), "")
        raise InvalidFieldError(
            "more than one kind of fact", field="fact", remedy="one fact an attestation"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _refuse_json(value: dict[str, Any], message: Message, path: str) -> None:
    """Raise for the first wrong field of the message at ``path``."""
    of_message = message.DESCRIPTOR.fields
    fields = {name: field for field in of_message for name in (field.name, field.json_name)}
    for name, part in value.items():
        field = fields.get(name)
        if field is None:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            raise InvalidFieldError(
                "holds a field that the contract does not know",
                field=path,
                remedy=f"did you mean {nearest[0]}?" if nearest else "leave it out",
            )
        place = f"{path}.{field.name}" if path else field.name
        inner = field.message_type
        if isinstance(part, dict) and inner is not None and inner.file is types_pb2.DESCRIPTOR:
            _refuse_json(part, GetMessageClass(inner)(), place)
        try:
            json_format.ParseDict({name: part}, type(message)())
        except json_format.ParseError:
            raise InvalidFieldError(
                "is not a value of this field", field=place, remedy=_remedy(field)
            ) from None


def _remedy(field: Any) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(value.name for value in field.enum_type.values[1:])
    if field.message_type is None:
        return "write a number" if field.type == field.TYPE_UINT32 else "write text in quotes"
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return "write RFC 3339: 2020-03-01T08:30:00+08:00"
    return "write an object: {…}"
