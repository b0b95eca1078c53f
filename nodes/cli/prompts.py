"""What a command asks for rather than finding it in the shell's history."""

from __future__ import annotations

import sys

import typer

from exchange.errors import InvalidFieldError

__all__ = ["document_number"]


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
