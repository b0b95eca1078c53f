"""Rules as a province writes them, for the tests."""

from __future__ import annotations

from typing import Any


def rule(id: str, kinds: str, colour: str, when: str, **changes: Any) -> dict[str, Any]:  # noqa: A002 - a rule's own name for it
    """One rule.

    :param kinds: with spaces between.
    :param changes: other members, or others in place of the usual ones.
    """
    return {
        "id": id,
        "kinds": kinds.split(),
        "colour": colour,
        "when": when,
        "reason": {"zh": f"规则{id}", "en": f"the rule {id}"},
        "valid_from": "2020-03-01T00:00:00+08:00",
        **changes,
    }
