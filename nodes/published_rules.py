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
    """Compiles what a profile publishes, once as long as it stands; one book a province.

    Once also where it does not compile, and where whoever asked is gone before it has: or a
    province's rules, or an app's deadlines, could keep the node compiling.
    """

    def __init__(self) -> None:
        self._books: dict[str, tuple[_Source, asyncio.Task[RuleBook | InvalidFieldError]]] = {}
        self._compiling = asyncio.Lock()

    async def of(self, province: str, trust: TrustList) -> RuleBook:
        """Give the rules of a province.

        :raises UnknownProvinceError: it takes no part.
        :raises TrustListError: what it published is not usable.
        """
        source = trust.profile(province).rules
        known = self._books.get(province)
        if known is None or known[0] != source or known[1].cancelled():
            known = self._books[province] = source, asyncio.create_task(self._compile(source))
        book = await asyncio.shield(known[1])
        if isinstance(book, InvalidFieldError):
            raise TrustListError(
                f"the rules of {province} cannot be read: {book.message}",
                remedy="the province must publish its profile anew",
            )
        return book

    async def _compile(self, source: _Source) -> RuleBook | InvalidFieldError:
        # In a thread, and one at a time: another province's rules must not hold up the loop.
        async with self._compiling:
            return await asyncio.to_thread(_compiled, source)


def _compiled(source: _Source) -> RuleBook | InvalidFieldError:
    try:
        return RuleBook(source)
    except InvalidFieldError as error:
        return error
