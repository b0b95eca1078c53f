"""Text in the two languages of the exchange."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Text"]


class Text(NamedTuple):
    """The same words in Chinese and English."""

    zh: str
    en: str
