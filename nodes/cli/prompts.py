"""What a command asks for rather than finding it in the shell's history."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from exchange.errors import InvalidFieldError
from nodes.cli import files

if TYPE_CHECKING:
    from exchange.client import Document

__all__ = ["document", "document_number"]


def document(document_type: str, number: str | None) -> Document:
    """An identity document, its number as `document_number` has it.

    :raises InvalidFieldError: the type is unknown, or the number is missing or does not read.
    """
    row = {"document_type": document_type, "document_number": number or "0"}
    files.document_from_columns(row)  # before somebody is asked for the number
    return files.document_from_columns(row | {"document_number": document_number(number)})


def document_number(given: str | None) -> str:
    """The number of an identity document: as given, from standard input (``-``), or asked for.

    :raises InvalidFieldError: it was not given, and there is nobody to ask.
    """
    if given == "-":
        return sys.stdin.readline().strip()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise InvalidFieldError(
            "is missing",
            field="document_number",
            remedy="give --document-number - and the number on standard input",
        )
    number: str = typer.prompt("Document number 证件号码", hide_input=True, err=True)
    return number.strip()
