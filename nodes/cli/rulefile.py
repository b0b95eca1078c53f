"""Files of rules (规则文件): a province's TOML (`nodes.profiles`), or a profile in JSON.

What ``tongxing trust profile export`` writes is such a profile.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchange.errors import InvalidFieldError, TongxingError
from exchange.provinces import province
from nodes.cli.files import marks

if TYPE_CHECKING:
    from exchange.rules import RuleBook

__all__ = ["RuleFile", "compiled", "faults", "read", "warnings"]

_LARGEST = 1 << 20
_CODE = re.compile(r"[0-9]{6}")


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What a file holds, as it stands there.

    :param path: where the rules stand: of a province without rules of its own, the national file.
    :param own: whether the rules are those of the file that was named, not the national ones.
    :param rules: tables or objects, not checked yet.
    :param apps: likewise.
    """

    path: Path
    rules: list[Any]
    apps: list[Any]
    own: bool = True


def read(name: Path) -> RuleFile:
    """Read a file.

    :param name: a file; or a province's code, for the file of it that comes with the software.
    :raises UnknownProvinceError: it is neither a file nor a province's code.
    :raises InvalidFieldError: it cannot be read, or holds no rules.
    """
    path = name
    if not name.exists() and _CODE.fullmatch(str(name)):
        path = _shipped(province(str(name), field=str(name)).code)
    document = _document(path)
    apps = _list(document.get("apps", []), path, "apps")
    if "rules" in document:
        return RuleFile(path, _list(document["rules"], path, "rules"), apps)
    from nodes.profiles import NATIONAL

    national = path.with_name(NATIONAL)
    if not apps or not national.is_file():
        raise InvalidFieldError(
            "holds no rules", field=str(path), remedy="write [[rules]], or a profile's JSON"
        )
    rules = _list(_document(national).get("rules"), national, "rules")
    return RuleFile(national, rules, apps, own=False)


def faults(file: RuleFile) -> list[TongxingError]:
    """All that is wrong with its rules and apps; each error names the rule and its field."""
    from exchange import authoring
    from exchange.trust.profile import App

    found: list[TongxingError] = [*authoring.faults(file.rules)]
    for index, app in enumerate(file.apps):
        try:
            App.from_json(app, f"apps[{index}]")
        except TongxingError as error:
            found.append(error)
    return found


def warnings(book: RuleBook) -> list[TongxingError]:
    """The rules that are in order, and yet name what no certificate says or seem never to hold."""
    from exchange import authoring

    return [*authoring.warnings(book)]


def compiled(file: RuleFile) -> RuleBook:
    """Its rules, compiled.

    :raises RuleError: one is wrong; names the file and the rule.
    """
    from exchange import authoring

    try:
        return authoring.check(file.rules)
    except InvalidFieldError as error:
        raise error.at(file.path.name) from None


def _shipped(code: str) -> Path:
    from nodes.profiles import FOLDER

    return FOLDER / f"{code}.toml"


def _document(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidFieldError(error.strerror or "cannot be read", field=str(path)) from None
    if len(data) > _LARGEST:
        raise InvalidFieldError("larger than 1 MiB", field=str(path))
    try:
        text = data.decode()
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, data, error) from None
    if not isinstance(document, dict):
        raise InvalidFieldError("holds no rules", field=str(path))
    return document


def _unreadable(path: Path, data: bytes, error: Exception) -> InvalidFieldError:
    if path.suffix == ".json":
        return InvalidFieldError("不是 is not JSON", field=str(path))
    if not isinstance(error, tomllib.TOMLDecodeError):
        return InvalidFieldError("不是 is not TOML", field=str(path), remedy="save it as UTF-8")
    mark = marks.in_toml(data.decode())
    if mark is not None:
        return InvalidFieldError(mark.said, field=str(path), remedy=mark.way)
    return InvalidFieldError(f"不是 is not TOML: {error}", field=str(path))


def _list(value: Any, path: Path, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidFieldError(f"{name} are no list", field=str(path), remedy=f"write [[{name}]]")
    return value
