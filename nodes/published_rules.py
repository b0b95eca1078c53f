"""The rules of the other provinces (各地互认规则), compiled when somebody asks by them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from exchange.errors import InvalidFieldError, TrustListError
from exchange.rules import RuleBook
from exchange.trust.trustlist import TrustList

__all__ = ["PublishedRules"]

_Source = tuple[Mapping[str, object], ...]


class PublishedRules:
    """Compiles what a profile publishes, once as long as it stands; one book a province."""

    def __init__(self) -> None:
        self._books: dict[str, tuple[_Source, RuleBook]] = {}
        self._compiling = asyncio.Lock()

    async def of(self, province: str, trust: TrustList) -> RuleBook:
        """Give the rules of a province.

        :raises UnknownProvinceError: it takes no part.
        :raises TrustListError: what it published is not usable.
        """
        source = trust.profile(province).rules
        known = self._books.get(province)
        if known is None or known[0] != source:
            # In a thread, and one at a time: another province's rules must not hold up the loop.
            async with self._compiling:
                known = self._books.get(province)
                if known is None or known[0] != source:
                    known = source, await asyncio.to_thread(_compiled, province, source)
                    self._books[province] = known
        return known[1]


def _compiled(province: str, source: _Source) -> RuleBook:
    try:
        return RuleBook(source)
    except InvalidFieldError as error:
        raise TrustListError(
            f"the rules of {province} cannot be read: {error.message}",
            remedy="the province must publish its profile anew",
        ) from None
