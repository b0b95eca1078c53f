"""Text in the two languages of the exchange."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Text"]


class Text(NamedTuple):
    """The same words in Chinese and English."""

    zh: str
    en: str

    def in_language(self, locale: str) -> str:
        """The words for a locale such as ``zh-CN`` or ``en``; English where it is neither."""
        return self.zh if locale.lower().startswith("zh") else self.en
