"""What each province publishes of itself (省级资料), as it lies in ``nodes/provinces/CODE.toml``.

::

    name_zh = "广东省"          # as in exchange.provinces
    name_en = "Guangdong"

    [[apps]]                    # its health-code apps (健康码应用), the chief one first
    id = "yuekangma"
    zh = "粤康码"
    en = "Yuekang Code"

    [[rules]]                   # its rules of recognition (互认规则); without any, the national
    id = "nat-48h"              # ones hold: nodes/provinces/national.toml
    ...

Beside a file with rules lies a table of cases that they are tested by: ``CODE.cases.csv``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.errors import InvalidFieldError
from exchange.provinces import province as known_province
from exchange.rules import Rule
from exchange.trust.profile import App

__all__ = ["FOLDER", "NATIONAL", "Published", "published", "published_rules"]

FOLDER = Path(__file__).with_name("provinces")
NATIONAL = "national.toml"


@dataclass(frozen=True, slots=True)
class Published:
    """What one province publishes.

    :param apps: its apps, the chief one first.
    :param rules: its rules as JSON, as they stand in a profile.
    :param own_rules: whether they are its own; else they are the national ones.
    """

    province: str
    apps: tuple[App, ...]
    rules: tuple[dict[str, Any], ...]
    own_rules: bool


def published(province: str) -> Published:
    """Read what a province publishes.

    :raises UnknownProvinceError: there is no such province.
    :raises InvalidFieldError: its file is another province's; names the field.
    :raises TongxingError: an app or a rule in it is wrong; names it.
    """
    known = known_province(province)
    document = _load(f"{known.code}.toml")
    for field, name in (("name_zh", known.zh), ("name_en", known.en)):
        if document.get(field) != name:
            raise InvalidFieldError(f"{known.code} is {name}", field=field)
    own = document.get("rules", ())
    return Published(
        province=known.code,
        apps=tuple(
            App.from_json(app, f"apps[{index}]") for index, app in enumerate(document["apps"])
        ),
        rules=_as_json(own or _load(NATIONAL)["rules"]),
        own_rules=bool(own),
    )


def published_rules(province: str) -> tuple[dict[str, Any], ...]:
    """The rules that a province publishes as JSON: its own, or the national ones.

    :raises TongxingError: as for `published`.
    """
    return published(province).rules


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def _as_json(rules: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(Rule.from_json(rule).to_json() for rule in rules)
