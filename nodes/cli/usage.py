"""Wrong usage of the command line, in one line of both languages.

What stands on the command line is told in typer's own words; here it is said in Chinese too, and
which ``--help`` shows more.
"""

from __future__ import annotations

from typing import Final

import typer

from exchange.errors import InvalidFieldError

__all__ = ["WrongUsageError", "is_help", "wrong_usage"]

_CHINESE: Final = {
    "No such option": "没有这一选项",
    "No such command": "没有这一命令",
    "Missing argument": "缺少参数",
    "Missing option": "缺少选项",
    "Missing parameter": "缺少参数",
    "Invalid value": "取值无效",
    "Got unexpected extra": "参数过多",
    "Option": "选项缺少取值",
}
"""By how typer's words begin."""


class WrongUsageError(InvalidFieldError):
    """A command was not typed as its ``--help`` says."""

    zh = "用法有误"


def is_help(error: typer.TyperException) -> bool:
    """Whether this is the help of a command that was typed without its verb."""
    return type(error).__name__ == "NoArgsIsHelpError"  # as typer itself tells


def wrong_usage(error: typer.TyperException) -> WrongUsageError:
    """What typer refuses, as an error like all others."""
    said = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    if said.startswith("Got unexpected extra"):
        said = said.partition(" (")[0]  # what is too much may be somebody's number
    zh = next((zh for begin, zh in _CHINESE.items() if said.startswith(begin)), "")
    path = getattr(getattr(error, "ctx", None), "command_path", "tongxing")
    return WrongUsageError(f"{zh} {said}".strip(), remedy=f"见 see {path} --help")
